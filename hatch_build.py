"""Compile the sources when a clone is installed in place (``pip install -e``).

Python would do it at the first run, but not where PYTHONDONTWRITEBYTECODE is set, as in many
containers; there each run of a task would compile for longer than it works.
"""

import compileall
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileSources(BuildHookInterface):  # type: ignore[misc]
    """Does nothing to a wheel that is not editable: pip compiles what it installs."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile in place for editable installs."""
        if version == "editable":
            compileall.compile_dir(f"{self.root}/stackyard", quiet=2)
