"""Count what a mirror holds: how much of what, and since when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from stackyard.catalogue.entries import Entry
from stackyard.catalogue.names import day_number
from stackyard.fetch import size_text

__all__ = ["Day", "Figures", "Share", "count_all"]

_SIZES = (10**4, 10**5, 10**6, 10**7, 10**8, 10**9)


class Share(NamedTuple):
    """So many binaries, and their bytes, have something in common."""

    label: str
    binaries: int
    size_bytes: int


class Day(NamedTuple):
    """What there was at the end of a day, of what is there now; ``day`` counts since the epoch."""

    day: int
    binaries: int
    size_bytes: int


class Figures(NamedTuple):
    """``unsized`` and ``undated`` are how many binaries have a size or date that nobody told.

    Each tuple of shares has the one of most binaries first, ``packages`` the one of most bytes, and
    ``sizes`` go from small to large.
    """

    binaries: int
    size_bytes: int
    signed: int
    unsized: int
    undated: int
    growth: tuple[Day, ...]
    sizes: tuple[Share, ...]
    packages: tuple[Share, ...]
    systems: tuple[Share, ...]
    targets: tuple[Share, ...]
    compilers: tuple[Share, ...]


def count_all(entries: Sequence[Entry]) -> Figures:
    return Figures(
        binaries=len(entries),
        size_bytes=sum(one.size_bytes or 0 for one in entries),
        signed=sum(one.signed for one in entries),
        unsized=sum(one.size_bytes is None for one in entries),
        undated=sum(one.added_s is None for one in entries),
        growth=_growth(entries),
        sizes=_sizes(entries),
        packages=_by_bytes(_shares((one.name, one) for one in entries)),
        systems=_shares((one.system, one) for one in entries),
        targets=_shares((one.target, one) for one in entries),
        compilers=_shares((one.compiler or "none", one) for one in entries),
    )


def _shares(labelled: Iterable[tuple[str, Entry]]) -> tuple[Share, ...]:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for label, entry in labelled:
        counts[label] += 1
        sizes[label] += entry.size_bytes or 0
    shares = (Share(label, counts[label], sizes[label]) for label in counts)
    return tuple(sorted(shares, key=lambda one: (-one.binaries, one.label)))


def _by_bytes(shares: Sequence[Share]) -> tuple[Share, ...]:
    return tuple(sorted(shares, key=lambda one: -one.size_bytes))


def _growth(entries: Iterable[Entry]) -> tuple[Day, ...]:
    counts: Counter[int] = Counter()
    sizes: Counter[int] = Counter()
    for one in entries:
        if one.added_s is not None:
            day = day_number(one.added_s)
            counts[day] += 1
            sizes[day] += one.size_bytes or 0
    days: list[Day] = []
    binaries = size_bytes = 0
    for day in sorted(counts):
        binaries += counts[day]
        size_bytes += sizes[day]
        days.append(Day(day, binaries, size_bytes))
    return tuple(days)


def _sizes(entries: Iterable[Entry]) -> tuple[Share, ...]:
    """Powers of ten, from the smallest to the largest that there are."""
    groups: Mapping[int, list[int]] = {number: [] for number in range(len(_SIZES) + 1)}
    for one in entries:
        if one.size_bytes is not None:
            groups[sum(one.size_bytes >= limit for limit in _SIZES)].append(one.size_bytes)
    if not any(groups.values()):
        return ()
    filled = [number for number, sizes in groups.items() if sizes]
    return tuple(
        Share(_group(number), len(groups[number]), sum(groups[number]))
        for number in range(filled[0], filled[-1] + 1)
    )


def _group(number: int) -> str:
    def text(limit: int) -> str:
        return size_text(limit).replace(".0 ", " ")

    if not number:
        return f"below {text(_SIZES[0])}"
    if number == len(_SIZES):
        return f"from {text(_SIZES[-1])}"
    # Between two powers of ten with one unit the unit is said once.
    low, unit = text(_SIZES[number - 1]).split(" ")
    high, other = text(_SIZES[number]).split(" ")
    return f"{low} to {high} {unit}" if unit == other else f"{low} {unit} to {high} {other}"
