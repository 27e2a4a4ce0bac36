"""What a build job was: read from its artifacts, as ``spack ci rebuild`` leaves them.

Everything in them is data from elsewhere: names and paths are checked before they become a path, a
mount or a shell word. Sources: ``cmd/ci.py`` and ``ci/__init__.py`` of Spack 1.1.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from stackyard.document import parse_yaml
from stackyard.errors import ConfigError, CorruptError
from stackyard.merge import key_name
from stackyard.pins import PACKAGES_REPO, SPACK_REPO, Pin, check_pin, is_commit
from stackyard.shape import near
from stackyard.url import split_url

__all__ = [
    "Details",
    "Found",
    "Job",
    "JobUrl",
    "Needs",
    "locate",
    "mirror_needs",
    "packages_pin",
    "parse_details",
    "parse_job_url",
    "project_paths",
    "read_job",
    "spack_pin",
]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", re.ASCII)
_COMMIT = re.compile(r"^commit\s+([0-9a-f]{40}|[0-9a-f]{64})\b", re.MULTILINE)
_RELEASE = re.compile(r"use spack (\d+(?:\.\d+)+)\b")
#: A path that can be mounted: docker and podman part a mount's words by colons.
_MOUNTED = re.compile(r"/[^:\x00-\x1f\x7f]+")
_IMAGE = re.compile(r"[^\s\x00-\x1f\x7f-][^\s\x00-\x1f\x7f]*")
_STACK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PIPELINE_KEYS = frozenset({"stages", "variables", "workflow", "default", "include", "spec"})
_DEPTH = 12
#: Names of images are shorter, and so is all that they are made of.
_LONGEST_NAME = 4096


# -- where it is ----------------------------------------------------------------------------


class JobUrl(NamedTuple):
    """A job on a GitLab server; ``project`` is its path, or its number."""

    server: str
    project: str
    id: int


def parse_job_url(url: str, server: str) -> JobUrl:
    """A job from the URL of its page, or of the API. Raises ConfigError.

    ``server`` is the URL that the settings name: only it can tell where a server below a path ends
    and its projects begin.
    """
    parts = split_url(url)
    known = split_url(server)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise _no_job(url)
    root = known.path.rstrip("/") if parts.netloc == known.netloc else ""
    path = parts.path
    if root and not path.startswith(f"{root}/"):
        root = ""
    path = path[len(root) :]
    match = re.fullmatch(r"/api/v4/projects/([^/]+)/jobs/(\d+)(?:/.*)?", path) or re.fullmatch(
        r"/(.+?)/(?:-/)?(?:jobs|builds)/(\d+)(?:/.*)?", path
    )
    if not match:
        raise _no_job(url)
    project = unquote(match[1])
    if not re.fullmatch(r"\d+|[\w.+-]+(?:/[\w.+-]+)+", project):
        raise _no_job(url)
    return JobUrl(f"{parts.scheme}://{parts.netloc}{root}", project, int(match[2]))


def _no_job(url: str) -> ConfigError:
    shown = split_url(url)._replace(query="", fragment="").geturl().rpartition("@")[2][:200]
    return ConfigError(
        f"{shown!r} is not the URL of a job on GitLab",
        where="--url",
        hint="open the job in the browser and copy its address: "
        "https://gitlab.com/group/project/-/jobs/123",
    )


# -- what is in the artifacts ---------------------------------------------------------------


class Found(NamedTuple):
    """Paths in the artifacts. ``pipelines`` are files that may be the pipeline, best first.

    ``install`` and ``info`` are empty if there is none.
    """

    details: str
    lock: str
    manifest: str
    pipelines: tuple[str, ...]
    install: str = ""
    info: str = ""


def locate(paths: Iterable[str], where: str) -> Found:
    """Find what ``spack ci rebuild`` wrote. Raises CorruptError naming what is missing."""
    files = sorted(paths, key=lambda path: (path.count("/"), path))
    details = [path for path in files if posixpath.basename(path) == "repro.json"]
    if len(details) != 1:
        count = "no repro.json" if not details else f"{len(details)} files repro.json"
        raise CorruptError(
            f"there is {count} in the artifacts",
            where=where,
            hint="these are not the artifacts of a build job, or the job ended before "
            "`spack ci rebuild` had begun: look at its log",
        )
    folder = posixpath.dirname(details[0])

    def named(name: str) -> str:
        beside = posixpath.join(folder, name)
        found = [path for path in files if posixpath.basename(path) == name]
        return beside if beside in found else found[0] if found else ""

    lock = named("spack.lock")
    manifest = posixpath.join(posixpath.dirname(lock), "spack.yaml")
    if not lock or manifest not in files:
        raise CorruptError(
            "there is no spack.lock with a spack.yaml beside it in the artifacts", where=where
        )
    yaml = [path for path in files if path.endswith((".yml", ".yaml")) and path != manifest]
    yaml.sort(key=lambda path: posixpath.dirname(path) != folder)
    return Found(
        details[0], lock, manifest, tuple(yaml), named("install.sh"), named("spack_info.txt")
    )


class Details(NamedTuple):
    """``repro.json``: the job's name, its spec's file, and the folder that the job worked in."""

    job: str
    spec: str
    project_dir: str


def parse_details(data: bytes, where: str) -> Details:
    """Raises CorruptError for what has not the shape, or would not do as a folder."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"not JSON: {error}", where=where) from None
    keys = ("job_name", "job_spec_json", "ci_project_dir")
    if not isinstance(document, Mapping) or not all(
        isinstance(document.get(key), str) for key in keys
    ):
        raise CorruptError(
            f"it has to name {', '.join(keys)}",
            where=where,
            hint="CI_JOB_NAME and CI_PROJECT_DIR have to be set where `spack ci rebuild` runs",
        )
    job, spec, folder = (document[key] for key in keys)
    if not _MOUNTED.fullmatch(folder) or posixpath.normpath(folder) != folder.rstrip("/"):
        raise CorruptError(f"{folder!r} cannot be the folder of a job", where=where)
    return Details(job, spec, folder.rstrip("/"))


class Job(NamedTuple):
    """What the pipeline says of the job, with what it extends.

    ``image`` is empty for a job without one; ``entrypoint``: whether it has one of its own.
    """

    name: str
    environment: str
    variables: Mapping[str, str]
    image: str = ""
    entrypoint: bool = False
    tags: tuple[str, ...] = ()
    before_script: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        return self.variables.get("SPACK_JOB_SPEC_DAG_HASH", "")

    @property
    def package(self) -> str:
        return self.variables.get("SPACK_JOB_SPEC_PKG_NAME", "")

    @property
    def stack(self) -> str:
        """The stack's name; empty if none is told that could be one."""
        name = self.variables.get("SPACK_CI_STACK_NAME", "")
        return name if name != "None" and _STACK.fullmatch(name) else ""


def read_job(files: Iterable[tuple[str, bytes]], name: str, where: str) -> Job:
    """The job of this name in the first of the files that is a pipeline. Raises CorruptError."""
    known: list[str] = []
    for path, data in files:
        try:
            document = parse_yaml(data, path, error=ConfigError)
        except ConfigError:
            continue
        if not isinstance(document, Mapping) or not {"variables", "stages"} <= set(document):
            continue
        document = {key_name(key): value for key, value in document.items()}
        if name in document:
            return _job(document, name, path)
        known += [key for key in document if key not in _PIPELINE_KEYS and not key.startswith(".")]
    if known:
        raise CorruptError(
            f"the pipeline has no job {name!r}", where=where, hint=near(name, known, few=5)
        )
    raise CorruptError(
        "the pipeline's file is not among the artifacts",
        where=where,
        hint="`spack ci rebuild` keeps a pipeline that lies in SPACK_ARTIFACTS_ROOT or beside the "
        "concrete environment: write it there with --output",
    )


def _job(document: Mapping[str, Any], name: str, where: str) -> Job:
    default = document.get("default")
    merged = {
        **(default if isinstance(default, Mapping) else {}),
        **_extended(document, name, where),
    }
    variables = {
        **_variables(document.get("variables"), where),
        **_variables(merged.get("variables"), where),
    }
    environment = variables.get("SPACK_CONCRETE_ENV_DIR", "")
    if not _is_inside(environment):
        raise CorruptError(
            f"SPACK_CONCRETE_ENV_DIR is {environment!r}, which is no folder of the project",
            where=where,
        )
    image, entrypoint = _image(merged.get("image"), variables, where)
    tags = merged.get("tags")
    return Job(
        name,
        posixpath.normpath(environment),
        variables,
        image,
        entrypoint,
        tuple(str(tag) for tag in tags) if isinstance(tags, list) else (),
        tuple(_lines(merged.get("before_script"))),
    )


def _image(value: Any, variables: Mapping[str, str], where: str) -> tuple[str, bool]:
    """Its name, empty for none, and whether the job gives it an entrypoint."""
    given = value if isinstance(value, Mapping) else {"name": value}
    name = _expand(str(given.get("name") or ""), variables)
    if len(name) > _LONGEST_NAME or (name and not _IMAGE.fullmatch(name)):
        raise CorruptError(f"{name[:200]!r} cannot be the name of an image", where=where)
    return name, bool(given.get("entrypoint"))


def _extended(document: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """The job with what it extends: mappings are merged, anything else is replaced.

    What many extend is merged once, or a small file could keep us busy for ever.
    """
    made: dict[str, dict[str, Any]] = {}

    def extended(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
        job = document.get(name)
        if not isinstance(job, Mapping) or name in seen or len(seen) > _DEPTH:
            raise CorruptError(f"the pipeline's job {name[:200]!r} cannot be read", where=where)
        parents = job.get("extends") or []
        merged: dict[str, Any] = {}
        for parent in map(str, parents if isinstance(parents, list) else [parents]):
            if parent not in made:
                made[parent] = extended(parent, (*seen, name))
            merged = _merged(merged, made[parent])
        return _merged(merged, {key: value for key, value in job.items() if key != "extends"})

    return extended(name, ())


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(low[key], value)
        for key, value in high.items()
        if isinstance(value, Mapping) and isinstance(low.get(key), Mapping)
    }
    return {**low, **high, **both}


def _variables(value: Any, where: str) -> dict[str, str]:
    """Variables as texts; a mapping stands for its ``value``."""
    found = {}
    for name, item in value.items() if isinstance(value, Mapping) else ():
        plain = item.get("value", "") if isinstance(item, Mapping) else item
        text = str(plain).lower() if isinstance(plain, bool) else str(plain)
        if not isinstance(name, str) or not _NAME.fullmatch(name) or "\0" in text:
            raise CorruptError(f"{name!r} cannot be a variable", where=where)
        found[name] = text
    return found


def _expand(text: str, variables: Mapping[str, str]) -> str:
    short = {name: value for name, value in variables.items() if len(value) <= _LONGEST_NAME}
    for _ in range(_DEPTH):
        new = _VARIABLE.sub(lambda match: short.get(match[1] or match[2], match[0]), text)
        if new == text or len(text) > _LONGEST_NAME:
            break
        text = new
    return text


def _lines(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and depth < _DEPTH:
        for item in value:
            yield from _lines(item, depth + 1)


def _is_inside(path: str) -> bool:
    """Whether it is the path of something below a folder, and of nothing else."""
    parts = path.split("/")
    return (
        bool(path) and ".." not in parts and parts[0] != "" and not re.search(r"[\x00-\x1f]", path)
    )


# -- which Spack ----------------------------------------------------------------------------


def spack_pin(info: str, variables: Mapping[str, str], warn: Callable[[str], None]) -> Pin:
    """The Spack that the job ran with: what ``spack_info.txt`` says, else what was pinned.

    Raises CorruptError if nobody says it, ConfigError for names that git would take for others.
    """
    pinned = variables.get("SPACK_CHECKOUT_VERSION", "")
    repo = variables.get("SPACK_REPO", "") or SPACK_REPO
    commit = found[1] if (found := _COMMIT.search(info)) else ""
    release = f"v{found[1]}" if (found := _RELEASE.search(info)) else ""
    if commit and is_commit(pinned) and pinned != commit:
        warn(f"the pipeline pins Spack {pinned[:12]}, and the job ran with {commit[:12]}")
    wanted = commit or pinned or release
    if not wanted or wanted == "None":
        raise CorruptError(
            "the artifacts do not say which Spack the job ran with", where="spack_info.txt"
        )
    where = "SPACK_REPO, SPACK_CHECKOUT_VERSION"
    return check_pin(Pin(repo, "", wanted) if is_commit(wanted) else Pin(repo, wanted), where)


def packages_pin(variables: Mapping[str, str], pinned: Pin | None) -> Pin | None:
    """The packages that the job had: of its variables, else those pinned beside the lock.

    None where nobody says it. Raises ConfigError.
    """
    version = variables.get("SPACK_PACKAGES_CHECKOUT_VERSION", "")
    if not version or version == "None":
        return pinned
    repo = variables.get("SPACK_PACKAGES_REPO", "") or PACKAGES_REPO
    where = "SPACK_PACKAGES_REPO, SPACK_PACKAGES_CHECKOUT_VERSION"
    return check_pin(Pin(repo, "", version) if is_commit(version) else Pin(repo, version), where)


# -- what the stack asks of a machine -------------------------------------------------------


class Needs(NamedTuple):
    """Folders that have to be there, and variables that hold the mirrors' credentials."""

    folders: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()


_CLOUD = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "S3_ENDPOINT_URL")


def mirror_needs(manifest: Any) -> Needs:
    """What the mirrors of a ``spack.yaml`` need."""
    mirrors = manifest.get("mirrors") if isinstance(manifest, Mapping) else None
    folders: dict[str, None] = {}
    names: dict[str, None] = {}
    for entry in mirrors.values() if isinstance(mirrors, Mapping) else ():
        for text in _texts(entry):
            if text.startswith("file://"):
                folders[unquote(split_url(text).path)] = None
            elif text.startswith("s3://"):
                names |= dict.fromkeys(_CLOUD)
        for name in _named_variables(entry):
            names[name] = None
    good = (path.rstrip("/") for path in folders)
    mounted = tuple(p for p in good if _MOUNTED.fullmatch(p) and posixpath.normpath(p) == p)
    return Needs(mounted, tuple(name for name in names if _NAME.fullmatch(name)))


def _named_variables(value: Any) -> Iterator[str]:
    """Values of ``id_variable``, ``secret_variable`` and the like, at any depth."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(item, str) and str(key).endswith("_variable"):
                yield item
            else:
                yield from _named_variables(item)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)


def project_paths(manifest: Any) -> tuple[str, ...]:
    """Paths of files that the manifest includes, relative to its own folder."""
    found = manifest.get("include") if isinstance(manifest, Mapping) else None
    entries = found if isinstance(found, list) else []
    paths = [
        entry.get("path") if isinstance(entry, dict) and "git" not in entry else entry
        for entry in entries
    ]
    return tuple(
        path
        for path in paths
        if isinstance(path, str) and not re.match(r"/|[$~]|[a-z][a-z0-9+]*://", path)
    )
