"""What is checked out, as one who was told to build it would say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from stackyard.edges.git import current_branch, default_branch, head, remotes, top
from stackyard.edges.process import run
from stackyard.errors import ToolError

__all__ = ["Head", "Origin", "commit_of_ref", "read_head", "read_origin"]


class Head(NamedTuple):
    """``branch`` is empty where a commit is checked out, ``default`` where the clone has no word of
    it: then it is the remote's branch that new clones get. ``tags`` are those of this commit.
    """

    top: Path
    commit: str
    message: str
    branch: str
    tags: tuple[str, ...]
    default: str


def read_head(folder: Path) -> Head:
    """Raises ConfigError outside of a git repository, and in one without a commit."""
    hint = "Docker Hub builds what git has: git init, and commit"
    root = top(folder, where=str(folder), hint=hint)
    return Head(
        top=root,
        commit=head(root),
        message=_line(root, "-c", "log.showSignature=false", "log", "-1", "--format=%B"),
        branch=current_branch(root),
        tags=tuple(_line(root, "tag", "--points-at", "HEAD").split()),
        default=default_branch(root),
    )


class Origin(NamedTuple):
    """URL of the remote, the commit, and its time in UTC (RFC 3339); empty is what git cannot say."""

    remote: str
    commit: str
    time: str


def read_origin(folder: Path) -> Origin:
    """Where a folder's files come from; all empty outside of a git repository, or without git."""
    try:
        commit = _line(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    except ToolError:
        return Origin("", "", "")
    form = "format-local:%Y-%m-%dT%H:%M:%SZ"
    show = ("-c", "log.showSignature=false", "show", "--no-patch", f"--date={form}", "--format=%cd")
    return Origin(
        remote=next(iter(remotes(folder)), ""),
        commit=commit,
        time=_line(folder, *show, commit, env={**os.environ, "TZ": "UTC"}) if commit else "",
    )


def commit_of_ref(root: Path, name: str) -> str:
    """The commit of a branch or a tag, the tag first; empty if there is neither."""
    found = (
        _line(root, "rev-parse", "--verify", "--quiet", f"refs/{kind}/{name}^{{commit}}")
        for kind in ("tags", "heads", "remotes/origin")
    )
    return next(filter(None, found), "")


def _line(root: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """What git says; empty where it fails, which means that there is no such thing."""
    output = run(["git", "-C", str(root), *arguments], env=env)
    return "" if output.code else output.stdout.decode(errors="replace").strip()
