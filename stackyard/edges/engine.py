"""A container engine, Docker or Podman, by the Docker SDK over its socket."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from stackyard.errors import (
    ConfigError,
    DeniedError,
    NotFoundError,
    StoreError,
    ToolError,
    UnreachableError,
)
from stackyard.image_build import BuildLog, Failure, PushLog

__all__ = ["Engine", "Pushed", "Socket", "find_socket", "open_engine", "usable_socket"]

_DOCKER = "/var/run/docker.sock"
_PODMAN = "/run/podman/podman.sock"
_SCHEMES = ("unix://", "tcp://", "http://", "https://", "ssh://", "npipe://")
_ASK_S = 60
_ANY_VERSION = "1.41"
_DENIED = ("denied", "unauthorized", "authentication required", "no basic auth", "forbidden")
_LOST = ("no such host", "connection refused", "i/o timeout", "tls", "http response to https")


class Socket(NamedTuple):
    """Where an engine listens; ``why`` says how it was found."""

    url: str
    why: str


def usable_socket(path: str) -> bool:
    """Whether there is a socket that we may speak to."""
    try:
        kind = Path(path).stat().st_mode
    except OSError:
        return False
    return stat.S_ISSOCK(kind) and os.access(path, os.R_OK | os.W_OK)


def find_socket(
    env: Mapping[str, str],
    wanted: str = "",
    *,
    usable: Callable[[str], bool] = usable_socket,
    user: int | None = None,
) -> Socket:
    """What is named; else ``DOCKER_HOST``; else Docker's socket, rootless Podman's, Podman's.

    Raises ConfigError for what cannot be an engine's address, ToolError if there is none.
    """
    if wanted and wanted not in ("docker", "podman"):
        return Socket(_url(wanted, "--engine"), "--engine")
    if not wanted and (host := env.get("DOCKER_HOST", "")):
        return Socket(_url(host, "$DOCKER_HOST"), "DOCKER_HOST")
    own = env.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid() if user is None else user}"
    places = {
        "docker": [(_DOCKER, "Docker's socket")],
        "podman": [
            (f"{own}/podman/podman.sock", "rootless Podman's socket"),
            (_PODMAN, "Podman's socket"),
        ],
    }
    looked = [place for kind, some in places.items() if wanted in ("", kind) for place in some]
    for path, why in looked:
        if usable(path):
            return Socket(f"unix://{path}", why)
    raise ToolError(
        f"there is no container engine: nothing to speak to at {', '.join(p for p, _ in looked)}",
        hint="start Docker, or Podman's service (systemctl --user start podman.socket); set "
        "DOCKER_HOST or --engine to its socket; or build without one: --no-engine",
    )


def _url(text: str, where: str) -> str:
    if text.startswith("/"):
        return f"unix://{text}"
    if text.startswith("unix://"):
        # Docker's SDK reads unix://run/x otherwise than Docker does.
        return f"unix:///{text.removeprefix('unix://').lstrip('/')}"
    if not text.startswith(_SCHEMES):
        raise ConfigError(
            f"{text!r} is not the address of an engine",
            where=where,
            hint="such as unix:///run/podman/podman.sock, tcp://host:2375, docker or podman",
        )
    return text


@contextmanager
def open_engine(env: Mapping[str, str], wanted: str = "") -> Iterator[Engine]:
    """The engine while the block runs. Raises ToolError if none answers."""
    socket = find_socket(env, wanted)
    try:
        from docker import DockerClient
        from docker.errors import DockerException
        from requests.exceptions import RequestException
        from urllib3.exceptions import HTTPError
    except ImportError:
        raise ToolError(
            "the Docker SDK for Python is not installed", hint="pip install docker"
        ) from None
    _knock(socket)
    # Whatever version is named, nothing is asked yet: what fails here can still be closed.
    client = DockerClient(base_url=socket.url, version=_ANY_VERSION, timeout=_ASK_S)
    try:
        told = client.api.version(api_version=False)
    except (DockerException, RequestException, HTTPError, OSError) as error:
        raise _silent(socket, error) from None
    finally:
        client.close()
    # A step of a build may be silent for an hour.
    client = DockerClient(base_url=socket.url, version=told["ApiVersion"], timeout=None)
    try:
        yield Engine(client, socket, told)
    finally:
        client.close()


def _knock(socket: Socket) -> None:
    """Whether somebody listens at all: the SDK leaks its own socket if there is nobody."""
    import socket as sockets

    if not socket.url.startswith("unix://"):
        return
    with sockets.socket(sockets.AF_UNIX) as probe:
        try:
            probe.connect(socket.url.removeprefix("unix://"))
        except OSError as error:
            raise _silent(socket, error.strerror or error) from None


def _silent(socket: Socket, reason: object) -> ToolError:
    return ToolError(
        f"no container engine answers at {socket.url} ({socket.why}): {reason}",
        hint="is it running? else name another: --engine, or do without: --no-engine",
    )


class Pushed(NamedTuple):
    digest: str
    summary: str


class Engine:
    """What we ask of an engine. Its own failures are ToolError, a registry's StoreError."""

    def __init__(self, client: Any, socket: Socket, told: Mapping[str, Any]) -> None:
        self._client = client
        self.socket = socket
        parts = [str(one.get("Name", "")) for one in told.get("Components") or ()]
        name = "Podman" if any("podman" in part.lower() for part in parts) else "Docker"
        #: Who it is, for people: ``Podman 4.3.1``.
        self.title = f"{name} {told.get('Version', '')}".rstrip()
        #: What it builds for where nothing else is said: ``linux/amd64``.
        self.platform = f"{told.get('Os', 'linux')}/{told.get('Arch', '')}"

    def build(  # noqa: PLR0913 - passed by name
        self,
        context: IO[bytes],
        *,
        dockerfile: str,
        names: Sequence[str],
        arguments: Mapping[str, str],
        platform: str = "",
        no_cache: bool = False,
        pull: bool = False,
        network: str = "",
        tell: Callable[[str], None],
    ) -> str:
        """Build from a tar archive that holds the Dockerfile; gives the image's id.

        Raises ToolError with the step that failed.
        """
        log = BuildLog()
        with _translated("the build stopped"):
            events = self._client.api.build(
                fileobj=context,
                custom_context=True,
                dockerfile=dockerfile,
                tag=names[0],
                buildargs=dict(arguments),
                platform=platform or None,
                nocache=no_cache,
                pull=pull,
                network_mode=network or None,
                rm=True,
                forcerm=True,
                decode=True,
            )
            for event in events:
                for line in log.lines(event):
                    tell(line)
        if log.failure:
            raise failed(log.failure)
        self.tag(names[0], names[1:])
        return str(self.inspect(names[0])["Id"])

    def tag(self, image: str, names: Sequence[str]) -> None:
        """Give an image more names."""
        for name in names:
            repository, tag = _parted(name)
            with _translated(f"cannot name the image {name}"):
                self._client.api.tag(image, repository, tag)

    def inspect(self, image: str) -> Mapping[str, Any]:
        """What the engine knows of an image. Raises NotFoundError if it has none of this name."""
        from docker.errors import ImageNotFound, NotFound

        with _translated(f"cannot look at the image {image}"):
            try:
                told: Mapping[str, Any] = self._client.api.inspect_image(image)
            except (ImageNotFound, NotFound):
                raise NotFoundError(
                    "the engine has no image of this name",
                    where=image,
                    hint="run: invoke image.build",
                ) from None
        return told

    def push(self, name: str, login: Mapping[str, str] | None) -> Pushed:
        """Put an image where its name says. ``login`` has ``username`` and ``password``.

        Raises StoreError or one of its kinds.
        """
        log = PushLog()
        repository, tag = _parted(name)
        with _translated(f"cannot push {name}"):
            events = self._client.api.push(
                repository,
                tag=tag,
                stream=True,
                decode=True,
                auth_config=dict(login) if login else None,
            )
            for event in events:
                log.lines(event)
        if log.error:
            raise _refused(name, log.error)
        return Pushed(log.digest, log.summary)

    @contextmanager
    def container(
        self,
        image: str,
        command: Sequence[str],
        *,
        mounts: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Iterator[Container]:
        """A container without a network, not started yet; it is removed at the end.

        ``mounts`` are folders of the engine's machine by where the container sees them, to read.
        """
        api = self._client.api
        binds = [f"{folder}:{place}:ro" for place, folder in (mounts or {}).items()]
        with _translated(f"cannot make a container of {image}"):
            made = api.create_container(
                image,
                command=list(command),
                environment=dict(variables or {}),
                host_config=api.create_host_config(network_mode="none", binds=binds),
            )
        try:
            yield Container(api, made["Id"])
        finally:
            with _translated("cannot remove the container"):
                api.remove_container(made["Id"], force=True)


class Container:
    """A container that was made, and is started once."""

    def __init__(self, api: Any, identity: str) -> None:
        self._api = api
        self._id = identity

    def run(self, tell: Callable[[str], None]) -> int:
        """Start it, pass on every line that it says, and wait for its end: its exit code."""
        with _translated("the container stopped"), self._attached() as pieces:
            self._api.start(self._id)
            rest = b""
            for _, piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    tell(line.decode(errors="replace").rstrip("\r"))
            if rest:
                tell(rest.decode(errors="replace"))
            return int(self._api.wait(self._id, timeout=None)["StatusCode"])

    @contextmanager
    def _attached(self) -> Iterator[Iterator[tuple[int, bytes]]]:
        """What it says from its start on, until its end; each piece with its channel.

        Podman 4.3 may never end a log that it is asked to follow when the container ends.
        """
        from docker.utils.socket import frames_iter

        wanted = {"stdout": 1, "stderr": 1, "stream": 1}
        socket = self._api.attach_socket(self._id, wanted)
        try:
            yield frames_iter(socket, tty=False)
        finally:
            socket._response.close()  # noqa: SLF001 - the SDK has no other way to it
            socket.close()

    def archive(self, path: str) -> Iterator[bytes]:
        """A file or folder of the container as a tar archive. NotFoundError if it is not there."""
        from docker.errors import NotFound

        with _translated(f"cannot read {path}"):
            try:
                pieces, _ = self._api.get_archive(self._id, path)
            except NotFound:
                raise NotFoundError("the image has no such file", where=path) from None
            yield from pieces


def failed(failure: Failure) -> ToolError:
    """The error that a failed build is for people."""
    return ToolError(
        f"the build failed at {failure}" if failure.step else f"the build failed: {failure}",
        hint="its last lines stand above; a private mirror is fetched from here with --prefetch",
    )


def _parted(name: str) -> tuple[str, str]:
    repository, _, tag = name.rpartition(":")
    return repository, tag


def _refused(name: str, reason: str) -> StoreError:
    text = reason.lower()
    if any(word in text for word in _DENIED):
        return DeniedError(
            reason, where=name, hint="log in to the registry (docker login), or ask for the right"
        )
    if any(word in text for word in _LOST):
        return UnreachableError(
            reason, where=name, hint="is the registry's name right, and does it answer?"
        )
    return StoreError(reason, where=name, hint="pushing again goes on where it stopped")


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """The SDK's errors, and those of the connection below it, as ours."""
    from docker.errors import APIError, DockerException
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except APIError as error:
        reason = str(error.explanation or error).strip()
        raise ToolError(f"{what}: {reason}") from None
    except (DockerException, RequestException, HTTPError, OSError) as error:
        raise ToolError(f"{what}: the engine does not answer: {error}") from None
