"""``status``: tell a commit on GitHub how its pipeline goes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from stackyard.edges import console
from stackyard.edges.github import GitHub, api_url
from stackyard.errors import ConfigError, DeniedError, StackyardError, UnreachableError
from stackyard.flow.steps import Project, Request, load_work, open_project
from stackyard.settings import StatusPosts, make_settings
from stackyard.shape import near
from stackyard.status import (
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
from stackyard.url import split_url

if TYPE_CHECKING:
    from stackyard.status import Counts

__all__ = ["find_token", "find_where", "status"]

_LARGEST_EVENT = 16 * 2**20
_TRIES = 3
_FORK = "a pull request from a fork gets no token that may post: its status stays as it is"


class _Aim(NamedTuple):
    """Where a status goes: ``api`` is a URL, ``repository`` is ``owner/name``."""

    api: str
    repository: str
    commit: str


def status(  # noqa: PLR0913 - the arguments of the task
    *,
    state: str = "",
    stack: str = "",
    description: str = "",
    context: str = "",
    sha: str = "",
    url: str = "",
    repository: str = "",
    dry_run: bool = False,
    as_json: bool = False,
) -> None:
    """Post the status of a stack, or of the whole pipeline, where it does not stand yet."""
    found = find_state(state)
    project = open_project()
    if not found:
        _tell("nothing is posted for what was canceled", as_json=as_json)
        return
    env, event = project.env, _event(project)
    settings = make_settings(project.settings).status
    aim = _aim(project, event, sha, repository)
    stack = _stack(project, stack)
    base = env.get("GITHUB_STATUS_CONTEXT", "") or settings.context
    # What anybody can read must not hold what a careless script put there.
    text = shorten(console.printable(description))
    made = Status(
        state=found,
        context=shorten(context) or find_context(base, stack),
        description=text or describe(found, _counts(project, found, stack)),
        target_url=_page(url) or page_of(env),
    )
    if dry_run:
        result = "would be posted"
    else:
        result = _post(project, aim, made, forked=is_from_fork(env, event))
    _tell(result, aim, made, as_json=as_json)


def _tell(
    result: str, aim: _Aim | None = None, made: Status | None = None, *, as_json: bool
) -> None:
    if aim and made:
        console.note(f"{made.context}: {made.state}, {made.description!r}")
        console.note(f"{aim.repository} {aim.commit[:12]}: {result}")
    else:
        console.note(result)
    if as_json:
        values = {
            "result": result,
            "repository": aim.repository if aim else "",
            "commit": aim.commit if aim else "",
            **(made or Status("", "", ""))._asdict(),
        }
        console.out(json.dumps(values, indent=2))


# -- where it goes ----------------------------------------------------------------------------


def _event(project: Project) -> Any:
    """What GitHub tells a workflow's run; None elsewhere."""
    path = project.env.get("GITHUB_EVENT_PATH")
    if not path:
        return None
    from stackyard.edges.files import read_bytes

    try:
        return json.loads(read_bytes(path, ConfigError, limit_bytes=_LARGEST_EVENT))
    except (ValueError, RecursionError):
        raise ConfigError("not JSON", where=f"$GITHUB_EVENT_PATH: {path}") from None


def _stack(project: Project, name: str) -> str:
    """The stack that is named, or that the job is for; empty: the pipeline as a whole."""
    from stackyard.edges.stacks import list_stacks

    inherited = project.env.ci_stack_name or ""
    if not name:
        return "" if inherited == "None" else inherited  # as Spack writes that there is none
    known = list_stacks(project.root)
    if name not in known:
        raise ConfigError(f"unknown stack {name!r}", hint=near(name, known))
    return name


def _aim(project: Project, event: Any, sha: str, repository: str) -> _Aim:
    env = project.env
    commit, where = sha or head_commit(env, event), "--sha" if sha else "the commit of this run"
    if not commit:
        from stackyard.edges.git import head

        commit = head(project.root)
    api, name = find_where(project, repository)
    return _Aim(api, name, check_commit(commit, where))


def find_where(project: Project, repository: str = "") -> tuple[str, str]:
    """The API's URL and ``owner/name`` of the repository that gets statuses. Raises ConfigError."""
    settings = make_settings(project.settings).status
    api = project.env.get("GITHUB_API_URL", "") or api_url(settings.github_url)
    return api, _repository(project, settings, repository)


#: In the order of precedence. A status belongs where the pull request is, not where it is from.
_REPOSITORIES = (
    "GITHUB_REPOSITORY",
    "CI_EXTERNAL_PULL_REQUEST_TARGET_REPOSITORY",
    "CI_EXTERNAL_PULL_REQUEST_SOURCE_REPOSITORY",
)


def _repository(project: Project, settings: StatusPosts, given: str) -> str:
    """``owner/name``: as said, of the CI system, of the settings, or of the clone's remotes."""
    places = [
        ("--repository", given),
        *((f"${name}", project.env.get(name, "")) for name in _REPOSITORIES),
        ("invoke.yaml: stackyard.status.repository", settings.repository),
    ]
    for where, text in places:
        if text and (found := parse_repository(text)):
            return found.name
        if text:
            raise ConfigError(
                f"not a repository on GitHub: {shorten(text, 60)!r}",
                where=where,
                hint="for example owner/name",
            )
    from stackyard.edges.git import remotes

    host = (split_url(settings.github_url).hostname or "").removeprefix("api.")
    for url in remotes(project.root):
        found = parse_repository(url)
        if found and found.host == host:
            return found.name
    raise ConfigError(
        "which repository on GitHub?",
        where="--repository",
        hint="set status.repository to owner/name in invoke.yaml",
    )


def _page(url: str) -> str:
    if url and split_url(url).scheme not in ("http", "https"):
        raise ConfigError("not an http(s) URL", where="--url")
    return url


# -- how it goes there ------------------------------------------------------------------------


def _post(project: Project, aim: _Aim, made: Status, *, forked: bool) -> str:
    env = project.env
    token = find_token(env)
    if not token and forked:
        return _FORK
    if not token:
        raise ConfigError(
            "there is no token to post a status with",
            where="$GITHUB_TOKEN",
            hint="give the job one that may write statuses; a protected variable is there on "
            "protected branches and tags only",
        )
    github = GitHub(aim.api, token)
    try:
        return _insist(github, aim, made)
    except DeniedError as error:
        if forked and "not accessible by integration" in error.message:
            return _FORK
        raise
    finally:
        github.close()


def find_token(env: Mapping[str, str]) -> str:
    """The token for GitHub; empty without one."""
    return env.get("GITHUB_TOKEN", "") or env.get("GH_TOKEN", "")


def _insist(
    github: GitHub, aim: _Aim, made: Status, sleep: Callable[[float], None] = time.sleep
) -> str:
    """Post unless it stands there; where an answer is lost, look before posting again."""
    for attempt in range(_TRIES):
        last = last_of(github.statuses(aim.repository, aim.commit), made.context)
        if last is not None and made.is_said_by(last):
            return "posted" if attempt else "stands there already"
        try:
            github.post_status(aim.repository, aim.commit, made.body)
        except UnreachableError:
            if attempt == _TRIES - 1:
                raise
            sleep(2.0**attempt)
        else:
            break
    return "posted"


# -- what it says -----------------------------------------------------------------------------


def _counts(project: Project, state: str, stack: str) -> Counts | None:
    """How the jobs of the stack's child pipeline ended; None where that cannot be known."""
    env = project.env
    names = ("GITLAB_TOKEN", "CI_API_V4_URL", "CI_PROJECT_ID", "CI_PIPELINE_ID")
    token, url, number, pipeline = (env.get(name, "") for name in names)
    if state == "pending" or not stack or not all((token, url, number, pipeline)):
        return None
    try:
        jobs = _child_jobs(url, token, f"/projects/{number}", pipeline, stack)
        if jobs is None:
            return None
        counts = count_jobs(jobs)
    except StackyardError as error:
        console.warn(f"the jobs cannot be counted: {error}")
        return None
    specs = _specs(project, stack)
    # A spec that has no job is on a mirror already.
    return counts._replace(reused=None if specs is None else max(0, specs - counts.jobs))


def _child_jobs(url: str, token: str, project: str, pipeline: str, stack: str) -> list[Any] | None:
    """The jobs that the stack's trigger started; None where there are none."""
    from stackyard.edges.gitlab import GitLab
    from stackyard.parent import ParentStack

    trigger = ParentStack(stack, ()).build_job
    gitlab = GitLab(url, token)
    try:
        child = find_child(gitlab.pages(f"{project}/pipelines/{pipeline}/bridges"), trigger)
        return list(gitlab.pages(f"{project}/pipelines/{child}/jobs")) if child else None
    finally:
        gitlab.close()


def _specs(project: Project, stack: str) -> int | None:
    """How many specs of the stack somebody has to build, once; None where no lock tells."""
    from stackyard.plan import Action, make_plan

    try:
        work = load_work(project, Request(stack=stack))
        return make_plan(work.lock, work.roots).count(Action.BUILD)
    except StackyardError as error:
        console.warn(f"what is reused cannot be counted: {error}")
        return None
