"""The real Spack: what it has installed, and how it pushes that to a mirror."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from stackyard.building import telling_lines
from stackyard.edges import console
from stackyard.edges.process import relay, run
from stackyard.edges.settings import SECRETS, Environment
from stackyard.errors import ConfigError, ToolError
from stackyard.stack import Connection

__all__ = [
    "TARGET",
    "Relay",
    "Spack",
    "clean_spack",
    "find_spack",
    "has_signing_key",
    "install_command",
    "installed",
    "mirror_entry",
    "need_module",
    "opened_environment",
    "push",
    "reasons",
    "target_scope",
    "tree_root",
    "without_secrets",
]

#: The name that the mirror has for Spack while it pushes.
TARGET = "stackyard-target"

_ENTRY = re.compile(r"([a-z2-7]{32}) (/.*)")
_VERSION = re.compile(r"(\d+)\.(\d+)")
#: So many hashes are far below what a system takes as arguments.
_CHUNK = 1000
_OWN = ".spack-env"  # Spack's own folder in an environment
_HERE = "an executable bin/spack is not in it"
#: Variables that name other places for configuration, or an environment that is active.
_SCOPES = frozenset({"SPACK_ENV", "SPACK_SYSTEM_CONFIG_PATH", "SPACK_USER_CONFIG_PATH"})
#: What Spack imports for a scheme of URLs, and does not bring along.
_MODULES = {"s3": "boto3", "gs": "google.cloud.storage"}
#: Runs a program with these variables; gives its exit code, and the last lines that it said.
Relay = Callable[[Sequence[str], Mapping[str, str]], tuple[int, Sequence[str]]]
_MARK = "tree: "
_ROOT = f"import spack.store; print({_MARK!r} + str(spack.store.STORE.root))"


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
        raise ToolError(f"{program} --version failed: {reasons(done.stderr.splitlines())}")
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
        raise ToolError(f"spack find failed: {reasons((*lines, *done.stderr.splitlines()))}")
    matches = (_ENTRY.fullmatch(line) for line in lines)
    return {match[1]: match[2] for match in matches if match}


def mirror_entry(
    connection: Connection, url: str, *, signed: bool
) -> tuple[Mapping[str, object], Mapping[str, str]]:
    """What stands in ``mirrors:`` for a place, without values of secrets; and variables with them."""
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
    return entry, extra


@contextmanager
def target_scope(
    connection: Connection, url: str, *, signed: bool
) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """A configuration scope in which the mirror is the only one, and variables that it needs.

    In the file there are names of variables and no values.
    """
    entry, extra = mirror_entry(connection, url, signed=signed)
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
    relayed: Relay | None = None,
) -> None:
    """Let Spack push these specs to the scope's mirror; it tells its story on stderr.

    ``whole``: at one go, because what it makes of one depends on which others it knows of.
    ``relayed`` runs it, for those who want its story elsewhere. Raises ToolError if Spack fails,
    after it has tried all of them.
    """
    head = [spack.program, "-C", str(scope), "-e", str(environment), "buildcache", "push"]
    size = len(hashes) if whole else _CHUNK
    failed: Sequence[str] = ()
    for start in range(0, len(hashes), size):
        names = [f"/{dag_hash}" for dag_hash in hashes[start : start + size]]
        argv = [*head, "--only=package", *options, TARGET, *names]
        code, lines = (relayed or _noted)(argv, spack.variables)
        failed = failed or (lines if code else ())
    if failed:
        raise ToolError(f"spack buildcache push failed: {reasons(failed)}")


def _noted(argv: Sequence[str], variables: Mapping[str, str]) -> tuple[int, Sequence[str]]:
    return relay(argv, tell=console.note, env=variables)


def clean_spack(spack: Spack, cache: Path) -> Spack:
    """The same without the configuration of this machine's users and system.

    What Spack finds out about its packages goes into ``cache``, unless the user names a place.
    """
    kept = {name: value for name, value in spack.variables.items() if name not in _SCOPES}
    kept.setdefault("SPACK_USER_CACHE_PATH", str(cache))
    return spack._replace(variables={**kept, "SPACK_DISABLE_LOCAL_CONFIG": "1"})


def without_secrets(spack: Spack, secrets: Sequence[str]) -> Spack:
    """The same for programs that need no credentials: whoever wrote a recipe could read them.

    Spack writes all variables of a build into a file in its stage.
    """
    kept = {
        name: value
        for name, value in spack.variables.items()
        if name not in SECRETS and value not in secrets
    }
    return spack._replace(variables=kept)


def install_command(
    spack: Spack, environment: Path, hashes: Sequence[str], *options: str
) -> Sequence[str]:
    """Arguments that install these specs of an environment's lock, and change nothing in it."""
    names = (f"/{dag_hash}" for dag_hash in hashes)
    return (
        *(spack.program, "-e", str(environment), "install", "--only-concrete"),
        *(*options, *names),
    )


def tree_root(spack: Spack, environment: Path) -> str:
    """The folder that the environment's packages are installed below, with its padding.

    Raises ToolError if Spack fails.
    """
    argv = [spack.program, "-e", str(environment), "python", "-c", _ROOT]
    done = run(argv, env=spack.variables)
    said = done.stdout.decode(errors="replace").splitlines()
    found = [line.removeprefix(_MARK) for line in said if line.startswith(_MARK)]
    if done.code or not found:
        raise ToolError(f"spack python failed: {reasons((*said, *done.stderr.splitlines()))}")
    return found[-1]


def need_module(spack: Spack, environment: Path, url: str) -> None:
    """Raise ToolError if Spack's Python lacks what it needs to speak with this kind of mirror."""
    module = _MODULES.get(url.partition("://")[0])
    if module is None:
        return
    argv = [spack.program, "-e", str(environment), "python", "-c", f"import {module}"]
    done = run(argv, env=spack.variables)
    if done.code:
        raise ToolError(f"Spack cannot use {url}: {reasons(done.stderr.splitlines())}")


def has_signing_key(spack: Spack, environment: Path) -> bool:
    """Whether Spack's own keyring has a key that it can sign with. Raises ToolError."""
    argv = [spack.program, "-e", str(environment), "gpg", "list", "--signing"]
    done = run(argv, env=spack.variables)
    if done.code:
        raise ToolError(f"spack gpg list failed: {reasons(done.stderr.splitlines())}")
    return bool(re.search(r"^sec", done.stdout.decode(errors="replace"), re.MULTILINE))


def reasons(lines: Sequence[str]) -> str:
    """Why Spack failed, as it says it: from its first error on, and none of its warnings."""
    return "\n  ".join(line.strip() for line in telling_lines(lines)) or "it said nothing"
