"""Let Spack concretize a manifest, in a copy of its folder, and take the lock from there."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stackyard.edges.files import read_bytes
from stackyard.edges.process import relay, run
from stackyard.edges.spack import Spack, reasons
from stackyard.errors import LockError, ToolError

__all__ = ["concretize", "copied_environment", "packages_folder", "private_scope"]

#: Not to be found in the copy: what is Spack's or made anew, and what would make it a repository.
_LEFT_OUT = (".git", ".spack-env", "pins.yaml", "spack.lock")
_INDICES = "*/builtin-*index.json"


@contextmanager
def copied_environment(root: Path, folder: Path) -> Iterator[Path]:
    """The stack's folder, at a place where Spack may write: its manifest, and links to all else.

    The folders above it, up to the project's ``root``, are made as well, with links to what lies
    in them: paths such as ``../common/packages.yaml`` lead where they did.
    """
    root = root if folder.is_relative_to(root) else folder.parent
    with tempfile.TemporaryDirectory(prefix="stackyard-lock-") as temporary:
        here, there = root, Path(temporary).resolve() / "project"
        for step in folder.relative_to(root).parts:
            _link(here, there, step)
            here, there = here / step, there / step
        _link(here, there, "spack.yaml")
        (there / "spack.yaml").write_bytes(read_bytes(here / "spack.yaml"))
        yield there


def _link(here: Path, there: Path, but: str) -> None:
    there.mkdir()
    for path in here.iterdir():
        if path.name not in (*_LEFT_OUT, but):
            (there / path.name).symlink_to(path)


@contextmanager
def private_scope(indices: Path) -> Iterator[Path]:
    """A configuration scope above all others, in which Spack has nothing installed.

    What is installed on this machine would be reused. And Spack writes the compilers that it finds
    into the highest scope: here they are gone afterwards.

    ``indices`` is a folder for what Spack found out about its own packages, which takes it a
    minute: it must be another one for other packages. Spack itself keeps that by the name of a
    repository, and takes what it knows of one for another whose files are older.
    """
    with tempfile.TemporaryDirectory(prefix="stackyard-scope-") as folder:
        cache = Path(folder) / "cache"
        _copy_indices(indices, cache)
        config = {"install_tree": {"root": f"{folder}/tree"}, "misc_cache": str(cache)}
        (Path(folder) / "config.yaml").write_text(json.dumps({"config": config}))
        try:
            yield Path(folder)
        finally:  # after a failure too, or the next try would take as long
            _copy_indices(cache, indices)


def _copy_indices(here: Path, there: Path) -> None:
    """Whole or not at all, and with their times, by which Spack sees whether they are up to date."""
    for path in here.glob(_INDICES):
        target = there / path.relative_to(here)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            shutil.copyfile(path, file.name)
        shutil.copystat(path, file.name)
        Path(file.name).replace(target)


def concretize(  # noqa: PLR0913
    spack: Spack,
    environment: Path,
    scope: Path | None,
    *,
    tell: Callable[[str], None],
    beat: Callable[[float], None],
    beat_s: float = 60,
) -> bytes:
    """The bytes of the lock that Spack makes of the environment, from nothing.

    ``tell`` gets each line that Spack says, ``beat`` the seconds so far, once a silent minute.
    Raises ToolError if Spack fails, LockError if it made no lock.
    """
    own = ["-C", str(scope)] if scope else []
    argv = [spack.program, *own, "-e", str(environment), "concretize", "--force"]
    env = {**spack.variables, "PYTHONUNBUFFERED": "1"}
    code, lines = relay(argv, tell=tell, env=env, beat=beat, beat_s=beat_s)
    if code:
        raise ToolError(
            f"spack concretize failed: {reasons(lines)}",
            hint="what Spack said stands above; nothing was written",
        )
    path = environment / "spack.lock"
    if not path.is_file():
        raise LockError(
            "Spack made no lock", where=str(environment), hint="does the manifest name any specs?"
        )
    return read_bytes(path, LockError)


def packages_folder(spack: Spack, environment: Path) -> Path | None:
    """Where Spack's own packages are in this environment; None where it does not say."""
    argv = [spack.program, "-e", str(environment), "location", "--repo", "builtin"]
    done = run(argv, env=spack.variables)
    lines = done.stdout.decode(errors="replace").splitlines()
    return Path(lines[-1]) if lines and not done.code else None
