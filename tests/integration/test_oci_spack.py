"""A registry that the real Spack 1.1 writes and we read, and the other way round."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oci_backends import docker_registry
from real_spack import SPACK, RealSpack, needs_spack
from signing import Signer, needs_gpg
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
from stackyard.oci import SIGNATURE, Layer, digest_key, spec_tag

LOCK = parse_lock((DATA / "tiny.spack.lock").read_bytes(), "tiny")
WANTED = [spec for spec in LOCK.specs.values() if not spec.external]
FOLDER = DATA / "mirrors" / "v3-unsigned"
TOKEN = "a-word-to-keep"
BCRYPT = "$2b$05$abcdefghijklmnopqrstuuJFb8q08FRATJR.Izxqd8zktzSg/B7uy"  # of TOKEN


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


@pytest.fixture
def signing_key(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key for pushing, whose public part the stack trusts."""
    signer = Signer()
    signer.key("CI")
    value = base64.b64encode(signer("--armor", "--export-secret-keys")).decode()
    project.write("stacks/tiny/keys/ci.pub", signer.public("CI"))
    signer.close()
    monkeypatch.setenv("SPACK_SIGNING_KEY", value)


def notes_of(store: OciStore) -> dict[str, dict[str, str]]:
    """Those of all images, by DAG hash."""
    manifests = {dag_hash: store.read(one.key) for dag_hash, one in list_manifests(store, "oci")}
    return {key: json.loads(data)["annotations"] for key, data in manifests.items()}


@needs_spack
@needs_gpg
@pytest.mark.parametrize("pusher", ["push", "build", "copy"])
def test_spack_uses_what_we_signed_indexed_and_pruned(  # noqa: PLR0917
    pusher: str,
    certificate: tuple[Path, Path],
    builder: RealSpack,
    project: Any,
    signing_key: None,
    fresh_spack: Callable[[], RealSpack],
    stackyard: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """It sees nothing of the signatures, and its own index leaves them alone."""
    kept = {"tiny-base", "tiny-lib", "tiny-tool"}
    with docker_registry(tmp_path / "registry", tls=certificate) as host:
        url = f"oci://{host}/tiny"
        if pusher == "push":
            assert "7 pushed" in stackyard("push", "--stack", "tiny", "--to", url).err
        elif pusher == "build":
            stackyard("build", "--stack", "tiny", "--mirror", url, "--spack", SPACK)
        else:
            with (project.root / "stacks/tiny/spack.yaml").open("a") as manifest:
                manifest.write(
                    f"  mirrors:\n    unsigned: {{url: 'file://{FOLDER}', signed: false}}\n"
                )
            assert "7 sent" in stackyard("mirror.copy", "--url", "unsigned", "--to", url).err
        store = opened(url)
        notes = notes_of(store)
        assert len(notes) == 7
        assert all(SIGNATURE in one for one in notes.values())
        assert {key: one["dev.stackyard.hash"] for key, one in notes.items()} == {
            k: k for k in notes
        }
        assert "(7 signed)" in stackyard("mirror.verify", "--url", url).err

        # Where the entry says signed, too, which is how our tasks are told to demand signatures.
        for signed in (False, True):
            user = fresh_spack()
            assert user.install(user.tiny(url, signed=signed)) == 7

        stackyard("mirror.index", "--url", url, "--full")
        stackyard("mirror.prune", "--url", url, "--keep", "tiny-tool", "--yes")
        left = notes_of(store)
        assert left == {key: notes[key] for key in left}
        assert {one["dev.stackyard.name"] for one in left.values()} == kept
        user = fresh_spack()
        environment = user.tiny(url, signed=False)
        listed = user("-e", environment, "buildcache", "list", "--allarch", "--long")
        assert {
            line.split()[1].partition("@")[0] for line in listed.splitlines() if "@1" in line
        } == kept
        user("-e", environment, "install", "--cache-only", "--only-concrete", "tiny-tool")
        user("mirror", "add", "--unsigned", "registry", url)
        user("buildcache", "update-index", "registry")
        assert notes_of(store) == left
        assert f"({len(left)} signed)" in stackyard("mirror.verify", "--url", url).err

        # What plain Spack pushes then has no signature, and is told from what has one.
        add = ("-e", builder.tiny(url, signed=False), "buildcache", "push", "--unsigned", "m")
        builder(*add)
        found = notes_of(store)
        assert len(found) == 7
        assert {key for key, one in found.items() if SIGNATURE in one} == left.keys()
        store.close()
        said = stackyard("mirror.verify", "--url", url, code=6).out
        assert said.count("its image is not signed") == 7 - len(left)
        into = ("fetch", "--stack", "tiny", "--from", url, "--to", str(tmp_path / "into"))
        assert f"{7 - len(left)} binaries are refused" in stackyard(*into, code=6).err
        assert "7 fetched" in stackyard(*into, "--unsigned").err


@needs_spack
def test_a_token_in_a_file_is_all_that_a_push_wants(
    certificate: tuple[Path, Path],
    builder: RealSpack,
    stackyard: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From a machine without docker. Whoever has no token gets nothing, and learns why."""
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    with docker_registry(tmp_path / "registry", tls=certificate, users=f"me:{BCRYPT}") as host:
        push = ("push", "--stack", "tiny", "--to", f"oci://{host}/tiny", "--unsigned")
        stackyard(*push, code=6)
        monkeypatch.setenv("STACKYARD_OCI_REGISTRY", host)
        monkeypatch.setenv("STACKYARD_OCI_USER", "me")
        monkeypatch.setenv("STACKYARD_OCI_TOKEN_FILE", str(path))
        path.chmod(0o644)
        assert f"chmod 600 {path}" in stackyard(*push, code=2).err
        path.chmod(0o600)
        answer = stackyard(*push)
        assert "7 pushed" in answer.err
        assert TOKEN not in answer.err
        assert "7 manifests" in stackyard("mirror.doctor", "--url", push[4], code=None).out
    kept = [
        one for one in builder.folder.rglob("*") if one.is_file() and one.stat().st_size < 2**20
    ]
    assert not [one for one in kept if TOKEN.encode() in one.read_bytes()]


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
