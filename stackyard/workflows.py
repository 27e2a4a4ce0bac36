"""Workflows for GitHub Actions: which there are, and what their templates are told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from stackyard.errors import ConfigError
from stackyard.settings import Settings
from stackyard.url import split_url

__all__ = ["ACTIONS", "CACHE", "TEMPLATES", "Action", "target", "workflow_values"]


class Action(NamedTuple):
    """An action as a workflow uses it: by commit, because a tag can be moved."""

    name: str
    commit: str
    version: str

    @property
    def use(self) -> str:
        return f"{self.name}@{self.commit}"


#: The commits of these tags.
ACTIONS: Mapping[str, Action] = {
    "checkout": Action("actions/checkout", "3d3c42e5aac5ba805825da76410c181273ba90b1", "v7.0.1"),
    "login": Action("docker/login-action", "4907a6ddec9925e35a0a9e82d7399ccc52663121", "v4.1.0"),
    "setup-spack": Action(
        "spack/setup-spack", "16b756799ede8b28951287f89bcd3fdb32ec1ca3", "v3.0.0"
    ),
    "upload-artifact": Action(
        "actions/upload-artifact", "bbbca2ddaa5d8feaa63e36b76fdaad77386f024f", "v7.0.0"
    ),
    "upload-pages-artifact": Action(
        "actions/upload-pages-artifact", "fc324d3547104276b827a68afc52ff2a11cc49c9", "v5.0.0"
    ),
    "deploy-pages": Action(
        "actions/deploy-pages", "cd2ce8fcbc39b97be8ca5fce6e763baed58fa128", "v5.0.0"
    ),
}

#: The template of each workflow that ``github.workflows`` can name.
TEMPLATES: Mapping[str, str] = {
    "gitlab": "github/gitlab.yml.j2",
    "image": "github/image.yml.j2",
    "build": "github/build.yml.j2",
    "draw": "github/build.yml.j2",
    "index": "github/index.yml.j2",
    "prune": "github/prune.yml.j2",
    "share": "github/share.yml.j2",
    "site": "github/site.yml.j2",
}
#: Those about a cache of binaries on GitHub: see ``stackyard.cache_workflows``.
CACHE = frozenset({"build", "draw", "index", "prune", "share", "site"})
#: Rendered for other repositories to copy: GitHub does not run what lies there.
_COPIED = frozenset({"share"})

_PROJECT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")
_SSH = re.compile(r"(?:ssh://)?[A-Za-z0-9_.-]+@[A-Za-z0-9][A-Za-z0-9.:-]*[:/][A-Za-z0-9_./~-]+")
_WEB = re.compile(r"https://[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]+)?/[A-Za-z0-9_./~-]+")


def target(name: str) -> str:
    """The workflow's file, from the top of the repository."""
    folder = "share" if name in _COPIED else "workflows"
    return f".github/{folder}/stackyard-{name}.yml"


def workflow_values(settings: Settings, *, requirement: str) -> dict[str, Any]:
    """The context of the workflow ``gitlab``; ``requirement`` is what to install.

    Raises ConfigError where GitLab's project is not known by its path.
    """
    github = settings.github
    if not settings.gitlab.project:
        raise _unknown_project()
    remote = github.remote or _remote(settings)
    ssh = _SSH.fullmatch(remote) is not None
    if not ssh and not _WEB.fullmatch(remote):
        raise ConfigError(
            "not the address of a repository that git can push to",
            where="invoke.yaml: stackyard.github.remote",
            hint="git@gitlab.com:group/name.git, or https://gitlab.com/group/name.git",
        )
    return {
        "actions": ACTIONS,
        "branches": list(github.branches),
        "tags": [f"{settings.release.prefix}*"],
        "runner": github.runner,
        "requirement": requirement,
        "remote": remote,
        "ssh": ssh,
        "follow": github.follow,
    }


def _remote(settings: Settings) -> str:
    project = str(settings.gitlab.project).strip("/").removesuffix(".git")
    if not _PROJECT.fullmatch(project):
        raise _unknown_project()
    url = split_url(settings.gitlab.url.rstrip("/").removesuffix("/api/v4"))
    if url.scheme != "https" or not url.hostname or "@" in url.netloc:
        raise ConfigError(
            "the workflow sends a token there: it must begin with https://",
            where="invoke.yaml: stackyard.gitlab.url",
        )
    return f"https://{url.netloc}{url.path.rstrip('/')}/{project}.git"


def _unknown_project() -> ConfigError:
    return ConfigError(
        "the workflow needs the path of the project on GitLab",
        where="invoke.yaml: stackyard.gitlab.project",
        hint="for example gitlab: {project: group/name}",
    )
