"""Spack reads the indices that we write, and finds in them what its own would say."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mirrors import published
from real_spack import RealSpack, needs_spack
from tests_data import DATA

from benchmarks.indexing import fill_mirror
from stackyard.binary import parse_metadata
from stackyard.edges.mirrors.indexing import add_to_index, update_index, write_key_index
from stackyard.edges.mirrors.layouts import list_manifests, read_binary
from stackyard.edges.stores.folder import FileStore
from stackyard.mirror import KEY_INDEX

pytestmark = needs_spack
Fresh = Callable[[], RealSpack]


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """The tiny stack's binaries, without an index."""
    folder = tmp_path / "mirror"
    shutil.copytree(DATA / "mirrors" / "v3-unsigned", folder)
    index = json.loads((folder / "v3/manifests/index/index.manifest.json").read_bytes())
    checksum = index["data"][0]["checksum"]
    (folder / "blobs" / "sha256" / checksum[:2] / checksum).unlink()
    shutil.rmtree(folder / "v3" / "manifests" / "index")
    return folder


def installs(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(published(folder))["database"]["installs"]
    return found


def uses(spack: RealSpack, mirror: Path) -> None:
    """Spack lists all seven, and installs them into an empty tree."""
    environment = spack.tiny(f"file://{mirror}", signed=False)
    listed = spack("-e", environment, "buildcache", "list", "--allarch", "--long")
    assert listed.count("tiny-") == 7
    assert spack.install(environment) == 7


def test_an_index_made_anew(fresh_spack: Fresh, mirror: Path) -> None:
    assert update_index(FileStore(mirror)).named == 7
    uses(fresh_spack(), mirror)


@pytest.mark.parametrize("told", [True, False])
def test_an_index_that_grew(fresh_spack: Fresh, mirror: Path, *, told: bool) -> None:
    """First three binaries, then the others, found by a listing or told of."""
    store = FileStore(mirror)
    later = [listed for _, listed in list_manifests(store, 3)][3:]
    kept = {one.key: (mirror / one.key).read_bytes() for one in later}
    for one in later:
        (mirror / one.key).unlink()
    assert update_index(store).named == 3
    for key, data in kept.items():
        store.write(key, data)
    if told:
        metadata = []
        for dag_hash, listed in list_manifests(store, 3):
            binary = read_binary(store, 3, listed.key, dag_hash)
            assert binary.spec
            metadata.append(parse_metadata(store.read(binary.spec.key), "blob"))
        assert add_to_index(store, metadata).named == 7
    else:
        assert update_index(store).named == 7
    store.close()
    uses(fresh_spack(), mirror)


def test_the_same_records_as_spack(fresh_spack: Fresh, tmp_path: Path, mirror: Path) -> None:
    """Of small real binaries, and of sixty with deep closures."""
    spack = fresh_spack()
    deep = tmp_path / "deep"
    fill_mirror(deep, 60)
    for folder in (mirror, deep):
        copy = tmp_path / f"{folder.name}-of-spack"
        shutil.copytree(folder, copy)
        spack("buildcache", "update-index", str(copy))
        update_index(FileStore(folder))
        assert installs(folder) == installs(copy)
        # Ours in the place of Spack's, and Spack's in the place of ours.
        update_index(FileStore(copy))
        assert published(copy) == published(folder)
        spack("buildcache", "update-index", str(folder))
        assert installs(folder) == installs(copy)


def test_migrated_binaries(fresh_spack: Fresh, tmp_path: Path) -> None:
    """Nodes of an older Spack are rewritten as Spack rewrites them."""
    spack = fresh_spack()
    mirror = tmp_path / "old"
    shutil.copytree(DATA / "mirrors" / "v2-unsigned", mirror)
    spack("mirror", "add", "--unsigned", "old", f"file://{mirror}")
    spack("buildcache", "migrate", "--unsigned", "old")
    spack("buildcache", "update-index", str(mirror))
    spacks = installs(mirror)
    assert update_index(FileStore(mirror), full=True).problems == {}
    ours = installs(mirror)
    assert ours == spacks
    assert [list(one["spec"]) for one in ours.values()] == [
        list(spacks[key]["spec"]) for key in ours
    ]


def test_spack_prunes_what_nothing_names(fresh_spack: Fresh, mirror: Path) -> None:
    """It takes the state for what it is: a blob that a manifest names."""
    stray = hashlib.sha256(b"stray").hexdigest()
    path = mirror / "blobs" / "sha256" / stray[:2] / stray
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"stray")
    update_index(FileStore(mirror))
    spack = fresh_spack()
    spack("mirror", "add", "--unsigned", "m", f"file://{mirror}")
    spack("buildcache", "prune", "m")
    assert not path.exists()
    assert len(installs(mirror)) == 7  # reads index and state, and checks both
    assert not update_index(FileStore(mirror), now=lambda: 4e9).stale
    uses(fresh_spack(), mirror)


def test_the_key_index(fresh_spack: Fresh, tmp_path: Path) -> None:
    """Spack finds the key by it, and then takes what is signed with it."""
    mirror = tmp_path / "signed"
    shutil.copytree(DATA / "mirrors" / "v3-signed", mirror)
    (mirror / KEY_INDEX).unlink()
    store = FileStore(mirror)
    assert write_key_index(store) == 1
    update_index(store)
    store.close()
    spack = fresh_spack()
    environment = spack.tiny(f"file://{mirror}")
    spack("-e", environment, "buildcache", "keys", "--install", "--trust", "--force")
    assert spack.install(environment) == 7
