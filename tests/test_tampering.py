"""What somebody changed on a mirror is refused with its reason, and nothing of it is kept."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import DATA, Project, Stackyard
from signing import LONG_AGO, Signer, needs_gpg, trusted_keys

from stackyard.binary import SPEC_BYTES, parse_binary
from stackyard.mirror import signed_text

pytestmark = needs_gpg
TINY = DATA / "tiny.spack.lock"


@pytest.fixture(scope="module")
def signer() -> Iterator[Signer]:
    """Keys of several people; that of one ended long ago."""
    signer = Signer()
    for name in ("good", "stranger", "revoked"):
        signer.key(name)
    signer.key("expired", expires="1d", at=LONG_AGO)
    yield signer
    signer.close()


def signed_by(signer: Signer, name: str, text: bytes) -> bytes:
    return signer.sign(name, text, at=LONG_AGO if name == "expired" else "")


@pytest.fixture(scope="module")
def signed(signer: Signer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny stack's mirror, every manifest signed by the good key."""
    root = tmp_path_factory.mktemp("signed") / "mirror"
    shutil.copytree(DATA / "mirrors" / "v3-unsigned", root)
    for path in root.rglob("*.spec.manifest.json"):
        path.write_bytes(signed_by(signer, "good", path.read_bytes()))
    return root


class Case(NamedTuple):
    """A mirror that may be spoilt, and the binary of ``tiny-app`` on it."""

    root: Path
    signer: Signer

    @property
    def manifest(self) -> Path:
        (path,) = self.root.rglob("tiny-app-*.spec.manifest.json")
        return path

    @property
    def document(self) -> dict[str, Any]:
        text, _ = signed_text(self.manifest.read_bytes(), "")
        document: dict[str, Any] = json.loads(text)
        return document

    def blob(self, number: int) -> Path:
        """The tarball is 0, the metadata are 1."""
        checksum = str(self.document["data"][number]["checksum"])
        return self.root / "blobs" / "sha256" / checksum[:2] / checksum

    def sign(self, name: str, document: dict[str, Any] | None = None) -> None:
        text = json.dumps(document or self.document, indent=0).encode()
        self.manifest.write_bytes(signed_by(self.signer, name, text))

    def record(self, number: int, **changes: Any) -> None:
        """Change what the manifest says of a blob, signed by the good key."""
        document = self.document
        document["data"][number].update(changes)
        self.sign("good", document)

    def put(self, number: int, data: bytes) -> None:
        """Another blob, with a manifest that fits it and is signed by the good key."""
        checksum = hashlib.sha256(data).hexdigest()
        path = self.root / "blobs" / "sha256" / checksum[:2] / checksum
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        self.record(number, checksum=checksum, contentLength=len(data))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def another_manifest(case: Case) -> None:
    (other,) = case.root.rglob("tiny-tool-*.spec.manifest.json")
    case.manifest.write_bytes(other.read_bytes())


def changed_text(case: Case) -> None:
    data = case.manifest.read_bytes()
    case.manifest.write_bytes(data.replace(b'"contentLength":', b'"contentLength": ', 1))


def other_tarball(case: Case) -> None:
    """The manifest is given another blob that is there, behind the signature's back."""
    (other,) = case.root.rglob("tiny-tool-*.spec.manifest.json")
    theirs = parse_binary(other.read_bytes(), "", "", "").tarball
    ours = case.document["data"][0]["checksum"]
    data = case.manifest.read_bytes()
    case.manifest.write_bytes(data.replace(ours.encode(), theirs.checksum.encode()))


def more_text(case: Case) -> None:
    case.manifest.write_bytes(case.manifest.read_bytes() + b'{"version": 3, "data": []}\n')


def text_before(case: Case) -> None:
    case.manifest.write_bytes(b"{}\n" + case.manifest.read_bytes())


def unsigned(case: Case) -> None:
    case.manifest.write_bytes(json.dumps(case.document).encode())


def edited_metadata(case: Case) -> None:
    document = json.loads(gzip.decompress(case.blob(1).read_bytes()))
    document["spec"]["nodes"][0]["version"] = "6.6"
    case.put(1, gzip.compress(json.dumps(document).encode()))


def renamed_metadata(case: Case) -> None:
    document = json.loads(gzip.decompress(case.blob(1).read_bytes()))
    document["spec"]["nodes"][0]["name"] = "../../../tmp/x"
    case.put(1, gzip.compress(json.dumps(document).encode()))


def bomb(case: Case) -> None:
    case.put(1, gzip.compress(bytes(SPEC_BYTES + 1)))


CASES: dict[str, tuple[Callable[[Case], object], str]] = {
    "tarball-changed": (lambda case: flip(case.blob(0)), "its checksum is"),
    "metadata-changed": (lambda case: flip(case.blob(1)), "its checksum is"),
    "tarball-cut": (lambda case: case.blob(0).write_bytes(b"x"), "it is cut off: 1 of"),
    "tarball-gone": (lambda case: case.blob(0).unlink(), "the manifest without it"),
    "metadata-gone": (lambda case: case.blob(1).unlink(), "the manifest without it"),
    "manifest-changed": (changed_text, "was changed"),
    "manifest-of-other-blobs": (other_tarball, "was changed"),
    "manifest-of-another-spec": (another_manifest, "the binary of another spec, tiny-tool@1.1/"),
    "manifest-cut": (
        lambda case: case.manifest.write_bytes(case.manifest.read_bytes()[:-40]),
        "the signed message is cut off",
    ),
    "text-behind": (more_text, "or more than one message"),
    "text-before": (text_before, "the manifest is not JSON"),
    "unsigned": (unsigned, "it is not signed"),
    "stranger": (lambda case: case.sign("stranger"), "signed with the unknown key "),
    "expired": (lambda case: case.sign("expired"), " has expired"),
    "revoked": (lambda case: case.sign("revoked"), " was revoked"),
    "length-too-long": (
        lambda case: case.record(0, contentLength=10**6),
        "it is cut off: ",
    ),
    "length-too-short": (lambda case: case.record(0, contentLength=10), "larger than 10 bytes"),
    "length-of-metadata": (
        lambda case: case.record(1, contentLength=SPEC_BYTES + 1),
        f"the manifest gives it {SPEC_BYTES + 1} bytes",
    ),
    "algorithm": (lambda case: case.record(0, checksumAlgorithm="md5"), "is 'md5', not sha256"),
    "path-in-checksum": (
        lambda case: case.record(0, checksum="../../../../etc/passwd"),
        "checksum cannot be '../../../../etc/passwd'",
    ),
    "metadata-edited": (edited_metadata, "the spec is not what its hash says"),
    "path-in-metadata": (renamed_metadata, "cannot be a package name"),
    "bomb": (bomb, f"it unpacks to more than {SPEC_BYTES} bytes"),
    "not-gzip": (lambda case: case.put(1, b"\x1f\x8bno"), "it cannot be unpacked"),
    "not-json": (lambda case: case.put(1, b"<html>"), "the metadata is not JSON"),
}


@pytest.fixture
def case(signed: Path, signer: Signer, tmp_path: Path) -> Case:
    return Case(Path(shutil.copytree(signed, tmp_path / "mirror")), signer)


@pytest.fixture
def keys(signer: Signer, tmp_path: Path) -> Path:
    """The keys that are trusted, one of which has expired and one of which was revoked since."""
    return trusted_keys(signer, tmp_path / "keys")


Run = Callable[..., str]


@pytest.fixture
def run(stackyard: Stackyard, case: Case, keys: Path, tmp_path: Path) -> Run:
    def fetch(*flags: str, to: str = "into", code: int = 0) -> str:
        lock, source, into = str(TINY), str(case.root), str(tmp_path / to)
        argv = ("--lock", lock, "--from", source, "--to", into, "--keys", str(keys), *flags)
        return stackyard("fetch", *argv, code=code).err

    return fetch


def seen(folder: Path) -> dict[str, bytes]:
    """What a reader of the mirror sees: all but our own folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".stackyard" not in path.parts
    }


def test_what_is_right_is_taken(run: Run, case: Case, keys: Path, tmp_path: Path) -> None:
    assert "0 of 7 already here, 7 fetched" in run()
    kept = seen(tmp_path / "into")
    theirs = {name: data for name, data in seen(case.root).items() if ".spec.manifest" in name}
    assert {name: data for name, data in kept.items() if name in theirs} == theirs
    fingerprint = case.signer.fingerprint("good")
    assert sorted(name for name in kept if "/key/" in name) == [
        f"v3/manifests/key/{fingerprint}.key.manifest.json",
        "v3/manifests/key/keys.manifest.json",
    ]
    public = [data for data in kept.values() if data.startswith(b"-----BEGIN PGP PUBLIC")]
    assert public == [case.signer.public("good")]


@pytest.mark.parametrize("name", CASES)
def test_tampering_is_refused(run: Run, case: Case, tmp_path: Path, name: str) -> None:
    before = Case(Path(shutil.copytree(case.root, tmp_path / "before")), case.signer)
    spoil, reason = CASES[name]
    spoil(case)
    said = run(code=6)
    assert reason in said
    assert re.search(r"tiny-app[@-]1\.1", said)
    kept = seen(tmp_path / "into")
    assert not [key for key in kept if "tiny-app" in key]
    for number in (0, 1):
        assert f"{before.blob(number).relative_to(before.root)}" not in kept
    for key, data in kept.items():
        assert (
            hashlib.sha256(data).hexdigest() in key
            or before.root.joinpath(key).read_bytes() == data
        )
    # The mirror is mended, and all is as if nothing had been.
    shutil.rmtree(case.root)
    shutil.copytree(before.root, case.root)
    run()
    run(to="fresh")
    assert seen(tmp_path / "into") == seen(tmp_path / "fresh")


@pytest.mark.parametrize("name", ["tarball-changed", "manifest-of-another-spec", "bomb", "revoked"])
def test_what_was_right_before_stays(run: Run, case: Case, tmp_path: Path, name: str) -> None:
    """A mirror that was spoilt since spoils no folder."""
    run()
    before = seen(tmp_path / "into")
    CASES[name][0](case)
    run(code=0 if name == "tarball-changed" else 6)
    assert seen(tmp_path / "into") == before


@pytest.mark.parametrize("name", ["manifest-of-another-spec", "metadata-edited", "bomb"])
def test_what_was_wrong_before_goes(run: Run, case: Case, tmp_path: Path, name: str) -> None:
    """A folder that somebody filled without looking."""
    CASES[name][0](case)
    into = Path(shutil.copytree(case.root, tmp_path / "into"))
    assert CASES[name][1] in run(code=6)
    assert [key for key in seen(into) if "tiny-app" in key] == []
    assert len([key for key in seen(into) if key.endswith(".spec.manifest.json")]) == 6


def test_all_problems_are_named(run: Run, case: Case, signer: Signer) -> None:
    for path in case.root.rglob("tiny-data-*.spec.manifest.json"):
        text, _ = signed_text(path.read_bytes(), "")
        path.write_bytes(signed_by(signer, "stranger", text))
    case.sign("expired")
    said = run(code=6)
    assert "3 binaries are refused:\n" in said
    assert said.count("\n  tiny-data@1.1/") == 2
    assert said.count("\n  tiny-app@1.1/") == 1
    assert "hint: do other keys count? name them: --keys; " in said


def test_signatures_may_be_left_aside(run: Run, case: Case, tmp_path: Path) -> None:
    """Not so checksums, and not the hash of the spec."""
    case.sign("stranger")
    run("--unsigned")
    assert [key for key in seen(tmp_path / "into") if "/key/" in key] == []
    another_manifest(case)
    assert "another spec" in run("--unsigned", code=6)


def test_a_signed_mirror_wants_keys(
    stackyard: Stackyard, project: Project, signed: Path, signer: Signer, tmp_path: Path
) -> None:
    lock = TINY.read_bytes()
    folder = project.stack(lock, mirrors={"m": {"url": f"file://{signed}"}})
    said = stackyard("fetch", "--to", "into", code=6).err
    assert "7 of 7 binaries are signed, and there are no keys" in said
    assert "--keys" in said
    assert not (project.root / "into").exists()
    project.write("stacks/demo/keys/good.pub", signer.public("good"))
    assert "7 fetched" in stackyard("fetch", "--to", "into").err
    # Only some of the keys may count.
    other = signer.fingerprint("stranger")
    project.write("stacks/demo/keys/stranger.pub", signer.public("stranger"))
    project.write(
        f"{folder.relative_to(project.root)}/stack.yaml", {"trust": {"fingerprints": [other]}}
    )
    said = stackyard("fetch", "--to", "other", code=6).err
    assert "7 binaries are refused:" in said


def test_a_mirror_that_has_to_be_signed(stackyard: Stackyard, project: Project, case: Case) -> None:
    """Spack's default, whether anybody has a key or not."""
    for path in case.root.rglob("*.spec.manifest.json"):
        path.write_bytes(signed_text(path.read_bytes(), "")[0])
    mirror = {"url": f"file://{case.root}"}
    project.stack(TINY.read_bytes(), mirrors={"m": mirror})
    said = stackyard("fetch", "--to", "into", code=6).err
    assert "7 binaries are refused:" in said
    assert said.count(": it is not signed\n") == 7
    project.stack(TINY.read_bytes(), mirrors={"m": {**mirror, "signed": False}})
    assert "7 fetched" in stackyard("fetch", "--to", "into").err


def test_the_allow_list_holds_for_keys_that_are_named(
    stackyard: Stackyard, project: Project, case: Case, keys: Path
) -> None:
    case.sign("expired")
    folder = project.stack(TINY.read_bytes(), mirrors={"m": {"url": f"file://{case.root}"}})
    path = f"{folder.relative_to(project.root)}/stack.yaml"
    other = case.signer.fingerprint("revoked")
    project.write(path, {"trust": {"fingerprints": [other]}})
    said = stackyard("fetch", "--to", "into", "--keys", str(keys), code=6).err
    assert "7 binaries are refused:" in said
    assert said.count("is not on the allow-list") == 6


def test_an_index_that_names_too_much(run: Run, case: Case, tmp_path: Path) -> None:
    """What counts is whether the binary is there."""
    case.manifest.unlink()
    said = run(code=6)
    assert "1 of 7 binaries are missing:\n  tiny-app@1.1/" in said
    assert not (tmp_path / "into").exists()
