"""Unpack a zip file that somebody else made: nothing outside the folder, and no more than expected."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from stackyard.errors import CorruptError, StackyardError

__all__ = ["Limits", "unpack"]

_PIECE_BYTES = 2**18
_LONGEST_PATH = 4000
_LONGEST_PART = 255
_UNIX = 3  # zipfile's create_system
_ENCRYPTED = 0x1
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
#: What zipfile raises for archives that are none, or no longer one.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    IndexError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)


class Limits(NamedTuple):
    """The most that may come out."""

    files: int = 200_000
    total_bytes: int = 8 * 2**30


def unpack(archive: Path, to: Path, limits: Limits = Limits()) -> tuple[str, ...]:  # noqa: B008
    """Unpack into a new folder, which appears whole or not at all; gives the paths of the files.

    Refused, with CorruptError: absolute paths, ``..``, links, devices, control characters,
    backslashes, the same path twice, encrypted entries, and more than the limits. Of modes only
    "may be run" is kept. Raises StackyardError if the folder is there already, or cannot be
    written.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise StackyardError(
            "it is there already, and not empty", where=str(to), hint="name another folder: --to"
        )
    temporary = to.with_name(f".{to.name[:200]}.{os.urandom(6).hex()}")
    try:
        temporary.mkdir(parents=True)
        with zipfile.ZipFile(archive) as file:
            entries = _checked(file.infolist(), archive, limits)
            for name, entry in entries:
                _write(file, entry, temporary / name)
        if to.exists():
            to.rmdir()
        temporary.replace(to)
    except (*_DAMAGED, OSError) as error:
        # A place in the archive that cannot be, like one before its beginning, is EINVAL.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            reason = (error.strerror or str(error)).lower()
            raise StackyardError(f"cannot unpack it: {reason}", where=str(archive)) from None
        raise CorruptError(
            f"not a zip file that can be read: {error}", where=str(archive)
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return tuple(name for name, entry in entries if not _is_folder(entry))


def _checked(
    infos: Iterable[zipfile.ZipInfo], archive: Path, limits: Limits
) -> list[tuple[str, zipfile.ZipInfo]]:
    """Entries with the paths that they may have. Raises CorruptError for the first that may not."""
    found: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for info in infos:
        name, problem = info.orig_filename, _problem(info)
        path = str(PurePosixPath(name)) if not problem else ""
        if path in found and not (_is_folder(info) and _is_folder(found[path])):
            problem = "it is there twice"
        if problem:
            raise _refused(name, problem, archive)
        found[path] = info
        total += info.file_size
        if len(found) > limits.files or total > limits.total_bytes:
            raise CorruptError(
                f"it would unpack to more than {limits.files:,} files or "
                f"{limits.total_bytes:,} bytes",
                where=str(archive),
            )
    files = {path for path, info in found.items() if not _is_folder(info)}
    for path in found:
        for parent in map(str, PurePosixPath(path).parents):
            if parent in files:
                raise _refused(path, f"{parent[:200]!r} is a file", archive)
    return sorted(found.items(), key=lambda item: item[0])


def _refused(name: str, problem: str, archive: Path) -> CorruptError:
    return CorruptError(
        f"the entry {name[:200]!r} is refused: {problem}",
        where=str(archive),
        hint="nothing was unpacked; ask who made this archive",
    )


def _is_folder(info: zipfile.ZipInfo) -> bool:
    return info.orig_filename.endswith("/")


def _problem(info: zipfile.ZipInfo) -> str:
    """Why an entry may not be unpacked; empty if it may."""
    name = info.orig_filename
    parts = name.rstrip("/").split("/")
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == _UNIX else 0
    problems = (
        (not name.isprintable() or "\\" in name, "strange characters"),
        (name.startswith("/") or ":" in parts[0], "it is no relative path"),
        (not parts[0] or any(part in ("", ".", "..") for part in parts), "it leads elsewhere"),
        (
            len(os.fsencode(name)) > _LONGEST_PATH
            or any(len(os.fsencode(part)) > _LONGEST_PART for part in parts),
            "its name is too long",
        ),
        (kind not in (0, stat.S_IFREG, stat.S_IFDIR), "it is a link or a device"),
        (kind == stat.S_IFREG and _is_folder(info), "it is a file with the name of a folder"),
        (kind == stat.S_IFDIR and not _is_folder(info), "it is a folder with the name of a file"),
        (bool(info.flag_bits & _ENCRYPTED), "it is encrypted"),
        (info.compress_type not in _METHODS, "it is packed in a way that is not GitLab's"),
    )
    return next((text for wrong, text in problems if wrong), "")


def _write(file: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    """Write one entry. Of one that says less than it has, zipfile gives no more than it says."""
    if _is_folder(entry):
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    runs = entry.create_system == _UNIX and entry.external_attr >> 16 & stat.S_IXUSR
    with file.open(entry) as source, target.open("xb") as sink:
        shutil.copyfileobj(source, sink, _PIECE_BYTES)
        os.fchmod(sink.fileno(), 0o755 if runs else 0o644)
