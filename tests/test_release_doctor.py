"""``invoke doctor``: what a release would lack, told before anything is built."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import Stackyard
from releases import BASE, IDENTITY, Ground, git


def told(stackyard: Stackyard, *arguments: str, code: int | None = 0) -> list[tuple[str, str]]:
    """State and text of what concerns releases, without what is good news."""
    findings = json.loads(stackyard("doctor", "--json", *arguments, code=code).out)
    return [
        (one["check"], one["text"])
        for one in findings
        if one["check"].endswith("release") and one["state"] != "ok"
    ]


def test_nothing_is_lacking(stackyard: Stackyard, ground: Ground) -> None:
    assert told(stackyard) == []
    stackyard("release", "--tag", "sc26")
    assert "ok      release: comes from main of origin; so far there: 1" in stackyard("doctor").out


def test_outside_of_git_nobody_releases(stackyard: Stackyard, ground: Ground) -> None:
    shutil.rmtree(ground.root / ".git")
    ground.settings = {"release": {"remote": "x"}}
    assert told(stackyard) == []


def test_the_remote(stackyard: Stackyard, ground: Ground) -> None:
    ground.set(release={"branch": "stable"})
    assert told(stackyard) == [("release", "origin has no branch 'stable'")]
    ground.set(release={"remote": "upstream"})
    assert told(stackyard) == [("release", "git knows no remote 'upstream' here")]
    assert told(stackyard, "--offline") == []
    ground.set(release={"prefix": "a b"})
    assert told(stackyard) == [("release", "no tag of git can begin with 'a b'")]
    ground.set(release={"stacks": ["tyni"]})
    text = "release.stacks names 'tyni', which is no stack"
    assert told(stackyard, code=2) == [("release", text)]


def test_nobody_to_make_the_tag(
    stackyard: Stackyard, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in IDENTITY if name.endswith(("_NAME", "_EMAIL"))]:
        monkeypatch.delenv(name)
    git(ground.root, "config", "user.useConfigOnly", "true")
    assert told(stackyard, "--offline") == [("release", "git does not know who makes the tag")]


def test_the_image(stackyard: Stackyard, ground: Ground) -> None:
    ground.set(image={"base": "debian:12"})
    assert [text for _, text in told(stackyard, "--offline")] == [
        "image.base debian:12 has no digest",
        "nobody can see whether the image was published",
    ]
    ground.stack("zweiter")
    ground.set(image={"base": BASE, "repository": "example.com/a"})
    text = "its image goes where that of tiny goes: example.com/a"
    assert told(stackyard, "--offline") == [("zweiter: release", text)]
    ground.set(image={"base": BASE, "repository": "example.com/a:1"})
    assert len(told(stackyard, "--offline", code=2)) == 2


def test_the_keys(stackyard: Stackyard, signed: Ground) -> None:
    assert told(stackyard, "--offline") == []
    shutil.rmtree(signed.root / "stacks/tiny/keys")
    text = "there are no public keys to check signatures with"
    assert told(stackyard, "--offline") == [("tiny: release", text)]


def test_no_token(stackyard: Stackyard, ground: Ground) -> None:
    ground.set(gitlab={"project": "group/project"})
    assert [text for _, text in told(stackyard, "--offline")] == [
        "asks GitLab without a token whether the pipeline succeeded"
    ]
