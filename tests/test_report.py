"""The plan for people and for programs."""

from __future__ import annotations

import json
from typing import Any

from conftest import Project, Stackyard
from locks import EXTERNAL, document, key, lock, node

from stackyard.lock import Lock
from stackyard.plan import Action, Plan, make_plan
from stackyard.report import plan_json, plan_table


class Found:
    via = "index"


class Mirror:
    mirror = "s3://cache"

    def __init__(self, *names: str) -> None:
        self.found = {key(name): Found() for name in names}


def sample() -> Plan:
    """Every kind of decision: app is built, lib is reused, odd is unaffected, cc is external."""
    made = lock(
        [
            node("app", version="2.10"),
            node("tool", dependencies=node("x", ["app", "lib"])["dependencies"]),
            node("lib"),
            node("odd"),
            node("cc", **EXTERNAL),
        ],
        roots=["tool", "odd", "cc"],
    )
    affected = set(map(key, ("app", "tool", "lib", "cc")))
    roots = [root.hash for root in made.roots]
    return make_plan(made, roots, inventories=[Mirror("lib")], affected=affected)


def test_table() -> None:
    assert plan_table(sample()) == (
        "PACKAGE  VERSION  HASH     DECISION    REASON\n"
        "app      2.10     appappa  build       on no mirror\n"
        "tool     1.0      tooltoo  build       on no mirror\n"
        "lib      1.0      liblibl  reuse       on s3://cache (index)\n"
        "odd      1.0      oddoddo  unaffected  unaffected by the change\n"
        "cc       1.0      ccccccc  external    found on the system at /usr\n"
        "\n"
        "5 specs: 2 build, 1 reuse, 1 unaffected, 1 external\n"
        "longest chain: 2 jobs (app > tool)"
    )


def test_json() -> None:
    made = json.loads(plan_json(sample(), "demo"))
    specs = {spec["name"]: spec for spec in made.pop("specs")}
    assert made == {
        "version": 1,
        "stack": "demo",
        "lock": "spack.lock",
        "totals": {"build": 2, "reuse": 1, "external": 1, "unaffected": 1},
        "chain": [key("app"), key("tool")],
        "warnings": [],
    }
    assert specs["app"] == {
        "hash": key("app"),
        "name": "app",
        "version": "2.10",
        "decision": "build",
        "reason": "on no mirror",
        "level": 0,
        "needs": [],
    }
    assert (specs["tool"]["level"], specs["tool"]["needs"]) == (1, [key("app")])
    assert specs["lib"] == {
        "hash": key("lib"),
        "name": "lib",
        "version": "1.0",
        "decision": "reuse",
        "reason": "on s3://cache (index)",
    }
    assert {specs[name]["decision"] for name in ("odd", "cc")} == {"unaffected", "external"}


def test_dependencies_first() -> None:
    order = [spec["name"] for spec in json.loads(plan_json(sample(), ""))["specs"]]
    assert order.index("app") < order.index("tool") > order.index("lib")


def test_empty_plan() -> None:
    made = make_plan(lock({"app": []}), [])
    assert plan_table(made) == "PACKAGE  VERSION  HASH  DECISION  REASON\n\n0 specs"
    assert json.loads(plan_json(made, "x"))["totals"] == {action.value: 0 for action in Action}


def test_long_chains_are_cut() -> None:
    names = [f"p{letter}" for letter in "abcdefghijklmn"]
    made = lock({name: names[i - 1 : i] if i else [] for i, name in enumerate(names)})
    last = plan_table(make_plan(made, [made.roots[0].hash])).splitlines()[-1]
    assert last == (
        "longest chain: 14 jobs (pa > pb > pc > pd > pe > ... > pj > pk > pl > pm > pn)"
    )


def test_the_tutorial(tutorial_lock: Lock) -> None:
    plan = make_plan(tutorial_lock, [root.hash for root in tutorial_lock.roots])
    lines = plan_table(plan).splitlines()
    assert len(lines) == 234 + 4
    assert lines[-2] == "234 specs: 231 build, 3 external"
    assert lines[231].split()[3] == "build"
    levels = [
        plan.graph.levels[spec["hash"]]
        for line in lines[1:232]
        for spec in [by_short(plan, line.split()[2])]
    ]
    assert levels == sorted(levels)


def by_short(plan: Plan, short: str) -> dict[str, str]:
    (found,) = [k for k in plan.graph.needs if k.startswith(short)]
    return {"hash": found}


def test_no_terminal_codes_from_a_lock(stackyard: Stackyard, project: Project) -> None:
    """A lock's text must not move the cursor, colour a line or make one up."""
    path = "/usr\x1b[2J\n5 specs: all fine\r\u202e\x9b"
    odd: dict[str, Any] = {"external": {"path": path, "module": None, "extra_attributes": {}}}
    project.stack(document([node("cc", **odd), node("app", ["cc"])], roots=["app"]))
    out = stackyard("plan", "--no-prune").out
    assert [c for c in out if not c.isprintable() and c != "\n"] == []
    assert len(out.splitlines()) == 6
    assert "/usr\\x1b[2J\\n5 specs: all fine\\r\\u202e\\x9b" in out
    made = json.loads(stackyard("plan", "--no-prune", "--json").out)
    assert made["specs"][0]["reason"] == f"found on the system at {path}"
