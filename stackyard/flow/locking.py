"""Make a stack's lock: with the pinned Spack or one at hand, in a clean configuration."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stackyard.edges import console
from stackyard.edges.checkout import head_of
from stackyard.edges.concretizing import (
    concretize,
    copied_environment,
    packages_folder,
    private_scope,
)
from stackyard.edges.spack import clean_spack, find_spack
from stackyard.errors import LockError
from stackyard.flow.clone import Asked, asked_of, kept, place, settle
from stackyard.flow.steps import PINS, Project, asked_roots, read_stack
from stackyard.lock import Lock, parse_lock
from stackyard.lockdiff import LockDiff, diff_locks
from stackyard.pins import PACKAGES_REPO, Pin, Pins, dump_pins

if TYPE_CHECKING:
    from stackyard.edges.spack import Spack

__all__ = ["Made", "Way", "make_lock", "make_missing_lock", "pinned_checkout"]

#: At the root of each repository of packages that Spack can clone.
_REPO_INDEX = "spack-repo-index.yaml"


class Way(NamedTuple):
    """How a lock is made: ``spack`` is a checkout at hand; ``update`` asks servers for names anew."""

    spack: str = ""
    keep_config: bool = False
    update: bool = False


class Made(NamedTuple):
    """A new lock, with what made it, and against the one before; None: there was none."""

    stack: str
    lock: Lock
    pins: Pins | None
    diff: LockDiff | None


def make_missing_lock(project: Project, name: str) -> None:
    """In CI: lock a stack that nobody committed a lock of."""
    stack, _ = read_stack(project, name)
    path = project.root / stack.folder / "spack.lock"
    if path.exists():
        return
    console.note(f"{project.shown(path)} is not committed: making it with the pinned Spack")
    make_lock(project, stack.name, Way())


def make_lock(project: Project, name: str, way: Way) -> Made:
    """Write the lock and its pins: both, whole, and only if the lock answers the manifest."""
    from stackyard.edges.files import write_files

    stack, settings = read_stack(project, name)
    asked = asked_of(project, stack, settings)
    data, lock, pins = _concretized(asked, way)
    folder = project.root / stack.folder
    write_files(
        {
            folder / "spack.lock": data,
            **({folder / PINS: dump_pins(pins)} if pins else {}),
        }
    )
    if not pins:
        (folder / PINS).unlink(missing_ok=True)  # of another lock
    diff = diff_locks(asked.lock, lock) if asked.lock else None
    return Made(stack.name, lock, pins, diff)


def _concretized(asked: Asked, way: Way) -> tuple[bytes, Lock, Pins | None]:
    """A lock that answers the manifest; nothing is written to the stack's folder."""
    project, stack = asked.project, asked.stack
    assert stack is not None  # noqa: S101 - there is a manifest to concretize
    if way.update:
        asked = asked._replace(pins=None, lock=None)
    pins = None if way.spack else settle(asked)
    spack = _spack(project, way, pinned_checkout(project, pins) if pins else way.spack)
    folder = project.root / stack.folder
    where = project.shown(folder / "spack.lock")
    with copied_environment(project.root, folder) as copy:
        packages = packages_folder(spack, copy)
        if not pins:
            pins = _pins_at_hand(asked, way, packages)
        with _scope(project, way, packages) as scope:
            data = concretize(spack, copy, scope, tell=console.note, beat=_beat)
    made = parse_lock(data, where)
    if str(copy).encode() in data:
        raise LockError(
            "the lock would name a path of this run",
            where=where,
            hint="paths in develop: and the like must be absolute",
        )
    asked_roots(stack, made, project)
    _see_commit(made, pins)
    return data, made, pins


def _see_commit(made: Lock, pins: Pins | None) -> None:
    """The lock says itself who made it. It does not where that was no clone."""
    if pins and made.spack_commit and not pins.spack.commit.startswith(made.spack_commit):
        raise LockError(
            f"Spack says that it is at {made.spack_commit}, and it was put at {pins.spack.commit}",
            where=f"{made.where}: spack.commit",
            hint="is there a wrapper that runs another Spack?",
        )


def _beat(seconds: float) -> None:
    console.note(f"still concretizing, {seconds / 60:.0f} min so far")


@contextmanager
def _scope(project: Project, way: Way, packages: Path | None) -> Iterator[Path | None]:
    if way.keep_config:
        yield None
        return
    place = hashlib.sha256(str(packages).encode()).hexdigest()[:16]
    with private_scope(kept(project).folder / "indices" / place) as scope:
        yield scope


def pinned_checkout(project: Project, pins: Pins) -> str:
    """A checkout in the cache, made for these pins and used by all that ask for them."""
    packages = pins.packages.commit[:16] if pins.packages else "own"
    folder = kept(project).folder / "spack" / f"{pins.spack.commit[:16]}-{packages}"
    place(pins, folder, project)
    return str(folder)


def _spack(project: Project, way: Way, folder: str) -> Spack:
    found = find_spack(folder, project.env)
    return found if way.keep_config else clean_spack(found, kept(project).folder / "user")


def _pins_at_hand(asked: Asked, way: Way, packages: Path | None) -> Pins | None:
    """The commits of the checkout that somebody named, and of its packages.

    None where git knows nothing of it; it is told where it is not what was pinned.
    """
    git = kept(asked.project).git
    commit = head_of(Path(way.spack), git)
    if not commit:
        console.warn(f"{way.spack} is no git checkout: {PINS} is not written")
        return None
    wanted = asked.spack()
    if wanted.commit not in ("", commit):
        console.warn(f"{way.spack} is at {commit[:12]}; pinned was {wanted.commit[:12]}")
    pin, wanted_below = _named(wanted, commit), asked.packages()
    if wanted_below is None or packages is None:
        return Pins(pin)
    above = (packages, *packages.parents)
    clone = next((one for one in above if (one / _REPO_INDEX).exists()), None)
    below = head_of(clone, git) if clone else ""
    if not below:
        console.warn("the packages of this Spack are no git checkout: they get no pin")
        return Pins(pin)
    named = _named(wanted_below, below)
    return Pins(pin, named._replace(repo=named.repo or PACKAGES_REPO))


def _named(wanted: Pin, commit: str) -> Pin:
    """The commit, with the name that it was wanted by, if it was."""
    return Pin(wanted.repo, wanted.ref if wanted.commit == commit else "", commit)
