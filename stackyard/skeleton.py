"""A new project: what can be known of the place it will live at, and what its manifest lacks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from stackyard.errors import ConfigError, SpecError, StackError
from stackyard.url import split_url

if TYPE_CHECKING:
    from stackyard.lock import Lock

__all__ = [
    "Ground",
    "Home",
    "Published",
    "SectionPlace",
    "find_sections",
    "lock_ground",
    "outside_paths",
    "parse_home",
    "parse_published",
    "with_sections",
]

_SCP = re.compile(r"[A-Za-z0-9_.-]+@([A-Za-z0-9.-]+):(?!//)(.+)")
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")
#: A page of GitHub's or GitLab's that shows a file or a folder: repository, branch, path.
_PAGE = re.compile(r"(.+?)(?:/-)?/(?:blob|raw|tree)/([^/]+)(?:/(.+))?")
#: The top of a repository, as GitHub's server of files has it.
_RAW = re.compile(r"https://raw\.githubusercontent\.com/[^/]+/([^/]+)/(?:refs/heads/)?[^/]+")
#: Pages that a repository publishes, which say nothing of the repository itself.
_PUBLISHED = (".github.io", ".gitlab.io")


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
    if host.endswith(_PUBLISHED):
        service = ""
    return Home(service, host, path)


class Published(NamedTuple):
    """Somebody's manifest on a server: the folder's URL, the file in it, and what it is called.

    ``name`` is that of the folder, or of the repository where it lies at the top of one.
    """

    folder: str
    file: str
    name: str


def parse_published(source: str, manifest: str = "spack.yaml") -> Published:
    """What a URL means: a folder with a ``manifest``, or a file ``*.yaml``.

    A repository of GitHub's or GitLab's, and a page of theirs that shows a file or a folder, mean
    the files themselves, on the default branch if none is named. Raises ConfigError for a
    repository that can only be cloned, and for what is no URL.
    """
    address = source.partition("?")[0].partition("#")[0].rstrip("/")
    repository, ref, path = _repository_page(address)
    if repository.service:
        host, at = repository.host, f"{repository.path}/-/raw"
        if repository.service == "github" and host == "github.com":
            host, at = "raw.githubusercontent.com", repository.path
        elif repository.service == "github":
            at = f"{repository.path}/raw"
        address = "/".join(filter(None, (f"https://{host}", at, ref or "HEAD", path)))
        top = repository.path.rpartition("/")[2]
    elif address.endswith(".git") or "://" not in address or not split_url(address).scheme:
        raise ConfigError(
            "no file, no folder, and no URL that can be read",
            where="--from",
            hint="a repository: clone it, then name the folder of its spack.yaml",
        )
    else:
        top = ""
    folder, _, last = address.rpartition("/")
    if not last.endswith((".yaml", ".yml")):
        folder, last = address, manifest
    inner = path.rpartition("/")[0] if path.endswith(last) else path
    name = inner.rpartition("/")[2] or top if repository.service else folder.rpartition("/")[2]
    if found := _RAW.fullmatch(folder):
        name = found[1]
    return Published(folder, last, name)


def _repository_page(address: str) -> tuple[Home, str, str]:
    """The repository that an address is in, the branch and the path there; else an empty Home."""
    found = _PAGE.fullmatch(address)
    home = parse_home(found[1] if found else address)
    is_file = not found and address.endswith((".yaml", ".yml"))
    if not home.service or is_file or (home.service == "github" and home.path.count("/") != 1):
        return Home(), "", ""
    return (home, found[2], found[3] or "") if found else (home, "", "")


# -- what the lock is for ---------------------------------------------------------------------


class Ground(NamedTuple):
    """What binaries are built on, in Spack's words; empty is what nobody can say."""

    os: str = "ubuntu24.04"
    target: str = "x86_64_v3"

    def base_image(self) -> str:
        """The image of this system, where it is of Debian's family; else empty."""
        found = re.fullmatch(r"(ubuntu|debian)([0-9][0-9.]*)", self.os)
        return f"docker.io/library/{found[1]}:{found[2]}" if found else ""

    def runner(self) -> str:
        """GitHub's machine with this system, on which all of its binaries run; else empty."""
        version = {"ubuntu22.04": "22.04", "ubuntu24.04": "24.04"}.get(self.os)
        if version and self._is_at_most("x86_64_v3"):
            return f"ubuntu-{version}"
        if version and self._is_at_most("neoverse_n1"):
            return f"ubuntu-{version}-arm"
        return ""

    def _is_at_most(self, machine: str) -> bool:
        from stackyard.target import target_satisfies

        try:
            return target_satisfies(self.target, f":{machine}")
        except SpecError:  # a processor that archspec does not know
            return False


def lock_ground(lock: Lock) -> Ground:
    """The system that all of a lock is for, and the processor that can run all of it."""
    from stackyard.target import target_satisfies

    built = [spec for spec in lock.specs.values() if not spec.external]
    systems = {spec.os for spec in built}
    targets = sorted({spec.target for spec in built})
    try:
        most = [one for one in targets if all(target_satisfies(x, f":{one}") for x in targets)]
    except SpecError:
        most = targets if len(targets) == 1 else []
    return Ground(systems.pop() if len(systems) == 1 else "", most[0] if most else "")


# -- what the manifest lacks ------------------------------------------------------------------


#: Paths that are the same from any folder, URLs, and variables of Spack but the one for this folder.
_ELSEWHERE = re.compile(r"/|~|\$(?!\{?env\b)|[a-z0-9+]+:|[^/]+@")


def outside_paths(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Files and folders beside the manifest that it names, which would have to come along."""
    body = document.get("spack") or document.get("env")
    if not isinstance(body, Mapping):
        return ()
    found: list[str] = []
    for section in ("include", "repos"):
        entries = next((v for k, v in body.items() if str(k).strip("+-:") == section), None)
        values = entries.values() if isinstance(entries, Mapping) else entries or ()
        for entry in values if not isinstance(values, str) else ():
            path = entry.get("path", "") if isinstance(entry, Mapping) else entry
            if isinstance(path, str) and path and not _ELSEWHERE.match(path):
                found.append(path)
    return tuple(found)


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
    indent = body.value[0][0].start_mark.column
    place = SectionPlace(
        keys=tuple(keys), indent=indent, end=_block_end(text, body.end_mark.index, indent)
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


def _block_end(text: str, end: int, indent: int) -> int:
    """Behind the block's last line: what is less indented below it belongs to what comes next."""
    lines = text[:end].rstrip().splitlines(keepends=True)
    while lines and (not lines[-1].strip() or _is_comment_before(lines[-1], indent)):
        lines.pop()
    return len("".join(lines).rstrip())


def _is_comment_before(line: str, indent: int) -> bool:
    bare = line.lstrip()
    return bare.startswith("#") and len(line) - len(bare) < indent


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
