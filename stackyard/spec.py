"""Match spec strings against the concrete specs of a lock, without Spack and without packages.

``Matcher.matches`` gives what ``concrete.intersects(string)`` gives in Spack 1.1 (``spec.py``),
which for a concrete spec is the same as ``satisfies``. What a package *could* provide stands in its
recipe, not in the lock: where an answer hangs on that, a SpecError says so.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, NamedTuple

from stackyard.errors import SpecError
from stackyard.lock import Lock, Spec
from stackyard.pattern import FLAGS, Edge, Pattern, Variant, constrain, implies, walk
from stackyard.specparse import parse_pattern
from stackyard.target import target_satisfies
from stackyard.version import ANY, Versions, parse_version

__all__ = [
    "Edge",
    "Matcher",
    "Pattern",
    "Variant",
    "constrain",
    "format_variants",
    "implies",
    "parse_pattern",
]

_LINK_RUN = frozenset({"link", "run"})
_BELOW = frozenset({"link", "run", "build"})
_BUILD_TEST = frozenset({"build", "test"})
_BITS = {"link": 1, "run": 2, "build": 4, "test": 8}

#: What Spack prints without quotes (``NO_QUOTES_NEEDED`` in ``spec_parser.py``).
_BARE = re.compile(r"[\w,/.\[\]-]+", re.ASCII)

_version = lru_cache(maxsize=65536)(parse_version)


class Matcher:
    """Answers whether specs of one lock match patterns.

    A name is a package if a node has it, and a virtual if an edge carries it and no node has it.
    """

    def __init__(self, lock: Lock) -> None:
        self._specs, self._order = lock.specs, lock.order
        self._names = frozenset(spec.name for spec in lock.specs.values())
        self._found: dict[tuple[str, str], Spec | None] = {}
        self._spoiled: dict[Variant, frozenset[str]] = {}
        self._above: dict[int, tuple[Edge, frozenset[str], frozenset[str]]] = {}

    @cached_property
    def _graph(self) -> _Graph:
        return _Graph(self._specs, self._names)

    def is_virtual(self, name: str) -> bool:
        """Whether an edge of the lock carries the name as a virtual, and no node has it."""
        return name not in self._names and name in self._graph.providers

    def matches(self, spec: Spec, pattern: Pattern) -> bool:
        """Whether a spec of the lock matches a pattern.

        Raises SpecError where only the recipe of a package could tell: a virtual name that the
        lock does not show this spec to provide, or a version of a virtual.
        """
        name = pattern.only_name
        if name is not None:
            return name == spec.name or (name not in self._names and self._provides(spec, pattern))
        if pattern.is_any:
            return True
        name = pattern.name
        if name and name != spec.name:
            return name not in self._names and self._provides(spec, pattern)
        return _node_matches(spec, pattern) and self._rest_matches(spec, pattern)

    def _rest_matches(self, spec: Spec, pattern: Pattern) -> bool:
        """What needs more than the node: propagated variants and edges."""
        for variant in pattern.variants:
            if variant.propagate and not self._everywhere(spec, variant):
                return False
        if not pattern.edges:
            return True
        return all(self._edge_holds(spec, parent, edge) for parent, edge in walk(pattern))

    def _everywhere(self, spec: Spec, variant: Variant) -> bool:
        """Whether all nodes at and below the spec that have the variant have this value of it."""
        if variant not in self._spoiled:
            spoiled: set[str] = set()
            for key in self._order:  # dependencies first
                here = self._specs[key]
                values = _values(here, variant.name)
                if (values is not None and not _variant_matches(values, variant)) or any(
                    child in spoiled for child in here.children
                ):
                    spoiled.add(key)
            self._spoiled[variant] = frozenset(spoiled)
        return spec.hash not in self._spoiled[variant]

    def _provides(self, spec: Spec, pattern: Pattern) -> bool:
        """A name that no node has, at the head of a pattern.

        Of a virtual Spack asks the recipe, and then returns without a look at any constraint but
        hash and version: ``mpi+x`` and ``mpi %gcc`` match whatever provides mpi.
        """
        if not self.is_virtual(pattern.name):
            return False
        verdict = self._is_provider(spec, pattern)
        if verdict is None:
            raise self._unsettled(spec, pattern)
        return verdict

    def _is_provider(self, spec: Spec, virtual: Pattern) -> bool | None:
        """None where the lock cannot tell."""
        if not spec.hash.startswith(virtual.hash):
            return False
        shown = virtual.versions == ANY and spec.hash in self._graph.providers[virtual.name]
        return shown or None

    def _unsettled(self, spec: Spec, virtual: Pattern) -> SpecError:
        providers = self._graph.providers[virtual.name]
        names = ", ".join(sorted({self._specs[key].name for key in providers}))
        version = "" if virtual.versions == ANY else f"@{virtual.versions}"
        return SpecError(
            f"the lock cannot tell whether {spec.name} provides {virtual.name}{version}:"
            f" {virtual.name} is a virtual, and what provides it stands in the packages' recipes",
            hint=f"name the packages instead; providers that the lock shows: {names}",
        )

    def _edge_holds(self, spec: Spec, parent: Pattern, edge: Edge) -> bool:
        if edge.when and not self._applies(spec, parent, edge.when):
            return True
        if not edge.direct:
            return self._is_below(spec, edge)
        current: Spec | None = spec
        if parent.name and parent.name != edge.node.name:
            current = self._find(spec, parent.name)
        return current is not None and self._is_direct(current, edge)

    def _applies(self, spec: Spec, parent: Pattern, when: Pattern) -> bool:
        tested: Spec | None = spec
        if parent.name and parent.name != spec.name:
            tested = self._find(spec, parent.name)
        return tested is None or self.matches(tested, when)

    def _find(self, spec: Spec, name: str) -> Spec | None:
        """What Spack means by ``spec[name]``; None where it raises KeyError."""
        key = (spec.hash, name)
        if key not in self._found:
            hits = (e.hash for e in self._graph.in_order(spec) if name in (e.name, *e.virtuals))
            found = next(hits, None)
            self._found[key] = self._specs[found] if found else None
        return self._found[key]

    def _is_direct(self, spec: Spec, edge: Edge) -> bool:
        arcs = self._graph.arcs_from[spec.hash]
        if spec.format < 5 or (spec.external and not arcs):
            return _legacy_matches(spec, edge.node)
        verdicts = [self._child_matches(arc, edge) for arc in arcs if self._fits(arc, edge)]
        if None in verdicts and True not in verdicts:
            raise self._unsettled(spec, edge.node)
        return True in verdicts

    def _fits(self, arc: _Arc, edge: Edge) -> bool:
        """Whether name, virtuals and types of a lock's edge are such as the pattern's edge asks."""
        name, virtuals = edge.node.name, edge.virtuals
        if name and name != arc.name:
            if name in self._names or name not in arc.virtuals + virtuals:
                return False
            if name not in arc.virtuals and not self.is_virtual(name):
                return False
            virtuals = (*virtuals, name)
        if virtuals and not any(virtual in arc.virtuals for virtual in virtuals):
            return False
        return all(deptype in arc.deptypes for deptype in edge.deptypes)

    def _child_matches(self, arc: _Arc, edge: Edge) -> bool | None:
        """Whether the node at the end of an edge matches; None where the lock cannot tell."""
        child, node = self._specs[arc.hash], edge.node
        if node.name and node.name != child.name:
            return self._is_provider(child, node)
        if edge.direct:
            return self.matches(child, node)
        return _node_matches(child, node) and all(
            self._everywhere(child, variant) for variant in node.variants if variant.propagate
        )

    def _is_below(self, spec: Spec, edge: Edge) -> bool:
        """``^``: link and run dependencies at any depth, and direct build dependencies.

        For which specs it holds is worked out once for all, from the dependency upwards.
        """
        if id(edge) not in self._above:
            self._above[id(edge)] = (edge, *self._all_above(edge))
        _, holds, unsettled = self._above[id(edge)]
        if spec.hash in unsettled:
            raise self._unsettled(spec, edge.node)
        return spec.hash in holds

    def _all_above(self, edge: Edge) -> tuple[frozenset[str], frozenset[str]]:
        """The specs that have such a dependency, and those of which the lock cannot tell."""
        graph = self._graph
        arcs = [arc for arc in graph.arcs_to(edge.node.name) if not _BELOW.isdisjoint(arc.deptypes)]
        verdicts = [(arc, self._child_matches(arc, edge)) for arc in arcs]
        holds = graph.above(arc for arc, verdict in verdicts if verdict)
        unsettled = graph.above(arc for arc, verdict in verdicts if verdict is None) - holds
        for virtual in edge.virtuals:
            allowed = graph.above(arc for arc in arcs if virtual in arc.virtuals)
            holds, unsettled = holds & allowed, unsettled & allowed
        return holds, unsettled


class _Arc(NamedTuple):
    """An edge of the lock with both its ends."""

    parent: str
    hash: str
    name: str
    deptypes: tuple[str, ...]
    virtuals: tuple[str, ...]


class _Graph:
    """The edges of a lock from both sides, made when the first pattern asks for an edge."""

    def __init__(self, specs: Mapping[str, Spec], names: frozenset[str]) -> None:
        self._specs, self._names = specs, names
        self.arcs_from: dict[str, tuple[_Arc, ...]] = {}
        self.providers: dict[str, set[str]] = defaultdict(set)
        self._parents: dict[str, list[str]] = defaultdict(list)
        self._to: dict[str, list[_Arc]] = defaultdict(list)
        shared: dict[tuple[str, ...], tuple[str, ...]] = {}  # fewer objects to trace
        for key, spec in specs.items():
            self.arcs_from[key] = tuple(
                _Arc(
                    key,
                    edge.hash,
                    specs[edge.hash].name,
                    shared.setdefault(edge.deptypes, edge.deptypes),
                    shared.setdefault(edge.virtuals, edge.virtuals),
                )
                for edge in spec.dependencies
            )
            for arc in self.arcs_from[key]:
                self._add(arc)
        self.providers = dict(self.providers)

    def _add(self, arc: _Arc) -> None:
        self._to[arc.name].append(arc)
        for virtual in arc.virtuals:
            self.providers[virtual].add(arc.hash)
            if virtual != arc.name:
                self._to[virtual].append(arc)
        if not _LINK_RUN.isdisjoint(arc.deptypes):
            self._parents[arc.hash].append(arc.parent)

    def arcs_to(self, name: str) -> Iterable[_Arc]:
        """The edges to a package or virtual; all edges if the name is empty."""
        if name:
            return self._to.get(name, ())
        return chain.from_iterable(self.arcs_from.values())

    def above(self, arcs: Iterable[_Arc]) -> frozenset[str]:
        """Specs below which one of the edges is found: over link and run, or as their own."""
        found: set[str] = set()
        pending: list[str] = []
        for arc in arcs:
            found.add(arc.parent)
            if not _LINK_RUN.isdisjoint(arc.deptypes):
                pending.append(arc.parent)
        climbed = set(pending)
        while pending:
            fresh = [key for key in self._parents.get(pending.pop(), ()) if key not in climbed]
            climbed.update(fresh)
            pending.extend(fresh)
        return frozenset(found | climbed)

    def in_order(self, spec: Spec) -> Iterator[_Arc]:
        """The order in which Spack looks a dependency up by its name.

        Direct build and test dependencies, the spec itself, link and run breadth first.
        """
        groups: dict[str, list[_Arc]] = {}
        for arc in self.arcs_from[spec.hash]:
            groups.setdefault(arc.name, []).append(arc)
        for group in groups.values():
            for arc in sorted(group, key=_depflag):
                if not _BUILD_TEST.isdisjoint(arc.deptypes):
                    yield arc
        queue = [_Arc("", spec.hash, spec.name, (), ())]
        seen: set[str] = set()
        for here in queue:  # grows
            yield here
            if here.hash not in seen:
                seen.add(here.hash)
                arcs = [
                    arc
                    for arc in self.arcs_from[here.hash]
                    if not _LINK_RUN.isdisjoint(arc.deptypes)
                ]
                queue += sorted(arcs, key=lambda arc: (arc.name, _depflag(arc), arc.virtuals))


def format_variants(parameters: Mapping[str, Any], patches: Iterable[str] = ()) -> str:
    """Variants as Spack's ``{variants}`` prints them: ``+cxx~docs build_system=cmake``.

    ``parameters`` is a node's mapping, compiler flags included (they are left out); ``patches``
    the node's own list. Switches come first, then the others, each sorted by name.
    """
    shown = dict(parameters)
    if sums := tuple(patches):
        shown["patches"] = list(sums)
    switches: list[str] = []
    others: list[str] = []
    for name in sorted(shown):
        value = shown[name]
        if name in FLAGS:
            continue
        text = _format_variant(name, tuple(value) if isinstance(value, list) else value)
        (switches if text[0] in "+~" else others).append(text)
    return " ".join(filter(None, ("".join(switches), *others)))


@lru_cache(maxsize=65536, typed=True)
def _format_variant(name: str, value: Any) -> str:
    """One variant; a tuple for one that takes several values."""
    several = isinstance(value, tuple)
    found, _ = _split(list(value) if several else value)
    if found in ((True,), (False,)) and not several:
        return ("+" if found[0] else "~") + name
    cut = 7 if name == "patches" and several else None
    text = ",".join(str(one)[:cut] for one in found) or "*"
    if not _BARE.fullmatch(text):
        text = json.dumps(text) if "'" in text else f"'{text}'"
    return f"{name}{':' * several}={text}"


def _depflag(arc: _Arc) -> int:
    return sum(_BITS[deptype] for deptype in arc.deptypes)


def _node_matches(spec: Spec, pattern: Pattern) -> bool:
    """Everything of a pattern but its name, its edges and its propagated variants."""
    if pattern.hash and not spec.hash.startswith(pattern.hash):
        return False
    if pattern.namespace and pattern.namespace != (spec.namespace or pattern.namespace):
        return False
    if pattern.versions is not ANY and not _version_matches(spec.version, pattern.versions):
        return False
    if pattern.variants and not _variants_match(spec, pattern):
        return False
    if (pattern.platform or pattern.os or pattern.target) and not _arch_matches(spec, pattern):
        return False
    return not pattern.flags or _flags_match(spec, pattern)


def _version_matches(version: str, wanted: Versions) -> bool:
    return wanted == ANY or wanted.accepts(_version(version))


def _variants_match(spec: Spec, pattern: Pattern) -> bool:
    for variant in pattern.variants:
        if not variant.propagate:
            values = _values(spec, variant.name)
            if values is None or not _variant_matches(values, variant):
                return False
    return True


def _values(spec: Spec, name: str) -> tuple[Any, ...] | None:
    """The values of a variant; None if the spec does not have it."""
    if name == "patches" and (patches := spec.node.get("patches")):
        return tuple(sorted({*patches}))
    parameters = spec.parameters
    return _split(parameters[name])[0] if name in parameters and name not in FLAGS else None


def _split(value: Any) -> tuple[tuple[Any, ...], bool]:
    """The values of a variant in a node, sorted, and whether it is one that takes several."""
    if isinstance(value, list):
        return tuple(sorted(set(value), key=str)), True
    if (text := str(value).upper()) in ("TRUE", "FALSE"):
        return (text == "TRUE",), False
    return (value,), False


def _variant_matches(values: tuple[Any, ...], variant: Variant) -> bool:
    if variant.exact:
        return values == variant.values
    if variant.name == "patches":
        return all(
            isinstance(wanted, str) and any(str(value).startswith(wanted) for value in values)
            for wanted in variant.values
        )
    return all(wanted in values for wanted in variant.values)


def _arch_matches(spec: Spec, pattern: Pattern) -> bool:
    for wanted, value in ((pattern.platform, spec.platform), (pattern.os, spec.os)):
        if wanted == "*":  # Spack does not look any further
            return True
        if wanted and wanted != value:
            return False
    return not pattern.target or target_satisfies(spec.target, pattern.target)


def _flags_match(spec: Spec, pattern: Pattern) -> bool:
    parameters = spec.parameters
    return all(
        {flag.text for flag in flags} <= {*parameters.get(name, ())}
        for name, flags in pattern.flags
    )


def _legacy_matches(spec: Spec, node: Pattern) -> bool:
    """``%x`` where the compiler is an attribute of the node: name and version, nothing else."""
    compiler = spec.legacy_compiler
    if compiler is None or node.hash or node.flags or node.edges:
        return False
    if node.platform or node.os or node.target or not all(v.propagate for v in node.variants):
        return False
    name, version = compiler
    return node.name in ("", name) and node.versions.accepts(_version(version))
