"""Where a binary was installed when it was packed: the root of its install tree, and its padding.

Spack can pad that root (``config:install_tree:padded_length``) with folders named
``__spack_path_placeholder__``, so that a binary fits into any shorter path. The hash of a spec does
not tell; the names in the tarball do. A mirror with both kinds gives binaries that install in one
place and not in another.
"""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["HEAD_BYTES", "PLACEHOLDER", "Root", "install_root", "prefix_root"]

#: So much of a tarball holds its first names, also where the root is padded to the limit.
HEAD_BYTES = 64 * 1024
PLACEHOLDER = "__spack_path_placeholder__"

_UNPACKED_BYTES = 2**20
_NAMES = 200
#: The first folder of Spack's own projections: ``linux-x86_64_v3``, ``linux-debian12-zen2``.
_ARCH = re.compile(r"(?:linux|darwin|windows|freebsd|cray)-.+")
_WHOLE = re.compile(rf"{PLACEHOLDER}_?")
#: A shorter beginning of the placeholder could be anybody's folder.
_LEAST = len("__spack_path")
#: The shortest hash that a projection is known to have (``{hash:7}``).
_SHORT_HASH = 7


class Root(NamedTuple):
    """The root of an install tree, as an absolute path.

    Where nothing is padded ``path`` is what stands before the folders that Spack's own projections
    make: a good guess if the tree has others.
    """

    path: str
    padded: bool

    @property
    def path_length(self) -> int:
        """In characters, as ``padded_length`` counts."""
        return len(self.path)

    @property
    def padding(self) -> int:
        """The ``padded_length``, 0 for none: binaries with the same may share a mirror."""
        return self.path_length if self.padded else 0


def install_root(tar_head: bytes, dag_hash: str) -> Root | None:
    """The install tree that a tarball comes from, by its first ``HEAD_BYTES`` as stored (gzip).

    None where they do not tell: no tarball, or none that Spack made of the prefix of this hash. See
    ``add_padding`` in ``util/path.py`` and ``tarfile_of_spec_prefix`` in ``binary_distribution.py``
    of Spack 1.1.
    """
    for name in _names(tar_head):
        if prefix := _prefix(name.strip("/").split("/"), dag_hash):
            return _root(prefix)
    return None


def prefix_root(prefix: str, dag_hash: str) -> Root | None:
    """The install tree that the folder of an installed package lies in."""
    parts = _prefix(prefix.strip("/").split("/"), dag_hash)
    return _root(parts) if parts else None


def _names(tar_head: bytes) -> Iterator[str]:
    """The first names in a packed tar file that may be cut off anywhere."""
    try:
        text = zlib.decompressobj(wbits=31).decompress(tar_head, _UNPACKED_BYTES)
        with tarfile.open(fileobj=io.BytesIO(text), mode="r:") as tar:
            for _, member in zip(range(_NAMES), tar, strict=False):
                yield member.name
    except (zlib.error, tarfile.TarError, ValueError, OverflowError, RecursionError):
        return


def _prefix(parts: list[str], dag_hash: str) -> list[str]:
    """The folder of the package: it is named for the hash, or for its beginning."""
    for i, part in enumerate(parts):
        words = re.split("[^a-z0-9]+", part)
        if any(len(word) >= _SHORT_HASH and dag_hash.startswith(word) for word in words):
            return parts[: i + 1]
    return []


def _root(prefix: list[str]) -> Root:
    whole = [i for i, part in enumerate(prefix[:-1]) if _WHOLE.fullmatch(part)]
    if whole:
        rest = prefix[whole[-1] + 1]
        # Cut to the length that was asked for, which may leave a single character.
        cut = whole[-1] + 2 if PLACEHOLDER.startswith(rest) else whole[-1] + 1
        return Root("/" + "/".join(prefix[:cut]), padded=True)
    for i, part in enumerate(prefix[:-1]):
        if PLACEHOLDER.startswith(part) and len(part) >= _LEAST:
            return Root("/" + "/".join(prefix[: i + 1]), padded=True)
    arch = next((i for i, part in enumerate(prefix) if _ARCH.fullmatch(part)), len(prefix) - 1)
    return Root("/" + "/".join(prefix[:arch]), padded=False)
