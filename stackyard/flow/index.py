"""``mirror.index``: a mirror's index, brought up to date or compared with what the mirror holds."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING

from stackyard.edges import console
from stackyard.errors import CorruptError, StaleError, StoreError

if TYPE_CHECKING:
    from stackyard.edges.mirrors.indexing import IndexReport
    from stackyard.edges.stores.store import WritableStore

__all__ = ["index"]


def index(*, url: str = "", full: bool = False, check: bool = False, as_json: bool = False) -> None:
    """Update the index and the key index, or with ``check`` only look.

    Raises StaleError if the check finds a difference, and CorruptError at the end if there are
    entries that the index leaves out.
    """
    from stackyard.edges.stores.store import writable
    from stackyard.flow.places import find_project, named_place

    place = named_place(find_project(), url, flag="--url", push=not check)
    start = time.perf_counter()
    with closing(place.open()) as opened:
        store = writable(opened)
        _refuse_layout_2(store)
        report = _checked(store, full=full) if check else _updated(store, full=full)
    if as_json:
        console.out(_json(report, store.url))
    console.note(_summary(report, time.perf_counter() - start))
    for key, problem in report.problems.items():
        console.warn(f"{_name(key)} is not in the index: {problem}")
    if check and report.stale:
        raise StaleError(
            "the index does not say what the mirror holds",
            where=place.shown,
            hint=f"stackyard mirror.index --url {place.shown}",
            diff="" if as_json else _differences(report),
        )
    if report.problems:
        raise CorruptError(
            f"{len(report.problems)} corrupt entries are not in the index",
            where=place.shown,
            hint="look closer with mirror.verify, then push these binaries again or remove them",
        )


def _updated(store: WritableStore, *, full: bool) -> IndexReport:
    from stackyard.edges.mirrors.indexing import update_index, write_key_index

    report = update_index(
        store,
        full=full,
        progress=console.note,
        tick=lambda done, total: console.bar("index", done, total),
    )
    if not _is_registry(store):
        keys = write_key_index(store)
        if keys is not None:
            console.note(f"key index: {keys} keys")
    return report


def _checked(store: WritableStore, *, full: bool) -> IndexReport:
    from stackyard.edges.mirrors.indexing import check_index

    return check_index(store, full=full, tick=lambda done, total: console.bar("index", done, total))


def _is_registry(store: WritableStore) -> bool:
    return store.url.startswith(("oci://", "oci+http://"))


def _refuse_layout_2(store: WritableStore) -> None:
    from stackyard.edges.mirrors.layouts import layouts_of
    from stackyard.mirror import SPEC_MANIFESTS

    if layouts_of(store) == (2,) and not any(True for _ in store.list(SPEC_MANIFESTS)):
        raise StoreError(
            "a mirror of layout 2 is only read",
            where=store.url,
            hint="bring it to layout 3 with: spack buildcache migrate",
        )


def _summary(report: IndexReport, seconds: float) -> str:
    parts = [
        f"{report.named:,} named",
        f"{len(report.added):,} new",
        *([f"{len(report.changed):,} changed"] if report.changed else ()),
        f"{len(report.gone):,} gone",
        *([f"{len(report.problems):,} corrupt"] if report.problems else ()),
        f"{seconds:.1f} s",
        f"{report.requests:,} requests",
    ]
    return f"index: {', '.join(parts)}"


def _name(key: str) -> str:
    """Name, version and hash out of a manifest's key."""
    return key.rpartition("/")[2].removesuffix(".spec.manifest.json").removesuffix(".spack")


def _differences(report: IndexReport) -> str:
    lines = [
        *(f"+ {_name(key)}: is there and not named" for key in report.added),
        *(f"- {_name(key)}: is named and not there" for key in report.gone),
        *(f"~ {_name(key)}: is not what the index says" for key in report.changed),
    ]
    return "".join(f"{line}\n" for line in sorted(lines))


def _json(report: IndexReport, url: str) -> str:
    import json

    document = {"url": url, **report._asdict(), "problems": dict(report.problems)}
    return json.dumps(document, indent=2)
