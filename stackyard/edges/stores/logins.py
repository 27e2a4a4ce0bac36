"""User and password for a registry: the mirror's entry, our variables, Docker's files, the CI job.

Our variables are ``STACKYARD_OCI_TOKEN``, or ``STACKYARD_OCI_TOKEN_FILE`` with the path of a file
that holds it; ``STACKYARD_OCI_REGISTRY`` is the one registry that gets it (ghcr.io), and
``STACKYARD_OCI_USER`` the user that goes with it.

Docker's configuration is read as Docker does it: the helper for the registry, then the helper for
all, then what stands in the file. Podman's file has the same format.
"""

from __future__ import annotations

import json
import re
import stat
from base64 import b64decode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stackyard.edges.files import read_bytes
from stackyard.edges.process import run
from stackyard.edges.settings import conceal
from stackyard.edges.stores.store import Access
from stackyard.errors import ConfigError, StackyardError
from stackyard.oci import Reference

__all__ = ["NOBODY", "Login", "find_login"]

_LARGEST_FILE = 2**20
_HELPER_S = 30.0
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_GITHUB = "ghcr.io"
_TOKEN = "STACKYARD_OCI_TOKEN"  # noqa: S105 - the name of a variable
_TOKEN_FILE = "STACKYARD_OCI_TOKEN_FILE"  # noqa: S105 - the name of a variable
_NOBODY_IN_PARTICULAR = "x-access-token"  # ghcr.io wants a user, and does not mind which
_LARGEST_TOKEN = 2**14
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
#: What Docker calls its own registry, in files and in front of helpers.
_HUB_SERVER = "https://index.docker.io/v1/"
_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
#: The user under which Docker and its helpers keep a token.
_TOKEN_USER = "<token>"  # noqa: S105


class Login(NamedTuple):
    """Who we are to a registry. ``token`` is a bearer token, or one that is changed for others.

    ``source`` says for people where it came from; ``remarks`` what could not be read on the way.
    """

    user: str = ""
    password: str = ""
    token: str = ""
    source: str = ""
    remarks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Without the secrets."""
        return f"Login(source={self.source!r})"

    def __bool__(self) -> bool:
        return bool(self.token or self.password)


NOBODY = Login()


def find_login(reference: Reference, access: Access, env: Mapping[str, str]) -> Login:
    """The first login that there is, in the order of this module's first line; an empty one else.

    Its secrets are masked in all output from now on. Raises ConfigError for a file with a token
    that is not there, that others may read, or that holds something else.
    """
    login = _given(access) or _from_variables(reference, env)
    remarks: list[str] = []
    if not login:
        login = _from_files(reference, env, remarks) or _from_job(reference, env)
    conceal(login.password, login.token)
    return login._replace(remarks=tuple(remarks))


def _given(access: Access) -> Login:
    source = "the mirror's entry"
    if access.secret:
        return Login(user=access.id, password=access.secret, source=source)
    if access.token and access.id:
        return Login(user=access.id, password=access.token, source=source)
    return Login(token=access.token, source=source) if access.token else NOBODY


def _from_variables(reference: Reference, env: Mapping[str, str]) -> Login:
    """A token that is meant for this registry; another one never gets to see it."""
    registry = env.get("STACKYARD_OCI_REGISTRY") or _GITHUB
    if registry.removeprefix("https://").rstrip("/").lower() != reference.domain.lower():
        return NOBODY
    source, token = _TOKEN, env.get(_TOKEN, "").strip()
    if not token and (path := env.get(_TOKEN_FILE, "")):
        source, token = _TOKEN_FILE, _token_in(Path(path).expanduser())
    if not token:
        return NOBODY
    conceal(token)
    user = env.get("STACKYARD_OCI_USER") or _NOBODY_IN_PARTICULAR
    return Login(user=user, password=token, source=source)


def _token_in(path: Path) -> str:
    where = f"${_TOKEN_FILE}: {path}"
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # a NUL in the path
        reason = (getattr(error, "strerror", "") or str(error)).lower()
        raise ConfigError(f"cannot read it: {reason}", where=where) from None
    if mode & _OTHERS:
        raise ConfigError(
            f"others on this machine can read the token (mode {stat.S_IMODE(mode):04o})",
            where=where,
            hint=f"make it yours alone, and make a new token if it lay there for long: chmod 600 {path}",
        )
    text = read_bytes(path, limit_bytes=_LARGEST_TOKEN).decode("utf-8", "replace").strip()
    if not text or not text.isprintable() or " " in text:
        raise ConfigError(
            "it holds no token", where=where, hint="the token alone in one line, and nothing else"
        )
    return text


def _from_job(reference: Reference, env: Mapping[str, str]) -> Login:
    """What GitHub and GitLab give to each of their jobs, for their own registries."""
    if reference.domain == _GITHUB:
        names = ("GITHUB_ACTOR", "GITHUB_TOKEN")
    elif reference.domain == env.get("CI_REGISTRY", "").removeprefix("https://"):
        names = ("CI_REGISTRY_USER", "CI_REGISTRY_PASSWORD")
    else:
        return NOBODY
    user, password = (env.get(name, "") for name in names)
    if not password:
        return NOBODY
    return Login(user=user or "x-access-token", password=password, source=" and ".join(names))


def _from_files(reference: Reference, env: Mapping[str, str], remarks: list[str]) -> Login:
    for path in _files(env):
        if not path.is_file():
            continue
        try:
            document = json.loads(read_bytes(path, limit_bytes=_LARGEST_FILE))
            login = _from_document(reference, document, str(path))
        except StackyardError as error:
            remarks.append(f"{path}: {error.message}")
        except (ValueError, RecursionError, TypeError, AttributeError):
            remarks.append(f"{path}: not a configuration of Docker's")
        else:
            if login:
                return login
    return NOBODY


def _files(env: Mapping[str, str]) -> Iterator[Path]:
    if given := env.get("REGISTRY_AUTH_FILE"):
        yield Path(given)
    home = Path(env["HOME"]) if env.get("HOME") else None
    if given := env.get("DOCKER_CONFIG"):
        yield Path(given) / "config.json"
    elif home:
        yield home / ".docker" / "config.json"
    if given := env.get("XDG_RUNTIME_DIR"):
        yield Path(given) / "containers" / "auth.json"
    if home:
        yield home / ".config" / "containers" / "auth.json"


def _from_document(reference: Reference, document: Any, path: str) -> Login:
    server = _HUB_SERVER if reference.is_docker_hub else reference.domain
    helpers = {_server(key): value for key, value in (document.get("credHelpers") or {}).items()}
    helper = helpers.get(reference.domain) or document.get("credsStore")
    if helper and (login := _ask_helper(helper, server)):
        return login
    entries = {_server(key): value for key, value in (document.get("auths") or {}).items()}
    parts = f"{reference.domain}/{reference.name}".split("/")
    for count in range(len(parts), 0, -1):  # Podman's file may name a folder of repositories
        if login := _from_entry(entries.get("/".join(parts[:count])) or {}, path):
            return login
    return NOBODY


def _server(key: str) -> str:
    """The registry that a key of the file means: ``https://index.docker.io/v1/`` → its host."""
    key = re.sub(r"^https?://", "", key).rstrip("/")
    key = re.sub(r"/v[12]$", "", key)
    host, slash, rest = key.partition("/")
    return ("index.docker.io" if host in _HUB_NAMES else host) + slash + rest


def _from_entry(entry: Mapping[str, Any], path: str) -> Login:
    token = entry.get("identitytoken") or entry.get("registrytoken") or ""
    user, password = entry.get("username") or "", entry.get("password") or ""
    if packed := entry.get("auth"):
        user, _, password = b64decode(packed, validate=True).decode().rstrip("\0").partition(":")
    return Login(user=str(user), password=str(password), token=str(token), source=path)


def _ask_helper(helper: str, server: str) -> Login:
    """Ask ``docker-credential-HELPER``. Raises ToolError if it cannot be run."""
    if not _HELPER.fullmatch(helper):
        raise StackyardError("the name of a credential helper is none")
    program = f"docker-credential-{helper}"
    done = run([program, "get"], feed=server.encode(), timeout_s=_HELPER_S)
    if done.code:  # it knows no such server, and says so in words of its own
        return NOBODY
    answer = json.loads(done.stdout)
    user, secret = str(answer.get("Username") or ""), str(answer.get("Secret") or "")
    if user == _TOKEN_USER:
        return Login(token=secret, source=program)
    return Login(user=user, password=secret, source=program)
