"""A registry as a store: its pages, faults and uploads; Spack's images and index in it."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_registry import MANIFEST, Asked, FakeRegistry, Fault, digest_of, fake_registry
from oci_backends import docker_registry, fake_backend, real_backend
from registry_data import fill
from serving import QuietHandler, serving
from tests_data import DATA

from stackyard.binary import Metadata, parse_metadata
from stackyard.edges.mirrors.images import find_layer, push_binary
from stackyard.edges.mirrors.inventory import take_inventories
from stackyard.edges.mirrors.layouts import (
    find_binaries,
    layouts_of,
    list_manifests,
    manifest_keys,
    read_binary,
)
from stackyard.edges.parallel import parallel_map
from stackyard.edges.stores import oci, uploads
from stackyard.edges.stores.access import Place
from stackyard.edges.stores.oci import OciStore
from stackyard.edges.stores.store import ANONYMOUS, Access, is_writable, open_store
from stackyard.errors import (
    ConflictError,
    CorruptError,
    DeniedError,
    NotFoundError,
    StoreError,
    UnreachableError,
)
from stackyard.lock import parse_lock
from stackyard.mirror import SPEC_MANIFESTS, Found, parse_manifest
from stackyard.oci import INDEX_TYPES, Layer, digest_key, manifest_key, parse_image, spec_tag

LOCK = parse_lock((DATA / "tiny.spack.lock").read_bytes(), "tiny")
NAME = "org/tiny"


def content(text: str) -> bytes:
    document = {"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": []}
    return json.dumps({**document, "annotations": {"text": text}}).encode()


def key_of(data: bytes) -> str:
    return digest_key(hashlib.sha256(data).hexdigest())


class Waits(list[float]):
    """Seconds that were waited, without waiting."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        yield server


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def store(server: FakeRegistry, waits: Waits) -> Iterator[OciStore]:
    store = OciStore(server.mirror(NAME), ANONYMOUS, timeout_s=5, sleep=waits)
    yield store
    store.close()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(params=["fake", "real"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OciStore]:
    """A repository of its own in either registry."""
    name = f"t{abs(hash(request.node.name)):x}"
    if request.param == "real":
        url = f"oci+http://{request.getfixturevalue('real')}/{name}"
    else:
        url = request.getfixturevalue("server").mirror(name)
    store = open_store(url, timeout_s=10, sleep=lambda _: None)
    assert isinstance(store, OciStore)
    yield store
    store.close()


def once(fault: Fault, method: str, path: str = "") -> Callable[[Asked], Fault | None]:
    """The fault for the first request of that kind."""
    left = [fault]

    def answer(asked: Asked) -> Fault | None:
        return left.pop() if left and asked.method == method and path in asked.path else None

    return answer


# --- the protocol, where a registry is peculiar ---


def test_blobs_of_all_sizes(
    either: OciStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_writable(either)
    assert not either.atomic
    for size in (0, 1, 3 * 2**20 + 7):
        data = os.urandom(size)
        (tmp_path / "file").write_bytes(data)
        either.upload(key_of(data), tmp_path / "file")
        assert either.read(key_of(data)) == data
        with either.stream(key_of(data), size // 2) as pieces:
            assert b"".join(pieces) == data[size // 2 :]
        assert either.read_range(key_of(data), 2, 10) == data[2:12]
        assert either.read_range(key_of(data), size + 5, 10) == b""
        with either.stream(key_of(data), size + 5) as pieces:
            assert b"".join(pieces) == b""
    monkeypatch.setattr(uploads, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(uploads, "PART_BYTES", 2**20)
    data = os.urandom(5 * 2**20 + 3)
    either.write(key_of(data), data)
    assert either.read(key_of(data), max_bytes=2**23) == data


def test_a_blob_that_is_there_is_not_sent_again(server: FakeRegistry, store: OciStore) -> None:
    store.write(key_of(b"x"), b"x")
    before = len(server.asked)
    store.write(key_of(b"x"), b"x")
    assert [asked.method for asked in server.asked[before:]] == ["HEAD"]


def test_other_bytes_than_the_digest_says_are_not_written(either: OciStore) -> None:
    with pytest.raises(CorruptError, match="other bytes"):
        either.write(key_of(b"x"), b"y")
    assert not either.exists(key_of(b"x"))


@pytest.mark.parametrize(
    "key", ["v3/layout.json", "manifests/a/b", "manifests/ä", "blobs/sha256/00/11", "x"]
)
def test_keys_that_no_registry_has(key: str, server: FakeRegistry, store: OciStore) -> None:
    assert not store.exists(key)
    with pytest.raises(NotFoundError):
        store.read(key)
    with pytest.raises(StoreError):
        store.write(key, content("x"))
    store.delete(key)
    assert server.asked == []


@pytest.mark.parametrize("key", ["../x", "manifests/../../x", "/manifests/x", "manifests/a\0b"])
def test_keys_that_lead_elsewhere(key: str, server: FakeRegistry, store: OciStore) -> None:
    for call in (store.read, store.exists, store.delete):
        with pytest.raises(StoreError, match="cannot be the path"):
            call(key)
    assert server.asked == []


@pytest.mark.parametrize("kind", ["fake", "real"])
def test_back_ends_of_the_contract_suite(kind: str, tmp_path: Path) -> None:
    opened = real_backend(tmp_path) if kind == "real" else fake_backend()
    with opened as backend:
        store = backend.store()
        keys = [backend.key(name) for name in ("a", "b/c", "ü", "v3/x y")]
        for key in keys:
            store.write(key, backend.content(key))
        assert {listed.key for listed in store.list("manifests/")} == set(keys)
        assert all(store.read(key) == backend.content(key) for key in keys)
        store.close()


def test_only_manifests_are_taken_for_manifests(store: OciStore) -> None:
    for data in (b"", b"no JSON", b"[]", b'{"mediaType": 5}'):
        with pytest.raises(CorruptError):
            store.write("manifests/x", data)


def test_a_manifest_is_found_by_its_digest_too(either: OciStore) -> None:
    either.write("manifests/x", content("1"))
    assert either.read(f"manifests/{digest_of(content('1'))}") == content("1")
    assert either.read_range("manifests/x", 2, 5) == content("1")[2:7]
    with either.stream("manifests/x", 4) as pieces:
        assert b"".join(pieces) == content("1")[4:]


def test_a_manifest_goes_with_its_tags(either: OciStore) -> None:
    for tag, text in (("a", "1"), ("b", "1"), ("c", "2")):
        either.write(manifest_key(tag), content(text))
    either.delete("manifests/a")
    either.delete("manifests/none")
    assert [listed.key for listed in either.list("manifests/")] == ["manifests/c"]
    either.write(key_of(b"x"), b"x")
    either.delete(key_of(b"x"))
    either.delete(key_of(b"x"))
    assert not either.exists(key_of(b"x"))


def test_a_broken_manifest_can_be_deleted(server: FakeRegistry, store: OciStore) -> None:
    server.repository(NAME).put("t", b"x" * 30 * 10**6)
    store.delete("manifests/t")
    server.head = False
    store.write("manifests/x", content("x"))
    store.delete("manifests/x")
    assert list(store.list("manifests/")) == []


def test_a_blob_comes_from_another_repository(either: OciStore) -> None:
    other = OciStore(f"{either.url}-other", ANONYMOUS, timeout_s=10)
    other.write(key_of(b"x"), b"x")
    either.write(key_of(b"own"), b"own")
    assert either.mount_from(other.reference.name, digest_of(b"x"))
    assert either.read(key_of(b"x")) == b"x"
    assert not either.mount_from(other.reference.name, digest_of(b"y"))
    assert not either.mount_from("none/such", digest_of(b"y"))
    other.close()


def test_a_mount_that_is_refused_leaves_no_upload(server: FakeRegistry, store: OciStore) -> None:
    server.repository("other").blobs[digest_of(b"x")] = b"x"
    server.mounts = False
    assert not store.mount_from("other", digest_of(b"x"))
    assert server.repository(NAME).uploads == {}


def test_a_mount_asks_for_the_right_to_read_there(server: FakeRegistry) -> None:
    server.auth, server.users = "bearer", {"me": "geheim"}
    server.repository("other").blobs[digest_of(b"x")] = b"x"
    store = OciStore(server.mirror(NAME), Access(id="me", secret="geheim"))
    assert store.mount_from("other", digest_of(b"x"))
    store.close()


# --- lists ---


@pytest.mark.parametrize("links", ["relative", "absolute", "strange"])
def test_lists_have_pages(links: str, server: FakeRegistry, store: OciStore) -> None:
    server.page, server.links = 3, links
    for i in range(10):
        server.repository(NAME).put(f"t{i}", content(str(i)))
    keys = [listed.key for listed in store.list("manifests/")]
    assert keys == [f"manifests/t{i}" for i in range(10)]
    assert [listed.key for listed in store.list("manifests/t3")] == ["manifests/t3"]
    assert {asked.headers["Host"] for asked in server.asked} == {server.host}


def test_a_list_that_breaks_off_is_not_a_shorter_one(server: FakeRegistry, store: OciStore) -> None:
    server.page = 3
    for i in range(10):
        server.repository(NAME).put(f"t{i}", content(str(i)))
    server.fault = lambda asked: Fault(404) if "last=t5" in asked.query else None
    with pytest.raises(NotFoundError):
        list(store.list("manifests/"))


def test_a_registry_with_small_pages_only(server: FakeRegistry, store: OciStore) -> None:
    server.page = server.largest_page = 2
    for i in range(5):
        server.repository(NAME).put(f"t{i}", content(str(i)))
    assert len(list(store.list("manifests/"))) == 5


def test_what_was_never_written_is_an_empty_list(server: FakeRegistry, store: OciStore) -> None:
    assert list(store.list("manifests/")) == []
    server.repository(NAME)
    assert list(store.list("manifests/")) == []
    assert list(store.list("v3/manifests/")) == []


@pytest.mark.parametrize("prefix", ["", "b", "blobs/", "blobs/sha256/00"])
def test_blobs_cannot_be_listed(prefix: str, store: OciStore) -> None:
    with pytest.raises(StoreError, match="not its blobs"):
        list(store.list(prefix))


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "empty"),
        (b"<html>", "not JSON"),
        (b"[]", "is none"),
        (b"{}", ""),
        (b'{"tags": "all"}', "is none"),
        (b'{"tags": ["ok", "../../etc"]}', "a tag cannot be"),
        (b'{"tags": [5]}', "a tag cannot be"),
        (b'{"tags": ["a\\nb"]}', "a tag cannot be"),
    ],
)
def test_lists_that_are_none(
    body: bytes, problem: str, server: FakeRegistry, store: OciStore
) -> None:
    server.fault = lambda _: Fault(200, body=body)
    if not problem:
        assert list(store.list("manifests/")) == []
        return
    with pytest.raises(CorruptError, match=problem):
        list(store.list("manifests/"))


def test_a_list_that_never_ends(server: FakeRegistry, store: OciStore) -> None:
    link = {"Link": '</v2/x/tags/list?last=a>; rel="next"'}
    server.fault = lambda _: Fault(200, link, b'{"tags": ["a"]}')
    with pytest.raises(CorruptError, match="in a circle"):
        list(store.list("manifests/"))
    assert len(server.asked) == 2


# --- faults on the way ---


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_registry_is_asked_again(
    status: int, server: FakeRegistry, store: OciStore, waits: Waits
) -> None:
    server.repository(NAME).put("t", content("1"))
    server.fault = once(Fault(status, {"Retry-After": "7"}), "GET")
    assert store.read("manifests/t") == content("1")
    assert waits == [7.0]


def test_nobody_waits_for_long(server: FakeRegistry, store: OciStore, waits: Waits) -> None:
    server.fault = lambda _: Fault(429, {"Retry-After": "86400"}, b'{"errors": [{"code": "X"}]}')
    with pytest.raises(UnreachableError, match=r"answers 429: X \(5 tries\)"):
        store.read("manifests/t")
    assert waits == [60.0] * 4


def test_broken_answers_are_asked_for_again(
    server: FakeRegistry, store: OciStore, waits: Waits
) -> None:
    data = os.urandom(100_000)
    server.repository(NAME).blobs[digest_of(data)] = data
    server.fault = once(Fault(cut=50_000), "GET")
    assert store.read(key_of(data)) == data
    server.fault = lambda asked: Fault(cut=50_000) if asked.method == "GET" else None
    with pytest.raises(UnreachableError, match=r"cut off \(5 tries\)"):
        store.read(key_of(data))


def test_a_stream_that_breaks_off_says_so(server: FakeRegistry, store: OciStore) -> None:
    data = os.urandom(3 * 2**20)
    server.repository(NAME).blobs[digest_of(data)] = data
    server.fault = lambda asked: Fault(cut=2 * 2**20) if asked.method == "GET" else None
    got: list[bytes] = []
    with store.stream(key_of(data)) as pieces, pytest.raises(UnreachableError, match="cut off"):
        got.extend(pieces)
    assert data.startswith(b"".join(got))
    assert len(b"".join(got)) >= 2**20


def test_a_silent_registry(server: FakeRegistry) -> None:
    server.repository(NAME).put("t", content("1"))
    store = OciStore(server.mirror(NAME), ANONYMOUS, timeout_s=0.1, sleep=lambda _: None)
    server.fault = once(Fault(delay_s=0.5), "GET")
    assert store.read("manifests/t") == content("1")
    server.fault = lambda _: Fault(delay_s=0.3)
    with pytest.raises(UnreachableError, match=r"no answer within 0\.1 s"):
        store.exists("manifests/t")
    store.close()


def test_nobody_is_there(waits: Waits) -> None:
    store = OciStore("oci+http://127.0.0.1:1/a", ANONYMOUS, sleep=waits)
    with pytest.raises(UnreachableError, match="no connection: Connection refused"):
        store.exists("manifests/t")
    assert len(waits) == 4
    store.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, DeniedError), (404, NotFoundError), (410, NotFoundError), (418, StoreError)],
)
def test_answers_that_say_no(
    status: int, kind: type[StoreError], server: FakeRegistry, store: OciStore, waits: Waits
) -> None:
    body = b'{"errors": [{"code": "DENIED", "message": "not for you"}]}'
    server.fault = lambda _: Fault(status, body=body)
    with pytest.raises(kind):
        store.read("manifests/t")
    with pytest.raises(kind), store.stream(key_of(b"x")):
        pass
    assert waits == []


def test_a_registry_without_head(server: FakeRegistry, store: OciStore) -> None:
    server.repository(NAME).put("t", content("1"))
    server.head = False
    assert store.exists("manifests/t")
    assert not store.exists("manifests/none")


def test_a_registry_without_ranges(server: FakeRegistry, store: OciStore) -> None:
    data = os.urandom(1000)
    server.repository(NAME).blobs[digest_of(data)] = data
    server.ranges = False
    assert store.read_range(key_of(data), 300, 10) == data[300:310]
    with store.stream(key_of(data), 990) as pieces:
        assert b"".join(pieces) == data[990:]


def test_another_range_than_was_asked_for(server: FakeRegistry, store: OciStore) -> None:
    server.fault = lambda _: Fault(206, {"Content-Range": "bytes 0-3/9"}, b"abcd")
    with pytest.raises(CorruptError, match="another range"):
        store.read_range(key_of(b"x"), 5, 4)
    with pytest.raises(CorruptError, match="another range"), store.stream(key_of(b"x"), 5):
        pass


# --- hostile answers ---


def test_changed_content_under_a_digest(server: FakeRegistry, store: OciStore) -> None:
    repository = server.repository(NAME)
    repository.blobs[digest_of(b"x")] = b"y"
    repository.manifests[digest_of(content("1"))] = (MANIFEST, content("2"))
    repository.tags["t"] = digest_of(content("1"))
    for key in (key_of(b"x"), f"manifests/{digest_of(content('1'))}", "manifests/t"):
        with pytest.raises(CorruptError, match="other bytes came"):
            store.read(key)


def test_what_went_wrong_on_the_way_is_read_again(server: FakeRegistry, store: OciStore) -> None:
    server.repository(NAME).blobs[digest_of(b"x")] = b"x"
    server.fault = once(Fault(200, body=b"y"), "GET")
    assert store.read(key_of(b"x")) == b"x"


@pytest.mark.parametrize("honest", [True, False])
def test_a_huge_manifest(server: FakeRegistry, store: OciStore, *, honest: bool) -> None:
    huge = b'{"schemaVersion": 2}' + b" " * 2**20
    server.repository(NAME).put("t", huge)
    if not honest:  # no length is told, and the end is that of the connection
        server.fault = lambda _: Fault(200, {"Content-Length": "", "Connection": "close"}, huge)
    with pytest.raises(CorruptError, match="more than 1000 bytes"):
        store.read("manifests/t", max_bytes=1000)


@pytest.mark.parametrize(
    "place",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "",
        "http://",
        "http://[",
        "gopher:x",
        "http://a b/",
    ],
)
def test_redirects_to_odd_places(place: str, server: FakeRegistry, store: OciStore) -> None:
    server.fault = lambda _: Fault(307, {"Location": place} if place else {})
    with pytest.raises(UnreachableError):
        store.read(key_of(b"x"))
    with pytest.raises(UnreachableError), store.stream(key_of(b"x")):
        pass


def test_redirects_in_a_circle(server: FakeRegistry, store: OciStore) -> None:
    server.fault = lambda asked: Fault(302, {"Location": asked.path})
    with pytest.raises(UnreachableError, match="more than 5 times"):
        store.read("manifests/t")


# --- uploads ---


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(uploads, "PART_BYTES", 2**20)


DATA_5 = os.urandom(5 * 2**20 + 3)
WRONG_DIGEST = b'{"errors": [{"code": "DIGEST_INVALID", "message": "not this one"}]}'


def test_a_registry_that_wants_parts(server: FakeRegistry, store: OciStore) -> None:
    server.whole = False
    for data in (b"first", b"second"):
        store.write(key_of(data), data)
        assert store.read(key_of(data)) == data
    uploads = server.methods("/uploads/")
    assert uploads == ["POST", "PUT", "POST", "PATCH", "PUT", "POST", "PATCH", "PUT"]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(("least", "patches"), [(0, 6), (2 * 2**20, 3), (2**40, 1)])
def test_the_registry_says_how_small_a_part_may_be(
    least: int, patches: int, server: FakeRegistry, store: OciStore
) -> None:
    server.least_part = least
    store.write(key_of(DATA_5), DATA_5)
    assert server.methods("/uploads/").count("PATCH") == patches
    assert server.repository(NAME).blobs[digest_of(DATA_5)] == DATA_5


def test_parts_that_are_too_large(
    server: FakeRegistry, store: OciStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "WHOLE_BYTES", 1000)
    server.largest_part = 3 * 2**20
    store.write(key_of(DATA_5), DATA_5)
    assert server.repository(NAME).blobs[digest_of(DATA_5)] == DATA_5
    server.largest_part = 2**19  # less than we think of
    with pytest.raises(StoreError, match="too large for the registry"):
        store.write(key_of(DATA_5[1:]), DATA_5[1:])


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    "fault",
    [Fault(cut=1000), Fault(after=True), Fault(500), Fault(503, {"Retry-After": "3"}), Fault(404)],
)
@pytest.mark.parametrize("number", [1, 4])
def test_a_part_that_breaks_off(
    fault: Fault, number: int, server: FakeRegistry, store: OciStore
) -> None:
    """Taken or not: the upload goes on where the registry says, or begins anew."""
    seen: list[Asked] = []

    def answer(asked: Asked) -> Fault | None:
        if asked.method == "PATCH":
            seen.append(asked)
        return fault if asked.method == "PATCH" and len(seen) == number else None

    server.fault = answer
    store.write(key_of(DATA_5), DATA_5)
    assert server.repository(NAME).blobs[digest_of(DATA_5)] == DATA_5
    assert len(seen) <= 6 + number


@pytest.mark.usefixtures("small_parts")
def test_a_part_that_was_taken_twice(server: FakeRegistry, store: OciStore) -> None:
    """Where a part broke off before, a wrong digest may be the registry's doing."""
    left = {"PATCH": Fault(after=True), "PUT": Fault(400, body=WRONG_DIGEST)}
    server.fault = lambda asked: left.pop(asked.method, None)
    store.write(key_of(DATA_5), DATA_5)
    assert server.repository(NAME).blobs[digest_of(DATA_5)] == DATA_5
    server.fault = lambda asked: Fault(400, body=WRONG_DIGEST) if asked.method == "PUT" else None
    with pytest.raises(CorruptError, match="other bytes arrived"):
        store.write(key_of(DATA_5[1:]), DATA_5[1:])


@pytest.mark.usefixtures("small_parts")
def test_a_registry_that_has_more_than_there_is(
    server: FakeRegistry, store: OciStore, waits: Waits
) -> None:
    answer = Fault(202, {"Range": f"0-{2**40}"})
    server.fault = lambda asked: answer if asked.method == "PATCH" else None
    with pytest.raises(UnreachableError, match="has more of it than there is"):
        store.write(key_of(DATA_5), DATA_5)
    assert "PUT" not in server.methods()


@pytest.mark.usefixtures("small_parts")
def test_a_part_that_always_breaks_off(server: FakeRegistry, store: OciStore, waits: Waits) -> None:
    server.fault = lambda asked: Fault(cut=10) if asked.method == "PATCH" else None
    with pytest.raises(UnreachableError):
        store.write(key_of(DATA_5), DATA_5)
    assert waits
    assert not store.exists(key_of(DATA_5))


_BREAKS = (Fault(cut=1000), Fault(after=True), Fault(500), Fault(503), Fault(429))


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        *(("POST", fault) for fault in _BREAKS),
        *(("PUT", fault) for fault in (*_BREAKS, Fault(404), Fault(416))),
    ],
)
def test_a_whole_upload_that_breaks_off(
    fault: Fault, method: str, server: FakeRegistry, store: OciStore, tmp_path: Path
) -> None:
    server.fault = once(fault, method)
    (tmp_path / "file").write_bytes(DATA_5)
    store.upload(key_of(DATA_5), tmp_path / "file")
    assert server.repository(NAME).blobs[digest_of(DATA_5)] == DATA_5


@pytest.mark.parametrize("code", ["NAME_UNKNOWN", "NOT_FOUND"])
def test_a_registry_that_makes_no_repository(
    code: str, server: FakeRegistry, store: OciStore, waits: Waits
) -> None:
    """Amazon's, and Harbor's without the project; nobody has lost an upload there."""
    body = json.dumps({"errors": [{"code": code, "message": "no org/tiny here"}]}).encode()
    server.fault = lambda _: Fault(404, body=body)
    with pytest.raises(StoreError, match=r"makes none \(no org/tiny here\)") as raised:
        store.write(key_of(b"x"), b"x")
    assert not isinstance(raised.value, NotFoundError)  # whoever copies takes that for the source
    assert "aws ecr create-repository" in raised.value.hint
    assert waits == []


def test_what_arrived_is_not_sent_again(server: FakeRegistry, store: OciStore) -> None:
    server.fault = once(Fault(after=True), "PUT")
    store.write(key_of(DATA_5), DATA_5)
    assert server.methods("/uploads/") == ["POST", "PUT"]


@pytest.mark.parametrize("place", ["file:///tmp/x", "", "ftp://127.0.0.1/"])
def test_an_upload_sent_to_an_odd_place(place: str, server: FakeRegistry, store: OciStore) -> None:
    answer = Fault(202, {"Location": place} if place else {})
    server.fault = lambda asked: answer if asked.method == "POST" else None
    with pytest.raises(UnreachableError, match="where we do not go"):
        store.write(key_of(b"x"), b"x")


def test_a_file_that_changes_while_it_is_sent(store: OciStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"changed")
    with pytest.raises(CorruptError, match="other bytes arrived"):
        store.upload(key_of(b"first"), tmp_path / "file")


def test_many_threads_write_and_read(either: OciStore) -> None:
    blobs = [os.urandom(1000 + i) for i in range(60)]
    tags = [f"t{i}" for i in range(60)]

    def work(number: int) -> bytes:
        either.write(key_of(blobs[number]), blobs[number])
        either.write(manifest_key(tags[number]), content(tags[number]))
        assert either.read(manifest_key(tags[number])) == content(tags[number])
        return either.read(key_of(blobs[number]))

    assert parallel_map(work, range(60), workers=32) == blobs
    assert {listed.key for listed in either.list("manifests/")} == set(map(manifest_key, tags))


# --- two writers ---


def test_create_and_replace(either: OciStore) -> None:
    key = "manifests/x"
    version = either.create(key, content("1"))
    assert either.read_version(key) == (content("1"), version)
    with pytest.raises(ConflictError):
        either.create(key, content("2"))
    newer = either.replace(key, content("2"), version)
    with pytest.raises(ConflictError):
        either.replace(key, content("3"), version)
    with pytest.raises(ConflictError):
        either.replace("manifests/none", content("3"), version)
    assert either.read_version(key) == (content("2"), newer)


def test_another_writer_in_between_is_seen(server: FakeRegistry, store: OciStore) -> None:
    """Between our write and our second look."""
    version = store.create("manifests/x", content("1"))
    written = threading.Event()

    def other(asked: Asked) -> None:
        if asked.method == "PUT":
            written.set()
        elif written.is_set() and asked.method == "GET":
            server.repository(NAME).put("x", content("other"))

    server.fault = other
    with pytest.raises(ConflictError, match="at the same time"):
        store.replace("manifests/x", content("2"), version)
    server.repository(NAME).tags.clear()
    with pytest.raises(ConflictError, match="at the same time"):
        store.create("manifests/x", content("2"))


def test_a_registry_that_changes_what_it_gets(server: FakeRegistry, store: OciStore) -> None:
    answer = Fault(201, {"Docker-Content-Digest": digest_of(b"other")})
    server.fault = once(answer, "PUT")
    with pytest.raises(CorruptError, match="stored other bytes"):
        store.write("manifests/x", content("1"))


def test_a_manifest_wants_its_blobs(either: OciStore) -> None:
    layer = {"mediaType": "application/x", "digest": digest_of(b"none"), "size": 4}
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": layer, "layers": [layer]}
    with pytest.raises(StoreError, match="lacks a blob"):
        either.write("manifests/x", json.dumps(document).encode())


# --- deleting where there is no delete ---


def test_a_registry_without_delete(server: FakeRegistry, store: OciStore) -> None:
    server.deletes = False
    store.write("manifests/x", content("1"))
    store.write(key_of(b"x"), b"x")
    for key in ("manifests/x", key_of(b"x")):
        with pytest.raises(StoreError, match="does not delete this") as raised:
            store.delete(key)
        assert "storage.delete.enabled" in raised.value.hint
    store.delete("manifests/none")


class GitHub(QuietHandler):
    """The part of GitHub's API that knows packages."""

    kind = "users"
    versions: dict[int, str]
    asked: list[tuple[str, str]]
    refuse = 0

    def do_GET(self) -> None:  # noqa: N802
        type(self).asked.append((self.command, self.path))
        assert self.headers["Authorization"] == "Bearer geheimes-wort"
        package = f"/{self.kind}/org/packages/container/tiny%2Fdeep"
        path, _, query = self.path.partition("?")
        if type(self).refuse:
            self.answer(type(self).refuse, b'{"message": "nein"}')
        elif self.command == "DELETE":
            gone = self.versions.pop(int(path.rpartition("/")[2]), "")
            self.answer(204 if gone else 404, b"")
        elif path == package:
            self.answer(200, b"{}")
        elif path == f"{package}/versions":
            page = int(query.rpartition("=")[2])
            shown = sorted(self.versions.items())[100 * (page - 1) : 100 * page]
            body = [{"id": number, "name": digest} for number, digest in shown]
            self.answer(200, json.dumps(body).encode())
        else:
            self.answer(404, b'{"message": "Not Found"}')

    do_DELETE = do_GET  # noqa: N815


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch, server: FakeRegistry) -> Iterator[type[GitHub]]:
    from http.server import ThreadingHTTPServer

    class Handler(GitHub):
        versions: dict[int, str] = {number: f"sha256:{number:064x}" for number in range(250)}  # noqa: RUF012
        asked: list[tuple[str, str]] = []  # noqa: RUF012

    api = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setenv("GITHUB_API_URL", f"http://127.0.0.1:{api.server_address[1]}")
    monkeypatch.setenv("GITHUB_TOKEN", "geheimes-wort")
    monkeypatch.setattr(oci, "_GITHUB", server.host)
    server.deletes = False
    with serving(api):
        yield Handler


def test_github_deletes_by_its_own_api(server: FakeRegistry, github: type[GitHub]) -> None:
    store = OciStore(server.mirror("org/tiny/deep"), ANONYMOUS, sleep=lambda _: None)
    for number in (300, 301, 302):
        store.write(manifest_key(f"t{number}"), content(str(number)))
        github.versions[number] = digest_of(content(str(number)))
    for number in (300, 301):
        store.delete(manifest_key(f"t{number}"))
        assert number not in github.versions
    assert 302 in github.versions
    listings = [path for method, path in github.asked if "page=" in path and method == "GET"]
    assert len(listings) == 3  # of 250 versions, once
    assert server.methods("/manifests/").count("DELETE") == 1  # it is asked once
    store.delete(manifest_key("t300"))  # GitHub forgets it; the registry may not have done so yet
    with pytest.raises(StoreError, match="does not delete this"):
        store.delete(key_of(b"x"))
    store.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, DeniedError), (403, DeniedError), (400, StoreError), (500, UnreachableError)],
)
def test_github_refuses(
    status: int, kind: type[StoreError], server: FakeRegistry, github: type[GitHub]
) -> None:
    store = OciStore(server.mirror("org/tiny/deep"), ANONYMOUS, sleep=lambda _: None)
    store.write("manifests/x", content("x"))
    github.refuse = status
    with pytest.raises(kind, match=str(status)) as raised:
        store.delete("manifests/x")
    assert "geheimes-wort" not in str(raised.value)
    store.close()


def test_github_without_a_token(
    server: FakeRegistry, github: type[GitHub], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GITHUB_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))
    store = OciStore(server.mirror("org/tiny/deep"), ANONYMOUS)
    store.write("manifests/x", content("x"))
    with pytest.raises(StoreError, match="own API") as raised:
        store.delete("manifests/x")
    assert "GITHUB_TOKEN" in raised.value.hint
    monkeypatch.setenv("GITHUB_TOKEN", "geheimes-wort")
    monkeypatch.setenv("GITHUB_API_URL", "http://api.example")
    with pytest.raises(StoreError, match="only https"):
        store.delete("manifests/x")
    assert github.asked == []
    store.close()


# --- Spack's images ---


def test_finds_spacks_images(server: FakeRegistry, store: OciStore) -> None:
    fill(server.repository(NAME))
    assert layouts_of(store) == ("oci",)
    wanted = [spec for spec in LOCK.specs.values() if not spec.external]
    search = find_binaries(store, wanted, specs=LOCK.specs)
    assert len(search.binaries) == 7
    assert search.missing == ()
    listed = dict(list_manifests(store, "oci"))
    assert listed.keys() == search.binaries.keys()
    for spec in wanted:
        binary = search.binaries[spec.hash]
        assert binary.key == listed[spec.hash].key == manifest_key(spec_tag(spec))
        assert read_binary(store, "oci", binary.key, spec.hash) == binary
        assert binary.spec
        metadata = parse_metadata(store.read(binary.spec.key), "x")
        assert metadata.hash == spec.hash
        assert store.exists(binary.tarball.key)


def test_what_is_missing_and_what_is_wrong(server: FakeRegistry, store: OciStore) -> None:
    fill(server.repository(NAME))
    one, other, *_ = [spec for spec in LOCK.specs.values() if not spec.external]
    del server.repository(NAME).tags[spec_tag(one)]
    assert find_binaries(store, [one, other], specs={}).missing == (one.hash,)
    server.repository(NAME).put(spec_tag(one), b'{"schemaVersion": 2}')
    with pytest.raises(CorruptError, match="no layers"):
        find_binaries(store, [one], specs={})
    assert manifest_keys(one, "oci", {}) == (manifest_key(spec_tag(one)),)


def layer_3(name: str = "v3-unsigned") -> Iterator[tuple[Metadata, Path]]:
    """Metadata and tarball of each binary on a mirror in a folder."""
    mirror = DATA / "mirrors" / name
    for path in sorted((mirror / SPEC_MANIFESTS).rglob("*.spec.manifest.json")):
        tarball, spec = parse_manifest(path.read_bytes(), path.name).records
        files = [mirror / digest_key(record.checksum) for record in (tarball, spec)]
        yield parse_metadata(files[1].read_bytes(), path.name), files[0]


def test_pushes_images(either: OciStore) -> None:
    """Dependencies first: each finds the layers of those before it."""
    binaries = sorted(layer_3(), key=lambda binary: len(binary[0].nodes))
    layers: dict[str, Layer] = {}
    for metadata, tarball in binaries:
        layers[metadata.hash] = push_binary(either, metadata, tarball, dependencies=layers)
    search = find_binaries(either, list(LOCK.specs.values()), specs={})
    assert len(search.binaries) == 7
    for metadata, tarball in binaries:
        binary = search.binaries[metadata.hash]
        assert binary.tarball.checksum == tarball.name
        assert binary.spec
        assert parse_metadata(either.read(binary.spec.key), "x") == metadata
        unpacked = hashlib.sha256(gzip.decompress(tarball.read_bytes())).hexdigest()
        spec = LOCK.specs[metadata.hash]
        assert find_layer(either, spec) == layers[metadata.hash]
        assert layers[metadata.hash].diff_checksum == unpacked
        image = parse_image(binary.manifest, "x")
        config = json.loads(either.read(image.config.blob.key))
        assert len(config["rootfs"]["diff_ids"]) == len(image.layers) == len(metadata.nodes)


def test_pushes_once_and_again_only_if_told(
    store: OciStore, server: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata, tarball = min(layer_3(), key=lambda binary: len(binary[0].nodes))
    spec = LOCK.specs[metadata.hash]
    push_binary(store, metadata, tarball, dependencies={}, timestamp="1")
    before = store.read(manifest_key(spec_tag(spec)))
    with pytest.raises(ConflictError):
        push_binary(store, metadata, tarball, dependencies={}, timestamp="2")
    assert store.read(manifest_key(spec_tag(spec))) == before
    monkeypatch.setenv("CI_PROJECT_URL", "https://gitlab.example/group/project")
    push_binary(store, metadata, tarball, dependencies={}, timestamp="2", overwrite=True)
    notes = json.loads(store.read(manifest_key(spec_tag(spec))))["annotations"]
    named = {name for name in notes if not name.startswith("dev.stackyard.")}
    assert {name: notes[name] for name in named - {"org.opencontainers.image.title"}} == {
        "org.opencontainers.image.description": f"{spec.name}@={spec.version}~extra "
        "build_system=generic platform=linux os=debian12 target=x86_64_v3",
        "org.opencontainers.image.version": spec.version,
        "org.opencontainers.image.source": "https://gitlab.example/group/project",
    }
    assert server.methods("/manifests/").count("PUT") == 2


@pytest.mark.parametrize("data", [b"", b"no gzip", gzip.compress(b"x" * 1000, mtime=0)[:-9]])
def test_pushes_no_broken_tarball(
    data: bytes, server: FakeRegistry, store: OciStore, tmp_path: Path
) -> None:
    metadata, _ = next(layer_3())
    (tmp_path / "tarball").write_bytes(data)
    with pytest.raises(CorruptError, match="cannot be unpacked"):
        push_binary(store, metadata, tmp_path / "tarball", dependencies={})
    assert "PUT" not in server.methods()


def test_pushes_no_external(store: OciStore, tmp_path: Path) -> None:
    metadata, tarball = min(layer_3(), key=lambda binary: len(binary[0].nodes))
    external: dict[str, Any] = {
        "external": {"path": "/usr", "module": None, "extra_attributes": {}}
    }
    nodes = [{**metadata.nodes[0], **external}]
    with pytest.raises(StoreError, match="external has no binary"):
        push_binary(store, Metadata(nodes, 5), tarball, dependencies={})


# --- what a plan asks ---


def inventory(url: str, *, index_only: bool = False, access: Access = ANONYMOUS) -> Any:
    wanted = [spec for spec in LOCK.specs.values() if not spec.external]
    (taken,) = take_inventories(
        [Place("m", url, signed=True, access=access)],
        wanted,
        index_only=index_only,
        progress=lambda _: None,
        sleep=lambda _: None,
    )
    return taken


@pytest.mark.parametrize("index_only", [True, False])
def test_a_plan_reads_the_index(server: FakeRegistry, *, index_only: bool) -> None:
    fill(server.repository(NAME))
    taken = inventory(server.mirror(NAME), index_only=index_only)
    assert len(taken.found) == 7
    assert set(taken.found.values()) == {Found(layout="oci", via="index", signed=None)}
    assert taken.warnings == ()
    assert len(server.asked) == 2


@pytest.mark.parametrize("index_only", [True, False])
def test_a_plan_without_an_index_finds_nothing(server: FakeRegistry, *, index_only: bool) -> None:
    """As Spack does: it looks nothing up in a registry."""
    fill(server.repository(NAME))
    del server.repository(NAME).tags["index.spack"]
    taken = inventory(server.mirror(NAME), index_only=index_only)
    assert taken.found == {}
    assert "has no index" in taken.warnings[0]
    assert len(server.asked) == 1


def test_a_plan_ends_where_the_registry_does_not_answer(server: FakeRegistry) -> None:
    with pytest.raises(UnreachableError, match="mirror m: no connection"):
        inventory("oci+http://127.0.0.1:1/a")
    server.auth = "basic"
    with pytest.raises(DeniedError, match="mirror m: the registry wants to know who we are"):
        inventory(server.mirror(NAME))


def test_an_index_that_is_broken(server: FakeRegistry) -> None:
    repository = server.repository(NAME)
    fill(repository)
    manifest = json.loads(repository.manifests[repository.tags["index.spack"]][1])
    index = manifest["layers"][0]
    data = repository.blobs.pop(index["digest"])
    with pytest.raises(CorruptError, match="which is not there"):
        inventory(server.mirror(NAME))
    repository.blobs[index["digest"]] = b"x" * len(data)
    with pytest.raises(CorruptError, match="other bytes"):
        inventory(server.mirror(NAME))
    repository.blobs[index["digest"]] = data
    for size in (2**40, len(data) + 1):
        index["size"] = size
        repository.put("index.spack", json.dumps(manifest).encode())
        with pytest.raises(CorruptError, match="is not what its manifest says"):
            inventory(server.mirror(NAME))
    repository.put("index.spack", b"{}")
    with pytest.raises(CorruptError, match="mirror m"):
        inventory(server.mirror(NAME))
