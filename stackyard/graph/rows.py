"""What a plan says about each spec, as rows that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackyard.attributes import compiler_of
from stackyard.lock import Lock, Spec
from stackyard.plan import Action, Plan

__all__ = ["plan_values"]


def plan_values(plan: Plan) -> dict[str, Any]:
    """Totals and one row for each spec, dependencies first.

    ``needs`` are the jobs that a job waits for; ``depends`` are all direct dependencies, job or
    not. ``level`` is the stage of a job, None for a spec without one. ``on_chain`` marks the
    longest chain.
    """
    chain = plan.graph.chain()
    marks = frozenset(chain), frozenset(plan.roots)
    return {
        "totals": {action.value: plan.count(action) for action in Action},
        "stages": 1 + max(plan.graph.levels.values(), default=-1),
        "chain": list(chain),
        "warnings": list(plan.warnings),
        "specs": [_row(plan, key, *marks) for key in plan.decisions],
    }


def _row(plan: Plan, key: str, chain: frozenset[str], roots: frozenset[str]) -> Mapping[str, Any]:
    spec = plan.lock.specs[key]
    decision = plan.decisions[key]
    return {
        "hash": key,
        "name": spec.name,
        "version": spec.version,
        "arch": f"{spec.platform}-{spec.os}-{spec.target}",
        "compiler": _compiler(spec, plan.lock),
        "action": decision.action.value,
        "reason": decision.reason,
        "level": plan.graph.levels.get(key),
        "needs": list(plan.graph.needs.get(key, ())),
        "depends": list(spec.children),
        "on_chain": key in chain,
        "root": key in roots,
    }


def _compiler(spec: Spec, lock: Lock) -> str:
    """``gcc@14.2.0``; empty for a spec that no compiler made."""
    name, version = compiler_of(spec, lock)
    return "" if name == "none" else f"{name}@{version}"
