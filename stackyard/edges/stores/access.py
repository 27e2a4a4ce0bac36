"""What opens a mirror: values for the names of variables that its entry in ``mirrors:`` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stackyard.edges.settings import Environment, conceal
from stackyard.edges.stores.store import ANONYMOUS, Access, Store, open_store, public_url
from stackyard.errors import ConfigError

if TYPE_CHECKING:
    from stackyard.stack import Connection, Mirror

__all__ = ["Place", "access_to", "mirror_place"]


class Place(NamedTuple):
    """A mirror in one direction. ``signed`` is None where only a URL is known."""

    name: str
    url: str
    signed: bool | None = None
    access: Access = ANONYMOUS

    @property
    def shown(self) -> str:
        """Its URL, fit to be printed."""
        return public_url(self.url)

    def open(self) -> Store:
        """The store there; nothing is read yet."""
        return open_store(self.url, self.access)


def mirror_place(mirror: Mirror, env: Environment, where: str, *, push: bool = False) -> Place:
    """One direction of a stack's mirror. Raises ConfigError as ``access_to`` does."""
    connection = mirror.push if push else mirror.fetch
    access = access_to(connection, env, f"{where}: spack.mirrors.{mirror.name}", push=push)
    return Place(mirror.name, connection.url, mirror.signed, access)


def access_to(connection: Connection, env: Environment, where: str, *, push: bool) -> Access:
    """The access that a connection describes; its secrets are masked in all output from now on.

    Spack reads without credentials where a named variable is not set, and refuses to push then
    (``get_credentials`` and ``ensure_mirror_usable`` in ``mirrors/mirror.py`` of Spack 1.1); so do
    we. Raises ConfigError naming ``where``, the mirror's place in its file, and the variable.
    """
    names = {
        "access_pair.id_variable": connection.id_variable,
        "access_pair.secret_variable": connection.secret_variable,
        "access_token_variable": connection.access_token_variable,
    }
    values = {key: env.get(name, "") for key, name in names.items()}
    for key, name in names.items():
        if push and name and not values[key]:
            raise ConfigError(
                f"the variable {name} is not set",
                where=f"{where}.{key}",
                hint="set it where this runs, never in the file",
            )
    id_, secret, token = values.values()
    whole = bool((connection.id or id_) and (connection.secret or secret))
    conceal(connection.secret, secret, token)
    return Access(
        id=(connection.id or id_) if whole else "",
        secret=(connection.secret or secret) if whole else "",
        token=token,
        profile=connection.profile,
        endpoint_url=connection.endpoint_url,
    )
