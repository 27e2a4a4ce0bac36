"""The project's settings: ``stackyard:`` in ``invoke.yaml``, and ``stack.yaml`` for one stack.

Both have the same keys, and ``stack.yaml`` wins: a mapping key by key, anything else as a whole.
``SHAPE`` is the table of what may stand there; the classes below hold the defaults. Most are named
tuples, because every command imports them and those cost least: ``_replace`` varies one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from stackyard.errors import ConfigError
from stackyard.shape import (
    FLAG,
    NUMBER,
    TEXT,
    TEXTS,
    WHOLE,
    Choice,
    Either,
    Kind,
    List,
    Map,
    Report,
    join,
    near,
)

__all__ = [
    "SHAPE",
    "Aws",
    "Bootstrap",
    "Drawing",
    "Generate",
    "GitHubFiles",
    "GitLabServer",
    "Image",
    "Jobs",
    "Limits",
    "Pipeline",
    "Prune",
    "PullRequests",
    "Release",
    "Settings",
    "SpackSource",
    "StatusPosts",
    "System",
    "Trust",
    "check_settings",
    "make_settings",
]


class Limits(NamedTuple):
    """What the CI system can hold; 0 means that we do not limit."""

    needs: int = 50
    artifact_bytes: int = 5 * 1024 * 1024
    jobs: int = 0
    name: int = 255


class Generate(NamedTuple):
    """The job that generates a child pipeline, and the trigger that starts it."""

    image: str = ""
    tags: tuple[str, ...] = ()
    requirement: str = ""
    strategy: str = "depend"
    variables: Mapping[str, str] = MappingProxyType({})
    interruptible: bool = True
    before_script: tuple[str, ...] = ()


class Aws(NamedTuple):
    """A role that jobs take by their ID token, in place of keys; ``audience`` is the token's."""

    role: str
    audience: str = "$CI_SERVER_URL"
    region: str = ""


class Jobs(NamedTuple):
    """What the jobs of a child pipeline do beside what Spack's generator makes them do.

    ``reserved_tags``: whether they ask for runners with the tags of Spack's own pipelines.
    """

    clone: bool = False
    sections: bool = False
    junit: bool = False
    reserved_tags: bool = True
    aws: Aws | None = None


class PullRequests(NamedTuple):
    """``mirror``: where each pull request has a mirror of its own below; empty: they have none.

    It is a URL, or a mirror's entry as in ``spack.yaml``. ``role`` is taken instead of
    ``jobs.aws.role``; ``keep`` is a time span as GitLab writes it.
    """

    mirror: str | Mapping[str, Any] = ""
    role: str = ""
    keep: str = "2 weeks"

    @property
    def prefix(self) -> str:
        """The URL, without a slash at its end."""
        url = self.mirror if isinstance(self.mirror, str) else str(self.mirror["url"])
        return url.rstrip("/")


class GitLabServer(NamedTuple):
    """Where pipelines run: the server, and the project's path or number there."""

    url: str = "https://gitlab.com"
    project: str | int = ""


class System(NamedTuple):
    """What binaries are built on: a ``runner`` of GitHub's, for a ``target`` of Spack's.

    ``base_image`` is what the images of a registry begin with. ``stacks`` empty means all.
    """

    name: str
    runner: str
    target: str = ""
    base_image: str = ""
    stacks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """The workflow ``draw``: ``count`` packages, of those that ``packages`` hold for, or of all.

    ``nightly`` is when, as cron writes it; empty: only by hand.
    """

    count: int = 20
    packages: tuple[str, ...] = ()
    nightly: str = ""


class GitHubFiles(NamedTuple):
    """Workflows to render. Pushes to ``branches`` start them; ``runner`` is their ``runs-on``.

    ``remote`` is where GitLab's repository takes pushes; empty: at its URL, with a token.
    ``mirror`` is the URL of the cache, or what a stack calls it; ``systems`` are what it is built
    on. ``signed``: whether the workflows sign; None: as the mirror's entry says. ``nightly`` and
    ``weekly`` are times as cron writes them; empty: never by themselves.
    """

    workflows: tuple[str, ...] = ()
    branches: tuple[str, ...] = ("main",)
    remote: str = ""
    follow: bool = True
    runner: str = "ubuntu-latest"
    mirror: str = ""
    signed: bool | None = None
    systems: tuple[System, ...] = ()
    nightly: str = ""
    weekly: str = ""
    free_disk: bool = False
    draw: Drawing = Drawing()


class StatusPosts(NamedTuple):
    """Statuses of commits on GitHub. Where the section is, the parent pipeline posts them.

    ``repository`` empty means that of the CI system, or of the clone's remote.
    """

    context: str = ""
    github_url: str = "https://github.com"
    repository: str = ""


class Trust(NamedTuple):
    """Files or folders of public keys; ``fingerprints``, if there are any, are all that count."""

    keys: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()


class Image(NamedTuple):
    """A stack has an image where ``base`` is set: what it begins with, ``NAME[:TAG][@sha256:...]``.

    ``tools`` are packages of the base's system. ``repository`` is where ``image.push`` goes, with no
    tag. ``licenses`` is an SPDX expression for the label. ``layers`` are the most for the binaries.
    ``fetch_base`` is what fetches them, empty for what the Dockerfile says. ``context`` is the
    build context of the rule on Docker Hub, from the repository's top; empty: as hooks want it.
    """

    base: str = ""
    tools: tuple[str, ...] = ()
    repository: str = ""
    licenses: str = ""
    layers: int = 40
    fetch_base: str = ""
    context: str = ""


class Release(NamedTuple):
    """``stacks`` empty means all of them, ``branch`` empty the remote's default branch.

    ``remote`` is what git calls it; ``wait_minutes`` are those for the registry to show the image.
    """

    stacks: tuple[str, ...] = ()
    branch: str = ""
    prefix: str = "rev-"
    remote: str = "origin"
    wait_minutes: float = 120


class Prune(NamedTuple):
    """What ``mirror.prune`` keeps, whatever else its arguments name."""

    refs: tuple[str, ...] = ()
    stacks: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    keep_days: float = 0
    grace_hours: float = 24


class SpackSource(NamedTuple):
    """Which Spack, and which packages: what is empty, ``stackyard.pins`` decides."""

    repo: str = ""
    ref: str = ""
    checkout_version: str = ""
    packages_repo: str = ""
    packages_ref: str = ""


class Bootstrap(NamedTuple):
    """A definition that is built in a phase before the specs."""

    name: str
    compiler_agnostic: bool = False


class Pipeline(NamedTuple):
    """Features that Spack's own generator no longer has."""

    bootstrap: tuple[Bootstrap, ...] = ()
    enable_artifacts_buildcache: bool = False
    temporary_storage_url_prefix: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    limits: Limits = field(default_factory=Limits)
    generate: Generate = field(default_factory=Generate)
    fix: frozenset[str] = frozenset()
    trust: Trust = field(default_factory=Trust)
    index: str = "spack"
    jobs: Jobs = field(default_factory=Jobs)
    pull_requests: PullRequests = field(default_factory=PullRequests)
    gitlab: GitLabServer = field(default_factory=GitLabServer)
    github: GitHubFiles = field(default_factory=GitHubFiles)
    status: StatusPosts = field(default_factory=StatusPosts)
    image: Image = field(default_factory=Image)
    release: Release = field(default_factory=Release)
    prune: Prune = field(default_factory=Prune)
    spack: SpackSource = field(default_factory=SpackSource)
    pipeline: Pipeline = field(default_factory=Pipeline)


#: A mirror's entry in ``spack.yaml`` that fetches and pushes alike.
_CONNECTION = Map(
    {
        "url": TEXT,
        "access_pair": Map(
            {"id": TEXT, "id_variable": TEXT, "secret_variable": TEXT},
            required=("secret_variable",),
        ),
        "access_token_variable": TEXT,
        "profile": TEXT,
        "endpoint_url": TEXT,
    },
    required=("url",),
)

#: As many as docker/Dockerfile has lines for.
_LAYERS = Kind("a whole number", (int,), minimum=1, maximum=40)

#: What may stand below ``stackyard:``.
SHAPE = Map(
    {
        "limits": Map({"needs": WHOLE, "artifact_bytes": WHOLE, "jobs": WHOLE, "name": WHOLE}),
        "generate": Map(
            {
                "image": TEXT,
                "tags": TEXTS,
                "requirement": TEXT,
                "strategy": Choice(("depend", "mirror")),
                "variables": Map(others=Either((TEXT, NUMBER, FLAG))),
                "interruptible": FLAG,
                "before_script": TEXTS,
            }
        ),
        "fix": TEXTS,
        "trust": Map({"keys": TEXTS, "fingerprints": TEXTS}),
        "index": Choice(("spack", "stackyard")),
        "jobs": Map(
            {
                "clone": FLAG,
                "sections": FLAG,
                "junit": FLAG,
                "reserved_tags": FLAG,
                "aws": Map({"role": TEXT, "audience": TEXT, "region": TEXT}, required=("role",)),
            }
        ),
        "pull_requests": Map(
            {"mirror": Either((TEXT, _CONNECTION)), "role": TEXT, "keep": TEXT},
        ),
        "gitlab": Map({"url": TEXT, "project": Either((TEXT, WHOLE))}),
        "github": Map(
            {
                "workflows": List(
                    Choice(("gitlab", "image", "build", "draw", "index", "prune", "share", "site"))
                ),
                "branches": TEXTS,
                "remote": TEXT,
                "follow": FLAG,
                "runner": TEXT,
                "mirror": TEXT,
                "signed": FLAG,
                "systems": List(
                    Map(
                        {
                            "name": TEXT,
                            "runner": TEXT,
                            "target": TEXT,
                            "base_image": TEXT,
                            "stacks": TEXTS,
                        },
                        required=("name", "runner"),
                    )
                ),
                "nightly": TEXT,
                "weekly": TEXT,
                "free_disk": FLAG,
                "draw": Map({"count": WHOLE, "packages": TEXTS, "nightly": TEXT}),
            }
        ),
        "status": Map({"context": TEXT, "github_url": TEXT, "repository": TEXT}),
        "image": Map(
            {
                "base": TEXT,
                "tools": TEXTS,
                "repository": TEXT,
                "licenses": TEXT,
                "layers": _LAYERS,
                "fetch_base": TEXT,
                "context": TEXT,
            }
        ),
        "release": Map(
            {
                "stacks": TEXTS,
                "branch": TEXT,
                "prefix": TEXT,
                "remote": TEXT,
                "wait_minutes": WHOLE,
            }
        ),
        "prune": Map(
            {
                "refs": TEXTS,
                "stacks": TEXTS,
                "keep": TEXTS,
                "keep_days": WHOLE,
                "grace_hours": WHOLE,
            }
        ),
        "spack": Map(dict.fromkeys(SpackSource._fields, TEXT)),
        "pipeline": Map(
            {
                "bootstrap": List(
                    Either(
                        (TEXT, Map({"name": TEXT, "compiler-agnostic": FLAG}, required=("name",)))
                    )
                ),
                "enable-artifacts-buildcache": FLAG,
                "temporary-storage-url-prefix": TEXT,
            }
        ),
    }
)

_CLASSES: Mapping[str, type] = {
    "limits": Limits,
    "generate": Generate,
    "jobs": Jobs,
    "pull_requests": PullRequests,
    "trust": Trust,
    "gitlab": GitLabServer,
    "github": GitHubFiles,
    "status": StatusPosts,
    "image": Image,
    "release": Release,
    "prune": Prune,
    "spack": SpackSource,
    "pipeline": Pipeline,
}


def check_settings(
    data: Any,
    where: str,
    *,
    known_fixes: Iterable[str] | None = None,
    key: str = "",
    error: type[ConfigError] = ConfigError,
) -> Mapping[str, Any]:
    """``data`` (None means empty) if it has the shape of settings.

    ``key`` is the dotted key where it begins in its file. Raises ``error`` naming file and dotted
    key for unknown keys and wrong types, and for names in ``fix`` that are not ``known_fixes``.
    """
    if data is None:
        return {}
    report = Report(where, error)
    SHAPE.check(data, key, report)
    if known_fixes is not None:
        known = sorted(known_fixes)
        for index, name in enumerate(data.get("fix", ())):
            if name not in known:
                place = join(join(key, "fix"), index)
                raise report.fail(place, f"unknown fix {name!r}", near(name, known))
    settings: Mapping[str, Any] = data
    return settings


def make_settings(project: Mapping[str, Any], stack: Mapping[str, Any] | None = None) -> Settings:
    """Settings of a project, or of one of its stacks; both mappings passed ``check_settings``."""
    merged = _over(project, stack or {})
    values: dict[str, Any] = {
        name: _CLASSES[name](**_arguments(value)) if name in _CLASSES else value
        for name, value in merged.items()
    }
    if "fix" in values:
        values["fix"] = frozenset(values["fix"])
    return Settings(**values)


def _over(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        name: _over(low[name], value)
        for name, value in high.items()
        if isinstance(value, Mapping) and isinstance(low.get(name), Mapping)
    }
    return {**low, **high, **both}


def _arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a section's class: dashes become underscores, lists tuples."""
    arguments: dict[str, Any] = {}
    for name, value in section.items():
        if name == "bootstrap":
            value = tuple(_bootstrap(entry) for entry in value)  # noqa: PLW2901
        elif name == "aws":
            value = Aws(**value)  # noqa: PLW2901
        elif name == "draw":
            value = Drawing(**_arguments(value))  # noqa: PLW2901
        elif name == "systems":
            value = tuple(System(**_arguments(entry)) for entry in value)  # noqa: PLW2901
        elif name == "variables":
            value = {key: _variable(item) for key, item in value.items()}  # noqa: PLW2901
        elif isinstance(value, list):
            value = tuple(value)  # noqa: PLW2901
        arguments[name.replace("-", "_")] = value
    return arguments


def _bootstrap(entry: str | Mapping[str, Any]) -> Bootstrap:
    if isinstance(entry, str):
        return Bootstrap(name=entry)
    return Bootstrap(
        name=entry["name"], compiler_agnostic=bool(entry.get("compiler-agnostic", False))
    )


def _variable(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
