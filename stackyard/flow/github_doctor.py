"""What ``doctor`` sees of the repository on GitHub that statuses go to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stackyard.flow.examination import Finding
    from stackyard.flow.steps import Project

__all__ = ["github_findings"]


def github_findings(project: Project) -> Iterator[Finding]:
    """Whether the token sees the repository; nothing without one. Raises StackyardError."""
    from stackyard.edges.github import GitHub
    from stackyard.flow.examination import Finding
    from stackyard.flow.status import find_token, find_where

    token = find_token(project.env)
    if not token:
        return
    api, name = find_where(project)
    github = GitHub(api, token)
    try:
        found = github.get(f"/repos/{name}")
    finally:
        github.close()
    data = found if isinstance(found, Mapping) else {}
    full = str(data.get("full_name") or "")
    check = "GitHub: repository"
    if not full:
        yield Finding(check, "its answer is no repository", code=6)
    elif full.casefold() != name.casefold():
        yield Finding(
            check,
            f"{name} is {full} by now, and takes no statuses under its old name",
            "change status.repository",
            code=2,
        )
    elif data.get("archived"):
        yield Finding(check, f"{name} is archived: it takes no statuses", code=2)
    else:
        yield Finding(check, f"{name} can be seen with the token")
