"""A new project: what can be known of the place it will live at, and what its manifest lacks."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from stackyard.errors import StackError
from stackyard.url import split_url

__all__ = ["Home", "SectionPlace", "find_sections", "parse_home", "raw_url", "with_sections"]

_SCP = re.compile(r"[A-Za-z0-9_.-]+@([A-Za-z0-9.-]+):(?!//)(.+)")
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")
#: Where GitHub shows a file, and how the file itself is reached.
_BLOB = re.compile(r"https://github\.com/([^/?#]+)/([^/?#]+)/(?:blob|raw)/([^?#]+)")


class Home(NamedTuple):
    """The service that a repository lives on: ``github``, ``gitlab``, or empty for any other."""

    service: str = ""
    host: str = ""
    path: str = ""

    def registry(self) -> str:
        """The container registry of the project, where its address is known; else empty."""
        place = self.path.lower()  # registries know no capital letters
        if self.host == "github.com":
            return f"ghcr.io/{place}"
        if self.host == "gitlab.com":
            return f"registry.gitlab.com/{place}"
        return ""


def parse_home(url: str) -> Home:
    """What the address of a git remote tells. A path on this machine, or nonsense, tells nothing."""
    if "://" in url:
        parts = split_url(url)
        host, path = parts.hostname or "", parts.path
        if parts.scheme not in ("http", "https", "ssh", "git"):
            return Home()
    elif found := _SCP.fullmatch(url):
        host, path = found[1].lower(), found[2]
    else:
        return Home()
    path = path.strip("/").removesuffix(".git")
    if not host or not _PATH.fullmatch(path):
        return Home()
    first = host.split(".")
    service = "github" if "github" in first else "gitlab" if "gitlab" in first else ""
    return Home(service, host, path)


def raw_url(url: str) -> str:
    """The address of the file itself, where a page of GitHub that shows it was given."""
    if found := _BLOB.fullmatch(url):
        return f"https://raw.githubusercontent.com/{found[1]}/{found[2]}/{found[3]}"
    return url


class SectionPlace(NamedTuple):
    """Where ``spack:`` stands in a manifest: what is below it, and where its block ends.

    ``mirrors_end`` is the end of the line of ``mirrors:``, 0 where there is no such key, and
    ``mirrors_indent`` how far its entries are indented.
    """

    keys: tuple[str, ...]
    indent: int
    end: int
    mirrors: tuple[str, ...] = ()
    mirrors_end: int = 0
    mirrors_indent: int = 0


def find_sections(text: str, where: str) -> SectionPlace:
    """Look a manifest over that was read before. Raises StackError if nothing can be added to it."""
    import yaml  # only this needs to know where things stand

    top: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = top.value if isinstance(top, yaml.MappingNode) else []
    body = next((value for key, value in pairs if key.value in ("spack", "env")), None)
    if not isinstance(body, yaml.MappingNode) or body.flow_style or not body.value:
        raise StackError(
            "nothing can be added to it: it has no block below spack:",
            where=where,
            hint="begin it with spack: and a key below that, such as specs:",
        )
    keys = {_name(key.value): (key, value) for key, value in body.value}
    last = body.value[-1][1]
    place = SectionPlace(
        keys=tuple(keys), indent=body.value[0][0].start_mark.column, end=_line_end(text, last)
    )
    if "mirrors" not in keys:
        return place
    key, value = keys["mirrors"]
    entries = value.value if isinstance(value, yaml.MappingNode) else []
    if not entries or value.flow_style:
        raise StackError(
            "no mirror can be added to a list that is not a block",
            where=f"{where}:{key.start_mark.line + 1}: mirrors",
            hint="write its entries below it, a line each, buildcache-destination among them",
        )
    return place._replace(
        mirrors=tuple(_name(one.value) for one, _ in entries),
        mirrors_end=text.find("\n", key.end_mark.index) + 1,
        mirrors_indent=entries[0][0].start_mark.column,
    )


def _name(key: str) -> str:
    """A key without what tells Spack how to merge it: ``ci::``, ``+specs:``."""
    return key.strip("+-:")


def _line_end(text: str, node: Any) -> int:
    """Behind the last line that has something of the node: a block ends where the next begins."""
    return len(text[: node.end_mark.index].rstrip())


def with_sections(text: str, where: str, mirror: str, ci: str) -> tuple[str, tuple[str, ...]]:
    """The manifest with what a pipeline needs, and what was added; all else stays as it was.

    ``mirror`` and ``ci`` are what to add, as lines of YAML without indentation: the mirror below
    ``mirrors:``, and the section ``ci:``. Raises StackError as ``find_sections`` does.
    """
    place = find_sections(text, where)
    added: list[str] = []
    tail = ""
    if "mirrors" not in place.keys:
        tail += _indented(f"mirrors:\n{_indented(mirror, 2)}", place.indent)
        added.append("mirrors")
    if "ci" not in place.keys and "gitlab-ci" not in place.keys:
        tail += _indented(ci, place.indent)
        added.append("ci")
    head, rest = text[: place.end], text[place.end :]
    if tail:
        text = f"{head}\n{tail.rstrip()}{rest if rest.strip() else chr(10)}"
    if place.mirrors and "buildcache-destination" not in place.mirrors:
        at = place.mirrors_end
        text = f"{text[:at]}{_indented(mirror, place.mirrors_indent)}{text[at:]}"
        added.append("mirrors.buildcache-destination")
    return text, tuple(added)


def _indented(lines: str, columns: int) -> str:
    return "".join(f"{' ' * columns}{line}\n" if line else "\n" for line in lines.splitlines())
