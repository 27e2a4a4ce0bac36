"""Empty a mirror: what it names goes first, so that nothing is ever named that is not there."""

from __future__ import annotations

from typing import NamedTuple

from stackyard.edges.mirrors.removing import delete_keys
from stackyard.edges.parallel import Tick
from stackyard.edges.stores.store import Store, WritableStore
from stackyard.oci import INDEX_TAG, MANIFESTS, manifest_key

__all__ = ["Contents", "delete_contents", "list_contents"]

#: Where the files of a mirror lie, in the order in which they go: indices, manifests, blobs.
_ROOTS = ("v3/manifests/index/", "v3/", "build_cache/", "blobs/")


class Contents(NamedTuple):
    """All that lies at a place: keys in the order in which they go, and what is no mirror's."""

    keys: tuple[tuple[str, ...], ...]
    size_bytes: int
    foreign: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        return sum(map(len, self.keys))


def list_contents(store: Store) -> Contents:
    """Raises StoreError where the place cannot be listed. Of a registry sizes are not known."""
    if store.url.startswith(("oci://", "oci+http://")):
        tags = [listed.key for listed in store.list(MANIFESTS)]
        index = manifest_key(INDEX_TAG)
        return Contents(
            (
                tuple(key for key in tags if key == index),
                tuple(key for key in tags if key != index),
            ),
            0,
        )
    groups: dict[str, list[str]] = {root: [] for root in _ROOTS}
    foreign: list[str] = []
    size = 0
    for listed in store.list():
        root = next((root for root in _ROOTS if listed.key.startswith(root)), None)
        if root is None:
            foreign.append(listed.key)
            continue
        groups[root].append(listed.key)
        size += listed.size_bytes
    return Contents(tuple(tuple(keys) for keys in groups.values()), size, tuple(sorted(foreign)))


def delete_contents(
    store: WritableStore,
    contents: Contents,
    *,
    tick: Tick = lambda done, total: None,  # noqa: ARG005
) -> None:
    """Delete what was listed; what is gone already is no error. Raises StoreError otherwise."""
    before = 0
    for keys in contents.keys:
        start = before

        def told(done: int, _: int, start: int = start) -> None:
            tick(start + done, contents.number)

        delete_keys(store, keys, tick=told)
        before += len(keys)
