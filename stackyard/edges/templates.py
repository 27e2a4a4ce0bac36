"""Find templates: the project's own first, then those that come with the package."""

from __future__ import annotations

from pathlib import Path

__all__ = ["load_template"]

_PACKAGE = Path(__file__).resolve().parent.parent

#: In a wheel the templates are data of the package; in a clone they stand at its top.
_SHIPPED = (_PACKAGE / "data" / "templates", _PACKAGE.parent / "templates")


def load_template(name: str, root: Path) -> str | None:
    """The text of the template ``name`` (``gitlab/child.yml.j2``), None if there is none."""
    for folder in (root / "templates", *_SHIPPED):
        path = folder / name
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return None
