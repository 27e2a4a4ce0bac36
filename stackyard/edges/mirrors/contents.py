"""Read what a mirror holds: from its index at one go, or manifest by manifest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from stackyard.binary import SPEC_BYTES, Binary, Metadata, parse_metadata
from stackyard.edges.mirrors.layouts import layouts_of, list_manifests, manifest_keys, read_binary
from stackyard.edges.mirrors.transfer import read_blob
from stackyard.edges.parallel import Tick, parallel_map, tried_map
from stackyard.edges.stores.store import Listed, Store, is_on_disk
from stackyard.errors import CorruptError, LockError, NotFoundError, StoreError, UnreachableError
from stackyard.listing import Sharing
from stackyard.lock import Spec, parse_node
from stackyard.mirror import SPEC_MANIFESTS, V2_SPECS, Layout

__all__ = [
    "Manifests",
    "Tolerance",
    "can_list",
    "held_layouts",
    "indexed_binaries",
    "indexed_specs",
    "manifest_entries",
    "read_manifests",
    "read_metadata",
    "read_specs",
    "sized",
    "specs_without_listing",
    "tarball_sizes",
]

_REINDEX = "make the index anew: stackyard mirror.index --full"


class Manifests(NamedTuple):
    """All manifests of binaries on a mirror in one layout.

    ``listed`` is by key and has those of ``problems`` too, which could not be read.
    """

    binaries: tuple[Binary, ...]
    listed: Mapping[str, Listed]
    problems: Mapping[str, StoreError]


class Tolerance:
    """Take so many failures of a mirror as news about single files; then it is the mirror."""

    def __init__(self, limit: int = 20) -> None:
        self._left = limit

    def note(self, error: StoreError) -> StoreError:
        """The same error; raises it if the mirror failed to answer too often."""
        if isinstance(error, UnreachableError):
            self._left -= 1  # two threads at once may count as one: then it ends a little later
            if self._left < 0:
                raise error
        return error


def can_list(store: Store) -> bool:
    """Whether the place tells its keys; web servers do not."""
    return not store.url.startswith(("http://", "https://"))


def held_layouts(store: Store) -> tuple[Layout, ...]:
    """The layouts that a mirror has anything in, the newest first.

    What lies there counts, where it can be listed: a mirror that nobody indexed has no marker.
    """
    found = set(layouts_of(store))
    prefixes: tuple[tuple[Layout, str], ...] = ((3, SPEC_MANIFESTS), (2, V2_SPECS))
    if "oci" not in found and can_list(store):
        found |= {layout for layout, prefix in prefixes if any(True for _ in store.list(prefix))}
    order: tuple[Layout, ...] = ("oci", 3, 2)
    return tuple(layout for layout in order if layout in found)


def indexed_specs(store: Store, layout: Layout) -> Iterator[tuple[Spec, bool]] | None:
    """Every spec that a layout's index names, and whether it is a binary; None without an index.

    Raises StoreError, CorruptError among them where a node is no spec; while iterating, too.
    """
    found = _indexed_specs(store, layout)
    if found is None:
        return None
    sharing = Sharing()
    return ((sharing.share(spec), in_buildcache) for spec, in_buildcache in found)


def indexed_binaries(store: Store, layout: Layout) -> frozenset[str] | None:
    """DAG hashes of the binaries that a layout's index names; None without an index.

    All its records are looked at. Raises as ``indexed_specs`` does.
    """
    found = _indexed_specs(store, layout)
    if found is None:
        return None
    return frozenset(spec.hash for spec, in_buildcache in found if in_buildcache)


def _indexed_specs(store: Store, layout: Layout) -> Iterator[tuple[Spec, bool]] | None:
    from stackyard.edges.mirrors.indexing import read_index

    view = read_index(store, layout)
    if view is None:
        return None
    return (
        (_indexed({**node, "hash": key}, view.specfile, store.url), in_buildcache)
        for key, node, in_buildcache in view.nodes()
    )


def _indexed(node: Mapping[str, object], version: int, where: str) -> Spec:
    try:
        return _parsed(node, version, where)
    except CorruptError as error:
        raise CorruptError(f"in the index: {error.message}", where=where, hint=_REINDEX) from None


def _parsed(node: Mapping[str, object], version: int, where: str) -> Spec:
    try:
        return parse_node(node, version)
    except LockError as error:
        raise CorruptError(error.message, where=where) from None


def read_manifests(
    store: Store,
    layout: Layout,
    *,
    entries: Iterable[tuple[str, Listed]] | None = None,
    workers: int = 32,
    tick: Tick = lambda done, total: None,  # noqa: ARG005
) -> Manifests:
    """Read the manifest of every binary, or of ``entries`` (DAG hash and listing).

    Where nothing can be listed, those are read that the index names. One that is not there by the
    time we come is left out. Raises StoreError for a mirror that cannot be
    listed or that fails to answer again and again.
    """
    found = sorted(manifest_entries(store, layout) if entries is None else entries)
    tolerance = Tolerance()

    def read(entry: tuple[str, Listed]) -> Binary | StoreError | None:
        dag_hash, listed = entry
        try:
            return read_binary(store, layout, listed.key, dag_hash)
        except NotFoundError:
            return None
        except StoreError as error:
            return tolerance.note(error)

    run = tried_map if is_on_disk(store) else parallel_map
    answers = run(read, found, workers=workers, tick=tick)
    keys = [listed.key for _, listed in found]
    gone = {key for key, answer in zip(keys, answers, strict=True) if answer is None}
    return Manifests(
        binaries=tuple(answer for answer in answers if isinstance(answer, Binary)),
        listed={listed.key: listed for _, listed in found if listed.key not in gone},
        problems={
            key: answer
            for key, answer in zip(keys, answers, strict=True)
            if isinstance(answer, StoreError)
        },
    )


def tarball_sizes(store: Store, layout: Layout) -> Mapping[str, int]:
    """Sizes in bytes by key, where manifests do not tell them (layout 2) and a listing does."""
    if layout != 2 or not can_list(store):
        return {}
    return {listed.key: listed.size_bytes for listed in store.list(V2_SPECS)}


def sized(binary: Binary, sizes: Mapping[str, int]) -> Binary:
    """The binary with the size of its tarball, where that is known only from elsewhere."""
    size = sizes.get(binary.tarball.key)
    return (
        binary
        if size is None
        else binary._replace(tarball=binary.tarball._replace(size_bytes=size))
    )


def specs_without_listing(store: Store, layout: Layout) -> list[tuple[Spec, bool]]:
    """What the index says, where it is all there is to know. Raises NotFoundError without one."""
    indexed = indexed_specs(store, layout)
    if indexed is None:
        raise NotFoundError(
            "the mirror has no index, and a web server cannot list its files",
            where=store.url,
            hint="index it where its files are: stackyard mirror.index --url FOLDER-OR-BUCKET",
        )
    return list(indexed)


def manifest_entries(store: Store, layout: Layout) -> Iterator[tuple[str, Listed]]:
    """DAG hash and listing of every manifest; where nothing can be listed, as the index says.

    Raises NotFoundError where there is no index either.
    """
    if can_list(store):
        yield from list_manifests(store, layout)
        return
    named = specs_without_listing(store, layout)
    specs = {spec.hash: spec for spec, _ in named}
    for spec, in_buildcache in named:
        for key in manifest_keys(spec, layout, specs) if in_buildcache else ():
            yield spec.hash, Listed(key, 0, 0.0, "")


def read_metadata(store: Store, binary: Binary) -> Metadata:
    """The specs that a binary says it is made of; its blob is verified, its truth is not.

    Raises StoreError, NotFoundError and CorruptError among them.
    """
    if binary.spec is None:
        return parse_metadata(binary.manifest, f"{store.url}/{binary.key}")
    data = read_blob(store, binary.spec, max_bytes=SPEC_BYTES)
    return parse_metadata(data, f"{store.url}/{binary.spec.key}")


def read_specs(store: Store, binary: Binary) -> tuple[Spec, ...]:
    """The spec of a binary, then all that it depends on. Raises as ``read_metadata`` does."""
    metadata = read_metadata(store, binary)
    where = f"{store.url}/{binary.spec.key if binary.spec else binary.key}"
    return tuple(_parsed(node, metadata.format, where) for node in metadata.nodes)
