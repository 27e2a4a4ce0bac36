"""Files as a layer of an image: a tar archive, decided in full before a byte of it is written.

The same files give the same bytes, whoever packs them and when: sorted, of one time, with headers
of the POSIX kind, and no more at the end than the two empty blocks that the standard wants.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from stackyard.image import File

__all__ = ["TIME_S", "Piece", "pack"]

#: The time that all files have: 1980-01-01.
TIME_S = 315532800
_BLOCK = 512
#: Folders that every base has, as it wants them.
_ANYBODYS = frozenset({"etc", "home", "usr", "usr/share", "var"})


class Piece(NamedTuple):
    """Bytes of the archive: at hand, or in the file of the mirror with this key."""

    content: bytes | str
    size_bytes: int


def pack(files: Iterable[File], sizes: Mapping[str, int]) -> tuple[Piece, ...]:
    """The archive piece by piece; ``sizes`` are those of the mirror's files, by key.

    Folders come before what they hold.
    """
    return tuple(_joined(_pieces(files, sizes)))


def _pieces(files: Iterable[File], sizes: Mapping[str, int]) -> Iterator[Piece]:
    for file in _with_folders(files):
        content = file.content
        size = sizes[content] if isinstance(content, str) else len(content or b"")
        yield _at_hand(_header(file, size))
        if content:
            yield Piece(content, size)
            yield _at_hand(bytes(-size % _BLOCK))
    yield _at_hand(bytes(2 * _BLOCK))


def _with_folders(files: Iterable[File]) -> list[File]:
    found = {file.path: file for file in files}
    for path in list(found):
        folder = path.rpartition("/")[0]
        while folder and folder not in found:
            if folder not in _ANYBODYS:
                found[folder] = File(folder, None, 0o755)
            folder = folder.rpartition("/")[0]
    return [found[path] for path in sorted(found, key=lambda path: path.split("/"))]


def _header(file: File, size: int) -> bytes:
    entry = tarfile.TarInfo(file.path)
    entry.type = tarfile.DIRTYPE if file.content is None else tarfile.REGTYPE
    entry.mode, entry.size, entry.mtime = file.mode, size, TIME_S
    entry.uid, entry.gid = file.owner
    return entry.tobuf(tarfile.PAX_FORMAT)


def _at_hand(data: bytes) -> Piece:
    return Piece(data, len(data))


def _joined(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same bytes, with what is at hand between two files in one piece."""
    waiting: list[bytes] = []
    for piece in pieces:
        if isinstance(piece.content, bytes):
            waiting.append(piece.content)
            continue
        yield _at_hand(b"".join(waiting))
        waiting = []
        yield piece
    yield _at_hand(b"".join(waiting))
