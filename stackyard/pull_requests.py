"""A mirror for each pull request: its name, and a stack that pushes there and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stackyard.document import dump_yaml
from stackyard.errors import ConfigError
from stackyard.merge import key_name
from stackyard.settings import PullRequests
from stackyard.stack import Stack, is_url, make_mirror

__all__ = ["NAME", "RELEASE", "check_prefix", "mirror_entry", "mirror_name", "with_own_mirror"]

#: Under this name the jobs of a pull request read from the mirror that releases go to.
RELEASE = "stackyard-release"
_DESTINATION = "buildcache-destination"
_SCHEMES = ("file", "s3", "gs", "oci", "oci+http")

#: What each of GitLab's variables may hold, and what goes before it: a number may be a branch, too.
_VARIABLES = (
    ("CI_MERGE_REQUEST_IID", "mr-", re.compile(r"[0-9]{1,12}")),
    ("CI_EXTERNAL_PULL_REQUEST_IID", "pr-", re.compile(r"[0-9]{1,12}")),
    ("CI_COMMIT_REF_SLUG", "ref-", re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")),
)

#: All that ``mirror_name`` can give.
NAME = re.compile(r"(?:mr|pr)-[0-9]{1,12}|ref-[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def mirror_name(variables: Mapping[str, str]) -> str:
    """The pull request of a GitLab job, as the last part of a URL: ``mr-7``, ``pr-7``, ``ref-x``.

    A merge request comes before a pull request on GitHub, and that before the branch. Raises
    ConfigError where a variable holds something else, or where there is none.
    """
    for name, prefix, pattern in _VARIABLES:
        if value := variables.get(name, ""):
            if not pattern.fullmatch(value):
                raise ConfigError(
                    f"{value[:70]!r} does not name a pull request",
                    where=name,
                    hint="GitLab sets it; it becomes a part of the mirror's URL",
                )
            return f"{prefix}{value}"
    raise ConfigError(
        "nothing tells which pull request this is, and so which mirror it has",
        where="pull_requests.mirror",
        hint=f"GitLab sets one of {', '.join(name for name, _, _ in _VARIABLES)}",
    )


def check_prefix(settings: PullRequests, stack: Stack) -> None:
    """Refuse a place that cannot be, or that is a mirror already. Raises ConfigError."""
    where = "pull_requests.mirror"
    if not is_url(settings.prefix, _SCHEMES) or "://" not in settings.prefix:
        raise ConfigError(
            f"{settings.prefix!r} is no URL that can be pushed to",
            where=where,
            hint="s3://BUCKET/pull-requests, for example; or gs://, oci://, file://",
        )
    for mirror in stack.mirrors.values():
        for url in (mirror.fetch_url, mirror.push_url):
            if f"{url.rstrip('/')}/".startswith(f"{settings.prefix}/"):
                raise ConfigError(
                    f"the mirror {mirror.name} lies there, and a pull request could empty it",
                    where=where,
                    hint="keep pull requests apart: another prefix, better another bucket",
                )


def mirror_entry(settings: PullRequests, name: str, stack: Stack) -> dict[str, Any]:
    """The entry in ``mirrors:`` for the pull request's own mirror.

    A plain URL is reached as the stack's ``buildcache-destination`` is.
    """
    if isinstance(settings.mirror, Mapping):
        entry = dict(settings.mirror)
    else:
        connection = stack.mirrors[_DESTINATION].push
        pair = {
            key: value
            for key, value in (
                ("id", connection.id),
                ("id_variable", connection.id_variable),
                ("secret_variable", connection.secret_variable),
            )
            if value
        }
        entry = {
            key: value
            for key, value in (
                ("access_pair", pair if connection.secret_variable else {}),
                ("access_token_variable", connection.access_token_variable),
                ("profile", connection.profile),
                ("endpoint_url", connection.endpoint_url),
            )
            if value
        }
    return {**entry, "url": f"{settings.prefix}/{name}", "signed": False}


def with_own_mirror(stack: Stack, settings: PullRequests, name: str) -> Stack:
    """The stack as a pull request has it: it pushes to its own mirror, unsigned.

    From the mirror that releases go to it only reads. Raises ConfigError as ``check_prefix`` does.
    """
    check_prefix(settings, stack)
    entries = dict(stack.config["mirrors"])
    own, released = mirror_entry(settings, name, stack), _read_only(entries.pop(_DESTINATION))
    # An override, because what a manifest includes may say more of the mirror of that name.
    changed = {f"{_DESTINATION}:": own, RELEASE: released}
    changed |= {
        f"{key}:": _read_only(entry) for key, entry in entries.items() if _pushes_itself(entry)
    }
    names = {key_name(key) for key in changed}
    section = next((key for key in stack.manifest if key_name(key) == "mirrors"), "mirrors")
    rest = {
        key: entry
        for key, entry in (stack.manifest.get(section) or {}).items()
        if key_name(key) not in names
    }
    manifest = {**stack.manifest, section: {**changed, **rest}}
    mirrors = {key_name(key): make_mirror(key_name(key), entry) for key, entry in changed.items()}
    return stack._replace(
        text=dump_yaml({"spack": manifest}),
        manifest=manifest,
        mirrors={**mirrors, **{k: v for k, v in stack.mirrors.items() if k not in mirrors}},
    )


def _pushes_itself(entry: Any) -> bool:
    return isinstance(entry, Mapping) and bool(entry.get("autopush"))


def _read_only(entry: Any) -> dict[str, Any]:
    """An entry without what is for pushing."""
    if not isinstance(entry, Mapping):
        return {"url": entry}
    return {key: value for key, value in entry.items() if key not in ("push", "autopush")}
