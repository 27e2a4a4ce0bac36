"""What we ask of GitHub, and what becomes of its answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fake_github import FakeGitHub, Token, fake_github
from fake_service import Fault

from stackyard.edges.github import GitHub, api_url
from stackyard.edges.rest import LONGEST_WAIT_S, TRIES, RefusedError
from stackyard.errors import (
    ConfigError,
    CorruptError,
    DeniedError,
    NotFoundError,
    StackyardError,
    StoreError,
    UnreachableError,
)

TOKEN = "ghp_recognisable0123456789"
NAME = "octo/stacks"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
STATUS = {"state": "success", "context": "ci/x", "description": "fine"}
NOW = 1_800_000_000.0


@pytest.fixture
def server() -> Iterator[FakeGitHub]:
    with fake_github() as made:
        made.tokens[TOKEN] = Token()
        made.repository(NAME, COMMIT)
        yield made


@pytest.fixture
def waits() -> list[float]:
    """Seconds that a client waited, which took no time."""
    return []


@pytest.fixture
def github(server: FakeGitHub, waits: list[float]) -> Iterator[GitHub]:
    made = GitHub(server.api, TOKEN, timeout_s=10, sleep=waits.append, clock=lambda: NOW)
    yield made
    made.close()


def read(github: GitHub) -> list[Any]:
    return list(github.statuses(NAME, COMMIT))


def post(github: GitHub) -> Any:
    return github.post_status(NAME, COMMIT, STATUS)


def test_posts_and_reads(server: FakeGitHub, github: GitHub) -> None:
    assert post(github)["context"] == "ci/x"
    assert server.posted(NAME, COMMIT) == [STATUS]
    assert [row["state"] for row in read(github)] == ["success"]
    for asked in server.asked:
        assert asked.headers["Authorization"] == f"Bearer {TOKEN}"
        assert asked.headers["User-Agent"].startswith("stackyard/")


def test_reads_page_by_page_and_no_further(server: FakeGitHub, github: GitHub) -> None:
    for number in range(250):
        row = {"context": f"c{number}", "state": "pending"}
        server.repositories[NAME].statuses.setdefault(COMMIT, []).append(row)
    assert [row["context"] for row in read(github)] == [f"c{n}" for n in range(249, -1, -1)]
    assert len(server.asked) == 3
    assert next(github.statuses(NAME, COMMIT))["context"] == "c249"
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://github.com", "https://api.github.com"),
        ("https://www.github.com/", "https://api.github.com"),
        ("https://api.github.com/", "https://api.github.com"),
        ("https://octo.ghe.com", "https://api.octo.ghe.com"),
        ("https://api.octo.ghe.com", "https://api.octo.ghe.com"),
        ("https://github.example.com", "https://github.example.com/api/v3"),
        ("https://github.example.com/api/v3/", "https://github.example.com/api/v3"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/api/v3"),
    ],
)
def test_where_the_api_is(url: str, expected: str) -> None:
    assert api_url(url) == expected


def test_enterprise() -> None:
    with fake_github("/api/v3") as server:
        server.tokens[TOKEN] = Token()
        server.repository(NAME, COMMIT)
        github = GitHub(api_url(server.url), TOKEN)
        post(github)
        github.close()
        assert server.posted(NAME, COMMIT) == [STATUS]
        assert server.asked[0].path.startswith("/api/v3/repos/")


# -- refusals ---------------------------------------------------------------------------------


def refusal(server: FakeGitHub, github: GitHub) -> StackyardError:
    """What posting is refused with: asked once, and no token in it."""
    with pytest.raises(StoreError) as caught:
        post(github)
    assert len(server.asked) == 1
    assert TOKEN not in str(caught.value)
    assert TOKEN not in repr(caught.value)
    return caught.value


def test_bad_token(server: FakeGitHub, github: GitHub) -> None:
    server.tokens.clear()
    error = refusal(server, github)
    assert type(error) is DeniedError
    assert error.message == "GitHub answers 401: Bad credentials"
    assert "has run out" in error.hint
    assert error.where == f"{server.api}/repos/{NAME}/statuses/{COMMIT}"


def test_token_without_the_right(server: FakeGitHub, github: GitHub) -> None:
    server.tokens[TOKEN] = Token(statuses="read")
    error = refusal(server, github)
    assert type(error) is DeniedError
    assert error.message == "GitHub answers 403: Resource not accessible by personal access token"
    assert "statuses: write" in error.hint
    assert "repo:status" in error.hint


def test_repository_that_the_token_does_not_see(server: FakeGitHub, github: GitHub) -> None:
    server.tokens[TOKEN] = Token(sees_private=False)
    server.repository(NAME, COMMIT, private=True)
    error = refusal(server, github)
    assert type(error) is NotFoundError
    assert error.message == "GitHub answers 404: Not Found"
    assert "may not see" in error.hint


def test_unknown_commit(server: FakeGitHub, github: GitHub) -> None:
    server.repositories[NAME].commits.clear()
    error = refusal(server, github)
    assert isinstance(error, RefusedError)
    assert error.status == 422
    assert error.message == f"GitHub answers 422: No commit found for SHA: {COMMIT}"
    assert "on GitHub already" in error.hint


def test_a_thousand_statuses_are_all(server: FakeGitHub, github: GitHub) -> None:
    rows = [{"context": "CI/X", "state": "pending"}] * 999
    server.repositories[NAME].statuses[COMMIT] = [*rows, {"context": "other", "state": "pending"}]
    post(github)
    server.asked.clear()
    error = refusal(server, github)
    assert isinstance(error, RefusedError)
    assert "This SHA and context has reached the maximum number of statuses." in error.message
    assert "1000" in error.hint


def test_without_a_token(server: FakeGitHub) -> None:
    github = GitHub(server.api)
    assert read(github) == []
    with pytest.raises(DeniedError, match="401: Requires authentication") as caught:
        post(github)
    assert caught.value.hint == "GitHub was asked without a token: set GITHUB_TOKEN"
    assert all("Authorization" not in asked.headers for asked in server.asked)
    github.close()


@pytest.mark.parametrize("token", ["line\nline", "smörgås", "tab\there", "nul\x00"])
def test_what_can_be_no_token(token: str) -> None:
    """``requests`` would say the whole header in its error."""
    with pytest.raises(StoreError, match="has characters that no token has") as caught:
        GitHub("https://api.github.com", token)
    assert token not in str(caught.value)


def test_no_token_in_the_clear() -> None:
    with pytest.raises(ConfigError, match="the token would travel unsealed"):
        GitHub("http://github.example.com/api/v3", TOKEN)
    GitHub("http://github.example.com/api/v3").close()


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://github.com", "github.com", "https://", "https://user:word@github.com"),
        *("https://[", "https://github.com:port"),
    ],
)
def test_what_is_no_server(url: str) -> None:
    with pytest.raises(StoreError, match="not the http") as caught:
        GitHub(url, TOKEN)
    assert "word" not in str(caught.value)


# -- busy hours -------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [read, post])
def test_waits_as_long_as_it_is_told(
    server: FakeGitHub, github: GitHub, waits: list[float], call: Any
) -> None:
    server.fail(Fault(429, {"Retry-After": "7"}), Fault(503, {"Retry-After": "3"}))
    call(github)
    assert waits == [7, 3]
    assert len(server.asked) == 3


def test_second_limit_is_a_403(server: FakeGitHub, github: GitHub, waits: list[float]) -> None:
    body = b'{"message": "You have exceeded a secondary rate limit."}'
    server.fail(Fault(403, {"Retry-After": "60"}, body))
    post(github)
    assert waits == [60]


def test_waits_for_the_hour_to_end(server: FakeGitHub, github: GitHub, waits: list[float]) -> None:
    spent = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(NOW) + 45)}
    server.fail(Fault(403, spent), Fault(429, spent))
    post(github)
    assert waits == [45, 45]


def test_does_not_wait_for_ever(server: FakeGitHub, github: GitHub, waits: list[float]) -> None:
    body = b'{"message": "API rate limit exceeded for user ID 1."}'
    spent = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(NOW) + 3000)}
    server.fail(Fault(403, spent, body))
    with pytest.raises(UnreachableError) as caught:
        post(github)
    assert waits == []
    assert caught.value.message == (
        "GitHub answers 403: API rate limit exceeded for user ID 1.; it wants us to wait for 3000 s"
    )
    assert LONGEST_WAIT_S < 3000


def test_a_limit_that_says_nothing_of_time(
    server: FakeGitHub, github: GitHub, waits: list[float]
) -> None:
    """GitHub: "wait for at least one minute before retrying"."""
    body = b'{"message": "You have exceeded a secondary rate limit."}'
    server.fail(Fault(403, body=body), Fault(429, body=body))
    post(github)
    assert waits == [60, 60]


@pytest.mark.parametrize("status", [401, 404, 422])
def test_a_refusal_in_the_last_request_of_an_hour(
    server: FakeGitHub, github: GitHub, waits: list[float], status: int
) -> None:
    """It is a refusal, and no limit, whatever its words."""
    spent = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(NOW) + 45)}
    server.fail(Fault(status, spent, b'{"message": "the rate limit of statuses"}'))
    with pytest.raises(StoreError, match=f"GitHub answers {status}"):
        post(github)
    assert waits == []
    assert len(server.asked) == 1


def test_gives_up_in_the_end(server: FakeGitHub, github: GitHub, waits: list[float]) -> None:
    server.fault = lambda _: Fault(429, {"Retry-After": "1"})
    with pytest.raises(UnreachableError, match=rf"answers 429 \({TRIES} tries\)"):
        post(github)
    assert len(server.asked) == TRIES
    assert len(waits) == TRIES - 1


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_broken_for_a_moment(
    server: FakeGitHub, github: GitHub, waits: list[float], status: int
) -> None:
    server.fail(Fault(status), Fault(status))
    assert read(github) == []
    assert waits == [0.5, 1.0]


@pytest.mark.parametrize("status", [500, 502, 504])
def test_what_may_have_been_taken_is_not_sent_again(
    server: FakeGitHub, github: GitHub, waits: list[float], status: int
) -> None:
    server.fail(Fault(status, body=b"<html>Unicorn!</html>"))
    with pytest.raises(UnreachableError, match=f"GitHub answers {status}") as caught:
        post(github)
    assert "may have been done" in caught.value.hint
    assert (len(server.asked), waits) == (1, [])


# -- faults of the network --------------------------------------------------------------------


def test_time_out(server: FakeGitHub, waits: list[float]) -> None:
    github = GitHub(server.api, TOKEN, timeout_s=0.2, sleep=waits.append)
    over = threading.Event()
    server.fault = lambda _: Fault(held=over)
    try:
        with pytest.raises(UnreachableError, match=r"no answer within 0\.2 s") as caught:
            read(github)
        assert len(waits) == TRIES - 1
        server.asked.clear()
        with pytest.raises(UnreachableError, match=r"no answer within 0\.2 s"):
            post(github)
        assert len(server.asked) == 1
    finally:
        over.set()
        github.close()
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("fault", [Fault(lost=True), Fault(cut=1)], ids=["hung up", "cut off"])
def test_a_connection_that_breaks(
    server: FakeGitHub, github: GitHub, waits: list[float], fault: Fault
) -> None:
    server.fail(fault, fault)
    assert read(github) == []
    assert len(server.asked) == 3
    server.fail(fault)
    with pytest.raises(UnreachableError) as caught:
        post(github)
    assert "may have been done" in caught.value.hint
    assert server.posted(NAME, COMMIT) == [STATUS]


def test_nobody_there(waits: list[float]) -> None:
    github = GitHub("http://127.0.0.1:1", TOKEN, sleep=waits.append)
    with pytest.raises(UnreachableError, match=r"Connection refused \(5 tries\)"):
        post(github)
    assert len(waits) == TRIES - 1
    github.close()


@pytest.mark.parametrize("body", [b"<html>sign in</html>", b"[{", b"\xff\xfe"])
def test_an_answer_that_is_not_json(server: FakeGitHub, github: GitHub, body: bytes) -> None:
    server.fault = lambda _: Fault(200, body=body)
    with pytest.raises(CorruptError, match="GitHub does not answer JSON"):
        read(github)


def test_a_list_that_is_none(server: FakeGitHub, github: GitHub) -> None:
    server.fault = lambda _: Fault(200, body=b'{"message": "hello"}')
    with pytest.raises(CorruptError, match="GitHub answers no list"):
        read(github)


# -- repositories that moved ------------------------------------------------------------------


def test_reading_follows_a_repository(server: FakeGitHub, github: GitHub) -> None:
    server.repository("octo/old", COMMIT).moved_to = NAME
    post(github)
    assert len(list(github.statuses("octo/old", COMMIT))) == 1


def test_posting_says_that_it_moved(server: FakeGitHub, github: GitHub) -> None:
    server.repository("octo/old", COMMIT).moved_to = NAME
    with pytest.raises(RefusedError, match="307: it has moved to") as caught:
        github.post_status("octo/old", COMMIT, STATUS)
    assert "status.repository" in caught.value.hint
    assert server.posted(NAME, COMMIT) == []


def test_no_token_for_others(server: FakeGitHub, github: GitHub) -> None:
    with fake_github() as other:
        other.fault = lambda _: Fault(200, body=b"[]")
        place = f"{other.api}/repos/{NAME}/commits/{COMMIT}/statuses?per_page=100"
        server.fail(Fault(302, {"Location": place}))
        assert read(github) == []
        (asked,) = other.asked
        assert "Authorization" not in asked.headers
