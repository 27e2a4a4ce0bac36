"""The workflows for GitHub Actions that settings ask for."""

from __future__ import annotations

from pathlib import Path

from stackyard.flow.context import own_requirement
from stackyard.flow.steps import Project, project_templates

__all__ = ["workflow_files"]


def workflow_files(project: Project) -> dict[Path, bytes]:
    """Contents of each, by its path; none where settings name none. Raises ConfigError."""
    from stackyard.settings import make_settings

    settings = make_settings(project.settings)
    if not settings.github.workflows:
        return {}
    from stackyard.render import render
    from stackyard.workflows import TEMPLATES, target, workflow_values

    requirement = settings.generate.requirement or own_requirement(project)
    values = workflow_values(settings, requirement=requirement)
    load = project_templates(project)
    return {
        project.root / target(name): render(TEMPLATES[name], load, values).encode()
        for name in dict.fromkeys(settings.github.workflows)
    }
