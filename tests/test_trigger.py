"""``trigger``: what is pushed, what is started, and what is told of how it goes."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Answer, Project, Stackyard
from fake_gitlab import Bridge, FakeGitLab, Job, Pipeline, fake_gitlab
from fake_gitlab import Project as GitLabProject
from fake_service import Fault
from git_server import serve_git

from stackyard.edges.git_push import push
from stackyard.edges.gitlab import GitLab
from stackyard.edges.process import Output
from stackyard.edges.settings import Environment
from stackyard.errors import (
    ConfigError,
    CorruptError,
    DeniedError,
    StackyardError,
    ToolError,
    UnreachableError,
)
from stackyard.flow import trigger as flow
from stackyard.trigger import (
    Child,
    Run,
    Start,
    check_ref,
    default_ref,
    failures,
    finished,
    good,
    parse_child,
    parse_inputs,
    parse_run,
    parse_variables,
    progress,
    refusal_hint,
    server_url,
)
from stackyard.trigger import Job as JobSeen

TRIGGER = "glptt-never-to-be-seen"
TOKEN = "glpat-never-to-be-seen"

#: The task with its arguments, and ``code``, which it has to end with.
Trigger = Callable[..., Answer]


@pytest.fixture
def server() -> Iterator[FakeGitLab]:
    with fake_gitlab() as made:
        made.tokens[TOKEN] = {"api"}
        made.project(trigger_tokens={TRIGGER}, members={TOKEN})
        yield made


@pytest.fixture
def there(server: FakeGitLab) -> GitLabProject:
    return server.projects[0]


@pytest.fixture
def here(project: Project, server: FakeGitLab) -> Project:
    """A project that knows its place on GitLab."""
    settings = {"gitlab": {"url": server.url, "project": "group/project"}}
    project.write("invoke.yaml", {"stackyard": settings})
    return project


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set these variables, with their secrets."""
    secrets = {
        "GITLAB_TRIGGER_TOKEN": TRIGGER,
        "GITLAB_TOKEN": TOKEN,
        "GITLAB_PRIVATE_TOKEN": TOKEN,
    }

    def give(*names: str) -> None:
        for name in names:
            monkeypatch.setenv(name, secrets[name])

    return give


@pytest.fixture
def trigger(stackyard: Stackyard, here: Project, tokens: Callable[..., None]) -> Trigger:
    """The task, with a trigger token, in a project that knows its place."""
    tokens("GITLAB_TRIGGER_TOKEN")
    return partial(stackyard, "trigger")


@pytest.fixture
def by_access(stackyard: Stackyard, here: Project, tokens: Callable[..., None]) -> Trigger:
    """The task, with an access token."""
    tokens("GITLAB_TOKEN")
    return partial(stackyard, "trigger")


# -- refs and values ------------------------------------------------------------------------


REFS = [
    ("refs/heads/main", "", "main"),
    ("refs/heads/feature/x", "work", "feature/x"),
    ("refs/tags/v1", "main", "v1"),
    ("refs/pull/12/merge", "main", "pr-12"),
    ("refs/pull/x/merge", "main", "main"),
    ("", "main", "main"),
    ("", "", ""),
]


@pytest.mark.parametrize(("github", "branch", "ref"), REFS)
def test_default_ref(github: str, branch: str, ref: str) -> None:
    assert default_ref(github, branch) == ref


@pytest.mark.parametrize("ref", ["main", "feature/x", "v1.0", "pr-12", "a@b", "ünï", "abc123"])
def test_good_refs(ref: str) -> None:
    assert check_ref(ref, "--ref") == ref


BAD_REFS = ["", "-f", "a b", "a..b", "a~1", "a^", "a:b", "x/", "/x", "x.lock", "a//b", ".x", "@"]
BAD_REFS += ["HEAD", "refs/heads/x", "a\\b", "a?b", "x.", "a\nb", "a@{1}", "+x:y"]


@pytest.mark.parametrize("ref", BAD_REFS)
def test_bad_refs(ref: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a branch or a tag"):
        check_ref(ref, "--ref")


@pytest.mark.parametrize("ref", ["a" * 40, "0" * 64])
def test_a_commit_is_no_ref(ref: str) -> None:
    with pytest.raises(ConfigError, match="for a branch or a tag, not for a commit"):
        check_ref(ref, "--ref")


def test_variables() -> None:
    given = ["A=1", "B_2=x=y z", "C="]
    assert parse_variables(given) == {"A": "1", "B_2": "x=y z", "C": ""}


@pytest.mark.parametrize("item", ["A", "=x", "A B=x", "1A=x", "A-B=x", f"A={'secret' * 2000}"])
def test_bad_variables(item: str) -> None:
    with pytest.raises(ConfigError, match="--variable") as caught:
        parse_variables([item])
    assert "secret" not in str(caught.value)


def test_inputs() -> None:
    given = ["stack=tutorial", "version=1.10", "level:=3", "deep:=true", 'list:=["a", 1]', "x=a:=b"]
    assert parse_inputs(given) == {
        "stack": "tutorial",
        "version": "1.10",
        "level": 3,
        "deep": True,
        "list": ["a", 1],
        "x": "a:=b",
    }


@pytest.mark.parametrize("item", ["a", "=x", "a b=x", "a:=tru", "a:=" + "[" * 10_000, ":=1"])
def test_bad_inputs(item: str) -> None:
    with pytest.raises(ConfigError, match="--input"):
        parse_inputs([item])


def test_bodies() -> None:
    bare = Start("main")
    assert bare.for_trigger("t") == {"token": "t", "ref": "main"}
    assert bare.for_pipeline() == {"ref": "main"}
    full = Start("main", {"A": "1"}, {"x": 2})
    assert full.for_trigger("t") == {
        "token": "t",
        "ref": "main",
        "variables": {"A": "1"},
        "inputs": {"x": 2},
    }
    assert full.for_pipeline() == {
        "ref": "main",
        "variables": [{"key": "A", "value": "1"}],
        "inputs": {"x": 2},
    }


def test_the_servers_url() -> None:
    assert server_url("https://gitlab.com/") == "https://gitlab.com"
    assert server_url("https://git.example.org/lab/api/v4/") == "https://git.example.org/lab"


def test_hints() -> None:
    start = Start("work")
    assert "one of this project's trigger tokens" in refusal_hint(start, "", 404, by_token=True)
    assert "GITLAB_TOKEN (scope api)" in refusal_hint(start, "", 404, by_token=False)
    assert refusal_hint(start, "whatever", 422, by_token=True) == ""
    words = "Pipeline filtered out by workflow rules."
    assert "CI_PIPELINE_SOURCE trigger?" in refusal_hint(start, words, 400, by_token=True)
    assert "CI_PIPELINE_SOURCE api?" in refusal_hint(start, words, 400, by_token=False)
    assert "invoke generate" in refusal_hint(start, "Missing CI config file", 400, by_token=True)


# -- starting -------------------------------------------------------------------------------


def test_by_trigger_token(
    trigger: Trigger,
    server: FakeGitLab,
    there: GitLabProject,
    tokens: Callable[..., None],
) -> None:
    tokens("GITLAB_TOKEN")
    answer = trigger(
        *("--ref", "main", "--variable", "A=1", "--variable", "B=x y"),
        *("--input", "stack=demo", "--input", "n:=2"),
    )
    (made,) = there.pipelines.values()
    assert (made.source, made.ref) == ("trigger", "main")
    assert made.variables == {"A": "1", "B": "x y"}
    assert made.inputs == {"stack": "demo", "n": 2}
    assert answer.out == f"{server.url}/group/project/-/pipelines/{made.id}\n"
    assert answer.err == f"started pipeline {made.id} for main\n"
    assert server.paths() == ["/projects/group%2Fproject/trigger/pipeline"]
    assert "PRIVATE-TOKEN" not in server.asked[0].headers


@pytest.mark.parametrize("name", ["GITLAB_TOKEN", "GITLAB_PRIVATE_TOKEN"])
def test_by_access_token(
    *,
    stackyard: Stackyard,
    here: Project,
    server: FakeGitLab,
    there: GitLabProject,
    tokens: Callable[..., None],
    name: str,
) -> None:
    tokens(name)
    stackyard("trigger", "--ref", "main", "--variable", "A=1")
    (made,) = there.pipelines.values()
    assert (made.source, made.variables) == ("api", {"A": "1"})
    assert server.paths() == ["/projects/group%2Fproject/pipeline"]
    assert server.asked[0].headers["PRIVATE-TOKEN"] == TOKEN


def test_arguments_win_over_settings(
    trigger: Trigger,
    project: Project,
    server: FakeGitLab,
    there: GitLabProject,
) -> None:
    settings = {"gitlab": {"url": "http://127.0.0.1:1", "project": 99}}
    project.write("invoke.yaml", {"stackyard": settings})
    trigger("--ref", "main", "--url", f"{server.url}/api/v4", "--project", "1")
    assert len(there.pipelines) == 1
    assert server.paths() == ["/projects/1/trigger/pipeline"]


def test_the_ref_of_githubs_job(
    trigger: Trigger,
    there: GitLabProject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GITHUB_REF", "refs/pull/7/merge")
    there.refs.add("pr-7")
    trigger()
    assert [made.ref for made in there.pipelines.values()] == ["pr-7"]


@pytest.mark.parametrize("event", ["pull_request_target", "workflow_run", "issue_comment"])
def test_an_event_that_is_about_another_commit(
    trigger: Trigger,
    server: FakeGitLab,
    there: GitLabProject,
    monkeypatch: pytest.MonkeyPatch,
    event: str,
) -> None:
    """Else what a stranger proposes was pushed to main, where it is signed."""
    monkeypatch.setenv("GITHUB_REF", "refs/heads/main")
    monkeypatch.setenv("GITHUB_EVENT_NAME", event)
    text = refused(trigger, server, 2)
    assert text.startswith(f"error: --ref: {event} runs for refs/heads/main, whatever commit")
    there.refs.add("pr-7")
    trigger("--ref", "pr-7")
    monkeypatch.setenv("GITHUB_EVENT_NAME", "push")
    trigger()
    assert [made.ref for made in there.pipelines.values()] == ["pr-7", "main"]


def refused(
    trigger: Trigger, server: FakeGitLab, code: int, *arguments: str, posts: int = 0
) -> str:
    answer = trigger(*arguments, code=code)
    assert answer.out == ""
    assert len(server.paths("POST")) == posts
    assert [project.pipelines for project in server.projects] == [{}]
    assert TRIGGER not in answer.err
    assert TOKEN not in answer.err
    return answer.err


def test_no_token(trigger: Trigger, server: FakeGitLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITLAB_TRIGGER_TOKEN")
    text = refused(trigger, server, 2, "--ref", "main")
    assert text.startswith(
        "error: GITLAB_TRIGGER_TOKEN: there is no token to start a pipeline with"
    )
    assert "Pipeline trigger tokens" in text


def test_no_project(
    trigger: Trigger,
    project: Project,
    server: FakeGitLab,
) -> None:
    project.write("invoke.yaml", "stackyard: {}\n")
    text = refused(trigger, server, 2, "--ref", "main")
    assert text.startswith("error: gitlab.project: which project on GitLab?")


def test_no_ref(
    trigger: Trigger,
    here: Project,
    server: FakeGitLab,
) -> None:
    text = refused(trigger, server, 2)
    assert text == (
        "error: --ref: which branch? none is checked out here\n  hint: name one: --ref NAME\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--ref", "-x"],
        ["--ref", "main", "--variable", "A"],
        ["--ref", "main", "--input", "A"],
        ["--ref", "main", "--every", "0"],
        ["--ref", "main", "--timeout", "0"],
    ],
)
def test_wrong_arguments(
    trigger: Trigger,
    server: FakeGitLab,
    arguments: list[str],
) -> None:
    assert refused(trigger, server, 2, *arguments).startswith("error: --")


def test_an_unknown_ref(
    trigger: Trigger,
    server: FakeGitLab,
) -> None:
    text = refused(trigger, server, 6, "--ref", "gone", posts=1)
    assert text == (
        f"error: {server.url}/api/v4/projects/group%2Fproject/trigger/pipeline: GitLab answers 400: "
        "Reference not found\n"
        "  hint: GitLab has no branch and no tag 'gone': push it first, or with --push\n"
    )


REFUSED = [
    ("Pipeline filtered out by workflow rules.", "CI_PIPELINE_SOURCE trigger?"),
    ("Missing CI config file", "no .gitlab-ci.yml: run invoke generate"),
    ("Given inputs not defined in the spec section: a", "spec: inputs in the project's"),
    ("something that nobody knows", "whose rules let a pipeline in"),
]


@pytest.mark.parametrize(("words", "hint"), REFUSED)
def test_refusals(
    *,
    trigger: Trigger,
    server: FakeGitLab,
    there: GitLabProject,
    words: str,
    hint: str,
) -> None:
    there.refusal = words
    text = refused(trigger, server, 6, "--ref", "main", posts=1)
    assert f"GitLab answers 400: {words}\n" in text
    assert hint in text


def test_a_project_that_takes_no_variables(
    trigger: Trigger,
    server: FakeGitLab,
    there: GitLabProject,
) -> None:
    there.takes_variables = False
    text = refused(trigger, server, 6, "--ref", "main", "--variable", "A=1", posts=1)
    assert "pass --input instead of --variable" in text
    trigger("--ref", "main", "--input", "a=1")
    assert [made.inputs for made in there.pipelines.values()] == [{"a": "1"}]


def test_an_access_token_for_a_trigger_token(
    trigger: Trigger,
    server: FakeGitLab,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GITLAB_TRIGGER_TOKEN", TOKEN)
    text = refused(trigger, server, 6, "--ref", "main", posts=1)
    assert "404 Not Found" in text
    assert "and no access token?" in text


def test_tokens_that_may_not(
    by_access: Trigger,
    server: FakeGitLab,
) -> None:
    server.tokens[TOKEN] = {"read_api"}
    assert "needs the scope api" in refused(by_access, server, 6, "--ref", "main", posts=1)
    del server.tokens[TOKEN]
    text = refused(by_access, server, 6, "--ref", "main", posts=2)
    assert "401 Unauthorized" in text


@pytest.mark.parametrize("status", [401, 403, 404, 422, 500, 502])
def test_other_answers(
    trigger: Trigger,
    server: FakeGitLab,
    status: int,
) -> None:
    said = json.dumps({"message": f"no, {TRIGGER}"}).encode()
    server.fault = lambda _: Fault(status, {}, said)
    text = refused(trigger, server, 6, "--ref", "main", posts=1)
    assert f"GitLab answers {status}: no, ***" in text
    assert ("it may have been done all the same" in text) == (status >= 500)


@pytest.mark.parametrize("fault", [Fault(lost=True), Fault(cut=3)], ids=["none", "cut off"])
def test_an_answer_that_is_lost_is_no_second_pipeline(
    trigger: Trigger, server: FakeGitLab, there: GitLabProject, fault: Fault
) -> None:
    server.fault = lambda _: fault
    answer = trigger("--ref", "main", code=6)
    assert "look at GitLab before trying again" in answer.err
    assert len(there.pipelines) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hour_is_waited_for(
    trigger: Trigger, server: FakeGitLab, there: GitLabProject, status: int
) -> None:
    """Both are said before anything is taken."""
    server.fail(Fault(status, {"Retry-After": "0"}))
    trigger("--ref", "main")
    assert len(there.pipelines) == 1
    assert len(server.asked) == 2


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"id": "7"}', b'{"id": 7}', b"null", b""])
def test_an_answer_that_is_no_pipeline(
    trigger: Trigger,
    server: FakeGitLab,
    body: bytes,
) -> None:
    server.fault = lambda _: Fault(201, {}, body)
    assert "GitLab's answer " in refused(trigger, server, 6, "--ref", "main", posts=1)


# -- how it goes ----------------------------------------------------------------------------


def job(name: str, status: str, *, allowed: bool = False) -> JobSeen:
    return JobSeen(name, "stage-0", status, allowed, "script_failure" * (status == "failed"))


def run(status: str, *jobs: JobSeen, children: Sequence[Child] = ()) -> Run:
    return Run(1, 1, status, "https://example.com/1", jobs=jobs, children=tuple(children))


SUCCESS, FAILED = run("success", job("a", "success")), run("failed", job("x", "failed"))
OPEN = run("running", job("a", "success"), job("b", "running"))
VERDICTS: list[tuple[str, Run, bool, bool, list[str]]] = [
    ("all well", SUCCESS, True, True, []),
    ("one failed", FAILED, True, False, ["x"]),
    ("not yet", OPEN, False, False, ["pipeline 1"]),
    ("canceled", run("canceled"), True, False, ["pipeline 1"]),
    ("waits for somebody", run("manual"), False, False, ["pipeline 1"]),
    ("skipped", run("skipped"), True, False, []),
    ("allowed to", run("success", job("x", "failed", allowed=True)), True, True, []),
    (
        "a child failed",
        run("failed", children=[Child(job("build", "failed"), FAILED)]),
        True,
        False,
        ["build / x"],
    ),
    (
        "a child that nobody waits for",
        run("success", children=[Child(job("build", "success"), OPEN)]),
        False,
        False,
        ["build / pipeline 1"],
    ),
    (
        "a child that nobody waited for",
        run("success", children=[Child(job("build", "success"), FAILED)]),
        True,
        False,
        ["build / x"],
    ),
    (
        "a child that may fail",
        run("success", children=[Child(job("build", "failed", allowed=True), FAILED)]),
        True,
        True,
        [],
    ),
    (
        "no child",
        run("failed", children=[Child(job("build", "failed"))]),
        True,
        False,
        ["build"],
    ),
    (
        "a grandchild",
        run(
            "failed",
            children=[
                Child(
                    job("build", "failed"),
                    run("failed", children=[Child(job("shard", "failed"), FAILED)]),
                )
            ],
        ),
        True,
        False,
        ["build / shard / x"],
    ),
]


@pytest.mark.parametrize(
    ("seen", "ended", "well", "names"), [c[1:] for c in VERDICTS], ids=[c[0] for c in VERDICTS]
)
def test_verdicts(seen: Run, *, ended: bool, well: bool, names: list[str]) -> None:
    assert finished(seen) is ended
    assert good(seen) is well
    assert [name for name, _ in failures(seen)] == names


def test_progress() -> None:
    assert progress(run("created")) == "created"
    jobs = [job("a", "success"), job("b", "running"), job("c", "pending"), job("m", "manual")]
    assert progress(run("running", *jobs)) == "running: 1 of 3 jobs done, 1 running, 1 pending"
    bad = [job(f"x{n}", "failed") for n in range(4)]
    child = Child(job("build", "running"), run("running", *bad))
    assert progress(run("running", *jobs, children=[child])) == (
        "running: 5 of 7 jobs done, 1 running, 1 pending, 4 failed (x0, x1, x2, …)"
    )


def test_what_comes_from_gitlab_is_checked() -> None:
    row = {"id": 7, "status": "failed", "web_url": "javascript:x", "yaml_errors": "bad\nthing"}
    assert parse_run(row, "x") == Run(7, 0, "failed", "", "bad thing")
    broken: list[Any] = [
        None,
        [],
        {"id": True, "status": "x"},
        {"id": 1},
        {"id": 1, "status": 2},
        {"id": 1, "status": "", "project_id": 1},
        {"id": 1, "status": "x", "project_id": "1"},
    ]
    for one in broken:
        with pytest.raises(CorruptError):
            parse_run(one, "x")
        with pytest.raises(CorruptError):
            parse_child({"name": "a", "status": "x", "downstream_pipeline": one or [1]}, "x")


# -- following ------------------------------------------------------------------------------


class Time:
    """A clock that goes on only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def clock(self) -> float:
        return self.now


def steps(server: FakeGitLab, *changes: Callable[[], None]) -> None:
    """Before each look at the first pipeline one thing changes."""
    left = list(changes)
    first = min(number for project in server.projects for number in project.pipelines)

    def tick(pipeline: Pipeline) -> None:
        if pipeline.id == first and left:
            left.pop(0)()

    server.tick = tick


def followed(
    server: FakeGitLab, pipeline: Pipeline, patience: flow.Patience | None = None
) -> tuple[Run, Time]:
    time = Time()
    seen = flow.follow_run(
        GitLab(server.url, TOKEN, sleep=time.sleep, timeout_s=5),
        "group/project",
        Run(pipeline.id, pipeline.project.id, "created", "https://example.com/p"),
        patience or flow.Patience(),
        sleep=time.sleep,
        clock=time.clock,
    )
    return seen, time


def change(thing: Any, status: str) -> Callable[[], None]:
    return lambda: setattr(thing, "status", status)


def test_follows_to_the_end(
    server: FakeGitLab, there: GitLabProject, capsys: pytest.CaptureFixture[str]
) -> None:
    first = server.pipeline(there)
    first.jobs = [Job(1, "generate-demo")]
    child = server.pipeline(there, source="parent_pipeline")
    child.jobs = [Job(2, "zlib"), Job(3, "trilinos")]
    bridge = Bridge(9, "build-demo")
    first.bridges = [bridge]

    def begin() -> None:
        first.jobs[0].status = "success"
        bridge.downstream = child
        first.status = bridge.status = child.status = child.jobs[0].status = "running"

    def nothing() -> None: ...

    def end() -> None:
        child.jobs[0].status = "success"
        child.jobs[1].status = child.status = bridge.status = first.status = "failed"

    steps(server, change(first, "pending"), nothing, begin, nothing, end)
    seen, time = followed(server, first)
    assert time.slept == [20.0] * 4
    assert (seen.status, good(seen)) == ("failed", False)
    assert [(name, one.reason) for name, one in failures(seen)] == [
        ("build-demo / trilinos", "script_failure")
    ]
    assert capsys.readouterr().err.splitlines() == [
        "[0 min] pending: 0 of 1 jobs done",
        "[0 min] running: 1 of 3 jobs done, 1 running",
        "[1 min] failed: 3 of 3 jobs done, 1 failed (trilinos)",
    ]
    base = "/projects/group%2Fproject/pipelines"
    assert server.paths()[-6:] == [
        *(f"{base}/{first.id}{end}" for end in ("", "/jobs", "/bridges")),
        *(f"{base}/{child.id}{end}" for end in ("", "/jobs", "/bridges")),
    ]
    assert {asked.method for asked in server.asked} == {"GET"}


def test_a_line_now_and_then(
    server: FakeGitLab, there: GitLabProject, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that nobody takes a long silence for the end."""
    pipeline = server.pipeline(there, status="running")
    looks = iter(range(200))
    server.tick = lambda p: setattr(p, "status", "success" if next(looks) == 90 else "running")
    followed(server, pipeline)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "[0 min] running",
        "[10 min] running",
        "[20 min] running",
        "[30 min] success",
    ]


def test_not_for_ever(server: FakeGitLab, there: GitLabProject) -> None:
    pipeline = server.pipeline(there, status="running")
    with pytest.raises(StackyardError) as caught:
        followed(server, pipeline, flow.Patience(every_s=50, timeout_s=120))
    assert str(caught.value) == (
        f"{server.url}/group/project/-/pipelines/100: not finished after 2 min; the pipeline goes on (running)\n"
        "  hint: --timeout MINUTES waits longer"
    )
    assert server.paths("POST") == []
    assert len(server.paths()) == 4 * 3  # at 0, 50, 100 and 120 s


def test_an_outage_is_waited_for(
    server: FakeGitLab, there: GitLabProject, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = server.pipeline(there, status="running")
    looks: list[str] = []

    def fault(asked: Any) -> Fault | None:
        looks.append(asked.path)
        if len(looks) > 60:
            pipeline.status = "success"
        return Fault(502) if 3 < len(looks) <= 60 else None

    server.fault = fault
    seen, _ = followed(server, pipeline)
    assert seen.status == "success"
    warned = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warned[0] == "warning: GitLab answers 502 (5 tries); asked again in a while"


def test_an_outage_is_not_waited_for_for_ever(server: FakeGitLab, there: GitLabProject) -> None:
    pipeline = server.pipeline(there, status="running")
    server.fault = lambda _: Fault(503)
    with pytest.raises(UnreachableError, match="GitLab answers 503"):
        followed(server, pipeline)


def test_a_denial_is_final(server: FakeGitLab, there: GitLabProject) -> None:
    pipeline = server.pipeline(there, status="running")
    server.fault = lambda _: Fault(403)
    with pytest.raises(DeniedError):
        followed(server, pipeline)
    assert len(server.asked) == 1


def test_a_pipeline_of_others_is_not_looked_into(server: FakeGitLab, there: GitLabProject) -> None:
    """Its status came with the trigger job."""
    other = server.project("others/secret")
    down = server.pipeline(other, status="failed")
    pipeline = server.pipeline(there, status="failed")
    pipeline.bridges = [Bridge(5, "deploy", "failed", down)]
    seen, _ = followed(server, pipeline)
    assert [name for name, _ in failures(seen)] == [f"deploy / pipeline {down.id}"]
    assert f"/projects/{other.id}/pipelines/{down.id}" in server.paths()


def test_a_pipeline_that_is_its_own_child(server: FakeGitLab, there: GitLabProject) -> None:
    pipeline = server.pipeline(there, status="failed")
    pipeline.bridges = [Bridge(5, "again", "failed", pipeline)]
    followed(server, pipeline)
    assert len(server.paths()) <= 15


# -- the whole task -------------------------------------------------------------------------


def ends(status: str, *jobs: Job) -> Callable[[Pipeline], None]:
    def made(pipeline: Pipeline) -> None:
        pipeline.status = status
        pipeline.jobs = list(jobs)

    return made


def test_follow(
    trigger: Trigger,
    server: FakeGitLab,
    tokens: Callable[..., None],
) -> None:
    tokens("GITLAB_TOKEN")
    server.made = ends("success", Job(1, "a", "success"))
    answer = trigger("--ref", "main", "--follow")
    assert answer.out == f"{server.url}/group/project/-/pipelines/100\n"
    assert answer.err.splitlines() == [
        "started pipeline 100 for main",
        "[0 min] success: 1 of 1 jobs done",
        "pipeline 100 succeeded: success: 1 of 1 jobs done",
    ]


def test_follow_what_fails(
    by_access: Trigger,
    server: FakeGitLab,
) -> None:
    many = [
        Job(n, f"job-{n:02}", "failed", failure_reason="runner_system_failure") for n in range(25)
    ]
    server.made = ends("failed", *many)
    answer = by_access("--ref", "main", "--follow", code=1)
    page = f"{server.url}/group/project/-"
    lines = answer.err.splitlines()
    assert lines[2] == f"  job-24: runner_system_failure, {page}/jobs/24"
    assert lines[22:] == [
        "  and 5 more",
        (
            f"error: {page}/pipelines/100: the pipeline did not go well: failed: 25 of 25 jobs "
            "done, 25 failed (job-24, job-23, job-22, …)"
        ),
        "  hint: invoke reproduce --url JOB_URL takes a failed job to this machine",
    ]


def test_follow_as_json(
    by_access: Trigger,
    server: FakeGitLab,
) -> None:
    started = json.loads(by_access("--ref", "main", "--json").out)
    page = f"{server.url}/group/project/-"
    assert started == {
        "id": 100,
        "ref": "main",
        "url": f"{page}/pipelines/100",
        "status": "created",
        "good": None,
        "failed": [],
    }
    server.made = ends("failed", Job(1, "a", "failed"), Job(2, "b", "success"))
    ended = json.loads(by_access("--ref", "main", "--follow", "--json", code=1).out)
    assert (ended["status"], ended["good"]) == ("failed", False)
    assert ended["failed"] == [
        {"name": "a", "stage": "test", "reason": "script_failure", "url": f"{page}/jobs/1"}
    ]


def test_follow_without_a_token_that_reads(
    trigger: Trigger,
    server: FakeGitLab,
    there: GitLabProject,
) -> None:
    answer = trigger("--ref", "main", "--follow", code=6)
    assert "the pipeline runs, but cannot be followed: GitLab answers 404" in answer.err
    assert "following needs GITLAB_TOKEN, with the scope read_api" in answer.err
    there.public = True
    server.made = ends("success")
    trigger("--ref", "main", "--follow")


def test_an_interrupt_leaves_the_pipeline_alone(
    by_access: Trigger,
    server: FakeGitLab,
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(flow, "read_run", interrupted)
    answer = by_access("--ref", "main", "--follow", code=1)
    assert answer.err.splitlines()[-2:] == [
        (
            f"error: {server.url}/group/project/-/pipelines/100: no longer followed; the pipeline "
            "goes on"
        ),
        "  hint: stop it there, or look at it there",
    ]
    assert [path for path in server.paths() if "cancel" in path] == []


def test_a_real_interrupt(here: Project, server: FakeGitLab) -> None:
    """Of the process, while it waits for the next look."""
    looked = threading.Event()
    server.tick = lambda _: looked.set()
    process = subprocess.Popen(
        [sys.executable, "-m", "invoke", "trigger", "--ref", "main", "--follow", "--every", "600"],
        cwd=here.root,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GITLAB_TOKEN": TOKEN},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    here.write("tasks.py", (ROOT / "tasks.py").read_bytes())
    try:
        assert looked.wait(60)
        assert process.stderr is not None
        while not process.stderr.readline().startswith("[0 min]"):
            assert process.poll() is None
        process.send_signal(2)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "no longer followed; the pipeline goes on" in err
    assert "Traceback" not in out + err


# -- pushing --------------------------------------------------------------------------------


def git(*arguments: str, cwd: Path) -> str:
    argv = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
    done = subprocess.run(argv, cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """An empty repository that takes push options, as GitLab does, and notes them."""
    path = tmp_path / "srv" / "group" / "project.git"
    path.mkdir(parents=True)
    git("init", "--quiet", "--bare", cwd=path)
    git("config", "receive.advertisePushOptions", "true", cwd=path)
    git("config", "http.receivepack", "true", cwd=path)
    hook = path / "hooks" / "pre-receive"
    hook.write_text(
        f'#!/bin/sh\necho "$GIT_PUSH_OPTION_COUNT $GIT_PUSH_OPTION_0" >> {path}/options\n'
    )
    hook.chmod(0o755)
    return path


@pytest.fixture
def clone(here: Project) -> Project:
    """The project in git, with two commits on its branch."""
    git("init", "--quiet", "--initial-branch", "work", cwd=here.root)
    for number in range(2):
        here.write("file", f"{number}")
        git("add", "--all", cwd=here.root)
        git("commit", "--quiet", "--message", f"{number}", cwd=here.root)
    return here


def head(repository: Path, ref: str = "HEAD") -> str:
    return git("rev-parse", ref, cwd=repository)


def test_push_and_start(
    trigger: Trigger,
    clone: Project,
    there: GitLabProject,
    mirror: Path,
) -> None:
    there.refs.add("work")
    answer = trigger("--push", "--remote", str(mirror))
    commit = head(clone.root)
    assert head(mirror, "refs/heads/work") == commit
    assert answer.err.splitlines() == [
        f"pushed {commit[:12]} to refs/heads/work",
        "started pipeline 100 for work",
    ]
    assert (mirror / "options").read_text() == "1 ci.skip\n"  # else there were two pipelines


def test_a_push_that_ends_without_a_word_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Git writes to a server that has hung up: the signal ends it."""
    codes = [-signal.SIGPIPE, -signal.SIGPIPE, 0]

    def answer(*_: object, **__: object) -> Output:
        return Output(codes.pop(0), b"", "")

    monkeypatch.setattr("stackyard.edges.git_push.run", answer)
    push(tmp_path, source="HEAD", remote="/x", ref="r", token="", force=False, env={})
    assert codes == []
    codes += [-signal.SIGPIPE] * 9
    with pytest.raises(ToolError):
        push(tmp_path, source="HEAD", remote="/x", ref="r", token="", force=False, env={})
    assert 0 < len(codes) < 9


def test_push_another_commit(
    trigger: Trigger,
    clone: Project,
    there: GitLabProject,
    mirror: Path,
) -> None:
    arguments = ["--push", "--remote", str(mirror), "--ref", "main"]
    trigger(*arguments)
    assert head(mirror, "refs/heads/main") == head(clone.root)
    answer = trigger(*arguments, "--commit", "HEAD^", code=5)
    assert "GitLab has commits that are not here; --force replaces them" in answer.err
    assert len(there.pipelines) == 1
    trigger(*arguments, "--commit", "HEAD^", "--force")
    assert head(mirror, "refs/heads/main") == head(clone.root, "HEAD^")
    answer = trigger(*arguments, "--commit", "nowhere", code=2)
    assert answer.err.startswith("error: --commit: git knows no revision 'nowhere'")


def test_push_a_pull_request(
    *,
    trigger: Trigger,
    clone: Project,
    there: GitLabProject,
    mirror: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It goes to a ref of its own, which follows it, and never to a branch of its name."""
    monkeypatch.setenv("GITHUB_REF", "refs/pull/5/merge")
    monkeypatch.setenv("GITHUB_HEAD_REF", "main")
    there.refs.add("pr-5")
    git("checkout", "--quiet", "--detach", cwd=clone.root)
    trigger("--push", "--remote", str(mirror))
    git("commit", "--quiet", "--amend", "--message", "anew", cwd=clone.root)
    trigger("--push", "--remote", str(mirror))
    assert git("for-each-ref", "--format=%(refname) %(objectname)", cwd=mirror) == (
        f"refs/heads/pr-5 {head(clone.root)}"
    )


@pytest.mark.parametrize("by_job", [True, False])
def test_push_a_tag(
    *,
    trigger: Trigger,
    clone: Project,
    there: GitLabProject,
    mirror: Path,
    monkeypatch: pytest.MonkeyPatch,
    by_job: bool,
) -> None:
    git("tag", "--annotate", "--message", "a release", "v1", cwd=clone.root)
    there.refs.add("v1")
    if by_job:
        monkeypatch.setenv("GITHUB_REF", "refs/tags/v1")
    trigger("--push", "--remote", str(mirror), *([] if by_job else ["--ref", "v1"]))
    assert head(mirror, "refs/tags/v1") == head(clone.root, "refs/tags/v1")
    assert git("cat-file", "-t", "refs/tags/v1", cwd=mirror) == "tag"


def test_a_ref_that_gitlab_learns_of_late(
    server: FakeGitLab, there: GitLabProject, tokens: Callable[..., None]
) -> None:
    tokens("GITLAB_TRIGGER_TOKEN")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            there.refs.add("new")

    env = Environment.snapshot()
    place = flow._Place(server.url, "group/project")
    run = flow._start(env, place, Start("new"), pushed=True, sleep=sleep)
    assert (run.id, slept) == (100, [1.0, 2.0])
    with pytest.raises(StackyardError, match="Reference not found"):
        flow._start(env, place, Start("never"), pushed=True, sleep=slept.append)
    assert len(slept) == 5


def test_push_fails(
    trigger: Trigger,
    clone: Project,
    there: GitLabProject,
    tmp_path: Path,
) -> None:
    remote = str(tmp_path / "nowhere.git")
    answer = trigger("--push", "--remote", remote, code=5)
    assert answer.err.startswith(f"error: {remote}: git push failed: ")
    assert there.pipelines == {}


def test_push_out_of_a_shallow_clone(
    *,
    trigger: Trigger,
    clone: Project,
    there: GitLabProject,
    mirror: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shallow = tmp_path / "shallow"
    git("clone", "--quiet", "--depth=1", clone.root.as_uri(), str(shallow), cwd=tmp_path)
    monkeypatch.chdir(shallow)
    answer = trigger("--push", "--remote", str(mirror), code=5)
    assert "fetch all of it (actions/checkout: fetch-depth: 0)" in answer.err
    assert there.pipelines == {}


def test_a_push_by_number_needs_a_path(
    trigger: Trigger,
    clone: Project,
) -> None:
    answer = trigger("--push", "--project", "7", code=2)
    assert "a push needs the project's path, not its number" in answer.err


def test_push_with_a_token_that_nobody_sees(
    *,
    trigger: Trigger,
    clone: Project,
    there: GitLabProject,
    mirror: Path,
    tmp_path: Path,
    tokens: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither in a list of processes, which is what git traces, nor in git's files."""
    tokens("GITLAB_TOKEN")
    trace = tmp_path / "trace"
    monkeypatch.setenv("GIT_TRACE", str(trace))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "push.default")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "nothing")
    there.refs.add("work")
    with serve_git(mirror.parents[1]) as server:
        server.login = f"oauth2:{TOKEN}"
        remote = server.url("group/project.git")
        answer = trigger("--push", "--remote", remote)
        seen = set(server.given)
        assert head(mirror, "refs/heads/work") == head(clone.root)
        server.given.clear()
        monkeypatch.setenv("GITLAB_TOKEN", "glpat-another")
        monkeypatch.delenv("GITLAB_TRIGGER_TOKEN")
        denied = trigger("--push", "--remote", remote, code=5)
        assert len(server.given) <= 2
    word = base64.b64encode(f"oauth2:{TOKEN}".encode()).decode()
    assert seen == {f"Basic {word}"}
    assert "GitLab wants a token, or another one" in denied.err
    config = (clone.root / ".git" / "config").read_text()
    told = trace.read_text() + config + answer.out + answer.err + denied.err
    assert "git-remote-http" in told or "remote-http" in told
    for secret in (TOKEN, word, "glpat-another"):
        assert secret not in told


@pytest.mark.parametrize("remote", ["http://me:word@127.0.0.1/x.git", "https://t@127.0.0.1/x.git"])
def test_no_password_in_a_remotes_url(trigger: Trigger, clone: Project, remote: str) -> None:
    answer = trigger("--push", "--remote", remote, code=2)
    assert answer.err.startswith("error: --remote: a URL may hold no password")


def test_push_by_ssh(
    *,
    trigger: Trigger,
    clone: Project,
    there: GitLabProject,
    mirror: Path,
    tmp_path: Path,
    tokens: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever ssh is: here it runs git's own server, and sees no token."""
    tokens("GITLAB_TOKEN")
    there.refs.add("work")
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/said\nenv > {tmp_path}/env\n'
        f"exec git-receive-pack {mirror}\n"
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))
    monkeypatch.setenv("GIT_SSH_VARIANT", "ssh")
    trigger("--push", "--remote", "git@gitlab.example.com:group/project.git")
    assert head(mirror, "refs/heads/work") == head(clone.root)
    assert "git@gitlab.example.com" in (tmp_path / "said").read_text()
    assert "Authorization" not in (tmp_path / "env").read_text()


def test_tools_that_are_missing(
    trigger: Trigger,
    clone: Project,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(clone.root))
    answer = trigger("--ref", "main", "--push", code=ToolError.code)
    assert "hint: install git" in answer.err
