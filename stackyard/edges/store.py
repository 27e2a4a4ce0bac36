"""Places that hold a mirror's files, read only: a folder here, a web server in ``edges/web.py``.

A key is a relative path with ``/`` between its parts. Whatever the place, a key that is not there
is NotFoundError, a place that gives no usable answer is UnreachableError, and what we may not have
is DeniedError: nobody has to guess whether "no" means "not there".
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from time import sleep as real_sleep
from typing import Protocol
from urllib.parse import unquote

from stackyard.errors import CorruptError, DeniedError, NotFoundError, StoreError, UnreachableError

__all__ = [
    "INDEX_BYTES",
    "MANIFEST_BYTES",
    "FileStore",
    "ForbiddenError",
    "Store",
    "check_key",
    "open_store",
    "public_url",
]

INDEX_BYTES = 2 * 2**30
MANIFEST_BYTES = 20 * 10**6

_LONGEST_KEY = 1024  # bytes; S3's limit, and far below PATH_MAX
_LONGEST_PART = 255  # bytes; NAME_MAX

_BUCKETS = {"s3": "S3", "gs": "Google Cloud Storage", "oci": "OCI registries"}
_CREATE = "create the folder, fix the mirror's URL, or plan without mirrors: --no-prune"


class ForbiddenError(DeniedError):
    """HTTP 403: denied; or not there, on an S3 bucket that does not let everybody list it."""


class Store(Protocol):
    """Reading from a place. Every method raises StoreError or one of its kinds, naming the URL."""

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

    def exists(self, key: str) -> bool: ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """All keys that begin with the prefix; where none does, none."""
        ...

    def close(self) -> None:
        """Let go of connections; the store may be used no more."""
        ...


def open_store(
    url: str, *, timeout_s: float = 20.0, sleep: Callable[[float], None] = real_sleep
) -> Store:
    """The store behind ``file://``, a plain path, ``http://`` or ``https://``.

    Nothing is read yet. Raises StoreError for any other scheme, and for a URL that is none.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        return FileStore(url)
    scheme = scheme.lower()
    if scheme == "file":
        return FileStore(_local_path(url))
    if scheme in ("http", "https"):
        # Only here: http.client, ssl and urllib.request take some 40 ms to import, and a run on
        # folders has no use for them.
        from stackyard.edges.web import HttpStore

        return HttpStore(url, timeout_s=timeout_s, sleep=sleep)
    kind = scheme.partition("+")[0]
    what = _BUCKETS.get(kind, f"{scheme}:// URLs")
    raise StoreError(
        f"this version of stackyard reads mirrors on disk and over http(s), not {what}",
        where=public_url(url),
        hint="give the bucket's https address if it has one, or plan without mirrors: --no-prune"
        if kind in ("s3", "gs")
        else "copy the mirror to a folder or a web server, or plan without mirrors: --no-prune",
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
        or any(ord(character) < 32 or character in "\\\x7f" for character in key)
        or len(os.fsencode(key)) > _LONGEST_KEY
        or any(len(os.fsencode(part)) > _LONGEST_PART for part in parts)
    ):
        shown = repr(key) if len(key) < 120 else f"{key[:117]!r}..."
        raise StoreError(f"{shown} cannot be the path of a file on a mirror")


class FileStore:
    """A folder. Nothing outside of it is ever read, whatever symbolic links say."""

    def __init__(self, root: str | Path) -> None:
        self._root = os.path.abspath(os.path.expanduser(root))  # noqa: PTH100, PTH111
        self._real: str | None = None

    @property
    def url(self) -> str:
        return f"file://{self._root}"

    @property
    def is_there(self) -> bool:
        """Whether the folder itself exists."""
        return os.path.isdir(self._root)  # noqa: PTH112

    def read(self, key: str, *, max_bytes: int = MANIFEST_BYTES) -> bytes:
        where = self._where(key)
        with closing(self._open(key)) as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise CorruptError(f"the file is larger than {max_bytes} bytes", where=where)
        return data

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with closing(self._open(key)) as file:
            file.seek(start)
            return file.read(max(length, 0))

    def exists(self, key: str) -> bool:
        try:
            self._open(key).close()
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[str]:
        check_key(prefix, prefix=True)
        folder = prefix.rpartition("/")[0]
        self._inside(folder)
        for key in self._walk(folder):
            if key.startswith(prefix):
                yield key

    def close(self) -> None:
        """Nothing stays open."""

    def _walk(self, folder: str) -> Iterator[str]:
        """Regular files below a folder, sorted; links are given, links to folders not followed."""
        try:
            with os.scandir(os.path.join(self._root, folder)) as entries:  # noqa: PTH118
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            problem = self._problem(error, folder)
            if isinstance(problem, NotFoundError):
                return
            raise problem from None
        for entry in found:
            key = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(key)
            elif _is_file(entry):
                yield key

    def _inside(self, key: str) -> str:
        """The real path of a key; CorruptError if a symbolic link leads outside of the folder."""
        if self._real is None:
            self._real = os.path.realpath(self._root)
        path = os.path.realpath(os.path.join(self._real, key))  # noqa: PTH118
        if path != self._real and not path.startswith(self._real.rstrip("/") + "/"):
            raise CorruptError(
                "a symbolic link leads outside of the mirror",
                where=self._where(key),
                hint="put the file itself there",
            )
        return path

    def _open(self, key: str) -> _File:
        check_key(key)
        try:
            # Without O_NONBLOCK a named pipe on the mirror would stop us for ever.
            number = os.open(self._inside(key), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise self._problem(error, key) from None
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            os.close(number)
            raise CorruptError("not a regular file", where=self._where(key))
        return _File(number, status.st_size, self._where(key))

    def _problem(self, error: OSError, key: str) -> StoreError:
        where = self._where(key)
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            if not self.is_there:
                return UnreachableError("the folder does not exist", where=self.url, hint=_CREATE)
            return NotFoundError("there is no such file", where=where)
        if error.errno in (errno.EACCES, errno.EPERM):
            return DeniedError("we may not read it", where=where, hint="look at its permissions")
        if error.errno == errno.ELOOP:
            return CorruptError("its symbolic links run in a circle", where=where)
        return UnreachableError(f"it cannot be read: {error.strerror}", where=where)

    def _where(self, key: str) -> str:
        return f"{self.url}/{key}"


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link in a circle; whoever reads it is told
        return True


class _File:
    """An open file whose faults name it."""

    def __init__(self, number: int, size: int, where: str) -> None:
        self._file = os.fdopen(number, "rb")
        self._size = size
        self._where = where

    def close(self) -> None:
        self._file.close()

    def seek(self, start: int) -> None:
        self._file.seek(start)

    def read(self, size: int) -> bytes:
        try:
            # Python sets memory aside for all that is asked for, so ask for little.
            return self._file.read(min(size, self._size + 1))
        except OSError as error:  # a disk or a network file system that fails
            raise UnreachableError(
                f"it cannot be read: {error.strerror}", where=self._where
            ) from None
