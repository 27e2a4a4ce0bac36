"""What a change reaches: the lock, compared with itself at another revision of git."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stackyard.edges import console, git
from stackyard.edges.files import read_bytes
from stackyard.errors import LockError, StackError
from stackyard.lock import Lock, parse_lock
from stackyard.plan import affected_specs, changed_specs

if TYPE_CHECKING:
    from stackyard.flow.steps import Request, Work

__all__ = ["affected_hashes"]

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


def affected_hashes(work: Work, request: Request) -> frozenset[str] | None:
    """Hashes that the change since a revision reaches; None if it concerns every job."""
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
    from stackyard.document import parse_yaml

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
    names = set()
    for file in git.changed_files(git.top(checkout), "HEAD^"):
        parts = file.split("/")
        if "packages" in parts[:-1]:
            names.add(parts[parts.index("packages") + 1])
    return frozenset(names) | {name.replace("_", "-").lstrip("-") for name in names}
