"""``invoke doctor`` on the repository on GitHub that statuses go to."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from conftest import Project, Stackyard
from fake_github import FakeGitHub, Token, fake_github
from fake_service import Fault
from locks import document

TOKEN = "ghp-never-to-be-seen"


@pytest.fixture
def github(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGitHub]:
    mirror = project.root / "mirror"
    mirror.mkdir()
    project.stack(document({"app": []}), mirror=mirror.as_uri())
    with fake_github() as server:
        server.tokens[TOKEN] = Token()
        server.repository("octo/stacks")
        monkeypatch.setenv("GITHUB_API_URL", server.api)
        monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
        settings = {"status": {"repository": "octo/stacks"}}
        project.write("invoke.yaml", {"stackyard": settings})
        yield server
    assert server.breaches == []


def said(stackyard: Stackyard, *flags: str, code: int = 0) -> list[str]:
    answer = stackyard("doctor", "--json", *flags, code=code)
    assert TOKEN not in answer.out + answer.err
    found = json.loads(answer.out)
    return [
        f"{one['state']}: {one['text']}" for one in found if one["check"] == "GitHub: repository"
    ]


def test_it_can_be_seen(stackyard: Stackyard, github: FakeGitHub) -> None:
    assert said(stackyard) == ["ok: octo/stacks can be seen with the token"]


def test_nothing_is_asked_without_reason(
    stackyard: Stackyard, github: FakeGitHub, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(stackyard, "--offline") == []
    monkeypatch.delenv("GITHUB_TOKEN")
    assert said(stackyard) == []
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    project.write("invoke.yaml", {"stackyard": {}})
    assert said(stackyard) == []
    assert github.asked == []


def test_another_name_by_now(stackyard: Stackyard, github: FakeGitHub) -> None:
    github.repositories["octo/stacks"].moved_to = "octo/piles"
    github.repository("octo/piles")
    (text,) = said(stackyard, code=2)
    assert (
        text == "failed: octo/stacks is octo/piles by now, and takes no statuses under its old name"
    )


def test_archived(stackyard: Stackyard, github: FakeGitHub) -> None:
    github.repositories["octo/stacks"].archived = True
    assert said(stackyard, code=2) == ["failed: octo/stacks is archived: it takes no statuses"]


def test_a_token_that_does_not_see_it(
    stackyard: Stackyard, github: FakeGitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    github.repository("octo/stacks", private=True)
    github.tokens[TOKEN] = Token(sees_private=False)
    (text,) = said(stackyard, code=6)
    assert text.startswith("failed: ")
    assert "GitHub answers 404" in text
    monkeypatch.setenv("GITHUB_TOKEN", "another-word")
    (text,) = said(stackyard, code=6)
    assert "GitHub answers 401" in text


def test_an_answer_that_is_none(stackyard: Stackyard, github: FakeGitHub) -> None:
    github.fail(Fault(status=200, body=b"[]"))
    assert said(stackyard, code=6) == ["failed: its answer is no repository"]


def test_settings_that_name_none(
    stackyard: Stackyard, github: FakeGitHub, project: Project
) -> None:
    project.write("invoke.yaml", {"stackyard": {"status": {"repository": "stacks"}}})
    (text,) = said(stackyard, code=2)
    assert "not a repository on GitHub: 'stacks'" in text
