"""Signatures and keys: what is signed, by whom, and why one is not to be trusted.

Spack signs manifests as clearsigned text (``sign`` in ``util/gpg.py`` of Spack 1.1, RFC 4880 §7).
GnuPG does the arithmetic, ``stackyard/edges/gpg.py`` asks it. Here a message is looked at before
that, far more strictly than GnuPG and Spack do, and what GnuPG said is judged afterwards (its
``doc/DETAILS`` explains the status lines and the lists with colons).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from stackyard.errors import ConfigError

__all__ = [
    "Key",
    "UserId",
    "Verdict",
    "dump_signing_value",
    "find_signer",
    "has_secret",
    "judge",
    "key_parameters",
    "message_problem",
    "packet_tags",
    "parse_fingerprint",
    "parse_keys",
    "parse_signing_value",
    "parse_statuses",
    "same_text",
]

#: GnuPG cuts lines of about 20,000 bytes off, and says nothing.
_LONGEST_LINE = 19_990

_BEGIN = b"-----BEGIN PGP SIGNED MESSAGE-----"
_END = b"-----END PGP SIGNATURE-----"
#: Only the digest may be named before the text: NotDashEscaped would change what is signed.
_HEAD = re.compile(
    rb"-----BEGIN PGP SIGNED MESSAGE-----[ \t]*\r?\n(?:Hash: [A-Za-z0-9, -]{1,100}\r?\n)*[ \t]*\r?\n"
)
_FOOT = re.compile(
    rb"-----BEGIN PGP SIGNATURE-----[ \t]*\r?\n"
    rb"(?:[A-Za-z-]{1,30}: [^\r\n]{0,200}\r?\n)*[ \t]*\r?\n"
    rb"(?P<body>(?:[A-Za-z0-9+/=]{1,100}[ \t]*\r?\n)+)"
    rb"-----END PGP SIGNATURE-----\s*"
)
_BLOCK = re.compile(
    rb"^-----BEGIN PGP [A-Z ]{1,40}-----[ \t]*\r?\n(?:[^\r\n]+\r?\n)*?[ \t]*\r?\n"
    rb"(?P<body>[A-Za-z0-9+/=\s]+)^-----END PGP",
    re.MULTILINE,
)

# Packets of OpenPGP (RFC 4880 §4.3).
_SIGNATURE = 2
_SECRET = 5
_SECRETS = frozenset({_SECRET, 7})  # keys and subkeys

#: Digests for which somebody can make two texts with one signature (RFC 4880 §9.4).
_WEAK_DIGESTS = {"1": "MD5", "2": "SHA-1", "3": "RIPEMD-160"}
_UNSUPPORTED = {"4", "5"}
_NO_KEY = "9"

_VERDICTS = frozenset({"GOODSIG", "BADSIG", "ERRSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG"})
#: What GnuPG says only about messages that are not as they should be.
_FAULTS = frozenset({"NODATA", "UNEXPECTED", "BADARMOR", "ERROR", "FAILURE", "TRUNCATED"})

_FINGERPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")
_EXPIRY = re.compile(r"[1-9][0-9]{0,4}[dwmy]?|20[0-9]{2}-[01][0-9]-[0-3][0-9]")
_STATES = {"e": "expired", "r": "revoked", "i": "invalid", "d": "disabled"}


class Verdict(NamedTuple):
    """What came of a message: ``text`` is what the signature covers, None if it is refused.

    ``signer`` is the fingerprint of the primary key, or whatever is known of the key; ``problem``
    says why the message is refused, and is empty for a good one.
    """

    text: bytes | None
    signer: str
    problem: str


class Key(NamedTuple):
    """A public key. ``subkeys`` are fingerprints; ``expires_s`` is 0 for a key without an end.

    ``state`` is empty, or says why GnuPG does not take the key: expired, revoked, ...
    """

    fingerprint: str
    user_id: str
    created_s: int  # seconds since the epoch, as is the next
    expires_s: int
    state: str
    signs: bool
    subkeys: tuple[str, ...] = ()


class UserId(NamedTuple):
    """Whom a key says that it belongs to."""

    name: str
    email: str = ""
    comment: str = ""


def message_problem(data: bytes) -> str:
    """Why bytes are not one clearsigned text and nothing else; empty if they are.

    GnuPG passes over text before and behind the message, reads several signatures, and takes any
    packet between the lines of the signature. Nothing of that is in what Spack writes.
    """
    if not data.startswith(_BEGIN):
        return _OUTSIDE if _BEGIN in data else "it carries no signature"
    head = _HEAD.match(data)
    if not head:
        return "something is said before the text that is not the name of a digest"
    start = data.find(b"\n-----BEGIN PGP SIGNATURE-----", head.end() - 1) + 1
    if not start:
        return _CUT
    foot = _FOOT.fullmatch(data, start)
    if not foot:
        return _foot_problem(data[start:])
    return _text_problem(data[head.end() : start]) or _signature_problem(foot["body"])


_OUTSIDE = "text stands outside of the signature"
_CUT = "the signature is cut off"
_DAMAGED = "the signature is damaged"


def _foot_problem(foot: bytes) -> str:
    _, end, rest = foot.partition(_END)
    if not end:
        return _CUT
    return _OUTSIDE if rest.strip() else _DAMAGED


def _text_problem(text: bytes) -> str:
    for line in text.split(b"\n"):
        if line.startswith(b"-") and not line.startswith(b"- "):
            return "a line of the text could be taken for the frame around it"
        if len(line) > _LONGEST_LINE:
            return f"a line of the text is longer than the {_LONGEST_LINE} bytes that GnuPG reads"
    return ""


def _signature_problem(body: bytes) -> str:
    """Whether exactly one packet stands there: neither two signatures nor, say, a second text."""
    try:
        tags = packet_tags(_dearmor(body))
    except ValueError:
        return _DAMAGED
    if set(tags) != {_SIGNATURE}:
        return "something else than a signature stands in its place"
    return "" if len(tags) == 1 else f"it carries {len(tags)} signatures, not one"


def _dearmor(body: bytes) -> bytes:
    """Bytes of base64 in lines, the last of which may be a checksum. Raises ValueError."""
    lines = body.split()
    if lines and lines[-1].startswith(b"="):
        lines.pop()
    return base64.b64decode(b"".join(lines), validate=True)


def packet_tags(data: bytes) -> tuple[int, ...]:
    """Kinds of the packets that OpenPGP data consist of. Raises ValueError if they are none."""
    tags = []
    at = 0
    while at < len(data):
        tag, at, size = _packet(data, at)
        tags.append(tag)
        at += size
    if at != len(data):
        raise ValueError("cut off")
    return tuple(tags)


def _packet(data: bytes, at: int) -> tuple[int, int, int]:
    """Kind of the packet at a place, where its content begins, and how long that is."""
    first = data[at]
    if not first & 0x80:
        raise ValueError("not a packet")
    if first & 0x40:
        return first & 0x3F, *_new_size(data, at + 1)
    if first & 3 == 3:
        raise ValueError("a packet without an end")
    width = 1 << (first & 3)
    return first >> 2 & 0xF, at + 1 + width, int.from_bytes(data[at + 1 : at + 1 + width], "big")


def _new_size(data: bytes, at: int) -> tuple[int, int]:
    """Size in the form of newer OpenPGP: where the content begins, how long it is."""
    first, *more = data[at : at + 5] or b"\xe0"
    if first < 192:
        return at + 1, first
    if first < 224 and more:
        return at + 2, (first - 192 << 8) + more[0] + 192
    if first == 255 and len(more) == 4:
        return at + 5, int.from_bytes(bytes(more), "big")
    raise ValueError("a packet in pieces")


def has_secret(data: bytes) -> bool:
    """Whether a key file, armored or not, holds a secret key or anything that says so."""
    return b"PRIVATE KEY BLOCK" in data or not _SECRETS.isdisjoint(_all_tags(data))


def _all_tags(data: bytes) -> list[int]:
    """Kinds of the packets in all blocks; what is damaged is left to GnuPG to complain of."""
    tags: list[int] = []
    for block in _blocks(data):
        with suppress(ValueError):
            tags += packet_tags(block)
    return tags


def _blocks(data: bytes) -> Iterator[bytes]:
    if data[:1] >= b"\x80":
        yield data
        return
    for match in _BLOCK.finditer(data):
        with suppress(ValueError):
            yield _dearmor(match["body"])


def parse_statuses(output: bytes) -> tuple[tuple[str, bool, tuple[str, ...]], ...]:
    """What GnuPG's status lines say of each file: its name, whether it came to the end, the lines.

    ``output`` is what ``gpg --status-fd 1 --decrypt-files`` writes; the prefix of lines is removed.
    """
    files: list[tuple[str, bool, tuple[str, ...]]] = []
    name: str | None = None
    lines: list[str] = []
    for line in output.decode("utf-8", "replace").split("\n"):
        prefix, _, text = line.partition("[GNUPG:] ")
        if prefix or not text:
            continue
        if text.startswith("FILE_START "):
            if name is not None:
                files.append((name, False, tuple(lines)))
            name, lines = text.split(" ", 2)[2], []
        elif text == "FILE_DONE" and name is not None:
            files.append((name, True, tuple(lines)))
            name = None
        elif name is not None:
            lines.append(text)
    if name is not None:
        files.append((name, False, tuple(lines)))
    return tuple(files)


def judge(
    lines: Sequence[str], keys: Mapping[str, Key], allowed: Collection[str] = ()
) -> tuple[str, str]:
    """Who signed a message, and what is wrong with that: empty text for a good signature.

    ``lines`` are of one message, ``keys`` those that we hold, by the fingerprints of their primary
    keys; ``allowed`` narrows them, if it is not empty. GnuPG's exit code says much less: it is 0
    for signatures of any key, weak digests and all.
    """
    words = [line.split() for line in lines]
    verdicts = [line for line in words if line and line[0] in _VERDICTS]
    if len(verdicts) > 1:
        return "", f"it carries {len(verdicts)} signatures, not one"
    if not verdicts:
        return "", _fault(words) or "it carries no signature"
    verdict = verdicts[0]
    signer = find_signer(words, keys)
    if problem := _verdict_problem(verdict, signer):
        return signer, problem
    problem = _fault(words) or _valid_problem(words) or _key_problem(signer, keys, allowed)
    return signer, problem


def find_signer(words: Sequence[Sequence[str]], keys: Mapping[str, Key]) -> str:
    """The primary key that the lines speak of; of an unknown key the longest name they give."""
    for line in words:
        if line[:1] == ["VALIDSIG"] and len(line) > 10:
            return line[10]
    for line in words:
        if line and line[0] in _VERDICTS and len(line) > 1:
            known = line[0] == "ERRSIG" and len(line) > 7 and line[7] != "-"
            name = line[7] if known else line[1]
            for key in keys.values():
                if any(one.endswith(name) for one in (key.fingerprint, *key.subkeys)):
                    return key.fingerprint
            return name
    return ""


def _verdict_problem(verdict: Sequence[str], signer: str) -> str:
    kind = verdict[0]
    code = verdict[6] if kind == "ERRSIG" and len(verdict) > 6 else ""
    if kind == "ERRSIG" and code == _NO_KEY:
        return f"signed with the unknown key {signer}"
    if kind == "ERRSIG" and code in _UNSUPPORTED:
        return "signed in a way that GnuPG here does not accept"
    return {
        "GOODSIG": "",
        "BADSIG": "the text was changed after it was signed",
        "EXPSIG": f"the signature by the key {signer} has expired",
        "EXPKEYSIG": f"the key {signer} has expired",
        "REVKEYSIG": f"the key {signer} was revoked",
        "ERRSIG": f"GnuPG could not check the signature (code {code or '?'})",
    }[kind]


def _fault(words: Sequence[Sequence[str]]) -> str:
    for line in words:
        if line and line[0] in _FAULTS:
            return f"GnuPG cannot make sense of it ({' '.join(line)})"
    return ""


def _valid_problem(words: Sequence[Sequence[str]]) -> str:
    """Whether the one signature is over one text, and by a digest that still means something."""
    valid = [line for line in words if line and line[0] == "VALIDSIG"]
    texts = [line for line in words if line and line[0] == "PLAINTEXT"]
    if len(valid) != 1 or len(valid[0]) < 11 or len(texts) != 1:
        return "GnuPG does not say that the signature is valid"
    if digest := _WEAK_DIGESTS.get(valid[0][8]):
        return f"signed with the digest {digest}, which can be forged"
    return "" if valid[0][9] in ("00", "01") else "the signature is not one of a text"


def _key_problem(signer: str, keys: Mapping[str, Key], allowed: Collection[str]) -> str:
    if signer not in keys:
        return f"signed with the unknown key {signer}"
    if allowed and signer not in allowed:
        return f"the key {signer} is not on the allow-list"
    return ""


def same_text(one: bytes, other: bytes) -> bool:
    """Whether two texts are the same to a signature, which does not cover white space at ends."""
    return _bare(one) == _bare(other)


def _bare(text: bytes) -> list[bytes]:
    return [line.rstrip(b" \t\r") for line in text.rstrip(b" \t\r\n").split(b"\n")]


def parse_keys(listing: bytes) -> tuple[Key, ...]:
    """The keys in what ``gpg --list-keys --with-colons --with-fingerprint`` (twice) writes."""
    keys: list[Key] = []
    pending = ""
    for line in listing.decode("utf-8", "replace").split("\n"):  # a name can have any other break
        fields = line.split(":")
        kind = fields[0]
        if kind in ("pub", "sec") and len(fields) > 11:
            keys.append(_key(fields))
            pending = kind
        elif not keys:
            continue
        elif kind in ("sub", "ssb") and len(fields) > 11:
            keys[-1] = keys[-1]._replace(signs=keys[-1].signs or "s" in fields[11].lower())
            pending = kind
        elif kind == "fpr" and pending and len(fields) > 9:
            keys[-1] = _named(keys[-1], fields[9], primary=pending in ("pub", "sec"))
            pending = ""
        elif kind == "uid" and not keys[-1].user_id and len(fields) > 9:
            keys[-1] = keys[-1]._replace(user_id=_unescaped(fields[9]))
    return tuple(key for key in keys if _FINGERPRINT.fullmatch(key.fingerprint))


def _key(fields: Sequence[str]) -> Key:
    return Key(
        fingerprint="",
        user_id="",
        created_s=_number(fields[5]),
        expires_s=_number(fields[6]),
        state=_STATES.get(fields[1][:1], ""),
        signs="s" in fields[11].lower(),
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _named(key: Key, fingerprint: str, *, primary: bool) -> Key:
    if primary:
        return key._replace(fingerprint=fingerprint)
    return key._replace(subkeys=(*key.subkeys, fingerprint))


def _unescaped(text: str) -> str:
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), text)


def parse_fingerprint(text: str, where: str) -> str:
    """A fingerprint in capitals, from one that was written with spaces, colons or small letters.

    Raises ConfigError naming ``where`` for a short name of a key: those can be forged.
    """
    bare = re.sub(r"[\s:]", "", text).upper().removeprefix("0X")
    if _FINGERPRINT.fullmatch(bare):
        return bare
    short = re.fullmatch(r"[0-9A-F]{8,39}", bare)
    raise ConfigError(
        "a short name of a key can be forged" if short else f"{text[:80]!r} is no fingerprint",
        where=where,
        hint="give the whole fingerprint, 40 hexadecimal digits, as the key's owner tells it",
    )


def key_parameters(user: UserId, expires: str = "") -> bytes:
    """What ``gpg --batch --gen-key`` is told, to make a key like that of ``spack gpg create``.

    ``expires`` is such as ``2y`` or ``2027-12-31``; empty: never. Raises ConfigError.
    """
    if not user.name.strip():
        raise ConfigError("a key needs a name", where="--name", hint="such as the project's")
    for value, where in zip(user, ("--name", "--email", "--comment"), strict=True):
        if not value.isprintable() or re.search(r"[<>()]", value):
            raise ConfigError("it can have no control characters and none of < > ( )", where=where)
    if user.email and not re.fullmatch(r"[^\s@]+@[^\s@]+", user.email):
        raise ConfigError(f"{user.email!r} is no address", where="--email")
    if expires and not _EXPIRY.fullmatch(expires):
        raise ConfigError(f"{expires!r} is no time", where="--expires", hint="2y, or 2027-12-31")
    lines = [
        # RSA, although a key of Ed25519 is made at once and shorter: GnuPG 2.0, with which some
        # clusters still run, cannot read any other that Spack's GnuPG can make.
        "Key-Type: rsa",
        "Key-Length: 4096",
        "Key-Usage: sign",
        f"Name-Real: {user.name.strip()}",
        *([f"Name-Email: {user.email}"] if user.email else []),
        *([f"Name-Comment: {user.comment.strip()}"] if user.comment.strip() else []),
        f"Expire-Date: {expires or '0'}",
        "%no-protection",
        "%commit",
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def dump_signing_value(armored: bytes) -> str:
    """The value of ``SPACK_SIGNING_KEY`` for an armored secret key: base64 in one line."""
    return base64.b64encode(armored).decode("ascii")


def parse_signing_value(value: str, where: str = "$SPACK_SIGNING_KEY") -> bytes:
    """The armored secret key in a ``SPACK_SIGNING_KEY``, as ``spack ci rebuild`` reads it.

    Raises ConfigError naming ``where`` and never the value: no such thing, or several keys.
    """
    hint = "make it with: stackyard keys.export --secret-to FILE"
    try:
        armored = base64.b64decode(value)
        armored.decode("utf-8")
    except (binascii.Error, ValueError):
        raise ConfigError("it is not base64 of an armored key", where=where, hint=hint) from None
    if b"-----BEGIN PGP PRIVATE KEY BLOCK-----" not in armored:
        raise ConfigError("it holds no armored secret key", where=where, hint=hint)
    if (count := _all_tags(armored).count(_SECRET)) != 1:
        raise ConfigError(
            f"it holds {count} secret keys, and Spack signs only where there is one",
            where=where,
            hint=hint,
        )
    return armored
