"""Spec lists: expansions that real Spack 1.1.0 made, errors, and roots of a lock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from stackyard.errors import SpecError, StackError
from stackyard.lock import Lock, Root
from stackyard.speclist import Entry, expand, surplus, unanswered

HERE = Path(__file__).parent
CASES: dict[str, Any] = json.loads((HERE / "data" / "match-table" / "lists-1.1.json").read_text())
TUTORIAL = HERE.parent / "stacks" / "tutorial" / "spack.yaml"


def _expand(text: str, *, when: bool = True) -> tuple[Entry, ...]:
    document = yaml.safe_load(text)
    document = document.get("spack", document)
    definitions = document.get("definitions", [])
    return expand(definitions, document["specs"], lambda _: when, "spack.yaml")


def _texts(text: str, *, when: bool = True) -> list[str]:
    return [str(entry.pattern) for entry in _expand(text, when=when)]


@pytest.mark.parametrize("name", [name for name in CASES if name != "about"])
def test_expands_like_spack(name: str) -> None:
    text = CASES[name]["yaml"] or TUTORIAL.read_text("utf-8")
    assert _texts(text) == [" ".join(spec.split()) for spec in CASES[name]["specs"]]


def test_the_tutorial_answers_its_manifest(tutorial_lock: Lock) -> None:
    entries = _expand(TUTORIAL.read_text("utf-8"))
    assert len(entries) == len(tutorial_lock.roots) == 29
    assert unanswered(tutorial_lock.roots, entries) == ()
    assert surplus(tutorial_lock.roots, entries) == ()


def test_a_spec_more_and_a_spec_less(tutorial_lock: Lock) -> None:
    text = TUTORIAL.read_text("utf-8").replace("- vim\n", "- emacs\n")
    entries = _expand(text)
    assert [str(entry) for entry in unanswered(tutorial_lock.roots, entries)] == ["emacs %gcc@11"]
    assert [root.spec for root in surplus(tutorial_lock.roots, entries)] == ["vim %gcc@11"]


@pytest.mark.parametrize(
    ("root", "spec"),
    [
        pytest.param("hdf5+mpi ^openmpi", "hdf5 +mpi^openmpi", id="meaning"),
        pytest.param("hdf5", "builtin.hdf5", id="namespace-is-not-printed"),
        pytest.param("hdf5 %clang", "hdf5 %llvm", id="alias"),
        pytest.param("k=v", "k='v'", id="quotes"),
        pytest.param("what is this?", "what is this?", id="same-text"),
    ],
)
def test_a_root_answers_by_text_or_meaning(root: str, spec: str) -> None:
    roots = (Root("a" * 32, root),)
    entries = (
        _expand(f"specs: [{json.dumps(spec)}]")
        if "?" not in spec
        else (Entry(spec, _expand("specs: [a]")[0].pattern),)
    )
    assert unanswered(roots, entries) == ()
    assert surplus(roots, entries) == ()


def test_a_root_that_cannot_be_parsed_is_surplus() -> None:
    roots = (Root("a" * 32, "hdf5 &"), Root("b" * 32, "zlib"))
    entries = _expand("specs: [zlib, bzip2]")
    assert surplus(roots, entries) == (roots[0],)
    assert [entry.text for entry in unanswered(roots, entries)] == ["bzip2"]


def test_text_of_a_plain_spec_is_as_written() -> None:
    assert _expand("specs: ['hdf5  +mpi']")[0].text == "hdf5  +mpi"


def test_definitions_join_where_the_name_is_first() -> None:
    text = "definitions: [{a: [b]}, {c: [$a, d]}, {a: [e]}]\nspecs: [$c]"
    assert _texts(text) == ["b", "e", "d"]


@pytest.mark.parametrize(("when", "expected"), [(True, ["b", "c"]), (False, ["b"])])
def test_when(*, when: bool, expected: list[str]) -> None:
    text = "definitions: [{a: [b]}, {a: [c], when: 'os == 1'}]\nspecs: [$a]"
    assert _texts(text, when=when) == expected


def test_the_condition_is_given_on_as_it_stands() -> None:
    asked: list[str] = []

    def evaluate(text: str) -> bool:
        asked.append(text)
        return True

    expand([{"a": ["b"], "when": "arch == 'x'"}], ["$a"], evaluate)
    assert asked == ["arch == 'x'"]


def test_a_sigil_on_a_matrix_reaches_its_other_uses() -> None:
    """As in Spack: a reference marks the matrix itself, not a copy."""
    text = "definitions: [{a: [{matrix: [[b], [+c]]}]}]\nspecs: [$a, {matrix: [[x], [$^a]]}]"
    assert _texts(text) == ["+c ^b", "x ^b+c"]


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        pytest.param("specs: [$a]", "spack.specs[0]", "not defined", id="undefined"),
        pytest.param(
            "definitions: [{a: [$b]}, {b: [c]}]\nspecs: [$a]",
            "spack.definitions[0].a[0]",
            r"\$b is not defined",
            id="defined-later",
        ),
        pytest.param(
            "specs: [{matrix: [[a]], include: [b]}]",
            "spack.specs[0].include",
            "no such key",
            id="key",
        ),
        pytest.param("specs: [{exclude: [b]}]", "spack.specs[0]", "missing", id="no-matrix"),
        pytest.param(
            "specs: [{matrix: []}]", "spack.specs[0].matrix", "without rows", id="no-rows"
        ),
        pytest.param("specs: [{matrix: [a]}]", "spack.specs[0].matrix[0]", "not a list", id="row"),
        pytest.param("specs: [~]", "spack.specs[0]", "neither a spec", id="null"),
        pytest.param("specs: [1]", "spack.specs[0]", "neither a spec", id="number"),
        pytest.param("specs: a", "spack.specs", "not a list", id="no-list"),
        pytest.param(
            "definitions: [{a: [b], c: [d]}]\nspecs: []",
            "spack.definitions[0]",
            "one name",
            id="two",
        ),
        pytest.param(
            "definitions: [{when: x}]\nspecs: []", "spack.definitions[0]", "one name", id="none"
        ),
        pytest.param(
            "definitions: [{a: b}]\nspecs: []", "spack.definitions[0].a", "not a list", id="value"
        ),
        pytest.param(
            "definitions: [{a: [b], when: 1}]\nspecs: []",
            "spack.definitions[0].when",
            "not a text",
            id="when",
        ),
        pytest.param(
            "specs: [{matrix: [[a]], exclude: [1]}]",
            "spack.specs[0].exclude[0]",
            "not a spec",
            id="exclude",
        ),
    ],
)
def test_errors_name_the_key(text: str, key: str, words: str) -> None:
    with pytest.raises(StackError, match=words) as raised:
        _expand(text)
    assert raised.value.where == f"spack.yaml: {key}"
    assert raised.value.code == 2


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        pytest.param("specs: ['a &']", "spack.yaml: spack.specs[0]", "unexpected", id="plain"),
        pytest.param(
            "specs: [{matrix: [[a], ['+']]}]",
            "spack.yaml: spack.specs[0].matrix[1][0]",
            "missing",
            id="row",
        ),
        pytest.param(
            "specs: [{matrix: [[a+b], [~b]]}]",
            "spack.yaml: spack.specs[0]",
            "contradicts",
            id="clash",
        ),
        pytest.param(
            "specs: [{matrix: [[a], [b]], exclude: [b]}]",
            "spack.yaml: spack.specs[0]",
            "conflicting names",
            id="names",
        ),
    ],
)
def test_specs_that_cannot_be(text: str, where: str, words: str) -> None:
    with pytest.raises(SpecError, match=words) as raised:
        _expand(text)
    assert raised.value.where == where


WIDE = "[{}]".format(", ".join(f"a{i}" for i in range(400)))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"specs: [{{matrix: [{WIDE}, {WIDE}]}}]", id="one-matrix"),
        pytest.param(
            "\n".join(
                ["definitions:", "- a0: [a]"]
                + [f"- a{i}: [$a{i - 1}, $a{i - 1}]" for i in range(1, 40)]
                + ["specs: [$a39]"]
            ),
            id="doubling",
        ),
        pytest.param(
            "\n".join(
                ["definitions:", "- a0: [a]"]
                + [f"- a{i}: [{{matrix: [[$a{i - 1}], ['']]}}]" for i in range(1, 2000)]
                + ["specs: [$a1999]"]
            ),
            id="deep-references",
        ),
        pytest.param(
            "specs: [" + "{matrix: [[" * 25 + "a" + "]]}" * 25 + "]",
            id="deep",
        ),
    ],
)
def test_too_much_is_refused(text: str) -> None:
    with pytest.raises(StackError, match="more than"):
        _expand(text)


def test_nothing_times_nothing_ends() -> None:
    text = "\n".join(
        ["definitions:", "- a0: [{matrix: [['']]}]"]
        + [f"- a{i}: [{{matrix: [[$a{i - 1}], [$a{i - 1}]]}}]" for i in range(1, 19)]
        + ["specs: [$a18]"]
    )
    assert [entry.pattern.is_any for entry in _expand(text)] == [True]
