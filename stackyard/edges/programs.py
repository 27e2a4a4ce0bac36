"""Run programs side by side, each with a log of its own, and stop all of them for sure.

Each is the head of a session of its own: a Ctrl-C in the terminal reaches only us, and whatever a
program has started ends with it.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from stackyard.edges.interrupts import held
from stackyard.errors import StackyardError, ToolError

__all__ = ["Beat", "Ended", "Program", "Running", "Started", "masking", "run_side_by_side"]

_BEAT_S = 0.2
_LAST = 200  # lines that are kept of each program
_PIECE_BYTES = 2**16
#: A line longer than this is none: a bar that is drawn over and over.
_LINE_BYTES = 2**16
#: How to ask a program to end, and how long each takes to be heard.
_ASKING = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


class Program(NamedTuple):
    """What to run: ``key`` names it in all events, ``log`` gets what it says on both outputs."""

    key: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str]


class Started(NamedTuple):
    key: str


class Ended(NamedTuple):
    """``code`` is negative if a signal ended it; ``lines`` are the last ones that it said."""

    key: str
    code: int
    seconds: float
    lines: Sequence[str]


class Running(NamedTuple):
    key: str
    seconds: float
    line: str


class Beat(NamedTuple):
    """Some time has passed."""

    running: Sequence[Running]


def run_side_by_side(  # noqa: PLR0913 - most have defaults, and are passed by name
    programs: Iterable[Program],
    *,
    at_once: int,
    mask: Callable[[bytes], bytes],
    beat_s: float = _BEAT_S,
    asking: Sequence[tuple[signal.Signals, float]] = _ASKING,
    stopping: Callable[[], None] = lambda: None,
) -> Generator[Started | Ended | Beat, None, None]:
    """Tell what happens while the programs run, up to ``at_once`` of them at a time.

    ``mask`` gets each line, and gives what may be shown of it. Who closes the iterator stops all
    programs that run; ``stopping`` is told then, if there are any. Raises ToolError for a program that is not there, StackyardError for a log
    that cannot be written.
    """
    waiting = deque(programs)
    running: list[_Child] = []
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    with held(lambda: None):  # not between its start and our knowing of it
                        running.append(_Child(waiting.popleft(), mask))
                    child = running[-1]
                    selector.register(child.pipe, selectors.EVENT_READ, child)
                    yield Started(child.key)
                _pump(selector, beat_s)
                for child in [one for one in running if one.has_ended]:
                    running.remove(child)
                    yield child.close(selector)
                yield Beat([child.state for child in running])
        finally:
            _stop(running, asking, beat_s, stopping)


def masking(secrets: Sequence[str]) -> Callable[[bytes], bytes]:
    """Hides these values in a line; of those with several lines, each line that could be guessed by."""
    parts = {part for secret in secrets for part in (secret, *secret.split("\n")) if len(part) >= 6}
    hidden = sorted((part.encode() for part in parts), key=len, reverse=True)

    def mask(line: bytes) -> bytes:
        for secret in hidden:
            line = line.replace(secret, b"***")
        return line

    return mask


def _pump(selector: selectors.BaseSelector, beat_s: float) -> None:
    """Take what the programs said, after at most one beat."""
    if not selector.get_map():
        time.sleep(beat_s)  # all have closed their outputs, and not ended
        return
    for key, _ in selector.select(beat_s):
        child: _Child = key.data
        if not child.pump():
            selector.unregister(child.pipe)


class _Child:
    """A program that runs."""

    def __init__(self, program: Program, mask: Callable[[bytes], bytes]) -> None:
        self.key = program.key
        self._mask = mask
        self._rest = b""
        self._lines: deque[str] = deque(maxlen=_LAST)
        self._begun = time.monotonic()
        try:
            program.log.parent.mkdir(parents=True, exist_ok=True)
            self._log = program.log.open("wb")
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StackyardError(f"cannot write it: {reason}", where=str(program.log)) from None
        try:
            self._process = subprocess.Popen(
                list(program.argv),
                env=program.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            self._log.close()
            raise ToolError(f"cannot run {program.argv[0]}: {error.strerror}") from None
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        self.pipe = self._process.stdout
        os.set_blocking(self.pipe.fileno(), False)

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def state(self) -> Running:
        line = self._lines[-1] if self._lines else ""
        return Running(self.key, time.monotonic() - self._begun, line)

    def pump(self) -> bool:
        """Take what is there, without waiting; False at the end of it."""
        while True:
            try:
                piece = self.pipe.read(_PIECE_BYTES)
            except ValueError:  # it is closed
                return False
            if not piece:
                return piece is None
            *lines, self._rest = (self._rest + piece).split(b"\n")
            for line in lines:
                self._write(line + b"\n")
            if len(self._rest) > _LINE_BYTES:
                self._write(self._rest)
                self._rest = b""

    def _write(self, line: bytes) -> None:
        line = self._mask(line)
        self._log.write(line)
        self._log.flush()  # somebody may be reading along
        # What was drawn over with carriage returns is its last state.
        text = line.decode(errors="replace").rstrip().rpartition("\r")[2]
        if text.strip():
            self._lines.append(text)

    def close(self, selector: selectors.BaseSelector | None = None) -> Ended:
        """Take the rest of what it said. It has ended; what it left behind may still have the pipe."""
        self.pump()
        if self._rest:
            self._write(self._rest)
            self._rest = b""
        if selector is not None:
            with suppress(KeyError):
                selector.unregister(self.pipe)
        self.pipe.close()
        self._log.close()
        seconds = time.monotonic() - self._begun
        return Ended(self.key, self._process.returncode, seconds, tuple(self._lines))

    def signal(self, number: signal.Signals) -> None:
        """To it, and to all that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _stop(
    children: Sequence[_Child],
    asking: Sequence[tuple[signal.Signals, float]],
    beat_s: float,
    tell: Callable[[], None],
) -> None:
    """End them, politely first; whoever stops us once more has waited long enough for that."""
    if not children:
        return
    hurry = threading.Event()
    with held(hurry.set):
        tell()
        for number, patience_s in asking:
            rest = [child for child in children if not child.has_ended]
            for child in rest:
                child.signal(number)
            deadline = time.monotonic() + patience_s
            while any(not child.has_ended for child in rest) and time.monotonic() < deadline:
                if hurry.is_set() and number is not signal.SIGKILL:
                    break
                for child in rest:
                    child.pump()  # else it might wait for us to take what it says
                time.sleep(min(beat_s, 0.02))
        for child in children:
            child.signal(signal.SIGKILL)  # those of its session that did not hear
            child.close()
