"""One spec's binary on a mirror: what its manifest promises, and what its metadata says.

Follows Spack 1.1 (``url_buildcache.py``, ``schema/url_buildcache_manifest.py``). Layout 3 has a
manifest that names two blobs, the tarball and the spec. In layout 2 the metadata itself holds spec
and checksum, and the tarball lies beside it. In a registry (``stackyard/oci.py``) a tag stands for
the manifest, its configuration for the spec, and its last layer is the tarball.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stackyard.errors import CorruptError, LockError
from stackyard.lock import Spec, parse_node
from stackyard.mirror import (
    SPEC_TYPE,
    TARBALL_TYPE,
    Layout,
    Record,
    blob_key,
    compiler_of,
    parse_json,
    parse_manifest,
    parse_v2_spec,
    signed_text,
    v2_tarball_key,
)

__all__ = [
    "SPEC_BYTES",
    "Binary",
    "Blob",
    "Metadata",
    "dump_manifest",
    "dump_spec_blob",
    "gunzip",
    "parse_binary",
    "parse_metadata",
    "parse_v2_binary",
    "unpacked",
]

#: No spec's metadata is larger; what unpacks to more is an attack.
SPEC_BYTES = 64 * 2**20

_GZIP = b"\x1f\x8b"


class Blob(NamedTuple):
    """Bytes on a mirror. ``size_bytes`` is None in layout 2, which does not tell."""

    key: str
    size_bytes: int | None
    checksum: str  # sha256 of the bytes as stored, 64 hexadecimal digits


class Binary(NamedTuple):
    """What a manifest promises. Nothing of it is verified but its shape.

    ``hash`` is the DAG hash that the key of the manifest stands for. ``manifest`` are its bytes as
    stored, with the signature if it has one. ``spec`` is None in layout 2, where the manifest is
    the metadata.
    """

    hash: str
    layout: Layout
    key: str
    manifest: bytes
    signed: bool
    tarball: Blob
    spec: Blob | None

    @property
    def blobs(self) -> tuple[Blob, ...]:
        return (self.tarball, self.spec) if self.spec else (self.tarball,)


class Metadata(NamedTuple):
    """The spec that a binary was built from, then all that it depends on.

    ``nodes`` is their JSON in Spack's key order; never change it. ``format`` is the version of the
    specfile that they are written in.
    """

    nodes: Sequence[Mapping[str, Any]]
    format: int

    @property
    def hash(self) -> str:
        return str(self.nodes[0]["hash"])

    def spec(self, where: str) -> Spec:
        """The first node, checked. Raises CorruptError naming ``where``."""
        try:
            return parse_node(self.nodes[0], self.format)
        except LockError as error:
            raise CorruptError(error.message, where=where) from None


def parse_binary(data: bytes, key: str, dag_hash: str, where: str) -> Binary:
    """The binary that a manifest of layout 3 promises. Raises CorruptError naming ``where``."""
    manifest = parse_manifest(data, where)
    tarball, spec = manifest.record(TARBALL_TYPE), manifest.record(SPEC_TYPE)
    for record, what in ((tarball, TARBALL_TYPE), (spec, SPEC_TYPE)):
        if record is None:
            raise CorruptError(f"the manifest has no {what}", where=where)
    assert tarball  # noqa: S101 - said above
    assert spec  # noqa: S101 - said above
    return Binary(
        hash=dag_hash,
        layout=3,
        key=key,
        manifest=data,
        signed=manifest.signed,
        tarball=_blob(tarball),
        spec=_blob(spec),
    )


def _blob(record: Record) -> Blob:
    return Blob(blob_key(record), record.size_bytes, record.checksum)


def parse_v2_binary(data: bytes, key: str, dag_hash: str, where: str) -> Binary:
    """The binary that metadata of layout 2 promises. Raises CorruptError naming ``where``."""
    _, signed = parse_v2_spec(data, where)
    text, _ = signed_text(data, where)
    document = parse_json(text, where, "metadata")
    metadata = _metadata(document, where)
    nodes = [_node(node, metadata.format, where) for node in metadata.nodes]
    compiler = compiler_of(nodes[0], {node.hash: node for node in nodes})
    if compiler is None:
        raise CorruptError("the metadata lacks the compiler that it names", where=where)
    checksum = str(document["binary_cache_checksum"]["hash"])
    tarball = Blob(v2_tarball_key(nodes[0], compiler), None, checksum)
    return Binary(
        hash=dag_hash,
        layout=2,
        key=key,
        manifest=data,
        signed=signed,
        tarball=tarball,
        spec=None,
    )


def _node(node: Mapping[str, Any], version: int, where: str) -> Spec:
    try:
        return parse_node(node, version)
    except LockError as error:
        raise CorruptError(error.message, where=where) from None


def parse_metadata(data: bytes, where: str) -> Metadata:
    """A spec blob, packed or not, or the metadata of layout 2, signed or not.

    Shape: ``{"spec": {"_meta": {"version": int}, "nodes": [{"name", "hash", ...}, ...]}, ...}``.
    Raises CorruptError naming ``where``: not gzip, unpacks to more than ``SPEC_BYTES``, another
    shape.
    """
    text, _ = signed_text(unpacked(data, where), where)
    return _metadata(parse_json(text, where, "metadata"), where)


def _metadata(document: Any, where: str) -> Metadata:
    try:
        version = document["spec"]["_meta"]["version"]
        nodes = document["spec"]["nodes"]
        first = nodes[0]["hash"]
    except (KeyError, TypeError, IndexError) as error:
        raise CorruptError(
            f"the metadata has not the shape of a spec ({type(error).__name__}: {error})",
            where=where,
        ) from None
    whole = isinstance(nodes, list) and all(isinstance(node, dict) for node in nodes)
    if not whole or not isinstance(first, str) or not isinstance(version, int):
        raise CorruptError("the metadata has not the shape of a spec", where=where)
    return Metadata(nodes, version)


def unpacked(data: bytes, where: str) -> bytes:
    """A spec blob, which may be packed. Raises CorruptError as ``gunzip`` does."""
    return gunzip(data, SPEC_BYTES, where) if data.startswith(_GZIP) else data


def gunzip(data: bytes, limit: int, where: str) -> bytes:
    """Unpack gzip. Raises CorruptError if it is none, is cut off, or unpacks to over ``limit``."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        text = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise CorruptError(f"it cannot be unpacked: {error}", where=where) from None
    if len(text) > limit:
        raise CorruptError(f"it unpacks to more than {limit} bytes", where=where)
    if not unpacker.eof:
        raise CorruptError("it is cut off", where=where)
    return text


def dump_manifest(records: Sequence[Record]) -> bytes:
    """A manifest of layout 3, as Spack writes it: a token to a line, since GnuPG cuts long ones."""
    data = [
        {
            "contentLength": record.size_bytes,
            "mediaType": record.media_type,
            "compression": record.compression,
            "checksumAlgorithm": "sha256",
            "checksum": record.checksum,
        }
        for record in records
    ]
    document = {"version": 3, "data": data}
    return json.dumps(document, indent=0, separators=(",", ":")).encode()


def dump_spec_blob(metadata: Metadata) -> bytes:
    """The spec blob of layout 3, packed; the same metadata gives the same bytes.

    The layout version in it is 2 in Spack's own blobs of layout 3 as well.
    """
    document = {
        "spec": {"_meta": {"version": metadata.format}, "nodes": list(metadata.nodes)},
        "buildcache_layout_version": 2,
    }
    packer = zlib.compressobj(level=6, wbits=31)  # gzip with time 0 and no name
    text = json.dumps(document, separators=(",", ":")).encode()
    return packer.compress(text) + packer.flush()
