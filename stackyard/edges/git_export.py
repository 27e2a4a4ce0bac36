"""The files of a commit, laid out in another folder; the repository itself stays as it is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from stackyard.edges.process import run
from stackyard.errors import ToolError

__all__ = ["export_commit", "has_commit"]

#: Git sets these for its hooks.
_NEVER = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"})


def has_commit(repository: Path, commit: str) -> bool:
    """Whether the commit with all its files is here."""
    argv = ["git", "-C", str(repository), "cat-file", "-e", f"{commit}^{{tree}}"]
    return run(argv).code == 0


def export_commit(repository: Path, commit: str, to: Path, env: Mapping[str, str]) -> None:
    """Write the commit's files below ``to``. What is there already stays. Raises ToolError."""
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: value for name, value in env.items() if name not in _NEVER}
        own = {**kept, "GIT_INDEX_FILE": f"{folder}/index", "LC_ALL": "C"}
        for argv in (
            ["read-tree", commit],
            ["checkout-index", "--all", "--quiet", f"--prefix={os.path.realpath(to)}/"],
        ):
            output = run(["git", "-C", str(repository), *argv], env=own)
            # Of files that are there already git says nothing, and ends with 1 or not.
            if output.code and output.stderr.strip():
                raise ToolError(f"git {argv[0]} failed: {output.stderr.strip()[:500]}")
