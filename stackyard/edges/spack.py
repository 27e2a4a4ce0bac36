"""The real Spack: what it has installed, and how it pushes that to a mirror."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from stackyard.edges import console
from stackyard.edges.process import relay, run
from stackyard.edges.settings import Environment
from stackyard.errors import ConfigError, ToolError
from stackyard.stack import Connection

__all__ = [
    "TARGET",
    "Spack",
    "find_spack",
    "installed",
    "opened_environment",
    "push",
    "target_scope",
]

#: The name that the mirror has for Spack while it pushes.
TARGET = "stackyard-target"

_ENTRY = re.compile(r"([a-z2-7]{32}) (/.*)")
_VERSION = re.compile(r"(\d+)\.(\d+)")
#: So many hashes are far below what a system takes as arguments.
_CHUNK = 1000
_OWN = ".spack-env"  # Spack's own folder in an environment
_HERE = "an executable bin/spack is not in it"


class Spack(NamedTuple):
    """A program with the variables that it is run with, and its version."""

    program: str
    variables: Mapping[str, str]
    version: tuple[int, int]

    def __repr__(self) -> str:
        """Without the variables."""
        return f"Spack({self.program!r}, {self.version!r})"


def find_spack(folder: str, env: Environment) -> Spack:
    """The Spack in a checkout; or that of ``SPACK_ROOT``, or on the search path.

    Raises ConfigError for a folder without one, ToolError where there is none or it does not run.
    """
    named = folder or env.get("SPACK_ROOT", "")
    program = f"{named}/bin/spack" if named else shutil.which("spack", path=env.get("PATH"))
    if named and not os.access(str(program), os.X_OK):
        raise ConfigError(
            f"{_HERE}: {named}",
            where="--spack" if folder else "$SPACK_ROOT",
            hint="name a checkout",
        )
    if not program:
        raise ToolError(
            "Spack is not here",
            hint="name its checkout: --spack DIR; or a mirror to copy from: --from URL",
        )
    # The key has been taken out of it, and no program needs to inherit it.
    variables = {name: value for name, value in env.items() if name != "SPACK_SIGNING_KEY"}
    done = run([program, "--version"], env=variables)
    match = _VERSION.search(done.stdout.decode(errors="replace"))
    if done.code or not match:
        raise ToolError(f"{program} --version failed: {_last(done.stderr.splitlines())}")
    return Spack(program, variables, (int(match[1]), int(match[2])))


@contextmanager
def opened_environment(folder: Path, text: str, lock: Path) -> Iterator[Path]:
    """A folder that Spack takes for the stack's environment, with this lock.

    It is the stack's own one where it has that lock, because paths in its manifest are relative to
    it. Otherwise it is a new one, with links to whatever lies in the stack's, ``text`` as manifest,
    and the lock.
    """
    own = folder / _OWN
    if lock.resolve() == (folder / "spack.lock").resolve():
        known = own.exists()
        try:
            yield folder
        finally:
            if not known:
                (own / "transaction_lock").unlink(missing_ok=True)
                with suppress(OSError):
                    own.rmdir()
        return
    with tempfile.TemporaryDirectory(prefix="stackyard-env-") as temporary:
        new = Path(temporary)
        for path in folder.iterdir():
            if path.name not in ("spack.yaml", "spack.lock", _OWN):
                (new / path.name).symlink_to(path)
        (new / "spack.yaml").write_text(text)
        shutil.copyfile(lock, new / "spack.lock")
        yield new


def installed(spack: Spack, environment: Path) -> Mapping[str, str]:
    """Where the environment's installed specs are, by DAG hash; externals among them.

    Raises ToolError if Spack fails.
    """
    argv = [spack.program, "-e", str(environment), "find", "--format", "{hash} {prefix}"]
    done = run(argv, env=spack.variables)
    lines = done.stdout.decode(errors="replace").splitlines()
    if done.code:
        raise ToolError(f"spack find failed: {_last((*lines, *done.stderr.splitlines()))}")
    matches = (_ENTRY.fullmatch(line) for line in lines)
    return {match[1]: match[2] for match in matches if match}


@contextmanager
def target_scope(
    connection: Connection, url: str, *, signed: bool
) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """A configuration scope in which the mirror is the only one, and variables that it needs.

    In the file there are names of variables and no values.
    """
    entry: dict[str, object] = {"url": url, "signed": signed}
    extra = {}
    pair = {"id_variable": connection.id_variable, "id": connection.id}
    secret = connection.secret_variable
    if connection.secret:
        secret = "STACKYARD_TARGET_SECRET"  # noqa: S105 - a name
        extra[secret] = connection.secret
    if secret:
        entry["access_pair"] = {
            **{key: value for key, value in pair.items() if value},
            "secret_variable": secret,
        }
    for key in ("access_token_variable", "profile", "endpoint_url"):
        if value := getattr(connection, key):
            entry[key] = value
    with tempfile.TemporaryDirectory(prefix="stackyard-scope-") as folder:
        # Two colons: instead of all mirrors that other scopes have, not beside them.
        text = json.dumps({"mirrors:": {TARGET: entry}})
        (Path(folder) / "mirrors.yaml").write_text(text)
        yield Path(folder), extra


def push(  # noqa: PLR0913
    spack: Spack,
    environment: Path,
    scope: Path,
    hashes: Sequence[str],
    options: Sequence[str],
    *,
    whole: bool,
) -> None:
    """Let Spack push these specs to the scope's mirror; it tells its story on stderr.

    ``whole``: at one go, because what it makes of one depends on which others it knows of. Raises
    ToolError if Spack fails, after it has tried all of them.
    """
    head = [spack.program, "-C", str(scope), "-e", str(environment), "buildcache", "push"]
    size = len(hashes) if whole else _CHUNK
    failed: Sequence[str] = ()
    for start in range(0, len(hashes), size):
        names = [f"/{dag_hash}" for dag_hash in hashes[start : start + size]]
        argv = [*head, "--only=package", *options, TARGET, *names]
        code, lines = relay(argv, tell=console.note, env=spack.variables)
        failed = failed or (lines if code else ())
    if failed:
        raise ToolError(f"spack buildcache push failed: {_last(failed)}")


def _last(lines: Sequence[str]) -> str:
    said = [line.strip() for line in lines if line.strip()]
    return "\n  ".join(said[-5:]) or "it said nothing"
