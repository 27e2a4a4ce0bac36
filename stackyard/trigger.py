"""Start a pipeline on GitLab from elsewhere, and tell from GitLab's answers how it goes.

A pipeline has jobs, and trigger jobs with pipelines of their own; ``Run`` is that tree as it was
at one moment.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from stackyard.errors import ConfigError, CorruptError

__all__ = [
    "FINISHED",
    "Child",
    "Job",
    "Run",
    "Start",
    "check_ref",
    "default_ref",
    "failures",
    "finished",
    "good",
    "parse_child",
    "parse_inputs",
    "parse_job",
    "parse_run",
    "parse_variables",
    "progress",
    "refusal_hint",
    "server_url",
]

#: A pipeline or job that says so will not change any more, unless somebody tries it again.
FINISHED = frozenset({"success", "failed", "canceled", "skipped"})

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
#: What git refuses in the name of a branch or a tag (git-check-ref-format).
_NO_REF = re.compile(
    r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|//|@\{|\.lock(/|$)|(^|/)\.|[./]$|^[-/]|^@$|^refs/|^HEAD$"
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INPUT = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_VARIABLE = 10_000


# -- starting -------------------------------------------------------------------------------


class Start(NamedTuple):
    """What to run: a branch or a tag, with variables and with inputs of ``spec: inputs``."""

    ref: str
    variables: Mapping[str, str] = {}
    inputs: Mapping[str, Any] = {}

    def for_trigger(self, token: str) -> dict[str, Any]:
        """The body for ``POST /projects/:id/trigger/pipeline``."""
        body: dict[str, Any] = {"token": token, "ref": self.ref}
        return {**body, **self._given(dict(self.variables))}

    def for_pipeline(self) -> dict[str, Any]:
        """The body for ``POST /projects/:id/pipeline``."""
        rows = [{"key": key, "value": value} for key, value in self.variables.items()]
        return {"ref": self.ref, **self._given(rows)}

    def _given(self, variables: Any) -> dict[str, Any]:
        given = {"variables": variables, "inputs": dict(self.inputs)}
        return {name: value for name, value in given.items() if value}


def check_ref(ref: str, where: str) -> str:
    """The name of a branch or a tag. Raises ConfigError for any other."""
    if _COMMIT.fullmatch(ref):
        raise ConfigError(
            "GitLab starts pipelines for a branch or a tag, not for a commit",
            where=where,
            hint="name the branch; --push --commit REV makes it that commit first",
        )
    if not ref or _NO_REF.search(ref):
        raise ConfigError(f"{ref!r} cannot be the name of a branch or a tag", where=where)
    return ref


def default_ref(github_ref: str, branch: str) -> str:
    """The ref on GitLab if nobody names one: what a job on GitHub runs for, or the branch here.

    A pull request becomes ``pr-12``: its own branch may have the name of a protected one. Empty if
    there is neither.
    """
    kind, _, name = github_ref.removeprefix("refs/").partition("/")
    if kind in ("heads", "tags") and name:
        return name
    if kind == "pull" and name.partition("/")[0].isdecimal():
        return f"pr-{name.partition('/')[0]}"
    return branch


def parse_variables(items: Iterable[str]) -> dict[str, str]:
    """``NAME=VALUE`` each. Raises ConfigError, without the value."""
    found = {}
    for name, value in _pairs(items, "--variable", "NAME=VALUE"):
        if not _VARIABLE.fullmatch(name):
            raise ConfigError(f"{name!r} cannot be a variable's name", where="--variable")
        if len(value) > _LONGEST_VARIABLE:
            raise ConfigError(
                f"the value of {name} has more than {_LONGEST_VARIABLE} characters, which is all "
                "that GitLab takes",
                where="--variable",
            )
        found[name] = value
    return found


def parse_inputs(items: Iterable[str]) -> dict[str, Any]:
    """``NAME=TEXT`` or ``NAME:=JSON`` each. Raises ConfigError."""
    found: dict[str, Any] = {}
    for name, value in _pairs(items, "--input", "NAME=TEXT or NAME:=JSON"):
        bare = name.removesuffix(":")
        if not _INPUT.fullmatch(bare):
            raise ConfigError(f"{bare!r} cannot be an input's name", where="--input")
        try:
            found[bare] = value if bare == name else json.loads(value)
        except (ValueError, RecursionError):
            raise ConfigError(f"the value of {bare} is not JSON", where="--input") from None
    return found


def _pairs(items: Iterable[str], where: str, form: str) -> Iterator[tuple[str, str]]:
    for item in items:
        name, separator, value = item.partition("=")
        if not separator:
            raise ConfigError(f"must be {form}", where=where)
        yield name, value


def server_url(url: str) -> str:
    """The server's own URL, where that of its API was given too."""
    return url.rstrip("/").removesuffix("/api/v4")


#: Parts of what GitLab says with 400, and what to do about it. ``{ref}`` and ``{source}`` are filled.
_REFUSALS: tuple[tuple[str, str], ...] = (
    (
        "reference not found",
        "GitLab has no branch and no tag {ref!r}: push it first, or with --push",
    ),
    (
        "insufficient permissions to set pipeline variables",
        (
            "the project lets nobody set variables: pass --input instead of --variable, or lower "
            '"Minimum role to use pipeline variables" in Settings, CI/CD, Variables (older servers '
            "refuse trigger tokens then, even without a variable: use GITLAB_TOKEN alone)"
        ),
    ),
    ("input", "spec: inputs in the project's .gitlab-ci.yml says what it takes"),
    ("missing ci config", "the ref has no .gitlab-ci.yml: run invoke generate, commit, and push"),
    (
        "",
        (
            "is there a branch or tag {ref!r} on GitLab, with a .gitlab-ci.yml whose rules let a "
            "pipeline in that has CI_PIPELINE_SOURCE {source}?"
        ),
    ),
)


def refusal_hint(start: Start, words: str, status: int, *, by_token: bool) -> str:
    """What to do about GitLab's 400 or 404 to an order for a pipeline; empty for other answers.

    ``by_token``: a trigger token was sent. Source: GitLab's "Trigger pipelines with the API",
    section Troubleshooting, and its setting "Restrict pipeline variables".
    """
    if status == 404 and by_token:
        return (
            "is GITLAB_TRIGGER_TOKEN one of this project's trigger tokens (Settings, CI/CD, Pipeline "
            "trigger tokens), and no access token? is gitlab.project right?"
        )
    if status == 404:
        return "is gitlab.project right, and may GITLAB_TOKEN (scope api) see that project?"
    if status != 400:
        return ""
    hint = next(hint for mark, hint in _REFUSALS if mark in words.lower())
    return hint.format(ref=start.ref, source="trigger" if by_token else "api")


# -- how it goes ----------------------------------------------------------------------------


class Job(NamedTuple):
    """A job as GitLab shows it; ``allowed``: it may fail."""

    name: str
    stage: str
    status: str
    allowed: bool = False
    reason: str = ""
    url: str = ""


class Run(NamedTuple):
    """A pipeline with all that it started. ``problem``: what GitLab has against its YAML."""

    id: int
    project: int
    status: str
    url: str = ""
    problem: str = ""
    jobs: tuple[Job, ...] = ()
    children: tuple[Child, ...] = ()


class Child(NamedTuple):
    """A trigger job, and the pipeline that it started, if it did."""

    job: Job
    run: Run | None = None


def parse_run(row: Any, where: str) -> Run:
    """A pipeline without its jobs, from GitLab's JSON. Raises CorruptError."""
    data = _mapping(row, where)
    return Run(
        id=_number(data, "id", where),
        project=_number(data, "project_id", where) if "project_id" in data else 0,
        status=_text(data, "status", where),
        url=_url(data),
        problem=_one_line(data.get("yaml_errors")),
    )


def parse_job(row: Any, where: str) -> Job:
    """A job, or a trigger job, from GitLab's JSON. Raises CorruptError."""
    data = _mapping(row, where)
    return Job(
        name=_text(data, "name", where),
        stage=_one_line(data.get("stage")),
        status=_text(data, "status", where),
        allowed=data.get("allow_failure") is True,
        reason=_one_line(data.get("failure_reason")),
        url=_url(data),
    )


def parse_child(row: Any, where: str) -> Child:
    """A trigger job with its pipeline, whose own jobs are not there yet. Raises CorruptError."""
    down = _mapping(row, where).get("downstream_pipeline")
    return Child(parse_job(row, where), parse_run(down, where) if down else None)


def finished(run: Run) -> bool:
    """Whether neither the pipeline nor one that it started will change any more.

    A trigger job without ``strategy`` does not wait for the pipeline that it starts.
    """
    return run.status in FINISHED and all(
        finished(child.run) for child in run.children if child.run
    )


def good(run: Run) -> bool:
    """Whether all went well that had to."""
    return run.status == "success" and all(
        good(child.run) for child in run.children if child.run and not child.job.allowed
    )


def progress(run: Run) -> str:
    """One line: ``running: 12 of 30 jobs done, 2 running, 1 failed (trilinos)``."""
    jobs = [job for job in _jobs(run) if job.status != "manual"]
    counts = Counter(job.status for job in jobs)
    parts = [f"{sum(counts[status] for status in FINISHED)} of {len(jobs)} jobs done"]
    parts += [f"{counts[word]} {word}" for word in ("running", "pending") if counts[word]]
    failed = [job.name for job in jobs if job.status == "failed" and not job.allowed]
    if failed:
        names = ", ".join(failed[:3]) + (", …" if len(failed) > 3 else "")
        parts.append(f"{len(failed)} failed ({names})")
    return f"{run.status}: {', '.join(parts)}" if jobs else run.status


def failures(run: Run, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Job]]:
    """Each job that failed and should not have: with the trigger jobs that lead to it.

    Where a pipeline failed and none of its jobs did, the pipeline itself stands for one.
    """
    count = 0
    for job in run.jobs:
        if job.status == "failed" and not job.allowed:
            count += 1
            yield " / ".join((*path, job.name)), job
    for child in run.children:
        if child.job.allowed:
            continue
        inner = list(failures(child.run, (*path, child.job.name))) if child.run else []
        if not inner and child.job.status == "failed":
            inner = [(" / ".join((*path, child.job.name)), child.job)]
        count += len(inner)
        yield from inner
    if not count and run.status not in ("success", "skipped"):
        name = " / ".join((*path, f"pipeline {run.id}"))
        yield name, Job(name, "", run.status, reason=run.problem, url=run.url)


def _jobs(run: Run) -> Iterator[Job]:
    yield from run.jobs
    for child in run.children:
        if child.run:
            yield from _jobs(child.run)


def _mapping(row: Any, where: str) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    raise CorruptError("GitLab's answer is no pipeline and no job", where=where)


def _number(data: Mapping[str, Any], key: str, where: str) -> int:
    value = data.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise CorruptError(f"GitLab's answer has no {key}", where=where)


def _text(data: Mapping[str, Any], key: str, where: str) -> str:
    value = data.get(key)
    if isinstance(value, str) and value:
        return _one_line(value)
    raise CorruptError(f"GitLab's answer has no {key}", where=where)


def _url(data: Mapping[str, Any]) -> str:
    url = data.get("web_url")
    return url if isinstance(url, str) and re.fullmatch(r"https?://[!-~]+", url) else ""


def _one_line(value: Any) -> str:
    return " ".join(value.split())[:300] if isinstance(value, str) else ""
