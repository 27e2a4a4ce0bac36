from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from pathlib import Path

import pytest
from conftest import DATA

from stackyard.binary import (
    SPEC_BYTES,
    Metadata,
    dump_manifest,
    dump_spec_blob,
    gunzip,
    parse_binary,
    parse_metadata,
    parse_v2_binary,
)
from stackyard.errors import CorruptError
from stackyard.mirror import manifest_hash, parse_manifest

MIRRORS = DATA / "mirrors"
V3 = [MIRRORS / "v3-signed", MIRRORS / "v3-unsigned"]
V2 = [MIRRORS / "v2-signed", MIRRORS / "v2-unsigned"]


def manifests(mirror: Path, pattern: str) -> list[Path]:
    return sorted(mirror.rglob(pattern))


@pytest.mark.parametrize("mirror", V3, ids=lambda path: path.name)
def test_every_manifest_of_layout_3(mirror: Path) -> None:
    found = manifests(mirror, "*.spec.manifest.json")
    assert len(found) == 7
    for path in found:
        key = path.relative_to(mirror).as_posix()
        dag_hash = manifest_hash(key)
        binary = parse_binary(path.read_bytes(), key, dag_hash, key)
        assert binary.signed == (mirror.name == "v3-signed")
        for blob in binary.blobs:
            data = (mirror / blob.key).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (blob.size_bytes, blob.checksum)
        assert binary.spec
        metadata = parse_metadata((mirror / binary.spec.key).read_bytes(), key)
        assert metadata.hash == dag_hash
        assert metadata.spec(key).name == path.parent.name


@pytest.mark.parametrize("mirror", V2, ids=lambda path: path.name)
def test_all_metadata_of_layout_2(mirror: Path) -> None:
    found = [path for path in manifests(mirror, "*.spec.json*") if "index" not in path.name]
    assert len(found) == 5
    for path in found:
        key = path.relative_to(mirror).as_posix()
        data = path.read_bytes()
        binary = parse_v2_binary(data, key, manifest_hash(key), key)
        assert binary.signed == (mirror.name == "v2-signed")
        tarball = (mirror / binary.tarball.key).read_bytes()
        assert hashlib.sha256(tarball).hexdigest() == binary.tarball.checksum
        assert parse_metadata(data, key).hash == binary.hash


def test_a_manifest_that_we_write_is_spacks() -> None:
    for path in manifests(V3[1], "*.manifest.json"):
        data = path.read_bytes()
        assert dump_manifest(parse_manifest(data, "m").records) == data


def test_a_spec_blob_that_we_write() -> None:
    (path, *_) = manifests(V3[1], "tiny-app*.spec.manifest.json")
    binary = parse_binary(path.read_bytes(), "k", manifest_hash(path.name), "m")
    assert binary.spec
    theirs = (V3[1] / binary.spec.key).read_bytes()
    metadata = parse_metadata(theirs, "m")
    ours = dump_spec_blob(metadata)
    assert gunzip(ours, SPEC_BYTES, "ours") == gunzip(theirs, SPEC_BYTES, "theirs")
    assert ours == dump_spec_blob(metadata)


def test_a_bomb_does_not_go_off() -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(65)) + packer.flush()
    assert len(bomb) < 100_000
    with pytest.raises(CorruptError, match="unpacks to more than 67108864 bytes"):
        parse_metadata(bomb, "bomb")


WHOLE = gzip.compress(
    json.dumps({"spec": {"_meta": {"version": 5}, "nodes": [{}]}}).encode(), mtime=0
)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (WHOLE[:-10], "cut off"),
        (WHOLE[:-4], "cut off"),  # all of the text, and half of its checksum
        (WHOLE[:10] + b"\xff" * 20, "cannot be unpacked"),
        (b"", "empty"),
        (b"[]", "shape of a spec"),
        (b'{"spec": 3}', "shape of a spec"),
        (b'{"spec": {"_meta": {"version": 5}, "nodes": []}}', "shape of a spec"),
        (b'{"spec": {"_meta": {"version": 5}, "nodes": [{"hash": 3}]}}', "shape of a spec"),
        (b'{"spec": {"_meta": {"version": "x"}, "nodes": [{"hash": "a"}]}}', "shape of a spec"),
        (b'{"spec": {"_meta": {"version": 5}, "nodes": [{"hash": "a"}, 3]}}', "shape of a spec"),
    ],
)
def test_metadata_of_another_shape(data: bytes, problem: str) -> None:
    with pytest.raises(CorruptError, match=problem) as caught:
        parse_metadata(data, "here")
    assert caught.value.where == "here"


@pytest.mark.parametrize("version", [2, 6, 99])
def test_a_specfile_of_another_version(version: int) -> None:
    with pytest.raises(CorruptError, match="not known"):
        Metadata([{"hash": "a" * 32}], version).spec("here")


@pytest.mark.parametrize("kind", ["install.v2.tar+gzip", "spec.v5+json"])
def test_a_manifest_without_a_blob(kind: str) -> None:
    (path, *_) = manifests(V3[1], "*.spec.manifest.json")
    data = path.read_bytes().replace(kind.encode(), b"other+x")
    with pytest.raises(CorruptError, match="the manifest has no application"):
        parse_binary(data, "k", "h", "m")


@pytest.mark.parametrize(
    ("key", "dag_hash"),
    [
        ("v3/manifests/spec/a/a-1-" + "a" * 32 + ".spec.manifest.json", "a" * 32),
        ("build_cache/x-gcc-1-a-1-" + "b" * 32 + ".spec.json.sig", "b" * 32),
        ("build_cache/x-gcc-1-a-1-" + "b" * 32 + ".spec.json", "b" * 32),
        ("build_cache/x-gcc-1-a-1-" + "b" * 32 + ".spack", ""),
        ("v3/manifests/index/index.manifest.json", ""),
        ("v3/manifests/spec/a/a-1-" + "A" * 32 + ".spec.manifest.json", ""),
        ("", ""),
    ],
)
def test_the_hash_in_a_name(key: str, dag_hash: str) -> None:
    assert manifest_hash(key) == dag_hash
