"""``image.build --no-engine``: what comes out, where it goes, and what is sent a second time."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import base_images
import pytest
from conftest import DATA, Project, Stackyard
from locks import document
from mirrors import push as push_binaries
from mirrors import specs

from stackyard.edges.images.base import open_base
from stackyard.edges.images.system import read_system
from stackyard.edges.stores.oci import OciStore
from stackyard.edges.stores.store import ANONYMOUS
from stackyard.errors import CorruptError
from stackyard.oci import manifest_key

TINY = (DATA / "tiny.spack.lock").read_bytes()
MIRROR = DATA / "mirrors" / "v3-unsigned"
ARM = {"platform": "linux", "platform_os": "debian12", "target": "aarch64"}

Build = Callable[..., str]


class Layout:
    """A written image, read the plain way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = json.loads((folder / "index.json").read_bytes())

    def blob(self, digest: str) -> bytes:
        data = (self.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()
        assert base_images.digest(data) == digest
        return data

    def manifest(self, number: int = 0) -> dict[str, Any]:
        top = json.loads(self.blob(self.index["manifests"][0]["digest"]))
        if "manifests" in top:
            top = json.loads(self.blob(top["manifests"][number]["digest"]))
        made: dict[str, Any] = top
        return made

    def config(self, number: int = 0) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(self.blob(self.manifest(number)["config"]["digest"]))
        return made

    def layers(self, number: int = 0) -> list[str]:
        return [layer["digest"] for layer in self.manifest(number)["layers"]]

    def files(self, number: int = 0, start: int = 2) -> dict[str, bytes]:
        """All files of our layers; none lies in two."""
        found: dict[str, bytes] = {}
        layers = self.manifest(number)["layers"][start:]
        kinds = [layer["mediaType"].partition(".tar")[2] for layer in layers]
        assert kinds == [*[""] * (len(layers) - 1), "+gzip"]
        for layer in layers:
            for name, data in _files(self.blob(layer["digest"])).items():
                assert name not in found
                found[name] = data
        return found


def _files(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:  # packed or not
        members = [member for member in tar if member.isfile()]
        return {one.name: (tar.extractfile(one) or io.BytesIO()).read() for one in members}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKYARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return base_images.layout(tmp_path / "base")


@pytest.fixture
def build(stackyard: Stackyard, project: Project, base: Path) -> Build:
    """Runs ``image.build --no-engine`` for the tiny stack; what it said."""
    settings = {"image": {"base": "registry.example.com/debian:12", "licenses": "MIT"}}
    project.write("invoke.yaml", {"stackyard": settings})
    project.stack(TINY, name="tiny")

    def run(*flags: str, source: object = MIRROR, onto: object = base, code: int = 0) -> str:
        argv = ["image.build", "--no-engine", "--from", str(source), "--unsigned", *flags]
        answer = stackyard(*argv, *(["--base", str(onto)] if onto else []), code=code)
        return answer.out + answer.err

    return run


def test_an_image_in_a_folder(build: Build, base: Path, tmp_path: Path) -> None:
    said = build("--output", str(tmp_path / "out"), "--tag", "sc26")
    made = Layout(tmp_path / "out")
    config = made.config()
    assert config["config"] == {
        "Env": ["PATH=/usr/bin", "BASE=yes"],
        "User": "spack",
        "WorkingDir": "/home/spack",
        "Cmd": ["bash"],
        "Labels": {
            "vendor": "us",
            "org.opencontainers.image.title": "tiny",
            "org.opencontainers.image.version": "sc26",
            "org.opencontainers.image.licenses": "MIT",
            "org.opencontainers.image.base.digest": Layout(base).index["manifests"][0]["digest"],
            "dev.stackyard.stack": "tiny",
            "dev.stackyard.spack-commit": "2e907202bcc8209a6a62243aab50c179b524cc3b",
            "dev.stackyard.lock-digest": base_images.digest(TINY),
        },
    }
    assert config["created"] == "2026-09-21T14:13:20Z"
    assert made.layers()[:2] == Layout(base).layers()
    *plain, last = made.layers()[2:]
    assert config["rootfs"]["diff_ids"][2:] == [
        *plain,
        base_images.digest(gzip.decompress(made.blob(last))),
    ]
    assert len(config["history"]) == len(made.layers()) == 9
    digest = made.index["manifests"][0]["digest"]
    assert f"localhost/tiny:sc26@{digest}" in said
    annotations = made.index["manifests"][0]["annotations"]
    assert annotations["org.opencontainers.image.ref.name"] == "sc26"
    files = made.files()
    assert files["etc/passwd"].decode() == (
        base_images.PASSWD + "spack:x:1000:1000::/home/spack:/bin/bash\n"
    )
    assert files["home/spack/.profile"] == b"new"
    assert "home/spack/.gone" not in files
    assert files["usr/share/stack/spack.lock"] == TINY


def test_no_more_layers_than_every_engine_takes(build: Build, tmp_path: Path) -> None:
    """Binaries take the room that the base leaves, and one without room is refused."""
    deep = [*base_images.SYSTEM, *({f"opt/{number}": ""} for number in range(94))]
    build(
        "--output", str(tmp_path / "out"), onto=base_images.layout(tmp_path / "deep", system=deep)
    )
    assert len(Layout(tmp_path / "out").layers()) == 100
    deep += [{"opt/more": ""}, {"opt/most": ""}]
    full = base_images.layout(tmp_path / "full", system=deep)
    said = build("--output", str(tmp_path / "none"), onto=full, code=2)
    assert "the base has 98 layers, and an image may have 100" in said
    assert not (tmp_path / "none").exists()


def test_both_ways_hold_the_same(
    build: Build, stackyard: Stackyard, tmp_path: Path, project: Project
) -> None:
    """What a Dockerfile copies, layer by layer, is what lies in our layers."""
    build("--output", str(tmp_path / "out"))
    folder = tmp_path / "layers"
    argv = ["--to", str(folder), "--from", str(MIRROR), "--unsigned"]
    stackyard("image.layers", *argv, "--created", "2026-09-21T14:13:20Z")
    made = Layout(tmp_path / "out")
    theirs = [
        {
            path.relative_to(one).as_posix(): path.read_bytes()
            for path in one.rglob("*")
            if path.is_file()
        }
        for one in sorted(folder.iterdir())
        if one.name != ".mirror"
    ]
    ours = [_files(made.blob(layer)) for layer in made.layers()[3:]]
    assert ours == [files for files in theirs if files]
    assert (project.root / ".stackyard" / "layers" / ".gitignore").read_text() == "*\n"


def test_two_builds_give_the_same_bytes(build: Build, project: Project, tmp_path: Path) -> None:
    archives = []
    for number in range(2):
        shutil.rmtree(project.root / ".stackyard", ignore_errors=True)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        build("--output", str(tmp_path / f"{number}.tar"))
        archives.append((tmp_path / f"{number}.tar").read_bytes())
    assert archives[0] == archives[1]


def test_an_archive(build: Build, tmp_path: Path) -> None:
    build("--output", str(tmp_path / "image.tar"), "--tag", "one", "--tag", "example.com/x:two")
    build("--output", str(tmp_path / "out"), "--tag", "one", "--tag", "example.com/x:two")
    with tarfile.open(tmp_path / "image.tar") as tar:
        tar.extractall(tmp_path / "unpacked")  # noqa: S202 - what we have just made
    unpacked, made = Layout(tmp_path / "unpacked"), Layout(tmp_path / "out")
    assert unpacked.index == made.index
    assert unpacked.files() == made.files()
    docker = json.loads((tmp_path / "unpacked" / "manifest.json").read_bytes())[0]
    assert docker["RepoTags"] == ["localhost/tiny:one", "example.com/x:two"]
    assert [f"sha256:{path.rpartition('/')[2]}" for path in docker["Layers"]] == made.layers()
    assert docker["Config"] == f"blobs/sha256/{made.manifest()['config']['digest'][7:]}"


def test_a_second_image_in_the_same_folder(build: Build, project: Project, tmp_path: Path) -> None:
    """Blobs that it shares with the first stay, those that it lacks go."""
    build("--output", str(tmp_path / "out"))
    blobs = tmp_path / "out" / "blobs" / "sha256"
    first = {path.name: path.stat().st_mtime_ns for path in blobs.iterdir()}
    lock = json.loads(TINY)
    lock["roots"] = [one for one in lock["roots"] if one["spec"].startswith("tiny-data")]
    project.stack(lock, name="tiny")
    build("--output", str(tmp_path / "out"))
    second = {path.name: path.stat().st_mtime_ns for path in blobs.iterdir()}
    made = Layout(tmp_path / "out")
    assert set(second) == {
        one.removeprefix("sha256:")
        for one in (
            *made.layers(),
            made.manifest()["config"]["digest"],
            made.index["manifests"][0]["digest"],
        )
    }
    shared = first.keys() & second.keys()
    assert {made.layers()[0][7:], made.layers()[3][7:]} <= shared
    assert all(first[name] == second[name] for name in shared)


def test_several_platforms(
    stackyard: Stackyard, project: Project, tmp_path: Path, registry: str
) -> None:
    nodes = specs({"x": [], "y": []})
    arm = {**nodes["y"], "arch": ARM}
    del arm["hash"]
    from benchmarks.indexing import true_hash

    arm["hash"] = true_hash(arm)
    both = {"x": nodes["x"], "y": arm}
    push_binaries(tmp_path / "mirror", both, "x", "y")
    lock = document(list(both.values()))
    lock["roots"] = [{"hash": one["hash"], "spec": name} for name, one in both.items()]
    project.write("invoke.yaml", {"stackyard": {"image": {"base": "debian"}}})
    project.stack(lock)
    base = base_images.layout(tmp_path / "base", ("arm64", "amd64"))
    argv = ["image.build", "--no-engine", "--from", str(tmp_path / "mirror"), "--unsigned"]
    argv += ["--base", str(base), "--output", str(tmp_path / "out")]
    stackyard(*argv)  # all that the lock is for
    made = Layout(tmp_path / "out")
    top = json.loads(made.blob(made.index["manifests"][0]["digest"]))
    assert [one["platform"]["architecture"] for one in top["manifests"]] == ["amd64", "arm64"]
    for number, (name, target) in enumerate((("x", b"x86_64_v3"), ("y", b"aarch64"))):
        files = made.files(number)
        assert made.config(number)["architecture"] == ("amd64", "arm64")[number]
        assert target in files["etc/spack/packages.yaml"]
        found = [path for path in files if path.endswith(".spec.manifest.json")]
        assert [path.split("/")[-2] for path in found] == [name]
    # In a registry the tag is of the choice, and both images are there.
    stackyard(*argv, "--push", "--tag", f"{registry}/both-{arm['hash']}:1")
    digest, pushed = read_pushed(f"{registry}/both-{arm['hash']}:1")
    assert digest == Layout(tmp_path / "out").index["manifests"][0]["digest"]
    for one in pushed["manifests"]:
        assert read_pushed(f"{registry}/both-{arm['hash']}@{one['digest']}")[0] == one["digest"]
    stackyard(*argv, "--platform", "linux/arm64")
    assert Layout(tmp_path / "out").config()["architecture"] == "arm64"


# Bases.


def test_a_base_in_an_archive(build: Build, base: Path, tmp_path: Path) -> None:
    build("--output", str(tmp_path / "one"))
    packed = base_images.archive(tmp_path / "base.tar", base)
    build("--output", str(tmp_path / "two"), onto=packed)
    assert Layout(tmp_path / "one").index == Layout(tmp_path / "two").index


def test_a_base_of_docker_save(build: Build, tmp_path: Path) -> None:
    build("--output", str(tmp_path / "out"), onto=base_images.docker_archive(tmp_path / "old.tar"))
    made = Layout(tmp_path / "out")
    assert (
        made.layers()[0]
        == made.layers()[1]
        == base_images.digest(base_images.layer_tar(base_images.SYSTEM[0]))
    )
    assert made.config()["rootfs"]["diff_ids"][:-1] == made.layers()[:-1]
    assert made.files()["home/spack/.profile"] == b"old"


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_a_damaged_base(build: Build, base: Path, tmp_path: Path) -> None:
    layer = Layout(base).layers()[0]
    damage(base / "blobs" / "sha256" / layer[7:])
    assert "a layer is not what its digest says" in build("--output", str(tmp_path / "o"), code=6)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("make", "code", "problem"),
    [
        pytest.param(lambda folder: folder / "nothing", 2, "no such file", id="nothing"),
        pytest.param(lambda folder: folder, 6, "no image is in there", id="an empty folder"),
        pytest.param(
            lambda folder: _written(folder / "x.tar", gzip.compress(b"x" * 2000)),
            6,
            "it is no tar archive",
            id="a packed archive",
        ),
        pytest.param(
            lambda folder: base_images.layout(folder / "arm", ("arm64",)),
            6,
            "the image is for linux/arm64, and not for amd64",
            id="other processors",
        ),
        pytest.param(
            lambda folder: base_images.layout(folder / "arm", ("arm64", "ppc64le")),
            6,
            "not for amd64, only for arm64, ppc64le",
            id="other processors to choose from",
        ),
    ],
)
def test_a_wrong_base(
    build: Build, tmp_path: Path, make: Callable[[Path], Path], code: int, problem: str
) -> None:
    (tmp_path / "wrong").mkdir()
    said = build("--output", str(tmp_path / "o"), onto=make(tmp_path / "wrong"), code=code)
    assert problem in said


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"rootfs": {"diff_ids": []}}, "does not name the layers"),
        ({"history": {}}, ""),
        ({"config": [1]}, "config has the wrong shape"),
        ({"rootfs": None}, "does not name the layers"),
    ],
)
def test_a_hostile_configuration(tmp_path: Path, change: Mapping[str, Any], problem: str) -> None:
    folder = base_images.layout(tmp_path / "base")
    made = Layout(folder)
    manifest, config = made.manifest(), {**made.config(), **change}
    data = json.dumps(config).encode()
    manifest["config"] |= {"digest": base_images.digest(data), "size": len(data)}
    top = json.dumps(manifest).encode()
    for blob in (data, top):
        (folder / "blobs" / "sha256" / base_images.digest(blob)[7:]).write_bytes(blob)
    made.index["manifests"][0] |= {"digest": base_images.digest(top), "size": len(top)}
    (folder / "index.json").write_text(json.dumps(made.index))
    if not problem:
        assert open_base(str(folder), "amd64", tmp_path).config.platform.architecture == "amd64"
        return
    with pytest.raises(CorruptError, match=problem):
        open_base(str(folder), "amd64", tmp_path)


@pytest.mark.parametrize(
    ("above", "expected"),
    [
        ({"etc/skel/.wh..wh..opq": "", "etc/skel/.new": "n"}, ["etc/skel/.new"]),
        ({".wh.etc": ""}, []),
        ({"etc/.wh.skel": ""}, []),
        ({"etc/skel/.profile": "new"}, ["etc/skel/.gone", "etc/skel/.profile"]),
    ],
)
def test_what_upper_layers_hide(
    tmp_path: Path, above: Mapping[str, str], expected: list[str]
) -> None:
    folder = base_images.layout(tmp_path / "base", system=[base_images.SYSTEM[0], above])
    found = read_system(open_base(str(folder), "amd64", tmp_path), tmp_path / "cache")
    assert sorted(name for name in found if "skel" in name) == expected
    assert ("etc/passwd" in found) == (".wh.etc" not in above)


def test_users_are_remembered(tmp_path: Path) -> None:
    folder = base_images.layout(tmp_path / "base")
    base = open_base(str(folder), "amd64", tmp_path / "cache")
    first = read_system(base, tmp_path / "cache")
    assert sorted(first) == ["etc/group", "etc/passwd", "etc/skel/.profile"]
    shutil.rmtree(folder)
    assert read_system(base, tmp_path / "cache") == first


# What cannot be.


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ((), "add --output FILE.tar"),
        (("--push",), "localhost/tiny:latest names no registry"),
        (("--output", "x.tar", "--network", "host"), "it is for engines"),
        (("--output", "x.tar", "--build-arg", "TOOLS=git"), "--build-arg: it is for a Dockerfile"),
    ],
)
def test_what_is_refused(build: Build, flags: tuple[str, ...], problem: str) -> None:
    assert problem in build(*flags, code=2)


def test_a_folder_with_other_things(build: Build, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    said = build("--output", str(tmp_path / "mine"), code=2)
    assert "the folder holds something, and no image" in said
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


def test_a_base_with_many_layers(build: Build, tmp_path: Path) -> None:
    """All in all there are never more than a hundred."""
    many = base_images.layout(
        tmp_path / "many", system=[{"etc/passwd": "", f"opt/{number}": "x"} for number in range(95)]
    )
    build("--output", str(tmp_path / "out"), onto=many)
    made = Layout(tmp_path / "out")
    assert len(made.layers()) == 100
    assert len([name for name in made.files(start=95) if name.endswith(".manifest.json")]) == 8


def test_tools_want_an_engine(build: Build, project: Project, tmp_path: Path) -> None:
    settings = {"image": {"base": "debian:12", "tools": ["git"]}}
    project.write("invoke.yaml", {"stackyard": settings})
    said = build("--output", str(tmp_path / "o"), onto="", code=2)
    assert "tools cannot be installed without a container engine" in said
    assert "name a base that has them" in said
    build("--output", str(tmp_path / "o"))  # this base has them


def test_what_is_missing_stops_it(build: Build, tmp_path: Path) -> None:
    mirror = Path(shutil.copytree(MIRROR, tmp_path / "mirror"))
    next(mirror.rglob("tiny-tool*.spec.manifest.json")).unlink()
    said = build("--output", str(tmp_path / "o.tar"), source=mirror, code=6)
    assert "tiny-tool@1.1/r5szqo2" in said
    assert not (tmp_path / "o.tar").exists()


# Registries.


@pytest.fixture
def published(registry: str, tmp_path: Path) -> Iterator[str]:
    """The name of a base in a real registry; a choice of platforms."""
    folder = base_images.layout(tmp_path / "published", ("arm64", "amd64"))
    name = f"base-{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}"
    store = OciStore(f"oci+http://{registry}/{name}", ANONYMOUS)
    for architecture in ("arm64", "amd64"):
        manifest, others = base_images.blobs(architecture)
        for data in others:
            checksum = hashlib.sha256(data).hexdigest()
            store.write(f"blobs/sha256/{checksum[:2]}/{checksum}", data)
        store.write(manifest_key(base_images.digest(manifest)), manifest)
    store.write(manifest_key("12"), (folder / "index.json").read_bytes())
    yield f"{registry}/{name}:12"
    store.close()


def read_pushed(name: str) -> tuple[str, dict[str, Any]]:
    """Digest and manifest behind a tag, or a digest."""
    url, _, tag = name.partition("@") if "@" in name else name.rpartition(":")
    store = OciStore(f"oci+http://{url}", ANONYMOUS)
    data = store.read(manifest_key(tag))
    store.close()
    return base_images.digest(data), json.loads(data)


def test_into_a_registry(
    build: Build, published: str, registry: str, project: Project, tmp_path: Path
) -> None:
    """The base comes from another repository there; a second release sends only what is new."""
    to = f"{published.rpartition(':')[0]}-image"
    said = build("--push", "--tag", f"{to}:one", "--tag", f"{to}:two", onto=published)
    assert "0 blobs were there, 2 came from another repository, 8 sent" in said
    digest, manifest = read_pushed(f"{to}:one")
    assert read_pushed(f"{to}:two")[0] == digest
    assert f"{to}:one@{digest}" in said
    again = build("--push", "--tag", f"{to}:one", onto=published)
    assert "10 blobs were there, 0 came from another repository, 0 sent (0 bytes)" in again
    lock = json.loads(TINY)
    lock["roots"] = lock["roots"][:2]
    project.stack(lock, name="tiny")
    build("--push", "--tag", f"{to}:three", onto=published)
    _, after = read_pushed(f"{to}:three")
    before = {layer["digest"] for layer in manifest["layers"]}
    new = [layer for layer in after["layers"] if layer["digest"] not in before]
    assert 1 <= len(new) <= 3
    build("--output", str(tmp_path / "out"), "--tag", "three", onto=published)
    assert Layout(tmp_path / "out").layers() == [layer["digest"] for layer in after["layers"]]


def test_a_registry_that_has_no_such_base(build: Build, registry: str, tmp_path: Path) -> None:
    said = build("--output", str(tmp_path / "o"), onto=f"{registry}/nobody:1", code=6)
    assert "the registry has no such" in said
    digest = f"sha256:{'0' * 64}"
    build("--output", str(tmp_path / "o"), onto=f"{registry}/nobody:1@{digest}", code=6)


def test_a_base_is_kept(published: str, tmp_path: Path) -> None:
    """A layer is downloaded once, when somebody reads it."""
    base = open_base(published, "amd64", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    assert base.name == published
    with base.supplies[0].opened() as file:
        first = file.read()
    assert hashlib.sha256(first).hexdigest() == base.layers[0].checksum
    kept = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert [path.name for path in kept] == [base.layers[0].checksum]
    with base.supplies[0].opened() as file:
        assert file.read() == first


def test_what_stayed_is_not_read_again(build: Build, project: Project, tmp_path: Path) -> None:
    """Checksums of layers are remembered, and those of other contents are not used."""
    build("--output", str(tmp_path / "one"))
    sums = project.root / ".stackyard" / "layers" / "tiny" / "amd64.sums.json"
    known = json.loads(sums.read_bytes())
    assert sorted(f"sha256:{one}" for one, _ in known.values()) == sorted(
        Layout(tmp_path / "one").layers()[2:-1]
    )
    sums.write_text(json.dumps({recipe: ["0" * 64, size] for recipe, (_, size) in known.items()}))
    said = build("--output", str(tmp_path / "two.tar"), code=6)
    assert "its bytes are not those of its digest" in said
    assert not (tmp_path / "two.tar").exists()
    assert "its bytes are not those" in build("--output", str(tmp_path / "folder"), code=6)
    assert not (tmp_path / "folder" / "index.json").exists()
    sums.write_text("{")
    build("--output", str(tmp_path / "two"))
    assert Layout(tmp_path / "two").index == Layout(tmp_path / "one").index
