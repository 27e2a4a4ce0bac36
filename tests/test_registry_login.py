"""Who we are to a registry: where user and password come from, and how they become a token."""

from __future__ import annotations

import json
import stat
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fake_registry import FakeRegistry, Fault, digest_of, fake_registry

from stackyard.edges.settings import Environment
from stackyard.edges.stores.logins import Login, find_login
from stackyard.edges.stores.oci import OciStore
from stackyard.edges.stores.store import ANONYMOUS, Access, open_store
from stackyard.edges.stores.tokens import Tokens
from stackyard.errors import (
    ConfigError,
    CorruptError,
    DeniedError,
    StackyardError,
    StoreError,
    UnreachableError,
)
from stackyard.oci import INDEX_TYPES, parse_reference

USER = Access(id="me", secret="sesam-öffne-dich")
CONTENT = json.dumps({"schemaVersion": 2, "manifests": [], "mediaType": INDEX_TYPES[0]}).encode()


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        server.users = {USER.id: USER.secret}
        server.repository("org/tiny").put("there", CONTENT)
        yield server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without anybody's passwords."""
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "GH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def opened(server: FakeRegistry) -> Iterator[Any]:
    stores: list[OciStore] = []

    def opened(access: Access = ANONYMOUS) -> OciStore:
        store = open_store(server.mirror("org/tiny"), access, timeout_s=5, sleep=lambda _: None)
        assert isinstance(store, OciStore)
        stores.append(store)
        return store

    yield opened
    for store in stores:
        store.close()


def packed(user: str, password: str) -> str:
    return b64encode(f"{user}:{password}".encode()).decode()


def docker_file(home: Path, **parts: Any) -> None:
    path = home / ".docker" / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(parts))


# --- challenges ---


def test_everybody_may_read_but_wants_a_token_for_it(server: FakeRegistry, opened: Any) -> None:
    """As on ghcr.io: also public images are given only to those with a token."""
    server.auth, server.anonymous = "bearer", "pull"
    store = opened()
    assert store.read("manifests/there") == CONTENT
    assert store.exists("manifests/there")
    assert server.methods("/token") == ["GET"]
    with pytest.raises(DeniedError, match="wants to know who we are") as raised:
        store.write("manifests/new", CONTENT)
    assert "docker login 127.0.0.1" in raised.value.hint


@pytest.mark.parametrize("key", ["token", "access_token"])
def test_a_user_gets_a_token_for_each_purpose(key: str, server: FakeRegistry, opened: Any) -> None:
    server.auth, server.token_key = "bearer", key
    store = opened(USER)
    store.write("manifests/new", CONTENT)
    assert store.read("manifests/new") == CONTENT
    store.delete("manifests/new")
    asked = [asked.query for asked in server.asked if asked.path == "/token"]
    assert len(asked) == 3
    assert "scope=repository%3Aorg%2Ftiny%3Apush%2Cpull" in asked[0]
    assert all("service=fake" in query for query in asked)
    assert set(server.tokens) <= set(Environment.snapshot().secrets())


def test_basic(server: FakeRegistry, opened: Any) -> None:
    server.auth = "basic"
    assert opened(USER).read("manifests/there") == CONTENT
    with pytest.raises(DeniedError, match="wants to know who we are"):
        opened().read("manifests/there")


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_wrong_password_is_said_once_and_never_shown(
    auth: str, server: FakeRegistry, opened: Any
) -> None:
    server.auth = auth
    store = opened(Access(id="me", secret="falsches-wort"))
    with pytest.raises(DeniedError, match="refuses what the mirror's entry says") as raised:
        store.read("manifests/there")
    assert "falsches-wort" not in str(raised.value) + repr(raised.value)
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "style",
    [
        'bearer REALM="{realm}", Service="fake" , SCOPE="repository:org/tiny:pull"',
        'Basic realm="x", BEARER realm={realm}',
        'Bearer realm="{realm}"',
    ],
)
def test_challenges_of_any_style(style: str, server: FakeRegistry, opened: Any) -> None:
    server.auth = "bearer"
    server.challenge = style.format(realm=f"{server.url}/token")
    assert opened(USER).read("manifests/there") == CONTENT


def test_a_challenge_that_names_too_little(server: FakeRegistry, opened: Any) -> None:
    """ghcr.io asks for pull where push is needed."""
    server.auth = "bearer"
    server.challenge = f'Bearer realm="{server.url}/token",scope="repository:org/tiny:pull"'
    opened(USER).write("manifests/new", CONTENT)
    assert "new" in server.repository("org/tiny").tags


def test_a_bearer_token_of_ours(server: FakeRegistry, opened: Any) -> None:
    server.auth, server.fixed_token = "token", "unser-eigenes-token"
    server.challenge = f'Bearer realm="{server.url}/token"'
    store = opened(Access(token="unser-eigenes-token"))
    store.write("manifests/new", CONTENT)
    assert store.read("manifests/new") == CONTENT
    assert server.methods("/token") == []


def test_an_identity_token_is_changed_for_others(server: FakeRegistry, opened: Any) -> None:
    """As Azure's registry wants it: by a form that is posted."""
    server.auth, server.identity = "bearer", "wer-ich-bin"
    store = opened(Access(token="wer-ich-bin"))
    assert store.read("manifests/there") == CONTENT
    store.write("manifests/new", CONTENT)
    assert server.methods("/token") == ["POST", "POST"]
    with pytest.raises(DeniedError, match="token service refuses what the mirror's entry says"):
        opened(Access(token="jemand-anders")).read("manifests/there")


def test_a_token_that_ran_out_is_renewed(server: FakeRegistry, opened: Any) -> None:
    server.auth = "bearer"
    store = opened(USER)
    store.read("manifests/there")
    server.tokens.clear()  # the registry forgets them before their time
    assert store.read("manifests/there") == CONTENT
    assert server.methods("/token") == ["GET", "GET"]


def test_a_token_near_its_end_is_not_used(server: FakeRegistry) -> None:
    now = [1000.0]
    answers = iter([{"token": "one", "expires_in": 100}, {"token": "two"}, {"token": "three"}])

    def exchange(
        method: str, url: str, *, headers: Mapping[str, str], form: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        return 200, json.dumps(next(answers)).encode()

    reference = parse_reference("oci://registry.example/a")
    tokens = Tokens(reference, Login, exchange, clock=lambda: now[0])
    challenge = 'Bearer realm="https://registry.example/token"'
    assert tokens.header(("x",)) == ""
    assert tokens.renew(("x",), challenge, "") == "Bearer one"
    now[0] += 79
    assert tokens.header(("x",)) == "Bearer one"
    assert tokens.renew(("x",), challenge, "") == "Bearer one"  # another thread had asked
    now[0] += 2
    assert tokens.header(("x",)) == ""
    assert tokens.renew(("x",), challenge, "") == "Bearer two"
    now[0] += 47  # 60 s, where nothing is said
    assert tokens.header(("x",)) == "Bearer two"
    assert tokens.header(("y",)) == ""


def test_many_threads_share_a_token(server: FakeRegistry, opened: Any) -> None:
    server.auth = "bearer"
    store = opened(USER)
    barrier = threading.Barrier(16)

    def read(_: int) -> bytes:
        barrier.wait(10)
        data: bytes = store.read("manifests/there")
        return data

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(read, range(16))) == {CONTENT}
    assert server.methods("/token") == ["GET"]


@pytest.mark.parametrize(
    ("fault", "kind", "problem"),
    [
        (Fault(500), UnreachableError, "answers 500"),
        (Fault(404), UnreachableError, "token service answers 404"),
        (Fault(302, {"Location": "http://127.0.0.1:1/"}), UnreachableError, "answers 302"),
        (Fault(200, body=b"<html>"), CorruptError, "gives no token"),
        (Fault(200, body=b"[]"), CorruptError, "gives no token"),
        (Fault(200, body=b"{}"), CorruptError, "gives no token"),
        (Fault(200, body=b'{"token": 5}'), CorruptError, "gives no token"),
        (Fault(200, body=b'{"token": "a\\r\\nX: y"}'), CorruptError, "gives no token"),
        (Fault(200, body=b"[" * 10**5), CorruptError, "gives no token"),
    ],
)
def test_a_token_service_that_fails(
    fault: Fault, kind: type[StoreError], problem: str, server: FakeRegistry, opened: Any
) -> None:
    server.auth, server.token_fault = "bearer", fault
    with pytest.raises(kind, match=problem):
        opened(USER).read("manifests/there")


@pytest.mark.parametrize(
    "realm",
    ["http://tokens.example/", "file:///etc/passwd", "ftp://127.0.0.1/", "//x", "https://", "h:["],
)
def test_secrets_go_to_no_unsafe_place(realm: str) -> None:
    asked: list[str] = []

    def exchange(
        method: str, url: str, *, headers: Mapping[str, str], form: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        asked.append(url)
        return 200, b'{"token": "x"}'

    reference = parse_reference("oci://registry.example/a")
    tokens = Tokens(reference, lambda: Login(user="a", password="b"), exchange)
    with pytest.raises(DeniedError, match="sends us for a token"):
        tokens.renew(("x",), f'Bearer realm="{realm}",service="s"', "")
    assert asked == []
    # A service on this machine cannot be overheard.
    local = tokens.renew(("x",), 'Bearer realm="http://127.0.0.1:5001/auth"', "")
    assert (local, len(asked)) == ("Bearer x", 1)


def test_secrets_stay_at_home(server: FakeRegistry, opened: Any) -> None:
    """Blobs are often fetched from storage elsewhere, by a URL that is its own permission."""
    data = b"x" * 100
    server.auth = "basic"
    server.repository("org/tiny").blobs[digest_of(data)] = data
    key = f"blobs/sha256/{digest_of(data)[7:9]}/{digest_of(data)[7:]}"
    with fake_registry() as storage:
        storage.repositories = server.repositories
        server.storage = storage
        store = opened(USER)
        assert store.read(key) == data
        with store.stream(key, 10) as pieces:
            assert b"".join(pieces) == data[10:]
        assert store.read_range(key, 90, 50) == data[90:]
        assert [asked.authorization for asked in storage.asked] == ["", "", ""]
        assert all(asked.authorization for asked in server.asked[1:])


def test_netrc_does_not_speak_for_us(server: FakeRegistry, opened: Any, home: Path) -> None:
    (home / ".netrc").write_text("machine 127.0.0.1 login other password andere\n")
    server.auth = "bearer"
    assert opened(USER).read("manifests/there") == CONTENT
    with pytest.raises(DeniedError):
        opened().read("manifests/there")
    assert not any(asked.authorization.startswith("Basic b3") for asked in server.asked)


# --- where a login comes from ---


def found(
    url: str, home: Path, env: Mapping[str, str] | None = None, access: Access = ANONYMOUS
) -> Login:
    return find_login(parse_reference(url), access, {"HOME": str(home), **(env or {})})


OURS: dict[str, tuple[str, dict[str, str], str, str]] = {
    "ghcr.io": ("oci://ghcr.io/o/n", {"STACKYARD_OCI_TOKEN": "ours!!"}, "x-access-token", "ours!!"),
    "with a user": (
        "oci://ghcr.io/o/n",
        {"STACKYARD_OCI_TOKEN": " ours!!\n", "STACKYARD_OCI_USER": "me"},
        "me",
        "ours!!",
    ),
    "before the job's": (
        "oci://ghcr.io/o/n",
        {"STACKYARD_OCI_TOKEN": "ours!!", "GITHUB_TOKEN": "theirs"},
        "x-access-token",
        "ours!!",
    ),
    "another registry": ("oci://quay.io/o/n", {"STACKYARD_OCI_TOKEN": "ours!!"}, "", ""),
    "named": (
        "oci://quay.io/o/n",
        {"STACKYARD_OCI_TOKEN": "ours!!", "STACKYARD_OCI_REGISTRY": "https://Quay.io/"},
        "x-access-token",
        "ours!!",
    ),
    "named, and ghcr.io gets nothing": (
        "oci://ghcr.io/o/n",
        {"STACKYARD_OCI_TOKEN": "ours!!", "STACKYARD_OCI_REGISTRY": "quay.io"},
        "",
        "",
    ),
    "a name that begins alike": (
        "oci://ghcr.io.example/o/n",
        {"STACKYARD_OCI_TOKEN": "ours!!"},
        "",
        "",
    ),
    "another port": (
        "oci://127.0.0.1:5001/o/n",
        {"STACKYARD_OCI_TOKEN": "ours!!", "STACKYARD_OCI_REGISTRY": "127.0.0.1:5000"},
        "",
        "",
    ),
    "empty": ("oci://ghcr.io/o/n", {"STACKYARD_OCI_TOKEN": ""}, "", ""),
}


@pytest.mark.parametrize(("url", "env", "user", "password"), OURS.values(), ids=OURS)
def test_our_own_variables(
    url: str, env: dict[str, str], user: str, password: str, home: Path
) -> None:
    """A token goes to one registry, and no other is ever shown it."""
    login = found(url, home, env)
    assert (login.user, login.password) == (user, password)
    entry = found(url, home, env, Access(id="a", secret="entry's"))
    assert (entry.user, entry.password) == ("a", "entry's")


@pytest.fixture
def token_file(home: Path) -> Path:
    path = home / "token"
    path.write_text("ours-in-a-file\n")
    path.chmod(0o600)
    return path


def test_a_token_in_a_file(token_file: Path, home: Path) -> None:
    env = {"STACKYARD_OCI_TOKEN_FILE": str(token_file)}
    login = found("oci://ghcr.io/o/n", home, env)
    assert (login.password, login.source) == ("ours-in-a-file", "STACKYARD_OCI_TOKEN_FILE")
    assert "ours-in-a-file" in Environment.snapshot().secrets()
    assert found("oci://quay.io/o/n", home, env) == Login()
    both = {**env, "STACKYARD_OCI_TOKEN": "variable"}
    assert found("oci://ghcr.io/o/n", home, both).password == "variable"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644])
def test_a_token_that_others_can_read(token_file: Path, home: Path, mode: int) -> None:
    token_file.chmod(mode)
    env = {"STACKYARD_OCI_TOKEN_FILE": str(token_file)}
    with pytest.raises(ConfigError, match=f"mode {mode:04o}") as raised:
        found("oci://ghcr.io/o/n", home, env)
    assert f"chmod 600 {token_file}" in raised.value.hint
    assert "ours-in-a-file" not in str(raised.value) + raised.value.hint
    # Whoever is not asked for it is not bothered.
    assert found("oci://quay.io/o/n", home, env) == Login()


@pytest.mark.parametrize("text", ["", "\n", "two words", "a\nb", "a\0b", "x" * 20_000])
def test_a_file_that_holds_no_token(token_file: Path, home: Path, text: str) -> None:
    token_file.write_text(text)
    with pytest.raises(StackyardError):
        found("oci://ghcr.io/o/n", home, {"STACKYARD_OCI_TOKEN_FILE": str(token_file)})


@pytest.mark.parametrize("path", ["/nowhere/token", "a\0b", "/"])
def test_a_file_that_is_none(path: str, home: Path) -> None:
    with pytest.raises(ConfigError, match="STACKYARD_OCI_TOKEN_FILE"):
        found("oci://ghcr.io/o/n", home, {"STACKYARD_OCI_TOKEN_FILE": path})


@pytest.mark.parametrize(
    ("url", "env", "user", "password"),
    [
        ("oci://ghcr.io/o/n", {"GITHUB_TOKEN": "t0ken!", "GITHUB_ACTOR": "a"}, "a", "t0ken!"),
        ("oci://ghcr.io/o/n", {"GITHUB_TOKEN": "t0ken!"}, "x-access-token", "t0ken!"),
        ("oci://ghcr.io/o/n", {"GITHUB_ACTOR": "a"}, "", ""),
        ("oci://quay.io/o/n", {"GITHUB_TOKEN": "t0ken!", "GITHUB_ACTOR": "a"}, "", ""),
        (
            "oci://git.example:5050/g/p",
            {
                "CI_REGISTRY": "git.example:5050",
                "CI_REGISTRY_USER": "gitlab-ci-token",
                "CI_REGISTRY_PASSWORD": "jobtoken",
            },
            "gitlab-ci-token",
            "jobtoken",
        ),
        (
            "oci://other.example/g/p",
            {
                "CI_REGISTRY": "git.example",
                "CI_REGISTRY_USER": "gitlab-ci-token",
                "CI_REGISTRY_PASSWORD": "jobtoken",
            },
            "",
            "",
        ),
    ],
)
def test_the_job_gives_a_login(
    url: str, env: dict[str, str], user: str, password: str, home: Path
) -> None:
    login = found(url, home, env)
    assert (login.user, login.password) == (user, password)
    assert bool(login) == bool(password)


def test_what_the_entry_says_goes_first(home: Path) -> None:
    docker_file(home, auths={"ghcr.io": {"auth": packed("file", "aus-der-datei")}})
    env = {"GITHUB_TOKEN": "aus-dem-job", "GITHUB_ACTOR": "job"}
    assert found("oci://ghcr.io/o/n", home, env, Access(id="a", secret="b")).user == "a"
    assert found("oci://ghcr.io/o/n", home, env, Access(token="t")).token == "t"
    both = found("oci://ghcr.io/o/n", home, env, Access(id="a", token="t"))
    assert (both.user, both.password, both.token) == ("a", "t", "")
    assert found("oci://ghcr.io/o/n", home, env).password == "aus-der-datei"
    assert found("oci://quay.io/o/n", home, env) == Login()


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("ghcr.io", "oci://ghcr.io/o/n"),
        ("https://ghcr.io", "oci://ghcr.io/o/n"),
        ("https://ghcr.io/v2/", "oci://ghcr.io/o/n"),
        ("ghcr.io/o", "oci://ghcr.io/o/n"),
        ("ghcr.io/o/n", "oci://ghcr.io/o/n"),
        ("localhost:5000", "oci+http://localhost:5000/n"),
        ("https://index.docker.io/v1/", "oci://user/n"),
        ("docker.io", "oci://index.docker.io/user/n"),
        ("docker.io/user", "oci://user/n"),
    ],
)
def test_names_of_registries_in_dockers_file(key: str, url: str, home: Path) -> None:
    docker_file(home, auths={key: {"auth": packed("u", "p:q")}, "other.example": {}})
    login = found(url, home)
    assert (login.user, login.password) == ("u", "p:q")
    assert login.source == str(home / ".docker" / "config.json")


def test_the_nearest_name_wins(home: Path) -> None:
    docker_file(
        home,
        auths={
            "ghcr.io": {"auth": packed("all", "x")},
            "ghcr.io/o": {"auth": packed("some", "x")},
        },
    )
    assert found("oci://ghcr.io/o/n", home).user == "some"
    assert found("oci://ghcr.io/other/n", home).user == "all"


def test_other_forms_in_dockers_file(home: Path) -> None:
    docker_file(
        home,
        auths={
            "a.example": {"username": "u", "password": "p"},
            "b.azurecr.io": {"auth": packed("0000", ""), "identitytoken": "wer-ich-bin"},
            "c.example": {"registrytoken": "ein-token"},
        },
    )
    assert found("oci://a.example/n", home).password == "p"
    assert found("oci://b.azurecr.io/n", home).token == "wer-ich-bin"
    assert found("oci://c.example/n", home).token == "ein-token"


@pytest.mark.parametrize("variable", ["DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"])
def test_files_in_other_places(variable: str, home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "else"
    names = {
        "DOCKER_CONFIG": folder / "config.json",
        "REGISTRY_AUTH_FILE": folder / "auth.json",
        "XDG_RUNTIME_DIR": folder / "containers" / "auth.json",
    }
    names[variable].parent.mkdir(parents=True)
    names[variable].write_text(json.dumps({"auths": {"ghcr.io": {"auth": packed("u", "p")}}}))
    value = names[variable] if variable == "REGISTRY_AUTH_FILE" else folder
    assert found("oci://ghcr.io/o/n", home, {variable: str(value)}).user == "u"


HELPER = """#!/bin/sh
read -r server
[ "$1" = get ] || exit 9
case $server in
  ghcr.io) echo '{"ServerURL": "ghcr.io", "Username": "u", "Secret": "geheim-u"}' ;;
  b.azurecr.io) echo '{"Username": "<token>", "Secret": "wer-ich-bin"}' ;;
  https://index.docker.io/v1/) echo '{"Username": "hub", "Secret": "geheim-h"}' ;;
  odd.example) echo 'no JSON' ;;
  *) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    program = tmp_path / "bin" / "docker-credential-test"
    program.parent.mkdir()
    program.write_text(HELPER)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return "test"


@pytest.mark.parametrize("everywhere", [True, False])
def test_credential_helpers(helper: str, home: Path, *, everywhere: bool) -> None:
    names = ["ghcr.io", "b.azurecr.io", "https://index.docker.io/v1/", "quay.io"]
    if everywhere:
        docker_file(home, credsStore=helper, auths={"quay.io": {"auth": packed("q", "p")}})
    else:
        docker_file(home, credHelpers=dict.fromkeys(names, helper))
    assert found("oci://ghcr.io/o/n", home).password == "geheim-u"
    assert found("oci://b.azurecr.io/n", home).token == "wer-ich-bin"
    assert found("oci://user/n", home).password == "geheim-h"
    assert found("oci://quay.io/n", home).user == ("q" if everywhere else "")


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        ("no JSON", "not a configuration"),
        ("[]", "not a configuration"),
        ('{"auths": [1]}', "not a configuration"),
        ('{"auths": {"ghcr.io": "x"}}', "not a configuration"),
        ('{"auths": {"ghcr.io": {"auth": "%%%"}}}', "not a configuration"),
        ('{"credsStore": "missing"}', "cannot run docker-credential-missing"),
        ('{"credsStore": "../../bin/sh"}', "the name of a credential helper"),
        ("x" * 2**21, "larger than"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_of_where_a_login_is_missed(
    content: str, remark: str, home: Path
) -> None:
    docker_file(home)
    (home / ".docker" / "config.json").write_text(content)
    login = found("oci://ghcr.io/o/n", home)
    assert not login
    assert remark in login.remarks[0]


def test_a_helper_that_answers_nonsense(helper: str, home: Path) -> None:
    docker_file(home, credsStore=helper)
    assert "not a configuration" in found("oci://odd.example/n", home).remarks[0]


def test_remarks_are_in_the_hint(server: FakeRegistry, opened: Any, home: Path) -> None:
    docker_file(home, credsStore="missing")
    server.auth = "basic"
    with pytest.raises(DeniedError) as raised:
        opened().read("manifests/there")
    assert "cannot run docker-credential-missing" in raised.value.hint


def test_dockers_login_opens_a_registry(server: FakeRegistry, opened: Any, home: Path) -> None:
    docker_file(home, auths={server.host: {"auth": packed(USER.id, USER.secret)}})
    server.auth = "bearer"
    assert opened().read("manifests/there") == CONTENT


def test_secrets_are_masked_from_then_on(home: Path) -> None:
    docker_file(home, auths={"ghcr.io": {"auth": packed("u", "sehr-geheimes-wort")}})
    login = found("oci://ghcr.io/o/n", home)
    assert "sehr-geheimes-wort" in Environment.snapshot().secrets()
    assert "sehr-geheimes-wort" not in repr(login)
