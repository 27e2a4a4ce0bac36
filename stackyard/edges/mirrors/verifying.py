"""Read every binary of a mirror to its last byte, and see whether it is what it says."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from stackyard.binary import SPEC_BYTES, Binary, Blob, parse_metadata, unpacked
from stackyard.edges.mirrors.contents import Manifests, Tolerance
from stackyard.edges.mirrors.layouts import manifest_keys
from stackyard.edges.parallel import parallel_map, tried_map
from stackyard.edges.stores.store import PIECE_BYTES, Store, is_on_disk
from stackyard.errors import (
    CorruptError,
    LockError,
    NotFoundError,
    StoreError,
    UnreachableError,
)
from stackyard.fetch import check_metadata, spec_name
from stackyard.lock import Spec, parse_node
from stackyard.mirror import manifest_hash
from stackyard.nodes import first_node, is_whole
from stackyard.verify import Fault, gzip_problem

__all__ = ["Read", "Seen", "check_binaries", "difference", "manifest_faults", "read_whole"]

_TRIES = 4
#: From here on a blob takes longer to hash than to find; one of unknown size may be so large.
_LARGE = 2**20


class Seen(NamedTuple):
    """What reading the blobs of binaries brought: ``names`` of specs are by DAG hash."""

    faults: tuple[Fault, ...]
    names: Mapping[str, str]
    blobs: int
    bytes: int


class _Job(NamedTuple):
    """A blob, and the binaries that name it as their tarball or as their spec."""

    blob: Blob
    tarball_of: tuple[Binary, ...]
    spec_of: tuple[Binary, ...]

    @property
    def limit(self) -> int | None:
        """The largest size that any of them gives it; None where they do not tell."""
        sizes = [one.tarball.size_bytes for one in self.tarball_of]
        sizes += [one.spec.size_bytes for one in self.spec_of if one.spec]
        return None if None in sizes else max(size or 0 for size in sizes)


class Read(NamedTuple):
    """What a blob really is; ``data`` only where it is small and wanted."""

    size_bytes: int
    checksum: str
    head: bytes
    data: bytes = b""


def manifest_faults(manifests: Manifests) -> Iterator[Fault]:
    """Manifests that cannot be read, or that are none."""
    for key, error in manifests.problems.items():
        kind = "manifest" if isinstance(error, CorruptError) else "unknown"
        size = manifests.listed[key].size_bytes
        yield Fault(kind, key, error.message, manifest_hash(key), key, size)


def check_binaries(  # noqa: PLR0913 - passed by name
    store: Store,
    binaries: Sequence[Binary],
    *,
    workers: int,
    on_bytes: Callable[[int], None] = lambda _: None,
    tick: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
    sleep: Callable[[float], None] = time.sleep,
) -> Seen:
    """Read every blob once, whoever names it, and see that each binary is what it says.

    Sizes, checksums, the heads of tarballs; the spec's hash against the manifest's name, and
    computed anew. ``on_bytes`` hears of each piece. Raises UnreachableError if the mirror
    fails to answer again and again.
    """
    jobs = _jobs(binaries)
    tolerance = Tolerance()
    known: set[int] = set()

    def work(job: _Job) -> Seen:
        try:
            read = read_whole(
                store,
                job.blob.key,
                limit=job.limit,
                want=bool(job.spec_of),
                on_bytes=on_bytes,
                sleep=sleep,
            )
        except StoreError as error:
            return Seen(tuple(_unread(job, tolerance.note(error))), {}, 1, 0)
        return _judge(store, job, read, known)

    # Large blobs are hashed side by side: that lets other threads run.
    large = [job for job in jobs if (job.blob.size_bytes or _LARGE) >= _LARGE]
    seen = parallel_map(work, large, workers=workers, tick=lambda done, _: tick(done, len(jobs)))
    run = tried_map if is_on_disk(store) else parallel_map
    seen += run(
        work,
        jobs[len(large) :],
        workers=workers,
        tick=lambda done, _: tick(len(large) + done, len(jobs)),
    )
    old = [
        _judge_spec(binary, partial(_v2_spec, store, binary))
        for binary in binaries
        if binary.spec is None
    ]
    return Seen(
        faults=tuple(fault for one in (*seen, *old) for fault in one.faults),
        names={key: name for one in (*seen, *old) for key, name in one.names.items()},
        blobs=len(jobs),
        bytes=sum(one.bytes for one in seen),
    )


def _jobs(binaries: Iterable[Binary]) -> list[_Job]:
    """A job for each blob, the largest first so that none of them comes last alone."""
    tarballs: dict[str, list[Binary]] = {}
    specs: dict[str, list[Binary]] = {}
    blobs: dict[str, Blob] = {}
    for binary in binaries:
        for blob, role in ((binary.tarball, tarballs), (binary.spec, specs)):
            if blob:
                blobs.setdefault(blob.key, blob)
                role.setdefault(blob.key, []).append(binary)
    jobs = [
        _Job(blob, tuple(tarballs.get(key, ())), tuple(specs.get(key, ())))
        for key, blob in blobs.items()
    ]
    return sorted(jobs, key=lambda job: job.blob.size_bytes or _LARGE, reverse=True)


def read_whole(  # noqa: PLR0913 - passed by name
    store: Store,
    key: str,
    *,
    limit: int | None = None,
    want: bool = False,
    on_bytes: Callable[[int], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Read:
    """Hash a blob to its end, and keep it if it is wanted; what breaks off goes on where it was.

    Behind ``limit`` bytes it does not matter any more what comes. Raises StoreError, NotFoundError
    and UnreachableError among them. The pieces are large and the hash lets other threads run, so
    that what bounds this is the disk, the line or the hash function.
    """
    digest = hashlib.sha256()
    size = failed = 0
    head = b""
    kept: list[bytes] = []
    while True:
        before = size
        with store.stream(key, size) as pieces:
            try:
                for piece in pieces:
                    digest.update(piece)
                    head = head or piece[:PIECE_BYTES]
                    size += len(piece)
                    on_bytes(len(piece))
                    if want and size <= SPEC_BYTES:
                        kept.append(piece)
                    if limit is not None and size > limit:
                        break
                return Read(size, digest.hexdigest(), head, b"".join(kept))
            except UnreachableError:
                failed = 1 if size - before >= PIECE_BYTES else failed + 1
                if failed == _TRIES:
                    raise
        sleep(0.5 * 2**failed)


def _unread(job: _Job, error: StoreError) -> Iterator[Fault]:
    missing = isinstance(error, NotFoundError)
    corrupt = isinstance(error, CorruptError)
    kind = "missing" if missing else "blob" if corrupt else "unknown"
    for binary in dict.fromkeys((*job.tarball_of, *job.spec_of)):
        text = f"named by {binary.key}" if missing else error.message
        yield Fault(kind, job.blob.key, text, binary.hash, binary.key)


def _judge(store: Store, job: _Job, read: Read, known: set[int]) -> Seen:
    faults: list[Fault] = []
    right: list[Binary] = []
    roles = ((job.tarball_of, "tarball"), (job.spec_of, "spec"))
    for binary, role in ((binary, role) for group, role in roles for binary in group):
        blob = binary.tarball if role == "tarball" else binary.spec
        assert blob  # noqa: S101 - it names this one
        if problem := difference(blob, read):
            faults.append(
                Fault("blob", blob.key, problem, binary.hash, binary.key, read.size_bytes)
            )
        elif role == "spec":
            right.append(binary)
        elif problem := gzip_problem(read.head):
            faults.append(
                Fault("tarball", blob.key, problem, binary.hash, binary.key, read.size_bytes)
            )
    names: dict[str, str] = {}
    for binary in right:
        judged = _judge_spec(binary, partial(_spec, store, binary, read, known))
        faults += judged.faults
        names.update(judged.names)
    return Seen(tuple(faults), names, 1, read.size_bytes)


def difference(blob: Blob, read: Read) -> str:
    """In what a blob is not what its manifest says; empty if it is."""
    if blob.size_bytes is not None and read.size_bytes < blob.size_bytes:
        return f"it is cut off: {read.size_bytes} of {blob.size_bytes} bytes"
    if blob.size_bytes is not None and read.size_bytes > blob.size_bytes:
        return f"it is longer than the {blob.size_bytes} bytes that the manifest gives"
    if blob.checksum != read.checksum:
        return f"its checksum is {read.checksum}"
    return ""


def _spec(store: Store, binary: Binary, read: Read, known: set[int]) -> tuple[Spec, Sequence[str]]:
    """The spec of a binary and the keys where Spack looks for it, by its blob.

    ``known`` is that of ``is_whole``.
    """
    assert binary.spec  # noqa: S101 - that is the blob
    where = f"{store.url}/{binary.spec.key}"
    if read.size_bytes > SPEC_BYTES:
        raise CorruptError(f"the metadata have more than {SPEC_BYTES} bytes", where=where)
    data = unpacked(read.data, where)
    if not is_whole(data, known):
        spec = check_metadata(parse_metadata(data, where), binary, where)
    elif (spec := first_node(data, where)[1]).hash != binary.hash:
        raise CorruptError(f"it is the binary of another spec, {spec_name(spec)}", where=where)
    return spec, manifest_keys(spec, binary.layout, {})


def _v2_spec(store: Store, binary: Binary) -> tuple[Spec, Sequence[str]]:
    """The same by its manifest; layout 2 has the compiler's name in its paths, which is a node."""
    where = f"{store.url}/{binary.key}"
    metadata = parse_metadata(binary.manifest, where)
    spec = check_metadata(metadata, binary, where)
    try:
        specs = [parse_node(node, metadata.format) for node in metadata.nodes]
    except LockError as error:
        raise CorruptError(error.message) from None
    return spec, manifest_keys(spec, 2, {one.hash: one for one in specs})


def _judge_spec(binary: Binary, look: Callable[[], tuple[Spec, Sequence[str]]]) -> Seen:
    """Whether the metadata are those of the binary, and the manifest lies where Spack looks."""
    try:
        spec, keys = look()
    except StoreError as error:
        return Seen((Fault("spec", binary.key, error.message, binary.hash, binary.key),), {}, 0, 0)
    faults: tuple[Fault, ...] = ()
    if keys and binary.key not in keys:
        text = f"Spack looks for it at {keys[0]}"
        faults = (Fault("spec", binary.key, text, binary.hash, binary.key),)
    return Seen(faults, {binary.hash: spec_name(spec)}, 0, 0)
