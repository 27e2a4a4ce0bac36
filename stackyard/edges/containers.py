"""Find a container engine: Docker's command line, or Podman's."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from stackyard.errors import ToolError

__all__ = ["DOCKER_SOCKET", "Engine", "find_engine"]

DOCKER_SOCKET = "/var/run/docker.sock"
_HINT = "install podman or docker, or name one: --engine PROGRAM"


class Engine(NamedTuple):
    """``words`` begin its command line; ``why`` says how it was found."""

    words: tuple[str, ...]
    why: str

    @property
    def name(self) -> str:
        return Path(self.words[0]).name


def find_engine(
    env: Mapping[str, str],
    wanted: str = "",
    *,
    which: Callable[[str], str | None] = shutil.which,
    socket: str = DOCKER_SOCKET,
) -> Engine:
    """What was named; else where ``DOCKER_HOST`` leads; else Docker's socket; else Podman.

    A Docker without a socket to speak to is passed over. Raises ToolError if there is none.
    """
    if wanted:
        if not which(wanted):
            raise ToolError(f"there is no program {wanted!r}", where="--engine", hint=_HINT)
        return Engine((wanted,), "it was named")
    docker, podman = which("docker"), which("podman")
    if host := env.get("DOCKER_HOST"):
        if docker:
            return Engine(("docker",), "DOCKER_HOST")
        if podman:
            return Engine(("podman", "--remote", "--url", host), "DOCKER_HOST")
        raise ToolError("DOCKER_HOST is set, and there is no docker and no podman", hint=_HINT)
    if docker and _is_usable(socket):
        return Engine(("docker",), socket)
    if podman:
        return Engine(("podman",), "docker has no socket here" if docker else "there is no docker")
    if docker:
        raise ToolError(
            f"docker is here, and cannot be used: no socket at {socket}",
            hint="start the engine, join the group docker, set DOCKER_HOST, or install podman",
        )
    raise ToolError("there is no container engine", hint=_HINT)


def _is_usable(socket: str) -> bool:
    try:
        kind = Path(socket).stat().st_mode
    except OSError:
        return False
    return stat.S_ISSOCK(kind) and os.access(socket, os.R_OK | os.W_OK)
