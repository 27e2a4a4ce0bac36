"""From the install tree of a ``build`` onto the mirror, a level at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from stackyard.edges import console
from stackyard.edges.spack import has_signing_key, need_module, tree_root
from stackyard.edges.stores.folder import FileStore
from stackyard.errors import ConfigError, ConflictError, NotFoundError, StoreError, ToolError
from stackyard.fetch import size_text
from stackyard.flow.installed import PushJob, Stock, explained, let_spack_push
from stackyard.flow.push import Options
from stackyard.mirror import LAYOUT_JSON, LAYOUT_MARKER

if TYPE_CHECKING:
    from pathlib import Path

    from stackyard.binary import Binary
    from stackyard.edges.stores.store import WritableStore
    from stackyard.errors import StackyardError
    from stackyard.flow.ground import Ground
    from stackyard.lock import Spec

__all__ = ["Delivery"]

_KEY = "SPACK_SIGNING_KEY"


class Delivery:
    """Pushes to one mirror, by Spack, as often as there is something."""

    def __init__(self, ground: Ground, target: WritableStore, environment: Path) -> None:
        self._ground = ground
        self._target = target
        self._environment = environment
        self._job = self._new_job(force=ground.options.rebuild)
        self._count = 0

    def _new_job(self, *, force: bool) -> PushJob:
        ground, options = self._ground, self._ground.options
        told = Options(options.keys, options.unsigned, force, options.enter, options.base_image)
        return PushJob(ground.work, ground.goal.place, self._target, told)

    def prepare(self, specs: Sequence[Spec]) -> None:
        """See that what is going to be built can be pushed then: nobody likes to know it hours later.

        Raises StoreError for a mirror that cannot be written, or whose binaries have another
        padding; ToolError if Spack does not know how; ConfigError if there is no key to sign with.
        """
        try:
            need_module(self._ground.spack, self._environment, self._ground.goal.place.url)
        except ToolError as error:
            raise explained(error) from None
        self._refuse_padding(specs)
        if not self._job.unsigned(self._ground.goal.place):
            self._need_key()
        if not self._job.is_registry:
            self._write()

    def _refuse_padding(self, specs: Sequence[Spec]) -> None:
        root = tree_root(self._ground.spack, self._environment)
        prefixes = {one.hash: f"{root}/linux-any/{one.name}-{one.hash}" for one in specs}
        job = self._new_job(force=False)
        try:
            job.refuse_padding(Stock(tuple(specs), prefixes), specs)
        except StoreError as error:
            raise StoreError(
                error.message,
                where=error.where,
                hint="set config:install_tree:padded_length in the stack to theirs, or push to a "
                "mirror of their own",
            ) from None

    def _need_key(self) -> None:
        value = self._ground.work.project.env.get(_KEY, "")
        if not value:
            if has_signing_key(self._ground.spack, self._environment):
                return
            raise ConfigError(
                "the mirror wants signed binaries, and there is no key to sign with",
                where=f"${_KEY}",
                hint="make one: keys.create, keys.export; or build for a mirror without "
                "signatures: --unsigned",
            )
        from stackyard.edges.gpg import import_signing_key, open_home, open_keyring, secret_keys
        from stackyard.flow.trust import find_keys

        with open_home() as home:
            fingerprint = import_signing_key(home.path, value)
            secret_keys(home)  # what stops the agent at the end must know that there is one
        work = self._ground.work
        keys = find_keys(work.project, work.stack.name, work.settings, self._ground.options.keys)
        with open_keyring(keys.keys, keys.allowed) as keyring:
            if fingerprint not in keyring.fingerprints:
                console.warn(
                    f"the key that signs, {fingerprint}, is not among those that the stack trusts: "
                    "nobody can check what it signs (keys.export writes its public part)"
                )

    def _write(self) -> None:
        """The file that every mirror of layout 3 has: what is there, or a new one."""
        target = self._target
        new = isinstance(target, FileStore) and not target.is_there
        try:
            data = b"" if new else target.read(LAYOUT_MARKER)
        except NotFoundError:
            data = b""
        if data:
            target.write(LAYOUT_MARKER, data)
            return
        with suppress(ConflictError):
            target.create(LAYOUT_MARKER, LAYOUT_JSON)

    def push(
        self, specs: Sequence[Spec], there: Collection[str]
    ) -> tuple[Mapping[str, Binary], StackyardError | None]:
        """Push these and enter them into the index; what is on the mirror then, and what failed.

        ``there`` are the hashes of all that is in the tree. Raises StoreError if the mirror cannot
        be read or its index not be written.
        """
        goal, rebuild = self._ground.goal, self._ground.options.rebuild
        known = {} if rebuild else self._job.look(specs)
        todo = [one for one in specs if one.hash not in known]
        failure = let_spack_push(
            self._ground.work,
            goal.text,
            goal.place,
            self._job,
            (self._ground.spack, self._environment),
            self._stock(specs, there),
            todo,
            relayed=self._relayed,
        )
        arrived = self._job.enter(todo, known)
        if arrived:
            size = sum(one.tarball.size_bytes or 0 for one in arrived.values())
            console.note(f"  pushed {len(arrived)}, {size_text(size)}")
        return {**known, **arrived}, failure

    def _stock(self, specs: Sequence[Spec], there: Collection[str]) -> Stock:
        """What Spack is told of: in a registry's images are those dependencies that it knows."""
        if not self._job.is_registry:
            return Stock(tuple(specs), {})
        lock = self._ground.plan.lock
        reached = lock.closure(one.hash for one in specs)
        known = (lock.specs[key] for key in lock.order if key in reached and key in there)
        return Stock(tuple(one for one in known if not one.external and not one.develop), {})

    def _relayed(
        self, argv: Sequence[str], variables: Mapping[str, str]
    ) -> tuple[int, Sequence[str]]:
        self._count += 1
        log = f"push-{self._count}.txt"
        ended = self._ground.run("pushing", argv, log, variables)
        text = (self._ground.options.logs / log).read_text(errors="replace")
        self._job.hear(text.splitlines())
        return ended.code, ended.lines[-20:]
