"""A plan as one page for people: picture, search and table in a file that needs no network."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from stackyard.graph.draw import LABELS, picture, text
from stackyard.graph.rows import plan_values
from stackyard.plan import Plan
from stackyard.render import render

__all__ = ["graph_html"]

#: What must not stand raw in a script element, though JSON allows it. Not ASCII is escaped anyway.
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def graph_html(plan: Plan, title: str, load: Callable[[str], str | None]) -> str:
    """The plan as a self-contained HTML page; ``load`` gives a template's text by name."""
    values = plan_values(plan)
    return render(
        "site/graph.html.j2",
        load,
        {
            "title": text(title),
            "summary": _summary(values),
            "warnings": [text(warning) for warning in values["warnings"]],
            "totals": [
                {"action": action.value, "count": values["totals"][action.value]}
                for action in LABELS
            ],
            "chain": len(values["chain"]),
            "picture": picture(values, plan, title, framed=False),
            "rows": _script_json(_compact(values)),
        },
    )


def _summary(values: Mapping[str, Any]) -> str:
    jobs, stages = values["totals"]["build"], values["stages"]
    if not jobs:
        return "Nothing to build."
    return (
        f"{jobs} job{'s' * (jobs != 1)} in {stages} stage{'s' * (stages != 1)}; "
        f"{len(values['specs'])} specs in all."
    )


def _compact(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with numbers of rows instead of hashes: half the bytes."""
    index = {row["hash"]: number for number, row in enumerate(values["specs"])}
    specs = [
        {**row, **{name: [index[key] for key in row[name]] for name in ("needs", "depends")}}
        for row in values["specs"]
    ]
    return {"chain": [index[key] for key in values["chain"]], "specs": specs}


def _script_json(value: object) -> str:
    """JSON that can stand in a ``script`` element, whatever the text in it says."""
    dumped = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    for character, escaped in _ESCAPES.items():
        dumped = dumped.replace(character, escaped)
    return dumped
