"""What an image holds beside its base: binaries as a mirror, Spack's configuration, labels.

All of it is decided here, so that both ways of building, a Dockerfile and ourselves, give the same
files in the same layers. Paths are those in the image, without their first slash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from stackyard.binary import Binary
from stackyard.document import dump_yaml
from stackyard.lock import Lock, Spec

__all__ = [
    "COMMAND",
    "LABELS",
    "MIRROR",
    "PUBLIC_KEY",
    "SHARE",
    "TESTS",
    "USER",
    "Contents",
    "File",
    "Origin",
    "User",
    "architectures",
    "make_contents",
    "make_labels",
    "roots_of",
    "spack_files",
    "system_targets",
]

MIRROR = "mirror"
PUBLIC_KEY = "mirror/public.key"
SHARE = "usr/share/stack"
TESTS = "tutorial/.test"


class User(NamedTuple):
    """Whoever the container's first command runs as."""

    name: str = "spack"
    number: int = 1000
    home: str = "/home/spack"
    shell: str = "/bin/bash"


USER = User()
#: What the container runs if nobody says anything else.
COMMAND = ("bash",)


class File(NamedTuple):
    """A file of the image: its bytes, or the key in the fetched mirror where these are.

    One without content is a folder. ``owner`` are the numbers of user and group.
    """

    path: str
    content: bytes | str | None
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)


class Contents(NamedTuple):
    """Files by layer: those with binaries, the bottom one first, and the last one with the rest."""

    layers: tuple[tuple[File, ...], ...]
    last: tuple[File, ...]


class Origin(NamedTuple):
    """Where an image comes from: repository, commit, time of the commit (RFC 3339), and its tag.

    Empty is what nobody knows.
    """

    source: str = ""
    revision: str = ""
    created: str = ""
    version: str = ""


_OCI = "org.opencontainers.image."
_OWN = "dev.stackyard."
#: All labels that an image may have.
LABELS = (
    *(_OCI + name for name in ("title", "source", "revision", "version", "created", "licenses")),
    *(_OCI + name for name in ("base.name", "base.digest")),
    *(_OWN + name for name in ("stack", "spack-commit", "lock-digest")),
)


def make_labels(  # noqa: PLR0913 - passed by name
    *,
    stack: str,
    origin: Origin,
    spack_commit: str,
    lock_digest: str,
    licenses: str = "",
    base_name: str = "",
    base_digest: str = "",
) -> Mapping[str, str]:
    """The image's labels; what is empty has none. ``lock_digest`` is ``sha256:`` and 64 digits."""
    values = (
        *(stack, origin.source, origin.revision, origin.version, origin.created, licenses),
        *(base_name, base_digest),
        *(stack, spack_commit, lock_digest),
    )
    return {name: value for name, value in zip(LABELS, values, strict=True) if value}


def make_contents(
    binaries: Iterable[Binary],
    layers: Sequence[Sequence[str]],
    keys: Iterable[str],
    others: Mapping[str, bytes],
    programs: Mapping[str, bytes],
) -> Contents:
    """Lay everything out. ``layers`` are DAG hashes, ``keys`` all files of the fetched mirror.

    ``others`` and ``programs`` go into the last layer by their path, the latter executable. A blob
    that two binaries share lies in the lower one's layer.
    """
    by_hash = {binary.hash: binary for binary in binaries}
    placed: set[str] = set()
    laid: list[tuple[File, ...]] = []
    for hashes in layers:
        found = [key for one in hashes for key in _keys(by_hash[one]) if key not in placed]
        placed.update(found)
        laid.append(_sorted(File(f"{MIRROR}/{key}", key) for key in set(found)))
    rest = (File(f"{MIRROR}/{key}", key) for key in keys if key not in placed)
    own = (File(path, data) for path, data in others.items())
    executable = (File(path, data, 0o755) for path, data in programs.items())
    return Contents(tuple(laid), _sorted((*rest, *own, *executable)))


def _keys(binary: Binary) -> tuple[str, ...]:
    return (binary.key, *(blob.key for blob in binary.blobs))


def _sorted(files: Iterable[File]) -> tuple[File, ...]:
    return tuple(sorted(files, key=lambda file: file.path))


def spack_files(
    stack: str, *, signed: bool, targets: Sequence[str], padded_length: int = 0
) -> Mapping[str, bytes]:
    """Spack's configuration of the whole system, by path: where binaries are, and for what."""
    config: dict[str, object] = {"suppress_gpg_warnings": True}
    if padded_length:
        config["install_tree"] = {"padded_length": padded_length}
    mirror = {"url": f"file:///{MIRROR}", "binary": True, "source": False, "signed": signed}
    documents: dict[str, object] = {
        "mirrors": {stack: mirror},
        "packages": {"all": {"target": list(targets)}},
        "config": config,
        "concretizer": {"reuse": True},
    }
    return {
        f"etc/spack/{name}.yaml": dump_yaml({name: document}).encode()
        for name, document in documents.items()
        if name != "packages" or targets
    }


def system_targets(specs: Iterable[Spec]) -> tuple[str, ...]:
    """The targets that binaries were built for, the commonest first."""
    counts = Counter(spec.target for spec in specs if not spec.external)
    return tuple(sorted(counts, key=lambda target: (-counts[target], target)))


def architectures(lock: Lock, roots: Iterable[str]) -> tuple[str, ...]:
    """What images call the processors that the roots are for: ``amd64``, ``arm64``."""
    return tuple(sorted({_architecture(lock.specs[key]) for key in roots}))


def roots_of(lock: Lock, roots: Iterable[str], architecture: str) -> tuple[str, ...]:
    """The roots that are for such processors."""
    return tuple(key for key in roots if _architecture(lock.specs[key]) == architecture)


def _architecture(spec: Spec) -> str:
    from stackyard.oci import go_architecture  # which knows processors, and is slow to import

    return go_architecture(spec)
