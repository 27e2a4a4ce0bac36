"""Look at all that prune decides about, and carry out what was decided."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
from stackyard.edges.mirrors.layouts import list_manifests
from stackyard.edges.mirrors.others import Others, list_files, loose, read_others
from stackyard.edges.mirrors.removing import delete_keys, leave_index
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
    blob_key,
    manifest_hash,
    parse_manifest,
)
from stackyard.oci import digest_key
from stackyard.prune import Holding, Loose, Policy, sort_loose

__all__ = ["Stock", "carry_out", "loose_blobs", "stock"]

#: So many blobs are deleted before somebody looks again whether one of them was named meanwhile.
_AT_ONCE = 1000

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

    Raises StoreError for a mirror that does not answer.
    """
    files = list_files(store, layout)  # before the manifests: see there
    manifests = read_manifests(
        store, layout, tick=lambda done, total: bar("manifests", done, total)
    )
    others = read_others(store, files)
    sizes = tarball_sizes(store, layout)
    binaries = [sized(binary, sizes) for binary in manifests.binaries]
    specs = _specs(store, layout, binaries, whole=whole, bar=bar)
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
    problems = {**manifests.problems, **others.problems}
    return Stock(layout, manifests, tuple(holdings), specs, files, others, problems)


def _name_in(key: str) -> str:
    """What the name of a manifest says, where its metadata say nothing."""
    name = key.rpartition("/")[2]
    for suffix in (".sig", ".spec.json", ".spec.manifest.json", ".spack"):
        name = name.removesuffix(suffix)
    return name


def _specs(
    store: Store, layout: Layout, binaries: Sequence[Binary], *, whole: bool, bar: Bar
) -> Mapping[str, Spec]:
    """Specs by hash: of the index, and of the metadata of binaries that it does not name."""
    found: dict[str, Spec] = {}
    try:
        for spec, _ in indexed_specs(store, layout) or ():
            found[spec.hash] = spec
    except CorruptError:  # then the metadata have to tell
        found.clear()
    unknown = [one for one in binaries if one.hash not in found]
    if not whole and layout != 2:  # whose metadata are read already
        return found
    tolerance = Tolerance()

    def read(binary: Binary) -> tuple[Spec, ...]:
        try:
            return read_specs(store, binary)
        except (NotFoundError, CorruptError):
            return ()
        except StoreError as error:
            tolerance.note(error)
            return ()

    for specs in parallel_map(
        read, unknown, workers=32, tick=lambda done, total: bar("specs", done, total)
    ):
        for spec in specs:
            found.setdefault(spec.hash, spec)
    return found


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
        state = parse_state(store.read(blob_key(record), max_bytes=record.size_bytes), where)
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

    A run that was killed is repeated as a whole. Whatever was pushed since ``stock`` stays.
    """
    keys = {one.key for one in gone}
    kept = [one for one in stock.manifests.binaries if one.key not in keys]
    hashes = {one.hash for one in gone} - {one.hash for one in kept}
    leave_index(store, stock.layout, hashes, kept)
    delete_keys(store, sorted(keys), tick=lambda done, total: bar("manifests", done, total))
    if keys:
        told(f"removed {len(keys)} manifests")
    # Whoever indexed the mirror since then saw the manifests, and may have put them back.
    still = {dag_hash for dag_hash, _ in list_manifests(store, stock.layout)}
    leave_index(store, stock.layout, hashes - still, kept)
    if stock.layout == "oci":
        return 0
    return _sweep(store, stock, kept, policy._replace(now_s=now()), bar=bar)


def _sweep(
    store: WritableStore, stock: Stock, kept: Sequence[Binary], policy: Policy, *, bar: Bar
) -> int:
    watch = _Watch(store, stock, kept)
    files = list_files(store, stock.layout)
    old = sort_loose(loose_blobs(store, stock.layout, files, watch.named()), policy).old
    keys = [one.key for one in old]
    count = 0
    for start in range(0, len(keys), _AT_ONCE):
        named = watch.named() if start else frozenset()
        batch = [key for key in keys[start : start + _AT_ONCE] if key not in named]
        delete_keys(store, batch)
        count += len(batch)
        bar("blobs", min(start + _AT_ONCE, len(keys)), len(keys))
    return count


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
