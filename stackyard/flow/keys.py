"""Signing keys: made for CI, exported, published on a mirror, and taken from one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from stackyard.edges import console
from stackyard.edges.gpg import (
    create_key,
    export_public,
    open_home,
    open_keyring,
    secret_keys,
    signing_value,
    write_private,
)
from stackyard.edges.mirrors.keys import PublishedKey, publish_keys, published_keys
from stackyard.edges.stacks import list_stacks
from stackyard.errors import ConfigError, CorruptError, NotFoundError
from stackyard.flow.places import find_project, named_place
from stackyard.flow.steps import Project, read_stack
from stackyard.trust import Key, UserId, parse_fingerprint

if TYPE_CHECKING:
    from stackyard.settings import Settings

__all__ = ["create", "export", "publish", "trust"]

_FOLDER = ".stackyard"


def create(*, name: str, email: str, comment: str, expires: str, home: str) -> None:
    """Make a signing key for CI; prints its fingerprint. Raises ConfigError, ToolError."""
    project = find_project()
    folder = _home(project, home)
    if not home:
        _ignored(folder.parent)
    with open_home(folder) as gnupg:
        key = create_key(gnupg, UserId(name, email, comment), expires)
    console.out(key.fingerprint)
    console.note(f"made the key of {key.user_id}, {_validity(key)}, in {_shown(project, folder)}")
    console.note(
        "now export it (keys.export --secret-to FILE), keep a copy of the folder where nobody else "
        "gets it, and delete it here"
    )


def _home(project: Project | None, home: str) -> Path:
    if home:
        return Path(home).expanduser()
    if project is None:
        raise ConfigError("no project is here", where="--home", hint="name a folder for the keys")
    return project.root / _FOLDER / "gnupg"


def _ignored(folder: Path) -> None:
    """Make a folder that git passes over: what is in it must never be committed."""
    if not (folder / ".gitignore").exists():
        write_private(folder / ".gitignore", b"*\n")


def _shown(project: Project | None, path: Path) -> str:
    return project.shown(path) if project else str(path)


def _validity(key: Key) -> str:
    if key.state:
        return key.state
    return f"valid until {_day(key.expires_s)}" if key.expires_s else "without an end"


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).date().isoformat()


def export(*, home: str, key: str, secret_to: str, public_to: str, stack: str) -> None:
    """Write the value of SPACK_SIGNING_KEY, and the public key for those who verify.

    Raises ConfigError if it is not clear which key or where to, ToolError if the key does not sign
    once it is imported elsewhere.
    """
    project = find_project()
    folder = _home(project, home)
    if not folder.is_dir():
        raise ConfigError(
            "there are no keys",
            where=_shown(project, folder),
            hint="make one with keys.create, or name the folder: --home",
        )
    with open_home(folder) as gnupg:
        name = _chosen(secret_keys(gnupg), key, _shown(project, folder), secret=bool(secret_to))
        public = export_public(gnupg, name)
        value = signing_value(gnupg, name) if secret_to else ""
    if target := _public_target(project, public_to, stack, name, needed=not secret_to):
        _write_public(target, public)
        console.note(f"public key: {_shown(project, target)} (commit it, give it to your users)")
    if secret_to == "-":  # noqa: S105 - stdout, as programs call it
        console.out(value)
    elif secret_to:
        write_private(Path(secret_to), value.encode())
        console.note(
            f"secret key: {secret_to} (make it the CI variable SPACK_SIGNING_KEY, protected and "
            "masked; then delete the file)"
        )


def _chosen(keys: Sequence[Key], wanted: str, where: str, *, secret: bool) -> str:
    """The key to export. Of one that is named the public part can be had even if it was revoked."""
    usable = [key for key in keys if key.signs and not key.state]
    if wanted:
        name = parse_fingerprint(wanted, "--key")
        usable = [key for key in (usable if secret else keys) if key.fingerprint == name]
    if len(usable) == 1:
        return usable[0].fingerprint
    listed = "; ".join(f"{key.fingerprint} {key.user_id}, {_validity(key)}" for key in keys)
    raise ConfigError(
        f"which key? there are: {listed}" if usable else "no such key can sign",
        where=where,
        hint="name one: --key FINGERPRINT" if usable else listed or "make one with keys.create",
    )


def _public_target(
    project: Project | None, public_to: str, stack: str, name: str, *, needed: bool
) -> Path | None:
    """Where the public key goes; None if nobody said, and it is not the only thing asked for."""
    if public_to:
        return Path(public_to)
    if project and (stack or needed or len(list_stacks(project.root)) == 1):
        return _keys_folder(project, stack) / f"{name}.pub"
    if needed:
        raise ConfigError("nothing to write", where="--public-to", hint="or --secret-to FILE")
    console.note("the public key was not written: name --stack or --public-to")
    return None


def _keys_folder(project: Project, stack: str) -> Path:
    return project.root / read_stack(project, stack)[0].folder / "keys"


def _write_public(path: Path, data: bytes) -> None:
    from stackyard.edges.files import write_files

    write_files({path: data})


def publish(*, url: str, keys: str, stack: str) -> None:
    """Put public keys onto a mirror, and into the list there.

    Raises ConfigError without keys or with secret ones, StoreError for a mirror that has no place
    for them or cannot be written.
    """
    from stackyard.edges.stores.store import writable
    from stackyard.flow.trust import find_keys

    project = find_project()
    place = named_place(project, url, flag="--url", push=True)
    name, settings = _stack(project, stack)
    found = find_keys(project, name, settings, keys)
    if not found.keys:
        raise ConfigError(
            "no public keys",
            where="--keys",
            hint="name a file, or put one into stacks/NAME/keys/ (keys.export does)",
        )
    with open_keyring(found.keys, found.allowed) as keyring:
        good = [key for key in keyring.keys.values() if _is_publishable(key)]
        public = {key.fingerprint: keyring.export(key.fingerprint) for key in good}
    if not public:
        raise ConfigError("none of the keys can be published", where=found.source)
    with closing(place.open()) as store:
        new = publish_keys(writable(store), public)
    for key in good:
        was = "published" if key.fingerprint in new else "already there"
        console.note(f"{was}: {key.fingerprint} {key.user_id}, {_validity(key)}")


def _stack(project: Project | None, stack: str) -> tuple[str | None, Settings]:
    """Name and settings of the stack, if one is named; else the settings of the project."""
    from stackyard.settings import make_settings

    if project and stack:
        found, settings = read_stack(project, stack)
        return found.name, settings
    return None, make_settings(project.settings if project else {})


def _is_publishable(key: Key) -> bool:
    """Revoked keys are: only so do those learn of it who trusted them before."""
    if not key.signs or key.state not in ("", "revoked"):
        console.warn(f"not published: {key.fingerprint}, {key.state or 'it cannot sign'}")
        return False
    return True


def trust(*, url: str, fingerprints: Sequence[str], to: str, stack: str) -> None:
    """Show the keys on a mirror, and take those that are named by their whole fingerprints.

    Raises ConfigError for a short name of a key, NotFoundError if the mirror has none or not that
    one, CorruptError if it has something else under that name.
    """
    wanted = [parse_fingerprint(text, "--fingerprint") for text in fingerprints]
    project = find_project()
    place = named_place(project, url, flag="--url")
    target = _trust_target(project, to, stack) if wanted else None
    with closing(place.open()) as store:
        published = {key.fingerprint: key for key in published_keys(store)}
    if not published:
        raise NotFoundError(
            "the mirror has no public keys",
            where=place.shown,
            hint="who signs has to publish them: keys.publish, or spack gpg publish",
        )
    if target is None:
        for one in published.values():
            console.out(console.printable(_line(one)))
        console.note(
            "anybody who can write to the mirror can put a key there: ask the owner for the "
            "fingerprint in another way, then take the key with --fingerprint"
        )
        return
    taken = {}
    for name in wanted:
        if name not in published:
            raise NotFoundError(
                f"the mirror has no key {name}",
                where=place.shown,
                hint=f"it has {', '.join(published)}",
            )
        taken[name] = _opened(published[name])
    for name, (key, data) in taken.items():
        _write_public(target / f"{name}.pub", data)
        path = _shown(project, target / f"{name}.pub")
        of_it = "nothing that it signed is taken" if key.state else "trusted from now on"
        console.note(f"{of_it}: {name} {key.user_id}, {_validity(key)}: {path}")


def _trust_target(project: Project | None, to: str, stack: str) -> Path:
    if to:
        return Path(to)
    if project is None:
        raise ConfigError("no project is here", where="--to", hint="name a folder for the keys")
    return _keys_folder(project, stack)


def _line(published: PublishedKey) -> str:
    try:
        key, _ = _opened(published)
    except (ConfigError, CorruptError) as error:
        return f"{published.fingerprint}  unusable: {error.message}"
    unlisted = "" if published.listed else ", not in the list of keys: Spack does not find it"
    return (
        f"{key.fingerprint}  {key.user_id}  made {_day(key.created_s)}, {_validity(key)}{unlisted}"
    )


def _opened(published: PublishedKey) -> tuple[Key, bytes]:
    """The key, and its armored form, if the mirror has just this key under its fingerprint."""
    if published.problem:
        raise CorruptError(published.problem, where=published.where)
    with open_keyring([(published.where, published.data)]) as keyring:
        if list(keyring.keys) != [published.fingerprint]:
            raise CorruptError(
                f"it holds the keys {', '.join(keyring.keys)}, not just the one of its name",
                where=published.where,
            )
        return keyring.keys[published.fingerprint], keyring.export(published.fingerprint)
