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

from benchmarks.cataloguing import measure_site
from benchmarks.cloning import measure_clones
from benchmarks.fetching import measure_fetches
from benchmarks.images import measure_dump, measure_engines, measure_pulls
from benchmarks.indexing import Measured, measure_index
from benchmarks.lookups import measure_lookups
from benchmarks.starting import configure_compilers, job_lines
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
        for row in _mirror_rows(measure_index, int(count), arguments.spack)
    ]


def bench_site(arguments: argparse.Namespace) -> list[Result]:
    return [
        _result(row.name, row.ours, row.peer, row.target)
        for count in arguments.specs.split(",")
        for row in _mirror_rows(measure_site, int(count), arguments.spack)
    ]


def _mirror_rows(measure: Callable[..., list[Measured]], count: int, spack: str) -> list[Measured]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return measure(folder, count, lambda argv: _one(argv, folder, None), spack)


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


def bench_image(arguments: argparse.Namespace) -> list[Result]:
    """By bytes: what people pull. Images are pushed only where a registry is named."""
    results = [
        Result(
            f"image update, {one.layers} layers",
            f"{one.changed:.3f} of all bytes",
            f"{one.alone:.3f} of all bytes",
            one.changed / one.alone,
            f"pulled with all above a changed layer: {one.above:.3f}",
        )
        for one in measure_pulls((1, 5, 10, 20, 40, 80))
    ]
    image, binaries, mirror = measure_dump(_quietly)
    results.append(
        Result(
            "image, of the whole mirror",
            f"{image / 1e6:.1f} MB",
            f"{mirror / 1e6:.1f} MB",
            image / mirror,
            f"the lock's binaries have {binaries / 1e6:.1f} MB",
        )
    )
    if arguments.registry:
        engines = measure_engines(
            arguments.registry, arguments.image_base, arguments.fetch_base, arguments.requirement
        )
        for number, name in enumerate(("first release", "second release")):
            ours, theirs = engines["no engine"][number], engines["engine"][number]
            ratio = ours.seconds / theirs.seconds
            results.append(Result(f"image, {name}", str(ours), str(theirs), ratio, "at most 1"))
    return results


def _quietly(argv: Sequence[str], cwd: Path) -> None:
    _one([_tool(argv[0]), *argv[1:]], cwd, None)


def bench_start(arguments: argparse.Namespace) -> list[Result]:
    """From a pipeline's start to its first build. Spack solves for ten minutes: only if named."""
    if not arguments.spack or not arguments.only:
        return []
    with tempfile.TemporaryDirectory() as name:
        project = _project(Path(name), "tutorial")
        shutil.copytree(ROOT / "stacks" / "tutorial", project / "stacks" / "tutorial")
        argv = [_tool("stackyard"), "generate", "--stack", "tutorial", "--no-prune"]
        ours = cost(argv, cwd=project, runs=5)
        scope, environment = project / "scope", project / "environment"
        configure_compilers(scope)
        environment.mkdir()
        shutil.copy(project / "stacks" / "tutorial" / "spack.yaml", environment)
        theirs = cost(
            [f"{arguments.spack}/bin/spack", "-C", str(scope), "-e", str(environment),
             "ci", "generate", "--no-prune-dag", "--output-file", str(project / "spack.yml")],
            cwd=project,
            env={"CI_PROJECT_DIR": str(project)},
            runs=1,
        )  # fmt: skip
    return [_result("start tutorial", ours, theirs, "what the lock saves")]


def bench_job(arguments: argparse.Namespace) -> list[Result]:
    """What each job of a pipeline costs us. Spack's own part of it is the peer's whole."""
    if not arguments.spack:
        return []
    results = []
    with tempfile.TemporaryDirectory() as name:
        project = _project(Path(name), "tutorial")
        shutil.copytree(ROOT / "stacks" / "tutorial", project / "stacks" / "tutorial")
        lines, env = job_lines(project, Path(arguments.spack))
        setup = f". {project}/image/share/spack/setup-env.sh"
        env = {**env, "SPACK_ROOT": f"{project}/image"}
        for shell in filter(shutil.which, ("dash", "bash")):
            ours = cost([shell, "-eu", "-c", lines], cwd=project, env=env, runs=7)
            theirs = cost([shell, "-c", setup], cwd=project, env=env, runs=7)
            results.append(_result(f"job in {shell}", ours, theirs, "at most 2 s more"))
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
    "site": bench_site,
    "fetch": bench_fetch,
    "clone": bench_clone,
    "verify": bench_verify,
    "image": bench_image,
    "start": bench_start,
    "job": bench_job,
}


def main() -> None:
    """Run all benchmarks, or those whose name contains ``--only``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spack", default="")
    parser.add_argument("--repository", default="", help="clones of git repositories to serve")
    parser.add_argument("--registry", default="", help="host:port to push images to, for 'image'")
    parser.add_argument("--image-base", default="", help="a base image in that registry")
    parser.add_argument("--fetch-base", default="", help="an image that pip works in, offline")
    parser.add_argument("--requirement", default="stackyard", help="what pip installs there")
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
