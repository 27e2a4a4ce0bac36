"""A project with the tiny stack, whose pipelines gitlab-ci-local runs with the real Spack.

Every job has an install tree and a keyring of its own, as in a fresh container: what it needs it
has to find on a mirror. STACKYARD_GITLAB_CI_LOCAL may be the command line of gitlab-ci-local.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pipelines import jobs_of, load
from real_spack import SPACK, RealSpack
from tests_data import DATA

_TOOL = "STACKYARD_GITLAB_CI_LOCAL"
_COLOURS = re.compile(r"\x1b\[[0-9;]*[mK]")
#: All jobs share one checkout, in which each begins by removing the logs of others: one by one.
_OPTIONS = ("--force-shell-executor", "--concurrency", "1")
#: Lines of gitlab-ci-local's summary at the end of a pipeline.
_ENDED = re.compile(r"^\s*(PASS|FAIL|WARN)\s+(.+?)\s*$", re.MULTILINE)


#: What Spack finds out about its packages takes it minutes: kept, as on a machine that is used.
KEPT = Path(tempfile.gettempdir()) / f"stackyard-lock-tests-{os.getuid()}"
_COMPILER = """\
packages:
  gcc:
    externals:
    - spec: gcc@12.2.0 languages:='c'
      prefix: /usr
      extra_attributes: {compilers: {c: /usr/bin/gcc}}
"""


def gitlab_ci_local() -> Sequence[str]:
    """Its command line, or the test is skipped."""
    words = shlex.split(os.environ.get(_TOOL, ""))
    program = shutil.which(words[0] if words else "gitlab-ci-local")
    if program is None:
        pytest.skip("gitlab-ci-local is not installed (npm install gitlab-ci-local node@22)")
    return [program, *words[1:]]


def commit_of(checkout: str) -> str:
    argv = ["git", "-C", checkout, "rev-parse", "HEAD"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


class Run(NamedTuple):
    """What gitlab-ci-local said, and its exit code."""

    code: int
    out: str
    jobs: frozenset[str] = frozenset()

    @property
    def ended(self) -> dict[str, str]:
        """How each job ended: PASS, FAIL or WARN (a failure that is allowed)."""
        # Warnings of its own begin with the same word.
        found = {name: how for how, name in _ENDED.findall(self.out)}
        return {name: how for name, how in found.items() if how != "WARN" or name in self.jobs}


class Pipelines:
    """One project, one repository, one Spack."""

    def __init__(self, root: Path, spack: RealSpack) -> None:
        self.root = root
        self.spack = spack
        self.command = gitlab_ci_local()
        self.homes = Path(tempfile.mkdtemp(prefix="jobs-"))  # agent sockets want a short path
        self.jobs: dict[str, Any] = {}
        config = spack.folder / "jobs"
        config.mkdir()
        kept = Path(spack.env["SPACK_USER_CONFIG_PATH"])
        if (kept / "repos.yaml").exists():
            shutil.copy(kept / "repos.yaml", config)
        text = (kept / "config.yaml").read_text()
        (config / "config.yaml").write_text(
            text.replace(str(spack.tree), f"{spack.folder}/trees/$CI_JOB_ID")
        )
        # With a compiler at hand Spack does not look through all its packages for others.
        (config / "packages.yaml").write_text(_COMPILER)
        self.env = {
            **{k: v for k, v in spack.env.items() if k != "SPACK_GNUPGHOME"},
            "STACKYARD_CACHE": str(KEPT / "cache"),
            "SPACK_USER_CONFIG_PATH": str(config),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    # -- the project ------------------------------------------------------------------------

    def lay_out(self, mirror: Mapping[str, Any], **ci: Any) -> None:
        """The stack, its packages, the settings, and a repository that holds them."""
        shutil.copytree(DATA / "tiny" / "repo", self.root / "packages")
        self.write("packages/repos.yaml", {"repos": {"tiny": "spack_repo/tiny"}})
        prelude = [
            f'export SPACK_GNUPGHOME="{self.homes}/$CI_JOB_ID"',
            'mkdir -p -m 700 "$SPACK_GNUPGHOME"',
            *([] if ci.get("own_spack") else [f". {SPACK}/share/spack/setup-env.sh"]),
        ]
        section = {
            "pipeline-gen": [
                {"any-job": {"tags": ["spack"], "before_script": prelude}},
                *ci.get("pipeline_gen", ()),
            ],
            **ci.get("section", {}),
        }
        manifest = load((DATA / "tiny" / "spack.yaml").read_bytes())["spack"]
        del manifest["repos"]
        manifest["include"] = ["../../packages/repos.yaml"]
        manifest["mirrors"] = {"buildcache-destination": dict(mirror)}
        manifest["ci"] = section
        manifest |= ci.get("sections", {})
        self.write("stacks/tiny/spack.yaml", {"spack": manifest})
        self.write(
            ".gitignore", "jobs_scratch_dir\n.gitlab-ci-local\n.spack\n.stackyard\n__pycache__\n"
        )
        self.settings()
        self.git("init", "--quiet", "--initial-branch", "work")
        self.git("remote", "add", "origin", "https://gitlab.example.com/group/project.git")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "first")
        self.git("update-ref", "refs/remotes/origin/main", "HEAD")
        self.git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")

    def sources(self) -> dict[str, str]:
        """Settings for a clone of the Spack and the packages that the tests were given."""
        made = {"repo": Path(SPACK).as_uri(), "checkout_version": commit_of(SPACK)}
        if packages := os.environ.get("STACKYARD_PACKAGES"):
            made["packages_repo"] = Path(packages).as_uri()
            made["packages_ref"] = commit_of(packages)
        return made

    def settings(self, **settings: Any) -> None:
        generate = {"requirement": "pip"}  # there already: nothing is downloaded
        self.write("invoke.yaml", {"stackyard": {"generate": generate, **settings}})

    def write(self, name: str, content: str | Mapping[str, Any]) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def git(self, *arguments: str) -> None:
        argv = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
        subprocess.run(argv, cwd=self.root, check=True, capture_output=True)

    def take_lock(self) -> None:
        """The lock that Spack made of the tiny stack once."""
        shutil.copy(DATA / "tiny.spack.lock", self.root / "stacks/tiny/spack.lock")

    def lock(self) -> str:
        """Concretize by the pinned Spack, as ``invoke lock`` does it; gives what it shows."""
        return self.stackyard("lock", "--stack", "tiny", SPACK_USER_CACHE_PATH=str(KEPT / "user"))

    def locked(self) -> dict[str, Any]:
        lock: dict[str, Any] = json.loads((self.root / "stacks/tiny/spack.lock").read_text())
        return lock

    def commit(self, message: str) -> None:
        """Render the parent pipeline and commit all that changed."""
        self.stackyard("generate")
        parent = self.root / ".gitlab-ci.yml"
        # With an image gitlab-ci-local looks for the checkout in /builds, shell executor or not.
        text = re.sub(r"^  image: .*\n", "", parent.read_text(), flags=re.MULTILINE)
        parent.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    # -- running ----------------------------------------------------------------------------

    def stackyard(self, *arguments: str, code: int = 0, **env: str) -> str:
        """What the command printed on stdout; ``code`` is what it must end with."""
        done = subprocess.run(
            [f"{Path(sys.executable).parent}/stackyard", *arguments],
            env={**self.env, **env},
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    def run(self, *arguments: str, **variables: str) -> Run:
        """Run a pipeline to its end: the parent and what it triggers, or another ``--file``."""
        given = [part for k, v in variables.items() for part in ("--variable", f"{k}={v}")]
        done = subprocess.run(
            [*self.command, "--home", str(self.homes), *_OPTIONS, *given, *arguments],
            env=self.env,
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=900,
        )
        if child := self.child:
            self.jobs = jobs_of(load(child.read_bytes()))
        run = Run(done.returncode, _COLOURS.sub("", done.stdout), frozenset(self.jobs))
        number = len(list(self.spack.folder.glob("run-*.log")))
        (self.spack.folder / f"run-{number}.log").write_text(run.out)  # for whom it fails
        return run

    @property
    def child(self) -> Path | None:
        path = self.root / "jobs_scratch_dir/tiny/pipeline.yml"
        return path if path.exists() else None

    def built(self) -> set[str]:
        """Packages that the last child pipeline has jobs for."""
        return {name.partition(" ")[0] for name in self.jobs if "@" in name}

    def close(self) -> None:
        for home in self.homes.iterdir():
            kill = ["gpgconf", "--homedir", str(home), "--kill", "all"]
            subprocess.run(kill, check=False, capture_output=True)
        shutil.rmtree(self.homes, ignore_errors=True)
