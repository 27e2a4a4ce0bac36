"""A blob on its way into a registry: at one go, or in parts where that is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import IO
from urllib.parse import urlencode, urlsplit

from stackyard.edges.stores.registry import TRIES, Answer, Part, Registry
from stackyard.errors import CorruptError, NotFoundError, StoreError, UnreachableError

__all__ = ["Habits", "Upload"]

#: Up to here a blob is sent at one go, which all registries take and most are quickest with.
WHOLE_BYTES = 2**30
#: One request of an upload in several; some registries refuse more, none wants more.
PART_BYTES = 16 * 2**20
_LEAST_PART_BYTES = 2**20
_LARGEST_PART_BYTES = 2**30

_OCTETS = "application/octet-stream"
#: Answers of a registry that wants a blob in parts.
_NOT_WHOLE = frozenset({405, 411, 413, 501})


@dataclass(slots=True)
class Habits:
    """What we have learnt about a registry."""

    in_parts: bool = False  # it refused a blob at one go


class Upload:
    """One blob on its way into a repository."""

    def __init__(  # noqa: PLR0913, PLR0917 - made in one place
        self,
        registry: Registry,
        habits: Habits,
        digest: str,
        size: int,
        file: IO[bytes],
        where: str,
    ) -> None:
        self._registry = registry
        self._habits = habits
        self._scopes = registry.scopes("pull", "push")
        self._digest = digest
        self._size = size
        self._file = file
        self._where = where
        self._least = _LEAST_PART_BYTES
        self._broken = False  # a part broke off, and nobody knows whether it was taken twice

    def run(self) -> None:
        """Raises UnreachableError if it may go better from the beginning, else what is wrong."""
        place = self._begin()
        if self._size <= WHOLE_BYTES and not self._habits.in_parts:
            answer = self._send("PUT", self._finished(place), 0, self._size)
            if answer.status in (200, 201, 204):
                return
            if answer.status not in _NOT_WHOLE and answer.code != "UNSUPPORTED":
                raise self._refused(answer)
            self._habits.in_parts = True
            place = self._begin()
        self._send_parts(place)

    def _begin(self) -> str:
        url = f"{self._registry.reference.endpoint}/blobs/uploads/"
        answer = self._registry.ask("POST", url, where=self._where, scopes=self._scopes)
        if answer.status in (404, 410):
            said = f" ({answer.message})" if answer.message else ""
            raise StoreError(
                f"the registry has no such repository, and makes none{said}",
                where=self._where,
                hint="make it first; on Amazon's: aws ecr create-repository",
            )
        if answer.status != 202:
            raise self._registry.refused(answer, self._where)
        least = answer.headers.get("OCI-Chunk-Min-Length", "")
        if least.isascii() and least.isdigit():
            self._least = min(max(int(least), _LEAST_PART_BYTES), _LARGEST_PART_BYTES)
        return self._registry.place(answer, self._where)

    def _send_parts(self, place: str) -> None:
        start, length, failures = 0, max(PART_BYTES, self._least), 0
        while start < self._size:
            end = min(start + length, self._size)
            try:
                answer = self._send("PATCH", place, start, end - start)
            except UnreachableError:
                end = start
                self._broken = True
                failures += 1
                if failures >= TRIES:
                    raise
                answer = self._registry.ask("GET", place, where=self._where, scopes=self._scopes)
            if answer.status == 413 and length > self._least:
                length = max(length // 4, self._least)
                continue
            if answer.status not in (201, 202, 204, 416):
                raise self._refused(answer)
            reached = self._reached(answer, end if answer.status in (201, 202) else start)
            failures = 0 if reached > start else failures + 1
            if failures >= TRIES:
                raise UnreachableError("the registry takes no more of it", where=self._where)
            start = reached
            if answer.headers.get("Location"):
                place = self._registry.place(answer, self._where)
        answer = self._send("PUT", self._finished(place), self._size, 0)
        if answer.status not in (200, 201, 204):
            raise self._refused(answer)

    def _reached(self, answer: Answer, otherwise: int) -> int:
        """How much the registry has now, as it says: ``Range: 0-1023``."""
        match = re.fullmatch(r"(?:bytes[= ])?0-(\d{1,18})", answer.headers.get("Range", "").strip())
        if not match:
            return otherwise
        # Of an upload that nothing was written to, some say 0-0.
        reached = int(match[1]) + 1 if match[1] != "0" else 0
        if reached > self._size:
            raise UnreachableError("the registry has more of it than there is", where=self._where)
        return reached

    def _send(self, method: str, place: str, start: int, length: int) -> Answer:
        headers = {"Content-Type": _OCTETS}
        if method == "PATCH":
            headers["Content-Range"] = f"{start}-{start + length - 1}"
        return self._registry.ask(
            method,
            place,
            where=self._where,
            scopes=self._scopes,
            headers=headers,
            body=(lambda: Part(self._file, start, length)) if length else (lambda: b""),
            careful=True,
        )

    def _finished(self, place: str) -> str:
        parts = urlsplit(place)
        query = "&".join(filter(None, (parts.query, urlencode({"digest": self._digest}))))
        return parts._replace(query=query).geturl()

    def _refused(self, answer: Answer) -> StoreError:
        error = self._registry.refused(answer, self._where)
        if isinstance(error, NotFoundError) or answer.status == 416:
            return UnreachableError("the registry has lost the upload", where=self._where)
        if isinstance(error, CorruptError) and self._broken:
            return UnreachableError("the registry took a part twice", where=self._where)
        return error
