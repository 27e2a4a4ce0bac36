"""A folder on this disk that a fetch fills: whole files only, and the same bytes every time.

What is not complete lies in ``.stackyard/`` there, named by its checksum, until a run has got all
that it wants. Of two runs at once the second waits, and then finds what the first has brought.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition
from typing import NamedTuple

from stackyard.binary import Binary, Blob, dump_manifest
from stackyard.edges.mirrors.transfer import write_part
from stackyard.edges.parallel import Tick, parallel_map
from stackyard.edges.stores.folder import WORK_FOLDER, FileStore, unwritable
from stackyard.edges.stores.store import Listed
from stackyard.errors import CorruptError, StoreError
from stackyard.fetch import size_text
from stackyard.mirror import (
    KEY_TYPE,
    V2_KEY_INDEX,
    V2_KEYS,
    Layout,
    Record,
    blob_key,
    key_manifest_key,
)

__all__ = ["EPOCH_S", "Destination", "Stock", "open_destination", "write_keys"]

#: The time that all files have: 1980-01-01, the earliest that every archive format can hold.
EPOCH_S = 315532800
_LOCK = "fetch.lock"
_FOLDERS = ("v3", "blobs", "build_cache")
_HASHERS = 4
_MOST_VANISHED = 100
_PATIENCE_S = 1.0


class Stock(NamedTuple):
    """Keys of the files that are there: ``right`` in every byte, or ``wrong``."""

    right: frozenset[str]
    wrong: frozenset[str]


@contextmanager
def open_destination(
    folder: str, waiting: Callable[[], None] = lambda: None
) -> Iterator[Destination]:
    """The folder, made if need be, and ours alone until the end; ``waiting`` tells of a wait.

    Raises StoreError for what cannot be a folder to write to.
    """
    store = FileStore(folder)
    made = not store.is_there
    work = store.root / WORK_FOLDER
    if work.is_symlink():
        raise CorruptError("a symbolic link stands where our own folder should be", where=str(work))
    number = _locked(work, waiting)
    destination = Destination(store)
    try:
        yield destination
        destination.settle()
    finally:
        # Where a thread still waits for a server, the lock stays until this process ends.
        if destination.stop():
            # While it is ours, so that whoever waits for it sees that it is none any more.
            (work / _LOCK).unlink(missing_ok=True)
            os.close(number)
            with suppress(OSError):  # unfinished files stay for the next run
                work.rmdir()
                if made:  # and empty still: all was refused
                    store.root.rmdir()
    with suppress(OSError):  # somebody else's folder, which we may write to
        if made:
            store.root.chmod(0o755)
        os.utime(store.root, (EPOCH_S, EPOCH_S))


def _locked(work: Path, waiting: Callable[[], None]) -> int:
    """Number of the open file that holds the lock.

    A file and not the folder: nobody removes a folder with something in it, and a file server locks
    files alone.
    """
    vanished = 0
    while True:
        try:
            work.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            number = os.open(work / _LOCK, flags, 0o666)
        except OSError as error:
            # Somebody may have been done and removed the folder just now; /proc never has it.
            vanished += isinstance(error, FileNotFoundError)
            if not 0 < vanished < _MOST_VANISHED:
                raise unwritable(error, str(work.parent)) from None
            continue
        _wait(number, waiting)
        if os.fstat(number).st_nlink:
            return number
        os.close(number)  # who had it has removed it


def _wait(number: int, waiting: Callable[[], None]) -> None:
    with suppress(OSError):  # a file system without locks
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(number, fcntl.LOCK_EX)


class Destination:
    """A folder that is ours for now. Its methods may be called by many threads at once.

    ``there`` is what ``check`` found in it, by key.
    """

    def __init__(self, store: FileStore) -> None:
        self.store = store
        self.there: Mapping[str, Listed] = {}
        self._begun: Collection[str] = ()
        self._work = store.root / WORK_FOLDER
        self._busy = 0
        self._stopped = False
        self._changed = Condition()

    @contextmanager
    def working(self) -> Iterator[None]:
        """For as long as a thread changes something here. Raises StoreError once all is over."""
        with self._changed:
            self.go_on()
            self._busy += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def go_on(self) -> None:
        """Raise StoreError once all is over: another thread has met an error."""
        if self._stopped:
            raise StoreError("the fetch was given up", where=self.store.url)

    def stop(self) -> bool:
        """End the work of all threads; False if one of them does not end soon."""
        with self._changed:
            self._stopped = True
            return self._changed.wait_for(lambda: not self._busy, timeout=_PATIENCE_S)

    def part(self, blob: Blob) -> Path:
        """Where a blob is until it is complete."""
        if blob.key.endswith(f"/{blob.checksum}"):
            return Path(f"{self._work}/{blob.checksum}.part")
        # Layout 2 could have the same bytes in two places.
        place = hashlib.sha256(blob.key.encode()).hexdigest()[:8]
        return Path(f"{self._work}/{blob.checksum}-{place}.part")

    def is_begun(self, blob: Blob) -> bool:
        """Whether an earlier run has left some of a blob."""
        return self.part(blob).name in self._begun

    def check(
        self,
        blobs: Iterable[Blob],
        manifests: Mapping[str, bytes],
        tick: Tick = lambda done, total: None,  # noqa: ARG005
    ) -> Stock:
        """Read what is there of the given files, at the speed of the disk."""
        self.there = {listed.key: listed for listed in self._listed()}
        self._begun = {path.name for path in self._work.iterdir()}
        found = [blob for blob in blobs if blob.key in self.there]
        verdicts = parallel_map(self._is_right, found, workers=_HASHERS, tick=tick)
        answers = dict(zip((blob.key for blob in found), verdicts, strict=True))
        for key, data in manifests.items():
            if key in self.there:
                answers[key] = self._holds(key, data)
        return Stock(
            frozenset(key for key, right in answers.items() if right),
            frozenset(key for key, right in answers.items() if not right),
        )

    def _listed(self) -> Iterator[Listed]:
        for folder in _FOLDERS:
            yield from self.store.list(f"{folder}/")

    def _holds(self, key: str, data: bytes) -> bool:
        self.store.exists(key)  # raises for a link that leads outside
        return self.there[key].size_bytes == len(data) and self.store.read(key) == data

    def _is_right(self, blob: Blob) -> bool:
        self.store.exists(blob.key)  # as above
        if blob.size_bytes not in (None, self.there[blob.key].size_bytes):
            return False
        digest = hashlib.sha256()
        with self.store.stream(blob.key) as pieces:
            for piece in pieces:
                digest.update(piece)
        return digest.hexdigest() == blob.checksum

    def make_room(self, blobs: Iterable[Blob]) -> int:
        """Bytes that are still to come. Raises StoreError if the disk has no room for them."""
        wanted = 0
        for blob in blobs:
            with suppress(OSError):
                wanted -= self.part(blob).stat().st_size
            wanted += blob.size_bytes or 0
        wanted = max(0, wanted)
        disk = os.statvfs(self.store.root)
        free = disk.f_bavail * disk.f_frsize
        if wanted > free:
            raise StoreError(
                f"{size_text(wanted)} are to come, and the disk has room for {size_text(free)}",
                where=self.store.url,
                hint="make room, or give a folder on another disk",
            )
        return wanted

    def adopt(self, blob: Blob) -> None:
        """Move a complete blob to its place."""
        self.store.adopt(blob.key, self.part(blob))

    def show(self, binary: Binary) -> None:
        """Put the manifest of a binary to its place, which is when others see the binary."""
        part = self._work / f"{binary.hash}.manifest.part"
        write_part(part, binary.manifest)
        self.store.adopt(binary.key, part)

    def forget(self, binaries: Iterable[Binary]) -> None:
        """Remove manifests, before something that they name is replaced."""
        for binary in binaries:
            self.store.delete(binary.key)
            if binary.layout == 2:  # the other form names the same tarball
                signed = binary.key.endswith(".sig")
                self.store.delete(binary.key[:-4] if signed else f"{binary.key}.sig")

    def keep_only(self, keys: Iterable[str]) -> None:
        """Remove all files but these: manifests first, which name the others."""
        kept = frozenset(keys)
        gone = [listed.key for listed in self._listed() if listed.key not in kept]
        for key in sorted(gone, key=lambda key: (key.startswith("blobs/"), key)):
            self.store.delete(key)
        self.there = {key: listed for key, listed in self.there.items() if key in kept}

    def settle(self) -> None:
        """Remove what is left of broken transfers, and give all files their mode and time."""
        self.store.close()
        try:
            for path in self._work.glob("*.part"):
                path.unlink(missing_ok=True)
            for name in _FOLDERS:
                _settle(str(self.store.root / name))
        except OSError as error:
            raise unwritable(error, str(error.filename or self.store.root)) from None


def _settle(folder: str) -> None:
    """Modes that depend on no umask, and one time; links below it are left alone."""
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except FileNotFoundError:
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            _settle(entry.path)
        elif entry.is_file(follow_symlinks=False):
            _date(entry.path, entry.stat(follow_symlinks=False), 0o644)
    _date(folder, os.stat(folder), 0o755)  # noqa: PTH116


def _date(path: str, status: os.stat_result, mode: int) -> None:
    if stat.S_IMODE(status.st_mode) != mode:
        os.chmod(path, mode)  # noqa: PTH101
    if status.st_mtime_ns != EPOCH_S * 10**9:
        os.utime(path, (EPOCH_S, EPOCH_S))


def write_keys(store: FileStore, layout: Layout, keys: Mapping[str, bytes]) -> None:
    """Put public keys, by fingerprint, where Spack looks for them; those that are there stay."""
    from stackyard.edges.mirrors.indexing import write_key_index

    for fingerprint, key in keys.items():
        if layout == 2:
            store.write(f"{V2_KEYS}{fingerprint}.pub", key)
            continue
        record = Record(
            media_type=KEY_TYPE,
            size_bytes=len(key),
            compression="none",
            checksum=hashlib.sha256(key).hexdigest(),
        )
        store.write(blob_key(record), key)
        store.write(key_manifest_key(fingerprint), dump_manifest([record]))
    if layout == 3:
        write_key_index(store)
    elif keys:
        names = sorted(listed.key.removeprefix(V2_KEYS) for listed in store.list(V2_KEYS))
        held: dict[str, dict[str, str]] = {
            name[: -len(".pub")]: {} for name in names if name.endswith(".pub")
        }
        text = json.dumps({"keys": held}, separators=(",", ":"))
        store.write(V2_KEY_INDEX, text.encode())
