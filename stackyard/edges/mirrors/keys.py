"""Public keys in files and on mirrors.

On a mirror they lie where Spack puts them (``_url_push_keys`` and ``get_keys`` in
``binary_distribution.py`` of Spack 1.1), and nothing there is signed: whoever can write to a mirror
can put a key on it. So keys from mirrors are shown to people, and never trusted by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from stackyard.binary import Blob, dump_manifest
from stackyard.edges.files import read_bytes
from stackyard.edges.mirrors.layouts import layouts_of
from stackyard.edges.stores.store import ForbiddenError, Store, WritableStore
from stackyard.errors import ConfigError, ConflictError, CorruptError, NotFoundError, StoreError
from stackyard.mirror import (
    KEY_INDEX,
    KEY_MANIFESTS,
    KEY_TYPE,
    LAYOUT_JSON,
    LAYOUT_MARKER,
    V2_KEY_INDEX,
    V2_KEYS,
    Record,
    blob_key,
    key_manifest_key,
    parse_json,
    parse_manifest,
)

__all__ = ["PublishedKey", "key_files", "publish_keys", "published_keys", "read_keys"]

#: Endings of files that hold public keys.
KEY_SUFFIXES = (".pub", ".asc", ".gpg", ".key")
_KEY_BYTES = 10 * 2**20
_MOST_KEYS = 500
_TRIES = 20


class PublishedKey(NamedTuple):
    """What a mirror has under a fingerprint. ``problem``: why it cannot be read, else empty.

    ``listed``: the mirror's list of keys names it, so that Spack finds it.
    """

    fingerprint: str
    where: str
    listed: bool
    data: bytes
    problem: str


def key_files(folder: Path, where: str) -> tuple[Path, ...]:
    """The key files in a folder, none if there is no such folder. Raises ConfigError."""
    try:
        found = [file for file in folder.iterdir() if file.suffix.lower() in KEY_SUFFIXES]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"cannot read the folder: {reason}", where=where) from None
    return tuple(sorted(found))


def read_keys(path: Path, where: str) -> tuple[tuple[str, bytes], ...]:
    """The key files at a path: the file itself, or those in the folder; name and bytes of each.

    Raises ConfigError naming ``where`` if there is nothing, or no key file in the folder.
    """
    files: tuple[tuple[Path, str], ...] = ((path, where),)
    if path.is_dir():
        files = tuple((file, f"{where}/{file.name}") for file in key_files(path, where))
    if not files:
        raise ConfigError(
            "no key file is in the folder",
            where=where,
            hint=f"their names end in {', '.join(KEY_SUFFIXES)}",
        )
    return tuple((name, _content(file, name)) for file, name in files)


def _content(path: Path, where: str) -> bytes:
    try:
        return read_bytes(path, ConfigError, limit_bytes=_KEY_BYTES)
    except ConfigError as error:
        raise ConfigError(error.message, where=where) from None


def published_keys(store: Store) -> tuple[PublishedKey, ...]:
    """All keys on a mirror of layout 3 or 2, by fingerprint; those that nothing lists as well.

    Raises StoreError, for a registry too: that has no place for keys.
    """
    _need_place(store)
    found: dict[str, PublishedKey] = {}
    for key in (*_v3_keys(store), *_v2_keys(store)):
        found.setdefault(key.fingerprint, key)
    return tuple(found[name] for name in sorted(found))


def _need_place(store: Store) -> None:
    if store.url.startswith(("oci://", "oci+http://")):
        raise StoreError(
            "a registry has no place for keys, and binaries there carry no signature",
            where=store.url,
            hint="hand out the key file itself, or use a folder, S3 or GCS",
        )


def _v3_keys(store: Store) -> Iterator[PublishedKey]:
    listed = _v3_list(store)
    suffix = ".key.manifest.json"
    names = {key[len(KEY_MANIFESTS) : -len(suffix)] for key in _keys_below(store, suffix)}
    for name in sorted(names | listed)[:_MOST_KEYS]:
        with suppress(CorruptError):  # no name of a key: nobody can ask for it
            key = key_manifest_key(name)
            yield _published(store, name, key, listed=name in listed)


def _v3_list(store: Store) -> frozenset[str]:
    """Fingerprints that the list of keys names; Spack takes its first blob, whatever its type."""
    try:
        manifest = parse_manifest(store.read(KEY_INDEX), f"{store.url}/{KEY_INDEX}")
    except (NotFoundError, ForbiddenError):
        return frozenset()
    if not manifest.records:
        raise CorruptError("it names no list of keys", where=f"{store.url}/{KEY_INDEX}")
    return _names(_read(store, manifest.records[0]), f"{store.url}/{KEY_INDEX}")


def _names(data: bytes, where: str) -> frozenset[str]:
    """Out of ``{"keys": {FINGERPRINT: {}}}``."""
    document = parse_json(data, where, "list of keys")
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, dict):
        raise CorruptError("it is no list of keys", where=where)
    return frozenset(keys)


def _keys_below(store: Store, suffix: str) -> list[str]:
    if store.url.startswith(("http://", "https://")):  # web servers list nothing
        return []
    return [found.key for found in store.list(KEY_MANIFESTS) if found.key.endswith(suffix)]


def _read(store: Store, record: Record) -> bytes:
    from stackyard.edges.mirrors.transfer import read_blob

    blob = Blob(blob_key(record), record.size_bytes, record.checksum)
    return read_blob(store, blob, max_bytes=_KEY_BYTES)


def _published(store: Store, name: str, key: str, *, listed: bool) -> PublishedKey:
    where = f"{store.url}/{key}"
    data, problem = b"", ""
    try:
        if key.endswith(".pub"):
            data = store.read(key, max_bytes=_KEY_BYTES)
        else:
            records = parse_manifest(store.read(key), where).records
            data = _read(store, records[0]) if records else b""
    except NotFoundError:
        problem = "the list of keys names it, and it is not there"
    except CorruptError as error:
        problem = error.message
    return PublishedKey(name, where, listed, data, problem)


def _v2_keys(store: Store) -> Iterator[PublishedKey]:
    try:
        names = _names(store.read(V2_KEY_INDEX), f"{store.url}/{V2_KEY_INDEX}")
    except (NotFoundError, ForbiddenError):
        return
    for name in sorted(names)[:_MOST_KEYS]:
        with suppress(CorruptError):
            key_manifest_key(name)  # a fingerprint, and nothing that leads elsewhere
            yield _published(store, name, f"{V2_KEYS}{name}.pub", listed=True)


def publish_keys(store: WritableStore, keys: Mapping[str, bytes]) -> tuple[str, ...]:
    """Put armored public keys, by fingerprint, onto a mirror, and list them for Spack.

    Gives those that were not there as they are now. The blob comes before its manifest, and the
    list last. Raises StoreError, for a registry and for a mirror of layout 2 too.
    """
    from stackyard.edges.mirrors.indexing import write_key_index

    _need_place(store)
    if layouts_of(store) == (2,):
        raise StoreError(
            "the mirror has layout 2, which is only read here",
            where=store.url,
            hint="publish with the Spack that writes it: spack gpg publish",
        )
    new = tuple(name for name, data in keys.items() if _put(store, name, data))
    if not store.exists(LAYOUT_MARKER):
        with suppress(ConflictError):
            store.create(LAYOUT_MARKER, LAYOUT_JSON)
    for left in reversed(range(_TRIES)):
        try:
            write_key_index(store)
            break
        except ConflictError:
            if not left:
                raise
    return new


def _put(store: WritableStore, fingerprint: str, data: bytes) -> bool:
    from hashlib import sha256

    record = Record(
        media_type=KEY_TYPE,
        size_bytes=len(data),
        compression="none",
        checksum=sha256(data).hexdigest(),
    )
    key, manifest = key_manifest_key(fingerprint), dump_manifest([record])
    if store.exists(key) and store.read(key) == manifest and store.exists(blob_key(record)):
        return False
    store.write(blob_key(record), data)
    store.write(key, manifest)
    return True
