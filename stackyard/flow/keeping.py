"""Which locks keep binaries: those of stacks as they lie here, and those of branches and tags."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stackyard.edges import console
from stackyard.errors import ConfigError, LockError

if TYPE_CHECKING:
    from stackyard.flow.steps import Project
    from stackyard.prune import Keeper

__all__ = ["find_keepers"]


def find_keepers(
    project: Project | None, stacks: Sequence[str], refs: Sequence[str]
) -> tuple[Keeper, ...]:
    """The locks of stacks and of git refs, each with all that is in it.

    Raises ConfigError for a stack or ref that is not there or has no lock, and LockError for a lock
    that cannot be read: that is not the same as nothing to keep.
    """
    if not stacks and not refs:
        return ()
    if project is None:
        raise ConfigError(
            "locks are those of a project, and there is none here",
            where="--stack" if stacks else "--ref",
            hint="go into the project's folder",
        )
    return (*_of_stacks(project, stacks), *_of_refs(project, refs))


def _of_stacks(project: Project, names: Sequence[str]) -> Iterator[Keeper]:
    from stackyard.edges.files import read_bytes
    from stackyard.edges.stacks import list_stacks

    known = list_stacks(project.root)
    for name in dict.fromkeys(names):
        if name not in known:
            raise ConfigError(
                f"there is no stack {name!r}",
                where="--stack",
                hint=f"there are: {', '.join(known) or 'none'}",
            )
        path = project.root / "stacks" / name / "spack.lock"
        if not path.is_file():
            raise LockError("the stack is not locked", where=project.shown(path))
        yield _keeper(f"stack {name}", read_bytes(path, LockError), project.shown(path))


def _of_refs(project: Project, patterns: Sequence[str]) -> Iterator[Keeper]:
    from stackyard.edges import git

    if not patterns:
        return
    repository = git.top(project.root, where="--ref", hint="a ref is one of a git repository")
    if git.is_shallow(repository):
        console.warn(
            "this clone is shallow: branches and tags that were not fetched keep nothing "
            "(git fetch --unshallow --tags)"
        )
    folder = f"{Path(project.root).resolve().relative_to(repository.resolve()).as_posix()}/stacks"
    folder = folder.removeprefix("./")
    known: dict[str, Keeper] = {}  # many tags have the same lock
    for ref in dict.fromkeys(
        ref
        for pattern in dict.fromkeys(patterns)
        for ref in git.find_refs(repository, pattern, "--ref")
    ):
        files = git.files_below(repository, ref.commit, folder)
        locks = {
            path: identity
            for path, identity in files.items()
            if re.fullmatch(r"[^/]+/spack\.lock", path.removeprefix(f"{folder}/"))
        }
        if not locks:
            raise ConfigError(
                f"{ref.name} has no lock in {folder}/",
                where="--ref",
                hint="name refs whose stacks are locked: nobody can tell what this one needs",
            )
        for path, identity in locks.items():
            name = f"{ref.name}: {path.removesuffix('/spack.lock')}"
            if identity not in known:
                data = git.content(repository, identity)
                known[identity] = _keeper(name, data, f"{ref.name}:{path}")
            yield known[identity]._replace(name=name)


def _keeper(name: str, data: bytes, where: str) -> Keeper:
    from stackyard.lock import parse_lock
    from stackyard.prune import Keeper

    return Keeper(name, frozenset(parse_lock(data, where).specs))
