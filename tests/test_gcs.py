"""Google's buckets, before a fake: no real one is to be had without an account."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import DATA, Project, Stackyard
from fake_gcs import FakeGcs, fake_gcs
from services import S3Server
from serving import QuietHandler, serving

from stackyard.edges.stores.folder import FileStore
from stackyard.edges.stores.gcs import SERVICE, GcsStore, open_gs
from stackyard.edges.stores.s3 import S3Store
from stackyard.edges.stores.store import Access, ForbiddenError, open_store
from stackyard.errors import ConflictError, DeniedError, NotFoundError, UnreachableError


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcs]:
    with fake_gcs() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server


@pytest.fixture
def account(google: FakeGcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Credentials in a file that the environment names."""
    path = google.account(tmp_path)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    return path


def test_a_service_account_opens_a_bucket(google: FakeGcs, account: Path) -> None:
    store = open_store(f"{google.bucket()}/p")
    store.close()
    assert google.asked == []  # opening asks nothing
    store = GcsStore(f"{google.bucket()}/p")
    store.write("a b", b"hello")
    assert store.read("a b") == b"hello"
    paths = [path for _, path in google.asked]
    assert paths.count("/token") == 1
    assert paths[-1].endswith("/p/a%20b")
    assert not any(token in repr(vars(store)) + store.url for token in google.tokens)
    store.close()


def test_tokens_are_renewed(google: FakeGcs, account: Path) -> None:
    google.lifetime_s = 1  # less than google-auth wants left
    store = GcsStore(google.bucket())
    for number in range(3):
        store.write("a", b"%d" % number)
    assert len(google.tokens) == 3
    store.close()


def test_the_login_of_gcloud_is_found(
    google: FakeGcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gcloud"
    folder.mkdir()
    login = {
        "type": "authorized_user",
        "client_id": "c",
        "client_secret": "s",
        "refresh_token": "r",
        "quota_project_id": "example",
        "token_uri": f"{google.url}/token",
    }
    (folder / "application_default_credentials.json").write_text(json.dumps(login))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(folder))
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "example")
    google_oauth = f"{google.url}/token"
    monkeypatch.setattr("google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT", google_oauth)
    store = GcsStore(google.bucket())
    store.write("a", b"hello")
    assert store.read("a") == b"hello"
    store.close()


def test_nobody_reads_a_public_bucket(google: FakeGcs) -> None:
    url = google.bucket()
    google.put(url[5:], "a", b"public")
    store = GcsStore(url)
    with pytest.raises(ForbiddenError) as caught:
        store.read("a")
    assert "GOOGLE_APPLICATION_CREDENTIALS" in caught.value.hint
    google.public.add(url[5:])
    assert store.read("a") == b"public"
    with pytest.raises(NotFoundError):
        store.read("b")
    with pytest.raises(ForbiddenError):
        store.write("b", b"x")
    assert google.tokens == set()
    store.close()


class _Refusing(QuietHandler):
    def do_POST(self) -> None:  # noqa: N802
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer(400, b'{"error": "invalid_grant", "error_description": "of s3cr3t"}')


def test_credentials_that_are_refused(google: FakeGcs, account: Path) -> None:
    document = json.loads(account.read_text())
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    document["token_uri"] = f"http://127.0.0.1:{server.server_address[1]}/token"
    account.write_text(json.dumps(document))
    store = GcsStore(google.bucket())
    with serving(server), pytest.raises(DeniedError) as caught:
        store.read("a")
    assert "gcloud auth" in caught.value.hint
    assert "s3cr3t" not in str(caught.value)
    with pytest.raises(UnreachableError, match="tokens"):  # by now nobody answers there
        store.read("a")
    store.close()


def test_a_missing_bucket_is_no_empty_one(google: FakeGcs, account: Path) -> None:
    store = GcsStore("gs://no-such-bucket/x")
    for call in (store.read, store.exists, lambda key: list(store.list(key))):
        with pytest.raises(UnreachableError, match="no bucket no-such-bucket"):
            call("a")
    store.close()


def test_conditions_are_on_generations(google: FakeGcs, account: Path) -> None:
    store = GcsStore(google.bucket())
    version = store.create("a", b"one")
    assert version.isdecimal()
    (listed,) = store.list()
    assert listed.stamp == version
    for other in ("1", "not-a-generation", f"not-{version}"):
        with pytest.raises(ConflictError):
            store.replace("a", b"two", other)
    store.close()


def test_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    assert GcsStore("gs://b/p")._party.address() == (SERVICE, "/b")
    given = Access(endpoint_url="https://private.example/x")
    assert GcsStore("gs://b/p", given)._party.address() == ("https://private.example", "/x/b")


def test_hmac_keys_go_through_the_s3_interface() -> None:
    store = open_gs("gs://b/p", Access(id="GOOG1EXAMPLE", secret="s"))
    assert isinstance(store, S3Store)
    assert store._customer.address() == (SERVICE, "/b")
    assert store.url == "gs://b/p"


def test_hmac_keys_read_and_write(moto: S3Server) -> None:
    """Against an S3 mock in Google's place."""
    bucket = moto.bucket()[5:]
    store = open_store(f"gs://{bucket}/p", moto.access)
    assert isinstance(store, S3Store)
    store.write("a", b"hello")
    assert store.read("a") == b"hello"
    assert [listed.key for listed in store.list()] == ["a"]
    store.close()


def test_a_plan_with_a_bucket(
    project: Project, stackyard: Stackyard, google: FakeGcs, account: Path
) -> None:
    url = f"{google.bucket()}/binaries"
    folder = FileStore(DATA / "mirrors" / "v3-unsigned")
    for found in folder.list():
        google.put(url[5:].partition("/")[0], f"binaries/{found.key}", folder.read(found.key))
    project.stack((DATA / "tiny.spack.lock").read_bytes(), mirror=url)
    specs = json.loads(stackyard("plan", "--stack", "demo", "--json").out)["specs"]
    assert {spec["decision"] for spec in specs} == {"reuse"}
