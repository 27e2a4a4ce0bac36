"""How long a pipeline takes to its first build, and what a job costs beside ``spack ci rebuild``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

__all__ = ["configure_compilers", "job_lines"]

#: What the tutorial's lock was made with: two compilers of the system.
_COMPILERS = {
    "gcc": ("gcc@11.3.0 languages:='c,c++,fortran'", {"c": "gcc", "cxx": "g++"}),
    "llvm": ("llvm@14.0.6 +clang~flang+lld", {"c": "gcc", "cxx": "g++"}),
}
_SETTINGS = {
    "jobs": {"clone": True, "sections": True, "aws": {"role": "arn:aws:iam::1:role/r"}},
    "limits": {"artifact_bytes": 0},
}


def configure_compilers(folder: Path) -> None:
    """A configuration scope with the compilers that the tutorial's manifest names.

    Whatever this machine has answers for them: nothing is built, only the solver asks.
    """
    folder.mkdir()
    packages = {}
    for name, (spec, languages) in _COMPILERS.items():
        paths = {language: shutil.which(program) for language, program in languages.items()}
        if name == "gcc":
            paths["fortran"] = shutil.which("gfortran")
        extra = {"compilers": {key: path for key, path in paths.items() if path}}
        entry = {"spec": spec, "prefix": "/usr", "extra_attributes": extra}
        packages[name] = {"externals:": [entry]}
    (folder / "packages.yaml").write_text(json.dumps({"packages": packages}))


def job_lines(project: Path, spack: Path) -> tuple[str, Mapping[str, str]]:
    """What we put around a job's ``spack ci rebuild``, as shell text, and the variables for it.

    Spack is in the folder afterwards, as in an image that ``docker/builder`` makes.
    """
    url, commit = spack.resolve().as_uri(), _commit(spack)
    stack = project / "stacks" / "tutorial"
    (stack / "stack.yaml").write_text(json.dumps(_SETTINGS))
    env = {
        **os.environ,
        "CI_PROJECT_DIR": str(project),
        "SPACK_REPO": url,
        "SPACK_CHECKOUT_VERSION": commit,
        "SPACK_PACKAGES_REPO": url,  # any repository will do
        "SPACK_PACKAGES_CHECKOUT_VERSION": commit,
        "STACKYARD_AWS_TOKEN": "no token",
        "STACKYARD_SPACK_DIR": str(project / "image"),
        "TMPDIR": str(project),
    }
    argv = [sys.executable, "-c", "from stackyard.main import main; main()", "generate"]
    _run([*argv, "--stack", "tutorial", "--no-prune"], project, env)
    lines = _lines(project / "jobs_scratch_dir" / "pipeline.yml")
    _run(["sh", "-eu", "-c", lines], project, env)  # brings it
    return lines, env


def _lines(pipeline: Path) -> str:
    """All that a build job runs, but for its own script and its own ``before_script``."""
    document: Mapping[str, Any] = yaml.safe_load(pipeline.read_bytes())
    job = next(
        one
        for name, one in document.items()
        if name.startswith(".build") and "before_script" in one and "after_script" in one
    )
    own = [line for line in job["before_script"] if "stackyard" in line.lower() or "AWS" in line]
    script = next(
        one["script"] for name, one in document.items() if name.startswith(".") and "script" in one
    )
    return "\n".join([*own, script[0], script[-1], *job["after_script"]])


def _commit(folder: Path) -> str:
    argv = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    return subprocess.check_output(argv, text=True).strip()


def _run(argv: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        message = f"{argv[0]} ended with {done.returncode}: {done.stderr}"
        raise SystemExit(message)
