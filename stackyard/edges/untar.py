"""Take files out of a tar archive that somebody else made, while it comes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from stackyard.errors import CorruptError

__all__ = ["extract"]


def extract(pieces: Iterator[bytes], folder: Path) -> int:
    """Write the archive's files and folders below a folder; gives the bytes of all files.

    Raises CorruptError for what is neither, for a path that leads out of the folder, and for an
    archive that is none.
    """
    size_bytes = 0
    try:
        with tarfile.open(fileobj=_Reader(pieces), mode="r|") as archive:
            for entry in archive:
                target = _target(entry.name, folder)
                if entry.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                elif entry.isreg():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    data = archive.extractfile(entry)
                    with target.open("wb") as file:
                        while data and (piece := data.read(2**20)):
                            size_bytes += file.write(piece)
                else:
                    raise CorruptError("is no file and no folder", where=entry.name)
    except (tarfile.TarError, EOFError) as error:
        raise CorruptError(f"the archive cannot be read: {error}") from None
    return size_bytes


def _target(name: str, folder: Path) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise CorruptError("leads out of the archive", where=name)
    return folder / path


class _Reader(io.RawIOBase):
    """Reads from pieces as they come."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while len(self._rest) < size or size < 0:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._rest += piece
        end = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:end], self._rest[end:]
        return data
