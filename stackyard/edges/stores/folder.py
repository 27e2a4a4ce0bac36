"""A mirror in a folder of this machine, or of a file server that is mounted here."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stackyard.edges.stores.store import MANIFEST_BYTES, PIECE_BYTES, Listed, Versioned, check_key
from stackyard.errors import (
    ConflictError,
    CorruptError,
    DeniedError,
    NotFoundError,
    StoreError,
    UnreachableError,
)

__all__ = ["WORK_FOLDER", "FileStore", "unwritable"]

_CREATE = "create the folder, or fix the mirror's URL"
_LOCK_FILE = ".stackyard.lock"
#: Unfinished files are here; no list shows them.
WORK_FOLDER = ".stackyard"
_TEMPORARY = "tmp-"
_MOVES = 20


class FileStore:
    """A folder. Nothing outside of it is ever read or written, whatever symbolic links say.

    Files are written in ``.stackyard/`` and then moved to their place. A file there is locked as
    long as somebody writes it, so that the next writer can remove what a killed one left.
    """

    def __init__(self, root: str | Path) -> None:
        self._root = os.path.abspath(os.path.expanduser(root))  # noqa: PTH100, PTH111
        self._real: str | None = None
        self._real_folders: dict[str, str] = {}
        self._swept = False
        self._locks: bool | None = None

    @property
    def atomic(self) -> bool:
        """False on a file system without locks, as Lustre is often mounted."""
        if self._locks is None and self.is_there:
            with suppress(StoreError), self._locked():
                pass
        return self._locks is not False

    @property
    def url(self) -> str:
        return f"file://{self._root}"

    @property
    def root(self) -> Path:
        return Path(self._root)

    @property
    def is_there(self) -> bool:
        """Whether the folder itself exists."""
        return os.path.isdir(self._root)  # noqa: PTH112

    def read(self, key: str, *, max_bytes: int = MANIFEST_BYTES) -> bytes:
        with self._opened(key) as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise CorruptError(f"the file is larger than {max_bytes} bytes", where=self._where(key))
        return data

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with self._opened(key) as file:
            file.seek(start)
            return file.read(max(length, 0))

    @contextmanager
    def stream(self, key: str, start: int = 0) -> Iterator[Iterator[bytes]]:
        with self._opened(key) as file:
            file.seek(start)
            yield iter(lambda: file.read(PIECE_BYTES), b"")

    def exists(self, key: str) -> bool:
        try:
            with self._opened(key):
                return True
        except NotFoundError:
            return False

    def list(self, prefix: str = "") -> Iterator[Listed]:
        check_key(prefix, prefix=True)
        folder = prefix.rpartition("/")[0]
        self._inside(folder)
        for found in self._walk(folder):
            if found.key.startswith(prefix):
                yield found

    def write(self, key: str, data: bytes) -> None:
        self._put(key, lambda file: _fill(file, data))

    def upload(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            self._put(key, lambda file: _copy(source.fileno(), file))

    def adopt(self, key: str, path: Path) -> None:
        """Move a finished file, which lies on the same file system, to its place.

        A link there is replaced and not followed.
        """
        check_key(key)
        folder, _, name = key.rpartition("/")
        try:
            self._move(str(path), os.path.join(self._real_folder(folder), name))  # noqa: PTH118
        except OSError as error:
            raise self._unwritable(error, key) from None

    def _real_folder(self, folder: str) -> str:
        """What ``_inside`` says of a folder, with fewer looks at the disk where there are many.

        Each is looked at once: whoever puts a link in place of one later may write there anyhow.
        """
        known = self._real_folders.get(folder)
        if known is None:
            parent, _, name = folder.rpartition("/")
            known = os.path.join(self._real_folder(parent), name) if name else self._inside("")  # noqa: PTH118
            if os.path.islink(known):  # noqa: PTH114
                known = self._inside(folder)
            elif not os.path.isdir(known):  # noqa: PTH112
                return known  # and when it is there it is looked at
            self._real_folders[folder] = known
        return known

    def read_version(self, key: str, *, max_bytes: int = MANIFEST_BYTES) -> Versioned:
        data = self.read(key, max_bytes=max_bytes)
        return Versioned(data, _version(data))

    def create(self, key: str, data: bytes) -> str:
        with self._locked():
            if self.exists(key):
                raise ConflictError("it is there already", where=self._where(key))
            self.write(key, data)
        return _version(data)

    def replace(self, key: str, data: bytes, version: str) -> str:
        with self._locked():
            try:
                same = self.read_version(key).version == version
            except NotFoundError:
                same = False
            if not same:
                raise ConflictError("it was changed in the meantime", where=self._where(key))
            self.write(key, data)
        return _version(data)

    def delete(self, key: str) -> None:
        check_key(key)
        try:
            # The link itself, where it is one: what it points at may be wanted elsewhere.
            folder = self._inside(key.rpartition("/")[0])
            os.unlink(os.path.join(folder, key.rpartition("/")[2]))  # noqa: PTH108, PTH118
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise self._unwritable(error, key) from None
            return
        self._drop_empty(key.rpartition("/")[0])

    def close(self) -> None:
        """Remove the folder for unfinished files, if nobody has one there."""
        if self._swept:
            with suppress(OSError):
                os.rmdir(self._work_folder())  # noqa: PTH106

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's advisory lock, where there are locks."""
        self._make_root()
        try:
            number = _lock(self._root)
        except OSError as error:
            raise self._unwritable(error, "") from None
        self._locks = number is not None
        try:
            yield
        finally:
            if number is not None:
                os.close(number)

    def _work_folder(self) -> str:
        return os.path.join(self._root, WORK_FOLDER)  # noqa: PTH118

    def _make_root(self) -> None:
        try:
            os.makedirs(self._root, exist_ok=True)  # noqa: PTH103
        except OSError as error:
            raise self._unwritable(error, "") from None

    def _put(self, key: str, fill: Callable[[int], None]) -> None:
        """Fill a new file and move it to its place."""
        check_key(key)
        self._make_root()
        target = self._target(key)
        temporary = ""
        try:
            temporary, number = self._temporary()
            try:
                fill(number)
                self._move(temporary, target)
            finally:
                os.close(number)
        except OSError as error:
            if temporary:
                with suppress(OSError):
                    os.unlink(temporary)  # noqa: PTH108
            raise self._unwritable(error, key) from None

    def _target(self, key: str) -> str:
        """Where a key is written to: a link in the place of the file is followed within the folder."""
        folder, _, name = key.rpartition("/")
        path = os.path.join(self._real_folder(folder), name)  # noqa: PTH118
        return self._inside(key) if os.path.islink(path) else path  # noqa: PTH114

    def _move(self, temporary: str, target: str) -> None:
        for _ in range(_MOVES):
            try:
                os.replace(temporary, target)  # noqa: PTH105
            except FileNotFoundError:  # no folder yet, or somebody just removed it for being empty
                os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
            else:
                return
        os.replace(temporary, target)  # noqa: PTH105

    def _temporary(self) -> tuple[str, int]:
        """A new locked file in the folder for unfinished ones, and its number."""
        folder = self._work_folder()
        self._real_folder(WORK_FOLDER)
        if not self._swept:
            self._swept = True
            _sweep(folder)
        while True:
            path = os.path.join(folder, f"{_TEMPORARY}{os.urandom(8).hex()}")  # noqa: PTH118
            try:
                number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                os.makedirs(folder, exist_ok=True)  # noqa: PTH103
                continue
            with suppress(OSError):  # a file system without locks
                fcntl.flock(number, fcntl.LOCK_EX)
            if os.fstat(number).st_nlink:
                return path, number
            os.close(number)  # somebody swept it before we had the lock

    def _drop_empty(self, folder: str) -> None:
        """Remove folders that have become empty, up to the root."""
        while folder:
            try:
                os.rmdir(os.path.join(self._root, folder))  # noqa: PTH106, PTH118
            except OSError:
                return
            folder = folder.rpartition("/")[0]

    def _walk(self, folder: str) -> Iterator[Listed]:
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
                if key != WORK_FOLDER:
                    yield from self._walk(key)
            elif key != _LOCK_FILE and (listed := _listed(entry, key)):
                yield listed

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

    @contextmanager
    def _opened(self, key: str) -> Iterator[_File]:
        check_key(key)
        try:
            number = self._open(key)
        except OSError as error:
            raise self._problem(error, key) from None
        try:
            status = os.fstat(number)
            if not stat.S_ISREG(status.st_mode):
                raise CorruptError("not a regular file", where=self._where(key))
            yield _File(number, status.st_size, self._where(key))
        finally:
            os.close(number)

    def _open(self, key: str) -> int:
        """A file descriptor; a link in the place of the file is followed within the folder."""
        folder, _, name = key.rpartition("/")
        # Without O_NONBLOCK a named pipe on the mirror would stop us for ever.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        path = os.path.join(self._real_folder(folder), name)  # noqa: PTH118
        try:
            return os.open(path, flags | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EMLINK):  # the latter on BSD
                raise
        return os.open(self._inside(key), flags)

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

    def _unwritable(self, error: OSError, key: str) -> StoreError:
        return unwritable(error, self._where(key) if key else self.url)

    def _where(self, key: str) -> str:
        return f"{self.url}/{key}"


def unwritable(error: OSError, where: str) -> StoreError:
    """What to tell people about a file or folder that could not be written."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "look at its permissions"
        if error.errno == errno.EROFS:
            hint = "its file system can only be read"
        return DeniedError("we may not write it", where=where, hint=hint)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError("the disk is full", where=where, hint="make room and run it again")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        hint = "move it away, or name another folder"
        return StoreError("a file stands where a folder should be", where=where, hint=hint)
    if error.errno == errno.EISDIR:
        hint = "move it away"
        return StoreError("a folder stands where a file should be", where=where, hint=hint)
    return UnreachableError(f"it cannot be written: {error.strerror}", where=where)


def _lock(folder: str) -> int | None:
    """Wait for a folder's lock; gives what is open as long as it is held, None where there are none.

    The lock is on the folder itself, so that nothing is left in it. A file server that cannot do
    this (NFS wants a file that is open for writing) gets a file for it.
    """
    ways = (
        (folder, os.O_RDONLY | os.O_DIRECTORY),
        (os.path.join(folder, _LOCK_FILE), os.O_RDWR | os.O_CREAT),  # noqa: PTH118
    )
    for path, flags in ways:
        number = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(number, fcntl.LOCK_EX)
        except OSError as error:
            os.close(number)
            if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
                return None
        else:
            return number
    return None


def _sweep(folder: str) -> None:
    """Remove unfinished files that nobody is writing any more."""
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return
    for name in names:
        if not name.startswith(_TEMPORARY):
            continue
        path = os.path.join(folder, name)  # noqa: PTH118
        with suppress(OSError):
            number = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)  # noqa: PTH108
            finally:
                os.close(number)


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _fill(number: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(number, view) :]


def _copy(source: int, target: int) -> None:
    while piece := os.read(source, PIECE_BYTES):
        _fill(target, piece)


def _listed(entry: os.DirEntry[str], key: str) -> Listed | None:
    """A regular file, or what a link points at; None for anything else."""
    try:
        status = entry.stat()
    except OSError:  # a link into nothing or in a circle: whoever reads it is told
        return Listed(key, 0, 0.0, "")
    if not stat.S_ISREG(status.st_mode):
        return None
    # Whoever keeps modification times (a fetch, a backup) changes inode and status time all the same.
    stamp = f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"
    return Listed(key, status.st_size, status.st_mtime, stamp)


class _File:
    """An open file whose faults name it."""

    def __init__(self, number: int, size: int, where: str) -> None:
        self._number = number
        self._size = size
        self._where = where

    def seek(self, start: int) -> None:
        os.lseek(self._number, start, os.SEEK_SET)

    def read(self, size: int) -> bytes:
        # Python sets memory aside for all that is asked for, so ask for little.
        wanted = min(size, self._size + 1)
        pieces = []
        try:
            while wanted > 0 and (piece := os.read(self._number, wanted)):
                pieces.append(piece)
                wanted -= len(piece)
        except OSError as error:  # a disk or a network file system that fails
            raise UnreachableError(
                f"it cannot be read: {error.strerror}", where=self._where
            ) from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
