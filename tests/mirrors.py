"""Make small mirrors for tests: specs with true hashes, and binaries of layout 3."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import locks

from benchmarks.indexing import binary_files, true_hash
from stackyard.binary import Metadata

Nodes = Mapping[str, dict[str, Any]]


def specs(needs: Mapping[str, Sequence[str]], external: Iterable[str] = ()) -> Nodes:
    """A node for each name; what one needs comes before it."""
    made: dict[str, dict[str, Any]] = {}
    for name, others in needs.items():
        node = locks.node(name, sorted(others), **(locks.EXTERNAL if name in external else {}))
        for edge in node["dependencies"]:
            edge["hash"] = made[edge["name"]]["hash"]
        if not others:
            del node["dependencies"]
        del node["hash"]
        node["hash"] = true_hash(node)
        made[name] = node
    return made


def closure(nodes: Nodes, name: str) -> tuple[dict[str, Any], ...]:
    """The node and all that it reaches, itself first."""
    found = [name]
    for one in found:
        found += [e["name"] for e in nodes[one].get("dependencies", ()) if e["name"] not in found]
    return tuple(nodes[one] for one in dict.fromkeys(found))


def metadata(nodes: Nodes, names: Iterable[str]) -> list[Metadata]:
    return [Metadata(closure(nodes, name), 5) for name in names]


def files(nodes: Nodes, *names: str) -> dict[str, bytes]:
    """Binaries as Spack writes them, but for their tarballs: blobs, then the manifest of each."""
    return {key: data for name in names for key, data in binary_files(closure(nodes, name)).items()}


def push(folder: Path, nodes: Nodes, *names: str) -> list[Path]:
    """Put binaries into a folder, without an index; gives the paths of their manifests."""
    for key, data in files(nodes, *names).items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return [folder / manifest_key(nodes[name]) for name in names]


def manifest_key(node: Mapping[str, Any]) -> str:
    name = f"{node['name']}-{node['version']}-{node['hash']}"
    return f"v3/manifests/spec/{node['name']}/{name}.spec.manifest.json"


def oracle(nodes: Nodes, names: Iterable[str]) -> bytes:
    """The index of these binaries, made the long way round."""
    present = set(names)
    reached = {one["name"]: one for name in present for one in closure(nodes, name)}
    counts = dict.fromkeys(reached, 0)
    for one in reached.values():
        for edge in one.get("dependencies", ()):
            counts[edge["name"]] += 1
    installs = {
        node["hash"]: {"spec": node, "ref_count": counts[name], "in_buildcache": name in present}
        for name, node in reached.items()
    }
    document = {"database": {"version": "8", "installs": dict(sorted(installs.items()))}}
    return json.dumps(document, separators=(",", ":")).encode()


def published(folder: Path) -> bytes:
    """The index that a mirror's manifest names, checked against its checksum."""
    manifest = json.loads((folder / "v3/manifests/index/index.manifest.json").read_bytes())
    for record in manifest["data"]:
        checksum = record["checksum"]
        data = (folder / "blobs" / "sha256" / checksum[:2] / checksum).read_bytes()
        assert hashlib.sha256(data).hexdigest() == checksum
        assert len(data) == record["contentLength"]
    first: str = manifest["data"][0]["checksum"]
    return (folder / "blobs" / "sha256" / first[:2] / first).read_bytes()
