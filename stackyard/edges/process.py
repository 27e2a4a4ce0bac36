"""Run programs: argument lists, never shell text."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import IO, NamedTuple

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


def relay(  # noqa: PLR0913
    argv: Sequence[str],
    *,
    tell: Callable[[str], None],
    env: Mapping[str, str] | None = None,
    cwd: str | PathLike[str] | None = None,
    last: int = 20,
    beat: Callable[[float], None] | None = None,
    beat_s: float = 60,
    feed: IO[bytes] | None = None,
) -> tuple[int, Sequence[str]]:
    """Run and pass on every line while it comes; gives the exit code and the ``last`` lines.

    ``beat`` is told, by another thread, how many seconds it has been running, whenever no line
    came for ``beat_s``. ``feed`` is a file for its input. Raises ToolError if the program is not
    there.
    """
    lines: deque[str] = deque(maxlen=last)
    try:
        with (
            subprocess.Popen(
                list(argv),
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL if feed is None else feed,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as process,
            _beating(beat, beat_s) as heard,
        ):
            for line in process.stdout or ():
                heard()
                lines.append(line.rstrip())
                tell(line.rstrip())
    except OSError as error:
        raise _absent(argv[0], error) from None
    return process.returncode, tuple(lines)


@contextmanager
def _beating(beat: Callable[[float], None] | None, beat_s: float) -> Iterator[Callable[[], None]]:
    """Call ``beat`` in each silence; the function that the block gets ends one."""
    start = last = time.monotonic()
    ended = threading.Event()

    def heard() -> None:
        nonlocal last
        last = time.monotonic()

    def watch(tell: Callable[[float], None]) -> None:
        while not ended.wait(max(last + beat_s - time.monotonic(), 0.01)):
            now = time.monotonic()
            if now >= last + beat_s:
                heard()
                tell(now - start)

    if beat:
        threading.Thread(target=watch, args=(beat,), daemon=True).start()
    try:
        yield heard
    finally:
        ended.set()


def follow(argv: Sequence[str], *, cwd: str | None = None) -> int:
    """Run with this terminal for its output; returns its exit code."""
    try:
        return subprocess.run(list(argv), cwd=cwd, check=False).returncode
    except OSError as error:
        raise _absent(argv[0], error) from None


def _absent(program: str, error: OSError) -> ToolError:
    return ToolError(f"cannot run {program}: {error.strerror}", hint=f"install {program}")
