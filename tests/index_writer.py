"""A process that writes to a mirror's index: ``index_writer.py URL WORK NUMBER``.

``add`` pushes binaries and tells the index of them, ``tell`` only tells, ``update`` lists. It says ``ready``, waits for a line on its standard input, and then works as fast as it can.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import mirrors

EACH = 100
_BATCHES = {"add": 20, "tell": 50}


def graph(writers: Iterable[int]) -> mirrors.Nodes:
    """Specs of some writers: each needs others of its own, and all the same external."""
    needs: dict[str, tuple[str, ...]] = {"glibc": ()}
    for writer in writers:
        for number in range(EACH):
            own = {f"w{writer}x{other}" for other in (number // 2, number - 1) if other < number}
            needs[f"w{writer}x{number}"] = ("glibc", *sorted(own & needs.keys()))
    return mirrors.specs(needs, external=("glibc",))


def names(writer: int) -> list[str]:
    return [f"w{writer}x{number}" for number in range(EACH)]


def start(url: str, *work: str) -> subprocess.Popen[bytes]:
    """Such a process, ready to work."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", __file__, url, *work],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout
    line = process.stdout.readline()
    assert line == b"ready\n", "the writer did not start"
    return process


def go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    process.stdin.write(b"\n")
    process.stdin.flush()


def run(folder: Path, *work: str) -> int:
    """A whole run; gives its exit code."""
    process = start(str(folder), *work)
    go(process)
    return finish(process)


def finish(process: subprocess.Popen[bytes], *, kill: bool = False) -> int:
    if kill:
        process.kill()
    with process:
        process.communicate()
    return process.returncode


def main(url: str, work: str, number: str = "") -> None:
    from stackyard.edges.mirrors.indexing import add_to_index, update_index
    from stackyard.edges.stores.store import open_store, writable

    store = writable(open_store(url))
    writer = int(number or 0)
    nodes = graph([writer])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    if work == "update":
        update_index(store)
    else:
        mine = names(writer)
        for first in range(0, len(mine), _BATCHES[work]):
            some = mine[first : first + _BATCHES[work]]
            if work == "add":
                for key, data in mirrors.files(nodes, *some).items():
                    store.write(key, data)
            add_to_index(store, mirrors.metadata(nodes, some))
    store.close()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main(*sys.argv[1:])
