"""The mirror that a user names: by URL, by folder, or by a name out of a stack."""

from __future__ import annotations

from stackyard.edges.access import Place, mirror_place
from stackyard.edges.stacks import list_stacks
from stackyard.errors import ConfigError
from stackyard.flow.steps import Project, open_project, read_stack

__all__ = ["find_project", "named_place"]


def find_project() -> Project | None:
    """The project around the current folder, or None: a mirror can be looked at from anywhere."""
    try:
        return open_project()
    except ConfigError as error:
        if "no folder stacks/" in error.message:
            return None
        raise


def named_place(project: Project | None, text: str, *, flag: str, push: bool = False) -> Place:
    """The mirror that ``--url TEXT`` or the like means; ``flag`` names the argument in errors.

    A name or URL that stands in a stack's ``mirrors:`` brings its credentials and its ``signed``.
    Raises ConfigError for an empty text, and for a push whose variables are not set.
    """
    if not text.strip():
        raise ConfigError("no mirror is named", where=flag, hint=f"add {flag} URL")
    if project is None:
        return Place("", text)
    for name in list_stacks(project.root):
        stack, _ = read_stack(project, name)
        for mirror in stack.mirrors.values():
            url = mirror.push_url if push else mirror.fetch_url
            if text == mirror.name or text.rstrip("/") == url.rstrip("/"):
                return mirror_place(mirror, project.env, stack.where, push=push)
    return Place("", text)
