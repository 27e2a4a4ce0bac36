"""Docker Hub's builder for tests: a docker that only remembers, and a clone with hooks."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from conftest import ROOT, Project
from locks import document

CHAIN = document({"app": ["lib"], "lib": []})
COMMIT_TIME = "2026-11-15T12:34:56+01:00"
SPACK = "2e907202bcc8209a6a62243aab50c179b524cc3b"

#: One line for each call: the folder, the seven variables, STACK, and the arguments.
_DOCKER = """\
#!/bin/bash
{
  printf '%q ' "$PWD"
  for name in SOURCE_BRANCH SOURCE_COMMIT COMMIT_MSG DOCKER_REPO DOCKERFILE_PATH DOCKER_TAG \\
    IMAGE_NAME STACK; do
    printf '%q ' "${!name-}"
  done
  printf '%q ' "$@"
  printf '\\n'
} >>"$RECORD"
printf 'docker says %s\\n' "$1"
case " $* " in *" ${DOCKER_FAILS:-none} "*) exit 7 ;; esac
"""


class Call(NamedTuple):
    """One call of docker; ``variables`` are the seven and STACK."""

    folder: str
    variables: tuple[str, ...]
    arguments: tuple[str, ...]

    def values(self, flag: str) -> list[str]:
        words = self.arguments
        return [words[at + 1] for at, word in enumerate(words[:-1]) if word == flag]

    @property
    def build_arguments(self) -> dict[str, str]:
        pairs = (value.partition("=") for value in self.values("--build-arg"))
        return {name: value for name, _, value in pairs}


class Builder:
    """A folder of programs with nothing but bash, git, sha256sum, and the docker that remembers."""

    def __init__(self, folder: Path) -> None:
        self.programs = folder / "programs"
        self.programs.mkdir()
        self._record = folder / "calls"
        for name in ("bash", "git", "sha256sum"):
            self.link(name)
        docker = self.programs / "docker"
        docker.write_text(_DOCKER)
        docker.chmod(0o755)
        self.env = {
            "PATH": str(self.programs),
            "HOME": str(folder),
            "RECORD": str(self._record),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
        }

    def link(self, name: str) -> None:
        """One more program."""
        found = shutil.which(name)
        assert found, name
        (self.programs / name).symlink_to(found)

    def calls(self) -> list[Call]:
        """And forget them."""
        if not self._record.exists():
            return []
        lines = self._record.read_text().splitlines()
        self._record.unlink()
        return [self._call(line) for line in lines]

    @staticmethod
    def _call(line: str) -> Call:
        script = f"words=({line}); printf '%s\\0' \"${{words[@]}}\""
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        words = done.stdout.split("\0")[:-1]
        return Call(words[0], tuple(words[1:9]), tuple(words[9:]))


def git(folder: Path, *arguments: str) -> str:
    env = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_COMMITTER_DATE": COMMIT_TIME,
        "GIT_AUTHOR_DATE": COMMIT_TIME,
    }
    argv = ["git", "-c", "user.name=n", "-c", "user.email=n@example.com", *arguments]
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def with_hooks(project: Project) -> Project:
    """The project with one locked stack and our Dockerfile and hooks, as a wheel has them."""
    lock = dict(CHAIN)
    lock["spack"] = {"version": "1.1.0", "type": "git", "commit": SPACK}
    lock = {"_meta": lock.pop("_meta"), "spack": lock.pop("spack"), **lock}
    project.stack(lock)
    shutil.copytree(ROOT / "docker" / "hooks", project.root / "docker" / "hooks")
    shutil.copy(ROOT / "docker" / "Dockerfile", project.root / "docker")
    return project


def commit(project: Project, message: str = "first\n\nmore of it") -> str:
    """Commit all that is there; gives the commit."""
    if not (project.root / ".git").exists():
        git(project.root, "init", "--quiet", "--initial-branch", "main")
    git(project.root, "add", "--all")
    git(project.root, "commit", "--quiet", "--allow-empty", "--message", message)
    return git(project.root, "rev-parse", "HEAD")
