"""Texts of a catalogue: file names that are legal everywhere, days, numbers.

Days are counted in UTC, so that a site is the same wherever it is made.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache

from stackyard.errors import SpecError
from stackyard.version import version_key

__all__ = [
    "SPEC_HASH",
    "crumb",
    "day_number",
    "day_text",
    "plural",
    "shard_of",
    "slug",
    "time_text",
    "version_order",
]

SPEC_HASH = re.compile(r"[a-z2-7]{32}")

_PLAIN = re.compile(r"[a-z0-9_][a-z0-9_-]{0,99}")
#: Windows has no files of these names, whatever their ending; ``index`` is what a folder shows.
_TAKEN = frozenset(
    {"aux", "con", "index", "nul", "prn"}
    | {f"{port}{number}" for port in ("com", "lpt") for number in range(10)}
)
_DAY_S = 86_400


@lru_cache(maxsize=65536)
def slug(name: str) -> str:
    """The file name of a package, without its ending.

    Its own name, where no file system could take that for another one or for something else; else
    with a checksum behind a point, which no plain name has.
    """
    if _PLAIN.fullmatch(name) and name not in _TAKEN:
        return name
    kept = re.sub(r"[^a-z0-9_-]", "_", name.lower())[:60]
    return f"{kept}.{_sum(name)[:12]}"


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def shard_of(name: str, shards: int) -> str:
    """Which of some files, at most 16, tells of a package: always the same one."""
    return f"{int(_sum(name)[:8], 16) % shards:x}"


def day_number(seconds: float) -> int:
    """Days since the epoch."""
    return int(seconds // _DAY_S)


@lru_cache(maxsize=4096)
def day_text(day: int) -> str:
    """``2025-11-03``. The calendar's arithmetic, with years that begin in March."""
    era, of_era = divmod(day + 719_468, 146_097)
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    number = of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    return f"{year + era * 400 + (month <= 2):04d}-{month:02d}-{number:02d}"


def time_text(seconds: int) -> str:
    """``2025-11-03T14:05:09Z``."""
    day, rest = divmod(seconds, _DAY_S)
    return f"{day_text(day)}T{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}Z"


def crumb(seconds: int | None) -> str:
    """The old catalogues' folder of a date: ``25.11``; ``undated`` where nobody knows it."""
    return "undated" if seconds is None else day_text(day_number(seconds))[2:7].replace("-", ".")


def plural(count: int, one: str, many: str = "") -> str:
    """``1 binary``, ``20,000 binaries``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


@lru_cache(maxsize=65536)
def _order(version: str) -> tuple[bool, object]:
    try:
        return True, version_key(version)
    except SpecError:  # a version of git, or none at all
        return False, ()


def version_order(versions: Iterable[str]) -> list[str]:
    """The newest first, each once; those that cannot be compared last, by name."""
    distinct = sorted(set(versions))
    known = [version for version in distinct if _order(version)[0]]
    known.sort(key=lambda version: _order(version)[1], reverse=True)  # type: ignore[arg-type, return-value]
    return known + [version for version in distinct if not _order(version)[0]]
