"""Which jobs a matrix of GitHub has: whole stacks, or single packages, perhaps drawn at random.

A draw is repeated by its seed alone. It orders all that could be drawn by the SHA-256 of seed and
name, and takes the first ones: that is the same with every Python, and a package that comes or goes
changes nothing for the others.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from stackyard.errors import ConfigError, LimitError
from stackyard.pins import Pin, public_repo
from stackyard.settings import System

__all__ = ["MOST_JOBS", "Lot", "check_limit", "draw", "github_name", "matrix_json"]

#: GitHub makes no more jobs of one matrix.
MOST_JOBS = 256

_GITHUB = re.compile(r"(?:https://|ssh://git@|git@)github\.com[/:]([\w.-]+/[\w.-]+?)(?:\.git)?/?")


class Lot(NamedTuple):
    """One job: a stack on a system, or one package of it.

    ``name`` is the package as people know it and ``hash`` its DAG hash; both empty: the whole stack.
    """

    system: System
    stack: str
    spack: Pin
    packages: Pin
    name: str = ""
    hash: str = ""

    @property
    def title(self) -> str:
        """What the job is called: ``noble: hep``, ``noble: hep: hdf5@1.14.5/abcdefg``."""
        return ": ".join(filter(None, (self.system.name, self.stack, self.name)))

    @property
    def _key(self) -> str:
        return f"{self.system.name}\n{self.stack}\n{self.hash}"

    def order(self, seed: str) -> str:
        """Where it comes in a draw with this seed."""
        return hashlib.sha256(f"{seed}\n{self._key}".encode()).hexdigest()


def draw(lots: Sequence[Lot], count: int, seed: str) -> tuple[Lot, ...]:
    """``count`` of them at random, or all if there are no more; in the order that they had."""
    chosen = frozenset(sorted(lots, key=lambda lot: lot.order(seed))[:count])
    return tuple(lot for lot in lots if lot in chosen)


def check_limit(count: int, where: str) -> None:
    """Raise LimitError for more jobs than GitHub takes."""
    if count > MOST_JOBS:
        raise LimitError(
            f"jobs of one matrix: {count}, and GitHub makes at most {MOST_JOBS}",
            where=where,
            hint="ask for fewer: --count, --only, --stack",
        )


def github_name(pin: Pin, where: str) -> str:
    """``owner/name`` of a repository on GitHub. Raises ConfigError for one that is elsewhere."""
    match = _GITHUB.fullmatch(pin.repo)
    if not match:
        raise ConfigError(
            f"{public_repo(pin.repo)} is not on GitHub, where setup-spack looks",
            where=where,
            hint="name a repository on github.com",
        )
    return match[1]


def matrix_json(lots: Sequence[Lot]) -> str:
    """``{"include": [...]}`` on one line: what a workflow gives to ``strategy.matrix``."""
    return json.dumps({"include": [_entry(lot) for lot in lots]})


def _entry(lot: Lot) -> dict[str, Any]:
    system = lot.system
    return {
        "title": lot.title,
        "system": system.name,
        "runner": system.runner,
        "target": system.target,
        "base_image": system.base_image,
        "stack": lot.stack,
        "only": f"/{lot.hash}" if lot.hash else "",
        "spack_repository": github_name(lot.spack, "spack.repo"),
        "spack_ref": lot.spack.commit,
        "packages_repository": github_name(lot.packages, "spack.packages_repo"),
        "packages_ref": lot.packages.commit,
    }
