"""The entries of a site as it was last written, so that the next run reads only what changed.

JSON in tables, because 20,000 binaries have few kinds of parts. It lies in a folder that anybody may
have changed, and names out of it become paths: everything is checked when it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from stackyard.catalogue.entries import Edge, Entry
from stackyard.errors import CorruptError
from stackyard.lock import parse_node
from stackyard.mirror import parse_json

__all__ = ["State", "dump_state", "parse_state"]

_VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LAYOUTS = frozenset({"2", "3", "oci"})


class State(NamedTuple):
    """The mirror that a site shows, and its binaries by DAG hash.

    ``keys`` are the fingerprints of keys that lie in the site.
    """

    url: str
    entries: Mapping[str, Entry]
    keys: tuple[str, ...] = ()


class _Table:
    """Values by number, each once, in the order in which they came."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[object, int] = {}

    def number(self, value: Any, key: object = None) -> int:
        key = value if key is None else key
        if key not in self._numbers:
            self._numbers[key] = len(self.values)
            self.values.append(value)
        return self._numbers[key]


def dump_state(state: State) -> bytes:
    """JSON; the same entries give the same bytes, by whatever steps they came."""
    nodes, places, variants, kinds = _Table(), _Table(), _Table(), _Table()
    rows = []
    for key in sorted(state.entries):
        one = state.entries[key]
        rows.append(
            [
                nodes.number((one.name, one.version, one.hash)),
                places.number((one.namespace, one.platform, one.os, one.target, one.compiler)),
                variants.number(one.variants, repr(sorted(one.variants.items()))),
                [
                    number
                    for edge in one.edges
                    for number in (nodes.number(edge[:3]), kinds.number(edge.types))
                ],
                *one[10:],
            ]
        )
    document = {
        "version": _VERSION,
        "kind": "state",
        "schema": "schema.json",
        "url": state.url,
        "keys": state.keys,
        "nodes": nodes.values,
        "places": places.values,
        "variants": variants.values,
        "types": kinds.values,
        "entries": rows,
    }
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def parse_state(data: bytes, where: str) -> State:
    """What ``dump_state`` wrote. Raises CorruptError naming ``where``."""
    document = parse_json(data, where, "state of the site")
    try:
        if document["version"] != _VERSION:
            raise CorruptError("the state of the site is of another stackyard", where=where)
        entries = {entry.hash: entry for entry in _entries(document)}
        keys = tuple(document["keys"])
        url = document["url"]
        sound = all(re.fullmatch(r"[0-9A-F]{40,64}", key) for key in keys) and isinstance(url, str)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        sound = False
    if not sound:
        raise CorruptError("the state of the site has another shape", where=where)
    return State(url, entries, keys)


def _entries(document: Mapping[str, Any]) -> Iterable[Entry]:
    nodes = [_node(value) for value in document["nodes"]]
    places = [_texts(value, 5) for value in document["places"]]
    kinds = [(*_texts(value, len(value)),) for value in document["types"]]
    for place in places:
        _check_arch(*place[1:4])
    for value in document["variants"]:
        _check_variants(value)
    for row in document["entries"]:
        node, place, variants, edges, layout, key, stamp, size, checksum, signed, added = row
        if (
            layout not in _LAYOUTS
            or not _SHA256.fullmatch(checksum)
            or not isinstance(signed, bool)
            or not all(isinstance(text, str) for text in (key, stamp))
            or not all(one is None or type(one) is int for one in (size, added))
        ):
            raise ValueError
        name, version, dag_hash = nodes[node]
        namespace, platform, os, target, compiler = places[place]
        yield Entry(
            hash=dag_hash,
            name=name,
            version=version,
            namespace=namespace,
            platform=platform,
            os=os,
            target=target,
            compiler=compiler,
            variants=document["variants"][variants],
            edges=tuple(
                _edge(nodes[number], kinds[kind])
                for number, kind in zip(edges[::2], edges[1::2], strict=True)
            ),
            layout=layout,
            key=key,
            stamp=stamp,
            size_bytes=size,
            checksum=checksum,
            signed=signed,
            added_s=added,
        )


def _edge(node: tuple[str, str, str], kinds: tuple[str, ...]) -> Edge:
    name, version, dag_hash = node
    return Edge(name, version, dag_hash, kinds)


def _texts(value: Any, count: int) -> list[str]:
    if len(value) != count or not all(isinstance(text, str) for text in value):
        raise ValueError
    return list(value)


def _node(value: Any) -> tuple[str, str, str]:
    """Name, version and hash, such as a spec can have; the version of an edge may be unknown."""
    name, version, dag_hash = _texts(value, 3)
    _check({"name": name, "version": version or "0", "hash": dag_hash})
    return name, version, dag_hash


def _check_arch(platform: str, os: str, target: str) -> None:
    _check({"arch": {"platform": platform, "platform_os": os, "target": target}})


def _check_variants(value: Any) -> None:
    _check({"parameters": value})


def _check(part: Mapping[str, Any]) -> None:
    """Raises ValueError (LockError's kind of refusal) for what no node could have."""
    arch = {"platform": "linux", "platform_os": "none", "target": "x86_64"}
    node = {"name": "a", "version": "1", "hash": "a" * 32, "arch": arch, **part}
    try:
        parse_node(node, 5)
    except Exception as error:
        raise ValueError from error
