"""Pipelines as others see them: GitLab's own schema, and gitlab-ci-local, which runs them.

STACKYARD_GITLAB_CI_LOCAL may be the command line of gitlab-ci-local; else it is looked for on PATH.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import DATA, ROOT, Answer, Project, Stackyard
from fake_github import FakeGitHub, Token, fake_github
from locks import EXTERNAL, document, key, node
from pipelines import is_join, jobs_of, load

from benchmarks.synthetic import make_lock, make_manifest

CASES = sorted(path.name for path in (DATA / "oracle").iterdir())
FLAGS = {"--check-index-only": ["--mirror", (DATA / "mirrors/half-tutorial").as_uri()]}


def child_of_case(
    case: str, project: Project, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Our pipeline of what Spack was asked for, too."""
    folder = DATA / "oracle" / case
    stack = (folder / "stack").read_text().strip()
    project.write(f"stacks/{case}/spack.yaml", (folder / "spack.yaml").read_bytes())
    project.write(
        f"stacks/{case}/spack.lock", (ROOT / "stacks" / stack / "spack.lock").read_bytes()
    )
    for name, value in json.loads((folder / "env.json").read_text()).items():
        monkeypatch.setenv(name, value)
    flags = (folder / "flags").read_text().split()
    flags += [part for flag in flags for part in FLAGS.get(flag, ())]
    stackyard("generate", "--stack", case, *flags)
    return load(project.child.read_bytes())


# -- GitLab's schema ------------------------------------------------------------------------


def valid(*files: Path) -> str:
    """What GitLab's schema, as check-jsonschema brings it along, has against the files."""
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    arguments = ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"]
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *arguments, *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert bool(done.returncode) == (done.stdout != "ok -- validation done\n")
    return done.stdout if done.returncode else ""


def test_the_schema_refuses_nonsense(project: Project) -> None:
    """Else the other tests here would prove nothing."""
    assert "Schema validation errors" in valid(project.write("x.yml", "job: {stage: [1]}\n"))


@pytest.mark.parametrize("case", CASES)
def test_children_are_valid(
    case: str, project: Project, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = child_of_case(case, project, stackyard, monkeypatch)
    expected = load((DATA / "oracle" / case / "pipeline.yml").read_bytes())
    real = {name for name, job in jobs_of(made).items() if not is_join(job)}
    assert real == set(jobs_of(expected))
    stackyard("generate")
    assert valid(project.child, project.root / ".gitlab-ci.yml") == ""


def test_odd_children_are_valid(
    project: Project, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joins, phases, cleaning up, signing, copying, and nothing to do."""
    files = []
    mirrors = {
        "buildcache-destination": {"url": "s3://example-binaries/demo"},
        "buildcache-source": {"url": "s3://example-binaries/source"},
    }
    ci = {
        "temporary-storage-url-prefix": "s3://example-tmp",
        "bootstrap": ["first"],
        "pipeline-gen": [{"signing-job": {"script": ["sign"], "image": "notary:1"}}],
    }
    data = make_lock(60, wide=20)
    definitions = [{"first": ["leaf-1", "leaf-2"]}]
    project.stack(
        data, ci=ci, mirrors=mirrors, definitions=definitions, settings={"limits": {"needs": 5}}
    )
    for kind in ("", "spack_pull_request", "spack_protected_branch", "spack_copy_only"):
        monkeypatch.setenv("SPACK_PIPELINE_TYPE", kind)
        files.append(project.root / f"{kind or 'none'}.yml")
        stackyard("generate", "--stack", "demo", "--no-prune", "--output", str(files[-1]))
    jobs = jobs_of(load(files[2].read_bytes()))
    assert {"cleanup", "rebuild-index", "sign-pkgs"} < set(jobs)
    assert any(map(is_join, jobs.values()))
    monkeypatch.delenv("SPACK_PIPELINE_TYPE")
    project.stack(document([node("app", **EXTERNAL)]), mirrors=mirrors)
    files.append(project.root / "nothing.yml")
    stackyard("generate", "--stack", "demo", "--no-prune", "--output", str(files[-1]))
    assert list(jobs_of(load(files[-1].read_bytes()))) == ["no-specs-to-rebuild"]
    assert valid(*files) == ""


def test_all_that_settings_ask_for_is_valid(
    project: Project, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statuses, environments, ID tokens, reports, and lines of shell."""
    settings = {
        "status": {},
        "index": "stackyard",
        "pull_requests": {"mirror": "s3://example-pulls", "keep": "3 days"},
        "jobs": {"clone": True, "sections": True, "junit": True, "aws": {"role": "arn:x"}},
    }
    project.write("invoke.yaml", {"stackyard": settings})
    project.stack(make_lock(6, wide=3))
    monkeypatch.setenv("SPACK_PIPELINE_TYPE", "spack_pull_request")
    monkeypatch.setenv("CI_MERGE_REQUEST_IID", "7")
    stackyard("generate")
    stackyard("generate", "--stack", "demo", "--no-prune")
    assert valid(project.child, project.root / ".gitlab-ci.yml") == ""


# -- gitlab-ci-local ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gitlab_ci_local() -> Sequence[str]:
    words = shlex.split(os.environ.get("STACKYARD_GITLAB_CI_LOCAL", ""))
    program = shutil.which(words[0] if words else "gitlab-ci-local")
    if program is None:
        pytest.skip("gitlab-ci-local is not installed (npm install gitlab-ci-local node@22)")
    return [program, *words[1:]]


def git(*arguments: str) -> None:
    argv = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
    subprocess.run(argv, check=True, capture_output=True)


@pytest.fixture
def repository(project: Project) -> Project:
    """A repository whose origin, an address that nobody visits, lacks the last commit."""
    project.write(".gitignore", "jobs_scratch_dir\n.gitlab-ci-local\n")
    git("init", "--quiet", "--initial-branch", "work")
    git("remote", "add", "origin", "https://gitlab.example.com/group/project.git")
    git("add", "--all")
    git("commit", "--quiet", "--message", "first")
    git("update-ref", "refs/remotes/origin/main", "HEAD")
    git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")
    return project


def local(command: Sequence[str], home: Path, *arguments: str) -> Answer:
    done = subprocess.run(
        [*command, "--home", str(home), "--no-color", *arguments],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def listed(command: Sequence[str], home: Path, file: str) -> dict[str, list[str]]:
    """The jobs that gitlab-ci-local finds, and what each needs."""
    answer = local(command, home, "--file", file, "--list-json")
    assert answer.code == 0, answer.err
    jobs = {
        job["name"]: [need["job"] for need in job.get("needs") or ()]
        for job in json.loads(answer.out)
    }
    table = local(command, home, "--file", file, "--list")
    assert table.code == 0, table.err
    rows = [re.split(r"  +", line)[0] for line in table.out.splitlines()[1:]]
    assert sorted(rows) == sorted(jobs)
    return jobs


@pytest.mark.parametrize("stack", ["small", "tutorial"])
def test_lists_all_jobs(
    gitlab_ci_local: Sequence[str],
    repository: Project,
    stackyard: Stackyard,
    tmp_path: Path,
    stack: str,
) -> None:
    shutil.copytree(ROOT / "stacks" / stack, repository.root / "stacks" / stack)
    stackyard("generate")
    git("add", "--all")
    assert listed(gitlab_ci_local, tmp_path, ".gitlab-ci.yml") == {
        "nothing to do": [],
        f"generate-{stack}": [],
        f"build-{stack}": [f"generate-{stack}"],
    }
    stackyard("generate", "--stack", stack, "--no-prune")
    expected = {
        name: [need["job"] for need in job.get("needs", ()) if "pipeline" not in need]
        for name, job in jobs_of(load(repository.child.read_bytes())).items()
    }
    file = repository.child.relative_to(repository.root).as_posix()
    assert listed(gitlab_ci_local, tmp_path, file) == expected


def test_lists_joined_jobs(
    gitlab_ci_local: Sequence[str], repository: Project, stackyard: Stackyard, tmp_path: Path
) -> None:
    data = make_lock(150, wide=100)
    ci = '  ci: {pipeline-gen: [{any-job: {image: "x"}}]}\n'
    repository.write("stacks/demo/spack.yaml", make_manifest(data, ci))
    repository.write("stacks/demo/spack.lock", data)
    stackyard("generate", "--stack", "demo", "--no-prune")
    jobs = jobs_of(load(repository.child.read_bytes()))
    assert sum(map(is_join, jobs.values())) == 3
    found = listed(gitlab_ci_local, tmp_path, "jobs_scratch_dir/pipeline.yml")
    assert set(found) == set(jobs)
    assert max(map(len, found.values())) <= 50


def test_runs_whole(
    gitlab_ci_local: Sequence[str], repository: Project, stackyard: Stackyard, tmp_path: Path
) -> None:
    """The parent's job generates, its trigger starts the child, and the child's jobs run in order."""
    odd = "$HOME ${HOME} it's"
    lock = document(
        [
            node("app", ["lib"], parameters={"build_system": "generic", "odd": odd}),
            node("lib", ["base"]),
            node("base"),
        ]
    )
    script = [
        'echo "$SPACK_JOB_SPEC_PKG_NAME" >> "$LEDGER"',
        'printf "%s\\n" "$SPACK_JOB_SPEC_VARIANTS" > "$LEDGER.$SPACK_JOB_SPEC_PKG_NAME"',
    ]
    ledger = tmp_path / "ledger"
    ci = {
        "rebuild-index": False,
        "pipeline-gen": [{"build-job": {"script:": script, "variables": {"LEDGER": str(ledger)}}}],
    }
    repository.stack(lock, ci=ci)
    generate = {
        "requirement": "pip",  # there already: nothing is downloaded
        "before_script": ["export SPACK_PRUNE_UP_TO_DATE=false"],
    }
    repository.write("invoke.yaml", {"stackyard": {"generate": generate}})
    stackyard("generate")
    parent = repository.root / ".gitlab-ci.yml"
    # With an image gitlab-ci-local looks for the checkout in /builds, shell executor or not.
    text = re.sub(r"^  image: .*\n", "", parent.read_text(), flags=re.MULTILINE)
    parent.write_text(text)
    git("add", "--all")
    git("commit", "--quiet", "--message", "a stack")
    answer = local(gitlab_ci_local, tmp_path, "--force-shell-executor")
    assert answer.code == 0, answer.out + answer.err
    assert ledger.read_text().split() == ["base", "lib", "app"]
    variants = (tmp_path / "ledger.lib").read_text()
    assert variants == "build_system=generic\n"
    child = load((repository.root / "jobs_scratch_dir/demo/pipeline.yml").read_bytes())
    app = jobs_of(child)[f"app@1.0 /{key('app')}"]
    assert app["variables"]["SPACK_JOB_SPEC_VARIANTS"].count("$$") == 2
    arrived = (tmp_path / "ledger.app").read_text()
    assert arrived == f'build_system=generic odd="{odd}"\n'


# -- what the commit on GitHub is told -------------------------------------------------------


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGitHub]:
    monkeypatch.setenv("GITHUB_TOKEN", "ghp-token")
    with fake_github("/api/v3") as server:
        server.tokens["ghp-token"] = Token()
        yield server


def posted(
    gitlab_ci_local: Sequence[str],
    repository: Project,
    stackyard: Stackyard,
    github: FakeGitHub,
    home: Path,
    *,
    generate: str,
    touched: bool = True,
) -> tuple[int, list[str]]:
    """Run the parent pipeline; its exit code, and the states that GitHub then has, in their order.

    ``generate`` is a line of shell before anything is generated.
    """
    ci = {"pipeline-gen": [{"build-job": {"script:": ["true"]}}], "rebuild-index": False}
    repository.stack(document({"app": []}), ci=ci)
    status = {"github_url": github.api.removesuffix("/api/v3"), "repository": "owner/name"}
    before = ["export SPACK_PRUNE_UP_TO_DATE=false", generate]
    wanted = {"requirement": "pip", "before_script": before}
    repository.write("invoke.yaml", {"stackyard": {"generate": wanted, "status": status}})
    stackyard("generate")
    parent = repository.root / ".gitlab-ci.yml"
    text = re.sub(r"^  image: .*\n", "", parent.read_text(), flags=re.MULTILINE)
    parent.write_text(text)
    git("add", "--all")
    git("commit", "--quiet", "--message", "a stack")
    if not touched:
        git("update-ref", "refs/remotes/origin/main", "HEAD")
        git("commit", "--quiet", "--allow-empty", "--message", "nothing")
    rev = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    commit = rev.stdout.strip()
    github.repository("owner/name", commit)
    answer = local(gitlab_ci_local, home, "--force-shell-executor")
    assert "ghp-token" not in answer.out + answer.err
    rows = github.posted("owner/name", commit)
    assert {row["context"] for row in rows} == {"ci/gitlab-ci/demo"}, answer.out + answer.err
    return answer.code, [row["state"] for row in rows]


def test_the_commit_learns_of_success(
    gitlab_ci_local: Sequence[str],
    repository: Project,
    stackyard: Stackyard,
    github: FakeGitHub,
    tmp_path: Path,
) -> None:
    code, states = posted(gitlab_ci_local, repository, stackyard, github, tmp_path, generate="true")
    assert (code, states) == (0, ["pending", "success"])


def test_the_commit_learns_of_failure(
    gitlab_ci_local: Sequence[str],
    repository: Project,
    stackyard: Stackyard,
    github: FakeGitHub,
    tmp_path: Path,
) -> None:
    """The job that generates fails; what the others say is not lost by it."""
    line = '[ "${CI_JOB_NAME}" != generate-demo ]'
    code, states = posted(gitlab_ci_local, repository, stackyard, github, tmp_path, generate=line)
    assert (code, states) == (1, ["pending", "failure"])


def test_the_commit_learns_that_nothing_changed(
    gitlab_ci_local: Sequence[str],
    repository: Project,
    stackyard: Stackyard,
    github: FakeGitHub,
    tmp_path: Path,
) -> None:
    code, states = posted(
        gitlab_ci_local, repository, stackyard, github, tmp_path, generate="true", touched=False
    )
    assert (code, states) == (0, ["success"])
