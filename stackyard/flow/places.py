"""What a user names: a mirror by URL, folder or a stack's name for it; a lock with what is around it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from stackyard.edges.files import read_bytes
from stackyard.edges.settings import Environment
from stackyard.edges.stacks import list_stacks
from stackyard.edges.stores.access import Place, mirror_place
from stackyard.errors import ConfigError, LockError
from stackyard.flow.steps import Project, Request, load_work, open_project, read_stack
from stackyard.lock import Lock, parse_lock
from stackyard.settings import Settings, make_settings
from stackyard.stack import Mirror, Stack, is_url

__all__ = ["Locked", "find_project", "named_mirror", "named_place", "read_lock"]


class Locked(NamedTuple):
    """A lock with the roots that are wanted, and the stack and project around it if there are any."""

    project: Project | None
    stack: Stack | None
    settings: Settings
    lock: Lock
    roots: tuple[str, ...]

    @property
    def env(self) -> Environment:
        return self.project.env if self.project else Environment.snapshot()


def read_lock(stack: str, lock: str) -> Locked:
    """The stack's lock; or a lock alone, with the only stack's mirrors and keys if there is one."""
    if stack or not lock:
        work = load_work(open_project(), Request(stack=stack, lock=lock))
        return Locked(work.project, work.stack, work.settings, work.lock, work.roots)
    project = find_project()
    parsed = parse_lock(read_bytes(lock, LockError), lock)
    roots = tuple(dict.fromkeys(root.hash for root in parsed.roots))
    if project and len(list_stacks(project.root)) == 1:
        only, settings = read_stack(project, "")
        return Locked(project, only, settings, parsed, roots)
    settings = make_settings(project.settings if project else {})
    return Locked(project, None, settings, parsed, roots)


def find_project() -> Project | None:
    """The project around the current folder, or None: a mirror can be looked at from anywhere."""
    try:
        return open_project()
    except ConfigError as error:
        if "no folder stacks/" in error.message:
            return None
        raise


def named_place(
    project: Project | None, text: str, *, flag: str, push: bool = False, stack: str = ""
) -> Place:
    """The mirror that ``--url TEXT`` or the like means; ``flag`` names the argument in errors.

    A name or URL that stands in a stack's ``mirrors:`` brings its credentials and its ``signed``;
    those of ``stack`` come before those of any other. Who names the URL that is pushed to reads
    that one, with the credentials for pushing, if they are there. Raises ConfigError for an empty text, for a
    name that is that of several mirrors, and for a push whose variables are not set.
    """
    if not text.strip():
        raise ConfigError("no mirror is named", where=flag, hint=f"add {flag} URL")
    found = named_mirror(project, text, flag=flag, push=push, stack=stack)
    if project is None:
        return Place("", text)
    if found is None:
        from stackyard.flow.emptying import own_mirror_place

        return own_mirror_place(project, text) or Place("", text)
    mirror, where = found
    if not push and _is_url(text, mirror.push_url) and not _is_url(text, mirror.fetch_url):
        mirror = mirror._replace(fetch=mirror.push)
    return mirror_place(mirror, project.env, where, push=push)


def _is_url(text: str, url: str) -> bool:
    """Whether a user means this URL; stacks have those of folders, where users name a path."""
    return url.rstrip("/") in (text.rstrip("/"), _file_url(text))


def named_mirror(
    project: Project | None, text: str, *, flag: str, push: bool, stack: str = ""
) -> tuple[Mirror, str] | None:
    """The stack's mirror with this name or URL, and the file that it stands in; None for others.

    One with this URL in the asked direction comes before one that has it in the other. Raises
    ConfigError as ``named_place`` does.
    """
    if project is None:
        return None
    names = list_stacks(project.root)
    found: dict[str, tuple[Mirror, str]] = {}
    pushed: list[tuple[Mirror, str]] = []
    for name in sorted(names, key=lambda name: name != stack):
        known, _ = read_stack(project, name)
        for mirror in known.mirrors.values():
            url = (mirror.push_url if push else mirror.fetch_url).rstrip("/")
            if _is_url(text, url):
                return mirror, known.where
            if text == mirror.name:
                found.setdefault(url, (mirror, known.where))
            if not push and _is_url(text, mirror.push_url):
                pushed.append((mirror, known.where))
        if found and name == stack:
            break
    if len(found) > 1:
        places = " and ".join(where for _, where in found.values())
        raise ConfigError(
            f"several mirrors are named {text}: {places}", where=flag, hint="give the URL"
        )
    return next(iter((*found.values(), *pushed)), None)


def _file_url(text: str) -> str:
    return text if is_url(text) else Path(text).absolute().as_uri()
