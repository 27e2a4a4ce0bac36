"""Spack's version ordering, and the constraints that stand after ``@`` in a spec string.

Follows Spack 1.1 (``version/version_types.py`` and the chapter "Spec syntax" of its manual).
A version is split into numbers and words, separators do not count. Numbers stand above words, and
above all numbers stand ``develop > main > master > head > trunk > nightly > stable``. A trailing
``alpha``, ``beta`` or ``rc`` sorts before the release it leads to.

A constraint is a list of exact versions (``=1.2``), ranges and git versions. A bare ``1.2`` is the
range of everything that begins with 1.2, and the upper end of a range includes its whole family.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeAlias

from stackyard.errors import SpecError

__all__ = [
    "ANY",
    "Exact",
    "Git",
    "Range",
    "Versions",
    "parse_version",
    "parse_versions",
    "satisfies",
    "version_key",
]

#: ``(0, 0, word)`` < ``(1, number, "")`` < ``(2, rank of develop and its like, "")``
Component: TypeAlias = tuple[int, int, str]
#: The release, then ``(stage,)`` or ``(stage, number)``; compares as Spack compares versions.
Key: TypeAlias = tuple[tuple[Component, ...], tuple[int, ...]]

_ENDLESS = ("stable", "nightly", "trunk", "head", "master", "main", "develop")
_STAGES = {"alpha": 0, "beta": 1, "rc": 2, "final": 3}
_FINAL = 3
_LOWEST: Key = ((), (0,))
_HIGHEST: Key = (((2, len(_ENDLESS), ""),), (_FINAL,))

_ALLOWED = re.compile(r"[\w.-][\w.=-]*", re.ASCII)
_PARTS = re.compile(r"\d+|[A-Za-z]+", re.ASCII)
_COMMIT = re.compile(r"[0-9A-Fa-f]{40}")
_MAX_DIGITS = 1000


@dataclass(frozen=True, slots=True)
class Exact:
    """``=1.2``: this version and no other. Separators do not count: ``1.2`` equals ``1-2``."""

    key: Key
    text: str = field(compare=False)

    def __str__(self) -> str:
        return f"={self.text}"


@dataclass(frozen=True, slots=True)
class Range:
    """``lo:hi`` with the family of ``hi`` included: ``lo <= version < end``."""

    lo: Key
    end: Key
    lo_text: str = field(compare=False)
    hi_text: str = field(compare=False)

    def __str__(self) -> str:
        one = self.lo_text and _successor(self.lo) == self.end
        return self.lo_text if one else f"{self.lo_text}:{self.hi_text}"


@dataclass(frozen=True, slots=True)
class Git:
    """``git.ref``, a commit, or either with the version that it stands for: ``git.ref=1.2``."""

    ref: str
    key: Key | None
    text: str = field(compare=False)

    def __str__(self) -> str:
        return self.text


Item: TypeAlias = Exact | Range | Git


@dataclass(frozen=True, slots=True)
class Versions:
    """A constraint in canonical form: sorted, ranges that touch joined, nothing twice."""

    items: tuple[Item, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.items))

    def accepts(self, version: Exact | Git) -> bool:
        """Whether a concrete version satisfies the constraint."""
        return any(_inside(version, item) for item in self.items)

    def includes(self, other: Versions) -> bool:
        """Whether every version that satisfies ``other`` satisfies this constraint, too."""
        return all(any(_inside(one, item) for item in self.items) for one in other.items)

    def meet(self, other: Versions) -> Versions | None:
        """What satisfies both; None if no version does."""
        found = [both for a in self.items for b in other.items if (both := _common(a, b))]
        return Versions(_canonical(found)) if found else None


def version_key(text: str) -> Key:
    """Sort key of a plain version, as Spack orders them.

    Raises SpecError for characters that no version has.
    """
    text = text.strip()
    if text and not _ALLOWED.fullmatch(text):
        raise SpecError(f"{text[:80]!r} cannot be a version")
    parts: list[str] = _PARTS.findall(text)
    if any(len(part) > _MAX_DIGITS for part in parts):
        raise SpecError(f"a version with a number of more than {_MAX_DIGITS} digits")
    stage: tuple[int, ...] = (_FINAL,)
    if len(parts) > 2 and parts[-2] in _STAGES and parts[-1].isdigit():
        stage = (_STAGES[parts[-2]], int(parts[-1]))
        del parts[-2:]
    elif len(parts) > 1 and parts[-1] in _STAGES:
        stage = (_STAGES[parts.pop()],)
    return tuple(map(_component, parts)), stage


def parse_version(text: str) -> Exact | Git:
    """A concrete version, as it stands in a lock: ``1.2``, ``git.ref=1.2`` or a commit.

    Raises SpecError if it cannot be one.
    """
    if text.startswith("git.") or _COMMIT.fullmatch(text) or "=" in text[1:]:
        return _git(text)
    return Exact(version_key(text), text)


def parse_versions(text: str) -> Versions:
    """The constraint that stands after ``@``: ``1.2``, ``=1.2``, ``1:2``, ``:2,=3,git.main=4``.

    Raises SpecError for an empty range or characters that no version has.
    """
    return Versions(_canonical([_item(part) for part in text.replace(" ", "").split(",")]))


def satisfies(version: str, constraint: str | Versions) -> bool:
    """Whether a concrete version satisfies a constraint (``VersionList.satisfies`` in Spack).

    Spack looks a git ref without ``=version`` up in the package's repository. That cannot be done
    here: such a version satisfies ``:`` and a constraint that names the same ref, nothing else.
    Raises SpecError where one of the two cannot be parsed.
    """
    if isinstance(constraint, str):
        constraint = parse_versions(constraint)
    return constraint.accepts(parse_version(version))


def _component(part: str) -> Component:
    if part.isdigit():
        return 1, int(part), ""
    if part in _ENDLESS:
        return 2, _ENDLESS.index(part), ""
    return 0, 0, part


def _git(text: str) -> Git:
    ref, *version = text.removeprefix("git.").split("=")
    if len(version) > 1 or not ref:
        raise SpecError(f"{text[:80]!r} cannot be a git version")
    return Git(ref, version_key(version[0]) if version else None, text)


def _item(text: str) -> Item:
    if ":" in text:
        lo, hi, *more = text.split(":")
        if more:
            raise SpecError(f"{text[:80]!r} cannot be a range of versions")
        return _range(lo, hi)
    if text.startswith("="):
        return parse_version(text[1:])
    if isinstance(found := parse_version(text), Git):
        return found
    return _range(text, text)


def _range(lo: str, hi: str) -> Range:
    start = version_key(lo) if lo else _LOWEST
    end = _successor(version_key(hi) if hi else _HIGHEST)
    if end < start:
        raise SpecError(f"{lo}:{hi} is an empty range of versions")
    return Range(start, end, lo, hi)


def _successor(key: Key) -> Key:
    """The first key that is beyond the whole family of a version: 1.3 after 1.2."""
    release, stage = key
    if stage[0] != _FINAL:
        return release, (stage[0], stage[1] + 1 if len(stage) > 1 else 0)
    if not release:
        return ((0, 0, "A"),), stage
    kind, number, word = release[-1]
    last: Component = (0, 0, _next_word(word)) if kind == 0 else (kind, number + 1, "")
    return (*release[:-1], last), stage


def _next_word(word: str) -> str:
    """The next word in the order A-Z, a-z that is none of the endless versions."""
    while True:
        if not word or word[-1] == "z":
            word += "A"
        else:
            word = word[:-1] + ("a" if word[-1] == "Z" else chr(ord(word[-1]) + 1))
        if word not in _ENDLESS:
            return word


ANY_RANGE = _range("", "")
#: Every version: what a spec without ``@`` has.
ANY = Versions((ANY_RANGE,))


def _inside(one: Item, item: Item) -> bool:
    if item == ANY_RANGE:
        return True
    if isinstance(one, Range):
        return isinstance(item, Range) and item.lo <= one.lo and one.end <= item.end
    if isinstance(item, Range):
        return one.key is not None and item.lo <= one.key < item.end
    if isinstance(one, Git) and isinstance(item, Git):
        return one.ref == item.ref and (None in (one.key, item.key) or one.key == item.key)
    return one == item


def _common(a: Item, b: Item) -> Item | None:
    if isinstance(a, Range) and isinstance(b, Range):
        low = a if a.lo >= b.lo else b
        high = a if a.end <= b.end else b
        if low.lo >= high.end:
            return None
        return Range(low.lo, high.end, low.lo_text, high.hi_text)
    if isinstance(a, Range):
        a, b = b, a
    return a if _inside(a, b) else None


def _canonical(items: list[Item]) -> tuple[Item, ...]:
    ranges: list[Range] = []
    for new in sorted((i for i in items if isinstance(i, Range)), key=lambda i: (i.lo, i.end)):
        if ranges and new.lo <= ranges[-1].end:
            last = ranges.pop()
            high = new if new.end > last.end else last
            ranges.append(Range(last.lo, high.end, last.lo_text, high.hi_text))
        else:
            ranges.append(new)
    points = {i for i in items if not isinstance(i, Range)}
    kept = [p for p in points if not any(_inside(p, one) for one in ranges)]
    return tuple(sorted([*ranges, *kept], key=_sort_key))


def _sort_key(item: Item) -> tuple[Key, int, str]:
    if isinstance(item, Range):
        return item.lo, 2, ""
    return item.key or _LOWEST, int(isinstance(item, Git)), getattr(item, "ref", "")
