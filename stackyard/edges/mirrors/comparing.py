"""Look at two mirrors before anything is copied: what each promises, and what both hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from stackyard.binary import Binary, Blob
from stackyard.edges.mirrors.contents import can_list, held_layouts, indexed_specs, read_manifests
from stackyard.edges.mirrors.layouts import find_binaries, list_manifests
from stackyard.edges.parallel import Tick, parallel_map
from stackyard.edges.stores.folder import FileStore
from stackyard.edges.stores.store import Listed, Store
from stackyard.errors import CorruptError, NotFoundError, StoreError
from stackyard.lock import Spec
from stackyard.mirror import Layout
from stackyard.promote import contains

__all__ = [
    "Side",
    "Survey",
    "same_place",
    "source_side",
    "stored_blobs",
    "survey_all",
    "survey_lock",
    "target_side",
]

_WORKERS = 32
#: More blobs than this are quicker listed than asked for one by one.
_FEW = 1000
_MIGRATE = "bring it to layout 3 first: spack buildcache migrate"


class Side(NamedTuple):
    """A mirror, and the layout that counts there. ``fresh``: a folder that is not there yet."""

    store: Store
    layout: Layout
    fresh: bool = False


class Survey(NamedTuple):
    """What both mirrors promise.

    ``binaries`` are the source's. ``there`` are the target's of the same hashes. ``here`` are
    hashes of what is known to need nothing, ``missing`` is what neither mirror has.
    """

    binaries: tuple[Binary, ...]
    there: Mapping[str, Binary]
    here: frozenset[str] = frozenset()
    missing: tuple[Spec, ...] = ()


def source_side(store: Store) -> Side:
    """Which layout is copied from. Raises StoreError where that is layout 2 alone."""
    layouts = held_layouts(store)
    if layouts == (2,):
        raise StoreError(
            "the mirror has layout 2, whose signatures do not hold for any other",
            where=store.url,
            hint=_MIGRATE,
        )
    return Side(store, "oci" if "oci" in layouts else 3)


def target_side(store: Store, *, force: bool) -> Side:
    """Which layout is copied to. Raises StoreError for layout 2 alone, unless forced."""
    if isinstance(store, FileStore) and not store.is_there:
        return Side(store, 3, fresh=True)
    layouts = held_layouts(store)
    if layouts == (2,) and not force:
        raise StoreError(
            "the mirror has layout 2; Spack 1.0 and newer would not see that any more beside layout 3",
            where=store.url,
            hint=f"{_MIGRATE}, copy to another place, or add --force",
        )
    return Side(store, "oci" if "oci" in layouts else 3)


def same_place(source: Store, target: Store) -> bool:
    """Whether the target is the source, or lies in it."""
    if isinstance(source, FileStore) and isinstance(target, FileStore):
        return contains(str(source.root.resolve()), str(target.root.resolve()))
    if source.url.startswith("s3://") and target.url.startswith("s3://"):
        from stackyard.edges.stores.s3 import S3Store  # a run on folders has no use for it

        assert isinstance(source, S3Store)  # noqa: S101 - by its scheme
        assert isinstance(target, S3Store)  # noqa: S101 - by its scheme
        if source.identity.endpoint != target.identity.endpoint:
            return False  # two services may have buckets of one name
    return contains(source.url, target.url)


def survey_lock(
    source: Side,
    target: Side,
    wanted: Sequence[Spec],
    specs: Mapping[str, Spec],
    tick: Tick = lambda done, total: None,  # noqa: ARG005
) -> Survey:
    """Look these specs up on both mirrors. ``specs`` are all nodes of the lock.

    What only the target has needs nothing: a staging mirror may hold no more than what is new.
    """
    ours = find_binaries(
        source.store, wanted, specs=specs, layouts=(source.layout,), workers=_WORKERS, tick=tick
    )
    if target.fresh:
        missing = tuple(specs[key] for key in ours.missing)
        return Survey(tuple(ours.binaries.values()), {}, missing=missing)
    theirs = find_binaries(
        target.store, wanted, specs=specs, layouts=(target.layout,), workers=_WORKERS, tick=tick
    )
    return Survey(
        binaries=tuple(ours.binaries.values()),
        there=theirs.binaries,
        here=frozenset(ours.missing) & theirs.binaries.keys(),
        missing=tuple(specs[key] for key in ours.missing if key not in theirs.binaries),
    )


def survey_all(
    source: Side,
    target: Side,
    tick: Tick = lambda done, total: None,  # noqa: ARG005
) -> Survey:
    """List both mirrors, and read the manifests that the listings do not prove to be the same.

    A web server, which lists nothing, is asked for what its index names. Raises CorruptError that
    names all manifests that cannot be read.
    """
    if not can_list(source.store):
        specs = _indexed(source)
        return survey_lock(source, target, tuple(specs.values()), specs, tick)
    ours = list(list_manifests(source.store, source.layout))
    theirs: dict[str, Listed] = {}
    if not target.fresh:
        theirs = dict(list_manifests(target.store, target.layout))
    alike = {
        dag_hash
        for dag_hash, listed in ours
        if dag_hash in theirs and _alike(source.store, listed, target.store, theirs[dag_hash])
    }
    rest = [(dag_hash, listed) for dag_hash, listed in ours if dag_hash not in alike]
    binaries = _read(source, rest, tick)
    both = ((key, theirs[key]) for key in {dag_hash for dag_hash, _ in rest} if key in theirs)
    there = {binary.hash: binary for binary in _read(target, both, tick)}
    return Survey(binaries, there, here=frozenset(alike))


def _indexed(source: Side) -> dict[str, Spec]:
    found = indexed_specs(source.store, source.layout)
    if found is None:
        raise NotFoundError(
            "a web server lists nothing, and the mirror has no index",
            where=source.store.url,
            hint="name a stack: --stack NAME",
        )
    return {spec.hash: spec for spec, is_binary in found if is_binary}


def _alike(source: Store, ours: Listed, target: Store, theirs: Listed) -> bool:
    """Whether the listings prove that both hold the same bytes: S3 gives a digest of them.

    Where that is none (encrypted, or uploaded in parts), two objects never have the same one.
    """
    both_s3 = source.url.startswith("s3://") and target.url.startswith("s3://")
    return (
        both_s3
        and ours.key == theirs.key
        and ours.size_bytes == theirs.size_bytes
        and bool(ours.stamp)
        and ours.stamp == theirs.stamp
    )


def _read(side: Side, entries: Iterable[tuple[str, Listed]], tick: Tick) -> tuple[Binary, ...]:
    found = list(entries)
    if not found:
        return ()
    manifests = read_manifests(side.store, side.layout, entries=found, workers=_WORKERS, tick=tick)
    if manifests.problems:
        lines = "\n".join(f"  {key}: {one.message}" for key, one in manifests.problems.items())
        raise CorruptError(
            f"{len(manifests.problems)} manifests cannot be read:\n{lines}",
            where=side.store.url,
            hint="look closer, and clean up: mirror.verify --repair",
        )
    return manifests.binaries


def stored_blobs(target: Side, blobs: Collection[Blob], *, listing: bool) -> frozenset[str]:
    """Keys of the blobs that the target has; with ``listing`` many are listed and not asked for."""
    wanted = {blob.key: blob for blob in blobs}
    if target.fresh or not wanted:
        return frozenset()
    if listing and len(wanted) > _FEW and target.layout == 3:
        there = {
            one.key: one.size_bytes for one in target.store.list("blobs/") if one.key in wanted
        }
        return frozenset(
            key for key, size in there.items() if wanted[key].size_bytes in (None, size)
        )
    keys = tuple(wanted)
    answers = parallel_map(target.store.exists, keys, workers=_WORKERS)
    return frozenset(key for key, there in zip(keys, answers, strict=True) if there)
