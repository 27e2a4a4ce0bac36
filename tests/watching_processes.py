"""See what is in the list of processes while a block runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["watched_processes"]

_PAUSE_S = 0.005


@contextmanager
def watched_processes() -> Iterator[set[bytes]]:
    """The command lines of all that ran, as anybody on the machine could read them.

    What lives for a few milliseconds may be missed: so look long enough, and see that what must be
    among them is.
    """
    seen: set[bytes] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_PAUSE_S):
            for folder in Path("/proc").iterdir():
                if folder.name.isdigit():
                    try:
                        seen.add((folder / "cmdline").read_bytes())
                    except OSError:
                        continue  # it has ended meanwhile

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
