"""``spack.clone`` against ``git clone``, of a repository that git serves by ``file://``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Fetched", "measure_clones"]

#: So many commits lie between two pins, about three weeks of Spack.
_LATER = 100
_MANIFEST = "spack:\n  specs: []\n  repos: {builtin: $env/packages}\n"


class Fetched(NamedTuple):
    """Bytes of packs that came from the server, and seconds until the files were there."""

    size_bytes: int
    wall_s: float

    def __str__(self) -> str:
        return f"{self.size_bytes / 1e6:.1f} MB, {self.wall_s:.1f} s"


def measure_clones(repository: Path, folder: Path) -> Mapping[str, Fetched]:
    """What each way of getting the end of the default branch costs, by its name.

    ``folder`` is empty and gets all of it. The commit before is what a second pin moves from.
    """
    url = repository.resolve().as_uri()
    last, first = (_commit(repository, name) for name in ("HEAD", f"HEAD~{_LATER}"))
    project = folder / "project"
    (project / "stacks" / "bench").mkdir(parents=True)
    (project / "stacks" / "bench" / "spack.yaml").write_text(_MANIFEST)

    def ours(commit: str, to: str, cache: str) -> Fetched:
        env = {
            **os.environ,
            "SPACK_REPO": url,
            "SPACK_CHECKOUT_VERSION": commit,
            "STACKYARD_CACHE": str(folder / cache),
        }
        argv = [sys.executable, "-c", "from stackyard.main import main; main()", "spack.clone"]
        return _measured(
            folder / cache, lambda: _run([*argv, "--to", str(folder / to)], project, env)
        )

    def plain(to: str, *options: str) -> Fetched:
        argv = ["git", "clone", "--quiet", *options, url, str(folder / to)]
        return _measured(folder / to, lambda: _run(argv, folder, os.environ))

    costs = {
        "git clone": plain("plain"),
        "git clone --depth 1": plain("shallow", "--depth", "1"),
        "first": ours(last, "a", "cache"),
        "from the cache": ours(last, "b", "cache"),
        "there already": ours(last, "b", "cache"),
    }
    ours(first, "c", "other")
    costs[f"{_LATER} commits on"] = ours(last, "c", "other")
    for path in folder.iterdir():
        shutil.rmtree(path)
    return costs


def _commit(repository: Path, name: str) -> str:
    argv = ["git", "-C", str(repository), "rev-parse", "--verify", f"{name}^{{commit}}"]
    return subprocess.check_output(argv, text=True).strip()


def _measured(where: Path, action: Callable[[], None]) -> Fetched:
    before, start = _packed(where), time.perf_counter()
    action()
    return Fetched(_packed(where) - before, time.perf_counter() - start)


def _packed(where: Path) -> int:
    """Bytes of packs and loose objects in all repositories below."""
    return sum(
        path.stat().st_size
        for path in where.rglob("*")
        if "objects" in path.parts and path.is_file() and path.suffix not in (".idx", ".rev")
    )


def _run(argv: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        message = f"{argv} ended with {done.returncode}: {done.stderr}"
        raise SystemExit(message)
