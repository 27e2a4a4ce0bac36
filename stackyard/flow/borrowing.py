"""Before a ``build``: install from the mirror what is not built and needed for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from stackyard.building import log_name
from stackyard.edges.mirrors.layouts import find_binaries
from stackyard.edges.spack import Spack, install_command, installed, mirror_entry
from stackyard.edges.stores.folder import FileStore
from stackyard.errors import CorruptError
from stackyard.flow.installed import logged_in
from stackyard.flow.trust import check_signatures, find_keys

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from stackyard.binary import Binary
    from stackyard.flow.ground import Ground
    from stackyard.flow.trust import Checked

__all__ = ["Brought", "bring"]

_MIRROR = "stackyard-source"
_ONLY = ("--use-buildcache", "only")
_NAME = "installing what is reused"
_LOG = "reused.txt"


class Brought(NamedTuple):
    """``logs``: what Spack said of those that could not be installed; both by DAG hash."""

    logs: Mapping[str, Path]
    sizes_bytes: Mapping[str, int | None]


def bring(ground: Ground, wanted: Sequence[str]) -> Brought:
    """Install these binaries, dependencies first in ``wanted``; their signatures are checked.

    Raises StoreError for a mirror that cannot be read, CorruptError for one with binaries whose
    signatures do not hold.
    """
    if not wanted:
        return Brought({}, {})
    ground.watch.say(f"{len(wanted)} reused binaries to install: {ground.goal.source.shown}")
    binaries, url = _find(ground, wanted)
    checked = _trusted(ground, binaries)
    connection, source = ground.goal.connection, ground.goal.source
    if source.url.startswith(("oci://", "oci+http://")):
        connection = logged_in(connection, source, ground.work)
    entry, extra = mirror_entry(connection, url, signed=bool(checked.keys))
    with (
        ground.environment({_MIRROR: entry}, alone=True) as environment,
        _keyring(checked) as keyring,
    ):
        variables = {**ground.spack.variables, **extra, **keyring}
        spack = ground.spack._replace(variables=variables)
        logs = _install(ground, spack, environment, wanted)
    return Brought(logs, {key: one.tarball.size_bytes for key, one in binaries.items()})


def _find(ground: Ground, wanted: Sequence[str]) -> tuple[Mapping[str, Binary], str]:
    """The binaries on the mirror, and its URL as Spack wants it."""
    source, specs = ground.goal.source, ground.plan.lock.specs
    with closing(source.open()) as store:
        search = find_binaries(store, [specs[key] for key in wanted], specs=specs)
        return search.binaries, store.url if isinstance(store, FileStore) else source.url


def _trusted(ground: Ground, binaries: Mapping[str, Binary]) -> Checked:
    work, source = ground.work, ground.goal.source
    checked = check_signatures(
        binaries.values(),
        source.shown,
        find_keys(work.project, work.stack.name, work.settings, ground.options.keys),
        unsigned=ground.options.unsigned,
        signed_mirror=source.signed,
    )
    if checked.problems:
        lines = "\n".join(f"  {ground.name(key)}: {one}" for key, one in checked.problems.items())
        raise CorruptError(
            f"{len(checked.problems)} binaries are refused, so nothing is built with them:\n{lines}",
            where=source.shown,
            hint="find out who changed the mirror; or build them too: --no-prune",
        )
    return checked


@contextmanager
def _keyring(checked: Checked) -> Iterator[Mapping[str, str]]:
    """A variable that gives Spack a keyring with the keys of those who signed, and no others."""
    if not checked.keys:
        yield {}
        return
    from stackyard.edges.gpg import open_home, secret_keys

    with open_home() as home:
        for fingerprint, data in checked.keys.items():
            home.need(f"importing the key {fingerprint}", "--batch", "--import", feed=data)
        secret_keys(home)  # starts the agent, as Spack may do, so that it is stopped at the end
        yield {"SPACK_GNUPGHOME": str(home.path)}


def _install(
    ground: Ground, spack: Spack, environment: Path, wanted: Sequence[str]
) -> Mapping[str, Path]:
    """All at one go; if that fails, each that is lacking for itself, to see which it is."""
    folder = ground.options.logs

    def lacking(names: Collection[str]) -> list[str]:
        there = installed(spack, environment)
        return [key for key in names if key not in there]

    argv = install_command(spack, environment, wanted, *_ONLY)
    if ground.run(_NAME, argv, _LOG, spack.variables).code == 0:
        return {}
    failed: dict[str, Path] = {}
    for key in lacking(wanted):
        log = log_name(ground.plan.lock.specs[key])
        argv = install_command(spack, environment, [key], *_ONLY)
        if ground.run(ground.name(key), argv, log, spack.variables).code:
            failed[key] = folder / log
    return failed
