"""Many waits at once: order, errors, and how many threads are of use."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from stackyard.edges import parallel
from stackyard.edges.parallel import Crew, parallel_map, tried_map
from stackyard.errors import StoreError


def test_parallel_map_keeps_the_order_and_stops_at_an_error() -> None:
    assert parallel_map(lambda n: n * n, range(50), workers=8) == [n * n for n in range(50)]
    assert parallel_map(str, [], workers=8) == []
    seen: list[int] = []

    def fail(number: int) -> None:
        seen.append(number)
        if number == 3:
            raise StoreError("three")
        time.sleep(0.001)

    with pytest.raises(StoreError, match="three"):
        parallel_map(fail, range(1000), workers=4)
    assert len(seen) < 100


@pytest.mark.parametrize(("busy_s", "workers"), [(0.5, 1), (0.2, 8)], ids=["memory", "server"])
def test_a_disk_is_tried_by_one_thread(
    monkeypatch: pytest.MonkeyPatch, busy_s: float, workers: int
) -> None:
    """One that takes a second for as long as we work for so much of it."""
    clocks = SimpleNamespace(
        perf_counter=iter((0.0, 1.0)).__next__, thread_time=iter((0.0, busy_s)).__next__
    )
    asked: list[int] = []
    told: list[tuple[int, int]] = []

    def rest(function: Any, items: Any, *, workers: int, tick: Any) -> list[Any]:
        asked.append(workers)
        return parallel_map(function, items, workers=1, tick=tick)

    monkeypatch.setattr(parallel, "time", clocks)
    monkeypatch.setattr(parallel, "parallel_map", rest)
    found = tried_map(str, range(200), workers=8, tick=lambda *now: told.append(now))
    assert found == [str(number) for number in range(200)]
    assert told == [(number, 200) for number in range(1, 201)]
    assert asked == [workers]


@pytest.mark.parametrize("count", [0, 1, 64, 65])
def test_a_disk_with_few_files(count: int) -> None:
    assert tried_map(abs, range(-count, 0), workers=8) == list(range(count, 0, -1))


def sizes(steps: list[float], most: int) -> Iterator[int]:
    """How many threads there are after each look; a step is the time that its items took."""
    now, done = 0.0, 0
    crew = Crew(lambda: None, most, lambda: now)
    crew.grow()
    yield crew.size
    for step in steps:
        now, done = now + step, done + 2 * crew.size
        crew.look(done)
        yield crew.size
    crew.join()


@pytest.mark.parametrize(
    ("steps", "most", "expected"),
    [
        # Each waits 20 ms, however many do: twice the threads are twice as quick.
        ([0.04] * 5, 32, [4, 8, 16, 32, 32, 32]),
        ([0.04] * 5, 12, [4, 8, 12, 12, 12, 12]),
        ([0.04] * 2, 3, [3, 3, 3]),
        # A processor that is busy: twice the items take twice the time.
        ([0.01, 0.02, 0.02, 0.02], 32, [4, 8, 8, 8, 8]),
        # It helped once, and not again.
        ([0.04, 0.04, 0.08, 0.08], 32, [4, 8, 16, 16, 16]),
    ],
)
def test_threads_double_as_long_as_that_helps(
    steps: list[float], most: int, expected: list[int]
) -> None:
    assert list(sizes(steps, most)) == expected


def test_a_look_too_early_changes_nothing() -> None:
    crew = Crew(lambda: None, 32, lambda: 0.0)
    crew.grow()
    crew.look(7)
    assert crew.size == 4
    crew.look(8)
    assert crew.size == 8
