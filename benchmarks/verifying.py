"""Verifying a mirror in a folder: ours, against who only reads the same files and hashes them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.fetching import Shape, Taken, make_mirror, median, timed
from benchmarks.indexing import fill_mirror

__all__ = ["measure_verify"]

_STACKYARD = str(Path(sys.executable).parent / "stackyard")

#: Reads every file of the mirror and hashes it, and looks at nothing.
_FLOOR = """
import hashlib, os, sys
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            hashlib.sha256(file.read()).hexdigest()
"""


def measure_verify(runs: int) -> Mapping[str, tuple[Taken, Taken]]:
    """What ``mirror.verify`` and its peer take, in turns, by the name of the mirror.

    All files were just written, so that they come out of memory: then the hash function is what
    there is to wait for, and not a disk. ``openssl`` is asked for the large blobs alone.
    """
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_mirror(folder / "large", Shape(64, 4096, 16 * 2**20))
        blobs = [
            path for path in (folder / "large" / "blobs").rglob("*") if path.stat().st_size > 2**20
        ]
        digest = ["openssl", "dgst", "-sha256", *map(str, blobs)]
        found["64 blobs of 16 MiB"] = _measure(folder / "large", digest, runs)
    with tempfile.TemporaryDirectory() as name:
        small = Path(name) / "small"
        fill_mirror(small, 5000, own=True)
        subprocess.run(
            [_STACKYARD, "mirror.index", "--url", str(small)], check=True, capture_output=True
        )
        floor = [sys.executable, "-c", _FLOOR, str(small)]
        found["5,000 small binaries"] = _measure(small, floor, runs)
    return found


def _measure(mirror: Path, peer: Sequence[str], runs: int) -> tuple[Taken, Taken]:
    verify = [_STACKYARD, "mirror.verify", "--unsigned", "--url", str(mirror)]
    rows = [(timed(verify, mirror, {}), timed(peer, mirror, {})) for _ in range(runs)]
    ours, theirs = zip(*rows, strict=True)
    return median(ours), median(theirs)
