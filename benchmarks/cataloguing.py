"""The catalogue of a large mirror: new, and after ten more binaries."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.indexing import Measured, fill_mirror

__all__ = ["measure_site"]

_STACKYARD = str(Path(sys.executable).parent / "stackyard")

#: Parses the index and every manifest, and writes as many files and bytes as a site has.
_FLOOR = """
import json, os, sys
mirror, site, to = sys.argv[1:]
manifests = os.path.join(mirror, "v3", "manifests")
for folder, _, names in os.walk(manifests):
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            document = json.loads(file.read())
        if name == "index.manifest.json":
            checksum = document["data"][0]["checksum"]
with open(os.path.join(mirror, "blobs", "sha256", checksum[:2], checksum), "rb") as file:
    json.loads(file.read())
for folder, _, names in os.walk(site):
    there = os.path.join(to, os.path.relpath(folder, site))
    os.makedirs(there)
    for name in names:
        with open(os.path.join(there, name), "wb") as file:
            file.write(b"x" * os.path.getsize(os.path.join(folder, name)))
"""


def measure_site(
    folder: Path, count: int, measure: Callable[[Sequence[str]], Any], spack: str
) -> list[Measured]:
    """``measure`` runs a program once. ``spack`` is a checkout that lists the mirror, or empty."""
    mirror = folder / "mirror"
    site = [_STACKYARD, "site", "--url", str(mirror), "--to"]
    index = [_STACKYARD, "mirror.index", "--url", str(mirror)]
    fill_mirror(mirror, count)
    measure(index)
    time.sleep(2.5)  # stamps of just now would be looked at again
    full = [measure([*site, str(folder / f"site-{turn}")]) for turn in range(3)]
    shown = str(folder / "site-0")
    floor = [
        measure([sys.executable, "-c", _FLOOR, str(mirror), shown, str(folder / f"floor-{turn}")])
        for turn in range(3)
    ]
    update = []
    for turn in range(3):
        fill_mirror(mirror, count + 10 * turn + 10, start=count + 10 * turn)
        measure(index)
        time.sleep(2.5)
        update.append(measure([*site, shown]))
    ours, again = _median(full), _median(update)
    rows = [
        Measured(f"site {count}", ours, _median(floor), "reading and writing"),
        Measured(f"site {count} + 10, all anew", again, ours, "what is the same is not read"),
    ]
    if spack:
        listed = _spack_list(folder, mirror, measure, spack)
        rows += [
            Measured(f"site {count}, Spack's list", ours, listed, "at most 1"),
            Measured(f"site {count} + 10, Spack's list", again, listed, "at most 1/5"),
        ]
    return rows


def _median(costs: Sequence[Any]) -> Any:
    return statistics.median_low(sorted(costs))


def _spack_list(
    folder: Path, mirror: Path, measure: Callable[[Sequence[str]], Any], spack: str
) -> Any:
    """All that Spack tells of a mirror: a text with names, versions, variants and hashes."""
    scope = folder / "scope"
    scope.mkdir()
    (scope / "mirrors.yaml").write_text(
        f"mirrors: {{m: {{url: 'file://{mirror}', signed: false}}}}\n"
    )
    (scope / "config.yaml").write_text(f"config: {{misc_cache: '{folder}/cache'}}\n")
    listing = ["buildcache", "list", "--allarch", "--very-long", "--variants"]
    return measure([f"{spack}/bin/spack", "-C", str(scope), *listing])
