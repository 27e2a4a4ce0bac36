"""Docker Hub's automated builds: what a rule means, the variables of a build, and its steps.

From Docker's manual ("Set up automated builds", "Advanced options for autobuild and autotest"), and
where that is silent, from what people report of the builder: hooks run in the Dockerfile's folder,
whatever the build context is (docker/docs pull request 18227), ``DOCKER_TAG`` has all tags of the
rule with commas between (hub-feedback 1457).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from stackyard.errors import ConfigError
from stackyard.image_names import ImageName, check_repository

__all__ = [
    "ARGUMENTS",
    "HOOKS",
    "Step",
    "Variables",
    "arguments_text",
    "branch_tag",
    "compose_commands",
    "hub_name",
    "plan_steps",
    "relative_path",
    "split_tags",
]

#: Where the hooks find what settings say; they read it line by line.
ARGUMENTS = "docker/args"

#: In the order in which they run; the three without ``pre`` and ``post`` replace Docker Hub's own.
HOOKS = (
    *("post_checkout", "pre_build", "build", "post_build"),
    *("pre_test", "test", "post_test", "pre_push", "push", "post_push"),
)
_OWN = ("build", "test", "push")

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_VALUE = re.compile(r"[^\x00-\x1f\x7f]*")


class Variables(NamedTuple):
    """What each hook finds in its environment, under these names in capitals."""

    source_branch: str  # a branch or a tag
    source_commit: str
    commit_msg: str
    docker_repo: str
    dockerfile_path: str  # from the build context
    docker_tag: str
    image_name: str

    @property
    def environment(self) -> Mapping[str, str]:
        return {name.upper(): value for name, value in self._asdict().items()}

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the image, as Docker Hub itself would tag it."""
        return tuple(f"{self.docker_repo}:{tag}" for tag in split_tags(self.docker_tag))


class Step(NamedTuple):
    """A hook to run, or without one what Docker Hub does itself."""

    name: str
    hook: bool


def plan_steps(hooks: Iterable[str], *, push: bool) -> tuple[Step, ...]:
    """What is done, in order, where these hooks are there."""
    there = frozenset(hooks)
    return tuple(
        Step(name, name in there)
        for name in HOOKS
        if (name in there or name in _OWN) and (push or not name.endswith("push"))
    )


def split_tags(text: str) -> tuple[str, ...]:
    """The tags of a rule, each once, in their order. Raises ConfigError for one that is none."""
    tags = tuple(dict.fromkeys(filter(None, (part.strip() for part in text.split(",")))))
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise ConfigError(
                f"{tag[:130]!r} cannot be a tag",
                where="DOCKER_TAG",
                hint="letters, digits, dot, dash and underscore, at most 128; commas between tags",
            )
    return tags


def branch_tag(branch: str, prefix: str, *, is_default: bool) -> str:
    """The tag by the two rules that a project has: the default branch, and releases.

    Raises ConfigError for a branch that no rule is for.
    """
    if prefix and branch.startswith(prefix) and branch != prefix:
        return branch[len(prefix) :]
    if is_default:
        return "latest"
    raise ConfigError(
        f"no rule is for {branch!r}: it is no release ({prefix}NAME), nor the default branch",
        where="--docker-tag",
        hint="say which tag the image gets",
    )


def hub_name(name: ImageName, where: str) -> str:
    """The repository as Docker Hub calls it: ``index.docker.io/owner/name``, others with their host.

    Raises ConfigError for one with a tag or a digest.
    """
    check_repository(name, where)
    return f"{name.domain}/{name.repository}"


def relative_path(path: str, where: str) -> str:
    """A path of a rule, which may begin with ``/``, from the folder that it counts from.

    Raises ConfigError for one that leads out of it.
    """
    plain = posixpath.normpath(path.strip().strip("/") or ".")
    if plain == ".." or plain.startswith("../"):
        raise ConfigError("it leads out of the folder that it counts from", where=where)
    return plain


def compose_commands(file: str, project: str) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    """Build, run and remove what a test needs; the exit code of the second is the test's."""
    compose = ("docker", "compose", "--file", file, "--project-name", project)
    return (
        (*compose, "build"),
        (*compose, "run", "--rm", "sut"),
        (*compose, "down", "--volumes", "--remove-orphans"),
    )


def arguments_text(prefix: str, stacks: Mapping[str, Mapping[str, str]]) -> str:
    """The file that hooks read: build arguments by stack; what is empty is left out.

    Raises ConfigError for a value that is no line.
    """
    lines = [
        "# Written by `invoke generate` (stackyard) from the settings, for docker/hooks; a build on",
        "# Docker Hub knows nothing else. `invoke generate --check` tells whether it is up to date.",
        _line("RELEASE_PREFIX", prefix, "release.prefix"),
    ]
    for stack, arguments in sorted(stacks.items()):
        lines += ["", f"[{stack}]"]
        lines += [_line(name, value, stack) for name, value in arguments.items() if value]
    return "\n".join(lines) + "\n"


def _line(name: str, value: str, where: str) -> str:
    if not _VALUE.fullmatch(value):
        raise ConfigError(f"{name} has a line break in it", where=where)
    return f"{name}={value}"
