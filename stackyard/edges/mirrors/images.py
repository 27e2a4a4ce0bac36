"""Binaries into a registry: each becomes an image, what it depends on before it.

Images that Spack made get their annotations, and a signature, afterwards.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from stackyard.binary import SPEC_BYTES, Binary, Metadata, parse_metadata
from stackyard.edges.mirrors.copying import Cargo
from stackyard.edges.mirrors.spool import Spool
from stackyard.edges.mirrors.transfer import download, read_blob
from stackyard.edges.parallel import Tick, parallel_map
from stackyard.edges.settings import Environment
from stackyard.edges.stores.store import PIECE_BYTES, Store, WritableStore
from stackyard.errors import ConflictError, CorruptError, NotFoundError, StoreError
from stackyard.licence import HEAD_BYTES, licence_in, packed_recipe
from stackyard.lock import Spec
from stackyard.oci import (
    Layer,
    descriptor,
    digest_key,
    image_config,
    image_manifest,
    last_layer,
    manifest_key,
    parse_image,
    parse_oci_binary,
    runtime_order,
    spec_tag,
)
from stackyard.oci_notes import dressed, image_notes, signed_manifest, statement

__all__ = ["Sign", "dress_image", "find_layer", "push_binary", "push_images", "signed_image"]

_WORKERS = 8
#: Gives a text clearsigned.
Sign = Callable[[bytes], bytes]


def push_images(  # noqa: PLR0913 - passed by name
    source: Store,
    target: WritableStore,
    cargo: Sequence[Cargo],
    *,
    spool: Spool,
    on_bytes: Callable[[int], None],
    tick: Tick,
    sign: Sign | None = None,
) -> None:
    """Send each tarball and make its image, as soon as those of all its dependencies are there.

    Raises CorruptError that names all tarballs that are not what their manifests say: they, and
    what depends on them, have no image then.
    """
    layers: dict[str, Layer] = {}

    def push(one: Cargo) -> StoreError | None:
        blob = one.binary.tarball
        try:
            with spool.room(blob.size_bytes or 0) as path:
                download(source, blob, path, on_bytes=on_bytes)
                layers[one.binary.hash] = push_binary(
                    target,
                    _metadata(one),
                    path,
                    dependencies=layers,
                    overwrite=one.item.old is not None,
                    sign=sign,
                )
        except ConflictError as error:  # somebody else was faster
            there = find_layer(target, _metadata(one).spec(one.binary.key))
            if there is None or there.checksum != blob.checksum:
                raise error from None
            layers[one.binary.hash] = there
        except NotFoundError as error:
            return NotFoundError("the mirror has the manifest without it", where=error.where)
        except CorruptError as error:
            return error
        return None

    done = 0
    for level in _levels(cargo):
        before = done
        answers = parallel_map(
            push,
            level,
            workers=_WORKERS,
            tick=lambda part, _: tick(before + part, len(cargo)),  # noqa: B023 - called within
        )
        done += len(level)
        if wrong := [answer for answer in answers if answer]:
            lines = "\n".join(f"  {error.where}: {error.message}" for error in wrong)
            raise CorruptError(
                f"{len(wrong)} tarballs are not what their manifests say:\n{lines}",
                where=source.url,
                hint="build and push these again",
            )


def _metadata(cargo: Cargo) -> Metadata:
    return parse_metadata(cargo.spec.read_bytes(), cargo.binary.key)


def _levels(cargo: Sequence[Cargo]) -> list[list[Cargo]]:
    """Groups in which nothing needs anything of its own group, or of a later one."""
    depth: dict[str, int] = {}
    needs: Mapping[str, Sequence[str]] = {
        one.binary.hash: [spec.hash for spec in runtime_order(_metadata(one), one.binary.key)]
        for one in cargo
    }
    # Whoever is reached by another one reaches less: dependencies come first.
    for one in sorted(cargo, key=lambda one: len(needs[one.binary.hash])):
        own = one.binary.hash
        below = (depth[key] for key in needs[own] if key != own and key in depth)
        depth[own] = max(below, default=-1) + 1
    groups: dict[int, list[Cargo]] = {}
    for one in cargo:
        groups.setdefault(depth[one.binary.hash], []).append(one)
    return [groups[level] for level in sorted(groups)]


def find_layer(store: Store, spec: Spec) -> Layer | None:
    """The layer of a spec's image, for the images of what depends on it; None without an image."""
    key = manifest_key(spec_tag(spec))
    try:
        image = parse_image(store.read(key), f"{store.url}/{key}")
        config = store.read(image.config.blob.key, max_bytes=SPEC_BYTES)
    except NotFoundError:
        return None
    return last_layer(image, config, f"{store.url}/{image.config.blob.key}")


def push_binary(  # noqa: PLR0913 - passed by name
    store: WritableStore,
    metadata: Metadata,
    tarball: Path,
    *,
    dependencies: Mapping[str, Layer],
    overwrite: bool = False,
    timestamp: str = "",
    sign: Sign | None = None,
) -> Layer:
    """Make an image of a tarball on this disk, whose bytes the caller has verified.

    ``dependencies`` are the layers that are known to be there, by DAG hash; for others the
    registry is asked, and one that it has not is left out of the image, as Spack does it: Spack
    reads the last layer only. Blobs are sent first, the manifest last, signed by ``sign``. Gives
    the package's layer, for the images to come.

    Raises ConflictError for a tag that is there (unless ``overwrite``), CorruptError for a tarball
    that is not gzip or metadata that is none, and what the store raises.
    """
    where = f"{store.url}: {tarball.name}"
    order = runtime_order(metadata, where)
    if not order or order[-1].hash != metadata.hash:
        raise StoreError("an external has no binary", where=where)
    spec = order[-1]
    key = manifest_key(spec_tag(spec))
    if not overwrite and store.exists(key):
        raise ConflictError("it is there already", where=f"{store.url}/{key}")
    own = _measure(tarball)
    store.upload(digest_key(own.checksum), tarball)
    found = (dependencies.get(one.hash) or find_layer(store, one) for one in order[:-1])
    layers = [*filter(None, found), own]
    with tarball.open("rb") as file:
        notes = _notes(metadata, file.read(HEAD_BYTES), own.size_bytes, where)
    config = image_config(
        metadata,
        layers,
        timestamp=timestamp or datetime.now().astimezone().isoformat(),
        labels=notes,
    )
    store.write(descriptor(config, "").blob.key, config)
    manifest = image_manifest(config, layers, notes)
    if sign:
        binary = parse_oci_binary(manifest, key, metadata.hash, where)
        manifest = signed_image(binary, sign).manifest
    if overwrite:
        store.write(key, manifest)
    else:
        store.create(key, manifest)
    return own


def signed_image(binary: Binary, sign: Sign) -> Binary:
    """The same image with a signature in its manifest. Raises what ``sign`` does."""
    assert binary.spec  # noqa: S101 - the configuration of an image
    message = sign(statement(binary.hash, binary.tarball.checksum, binary.spec.checksum))
    return binary._replace(manifest=signed_manifest(binary.manifest, message), signed=True)


def dress_image(
    store: WritableStore, binary: Binary, metadata: Metadata, *, sign: Sign | None = None
) -> Binary:
    """Give annotations, labels and perhaps a signature to an image that Spack made.

    The caller knows that the tarball is the one that Spack sent, and that the metadata are the
    binary's. Raises ConflictError if the image is another one in the meantime, CorruptError for a
    base image of a strange kind, and what store and ``sign`` raise.
    """
    where = f"{store.url}/{binary.key}"
    assert binary.spec  # noqa: S101 - the configuration of an image
    head = store.read_range(binary.tarball.key, 0, HEAD_BYTES)
    notes = _notes(metadata, head, binary.tarball.size_bytes or 0, where)
    old = read_blob(store, binary.spec, max_bytes=SPEC_BYTES)
    manifest, config = dressed(binary.manifest, old, notes, where)
    made = parse_oci_binary(manifest, binary.key, binary.hash, where)
    if sign:
        made = signed_image(made, sign)
    found = store.read_version(binary.key)
    if found.data != binary.manifest:
        raise ConflictError("somebody else pushed it at the same time", where=where)
    store.write(descriptor(config, "").blob.key, config)
    store.replace(binary.key, made.manifest, found.version)
    return made


def _notes(metadata: Metadata, head: bytes, size_bytes: int, where: str) -> Mapping[str, str]:
    """Annotations and labels; ``head`` are the first bytes of the tarball."""
    env = Environment.snapshot()
    return image_notes(
        metadata,
        size_bytes=size_bytes,
        source=_source(env),
        licenses=licence_in(packed_recipe(head, metadata.spec(where).name)),
        created=_created(env),
        where=where,
    )


def _created(env: Mapping[str, str]) -> str:
    """The time that reproducible builds agree on, where somebody has set it; never the clock's."""
    text = env.get("SOURCE_DATE_EPOCH", "")
    if not (text.isascii() and text.isdigit() and len(text) <= 11):
        return ""
    return datetime.fromtimestamp(int(text), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _source(env: Mapping[str, str]) -> str:
    """The project whose job this is: GitHub links packages with it, and shows it."""
    if project := env.get("CI_PROJECT_URL"):
        return project
    server, name = env.get("GITHUB_SERVER_URL"), env.get("GITHUB_REPOSITORY")
    return f"{server}/{name}" if server and name else ""


def _measure(tarball: Path) -> Layer:
    """Size and both checksums of a packed tar file, in one pass."""
    unpacked = hashlib.sha256()
    with tarball.open("rb") as file:
        reader = _Hashing(file)
        try:
            with gzip.GzipFile(fileobj=reader) as packed:  # type: ignore[call-overload]
                while piece := packed.read(PIECE_BYTES):
                    unpacked.update(piece)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise CorruptError(f"it cannot be unpacked: {error}", where=str(tarball)) from None
        if not reader.size_bytes:
            raise CorruptError("it cannot be unpacked: it is empty", where=str(tarball))
        return Layer(reader.sum.hexdigest(), unpacked.hexdigest(), reader.size_bytes)


class _Hashing:
    """A file that hashes what is read of it, from beginning to end."""

    def __init__(self, file: IO[bytes]) -> None:
        self.sum = hashlib.sha256()
        self.size_bytes = 0
        self._file = file

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self.sum.update(piece)
        self.size_bytes += len(piece)
        return piece
