"""What ``build`` decides and shows: no disk, no Spack."""

from __future__ import annotations

import json
from typing import Any

import locks
import pytest

from stackyard.building import (
    Outcome,
    Result,
    borrowed,
    build_levels,
    building_json,
    building_manifest,
    building_table,
    chosen_specs,
    failed_need,
    log_name,
    telling_lines,
    totals_text,
)
from stackyard.document import parse_yaml
from stackyard.errors import SpecError
from stackyard.lock import Lock, parse_lock
from stackyard.mirror import Found, Inventory
from stackyard.plan import Plan, make_plan
from stackyard.spec import parse_pattern

DIAMOND = {"top": ["left", "right"], "left": ["base"], "right": ["base"], "base": []}


def lock_of(nodes: Any) -> Lock:
    return parse_lock(locks.text(locks.document(nodes)), "spack.lock")


def plan_of(nodes: Any, there: tuple[str, ...] = ()) -> Plan:
    lock = lock_of(nodes)
    found = {locks.key(name): Found(layout=3, via="index", signed=None) for name in there}
    inventory = Inventory(mirror="release", url="file:///release", found=found)
    roots = [root.hash for root in lock.roots]
    return make_plan(lock, roots, inventories=[inventory])


def keys(*names: str) -> tuple[str, ...]:
    return tuple(locks.key(name) for name in names)


def edge(name: str, *types: str) -> dict[str, Any]:
    parameters = {"deptypes": list(types), "virtuals": []}
    return {"name": name, "hash": locks.key(name), "parameters": parameters}


def test_levels_wait_for_those_before() -> None:
    levels = build_levels(plan_of(DIAMOND))
    assert [set(level) for level in levels] == [
        set(keys("base")),
        set(keys("left", "right")),
        set(keys("top")),
    ]


def test_levels_leave_out_what_is_there() -> None:
    levels = build_levels(plan_of(DIAMOND, ("left", "base")))
    assert levels == (keys("right"), keys("top"))
    assert build_levels(plan_of(DIAMOND, tuple(DIAMOND))) == ()


def test_only_what_a_build_needs_is_borrowed() -> None:
    """To build: all kinds of dependencies. To run what is borrowed: those that it runs with."""
    nodes = [
        locks.node("app", dependencies=[edge("tool", "build"), edge("lib", "link")]),
        locks.node("tool", dependencies=[edge("engine", "run"), edge("generator", "build")]),
        locks.node("lib", dependencies=[edge("system", "link"), edge("checker", "test")]),
        locks.node("other", dependencies=[edge("lib", "link"), edge("generator", "run")]),
        *(locks.node(name, dependencies=[]) for name in ("engine", "generator", "checker")),
        locks.node("system", dependencies=[], **locks.EXTERNAL),
    ]
    plan = plan_of(nodes, ("tool", "lib", "engine", "generator", "checker", "other"))
    assert [spec.name for spec in plan.builds] == ["app"]
    found = borrowed(plan, keys("app"))
    assert set(found) == set(keys("tool", "lib", "engine"))
    assert found.index(locks.key("engine")) < found.index(locks.key("tool"))
    assert borrowed(plan, ()) == ()


def test_what_is_built_is_not_borrowed() -> None:
    plan = plan_of(DIAMOND, ("base",))
    assert borrowed(plan, keys("left", "right", "top")) == keys("base")


def test_who_is_to_blame() -> None:
    lock = lock_of(DIAMOND)
    specs = {name: lock.specs[locks.key(name)] for name in DIAMOND}
    failed: dict[str, str] = {}
    assert failed_need(specs["left"], failed) == ""
    failed[locks.key("base")] = locks.key("base")
    failed[locks.key("left")] = failed_need(specs["left"], failed)
    assert failed_need(specs["top"], failed) == locks.key("base")


def test_choosing() -> None:
    lock = lock_of(DIAMOND)

    def choose(*texts: str) -> tuple[str, ...]:
        patterns = [parse_pattern(text, "--only") for text in texts]
        return chosen_specs(lock, lock.specs.keys(), patterns, texts)

    assert choose("left") == keys("left")
    assert set(choose("top@1:", "base")) == set(keys("base", "top"))
    assert set(choose("target=x86_64_v3")) == set(lock.specs)
    with pytest.raises(SpecError, match="'rihgt' holds for no spec") as error:
        choose("left", "rihgt")
    assert "right" in error.value.hint
    assert error.value.where == "--only"


MANIFEST = """
spack:
  specs: [zlib]
  view: {default: {root: views}}
  packages:: {all: {require: target=x86_64}}
  mirrors: {release: s3://b}
"""


def manifest(config: str = "", *, alone: bool = False) -> dict[str, Any]:
    text = building_manifest(
        MANIFEST + config, "spack.yaml", tree="/t", mirrors={"m": {"url": "u"}}, alone=alone
    )
    made: dict[str, Any] = parse_yaml(text, "made")["spack"]
    return made


def test_the_manifest_to_build_with() -> None:
    made = manifest()
    assert made == {
        "specs": ["zlib"],
        "packages:": {"all": {"require": "target=x86_64"}},
        "config": {"install_tree": {"root": "/t"}},
        "view": False,
        "mirrors": {"m": {"url": "u"}},
    }
    alone = manifest(alone=True)
    assert alone["mirrors:"] == {"m": {"url": "u"}}
    assert "mirrors" not in alone


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("install_tree: /opt", {"install_tree": {"root": "/t"}}),
        (
            "install_tree: {root: /opt, padded_length: 256}",
            {"install_tree": {"padded_length": 256, "root": "/t"}},
        ),
        (
            "install_tree:: {projections: {all: '{name}'}}",
            {"install_tree:": {"projections": {"all": "{name}"}, "root": "/t"}},
        ),
        ("build_jobs: 4", {"build_jobs": 4, "install_tree": {"root": "/t"}}),
    ],
    ids=["text", "padding", "override", "other"],
)
def test_only_the_root_of_the_tree_changes(config: str, expected: dict[str, Any]) -> None:
    assert manifest(f"  config: {{{config}}}\n")["config"] == expected


def test_no_config_at_all() -> None:
    assert manifest("  config:\n")["config"] == {"install_tree": {"root": "/t"}}


TABLE = """\
PACKAGE  VERSION  HASH     DECISION  SECONDS      SIZE  RESULT
left     1.0      leftlef  build        12.0    1.5 MB  built
right    1.0      rightri  build         0.3            failed: exit code 1
top      1.0      toptopt  build                        skipped: needs right\\x1b
base     1.0      basebas  reuse              900.0 kB  reused

4 specs: 1 built, 1 failed, 1 skipped, 1 reused; 1.5 MB sent"""


def outcomes() -> dict[str, Outcome]:
    return {
        locks.key("base"): Outcome(Result.REUSED, size_bytes=900_000),
        locks.key("left"): Outcome(Result.BUILT, 12.0, 1_500_000),
        locks.key("right"): Outcome(Result.FAILED, 0.34, why="exit code 1", log="/logs/right"),
        locks.key("top"): Outcome(Result.SKIPPED, why="needs right\x1b"),
    }


def test_the_table() -> None:
    table = building_table(plan_of(DIAMOND, ("base",)), outcomes())
    assert table == TABLE


def test_the_result_for_programs() -> None:
    plan = plan_of(DIAMOND, ("base",))
    made = json.loads(building_json(plan, outcomes(), "demo", "file:///m"))
    assert {k: v for k, v in made.items() if k not in ("specs", "totals")} == {
        "version": 1,
        "stack": "demo",
        "lock": "spack.lock",
        "mirror": "file:///m",
    }
    assert made["totals"] == {
        **dict.fromkeys(("pushed", "kept", "open", "external"), 0),
        **dict.fromkeys(("built", "failed", "skipped", "reused"), 1),
    }
    assert [one["name"] for one in made["specs"]] == ["left", "right", "top", "base"]
    assert made["specs"][1] == {
        "hash": locks.key("right"),
        "name": "right",
        "version": "1.0",
        "decision": "build",
        "reason": "on no mirror",
        "result": "failed",
        "why": "exit code 1",
        "seconds": 0.34,
        "size_bytes": None,
        "log": "/logs/right",
    }


def test_totals_count_no_bytes_twice() -> None:
    """What is reused was not pushed, and what is kept neither."""
    made = {
        "a": Outcome(Result.PUSHED, None, 1000),
        "b": Outcome(Result.KEPT, 3.0, 5000),
        "c": Outcome(Result.REUSED, None, 7000),
    }
    assert totals_text(made) == "3 specs: 1 pushed, 1 unpushed, 1 reused; 1.0 kB sent"
    assert totals_text({}) == "0 specs"


def test_lines_that_tell() -> None:
    noise = [f"line {n}" for n in range(100)]
    assert telling_lines(noise) == tuple(noise[-8:])
    said = [*noise, "==> Error: ProcessError: 2", "", "1 error found in build log:", "  >> 5  no"]
    assert telling_lines(said) == (
        "==> Error: ProcessError: 2",
        "1 error found in build log:",
        "  >> 5  no",
    )
    assert telling_lines(["", " "]) == ()


def test_a_log_is_named_for_its_package() -> None:
    (spec,) = lock_of([locks.node("a", dependencies=[], version="git.x/../y=1.0")]).specs.values()
    assert log_name(spec) == "a-git.x-..-y-1.0-aaaaaaa.txt"
