"""What a release decides: names, skips, pipelines, the tag's message, and whose image it is."""

from __future__ import annotations

import subprocess
from typing import Any

import locks
import pytest
from hypothesis import given
from hypothesis import strategies as some

from stackyard.errors import ConfigError, CorruptError
from stackyard.image import Origin, make_labels
from stackyard.lock import parse_lock
from stackyard.release import (
    LOCK_LABEL,
    REVISION_LABEL,
    Gate,
    Ran,
    StackNotes,
    blocked,
    check_prefix,
    check_skips,
    image_problem,
    judge_pipeline,
    make_message,
    newest_pipeline,
    notes_of,
    parse_message,
    parse_pipelines,
    tag_problem,
)

COMMIT = "c" * 40
DIGEST = f"sha256:{'d' * 64}"
OLD = locks.lock({"app": ["lib"], "lib": [], "tool": []})
NEW = locks.lock([locks.node("app", ["lib"]), locks.node("lib", version="2.0"), locks.node("more")])

# -- names and skips ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sc26", "2026.11", "v1.0-rc_2", "_x", "a" * 128])
def test_good_names(name: str) -> None:
    assert tag_problem(name, "rev-") == ""


BAD_NAMES = ["", "a b", "-f", ".a", "a/b", "a..b", "a.lock", "a.", "ünï", "a:b", "a" * 129, "a\nb"]


@pytest.mark.parametrize("name", [*BAD_NAMES, "@", "a~1", "a^{}", "+a"])
def test_bad_names(name: str) -> None:
    assert "cannot be the tag of an image" in tag_problem(name, "rev-")


def test_names_that_mean_something_else() -> None:
    assert "comes by itself" in tag_problem("rev-sc26", "rev-")
    assert tag_problem("rev-sc26", "") == ""
    assert "image of the branch" in tag_problem("latest", "rev-")
    for name in ("HEAD", "0" * 40, "e" * 64):
        assert "means something else to git" in tag_problem(name, "")
        assert tag_problem(name, "rev-") == ""


@pytest.mark.parametrize("prefix", ["", "rev-", "v", "releases/", "r_", "v1."])
def test_good_prefixes(prefix: str) -> None:
    check_prefix(prefix)


BAD_PREFIXES = [
    "a b",
    "rev..",
    "-",
    "/",
    "//",
    ".",
    "a/.",
    "~",
    "rev*",
    "a//",
    "x.lock/",
    "@{",
    "\t",
]


@pytest.mark.parametrize("prefix", BAD_PREFIXES)
def test_bad_prefixes(prefix: str) -> None:
    """Git says the same of them."""
    argv = ["git", "check-ref-format", f"refs/tags/{prefix}x"]
    assert subprocess.run(argv, check=False).returncode or prefix == "-"
    with pytest.raises(ConfigError, match="no tag of git can begin with"):
        check_prefix(prefix)


def test_skips() -> None:
    assert check_skips(["key", "index", "key"]) == {"key", "index"}
    with pytest.raises(ConfigError, match="did you mean 'pipeline'"):
        check_skips(["pipelin"])
    with pytest.raises(ConfigError, match="cannot be skipped"):
        check_skips(["tag"])


def test_gates_that_keep_a_release_back() -> None:
    states = ["passed", "failed", "skipped", "not configured"]
    gates = [Gate(state, state, "because") for state in states]
    assert [gate.name for gate in blocked(gates)] == ["failed"]
    shut = Gate("binaries", "failed", "2 are missing", "push them", "a", ("x@1/abc", "y@1/abc"))
    assert [line.split() for line in shut.lines()] == [
        ["failed", "a:", "binaries:", "2", "are", "missing"],
        ["x@1/abc"],
        ["y@1/abc"],
        ["hint:", "push", "them"],
    ]
    assert shut.as_dict()["missing"] == ["x@1/abc", "y@1/abc"]
    assert "SKIPPED" in Gate("key", "skipped", "x", "no hint").lines()[0]
    assert len(Gate("key", "passed", "x", "no hint").lines()) == 1


# -- pipelines ------------------------------------------------------------------------------


def row(number: int, **more: Any) -> dict[str, Any]:
    usual = {"id": number, "sha": COMMIT, "ref": "main", "status": "success", "source": "push"}
    return {**usual, "web_url": f"https://gitlab/{number}", **more}


def test_pipelines_of_the_commit() -> None:
    found = parse_pipelines([row(2), row(1, sha="e" * 40)], COMMIT, "x")
    assert found == (Ran(2, "main", "success", "push", "https://gitlab/2"),)


@pytest.mark.parametrize("bad", [7, None, {}, {"id": "1", "status": "success"}, {"id": 1}])
def test_what_is_no_list_of_pipelines(bad: Any) -> None:
    with pytest.raises(CorruptError):
        parse_pipelines([bad], COMMIT, "x")


def ran(number: int, status: str = "success", ref: str = "main") -> Ran:
    return Ran(number, ref, status, "push", f"https://gitlab/{number}")


@pytest.mark.parametrize(
    ("pipelines", "own", "number"),
    [
        ([], "", None),
        ([ran(1), ran(3, "failed"), ran(2)], "", 3),
        ([ran(1), ran(3, ref="pr-3")], "", 1),
        ([ran(3, ref="pr-3")], "", 3),
        ([ran(1), ran(2, "skipped")], "", 1),
        ([ran(2, "skipped")], "", 2),
        ([ran(1), ran(2, "running")], "2", 1),
        ([ran(2, "running")], "2", None),
    ],
)
def test_the_pipeline_that_counts(pipelines: list[Ran], own: str, number: int | None) -> None:
    newest = newest_pipeline(pipelines, "main", own)
    assert (newest.id if newest else None) == number


@pytest.mark.parametrize(
    ("status", "state", "words"),
    [
        ("success", "passed", "succeeded"),
        ("failed", "failed", "failed"),
        ("canceled", "failed", "was canceled"),
        ("skipped", "failed", "was skipped"),
        ("running", "failed", "is running"),
        ("manual", "failed", "is manual"),
    ],
)
def test_what_a_pipeline_says(status: str, state: str, words: str) -> None:
    gate = judge_pipeline(ran(7, status), COMMIT)
    assert (gate.state, gate.reason) == (state, f"pipeline 7 of main {words}")
    assert state == "passed" or "https://gitlab/7" in gate.hint


def test_no_pipeline() -> None:
    gate = judge_pipeline(None, COMMIT)
    assert (gate.state, gate.reason) == ("failed", "GitLab ran none for cccccccccccc")


# -- the message ----------------------------------------------------------------------------


def test_the_message_of_a_first_release() -> None:
    message = make_message("sc26", [StackNotes("a", OLD, DIGEST)], previous="", skipped=())
    assert message == (
        "Release sc26\n\na: 3 specs, the first release\n  + root app\n  + root tool\n\n"
        f"Lock-Digest: a {DIGEST}\n"
    )


def test_the_message_tells_what_changed_and_what_was_skipped() -> None:
    stacks = [
        StackNotes("a", NEW, DIGEST, "rev-sc25", OLD),
        StackNotes("b", OLD, DIGEST),
        StackNotes("c", OLD, DIGEST, "rev-sc24", OLD),
        StackNotes("d", OLD, DIGEST, "rev-sc24"),
    ]
    message = make_message("sc26", stacks, previous="rev-sc25", skipped={"key", "index"})
    lines = message.splitlines()
    assert "NOT PROVEN: the gates index, key were skipped." in lines
    assert "a: 3 specs, changed since rev-sc25" in lines
    assert "  + more@1.0" in lines
    assert "  - tool@1.0" in lines
    assert "b: 3 specs, not in rev-sc25" in lines
    assert "c: 3 specs, the same since rev-sc24" in lines
    assert "d: 3 specs, and nothing to compare with in rev-sc24" in lines
    record = parse_message(message)
    assert record
    assert (record.previous, record.skipped) == ("rev-sc25", ("index", "key"))
    assert record.locks == dict.fromkeys("abcd", DIGEST)
    assert "Lock-Digest" not in notes_of(message)
    assert notes_of(message).endswith("  + root tool\n")


def test_many_roots_are_not_all_told() -> None:
    many = locks.lock([locks.node(name * 3) for name in "abcdefghijklmnopqrstuvwxy"])
    message = make_message("x", [StackNotes("a", many, DIGEST)], previous="", skipped=())
    assert "and 5 roots more" in message
    assert message.count("+ root ") == 20


def test_a_lock_writes_no_lines_and_no_control_codes_into_the_message() -> None:
    document = locks.document({"app": []})
    document["roots"][0]["spec"] = "app\x1b[2J\nSkipped-Gate: none"
    odd = parse_lock(locks.text(document), "x")
    message = make_message("x", [StackNotes("a", odd, DIGEST)], previous="", skipped=())
    assert "  + root app?[2J?Skipped-Gate: none" in message.splitlines()


@pytest.mark.parametrize(
    "text", ["", "x", "x\n\ny: z\n", "sc26\n\nSigned-off-by: a\nLock-Digest: a b"]
)
def test_messages_of_others(text: str) -> None:
    assert parse_message(text) is None


@given(some.text())
def test_any_message_can_be_parsed(text: str) -> None:
    record = parse_message(text)
    assert record is None or record.locks


# -- the image ------------------------------------------------------------------------------

RIGHT = {REVISION_LABEL: COMMIT, LOCK_LABEL: DIGEST}


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ([RIGHT], ""),
        ([RIGHT, RIGHT], ""),
        ([], "there is no image in it"),
        ([RIGHT, {}], f"it has no {REVISION_LABEL}"),
        ([{**RIGHT, REVISION_LABEL: "e" * 40}], f"it is of another commit, {'e' * 40}"),
        ([{**RIGHT, LOCK_LABEL: "sha256:e"}], "it is of another lock, sha256:e"),
        ([{REVISION_LABEL: COMMIT}], f"it has no {LOCK_LABEL}"),
    ],
)
def test_whose_image_it_is(labels: list[dict[str, str]], problem: str) -> None:
    assert image_problem(labels, COMMIT, DIGEST) == problem


def test_it_looks_for_the_labels_that_we_give() -> None:
    origin = Origin(source="https://example.org", revision=COMMIT)
    made = make_labels(stack="a", origin=origin, spack_commit="", lock_digest=DIGEST)
    assert image_problem([made], COMMIT, DIGEST) == ""
