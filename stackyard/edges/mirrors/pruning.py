"""Look at all that prune decides about, and carry out what was decided."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

from stackyard.binary import Binary
from stackyard.edges.mirrors.contents import (
    Manifests,
    Tolerance,
    indexed_specs,
    read_manifests,
    read_specs,
    sized,
    tarball_sizes,
)
from stackyard.edges.mirrors.layouts import list_manifests, manifest_keys
from stackyard.edges.mirrors.others import Others, list_files, loose, read_others
from stackyard.edges.mirrors.published import read_blob
from stackyard.edges.mirrors.removing import delete_keys, remove_binaries
from stackyard.edges.parallel import parallel_map
from stackyard.edges.stores.store import Listed, Store, WritableStore
from stackyard.errors import CorruptError, NotFoundError, StoreError
from stackyard.fetch import spec_name
from stackyard.index import STATE_TYPE, parse_state
from stackyard.lock import Spec
from stackyard.mirror import (
    INDEX_MANIFEST,
    V2_SPECS,
    Layout,
    manifest_hash,
    parse_manifest,
)
from stackyard.oci import digest_key
from stackyard.prune import Holding, Loose, Policy, sort_loose

__all__ = ["Stock", "carry_out", "loose_blobs", "stock"]

#: So many blobs are deleted before somebody looks again whether one of them was named meanwhile.
_AT_ONCE = 1000
#: A listing that has gaps has many.
_ASKED = 100

Told = Callable[[str], None]
Bar = Callable[[str, int, int], None]


class Stock(NamedTuple):
    """One layout of a mirror. ``specs`` are all that it tells of, ``problems`` what it does not."""

    layout: Layout
    manifests: Manifests
    holdings: tuple[Holding, ...]
    specs: Mapping[str, Spec]
    files: tuple[Listed, ...]
    others: Others
    problems: Mapping[str, StoreError]


def stock(store: Store, layout: Layout, *, whole: bool, bar: Bar) -> Stock:
    """Take stock of a layout; ``whole`` asks for the metadata of what no index names, too.

    Raises StoreError for a mirror that does not answer, or whose listing lacks what is there.
    """
    files = list_files(store, layout)  # before the manifests: see there
    specs, named = _indexed(store, layout)  # what is pushed now is not missed in the listing
    manifests = read_manifests(
        store, layout, tick=lambda done, total: bar("manifests", done, total)
    )
    _refuse_gaps(store, layout, manifests, [specs[key] for key in named], specs)
    others = read_others(store, files)
    sizes = tarball_sizes(store, layout)
    binaries = [sized(binary, sizes) for binary in manifests.binaries]
    unread: Mapping[str, StoreError] = {}
    if whole or layout == 2:  # whose metadata are read already
        unread = _read_specs(store, binaries, specs, bar)
    holdings = (
        Holding(
            hash=one.hash,
            layout=layout,
            key=one.key,
            label=spec_name(specs[one.hash]) if one.hash in specs else _name_in(one.key),
            spec=specs.get(one.hash),
            blobs=one.blobs,
            modified_s=manifests.listed[one.key].modified_s,
        )
        for one in binaries
    )
    problems = {**manifests.problems, **others.problems, **unread}
    return Stock(layout, manifests, tuple(holdings), specs, files, others, problems)


def _name_in(key: str) -> str:
    """What the name of a manifest says, where its metadata say nothing."""
    name = key.rpartition("/")[2]
    for suffix in (".sig", ".spec.json", ".spec.manifest.json", ".spack"):
        name = name.removesuffix(suffix)
    return name


def _indexed(store: Store, layout: Layout) -> tuple[dict[str, Spec], frozenset[str]]:
    """All specs that the index tells of, by hash, and the hashes of its binaries."""
    try:
        found = list(indexed_specs(store, layout) or ())
    except CorruptError:  # then the metadata have to tell
        return {}, frozenset()
    return {spec.hash: spec for spec, _ in found}, frozenset(
        spec.hash for spec, is_binary in found if is_binary
    )


def _refuse_gaps(
    store: Store,
    layout: Layout,
    manifests: Manifests,
    named: Iterable[Spec],
    specs: Mapping[str, Spec],
) -> None:
    """Raise StoreError if the index names what was not listed, and it is there all the same.

    Whatever a listing leaves out would lose its blobs.
    """
    unlisted = (
        key
        for spec in named
        if manifests.listed.keys().isdisjoint(keys := manifest_keys(spec, layout, specs))
        for key in keys
    )
    for key in islice(unlisted, _ASKED):
        if store.exists(key):
            raise StoreError(
                f"the listing lacks {key}, which is there: nobody can tell what is named",
                where=store.url,
                hint="try again; if it stays so, whoever runs the place should know",
            )


def _read_specs(
    store: Store, binaries: Iterable[Binary], specs: dict[str, Spec], bar: Bar
) -> Mapping[str, StoreError]:
    """Add the specs of the binaries that are not there yet, and of what they depend on.

    Gives what the place did not answer, by key; what is not there or corrupt tells nothing.
    """
    tolerance = Tolerance()
    unknown = [one for one in binaries if one.hash not in specs]

    def read(binary: Binary) -> tuple[Spec, ...] | StoreError:
        try:
            return read_specs(store, binary)
        except (NotFoundError, CorruptError):
            return ()
        except StoreError as error:
            return tolerance.note(error)

    answers = parallel_map(
        read, unknown, workers=32, tick=lambda done, total: bar("specs", done, total)
    )
    problems = {}
    for binary, answer in zip(unknown, answers, strict=True):
        if isinstance(answer, StoreError):
            problems[binary.key] = answer
            continue
        for spec in answer:
            specs.setdefault(spec.hash, spec)
    return problems


def loose_blobs(
    store: Store,
    layout: Layout,
    files: Iterable[Listed],
    named: Collection[str],
) -> Iterator[Loose]:
    """Blobs that are not named. One of an old index counts from when that was replaced."""
    superseded = _superseded(store, layout)
    for kind, listed in loose(layout, files, named):
        if kind == "orphan":
            since = superseded.get(listed.key, listed.modified_s)
            yield Loose(listed.key, listed.size_bytes, max(since, listed.modified_s))


def _superseded(store: Store, layout: Layout) -> Mapping[str, float]:
    """Blobs of old indices that a reader may still hold on to, and since when nothing names them."""
    if layout != 3:
        return {}
    where = f"{store.url}/{INDEX_MANIFEST}"
    try:
        record = parse_manifest(store.read(INDEX_MANIFEST), where).record(STATE_TYPE)
        if record is None:
            return {}
        state = parse_state(read_blob(store, record), where)
    except (NotFoundError, CorruptError):
        return {}
    return {digest_key(checksum): float(since) for checksum, since in state.superseded}


def carry_out(  # noqa: PLR0913 - passed by name
    store: WritableStore,
    stock: Stock,
    gone: Sequence[Holding],
    policy: Policy,
    *,
    told: Told,
    bar: Bar,
    now: Callable[[], float] = time.time,
) -> int:
    """Delete what goes, then the blobs that nothing names any more; gives how many blobs went.

    A run that was killed is repeated as a whole. Whatever was pushed since ``stock`` stays. Raises
    CorruptError if somebody pushed what names a blob in the moment when it was deleted.
    """
    keys = {one.key: one.hash for one in gone}
    if changed := _changed(store, stock, keys):
        told(f"{len(changed)} of them stay: somebody pushed them anew")
    keys = {key: dag_hash for key, dag_hash in keys.items() if key not in changed}
    kept = [one for one in stock.manifests.binaries if one.key not in keys]
    if keys:
        tick = partial(bar, "manifests")
        remove_binaries(store, stock.layout, keys, kept, tick=tick)
        told(f"removed {len(keys)} manifests")
    if stock.layout == "oci":
        return 0
    return _sweep(store, stock, kept, policy._replace(now_s=now()), bar=bar)


def _changed(store: Store, stock: Stock, keys: Collection[str]) -> frozenset[str]:
    """Those of the manifests that are not what they were when stock was taken."""
    if not keys:
        return frozenset()
    return frozenset(
        one.key
        for _, one in list_manifests(store, stock.layout)
        if one.key in keys and _sign(one) != _sign(stock.manifests.listed[one.key])
    )


def _sweep(
    store: WritableStore, stock: Stock, kept: Sequence[Binary], policy: Policy, *, bar: Bar
) -> int:
    watch = _Watch(store, stock, kept)
    files = list_files(store, stock.layout)
    old = sort_loose(loose_blobs(store, stock.layout, files, watch.named()), policy).old
    keys = [one.key for one in old]
    deleted: set[str] = set()
    named: frozenset[str] = frozenset()
    for start in range(0, len(keys), _AT_ONCE):
        batch = [key for key in keys[start : start + _AT_ONCE] if key not in named]
        delete_keys(store, batch)
        deleted.update(batch)
        bar("blobs", min(start + _AT_ONCE, len(keys)), len(keys))
        named = watch.named()
    lost = [key for key in sorted(named & deleted) if not store.exists(key)]
    if lost:
        raise CorruptError(
            f"somebody pushed binaries that name {len(lost)} blobs while they were deleted, "
            f"such as {lost[0]}",
            where=store.url,
            hint="push these binaries again, which brings the blobs back; mirror.verify names them",
        )
    return len(deleted)


class _Watch:
    """Which blobs are named, however the mirror changes: reads each new manifest once."""

    def __init__(self, store: Store, stock: Stock, kept: Sequence[Binary]) -> None:
        self._store = store
        self._layout = stock.layout
        self._blobs = {_sign(stock.manifests.listed[one.key]): one.blobs for one in kept}

    def named(self) -> frozenset[str]:
        """Keys of the blobs that any manifest names now. Raises StoreError for one that is none."""
        files = list(self._store.list("v3/" if self._layout == 3 else V2_SPECS))
        listed = [(key, one) for one in files if (key := manifest_hash(one.key))]
        new = [(key, one) for key, one in listed if _sign(one) not in self._blobs]
        manifests = read_manifests(self._store, self._layout, entries=new)
        others = read_others(self._store, files)
        for error in (*manifests.problems.values(), *others.problems.values()):
            raise error
        for binary in manifests.binaries:
            self._blobs[_sign(manifests.listed[binary.key])] = binary.blobs
        blobs = (blob.key for _, one in listed for blob in self._blobs.get(_sign(one), ()))
        return others.named.union(blobs)


def _sign(listed: Listed) -> tuple[str, str, int, float]:
    """What is another for a manifest of other content."""
    return listed.key, listed.stamp, listed.size_bytes, listed.modified_s
