"""The workflows for GitHub Actions that settings ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stackyard.edges.files import read_bytes
from stackyard.flow.context import own_requirement
from stackyard.flow.steps import Project, project_templates

__all__ = ["is_ours", "leftover_workflows", "workflow_files"]


def workflow_files(project: Project) -> dict[Path, bytes]:
    """Contents of each, by its path; none where settings name none. Raises ConfigError."""
    from stackyard.settings import make_settings

    settings = make_settings(project.settings)
    if not settings.github.workflows:
        return {}
    from stackyard.render import render
    from stackyard.workflows import CACHE, TEMPLATES, target, workflow_values

    requirement = settings.generate.requirement or own_requirement(project)
    load = project_templates(project)

    def values(name: str) -> dict[str, Any]:
        if name in CACHE:
            from stackyard.flow.cache_workflows import cache_workflow_values

            return cache_workflow_values(project, settings, name, requirement)
        if name == "image":
            from stackyard.flow.image_stacks import image_workflow_values

            return image_workflow_values(project, settings, requirement)
        return workflow_values(settings, requirement=requirement)

    return {
        project.root / target(name): render(TEMPLATES[name], load, values(name)).encode()
        for name in dict.fromkeys(settings.github.workflows)
    }


def leftover_workflows(project: Project) -> tuple[Path, ...]:
    """Files that were rendered once and are no longer asked for: GitHub would go on running them.

    Raises ConfigError for settings that cannot be read.
    """
    from stackyard.settings import make_settings
    from stackyard.workflows import TEMPLATES, target

    asked = make_settings(project.settings).github.workflows
    places = (project.root / target(name) for name in TEMPLATES if name not in asked)
    return tuple(path for path in places if is_ours(path))


def is_ours(path: Path) -> bool:
    """Whether the file is there and ``generate`` rendered it, as its first lines say."""
    return path.is_file() and b"stackyard" in read_bytes(path)
