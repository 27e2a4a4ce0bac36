"""What changed between two locks, as people and programs are told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from locks import EXTERNAL, document, node, text

from stackyard.lock import Lock, parse_lock
from stackyard.lockdiff import diff_locks, shown_diff


def key(name: str, number: int = 0) -> str:
    """A hash that tells its name; another for each number."""
    return (name.replace("-", "") * 32)[:30] + "ab"[number // 26] + chr(ord("a") + number % 26)


def make(*nodes: dict[str, Any], roots: Sequence[tuple[str, str]] = ()) -> Lock:
    """A lock of these nodes; ``roots`` are texts and hashes, else the first node alone."""
    made = document(list(nodes))
    first = [(nodes[0]["name"], nodes[0]["hash"])]
    made["roots"] = [{"spec": spec, "hash": dag} for spec, dag in roots or first]
    return parse_lock(text(made), "spack.lock")


def one(
    name: str, number: int = 0, needs: Sequence[dict[str, Any]] = (), **fields: Any
) -> dict[str, Any]:
    """A node whose hash the number tells; needs of other names than "c" are linked."""
    dependencies = [
        {
            "name": need["name"],
            "hash": need["hash"],
            "parameters": (
                {"deptypes": ["build"], "virtuals": ["c"]}
                if need["name"] in ("gcc", "llvm")
                else {"deptypes": ["build", "link"], "virtuals": []}
            ),
        }
        for need in needs
    ]
    return node(name, hash=key(name, number), dependencies=dependencies, **fields)


def lines(old: Lock, new: Lock) -> list[str]:
    return list(shown_diff(diff_locks(old, new)))


BASE = one("base")
LIB = one("lib", needs=[BASE])
APP = one("app", needs=[LIB])
OLD = make(APP, LIB, BASE)
ARCH: Mapping[str, str] = BASE["arch"]
GCC12, GCC13 = (one("gcc", n, version=f"{n}.1", **EXTERNAL) for n in (12, 13))


def test_the_same() -> None:
    diff = diff_locks(OLD, OLD)
    assert not diff
    assert shown_diff(diff) == ("= 3 unchanged",)


def test_a_changed_leaf_and_all_above_it() -> None:
    base = one("base", 1, version="2.0")
    lib = one("lib", 1, [base])
    app = one("app", 1, [lib])
    new = make(app, lib, base)
    assert lines(OLD, new) == [
        "~ base: version 1.0 -> 2.0",
        "# only by hash, because of base: lib@1.0, app@1.0",
        "= 0 unchanged",
    ]
    assert diff_locks(OLD, new).as_dict() == {
        "added": [],
        "removed": [],
        "changed": [
            {
                "name": "base",
                "hash": [key("base"), key("base", 1)],
                "changes": {"version": ["1.0", "2.0"]},
            }
        ],
        "rehashed": [
            {
                "name": "lib",
                "version": "1.0",
                "hash": [key("lib"), key("lib", 1)],
                "because": ["base"],
            },
            {
                "name": "app",
                "version": "1.0",
                "hash": [key("app"), key("app", 1)],
                "because": ["base"],
            },
        ],
        "unchanged": 0,
        "roots": {"added": [], "removed": []},
    }


FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "version": ({}, {"version": "2"}, "~ x: version 1.0 -> 2"),
    "variant on": (
        {"parameters": {"shared": False}}, {"parameters": {"shared": True}},
        "~ x@1.0: ~shared -> +shared",
    ),
    "variant with a value": (
        {"parameters": {"std": "17"}}, {"parameters": {"std": "20"}}, "~ x@1.0: std=17 -> std=20",
    ),
    "variant with values": (
        {"parameters": {"langs": ["c", "cxx"]}}, {"parameters": {"langs": ["c"]}},
        "~ x@1.0: langs=c,cxx -> langs=c",
    ),
    "a new variant": (
        {"parameters": {}}, {"parameters": {"pic": True}}, "~ x@1.0: no pic -> +pic",
    ),
    "flags": (
        {"parameters": {"cflags": []}}, {"parameters": {"cflags": ["-O3", "-g"]}},
        "~ x@1.0: cflags=none -> cflags=-O3,-g",
    ),
    "target": (
        {}, {"arch": {**ARCH, "target": "zen4"}}, "~ x@1.0: target x86_64_v3 -> zen4",
    ),
    "system": (
        {}, {"arch": {**ARCH, "platform_os": "rhel9"}}, "~ x@1.0: os debian12 -> rhel9",
    ),
    "namespace": ({}, {"namespace": "mine"}, "~ x@1.0: namespace builtin -> mine"),
    "recipe": ({"package_hash": "a"}, {"package_hash": "b"}, "~ x@1.0: its recipe"),
    "external": ({}, EXTERNAL, "~ x@1.0: external none -> /usr"),
    "module": (
        {}, {"external": {"path": None, "module": ["a", "b"]}}, "~ x@1.0: external none -> a,b",
    ),
    "old compiler": (
        {"compiler": {"name": "gcc", "version": "12"}, "annotations": {"original_specfile_version": 4}},
        {"compiler": {"name": "gcc", "version": "13"}, "annotations": {"original_specfile_version": 4}},
        "~ x@1.0: compiler gcc@12 -> gcc@13",
    ),
    "format": (
        {"annotations": {"original_specfile_version": 4}}, {}, "~ x@1.0: format 4 -> 5",
    ),
    "a key of tomorrow": ({}, {"patches": ["p"]}, "~ x@1.0: patches none -> p"),
    "nothing that has a name": ({}, {}, "~ x@1.0: only its hash"),
    "several": (
        {"parameters": {"a": True, "b": "1"}},
        {"version": "2", "parameters": {"a": False, "b": "1"}, "namespace": "m"},
        "~ x: version 1.0 -> 2; +a -> ~a; namespace builtin -> m",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FIELDS)
def test_fields(case: str) -> None:
    before, after, line = FIELDS[case]
    assert lines(make(one("x", **before)), make(one("x", 1, **after))) == [line, "= 0 unchanged"]


def test_another_compiler() -> None:
    """A version of it, for all that it builds; not a word of what stayed."""
    old, new = (
        make(one("app", n, [one("lib", n, [gcc]), gcc]), one("lib", n, [gcc]), gcc)
        for n, gcc in ((0, GCC12), (1, GCC13))
    )
    assert lines(old, new) == [
        "~ gcc: version 12.1 -> 13.1",
        "~ lib@1.0: compiler gcc@12.1 -> gcc@13.1",
        "~ app@1.0: compiler gcc@12.1 -> gcc@13.1",
        "= 0 unchanged",
    ]
    clang = one("llvm", version="18.1")
    assert lines(make(one("x", 0, [GCC12]), GCC12), make(one("x", 1, [clang]), clang)) == [
        "+ llvm@18.1",
        "- gcc@12.1",
        "~ x@1.0: compiler gcc@12.1 -> llvm@18.1; needs llvm, no longer needs gcc",
        "= 0 unchanged",
    ]


def test_added_and_removed() -> None:
    extra = one("extra")
    app = one("app", 1, [LIB, extra])
    assert lines(OLD, make(app, LIB, BASE, extra)) == [
        "+ extra@1.0",
        "~ app@1.0: needs extra",
        "= 2 unchanged",
    ]
    assert lines(make(app, LIB, BASE, extra), OLD) == [
        "- extra@1.0",
        "~ app@1.0: no longer needs extra",
        "= 2 unchanged",
    ]


def test_another_way_to_need() -> None:
    app = one("app", 1, [LIB])
    app["dependencies"][0]["parameters"]["deptypes"] = ["run"]
    assert lines(OLD, make(app, LIB, BASE))[0] == "~ app@1.0: needs the same in another way"


def test_roots() -> None:
    old = make(APP, LIB, BASE, roots=[("app@1:", APP["hash"])])
    new = make(APP, LIB, BASE, roots=[("app@:1", APP["hash"]), ("lib", LIB["hash"])])
    assert lines(old, new) == ["+ root app@:1", "+ root lib", "- root app@1:", "= 3 unchanged"]
    assert diff_locks(old, new).as_dict()["roots"] == {
        "added": ["app@:1", "lib"],
        "removed": ["app@1:"],
    }


def test_two_of_a_name_are_told_apart_by_their_version() -> None:
    old = make(
        one("app", 0, [one("z", 0, version="1"), one("z", 1, version="2")]),
        one("z", 0, version="1"), one("z", 1, version="2"),
    )  # fmt: skip
    new = make(
        one("app", 1, [one("z", 2, version="2"), one("z", 3, version="1")]),
        one("z", 2, version="2", parameters={"pic": True}), one("z", 3, version="1", namespace="m"),
    )  # fmt: skip
    assert sorted(lines(old, new)) == [
        "# only by hash, because of z: app@1.0",
        "= 0 unchanged",
        "~ z@1: namespace builtin -> m",
        "~ z@2: build_system=generic -> no build_system; no pic -> +pic",
    ]


def test_two_of_a_name_are_told_apart_by_who_asked() -> None:
    """A root keeps its text when its version changes, and the other one its."""
    old = make(one("z", 0, version="1"), one("z", 1, version="2"),
               roots=[("z@:1", key("z", 0)), ("z", key("z", 1))])  # fmt: skip
    new = make(one("z", 2, version="1.5"), one("z", 3, version="1"),
               roots=[("z", key("z", 3)), ("z@:1", key("z", 2))])  # fmt: skip
    assert sorted(lines(old, new)) == [
        "= 0 unchanged",
        "~ z: version 1 -> 1.5",
        "~ z: version 2 -> 1",
    ]


def test_one_more_of_a_name() -> None:
    z, same = one("z", 1, version="2"), one("z", 0, version="1")
    app = one("app", 1, [one("z", 0, version="1"), z])
    old = make(one("app", 0, [same]), same)
    assert lines(old, make(app, same, z)) == [
        "+ z@2",
        "~ app@1.0: needs the same in another way",
        "= 1 unchanged",
    ]


def test_another_of_a_name_that_was_there_before() -> None:
    """One takes the other z now: nothing new is built but app."""
    first, second = one("z", 0, version="1"), one("z", 1, version="2")
    other = one("other", 0, [second])
    old = make(one("app", 0, [first]), other, first, second)
    new = make(one("app", 1, [second]), other, first, second)
    assert lines(old, new) == ["# only by hash, because of z: app@1.0", "= 3 unchanged"]


def test_several_causes_and_many_specs() -> None:
    names = [f"p-{letter}" for letter in "abcdefghij"]
    old = make(*(one(name, 0, [LIB, BASE]) for name in names), LIB, BASE)
    base, lib = one("base", 1, version="2"), one("lib", 1, [BASE], version="2")
    lib["dependencies"][0]["hash"] = base["hash"]
    new = make(*(one(name, 1, [lib, base]) for name in names), lib, base)
    assert lines(old, new) == [
        "~ base: version 1.0 -> 2",
        "~ lib: version 1.0 -> 2",
        "# only by hash, because of base, lib: "
        + ", ".join(f"p-{letter}@1.0" for letter in "abcdefgh")
        + " and 2 more",
        "= 0 unchanged",
    ]


def test_a_long_chain() -> None:
    """Deeper than Python calls."""

    def chain(number: int) -> Lock:
        below = one("leaf", number, version=str(number))
        nodes = [below]
        for step in range(3000):
            below = one(f"s{step}x", number, [below])
            below["hash"] = below["hash"][:20].translate(_DIGITS) + _letters(step) + "ab"[number]
            nodes.append(below)
        return make(*reversed(nodes))

    diff = diff_locks(chain(0), chain(1))
    assert len(diff.rehashed) == 3000
    assert {one.causes for one in diff.rehashed} == {("leaf",)}


_DIGITS = str.maketrans("0123456789", "abcdefghij")


def _letters(number: int) -> str:
    return "".join(chr(ord("a") + number // 26**power % 26) for power in range(11))


def test_all_of_it_is_json() -> None:
    new = make(one("app", 1, [GCC13], parameters={"a": ["b"]}), GCC13)
    whole = diff_locks(OLD, new).as_dict()
    assert json.loads(json.dumps(whole)) == whole


def test_real_locks(tutorial_lock: Lock, small_lock: Lock) -> None:
    """Every spec is in exactly one group, whichever way round."""
    for old, new in ((small_lock, tutorial_lock), (tutorial_lock, small_lock)):
        diff = diff_locks(old, new)
        groups = [
            *(spec.hash for spec in diff.added),
            *(change.new.hash for change in (*diff.changed, *diff.rehashed)),
        ]
        assert len(groups) == len(set(groups)) == len(new.specs) - diff.same
        left = [
            *(spec.hash for spec in diff.removed),
            *(change.old.hash for change in (*diff.changed, *diff.rehashed)),
        ]
        assert len(left) == len(set(left)) == len(old.specs) - diff.same
        assert all(change.fields for change in diff.changed)
        assert all(change.causes for change in diff.rehashed)
