"""Decide for every spec of a lock whether a job builds it, and say why.

The rules are those of ``spack ci generate`` (Spack 1.1, ``ci/__init__.py``): a spec is built unless
it is unaffected by the change, already on a mirror, or external; and what is not built is taken out
of the graph so that its parents wait for its children.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Protocol

from stackyard.errors import StackError
from stackyard.lock import Lock, Spec

__all__ = ["Action", "Decision", "Graph", "Plan", "affected_specs", "make_graph", "make_plan"]


class Action(enum.Enum):
    BUILD = "build"
    REUSE = "reuse"
    EXTERNAL = "external"
    UNAFFECTED = "unaffected"


class Decision(NamedTuple):
    hash: str
    action: Action
    reason: str


class Found(Protocol):
    @property
    def via(self) -> str: ...


class Inventory(Protocol):
    """What one mirror holds, as far as a plan wants to know it (``stackyard.mirror.Inventory``)."""

    @property
    def mirror(self) -> str: ...
    @property
    def found(self) -> Mapping[str, Found]: ...


class Graph(NamedTuple):
    """The specs that get a job and what each waits for, dependencies first.

    ``needs`` has an entry for each job: its nearest built dependencies, less those that another
    of them waits for already. ``all_needs`` is the same before that reduction. ``levels`` is the
    length of the longest chain below (0: waits for nothing).
    """

    needs: Mapping[str, tuple[str, ...]]
    all_needs: Mapping[str, tuple[str, ...]]
    levels: Mapping[str, int]

    def chain(self) -> tuple[str, ...]:
        """One longest chain of jobs, first to last: no number of runners is faster than it."""
        if not self.levels:
            return ()
        key = max(self.levels, key=lambda k: (self.levels[k], k))
        chain = [key]
        while self.levels[key]:
            key = min(k for k in self.needs[key] if self.levels[k] == self.levels[key] - 1)
            chain.append(key)
        return tuple(reversed(chain))


class Plan(NamedTuple):
    """``decisions`` are keyed by DAG hash, dependencies first."""

    lock: Lock
    roots: tuple[str, ...]
    decisions: Mapping[str, Decision]
    graph: Graph
    warnings: tuple[str, ...] = ()

    @property
    def builds(self) -> tuple[Spec, ...]:
        return tuple(self.lock.specs[key] for key in self.graph.needs)

    def count(self, action: Action) -> int:
        return sum(decision.action is action for decision in self.decisions.values())


def make_plan(  # noqa: PLR0913 - the inputs of a decision, each by name
    lock: Lock,
    roots: Sequence[str],
    *,
    inventories: Sequence[Inventory] = (),
    prune_up_to_date: bool = True,
    affected: AbstractSet[str] | None = None,
    broken: AbstractSet[str] = frozenset(),
    allow_broken: bool = False,
) -> Plan:
    """Decide for every spec that ``roots`` (DAG hashes) reach.

    ``inventories`` say what the mirrors hold; with ``prune_up_to_date`` false they are only named
    in the reasons. ``affected`` are the hashes that a change reaches (None: no such pruning).
    ``broken`` are hashes known not to build: one that would get a job raises StackError, unless
    ``allow_broken`` makes it a warning, as Spack does when it prunes nothing.
    """
    reached = lock.closure(roots)
    whole = len(reached) == len(lock.specs)
    decisions = {
        key: _decide(lock.specs[key], inventories, affected, prune_up_to_date=prune_up_to_date)
        for key in lock.order
        if whole or key in reached
    }
    built = [key for key, decision in decisions.items() if decision.action is Action.BUILD]
    warnings = _check_broken(lock, [key for key in built if key in broken], allow=allow_broken)
    graph = make_graph(
        {key: lock.specs[key].children for key in decisions},
        frozenset(built) if len(built) < len(decisions) else decisions.keys(),
    )
    return Plan(lock, tuple(roots), decisions, graph, warnings)


def _decide(
    spec: Spec,
    inventories: Sequence[Inventory],
    affected: AbstractSet[str] | None,
    *,
    prune_up_to_date: bool,
) -> Decision:
    key = spec.hash
    if "external" in spec.node and spec.external:
        return Decision(key, Action.EXTERNAL, f"found on the system at {_external_place(spec)}")
    if affected is not None and key not in affected:
        return Decision(key, Action.UNAFFECTED, "unaffected by the change")
    for inventory in inventories:
        if found := inventory.found.get(key):
            if prune_up_to_date:
                return Decision(key, Action.REUSE, f"on {inventory.mirror} ({found.via})")
            return Decision(key, Action.BUILD, f"up to date on {inventory.mirror}, but forced")
    if not prune_up_to_date:
        return Decision(key, Action.BUILD, "no pruning")
    return Decision(key, Action.BUILD, "on no mirror")


def _external_place(spec: Spec) -> str:
    external = spec.node["external"]
    modules = external.get("module") or ()
    return str(external.get("path") or " ".join(map(str, modules)))


def _check_broken(lock: Lock, broken: Sequence[str], *, allow: bool) -> tuple[str, ...]:
    if not broken:
        return ()
    names = ", ".join(f"{lock.specs[key].name}/{key[:7]}" for key in broken)
    if allow:
        return (f"known to be broken, built all the same since nothing is pruned: {names}",)
    raise StackError(
        f"known to be broken: {names}",
        where="spack.ci.broken-specs-url",
        hint="take them out of the stack, change them so that their hash changes, "
        "or remove their entries from the list once they are mended",
    )


def make_graph(children: Mapping[str, Sequence[str]], kept: AbstractSet[str]) -> Graph:
    """Lay ``kept`` out as a graph of its own.

    ``children`` holds every node, dependencies first, with its direct dependencies. A node outside
    ``kept`` is passed through: who waited for it waits for what it waited for.

    Closures are bit sets in Python integers, one bit per kept node in the given order, so that a
    node's dependencies have lower bits than itself. They make the transitive reduction exact at
    the price of one OR and one test for each edge.
    """
    bit = {key: index for index, key in enumerate(key for key in children if key in kept)}
    below: dict[str, int] = {}  # all kept nodes under a node, itself included if it is kept
    direct: dict[str, tuple[str, ...]] = {}  # nearest kept nodes, reduced
    passed: dict[str, list[str]] = {}  # the same of a node that is passed through, not reduced
    levels: dict[str, int] = {}
    all_needs: dict[str, tuple[str, ...]] = {}
    for key, dependencies in children.items():
        wide: list[str] = []
        for child in dependencies:
            if child in bit:
                wide.append(child)
            else:
                wide.extend(passed[child])
        needs, union = _reduce(wide, bit, below)
        direct[key] = needs
        if key not in bit:
            passed[key] = list(dict.fromkeys(wide))
        below[key] = union
        if key in bit:
            below[key] |= 1 << bit[key]
            levels[key] = 1 + max([levels[need] for need in needs], default=-1)
            all_needs[key] = tuple(wide) if len(wide) == len(needs) else tuple(dict.fromkeys(wide))
    return Graph({key: direct[key] for key in bit}, all_needs, levels)


def _reduce(
    wide: Iterable[str], bit: Mapping[str, int], below: Mapping[str, int]
) -> tuple[tuple[str, ...], int]:
    """Leave out what another one waits for already; also the union of all closures."""
    union = 0
    kept = []
    for key in sorted(wide, key=bit.__getitem__, reverse=True):
        if not union >> bit[key] & 1:
            kept.append(key)
            union |= below[key]
    kept.reverse()
    return tuple(kept), union


def affected_specs(
    lock: Lock,
    seeds: AbstractSet[str],
    *,
    dependent_depth: int | None = None,
) -> frozenset[str]:
    """What a change of ``seeds`` (DAG hashes) reaches: dependents, and all that those depend on.

    ``dependent_depth`` bounds how many edges the way up may have (None: to the roots; negative:
    nothing is affected), as ``SPACK_PRUNE_UNTOUCHED_DEPENDENT_DEPTH`` does.
    """
    if dependent_depth is not None and dependent_depth < 0:
        return frozenset()
    parents: dict[str, list[str]] = {key: [] for key in lock.specs}
    for key, spec in lock.specs.items():
        for child in spec.children:
            parents[child].append(key)
    found = set(seeds)
    edge, depth = set(seeds), 0
    while edge and (dependent_depth is None or depth < dependent_depth):
        edge = {parent for key in edge for parent in parents[key]} - found
        found |= edge
        depth += 1
    return lock.closure(found)


def changed_specs(old: Lock | None, new: Lock) -> frozenset[str]:
    """Hashes of ``new`` that changed by themselves, not only through a dependency.

    A DAG hash covers all dependencies, so each dependent of a change has a new hash too; those
    follow from ``affected_specs``. Without an old lock everything has changed.
    """
    if old is None:
        return frozenset(new.specs)
    fresh = new.specs.keys() - old.specs.keys()
    before: dict[str, list[object]] = {}
    for spec in old.specs.values():
        before.setdefault(spec.name, []).append(_own(spec))
    return frozenset(
        key
        for key in fresh
        if not any(child in fresh for child in new.specs[key].children)
        or _own(new.specs[key]) not in before.get(new.specs[key].name, ())
    )


def _own(spec: Spec) -> object:
    """The node without anything that a dependency's own change would alter."""
    own = {key: value for key, value in spec.node.items() if key not in ("hash", "dependencies")}
    edges = sorted((d.name, d.deptypes, d.virtuals) for d in spec.dependencies)
    return own, edges
