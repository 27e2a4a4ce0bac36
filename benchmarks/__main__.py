"""Run the benchmarks.

``python -m benchmarks [--spack DIR] [--repository DIR,DIR] [--json] [--only TEXT] [--specs N,N]``
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.cloning import measure_clones
from benchmarks.fetching import measure_fetches
from benchmarks.indexing import Measured, measure_index
from benchmarks.lookups import measure_lookups
from benchmarks.synthetic import make_lock, make_manifest
from benchmarks.verifying import measure_verify

ROOT = Path(__file__).resolve().parent.parent

_FLOOR = """
import invoke, jinja2, json, sys, yaml
with open(sys.argv[1], "rb") as file:
    json.loads(file.read())
with open(sys.argv[2], "wb") as file:
    file.write(b"x" * int(sys.argv[3]))
"""

_CI = """  ci:
    pipeline-gen:
    - any-job:
        image: {name: "registry.example.com/builder:1", entrypoint: [""]}
        before_script:
        - - . /opt/spack/share/spack/setup-env.sh
          - spack --version
        tags: [spack]
    - build-job:
        variables: {CI_JOB_SIZE: default}
    - submapping:
      - match: [package-17, package-99, gcc, llvm]
        build-job: {tags: [large], variables: {CI_JOB_SIZE: large}}
"""


class Cost(NamedTuple):
    """Seconds of CPU and MiB of memory at the peak, of one process."""

    cpu_s: float
    peak_mib: float


class Result(NamedTuple):
    name: str
    ours: str
    peer: str
    ratio: float
    target: str


def cost(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None, runs: int = 5
) -> Cost:
    """The median of ``runs`` runs; raises if one fails."""
    costs = [_one(argv, cwd, env) for _ in range(runs)]
    return Cost(
        statistics.median(one.cpu_s for one in costs),
        statistics.median(one.peak_mib for one in costs),
    )


def _one(argv: Sequence[str], cwd: Path, env: Mapping[str, str] | None) -> Cost:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            list(argv),
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.stderr.write(output.read().decode(errors="replace"))
            message = f"{argv} ended with {process.returncode}"
            raise SystemExit(message)
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _tool(name: str) -> str:
    """A program of this virtual environment."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.is_file() else str(shutil.which(name) or name)


def bench_list(_: argparse.Namespace) -> list[Result]:
    version = cost([_tool("invoke"), "--version"], cwd=ROOT, runs=15)
    listing = cost([_tool("invoke"), "--list"], cwd=ROOT, runs=15)
    return [_result("list", listing, version, "at most 1.6")]


def bench_tutorial(arguments: argparse.Namespace) -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        project = _project(Path(folder), "tutorial")
        shutil.copytree(ROOT / "stacks" / "tutorial", project / "stacks" / "tutorial")
        results = [_against_floor(project, "tutorial", "at most 2, aim 1.5", runs=11)]
        if arguments.spack:
            results.append(_against_spack(project, Path(arguments.spack)))
        return results


def bench_synthetic(_: argparse.Namespace) -> list[Result]:
    results = []
    for count in (5_000, 20_000):
        with tempfile.TemporaryDirectory() as folder:
            project = _project(Path(folder), str(count))
            lock = make_lock(count)
            stack = project / "stacks" / str(count)
            stack.mkdir(parents=True)
            (stack / "spack.lock").write_bytes(lock)
            (stack / "spack.yaml").write_text(make_manifest(lock, _CI))
            results.append(_against_floor(project, str(count), "at most 3", runs=3))
    return results


def bench_lookups(_: argparse.Namespace) -> list[Result]:
    parallel, serial, requests = measure_lookups()
    return [
        Result(
            f"look-ups ({requests} requests)",
            f"{parallel:.2f} s",
            f"{serial:.2f} s",
            parallel / serial,
            "one round trip each, at once",
        )
    ]


def bench_index(arguments: argparse.Namespace) -> list[Result]:
    return [
        _result(row.name, row.ours, row.peer, row.target)
        for count in arguments.specs.split(",")
        for row in _index_rows(int(count), arguments.spack)
    ]


def _index_rows(count: int, spack: str) -> list[Measured]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return measure_index(folder, count, lambda argv: _one(argv, folder, None), spack)


def bench_fetch(_: argparse.Namespace) -> list[Result]:
    """Wall time: what counts here is who waits how long."""
    targets = {"s5cmd": (1.0, 1.3), "aws": (0.5, 1.0)}
    results = []
    for number, (name, times) in enumerate(measure_fetches(runs=5).items()):
        ours = times["stackyard"]
        results += [
            Result(
                f"fetch {name}, {peer}",
                str(ours),
                str(theirs),
                ours.wall_s / theirs.wall_s,
                f"at most {targets[peer][number]}",
            )
            for peer, theirs in times.items()
            if peer in targets
        ]
    return results


def bench_verify(_: argparse.Namespace) -> list[Result]:
    """CPU time: who hashes with several threads has no fewer bytes to hash."""
    peers = ("openssl", "floor")
    targets = ("at most 1.4, with the start of Python", "reading and hashing")
    return [
        Result(f"verify {name}, {peer}", str(ours), str(theirs), ours.cpu_s / theirs.cpu_s, target)
        for (name, (ours, theirs)), peer, target in zip(
            measure_verify(runs=5).items(), peers, targets, strict=True
        )
    ]


def bench_clone(arguments: argparse.Namespace) -> list[Result]:
    """By bytes: the network is what people wait for. Nothing is measured without a repository."""
    results = []
    for repository in filter(None, arguments.repository.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            costs = dict(measure_clones(Path(repository), Path(folder)))
        plain, shallow = costs.pop("git clone"), costs.pop("git clone --depth 1")
        name = f"clone {Path(repository).name.removesuffix('.git')}"
        results.append(
            Result(
                f"{name}, --depth 1",
                str(costs["first"]),
                str(shallow),
                costs["first"].size_bytes / shallow.size_bytes,
                "about 1",
            )
        )
        for way, ours in costs.items():
            target = "0" if way in ("from the cache", "there already") else "under 0.1"
            ratio = ours.size_bytes / plain.size_bytes
            results.append(Result(f"{name}, {way}", str(ours), str(plain), ratio, target))
    return results


def _project(folder: Path, _: str) -> Path:
    (folder / "invoke.yaml").write_text("stackyard: {limits: {artifact_bytes: 0}}\n")
    return folder


def _against_floor(project: Path, stack: str, target: str, *, runs: int) -> Result:
    ours = cost(
        [_tool("stackyard"), "generate", "--stack", stack, "--no-prune"], cwd=project, runs=runs
    )
    lock = project / "stacks" / stack / "spack.lock"
    size = (project / "jobs_scratch_dir" / "pipeline.yml").stat().st_size
    floor = cost(
        [sys.executable, "-c", _FLOOR, str(lock), str(project / "floor"), str(size)],
        cwd=project,
        runs=runs,
    )
    room = 60 + 10 * lock.stat().st_size / 2**20
    return _result(f"generate {stack}", ours, floor, f"{target}; memory at most {room:.0f} MiB")


def _against_spack(project: Path, spack: Path) -> Result:
    """Both make the same pipeline from the same lock; Spack needs a configured checkout."""
    environment = project / "environment"
    shutil.copytree(project / "stacks" / "tutorial", environment)
    theirs = cost(
        [str(spack / "bin" / "spack"), "-e", str(environment), "ci", "generate",
         "--no-prune-dag", "--output-file", str(project / "spack.yml")],
        cwd=project,
        env={"CI_PROJECT_DIR": str(project)},
        runs=3,
    )  # fmt: skip
    ours = cost(
        [_tool("stackyard"), "generate", "--stack", "tutorial", "--no-prune"], cwd=project, runs=5
    )
    return _result("spack tutorial", ours, theirs, "at most 0.125")


def _result(name: str, ours: Cost, peer: Cost, target: str) -> Result:
    return Result(name, _shown(ours), _shown(peer), ours.cpu_s / peer.cpu_s, target)


def _shown(one: Cost) -> str:
    return f"{one.cpu_s:.3f} s, {one.peak_mib:.0f} MiB"


BENCHMARKS: Mapping[str, Callable[[argparse.Namespace], list[Result]]] = {
    "list": bench_list,
    "tutorial": bench_tutorial,
    "synthetic": bench_synthetic,
    "look-ups": bench_lookups,
    "index": bench_index,
    "fetch": bench_fetch,
    "clone": bench_clone,
    "verify": bench_verify,
}


def main() -> None:
    """Run all benchmarks, or those whose name contains ``--only``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spack", default="")
    parser.add_argument("--repository", default="", help="clones of git repositories to serve")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--specs", default="5000", help="sizes of mirrors, such as 5000,20000")
    arguments = parser.parse_args()
    results = [
        result
        for name, run in BENCHMARKS.items()
        if arguments.only in name
        for result in run(arguments)
    ]
    if arguments.json:
        print(json.dumps([result._asdict() for result in results], indent=2))
        return
    print("| benchmark | ours | peer | ratio | target |\n|---|---|---|---|---|")
    for result in results:
        print(
            f"| {result.name} | {result.ours} | {result.peer} | {result.ratio:.3g} "
            f"| {result.target} |"
        )


if __name__ == "__main__":
    main()
