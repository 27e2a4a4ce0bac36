"""What a git repository holds at a revision, and what changed between two."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from stackyard.edges.process import Output, run
from stackyard.errors import ConfigError, ToolError

__all__ = [
    "Ref",
    "changed_files",
    "content",
    "current_branch",
    "default_branch",
    "file_at",
    "files_below",
    "find_refs",
    "head",
    "is_published",
    "is_shallow",
    "remotes",
    "top",
]


class Ref(NamedTuple):
    """A branch, a tag or another revision: how people call it, and its commit."""

    name: str
    commit: str


def top(
    folder: Path,
    *,
    where: str = "--since",
    hint: str = "changes are measured in git; leave --prune-unaffected away",
) -> Path:
    """The repository's root. Raises ConfigError, naming ``where``, outside of one."""
    output = _git(folder, "rev-parse", "--show-toplevel")
    if "safe.directory" in output.stderr:
        raise ConfigError(
            f"{folder} belongs to another user, and git does not look into it",
            where=where,
            hint=f"if you trust it: git config --global --add safe.directory {folder}",
        )
    if output.code:
        raise ConfigError(f"{folder} is in no git repository", where=where, hint=hint)
    return Path(os.fsdecode(output.stdout.rstrip(b"\n")))


def _commit(repository: Path, revision: str, where: str = "--since") -> str:
    output = _git(
        repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
    )
    if output.code:
        raise ConfigError(
            f"git knows no revision {revision!r}",
            where=where,
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


def find_refs(repository: Path, pattern: str, where: str) -> tuple[Ref, ...]:
    """Branches, also those of remotes, and tags of this name, or that fit it: ``rev-*``.

    What is no name of these may be any other revision. Raises ConfigError naming ``where`` if there
    is nothing of the kind.
    """
    wanted = "%(refname) %(objectname) %(*objectname)"
    output = _git(repository, "for-each-ref", f"--format={wanted}", *_REFS)
    _must(output, "for-each-ref")
    found = []
    for line in output.stdout.decode(errors="replace").splitlines():
        full, commit, *peeled = line.split(" ")
        name = full.split("/", 2)[2]
        names = {name, name.partition("/")[2]} if full.startswith(_REMOTES) else {name}
        if name.endswith("/HEAD") and full.startswith(_REMOTES):  # another name of a branch
            continue
        if any(fnmatchcase(one, pattern) for one in names if one):
            found.append(Ref(name, next(filter(None, peeled), commit)))
    if found:
        return tuple(found)
    if any(mark in pattern for mark in "*?["):
        raise ConfigError(
            f"no branch and no tag fits {pattern!r}",
            where=where,
            hint="fetch them first: git fetch --tags",
        )
    return (Ref(pattern, _commit(repository, pattern, where)),)


_REMOTES = "refs/remotes/"
_REFS = ("refs/heads/", "refs/tags/", _REMOTES)


def is_shallow(repository: Path) -> bool:
    """Whether history, and with it refs, may be missing from the clone."""
    output = _git(repository, "rev-parse", "--is-shallow-repository")
    return output.stdout.strip() == b"true"


def head(repository: Path) -> str:
    """The commit that is checked out. Raises ConfigError where there is none."""
    return _commit(repository, "HEAD", "git")


def is_published(repository: Path, commit: str) -> bool:
    """Whether a branch of a remote has the commit, as far as is known here."""
    output = _git(repository, "for-each-ref", "--count=1", f"--contains={commit}", _REMOTES)
    return not output.code and bool(output.stdout.strip())


def default_branch(repository: Path) -> str:
    """That of the remote ``origin``, as far as is known here; else empty."""
    return _points_at(repository, "refs/remotes/origin/HEAD", "refs/remotes/origin/")


def current_branch(repository: Path) -> str:
    """The branch that is checked out; empty where a commit is, or where there is no repository."""
    return _points_at(repository, "HEAD", "refs/heads/")


def _points_at(repository: Path, name: str, prefix: str) -> str:
    output = _git(repository, "symbolic-ref", "--quiet", name)
    return (
        "" if output.code else output.stdout.decode(errors="replace").strip().removeprefix(prefix)
    )


def remotes(repository: Path) -> tuple[str, ...]:
    """URLs of the remotes, ``origin`` first; none outside of a repository."""
    output = _git(repository, "config", "--null", "--get-regexp", r"^remote\..*\.url$")
    entries = output.stdout.decode(errors="replace").split("\0") if not output.code else []
    pairs = [entry.partition("\n")[::2] for entry in entries if entry]
    return tuple(url for _, url in sorted(pairs, key=lambda pair: pair[0] != "remote.origin.url"))


def files_below(repository: Path, commit: str, folder: str) -> Mapping[str, str]:
    """Paths, from the root, of the files in a folder at a commit, and the id of each content."""
    output = _git(repository, "ls-tree", "-r", "-z", "--full-tree", commit, "--", folder)
    _must(output, "ls-tree")
    entries = (entry.partition(b"\t") for entry in output.stdout.split(b"\0") if entry)
    return {os.fsdecode(path): head.split()[2].decode() for head, _, path in entries}


def content(repository: Path, identity: str) -> bytes:
    """A file's bytes by their id, as ``files_below`` gives it."""
    output = _git(repository, "cat-file", "blob", identity)
    _must(output, "cat-file")
    return output.stdout


def _git(folder: Path, *arguments: str) -> Output:
    return run(["git", "-C", str(folder), *arguments])


def _must(output: Output, what: str) -> None:
    if output.code:
        raise ToolError(f"git {what} failed: {output.stderr.strip()}")
