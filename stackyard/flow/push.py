"""``push`` and ``mirror.copy``: binaries onto a mirror, from another one or from an install tree."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from stackyard.binary import parse_metadata
from stackyard.edges import console
from stackyard.edges.mirrors.comparing import (
    Side,
    Survey,
    same_place,
    source_side,
    stored_blobs,
    survey_all,
    survey_lock,
    target_side,
)
from stackyard.edges.mirrors.copying import (
    SAMPLE,
    Cargo,
    Copier,
    open_items,
    open_spool,
    sample_roots_of,
)
from stackyard.edges.mirrors.entering import enter_index
from stackyard.edges.mirrors.keys import publish_keys
from stackyard.edges.mirrors.padding import sample_roots
from stackyard.edges.mirrors.transfer import Progress
from stackyard.edges.parallel import parallel_map
from stackyard.edges.settings import Environment
from stackyard.edges.stores.store import WritableStore, writable
from stackyard.errors import ConfigError, CorruptError, NotFoundError, StoreError
from stackyard.fetch import Missing, missing_text, size_text, spec_name, wanted_specs
from stackyard.flow.places import find_project, named_place, read_lock
from stackyard.flow.signing import image_signer
from stackyard.flow.steps import Project, Request, load_work, open_project
from stackyard.promote import CopyPlan, blobs_of, make_plan, padding_problem
from stackyard.settings import Settings, make_settings

if TYPE_CHECKING:
    from stackyard.binary import Binary
    from stackyard.edges.mirrors.images import Sign
    from stackyard.edges.mirrors.spool import Spool
    from stackyard.edges.stores.access import Place
    from stackyard.flow.trust import Checked, Keys
    from stackyard.lock import Lock
    from stackyard.padding import Root

__all__ = ["Options", "copy", "push", "refuse_padding"]

_SIGNERS = 4


class Options(NamedTuple):
    """How to push; ``enter``: whether the mirror's index is brought up to date.

    ``base_image`` is what the images of a registry begin with.
    """

    keys: str
    unsigned: bool
    force: bool
    enter: bool
    base_image: str = ""


class Asked(NamedTuple):
    """What is to be copied: what a lock's roots reach, or without a lock everything."""

    project: Project | None
    stack: str | None
    settings: Settings
    lock: Lock | None = None
    roots: tuple[str, ...] = ()

    def name(self, binary: Binary) -> str:
        """A binary as people know it."""
        if self.lock and binary.hash in self.lock.specs:
            return spec_name(self.lock.specs[binary.hash])
        return binary.key


class Sent(NamedTuple):
    """What was done. ``unread_bytes`` were copied by the mirrors' own service."""

    cargo: tuple[Cargo, ...] = ()
    size_bytes: int = 0
    unread_bytes: int = 0


def push(  # noqa: PLR0913
    *,
    stack: str,
    lock: str,
    to: str,
    source: str,
    spack: str,
    keys: str,
    unsigned: bool,
    force: bool,
    index: bool,
    base_image: str = "",
) -> None:
    """The binaries of a stack onto a mirror.

    Raises ConfigError, LockError and StaleError for what is asked, ToolError if Spack is missing or
    fails, and StoreError for mirrors.
    """
    options = Options(keys, unsigned, force, index, base_image)
    for flag, value in (("--spack", spack), ("--base-image", base_image)):
        if source and value:
            raise ConfigError(
                "binaries of a mirror are taken as they are",
                where=flag,
                hint=f"leave out {flag}, or --from",
            )
    if base_image:
        from stackyard.image_names import parse_image_name

        parse_image_name(base_image, "--base-image")
    if source:
        _copy(_asked(stack, lock), ("--from", source), to, options)
        return
    from stackyard.flow.installed import push_installed  # only this runs Spack

    work = load_work(open_project(), Request(stack=stack, lock=lock))
    target = named_place(work.project, to, flag="--to", push=True, stack=work.stack.name)
    push_installed(work, to, target, spack, options)


def copy(  # noqa: PLR0913
    *,
    source: str,
    to: str,
    stack: str,
    lock: str,
    keys: str,
    unsigned: bool,
    force: bool,
    index: bool,
) -> None:
    """From mirror to mirror: what a stack's lock reaches, or everything.

    Raises ConfigError, LockError and StaleError for what is asked, and StoreError for mirrors.
    """
    everything = not stack and not lock
    asked = _whole() if everything else _asked(stack, lock)
    _copy(asked, ("--url", source), to, Options(keys, unsigned, force, index))


def _asked(stack: str, lock: str) -> Asked:
    found = read_lock(stack, lock)
    name = found.stack.name if found.stack else None
    return Asked(found.project, name, found.settings, found.lock, found.roots)


def _whole() -> Asked:
    project = find_project()
    return Asked(project, None, make_settings(project.settings if project else {}))


def _copy(asked: Asked, source: tuple[str, str], to: str, options: Options) -> None:
    """Look, plan, check, send, and enter into the index, in this order.

    ``source`` are the argument that names the source, and its value.
    """
    begun = time.monotonic()
    flag, text = source
    name = asked.stack or ""
    place = named_place(asked.project, text, flag=flag, stack=name)
    release = named_place(asked.project, to, flag="--to", push=True, stack=name)
    with closing(place.open()) as store, closing(release.open()) as other:
        target = writable(other)
        if same_place(store, target):
            raise ConfigError("the mirror would be copied into itself", where="--to")
        env = Environment.snapshot()
        with image_signer(
            env, release, lambda: _keys(asked, options), unsigned=options.unsigned
        ) as sign:
            run = _Run(asked, place, release, source_side(store), target, options, sign)
            plan = run.plan()
            with closing(open_spool(target)) as spool:
                sent = run.send(plan, spool) if plan.items else Sent()
                if options.enter:
                    run.enter(plan, sent.cargo)
    _tell(plan, sent, time.monotonic() - begun)


def _keys(asked: Asked, options: Options) -> Keys:
    from stackyard.flow.trust import find_keys

    return find_keys(asked.project, asked.stack, asked.settings, options.keys)


def _tell(plan: CopyPlan, sent: Sent, seconds: float) -> None:
    missing = f", {len(plan.missing)} missing" if plan.missing else ""
    size = size_text(sent.size_bytes + sent.unread_bytes)
    console.note(
        f"{len(plan.here)} of {plan.total} already there, {len(sent.cargo)} sent{missing}, "
        f"{size} in {seconds:.{0 if seconds > 10 else 1}f} s"
    )
    if sent.unread_bytes:
        console.note(
            f"{size_text(sent.unread_bytes)} of it the service copied itself: their sizes were "
            "compared, and their checksums were not; mirror.verify does that"
        )


class _Run:
    """One copy under way from mirror to mirror."""

    def __init__(  # noqa: PLR0913, PLR0917 - made in one place
        self,
        asked: Asked,
        place: Place,
        to: Place,
        source: Side,
        target: WritableStore,
        options: Options,
        sign: Sign | None,
    ) -> None:
        self._asked = asked
        self._place = place
        self._to = to
        self._source = source
        self._target = target
        self._side = target_side(target, force=options.force)
        self._options = options
        self._sign = sign
        self._survey = Survey((), {})

    def plan(self) -> CopyPlan:
        """Look at both mirrors and decide. Raises StoreError that names all conflicts."""
        console.note(f"comparing {self._source.store.url} with {self._target.url}")
        missing = self._look()
        survey = self._survey
        if not survey.binaries and not survey.here:
            raise NotFoundError("nothing of what is wanted is there", where=self._place.shown)
        pairs = [survey.there[one.hash] for one in survey.binaries if one.hash in survey.there]
        stored = stored_blobs(
            self._side,
            {blob for one in pairs for blob in blobs_of(one)},
            listing=self._asked.lock is None,
        )
        plan = make_plan(
            survey.binaries,
            there=survey.there,
            stored=stored,
            force=self._options.force,
            here=survey.here,
            missing=missing,
            signing=self._sign is not None,
        )
        self._refuse_conflicts(plan)
        return plan

    def _look(self) -> tuple[Missing, ...]:
        """Take the survey; gives what neither mirror has, after telling of it."""
        lock = self._asked.lock
        develop: tuple[Missing, ...] = ()
        if lock is None:
            self._survey = survey_all(self._source, self._side, _manifests)
        else:
            wanted = wanted_specs(lock, self._asked.roots)
            develop = wanted.develop
            self._survey = survey_lock(
                self._source, self._side, wanted.specs, lock.specs, _manifests
            )
        survey = self._survey
        missing = (*(Missing(spec, "") for spec in survey.missing), *develop)
        if missing:
            total = len(survey.binaries) + len(survey.here) + len(missing)
            console.warn(
                f"{len(missing)} of {total} binaries are on neither mirror:\n"
                f"{missing_text(missing)}"
            )
        return missing

    def _refuse_conflicts(self, plan: CopyPlan) -> None:
        if not plan.conflicts:
            return
        lines = "\n".join(f"  {self._asked.name(one)}: {why}" for one, why in plan.conflicts)
        raise StoreError(
            f"{len(plan.conflicts)} binaries are there otherwise; nothing was sent:\n{lines}",
            where=self._target.url,
            hint="--force puts those of the source in their place",
        )

    def send(self, plan: CopyPlan, spool: Spool) -> Sent:
        """Check everything, then send it. Raises StoreError, before anything is sent if it can be."""
        binaries = [item.binary for item in plan.items]
        checked = self._trusted(binaries)
        cargo, problems = open_items(self._source, self._side.layout, plan.items, spool, _metadata)
        self._refuse(binaries, checked.problems, problems)
        self._refuse_padding(cargo)
        cargo = self._signed(cargo)
        self._warn_unsigned(cargo)
        if self._side.layout == "oci" and self._source.layout == 3:
            return self._send_images(plan, cargo, spool)
        blobs = {blob for one in cargo for blob in blobs_of(one.binary)}
        stored = stored_blobs(self._side, blobs, listing=self._asked.lock is None)
        plan = plan.with_blobs((one.binary for one in cargo), stored)
        console.note(f"{plan}: {self._target.url}")
        # Before the manifests: whoever finds a binary finds the key, also if this run is killed.
        self._publish(cargo, checked)
        progress = Progress("copy", plan.size_bytes, len(plan.blobs))
        copier = Copier(self._source.store, self._target, spool, progress.add)
        try:
            copier.send(cargo, plan.blobs, plan.kept, progress.tick)
        finally:
            progress.close()
        return Sent(cargo, progress.size_bytes, copier.unread_bytes)

    def _send_images(self, plan: CopyPlan, cargo: Sequence[Cargo], spool: Spool) -> Sent:
        from stackyard.edges.mirrors.images import push_images

        plan = plan._replace(blobs=tuple({one.binary.tarball for one in cargo}))
        console.note(f"{plan}: {self._target.url}")
        progress = Progress("copy", plan.size_bytes, len(cargo))
        try:
            push_images(
                self._source.store,
                self._target,
                cargo,
                spool=spool,
                on_bytes=progress.add,
                tick=progress.tick,
                sign=self._sign,
            )
        finally:
            progress.close()
        return Sent(tuple(cargo), progress.size_bytes)

    def _signed(self, cargo: tuple[Cargo, ...]) -> tuple[Cargo, ...]:
        """Images that nobody signed, signed by us; what somebody signed goes as it is."""
        if self._sign is None or self._source.layout != "oci":
            return cargo
        from stackyard.edges.mirrors.images import signed_image

        sign = self._sign

        def one_signed(one: Cargo) -> Cargo:
            if one.binary.signed:
                return one
            return one._replace(binary=signed_image(one.binary, sign))

        return tuple(parallel_map(one_signed, cargo, workers=_SIGNERS))

    def _trusted(self, binaries: Sequence[Binary]) -> Checked:
        """Check all signatures. Raises StoreError for a signed mirror without keys."""
        from stackyard.flow.trust import check_signatures

        return check_signatures(
            binaries,
            self._place.shown,
            _keys(self._asked, self._options),
            unsigned=self._options.unsigned,
            signed_mirror=self._place.signed,
        )

    def _refuse(
        self, binaries: Sequence[Binary], signatures: Mapping[str, str], others: Mapping[str, str]
    ) -> None:
        from stackyard.flow.trust import REFUSED

        problems = {**signatures, **others}
        if not problems:
            return
        names = {binary.hash: self._asked.name(binary) for binary in binaries}
        lines = "\n".join(f"  {names[key]}: {text}" for key, text in problems.items())
        raise CorruptError(
            f"{len(problems)} binaries are refused, so nothing was sent:\n{lines}",
            where=self._place.shown,
            hint="find out who changed the mirror, then push them anew" if others else REFUSED,
        )

    def _refuse_padding(self, cargo: Sequence[Cargo]) -> None:
        if self._options.force:
            return
        theirs: Mapping[str, Root | None] = {}
        if not self._side.fresh:
            theirs = sample_roots(self._side.store, self._side.layout, SAMPLE)
        refuse_padding(sample_roots_of(self._source.store, cargo), theirs, self._target.url)

    def _warn_unsigned(self, cargo: Sequence[Cargo]) -> None:
        if self._side.layout == "oci":  # told before, if there is no key to sign with
            return
        unsigned = sum(not one.binary.signed for one in cargo)
        if unsigned and self._to.signed:
            console.warn(
                f"the mirror's entry demands signatures, and {unsigned} of the binaries have none: "
                "Spack does not take them from there"
            )

    def _publish(self, cargo: Sequence[Cargo], checked: Checked) -> None:
        """The keys of those who signed, where Spack looks for them."""
        if self._side.layout != 3 or not any(one.binary.signed for one in cargo):
            return
        if checked.keys:
            publish_keys(self._target, checked.keys)
        else:
            console.note("no signature was checked, so no key is published: see keys.publish")

    def enter(self, plan: CopyPlan, cargo: Sequence[Cargo]) -> None:
        """Into the index: what was sent, and what was there and is lacking in it."""
        metadata = (parse_metadata(one.spec.read_bytes(), one.binary.key) for one in cargo)
        new = [one.binary.hash for one in cargo]
        enter_index(self._target, new, metadata, plan.here, self._survey.there)


def refuse_padding(
    ours: Mapping[str, Root | None], theirs: Mapping[str, Root | None], url: str
) -> None:
    """Raise StoreError if binaries do not fit those of a mirror; both by DAG hash."""
    if problem := padding_problem(ours, theirs):
        raise StoreError(
            f"{problem}: what fits into one place would not fit into another",
            where=url,
            hint="build them with the same config:install_tree:padded_length, push to a mirror of "
            "their own, or add --force",
        )


def _manifests(done: int, total: int) -> None:
    console.bar("manifests", done, total)


def _metadata(done: int, total: int) -> None:
    console.bar("metadata", done, total)
