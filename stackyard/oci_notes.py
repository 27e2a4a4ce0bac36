"""What the image of a binary says of itself: annotations for the registry's page, and who signed it.

Spack reads neither (``docs/decisions/0004-signatures-in-registries.md``). The annotation
``dev.stackyard.signature`` holds a clearsigned statement, which names the binary, its tarball and
the configuration of its image by their hashes. Images that Spack pushed have none of this.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from stackyard.binary import Binary, Metadata
from stackyard.errors import CorruptError
from stackyard.lock import Spec, parse_node
from stackyard.mirror import parse_json
from stackyard.oci import (
    CONFIG_TYPE,
    LAYER_TYPE,
    MANIFEST_TYPE,
    SIGNATURE,
    describe,
    descriptor,
    parse_image,
)
from stackyard.spec import format_variants

__all__ = [
    "SOURCE",
    "dressed",
    "image_notes",
    "pushed_tarballs",
    "signature_in",
    "signed_manifest",
    "statement",
    "statement_problem",
]

_OCI = "org.opencontainers.image."
_OWN = "dev.stackyard."
SOURCE = f"{_OCI}source"

#: Characters that a value has at most. ghcr.io shows no longer description, and no longer licence.
_LIMITS = {
    f"{_OCI}description": 512,
    f"{_OCI}licenses": 256,
    f"{_OWN}spec": 4096,
    f"{_OWN}variants": 4096,
}
_LIMIT = 255
_URL = re.compile(r"https?://[^\s<>\"']{1,240}")

_VERSION = 1
#: Docker's names for what OCI's manifests name so; the bytes are the same.
_TYPES = {
    "application/vnd.docker.container.image.v1+json": CONFIG_TYPE,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": LAYER_TYPE,
    "application/vnd.docker.image.rootfs.diff.tar": LAYER_TYPE.removesuffix("+gzip"),
    "application/vnd.docker.image.rootfs.diff.tar.zstd": LAYER_TYPE.replace("gzip", "zstd"),
}
_KNOWN = frozenset(_TYPES.values())

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
#: ``_oci_upload_success_msg`` in ``binary_distribution.py`` of Spack 1.1.
_PUSHED = re.compile(r"Pushed \S+/([a-z2-7]{7}): sha256:([0-9a-f]{64}) ")


def image_notes(  # noqa: PLR0913 - passed by name
    metadata: Metadata,
    *,
    size_bytes: int,
    source: str = "",
    licenses: str = "",
    created: str = "",
    where: str = "",
) -> Mapping[str, str]:
    """Annotations of a binary's manifest, which are the labels in its configuration too.

    ``size_bytes`` is that of the tarball; ``source`` the project's URL, ``licenses`` an SPDX
    expression, ``created`` a time in RFC 3339: each only where it is known. Names and versions are
    strangers' text: what cannot be printed is replaced, and what is too long is cut off.

    Raises CorruptError naming ``where`` for a node that is none.
    """
    spec = metadata.spec(where)
    found = {
        f"{_OCI}title": f"{spec.name} {spec.version}",
        f"{_OCI}description": describe(spec),
        f"{_OCI}version": spec.version,
        f"{_OCI}licenses": licenses,
        f"{_OCI}created": created,
        SOURCE: source if _URL.fullmatch(source) else "",
        f"{_OWN}name": spec.name,
        f"{_OWN}spec": describe(spec),
        f"{_OWN}hash": spec.hash,
        f"{_OWN}variants": format_variants(spec.parameters, spec.node.get("patches") or ()),
        f"{_OWN}compiler": _compiler(spec, metadata),
        f"{_OWN}platform": spec.platform,
        f"{_OWN}os": spec.os,
        f"{_OWN}target": spec.target,
        f"{_OWN}size": str(size_bytes),
    }
    return {name: _bounded(text, _LIMITS.get(name, _LIMIT)) for name, text in found.items() if text}


def _compiler(spec: Spec, metadata: Metadata) -> str:
    """``gcc@12.2.0``; empty where there is none, or where nobody can tell."""
    found = spec.legacy_compiler
    for node in metadata.nodes:
        if node.get("hash") == spec.compiler:
            compiler = parse_node(node, metadata.format)
            found = compiler.name, compiler.version
    return "@".join(found or ())


def _bounded(text: str, longest: int) -> str:
    cut = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:longest])
    return cut if len(text) <= longest else f"{cut[:-1]}…"


def dressed(
    manifest: bytes, config: bytes, notes: Mapping[str, str], where: str
) -> tuple[bytes, bytes]:
    """Manifest and configuration of an image with these annotations and labels, in OCI's format.

    What else they say stays, in its order, save for a signature, which held for the old ones. An
    image above a base in Docker's format becomes one in OCI's, because Docker's has no annotations.
    Raises CorruptError naming ``where``.
    """
    image = parse_image(manifest, where)
    document = parse_json(config, where, "configuration")
    if not isinstance(document, dict):
        raise CorruptError("the configuration is no mapping", where=where)
    settings = document.get("config")
    settings = settings if isinstance(settings, dict) else {}
    labels = settings.get("Labels")
    labels = labels if isinstance(labels, dict) else {}
    document["config"] = {**settings, "Labels": {**labels, **notes}}
    new = _dump(document)
    layers = [one.to_json() for one in image.layers]
    if image.media_type != MANIFEST_TYPE:
        layers = [
            {**one, "mediaType": _TYPES.get(kind := one["mediaType"], kind)} for one in layers
        ]
        if strange := {one["mediaType"] for one in layers} - _KNOWN:
            raise CorruptError(
                f"OCI has no layers of this kind: {min(strange)}",
                where=where,
                hint="take a base image in OCI's format",
            )
    kept = {k: v for k, v in _annotations(manifest).items() if k != SIGNATURE}
    made = {
        "mediaType": MANIFEST_TYPE,
        "schemaVersion": 2,
        "config": descriptor(new, CONFIG_TYPE).to_json(),
        "layers": layers,
        "annotations": {**kept, **notes},
    }
    return _dump(made), new


def statement(dag_hash: str, tarball: str, config: str) -> bytes:
    """What is signed of a binary: its DAG hash, and the checksums of tarball and configuration.

    The configuration names all layers of the image by what they unpack to, and holds the spec.
    """
    document = {
        "version": _VERSION,
        "hash": dag_hash,
        "tarball": f"sha256:{tarball}",
        "spec": f"sha256:{config}",
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def signed_manifest(manifest: bytes, message: bytes) -> bytes:
    """The manifest with a clearsigned statement; everything else in it stays as it is."""
    document = json.loads(manifest)
    notes = {**_annotations(manifest), SIGNATURE: message.decode("ascii")}
    return _dump({**document, "annotations": notes})


def signature_in(manifest: bytes) -> bytes | None:
    """The clearsigned statement in a manifest; None without one, empty if it is no text."""
    notes = _annotations(manifest)
    if SIGNATURE not in notes:
        return None
    found = notes[SIGNATURE]
    return found.encode("utf-8", "replace") if isinstance(found, str) else b""


def statement_problem(text: bytes, binary: Binary) -> str:
    """In what a statement, whose signature is good, is not that of an image; empty if it is."""
    try:
        document = parse_json(text, "", "statement")
    except CorruptError as error:
        return error.message
    assert binary.spec  # noqa: S101 - the configuration of an image
    wanted = json.loads(statement(binary.hash, binary.tarball.checksum, binary.spec.checksum))
    if not isinstance(document, dict) or document.keys() != wanted.keys():
        return "what was signed is no statement about an image"
    # True is 1 to Python.
    if document["version"] != _VERSION or isinstance(document["version"], bool):
        return "the statement is of a newer version: update stackyard"
    told = {"hash": "spec", "tarball": "tarball", "spec": "configuration"}
    for key, what in told.items():
        if document[key] != wanted[key]:
            return f"the signature is that of another {what}, {str(document[key])[:80]!r}"
    return ""


def pushed_tarballs(lines: Iterable[str]) -> frozenset[tuple[str, str]]:
    """What Spack says to have packed and sent to a registry: short hashes, and checksums."""
    found = (_PUSHED.search(_COLOUR.sub("", line)) for line in lines)
    return frozenset((match[1], match[2]) for match in found if match)


def _annotations(manifest: bytes) -> Mapping[str, Any]:
    """Those of a manifest that was parsed before; what is no mapping counts as none."""
    notes = json.loads(manifest).get("annotations")
    return notes if isinstance(notes, dict) else {}


def _dump(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
