"""Find templates and what images are made with: the project's own first, then the package's."""

from __future__ import annotations

from pathlib import Path

__all__ = ["docker_file", "docker_folder", "ignore_file", "load_template"]

_PACKAGE = Path(__file__).resolve().parent.parent

#: In a wheel the templates are data of the package; in a clone they stand at its top.
_SHIPPED = (_PACKAGE / "data" / "templates", _PACKAGE.parent / "templates")
_DOCKER = (_PACKAGE / "data" / "docker", _PACKAGE.parent / "docker")
_IGNORE = (_PACKAGE / "data" / "dockerignore", _PACKAGE.parent / ".dockerignore")


def load_template(name: str, root: Path) -> str | None:
    """The text of the template ``name`` (``gitlab/child.yml.j2``), None if there is none."""
    for folder in (root / "templates", *_SHIPPED):
        path = folder / name
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return None


def docker_folder(name: str, root: Path) -> Path | None:
    """The folder ``docker/NAME`` of the project, else the one that we bring; None without both."""
    for folder in (root / "docker", *_DOCKER):
        if (folder / name).is_dir():
            return folder / name
    return None


def docker_file(name: str, root: Path) -> Path:
    """The file ``docker/NAME`` of the project, else ours."""
    places = [folder / name for folder in (root / "docker", *_DOCKER)]
    return next((path for path in places if path.is_file()), places[-1])


def ignore_file(root: Path) -> Path:
    """The project's ``.dockerignore``, else ours."""
    places = (root / ".dockerignore", *_IGNORE)
    return next((path for path in places if path.is_file()), places[-1])
