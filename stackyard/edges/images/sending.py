"""Where an image goes: into a registry, a folder, or an archive."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from stackyard.edges import console
from stackyard.edges.images.supply import Checked, Supply
from stackyard.edges.mirrors.destination import EPOCH_S
from stackyard.edges.parallel import parallel_map
from stackyard.edges.stores.folder import unwritable
from stackyard.edges.stores.oci import OciStore
from stackyard.oci import Reference, manifest_key

__all__ = ["Sent", "push_image", "write_archive", "write_layout"]

_AT_ONCE = 4
_COPY_BYTES = 2**20


class Sent(NamedTuple):
    """How many blobs were there already, were taken over from another repository, and were sent."""

    there: int
    mounted: int
    sent: int
    size_bytes: int  # of those that were sent


def push_image(
    store: OciStore, supplies: Iterable[Supply], manifests: Sequence[bytes], tags: Sequence[str]
) -> Sent:
    """Send what the registry lacks; then the manifests, the last of which gets the tags.

    Tags come last, so that nobody sees an image that is not whole. Raises StoreError.
    """
    blobs = _once(supplies)
    answers = parallel_map(
        lambda supply: _send(store, supply),
        blobs,
        workers=_AT_ONCE,
        tick=lambda done, total: console.bar("push", done, total),
    )
    *parts, top = manifests
    for data in parts:
        store.write(manifest_key(_digest(data)), data)
    for tag in tags:
        store.write(manifest_key(tag), top)
    if not tags:
        store.write(manifest_key(_digest(top)), top)
    sizes = [
        one.descriptor.size_bytes for one, how in zip(blobs, answers, strict=True) if how == "sent"
    ]
    return Sent(answers.count("there"), answers.count("mounted"), len(sizes), sum(sizes))


def _once(supplies: Iterable[Supply]) -> list[Supply]:
    """Each blob once, the largest first, so that none is waited for alone."""
    found = {supply.key: supply for supply in supplies}
    return sorted(found.values(), key=lambda one: (-one.descriptor.size_bytes, one.key))


def _send(store: OciStore, supply: Supply) -> str:
    if store.exists(supply.key):
        return "there"
    origin, here = supply.origin, store.reference
    if (
        origin
        and _same_registry(origin, here)
        and origin.name != here.name
        and store.mount_from(origin.name, supply.descriptor.digest)
    ):
        return "mounted"
    store.send(supply.key, supply.descriptor.size_bytes, supply.opened)
    return "sent"


def _same_registry(one: Reference, other: Reference) -> bool:
    return (one.scheme, one.domain) == (other.scheme, other.domain)


def _digest(data: bytes) -> str:
    from stackyard.oci import descriptor

    return descriptor(data, "").digest


def write_layout(folder: Path, supplies: Iterable[Supply], files: Mapping[str, bytes]) -> None:
    """A folder with an OCI layout; blobs of an earlier image that this one lacks are removed.

    ``files`` are those beside the blobs, index.json among them, which comes last.
    """
    blobs = folder / "blobs" / "sha256"
    try:
        blobs.mkdir(parents=True, exist_ok=True)
        wanted = _once(supplies)
        for supply in wanted:
            _write_blob(blobs / supply.descriptor.checksum, supply)
        for name, data in files.items():
            part = folder / f".{name}.part"
            part.write_bytes(data)
            part.replace(folder / name)
        kept = {supply.descriptor.checksum for supply in wanted}
        for path in blobs.iterdir():
            if path.name not in kept:
                path.unlink()
    except OSError as error:
        raise unwritable(error, str(error.filename or folder)) from None


def _write_blob(path: Path, supply: Supply) -> None:
    """One that is there and has the right size is taken for the right one."""
    with suppress(FileNotFoundError):
        if path.stat().st_size == supply.descriptor.size_bytes:
            return
    part = path.with_name(f"{path.name}.part")
    try:
        with supply.opened() as source, part.open("wb") as target:
            shutil.copyfileobj(Checked(source, supply.descriptor), target, _COPY_BYTES)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_archive(path: Path, supplies: Iterable[Supply], files: Mapping[str, bytes]) -> None:
    """The same as one tar file; it appears whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as target:
                _write_tar(target, _once(supplies), files)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(error, str(error.filename or path)) from None


def _write_tar(target: IO[bytes], blobs: Sequence[Supply], files: Mapping[str, bytes]) -> None:
    import io

    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("blobs", "blobs/sha256"):
            folder = _entry(name, 0)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        for name, data in files.items():
            tar.addfile(_entry(name, len(data)), io.BytesIO(data))
        for supply in sorted(blobs, key=lambda one: one.descriptor.checksum):
            one = supply.descriptor
            entry = _entry(f"blobs/sha256/{one.checksum}", one.size_bytes)
            with supply.opened() as source:
                checked = Checked(source, one)
                tar.addfile(entry, checked)
                checked.end()


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o644, EPOCH_S
    return entry
