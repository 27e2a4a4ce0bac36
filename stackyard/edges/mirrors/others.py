"""What lies on a mirror beside its binaries: keys, the list of keys, indices, and what nobody names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from stackyard.binary import Blob
from stackyard.edges.mirrors.contents import can_list
from stackyard.edges.mirrors.verifying import difference, read_whole
from stackyard.edges.stores.store import Listed, Store
from stackyard.errors import CorruptError, NotFoundError, StoreError
from stackyard.mirror import (
    INDEX_MANIFEST,
    KEY_INDEX,
    KEY_INDEX_TYPE,
    KEY_MANIFESTS,
    LAYOUT_MARKER,
    SPEC_MANIFESTS,
    V2_INDEX,
    V2_INDEX_HASH,
    V2_KEY_INDEX,
    V2_KEYS,
    V2_SPECS,
    Layout,
    blob_key,
    manifest_hash,
    parse_json,
    parse_manifest,
)
from stackyard.verify import Fault

__all__ = [
    "Other",
    "Others",
    "check_keys",
    "check_others",
    "index_key",
    "key_blobs",
    "key_list",
    "list_files",
    "listed_keys",
    "loose",
    "read_others",
]

_ROOTS: Mapping[Layout, tuple[str, ...]] = {3: ("blobs/", "v3/"), 2: (V2_SPECS,), "oci": ()}
_MANIFEST = ".manifest.json"
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{2})/(?=\1)[0-9a-f]{64}")
_KEY_NAME = re.compile(
    rf"{re.escape(KEY_MANIFESTS)}([0-9A-F]{{40}}|[0-9A-F]{{64}})\.key\.manifest\.json"
)
_V2_KEY_NAME = re.compile(rf"{re.escape(V2_KEYS)}([0-9A-F]{{40}}|[0-9A-F]{{64}})\.pub")
_SPECS = (SPEC_MANIFESTS, V2_SPECS)
_KNOWN = frozenset({LAYOUT_MARKER, V2_INDEX, V2_INDEX_HASH, V2_KEY_INDEX})


class Other(NamedTuple):
    """A manifest that is not of a binary, and the blobs that it names."""

    key: str
    blobs: tuple[Blob, ...]


class Others(NamedTuple):
    """All of those; ``problems`` are of the ones that cannot be read, by key."""

    manifests: tuple[Other, ...]
    problems: Mapping[str, StoreError]

    @property
    def named(self) -> frozenset[str]:
        """Keys of the blobs that they name."""
        return frozenset(blob.key for other in self.manifests for blob in other.blobs)


def list_files(store: Store, layout: Layout) -> tuple[Listed, ...]:
    """Everything of one layout; nothing where the place cannot be listed, or is a registry.

    Blobs come first: whatever is pushed in the meantime has its blobs there before its manifest.
    """
    if not can_list(store):
        return ()
    return tuple(listed for root in _ROOTS[layout] for listed in store.list(root))


def read_others(store: Store, files: Iterable[Listed]) -> Others:
    """Read the manifests of keys and indices, by whatever name Spack or we gave them."""
    manifests: list[Other] = []
    problems: dict[str, StoreError] = {}
    for key in (listed.key for listed in files):
        if not key.startswith("v3/") or not key.endswith(_MANIFEST):
            continue
        if key.startswith(SPEC_MANIFESTS):
            continue
        try:
            manifest = parse_manifest(store.read(key), f"{store.url}/{key}")
        except NotFoundError:
            continue
        except StoreError as error:
            problems[key] = error
        else:
            records = manifest.records
            blobs = (Blob(blob_key(one), one.size_bytes, one.checksum) for one in records)
            manifests.append(Other(key, tuple(blobs)))
    return Others(tuple(manifests), problems)


def check_others(store: Store, others: Others) -> Iterator[Fault]:
    """Whether these manifests can be read and their blobs are what they say."""
    for key, error in others.problems.items():
        kind = _kind(key) if isinstance(error, CorruptError) else "unknown"
        yield Fault(kind, key, error.message)
    for other in others.manifests:
        for blob in other.blobs:
            try:
                problem = difference(blob, read_whole(store, blob.key, limit=blob.size_bytes))
            except NotFoundError:
                problem = "it is not there"
            except CorruptError as error:
                problem = error.message
            except StoreError as error:
                yield Fault("unknown", blob.key, error.message)
                continue
            if problem:
                yield Fault(_kind(other.key), other.key, f"{blob.key}: {problem}")


def _kind(key: str) -> str:
    if key == KEY_INDEX:
        return "key-index"
    return "key" if key.startswith(KEY_MANIFESTS) else "index-broken"


def check_keys(
    store: Store, layout: Layout, files: Iterable[Listed], others: Others
) -> Iterator[Fault]:
    """Whether the list of keys, from which Spack learns what keys there are, names those there."""
    keys = _names_of_keys(layout, files)
    where = KEY_INDEX if layout == 3 else V2_KEY_INDEX
    if where in others.problems:
        return
    blob = _key_list(layout, others)
    try:
        named = _fingerprints(store.read(blob)) if blob else None
    except NotFoundError:
        if layout == 3:  # told with the other manifests, as is all else that is wrong with it
            return
        blob, named = "", None
    except StoreError:
        return
    if named is None:
        if blob:
            yield Fault("key-index", where, "it is no list of keys")
        elif keys:
            yield Fault("key-index", where, "it is not there, so Spack finds no key")
        return
    for fingerprint in sorted(keys - named):
        yield Fault("key-index", where, f"it lacks {fingerprint}, so Spack does not find that key")
    for fingerprint in sorted(named - keys):
        yield Fault("key-index", where, f"it names {fingerprint}, which is not there")


def listed_keys(store: Store, layout: Layout) -> frozenset[str]:
    """Fingerprints of the public keys that lie on a mirror."""
    return _names_of_keys(layout, store.list(KEY_MANIFESTS if layout == 3 else V2_KEYS))


def _names_of_keys(layout: Layout, files: Iterable[Listed]) -> frozenset[str]:
    pattern = _KEY_NAME if layout == 3 else _V2_KEY_NAME
    matches = (pattern.fullmatch(listed.key) for listed in files)
    return frozenset(match[1] for match in matches if match)


def index_key(layout: Layout) -> str:
    """Where a layout has its index."""
    if layout == "oci":
        from stackyard.oci import INDEX_TAG, manifest_key

        return manifest_key(INDEX_TAG)
    return INDEX_MANIFEST if layout == 3 else V2_INDEX


def key_blobs(
    layout: Layout, files: Iterable[Listed], others: Others
) -> Mapping[str, tuple[str, str]]:
    """By fingerprint: the file that says which key it is, and the file with the key itself."""
    if layout == 2:
        matches = (_V2_KEY_NAME.fullmatch(listed.key) for listed in files)
        return {match[1]: (match[0], match[0]) for match in matches if match}
    named = ((_KEY_NAME.fullmatch(one.key), one) for one in others.manifests if one.blobs)
    return {match[1]: (one.key, one.blobs[0].key) for match, one in named if match}


def key_list(store: Store, layout: Layout) -> frozenset[str] | None:
    """Fingerprints that the list of keys names; None if there is no list, or it is none."""
    key = V2_KEY_INDEX
    try:
        if layout == 3:
            manifest = parse_manifest(store.read(KEY_INDEX), f"{store.url}/{KEY_INDEX}")
            record = manifest.record(KEY_INDEX_TYPE)
            if record is None:
                return None
            key = blob_key(record)
        return _fingerprints(store.read(key))
    except (NotFoundError, CorruptError):
        return None


def _key_list(layout: Layout, others: Others) -> str:
    """Key of the file that lists the keys; empty without one."""
    if layout == 2:
        return V2_KEY_INDEX
    lists = [other for other in others.manifests if other.key == KEY_INDEX and other.blobs]
    return lists[0].blobs[0].key if lists else ""


def _fingerprints(data: bytes) -> frozenset[str] | None:
    """Out of ``{"keys": {FINGERPRINT: {}}}``; None if it is nothing of the kind."""
    try:
        return frozenset(map(str, parse_json(data, "", "list of keys")["keys"]))
    except (CorruptError, KeyError, TypeError):
        return None


def loose(
    layout: Layout, files: Iterable[Listed], named: Collection[str]
) -> Iterator[tuple[str, Listed]]:
    """Files that nothing names, each as ``orphan`` (a blob) or ``stray`` (what no mirror has)."""
    for listed in files:
        key = listed.key
        if key in named or key in _KNOWN or (manifest_hash(key) and key.startswith(_SPECS)):
            continue
        if _BLOB.fullmatch(key) or (layout == 2 and key.endswith(".spack")):
            yield "orphan", listed
        elif not _has_place(key):
            yield "stray", listed


def _has_place(key: str) -> bool:
    """Whether the file is a manifest of layout 3 that is read elsewhere, or a key of layout 2."""
    if key.startswith(SPEC_MANIFESTS):  # without a hash in its name
        return False
    return bool(_V2_KEY_NAME.fullmatch(key)) or (
        key.startswith("v3/manifests/") and key.endswith(_MANIFEST)
    )
