"""The parent pipeline: a whole one by heart, and what each setting does to it."""

from __future__ import annotations

import shlex
import string
from pathlib import Path
from typing import Any

import pytest
from conftest import CI_SECTION, Project, Stackyard
from locks import document
from pipelines import jobs_of, load

from stackyard import __version__
from stackyard.parent import ParentStack, parent_values
from stackyard.pull_requests import mirror_name

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


def with_services(stackyard: Stackyard, project: Project) -> dict[str, Any]:
    project.write("invoke.yaml", {"stackyard": SERVICES})
    stackyard("generate")
    return load((project.root / ".gitlab-ci.yml").read_bytes())


@pytest.fixture
def two(project: Project) -> Project:
    """Two stacks, of which one includes a file outside of its folder."""
    project.stack(CHAIN, name="first")
    project.write("shared/ci.yaml", {"ci": CI_SECTION})
    project.stack(CHAIN, name="second.one", include=["../../shared/ci.yaml"])
    return project


#: Commit statuses, mirrors of pull requests, and a role on AWS for both kinds of them.
SERVICES: dict[str, Any] = {
    "status": {},
    "pull_requests": {"mirror": "s3://example-pulls", "role": "arn:pulls", "keep": "3 days"},
    "jobs": {"aws": {"role": "arn:release", "audience": "https://gitlab.example.com"}},
}


@pytest.mark.parametrize("case", ["plain", "settings", "services"])
def test_golden(
    stackyard: Stackyard, two: Project, request: pytest.FixtureRequest, case: str
) -> None:
    if case == "services":
        with_services(stackyard, two)
    else:
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
        "stages": ["generate", "build"],
        "image": "i",
        "tags": ["t"],
        "strategy": "depend",
        "interruptible": True,
        "variables": {"A": "b"},
        "install": ["first", "python3 -m pip install --quiet 'x y'"],
        "before_script": ["first", "python3 -m pip install --quiet 'x y'"],
        "after_script": [],
        "id_tokens": {},
        "status": False,
        "mirrors": False,
    }


# -- statuses -------------------------------------------------------------------------------


def test_a_status_whatever_happens(stackyard: Stackyard, two: Project) -> None:
    """Pending first; then success or failure; and success for a stack that nothing touched."""
    made = with_services(stackyard, two)
    jobs = jobs_of(made)
    stages = made["stages"]
    assert stages == ["generate", "build", "status", "cleanup"]
    states = {}
    for name in ("pending", "success", "failure", "broken", "untouched"):
        job = jobs[f"{name}-first"]
        states[name] = job["variables"]["STACKYARD_STATE"]
        assert job["allow_failure"] is True
        assert job["variables"]["SPACK_CI_STACK_NAME"] == "first"
        assert "id_tokens" not in job  # it has nothing to do with mirrors
        assert job["before_script"] == jobs["pending-first"]["before_script"]
    assert states == {
        "pending": "pending",
        "success": "success",
        "failure": "failure",
        "broken": "failure",
        "untouched": "success",
    }
    # What comes last cannot come before what comes first, however busy the runners are.
    needs = {name: [n["job"] for n in jobs[f"{name}-first"]["needs"]] for name in states}
    # None needs two of which one may not run: GitLab would pass it over then.
    assert needs == {
        "pending": [],
        "success": ["pending-first", "build-first"],
        "failure": ["pending-first", "build-first"],
        "broken": ["pending-first", "generate-first"],
        "untouched": [],
    }
    rules = {name: jobs[f"{name}-first"]["rules"] for name in states}
    changes = jobs["generate-first"]["rules"]
    assert rules["pending"] == rules["success"] == changes
    assert rules["failure"] == rules["broken"] == [{**changes[0], "when": "on_failure"}]
    assert rules["untouched"] == [{**changes[0], "when": "never"}, {"when": "on_success"}]


def test_no_status_where_none_is_asked_for(stackyard: Stackyard, two: Project) -> None:
    assert not any("status" in str(job) for job in parent(stackyard, two).values())


# -- mirrors of pull requests ---------------------------------------------------------------


def test_an_environment_that_stops(stackyard: Stackyard, two: Project) -> None:
    jobs = jobs_of(with_services(stackyard, two))
    start, stop = jobs["mirror-second.one"], jobs["cleanup-second.one"]
    name = "mirror-second.one/$STACKYARD_PULL_REQUEST"
    assert start["environment"] == {
        "name": name,
        "on_stop": "cleanup-second.one",
        "auto_stop_in": "3 days",
    }
    assert stop["environment"] == {"name": name, "action": "stop"}
    changes = jobs["generate-second.one"]["rules"][0]["changes"]
    only = {"if": "$STACKYARD_PULL_REQUEST", "changes": changes}
    assert start["rules"] == [only]
    assert stop["rules"] == [{**only, "when": "manual", "allow_failure": True}]
    assert stop["needs"] == []  # it can be started at once
    assert "artifacts" not in stop
    assert stop["interruptible"] is False


@pytest.mark.parametrize(
    ("source", "variables"),
    [
        ("merge_request_event", {"CI_MERGE_REQUEST_IID": "7"}),
        ("external_pull_request_event", {"CI_EXTERNAL_PULL_REQUEST_IID": "8"}),
        ("push", {"CI_COMMIT_BRANCH": "a/b", "CI_COMMIT_REF_SLUG": "a-b"}),
    ],
)
def test_environment_and_mirror_have_one_name(
    stackyard: Stackyard, two: Project, source: str, variables: dict[str, str]
) -> None:
    """What GitLab calls it is what the jobs call it."""
    known = {"CI_COMMIT_REF_SLUG": "a-b", **variables}
    rules = with_services(stackyard, two)["workflow"]["rules"]
    fits = f'$CI_PIPELINE_SOURCE == "{source}"'
    rule = next(r for r in rules if r["if"] == fits or (source == "push" and r["if"] == BRANCH))
    name = string.Template(rule["variables"]["STACKYARD_PULL_REQUEST"]).substitute(known)
    assert name == mirror_name(known)


BRANCH = "$CI_COMMIT_BRANCH"


def test_no_environment_on_protected_branches(stackyard: Stackyard, two: Project) -> None:
    rules = with_services(stackyard, two)["workflow"]["rules"]
    (protected,) = (rule for rule in rules if "PROTECTED" in rule["if"])
    assert protected["variables"] == {"SPACK_PIPELINE_TYPE": "spack_protected_branch"}


def test_only_for_the_stacks_that_have_them(stackyard: Stackyard, two: Project) -> None:
    two.write("stacks/first/stack.yaml", {"pull_requests": {"mirror": "s3://example-pulls"}})
    jobs = jobs_of(parent(stackyard, two))
    assert "mirror-first" in jobs
    assert jobs["mirror-first"]["environment"]["auto_stop_in"] == "2 weeks"
    assert "mirror-second.one" not in jobs


# -- a role on AWS --------------------------------------------------------------------------


def test_jobs_that_go_to_mirrors_take_a_role(stackyard: Stackyard, two: Project) -> None:
    jobs = jobs_of(with_services(stackyard, two))
    for name in ("generate-first", "cleanup-first"):
        job = jobs[name]
        assert job["id_tokens"] == {"STACKYARD_AWS_TOKEN": {"aud": "https://gitlab.example.com"}}
        assert any("arn:release" in line for line in job["before_script"])
        assert any("arn:pulls" in line for line in job["before_script"])
        assert job["after_script"]
