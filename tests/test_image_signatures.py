"""Signatures on the images of a registry: made on push and copy, checked by all who read."""

from __future__ import annotations

import base64
import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import DATA, ROOT, Answer, Project, Stackyard
from fake_registry import FakeRegistry, Repository, digest_of, fake_registry
from registry_data import fill
from releases import Ground
from signing import LONG_AGO, Signer, needs_gpg, trusted_keys
from test_push import FakeSpack
from test_release_gates import states

from stackyard.edges.mirrors import images
from stackyard.flow import installed
from stackyard.oci import SIGNATURE, parse_oci_binary, tag_hash
from stackyard.oci_notes import signature_in, signed_manifest, statement

pytestmark = needs_gpg
TINY = DATA / "tiny.spack.lock"
UNSIGNED = DATA / "mirrors" / "v3-unsigned"
SIGNED = DATA / "mirrors" / "v3-signed"
OWN = "dev.stackyard."


@pytest.fixture(scope="module")
def signer() -> Iterator[Signer]:
    signer = Signer()
    for name in ("good", "stranger", "revoked"):
        signer.key(name)
    signer.key("expired", expires="1d", at=LONG_AGO)
    yield signer
    signer.close()


@pytest.fixture(scope="module")
def value(signer: Signer) -> str:
    """The good key as CI has it."""
    return base64.b64encode(signer("--armor", "--export-secret-keys", "=good")).decode()


@pytest.fixture
def keys(signer: Signer, tmp_path: Path) -> Path:
    """The keys that are trusted, one of which has expired and one of which was revoked since."""
    return trusted_keys(signer, tmp_path / "keys")


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        yield server


class Case(NamedTuple):
    """A repository of signed images, and that of ``tiny-app`` in it."""

    repository: Repository
    signer: Signer
    url: str

    @property
    def tag(self) -> str:
        return self.named("tiny-app")

    def named(self, name: str) -> str:
        return next(tag for tag in self.repository.tags if tag.startswith(f"{name}-"))

    def manifest(self, name: str = "tiny-app") -> bytes:
        return self.repository.manifests[self.repository.tags[self.named(name)]][1]

    def notes(self, name: str = "tiny-app") -> dict[str, Any]:
        notes: dict[str, Any] = json.loads(self.manifest(name))["annotations"]
        return notes

    def statement(self, **changes: Any) -> bytes:
        tag = self.tag
        binary = parse_oci_binary(self.manifest(), tag, tag_hash(tag), tag)
        assert binary.spec
        document = json.loads(statement(binary.hash, binary.tarball.checksum, binary.spec.checksum))
        return json.dumps({**document, **changes}).encode() + b"\n"

    def put(self, **changes: Any) -> None:
        """Another manifest of ``tiny-app``, with these keys changed."""
        document = {**json.loads(self.manifest()), **changes}
        self.repository.put(self.tag, json.dumps(document).encode())

    def annotate(self, message: Any) -> None:
        self.put(annotations={**self.notes(), SIGNATURE: message})

    def sign(self, name: str, text: bytes = b"", *options: str) -> None:
        at = LONG_AGO if name == "expired" else ""
        message = self.signer.sign(name, text or self.statement(), *options, at=at)
        self.annotate(message.decode())

    def message(self) -> str:
        return str(self.notes()[SIGNATURE])


@pytest.fixture(scope="module")
def signed_images(value: str, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """What a copy with the good key makes; each test has its own copy of that."""
    folder = tmp_path_factory.mktemp("nowhere")
    with fake_registry() as server:
        done = subprocess.run(
            [
                *(sys.executable, "-c", "from stackyard.main import main; main()"),
                *("mirror.copy", "--url", str(UNSIGNED), "--to", server.mirror("team/one")),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "SPACK_SIGNING_KEY": value},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return server.repository("team/one")


@pytest.fixture
def case(project: Project, server: FakeRegistry, signer: Signer, signed_images: Repository) -> Case:
    assert project.root == Path.cwd()
    server.repositories["team/one"] = copy.deepcopy(signed_images)
    return Case(server.repository("team/one"), signer, server.mirror("team/one"))


@pytest.fixture
def fetch(stackyard: Stackyard, case: Case, keys: Path, tmp_path: Path) -> Callable[..., str]:
    def fetch(*flags: str, code: int = 0) -> str:
        into, source = str(tmp_path / "into"), ("--from", case.url, "--keys", str(keys))
        return stackyard("fetch", "--lock", str(TINY), *source, "--to", into, *flags, code=code).err

    return fetch


def without_signature(case: Case) -> None:
    case.put(annotations={k: v for k, v in case.notes().items() if k != SIGNATURE})


def another_config(case: Case) -> None:
    """A configuration with a variable more, which anybody may put there."""
    document = json.loads(case.manifest())
    config = json.loads(case.repository.blobs[document["config"]["digest"]])
    config["config"]["Env"].append("LD_PRELOAD=/x.so")
    data = json.dumps(config).encode()
    case.repository.blobs[digest_of(data)] = data
    case.put(config={**document["config"], "digest": digest_of(data), "size": len(data)})


def another_tarball(case: Case) -> None:
    theirs = json.loads(case.manifest("tiny-tool"))["layers"][-1]
    layers = json.loads(case.manifest())["layers"]
    case.put(layers=[*layers[:-1], theirs])


def of_another_image(case: Case) -> None:
    """A good signature, in another place than the one it was made for."""
    case.annotate(case.notes("tiny-tool")[SIGNATURE])


def another_image(case: Case) -> None:
    """All of another image, with its good signature."""
    case.repository.put(case.tag, case.manifest("tiny-tool"))


def changed_statement(case: Case) -> None:
    case.annotate(case.message().replace('"version": 1', '"version":  1'))


CASES: dict[str, tuple[Callable[[Case], object], str]] = {
    "unsigned": (without_signature, "its image is not signed (push it again with SPACK_SIGNING_"),
    "statement changed": (changed_statement, "the text was changed after it was signed"),
    "statement of another image": (of_another_image, "the signature is that of another spec"),
    "another image": (another_image, "the signature is that of another spec"),
    "another configuration": (another_config, "the signature is that of another configuration"),
    "another tarball": (another_tarball, "the signature is that of another tarball"),
    "text behind": (
        lambda case: case.annotate(case.message() + "{}\n"),
        "text stands outside of the signature",
    ),
    "text before": (
        lambda case: case.annotate("{}\n" + case.message()),
        "text stands outside of the signature",
    ),
    "cut off": (lambda case: case.annotate(case.message()[:-40]), "the signature is cut off"),
    "two": (
        lambda case: case.annotate(case.message() * 2),
        "text stands outside of the signature",
    ),
    "no signature at all": (lambda case: case.annotate("yes"), "it carries no signature"),
    "no text": (lambda case: case.annotate(5), "it carries no signature"),
    "stranger": (lambda case: case.sign("stranger"), "signed with the unknown key "),
    "expired": (lambda case: case.sign("expired"), " has expired"),
    "revoked": (lambda case: case.sign("revoked"), " was revoked"),
    "weak digest": (
        lambda case: case.sign(
            "good", b"", "--digest-algo", "RIPEMD160", "--allow-weak-digest-algos"
        ),
        "can be forged",
    ),
    "no statement": (
        lambda case: case.sign("good", b'{"version": 3, "data": []}\n'),
        "no statement about an image",
    ),
    "a newer statement": (
        lambda case: case.sign("good", case.statement(version=2)),
        "the statement is of a newer version",
    ),
}


def fetched(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.spec.manifest.json"))


def test_what_is_right_is_taken(case: Case, fetch: Callable[..., str], tmp_path: Path) -> None:
    assert "0 of 7 already here, 7 fetched" in fetch()
    assert len(fetched(tmp_path / "into")) == 7
    # The folder has layout 3, in which nobody signed anything, and no key for Spack to trust.
    manifests = list((tmp_path / "into").rglob("*.spec.manifest.json"))
    assert not any(b"PGP" in path.read_bytes() for path in manifests)
    assert not (tmp_path / "into/v3/manifests/key").exists()


@pytest.mark.parametrize("name", CASES)
def test_tampering_is_refused(
    case: Case, fetch: Callable[..., str], tmp_path: Path, name: str
) -> None:
    before = case.manifest()
    spoil, reason = CASES[name]
    spoil(case)
    said = fetch(code=6)
    assert reason in said
    assert "\n  tiny-app@1.1/" in said
    assert fetched(tmp_path / "into") == []
    case.repository.put(case.tag, before)
    assert "7 fetched" in fetch()


Entry = Mapping[str, Any]
READERS: dict[str, tuple[str, Entry, str, bool, int]] = {
    # name, the mirror's entry, what was done to tiny-app, whether the stack has keys, exit code
    "signed, keys": ("", {}, "", True, 0),
    "signed, no keys": ("", {}, "", False, 6),
    "signed, no keys, as Spack wants it": ("", {"signed": False}, "", False, 0),
    "signed, keys, as Spack wants it": ("", {"signed": False}, "", True, 0),
    "wrong, keys, as Spack wants it": ("another spec", {"signed": False}, "copied", True, 6),
    "wrong, no keys, as Spack wants it": ("", {"signed": False}, "copied", False, 0),
    "none, keys": ("its image is not signed", {}, "bare", True, 6),
    "none, keys, as Spack wants it": ("", {"signed": False}, "bare", True, 0),
}


@pytest.mark.parametrize(
    ("reason", "entry", "done", "trusted", "code"), READERS.values(), ids=READERS
)
def test_what_the_mirrors_entry_means(  # noqa: PLR0917
    reason: str,
    entry: Entry,
    done: str,
    trusted: bool,  # noqa: FBT001
    code: int,
    case: Case,
    project: Project,
    stackyard: Stackyard,
) -> None:
    """Spack wants ``signed: false`` for a registry, so a signature that is there counts even then."""
    project.stack(TINY.read_bytes(), mirrors={"m": {"url": case.url, **entry}})
    if trusted:
        project.write("stacks/demo/keys/good.pub", case.signer.public("good"))
    steps: Mapping[str, Callable[[Case], None]] = {
        "copied": of_another_image,
        "bare": without_signature,
    }
    if done:
        steps[done](case)
    assert reason in stackyard("fetch", "--to", "into", code=code).err
    assert "7 fetched" in stackyard("fetch", "--to", "other", "--unsigned").err


def test_verify_list_and_doctor_tell(case: Case, keys: Path, stackyard: Stackyard) -> None:
    arguments = ("--url", case.url, "--keys", str(keys))
    assert "(7 signed)" in stackyard("mirror.verify", *arguments).err
    of_another_image(case)
    answer = stackyard("mirror.verify", *arguments, code=6)
    assert "the signature is that of another spec" in answer.out
    doctor = stackyard("mirror.doctor", *arguments, "--read-only", code=None).out
    assert "7 of 7 images looked at are signed" in doctor
    assert "the signature is that of another spec" in doctor
    without_signature(case)
    assert "its image is not signed" in stackyard("mirror.verify", *arguments, code=6).out
    assert "(6 signed)" in stackyard("mirror.verify", "--url", case.url, "--unsigned").err
    listed = json.loads(stackyard("mirror.list", "--url", case.url, "--sizes", "--json").out)
    text = json.dumps(listed)
    assert (text.count('"signed": true'), text.count('"signed": false')) == (6, 1)
    assert "6 of 7 images" in stackyard("mirror.doctor", *arguments, "--read-only", code=None).out


def test_a_wrong_one_goes_nowhere(
    case: Case, keys: Path, server: FakeRegistry, stackyard: Stackyard, tmp_path: Path
) -> None:
    of_another_image(case)
    other = server.mirror("team/two")
    copy = ("mirror.copy", "--url", case.url, "--keys", str(keys), "--to")
    for target in (other, str(tmp_path / "folder")):
        said = stackyard(*copy, target, code=6).err
        assert "1 binaries are refused, so nothing was sent" in said
        assert "the signature is that of another spec" in said
    assert not server.repository("team/two").tags
    assert not (tmp_path / "folder").exists() or fetched(tmp_path / "folder") == []


def test_signatures_go_along_and_stay(
    case: Case, keys: Path, server: FakeRegistry, stackyard: Stackyard, tmp_path: Path
) -> None:
    """To another repository, byte for byte; through an index and a prune."""
    other = server.mirror("team/two")
    trusted = ("--keys", str(keys))
    stackyard("mirror.copy", "--url", case.url, "--to", other, *trusted)
    two = server.repository("team/two")
    images = {tag: digest for tag, digest in two.tags.items() if tag_hash(tag)}
    ours = case.repository.tags
    assert len(images) == 7
    assert images == {tag: ours[tag] for tag in images}
    answer = stackyard("mirror.copy", "--url", case.url, "--to", other, *trusted)
    assert "7 of 7 already there, 0 sent" in answer.err
    stackyard("mirror.index", "--url", other, "--full")
    stackyard("mirror.prune", "--url", other, "--keep", "tiny-tool", "--yes")
    left = {tag: digest for tag, digest in two.tags.items() if tag_hash(tag)}
    assert left
    assert left.items() < images.items()
    assert f"({len(left)} signed)" in stackyard("mirror.verify", "--url", other, *trusted).err
    # Out of it the signature of the image means nothing.
    stackyard("mirror.copy", "--url", other, "--to", str(tmp_path / "folder"), *trusted)
    found = list((tmp_path / "folder").rglob("*.spec.manifest.json"))
    assert len(found) == len(left)
    assert not any(b"PGP" in path.read_bytes() for path in found)


def test_annotations_and_labels(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = case.notes()
    assert notes["org.opencontainers.image.title"] == "tiny-app 1.1"
    assert notes[f"{OWN}hash"] == tag_hash(case.tag)
    layer = json.loads(case.manifest())["layers"][-1]
    assert notes[f"{OWN}size"] == str(layer["size"])
    config = json.loads(case.manifest())["config"]["digest"]
    labels = json.loads(case.repository.blobs[config])["config"]["Labels"]
    assert labels == {name: text for name, text in notes.items() if name != SIGNATURE}


def copied(stackyard: Stackyard, url: str, *flags: str, code: int = 0) -> Answer:
    return stackyard("mirror.copy", "--url", str(UNSIGNED), "--to", url, *flags, code=code)


def signed_tags(repository: Repository) -> set[str]:
    return {
        tag
        for tag, digest in repository.tags.items()
        if tag_hash(tag) and signature_in(repository.manifests[digest][1])
    }


def test_a_signature_is_added_once(
    tiny_registry: tuple[Repository, str],
    value: str,
    stackyard: Stackyard,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repository, url = tiny_registry
    copied(stackyard, url)
    assert signed_tags(repository) == set()
    monkeypatch.setenv("SPACK_SIGNING_KEY", value)
    assert "7 of 7 already there" in copied(stackyard, url, "--unsigned").err
    assert signed_tags(repository) == set()
    answer = copied(stackyard, url)
    assert "7 there without a signature" in answer.err
    assert "is not among those that the stack trusts" in answer.err
    assert value not in answer.err
    before = dict(repository.tags)
    assert len(signed_tags(repository)) == 7
    assert "7 of 7 already there, 0 sent" in copied(stackyard, url).err
    assert repository.tags == before
    # Nor does it go because somebody without the key copies the same.
    monkeypatch.delenv("SPACK_SIGNING_KEY")
    assert "7 of 7 already there, 0 sent" in copied(stackyard, url).err
    assert repository.tags == before


def test_images_of_spack_are_signed_on_their_way(  # noqa: PLR0917
    tiny_registry: tuple[Repository, str],
    server: FakeRegistry,
    value: str,
    keys: Path,
    stackyard: Stackyard,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From registry to registry only the annotation is new."""
    repository, url = tiny_registry
    fill(repository)
    monkeypatch.setenv("SPACK_SIGNING_KEY", value)
    other = server.mirror("team/two")
    stackyard("mirror.copy", "--url", url, "--to", other)
    two = server.repository("team/two")
    assert len(signed_tags(two)) == 7
    assert signed_tags(repository) == set()
    for tag in signed_tags(two):
        theirs = repository.manifests[repository.tags[tag]][1]
        ours = two.manifests[two.tags[tag]][1]
        assert ours == signed_manifest(theirs, signature_in(ours) or b"")
    monkeypatch.delenv("SPACK_SIGNING_KEY")
    stackyard("mirror.verify", "--url", other, "--keys", str(keys))
    # What has a signature is not replaced by what has none.
    answer = stackyard("mirror.copy", "--url", url, "--to", other, code=6)
    assert "7 binaries are there otherwise" in answer.err
    assert "with a signature, and this one has none" in answer.err


def test_who_demands_signatures_hears_that_there_is_no_key(
    tiny_registry: tuple[Repository, str], project: Project, stackyard: Stackyard
) -> None:
    _, url = tiny_registry
    project.stack(TINY.read_bytes(), mirrors={"target": {"url": url}})
    said = stackyard("mirror.copy", "--url", str(UNSIGNED), "--to", "target").err
    assert "demands signatures, and SPACK_SIGNING_KEY is not set" in said
    assert "7 binaries are refused" in stackyard("fetch", "--to", "into", code=6).err
    project.stack(TINY.read_bytes(), mirrors={"target": {"url": url, "signed": False}})
    said = stackyard("mirror.copy", "--url", str(UNSIGNED), "--to", "target").err
    assert "demands signatures" not in said


def test_a_key_that_is_none_stops_all(
    tiny_registry: tuple[Repository, str], stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, url = tiny_registry
    monkeypatch.setenv("SPACK_SIGNING_KEY", "bm8ga2V5")
    assert "$SPACK_SIGNING_KEY" in copied(stackyard, url, code=2).err
    assert not repository.tags


@pytest.fixture
def tiny_registry(project: Project, server: FakeRegistry) -> tuple[Repository, str]:
    url = server.mirror("org/tiny")
    return server.repository("org/tiny"), url


# --- what Spack pushes ---


class Spacks:
    """Stands for Spack: puts its own images into the registry, and says so."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.silent: set[str] = set()  # packages that it says nothing of

    def __call__(
        self, argv: Sequence[str], *, tell: Callable[[str], None], env: Mapping[str, str]
    ) -> tuple[int, Sequence[str]]:
        assert "--unsigned" in argv
        assert "SPACK_SIGNING_KEY" not in env
        fill(self.repository)
        for tag, digest in self.repository.tags.items():
            name = tag.partition("-1.")[0]
            if not tag_hash(tag) or name in self.silent:
                continue
            layer = json.loads(self.repository.manifests[digest][1])["layers"][-1]["digest"]
            tell(f"==> [1/7] Pushed {name}@1.1/{tag_hash(tag)[:7]}: {layer} (0.01s, 1.00 MB/s)")
        return 0, ()


@pytest.fixture
def spacks(tiny_registry: tuple[Repository, str], monkeypatch: pytest.MonkeyPatch) -> Spacks:
    spacks = Spacks(tiny_registry[0])
    monkeypatch.setattr(installed, "relay", spacks)
    return spacks


@pytest.fixture
def push(
    tiny_registry: tuple[Repository, str],
    project: Project,
    stackyard: Stackyard,
    tmp_path: Path,
) -> Callable[..., str]:
    spack = FakeSpack(tmp_path / "spack")
    project.stack(TINY.read_bytes(), name="tiny")
    arguments = ("push", "--stack", "tiny", "--to", tiny_registry[1], "--spack", str(spack.folder))
    return lambda *flags: stackyard(*arguments, *flags).err


def test_what_spack_pushed_is_dressed_and_signed(  # noqa: PLR0917
    push: Callable[..., str],
    spacks: Spacks,
    value: str,
    keys: Path,
    tiny_registry: tuple[Repository, str],
    stackyard: Stackyard,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repository, url = tiny_registry
    monkeypatch.setenv("SPACK_SIGNING_KEY", value)
    assert "7 pushed" in push()
    tags = signed_tags(repository)
    assert len(tags) == 7
    for tag in tags:
        notes = json.loads(repository.manifests[repository.tags[tag]][1])["annotations"]
        assert notes[f"{OWN}hash"] == tag_hash(tag)
    stackyard("mirror.verify", "--url", url, "--keys", str(keys))
    before = dict(repository.tags)
    assert "7 of 7 already there" in push()
    assert repository.tags == before


@pytest.mark.parametrize("flags", [(), ("--unsigned",)])
def test_without_a_key_there_are_annotations_alone(  # noqa: PLR0917
    push: Callable[..., str],
    spacks: Spacks,
    value: str,
    flags: tuple[str, ...],
    tiny_registry: tuple[Repository, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if flags:
        monkeypatch.setenv("SPACK_SIGNING_KEY", value)
    push(*flags)
    repository, _ = tiny_registry
    assert signed_tags(repository) == set()
    manifests = [data for _, data in repository.manifests.values()]
    assert sum(OWN.encode() in data for data in manifests) == 7


def test_what_somebody_else_put_there_is_not_signed(
    push: Callable[..., str],
    spacks: Spacks,
    value: str,
    tiny_registry: tuple[Repository, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between our look and Spack's: it finds the image there, and says nothing of it."""
    repository, _ = tiny_registry
    spacks.silent = {"tiny-app"}
    monkeypatch.setenv("SPACK_SIGNING_KEY", value)
    said = push()
    assert "1 images, such as manifests/tiny-app-" in said
    assert "were not made by this push, so they are not signed: --force" in said
    assert len(signed_tags(repository)) == 6
    assert not any(tag.startswith("tiny-app-") for tag in signed_tags(repository))


@pytest.mark.parametrize("other", ["the same", "another", "signed"])
def test_two_jobs_push_the_same(  # noqa: PLR0917
    push: Callable[..., str],
    spacks: Spacks,
    value: str,
    tiny_registry: tuple[Repository, str],
    signer: Signer,
    monkeypatch: pytest.MonkeyPatch,
    other: str,
) -> None:
    """The other's image takes the place of ours while we sign that."""
    repository, url = tiny_registry
    monkeypatch.setenv("SPACK_SIGNING_KEY", value)
    dress, left = images.dress_image, ["tiny-app"]
    case = Case(repository, signer, url)

    def late(store: Any, binary: Any, metadata: Any, **how: Any) -> Any:
        if left and "tiny-app" in binary.key:
            left.pop()
            if other == "another":
                another_tarball(case)
            elif other == "signed":
                case.annotate("signed by the other")
            else:
                case.put(annotations={**case.notes(), "pushed": "again"})
        return dress(store, binary, metadata, **how)

    monkeypatch.setattr(images, "dress_image", late)
    said = push()
    ours = [tag for tag in signed_tags(repository) if not tag.startswith("tiny-app-")]
    assert len(ours) == 6
    assert left == []
    if other == "the same":
        assert case.message().startswith("-----BEGIN PGP SIGNED MESSAGE-----")
        assert case.notes()["pushed"] == "again"
    elif other == "signed":
        assert case.message() == "signed by the other"
    else:
        assert SIGNATURE not in case.notes()
        assert "were not made by this push" in said


# --- gates of a release ---


def test_what_a_release_says_of_images(  # noqa: PLR0917
    ground: Ground,
    server: FakeRegistry,
    signer: Signer,
    value: str,
    stackyard: Stackyard,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gates(code: int = 0) -> tuple[str, str]:
        ground.publish()
        found = states(stackyard("release", "--tag", "x", "--dry-run", "--json", code=code))
        return found["tiny: signatures"], found["tiny: key"]

    url, path = server.mirror("team/one"), "stacks/tiny/spack.yaml"
    copy = ("mirror.copy", "--url", str(ground.mirror), "--to", url)
    stackyard(*copy)
    text = (ground.root / path).read_text().replace(ground.mirror.as_uri(), url)
    ground.project.write(path, text)
    assert gates() == ("not configured", "not configured")
    with monkeypatch.context() as patch:
        patch.setenv("SPACK_SIGNING_KEY", value)
        stackyard(*copy)
    assert gates() == ("not configured", "not configured")
    ground.project.write("stacks/tiny/keys/good.pub", signer.public("good"))
    assert gates() == ("passed", "not configured")
    case = Case(server.repository("team/one"), signer, url)
    of_another_image(case)
    assert gates(code=1) == ("failed", "not configured")
    without_signature(case)
    assert gates() == ("passed", "not configured")
    ground.project.write(path, text.replace("signed: false", "signed: true"))
    assert gates(code=1) == ("failed", "not configured")
