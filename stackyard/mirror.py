"""What lies where on a mirror, and what it says that it holds.

A mirror is one of Spack's build caches, as Spack 1.1 reads them (``url_buildcache.py``,
``binary_distribution.py``, ``database.py``): layout 3 of Spack 1.0 and newer, layout 2 of Spack
0.22 and 0.23. Keys are paths relative to the mirror's URL, with ``/`` between their parts. All
bytes that are parsed here were written by somebody else, so everything is checked before use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stackyard.errors import CorruptError, StoreError
from stackyard.lock import Spec

__all__ = [
    "INDEX_MANIFEST",
    "INDEX_TYPE",
    "KEY_INDEX",
    "KEY_INDEX_TYPE",
    "KEY_MANIFESTS",
    "KEY_TYPE",
    "LAYOUT_JSON",
    "LAYOUT_MARKER",
    "NOWHERE",
    "SPEC_MANIFESTS",
    "SPEC_TYPE",
    "TARBALL_TYPE",
    "V2_INDEX",
    "V2_INDEX_HASH",
    "V2_KEYS",
    "V2_KEY_INDEX",
    "V2_SPECS",
    "Found",
    "Index",
    "Inventory",
    "Layout",
    "Manifest",
    "Record",
    "blob_key",
    "compiler_of",
    "key_manifest_key",
    "manifest_hash",
    "parse_index",
    "parse_json",
    "parse_manifest",
    "parse_v2_spec",
    "polite",
    "signed_text",
    "spec_manifest_key",
    "v2_spec_key",
    "v2_tarball_key",
]

Layout = Literal[2, 3, "oci"]

#: Content of ``LAYOUT_MARKER`` as Spack writes it; it is there to be seen, not to be read.
LAYOUT_JSON = b'{"signing": "gpg"}'
LAYOUT_MARKER = "v3/layout.json"
INDEX_MANIFEST = "v3/manifests/index/index.manifest.json"
SPEC_MANIFESTS = "v3/manifests/spec/"
KEY_MANIFESTS = "v3/manifests/key/"
KEY_INDEX = "v3/manifests/key/keys.manifest.json"
V2_SPECS = "build_cache/"
V2_KEYS = "build_cache/_pgp/"
V2_KEY_INDEX = "build_cache/_pgp/index.json"
V2_INDEX = "build_cache/index.json"
V2_INDEX_HASH = "build_cache/index.json.hash"
#: No mirror has it: the answer tells how this one says "not there".
NOWHERE = "v3/manifests/nothing"

TARBALL_TYPE = "application/vnd.spack.install.v2.tar+gzip"
SPEC_TYPE = "application/vnd.spack.spec.v5+json"
INDEX_TYPE = "application/vnd.spack.db.v8+json"
KEY_TYPE = "application/pgp-keys"
KEY_INDEX_TYPE = "application/vnd.spack.keyindex.v1+json"
_INDEX_TYPE = re.compile(r"application/vnd\.spack\.db\.v\d+\+json")

#: Versions of the index that hold the nodes of specfile versions 3, 4 and 5.
_INDEX_VERSIONS = frozenset({"6", "7", "8"})

_HASH = re.compile(r"[a-z2-7]{32}")
_MANIFEST_NAME = re.compile(r".*-([a-z2-7]{32})\.(?:spec\.manifest\.json|spec\.json(?:\.sig)?)")
_FINGERPRINT = re.compile(r"[0-9A-F]{40}(?:[0-9A-F]{24})?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][\w.+-]{0,126}/[A-Za-z0-9][\w.+-]{0,126}", re.ASCII)
_WORD = re.compile(r"[a-z0-9]{1,20}")
_IMPOLITE = re.compile(r"[^A-Za-z0-9_+.-]")
_LARGEST_BLOB = 2**50

_SIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----"
#: Header lines, an empty line, the text, one signature, nothing else. Spack is laxer: it takes all
#: up to the *last* signature, so that text behind a valid signature could pass for signed.
_CLEARSIGNED = re.compile(
    rb"-----BEGIN PGP SIGNED MESSAGE-----[ \t]*\r?\n"
    rb"(?:[A-Za-z-]+: [^\r\n]*\r?\n)*[ \t]*\r?\n"
    rb"(?P<text>.*?)"
    rb"^-----BEGIN PGP SIGNATURE-----[ \t]*\r?\n"
    rb".*?^-----END PGP SIGNATURE-----\s*",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One blob in a manifest; size and checksum are those of the bytes as they are stored."""

    media_type: str
    size_bytes: int
    compression: str
    checksum: str  # sha256, 64 hexadecimal digits


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A manifest of layout 3. ``signed``: it carries a signature, which nobody verified here."""

    signed: bool
    records: tuple[Record, ...]

    def record(self, media_type: str) -> Record | None:
        """The first record of that type, as Spack takes it."""
        return next((record for record in self.records if record.media_type == media_type), None)

    @property
    def index_record(self) -> Record | None:
        """The first record that holds an index, of whatever version."""
        return next((r for r in self.records if _INDEX_TYPE.fullmatch(r.media_type)), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """The DAG hashes of a mirror's index: all that it names, and those it has binaries of."""

    version: int
    hashes: frozenset[str]
    binaries: frozenset[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """How a binary was found. ``signed`` is None where only the index was asked."""

    layout: Layout
    via: Literal["index", "direct"]
    signed: bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """What one mirror holds of the specs that were asked for, keyed by DAG hash.

    ``url`` is fit to be printed: without user, password and query.
    """

    mirror: str
    url: str
    found: Mapping[str, Found]
    warnings: tuple[str, ...] = ()


def polite(name: str) -> str:
    """The file name that Spack makes of a text: everything unusual becomes ``_``."""
    return _IMPOLITE.sub("_", name)


def spec_manifest_key(spec: Spec) -> str:
    """Where layout 3 has a spec's manifest, signed or not. The folder's name is not sanitised."""
    base = polite(f"{spec.name}-{spec.version}-{spec.hash}")
    return f"{SPEC_MANIFESTS}{spec.name}/{base}.spec.manifest.json"


def manifest_hash(key: str) -> str:
    """The DAG hash in the name of a manifest of layout 3 or of metadata of layout 2, else empty."""
    match = _MANIFEST_NAME.fullmatch(key)
    return match[1] if match else ""


def key_manifest_key(fingerprint: str) -> str:
    """Where layout 3 has the manifest of a public key; by its primary key, 40 or 64 digits."""
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise CorruptError(f"{fingerprint[:80]!r} is no fingerprint")
    return f"{KEY_MANIFESTS}{fingerprint}.key.manifest.json"


def blob_key(record: Record) -> str:
    """Where layout 3 has the blob of a record."""
    return f"blobs/sha256/{record.checksum[:2]}/{record.checksum}"


def compiler_of(spec: Spec, specs: Mapping[str, Spec]) -> tuple[str, str] | None:
    """Name and version that layout 2 has in its paths; ``("none", "none")`` without a compiler.

    The compiler is an attribute of old nodes; for others it is the dependency that gives C, else
    C++, else Fortran. None if that dependency is missing from ``specs``, so that nobody can tell.
    """
    if legacy := spec.legacy_compiler:
        return legacy
    if not spec.compiler:
        return ("none", "none")
    node = specs.get(spec.compiler)
    return (node.name, node.version) if node else None


def v2_spec_key(spec: Spec, compiler: tuple[str, str], *, signed: bool) -> str:
    """Where layout 2 has a spec's metadata; the signed and the unsigned form differ by suffix."""
    return f"build_cache/{_v2_stem(spec, compiler)}.spec.json{'.sig' if signed else ''}"


def v2_tarball_key(spec: Spec, compiler: tuple[str, str]) -> str:
    """Where layout 2 has a spec's tarball."""
    folders = (_arch(spec), "-".join(compiler), f"{spec.name}-{spec.version}")
    return f"build_cache/{'/'.join(map(polite, folders))}/{_v2_stem(spec, compiler)}.spack"


def _v2_stem(spec: Spec, compiler: tuple[str, str]) -> str:
    return polite("-".join((_arch(spec), *compiler, spec.name, spec.version, spec.hash)))


def _arch(spec: Spec) -> str:
    return f"{spec.platform}-{spec.os}-{spec.target}"


def parse_index(data: bytes, where: str) -> Index:
    """Parse an index: ``{"database": {"version", "installs": {hash: {"in_buildcache", ...}}}}``.

    Bytes after the JSON document are ignored, as Spack does; keys that cannot be DAG hashes are
    left out. Raises CorruptError (cut off, not JSON, another shape) and StoreError (a version
    that is not 6, 7 or 8), both naming ``where``.
    """
    return _index(parse_json(data, where, "index", rest=True), where)


def _index(document: Any, where: str) -> Index:
    try:
        version = str(document["database"]["version"])
        if version not in _INDEX_VERSIONS:
            raise StoreError(
                f"the index has version {version[:20]!r}; this stackyard reads 6, 7 and 8",
                where=where,
                hint="a newer Spack wrote it: update stackyard",
            )
        installs = document["database"]["installs"]
        binaries = [key for key, record in installs.items() if record.get("in_buildcache") is True]
    except (KeyError, TypeError, AttributeError) as error:
        raise CorruptError(
            f"the index has not the shape of one ({type(error).__name__}: {error})",
            where=where,
            hint="make the index anew: spack buildcache update-index",
        ) from None
    return Index(
        version=int(version),
        hashes=frozenset(filter(_HASH.fullmatch, installs)),
        binaries=frozenset(filter(_HASH.fullmatch, binaries)),
    )


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Parse a manifest of layout 3, plain or clearsigned; the signature is not verified.

    Shape: ``{"version": 3, "data": [{"contentLength", "mediaType", "compression",
    "checksumAlgorithm", "checksum"}]}``. Raises CorruptError naming ``where``.
    """
    text, signed = signed_text(data, where)
    document = parse_json(text, where, "manifest")
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        raise CorruptError("the manifest has no list under data", where=where)
    version = document.get("version")
    if version != 3 or isinstance(version, (bool, float)):
        raise CorruptError(f"the manifest has version {_shown(version)}, not 3", where=where)
    records = tuple(
        _record(entry, f"{where}: data[{i}]") for i, entry in enumerate(document["data"])
    )
    return Manifest(signed=signed, records=records)


def _record(entry: Any, where: str) -> Record:
    if not isinstance(entry, dict):
        raise CorruptError("the record is no mapping", where=where)
    size = entry.get("contentLength")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _LARGEST_BLOB:
        raise CorruptError(f"contentLength cannot be {_shown(size)}", where=where)
    if (algorithm := entry.get("checksumAlgorithm")) != "sha256":
        raise CorruptError(f"checksumAlgorithm is {_shown(algorithm)}, not sha256", where=where)
    return Record(
        media_type=_matching(entry, "mediaType", _MEDIA_TYPE, where),
        size_bytes=size,
        compression=_matching(entry, "compression", _WORD, where),
        checksum=_matching(entry, "checksum", _SHA256, where),
    )


def _matching(entry: Mapping[str, Any], key: str, pattern: re.Pattern[str], where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise CorruptError(f"{key} cannot be {_shown(value)}", where=where)
    return value


def parse_v2_spec(data: bytes, where: str) -> tuple[str, bool]:
    """DAG hash of the spec in the metadata of layout 2, and whether it carries a signature.

    Shape: ``{"spec": {"nodes": [{"hash", ...}, ...]}, "binary_cache_checksum": {"hash", ...},
    "buildcache_layout_version"}``, plain or clearsigned. Raises CorruptError naming ``where``.
    """
    text, signed = signed_text(data, where)
    document = parse_json(text, where, "metadata")
    try:
        dag_hash = document["spec"]["nodes"][0]["hash"]
        checksum = document["binary_cache_checksum"]["hash"]
    except (KeyError, TypeError, IndexError) as error:
        raise CorruptError(
            f"the metadata has not the shape of layout 2 ({type(error).__name__}: {error})",
            where=where,
        ) from None
    for value, pattern in ((dag_hash, _HASH), (checksum, _SHA256)):
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise CorruptError(f"a hash cannot be {_shown(value)}", where=where)
    return dag_hash, signed


def signed_text(data: bytes, where: str) -> tuple[bytes, bool]:
    """The text within a clearsigned message and True, or the bytes themselves and False.

    Raises CorruptError if the signature is cut off, or if anything stands beside the message.
    """
    if not data.startswith(_SIGNED):
        return data, False
    match = _CLEARSIGNED.fullmatch(data)
    if not match or data.count(b"-----BEGIN PGP") != 2:
        raise CorruptError("the signed message is cut off, or more than one message", where=where)
    return re.sub(rb"^- ", b"", match["text"], flags=re.MULTILINE), True


def parse_json(data: bytes, where: str, what: str, *, rest: bool = False) -> Any:
    """Parse JSON; with ``rest`` whatever follows the first document is ignored.

    Raises CorruptError that names ``what`` and ``where``.
    """
    if not data.strip():
        raise CorruptError(f"the {what} is empty", where=where)
    try:
        text = data.decode("utf-8").lstrip()
        return json.JSONDecoder().raw_decode(text)[0] if rest else json.loads(text)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) - 1 or "Unterminated" in error.msg
        problem = "is cut off" if cut else "is not JSON"
        raise CorruptError(
            f"the {what} {problem} (line {error.lineno}, column {error.colno}: {error.msg})",
            where=where,
        ) from None
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"the {what} is not JSON ({error})", where=where) from None


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else "a container"
    return text if len(text) < 80 else f"{text[:77]}..."
