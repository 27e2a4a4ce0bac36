"""What of a mirror is kept, and why; and what nothing keeps.

A binary is kept if a lock reaches it, if a pin holds for it, if it is young, and if one that is
kept for one of the last two reasons links to it or runs it. What nobody can tell is kept.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stackyard.binary import Blob
from stackyard.fetch import size_text
from stackyard.listing import columns
from stackyard.lock import Spec
from stackyard.mirror import Layout

__all__ = [
    "Choice",
    "Holding",
    "Keeper",
    "Loose",
    "Policy",
    "PrunePlan",
    "Sweep",
    "decide",
    "prune_json",
    "prune_text",
    "sort_loose",
]

_DAY_S = 86400.0
_HOUR_S = 3600.0
_RUNTIME = frozenset({"link", "run"})
_NEEDED = "needed by "
_OLD = " days old"


class Keeper(NamedTuple):
    """A lock that keeps what it reaches: where it comes from, and DAG hashes."""

    name: str
    hashes: frozenset[str]


class Policy(NamedTuple):
    """What is to be kept. ``pins`` are spec strings; no days: age keeps nothing."""

    keepers: tuple[Keeper, ...]
    pins: tuple[str, ...]
    keep_days: float
    grace_hours: float
    now_s: float  # seconds since the epoch


class Holding(NamedTuple):
    """A binary on the mirror. ``spec`` is None where its metadata cannot be read."""

    hash: str
    layout: Layout
    key: str  # of its manifest
    label: str  # name@version/hash7
    spec: Spec | None
    blobs: tuple[Blob, ...]
    modified_s: float  # seconds since the epoch; 0.0 where the place does not tell


class Choice(NamedTuple):
    holding: Holding
    reason: str


class Loose(NamedTuple):
    """A file that no manifest names. ``since_s``: for so long at least, 0.0 where nobody knows."""

    key: str
    size_bytes: int
    since_s: float


class Sweep(NamedTuple):
    """Blobs that no manifest names, or will when the plan is carried out.

    ``young`` ones stay: somebody may be pushing what will name them.
    """

    old: tuple[Loose, ...]
    young: tuple[Loose, ...]


class PrunePlan(NamedTuple):
    """``sweep`` is None where the place, a registry, frees blobs by itself."""

    kept: tuple[Choice, ...]
    gone: tuple[Choice, ...]
    sweep: Sweep | None

    @property
    def freed_bytes(self) -> int:
        """Blobs that only binaries name that go, each once."""
        stay = {blob.key for choice in self.kept for blob in choice.holding.blobs}
        going = {blob.key: blob for choice in self.gone for blob in choice.holding.blobs}
        return sum(blob.size_bytes or 0 for key, blob in going.items() if key not in stay)


def decide(
    holdings: Iterable[Holding], policy: Policy, pinned: Mapping[str, str]
) -> tuple[tuple[Choice, ...], tuple[Choice, ...]]:
    """Those that are kept and those that go, each with the reason; ordered by label.

    ``pinned`` are DAG hashes with the pin that holds for them.
    """
    ordered = sorted(holdings, key=lambda one: (one.label, str(one.layout), one.key))
    reasons = _reasons(ordered, policy, pinned)
    kept = tuple(Choice(one, reasons[one.hash]) for one in ordered if one.hash in reasons)
    gone = tuple(Choice(one, _why_not(one, policy)) for one in ordered if one.hash not in reasons)
    return kept, gone


def _reasons(
    holdings: Sequence[Holding], policy: Policy, pinned: Mapping[str, str]
) -> Mapping[str, str]:
    """Why each hash is kept; one that nothing keeps is not in it."""
    reasons: dict[str, str] = {}
    for keeper in policy.keepers:
        for dag_hash in keeper.hashes:
            reasons.setdefault(dag_hash, keeper.name)
    seeds: dict[str, str] = {}
    for one in holdings:
        if one.hash not in reasons and (reason := _own_reason(one, policy, pinned)):
            seeds.setdefault(one.hash, reason)
    specs = {one.hash: one for one in holdings if one.spec}
    for dag_hash, user in _needed(seeds, specs).items():
        reasons.setdefault(dag_hash, seeds.get(dag_hash) or f"{_NEEDED}{user}")
    return {**reasons, **seeds}


def _own_reason(one: Holding, policy: Policy, pinned: Mapping[str, str]) -> str:
    """Why a binary that no lock reaches is kept for its own sake; empty if it is not."""
    if one.hash in pinned:
        return f"pinned: {pinned[one.hash]}"
    if one.spec is None and policy.pins:
        return "its metadata cannot be read, so no pin can be tried on it"
    if not policy.keep_days:
        return ""
    if not one.modified_s:
        return "the place does not tell its age"
    if _days(one, policy) < policy.keep_days:
        return f"{_days(one, policy):.1f}{_OLD}"
    return ""


def _needed(seeds: Iterable[str], holdings: Mapping[str, Holding]) -> Mapping[str, str]:
    """The label of the binary that needs each, for all that the seeds link to or run."""
    found: dict[str, str] = {}
    pending = list(seeds)
    while pending:
        one = holdings.get(pending.pop())
        if one is None or one.spec is None:
            continue
        for edge in one.spec.dependencies:
            if edge.hash not in found and not _RUNTIME.isdisjoint(edge.deptypes):
                found[edge.hash] = one.label
                pending.append(edge.hash)
    return found


def _days(one: Holding, policy: Policy) -> float:
    return (policy.now_s - one.modified_s) / _DAY_S


def _why_not(one: Holding, policy: Policy) -> str:
    parts = []
    if policy.keepers:
        locks = len(policy.keepers)
        parts.append(
            "the lock does not reach it" if locks == 1 else f"none of {locks} locks reaches it"
        )
    if policy.pins:
        parts.append("no pin holds for it")
    if policy.keep_days:
        parts.append(f"{_days(one, policy):.0f}{_OLD}")
    return ", ".join(parts)


def sort_loose(loose: Iterable[Loose], policy: Policy) -> Sweep:
    """Sort by the grace time; what is of unknown age is young, unless there is no grace."""
    old: list[Loose] = []
    young: list[Loose] = []
    for one in loose:
        age_s = policy.now_s - one.since_s if one.since_s else 0.0
        over = not policy.grace_hours or age_s >= policy.grace_hours * _HOUR_S
        (old if over else young).append(one)
    return Sweep(tuple(old), tuple(young))


def prune_text(plan: PrunePlan, policy: Policy) -> str:
    """A line for each binary that goes, then the totals."""
    rows = [
        (choice.holding.label, _size_text(choice.holding), choice.reason) for choice in plan.gone
    ]
    lines = [columns(("BINARY", "SIZE", "WHY IT GOES"), rows), ""] if rows else []
    return "\n".join([*lines, *_totals(plan, policy)])


def _size(holding: Holding) -> int | None:
    sizes = [blob.size_bytes for blob in holding.blobs]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _size_text(holding: Holding) -> str:
    size = _size(holding)
    return "" if size is None else size_text(size)


def _totals(plan: PrunePlan, policy: Policy) -> list[str]:
    count = len(plan.gone) + len(plan.kept)
    freed = f" ({size_text(plan.freed_bytes)})" if plan.gone else ""
    lines = [f"{len(plan.gone)} of {count} binaries go{freed}, {len(plan.kept)} stay"]
    if plan.kept:
        lines.append(f"they stay for: {_reasons_text(plan.kept, policy)}")
    if plan.sweep is None:
        lines.append("the registry itself frees blobs that no manifest names any more")
        return lines
    old, young = plan.sweep
    hours = f"{policy.grace_hours:g} h"
    if old:
        lines.append(f"{len(old)} blobs go, {_sum_text(old)}: nothing names them then")
    if young:
        lines.append(
            f"{len(young)} blobs, {_sum_text(young)}, are younger than {hours} and stay for now"
        )
    return lines


def _reasons_text(kept: Iterable[Choice], policy: Policy) -> str:
    """How many stay for each reason; what differs from one to the next is left away."""
    counts = Counter(_sort(choice.reason, policy) for choice in kept)
    return ", ".join(f"{reason} ({count})" for reason, count in counts.most_common())


def _sort(reason: str, policy: Policy) -> str:
    if reason.startswith(_NEEDED):
        return "needed by those"
    return f"younger than {policy.keep_days:g} days" if reason.endswith(_OLD) else reason


def _sum_text(loose: Iterable[Loose]) -> str:
    return size_text(sum(one.size_bytes for one in loose))


def prune_json(plan: PrunePlan, policy: Policy, *, url: str, done: bool) -> str:
    """``{version, url, done, policy, totals, gone: [...], kept: [...], blobs: {...}}``."""
    document: dict[str, Any] = {
        "version": 1,
        "url": url,
        "done": done,
        "policy": {
            "locks": [keeper.name for keeper in policy.keepers],
            "pins": list(policy.pins),
            "keep_days": policy.keep_days,
            "grace_hours": policy.grace_hours,
        },
        "totals": {
            "gone": len(plan.gone),
            "kept": len(plan.kept),
            "freed_bytes": plan.freed_bytes,
        },
        "gone": [_entry(choice) for choice in plan.gone],
        "kept": [_entry(choice) for choice in plan.kept],
    }
    if plan.sweep is not None:
        document["blobs"] = {
            "gone": [one._asdict() for one in plan.sweep.old],
            "young": [one._asdict() for one in plan.sweep.young],
        }
    return json.dumps(document, indent=2)


def _entry(choice: Choice) -> dict[str, Any]:
    holding = choice.holding
    return {
        "hash": holding.hash,
        "binary": holding.label,
        "layout": holding.layout,
        "key": holding.key,
        "size_bytes": _size(holding),
        "reason": choice.reason,
    }
