"""The workflow that builds a release's image on GitHub: what its template is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from stackyard.errors import ConfigError
from stackyard.image_names import ImageName, parse_image_name
from stackyard.settings import Settings
from stackyard.workflows import ACTIONS

__all__ = ["ImageJob", "image_secrets", "image_values"]

#: Where GitHub's own token is a login.
_GITHUB = "ghcr.io"
_DOCKER_HUB = "index.docker.io"


class ImageJob(NamedTuple):
    """One stack's image. ``user`` and ``password`` are expressions of GitHub's.

    ``registry`` is empty for Docker Hub; ``packages`` says whether it is GitHub's own.
    """

    id: str
    stack: str
    registry: str
    user: str
    password: str
    packages: bool

    @property
    def secrets(self) -> tuple[str, ...]:
        words = (word.partition(".") for word in (self.user, self.password))
        return tuple(name for kind, _, name in words if kind == "secrets")


def image_values(
    settings: Settings, repositories: Mapping[str, str], *, requirement: str
) -> dict[str, Any]:
    """The context of the template; ``repositories`` are those of the stacks' images, by stack.

    Raises ConfigError where there is none, or two stacks have the same.
    """
    if not repositories:
        raise ConfigError(
            "the workflow builds an image, and no stack has one",
            where="invoke.yaml: stackyard.github.workflows",
            hint="set image.base, and image.repository for where it goes",
        )
    owners: dict[str, str] = {}
    jobs = []
    for number, (stack, text) in enumerate(sorted(repositories.items()), 1):
        where = f"image.repository of the stack {stack}"
        if not text:
            raise ConfigError(
                "the workflow must know where the image goes",
                where=where,
                hint="for example image: {repository: ghcr.io/owner/name}",
            )
        name = parse_image_name(text, where)
        place = f"{name.domain}/{name.repository}"
        if place in owners:
            raise ConfigError(
                f"{owners[place]} and {stack} have the same, and would push over each other",
                where=where,
                hint="set image.repository in stack.yaml of one",
            )
        owners[place] = stack
        jobs.append(_job(f"image-{number}" if len(repositories) > 1 else "image", stack, name))
    return {
        "actions": ACTIONS,
        "tags": [f"{settings.release.prefix}*"],
        "runner": settings.github.runner,
        "free_disk": settings.github.free_disk,
        "requirement": requirement,
        "jobs": jobs,
        "secrets": sorted({secret for job in jobs for secret in job.secrets}),
    }


def image_secrets(repository: str) -> tuple[str, ...]:
    """Names of the secrets with which an image is pushed there."""
    return _job("", "", parse_image_name(repository, "image.repository")).secrets


def _job(identity: str, stack: str, name: ImageName) -> ImageJob:
    if name.domain == _GITHUB:
        login = "github.actor", "github.token"
    elif name.domain == _DOCKER_HUB:
        login = "secrets.DOCKERHUB_USERNAME", "secrets.DOCKERHUB_TOKEN"
    else:
        login = "secrets.REGISTRY_USERNAME", "secrets.REGISTRY_PASSWORD"
    registry = "" if name.domain == _DOCKER_HUB else name.domain
    return ImageJob(identity, stack, registry, *login, packages=name.domain == _GITHUB)
