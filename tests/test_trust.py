"""What is signed, and what GnuPG's words mean: without a GnuPG."""

from __future__ import annotations

import base64

import pytest
from tests_data import DATA

from stackyard.errors import ConfigError
from stackyard.trust import (
    Key,
    UserId,
    dump_signing_value,
    has_secret,
    judge,
    key_parameters,
    message_problem,
    packet_tags,
    parse_fingerprint,
    parse_keys,
    parse_signing_value,
    parse_statuses,
    same_text,
)

(SIGNED,) = (
    path.read_bytes()
    for path in (
        DATA / "mirrors" / "v3-signed" / "v3" / "manifests" / "spec" / "tiny-base"
    ).iterdir()
)
HEAD = b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n"
FOOT = b"-----BEGIN PGP SIGNATURE-----\n"
TEXT = SIGNED[len(HEAD) : SIGNED.index(FOOT)]
SIGNATURE = SIGNED[SIGNED.index(FOOT) :]
PACKET = base64.b64decode(b"".join(SIGNATURE.split(b"\n")[2:-3]))
OUTSIDE = "text stands outside of the signature"


def frame(*packets: bytes, extra: bytes = b"") -> bytes:
    body = base64.encodebytes(b"".join(packets))
    return FOOT + extra + b"\n" + body + b"-----END PGP SIGNATURE-----\n"


MESSAGES: list[tuple[str, bytes, str]] = [
    ("as Spack signs", SIGNED, ""),
    ("no digest named", SIGNED.replace(b"Hash: SHA512\n", b""), ""),
    ("two digests named", SIGNED.replace(b"SHA512\n", b"SHA512, SHA256\nHash: SHA1\n"), ""),
    ("line ends of Windows", SIGNED.replace(b"\n", b"\r\n"), ""),
    ("no line end at the end", SIGNED.rstrip(), ""),
    ("blanks behind it", SIGNED + b"\n \n", ""),
    ("a comment beside the signature", HEAD + TEXT + frame(PACKET, extra=b"Comment: x\n"), ""),
    ("an escaped dash", HEAD + b"- - a\n" + SIGNATURE, ""),
    ("plain JSON", TEXT, "it carries no signature"),
    ("empty", b"", "it carries no signature"),
    ("text before", b"x\n" + SIGNED, OUTSIDE),
    ("a line before", b"\n" + SIGNED, OUTSIDE),
    ("text behind", SIGNED + b"x", OUTSIDE),
    ("JSON behind", SIGNED + TEXT, OUTSIDE),
    ("twice", SIGNED + SIGNED, OUTSIDE),
    ("a signature behind", SIGNED + SIGNATURE, OUTSIDE),
    ("no signature at all", HEAD + TEXT, "the signature is cut off"),
    ("cut in the signature", SIGNED[:-40], "the signature is cut off"),
    ("cut in the text", SIGNED[:100], "the signature is cut off"),
    ("not dash escaped", SIGNED.replace(b"Hash: SHA512", b"NotDashEscaped: x"), "something is said before the text"),
    ("a character set", SIGNED.replace(b"SHA512\n", b"SHA512\nCharset: x\n"), "something is said before the text"),
    ("text in the header", SIGNED.replace(b"SHA512\n", b'{"a": 1}\n'), "something is said before the text"),
    ("a bare dash", HEAD + b"-a\n" + SIGNATURE, "a line of the text could be taken for the frame"),
    ("a header in the text", HEAD + HEAD + TEXT + SIGNATURE, "a line of the text could be taken"),
    ("a long line", HEAD + b"x" * 19_990 + b"\n" + SIGNATURE, ""),
    ("a longer line", HEAD + b"x" * 19_991 + b"\n" + SIGNATURE, "longer than the 19990 bytes"),
    ("two signatures", HEAD + TEXT + frame(PACKET, PACKET), "it carries 2 signatures, not one"),
    ("a literal text as signature", HEAD + TEXT + frame(b"\xcb\x02hi"), "something else than a signature"),
    ("a packed bomb as signature", HEAD + TEXT + frame(b"\xc8\x02\x01\x00"), "something else than a signature"),
    ("a text beside the signature", HEAD + TEXT + frame(PACKET, b"\xcb\x02hi"), "something else than a signature"),
    ("nothing as signature", HEAD + TEXT + FOOT + b"\n-----END PGP SIGNATURE-----\n", "the signature is damaged"),
    ("no base64", HEAD + TEXT + FOOT + b"\na!b\n-----END PGP SIGNATURE-----\n", "the signature is damaged"),
    ("half a packet", HEAD + TEXT + frame(PACKET[:-9]), "the signature is damaged"),
    ("bytes behind the packet", HEAD + TEXT + frame(PACKET, b"\0"), "the signature is damaged"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "problem"), [row[1:] for row in MESSAGES], ids=[m[0] for m in MESSAGES]
)
def test_only_a_whole_message_is_taken(data: bytes, problem: str) -> None:
    found = message_problem(data)
    assert problem in found
    assert bool(found) == bool(problem)


PACKETS: list[tuple[str, bytes, tuple[int, ...] | None]] = [
    ("nothing", b"", ()),
    ("old form, one byte of size", b"\x88\x01x", (2,)),
    ("old form, two bytes", b"\x89\x00\x01x", (2,)),
    ("old form, four bytes", b"\x8a\x00\x00\x00\x01x", (2,)),
    ("new form, one byte", b"\xc2\x01x", (2,)),
    ("new form, two bytes", b"\xc2\xc0\x00" + b"x" * 192, (2,)),
    ("new form, five bytes", b"\xc2\xff\x00\x00\x00\x01x", (2,)),
    ("two", b"\xc2\x01x\x88\x01x", (2, 2)),
    ("without an end", b"\x8bxxxx", None),
    ("in pieces", b"\xc2\xe0x", None),
    ("no packet", b"hello", None),
    ("cut in its size", b"\xc2", None),
    ("cut in its size of five", b"\xc2\xff\x00", None),
    ("cut", b"\x88\x05x", None),
]


@pytest.mark.parametrize(
    ("data", "tags"), [row[1:] for row in PACKETS], ids=[p[0] for p in PACKETS]
)
def test_packets(data: bytes, tags: tuple[int, ...] | None) -> None:
    if tags is None:
        with pytest.raises(ValueError, match=r"packet|cut"):
            packet_tags(data)
    else:
        assert packet_tags(data) == tags


def armored(packets: bytes, kind: str = "PUBLIC KEY BLOCK") -> bytes:
    body = base64.encodebytes(packets).decode()
    return f"-----BEGIN PGP {kind}-----\n\n{body}=abcd\n-----END PGP {kind}-----\n".encode()


PUBLIC, SECRET, SUBKEY = b"\x98\x01x", b"\x94\x01x", b"\x9c\x01x"


@pytest.mark.parametrize(
    ("data", "secret"),
    [
        (PUBLIC, False),
        (SECRET, True),
        (PUBLIC + SUBKEY, True),
        (armored(PUBLIC), False),
        (armored(PUBLIC) + b"a note\n" + armored(PUBLIC), False),
        (armored(SECRET), True),
        (armored(PUBLIC) + armored(SECRET), True),
        (armored(PUBLIC, "PRIVATE KEY BLOCK"), True),
        (b"\x99broken", False),
        (b"", False),
    ],
)
def test_sees_secret_keys(data: bytes, *, secret: bool) -> None:
    assert has_secret(data) is secret


FPR = "A" * 39 + "1"
SUB = "B" * 39 + "2"
OTHER = "C" * 40
KEYS = {FPR: Key(FPR, "Good <g@example.org>", 1, 0, "", signs=True, subkeys=(SUB,))}
ID, SUB_ID, OTHER_ID = FPR[-16:], SUB[-16:], OTHER[-16:]
PLAIN = "PLAINTEXT 74 0 "
GOOD = f"GOODSIG {ID} Good <g@example.org>"


def valid(key: str = FPR, primary: str = FPR, digest: int = 10, kind: str = "01") -> str:
    return f"VALIDSIG {key} 2026-01-01 1 0 4 0 1 {digest} {kind} {primary}"


SAID: list[tuple[str, list[str], str, str]] = [
    ("good", [PLAIN, "NEWSIG", GOOD, valid()], FPR, ""),
    ("by a subkey", [PLAIN, f"GOODSIG {SUB_ID} Good", valid(SUB)], FPR, ""),
    ("binary signature", [PLAIN, GOOD, valid(kind="00")], FPR, ""),
    ("signature on a key", [PLAIN, GOOD, valid(kind="13")], FPR, "the signature is not one of a text"),
    ("SHA-1", [PLAIN, GOOD, valid(digest=2)], FPR, "signed with the digest SHA-1, which can be forged"),
    ("MD5", [PLAIN, GOOD, valid(digest=1)], FPR, "signed with the digest MD5, which can be forged"),
    ("unknown key", [PLAIN, f"ERRSIG {OTHER_ID} 1 10 01 1 9 {OTHER}", f"NO_PUBKEY {OTHER_ID}"], OTHER, f"signed with the unknown key {OTHER}"),
    ("unknown key, old GnuPG", [PLAIN, f"ERRSIG {OTHER_ID} 1 10 01 1 9"], OTHER_ID, f"signed with the unknown key {OTHER_ID}"),
    ("valid and not ours", [PLAIN, f"GOODSIG {OTHER_ID} x", valid(OTHER, OTHER)], OTHER, f"signed with the unknown key {OTHER}"),
    ("algorithm", [PLAIN, f"ERRSIG {ID} 99 10 01 1 4 {FPR}"], FPR, "signed in a way that GnuPG here does not accept"),
    ("any other error", [PLAIN, f"ERRSIG {ID} 1 10 01 1 37 {FPR}"], FPR, "GnuPG could not check the signature (code 37)"),
    ("changed", [PLAIN, f"BADSIG {ID} a b c d e f {OTHER}"], FPR, "the text was changed after it was signed"),
    ("expired", [PLAIN, "KEYEXPIRED 1", f"EXPKEYSIG {ID} Good", valid()], FPR, f"the key {FPR} has expired"),
    ("revoked", [PLAIN, f"REVKEYSIG {SUB_ID} Good", valid(SUB)], FPR, f"the key {FPR} was revoked"),
    ("signature expired", [PLAIN, f"EXPSIG {ID} Good", valid()], FPR, f"the signature by the key {FPR} has expired"),
    ("two", [PLAIN, GOOD, valid(), GOOD, valid()], "", "it carries 2 signatures, not one"),
    ("a good and a bad one", [PLAIN, GOOD, valid(), f"BADSIG {ID} x"], "", "it carries 2 signatures, not one"),
    ("good, not valid", [PLAIN, GOOD], FPR, "GnuPG does not say that the signature is valid"),
    ("good over nothing", [GOOD, valid()], FPR, "GnuPG does not say that the signature is valid"),
    ("good over two texts", [PLAIN, PLAIN, GOOD, valid()], FPR, "GnuPG does not say that the signature is valid"),
    ("good with an error", [PLAIN, GOOD, valid(), "ERROR proc_pkt.plaintext 89_BAD_DATA"], FPR, "GnuPG cannot make sense of it (ERROR proc_pkt.plaintext 89_BAD_DATA)"),
    ("nothing signed", ["NODATA 1"], "", "GnuPG cannot make sense of it (NODATA 1)"),
    ("no words", [], "", "it carries no signature"),
    ("empty words", ["", "GOODSIG"], "", "GnuPG does not say that the signature is valid"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "signer", "problem"), [r[1:] for r in SAID], ids=[r[0] for r in SAID]
)
def test_judges(lines: list[str], signer: str, problem: str) -> None:
    assert judge(lines, KEYS) == (signer, problem)


def test_the_allow_list_narrows() -> None:
    lines = [PLAIN, GOOD, valid()]
    assert judge(lines, KEYS, {FPR, OTHER}) == (FPR, "")
    assert judge(lines, KEYS, {OTHER}) == (FPR, f"the key {FPR} is not on the allow-list")


def test_statuses_belong_to_files() -> None:
    output = b"""[GNUPG:] KEY_CONSIDERED x 0
[GNUPG:] FILE_START 3 0.asc
[GNUPG:] GOODSIG x
noise [GNUPG:] GOODSIG y
[GNUPG:] FILE_DONE
[GNUPG:] GOODSIG nobody
[GNUPG:] FILE_START 3 1.asc
[GNUPG:] FILE_START 3 2.asc
[GNUPG:] BADSIG \xff
"""
    assert parse_statuses(output) == (
        ("0.asc", True, ("GOODSIG x",)),
        ("1.asc", False, ()),
        ("2.asc", False, ("BADSIG \ufffd",)),
    )


LISTING = f"""tru::1:1:0:3:1:5
pub:-:4096:1:{ID}:1795233210:::-:::scSC::::::23::0:
fpr:::::::::{FPR}:
grp:::::::::{OTHER}:
uid:-::::1::X::Good \\x3a One <g@example.org>::::::::::0:
uid:-::::1::X::Second\u2028fpr:::::::::{OTHER}:\u2028:::::::::0:
sub:-:255:22:{SUB_ID}:1::::::e:::::ed25519::
fpr:::::::::{SUB}:
pub:e:255:22:{OTHER_ID}:1577836800:1577923200::-:::c:::::ed25519:::0:
fpr:::::::::{OTHER}:
sub:e:255:22:{SUB_ID}:1::::::s:::::ed25519::
fpr:::::::::{SUB}:
pub:r:1024:17:0:1:::-:::sc::::::23::0:
fpr:::::::::0123456789ABCDEF0123456789ABCDEF:
""".encode()


def test_lists_keys() -> None:
    good, old = parse_keys(LISTING)
    assert good == Key(FPR, "Good : One <g@example.org>", 1795233210, 0, "", True, (SUB,))
    assert old == Key(OTHER, "", 1577836800, 1577923200, "expired", True, (SUB,))
    assert parse_keys(b"") == parse_keys(b"gpg: nothing\n:::\nfpr:\n") == ()


@pytest.mark.parametrize(
    "text",
    ["B68A 2358 25B4 9AA6 87A8  8D1F 1259 F660 4539 DA29", "b68a235825b49aa687a88d1f1259f6604539da29",
     "0xB68A235825B49AA687A88D1F1259F6604539DA29", " B6:8A:23:58:25:B4:9A:A6:87:A8:8D:1F:12:59:F6:60:45:39:DA:29\n"],
)  # fmt: skip
def test_reads_fingerprints(text: str) -> None:
    assert parse_fingerprint(text, "x") == "B68A235825B49AA687A88D1F1259F6604539DA29"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1259F6604539DA29", "x: a short name of a key can be forged"),
        ("4539DA29", "x: a short name of a key can be forged"),
        ("", "x: '' is no fingerprint"),
        ("builds@example.org", "x: 'builds@example.org' is no fingerprint"),
        ("G" * 40, f"x: '{'G' * 40}' is no fingerprint"),
        ("A" * 41, f"x: '{'A' * 41}' is no fingerprint"),
    ],
)
def test_refuses_what_is_no_fingerprint(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_fingerprint(text, "x")
    assert str(caught.value).split("\n")[0] == message
    assert "40 hexadecimal digits" in caught.value.hint


def test_a_key_is_made_as_spack_makes_it() -> None:
    assert key_parameters(UserId("Our stack", "a@example.org", "for CI"), "2y") == (
        b"Key-Type: rsa\nKey-Length: 4096\nKey-Usage: sign\nName-Real: Our stack\n"
        b"Name-Email: a@example.org\nName-Comment: for CI\nExpire-Date: 2y\n"
        b"%no-protection\n%commit\n"
    )
    assert b"Name-Email" not in key_parameters(UserId("Ünï"))
    assert b"Expire-Date: 0\n" in key_parameters(UserId("Ünï"))


@pytest.mark.parametrize(
    ("user", "expires", "where"),
    [
        (UserId(""), "", "--name"),
        (UserId("  "), "", "--name"),
        (UserId("a\nExpire-Date: 1d"), "", "--name"),
        (UserId("a", "a@b\n%commit"), "", "--email"),
        (UserId("a", "nobody"), "", "--email"),
        (UserId("a <b>"), "", "--name"),
        (UserId("a", "", "(x)"), "", "--comment"),
        (UserId("a"), "soon", "--expires"),
        (UserId("a"), "0", "--expires"),
        (UserId("a"), "1y\n%x", "--expires"),
    ],
)
def test_refuses_what_cannot_be_in_a_key(user: UserId, expires: str, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        key_parameters(user, expires)
    assert caught.value.where == where


def test_the_value_of_the_variable() -> None:
    key = armored(SECRET + SUBKEY, "PRIVATE KEY BLOCK")
    value = dump_signing_value(key)
    assert "\n" not in value
    assert parse_signing_value(value) == key
    assert parse_signing_value(base64.encodebytes(key).decode()) == key


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "it holds no armored secret key"),
        ("x", "it is not base64 of an armored key"),
        ("ä", "it is not base64 of an armored key"),
        (base64.b64encode(SECRET).decode(), "it is not base64 of an armored key"),
        (dump_signing_value(armored(PUBLIC)), "it holds no armored secret key"),
        (dump_signing_value(armored(PUBLIC, "PRIVATE KEY BLOCK")), "it holds 0 secret keys"),
        (dump_signing_value(armored(SECRET * 2, "PRIVATE KEY BLOCK")), "it holds 2 secret keys"),
    ],
)
def test_refuses_other_values_and_never_shows_them(value: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_signing_value(value)
    assert message in caught.value.message
    assert caught.value.where == "$SPACK_SIGNING_KEY"
    assert len(value) < 2 or value[:8] not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b"a\nb\n", b"a \t\r\nb", True),
        (b"a\n", b"a\n\n", True),
        (b"a\n", b"a\nb\n", False),
        (b" a\n", b"a\n", False),
        (b"a\n\nb", b"a\nb", False),
        (b"a\x0c\n", b"a\n", False),
    ],
)
def test_the_same_text(one: bytes, other: bytes, *, same: bool) -> None:
    assert same_text(one, other) is same
