"""``release``: the gates, the tag, and the image that is made of it."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from typing import Any

from stackyard.edges import console, git, git_release
from stackyard.edges.interrupts import stoppable
from stackyard.edges.stacks import list_stacks
from stackyard.errors import ConfigError, LockError, StackyardError, ToolError, UnreachableError
from stackyard.flow.release_gates import Aim, Gates, image_target
from stackyard.flow.release_image import Patience, Published, Target, follow_images
from stackyard.flow.steps import Project, open_project, read_stack
from stackyard.lock import Lock, parse_lock
from stackyard.release import (
    Gate,
    Record,
    StackNotes,
    blocked,
    check_prefix,
    check_skips,
    make_message,
    notes_of,
)
from stackyard.settings import make_settings
from stackyard.shape import near

__all__ = ["release"]

_EVERY_S = 30.0
_AGAIN = "run the same command again: it goes on from there"


class _Told:
    """What is printed as JSON at the end, whatever the end is."""

    def __init__(self, aim: Aim, *, as_json: bool) -> None:
        self.as_json = as_json
        self.state = "open"
        self.notes = ""
        self.previous = ""
        self.gates: list[Gate] = []
        self.images: list[Published] = []
        self._aim = aim

    def gate(self, gate: Gate) -> None:
        self.gates.append(gate)
        if not self.as_json:
            for line in gate.lines():
                console.out(console.printable(line))

    def image(self, image: Published) -> None:
        self.images.append(image)

    def end(self) -> None:
        if self.as_json:
            console.out(console.printable(json.dumps(self.as_dict(), indent=2)))

    def as_dict(self) -> dict[str, Any]:
        return {
            "version": 1,
            "name": self._aim.name,
            "tag": self._aim.tag,
            "commit": self._aim.commit,
            "state": self.state,
            "previous": self.previous,
            "gates": [gate.as_dict() for gate in self.gates],
            "notes": self.notes,
            "images": [
                {"stack": one.target.stack, "image": one.target.shown, "digest": one.digest}
                for one in self.images
            ],
        }


def release(  # noqa: PLR0913 - what the task takes
    *,
    tag: str = "",
    stacks: Sequence[str] = (),
    skips: Sequence[str] = (),
    dry_run: bool = False,
    mirror: str = "",
    keys: str = "",
    wait: str = "",
    as_json: bool = False,
) -> None:
    """Ask every gate, then tag, push the tag alone, and wait for the image.

    Raises StackyardError (1) if a gate is shut, ToolError (5) if the tag could not be pushed,
    StoreError (6) if the registry does not show the image in time.
    """
    project = open_project()
    aim = _aim(project, tag, stacks, check_skips(skips), mirror, keys)
    patience = Patience(_EVERY_S, _minutes(wait, aim.settings.release.wait_minutes) * 60)
    told = _Told(aim, as_json=as_json)
    try:
        with stoppable():
            _run(aim, told, patience, dry_run=dry_run)
    finally:
        told.end()


def _aim(  # noqa: PLR0913, PLR0917 - one step of the task
    project: Project,
    name: str,
    stacks: Sequence[str],
    skips: frozenset[str],
    mirror: str,
    keys: str,
) -> Aim:
    if not name:
        raise ConfigError("what is it called?", where="--tag", hint="--tag sc26")
    settings = make_settings(project.settings)
    check_prefix(settings.release.prefix)
    repository = git.top(
        project.root, where="release", hint="a release is a tag in git: git init, and a remote"
    )
    return Aim(
        project=project,
        settings=settings,
        repository=repository,
        name=name,
        commit=git.head(project.root),
        stacks=_stacks(project, settings.release.stacks, stacks),
        skips=skips,
        mirror=mirror,
        keys=keys,
    )


def _stacks(project: Project, settled: Sequence[str], asked: Sequence[str]) -> tuple[str, ...]:
    known = list_stacks(project.root)
    for name in settled:
        if name not in known:
            where = "invoke.yaml: stackyard.release.stacks"
            raise ConfigError(f"unknown stack {name!r}", where=where, hint=near(name, known))
    usual = tuple(dict.fromkeys(settled)) or tuple(known)
    for name in asked:
        if name not in usual:
            outside = name in known
            raise ConfigError(
                f"{name!r} is not one of release.stacks" if outside else f"unknown stack {name!r}",
                where="--stack",
                hint=f"these are released: {', '.join(usual)}" if outside else near(name, usual),
            )
    if not usual:
        raise ConfigError(
            "there is no stack yet", where="stacks/", hint="put a spack.yaml into stacks/NAME/"
        )
    return tuple(dict.fromkeys(asked)) or usual


def _minutes(text: str, usual: float) -> float:
    if not text:
        return usual
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 <= minutes <= 100_000:
        raise ConfigError(f"{text!r} are no minutes", where="--wait", hint="0 does not wait")
    return minutes


def _run(aim: Aim, told: _Told, patience: Patience, *, dry_run: bool) -> None:
    gates = Gates(aim)
    if not dry_run and (record := _released(gates)):
        told.previous, told.notes = record.previous, record.notes
        _tell_released(aim, record)
        _remember(aim, gates.remote.tags[aim.tag].object)
        _follow(aim, told, patience)
        return
    for name in sorted(aim.skips):
        console.warn(f"THE GATE {name} IS SKIPPED: nobody will have proven it")
    for gate in gates.ask():
        told.gate(gate)
    shut = blocked(told.gates)
    told.state = "blocked" if shut else "ready" if dry_run else "open"
    message = _message(aim, gates, told, shut=bool(shut))
    if not shut or dry_run:
        _tell_notes(told)
    if shut:
        names = dict.fromkeys(
            f"{gate.stack}: {gate.name}" if gate.stack else gate.name for gate in shut
        )
        raise StackyardError(
            f"{len(shut)} of {len(told.gates)} gates shut: {', '.join(names)}",
            where=f"release {aim.name}",
            hint="nothing was tagged",
        )
    if dry_run:
        console.note("all gates are open; nothing was tagged, because of --dry-run")
        return
    _tag(aim, gates, message)
    _follow(aim, told, patience)


def _released(gates: Gates) -> Record | None:
    """What the tag says that a release of all these stacks made here, if there is one.

    A remote that does not answer is a matter of the gates.
    """
    try:
        record = gates.released()
    except StackyardError:
        return None
    return record if record and set(gates.aim.stacks) <= set(record.locks) else None


def _tell_released(aim: Aim, record: Record) -> None:
    console.note(f"{aim.settings.release.remote} has {aim.tag} already, at this commit")
    if record.skipped:
        console.warn(f"{aim.tag} was made without the gates {', '.join(record.skipped)}")


# -- the message ----------------------------------------------------------------------------


def _message(aim: Aim, gates: Gates, told: _Told, *, shut: bool) -> str:
    """The tag's message; empty where what it would tell is not known, and nobody needs it."""
    try:
        lasts = gates.lasts
        stacks = [_stack_notes(aim, gates, name) for name in aim.stacks]
    except StackyardError:
        if shut:
            return ""
        raise
    told.previous = next(iter(lasts.values()))
    run = secrets.token_hex(8)
    message = make_message(aim.name, stacks, previous=told.previous, skipped=aim.skips, run=run)
    told.notes = notes_of(message)
    return message


def _stack_notes(aim: Aim, gates: Gates, name: str) -> StackNotes:
    work, last = gates.work(name), gates.lasts[name]
    data = git.file_at(aim.repository, aim.commit, work.lock_path)
    digest = _digest(work.lock_bytes if data is None else data)
    tags = gates.remote.tags
    then = git.file_at(aim.repository, tags[last].commit, work.lock_path) if last else None
    if then is None:
        return StackNotes(name, work.lock, digest)
    old = _old_lock(then, f"{last}:{aim.project.shown(work.lock_path)}")
    return StackNotes(name, work.lock, digest, last, old)


def _old_lock(data: bytes, where: str) -> Lock | None:
    try:
        return parse_lock(data, where)
    except LockError as error:
        console.warn(
            f"the lock of the last release cannot be compared with: {where}: {error.message}"
        )
        return None


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _tell_notes(told: _Told) -> None:
    if told.notes and not told.as_json:
        console.out("")
        console.out(console.printable(told.notes))


# -- the tag --------------------------------------------------------------------------------


def _tag(aim: Aim, gates: Gates, message: str) -> None:
    """Make the tag and push it alone; afterwards the remote has it, or nobody."""
    remote, repository = aim.settings.release.remote, aim.repository
    if gates.is_leftover() and (old := git_release.local_tag(repository, aim.tag)):
        git_release.remove_tag(repository, aim.tag, old.object)
    made = git_release.make_tag(repository, aim.tag, aim.commit, message)
    try:
        outcome = git_release.push_tag(repository, remote, aim.tag, made)
        if not outcome.done:
            _judge_push(aim, made, outcome)
    except KeyboardInterrupt:
        raise StackyardError(
            f"stopped while {aim.tag} was pushed: {remote} has it, or not",
            where=f"release {aim.name}",
            hint=_AGAIN,
        ) from None
    _remember(aim, made)
    console.note(f"pushed {aim.tag} to {remote}, at {aim.commit[:12]}")


def _remember(aim: Aim, made: str) -> None:
    """Let this clone have the tag as well, for ``git show``."""
    if not git_release.remember_tag(aim.repository, aim.tag, made):
        remote = aim.settings.release.remote
        console.warn(f"this clone has another {aim.tag}: git fetch --force {remote} tag {aim.tag}")


def _judge_push(aim: Aim, made: str, outcome: git_release.Outcome) -> None:
    """A push that failed may have arrived all the same: the remote knows. Raises StackyardError."""
    remote, where = aim.settings.release.remote, f"release {aim.name}"
    try:
        there = git_release.ask_remote(
            aim.repository, remote, aim.settings.release.prefix
        ).tags.get(aim.tag)
    except (UnreachableError, ToolError) as error:
        raise ToolError(
            f"the push of {aim.tag} broke off ({outcome.words}), and whether {remote} has it "
            f"nobody knows: {error.message}",
            where=where,
            hint=_AGAIN,
        ) from None
    if there is None:
        raise ToolError(
            f"{remote} did not take {aim.tag}, and nothing is tagged: {outcome.words}",
            where=where,
            hint=outcome.hint or "mend that, and run the same command again",
        )
    if there.object != made:
        same = there.commit == aim.commit
        raise StackyardError(
            f"somebody else made {aim.tag} at the same time, at "
            f"{'the same commit' if same else there.commit[:12]}; theirs stays",
            where=where,
            hint="the same command again waits for its image" if same else "choose another name",
        )
    console.warn(f"the connection broke ({outcome.words}), and {remote} has {aim.tag} all the same")


# -- the image ------------------------------------------------------------------------------


def _follow(aim: Aim, told: _Told, patience: Patience) -> None:
    told.state = "tagged"
    targets = [target for name in aim.stacks if (target := _target(aim, name))]
    if not targets:
        console.note("no stack names an image.repository: there is no image to wait for")
        told.state = "released"
        return
    if not patience.timeout_s:
        console.note("nobody waits for " + ", ".join(target.shown for target in targets))
        return
    if aim.project.env.get("GITHUB_ACTIONS") == "true":
        console.warn("a tag that GITHUB_TOKEN pushed starts no other workflow: see docs/release.md")
    console.note("waiting for " + ", ".join(target.shown for target in targets))
    follow_images(targets, patience, found=told.image)
    told.state = "released"


def _target(aim: Aim, name: str) -> Target | None:
    stack, settings = read_stack(aim.project, name)
    if not settings.image.base or not settings.image.repository:
        return None
    path = aim.project.root / stack.folder / "spack.lock"
    data = git.file_at(aim.repository, aim.commit, path)
    if data is None:
        raise LockError("it is not in the commit", where=aim.project.shown(path))
    return Target(name, image_target(settings, name), aim.name, aim.commit, _digest(data))
