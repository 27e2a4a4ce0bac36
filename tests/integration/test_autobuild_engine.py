"""A release as Docker Hub makes it, with a real engine: a clone of the tag, its hooks, a registry."""

from __future__ import annotations

import json
import shutil
from contextlib import closing

import pytest
from conftest import ROOT, Stackyard
from containers import Engine
from mirror_server import mirror_server
from releases import Ground, git
from signing import needs_gpg

from stackyard.edges.stores.oci import OciStore
from stackyard.edges.stores.store import ANONYMOUS
from stackyard.oci import manifest_key

pytestmark = needs_gpg

#: What hooks know as docker; it shares the network, since this engine has no bridge.
_DOCKER = """\
#!/bin/bash
if [ "$1" = build ]; then set -- build --network host "${{@:2}}"; fi
exec {podman} "$@"
"""


def test_a_release_that_hooks_build(
    stackyard: Stackyard, signed: Ground, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = signed.folder / "programs"
    programs.mkdir()
    docker = programs / "docker"
    docker.write_text(_DOCKER.format(podman=shutil.which("podman")))
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    for name, value in engine.variables.items():
        monkeypatch.setenv(name, value)

    base, repository = f"{engine.host}/hub/base:1", f"{engine.host}/hub/image"
    engine.podman("push", engine.base, base, "--digestfile", str(signed.folder / "digest"))
    digest = (signed.folder / "digest").read_text().strip()
    shutil.copytree(ROOT / "docker", signed.root / "docker")
    shutil.copy(ROOT / ".dockerignore", signed.root)
    image = {
        "base": f"{base}@{digest}",
        "repository": repository,
        "fetch_base": engine.fetcher,
        "licenses": "MIT",
    }
    signed.set(image=image, generate={"requirement": "stackyard"})
    stackyard("generate")
    signed.publish()
    stackyard("release", "--tag", "sc26", "--wait", "0")

    clone = signed.folder / "clone"
    more = ("--quiet", "--depth=1", "--branch=rev-sc26")
    git(signed.folder, "clone", *more, signed.origin.as_uri(), str(clone))
    with mirror_server(signed.mirror) as server, monkeypatch.context() as there:
        there.chdir(clone)
        there.setenv("REMOTE_BUILDCACHE_URL", server.url)
        said = stackyard("image.autobuild", "--docker-tag", "sc26, latest").err
    assert f"built {repository}:sc26, {repository}:latest, and pushed" in said
    assert git(clone, "status", "--porcelain") == ""

    told = json.loads(stackyard("release", "--tag", "sc26", "--wait", "1", "--json").out)
    assert told["state"] == "released"
    digests = [registry_digest(f"{repository}:{tag}") for tag in ("sc26", "latest")]
    assert digests == [told["images"][0]["digest"]] * 2
    labels = json.loads(engine.podman("inspect", f"{repository}:sc26"))[0]["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == "sc26"
    assert labels["org.opencontainers.image.base.digest"] == digest
    tested = stackyard("image.test", "--image", "sc26")
    assert "7 binaries, those of the lock and no more, 7 signed" in tested.err


def registry_digest(name: str) -> str:
    repository, _, tag = name.rpartition(":")
    with closing(OciStore(f"oci+http://{repository}", ANONYMOUS)) as store:
        return store.digest_of(manifest_key(tag))
