"""Long work, as people see it: a live table on a terminal, elsewhere lines and a heartbeat."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import NamedTuple

from stackyard.edges import console
from stackyard.edges.settings import Environment

__all__ = ["Shown", "Watch"]

_DRAW_S = 0.2
#: Far below the time after which CI systems end a silent job.
_HEARTBEAT_S = 60.0


class Shown(NamedTuple):
    """What is being done, for how long, and the last that was heard of it."""

    name: str
    seconds: float
    line: str


class Watch(AbstractContextManager["Watch"]):
    """Shows what is being done; lines that stay stand above it. On stderr, as all progress."""

    def __init__(
        self,
        *,
        live: bool | None = None,
        heartbeat_s: float = _HEARTBEAT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        dumb = Environment.snapshot().get("TERM", "dumb") == "dumb"
        self.live = sys.stderr.isatty() and not dumb if live is None else live
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self._told = clock()
        self._drawn = 0.0
        self._lines = 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.wipe()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.wipe()
        console.note(text)
        self._told = self._clock()

    def show(self, doing: Sequence[Shown], head: str = "") -> None:
        """What is being done now; drawn, or told of now and then."""
        now = self._clock()
        if not self.live:
            if doing and now - self._told >= self._heartbeat_s:
                console.note("\n".join(f"  still {_text(one)}" for one in doing))
                self._told = now
            return
        if now - self._drawn < _DRAW_S:
            return
        self._drawn = now
        self.wipe()
        width = shutil.get_terminal_size().columns - 1
        lines = [head] if head else []
        lines += [f"  {_text(one)}" for one in doing]
        # A line that wraps could not be wiped.
        block = "".join(f"{console.printable(_one_line(line))[:width]}\n" for line in lines)
        sys.stderr.write(block)
        sys.stderr.flush()
        self._lines = len(lines)

    def wipe(self) -> None:
        """Take away what was drawn."""
        if self._lines:
            sys.stderr.write(f"\x1b[{self._lines}F\x1b[J")
            sys.stderr.flush()
            self._lines = 0


def _text(one: Shown) -> str:
    line = _one_line(one.line).strip()
    return f"{one.name}, {_time(one.seconds)}{': ' if line else ''}{line}"


def _one_line(text: str) -> str:
    return " ".join(text.split("\n"))


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
