"""The parent pipeline: a whole one by heart, and what each setting does to it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from conftest import CI_SECTION, Project, Stackyard
from locks import document
from pipelines import jobs_of, load

from stackyard import __version__
from stackyard.parent import ParentStack, parent_values

GOLDEN = Path(__file__).parent / "golden" / "parent"
CHAIN = document({"app": ["lib"], "lib": []})

SETTINGS: dict[str, Any] = {
    "image": "registry.example.com/python:3.12",
    "tags": ["docker", "small"],
    "requirement": "stackyard @ git+https://git.example.com/stackyard@v1; it's",
    "strategy": "mirror",
    "interruptible": False,
    "variables": {"GIT_DEPTH": 2, "LOUD": True, "TEXT": 'say "yes" to $HOME: # all'},
    "before_script": ["python3 --version", "echo 'a: b'"],
}


def parent(stackyard: Stackyard, project: Project, **generate: Any) -> dict[str, Any]:
    project.write("invoke.yaml", {"stackyard": {"generate": generate}})
    stackyard("generate")
    return load((project.root / ".gitlab-ci.yml").read_bytes())


@pytest.fixture
def two(project: Project) -> Project:
    """Two stacks, of which one includes a file outside of its folder."""
    project.stack(CHAIN, name="first")
    project.write("shared/ci.yaml", {"ci": CI_SECTION})
    project.stack(CHAIN, name="second.one", include=["../../shared/ci.yaml"])
    return project


@pytest.mark.parametrize("case", ["plain", "settings"])
def test_golden(
    stackyard: Stackyard, two: Project, request: pytest.FixtureRequest, case: str
) -> None:
    parent(stackyard, two, **(SETTINGS if case == "settings" else {}))
    text = (two.root / ".gitlab-ci.yml").read_text(encoding="utf-8")
    text = text.replace(f"stackyard=={__version__}", "stackyard==VERSION")
    golden = GOLDEN / f"{case}.yml"
    if request.config.getoption("--update-golden"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_jobs(stackyard: Stackyard, two: Project) -> None:
    jobs = jobs_of(parent(stackyard, two))
    assert list(jobs) == [
        "nothing to do",
        "generate-first",
        "build-first",
        "generate-second.one",
        "build-second.one",
    ]
    generate, build = jobs["generate-second.one"], jobs["build-second.one"]
    assert generate["needs"] == []
    assert generate["variables"]["SPACK_CI_STACK_NAME"] == "second.one"
    assert generate["variables"].keys() > {"SPACK_CI_STACK_NAME"}  # those of .generate remain
    assert build["needs"] == ["generate-second.one"]
    assert build["variables"] == {"SPACK_CI_STACK_NAME": "second.one"}
    assert build["trigger"] == {
        "include": [
            {
                "artifact": "jobs_scratch_dir/second.one/pipeline.yml",
                "job": "generate-second.one",
            }
        ],
        "strategy": "depend",
    }
    changes = [
        "stacks/second.one/**/*",
        "shared/ci.yaml",
        "invoke.yaml",
        ".gitlab-ci.yml",
        "templates/gitlab/**/*",
    ]
    assert generate["rules"] == build["rules"] == [{"changes": changes}]
    assert jobs["generate-first"]["rules"][0]["changes"][1] == "invoke.yaml"


def test_trigger_jobs_say_only_what_they_may(stackyard: Stackyard, two: Project) -> None:
    """GitLab refuses tags, images and the like in a job that triggers."""
    jobs = jobs_of(parent(stackyard, two, **SETTINGS))
    for name in ("build-first", "build-second.one"):
        assert jobs[name].keys() == {"stage", "needs", "variables", "trigger", "rules"}
        assert jobs[name]["trigger"]["strategy"] == "mirror"


def test_settings(stackyard: Stackyard, two: Project) -> None:
    made = parent(stackyard, two, **SETTINGS)
    jobs = jobs_of(made)
    assert made["variables"] == {
        "GIT_DEPTH": "2",
        "LOUD": "true",
        "TEXT": 'say "yes" to $HOME: # all',
    }
    for name in ("nothing to do", "generate-first", "generate-second.one"):
        assert jobs[name]["image"] == "registry.example.com/python:3.12"
        assert jobs[name]["tags"] == ["docker", "small"]
        assert jobs[name]["interruptible"] is False
    assert jobs["generate-first"]["before_script"] == [
        "python3 --version",
        "echo 'a: b'",
        f"python3 -m pip install --quiet {shlex.quote(SETTINGS['requirement'])}",
    ]


def test_the_trigger_includes_what_the_job_writes(
    stackyard: Stackyard, two: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script, with the variables that GitLab sets, makes the file that the trigger names."""
    jobs = jobs_of(parent(stackyard, two))
    (line,) = jobs["generate-first"]["script"]
    words = line.replace("${SPACK_CI_STACK_NAME}", "first").replace('"', "").split()
    assert words[0] == "stackyard"
    monkeypatch.setenv("SPACK_CI_STACK_NAME", "first")
    monkeypatch.setenv("SPACK_PRUNE_UP_TO_DATE", "false")
    stackyard(*words[1:])
    child = two.root / jobs["build-first"]["trigger"]["include"][0]["artifact"]
    made = load(child.read_bytes())
    assert made["variables"]["SPACK_CI_STACK_NAME"] == "first"
    assert made["variables"]["SPACK_ARTIFACTS_ROOT"] == "jobs_scratch_dir/first"
    paths = jobs["generate-first"]["artifacts"]["paths"]
    assert [path for path in paths if child.is_relative_to(two.root / path)] == paths


def test_no_stack_yet(stackyard: Stackyard, project: Project) -> None:
    answer = stackyard("generate", code=2)
    assert answer.err == (
        "error: stacks/: there is no stack yet\n  hint: put a spack.yaml into stacks/NAME/\n"
    )
    assert project.files() == {}


def test_own_template_wins(stackyard: Stackyard, two: Project) -> None:
    two.write(
        "templates/gitlab/parent.yml.j2",
        "{% for stack in stacks %}\n{{ stack.name | json }}: {script: ['true']}\n{% endfor %}\n",
    )
    assert parent(stackyard, two) == {
        "first": {"script": ["true"]},
        "second.one": {"script": ["true"]},
    }


def test_values() -> None:
    stack = ParentStack(name="a", files=("stacks/a/**/*",))
    assert (stack.generate_job, stack.build_job) == ("generate-a", "build-a")
    values = parent_values(
        [stack],
        image="i",
        tags=("t",),
        requirement="x y",
        strategy="depend",
        interruptible=True,
        variables={"A": "b"},
        before_script=("first",),
    )
    assert values == {
        "stacks": [stack],
        "image": "i",
        "tags": ["t"],
        "strategy": "depend",
        "interruptible": True,
        "variables": {"A": "b"},
        "before_script": ["first", "python3 -m pip install --quiet 'x y'"],
    }
