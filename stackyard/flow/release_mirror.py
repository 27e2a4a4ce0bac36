"""The gates that ask a mirror about one stack: its binaries, their signatures, the index, the keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from stackyard.edges import console
from stackyard.errors import StoreError
from stackyard.flow.steps import Work
from stackyard.release import Gate, counted

if TYPE_CHECKING:
    from stackyard.binary import Binary
    from stackyard.edges.mirrors.keys import PublishedKey
    from stackyard.edges.mirrors.layouts import Search
    from stackyard.edges.stores.access import Place
    from stackyard.edges.stores.store import Store
    from stackyard.fetch import Wanted
    from stackyard.flow.trust import Checked
    from stackyard.mirror import Layout

__all__ = ["OF_MIRROR", "StackMirror"]

#: The names of these gates, in their order.
OF_MIRROR = ("binaries", "signatures", "index", "key")
_WORKERS = 16
_NEED_KEYS = (
    "put the public keys into stacks/NAME/keys/ (keys.trust shows those of a mirror), or name them "
    "by --keys or trust.keys; is the mirror one without signatures? say signed: false in its entry"
)
_STRANGE = (
    "do other keys count? name them: --keys; is the mirror one without signatures? say signed: "
    "false in its entry; else find out who changed it"
)


class StackMirror:
    """What the mirror has of one stack; making it looks every binary up.

    ``keys`` is the argument ``--keys``, ``skips`` are gates that nobody asks.
    """

    def __init__(
        self, work: Work, place: Place, store: Store, keys: str, skips: frozenset[str]
    ) -> None:
        from stackyard.edges.mirrors.layouts import find_binaries
        from stackyard.fetch import wanted_specs

        self._work, self._place, self._store = work, place, store
        self._option, self._skips = keys, skips
        self._wanted: Wanted = wanted_specs(work.lock, work.roots)
        console.note(f"{work.stack.name}: {self._wanted.total} binaries on {place.shown}")
        self._search: Search = find_binaries(
            store,
            self._wanted.specs,
            specs=work.lock.specs,
            workers=_WORKERS,
            tick=lambda done, total: console.bar("manifests", done, total),
        )

    def steps(self) -> Mapping[str, Callable[[], Gate]]:
        """By the names of the gates, in their order."""
        steps = (self._binaries, self._signatures, self._index, self._key)
        return dict(zip(OF_MIRROR, steps, strict=True))

    @property
    def _found(self) -> tuple[Binary, ...]:
        return tuple(self._search.binaries.values())

    def _binaries(self) -> Gate:
        from stackyard.edges.mirrors.transfer import Progress
        from stackyard.edges.mirrors.verifying import check_binaries
        from stackyard.fetch import size_text, spec_name

        specs = self._work.lock.specs
        absent = [f"{spec_name(specs[key])}: missing" for key in self._search.missing]
        absent += [f"{spec_name(one.spec)}: {one.reason}" for one in self._wanted.develop]
        blobs = {blob.key: blob.size_bytes for one in self._found for blob in one.blobs}
        sizes = list(blobs.values())
        total = None if None in sizes else sum(size or 0 for size in sizes)
        self._tell_cost(len(absent), total)
        progress = Progress("binaries", total, len(blobs))
        try:
            seen = check_binaries(
                self._store,
                self._found,
                workers=_WORKERS,
                on_bytes=progress.add,
                tick=progress.tick,
            )
        finally:
            progress.close()
        bad = [f"{spec_name(specs[fault.hash])}: {fault.text}" for fault in seen.faults]
        if not absent and not bad:
            size = size_text(seen.bytes)
            text = f"all {self._wanted.total} are on {self._place.shown}, {size} read and right"
            return Gate("binaries", "passed", text)
        parts = [f"{len(absent)} of {self._wanted.total} missing"] if absent else []
        parts += [counted(len(bad), "fault")] if bad else []
        name = self._work.stack.name
        hint = f"build and push them: a pipeline does, or invoke build --stack {name}"
        if bad:
            hint = f"look closer: invoke mirror.verify --url {self._place.shown}"
        reason = f"{' and '.join(parts)} on {self._place.shown}"
        return Gate("binaries", "failed", reason, hint, missing=(*absent, *bad))

    def _tell_cost(self, absent: int, total: int | None) -> None:
        """What follows may take long, and whether it can end well is known by now."""
        from stackyard.fetch import size_text

        missing = f"{absent} of {self._wanted.total} are missing; " if absent else ""
        size = "what is there" if total is None else size_text(total)
        console.note(f"{self._work.stack.name}: {missing}reading {size}")

    @cached_property
    def _checked(self) -> Checked:
        from stackyard.flow.trust import check_signatures, find_keys

        work = self._work
        keys = find_keys(work.project, work.stack.name, work.settings, self._option)
        return check_signatures(
            self._found, self._place.shown, keys, signed_mirror=self._place.signed
        )

    def _not_signed(self, gate: str) -> Gate | None:
        """The answer where nobody expects signatures."""
        images = [one for one in self._found if one.layout == "oci"]
        if images and len(images) == len(self._found):
            if gate == "key":
                lacking = None if self._place.signed is False else self._key_of_image()
                return lacking or Gate(gate, "not configured", "a registry has no place for keys")
            if self._place.signed or any(one.signed for one in images):
                return None
            return Gate(gate, "not configured", "nobody signed the images in the registry")
        if self._place.signed is False:
            return Gate(gate, "not configured", "the mirror's entry says signed: false")
        return None

    def _signatures(self) -> Gate:
        from stackyard.fetch import spec_name

        if answer := self._not_signed("signatures"):
            return answer
        try:
            checked, count = self._checked, len(self._found)
        except StoreError as error:
            raise type(error)(error.message, where=error.where, hint=_NEED_KEYS) from None
        specs = self._work.lock.specs
        if checked.problems:
            names = [f"{spec_name(specs[k])}: {text}" for k, text in checked.problems.items()]
            reason = f"{len(names)} of {count} do not hold"
            return Gate("signatures", "failed", reason, _STRANGE, missing=tuple(names))
        if not checked.signers:
            if not count:
                return Gate("signatures", "failed", "there is nothing that could be signed")
            signed = any(one.signed for one in self._found)
            text = "nothing was checked" if signed else "no binary is signed"
            return Gate("signatures", "not configured", f"{text}, and nobody named keys")
        text = f"{len(checked.signers)} by {', '.join(sorted(set(checked.signers.values())))}"
        return Gate("signatures", "passed", text)

    def _index(self) -> Gate:
        from stackyard.edges.mirrors.contents import indexed_binaries
        from stackyard.fetch import spec_name

        by_layout: dict[Layout, list[str]] = {}
        for one in self._found:
            by_layout.setdefault(one.layout, []).append(one.hash)
        hint = f"run: invoke mirror.index --url {self._place.shown}"
        if not by_layout:
            return Gate("index", "failed", "nothing is there that it could name")
        lacking: list[str] = []
        for layout, keys in by_layout.items():
            named = indexed_binaries(self._store, layout)
            if named is None:
                return Gate("index", "failed", "the mirror has none", hint)
            lacking += [key for key in keys if key not in named]
        if lacking:
            names = [spec_name(self._work.lock.specs[key]) for key in lacking]
            reason = f"it lacks {len(lacking)} that are there"
            return Gate("index", "failed", reason, hint, missing=tuple(names))
        return Gate("index", "passed", f"names all {len(self._found)} that are there")

    def _key(self) -> Gate:
        from stackyard.edges.mirrors.keys import published_keys

        answer = self._not_signed("key") or self._key_of_image()
        if answer:
            return answer
        signers: set[str] = set()
        if "signatures" not in self._skips:
            try:
                signers = set(self._checked.signers.values())
            except StoreError:
                return Gate("key", "failed", "nobody knows which: see signatures")
            if not signers and not self._checked.problems:
                return Gate("key", "not configured", "no binary is signed")
        there = {one.fingerprint: one for one in published_keys(self._store)}
        if not signers and not there:
            return Gate("key", "failed", "the mirror has no public key", self._publish)
        problems = tuple(
            f"{name}: {problem}"
            for name in sorted(signers)
            if (problem := _key_problem(there.get(name), name))
        )
        if problems:
            reason = "users could not check what they install"
            return Gate("key", "failed", reason, self._publish, missing=problems)
        return Gate("key", "passed", f"published: {', '.join(sorted(signers or there))}")

    def _key_of_image(self) -> Gate | None:
        """The answer where an image could not be built: nobody gives its build other keys."""
        from stackyard.flow.trust import find_keys

        work = self._work
        if not work.settings.image.base or not any(one.signed for one in self._found):
            return None
        if find_keys(work.project, work.stack.name, work.settings, "").keys:
            return None
        return Gate(
            "key",
            "failed",
            "the image is built with the keys of the repository, and there are none",
            f"put them into stacks/{work.stack.name}/keys/ and commit them",
        )

    @property
    def _publish(self) -> str:
        name = self._work.stack.name
        return f"run: invoke keys.publish --stack {name} --url {self._place.shown}"


def _key_problem(published: PublishedKey | None, fingerprint: str) -> str:
    """Why Spack could not take the key from the mirror; empty if it can."""
    if published is None:
        return "not there"
    if published.problem or not _is_key(published.data, fingerprint):
        return published.problem or "it is another key"
    return "" if published.listed else "not in the list of keys, so that Spack does not find it"


def _is_key(data: bytes, fingerprint: str) -> bool:
    from stackyard.edges.gpg import open_keyring
    from stackyard.errors import ConfigError

    try:
        with open_keyring([("the mirror's key", data)]) as keyring:
            return fingerprint in keyring.fingerprints
    except ConfigError:  # not a key at all
        return False
