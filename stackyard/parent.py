"""The parent pipeline: for each stack a job that generates its child pipeline, and its trigger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ParentStack", "parent_values"]

#: A change of these concerns every stack.
_COMMON = ("invoke.yaml", ".gitlab-ci.yml", "templates/gitlab/**/*")

#: What kind of pipeline runs: Spack signs on protected refs only, and gives the runner tags
#: `protected` and `public` to the jobs of the two kinds.
_CASES: tuple[tuple[str, str], ...] = (
    ('$CI_PIPELINE_SOURCE == "merge_request_event"', "spack_pull_request"),
    ('$CI_PIPELINE_SOURCE == "external_pull_request_event"', "spack_pull_request"),
    ('$CI_COMMIT_REF_PROTECTED == "true"', "spack_protected_branch"),
    ("$CI_COMMIT_BRANCH", "spack_pull_request"),
    ("$CI_COMMIT_TAG", ""),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentStack:
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
    def rules(self) -> list[dict[str, Any]]:
        """A rule for each kind of pipeline; GitLab takes changes for true on tags and schedules."""
        changes = [*self.files, *_COMMON]
        rules = []
        for condition, kind in _CASES:
            rule: dict[str, Any] = {"if": condition, "changes": changes}
            if kind:
                rule["variables"] = {"SPACK_PIPELINE_TYPE": kind}
            rules.append(rule)
        return rules


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
        "before_script": [*before_script, f"python3 -m pip install --quiet '{requirement}'"],
    }
