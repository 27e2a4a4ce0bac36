"""Which Spack, and which packages: a repository, the name somebody gave, and the exact commit.

The pins of a stack lie beside its lock, in ``pins.yaml``: they say what the lock was made with. A
name (branch or tag) is resolved once; from then on the commit counts, until somebody asks for
another name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from stackyard.document import dump_yaml, parse_yaml
from stackyard.errors import ConfigError
from stackyard.settings import SpackSource
from stackyard.shape import TEXT, Map, Report

__all__ = [
    "PACKAGES_REPO",
    "SPACK_REF",
    "SPACK_REPO",
    "Pin",
    "Pins",
    "check_pin",
    "clone_variables",
    "default_packages",
    "dump_pins",
    "is_commit",
    "parse_pins",
    "pin_troubles",
    "public_repo",
    "wanted_packages",
    "wanted_spack",
]

SPACK_REPO = "https://github.com/spack/spack.git"
PACKAGES_REPO = "https://github.com/spack/spack-packages.git"
#: A tag that Spack moves to each new release.
SPACK_REF = "releases/latest"

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHORT = re.compile(r"[0-9a-f]{7,64}")
#: Not all that git allows, but nothing that a shell, YAML or an option parser sees more in.
_REF = re.compile(r"(?!.*(?:\.\.|//|@\{))[A-Za-z0-9_][A-Za-z0-9_./+@-]*")
#: A URL, ``user@host:path``, or an absolute path: no option, no blank, no quote.
_REPO = re.compile(r"(?:(?:https?|ssh|git|file)://|[\w.-]+@[\w.-]+:|/)[^\s'\"\\`$<>|;&]+")
_USERINFO = re.compile(r"(https?://)[^/?#]*@")

_PIN = Map({"repo": TEXT, "ref": TEXT, "commit": TEXT}, required=("repo", "commit"))
_PINS = Map({"spack": _PIN, "packages": _PIN}, required=("spack",))
_HEAD = "# Written by `invoke lock`: what made the lock beside it.\n"


class Pin(NamedTuple):
    """A commit of a repository. While ``commit`` is empty, it is whatever ``ref`` names.

    An empty ``repo`` or ``ref`` is one that nobody named.
    """

    repo: str = ""
    ref: str = ""
    commit: str = ""

    @property
    def version(self) -> str:
        """What can be checked out: the commit, or else the name."""
        return self.commit or self.ref

    def answers(self, asked: Pin) -> bool:
        """Whether this is what is asked for, as far as anything is.

        A commit is the same wherever it comes from, so the repository does not matter.
        """
        return asked.commit in ("", self.commit) and (
            asked.ref in ("", self.ref) or _is_short_for(asked.ref, self.commit)
        )


class Pins(NamedTuple):
    """``packages`` is None for a Spack that has its packages inside, or finds them at a path."""

    spack: Pin
    packages: Pin | None = None

    def as_dict(self) -> dict[str, dict[str, str]]:
        """For files and people: without what is empty, and without anybody's password."""
        both = {"spack": self.spack, "packages": self.packages}
        return {
            name: {
                key: value
                for key, value in pin._replace(repo=public_repo(pin.repo))._asdict().items()
                if value
            }
            for name, pin in both.items()
            if pin
        }


def is_commit(text: str) -> bool:
    """Whether this is a commit, written in full."""
    return _COMMIT.fullmatch(text) is not None


def _is_short_for(text: str, commit: str) -> bool:
    return _SHORT.fullmatch(text) is not None and commit.startswith(text)


def public_repo(repo: str) -> str:
    """The repository's address without user and password, which a file must not hold."""
    return _USERINFO.sub(r"\1", repo)


def check_pin(pin: Pin, where: str) -> Pin:
    """The pin, if git, a shell and YAML take it for what it is. Raises ConfigError naming it.

    What it names must not be empty; a name must be one of a branch or a tag.
    """
    if not _REPO.fullmatch(pin.repo):
        raise ConfigError(
            f"{public_repo(pin.repo)!r} is no address of a git repository",
            where=where,
            hint="https://..., ssh://..., user@host:path, file:///... or an absolute path",
        )
    if pin.ref and not _REF.fullmatch(pin.ref):
        raise ConfigError(f"{pin.ref!r} cannot be a branch, tag or commit", where=where)
    if pin.commit and not is_commit(pin.commit):
        raise ConfigError(
            f"{pin.commit!r} is not a whole commit",
            where=where,
            hint="40 hexadecimal digits: git rev-parse prints them",
        )
    return pin


def parse_pins(data: bytes, where: str) -> Pins:
    """The pins of ``pins.yaml``. Raises ConfigError naming file and dotted key."""
    document = parse_yaml(data, where, error=ConfigError)
    _PINS.check(document, "", Report(where, ConfigError))
    pins = {
        name: check_pin(Pin(**document[name]), f"{where}: {name}")
        for name in ("spack", "packages")
        if name in document
    }
    return Pins(pins["spack"], pins.get("packages"))


def dump_pins(pins: Pins) -> bytes:
    """The bytes of ``pins.yaml``; the same for the same pins."""
    return (_HEAD + dump_yaml(pins.as_dict())).encode()


def wanted_spack(
    env: Mapping[str, str],
    source: SpackSource,
    pins: Pins | None,
    lock_commit: str = "",
    lock_version: str = "",
) -> Pin:
    """The Spack to use; without a commit, where a name has to be resolved first.

    A commit by environment or settings comes first; then the pins, unless another name is asked
    for; then that name; then what made the lock; then the newest release.
    """
    version = env.get("SPACK_CHECKOUT_VERSION") or source.checkout_version
    ref = env.get("SPACK_REF") or source.ref
    asked = _asked(env.get("SPACK_REPO") or source.repo, version, ref)
    if pins and pins.spack.answers(asked):
        return pins.spack._replace(repo=asked.repo or pins.spack.repo)
    repo = asked.repo or (pins.spack.repo if pins else "") or SPACK_REPO
    if asked.version:
        return Pin(repo, asked.ref, asked.commit)
    if lock_commit or lock_version:
        made = lock_commit or f"v{lock_version}"
        return Pin(repo, "", made) if is_commit(made) else Pin(repo, made)
    return Pin(repo, SPACK_REF)


def _asked(repo: str, version: str, ref: str) -> Pin:
    """``version`` says more than ``ref``; either may be a name or a commit."""
    text = version or ref
    return Pin(repo, "", text) if is_commit(text) else Pin(repo, text)


def wanted_packages(
    env: Mapping[str, str], source: SpackSource, pins: Pins | None, repos: Any
) -> Pin | None:
    """The repository of packages to use; what is empty in it, Spack's own defaults name.

    ``repos`` is the manifest's section, which Spack itself obeys; so it comes first, then
    environment, settings, pins. None, where the manifest has its packages at a path.
    """
    own = repos.get("builtin") if isinstance(repos, Mapping) else None
    if isinstance(own, str):
        return None
    own = own if isinstance(own, Mapping) else {}
    repo = own.get("git") or env.get("SPACK_PACKAGES_REPO") or source.packages_repo
    version = str(own.get("commit") or own.get("tag") or own.get("branch") or "")
    asked = _asked(
        str(repo),
        version or env.get("SPACK_PACKAGES_CHECKOUT_VERSION", ""),
        source.packages_ref,
    )
    if pins and pins.packages and pins.packages.answers(asked):
        return pins.packages._replace(repo=asked.repo or pins.packages.repo)
    return asked


def default_packages(text: str | bytes, where: str) -> Pin | None:
    """The repository of packages that a Spack's own ``repos.yaml`` names.

    None for a Spack before 1.0, which has them inside.
    """
    document = parse_yaml(text, where, error=ConfigError, allow_empty=True) or {}
    repos = document.get("repos") if isinstance(document, Mapping) else None
    own = repos.get("builtin") if isinstance(repos, Mapping) else None
    if not isinstance(own, Mapping) or not own.get("git"):
        return None
    version = own.get("commit") or own.get("tag") or own.get("branch") or "HEAD"
    return _asked(str(own["git"]), str(version), "")


def clone_variables(spack: Pin, packages: Pin | None) -> dict[str, str]:
    """Variables that tell the lines of ``stackyard.prelude`` what to bring."""
    variables = {"SPACK_REPO": public_repo(spack.repo), "SPACK_CHECKOUT_VERSION": spack.version}
    if packages and packages.version:
        variables |= {
            "SPACK_PACKAGES_REPO": public_repo(packages.repo or PACKAGES_REPO),
            "SPACK_PACKAGES_CHECKOUT_VERSION": packages.version,
        }
    return variables


def pin_troubles(
    pins: Pins,
    env: Mapping[str, str],
    source: SpackSource,
    repos: Any,
    lock_commit: str,
) -> tuple[str, ...]:
    """Why the pins are not those of this lock, or not those that are asked for; each a sentence."""
    troubles = []
    if lock_commit and not pins.spack.commit.startswith(lock_commit):
        troubles.append(
            f"the lock was made by Spack {lock_commit[:12]}, the pin is {pins.spack.commit[:12]}"
        )
    wanted = wanted_spack(env, source, pins)
    if wanted.version != pins.spack.commit:
        troubles.append(_asks("Spack", wanted, pins.spack))
    packages = wanted_packages(env, source, pins, repos)
    if packages is None and pins.packages:
        troubles.append("the packages are pinned, and the manifest has them at a path")
    elif packages and packages.version and not pins.packages:
        troubles.append(f"the packages are asked for at {packages.version}, and have no pin")
    elif packages and pins.packages and not pins.packages.answers(packages):
        troubles.append(_asks("the packages", packages, pins.packages))
    return tuple(troubles)


def _asks(what: str, asked: Pin, pin: Pin) -> str:
    repo = f" of {public_repo(asked.repo)}" if asked.repo not in ("", pin.repo) else ""
    return f"{what}: asked for {asked.version or 'something else'}{repo}, pinned {pin.commit[:12]}"
