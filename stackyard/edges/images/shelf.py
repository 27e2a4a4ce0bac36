"""An image in a folder or in an archive: files by name, read from anywhere in them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import IO, Protocol

from stackyard.errors import ConfigError, CorruptError, NotFoundError

__all__ = ["Shelf", "open_shelf"]

_SMALL = 20 * 10**6
_PACKED = "unpack it first: an image's archive is a plain tar file"


class Shelf(Protocol):
    """Where files of an image lie."""

    def has(self, path: str) -> bool: ...

    def opened(self, path: str) -> IO[bytes]:
        """A file; NotFoundError if it is not there."""
        ...

    def read(self, path: str) -> bytes:
        """All of a small file. Raises CorruptError if it is not small."""
        ...


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def has(self, path: str) -> bool:
        return (self._root / path).is_file()

    def opened(self, path: str) -> IO[bytes]:
        if not self.has(path):
            raise NotFoundError("it is not there", where=str(self._root / path))
        return (self._root / path).open("rb")

    def read(self, path: str) -> bytes:
        with self.opened(path) as file:
            return _small(file, str(self._root / path))


class _Archive:
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with tarfile.open(path, "r:") as tar:
                self._places = {
                    member.name.removeprefix("./"): _place(tar, member) for member in tar
                }
        except tarfile.TarError:
            raise CorruptError("it is no tar archive", where=str(path), hint=_PACKED) from None

    def has(self, path: str) -> bool:
        return self._places.get(path) is not None

    def opened(self, path: str) -> IO[bytes]:
        place = self._places.get(path)
        if place is None:
            raise NotFoundError(f"it holds no {path}", where=str(self._path))
        return io.BufferedReader(_Stretch(self._path, *place))

    def read(self, path: str) -> bytes:
        with self.opened(path) as file:
            return _small(file, f"{self._path}: {path}")


def _place(tar: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[int, int] | None:
    """Where a file's bytes begin, and how many they are; Docker wrote links for equal layers."""
    if member.issym() or member.islnk():
        try:
            member = tar._find_link_target(member)  # type: ignore[attr-defined]  # noqa: SLF001
        except KeyError:
            return None
    return (member.offset_data, member.size) if member.isreg() else None


class _Stretch(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        super().__init__()
        self._file = path.open("rb", buffering=0)
        self._start, self._size, self._at = start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = min(max(start + offset, 0), self._size)
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        self._file.seek(self._start + self._at)
        count = self._file.readinto(memoryview(buffer)[: self._size - self._at]) or 0
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _small(file: IO[bytes], where: str) -> bytes:
    data = file.read(_SMALL + 1)
    if len(data) > _SMALL:
        raise CorruptError(f"there are more than {_SMALL} bytes", where=where)
    return data


def open_shelf(path: Path) -> Shelf:
    """The folder or archive. Raises ConfigError if it is neither, CorruptError for a wrong one."""
    if path.is_dir():
        return _Folder(path)
    if path.is_file():
        return _Archive(path)
    raise ConfigError("there is no such file or folder", where=str(path))
