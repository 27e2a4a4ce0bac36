"""Dynamic mappings: whatever the service answers, the pipeline is made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest
from locks import key, lock, node
from serving import QuietHandler, serving

from stackyard.attributes import make_attributes
from stackyard.edges.dynamic import DynamicService
from stackyard.errors import StackError

LOCK = lock([node("app", ["lib"]), node("lib")])
SPECS = [LOCK.specs[key("app")], LOCK.specs[key("lib")]]


class _Service(ThreadingHTTPServer):
    answer: bytes = b"{}"
    code = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []


class _Handler(QuietHandler):
    server: _Service

    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        self.server.asked.append(unquote(self.path))
        self.server.headers.append(dict(self.headers))
        self.answer(self.server.code, self.server.answer)


@pytest.fixture
def service() -> Iterator[_Service]:
    made = _Service()
    with serving(made):
        yield made


def attributes(
    service: _Service, *, fix: bool = False, skip: str = "", **mapping: Any
) -> tuple[dict[str, Any], list[str]]:
    """The attributes of app's job, and the warnings."""
    warnings: list[str] = []
    asker = DynamicService(
        skip=skip,
        warn=warnings.append,
        expand=(lambda text: text.replace("$TOKEN", "secret")) if fix else None,
    )
    entry = {
        "dynamic-mapping": {"endpoint": f"http://127.0.0.1:{service.server_port}/v1", **mapping}
    }
    made = make_attributes({"pipeline-gen": [entry]}, SPECS, LOCK, dynamic=asker)
    group = next(g for g in made.groups if key("app") in g.members)
    return dict(group.attributes), warnings


def test_asks_for_each_job_and_merges_the_answer(service: _Service) -> None:
    service.answer = json.dumps({"tags": ["big"], "variables": {"A": "1"}}).encode()
    made, warnings = attributes(service)
    assert made["tags"] == ["big"]
    assert made["variables"]["A"] == "1"
    assert warnings == []
    assert sorted(service.asked) == [
        f"/v1?spec={name}@1.0 build_system=generic arch=linux-debian12-x86_64_v3%none@none"
        for name in ("app", "lib")
    ]


@pytest.mark.parametrize(
    ("answer", "warning"),
    [
        (b'{"tags": 5}', "tags: must be a list"),
        (b'{"tags": "abc"}', "tags: must be a list"),
        (b'{"variables": "x"}', "variables: must be a mapping"),
        (b'{"script": 5}', "script: must be a list"),
        (b'{"script": [1]}', "script[0]: must be"),
        (b'{"variables": {"A": "\\u0000X\\u0000"}}', "NUL"),
        (b"[1]", "must be a mapping"),
        (b"<html>", "not JSON"),
        (b"", "not JSON"),
    ],
)
def test_an_answer_that_no_job_could_take_warns(
    service: _Service, answer: bytes, warning: str
) -> None:
    service.answer = answer
    made, warnings = attributes(service)
    assert "tags" not in made
    assert warning in " ".join(warnings)


def test_a_failing_service_warns_once(service: _Service) -> None:
    service.code = 500
    _, warnings = attributes(service, name="gantry")
    assert len(warnings) == 1
    assert warnings[0].startswith("dynamic mapping gantry: no answer for 2 of 2 jobs")


def test_only_what_is_wanted(service: _Service) -> None:
    service.answer = json.dumps({"tags": ["a"], "image": "b", "timeout": "1h"}).encode()
    made, _ = attributes(service, allow=["tags", "timeout"], ignore=["timeout"])
    assert made["tags"] == ["a"]
    assert "image" not in made
    assert "timeout" not in made
    _, warnings = attributes(service, require=["retry"])
    assert warnings == ["dynamic mapping : the answer lacks retry"] * 2


def test_skips_by_name(service: _Service) -> None:
    attributes(service, name="gantry", skip="gan")
    assert service.asked == []


@pytest.mark.parametrize(("fix", "expected"), [(False, "$TOKEN"), (True, "secret")])
def test_headers(service: _Service, *, fix: bool, expected: str) -> None:
    attributes(service, fix=fix, header={"X-Key": "$TOKEN"})
    assert {headers["X-Key"] for headers in service.headers} == {expected}


def test_an_endpoint_that_is_no_url(service: _Service) -> None:
    with pytest.raises(StackError, match="is no URL"):
        attributes(service, endpoint="http://[")


def test_ends_in_bounded_time(service: _Service) -> None:
    warnings: list[str] = []
    asker = DynamicService(skip="", warn=warnings.append, total_s=0.0)
    url = f"http://127.0.0.1:{service.server_port}"
    assert asker({"endpoint": url}, ["spec=a", "spec=b"]) == [None, None]
    assert service.asked == []
    assert "no answer for 2 of 2" in warnings[0]
