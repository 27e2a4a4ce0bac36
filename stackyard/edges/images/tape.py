"""Read a layer that is on no disk as a whole: its pieces, one behind the other, as a file."""

from __future__ import annotations

import hashlib
import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO

from stackyard.edges.stores.store import PIECE_BYTES
from stackyard.errors import CorruptError, StoreError
from stackyard.oci import Descriptor
from stackyard.packing import Piece

__all__ = ["Tape", "describe", "open_tape", "sum_of"]


class Tape(io.RawIOBase):
    """The pieces as a file that can be read from anywhere; ``mirror`` holds those that have a key.

    For one thread at a time. Raises CorruptError for a file that has changed its size.
    """

    def __init__(self, pieces: Sequence[Piece], mirror: Path) -> None:
        super().__init__()
        self._pieces = pieces
        self._mirror = mirror
        self._starts = [0, *accumulate(piece.size_bytes for piece in pieces)]
        self._place = 0
        self._open: tuple[int, IO[bytes]] | None = None

    @property
    def size_bytes(self) -> int:
        return self._starts[-1]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size_bytes}[whence]
        self._place = min(max(start + offset, 0), self.size_bytes)
        return self._place

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Some of what follows: never more than one piece has."""
        if self._place >= self.size_bytes:
            return 0
        number = bisect_right(self._starts, self._place) - 1
        piece, inside = self._pieces[number], self._place - self._starts[number]
        view = memoryview(buffer)[: piece.size_bytes - inside]
        if isinstance(piece.content, bytes):
            view[:] = piece.content[inside : inside + len(view)]
            count = len(view)
        else:
            count = self._read(number, piece.content, inside, view)
        self._place += count
        return count

    def _read(self, number: int, key: str, inside: int, view: memoryview) -> int:
        try:
            file = self._file(number, key)
            if file.tell() != inside:
                file.seek(inside)
            count: int = file.readinto(view)  # type: ignore[attr-defined]
        except OSError as error:
            raise StoreError(f"cannot read it: {error.strerror}", where=key) from None
        if not count:
            raise CorruptError("the file is shorter than it was", where=str(self._mirror / key))
        return count

    def _file(self, number: int, key: str) -> IO[bytes]:
        if self._open is None or self._open[0] != number:
            self._close()
            self._open = (number, (self._mirror / key).open("rb", buffering=0))
        return self._open[1]

    def _close(self) -> None:
        if self._open:
            self._open[1].close()
            self._open = None

    def close(self) -> None:
        self._close()
        super().close()


def open_tape(pieces: Sequence[Piece], mirror: Path) -> IO[bytes]:
    """The same, as whoever sends files wants one: a read gives all that was asked for."""
    return io.BufferedReader(Tape(pieces, mirror), PIECE_BYTES)


def describe(file: IO[bytes], media_type: str) -> Descriptor:
    """What a manifest says of a file's bytes, which are read once."""
    checksum, size = sum_of(file)
    return Descriptor(media_type, checksum, size)


def sum_of(file: IO[bytes]) -> tuple[str, int]:
    """Checksum and number of the bytes of a file."""
    digest = hashlib.sha256()
    size = 0
    buffer = memoryview(bytearray(PIECE_BYTES))
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        digest.update(buffer[:count])
        size += count
    return digest.hexdigest(), size
