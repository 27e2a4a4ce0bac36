"""Commit statuses: what they say, where they go, and that they go there once."""

from __future__ import annotations

import functools
import json
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import yaml
from conftest import Project, Stackyard
from fake_github import LONGEST_DESCRIPTION, STATES, FakeGitHub, Token, fake_github
from fake_gitlab import STATUSES as GITLAB_STATUSES
from fake_gitlab import Bridge, FakeGitLab, Job, fake_gitlab
from fake_gitlab import Project as GitLabProject
from fake_service import Fault
from locks import document

from stackyard.edges.github import GitHub
from stackyard.errors import ConfigError, CorruptError, UnreachableError
from stackyard.flow import status as flow
from stackyard.parent import ParentStack
from stackyard.status import (
    LONGEST,
    Counts,
    Repository,
    Status,
    check_commit,
    count_jobs,
    describe,
    find_child,
    find_context,
    find_state,
    head_commit,
    is_from_fork,
    last_of,
    page_of,
    parse_repository,
    shorten,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "89abcdef0123456789abcdef0123456789abcdef"
MERGE = "fedcba9876543210fedcba9876543210fedcba98"
HASH = "abcdefghijklmnopqrstuvwxyz234567"


# -- states and contexts ----------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
def test_a_state_of_github_stays(state: str) -> None:
    assert find_state(state) == state


def test_states_of_gitlab() -> None:
    """The table of Spack's own bridge."""
    found = {status: find_state(status) for status in GITLAB_STATUSES}
    assert found == {
        "created": "pending",
        "waiting_for_resource": "pending",
        "preparing": "pending",
        "pending": "pending",
        "running": "pending",
        "manual": "pending",
        "scheduled": "pending",
        "success": "success",
        "failed": "error",
        "skipped": "failure",
        "canceled": "",
        "canceling": "",
    }


def test_unknown_states() -> None:
    with pytest.raises(ConfigError, match="unknown state 'sucess'") as caught:
        find_state("sucess")
    assert caught.value.hint == "did you mean 'success'?"
    with pytest.raises(ConfigError, match="which state"):
        find_state("")


@pytest.mark.parametrize(
    ("base", "stack", "expected"),
    [
        ("", "", "ci/gitlab-ci"),
        ("", "tutorial", "ci/gitlab-ci/tutorial"),
        ("Spack", "tutorial", "Spack/tutorial"),
        (" ci/\x00line\nline ", "", "ci/ line line"),
    ],
)
def test_context(base: str, stack: str, expected: str) -> None:
    assert find_context(base, stack) == expected


def test_the_last_status_of_a_context() -> None:
    rows = [
        {"context": "other", "state": "error"},
        {"context": "CI/Gitlab-CI", "state": "pending"},
        {"context": "ci/gitlab-ci", "state": "success"},
    ]
    assert last_of(rows, "ci/gitlab-ci") == rows[1]
    assert last_of(rows, "ci/gitlab-ci/x") is None
    strange: list[Any] = [None, [], {"state": "error"}, {"context": 5}]
    for bad in strange:
        with pytest.raises(CorruptError):
            last_of([bad], "x")


def test_looks_no_further_than_the_last() -> None:
    rows = iter([{"context": "a"}, {"context": "b"}, {"context": "c"}])
    assert last_of(rows, "b") == {"context": "b"}
    assert next(rows) == {"context": "c"}


# -- descriptions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (Counts(212, ("trilinos",), reused=20), "212 built, 20 reused, 1 failed: trilinos"),
        (Counts(212, reused=20), "212 built, 20 reused"),
        (Counts(0, reused=234), "0 built, 234 reused"),
        (Counts(3), "3 built"),
        (Counts(3, reused=0), "3 built"),
        (
            Counts(1, ("a", "b"), skipped=4, canceled=3, waiting=2, reused=5),
            "1 built, 5 reused, 2 waiting, 3 canceled, 4 not tried, 2 failed: a, b",
        ),
        (Counts(1, ("hdf5", "hdf5", "zlib")), "1 built, 3 failed: hdf5, zlib"),
    ],
)
def test_counts(counts: Counts, expected: str) -> None:
    assert describe("failure", counts) == expected


@pytest.mark.parametrize("state", STATES)
def test_without_counts(state: str) -> None:
    assert describe(state).startswith("the pipeline ")


@pytest.mark.parametrize("number", [10, 20, 100, 900])
def test_as_many_names_as_fit(number: int) -> None:
    names = tuple(f"package-{n}" for n in range(number))
    text = describe("failure", Counts(5, names, reused=7))
    head = f"5 built, 7 reused, {number} failed: "
    assert text.startswith(f"{head}package-0, package-1")
    assert len(text) <= LONGEST
    shown, _, more = text.removeprefix(head).partition(" and ")
    count = len(shown.split(", "))
    assert shown.split(", ") == list(names[:count])
    if count < number:
        assert more == f"{number - count} more"
        longer = f"{head}{', '.join(names[: count + 1])} and {number - count - 1} more"
        assert len(longer) > LONGEST


def test_a_name_as_long_as_all() -> None:
    text = describe("failure", Counts(0, ("x" * 300, "y")))
    assert text == f"0 built, 2 failed: {'x' * (LONGEST - 20)}…"
    assert len(text) == LONGEST == LONGEST_DESCRIPTION


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("  two\n\twords\x1b[0m ", "two words [0m"),
        ("x" * 140, "x" * 140),
        ("x" * 141, "x" * 139 + "…"),
        ("word " * 40, ("word " * 27 + "word").rstrip() + "…"),
        ("a, " * 60, ("a, " * 46).rstrip(", ") + "…"),
        ("é" * 150, "é" * 139 + "…"),
    ],
)
def test_cut_to_what_github_takes(text: str, expected: str) -> None:
    assert shorten(text) == expected
    assert len(expected) <= LONGEST


def job(name: str, status: str, number: int = 1) -> dict[str, Any]:
    return {"id": number, "name": name, "status": status, "stage": "stage-0"}


def test_counting_jobs() -> None:
    jobs = [
        job(f"a@1 /{HASH}", "success"),
        job(f"b@2.0 /{HASH} Group", "success"),
        job(f"late@1 /{HASH}", "failed", 9),
        job(f"py-early@develop /{HASH}", "failed", 3),
        job(f"d@1 /{HASH}", "skipped"),
        job(f"e@1 /{HASH}", "canceled"),
        job(f"f@1 /{HASH}", "running"),
        job(f"g@1 /{HASH}", "created"),
        job("no-specs-to-rebuild", "success"),
        job(f"join-1 for a@1 /{HASH}", "success"),
        job("sign-pkgs", "skipped"),
        job("rebuild-index", "failed", 10),
    ]
    counts = count_jobs(jobs)
    assert counts == Counts(2, ("py-early", "late", "rebuild-index"), 1, 1, 2, jobs=8)


@pytest.mark.parametrize("bad", [None, "job", {"name": "a@1"}, {"name": 1, "status": "success"}])
def test_jobs_that_are_none(bad: Any) -> None:
    with pytest.raises(CorruptError, match="GitLab's list of jobs"):
        count_jobs([bad])


def test_the_child_of_a_trigger() -> None:
    bridges = [
        {"name": "build-a", "downstream_pipeline": {"id": 7}},
        {"name": "build-b", "downstream_pipeline": None},
    ]
    assert [find_child(bridges, f"build-{name}") for name in "abc"] == [7, 0, 0]
    for bad in ("x", {"name": "build-a", "downstream_pipeline": {}}):
        with pytest.raises(CorruptError):
            find_child([bad], "build-a")


# -- places -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [COMMIT, COMMIT.upper(), f" {COMMIT}\n", COMMIT + COMMIT[:24]])
def test_commits(text: str) -> None:
    assert check_commit(text, "--sha") == text.strip().lower()


@pytest.mark.parametrize("text", ["HEAD", COMMIT[:12], f"{COMMIT}0", f"{COMMIT}/..", "\x1b[31m"])
def test_what_is_no_commit(text: str) -> None:
    with pytest.raises(ConfigError, match="not a commit id") as caught:
        check_commit(text, "--sha")
    assert caught.value.where == "--sha"
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("octo/stacks", Repository("", "octo/stacks")),
        ("octo/s.t-a_cks", Repository("", "octo/s.t-a_cks")),
        ("https://github.com/octo/stacks", Repository("github.com", "octo/stacks")),
        ("https://u:p@GitHub.com/octo/stacks.git/", Repository("github.com", "octo/stacks")),
        (
            "ssh://git@ghe.example.com:2222/octo/stacks.git",
            Repository("ghe.example.com", "octo/stacks"),
        ),
        ("git@github.com:octo/stacks.git", Repository("github.com", "octo/stacks")),
        ("", None),
        ("stacks", None),
        ("octo/..", None),
        ("octo/stacks/more", None),
        ("octo/st acks", None),
        ("../../etc", None),
        ("https://[::1/octo/stacks", None),
        ("https://gitlab.com/group/sub/project.git", None),
        ("/srv/git/octo/stacks", None),
    ],
)
def test_repositories(text: str, expected: Repository | None) -> None:
    assert parse_repository(text) == expected


#: What GitHub tells a workflow of a pull request, as far as we look.
PULL_REQUEST = {
    "pull_request": {
        "head": {"sha": COMMIT, "repo": {"full_name": "octo/stacks"}},
        "base": {"sha": OTHER, "repo": {"full_name": "octo/stacks"}},
    }
}
FORKED = json.loads(json.dumps(PULL_REQUEST).replace("octo/stacks", "else/stacks", 1))
GONE = {"pull_request": {**PULL_REQUEST["pull_request"], "head": {"sha": COMMIT, "repo": None}}}

HEADS: list[tuple[str, dict[str, str], Any, str]] = [
    ("branch on GitLab", {"CI_COMMIT_SHA": COMMIT}, None, COMMIT),
    (
        "external pull request",
        {"CI_COMMIT_SHA": MERGE, "CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_SHA": COMMIT},
        None,
        COMMIT,
    ),
    (
        "merged results",
        {"CI_COMMIT_SHA": MERGE, "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": COMMIT},
        None,
        COMMIT,
    ),
    (
        "merge request without",
        {"CI_COMMIT_SHA": COMMIT, "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": ""},
        None,
        COMMIT,
    ),
    ("pull request on GitHub", {"GITHUB_SHA": MERGE}, PULL_REQUEST, COMMIT),
    ("push on GitHub", {"GITHUB_SHA": COMMIT}, {"after": COMMIT}, COMMIT),
    ("after a workflow", {"GITHUB_SHA": OTHER}, {"workflow_run": {"head_sha": COMMIT}}, COMMIT),
    ("odd event", {"GITHUB_SHA": COMMIT}, {"pull_request": {"head": [1]}}, COMMIT),
    ("nowhere", {}, None, ""),
]


@pytest.mark.parametrize(
    ("env", "event", "expected"), [h[1:] for h in HEADS], ids=[h[0] for h in HEADS]
)
def test_the_head_and_never_the_merge(env: Mapping[str, str], event: Any, expected: str) -> None:
    assert head_commit(env, event) == expected


def test_forks() -> None:
    source, target = (
        f"CI_EXTERNAL_PULL_REQUEST_{word}_REPOSITORY" for word in ("SOURCE", "TARGET")
    )
    assert not is_from_fork({})
    assert not is_from_fork({source: "octo/stacks", target: "Octo/Stacks"})
    assert is_from_fork({source: "else/stacks", target: "octo/stacks"})
    assert not is_from_fork({}, PULL_REQUEST)
    assert is_from_fork({}, FORKED)
    assert is_from_fork({}, GONE)
    assert not is_from_fork({}, {"pull_request": {}})


def test_pages() -> None:
    actions = {
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_REPOSITORY": "octo/stacks",
        "GITHUB_RUN_ID": "12",
    }
    assert page_of(actions) == "https://github.com/octo/stacks/actions/runs/12"
    assert page_of({**actions, "CI_PIPELINE_URL": "https://g/1"}) == "https://g/1"
    assert page_of({**actions, "GITHUB_RUN_ID": ""}) == ""


def test_what_is_said_already() -> None:
    made = Status("success", "ci", "fine", "https://g/1")
    posted = {**made._asdict(), "id": 3}
    assert made.is_said_by(posted)
    assert made._replace(target_url="").is_said_by({**posted, "target_url": None})
    for name in ("state", "description", "target_url"):
        assert not made.is_said_by({**posted, name: "other"})
    assert made.body == made._asdict()
    assert "target_url" not in made._replace(target_url="").body


# -- the task ---------------------------------------------------------------------------------

TOKEN = "ghp_recognisable0123456789"
NAME = "octo/stacks"
PAGE = "https://gitlab.example.com/g/p/-/pipelines/100"
CHAIN = document({"app": ["lib"], "lib": ["base"], "base": []})

Env = Callable[..., None]


@pytest.fixture
def server(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGitHub]:
    """A server of one's own, which the project's settings name; no wait takes time."""
    with fake_github("/api/v3") as made:
        made.tokens[TOKEN] = Token()
        made.repository(NAME, COMMIT, OTHER)
        section = {"github_url": made.url, "repository": NAME}
        project.write("invoke.yaml", {"stackyard": {"status": section}})
        project.stack(CHAIN)
        monkeypatch.setattr(flow, "GitHub", functools.partial(GitHub, sleep=lambda _: None))
        yield made


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> Env:
    """Sets variables; a value of None takes one away."""

    def change(**variables: str | None) -> None:
        for name, value in variables.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return change


@pytest.fixture
def job_env(env: Env) -> None:
    """A job of a branch pipeline on GitLab."""
    env(
        GITLAB_CI="true",
        CI_COMMIT_SHA=COMMIT,
        CI_PIPELINE_URL=PAGE,
        GITHUB_TOKEN=TOKEN,
        CI_PIPELINE_ID="100",
        CI_PROJECT_ID="1",
    )


@pytest.mark.usefixtures("job_env")
def test_posts_for_a_stack(server: FakeGitHub, stackyard: Stackyard) -> None:
    answer = stackyard("status", "--state", "pending", "--stack", "demo", "--json")
    expected = {
        "state": "pending",
        "context": "ci/gitlab-ci/demo",
        "description": "the pipeline runs",
        "target_url": PAGE,
    }
    assert server.posted(NAME, COMMIT) == [expected]
    told = {"result": "posted", "repository": NAME, "commit": COMMIT, **expected}
    assert json.loads(answer.out) == told
    assert answer.err == (
        f"ci/gitlab-ci/demo: pending, 'the pipeline runs'\n{NAME} {COMMIT[:12]}: posted\n"
    )


@pytest.mark.usefixtures("job_env")
def test_says_nothing_twice(server: FakeGitHub, stackyard: Stackyard) -> None:
    for state in ("pending", "pending", "running", "success", "success"):
        stackyard("status", "--state", state, "--stack", "demo")
    assert [row["state"] for row in server.posted(NAME, COMMIT)] == ["pending", "success"]
    assert server.methods() == ["GET", "POST", "GET", "GET", "GET", "POST", "GET"]
    again = stackyard("status", "--state", "success", "--stack", "demo")
    assert again.err.endswith(": stands there already\n")


@pytest.mark.usefixtures("job_env")
def test_another_context_or_page_is_another_status(
    server: FakeGitHub, stackyard: Stackyard, env: Env
) -> None:
    stackyard("status", "--state", "success", "--stack", "demo")
    stackyard("status", "--state", "success")
    env(GITHUB_STATUS_CONTEXT="mine")
    stackyard("status", "--state", "success", "--stack", "demo")
    stackyard("status", "--state", "success", "--stack", "demo", "--context", "whole")
    stackyard("status", "--state", "success", "--context", "WHOLE")
    stackyard("status", "--state", "success", "--context", "whole", "--url", "https://x.org/1")
    found = [(row["context"], row["target_url"]) for row in server.posted(NAME, COMMIT)]
    assert found == [
        ("ci/gitlab-ci/demo", PAGE),
        ("ci/gitlab-ci", PAGE),
        ("mine/demo", PAGE),
        ("whole", PAGE),
        ("whole", "https://x.org/1"),
    ]


@pytest.mark.usefixtures("job_env")
def test_back_to_pending(server: FakeGitHub, stackyard: Stackyard) -> None:
    """A pipeline that is tried again."""
    for state in ("pending", "failed", "pending", "success"):
        stackyard("status", "--state", state)
    states = [row["state"] for row in server.posted(NAME, COMMIT)]
    assert states == ["pending", "error", "pending", "success"]


@pytest.mark.usefixtures("job_env")
@pytest.mark.parametrize("state", ["canceled", "canceling"])
def test_nothing_for_what_was_canceled(
    server: FakeGitHub, stackyard: Stackyard, env: Env, state: str
) -> None:
    env(GITHUB_TOKEN=None)
    answer = stackyard("status", "--state", state, "--json")
    assert json.loads(answer.out)["result"] == "nothing is posted for what was canceled"
    assert server.asked == []


@pytest.mark.usefixtures("job_env")
def test_the_stack_that_the_job_is_for(server: FakeGitHub, stackyard: Stackyard, env: Env) -> None:
    env(SPACK_CI_STACK_NAME="demo")
    stackyard("status", "--state", "success")
    env(SPACK_CI_STACK_NAME="None")
    stackyard("status", "--state", "success")
    contexts = [row["context"] for row in server.posted(NAME, COMMIT)]
    assert contexts == ["ci/gitlab-ci/demo", "ci/gitlab-ci"]
    answer = stackyard("status", "--state", "success", "--stack", "dmeo", code=2)
    assert "unknown stack 'dmeo'\n  hint: did you mean 'demo'?" in answer.err


@pytest.mark.usefixtures("job_env")
def test_a_long_description(server: FakeGitHub, stackyard: Stackyard) -> None:
    stackyard("status", "--state", "error", "--description", "too\nlong " * 40)
    (row,) = server.posted(NAME, COMMIT)
    assert len(row["description"]) <= LONGEST_DESCRIPTION
    assert row["description"].endswith("long too…")


@pytest.mark.usefixtures("job_env")
def test_no_secret_is_posted(server: FakeGitHub, stackyard: Stackyard, env: Env) -> None:
    env(GITLAB_TOKEN="glpat-recognisable")
    text = f"curl -H 'PRIVATE-TOKEN: glpat-recognisable' {TOKEN}"
    answer = stackyard("status", "--state", "error", "--description", text, "--json")
    (row,) = server.posted(NAME, COMMIT)
    assert row["description"] == "curl -H 'PRIVATE-TOKEN: ***' ***"
    assert "recognisable" not in answer.out + answer.err


@pytest.mark.usefixtures("job_env")
def test_dry_run(server: FakeGitHub, stackyard: Stackyard, env: Env) -> None:
    env(GITHUB_TOKEN=None)
    answer = stackyard("status", "--state", "success", "--dry-run", "--json")
    assert json.loads(answer.out)["result"] == "would be posted"
    assert server.asked == []


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--state: which state?"),
        (["--state", "good"], "--state: unknown state 'good'"),
        (["--state", "error", "--sha", "HEAD"], "--sha: not a commit id: 'HEAD'"),
        (["--state", "error", "--url", "javascript:x"], "--url: not an http(s) URL"),
        (["--state", "error", "--url", "https://["], "--url: not an http(s) URL"),
        (["--state", "error", "--repository", "x"], "--repository: not a repository on GitHub"),
    ],
)
def test_wrong_arguments(stackyard: Stackyard, env: Env, arguments: list[str], said: str) -> None:
    env(CI_COMMIT_SHA=COMMIT)
    answer = stackyard("status", *arguments, code=2)
    assert answer.err.startswith(f"error: {said}")


# -- which commit, which repository -----------------------------------------------------------


@pytest.mark.usefixtures("job_env")
def test_external_pull_request(server: FakeGitHub, stackyard: Stackyard, env: Env) -> None:
    server.repository("octo/target", OTHER)
    env(
        CI_COMMIT_SHA=MERGE,
        CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_SHA=OTHER,
        CI_EXTERNAL_PULL_REQUEST_SOURCE_REPOSITORY="octo/target",
    )
    stackyard("status", "--state", "success")
    assert [row["state"] for row in server.posted("octo/target", OTHER)] == ["success"]


def test_in_a_workflow(
    server: FakeGitHub, stackyard: Stackyard, env: Env, project: Project
) -> None:
    event = project.write("event.json", PULL_REQUEST)
    env(
        GITHUB_TOKEN=TOKEN,
        GITHUB_API_URL=server.api,
        GITHUB_SERVER_URL="https://github.example.com",
        GITHUB_REPOSITORY=NAME,
        GITHUB_RUN_ID="77",
        GITHUB_SHA=MERGE,
        GITHUB_EVENT_PATH=str(event),
    )
    project.write("invoke.yaml", "stackyard: {}\n")
    stackyard("status", "--state", "success", "--stack", "demo")
    assert server.posted(NAME, COMMIT) == [
        {
            "state": "success",
            "context": "ci/gitlab-ci/demo",
            "description": "the pipeline passed",
            "target_url": f"https://github.example.com/{NAME}/actions/runs/77",
        }
    ]


@pytest.mark.parametrize("text", ["[", "\x00", "[" * 10**5])
def test_an_event_that_is_none(
    server: FakeGitHub, stackyard: Stackyard, env: Env, project: Project, text: str
) -> None:
    event = project.write("event.json", text)
    env(GITHUB_TOKEN=TOKEN, GITHUB_SHA=COMMIT, GITHUB_EVENT_PATH=str(event))
    answer = stackyard("status", "--state", "success", code=2)
    assert answer.err.startswith("error: $GITHUB_EVENT_PATH: ")
    assert server.asked == []


def git(project: Project, *arguments: str) -> str:
    argv = ["git", "-c", "user.name=n", "-c", "user.email=n@example.com", *arguments]
    done = subprocess.run(argv, cwd=project.root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_in_a_clone(server: FakeGitHub, stackyard: Stackyard, env: Env, project: Project) -> None:
    """Neither CI system nor settings: what is checked out, and the remote on that server."""
    project.write("invoke.yaml", {"stackyard": {"status": {"github_url": server.url}}})
    git(project, "init", "--quiet")
    git(project, "commit", "--quiet", "--allow-empty", "-m", "x")
    head = git(project, "rev-parse", "HEAD")
    server.repositories[NAME].commits.add(head)
    env(GITHUB_TOKEN=None, GH_TOKEN=TOKEN)
    lost = stackyard("status", "--state", "success", code=2)
    assert lost.err.startswith("error: --repository: which repository on GitHub?")
    git(project, "remote", "add", "mine", "https://gitlab.com/octo/elsewhere")
    git(project, "remote", "add", "origin", f"{server.url}/octo/stacks.git")
    git(project, "remote", "add", "a-fork", f"{server.url}/else/stacks.git")
    stackyard("status", "--state", "success")
    assert [row["context"] for row in server.posted(NAME, head)] == ["ci/gitlab-ci"]
    git(project, "remote", "rename", "origin", "github")
    git(project, "remote", "rename", "mine", "origin")
    git(project, "remote", "remove", "a-fork")
    assert "stands there already" in stackyard("status", "--state", "success").err


def test_outside_of_git(server: FakeGitHub, stackyard: Stackyard, env: Env) -> None:
    env(GITHUB_TOKEN=TOKEN, GIT_CEILING_DIRECTORIES="/")
    answer = stackyard("status", "--state", "success", code=2)
    assert "git knows no revision 'HEAD'" in answer.err
    assert server.asked == []


# -- who may not post -------------------------------------------------------------------------


def test_a_fork_has_no_token(
    server: FakeGitHub, stackyard: Stackyard, env: Env, project: Project
) -> None:
    event = project.write("event.json", FORKED)
    env(GITHUB_SHA=MERGE, GITHUB_EVENT_PATH=str(event), GITHUB_TOKEN="")
    answer = stackyard("status", "--state", "success", "--json")
    assert "a pull request from a fork gets no token" in json.loads(answer.out)["result"]
    assert server.asked == []


def test_a_fork_has_a_token_that_only_reads(
    server: FakeGitHub, stackyard: Stackyard, env: Env, project: Project
) -> None:
    server.tokens[TOKEN] = Token(statuses="read", app=True)
    event = project.write("event.json", FORKED)
    env(GITHUB_SHA=MERGE, GITHUB_EVENT_PATH=str(event), GITHUB_TOKEN=TOKEN)
    answer = stackyard("status", "--state", "success")
    assert "a pull request from a fork gets no token" in answer.err
    project.write("event.json", PULL_REQUEST)
    answer = stackyard("status", "--state", "success", code=6)
    assert "403: Resource not accessible by integration" in answer.err


@pytest.mark.usefixtures("job_env")
def test_a_fork_with_a_token_that_is_wrong(
    server: FakeGitHub, stackyard: Stackyard, env: Env, project: Project
) -> None:
    """That is no matter of forks."""
    event = project.write("event.json", FORKED)
    env(GITHUB_SHA=MERGE, GITHUB_EVENT_PATH=str(event), GITHUB_TOKEN="another")
    answer = stackyard("status", "--state", "success", code=6)
    assert "401: Bad credentials" in answer.err


@pytest.mark.usefixtures("job_env")
def test_others_need_a_token(server: FakeGitHub, stackyard: Stackyard, env: Env) -> None:
    env(GITHUB_TOKEN=None)
    answer = stackyard("status", "--state", "success", code=2)
    assert answer.err.startswith("error: $GITHUB_TOKEN: there is no token to post a status with\n")
    assert server.asked == []


# -- when GitHub is out of order --------------------------------------------------------------


@pytest.mark.usefixtures("job_env")
@pytest.mark.parametrize("status", [401, 403, 404, 422])
def test_refused(server: FakeGitHub, stackyard: Stackyard, status: int) -> None:
    server.fault = lambda _: Fault(status, body=b'{"message": "Because"}')
    answer = stackyard("status", "--state", "success", code=6)
    assert f"GitHub answers {status}: Because\n  hint: " in answer.err
    assert TOKEN not in answer.err
    assert len(server.asked) == 1


@pytest.mark.usefixtures("job_env")
@pytest.mark.parametrize(
    "fault",
    [Fault(500), Fault(502), Fault(429, {"Retry-After": "1"}), Fault(lost=True), Fault(cut=3)],
    ids=["500", "502", "429", "hung up", "cut off"],
)
def test_an_answer_that_is_lost(server: FakeGitHub, fault: Fault) -> None:
    """What was posted, and only the answer is lost, is not posted again."""
    waits: list[float] = []
    github = GitHub(server.api, TOKEN, sleep=waits.append)
    aim = flow._Aim(server.api, NAME, COMMIT)
    server.fail(None, fault)
    assert flow._insist(github, aim, Status("success", "ci", "fine"), waits.append) == "posted"
    github.close()
    assert len(server.posted(NAME, COMMIT)) == 1
    assert waits == [1.0]


@pytest.mark.usefixtures("job_env")
def test_gives_up_in_the_end(server: FakeGitHub) -> None:
    waits: list[float] = []
    github = GitHub(server.api, TOKEN, sleep=waits.append)
    server.fault = lambda asked: Fault(502) if asked.method == "POST" else None
    with pytest.raises(UnreachableError, match="GitHub answers 502"):
        flow._insist(
            github, flow._Aim(server.api, NAME, COMMIT), Status("error", "c", "d"), waits.append
        )
    github.close()
    assert server.methods() == ["GET", "POST"] * 3
    assert waits == [1.0, 2.0]


# -- how many jobs ----------------------------------------------------------------------------


@pytest.fixture
def gitlab(server: FakeGitHub, env: Env) -> Iterator[FakeGitLab]:
    """A GitLab whose pipeline 100 started one of the stack: two jobs of three specs."""
    with fake_gitlab() as made:
        project: GitLabProject = made.project(members={"glpat-recognisable"})
        made.tokens["glpat-recognisable"] = {"read_api"}
        parent, child = made.pipeline(project), made.pipeline(project)
        name = ParentStack("demo", ()).build_job
        parent.bridges = [
            Bridge(1, "build-other"),
            Bridge(2, name, status="failed", downstream=child),
        ]
        child.jobs = [
            Job(3, f"lib@1 /{HASH}", "success"),
            Job(4, f"app@1 /{HASH}", "failed"),
            Job(5, "rebuild-index", "skipped"),
        ]
        env(
            CI_COMMIT_SHA=COMMIT,
            CI_PIPELINE_ID=str(parent.id),
            CI_PROJECT_ID=str(project.id),
            CI_API_V4_URL=f"{made.url}/api/v4",
            GITHUB_TOKEN=TOKEN,
            GITLAB_TOKEN="glpat-recognisable",
        )
        yield made


def posted(server: FakeGitHub) -> str:
    """What the last status says."""
    text: str = server.posted(NAME, COMMIT)[-1]["description"]
    return text


def test_counts_the_jobs(server: FakeGitHub, gitlab: FakeGitLab, stackyard: Stackyard) -> None:
    stackyard("status", "--state", "failure", "--stack", "demo")
    assert posted(server) == "1 built, 1 reused, 1 failed: app"
    assert gitlab.paths() == ["/projects/1/pipelines/100/bridges", "/projects/1/pipelines/101/jobs"]


def test_counts_page_by_page(server: FakeGitHub, gitlab: FakeGitLab, stackyard: Stackyard) -> None:
    child = gitlab.projects[0].pipelines[101]
    child.jobs = [Job(n, f"p{n}@1 /{HASH}", "success") for n in range(212)]
    child.jobs.append(Job(500, f"trilinos@16 /{HASH}", "failed"))
    stackyard("status", "--state", "failure", "--stack", "demo")
    assert posted(server) == "212 built, 1 failed: trilinos"
    assert len(gitlab.asked) == 1 + 3


def test_nothing_is_counted_yet(
    server: FakeGitHub, gitlab: FakeGitLab, stackyard: Stackyard
) -> None:
    stackyard("status", "--state", "pending", "--stack", "demo")
    assert posted(server) == "the pipeline runs"
    stackyard("status", "--state", "failure")
    stackyard("status", "--state", "failure", "--stack", "demo", "--description", "mine")
    assert posted(server) == "mine"
    assert gitlab.asked == []


def test_no_child_pipeline(server: FakeGitHub, gitlab: FakeGitLab, stackyard: Stackyard) -> None:
    """The generate job failed: there is nothing to count."""
    gitlab.projects[0].pipelines[100].bridges = [Bridge(2, "build-demo", status="skipped")]
    answer = stackyard("status", "--state", "failure", "--stack", "demo")
    assert posted(server) == "the pipeline failed"
    assert "warning" not in answer.err


@pytest.mark.parametrize("missing", ["GITLAB_TOKEN", "CI_API_V4_URL", "CI_PROJECT_ID"])
def test_counts_only_with_a_token(
    server: FakeGitHub, gitlab: FakeGitLab, stackyard: Stackyard, env: Env, missing: str
) -> None:
    env(**{missing: None})
    answer = stackyard("status", "--state", "success", "--stack", "demo")
    assert posted(server) == "the pipeline passed"
    assert gitlab.asked == []
    assert "warning" not in answer.err


def test_a_token_that_may_not_read(
    server: FakeGitHub, gitlab: FakeGitLab, stackyard: Stackyard
) -> None:
    """The status counts more than the figures in it."""
    gitlab.tokens["glpat-recognisable"] = {"read_registry"}
    answer = stackyard("status", "--state", "success", "--stack", "demo")
    assert posted(server) == "the pipeline passed"
    assert answer.err.startswith("warning: the jobs cannot be counted: ")
    assert "403" in answer.err
    assert "recognisable" not in answer.err


@pytest.mark.usefixtures("gitlab")
def test_a_stack_that_cannot_be_read(
    server: FakeGitHub, stackyard: Stackyard, project: Project
) -> None:
    project.write("stacks/demo/spack.lock", "{")
    answer = stackyard("status", "--state", "failure", "--stack", "demo")
    assert posted(server) == "1 built, 1 failed: app"
    assert "warning: what is reused cannot be counted: stacks/demo/spack.lock" in answer.err


# -- the parent pipeline ----------------------------------------------------------------------


@pytest.mark.usefixtures("job_env")
def test_the_jobs_of_the_parent_pipeline(
    server: FakeGitHub, stackyard: Stackyard, project: Project, env: Env
) -> None:
    """Each script as it stands in the rendered file, one after the other."""
    stackyard("generate")
    jobs = yaml.safe_load((project.root / ".gitlab-ci.yml").read_bytes())
    names = ["pending-demo", "success-demo", "broken-demo", "failure-demo", "untouched-demo"]
    for name in names:
        assert jobs[name]["extends"] == ".status"
        env(**jobs[name]["variables"])
        (line,) = jobs[name].get("script", jobs[".status"]["script"])
        stackyard(*shlex.split(os.path.expandvars(line))[1:])
    assert [(row["state"], row["context"]) for row in server.posted(NAME, COMMIT)] == [
        ("pending", "ci/gitlab-ci/demo"),
        ("success", "ci/gitlab-ci/demo"),
        ("failure", "ci/gitlab-ci/demo"),
        ("success", "ci/gitlab-ci/demo"),
    ]
    assert posted(server) == "nothing of this stack changed"
    assert jobs[".status"]["allow_failure"] is True


def test_when_the_parent_pipeline_posts(
    server: FakeGitHub, stackyard: Stackyard, project: Project
) -> None:
    """A job that needs one that did not run is passed over: for each failure there is one."""
    stackyard("generate")
    jobs = yaml.safe_load((project.root / ".gitlab-ci.yml").read_bytes())
    needs = {
        name: ([need["job"] for need in job["needs"]], job["rules"][-1].get("when", "on_success"))
        for name, job in jobs.items()
        if isinstance(job, dict) and job.get("extends") == ".status"
    }
    assert needs == {
        "pending-demo": ([], "on_success"),
        "success-demo": (["pending-demo", "build-demo"], "on_success"),
        "broken-demo": (["pending-demo", "generate-demo"], "on_failure"),
        "failure-demo": (["pending-demo", "build-demo"], "on_failure"),
        "untouched-demo": ([], "on_success"),
    }
    assert server.asked == []
