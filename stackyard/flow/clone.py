"""``spack.clone``: the pinned Spack and its packages, at their exact commits, by the fewest bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stackyard.edges import console
from stackyard.edges.checkout import Git, Kept, cache_folder, resolve
from stackyard.edges.files import read_bytes, write_files
from stackyard.edges.stacks import list_stacks
from stackyard.errors import ConfigError, LockError
from stackyard.flow.steps import Project, open_project, read_pins, read_stack
from stackyard.pins import (
    Pin,
    Pins,
    check_pin,
    default_packages,
    public_repo,
    wanted_packages,
    wanted_spack,
)
from stackyard.prelude import PACKAGES, REPOS_HEAD, repos_text
from stackyard.settings import Settings, make_settings
from stackyard.stack import Stack

if TYPE_CHECKING:
    from stackyard.lock import Lock

__all__ = ["Asked", "asked_of", "clone", "kept", "pinned_recipes", "place", "settle"]

#: Where Spack's own defaults name its packages: 1.1 and later, 1.0.
_DEFAULTS = ("etc/spack/defaults/base/repos.yaml", "etc/spack/defaults/repos.yaml")


class Asked(NamedTuple):
    """All that says which Spack and which packages; ``stack`` None: the project alone."""

    project: Project
    settings: Settings
    stack: Stack | None = None
    pins: Pins | None = None
    lock: Lock | None = None

    def spack(self) -> Pin:
        made = (self.lock.spack_commit, self.lock.spack_version) if self.lock else ("", "")
        return wanted_spack(self.project.env, self.settings.spack, self.pins, *made)

    def packages(self) -> Pin | None:
        repos = self.stack.repos if self.stack else {}
        return wanted_packages(self.project.env, self.settings.spack, self.pins, repos)


def clone(*, to: str = "", stack: str = "", as_json: bool = False) -> None:
    """Put the pinned Spack into a folder, and the pinned packages below it."""
    project = open_project()
    pins = settle(_which(project, stack))
    folder = Path(to or ".spack").absolute()
    changed = place(pins, folder, project)
    if as_json:
        result = {"folder": str(folder), "changed": changed, **pins.as_dict()}
        console.out(json.dumps(result, indent=2))
        return
    for name, pin in pins.as_dict().items():
        ref = f" ({pin['ref']})" if "ref" in pin else ""
        console.note(f"{name} {pin['commit']}{ref}")
    console.note(f"{'ready' if changed else 'unchanged'}: . {folder}/share/spack/setup-env.sh")


def _which(project: Project, name: str) -> Asked:
    """What the named stack asks for; without a name, what all of them agree on."""
    names = [name] if name else list(list_stacks(project.root))
    asked = [asked_of(project, *read_stack(project, one)) for one in names]
    if not asked:
        return Asked(project, make_settings(project.settings))
    wishes = {(one.spack(), one.packages()) for one in asked}
    if len(wishes) > 1:
        raise ConfigError(
            f"the stacks differ in the Spack or the packages that they ask for: {', '.join(names)}",
            where="--stack",
            hint="name one",
        )
    return asked[0]


def asked_of(project: Project, stack: Stack, settings: Settings) -> Asked:
    """What a stack asks for; a lock that cannot be read says nothing."""
    return Asked(project, settings, stack, read_pins(project, stack), _read_lock(project, stack))


def _read_lock(project: Project, stack: Stack) -> Lock | None:
    path = project.root / stack.folder / "spack.lock"
    if not path.is_file():
        return None
    from stackyard.lock import parse_lock

    try:
        return parse_lock(read_bytes(path, LockError), project.shown(path))
    except LockError as error:
        console.warn(f"{error.where}: {error.message}")
        return None


def kept(project: Project) -> Kept:
    """The cache of this user."""
    return Kept(cache_folder(project.env), Git.of(project.env))


def settle(asked: Asked) -> Pins:
    """Commits for all that is asked for. Names are resolved, by the servers as they are now."""
    cache = kept(asked.project)
    spack = asked.spack()
    spack = resolve(check_pin(spack, "Spack (SPACK_REPO, SPACK_REF)"), cache.git, "SPACK_REF")
    packages = asked.packages()
    if packages is None:
        return Pins(spack)
    own = _own_packages(cache, spack)
    if own is None:  # before Spack 1.0
        return Pins(spack)
    repo = packages.repo or own.repo
    wanted = packages if packages.version else own
    where = "packages (SPACK_PACKAGES_REPO, repos: in the manifest)"
    pin = check_pin(Pin(repo, wanted.ref, wanted.commit), where)
    return Pins(spack, resolve(pin, cache.git, where))


def _own_packages(cache: Kept, spack: Pin) -> Pin | None:
    for path in _DEFAULTS:
        text = cache.read(spack, path)
        if text is not None:
            return default_packages(text, f"{spack.commit[:12]}:{path}")
    return None


def pinned_recipes(project: Project, stack: str) -> Path:
    """A checkout with the recipes that a stack pins: of the packages, or of a Spack before 1.0."""
    pins = settle(asked_of(project, *read_stack(project, stack)))
    folder = project.root / ".stackyard" / "recipes"
    kept(project).check_out(pins.packages or pins.spack, folder)
    return folder


def place(pins: Pins, folder: Path, project: Project) -> bool:
    """Check both out into one folder that Spack runs from; whether anything had to be done."""
    cache = kept(project)
    changed = cache.check_out(pins.spack, folder)
    repos = folder / "etc" / "spack" / "repos.yaml"
    if pins.packages is None:
        if repos.is_file() and read_bytes(repos).startswith(REPOS_HEAD.encode()):
            repos.unlink()  # of another pin; the packages below stay for the next one
            changed = True
        return changed
    changed = cache.check_out(pins.packages, folder / PACKAGES) or changed
    text = repos_text(public_repo(pins.packages.repo), pins.packages.commit)
    written: Sequence[Path] = write_files({repos: text.encode()})
    return changed or bool(written)
