"""``fetch``: exactly the lock's binaries, verified, into a folder that is a mirror itself."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

from stackyard.binary import Binary
from stackyard.edges import console
from stackyard.edges.mirrors.destination import open_destination
from stackyard.edges.mirrors.fetching import WORKERS, Fetching
from stackyard.edges.mirrors.layouts import find_binaries
from stackyard.edges.stores.access import Place, mirror_place
from stackyard.edges.stores.folder import FileStore
from stackyard.edges.stores.store import Store, open_store
from stackyard.errors import ConfigError, NotFoundError
from stackyard.fetch import (
    DEPENDENCY_TYPES,
    FetchPlan,
    Missing,
    Wanted,
    dependency_types,
    missing_text,
    refusal,
    size_text,
    wanted_specs,
)
from stackyard.flow.places import Locked, named_place, read_lock
from stackyard.lock import Lock

__all__ = ["Checking", "Fetched", "bring", "fetch", "source_place"]


def fetch(  # noqa: PLR0913
    *,
    stack: str,
    lock: str,
    to: str,
    source: str,
    keys: str,
    unsigned: bool,
    allow_missing: bool,
    roots_only: bool,
    only: str,
) -> None:
    """Look up, check, plan, download, and make the folder a mirror, in this order.

    Raises ConfigError, LockError and StaleError for what is asked; StoreError for a mirror that
    lacks something, or has something that is not what it should be, and for a folder that cannot
    be written to.
    """
    begun = time.monotonic()
    folder = _target(to)
    types = _types(roots_only, only)
    asked = read_lock(stack, lock)
    wanted = wanted_specs(asked.lock, asked.roots, types)
    checking = Checking(keys, unsigned=unsigned, allow_missing=allow_missing)
    done = bring(asked, wanted, source, folder, checking)
    _tell(done.plan, done.size_bytes, time.monotonic() - begun)


class Checking(NamedTuple):
    """How strict a fetch is; ``keys`` is what ``--keys`` says."""

    keys: str = ""
    unsigned: bool = False
    allow_missing: bool = False


class Fetched(NamedTuple):
    """What was fetched; ``keys`` are the public keys of the signers, armored, by fingerprint.

    ``size_bytes`` came over the network.
    """

    plan: FetchPlan
    keys: Mapping[str, bytes]
    size_bytes: int

    @property
    def binaries(self) -> tuple[Binary, ...]:
        """All of them, as they lie in the folder."""
        return (*self.plan.here, *self.plan.new)


def bring(  # noqa: PLR0913 - what a user said, and where to
    asked: Locked,
    wanted: Wanted,
    source: str,
    folder: str,
    checking: Checking,
    *,
    alone: bool = False,
) -> Fetched:
    """Fetch what is wanted into the folder; with ``alone`` remove whatever else it holds.

    Raises as ``fetch`` does.
    """
    place = source_place(asked, source)
    with closing(place.open()) as store:
        _refuse_same(store, folder)
        binaries, missing = _find(store, wanted, asked.lock, allow_missing=checking.allow_missing)
        trusted = _verify(asked, place, binaries, checking.keys, unsigned=checking.unsigned)
        with open_destination(folder, _waiting) as destination:
            run = Fetching(store, destination, asked.lock.specs)
            plan = run.plan(binaries, missing)
            if plan.new:
                console.note(str(plan))
            run.bring(plan)
            if alone:
                destination.keep_only(
                    key
                    for binary in (*plan.here, *plan.new)
                    for key in (binary.key, *(blob.key for blob in binary.blobs))
                )
            run.complete(plan, trusted)
    return Fetched(plan, trusted, run.size_bytes)


def _target(text: str) -> str:
    if not text:
        raise ConfigError("no folder is named", where="--to", hint="add --to DIR")
    if "://" not in text or text.startswith("file://"):
        store = open_store(text)
        assert isinstance(store, FileStore)  # noqa: S101 - by how it begins
        return str(store.root)
    raise ConfigError(
        "a fetch goes into a folder of this machine",
        where="--to",
        hint="from mirror to mirror: mirror.copy",
    )


def _types(roots_only: bool, only: str) -> frozenset[str]:  # noqa: FBT001
    if roots_only and only:
        raise ConfigError(
            "the roots alone have no dependencies to follow",
            where="--only",
            hint="give one of both",
        )
    if roots_only:
        return frozenset()
    return dependency_types(only, "--only") if only else frozenset(DEPENDENCY_TYPES)


def source_place(asked: Locked, text: str) -> Place:
    """Where to fetch from: what is named, the variable, the stack's mirror."""
    name = asked.stack.name if asked.stack else ""
    if text:
        return named_place(asked.project, text, flag="--from", stack=name)
    if url := asked.env.get("REMOTE_BUILDCACHE_URL", ""):
        return named_place(asked.project, url, flag="$REMOTE_BUILDCACHE_URL", stack=name)
    if asked.stack:
        mirrors = asked.stack.mirrors
        usual = [mirrors[name] for name in ("buildcache-destination",) if name in mirrors]
        for mirror in (*usual, *mirrors.values()):
            if mirror.binary:
                return mirror_place(mirror, asked.env, asked.stack.where)
    raise ConfigError(
        "no mirror to fetch from",
        where="--from",
        hint="add --from URL, set REMOTE_BUILDCACHE_URL, or give the stack a mirror",
    )


def _refuse_same(store: Store, folder: str) -> None:
    if isinstance(store, FileStore) and os.path.realpath(store.root) == os.path.realpath(folder):
        raise ConfigError("the mirror would be fetched into itself", where="--to")


def _find(
    store: Store, wanted: Wanted, lock: Lock, *, allow_missing: bool
) -> tuple[tuple[Binary, ...], tuple[Missing, ...]]:
    """What the mirror has. Raises NotFoundError with all that it lacks, unless that is allowed."""
    console.note(f"looking for {wanted.total} binaries on {store.url}")
    search = find_binaries(
        store,
        wanted.specs,
        specs=lock.specs,
        workers=WORKERS,
        tick=lambda done, total: console.bar("manifests", done, total),
    )
    absent = tuple(Missing(lock.specs[key], "") for key in search.missing)
    missing = (*absent, *wanted.develop)
    if missing:
        text = f"{len(missing)} of {wanted.total} binaries are missing:\n{missing_text(missing)}"
        if not allow_missing:
            hint = "build and push them; invoke fetch --allow-missing brings the rest"
            if len(missing) == wanted.total:
                hint = "is it the right mirror, and the right lock? else build and push them"
            raise NotFoundError(text, where=store.url, hint=hint)
        console.warn(f"{store.url}: {text}")
    found = (search.binaries.get(spec.hash) for spec in wanted.specs)
    return tuple(binary for binary in found if binary), missing


def _verify(
    asked: Locked, place: Place, binaries: Sequence[Binary], option: str, *, unsigned: bool
) -> Mapping[str, bytes]:
    """Check all signatures; gives the keys that made them, by fingerprint.

    Raises CorruptError with all that are refused.
    """
    from stackyard.flow.trust import REFUSED, check_signatures, find_keys

    name = asked.stack.name if asked.stack else None
    keys = find_keys(asked.project, name, asked.settings, option)
    checked = check_signatures(
        binaries, place.shown, keys, unsigned=unsigned, signed_mirror=place.signed
    )
    if checked.problems:
        raise refusal(checked.problems, asked.lock.specs, place.shown, REFUSED)
    return checked.keys


def _waiting() -> None:
    console.note("waiting for another fetch into the same folder")


def _tell(plan: FetchPlan, size_bytes: int, seconds: float) -> None:
    missing = f", {len(plan.missing)} missing" if plan.missing else ""
    console.note(
        f"{len(plan.here)} of {plan.total} already here, {len(plan.new)} fetched{missing}, "
        f"{size_text(size_bytes)} in {seconds:.{0 if seconds > 10 else 1}f} s"
    )
