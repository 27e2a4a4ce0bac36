"""A plan as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from typing import Any

from stackyard.plan import Action, Plan

__all__ = ["plan_json", "plan_table"]

_ORDER = (Action.BUILD, Action.REUSE, Action.UNAFFECTED, Action.EXTERNAL)


def plan_table(plan: Plan) -> str:
    """A line for each spec, what is built first and in the order of building; then the totals."""
    header = ("PACKAGE", "VERSION", "HASH", "DECISION", "REASON")
    rows = []
    for action in _ORDER:
        keys = [key for key, decision in plan.decisions.items() if decision.action is action]
        if action is Action.BUILD:
            keys.sort(key=lambda key: plan.graph.levels[key])
        for key in keys:
            spec, decision = plan.lock.specs[key], plan.decisions[key]
            reason = _printable(decision.reason)
            rows.append((spec.name, spec.version, key[:7], action.value, reason))
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join([*lines, "", *_totals(plan)])


def _printable(text: str) -> str:
    """Text of a lock or a mirror as a terminal may see it: no line of its own, no control codes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _totals(plan: Plan) -> list[str]:
    counts = ", ".join(
        f"{plan.count(action)} {action.value}" for action in _ORDER if plan.count(action)
    )
    lines = [f"{len(plan.decisions)} specs{': ' if counts else ''}{counts}"]
    chain = plan.graph.chain()
    if chain:
        names = [plan.lock.specs[key].name for key in chain]
        shown = names if len(names) <= 12 else [*names[:5], "...", *names[-5:]]
        lines.append(f"longest chain: {len(chain)} jobs ({' > '.join(shown)})")
    return lines


def plan_json(plan: Plan, stack: str) -> str:
    """``{version, stack, lock, totals, chain, specs: [...]}``; needs are hashes of built specs."""
    document: dict[str, Any] = {
        "version": 1,
        "stack": stack,
        "lock": plan.lock.where,
        "totals": {action.value: plan.count(action) for action in Action},
        "chain": list(plan.graph.chain()),
        "warnings": list(plan.warnings),
        "specs": [_entry(plan, key) for key in plan.decisions],
    }
    return json.dumps(document, indent=2)


def _entry(plan: Plan, key: str) -> dict[str, Any]:
    spec, decision = plan.lock.specs[key], plan.decisions[key]
    entry: dict[str, Any] = {
        "hash": key,
        "name": spec.name,
        "version": spec.version,
        "decision": decision.action.value,
        "reason": decision.reason,
    }
    if decision.action is Action.BUILD:
        entry["level"] = plan.graph.levels[key]
        entry["needs"] = list(plan.graph.needs[key])
    return entry
