"""A mirror in a registry of container images, as Spack 1.1 keeps one (``oci/``, ``_oci_*``).

Every binary is an image of one repository. Its tag is made of name, version and DAG hash; its
configuration holds the spec's metadata beside what a container needs; its layers are the tarballs
of all that the package needs to run, its own last. The tag ``index.spack`` is no image at all: its
first layer is the JSON of the index. Spack signs nothing here; a signature of ours is an annotation
(``stackyard/oci_notes.py``). All bytes that are parsed here were written by somebody else, so
everything is checked before use.

As a store (``stackyard/edges/stores/oci.py``) a repository has the keys ``manifests/<tag>``,
``manifests/sha256:<hex>`` and ``blobs/sha256/<first two>/<hex>``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stackyard.binary import Binary, Blob, Metadata, dump_manifest, dump_spec_blob
from stackyard.errors import CorruptError, LockError, StoreError
from stackyard.lock import Spec, parse_node
from stackyard.mirror import (
    SPEC_TYPE,
    TARBALL_TYPE,
    Record,
    blob_key,
    parse_json,
    spec_manifest_key,
)
from stackyard.spec import format_variants

__all__ = [
    "INDEX_TAG",
    "INDEX_TYPES",
    "LAYER_TYPE",
    "MANIFESTS",
    "MANIFEST_TYPES",
    "SIGNATURE",
    "Descriptor",
    "Entry",
    "Image",
    "Layer",
    "Reference",
    "describe",
    "descriptor",
    "digest_in",
    "digest_key",
    "go_architecture",
    "image_config",
    "image_manifest",
    "index_manifest",
    "is_tag",
    "last_layer",
    "layout_3_entry",
    "manifest_key",
    "media_type_of",
    "parse_image",
    "parse_oci_binary",
    "parse_reference",
    "runtime_order",
    "spec_tag",
    "tag_hash",
]

INDEX_TAG = "index.spack"
MANIFESTS = "manifests/"
#: The annotation that holds a clearsigned statement.
SIGNATURE = "dev.stackyard.signature"

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
#: What a registry may hold under a tag: one image, or a choice of several.
MANIFEST_TYPES = (MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.v2+json")
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)

_SCHEMES = {"oci": "https", "oci+http": "http"}
_LAYOUT_VERSION = 3  # in the metadata; Spack 0.23 refuses images that say so
_LONGEST_TAG = 128
_LARGEST_BLOB = 2**50
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SPEC_TAG = re.compile(r".*-([a-z2-7]{32})\.spack")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_BLOB_KEY = re.compile(r"blobs/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][\w.+-]{0,126}/[A-Za-z0-9][\w.+-]{0,126}", re.ASCII)

# The grammar of distribution's references, with capitals, which Spack makes small.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[A-Fa-f0-9:]+\])(?::[0-9]+)?"
_PART = r"[A-Za-z0-9]+(?:(?:[._]|__|-+)[A-Za-z0-9]+)*"
_REFERENCE = re.compile(rf"(?:({_DOMAIN})/)?({_PART}(?:/{_PART})*)(?::{_TAG.pattern})?")
_DOCKER_HUB = "index.docker.io"


class Reference(NamedTuple):
    """One repository of a registry; ``scheme`` is http or https, ``domain`` may have a port."""

    scheme: str
    domain: str
    name: str

    @property
    def url(self) -> str:
        """The mirror's URL."""
        return f"{'oci' if self.scheme == 'https' else 'oci+http'}://{self.domain}/{self.name}"

    @property
    def registry(self) -> str:
        return f"{self.scheme}://{self.domain}"

    @property
    def endpoint(self) -> str:
        """Where the registry's interface has this repository."""
        return f"{self.registry}/v2/{self.name}"

    @property
    def is_docker_hub(self) -> bool:
        return self.domain == _DOCKER_HUB


class Descriptor(NamedTuple):
    """What a manifest says of a blob; ``checksum`` is the sha256 of the bytes as stored."""

    media_type: str
    checksum: str
    size_bytes: int

    @property
    def digest(self) -> str:
        return f"sha256:{self.checksum}"

    @property
    def blob(self) -> Blob:
        return Blob(digest_key(self.checksum), self.size_bytes, self.checksum)

    def to_json(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes}


class Image(NamedTuple):
    """A manifest of one image. There is at least one layer.

    ``signed``: it carries a signature, whatever that is worth.
    """

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    signed: bool = False

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """All that must be in a repository before the manifest can be: each once."""
        return tuple(dict.fromkeys(part.blob for part in (*self.layers, self.config)))


class Layer(NamedTuple):
    """A tarball as a layer: checksums of the bytes as stored, and of what they unpack to."""

    checksum: str
    diff_checksum: str
    size_bytes: int

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(LAYER_TYPE, self.checksum, self.size_bytes)


class Entry(NamedTuple):
    """A binary in layout 3: key and bytes of its manifest, and of its spec blob."""

    key: str
    manifest: bytes
    spec: Blob
    spec_data: bytes


def parse_reference(url: str) -> Reference:
    """The repository that ``oci://host/name`` means, with the defaults that Spack takes.

    As ``ImageReference.from_url`` in ``oci/image.py``: a name without a host is one on Docker Hub,
    capitals become small, a tag is passed over. Raises StoreError, without the URL if that may
    hold a password; unlike Spack also where a host has no name behind it, which Spack takes for an
    image on Docker Hub.
    """
    scheme, _, rest = url.partition("://")
    rest = rest.rstrip("/")
    shown = url.partition("?")[0]
    if "@" in rest:
        raise StoreError(
            "the URL of a registry can have neither a user nor a digest",
            where=f"{scheme.lower()}://{rest.rpartition('@')[2].partition('?')[0]}",
            hint="name variables with user and password: access_pair in the mirror's entry",
        )
    match = _REFERENCE.fullmatch(rest)
    if scheme.lower() not in _SCHEMES or not match or len(rest) > 255:
        raise StoreError(
            "not the URL of a registry",
            where=shown,
            hint="oci://host/name, such as oci://ghcr.io/owner/name",
        )
    domain, name = match.groups()
    if not domain and ("." in name or ":" in rest or name == "localhost"):
        raise StoreError(
            "a host without a name: Spack would look on Docker Hub",
            where=shown,
            hint=f"add a repository: {shown.rstrip('/')}/name",
        )
    if domain == "docker.io":
        raise StoreError(
            "Spack knows Docker Hub by another name",
            where=shown,
            hint=f"oci://{_DOCKER_HUB}/{name}",
        )
    if not domain:
        domain, name = _DOCKER_HUB, f"library/{name}"
    elif not re.search("[.:A-Z]", domain) and domain != "localhost":
        domain, name = _DOCKER_HUB, f"{domain}/{name}"
    return Reference(_SCHEMES[scheme.lower()], domain, name.lower())


def is_tag(text: str) -> bool:
    """Whether a registry could have such a tag."""
    return bool(_TAG.fullmatch(text))


def spec_tag(spec: Spec) -> str:
    """The tag of a spec's image (``_oci_default_tag``, ``ensure_valid_tag``)."""
    tag = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{spec.name}-{spec.version}-{spec.hash}.spack")
    half = _LONGEST_TAG // 2
    return tag if len(tag) <= _LONGEST_TAG else tag[:half] + tag[-half:]


def tag_hash(tag: str) -> str:
    """The DAG hash in the tag of a spec's image; empty for any other tag."""
    match = _SPEC_TAG.fullmatch(tag)
    return match[1] if match else ""


def manifest_key(reference: str) -> str:
    """The key of a manifest, by its tag or its digest."""
    return MANIFESTS + reference


def digest_key(checksum: str) -> str:
    """The key of a blob, which is the one that layout 3 has for it."""
    return f"blobs/sha256/{checksum[:2]}/{checksum}"


def digest_in(key: str) -> str:
    """The digest that the key of a blob, or of a manifest by its digest, stands for; else empty."""
    if match := _BLOB_KEY.fullmatch(key):
        return f"sha256:{match[2]}"
    reference = key.removeprefix(MANIFESTS)
    return reference if key != reference and _DIGEST.fullmatch(reference) else ""


def descriptor(data: bytes, media_type: str) -> Descriptor:
    """What a manifest says of these bytes."""
    return Descriptor(media_type, hashlib.sha256(data).hexdigest(), len(data))


def media_type_of(data: bytes, where: str) -> str:
    """The media type that a manifest says to have, or that its keys tell. Raises CorruptError."""
    document = parse_json(data, where, "manifest")
    if not isinstance(document, dict):
        raise CorruptError("the manifest is no mapping", where=where)
    given = document.get("mediaType")
    if given is None:
        return INDEX_TYPES[0] if "manifests" in document else MANIFEST_TYPE
    if not isinstance(given, str) or not _MEDIA_TYPE.fullmatch(given):
        raise CorruptError("mediaType is none", where=where)
    return given


def parse_image(data: bytes, where: str) -> Image:
    """Parse the manifest of one image, in OCI's or Docker's format.

    Shape: ``{"schemaVersion": 2, "mediaType", "config": {"mediaType", "digest", "size"},
    "layers": [{"mediaType", "digest", "size"}, ...]}``. Raises CorruptError naming ``where``.
    """
    kind = media_type_of(data, where)
    document = parse_json(data, where, "manifest")
    if kind in INDEX_TYPES:
        raise CorruptError("a choice of images is here, and no image", where=where)
    if kind not in MANIFEST_TYPES or document.get("schemaVersion") != 2:
        raise CorruptError(f"not the manifest of an image: {kind[:80]}", where=where)
    layers = document.get("layers")
    if not isinstance(layers, list) or not layers:
        raise CorruptError("the manifest has no layers", where=where)
    notes = document.get("annotations")
    return Image(
        kind,
        _descriptor(document.get("config"), f"{where}: config"),
        tuple(_descriptor(layer, f"{where}: layers[{i}]") for i, layer in enumerate(layers)),
        signed=isinstance(notes, dict) and SIGNATURE in notes,
    )


def _descriptor(entry: Any, where: str) -> Descriptor:
    if not isinstance(entry, dict):
        raise CorruptError("the descriptor is no mapping", where=where)
    kind, digest, size = entry.get("mediaType"), entry.get("digest"), entry.get("size")
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if not match:
        raise CorruptError("the digest is not sha256 and 64 hexadecimal digits", where=where)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _LARGEST_BLOB:
        raise CorruptError("the size cannot be", where=where)
    if not isinstance(kind, str) or not _MEDIA_TYPE.fullmatch(kind):
        raise CorruptError("mediaType is none", where=where)
    return Descriptor(kind, match[1], size)


def parse_oci_binary(data: bytes, key: str, dag_hash: str, where: str) -> Binary:
    """The binary that an image holds: its last layer, and its configuration as the spec.

    Raises CorruptError naming ``where``.
    """
    image = parse_image(data, where)
    return Binary(
        hash=dag_hash,
        layout="oci",
        key=key,
        manifest=data,
        signed=image.signed,
        tarball=image.layers[-1].blob,
        spec=image.config.blob,
    )


def last_layer(image: Image, config: bytes, where: str) -> Layer:
    """The package's own layer, by its manifest and its configuration. Raises CorruptError."""
    document = parse_json(config, where, "configuration")
    try:
        match = _DIGEST.fullmatch(document["rootfs"]["diff_ids"][-1])
    except (KeyError, TypeError, IndexError):
        match = None
    if not match:
        raise CorruptError("the configuration does not tell what its layers unpack to", where=where)
    layer = image.layers[-1]
    return Layer(layer.checksum, match[1], layer.size_bytes)


def runtime_order(metadata: Metadata, where: str) -> tuple[Spec, ...]:
    """What the package needs to run, dependencies first, the package itself last; no externals.

    Raises CorruptError naming ``where`` for nodes that are wrong, missing or go round in a circle.
    """
    try:
        nodes = {str(n["hash"]): parse_node(n, metadata.format) for n in metadata.nodes}
    except (KeyError, LockError) as error:
        problem = error.message if isinstance(error, LockError) else "a node has no hash"
        raise CorruptError(problem, where=where) from None
    order: dict[str, Spec] = {}
    path: dict[str, None] = {}
    stack = [(metadata.hash, False)]
    while stack:
        key, ready = stack.pop()
        if ready:
            del path[key]
            order[key] = nodes[key]
        elif key in path:
            raise CorruptError("the dependencies run in a circle", where=where)
        elif key not in order:
            if key not in nodes:
                raise CorruptError(f"the metadata lacks the node {key[:40]!r}", where=where)
            path[key] = None
            stack.append((key, True))
            stack += [(child, False) for child in reversed(_runtime_children(nodes[key]))]
    return tuple(spec for spec in order.values() if not spec.external)


def _runtime_children(spec: Spec) -> list[str]:
    return [dep.hash for dep in spec.dependencies if {"link", "run"} & set(dep.deptypes)]


def go_architecture(spec: Spec) -> str:
    """The name that images have for a spec's family of processors."""
    import archspec.cpu  # 30 ms, and only who writes images needs it

    known = archspec.cpu.TARGETS.get(spec.target)
    family = known.family.name if known else spec.target
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(family, family)


def describe(spec: Spec) -> str:
    """A spec as Spack prints it in full: ``zlib@=1.3+pic build_system=makefile platform=...``."""
    variants = format_variants(spec.parameters, spec.node.get("patches") or ())
    space = "" if variants[:1] in "+~" else " "
    place = f"platform={spec.platform} os={spec.os} target={spec.target}"
    return f"{spec.name}@={spec.version}{space}{variants} {place}"


def image_config(
    metadata: Metadata,
    layers: Sequence[Layer],
    *,
    timestamp: str,
    labels: Mapping[str, str] | None = None,
) -> bytes:
    """The configuration of a binary's image: what containers need, and the spec's metadata.

    ``layers`` are in the manifest's order, the package's own last; ``timestamp`` is in ISO's
    format. As ``_oci_put_manifest`` and ``extra_config`` write it. The environment is that of a
    container; which variables a package would want there, only its recipe knows.
    """
    own = layers[-1]
    document = {
        "architecture": go_architecture(metadata.spec("the spec of an image")),
        "os": "linux",
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{layer.diff_checksum}" for layer in layers],
        },
        "config": {
            "Env": ["PATH=/bin:/usr/bin"],
            **({"Labels": dict(labels)} if labels else {}),
        },
        "spec": {"_meta": {"version": metadata.format}, "nodes": list(metadata.nodes)},
        "buildcache_layout_version": _LAYOUT_VERSION,
        "binary_cache_checksum": {"hash_algorithm": "sha256", "hash": own.checksum},
        "archive_size": own.size_bytes,
        "archive_timestamp": timestamp,
        "archive_compression": "gzip",
    }
    return _dump(document)


def image_manifest(
    config: bytes, layers: Sequence[Layer], annotations: Mapping[str, str] | None = None
) -> bytes:
    """The manifest of a binary's image."""
    return _manifest(config, [layer.descriptor for layer in layers], annotations)


def index_manifest(config: bytes, index: Descriptor, extra: Sequence[Descriptor] = ()) -> bytes:
    """The manifest behind ``index.spack``. Spack reads its first layer, and no other."""
    # Spack calls the index a packed tar file too: registries know no better word for a layer.
    return _manifest(config, [index._replace(media_type=LAYER_TYPE), *extra])


def _manifest(
    config: bytes, layers: Sequence[Descriptor], annotations: Mapping[str, str] | None = None
) -> bytes:
    document: dict[str, Any] = {
        "mediaType": MANIFEST_TYPE,
        "schemaVersion": 2,
        "config": descriptor(config, CONFIG_TYPE).to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    if annotations:
        document["annotations"] = dict(annotations)
    return _dump(document)


def _dump(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def layout_3_entry(binary: Binary, metadata: Metadata, where: str) -> Entry:
    """An image's binary as an unsigned one of layout 3; the tarball's bytes and key are the same.

    Raises CorruptError naming ``where`` if the metadata's first node is wrong.
    """
    data = dump_spec_blob(metadata)
    tarball = binary.tarball
    assert tarball.size_bytes is not None  # noqa: S101 - a manifest of an image tells it
    spec = Record(
        media_type=SPEC_TYPE,
        size_bytes=len(data),
        compression="gzip",
        checksum=hashlib.sha256(data).hexdigest(),
    )
    archive = Record(
        media_type=TARBALL_TYPE,
        size_bytes=tarball.size_bytes,
        compression="gzip",
        checksum=tarball.checksum,
    )
    return Entry(
        key=spec_manifest_key(metadata.spec(where)),
        manifest=dump_manifest([archive, spec]),
        spec=Blob(blob_key(spec), spec.size_bytes, spec.checksum),
        spec_data=data,
    )
