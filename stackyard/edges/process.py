"""Run programs: argument lists, never shell text."""

from __future__ import annotations

import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from stackyard.errors import ToolError

__all__ = ["Output", "follow", "relay", "run"]


class Output(NamedTuple):
    code: int
    stdout: bytes
    stderr: str


def run(
    argv: Sequence[str],
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    feed: bytes = b"",
    timeout_s: float | None = None,
) -> Output:
    """Run to the end and return what it said, whatever its exit code; ``feed`` is its input.

    Raises ToolError if the program is not there, or does not end in time.
    """
    try:
        done = subprocess.run(
            list(argv),
            cwd=cwd,
            env=env,
            input=feed,
            capture_output=True,
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise ToolError(f"{argv[0]} did not end within {timeout_s:g} s") from None
    except OSError as error:
        raise _absent(argv[0], error) from None
    return Output(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


def relay(
    argv: Sequence[str],
    *,
    tell: Callable[[str], None],
    env: Mapping[str, str] | None = None,
    last: int = 20,
) -> tuple[int, Sequence[str]]:
    """Run and pass on every line while it comes; gives the exit code and the ``last`` lines.

    Raises ToolError if the program is not there.
    """
    lines: deque[str] = deque(maxlen=last)
    try:
        with subprocess.Popen(
            list(argv),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                tell(line.rstrip())
    except OSError as error:
        raise _absent(argv[0], error) from None
    return process.returncode, tuple(lines)


def follow(argv: Sequence[str], *, cwd: str | None = None) -> int:
    """Run with this terminal for its output; returns its exit code."""
    try:
        return subprocess.run(list(argv), cwd=cwd, check=False).returncode
    except OSError as error:
        raise _absent(argv[0], error) from None


def _absent(program: str, error: OSError) -> ToolError:
    return ToolError(f"cannot run {program}: {error.strerror}", hint=f"install {program}")
