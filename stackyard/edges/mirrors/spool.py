"""Room on this disk for files on their way from mirror to mirror: little at a time, and swept."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from stackyard.edges.stores.folder import unwritable

__all__ = ["Spool"]

_PREFIX = "stackyard-spool-"
_MOST_BYTES = 4 * 2**30


class Spool:
    """A folder of our own below ``parent``, or where temporary files go. Close it.

    It is locked as long as we live, so that the next one can remove what a killed one left. Its
    methods may be called by many threads at once.
    """

    def __init__(self, parent: Path | None = None, most_bytes: int = _MOST_BYTES) -> None:
        """Raises StoreError for a place that cannot be written to."""
        self._made: list[Path] = []
        parent = parent or Path(tempfile.gettempdir())
        try:
            self._make(parent)
            _sweep(parent)
            self._root, self._number = _locked(parent)
            disk = os.statvfs(self._root)
        except OSError as error:
            self._unmake()
            raise unwritable(error, str(parent)) from None
        self._left = self._all = min(most_bytes, disk.f_bavail * disk.f_frsize // 2)
        self._changed = threading.Condition()
        self._names = count()

    def path(self) -> Path:
        """A new path, which stays to the end."""
        return self._root / f"{next(self._names)}"

    @contextmanager
    def room(self, size_bytes: int) -> Iterator[Path]:
        """A new path for a file of this size, which is removed afterwards; waits until there is room.

        What is larger than all the room gets it alone.
        """
        share = min(size_bytes, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= share)
            self._left -= share
        path = self.path()
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)
            with self._changed:
                self._left += share
                self._changed.notify_all()

    def close(self) -> None:
        """Remove the folder, and those above it that are empty and were made for it."""
        shutil.rmtree(self._root, ignore_errors=True)
        os.close(self._number)
        self._unmake()

    def _make(self, folder: Path) -> None:
        missing = [one for one in (folder, *folder.parents) if not one.exists()]
        for one in reversed(missing):
            one.mkdir(exist_ok=True)
            self._made.append(one)

    def _unmake(self) -> None:
        with suppress(OSError):
            for folder in reversed(self._made):
                folder.rmdir()


def _locked(parent: Path) -> tuple[Path, int]:
    """A new folder and the number by which it is open and locked."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        try:
            number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:  # swept between the two steps
            continue
        with suppress(OSError):  # a file system without locks
            fcntl.flock(number, fcntl.LOCK_EX)
        if os.fstat(number).st_nlink:
            return path, number
        os.close(number)


def _sweep(parent: Path) -> None:
    """Remove the folders of runs that have ended."""
    for path in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(number)
