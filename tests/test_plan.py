from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from locks import EXTERNAL, document, key, lock, node, text

from stackyard.errors import StackError
from stackyard.lock import Lock, parse_lock
from stackyard.plan import Action, Plan, affected_specs, changed_specs, make_graph, make_plan


@dataclass(frozen=True)
class Found:
    via: str = "index"


@dataclass(frozen=True)
class Inventory:
    mirror: str
    found: Mapping[str, Found]


def holding(name: str, *names: str, via: str = "index") -> Inventory:
    return Inventory(name, {key(one): Found(via) for one in names})


def plan_of(made: Lock, *inventories: Inventory, **options: object) -> Plan:
    return make_plan(made, [root.hash for root in made.roots], inventories=inventories, **options)  # type: ignore[arg-type]


def needs(plan: Plan) -> dict[str, set[str]]:
    names = {k: spec.name for k, spec in plan.lock.specs.items()}
    return {names[k]: {names[n] for n in wants} for k, wants in plan.graph.needs.items()}


def levels(plan: Plan) -> dict[str, int]:
    return {plan.lock.specs[k].name: level for k, level in plan.graph.levels.items()}


DIAMOND = {"app": ["left", "right"], "left": ["base"], "right": ["base"], "base": []}


def test_builds_everything_without_mirrors() -> None:
    plan = plan_of(lock(DIAMOND))
    assert {d.reason for d in plan.decisions.values()} == {"on no mirror"}
    assert needs(plan) == {
        "base": set(),
        "left": {"base"},
        "right": {"base"},
        "app": {"left", "right"},
    }
    assert levels(plan) == {"base": 0, "left": 1, "right": 1, "app": 2}


def test_needs_leave_out_what_another_need_implies() -> None:
    plan = plan_of(lock({"app": ["left", "base"], "left": ["base"], "base": []}))
    assert needs(plan)["app"] == {"left"}
    assert {plan.lock.specs[k].name for k in plan.graph.all_needs[key("app")]} == {"left", "base"}


def test_names_the_mirror_and_the_way() -> None:
    plan = plan_of(lock(DIAMOND), holding("site", "base"), holding("hub", "left", via="direct"))
    assert plan.decisions[key("base")].reason == "on site (index)"
    assert plan.decisions[key("left")].reason == "on hub (direct)"
    assert plan.decisions[key("left")].action is Action.REUSE


def test_rewires_needs_through_what_is_reused() -> None:
    plan = plan_of(lock(DIAMOND), holding("site", "left", "right"))
    assert needs(plan) == {"base": set(), "app": {"base"}}
    assert levels(plan) == {"base": 0, "app": 1}


def test_says_what_is_forced() -> None:
    plan = plan_of(lock(DIAMOND), holding("site", "base"), prune_up_to_date=False)
    assert plan.decisions[key("base")].action is Action.BUILD
    assert plan.decisions[key("base")].reason == "up to date on site, but forced"
    assert plan.decisions[key("app")].reason == "no pruning"


def test_nobody_builds_externals() -> None:
    made = lock([node("app", ["gcc"]), node("gcc", ["libc"], **EXTERNAL), node("libc")])
    plan = plan_of(made)
    assert plan.decisions[key("gcc")].action is Action.EXTERNAL
    assert plan.decisions[key("gcc")].reason == "found on the system at /usr"
    assert needs(plan) == {"libc": set(), "app": {"libc"}}


def test_an_external_may_be_a_module() -> None:
    module: dict[str, Any] = {
        "external": {"path": None, "module": ["gcc/12"], "extra_attributes": {}}
    }
    plan = plan_of(lock([node("app", ["gcc"]), node("gcc", **module)]))
    assert plan.decisions[key("gcc")].reason == "found on the system at gcc/12"


def test_plans_only_what_the_roots_reach() -> None:
    made = lock({**DIAMOND, "other": []}, roots=["app"])
    assert key("other") not in plan_of(made).decisions


def test_nothing_to_build_is_a_plan_too() -> None:
    plan = plan_of(lock({"app": []}), holding("site", "app"))
    assert plan.builds == ()
    assert plan.graph.chain() == ()


def test_prunes_what_the_change_does_not_reach() -> None:
    plan = plan_of(lock(DIAMOND), affected=frozenset({key("left"), key("app")}))
    assert plan.decisions[key("base")].action is Action.UNAFFECTED
    assert needs(plan) == {"left": set(), "app": {"left"}}


def test_refuses_broken_specs() -> None:
    with pytest.raises(StackError, match="left/leftle") as caught:
        plan_of(lock(DIAMOND), broken=frozenset({key("left")}))
    assert caught.value.where == "spack.ci.broken-specs-url"


def test_broken_specs_that_nobody_builds_are_no_trouble() -> None:
    plan = plan_of(lock(DIAMOND), holding("site", "left"), broken=frozenset({key("left")}))
    assert plan.warnings == ()


def test_broken_specs_only_warn_where_nothing_is_pruned() -> None:
    plan = plan_of(
        lock(DIAMOND), broken=frozenset({key("left")}), allow_broken=True, prune_up_to_date=False
    )
    assert "left/leftle" in plan.warnings[0]


def test_the_longest_chain() -> None:
    plan = plan_of(lock({"app": ["b", "d"], "b": ["c"], "c": [], "d": []}))
    assert [plan.lock.specs[k].name for k in plan.graph.chain()] == ["c", "b", "app"]


def test_the_tutorial_in_figures(tutorial_lock: Lock) -> None:
    plan = plan_of(tutorial_lock, prune_up_to_date=False)
    assert plan.count(Action.BUILD) == 231
    assert plan.count(Action.EXTERNAL) == 3
    assert len(plan.graph.chain()) == 32
    assert sum(map(len, plan.graph.needs.values())) < sum(map(len, plan.graph.all_needs.values()))


@pytest.mark.parametrize("seed", range(25))
def test_random_graphs_keep_their_closure(seed: int) -> None:
    """Pruning and reduction change no answer to: must this job wait for that one?"""
    draw = random.Random(seed)  # noqa: S311
    names = [f"n{number}" for number in range(60)]
    children = {
        name: draw.sample(names[:number], min(number, draw.randint(0, 6)))
        for number, name in enumerate(names)
    }
    kept = frozenset(name for name in names if draw.random() < 0.7)
    graph = make_graph(children, kept)

    def below(graph_needs: Mapping[str, object], start: str) -> set[str]:
        found: set[str] = set()
        pending = [start]
        while pending:
            for child in graph_needs[pending.pop()]:  # type: ignore[attr-defined]
                if child not in found:
                    found.add(child)
                    pending.append(child)
        return found

    for name in kept:
        assert below(graph.needs, name) == below(children, name) & kept
        for need in graph.needs[name]:
            others = set(graph.needs[name]) - {need}
            assert not any(need in below(graph.needs, other) for other in others)
        expected = max((graph.levels[need] + 1 for need in graph.needs[name]), default=0)
        assert graph.levels[name] == expected


CHAIN = {"app": ["lib"], "lib": ["base", "tool"], "base": [], "tool": ["deep"], "deep": []}


@pytest.mark.parametrize(
    ("seeds", "depth", "expected"),
    [
        pytest.param({"base"}, None, {"app", "lib", "base", "tool", "deep"}, id="to the roots"),
        pytest.param({"base"}, 0, {"base"}, id="itself"),
        pytest.param({"base"}, 1, {"base", "lib", "tool", "deep"}, id="dependents' needs too"),
        pytest.param({"base"}, -1, set(), id="negative: nothing"),
        pytest.param(set(), None, set(), id="no change"),
        pytest.param({"app"}, None, {"app", "lib", "base", "tool", "deep"}, id="a root"),
    ],
)
def test_what_a_change_reaches(seeds: set[str], depth: int | None, expected: set[str]) -> None:
    made = lock(CHAIN)
    affected = affected_specs(made, frozenset(map(key, seeds)), dependent_depth=depth)
    assert affected == frozenset(map(key, expected))


def _changed_lock() -> Lock:
    """``base`` has a new version; so all above it have new hashes."""
    fresh = {"app": "appq", "lib": "libq", "base": "baseq"}
    nodes = []
    for name, wants in CHAIN.items():
        one = node(name, wants)
        for edge in one["dependencies"]:
            edge["hash"] = key(fresh.get(edge["name"], edge["name"]))
        one["hash"] = key(fresh.get(name, name))
        nodes.append(one)
    next(one for one in nodes if one["name"] == "base")["version"] = "2.0"
    made = document(nodes)
    made["roots"] = [{"hash": key("appq"), "spec": "app"}]
    return parse_lock(text(made), "new")


def test_a_change_is_what_changed_by_itself() -> None:
    assert changed_specs(lock(CHAIN), _changed_lock()) == frozenset({key("baseq")})


def test_equal_locks_have_no_change() -> None:
    assert changed_specs(lock(CHAIN), lock(CHAIN)) == frozenset()


def test_without_an_old_lock_everything_changed() -> None:
    made = lock(CHAIN)
    assert changed_specs(None, made) == frozenset(made.specs)
