"""``mirror.verify``: every fault is found, named and graded, and what is safe to is mended."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import DATA, Stackyard
from fake_registry import fake_registry
from mirror_server import Reply, mirror_server
from registry_data import fill

from stackyard.edges.mirrors.verifying import read_whole
from stackyard.edges.stores.access import Place
from stackyard.edges.stores.folder import FileStore
from stackyard.edges.stores.store import PIECE_BYTES
from stackyard.flow.repair import mend
from stackyard.flow.verify import Ward, examine_mirror
from stackyard.mirror import INDEX_MANIFEST, KEY_INDEX
from stackyard.verify import Fault, exit_code, gzip_problem, report_text

MIRRORS = DATA / "mirrors"


def copied(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(MIRRORS / name, folder / "mirror"))


def public_key(folder: Path) -> Path:
    """The public key of the signed mirrors, in a file of its own."""
    found = MIRRORS / "v2-signed" / "build_cache" / "_pgp"
    return Path(shutil.copy(next(found.glob("*.pub")), folder / "ours.pub"))


def manifest_of(folder: Path, name: str) -> Path:
    return next((folder / "v3" / "manifests" / "spec" / name).iterdir())


def records(manifest: Path) -> list[dict[str, Any]]:
    text = manifest.read_text()
    if text.startswith("-----BEGIN"):
        text = text.partition("\n\n")[2].partition("-----BEGIN")[0]
    found: list[dict[str, Any]] = json.loads(text)["data"]
    return found


def blob_at(folder: Path, checksum: str) -> Path:
    return folder / "blobs" / "sha256" / checksum[:2] / checksum


def blob_of(folder: Path, name: str, kind: str) -> Path:
    wanted = [one for one in records(manifest_of(folder, name)) if kind in one["mediaType"]]
    return blob_at(folder, wanted[0]["checksum"])


def put_blob(folder: Path, manifest: Path, kind: str, data: bytes) -> None:
    """Another blob in the place of one of the manifest's, so that all checksums are right."""
    changed = records(manifest)
    for one in changed:
        if kind in one["mediaType"]:
            one["checksum"] = hashlib.sha256(data).hexdigest()
            one["contentLength"] = len(data)
            path = blob_at(folder, one["checksum"])
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
    manifest.write_text(json.dumps({"version": 3, "data": changed}))


def change_blob(folder: Path) -> None:
    path = blob_of(folder, "tiny-app", "install")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut_blob(folder: Path) -> None:
    path = blob_of(folder, "tiny-app", "install")
    path.write_bytes(path.read_bytes()[:-1])


def lengthen_blob(folder: Path) -> None:
    path = blob_of(folder, "tiny-app", "install")
    path.write_bytes(path.read_bytes() + bytes(2**22))


def change_spec_blob(folder: Path) -> None:
    blob_of(folder, "tiny-app", "spec").write_bytes(b"{}")


def drop_blob(folder: Path) -> None:
    blob_of(folder, "tiny-app", "install").unlink()


def drop_spec_blob(folder: Path) -> None:
    blob_of(folder, "tiny-app", "spec").unlink()


def garble_manifest(folder: Path) -> None:
    manifest_of(folder, "tiny-app").write_text('{"version": 4, "data": []}')


def cut_manifest(folder: Path) -> None:
    path = manifest_of(folder, "tiny-app")
    path.write_bytes(path.read_bytes()[:-20])


def forget_tarball(folder: Path) -> None:
    path = manifest_of(folder, "tiny-app")
    only = [one for one in records(path) if "spec" in one["mediaType"]]
    path.write_text(json.dumps({"version": 3, "data": only[:1]}))


def swap_manifest(folder: Path) -> None:
    """A valid manifest, signature and all, of another spec."""
    shutil.copy(manifest_of(folder, "tiny-base"), manifest_of(folder, "tiny-app"))


def misplace_manifest(folder: Path) -> None:
    """A second copy, where Spack never looks."""
    path = manifest_of(folder, "tiny-app")
    there = folder / "v3" / "manifests" / "spec" / "elsewhere"
    there.mkdir()
    shutil.copy(path, there)


def edit_spec(folder: Path) -> None:
    path = manifest_of(folder, "tiny-app")
    data = gzip.decompress(blob_of(folder, "tiny-app", "spec").read_bytes())
    put_blob(folder, path, "spec.v5", gzip.compress(data.replace(b'"1.1"', b'"6.6"', 1), mtime=0))


def bomb(folder: Path) -> None:
    data = gzip.compress(b"[" + b" " * (65 * 2**20), mtime=0)
    put_blob(folder, manifest_of(folder, "tiny-app"), "spec.v5", data)


def no_tarball(folder: Path) -> None:
    put_blob(folder, manifest_of(folder, "tiny-app"), "install", b"PK\3\4, says another")


def append_text(folder: Path) -> None:
    path = manifest_of(folder, "tiny-app")
    path.write_bytes(path.read_bytes() + b'\n{"version": 3, "data": []}\n')


def drop_manifest(folder: Path) -> None:
    shutil.rmtree(manifest_of(folder, "tiny-app").parent)


def drop_index(folder: Path) -> None:
    (folder / INDEX_MANIFEST).unlink()


def garble_index(folder: Path) -> None:
    checksum = records(folder / INDEX_MANIFEST)[0]["checksum"]
    path = blob_at(folder, checksum)
    path.write_bytes(path.read_bytes().replace(b"true", b"fals"))


def garble_index_manifest(folder: Path) -> None:
    (folder / INDEX_MANIFEST).write_text("{}")


def shrink_index(folder: Path) -> None:
    checksum = records(folder / INDEX_MANIFEST)[0]["checksum"]
    data = blob_at(folder, checksum).read_bytes()
    path = folder / INDEX_MANIFEST
    put_blob(
        folder, path, "db.v8", data.replace(b'"in_buildcache":true', b'"in_buildcache":false', 1)
    )


def one_key(folder: Path) -> Path:
    found = (folder / "v3" / "manifests" / "key").iterdir()
    return next(path for path in found if path.name != "keys.manifest.json")


def garble_key(folder: Path) -> None:
    blob_at(folder, records(one_key(folder))[0]["checksum"]).write_text("no key")


def rename_key(folder: Path) -> None:
    path = one_key(folder)
    shutil.copy(path, path.with_name(f"{'0' * 40}.key.manifest.json"))


def drop_key_index(folder: Path) -> None:
    (folder / KEY_INDEX).unlink()


def empty_key_index(folder: Path) -> None:
    put_blob(folder, folder / KEY_INDEX, "keyindex", b'{"keys": {"%b": {}}}' % (b"A" * 40))


def litter(folder: Path) -> None:
    data = b"nobody names me"
    path = blob_at(folder, hashlib.sha256(data).hexdigest())
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    (folder / "v3" / "notes\x1b[2J.txt").write_text("?")
    (folder / "README").write_text("not below v3/: nobody's business")


def v2(folder: Path, name: str, suffix: str) -> Path:
    return next((folder / "build_cache").rglob(f"*-{name}-1.1-*{suffix}"))


def change_v2_tarball(folder: Path) -> None:
    v2(folder, "tiny-app", ".spack").write_bytes(b"\x1f\x8b")


def drop_v2_tarball(folder: Path) -> None:
    v2(folder, "tiny-app", ".spack").unlink()


def edit_v2_spec(folder: Path) -> None:
    path = v2(folder, "tiny-app", ".spec.json")
    path.write_text(path.read_text().replace('"1.1"', '"6.6"', 1))


def garble_v2_index(folder: Path) -> None:
    (folder / "build_cache" / "index.json.hash").write_text("0" * 64)


def drop_v2_index(folder: Path) -> None:
    (folder / "build_cache" / "index.json").unlink()


def drop_v2_spec(folder: Path) -> None:
    v2(folder, "tiny-app", ".spec.json").unlink()


def drop_v2_keys(folder: Path) -> None:
    (folder / "build_cache" / "_pgp" / "index.json").unlink()


class Case(NamedTuple):
    """What is done to a mirror, the kinds of faults found, and those that a repair leaves."""

    mirror: str
    damage: Callable[[Path], None]
    kinds: str
    code: int
    left: str = ""
    left_code: int = 0


CASES = {
    "blob changed": Case("v3-signed", change_blob, "blob", 6, "orphan"),
    "blob cut off": Case("v3-signed", cut_blob, "blob", 6, "orphan"),
    "blob grown": Case("v3-unsigned", lengthen_blob, "blob", 6, "orphan"),
    "spec blob changed": Case("v3-unsigned", change_spec_blob, "blob", 6, "orphan"),
    "blob gone": Case("v3-signed", drop_blob, "missing", 6, "orphan"),
    "spec blob gone": Case("v3-unsigned", drop_spec_blob, "missing", 6, "orphan"),
    "manifest of another version": Case(
        "v3-unsigned", garble_manifest, "manifest orphan", 6, "orphan"
    ),
    "manifest cut off": Case("v3-unsigned", cut_manifest, "manifest orphan", 6, "orphan"),
    "manifest without tarball": Case("v3-unsigned", forget_tarball, "manifest orphan", 6, "orphan"),
    "manifest of another spec": Case("v3-signed", swap_manifest, "orphan spec", 6, "orphan"),
    "manifest elsewhere": Case("v3-signed", misplace_manifest, "spec", 6),
    "spec edited": Case("v3-unsigned", edit_spec, "orphan spec", 6, "orphan"),
    "spec blob is a bomb": Case("v3-unsigned", bomb, "orphan spec", 6, "orphan"),
    "tarball is none": Case("v3-unsigned", no_tarball, "orphan tarball", 6, "orphan"),
    "text after the signature": Case("v3-signed", append_text, "manifest orphan", 6, "orphan"),
    "index names what is gone": Case("v3-unsigned", drop_manifest, "index orphan", 3, "orphan"),
    "no index": Case("v3-unsigned", drop_index, "index orphan", 3, "orphan"),
    "index changed": Case("v3-unsigned", garble_index, "index-broken", 6, "orphan"),
    "index manifest is none": Case(
        "v3-unsigned", garble_index_manifest, "index-broken orphan", 6, "orphan"
    ),
    "index lacks one": Case("v3-unsigned", shrink_index, "index orphan", 3, "orphan"),
    "key changed": Case("v3-signed", garble_key, "key", 6, "key", 6),
    "key by another name": Case("v3-signed", rename_key, "key key-index", 6, "key orphan", 6),
    "no list of keys": Case("v3-signed", drop_key_index, "key-index orphan", 3),
    "list of other keys": Case("v3-signed", empty_key_index, "key-index orphan", 3, "orphan"),
    "nobody's files": Case("v3-unsigned", litter, "orphan stray", 0, "orphan stray"),
    "v2: tarball changed": Case("v2-signed", change_v2_tarball, "blob", 6),
    "v2: tarball gone": Case("v2-unsigned", drop_v2_tarball, "missing", 6),
    "v2: spec edited": Case("v2-unsigned", edit_v2_spec, "missing orphan spec", 6, "orphan"),
    "v2: index changed": Case("v2-unsigned", garble_v2_index, "index-broken", 6),
    "v2: no index": Case("v2-signed", drop_v2_index, "index", 3),
    "v2: index names what is gone": Case("v2-unsigned", drop_v2_spec, "index orphan", 3, "orphan"),
    "v2: no list of keys": Case("v2-signed", drop_v2_keys, "key-index", 3),
}


def checked(stackyard: Stackyard, url: str | Path, *flags: str, code: int) -> dict[str, Any]:
    answer = stackyard("mirror.verify", "--url", str(url), "--json", *flags, code=code)
    document: dict[str, Any] = json.loads(answer.out)
    return document


def kinds(document: dict[str, Any]) -> str:
    return " ".join(sorted({fault["kind"] for fault in document["faults"]}))


@pytest.mark.parametrize("name", ["v3-signed", "v3-unsigned", "v2-signed", "v2-unsigned"])
def test_real_mirrors_are_sound(stackyard: Stackyard, name: str, tmp_path: Path) -> None:
    flags = ["--keys", str(public_key(tmp_path))] if name.endswith("-signed") else ["--unsigned"]
    document = checked(stackyard, MIRRORS / name, *flags, code=0)
    assert document["faults"] == []
    assert document["state"] == "ok"
    counts = document["checked"]
    binaries, signed = (7 if name.startswith("v3") else 5), name.endswith("-signed")
    assert counts["signed"] == binaries * signed
    assert counts["manifests"] >= binaries
    assert counts["blobs"] == (14 if name.startswith("v3") else 5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_fault_is_found_and_mended(stackyard: Stackyard, case: Case, tmp_path: Path) -> None:
    folder = copied(case.mirror, tmp_path)
    case.damage(folder)
    flags = ["--unsigned"]
    if case.mirror.endswith("-signed"):
        flags = ["--keys", str(public_key(tmp_path))]
    before = files(folder)
    assert kinds(checked(stackyard, folder, *flags, code=case.code)) == case.kinds
    assert files(folder) == before
    mended = checked(stackyard, folder, *flags, "--repair", code=case.left_code)
    assert bool(mended["repairs"]) == (case.kinds not in {case.left, "key"})
    assert kinds(checked(stackyard, folder, *flags, code=case.left_code)) == case.left


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_repair_touches_nothing_else(stackyard: Stackyard, tmp_path: Path) -> None:
    folder = copied("v3-unsigned", tmp_path)
    before = files(folder)
    bad = blob_of(folder, "tiny-app", "install")
    change_blob(folder)
    manifest = manifest_of(folder, "tiny-app")
    answer = stackyard("mirror.verify", "--url", str(folder), "--unsigned", "--repair")
    after = files(folder)
    gone = {path.relative_to(folder).as_posix() for path in (bad, manifest)}
    assert before.keys() - after.keys() == gone
    for name in gone:
        assert f"removed {name}" in answer.err
    kept = before.keys() - gone - {INDEX_MANIFEST}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    listed = stackyard("mirror.list", "--url", str(folder)).out
    assert "tiny-app" not in listed
    assert "tiny-tool" in listed


def test_faults_are_told_by_name_of_the_binary(stackyard: Stackyard, tmp_path: Path) -> None:
    folder = copied("v3-unsigned", tmp_path)
    drop_blob(folder)
    litter(folder)
    answer = stackyard("mirror.verify", "--url", str(folder), "--unsigned", code=6)
    assert "blobs that are not there (1):\n  tiny-app@1.1/bhmtboe: blobs/" in answer.out
    assert "blobs that no manifest names (1, 15 bytes)" in answer.out
    assert "\x1b" not in answer.out
    assert "README" not in answer.out
    assert "--repair" in answer.err


def test_shared_blob_is_read_once_and_told_of_each(stackyard: Stackyard, tmp_path: Path) -> None:
    folder = copied("v3-unsigned", tmp_path)
    shared = blob_of(folder, "tiny-base", "install")
    put_blob(folder, manifest_of(folder, "tiny-app"), "install", shared.read_bytes())
    assert checked(stackyard, folder, "--unsigned", code=0)["checked"]["blobs"] == 13
    shared.write_bytes(b"x")
    faults = checked(stackyard, folder, "--unsigned", code=6)["faults"]
    names = {fault["binary"][:9] for fault in faults if fault["kind"] == "blob"}
    assert names == {"tiny-app@", "tiny-base"}


def test_repair_leaves_a_blob_that_somebody_names_rightly(
    stackyard: Stackyard, tmp_path: Path
) -> None:
    """One manifest gives a wrong size for it, and another the right one."""
    folder = copied("v3-unsigned", tmp_path)
    shared = blob_of(folder, "tiny-base", "install")
    wrong = manifest_of(folder, "tiny-app")
    put_blob(folder, wrong, "install", shared.read_bytes())
    size = shared.stat().st_size
    wrong.write_text(wrong.read_text().replace(f": {size}", f": {size + 1}"))
    checked(stackyard, folder, "--unsigned", "--repair", code=0)
    assert shared.exists()
    assert not wrong.exists()
    assert checked(stackyard, folder, "--unsigned", code=0)["state"] == "ok"


def test_signatures_need_keys(stackyard: Stackyard, tmp_path: Path) -> None:
    url = str(MIRRORS / "v3-signed")
    answer = stackyard("mirror.verify", "--url", url, code=6)
    assert "--unsigned" in answer.err
    assert checked(stackyard, url, "--unsigned", code=0)["faults"] == []


def test_signature_that_does_not_hold_is_told_and_left(
    stackyard: Stackyard, tmp_path: Path
) -> None:
    """Whether a key is trusted is for people to say: nothing is removed for it."""
    folder = copied("v3-signed", tmp_path)
    path = manifest_of(folder, "tiny-app")
    path.write_bytes(path.read_bytes().replace(b'"compression":"gzip"', b'"compression":"none"', 1))
    flags = ["--keys", str(public_key(tmp_path))]
    found = checked(stackyard, folder, *flags, "--repair", code=6)
    assert kinds(found) == "signature"
    assert found["repairs"] == []
    assert path.exists()
    assert found["faults"][0]["binary"] == "tiny-app@1.1/bhmtboe"


def test_repair_leaves_what_was_mended_meanwhile(tmp_path: Path) -> None:
    folder = copied("v3-unsigned", tmp_path)
    before = files(folder)
    change_blob(folder)
    garble = manifest_of(folder, "tiny-tool")
    garble.write_text("{}")
    with closing(FileStore(folder)) as store:
        results = examine_mirror(Ward(Place("", str(folder)), store, None))
        assert {f.kind for result in results for f in result.faults} >= {"blob", "manifest"}
        for name, data in before.items():
            (folder / name).write_bytes(data)
        mended = mend(store, results)
    assert files(folder) == before
    assert mended.done == ()


def test_web_server_is_checked_by_its_index(stackyard: Stackyard, tmp_path: Path) -> None:
    folder = copied("v3-unsigned", tmp_path)
    litter(folder)
    with mirror_server(folder) as server:
        document = checked(stackyard, server.url, "--unsigned", code=0)
        assert document["checked"]["blobs"] == 14
        change_blob(folder)
        assert kinds(checked(stackyard, server.url, "--unsigned", code=6)) == "blob"
        drop_manifest(folder)
        assert kinds(checked(stackyard, server.url, "--unsigned", code=3)) == "index"
        answer = stackyard("mirror.verify", "--url", server.url, "--unsigned", "--repair", code=6)
    assert "can only be read" in answer.err


@pytest.mark.usefixtures("hurried")
def test_what_does_not_answer_is_not_known(stackyard: Stackyard, tmp_path: Path) -> None:
    folder = copied("v3-unsigned", tmp_path)
    blob = blob_of(folder, "tiny-app", "install")
    with mirror_server(folder) as server:
        server.script[f"/{blob.relative_to(folder)}"] = [Reply(500)]
        document = checked(stackyard, server.url, "--unsigned", code=6)
    assert [fault["kind"] for fault in document["faults"]] == ["unknown"]


def test_blob_that_breaks_off_is_read_on(stackyard: Stackyard, tmp_path: Path) -> None:
    folder = copied("v3-unsigned", tmp_path)
    blob = blob_of(folder, "tiny-app", "install")
    data = blob.read_bytes()
    with mirror_server(folder) as server:
        cut = Reply(200, data[:100], claim=len(data))
        server.script[f"/{blob.relative_to(folder)}"] = [cut, None]
        assert checked(stackyard, server.url, "--unsigned", code=0)["faults"] == []


def test_progress_is_told_while_a_large_blob_is_read(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(3 * PIECE_BYTES))
    arrived: list[int] = []
    read = read_whole(FileStore(tmp_path), "large", on_bytes=arrived.append)
    assert sum(arrived) == read.size_bytes == 3 * PIECE_BYTES
    assert max(arrived) <= PIECE_BYTES


def test_registry(stackyard: Stackyard) -> None:
    with fake_registry() as server:
        repository = server.repository("tiny")
        fill(repository)
        url = server.mirror("tiny")
        found = checked(stackyard, url, "--unsigned", code=0)
        assert found["checked"]["blobs"] == 14
        tag = next(tag for tag in repository.tags if tag.startswith("tiny-app-"))
        manifest = json.loads(repository.manifests[repository.tags[tag]][1])
        digest = manifest["layers"][-1]["digest"]
        repository.blobs[digest] += b"x"
        found = checked(stackyard, url, "--unsigned", code=6)
        assert kinds(found) == "blob"
        left = checked(stackyard, url, "--unsigned", "--repair", code=0)
        assert f"removed manifests/{tag}" in left["repairs"]
        assert tag not in repository.tags
        assert checked(stackyard, url, "--unsigned", code=0)["faults"] == []


GRADES: dict[str, tuple[Collection[str], int]] = {
    "nothing": ((), 0),
    "told": (("orphan", "stray"), 0),
    "stale": (("index", "orphan"), 3),
    "list of keys": (("key-index",), 3),
    "broken": (("index", "blob"), 6),
    "not known": (("unknown",), 6),
}


@pytest.mark.parametrize(("found", "code"), GRADES.values(), ids=GRADES)
def test_exit_code_is_that_of_the_gravest(found: Collection[str], code: int) -> None:
    assert exit_code(Fault(kind, "k", "") for kind in found) == code


def test_report_is_grouped_in_the_order_of_gravity() -> None:
    faults = [Fault("stray", "b", ""), Fault("blob", "a", "wrong", "h", size_bytes=1500)]
    text = report_text(faults, {"h": "zlib@1.3/abcdefg"})
    assert text.splitlines() == [
        "blobs with other bytes than their manifests say (1, 1.5 kB):",
        "  zlib@1.3/abcdefg: a: wrong",
        "files that belong to no mirror (1):",
        "  b",
    ]
    assert report_text([], {}) == ""


@pytest.mark.parametrize(
    "head", [b"", b"PK\3\4", b"\x1f\x8b" * 30, gzip.compress(b"x", mtime=0)[1:]]
)
def test_what_is_not_gzip_is_told(head: bytes) -> None:
    assert gzip_problem(head)
    assert not gzip_problem(gzip.compress(b"x" * 100_000))
    assert not gzip_problem(gzip.compress(b"x")[:10])
