"""A release: gates that must be open, a tag whose message is its notes, and the image behind it.

Everything here is a value or makes one; ``stackyard.flow.release`` asks git, mirrors and GitLab.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stackyard.errors import ConfigError, CorruptError
from stackyard.lock import Lock
from stackyard.lockdiff import diff_locks, shown_diff
from stackyard.oci import is_tag
from stackyard.shape import near

__all__ = [
    "GATES",
    "LOCK_LABEL",
    "REVISION_LABEL",
    "Gate",
    "Ran",
    "Record",
    "StackNotes",
    "blocked",
    "check_prefix",
    "check_skips",
    "counted",
    "image_problem",
    "judge_pipeline",
    "make_message",
    "newest_pipeline",
    "notes_of",
    "parse_message",
    "parse_pipelines",
    "tag_problem",
]

#: Every gate in the order in which they are asked, the costly ones last; docs/release.md explains them.
GATES = (
    "clean",
    "branch",
    "tag",
    "generated",
    "pipeline",
    "image",
    "lock",
    "binaries",
    "signatures",
    "index",
    "key",
)
#: Without it there would be nothing to push.
_NEVER_SKIPPED = frozenset({"tag"})

REVISION_LABEL = "org.opencontainers.image.revision"
LOCK_LABEL = "dev.stackyard.lock-digest"

_ROOTS = 20


class Gate(NamedTuple):
    """What one gate said. ``stack`` is empty for those of the whole project.

    ``state`` is ``passed``, ``failed``, ``skipped`` or ``not configured``; ``missing`` are names of
    packages, or of files, one for each.
    """

    name: str
    state: str
    reason: str
    hint: str = ""
    stack: str = ""
    missing: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        return self.state != "failed"

    def lines(self) -> tuple[str, ...]:
        """For people: a line, one for each name, and what to do if it failed."""
        where = f"{self.stack}: {self.name}" if self.stack else self.name
        state = "SKIPPED" if self.state == "skipped" else self.state
        lines = [f"{state:<14} {where}: {self.reason}"]
        lines += [f"{'':<17}{name}" for name in self.missing]
        if self.hint and not self.open:
            lines.append(f"{'':<15}hint: {self.hint}")
        return tuple(lines)

    def as_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "missing": list(self.missing)}


def counted(count: int, word: str) -> str:
    """``1 path``, ``2 paths``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def blocked(gates: Iterable[Gate]) -> tuple[Gate, ...]:
    """The gates that keep a release back."""
    return tuple(gate for gate in gates if not gate.open)


def check_skips(names: Iterable[str]) -> frozenset[str]:
    """The gates that are to be skipped. Raises ConfigError for one that is none, or never is."""
    found = frozenset(names)
    for name in sorted(found):
        if name not in GATES:
            raise ConfigError(f"unknown gate {name!r}", where="--skip", hint=near(name, GATES))
        if name in _NEVER_SKIPPED:
            raise ConfigError(
                f"the gate {name} cannot be skipped: a tag that is taken cannot be pushed",
                where="--skip",
                hint="choose another name",
            )
    return found


#: Names of tags that images have anyway.
_MOVING = frozenset({"latest"})
#: What git refuses in the name of a tag (git-check-ref-format).
_NO_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|@\{|\.\.|//|^[-/]|(^|/)\.|\.lock(/|$)|[./]$")
#: What git takes for something else wherever it stands.
_NO_TAG = re.compile(r"HEAD|[0-9a-f]{40}|[0-9a-f]{64}")


def check_prefix(prefix: str) -> None:
    """Raises ConfigError if no tag of git can begin like that."""
    if _NO_REF.search(f"{prefix}x"):
        raise ConfigError(
            f"no tag of git can begin with {prefix!r}",
            where="invoke.yaml: stackyard.release.prefix",
            hint="the usual one is rev-; see git help check-ref-format",
        )


def tag_problem(name: str, prefix: str) -> str:
    """Why a release cannot have this name; empty if it can. It is the image's tag as well."""
    if prefix and name.startswith(prefix):
        return f"the tag would be {prefix}{name}: leave {prefix} away, it comes by itself"
    if name in _MOVING:
        return f"{name} is what the image of the branch is called"
    if not is_tag(name) or _NO_REF.search(name):
        return (
            f"{name[:140]!r} cannot be the tag of an image: at most 128 letters, digits, dots, "
            "dashes and underscores, no dot or dash first, no dot last"
        )
    if _NO_TAG.fullmatch(f"{prefix}{name}"):
        return f"{prefix}{name} means something else to git"
    return ""


# -- the pipeline ---------------------------------------------------------------------------


class Ran(NamedTuple):
    """A pipeline of GitLab."""

    id: int
    ref: str
    status: str
    source: str
    url: str


def parse_pipelines(rows: Iterable[Any], commit: str, where: str) -> tuple[Ran, ...]:
    """The pipelines of this commit out of GitLab's list of pipelines.

    Shape of each: ``{"id", "sha", "ref", "status", "source", "web_url"}``. Raises CorruptError.
    """
    found = []
    for row in rows:
        number = row.get("id") if isinstance(row, dict) else None
        if not isinstance(number, int) or not isinstance(row.get("status"), str):
            raise CorruptError("GitLab's answer is no list of pipelines", where=where)
        if row.get("sha") == commit:
            texts = (str(row.get(key) or "") for key in ("ref", "status", "source", "web_url"))
            found.append(Ran(number, *texts))
    return tuple(found)


def newest_pipeline(pipelines: Iterable[Ran], branch: str, own: str = "") -> Ran | None:
    """The one that counts: the newest of the branch, else the newest of any ref.

    ``own`` is the number of the pipeline that asks. One that GitLab skipped did nothing, and counts
    only where there is no other.
    """
    found = [one for one in pipelines if str(one.id) != own]
    rank = [(one.status != "skipped", one.ref == branch, one.id) for one in found]
    return found[rank.index(max(rank))] if found else None


def judge_pipeline(ran: Ran | None, commit: str) -> Gate:
    """The gate ``pipeline``."""
    if ran is None:
        return Gate(
            "pipeline",
            "failed",
            f"GitLab ran none for {commit[:12]}",
            "push the branch there, or start one: invoke trigger",
        )
    what = f"pipeline {ran.id} of {ran.ref}"
    if ran.status == "success":
        return Gate("pipeline", "passed", f"{what} succeeded")
    if ran.status in ("failed", "canceled", "skipped"):
        word = {"failed": "failed", "canceled": "was canceled", "skipped": "was skipped"}
        hint = f"mend it, and run it again: {ran.url}"
        return Gate("pipeline", "failed", f"{what} {word[ran.status]}", hint)
    return Gate("pipeline", "failed", f"{what} is {ran.status}", f"wait for its end: {ran.url}")


# -- the message of the tag -----------------------------------------------------------------


class StackNotes(NamedTuple):
    """A stack as it is released, and as it was.

    ``since`` is the tag of its last release, empty if there was none; ``old`` is its lock there,
    None where there was none that can be read.
    """

    name: str
    lock: Lock
    digest: str  # sha256:... of the lock's bytes
    since: str = ""
    old: Lock | None = None


class Record(NamedTuple):
    """What the message of a release's tag says. ``locks`` are digests by stack."""

    notes: str = ""
    previous: str = ""
    locks: Mapping[str, str] = {}
    skipped: tuple[str, ...] = ()


_LOCK, _PREVIOUS, _SKIPPED = "Lock-Digest", "Previous-Release", "Skipped-Gate"
_RUN = "Release-Run"
#: Git puts it below the message: of PGP, SSH or X.509.
_SIGNATURE = "\n-----BEGIN "
_TRAILER = re.compile(rf"({_LOCK}|{_PREVIOUS}|{_SKIPPED}|{_RUN}): (\S.*)")


def make_message(
    name: str, stacks: Sequence[StackNotes], *, previous: str, skipped: Iterable[str], run: str = ""
) -> str:
    """The tag's message: a title, what changed in each stack, and lines for programs.

    ``previous`` is the latest tag from which any of the stacks comes, empty if there is none.
    ``run`` is a text of this run alone: of two that make the same tag in the same second each has
    its own, and git takes only one.
    """
    skips = sorted(skipped)
    blocks: list[list[str]] = [[f"Release {name}"]]
    if skips:
        blocks.append([f"NOT PROVEN: the gates {', '.join(skips)} were skipped."])
    blocks += [list(_stack_lines(stack, previous)) for stack in stacks]
    trailers = [f"{_PREVIOUS}: {previous}"] if previous else []
    trailers += [f"{_SKIPPED}: {gate}" for gate in skips]
    trailers += [f"{_LOCK}: {stack.name} {stack.digest}" for stack in stacks]
    trailers += [f"{_RUN}: {run}"] if run else []
    blocks.append(trailers)
    return "\n\n".join("\n".join(map(_plain, lines)) for lines in blocks) + "\n"


def _plain(line: str) -> str:
    """Names come out of locks, and git and terminals show the message as it is."""
    return "".join(char if char.isprintable() else "?" for char in line)


def _stack_lines(stack: StackNotes, previous: str) -> Iterable[str]:
    count = f"{len(stack.lock.specs)} specs"
    if stack.old is None:
        since = f"not in {previous}" if previous else "the first release"
        if stack.since:
            since = f"and nothing to compare with in {stack.since}"
        yield f"{stack.name}: {count}, {since}"
        roots = list(dict.fromkeys(root.spec for root in stack.lock.roots))
        yield from (f"  + root {text}" for text in roots[:_ROOTS])
        if len(roots) > _ROOTS:
            yield f"  and {len(roots) - _ROOTS} roots more"
        return
    diff = diff_locks(stack.old, stack.lock)
    yield f"{stack.name}: {count}, {'changed' if diff else 'the same'} since {stack.since}"
    if diff:
        yield from (f"  {line}" for line in shown_diff(diff))


def parse_message(message: str) -> Record | None:
    """What the message of a tag says; None for one that no release made."""
    unsigned = message.partition(_SIGNATURE)[0]
    last = unsigned.rstrip("\n").rpartition("\n\n")[2].splitlines()
    pairs = [found.groups() for line in last if (found := _TRAILER.fullmatch(line))]
    locks = {
        stack: digest
        for key, value in pairs
        for stack, _, digest in (value.partition(" "),)
        if key == _LOCK
    }
    if not locks or len(pairs) != len(last):
        return None
    return Record(
        notes=notes_of(unsigned),
        previous=next((value for key, value in pairs if key == _PREVIOUS), ""),
        locks=locks,
        skipped=tuple(value for key, value in pairs if key == _SKIPPED),
    )


def notes_of(message: str) -> str:
    """The message without its lines for programs."""
    return message.rstrip("\n").rpartition("\n\n")[0] + "\n"


# -- the image ------------------------------------------------------------------------------


def image_problem(labels: Sequence[Mapping[str, str]], commit: str, digest: str) -> str:
    """Why an image is not that of the release; empty if it is.

    ``labels`` are those of the image for each platform, ``digest`` is the lock's.
    """
    for one in labels:
        for key, wanted in ((REVISION_LABEL, commit), (LOCK_LABEL, digest)):
            found = one.get(key, "")
            if found != wanted:
                what = "commit" if key == REVISION_LABEL else "lock"
                return f"it is of another {what}, {found[:80]}" if found else f"it has no {key}"
    return "" if labels else "there is no image in it"
