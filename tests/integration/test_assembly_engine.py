"""Images made without an engine, in one: they start, and hold what the Dockerfile's hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import DATA, Project, Stackyard
from containers import Engine

TINY = (DATA / "tiny.spack.lock").read_bytes()
MIRROR = DATA / "mirrors" / "v3-unsigned"
#: Path, kind, mode, owner, time and size of all there is, and the checksums of all files.
_LOOK = (
    "cd / && find mirror etc/spack usr/share/stack tutorial -printf '%p %M %U %G %Ts %s\\n' | sort"
    " && find mirror etc/spack usr/share/stack tutorial -type f -exec sha256sum {} + | sort -k 2"
)
_USERS = "cat /etc/passwd /etc/group && id spack && ls -lan --time-style=+ /home/spack"


@pytest.fixture
def both(
    engine: Engine,
    project: Project,
    stackyard: Stackyard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[str, str]:
    """Names of the same image, built by the engine and by ourselves, with one base."""
    monkeypatch.setenv("STACKYARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "315532800")
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    base = f"{engine.host}/both/base:1"
    engine.podman("push", engine.base, base)
    settings = {"image": {"base": base, "repository": f"{engine.host}/both/image"}}
    project.write("invoke.yaml", {"stackyard": settings})
    project.stack(TINY, name="tiny")
    common = ["image.build", "--from", str(MIRROR), "--unsigned"]
    arguments = [f"FETCH_BASE={engine.fetcher}", "STACKYARD=stackyard"]
    told = [word for text in arguments for word in ("--build-arg", text)]
    stackyard(*common, "--tag", "engine", "--network", "host", *told)
    stackyard(*common, "--tag", "own", "--no-engine", "--push")
    names = (f"{engine.host}/both/image:engine", f"{engine.host}/both/image:own")
    engine.podman("pull", "--quiet", names[1])
    return names


def _run(engine: Engine, image: str, command: str, *flags: str) -> str:
    return engine.podman("run", "--rm", "--network", "none", *flags, image, "bash", "-c", command)


def test_both_ways_give_the_same(engine: Engine, both: tuple[str, str]) -> None:
    theirs, ours = both
    looks = [_run(engine, name, _LOOK, "--user", "root") for name in both]
    assert looks[0] == looks[1]
    assert looks[1].count(".spec.manifest.json") == 2 * 7
    users = [_run(engine, name, _USERS) for name in both]
    assert users[0] == users[1]
    assert "uid=1000(spack)" in users[1]
    configs = [json.loads(engine.podman("inspect", name))[0]["Config"] for name in (theirs, ours)]
    for key in ("User", "WorkingDir", "Cmd", "Env", "Entrypoint"):
        assert configs[0].get(key) == configs[1].get(key), key
    labels = [
        {
            name: value
            for name, value in config["Labels"].items()
            if value and not name.endswith((".version", ".base.digest", "buildah.version"))
        }
        for config in configs
    ]
    assert labels[0] == labels[1]


def test_an_archive_can_be_loaded(
    engine: Engine, both: tuple[str, str], stackyard: Stackyard, tmp_path: Path
) -> None:
    argv = ["image.build", "--no-engine", "--from", str(MIRROR), "--unsigned", "--tag", "loaded"]
    stackyard(*argv, "--output", str(tmp_path / "image.tar"))
    stackyard(*argv, "--output", str(tmp_path / "folder"))
    name = f"{both[1].rpartition(':')[0]}:loaded"
    assert name in engine.podman("load", "--input", str(tmp_path / "image.tar"))
    seen = _run(engine, name, "whoami && pwd && ls /mirror")
    assert seen.split() == ["spack", "/home/spack", "blobs", "v3"]
    engine.podman("rmi", name)
    image = engine.podman("pull", "--quiet", f"oci:{tmp_path / 'folder'}:loaded").strip()
    assert _run(engine, image, "ls /mirror") == "blobs\nv3\n"
