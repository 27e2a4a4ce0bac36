"""Steps that several tasks share: from names on a command line to stack, lock, plan and pipeline."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stackyard.defects import FIXES
from stackyard.edges import console
from stackyard.edges.files import read_bytes
from stackyard.edges.host import host_facts
from stackyard.edges.settings import Environment, find_root, read_settings
from stackyard.edges.stacks import list_stacks, load_stack
from stackyard.errors import ConfigError, LockError, SpecError, StackError, StaleError
from stackyard.lock import Lock, parse_lock
from stackyard.pipeline import PipelineType
from stackyard.plan import Plan, make_plan
from stackyard.settings import Settings, make_settings
from stackyard.stack import Stack

if TYPE_CHECKING:
    from stackyard.edges.stores.access import Place
    from stackyard.pins import Pins
    from stackyard.speclist import Entry

__all__ = [
    "PINS",
    "STACK_NAME",
    "Project",
    "Request",
    "Work",
    "asked_roots",
    "load_work",
    "open_project",
    "plan_work",
    "project_templates",
    "read_pins",
    "work_of",
]

#: Beside the lock that it goes with.
PINS = "pins.yaml"

STACK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Request(NamedTuple):
    """What a user asked of ``generate``, ``plan`` or ``graph``."""

    stack: str = ""
    lock: str = ""
    mirrors: tuple[str, ...] = ()
    no_prune: bool = False
    check_index_only: bool = False
    prune_unaffected: bool = False
    since: str = ""
    packages: str = ""


class Project(NamedTuple):
    """A clone or any folder with ``invoke.yaml`` or ``stacks/``; ``settings`` are raw."""

    root: Path
    env: Environment
    settings: Mapping[str, Any]

    def shown(self, path: str | Path) -> str:
        """The path as errors name it: from the project's root where it lies inside."""
        path = Path(path)
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)


class Work(NamedTuple):
    """One stack with its settings and its lock; ``roots`` are the hashes that it asks for.

    ``pins`` are None where nobody wrote any for this lock.
    """

    project: Project
    stack: Stack
    settings: Settings
    lock: Lock
    lock_path: Path
    lock_bytes: bytes
    roots: tuple[str, ...]
    phases: tuple[frozenset[str], ...] = ()
    pins: Pins | None = None

    @property
    def fix(self) -> frozenset[str]:
        return self.settings.fix

    @property
    def folder(self) -> Path:
        return self.project.root / self.stack.folder


def open_project() -> Project:
    """The project around the current folder. Raises ConfigError if there is none."""
    root = find_root(Path.cwd())
    settings = read_settings(root, known_fixes=FIXES)
    return Project(root=root, env=Environment.snapshot(), settings=settings)


def read_stack(project: Project, name: str) -> tuple[Stack, Settings]:
    """A stack by name (default: the only one) with its settings; warnings go to the console."""
    stack = load_stack(
        project.root, name or _only_stack(project), project.env, host_facts(), known_fixes=FIXES
    )
    if not STACK_NAME.fullmatch(stack.name):
        raise StackError(
            f"{stack.name!r} cannot be a stack's name",
            where="stacks/",
            hint="letters, digits, dot, dash and underscore: it names jobs and paths",
        )
    for warning in stack.warnings:
        console.warn(warning)
    return stack, make_settings(project.settings, stack.overrides)


def _only_stack(project: Project) -> str:
    names = list_stacks(project.root)
    if len(names) == 1:
        return names[0]
    raise ConfigError(
        f"which stack? there are: {', '.join(names)}" if names else "there is no stack yet",
        where="--stack",
        hint="name one" if names else "put a spack.yaml into stacks/NAME/",
    )


def project_templates(project: Project) -> Callable[[str], Any]:
    """Loads a template by name: the project's own wins over that of the package."""
    from stackyard.edges.templates import load_template

    return lambda name: load_template(name, project.root)


@contextmanager
def naming(stack: Stack) -> Iterator[None]:
    """Put the manifest's name before the keys that errors of the core name."""
    try:
        yield
    except (StackError, SpecError) as error:
        if not error.where.startswith("spack."):
            raise
        where = f"{stack.where}: {error.where}"
        raise type(error)(error.message, where=where, hint=error.hint) from None


def work_of(
    project: Project,
    stack: Stack,
    settings: Settings,
    path: Path,
    roots: Callable[[Lock], tuple[str, ...]],
) -> Work:
    """A stack with the lock at this path; ``roots`` says which of its specs the stack asks for."""
    data = read_bytes(path, LockError)
    lock = parse_lock(data, project.shown(path))
    return Work(
        project=project,
        stack=stack,
        settings=settings,
        lock=lock,
        lock_path=path,
        lock_bytes=data,
        roots=roots(lock),
        pins=read_pins(project, stack),
    )


def load_work(project: Project, request: Request) -> Work:
    """Read stack and lock and see that they belong together.

    Raises ConfigError, StackError, LockError; StaleError if the manifest asks for a spec that the
    lock has no answer for.
    """
    stack, settings = read_stack(project, request.stack)
    path = Path(request.lock) if request.lock else project.root / stack.folder / "spack.lock"
    if not path.is_file():
        raise LockError(
            "the stack is not locked",
            where=project.shown(path),
            hint=f"run: invoke lock --stack {stack.name}",
        )
    work = work_of(project, stack, settings, path, lambda lock: asked_roots(stack, lock, project))
    if request.lock:
        work = work._replace(pins=None)
    if not (stack.bootstrap or settings.pipeline.bootstrap):
        return work
    from stackyard.flow.phases import phase_hashes

    return work._replace(phases=phase_hashes(work))


def expand_specs(
    stack: Stack, project: Project, specs: Sequence[Any], where: str
) -> tuple[Entry, ...]:
    """What entries of a spec list mean, with the stack's definitions, on this machine."""
    from stackyard.condition import evaluate  # parses with ast only where needed
    from stackyard.speclist import expand

    facts = host_facts()
    return expand(
        stack.definitions,
        specs,
        lambda when: evaluate(when, facts, project.env),
        where=where,
    )


def read_pins(project: Project, stack: Stack) -> Pins | None:
    """What ``pins.yaml`` beside the manifest says; None without the file."""
    path = project.root / stack.folder / PINS
    if not path.is_file():
        return None
    from stackyard.pins import parse_pins  # few commands care

    return parse_pins(read_bytes(path, ConfigError), project.shown(path))


def asked_roots(stack: Stack, lock: Lock, project: Project) -> tuple[str, ...]:
    """Hashes of the lock's roots that the manifest asks for, in the lock's order.

    Raises StaleError if the manifest asks for a spec that the lock has no answer for.
    """
    # Most manifests list what they want word for word as Spack writes it into the lock.
    words = {root.spec for root in lock.roots}
    if {str(entry) for entry in stack.specs} == words:
        return tuple(dict.fromkeys(root.hash for root in lock.roots))
    from stackyard.speclist import surplus, unanswered

    asked = expand_specs(stack, project, stack.specs, stack.where)
    if missing := unanswered(lock.roots, asked):
        names = ", ".join(str(text) for text in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise StaleError(
            f"the lock has no root for what {stack.where} asks: {names}{more}",
            where=lock.where,
            hint="the lock belongs to another manifest; run: invoke lock",
        )
    dropped = frozenset(surplus(lock.roots, asked))
    if dropped:
        names = ", ".join(repr(root.spec) for root in dropped)
        console.warn(f"{lock.where}: roots that the manifest no longer asks for: {names}")
    return tuple(dict.fromkeys(root.hash for root in lock.roots if root not in dropped))


def plan_work(work: Work, request: Request, *, reading: bool | None = None) -> Plan:
    """Ask the mirrors and decide. ``reading`` forces or forbids that mirrors are asked.

    Raises StoreError for a mirror that cannot be read, StackError for broken specs.
    """
    env = work.project.env
    prune = prunes_up_to_date(work, request)
    inventories: Sequence[Any] = ()
    if prune if reading is None else reading:
        inventories = take_inventory(work, request)
    affected = None
    if prunes_unaffected(work, request):
        from stackyard.flow.affected import affected_hashes

        affected = affected_hashes(work, request)
    copying = PipelineType.parse(env.pipeline_type) is PipelineType.COPY_ONLY
    url = work.stack.ci.get("broken-specs-url")
    broken: frozenset[str] = frozenset()
    if url and not copying:
        from stackyard.edges.mirrors.inventory import broken_specs

        broken = broken_specs(str(url), work.lock.specs.keys(), progress=console.note)
    return make_plan(
        work.lock,
        work.roots,
        inventories=inventories,
        prune_up_to_date=prune,
        affected=affected,
        broken=broken,
        allow_broken=not prune and affected is None,
    )


def prunes_up_to_date(work: Work, request: Request) -> bool:
    override = work.project.env.prune_up_to_date
    return not request.no_prune if override is None else override


def prunes_unaffected(work: Work, request: Request) -> bool:
    override = work.project.env.prune_untouched
    wanted = request.prune_unaffected if override is None else override
    for flag, value in (("--since", request.since), ("--packages", request.packages)):
        if value and not wanted:
            raise ConfigError(
                "it measures a change that nothing asks about",
                where=flag,
                hint="add --prune-unaffected",
            )
    return wanted


def mirror_places(work: Work, request: Request) -> tuple[Place, ...]:
    """The mirrors that count: those of ``--mirror``, else all of the stack's with binaries."""
    from stackyard.edges.stores.access import Place, mirror_place  # with what asks the mirrors

    if not all(request.mirrors):
        raise ConfigError("an empty URL", where="--mirror", hint="is a variable not set?")
    env, where = work.project.env, work.stack.where
    mirrors = work.stack.mirrors.values()
    if not request.mirrors:
        return tuple(mirror_place(mirror, env, where) for mirror in mirrors if mirror.binary)
    known = {mirror.fetch_url.rstrip("/"): mirror for mirror in mirrors}
    places = []
    for url in request.mirrors:
        place = Place("", url)
        if mirror := known.get(url.rstrip("/")):
            place = mirror_place(mirror, env, where)
        places.append(place._replace(name=place.shown, url=url))
    return tuple(places)


def take_inventory(work: Work, request: Request) -> Sequence[Any]:
    from stackyard.edges.mirrors.inventory import take_inventories  # brings the network in

    reached = work.lock.closure(work.roots)
    wanted = [
        work.lock.specs[key]
        for key in work.lock.order
        if key in reached and not work.lock.specs[key].external
    ]
    inventories = take_inventories(
        mirror_places(work, request),
        wanted,
        index_only=request.check_index_only,
        progress=console.note,
        tick=console.bar,
        specs=work.lock.specs,
    )
    for inventory in inventories:
        for warning in inventory.warnings:
            console.warn(warning)
    return inventories
