"""Keys as people handle them: made, exported, published, trusted; and what they say of binaries."""

from __future__ import annotations

import base64
import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, Stackyard
from mirror_server import mirror_server
from signing import LONG_AGO, Signer, needs_gpg, nothing_left
from tests_data import DATA

from stackyard.binary import Binary, parse_binary, parse_v2_binary
from stackyard.edges.gpg import open_home, secret_keys
from stackyard.edges.settings import Environment
from stackyard.errors import ConfigError, StoreError
from stackyard.flow import steps
from stackyard.flow.trust import Checked, Keys, check_signatures, find_keys
from stackyard.mirror import manifest_hash
from stackyard.settings import Settings, Trust, check_settings, make_settings

pytestmark = needs_gpg

MIRRORS = DATA / "mirrors"
SPACK_KEY = "B68A235825B49AA687A88D1F1259F6604539DA29"
SPACK_PUB = (MIRRORS / "v2-signed" / "build_cache" / "_pgp" / f"{SPACK_KEY}.pub").read_bytes()
KEY_MANIFESTS = Path("v3/manifests/key")


@pytest.fixture(autouse=True)
def _clean(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    project.write("stacks/demo/spack.yaml", {"spack": {"specs": []}})
    with nothing_left(monkeypatch):
        yield


@pytest.fixture(scope="module")
def signer() -> Iterator[Signer]:
    signer = Signer()
    try:
        signer.key("Good")
        signer.key("Other")
        signer.key("Old", expires="2d", at=LONG_AGO)
        signer.key("Gone")
        signer.revoke("Gone")
        signer.key("Certifier", usage="cert")
        yield signer
    finally:
        signer.close()


@pytest.fixture
def one_key() -> Iterator[Signer]:
    signer = Signer()
    signer.key("Only")
    yield signer
    signer.close()


def mirror(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(MIRRORS / name, folder / name))


# keys.create


def test_makes_a_key_that_git_passes_over(project: Project, stackyard: Stackyard) -> None:
    made = stackyard("keys.create", "--name", "Our stack", "--email", "a@example.org")
    home = project.root / ".stackyard" / "gnupg"
    with open_home(home) as gnupg:
        (key,) = secret_keys(gnupg)
    assert made.out == f"{key.fingerprint}\n"
    assert "Our stack <a@example.org>, without an end, in .stackyard/gnupg" in made.err
    assert "keys.export" in made.err
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert (project.root / ".stackyard" / ".gitignore").read_text() == "*\n"
    again = stackyard("keys.create", "--name", "Our stack", code=2)
    assert f"a key of that name is there already: {key.fingerprint}" in again.err
    assert stackyard("keys.create", code=2).err.startswith("error: --name: a key needs a name")


def test_no_key_without_a_place(
    stackyard: Stackyard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "--home: no project is here" in stackyard("keys.create", "--name", "x", code=2).err
    assert "--home: no project is here" in stackyard("keys.export", code=2).err


# keys.export


def test_exports_both_parts(project: Project, stackyard: Stackyard, one_key: Signer) -> None:
    said = stackyard("keys.export", "--home", str(one_key.home), "--secret-to", "out/key.txt")
    fingerprint = one_key.fingerprint("Only")
    secret = project.root / "out" / "key.txt"
    value = secret.read_bytes()
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert b"\n" not in value
    assert base64.b64decode(value).startswith(b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n")
    public = (project.root / "stacks" / "demo" / "keys" / f"{fingerprint}.pub").read_bytes()
    assert public.startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
    assert "SPACK_SIGNING_KEY, protected and masked" in said.err
    assert value.decode()[:40] not in said.err
    assert said.out == ""
    assert value.decode() in Environment.snapshot().secrets()


def test_exports_to_stdout_and_elsewhere(
    project: Project, stackyard: Stackyard, one_key: Signer
) -> None:
    name = one_key.fingerprint("Only")
    said = stackyard(
        *("keys.export", "--home", str(one_key.home), "--key", name.lower()),
        *("--secret-to", "-", "--public-to", "public.key"),
    )
    assert base64.b64decode(said.out).startswith(b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n")
    assert (project.root / "public.key").read_bytes().startswith(b"-----BEGIN PGP PUBLIC")
    assert not (project.root / "stacks" / "demo" / "keys").exists()


def test_exports_only_the_public_part(
    project: Project, stackyard: Stackyard, one_key: Signer
) -> None:
    said = stackyard("keys.export", "--home", str(one_key.home))
    path = f"stacks/demo/keys/{one_key.fingerprint('Only')}.pub"
    assert [name for name in project.files() if "keys" in name] == [path]
    assert f"public key: {path}" in said.err


def test_which_key_and_where_to(
    project: Project, stackyard: Stackyard, signer: Signer, one_key: Signer
) -> None:
    home = ("--home", str(signer.home))
    which = stackyard("keys.export", *home, code=2).err
    assert "which key? there are:" in which
    assert f"{signer.fingerprint('Old')} Old, expired" in which
    old = ("keys.export", *home, "--key", signer.fingerprint("Old"))
    assert "no such key can sign" in stackyard(*old, "--secret-to", "key.txt", code=2).err
    stackyard(*old, "--public-to", "old.pub")
    assert sorted(project.files()) == ["old.pub", "stacks/demo/spack.yaml"]
    assert (
        "a short name of a key"
        in stackyard("keys.export", *home, "--key", "ABCDEF0123456789", code=2).err
    )
    assert "there are no keys" in stackyard("keys.export", code=2).err
    project.write("stacks/second/spack.yaml", {"spack": {"specs": []}})
    one = ("--home", str(one_key.home))
    assert "which stack?" in stackyard("keys.export", *one, code=2).err
    said = stackyard("keys.export", *one, "--secret-to", "key.txt").err
    assert "the public key was not written: name --stack or --public-to" in said
    stackyard("keys.export", *one, "--stack", "second")
    assert list((project.root / "stacks" / "second" / "keys").iterdir())


# keys.publish


def test_publishes_as_spack_does(project: Project, stackyard: Stackyard, tmp_path: Path) -> None:
    """The list of keys has the very bytes of Spack's; layout.json comes along."""
    target = tmp_path / "mirror"
    target.mkdir()
    project.write("stacks/demo/keys/spack.pub", SPACK_PUB)
    said = stackyard("keys.publish", "--url", str(target), "--stack", "demo")
    assert f"published: {SPACK_KEY} Example Builds" in said.err
    spack = MIRRORS / "v3-signed"
    for name in (KEY_MANIFESTS / "keys.manifest.json", Path("v3/layout.json")):
        assert (target / name).read_bytes() == (spack / name).read_bytes()
    names = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert len(names) == 5
    assert f"{KEY_MANIFESTS}/{SPACK_KEY}.key.manifest.json" in names
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    assert f"already there: {SPACK_KEY}" in stackyard("keys.publish", "--url", str(target)).err
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before


def test_publishes_what_can_sign_and_what_was_revoked(
    stackyard: Stackyard, signer: Signer, project: Project, tmp_path: Path
) -> None:
    target = tmp_path / "mirror"
    target.mkdir()
    names = ("Good", "Old", "Gone", "Certifier")
    project.write("all.asc", signer.public(*names))
    said = stackyard("keys.publish", "--url", str(target), "--keys", "all.asc").err
    good, old, gone, certifier = map(signer.fingerprint, names)
    assert f"not published: {old}, expired" in said
    assert f"not published: {certifier}, it cannot sign" in said
    listed = stackyard("keys.trust", "--url", str(target)).out.splitlines()
    assert sorted(line[:40] for line in listed) == sorted([good, gone])
    assert next(line for line in listed if line.startswith(gone)).endswith(", revoked")
    said = stackyard("keys.trust", "--url", str(target), "--fingerprint", gone).err
    assert f"nothing that it signed is taken: {gone} Gone, revoked: stacks/demo/keys/" in said


def test_where_nothing_can_be_published(
    stackyard: Stackyard, signer: Signer, project: Project, tmp_path: Path
) -> None:
    target = tmp_path / "mirror"
    target.mkdir()
    publish = ("keys.publish", "--url", str(target))
    assert "no public keys" in stackyard(*publish, code=2).err
    secret = signer("--armor", "--export-secret-keys", "=Good")
    project.write("keys/k.asc", secret)
    said = stackyard(*publish, "--keys", "keys", code=2).err
    assert "keys/k.asc: a secret key is in it" in said
    assert secret.decode().split("\n")[2][:20] not in said
    project.write("old.pub", signer.public("Old"))
    assert (
        "none of the keys can be published" in stackyard(*publish, "--keys", "old.pub", code=2).err
    )
    assert list(target.iterdir()) == []
    project.write("good.pub", signer.public("Good"))
    v2 = mirror("v2-signed", tmp_path)
    for url, reason in (
        (str(v2), "layout 2, which is only read here"),
        ("oci+http://127.0.0.1:9/x", "a registry has no place for keys"),
        ("http://127.0.0.1:9", "can only be read"),
        (str(tmp_path / "nowhere"), "the folder does not exist"),
    ):
        assert reason in stackyard("keys.publish", "--url", url, "--keys", "good.pub", code=6).err
    assert (
        "--url: no mirror is named" in stackyard("keys.publish", "--keys", "good.pub", code=2).err
    )


# keys.trust


@pytest.mark.parametrize("name", ["v3-signed", "v2-signed"])
def test_shows_and_takes_a_key(project: Project, stackyard: Stackyard, name: str) -> None:
    url = f"file://{MIRRORS / name}"
    shown = stackyard("keys.trust", "--url", url)
    assert shown.out.startswith(
        f"{SPACK_KEY}  Example Builds (GPG created for Spack) <builds@example.org>  made 20"
    )
    assert shown.out.endswith(", without an end\n")
    assert "ask the owner" in shown.err
    assert not (project.root / "stacks/demo/keys").exists()
    spaced = " ".join(SPACK_KEY[i : i + 4] for i in range(0, 40, 4)).lower()
    taken = stackyard("keys.trust", "--url", url, "--fingerprint", spaced)
    path = f"stacks/demo/keys/{SPACK_KEY}.pub"
    assert f"trusted from now on: {SPACK_KEY}" in taken.err
    assert path in taken.err
    checked = check_signatures(
        binaries(name), url, find_keys(steps.open_project(), "demo", Settings(), "")
    )
    assert (checked.problems, set(checked.signers.values())) == ({}, {SPACK_KEY})


def test_reads_keys_behind_a_web_server(stackyard: Stackyard, tmp_path: Path) -> None:
    with mirror_server(MIRRORS / "v3-signed") as server:
        server.missing = 403
        stackyard("keys.trust", "--url", server.url, "--fingerprint", SPACK_KEY, "--to", "trusted")
        assert stackyard("keys.trust", "--url", server.url).out.startswith(SPACK_KEY)
    assert Path("trusted", f"{SPACK_KEY}.pub").is_file()


def test_only_whole_fingerprints_of_keys_that_are_there(stackyard: Stackyard) -> None:
    trust = ("keys.trust", "--url", str(MIRRORS / "v3-signed"), "--fingerprint")
    assert "a short name of a key can be forged" in stackyard(*trust, SPACK_KEY[-16:], code=2).err
    other = stackyard(*trust, "A" * 40, code=6).err
    assert f"the mirror has no key {'A' * 40}" in other
    assert f"it has {SPACK_KEY}" in other
    unsigned = ("keys.trust", "--url", str(MIRRORS / "v3-unsigned"))
    assert "the mirror has no public keys" in stackyard(*unsigned, code=6).err


def test_a_mirror_that_lies_about_a_key(
    project: Project, stackyard: Stackyard, signer: Signer, tmp_path: Path
) -> None:
    """What lies under a fingerprint is another key, two keys, a secret one, none, or changed."""
    folder = mirror("v3-signed", tmp_path)
    name = folder / KEY_MANIFESTS / f"{SPACK_KEY}.key.manifest.json"
    target = tmp_path / "other"
    target.mkdir()
    project.write("good.pub", signer.public("Good"))
    stackyard("keys.publish", "--url", str(target), "--keys", "good.pub")
    good = target / KEY_MANIFESTS / f"{signer.fingerprint('Good')}.key.manifest.json"
    shutil.copytree(target / "blobs", folder / "blobs", dirs_exist_ok=True)
    whole = name.read_bytes()
    name.write_bytes(good.read_bytes())
    take = ("keys.trust", "--url", str(folder), "--fingerprint", SPACK_KEY)
    said = stackyard(*take, code=6).err
    assert f"it holds the keys {signer.fingerprint('Good')}, not just the one of its name" in said
    assert "unusable: it holds the keys" in stackyard("keys.trust", "--url", str(folder)).out
    name.write_bytes(whole)
    (blob,) = folder.glob("blobs/sha256/8b/8b300de2*")
    blob.write_bytes(blob.read_bytes().replace(b"m", b"n", 1))
    assert "its checksum is" in stackyard(*take, code=6).err
    name.write_bytes(b"{}")
    assert "unusable: the manifest has no list" in stackyard("keys.trust", "--url", str(folder)).out
    name.unlink()
    assert "the list of keys names it, and it is not there" in stackyard(*take, code=6).err
    assert not (project.root / "stacks/demo/keys").exists()


def test_shows_keys_that_no_list_names(stackyard: Stackyard, tmp_path: Path) -> None:
    """``spack ci rebuild`` pushes its key and writes no list, so nobody finds it."""
    folder = mirror("v3-signed", tmp_path)
    (folder / KEY_MANIFESTS / "keys.manifest.json").unlink()
    shown = stackyard("keys.trust", "--url", str(folder)).out
    assert shown.endswith(", not in the list of keys: Spack does not find it\n")
    (folder / KEY_MANIFESTS / "evil\\name.key.manifest.json").write_bytes(b"{}")
    assert stackyard("keys.trust", "--url", str(folder)).out == shown


def test_passes_over_names_that_lead_elsewhere(stackyard: Stackyard, tmp_path: Path) -> None:
    folder = mirror("v2-signed", tmp_path)
    index = folder / "build_cache" / "_pgp" / "index.json"
    shown = stackyard("keys.trust", "--url", str(folder)).out
    assert SPACK_KEY in shown
    names = (SPACK_KEY, "../../x", "/etc/passwd", "a\0b", "A" * 39)
    index.write_text(json.dumps({"keys": {name: {} for name in names}}))
    assert stackyard("keys.trust", "--url", str(folder)).out == shown


# Which keys count


def loaded(project: Project) -> steps.Project:
    return steps.Project(project.root, Environment({}), {})


def test_keys_come_from_the_first_place_that_has_any(project: Project, signer: Signer) -> None:
    good, other = signer.public("Good"), signer.public("Other")
    settings = Settings(trust=Trust(keys=("shared",)))
    for name in (
        "shared/a.gpg",
        "shared/b.KEY",
        "stacks/demo/keys/c.pub",
        "stacks/demo/keys/d.asc",
    ):
        project.write(name, good)
    project.write("shared/README", "no key")
    project.write("mine", other)
    here = loaded(project)

    def places(found: Keys) -> tuple[list[str], str]:
        return [where for where, _ in found.keys], found.source

    assert places(find_keys(here, "demo", settings, "mine")) == (["mine"], "--keys mine")
    assert places(find_keys(here, "demo", settings, "shared/")) == (
        ["shared/a.gpg", "shared/b.KEY"],
        "--keys shared/",
    )
    stack = (["stacks/demo/keys/c.pub", "stacks/demo/keys/d.asc"], "stacks/demo/keys")
    assert places(find_keys(here, "demo", settings, "")) == stack
    assert places(find_keys(here, None, settings, "")) == stack
    shutil.rmtree(project.root / "stacks" / "demo" / "keys")
    project.write("stacks/demo/keys/README", "nothing yet")
    assert places(find_keys(here, "demo", settings, "")) == (
        ["shared/a.gpg", "shared/b.KEY"],
        "trust.keys",
    )
    assert find_keys(here, "demo", Settings(), "") == Keys()
    assert find_keys(None, None, settings, "") == Keys()
    assert places(find_keys(None, None, settings, "mine")) == (["mine"], "--keys mine")


def test_settings_of_a_stack_win() -> None:
    ours = check_settings({"trust": {"keys": ["a"], "fingerprints": ["A" * 40]}}, "invoke.yaml")
    theirs = check_settings({"trust": {"fingerprints": ["B" * 40]}}, "stack.yaml")
    assert make_settings(ours, theirs).trust == Trust(("a",), ("B" * 40,))
    with pytest.raises(ConfigError, match=r"trust\.fingerprint: unknown key"):
        check_settings({"trust": {"fingerprint": []}}, "invoke.yaml")


def test_without_a_stack_the_keys_of_all_count(project: Project, signer: Signer) -> None:
    project.write("stacks/second/spack.yaml", {"spack": {"specs": []}})
    project.write("stacks/demo/keys/a.pub", signer.public("Good"))
    project.write("stacks/second/keys/b.pub", signer.public("Other"))
    found = find_keys(loaded(project), None, Settings(), "")
    assert found.source == "stacks/demo/keys, stacks/second/keys"
    assert len(found.keys) == 2


@pytest.mark.parametrize(
    ("trust", "option", "message"),
    [
        (Trust(), "nowhere", "nowhere: cannot read it: no such file"),
        (Trust(), "stacks", "stacks: no key file is in the folder"),
        (Trust(keys=("gone.pub",)), "", "gone.pub: cannot read it: no such file"),
        (Trust(fingerprints=("A" * 40, "4539DA29")), "", "trust.fingerprints[1]: a short name"),
    ],
)
def test_keys_that_are_not_there(project: Project, trust: Trust, option: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_keys(loaded(project), "demo", Settings(trust=trust), option)
    assert str(caught.value).startswith(message)


# What they say of binaries


def binaries(name: str) -> list[Binary]:
    root = MIRRORS / name
    found = []
    for path in sorted(root.rglob("*")):
        key = path.relative_to(root).as_posix()
        dag_hash = manifest_hash(key)
        if path.is_file() and dag_hash:
            parse = parse_binary if key.startswith("v3/") else parse_v2_binary
            found.append(parse(path.read_bytes(), key, dag_hash, key))
    return found


OURS = Keys((("k.pub", SPACK_PUB),), frozenset(), "k.pub")
NONE = Keys()
RULES: list[tuple[str, str, Keys, dict[str, Any], str]] = [
    ("good", "v3-signed", OURS, {}, ""),
    ("good, by entry", "v3-signed", OURS, {"signed_mirror": True}, ""),
    ("good, layout 2", "v2-signed", OURS, {}, ""),
    ("told not to", "v3-unsigned", OURS, {"unsigned": True}, ""),
    ("signed and told not to", "v3-signed", NONE, {"unsigned": True}, ""),
    ("mirror says unsigned", "v3-unsigned", OURS, {"signed_mirror": False}, ""),
    ("mirror says unsigned, signed", "v3-signed", NONE, {"signed_mirror": False}, ""),
    ("nothing known", "v3-unsigned", NONE, {}, ""),
    ("unsigned with keys", "v3-unsigned", OURS, {}, "it is not signed"),
    ("unsigned by entry", "v3-unsigned", NONE, {"signed_mirror": True}, "it is not signed"),
    ("unsigned, layout 2", "v2-unsigned", OURS, {}, "it is not signed"),
    ("allowed", "v3-signed", OURS._replace(allowed=frozenset({SPACK_KEY, "A" * 40})), {}, ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "keys", "how", "problem"), [r[1:] for r in RULES], ids=[r[0] for r in RULES]
)
def test_when_a_signature_is_needed(
    name: str, keys: Keys, how: dict[str, Any], problem: str
) -> None:
    found = binaries(name)
    assert found
    checked = check_signatures(found, "file:///m", keys, **how)
    if problem:
        assert checked == Checked({binary.hash: problem for binary in found}, {})
        return
    assert checked.problems == {}
    if name.endswith("-signed") and keys.keys and not how.get("unsigned"):
        assert checked.signers == {binary.hash: SPACK_KEY for binary in found}
        assert list(checked.keys) == [SPACK_KEY]
    else:
        assert checked == Checked({}, {})


def test_signed_binaries_without_a_key() -> None:
    with pytest.raises(StoreError) as caught:
        check_signatures(binaries("v3-signed"), "file:///m", NONE)
    assert caught.value.code == 6
    assert caught.value.where == "file:///m"
    assert "7 of 7 binaries are signed, and there are no keys" in caught.value.message
    for fix in ("stacks/NAME/keys/", "--keys", "trust.keys", "--unsigned"):
        assert fix in caught.value.hint


def test_refused_for_several_reasons(signer: Signer) -> None:
    good, changed, moved, plain, *_ = binaries("v3-signed")
    changed = changed._replace(
        manifest=changed.manifest.replace(b'"contentLength":3', b'"contentLength":4', 1)
    )
    strange = moved._replace(manifest=signer.sign("Other", b"{}\n"))
    plain = plain._replace(signed=False)
    registry = plain._replace(hash="r" * 32, layout="oci")
    checked = check_signatures([good, changed, strange, plain, registry], "file:///m", OURS)
    assert checked.signers == {good.hash: SPACK_KEY}
    assert checked.problems == {
        changed.hash: "the text was changed after it was signed",
        strange.hash: f"signed with the unknown key {signer.fingerprint('Other')}",
        plain.hash: "it is not signed",
        registry.hash: "its image is not signed (push it again with SPACK_SIGNING_KEY set; "
        "--unsigned, or signed: false in the mirror's entry, takes it as it is)",
    }


def test_one_place_with_two_answers() -> None:
    """The same spec in both layouts: what is wrong with one counts."""
    good = binaries("v3-signed")[0]
    for pair in ((good, good._replace(signed=False)), (good._replace(signed=False), good)):
        checked = check_signatures(pair, "file:///m", OURS)
        assert (checked.problems, checked.signers) == ({good.hash: "it is not signed"}, {})


def test_a_list_that_allows_no_key() -> None:
    keys = OURS._replace(allowed=frozenset({"A" * 40}))
    with pytest.raises(ConfigError) as caught:
        check_signatures(binaries("v3-signed"), "file:///m", keys)
    assert str(caught.value).startswith("trust.fingerprints: none of the keys in k.pub is on it")
    assert SPACK_KEY in caught.value.hint
