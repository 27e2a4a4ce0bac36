"""Versions against a table that real Spack 1.1.0 wrote, and what no table can show."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from stackyard.errors import SpecError
from stackyard.version import ANY, parse_version, parse_versions, satisfies, version_key

TABLE: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "match-table" / "versions-1.1.json").read_text()
)
VERSIONS: list[str] = TABLE["versions"]
ACCEPTED = list(TABLE["truth"])


def test_the_table_is_not_empty() -> None:
    assert len(VERSIONS) > 50
    assert len(ACCEPTED) > 60


@pytest.mark.parametrize("constraint", ACCEPTED)
def test_satisfies_like_spack(constraint: str) -> None:
    answers = zip(VERSIONS, TABLE["truth"][constraint], strict=True)
    wrong = [
        (version, answer)
        for version, answer in answers
        if answer != "x" and satisfies(version, constraint) is not (answer == "1")
    ]
    assert wrong == []


def test_order_like_spack() -> None:
    plain = [version for version in VERSIONS if "=" not in version]
    groups = groupby(sorted(plain, key=version_key), key=version_key)
    assert [list(group) for _, group in groups] == TABLE["order"]


@pytest.mark.parametrize("text", ACCEPTED)
def test_canonical_text_like_spack(text: str) -> None:
    assert str(parse_versions(text)) == TABLE["lists"][text]
    assert parse_versions(str(parse_versions(text))) == parse_versions(text)


@pytest.mark.parametrize("text", ACCEPTED)
def test_includes_like_spack(text: str) -> None:
    mine = parse_versions(text)
    answers = zip(ACCEPTED, TABLE["subset"][text], strict=True)
    wrong = [
        other
        for other, answer in answers
        if answer != "x" and parse_versions(other).includes(mine) is not (answer == "1")
    ]
    assert wrong == []


@pytest.mark.parametrize("text", [text for text in ACCEPTED if text != "head:trunk"])
def test_meet_like_spack(text: str) -> None:
    """Left out: head:trunk, a range without a member, which Spack says to overlap with others."""
    mine = parse_versions(text)
    for other, answer in zip(ACCEPTED, TABLE["meet"][text], strict=True):
        if answer == "x" or other == "head:trunk":
            continue
        both = mine.meet(parse_versions(other))
        assert (both is not None) is (answer == "1"), other
        for version in VERSIONS if both else ():
            expected = satisfies(version, mine) and satisfies(version, other)
            assert both is None or satisfies(version, both) is expected, (other, version)


@pytest.mark.parametrize(
    ("version", "constraint", "expected"),
    [
        ("git.main", ":", True),
        ("git.main", "git.main", True),
        ("git.main", "git.other", False),
        ("git.main", "1:", False),
        ("git.main", "=main", False),
        ("git.main=1.2", "git.main", True),
        ("git.main", "git.main=1.2", True),
        ("0" * 40, "git." + "0" * 40, True),
    ],
)
def test_a_ref_without_version_is_only_itself(
    version: str, constraint: str, *, expected: bool
) -> None:
    assert satisfies(version, constraint) is expected


@pytest.mark.parametrize("text", ["1:2:3", "=1:2", "1.2&", "git.a=b=c", "git.=1", "3:1", "é"])
def test_refused(text: str) -> None:
    with pytest.raises(SpecError) as raised:
        parse_versions(text)
    assert raised.value.code == 2


def test_a_number_without_end_is_refused() -> None:
    with pytest.raises(SpecError, match="digits"):
        version_key("1" * 5000)


def test_separators_do_not_count() -> None:
    assert parse_version("1.2-3") == parse_version("1_2.3")
    assert len({parse_versions("1.2:"), parse_versions("1-2:")}) == 1


def test_any() -> None:
    assert parse_versions(":") == ANY
    assert parse_versions("1:,:2") == ANY
