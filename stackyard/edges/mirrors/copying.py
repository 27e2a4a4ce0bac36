"""Copy binaries from a mirror to another, which sees each of them whole or not at all.

Everything is looked at before anything is sent (``comparing.py``). Then all blobs come first, and
the manifests that name them last; blobs that were there already are asked for once more after that,
because somebody may have pruned them in the meantime.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple, Protocol, runtime_checkable

from stackyard.binary import SPEC_BYTES, Binary, Blob, parse_metadata
from stackyard.edges.mirrors.comparing import Side
from stackyard.edges.mirrors.layouts import read_binary
from stackyard.edges.mirrors.padding import root_of
from stackyard.edges.mirrors.spool import Spool
from stackyard.edges.mirrors.transfer import download, read_blob, write_part
from stackyard.edges.parallel import Tick, parallel_map
from stackyard.edges.stores.folder import WORK_FOLDER, FileStore
from stackyard.edges.stores.store import Store, WritableStore
from stackyard.errors import ConflictError, CorruptError, NotFoundError, StoreError
from stackyard.mirror import LAYOUT_JSON, LAYOUT_MARKER, Layout
from stackyard.oci import Reference, layout_3_entry
from stackyard.padding import Root
from stackyard.promote import Item, blobs_of, check_place, compare

__all__ = ["SAMPLE", "Cargo", "Copier", "open_items", "open_spool", "sample_roots_of"]

_WORKERS = 32
_SENDERS = 12
#: Up to here a blob passes through memory.
_SMALL_BYTES = 2**20
#: So many install trees tell enough of a mirror.
SAMPLE = 8
_RENEWALS = 3
_HALF = "the mirror has the manifest without it"


class Cargo(NamedTuple):
    """A binary on its way, as the target is to have it; ``spec`` holds its metadata, verified."""

    item: Item
    binary: Binary
    spec: Path


@runtime_checkable
class _Copying(Protocol):
    """A store whose service copies without our help."""

    def can_copy_from(self, other: Store) -> bool: ...

    def copy_from(self, other: Store, key: str, target_key: str) -> None: ...


@runtime_checkable
class _Mounting(Protocol):
    """A repository that can take a blob over from another one of its registry."""

    reference: Reference

    def mount_from(self, repository: str, digest: str) -> bool: ...


def open_spool(target: Store) -> Spool:
    """Room for what passes through: where it can be moved to its place, if that is a folder.

    Raises StoreError for a folder that cannot be written to.
    """
    if not isinstance(target, FileStore):
        return Spool()
    work = target.root / WORK_FOLDER
    if work.is_symlink():
        raise CorruptError("a symbolic link stands where our own folder should be", where=str(work))
    return Spool(work)


def open_items(
    source: Side,
    layout: Layout,
    items: Sequence[Item],
    spool: Spool,
    tick: Tick = lambda done, total: None,  # noqa: ARG005
) -> tuple[tuple[Cargo, ...], Mapping[str, str]]:
    """Read and check the metadata of each, and turn it into the target's layout.

    Gives what is right, and what is wrong with the others by DAG hash.
    """

    def open_item(item: Item) -> Cargo | StoreError:
        try:
            return _opened(source, layout, item, spool)
        except NotFoundError as error:
            return NotFoundError(_HALF, where=error.where)
        except CorruptError as error:
            return error

    answers = parallel_map(open_item, items, workers=_WORKERS, tick=tick)
    problems = {
        item.binary.hash: f"{answer.where}: {answer.message}"
        for item, answer in zip(items, answers, strict=True)
        if isinstance(answer, StoreError)
    }
    return tuple(answer for answer in answers if isinstance(answer, Cargo)), problems


def _opened(source: Side, layout: Layout, item: Item, spool: Spool) -> Cargo:
    binary = item.binary
    assert binary.spec  # noqa: S101 - layout 2 alone has none
    where = f"{source.store.url}/{binary.spec.key}"
    data = read_blob(source.store, binary.spec, max_bytes=SPEC_BYTES)
    metadata = parse_metadata(data, where)
    check_place(metadata, binary, where)
    if binary.layout == "oci" and layout == 3:
        entry = layout_3_entry(binary, metadata, where)
        data = entry.spec_data
        binary = binary._replace(
            layout=3,
            key=entry.key,
            manifest=entry.manifest,
            spec=entry.spec,
            signed=False,  # what was signed is the image
        )
    path = spool.path()
    write_part(path, data)
    return Cargo(item, binary, path)


def sample_roots_of(source: Store, cargo: Sequence[Cargo]) -> Mapping[str, Root | None]:
    """The install trees of a few of the binaries that are to be sent, by DAG hash."""
    step = max(len(cargo) // SAMPLE, 1)

    def look(one: Cargo) -> tuple[str, Root | None]:
        try:
            return one.binary.hash, root_of(source, one.item.binary)
        except NotFoundError:  # whoever sends it is told
            return one.binary.hash, None

    return dict(parallel_map(look, cargo[::step][:SAMPLE], workers=SAMPLE))


def _service(source: Store, target: WritableStore) -> _Copying | _Mounting | None:
    """The target, if it can copy from the source without us."""
    if isinstance(target, _Copying) and target.can_copy_from(source):
        return target
    if isinstance(target, _Mounting) and isinstance(source, _Mounting):
        return target if source.reference.registry == target.reference.registry else None
    return None


class Copier:
    """One copy under way. ``on_bytes`` is told of bytes that came through this machine."""

    def __init__(
        self,
        source: Store,
        target: WritableStore,
        spool: Spool,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._source = source
        self._target = target
        self._spool = spool
        self._on_bytes = on_bytes
        self._service = _service(source, target)
        self._lock = Lock()
        #: Bytes that the service copied: their number was compared, and not their checksum.
        self.unread_bytes = 0

    def send(
        self,
        cargo: Sequence[Cargo],
        blobs: Sequence[Blob],
        kept: Collection[str],
        tick: Tick = lambda done, total: None,  # noqa: ARG005
    ) -> None:
        """Blobs, then manifests, then once more the blobs that were ``kept`` because they are there.

        Raises CorruptError that names all blobs that are not what their manifests say, before any
        manifest is written; ConflictError if somebody else wrote another binary in the meantime.
        """
        self._send_blobs(cargo, blobs, tick)
        if cargo[0].binary.layout == 3 and not self._target.exists(LAYOUT_MARKER):
            self._target.write(LAYOUT_MARKER, LAYOUT_JSON)
        parallel_map(self._write_manifest, cargo, workers=_WORKERS)
        named = {blob.key: blob for one in cargo for blob in blobs_of(one.binary)}
        for _ in range(_RENEWALS):
            gone = self._gone([named[key] for key in kept])
            if not gone:
                return
            self._send_blobs(cargo, gone, lambda done, total: None)  # noqa: ARG005
            kept = [blob.key for blob in gone]

    def _gone(self, blobs: Sequence[Blob]) -> list[Blob]:
        there = parallel_map(lambda blob: self._target.exists(blob.key), blobs, workers=_WORKERS)
        return [blob for blob, found in zip(blobs, there, strict=True) if not found]

    def _send_blobs(self, cargo: Sequence[Cargo], blobs: Sequence[Blob], tick: Tick) -> None:
        specs = {one.binary.spec.key: one.spec for one in cargo if one.binary.spec}

        def send(blob: Blob) -> StoreError | None:
            try:
                if blob.key in specs:
                    data = specs[blob.key].read_bytes()
                    self._target.write(blob.key, data)
                    self._on_bytes(len(data))
                elif not self._copied_inside(blob):
                    self._carry(blob)
            except NotFoundError as error:
                return NotFoundError(_HALF, where=error.where)
            except CorruptError as error:
                return error
            return None

        answers = parallel_map(send, blobs, workers=_SENDERS, tick=tick)
        if wrong := [answer for answer in answers if answer]:
            lines = "\n".join(f"  {error.where}: {error.message}" for error in wrong)
            raise CorruptError(
                f"{len(wrong)} blobs are not what their manifests say; no manifest was sent:\n{lines}",
                where=self._source.url,
                hint="build and push these again",
            )

    def _carry(self, blob: Blob) -> None:
        """Through this machine, verified. What is small does not touch the disk."""
        size = blob.size_bytes or 0
        if size <= _SMALL_BYTES:
            self._target.write(blob.key, read_blob(self._source, blob, max_bytes=_SMALL_BYTES))
            self._on_bytes(size)
            return
        with self._spool.room(size) as path:
            download(self._source, blob, path, on_bytes=self._on_bytes)
            if isinstance(self._target, FileStore):
                self._target.adopt(blob.key, path)
            else:
                self._target.upload(blob.key, path)

    def _copied_inside(self, blob: Blob) -> bool:
        """Whether the service could copy it without us, and did."""
        if isinstance(self._source, _Mounting) and isinstance(self._service, _Mounting):
            repository = self._source.reference.name
            return self._service.mount_from(repository, f"sha256:{blob.checksum}")
        if not isinstance(self._service, _Copying):
            return False
        self._service.copy_from(self._source, blob.key, blob.key)
        size = blob.size_bytes or 0
        if len(self._target.read_range(blob.key, max(size - 1, 0), 2)) != min(size, 1):
            self._target.delete(blob.key)
            raise CorruptError(
                f"it has not the {size} bytes that the manifest gives",
                where=f"{self._source.url}/{blob.key}",
            )
        with self._lock:
            self.unread_bytes += size
        return True

    def _write_manifest(self, cargo: Cargo) -> None:
        if not cargo.item.manifest:
            return
        binary = cargo.binary
        try:
            found = None if cargo.item.old is None else self._target.read_version(binary.key)
        except NotFoundError:
            found = None
        try:
            if found is None:
                self._target.create(binary.key, binary.manifest)
            elif found.data == cargo.item.old:
                self._target.replace(binary.key, binary.manifest, found.version)
            else:
                self._settle(binary)
        except ConflictError:
            self._settle(binary)

    def _settle(self, binary: Binary) -> None:
        """Somebody else wrote the manifest since we looked: does it say the same?"""
        there = read_binary(self._target, binary.layout, binary.key, binary.hash)
        if compare(binary, there) != "same":
            raise ConflictError(
                "somebody else pushed this hash otherwise in the meantime",
                where=f"{self._target.url}/{binary.key}",
                hint="run it again to see how they differ",
            )
