"""Which stacks have an image, and what hooks and the workflow ``image`` are told about them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stackyard.defects import FIXES
from stackyard.edges import console
from stackyard.edges.host import host_facts
from stackyard.edges.stacks import load_overrides
from stackyard.errors import ConfigError
from stackyard.flow.context import own_requirement
from stackyard.flow.steps import Project
from stackyard.settings import Settings, make_settings

__all__ = [
    "DOCKERFILE",
    "argument_files",
    "choose_image_stack",
    "copying_hint",
    "image_stacks",
    "image_workflow_values",
]

#: From the project's root.
DOCKERFILE = "docker/Dockerfile"


def image_stacks(project: Project) -> Mapping[str, Settings]:
    """Settings of the stacks for which ``image.base`` is set, by name."""
    found = load_overrides(project.root, project.env, host_facts(), known_fixes=FIXES)
    settings = {name: make_settings(project.settings, own) for name, own in found.items()}
    return {name: one for name, one in settings.items() if one.image.base}


def choose_image_stack(stacks: Mapping[str, Settings], name: str = "") -> str:
    """The name, or that of the only stack with an image. Raises ConfigError."""
    if name and name not in stacks:
        raise ConfigError(
            f"the stack {name!r} has no image",
            where="--stack",
            hint="set image.base in its stack.yaml, or in invoke.yaml",
        )
    if name or len(stacks) == 1:
        return name or next(iter(stacks))
    raise ConfigError(
        f"which stack? these have an image: {', '.join(stacks)}"
        if stacks
        else "no stack has an image",
        where="--stack",
        hint="name one" if stacks else "set image.base in invoke.yaml, or in stack.yaml of one",
    )


def argument_files(project: Project) -> dict[Path, bytes]:
    """The file of build arguments, by its path; none where nobody needs one. Raises ConfigError."""
    from stackyard.autobuild import ARGUMENTS, arguments_text

    stacks = image_stacks(project)
    path = project.root / ARGUMENTS
    if not stacks and not path.exists():  # one that is left over says nothing from now on
        return {}
    prefix = make_settings(project.settings).release.prefix
    arguments = {name: _arguments(project, name, one) for name, one in stacks.items()}
    return {path: arguments_text(prefix, arguments).encode()}


def _arguments(project: Project, name: str, settings: Settings) -> Mapping[str, str]:
    """Build arguments of docker/Dockerfile, as far as settings decide them."""
    from stackyard.image_names import parse_image_name

    image = settings.image
    base = parse_image_name(image.base, f"image.base of the stack {name}")
    requirement = settings.generate.requirement or own_requirement(project)
    return {
        "BASE": image.base,
        "BASE_NAME": f"{base.written}{f':{base.tag}' if base.tag else ''}",
        "BASE_DIGEST": base.digest,
        "TOOLS": " ".join(image.tools),
        "LICENSES": image.licenses,
        "FETCH_BASE": image.fetch_base,
        # Without it the Dockerfile installs the clone.
        "STACKYARD": "" if requirement == "." else requirement,
    }


def image_workflow_values(project: Project, settings: Settings, requirement: str) -> dict[str, Any]:
    """What the template of the workflow is told. Raises ConfigError."""
    from stackyard.image_workflow import image_values

    repositories = {name: one.image.repository for name, one in image_stacks(project).items()}
    values = image_values(settings, repositories, requirement=requirement)
    if not (project.root / DOCKERFILE).is_file():
        console.warn(
            f"the workflow image builds {DOCKERFILE}, which is not there: {copying_hint(project)}"
        )
    return values


def copying_hint(project: Project) -> str:
    """How a project gets the files from which others than ``image.build`` build its image."""
    from stackyard.edges.templates import docker_file, ignore_file

    ours, own = docker_file("Dockerfile", project.root).parent, project.root / "docker"
    names = [name for name in ("Dockerfile", "hooks", "test") if not (own / name).exists()]
    copies = [shlex.join(["cp", "-r", *(str(ours / name) for name in names), "docker/"])]
    if not own.exists():
        copies.insert(0, "mkdir docker")
    if not (project.root / ".dockerignore").is_file():
        copies.append(shlex.join(["cp", str(ignore_file(project.root)), ".dockerignore"]))
    return f"take ours, and commit it: {'; '.join(copies)}"
