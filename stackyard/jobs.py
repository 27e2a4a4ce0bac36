"""What jobs say beside what Spack makes them say: lines around their scripts, and tokens.

All of it is POSIX shell for dash and bash, and safe under ``set -eu``.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from stackyard.settings import Aws, Jobs

__all__ = ["AWS_TOKEN", "NOTHING", "Extras", "aws_after", "aws_lines", "make_extras", "section"]

#: The variable in which GitLab hands a job its ID token for AWS.
AWS_TOKEN = "STACKYARD_AWS_TOKEN"  # noqa: S105 - a name

#: Where a job keeps that token; ``mktemp`` makes the file, mode 600 and under a name of its own.
_TOKEN_FILE = "${TMPDIR:-/tmp}/aws-token-${CI_JOB_ID:-0}."  # noqa: S105 - a path


class Extras(NamedTuple):
    """What is added to all jobs that use Spack; ``variables`` are the pipeline's.

    ``before`` stands in front of their ``before_script``, ``after`` in front of ``after_script``.
    ``clone`` is the one in ``before`` that brings Spack: long, and the same everywhere.
    """

    before: tuple[str, ...] = ()
    clone: str = ""
    after: tuple[str, ...] = ()
    id_tokens: Mapping[str, Any] = MappingProxyType({})
    variables: Mapping[str, str] = MappingProxyType({})
    sections: bool = False
    junit: bool = False
    reserved_tags: bool = True

    def around(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The job with them."""
        made = dict(job)
        for key, lines in (("before_script", self.before), ("after_script", self.after)):
            if lines:
                made[key] = [*lines, *(job.get(key) or ())]
        if self.id_tokens:
            made["id_tokens"] = {**(job.get("id_tokens") or {}), **self.id_tokens}
        return made

    def folded(self, name: str, title: str, script: Sequence[str]) -> list[str]:
        """The script with its output in a section, if sections are asked for."""
        if not self.sections:
            return list(script)
        start, end = section(name, title)
        return [start, *script, end]


NOTHING = Extras()


def make_extras(
    jobs: Jobs,
    *,
    clone: str = "",
    variables: Mapping[str, str] = MappingProxyType({}),
    role: str = "",
    unsigned: bool = False,
) -> Extras:
    """``clone`` are the lines that bring Spack, ``role`` the role to take on AWS.

    ``unsigned`` jobs do without a signing key, even if somebody forgot to protect it.
    """
    before: list[str] = []
    if clone and jobs.sections:
        start, end = section("stackyard_clone", "Spack, as it is pinned", collapsed=True)
        clone = f"{start}\n{clone.rstrip()}\n{end}"
    if clone:
        clone = clone.rstrip()
        before.append(clone)
    if unsigned:
        before.append("unset SPACK_SIGNING_KEY")
    if jobs.aws:
        before += aws_lines(jobs.aws, {"": role or jobs.aws.role})
    return Extras(
        before=tuple(before),
        clone=clone,
        after=aws_after() if jobs.aws else (),
        id_tokens={AWS_TOKEN: {"aud": jobs.aws.audience}} if jobs.aws else {},
        variables=variables,
        sections=jobs.sections,
        junit=jobs.junit,
        reserved_tags=jobs.reserved_tags,
    )


def section(name: str, title: str, *, collapsed: bool = False) -> tuple[str, str]:
    """Lines that begin and end a section of GitLab's job logs; a failure leaves it open."""
    fold = "[collapsed=true]" if collapsed else ""
    start = f"\\033[0Ksection_start:%s:{name}{fold}\\r\\033[0K%s\\n"
    end = f"\\033[0Ksection_end:%s:{name}\\r\\033[0K\\n"
    return (
        f"printf '{start}' \"$(date +%s)\" {shlex.quote(title)}",
        f"printf '{end}' \"$(date +%s)\"",
    )


def aws_lines(aws: Aws, roles: Mapping[str, str]) -> tuple[str, ...]:
    """Put the job's ID token where all that speaks with AWS looks for it.

    ``roles`` are by pipeline type, that of ``""`` for all others. The token lies outside of the
    checkout, so that no artifact takes it along, and no longer in the environment.
    """
    choice = shlex.quote(roles[""])
    special = {kind: role for kind, role in roles.items() if kind and role != roles[""]}
    lines = [
        (
            f'STACKYARD_AWS_FILE=$(mktemp "{_TOKEN_FILE}XXXXXXXX") && '
            f'printf %s "${AWS_TOKEN}" > "$STACKYARD_AWS_FILE" && unset {AWS_TOKEN}'
        ),
        f"export AWS_ROLE_ARN={choice}",
    ]
    for kind, role in special.items():
        test = f'[ "${{SPACK_PIPELINE_TYPE:-}}" != {kind} ]'
        lines.append(f"{test} || export AWS_ROLE_ARN={shlex.quote(role)}")
    region = f" AWS_DEFAULT_REGION={shlex.quote(aws.region)}" if aws.region else ""
    lines.append(
        'export AWS_WEB_IDENTITY_TOKEN_FILE="$STACKYARD_AWS_FILE" '
        f'AWS_ROLE_SESSION_NAME="gitlab-${{CI_PROJECT_ID:-0}}-${{CI_JOB_ID:-0}}"{region}'
    )
    return tuple(lines)


def aws_after() -> tuple[str, ...]:
    """Remove the token; on a runner without containers it would stay."""
    return (f'rm -f "{_TOKEN_FILE}"*',)
