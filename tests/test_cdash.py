"""The build group on CDash: what is asked, and what becomes of the answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Project, Stackyard
from fake_service import Fault, Handler, RefusedError, Service, running
from locks import document

from stackyard.edges.cdash import build_stamp, create_build_group
from stackyard.edges.rest import TRIES
from stackyard.edges.rest import RefusedError as Refused
from stackyard.errors import (
    CorruptError,
    DeniedError,
    NotFoundError,
    StoreError,
    UnreachableError,
)

TOKEN = "recognisable-0123456789"
CDASH = {"build-group": "Tutorial SC26", "project": "Spack Testing"}


class FakeCDash(Service):
    """It knows one token and one project, and finds a group that is there already."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.groups: dict[str, int] = {}


class _Handler(Handler):
    server: FakeCDash

    def route(self) -> None:
        if (self.command, self.path) != ("POST", "/api/v1/buildgroup.php"):
            raise RefusedError(404, {"error": "Not found"}, "no such method and path")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise RefusedError(401, {"error": "Invalid bearer token"})
        if self.headers.get("Content-Type") != "application/json":
            raise RefusedError(400, {"error": "not JSON"}, "the body's type is not JSON")
        data = json.loads(self.asked.body)
        if set(data) != {"newbuildgroup", "project", "type"} or data["type"] != "Daily":
            raise RefusedError(400, {"error": "fields"}, f"fields of {data}")
        if data["project"] != CDASH["project"]:
            raise RefusedError(404, {"error": "This project does not exist."})
        number = self.server.groups.setdefault(data["newbuildgroup"], len(self.server.groups) + 7)
        self.json(200, {"id": number, "name": data["newbuildgroup"]})


@pytest.fixture
def server() -> Iterator[FakeCDash]:
    made = FakeCDash()
    with running(made):
        yield made


@pytest.fixture
def waits() -> list[float]:
    """Seconds that were waited, which took no time."""
    return []


def create(server: FakeCDash, waits: list[float], **more: Any) -> None:
    create_build_group({**CDASH, "url": f"{server.url}/"}, TOKEN, sleep=waits.append, **more)


def test_asks_as_cdash_documents(server: FakeCDash, waits: list[float]) -> None:
    create(server, waits)
    create(server, waits)
    assert server.groups == {"Tutorial SC26": 7}
    assert waits == []


@pytest.mark.parametrize("body", [b"{}", b"<html>", b"[]", b"", b'{"id": 0}', b"[" * 10**5])
def test_an_answer_without_a_group(server: FakeCDash, waits: list[float], body: bytes) -> None:
    server.fault = lambda _: Fault(200, body=body)
    with pytest.raises(CorruptError, match="CDash"):
        create(server, waits)


REFUSALS: list[tuple[int, type[StoreError], str]] = [
    (401, DeniedError, "SPACK_CDASH_AUTH_TOKEN"),
    (403, DeniedError, "administrator"),
    (404, NotFoundError, "url and project"),
    (422, Refused, "build-group"),
    (400, Refused, ""),
]


@pytest.mark.parametrize(("status", "error", "hint"), REFUSALS, ids=[str(r[0]) for r in REFUSALS])
def test_refused(
    server: FakeCDash, waits: list[float], status: int, error: type[StoreError], hint: str
) -> None:
    body = json.dumps({"error": f"no, {TOKEN}"}).encode()
    server.fault = lambda _: Fault(status, body=body)
    with pytest.raises(error) as caught:
        create(server, waits)
    assert caught.value.message == f"CDash answers {status}: no, ***"
    assert caught.value.where == f"{server.url}/api/v1/buildgroup.php"
    assert hint in caught.value.hint
    assert len(server.asked) == 1


def test_wrong_token_and_project(server: FakeCDash, waits: list[float]) -> None:
    with pytest.raises(NotFoundError, match="This project does not exist"):
        create_build_group({**CDASH, "url": server.url, "project": "x"}, TOKEN)
    with pytest.raises(DeniedError, match="401: Invalid bearer token") as caught:
        create_build_group({**CDASH, "url": server.url}, "other-recognisable")
    assert "recognisable" not in str(caught.value)
    assert server.groups == {}


def test_waits_as_long_as_it_is_told(server: FakeCDash, waits: list[float]) -> None:
    server.fail(Fault(429, {"Retry-After": "7"}), Fault(503, {"Retry-After": "3"}))
    create(server, waits)
    assert waits == [7, 3]


def test_does_not_wait_for_ever(server: FakeCDash, waits: list[float]) -> None:
    server.fail(Fault(429, {"Retry-After": "3600"}))
    with pytest.raises(UnreachableError, match="wait for 3600 s"):
        create(server, waits)
    assert waits == []


@pytest.mark.parametrize(
    "fault",
    [Fault(500), Fault(502), Fault(503), Fault(504), Fault(lost=True), Fault(cut=3)],
    ids=["500", "502", "503", "504", "hung up", "cut off"],
)
def test_out_of_order_for_a_moment(server: FakeCDash, waits: list[float], fault: Fault) -> None:
    server.fail(fault, fault)
    create(server, waits)
    assert waits == [0.5, 1.0]
    assert server.groups == {"Tutorial SC26": 7}


def test_gives_up_in_the_end(server: FakeCDash, waits: list[float]) -> None:
    server.fault = lambda _: Fault(502, body=b"<html>")
    with pytest.raises(UnreachableError, match=rf"CDash answers 502 \({TRIES} tries\)"):
        create(server, waits)
    assert len(server.asked) == TRIES


def test_time_out(server: FakeCDash, waits: list[float]) -> None:
    over = threading.Event()
    server.fault = lambda _: Fault(held=over)
    try:
        with pytest.raises(UnreachableError, match=r"no answer within 0\.2 s"):
            create(server, waits, timeout_s=0.2)
    finally:
        over.set()
    assert len(server.asked) == TRIES


def test_nobody_there(waits: list[float]) -> None:
    with pytest.raises(UnreachableError, match="Connection refused"):
        create_build_group({**CDASH, "url": "http://127.0.0.1:1"}, TOKEN, sleep=waits.append)


@pytest.mark.parametrize("url", ["", "cdash.example.com", "ftp://cdash.example.com"])
def test_what_is_no_server(url: str) -> None:
    with pytest.raises(StoreError, match="not the http") as caught:
        create_build_group({**CDASH, "url": url}, TOKEN)
    assert "cdash.example.com" in caught.value.hint


@pytest.mark.parametrize("token", ["line\nline", "smörgås\x00"])
def test_what_can_be_no_token(server: FakeCDash, token: str) -> None:
    """``requests`` would say the whole header in its error."""
    with pytest.raises(StoreError) as caught:
        create_build_group({**CDASH, "url": server.url}, token)
    assert token not in str(caught.value)
    assert server.asked == []


def test_generate_goes_on_without(
    server: FakeCDash, stackyard: Stackyard, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline is worth more than its reports."""
    monkeypatch.setenv("SPACK_CDASH_AUTH_TOKEN", TOKEN)
    cdash = {**CDASH, "url": server.url, "site": "Cloud"}
    project.stack(document({"app": []}), cdash=cdash)
    made = stackyard("generate", "--stack", "demo", "--no-prune")
    assert (server.groups, "warning" in made.err) == ({"Tutorial SC26": 7}, False)
    server.fault = lambda _: Fault(403, body=b'{"error": "no"}')
    made = stackyard("generate", "--stack", "demo", "--no-prune")
    assert f"warning: CDash: {server.url}/api/v1/buildgroup.php: CDash answers 403: no" in made.err
    assert TOKEN not in made.err
    assert project.child.is_file()


def test_a_stamp_is_time_and_group() -> None:
    stamp = build_stamp("100% Group")
    assert stamp[8] == "-"
    assert stamp[:8].isdigit()
    assert stamp[13:] == "-100% Group"
