"""Bringing indices up to date: what is read, what is left out, and what other writers do meanwhile."""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mirrors
import pytest
from conftest import Stackyard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_data import DATA

from stackyard.edges.mirrors.indexing import (
    IndexReport,
    add_to_index,
    check_index,
    read_index,
    remove_from_index,
    update_index,
    write_index,
    write_key_index,
)
from stackyard.edges.stores.counted import Counted
from stackyard.edges.stores.folder import FileStore
from stackyard.edges.stores.store import MANIFEST_BYTES, Listed
from stackyard.errors import ConflictError, CorruptError, StoreError, UnreachableError
from stackyard.index import STATE_TYPE
from stackyard.mirror import (
    INDEX_MANIFEST,
    INDEX_TYPE,
    KEY_INDEX,
    LAYOUT_MARKER,
    key_manifest_key,
)

NODES = mirrors.specs(
    {"glibc": (), "gcc": ("glibc",), "zlib": ("gcc", "glibc"), "png": ("zlib", "gcc"),
     "tiff": ("zlib", "png"), "app": ("png", "tiff"), "tool": (), "other": ("tool",)},
    external=("glibc", "gcc"),
)  # fmt: skip
LATER = 4_000_000_000.0  # nothing was changed just now


def update(folder: Path, **options: Any) -> IndexReport:
    """Update at a time when no stamp is in doubt."""
    options.setdefault("now", lambda: LATER)
    return update_index(FileStore(folder), sleep=lambda _: None, **options)


def add(folder: Path, *names: str, store: FileStore | None = None) -> IndexReport:
    """Push and tell the index."""
    mirrors.push(folder, NODES, *names)
    metadata = mirrors.metadata(NODES, names)
    return add_to_index(store or FileStore(folder), metadata, sleep=lambda _: None)


def key(name: str) -> str:
    return mirrors.manifest_key(NODES[name])


def state(folder: Path) -> dict[str, Any]:
    manifest = json.loads((folder / INDEX_MANIFEST).read_bytes())
    checksum = manifest["data"][1]["checksum"]
    found: dict[str, Any] = json.loads(_blob(folder, checksum).read_bytes())
    return found


def _blob(folder: Path, checksum: str) -> Path:
    return folder / "blobs" / "sha256" / checksum[:2] / checksum


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    mirrors.push(tmp_path, NODES, "app", "zlib", "tool")
    return tmp_path


class TestUpdate:
    def test_from_nothing(self, folder: Path) -> None:
        report = update(folder)
        assert mirrors.published(folder) == mirrors.oracle(NODES, ["app", "zlib", "tool"])
        assert sorted(report.added) == sorted(map(key, ("app", "zlib", "tool")))
        assert (report.named, report.gone, report.problems) == (3, (), {})
        assert report.checksum == hashlib.sha256(mirrors.published(folder)).hexdigest()
        assert (folder / LAYOUT_MARKER).read_bytes() == b'{"signing": "gpg"}'
        index, told = json.loads((folder / INDEX_MANIFEST).read_bytes())["data"]
        assert index["mediaType"] == "application/vnd.spack.db.v8+json"
        assert told["mediaType"] == "application/vnd.stackyard.index-state.v1+json"

    def test_what_changed(self, folder: Path) -> None:
        update(folder)
        mirrors.push(folder, NODES, "other", "png")
        (folder / key("zlib")).unlink()
        report = update(folder)
        assert mirrors.published(folder) == mirrors.oracle(NODES, ["app", "tool", "other", "png"])
        assert sorted(report.added) == sorted([key("other"), key("png")])
        assert report.gone == (key("zlib"),)
        assert report.named == 4

    def test_nothing_changed(self, folder: Path) -> None:
        update(folder)
        before = tree(folder)
        report = update(folder)
        assert not report.written
        assert report.requests == 3  # manifest, state, listing
        assert tree(folder) == before

    def test_only_what_is_new_is_read(self, folder: Path) -> None:
        update(folder)
        mirrors.push(folder, NODES, "other")
        store = Recording(folder)
        update_index(store, now=lambda: LATER)
        assert [one for one in store.read_keys if one.startswith("v3/manifests/spec/")] == [
            key("other")
        ]

    def test_everything_is_read_on_request(self, folder: Path) -> None:
        update(folder)
        store = Recording(folder)
        report = update_index(store, full=True, now=lambda: LATER)
        assert {key(name) for name in ("app", "zlib", "tool")} <= set(store.read_keys)
        assert (report.added, report.gone, report.written) == ((), (), False)

    def test_a_changed_manifest(self, folder: Path) -> None:
        update(folder)
        path = folder / key("zlib")
        path.write_bytes(path.read_bytes() + b"\n")
        report = update(folder)
        assert report.changed == (key("zlib"),)
        assert mirrors.published(folder) == mirrors.oracle(NODES, ["app", "zlib", "tool"])
        assert not update(folder).changed

    def test_stamps_of_just_now_are_not_believed(self, folder: Path) -> None:
        newest = max(path.stat().st_mtime for path in (folder / "v3").rglob("*.json"))
        update(folder, now=lambda: newest + 1)
        assert {record[3] for record in state(folder)["records"]} == {""}
        store = Recording(folder)
        report = update_index(store, now=lambda: newest + 10)
        assert key("app") in store.read_keys
        assert not report.stale  # unknown is not changed
        assert report.written  # the stamps are known now
        assert not update(folder).written

    def test_an_empty_mirror_gets_an_empty_index(self, tmp_path: Path) -> None:
        report = update(tmp_path)
        assert (report.named, report.written) == (0, True)
        assert mirrors.published(tmp_path) == b'{"database":{"version":"8","installs":{}}}'

    def test_a_mirror_that_became_empty(self, folder: Path) -> None:
        update(folder)
        shutil.rmtree(folder / "v3" / "manifests" / "spec")
        assert len(update(folder).gone) == 3
        assert mirrors.published(folder) == mirrors.oracle(NODES, [])

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UnreachableError):
            update(tmp_path / "nowhere")
        assert not (tmp_path / "nowhere").exists()

    @pytest.mark.parametrize("name", ["v3-signed", "v3-unsigned"])
    @pytest.mark.parametrize("keep", [True, False])
    def test_real_mirrors(self, tmp_path: Path, name: str, *, keep: bool) -> None:
        """Whether Spack's own index is there or not, ours tells the same."""
        folder = tmp_path / name
        shutil.copytree(real_mirror(name), folder)
        wanted = json.loads(mirrors.published(folder))
        if not keep:
            shutil.rmtree(folder / "v3" / "manifests" / "index")
        update(folder)
        assert json.loads(mirrors.published(folder)) == wanted


def real_mirror(name: str) -> Path:
    path = DATA / "mirrors" / name
    if not path.is_dir():
        pytest.skip(f"no real mirror {name} among the tests' data")
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class Recording(FileStore):
    """A folder that remembers what was read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.read_keys: list[str] = []

    def read(self, key: str, *, max_bytes: int = MANIFEST_BYTES) -> bytes:
        self.read_keys.append(key)
        return super().read(key, max_bytes=max_bytes)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_history_leaves_no_trace(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Pushed, told, removed, listed, made anew, in any order: the bytes are those of a new index."""
    folder = tmp_path_factory.mktemp("history")
    present: set[str] = set()
    names = st.sets(st.sampled_from([name for name in NODES if name not in ("gcc", "glibc")]))
    for _ in range(data.draw(st.integers(1, 5))):
        some = data.draw(names)
        match data.draw(st.sampled_from(["push", "add", "delete", "remove", "full"])):
            case "push":
                mirrors.push(folder, NODES, *some)
                present |= some
            case "add":
                add(folder, *some)
                present |= some
            case "delete":
                for name in some:
                    (folder / key(name)).unlink(missing_ok=True)
                present -= some
            case "remove":
                remove_from_index(FileStore(folder), {NODES[name]["hash"] for name in some})
                for name in some:
                    (folder / key(name)).unlink(missing_ok=True)
                present -= some
            case "full":
                update(folder, full=True)
    update(folder)
    assert mirrors.published(folder) == mirrors.oracle(NODES, present)
    report = check_index(FileStore(folder), full=True)
    assert not report.stale
    assert report.named == len(present)


class TestAdd:
    def test_to_an_index(self, folder: Path) -> None:
        update(folder)
        report = add(folder, "other", "png")
        assert sorted(report.added) == sorted([key("other"), key("png")])
        everything = ["app", "zlib", "tool", "other", "png"]
        assert mirrors.published(folder) == mirrors.oracle(NODES, everything)
        assert report.named == 5
        assert not update(folder).stale

    @pytest.mark.parametrize("many", [1, 40])
    def test_requests_are_constant(self, tmp_path: Path, many: int) -> None:
        nodes = mirrors.specs({f"a{number}": () for number in range(200)})
        names = list(nodes)
        mirrors.push(tmp_path, nodes, *names)
        metadata = mirrors.metadata(nodes, names[100 : 100 + many])
        # Index made while all lay there: the first hundred.
        update(tmp_path)
        gone = {nodes[name]["hash"] for name in names[100:]}
        remove_from_index(FileStore(tmp_path), gone, now=lambda: LATER)
        report = add_to_index(FileStore(tmp_path), metadata, now=lambda: LATER + 1)
        assert report.named == 100 + many
        # Read manifest, state and index; write index, state and manifest.
        assert report.requests == 6

    def test_nothing(self, folder: Path) -> None:
        update(folder)
        before = tree(folder)
        assert not add_to_index(FileStore(folder), []).written
        assert tree(folder) == before

    def test_to_a_mirror_without_an_index(self, folder: Path) -> None:
        """What others pushed before is named as well."""
        report = add(folder, "other")
        assert report.named == 4
        everything = ["app", "zlib", "tool", "other"]
        assert mirrors.published(folder) == mirrors.oracle(NODES, everything)

    def test_to_the_index_of_spack(self, folder: Path) -> None:
        """Without a state: it is put in order, not made anew from the mirror."""
        spack_index(folder, "app", "zlib")
        add(folder, "other")
        assert mirrors.published(folder) == mirrors.oracle(NODES, ["app", "zlib", "other"])
        update(folder)
        everything = ["app", "zlib", "other", "tool"]
        assert mirrors.published(folder) == mirrors.oracle(NODES, everything)

    def test_spacks_index_gets_a_state(self, folder: Path) -> None:
        spack_index(folder, "app", "zlib", "tool")
        update(folder, now=lambda: 0.0)  # all stamps in doubt, so that no entry is new
        assert mirrors.published(folder) == mirrors.oracle(NODES, ["app", "zlib", "tool"])
        assert len(state(folder)["records"]) == 7

    def test_wrong_metadata(self, folder: Path) -> None:
        update(folder)
        before = tree(folder)
        wrong = mirrors.metadata({"png": {**NODES["png"], "version": "6"}, **NODES}, ["png"])
        wrong[0] = wrong[0]._replace(nodes=[{**NODES["png"], "version": "6"}])
        with pytest.raises(CorruptError, match="not what its hash"):
            add_to_index(FileStore(folder), wrong)
        assert tree(folder) == before

    def test_remove_makes_no_index(self, folder: Path) -> None:
        before = tree(folder)
        assert not remove_from_index(FileStore(folder), ["a" * 32], anyhow=True).written
        assert tree(folder) == before

    def test_remove(self, folder: Path) -> None:
        update(folder)
        report = remove_from_index(FileStore(folder), [NODES["zlib"]["hash"], "a" * 32])
        assert report.gone == (key("zlib"),)
        assert mirrors.published(folder) == mirrors.oracle(NODES, ["app", "tool"])
        assert not remove_from_index(FileStore(folder), ["a" * 32]).written
        # It still lies there, so the next listing finds it.
        assert update(folder).added == (key("zlib"),)


def spack_index(folder: Path, *names: str) -> None:
    """An index as Spack writes it: another order, no state."""
    document = json.loads(mirrors.oracle(NODES, names))
    installs = document["database"]["installs"]
    document["database"]["installs"] = dict(reversed(installs.items()))
    data = json.dumps(document, separators=(",", ":")).encode()
    publish(folder, data)


def publish(folder: Path, *blobs: bytes) -> None:
    """An index, and perhaps a state."""
    records = []
    for data, media_type in zip(blobs, (INDEX_TYPE, STATE_TYPE), strict=False):
        checksum = hashlib.sha256(data).hexdigest()
        _blob(folder, checksum).parent.mkdir(parents=True, exist_ok=True)
        _blob(folder, checksum).write_bytes(data)
        records.append(
            {
                "contentLength": len(data),
                "mediaType": media_type,
                "compression": "none",
                "checksumAlgorithm": "sha256",
                "checksum": checksum,
            }
        )
    (folder / INDEX_MANIFEST).parent.mkdir(parents=True, exist_ok=True)
    (folder / INDEX_MANIFEST).write_text(json.dumps({"version": 3, "data": records}))


def spec_blob(folder: Path, name: str) -> Path:
    manifest = json.loads((folder / key(name)).read_bytes())
    return _blob(folder, manifest["data"][1]["checksum"])


def rewrite(folder: Path, name: str, blob: bytes) -> None:
    """Another spec blob, of which the manifest tells the truth."""
    manifest = json.loads((folder / key(name)).read_bytes())
    checksum = hashlib.sha256(blob).hexdigest()
    manifest["data"][1] |= {"checksum": checksum, "contentLength": len(blob)}
    (folder / key(name)).write_text(json.dumps(manifest))
    path = _blob(folder, checksum)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(blob)


def packed(value: Any) -> bytes:
    packer = zlib.compressobj(wbits=31)
    data = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    return packer.compress(data) + packer.flush()


def document(*nodes: Any, version: int = 5) -> dict[str, Any]:
    return {"spec": {"_meta": {"version": version}, "nodes": list(nodes)}}


def _turn_a_bit(folder: Path) -> None:
    path = spec_blob(folder, "png")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


CORRUPT: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed blob": (_turn_a_bit, "not what its checksum says"),
    "cut blob": (
        lambda f: spec_blob(f, "png").write_bytes(spec_blob(f, "png").read_bytes()[:-5]),
        "not what its checksum says",
    ),
    "longer blob": (
        lambda f: spec_blob(f, "png").write_bytes(spec_blob(f, "png").read_bytes() + b"x"),
        "larger than",
    ),
    "no blob": (lambda f: spec_blob(f, "png").unlink(), "the spec that it names is not there"),
    "no gzip": (lambda f: rewrite(f, "png", b"\x1f\x8b oh"), "cannot be unpacked"),
    "cut gzip": (
        lambda f: rewrite(f, "png", packed(document(NODES["png"]))[:-9]),
        "cut off",
    ),
    "bomb": (lambda f: rewrite(f, "png", packed(bytes(70 * 2**20))), "unpacks to more than"),
    "bomb behind a node": (
        lambda f: rewrite(
            f, "png", packed(json.dumps(document(NODES["png"])).encode() + b" " * 70 * 2**20)
        ),
        "unpacks to more than",
    ),
    "no JSON": (lambda f: rewrite(f, "png", packed(b"hello")), "not JSON"),
    "no nodes": (lambda f: rewrite(f, "png", packed(document())), "shape"),
    "newer nodes": (lambda f: rewrite(f, "png", packed(document(NODES["png"], version=6))), "6"),
    "another spec": (
        lambda f: (f / key("png")).write_bytes((f / key("zlib")).read_bytes()),
        f"another spec, {NODES['zlib']['hash']}",
    ),
    "wrong hash": (
        lambda f: rewrite(f, "png", packed(document({**NODES["png"], "version": "6.6"}))),
        "not what its hash",
    ),
    "hostile name": (
        lambda f: rewrite(f, "png", packed(document({**NODES["png"], "name": "../x"}))),
        "package name",
    ),
    "no manifest": (lambda f: (f / key("png")).write_bytes(b"{}"), "no list under data"),
    "cut manifest": (
        lambda f: (f / key("png")).write_bytes((f / key("png")).read_bytes()[:99]),
        "not JSON|cut off",
    ),
    "impossible size": (
        lambda f: (f / key("png")).write_text(
            (f / key("png")).read_text().replace('"contentLength":', '"contentLength":9999999999')
        ),
        "impossible size",
    ),
}


@pytest.mark.parametrize("damage", CORRUPT)
@pytest.mark.parametrize("indexed", [False, True])
def test_corrupt_entries_are_left_out(
    folder: Path, stackyard: Stackyard, damage: str, *, indexed: bool
) -> None:
    spoil, message = CORRUPT[damage]
    mirrors.push(folder, NODES, "png", "other")
    if indexed:
        update(folder)
    spoil(folder)
    report = update(folder, full=indexed and "blob" in damage)
    assert list(report.problems) == [key("png")]
    assert_matches(message, report.problems[key("png")])
    # The others are named, and whatever depends on it still knows it.
    rest = ["app", "zlib", "tool", "other"]
    assert mirrors.published(folder) == mirrors.oracle(NODES, rest)
    answer = stackyard("mirror.index", "--url", str(folder), code=6)
    assert f"png-1.0-{NODES['png']['hash']} is not in the index" in answer.err
    assert mirrors.published(folder) == mirrors.oracle(NODES, rest)


def assert_matches(pattern: str, text: str) -> None:
    import re

    assert re.search(pattern, text), text


def test_a_copy_in_another_place_is_no_entry(folder: Path) -> None:
    """Spack looks for a binary under its name; the second one is of no use to anybody."""
    copy = folder / "v3/manifests/spec/zlib" / f"aaa-9-{NODES['zlib']['hash']}.spec.manifest.json"
    copy.write_bytes((folder / key("zlib")).read_bytes())
    report = update(folder)
    assert list(report.problems) == [copy.relative_to(folder).as_posix()]
    assert report.named == 3
    assert list(update(folder).problems) == [copy.relative_to(folder).as_posix()]
    assert mirrors.published(folder) == mirrors.oracle(NODES, ["app", "zlib", "tool"])


def test_blobs_that_lack_a_dependency(folder: Path) -> None:
    """Its record can come from another binary that needs it, else nothing can name it."""
    short = packed(document(NODES["app"], NODES["tiff"], NODES["zlib"]))
    mirrors.push(folder, NODES, "png")
    rewrite(folder, "app", short)
    assert update(folder).named == 4  # png is there itself
    spec_blob(folder, "png").unlink()
    report = update(folder, full=True)
    assert set(report.problems) == {key("png"), key("app")}
    assert "lacks the node of its dependency" in report.problems[key("app")]
    assert mirrors.published(folder) == mirrors.oracle(NODES, ["zlib", "tool"])


def test_a_dependency_behind_another_proves_corrupt(tmp_path: Path) -> None:
    """The second has no binary, the third has one that is no good: the first knows both."""
    nodes = mirrors.specs({"third": (), "second": ("third",), "first": ("second",)})
    mirrors.push(tmp_path, nodes, "first", "third")
    manifest = tmp_path / mirrors.manifest_key(nodes["third"])
    manifest.write_bytes(b"{}")
    said: list[str] = []
    report = update(tmp_path, progress=said.append)
    assert list(report.problems) == [mirrors.manifest_key(nodes["third"])]
    assert mirrors.published(tmp_path) == mirrors.oracle(nodes, ["first"])
    assert said == []


@pytest.mark.parametrize("then", ["gone", "corrupt", "there"])
def test_what_becomes_of_one_that_is_read_twice(tmp_path: Path, then: str) -> None:
    """Its dependency proves corrupt, so it is asked for that node; by then it may be another."""
    nodes = mirrors.specs({"second": (), "first": ("second",), "last": ()})
    mirrors.push(tmp_path, nodes, "first", "second", "last")
    (tmp_path / mirrors.manifest_key(nodes["second"])).write_bytes(b"{}")
    first = mirrors.manifest_key(nodes["first"])

    class Moving(FileStore):
        reads = 0

        def read(self, key: str, *, max_bytes: int = MANIFEST_BYTES) -> bytes:
            if key == first:
                self.reads += 1
                assert self.reads < 5, "it is asked for again and again"
                if self.reads == 2 and then == "gone":
                    (tmp_path / key).unlink()
                if self.reads == 2 and then == "corrupt":
                    (tmp_path / key).write_bytes(b"{}")
            return super().read(key, max_bytes=max_bytes)

    report = update_index(Moving(tmp_path), now=lambda: LATER)
    assert (first in report.problems) == (then == "corrupt")
    names = ["last", "first"] if then == "there" else ["last"]
    assert mirrors.published(tmp_path) == mirrors.oracle(nodes, names)


def test_a_place_that_fails_is_not_corrupt(folder: Path) -> None:
    class Failing(FileStore):
        def read(self, key: str, *, max_bytes: int = MANIFEST_BYTES) -> bytes:
            if "zlib" in key:
                raise UnreachableError("the disk is on fire", where=key)
            return super().read(key, max_bytes=max_bytes)

    before = tree(folder)
    with pytest.raises(UnreachableError, match="on fire"):
        update_index(Failing(folder))
    assert tree(folder) == before


@pytest.mark.parametrize("few", [0, 100], ids=["listed", "asked"])
def test_what_a_listing_lacks_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Nothing leaves the index that is there, however bad the place is at telling."""
    monkeypatch.setattr("stackyard.edges.mirrors.indexing._FEW", few)

    class Forgetful(FileStore):
        left = 1

        def list(self, prefix: str = "") -> Iterator[Listed]:
            forget, self.left = self.left, 0
            return (one for one in super().list(prefix) if not forget or one.key != key("zlib"))

    update(folder)
    (folder / key("tool")).unlink()
    assert check_index(Forgetful(folder)).gone == (key("tool"),)
    report = update_index(Forgetful(folder), now=lambda: LATER)
    assert report.gone == (key("tool"),)
    assert mirrors.published(folder) == mirrors.oracle(NODES, ["app", "zlib"])


def test_what_vanishes_while_it_is_read(folder: Path) -> None:
    class Vanishing(FileStore):
        def list(self, prefix: str = "") -> Iterator[Listed]:
            found = list(super().list(prefix))
            (folder / key("zlib")).unlink(missing_ok=True)
            return iter(found)

    report = update_index(Vanishing(folder), now=lambda: LATER)
    assert report.problems == {}
    assert mirrors.published(folder) == mirrors.oracle(NODES, ["app", "tool"])


def test_what_is_pruned_while_it_is_read(folder: Path) -> None:
    """The manifest was there, and then it was not, and then its blob was not."""

    class Pruned(FileStore):
        def read(self, key: str, *, max_bytes: int = MANIFEST_BYTES) -> bytes:
            data = super().read(key, max_bytes=max_bytes)
            if key == zlib_key:
                spec_blob(folder, "zlib").unlink()
                (folder / key).unlink()
            return data

    zlib_key = key("zlib")
    report = update_index(Pruned(folder), now=lambda: LATER)
    assert report.problems == {}
    assert mirrors.published(folder) == mirrors.oracle(NODES, ["app", "tool"])


class TestDamagedIndex:
    @pytest.fixture
    def folder(self, folder: Path) -> Path:
        update(folder)
        return folder

    def heal(self, folder: Path) -> None:
        said: list[str] = []
        mirrors.push(folder, NODES, "other")
        update(folder, progress=said.append)
        everything = ["app", "zlib", "tool", "other"]
        assert mirrors.published(folder) == mirrors.oracle(NODES, everything)
        assert any("made anew" in line for line in said)

    def test_blob_gone(self, folder: Path) -> None:
        _blob(folder, hashlib.sha256(mirrors.published(folder)).hexdigest()).unlink()
        self.heal(folder)

    def test_blob_changed(self, folder: Path) -> None:
        data = mirrors.published(folder)
        _blob(folder, hashlib.sha256(data).hexdigest()).write_bytes(data.replace(b"zlib", b"zlob"))
        self.heal(folder)

    @pytest.mark.parametrize("gone", [True, False])
    def test_blob_that_only_a_full_run_looks_at(self, folder: Path, *, gone: bool) -> None:
        data = mirrors.published(folder)
        path = _blob(folder, hashlib.sha256(data).hexdigest())
        if gone:
            path.unlink()
        else:
            path.write_bytes(b"oops")
        assert update(folder, full=True).written
        assert mirrors.published(folder) == data
        assert not update(folder, full=True).written

    @pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"version": 3, "data": []}'])
    def test_manifest(self, folder: Path, text: bytes) -> None:
        (folder / INDEX_MANIFEST).write_bytes(text)
        mirrors.push(folder, NODES, "other")
        update(folder)
        everything = ["app", "zlib", "tool", "other"]
        assert mirrors.published(folder) == mirrors.oracle(NODES, everything)

    def test_index_of_spack_that_is_broken(self, folder: Path) -> None:
        publish(folder, b'{"database":{"version":"8","installs":{"oops')
        self.heal(folder)

    def test_newer_index(self, folder: Path) -> None:
        """Nobody knows what that Spack made of it."""
        publish(folder, b'{"database":{"version":"9","installs":{}}}')
        before = tree(folder)
        for full in (False, True):
            with pytest.raises(StoreError, match="version '9'"):
                update(folder, full=full)
        assert tree(folder) == before

    def test_newer_kind_of_index(self, folder: Path) -> None:
        path = folder / INDEX_MANIFEST
        path.write_text(path.read_text().replace("db.v8", "db.v9"))
        before = tree(folder)
        with pytest.raises(StoreError, match=r"another Spack: .*db\.v9"):
            update(folder)
        assert tree(folder) == before

    def test_state_gone(self, folder: Path) -> None:
        manifest = json.loads((folder / INDEX_MANIFEST).read_bytes())
        _blob(folder, manifest["data"][1]["checksum"]).unlink()
        mirrors.push(folder, NODES, "other")
        assert update(folder).named == 4

    def test_state_of_another_index(self, folder: Path) -> None:
        old = json.loads((folder / INDEX_MANIFEST).read_bytes())
        mirrors.push(folder, NODES, "other")
        update(folder)
        new = json.loads((folder / INDEX_MANIFEST).read_bytes())
        new["data"][1] = old["data"][1]
        (folder / INDEX_MANIFEST).write_text(json.dumps(new))
        (folder / key("tool")).unlink()
        assert update(folder).named == 3
        assert mirrors.published(folder) == mirrors.oracle(NODES, ["app", "zlib", "other"])

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b'"hash":', b'"hush":'),
            (b'"dependencies":[', b'"dependencies":3,"x":['),
            (b'"dependencies":[', b'"dependencies":[3,'),
            (b'"dependencies":[{', b'"dependencies":[{"hash":3},{'),
            (b'"dependencies":[{', b'"dependencies":[{"hash":[]},{'),
            (b'"dependencies":[{', b'"dependencies":[{"hash":"zlib"},{'),
            (b'{"name":', b'[["name",'),
            (b'{"name":', b'{"name" '),
        ],
    )
    def test_record_that_is_none(self, folder: Path, old: bytes, new: bytes) -> None:
        """Checksums and lengths are right, and still nobody could have written it."""
        text, said = mirrors.published(folder), state(folder)
        opening = b'"%b":{"spec":' % NODES["app"]["hash"].encode()
        start = text.index(opening)
        row = next(one for one in said["records"] if one[0] == NODES["app"]["hash"])
        record = text[start : start + row[1]]
        forged = record.replace(old, new, 1)
        assert forged != record
        row[1] = len(forged)
        data = text.replace(record, forged)
        said["index"] = hashlib.sha256(data).hexdigest()
        publish(folder, data, json.dumps(said).encode())
        (folder / key("app")).unlink()
        assert update(folder).named == 2
        assert mirrors.published(folder) == mirrors.oracle(NODES, ["zlib", "tool"])

    @pytest.mark.parametrize("work", ["add", "remove"])
    def test_healed_by_others(self, folder: Path, work: str) -> None:
        _blob(folder, hashlib.sha256(mirrors.published(folder)).hexdigest()).unlink()
        if work == "add":
            add(folder, "other")
            everything = ["app", "zlib", "tool", "other"]
        else:
            (folder / key("tool")).unlink()
            remove_from_index(FileStore(folder), [NODES["tool"]["hash"]])
            everything = ["app", "zlib"]
        assert mirrors.published(folder) == mirrors.oracle(NODES, everything)

    @pytest.mark.parametrize("spacks", [True, False])
    def test_what_is_to_go_goes_from_the_new_index_too(self, folder: Path, *, spacks: bool) -> None:
        """The binary still lies there when its name is to leave the index."""
        if spacks:
            publish(folder, b"oops")
        else:
            _blob(folder, hashlib.sha256(mirrors.published(folder)).hexdigest()).unlink()
        assert remove_from_index(FileStore(folder), [NODES["tool"]["hash"]]).gone == (key("tool"),)
        assert mirrors.published(folder) == mirrors.oracle(NODES, ["app", "zlib"])


class Meddled(FileStore):
    """A folder where somebody else does something just before we publish, or before we list."""

    def __init__(self, root: Path, *, publish: Callable[[], object], times: int = 1) -> None:
        super().__init__(root)
        self._meddle = publish
        self._times = times

    def _somebody(self) -> None:
        if self._times:
            self._times -= 1
            self._meddle()

    def create(self, key: str, data: bytes) -> str:
        self._somebody()
        return super().create(key, data)

    def replace(self, key: str, data: bytes, version: str) -> str:
        self._somebody()
        return super().replace(key, data, version)


def meddled(folder: Path, other: Callable[[], object], **options: Any) -> IndexReport:
    store = Meddled(folder, publish=other)
    return update_index(store, now=lambda: LATER, sleep=lambda _: None, **options)


class TestOtherWriters:
    """Somebody publishes between our look and our write."""

    @pytest.mark.parametrize("full", [False, True])
    @pytest.mark.parametrize("first", [False, True])
    def test_both_add(self, folder: Path, *, full: bool, first: bool) -> None:
        if not first:
            update(folder)
        mirrors.push(folder, NODES, "other")
        meddled(folder, lambda: add(folder, "png"), full=full)
        everything = ["app", "zlib", "tool", "other", "png"]
        assert mirrors.published(folder) == mirrors.oracle(NODES, everything)
        assert not update(folder).stale

    def test_two_adders(self, folder: Path) -> None:
        update(folder)
        add(folder, "other", store=Meddled(folder, publish=lambda: add(folder, "png")))
        everything = ["app", "zlib", "tool", "other", "png"]
        assert mirrors.published(folder) == mirrors.oracle(NODES, everything)

    @pytest.mark.parametrize("full", [False, True])
    def test_pushed_again_while_we_remove(self, folder: Path, *, full: bool) -> None:
        """It was gone when we listed, and there again before we published."""
        update(folder)
        (folder / key("zlib")).unlink()
        meddled(folder, lambda: add(folder, "zlib"), full=full)
        assert mirrors.published(folder) == mirrors.oracle(NODES, ["app", "zlib", "tool"])

    @pytest.mark.parametrize("told", [True, False])
    def test_pushed_again_is_seen_at_once(self, folder: Path, *, told: bool) -> None:
        """Even if the state says of it what it said before."""
        update(folder)
        if told:
            add(folder, "zlib")
        (folder / key("zlib")).unlink()
        meddled(folder, lambda: add(folder, "zlib"))
        assert mirrors.published(folder) == mirrors.oracle(NODES, ["app", "zlib", "tool"])

    def test_mended_while_we_leave_it_out(self, folder: Path) -> None:
        update(folder)
        rewrite(folder, "zlib", b"oops")
        report = meddled(folder, lambda: add(folder, "zlib"))
        assert list(report.problems) == [key("zlib")]
        assert mirrors.published(folder) == mirrors.oracle(NODES, ["app", "zlib", "tool"])

    def test_removed_by_both(self, folder: Path) -> None:
        update(folder)
        (folder / key("zlib")).unlink()
        (folder / key("tool")).unlink()
        meddled(folder, lambda: update(folder))
        assert mirrors.published(folder) == mirrors.oracle(NODES, ["app"])

    def test_one_removes_what_the_other_needs(self, folder: Path) -> None:
        """The record of a dependency goes with the last that needs it, and comes again."""
        update(folder)
        mirrors.push(folder, NODES, "tiff")

        def drop() -> None:
            (folder / key("app")).unlink()
            (folder / key("zlib")).unlink()
            remove_from_index(FileStore(folder), [NODES[name]["hash"] for name in ("app", "zlib")])

        said: list[str] = []
        meddled(folder, drop, progress=said.append)
        assert mirrors.published(folder) == mirrors.oracle(NODES, ["tool", "tiff"])
        assert said == []  # and nothing had to be made anew for it

    @pytest.mark.parametrize("full", [False, True])
    @pytest.mark.parametrize("told", [False, True])
    @pytest.mark.parametrize("few", [0, 100], ids=["listed", "asked"])
    def test_one_prunes_what_the_other_has_read(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, few: int, *, full: bool, told: bool
    ) -> None:
        """Whether it was named or not: whoever removes it publishes, so that the other looks again."""
        monkeypatch.setattr("stackyard.edges.mirrors.indexing._FEW", few)
        update(folder)
        if told:
            add(folder, "png", "other")
        mirrors.push(folder, NODES, "tiff", "png", "other")

        def prune() -> None:
            (folder / key("png")).unlink()
            remove_from_index(FileStore(folder), [NODES["png"]["hash"]], anyhow=True)

        report = meddled(folder, prune, full=full)
        everything = ["app", "zlib", "tool", "tiff", "other"]
        assert mirrors.published(folder) == mirrors.oracle(NODES, everything)
        assert key("png") not in report.added
        assert not update(folder).stale

    def test_the_index_is_removed_meanwhile(self, folder: Path) -> None:
        update(folder)
        mirrors.push(folder, NODES, "other")
        meddled(folder, (folder / INDEX_MANIFEST).unlink)
        everything = ["app", "zlib", "tool", "other"]
        assert mirrors.published(folder) == mirrors.oracle(NODES, everything)

    def test_spack_writes_meanwhile(self, folder: Path) -> None:
        """Spack asks nobody, so what it did not see is lost; ours is merged into it."""
        update(folder)
        mirrors.push(folder, NODES, "other")
        meddled(folder, lambda: spack_index(folder, "app", "zlib", "tool"))
        everything = ["app", "zlib", "tool", "other"]
        assert mirrors.published(folder) == mirrors.oracle(NODES, everything)

    def test_others_without_end(self, folder: Path) -> None:
        update(folder)
        waits: list[float] = []
        store = Meddled(folder, publish=lambda: add(folder, "tool"), times=10**6)
        mirrors.push(folder, NODES, "other")
        with pytest.raises(ConflictError, match="somebody else wrote the index first"):
            update_index(store, sleep=waits.append)
        assert len(waits) == 29
        assert 30 < sum(waits) < 90

    def test_a_place_without_conditions(self, folder: Path) -> None:
        """What another writer wrote over is written again."""

        class Loose(FileStore):
            atomic = False
            overwritten = False

            def replace(self, key: str, data: bytes, version: str) -> str:
                mine = super().replace(key, data, version)
                if not self.overwritten:
                    self.overwritten = True
                    (folder / INDEX_MANIFEST).write_bytes(before)
                return mine

        update(folder)
        before = (folder / INDEX_MANIFEST).read_bytes()
        mirrors.push(folder, NODES, "other")
        said: list[str] = []
        waits: list[float] = []
        report = update_index(Loose(folder), progress=said.append, sleep=waits.append)
        assert report.named == 4
        everything = ["app", "zlib", "tool", "other"]
        assert mirrors.published(folder) == mirrors.oracle(NODES, everything)
        assert waits.count(1.0) == 2
        assert "cannot write on condition" in said[0]


class TestOldBlobs:
    def blobs(self, folder: Path) -> set[str]:
        return {path.name for path in (folder / "blobs").rglob("*") if path.is_file()}

    def named(self, folder: Path) -> set[str]:
        manifest = json.loads((folder / INDEX_MANIFEST).read_bytes())
        return {record["checksum"] for record in manifest["data"]}

    def test_stay_for_an_hour(self, folder: Path) -> None:
        update(folder)
        old = self.named(folder)
        mirrors.push(folder, NODES, "other")
        update(folder, now=lambda: LATER)
        assert old <= self.blobs(folder)
        (folder / key("tool")).unlink()
        update(folder, now=lambda: LATER + 3599)
        assert old <= self.blobs(folder)
        mirrors.push(folder, NODES, "tool")
        update(folder, now=lambda: LATER + 3601)
        assert not old & self.blobs(folder)
        assert self.named(folder) <= self.blobs(folder)

    def test_one_that_is_wanted_again(self, folder: Path) -> None:
        update(folder)
        (folder / key("tool")).unlink()
        update(folder)
        mirrors.push(folder, NODES, "tool")
        update(folder, now=lambda: LATER + 99)  # the same bytes as at first
        assert mirrors.published(folder) == mirrors.oracle(NODES, ["app", "zlib", "tool"])
        assert not self.named(folder) & {one for one, _ in state(folder)["superseded"]}
        (folder / key("zlib")).unlink()
        update(folder, now=lambda: LATER + 99999)
        assert mirrors.published(folder) == mirrors.oracle(NODES, ["app", "tool"])

    def test_attempts_that_were_too_late(self, folder: Path) -> None:
        update(folder)
        mirrors.push(folder, NODES, "other")
        meddled(folder, lambda: add(folder, "png"))
        mirrors.push(folder, NODES, "tiff")
        update(folder, now=lambda: LATER + 9999)
        mirrors.push(folder, NODES, "zlib")
        (folder / key("tool")).unlink()
        update(folder, now=lambda: LATER + 99999)
        names = (json.loads(path.read_bytes()) for path in (folder / "v3").rglob("*.manifest.json"))
        wanted = {record["checksum"] for one in names for record in one["data"]}
        gone = json.loads(mirrors.files(NODES, "tool")[key("tool")])["data"][1]["checksum"]
        resting = {checksum for checksum, _ in state(folder)["superseded"]}
        assert self.blobs(folder) == wanted | {gone} | resting


class TestCheck:
    @pytest.fixture
    def folder(self, folder: Path) -> Path:
        update(folder)
        return folder

    def check(self, folder: Path, *, full: bool = False) -> IndexReport:
        before = tree(folder)
        report = check_index(FileStore(folder), full=full)
        assert tree(folder) == before
        return report

    def test_nothing_is_even_tried(self, folder: Path) -> None:
        """Some places are asked by writing whether they can write on condition."""

        class Asked(FileStore):
            @property
            def atomic(self) -> bool:
                message = "a look needs no such knowledge"
                raise AssertionError(message)

        assert not check_index(Asked(folder)).stale

    def test_agrees(self, folder: Path) -> None:
        report = self.check(folder)
        assert not report.stale
        assert report.named == 3

    def test_pushed_and_told(self, folder: Path) -> None:
        add(folder, "other")
        assert not self.check(folder).stale

    @pytest.mark.parametrize("spacks", [False, True])
    def test_both_ways(self, folder: Path, *, spacks: bool) -> None:
        if spacks:
            spack_index(folder, "app", "zlib", "tool")
        mirrors.push(folder, NODES, "other")
        (folder / key("zlib")).unlink()
        report = self.check(folder)
        assert (report.added, report.gone, report.changed) == ((key("other"),), (key("zlib"),), ())

    def test_touched_is_not_changed(self, folder: Path) -> None:
        (folder / key("zlib")).touch()
        assert not self.check(folder).stale

    def test_changed(self, folder: Path) -> None:
        """The index says something of a spec that its binary does not say."""
        data = mirrors.published(folder).replace(
            b'"tool","version":"1.0"', b'"tool","version":"1.1"'
        )
        data = data.replace(
            b'"annotations":{"original_specfile_version":5}',
            b'"annotations":{"original_specfile_version":4,"compiler":"x"}',
        )
        publish(folder, data)
        assert self.check(folder, full=True).changed

    def test_corrupt(self, folder: Path) -> None:
        mirrors.push(folder, NODES, "png")
        _turn_a_bit(folder)
        report = self.check(folder)
        assert not report.stale
        assert list(report.problems) == [key("png")]

    def test_no_index(self, folder: Path) -> None:
        shutil.rmtree(folder / "v3" / "manifests" / "index")
        assert len(self.check(folder).added) == 3
        assert len(self.check(folder, full=True).added) == 3

    def test_broken_index(self, folder: Path) -> None:
        _blob(folder, hashlib.sha256(mirrors.published(folder)).hexdigest()).write_bytes(b"oops")
        with pytest.raises(CorruptError):
            self.check(folder)


class TestWhole:
    """Indices without a state, for folders."""

    def test_written_twice(self, tmp_path: Path) -> None:
        store = FileStore(tmp_path)
        checksum = write_index(store, mirrors.metadata(NODES, ["app", "zlib"]))
        assert mirrors.published(tmp_path) == mirrors.oracle(NODES, ["app", "zlib"])
        first = tree(tmp_path)
        write_index(store, mirrors.metadata(NODES, ["tool"]))
        assert write_index(store, mirrors.metadata(NODES, ["zlib", "app"])) == checksum
        store.close()
        assert tree(tmp_path) == first
        assert set(first) == {
            LAYOUT_MARKER,
            INDEX_MANIFEST,
            f"blobs/sha256/{checksum[:2]}/{checksum}",
        }

    def test_layout_2(self, tmp_path: Path) -> None:
        store = FileStore(tmp_path)
        checksum = write_index(store, mirrors.metadata(NODES, ["app"]), 2)
        store.close()
        files = tree(tmp_path)
        assert set(files) == {"build_cache/index.json", "build_cache/index.json.hash"}
        assert files["build_cache/index.json.hash"] == checksum.encode()
        view = read_index(store)
        assert view is not None
        assert view.checksum == checksum

    def test_read(self, folder: Path) -> None:
        store = FileStore(folder)
        assert read_index(store) is None
        update(folder)
        view = read_index(store)
        assert view is not None
        present = {node["name"] for _, node, there in view.nodes() if there}
        assert present == {"app", "zlib", "tool"}
        assert read_index(store, 2) is None

    def test_read_what_is_broken(self, folder: Path) -> None:
        update(folder)
        path = _blob(folder, hashlib.sha256(mirrors.published(folder)).hexdigest())
        path.write_bytes(path.read_bytes().replace(b"zlib", b"zlob"))
        with pytest.raises(CorruptError, match="not what its manifest says"):
            read_index(FileStore(folder))
        path.unlink()
        with pytest.raises(CorruptError, match="names an index that is not there"):
            read_index(FileStore(folder))

    def test_read_wrong_checksum_of_layout_2(self, tmp_path: Path) -> None:
        store = FileStore(tmp_path)
        write_index(store, mirrors.metadata(NODES, ["app"]), 2)
        store.write("build_cache/index.json.hash", b"0" * 64)
        with pytest.raises(CorruptError, match="checksum"):
            read_index(store)
        store.close()

    def test_read_real_layout_2(self) -> None:
        store = FileStore(real_mirror("v2-unsigned"))
        view = read_index(store)
        assert view is not None
        assert view.specfile == 4
        assert sum(there for _, _, there in view.nodes()) == 5


class TestKeys:
    fingerprints = ("A" * 40, "0123456789" * 4)

    def put(self, folder: Path, *fingerprints: str) -> None:
        for one in fingerprints:
            path = folder / key_manifest_key(one)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"{}")

    def index(self, folder: Path) -> Any:
        manifest = json.loads((folder / KEY_INDEX).read_bytes())
        (record,) = manifest["data"]
        assert record["mediaType"] == "application/vnd.spack.keyindex.v1+json"
        return json.loads(_blob(folder, record["checksum"]).read_bytes())

    def test_written_if_changed(self, folder: Path) -> None:
        store = FileStore(folder)
        assert write_key_index(store) is None
        assert not (folder / KEY_INDEX).exists()
        self.put(folder, *self.fingerprints)
        assert write_key_index(store) == 2
        assert self.index(folder) == {"keys": {one: {} for one in sorted(self.fingerprints)}}
        assert write_key_index(store) is None
        (folder / key_manifest_key(self.fingerprints[0])).unlink()
        assert write_key_index(store) == 1
        store.close()

    def test_other_files(self, folder: Path) -> None:
        self.put(folder, self.fingerprints[0])
        keys = folder / "v3/manifests/key"
        (keys / "evil.key.manifest.json").write_bytes(b"{}")
        (keys / "README").write_bytes(b"{}")
        assert write_key_index(FileStore(folder)) == 1

    def test_two_at_once(self, folder: Path) -> None:
        one, two = self.fingerprints

        def other() -> None:
            self.put(folder, two)
            write_key_index(FileStore(folder))

        self.put(folder, one)
        assert write_key_index(Meddled(folder, publish=other)) is None
        assert len(self.index(folder)["keys"]) == 2

    def test_blob_gone(self, folder: Path) -> None:
        self.put(folder, self.fingerprints[0])
        write_key_index(FileStore(folder))
        manifest = json.loads((folder / KEY_INDEX).read_bytes())
        _blob(folder, manifest["data"][0]["checksum"]).unlink()
        assert write_key_index(FileStore(folder)) == 1
        assert len(self.index(folder)["keys"]) == 1


class TestTask:
    def test_update(self, folder: Path, stackyard: Stackyard) -> None:
        answer = stackyard("mirror.index", "--url", str(folder))
        assert "index: 3 named, 3 new, 0 gone, 0." in answer.err
        assert answer.out == ""
        assert mirrors.published(folder) == mirrors.oracle(NODES, ["app", "zlib", "tool"])
        assert not (folder / ".stackyard").exists()

    def test_json(self, folder: Path, stackyard: Stackyard) -> None:
        answer = stackyard("mirror.index", "--url", str(folder), "--json")
        document = json.loads(answer.out)
        assert (document["named"], len(document["added"]), document["written"]) == (3, 3, True)
        assert document["requests"] > 6
        assert document["url"] == f"file://{folder}"

    def test_check(self, folder: Path, stackyard: Stackyard) -> None:
        update(folder)
        stackyard("mirror.index", "--url", str(folder), "--check")
        mirrors.push(folder, NODES, "other")
        (folder / key("zlib")).unlink()
        answer = stackyard("mirror.index", "--url", str(folder), "--check", code=3)
        assert answer.out.splitlines() == [
            f"+ other-1.0-{NODES['other']['hash']}: is there and not named",
            f"- zlib-1.0-{NODES['zlib']['hash']}: is named and not there",
        ]
        answer = stackyard("mirror.index", "--url", str(folder), "--check", "--json", code=3)
        assert json.loads(answer.out)["gone"] == [key("zlib")]

    def test_keys_too(self, folder: Path, stackyard: Stackyard) -> None:
        TestKeys().put(folder, "A" * 40)
        answer = stackyard("mirror.index", "--url", str(folder))
        assert "key index: 1 keys" in answer.err
        assert (folder / KEY_INDEX).exists()

    def test_web_is_refused(self, stackyard: Stackyard) -> None:
        for flags in ((), ("--check",)):
            answer = stackyard("mirror.index", "--url", "http://127.0.0.1:1/x", *flags, code=6)
            assert "can only be read" in answer.err

    def test_layout_2_is_refused(self, tmp_path: Path, stackyard: Stackyard) -> None:
        write_index(FileStore(tmp_path), mirrors.metadata(NODES, ["app"]), 2)
        answer = stackyard("mirror.index", "--url", str(tmp_path), code=6)
        assert "layout 2 is only read" in answer.err
        assert "buildcache migrate" in answer.err

    def test_no_folder(self, tmp_path: Path, stackyard: Stackyard) -> None:
        answer = stackyard("mirror.index", "--url", str(tmp_path / "nowhere"), code=6)
        assert "does not exist" in answer.err


def test_counted_counts_pages(tmp_path: Path) -> None:
    for number in range(2001):
        (tmp_path / f"{number}").touch()
    counted = Counted(FileStore(tmp_path))
    assert sum(1 for _ in counted.list()) == 2001
    assert counted.requests == 3
