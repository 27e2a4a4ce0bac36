"""GitLab's API: what is asked, and what becomes of each kind of answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_gitlab import FakeGitLab, Job, Pipeline, fake_gitlab
from fake_service import Fault

from stackyard.edges import rest
from stackyard.edges.gitlab import GitLab, project_path
from stackyard.edges.rest import TRIES, RefusedError
from stackyard.errors import (
    ConfigError,
    ConflictError,
    CorruptError,
    DeniedError,
    NotFoundError,
    StackyardError,
    StoreError,
    UnreachableError,
)

TOKEN = "glpat-never-to-be-seen"
PROJECT = "/projects/group%2Fproject"
NOW_S = 1_000_000.0


@pytest.fixture
def server() -> Iterator[FakeGitLab]:
    with fake_gitlab() as made:
        made.tokens[TOKEN] = {"api"}
        made.project(members={TOKEN})
        yield made


@pytest.fixture
def pipeline(server: FakeGitLab) -> Pipeline:
    return server.pipeline(server.projects[0])


class Slept(list[float]):
    """The waits that were asked for, in seconds; none of them is slept."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def client(server: FakeGitLab, token: str = TOKEN, **more: Any) -> GitLab:
    return GitLab(server.url, token, **{"sleep": Slept(), "clock": lambda: NOW_S, **more})


def faults(server: FakeGitLab, *answers: Fault | None) -> None:
    """The next requests meet these, the ones after them none."""
    left = list(answers)
    server.fault = lambda _: left.pop(0) if left else None


# -- what is asked --------------------------------------------------------------------------


def test_get(server: FakeGitLab, pipeline: Pipeline) -> None:
    answer = client(server).get(f"{PROJECT}/pipelines/{pipeline.id}")
    assert (answer["id"], answer["status"]) == (pipeline.id, "created")
    asked = server.asked[0]
    assert asked.path == f"/api/v4{PROJECT}/pipelines/{pipeline.id}"
    assert asked.headers["PRIVATE-TOKEN"] == TOKEN
    assert asked.headers["User-Agent"].startswith("stackyard/")
    assert "Authorization" not in asked.headers


@pytest.mark.parametrize("ending", ["", "/", "/api/v4", "/api/v4/"])
def test_the_url_may_be_the_apis(server: FakeGitLab, pipeline: Pipeline, ending: str) -> None:
    gitlab = GitLab(f"{server.url}{ending}", TOKEN)
    assert gitlab.get(f"{PROJECT}/pipelines/{pipeline.id}")["id"] == pipeline.id


@pytest.mark.parametrize(
    ("project", "path"),
    [("7", "/projects/7"), ("a/b/c", "/projects/a%2Fb%2Fc"), ("/a/b.c/", "/projects/a%2Fb.c")],
)
def test_a_projects_path(project: str, path: str) -> None:
    assert project_path(project) == path


def test_a_jobs_own_token(server: FakeGitLab, pipeline: Pipeline) -> None:
    server.job_tokens.add("jobs-own")
    gitlab = client(server, "", job_token="jobs-own")
    assert list(gitlab.pages(f"{PROJECT}/pipelines/{pipeline.id}/jobs")) == []
    assert server.asked[0].headers["JOB-TOKEN"] == "jobs-own"
    assert "PRIVATE-TOKEN" not in server.asked[0].headers


def test_an_access_token_wins_over_the_jobs(server: FakeGitLab, pipeline: Pipeline) -> None:
    client(server, job_token="jobs-own").get(f"{PROJECT}/pipelines/{pipeline.id}")
    assert "JOB-TOKEN" not in server.asked[0].headers


def test_pages(server: FakeGitLab, pipeline: Pipeline) -> None:
    """A link to a host that only a proxy knows is followed in what it asks, not where."""
    pipeline.jobs = [Job(number, f"job {number}") for number in range(250)]
    rows = list(client(server).pages(f"{PROJECT}/pipelines/{pipeline.id}/jobs", scope=None))
    assert sorted(row["id"] for row in rows) == list(range(250))
    assert [asked.parameters.get("page") for asked in server.asked] == [None, "2", "3"]


def test_pages_keep_what_was_asked(server: FakeGitLab, pipeline: Pipeline) -> None:
    server.page = 2
    pipeline.jobs = [Job(n, f"{n}", status="failed" if n % 2 else "success") for n in range(10)]
    path = f"{PROJECT}/pipelines/{pipeline.id}/jobs"
    rows = list(client(server).pages(path, **{"scope[]": "failed"}))
    assert sorted(row["id"] for row in rows) == [1, 3, 5, 7, 9]


def test_pages_that_go_round(server: FakeGitLab, pipeline: Pipeline) -> None:
    link = {"Link": f'<{server.url}/x?per_page=100&page=2>; rel="next"'}
    server.fault = lambda _: Fault(200, link, b"[1]")
    assert list(client(server).pages(f"{PROJECT}/pipelines")) == [1, 1]


def test_pages_that_lead_nowhere(server: FakeGitLab, pipeline: Pipeline) -> None:
    """There is more, and nobody can say what: that is not the end of the list."""
    server.fault = lambda _: Fault(200, {"Link": '<http://[?page=2>; rel="next"'}, b"[1]")
    with pytest.raises(CorruptError, match="names a next page, and not which"):
        list(client(server).pages(f"{PROJECT}/pipelines"))


def test_pages_that_are_none(server: FakeGitLab) -> None:
    server.fault = lambda _: Fault(200, {}, b'{"a": 1}')
    with pytest.raises(CorruptError, match="no list"):
        list(client(server).pages(f"{PROJECT}/pipelines"))


def test_post(server: FakeGitLab) -> None:
    made = client(server).post(f"{PROJECT}/pipeline", {"ref": "main"})
    assert made["ref"] == "main"
    assert server.asked[0].headers["Content-Type"] == "application/json"


def test_no_answer_is_none(server: FakeGitLab) -> None:
    server.fault = lambda _: Fault(204)
    assert client(server).post(f"{PROJECT}/x", {}) is None


# -- refusals -------------------------------------------------------------------------------


REFUSALS: list[tuple[int, bytes, type[StoreError], str]] = [
    (400, b'{"error": "ref is missing"}', RefusedError, "GitLab answers 400: ref is missing"),
    (401, b'{"message": "401 Unauthorized"}', DeniedError, "the token is not valid here"),
    (403, b'{"message": "403 Forbidden"}', DeniedError, "a role in the project"),
    (403, b'{"error": "insufficient_scope"}', DeniedError, "it needs the scope api,"),
    (404, b'{"message": "404 Project Not Found"}', NotFoundError, "what the token may not see"),
    (409, b'{"message": "Conflict"}', ConflictError, "GitLab answers 409: Conflict"),
    (422, b'{"message": {"ref": ["is too long"]}}', RefusedError, "422: ref: is too long"),
    (405, b"<html>", RefusedError, "GitLab answers 405"),
    (418, b'{"message": 7}', RefusedError, "GitLab answers 418"),
]


@pytest.mark.parametrize(("status", "body", "error", "says"), REFUSALS)
def test_refused(
    server: FakeGitLab, status: int, body: bytes, error: type[StoreError], says: str
) -> None:
    """It is final: nobody asks again."""
    server.fault = lambda _: Fault(status, {}, body)
    with pytest.raises(error) as caught:
        client(server).get(PROJECT)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{server.url}/api/v4{PROJECT}: GitLab answers {status}")
    assert len(server.asked) == 1
    if isinstance(caught.value, RefusedError):
        assert caught.value.status == status


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refused_without_a_token(server: FakeGitLab, status: int) -> None:
    server.fault = lambda _: Fault(status)
    with pytest.raises(StoreError, match="without a token: set GITLAB_TOKEN"):
        client(server, "").get(PROJECT)


def test_real_refusals(server: FakeGitLab, pipeline: Pipeline) -> None:
    """Of the fake, which says what GitLab says."""
    path = f"{PROJECT}/pipelines/{pipeline.id}"
    server.tokens |= {"stranger": {"api"}, "narrow": {"read_user"}}
    with pytest.raises(DeniedError, match="401 Unauthorized"):
        client(server, "unknown").get(path)
    with pytest.raises(NotFoundError, match="404 Project Not Found"):
        client(server, "stranger").get(path)
    with pytest.raises(DeniedError, match="insufficient_scope"):
        client(server, "narrow").get(path)


def test_a_moved_project_is_followed(server: FakeGitLab, pipeline: Pipeline) -> None:
    path = f"/api/v4/projects/1/pipelines/{pipeline.id}"
    faults(server, Fault(301, {"Location": f"{server.url}{path}"}))
    assert client(server).get(f"/projects/old/pipelines/{pipeline.id}")["id"] == pipeline.id
    assert [asked.headers.get("PRIVATE-TOKEN") for asked in server.asked] == [TOKEN, TOKEN]


def test_nothing_is_sent_after_a_move(server: FakeGitLab) -> None:
    faults(server, Fault(301, {"Location": f"{server.url}/api/v4/projects/1?private=secret"}))
    with pytest.raises(RefusedError, match=f"it has moved to {server.url}/api/v4/projects/1$"):
        client(server).post("/projects/old/pipeline", {"ref": "main"})
    assert len(server.asked) == 1


def test_it_goes_round_in_circles(server: FakeGitLab) -> None:
    server.fault = lambda asked: Fault(302, {"Location": asked.path})
    with pytest.raises(UnreachableError, match="redirects more than 5 times"):
        client(server).get(PROJECT)


@pytest.mark.parametrize("place", ["", "ftp://x/y", "http://user:word@127.0.0.1/", "http://[/"])
def test_places_where_nobody_goes(server: FakeGitLab, place: str) -> None:
    server.fault = lambda _: Fault(302, {"Location": place})
    with pytest.raises(UnreachableError, match="where we do not go") as caught:
        client(server).get(PROJECT)
    assert "word" not in str(caught.value)


# -- trouble --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_busy_and_then_not(server: FakeGitLab, pipeline: Pipeline, status: int) -> None:
    slept = Slept()
    faults(server, Fault(status), Fault(status))
    path = f"{PROJECT}/pipelines/{pipeline.id}"
    assert client(server, sleep=slept).get(path)["id"] == pipeline.id
    assert slept == [0.5, 1.0]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_busy_for_good(server: FakeGitLab, status: int) -> None:
    slept = Slept()
    server.fault = lambda _: Fault(status, {}, b'{"message": "Retry later"}')
    with pytest.raises(UnreachableError) as caught:
        client(server, sleep=slept).get(PROJECT)
    assert f"GitLab answers {status}: Retry later ({TRIES} tries)" in str(caught.value)
    assert (len(server.asked), slept) == (TRIES, [0.5, 1.0, 2.0, 4.0])


WAITS = [
    ({"Retry-After": "7"}, 7.0),
    ({"Retry-After": "soon"}, 0.5),
    ({"RateLimit-Remaining": "0", "RateLimit-Reset": f"{NOW_S + 30:.0f}"}, 30.0),
    ({"RateLimit-Remaining": "0", "RateLimit-Reset": f"{NOW_S - 30:.0f}"}, 0.5),
    ({"RateLimit-Remaining": "5", "RateLimit-Reset": f"{NOW_S + 30:.0f}"}, 0.5),
    ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "x"}, 0.5),
]


@pytest.mark.parametrize(("headers", "wait"), WAITS)
def test_waits_as_long_as_it_is_told(
    server: FakeGitLab, pipeline: Pipeline, headers: dict[str, str], wait: float
) -> None:
    slept = Slept()
    faults(server, Fault(429, headers))
    client(server, sleep=slept).get(f"{PROJECT}/pipelines/{pipeline.id}")
    assert slept == [wait]


def test_does_not_wait_for_hours(server: FakeGitLab) -> None:
    slept = Slept()
    server.fault = lambda _: Fault(429, {"Retry-After": "3600"})
    with pytest.raises(UnreachableError, match="it wants us to wait for 3600 s"):
        client(server, sleep=slept).get(PROJECT)
    assert (len(server.asked), slept) == (1, [])


def test_a_limit_that_calls_itself_forbidden(server: FakeGitLab, pipeline: Pipeline) -> None:
    faults(server, Fault(403, {"Retry-After": "1"}))
    assert client(server).get(f"{PROJECT}/pipelines/{pipeline.id}")["id"] == pipeline.id


BROKEN = [
    (Fault(cut=5), "the answer is cut off"),
    (Fault(lost=True), "no connection: RemoteDisconnected"),
    (Fault(delay_s=0.4), "no answer within 0.1 s"),
]


@pytest.mark.parametrize(("fault", "says"), BROKEN, ids=["cut", "lost", "slow"])
def test_broken_and_then_not(
    server: FakeGitLab, pipeline: Pipeline, fault: Fault, says: str
) -> None:
    timeout_s = 0.1 if fault.delay_s else 5
    path = f"{PROJECT}/pipelines/{pipeline.id}"
    faults(server, fault)
    assert client(server, timeout_s=timeout_s).get(path)["id"] == pipeline.id
    server.fault = lambda _: fault
    with pytest.raises(UnreachableError) as caught:
        client(server, timeout_s=timeout_s).get(path)
    assert f": {says} ({TRIES} tries)\n" in str(caught.value)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    gitlab = GitLab(f"http://127.0.0.1:{port}", TOKEN, sleep=Slept())
    with pytest.raises(UnreachableError, match="no connection: Connection refused"):
        gitlab.get("/projects/1")
    with pytest.raises(UnreachableError, match=rf"\({TRIES} tries\)"):  # nothing can have arrived
        gitlab.post("/projects/1/pipeline", {})


@pytest.mark.parametrize("status", [429, 503])
def test_sends_again_what_was_not_taken(server: FakeGitLab, status: int) -> None:
    faults(server, Fault(status))
    client(server).post(f"{PROJECT}/pipeline", {"ref": "main"})
    assert len(server.projects[0].pipelines) == 1


@pytest.mark.parametrize(
    "fault",
    [Fault(500), Fault(502), Fault(504), Fault(lost=True), Fault(cut=3), Fault(delay_s=0.4)],
    ids=["500", "502", "504", "lost", "cut", "slow"],
)
def test_never_sends_twice_what_may_be_done(server: FakeGitLab, fault: Fault) -> None:
    server.fault = lambda _: fault
    gitlab = client(server, timeout_s=0.1 if fault.delay_s else 5)
    with pytest.raises(UnreachableError, match="look at GitLab before trying again"):
        gitlab.post(f"{PROJECT}/pipeline", {"ref": "main"})
    assert len(server.asked) == 1


@pytest.mark.parametrize("body", [b"<html>login</html>", b"\xff", b"[" * 100_000, b"{"])
def test_what_is_no_json(server: FakeGitLab, body: bytes) -> None:
    server.fault = lambda _: Fault(200, {}, body)
    with pytest.raises(CorruptError, match="GitLab does not answer JSON"):
        client(server).get(PROJECT)


def test_an_endless_answer(server: FakeGitLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "_LARGEST_JSON", 1000)
    server.fault = lambda _: Fault(200, {}, b" " * 2000)
    with pytest.raises(CorruptError, match="more than 1,000 bytes"):
        client(server).get(PROJECT)


# -- downloads ------------------------------------------------------------------------------


@pytest.fixture
def archive(server: FakeGitLab, pipeline: Pipeline) -> bytes:
    data = bytes(range(256)) * 4000
    pipeline.jobs = [Job(7, "a", "failed", artifacts=data)]
    return data


ARTIFACTS = f"{PROJECT}/jobs/7/artifacts"


def test_downloads(server: FakeGitLab, archive: bytes, tmp_path: Path) -> None:
    to = tmp_path / "new" / "a.zip"
    client(server).download(ARTIFACTS, to, len(archive))
    assert to.read_bytes() == archive
    assert [path.name for path in to.parent.iterdir()] == ["a.zip"]


def test_the_token_stays_at_home(server: FakeGitLab, archive: bytes, tmp_path: Path) -> None:
    with fake_gitlab() as storage:
        storage.projects = server.projects
        server.storage = storage.url
        client(server).download(ARTIFACTS, tmp_path / "a.zip", 10**7)
        assert [asked.path for asked in storage.asked] == ["/storage/7"]
        assert TOKEN not in str(storage.asked)
    assert (tmp_path / "a.zip").read_bytes() == archive


def test_too_much(server: FakeGitLab, archive: bytes, tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="more than 1,000 bytes"):
        client(server).download(ARTIFACTS, tmp_path / "a.zip", 1000)
    assert list(tmp_path.iterdir()) == []


def test_too_much_that_nobody_announced(server: FakeGitLab, archive: bytes, tmp_path: Path) -> None:
    """A chunked answer has no length."""
    chunk = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            try:
                for _ in range(10_000):
                    connection.sendall(chunk)
            except OSError:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    gitlab = GitLab(f"http://127.0.0.1:{listener.getsockname()[1]}", TOKEN, sleep=Slept())
    with pytest.raises(CorruptError, match="more than 100,000 bytes"):
        gitlab.download(ARTIFACTS, tmp_path / "a.zip", 100_000)
    gitlab.close()
    thread.join(10)
    listener.close()
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_breaks_off_begins_again(
    server: FakeGitLab, archive: bytes, tmp_path: Path
) -> None:
    faults(server, Fault(cut=500_000), Fault(503), Fault(lost=True))
    client(server).download(ARTIFACTS, tmp_path / "a.zip", 10**7)
    assert (tmp_path / "a.zip").read_bytes() == archive


def test_a_download_that_always_breaks_off(
    server: FakeGitLab, archive: bytes, tmp_path: Path
) -> None:
    (tmp_path / "a.zip").write_bytes(b"the old one")
    server.fault = lambda _: Fault(cut=500_000)
    with pytest.raises(UnreachableError, match="cut off"):
        client(server).download(ARTIFACTS, tmp_path / "a.zip", 10**7)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the old one"]


def test_a_place_that_cannot_be_written(server: FakeGitLab, archive: bytes, tmp_path: Path) -> None:
    """It is our disk that fails, and nobody downloads again."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StackyardError, match="cannot write it") as caught:
        client(server).download(ARTIFACTS, tmp_path / "file" / "a.zip", 10**7)
    assert not isinstance(caught.value, StoreError)
    (tmp_path / "a.zip").mkdir()
    with pytest.raises(StackyardError, match="cannot write it"):
        client(server).download(ARTIFACTS, tmp_path / "a.zip", 10**7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "file"]
    assert len(server.asked) == 1


# -- tokens ---------------------------------------------------------------------------------


def test_a_token_with_the_end_of_its_line(server: FakeGitLab, pipeline: Pipeline) -> None:
    client(server, f"{TOKEN}\n").get(f"{PROJECT}/pipelines/{pipeline.id}")
    assert server.asked[0].headers["PRIVATE-TOKEN"] == TOKEN


@pytest.mark.parametrize("token", ["two words", "two\nlines", "naïve", "nul\0"])
def test_what_is_no_token(server: FakeGitLab, token: str) -> None:
    with pytest.raises(ConfigError, match="cannot be one") as caught:
        client(server, token)
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "x.org", "ftp://x.org", "https://me:secret@x.org", "http://[", "http://x.org:port"]
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(StoreError, match=r"not the http\(s\) URL of GitLab") as caught:
        GitLab(url, TOKEN)
    assert "secret" not in str(caught.value)


def test_a_secret_that_is_cut_is_one_too(server: FakeGitLab) -> None:
    """What a server says is cut to 300 characters, and what is left of the token must not stand there."""
    server.fault = lambda _: Fault(400, {}, f'{{"message": "{"x" * 295}{TOKEN}"}}'.encode())
    with pytest.raises(RefusedError) as caught:
        client(server).get(PROJECT)
    assert caught.value.message.endswith("xx***")


def test_nobodys_netrc_counts(
    server: FakeGitLab, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password word\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    client(server).get(f"{PROJECT}/pipelines/{pipeline.id}")
    assert "Authorization" not in server.asked[0].headers


@pytest.mark.parametrize(
    ("root", "url", "home"),
    [
        ("http://x.org", "https://x.org/a", True),
        ("http://x.org", "http://x.org:80/a", True),
        ("https://x.org:443", "https://x.org/a", True),
        ("https://x.org", "http://x.org/a", False),
        ("https://x.org", "https://x.org:8443/a", False),
        ("http://x.org:8080", "https://x.org/a", False),
        ("https://x.org", "https://y.x.org/a", False),
    ],
)
def test_where_a_token_may_go(root: str, url: str, *, home: bool) -> None:
    assert GitLab(root, TOKEN)._is_home(url) is home


@pytest.mark.parametrize("place", ["http://x.org/a", "http://other.org/", "//[", "ftp://x.org"])
def test_from_https_it_is_never_http(place: str) -> None:
    gitlab = GitLab("https://x.org", TOKEN)
    with pytest.raises(UnreachableError, match="where we do not go"):
        gitlab._place("https://x.org/b", place, gitlab._asked("GET", "/b", {}))


def test_no_error_tells_the_token(server: FakeGitLab) -> None:
    """Not even where the server says it back."""
    said = f'{{"message": "who is {TOKEN}?"}}'.encode()
    for status in (400, 401, 403, 404, 422, 429, 500):
        server.fault = lambda _, status=status: Fault(status, {}, said)  # type: ignore[misc]
        for ask in (
            lambda: client(server).get(PROJECT),
            lambda: client(server).post(PROJECT, {"token": TOKEN}),
            lambda: client(server).download(PROJECT, Path("/nonexistent/x"), 1),
        ):
            with pytest.raises(StackyardError) as caught:
                ask()
            assert TOKEN not in str(caught.value)


def test_words_of_an_error() -> None:
    said = rest.said
    assert said(b'{"message": {"base": ["a", "b"], "ref": ["is  bad"]}}') == "a; b; ref: is bad"
    assert said(b'{"message": ["a", "a"]}') == "a"
    assert said(b'{"message": "Validation Failed", "errors": [{"message": "too many"}]}') == (
        "Validation Failed; too many"
    )
    assert said(b"[1]") == said(b"null") == said(b"x") == said(b'{"message": null}') == ""
    assert len(said(b'{"message": "' + b"x" * 5000 + b'"}')) == 300
    assert said(b'{"message": ' + b"[" * 9 + b'"deep"' + b"]" * 9 + b"}") == ""


def test_the_fake_is_strict(server: FakeGitLab) -> None:
    """Else the other tests here would prove nothing."""
    gitlab = client(server)
    wrong: list[tuple[str, dict[str, Any]]] = [
        (f"{PROJECT}/pipeline", {"ref": "main", "branch": "x"}),
        (f"{PROJECT}/trigger/pipeline", {"ref": "main"}),
        (f"{PROJECT}/trigger/pipeline", {"ref": "main", "token": "x", "variables": {"A": 1}}),
        (f"{PROJECT}/builds", {}),
    ]
    for path, data in wrong:
        with pytest.raises(StoreError):
            gitlab.post(path, data)
    for path, query in ((f"{PROJECT}/nothing", {}), (f"{PROJECT}/jobs/1", {"x": 1})):
        with pytest.raises(StoreError):
            gitlab.get(path, **query)
    assert len(server.breaches) == len(wrong) + 2
    server.breaches.clear()
