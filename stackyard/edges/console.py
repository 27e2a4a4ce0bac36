"""What people see: progress and warnings on stderr, data on stdout."""

from __future__ import annotations

import sys
import time

from stackyard.edges.settings import Environment

__all__ = ["bar", "note", "out", "printable", "warn"]

_PAUSE_S = 0.1
_drawn = 0.0


def printable(text: str) -> str:
    """The text without values of secrets, and without control codes from a lock or a mirror."""
    for secret in Environment.snapshot().secrets():
        text = text.replace(secret, "***")
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def note(text: str) -> None:
    """A line of progress."""
    print(printable(text), file=sys.stderr, flush=True)  # noqa: T201


def warn(text: str) -> None:
    """Something that is not an error and that the user should know."""
    print(f"warning: {printable(text)}", file=sys.stderr, flush=True)  # noqa: T201


def bar(label: str, done: int, total: int) -> None:
    """A live bar, on a terminal only; the last call wipes it away."""
    global _drawn  # noqa: PLW0603 - there is one terminal
    now = time.monotonic()
    if done < total and now - _drawn < _PAUSE_S:
        return
    _drawn = now
    if not sys.stderr.isatty():
        return
    width = 30
    full = width * done // total
    line = f"{label} [{'#' * full}{'.' * (width - full)}] {done}/{total}" if done < total else ""
    sys.stderr.write(f"\r\x1b[K{line}")
    sys.stderr.flush()


def out(text: str) -> None:
    """A line of data."""
    print(text, flush=True)  # noqa: T201
