"""Plots as SVG that stands in a page: its style sheet colours them, for light and dark.

A plot is about as wide as a phone, so that its text is readable there, and grows with its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, log10
from typing import NamedTuple

from stackyard.catalogue.names import day_text
from stackyard.graph.draw import text

__all__ = ["Bar", "Point", "bars", "curve"]

WIDTH = 340.0
HEIGHT = 210.0
LEFT = 56.0  # room for the numbers of the vertical axis
RIGHT = 12.0
TOP = 12.0
BOTTOM = 28.0
ROW = 27.0
LABEL_PX = 7.0  # a character of 12.5 px, in the mean
LONGEST = 22


class Point(NamedTuple):
    day: int
    value: int


class Bar(NamedTuple):
    """``shown`` is what stands beside the bar."""

    label: str
    value: int
    shown: str


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _steps(most: float) -> list[float]:
    """Round numbers from 0 on; the last one is at least ``most``."""
    rough = max(most, 1) / 4
    power = 10 ** int(log10(rough)) if rough >= 1 else 1
    step = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= rough)
    step = max(step, 1)
    return [number * step for number in range(ceil(most / step) + 1 or 2)]


def curve(points: Sequence[Point], title: str, show: Callable[[float], str]) -> str:
    """What there was by which day, as a line of steps: it holds until the next day with news."""
    steps = _steps(points[-1].value)
    first, last = points[0].day, max(points[-1].day, points[0].day + 1)

    def x(day: float) -> float:
        return LEFT + (day - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / (steps[-1] or 1) * (HEIGHT - TOP - BOTTOM)

    line = f"M{_n(x(first))} {_n(y(points[0].value))}"
    line += "".join(f"H{_n(x(one.day))}V{_n(y(one.value))}" for one in points[1:])
    line += f"H{_n(x(last))}"
    parts = [
        _open(title, HEIGHT),
        *(
            f'<path class="grid" d="M{_n(LEFT)} {_n(y(step))}H{_n(WIDTH - RIGHT)}"/>'
            f'<text class="tick" x="{_n(LEFT - 8)}" y="{_n(y(step) + 4)}" text-anchor="end">'
            f"{text(show(step))}</text>"
            for step in steps
        ),
        f'<path class="area" d="{line}V{_n(y(0))}H{_n(x(first))}Z"/>',
        f'<path class="line" d="{line}"/>',
        *_days(first, last, x),
        "</svg>",
    ]
    return "".join(parts)


def _days(first: int, last: int, x: Callable[[float], float]) -> Sequence[str]:
    """The first and the last day, and one between them if they are not next to each other."""
    middle = (first + last) // 2
    marks = [(first, "start"), (last, "end")]
    if last - first > 3:
        marks.insert(1, (middle, "middle"))
    return [
        f'<text class="tick" x="{_n(x(day))}" y="{_n(HEIGHT - 8)}" text-anchor="{anchor}">'
        f"{day_text(day)}</text>"
        for day, anchor in marks
    ]


def bars(rows: Sequence[Bar], title: str) -> str:
    """Bars from the left, one below the other, with label and value above each line."""
    most = max((row.value for row in rows), default=0) or 1
    height = ROW * len(rows) + 4
    shown = max((len(row.shown) for row in rows), default=0) * LABEL_PX + 8
    longest = max((len(_short(row.label)) for row in rows), default=0)
    left = min(longest * LABEL_PX + 10, 150.0)
    room = WIDTH - left - shown
    parts = [_open(title, height)]
    for number, row in enumerate(rows):
        top = number * ROW + 4
        length = max(room * row.value / most, 1.5 if row.value else 0)
        label = (
            f'<text class="label" x="{_n(left - 8)}" y="{_n(top + 15)}" text-anchor="end">'
            f"{text(_short(row.label))}</text>"
        )
        parts.append(
            f"<g><title>{text(row.label)}: {text(row.shown)}</title>{label}"
            f'<rect class="bar" x="{_n(left)}" y="{_n(top)}" width="{_n(length)}" height="20" '
            f'rx="3"/><text class="value" x="{_n(left + length + 6)}" y="{_n(top + 15)}">'
            f"{text(row.shown)}</text></g>"
        )
    return "".join((*parts, "</svg>"))


def _open(title: str, height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" role="img" '
        f'aria-label="{text(title)}" viewBox="0 0 {_n(WIDTH)} {_n(height)}">'
    )


def _short(label: str) -> str:
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
