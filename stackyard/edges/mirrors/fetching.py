"""A fetch under way: metadata, then tarballs, each to its place once all that it names is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

from stackyard.binary import SPEC_BYTES, Binary, Blob, Metadata, parse_metadata
from stackyard.edges import console
from stackyard.edges.mirrors.destination import Destination, write_keys
from stackyard.edges.mirrors.indexing import write_index
from stackyard.edges.mirrors.transfer import SMALL, Progress, download, read_blob, write_part
from stackyard.edges.parallel import parallel_map
from stackyard.edges.stores.store import Store
from stackyard.errors import CorruptError, NotFoundError, StoreError
from stackyard.fetch import Delivery, FetchPlan, Missing, check_metadata, make_plan, refusal
from stackyard.lock import Spec
from stackyard.mirror import SPEC_MANIFESTS, V2_SPECS, Layout, manifest_hash

__all__ = ["WORKERS", "Fetching"]

WORKERS = 32
_LAYOUTS: tuple[Layout, ...] = (3, 2)


class Fetching:
    """One fetch under way: from a mirror into a folder. ``specs`` are all nodes of the lock."""

    def __init__(self, store: Store, destination: Destination, specs: Mapping[str, Spec]) -> None:
        self._store = store
        self._destination = destination
        self._specs = specs
        self._right: frozenset[str] = frozenset()
        self._wrong: frozenset[str] = frozenset()
        self._progress = Progress("fetch", 0, 0)
        self._metadata: dict[str, Metadata] = {}

    @property
    def size_bytes(self) -> int:
        """What came over the network so far, manifests aside."""
        return self._progress.size_bytes

    def plan(self, binaries: Sequence[Binary], missing: Sequence[Missing]) -> FetchPlan:
        """See what is here, and remove manifests of what is here and wrong."""
        binaries = self._in_layouts(binaries)
        stock = self._destination.check(
            {blob.key: blob for binary in binaries for blob in binary.blobs}.values(),
            {binary.key: binary.manifest for binary in binaries},
            tick=lambda done, total: console.bar("check", done, total),
        )
        self._right, self._wrong = stock
        if self._wrong:
            names = ", ".join(sorted(self._wrong)[:3])
            more = ", ..." if len(self._wrong) > 3 else ""
            console.warn(
                f"{len(self._wrong)} files here are not those of the mirror and are replaced: "
                f"{names}{more}"
            )
        # Whatever comes of this run: a binary that is damaged here is none.
        self._destination.forget(
            binary for binary in binaries if binary.key in self._right and self._is_wrong(binary)
        )
        return make_plan(self._store.url, binaries, missing, stock.right)

    def _in_layouts(self, binaries: Sequence[Binary]) -> Sequence[Binary]:
        """The same, with those of a registry as unsigned ones of layout 3."""
        images = [binary for binary in binaries if binary.layout == "oci"]
        if not images:
            return binaries
        answers = parallel_map(self._entry, images, workers=WORKERS)
        self._refuse(zip(images, answers, strict=True))
        entries = {one.hash: one for one in answers if isinstance(one, Binary)}
        return [entries.get(binary.hash, binary) for binary in binaries]

    def _entry(self, image: Binary) -> Binary | StoreError:
        """An image as a binary of layout 3, whose spec blob waits for the tarball."""
        from stackyard.oci import layout_3_entry

        assert image.spec  # noqa: S101 - the configuration of an image
        where = f"{self._store.url}/{image.spec.key}"
        with self._destination.working():
            try:
                data = read_blob(self._store, image.spec, max_bytes=SPEC_BYTES)
                metadata = parse_metadata(data, where)
                check_metadata(metadata, image, where)
            except (CorruptError, NotFoundError) as error:
                return _explained(error)
            entry = layout_3_entry(image, metadata, where)
            write_part(self._destination.part(entry.spec), entry.spec_data)
        return image._replace(
            layout=3,
            key=entry.key,
            manifest=entry.manifest,
            spec=entry.spec,
            signed=False,  # what was signed is the image
        )

    def _is_wrong(self, binary: Binary) -> bool:
        return any(blob.key in self._wrong for blob in binary.blobs)

    def bring(self, plan: FetchPlan) -> None:
        """Metadata first, all of them; then tarballs, each followed by what is complete with it."""
        blobs = {blob.key: blob for binary in plan.new for blob in binary.blobs}
        todo = [blob for key, blob in blobs.items() if key not in self._right]
        total = self._destination.make_room(todo)
        self._progress = Progress(
            "fetch", None if plan.size_bytes is None else total, len(plan.deliveries)
        )
        try:
            groups = _by_spec((*plan.here, *plan.new))
            answers = parallel_map(self._read, groups, workers=WORKERS)
            self._refuse(zip(chain(*groups), chain(*answers), strict=True))
            done = parallel_map(
                self._deliver, plan.deliveries, workers=WORKERS, tick=self._progress.tick
            )
            ended = zip(plan.deliveries, done, strict=True)
            self._refuse((one, answer) for delivery, answer in ended for one in delivery.binaries)
        finally:
            self._progress.close()

    def _refuse(self, answers: Iterable[tuple[Binary, Binary | StoreError | None]]) -> None:
        """Raise CorruptError that names all binaries with a problem, if there are any."""
        problems = {
            binary.hash: f"{answer.where}: {answer.message}"
            for binary, answer in answers
            if isinstance(answer, StoreError)
        }
        if problems:
            raise refusal(problems, self._specs, self._store.url)

    def _read(self, binaries: Sequence[Binary]) -> list[StoreError | None]:
        """Read the metadata that these binaries name, and say of which they are not."""
        where = f"{self._store.url}/{(binaries[0].spec or binaries[0]).key}"
        with self._destination.working():
            try:
                metadata = parse_metadata(self._spec(binaries[0]), where)
            except (CorruptError, NotFoundError) as error:
                return [self._refused(binary, error) for binary in binaries]
            return [self._checked(binary, metadata, where) for binary in binaries]

    def _checked(self, binary: Binary, metadata: Metadata, where: str) -> StoreError | None:
        try:
            check_metadata(metadata, binary, where)
        except CorruptError as error:
            return self._refused(binary, error)
        self._metadata[binary.hash] = self._shared(metadata)
        return None

    def _refused(self, binary: Binary, error: StoreError) -> StoreError:
        """The same error, after removing what an earlier run has left of the same binary."""
        if binary.key in self._right:
            self._destination.forget([binary])
        return _explained(error)

    def _shared(self, metadata: Metadata) -> Metadata:
        """The same, with the lock's own nodes for all that the spec depends on.

        Every binary repeats the nodes of all its dependencies, so each would be held many times.
        """
        own, *others = metadata.nodes
        known = [self._specs.get(str(node.get("hash"))) for node in others]
        shared = [
            spec.node if spec and spec.format == metadata.format else node
            for node, spec in zip(others, known, strict=True)
        ]
        return metadata._replace(nodes=(own, *shared))

    def _spec(self, binary: Binary) -> bytes:
        """The blob with the metadata, and a copy of it that waits for the tarball."""
        if binary.spec is None:
            return binary.manifest
        if binary.spec.key in self._right:
            return self._destination.store.read(binary.spec.key, max_bytes=SPEC_BYTES)
        if self._destination.is_begun(binary.spec):  # by an earlier run, or made of an image
            self._download(binary.spec)
            return self._destination.part(binary.spec).read_bytes()
        return self._read_whole(binary.spec, SPEC_BYTES)

    def _download(self, blob: Blob) -> None:
        """Get a blob into its unfinished file, the quick way where it is small and new."""
        small = blob.size_bytes is not None and blob.size_bytes <= SMALL
        if small and not self._destination.is_begun(blob):
            self._read_whole(blob, SMALL)
        else:
            part = self._destination.part(blob)
            download(self._store, blob, part, on_bytes=self._arrived)

    def _read_whole(self, blob: Blob, max_bytes: int) -> bytes:
        data = read_blob(self._store, blob, max_bytes=max_bytes)
        self._arrived(len(data))
        write_part(self._destination.part(blob), data)
        return data

    def _arrived(self, size_bytes: int) -> None:
        self._progress.add(size_bytes)
        self._destination.go_on()

    def _deliver(self, delivery: Delivery) -> StoreError | None:
        """Bring a tarball; then spec and manifest, in this order, of all that it completes."""
        with self._destination.working():
            try:
                if not delivery.here:
                    self._download(delivery.tarball)
            except (CorruptError, NotFoundError) as error:
                return _explained(error)
            self._place(delivery)
        return None

    def _place(self, delivery: Delivery) -> None:
        """What is complete, to its place: whatever names a blob comes after it."""
        destination = self._destination
        # Layout 2 has a new tarball where the old one was: the old manifest goes first.
        destination.forget(filter(self._is_wrong, delivery.binaries))
        if not delivery.here:
            destination.adopt(delivery.tarball)
        for binary in delivery.binaries:
            if binary.spec and binary.spec.key not in self._right:
                destination.adopt(binary.spec)
            if binary.key not in self._right or self._is_wrong(binary):
                destination.show(binary)

    def complete(self, plan: FetchPlan, keys: Mapping[str, bytes]) -> None:
        """Keys, index and mark of each layout: what makes a mirror of the folder."""
        store = self._destination.store
        binaries = (*plan.here, *plan.new)
        layouts = {binary.layout for binary in binaries} or {3}
        for layout in filter(layouts.__contains__, _LAYOUTS):
            ours = [self._metadata[one.hash] for one in binaries if one.layout == layout]
            write_keys(store, layout, keys)
            write_index(store, chain(ours, self._others(layout)), layout)

    def _others(self, layout: Layout) -> Iterator[Metadata]:
        """Binaries that were here before and that this lock does not want: they stay."""
        prefix = V2_SPECS if layout == 2 else SPEC_MANIFESTS
        there = self._destination.there.items()
        # By hash, because layout 2 may have one binary twice, in two forms.
        found = {manifest_hash(key): listed for key, listed in there if key.startswith(prefix)}
        entries = [(key, one) for key, one in found.items() if key and key not in self._metadata]
        if not entries:
            return
        from stackyard.edges.mirrors.contents import read_manifests, read_metadata

        store = self._destination.store
        manifests = read_manifests(store, layout, entries=entries)
        problems = dict(manifests.problems)
        for binary in manifests.binaries:
            where = f"{store.url}/{binary.key}"
            try:
                metadata = read_metadata(store, binary)
                check_metadata(metadata, binary, where)
            except StoreError as error:
                problems[binary.key] = error
            else:
                yield metadata
        for key, problem in problems.items():
            console.warn(f"{store.url}/{key}: not in the index: {problem.message}")


def _explained(error: StoreError) -> StoreError:
    """The same problem, told of a blob that its manifest names."""
    if isinstance(error, NotFoundError):
        return NotFoundError("the mirror has the manifest without it", where=error.where)
    return error


def _by_spec(binaries: Iterable[Binary]) -> list[list[Binary]]:
    """Binaries that name the same metadata together: at most one of them is right."""
    groups: dict[str, list[Binary]] = {}
    for binary in binaries:
        groups.setdefault((binary.spec or binary).key, []).append(binary)
    return list(groups.values())
