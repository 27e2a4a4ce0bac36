"""``site``: pages and a JSON API that show what a mirror holds, in a folder, file by file.

A run reads only what changed on the mirror since the last one, and writes only files whose bytes
change. The state of the site is written last: whatever a run leaves behind that was stopped, the
next one does again. Files that are not the site's own are left alone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from stackyard.edges import console
from stackyard.errors import ConfigError, CorruptError, StackyardError, StoreError

if TYPE_CHECKING:
    from stackyard.catalogue import Catalogue, Dressing, State
    from stackyard.catalogue.about import About
    from stackyard.edges.stores.counted import Counted
    from stackyard.edges.stores.store import Store, WritableStore
    from stackyard.flow.steps import Project

__all__ = ["site"]

_RECIPE_BYTES = 4 * 2**20
_STATE_BYTES = 2**30
#: Where a checkout has recipes, from that of all packages to the folder of one repository.
_RECIPES = (
    "repos/spack_repo/*/packages",
    "spack_repo/*/packages",
    "var/spack/repos/spack_repo/*/packages",
    "var/spack/repos/*/packages",
    "packages",
)
#: What a write that was stopped leaves behind.
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{12}")
_SIDECAR = re.compile(r".*[a-z2-7]{32}\.spec\.json")


class Report(NamedTuple):
    """What a run did; ``problems`` tells by key what is wrong with a manifest."""

    packages: int
    binaries: int
    read: int
    gone: int
    written: int
    removed: int
    requests: int
    problems: Mapping[str, str]


class Found(NamedTuple):
    """The mirror as it is now. ``files`` are sidecars that were written on the way."""

    state: State
    read: int
    files: int
    keys: Mapping[str, bytes]
    problems: Mapping[str, str]


def site(  # noqa: PLR0913 - passed by name
    *,
    url: str = "",
    to: str = "",
    packages: str = "",
    stack: str = "",
    public: str = "",
    base: str = "",
    title: str = "",
    full: bool = False,
    as_json: bool = False,
) -> None:
    """Write the catalogue of a mirror into a folder, or bring it up to date.

    Raises CorruptError at the end if there are binaries that could not be read and are not shown.
    """
    from stackyard.edges.files import claimed
    from stackyard.edges.stores.counted import Counted
    from stackyard.flow.places import find_project, named_place

    if not to.strip():
        raise ConfigError("no folder is named", where="--to", hint="add --to DIR")
    start = time.perf_counter()
    project = find_project()
    place = named_place(project, url, flag="--url")
    recipes = _recipes(project, packages, stack)
    folder = Path(to)
    with closing(place.open()) as store, claimed(folder / ".stackyard", "another run of site"):
        dressing = _dressing(store.url, public=public, base=base, title=title)
        counted = Counted(cast("WritableStore", store))  # it is only read
        old = _old_state(folder, store.url)
        found = _look(counted, folder, old, full=full)
        dressing = dressing._replace(
            keys=found.state.keys, about=_abouts(found.state, recipes) if recipes else {}
        )
        report = _write(folder, project, old, found, dressing, counted)
    if as_json:
        console.out(_json(report, place.shown, folder))
    console.note(_summary(report, time.perf_counter() - start))
    for key, problem in report.problems.items():
        console.warn(f"{key} cannot be read: {problem}")
    if report.problems:
        raise CorruptError(
            f"{len(report.problems)} binaries cannot be read: the site lacks them, or shows what was "
            "known of them",
            where=place.shown,
            hint="look closer with: stackyard mirror.verify",
        )


def _old_state(folder: Path, url: str) -> State:
    """What the site in the folder shows; an empty one is put there where there is none.

    So a first run that is stopped can be told from files that somebody else put there. Raises
    ConfigError if files that are not a site's stand where it has its own.
    """
    from stackyard.catalogue import State, dump_state, parse_state
    from stackyard.catalogue.files import STATE, TOP
    from stackyard.edges.files import read_bytes, write_files

    path = folder / STATE
    nothing = State(url, {})
    if not path.exists():
        if others := [name for name in TOP if _is_used(folder / name)]:
            raise ConfigError(
                f"there is something else: {', '.join(others)}",
                where=f"--to {folder}",
                hint="name an empty folder, or remove these",
            )
        write_files({path: dump_state(nothing)})
        return nothing
    try:
        return parse_state(read_bytes(path, limit_bytes=_STATE_BYTES), str(path))
    except StackyardError as error:
        console.warn(f"everything is read anew: {error}")
        return nothing


def _is_used(path: Path) -> bool:
    """Whether there is a file, or one below it; a run that was stopped early leaves folders."""
    if not path.is_dir():
        return path.exists()
    return any(not one.is_dir() and not _LEFTOVER.fullmatch(one.name) for one in path.rglob("*"))


def _look(store: Counted, folder: Path, old: State, *, full: bool) -> Found:
    """Read what is new on the mirror, or lacks its metadata in the folder; or everything."""
    from stackyard.catalogue import State, sidecar_path
    from stackyard.edges.files import write_files
    from stackyard.edges.mirrors.cataloguing import changes, read_fresh

    seen = old.entries if old.url == store.url else {}
    known = {
        key: one for key, one in seen.items() if not full and (folder / sidecar_path(one)).is_file()
    }
    now = time.time()
    found = changes(store, known)
    entries = {key: known[key] for key in found.same}
    by_key = {one.key: one for one in seen.values()}
    problems: dict[str, str] = {}
    files = 0
    if found.fresh:
        console.note(f"reading {len(found.fresh):,} binaries: {store.url}")
    for one in read_fresh(
        store, found, now=now, tick=lambda done, total: console.bar("binaries", done, total)
    ):
        entry = one.entry
        if entry is None:
            problems[one.key] = one.problem
            if one.unknown and one.key in by_key:
                entries[by_key[one.key].hash] = by_key[one.key]
            continue
        if entry.added_s is None and seen:
            # Nobody else knows when it came: it is new, or what an earlier run said holds.
            before = seen.get(entry.hash)
            entry = entry._replace(added_s=before.added_s if before else int(now))
        entries[entry.hash] = entry
        files += len(write_files({folder / sidecar_path(entry): one.sidecar}))
    keys = _keys(store)
    state = State(store.url, entries, tuple(sorted(keys)))
    return Found(state, len(found.fresh), files, keys, problems)


def _keys(store: Store) -> Mapping[str, bytes]:
    """The public keys on the mirror, for people to look at."""
    from stackyard.edges.mirrors.keys import published_keys

    if store.url.startswith(("oci://", "oci+http://")):
        return {}
    try:
        found = published_keys(store)
    except StoreError as error:
        console.warn(f"the mirror's keys are not shown: {error.message}")
        return {}
    return {key.fingerprint: key.data for key in found if key.data and not key.problem}


def _dressing(url: str, *, public: str, base: str, title: str) -> Dressing:
    from stackyard.catalogue import Dressing
    from stackyard.edges.stores.store import public_url

    if base and not re.fullmatch(r"https?://[!-~]+", base):
        raise ConfigError("must be an address that begins with http(s)://", where="--base")
    shown = public_url(public or url).rstrip("/")
    last = re.sub(r"[^A-Za-z0-9_.-]", "-", shown.rpartition("/")[2]).strip("-.") or "binaries"
    return Dressing(
        title=title or f"Spack binaries: {last}",
        url=shown,
        name=last,
        base=f"{base.rstrip('/')}/" if base else "",
    )


def _recipes(project: Project | None, packages: str, stack: str) -> tuple[Path, ...]:
    """The folders with recipes: of a checkout, or of the packages that a stack pins."""
    if not stack:
        return _recipe_folders(packages)
    if packages:
        raise ConfigError("recipes come from one place", where="--packages, --stack")
    from stackyard.flow.clone import pinned_recipes
    from stackyard.flow.steps import open_project

    return _recipe_folders(str(pinned_recipes(project or open_project(), stack)))


def _recipe_folders(packages: str) -> tuple[Path, ...]:
    """The folders with recipes in a checkout; none without one. Raises ConfigError."""
    if not packages:
        return ()
    root = Path(packages)
    found = [path for pattern in _RECIPES for path in sorted(root.glob(pattern))]
    holding = [path for path in (*found, root) if next(path.glob("*/package.py"), None)]
    if not holding:
        raise ConfigError(
            "no recipes are there",
            where=f"--packages {packages}",
            hint="name a checkout of Spack's package repository",
        )
    # What Spack itself brings comes last: a project's own recipe says more.
    return tuple(sorted(dict.fromkeys(holding), key=lambda path: path.parent.name == "builtin"))


def _abouts(state: State, folders: tuple[Path, ...]) -> Mapping[str, About]:
    """What the recipes say of the packages. A recipe that cannot be read says nothing."""
    from stackyard.catalogue.about import parse_about, recipe_folder
    from stackyard.edges.files import read_bytes

    found = {}
    for name in sorted({one.name for one in state.entries.values()}):
        paths = (folder / one for folder in folders for one in (recipe_folder(name), name))
        for path in paths:
            file = path / "package.py"
            if file.is_file():
                try:
                    found[name] = parse_about(read_bytes(file, limit_bytes=_RECIPE_BYTES), name)
                except StackyardError as error:
                    console.warn(f"{error}")
                break
    return found


def _write(  # noqa: PLR0913, PLR0917
    folder: Path,
    project: Project | None,
    old: State,
    found: Found,
    dressing: Dressing,
    store: Counted,
) -> Report:
    """The pages, then what is no more, and the state at last."""
    from stackyard.catalogue import Catalogue, dump_state, site_files
    from stackyard.catalogue.files import STATE, own_paths
    from stackyard.edges.files import write_files
    from stackyard.edges.templates import load_template

    root = project.root if project else folder / ".stackyard"  # which has no templates
    catalogue = Catalogue(found.state.entries, dressing)
    files = dict(site_files(catalogue, lambda name: load_template(name, root)))
    files.update((f"keys/{key}.pub", data) for key, data in found.keys.items())
    written = write_files({folder / path: data for path, data in files.items()})
    removed = _remove(folder, own_paths(old) - own_paths(found.state) - files.keys())
    removed += _sweep(folder, catalogue)
    write_files({folder / STATE: dump_state(found.state)})
    return Report(
        packages=len(catalogue.packages),
        binaries=len(catalogue.entries),
        read=found.read,
        gone=len(old.entries.keys() - found.state.entries.keys()),
        written=len(written) + found.files,
        removed=removed,
        requests=store.requests,
        problems=found.problems,
    )


def _remove(folder: Path, paths: frozenset[str]) -> int:
    count = 0
    for path in sorted(paths):
        try:
            (folder / path).unlink()
        except FileNotFoundError:
            continue
        except OSError as problem:
            reason = (problem.strerror or str(problem)).lower()
            raise StackyardError(f"cannot remove it: {reason}", where=str(folder / path)) from None
        count += 1
    return count


def _sweep(folder: Path, catalogue: Catalogue) -> int:
    """Remove metadata that belongs to no binary, and half-written files: of runs that were stopped."""
    from stackyard.catalogue import sidecar_path
    from stackyard.catalogue.sidecar import CACHE

    kept = {sidecar_path(one) for one in catalogue.entries.values()}
    lost = {
        path.relative_to(folder).as_posix()
        for path in (folder / CACHE).glob("*/build_cache/*")
        if _SIDECAR.fullmatch(path.name)
    } - kept
    folders = ("", "packages", "letters", "data", "api/v1", "api/v1/packages", "api/v1/hashes")
    lost |= {
        path.relative_to(folder).as_posix()
        for name in folders
        for path in (folder / name).glob(".*")
        if _LEFTOVER.fullmatch(path.name)
    }
    return _remove(folder, frozenset(lost))


def _summary(report: Report, seconds: float) -> str:
    from stackyard.catalogue.names import plural

    parts = [
        plural(report.packages, "package"),
        plural(report.binaries, "binary", "binaries"),
        f"{report.read:,} read",
        *([f"{report.gone:,} gone"] if report.gone else ()),
        f"{plural(report.written, 'file')} written",
        *([f"{report.removed:,} removed"] if report.removed else ()),
        f"{seconds:.1f} s",
        plural(report.requests, "request"),
    ]
    return f"site: {', '.join(parts)}"


def _json(report: Report, url: str, folder: Path) -> str:
    import json

    document = {"url": url, "to": str(folder), **report._asdict()}
    return json.dumps({**document, "problems": dict(report.problems)}, indent=2)
