"""What changed in a git repository between two revisions."""

from __future__ import annotations

import os
from pathlib import Path

from stackyard.edges.process import Output, run
from stackyard.errors import ConfigError, ToolError

__all__ = ["changed_files", "file_at", "top"]


def top(folder: Path) -> Path:
    """The repository's root. Raises ConfigError outside of one."""
    output = _git(folder, "rev-parse", "--show-toplevel")
    if output.code:
        raise ConfigError(
            f"{folder} is in no git repository",
            where="--since",
            hint="changes are measured in git; leave --prune-unaffected away",
        )
    return Path(os.fsdecode(output.stdout.rstrip(b"\n")))


def _commit(repository: Path, revision: str) -> str:
    output = _git(
        repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
    )
    if output.code:
        raise ConfigError(
            f"git knows no revision {revision!r}",
            where="--since",
            hint="in a shallow clone fetch more history first (GitLab: GIT_DEPTH), "
            "or name another revision",
        )
    return output.stdout.decode().strip()


def changed_files(repository: Path, since: str) -> frozenset[str]:
    """Paths, from the root, that differ between ``since`` and the files as they are now."""
    commit = _commit(repository, since)
    output = _git(repository, "diff", "--name-only", "--no-renames", "-z", commit, "--")
    _must(output, "diff")
    untracked = _git(repository, "ls-files", "--others", "--exclude-standard", "-z")
    _must(untracked, "ls-files")
    names = (output.stdout + untracked.stdout).split(b"\0")
    return frozenset(os.fsdecode(name) for name in names if name)


def file_at(repository: Path, revision: str, path: Path) -> bytes | None:
    """The file's bytes at a revision; None where it was not there."""
    commit = _commit(repository, revision)
    # The file itself may be a link: git knows it by the place of the link.
    place, root = path.parent.resolve() / path.name, repository.resolve()
    if not place.is_relative_to(root):
        return None
    name = place.relative_to(root).as_posix()
    if _git(repository, "cat-file", "-e", f"{commit}:{name}").code:
        return None
    output = _git(repository, "cat-file", "blob", f"{commit}:{name}")
    _must(output, "cat-file")
    return output.stdout


def _git(folder: Path, *arguments: str) -> Output:
    return run(["git", "-C", str(folder), *arguments])


def _must(output: Output, what: str) -> None:
    if output.code:
        raise ToolError(f"git {what} failed: {output.stderr.strip()}")
