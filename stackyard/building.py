"""Build a plan on one machine: what comes when, what it needs, and what came of it.

The levels of the plan's graph are built one after the other: what is in a level needs only what is
in the levels before it. What is reused is installed from the mirror, if something that is built
needs it. All this is decided here; ``flow/building.py`` does it.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from stackyard.document import dump_yaml, parse_yaml
from stackyard.errors import SpecError
from stackyard.fetch import size_text
from stackyard.lock import Lock, Spec
from stackyard.merge import key_name
from stackyard.pattern import Pattern
from stackyard.plan import Action, Plan
from stackyard.shape import near

__all__ = [
    "Outcome",
    "Result",
    "borrowed",
    "build_levels",
    "building_json",
    "building_manifest",
    "building_table",
    "chosen_specs",
    "failed_need",
    "log_name",
    "telling_lines",
    "totals_text",
]

#: Dependencies that an installed package needs; one that is built needs those of every type.
_LINK_RUN = frozenset({"link", "run"})
#: Where Spack begins to say what went wrong, and how it marks the lines of a compiler or of make.
_ERROR = re.compile(r"==> (?:\[[^]]*\] )?Error: |^Error: |^  >> ")
_TELLING = 8


class Result(enum.Enum):
    """What came of a spec.

    ``PUSHED`` was built by an earlier run, ``KEPT`` is built and on this machine alone.
    """

    BUILT = "built"
    PUSHED = "pushed"
    KEPT = "unpushed"
    FAILED = "failed"
    SKIPPED = "skipped"
    OPEN = "not tried"
    REUSED = "reused"
    EXTERNAL = "external"


class Outcome(NamedTuple):
    """``size_bytes`` are those of the binary's tarball, ``seconds`` those of the build; None: unknown.

    ``why`` is said of failures and the like, ``log`` is the path of what Spack said.
    """

    result: Result
    seconds: float | None = None
    size_bytes: int | None = None
    why: str = ""
    log: str = ""

    @property
    def text(self) -> str:
        return f"{self.result.value}: {self.why}" if self.why else self.result.value


def build_levels(plan: Plan) -> tuple[tuple[str, ...], ...]:
    """Hashes of what is built, level by level; in a level in the plan's order."""
    levels: dict[int, list[str]] = {}
    for key in plan.graph.needs:
        levels.setdefault(plan.graph.levels[key], []).append(key)
    return tuple(tuple(levels[level]) for level in sorted(levels))


def borrowed(plan: Plan, builds: Collection[str]) -> tuple[str, ...]:
    """Hashes of what is not built and has to be installed for these builds, dependencies first.

    That is what they depend on in any way, and what those need to run. Externals are there already.
    """
    specs, found = plan.lock.specs, set[str]()
    pending = [child for key in builds for child in specs[key].children]
    while pending:
        key = pending.pop()
        action = plan.decisions[key].action
        if key in found or action in (Action.BUILD, Action.EXTERNAL):
            continue
        found.add(key)
        edges = specs[key].dependencies
        pending += [edge.hash for edge in edges if not _LINK_RUN.isdisjoint(edge.deptypes)]
    return tuple(key for key in plan.decisions if key in found)


def failed_need(spec: Spec, failed: Mapping[str, str]) -> str:
    """Hash of what failed first of all that the spec needs; empty if nothing did.

    ``failed`` has a hash for each spec that failed or was skipped: its own, or that of the one it
    was skipped for. So the answer is always something that failed itself.
    """
    return next((failed[child] for child in spec.children if child in failed), "")


def chosen_specs(
    lock: Lock, hashes: Collection[str], patterns: Sequence[Pattern], texts: Sequence[str]
) -> tuple[str, ...]:
    """Those of the hashes that one of the patterns holds for, in the lock's order.

    ``texts`` are the patterns as a user wrote them. Raises SpecError for one that holds for nothing.
    """
    from stackyard.spec import Matcher

    matcher = Matcher(lock)
    found: set[str] = set()
    for pattern, text in zip(patterns, texts, strict=True):
        matching = {key for key in hashes if matcher.matches(lock.specs[key], pattern)}
        if not matching:
            names = sorted({lock.specs[key].name for key in hashes})
            hint = near(pattern.name or text, names)
            raise SpecError(f"{text!r} holds for no spec of the stack", where="--only", hint=hint)
        found |= matching
    return tuple(key for key in lock.order if key in found)


def building_manifest(
    text: str, where: str, *, tree: str, mirrors: Mapping[str, Mapping[str, Any]], alone: bool
) -> str:
    """The stack's manifest for building: it installs below ``tree``, and has these mirrors.

    ``alone``: instead of all mirrors that are configured elsewhere. The length of padding and all
    else about the install tree stay as the stack has them. There is no view: it would be made anew
    after each package.
    """
    document = parse_yaml(text, where)
    dropped = ("mirrors", "view")
    spack = {raw: value for raw, value in document["spack"].items() if key_name(raw) not in dropped}
    raw_config, config = _entry(spack, "config")
    raw_tree, old = _entry(config, "install_tree")
    kept = {raw: value for raw, value in old.items() if key_name(raw) != "root"}
    spack[raw_config] = {**config, raw_tree: {**kept, "root": tree}}
    spack["view"] = False
    spack["mirrors:" if alone else "mirrors"] = mirrors
    return dump_yaml({"spack": spack})


def _entry(mapping: Mapping[str, Any], name: str) -> tuple[str, Mapping[str, Any]]:
    """The key, as it is written, and the mapping there; an empty one instead of anything else."""
    raw = next((raw for raw in mapping if key_name(raw) == name), name)
    value = mapping.get(raw)
    return raw, value if isinstance(value, Mapping) else {}


def log_name(spec: Spec) -> str:
    """The file of what Spack says while it installs a spec."""
    version = re.sub(r"[^A-Za-z0-9_.+-]", "-", spec.version)[:80]
    return f"{spec.name[:120]}-{version}-{spec.hash[:7]}.txt"


def telling_lines(lines: Sequence[str]) -> tuple[str, ...]:
    """The lines of a log's end that tell what went wrong: Spack's errors, else the last ones."""
    said = [line.rstrip() for line in lines if line.strip()]
    first = next((i for i, line in enumerate(said) if _ERROR.search(line)), None)
    return tuple(said[first : first + _TELLING] if first is not None else said[-_TELLING:])


_HEADER = ("PACKAGE", "VERSION", "HASH", "DECISION", "SECONDS", "SIZE", "RESULT")
_RIGHT = frozenset({"SECONDS", "SIZE"})
_ORDER = (Action.BUILD, Action.REUSE, Action.UNAFFECTED, Action.EXTERNAL)


def building_table(plan: Plan, outcomes: Mapping[str, Outcome]) -> str:
    """A line for each spec in the order of building, then what was not built; and the totals."""
    rows = []
    for key in _sorted(plan):
        spec, outcome = plan.lock.specs[key], outcomes[key]
        seconds = "" if outcome.seconds is None else f"{outcome.seconds:.1f}"
        size = "" if outcome.size_bytes is None else size_text(outcome.size_bytes)
        decision = plan.decisions[key].action.value
        rows.append(
            (spec.name, spec.version, key[:7], decision, seconds, size, _printable(outcome.text))
        )
    widths = [max(map(len, column)) for column in zip(_HEADER, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if name in _RIGHT else cell.ljust(width)
            for name, cell, width in zip(_HEADER, row, widths, strict=True)
        ).rstrip()
        for row in (_HEADER, *rows)
    ]
    return "\n".join([*lines, "", totals_text(outcomes)])


def _sorted(plan: Plan) -> list[str]:
    """As ``plan_table`` has them."""
    keys = [key for level in build_levels(plan) for key in level]
    for action in _ORDER[1:]:
        keys += [key for key, one in plan.decisions.items() if one.action is action]
    return keys


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def totals_text(outcomes: Mapping[str, Outcome]) -> str:
    """``7 specs: 3 built, 1 failed, 3 reused; 1.2 MB sent``."""
    counts = ", ".join(
        f"{count} {result.value}" for result in Result if (count := _count(outcomes, result))
    )
    size = sum(one.size_bytes or 0 for one in outcomes.values() if one.result in _PUSHED)
    sent = f"; {size_text(size)} sent" if size else ""
    return f"{len(outcomes)} specs{': ' if counts else ''}{counts}{sent}"


_PUSHED = frozenset({Result.BUILT, Result.PUSHED})


def _count(outcomes: Mapping[str, Outcome], result: Result) -> int:
    return sum(one.result is result for one in outcomes.values())


def building_json(plan: Plan, outcomes: Mapping[str, Outcome], stack: str, mirror: str) -> str:
    """``{version, stack, lock, mirror, totals, specs: [...]}``, the specs as the table has them."""
    document = {
        "version": 1,
        "stack": stack,
        "lock": plan.lock.where,
        "mirror": mirror,
        "totals": {_word(result): _count(outcomes, result) for result in Result},
        "specs": [_spec_json(plan, key, outcomes[key]) for key in _sorted(plan)],
    }
    return json.dumps(document, indent=2)


def _word(result: Result) -> str:
    return result.name.lower()


def _spec_json(plan: Plan, key: str, outcome: Outcome) -> Mapping[str, Any]:
    spec, decision = plan.lock.specs[key], plan.decisions[key]
    return {
        "hash": key,
        "name": spec.name,
        "version": spec.version,
        "decision": decision.action.value,
        "reason": decision.reason,
        "result": _word(outcome.result),
        "why": outcome.why,
        "seconds": None if outcome.seconds is None else round(outcome.seconds, 3),
        "size_bytes": outcome.size_bytes,
        "log": outcome.log,
    }
