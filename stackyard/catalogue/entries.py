"""What a catalogue knows of one binary."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

from stackyard.binary import Binary
from stackyard.errors import CorruptError
from stackyard.listing import compiler_text
from stackyard.lock import Spec
from stackyard.pattern import FLAGS
from stackyard.spec import format_variants

__all__ = ["Edge", "Entry", "make_entry"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_ORDER = ("build", "link", "run", "test")
_TYPES = frozenset(_ORDER)


class Edge(NamedTuple):
    """A direct dependency. ``version`` is empty where nobody told it."""

    name: str
    version: str
    hash: str
    types: tuple[str, ...]


class Entry(NamedTuple):
    """One binary, by its DAG hash.

    ``variants`` are the parameters of its node, with compiler flags only where there are some.
    ``key`` and ``stamp`` are those of its manifest, so that the next run sees what changed.
    ``size_bytes`` and ``checksum`` are those of the tarball as stored. ``signed``: the manifest
    carries a signature, which nobody verified. ``added_s`` is in seconds since the epoch, None where
    the mirror does not tell.
    """

    hash: str
    name: str
    version: str
    namespace: str
    platform: str
    os: str
    target: str
    compiler: str
    variants: Mapping[str, Any]
    edges: tuple[Edge, ...]
    layout: str
    key: str
    stamp: str
    size_bytes: int | None
    checksum: str
    signed: bool
    added_s: int | None

    @property
    def system(self) -> str:
        """Platform and operating system, as Spack puts them together."""
        return f"{self.platform}-{self.os}"

    @property
    def variant_text(self) -> str:
        """``+shared build_type=Release``, as Spack prints it."""
        return format_variants(self.variants)


def make_entry(  # noqa: PLR0913 - passed by name
    binary: Binary,
    spec: Spec,
    specs: Mapping[str, Spec],
    *,
    where: str,
    stamp: str,
    added_s: int | None,
) -> Entry:
    """The entry of a binary. ``specs`` are all known ones, by DAG hash: for versions and compiler.

    Raises CorruptError naming ``where`` for what Spack never writes and ``parse_node`` lets pass.
    """
    given = sorted(spec.parameters.items())
    variants = {name: value for name, value in given if value or name not in FLAGS}
    if not all(map(_is_finite, variants.values())):
        raise CorruptError("a variant is no number", where=where)
    return Entry(
        hash=spec.hash,
        name=spec.name,
        version=spec.version,
        namespace=spec.namespace,
        platform=spec.platform,
        os=spec.os,
        target=spec.target,
        compiler=compiler_text(spec, specs),
        variants=variants,
        edges=_edges(spec, specs, where),
        layout=str(binary.layout),
        key=binary.key,
        stamp=stamp,
        size_bytes=binary.tarball.size_bytes,
        checksum=binary.tarball.checksum,
        signed=binary.signed,
        added_s=added_s,
    )


def _is_finite(value: object) -> bool:
    """Whether JSON can hold it."""
    values = value if isinstance(value, list) else [value]
    return all(isfinite(one) for one in values if isinstance(one, float))


def _edges(spec: Spec, specs: Mapping[str, Spec], where: str) -> tuple[Edge, ...]:
    """By name; two edges to one node, which Spack may write, become one."""
    found: dict[str, Edge] = {}
    for one in spec.dependencies:
        node = specs.get(one.hash)
        name = node.name if node else one.name
        if not _NAME.fullmatch(name) or not _TYPES.issuperset(one.deptypes):
            raise CorruptError(f"it cannot depend on {name[:80]!r}", where=where)
        before = found[one.hash].types if one.hash in found else ()
        types = tuple(kind for kind in _ORDER if kind in (*before, *one.deptypes))
        found[one.hash] = Edge(name, node.version if node else "", one.hash, types)
    return tuple(sorted(found.values()))
