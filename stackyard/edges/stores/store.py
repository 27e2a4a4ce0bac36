"""Places that hold a mirror's files: what they can do, and how one is opened.

A key is a relative path with ``/`` between its parts. Whatever the place, a key that is not there
is NotFoundError, a place that gives no usable answer is UnreachableError, and what we may not have
is DeniedError: nobody has to guess whether "no" means "not there".
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from time import sleep as real_sleep
from typing import NamedTuple, Protocol, TypeGuard
from urllib.parse import unquote

from stackyard.errors import DeniedError, StoreError

__all__ = [
    "ANONYMOUS",
    "INDEX_BYTES",
    "MANIFEST_BYTES",
    "PIECE_BYTES",
    "Access",
    "ForbiddenError",
    "Listed",
    "Store",
    "Versioned",
    "WritableStore",
    "check_key",
    "is_on_disk",
    "is_writable",
    "open_store",
    "public_url",
    "writable",
]

INDEX_BYTES = 2 * 2**30
MANIFEST_BYTES = 20 * 10**6
#: A stream gives about so many bytes at a time. Larger pieces fall out of the processor's cache
#: between network, checksum and disk: a mebibyte costs a third more time.
PIECE_BYTES = 2**18

_LONGEST_KEY = 1024  # bytes; S3's limit, and far below PATH_MAX
_LONGEST_PART = 255  # bytes; NAME_MAX
_STRANGE = re.compile(r"[\x00-\x1f\x7f\\]")


class ForbiddenError(DeniedError):
    """HTTP 403: denied; or not there, on an S3 bucket that does not let everybody list it."""


class Listed(NamedTuple):
    """What a listing tells of a key.

    ``stamp`` differs whenever the content does (an ETag, a generation, an inode with its times);
    it is empty where the place tells nothing of the kind.
    """

    key: str
    size_bytes: int
    modified_s: float  # seconds since the epoch; 0.0 where the place does not tell
    stamp: str


class Versioned(NamedTuple):
    """Bytes, and the version that ``replace`` wants to hear of; it is not a ``stamp``."""

    data: bytes
    version: str


class Store(Protocol):
    """Reading from a place. Every method raises StoreError or one of its kinds, naming the URL.

    All methods may be called by many threads at once.
    """

    @property
    def url(self) -> str:
        """The place, fit to be printed: without user, password and query."""
        ...

    def read(self, key: str, *, max_bytes: int = MANIFEST_BYTES) -> bytes:
        """All bytes; CorruptError if there are more than ``max_bytes``."""
        ...

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``start``; fewer, or none, where the file ends earlier."""
        ...

    def stream(self, key: str, start: int = 0) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes from ``start`` on, piece by piece, none where the file ends earlier.

        What breaks off raises UnreachableError from the iterator; nothing is tried again there,
        because only the caller knows what arrived.
        """
        ...

    def exists(self, key: str) -> bool: ...

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """All keys that begin with the prefix, in any order; where none does, none."""
        ...

    def close(self) -> None:
        """Let go of connections; the store may be used no more."""
        ...


class WritableStore(Store, Protocol):
    """Writing to a place. A key appears whole or not at all."""

    @property
    def atomic(self) -> bool:
        """Whether ``create`` and ``replace`` hold against other writers.

        False where the place has nothing of the kind: there they look first, write, and look again.
        """
        ...

    def write(self, key: str, data: bytes) -> None:
        """Write, whatever was there."""
        ...

    def upload(self, key: str, path: Path) -> None:
        """Write the content of a local file, of any size, without holding it in memory."""
        ...

    def read_version(self, key: str, *, max_bytes: int = MANIFEST_BYTES) -> Versioned:
        """The bytes with their version. NotFoundError if there are none."""
        ...

    def create(self, key: str, data: bytes) -> str:
        """Write what is not there yet; gives its version. ConflictError if it is there."""
        ...

    def replace(self, key: str, data: bytes, version: str) -> str:
        """Write over just this version; gives the new one. ConflictError for any other, or none."""
        ...

    def delete(self, key: str) -> None:
        """Remove; what is not there stays so."""
        ...


class Access(NamedTuple):
    """How to get into a place: values, not names of variables. Empty: as the environment says."""

    id: str = ""
    secret: str = ""
    token: str = ""  # S3: the session token; OCI: a bearer token
    profile: str = ""
    endpoint_url: str = ""

    def __repr__(self) -> str:
        """Without the secrets."""
        return f"Access(profile={self.profile!r}, endpoint_url={self.endpoint_url!r})"


ANONYMOUS = Access()


def open_store(
    url: str,
    access: Access = ANONYMOUS,
    *,
    timeout_s: float = 20.0,
    sleep: Callable[[float], None] = real_sleep,
) -> Store:
    """The store behind a URL, or behind a plain path, which is a folder. Nothing is read yet.

    Schemes: ``file``, ``http``, ``https`` (both read only), ``s3``, ``gs``, ``oci``, ``oci+http``.
    Raises StoreError for any other, and for a URL that is none.
    """
    from stackyard.edges.stores.folder import FileStore

    scheme, separator, _ = url.partition("://")
    if not separator:
        return FileStore(url)
    scheme = scheme.lower()
    if scheme == "file":
        return FileStore(_local_path(url))
    # Each of these brings a library that takes long to import, and a run on folders has no use
    # for it.
    if scheme in ("http", "https"):
        from stackyard.edges.stores.web import HttpStore

        return HttpStore(url, timeout_s=timeout_s, sleep=sleep)
    if scheme == "s3":
        from stackyard.edges.stores.s3 import S3Store

        return S3Store(url, access, timeout_s=timeout_s, sleep=sleep)
    if scheme == "gs":
        from stackyard.edges.stores.gcs import open_gs

        return open_gs(url, access, timeout_s=timeout_s, sleep=sleep)
    if scheme in ("oci", "oci+http"):
        from stackyard.edges.stores.oci import OciStore

        return OciStore(url, access, timeout_s=timeout_s, sleep=sleep)
    raise StoreError(
        f"no mirror can be at {scheme}:// URLs",
        where=public_url(url),
        hint="a mirror is a folder, or at file://, http(s)://, s3://, gs:// or oci://",
    )


def is_on_disk(store: Store) -> bool:
    """Whether the place is a folder, which answers at once if it is not that of a file server."""
    return store.url.startswith("file://")


def is_writable(store: Store) -> TypeGuard[WritableStore]:
    """Whether a store is one that can be written to."""
    # Before Python 3.12 isinstance() would ask the instance for ``atomic``, which some find out by
    # writing.
    return hasattr(type(store), "upload")


def writable(store: Store) -> WritableStore:
    """The same store, if it can be written to. Raises StoreError if it cannot."""
    if is_writable(store):
        return store
    raise StoreError(
        "a mirror behind http(s) can only be read",
        where=store.url,
        hint="name the folder or the bucket itself",
    )


def _local_path(url: str) -> str:
    host, slash, rest = url[len("file://") :].partition("/")
    path = unquote(slash + rest)
    if host not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise StoreError(
            "a file URL needs three slashes and an absolute path",
            where=public_url(url),
            hint="for example file:///srv/mirror",
        )
    return path


def public_url(url: str) -> str:
    """The URL without what could be a secret: user, password, query, fragment."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    place, slash, path = rest.partition("/")
    if "@" in path and "@" not in place and not re.fullmatch(r"[^:]*(:[0-9]*)?|\[.*", place):
        # No host has such a port: it is a password with a slash that nobody quoted.
        place, slash, path = path.rpartition("@")[2].partition("/")
    host = place.rpartition("@")[2].partition("?")[0].partition("#")[0]
    return f"{scheme}://{host}{slash}{path.partition('?')[0].partition('#')[0]}"


def check_key(key: str, *, prefix: bool = False) -> None:
    """Refuse a key that could lead elsewhere: absolute, ``..``, control characters, over-long.

    A prefix may be empty and may end within a name or behind a slash. Raises StoreError.
    """
    if prefix and not key:
        return
    parts = key.split("/")
    if prefix and not parts[-1]:
        parts.pop()
    if (
        not all(part not in ("", ".", "..") for part in parts)
        or _STRANGE.search(key)
        or len(os.fsencode(key)) > _LONGEST_KEY
        or any(len(os.fsencode(part)) > _LONGEST_PART for part in parts)
    ):
        shown = repr(key) if len(key) < 120 else f"{key[:117]!r}..."
        raise StoreError(f"{shown} cannot be the path of a file on a mirror")
