"""A registry that the real Spack 1.1 writes and we read, and the other way round."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oci_backends import docker_registry
from real_spack import RealSpack, needs_spack
from tests_data import DATA

from stackyard.binary import parse_metadata
from stackyard.edges.mirrors.images import find_layer, push_binary
from stackyard.edges.mirrors.indexing import update_index
from stackyard.edges.mirrors.inventory import take_inventories
from stackyard.edges.mirrors.layouts import find_binaries, list_manifests
from stackyard.edges.stores.access import Place
from stackyard.edges.stores.oci import OciStore
from stackyard.edges.stores.store import open_store
from stackyard.lock import parse_lock
from stackyard.mirror import SPEC_MANIFESTS, parse_manifest
from stackyard.oci import Layer, digest_key, spec_tag

LOCK = parse_lock((DATA / "tiny.spack.lock").read_bytes(), "tiny")
WANTED = [spec for spec in LOCK.specs.values() if not spec.external]
FOLDER = DATA / "mirrors" / "v3-unsigned"


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 and its key, that we trust and nobody else."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    files = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-out", str(files[0]), "-keyout", str(files[1])),
        ],
        check=True,
        capture_output=True,
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(files[0]))
    return files


@pytest.fixture(params=["oci", "oci+http"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    tls = request.getfixturevalue("certificate") if request.param == "oci" else None
    with docker_registry(tmp_path / "registry", tls=tls) as host:
        yield f"{request.param}://{host}/Group/tiny"


def opened(url: str) -> OciStore:
    store = open_store(url)
    assert isinstance(store, OciStore)
    return store


def push_all(store: OciStore) -> None:
    """Every binary of the mirror in the folder, dependencies first."""
    binaries = []
    for path in (FOLDER / SPEC_MANIFESTS).rglob("*.spec.manifest.json"):
        tarball, spec = parse_manifest(path.read_bytes(), path.name).records
        data = (FOLDER / digest_key(spec.checksum)).read_bytes()
        binaries.append((parse_metadata(data, path.name), FOLDER / digest_key(tarball.checksum)))
    layers: dict[str, Layer] = {}
    for metadata, file in sorted(binaries, key=lambda binary: len(binary[0].nodes)):
        layers[metadata.hash] = push_binary(store, metadata, file, dependencies=layers)


@needs_spack
def test_we_read_what_spack_pushed(fresh_spack: Callable[[], RealSpack], url: str) -> None:
    spack = fresh_spack()
    environment = spack.tiny(f"file://{FOLDER}", signed=False)
    assert spack.install(environment) == 7
    spack("mirror", "add", "--unsigned", "registry", url)
    spack("-e", environment, "buildcache", "push", "--unsigned", "--update-index", "registry")
    store = opened(url)
    search = find_binaries(store, WANTED, specs=LOCK.specs)
    assert search.missing == ()
    assert dict(list_manifests(store, "oci")).keys() == search.binaries.keys()
    for dag_hash, binary in search.binaries.items():
        assert binary.spec
        assert parse_metadata(store.read(binary.spec.key), "x").hash == dag_hash
        data = store.read(binary.tarball.key)
        assert hashlib.sha256(data).hexdigest() == binary.tarball.checksum
        assert find_layer(store, LOCK.specs[dag_hash])
    store.close()
    (inventory,) = take_inventories(
        [Place("registry", url)], WANTED, index_only=True, progress=lambda _: None
    )
    assert len(inventory.found) == 7


@needs_spack
def test_spack_uses_what_we_pushed(fresh_spack: Callable[[], RealSpack], url: str) -> None:
    """Spack 1.1 looks for the index of ``oci+http`` in the wrong place, and installs without it."""
    store = opened(url)
    push_all(store)
    update_index(store)
    store.close()
    spack = fresh_spack()
    environment = spack.tiny(url, signed=False)
    if url.startswith("oci://"):
        listed = spack("-e", environment, "buildcache", "list", "--allarch", "--long")
        assert listed.count("tiny-") == 7
    assert spack.install(environment) == 7


@needs_spack
def test_spack_pushes_to_what_we_pushed(
    fresh_spack: Callable[[], RealSpack], certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """It finds our images there, sends nothing again, and indexes them with its own."""
    spack = fresh_spack()
    environment = spack.tiny(f"file://{FOLDER}", signed=False)
    assert spack.install(environment) == 7
    with docker_registry(tmp_path / "registry", tls=certificate) as host:
        url = f"oci://{host}/tiny"
        store = opened(url)
        push_all(store)
        last = next(spec for spec in WANTED if spec.name == "tiny-app")
        store.delete(f"manifests/{spec_tag(last)}")
        spack("mirror", "add", "--unsigned", "registry", url)
        push = ("-e", environment, "buildcache", "push", "--unsigned", "--update-index")
        said = spack(*push, "registry")
        assert "1 specs need to be pushed" in said
        assert len(find_binaries(store, WANTED, specs=LOCK.specs).binaries) == 7
        store.close()
        spack("buildcache", "update-index", "registry")
        listed = spack("buildcache", "list", "--allarch", "--long")
        assert listed.count("tiny-") == 7


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
def test_our_images_are_images(tmp_path: Path) -> None:
    """Other tools can read and unpack them."""
    with docker_registry(tmp_path / "registry") as host:
        store = opened(f"oci+http://{host}/tiny")
        push_all(store)
        store.close()
        app = next(spec for spec in WANTED if spec.name == "tiny-app")
        image = f"docker://{host}/tiny:{spec_tag(app)}"
        skopeo = ("skopeo", "--insecure-policy")
        inspect = [*skopeo, "inspect", "--tls-verify=false", image]
        told = json.loads(subprocess.run(inspect, check=True, capture_output=True).stdout)
        assert told["Architecture"] == "amd64"
        assert told["Env"] == ["PATH=/bin:/usr/bin"]
        assert len(told["Layers"]) == 5
        archive = f"docker-archive:{tmp_path}/image.tar"
        copy = [*skopeo, "copy", "--src-tls-verify=false", image, archive]
        subprocess.run(copy, check=True, capture_output=True)
        assert (tmp_path / "image.tar").stat().st_size > 10_000
