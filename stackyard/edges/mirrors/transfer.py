"""Bring blobs from a mirror to this disk: verified while they stream, continued where they broke.

A checksum is that of the bytes as they are stored, so nothing is unpacked here.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import TextIO

from stackyard.binary import Blob
from stackyard.edges import console
from stackyard.edges.stores.folder import unwritable
from stackyard.edges.stores.store import PIECE_BYTES, Store
from stackyard.errors import CorruptError, StoreError, UnreachableError
from stackyard.fetch import size_text

__all__ = ["SMALL", "Progress", "download", "read_blob", "write_part"]

#: Up to here one read is quicker than a stream.
SMALL = 2**20
#: So many bytes since the last break are progress.
_STEP = 2**20
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0


def _nothing(size_bytes: int) -> None:
    """Nobody wants to hear of it."""


def read_blob(store: Store, blob: Blob, *, max_bytes: int) -> bytes:
    """A small blob, verified; what arrives wrong is read once more.

    Raises CorruptError for wrong bytes and for more than ``max_bytes``, and what the store raises.
    """
    where = f"{store.url}/{blob.key}"
    if blob.size_bytes is not None and blob.size_bytes > max_bytes:
        raise CorruptError(f"the manifest gives it {blob.size_bytes} bytes", where=where)
    limit = max_bytes if blob.size_bytes is None else blob.size_bytes
    data = store.read(blob.key, max_bytes=limit)
    problem = _wrong(blob, len(data), hashlib.sha256(data).hexdigest())
    if problem:
        data = store.read(blob.key, max_bytes=limit)
        problem = _wrong(blob, len(data), hashlib.sha256(data).hexdigest())
    if problem:
        raise CorruptError(problem, where=where)
    return data


def download(  # noqa: PLR0913 - passed by name
    store: Store,
    blob: Blob,
    target: Path,
    *,
    on_bytes: Callable[[int], None] = _nothing,
    tries: int = 5,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Bring a blob into ``target``, which must be nobody else's; whatever lies there is continued.

    What breaks off is tried again: ``tries`` times without a mebibyte of progress in between. What
    arrives wrong is brought once more, from its beginning. ``on_bytes`` is told of what arrives.

    Raises CorruptError for wrong bytes, after removing them; what the store raises, and StoreError
    for a disk that is full or read only, leaving the file for the next run.
    """
    if blob.size_bytes is not None and blob.size_bytes <= SMALL and not target.exists():
        write_part(target, read_blob(store, blob, max_bytes=SMALL))
        on_bytes(blob.size_bytes)
        return
    with closing(_Growing(target)) as file:
        second = False
        while problem := _fill(store, blob, file, on_bytes, tries, sleep):
            file.empty()
            if second:
                target.unlink(missing_ok=True)
                raise CorruptError(problem, where=f"{store.url}/{blob.key}")
            second = True


def write_part(path: Path, data: bytes) -> None:
    """Write a small file that nobody looks at yet. Raises StoreError as ``download`` does."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        number = os.open(path, flags, 0o666)
        try:
            _write(number, data)
        finally:
            os.close(number)
    except OSError as error:
        raise unwritable(error, str(path)) from None


def _write(number: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(number, view) :]


def _fill(  # noqa: PLR0913, PLR0917 - one story with download
    store: Store,
    blob: Blob,
    file: _Growing,
    on_bytes: Callable[[int], None],
    tries: int,
    sleep: Callable[[float], None],
) -> str:
    """Stream to the end; gives what is wrong then, or empty text."""
    failed = 0
    while blob.size_bytes is None or file.size_bytes < blob.size_bytes:
        before = file.size_bytes
        broken = _append(store, blob, file, on_bytes)
        if not broken:
            break
        failed = 1 if file.size_bytes - before >= _STEP else failed + 1
        if failed >= tries:
            raise UnreachableError(
                f"{broken.message} ({tries} tries)", where=broken.where, hint=broken.hint
            )
        sleep(min(_FIRST_WAIT_S * 2 ** (failed - 1), _LONGEST_WAIT_S))
    return _wrong(blob, file.size_bytes, file.checksum)


def _append(
    store: Store, blob: Blob, file: _Growing, on_bytes: Callable[[int], None]
) -> StoreError | None:
    """Add what is not there yet; gives what broke the stream off.

    A stream that cannot even begin raises: the store has tried that often enough.
    """
    with store.stream(blob.key, file.size_bytes) as pieces:
        while blob.size_bytes is None or file.size_bytes <= blob.size_bytes:
            try:
                piece = next(pieces, b"")
            except UnreachableError as error:
                return error
            if not piece:
                break
            file.add(piece)
            on_bytes(len(piece))
    return None


def _wrong(blob: Blob, size_bytes: int, checksum: str) -> str:
    """Why bytes are not the blob; empty if they are."""
    if blob.size_bytes is not None and size_bytes < blob.size_bytes:
        return f"it is cut off: {size_bytes} of {blob.size_bytes} bytes"
    if blob.size_bytes is not None and size_bytes > blob.size_bytes:
        return f"it is longer than the {blob.size_bytes} bytes that the manifest gives"
    if checksum != blob.checksum:
        return f"its checksum is {checksum[:12]}..., and the manifest gives {blob.checksum[:12]}..."
    return ""


class _Growing:
    """A file that only grows, and the checksum of what it holds. It is read once, when opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size_bytes = 0
        self._digest = hashlib.sha256()
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._number = os.open(path, flags, 0o666)
        except OSError as error:
            raise unwritable(error, str(path)) from None
        while piece := os.read(self._number, PIECE_BYTES):
            self._count(piece)

    def close(self) -> None:
        os.close(self._number)

    @property
    def checksum(self) -> str:
        return self._digest.hexdigest()

    def add(self, piece: bytes) -> None:
        try:
            _write(self._number, piece)
        except OSError as error:
            raise unwritable(error, str(self._path)) from None
        self._count(piece)

    def empty(self) -> None:
        os.lseek(self._number, 0, os.SEEK_SET)
        os.ftruncate(self._number, 0)
        self.size_bytes = 0
        self._digest = hashlib.sha256()

    def _count(self, piece: bytes) -> None:
        self._digest.update(piece)
        self.size_bytes += len(piece)


class Progress:
    """How far a transfer is: a live bar on a terminal, a plain line now and then elsewhere.

    ``total_bytes`` is None where nobody knows. ``add`` and ``tick`` may be called by any thread.
    """

    def __init__(
        self,
        label: str,
        total_bytes: int | None,
        total_items: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        terminal: TextIO | None = None,
    ) -> None:
        self._label = label
        self._total_bytes = total_bytes
        self._total_items = total_items
        self._clock = clock
        self._terminal = terminal or (sys.stderr if sys.stderr.isatty() else None)
        self._pause_s = 0.1 if self._terminal else 20.0
        self._begun = self._told = clock()
        self._bytes = self._items = 0
        self._lock = Lock()

    @property
    def size_bytes(self) -> int:
        """What arrived so far."""
        return self._bytes

    @property
    def seconds(self) -> float:
        return self._clock() - self._begun

    def add(self, size_bytes: int) -> None:
        """So many bytes more."""
        with self._lock:
            self._bytes += size_bytes
            self._tell()

    def tick(self, done: int, total: int) -> None:  # noqa: ARG002 - known from the beginning
        """So many items are done."""
        with self._lock:
            self._items = done
            self._tell()

    def close(self) -> None:
        """Wipe the bar away."""
        if self._terminal:
            self._terminal.write("\r\x1b[K")
            self._terminal.flush()

    def _tell(self) -> None:
        now = self._clock()
        if now - self._told < self._pause_s:
            return
        self._told = now
        if self._terminal:
            self._terminal.write(f"\r\x1b[K{self._line()}")
            self._terminal.flush()
        else:
            console.note(self._line())

    def _line(self) -> str:
        rate = self._bytes / max(self.seconds, 0.001)
        parts = [f"{self._items} of {self._total_items}", size_text(self._bytes)]
        if self._total_bytes is not None:
            parts[1] += f" of {size_text(self._total_bytes)}"
        parts.append(f"{size_text(rate)}/s")
        if self._total_bytes is not None and rate:
            parts.append(f"{_duration((self._total_bytes - self._bytes) / rate)} left")
        return f"{self._label}: {', '.join(parts)}"


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
