"""Read of a mirror what a catalogue does not know yet: listed, compared, and only then read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from stackyard.binary import SPEC_BYTES, Binary, parse_metadata
from stackyard.catalogue.entries import Entry, make_entry
from stackyard.catalogue.sidecar import sidecar
from stackyard.edges.mirrors.contents import (
    Tolerance,
    can_list,
    held_layouts,
    indexed_specs,
    read_manifests,
    read_specs,
    sized,
    specs_without_listing,
    tarball_sizes,
)
from stackyard.edges.mirrors.layouts import list_manifests, manifest_keys
from stackyard.edges.mirrors.transfer import read_blob
from stackyard.edges.parallel import Tick, parallel_map, tried_map
from stackyard.edges.stores.store import Listed, Store, is_on_disk
from stackyard.errors import CorruptError, NotFoundError, StoreError
from stackyard.lock import Spec
from stackyard.mirror import Layout, parse_json

__all__ = ["Changes", "Fresh", "changes", "read_fresh"]

#: From so many binaries on their specs come out of the index at once, and not one by one.
_MANY = 200
#: So many are held in memory at a time: metadata of layout 2 is large.
_BATCH = 500
_WORKERS = 32
#: A disk's clock ticks in steps: a file may change twice at what it calls the same time.
_RACY_S = 2.0


class Wanted(NamedTuple):
    """A binary that has to be read: where its manifest may be."""

    hash: str
    layout: Layout
    listed: tuple[Listed, ...]


class Changes(NamedTuple):
    """A mirror beside what was known of it. ``specs`` are those of its index, where it was read."""

    same: frozenset[str]
    fresh: tuple[Wanted, ...]
    specs: Mapping[Layout, Mapping[str, Spec]]


class Fresh(NamedTuple):
    """A binary that was read, and its metadata for old clients; or what is wrong with it.

    ``unknown``: the mirror did not give it to us. What was known of it may hold.
    """

    key: str
    entry: Entry | None = None
    sidecar: bytes = b""
    problem: str = ""
    unknown: bool = False


def changes(store: Store, known: Mapping[str, Entry]) -> Changes:
    """List a mirror, or read its index where nothing can be listed; a newer layout comes first.

    What has no stamp there (in a registry, behind a web server) is taken for what it was. Raises
    NotFoundError where there is no mirror, or none that can be looked at.
    """
    layouts = held_layouts(store)
    if not layouts:
        raise NotFoundError(
            "there is no mirror", where=store.url, hint="is the URL right? an empty one has nothing"
        )
    found: dict[str, Wanted] = {}
    specs: dict[Layout, Mapping[str, Spec]] = {}
    for layout in layouts:
        if can_list(store):
            for dag_hash, listed in list_manifests(store, layout):
                found.setdefault(dag_hash, Wanted(dag_hash, layout, (listed,)))
        else:
            indexed = specs_without_listing(store, layout)
            specs[layout] = {spec.hash: spec for spec, _ in indexed}
            for spec, in_buildcache in indexed:
                if in_buildcache:
                    keys = manifest_keys(spec, layout, specs[layout])
                    listed_keys = tuple(Listed(key, 0, 0.0, "") for key in keys)
                    found.setdefault(spec.hash, Wanted(spec.hash, layout, listed_keys))
    same = frozenset(key for key, one in found.items() if _is_same(known.get(key), one))
    fresh = tuple(one for key, one in sorted(found.items()) if key not in same)
    return Changes(same, fresh, specs)


def _is_same(known: Entry | None, now: Wanted) -> bool:
    if known is None or known.layout != str(now.layout):
        return False
    listed = next((one for one in now.listed if one.key == known.key), None)
    if listed is None:
        return False
    if listed.stamp:
        return listed.stamp == known.stamp
    return not listed.modified_s  # a disk that tells no stamp still tells times


def read_fresh(store: Store, found: Changes, *, now: float, tick: Tick) -> Iterator[Fresh]:
    """Read what is fresh, batch by batch. What is gone by now is left out.

    Raises StoreError for a mirror that fails to answer again and again.
    """
    tolerance = Tolerance()
    total = len(found.fresh)
    done = 0
    for layout in dict.fromkeys(one.layout for one in found.fresh):
        wanted = [one for one in found.fresh if one.layout == layout]
        reader = _Reader(store, layout, _specs(store, layout, found, len(wanted)), tolerance, now)
        rest = iter(wanted)
        while batch := list(islice(rest, _BATCH)):
            yield from reader.read(batch)
            done += len(batch)
            tick(done, total)


def _specs(store: Store, layout: Layout, found: Changes, count: int) -> Mapping[str, Spec]:
    """Nodes for many binaries at one go; without an index that can be read each tells its own."""
    if layout in found.specs:
        return found.specs[layout]
    if layout != 3 or count < _MANY:
        return {}
    try:
        return {spec.hash: spec for spec, _ in indexed_specs(store, layout) or ()}
    except CorruptError:
        return {}


class _Reader:
    """Reads binaries of one layout. ``specs`` are those that need not be read one by one."""

    def __init__(
        self,
        store: Store,
        layout: Layout,
        specs: Mapping[str, Spec],
        tolerance: Tolerance,
        now: float,
    ) -> None:
        self._store = store
        self._layout = layout
        self._specs = specs
        self._tolerance = tolerance
        self._racy_s = now - _RACY_S if is_on_disk(store) else float("inf")
        self._sizes = tarball_sizes(store, layout)

    def read(self, batch: Sequence[Wanted]) -> Iterator[Fresh]:
        places = [(one.hash, listed) for one in batch for listed in one.listed]
        manifests = read_manifests(self._store, self._layout, entries=places, workers=_WORKERS)
        for key, error in manifests.problems.items():
            yield _failed(key, error)
        read = {binary.hash: binary for binary in manifests.binaries}
        run = tried_map if is_on_disk(self._store) else parallel_map
        pairs = [(binary, manifests.listed[binary.key]) for binary in read.values()]
        yield from filter(None, run(self._fresh, pairs, workers=_WORKERS))

    def _fresh(self, pair: tuple[Binary, Listed]) -> Fresh | None:
        binary, listed = pair
        where = f"{self._store.url}/{binary.key}"
        try:
            specs, added_s = self._nodes(binary)
            spec = specs.get(binary.hash)
            if spec is None or binary.key not in manifest_keys(spec, self._layout, specs):
                raise CorruptError("it is the binary of another spec", where=where)
            entry = make_entry(
                sized(binary, self._sizes),
                spec,
                specs,
                where=where,
                stamp=listed.stamp if listed.modified_s < self._racy_s else "",
                added_s=int(listed.modified_s) or added_s,
            )
        except NotFoundError:
            if not self._store.exists(binary.key):
                return None
            return Fresh(binary.key, problem="the spec that it names is not there")
        except StoreError as error:
            return _failed(binary.key, self._tolerance.note(error))
        return Fresh(binary.key, entry, sidecar(spec, specs, entry.checksum))

    def _nodes(self, binary: Binary) -> tuple[Mapping[str, Spec], int | None]:
        """Nodes that tell all of a binary, and when it was made where only it tells that."""
        if self._layout == "oci" and binary.spec:
            data = read_blob(self._store, binary.spec, max_bytes=SPEC_BYTES)
            where = f"{self._store.url}/{binary.spec.key}"
            metadata = parse_metadata(data, where)
            nodes = [metadata._replace(nodes=[node]).spec(where) for node in metadata.nodes]
            return {node.hash: node for node in nodes}, _timestamp(data, where)
        if binary.hash in self._specs:
            return self._specs, None
        return {spec.hash: spec for spec in read_specs(self._store, binary)}, None


def _failed(key: str, error: StoreError) -> Fresh:
    return Fresh(key, problem=error.message, unknown=not isinstance(error, CorruptError))


def _timestamp(config: bytes, where: str) -> int | None:
    """When an image was pushed, as its configuration says; None where it does not."""
    try:
        text = str(parse_json(config, where, "configuration").get("archive_timestamp"))
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
        seconds = int((when if when.tzinfo else when.astimezone()).timestamp())
    except (ValueError, AttributeError, OverflowError, OSError):
        return None
    return max(seconds, 0) or None
