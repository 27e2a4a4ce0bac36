"""The lines that bring Spack into a job, in the shells that run jobs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from fake_spack import spack_files
from git_server import GitServer, Repository, serve_git
from tests_data import ROOT

from stackyard.prelude import FOLDER, PACKAGES, REPOS_HEAD, clone_lines

LINES = clone_lines()
SHELLS = [
    pytest.param(shell, marks=pytest.mark.skipif(not shutil.which(shell), reason=f"no {shell}"))
    for shell in ("dash", "bash")
]
#: Every file of Spack in all its commits, so that a difference shows.
BIG = os.urandom(200_000).hex()


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class Job:
    """A runner that runs the lines in one of its shells, in a project of its own."""

    def __init__(self, shell: str, root: Path, server: GitServer) -> None:
        self.shell = str(shutil.which(shell))
        self.project = root / "the project"
        self.project.mkdir()
        self.server = server
        self.spack = Repository(server.folder / "spack")
        self.packages = Repository(server.folder / "packages")
        self.first = self.spack.commit({**spack_files(), "big": BIG})
        self.spack("tag", "v1.0.0")
        self.hidden = self.spack.commit({"lib/text": "hidden\n"})
        self.last = self.spack.commit({"lib/text": "new\n", "lib/more": "more\n"})
        self.recipes = self.packages.commit({"repos/recipe": "1\n"})
        self.slept = root / "slept"
        tools = root / "tools"
        tools.mkdir()
        (tools / "sleep").write_text(f'#!/bin/sh\necho "$1" >>"{self.slept}"\n')
        (tools / "sleep").chmod(0o755)
        self.variables = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "HOME": str(root),
            "GIT_CONFIG_NOSYSTEM": "1",
            "CI_PROJECT_DIR": str(self.project),
            "SPACK_REPO": server.url("spack"),
            "SPACK_PACKAGES_REPO": server.url("packages"),
            "SPACK_CHECKOUT_VERSION": self.first,
        }

    @property
    def folder(self) -> Path:
        return self.project / ".spack"

    def start(
        self, after: str = "", options: str = "-eu", env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        every = {**self.variables, **(env or {})}
        variables = {key: value for key, value in every.items() if value}
        return subprocess.Popen(
            [self.shell, options, "-c", f"{LINES}{after}"],
            env=variables,
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(
        self,
        after: str = "",
        *,
        code: int = 0,
        options: str = "-eu",
        env: Mapping[str, str] | None = None,
        **more: str,
    ) -> Ended:
        process = self.start(after, options, {**(env or {}), **more})
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, err
        return Ended(process.returncode, out, err)

    def git(self, *arguments: str, folder: Path | None = None) -> str:
        argv = ["git", "-C", str(folder or self.folder), *arguments]
        return subprocess.check_output(argv, text=True).strip()

    @property
    def text(self) -> str:
        return (self.folder / "lib" / "text").read_text()


@pytest.fixture(params=SHELLS)
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Job]:
    (tmp_path / "served").mkdir()
    with serve_git(tmp_path / "served") as server:
        yield Job(request.param, tmp_path, server)


def test_the_pinned_spack(job: Job) -> None:
    ended = job("spack --version")
    assert ended.out == f"1.1.0 ({job.first})\n"
    assert job.git("rev-parse", "HEAD") == job.first
    assert job.git("rev-list", "--count", "HEAD") == "1"
    assert job.git("status", "--porcelain") == ""
    assert ended.err.splitlines() == [
        f"stackyard: Spack: fetching {job.first} of {job.server.url('spack')}",
        f"stackyard: Spack: {job.first}",
    ]


def test_a_retry_asks_nobody(job: Job) -> None:
    env = {"SPACK_PACKAGES_CHECKOUT_VERSION": job.recipes}
    job(env=env)
    asked = list(job.server.asked)
    ended = job("spack --version", env=env)
    assert ended.out == f"1.1.0 ({job.first})\n"
    assert ended.err == ""
    assert job.server.asked == asked


@pytest.mark.parametrize("options", ["-e", "-eu", "-u", "-euo pipefail"])
def test_the_shell_is_left_as_it_was(job: Job, options: str) -> None:
    """Its options, its folder, its separators, its variables but for those that are named."""
    if "pipefail" in options and job.shell.endswith("dash"):
        pytest.skip("dash knows no pipefail")
    before = "trap 'echo ended' EXIT; a='x  y' dir=mine want=mine commit=mine IFS=:,/.; set -f\n"
    after = 'printf "%s\\n" "$-" "$PWD" "$a" "$dir" "$want" "$commit" "$IFS"\n'
    script = before + 'printf "%s\\n" "$-"\n' + LINES + after
    variables = job.variables
    done = subprocess.run(
        [job.shell, *options.split(" "), "-c", script],
        env=variables, cwd=job.project, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    flags, *rest = done.stdout.splitlines()
    assert rest == [flags, str(job.project), "x  y", "mine", "mine", "mine", ":,/.", "ended"]


def test_without_set_e(job: Job) -> None:
    """What fails ends the job even where the shell would go on."""
    job("echo on", options="-u", code=1, SPACK_CHECKOUT_VERSION="1" * 40)
    assert job("echo on", options="-u").out == "on\n"


def test_nothing_is_set_but_the_version(job: Job) -> None:
    """Folder and repository have defaults; the project is where the job begins."""
    ended = job("spack --version", CI_PROJECT_DIR="")
    assert ended.out == f"1.1.0 ({job.first})\n"
    assert job.folder.is_dir()


@pytest.mark.parametrize(
    ("want", "commit"), [("v1.0.0", "first"), ("main", "last"), ("refs/tags/v1.0.0", "first")]
)
def test_a_tag_or_a_branch(job: Job, want: str, commit: str) -> None:
    job(SPACK_CHECKOUT_VERSION=want)
    assert job.git("rev-parse", "HEAD") == getattr(job, commit)
    job(SPACK_CHECKOUT_VERSION=want)
    assert job.git("rev-parse", "HEAD") == getattr(job, commit)


def test_a_branch_that_moved(job: Job) -> None:
    job(SPACK_CHECKOUT_VERSION="main")
    newer = job.spack.commit({"lib/text": "newest\n"})
    job(SPACK_CHECKOUT_VERSION="main")
    assert job.git("rev-parse", "HEAD") == newer


# -- what a runner kept ---------------------------------------------------------------------


def test_another_commit_costs_the_difference(job: Job) -> None:
    job()
    sent = job.server.sent
    assert sent > len(BIG) / 3
    job(SPACK_CHECKOUT_VERSION=job.last)
    assert job.server.sent - sent < 3_000
    assert (job.text, job.git("status", "--porcelain")) == ("new\n", "")
    sent = job.server.sent
    job(SPACK_CHECKOUT_VERSION=job.first)  # it is still there
    assert job.server.sent == sent
    assert job.text == "as it should be\n"
    assert not (job.folder / "lib" / "more").exists()


def test_a_whole_clone_of_an_image(job: Job, tmp_path: Path) -> None:
    image = tmp_path / "opt" / "spack"
    job.git("clone", "--quiet", job.spack.url, str(image), folder=tmp_path)
    sent = job.server.sent
    job("spack --version", STACKYARD_SPACK_DIR=str(image))
    assert job.server.sent == sent
    newer = job.spack.commit({"lib/text": "newest\n"})
    ended = job("spack --version", STACKYARD_SPACK_DIR=str(image), SPACK_CHECKOUT_VERSION=newer)
    assert ended.out == f"1.1.0 ({newer})\n"
    assert job.server.sent - sent < 5_000
    assert not job.folder.exists()


def test_dirty_files_are_put_back(job: Job) -> None:
    job()
    (job.folder / "lib" / "text").write_text("somebody's\n")
    (job.folder / "bin" / "spack").unlink()
    (job.folder / "etc").mkdir()
    (job.folder / "etc" / "packages.yaml").write_text("of the image\n")
    (job.folder / "opt").mkdir()
    (job.folder / "opt" / "installed").write_text("x")
    asked = list(job.server.asked)
    assert job("spack --version").out == f"1.1.0 ({job.first})\n"
    assert job.text == "as it should be\n"
    assert (job.folder / "etc" / "packages.yaml").read_text() == "of the image\n"
    assert (job.folder / "opt" / "installed").exists()
    assert job.server.asked == asked


def test_a_file_in_the_way(job: Job) -> None:
    job()
    (job.folder / "lib" / "more").write_text("in the way\n")
    job(SPACK_CHECKOUT_VERSION=job.last)
    assert (job.folder / "lib" / "more").read_text() == "more\n"


@pytest.mark.skipif(
    not shutil.which("flock"), reason="no flock: nobody knows whose locks these are"
)
def test_locks_of_a_killed_job(job: Job) -> None:
    job()
    for name in ("index.lock", "shallow.lock", "HEAD.lock"):
        (job.folder / ".git" / name).touch()
    (job.folder / "lib" / "text").write_text("half")
    job(SPACK_CHECKOUT_VERSION=job.last)
    assert job.text == "new\n"


@pytest.mark.parametrize("damage", ["objects", "head", "empty", "half"])
def test_a_damaged_clone(job: Job, damage: str) -> None:
    job()
    git = job.folder / ".git"
    (job.folder / "opt").mkdir()
    if damage == "objects":
        shutil.rmtree(git / "objects")
        (git / "objects").mkdir()
    elif damage == "head":
        (git / "HEAD").write_text("")
    elif damage == "empty":
        shutil.rmtree(git)
        git.mkdir()
    else:
        for path in (git / "objects").rglob("*"):
            if path.is_file():
                path.chmod(0o644)
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (job.folder / "lib" / "text").write_text("half")
    for commit in (job.first, job.last, job.first):
        job(SPACK_CHECKOUT_VERSION=commit)
        assert job.git("rev-parse", "HEAD") == commit
        assert job.git("status", "--porcelain") == ""
    assert (job.folder / "opt").is_dir()


def test_several_jobs_in_one_folder(job: Job) -> None:
    if not shutil.which("flock"):
        pytest.skip("no flock")
    jobs = [job.start("spack --version") for _ in range(4)]
    ended = [(*one.communicate(timeout=60), one.returncode) for one in jobs]
    assert [(out, code) for out, _, code in ended] == [(f"1.1.0 ({job.first})\n", 0)] * 4
    assert job.server.fetches == 1


def test_inside_another_repository(job: Job) -> None:
    """The project is one, and git looks upwards."""
    job.git("init", "--quiet", folder=job.project)
    job.git("-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "--quiet",
            "--allow-empty", "--message=x", folder=job.project)  # fmt: skip
    before = job.git("rev-parse", "HEAD", folder=job.project)
    (job.folder / ".git").mkdir(parents=True)
    job(GIT_DIR=str(job.project / ".git"), GIT_WORK_TREE=str(job.project))
    assert job.git("rev-parse", "HEAD", folder=job.project) == before
    assert job.git("rev-parse", "HEAD") == job.first


# -- packages -------------------------------------------------------------------------------


def test_packages(job: Job) -> None:
    job(SPACK_PACKAGES_CHECKOUT_VERSION=job.recipes)
    assert (job.folder / PACKAGES / "repos" / "recipe").read_text() == "1\n"
    repos = job.folder / "etc" / "spack" / "repos.yaml"
    assert repos.read_text() == (
        f"{REPOS_HEAD}\nrepos:\n  builtin:\n    git: '{job.server.url('packages')}'\n"
        f"    commit: '{job.recipes}'\n    destination: '$spack/{PACKAGES}'\n"
    )
    assert job.git("status", "--porcelain") == ""
    newer = job.packages.commit({"repos/recipe": "2\n"})
    job(SPACK_PACKAGES_CHECKOUT_VERSION=newer)
    assert (job.folder / PACKAGES / "repos" / "recipe").read_text() == "2\n"
    assert newer in repos.read_text()
    job()
    assert not repos.exists()


def test_somebodys_own_repos(job: Job) -> None:
    job()
    repos = job.folder / "etc" / "spack" / "repos.yaml"
    repos.parent.mkdir(parents=True, exist_ok=True)
    repos.write_text("repos: {}\n")
    job()
    assert repos.read_text() == "repos: {}\n"


# -- faults ---------------------------------------------------------------------------------


def said(ended: Ended) -> str:
    assert ended.out == ""
    return ended.err.splitlines()[-1]


def test_a_server_that_refuses_commits(job: Job) -> None:
    job.server.old = True
    for _ in range(2):
        job(SPACK_CHECKOUT_VERSION=job.hidden)
        assert job.text == "hidden\n"
    job(SPACK_CHECKOUT_VERSION=job.last)
    job(SPACK_CHECKOUT_VERSION=job.first)
    assert job.text == "as it should be\n"


def test_a_shallow_clone_and_a_server_that_refuses_commits(job: Job) -> None:
    job(SPACK_CHECKOUT_VERSION=job.last)
    job.server.old = True
    job(SPACK_CHECKOUT_VERSION=job.hidden)
    assert job.text == "hidden\n"


def test_a_short_commit(job: Job) -> None:
    job(SPACK_CHECKOUT_VERSION=job.hidden[:12])
    assert job.git("rev-parse", "HEAD") == job.hidden


@pytest.mark.parametrize("old", [False, True])
def test_a_commit_that_is_not_there(job: Job, *, old: bool) -> None:
    job()
    job.server.old = old
    ended = job(code=1, SPACK_CHECKOUT_VERSION="1" * 40)
    assert said(ended).startswith(f"stackyard: Spack: cannot bring {'1' * 40} of http://127.0.0.1")
    assert ("all branches and tags" in ended.err) is old
    assert job.git("rev-parse", "HEAD") == job.first
    assert not job.slept.exists()


def test_a_name_that_nobody_knows(job: Job) -> None:
    ended = job(code=1, SPACK_CHECKOUT_VERSION="v9")
    assert "stackyard: Spack: cannot bring v9 of " in ended.err
    assert "find remote ref v9" in ended.err
    assert "all branches" not in ended.err
    assert not job.slept.exists()


def test_no_network(job: Job) -> None:
    """Three tries; and what is there already stays, for the next retry."""
    job()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/spack"
        ended = job(code=1, SPACK_REPO=url, SPACK_CHECKOUT_VERSION=job.last)
        assert job.slept.read_text() == "5\n10\n"
        assert f"cannot bring {job.last} of {url}" in ended.err
        assert job("spack --version", SPACK_REPO=url).out == f"1.1.0 ({job.first})\n"


def test_a_hiccup(job: Job) -> None:
    job.server.failing = 2
    job()
    assert job.slept.read_text() == "5\n10\n"


def test_no_such_repository(job: Job) -> None:
    ended = job(code=1, SPACK_REPO=job.server.url("elsewhere"))
    assert "not found" in said(ended)
    assert not job.slept.exists()


def test_credentials(job: Job, tmp_path: Path) -> None:
    job.server.login = "me:p4ssw0rd"
    assert "cannot bring" in said(job(code=1))
    trace = tmp_path / "trace"
    login = {
        "SPACK_REPO": job.server.url("spack", job.server.login),
        "SPACK_PACKAGES_REPO": job.server.url("packages", job.server.login),
        "SPACK_PACKAGES_CHECKOUT_VERSION": job.recipes,
    }
    ended = job("spack --version", env=login, GIT_TRACE=str(trace))
    assert ended.out == f"1.1.0 ({job.first})\n"
    assert "git-remote-http" in trace.read_text()
    texts = [path.read_bytes() for path in job.folder.rglob("*") if path.is_file()]
    assert [t for t in (*texts, trace.read_bytes(), ended.err.encode()) if b"p4ssw0rd" in t] == []
    assert job.server.url("packages") in (job.folder / "etc/spack/repos.yaml").read_text()


@pytest.mark.parametrize("version", ["", "-x", "--upload-pack=touch x"])
def test_no_version(job: Job, version: str) -> None:
    assert "is no commit, tag or branch" in said(job(code=1, SPACK_CHECKOUT_VERSION=version))
    assert sorted(path.name for path in job.project.rglob("*")) == []


def test_never_the_project_itself(job: Job) -> None:
    (job.project / "thesis.tex").write_text("x")
    for folder in (str(job.project), f"{job.project}/"):
        ended = job(code=1, STACKYARD_SPACK_DIR=folder)
        assert "is the project itself" in said(ended)
    assert [path.name for path in job.project.iterdir()] == ["thesis.tex"]


def test_no_git(job: Job, tmp_path: Path) -> None:
    tools = tmp_path / "few"
    tools.mkdir()
    for name in ("mkdir", "rm", "grep", "flock", "sleep"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    ended = job(code=1, PATH=str(tools))
    assert "git" in ended.err
    assert "not found" in ended.err


def test_the_text() -> None:
    """Nothing is left to fill in, nothing that GitLab would take for its own, and no secret name."""
    assert not [
        mark for mark in ("@FOLDER@", "@HEAD@", "@REPOS@", "@PACKAGES", "$[[") if mark in LINES
    ]
    assert FOLDER in LINES
    assert clone_lines() == LINES


def test_any_shell_finds_the_spack_of_our_image() -> None:
    """Spack's ``setup-env.sh`` cannot tell where it is in a shell like dash, which ``RUN`` has."""
    lines = (ROOT / "docker" / "builder" / "Dockerfile").read_text().splitlines()
    values = dict(line.split(" ")[1].split("=") for line in lines if line.startswith("ENV "))
    assert values["SPACK_ROOT"] == values["STACKYARD_SPACK_DIR"] == "/opt/spack"
    set_at, used_at = (
        next(i for i, line in enumerate(lines) if text in line)
        for text in ("ENV SPACK_ROOT", "setup-env.sh ")
    )
    assert set_at < used_at
