"""What a mirror holds that its index does not say yet: listed, read and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from stackyard.binary import SPEC_BYTES, Binary, unpacked
from stackyard.edges.mirrors.layouts import list_manifests, manifest_keys, read_binary
from stackyard.edges.parallel import Tick, parallel_map, tried_map
from stackyard.edges.stores.store import Listed, Store, is_on_disk
from stackyard.errors import CorruptError, NotFoundError
from stackyard.index import Entry
from stackyard.mirror import Layout
from stackyard.nodes import Node, first_node, other_nodes

__all__ = ["Survey", "compare", "survey"]

#: A disk's clock ticks in steps: a file may change twice at what it calls the same time.
_RACY_S = 2.0
_WORKERS = 32


class Differences(NamedTuple):
    """A listing beside the entries of an index, by DAG hash.

    ``fresh`` are the manifests that are new, changed, or of unknown stamp.
    """

    same: frozenset[str]
    fresh: tuple[tuple[str, Listed], ...]


class Survey(NamedTuple):
    """What there was to read, by DAG hash.

    ``nodes`` and ``entries`` are those of sound binaries, ``others`` the nodes of dependencies that
    have no record yet. ``problems`` tells by key what is wrong with a manifest. A manifest that was
    gone when it should have been read is nowhere.
    """

    same: frozenset[str]
    nodes: Mapping[str, Node]
    entries: Mapping[str, Entry]
    others: Mapping[str, Node]
    problems: Mapping[str, str]

    def find(self, dag_hash: str) -> Node | None:
        """A node that was read, whether there is a binary of it or not."""
        return self.others.get(dag_hash) or self.nodes.get(dag_hash)


class _Read(NamedTuple):
    hash: str
    listed: Listed
    node: Node | None
    problem: str = ""


def compare(store: Store, layout: Layout, entries: Mapping[str, Entry]) -> Differences:
    """List a mirror. The tags of a registry have no stamp; one that is known counts as the same."""
    same = []
    fresh = []
    tags = layout == "oci"
    for dag_hash, listed in list_manifests(store, layout):
        if entries.get(dag_hash) == (listed.key, listed.stamp) and (listed.stamp or tags):
            same.append(dag_hash)
        else:
            fresh.append((dag_hash, listed))
    return Differences(frozenset(same), tuple(fresh))


def survey(  # noqa: PLR0913 - passed by name
    store: Store,
    layout: Layout,
    differences: Differences,
    *,
    recorded: Collection[str],
    workers: int,
    tick: Tick,
    now: float,
) -> Survey:
    """Read what is fresh. ``recorded`` are the hashes that have a record which will stay.

    0 ``workers`` are as many as fit the place.

    Raises StoreError if the place fails: what nobody can read is not corrupt.
    """
    known = {*recorded, *differences.same, *(dag_hash for dag_hash, _ in differences.fresh)}
    reader = _Reader(store, layout, known)
    disk = is_on_disk(store)
    run = tried_map if disk and not workers else parallel_map
    reads = run(reader.read, differences.fresh, workers=workers or _WORKERS, tick=tick)
    problems = {read.listed.key: read.problem for read in reads if read and read.problem}
    good = {read.hash: read for read in reads if read and read.node}
    known = {*recorded, *differences.same, *good}
    while holes := _holes(good.values(), reader.others, known):
        # Somebody took a dependency for a binary that proved corrupt: ask who depends on it.
        reader.known = known
        again = [(read.hash, read.listed) for read in good.values() if _needs(read, holes)]
        for dag_hash, _ in again:
            del good[dag_hash]
        for read in filter(None, parallel_map(reader.read, again, workers=workers or _WORKERS)):
            if read.problem:
                problems[read.listed.key] = read.problem
            else:
                good[read.hash] = read
        known = {*recorded, *differences.same, *good}
    racy = now - _RACY_S if disk else float("inf")
    return Survey(
        same=differences.same,
        nodes={read.hash: read.node for read in good.values() if read.node},
        entries={read.hash: _entry(read.listed, racy) for read in good.values()},
        others=reader.others,
        problems=problems,
    )


def _entry(listed: Listed, racy: float) -> Entry:
    return Entry(listed.key, listed.stamp if listed.modified_s < racy else "")


def _needs(read: _Read, holes: Collection[str]) -> bool:
    return read.node is not None and any(child in holes for child in read.node.children)


def _holes(good: Iterable[_Read], others: dict[str, Node], known: Collection[str]) -> set[str]:
    """Dependencies that have neither record nor node; ``others`` loses what leads to them."""
    holes: set[str] = set()
    seen: set[str] = set()
    pending = [child for read in good if read.node for child in read.node.children]
    while pending:
        dag_hash = pending.pop()
        if dag_hash in seen or dag_hash in known:
            continue
        seen.add(dag_hash)
        if dag_hash in others:
            pending += others[dag_hash].children
        else:
            holes.add(dag_hash)
    users: dict[str, list[str]] = {}
    for key, node in others.items() if holes else ():
        for child in node.children:
            users.setdefault(child, []).append(key)
    pending = list(holes)
    while pending:
        for key in users.get(pending.pop(), ()):
            if key not in holes:
                holes.add(key)
                pending.append(key)
                del others[key]
    return holes


class _Reader:
    """Reads and checks entries, in many threads at once.

    ``known`` has the hashes of which no node is needed from elsewhere. ``others`` is shared by all
    threads: two may find the same node, which is then the same text.
    """

    def __init__(self, store: Store, layout: Layout, known: Collection[str]) -> None:
        self._store = store
        self._layout = layout
        self.known = known
        self.others: dict[str, Node] = {}

    def read(self, item: tuple[str, Listed]) -> _Read | None:
        """None if the manifest is gone by now."""
        dag_hash, listed = item
        try:
            node = self._node(dag_hash, listed.key)
        except CorruptError as error:
            return _Read(dag_hash, listed, None, error.message)
        return node and _Read(dag_hash, listed, node)

    def _node(self, dag_hash: str, key: str) -> Node | None:
        data = self._spec_blob(dag_hash, key)
        if data is None:
            return None
        where = f"{self._store.url}/{key}"
        node, spec = first_node(data, where)
        if node.hash != dag_hash:
            raise CorruptError(f"it is the binary of another spec, {node.hash}")
        if key not in manifest_keys(spec, self._layout, {}):
            raise CorruptError(f"it is not where Spack looks for {spec.name}@{spec.version}")
        lacking = [child for child in node.children if not self._has(child)]
        if lacking:
            self.others.update(other_nodes(data, lacking, self._has, where))
        return node

    def _has(self, dag_hash: str) -> bool:
        return dag_hash in self.known or dag_hash in self.others

    def _spec_blob(self, dag_hash: str, key: str) -> bytes | None:
        """The unpacked spec blob; None if the manifest is gone."""
        try:
            binary = read_binary(self._store, self._layout, key, dag_hash)
        except NotFoundError:
            return None
        try:
            data = _checked(self._store, binary)
        except NotFoundError:
            if not self._store.exists(key):
                return None
            raise CorruptError("the spec that it names is not there") from None
        return unpacked(data, f"{self._store.url}/{key}")


def _checked(store: Store, binary: Binary) -> bytes:
    blob = binary.spec
    if blob is None or blob.size_bytes is None or blob.size_bytes > SPEC_BYTES:
        raise CorruptError("it names a spec of an impossible size")
    data = store.read(blob.key, max_bytes=blob.size_bytes)
    if len(data) != blob.size_bytes or hashlib.sha256(data).hexdigest() != blob.checksum:
        raise CorruptError("the spec that it names is not what its checksum says")
    return data
