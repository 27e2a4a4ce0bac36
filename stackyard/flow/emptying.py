"""``mirror.empty``: remove the mirror of a pull request, and no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

from stackyard.edges import console
from stackyard.edges.stacks import list_stacks
from stackyard.edges.stores.access import Place, mirror_place
from stackyard.edges.stores.store import public_url, writable
from stackyard.errors import ConfigError
from stackyard.flow.steps import Project, open_project, read_stack
from stackyard.pull_requests import NAME, check_prefix, mirror_entry, mirror_name
from stackyard.settings import PullRequests
from stackyard.stack import Stack, make_mirror

__all__ = ["empty", "own_mirror_place"]


class _Owner(NamedTuple):
    """A stack whose pull requests have mirrors of their own."""

    stack: Stack
    settings: PullRequests


def empty(*, url: str = "", stack: str = "", yes: bool = False, as_json: bool = False) -> None:
    """Show what lies on a pull request's mirror; with ``yes`` delete it.

    The mirror is that of the job that this runs in, or ``url``. Raises ConfigError for any other
    mirror than one below ``pull_requests.mirror``.
    """
    from stackyard.edges.mirrors.emptying import delete_contents, list_contents

    project = open_project()
    place = _named(project, url, stack) if url else _of_this_job(project, stack)
    with closing(place.open()) as opened:
        store = writable(opened)
        contents = list_contents(store)
        if yes:
            delete_contents(
                store, contents, tick=lambda done, total: console.bar("removing", done, total)
            )
    if as_json:
        document = {
            "url": place.shown,
            "files": contents.number,
            "bytes": contents.size_bytes,
            "left": list(contents.foreign),
            "done": yes,
        }
        console.out(json.dumps(document, indent=2))
    size = f", {contents.size_bytes:,} bytes" if contents.size_bytes else ""
    verb = "removed" if yes else "would remove"
    console.note(f"{place.shown}: {verb} {contents.number:,} files{size}")
    if contents.foreign:
        console.warn(
            f"{len(contents.foreign)} files are no part of a mirror and stay, such as "
            f"{console.printable(contents.foreign[0])}"
        )
    if not yes and contents.number:
        console.note("nothing was deleted: that needs --yes")


def _of_this_job(project: Project, name: str) -> Place:
    stack, settings = read_stack(project, name)
    if not settings.pull_requests.mirror:
        raise ConfigError(
            "pull requests have no mirror of their own",
            where=f"{stack.where}: pull_requests.mirror",
            hint="set it to the URL below which they are to have one",
        )
    owner = _Owner(stack, settings.pull_requests)
    return _place(project, owner, mirror_name(project.env))


def _named(project: Project, url: str, name: str) -> Place:
    place = own_mirror_place(project, url, name)
    if place is None:
        raise ConfigError(
            f"{public_url(url)} is not the mirror of a pull request",
            where="--url",
            hint="only those below pull_requests.mirror are emptied; others: mirror.prune, or by "
            "hand",
        )
    return place


def own_mirror_place(project: Project, url: str, name: str = "") -> Place | None:
    """The mirror of a pull request by its URL, for pushing; None if that is something else."""
    prefix, _, last = url.rstrip("/").rpartition("/")
    if not NAME.fullmatch(last):
        return None
    for owner in _owners(project, name):
        if owner.settings.prefix == prefix:
            return _place(project, owner, last)
    return None


def _owners(project: Project, name: str) -> Iterator[_Owner]:
    for each in [name] if name else list_stacks(project.root):
        stack, settings = read_stack(project, each)
        if settings.pull_requests.mirror:
            yield _Owner(stack, settings.pull_requests)


def _place(project: Project, owner: _Owner, name: str) -> Place:
    """The mirror, once it is certain that no stack has its own mirror there."""
    for each in list_stacks(project.root):
        stack, _ = read_stack(project, each)
        check_prefix(owner.settings, stack)
    entry = mirror_entry(owner.settings, name, owner.stack)
    mirror = make_mirror("buildcache-destination", entry)
    return mirror_place(mirror, project.env, owner.stack.where, push=True)
