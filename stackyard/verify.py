"""What is wrong with a mirror: findings by kind, how grave they are, and how they are told."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from stackyard.fetch import size_text

__all__ = [
    "FATAL",
    "KINDS",
    "Fault",
    "Grade",
    "Tally",
    "exit_code",
    "gzip_problem",
    "report_json",
    "report_text",
]

Grade = Literal["broken", "stale", "told"]

#: Kinds of faults in the order of the report: what a heading says, and how grave it is.
KINDS: dict[str, tuple[str, Grade]] = {
    "unknown": ("could not be read, so nobody knows", "broken"),
    "manifest": ("manifests that are none", "broken"),
    "signature": ("signatures that do not hold", "broken"),
    "missing": ("blobs that are not there", "broken"),
    "blob": ("blobs with other bytes than their manifests say", "broken"),
    "spec": ("binaries of another spec than their name says", "broken"),
    "tarball": ("tarballs that are none", "broken"),
    "key": ("public keys", "broken"),
    "index-broken": ("the index is no index", "broken"),
    "index": ("the index does not tell what is there", "stale"),
    "key-index": ("the list of keys does not tell what is there", "stale"),
    "orphan": ("blobs that no manifest names", "told"),
    "stray": ("files that belong to no mirror", "told"),
}


#: Kinds of faults whose binary nobody can use.
FATAL = frozenset({"manifest", "missing", "blob", "spec", "tarball"})


class Fault(NamedTuple):
    """Something that is not as it should be with the file ``key``.

    ``hash`` and ``manifest`` are of the binary that suffers from it, if one does.
    """

    kind: str
    key: str
    text: str
    hash: str = ""
    manifest: str = ""
    size_bytes: int = 0

    @property
    def grade(self) -> Grade:
        return KINDS[self.kind][1]

    def line(self, names: Mapping[str, str]) -> str:
        """``names`` are of binaries, by DAG hash."""
        name = f"{names[self.hash]}: " if self.hash in names else ""
        key = self.key if self.key.isprintable() else ascii(self.key)
        return f"{name}{key}: {self.text}" if self.text else f"{name}{key}"


class Tally(NamedTuple):
    """What was looked at."""

    manifests: int = 0
    blobs: int = 0
    bytes: int = 0
    signed: int = 0
    seconds: float = 0.0


def exit_code(faults: Iterable[Fault]) -> int:
    """6 if anything is corrupt, missing or not known, 3 if only a list is stale, else 0."""
    grades = {fault.grade for fault in faults}
    if "broken" in grades:
        return 6
    return 3 if "stale" in grades else 0


def gzip_problem(head: bytes) -> str:
    """Why a tarball that begins like this cannot be unpacked; empty if it may be."""
    try:
        zlib.decompressobj(wbits=31).decompress(head, 4096)
    except zlib.error as error:
        return f"it is not packed with gzip ({error})"
    return "" if head.startswith(b"\x1f\x8b") else "it is not packed with gzip"


def report_text(faults: Sequence[Fault], names: Mapping[str, str]) -> str:
    """The faults under a heading for each kind; empty if there are none."""
    blocks = []
    for kind, (heading, _) in KINDS.items():
        found = [fault for fault in faults if fault.kind == kind]
        if found:
            size = sum(fault.size_bytes for fault in found)
            total = f", {size_text(size)}" if size else ""
            lines = "\n".join(f"  {fault.line(names)}" for fault in found)
            blocks.append(f"{heading} ({len(found)}{total}):\n{lines}")
    return "\n".join(blocks)


def report_json(
    faults: Sequence[Fault],
    names: Mapping[str, str],
    *,
    url: str,
    tally: Tally,
    repairs: Sequence[str],
) -> str:
    """``{version, url, state, checked: {...}, faults: [{kind, grade, key, text, ...}], repairs}``."""
    state = {0: "ok", 3: "stale", 6: "broken"}[exit_code(faults)]
    document: dict[str, Any] = {
        "version": 1,
        "url": url,
        "state": state,
        "checked": {key: value for key, value in tally._asdict().items() if key != "seconds"},
        "faults": [_entry(fault, names) for fault in faults],
        "repairs": list(repairs),
    }
    return json.dumps(document, indent=2)


def _entry(fault: Fault, names: Mapping[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "kind": fault.kind,
        "grade": fault.grade,
        "key": fault.key,
        "text": fault.text,
    }
    if fault.hash:
        entry |= {"hash": fault.hash, "binary": names.get(fault.hash, "")}
    if fault.size_bytes:
        entry["size_bytes"] = fault.size_bytes
    return entry
