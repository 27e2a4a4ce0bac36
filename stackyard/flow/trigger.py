"""``trigger``: start the GitLab pipeline from elsewhere, and follow it to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stackyard.edges import console
from stackyard.edges.settings import Environment
from stackyard.errors import (
    ConfigError,
    DeniedError,
    NotFoundError,
    StackyardError,
    UnreachableError,
)
from stackyard.flow.steps import Project, open_project
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
    parse_job,
    parse_run,
    parse_variables,
    progress,
    refusal_hint,
    server_url,
)

if TYPE_CHECKING:
    from stackyard.edges.gitlab import GitLab

__all__ = ["Patience", "follow_run", "read_run", "trigger"]

#: A line comes at least so often, even if nothing has changed.
_HEARTBEAT_S = 600.0
#: GitLab may be away for so long while it is followed.
_OUTAGE_S = 900.0
#: Right after a push another of GitLab's servers may not know the ref yet.
_TRIES_FOR_REF = 4
_DEPTH = 3
#: Events of GitHub whose runs are the default branch's by name, and work on what anybody proposes.
_FOREIGN = frozenset({"pull_request_target", "workflow_run", "issue_comment"})
_SHOWN = 20

Sleep = Callable[[float], None]
Clock = Callable[[], float]


class Patience(NamedTuple):
    """How often GitLab is asked, and for how long."""

    every_s: float = 20.0
    timeout_s: float = 24 * 3600.0


class Source(NamedTuple):
    """What to push before the start. Empty texts: HEAD, and the project itself."""

    commit: str = ""
    remote: str = ""
    force: bool = False


class _Place(NamedTuple):
    """The server, and the project there."""

    url: str
    project: str

    @property
    def remote(self) -> str:
        return f"{self.url}/{self.project}.git"


def trigger(  # noqa: PLR0913 - what the task takes
    *,
    ref: str = "",
    project: str = "",
    url: str = "",
    variables: Sequence[str] = (),
    inputs: Sequence[str] = (),
    push: bool = False,
    commit: str = "",
    remote: str = "",
    force: bool = False,
    follow: bool = False,
    every_s: float = 20,
    timeout_minutes: float = 1440,
    as_json: bool = False,
) -> None:
    """Push if asked, start the pipeline, print its URL, and with ``follow`` wait for its end.

    Empty texts mean the settings. Raises StackyardError if a pipeline that was followed did not go
    well, naming each job that failed.
    """
    here = open_project()
    place = _place(here, project, url)
    start = Start(_ref(here, ref), parse_variables(variables), parse_inputs(inputs))
    if every_s < 1 or timeout_minutes < 1:
        raise ConfigError("must be 1 or more", where="--every and --timeout")
    _check_tokens(here.env)
    if push:
        named = bool(ref)
        _push(here, place, Source(commit, remote, force), start.ref, named=named)
    run = _start(here.env, place, start, pushed=push)
    console.note(f"started pipeline {run.id} for {start.ref}")
    if not as_json:
        console.out(run.url or str(run.id))
    if follow:
        run = _follow(here.env, place, run, Patience(every_s, timeout_minutes * 60))
    if as_json:
        _print_json(run, start.ref)
    if follow:
        _judge(run)


def _place(here: Project, project: str, url: str) -> _Place:
    from stackyard.settings import make_settings

    wanted = make_settings(here.settings).gitlab
    name = (project or str(wanted.project)).strip("/").removesuffix(".git")
    if not name:
        raise ConfigError(
            "which project on GitLab?",
            where="gitlab.project",
            hint="write its path into invoke.yaml, as in gitlab: {project: group/name}, "
            "or give --project",
        )
    return _Place(server_url(url or wanted.url), name)


def _ref(here: Project, ref: str) -> str:
    github, event = here.env.get("GITHUB_REF", ""), here.env.get("GITHUB_EVENT_NAME", "")
    if not ref and github and event in _FOREIGN:
        raise ConfigError(
            f"{event} runs for {github}, whatever commit it is about",
            where="--ref",
            hint="name the ref on GitLab, and none that is protected there: --ref pr-NUMBER",
        )
    ref = ref or default_ref(github, "") or default_ref("", _branch(here.root))
    if not ref:
        raise ConfigError(
            "which branch? none is checked out here", where="--ref", hint="name one: --ref NAME"
        )
    return check_ref(ref, "--ref")


def _branch(folder: Path) -> str:
    from stackyard.edges.git import current_branch

    return current_branch(folder)


def _reading_token(env: Environment) -> str:
    return (env.get("GITLAB_TOKEN", "") or env.get("GITLAB_PRIVATE_TOKEN", "")).strip()


def _check_tokens(env: Environment) -> None:
    if not (env.get("GITLAB_TRIGGER_TOKEN") or _reading_token(env)):
        raise ConfigError(
            "there is no token to start a pipeline with",
            where="GITLAB_TRIGGER_TOKEN",
            hint="make a trigger token (on GitLab: Settings, CI/CD, Pipeline trigger tokens) and "
            "set the variable; or set GITLAB_TOKEN to an access token with the scope api",
        )


# -- before and at the start ----------------------------------------------------------------


def _push(here: Project, place: _Place, source: Source, ref: str, *, named: bool) -> None:
    from stackyard.edges import git_push

    remote = source.remote or place.remote
    if not source.remote and place.project.isdecimal():
        raise ConfigError(
            "a push needs the project's path, not its number",
            where="gitlab.project",
            hint="write group/name, or give --remote",
        )
    github, tag = here.env.get("GITHUB_REF", ""), f"refs/tags/{ref}"
    local = git_push.has_ref(here.root, tag)
    is_tag = github == tag or (local and not git_push.has_ref(here.root, f"refs/heads/{ref}"))
    whole = is_tag and local and not source.commit  # with its message and signature
    target = tag if is_tag else f"refs/heads/{ref}"
    commit = git_push.commit_of(here.root, source.commit or (tag if whole else "HEAD"))
    git_push.push(
        here.root,
        source=tag if whole else commit,
        remote=remote,
        ref=target,
        token=_reading_token(here.env),
        # A pull request's ref on GitLab is ours alone, and follows it wherever it goes.
        force=source.force or (not named and github.startswith("refs/pull/")),
        env=here.env,
    )
    console.note(f"pushed {commit[:12]} to {target}")


def _start(
    env: Environment, place: _Place, start: Start, *, pushed: bool, sleep: Sleep = time.sleep
) -> Run:
    from stackyard.edges.gitlab import GitLab, project_path
    from stackyard.edges.rest import RefusedError

    token = env.get("GITLAB_TRIGGER_TOKEN", "").strip()
    # An access token beside a trigger token would have to be good for it too.
    gitlab = GitLab(place.url, "" if token else _reading_token(env), secrets=(token,))
    path = f"{project_path(place.project)}/{'trigger/pipeline' if token else 'pipeline'}"
    body = start.for_trigger(token) if token else start.for_pipeline()
    tries = _TRIES_FOR_REF if pushed else 1
    while True:
        try:
            return parse_run(gitlab.post(path, body), f"{place.url}/{place.project}")
        except (RefusedError, NotFoundError) as error:
            tries -= 1
            status = error.status if isinstance(error, RefusedError) else 404
            if not tries or "reference not found" not in error.message.lower():
                hint = refusal_hint(start, error.message, status, by_token=bool(token))
                error.hint = hint or error.hint
                raise
        sleep(float(_TRIES_FOR_REF - tries))


# -- following ------------------------------------------------------------------------------


def _follow(env: Environment, place: _Place, run: Run, patience: Patience) -> Run:
    from stackyard.edges.gitlab import GitLab

    gitlab = GitLab(place.url, _reading_token(env))
    try:
        return follow_run(gitlab, place.project, run, patience)
    except KeyboardInterrupt:
        raise StackyardError(
            "no longer followed; the pipeline goes on",
            where=run.url or f"pipeline {run.id}",
            hint="stop it there, or look at it there",
        ) from None
    except (DeniedError, NotFoundError) as error:
        raise type(error)(
            f"the pipeline runs, but cannot be followed: {error.message}",
            where=run.url or error.where,
            hint="following needs GITLAB_TOKEN, with the scope read_api; a trigger token cannot read",
        ) from None


def follow_run(  # noqa: PLR0913 - passed by name
    gitlab: GitLab,
    project: str,
    run: Run,
    patience: Patience,
    *,
    sleep: Sleep = time.sleep,
    clock: Clock = time.monotonic,
) -> Run:
    """The pipeline at its end; lines of progress on the way.

    An outage of GitLab of up to 15 minutes is waited for. Raises StoreError, and StackyardError if
    it takes longer than ``patience`` says.
    """
    begin = told = heard = clock()
    last = ""
    while True:
        try:
            run = read_run(gitlab, project, run)
            heard = clock()
        except UnreachableError as error:
            if clock() - heard > _OUTAGE_S:
                raise
            console.warn(f"{error.message}; asked again in a while")
        line = progress(run)
        if line != last or clock() - told >= _HEARTBEAT_S:
            console.note(f"[{_span(clock() - begin)}] {line}")
            last, told = line, clock()
        if finished(run):
            return run
        left = begin + patience.timeout_s - clock()
        if left <= 0:
            raise StackyardError(
                f"not finished after {_span(patience.timeout_s)}; the pipeline goes on ({line})",
                where=run.url or f"pipeline {run.id}",
                hint="--timeout MINUTES waits longer",
            )
        sleep(min(patience.every_s, left))


def read_run(gitlab: GitLab, project: str, run: Run, *, depth: int = _DEPTH) -> Run:
    """The pipeline as it is now, with its jobs and the pipelines that it started.

    A pipeline in another project that the token may not see stands there without its jobs.
    """
    from stackyard.edges.gitlab import project_path

    base = f"{project_path(project)}/pipelines/{run.id}"
    now = parse_run(gitlab.get(base), base)
    jobs = tuple(parse_job(row, base) for row in gitlab.pages(f"{base}/jobs"))
    children = tuple(parse_child(row, base) for row in gitlab.pages(f"{base}/bridges"))
    if depth:
        children = tuple(_read_child(gitlab, project, now, child, depth) for child in children)
    return now._replace(jobs=jobs, children=children)


def _read_child(gitlab: GitLab, project: str, parent: Run, child: Child, depth: int) -> Child:
    if child.run is None:
        return child
    elsewhere = child.run.project and child.run.project != parent.project
    name = str(child.run.project) if elsewhere else project
    try:
        return child._replace(run=read_run(gitlab, name, child.run, depth=depth - 1))
    except (DeniedError, NotFoundError):
        if not elsewhere:
            raise
        return child


def _span(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


# -- at the end -----------------------------------------------------------------------------


def _judge(run: Run) -> None:
    if good(run):
        console.note(f"pipeline {run.id} succeeded: {progress(run)}")
        return
    failed = list(failures(run))
    for name, job in failed[:_SHOWN]:
        parts = filter(None, (job.reason or job.status, job.url))
        console.note(f"  {name}: {', '.join(parts)}")
    if len(failed) > _SHOWN:
        console.note(f"  and {len(failed) - _SHOWN} more")
    raise StackyardError(
        f"the pipeline did not go well: {progress(run)}",
        where=run.url or f"pipeline {run.id}",
        hint="invoke reproduce --url JOB_URL takes a failed job to this machine" if failed else "",
    )


def _print_json(run: Run, ref: str) -> None:
    import json

    rows = [
        {"name": name, "stage": job.stage, "reason": job.reason, "url": job.url}
        for name, job in failures(run)
        if finished(run)
    ]
    data: Mapping[str, object] = {
        "id": run.id,
        "ref": ref,
        "url": run.url,
        "status": run.status,
        "good": good(run) if finished(run) else None,
        "failed": rows,
    }
    console.out(json.dumps(data, indent=2))
