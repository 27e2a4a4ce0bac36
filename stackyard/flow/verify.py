"""``mirror.verify``: read a whole mirror, say what is wrong with it, and mend what is safe to."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from stackyard.edges import console
from stackyard.edges.stores.store import writable
from stackyard.errors import (
    CorruptError,
    NotFoundError,
    StackyardError,
    StaleError,
    StoreError,
    ToolError,
)
from stackyard.settings import Settings, make_settings

if TYPE_CHECKING:
    from stackyard.edges.mirrors.contents import Manifests
    from stackyard.edges.mirrors.others import Others
    from stackyard.edges.mirrors.verifying import Seen
    from stackyard.edges.stores.access import Place
    from stackyard.edges.stores.store import Listed, Store
    from stackyard.flow.steps import Project
    from stackyard.flow.trust import Keys
    from stackyard.mirror import Layout
    from stackyard.verify import Fault, Tally

__all__ = ["Result", "Ward", "examine_mirror", "project_settings", "verify"]

_WORKERS = 16


class Ward(NamedTuple):
    """A mirror that is looked after: its store, and whose signatures count there."""

    place: Place
    store: Store
    keys: Keys | None  # None: signatures are not checked

    @property
    def url(self) -> str:
        return self.store.url


class Result(NamedTuple):
    """What a layout was found to be. ``names`` are how people call its binaries, by DAG hash."""

    layout: Layout
    manifests: Manifests
    faults: tuple[Fault, ...]
    tally: Tally
    names: Mapping[str, str]


def verify(
    *,
    url: str = "",
    keys: str = "",
    unsigned: bool = False,
    repair: bool = False,
    as_json: bool = False,
) -> None:
    """Check every manifest, blob, checksum and signature; with ``repair`` mend what is safe to.

    Raises CorruptError (6) if anything is broken or unknown, StaleError (3) if only an index is.
    """
    from stackyard.flow.places import find_project, named_place
    from stackyard.flow.repair import Mended, mend
    from stackyard.verify import report_json, report_text

    project = find_project()
    place = named_place(project, url, flag="--url", push=repair)
    start = time.monotonic()
    with closing(place.open()) as store:
        if repair:
            writable(store)
        ward = Ward(place, store, _keys(project, keys, unsigned=unsigned))
        results = examine_mirror(ward)
        mended = Mended(tuple(fault for one in results for fault in one.faults), ())
        if repair and mended.faults:
            mended = mend(store, results)
    faults = mended.faults
    names = {key: name for result in results for key, name in result.names.items()}
    tally = _sum(result.tally for result in results)._replace(seconds=time.monotonic() - start)
    if as_json:
        console.out(report_json(faults, names, url=ward.url, tally=tally, repairs=mended.done))
    elif faults:
        console.out(console.printable(report_text(faults, names)))
    _end(faults, ward.url, tally)


def project_settings(project: Project | None) -> Settings:
    return make_settings(project.settings) if project else Settings()


def _keys(project: Project | None, option: str, *, unsigned: bool) -> Keys | None:
    if unsigned:
        return None
    from stackyard.flow.trust import find_keys

    return find_keys(project, None, project_settings(project), option)


def examine_mirror(ward: Ward) -> tuple[Result, ...]:
    """Read all layouts of a mirror. Raises NotFoundError if there is none."""
    from stackyard.edges.mirrors.contents import can_list, held_layouts

    layouts = held_layouts(ward.store)
    if not layouts:
        raise NotFoundError("there is no mirror", where=ward.url, hint="is the URL right?")
    if not can_list(ward.store):
        console.warn(
            "a web server cannot list its files: what the index does not name is not looked at"
        )
    return tuple(_examine(ward, layout) for layout in layouts)


def _examine(ward: Ward, layout: Layout) -> Result:
    from stackyard.edges.mirrors.contents import read_manifests
    from stackyard.edges.mirrors.others import (
        check_keys,
        check_others,
        list_files,
        loose,
        read_others,
    )
    from stackyard.edges.mirrors.verifying import manifest_faults
    from stackyard.verify import Fault, Tally

    store = ward.store
    files = list_files(store, layout)
    manifests = read_manifests(
        store,
        layout,
        workers=_WORKERS,
        tick=lambda done, total: console.bar("manifests", done, total),
    )
    faults = [*manifest_faults(manifests), *_signature_faults(ward, manifests)]
    others = read_others(store, files)
    seen = _check_with_bar(store, manifests)
    faults += seen.faults
    faults += check_others(store, others)
    if files:
        faults += check_keys(store, layout, files, others)
        faults += _key_faults(store, layout, files, others)
    sick = {fault.hash for fault in faults if fault.manifest}
    faults += _index_faults(store, layout, manifests, sick)
    named = others.named.union(blob.key for binary in manifests.binaries for blob in binary.blobs)
    faults += (
        Fault(kind, listed.key, "", size_bytes=listed.size_bytes)
        for kind, listed in loose(layout, files, named)
    )
    return Result(
        layout=layout,
        manifests=manifests,
        faults=tuple(faults),
        tally=Tally(
            manifests=len(manifests.listed) + len(others.manifests),
            blobs=seen.blobs,
            bytes=seen.bytes,
            signed=sum(binary.signed for binary in manifests.binaries),
        ),
        names=_names(manifests, seen.names),
    )


def _check_with_bar(store: Store, manifests: Manifests) -> Seen:
    from stackyard.edges.mirrors.transfer import Progress
    from stackyard.edges.mirrors.verifying import check_binaries

    blobs = {blob.key: blob.size_bytes for one in manifests.binaries for blob in one.blobs}
    sizes = list(blobs.values())
    total = None if None in sizes else sum(size or 0 for size in sizes)
    progress = Progress("verify", total, len(blobs))
    try:
        return check_binaries(
            store,
            manifests.binaries,
            workers=_WORKERS,
            on_bytes=progress.add,
            tick=progress.tick,
        )
    finally:
        progress.close()


def _signature_faults(ward: Ward, manifests: Manifests) -> Iterable[Fault]:
    if ward.keys is None:
        return ()
    from stackyard.flow.trust import check_signatures
    from stackyard.verify import Fault

    checked = check_signatures(
        manifests.binaries, ward.url, ward.keys, unsigned=False, signed_mirror=ward.place.signed
    )
    keys = {binary.hash: binary.key for binary in manifests.binaries}
    return [
        Fault("signature", keys[dag_hash], problem, dag_hash)
        for dag_hash, problem in checked.problems.items()
    ]


def _key_faults(
    store: Store, layout: Layout, files: Sequence[Listed], others: Others
) -> Iterable[Fault]:
    """Whether the public keys are those that their names say."""
    from stackyard.edges.gpg import open_keyring
    from stackyard.edges.mirrors.others import key_blobs
    from stackyard.verify import Fault

    faults: list[Fault] = []
    for fingerprint, (key, blob) in key_blobs(layout, files, others).items():
        try:
            with open_keyring([(blob, store.read(blob))]) as keyring:
                found = keyring.fingerprints
        except ToolError as error:
            console.warn(f"the public keys were not looked at: {error.message}")
            return faults
        except StoreError:  # its blob is told of elsewhere
            continue
        except StackyardError as error:
            faults.append(Fault("key", key, error.message))
            continue
        if fingerprint not in found:
            faults.append(Fault("key", key, f"it is another key, {', '.join(found)}"))
    return faults


def _index_faults(
    store: Store, layout: Layout, manifests: Manifests, sick: Collection[str]
) -> Iterable[Fault]:
    """Compare index and manifests both ways. An index rightly leaves out what is ``sick``."""
    from stackyard.edges.mirrors.contents import indexed_binaries
    from stackyard.edges.mirrors.others import index_key
    from stackyard.mirror import manifest_hash
    from stackyard.verify import Fault

    where = index_key(layout)
    there = {one.hash for one in manifests.binaries} | set(map(manifest_hash, manifests.problems))
    try:
        named = indexed_binaries(store, layout)
    except CorruptError as error:
        return [Fault("index-broken", where, error.message)]
    except StoreError as error:
        return [Fault("unknown", where, error.message)]
    if named is None:
        return [Fault("index", where, "there is none")] if there - set(sick) else []
    return [
        *(
            Fault("index", where, "it lacks this binary", key)
            for key in sorted(there - named - set(sick))
        ),
        *(
            Fault("index", where, f"it names {key}, which is not there")
            for key in sorted(named - there)
        ),
    ]


def _names(manifests: Manifests, known: Mapping[str, str]) -> Mapping[str, str]:
    """How people call the binaries; the name of the file, where nothing better is known."""
    from stackyard.mirror import manifest_hash

    names = {manifest_hash(key): key.rpartition("/")[2] for key in manifests.problems}
    names |= {one.hash: one.key.rpartition("/")[2] for one in manifests.binaries}
    return {**names, **known}


def _sum(tallies: Iterable[Tally]) -> Tally:
    from stackyard.verify import Tally

    return Tally(*(sum(column) for column in zip(*tallies, strict=True)))


def _end(faults: Sequence[Fault], url: str, tally: Tally) -> None:
    """Say what was done, and end with the exit code that the faults ask for."""
    from stackyard.fetch import size_text
    from stackyard.verify import exit_code

    rate = tally.bytes / max(tally.seconds, 0.001)
    console.note(
        f"{tally.manifests} manifests ({tally.signed} signed), {tally.blobs} blobs, "
        f"{size_text(tally.bytes)} in {tally.seconds:.1f} s ({size_text(rate)}/s): {url}"
    )
    grave = [fault for fault in faults if fault.grade != "told"]
    code = exit_code(faults)
    if code == 3:
        raise StaleError(
            "the index or the list of keys is stale",
            where=url,
            hint="bring it up to date: stackyard mirror.index, or mirror.verify --repair",
        )
    if code:
        raise CorruptError(f"{len(grave)} faults", where=url, hint=_hint(grave))


def _hint(faults: Sequence[Fault]) -> str:
    from stackyard.verify import FATAL

    kinds = {fault.kind for fault in faults}
    if kinds & FATAL:
        return "remove what is broken with --repair, then push it again"
    if "signature" in kinds:
        return "who signed it? --keys names keys to trust, --unsigned does without"
    return "try again" if "unknown" in kinds else "make it anew with --repair"
