"""Look into a few tarballs of a mirror: which install trees do its binaries come from?"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from stackyard.binary import Binary
from stackyard.edges.mirrors.contents import manifest_entries
from stackyard.edges.mirrors.layouts import read_binary
from stackyard.edges.parallel import parallel_map
from stackyard.edges.stores.store import Store
from stackyard.errors import NotFoundError
from stackyard.mirror import Layout
from stackyard.padding import HEAD_BYTES, Root, install_root

__all__ = ["root_of", "sample_binaries", "sample_roots"]

_LOOKED_AT = 20_000
_AT_ONCE = 8


def root_of(store: Store, binary: Binary) -> Root | None:
    """The install tree of one binary, by a range of its tarball; None where that does not tell.

    Raises StoreError, NotFoundError among them if the tarball is gone.
    """
    return install_root(store.read_range(binary.tarball.key, 0, HEAD_BYTES), binary.hash)


def sample_binaries(store: Store, layout: Layout, count: int) -> tuple[Binary, ...]:
    """Up to ``count`` binaries from all over the mirror; the same mirror gives the same ones.

    Raises StoreError; what is not there is passed over.
    """
    listed = islice(manifest_entries(store, layout), _LOOKED_AT)
    found = sorted((dag_hash, entry.key) for dag_hash, entry in listed)
    step = max(len(found) // max(count, 1), 1)

    def look(entry: tuple[str, str]) -> Binary | None:
        dag_hash, key = entry
        try:
            return read_binary(store, layout, key, dag_hash)
        except NotFoundError:
            return None

    return tuple(filter(None, parallel_map(look, found[::step][:count], workers=_AT_ONCE)))


def sample_roots(store: Store, layout: Layout, count: int) -> Mapping[str, Root | None]:
    """The install trees of up to ``count`` binaries, by DAG hash. Raises as above."""

    def look(binary: Binary) -> tuple[str, Root | None] | None:
        try:
            return binary.hash, root_of(store, binary)
        except NotFoundError:
            return None

    sample = sample_binaries(store, layout, count)
    return dict(filter(None, parallel_map(look, sample, workers=_AT_ONCE)))
