"""What goes into a stack's image: fetch it, verified, and decide which file lies in which layer."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from stackyard.binary import Binary
from stackyard.edges import console
from stackyard.edges.files import read_bytes
from stackyard.edges.stores.folder import WORK_FOLDER, FileStore
from stackyard.errors import ConfigError
from stackyard.flow.fetch import Checking, Fetched, bring
from stackyard.flow.image_stacks import choose_image_stack, image_stacks
from stackyard.flow.places import Locked
from stackyard.flow.steps import Request, Work, load_work, open_project
from stackyard.image import (
    PUBLIC_KEY,
    SHARE,
    TESTS,
    Contents,
    architectures,
    make_contents,
    roots_of,
    spack_files,
    system_targets,
)
from stackyard.layers import MOST_LAYERS, plan_layers
from stackyard.sbom import make_sbom

__all__ = [
    "Fill",
    "Part",
    "choose_parts",
    "fetch_contents",
    "load_image_work",
    "lock_digest",
    "time_of",
]

#: Of so many binaries the tarballs are looked into, for how paths in them are padded.
_LOOKED_AT = 30
#: As long ago as the files: what is made of no commit has no time of its own.
_LONG_AGO = "1980-01-01T00:00:00Z"
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class Part(NamedTuple):
    """What an image is for one kind of processors: its name for them, and the roots."""

    architecture: str
    roots: tuple[str, ...]


class Fill(NamedTuple):
    """What was fetched into ``mirror``, and how it is laid out."""

    mirror: Path
    fetched: Fetched
    contents: Contents


def load_image_work(stack: str, lock: str = "") -> Work:
    """The stack, by default the only one with an image, and its lock."""
    project = open_project()
    if not stack and (known := image_stacks(project)):
        stack = choose_image_stack(known)
    return load_work(project, Request(stack=stack, lock=lock))


def lock_digest(work: Work) -> str:
    """The digest of the lock's bytes, as the label has it."""
    return f"sha256:{hashlib.sha256(work.lock_bytes).hexdigest()}"


def choose_parts(work: Work, platforms: str) -> tuple[Part, ...]:
    """The parts of an image: those named (``linux/amd64,arm64``), else the one for this machine.

    A lock for one kind of processors has one part, whatever machine this is. Raises ConfigError for
    a platform that the lock has nothing for.
    """
    there = architectures(work.lock, work.roots)
    wanted = [name.strip().removeprefix("linux/") for name in platforms.split(",") if name.strip()]
    # Images say which generation of a processor they want: arm64/v8. A lock says that by targets.
    wanted = list(dict.fromkeys(name.partition("/")[0] for name in wanted))
    if not wanted:
        wanted = [there[0] if len(there) == 1 else _own_architecture()]
    for name in wanted:
        if name not in there:
            raise ConfigError(
                f"the lock has no roots for {name}, only for {', '.join(there)}",
                where="--platform",
                hint=f"give {', '.join(f'linux/{one}' for one in there)}",
            )
    return tuple(Part(name, roots_of(work.lock, work.roots, name)) for name in wanted)


def _own_architecture() -> str:
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def fetch_contents(  # noqa: PLR0913 - passed by name
    work: Work,
    part: Part,
    folder: Path,
    source: str,
    checking: Checking,
    *,
    most: int,
    created: str,
) -> Fill:
    """Fetch a part's binaries into a folder that is its own, and lay all of its files out."""
    from stackyard.fetch import wanted_specs

    lock = work.lock
    asked = Locked(work.project, work.stack, work.settings, lock, part.roots)
    wanted = wanted_specs(lock, part.roots)
    fetched = bring(asked, wanted, source, str(folder), checking, alone=True)
    sizes = {
        binary.hash: len(binary.manifest)
        + sum(blob.size_bytes or (folder / blob.key).stat().st_size for blob in binary.blobs)
        for binary in fetched.binaries
    }
    contents = make_contents(
        fetched.binaries,
        plan_layers(lock, sizes, min(most, MOST_LAYERS)),
        _keys(folder),
        {**_documents(work, part, created), **_configuration(work, part, folder, fetched)},
        _programs(work),
    )
    return Fill(folder, fetched, contents)


def _keys(folder: Path) -> list[str]:
    """All files of the fetched mirror."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != WORK_FOLDER
    )


def _documents(work: Work, part: Part, created: str) -> Mapping[str, bytes]:
    sbom = make_sbom(
        work.lock,
        part.roots,
        stack=work.stack.name,
        lock_digest=lock_digest(work),
        created=time_of(work, created),
    )
    return {
        f"{SHARE}/spack.yaml": work.stack.text.encode(),
        f"{SHARE}/spack.lock": work.lock_bytes,
        f"{SHARE}/sbom.spdx.json": sbom,
    }


def time_of(work: Work, created: str) -> str:
    """A time in UTC: the one that is given, else that of SOURCE_DATE_EPOCH, else long ago."""
    from datetime import datetime, timezone

    epoch = work.project.env.get("SOURCE_DATE_EPOCH", "")
    if not created and epoch.isascii() and epoch.isdigit():
        return time.strftime(_TIME, time.gmtime(int(epoch)))
    if not created:
        return _LONG_AGO
    try:
        # Python 3.10 knows no Z.
        given = datetime.fromisoformat(created.replace("Z", "+00:00"))
    except ValueError:
        raise ConfigError(
            f"{created!r} is no time", where="--created", hint="such as 2026-11-21T14:00:00Z"
        ) from None
    return given.astimezone(timezone.utc).strftime(_TIME)


def _configuration(work: Work, part: Part, folder: Path, fetched: Fetched) -> Mapping[str, bytes]:
    lock = work.lock
    reached = lock.closure(part.roots)
    files = spack_files(
        work.stack.name,
        signed=bool(fetched.keys),
        targets=system_targets(lock.specs[key] for key in lock.order if key in reached),
        padded_length=_padded_length(work, folder, fetched.binaries),
    )
    keys = b"".join(key if key.endswith(b"\n") else key + b"\n" for key in fetched.keys.values())
    return {**files, **({PUBLIC_KEY: keys} if keys else {})}


def _padded_length(work: Work, folder: Path, binaries: Sequence[Binary]) -> int:
    """What users build beside the binaries is to fit the same caches, so it is padded as they are.

    The stack says how, else the binaries themselves do if all that are looked at agree; 0 for not.
    """
    from stackyard.edges.mirrors.padding import root_of

    tree = (work.stack.config.get("config") or {}).get("install_tree")
    said = tree.get("padded_length") if isinstance(tree, Mapping) else None
    if isinstance(said, int) and not isinstance(said, bool):
        return said
    store = FileStore(folder)
    some = sorted(binaries, key=lambda one: one.hash)[:: len(binaries) // _LOOKED_AT + 1]
    found = {root.padding for one in some if (root := root_of(store, one))}
    if len(found) > 1:
        console.warn(f"binaries are padded in several ways: {', '.join(map(str, sorted(found)))}")
    return found.pop() if len(found) == 1 else 0


def _programs(work: Work) -> Mapping[str, bytes]:
    """The tutorial's test script and what lies beside it: the project's own, else ours."""
    from stackyard.edges.templates import docker_folder

    folder = docker_folder("test", work.project.root)
    if folder is None:
        return {}
    return {
        f"{TESTS}/{path.relative_to(folder).as_posix()}": read_bytes(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
