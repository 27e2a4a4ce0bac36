"""The image that ours begins with: out of a registry, an archive or a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from stackyard.edges.images.shelf import Shelf, open_shelf
from stackyard.edges.images.supply import Supply
from stackyard.edges.images.tape import describe, sum_of
from stackyard.edges.mirrors.transfer import download, read_blob
from stackyard.edges.stores.folder import unwritable
from stackyard.edges.stores.oci import OciStore
from stackyard.edges.stores.store import ANONYMOUS
from stackyard.errors import CorruptError
from stackyard.image_names import parse_image_name
from stackyard.oci import (
    INDEX_TYPES,
    Descriptor,
    descriptor,
    digest_key,
    manifest_key,
    media_type_of,
)
from stackyard.oci_image import (
    LAYOUT_FILE,
    TAR_TYPE,
    BaseConfig,
    base_layers,
    choose_platform,
    parse_config,
)

__all__ = ["Base", "is_path", "open_base"]

_CONFIG_BYTES = 20 * 10**6
_DEPTH = 4
_GZIP = b"\x1f\x8b"


class Base(NamedTuple):
    """A base for one kind of processors. ``digest`` is of what the name means, empty without one."""

    name: str
    digest: str
    config: BaseConfig
    supplies: tuple[Supply, ...]

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        return tuple(supply.descriptor for supply in self.supplies)


def is_path(text: str) -> bool:
    """Whether a base is an archive or a folder, and not a name of an image."""
    return text.startswith(("/", "./", "../")) or os.path.exists(text)  # noqa: PTH110


def open_base(text: str, architecture: str, cache: Path) -> Base:
    """The base. Of layers in a registry nothing is read before somebody opens one.

    They are kept in ``cache``. Raises StoreError, CorruptError among them, and ConfigError.
    """
    if is_path(text):
        return _on_shelf(Path(text), architecture)
    return _in_registry(text, architecture, cache)


# --- out of a registry ---


def _in_registry(text: str, architecture: str, cache: Path) -> Base:
    name = parse_image_name(text, "image.base")
    store = OciStore(name.url, ANONYMOUS)
    key = manifest_key(name.digest or name.tag or "latest")
    data = store.read(key)
    top = descriptor(data, "")
    where = f"{store.url}/{key}"
    data = _chosen(data, architecture, where, lambda digest: store.read(manifest_key(digest)))
    config, layers = base_layers(data, where)
    parsed = parse_config(
        read_blob(store, config.blob, max_bytes=_CONFIG_BYTES), len(layers), where
    )
    _check_platform(parsed, architecture, where)
    supplies = tuple(
        Supply(layer, _fetched(store, layer, cache), store.reference) for layer in layers
    )
    return Base(
        f"{name.written}:{name.tag}" if name.tag else name.written, top.digest, parsed, supplies
    )


def _chosen(data: bytes, architecture: str, where: str, read: Callable[[str], bytes]) -> bytes:
    """The manifest of one image, through as many choices as lead to it."""
    for _ in range(_DEPTH):
        if media_type_of(data, where) not in INDEX_TYPES:
            return data
        digest = choose_platform(data, architecture, where)
        data = read(digest)
        if descriptor(data, "").digest != digest:
            raise CorruptError("other bytes are there than the digest says", where=where)
    raise CorruptError("a choice of images leads to another, and so on", where=where)


def _check_platform(config: BaseConfig, architecture: str, where: str) -> None:
    if config.platform.architecture != architecture:
        raise CorruptError(
            f"the image is for {config.platform}, and not for {architecture}",
            where=where,
            hint="name another base, or another --platform",
        )


def _fetched(store: OciStore, layer: Descriptor, cache: Path) -> Callable[[], IO[bytes]]:
    path = cache / digest_key(layer.checksum)

    def opened() -> IO[bytes]:
        if not path.exists():
            part = path.with_name(f"{path.name}.{os.getpid()}.part")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unwritable(error, str(path.parent)) from None
            try:
                download(store, layer.blob, part)
                part.replace(path)
            finally:
                with suppress(OSError):
                    part.unlink(missing_ok=True)
        return path.open("rb")

    return opened


# --- out of a folder or an archive ---


def _on_shelf(path: Path, architecture: str) -> Base:
    shelf = open_shelf(path)
    if shelf.has(LAYOUT_FILE):
        return _layout(shelf, architecture, str(path))
    if shelf.has("manifest.json"):
        return _docker_archive(shelf, architecture, str(path))
    raise CorruptError(
        "no image is in there",
        where=str(path),
        hint="docker save, podman save or skopeo copy make such archives and folders",
    )


def _layout(shelf: Shelf, architecture: str, where: str) -> Base:
    def read(digest: str) -> bytes:
        return shelf.read(_path(digest))

    index = shelf.read("index.json")
    entries = _entries(index, where)
    data = read(entries[0]) if len(entries) == 1 else index
    data = _chosen(data, architecture, where, read)
    top = entries[0] if len(entries) == 1 else descriptor(data, "").digest
    config, layers = base_layers(data, where)
    text = read(config.digest)
    if descriptor(text, "").checksum != config.checksum:
        raise CorruptError("the configuration is not what its digest says", where=where)
    parsed = parse_config(text, len(layers), where)
    _check_platform(parsed, architecture, where)
    supplies = []
    for layer in layers:
        path = _path(layer.digest)
        with shelf.opened(path) as file:
            if sum_of(file) != (layer.checksum, layer.size_bytes):
                raise CorruptError("a layer is not what its digest says", where=f"{where}: {path}")
        supplies.append(Supply(layer, _opener(shelf, path)))
    return Base("", top, parsed, tuple(supplies))


def _entries(index: bytes, where: str) -> list[str]:
    """Digests of what a layout holds at its top."""
    try:
        found = [str(one["digest"]) for one in json.loads(index)["manifests"]]
        for digest in found:
            _path(digest)
    except (ValueError, KeyError, TypeError, IndexError):
        raise CorruptError("index.json is none", where=where) from None
    if not found:
        raise CorruptError("the folder or archive holds no image", where=where)
    return found


def _path(digest: str) -> str:
    kind, _, checksum = digest.partition(":")
    if kind != "sha256" or len(checksum) != 64 or not checksum.isalnum():
        raise CorruptError(f"not a digest: {digest[:80]!r}")
    return f"blobs/sha256/{checksum}"


def _docker_archive(shelf: Shelf, architecture: str, where: str) -> Base:
    """What ``docker save`` wrote before it wrote layouts: layers are plain, and have no digests."""
    try:
        first = json.loads(shelf.read("manifest.json"))[0]
        config_path, paths = str(first["Config"]), [str(path) for path in first["Layers"]]
    except (ValueError, KeyError, TypeError, IndexError):
        raise CorruptError("manifest.json is none", where=where) from None
    config = parse_config(shelf.read(config_path), len(paths), where)
    _check_platform(config, architecture, where)
    supplies = []
    for path, diff_id in zip(paths, config.diff_ids, strict=True):
        with shelf.opened(path) as file:
            packed = file.read(2) == _GZIP
            file.seek(0)
            layer = describe(file, f"{TAR_TYPE}+gzip" if packed else TAR_TYPE)
        if not packed and layer.digest != diff_id:
            raise CorruptError("a layer is not what its digest says", where=f"{where}: {path}")
        supplies.append(Supply(layer, _opener(shelf, path)))
    return Base("", "", config, tuple(supplies))


def _opener(shelf: Shelf, path: str) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        return shelf.opened(path)

    return opened
