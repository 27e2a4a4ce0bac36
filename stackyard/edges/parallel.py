"""Do many small waits at once, and stop at once."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue
from typing import TypeVar

__all__ = ["Crew", "Tick", "parallel_map", "tried_map"]

Item = TypeVar("Item")
Result = TypeVar("Result")
#: Told how many are done, and of how many.
Tick = Callable[[int, int], None]
_FIRST = 4
#: Twice the threads are worth their cost if they get so much more done in the same time.
_GAIN = 1.3
#: So many small files tell how fast a disk is.
_TRIAL = 64


def parallel_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    tick: Tick = lambda done, total: None,  # noqa: ARG005
) -> list[Result]:
    """The results in the order of the items, made by up to ``workers`` threads.

    Four threads begin, and their number doubles as long as that makes it quicker: where a server
    is far away many wait at once, and where this machine is the limit they would only push each
    other aside. ``tick`` is told in the caller's thread how many of how many are done.

    The first error ends the work and is raised. After an error, or Ctrl-C, nobody waits for what
    is under way: the threads are daemons, where those of ``concurrent.futures`` would hold up the
    end of the process for as long as a silent server lets its time-out run.
    """
    todo = deque(enumerate(items))
    count = len(todo)
    if min(workers, count) <= 1:
        return [_told(function(item), tick, number + 1, count) for number, item in todo]
    done: SimpleQueue[tuple[int, Result | None, BaseException | None]] = SimpleQueue()

    def work() -> None:
        while todo:
            try:
                number, item = todo.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                done.put((number, function(item), None))
            except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
                done.put((number, None, error))

    crew = Crew(work, min(workers, count))
    results: dict[int, Result] = {}
    try:
        crew.grow()
        for _ in range(count):
            number, result, error = done.get()
            if error is not None:
                raise error
            results[number] = result  # type: ignore[assignment]  # None only beside an error
            tick(len(results), count)
            crew.look(len(results))
    finally:
        todo.clear()
    crew.join()
    return [results[number] for number in range(count)]


def tried_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    tick: Tick = lambda done, total: None,  # noqa: ARG005
) -> list[Result]:
    """The same for small files on a disk: one thread tries the first of them.

    A disk that answers from memory is read fastest by one thread, as many would only wait for each
    other. A file server is waited for, and many threads wait at once.
    """
    wall, busy = time.perf_counter(), time.thread_time()
    total = len(items)
    first = [_told(function(item), tick, i, total) for i, item in enumerate(items[:_TRIAL], 1)]
    waits = time.perf_counter() - wall > 3 * (time.thread_time() - busy)
    rest = parallel_map(
        function,
        items[_TRIAL:],
        workers=workers if waits else 1,
        tick=lambda done, _: tick(len(first) + done, total),
    )
    return first + rest


def _told(result: Result, tick: Tick, done: int, total: int) -> Result:
    tick(done, total)
    return result


class Crew:
    """Threads that all do ``work``; ``most`` of them, if so many are of use."""

    def __init__(
        self,
        work: Callable[[], None],
        most: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._work = work
        self._most = most
        self._threads: list[threading.Thread] = []
        self._rate = 0.0
        self._clock = clock
        self._since = (0, clock())

    @property
    def size(self) -> int:
        return len(self._threads)

    def grow(self) -> None:
        """Start the first threads, or as many as there are already."""
        there = self.size
        for _ in range(min(max(_FIRST, there), self._most - there)):
            thread = threading.Thread(target=self._work, daemon=True)
            thread.start()
            self._threads.append(thread)

    def look(self, done: int) -> None:
        """Grow, if that helped the last time; looks when each thread did two items or so."""
        begun, when = self._since
        if self.size == self._most or done - begun < 2 * self.size:
            return
        now = self._clock()
        rate = (done - begun) / max(now - when, 1e-9)
        self._since = done, now
        if rate < _GAIN * self._rate:
            self._most = self.size
        self._rate = rate
        self.grow()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()
