"""Who signs images: the key of ``SPACK_SIGNING_KEY``, unless nothing is to be signed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stackyard.edges import console

if TYPE_CHECKING:
    from stackyard.edges.mirrors.images import Sign
    from stackyard.edges.stores.access import Place
    from stackyard.flow.trust import Keys

__all__ = ["image_signer", "is_registry"]

_KEY = "SPACK_SIGNING_KEY"


def is_registry(place: Place) -> bool:
    return place.url.startswith(("oci://", "oci+http://"))


@contextmanager
def image_signer(
    env: Mapping[str, str],
    place: Place,
    keys: Callable[[], Keys],
    *,
    unsigned: bool,
    warn: Callable[[str], None] = console.warn,
) -> Iterator[Sign | None]:
    """What signs the images of a registry, until the block ends; None if nothing is signed there.

    That a mirror's entry says ``signed: false`` tells what Spack finds there, and does not matter.
    ``keys`` gives those that readers trust: a warning tells if ours is none of them. Raises
    ConfigError for a key that is none, ToolError without GnuPG 2.
    """
    value = env.get(_KEY, "")
    if unsigned or not is_registry(place) or not value:
        if place.signed and is_registry(place) and not unsigned:
            warn(
                f"the mirror's entry demands signatures, and {_KEY} is not set: what is pushed now "
                "is not signed, and refused by all who read it with our tasks"
            )
        yield None
        return
    from stackyard.edges.gpg import open_keyring, open_signer

    found = keys()
    with open_keyring(found.keys, found.allowed) as keyring:
        trusted = frozenset(keyring.fingerprints)
    with open_signer(value) as signer:
        if signer.fingerprint not in trusted or (
            found.allowed and signer.fingerprint not in found.allowed
        ):
            warn(
                f"the key that signs, {signer.fingerprint}, is not among those that the stack "
                "trusts: nobody can check what it signs (keys.export writes its public part)"
            )
        yield signer.sign
