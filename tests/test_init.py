"""``stackyard init``: a project that works, out of an empty folder or somebody's manifest."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Stackyard
from mirror_server import mirror_server

MANIFEST = "spack:\n  # what we teach\n  specs: [zlib]\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the current one, outside of any project."""
    path = tmp_path / "new"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


def files(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts)
    return sorted(path.relative_to(folder).as_posix() for path in found)


def remote(folder: Path, url: str) -> None:
    for words in (["init", "--quiet"], ["remote", "add", "origin", url]):
        subprocess.run(["git", *words], cwd=folder, check=True)


def manifest(folder: Path, name: str = "starter") -> dict[str, object]:
    text = (folder / "stacks" / name / "spack.yaml").read_text()
    return dict(yaml.safe_load(text)["spack"])


def test_an_empty_folder(folder: Path, stackyard: Stackyard) -> None:
    said = stackyard("init")
    assert said.out == ""
    assert files(folder) == [
        ".gitignore",
        ".gitlab-ci.yml",
        "README.md",
        "docker/builder/Dockerfile",
        "invoke.yaml",
        "stacks/starter/pins.yaml",
        "stacks/starter/spack.lock",
        "stacks/starter/spack.yaml",
    ]
    for name in files(folder):
        assert f"wrote {name}\n" in said.err
    assert manifest(folder)["mirrors"] == {
        "buildcache-destination": {"url": (folder / "mirror").as_uri(), "signed": False}
    }
    stackyard("generate", "--check")
    stackyard("lock", "--check", "--verify")
    assert "23 specs: 21 build" in stackyard("plan", "--no-prune").out
    stackyard("generate", "--stack", "starter", "--no-prune")
    assert "problem" not in stackyard("doctor", "--offline").out


def test_its_lock_is_that_of_the_shipped_stack() -> None:
    starter = ROOT / "templates" / "init" / "starter"
    assert (starter / "spack.lock").read_bytes() == (ROOT / "stacks/small/spack.lock").read_bytes()


def test_a_repository_on_github(folder: Path, stackyard: Stackyard) -> None:
    remote(folder, "git@github.com:Our-Group/Stack.git")
    (folder / "README.md").write_text("ours\n")
    (folder / "src.c").write_text("int x;\n")
    said = stackyard("init")
    assert "kept README.md, which was there" in said.err
    assert (folder / "README.md").read_text() == "ours\n"
    entry = manifest(folder)["mirrors"]
    assert entry == {
        "buildcache-destination": {
            "url": "oci://ghcr.io/our-group/stack/binaries",
            "signed": False,
            "access_pair": {"id_variable": "GITHUB_ACTOR", "secret_variable": "GITHUB_TOKEN"},
        }
    }
    assert any(name.startswith(".github/workflows/stackyard-") for name in files(folder))
    stackyard("generate", "--check")


def test_a_repository_on_gitlab(folder: Path, stackyard: Stackyard) -> None:
    remote(folder, "https://gitlab.uni.edu/hpc/stack.git")
    stackyard("init", "--mirror", "s3://bucket/stack")
    settings = yaml.safe_load((folder / "invoke.yaml").read_text())["stackyard"]
    assert settings["gitlab"] == {"url": "https://gitlab.uni.edu", "project": "hpc/stack"}
    assert manifest(folder)["mirrors"] == {"buildcache-destination": {"url": "s3://bucket/stack"}}
    stackyard("generate", "--check")


@pytest.mark.parametrize("kind", ["file", "folder", "web"])
def test_somebodys_manifest(folder: Path, tmp_path: Path, stackyard: Stackyard, kind: str) -> None:
    source = tmp_path / "theirs" / "teaching"
    source.mkdir(parents=True)
    (source / "spack.yaml").write_text(MANIFEST)
    if kind == "web":
        with mirror_server(tmp_path / "theirs") as served:
            said = stackyard("init", "--from", f"{served.url}/teaching/spack.yaml")
    else:
        said = stackyard("init", "--from", str(source / "spack.yaml" if kind == "file" else source))
    text = (folder / "stacks" / "teaching" / "spack.yaml").read_text()
    assert text.startswith(MANIFEST)
    assert not (folder / "stacks" / "teaching" / "spack.lock").exists()
    assert "stackyard lock --stack teaching" in (folder / "README.md").read_text()
    assert "added to the manifest: ci" in said.err
    stackyard("generate", "--check")


def test_somebodys_lock_comes_along(folder: Path, stackyard: Stackyard) -> None:
    small = ROOT / "stacks" / "small"
    said = stackyard("init", "--from", str(small), "--name", "mine")
    lock = folder / "stacks" / "mine" / "spack.lock"
    assert lock.read_bytes() == (small / "spack.lock").read_bytes()
    assert (folder / "stacks/mine/spack.yaml").read_bytes() == (small / "spack.yaml").read_bytes()
    assert "added" not in said.err
    stackyard("lock", "--check")


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("spack:\n  specs: [zlib\n", 2, "spack.yaml"),
        ("spack: {specs: [zlib]}\n", 2, "nothing can be added"),
        ("spack:\n  specs: [zlib]\n  include: [common.yaml]\n", 2, "common.yaml"),
        ("spack:\n  specs: [zlib]\n  mirrrors: {}\n", 2, "mirrrors"),
    ],
)
def test_unusable_manifests(  # noqa: PLR0917
    folder: Path, tmp_path: Path, stackyard: Stackyard, text: str, code: int, said: str
) -> None:
    (tmp_path / "spack.yaml").write_text(text)
    assert said in stackyard("init", "--from", str(tmp_path), code=code).err
    assert files(folder) == []


def test_nothing_there(folder: Path, stackyard: Stackyard) -> None:
    assert "no such file" in stackyard("init", "--from", str(folder / "none"), code=2).err
    with mirror_server(folder) as served:
        assert "spack.yaml" in stackyard("init", "--from", served.url, code=6).err
    assert "--name" in stackyard("init", "--name", "../up", code=2).err
    assert files(folder) == []


def test_inside_a_project(folder: Path, stackyard: Stackyard) -> None:
    stackyard("init")
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    assert "a project already" in stackyard("init", code=2).err
    os.chdir(folder / "stacks")
    assert "a project already" in stackyard("init", code=2).err
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before


def test_a_repository_that_uses_invoke(folder: Path, stackyard: Stackyard) -> None:
    (folder / "invoke.yaml").write_text("run: {echo: true}\n")
    said = stackyard("init")
    assert "kept invoke.yaml" in said.err
    assert (folder / "invoke.yaml").read_text() == "run: {echo: true}\n"
    stackyard("generate", "--check")


def test_what_fails_last_leaves_nothing(
    folder: Path, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackyard.flow.generate.parent_files", _refuse)
    assert "no space" in stackyard("init", code=1).err
    assert files(folder) == []


def _refuse(_: object) -> dict[Path, bytes]:
    from stackyard.errors import StackyardError

    raise StackyardError("no space left on device")
