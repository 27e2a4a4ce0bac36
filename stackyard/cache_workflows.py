"""Workflows for a cache of binaries that GitHub builds: what their templates are told.

Templates get values that were checked here. What a person types or an event brings reaches a job's
shell only as a variable, and what to build only as a DAG hash (see ``stackyard.draw``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stackyard.draw import MOST_JOBS
from stackyard.errors import ConfigError
from stackyard.image_names import parse_image_name
from stackyard.settings import GitHubFiles, Settings, System
from stackyard.workflows import ACTIONS

__all__ = [
    "ENVIRONMENT",
    "PADDING",
    "Cache",
    "cache_values",
    "check_github",
    "shared_requirement",
]

#: Length of the install tree's path, filled up: binaries can be installed at any that is shorter.
PADDING = 128
#: Of jobs that sign: GitHub can keep its secrets from all branches but the protected ones.
ENVIRONMENT = "stackyard-signing"

_WHERE = "invoke.yaml: stackyard.github"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_RUNNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}")
_TARGET = re.compile(r"[a-z][a-z0-9_]{0,39}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Minute, hour, day, month and day of the week: the least and the most, and names from the least on.
_CRON = (
    (0, 59, ()),
    (0, 23, ()),
    (1, 31, ()),
    (1, 12, ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]),
    (0, 6, ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]),
)
_TIMES = re.compile(r"(?:\*|(\w+)(?:-(\w+))?)(?:/([1-9][0-9]?))?")
_GITHUB = "ghcr.io"
#: Variables that a mirror's entry may name, and that GitHub fills itself.
_OWN = {
    "GITHUB_ACTOR": "github.actor",
    "GITHUB_TOKEN": "github.token",
    "GITHUB_USER": "github.actor",
}


class Cache(NamedTuple):
    """The mirror: as the user names it, its URL, whether we sign there, and what opens it.

    ``variables`` are names of what holds user and password; none for GitHub's own registry.
    """

    text: str
    url: str
    signed: bool
    variables: tuple[str, ...] = ()

    @property
    def is_registry(self) -> bool:
        return self.url.startswith(("oci://", "oci+http://"))

    @property
    def is_github(self) -> bool:
        """Whether it is GitHub's registry, which takes a job's own token."""
        return self.url.partition("://")[2].partition("/")[0].lower() == _GITHUB


def check_github(github: GitHubFiles) -> None:
    """Raise ConfigError for what would not do in a workflow, naming its dotted key."""
    for key, text in (
        ("nightly", github.nightly),
        ("weekly", github.weekly),
        ("draw.nightly", github.draw.nightly),
    ):
        _check_cron(text, f"{_WHERE}.{key}")
    if not 1 <= github.draw.count <= MOST_JOBS:
        raise ConfigError(
            f"{github.draw.count} is no number of jobs",
            where=f"{_WHERE}.draw.count",
            hint=f"1 to {MOST_JOBS}, which is what GitHub makes of a matrix",
        )
    seen: set[str] = set()
    for index, system in enumerate(github.systems):
        _check_system(system, f"{_WHERE}.systems[{index}]")
        if system.name in seen:
            raise ConfigError(
                f"two systems are named {system.name!r}", where=f"{_WHERE}.systems[{index}].name"
            )
        seen.add(system.name)


def _check_cron(text: str, where: str) -> None:
    if not text:
        return
    fields = text.split(" ")
    good = len(fields) == len(_CRON) and all(map(_is_field, fields, _CRON))
    if not good or not fields[0].isdigit():
        raise ConfigError(
            f"{text[:40]!r} is no time that GitHub takes, beginning with one minute",
            where=where,
            hint="minute, hour, day, month, day of the week: '17 3 * * *'",
        )
    if int(fields[0]) == 0:
        raise ConfigError(
            "at minute 0 everybody begins, and GitHub drops runs",
            where=where,
            hint="take another minute: '17 3 * * *'",
        )


def _is_field(text: str, kind: tuple[int, int, Sequence[str]]) -> bool:
    """Whether GitHub takes it: numbers or names, ranges and steps, with commas between them."""
    least, most, names = kind
    numbers = {str(number): number for number in range(least, most + 1)}
    numbers |= {f"{number:02}": number for number in numbers.values()}
    numbers |= {name: least + place for place, name in enumerate(names)}
    for part in text.split(","):
        match = _TIMES.fullmatch(part)
        if not match:
            return False
        ends = [numbers.get(end.upper(), -1) for end in match.groups()[:2] if end]
        if -1 in ends or ends != sorted(ends):
            return False
    return True


def _check_system(system: System, where: str) -> None:
    for key, pattern, text in (
        ("name", _NAME, system.name),
        ("runner", _RUNNER, system.runner),
        ("target", _TARGET, system.target or "any"),
    ):
        if not pattern.fullmatch(text):
            raise ConfigError(f"{text[:40]!r} will not do", where=f"{where}.{key}")
    if system.base_image:
        parse_image_name(system.base_image, f"{where}.base_image")


def cache_values(  # noqa: PLR0913 - passed by name
    name: str,
    settings: Settings,
    cache: Cache,
    *,
    requirement: str,
    stack: str = "",
    systems: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """The context of the template of the workflow ``name``.

    ``stack`` is the one whose recipes tell of packages; ``systems`` are entries of a matrix, for
    the workflow that finds none by itself. Raises ConfigError for settings that will not do.
    """
    github = settings.github
    check_github(github)
    variables = _shared_variables(cache) if name == "share" else _variables(cache)
    return {
        "workflow": name,
        "actions": ACTIONS,
        "branches": list(github.branches),
        "runner": github.runner,
        "requirement": requirement,
        "mirror": cache.text,
        "mirror_url": cache.url,
        "registry": cache.is_registry,
        "signed": cache.signed,
        "environment": ENVIRONMENT,
        "packages": cache.is_github,
        "variables": variables,
        "nightly": github.draw.nightly if name == "draw" else github.nightly,
        "weekly": github.weekly,
        "count": str(github.draw.count),
        "free_disk": github.free_disk,
        "padding": PADDING,
        "stack": stack,
        "after": [_AFTER[one] for one in github.workflows if one in _AFTER],
        "systems": systems,
    }


#: Names of the workflows that change what the catalogue shows.
_AFTER = {"build": "Build", "draw": "Draw"}


def _variables(cache: Cache) -> dict[str, str]:
    """What a step that writes to the mirror is given, and where from: expressions of GitHub's."""
    if cache.is_github and not cache.variables:
        return {"GITHUB_TOKEN": "${{ github.token }}"}
    for name in cache.variables:
        if not _VARIABLE.fullmatch(name):
            raise ConfigError(
                f"{name[:40]!r} cannot be the name of a variable", where=f"{_WHERE}.mirror"
            )
    return {name: f"${{{{ {_OWN.get(name, f'secrets.{name}')} }}}}" for name in cache.variables}


def _shared_variables(cache: Cache) -> dict[str, str]:
    """The same in a repository where no file of ours says what opens the registry.

    Raises ConfigError unless it is opened by user and password, or by nothing.
    """
    opened = _variables(cache)
    if cache.is_github and opened.get("GITHUB_TOKEN"):
        return {"GITHUB_TOKEN": opened["GITHUB_TOKEN"]}
    if not opened:
        return {}
    if len(opened) != 2:
        raise ConfigError(
            "a registry is shared with user and password, or with neither",
            where=f"{_WHERE}.mirror",
            hint="access_pair: {id_variable, secret_variable} in the mirror's entry",
        )
    user, password = opened.values()
    return {
        "STACKYARD_OCI_REGISTRY": cache.url.partition("://")[2].partition("/")[0],
        "STACKYARD_OCI_USER": user,
        "STACKYARD_OCI_TOKEN": password,
    }


def shared_requirement(requirement: str, version: str) -> str:
    """What another repository installs: not the clone that this one is."""
    return f"stackyard=={version}" if requirement == "." else requirement
