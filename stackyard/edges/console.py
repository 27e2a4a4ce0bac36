"""What people see: progress and warnings on stderr, data on stdout."""

from __future__ import annotations

import sys

__all__ = ["note", "out", "warn"]


def note(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def warn(text: str) -> None:
    """Something that is not an error and that the user should know."""
    print(f"warning: {text}", file=sys.stderr, flush=True)  # noqa: T201


def out(text: str) -> None:
    """A line of data."""
    print(text, flush=True)  # noqa: T201
