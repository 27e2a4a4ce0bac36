"""What a copy from mirror to mirror sends: what is not there yet, and never over another binary.

``CopyPlan`` is made from what both mirrors promise, before anything is sent. Every binary in it has
its reason, and all conflicts are in it at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from stackyard.binary import Binary, Blob, Metadata
from stackyard.errors import CorruptError
from stackyard.fetch import Missing, check_metadata, size_text
from stackyard.mirror import spec_manifest_key
from stackyard.oci import manifest_key, parse_image, spec_tag
from stackyard.padding import Root

__all__ = [
    "Conflict",
    "CopyPlan",
    "Item",
    "Relation",
    "blobs_of",
    "check_place",
    "compare",
    "contains",
    "make_plan",
    "padding_problem",
]

#: How the binary of a source stands to that of the same hash on the target.
Relation = Literal["same", "newly signed", "signed otherwise", "unsigned", "metadata", "other"]

_ABSENT = "not there yet"
_UPGRADE = "there without a signature"
_INCOMPLETE = "there, but not all of its blobs"
_OTHER_BLOBS = "there, but not all of its blobs, and it is made of others"
_CONFLICTS: Mapping[Relation, str] = {
    "signed otherwise": "the same binary is there, signed otherwise",
    "unsigned": "the same binary is there with a signature, and this one has none",
    "metadata": "the same tarball is there, with other metadata",
    "other": "another binary of the same hash is there",
}


class Item(NamedTuple):
    """A binary of the source that is to be sent, and why.

    ``manifest`` is False where only blobs are lacking; ``old`` is what a new manifest replaces.
    """

    binary: Binary
    reason: str
    manifest: bool = True
    old: bytes | None = None


class Conflict(NamedTuple):
    """A binary that the target has otherwise, and in what way."""

    binary: Binary
    reason: str


class CopyPlan(NamedTuple):
    """What will be done. ``here`` are DAG hashes of what needs nothing.

    After ``with_blobs``: ``blobs`` are those that the target lacks, each once, the largest first,
    and ``kept`` the keys of those that it has.
    """

    here: frozenset[str]
    items: tuple[Item, ...]
    conflicts: tuple[Conflict, ...]
    missing: tuple[Missing, ...]
    blobs: tuple[Blob, ...] = ()
    kept: frozenset[str] = frozenset()

    @property
    def size_bytes(self) -> int:
        return sum(blob.size_bytes or 0 for blob in self.blobs)

    @property
    def total(self) -> int:
        """Of all binaries that were asked for."""
        return len(self.here) + len(self.items) + len(self.conflicts) + len(self.missing)

    def with_blobs(self, binaries: Iterable[Binary], stored: Collection[str]) -> CopyPlan:
        """The same plan for binaries as the target is to have them; ``stored`` keys it has."""
        wanted = {blob.key: blob for binary in binaries for blob in blobs_of(binary)}
        lacking = (blob for key, blob in wanted.items() if key not in stored)
        return self._replace(
            # So that no large one comes last, when the others have nothing to do any more.
            blobs=tuple(sorted(lacking, key=lambda blob: blob.size_bytes or 0, reverse=True)),
            kept=frozenset(key for key in wanted if key in stored),
        )

    def __str__(self) -> str:
        """One line: how many, how much, and why."""
        reasons: dict[str, int] = {}
        for item in self.items:
            reasons[item.reason] = reasons.get(item.reason, 0) + 1
        told = "; ".join(f"{count} {reason}" for reason, count in reasons.items())
        why = f" ({told})" if told else ""
        size = f", {size_text(self.size_bytes)}" if self.items else ""
        missing = f", {len(self.missing)} missing" if self.missing else ""
        return (
            f"{len(self.items)} of {self.total} to send{size}{why}, "
            f"{len(self.here)} already there{missing}"
        )


def make_plan(  # noqa: PLR0913 - passed by name
    binaries: Iterable[Binary],
    *,
    there: Mapping[str, Binary],
    stored: Collection[str],
    force: bool,
    here: Collection[str] = (),
    missing: Sequence[Missing] = (),
    signing: bool = False,
) -> CopyPlan:
    """Decide for each binary of the source.

    ``there`` are the target's binaries by DAG hash, ``stored`` the keys of their blobs that it
    has, ``here`` hashes of what needs nothing for another reason. With ``force`` conflicts are sent.
    ``signing`` is that of ``compare``.
    """
    same = set(here)
    items: list[Item] = []
    conflicts: list[Conflict] = []
    for binary in binaries:
        verdict = _decide(binary, there.get(binary.hash), stored, signing=signing)
        if verdict is None:
            same.add(binary.hash)
        elif isinstance(verdict, Conflict) and not force:
            conflicts.append(verdict)
        elif isinstance(verdict, Conflict):
            items.append(Item(binary, verdict.reason, old=there[binary.hash].manifest))
        else:
            items.append(verdict)
    return CopyPlan(
        here=frozenset(same),
        items=tuple(items),
        conflicts=tuple(conflicts),
        missing=tuple(missing),
    )


def _decide(
    new: Binary, old: Binary | None, stored: Collection[str], *, signing: bool
) -> Item | Conflict | None:
    if old is None:
        return Item(new, _ABSENT)
    relation = compare(new, old, signing=signing)
    if relation == "newly signed":
        return Item(new, _UPGRADE, old=old.manifest)
    if relation != "same":
        return Conflict(new, _CONFLICTS[relation])
    if all(blob.key in stored for blob in blobs_of(old)):
        return None
    if set(blobs_of(new)) == set(blobs_of(old)):
        return Item(new, _INCOMPLETE, manifest=False)
    return Conflict(new, _OTHER_BLOBS)


def compare(new: Binary, old: Binary, *, signing: bool = False) -> Relation:
    """How two binaries of the same hash differ; ``signing``: what is unsigned is going to be signed.

    Where one of them is in a registry, only tarballs and signatures can be compared: an image holds
    the time when it was made. Two manifests that say the same in other words are the same.
    """
    if new.manifest == old.manifest and not (signing and not old.signed):
        return "same"
    if new.tarball.checksum != old.tarball.checksum:
        return "other"
    if new.layout == old.layout == 3 and new.spec != old.spec:
        return "metadata"
    held = new.signed and new.layout == old.layout  # a signature holds in one layout only
    if not old.signed:
        return "newly signed" if held or signing else "same"
    if signing or new.layout != old.layout:
        return "signed otherwise" if held else "same"
    return "signed otherwise" if new.signed else "unsigned"


def blobs_of(binary: Binary) -> tuple[Blob, ...]:
    """All blobs that must be there before the manifest: of an image, all its layers."""
    if binary.layout == "oci":
        return parse_image(binary.manifest, binary.key).blobs
    return binary.blobs


def check_place(metadata: Metadata, binary: Binary, where: str) -> None:
    """See that a binary is the one that its key names, and lies where readers look for it.

    Raises CorruptError naming ``where``.
    """
    spec = check_metadata(metadata, binary, where)
    right = manifest_key(spec_tag(spec)) if binary.layout == "oci" else spec_manifest_key(spec)
    if binary.key != right:
        raise CorruptError(f"nobody looks for it at {binary.key}, but at {right}", where=where)


def contains(outer: str, inner: str) -> bool:
    """Whether a mirror's URL, or a path, is another one or lies below it.

    In a registry nothing lies below: ``oci://host/a`` and ``oci://host/a/b`` are two repositories.
    """
    outer, inner = outer.rstrip("/"), inner.rstrip("/")
    nested = not outer.startswith(("oci://", "oci+http://"))
    return inner == outer or (nested and inner.startswith(f"{outer}/"))


def padding_problem(ours: Mapping[str, Root | None], theirs: Mapping[str, Root | None]) -> str:
    """Why binaries do not fit those that a mirror has, by their install trees; empty if they do.

    Both are by DAG hash; None where a tarball did not tell.
    """
    new = {root.padding: root for root in ours.values() if root}
    old = {root.padding: root for root in theirs.values() if root}
    if len(new) > 1:
        return f"the binaries do not fit each other: {_told(new)}"
    if old and not new.keys() <= old.keys():
        return (
            f"the binaries were installed with {_told(new)}, those on the mirror with {_told(old)}"
        )
    return ""


def _told(roots: Mapping[int, Root]) -> str:
    return " and ".join(
        f"a padded_length of {padding}"
        if padding
        else f"no padding ({root.path}, {root.path_length} characters)"
        for padding, root in sorted(roots.items())
    )
