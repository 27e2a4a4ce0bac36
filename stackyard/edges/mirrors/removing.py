"""Take binaries off a mirror, in an order in which nothing is ever named that is not there.

First they leave the index, then their manifests go, and their blobs last of all. Whoever is killed
in between begins again: no step minds that it was done already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from stackyard.binary import Binary, parse_metadata
from stackyard.edges.mirrors.layouts import list_manifests
from stackyard.edges.parallel import Tick, parallel_map
from stackyard.edges.stores.store import WritableStore
from stackyard.mirror import V2_KEY_INDEX, Layout

__all__ = ["delete_keys", "remove_binaries", "write_v2_index", "write_v2_keys"]


def remove_binaries(
    store: WritableStore,
    layout: Layout,
    gone: Mapping[str, str],
    kept: Sequence[Binary],
    *,
    tick: Tick = lambda done, total: None,  # noqa: ARG005
) -> None:
    """Take binaries out of the index, and delete their manifests.

    ``gone`` has the DAG hash of each manifest by key; in layout 2 the index is made anew of what is
    ``kept``. Raises StoreError; CorruptError for an index that is broken.
    """
    hashes = frozenset(gone.values()) - {one.hash for one in kept}
    _leave_index(store, layout, hashes, kept)
    delete_keys(store, sorted(gone), tick=tick)
    # Whoever has indexed the mirror since then saw the manifests: they may be named again, or be
    # about to.
    still = {dag_hash for dag_hash, _ in list_manifests(store, layout)}
    _leave_index(store, layout, hashes - still, kept, anyhow=True)


def _leave_index(
    store: WritableStore,
    layout: Layout,
    hashes: Collection[str],
    kept: Sequence[Binary],
    *,
    anyhow: bool = False,
) -> None:
    if not hashes:
        return
    if layout != 2:
        from stackyard.edges.mirrors.indexing import remove_from_index

        remove_from_index(store, hashes, anyhow=anyhow)
        return
    from stackyard.edges.mirrors.indexing import read_index

    view = read_index(store, 2)
    if view and any(present and key in hashes for key, _, present in view.nodes()):
        write_v2_index(store, kept)


def write_v2_index(store: WritableStore, binaries: Iterable[Binary]) -> None:
    """Write the index of layout 2 and its checksum. Raises CorruptError for wrong metadata."""
    from stackyard.edges.mirrors.indexing import write_index

    write_index(
        store,
        (parse_metadata(one.manifest, f"{store.url}/{one.key}") for one in binaries),
        layout=2,
    )


def write_v2_keys(store: WritableStore, fingerprints: Iterable[str]) -> None:
    """Write layout 2's list of keys."""
    import json

    document: dict[str, dict[str, object]] = {
        "keys": {fingerprint: {} for fingerprint in sorted(fingerprints)}
    }
    store.write(V2_KEY_INDEX, json.dumps(document).encode())


def delete_keys(
    store: WritableStore,
    keys: Iterable[str],
    *,
    workers: int = 16,
    tick: Tick = lambda done, total: None,  # noqa: ARG005
) -> None:
    """Delete; what is gone already is no error. Raises StoreError for what cannot be deleted."""
    parallel_map(store.delete, keys, workers=workers, tick=tick)
