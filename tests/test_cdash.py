from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import HTTPServer
from typing import Any

import pytest
from serving import QuietHandler, serving

from stackyard.edges.cdash import build_stamp, create_build_group
from stackyard.errors import CorruptError, DeniedError, UnreachableError

CDASH = {"build-group": "Tutorial SC26", "project": "Spack Testing"}


class _CDash(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.answer: tuple[int, bytes] = (200, b'{"id": 7}')

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(QuietHandler):
    server: _CDash

    def do_POST(self) -> None:  # noqa: N802 - http.server's name
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers), json.loads(body)))
        self.answer(*self.server.answer)


@pytest.fixture
def server() -> Iterator[_CDash]:
    made = _CDash()
    with serving(made):
        yield made


def test_asks_as_cdash_documents(server: _CDash) -> None:
    create_build_group({**CDASH, "url": f"{server.url}/"}, "secret-token")
    path, headers, body = server.seen[0]
    assert path == "/api/v1/buildgroup.php"
    assert headers["Authorization"] == "Bearer secret-token"
    assert headers["Content-Type"] == "application/json"
    assert body == {
        "newbuildgroup": "Tutorial SC26",
        "project": "Spack Testing",
        "type": "Daily",
    }


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((200, b"{}"), CorruptError),
        ((200, b"<html>"), CorruptError),
        ((200, b"[]"), CorruptError),
        ((401, b""), DeniedError),
        ((500, b""), UnreachableError),
    ],
    ids=["no id", "HTML", "a list", "denied", "broken"],
)
def test_says_what_went_wrong(
    server: _CDash, answer: tuple[int, bytes], error: type[Exception]
) -> None:
    server.answer = answer
    with pytest.raises(error) as caught:
        create_build_group({**CDASH, "url": server.url}, "secret-token")
    assert "secret-token" not in str(caught.value)


def test_nobody_there() -> None:
    with pytest.raises(UnreachableError, match="no answer"):
        create_build_group({**CDASH, "url": "http://127.0.0.1:1"}, "secret-token")


def test_a_stamp_is_time_and_group() -> None:
    stamp = build_stamp("100% Group")
    assert stamp[8] == "-"
    assert stamp[:8].isdigit()
    assert stamp[13:] == "-100% Group"
