"""The whole way of an image, with a real engine: from a signed mirror into a real registry."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import mirrors
import pytest
from conftest import DATA, Answer, Project, Stackyard
from containers import Engine
from mirror_server import MirrorServer, mirror_server
from real_spack import SPACK, needs_spack
from signing import needs_gpg

from stackyard.edges.stores.oci import OciStore
from stackyard.edges.stores.store import ANONYMOUS
from stackyard.lock import parse_lock
from stackyard.oci import manifest_key

pytestmark = needs_gpg

TINY = (DATA / "tiny.spack.lock").read_bytes()
HASHES = frozenset(parse_lock(TINY, "tiny.spack.lock").specs)
SECRET = "not-for-any-image"


class Ground(NamedTuple):
    """A project with the tiny stack, a mirror with much more, and an engine."""

    project: Project
    mirror: Path
    engine: Engine
    stackyard: Stackyard
    server: MirrorServer

    @property
    def name(self) -> str:
        return f"{self.engine.host}/demo/{self.project.root.parent.name.replace('_', '-')}"

    def build(self, *flags: str, source: str = "", code: int = 0) -> Answer:
        arguments = ["--network", "host", "--build-arg", f"FETCH_BASE={self.engine.fetcher}"]
        place = ["--from", source or self.server.url]
        return self.stackyard("image.build", *place, *arguments, *flags, code=code)

    def layers(self, name: str) -> list[str]:
        told: dict[str, Any] = json.loads(self.engine.podman("inspect", name))[0]
        layers: list[str] = told["RootFS"]["Layers"]
        return layers

    def files(self, name: str, place: str, into: Path) -> set[str]:
        """Paths below a folder of an image, as the engine copies them out of it."""
        made = self.engine.podman("create", name).strip()
        into.mkdir()
        self.engine.podman("cp", f"{made}:{place}", str(into / "copy"))
        return {path.relative_to(into / "copy").as_posix() for path in (into / "copy").rglob("*")}


@pytest.fixture
def ground(
    project: Project,
    engine: Engine,
    stackyard: Stackyard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Ground]:
    mirror = tmp_path / "mirror"
    shutil.copytree(DATA / "mirrors" / "v3-signed", mirror)
    others = mirrors.specs({f"other-{number}": [] for number in range(70)})
    mirrors.push(mirror, others, *others)
    project.stack(TINY, name="tiny", mirror="https://nowhere.example.com/tiny", view=False)
    project.write("stacks/other/spack.yaml", {"spack": {"specs": []}})
    (key,) = (DATA / "mirrors" / "v2-signed" / "build_cache" / "_pgp").glob("*.pub")
    project.write("stacks/tiny/keys/builds.pub", key.read_bytes())
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with mirror_server(mirror) as server:
        made = Ground(project, mirror, engine, stackyard, server)
        project.write("stacks/tiny/stack.yaml", settings(made))
        yield made


def settings(ground: Ground) -> dict[str, Any]:
    image = {"base": ground.engine.base, "repository": ground.name, "licenses": "MIT"}
    return {"image": image, "generate": {"requirement": "stackyard"}}


def registry_digest(name: str) -> str:
    repository, _, tag = name.rpartition(":")
    with closing(OciStore(f"oci+http://{repository}", ANONYMOUS)) as store:
        return store.digest_of(manifest_key(tag))


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    argv = ["git", "-C", str(root), *who, *arguments]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def test_from_a_signed_mirror_into_a_registry(
    ground: Ground, tmp_path: Path, *, long: bool
) -> None:
    root = ground.project.root
    git(root, "init", "--quiet")
    git(root, "remote", "add", "origin", "git@example.com:group/stacks.git")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "one")
    answer = ground.build("--tag", "sc26", "--tag", "latest")
    assert answer.out.split() == [f"{ground.name}:sc26", f"{ground.name}:latest"]
    assert "7 of 7 to fetch" in answer.err  # inside, from a mirror that has ten times as many
    assert git(root, "status", "--porcelain") == ""

    layers = ground.layers(f"{ground.name}:sc26")
    assert 41 <= len(layers) <= 100
    held = ground.files(f"{ground.name}:sc26", "/mirror", tmp_path / "a")
    manifests = [path for path in held if path.endswith(".spec.manifest.json")]
    assert {path.split("-")[-1].partition(".")[0] for path in manifests} == HASHES
    assert {path.partition("/")[0] for path in held} == {"blobs", "v3", "public.key"}

    tested = ground.stackyard("image.test", "--image", "sc26")
    assert "7 binaries, those of the lock and no more, 7 signed" in tested.err
    assert "it starts without a network as spack, who can read everything" in tested.err
    assert "the roots were not installed" in tested.err

    pushed = ground.stackyard("image.push", "--tag", "sc26", "--tag", "latest")
    digest = registry_digest(f"{ground.name}:sc26")
    assert pushed.out == f"{ground.name}@{digest}\n"
    assert registry_digest(f"{ground.name}:latest") == digest
    again = ground.stackyard("image.push", "--tag", "sc26", "--json")
    assert json.loads(again.out) == [{"image": f"{ground.name}:sc26", "digest": digest}]

    told = json.loads(ground.engine.podman("inspect", f"{ground.name}:sc26"))[0]
    labels = told["Config"]["Labels"]
    assert labels["org.opencontainers.image.revision"] == git(root, "rev-parse", "HEAD")
    assert labels["org.opencontainers.image.source"] == "https://example.com/group/stacks"
    assert labels["org.opencontainers.image.version"] == "sc26"
    assert labels["org.opencontainers.image.licenses"] == "MIT"
    assert labels["org.opencontainers.image.base.name"] == ground.engine.base
    assert labels["dev.stackyard.stack"] == "tiny"
    assert len(labels["dev.stackyard.spack-commit"]) == 40
    assert told["Config"]["User"] == "spack"
    assert SECRET not in json.dumps(told) + answer.err

    # Nothing of ours is left in it, and nobody changed rights afterwards.
    whole = ground.engine.podman(
        "run", "--rm", "--network=none", f"{ground.name}:sc26",
        *("find", "/opt", "/context", "/layers", "/usr/local/bin", "-mindepth", "1"), code=1,
    )  # fmt: skip
    assert whole == ""
    same_again(ground, *(["--no-cache"] if long else []))
    without_an_engine(ground, tmp_path)


def same_again(ground: Ground, *flags: str) -> None:
    """Another base, another time, fetched here: the layers with the mirror have the same digests."""
    root = ground.project.root
    folder = root / ".stackyard" / "image" / "tiny"
    old = ground.project.write(".stackyard/image/tiny/v3/manifests/spec/old", b"old")
    os.utime(root / "stacks/tiny/spack.lock", (1, 1))
    other = f"{ground.engine.base}-other"
    text = f"FROM {ground.engine.base}\nRUN useradd -m -u 1234 spack && touch ~spack/mine\n"
    ground.engine.podman("build", "--tag", other, "-", feed=text)
    ground.server.requests.clear()
    said = ground.build("--tag", "two", "--base", other, *flags, source=str(ground.mirror)).err
    assert "the build cannot see" in said
    assert ground.server.requests == []
    assert not old.exists()  # what an older lock wanted
    assert git(root, "status", "--porcelain") == ""
    one, two = ground.layers(f"{ground.name}:sc26"), ground.layers(f"{ground.name}:two")
    below, above = ground.layers(ground.engine.base), ground.layers(other)
    assert one[: len(below)] == below
    assert two[: len(above)] == above != one[: len(above)]
    assert one[len(below) :][:41] == two[len(above) :][:41]  # directly on the base
    ground.stackyard("image.test", "--image", "two")
    kept = ground.engine.podman("run", "--rm", f"{ground.name}:two", "sh", "-c", "id -u; ls ~")
    assert kept.split() == ["1234", "mine"]  # the base's own user
    shutil.rmtree(folder)


def without_an_engine(ground: Ground, tmp_path: Path) -> None:
    """The other way to build: it starts here too, and its mirror is the same, byte by byte."""
    base, made = tmp_path / "base.tar", tmp_path / "made.tar"
    ground.engine.podman("save", "--quiet", "--output", str(base), ground.engine.base)
    place = ("--from", ground.server.url, "--base", str(base), "--output", str(made))
    ground.stackyard("image.build", "--no-engine", "--tag", "plain", *place)
    loaded = ground.engine.podman("load", "--quiet", "--input", str(made)).split()[-1]
    ground.engine.podman("tag", loaded, f"{ground.name}:plain")
    ground.stackyard("image.test", "--image", "plain")
    ground.files(f"{ground.name}:plain", "/mirror", tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "a")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_what_is_tampered_with_stops_the_build(ground: Ground) -> None:
    lock = parse_lock(TINY, "tiny.spack.lock")
    victim = next(spec for spec in lock.specs.values() if spec.name == "tiny-tool")
    (manifest,) = ground.mirror.rglob(f"*{victim.hash}.spec.manifest.json")
    whole = manifest.read_bytes()
    manifest.write_bytes(whole.replace(b'"gzip"', b'"gzap"', 1))
    said = ground.build(code=5).err
    assert "the build failed at step 13 of 13, RUN stackyard image.layers" in said
    assert "tiny-tool" in said
    manifest.write_bytes(whole)
    blob = next(
        path for path in ground.mirror.glob("blobs/sha256/*/*") if path.name.encode() in whole
    )
    data = blob.read_bytes()
    blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    said = ground.build(code=5).err
    assert "the build failed at step 13 of 13, RUN stackyard image.layers" in said
    assert victim.hash[:7] in said or "tiny-tool" in said
    manifest.unlink()
    said = ground.build(code=5).err
    assert "1 of 7 binaries are missing" in said
    assert "tiny-tool" in said
    with pytest.raises(AssertionError, match="no such object"):
        ground.engine.podman("inspect", f"{ground.name}:latest")


def test_an_image_of_another_lock(ground: Ground) -> None:
    ground.engine.podman("tag", ground.engine.base, f"{ground.name}:latest")
    said = ground.stackyard("image.test", code=3).err
    assert "the image is of another lock" in said
    assert "run: invoke image.build" in ground.stackyard("image.test", "--image", "x", code=6).err


def test_a_registry_that_does_not_take_it(ground: Ground) -> None:
    ground.engine.podman("tag", ground.engine.base, f"{ground.name}:latest")
    flags = ("--repository", "127.0.0.1:1/demo/x")
    said = ground.stackyard("image.push", *flags, code=6).err
    assert "127.0.0.1:1/demo/x:latest" in said
    assert "was not made of the lock that stands here" in said


def test_what_is_wrong_in_an_image_is_found(ground: Ground) -> None:
    """One that somebody made otherwise: more files, other rights, another user, a failing test."""
    ground.build("--tag", "good")
    more = "touch /mirror/more && for f in /mirror/blobs/sha256/*/*; do echo x >> $f; break; done"
    said = derived(ground, f"RUN {more}\nUSER spack\n", code=6)
    assert "things are wrong in the image" in said
    assert "not of a mirror: more" in said
    assert "/mirror/blobs" not in said  # by its name in a mirror
    assert "blobs/sha256/" in said
    said = derived(ground, "", code=5)
    assert "the user is root, and not spack" in said
    said = derived(ground, "RUN chmod 600 /etc/spack/mirrors.yaml\nUSER spack\n", code=5)
    assert "cannot be read: /etc/spack/mirrors.yaml" in said
    script = "#!/bin/bash\\necho == first\\necho error: the section second failed >&2\\nexit 1\\n"
    fake = ground.project.write("spack/bin/spack", "#!/bin/sh\n").parent.parent
    repository = ground.project.write("packages/repo.yaml", "repo:\n  namespace: x\n").parent
    flags = ("--spack", str(fake), "--packages", str(repository))
    line = f"RUN printf '{script}' > /tutorial/.test/tutorial-test.sh\nUSER spack\n"
    said = derived(ground, line, *flags, code=5)
    assert "\n== first\n" in said
    assert "the test of the tutorial ended with 1: the section second failed" in said


def derived(ground: Ground, lines: str, *flags: str, code: int) -> str:
    """What ``image.test`` says of the image ``good`` after these lines of a Dockerfile."""
    text = f"FROM {ground.name}:good\nUSER root\n{lines}"
    ground.engine.podman("build", "--tag", f"{ground.name}:bad", "-", feed=text)
    return ground.stackyard("image.test", "--image", "bad", *flags, code=code).err


@needs_spack
def test_the_tutorials_commands_run(ground: Ground, tmp_path: Path) -> None:
    """The real Spack installs the roots from the image, without a network."""
    packages = os.environ.get("STACKYARD_PACKAGES")
    if not packages:
        pytest.skip("set STACKYARD_PACKAGES to a clone of Spack's packages")
    # Their build systems are enough; to look through all packages takes Spack a minute.
    builtin = tmp_path / "builtin" / "spack_repo" / "builtin"
    (builtin / "packages").mkdir(parents=True)
    theirs = Path(packages) / "repos" / "spack_repo" / "builtin"
    shutil.copy(theirs / "repo.yaml", builtin)
    shutil.copytree(theirs / "build_systems", builtin / "build_systems")
    tiny = DATA / "tiny" / "repo" / "spack_repo" / "tiny"
    ground.build()
    repositories = ("--packages", str(builtin), "--packages", str(tiny))
    said = ground.stackyard("image.test", "--spack", SPACK, *repositories).err
    assert "all 3 roots are on the mirror" in said
    assert "all 3 roots are installed" in said
    assert "6 sections passed, 1 omitted" in said
    assert f"{ground.name}:latest is proven" in said


def test_tools_and_what_fetching_needs_are_installed(ground: Ground, *, long: bool) -> None:
    """From Debian's own servers, in both stages; the image has none of their lists."""
    if not long:
        pytest.skip("packages from Debian's servers: --long")
    argv = ("run", "--rm", "--network=host", ground.engine.base, "bash", "-c")
    if "lost" in ground.engine.podman(*argv, "timeout 60 apt-get update >/dev/null || echo lost"):
        pytest.skip("Debian's servers are not reached")
    bare = f"{ground.engine.base}-bare"
    text = f"FROM {ground.engine.fetcher}\nRUN apt-get purge --yes gnupg python3.11-venv\n"
    ground.engine.podman("build", "--network=host", "--tag", bare, "-", feed=text)
    image = {**settings(ground)["image"], "tools": ["less", "patch"], "fetch_base": bare}
    ground.project.write("stacks/tiny/stack.yaml", {**settings(ground), "image": image})
    said = ground.stackyard("image.build", "--from", ground.server.url, "--network", "host").err
    assert "Setting up python3-venv" in said
    assert "Setting up less" in said
    name = f"{ground.name}:latest"
    look = "less --version | head -n 1; ls /var/lib/apt/lists; command -v pip stackyard || true"
    shown = ground.engine.podman("run", "--rm", name, "bash", "-c", look)
    assert re.fullmatch(r"less \d+ .*\n", shown)
    ground.stackyard("image.test")


def test_own_dockerfile_and_ignore_file(ground: Ground) -> None:
    """A project's Dockerfile is built, and it sees what its .dockerignore lets in."""
    text = f"FROM {ground.engine.base}\nCOPY . /seen\nARG STACK\nRUN ls -A /seen > /list\n"
    ground.project.write("docker/Dockerfile", text)
    ground.project.write(".dockerignore", "*\n!one\n")
    for name in ("one", "two"):
        ground.project.write(name, "text")
    ground.build()
    list_ = ground.engine.podman("run", "--rm", f"{ground.name}:latest", "cat", "/list").split()
    assert "one" in list_
    assert "two" not in list_
    assert "stacks" not in list_
