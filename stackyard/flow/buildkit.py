"""``image.build --buildkit``: by the program ``docker``, because the SDK does not know BuildKit."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING

from stackyard.edges import console
from stackyard.edges.process import relay, run
from stackyard.errors import ConfigError, ToolError
from stackyard.image_build import kit_lines

if TYPE_CHECKING:
    from stackyard.flow.contents import Part
    from stackyard.flow.image import Wishes
    from stackyard.flow.steps import Work

__all__ = ["build_with_program"]

_BEAT_S = 60.0


def build_with_program(  # noqa: PLR0913, PLR0917
    work: Work,
    wanted: str,
    context: IO[bytes],
    dockerfile: str,
    names: Sequence[str],
    arguments: Mapping[str, str],
    parts: Sequence[Part],
    wishes: Wishes,
) -> None:
    """Build with ``docker buildx build``, or where there is no buildx with ``docker build``.

    Raises ToolError if docker is not there or fails, ConfigError for what only buildx can do.
    """
    from stackyard.edges.engine import find_socket

    env = {**work.project.env, "DOCKER_BUILDKIT": "1"}
    if not shutil.which("docker", path=env.get("PATH")):
        raise ToolError(
            "there is no program docker, and BuildKit is reached by it alone",
            hint="install it, or build without --buildkit",
        )
    socket = find_socket(env, wanted)
    env["DOCKER_HOST"] = socket.url
    buildx = run(["docker", "buildx", "version"], env=env).code == 0
    _refuse(parts, wishes, buildx=buildx)
    argv = ["docker", "buildx", "build"] if buildx else ["docker", "build"]
    argv += ["--progress", "plain", "--file", dockerfile]
    argv += [word for name in names for word in ("--tag", name)]
    # What an argument says is told by the image's history, so none is a secret.
    argv += [word for key, text in arguments.items() for word in ("--build-arg", f"{key}={text}")]
    argv += _flags(parts, wishes, buildx=buildx)
    console.note(f"BuildKit of docker at {socket.url} ({socket.why})")
    causes: list[str] = []

    def tell(line: str) -> None:
        for text in kit_lines(line):
            console.note(text)
            if text.startswith(("error: ", "ERROR: ")):
                causes.append(text.partition(": ")[2])

    code, _ = relay(
        [*argv, "-"],
        tell=tell,
        env=env,
        feed=context,
        beat=lambda seconds: console.note(f"still building, {seconds / 60:.0f} min"),
        beat_s=_BEAT_S,
    )
    if code:
        raise ToolError(
            f"docker build ended with {code}" + (f": {causes[0]}" if causes else ""),
            hint="its last lines stand above; a private mirror is fetched from here with --prefetch",
        )
    for name in names:
        console.out(name)


def _refuse(parts: Sequence[Part], wishes: Wishes, *, buildx: bool) -> None:
    kept = wishes.output or wishes.push
    if not buildx and (len(parts) > 1 or kept):
        raise ConfigError(
            "this docker has no buildx, which several platforms, --output and --push need",
            where="--buildkit",
            hint="install docker-buildx, or build with --no-engine",
        )
    if len(parts) > 1 and not kept:
        raise ConfigError(
            "an engine keeps the image of one platform only",
            where="--platform",
            hint="add --push, or --output FILE.tar",
        )


def _flags(parts: Sequence[Part], wishes: Wishes, *, buildx: bool) -> Sequence[str]:
    flags = []
    if buildx or wishes.platform:
        flags += ["--platform", ",".join(f"linux/{part.architecture}" for part in parts)]
    flags += ["--no-cache"] if wishes.no_cache else []
    flags += ["--pull"] if wishes.pull else []
    flags += ["--network", wishes.network] if wishes.network else []
    return [*flags, *(_destination(wishes) if buildx else [])]


def _destination(wishes: Wishes) -> Sequence[str]:
    # Attestations would tell another time in each build, and make a choice of images of one image.
    plain = ["--provenance=false", "--sbom=false"]
    if wishes.push:
        return [*plain, "--push"]
    if wishes.output:
        return [*plain, "--output", f"type=oci,dest={wishes.output}"]
    return [*plain, "--load"]
