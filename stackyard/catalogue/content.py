"""A mirror's entries put in order: by package, and linked both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from stackyard.catalogue.about import NOTHING, About
from stackyard.catalogue.entries import Entry
from stackyard.catalogue.figures import Figures, count_all
from stackyard.catalogue.names import version_order

__all__ = ["Catalogue", "Dressing", "Package"]


class Dressing(NamedTuple):
    """What a site says beside what the mirror holds.

    ``url`` is the mirror's as its users name it, ``name`` theirs for it. ``base`` is the site's own
    address with a slash at its end, or empty. ``keys`` are fingerprints. ``about`` is by package.
    """

    title: str
    url: str
    name: str
    base: str = ""
    keys: tuple[str, ...] = ()
    about: Mapping[str, About] = {}


class Package(NamedTuple):
    """All binaries of one name, the newest version first. The texts are names, in order."""

    name: str
    about: About
    entries: tuple[Entry, ...]
    versions: tuple[str, ...]
    needs: tuple[str, ...]
    needed_by: tuple[str, ...]

    @property
    def size_bytes(self) -> int | None:
        """Of all of them; None where no size is known."""
        sizes = [one.size_bytes for one in self.entries if one.size_bytes is not None]
        return sum(sizes) if sizes else None

    @property
    def added_s(self) -> int | None:
        """When the newest came, as far as that is known."""
        return max((one.added_s for one in self.entries if one.added_s is not None), default=None)


class Catalogue:
    """Everything that a site tells, by DAG hash and by name."""

    def __init__(self, entries: Mapping[str, Entry], dressing: Dressing) -> None:
        self.entries = entries
        self.dressing = dressing
        self.users: dict[str, list[str]] = {}  # hash → hashes of what depends on it directly
        grouped: dict[str, list[Entry]] = {}
        for key in sorted(entries):
            one = entries[key]
            grouped.setdefault(one.name, []).append(one)
            for edge in one.edges:
                self.users.setdefault(edge.hash, []).append(key)
        self.packages = tuple(self._package(name, grouped[name]) for name in sorted(grouped))

    def _package(self, name: str, entries: Sequence[Entry]) -> Package:
        versions = tuple(version_order(one.version for one in entries))
        rank = {version: number for number, version in enumerate(versions)}
        ordered = sorted(entries, key=lambda one: (rank[one.version], *_place(one), one.hash))
        users = (key for one in entries for key in self.users.get(one.hash, ()))
        return Package(
            name=name,
            about=self.dressing.about.get(name, NOTHING),
            entries=tuple(ordered),
            versions=versions,
            needs=tuple(sorted({edge.name for one in entries for edge in one.edges})),
            needed_by=tuple(sorted({self.entries[key].name for key in users})),
        )

    @cached_property
    def names(self) -> frozenset[str]:
        """Packages that have a page."""
        return frozenset(package.name for package in self.packages)

    @cached_property
    def figures(self) -> Figures:
        return count_all(list(self.entries.values()))

    @cached_property
    def newest(self) -> tuple[Entry, ...]:
        """All with a date, the newest first."""
        dated = [one for one in self.entries.values() if one.added_s is not None]
        return tuple(sorted(dated, key=lambda one: (-(one.added_s or 0), one.name, one.hash)))

    @cached_property
    def layouts(self) -> tuple[str, ...]:
        return tuple(sorted({one.layout for one in self.entries.values()}, reverse=True))


def _place(one: Entry) -> tuple[str, str, str]:
    return one.system, one.target, one.compiler
