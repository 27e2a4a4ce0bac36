"""A project that can be released: real git with a bare remote, binaries on a mirror, a registry.

A plugin (see conftest), so that all files about releases share the fixtures.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import DATA, Project, Stackyard
from fake_registry import FakeRegistry, fake_registry

from stackyard.edges.stores.oci import OciStore
from stackyard.edges.stores.store import ANONYMOUS
from stackyard.image_names import parse_image_name
from stackyard.oci import CONFIG_TYPE, INDEX_TYPES, LAYER_TYPE, MANIFEST_TYPE, manifest_key
from stackyard.oci import descriptor as described
from stackyard.release import LOCK_LABEL, REVISION_LABEL

DIGEST = f"sha256:{'a' * 64}"
BASE = f"debian:12@{DIGEST}"
SIGNED, UNSIGNED = DATA / "mirrors" / "v3-signed", DATA / "mirrors" / "v3-unsigned"
#: Nobody's configuration of git, and somebody's name.
IDENTITY = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{who}_NAME": "Rel Ease" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "rel@example.org" for who in ("AUTHOR", "COMMITTER")},
}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Ground:
    """A clone with the stack ``tiny``, whose binaries are on a mirror, and its bare remote."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project, self.root, self.folder = project, project.root, folder
        self.origin, self.mirror = folder / "origin.git", folder / "mirror"
        self.settings: dict[str, Any] = {}
        self.signed = False
        git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(self.origin))
        git(self.root, "init", "--quiet", "--initial-branch=main")
        git(self.root, "remote", "add", "origin", str(self.origin))
        shutil.copytree(UNSIGNED, self.mirror)
        self.stack("tiny")
        self.publish()

    def stack(self, name: str, mirror: Path | None = None) -> None:
        manifest = (DATA / "tiny" / "spack.yaml").read_text()
        url = (mirror or self.mirror).as_uri()
        signed = str(self.signed).lower()
        manifest += f"  mirrors: {{buildcache-destination: {{url: '{url}', signed: {signed}}}}}\n"
        self.project.write(f"stacks/{name}/spack.yaml", manifest)
        lock = (DATA / "tiny.spack.lock").read_bytes()
        self.project.write(f"stacks/{name}/spack.lock", lock)

    def set(self, **settings: Any) -> None:
        """These settings, committed and pushed."""
        self.settings |= settings
        self.publish()

    def publish(self) -> str:
        """All that there is, committed and pushed; gives the commit."""
        self.project.write("invoke.yaml", {"stackyard": self.settings})
        git(self.root, "add", "--all")
        git(self.root, "commit", "--quiet", "--allow-empty", "--message=x")
        git(self.root, "push", "--quiet", str(self.origin), "HEAD:main")
        return self.commit

    @property
    def commit(self) -> str:
        return git(self.root, "rev-parse", "HEAD")

    @property
    def lock_digest(self) -> str:
        return sha256((self.root / "stacks/tiny/spack.lock").read_bytes())

    def tags(self) -> list[str]:
        """Those of the remote."""
        return git(self.origin, "tag").split()

    def message(self, name: str) -> str:
        return git(self.origin, "cat-file", "tag", name).partition("\n\n")[2]

    def nothing_tagged(self) -> None:
        assert self.tags() == []
        assert git(self.root, "tag") == ""

    def manifest(self, name: str) -> Path:
        """The manifest of a binary."""
        return next((self.mirror / "v3/manifests/spec" / name).glob("*.json"))


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def ground(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)
    return Ground(project, tmp_path)


@pytest.fixture
def signed(ground: Ground) -> Ground:
    """The same with a signed mirror, and its public key in the stack."""
    shutil.rmtree(ground.mirror)
    shutil.copytree(SIGNED, ground.mirror)
    ground.signed = True
    ground.stack("tiny")
    key = json.loads(key_manifest(ground).read_text())["data"][0]["checksum"]
    data = (ground.mirror / "blobs/sha256" / key[:2] / key).read_bytes()
    ground.project.write("stacks/tiny/keys/ours.pub", data)
    ground.publish()
    return ground


def key_manifest(ground: Ground) -> Path:
    return next((ground.mirror / "v3/manifests/key").glob("*.key.manifest.json"))


class Hub:
    """A registry into which a builder pushes images."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.name = parse_image_name(f"{host}/owner/stack")

    def push(self, tag: str, *labels: dict[str, str]) -> str:
        """An image; for several labels one of as many platforms. Gives its digest."""
        store = OciStore(self.name.url, ANONYMOUS, sleep=lambda _: None)
        manifests = [self._image(store, one) for one in labels]
        if len(manifests) == 1:
            data = manifests[0]
        else:
            for one in manifests:
                store.write(manifest_key(sha256(one)), one)
            data = self._choice(manifests)
        store.write(manifest_key(tag), data)
        store.close()
        return sha256(data)

    def _image(self, store: OciStore, labels: dict[str, str]) -> bytes:
        config = json.dumps({"config": {"Labels": labels}, "os": "linux"}).encode()
        for data in (config, b"layer"):
            store.write(described(data, "").blob.key, data)
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": described(config, CONFIG_TYPE).to_json(),
            "layers": [described(b"layer", LAYER_TYPE).to_json()],
        }
        return json.dumps(document).encode()

    def _choice(self, manifests: list[bytes]) -> bytes:
        entries = [
            {**described(one, MANIFEST_TYPE).to_json(), "platform": {"os": "linux"}}
            for one in manifests
        ]
        # What BuildKit puts there to tell how it built.
        entries[-1]["platform"] = {"os": "unknown", "architecture": "unknown"}
        document = {"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": entries}
        return json.dumps(document).encode()


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        yield server


class Imaged(Ground):
    """With an image."""

    hub: Hub

    @property
    def labels(self) -> dict[str, str]:
        return {REVISION_LABEL: self.commit, LOCK_LABEL: self.lock_digest}


def imaged(ground: Ground, stackyard: Stackyard, host: str) -> Imaged:
    ground.__class__ = Imaged
    assert isinstance(ground, Imaged)
    ground.hub = Hub(host)
    ground.set(image={"base": BASE, "repository": f"{host}/owner/stack"})
    stackyard("generate")
    ground.publish()
    return ground
