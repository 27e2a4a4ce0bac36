"""Do many small waits at once, and stop at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import TypeVar

__all__ = ["Tick", "parallel_map"]

Item = TypeVar("Item")
Result = TypeVar("Result")
#: Told how many are done, and of how many.
Tick = Callable[[int, int], None]


def parallel_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    tick: Tick = lambda done, total: None,  # noqa: ARG005
) -> list[Result]:
    """The results in the order of the items, made by up to ``workers`` threads.

    ``tick`` is told in the caller's thread how many of how many are done.

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

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, count))]
    results: dict[int, Result] = {}
    try:
        for thread in threads:
            thread.start()
        for _ in range(count):
            number, result, error = done.get()
            if error is not None:
                raise error
            results[number] = result  # type: ignore[assignment]  # None only beside an error
            tick(len(results), count)
    finally:
        todo.clear()
    for thread in threads:
        thread.join()
    return [results[number] for number in range(count)]


def _told(result: Result, tick: Tick, done: int, total: int) -> Result:
    tick(done, total)
    return result
