"""Make small locks for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stackyard.lock import Lock, parse_lock

COMMIT = "2e907202bcc8209a6a62243aab50c179b524cc3b"


def key(name: str) -> str:
    """A DAG hash for a name: letters only, 32 of them."""
    letters = "".join(c for c in name.lower() if "a" <= c <= "z") or "x"
    return (letters * 32)[:32]


def node(name: str, needs: Sequence[str] = (), **fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": name,
        "version": "1.0",
        "arch": {"platform": "linux", "platform_os": "debian12", "target": "x86_64_v3"},
        "namespace": "builtin",
        "parameters": {"build_system": "generic"},
        "dependencies": [
            {
                "name": need,
                "hash": key(need),
                "parameters": {"deptypes": ["build", "link"], "virtuals": []},
            }
            for need in needs
        ],
        "annotations": {"original_specfile_version": 5},
        "hash": key(name),
    }
    return made | fields


EXTERNAL: dict[str, Any] = {"external": {"path": "/usr", "module": None, "extra_attributes": {}}}


def document(
    nodes: Mapping[str, Sequence[str]] | Sequence[dict[str, Any]], *, roots: Sequence[str] = ()
) -> dict[str, Any]:
    """A lockfile: nodes by name with what they need, or whole nodes."""
    made = [node(n, needs) for n, needs in nodes.items()] if isinstance(nodes, Mapping) else nodes
    needed = {entry["name"] for one in made for entry in one.get("dependencies", ())}
    top = roots or [one["name"] for one in made if one["name"] not in needed]
    return {
        "_meta": {"file-type": "spack-lockfile", "lockfile-version": 6, "specfile-version": 5},
        "spack": {"version": "1.1.0", "type": "git", "commit": COMMIT},
        "roots": [{"hash": key(name), "spec": name} for name in top],
        "concrete_specs": {one.get("hash") or key(one["name"]): one for one in made},
    }


def text(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def lock(
    nodes: Mapping[str, Sequence[str]] | Sequence[dict[str, Any]], *, roots: Sequence[str] = ()
) -> Lock:
    return parse_lock(text(document(nodes, roots=roots)), "spack.lock")
