"""A blob that an image needs, and how to get at its bytes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import IO, NamedTuple

from stackyard.errors import CorruptError
from stackyard.oci import Descriptor, Reference, digest_key

__all__ = ["Checked", "Supply", "at_hand"]


class Supply(NamedTuple):
    """``opened`` gives the bytes as a file that can be read from anywhere, as often as it is called.

    ``origin`` is the repository that has the blob already, if one does.
    """

    descriptor: Descriptor
    opened: Callable[[], IO[bytes]]
    origin: Reference | None = None

    @property
    def key(self) -> str:
        """Where a store has it."""
        return digest_key(self.descriptor.checksum)


def at_hand(data: bytes, descriptor: Descriptor) -> Supply:
    """A blob that is in memory."""
    return Supply(descriptor, lambda: io.BytesIO(data))


class Checked:
    """A blob that is read once, from its beginning, and has to be what its digest says."""

    def __init__(self, file: IO[bytes], descriptor: Descriptor) -> None:
        self._file = file
        self._descriptor = descriptor
        self._sum = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Some bytes; none at the end. Raises CorruptError there if they were others."""
        piece = self._file.read(size)
        self._sum.update(piece)
        if not piece and size:
            self.end()
        return piece

    def end(self) -> None:
        """Raise CorruptError if what was read is not the blob."""
        if self._sum.hexdigest() != self._descriptor.checksum:
            raise CorruptError(
                "its bytes are not those of its digest", where=self._descriptor.digest
            )
