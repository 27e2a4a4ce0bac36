"""An image put together by ourselves: a base's layers, ours above them, and what goes with that.

Follows the OCI image specification 1.1: configuration, manifest, index, and the layout that holds
all of it in a folder or an archive. What was read of a base was written by somebody else, so
everything is checked before use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stackyard.errors import CorruptError
from stackyard.image import COMMAND, USER
from stackyard.mirror import parse_json
from stackyard.oci import (
    CONFIG_TYPE,
    INDEX_TYPES,
    MANIFEST_TYPE,
    Descriptor,
    descriptor,
    parse_image,
)

__all__ = [
    "LAYOUT_FILE",
    "PACKED_TYPE",
    "TAR_TYPE",
    "Above",
    "BaseConfig",
    "Made",
    "Platform",
    "base_layers",
    "choose_platform",
    "docker_manifest",
    "layout_files",
    "make_image",
    "make_index",
    "parse_config",
]

TAR_TYPE = "application/vnd.oci.image.layer.v1.tar"
_INDEX_TYPE = INDEX_TYPES[0]
PACKED_TYPE = f"{TAR_TYPE}+gzip"
LAYOUT_FILE = "oci-layout"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_REF_NAME = "org.opencontainers.image.ref.name"
#: Where Docker's newer store, and what builds on it, look for the whole name.
_FULL_NAME = "io.containerd.image.name"

#: Docker's names for layers, and OCI's for the same bytes.
_LAYER_TYPES = {
    "application/vnd.docker.image.rootfs.diff.tar": TAR_TYPE,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": PACKED_TYPE,
    "application/vnd.docker.image.rootfs.diff.tar.zstd": f"{TAR_TYPE}+zstd",
}
_KNOWN_LAYERS = frozenset({TAR_TYPE, PACKED_TYPE, f"{TAR_TYPE}+zstd"})
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Platform(NamedTuple):
    """``variant`` is a generation of processors, empty where it does not matter."""

    architecture: str
    variant: str = ""
    system: str = "linux"

    def to_json(self) -> dict[str, str]:
        made = {"architecture": self.architecture, "os": self.system}
        return {**made, **({"variant": self.variant} if self.variant else {})}

    def __str__(self) -> str:
        return "/".join(filter(None, (self.system, self.architecture, self.variant)))


class BaseConfig(NamedTuple):
    """A base's configuration, checked, and the digests of its layers' bytes when unpacked."""

    document: Mapping[str, Any]
    diff_ids: tuple[str, ...]
    platform: Platform


class Made(NamedTuple):
    """An image: bytes of its configuration and its manifest, and all layers, the lowest first."""

    config: bytes
    manifest: bytes
    layers: tuple[Descriptor, ...]
    platform: Platform

    @property
    def descriptor(self) -> Descriptor:
        return descriptor(self.manifest, MANIFEST_TYPE)

    @property
    def config_descriptor(self) -> Descriptor:
        return descriptor(self.config, CONFIG_TYPE)


def choose_platform(data: bytes, architecture: str, where: str) -> str:
    """The digest of the image for Linux on these processors, in a choice of several.

    Raises CorruptError naming ``where`` for what is no index, or has none for them.
    """
    document = parse_json(data, where, "manifest")
    entries = document.get("manifests") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise CorruptError("the choice of images is none", where=where)
    there: list[str] = []
    for entry in entries:
        platform = entry.get("platform") if isinstance(entry, dict) else None
        if not isinstance(platform, dict) or platform.get("os") != "linux":
            continue
        there.append(str(platform.get("architecture")))
        if there[-1] == architecture:
            digest = entry.get("digest")
            if isinstance(digest, str) and _DIGEST.fullmatch(digest):
                return digest
    raise CorruptError(
        f"the image is not for {architecture}, only for {', '.join(sorted(set(there))) or 'none'}",
        where=where,
        hint="name another base, or another --platform",
    )


def base_layers(data: bytes, where: str) -> tuple[Descriptor, tuple[Descriptor, ...]]:
    """Configuration and layers of a base, the layers with OCI's names for what they are.

    Raises CorruptError naming ``where`` also for layers of a kind that nobody knows.
    """
    image = parse_image(data, where)
    layers = tuple(
        layer._replace(media_type=_LAYER_TYPES.get(layer.media_type, layer.media_type))
        for layer in image.layers
    )
    for layer in layers:
        if layer.media_type not in _KNOWN_LAYERS:
            raise CorruptError(f"a layer of an unknown kind: {layer.media_type[:80]}", where=where)
    return image.config, layers


def parse_config(data: bytes, count: int, where: str) -> BaseConfig:
    """A base's configuration, which has to be that of so many layers. Raises CorruptError."""
    document = parse_json(data, where, "configuration")
    if not isinstance(document, dict):
        raise CorruptError("the configuration is no mapping", where=where)
    rootfs = document.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if (
        not isinstance(diff_ids, list)
        or len(diff_ids) != count
        or not all(isinstance(one, str) and _DIGEST.fullmatch(one) for one in diff_ids)
    ):
        raise CorruptError("the configuration does not name the layers", where=where)
    for key, kind in (("config", dict), ("history", list)):
        if not isinstance(document.get(key) or kind(), kind):
            raise CorruptError(f"{key} has the wrong shape", where=f"{where}: {key}")
    platform = Platform(
        str(document.get("architecture") or ""),
        str(document.get("variant") or ""),
        str(document.get("os") or ""),
    )
    return BaseConfig(document, tuple(diff_ids), platform)


class Above(NamedTuple):
    """A layer of ours, the digest of its bytes when unpacked, and what the history says of it."""

    layer: Descriptor
    diff_id: str
    comment: str


def make_image(
    base: BaseConfig,
    layers: Sequence[Descriptor],
    above: Sequence[Above],
    *,
    labels: Mapping[str, str],
    created: str,
) -> Made:
    """The image: the base's configuration, with our user, command and labels.

    ``layers`` are the base's. ``created`` is the time of the commit, and of all that is made here.
    """
    document = dict(base.document)
    inner = dict(document.get("config") or {})
    # Engines put it into what they build, where the base says nothing.
    inner["Env"] = inner.get("Env") or [_PATH]
    inner |= {"User": USER.name, "WorkingDir": USER.home, "Cmd": list(COMMAND)}
    inner["Labels"] = {**(inner.get("Labels") or {}), **labels}
    document |= {
        "created": created,
        "config": inner,
        "rootfs": {
            "type": "layers",
            "diff_ids": [*base.diff_ids, *(one.diff_id for one in above)],
        },
        "history": [
            *(document.get("history") or _untold(len(layers))),
            *(
                {"created": created, "created_by": one.comment, "comment": "stackyard"}
                for one in above
            ),
        ],
    }
    for key in ("container", "container_config", "id", "parent"):  # of Docker's own, and of another
        document.pop(key, None)
    config = _dump(document)
    all_layers = (*layers, *(one.layer for one in above))
    manifest = _dump(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(config, CONFIG_TYPE).to_json(),
            "layers": [layer.to_json() for layer in all_layers],
            **({"annotations": dict(labels)} if labels else {}),
        }
    )
    return Made(config, manifest, all_layers, base.platform)


def _untold(count: int) -> list[dict[str, str]]:
    """History of a base that has none: it must have an entry for each layer."""
    return [{"created_by": "base"}] * count


def make_index(images: Sequence[Made], labels: Mapping[str, str]) -> bytes:
    """A choice of images by platform."""
    return _dump(
        {
            "schemaVersion": 2,
            "mediaType": _INDEX_TYPE,
            "manifests": [
                {**one.descriptor.to_json(), "platform": one.platform.to_json()} for one in images
            ],
            **({"annotations": dict(labels)} if labels else {}),
        }
    )


def layout_files(
    top: Descriptor, platform: Platform | None, names: Sequence[str]
) -> Mapping[str, bytes]:
    """The files of a layout beside its blobs, by path. ``names`` are whole, each with a tag."""
    entries = []
    for name in names or ("",):
        annotations = {_FULL_NAME: name, _REF_NAME: name.rpartition(":")[2]} if name else {}
        entries.append(
            {
                **top.to_json(),
                **({"platform": platform.to_json()} if platform else {}),
                **({"annotations": annotations} if annotations else {}),
            }
        )
    index = {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": entries}
    return {LAYOUT_FILE: _LAYOUT, "index.json": _dump(index)}


def docker_manifest(image: Made, names: Sequence[str]) -> bytes:
    """``manifest.json`` of an archive, by which ``docker load`` of any age finds its way."""
    entry = {
        "Config": _blob_path(image.config_descriptor),
        "RepoTags": list(names),
        "Layers": [_blob_path(layer) for layer in image.layers],
    }
    return _dump([entry])


def _blob_path(one: Descriptor) -> str:
    return f"blobs/sha256/{one.checksum}"


def _dump(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
