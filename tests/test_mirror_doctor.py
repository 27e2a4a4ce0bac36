"""``mirror.doctor``: what a mirror can do, proved and told in plain words."""

from __future__ import annotations

import gzip
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from email.utils import formatdate
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import DATA, Project, Stackyard
from fake_registry import fake_registry
from locks import document
from mirror_server import mirror_server
from registry_data import fill
from services import S3Server
from serving import QuietHandler, serving
from signing import Signer, needs_gpg

from stackyard.diagnosis import (
    Finding,
    index_finding,
    key_findings,
    layout_finding,
    root_finding,
    signature_finding,
    skew_finding,
)
from stackyard.edges.mirrors.probing import credentials, http_skew, probe
from stackyard.edges.settings import Environment
from stackyard.edges.stores.access import Place
from stackyard.edges.stores.folder import FileStore
from stackyard.edges.stores.store import Access
from stackyard.errors import DeniedError, UnreachableError
from stackyard.mirror import INDEX_MANIFEST, KEY_INDEX, Layout
from stackyard.padding import PLACEHOLDER, Root

MIRRORS = DATA / "mirrors"
SECRET = "hunter2-hunter2"


def copied(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(MIRRORS / name, folder / "mirror"))


def found(stackyard: Stackyard, url: str | Path, *flags: str, code: int = 0) -> dict[str, Any]:
    """Findings by their check."""
    answer = stackyard("mirror.doctor", "--url", str(url), "--json", *flags, code=code)
    assert SECRET not in answer.out + answer.err
    findings = json.loads(answer.out)
    assert {one["state"] for one in findings} <= {"ok", "warning", "problem", "unknown"}
    return {one["check"]: one for one in findings}


def states(findings: Mapping[str, Any], state: str) -> set[str]:
    return {check for check, one in findings.items() if one["state"] == state}


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_sound_mirror(stackyard: Stackyard, tmp_path: Path) -> None:
    folder = copied("v3-signed", tmp_path)
    key = next((MIRRORS / "v2-signed" / "build_cache" / "_pgp").glob("*.pub"))
    before = files(folder)
    findings = found(stackyard, folder, "--keys", str(key))
    assert states(findings, "ok") == set(findings)
    assert list(findings) == [
        "url",
        "credentials",
        "reach",
        "layouts",
        "list",
        "read",
        "index of layout 3",
        "signatures in layout 3",
        "keys",
        "trust",
        "signers",
        "padding in layout 3",
        "write",
        "clock",
        "conditional write",
        "delete",
    ]
    assert files(folder) == before
    assert "Example Builds" in findings["trust"]["text"]
    assert findings["signers"]["text"].startswith(
        "all 7 signatures looked at are by Example Builds"
    )


def test_in_words(stackyard: Stackyard) -> None:
    answer = stackyard("mirror.doctor", "--url", str(MIRRORS / "v2-unsigned"), "--read-only")
    lines = answer.out.splitlines()
    assert lines[0] == f"ok       url: file://{MIRRORS}/v2-unsigned: a folder"
    assert "ok       layouts: layout 2 (Spack 0.22 and 0.23)" in lines
    assert "unknown  write: not tried (--read-only)" in lines


def test_read_only_writes_nothing(stackyard: Stackyard, tmp_path: Path) -> None:
    folder = copied("v3-unsigned", tmp_path)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    status = [path.stat().st_mtime_ns for path in (folder, *sorted(folder.rglob("*")))]
    found(stackyard, folder, "--read-only")
    assert [path.stat().st_mtime_ns for path in (folder, *sorted(folder.rglob("*")))] == status


def test_manifest_that_is_none(stackyard: Stackyard, tmp_path: Path) -> None:
    folder = copied("v3-unsigned", tmp_path)
    next(folder.rglob("tiny-app*.spec.manifest.json")).write_text("junk")
    findings = found(stackyard, folder, code=6)
    assert states(findings, "problem") == {"read"}
    assert "stackyard mirror.verify" in findings["read"]["hint"]
    assert findings["delete"]["state"] == "ok"


def drop_index(folder: Path) -> None:
    (folder / INDEX_MANIFEST).unlink()


def garble_index(folder: Path) -> None:
    (folder / INDEX_MANIFEST).write_text("{}")


def drop_manifest(folder: Path) -> None:
    shutil.rmtree(folder / "v3/manifests/spec/tiny-app")


def drop_tarballs(folder: Path) -> None:
    for path in (folder / "blobs").rglob("*"):
        if path.is_file() and path.stat().st_size > 3000:
            path.write_bytes(
                path.read_bytes()
            ) if b"database" in path.read_bytes() else path.unlink()


def drop_key_index(folder: Path) -> None:
    (folder / KEY_INDEX).unlink()


def mix_layouts(folder: Path) -> None:
    shutil.copytree(MIRRORS / "v2-signed", folder, dirs_exist_ok=True)


def mix_signatures(folder: Path) -> None:
    where = "v3/manifests/spec/tiny-app"
    shutil.copytree(MIRRORS / "v3-unsigned" / where, folder / where, dirs_exist_ok=True)


TROUBLES: dict[str, tuple[Callable[[Path], None], str, str, int]] = {
    "no index": (drop_index, "index of layout 3", "warning", 0),
    "index is none": (garble_index, "index of layout 3", "problem", 6),
    "index names what is gone": (drop_manifest, "index of layout 3", "problem", 6),
    "tarballs gone": (drop_tarballs, "tarballs", "problem", 6),
    "no list of keys": (drop_key_index, "keys", "warning", 0),
    "two layouts": (mix_layouts, "layouts", "warning", 0),
    "some are not signed": (mix_signatures, "signatures in layout 3", "warning", 0),
}


@pytest.mark.parametrize(("damage", "check", "state", "code"), TROUBLES.values(), ids=TROUBLES)
def test_trouble(  # noqa: PLR0917 - a table
    stackyard: Stackyard,
    tmp_path: Path,
    damage: Callable[[Path], None],
    check: str,
    state: str,
    code: int,
) -> None:
    folder = copied("v3-signed", tmp_path)
    damage(folder)
    finding = found(stackyard, folder, "--read-only", code=code)[check]
    assert finding["state"] == state
    assert finding["hint"]


NOWHERE = {
    "no such folder": ("nosuch", "reach", "does not exist"),
    "no such scheme": ("ftp://example.org/x", "url", "no mirror can be at ftp://"),
    "a file": ("file", "reach", ""),
}


@pytest.mark.parametrize(("url", "check", "text"), NOWHERE.values(), ids=NOWHERE)
def test_nothing_more_is_asked_of_what_does_not_answer(  # noqa: PLR0917 - a table
    stackyard: Stackyard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    check: str,
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    findings = found(stackyard, url, "--read-only", code=6)
    assert states(findings, "problem") == {check}
    assert text in findings[check]["text"]
    assert list(findings)[-1] == check


def test_empty_folder_is_told(stackyard: Stackyard, tmp_path: Path) -> None:
    findings = found(stackyard, tmp_path)
    assert findings["layouts"]["state"] == "warning"
    assert findings["write"]["state"] == "ok"
    assert list(tmp_path.iterdir()) == []


def test_web_server(stackyard: Stackyard, tmp_path: Path) -> None:
    folder = copied("v3-unsigned", tmp_path)
    with mirror_server(folder) as server:
        findings = found(stackyard, server.url)
        (folder / INDEX_MANIFEST).unlink()
        blind = found(stackyard, server.url, code=6)
    assert states(findings, "ok") == set(findings)
    assert findings["clock"]["text"].endswith("(the date of the server's answer)")
    assert findings["write"]["text"] == "a web server can only be read"
    assert states(blind, "problem") == {"list"}


def test_registry(stackyard: Stackyard) -> None:
    with fake_registry() as server:
        repository = server.repository("tiny")
        fill(repository)
        tags = set(repository.tags)
        findings = found(stackyard, server.mirror("tiny"))
        assert set(repository.tags) == tags
    assert states(findings, "problem") == set()
    assert findings["layouts"]["text"] == "images of a registry"
    assert findings["conditional write"]["state"] == "warning"
    assert findings["delete"]["state"] == "unknown"
    assert "not padded" not in findings["padding in the registry"]["text"]
    assert "none of 7" in findings["padding in the registry"]["text"]


def on_s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket with a mirror in it."""
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    url = f"{server.bucket()}/mirror"
    with closing(server.store(url)) as store:
        for key, data in files(MIRRORS / "v3-unsigned").items():
            store.write(key, data)
    return url


def test_s3(stackyard: Stackyard, moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = on_s3(moto, monkeypatch)
    findings = found(stackyard, url)
    assert states(findings, "ok") == set(findings)
    assert findings["credentials"]["text"] == "AWS_ACCESS_KEY_ID in the environment"
    with closing(moto.store(url)) as store:
        assert not [one.key for one in store.list("stackyard-doctor")]
    clock = found(stackyard, url, "--read-only")["clock"]
    assert clock["text"].endswith("(the date of the server's answer)")


def test_server_that_ignores_conditions_is_noticed(
    stackyard: Stackyard, rclone: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = found(stackyard, on_s3(rclone, monkeypatch))
    assert findings["conditional write"]["state"] == "warning"
    assert states(findings, "problem") == set()


def test_bucket_that_is_not_there(
    stackyard: Stackyard, moto: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_s3(moto, monkeypatch)
    findings = found(stackyard, "s3://no-such-bucket-here/m", code=6)
    assert states(findings, "problem") == {"reach"}
    assert "NoSuchBucket" in findings["reach"]["text"]


def test_entry_of_a_stack_brings_credentials_and_its_word(
    stackyard: Stackyard, project: Project, tmp_path: Path
) -> None:
    folder = copied("v3-unsigned", tmp_path)
    url = f"file://{folder}"
    project.stack(document({"a": []}), mirrors={"m": {"url": url, "signed": True}})
    findings = found(stackyard, "m", "--read-only", code=6)
    assert findings["signatures in layout 3"]["state"] == "problem"
    assert "signed: false" in findings["signatures in layout 3"]["hint"]


def test_reading_is_told_of_without_the_variables_for_writing(
    stackyard: Stackyard, project: Project, tmp_path: Path
) -> None:
    pair = {"id_variable": "MY_ID", "secret_variable": "MY_SECRET"}
    url = f"file://{copied('v3-unsigned', tmp_path)}"
    mirrors = {"m": {"url": url, "access_pair": pair, "signed": False}}
    project.stack(document({"a": []}), mirrors=mirrors)
    findings = found(stackyard, "m", code=6)
    assert states(findings, "problem") == {"credentials"}
    assert "the variable MY_ID is not set" in findings["credentials"]["text"]
    assert findings["index of layout 3"]["state"] == "ok"
    assert findings["write"]["state"] == "unknown"
    assert states(found(stackyard, "m", "--read-only"), "problem") == set()


@needs_gpg
def test_signatures_that_our_keys_do_not_count(stackyard: Stackyard, tmp_path: Path) -> None:
    folder = copied("v3-unsigned", tmp_path)
    signer = Signer()
    try:
        signer.key("Mine")
        signer.key("Other")
        for path in folder.rglob("*.spec.manifest.json"):
            path.write_bytes(signer.sign("Mine", path.read_bytes(), "--digest-algo", "SHA512"))
        keys = tmp_path / "keys.asc"
        keys.write_bytes(signer.public("Mine"))
        findings = found(stackyard, folder, "--read-only", "--keys", str(keys))
        assert findings["signers"]["text"] == "all 7 signatures looked at are by Mine"
        keys.write_bytes(signer.public("Other"))
        findings = found(stackyard, folder, "--read-only", "--keys", str(keys), code=6)
        assert findings["signers"]["text"].startswith("7 of 7 signatures looked at do not count")
        signer.revoke("Mine")
        keys.write_bytes(signer.public("Mine"))
        findings = found(stackyard, folder, "--read-only", "--keys", str(keys), code=6)
        assert findings["signers"]["text"].endswith("was revoked")
    finally:
        signer.close()


# --- writing ---


def by_check(store: FileStore) -> dict[str, Finding]:
    with closing(store):
        return {finding.check: finding for finding in probe(store)}


class Careless(FileStore):
    """Writes, whatever the condition."""

    def create(self, key: str, data: bytes) -> str:
        self.write(key, data)
        return "1"

    def replace(self, key: str, data: bytes, version: str) -> str:
        self.write(key, data)
        return version


class Lame(FileStore):
    atomic = False


class Closed(FileStore):
    def write(self, key: str, data: bytes) -> None:  # noqa: ARG002
        raise DeniedError("we may not write it", where=self.url, hint="look at its permissions")


class Broken(FileStore):
    """Fails in the middle."""

    def replace(self, key: str, data: bytes, version: str) -> str:  # noqa: ARG002
        raise UnreachableError("gone away", where=self.url)


class Clinging(FileStore):
    def delete(self, key: str) -> None:
        """Does nothing, and says that it did."""


class Undeletable(FileStore):
    def delete(self, key: str) -> None:  # noqa: ARG002
        raise DeniedError("we may not delete it", where=self.url)


STORES: dict[str, tuple[type[FileStore], str, str]] = {
    "conditions ignored": (Careless, "conditional write", "warning"),
    "no conditions": (Lame, "conditional write", "warning"),
    "write denied": (Closed, "write", "problem"),
    "failure in between": (Broken, "conditional write", "problem"),
    "delete does nothing": (Clinging, "delete", "problem"),
    "delete denied": (Undeletable, "delete", "problem"),
}


@pytest.mark.parametrize(("kind", "check", "state"), STORES.values(), ids=STORES)
def test_probe(tmp_path: Path, kind: type[FileStore], check: str, state: str) -> None:
    findings = by_check(kind(tmp_path))
    assert findings[check].state == state
    others = {name for name, one in findings.items() if one.state != "ok"}
    assert others == {check}
    left = [path.name for path in tmp_path.iterdir()]
    assert bool(left) == (kind in {Clinging, Undeletable})


def test_probe_that_nobody_finishes_is_removed(tmp_path: Path) -> None:
    with closing(FileStore(tmp_path)) as store:
        findings = probe(store)
        assert next(findings).check == "write"
        assert list(tmp_path.iterdir())
        findings.close()  # type: ignore[attr-defined]
    assert not list(tmp_path.iterdir())


class Late(QuietHandler):
    """A server whose clock is an hour behind."""

    def do_HEAD(self) -> None:  # noqa: N802
        self.send_response_only(405)
        self.send_header("Date", formatdate(time.time() - 3600, usegmt=True))
        self.end_headers()


class Timeless(QuietHandler):
    def do_HEAD(self) -> None:  # noqa: N802
        self.send_response_only(200)
        self.end_headers()


@pytest.mark.parametrize(("handler", "low", "high"), [(Late, 3590, 3700), (Timeless, None, None)])
def test_clock_of_a_server(handler: type[QuietHandler], low: int | None, high: int | None) -> None:
    server = HTTPServer(("127.0.0.1", 0), handler)
    with serving(server):
        skew = http_skew(f"http://127.0.0.1:{server.server_port}/")
    if low is None or high is None:
        assert skew is None
    else:
        assert skew is not None
        assert low <= skew < high


def test_clock_of_nobody() -> None:
    assert http_skew("http://127.0.0.1:9/") is None


CREDENTIALS: dict[str, tuple[str, Access, Mapping[str, str], str]] = {
    "folder": ("/srv/m", Access(), {}, "permissions"),
    "web": ("https://example.org/m", Access(), {}, "none"),
    "web with user": (f"https://u:{SECRET}@example.org/m", Access(), {}, "in the URL"),
    "s3, entry": ("s3://b/m", Access(id=SECRET, secret=SECRET), {}, "access_pair"),
    "s3, profile": ("s3://b/m", Access(profile="ci"), {}, "profile ci"),
    "s3, variables": ("s3://b/m", Access(), {"AWS_ACCESS_KEY_ID": SECRET}, "AWS_ACCESS_KEY_ID"),
    "s3, web identity": (
        "s3://b/m",
        Access(),
        {"AWS_WEB_IDENTITY_TOKEN_FILE": "/x"},
        "AWS_WEB_IDENTITY_TOKEN_FILE",
    ),
    "s3, nothing": ("s3://b/m", Access(), {}, "boto3"),
    "gs, file": (
        "gs://b/m",
        Access(),
        {"GOOGLE_APPLICATION_CREDENTIALS": "/x"},
        "GOOGLE_APPLICATION_CREDENTIALS",
    ),
    "gs, nothing": ("gs://b/m", Access(), {}, "gcloud"),
    "oci, entry": ("oci://ghcr.io/o/n", Access(id="u", secret=SECRET), {}, "entry"),
    "oci, job": ("oci://ghcr.io/o/n", Access(), {"GITHUB_TOKEN": SECRET}, "GITHUB_TOKEN"),
    "oci, nothing": ("oci://ghcr.io/o/n", Access(), {}, "none"),
}


@pytest.mark.parametrize(("url", "access", "env", "text"), CREDENTIALS.values(), ids=CREDENTIALS)
def test_credentials_are_named_and_not_shown(
    url: str, access: Access, env: Mapping[str, str], text: str
) -> None:
    said = credentials(Place("", url, access=access), Environment(env))
    assert text in said
    assert SECRET not in said


# --- what follows from what was seen ---

SKEWS = [(None, "unknown"), (0.4, "ok"), (-59, "ok"), (61, "warning"), (-901, "problem")]


@pytest.mark.parametrize(("skew_s", "state"), SKEWS)
def test_skew(skew_s: float | None, state: str) -> None:
    assert skew_finding(skew_s, "x").state == state


INDICES: dict[str, tuple[Sequence[str] | None, Sequence[str] | None, str, str]] = {
    "fresh": (["a", "b"], ["b", "a"], "ok", "all 2"),
    "lacks": (["a"], ["b", "a"], "warning", "lacks 1 of 2"),
    "too many": (["a", "b"], ["a"], "problem", "names 1 that are not there"),
    "both": (["b"], ["a"], "problem", "lacks 1 of 1 binaries and names 1"),
    "none": (None, ["a"], "warning", "there is none"),
    "none for nothing": (None, [], "ok", "there is none"),
    "behind a web server": (["a"], None, "ok", "names 1"),
}


@pytest.mark.parametrize(("named", "there", "state", "text"), INDICES.values(), ids=INDICES)
def test_index(
    named: Sequence[str] | None, there: Sequence[str] | None, state: str, text: str
) -> None:
    finding = index_finding(3, named, there, "x")
    assert (finding.state, text in finding.text) == (state, True)


SIGNED: dict[str, tuple[Sequence[bool], bool | None, Layout, str]] = {
    "all": ([True, True], True, 3, "ok"),
    "none": ([False], None, 3, "ok"),
    "none, as said": ([False], False, 3, "ok"),
    "none, and they should be": ([False], True, 2, "problem"),
    "some": ([True, False], None, 3, "warning"),
    "some, and all should be": ([True, False], True, 3, "problem"),
    "registry": ([False], None, "oci", "ok"),
    "registry, and they should be": ([False], True, "oci", "problem"),
    "registry, all signed": ([True, True], True, "oci", "ok"),
    "registry, all signed, as Spack wants it": ([True], False, "oci", "ok"),
    "registry, some signed": ([True, False], False, "oci", "warning"),
    "registry, some signed, and all should be": ([True, False], True, "oci", "problem"),
}


@pytest.mark.parametrize(("signed", "wanted", "layout", "state"), SIGNED.values(), ids=SIGNED)
def test_signatures(
    signed: Sequence[bool],
    wanted: bool | None,  # noqa: FBT001
    layout: Layout,
    state: str,
) -> None:
    assert signature_finding(signed, layout, wanted=wanted).state == state


A, B = "A" * 40, "B" * 40

KEYS: dict[str, tuple[Sequence[str], Sequence[str] | None, Mapping[str, str] | None, list[str]]] = {
    "none": ([], None, None, ["warning"]),
    "listed and ours": ([A], [A], {A: "me"}, ["ok", "ok"]),
    "not listed": ([A, B], [A], {A: "me", B: "you"}, ["warning", "ok"]),
    "no list": ([A], None, {A: "me"}, ["warning", "ok"]),
    "some are ours": ([A, B], [A, B], {A: "me"}, ["ok", "warning"]),
    "a stranger's": ([A], [A], {B: "me"}, ["ok", "warning"]),
    "we have none": ([A], [A], None, ["ok", "unknown"]),
}


@pytest.mark.parametrize(("there", "listed", "ours", "expected"), KEYS.values(), ids=KEYS)
def test_keys(
    there: Sequence[str],
    listed: Sequence[str] | None,
    ours: Mapping[str, str] | None,
    expected: list[str],
) -> None:
    assert [one.state for one in key_findings(there, listed, ours, signed=True)] == expected


def test_no_keys_and_no_signatures_is_fine() -> None:
    assert [one.state for one in key_findings([], None, None, signed=False)] == ["ok"]


PLAIN, SHORT = Root("/opt/tree", padded=False), Root("/o", padded=False)
PADDED = Root(f"/o/{PLACEHOLDER}", padded=True)
LONGER = Root(f"/o/{PLACEHOLDER}/{PLACEHOLDER}", padded=True)

ROOTS: dict[str, tuple[Sequence[Root | None], str, str]] = {
    "nobody tells": ([None, None], "unknown", ""),
    "padded alike": ([PADDED, PADDED, None], "ok", "all 2 looked at are padded to 29"),
    "not padded": ([PLAIN, SHORT], "ok", "the shortest tree is /o (2 characters)"),
    "some are padded": ([PADDED, PLAIN, SHORT], "problem", "2 not padded, 1 padded to 29"),
    "padded otherwise": ([PADDED, LONGER], "problem", "1 padded to 29, 1 padded to 56"),
}


@pytest.mark.parametrize(("roots", "state", "text"), ROOTS.values(), ids=ROOTS)
def test_padding(roots: Sequence[Root | None], state: str, text: str) -> None:
    finding = root_finding(roots, 3)
    assert finding.state == state
    assert text in finding.text


def test_layouts() -> None:
    assert layout_finding(()).state == "warning"
    assert layout_finding((3,)).text == "layout 3 (Spack 1.0 and newer)"
    assert layout_finding((3, 2)).state == "warning"


def test_tarball_that_is_none_leaves_padding_open(stackyard: Stackyard, tmp_path: Path) -> None:
    """The dummies of a mirror that was made for a test."""
    folder = copied("half-tutorial", tmp_path)
    tarball = next(iter(folder.glob("v3/manifests/spec/*/*"))).read_text().split('"checksum":"')[1]
    path = folder / "blobs" / "sha256" / tarball[:2] / tarball[:64]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(b"dummy"))
    finding = found(stackyard, folder, "--read-only", code=6)["padding in layout 3"]
    assert finding["state"] == "unknown"
