"""Bootstrap phases: parts of a lock that are built before the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stackyard.errors import StackError
from stackyard.flow.steps import expand_specs
from stackyard.spec import Matcher

if TYPE_CHECKING:
    from stackyard.flow.steps import Work

__all__ = ["phase_hashes"]


def phase_hashes(work: Work) -> tuple[frozenset[str], ...]:
    """The nodes of each ``bootstrap`` phase: what its definition's specs match, and below."""
    entries = [*work.stack.bootstrap, *work.settings.pipeline.bootstrap]
    matcher = Matcher(work.lock)
    return tuple(_phase(work, matcher, _phase_name(entry)) for entry in entries)


def _phase_name(entry: Any) -> tuple[str, bool]:
    if isinstance(entry, str):
        return entry, False
    if isinstance(entry, Mapping):
        return str(entry["name"]), bool(entry.get("compiler-agnostic"))
    return entry.name, entry.compiler_agnostic


def _phase(work: Work, matcher: Matcher, phase: tuple[str, bool]) -> frozenset[str]:
    name, agnostic = phase
    where = f"{work.stack.where}: spack.ci.bootstrap"
    if not any(name in entry for entry in work.stack.definitions):
        raise StackError(
            f"there is no definition named {name!r}",
            where=where,
            hint="bootstrap lists names of definitions",
        )
    asked = expand_specs(work.stack, work.project, [f"${name}"], where)
    patterns = [p.without_direct() if agnostic else p for _, p in asked]
    found = [
        spec.hash
        for spec in work.lock.specs.values()
        if any(matcher.matches(spec, pattern) for pattern in patterns)
    ]
    if not found:
        raise StackError(
            f"the phase {name!r} matches no spec of the lock",
            where=where,
            hint="compare the definition with what was concretized",
        )
    return work.lock.closure(found)
