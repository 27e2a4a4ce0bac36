"""``build``: a stack on this machine, level by level, onto a mirror."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from stackyard.building import (
    Outcome,
    Result,
    building_json,
    building_table,
    chosen_specs,
    totals_text,
)
from stackyard.edges import console
from stackyard.edges.checkout import cache_folder
from stackyard.edges.files import claimed
from stackyard.edges.spack import Spack, clean_spack, find_spack
from stackyard.edges.stores.access import mirror_place
from stackyard.edges.stores.folder import FileStore
from stackyard.edges.stores.store import Store, writable
from stackyard.edges.watching import Watch
from stackyard.errors import ConfigError, StackyardError
from stackyard.fetch import spec_name
from stackyard.flow.ground import Goal, Ground, Options, end_after
from stackyard.flow.levels import Levels
from stackyard.flow.places import named_mirror, named_place
from stackyard.flow.steps import (
    Request,
    Work,
    load_work,
    naming,
    open_project,
    plan_work,
    prunes_up_to_date,
)
from stackyard.plan import Action, Plan
from stackyard.stack import Connection

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["build"]

_TARGET = "buildcache-destination"


def build(  # noqa: PLR0913
    *,
    stack: str,
    lock: str,
    mirror: str,
    spack: str,
    tree: str,
    logs: str,
    jobs: str,
    concurrent_packages: str,
    only: Sequence[str],
    no_prune: bool,
    unsigned: bool,
    keys: str,
    keep_config: bool,
    keep_going: bool,
    fail_fast: bool,
    as_json: bool,
    push: bool = True,
    index: bool = True,
    base_image: str = "",
    stop_after: str = "",
) -> None:
    """Plan, build what the mirror lacks, push it level by level, and say what came of it.

    Raises StackyardError (1) if a package failed, or if somebody stopped it; ConfigError and the
    like for what is asked, ToolError if Spack is missing or fails, StoreError for the mirror.
    """
    if keep_going and fail_fast:
        raise ConfigError("it is one or the other", where="--keep-going, --fail-fast")
    if base_image:
        from stackyard.image_names import parse_image_name

        parse_image_name(base_image, "--base-image")
    work = load_work(open_project(), Request(stack=stack, lock=lock))
    at_once = _count(concurrent_packages, "--concurrent-packages") or _usual(work)
    build_jobs = _count(jobs, "--jobs")
    end = end_after(_count(stop_after, "--stop-after"))
    goal = _goal(work, mirror, push=push)
    request = Request(stack=stack, lock=lock, mirrors=(goal.source.url,), no_prune=no_prune)
    work = work._replace(roots=_roots(work, only))
    with closing(goal.place.open()) as store:
        plan = _plan(work, request, store)
        if not plan.graph.needs:
            outcomes: Mapping[str, Outcome] = _untouched(plan)
            console.note("nothing to build: the mirror has it all")
            _print(plan, outcomes, work, goal, as_json=as_json)
            return
        _warn_of_system(plan, work.lock.where)
        folder = _folder(work, goal, unsigned=unsigned)
        options = Options(
            tree=Path(tree).absolute() if tree else folder / "tree",
            logs=Path(logs).absolute() if logs else folder / "logs",
            jobs=build_jobs,
            at_once=at_once,
            rebuild=not prunes_up_to_date(work, request),
            fail_fast=fail_fast,
            unsigned=unsigned,
            keys=keys,
            push=push,
            enter=index,
            base_image=base_image,
            end=end,
        )
        with ExitStack() as opened:
            opened.enter_context(claimed(folder, "another build of the stack"))
            program = _spack(work, spack, keep_config=keep_config)
            watch = opened.enter_context(Watch())
            levels = Levels(Ground(work, plan, goal, options, program, watch))
            trouble = levels.run(writable(store) if push else None)
    _print(plan, levels.outcomes, work, goal, as_json=as_json)
    _end(plan, levels.outcomes, trouble)


def _count(text: str, flag: str) -> int:
    """A number of at least one; 0 for none given."""
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10_000:
        raise ConfigError(f"{text!r} is no number of at least 1", where=flag)
    return int(text)


def _usual(work: Work) -> int:
    """As many packages at once as Spack's configuration in the stack says; its default is one."""
    config = work.stack.config.get("config") or {}
    value = config.get("concurrent_packages")
    return value if isinstance(value, int) and value > 0 else 1


def _goal(work: Work, mirror: str, *, push: bool) -> Goal:
    project, stack = work.project, work.stack
    target = stack.mirrors.get(_TARGET)
    text = mirror or ((target.push_url if push else target.fetch_url) if target else "")
    if not text:
        raise ConfigError(
            "no mirror is named", where="--mirror", hint="add --mirror URL; a folder will do"
        )
    place = named_place(project, text, flag="--mirror", push=push, stack=stack.name)
    found = named_mirror(project, text, flag="--mirror", push=push, stack=stack.name)
    if found is None:
        return Goal(text, place, place, Connection(place.url))
    known, where = found
    return Goal(text, place, mirror_place(known, project.env, where), known.fetch)


def _roots(work: Work, only: Sequence[str]) -> tuple[str, ...]:
    """The hashes that ``--only`` picks, instead of the stack's roots."""
    if not only:
        return work.roots
    from stackyard.flow.listing import spec_patterns

    patterns = spec_patterns(only, "--only")
    return chosen_specs(work.lock, work.lock.closure(work.roots), patterns, only)


def _plan(work: Work, request: Request, store: Store) -> Plan:
    """As ``plan`` does it; but a folder that is not there yet is an empty mirror here."""
    new = isinstance(store, FileStore) and not store.is_there
    with naming(work.stack):
        plan = plan_work(work, request, reading=False if new else None)
    for warning in plan.warnings:
        console.warn(warning)
    return plan


def _untouched(plan: Plan) -> dict[str, Outcome]:
    return {
        key: Outcome(Result.EXTERNAL if one.action is Action.EXTERNAL else Result.REUSED)
        for key, one in plan.decisions.items()
    }


def _warn_of_system(plan: Plan, where: str) -> None:
    """Spack takes this machine's compilers and libraries for those that the lock names."""
    from stackyard.edges.host import host_facts

    here = host_facts()["os"]()
    others = {plan.lock.specs[key].os for key in plan.graph.needs} - {here}
    if others:
        console.warn(
            f"{where}: locked for {', '.join(sorted(others))}, and this machine is {here}: what is "
            "built here is not what the lock says (make the lock here, or build in a container)"
        )


def _folder(work: Work, goal: Goal, *, unsigned: bool) -> Path:
    """Where this stack is built for this mirror.

    Each mirror has an install tree of its own: what came from a mirror that nobody signs must never
    get into what is signed for another one.
    """
    told = (str(work.project.root), work.stack.name, goal.place.url, str(unsigned))
    name = hashlib.sha256("\n".join(told).encode()).hexdigest()[:8]
    return cache_folder(work.project.env) / "build" / f"{work.stack.name}-{name}"


def _spack(work: Work, folder: str, *, keep_config: bool) -> Spack:
    """The Spack of ``--spack``, else the pinned one; 1.0 or newer, or ConfigError."""
    from stackyard.edges.checkout import head_of
    from stackyard.flow.clone import Asked, kept, settle
    from stackyard.flow.locking import pinned_checkout

    project = work.project
    asked = Asked(project, work.settings, work.stack, work.pins, work.lock)
    wanted = asked.spack().commit
    found = find_spack(folder or pinned_checkout(project, settle(asked)), project.env)
    commit = head_of(Path(folder), kept(project).git) if folder else ""
    if commit and wanted not in ("", commit):
        console.warn(f"{folder} is at {commit[:12]}; pinned is {wanted[:12]}")
    if found.version < (1, 0):
        raise ConfigError(
            f"Spack {found.version[0]}.{found.version[1]} writes layout 2, which is only read here",
            where=found.program,
            hint="build with Spack 1.0 or newer",
        )
    return found if keep_config else clean_spack(found, cache_folder(project.env) / "user")


def _print(
    plan: Plan, outcomes: Mapping[str, Outcome], work: Work, goal: Goal, *, as_json: bool
) -> None:
    if as_json:
        console.out(building_json(plan, outcomes, work.stack.name, goal.place.shown))
    else:
        console.out(building_table(plan, outcomes))


def _end(plan: Plan, outcomes: Mapping[str, Outcome], trouble: StackyardError | None) -> None:
    """Raise what has to be told at the end, if anything."""
    failed = {key: one for key, one in outcomes.items() if one.result is Result.FAILED}
    if not failed:
        if trouble:
            raise trouble
        return
    if trouble:
        console.warn(str(trouble))
    lines = "\n".join(
        f"  {spec_name(plan.lock.specs[key])}: {one.log or one.why}" for key, one in failed.items()
    )
    raise StackyardError(
        f"{len(failed)} of {len(outcomes)} packages failed ({totals_text(outcomes)}):\n{lines}",
        hint="read what they said, mend it, and run this again: it goes on where it stopped",
    )
