"""Ask mirrors which binaries they hold: first their indices, then spec by spec.

As Spack 1.1 does it (``get_mirrors_for_spec`` in ``binary_distribution.py``): a spec that the
index of any mirror names is looked up no further, all others are asked for by name, in layout 3
and layout 2; in a registry only the index counts. Unlike in Spack, a mirror that cannot be read is
an error and never an empty one.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from stackyard.edges.parallel import parallel_map
from stackyard.edges.stores.access import Place
from stackyard.edges.stores.folder import FileStore
from stackyard.edges.stores.store import INDEX_BYTES, ForbiddenError, Store, open_store
from stackyard.errors import CorruptError, NotFoundError, StoreError, UnreachableError
from stackyard.lock import Spec
from stackyard.mirror import (
    INDEX_MANIFEST,
    LAYOUT_MARKER,
    NOWHERE,
    SPEC_TYPE,
    TARBALL_TYPE,
    V2_INDEX,
    V2_INDEX_HASH,
    Found,
    Index,
    Inventory,
    Layout,
    blob_key,
    compiler_of,
    parse_index,
    parse_manifest,
    parse_v2_spec,
    spec_manifest_key,
    v2_spec_key,
)

__all__ = ["broken_specs", "take_inventories"]

_REINDEX = "make the index anew: stackyard mirror.index, or spack buildcache update-index"


@dataclass(slots=True, kw_only=True)
class _Visit:
    """One mirror while it is asked: what its indices named, what direct look-ups found."""

    mirror: Place
    store: Store
    indices: dict[Layout, Index] = field(default_factory=dict)
    marked: bool = False  # v3/layout.json is there
    forbidden_is_missing: bool = False
    direct: dict[str, Found] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_registry(self) -> bool:
        return self.store.url.startswith(("oci://", "oci+http://"))

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """The layouts to look specs up in: those that are evident; both, if none is."""
        v3 = self.marked or 3 in self.indices
        both: tuple[Layout, ...] = (3, 2)
        return tuple(n for n in both if (v3 if n == 3 else n in self.indices)) or both

    def read(self, key: str, max_bytes: int | None = None) -> bytes | None:
        """The bytes, or None if the mirror says that there are none."""
        try:
            if max_bytes is None:
                return self.store.read(key)
            return self.store.read(key, max_bytes=max_bytes)
        except NotFoundError:
            return None
        except ForbiddenError:
            if self.forbidden_is_missing:
                return None
            raise


#: Told a label, how many are done, and of how many.
Tick = Callable[[str, int, int], None]


def take_inventories(  # noqa: PLR0913 - all but two have defaults, and are passed by name
    mirrors: Sequence[Place],
    wanted: Sequence[Spec],
    *,
    index_only: bool,
    progress: Callable[[str], None],
    tick: Tick = lambda label, done, total: None,  # noqa: ARG005
    specs: Mapping[str, Spec] | None = None,
    workers: int = 32,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Inventory, ...]:
    """What each mirror holds of the wanted specs, in the order of the mirrors.

    ``tick`` is told the label and the count of what is being looked up, for a live bar.
    ``specs`` are all nodes of the lock: where the compiler is a node of its own, the paths of
    layout 2 have its name, and it need not be wanted itself. ``progress`` gets a line at the start
    and the end of each mirror. Any StoreError stops all; it names the mirror and the URL.
    """
    asked = {spec.hash: spec for spec in wanted}
    nodes = {**(specs or {}), **asked}
    visits = [_opened(mirror, sleep) for mirror in mirrors]

    def survey(visit: _Visit) -> None:
        start = clock()
        with _naming(visit.mirror):
            _survey(visit, index_only=index_only, workers=workers)
        visit.seconds += clock() - start

    try:
        for visit in visits:
            progress(f"mirror {visit.mirror.name}: reading {visit.store.url}")
        parallel_map(survey, visits, workers=workers)
        missing = _without(asked, (hashes for v in visits for hashes in _indexed(v)))
        for visit in visits:
            start = clock()
            looked_up = 0 if index_only or visit.is_registry else len(missing)
            if looked_up:
                with _naming(visit.mirror):
                    _look_up(visit, missing, nodes, workers, tick)
                missing = _without(missing, [visit.direct.keys()])
            visit.seconds += clock() - start
            progress(_summary(visit, asked, looked_up))
        return tuple(_inventory(visit, asked) for visit in visits)
    finally:
        for visit in visits:
            visit.store.close()


@contextmanager
def _naming(mirror: Place) -> Iterator[None]:
    """Put the mirror's name before the message of a StoreError, and say what a plan can do."""
    try:
        yield
    except StoreError as error:
        hint = f"{error.hint}; or plan without mirrors: --no-prune".removeprefix("; or ")
        raise type(error)(
            f"mirror {mirror.name}: {error.message}", where=error.where, hint=hint
        ) from None


def _opened(mirror: Place, sleep: Callable[[float], None]) -> _Visit:
    with _naming(mirror):
        return _Visit(mirror=mirror, store=open_store(mirror.url, mirror.access, sleep=sleep))


def _without(specs: Mapping[str, Spec], groups: Iterable[Collection[str]]) -> dict[str, Spec]:
    gone: set[str] = set().union(*groups)
    return {key: spec for key, spec in specs.items() if key not in gone}


def _indexed(visit: _Visit) -> list[frozenset[str]]:
    return [index.binaries for index in visit.indices.values()]


def _summary(visit: _Visit, asked: Mapping[str, Spec], looked_up: int) -> str:
    parts = ["no index"]
    if visit.indices:
        named = frozenset().union(*_indexed(visit)) & asked.keys()
        parts = [f"index names {len(named)} of {len(asked)}"]
    if looked_up:
        parts.append(f"{len(visit.direct)} of {looked_up} found directly")
    return f"mirror {visit.mirror.name}: {', '.join(parts)}, {visit.seconds:.1f} s"


def _inventory(visit: _Visit, asked: Mapping[str, Spec]) -> Inventory:
    found = dict(visit.direct)
    for layout in sorted(visit.indices, key=str):  # layout 3 last, so that it wins
        for key in visit.indices[layout].binaries & asked.keys():
            found[key] = Found(layout=layout, via="index", signed=None)
    return Inventory(
        mirror=visit.mirror.name,
        url=visit.store.url,
        found={key: found[key] for key in asked if key in found},
        warnings=tuple(visit.warnings),
    )


def _survey(visit: _Visit, *, index_only: bool, workers: int) -> None:
    """Read the indices of both layouts, and see which layouts there are."""
    if visit.is_registry:
        _survey_registry(visit)
        return
    keys = [INDEX_MANIFEST, V2_INDEX] + ([] if index_only else [LAYOUT_MARKER, NOWHERE])
    manifest, v2, *rest = _probe(visit, keys, workers)
    visit.marked = bool(rest) and rest[0] is not None
    if manifest is not None:
        visit.indices[3] = _v3_index(visit, manifest)
    if v2 is not None:
        visit.indices[2] = _v2_index(visit, v2)
    if index_only and not visit.indices:
        visit.warnings.append(
            f"mirror {visit.mirror.name} has no index, and only indices are read: nothing on it "
            "is used"
        )


def _survey_registry(visit: _Visit) -> None:
    """Read the index, which is all that Spack ever asks a registry for (``try_direct_fetch``)."""
    from stackyard.edges.mirrors.published import form_of, read_blob  # 30 ms, for registries alone

    form = form_of(visit.store)
    where = f"{visit.store.url}/{form.key}"
    manifest = visit.read(form.key)
    if manifest is None:
        visit.warnings.append(
            f"mirror {visit.mirror.name} has no index, and Spack looks nothing up in a registry "
            "without one: nothing on it is used. Make it: stackyard mirror.index"
        )
        return
    index, _ = form.parse(manifest, where)
    try:
        data = read_blob(visit.store, index)
    except NotFoundError:
        raise CorruptError(
            f"it names {blob_key(index)}, which is not there", where=where, hint=_REINDEX
        ) from None
    visit.indices["oci"] = parse_index(data, f"{visit.store.url}/{blob_key(index)}")


def _probe(visit: _Visit, keys: Sequence[str], workers: int) -> list[bytes | None]:
    """The first bytes asked of a mirror. None: certainly not there.

    403 is the difficult answer. An S3 bucket that does not let us list it gives 403 for what is
    not there, and then never says 404. So 403 means "not there" only where something was readable
    and nothing was 404; else it means what it says.
    """

    def ask(key: str) -> bytes | ForbiddenError | None:
        try:
            return visit.read(key, INDEX_BYTES)
        except ForbiddenError as error:
            return error

    answers = parallel_map(ask, keys, workers=workers)
    denials = [answer for answer in answers if isinstance(answer, ForbiddenError)]
    if denials:
        if None in answers or not any(isinstance(answer, bytes) for answer in answers):
            raise denials[0]
        visit.forbidden_is_missing = True
    return [None if isinstance(answer, ForbiddenError) else answer for answer in answers]


def _v3_index(visit: _Visit, manifest: bytes) -> Index:
    where = f"{visit.store.url}/{INDEX_MANIFEST}"
    record = parse_manifest(manifest, where).index_record
    if record is None:
        raise CorruptError("the index manifest names no index", where=where, hint=_REINDEX)
    key = blob_key(record)
    blob = f"{visit.store.url}/{key}"
    if record.size_bytes > INDEX_BYTES:
        raise CorruptError(
            f"the index has {record.size_bytes} bytes, more than {INDEX_BYTES}", where=where
        )
    data = visit.read(key, INDEX_BYTES)
    if data is None:
        raise CorruptError(f"it names {key}, which is not there", where=where, hint=_REINDEX)
    if len(data) != record.size_bytes:
        raise CorruptError(
            f"the index has {len(data)} bytes, and {record.size_bytes} by its manifest",
            where=blob,
            hint=_REINDEX,
        )
    if hashlib.sha256(data).hexdigest() != record.checksum:
        raise CorruptError(
            "the index has another checksum than its name", where=blob, hint=_REINDEX
        )
    return parse_index(data, blob)


def _v2_index(visit: _Visit, data: bytes | None) -> Index:
    """Check the index of layout 2 against ``index.json.hash``, where there is one.

    Spack 0.23 writes the two one after the other, so both are read again before we complain.
    """
    where = f"{visit.store.url}/{V2_INDEX}"
    for again in (True, False):
        if data is None:
            break
        given = (visit.read(V2_INDEX_HASH) or b"").strip().decode("ascii", "replace")
        is_hash = re.fullmatch("[0-9a-f]{64}", given)
        if not is_hash or hashlib.sha256(data).hexdigest() == given:
            return parse_index(data, where)
        if again:
            data = visit.read(V2_INDEX, INDEX_BYTES)
    raise CorruptError(
        "the index has another checksum than index.json.hash beside it",
        where=where,
        hint="make the index anew with Spack 0.23: spack buildcache update-index",
    )


def _look_up(
    visit: _Visit,
    missing: Mapping[str, Spec],
    nodes: Mapping[str, Spec],
    workers: int,
    tick: Tick,
) -> None:
    """Ask for each spec by each name that it may have there, all at once."""
    questions: list[_Question] = []
    nameless = 0
    for layout in visit.layouts:
        for spec in missing.values():
            keys = _keys(spec, layout, nodes)
            nameless += not keys
            questions += [_Question(layout, spec, key) for key in keys]
    answers = parallel_map(
        lambda question: _ask(visit, question),
        questions,
        workers=workers,
        tick=lambda done, total: tick(f"mirror {visit.mirror.name}: looking up", done, total),
    )
    if not (visit.marked or visit.indices or any(answers)):
        visit.warnings.append(
            f"mirror {visit.mirror.name}: nothing at {visit.store.url} looks like a mirror (v3/ or "
            "build_cache/); it is taken for a new, empty one. Is the URL right?"
        )
    unsigned: dict[str, Spec] = {}
    for (_, spec, _), found in zip(questions, answers, strict=True):
        if found and visit.mirror.signed is True and not found.signed:
            unsigned[spec.hash] = spec
        elif found:
            visit.direct.setdefault(spec.hash, found)  # layout 3 was asked first
    unused = [spec for key, spec in unsigned.items() if key not in visit.direct]
    if unused:
        example = f"{unused[0].name}@{unused[0].version}/{unused[0].hash[:7]}"
        visit.warnings.append(
            f"mirror {visit.mirror.name} demands signatures, and {len(unused)} of its binaries "
            f"(such as {example}) have none: they are not used. Sign them, or set signed: "
            "false for the mirror"
        )
    if nameless:
        visit.warnings.append(
            f"mirror {visit.mirror.name}: {nameless} specs were not looked up in layout 2, "
            "because their compiler is not known"
        )


class _Question(NamedTuple):
    layout: Layout
    spec: Spec
    key: str


def _keys(spec: Spec, layout: Layout, nodes: Mapping[str, Spec]) -> tuple[str, ...]:
    """Layout 2 has a name for signed and one for unsigned metadata, with the compiler in it."""
    if layout == 3:
        return (spec_manifest_key(spec),)
    compiler = compiler_of(spec, nodes)
    if compiler is None:
        return ()
    return tuple(v2_spec_key(spec, compiler, signed=signed) for signed in (True, False))


def _ask(visit: _Visit, question: _Question) -> Found | None:
    data = visit.read(question.key)
    if data is None:
        return None
    where = f"{visit.store.url}/{question.key}"
    if question.layout == 3:
        return _found_v3(data, where)
    return _found_v2(data, where, question.spec)


def _found_v3(data: bytes, where: str) -> Found:
    manifest = parse_manifest(data, where)
    for kind, what in ((TARBALL_TYPE, "tarball"), (SPEC_TYPE, "spec")):
        if manifest.record(kind) is None:
            raise CorruptError(f"the manifest has no {what} ({kind})", where=where)
    return Found(layout=3, via="direct", signed=manifest.signed)


def _found_v2(data: bytes, where: str, spec: Spec) -> Found:
    dag_hash, signed = parse_v2_spec(data, where)
    if dag_hash != spec.hash:
        raise CorruptError(f"the metadata is that of another spec, {dag_hash}", where=where)
    return Found(layout=2, via="direct", signed=signed)


def broken_specs(
    url: str, hashes: Collection[str], *, progress: Callable[[str], None]
) -> frozenset[str]:
    """Which of the DAG hashes ``broken-specs-url`` lists: a folder with a file for each.

    As ``check_for_broken_specs`` of Spack 1.1 (``ci/__init__.py``), which ignores http(s) too. A
    folder that is missing lists nothing, where Spack ends with a traceback. Raises StoreError if
    the place cannot be read.
    """
    if url.startswith("http"):
        progress("broken-specs-url: http(s) cannot be listed; ignored, as Spack does")
        return frozenset()
    store = open_store(url)
    try:
        return frozenset(hashes) & frozenset(
            listed.key for listed in store.list() if "/" not in listed.key
        )
    except UnreachableError:
        if isinstance(store, FileStore) and not store.is_there:
            return frozenset()
        raise
    finally:
        store.close()
