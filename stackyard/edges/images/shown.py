"""What a registry shows under an image's tag: its digest, and the labels for each platform."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from stackyard.errors import CorruptError
from stackyard.mirror import parse_json
from stackyard.oci import INDEX_TYPES, manifest_key, media_type_of, parse_image

if TYPE_CHECKING:
    from stackyard.edges.stores.oci import OciStore

__all__ = ["ShownImage", "read_image"]

_CONFIG_BYTES = 20 * 10**6
_MOST_PLATFORMS = 50


class ShownImage(NamedTuple):
    """``digest`` is of what the tag names: of a choice of platforms, if it is one."""

    digest: str
    labels: tuple[Mapping[str, str], ...]


def read_image(store: OciStore, digest: str) -> ShownImage:
    """The image by its digest. Raises StoreError, CorruptError among them for what is no image."""
    return ShownImage(digest, tuple(_labels(store, digest)))


def _labels(store: OciStore, digest: str, *, inside: bool = False) -> Iterator[Mapping[str, str]]:
    key = manifest_key(digest)
    where = f"{store.url}/{key}"
    data = store.read(key)
    if media_type_of(data, where) in INDEX_TYPES and not inside:
        for one in _platforms(data, where):
            yield from _labels(store, one, inside=True)
        return
    config = parse_image(data, where).config.blob
    document = parse_json(store.read(config.key, max_bytes=_CONFIG_BYTES), where, "configuration")
    inner = document.get("config") if isinstance(document, dict) else None
    labels = inner.get("Labels") if isinstance(inner, dict) else None
    yield {str(k): str(v) for k, v in labels.items()} if isinstance(labels, dict) else {}


def _platforms(data: bytes, where: str) -> Iterator[str]:
    """Digests of the images in a choice; BuildKit puts things beside them that run nowhere."""
    document: Any = parse_json(data, where, "manifest")
    entries = document.get("manifests")
    if not isinstance(entries, list) or len(entries) > _MOST_PLATFORMS:
        raise CorruptError("it is no choice of images", where=where)
    for entry in entries:
        digest = entry.get("digest") if isinstance(entry, dict) else None
        if not isinstance(digest, str):
            raise CorruptError("the choice of images names one without a digest", where=where)
        platform = entry.get("platform")
        if not (isinstance(platform, dict) and platform.get("os") == "unknown"):
            yield digest
