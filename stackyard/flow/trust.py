"""Which keys count, and what they say of binaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stackyard.edges.stacks import list_stacks
from stackyard.errors import ConfigError, StoreError
from stackyard.settings import Settings

if TYPE_CHECKING:
    from stackyard.binary import Binary
    from stackyard.edges.gpg import Keyring
    from stackyard.flow.steps import Project

__all__ = ["REFUSED", "Checked", "Keys", "check_signatures", "find_keys"]

_NEED_KEYS = (
    "put the public keys into stacks/NAME/keys/ (keys.trust shows those of a mirror), name them by "
    "--keys or trust.keys, or do without: --unsigned"
)


#: What to do about binaries that nobody signed whose key counts.
REFUSED = (
    "do other keys count? name them: --keys; is the mirror one without signatures? say signed: "
    "false in its entry, or --unsigned; else find out who changed it"
)


class Keys(NamedTuple):
    """Public keys as files have them: where from, and bytes. ``source`` says where they were found.

    ``allowed`` are the fingerprints of the only ones that count; all do if it is empty.
    """

    keys: tuple[tuple[str, bytes], ...] = ()
    allowed: frozenset[str] = frozenset()
    source: str = ""


class Checked(NamedTuple):
    """What signatures say, by DAG hash: why a binary is refused, or who signed it.

    ``keys`` are the public keys of those who signed other things than images, armored, by
    fingerprint.
    """

    problems: Mapping[str, str]
    signers: Mapping[str, str]
    keys: Mapping[str, bytes] = {}


def find_keys(project: Project | None, stack: str | None, settings: Settings, option: str) -> Keys:
    """The keys to trust: those of ``--keys``, else of the stack, else of the settings.

    Without a stack the keys of all stacks count. A mirror is never asked. Raises ConfigError for
    files that are not there, and for what is no fingerprint in ``trust.fingerprints``.
    """
    from stackyard.edges.mirrors.keys import key_files, read_keys
    from stackyard.trust import parse_fingerprint

    allowed = frozenset(
        parse_fingerprint(text, f"trust.fingerprints[{number}]")
        for number, text in enumerate(settings.trust.fingerprints)
    )
    if option:
        return Keys(read_keys(Path(option), option.rstrip("/")), allowed, f"--keys {option}")
    if project is None:
        return Keys(allowed=allowed)
    names = [stack] if stack else list_stacks(project.root)
    folders = [project.root / "stacks" / name / "keys" for name in names]
    shown = {folder: project.shown(folder) for folder in folders}
    filled = [folder for folder in folders if key_files(folder, shown[folder])]
    if filled:
        found = tuple(key for folder in filled for key in read_keys(folder, shown[folder]))
        return Keys(found, allowed, ", ".join(shown[folder] for folder in filled))
    paths = settings.trust.keys
    found = tuple(key for path in paths for key in read_keys(project.root / path, path))
    return Keys(found, allowed, "trust.keys" if found else "")


def check_signatures(
    binaries: Iterable[Binary],
    url: str,
    keys: Keys,
    *,
    unsigned: bool = False,
    signed_mirror: bool | None = None,
) -> Checked:
    """Check the signatures of binaries' manifests, and that one is where one has to be.

    Nothing is checked if ``unsigned``, or if the mirror's entry says ``signed: false``
    (``signed_mirror``; None without an entry), but for signatures in a registry: there Spack wants
    that word, so what is signed is checked all the same if there are keys. A binary must be signed
    if the entry does not say so, which is Spack's default, or if there are keys to check with.

    Raises StoreError (6) if something is signed and nobody gave a key, ConfigError for keys that
    are none, ToolError without GnuPG 2.
    """
    if unsigned:
        return Checked({}, {})
    binaries = tuple(binaries)
    if signed_mirror is False:
        binaries = tuple(one for one in binaries if one.layout == "oci" and one.signed)
        if not binaries or not keys.keys:
            return Checked({}, {})
    signed = [binary for binary in binaries if binary.signed]
    problems: dict[str, str] = {}
    if signed_mirror or keys.keys:
        problems = {one.hash: _unsigned_problem(one) for one in binaries if not one.signed}
    if not signed:
        return Checked(problems, {})
    if not keys.keys:
        raise StoreError(
            f"{len(signed)} of {len(binaries)} binaries are signed, and there are no keys to "
            "check them with",
            where=url,
            hint=_NEED_KEYS,
        )
    return _verify(signed, keys, problems)


def _unsigned_problem(binary: Binary) -> str:
    if binary.layout == "oci":
        return (
            "its image is not signed (push it again with SPACK_SIGNING_KEY set; --unsigned, or "
            "signed: false in the mirror's entry, takes it as it is)"
        )
    return "it is not signed"


def _verify(signed: Sequence[Binary], keys: Keys, problems: dict[str, str]) -> Checked:
    from stackyard.edges.gpg import open_keyring

    signers: dict[str, str] = {}
    with open_keyring(keys.keys, keys.allowed) as keyring:
        _need_allowed(keyring, keys)
        verdicts = keyring.verify([(binary.key, _message(binary)) for binary in signed])
        for binary, verdict in zip(signed, verdicts, strict=True):
            problem = verdict.problem
            if binary.layout == "oci" and verdict.text is not None:
                from stackyard.oci_notes import statement_problem

                problem = statement_problem(verdict.text, binary)
            if problem:
                problems[binary.hash] = problem
            else:
                signers[binary.hash] = verdict.signer
        # Spack has no use for the keys of a registry.
        used = {signers[one.hash] for one in signed if one.hash in signers and one.layout != "oci"}
        public = {name: keyring.export(name) for name in sorted(used)}
    return Checked(problems, {k: v for k, v in signers.items() if k not in problems}, public)


def _message(binary: Binary) -> bytes:
    """The clearsigned text: a manifest, or what the manifest of an image carries."""
    if binary.layout != "oci":
        return binary.manifest
    from stackyard.oci_notes import signature_in  # a run on another mirror has no use for it

    return signature_in(binary.manifest) or b""


def _need_allowed(keyring: Keyring, keys: Keys) -> None:
    """A list that allows none of the keys would refuse every binary, which cannot be meant."""
    if keys.allowed and keys.allowed.isdisjoint(keyring.fingerprints):
        raise ConfigError(
            f"none of the keys in {keys.source} is on it",
            where="trust.fingerprints",
            hint=f"they are {', '.join(sorted(keyring.fingerprints))}",
        )
