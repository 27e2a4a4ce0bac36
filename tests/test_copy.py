"""``mirror.copy`` and ``push --from``: what arrives, what is refused, and what happens in between."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import locks
import mirrors
import pytest
from conftest import DATA, Project, Stackyard
from fake_registry import fake_registry
from mirror_server import mirror_server
from services import S3Server
from signing import Signer, needs_gpg
from test_faults import complete, kill_at_random, tree

from benchmarks.fetching import Shape, make_mirror
from stackyard.binary import Metadata, dump_manifest, dump_spec_blob, parse_binary
from stackyard.edges.mirrors.copying import Cargo, Copier
from stackyard.edges.mirrors.entering import enter_index
from stackyard.edges.mirrors.indexing import check_index, read_index, update_index
from stackyard.edges.mirrors.keys import published_keys
from stackyard.edges.mirrors.spool import Spool
from stackyard.edges.stores.bucket import Bucket
from stackyard.edges.stores.folder import FileStore
from stackyard.edges.stores.service import Reply
from stackyard.edges.stores.store import open_store
from stackyard.errors import ConflictError
from stackyard.mirror import SPEC_TYPE, TARBALL_TYPE, Record, blob_key
from stackyard.oci import parse_image
from stackyard.padding import PLACEHOLDER
from stackyard.promote import Item

SIGNED = DATA / "mirrors" / "v3-signed"
UNSIGNED = DATA / "mirrors" / "v3-unsigned"
V2 = DATA / "mirrors" / "v2-unsigned"
TINY = DATA / "tiny.spack.lock"
COMMAND = [sys.executable, "-c", "from stackyard.main import main; main()"]
Sign = Callable[[bytes], bytes]


def manifests(folder: Path) -> dict[str, bytes]:
    return {key: data for key, data in tree(folder).items() if key.endswith(".spec.manifest.json")}


def named(folder: Path) -> set[str]:
    """The binaries that the index of a mirror names, by DAG hash."""
    view = read_index(FileStore(folder))
    return {key for key, _, binary in view.nodes() if binary} if view else set()


def put(
    folder: Path,
    node: dict[str, Any],
    tarball: bytes = b"a tarball",
    *,
    sign: Sign = lambda text: text,
    note: str = "",
) -> Path:
    """A binary onto a mirror; the path of its manifest. ``note`` makes other metadata of it."""
    spec = dump_spec_blob(Metadata([node], 5))
    if note:
        spec = gzip.compress(gzip.decompress(spec)[:-1] + f',"note":"{note}"}}'.encode(), mtime=0)
    records = []
    for kind, data in ((TARBALL_TYPE, tarball), (SPEC_TYPE, spec)):
        checksum = hashlib.sha256(data).hexdigest()
        record = Record(
            media_type=kind, size_bytes=len(data), compression="gzip", checksum=checksum
        )
        write(folder / blob_key(record), data)
        records.append(record)
    path = folder / mirrors.manifest_key(node)
    write(path, sign(dump_manifest(records)))
    return path


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def lock_of(*nodes: dict[str, Any]) -> dict[str, Any]:
    """A lockfile in which all nodes are roots."""
    document = locks.document(list(nodes))
    roots = [{"hash": node["hash"], "spec": node["name"]} for node in nodes]
    return {**document, "roots": roots}


NODES = mirrors.specs(dict.fromkeys(("bzip2", "curl", "xz", "zlib"), ()))


@pytest.fixture
def tiny(project: Project) -> Project:
    """A project with the tiny stack, which trusts the key of the signed mirror."""
    project.stack(TINY.read_bytes(), name="tiny")
    (key,) = published_keys(FileStore(SIGNED))
    project.write("stacks/tiny/keys/ours.pub", key.data)
    return project


@pytest.fixture
def demo(project: Project) -> Project:
    """A project whose stack wants the four packages, and trusts nobody."""
    project.stack(lock_of(*NODES.values()))
    return project


def packed(name: str) -> bytes:
    return gzip.compress(name.encode(), mtime=0)


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    folder = tmp_path / "staging"
    for name in NODES:
        put(folder, NODES[name], packed(name))
    return folder


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return tmp_path / "release"


@pytest.fixture
def signer(project: Project) -> Iterator[Signer]:
    """Somebody whose key the project trusts."""
    made = Signer()
    made.key("Builder <b@example.org>")
    made.key("Stranger <s@example.org>")
    project.write("stacks/demo/keys/builder.pub", made.public("Builder <b@example.org>"))
    yield made
    made.close()


def by(signer: Signer, name: str = "Builder <b@example.org>") -> Sign:
    return lambda text: signer.sign(name, text)


# What arrives.


@needs_gpg
def test_a_whole_mirror_arrives_byte_for_byte(
    tiny: Project, stackyard: Stackyard, tmp_path: Path
) -> None:
    target = tmp_path / "new" / "release"
    answer = stackyard("mirror.copy", "--url", str(SIGNED), "--to", str(target))
    assert answer.out == ""
    assert "0 of 7 already there, 7 sent" in answer.err
    assert manifests(target) == manifests(SIGNED)
    assert complete(target) == 7
    assert len(named(target)) == 7
    (key,) = published_keys(FileStore(target))
    assert key.listed
    assert key.fingerprint == "B68A235825B49AA687A88D1F1259F6604539DA29"
    assert not check_index(FileStore(target)).stale
    assert {path.name for path in target.iterdir()} == {"blobs", "v3"}

    before = {path: path.stat().st_mtime_ns for path in target.rglob("*.*")}
    answer = stackyard("mirror.copy", "--url", str(SIGNED), "--to", str(target))
    assert "7 of 7 already there, 0 sent" in answer.err
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*.*")} == before


def test_a_lock_brings_what_it_reaches_and_no_more(
    project: Project, stackyard: Stackyard, staging: Path, release: Path
) -> None:
    dev = locks.node("mine", parameters={"dev_path": "/home/me"}, hash="d" * 32)
    outside = locks.node("os", hash="e" * 32, **locks.EXTERNAL)
    project.stack(lock_of(NODES["zlib"], NODES["xz"], dev, outside))
    answer = stackyard("push", "--stack", "demo", "--from", str(staging), "--to", str(release))
    assert "mine@1.0/ddddddd: built from a working folder" in answer.err
    assert "0 of 3 already there, 2 sent, 1 missing" in answer.err
    assert set(manifests(release)) == {mirrors.manifest_key(NODES[n]) for n in ("zlib", "xz")}
    assert named(release) == {NODES[name]["hash"] for name in ("zlib", "xz")}


def test_a_lock_needs_no_project(
    stackyard: Stackyard,
    staging: Path,
    release: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.lock").write_text(json.dumps(lock_of(NODES["zlib"])))
    place = ("--to", str(release), "--lock", "some.lock")
    assert "0 of 1 already there, 1 sent" in stackyard("push", "--from", str(staging), *place).err
    answer = stackyard("mirror.copy", "--url", str(staging), *place)
    assert "1 of 1 already there, 0 sent" in answer.err
    assert "no invoke.yaml" in stackyard("push", *place, code=2).err
    stackyard("mirror.copy", "--url", str(staging), "--to", str(release))
    assert complete(release) == 4


def test_staging_may_hold_only_what_is_new(
    demo: Project, stackyard: Stackyard, staging: Path, release: Path
) -> None:
    put(release, NODES["zlib"])
    shutil.rmtree(staging / "v3/manifests/spec/zlib")
    (staging / mirrors.manifest_key(NODES["xz"])).unlink()
    answer = stackyard("push", "--from", str(staging), "--to", str(release))
    assert "1 of 4 binaries are on neither mirror:\n  xz@1.0/" in answer.err
    assert "1 of 4 already there, 2 sent, 1 missing" in answer.err
    assert named(release) == {NODES[name]["hash"] for name in ("bzip2", "curl", "zlib")}


def test_what_is_large_passes_over_the_disk(
    project: Project, stackyard: Stackyard, tmp_path: Path, release: Path
) -> None:
    make_mirror(tmp_path / "large", Shape(5, 2000, 3_000_000))
    stackyard("mirror.copy", "--url", str(tmp_path / "large"), "--to", str(release))
    assert complete(release) == 5
    assert {path.name for path in release.iterdir()} == {"blobs", "v3"}
    modes = {path.stat().st_mode & 0o777 for path in release.rglob("*") if path.is_file()}
    assert len(modes) == 1


def test_a_web_server_is_copied_by_its_index(
    project: Project, stackyard: Stackyard, staging: Path, release: Path
) -> None:
    with mirror_server(staging) as server:
        answer = stackyard("mirror.copy", "--url", server.url, "--to", str(release), code=6)
        assert "the mirror has no index\n  hint: name a stack: --stack NAME" in answer.err
        update_index(FileStore(staging))
        stackyard("mirror.copy", "--url", server.url, "--to", str(release))
        answer = stackyard("mirror.copy", "--url", str(release), "--to", server.url, code=6)
    assert "a mirror behind http(s) can only be read" in answer.err
    assert manifests(release) == manifests(staging)


def test_what_an_index_names_in_vain_is_told(
    project: Project, stackyard: Stackyard, staging: Path, release: Path
) -> None:
    update_index(FileStore(staging))
    (staging / mirrors.manifest_key(NODES["xz"])).unlink()
    with mirror_server(staging) as server:
        answer = stackyard("mirror.copy", "--url", server.url, "--to", str(release))
    assert "1 of 4 binaries are on neither mirror:\n  xz@1.0/" in answer.err
    assert "3 sent, 1 missing" in answer.err


@needs_gpg
def test_unsigned_binaries_are_signed_later(
    tiny: Project, stackyard: Stackyard, release: Path
) -> None:
    answer = stackyard("mirror.copy", "--url", str(UNSIGNED), "--to", str(release), code=6)
    assert "7 binaries are refused, so nothing was sent" in answer.err
    assert "signed: false in its entry, or --unsigned" in answer.err
    assert not release.exists()
    stackyard("mirror.copy", "--url", str(UNSIGNED), "--to", str(release), "--unsigned")
    assert published_keys(FileStore(release)) == ()
    answer = stackyard("mirror.copy", "--url", str(SIGNED), "--to", str(release))
    assert "7 of 7 to send, 0 bytes (7 there without a signature)" in answer.err
    assert manifests(release) == manifests(SIGNED)
    assert len(published_keys(FileStore(release))) == 1


@needs_gpg
def test_keys_that_nobody_checked_are_not_spread(
    project: Project, stackyard: Stackyard, release: Path
) -> None:
    answer = stackyard("mirror.copy", "--url", str(SIGNED), "--to", str(release), "--unsigned")
    assert "no signature was checked, so no key is published" in answer.err
    assert manifests(release) == manifests(SIGNED)
    assert published_keys(FileStore(release)) == ()


# The index.


def test_the_index_stays_as_it_is_where_told(
    project: Project, stackyard: Stackyard, staging: Path, release: Path
) -> None:
    arguments = ("mirror.copy", "--url", str(staging), "--to", str(release))
    stackyard(*arguments, "--no-index")
    assert complete(release) == 4
    assert named(release) == set()
    answer = stackyard(*arguments)
    assert "4 of 4 already there, 0 sent" in answer.err
    assert len(named(release)) == 4


def test_what_only_the_index_lacks_is_added(
    project: Project, stackyard: Stackyard, staging: Path, release: Path
) -> None:
    put(release, NODES["zlib"], packed("zlib"))
    update_index(FileStore(release))
    put(release, NODES["xz"], packed("xz"))
    stackyard("mirror.copy", "--url", str(staging), "--to", str(release))
    assert named(release) == {node["hash"] for node in NODES.values()}
    assert not check_index(FileStore(release)).stale


# What is refused.


@needs_gpg
def test_all_that_is_otherwise_is_told_at_once(
    demo: Project, signer: Signer, stackyard: Stackyard, tmp_path: Path, release: Path
) -> None:
    staging = tmp_path / "staging"
    sign = by(signer)
    put(staging, NODES["bzip2"], b"new", sign=sign)
    put(staging, NODES["curl"], sign=sign)
    put(staging, NODES["xz"], sign=sign, note="new")
    put(staging, NODES["zlib"], sign=sign)
    put(release, NODES["bzip2"], b"old", sign=sign)
    signed_otherwise = put(release, NODES["curl"], sign=by(signer, "Stranger <s@example.org>"))
    put(release, NODES["xz"], sign=sign)
    before = tree(release)
    answer = stackyard("push", "--from", str(staging), "--to", str(release), code=6)
    assert "3 binaries are there otherwise; nothing was sent" in answer.err
    for name, why in (
        ("bzip2", "another binary of the same hash is there"),
        ("curl", "the same binary is there, signed otherwise"),
        ("xz", "the same tarball is there, with other metadata"),
    ):
        assert f"  {name}@1.0/{NODES[name]['hash'][:7]}: {why}\n" in answer.err
    assert tree(release) == before
    assert signed_otherwise.is_file()
    stackyard("push", "--from", str(staging), "--to", str(release), "--force")
    assert manifests(release) == manifests(staging)
    assert complete(release) == 4


@needs_gpg
def test_a_tampered_entry_never_gets_there(
    demo: Project, signer: Signer, stackyard: Stackyard, tmp_path: Path, release: Path
) -> None:
    """Promotion from staging to release: each way of tampering, with its reason."""
    arguments = ("mirror.copy", "--url", str(tmp_path / "staging"), "--to", str(release))

    def fresh() -> dict[str, Path]:
        shutil.rmtree(tmp_path / "staging", ignore_errors=True)
        return {
            name: put(tmp_path / "staging", NODES[name], name.encode(), sign=by(signer))
            for name in NODES
        }

    def refused(reason: str) -> str:
        answer = stackyard(*arguments, code=6)
        assert reason in answer.err
        assert not manifests(release)
        return answer.err

    paths = fresh()  # a manifest that was changed after it was signed
    text = paths["zlib"].read_bytes()
    paths["zlib"].write_bytes(text.replace(b'"contentLength":4', b'"contentLength":5'))
    told = refused("1 binaries are refused, so nothing was sent")
    assert mirrors.manifest_key(NODES["zlib"]) in told
    assert not release.exists()

    paths = fresh()  # text behind the signature
    paths["zlib"].write_bytes(paths["zlib"].read_bytes() + b'{"version":3,"data":[]}\n')
    refused("manifest")

    paths = fresh()  # a valid manifest of another spec
    paths["zlib"].write_bytes(paths["xz"].read_bytes())
    told = refused("it is the binary of another spec, xz@1.0")
    assert "hint: find out who changed the mirror" in told
    assert not release.exists()

    paths = fresh()  # a key that nobody trusts
    put(tmp_path / "staging", NODES["zlib"], sign=by(signer, "Stranger <s@example.org>"))
    refused("1 binaries are refused, so nothing was sent")
    assert not release.exists()

    fresh()  # a blob that is not what its name says: of the same length, of another, and gone
    tarball = tmp_path / "staging" / blob_of(b"zlib")
    tarball.write_bytes(b"evil")
    told = refused("1 blobs are not what their manifests say; no manifest was sent")
    assert not (release / blob_of(b"zlib")).exists()
    tarball.write_bytes(b"evil and longer")
    refused(blob_of(b"zlib"))
    tarball.unlink()
    refused("the mirror has the manifest without it")

    fresh()
    stackyard(*arguments)
    assert complete(release) == 4


def blob_of(data: bytes) -> str:
    checksum = hashlib.sha256(data).hexdigest()
    return f"blobs/sha256/{checksum[:2]}/{checksum}"


@needs_gpg
def test_signed_binaries_need_a_key(demo: Project, stackyard: Stackyard, release: Path) -> None:
    answer = stackyard("mirror.copy", "--url", str(SIGNED), "--to", str(release), code=6)
    assert "there are no keys to check them with" in answer.err
    assert not release.exists()


def test_a_manifest_at_a_wrong_place_is_refused(
    project: Project, stackyard: Stackyard, staging: Path, release: Path
) -> None:
    path = staging / mirrors.manifest_key(NODES["zlib"])
    path.rename(path.with_name(path.name.replace("zlib-1.0", "zlib-2.0")))
    answer = stackyard("mirror.copy", "--url", str(staging), "--to", str(release), code=6)
    assert "nobody looks for it at" in answer.err
    assert not release.exists()


def test_all_broken_manifests_are_told(
    project: Project, stackyard: Stackyard, staging: Path, release: Path
) -> None:
    for name in ("xz", "zlib"):
        (staging / mirrors.manifest_key(NODES[name])).write_bytes(b"{")
    answer = stackyard("mirror.copy", "--url", str(staging), "--to", str(release), code=6)
    assert "2 manifests cannot be read" in answer.err
    assert mirrors.manifest_key(NODES["xz"]) in answer.err
    assert not release.exists()


def test_layout_2_is_neither_source_nor_target(
    project: Project, stackyard: Stackyard, staging: Path, tmp_path: Path
) -> None:
    answer = stackyard("mirror.copy", "--url", str(V2), "--to", str(tmp_path / "new"), code=6)
    assert "the mirror has layout 2" in answer.err
    assert "spack buildcache migrate" in answer.err
    old = tmp_path / "old"
    shutil.copytree(V2, old)
    answer = stackyard("mirror.copy", "--url", str(staging), "--to", str(old), code=6)
    assert "Spack 1.0 and newer would not see that any more beside layout 3" in answer.err
    assert not (old / "v3").exists()
    stackyard("mirror.copy", "--url", str(staging), "--to", str(old), "--force")
    assert complete(old) == 4


def test_a_mirror_is_not_copied_into_itself(
    project: Project, stackyard: Stackyard, staging: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(staging)
    for target in (staging, staging / "inside", tmp_path / "link", staging.as_uri()):
        answer = stackyard("mirror.copy", "--url", str(staging), "--to", str(target), code=2)
        assert "--to: the mirror would be copied into itself" in answer.err
    assert not (staging / "inside").exists()


def test_nothing_there_is_no_success(
    demo: Project, stackyard: Stackyard, tmp_path: Path, release: Path
) -> None:
    empty = tmp_path / "empty"
    answer = stackyard("mirror.copy", "--url", str(empty), "--to", str(release), code=6)
    assert "the folder does not exist" in answer.err
    empty.mkdir()
    for more in ((), ("--stack", "demo")):
        answer = stackyard("mirror.copy", "--url", str(empty), "--to", str(release), *more, code=6)
        assert "nothing of what is wanted is there" in answer.err
    assert not release.exists()


def test_arguments_that_cannot_be(demo: Project, stackyard: Stackyard, staging: Path) -> None:
    for arguments, told in (
        (("mirror.copy", "--to", "x"), "--url: no mirror is named"),
        (("mirror.copy", "--url", str(staging)), "--to: no mirror is named"),
        (("push", "--from", str(staging), "--to", "x", "--spack", "/s"), "--spack: "),
    ):
        assert told in stackyard(*arguments, code=2).err


def tarball(root: str, node: dict[str, Any]) -> bytes:
    prefix = f"{root}/linux-x86_64_v3/{node['name']}-1.0-{node['hash']}"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        file = tarfile.TarInfo(f"{prefix.lstrip('/')}/.spack/spec.json")
        tar.addfile(file)
    return gzip.compress(buffer.getvalue(), mtime=0)


def test_other_padding_is_refused(
    project: Project, stackyard: Stackyard, tmp_path: Path, release: Path
) -> None:
    staging, padded = tmp_path / "staging", f"/opt/tree/{PLACEHOLDER}/{PLACEHOLDER}"
    put(staging, NODES["zlib"], tarball("/opt/tree", NODES["zlib"]))
    put(release, NODES["xz"], tarball(padded, NODES["xz"]))
    before = tree(release)
    arguments = ("mirror.copy", "--url", str(staging), "--to", str(release))
    answer = stackyard(*arguments, code=6)
    assert "no padding (/opt/tree, 9 characters)" in answer.err
    assert f"those on the mirror with a padded_length of {len(padded)}" in answer.err
    assert "padded_length, push to a mirror of their own, or add --force" in answer.err
    assert tree(release) == before
    stackyard(*arguments, "--force")
    assert len(manifests(release)) == 2


# What happens in between.


def test_a_blob_that_is_lost_is_sent_again(
    project: Project, stackyard: Stackyard, staging: Path, release: Path
) -> None:
    arguments = ("mirror.copy", "--url", str(staging), "--to", str(release))
    stackyard(*arguments)
    (release / blob_of(packed("zlib"))).unlink()
    answer = stackyard(*arguments)
    assert "1 of 4 to send, 24 bytes (1 there, but not all of its blobs)" in answer.err
    assert complete(release) == 4


def test_a_blob_that_is_pruned_under_way_is_sent_after_all(
    staging: Path, release: Path, tmp_path: Path
) -> None:
    path = staging / mirrors.manifest_key(NODES["zlib"])
    binary = parse_binary(path.read_bytes(), mirrors.manifest_key(NODES["zlib"]), "", "")
    assert binary.spec
    spec = staging / binary.spec.key
    told: list[int] = []
    spool = Spool(tmp_path / "spool")
    copier = Copier(FileStore(staging), FileStore(release), spool, told.append)
    cargo = Cargo(Item(binary, "not there yet"), binary, spec)
    release.mkdir()
    # When it was looked at, the tarball was there.
    copier.send([cargo], [binary.spec], {binary.tarball.key})
    assert complete(release) == 1
    assert sum(told) == 24 + spec.stat().st_size
    spool.close()
    assert not (tmp_path / "spool").exists()


def test_a_spool_has_only_so_much_room(tmp_path: Path) -> None:
    spool = Spool(tmp_path, most_bytes=100)
    order: list[str] = []
    begun = threading.Event()

    def second() -> None:
        begun.set()
        with spool.room(60) as path:
            order.append("second")
            path.write_bytes(b"x")

    thread = threading.Thread(target=second)
    with spool.room(60):
        thread.start()
        begun.wait()
        time.sleep(0.05)
        order.append("first")
    thread.join()
    with spool.room(10**9):  # more than there is: alone
        order.append("third")
    assert order == ["first", "second", "third"]
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_a_spool_sweeps_what_a_killed_run_left(tmp_path: Path) -> None:
    alive = Spool(tmp_path)
    alive.path().write_bytes(b"in use")
    dead = tmp_path / "stackyard-spool-dead"
    dead.mkdir()
    (dead / "0").write_bytes(b"left")
    other = tmp_path / "stackyard-spool-link"
    other.symlink_to(tmp_path / "elsewhere")
    Spool(tmp_path).close()
    assert not dead.exists()
    assert alive.path().with_name("0").read_bytes() == b"in use"
    assert other.is_symlink()
    alive.close()


def test_a_killed_copy_leaves_nothing_half(tmp_path: Path, *, long: bool) -> None:
    seed = random.randrange(10**6)  # noqa: S311
    print(f"seed {seed}")  # noqa: T201 - shown where it fails
    draw = random.Random(seed)  # noqa: S311
    make_mirror(tmp_path / "mirror", Shape(60, 2000, 1_200_000 if long else 300_000))
    with mirror_server(tmp_path / "mirror") as server:
        server.latency_s = 0.02

        def copying(into: Path) -> list[str]:
            return [*COMMAND, "mirror.copy", "--url", server.url, "--to", str(into)]

        begun = time.monotonic()
        succeeds(copying(tmp_path / "fresh"))
        longest_s = time.monotonic() - begun
        fresh = tree(tmp_path / "fresh")
        into, killed, seen = tmp_path / "into", 0, set()
        for _ in range(100 if long else 5):
            argv = copying(into)
            killed += kill_at_random(argv, draw, longest_s, lambda: seen.add(complete(into)))
            if len(manifests(into)) == 60:
                succeeds(argv)
                assert same(tree(into), fresh)
                shutil.rmtree(into)
        assert killed
        succeeds(copying(into))
    assert same(tree(into), fresh)
    print(f"{killed} kills; binaries seen after them: {sorted(seen)}")  # noqa: T201


def succeeds(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def same(one: dict[str, bytes], other: dict[str, bytes]) -> bool:
    """Whether two mirrors hold the same: index and its state may have been written more often."""
    return _without_index(one) == _without_index(other)


def _without_index(files: dict[str, bytes]) -> dict[str, bytes]:
    index = json.loads(files["v3/manifests/index/index.manifest.json"])["data"]
    first = files[blob_key_of(index[0]["checksum"])]
    named = {key for key in files if key.endswith(".spec.manifest.json")}
    blobs = {blob.key for key in named for blob in parse_binary(files[key], key, "", key).blobs}
    return {**{key: files[key] for key in named | blobs}, "index": first}


def blob_key_of(checksum: str) -> str:
    return f"blobs/sha256/{checksum[:2]}/{checksum}"


def test_two_copies_at_once(tmp_path: Path) -> None:
    """Overlapping, from two mirrors into one: everything arrives, and the index names all of it."""
    make_mirror(tmp_path / "all", Shape(40, 2000, 50_000))
    paths = sorted((tmp_path / "all").rglob("*.spec.manifest.json"))
    sources = [tmp_path / "one", tmp_path / "two"]
    for source, gone in zip(sources, (paths[:10], paths[30:]), strict=True):
        shutil.copytree(tmp_path / "all", source)
        for path in gone:
            (source / path.relative_to(tmp_path / "all")).unlink()
    target = tmp_path / "target"
    runs = [
        subprocess.Popen(
            [*COMMAND, "mirror.copy", "--url", str(source), "--to", str(target)],
            stderr=subprocess.PIPE,
        )
        for source in sources
    ]
    for run in runs:
        _, told = run.communicate(timeout=60)
        assert run.returncode == 0, told.decode()
    assert complete(target) == 40
    assert len(named(target)) == 40
    assert manifests(target) == manifests(tmp_path / "all")
    assert not (target / ".stackyard").exists()


def test_two_copies_of_different_binaries_do_not_replace_each_other(
    staging: Path, release: Path, tmp_path: Path
) -> None:
    """Both looked when nothing was there; who comes second is told."""
    key = mirrors.manifest_key(NODES["zlib"])
    put(release, NODES["zlib"], b"first")
    first = (release / key).read_bytes()
    binary = parse_binary((staging / key).read_bytes(), key, NODES["zlib"]["hash"], "")
    assert binary.spec
    spool = Spool(tmp_path / "spool")
    copier = Copier(FileStore(staging), FileStore(release), spool, lambda _: None)
    cargo = Cargo(Item(binary, "not there yet"), binary, staging / binary.spec.key)
    with pytest.raises(ConflictError, match="somebody else pushed this hash otherwise"):
        copier.send([cargo], binary.blobs, frozenset())
    assert (release / key).read_bytes() == first
    spool.close()


def test_force_replaces_only_what_it_was_asked_about(
    staging: Path, release: Path, tmp_path: Path
) -> None:
    """A third one came after we looked."""
    key = mirrors.manifest_key(NODES["zlib"])
    old = put(release, NODES["zlib"], b"first").read_bytes()
    third = put(release, NODES["zlib"], b"third").read_bytes()
    binary = parse_binary((staging / key).read_bytes(), key, NODES["zlib"]["hash"], "")
    assert binary.spec
    spool = Spool(tmp_path / "spool")
    copier = Copier(FileStore(staging), FileStore(release), spool, lambda _: None)
    for seen, wanted in ((old, third), (third, binary.manifest)):
        item = Item(binary, "another binary is there", old=seen)
        cargo = Cargo(item, binary, staging / binary.spec.key)
        if wanted == third:
            with pytest.raises(ConflictError, match="somebody else pushed this hash otherwise"):
                copier.send([cargo], binary.blobs, frozenset())
        else:
            copier.send([cargo], binary.blobs, frozenset())
        assert (release / key).read_bytes() == wanted
    spool.close()


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_what_the_index_lacks_is_entered(
    staging: Path, monkeypatch: pytest.MonkeyPatch, *, many: bool, known: bool
) -> None:
    """From the manifests that were read; where there are none, or many, by looking at the mirror."""
    if many:
        monkeypatch.setattr("stackyard.edges.mirrors.entering._MANY", 0)
    dag_hash, key = NODES["curl"]["hash"], mirrors.manifest_key(NODES["curl"])
    data = (staging / key).read_bytes()
    (staging / key).unlink()
    with closing(FileStore(staging)) as store:
        update_index(store)
        write(staging / key, data)
        there = {dag_hash: parse_binary(data, key, dag_hash, key)} if known else {}
        enter_index(store, (), (), (dag_hash,), there)
    assert named(staging) == {node["hash"] for node in NODES.values()}


# Buckets.


@pytest.fixture(params=["moto", "ceph"])
def s3(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """An S3 service, whose key is in the environment."""
    server: S3Server = request.getfixturevalue(request.param)
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Method and key of all requests to buckets from now on; the key of a listing is empty."""
    requests: list[tuple[str, str]] = []
    ask = Bucket.ask

    def counted(self: Bucket, method: str, key: str | None, **more: object) -> Reply:
        requests.append((method, key or ""))
        return ask(self, method, key, **more)

    monkeypatch.setattr(Bucket, "ask", counted)
    return requests


def content(url: str) -> dict[str, bytes]:
    with closing(open_store(url)) as store:
        return {listed.key: store.read(listed.key) for listed in store.list()}


@needs_gpg
def test_promotion_within_a_bucket_moves_no_tarball(
    tiny: Project, stackyard: Stackyard, s3: S3Server, asked: list[tuple[str, str]]
) -> None:
    bucket = s3.bucket()
    staging, release = f"{bucket}/staging", f"{bucket}/release"
    stackyard("mirror.copy", "--url", str(SIGNED), "--to", staging)
    asked.clear()
    answer = stackyard("mirror.copy", "--url", staging, "--to", release)
    assert "0 of 7 already there, 7 sent" in answer.err
    assert "24.6 kB of it the service copied itself: their sizes were compared" in answer.err
    tarballs = {parse_binary(data, "", "", "").tarball for data in manifests(SIGNED).values()}
    moved = {(method, key) for method, key in asked if key in {blob.key for blob in tarballs}}
    assert {key for _, key in moved} == {blob.key for blob in tarballs}
    read = [key for method, key in asked if method == "GET" and key.startswith("blobs/")]
    specs = {parse_binary(data, "", "", "").spec for data in manifests(SIGNED).values()}
    assert {blob.key for blob in specs if blob} < set(read)
    files = content(release)
    assert {key: files[key] for key in manifests(SIGNED)} == manifests(SIGNED)
    for blob in tarballs:
        assert hashlib.sha256(files[blob.key]).hexdigest() == blob.checksum

    asked.clear()
    answer = stackyard("mirror.copy", "--url", staging, "--to", release)
    assert "7 of 7 already there, 0 sent" in answer.err
    assert not [key for _, key in asked if "/spec/" in key]
    assert not [method for method, _ in asked if method not in ("GET", "HEAD")]


def test_an_identical_copy_costs_no_more_than_listing(
    project: Project, stackyard: Stackyard, s3: S3Server, asked: list[tuple[str, str]]
) -> None:
    """Whatever the number of binaries: so many requests, and a listing's pages."""
    needed = []
    for count in (3, 40):
        folder = project.root / f"mirror-{count}"
        make_mirror(folder, Shape(count, 300, 300))
        staging, release = s3.bucket(), s3.bucket()
        stackyard("mirror.copy", "--url", str(folder), "--to", staging)
        stackyard("mirror.copy", "--url", staging, "--to", release)
        asked.clear()
        answer = stackyard("mirror.copy", "--url", staging, "--to", release)
        assert f"{count} of {count} already there, 0 sent" in answer.err
        needed.append(len(asked))
    assert needed[0] == needed[1] < 20


def test_a_tarball_of_another_length_is_not_promoted(
    project: Project, stackyard: Stackyard, staging: Path, s3: S3Server
) -> None:
    bucket = s3.bucket()
    (staging / blob_of(packed("zlib"))).write_bytes(b"evil and longer than it was before")
    with closing(s3.store(f"{bucket}/staging")) as store:
        for key, data in tree(staging).items():
            store.write(key, data)
    arguments = ("mirror.copy", "--url", f"{bucket}/staging", "--to", f"{bucket}/release")
    answer = stackyard(*arguments, code=6)
    assert "1 blobs are not what their manifests say; no manifest was sent" in answer.err
    assert "it has not the 24 bytes that the manifest gives" in answer.err
    there = content(f"{bucket}/release")
    assert not [key for key in there if key.startswith("v3/")]
    assert blob_of(packed("zlib")) not in there


def test_from_bucket_to_folder_and_back(
    project: Project, stackyard: Stackyard, s3: S3Server, tmp_path: Path, release: Path
) -> None:
    bucket, large = s3.bucket(), tmp_path / "large"
    make_mirror(large, Shape(3, 2000, 3_000_000))
    stackyard("mirror.copy", "--url", str(large), "--to", bucket)
    stackyard("mirror.copy", "--url", bucket, "--to", str(release))
    assert complete(release) == 3
    assert manifests(release) == manifests(large)


def test_a_bucket_is_not_copied_into_itself(
    project: Project, stackyard: Stackyard, s3: S3Server
) -> None:
    bucket = s3.bucket()
    for target in (bucket, f"{bucket}/", f"{bucket}/inside"):
        answer = stackyard("mirror.copy", "--url", bucket, "--to", target, code=2)
        assert "--to: the mirror would be copied into itself" in answer.err


def test_two_copies_into_one_bucket_at_once(project: Project, s3: S3Server, tmp_path: Path) -> None:
    make_mirror(tmp_path / "all", Shape(30, 2000, 5000))
    target = s3.bucket()
    runs = []
    for half, gone in (("one", slice(0, 10)), ("two", slice(20, 30))):
        shutil.copytree(tmp_path / "all", tmp_path / half)
        for path in sorted((tmp_path / half).rglob("*.spec.manifest.json"))[gone]:
            path.unlink()
        argv = [*COMMAND, "mirror.copy", "--url", str(tmp_path / half), "--to", target]
        runs.append(subprocess.Popen(argv, stderr=subprocess.PIPE))
    for run in runs:
        _, told = run.communicate(timeout=100)
        assert run.returncode == 0, told.decode()
    with closing(s3.store(target)) as store:
        assert not check_index(store).stale
        view = read_index(store)
    assert view
    assert sum(binary for _, _, binary in view.nodes()) == 30


# Registries.


@pytest.fixture
def repository() -> Iterator[str]:
    """The URL of an empty one."""
    with fake_registry() as server:
        yield server.mirror("team/one")


def images(url: str) -> dict[str, tuple[str, ...]]:
    """The digests of the layers of all images, by tag."""
    with closing(open_store(url)) as store:
        return {
            listed.key: tuple(layer.checksum for layer in parse_image(data, "").layers)
            for listed in store.list("manifests/")
            if listed.key.endswith(".spack") and "index.spack" not in listed.key
            for data in [store.read(listed.key)]
        }


def test_into_a_registry_and_out_of_it(
    tiny: Project, stackyard: Stackyard, repository: str, release: Path
) -> None:
    into = ("push", "--from", str(UNSIGNED), "--to", repository, "--unsigned")
    answer = stackyard(*into)
    assert "0 of 7 already there, 7 sent" in answer.err
    made = images(repository)
    assert len(made) == 7
    (app,) = [layers for tag, layers in made.items() if "tiny-app" in tag]
    below = {layers[-1] for layers in made.values()}
    assert len(app) > 2
    assert set(app) < below
    assert "7 of 7 already there, 0 sent" in stackyard(*into).err
    assert images(repository) == made

    out = ("mirror.copy", "--url", repository, "--to", str(release), "--unsigned")
    stackyard(*out)
    assert complete(release) == 7
    assert len(named(release)) == 7
    tarballs = {parse_binary(data, "", "", "").tarball for data in manifests(UNSIGNED).values()}
    found = {parse_binary(data, "", "", "").tarball for data in manifests(release).values()}
    assert found == tarballs
    before = tree(release)
    assert "7 of 7 already there, 0 sent" in stackyard(*out).err
    assert tree(release) == before


def test_from_registry_to_registry(tiny: Project, stackyard: Stackyard) -> None:
    with fake_registry() as one, fake_registry() as two:
        first, second = one.mirror("team/one"), two.mirror("team/two")
        stackyard("mirror.copy", "--url", str(UNSIGNED), "--to", first, "--unsigned")
        arguments = ("mirror.copy", "--url", first, "--to", second, "--unsigned")
        answer = stackyard(*arguments)
        assert "0 of 7 already there, 7 sent" in answer.err
        assert images(second) == images(first)
        with closing(open_store(first)) as source, closing(open_store(second)) as target:
            for tag, layers in images(first).items():
                assert source.read(tag) == target.read(tag)
                assert all(target.exists(blob_key_of(layer)) for layer in layers)
        assert "7 of 7 already there, 0 sent" in stackyard(*arguments).err


def test_within_a_registry_no_blob_passes_through_us(tiny: Project, stackyard: Stackyard) -> None:
    with fake_registry() as server:
        first, second = server.mirror("team/one"), server.mirror("team/two")
        stackyard("mirror.copy", "--url", str(UNSIGNED), "--to", first, "--unsigned")
        server.asked.clear()
        stackyard("mirror.copy", "--url", first, "--to", second, "--unsigned")
        assert images(second) == images(first)
        mounted = [asked for asked in server.asked if "mount=sha256" in asked.query]
        layers = {layer for layers in images(first).values() for layer in layers}
        assert len(mounted) == len(layers) == 7
        begun = [asked for asked in server.asked if asked.method == "POST"]
        # Beside them the configurations, which are read and checked; and index, state and its own.
        assert len(begun) == 7 + 7 + 3


def test_another_binary_in_a_registry_is_refused(
    demo: Project, stackyard: Stackyard, staging: Path, repository: str
) -> None:
    stackyard("mirror.copy", "--url", str(staging), "--to", repository)
    before = images(repository)
    put(staging, NODES["zlib"], gzip.compress(b"another"))
    arguments = ("mirror.copy", "--url", str(staging), "--to", repository)
    answer = stackyard(*arguments, code=6)
    assert "1 binaries are there otherwise" in answer.err
    assert images(repository) == before
    stackyard(*arguments, "--force")
    changed = {tag for tag, layers in images(repository).items() if layers != before[tag]}
    assert changed == {f"manifests/zlib-1.0-{NODES['zlib']['hash']}.spack"}
