"""``mirror.verify --repair``: remove what is surely broken, and make lists anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from stackyard.edges import console
from stackyard.edges.stores.store import Listed, Store, WritableStore, writable
from stackyard.errors import CorruptError

if TYPE_CHECKING:
    from stackyard.binary import Binary
    from stackyard.flow.verify import Result
    from stackyard.verify import Fault

__all__ = ["Mended", "mend"]


class Mended(NamedTuple):
    """The faults that are left, and a line for each thing that was done."""

    faults: tuple[Fault, ...]
    done: tuple[str, ...]


class _Sure(NamedTuple):
    """What was still broken at a second look: keys of manifests, blobs that are not as they say."""

    manifests: tuple[tuple[str, str], ...]  # DAG hash and key
    blobs: tuple[str, ...]


def mend(store: Store, results: Sequence[Result]) -> Mended:
    """Mend each layout. Whatever is not known, or was changed in the meantime, is left alone."""
    target = writable(store)
    mended = [_mend_layout(target, result) for result in results]
    return Mended(
        faults=tuple(fault for one in mended for fault in one.faults),
        done=tuple(line for one in mended for line in one.done),
    )


def _mend_layout(store: WritableStore, result: Result) -> Mended:
    from stackyard.edges.mirrors.removing import delete_keys, remove_binaries

    sure = _look_again(store, result)
    gone = {key: dag_hash for dag_hash, key in sure.manifests}
    kept = [one for one in result.manifests.binaries if one.key not in gone]
    broken_index = any(fault.kind == "index-broken" for fault in result.faults)
    done: list[str] = []
    if gone and broken_index:  # it names nothing that anybody could use, and is made anew below
        delete_keys(store, sorted(gone))
    elif gone:
        remove_binaries(store, result.layout, gone, kept)
    done += (f"removed {key}" for key in sorted(gone))
    named = {blob.key for one in kept for blob in one.blobs}
    wrong = sorted(set(sure.blobs) - named)
    delete_keys(store, wrong)
    done += (f"removed {key}" for key in wrong)
    kinds = {fault.kind for fault in result.faults if fault.kind.startswith(("index", "key-index"))}
    done += _make_lists(store, result, kept, kinds)
    for line in done:
        console.note(line)
    left = (
        fault
        for fault in result.faults
        if fault.kind not in kinds and fault.manifest not in gone and fault.key not in gone
    )
    return Mended(tuple(left), tuple(done))


def _look_again(store: Store, result: Result) -> _Sure:
    """The faults that are still there: somebody may have mended them, or pushed anew."""
    from stackyard.edges.mirrors.contents import read_manifests
    from stackyard.edges.mirrors.verifying import check_binaries
    from stackyard.verify import FATAL

    suspects = {
        fault.manifest: fault.hash
        for fault in result.faults
        if fault.kind in FATAL and fault.manifest
    }
    entries = [(dag_hash, Listed(key, 0, 0.0, "")) for key, dag_hash in suspects.items()]
    again = read_manifests(store, result.layout, entries=entries)
    seen = check_binaries(store, again.binaries, workers=8)
    sure = {
        key: suspects[key]
        for key, error in again.problems.items()
        if isinstance(error, CorruptError)
    }
    fatal = [fault for fault in seen.faults if fault.kind in FATAL]
    sure.update((fault.manifest, fault.hash) for fault in fatal)
    return _Sure(
        manifests=tuple((dag_hash, key) for key, dag_hash in sure.items()),
        blobs=tuple({fault.key for fault in fatal if fault.kind == "blob"}),
    )


def _make_lists(
    store: WritableStore, result: Result, kept: Sequence[Binary], kinds: set[str]
) -> list[str]:
    from stackyard.edges.mirrors.others import index_key, listed_keys
    from stackyard.edges.mirrors.removing import write_v2_index, write_v2_keys

    done = []
    if kinds & {"index", "index-broken"}:
        if result.layout == 2:
            write_v2_index(store, kept)
        else:
            from stackyard.edges.mirrors.indexing import update_index

            update_index(store, full="index-broken" in kinds)
        done.append(f"made {index_key(result.layout)} anew")
    if "key-index" in kinds:
        if result.layout == 2:
            write_v2_keys(store, listed_keys(store, 2))
        else:
            from stackyard.edges.mirrors.indexing import write_key_index

            write_key_index(store)
        done.append("made the list of keys anew")
    return done
