"""The parent pipeline: for each stack a job that generates its child pipeline, and its trigger.

Around them, where settings ask for it: the commit's status, and an environment for the mirror that
a pull request has, so that GitLab removes it in the end.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

__all__ = ["ParentStack", "parent_values"]

#: A change of these concerns every stack.
_COMMON = ("invoke.yaml", ".gitlab-ci.yml", "templates/gitlab/**/*")


class ParentStack(NamedTuple):
    """One stack of the parent pipeline; ``files`` are globs of what a change of it may touch.

    ``keep`` is how long the mirror of a pull request stays; empty, where it has none.
    """

    name: str
    files: tuple[str, ...]
    keep: str = ""

    @property
    def comment(self) -> str:
        return f"The stack {self.name}"

    @property
    def generate_job(self) -> str:
        return f"generate-{self.name}"

    @property
    def build_job(self) -> str:
        return f"build-{self.name}"

    @property
    def pending_job(self) -> str:
        return f"pending-{self.name}"

    @property
    def success_job(self) -> str:
        return f"success-{self.name}"

    @property
    def broken_job(self) -> str:
        return f"broken-{self.name}"

    @property
    def failure_job(self) -> str:
        return f"failure-{self.name}"

    @property
    def untouched_job(self) -> str:
        return f"untouched-{self.name}"

    @property
    def mirror_job(self) -> str:
        return f"mirror-{self.name}"

    @property
    def cleanup_job(self) -> str:
        return f"cleanup-{self.name}"

    @property
    def environment(self) -> str:
        """GitLab's environment for the mirror of one pull request."""
        return f"mirror-{self.name}/$STACKYARD_PULL_REQUEST"

    @property
    def pipeline(self) -> str:
        return f"jobs_scratch_dir/{self.name}/pipeline.yml"

    @property
    def changes(self) -> list[str]:
        """What a change must touch; on tags and schedules GitLab takes any change for true."""
        return [*self.files, *_COMMON]


def parent_values(  # noqa: PLR0913 - one value each of the template's context
    stacks: Sequence[ParentStack],
    *,
    image: str,
    tags: Sequence[str],
    requirement: str,
    strategy: str,
    interruptible: bool,
    variables: Mapping[str, str],
    before_script: Sequence[str],
    status: bool = False,
    id_tokens: Mapping[str, Any] = MappingProxyType({}),
    login: Sequence[str] = (),
    logout: Sequence[str] = (),
) -> dict[str, Any]:
    """The context of ``gitlab/parent.yml.j2``; ``status`` asks for commit statuses.

    ``login`` are lines for jobs that go to mirrors, and ``logout`` what they do at their end.
    """
    mirrors = any(stack.keep for stack in stacks)
    more = [*(["status"] if status else []), *(["cleanup"] if mirrors else [])]
    install = [*before_script, f"python3 -m pip install --quiet {shlex.quote(requirement)}"]
    return {
        "stacks": list(stacks),
        "stages": ["generate", "build", *more],
        "image": image,
        "tags": list(tags),
        "strategy": strategy,
        "interruptible": interruptible,
        "variables": dict(variables),
        "install": install,
        "before_script": [*login, *install],
        "after_script": list(logout),
        "id_tokens": dict(id_tokens),
        "status": status,
        "mirrors": mirrors,
    }
