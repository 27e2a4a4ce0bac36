"""The index of the public keys on a mirror of layout 3."""

from __future__ import annotations

import json
from contextlib import suppress

from stackyard.binary import dump_manifest
from stackyard.edges.mirrors.published import record_of
from stackyard.edges.stores.store import Store, Versioned, WritableStore
from stackyard.errors import ConflictError, CorruptError, NotFoundError
from stackyard.mirror import (
    KEY_INDEX,
    KEY_INDEX_TYPE,
    KEY_MANIFESTS,
    blob_key,
    key_manifest_key,
)

__all__ = ["write_key_index"]

_TRIES = 30
_KEY_MANIFEST = ".key.manifest.json"


def write_key_index(store: WritableStore) -> int | None:
    """Write the index of the public keys that lie on a mirror of layout 3, if it has changed.

    Gives how many keys there are; None where the index says so already. Spack 1.1 writes the same
    (``generate_key_index`` in ``binary_distribution.py``).
    """
    for _ in range(_TRIES):
        with suppress(ConflictError):
            return _write_key_index(store)
    raise ConflictError("others write it all the time", where=f"{store.url}/{KEY_INDEX}")


def _write_key_index(store: WritableStore) -> int | None:
    keys = _listed_keys(store)
    old = _version(store, KEY_INDEX)
    if not keys and not old:
        return None
    document: dict[str, object] = {"keys": {fingerprint: {} for fingerprint in keys}}
    data = json.dumps(document, separators=(",", ":")).encode()
    record = record_of(KEY_INDEX_TYPE, data)
    manifest = dump_manifest([record])
    if old and old.data == manifest and store.exists(blob_key(record)):
        return None
    store.write(blob_key(record), data)
    if old:
        store.replace(KEY_INDEX, manifest, old.version)
    else:
        store.create(KEY_INDEX, manifest)
    return len(keys)


def _version(store: WritableStore, key: str) -> Versioned | None:
    try:
        return store.read_version(key)
    except NotFoundError:
        return None


def _listed_keys(store: Store) -> list[str]:
    """Fingerprints of the keys that have a manifest."""
    found = []
    for listed in store.list(KEY_MANIFESTS):
        fingerprint = listed.key[len(KEY_MANIFESTS) :].removesuffix(_KEY_MANIFEST)
        with suppress(CorruptError):  # a file of another kind
            if key_manifest_key(fingerprint) == listed.key:
                found.append(fingerprint)
    return sorted(found)
