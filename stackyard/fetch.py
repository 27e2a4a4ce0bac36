"""What a fetch is to bring: from a lock and what the mirror promises to the files that are wanted.

``FetchPlan`` is made before anything is downloaded, from what was read of the mirror and from what
lies in the folder already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from stackyard.binary import Binary, Blob, Metadata
from stackyard.errors import ConfigError, CorruptError
from stackyard.hashes import Verdict, verify_hash
from stackyard.lock import Lock, Spec

__all__ = [
    "DEVELOP",
    "Delivery",
    "FetchPlan",
    "Missing",
    "Wanted",
    "check_metadata",
    "dependency_types",
    "make_plan",
    "missing_text",
    "refusal",
    "size_text",
    "spec_name",
    "wanted_specs",
]

DEPENDENCY_TYPES = ("build", "link", "run", "test")
DEVELOP = "built from a working folder (dev_path), so no mirror has it"


class Missing(NamedTuple):
    """A spec whose binary cannot be had, and why."""

    spec: Spec
    reason: str


class Wanted(NamedTuple):
    """The specs whose binaries are wanted, dependencies first; ``develop`` ones no mirror has."""

    specs: tuple[Spec, ...]
    develop: tuple[Missing, ...]

    @property
    def total(self) -> int:
        return len(self.specs) + len(self.develop)


class Delivery(NamedTuple):
    """A tarball, and the binaries that are complete with it. ``here``: it needs no download."""

    tarball: Blob
    here: bool
    binaries: tuple[Binary, ...]


class FetchPlan(NamedTuple):
    """What will be done. ``deliveries`` come the largest first, ``here`` needs nothing.

    ``size_bytes`` counts each blob that is to be downloaded once; None where the mirror does not
    tell sizes (layout 2).
    """

    url: str
    here: tuple[Binary, ...]
    deliveries: tuple[Delivery, ...]
    missing: tuple[Missing, ...]
    size_bytes: int | None

    @property
    def total(self) -> int:
        """All binaries that were wanted."""
        return len(self.here) + len(self.new) + len(self.missing)

    @property
    def new(self) -> tuple[Binary, ...]:
        """The binaries that are not complete in the folder yet."""
        return tuple(binary for delivery in self.deliveries for binary in delivery.binaries)

    def __str__(self) -> str:
        """One line: how many, how much, from where."""
        size = "" if self.size_bytes is None else f", {size_text(self.size_bytes)}"
        missing = f", {len(self.missing)} missing" if self.missing else ""
        return (
            f"{len(self.new)} of {self.total} to fetch{size}, "
            f"{len(self.here)} already here{missing}: {self.url}"
        )


def dependency_types(text: str, where: str) -> frozenset[str]:
    """``link,run`` as a set. Raises ConfigError naming ``where`` for what is no dependency type."""
    types = [part.strip() for part in text.split(",")]
    for name in types:
        if name not in DEPENDENCY_TYPES:
            raise ConfigError(
                f"{name!r} is no type of dependency",
                where=where,
                hint=f"give some of {','.join(DEPENDENCY_TYPES)}",
            )
    return frozenset(types)


def wanted_specs(
    lock: Lock, roots: Collection[str], types: Collection[str] = DEPENDENCY_TYPES
) -> Wanted:
    """What the roots reach over edges of the given types, without externals.

    No types: the roots alone.
    """
    reached = _closure(lock, roots, frozenset(types))
    specs = [lock.specs[key] for key in lock.order if key in reached]
    built = [spec for spec in specs if not spec.external]
    return Wanted(
        specs=tuple(spec for spec in built if not spec.develop),
        develop=tuple(Missing(spec, DEVELOP) for spec in built if spec.develop),
    )


def _closure(lock: Lock, roots: Collection[str], types: frozenset[str]) -> frozenset[str]:
    if not types:
        return frozenset(roots)
    if types.issuperset(DEPENDENCY_TYPES):
        return lock.closure(roots)
    found = set(roots)
    pending = list(found)
    while pending:
        for edge in lock.specs[pending.pop()].dependencies:
            if edge.hash not in found and not types.isdisjoint(edge.deptypes):
                found.add(edge.hash)
                pending.append(edge.hash)
    return frozenset(found)


def make_plan(
    url: str,
    binaries: Iterable[Binary],
    missing: Sequence[Missing],
    right: Collection[str],
) -> FetchPlan:
    """Decide what is to be downloaded; ``right`` are the keys of files that need nothing."""
    binaries = tuple(binaries)
    here = tuple(binary for binary in binaries if _complete(binary, right))
    whole = {binary.hash for binary in here}
    rest = [binary for binary in binaries if binary.hash not in whole]
    blobs = {blob.key: blob for one in rest for blob in one.blobs if blob.key not in right}
    sizes = [blob.size_bytes for blob in blobs.values()]
    return FetchPlan(
        url=url,
        here=here,
        deliveries=_deliveries(rest, right),
        missing=tuple(missing),
        size_bytes=None if None in sizes else sum(size or 0 for size in sizes),
    )


def _complete(binary: Binary, right: Collection[str]) -> bool:
    return binary.key in right and all(blob.key in right for blob in binary.blobs)


def _deliveries(binaries: Iterable[Binary], right: Collection[str]) -> tuple[Delivery, ...]:
    """By tarball: what two binaries share comes once. The largest first, so that none comes last."""
    grouped: dict[str, list[Binary]] = {}
    for binary in binaries:
        grouped.setdefault(binary.tarball.key, []).append(binary)
    deliveries = [
        Delivery(group[0].tarball, key in right, tuple(group)) for key, group in grouped.items()
    ]
    return tuple(sorted(deliveries, key=_size, reverse=True))


def _size(delivery: Delivery) -> int:
    return 0 if delivery.here else delivery.tarball.size_bytes or 0


def check_metadata(metadata: Metadata, binary: Binary, where: str) -> Spec:
    """See that metadata are those of the spec that the binary stands for, and give that.

    A signature binds a manifest to its blobs and not to its place, so a valid manifest of another
    spec could lie there. Compares the hash that the first node claims, and computes it anew where
    it can be (``spec_hash`` in ``spec.py`` of Spack 1.1). Raises CorruptError naming ``where``.
    """
    spec = metadata.spec(where)
    if spec.hash != binary.hash:
        raise CorruptError(f"it is the binary of another spec, {spec_name(spec)}", where=where)
    if verify_hash(spec) is Verdict.FALSE:
        raise CorruptError("the spec is not what its hash says", where=where)
    return spec


def spec_name(spec: Spec) -> str:
    """A spec as lists of binaries name it: ``name@version/hash7``."""
    return f"{spec.name}@{spec.version}/{spec.hash[:7]}"


def size_text(size_bytes: float) -> str:
    """Bytes for people, in powers of ten as disks and networks count: ``1.4 GB``."""
    size, unit = float(size_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if round(size, 1) < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def missing_text(missing: Sequence[Missing]) -> str:
    """One line for each, indented."""
    return "\n".join(
        f"  {spec_name(spec)}{f': {reason}' if reason else ''}" for spec, reason in missing
    )


def refusal(
    problems: Mapping[str, str], specs: Mapping[str, Spec], url: str, hint: str = ""
) -> CorruptError:
    """An error that names every binary with a problem; ``problems`` are by DAG hash."""
    what = "binary is" if len(problems) == 1 else "binaries are"
    lines = "\n".join(f"  {spec_name(specs[key])}: {text}" for key, text in problems.items())
    return CorruptError(
        f"{len(problems)} {what} refused:\n{lines}",
        where=url,
        hint=hint
        or "nothing of them was kept; find out who changed the mirror, then push them anew",
    )
