"""Run programs: argument lists, never shell text."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stackyard.errors import ToolError

__all__ = ["Output", "follow", "run"]


class Output(NamedTuple):
    code: int
    stdout: bytes
    stderr: str


def run(
    argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None
) -> Output:
    """Run to the end and return what it said, whatever its exit code.

    Raises ToolError if the program is not there.
    """
    try:
        done = subprocess.run(
            list(argv), cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError as error:
        raise _absent(argv[0], error) from None
    return Output(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


def follow(argv: Sequence[str], *, cwd: str | None = None) -> int:
    """Run with this terminal for its output; returns its exit code."""
    try:
        return subprocess.run(list(argv), cwd=cwd, check=False).returncode
    except OSError as error:
        raise _absent(argv[0], error) from None


def _absent(program: str, error: OSError) -> ToolError:
    return ToolError(f"cannot run {program}: {error.strerror}", hint=f"install {program}")
