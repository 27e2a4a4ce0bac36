"""Locks of any size, shaped like real ones: for benchmarks and for tests of limits."""

from __future__ import annotations

import hashlib
import json
import random
from base64 import b32encode
from typing import Any

__all__ = ["make_lock", "make_manifest"]

_FLAGS = ("cflags", "cppflags", "cxxflags", "fflags", "ldflags", "ldlibs")


def _hash(text: str) -> str:
    return b32encode(hashlib.sha1(text.encode(), usedforsecurity=False).digest()).decode().lower()


def _node(name: str, version: str, dependencies: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "arch": {"platform": "linux", "platform_os": "debian12", "target": "x86_64_v3"},
        "namespace": "builtin",
        "parameters": {
            "build_system": "cmake",
            "build_type": "Release",
            "generator": "make",
            "ipo": False,
            "pic": True,
            "shared": True,
            **{flag: [] for flag in _FLAGS},
        },
        "package_hash": _hash(f"package {name}") + "a" * 20 + "====",
        **({"dependencies": dependencies} if dependencies else {}),
        "annotations": {"original_specfile_version": 5},
        "hash": _hash(f"{name} {version} {len(dependencies)}"),
    }


def _edge(node: dict[str, Any], deptypes: list[str], virtuals: list[str]) -> dict[str, Any]:
    return {
        "name": node["name"],
        "hash": node["hash"],
        "parameters": {"deptypes": deptypes, "virtuals": virtuals},
    }


def make_lock(count: int, *, wide: int = 0, seed: int = 1) -> bytes:
    """A lock of ``count`` specs: one external compiler, each spec with some seven dependencies.

    With ``wide`` the last spec depends directly on that many others, none of which needs another.
    """
    draw = random.Random(seed)  # noqa: S311 - the same lock each time
    compiler = _node("gcc", "12.2.0", [])
    compiler["external"] = {"path": "/usr", "module": None, "extra_attributes": {}}
    nodes = [compiler]
    languages = _edge(compiler, ["build"], ["c", "cxx"])
    while len(nodes) < count - wide - bool(wide):
        near = nodes[max(1, len(nodes) - 400) :]
        some = draw.sample(near, min(len(near), draw.randint(3, 9)))
        edges = [languages, *(_edge(node, ["build", "link"], []) for node in some)]
        nodes.append(
            _node(f"package-{len(nodes)}", f"{draw.randint(1, 9)}.{len(nodes) % 50}", edges)
        )
    flat = [_node(f"leaf-{number}", "1.0", [languages]) for number in range(wide)]
    nodes += flat
    if wide:
        edges = [languages, *(_edge(node, ["link"], []) for node in flat)]
        nodes.append(_node("widest", "1.0", edges))
    needed = {edge["hash"] for node in nodes for edge in node.get("dependencies", ())}
    roots = [node for node in nodes if node["hash"] not in needed]
    document = {
        "_meta": {"file-type": "spack-lockfile", "lockfile-version": 6, "specfile-version": 5},
        "spack": {
            "version": "1.1.0",
            "type": "git",
            "commit": "2e907202bcc8209a6a62243aab50c179b524cc3b",
        },
        "roots": [
            {"hash": node["hash"], "spec": f"{node['name']}@{node['version']}"} for node in roots
        ],
        "concrete_specs": {node["hash"]: node for node in nodes},
    }
    return json.dumps(document, separators=(",", ":")).encode()


def make_manifest(lock: bytes, ci: str) -> str:
    """A ``spack.yaml`` that asks for the lock's roots; ``ci`` is the text of its ``ci`` section."""
    specs = "\n".join(f"  - {root['spec']}" for root in json.loads(lock)["roots"])
    return (
        "spack:\n  specs:\n" + specs + "\n  mirrors:\n    buildcache-destination:\n"
        "      url: s3://example-binaries/synthetic\n      signed: false\n" + ci
    )
