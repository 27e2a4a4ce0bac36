"""What every store does, whatever is behind it: one suite, and a back-end for each place.

Real servers where they are installed, fakes beside them. A registry has keys and contents of its
own, so that a test names what it wants by ``case.key`` and ``case.content``.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier, Thread
from urllib.parse import urlsplit

import pytest
from fake_gcs import fake_gcs
from faulty_proxy import Fault, FaultyProxy, faulty_proxy
from mirror_server import mirror_server
from services import S3Server

from stackyard.edges.parallel import parallel_map
from stackyard.edges.stores import bucket
from stackyard.edges.stores.folder import FileStore
from stackyard.edges.stores.gcs import GcsStore
from stackyard.edges.stores.s3 import S3Store
from stackyard.edges.stores.store import Access, Listed, Store, WritableStore, is_writable
from stackyard.edges.stores.web import HttpStore
from stackyard.errors import (
    ConflictError,
    CorruptError,
    DeniedError,
    NotFoundError,
    StoreError,
    UnreachableError,
)

NOBODY = 65534
SECRET = "wrong-secret-5d41402abc4b2a76"


def _no_sleep(_: float) -> None:
    """Nobody waits before what failed is tried again."""


class Case:
    """An empty place, and how it is opened."""

    writable = True
    atomic = True
    folders = True  # keys may be anything
    host = ""  # where its server is, for a proxy before it

    def store(self, *, host: str = "", timeout_s: float = 10.0) -> Store:
        """The place; another ``host`` is a proxy before it."""
        raise NotImplementedError

    def strange(self) -> Store:
        """The place for somebody who may do nothing there."""
        raise NotImplementedError

    def gone(self) -> Store:
        """A place of the kind that does not answer."""
        return self.store(host=_closed_port(), timeout_s=1)

    def key(self, name: str) -> str:
        return f"v3/{name}"

    def content(self, text: str) -> bytes:
        return text.encode()

    def put(self, key: str, data: bytes) -> None:
        store = self.store()
        assert is_writable(store)
        store.write(key, data)
        store.close()


@dataclass
class Folder(Case):
    root: Path

    def store(self, **_: object) -> Store:
        return FileStore(self.root)

    def gone(self) -> Store:
        return FileStore(self.root / "none")


@dataclass
class Web(Case):
    """Read only; files are put in beside it."""

    root: Path
    host: str
    writable = False

    def store(self, *, host: str = "", timeout_s: float = 10.0) -> Store:
        return HttpStore(f"http://{host or self.host}", timeout_s=timeout_s, sleep=_no_sleep)

    def put(self, key: str, data: bytes) -> None:
        FileStore(self.root).write(key, data)


@dataclass
class S3(Case):
    server: S3Server
    atomic: bool = True
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"{self.server.bucket()}/some/prefix"
        self.host = urlsplit(self.server.url).netloc

    def store(self, *, host: str = "", timeout_s: float = 10.0) -> Store:
        access = self.server.access._replace(endpoint_url=f"http://{host or self.host}")
        return S3Store(self.url, access, timeout_s=timeout_s, sleep=_no_sleep)

    def strange(self) -> Store:
        return S3Store(self.url, self.server.access._replace(secret=SECRET), sleep=_no_sleep)


@dataclass
class Google(Case):
    url: str
    host: str

    def store(self, *, host: str = "", timeout_s: float = 10.0) -> Store:
        access = Access(endpoint_url=f"http://{host or self.host}")
        return GcsStore(f"{self.url}/some/prefix", access, timeout_s=timeout_s, sleep=_no_sleep)

    def strange(self) -> Store:
        pair = Access(endpoint_url=f"http://{self.host}")
        store = GcsStore(self.url, pair, sleep=_no_sleep)
        store._party._looked = True  # type: ignore[attr-defined]  # nobody: no token
        return store


@dataclass
class Oci(Case):
    url: str
    opened: Callable[[str, float], Store]
    content_of: Callable[[str], bytes]
    key_of: Callable[[str], str]
    atomic = False
    folders = False

    def __post_init__(self) -> None:
        self.host = urlsplit(self.url).netloc

    def store(self, *, host: str = "", timeout_s: float = 10.0) -> Store:
        return self.opened(self.url.replace(self.host, host or self.host), timeout_s)

    def key(self, name: str) -> str:
        return self.key_of(name)

    def content(self, text: str) -> bytes:
        return self.content_of(text)


def _oci(backend: object) -> Oci:
    from oci_backends import OciBackend

    from stackyard.edges.stores.oci import OciStore

    assert isinstance(backend, OciBackend)

    def opened(url: str, timeout_s: float) -> Store:
        return OciStore(url, Access(), timeout_s=timeout_s, sleep=_no_sleep)

    return Oci(backend.url, opened, backend.content, backend.key)


def _open_case(name: str, request: pytest.FixtureRequest, folder: Path, stack: ExitStack) -> Case:
    if name == "file":
        folder.joinpath("mirror").mkdir()
        return Folder(folder / "mirror")
    if name == "http":
        return Web(folder, urlsplit(stack.enter_context(mirror_server(folder)).url).netloc)
    if name == "gs-fake":
        server = stack.enter_context(fake_gcs())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(server.account(folder)))
        return Google(server.bucket(), urlsplit(server.url).netloc)
    if name.startswith("s3-"):
        service: S3Server = request.getfixturevalue(name[3:])
        return S3(service, atomic=name != "s3-rclone")
    from oci_backends import fake_backend, real_backend

    real = name == "oci-registry"
    return _oci(stack.enter_context(real_backend(folder) if real else fake_backend()))


CASES = ["file", "http", "s3-moto", "s3-ceph", "s3-rclone", "gs-fake", "oci-registry", "oci-fake"]
REGISTRIES = {"oci-registry", "oci-fake"}
#: What a test asks for, and the places that do not have it.
WITHOUT = {
    "writer": {"http"},
    "anything": REGISTRIES,  # keys of all forms
    "conditions": {"http", "s3-rclone"} | REGISTRIES,
    "strange": {"file", "http", "s3-moto"} | REGISTRIES,  # somebody who is kept out
    "proxy": {"file"},
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        lacking = set().union(*(WITHOUT.get(name, set()) for name in metafunc.fixturenames))
        metafunc.parametrize("case", [name for name in CASES if name not in lacking], indirect=True)


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    with ExitStack() as stack:
        yield _open_case(request.param, request, tmp_path, stack)


@pytest.fixture
def store(case: Case) -> Iterator[Store]:
    store = case.store()
    yield store
    store.close()


@pytest.fixture
def writer(case: Case, store: Store) -> WritableStore:
    del case
    assert is_writable(store)
    return store


@pytest.fixture
def anything() -> None:
    """Marks a test that uses keys of all forms."""


@pytest.fixture
def conditions(writer: WritableStore) -> WritableStore:
    """A place where conditions hold against other writers."""
    return writer


@pytest.fixture
def strange(case: Case) -> Iterator[Store]:
    """The place for somebody who may do nothing there."""
    store = case.strange()
    yield store
    store.close()


@pytest.fixture
def proxy(case: Case) -> Iterator[FaultyProxy]:
    """A proxy before the place's server, which does no harm until it is told to."""
    with faulty_proxy(f"http://{case.host}", lambda *_: None) as proxy:
        yield proxy


#: A registry knows more exactly what its keys are.
_NO_KEY = re.compile("cannot be the path|a registry holds")


def _closed_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def _host(proxy: FaultyProxy) -> str:
    return urlsplit(proxy.url).netloc


# --- reading ---


def test_what_was_written_is_read(case: Case, store: Store) -> None:
    key, data = case.key("one"), case.content("one")
    case.put(key, data)
    assert store.read(key) == data
    assert store.exists(key)


def test_what_is_missing_is_not_found(case: Case, store: Store) -> None:
    case.put(case.key("there"), case.content("there"))
    key = case.key("missing")
    assert store.exists(key) is False
    with pytest.raises(NotFoundError) as caught:
        store.read(key)
    assert caught.value.where == f"{store.url}/{key}"
    with pytest.raises(NotFoundError):
        store.read_range(key, 0, 1)
    with pytest.raises(NotFoundError), store.stream(key) as pieces:
        list(pieces)


def test_a_body_has_a_bound(case: Case, store: Store) -> None:
    key, data = case.key("one"), case.content("a" * 100)
    case.put(key, data)
    assert store.read(key, max_bytes=len(data)) == data
    with pytest.raises(CorruptError, match=r"larger than|more than"):
        store.read(key, max_bytes=len(data) - 1)
    assert store.read(key) == data  # and the store still works


@pytest.mark.parametrize(
    ("start", "length"), [(0, 3), (4, 2), (90, 1000), (10_000, 5), (3, 0), (0, 10_000)]
)
def test_a_range_is_read(case: Case, store: Store, start: int, length: int) -> None:
    key, data = case.key("one"), case.content("0123456789" * 10)
    case.put(key, data)
    assert store.read_range(key, start, length) == data[start : start + length]


@pytest.mark.parametrize("start", [0, 1, 50, 10_000])
def test_a_stream_begins_where_it_is_told_to(case: Case, store: Store, start: int) -> None:
    key, data = case.key("one"), case.content("0123456789" * 10)
    case.put(key, data)
    with store.stream(key, start) as pieces:
        assert b"".join(pieces) == data[start:]
    with store.stream(key) as pieces:  # one that is left early does no harm
        next(pieces)
    assert store.read(key) == data


def test_a_stream_from_the_very_end_is_empty(case: Case, store: Store) -> None:
    key, data = case.key("one"), case.content("0123456789")
    case.put(key, data)
    with store.stream(key, len(data)) as pieces:
        assert b"".join(pieces) == b""


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "a/../b", "..", "./a", "a//b", "a/", "a\0b", "a\nb", "a\\b",
     "x" * 256, "y/" * 600 + "y"],
)  # fmt: skip
def test_hostile_keys_are_refused(store: Store, key: str) -> None:
    for call in (store.read, store.exists, lambda key: store.read_range(key, 0, 1)):
        with pytest.raises(StoreError, match=_NO_KEY):
            call(key)
    with pytest.raises(StoreError, match=_NO_KEY), store.stream(key) as pieces:
        list(pieces)
    if is_writable(store):
        for write in (store.write, store.create, lambda k, d: store.replace(k, d, "1")):
            with pytest.raises(StoreError, match=_NO_KEY):
                write(key, b"x")
        with pytest.raises(StoreError, match=_NO_KEY):
            store.delete(key)


# --- listing ---


def test_a_list_has_all_keys_with_a_prefix(case: Case, writer: WritableStore) -> None:
    names = ("aa-1", "aa-2", "ab-1", "b")
    for name in names:
        writer.write(case.key(name), case.content(name))
    base = case.key("b")[:-1]
    found = {listed.key: listed for listed in writer.list(base)}
    assert set(found) == {case.key(name) for name in names}
    for name in names:
        size = found[case.key(name)].size_bytes
        assert not case.folders or size == len(case.content(name))
    assert {listed.key for listed in writer.list(f"{base}aa")} == {
        case.key("aa-1"),
        case.key("aa-2"),
    }
    assert list(writer.list(f"{base}none")) == []


def test_a_stamp_changes_with_the_content(case: Case, writer: WritableStore) -> None:
    key = case.key("one")

    def listed() -> Listed:
        (found,) = writer.list(key)
        return found

    writer.write(key, case.content("one"))
    first = listed()
    assert first == listed()
    writer.write(key, case.content("two"))
    assert listed().stamp != first.stamp or not first.stamp


def test_a_list_has_pages(case: Case, writer: WritableStore) -> None:
    """S3 gives up to 1,000 keys at once, our registry three."""
    count = 1005 if case.folders else 8
    keys = [case.key(f"n{number:04}") for number in range(count)]
    data = case.content("x")
    parallel_map(lambda key: writer.write(key, data), keys, workers=8)
    assert sorted(listed.key for listed in writer.list(case.key("n"))) == keys


@pytest.mark.parametrize(
    "name", ["a b", "a+b", "a%41", "a=b", "ü=€", "a*~", "a#b?c&d", "[x]^`|{y}", "a'b\"c", "<&>;:@,$!()"]
)  # fmt: skip
def test_odd_names_come_back_as_they_are(
    case: Case, store: Store, anything: None, name: str
) -> None:
    key = case.key(f"{name}/{name}")
    case.put(key, name.encode())
    assert store.read(key) == name.encode()
    assert store.exists(key)
    if case.writable:
        assert [listed.key for listed in store.list(case.key(name[0]))] == [key]


# --- writing ---


def test_writing_again_replaces(case: Case, writer: WritableStore) -> None:
    key = case.key("one")
    for text in ("one", "two"):
        writer.write(key, case.content(text))
        assert writer.read(key) == case.content(text)


@pytest.mark.parametrize("size", [0, 1, 5 * 2**20, 11 * 2**20])
def test_a_file_is_uploaded(
    case: Case,
    writer: WritableStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    for name in ("_LARGEST_WHOLE", "_PART_BYTES"):
        monkeypatch.setattr(bucket, name, 5 * 2**20)
    data = hashlib.shake_128(b"seed").digest(size)
    (tmp_path / "file").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    key = f"blobs/sha256/{digest[:2]}/{digest}"
    writer.upload(key, tmp_path / "file")
    with writer.stream(key) as pieces:
        assert hashlib.sha256(b"".join(pieces)).hexdigest() == digest
    assert writer.read_range(key, max(0, size - 3), 9) == data[-3:]
    writer.upload(key, tmp_path / "file")  # again
    assert writer.exists(key)


def test_what_is_deleted_is_gone(case: Case, writer: WritableStore) -> None:
    key, other = case.key("one"), case.key("other")
    writer.write(key, case.content("one"))
    writer.write(other, case.content("other"))
    writer.delete(key)
    assert writer.exists(key) is False
    writer.delete(key)  # is no error
    writer.delete(case.key("never"))
    assert writer.read(other) == case.content("other")


# --- conditions ---


def test_it_tells_whether_conditions_hold(case: Case, writer: WritableStore) -> None:
    assert writer.atomic is case.atomic
    assert list(writer.list(case.key("x")[:-1])) == []  # and left nothing behind


def test_create_makes_only_what_is_new(case: Case, writer: WritableStore) -> None:
    key = case.key("one")
    version = writer.create(key, case.content("one"))
    assert writer.read_version(key) == (case.content("one"), version)
    with pytest.raises(ConflictError):
        writer.create(key, case.content("two"))
    assert writer.read(key) == case.content("one")


def test_replace_writes_only_over_its_version(case: Case, writer: WritableStore) -> None:
    key = case.key("one")
    first = writer.create(key, case.content("one"))
    second = writer.replace(key, case.content("two"), first)
    assert second != first
    with pytest.raises(ConflictError):
        writer.replace(key, case.content("three"), first)
    assert writer.read_version(key) == (case.content("two"), second)
    assert writer.replace(key, case.content("four"), second)
    assert writer.read(key) == case.content("four")


def test_replace_makes_nothing(case: Case, writer: WritableStore) -> None:
    key = case.key("one")
    version = writer.create(key, case.content("one"))
    writer.delete(key)
    with pytest.raises(ConflictError):
        writer.replace(key, case.content("two"), version)
    assert writer.exists(key) is False
    with pytest.raises(NotFoundError):
        writer.read_version(key)


def _race(count: int, run: Callable[[int], object]) -> list[int]:
    """The numbers of those who met no conflict, when all start at once."""
    barrier = Barrier(count)
    won: list[int] = []

    def one(number: int) -> None:
        barrier.wait()
        try:
            run(number)
        except ConflictError:
            return
        won.append(number)

    threads = [Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


def test_of_eight_writers_one_wins(case: Case, conditions: WritableStore) -> None:
    key = case.key("one")
    (first,) = _race(8, lambda number: conditions.create(key, case.content(f"{number}")))
    data, version = conditions.read_version(key)
    assert data == case.content(f"{first}")
    (second,) = _race(
        8, lambda number: conditions.replace(key, case.content(f"r{number}"), version)
    )
    assert conditions.read(key) == case.content(f"r{second}")


# --- when things go wrong ---


def test_who_may_not_is_denied(case: Case, strange: Store) -> None:
    store, key = strange, case.key("one")
    case.put(key, case.content("one"))
    calls: list[Callable[[], object]] = [
        lambda: store.read(key),
        lambda: store.exists(key),
        lambda: store.read_range(key, 0, 1),
        lambda: list(store.list()),
    ]
    if is_writable(store):
        calls += [lambda: store.write(key, b"x"), lambda: store.create(key, b"x")]
        calls += [lambda: store.delete(key)]
    for call in calls:
        with pytest.raises(DeniedError) as caught:
            call()
        assert caught.value.hint
        assert SECRET not in f"{caught.value!r}{caught.value}{store!r}{store.url}"


def test_an_unreadable_file_is_denied(tmp_path: Path) -> None:
    """Root may read everything, and so is somebody else while it asks."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    tmp_path.joinpath("one").write_bytes(b"x")
    tmp_path.joinpath("one").chmod(0)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(DeniedError):
            FileStore(tmp_path).read("one")
    finally:
        os.seteuid(0)


def test_nobody_there_is_unreachable(case: Case) -> None:
    store, key = case.gone(), case.key("one")
    for call in (store.read, store.exists, lambda key: store.read_range(key, 0, 1)):
        with pytest.raises(UnreachableError):
            call(key)
    if case.writable:
        with pytest.raises(UnreachableError):
            list(store.list(case.key("")))
    store.close()


def test_a_slow_server_is_unreachable(case: Case, proxy: FaultyProxy) -> None:
    key = case.key("one")
    case.put(key, case.content("one"))
    proxy.choose = lambda *_: Fault("delay", delay_s=2.5)
    store = case.store(host=_host(proxy), timeout_s=0.15)
    with pytest.raises(UnreachableError, match=r"no answer within 0.15 s"):
        store.read(key)
    store.close()


@pytest.mark.parametrize(
    "fault",
    [
        Fault("answer", status=503),
        Fault("answer", status=500),
        Fault("answer", status=429, retry_after="1"),
        Fault("cut", 0.5),
        Fault("reset", 0.5),
    ],
    ids=["503", "500", "429", "cut", "reset"],
)
def test_what_breaks_twice_is_tried_again(case: Case, proxy: FaultyProxy, fault: Fault) -> None:
    key, data = case.key("one"), case.content("one" * 100)
    case.put(key, data)
    proxy.choose = lambda _, __, number: fault if number < 2 else None
    store = case.store(host=_host(proxy))
    assert store.read(key) == data
    proxy.choose = lambda *_: fault
    with pytest.raises(UnreachableError):
        store.read(key)
    store.close()


def test_a_stream_that_is_cut_says_so(case: Case, proxy: FaultyProxy) -> None:
    key, data = case.key("one"), case.content("0123456789" * 1000)
    case.put(key, data)
    store = case.store(host=_host(proxy))
    if not case.folders:
        store.read(key)  # logs in
    proxy.choose = lambda *_: Fault("cut", 0.5)
    got = bytearray()
    with pytest.raises(UnreachableError), store.stream(key) as pieces:
        got.extend(byte for piece in pieces for byte in piece)
    assert len(got) < len(data)
    assert data.startswith(got)
    proxy.choose = lambda *_: None
    with store.stream(key, len(got)) as pieces:
        assert bytes(got) + b"".join(pieces) == data
    store.close()


def test_writes_survive_a_lost_answer(
    case: Case, conditions: WritableStore, proxy: FaultyProxy
) -> None:
    """The first try is done, its answer is lost, the second one meets what the first one wrote."""
    store = case.store(host=_host(proxy))
    assert is_writable(store)
    assert store.atomic
    key = case.key("one")
    writes: tuple[Callable[[bytes], str], ...] = (
        lambda data: store.create(key, data),
        lambda data: store.replace(key, data, store.read_version(key).version),
    )
    for number, write in enumerate(writes):
        lost: list[str] = []

        def first_write(method: str, path: str, _: int, lost: list[str] = lost) -> Fault | None:
            if method != "PUT":
                return None
            lost.append(path)
            return Fault("lose") if len(lost) == 1 else None

        proxy.choose = first_write
        data = case.content(f"{number}")
        version = write(data)
        assert len(lost) == 2  # it was sent again
        assert store.read_version(key) == (data, version)
    store.close()


def test_writes_see_what_others_wrote_meanwhile(
    case: Case, conditions: WritableStore, proxy: FaultyProxy
) -> None:
    """The answer is lost, and it was somebody else's file that was in the way."""
    store, key = case.store(host=_host(proxy)), case.key("one")
    assert is_writable(store)
    assert store.atomic
    conditions.create(key, case.content("theirs"))
    put = [Fault("lose")]
    proxy.choose = lambda method, *_: put.pop() if method == "PUT" and put else None
    with pytest.raises(ConflictError):
        store.create(key, case.content("ours"))
    assert put == []
    assert store.read(key) == case.content("theirs")
    store.close()


def test_urls_have_no_slash_at_their_end(store: Store) -> None:
    assert not store.url.endswith("/")
    assert "://" in store.url
