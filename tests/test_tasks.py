"""Every task through the real command line: what it says, where, and with which exit code."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Answer, Project, Stackyard
from invoke.context import Context
from invoke.tasks import Task
from locks import document

from stackyard import __version__, tasks
from stackyard.flow.steps import Request

COLLECTION = tasks.namespace
NAMES = sorted(COLLECTION.task_names)
#: What each task takes. Invoke hands a help text out once, so it is asked before any test runs.
ARGUMENTS = {name: COLLECTION[name].get_arguments() for name in NAMES}

CHAIN = document({"app": ["lib"], "lib": ["base"], "base": []})


def invoke(*arguments: str, cwd: Path, **env: str) -> Answer:
    """Run the real ``invoke`` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "invoke", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def body(name: str) -> Callable[..., None]:
    """The function that a task was made of."""
    task: Task[Any] = COLLECTION[name]
    function: Callable[..., None] = inspect.unwrap(task.body)
    return function


@pytest.fixture
def demo(project: Project) -> Project:
    """A project with one stack whose three specs wait for each other."""
    project.write("invoke.yaml", "stackyard: {}\n")
    project.stack(CHAIN)
    return project


def test_the_tasks() -> None:
    top = (
        "bench build doctor draw fetch format generate graph init lint lock plan push release "
        "reproduce site status test trigger"
    )
    below = {
        "image": "autobuild build layers pin push test",
        "keys": "create export publish trust",
        "mirror": "copy doctor empty index list prune verify",
        "spack": "clone",
    }
    expected = top.split() + [f"{k}.{name}" for k, names in below.items() for name in names.split()]
    assert sorted(expected) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_task_is_explained(name: str) -> None:
    function = body(name)
    summary = (function.__doc__ or "").strip().splitlines()[0]
    assert summary.endswith(".")
    assert len(summary) <= 100
    parameters = list(inspect.signature(function).parameters.values())[1:]
    assert [p.name for p in parameters if p.default is inspect.Parameter.empty] == []
    helped = {argument.name: argument.help for argument in ARGUMENTS[name]}
    assert set(helped) == {p.name for p in parameters}
    assert [name for name, text in helped.items() if not text] == []
    assert list(COLLECTION[name].positional) == []


def shown(option: str) -> str:
    """As Invoke makes a flag of a parameter's name."""
    return option.strip("_").replace("_", "-")


@pytest.mark.parametrize("name", NAMES)
def test_help_never_runs_the_task(
    name: str, stackyard: Stackyard, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (
        tasks.image,
        tasks.keys,
        tasks.mirror,
        tasks.own,
        tasks.pipeline,
        tasks.release,
        tasks.services,
        tasks.spack,
    ):
        monkeypatch.setattr(module, "flow", lambda _: pytest.fail("the task ran"))
    options = [argument.name for argument in ARGUMENTS[name]]
    for arguments in ([name, "--help"], ["--help", name], [name, "-h"]):
        answer = stackyard(*arguments)
        assert answer.err == ""
        assert answer.out.startswith(f"Usage: stackyard [--core-opts] {name} ")
        for option in options:
            assert f"--{shown(option)}" in answer.out
    for argument in ARGUMENTS[name]:
        if argument.kind is bool:
            flag = f"--{shown(argument.name)}"
            assert stackyard(name, flag, "--help").out == answer.out
    assert project.files() == {}


def test_list_and_version(stackyard: Stackyard) -> None:
    assert stackyard("--version").out == f"Stackyard {__version__}\n"
    order = sorted(NAMES, key=lambda name: ("." in name, name))
    assert re.findall(r"^  ([a-z.]+)  ?", stackyard("--list").out, re.MULTILINE) == order
    listed = invoke("--list", cwd=ROOT)
    assert (listed.code, listed.err) == (0, "")
    assert re.findall(r"^  ([a-z.]+)  ?", listed.out, re.MULTILINE) == order


@pytest.mark.parametrize("name", NAMES)
def test_a_task_is_one_call_into_flow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the task passes on is what that function takes."""
    calls: list[str] = []

    class Steps:
        """A module of flow whose functions only check how they are called."""

        def __init__(self, module: str) -> None:
            self._module = importlib.import_module(f"stackyard.flow.{module}")

        def __getattr__(self, function: str) -> Callable[..., object]:
            if function == "Request":
                return Request
            real = inspect.signature(getattr(self._module, function))

            def call(*args: object, **kwargs: object) -> None:
                real.bind(*args, **kwargs)
                calls.append(function)

            return call

    module = inspect.getmodule(inspect.unwrap(body(name)))
    monkeypatch.setattr(module, "flow", Steps)
    body(name)(Context())
    assert len(calls) == 1


HEAVY = ("yaml", "jinja2", "archspec", "http.client", "ssl", "json", "stackyard.flow")


@pytest.mark.parametrize("module", ["stackyard.tasks", "stackyard.main"])
def test_imports_nothing_heavy(module: str) -> None:
    code = (
        "import sys, invoke.program\n"  # it brings in some of them itself
        f"for name in {HEAVY!r}: sys.modules.pop(name, None)\n"
        f"import {module}\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


# -- exit codes -----------------------------------------------------------------------------


def refused(stackyard: Stackyard, project: Project, code: int, *arguments: str) -> str:
    """What a run that fails says: on stderr alone, as the documented error, nothing written."""
    before = project.files()
    answer = stackyard(*arguments, code=code)
    assert answer.out == ""
    lines = answer.err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] != []
    assert project.files() == before
    return answer.err


def error(text: str) -> str:
    """The error alone, without warnings and progress before it."""
    return text[text.index("error: ") :]


def test_no_project(stackyard: Stackyard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["generate"], ["plan"], ["doctor"], ["lock", "--check"], ["graph"]):
        answer = stackyard(*arguments, code=2)
        assert answer.out == ""
        said, hint, *rest = answer.err.splitlines()
        assert said == f"error: {tmp_path}: no invoke.yaml and no folder stacks/ here or above"
        assert (hint[:8], rest) == ("  hint: ", [])
    assert list(tmp_path.iterdir()) == []


def test_unknown_stack(stackyard: Stackyard, demo: Project) -> None:
    for task in ("generate", "plan", "graph"):
        text = refused(stackyard, demo, 2, task, "--stack", "dmeo")
        assert text == "error: unknown stack 'dmeo'\n  hint: did you mean 'demo'?\n"


def test_which_stack(stackyard: Stackyard, demo: Project) -> None:
    demo.stack(CHAIN, name="other")
    text = refused(stackyard, demo, 2, "plan")
    assert text == "error: --stack: which stack? there are: demo, other\n  hint: name one\n"


def test_output_without_stack(stackyard: Stackyard, demo: Project) -> None:
    text = refused(stackyard, demo, 2, "generate", "--output", "x.yml")
    assert text == (
        "error: --output: the parent pipeline has its place: .gitlab-ci.yml\n"
        "  hint: name a stack as well: --stack NAME\n"
    )


SETTINGS = [
    ("unknown key", "stackyard: {limit: {}}", "invoke.yaml: stackyard.limit: unknown key"),
    ("wrong type", "stackyard: {limits: {needs: many}}", "invoke.yaml: stackyard.limits.needs: "),
    ("not a mapping", "- a\n- b\n", "invoke.yaml: must be a mapping"),
    ("not YAML", "stackyard: [\n", "invoke.yaml:2:1: not YAML"),
    ("a tab", "stackyard:\n\tlimits: {}\n", "invoke.yaml:2:1: not YAML"),
    ("a tag", "stackyard: !!python/object:os.system x\n", "invoke.yaml:1:12: unknown tag"),
    ("twice", "stackyard: {}\nstackyard: {}\n", "invoke.yaml:2:1: duplicate key 'stackyard'"),
    ("latin-1", b"stackyard: \xe9\n", "invoke.yaml:1:12: not UTF-8"),
    ("near name", "stackyrad: {}\n", "invoke.yaml: stackyrad: unknown key"),
]


@pytest.mark.parametrize(
    ("content", "where"), [c[1:] for c in SETTINGS], ids=[c[0] for c in SETTINGS]
)
def test_bad_settings(
    stackyard: Stackyard, demo: Project, content: str | bytes, where: str
) -> None:
    demo.write("invoke.yaml", content)
    for task in ("plan", "generate", "doctor"):
        assert error(refused(stackyard, demo, 2, task)).startswith(f"error: {where}")


@pytest.mark.parametrize(
    ("content", "where"), [c[1:] for c in SETTINGS], ids=[c[0] for c in SETTINGS]
)
def test_bad_settings_with_invoke_itself(tmp_path: Path, content: str | bytes, where: str) -> None:
    """Invoke reads the file as well, before any task, and would show a traceback."""
    clone = Project(tmp_path)
    clone.write("tasks.py", (ROOT / "tasks.py").read_bytes())
    clone.write("invoke.yaml", content)
    clone.stack(CHAIN)
    answer = invoke("plan", "--no-prune", cwd=tmp_path)
    assert answer.err.startswith(f"error: {where}")
    assert "Traceback" not in answer.err
    assert (answer.code, answer.out) == (2, "")


@pytest.mark.parametrize(
    "content", ["run: 5\n", "tasks: [a]\n", "a: &a [*b]\n", "? [a]\n: b\n", "\x01: 1\n"]
)
def test_what_only_invoke_refuses(tmp_path: Path, content: str) -> None:
    clone = Project(tmp_path)
    clone.write("tasks.py", (ROOT / "tasks.py").read_bytes())
    clone.write("invoke.yaml", content)
    answer = invoke("--list", cwd=tmp_path)
    assert answer.err.startswith("error: invoke.yaml")
    assert "Traceback" not in answer.err
    assert (answer.code, answer.out) == (2, "")


def test_invoke_with_good_settings_or_none(tmp_path: Path) -> None:
    clone = Project(tmp_path)
    clone.write("tasks.py", (ROOT / "tasks.py").read_bytes())
    clone.stack(CHAIN)
    bare = invoke("plan", "--no-prune", cwd=tmp_path)
    clone.write("invoke.yaml", "run: {echo: true}\nstackyard: {limits: {needs: 9}}\n")
    assert invoke("plan", "--no-prune", cwd=tmp_path) == bare
    assert (bare.code, bare.out.count("\n")) == (0, 7)


def test_stale_parent(stackyard: Stackyard, demo: Project) -> None:
    stackyard("generate")
    fresh = demo.files()
    ended = stackyard("generate", "--check")
    assert (ended.out, ended.err) == ("", "up to date: .gitlab-ci.yml\n")
    demo.write("invoke.yaml", "stackyard: {generate: {image: 'other:1'}}\n")
    before = demo.files()
    answer = stackyard("generate", "--check", code=3)
    assert demo.files() == before
    assert before[".gitlab-ci.yml"] == fresh[".gitlab-ci.yml"]
    assert answer.err == "error: not up to date: .gitlab-ci.yml\n  hint: run: invoke generate\n"
    lines = answer.out.splitlines()
    assert lines[:2] == [
        "--- .gitlab-ci.yml (as it is)",
        "+++ .gitlab-ci.yml (as it should be)",
    ]
    assert [line for line in lines[2:] if line[0] in "+-"] == [
        '-  image: "python:3.12"',
        '+  image: "other:1"',
    ] * 2
    stackyard("generate")
    assert stackyard("generate", "--check").out == ""


def test_missing_parent_is_stale(stackyard: Stackyard, demo: Project) -> None:
    answer = stackyard("generate", "--check", code=3)
    assert answer.out.startswith("--- .gitlab-ci.yml (as it is)\n")
    assert ".gitlab-ci.yml" not in demo.files()


def test_lock_of_another_manifest(stackyard: Stackyard, demo: Project) -> None:
    demo.stack(CHAIN, specs=["app", "elsewhere@2:"])
    for arguments in (["plan"], ["generate", "--stack", "demo"], ["lock", "--check"]):
        assert refused(stackyard, demo, 3, *arguments) == (
            "error: stacks/demo/spack.lock: the lock has no root for what stacks/demo/spack.yaml "
            "asks: elsewhere@2:\n"
            "  hint: the lock belongs to another manifest; run: invoke lock\n"
        )


def test_limits(stackyard: Stackyard, demo: Project) -> None:
    demo.stack(CHAIN, settings={"limits": {"jobs": 3}})
    text = refused(stackyard, demo, 4, "generate", "--stack", "demo", "--no-prune")
    assert error(text).splitlines()[0] == (
        "error: limits.jobs: the pipeline has 4 jobs, the limit is 3 (jobs per pipeline)"
    )


def test_missing_program(
    stackyard: Stackyard, demo: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(demo.root))
    text = refused(stackyard, demo, 5, "plan", "--prune-unaffected", "--no-prune")
    assert text.splitlines()[-1] == "  hint: install git"


def test_unreadable_mirror(stackyard: Stackyard, demo: Project) -> None:
    missing = demo.root / "nowhere"
    for task in (["plan"], ["generate", "--stack", "demo"], ["graph"]):
        text = refused(stackyard, demo, 6, *task, "--mirror", missing.as_uri())
        assert missing.as_uri() in error(text)
    assert missing.as_uri() in refused(
        stackyard, demo, 6, "generate", "--stack", "demo", "--mirror", missing.as_uri(), "--check"
    )


@pytest.mark.usefixtures("hurried")
def test_server_that_is_down(stackyard: Stackyard, demo: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/mirror"
        text = refused(stackyard, demo, 6, "plan", "--mirror", url)
    assert url in error(text)


@pytest.mark.usefixtures("hurried")
def test_bucket_that_is_down(
    stackyard: Stackyard, demo: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stack's own mirror is on S3, and nobody answers there: never taken for empty."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("S3_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        text = refused(stackyard, demo, 6, "plan")
    assert "s3://example-binaries/demo" in error(text)


# -- what goes to stdout --------------------------------------------------------------------


def test_json_alone_on_stdout(stackyard: Stackyard, demo: Project) -> None:
    demo.stack(CHAIN, ci={"pipeline-gen": [{"submapping": [{"match": ["nothing"]}]}]})
    answer = stackyard("plan", "--no-prune", "--json")
    made = json.loads(answer.out)
    assert [spec["name"] for spec in made["specs"]] == ["base", "lib", "app"]
    assert answer.err.startswith("warning: ")
    checked = stackyard("lock", "--check", "--verify", "--json", code=2)
    assert checked.out == ""
    findings = json.loads(stackyard("doctor", "--offline", "--json").out)
    assert {finding["state"] for finding in findings} == {"ok", "advice"}


def test_progress_on_stderr(stackyard: Stackyard, demo: Project) -> None:
    answer = stackyard("generate", "--stack", "demo", "--no-prune")
    assert answer.out == ""
    assert answer.err.splitlines()[-4:] == [
        "3 to build; 4 jobs, longest chain 3",
        "wrote jobs_scratch_dir/pipeline.yml",
        "wrote jobs_scratch_dir/concrete_environment/spack.yaml",
        "wrote jobs_scratch_dir/concrete_environment/spack.lock",
    ]
    again = stackyard("generate", "--stack", "demo", "--no-prune")
    assert again.err == answer.err.replace("wrote", "unchanged")


def test_tasks_of_the_clone_refuse_elsewhere(stackyard: Stackyard, demo: Project) -> None:
    for task in ("test", "lint", "format", "bench"):
        assert refused(stackyard, demo, 2, task) == (
            f"error: {demo.root}: this task works on Stackyard's own code, in a clone of it\n"
        )


def test_broken_pipe_is_quiet(demo: Project) -> None:
    """``stackyard plan | head``: the reader leaves before anything is written."""
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from stackyard.main import main; sys.argv[0] = 'stackyard'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", "--no-prune"],
        cwd=demo.root,
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_output_may_not_be_another_file_of_the_jobs(stackyard: Stackyard, project: Project) -> None:
    project.stack(CHAIN)
    target = "jobs_scratch_dir/concrete_environment/spack.lock"
    answer = stackyard("generate", "--stack", "demo", "--no-prune", "--output", target, code=2)
    assert "lies among the files that the jobs need" in answer.err
    assert not (project.root / "jobs_scratch_dir").exists()


@pytest.mark.parametrize("flag", ["--since", "--packages"])
def test_a_change_that_nothing_asks_about(
    stackyard: Stackyard, project: Project, flag: str
) -> None:
    project.stack(CHAIN)
    answer = stackyard("plan", "--stack", "demo", "--no-prune", flag, "HEAD", code=2)
    assert f"{flag}: it measures a change that nothing asks about" in answer.err


def test_an_empty_mirror_url(stackyard: Stackyard, project: Project) -> None:
    project.stack(CHAIN)
    answer = stackyard("plan", "--stack", "demo", "--mirror", "", code=2)
    assert "--mirror: an empty URL" in answer.err


def test_match_errors_name_file_and_key(stackyard: Stackyard, project: Project) -> None:
    project.stack(CHAIN, ci={"pipeline-gen": [{"submapping": [{"match": ["a b"]}]}]})
    answer = stackyard("generate", "--stack", "demo", "--no-prune", code=2)
    assert answer.err.startswith(
        "error: stacks/demo/spack.yaml: spack.ci.pipeline-gen[0].submapping[0].match: "
    )


def test_plan_json_has_all_warnings(stackyard: Stackyard, project: Project) -> None:
    project.stack(CHAIN, ci={"pipeline-gen": [{"submapping": [{"match": ["nowhere"]}]}]})
    answer = stackyard("plan", "--stack", "demo", "--no-prune", "--json")
    assert json.loads(answer.out)["warnings"] == [
        (
            "stacks/demo/spack.yaml: ci.pipeline-gen[0].submapping[0]: "
            "match string 'nowhere' holds for no spec"
        )
    ]
