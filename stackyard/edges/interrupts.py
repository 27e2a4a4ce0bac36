"""Ctrl-C and the like: when they end what is done, and when they wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["held", "stoppable"]

#: From a terminal, from a system that shuts down or ends a job, from a connection that is lost.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stoppable() -> Iterator[None]:
    """All of these signals raise KeyboardInterrupt inside, so that what runs is stopped in order."""

    def stop(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled(stop):
        yield


@contextmanager
def held(tell: Callable[[], None]) -> Iterator[None]:
    """They wait for the end of the block, and raise KeyboardInterrupt there.

    ``tell`` is called for each. What the block starts must be in a session of its own: a terminal
    sends Ctrl-C to all the others as well.
    """
    came = False

    def wait(_: int, __: FrameType | None) -> None:
        nonlocal came
        came = True
        tell()

    try:
        with _handled(wait):
            yield
    finally:
        if came:
            raise KeyboardInterrupt


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """With this handler, but for signals that whoever started us has us ignore (``nohup``)."""
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        before = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
