"""The parent pipeline: for each stack a job that generates its child pipeline, and its trigger."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["ParentStack", "parent_values"]

#: A change of these concerns every stack.
_COMMON = ("invoke.yaml", ".gitlab-ci.yml", "templates/gitlab/**/*")


class ParentStack(NamedTuple):
    """One stack of the parent pipeline; ``files`` are globs of what a change of it may touch."""

    name: str
    files: tuple[str, ...]

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
) -> dict[str, Any]:
    """The context of ``gitlab/parent.yml.j2``."""
    return {
        "stacks": list(stacks),
        "image": image,
        "tags": list(tags),
        "strategy": strategy,
        "interruptible": interruptible,
        "variables": dict(variables),
        "before_script": [
            *before_script,
            f"python3 -m pip install --quiet {shlex.quote(requirement)}",
        ],
    }
