"""Tasks for those who work on Stackyard itself: its tests, linters and benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from stackyard.errors import ConfigError
from stackyard.flow.steps import open_project

__all__ = ["bench", "format_code", "lint", "test"]


def test(*, long: bool = False, only: str = "") -> None:
    """Run the test suite of the clone."""
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "--numprocesses=auto",
        *(["--long"] if long else []),
        *(["-k", only] if only else []),
    ]
    _must_follow(argv)


def lint() -> None:
    """Run the linters over the clone."""
    for argv in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        _must_follow([sys.executable, "-m", *argv])


def format_code() -> None:
    """Format the clone."""
    for argv in (["ruff", "check", "--fix", "--quiet", "."], ["ruff", "format", "."]):
        _must_follow([sys.executable, "-m", *argv])


def bench(*, spack: str = "", repository: str = "", as_json: bool = False, only: str = "") -> None:
    """Run the benchmarks of the clone."""
    argv = [
        sys.executable,
        "-m",
        "benchmarks",
        *(["--spack", spack] if spack else []),
        *(["--repository", repository] if repository else []),
        *(["--json"] if as_json else []),
        *(["--only", only] if only else []),
    ]
    _must_follow(argv)


def _must_follow(argv: Sequence[str]) -> None:
    from stackyard.edges.process import follow
    from stackyard.errors import ToolError

    root = open_project().root
    if not (root / "stackyard" / "flow" / "__init__.py").is_file():
        raise ConfigError(
            "this task works on Stackyard's own code, in a clone of it", where=str(root)
        )
    if code := follow(argv, cwd=str(root)):
        raise ToolError(f"{' '.join(argv[2:])} ended with {code}")
