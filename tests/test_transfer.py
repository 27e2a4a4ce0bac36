"""The transfer of single blobs: sizes, checksums, what breaks off, what is continued."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from faulty_proxy import Choose, Fault, FaultyProxy, at_random, faulty_proxy
from mirror_server import MirrorServer, mirror_server

from stackyard.binary import Blob
from stackyard.edges.mirrors.transfer import Progress, download, read_blob
from stackyard.edges.stores.folder import FileStore
from stackyard.edges.stores.store import Store
from stackyard.edges.stores.web import HttpStore
from stackyard.errors import CorruptError, DeniedError, NotFoundError, StoreError, UnreachableError

MIB = 2**20
SMALL = b"small " * 700
LARGE = os.urandom(3 * MIB + 17)


def blob_of(data: bytes, *, size: int | None = -1, checksum: str = "") -> Blob:
    digest = checksum or hashlib.sha256(data).hexdigest()
    return Blob(f"blobs/{digest[:8]}", len(data) if size == -1 else size, digest)


class Mirror(NamedTuple):
    """A folder that a web server serves, perhaps through a proxy."""

    root: Path
    server: MirrorServer

    def put(self, blob: Blob, data: bytes) -> Blob:
        path = self.root / blob.key
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return blob


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    root = tmp_path / "mirror"
    root.mkdir()
    with mirror_server(root) as server:
        yield Mirror(root, server)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "x.part"


Opened = Callable[[Mirror], Store]


def by_file(mirror: Mirror) -> Store:
    return FileStore(mirror.root)


def by_http(mirror: Mirror) -> Store:
    return HttpStore(mirror.server.url, sleep=lambda _: None)


@pytest.mark.parametrize("opened", [by_file, by_http])
@pytest.mark.parametrize("data", [b"", b"1", SMALL, LARGE[:MIB], LARGE], ids=len)
@pytest.mark.parametrize("told", [True, False], ids=["size", "no-size"])
def test_brings_every_size(
    mirror: Mirror, target: Path, opened: Opened, data: bytes, *, told: bool
) -> None:
    blob = mirror.put(blob_of(data, size=len(data) if told else None), data)
    arrived: list[int] = []
    with closing(opened(mirror)) as store:
        download(store, blob, target, on_bytes=arrived.append)
    assert target.read_bytes() == data
    assert sum(arrived) == len(data)


@pytest.mark.parametrize("opened", [by_file, by_http])
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=len)
@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (lambda data: blob_of(data, checksum="0" * 64), "its checksum is"),
        (lambda data: blob_of(data, size=len(data) + 1), "it is cut off: "),
        (lambda data: blob_of(data, size=len(data) - 1), "larger than|longer than"),
        (lambda data: blob_of(data, size=None, checksum="0" * 64), "its checksum is"),
    ],
)
def test_wrong_bytes_are_removed(  # noqa: PLR0917
    mirror: Mirror,
    target: Path,
    opened: Opened,
    data: bytes,
    made: Callable[[bytes], Blob],
    problem: str,
) -> None:
    blob = mirror.put(made(data), data)
    with closing(opened(mirror)) as store, pytest.raises(CorruptError, match=problem) as caught:
        download(store, blob, target)
    assert caught.value.where.endswith(blob.key)
    assert not target.exists()


def test_what_is_there_is_continued(mirror: Mirror, target: Path) -> None:
    blob = mirror.put(blob_of(LARGE), LARGE)
    target.write_bytes(LARGE[:2_000_000])
    arrived: list[int] = []
    with closing(by_http(mirror)) as store:
        download(store, blob, target, on_bytes=arrived.append)
    assert target.read_bytes() == LARGE
    assert sum(arrived) == len(LARGE) - 2_000_000
    assert [headers.get("Range") for headers in mirror.server.headers] == ["bytes=2000000-"]


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no-ranges"])
@pytest.mark.parametrize("size", [True, False], ids=["size", "no-size"])
@pytest.mark.parametrize(
    ("begun", "requests"),
    [
        (LARGE[:5], 1),
        (b"wrong" + LARGE[5:1000], 2),
        (b"wrong" + LARGE[5:], 1),  # with a size it is known to be all there
        (LARGE + b"more", 1),
    ],
    ids=["begun", "begun-wrong", "whole-wrong", "too-long"],
)
def test_what_is_there_may_be_anything(
    mirror: Mirror, target: Path, begun: bytes, requests: int, *, ranges: bool, size: bool
) -> None:
    mirror.server.ranges = ranges
    blob = mirror.put(blob_of(LARGE, size=len(LARGE) if size else None), LARGE)
    target.write_bytes(begun)
    with closing(by_http(mirror)) as store:
        download(store, blob, target)
    assert target.read_bytes() == LARGE
    if size:
        assert len(mirror.server.requests) == requests


def test_what_is_complete_is_not_asked_for(mirror: Mirror, target: Path) -> None:
    target.write_bytes(LARGE)
    with closing(by_http(mirror)) as store:
        download(store, blob_of(LARGE), target)
    assert mirror.server.requests == []


def through(mirror: Mirror, choose: Choose, blob: Blob, target: Path) -> FaultyProxy:
    """Download through a proxy with faults."""
    with (
        faulty_proxy(mirror.server.url, choose) as proxy,
        closing(HttpStore(proxy.url, sleep=lambda _: None)) as store,
    ):
        download(store, blob, target, sleep=lambda _: None)
    return proxy


@pytest.mark.parametrize(("kind", "times"), [("cut", 7), ("reset", 4)])  # a reset loses much
@pytest.mark.parametrize("told", [True, False], ids=["size", "no-size"])
def test_goes_on_where_it_broke(
    mirror: Mirror, target: Path, kind: str, times: int, *, told: bool
) -> None:
    """A line that breaks again and again, with progress each time, gets everything across."""
    data = os.urandom(16 * MIB)
    blob = mirror.put(blob_of(data, size=len(data) if told else None), data)
    fault = Fault(kind, 0.4)  # type: ignore[arg-type]
    proxy = through(mirror, lambda _, __, number: fault if number < times else None, blob, target)
    assert target.read_bytes() == data
    assert len(proxy.requests) == times + 1
    assert all("Range" in headers for headers in mirror.server.headers[1:])


def test_gives_up_without_progress(mirror: Mirror, target: Path) -> None:
    blob = mirror.put(blob_of(LARGE), LARGE)
    pauses: list[float] = []
    with (
        faulty_proxy(mirror.server.url, lambda *_: Fault("cut", 0.01)) as proxy,
        closing(HttpStore(proxy.url, sleep=lambda _: None)) as store,
        pytest.raises(UnreachableError, match=r"cut off .* \(3 tries\)"),
    ):
        download(store, blob, target, tries=3, sleep=pauses.append)
    assert len(proxy.requests) == 3
    assert pauses == [0.5, 1.0]
    begun = target.read_bytes()  # for the next run
    assert begun
    assert LARGE.startswith(begun)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=len)
@pytest.mark.parametrize("kind", ["corrupt", "shorten"])
def test_what_came_wrong_is_brought_once_more(
    mirror: Mirror, target: Path, data: bytes, kind: str
) -> None:
    blob = mirror.put(blob_of(data), data)
    fault = Fault(kind)  # type: ignore[arg-type]
    proxy = through(mirror, lambda _, __, number: None if number else fault, blob, target)
    assert target.read_bytes() == data
    assert len(proxy.requests) == 2
    with pytest.raises(CorruptError):
        through(mirror, lambda *_: fault, blob, target.with_name("other"))
    assert not target.with_name("other").exists()


@pytest.mark.parametrize(
    "fault", [Fault("answer", status=s, retry_after="0") for s in (429, 500, 503)]
)
def test_a_busy_server_is_asked_again(mirror: Mirror, target: Path, fault: Fault) -> None:
    blob = mirror.put(blob_of(LARGE), LARGE)
    proxy = through(mirror, lambda _, __, number: None if number > 2 else fault, blob, target)
    assert target.read_bytes() == LARGE
    assert len(proxy.requests) == 4


@pytest.mark.parametrize(("status", "kind"), [(404, NotFoundError), (403, DeniedError)])
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=len)
def test_denied_and_not_found_are_final(
    mirror: Mirror, target: Path, status: int, kind: type[StoreError], data: bytes
) -> None:
    mirror.server.missing = status
    with closing(by_http(mirror)) as store, pytest.raises(kind):
        download(store, blob_of(data), target)
    assert len(mirror.server.requests) == 1


def assert_gone(path: Path) -> None:
    assert not path.exists()


def test_right_or_refused_whatever_happens(mirror: Mirror, target: Path, *, long: bool) -> None:
    """Never wrong bytes."""
    blob = mirror.put(blob_of(LARGE), LARGE)
    right = 0
    for seed in range(200 if long else 20):
        print(f"seed {seed}")  # noqa: T201 - shown where it fails
        target.unlink(missing_ok=True)
        try:
            through(mirror, at_random(seed, 0.7), blob, target)
        except UnreachableError:
            continue
        except CorruptError:
            assert_gone(target)
            continue
        assert target.read_bytes() == LARGE
        right += 1
    assert right


def test_reads_small_blobs_whole(mirror: Mirror) -> None:
    blob = mirror.put(blob_of(SMALL), SMALL)
    with closing(by_http(mirror)) as store:
        assert read_blob(store, blob, max_bytes=10_000) == SMALL
        with pytest.raises(CorruptError, match="the manifest gives it 4200 bytes"):
            read_blob(store, blob, max_bytes=4000)
        with pytest.raises(CorruptError, match="larger than 4000 bytes"):
            read_blob(store, blob._replace(size_bytes=None), max_bytes=4000)
        with pytest.raises(CorruptError, match="its checksum is"):
            read_blob(store, blob._replace(checksum="0" * 64), max_bytes=10_000)


def test_a_full_disk_leaves_what_came(mirror: Mirror, target: Path) -> None:
    """A file-size limit stands in for it."""
    blob = mirror.put(blob_of(LARGE), LARGE)
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from stackyard.binary import Blob\n"
        "from stackyard.edges.stores.folder import FileStore\n"
        "from stackyard.edges.mirrors.transfer import download\n"
        "from stackyard.errors import StoreError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000000, 2000000))\n"
        "blob = Blob(sys.argv[2], int(sys.argv[3]), sys.argv[4])\n"
        "try:\n"
        "    download(FileStore(sys.argv[1]), blob, Path(sys.argv[5]))\n"
        "except StoreError as error:\n"
        "    print(error.code, error)\n"
    )
    argv = [sys.executable, "-c", script, str(mirror.root), blob.key, str(len(LARGE))]
    done = subprocess.run(
        [*argv, blob.checksum, str(target)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"6 {target}: it cannot be written: File too large")
    assert target.read_bytes() == LARGE[:2_000_000]
    with closing(by_file(mirror)) as store:
        download(store, blob, target)
    assert target.read_bytes() == LARGE


def test_holds_no_blob_in_memory(mirror: Mirror, tmp_path: Path) -> None:
    size = 200 * 2**20
    sparse = mirror.root / "sparse"
    with sparse.open("wb") as file:
        file.truncate(size)
    digest = hashlib.sha256()
    for _ in range(size // MIB):
        digest.update(bytes(MIB))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with closing(by_file(mirror)) as store:
        download(store, Blob("sparse", size, digest.hexdigest()), tmp_path / "x")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 32 * 1024  # KiB


def test_no_link_is_followed(mirror: Mirror, target: Path) -> None:
    blob = mirror.put(blob_of(LARGE), LARGE)
    outside = target.with_name("outside")
    outside.write_bytes(b"mine")
    target.symlink_to(outside)
    with closing(by_file(mirror)) as store, pytest.raises(StoreError):
        download(store, blob, target)
    assert outside.read_bytes() == b"mine"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal() -> None:
    seconds = itertools.count()
    terminal = Terminal()
    progress = Progress(
        "fetch", 4_000_000, 3, clock=lambda: float(next(seconds)), terminal=terminal
    )
    progress.add(1_000_000)
    progress.tick(1, 3)
    progress.close()
    first, second, end = terminal.getvalue().split("\r\x1b[K")[1:]
    assert re.fullmatch(r"fetch: 0 of 3, 1\.0 MB of 4\.0 MB, \d+\.\d kB/s, \d+ s left", first)
    assert second.startswith("fetch: 1 of 3, ")
    assert end == ""


def test_progress_elsewhere_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    progress = Progress("fetch", None, 2, clock=lambda: now[0])
    for now[0] in range(1, 61):
        progress.add(1_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "fetch: 0 of 2, 20.0 kB, 1.0 kB/s",
        "fetch: 0 of 2, 40.0 kB, 1.0 kB/s",
        "fetch: 0 of 2, 60.0 kB, 1.0 kB/s",
    ]
    assert (progress.size_bytes, progress.seconds) == (60_000, 60.0)
