"""What layers had for checksums the last time, so that those which are as they were are not read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from stackyard.edges.files import write_files
from stackyard.edges.images.tape import describe, open_tape
from stackyard.errors import StackyardError
from stackyard.oci import Descriptor
from stackyard.oci_image import TAR_TYPE
from stackyard.packing import Piece

__all__ = ["Sums"]

#: Their names say what is in them, and the fetch has just seen that it is true.
_NAMED_BY_SUM = "blobs/sha256/"


class Sums:
    """Descriptors of layers by what they are made of. Many threads may ask at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Descriptor] = {}
        self._used: dict[str, Descriptor] = {}
        with suppress(OSError, ValueError, TypeError, AttributeError):
            self._known = {
                str(recipe): Descriptor(TAR_TYPE, str(checksum), int(size))
                for recipe, (checksum, size) in json.loads(path.read_bytes()).items()
            }

    def describe(self, pieces: Sequence[Piece], mirror: Path) -> Descriptor:
        """What a manifest says of the layer."""
        recipe = _recipe(pieces, mirror)
        found = self._known.get(recipe)
        if found is None or found.size_bytes != sum(piece.size_bytes for piece in pieces):
            with open_tape(pieces, mirror) as tape:
                found = describe(tape, TAR_TYPE)
        self._used[recipe] = found
        return found

    def keep(self) -> None:
        """Remember those that were asked for, and no others."""
        document = {
            recipe: [one.checksum, one.size_bytes] for recipe, one in sorted(self._used.items())
        }
        with suppress(StackyardError):  # the next run reads them again
            write_files({self._path: json.dumps(document, indent=1).encode()})


def _recipe(pieces: Sequence[Piece], mirror: Path) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        content = piece.content
        if isinstance(content, str) and not content.startswith(_NAMED_BY_SUM):
            content = (mirror / content).read_bytes()
        data = content.encode() if isinstance(content, str) else content
        digest.update(f"{type(piece.content).__name__} {len(data)} {piece.size_bytes}\n".encode())
        digest.update(data)
    return digest.hexdigest()
