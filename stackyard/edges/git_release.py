"""What a release asks of git: what the remote has, an annotated tag, and the push of that alone."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from stackyard.edges.process import Output, run
from stackyard.errors import ConfigError, ToolError, UnreachableError

__all__ = [
    "Outcome",
    "Remote",
    "Tag",
    "ask_remote",
    "below",
    "committer",
    "distance",
    "fetch_tags",
    "local_tag",
    "make_tag",
    "message_of",
    "push_tag",
    "remember_tag",
    "remove_tag",
    "unclean",
]

_ASK_S = 120.0
_PUSH_S = 900.0
_TAGS = "refs/tags/"
_HEADS = "refs/heads/"
_PEELED = "^{}"
#: A password in a URL, as git repeats it in errors.
_LOGIN = re.compile(r"(://)[^/@\s]+@")
_HINTS = (
    ("Authentication failed", "git has no login that is good there: look at its credential helper"),
    ("could not read Username", "git has no login for it: set up a credential helper, or use ssh"),
    (
        "terminal prompts disabled",
        "git has no login for it: set up a credential helper, or use ssh",
    ),
    ("Permission denied (publickey", "load the key into ssh-agent"),
    ("Host key verification failed", "put the server's key into ~/.ssh/known_hosts"),
    ("Could not resolve host", "is there a network?"),
    ("pre-receive hook declined", "a hook of the server says why, above"),
    ("protected", "who may make tags is set on the server: ask its maintainer"),
)


class Tag(NamedTuple):
    """A tag: its own object, which for a lightweight one is the commit, and its commit."""

    object: str
    commit: str

    @property
    def annotated(self) -> bool:
        return self.object != self.commit


class Remote(NamedTuple):
    """What a remote has: its default branch, branches with their commits, and tags, by name."""

    default: str
    branches: Mapping[str, str]
    tags: Mapping[str, Tag]


class Outcome(NamedTuple):
    """How a push ended: ``done`` is what git says, ``words`` are the server's, ``hint`` is ours."""

    done: bool
    words: str
    hint: str


def unclean(repository: Path) -> tuple[str, ...]:
    """Paths that are changed, staged or new; what git ignores is none of them."""
    argv = ["status", "--porcelain=v1", "-z", "--untracked-files=normal", "--no-renames"]
    output = _must(_git(repository, *argv), "status")
    return tuple(os.fsdecode(entry[3:]) for entry in output.stdout.split(b"\0") if entry)


def ask_remote(repository: Path, remote: str, prefix: str) -> Remote:
    """Branches, and the tags that begin with ``prefix``, as they are there now.

    Raises ConfigError for a remote that git does not know, UnreachableError if it does not answer.
    """
    url = _push_url(repository, remote)
    argv = ["ls-remote", "--symref", "--", url, "HEAD", f"{_HEADS}*", f"{_TAGS}{prefix}*"]
    output = _asked(repository, *argv, timeout_s=_ASK_S)
    if output.code:
        raise UnreachableError(
            f"the remote does not answer: {_said(output)}", where=remote, hint=_hint(output.stderr)
        )
    default, refs = "", {}
    for line in output.stdout.decode(errors="replace").splitlines():
        value, _, ref = line.partition("\t")
        if value.startswith("ref: ") and ref == "HEAD":
            default = value.removeprefix(f"ref: {_HEADS}")
        else:
            refs[ref] = value
    tags = {
        ref.removeprefix(_TAGS): Tag(value, refs.get(f"{ref}{_PEELED}", value))
        for ref, value in refs.items()
        if ref.startswith(_TAGS) and not ref.endswith(_PEELED)
    }
    heads = {ref.removeprefix(_HEADS): v for ref, v in refs.items() if ref.startswith(_HEADS)}
    return Remote(default, heads, tags)


def _push_url(repository: Path, remote: str) -> str:
    """The remote itself; or, where git pushes to another place than it fetches from, that place."""
    fetch, push = (
        _git(repository, "remote", "get-url", *which, "--", remote)
        for which in ((), ("--push", "--all"))
    )
    if fetch.code:
        known = _git(repository, "remote").stdout.decode(errors="replace").split()
        others = f" ({', '.join(known)})" if known else ""
        raise ConfigError(
            f"git knows no remote {remote!r} here",
            where="release.remote",
            hint=f"add it: git remote add {remote} URL; or name another in invoke.yaml{others}",
        )
    places = push.stdout.decode(errors="replace").splitlines()
    if len(places) > 1:
        raise ConfigError(
            f"git pushes to {len(places)} places as {remote}, and one could refuse what others took",
            where="release.remote",
            hint="add a remote for the one that is to have the tag, and name it in invoke.yaml",
        )
    return remote if fetch.stdout == push.stdout else places[0]


def distance(repository: Path, commit: str, other: str) -> tuple[int, int] | None:
    """How many commits only the first has, and only the other; None if the other is not here."""
    if _git(repository, "cat-file", "-e", f"{other}^{{commit}}").code:
        return None
    argv = ["rev-list", "--left-right", "--count", f"{commit}...{other}", "--"]
    left, right = _must(_git(repository, *argv), "rev-list").stdout.split()
    return int(left), int(right)


def below(repository: Path, commit: str, candidates: Collection[str]) -> tuple[str, ...]:
    """Those of these commits that ``commit`` comes from, or is: the latest first, no parent before
    its children. In a shallow clone only those that are there.
    """
    argv = ["rev-list", "--date-order", commit, "--"]
    output = _must(_git(repository, *argv), "rev-list")
    return tuple(one for one in output.stdout.decode().split() if one in candidates)


def local_tag(repository: Path, name: str) -> Tag | None:
    """The tag of this clone."""
    output = _git(repository, "rev-parse", "--verify", "--quiet", f"{_TAGS}{name}")
    if output.code:
        return None
    commit = _git(repository, "rev-parse", "--verify", "--quiet", f"{_TAGS}{name}^{{commit}}")
    return Tag(output.stdout.decode().strip(), commit.stdout.decode().strip())


def fetch_tags(repository: Path, remote: str, tags: Mapping[str, Tag]) -> None:
    """Bring those annotated tags that are not here, all at once and without naming them here.

    Raises UnreachableError.
    """
    lacking = [
        name
        for name, tag in tags.items()
        if tag.annotated and _git(repository, "cat-file", "-e", tag.object).code
    ]
    if not lacking:
        return
    url = _push_url(repository, remote)
    argv = ["fetch", "--quiet", "--no-tags", "--", url, *(f"{_TAGS}{name}" for name in lacking)]
    output = _asked(repository, *argv, timeout_s=_PUSH_S)
    if output.code:
        raise UnreachableError(
            f"{', '.join(lacking[:5])} cannot be fetched: {_said(output)}",
            where=remote,
            hint=_hint(output.stderr),
        )


def message_of(repository: Path, tag: Tag) -> str:
    """The message of an annotated tag that is here; empty for another."""
    if not tag.annotated:
        return ""
    output = _must(_git(repository, "cat-file", "tag", tag.object), "cat-file")
    return output.stdout.decode(errors="replace").partition("\n\n")[2]


def committer(repository: Path) -> str:
    """Who git takes us for. Raises ToolError where it does not know."""
    output = _git(repository, "var", "GIT_COMMITTER_IDENT")
    if output.code:
        raise ToolError(
            "git does not know who makes the tag",
            hint="git config user.name NAME, and git config user.email ADDRESS",
        )
    return output.stdout.decode(errors="replace").rsplit(" ", 2)[0]


def make_tag(repository: Path, name: str, commit: str, message: str) -> str:
    """An annotated tag as an object that no ref names yet; signed, if git is set up to sign tags.

    Raises ToolError.
    """
    argv = ["tag", "--annotate", "--cleanup=verbatim", "--file=-", "--", name, commit]
    _must(_git(repository, *argv, feed=message.encode()), "tag")
    made = _must(_git(repository, "rev-parse", f"{_TAGS}{name}"), "rev-parse")
    key = made.stdout.decode().strip()
    remove_tag(repository, name, key)
    return key


def remove_tag(repository: Path, name: str, key: str) -> None:
    """Take a tag of this clone away, if it is still this object."""
    _must(_git(repository, "update-ref", "-d", f"{_TAGS}{name}", key), "update-ref")


def remember_tag(repository: Path, name: str, key: str) -> bool:
    """Name an object in this clone as the remote names it; False if another has the name here."""
    here = local_tag(repository, name)
    if here is None:
        return not _git(repository, "update-ref", f"{_TAGS}{name}", key, "").code
    return here.object == key


def push_tag(repository: Path, remote: str, name: str, key: str) -> Outcome:
    """Give the remote this tag and nothing else; what it has by this name is never replaced."""
    alone = ("--no-follow-tags", "--recurse-submodules=no")
    argv = ["push", *alone, "--", remote, f"{key}:{_TAGS}{name}"]
    try:
        output = _asked(repository, *argv, timeout_s=_PUSH_S)
    except ToolError as error:  # it did not end in time
        return Outcome(done=False, words=error.message, hint=error.hint)
    return Outcome(not output.code, _said(output) if output.code else "", _hint(output.stderr))


def _said(output: Output) -> str:
    lines = [line.strip() for line in output.stderr.splitlines() if line.strip()]
    return _LOGIN.sub(r"\1", " | ".join(lines[-8:])) or f"git ended with {output.code}"


def _hint(stderr: str) -> str:
    return next((hint for mark, hint in _HINTS if mark.lower() in stderr.lower()), "")


def _asked(folder: Path, *arguments: str, timeout_s: float) -> Output:
    """Git with a remote; nobody is asked for a password where nobody sits."""
    alone = {} if sys.stdin and sys.stdin.isatty() else {"GIT_TERMINAL_PROMPT": "0"}
    env = {**os.environ, "LC_ALL": "C", **alone}
    return run(["git", "-C", str(folder), *arguments], env=env, timeout_s=timeout_s)


def _git(folder: Path, *arguments: str, feed: bytes = b"") -> Output:
    return run(["git", "-C", str(folder), *arguments], env={**os.environ, "LC_ALL": "C"}, feed=feed)


def _must(output: Output, what: str) -> Output:
    if output.code:
        raise ToolError(f"git {what} failed: {_said(output)}")
    return output
