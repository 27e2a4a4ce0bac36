from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import pytest
from mirror_server import MirrorServer, Reply, mirror_server

from stackyard.edges.stores.folder import FileStore
from stackyard.edges.stores.store import Store, open_store, public_url
from stackyard.edges.stores.web import HttpStore
from stackyard.errors import (
    CorruptError,
    DeniedError,
    NotFoundError,
    StoreError,
    UnreachableError,
)

FILES = {
    "v3/layout.json": b'{"signing": "gpg"}',
    "v3/manifests/spec/a/a-1.0+x=y.json": b"odd name",
    "v3/manifests/spec/b/b.json": b"0123456789",
    "v3/manifests/specials": b"same beginning",
    "blobs/empty": b"",
}


@dataclass
class Naps:
    """Stands in for ``time.sleep`` and remembers."""

    seconds: list[float]

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "mirror"
    for key, data in FILES.items():
        file = root / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return root


@pytest.fixture
def server(root: Path) -> Iterator[MirrorServer]:
    with mirror_server(root) as server:
        yield server


@pytest.fixture
def naps() -> Naps:
    return Naps([])


@pytest.fixture
def web(server: MirrorServer, naps: Naps) -> Iterator[HttpStore]:
    store = HttpStore(server.url, sleep=naps)
    yield store
    store.close()


@pytest.fixture(params=["folder", "file-url", "http", "http-without-ranges"])
def store(request: pytest.FixtureRequest, root: Path, server: MirrorServer) -> Iterator[Store]:
    server.ranges = request.param != "http-without-ranges"
    urls = {"folder": str(root), "file-url": f"file://{root}/"}
    store = open_store(urls.get(request.param, f"{server.url}/"))
    yield store
    store.close()


# --- what folders and web servers share; the contract of all is in test_store_contract ---


def test_reads_all_bytes(store: Store) -> None:
    for key, data in FILES.items():
        assert store.read(key) == data


def test_url_has_no_slash_at_its_end(store: Store) -> None:
    assert not store.url.endswith("/")
    assert store.url.startswith(("file:///", "http://"))


def test_missing_is_not_found(store: Store) -> None:
    assert not store.exists("v3/none")
    for key in ("v3/none", "v3/layout.json/below", "none/at/all"):
        with pytest.raises(NotFoundError) as caught:
            store.read(key)
        assert caught.value.where == f"{store.url}/{key}"
    with pytest.raises(NotFoundError):
        store.read_range("v3/none", 0, 1)


def test_exists(store: Store) -> None:
    assert all(store.exists(key) for key in FILES)


@pytest.mark.parametrize(
    ("start", "length", "data"),
    [(0, 3, b"012"), (4, 2, b"45"), (8, 9, b"89"), (10, 1, b""), (99, 5, b""), (3, 0, b"")],
)
def test_reads_a_range(store: Store, start: int, length: int, data: bytes) -> None:
    assert store.read_range("v3/manifests/spec/b/b.json", start, length) == data


def test_body_has_a_bound(store: Store) -> None:
    key = "v3/manifests/spec/b/b.json"
    assert store.read(key, max_bytes=10) == b"0123456789"
    with pytest.raises(CorruptError, match="larger than 9 bytes"):
        store.read(key, max_bytes=9)
    assert store.read(key) == b"0123456789"  # and the store still works


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "a/../b", "..", "./a", "a//b", "a/", "a\0b", "a\nb", "a\\b",
     "x" * 256, "y/" * 600 + "y"],
)  # fmt: skip
def test_hostile_keys_are_refused(store: Store, key: str) -> None:
    for call in (store.read, store.exists):
        with pytest.raises(StoreError, match="cannot be the path"):
            call(key)
    with pytest.raises(StoreError, match="cannot be the path"):
        store.read_range(key, 0, 1)


# --- folders ---


def test_folder_lists_keys(root: Path) -> None:
    store = FileStore(root)
    assert {found.key for found in store.list()} == set(FILES)
    assert [found.key for found in store.list("v3/manifests/spec")] == [
        "v3/manifests/spec/a/a-1.0+x=y.json",
        "v3/manifests/spec/b/b.json",
        "v3/manifests/specials",
    ]
    assert [found.key for found in store.list("v3/manifests/spec/b/")] == [
        "v3/manifests/spec/b/b.json"
    ]
    assert list(store.list("none/")) == []
    with pytest.raises(StoreError):
        list(store.list("../"))


def test_links_that_lead_outside_are_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "mirror-2").mkdir()  # its name begins like the mirror's
    (tmp_path / "mirror-2" / "file").write_text("secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path / "mirror-2")
    (root / "inside").symlink_to("v3/layout.json")
    (root / "round").symlink_to("round")
    store = FileStore(root)
    for key in ("link", "folder/file"):
        with pytest.raises(CorruptError, match="leads outside"):
            store.read(key)
    with pytest.raises(CorruptError, match="leads outside"):
        list(store.list("folder/"))
    assert store.read("inside") == FILES["v3/layout.json"]
    with pytest.raises(CorruptError, match="circle"):
        store.read("round")
    assert "folder/file" not in {found.key for found in store.list()}


def test_links_that_appear_later_are_refused(root: Path, tmp_path: Path) -> None:
    """Folders are looked at once; one that was not there is looked at when it is."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_text("secret")
    store = FileStore(root)
    assert not store.exists("folder/file")
    assert not store.exists("v3/file")
    (root / "folder").symlink_to(tmp_path / "secret")
    (root / "v3" / "file").symlink_to(tmp_path / "secret" / "file")
    for key in ("folder/file", "v3/file"):
        with pytest.raises(CorruptError, match="leads outside"):
            store.read(key)
        with pytest.raises(CorruptError, match="leads outside"):
            store.write(key, b"x")
    assert (tmp_path / "secret" / "file").read_text() == "secret"


def test_mirror_behind_a_link_is_read(root: Path, tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to(root)
    assert FileStore(tmp_path / "here").read("v3/layout.json") == FILES["v3/layout.json"]


def test_missing_folder_is_unreachable_and_not_empty(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "none")
    with pytest.raises(UnreachableError, match="does not exist") as caught:
        store.read("v3/layout.json")
    assert caught.value.hint == "create the folder, or fix the mirror's URL"
    for call in (lambda: store.exists("a"), lambda: list(store.list())):
        with pytest.raises(UnreachableError):
            call()


def test_pipes_and_folders_are_no_files(root: Path) -> None:
    os.mkfifo(root / "pipe")
    for key in ("pipe", "v3"):
        with pytest.raises(CorruptError, match="not a regular file"):
            FileStore(root).read(key)


NOBODY = 65534


def test_unreadable_file_is_denied() -> None:
    """Root may read everything, and so is somebody else while it asks."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "closed").write_bytes(b"x")
        (folder / "closed").chmod(0)
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)
        try:
            with pytest.raises(DeniedError):
                FileStore(folder).read("closed")
        finally:
            if root:
                os.seteuid(0)


# --- web servers ---


def test_http_cannot_be_listed(web: HttpStore) -> None:
    with pytest.raises(StoreError, match="cannot be listed"):
        list(web.list("v3/"))


def test_connection_is_kept_and_keys_are_quoted(web: HttpStore, server: MirrorServer) -> None:
    for key in FILES:
        web.read(key)
    assert web.exists("blobs/none") is False
    assert server.connections == 1
    assert ("GET", "/v3/manifests/spec/a/a-1.0%2Bx%3Dy.json") in server.requests
    assert server.headers[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_busy_server_is_asked_again(
    web: HttpStore, server: MirrorServer, naps: Naps, status: int
) -> None:
    server.script["/a"] = [Reply(status), Reply(status), Reply(200, b"ok")]
    assert web.read("a") == b"ok"
    assert naps.seconds == [0.5, 1.0]


def test_server_that_stays_broken_is_unreachable(
    web: HttpStore, server: MirrorServer, naps: Naps
) -> None:
    server.script["/a"] = [Reply(503)]
    with pytest.raises(UnreachableError, match=r"503 \(4 tries\)"):
        web.read("a")
    assert naps.seconds == [0.5, 1.0, 2.0]


def test_retry_after_is_obeyed_within_reason(
    web: HttpStore, server: MirrorServer, naps: Naps
) -> None:
    date = formatdate(4_000_000_000, usegmt=True)
    waits = [Reply(429, headers={"Retry-After": text}) for text in ("7", date, "soon")]
    server.script["/a"] = [*waits, Reply(200, b"ok")]
    assert web.read("a") == b"ok"
    assert naps.seconds == [7.0, 60.0, 2.0]


@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        (401, DeniedError, "user and a password"),
        (403, DeniedError, "s3:ListBucket"),
        (404, NotFoundError, "no such file"),
        (410, NotFoundError, "no such file"),
        (418, UnreachableError, "answers 418"),
    ],
)
def test_refusals_are_told_apart_and_not_repeated(
    web: HttpStore, server: MirrorServer, status: int, error: type[StoreError], text: str
) -> None:
    server.script["/a"] = [Reply(status, b"x" * 100_000)]
    with pytest.raises(error, match=text):
        web.read("a")
    assert len(server.requests) == 1


def test_cut_body_is_unreachable(web: HttpStore, server: MirrorServer, naps: Naps) -> None:
    server.script["/a"] = [Reply(200, b"half", claim=8)]
    with pytest.raises(UnreachableError, match="cut off"):
        web.read("a")
    assert len(naps.seconds) == 3


def test_cut_body_is_read_again(web: HttpStore, server: MirrorServer) -> None:
    server.script["/a"] = [Reply(200, b"half", claim=8), Reply(200, b"complete")]
    assert web.read("a") == b"complete"


def test_huge_body_is_refused_before_it_is_read(web: HttpStore, server: MirrorServer) -> None:
    server.script["/a"] = [Reply(200, b"x", claim=2**40)]
    with pytest.raises(CorruptError, match="larger than"):
        web.read("a")


def test_slow_server_is_unreachable(server: MirrorServer, naps: Naps) -> None:
    server.script["/a"] = [Reply(200, b"late", delay_s=0.5)]
    store = HttpStore(server.url, timeout_s=0.05, sleep=naps)
    with pytest.raises(UnreachableError, match=r"no answer within 0.05 s \(4 tries\)"):
        store.read("a")


def test_nobody_there_is_unreachable(naps: Naps) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        store = HttpStore(f"http://127.0.0.1:{taken.getsockname()[1]}", sleep=naps)
        with pytest.raises(UnreachableError, match="Connection refused"):
            store.read("a")


def test_unknown_host_is_unreachable(naps: Naps) -> None:
    with pytest.raises(UnreachableError, match="no connection"):
        HttpStore("http://no-such-host.invalid", sleep=naps).read("a")


def test_tls_fault_is_unreachable(server: MirrorServer, naps: Naps) -> None:
    store = HttpStore(server.url.replace("http:", "https:"), sleep=naps)
    with pytest.raises(UnreachableError):
        store.read("a")


def test_server_that_hangs_up_between_requests(web: HttpStore, server: MirrorServer) -> None:
    server.script["/a"] = [Reply(200, b"half", claim=8), Reply(200, b"one"), Reply(200, b"two")]
    assert web.read("a") == b"one"
    for line in (line for idle in web._lines._idle.values() for line in idle):
        line.connection.sock.shutdown(socket.SHUT_RDWR)
    assert web.read("a") == b"two"


def test_redirects_are_followed(web: HttpStore, server: MirrorServer) -> None:
    for number, status in enumerate((301, 302, 303, 307, 308)):
        server.script[f"/{number}"] = [Reply(status, headers={"Location": f"/{number + 1}"})]
    server.script["/5"] = [Reply(200, b"there")]
    assert web.read("0") == b"there"
    server.script["/5"] = [Reply(302, headers={"Location": "/6"})]
    with pytest.raises(UnreachableError, match="more than 5 times"):
        web.read("0")


@pytest.mark.parametrize("place", ["ftp://host/a", "file:///etc/passwd", "http://h:x/"])
def test_redirects_elsewhere_are_not(web: HttpStore, server: MirrorServer, place: str) -> None:
    server.script["/a"] = [Reply(302, headers={"Location": place})]
    with pytest.raises(UnreachableError, match="not followed"):
        web.read("a")


def test_redirect_from_https_to_http_is_not_followed(web: HttpStore) -> None:
    secure = web._base._replace(scheme="https")
    answer = type("Answer", (), {"headers": {"Location": "http://127.0.0.1/a"}})
    with pytest.raises(UnreachableError, match="from https to http"):
        web._follow(secure, answer, "a")  # type: ignore[arg-type]


def test_password_is_sent_to_its_host_only_and_never_shown(
    server: MirrorServer, root: Path, naps: Naps
) -> None:
    with mirror_server(root) as other:
        server.script["/m/a?token=t0p"] = [Reply(302, headers={"Location": f"{other.url}/b"})]
        server.script["/m/c?token=t0p"] = [Reply(403)]
        url = server.url.replace("http://", "http://user:p%40ss@") + "/m?token=t0p"
        store = HttpStore(url, sleep=naps)
        for key in ("a", "c"):
            with pytest.raises(StoreError) as caught:
                store.read(key)
            assert not any(s in str(caught.value) for s in ("user:", "p%40ss", "p@ss", "t0p"))
        store.close()
        assert server.headers[0]["Authorization"] == "Basic dXNlcjpwQHNz"
        assert "Authorization" not in other.headers[0]


def test_proxy_is_used(server: MirrorServer, monkeypatch: pytest.MonkeyPatch, naps: Naps) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url.replace("http://", "http://me:secret@"))
    store = HttpStore("http://far.invalid/mirror", sleep=naps)
    server.script["http://far.invalid:80/mirror/a"] = [Reply(200, b"through")]
    assert store.read("a") == b"through"
    assert server.headers[0]["Proxy-Authorization"].startswith("Basic ")
    assert server.headers[0]["Host"].startswith("far.invalid")
    store.close()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    direct = HttpStore(server.url)
    assert direct.read("v3/layout.json") == FILES["v3/layout.json"]
    direct.close()


# --- opening ---


@pytest.mark.parametrize("url", ["sftp://user:pw@host/x", "ftp://host/x?t=pw", "ssh://host"])
def test_other_schemes_are_refused_honestly(url: str) -> None:
    with pytest.raises(StoreError, match="no mirror can be at") as caught:
        open_store(url)
    assert caught.value.code == 6
    assert "gs://" in caught.value.hint
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/x/", "s3://bucket/x"),
        ("gs://bucket/x", "gs://bucket/x"),
        ("S3://bucket", "S3://bucket"),
        ("oci+http://host:5000/x", "oci+http://host:5000/x"),
    ],
)
def test_buckets_and_registries_are_opened_unread(url: str, shown: str) -> None:
    store = open_store(url)
    assert store.url == shown
    store.close()


@pytest.mark.parametrize(
    "url", ["file://host/path", "file://relative", "http://", "https://h:port", "http://u:pw@[x/"]
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        open_store(url)
    assert "pw" not in str(caught.value)


def test_file_urls_are_unquoted(root: Path) -> None:
    root.rename(root.parent / "a b")
    assert open_store(f"file://{root.parent}/a%20b").exists("v3/layout.json")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pw@host:1/a?token=x#y", "https://host:1/a"),
        ("https://host?token=x", "https://host"),
        ("https://us@er:pw@host/a@b", "https://host/a@b"),
        ("https://user:p/w@host/a", "https://host/a"),
        ("https://user:p?w@host/a", "https://host/a"),
        ("https://host:80/a@b", "https://host:80/a@b"),
        ("https://[::1]:80/a@b", "https://[::1]:80/a@b"),
        ("/srv/mirror", "/srv/mirror"),
    ],
)
def test_public_url(url: str, shown: str) -> None:
    assert public_url(url) == shown


def test_folders_need_no_network_modules() -> None:
    code = (
        "import sys, stackyard.edges.mirrors.inventory; "
        "print([m for m in ('http.client', 'ssl', 'requests', 'urllib.request') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
