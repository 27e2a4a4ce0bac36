"""An index as a mirror publishes it: two blobs, and one manifest that names them.

The manifest is the only thing that is ever written over, and conditionally: index and state change
together or not at all, and of two writers with the same base only one gets through. Spack 1.1
takes the manifest's first record of an index's type (``get_blob_records``) and does not mind ours
beside it; its ``buildcache prune`` keeps every blob that a manifest names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from stackyard.binary import dump_manifest
from stackyard.edges.mirrors.layouts import manifest_keys
from stackyard.edges.stores.store import INDEX_BYTES, Store, WritableStore
from stackyard.errors import ConflictError, CorruptError, NotFoundError, StoreError
from stackyard.index import (
    EMPTY,
    STATE_TYPE,
    Entry,
    Rows,
    State,
    Table,
    dump_state,
    parse_state,
    scan,
)
from stackyard.lock import Spec
from stackyard.mirror import (
    INDEX_MANIFEST,
    INDEX_TYPE,
    Layout,
    Record,
    blob_key,
    parse_manifest,
)
from stackyard.nodes import Node
from stackyard.oci import (
    INDEX_TAG,
    Descriptor,
    digest_key,
    index_manifest,
    manifest_key,
    parse_image,
)

__all__ = ["Form", "Published", "Publisher", "form_of", "key_of", "load", "read_blob", "record_of"]

#: A reader that began with the old manifest has so long to fetch what it names.
_GRACE_S = 3600
_NO_CONFIG = b"{}"
#: Longer than any writer takes between its look and its write, where the two are not one.
_SETTLE_S = 1.0


class Form(NamedTuple):
    """How the manifest of an index looks in a layout, and under which key it is.

    ``parse`` gives the records of index and state; it raises CorruptError, and StoreError for the
    index of a Spack that this stackyard does not know. ``blobs`` are named by every such manifest.
    """

    layout: Layout
    key: str
    parse: Callable[[bytes, str], tuple[Record, Record | None]]
    dump: Callable[[Record, Record], bytes]
    blobs: tuple[bytes, ...] = ()


def form_of(store: Store) -> Form:
    """The form of an index that is written to this store."""
    if store.url.startswith(("oci://", "oci+http://")):
        return Form("oci", manifest_key(INDEX_TAG), _parse_image, _dump_image, (_NO_CONFIG,))
    return Form(3, INDEX_MANIFEST, _parse, _dump)


def _parse(data: bytes, where: str) -> tuple[Record, Record | None]:
    manifest = parse_manifest(data, where)
    index = manifest.record(INDEX_TYPE)
    if index:
        return index, manifest.record(STATE_TYPE)
    if other := manifest.index_record:
        raise StoreError(
            f"the index is of another Spack: {other.media_type}",
            where=where,
            hint="update stackyard; or remove this manifest, and the index is made anew",
        )
    raise CorruptError("the manifest names no index", where=where)


def _dump(index: Record, state: Record) -> bytes:
    return dump_manifest([index, state])


def _parse_image(data: bytes, where: str) -> tuple[Record, Record | None]:
    index, *others = parse_image(data, where).layers
    state = next((layer for layer in others if layer.media_type == STATE_TYPE), None)
    return _layer(index), state and _layer(state)


def _layer(layer: Descriptor) -> Record:
    return Record(
        media_type=layer.media_type,
        size_bytes=layer.size_bytes,
        compression="none",
        checksum=layer.checksum,
    )


def _dump_image(index: Record, state: Record) -> bytes:
    layers = [Descriptor(one.media_type, one.checksum, one.size_bytes) for one in (index, state)]
    return index_manifest(_NO_CONFIG, layers[0], layers[1:])


def key_of(layout: Layout) -> Callable[[Spec], str]:
    """Gives the key that a spec's manifest has to have."""
    return lambda spec: manifest_keys(spec, layout, {})[0]


def record_of(media_type: str, data: bytes) -> Record:
    """The record of a blob that is not packed."""
    return Record(
        media_type=media_type,
        size_bytes=len(data),
        compression="none",
        checksum=hashlib.sha256(data).hexdigest(),
    )


def read_blob(store: Store, record: Record) -> bytes:
    """A blob, checked. Raises NotFoundError and CorruptError."""
    key = blob_key(record)
    data = store.read(key, max_bytes=min(record.size_bytes, INDEX_BYTES))
    if len(data) != record.size_bytes or hashlib.sha256(data).hexdigest() != record.checksum:
        raise CorruptError("the blob is not what its manifest says", where=f"{store.url}/{key}")
    return data


class Published:
    """The index as it was published at one moment.

    ``version`` is that of the manifest, None where there is none. ``entries`` are the binaries that
    it names, by DAG hash. ``damage`` says what is wrong with an index that cannot be used.
    """

    def __init__(self, store: Store, form: Form, version: str | None = None) -> None:
        self._store = store
        self.form = form
        self.version = version
        self.index: Record | None = None
        self.state: State | None = None
        self.blobs: tuple[str, ...] = ()
        self.entries: Mapping[str, Entry] = {}
        self.damage = ""
        self._table: Table | None = None
        self._rows: Rows | None = None

    @property
    def table(self) -> Table:
        """The text of the index, read when it is first asked for. Raises CorruptError."""
        if self.damage:
            raise CorruptError(self.damage, where=f"{self._store.url}/{self.form.key}")
        if self._table is None:
            self._table = EMPTY if self.index is None else self._read()
        return self._table

    def node(self, dag_hash: str) -> Node | None:
        """The node of a record, whether there is a binary of it or not."""
        if self._rows is None:
            self._rows = Rows(self.table)
        return self._rows.node(dag_hash)

    def holds(self, data: bytes) -> bool:
        """Whether the index is just this text, and was seen to be."""
        # Without a state the table is that text put in order, and no more the text itself.
        return self.state is not None and self._table is not None and self._table.data == data

    def says(self, data: bytes) -> bool:
        """Whether the index is just this text; it is read for that."""
        if self.damage or not self.index or not self.state:
            return False
        if self._table is None and self.index.checksum == hashlib.sha256(data).hexdigest():
            with suppress(CorruptError):
                return self.table.data == data
        return self.holds(data)

    def _read(self) -> Table:
        assert self.index  # noqa: S101 - both callers saw it
        where = f"{self._store.url}/{self.form.key}"
        try:
            data = read_blob(self._store, self.index)
        except NotFoundError:
            raise CorruptError("it names an index that is not there", where=where) from None
        if self.state is None:
            table, self.entries = scan(data, where, key_of(self.form.layout))
            return table
        table = Table(data, self.state.hashes, self.state.lengths)
        if not table.fits:
            raise CorruptError("the state is not that of the index", where=where)
        return table

    def take_in(self, data: bytes) -> None:
        """Look at the manifest, and at the state that it names."""
        where = f"{self._store.url}/{self.form.key}"
        self.index, state = self.form.parse(data, where)
        self.blobs = tuple(record.checksum for record in (self.index, state) if record)
        if state:
            with suppress(NotFoundError, CorruptError):  # it only spares us work
                found = parse_state(read_blob(self._store, state), where)
                if found.checksum == self.index.checksum:
                    self.state = found
                    self.entries = found.entries
        if self.state is None:
            self._table = self._read()


def load(store: WritableStore, form: Form) -> Published:
    """What is published now. Raises StoreError if the place fails, or for a newer Spack's index."""
    try:
        manifest = store.read_version(form.key)
    except NotFoundError:
        return Published(store, form)
    published = Published(store, form, manifest.version)
    try:
        published.take_in(manifest.data)
    except CorruptError as error:
        published.damage = error.message
    return published


class Publisher:
    """Puts indices in the place of others; remembers the blobs of attempts that were too late."""

    def __init__(
        self,
        store: WritableStore,
        form: Form,
        now: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._store = store
        self._form = form
        self._now = now
        self._sleep = sleep
        self._wasted: list[str] = []

    def publish(self, base: Published, table: Table, entries: Mapping[str, Entry]) -> str:
        """Replace ``base``; gives the index's checksum. Raises ConflictError if others did so."""
        index = record_of(INDEX_TYPE, table.data)
        unused = self._unused(base)
        state = State(
            serial=base.state.serial + 1 if base.state else 1,
            checksum=index.checksum,
            hashes=table.hashes,
            lengths=table.lengths,
            entries=entries,
            superseded=self._resting(unused, index.checksum),
        )
        data = dump_state(state)
        record = record_of(STATE_TYPE, data)
        for blob in self._form.blobs if base.version is None else ():
            self._store.write(blob_key(record_of("", blob)), blob)
        if not base.holds(table.data):
            self._store.write(blob_key(index), table.data)
        self._store.write(blob_key(record), data)
        try:
            self._swap(base, self._form.dump(index, record))
        except ConflictError:
            self._wasted += [index.checksum, record.checksum]
            raise
        self._clear(unused.keys() - dict(state.superseded).keys() - {index.checksum})
        return index.checksum

    def _unused(self, base: Published) -> dict[str, int]:
        """Blobs that nothing names from now on, and since when; a registry clears its own."""
        if self._form.layout == "oci":
            return {}
        since = int(self._now())
        old = dict(base.state.superseded) if base.state else {}
        return {**old, **dict.fromkeys((*base.blobs, *self._wasted), since)}

    def _resting(self, unused: Mapping[str, int], index: str) -> tuple[tuple[str, int], ...]:
        """Those of them that some reader may still want."""
        end = self._now() - _GRACE_S
        return tuple((one, since) for one, since in unused.items() if since > end and one != index)

    def _swap(self, base: Published, manifest: bytes) -> None:
        key = self._form.key
        if base.version is None:
            self._store.create(key, manifest)
        else:
            self._store.replace(key, manifest, base.version)
        if self._store.atomic:
            return
        self._sleep(_SETTLE_S)
        if self._store.read(key) != manifest:
            raise ConflictError("somebody else wrote it too", where=f"{self._store.url}/{key}")

    def _clear(self, checksums: Iterable[str]) -> None:
        """Remove blobs. Where we may not, they stay: the index itself is published."""
        for checksum in checksums:
            with suppress(StoreError):
                self._store.delete(digest_key(checksum))
