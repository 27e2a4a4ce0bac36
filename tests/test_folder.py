"""Writing to a mirror in a folder; what all stores have in common is in the contract suite."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stackyard.edges.stores.folder import FileStore
from stackyard.errors import ConflictError, CorruptError, DeniedError, NotFoundError, StoreError

needs_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "new" / "mirror")


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_the_first_write_makes_the_folder_and_leaves_nothing_else(store: FileStore) -> None:
    store.write("v3/a", b"1")
    store.write("v3/a", b"2")
    assert (store.root / ".stackyard").is_dir()
    store.close()
    assert [path.name for path in store.root.iterdir()] == ["v3"]
    assert tree(store.root) == {"v3/a": b"2"}


def test_uploads_a_file(store: FileStore, tmp_path: Path) -> None:
    data = os.urandom(3 * 2**20 + 5)
    (tmp_path / "big").write_bytes(data)
    store.upload("blobs/big", tmp_path / "big")
    assert store.read("blobs/big") == data


def test_lists_nothing_unfinished(store: FileStore) -> None:
    store.write("a", b"1")
    (store.root / ".stackyard" / "x.part").write_bytes(b"half")
    (store.root / ".stackyard.lock").touch()
    assert [found.key for found in store.list()] == ["a"]


def test_a_stamp_differs_when_the_content_does(store: FileStore) -> None:
    store.write("a", b"1")
    (first,) = store.list()
    assert [first] == list(store.list())
    store.write("a", b"2")
    times = (first.modified_s, first.modified_s)
    os.utime(store.root / "a", times)  # somebody keeps modification times
    (second,) = store.list()
    assert (second.size_bytes, second.modified_s) == (first.size_bytes, first.modified_s)
    assert second.stamp != first.stamp


def test_delete_removes_what_becomes_empty(store: FileStore) -> None:
    store.write("a/b/c", b"1")
    store.write("a/d", b"1")
    store.delete("a/b/c")
    store.delete("a/b/c")
    store.delete("none/at/all")
    assert tree(store.root) == {"a/d": b"1"}
    assert not (store.root / "a" / "b").exists()
    store.close()
    store.delete("a/d")
    assert list(store.root.iterdir()) == []


def test_delete_takes_the_link_and_not_its_target(store: FileStore) -> None:
    store.write("there", b"1")
    (store.root / "link").symlink_to("there")
    store.delete("link")
    assert tree(store.root) == {"there": b"1"}


def test_a_killed_writer_leaves_nothing_for_long(store: FileStore) -> None:
    """What nobody writes any more is removed by the next writer; what somebody writes is not."""
    script = (
        "import sys, time\n"
        "from stackyard.edges.stores.folder import FileStore\n"
        "def slow(number):\n"
        "    import os\n"
        "    os.write(number, b'half')\n"
        "    print('half', flush=True)\n"
        "    time.sleep(60)\n"
        "FileStore(sys.argv[1])._put('a', slow)\n"
    )
    store.root.mkdir(parents=True)
    argv = [sys.executable, "-c", script, str(store.root)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == b"half\n"
        work = store.root / ".stackyard"
        (half,) = work.iterdir()
        FileStore(store.root).write("b", b"1")
        assert list(work.iterdir()) == [half]
        assert not store.exists("a")
        writer.send_signal(signal.SIGKILL)
    store.write("c", b"1")
    assert list(work.iterdir()) == []


def test_of_many_creators_one_wins(store: FileStore) -> None:
    won = []

    def create(number: int) -> None:
        try:
            FileStore(store.root).create("a", b"%d" % number)
        except ConflictError:
            return
        won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("a") == b"%d" % won[0]


def test_replace_wants_the_version_that_is_there(store: FileStore) -> None:
    with pytest.raises(ConflictError):
        store.replace("a", b"1", "none")
    version = store.create("a", b"1")
    assert store.read_version("a") == (b"1", version)
    second = store.replace("a", b"2", version)
    with pytest.raises(ConflictError):
        store.replace("a", b"3", version)
    assert store.read_version("a") == (b"2", second)


@pytest.mark.parametrize("key", ["out/a", "out", "in/../../a", "/etc/x", "a\0b"])
def test_writes_nothing_outside(store: FileStore, tmp_path: Path, key: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    store.write("in/a", b"1")
    (store.root / "out").symlink_to(outside)
    for change in (
        lambda: store.write(key, b"x"),
        lambda: store.create(key, b"x"),
        lambda: store.upload(key, store.root / "in" / "a"),
    ):
        with pytest.raises(StoreError):
            change()
    assert list(outside.iterdir()) == []


def test_deletes_nothing_outside(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a").touch()
    store.write("in", b"1")
    (store.root / "out").symlink_to(tmp_path / "outside")
    with pytest.raises(CorruptError):
        store.delete("out/a")
    assert (tmp_path / "outside" / "a").exists()


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(StoreError, match="a file stands where a folder"):
        FileStore(tmp_path / "file").write("a", b"1")
    store = FileStore(tmp_path / "mirror")
    store.write("a", b"1")
    with pytest.raises(StoreError, match="a file stands where a folder"):
        store.write("a/b", b"1")
    store.write("c/d", b"1")
    with pytest.raises(StoreError, match="a folder stands where a file"):
        store.write("c", b"1")
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert tree(store.root) == {"a": b"1", "c/d": b"1"}


@needs_user
def test_a_folder_that_we_may_not_write(store: FileStore) -> None:
    store.root.mkdir(parents=True)
    store.root.chmod(0o555)
    with pytest.raises(DeniedError, match="we may not write it"):
        store.write("a", b"1")


def test_a_full_disk(store: FileStore) -> None:
    """A file-size limit stands in for it: the write fails halfway, and nothing of it is seen."""
    script = (
        "import resource, signal, sys\n"
        "from stackyard.edges.stores.folder import FileStore\n"
        "from stackyard.errors import StoreError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "store = FileStore(sys.argv[1])\n"
        "store.write('a', b'before')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    store.write('a', bytes(5000))\n"
        "except StoreError as error:\n"
        "    print(error.code, error)\n"
    )
    argv = [sys.executable, "-c", script, str(store.root)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("6 file://")
    assert tree(store.root) == {"a": b"before"}


def test_the_lock_of_a_folder_is_waited_for(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.root.mkdir(parents=True)
    order: list[str] = []
    asked = threading.Event()
    number = os.open(store.root, os.O_RDONLY)
    real = fcntl.flock
    real(number, fcntl.LOCK_EX)

    def flock(file: int, operation: int) -> None:
        asked.set()
        real(file, operation)

    def create() -> None:
        store.create("a", b"1")
        order.append("second")

    monkeypatch.setattr(fcntl, "flock", flock)
    thread = threading.Thread(target=create)
    thread.start()
    asked.wait()
    order.append("first")
    os.close(number)
    thread.join()
    store.close()
    assert order == ["first", "second"]
    assert tree(store.root) == {"a": b"1"}


@pytest.mark.parametrize(
    ("folders", "files", "atomic"),
    [
        (None, None, True),
        (errno.EBADF, None, True),
        (errno.EBADF, errno.ENOLCK, False),
        (errno.ENOSYS, errno.ENOSYS, False),
    ],
    ids=["disk", "NFS", "NFS without its locks", "Lustre without locks"],
)
def test_file_systems_with_and_without_locks(
    store: FileStore,
    monkeypatch: pytest.MonkeyPatch,
    folders: int | None,
    files: int | None,
    *,
    atomic: bool,
) -> None:
    real = fcntl.flock

    def flock(file: int, operation: int) -> None:
        failure = folders if stat.S_ISDIR(os.fstat(file).st_mode) else files
        if failure:
            raise OSError(failure, os.strerror(failure))
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    assert store.atomic  # as long as the folder is not there nobody knows better
    store.root.mkdir(parents=True)
    assert store.atomic is atomic
    version = store.create("a", b"1")
    with pytest.raises(ConflictError):
        store.create("a", b"2")
    store.replace("a", b"2", version)
    with pytest.raises(ConflictError):
        store.replace("a", b"3", version)
    assert [found.key for found in store.list()] == ["a"]


def test_a_lock_that_cannot_be_had_is_told(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file server that locks files alone, and a folder where we may make none."""

    def flock(file: int, operation: int) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    store.write("a", b"1")
    (store.root / ".stackyard.lock").mkdir()
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StoreError, match="a folder stands where"):
        store.create("b", b"1")


def test_streams_break_off_for_what_is_not_there(store: FileStore) -> None:
    store.write("a", b"0123456789")
    with store.stream("a", 4) as pieces:
        assert b"".join(pieces) == b"456789"
    with store.stream("a", 99) as pieces:
        assert b"".join(pieces) == b""
    with pytest.raises(NotFoundError), store.stream("b"):
        pass
