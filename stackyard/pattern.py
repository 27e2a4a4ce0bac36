"""Abstract specs: what a spec string means, as immutable values that can be compared.

Follows Spack 1.1 (``spec.py``, ``variant.py``). Two texts that mean the same abstract spec give
equal patterns; the order of variants and dependencies does not count. ``specparse.py`` makes
patterns from text, ``spec.py`` matches them against a lock; here two patterns are merged
(``constrain``) and compared (``implies``), as a matrix in a manifest needs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import NamedTuple

from stackyard.errors import SpecError
from stackyard.target import common_target
from stackyard.version import ANY, Versions

__all__ = [
    "ALIASES",
    "DEPTYPES",
    "FLAGS",
    "Edge",
    "Flag",
    "Pattern",
    "Variant",
    "add_edge",
    "constrain",
    "edge_key",
    "implies",
    "quote",
    "walk",
]

#: Names that Spack accepts after ``%`` for a compiler's package (``aliases.py``).
ALIASES = {
    "arm": "acfl",
    "clang": "llvm",
    "intel": "intel-oneapi-compilers-classic",
    "oneapi": "intel-oneapi-compilers",
    "rocmcc": "llvm-amdgpu",
}
_SHORT = {package: alias for alias, package in ALIASES.items()}
DEPTYPES = ("build", "link", "run", "test")
FLAGS = frozenset({"cflags", "cppflags", "cxxflags", "fflags", "ldflags", "ldlibs"})

_ARCH = re.compile(r"[\w*:,.-]+", re.ASCII)
_BARE = re.compile(r"[\w,/.-]+", re.ASCII)


class Flag(NamedTuple):
    """One compiler flag with its value (``-Wl -rpath x`` is one); ``propagate`` from ``==``."""

    text: str
    propagate: bool


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant: ``values`` are sorted; none means ``=*``.

    ``exact``: a bool, or a list after ``:=``. Otherwise the spec may have more values than these.
    """

    name: str
    values: tuple[str | bool, ...]
    exact: bool
    propagate: bool = False

    @property
    def boolean(self) -> bool:
        return self.values in ((True,), (False,))

    def __str__(self) -> str:
        if self.boolean:
            return ("+" if self.values[0] else "~") * (1 + self.propagate) + self.name
        sign = (":" if self.exact else "") + "=" * (1 + self.propagate)
        return f"{self.name}{sign}{quote(','.join(map(str, self.values)) or '*')}"


@dataclass(frozen=True, slots=True)
class Edge:
    """A dependency: ``direct`` after ``%``, else after ``^``; ``when`` None means always."""

    node: Pattern
    direct: bool
    deptypes: tuple[str, ...] = ()
    virtuals: tuple[str, ...] = ()
    when: Pattern | None = None
    preferred: bool = False  # %%


@dataclass(frozen=True, slots=True)
class Pattern:
    """An abstract spec. Empty fields constrain nothing; ``name`` is empty for ``*``.

    ``edges`` and ``variants`` are sorted. ``only_name`` is the name if nothing else is asked,
    ``is_any`` says that nothing at all is asked: both let callers skip the matching.
    """

    name: str = ""
    namespace: str | None = None
    versions: Versions = ANY
    variants: tuple[Variant, ...] = ()
    flags: tuple[tuple[str, tuple[Flag, ...]], ...] = ()
    platform: str = ""
    os: str = ""
    target: str = ""
    hash: str = ""
    edges: tuple[Edge, ...] = ()
    only_name: str | None = field(init=False, compare=False, repr=False)
    is_any: bool = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        asks = bool(
            self.namespace
            or self.variants
            or self.flags
            or self.platform
            or self.os
            or self.target
            or self.hash
            or self.edges
            or self.versions != ANY
        )
        object.__setattr__(self, "only_name", self.name if self.name and not asks else None)
        object.__setattr__(self, "is_any", not self.name and not asks)

    def without_wildcards(self) -> Pattern:
        """Without ``platform=*`` and ``os=*``, which ask nothing but end Spack's test there."""
        return replace(
            self,
            platform="" if self.platform == "*" else self.platform,
            os="" if self.os == "*" else self.os,
            edges=tuple(replace(edge, node=edge.node.without_wildcards()) for edge in self.edges),
        )

    def without_direct(self) -> Pattern:
        """The same without its ``%`` dependencies, as a compiler-agnostic match needs it."""
        return replace(self, edges=tuple(edge for edge in self.edges if not edge.direct))

    def __str__(self) -> str:
        """A text that parses to an equal pattern, shaped as Spack prints an abstract spec."""
        return " ".join(filter(None, (_node_text(self), *_edge_texts(self))))


def quote(value: str) -> str:
    """The value as a spec string can hold it, with quotes only where they are needed."""
    if _BARE.fullmatch(value):
        return value
    if "'" not in value:
        return f"'{value}'"
    escaped = value.replace('"', '\\"')
    return f'"{escaped}"'


def walk(pattern: Pattern) -> Iterator[tuple[Pattern, Edge]]:
    """All edges below a pattern with the node they start at, the pattern's own first."""
    for edge in pattern.edges:
        yield pattern, edge
    for edge in pattern.edges:
        yield from walk(edge.node)


def edge_key(edge: Edge) -> tuple[bool, str, str]:
    """The order of edges in a pattern."""
    return not edge.direct, edge.node.name, repr(edge)


def constrain(a: Pattern, b: Pattern) -> Pattern:
    """The pattern that asks what both ask (``Spec.constrain`` in Spack, without package code).

    Raises SpecError where they exclude each other, and for a nameless dependency in ``b``.
    """
    edges = a.edges
    for edge in b.edges:
        if not edge.node.name:
            raise SpecError(f"cannot merge {str(a)!r} with {str(b)!r}: a dependency has no name")
        edges = _merge_edge(edges, edge)
    versions = a.versions.meet(b.versions)
    if versions is None:
        raise _conflict("versions", str(a.versions), str(b.versions))
    return Pattern(
        name=_same("names", a.name, b.name),
        namespace=_same("namespaces", a.namespace or "", b.namespace or "") or None,
        versions=versions,
        variants=_merge_variants(a.variants, b.variants),
        flags=_merge_flags(dict(a.flags), dict(b.flags)),
        platform=_same("platforms", a.platform, b.platform),
        os=_same("operating systems", a.os, b.os),
        target=_merge_targets(a.target, b.target),
        hash=_merge_hashes(a.hash, b.hash),
        edges=tuple(sorted(edges, key=edge_key)),
    )


def add_edge(edges: tuple[Edge, ...], new: Edge) -> tuple[Edge, ...]:
    """The edges with one more, if its dependency types agree with those that are there.

    Two edges to the same package must not share a type, and only one may be link or run.
    """
    for edge in edges:
        if edge.when == new.when and (not new.node.name or edge.node.name == new.node.name):
            both = ({*edge.deptypes}, {*new.deptypes})
            if both[0] & both[1] or all(types & {"link", "run"} for types in both):
                raise SpecError(f"{new.node.name or '*'} is twice a dependency of the same type")
    return (*edges, new)


def implies(a: Pattern, b: Pattern) -> bool:
    """Whether every spec that matches ``a`` matches ``b`` (``satisfies`` of two abstract specs).

    Without package code, so a virtual matches only where it is written as one.
    """
    return _node_implies(a, b) and all(_edge_implied(a, parent, edge) for parent, edge in walk(b))


def _node_implies(a: Pattern, b: Pattern) -> bool:
    return (
        a.hash.startswith(b.hash)
        and not (a.name and b.name and a.name != b.name)
        and not (a.namespace and b.namespace and a.namespace != b.namespace)
        and b.versions.includes(a.versions)
        and _variants_imply(a, b)
        and _arch_implies(a, b)
        and _flags_imply(dict(a.flags), dict(b.flags))
    )


def _variants_imply(a: Pattern, b: Pattern) -> bool:
    mine = {variant.name: variant for variant in a.variants}
    for wanted in b.variants:
        found = mine.get(wanted.name)
        if wanted.propagate:
            nodes = [a, *(edge.node for _, edge in walk(a))]
            held = [v for node in nodes for v in node.variants if v.name == wanted.name]
            if not all(_variant_implies(variant, wanted) for variant in held):
                return False
        elif found is None or found.propagate or not _variant_implies(found, wanted):
            return False
    return True


def _variant_implies(a: Variant, b: Variant) -> bool:
    if b.exact:
        return a.exact and a.values == b.values
    return set(b.values) <= set(a.values)


def _arch_implies(a: Pattern, b: Pattern) -> bool:
    for mine, wanted in ((a.platform, b.platform), (a.os, b.os)):
        if mine and wanted == "*":
            return True
        if wanted and mine != wanted:
            return False
    return not b.target or bool(a.target and common_target(a.target, b.target))


def _flags_imply(a: dict[str, tuple[Flag, ...]], b: dict[str, tuple[Flag, ...]]) -> bool:
    return all(
        name in a and {flag.text for flag in b[name]} <= {flag.text for flag in a[name]}
        for name in b
    )


def _edge_implied(a: Pattern, parent: Pattern, edge: Edge) -> bool:
    current: Pattern | None = a
    if parent.name and parent.name != edge.node.name:
        current = _find(a, parent.name)
    if current is None:
        return False
    if edge.when and not _agree(current, edge.when):
        return True
    if not edge.direct:
        return _below(a, edge)
    return any(
        (not edge.node.name or mine.node.name == edge.node.name)
        and (not edge.virtuals or not {*edge.virtuals}.isdisjoint(mine.virtuals))
        and {*edge.deptypes} <= {*mine.deptypes}
        and implies(edge.when or Pattern(), mine.when or Pattern())
        and implies(mine.node, edge.node)
        for mine in current.edges
    )


def _below(a: Pattern, edge: Edge) -> bool:
    name = edge.node.name
    found = [
        mine
        for _, mine in walk(a)
        if not name
        or (
            name in (mine.node.name, *mine.virtuals)
            and implies(edge.when or Pattern(), mine.when or Pattern())
        )
    ]
    wanted = {virtual for mine in found for virtual in mine.virtuals}
    node = replace(edge.node, edges=())
    return {*edge.virtuals} <= wanted and any(implies(mine.node, node) for mine in found)


def _find(a: Pattern, name: str) -> Pattern | None:
    """The node that Spack means by ``spec[name]``: direct dependencies before the spec itself."""
    for edge in a.edges:
        if name in (edge.node.name, *edge.virtuals):
            return edge.node
    if a.name == name:
        return a
    deeper = (edge.node for _, edge in walk(a) if name in (edge.node.name, *edge.virtuals))
    return next(deeper, None)


def _agree(a: Pattern, b: Pattern) -> bool:
    try:
        constrain(a, b)
    except SpecError:
        return False
    return True


def _conflict(what: str, a: str, b: str) -> SpecError:
    return SpecError(f"conflicting {what}: {a[:200]!r} and {b[:200]!r}")


def _same(what: str, a: str, b: str) -> str:
    if a and b and a != b:
        raise _conflict(what, a, b)
    return a or b


def _merge_targets(a: str, b: str) -> str:
    if not a or not b:
        return a or b
    both = common_target(a, b)
    if not both:
        raise _conflict("targets", a, b)
    return both


def _merge_hashes(a: str, b: str) -> str:
    if not a.startswith(b) and not b.startswith(a):
        raise _conflict("hashes", a, b)
    return max(a, b, key=len)


def _merge_variants(a: tuple[Variant, ...], b: tuple[Variant, ...]) -> tuple[Variant, ...]:
    merged = {variant.name: variant for variant in a}
    for new in b:
        old = merged.get(new.name)
        merged[new.name] = new if old is None else _merge_variant(old, new)
    return tuple(merged[name] for name in sorted(merged))


def _merge_variant(a: Variant, b: Variant) -> Variant:
    mine, other = set(a.values), set(b.values)
    if a.exact and b.exact:
        agree = mine == other
    else:
        agree = (not a.exact or other <= mine) and (not b.exact or mine <= other)
    if not agree:
        raise _conflict("variants", str(a), str(b))
    values = tuple(sorted(mine | other, key=str))
    return Variant(a.name, values, a.exact or b.exact, a.propagate and b.propagate)


def _merge_flags(
    a: dict[str, tuple[Flag, ...]], b: dict[str, tuple[Flag, ...]]
) -> tuple[tuple[str, tuple[Flag, ...]], ...]:
    for name, flags in b.items():
        have = {flag.text for flag in a.get(name, ())}
        a[name] = (*a.get(name, ()), *(flag for flag in flags if flag.text not in have))
    return tuple(sorted(a.items()))


def _merge_edge(edges: tuple[Edge, ...], new: Edge) -> tuple[Edge, ...]:
    for index, edge in enumerate(edges):
        if edge.node.name == new.node.name and edge.when == new.when:
            merged = Edge(
                constrain(edge.node, new.node),
                edge.direct or new.direct,
                tuple(t for t in DEPTYPES if t in (*edge.deptypes, *new.deptypes)),
                tuple(sorted({*edge.virtuals, *new.virtuals})),
                edge.when,
                edge.preferred,
            )
            return (*edges[:index], merged, *edges[index + 1 :])
    return add_edge(edges, new)


def _node_text(node: Pattern) -> str:
    head = f"{node.namespace}.{node.name}" if node.namespace and node.name else node.name
    if node.versions != ANY:
        head += f"@{node.versions}"
    words = [head] if head else []
    for name, flags in node.flags:
        for propagate, run in groupby(flags, key=lambda flag: flag.propagate):
            value = quote(" ".join(flag.text for flag in run))
            words.append(f"{name}{'=' * (1 + propagate)}{value}")
    booleans = "".join(str(v) for v in node.variants if v.boolean)
    if booleans and words and not node.flags:
        words[-1] += booleans
    elif booleans:
        words.append(booleans)
    words += [str(v) for v in node.variants if not v.boolean]
    pairs = {"platform": node.platform, "os": node.os, "target": node.target}
    if not node.name:
        pairs = {"namespace": node.namespace or "", **pairs}
    words += [f"{key}={_plain(value)}" for key, value in pairs.items() if value]
    if node.hash:  # a value would swallow the slash
        glue = " " if words and "=" in words[-1] else ""
        return " ".join(words) + f"{glue}/{node.hash}"
    return " ".join(words)


def _plain(value: str) -> str:
    return value if _ARCH.fullmatch(value) else quote(value)


def _edge_texts(pattern: Pattern) -> Iterator[str]:
    for edge in pattern.edges:
        node = replace(edge.node, name=_SHORT.get(edge.node.name, edge.node.name), edges=())
        text = str(node) if edge.direct else _node_text(edge.node)
        attributes = []
        if edge.when:
            when = str(edge.when)
            sign = '"' if "'" in when else "'"
            attributes.append(f"when={sign}{when}{sign}")
        if edge.deptypes:
            attributes.append(f"deptypes={','.join(edge.deptypes)}")
        if edge.virtuals and not edge.node.name:
            attributes.append(f"virtuals={','.join(edge.virtuals)}")
        virtuals = f"{','.join(edge.virtuals)}=" if edge.virtuals and edge.node.name else ""
        sigil = ("%" if edge.direct else "^") * (1 + edge.preferred)
        inside = f"[{' '.join(attributes)}] " if attributes else ""
        star = "" if edge.node.name or text.startswith(("@", "+", "~")) else "*"
        yield f"{sigil}{inside}{virtuals}{star}{text}"
        yield from _edge_texts(edge.node)
