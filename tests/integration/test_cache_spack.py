"""The workflows for a cache, run with the real Spack against a registry with TLS."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, Stackyard
from github_runner import Job, Runner
from oci_backends import docker_registry
from real_spack import INDICES, PYTHON, SPACK, RealSpack, needs_spack
from signing import Signer, needs_gpg
from test_oci_spack import certificate  # noqa: F401 - a fixture
from tests_data import DATA

from stackyard.edges.stores.store import open_store, writable
from stackyard.lock import parse_lock
from stackyard.oci import MANIFESTS, SIGNATURE, digest_key, manifest_key, parse_image
from stackyard.workflows import target

pytestmark = needs_spack

COMMIT = json.loads((DATA / "tiny.spack.lock").read_bytes())["spack"]["commit"]
SOURCE = "https://github.com/octocat/cache"
NAMES = ["tiny-app", "tiny-base", *["tiny-data"] * 2, *["tiny-lib"] * 2, "tiny-tool"]


class Spacked(Runner):
    """Its setup-spack clones the Spack that the tests were given."""

    def __init__(self, folder: Path, project: Path) -> None:
        kept = {
            "SSL_CERT_FILE": os.environ["SSL_CERT_FILE"],
            "SPACK_USER_CACHE_PATH": f"{INDICES}-user",
            **({"SPACK_PYTHON": PYTHON} if PYTHON else {}),
        }
        super().__init__(folder, project, kept)
        self.actions["spack/setup-spack"] = self._set_up_spack

    @staticmethod
    def _set_up_spack(job: Job, inputs: Mapping[str, str]) -> None:
        path = job.workspace / inputs["spack_path"]
        clone = ["git", "clone", "--quiet", "--shared", SPACK, str(path)]
        subprocess.run(clone, check=True, capture_output=True)
        if packages := os.environ.get("STACKYARD_PACKAGES"):
            (path / "etc" / "spack" / "repos.yaml").write_text(
                f"repos:\n  builtin: {packages}/repos/spack_repo/builtin\n"
            )
        (job.temp / "env").write_text("SPACK_DISABLE_LOCAL_CONFIG=1\n")


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short name: the install trees in it are filled up to 128 characters."""
    with tempfile.TemporaryDirectory(prefix="gh-") as made:
        yield Path(made)


@pytest.fixture
def registry(certificate: tuple[Path, Path], tmp_path: Path) -> Iterator[str]:  # noqa: F811
    with docker_registry(tmp_path / "registry", tls=certificate) as host:
        base_image(host)
        yield host


def base_image(host: str) -> None:
    """``HOST/base:1``, with one file in it."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        entry = tarfile.TarInfo("etc/os-release")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"ID\n"))
    layer = gzip.compress(plain.getvalue())
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(plain.getvalue())}"]},
        }
    ).encode()
    store = writable(open_store(f"oci://{host}/base"))
    for data in (layer, config):
        store.write(digest_key(digest(data)), data)
    kind = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": described(f"{kind}.config.v1+json", config),
        "layers": [described(f"{kind}.layer.v1.tar+gzip", layer)],
    }
    store.write(manifest_key("1"), json.dumps(manifest).encode())
    store.close()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def described(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{digest(data)}", "size": len(data)}


def held(url: str) -> dict[str, int]:
    """Names of the binaries in the registry, with the number of their images' layers."""
    store = open_store(url)
    found = {}
    for one in store.list(MANIFESTS):
        if match := re.search("(tiny-.*)[.]spack$", one.key):
            found[match[1]] = len(parse_image(store.read(one.key), one.key).layers)
    store.close()
    return found


def notes(url: str) -> list[dict[str, str]]:
    """Annotations of all images."""
    store = open_store(url)
    keys = [one.key for one in store.list(MANIFESTS) if "tiny-" in one.key]
    found = [json.loads(store.read(key)).get("annotations", {}) for key in keys]
    store.close()
    return found


def named(found: Mapping[str, int]) -> list[str]:
    return sorted(re.match("tiny-[a-z]+", name)[0] for name in found)  # type: ignore[index]


def good(runner: Runner) -> None:
    for job in runner.jobs:
        assert not job.failed, job.said()


def new_key() -> tuple[str, bytes]:
    """The value of SPACK_SIGNING_KEY, and the public key."""
    signer = Signer()
    signer.key("CI")
    value = base64.b64encode(signer("--armor", "--export-secret-keys")).decode()
    public = signer.public("CI")
    signer.close()
    return value, public


def settings(host: str, *workflows: str) -> dict[str, Any]:
    system = {
        "name": "here",
        "runner": "debian-12",
        "target": "x86_64_v3",
        "base_image": f"{host}/base:1",
        "stacks": ["tiny"],
    }
    github = {"workflows": workflows, "mirror": f"oci://{host}/cache", "systems": [system]}
    spack = {"packages_ref": "ab" * 20, "checkout_version": COMMIT}
    return {"stackyard": {"github": github, "spack": spack}}


@pytest.fixture
def tiny(project: Project) -> Project:
    shutil.copytree(DATA / "tiny", project.root / "stacks" / "tiny")
    shutil.copy(DATA / "tiny.spack.lock", project.root / "stacks" / "tiny" / "spack.lock")
    with (project.root / "stacks/tiny/spack.yaml").open("a") as manifest:
        manifest.write("  ci:\n    pipeline-gen:\n    - any-job: {image: 'builder:1'}\n")
    return project


def spoil(root: Path, name: str) -> str:
    """Let the recipe of a package fail; gives what it was."""
    path = next(root.rglob(f"{name}/package.py"))
    text = path.read_text()
    start = "    def install(self, spec, prefix):\n"
    path.write_text(text.replace(start, f"{start}        raise InstallError('on purpose')\n"))
    return text


def test_build(
    tiny: Project,
    stackyard: Stackyard,
    registry: str,
    folder: Path,
    fresh_spack: Callable[[], RealSpack],
) -> None:
    """A failure, on from there, one spec of a pull request; and a Spack that installs all of it."""
    tiny.write("invoke.yaml", settings(registry, "build"))
    with (tiny.root / "stacks/tiny/spack.yaml").open("a") as manifest:
        manifest.write("  mirrors:\n    buildcache-destination: s3://example-binaries/tiny\n")
    stackyard("generate")
    url, path = f"oci://{registry}/cache", tiny.root / target("build")
    runner = Spacked(folder / "r", tiny.root)
    recipe = next((tiny.root / "stacks").rglob("tiny_lib/package.py"))
    old = spoil(tiny.root / "stacks", "tiny_lib")
    runner.run(path, "push")
    assert (runner.results["build"], runner.results["index"]) == ("failure", "success")
    assert "on purpose" in runner.named("build")[0].said()
    assert named(held(url)) == ["tiny-base", "tiny-data", "tiny-data"]

    recipe.write_text(old)
    runner.run(path, "pull_request")
    good(runner)
    assert len(held(url)) == 3

    runner.run(path, "push")
    good(runner)
    found = held(url)
    assert named(found) == NAMES
    assert min(found.values()) == 2  # the base image's, and the package's own
    stackyard("mirror.index", "--url", url, "--check")

    user = fresh_spack()
    environment = user.tiny(url, signed=False)
    assert user.install(environment) == 7
    prefix = user("-e", environment, "location", "--install-dir", "tiny-app").strip()
    assert "__spack_path_placeholder" not in (Path(prefix) / "bin" / "tiny-app").read_text()


def test_the_target_is_that_of_the_system(
    tiny: Project, stackyard: Stackyard, registry: str, folder: Path
) -> None:
    """A stack without a lock, whose manifest asks for no processor: this one's is not built for."""
    document = settings(registry, "build")
    document["stackyard"]["github"]["systems"][0]["target"] = "x86_64_v2"
    tiny.write("invoke.yaml", document)
    manifest = tiny.root / "stacks/tiny/spack.yaml"
    text = manifest.read_text().replace(
        "tiny-app\n  - tiny-data+extra\n  - tiny-lib@1.0", "tiny-base"
    )
    manifest.write_text(re.sub("  packages:\n.*\n.*target=x86_64_v3\n", "", text))
    (tiny.root / "stacks/tiny/spack.lock").unlink()
    stackyard("generate")
    runner = Spacked(folder / "r", tiny.root)
    runner.run(tiny.root / target("build"), "push")
    good(runner)
    (build,) = runner.named("build")
    lock = parse_lock((build.workspace / "stacks/tiny/spack.lock").read_bytes(), "made")
    assert {spec.target for spec in lock.specs.values()} == {"x86_64_v2"}
    assert named(held(f"oci://{registry}/cache")) == ["tiny-base"]


def test_share(  # noqa: PLR0917 - fixtures
    tiny: Project,
    stackyard: Stackyard,
    registry: str,
    folder: Path,
    tmp_path: Path,
    fresh_spack: Callable[[], RealSpack],
) -> None:
    """Another repository, which has an environment and nothing of ours, copies the workflow."""
    document = settings(registry, "share")
    document["stackyard"]["github"]["mirror"] = "shared"
    tiny.write("invoke.yaml", document)
    with (tiny.root / "stacks/tiny/spack.yaml").open("a") as manifest:
        manifest.write(
            f"  mirrors:\n    shared:\n      url: oci://{registry}/cache\n      signed: false\n"
            "      access_pair: {id_variable: GITHUB_USER, secret_variable: GITHUB_TOKEN}\n"
            "    buildcache-destination: s3://example-binaries/tiny\n"
        )
    stackyard("generate")
    other = tmp_path / "other"
    shutil.copytree(DATA / "tiny", other)
    shutil.copy(DATA / "tiny.spack.lock", other / "spack.lock")
    with (other / "spack.yaml").open("a") as manifest:  # as Mochi's sisters have it
        manifest.write(f"  mirrors:\n    ours: {{url: 'oci://{registry}/cache', signed: false}}\n")
    path = other / ".github/workflows/shared-cache.yml"
    path.parent.mkdir(parents=True)
    shutil.copy(tiny.root / target("share"), path)
    url = f"oci://{registry}/cache"
    runner = Spacked(folder / "r", other)
    runner.run(path, "pull_request")
    good(runner)
    assert runner.results == {"try": "success", "build": "skipped", "index": "skipped"}
    assert held(url) == {}

    old = spoil(other, "tiny_lib")
    runner.run(path, "push")
    (build,) = runner.named("build")
    assert build.step("Install the environment").code != 0
    assert runner.results["index"] == "success", build.said()
    assert named(held(url)) == ["tiny-base", "tiny-data", "tiny-data"]

    next(other.rglob("tiny_lib/package.py")).write_text(old)
    runner.run(path, "push")
    good(runner)
    found = held(url)
    assert named(found) == NAMES
    assert min(found.values()) == 2  # the base image's, and the package's own
    assert {one["org.opencontainers.image.source"] for one in notes(url)} == {SOURCE}
    stackyard("mirror.index", "--url", url, "--check")
    said = runner.named("build")[0].step("Install the environment").out
    assert said.count("Extracting") >= 3  # what was there already
    for job in runner.jobs:
        assert "recognisable" not in job.said()
    user = fresh_spack()
    assert user.install(user.tiny(url, signed=False)) == 7


@needs_gpg
def test_a_signed_cache(  # noqa: PLR0917 - fixtures
    tiny: Project,
    stackyard: Stackyard,
    registry: str,
    folder: Path,
    tmp_path: Path,
    fresh_spack: Callable[[], RealSpack],
) -> None:
    """Its own workflow fills it in two goes, another repository adds to it, each with its key."""
    ours, theirs = new_key(), new_key()
    url = f"oci://{registry}/cache"
    tiny.write("stacks/tiny/keys/ours.pub", ours[1])
    document = settings(registry, "build", "share")
    document["stackyard"]["github"]["signed"] = True
    tiny.write("invoke.yaml", document)
    with (tiny.root / "stacks/tiny/spack.yaml").open("a") as manifest:
        manifest.write("  mirrors:\n    buildcache-destination: s3://example-binaries/tiny\n")
    stackyard("generate")
    recipe = next((tiny.root / "stacks").rglob("tiny_tool/package.py"))
    old = spoil(tiny.root / "stacks", "tiny_tool")
    runner = Spacked(folder / "r", tiny.root)
    runner.secrets["SPACK_SIGNING_KEY"] = ours[0]
    runner.run(tiny.root / target("build"), "push")
    assert (runner.results["build"], runner.results["index"]) == ("failure", "success")
    assert len(held(url)) == 5
    said = [job.said() for job in runner.jobs]

    other = tmp_path / "other"
    shutil.copytree(DATA / "tiny", other / "env")
    shutil.copy(DATA / "tiny.spack.lock", other / "env" / "spack.lock")
    path = other / ".github/workflows/shared-cache.yml"
    path.parent.mkdir(parents=True)
    text = (tiny.root / target("share")).read_text()
    path.write_text(text.replace('ENVIRONMENT: "."', 'ENVIRONMENT: "env"'))
    sister = Spacked(folder / "s", other)
    sister.run(path, "push")
    assert "::error::The cache is signed." in sister.named("build")[0].said()
    assert not sister.named("build")[0].uses  # before anything was fetched
    sister.secrets["SPACK_SIGNING_KEY"] = theirs[0]
    sister.run(path, "push")
    good(sister)
    said += [job.said() for job in sister.jobs]
    assert named(held(url)) == NAMES
    assert all(SIGNATURE in one for one in notes(url))
    answer = stackyard("mirror.verify", "--url", url, code=6)
    assert answer.out.startswith("signatures that do not hold (2):\n")

    # Ours does not build with what nobody told it to trust; told so, it has nothing left to do.
    recipe.write_text(old)
    tiny.write("stacks/tiny/keys/theirs.pub", theirs[1])
    assert "(7 signed)" in stackyard("mirror.verify", "--url", url).err
    runner.run(tiny.root / target("build"), "push")
    good(runner)
    assert not any(value in text for value in (ours[0], theirs[0]) for text in said)
    user = fresh_spack()
    assert user.install(user.tiny(url, signed=False)) == 7
