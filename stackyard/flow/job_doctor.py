"""What ``doctor`` says of the jobs of a stack: what they are asked to do, and the tags they wait for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stackyard.errors import StackyardError

if TYPE_CHECKING:
    from stackyard.attributes import Attributes
    from stackyard.flow.examination import Finding
    from stackyard.flow.steps import Work

__all__ = ["job_findings", "job_tags"]

#: AWS's own form (its "IAM identifiers"), in all of its partitions.
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]+")


def job_findings(work: Work, name: str) -> Iterator[Finding]:
    """What jobs are asked to do and cannot."""
    from stackyard.flow.examination import Finding

    jobs, check = work.settings.jobs, f"{name}: jobs"
    if jobs.junit and work.stack.cdash.get("build-group"):
        yield Finding(
            check=check,
            text="Spack tells the results of tests to CDash, and then GitLab gets none",
            hint="take jobs.junit away, or the cdash section",
            advice=True,
        )
    elif jobs.junit and not _runs_tests(work):
        yield Finding(
            check=check,
            text="jobs.junit waits for results, and some build scripts run no tests",
            hint="say `spack ci rebuild --tests` there",
            advice=True,
        )
    if jobs.clone and work.pins is None:
        yield Finding(
            check=check,
            text="they clone Spack, and nothing pins its packages",
            hint=f"run: invoke lock --stack {name}; it writes pins.yaml",
            advice=True,
        )
    yield from _role_findings(work, check)


def _role_findings(work: Work, check: str) -> Iterator[Finding]:
    """Whether the roles on AWS can be what settings mean by them."""
    from stackyard.flow.examination import Finding

    aws, pulls = work.settings.jobs.aws, work.settings.pull_requests
    for key, role in (
        ("jobs.aws.role", aws.role if aws else ""),
        ("pull_requests.role", pulls.role),
    ):
        if role and not _ROLE.fullmatch(role):
            yield Finding(
                check=check,
                text=f"{key} is no role of AWS",
                hint="for example arn:aws:iam::123456789012:role/release",
                code=2,
            )
    if pulls.role and not aws:
        yield Finding(
            check=check,
            text="pull_requests.role is not taken: only jobs.aws makes jobs take roles",
            hint="set jobs.aws.role, see docs/pipelines.md",
            advice=True,
        )
    if aws and pulls.mirror and pulls.role in ("", aws.role):
        yield Finding(
            check=check,
            text="pull requests take the role of releases",
            hint="give them their own: pull_requests.role, see GITLAB_SETUP.md",
            advice=True,
        )


def _runs_tests(work: Work) -> bool:
    """Whether all build jobs do; a script of the user's own is searched for the flag."""
    return all(
        any(flag in f"{line} " for line in unpacked for flag in (" --tests ", " -t "))
        for unpacked in _build_scripts(work)
    )


def _build_scripts(work: Work) -> list[list[str]]:
    from stackyard.attributes import unpack_script

    return [unpack_script(group.attributes.get("script")) for group in _groups(work).groups]


def _groups(work: Work) -> Attributes:
    """The attributes of all jobs that there could be."""
    from stackyard.attributes import make_attributes

    reached = work.lock.closure(work.roots)
    specs = [
        spec
        for key in work.lock.order
        if key in reached and not (spec := work.lock.specs[key]).external
    ]
    jobs = work.settings.jobs
    return make_attributes(
        work.stack.ci,
        specs,
        work.lock,
        fix=work.fix,
        own_index=work.settings.index == "stackyard",
        tests=jobs.junit,
        reserved_tags=jobs.reserved_tags,
    )


def job_tags(work: Work) -> Iterator[frozenset[str]]:
    """The sets of runner tags that jobs of the stack ask for, and those of the parent pipeline."""
    yield frozenset(work.settings.generate.tags)
    try:
        made = _groups(work)
    except StackyardError:  # said of the ci section already
        return
    if not work.stack.has_ci:
        return
    for group in made.groups:
        tags = frozenset(map(str, group.attributes.get("tags") or ()))
        if work.settings.jobs.reserved_tags:
            yield tags | {"public"}
            yield tags | {"protected"}
        else:
            yield tags
    for job in ("reindex", "noop"):
        yield frozenset(map(str, made.services[job].get("tags") or ()))
