"""What a commit's status on GitHub says, and where it belongs: decided here, posted elsewhere.

Of a service's answers and of the environment nothing is taken for granted but that they are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stackyard.errors import ConfigError, CorruptError
from stackyard.shape import near
from stackyard.url import split_url

__all__ = [
    "CONTEXT",
    "LONGEST",
    "Counts",
    "Repository",
    "Status",
    "check_commit",
    "count_jobs",
    "describe",
    "find_child",
    "find_context",
    "find_state",
    "head_commit",
    "is_from_fork",
    "last_of",
    "page_of",
    "parse_repository",
    "shorten",
]

#: What Spack's own bridge between GitHub and GitLab says.
CONTEXT = "ci/gitlab-ci"
#: Characters of a description; with more GitHub answers 422.
LONGEST = 140

#: States of GitHub, and of GitLab's pipelines and jobs with what they mean there: as Spack's bridge
#: has it. Of a run that was canceled nobody knows how it would have ended: nothing is posted.
_STATES: Mapping[str, str] = {
    "error": "error",
    "failure": "failure",
    "pending": "pending",
    "success": "success",
    **dict.fromkeys(
        (
            "created",
            "waiting_for_resource",
            "waiting_for_callback",
            "preparing",
            "running",
            "manual",
            "scheduled",
        ),
        "pending",
    ),
    "failed": "error",
    "skipped": "failure",
    "canceled": "",
    "canceling": "",
}

_WORDS: Mapping[str, str] = {
    "error": "the pipeline broke off",
    "failure": "the pipeline failed",
    "pending": "the pipeline runs",
    "success": "the pipeline passed",
}


class Repository(NamedTuple):
    """``name`` is ``owner/name``; ``host`` is empty where only that was given."""

    host: str
    name: str


class Status(NamedTuple):
    """What is posted; ``description`` is cut already."""

    state: str
    context: str
    description: str
    target_url: str = ""

    @property
    def body(self) -> dict[str, str]:
        """As GitHub takes it: ``target_url`` only where there is one."""
        return {name: value for name, value in self._asdict().items() if value}

    def is_said_by(self, posted: Mapping[str, Any]) -> bool:
        """Whether a status that GitHub has says the same."""
        return (
            posted.get("state") == self.state
            and (posted.get("description") or "") == self.description
            and (posted.get("target_url") or "") == self.target_url
        )


class Counts(NamedTuple):
    """How the jobs of a child pipeline ended.

    ``failed`` are names of packages, or of jobs that build none. ``jobs`` counts those that build,
    whatever became of them. ``reused`` is None where nobody knows.
    """

    built: int = 0
    failed: tuple[str, ...] = ()
    skipped: int = 0
    canceled: int = 0
    waiting: int = 0
    jobs: int = 0
    reused: int | None = None


def find_state(text: str) -> str:
    """The state to post, of a state of GitHub or GitLab; empty if nothing is to be posted.

    Raises ConfigError for any other word.
    """
    if not text:
        raise ConfigError(
            "which state?", where="--state", hint="error, failure, pending, success, or GitLab's"
        )
    if text not in _STATES:
        raise ConfigError(f"unknown state {text!r}", where="--state", hint=near(text, _STATES))
    return _STATES[text]


def find_context(base: str, stack: str) -> str:
    """The name that a status has: one for each stack, and always the same."""
    return "/".join(filter(None, (_one_line(base) or CONTEXT, stack)))


def last_of(statuses: Iterable[Any], context: str) -> Mapping[str, Any] | None:
    """The status of this context, if there is one, of a list that begins with the last one.

    GitHub takes contexts that differ in case only for the same.
    """
    for status in statuses:
        if not isinstance(status, Mapping) or not isinstance(status.get("context"), str):
            raise CorruptError("GitHub's list of statuses has something else in it")
        if status["context"].casefold() == context.casefold():
            return status
    return None


# -- what it says ----------------------------------------------------------------------------


def describe(state: str, counts: Counts | None = None) -> str:
    """``212 built, 20 reused, 1 failed: trilinos``, with as many names as there is room for."""
    if counts is None:
        return _WORDS[state]
    parts = [f"{counts.built} built"]
    for number, word in (
        (counts.reused, "reused"),
        (counts.waiting, "waiting"),
        (counts.canceled, "canceled"),
        (counts.skipped, "not tried"),
    ):
        if number:
            parts.append(f"{number} {word}")
    if not counts.failed:
        return ", ".join(parts)
    head = ", ".join([*parts, f"{len(counts.failed)} failed: "])
    return head + _some(tuple(dict.fromkeys(counts.failed)), LONGEST - len(head))


def _some(names: Sequence[str], room: int) -> str:
    """As many names as fit, and how many more there are."""
    for shown in range(min(len(names), room), 0, -1):
        text = ", ".join(names[:shown])
        if shown < len(names):
            text += f" and {len(names) - shown} more"
        if len(text) <= room:
            return text
    return shorten(names[0], room)


def shorten(text: str, room: int = LONGEST) -> str:
    """On one line, and not longer than ``room``: what comes first stays, up to a whole word."""
    line = _one_line(text)
    if len(line) <= room:
        return line
    words = line[:room].rpartition(" ")[0]
    # A word that fills half of it is more worth than a clean end.
    kept = words if len(words) >= room // 2 else line[: room - 1]
    return kept.rstrip(" ,;:") + "…"


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def find_child(bridges: Iterable[Any], trigger: str) -> int:
    """The number of the pipeline that a trigger job started, of GitLab's list of such jobs.

    0 where it started none. Raises CorruptError for what is no such list.
    """
    for bridge in bridges:
        if not isinstance(bridge, Mapping):
            raise CorruptError("GitLab's list of trigger jobs has something else in it")
        child = bridge.get("downstream_pipeline")
        if bridge.get("name") == trigger and child is not None:
            number = child.get("id") if isinstance(child, Mapping) else None
            if not isinstance(number, int):
                raise CorruptError("GitLab names a child pipeline without its number")
            return number
    return 0


#: How the name of a job that builds begins: ``trilinos@16.0.0 /hash``.
_BUILDS = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*)@")


def count_jobs(jobs: Iterable[Any]) -> Counts:
    """Count the jobs of a child pipeline, as GitLab lists them (those that were retried once).

    Jobs that build nothing count only where they failed. Raises CorruptError for what is no list
    of jobs.
    """
    built = skipped = canceled = waiting = building = 0
    failed: list[tuple[int, str]] = []
    for job in jobs:
        name, status = (job.get("name"), job.get("status")) if isinstance(job, Mapping) else (0, 0)
        if not isinstance(name, str) or not isinstance(status, str):
            raise CorruptError("GitLab's list of jobs has something else in it")
        package = _BUILDS.match(name)
        building += bool(package)
        if status == "failed":
            number = job.get("id")
            first = number if isinstance(number, int) else 0
            failed.append((first, package.group(1) if package else _one_line(name)))
        elif not package:
            continue
        elif status == "success":
            built += 1
        elif status == "skipped":
            skipped += 1
        elif status in ("canceled", "canceling"):
            canceled += 1
        else:
            waiting += 1
    names = tuple(name for _, name in sorted(failed))
    return Counts(built, names, skipped, canceled, waiting, building)


# -- where it belongs ------------------------------------------------------------------------

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*/(?!\.{1,2}$)[A-Za-z0-9._-]+")
_SCP = re.compile(r"(?:[^@/\s]+@)?([^:/\s]+):(?!//)(.+)")


def check_commit(text: str, where: str) -> str:
    """A whole commit id. Raises ConfigError naming ``where``."""
    commit = text.strip().lower()
    if not _COMMIT.fullmatch(commit):
        raise ConfigError(
            f"not a commit id: {shorten(text, 60)!r}",
            where=where,
            hint="give the whole one: git rev-parse HEAD",
        )
    return commit


def parse_repository(text: str) -> Repository | None:
    """``owner/name``, or the URL of such a repository as git takes it; None for anything else."""
    text = text.strip()
    host, path = "", text
    if "://" in text:
        parts = split_url(text)
        host, path = (parts.hostname or ""), parts.path.strip("/")
    elif found := _SCP.fullmatch(text):
        host, path = found.group(1).lower(), found.group(2).strip("/")
    if host or text != path:
        path = path.removesuffix(".git")
    return Repository(host, path) if _NAME.fullmatch(path) else None


def head_commit(env: Mapping[str, str], event: Any = None) -> str:
    """The commit that a status belongs to: a pull request's head, never the merge of it.

    ``event`` is what GitHub tells a workflow's run. Empty where there is no CI system.
    """
    for name in (
        "CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_SHA",
        "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA",
    ):
        if env.get(name):
            return env[name]
    for path in (("pull_request", "head", "sha"), ("workflow_run", "head_sha")):
        if found := _text(event, *path):
            return found
    return env.get("CI_COMMIT_SHA", "") or env.get("GITHUB_SHA", "")


def is_from_fork(env: Mapping[str, str], event: Any = None) -> bool:
    """Whether this runs for a pull request from somebody else's repository."""
    source = env.get("CI_EXTERNAL_PULL_REQUEST_SOURCE_REPOSITORY", "")
    target = env.get("CI_EXTERNAL_PULL_REQUEST_TARGET_REPOSITORY", "")
    if source and target and source.casefold() != target.casefold():
        return True
    base = _text(event, "pull_request", "base", "repo", "full_name")
    # Of a fork that is gone there is no name.
    head = _text(event, "pull_request", "head", "repo", "full_name")
    return bool(base) and head.casefold() != base.casefold()


def page_of(env: Mapping[str, str]) -> str:
    """The page of the pipeline, or of the workflow's run; empty where there is none."""
    if url := env.get("CI_PIPELINE_URL"):
        return url
    names = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")
    server, repository, run = (env.get(name, "") for name in names)
    if not (server and repository and run):
        return ""
    return f"{server.rstrip('/')}/{repository}/actions/runs/{run}"


def _text(value: Any, *path: str) -> str:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else ""
