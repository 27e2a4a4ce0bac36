"""Signatures of all kinds, checked by the real GnuPG."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from signing import GPG, LONG_AGO, Signer, needs_gpg, nothing_left
from tests_data import DATA

from stackyard.edges import gpg
from stackyard.edges.gpg import (
    create_key,
    export_public,
    export_secret,
    import_signing_key,
    open_home,
    open_keyring,
    secret_keys,
    sign,
    signing_value,
    write_private,
)
from stackyard.edges.settings import Environment
from stackyard.errors import ConfigError, StackyardError, ToolError
from stackyard.trust import UserId, Verdict, dump_signing_value

pytestmark = needs_gpg

TEXT = b'{\n"version":3,\n"data":[\n]\n}\n'
SPACK_KEY = "B68A235825B49AA687A88D1F1259F6604539DA29"
MIRRORS = DATA / "mirrors"
V2_KEY = MIRRORS / "v2-signed" / "build_cache" / "_pgp" / f"{SPACK_KEY}.pub"


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with nothing_left(monkeypatch):
        yield


@pytest.fixture(scope="module")
def signer() -> Iterator[Signer]:
    signer = Signer()
    try:
        signer.key("Good")
        signer.key("Other")
        signer.key("Strange")
        signer.key("Old", expires="2d", at=LONG_AGO)
        signer.key("Gone")
        signer.key("With subkey", usage="cert")
        signer("--quick-add-key", signer.fingerprint("With subkey"), "ed25519", "sign", "never")
        yield signer
    finally:
        signer.close()


@pytest.fixture(scope="module")
def messages(signer: Signer) -> dict[str, bytes]:
    """One signed message of each kind."""
    made = {
        "good": signer.sign("Good", TEXT),
        "by another": signer.sign("Other", TEXT),
        "unknown": signer.sign("Strange", TEXT),
        "subkey": signer.sign("With subkey", TEXT),
        "expired": signer.sign("Old", TEXT, at=LONG_AGO),
        "revoked": signer.sign("Gone", TEXT),
        "sha1": signer.sign("Good", TEXT, "--digest-algo", "SHA1"),
        "two": signer.sign("Good", TEXT, "-u", "=Other"),
        "not escaped": signer.sign("Good", b"- a\n", "--not-dash-escaped"),
        "dashes": signer.sign("Good", b"- a\n-b\n--- \n"),
        "blanks": signer.sign("Good", b"a  \t\r\nb\r\n\n"),
        "long": signer.sign("Good", b"x" * 19_980 + b"\n"),
        "longer": signer.sign("Good", b"x" * 30_000 + b"\n"),
        "not clear": signer("-u", "=Good", "--armor", "--sign", feed=TEXT),
    }
    signer.revoke("Gone")
    good = made["good"]
    return {
        **made,
        "changed": good.replace(b'"version":3', b'"version":4'),
        "before": TEXT + good,
        "behind": good + TEXT,
        "twice": good + made["by another"],
        "cut": good[: len(good) // 2],
        "detached": TEXT + signer("-u", "=Good", "--armor", "--detach-sign", feed=TEXT),
        "of another text": good[: good.index(b"-----BEGIN PGP SIGNATURE")]
        + made["dashes"][made["dashes"].index(b"-----BEGIN PGP SIGNATURE") :],
        "garbage": os.urandom(300),
    }


@pytest.fixture
def trusted(signer: Signer) -> list[tuple[str, bytes]]:
    names = ("Good", "Other", "Old", "Gone", "With subkey")
    return [("a file", signer.public(*names[:3])), ("another", signer.public(*names[3:]))]


VERDICTS: list[tuple[str, str, bytes | None, str]] = [
    ("good", "Good", TEXT, ""),
    ("by another", "Other", TEXT, ""),
    ("subkey", "With subkey", TEXT, ""),
    ("dashes", "Good", b"- a\n-b\n---\n", ""),
    ("blanks", "Good", b"a\r\nb\r\n\n", ""),
    ("long", "Good", b"x" * 19_980 + b"\n", ""),
    ("unknown", "Strange", None, "signed with the unknown key FPR"),
    ("expired", "Old", None, "the key FPR has expired"),
    ("revoked", "Gone", None, "the key FPR was revoked"),
    ("changed", "Good", None, "the text was changed after it was signed"),
    ("of another text", "Good", None, "the text was changed after it was signed"),
    ("sha1", "Good", None, "signed with the digest SHA-1, which can be forged"),
    ("two", "", None, "it carries 2 signatures, not one"),
    ("twice", "", None, "text stands outside of the signature"),
    ("before", "", None, "text stands outside of the signature"),
    ("behind", "", None, "text stands outside of the signature"),
    ("cut", "", None, "the signature is cut off"),
    ("detached", "", None, "it carries no signature"),
    ("not clear", "", None, "it carries no signature"),
    ("garbage", "", None, "it carries no signature"),
    ("longer", "", None, "a line of the text is longer than the 19990 bytes that GnuPG reads"),
    ("not escaped", "", None, "something is said before the text that is not the name of a digest"),
]


def test_says_what_is_wrong(
    signer: Signer, messages: dict[str, bytes], trusted: list[tuple[str, bytes]]
) -> None:
    assert messages.keys() == {row[0] for row in VERDICTS}
    with open_keyring(trusted) as keyring:
        found = keyring.verify([(row[0], messages[row[0]]) for row in VERDICTS])
    expected = []
    for _, name, text, problem in VERDICTS:
        fingerprint = signer.fingerprint(name) if name else ""
        expected.append(Verdict(text, fingerprint, problem.replace("FPR", fingerprint)))
    assert found == expected


def test_the_allow_list_narrows(
    signer: Signer, messages: dict[str, bytes], trusted: list[tuple[str, bytes]]
) -> None:
    other = signer.fingerprint("Other")
    with open_keyring(trusted, [other.lower()]) as keyring:
        good, by_other = keyring.verify([("", messages["good"]), ("", messages["by another"])])
    assert good.problem == f"the key {signer.fingerprint('Good')} is not on the allow-list"
    assert by_other == Verdict(TEXT, other, "")


def test_keys_of_a_keyring(signer: Signer, trusted: list[tuple[str, bytes]]) -> None:
    with open_keyring(trusted) as keyring:
        assert set(keyring.fingerprints.values()) == {"Good", "Other", "Old", "Gone", "With subkey"}
        states = {key.user_id: key.state for key in keyring.keys.values()}
        exported = keyring.export(signer.fingerprint("Good"))
    assert states == {
        "Good": "",
        "Other": "",
        "Old": "expired",
        "Gone": "revoked",
        "With subkey": "",
    }
    assert exported.startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----")
    with open_keyring([]) as keyring:
        assert keyring.fingerprints == {}
        assert keyring.verify([]) == []


def test_takes_keys_in_binary_form(signer: Signer, messages: dict[str, bytes]) -> None:
    binary = signer("--export", "=Good")
    assert binary[:1] >= b"\x80"
    with open_keyring([("k.gpg", binary)]) as keyring:
        assert keyring.verify([("", messages["good"])])[0].problem == ""


@pytest.mark.parametrize("batch", [1, 9, 256])
def test_a_bad_message_does_not_stop_the_others(
    messages: dict[str, bytes],
    trusted: list[tuple[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
) -> None:
    monkeypatch.setattr(gpg, "_BATCH", batch)
    wanted = ["good", "changed", "garbage", "good", "unknown", "of another text", "good"]
    with open_keyring(trusted) as keyring:
        found = keyring.verify([("", messages[name]) for name in wanted])
    assert [not verdict.problem for verdict in found] == [name == "good" for name in wanted]


def test_goes_on_where_gpg_gave_up(
    messages: dict[str, bytes], trusted: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --batch GnuPG 2.2 ends at the first bad signature, without a word on the rest."""
    options = gpg.Home._options
    monkeypatch.setattr(
        gpg.Home, "_options", lambda home, *, secret: ("--batch", *options(home, secret=secret))
    )
    wanted = ["changed", "good", "changed", "changed", "good"]
    with open_keyring(trusted) as keyring:
        found = keyring.verify([("", messages[name]) for name in wanted])
    changed = "the text was changed after it was signed"
    assert [one.problem for one in found] == [changed, "", changed, changed, ""]


def test_gpg_that_does_nothing_is_no_verdict(
    messages: dict[str, bytes], trusted: list[tuple[str, bytes]]
) -> None:
    with open_keyring(trusted) as keyring:
        keyring._home.program = keyring._home.program._replace(path="/bin/false")
        with pytest.raises(ToolError, match="gpg verified nothing"):
            keyring.verify([("", messages["good"])])


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ('"$GPG" "$@" | sed "/FILE_DONE/d"', "GnuPG stopped while it looked at it"),
        ('"$GPG" "$@"; rm -f 0', "GnuPG stopped while it looked at it"),
        ('"$GPG" "$@"; echo else > 0', "the signature covers another text than it seems to"),
    ],
)
def test_gpg_that_says_good_of_something_else(
    messages: dict[str, bytes],
    trusted: list[tuple[str, bytes]],
    tmp_path: Path,
    program: str,
    problem: str,
) -> None:
    """Whatever a later GnuPG may do: what counts is the text that it wrote, to the end."""
    script = tmp_path / "gpg"
    with open_keyring(trusted) as keyring:
        real = keyring._home.program
        script.write_text(f"#!/bin/sh\nGPG={real.path}\n{program}\n")
        script.chmod(0o755)
        keyring._home.program = real._replace(path=str(script))
        (verdict,) = keyring.verify([("", messages["good"])])
        keyring._home.program = real
    assert (verdict.text, verdict.problem) == (None, problem)


def test_reads_what_spack_signed() -> None:
    """All signed manifests of layouts 2 and 3, by the key as Spack published it."""
    v3 = sorted((MIRRORS / "v3-signed" / "v3" / "manifests" / "spec").glob("*/*.json"))
    v2 = sorted((MIRRORS / "v2-signed" / "build_cache").glob("*.spec.json.sig"))
    assert (len(v3), len(v2)) == (7, 5)
    with open_keyring([(V2_KEY.name, V2_KEY.read_bytes())]) as keyring:
        assert list(keyring.fingerprints) == [SPACK_KEY]
        found = keyring.verify([(path.name, path.read_bytes()) for path in (*v3, *v2)])
    assert {(verdict.signer, verdict.problem) for verdict in found} == {(SPACK_KEY, "")}
    for verdict, path in zip(found, (*v3, *v2), strict=True):
        assert verdict.text is not None
        assert verdict.text in path.read_bytes()
        assert (verdict.text[:2], verdict.text[-2:]) == (b"{\n", b"}\n")


def test_a_file_without_a_key() -> None:
    for data in (b"", b"no key", b"\x99\x01\x0d\x04broken"):
        with (
            pytest.raises(ConfigError, match="no public key is in it") as caught,
            open_keyring([("stacks/x/keys/a.pub", data)]),
        ):
            pass
        assert caught.value.where == "stacks/x/keys/a.pub"


def test_a_secret_key_is_refused_and_not_shown(signer: Signer) -> None:
    armored = signer("--armor", "--export-secret-keys", "=Good")
    hidden = armored.replace(b"PRIVATE", b"PUBLIC")
    for data in (
        armored,
        hidden,
        signer("--export-secret-keys", "=Good"),
        signer.public("Other") + hidden,
    ):
        with (
            pytest.raises(ConfigError, match="a secret key is in it") as caught,
            open_keyring([("k.pub", data)]),
        ):
            pass
        assert caught.value.where == "k.pub"
        assert armored.split(b"\n")[2].decode()[:20] not in str(caught.value)


def test_gpg_sees_a_secret_key_that_we_do_not(
    signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpg, "has_secret", lambda _: False)
    armored = signer("--armor", "--export-secret-keys", "=Good")
    with pytest.raises(ConfigError, match="a secret key is in it"), open_keyring([("k", armored)]):
        pass


def test_needs_gnupg_2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpg._program.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="is not installed") as caught, open_home():
        pass
    assert "install GnuPG 2" in caught.value.hint
    old = tmp_path / "gpg"
    old.write_text("#!/bin/sh\necho 'gpg (GnuPG) 1.4.23'\n")
    old.chmod(0o755)
    with pytest.raises(ToolError, match=r"is of version 1\.4"), open_home():
        pass


def test_makes_exports_and_imports_a_key(tmp_path: Path) -> None:
    """In a folder whose path is far too long for a socket."""
    folder = tmp_path / ("long-" * 30) / "gnupg"
    with open_home(folder) as home:
        assert secret_keys(home) == ()
        key = create_key(home, UserId("Ünï stack", "a@example.org", "for CI"), "2y")
        assert key.user_id == "Ünï stack (for CI) <a@example.org>"
        assert key.expires_s - key.created_s == 2 * 365 * 86400
        assert (key.signs, key.subkeys, key.state) == (True, (), "")
        assert secret_keys(home) == (key,)
        with pytest.raises(ConfigError, match=f"there already: {key.fingerprint}"):
            create_key(home, UserId("Ünï stack"))
        value = signing_value(home, key.fingerprint)
        public = export_public(home, key.fingerprint)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert value in Environment.snapshot().secrets()
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", value)
    assert len(value) < 10_000  # GitLab's limit
    target = tmp_path / "ci"
    assert import_signing_key(target, value) == key.fingerprint
    with open_home(target) as home, open_keyring([("", public)]) as keyring:
        signed = sign(home, key.fingerprint, TEXT)
        assert keyring.verify([("", signed)]) == [Verdict(TEXT, key.fingerprint, "")]


def test_a_key_with_a_passphrase_is_of_no_use(signer: Signer, tmp_path: Path) -> None:
    protected = Signer()
    try:
        parameters = b"Key-Type: eddsa\nKey-Curve: ed25519\nKey-Usage: sign\nName-Real: Guarded\nPassphrase: secret\n%commit\n"
        protected("--gen-key", feed=parameters)
        fingerprint = protected.fingerprint("Guarded")
        with (
            open_home(protected.home) as home,
            pytest.raises(ToolError, match="exporting the secret key") as caught,
        ):
            export_secret(home, fingerprint)
        assert "passphrase" in caught.value.hint
    finally:
        protected.close()


def test_a_broken_value_is_refused_and_not_shown(signer: Signer, tmp_path: Path) -> None:
    armored = signer("--armor", "--export-secret-keys", "=Good")
    lines = armored.split(b"\n")
    lines[3] = lines[3][::-1]
    value = dump_signing_value(b"\n".join(lines))
    with pytest.raises(ConfigError) as caught:
        import_signing_key(tmp_path / "home", value)
    assert caught.value.where == "$SPACK_SIGNING_KEY"
    assert value[:20] not in str(caught.value)
    assert lines[3].decode() not in str(caught.value)


def test_homes_are_where_paths_are_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert gpg._short_folder() == tempfile.gettempdir()
    monkeypatch.setattr(tempfile, "tempdir", f"/tmp/{'long' * 20}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    assert gpg._short_folder() == "/tmp"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(StackyardError, match="cannot make the folder"),
        open_home(tmp_path / "file" / "home"),
    ):
        pass


def test_the_environment_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent would keep it, and show it in /proc."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-value")
    assert gpg._environment().keys() <= {"PATH", "LD_LIBRARY_PATH", "TMPDIR", "LC_ALL"}
    assert GPG


def test_private_files(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    for data in (b"1", b"22"):
        write_private(path, data)
        assert path.read_bytes() == data
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["key"]
    with pytest.raises(StackyardError, match="cannot write it"):
        write_private(tmp_path / "new", b"")
    assert [file.name for file in tmp_path.iterdir()] == ["new"]
