"""``image.build``: the image of a stack, made by a container engine from ``docker/Dockerfile``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from stackyard.edges import console
from stackyard.edges.files import read_bytes, write_files
from stackyard.edges.templates import docker_file, ignore_file
from stackyard.errors import ConfigError
from stackyard.fetch import size_text, wanted_specs
from stackyard.flow.contents import Part, choose_parts, load_image_work
from stackyard.flow.context import own_requirement
from stackyard.flow.fetch import Checking, bring, source_place
from stackyard.flow.image_origin import image_labels
from stackyard.flow.image_stacks import choose_image_stack, image_stacks
from stackyard.flow.places import Locked
from stackyard.flow.steps import Work, open_project
from stackyard.image_build import (
    context_patterns,
    label_arguments,
    layer_count,
    local_repository,
    tagged_names,
)
from stackyard.layers import MOST_IN_IMAGE

__all__ = ["build", "open_image_work"]

#: Where the context has the Dockerfile, be it the project's or ours.
_DOCKERFILE = ".stackyard.Dockerfile"
_PREFETCHED = ".stackyard/image"
_CONTEXT = "/context"


class Wishes(NamedTuple):
    """What the task was asked for beside names: passed on to the engine."""

    platform: str = ""
    no_cache: bool = False
    pull: bool = False
    network: str = ""
    output: str = ""
    push: bool = False


def open_image_work(stack: str) -> Work:
    """The stack of this name, by default the only one with an image, and its lock."""
    project = open_project()
    return load_image_work(choose_image_stack(image_stacks(project), stack))


def build(  # noqa: PLR0913 - what the task takes
    *,
    stack: str,
    tags: Sequence[str],
    engine: str,
    buildkit: bool,
    platform: str,
    prefetch: bool,
    source: str,
    keys: str,
    unsigned: bool,
    no_cache: bool,
    pull: bool,
    network: str,
    arguments: Sequence[str],
    no_engine: bool,
    base: str,
    output: str,
    push: bool,
) -> None:
    """Build, by an engine or without one, and tell what came out.

    Raises ConfigError for what is asked, StoreError for a mirror that does not give what the lock
    wants, ToolError for an engine that is not there or whose build fails.
    """
    wishes = Wishes(platform, no_cache, pull, network, output, push)
    _refuse(wishes, no_engine=no_engine, buildkit=buildkit)
    work = open_image_work(stack)
    names = tagged_names(local_repository(work.settings.image.repository, work.stack.name), tags)
    checking = Checking(keys, unsigned=unsigned)
    if no_engine:
        from stackyard.flow.assembly import assemble

        if arguments:
            raise ConfigError("it is for a Dockerfile", where="--build-arg", hint="leave it away")
        assemble(work, names, source, checking, base=base, wishes=wishes)
        return
    parts = choose_parts(work, platform)
    if len(parts) > 1 and not buildkit:
        raise ConfigError(
            "the engine builds for one platform at a time",
            where="--platform",
            hint="several at once: --buildkit, or --no-engine",
        )
    told = {**_arguments(work, base, names[0], unsigned=unsigned), **_given(arguments)}
    told["REMOTE_BUILDCACHE_URL"] = _mirror(work, parts, source, checking, prefetch=prefetch)
    inside = told["REMOTE_BUILDCACHE_URL"].startswith(f"{_CONTEXT}/")
    with _context(work, prefetched=inside) as context:
        if buildkit:
            from stackyard.flow.buildkit import build_with_program

            build_with_program(work, engine, context, _DOCKERFILE, names, told, parts, wishes)
        else:
            _build_with_engine(work, engine, context, names, told, parts[0], wishes)


def _refuse(wishes: Wishes, *, no_engine: bool, buildkit: bool) -> None:
    if no_engine and buildkit:
        raise ConfigError("there are two ways to build", where="--no-engine", hint="name one")
    for flag, value in (("--output", wishes.output), ("--push", wishes.push)):
        if value and not (no_engine or buildkit):
            raise ConfigError(
                "an engine keeps what it builds",
                where=flag,
                hint="push it then: invoke image.push; or build with --buildkit or --no-engine",
            )


def _build_with_engine(  # noqa: PLR0913, PLR0917
    work: Work,
    wanted: str,
    context: IO[bytes],
    names: Sequence[str],
    arguments: Mapping[str, str],
    part: Part,
    wishes: Wishes,
) -> None:
    from stackyard.edges.engine import open_engine

    with open_engine(work.project.env, wanted) as engine:
        console.note(f"{engine.title} at {engine.socket.url} ({engine.socket.why})")
        platform = f"linux/{part.architecture}"
        image = engine.build(
            context,
            dockerfile=_DOCKERFILE,
            names=names,
            # BuildKit sets it itself.
            arguments={**arguments, "TARGETPLATFORM": platform},
            # Only if it is another one: old engines know no platforms.
            platform="" if platform == engine.platform else platform,
            no_cache=wishes.no_cache,
            pull=wishes.pull,
            network=wishes.network,
            tell=console.note,
        )
        told = engine.inspect(names[0])
    console.note(f"{image}, {size_text(int(told.get('Size') or 0))}")
    if (count := layer_count(told)) > MOST_IN_IMAGE:
        console.warn(
            f"{count} layers, and image.test allows {MOST_IN_IMAGE}: take a base with fewer, or "
            "--no-engine, which lays the binaries into as few as it must"
        )
    for name in names:
        console.out(name)


# -- what the Dockerfile is told ----------------------------------------------------------------


def _arguments(work: Work, base: str, name: str, *, unsigned: bool) -> dict[str, str]:
    image = work.settings.image
    base = base or image.base
    requirement = work.settings.generate.requirement or own_requirement(work.project)
    return {
        "BASE": base,
        "STACKYARD": _CONTEXT if requirement == "." else requirement,
        "TOOLS": " ".join(image.tools),
        "UNSIGNED": "yes" if unsigned else "",
        **({"FETCH_BASE": image.fetch_base} if image.fetch_base else {}),
        **label_arguments(image_labels(work, base, name.rpartition(":")[2])),
    }


def _given(arguments: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE`` as the user gave them."""
    for text in arguments:
        if not text.partition("=")[1]:
            raise ConfigError(f"{text!r} has no value", where="--build-arg", hint="NAME=VALUE")
    return dict(text.split("=", 1) for text in arguments)


def _mirror(
    work: Work, parts: Sequence[Part], source: str, checking: Checking, *, prefetch: bool
) -> str:
    """The mirror that the build fetches from: one that it can see and that wants no secret.

    Raises ConfigError for one with a password in its URL.
    """
    everything = Locked(work.project, work.stack, work.settings, work.lock, work.roots)
    place = source_place(everything, source)
    local = "://" not in place.url or place.url.startswith("file://")
    if not (prefetch or local):
        if "@" in place.url.partition("://")[2].partition("/")[0]:
            raise ConfigError(
                "the mirror's URL has a user or a password in it, and images tell how they were "
                "built",
                where=place.shown.rpartition("@")[2],
                hint="fetch from here: --prefetch",
            )
        if checking.keys:
            raise ConfigError(
                "the build looks into stacks/NAME/keys and trust.keys",
                where="--keys",
                hint="put the keys there, or fetch from here: --prefetch",
            )
        return place.url
    if local and not prefetch:
        console.note(f"the build cannot see {place.shown}: fetching from here")
    folder = _prefetch_folder(work)
    roots = [root for part in parts for root in part.roots]
    asked = everything._replace(roots=tuple(roots))
    wanted = wanted_specs(work.lock, asked.roots)
    done = bring(asked, wanted, source, str(folder), checking, alone=True)
    console.note(
        f"{len(done.plan.here)} binaries already in {work.project.shown(folder)}, "
        f"{len(done.plan.new)} fetched"
    )
    return f"{_CONTEXT}/{folder.relative_to(work.project.root).as_posix()}"


def _prefetch_folder(work: Work) -> Path:
    folder = work.project.root / _PREFETCHED
    if not (folder.parent / ".gitignore").exists():
        write_files({folder.parent / ".gitignore": b"*\n"})
    return folder / work.stack.name


# -- the build's context ------------------------------------------------------------------------


@contextmanager
def _context(work: Work, *, prefetched: bool) -> Iterator[IO[bytes]]:
    """The project's files that a build may see, and the Dockerfile, as a tar archive.

    Of the binaries that were ever fetched here it gets those that it wants.
    """
    from stackyard.edges.context import write_context

    root = work.project.root
    dockerfile, ignore = docker_file("Dockerfile", root), ignore_file(root)
    binaries = [f"{_PREFETCHED}/{work.stack.name}"] if prefetched else []
    patterns = context_patterns(
        read_bytes(ignore).decode(), [*binaries, *_key_paths(work)], not_needed=[_PREFETCHED]
    )
    shown = work.project.shown(dockerfile) if dockerfile.is_relative_to(root) else "our Dockerfile"
    with tempfile.TemporaryFile() as file:
        write_context(file, root, patterns, _DOCKERFILE, read_bytes(dockerfile).decode())
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        console.note(f"building {shown} with {size_text(size)} of the project")
        yield file


def _key_paths(work: Work) -> Iterator[str]:
    """Files with keys that settings name; those outside of the project no build can see."""
    root = work.project.root.resolve()
    for text in work.settings.trust.keys:
        path = (root / text).resolve()
        if not path.is_relative_to(root):
            raise ConfigError(
                f"{text} lies outside of the project, where the build does not see it",
                where="trust.keys",
                hint=f"put the keys into stacks/{work.stack.name}/keys/",
            )
        yield path.relative_to(root).as_posix()
