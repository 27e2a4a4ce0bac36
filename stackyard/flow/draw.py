"""``draw``: the matrix of a workflow, from the systems in the settings and the stacks' locks."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from stackyard.draw import Lot, check_limit, draw, matrix_json
from stackyard.edges import console
from stackyard.edges.stacks import list_stacks
from stackyard.errors import ConfigError, LockError, SpecError
from stackyard.fetch import spec_name
from stackyard.flow.clone import Asked, settle
from stackyard.flow.listing import spec_patterns
from stackyard.flow.steps import (
    PINS,
    Project,
    Request,
    load_work,
    open_project,
    read_pins,
    read_stack,
)
from stackyard.settings import System, make_settings

if TYPE_CHECKING:
    from stackyard.flow.steps import Work
    from stackyard.lock import Lock, Spec
    from stackyard.pattern import Pattern
    from stackyard.pins import Pin
    from stackyard.stack import Stack

__all__ = ["built_specs", "check_lock", "draw_matrix", "system_stacks", "untargeted"]

_SEPARATOR = ";"
_LONGEST_SEED = 100
#: Labels of GitHub's own runners that say what system they have.
_UBUNTU = re.compile(r"ubuntu-([0-9]+[.][0-9]+)(?:-|$)")


class _Ground(NamedTuple):
    """A stack as far as a matrix is concerned; ``specs`` are what could be built for itself."""

    stack: Stack
    spack: Pin
    packages: Pin
    lock: Lock | None = None
    specs: tuple[Spec, ...] = ()


def draw_matrix(  # noqa: PLR0913
    *,
    count: str = "",
    seed: str = "",
    only: Sequence[str] = (),
    only_variable: str = "",
    stacks: Sequence[str] = (),
    systems: Sequence[str] = (),
) -> None:
    """Print the matrix: whole stacks, what ``only`` holds for, or ``count`` packages at random.

    Raises ConfigError and the like for what is asked, LimitError for too many jobs.
    """
    project = open_project()
    github = make_settings(project.settings).github
    asked = (*only, *_from_variable(project, only_variable))
    number = _number(count)
    if not seed.isprintable() or len(seed) > _LONGEST_SEED:
        raise ConfigError("a seed is one line of printable characters, and short", where="--seed")
    if number and not asked:
        asked = github.draw.packages
    patterns = spec_patterns(asked, "--only")
    single = bool(number or asked)
    pairs = [
        (system, name)
        for system in _chosen(github.systems, systems)
        for name in system_stacks(project, system)
        if not stacks or name in stacks
    ]
    if not pairs:
        raise ConfigError(
            "there is nothing to build", where="--stack", hint="is it a stack of a system?"
        )
    grounds = {
        name: _ground(project, name, single=single) for name in dict.fromkeys(n for _, n in pairs)
    }
    for system, name in pairs:
        ground = grounds[name]
        if ground.lock is not None:
            check_lock(system, ground.stack, ground.lock, ground.specs)
        elif not system.target:
            raise untargeted(system, ground.stack.where)
    lots = tuple(_lots(pairs, grounds, patterns, asked, single=single))
    if number:
        seed = seed or secrets.token_hex(8)
        console.note(f"--seed {seed}: {min(number, len(lots))} of {len(lots)} packages")
        check_limit(number, "--count")
        lots = draw(lots, number, seed)
    check_limit(len(lots), "github.systems")
    console.out(matrix_json(lots))


def _from_variable(project: Project, name: str) -> tuple[str, ...]:
    """Spec strings out of a variable, so that no shell has to look at what somebody typed."""
    value = project.env.get(name, "") if name else ""
    return tuple(part.strip() for part in value.split(_SEPARATOR) if part.strip())


def _number(text: str) -> int:
    """How many to draw; 0 for an empty text."""
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10_000:
        raise ConfigError(f"{text[:40]!r} is no number of at least 1", where="--count")
    return int(text)


def _chosen(systems: Sequence[System], names: Sequence[str]) -> Sequence[System]:
    if not systems:
        raise ConfigError(
            "no system is named to build on",
            where="invoke.yaml: stackyard.github.systems",
            hint="for example: [{name: noble, runner: ubuntu-24.04}]",
        )
    known = {system.name for system in systems}
    for name in names:
        if name not in known:
            raise ConfigError(
                f"there is no system {name!r}",
                where="--system",
                hint=f"there are: {', '.join(sorted(known))}",
            )
    return [system for system in systems if not names or system.name in names]


def system_stacks(project: Project, system: System) -> tuple[str, ...]:
    """Names of the stacks that are built on a system. Raises ConfigError for one that is not there."""
    known = list_stacks(project.root)
    for name in system.stacks:
        if name not in known:
            raise ConfigError(
                f"there is no stack {name!r}",
                where=f"invoke.yaml: stackyard.github.systems ({system.name})",
                hint=f"there are: {', '.join(known) or 'none'}",
            )
    return tuple(dict.fromkeys(system.stacks or known))


def _ground(project: Project, name: str, *, single: bool) -> _Ground:
    stack, settings = read_stack(project, name)
    pins = read_pins(project, stack)
    lock: Lock | None = None
    specs: tuple[Spec, ...] = ()
    if (project.root / stack.folder / "spack.lock").is_file():
        work = load_work(project, Request(stack=name))
        lock, specs = work.lock, built_specs(work)
    elif single:
        raise LockError(
            "the stack is not locked: nobody knows its packages",
            where=project.shown(f"{stack.folder}/spack.lock"),
            hint=f"run: invoke lock --stack {name}",
        )
    _check_version(lock)
    spack, packages = _pins(Asked(project, settings, stack, pins, lock), stack)
    return _Ground(stack, spack, packages, lock, specs)


def built_specs(work: Work) -> tuple[Spec, ...]:
    """What of a stack could be built for itself, dependencies first."""
    lock, reached = work.lock, work.lock.closure(work.roots)
    return tuple(
        lock.specs[key]
        for key in lock.order
        if key in reached and not lock.specs[key].external and not lock.specs[key].develop
    )


def _check_version(lock: Lock | None) -> None:
    if lock and lock.spack_version.startswith("0."):
        raise ConfigError(
            f"Spack {lock.spack_version} made it, and the workflow works with 1.0 and newer",
            where=lock.where,
            hint="make the lock anew with a newer Spack: invoke lock",
        )


def _pins(asked: Asked, stack: Stack) -> tuple[Pin, Pin]:
    """Commits of Spack and its packages. What no file says, the servers are asked for."""
    spack, packages = asked.spack(), asked.packages()
    if spack.commit and packages and packages.commit:
        from stackyard.pins import PACKAGES_REPO

        return spack, packages._replace(repo=packages.repo or PACKAGES_REPO)
    where = asked.project.shown(f"{stack.folder}/{PINS}")
    console.warn(
        f"{where} does not say which Spack and packages: what is newest is taken "
        f"(invoke lock --stack {stack.name} pins them)"
    )
    pins = settle(asked)
    if pins.packages is None:
        raise ConfigError(
            "a Spack before 1.0, which the workflow does not work with",
            where=where,
        )
    return pins.spack, pins.packages


def untargeted(system: System, where: str) -> ConfigError:
    """What to say where nobody says for which processor a job has to concretize."""
    return ConfigError(
        f"{system.name} has no target: the processor that GitHub happens to lend would be part of "
        "every hash",
        where=where,
        hint="for example target: x86_64_v3 in github.systems; or commit the lock: invoke lock",
    )


def check_lock(system: System, stack: Stack, lock: Lock, specs: Sequence[Spec]) -> None:
    """Raise ConfigError for what is locked for another processor or system than that one.

    Built there it would be something else than its hash says: the compiler and the C library are
    those of the machine.
    """
    match = _UBUNTU.match(system.runner)
    wrong = sorted({one.os for one in specs if match and one.os != f"ubuntu{match[1]}"})
    if wrong:
        raise ConfigError(
            f"locked for {', '.join(wrong)}, and {system.name} is {system.runner}",
            where=lock.where,
            hint="make the lock on that system (docs/github.md says how); or name the stacks of "
            "each system: github.systems",
        )
    if not system.target:
        return
    from stackyard.target import target_satisfies

    most = f":{system.target}"
    other = next((one for one in specs if not target_satisfies(one.target, most)), None)
    if other:
        raise ConfigError(
            f"{spec_name(other)} is locked for {other.target}, and {system.name} builds for "
            f"{system.target}",
            where=lock.where,
            hint=f"packages: {{all: {{require: [target={system.target}]}}}} in "
            f"{stack.where}, then invoke lock; or name other stacks: github.systems",
        )


def _lots(
    pairs: Sequence[tuple[System, str]],
    grounds: dict[str, _Ground],
    patterns: Sequence[Pattern],
    texts: Sequence[str],
    *,
    single: bool,
) -> Iterator[Lot]:
    """A job for each pair; or one for each package that a pattern holds for, of all without any.

    Raises SpecError for a pattern that holds for nothing.
    """
    if not single:
        for system, name in pairs:
            yield Lot(system, name, grounds[name].spack, grounds[name].packages)
        return
    matching = {name: _matching(ground, patterns) for name, ground in grounds.items()}
    for number, text in enumerate(texts):
        if not any(found[number] for found in matching.values()):
            raise SpecError(f"{text!r} holds for no spec of the stacks", where="--only")
    for system, name in pairs:
        ground = grounds[name]
        wanted = {key for found in matching[name] for key in found}
        for one in ground.specs:
            if one.hash in wanted or not patterns:
                yield Lot(system, name, ground.spack, ground.packages, spec_name(one), one.hash)


def _matching(ground: _Ground, patterns: Sequence[Pattern]) -> tuple[frozenset[str], ...]:
    """Hashes that each pattern holds for."""
    if not patterns or ground.lock is None:
        return ()
    from stackyard.spec import Matcher

    matcher = Matcher(ground.lock)
    return tuple(
        frozenset(one.hash for one in ground.specs if matcher.matches(one, pattern))
        for pattern in patterns
    )
