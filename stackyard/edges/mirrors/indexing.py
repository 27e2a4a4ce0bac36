"""Bring a mirror's index up to date: at the cost of what changed, and beside other writers.

A listing tells which manifests are new, changed or gone since they were last read; only those are
read, and checked while they are. The order matters: what is published is read before the mirror is
listed, and somebody who pushes publishes after the manifest lies there. So whatever stood in the
index before and is not in the listing was really removed, and whatever came into the index since
is left alone. Whoever removes binaries publishes after that, so that who has read them before then
looks again. Spack 1.1 (``_url_generate_package_index`` in ``binary_distribution.py``) does it all
anew each time, without looking who else is writing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple, TypeVar

from stackyard.binary import Metadata, dump_manifest
from stackyard.edges.mirrors.keyindex import write_key_index
from stackyard.edges.mirrors.layouts import layouts_of, list_manifests
from stackyard.edges.mirrors.published import (
    Published,
    Publisher,
    form_of,
    key_of,
    load,
    read_blob,
    record_of,
)
from stackyard.edges.mirrors.survey import Survey, compare, survey
from stackyard.edges.parallel import Tick, parallel_map
from stackyard.edges.stores.counted import Counted
from stackyard.edges.stores.store import INDEX_BYTES, Store, WritableStore
from stackyard.errors import ConflictError, CorruptError, NotFoundError
from stackyard.index import EMPTY, Entry, Gathered, IndexView, Table, change
from stackyard.mirror import (
    INDEX_MANIFEST,
    INDEX_TYPE,
    LAYOUT_JSON,
    LAYOUT_MARKER,
    V2_INDEX,
    V2_INDEX_HASH,
    Layout,
    blob_key,
    parse_manifest,
)
from stackyard.nodes import Node

__all__ = [
    "IndexReport",
    "add_to_index",
    "check_index",
    "read_index",
    "remove_from_index",
    "update_index",
    "write_index",
    "write_key_index",
]

Result = TypeVar("Result")
Progress = Callable[[str], None]

#: Text and entries of an index.
Merged = tuple[Table, Mapping[str, Entry]]

_TRIES = 30
_LONGEST_WAIT_S = 3.0
#: From so many manifests on people want to know what takes its time.
_MANY = 1000
#: More manifests than this are sooner listed than asked for one by one.
_FEW = 200
_WORKERS = 32


def _quiet(_: str) -> None:
    pass


def _still(done: int, total: int) -> None:
    pass


class IndexReport(NamedTuple):
    """What was done; or by ``check_index``, what there would be to do. All are keys of manifests.

    ``named`` is how many binaries the index names. ``problems`` tells of each corrupt entry, which
    the index does not name, what is wrong with it.
    """

    named: int
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    problems: Mapping[str, str] = {}
    written: bool = False
    checksum: str = ""
    requests: int = 0

    @property
    def stale(self) -> bool:
        return bool(self.added or self.changed or self.gone)


def update_index(  # noqa: PLR0913 - passed by name
    store: WritableStore,
    *,
    full: bool = False,
    workers: int = 0,
    progress: Progress = _quiet,
    tick: Tick = _still,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> IndexReport:
    """Make the index say what the mirror holds; with ``full``, whatever it said before.

    Corrupt entries are left out and reported. Raises StoreError if the place fails, and
    ConflictError if others never stop to write.
    """
    job = _Job(store, _Ways(progress, now, sleep, workers, tick))
    return job.sure(lambda: job.update(full=full))


def add_to_index(
    store: WritableStore,
    metadata: Iterable[Metadata],
    *,
    progress: Progress = _quiet,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> IndexReport:
    """Name binaries that were just put on the mirror, at a constant number of requests.

    They must lie there already. A mirror without an index gets a whole one. Raises CorruptError for
    metadata of another shape, and otherwise as ``update_index`` does.
    """
    job = _Job(store, _Ways(progress, now, sleep))
    gathered = Gathered(metadata, key_of(job.form.layout), store.url)
    return job.sure(lambda: job.add(gathered))


def remove_from_index(  # noqa: PLR0913 - passed by name
    store: WritableStore,
    hashes: Collection[str],
    *,
    anyhow: bool = False,
    progress: Progress = _quiet,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> IndexReport:
    """Name these binaries no more, at a constant number of requests. They may still lie there.

    With ``anyhow`` an index is published even if it names none of them: whoever has read one while
    it still lay there, and is about to publish that, has to look again. Raises as ``update_index``
    does.
    """
    job = _Job(store, _Ways(progress, now, sleep))
    return job.sure(lambda: job.remove(frozenset(hashes), anyhow=anyhow), again=True)


class _Ways(NamedTuple):
    """How a job tells of itself, waits and works; 0 workers are as many as fit the place."""

    progress: Progress = _quiet
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    workers: int = 0
    tick: Tick = _still


class _Job:
    """One change of one mirror's index: loaded, merged, published, and again if it was too late."""

    def __init__(self, store: WritableStore, ways: _Ways) -> None:
        self.store = Counted(store)
        self.form = form_of(store)
        self._ways = ways
        self._publisher = Publisher(self.store, self.form, ways.now, ways.sleep)

    def _survey(self, base: Published, *, full: bool) -> Survey:
        """Read what the entries of ``base`` do not vouch for, or all; its records stay or do not."""
        differences = compare(self.store, self.form.layout, {} if full else base.entries)
        if len(differences.fresh) >= _MANY:
            self._ways.progress(f"reading {len(differences.fresh):,} manifests")
        # Nobody needs the text of the index as long as there is nothing to read.
        stays = differences.fresh and not full
        return survey(
            self.store,
            self.form.layout,
            differences,
            recorded=frozenset(base.table.hashes if stays else ()),
            workers=self._ways.workers,
            tick=self._ways.tick,
            now=self._ways.now(),
        )

    def sure(self, work: Callable[[], IndexReport], *, again: bool = False) -> IndexReport:
        """Do it. If what is there proves unusable, make the index anew, and perhaps do it then."""
        try:
            return work()
        except CorruptError as error:
            self._ways.progress(f"the index is made anew: {error.message}")
            report = self.update(full=True)
        return work() if again else report

    def update(self, *, full: bool) -> IndexReport:
        first = load(self.store, self.form)
        if first.damage and not full:
            raise CorruptError(first.damage)
        found = self._survey(first, full=full)
        old = first.entries
        merge = self._rebuilt if full else self._updated
        report, entries = self._published(first, lambda base: merge(first, found, base))
        there = [(key, one) for key, one in found.entries.items() if key in entries]
        return report._replace(
            added=tuple(one.key for key, one in there if key not in old),
            changed=tuple(one.key for key, one in there if _moved(old.get(key), one)),
            gone=tuple(one.key for key, one in old.items() if key not in entries),
            problems=found.problems,
            requests=self.store.requests,
        )

    def _updated(self, first: Published, found: Survey, base: Published) -> Merged | None:
        """What somebody published since ``first`` stays, but for what is certainly gone."""
        gone = self._confirmed(_unlisted(first, found), found, base)
        mine = found.entries
        if base is not first:
            _still_there(base)
            mine = self._lasting(found, base)
        entries = {key: one for key, one in base.entries.items() if key not in gone}
        entries.update(mine)
        if base.state and entries == base.entries:
            return None
        nodes = {key: found.nodes[key] for key in mine}
        return change(base.table, nodes, gone, _either(found.find, first.node)), entries

    def _rebuilt(self, first: Published, found: Survey, base: Published) -> Merged | None:
        """Only what was read, and what somebody published since ``first``."""
        theirs: dict[str, Entry] = {}
        mine = found.entries
        if base is not first and not base.damage:
            others = {key: one for key, one in base.entries.items() if key not in found.entries}
            old = {key: one for key, one in first.entries.items() if key in others}
            gone = self._confirmed(old, found, base)
            theirs = {key: one for key, one in others.items() if key not in gone}
            mine = self._lasting(found, base)
        nodes = {key: node for key in theirs if (node := base.node(key))}
        nodes.update((key, found.nodes[key]) for key in mine)
        find = _either(found.find, base.node) if theirs else found.find
        table = change(EMPTY, nodes, find=find)
        entries = {**theirs, **mine}
        if entries == base.entries and base.says(table.data):
            return None
        return table, entries

    def _confirmed(
        self, suspects: Mapping[str, Entry], found: Survey, base: Published
    ) -> Mapping[str, Entry]:
        """Those of these entries of old that must go.

        A listing may lack what is there, and somebody may have put it back meanwhile.
        """
        same = {key: one for key, one in suspects.items() if base.entries.get(key) == one}
        there = self._there(one.key for one in same.values() if one.key not in found.problems)
        return {key: one for key, one in same.items() if one.key not in there}

    def _lasting(self, found: Survey, base: Published) -> Mapping[str, Entry]:
        """What was read, but for what somebody removed meanwhile, manifest and all."""
        there = self._there(
            one.key for key, one in found.entries.items() if key not in base.entries
        )
        return {
            key: one
            for key, one in found.entries.items()
            if key in base.entries or one.key in there
        }

    def _there(self, keys: Iterable[str]) -> frozenset[str]:
        """Those of the manifests that lie there now: a few are asked for, many are listed."""
        wanted = tuple(keys)
        if len(wanted) > _FEW:
            listed = list_manifests(self.store, self.form.layout)
            return frozenset(one.key for _, one in listed).intersection(wanted)
        answers = parallel_map(self.store.exists, wanted, workers=_WORKERS)
        return frozenset(key for key, there in zip(wanted, answers, strict=True) if there)

    def add(self, gathered: Gathered) -> IndexReport:
        first = load(self.store, self.form)
        if first.version is None:
            return self.update(full=False)
        nodes = gathered.added()

        def merge(base: Published) -> Merged | None:
            _still_there(base)
            # Where nobody is refused, whoever wrote over us may have merged us in.
            merged = base is not first and not self.store.atomic
            if not nodes or (merged and base.entries.items() >= gathered.entries.items()):
                return None
            # Published even if all of it is known: whoever is about to remove one of these
            # because it was gone for a moment must see that something happened.
            entries = {**base.entries, **gathered.entries}
            return change(base.table, nodes, find=gathered.find), entries

        report, _ = self._published(first, merge)
        new = (one.key for key, one in gathered.entries.items() if key not in first.entries)
        return report._replace(added=tuple(new))

    def remove(self, hashes: frozenset[str], *, anyhow: bool) -> IndexReport:
        first = load(self.store, self.form)

        def merge(base: Published) -> Merged | None:
            if base.damage:
                raise CorruptError(base.damage)
            gone = base.entries.keys() & hashes
            if base.version is None or not (gone or anyhow):
                return None
            entries = {key: one for key, one in base.entries.items() if key not in gone}
            return change(base.table, {}, gone), entries

        report, _ = self._published(first, merge)
        gone = (one.key for key, one in first.entries.items() if key in hashes)
        return report._replace(gone=tuple(gone))

    def check(self, *, full: bool) -> IndexReport:
        base = load(self.store, self.form)
        if base.version is None and not full:
            fresh = compare(self.store, self.form.layout, {}).fresh
            added = tuple(listed.key for _, listed in fresh)
            return self._report({}, "", written=False)._replace(added=added)
        base.table  # noqa: B018 - reading it checks it
        found = self._survey(base, full=full)
        old = base.entries
        return self._report(old, base.index.checksum if base.index else "", written=False)._replace(
            added=tuple(one.key for key, one in found.entries.items() if key not in old),
            changed=tuple(
                one.key
                for key, one in found.entries.items()
                if key in old and base.node(key) != found.nodes[key]
            ),
            gone=tuple(
                one.key for one in self._confirmed(_unlisted(base, found), found, base).values()
            ),
            problems=found.problems,
        )

    def _published(
        self, first: Published, merge: Callable[[Published], Merged | None]
    ) -> tuple[IndexReport, Mapping[str, Entry]]:
        """Publish what ``merge`` makes of what is there, until nobody comes in between."""
        base = first
        for number in range(_TRIES):
            if number:
                self._wait(number)
                base = load(self.store, self.form)
            merged = merge(base)
            if merged is None:
                checksum = base.index.checksum if base.index else ""
                return self._report(base.entries, checksum, written=False), base.entries
            table, entries = merged
            if not number:
                self._prepare(base)
            try:
                checksum = self._publisher.publish(base, table, entries)
            except ConflictError:
                continue
            return self._report(entries, checksum, written=True), entries
        raise ConflictError(
            f"{_TRIES} times somebody else wrote the index first",
            where=f"{self.store.url}/{self.form.key}",
            hint="let fewer jobs write it at once, or one after all of them",
        )

    def _wait(self, number: int) -> None:
        longest = min(_LONGEST_WAIT_S, 0.05 * 2**number)
        self._ways.sleep(random.uniform(longest / 4, longest))  # noqa: S311 - only to part the writers

    def _prepare(self, base: Published) -> None:
        """Say what cannot be helped, and leave the file that Spack knows layout 3 by."""
        if not self.store.atomic:
            self._ways.progress(
                "this place cannot write on condition: "
                "what others write into its index at the same moment may get lost"
            )
        if base.version is None and self.form.layout == 3 and not self.store.exists(LAYOUT_MARKER):
            self.store.write(LAYOUT_MARKER, LAYOUT_JSON)

    def _report(self, entries: Mapping[str, Entry], checksum: str, *, written: bool) -> IndexReport:
        return IndexReport(
            named=len(entries), written=written, checksum=checksum, requests=self.store.requests
        )


def _either(
    first: Callable[[str], Node | None], second: Callable[[str], Node | None]
) -> Callable[[str], Node | None]:
    return lambda key: first(key) or second(key)


def _unlisted(base: Published, found: Survey) -> Mapping[str, Entry]:
    """Entries of binaries that were not found, or are corrupt."""
    return {
        key: one
        for key, one in base.entries.items()
        if key not in found.same and key not in found.nodes
    }


def _still_there(base: Published) -> None:
    if base.version is None:
        raise CorruptError("somebody removed it")


def _moved(old: Entry | None, new: Entry) -> bool:
    """Whether a manifest changed; where a stamp is not known, nobody can tell."""
    return bool(old and old != new and old.stamp and new.stamp)


def check_index(
    store: WritableStore, *, full: bool = False, workers: int = 0, tick: Tick = _still
) -> IndexReport:
    """Compare index and contents both ways; nothing is written.

    ``added`` are there and not named, ``gone`` are named and not there, ``changed`` are not what the
    index says. What is corrupt is rightly not named. With ``full`` everything is read, else only
    what the stamps do not vouch for, and nothing where there is no index. Raises CorruptError if
    there is an index that cannot be used.
    """
    return _Job(store, _Ways(workers=workers, tick=tick)).check(full=full)


def write_index(store: WritableStore, metadata: Iterable[Metadata], layout: Layout = 3) -> str:
    """Write an index of just these binaries, without a state; gives its checksum.

    The same binaries give the same files, and an older index leaves nothing behind: this is for
    folders that were filled in one go. Raises CorruptError for metadata of another shape.
    """
    data = Gathered(metadata, key_of(layout), store.url).table(layout).data
    index = record_of(INDEX_TYPE, data)
    if layout == 2:
        store.write(V2_INDEX, data)
        store.write(V2_INDEX_HASH, index.checksum.encode())
        return index.checksum
    old: set[str] = set()
    with suppress(NotFoundError, CorruptError):
        manifest = parse_manifest(store.read(INDEX_MANIFEST), INDEX_MANIFEST)
        old = {blob_key(record) for record in manifest.records}
    store.write(LAYOUT_MARKER, LAYOUT_JSON)
    store.write(blob_key(index), data)
    store.write(INDEX_MANIFEST, dump_manifest([index]))
    for key in old - {blob_key(index)}:
        store.delete(key)
    return index.checksum


def read_index(store: Store, layout: Layout | None = None) -> IndexView | None:
    """The index of a mirror, checked against its checksum; None if it has none.

    Without a layout, that of the newest layout that has one. Raises CorruptError, and StoreError
    for a version that this stackyard does not know.
    """
    for one in (layout,) if layout else layouts_of(store):
        try:
            return _read_v2(store) if one == 2 else _read_index(store)
        except NotFoundError:
            continue
    return None


def _read_index(store: Store) -> IndexView:
    form = form_of(store)
    where = f"{store.url}/{form.key}"
    index, _ = form.parse(store.read(form.key), where)
    try:
        return IndexView(read_blob(store, index), where)
    except NotFoundError:
        raise CorruptError("it names an index that is not there", where=where) from None


def _read_v2(store: Store) -> IndexView:
    view = IndexView(store.read(V2_INDEX, max_bytes=INDEX_BYTES), f"{store.url}/{V2_INDEX}")
    with suppress(NotFoundError):
        wanted = store.read(V2_INDEX_HASH).decode("ascii", "replace").strip()
        if wanted != view.checksum:
            raise CorruptError(f"its checksum is not that of {V2_INDEX_HASH}", where=store.url)
    return view
