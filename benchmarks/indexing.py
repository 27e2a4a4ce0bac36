"""The index of a large mirror: ours against ``spack buildcache update-index``, on one folder."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import statistics
import sys
import time
import zlib
from base64 import b32encode
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stackyard.lock import Lock, parse_lock

__all__ = [
    "Measured",
    "binary_files",
    "fill_mirror",
    "make_metadata",
    "measure_index",
    "true_hash",
    "write_binary",
]

ROOT = Path(__file__).resolve().parent.parent
_TARBALL = gzip.compress(b"a dummy for all\n", mtime=0)
_SIGNED = """-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA512

{}
-----BEGIN PGP SIGNATURE-----

AAAA
-----END PGP SIGNATURE-----
"""


def make_metadata(count: int, lock: Lock | None = None) -> Iterator[tuple[dict[str, Any], ...]]:
    """The nodes of ``count`` binaries: a real lock again and again, each time with other flags.

    So node sizes and closures are real ones, and hashes are true. Externals are shared.
    """
    if lock is None:
        path = ROOT / "stacks" / "tutorial" / "spack.lock"
        lock = parse_lock(path.read_bytes(), "tutorial")
    made, turn = 0, 0
    while made < count:
        nodes = _turned(lock, turn)
        for key in lock.order:
            if made < count and not lock.specs[key].external:
                made += 1
                others = sorted(lock.closure([key]) - {key})
                yield (nodes[key], *(nodes[other] for other in others))
        turn += 1


def _turned(lock: Lock, turn: int) -> dict[str, dict[str, Any]]:
    nodes: dict[str, dict[str, Any]] = {}
    for key in lock.order:
        node: dict[str, Any] = json.loads(json.dumps(lock.specs[key].node))
        if not lock.specs[key].external:
            node["parameters"]["cflags"] = [f"-DTURN={turn}"]
            for edge in node.get("dependencies", ()):
                edge["hash"] = nodes[edge["hash"]]["hash"]
            del node["hash"]
            node["hash"] = true_hash(node)
        nodes[key] = node
    return nodes


def true_hash(node: dict[str, Any]) -> str:
    text = json.dumps(node, separators=(",", ":")).encode()
    return b32encode(hashlib.sha1(text, usedforsecurity=False).digest()).decode().lower()


def fill_mirror(
    folder: Path, count: int, *, start: int = 0, signed: bool = False, own: bool = False
) -> None:
    """Put binaries number ``start`` to ``count`` on a mirror of layout 3; without an index.

    With ``own`` each has a tarball of its own.
    """
    marker = folder / "v3" / "layout.json"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_bytes(b'{"signing": "gpg"}')
    for number, nodes in enumerate(make_metadata(count)):
        if number >= start:
            tarball = _TARBALL + nodes[0]["hash"].encode() * 100 if own else _TARBALL
            write_binary(folder, nodes, signed=signed, tarball=tarball)


def write_binary(
    folder: Path,
    nodes: tuple[dict[str, Any], ...],
    *,
    signed: bool = False,
    tarball: bytes = _TARBALL,
) -> None:
    """One binary as Spack writes it, but for its tarball."""
    for key, data in binary_files(nodes, signed=signed, tarball=tarball).items():
        path = folder / key
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def binary_files(
    nodes: tuple[dict[str, Any], ...], *, signed: bool = False, tarball: bytes = _TARBALL
) -> dict[str, bytes]:
    """Its blobs and then its manifest, by their keys."""
    document = {
        "spec": {"_meta": {"version": 5}, "nodes": list(nodes)},
        "buildcache_layout_version": 2,
    }
    packer = zlib.compressobj(wbits=31)
    text = json.dumps(document, separators=(",", ":")).encode()
    spec = packer.compress(text) + packer.flush()
    records = [
        _record("application/vnd.spack.install.v2.tar+gzip", tarball),
        _record("application/vnd.spack.spec.v5+json", spec),
    ]
    manifest = json.dumps({"version": 3, "data": records}, indent=0, separators=(",", ":"))
    first = nodes[0]
    name = f"{first['name']}-{first['version']}-{first['hash']}.spec.manifest.json"
    return {
        _blob_key(tarball): tarball,
        _blob_key(spec): spec,
        f"v3/manifests/spec/{first['name']}/{name}": (
            _SIGNED.format(manifest) if signed else manifest
        ).encode(),
    }


def _blob_key(data: bytes) -> str:
    checksum = hashlib.sha256(data).hexdigest()
    return f"blobs/sha256/{checksum[:2]}/{checksum}"


def _record(media_type: str, data: bytes) -> dict[str, Any]:
    return {
        "contentLength": len(data),
        "mediaType": media_type,
        "compression": "gzip",
        "checksumAlgorithm": "sha256",
        "checksum": hashlib.sha256(data).hexdigest(),
    }


#: Reads and checks what a new index needs, and writes nothing.
_FLOOR_FULL = """
import hashlib, json, os, sys, zlib
root = sys.argv[1]
decode = json.JSONDecoder().raw_decode
for folder, _, names in os.walk(os.path.join(root, "v3", "manifests", "spec")):
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            record = json.loads(file.read())["data"][1]
        checksum = record["checksum"]
        with open(os.path.join(root, "blobs", "sha256", checksum[:2], checksum), "rb") as file:
            data = file.read()
        assert hashlib.sha256(data).hexdigest() == checksum
        text = zlib.decompress(data, 31).decode()
        decode(text, text.index("[") + 1)
"""

#: Looks at each manifest's times, and reads and writes an index with its checksums.
_FLOOR_UPDATE = """
import hashlib, json, os, sys
root = sys.argv[1]
def walk(folder):
    for entry in os.scandir(folder):
        walk(entry.path) if entry.is_dir() else entry.stat()
walk(os.path.join(root, "v3", "manifests", "spec"))
with open(os.path.join(root, "v3", "manifests", "index", "index.manifest.json"), "rb") as file:
    checksum = json.loads(file.read())["data"][0]["checksum"]
with open(os.path.join(root, "blobs", "sha256", checksum[:2], checksum), "rb") as file:
    data = file.read()
for _ in range(2):
    hashlib.sha256(data).hexdigest()
with open(os.path.join(root, "floor"), "wb") as file:
    file.write(data)
os.unlink(os.path.join(root, "floor"))
"""


_SAME = """
import json, os, sys
def records(root):
    with open(os.path.join(root, "v3", "manifests", "index", "index.manifest.json"), "rb") as file:
        checksum = json.loads(file.read())["data"][0]["checksum"]
    with open(os.path.join(root, "blobs", "sha256", checksum[:2], checksum), "rb") as file:
        return json.loads(file.read())
assert records(sys.argv[1]) == records(sys.argv[2]), "our index does not say what Spack's says"
"""


class Measured(NamedTuple):
    """What was measured, of us and of somebody else."""

    name: str
    ours: Any
    peer: Any
    target: str


def measure_index(
    folder: Path, count: int, measure: Callable[[Sequence[str]], Any], spack: str
) -> list[Measured]:
    """A new index of so many binaries, and one after ten more; ``measure`` runs a program once.

    ``spack`` is a checkout that has to make the same index, or empty.
    """
    mirror = folder / "mirror"
    fill_mirror(mirror, count)
    task = [str(Path(sys.executable).parent / "stackyard"), "mirror.index", "--url", str(mirror)]
    python = [sys.executable, "-c"]
    peers = _spack(folder, mirror, measure, spack) if spack else None
    time.sleep(2.5)  # stamps of just now would be looked at again
    full, floor_full, update, floor_update = [], [], [], []
    for _ in range(3):
        shutil.rmtree(mirror / "v3" / "manifests" / "index", ignore_errors=True)
        full.append(measure(task))
        floor_full.append(measure([*python, _FLOOR_FULL, str(mirror)]))
    if spack:  # in a process of its own: what this one has held would count as its children's
        measure([*python, _SAME, str(mirror), str(folder / "of-spack")])
    for turn in range(5):
        fill_mirror(mirror, count + 10 * turn + 10, start=count + 10 * turn)
        update.append(measure(task))
        floor_update.append(measure([*python, _FLOOR_UPDATE, str(mirror)]))
    rows = [
        Measured(f"index {count}", _median(full), _median(floor_full), "reading and checking"),
        Measured(
            f"index {count} + 10", _median(update), _median(floor_update), "listing and writing"
        ),
    ]
    if peers:
        rows += [
            Measured(f"index {count}, Spack", _median(full), peers, "at most 1/30"),
            Measured(f"index {count} + 10, Spack", _median(update), peers, "at most 1/200"),
        ]
    return rows


def _median(costs: Sequence[Any]) -> Any:
    return statistics.median_low(sorted(costs))


def _spack(folder: Path, mirror: Path, measure: Callable[[Sequence[str]], Any], spack: str) -> Any:
    """Spack makes all of an index anew, however little changed: one figure for both."""
    copy = folder / "of-spack"
    shutil.copytree(mirror, copy)
    return measure([f"{spack}/bin/spack", "buildcache", "update-index", str(copy)])
