"""The index of a mirror as text: made, changed and read without parsing the whole of it.

The text is Spack's database (``database.py`` and ``BuildCacheDatabase`` in
``binary_distribution.py`` of Spack 1.1), with its records sorted by DAG hash and without spaces,
so that the same binaries always give the same bytes, by whatever steps they came. A record is::

    "<hash>":{"spec":<node>,"ref_count":<number>,"in_buildcache":<bool>}

A mirror's binaries have a record, and so has all that they reach. ``ref_count`` tells how many
records depend on one directly, by dependencies of every type (``_TRACKED_DEPENDENCIES``). A second
text, the state, tells where each record lies, and which manifest it was read from.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from stackyard.binary import Metadata
from stackyard.errors import CorruptError, StoreError
from stackyard.lock import Spec
from stackyard.mirror import Layout, parse_json
from stackyard.nodes import Node, compact, make_node

__all__ = [
    "EMPTY",
    "STATE_TYPE",
    "Entry",
    "Gathered",
    "HoleError",
    "IndexView",
    "Rows",
    "State",
    "Table",
    "change",
    "dump_state",
    "parse_state",
    "scan",
]

STATE_TYPE = "application/vnd.stackyard.index-state.v1+json"

_HEAD = b'{"database":{"version":"8","installs":{'
_TAIL = b"}}}"
_COUNT = b',"ref_count":'
_END = re.compile(rb',"ref_count":(\d{1,18}),"in_buildcache":(true|false)\}')
_OTHERWISE = "the index is not what its state says"
_HASH = re.compile(r"[a-z2-7]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: Specfile version → version of the database that holds its nodes.
_DATABASES = {3: "6", 4: "7", 5: "8"}
_SPECFILES = {version: specfile for specfile, version in _DATABASES.items()}


class HoleError(CorruptError):
    """Nobody has the node of a dependency."""

    def __init__(self, dag_hash: str, parent: str) -> None:
        super().__init__(f"{parent} depends on {dag_hash}, of which there is no node")
        self.hash = dag_hash


class Table(NamedTuple):
    """An index: its whole text, the hashes of its records in order, and how long each record is."""

    data: bytes
    hashes: Sequence[str]
    lengths: Sequence[int]

    @property
    def fits(self) -> bool:
        """Whether the lengths could be those of this text."""
        commas = max(len(self.lengths) - 1, 0)
        size = len(_HEAD) + sum(self.lengths) + commas + len(_TAIL)
        return (
            len(self.lengths) == len(self.hashes)
            and size == len(self.data)
            and self.data.startswith(_HEAD)
            and self.data.endswith(_TAIL)
        )


EMPTY = Table(_HEAD + _TAIL, (), ())


class Entry(NamedTuple):
    """Which manifest a binary's record was read from. An empty ``stamp`` is not known."""

    key: str
    stamp: str


class State(NamedTuple):
    """What stands beside an index, so that the next update reads only what changed.

    ``checksum`` is that of the index it belongs to. ``serial`` grows with each update, so that no
    two states are the same. ``superseded`` are blobs that nothing names any more, with the time
    since when, in seconds since the epoch: a reader may still hold the old manifest.
    """

    serial: int
    checksum: str
    hashes: Sequence[str]
    lengths: Sequence[int]
    entries: Mapping[str, Entry]
    superseded: tuple[tuple[str, int], ...] = ()


class _Row:
    """A record that is being changed. ``children`` is None until somebody asks."""

    __slots__ = ("children", "count", "present", "text")

    def __init__(
        self, text: bytes, count: int, *, present: bool, children: tuple[str, ...] | None = None
    ) -> None:
        self.text = text
        self.count = count
        self.present = present
        self.children = children


def change(
    table: Table,
    added: Mapping[str, Node],
    gone: Collection[str] = (),
    find: Callable[[str], Node | None] = lambda _: None,
) -> Table:
    """The index with some binaries more, and without those that are gone.

    What is in neither the index nor ``added`` and has to have a record is asked of ``find``; raises
    HoleError if that knows no answer. Raises CorruptError if the table's lengths are not right.
    """
    edit = _Edit(table, find)
    for dag_hash in gone:
        if dag_hash not in added:
            edit.remove(dag_hash)
    edit.add(added.values())
    return edit.done()


class Rows:
    """The records of an index, found in its text by hash."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.starts = list(accumulate((n + 1 for n in table.lengths), initial=len(_HEAD)))

    def position(self, dag_hash: str) -> tuple[int, bool]:
        """Where a record is or would be, and whether it is there."""
        at = bisect_left(self._table.hashes, dag_hash)
        return at, at < len(self._table.hashes) and self._table.hashes[at] == dag_hash

    def row(self, dag_hash: str) -> _Row | None:
        """Raises CorruptError if the lengths are not those of the text."""
        at, there = self.position(dag_hash)
        if not there:
            return None
        start = self.starts[at]
        record = self._table.data[start : start + self._table.lengths[at]]
        opening = _opening(dag_hash)
        cut = record.rfind(_COUNT)
        match = _END.fullmatch(record, max(cut, 0))
        if not match or not record.startswith(opening):
            raise CorruptError(_OTHERWISE)
        text = record[len(opening) : cut]
        return _Row(text, int(match[1]), present=match[2] == b"true")

    def node(self, dag_hash: str) -> Node | None:
        row = self.row(dag_hash)
        return Node(dag_hash, row.text, _children(row)) if row else None


class _Edit:
    """Rows that change, taken out of the text when they are first asked for."""

    def __init__(self, table: Table, find: Callable[[str], Node | None]) -> None:
        self._table = table
        self._find = find
        self._old = Rows(table)
        self._rows: dict[str, _Row | None] = {}
        self._loose: list[str] = []

    def add(self, nodes: Iterable[Node]) -> None:
        unlinked = []
        for node in nodes:
            row = self._row(node.hash)
            if row is None:
                self._rows[node.hash] = _Row(node.text, 0, present=True, children=node.children)
                unlinked.append(node)
                continue
            row.present = True
            if row.text != node.text:  # an older Spack wrote one of them, or another namespace
                self._release(row)
                row.text, row.children = node.text, node.children
                unlinked.append(node)
        for node in unlinked:
            self._link(node)

    def remove(self, dag_hash: str) -> None:
        row = self._row(dag_hash)
        if row:
            row.present = False
            self._loose.append(dag_hash)

    def done(self) -> Table:
        self._drop()
        pieces: list[bytes | memoryview] = []
        hashes: list[str] = []
        lengths: list[int] = []
        view = memoryview(self._table.data)

        def keep(start: int, end: int) -> None:
            if start < end:
                pieces.extend((b",", view[self._old.starts[start] : self._old.starts[end] - 1]))
                hashes.extend(self._table.hashes[start:end])
                lengths.extend(self._table.lengths[start:end])

        position = 0
        for dag_hash in sorted(self._rows):
            at, there = self._old.position(dag_hash)
            keep(position, at)
            position = at + there
            if row := self._rows[dag_hash]:
                pieces.extend((b",", _record(dag_hash, row)))
                hashes.append(dag_hash)
                lengths.append(len(pieces[-1]))
        keep(position, len(self._table.hashes))
        pieces[:1] = [_HEAD]
        return Table(b"".join([*pieces, _TAIL]), hashes, lengths)

    def _row(self, dag_hash: str) -> _Row | None:
        if dag_hash not in self._rows:
            self._rows[dag_hash] = self._old.row(dag_hash)
        return self._rows[dag_hash]

    def _link(self, parent: Node) -> None:
        """Count the edges of a new row, and give a row to whatever they lead to."""
        pending = [parent]
        while pending:
            node = pending.pop()
            for child in node.children:
                row = self._row(child)
                if row is None:
                    found = self._find(child)
                    if found is None:
                        raise HoleError(child, node.hash)
                    row = _Row(found.text, 0, present=False, children=found.children)
                    self._rows[child] = row
                    pending.append(found)
                row.count += 1

    def _release(self, row: _Row) -> None:
        for child in _children(row):
            if other := self._row(child):
                other.count -= 1
                self._loose.append(child)

    def _drop(self) -> None:
        """Remove rows that are no binaries and that nothing depends on any more."""
        while self._loose:
            dag_hash = self._loose.pop()
            row = self._row(dag_hash)
            if row and not row.present and row.count <= 0:
                self._rows[dag_hash] = None
                self._release(row)


def _opening(dag_hash: str) -> bytes:
    return b'"%b":{"spec":' % dag_hash.encode()


def _record(dag_hash: str, row: _Row) -> bytes:
    present = b"true" if row.present else b"false"
    end = b'%b%d,"in_buildcache":%b}' % (_COUNT, row.count, present)
    return b"".join((_opening(dag_hash), row.text, end))


def _children(row: _Row) -> tuple[str, ...]:
    if row.children is None:
        node = parse_json(row.text, "the index", "record")
        try:
            hashes = dict.fromkeys(edge["hash"] for edge in node.get("dependencies", ()))
            sound = all(map(_HASH.fullmatch, hashes))
        except (AttributeError, KeyError, TypeError):
            sound = False
        if not sound:
            raise CorruptError(_OTHERWISE)
        row.children = tuple(hashes)
    return row.children


def scan(data: bytes, where: str, key_of: Callable[[Spec], str]) -> tuple[Table, dict[str, Entry]]:
    """An index that somebody else wrote, put in order, and an entry for each of its binaries.

    Records that no binary reaches are left out, and ``ref_count`` is counted anew. Raises
    CorruptError naming ``where``, and StoreError for a version that this stackyard does not know.
    """
    view = IndexView(data, where)
    binaries: dict[str, Node] = {}
    others: dict[str, Node] = {}
    entries: dict[str, Entry] = {}
    for dag_hash, raw, present in view.nodes():
        node, spec = make_node({**raw, "hash": dag_hash}, view.specfile, where)
        (binaries if present else others)[dag_hash] = node
        if present:
            entries[dag_hash] = Entry(key_of(spec), "")
    return change(EMPTY, binaries, find=others.get), entries


class IndexView:
    """An index of whatever version, to be looked through without holding all of it as values.

    ``specfile`` is the version of the specfile that its nodes are written in, 3 to 5; ``checksum``
    is the SHA-256 of the text. Raises CorruptError naming ``where``, and StoreError for a version
    that this stackyard does not know.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self._where = where
        self._records = _records(data, where)
        version = next(self._records)
        if version not in _SPECFILES:
            known = ", ".join(_SPECFILES)
            raise StoreError(
                f"the index has version {str(version)[:20]!r}; this stackyard reads {known}",
                where=where,
                hint="a newer Spack wrote it: update stackyard",
            )
        self.specfile = _SPECFILES[version]
        self.checksum = hashlib.sha256(data).hexdigest()

    def nodes(self) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
        """DAG hash, node, and whether there is a binary of it; once only, in the text's order."""
        for dag_hash, record in self._records:
            try:
                node, present = record["spec"], record.get("in_buildcache") is True
            except (KeyError, TypeError, AttributeError):
                node, present = None, False
            if not isinstance(node, dict) or not _HASH.fullmatch(dag_hash):
                raise CorruptError(f"the record {dag_hash[:40]!r} is none", where=self._where)
            yield dag_hash, node, present


_BEGIN = re.compile(
    r'\s*\{\s*"database"\s*:\s*\{\s*"version"\s*:\s*"(\d{1,9})"\s*,\s*"installs"\s*:\s*\{'
)
_KEY = re.compile(r'\s*"([^"\\]*)"\s*:\s*')
_NEXT = re.compile(r"\s*([,}])")


def _records(data: bytes, where: str) -> Iterator[Any]:
    """First the version, then pairs of hash and record."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise CorruptError(f"the index is not JSON ({error})", where=where) from None
    begin = _BEGIN.match(text)
    if begin:
        yield begin[1]
        yield from _one_by_one(text, begin.end(), where)
        return
    document = parse_json(data, where, "index", rest=True)  # in an order that Spack never writes
    try:
        yield str(document["database"]["version"])
        yield from document["database"]["installs"].items()
    except (KeyError, TypeError, AttributeError):
        raise CorruptError("the index has not the shape of one", where=where) from None


def _one_by_one(text: str, position: int, where: str) -> Iterator[tuple[str, Any]]:
    parse = json.JSONDecoder().raw_decode
    end = _NEXT.match(text, position)
    while not (end and end[1] == "}"):
        key = _KEY.match(text, position)
        try:
            value, position = parse(text, key.end() if key else position)
        except (ValueError, RecursionError) as error:
            raise CorruptError(f"the index is cut off or not JSON ({error})", where=where) from None
        end = _NEXT.match(text, position)
        if not key or not end:
            raise CorruptError("the index is cut off or not JSON", where=where)
        yield key[1], value
        position = end.end()


class Gathered:
    """Binaries that somebody just read or wrote, as nodes for ``change``.

    ``entries`` say where ``key_of`` puts their manifests. Everything is kept as text, and of the
    nodes that come with each binary one of each hash: there may be very many.
    """

    def __init__(
        self, metadata: Iterable[Metadata], key_of: Callable[[Spec], str], where: str
    ) -> None:
        """Raises CorruptError naming ``where`` for metadata of another shape or a wrong hash."""
        self._where = where
        self._own: dict[str, tuple[Node, int]] = {}
        self._others: dict[str, tuple[bytes, int]] = {}
        self.entries: dict[str, Entry] = {}
        for one in metadata:
            own, spec = make_node(one.nodes[0], one.format, where, one.format)
            self._own[own.hash] = (own, one.format)
            self.entries[own.hash] = Entry(key_of(spec), "")
            for node in one.nodes[1:]:
                dag_hash = str(node.get("hash"))
                if dag_hash not in self._others:
                    self._others[dag_hash] = (compact(node), one.format)
        formats = {number for _, number in (*self._own.values(), *self._others.values())}
        self._newest = max(formats, default=5)

    def table(self, layout: Layout) -> Table:
        """A whole index. That of layout 2 is no newer than its nodes: old Spacks read it."""
        wanted = self._newest if layout == 2 else 5
        table = change(EMPTY, self.added(wanted), find=lambda key: self.find(key, wanted))
        old, new = (b'"version":"%b"' % _DATABASES[one].encode() for one in (5, wanted))
        return table._replace(data=table.data.replace(old, new, 1))

    def added(self, wanted: int = 5) -> dict[str, Node]:
        """The binaries' own nodes, by DAG hash, in that version of the specfile."""
        return {
            key: node if number >= wanted else self._renewed(node.text, number, wanted)
            for key, (node, number) in self._own.items()
        }

    def find(self, dag_hash: str, wanted: int = 5) -> Node | None:
        """One of the other nodes. Raises CorruptError as the constructor does."""
        if dag_hash not in self._others:
            return None
        return self._renewed(*self._others[dag_hash], wanted)

    def _renewed(self, text: bytes, specfile: int, wanted: int) -> Node:
        return make_node(json.loads(text), specfile, self._where, wanted)[0]


def dump_state(state: State) -> bytes:
    """JSON; a record to each list: hash, length, and for a binary its manifest's key and stamp."""
    nothing = Entry("", "")
    records = [
        (dag_hash, length, *state.entries.get(dag_hash, nothing))
        for dag_hash, length in zip(state.hashes, state.lengths, strict=True)
    ]
    document = {
        "version": 1,
        "serial": state.serial,
        "index": state.checksum,
        "superseded": state.superseded,
        "records": records,
    }
    return compact(document)


def parse_state(data: bytes, where: str) -> State:
    """What ``dump_state`` wrote. Raises CorruptError naming ``where``."""
    document = parse_json(data, where, "state of the index")
    try:
        if document["version"] != 1:
            raise CorruptError("the state of the index is of another stackyard", where=where)
        records = document["records"]
        state = State(
            serial=int(document["serial"]),
            checksum=str(document["index"]),
            hashes=[record[0] for record in records],
            lengths=[record[1] for record in records],
            entries={record[0]: Entry(record[2], record[3]) for record in records if record[2]},
            superseded=tuple((str(sum_), int(time)) for sum_, time in document["superseded"]),
        )
        sound = _sound(state)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        sound = False
    if not sound:
        raise CorruptError("the state of the index has another shape", where=where)
    return state


def _sound(state: State) -> bool:
    """Whether all values are of their types, and in order."""
    texts = (text for entry in state.entries.values() for text in entry)
    return (
        set(map(type, state.hashes)) <= {str}
        and set(map(type, texts)) <= {str}
        and all(type(length) is int and length > 0 for length in state.lengths)
        and all(_SHA256.fullmatch(checksum) for checksum, _ in state.superseded)
        and sorted(set(state.hashes)) == state.hashes
    )
