"""``push`` without ``--from``: what Spack has installed of a stack, by Spack's own push."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stackyard.edges import console
from stackyard.edges.mirrors.comparing import stored_blobs, target_side
from stackyard.edges.mirrors.contents import read_metadata
from stackyard.edges.mirrors.copying import SAMPLE
from stackyard.edges.mirrors.entering import enter_index
from stackyard.edges.mirrors.layouts import find_binaries, read_binary
from stackyard.edges.mirrors.padding import sample_roots
from stackyard.edges.parallel import parallel_map
from stackyard.edges.process import relay
from stackyard.edges.spack import (
    Relay,
    Spack,
    find_spack,
    installed,
    opened_environment,
    push,
    target_scope,
)
from stackyard.edges.stores.folder import FileStore
from stackyard.edges.stores.store import WritableStore, writable
from stackyard.errors import ConfigError, ConflictError, ToolError
from stackyard.fetch import Missing, missing_text, wanted_specs
from stackyard.flow.places import named_mirror
from stackyard.flow.push import Options, refuse_padding
from stackyard.padding import prefix_root
from stackyard.promote import blobs_of, check_place
from stackyard.stack import Connection, concrete_manifest

if TYPE_CHECKING:
    from stackyard.binary import Binary, Metadata
    from stackyard.edges.mirrors.images import Sign
    from stackyard.edges.stores.access import Place
    from stackyard.flow.steps import Work
    from stackyard.flow.trust import Keys
    from stackyard.lock import Spec
    from stackyard.padding import Root

__all__ = ["PushJob", "Stock", "explained", "let_spack_push", "logged_in", "push_installed"]

_WORKERS = 32
_DRESSERS = 8
_LOOKS = 3
_KEY = "SPACK_SIGNING_KEY"
_BOTO3 = (
    "install boto3 into the Python that runs Spack (SPACK_PYTHON); or push to a folder, and from "
    "there on: mirror.copy"
)
_GOOGLE = _BOTO3.replace("boto3", "google-cloud-storage")
#: What Spack may say, and what to do then.
_HINTS = {
    "No module named 'boto3'": _BOTO3,
    "No module named 'google'": _GOOGLE,
    "available for signing": f"set {_KEY} (keys.create and keys.export make it), or add --unsigned",
}


class Stock(NamedTuple):
    """What of the lock is installed, with the folders of its packages by DAG hash."""

    specs: tuple[Spec, ...]
    prefixes: Mapping[str, str]


def push_installed(work: Work, to: str, place: Place, spack: str, options: Options) -> None:
    """Find what is installed and not on the mirror, let Spack push it, and see that it is there.

    Raises ConfigError, StoreError, and ToolError if Spack is missing or fails or has nothing.
    """
    begun = time.monotonic()
    program = find_spack(spack, work.project.env)
    if program.version < (1, 0):
        raise ConfigError(
            f"Spack {program.version[0]}.{program.version[1]} writes layout 2, which is only read here",
            where=program.program,
            hint="push with Spack 1.0 or newer",
        )
    manifest = concrete_manifest(work.stack, str(work.folder))
    with (
        closing(place.open()) as store,
        opened_environment(work.folder, manifest, work.lock_path) as environment,
    ):
        job = PushJob(work, place, writable(store), options)
        stock = job.take_stock(installed(program, environment))
        there = job.look(stock.specs)
        todo = tuple(one for one in stock.specs if options.force or one.hash not in there)
        job.refuse_padding(stock, todo)
        if todo:
            console.note(f"{len(todo)} of {len(stock.specs)} to push: {store.url}")
        failure = let_spack_push(work, to, place, job, (program, environment), stock, todo)
        arrived = job.enter(todo, there)
    if failure:
        raise failure
    _tell(stock, todo, arrived, time.monotonic() - begun)


def let_spack_push(  # noqa: PLR0913, PLR0917 - the middle of the story above
    work: Work,
    to: str,
    place: Place,
    job: PushJob,
    spack: tuple[Spack, Path],
    stock: Stock,
    todo: Sequence[Spec],
    *,
    relayed: Relay | None = None,
) -> ToolError | None:
    """Let Spack push; gives its failure, because what it has pushed counts all the same.

    ``relayed`` is that of ``stackyard.edges.spack.push``.
    """
    if not todo:
        return None
    program, environment = spack
    # An image can have only those dependencies in it that Spack is told of.
    named = stock.specs if job.is_registry else todo
    hashes = [one.hash for one in named]
    try:
        with _pushing(work, to, place, job, program) as (run, arguments, scope):
            push(
                run,
                environment,
                scope,
                hashes,
                arguments,
                whole=job.is_registry,
                relayed=relayed or job.relayed,
            )
    except ToolError as error:
        return explained(error)
    return None


def explained(error: ToolError) -> ToolError:
    """The failure of Spack with what to do about it, where that is known."""
    hints = [hint for said, hint in _HINTS.items() if said in error.message]
    return ToolError(error.message, hint="; ".join(hints))


class PushJob:
    """A push under way, as far as the mirror is concerned."""

    def __init__(self, work: Work, place: Place, target: WritableStore, options: Options) -> None:
        self.target = target
        self._place = place
        self._packed: frozenset[tuple[str, str]] = frozenset()
        self._warned: set[str] = set()
        self._side = target_side(target, force=options.force)
        self._work = work
        self._options = options

    @property
    def is_registry(self) -> bool:
        return self._side.layout == "oci"

    @property
    def force(self) -> bool:
        return self._options.force

    @property
    def base_image(self) -> str:
        """What each image begins with; empty for a mirror that has no images."""
        return self._options.base_image if self.is_registry else ""

    def unsigned(self, place: Place) -> bool:
        """Whether Spack is not to sign: told so, or as the mirror's entry says."""
        return self._options.unsigned or place.signed is False or self.is_registry

    def hear(self, lines: Sequence[str]) -> None:
        """What Spack said while it pushed: the checksums of what it sent to a registry."""
        if self.is_registry:
            from stackyard.oci_notes import pushed_tarballs

            self._packed |= pushed_tarballs(lines)

    def relayed(
        self, argv: Sequence[str], variables: Mapping[str, str]
    ) -> tuple[int, Sequence[str]]:
        """Run Spack, pass on what it says, and hear all of it."""
        said: list[str] = []

        def tell(line: str) -> None:
            said.append(line)
            console.note(line)

        code, last = relay(argv, tell=tell, env=variables)
        self.hear(said)
        return code, last

    def take_stock(self, prefixes: Mapping[str, str]) -> Stock:
        """What is to be had of the lock. Raises ToolError for nothing; tells what is missing."""
        work = self._work
        wanted = wanted_specs(work.lock, work.roots)
        specs = tuple(spec for spec in wanted.specs if spec.hash in prefixes)
        absent = [
            Missing(spec, "not installed") for spec in wanted.specs if spec.hash not in prefixes
        ]
        if externals := len(work.lock.closure(work.roots)) - wanted.total:
            console.note(f"{externals} externals stay out: they belong to this system")
        if missing := (*absent, *wanted.develop):
            console.warn(
                f"{len(missing)} of {wanted.total} specs cannot be pushed:\n{missing_text(missing)}"
            )
        if not specs:
            raise ToolError(
                "nothing of the stack is installed",
                where=work.lock.where,
                hint=f"spack -e {work.folder} install; or name the Spack that did: --spack DIR",
            )
        return Stock(specs, prefixes)

    def look(self, specs: Sequence[Spec]) -> Mapping[str, Binary]:
        """What is on the mirror already, manifest and blobs, by DAG hash."""
        if self._side.fresh and not self._is_made():
            return {}
        found = find_binaries(
            self.target,
            specs,
            specs=self._work.lock.specs,
            layouts=(self._side.layout,),
            workers=_WORKERS,
            tick=lambda done, total: console.bar("manifests", done, total),
        ).binaries
        side = self._side._replace(fresh=False)
        blobs = {blob for binary in found.values() for blob in blobs_of(binary)}
        stored = stored_blobs(side, blobs, listing=False)
        return {
            key: binary
            for key, binary in found.items()
            if all(blob.key in stored for blob in blobs_of(binary))
        }

    def _is_made(self) -> bool:
        return not isinstance(self.target, FileStore) or self.target.is_there

    def refuse_padding(self, stock: Stock, todo: Sequence[Spec]) -> None:
        """Raise StoreError if the install tree is not like those that the mirror's come from."""
        if self._options.force or not todo:
            return
        roots = {one.hash: prefix_root(stock.prefixes[one.hash], one.hash) for one in todo}
        theirs: Mapping[str, Root | None] = {}
        if not self._side.fresh:
            theirs = sample_roots(self.target, self._side.layout, SAMPLE)
        refuse_padding(roots, theirs, self.target.url)

    def enter(self, todo: Sequence[Spec], there: Mapping[str, Binary]) -> Mapping[str, Binary]:
        """Check what has arrived, and enter it into the index; gives it by DAG hash."""
        arrived = self.look(todo)
        metadata = parallel_map(self._metadata, arrived.values(), workers=_WORKERS)
        if self.is_registry and (arrived or there):
            arrived = self._dressed(arrived, metadata, there)
        if self._options.enter and (arrived or there):
            here = there.keys() - arrived.keys()
            enter_index(self.target, arrived.keys(), metadata, here, there)
        if not self.is_registry and any(
            binary.signed for binary in (*arrived.values(), *there.values())
        ):
            # Spack writes the key that it signed with, and not the list in which readers look.
            from stackyard.edges.mirrors.indexing import write_key_index

            write_key_index(self.target)
        return arrived

    def _dressed(
        self,
        arrived: Mapping[str, Binary],
        metadata: Sequence[Metadata],
        there: Mapping[str, Binary],
    ) -> Mapping[str, Binary]:
        """Annotations and signatures for the images that Spack has just made.

        Only where the tarball in the registry is the one that Spack says to have packed here:
        whatever somebody else put there meanwhile, Spack passed over, and we do not vouch for it.
        """
        from stackyard.flow.signing import image_signer

        ours = [
            (binary, data)
            for binary, data in zip(arrived.values(), metadata, strict=True)
            if self._is_packed(binary) and not binary.signed
        ]
        env, unsigned = self._work.project.env, self._options.unsigned
        with image_signer(env, self._place, self._keys, unsigned=unsigned, warn=self._warn) as sign:
            made = parallel_map(lambda one: self._dress(*one, sign), ours, workers=_DRESSERS)
        found = {**arrived, **{binary.hash: binary for binary in made}}
        bare = [one for one in (*found.values(), *there.values()) if not one.signed]
        if sign and bare:
            self._warn(
                f"{len(bare)} images, such as {bare[0].key}, were not made by this push, so they "
                "are not signed: --force makes them anew"
            )
        return found

    def _is_packed(self, binary: Binary) -> bool:
        return (binary.hash[:7], binary.tarball.checksum) in self._packed

    def _dress(self, binary: Binary, metadata: Metadata, sign: Sign | None) -> Binary:
        """One image; another job may be pushing the same one, and then it is looked at again."""
        from stackyard.edges.mirrors.images import dress_image

        for _ in range(_LOOKS):
            try:
                return dress_image(self.target, binary, metadata, sign=sign)
            except ConflictError:
                binary = read_binary(self.target, "oci", binary.key, binary.hash)
                if binary.signed or not self._is_packed(binary):
                    return binary
                metadata = self._metadata(binary)
        return dress_image(self.target, binary, metadata, sign=sign)

    def _metadata(self, binary: Binary) -> Metadata:
        metadata = read_metadata(self.target, binary)
        check_place(metadata, binary, f"{self.target.url}/{binary.key}")
        return metadata

    def _keys(self) -> Keys:
        from stackyard.flow.trust import find_keys

        work = self._work
        return find_keys(work.project, work.stack.name, work.settings, self._options.keys)

    def _warn(self, text: str) -> None:
        """Each warning once, however many levels are pushed."""
        if text not in self._warned:
            self._warned.add(text)
            console.warn(text)


@contextmanager
def _pushing(
    work: Work, to: str, place: Place, job: PushJob, spack: Spack
) -> Iterator[tuple[Spack, Sequence[str], Path]]:
    """Spack with its variables, the arguments for signing, and the scope that names the mirror."""
    found = named_mirror(work.project, to, flag="--to", push=True, stack=work.stack.name)
    connection = found[0].push if found else Connection(place.url)
    if job.is_registry:
        connection = logged_in(connection, place, work)
    # Spack wants a URL where a user may name a folder.
    url = job.target.url if isinstance(job.target, FileStore) else place.url
    signed = not job.unsigned(place)
    with (
        target_scope(connection, url, signed=signed) as (scope, extra),
        _signing(work, signed=signed) as (arguments, keyring),
    ):
        variables = {**spack.variables, **extra, **keyring}
        force = ("--force",) if job.force else ()
        base = ("--base-image", job.base_image) if job.base_image else ()
        yield spack._replace(variables=variables), (*arguments, *force, *base), scope


def logged_in(connection: Connection, place: Place, work: Work) -> Connection:
    """With the login that we have to a registry: Spack looks into no file of Docker's."""
    if connection.secret or connection.secret_variable:
        return connection
    from stackyard.edges.stores.logins import find_login
    from stackyard.oci import parse_reference

    login = find_login(parse_reference(place.url), place.access, work.project.env)
    if not login.password:
        return connection
    return connection._replace(id=login.user, secret=login.password)


@contextmanager
def _signing(work: Work, *, signed: bool) -> Iterator[tuple[Sequence[str], Mapping[str, str]]]:
    """Arguments for Spack, and the variable that names a keyring of our own if there is one."""
    value = work.project.env.get(_KEY, "")
    if not signed:
        yield ("--unsigned",), {}
    elif not value:
        yield ("--signed",), {}
    else:
        from stackyard.edges.gpg import import_signing_key, open_home, secret_keys

        with open_home() as home:
            fingerprint = import_signing_key(home.path, value)
            secret_keys(home)  # what stops the agent at the end must know that there is one
            yield ("--key", fingerprint), {"SPACK_GNUPGHOME": str(home.path)}


def _tell(
    stock: Stock, todo: Sequence[Spec], arrived: Mapping[str, Binary], seconds: float
) -> None:
    lost = tuple(
        Missing(spec, "Spack passed it over: may it be redistributed?")
        for spec in todo
        if spec.hash not in arrived
    )
    if lost:
        console.warn(f"{len(lost)} specs are not on the mirror:\n{missing_text(lost)}")
    console.note(
        f"{len(stock.specs) - len(todo)} of {len(stock.specs)} already there, "
        f"{len(arrived)} pushed in {seconds:.{0 if seconds > 10 else 1}f} s"
    )
