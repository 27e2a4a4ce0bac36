"""Tasks about signing keys: ``keys.create``, ``export``, ``publish``, ``trust``."""

from __future__ import annotations

from invoke.context import Context

from stackyard.tasks.told import STACK, flow, told

_HOME = "folder of the keyring (default .stackyard/gnupg in the project)"


@told(
    help={
        "name": "name in the key, such as the project's",
        "email": "address in the key",
        "comment": "comment in the key",
        "expires": "when it ends, such as 2y (default: never)",
        "home": _HOME,
    }
)
def create(
    _: Context,
    name: str = "",
    email: str = "",
    comment: str = "",
    expires: str = "",
    home: str = "",
) -> None:
    """Make a signing key for CI: without passphrase, for signing only."""
    flow("keys").create(name=name, email=email, comment=comment, expires=expires, home=home)


@told(
    help={
        "home": _HOME,
        "key": "which key, by fingerprint (default: the only one that can sign)",
        "secret_to": "file for the value of SPACK_SIGNING_KEY (- for stdout)",
        "public_to": "file for the public key (default: stacks/NAME/keys/FINGERPRINT.pub)",
        "stack": STACK,
    }
)
def export(
    _: Context,
    home: str = "",
    key: str = "",
    secret_to: str = "",
    public_to: str = "",
    stack: str = "",
) -> None:
    """Write the value of SPACK_SIGNING_KEY to a file, and the public key beside the stack."""
    flow("keys").export(home=home, key=key, secret_to=secret_to, public_to=public_to, stack=stack)


@told(
    help={
        "url": "the mirror: a URL, a folder, or the name of a mirror in a stack",
        "keys": "file or folder with public keys (default: the stack's keys/, then settings)",
        "stack": "publish the keys of this stack (default: those of all stacks)",
    }
)
def publish(_: Context, url: str = "", keys: str = "", stack: str = "") -> None:
    """Put public keys onto a mirror, with the index that Spack's users find them by."""
    flow("keys").publish(url=url, keys=keys, stack=stack)


@told(
    iterable=["fingerprint"],
    help={
        "url": "the mirror: a URL, a folder, or the name of a mirror in a stack",
        "fingerprint": "the key to trust, as its owner told you (repeatable; default: only show)",
        "to": "folder to put it into (default: the stack's keys/)",
        "stack": STACK,
    },
)
def trust(
    _: Context,
    url: str = "",
    fingerprint: list[str] | None = None,
    to: str = "",
    stack: str = "",
) -> None:
    """Show the keys on a mirror; take those whose fingerprint you name."""
    flow("keys").trust(url=url, fingerprints=tuple(fingerprint or ()), to=to, stack=stack)
