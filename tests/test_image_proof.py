"""``image.test``: what it finds in an image, which an engine of our own hands out file by file."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mirrors
import pytest
from conftest import DATA, Project, Stackyard
from signing import needs_gpg
from test_image_layers import NAMES, stack_of_layout_2

from stackyard.edges import engine
from stackyard.edges.engine import Socket
from stackyard.edges.mirrors.indexing import update_index
from stackyard.edges.stores.folder import FileStore

TINY = (DATA / "tiny.spack.lock").read_bytes()


class FakeEngine:
    """An engine with one image, whose files lie in a folder."""

    title = "Nobody 1.0"
    socket = Socket("unix:///nowhere", "a test")
    platform = "linux/amd64"

    def __init__(self, root: Path, lock: Path) -> None:
        self.root = root
        digest = hashlib.sha256(lock.read_bytes()).hexdigest()
        self.labels = {"dev.stackyard.lock-digest": f"sha256:{digest}"}
        self.commands: list[Sequence[str]] = []
        self.code = 0
        self.layers = 43

    def build(self, _: Any, **__: Any) -> str:
        return "sha256:1"

    def inspect(self, _: str) -> Mapping[str, Any]:
        layers = [f"sha256:{number:064x}" for number in range(self.layers)]
        return {
            "Architecture": "amd64",
            "Config": {"Labels": self.labels},
            "RootFS": {"Type": "layers", "Layers": layers},
        }

    @contextmanager
    def container(self, _: str, command: Sequence[str]) -> Iterator[FakeEngine]:
        self.commands.append(command)
        yield self

    def archive(self, path: str) -> Iterator[bytes]:
        place, buffer = self.root / path.lstrip("/"), io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.add(place, place.name)
        yield buffer.getvalue()

    def run(self, _: Callable[[str], None]) -> int:
        return self.code


class Image:
    """The image of a stack, as files; ``test`` runs ``image.test`` on it."""

    def __init__(
        self, project: Project, stackyard: Stackyard, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.project, self._stackyard, self.root = project, stackyard, folder / "image"
        self._folder, self._monkeypatch = folder, monkeypatch
        project.write("invoke.yaml", {"stackyard": {"image": {"base": "debian:12"}}})

    @property
    def mirror(self) -> Path:
        return self.root / "mirror"

    def fill(self, source: Path, *flags: str) -> None:
        layers = self._folder / "layers"
        self._stackyard("image.layers", "--to", str(layers), "--from", str(source), *flags)
        for name in NAMES:
            shutil.copytree(layers / name, self.root, dirs_exist_ok=True)
        (lock,) = self.project.root.glob("stacks/*/spack.lock")
        made = FakeEngine(self.root, lock)

        @contextmanager
        def opened(*_: object) -> Iterator[FakeEngine]:
            yield made

        self._monkeypatch.setattr(engine, "open_engine", opened)
        self.engine = made

    def test(self, *flags: str, code: int = 0) -> str:
        return self._stackyard("image.test", *flags, code=code).err


@pytest.fixture
def image(
    project: Project, stackyard: Stackyard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Image:
    return Image(project, stackyard, tmp_path, monkeypatch)


@pytest.fixture
def tiny(image: Image) -> Image:
    image.project.stack(TINY, name="tiny")
    image.fill(DATA / "mirrors" / "v3-unsigned", "--unsigned")
    return image


def test_what_is_whole(tiny: Image) -> None:
    said = tiny.test()
    assert "/mirror is whole: 7 binaries, those of the lock and no more, signatures not" in said
    assert "it starts without a network as spack" in said


def test_another_lock(tiny: Image) -> None:
    """The one that stands here has changed since, or nobody says which it was."""
    for labels in ({"dev.stackyard.lock-digest": f"sha256:{'0' * 64}"}, {}):
        tiny.engine.labels = labels
        assert "the image is of another lock: " in tiny.test(code=3)


def test_layers(tiny: Image) -> None:
    tiny.engine.layers = 101
    assert "the image has 101 layers" in tiny.test(code=2)


def test_a_build_warns_of_too_many_layers(tiny: Image, stackyard: Stackyard) -> None:
    place = ("--from", "https://mirror.example.com/tiny", "--unsigned")
    for count in (100, 101):
        tiny.engine.layers = count
        said = stackyard("image.build", *place).err
        assert ("warning: 101 layers, and image.test allows 100" in said) is (count == 101)


def test_it_has_to_start(tiny: Image) -> None:
    tiny.engine.code = 1
    assert "the image does not start as it should: 1" in tiny.test(code=5)
    (command,) = (one for one in tiny.engine.commands if one != ["true"])
    assert command[-5:] == ["spack", "/mirror", "/etc/spack", "/usr/share/stack", "/tutorial/.test"]


def test_a_mirror_of_layout_2(image: Image) -> None:
    stack_of_layout_2(image.project)
    image.fill(DATA / "mirrors" / "v2-unsigned", "--unsigned")
    assert "/mirror is whole: 5 binaries, those of the lock and no more" in image.test()
    (image.mirror / "v3").mkdir()
    assert "not of a mirror: v3" in image.test(code=6)


def _blob(mirror: Path) -> None:
    checksum = hashlib.sha256(b"more").hexdigest()
    path = mirror / "blobs" / "sha256" / checksum[:2] / checksum
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"more")


def _binary(mirror: Path) -> None:
    """One that the lock does not name; the index does."""
    mirrors.push(mirror, mirrors.specs({"stranger": []}), "stranger")
    update_index(FileStore(mirror))


def _missing(mirror: Path) -> None:
    next(mirror.rglob("tiny-tool*.spec.manifest.json")).unlink()
    update_index(FileStore(mirror))


def _tampered(mirror: Path) -> None:
    record = json.loads(next(mirror.rglob("tiny-tool*.spec.manifest.json")).read_bytes())["data"][0]
    path = mirror / "blobs" / "sha256" / record["checksum"][:2] / record["checksum"]
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def _other_lock(mirror: Path) -> None:
    (mirror.parent / "usr/share/stack/spack.lock").write_text("{}")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda mirror: (mirror / "more").touch(), "not of a mirror: more"),
        (lambda mirror: (mirror / "v3" / "more").touch(), "v3/more"),
        (_blob, "no manifest names"),
        (_binary, "not of the lock: stranger"),
        (_missing, "not there: tiny-tool /"),
        (_tampered, "tiny-tool"),
        (_other_lock, "spack.lock is another lock than its label says"),
        (lambda mirror: shutil.rmtree(mirror / "v3/manifests/index"), "there is none"),
    ],
    ids=[
        *("a file", "a file of layout 3", "a blob", "a binary"),
        *("one less", "other bytes", "another lock", "no index"),
    ],
)
def test_what_is_not_exactly_it(
    tiny: Image, change: Callable[[Path], object], problem: str
) -> None:
    change(tiny.mirror)
    said = tiny.test(code=6)
    assert "things are wrong in the image" in said
    assert problem in said


@needs_gpg
def test_signatures_are_looked_at(image: Image) -> None:
    image.project.stack(TINY, name="tiny")
    (key,) = (DATA / "mirrors" / "v2-signed" / "build_cache" / "_pgp").glob("*.pub")
    image.project.write("stacks/tiny/keys/builds.pub", key.read_bytes())
    image.fill(DATA / "mirrors" / "v3-signed")
    assert "7 signed" in image.test()
    manifest = next(image.mirror.rglob("tiny-tool*.spec.manifest.json"))
    manifest.write_bytes(manifest.read_bytes().replace(b'"gzip"', b'"gzap"', 1))
    assert "tiny-tool" in image.test(code=6)
