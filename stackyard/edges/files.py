"""Files on disk: read whole, written whole or not at all."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from stackyard.errors import StackyardError

__all__ = ["claimed", "make_executable", "read_bytes", "remove_file", "write_files"]

AnyPath = TypeVar("AnyPath", bound=str | Path)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def read_bytes(
    path: str | Path, error: type[StackyardError] = StackyardError, *, limit_bytes: int = 0
) -> bytes:
    """Content of a file. Raises ``error`` if it cannot be read or is larger than the limit."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(limit_bytes + 1 if limit_bytes else -1)
    except OSError as problem:
        raise error(f"cannot read it: {_reason(problem)}", where=str(path)) from problem
    except ValueError as problem:  # a NUL in the path
        raise error(f"cannot read it: {problem}", where=repr(str(path))) from problem
    if limit_bytes and len(data) > limit_bytes:
        raise error(f"larger than {limit_bytes} bytes", where=str(path))
    return data


def write_files(files: Mapping[AnyPath, bytes]) -> tuple[Path, ...]:
    """Write each file whole, and say which ones changed.

    All contents lie beside their targets before the first target is replaced, so that a full disk
    changes nothing. Folders are made; an existing file keeps its mode, and one with the same
    content is left alone; a symbolic link stays, what it points at is replaced. A device or a
    pipe (``/dev/stdout``) is written to, last, and never replaced. Raises StackyardError, after
    removing what is half written.
    """
    pending: list[tuple[Path, Path]] = []
    streams = {path: data for path, data in files.items() if _is_stream(path)}
    try:
        for path, data in files.items():
            if path in streams:
                continue
            try:
                target = Path(os.path.realpath(str(path)))
                if _same_content(target, data):
                    continue
                pending.append((target, _write_beside(target, data)))
            except (OSError, ValueError) as problem:
                raise _failure(path, problem) from problem
        for target, temporary in pending:
            try:
                temporary.replace(target)
            except OSError as problem:
                raise _failure(target, problem) from problem
        for path, data in streams.items():
            _write_stream(path, data)
    finally:
        for _, temporary in pending:
            temporary.unlink(missing_ok=True)
    return tuple(target for target, _ in pending)


def remove_file(path: Path) -> None:
    """Raises StackyardError where that is not allowed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as problem:
        raise StackyardError(f"cannot be removed: {_reason(problem)}", where=str(path)) from problem


def make_executable(path: Path) -> None:
    """For everybody who may read it. Raises StackyardError."""
    try:
        mode = path.stat().st_mode
        path.chmod(mode | (mode & 0o444) >> 2)
    except OSError as problem:
        raise StackyardError(
            f"cannot make it executable: {_reason(problem)}", where=str(path)
        ) from problem


def _is_stream(path: AnyPath) -> bool:
    """Whether the path is there and is neither a file nor a folder."""
    try:
        mode = Path(str(path)).stat().st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _write_stream(path: AnyPath, data: bytes) -> None:
    try:
        with Path(str(path)).open("wb") as stream:
            stream.write(data)
    except OSError as problem:
        raise _failure(str(path), problem) from problem


def _failure(path: str | Path, problem: OSError | ValueError) -> StackyardError:
    reason = _reason(problem) if isinstance(problem, OSError) else str(problem)
    return StackyardError(f"cannot write it: {reason}", where=str(path))


def _same_content(target: Path, data: bytes) -> bool:
    """Whether the file is there with this content. Raises OSError for a folder."""
    if target.is_dir():
        raise IsADirectoryError(None, "it is a directory")
    try:
        return target.stat().st_size == len(data) and target.read_bytes() == data
    except OSError:
        return False


def _write_beside(target: Path, data: bytes) -> Path:
    """Write to a new file in the target's folder, with the mode that the target has or would get."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:200]}.{os.urandom(6).hex()}")
    try:
        with temporary.open("xb") as file:
            if target.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            file.write(data)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


@contextmanager
def claimed(folder: Path, what: str) -> Iterator[None]:
    """Make a folder, and have it alone until the end of the block or of this process.

    Raises StackyardError if somebody else has it, saying ``what`` is going on there, or if it
    cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("ab")
    except OSError as problem:
        raise _failure(folder, problem) from problem
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StackyardError(
                f"{what} is going on there", where=str(folder), hint="wait until it has ended"
            ) from None
        yield
