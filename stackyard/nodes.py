"""Specs as nodes of an index: taken out of spec blobs and other metadata, checked and renewed."""

from __future__ import annotations

import hashlib
import json
from base64 import b32encode
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from stackyard.binary import parse_metadata
from stackyard.errors import CorruptError, LockError
from stackyard.hashes import Verdict, verify_hash
from stackyard.lock import Spec, parse_node

__all__ = ["Node", "compact", "first_node", "is_whole", "make_node", "other_nodes"]

_NODES = b'"spec":{"_meta":{"version":5},"nodes":['
#: How a spec blob of Spack 1.x begins and ends, and what is between two nodes of it. Between two
#: dependencies of one node there are two braces.
_BEGIN = b'{%b{"name":' % _NODES
_BETWEEN = b'"},{"name":'
_END = b'"}]},"buildcache_layout_version":2}'
#: Most nodes have one or two thousand characters.
_WINDOW = 2**15


class Node(NamedTuple):
    """A spec as the index has it: compact JSON of specfile version 5, in Spack's key order.

    ``children`` are the DAG hashes of its direct dependencies of every type, without repeats.
    """

    hash: str
    text: bytes
    children: tuple[str, ...]


def make_node(
    node: Mapping[str, Any], specfile: int, where: str, wanted: int = 5
) -> tuple[Node, Spec]:
    """A node of any specfile version from 3 to 5, checked, and rewritten if it is an older one.

    Raises CorruptError naming ``where``: another shape, or not what its hash says.
    """
    spec = _checked(node, specfile, where)
    return Node(spec.hash, compact(_renewed(node, specfile, wanted)), spec.children), spec


def _checked(node: Mapping[str, Any], specfile: int, where: str) -> Spec:
    try:
        spec = parse_node(node, specfile)
    except LockError as error:
        raise CorruptError(error.message, where=where) from None
    if verify_hash(spec) is Verdict.FALSE:
        raise CorruptError(f"the spec is not what its hash {spec.hash} says", where=where)
    return spec


def compact(value: Any) -> bytes:
    """JSON as Spack writes it."""
    return json.dumps(value, separators=(",", ":")).encode()


def first_node(data: bytes, where: str) -> tuple[Node, Spec]:
    """The spec that an unpacked spec blob is about. Raises CorruptError as ``make_node`` does.

    Of a blob as Spack 1.x writes it only the beginning is parsed.
    """
    start = data.find(_NODES) + len(_NODES)
    if start >= len(_NODES) and (found := _own_node(data[start : start + _WINDOW])):
        return found
    metadata = parse_metadata(data, where)
    return make_node(metadata.nodes[0], metadata.format, where)


def _own_node(window: bytes) -> tuple[Node, Spec] | None:
    """The node that a text begins with, if it is what its hash says, letter by letter."""
    try:
        node, end = json.JSONDecoder().raw_decode(window.decode("ascii"))
        spec = parse_node(node, 5)
    except (ValueError, RecursionError, LockError, KeyError, TypeError):
        return None
    text = window[:end]
    own = b',"hash":"%b"}' % spec.hash.encode()
    # The hash is taken over the node's text without its hash, so the text need not be made anew.
    if not text.endswith(own) or spec.build_spec:
        return None
    digest = hashlib.sha1(text[: -len(own)] + b"}", usedforsecurity=False).digest()
    if b32encode(digest).decode().lower() != spec.hash:
        return None
    return Node(spec.hash, text, spec.children), spec


def is_whole(data: bytes, known: set[int]) -> bool:
    """Whether an unpacked spec blob is seen to be one to its last letter.

    It takes long to parse a closure, and those of many binaries have most of their nodes in common:
    ``known`` are those that were seen, and grows. False for a blob that Spack 1.x would have written
    otherwise, too: then it has to be parsed.
    """
    if not (data.startswith(_BEGIN) and data.endswith(_END)):
        return False
    for text in data[len(_BEGIN) : -len(_END)].split(_BETWEEN):
        if (seen := hash(text)) not in known:
            try:
                node = json.loads(b'{"name":%b"}' % text)
            except (ValueError, RecursionError):
                return False
            if "hash" not in node:
                return False
            known.add(seen)
    return True


def other_nodes(
    data: bytes, wanted: Iterable[str], known: Callable[[str], bool], where: str
) -> dict[str, Node]:
    """Nodes out of an unpacked spec blob: those wanted, and what they reach that is not known.

    Raises CorruptError naming ``where`` if the blob lacks one of them.
    """
    metadata = parse_metadata(data, where)
    nodes = {node.get("hash"): node for node in metadata.nodes}
    found: dict[str, Node] = {}
    pending = list(wanted)
    while pending:
        dag_hash = pending.pop()
        if dag_hash in found:
            continue
        if dag_hash not in nodes:
            raise CorruptError(f"it lacks the node of its dependency {dag_hash}", where=where)
        found[dag_hash], _ = make_node(nodes[dag_hash], metadata.format, where)
        pending += (child for child in found[dag_hash].children if not known(child))
    return found


def _renewed(node: Mapping[str, Any], specfile: int, wanted: int) -> Mapping[str, Any]:
    """The node as a newer Spack writes it (``SpecfileV3`` to ``SpecfileV5``, ``to_node_dict``)."""
    if specfile >= wanted:
        return node
    new = dict(node)
    if "dependencies" in new:
        new["dependencies"] = [_edge(entry) for entry in new["dependencies"]]
    if wanted < 5:
        return new
    del new["hash"]
    compiler = new.pop("compiler", None)
    text = f"{compiler['name']}@={compiler['version']}" if compiler else "None"
    annotations = {"original_specfile_version": specfile, "compiler": text}
    return {**new, "annotations": annotations, "hash": node["hash"]}


def _edge(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """A dependency with its types where specfile version 4 and newer have them."""
    if "parameters" in entry:
        return entry
    parameters = {"deptypes": list(entry.get("type", ())), "virtuals": []}
    return {"name": entry["name"], "hash": entry["hash"], "parameters": parameters}
