"""Jobs of the real Spack, taken to another place: by Spack's own command and by ours.

STACKYARD_SPACK names a checkout of Spack 1.1. The containers need podman.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import DATA, ROOT, Project, Stackyard
from containers import CONF
from fake_gitlab import FakeGitLab, Job, fake_gitlab
from pipelines import jobs_of, load
from real_spack import SPACK, RealSpack, needs_spack

pytestmark = needs_spack

TOKEN = "glpat-never-to-be-seen"
SOUND = DATA / "tiny/repo/spack_repo/tiny/packages/tiny_base/package.py"
BROKEN = f"""\
{SOUND.read_text().partition("def install")[0]}def install(self, spec, prefix):
        raise InstallError("this one is broken")
"""


class Case(NamedTuple):
    """A project with the tiny stack and its pipeline, and the Spack that its jobs run with."""

    project: Project
    spack: RealSpack
    jobs: Mapping[str, Any]
    variables: Mapping[str, str]

    def name(self, package: str) -> str:
        return next(name for name in self.jobs if name.startswith(f"{package}@"))

    def rebuild(self, package: str) -> tuple[int, bytes]:
        """Run the package's job as a runner would; its exit code, and the archive it leaves."""
        name = self.name(package)
        job = self.jobs[name]
        env = {
            **self.spack.env,
            **self.variables,
            **{key: str(value) for key, value in job["variables"].items()},
            "CI_PROJECT_DIR": str(self.project.root),
            "CI_JOB_NAME": name,
        }
        lines = [f". {SPACK}/share/spack/setup-env.sh", *job["script"]]
        done = subprocess.run(
            ["bash", "-e", "-c", "\n".join(lines)],
            cwd=self.project.root,
            env=env,
            check=False,
            capture_output=True,
            text=True,
            timeout=600,
        )
        print(done.stdout[-3000:], done.stderr[-3000:])  # noqa: T201 - pytest shows it if it fails
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for folder in job["artifacts"]["paths"]:
                for path in sorted((self.project.root / folder).rglob("*")):
                    archive.write(path, path.relative_to(self.project.root))
        return done.returncode, packed.getvalue()


@pytest.fixture
def case(
    project: Project,
    stackyard: Stackyard,
    fresh_spack: Callable[[], RealSpack],
    tmp_path: Path,
) -> Case:
    shutil.copytree(DATA / "tiny" / "repo", project.root / "packages")
    project.write("packages/repos.yaml", {"repos": {"tiny": "spack_repo/tiny"}})
    manifest = load((DATA / "tiny" / "spack.yaml").read_bytes())["spack"]
    del manifest["repos"]
    (tmp_path / "mirror").mkdir()
    manifest["include"] = ["../../packages/repos.yaml"]
    url = (tmp_path / "mirror").as_uri()
    manifest["mirrors"] = {"buildcache-destination": {"url": url, "signed": False}}
    image = {"name": "registry.example.com/builder:1", "entrypoint": [""]}
    manifest["ci"] = {"pipeline-gen": [{"any-job": {"tags": ["spack"], "image": image}}]}
    project.write("stacks/tiny/spack.yaml", {"spack": manifest})
    shutil.copy(DATA / "tiny.spack.lock", project.root / "stacks/tiny/spack.lock")
    settings = {"jobs": {"clone": True}, "spack": {"repo": Path(SPACK).as_uri()}}
    project.write("invoke.yaml", {"stackyard": settings})
    project.write(".gitignore", "jobs_scratch_dir\n__pycache__\n*.json\ninstall.sh\n")
    for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "first"]):
        git(*arguments, cwd=project.root)
    stackyard("generate", "--stack", "tiny")
    child = load(project.child.read_bytes())
    return Case(project, fresh_spack(), jobs_of(child), child["variables"])


def git(*arguments: str, cwd: Path) -> str:
    argv = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
    return subprocess.run(argv, cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def server() -> Iterator[FakeGitLab]:
    with fake_gitlab() as made:
        made.tokens[TOKEN] = {"read_api"}
        made.project(members={TOKEN})
        yield made


def offer(server: FakeGitLab, name: str, archive: bytes) -> str:
    """Put a job with its artifacts on the server; the URL of its page."""
    made = server.pipeline(server.projects[0], status="failed")
    made.jobs = [Job(7, name, "failed", artifacts=archive)]
    return f"{server.url}/group/project/-/jobs/7"


def test_spacks_own_command_takes_our_artifacts(
    case: Case, server: FakeGitLab, tmp_path: Path
) -> None:
    _, archive = case.rebuild("tiny-base")
    page = offer(server, case.name("tiny-base"), archive)
    api = f"{server.url}/api/v4/projects/group%2Fproject/jobs/7/artifacts"
    head = git("rev-parse", "HEAD", cwd=Path(SPACK))
    for number, url in enumerate((page, api)):
        work = tmp_path / f"work-{number}"
        said = case.spack(
            *("ci", "reproduce-build", "--runtime", "podman", "--working-dir", str(work), url),
            GITLAB_PRIVATE_TOKEN=TOKEN,
        )
        assert "Job ran with the following image: registry.example.com/builder:1" in said
        assert f"checkout_commit: {head}" in said
        assert git("rev-parse", "HEAD", cwd=work / "spack") == head
        start = (work / "start.sh").read_text()
        assert (
            '"--entrypoint" "/reproducer/entrypoint.sh" "registry.example.com/builder:1"' in start
        )
        entry = (work / "entrypoint.sh").read_text()
        assert f'"{case.project.root}/jobs_scratch_dir/reproduction/install.sh"' in entry
        copied = work / "jobs_scratch_dir/concrete_environment/spack.lock"
        lock = case.project.root / "stacks/tiny/spack.lock"
        assert copied.read_bytes() == lock.read_bytes()
    assert [asked.headers.get("Private-Token") for asked in server.asked] == [TOKEN, TOKEN]


def reproduce(case: Case, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Our task, with its output and that of what it runs."""
    return subprocess.run(
        [sys.executable, "-c", "from stackyard.main import main; main()", "reproduce", *arguments],
        cwd=case.project.root,
        env={**case.spack.env, "PYTHONPATH": str(ROOT), **env},
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_ours_builds_again(case: Case, server: FakeGitLab) -> None:
    """A job that has what it needs on the mirror, on this machine and with another Spack clone."""
    for package in ("tiny-base", "tiny-lib"):
        code, archive = case.rebuild(package)
        assert code == 0
    page = offer(server, case.name("tiny-lib"), archive)
    settings = json.loads((case.project.root / "invoke.yaml").read_text())["stackyard"]
    case.project.write("invoke.yaml", {"stackyard": {**settings, "gitlab": {"url": server.url}}})
    made = reproduce(case, "--url", page, "--to", "again", GITLAB_TOKEN=TOKEN)
    assert made.returncode == 0, made.stderr
    assert f"  Spack     {git('rev-parse', 'HEAD', cwd=Path(SPACK))} of file://" in made.stderr
    again = case.project.root / "again"
    tree = f"{case.spack.folder}/tree"
    config = Path(case.spack.env["SPACK_USER_CONFIG_PATH"]) / "config.yaml"
    config.write_text(config.read_text().replace(tree, f"{tree}-again"))
    done = subprocess.run(
        ["sh", str(again / "reproduce.sh")],
        env=case.spack.env,
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = sorted(path.name for path in Path(f"{tree}-again").glob("*/tiny-*"))
    assert [name.rsplit("-", 2)[0] for name in found] == ["tiny-base", "tiny-lib"]
    clone = again / "project/.spack"
    assert git("rev-parse", "HEAD", cwd=clone) == git("rev-parse", "HEAD", cwd=Path(SPACK))


# -- in a container -------------------------------------------------------------------------

#: This machine's own files, as they are now, with what is written kept apart.
ROOTFS = ("--image", "/:O", "--option=--rootfs")


@pytest.fixture
def podman(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Variables with which podman runs containers here."""
    if not shutil.which("podman"):
        pytest.skip("podman is not installed: apt-get install podman runc")
    folder = tmp_path_factory.mktemp("podman")
    (folder / "containers.conf").write_text(CONF)
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
    )
    own = {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
    }
    try_it = ["podman", "run", "--rm", "--rootfs", "/:O", "true"]
    said = ""
    for env in ({}, own):
        done = subprocess.run(
            try_it, env={**os.environ, **env}, check=False, capture_output=True, text=True
        )
        if done.returncode == 0:
            return env
        said = done.stderr
    pytest.skip(f"podman runs no container here: {said.strip()[-300:]}")


def test_a_failure_fails_again_in_a_container(
    case: Case, podman: Mapping[str, str], tmp_path: Path
) -> None:
    recipe = case.project.root / "packages/spack_repo/tiny/packages/tiny_base/package.py"
    recipe.write_text(BROKEN)
    git("commit", "--quiet", "--all", "--message", "break it", cwd=case.project.root)
    code, archive = case.rebuild("tiny-base")
    assert code == 1
    zipped = tmp_path / "artifacts.zip"
    zipped.write_bytes(archive)
    handed = ["SPACK_PYTHON", "SPACK_USER_CONFIG_PATH", "SPACK_SYSTEM_CONFIG_PATH"]
    env = [f"--env={name}" for name in handed]
    run = ["--artifacts", str(zipped), "--engine", "podman", *ROOTFS, *env, "--run"]
    done = reproduce(case, *run, "--to", "again", **podman)
    assert done.returncode == 5, done.stdout + done.stderr
    assert "this one is broken" in done.stdout + done.stderr
    assert "error: podman: the container ended with 1" in done.stderr
    # Mended in the folder that the container works in, and the very same command.
    again = case.project.root / "again"
    shutil.copy(SOUND, again / "project" / recipe.relative_to(case.project.root))
    command = subprocess.run(
        [str(again / "run.sh")],
        env={**case.spack.env, **podman},
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert command.returncode == 0, command.stdout + command.stderr
    assert "Successfully installed tiny-base" in command.stdout


def test_what_runs_cannot_change_what_starts_it(
    case: Case, podman: Mapping[str, str], tmp_path: Path
) -> None:
    """The archive may be anybody's, and run.sh is for the machine outside."""
    _, archive = case.rebuild("tiny-base")
    hostile = tmp_path / "hostile.zip"
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(hostile, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("/install.sh"):
                data = b"""#!/bin/sh
for name in run.sh shell.sh reproduce.sh; do echo bad > /reproduce/$name; mv /reproduce/$name /tmp; done
echo mine > /reproduce/cache/mine && echo mine > "$CI_PROJECT_DIR/mine"
"""
            new.writestr(entry, data)
    handed = ["SPACK_PYTHON", "SPACK_USER_CONFIG_PATH", "SPACK_SYSTEM_CONFIG_PATH"]
    env = [f"--env={name}" for name in handed]
    run = ["--artifacts", str(hostile), "--engine", "podman", *ROOTFS, *env, "--run"]
    done = reproduce(case, *run, "--to", "again", **podman)
    assert done.returncode == 0, done.stdout + done.stderr
    again = case.project.root / "again"
    for name in ("run", "shell", "reproduce"):
        assert "bad" not in (again / f"{name}.sh").read_text().split()
    assert (again / "cache/mine").read_text() == (again / "project/mine").read_text() == "mine\n"
