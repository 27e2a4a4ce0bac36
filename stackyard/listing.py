"""What a mirror holds, as a table for people, as JSON for programs, and by spec string."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from stackyard.fetch import size_text
from stackyard.lock import Lock, Spec
from stackyard.mirror import Layout
from stackyard.pattern import Pattern
from stackyard.spec import Matcher

__all__ = [
    "Held",
    "Sharing",
    "columns",
    "compiler_text",
    "list_json",
    "list_table",
    "matching",
    "spec_graph",
]


class Held(NamedTuple):
    """A binary on a mirror. ``signed`` and ``size_bytes`` are None where only the index was read."""

    spec: Spec
    layout: Layout
    compiler: str = ""
    signed: bool | None = None
    size_bytes: int | None = None  # of the tarball, as stored


class Sharing:
    """Makes equal parts of specs one object: 20,000 of them have few kinds of parts."""

    def __init__(self) -> None:
        self._parts: dict[object, Any] = {}

    def share(self, spec: Spec) -> Spec:
        """The same spec; its node has the same keys in the same order."""
        node = {self._one(key): self._value(key, value) for key, value in spec.node.items()}
        children = tuple(map(self._one, spec.children))
        return spec._replace(hash=self._one(spec.hash), children=children, node=node)

    def _value(self, key: str, value: Any) -> Any:
        if isinstance(value, str):
            return self._one(value)
        if key == "dependencies":
            return [self._edge(edge) for edge in value]
        return self._parts.setdefault(repr(value), value)

    def _edge(self, edge: Mapping[str, Any]) -> Mapping[str, Any]:
        return {
            self._one(key): self._one(value)
            if isinstance(value, str)
            else self._parts.setdefault(repr(value), value)
            for key, value in edge.items()
        }

    def _one(self, text: str) -> str:
        return str(self._parts.setdefault((text,), text))


def spec_graph(specs: Iterable[Spec], where: str) -> Lock:
    """All specs of a mirror as one DAG that spec strings can be matched against.

    Edges to specs that the mirror says nothing of are left out, as Spack does when it reads an
    index (``database.py``).
    """
    known = {spec.hash: spec for spec in specs}
    whole = {key: _without_dangling(spec, known) for key, spec in known.items()}
    return Lock(
        where=where,
        version=6,
        spack_version="",
        spack_commit="",
        roots=(),
        included=(),
        specs=whole,
        order=tuple(_dependencies_first(whole)),
    )


def _without_dangling(spec: Spec, known: Mapping[str, Spec]) -> Spec:
    if all(child in known for child in spec.children):
        return spec
    edges = [edge for edge in spec.node["dependencies"] if edge["hash"] in known]
    node = {**spec.node, "dependencies": edges}
    return spec._replace(node=node, children=tuple(c for c in spec.children if c in known))


def _dependencies_first(specs: Mapping[str, Spec]) -> Iterator[str]:
    """Each hash once; a circle, which only a forged index has, ends where it began."""
    seen: set[str] = set()
    for start in specs:
        pending = [(start, False)]
        while pending:
            key, ready = pending.pop()
            if ready:
                yield key
            elif key not in seen:
                seen.add(key)
                pending.append((key, True))
                pending.extend((child, False) for child in specs[key].children)


def matching(graph: Lock, patterns: Sequence[Pattern]) -> frozenset[str]:
    """Hashes of the specs that one of the patterns holds for.

    Raises SpecError where only a package's recipe could tell.
    """
    matcher = Matcher(graph)
    return frozenset(
        key
        for key, spec in graph.specs.items()
        if any(matcher.matches(spec, pattern) for pattern in patterns)
    )


def compiler_text(spec: Spec, specs: Mapping[str, Spec]) -> str:
    """``gcc@12.2.0``; empty for a spec without a compiler, or with one that nobody knows."""
    if legacy := spec.legacy_compiler:
        return "@".join(legacy)
    node = specs.get(spec.compiler)
    return f"{node.name}@{node.version}" if node else ""


def columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, each column as wide as its widest."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def list_table(held: Sequence[Held]) -> str:
    """A line for each binary; size and signature only where they are known of any."""
    sized = any(one.signed is not None for one in held)
    header = ["PACKAGE", "VERSION", "HASH", "TARGET", "COMPILER", *(["SIZE", "SIGNED"] * sized)]
    return columns(header, (_row(one, sized=sized) for one in held))


def _row(one: Held, *, sized: bool) -> list[str]:
    spec = one.spec
    row = [spec.name, spec.version, spec.hash[:7], spec.target, one.compiler]
    if sized:
        size = "" if one.size_bytes is None else size_text(one.size_bytes)
        row += [size, {True: "yes", False: "no", None: ""}[one.signed]]
    return row


def list_json(held: Sequence[Held], url: str) -> str:
    """``{version, url, binaries: [{hash, name, version, platform, os, target, compiler, ...}]}``."""
    document = {"version": 1, "url": url, "binaries": [_entry(one) for one in held]}
    return json.dumps(document, indent=2)


def _entry(one: Held) -> dict[str, Any]:
    spec = one.spec
    return {
        "hash": spec.hash,
        "name": spec.name,
        "version": spec.version,
        "platform": spec.platform,
        "os": spec.os,
        "target": spec.target,
        "compiler": one.compiler,
        "layout": one.layout,
        "signed": one.signed,
        "size_bytes": one.size_bytes,
    }
