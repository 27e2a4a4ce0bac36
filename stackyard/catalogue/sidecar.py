"""The metadata of one binary as the first catalogues of Spack's binaries published it.

Clients of autamus' catalogue ask for ``manifest/dates/``, and then, below ``_cache/`` and one date
after the other, for the file name that layout 2 gives to a spec's metadata. They load it with Spack,
which wants every node that an edge names. So there are those that the binary needs to run, as in
those days; build dependencies would make the files of a large mirror too many bytes for GitHub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stackyard.catalogue.entries import Entry
from stackyard.catalogue.names import crumb
from stackyard.lock import Spec
from stackyard.mirror import compiler_of, polite

__all__ = ["CACHE", "sidecar", "sidecar_path", "tarball_place"]

CACHE = "_cache/"
_LONGEST = 240
_RUNNING = frozenset({"link", "run"})
_KEPT = ("external", "namespace", "parameters", "patches", "package_hash")


def sidecar_path(one: Entry) -> str:
    """Where it lies in a site."""
    file = f"{_stem(one)}.spec.json"
    if len(file) > _LONGEST:
        file = f"{one.hash}.spec.json"
    return f"{CACHE}{crumb(one.added_s)}/build_cache/{file}"


def tarball_place(one: Entry, url: str) -> str:
    """The URL of a binary's tarball on the mirror at ``url``; in a registry, the image's name."""
    if one.layout == "oci":
        return f"{url.partition('://')[2]}:{one.key.rpartition('/')[2]}"
    if one.layout == "3":
        return f"{url}/blobs/sha256/{one.checksum[:2]}/{one.checksum}"
    arch, compiler = _parts(one)
    folders = "/".join(map(polite, (arch, compiler, f"{one.name}-{one.version}")))
    return f"{url}/build_cache/{folders}/{_stem(one)}.spack"


def _stem(one: Entry) -> str:
    return polite("-".join((*_parts(one), one.name, one.version, one.hash)))


def _parts(one: Entry) -> tuple[str, str]:
    name, _, version = one.compiler.partition("@")
    return f"{one.system}-{one.target}", f"{name or 'none'}-{version or 'none'}"


def sidecar(spec: Spec, specs: Mapping[str, Spec], checksum: str) -> bytes:
    """JSON: ``{"spec": {"_meta", "nodes"}, "binary_cache_checksum", "buildinfo"}``.

    The nodes are in the format of version 2: the compiler is an attribute, dependencies have types.
    """
    found = {spec.hash: spec}
    pending = [spec]
    while pending:
        for edge in pending.pop().dependencies:
            node = specs.get(edge.hash)
            if node and edge.hash not in found and _RUNNING.intersection(edge.deptypes):
                found[edge.hash] = node
                pending.append(node)
    document = {
        "spec": {
            "_meta": {"version": 2},
            "nodes": [_old_node(node, found, specs) for node in found.values()],
        },
        "binary_cache_checksum": {"hash_algorithm": "sha256", "hash": checksum},
        "buildinfo": {},
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _old_node(
    spec: Spec, found: Mapping[str, Spec], specs: Mapping[str, Spec]
) -> Mapping[str, Any]:
    compiler = compiler_of(spec, specs)
    node = {"name": spec.name, "version": spec.version, "arch": spec.node["arch"]}
    if compiler and compiler != ("none", "none"):
        node["compiler"] = {"name": compiler[0], "version": compiler[1]}
    node |= {key: spec.node[key] for key in _KEPT if spec.node.get(key)}
    edges = [
        {"name": edge.name, "hash": edge.hash, "type": list(edge.deptypes)}
        for edge in spec.dependencies
        if edge.hash in found and _RUNNING.intersection(edge.deptypes)
    ]
    return {**node, **({"dependencies": edges} if edges else {}), "hash": spec.hash}
