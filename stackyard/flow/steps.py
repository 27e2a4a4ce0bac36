"""Steps that several tasks share: from names on a command line to stack, lock, plan and pipeline."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from stackyard.defects import FIXES
from stackyard.edges import console
from stackyard.edges.files import read_bytes
from stackyard.edges.host import host_facts
from stackyard.edges.settings import Environment, find_root, read_settings
from stackyard.edges.stacks import list_stacks, load_stack
from stackyard.errors import ConfigError, LockError, SpecError, StackError, StaleError
from stackyard.lock import Lock, parse_lock
from stackyard.pipeline import Context, PipelineType
from stackyard.plan import Plan, affected_specs, changed_specs, make_plan
from stackyard.settings import Settings, make_settings
from stackyard.stack import Stack

__all__ = ["Project", "Request", "Work", "load_work", "open_project", "plan_work"]


_STACK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


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
    """One stack with its settings and its lock; ``roots`` are the hashes that it asks for."""

    project: Project
    stack: Stack
    settings: Settings
    lock: Lock
    lock_path: Path
    lock_bytes: bytes
    roots: tuple[str, ...]
    phases: tuple[frozenset[str], ...] = ()

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
    if not _STACK_NAME.fullmatch(stack.name):
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
            hint=f"concretize it with Spack: spack -e {project.shown(path.parent)} concretize",
        )
    data = read_bytes(path, LockError)
    lock = parse_lock(data, project.shown(path))
    roots = _asked_roots(stack, lock, project)
    work = Work(
        project=project,
        stack=stack,
        settings=settings,
        lock=lock,
        lock_path=path,
        lock_bytes=data,
        roots=roots,
    )
    return work._replace(phases=_phases(work))


def _expanded(stack: Stack, project: Project) -> Any:
    from stackyard.condition import evaluate  # noqa: PLC0415 - parses with ast only where needed
    from stackyard.speclist import expand  # noqa: PLC0415

    facts = host_facts()
    return expand(
        stack.definitions,
        stack.specs,
        lambda when: evaluate(when, facts, project.env),
        where=stack.where,
    )


def _asked_roots(stack: Stack, lock: Lock, project: Project) -> tuple[str, ...]:
    """Hashes of the lock's roots that the manifest asks for, in the lock's order."""
    # Most manifests list what they want word for word as Spack writes it into the lock.
    words = {root.spec for root in lock.roots}
    if {str(entry) for entry in stack.specs} == words:
        return tuple(dict.fromkeys(root.hash for root in lock.roots))
    from stackyard.speclist import surplus, unanswered  # noqa: PLC0415

    asked = _expanded(stack, project)
    if missing := unanswered(lock.roots, asked):
        names = ", ".join(str(text) for text in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise StaleError(
            f"the lock has no root for what {stack.where} asks: {names}{more}",
            where=lock.where,
            hint="the lock belongs to another manifest; concretize the stack again",
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
    affected = _affected(work, request) if prunes_unaffected(work, request) else None
    copying = PipelineType.parse(env.pipeline_type) is PipelineType.COPY_ONLY
    url = work.stack.ci.get("broken-specs-url")
    broken: frozenset[str] = frozenset()
    if url and not copying:
        from stackyard.edges.inventory import broken_specs  # noqa: PLC0415

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


class _Place(NamedTuple):
    """A mirror to look at; ``signed`` is None where only a URL is known."""

    name: str
    fetch_url: str
    signed: bool | None


def mirror_places(work: Work, request: Request) -> tuple[_Place, ...]:
    """The mirrors that count: those of ``--mirror``, else all of the stack's with binaries."""
    if not all(request.mirrors):
        raise ConfigError("an empty URL", where="--mirror", hint="is a variable not set?")
    known = {mirror.fetch_url.rstrip("/"): mirror for mirror in work.stack.mirrors.values()}
    if request.mirrors:
        from stackyard.edges.store import public_url  # noqa: PLC0415 - with what asks the mirrors

        return tuple(
            _Place(
                public_url(url),
                url,
                known[url.rstrip("/")].signed if url.rstrip("/") in known else None,
            )
            for url in request.mirrors
        )
    return tuple(
        _Place(mirror.name, mirror.fetch_url, mirror.signed)
        for mirror in work.stack.mirrors.values()
        if mirror.binary
    )


def take_inventory(work: Work, request: Request) -> Sequence[Any]:
    from stackyard.edges.inventory import take_inventories  # noqa: PLC0415 - brings the network in

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


#: Sections whose change the lock shows; a change of any other concerns all jobs.
_LOCKED_SECTIONS = frozenset(
    {
        "specs",
        "definitions",
        "packages",
        "concretizer",
        "compilers",
        "toolchains",
        "develop",
        "include_concrete",
        "view",
    }
)


def _affected(work: Work, request: Request) -> frozenset[str] | None:
    """Hashes that the change since a revision reaches; None if it concerns every job."""
    from stackyard.edges import git  # noqa: PLC0415

    since = request.since or "HEAD^"
    repository = git.top(work.lock_path.parent)
    changed = git.changed_files(repository, since)
    reason = _concerns_all(work, repository, since, changed)
    if reason:
        console.note(f"no pruning of unaffected specs: {reason} changed since {since}")
        return None
    before = git.file_at(repository, since, work.lock_path)
    seeds = set(changed_specs(_old_lock(work, since, before), work.lock))
    if request.packages:
        names = _changed_packages(Path(request.packages))
        seeds |= {key for key, spec in work.lock.specs.items() if spec.name in names}
    depth = work.project.env.prune_untouched_dependent_depth
    affected = affected_specs(work.lock, seeds, dependent_depth=depth)
    console.note(f"{len(seeds)} specs changed since {since}, {len(affected)} are affected")
    return affected


def _old_lock(work: Work, since: str, data: bytes | None) -> Lock | None:
    """The lock as it was; None where there was none, or a broken one that nobody could build."""
    if data is None:
        return None
    try:
        return parse_lock(data, f"{work.lock.where} at {since}")
    except LockError as error:
        console.note(f"every spec counts as changed: {error.where}: {error.message}")
        return None


def _concerns_all(work: Work, repository: Path, since: str, changed: frozenset[str]) -> str:
    """A changed file that says how jobs run, not what is built; empty if there is none."""
    from stackyard.document import parse_yaml  # noqa: PLC0415
    from stackyard.edges import git  # noqa: PLC0415

    root = work.project.root
    own = (".gitlab-ci.yml", "invoke.yaml", f"{work.stack.folder}/stack.yaml")
    names = {_inside(repository, root / name) for name in own}
    templates = _inside(repository, root / "templates" / "gitlab")
    for name in sorted(changed):
        if name in names or (templates and name.startswith(f"{templates}/")):
            return name
    for file in work.stack.files:
        path = root / file
        name = _inside(repository, path)
        if name not in changed or name in names or not name.endswith((".yaml", ".yml")):
            continue
        before = git.file_at(repository, since, path)
        try:
            old = parse_yaml(before, f"{name} at {since}") if before else {}
        except StackError:  # no pipeline came of that one
            return name
        new = parse_yaml(read_bytes(path, StackError), name)
        if _run_sections(old) != _run_sections(new):
            return name
    return ""


def _run_sections(document: Any) -> dict[str, Any]:
    sections = document.get("spack", document) if isinstance(document, Mapping) else {}
    return {key: value for key, value in sections.items() if key not in _LOCKED_SECTIONS}


def _inside(repository: Path, path: Path) -> str:
    """The path as git names it, empty outside the repository."""
    path, repository = path.resolve(), repository.resolve()
    return path.relative_to(repository).as_posix() if path.is_relative_to(repository) else ""


def _changed_packages(checkout: Path) -> frozenset[str]:
    """Names of packages whose recipe or patches the checkout's last commit changed."""
    from stackyard.edges import git  # noqa: PLC0415

    names = set()
    for file in git.changed_files(git.top(checkout), "HEAD^"):
        parts = file.split("/")
        if "packages" in parts[:-1]:
            names.add(parts[parts.index("packages") + 1])
    return frozenset(names) | {name.replace("_", "-").lstrip("-") for name in names}


def _phases(work: Work) -> tuple[frozenset[str], ...]:
    """The nodes of each ``bootstrap`` phase: what its definition's specs match, and below."""
    entries = [*work.stack.bootstrap, *work.settings.pipeline.bootstrap]
    if not entries:
        return ()
    from stackyard.spec import Matcher  # noqa: PLC0415

    matcher = Matcher(work.lock)
    return tuple(_phase(work, matcher, _phase_name(entry)) for entry in entries)


def _phase_name(entry: Any) -> tuple[str, bool]:
    if isinstance(entry, str):
        return entry, False
    if isinstance(entry, Mapping):
        return str(entry["name"]), bool(entry.get("compiler-agnostic"))
    return entry.name, entry.compiler_agnostic


def _phase(work: Work, matcher: Any, phase: tuple[str, bool]) -> frozenset[str]:
    from stackyard.condition import evaluate  # noqa: PLC0415
    from stackyard.speclist import expand  # noqa: PLC0415

    name, agnostic = phase
    facts, where = host_facts(), f"{work.stack.where}: spack.ci.bootstrap"
    if not any(name in entry for entry in work.stack.definitions):
        raise StackError(
            f"there is no definition named {name!r}",
            where=where,
            hint="bootstrap lists names of definitions",
        )
    asked = expand(
        work.stack.definitions,
        [f"${name}"],
        lambda when: evaluate(when, facts, work.project.env),
        where=where,
    )
    patterns = [p.without_direct() if agnostic else p for _, p in asked]
    found = [
        spec.hash
        for spec in work.lock.specs.values()
        if any(matcher.matches(spec, pattern) for pattern in patterns)
    ]
    if not found:
        raise StackError(
            f"the phase {name!r} matches no spec of the lock",
            where=where,
            hint="compare the definition with what was concretized",
        )
    return work.lock.closure(found)


def make_context(
    work: Work, request: Request, *, artifacts_root: str, forward: Sequence[str]
) -> Context:
    """All that the pipeline depends on beside plan and attributes, from stack and environment."""
    env, stack, settings = work.project.env, work.stack, work.settings
    target = stack.mirrors.get("buildcache-destination")
    if target is None:
        raise StackError(
            "there is no mirror named buildcache-destination",
            where=f"{stack.where}: spack.mirrors",
            hint="the build jobs push to it: add it with its url",
        )
    source = stack.mirrors.get("buildcache-source")
    version, checkout = _spack_pin(work)
    group = str(stack.cdash.get("build-group") or "")
    legacy = settings.pipeline
    return Context(
        artifacts_root=_relative_root(artifacts_root, work.project),
        given_root=_given_root(artifacts_root, work.project),
        generate_job=env.ci_job_name or "job-does-not-exist",
        generate_pipeline=env.ci_pipeline_id or "pipeline-does-not-exist",
        spack_version=version,
        spack_checkout=checkout,
        push_url=target.push_url,
        fetch_url=target.fetch_url,
        source_url=source.fetch_url if source else "",
        type=PipelineType.parse(env.pipeline_type),
        stack_name=env.ci_stack_name,
        require_signing=(env.require_signing or "").lower() == "true",
        prune_up_to_date=prunes_up_to_date(work, request),
        prune_unaffected=prunes_unaffected(work, request),
        rebuild_index=stack.ci.get("rebuild-index") is not False,
        build_group=group,
        build_stamp=_build_stamp(env, group),
        forward={name: env[name] for name in forward if name in env},
        phases=work.phases,
        artifacts_buildcache=bool(
            stack.ci.get("enable-artifacts-buildcache") or legacy.enable_artifacts_buildcache
        ),
        temporary_storage=str(
            stack.ci.get("temporary-storage-url-prefix") or legacy.temporary_storage_url_prefix
        ),
        limits=settings.limits,
        fix=settings.fix,
    )


def _build_stamp(env: Environment, group: str) -> str:
    if not group:
        return ""
    if env.cdash_build_stamp:
        return env.cdash_build_stamp
    from stackyard.edges.cdash import build_stamp  # noqa: PLC0415

    return build_stamp(group)


def project_folder(project: Project) -> Path:
    """The folder that the jobs call CI_PROJECT_DIR."""
    return Path(project.env.ci_project_dir or project.root)


def _relative_root(root: str, project: Project) -> str:
    folder = str(project_folder(project))
    absolute = posixpath.normpath(posixpath.join(folder, root or "jobs_scratch_dir"))
    return posixpath.relpath(absolute, folder)


def _given_root(root: str, project: Project) -> str:
    """What ``SPACK_ARTIFACTS_ROOT`` says: the text as it was given, but for a path in the project."""
    folder = str(project_folder(project))
    return posixpath.relpath(root, folder) if root.startswith(folder) else root


def _spack_pin(work: Work) -> tuple[str, str]:
    """``SPACK_VERSION`` and ``SPACK_CHECKOUT_VERSION``: from environment, settings, or the lock."""
    env, lock = work.project.env, work.lock
    pinned = env.spack_checkout_version or work.settings.spack.checkout_version
    checkout = pinned or lock.spack_commit or (lock.spack_version and f"v{lock.spack_version}")
    if not checkout:
        raise LockError(
            "the lock does not say which Spack made it",
            where=f"{lock.where}: spack",
            hint="set spack: checkout_version in the settings, or "
            "SPACK_CHECKOUT_VERSION in the environment",
        )
    if version := env.get("SPACK_VERSION"):
        return version, checkout
    if checkout.startswith("v") and checkout[1:2].isdigit():
        return checkout[1:], checkout
    return f"{lock.spack_version} ({checkout})".strip(), checkout
