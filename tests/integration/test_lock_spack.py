"""The real Spack: brought by the lines of a job, and made to lock a tiny stack."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, Stackyard
from pipelines import load
from real_spack import PYTHON, SPACK, needs_spack
from tests_data import DATA

from stackyard.pins import parse_pins
from stackyard.prelude import PACKAGES, clone_lines

pytestmark = needs_spack

PACKAGES_AT_HAND = os.environ.get("STACKYARD_PACKAGES", "")
#: What Spack finds out about its packages takes it minutes: kept, as on a machine that is used.
KEPT = Path(tempfile.gettempdir()) / f"stackyard-lock-tests-{os.getuid()}"
#: With a compiler at hand Spack does not look through all its packages for others.
COMPILER = {
    "gcc": {
        "externals": [
            {
                "spec": "gcc@12.2.0 languages:='c'",
                "prefix": "/usr",
                "extra_attributes": {"compilers": {"c": "/usr/bin/gcc"}},
            }
        ]
    }
}


def commit_of(checkout: str) -> str:
    """What is checked out; without git there is nothing to clone from, and the test skips."""
    argv = ["git", "-C", checkout, "rev-parse", "HEAD"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode or not (Path(checkout) / ".git").exists():
        pytest.skip(f"{checkout or 'STACKYARD_PACKAGES'} is no clone: git clone, not an archive")
    return done.stdout.strip()


@pytest.fixture
def tiny(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with the tiny stack, not locked."""
    shutil.copytree(DATA / "tiny" / "repo", project.root / "stacks" / "tiny" / "repo")
    manifest = load((DATA / "tiny" / "spack.yaml").read_bytes())
    manifest["spack"]["specs"] = ["tiny-app", "tiny-data"]
    manifest["spack"]["concretizer"]["unify"] = True  # one question instead of several
    manifest["spack"]["packages"] |= COMPILER
    project.write("stacks/tiny/spack.yaml", manifest)
    project.write("invoke.yaml", "stackyard: {}\n")
    monkeypatch.setenv("STACKYARD_CACHE", str(KEPT / "cache"))
    monkeypatch.setenv("SPACK_USER_CACHE_PATH", str(KEPT / "user"))
    if PYTHON:
        monkeypatch.setenv("SPACK_PYTHON", PYTHON)
    return project


def versions(project: Project) -> list[str]:
    lock = json.loads((project.root / "stacks/tiny/spack.lock").read_bytes())
    return sorted(f"{one['name']}@{one['version']}" for one in lock["concrete_specs"].values())


FIRST = [f"tiny-{name}@1.1" for name in ("app", "base", "data", "lib", "tool")]


def test_a_stack_is_locked_and_changed(
    tiny: Project, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the checkout at hand; a user's configuration counts only where it is asked for."""
    hostile = tmp_path / "user"
    hostile.mkdir()
    (hostile / "packages.yaml").write_text("packages: {tiny-base: {require: ['@1.0']}}\n")
    monkeypatch.setenv("SPACK_USER_CONFIG_PATH", str(hostile))
    made = stackyard("lock", "--spack", SPACK)
    assert made.out == "stacks/tiny/spack.lock: new, 5 specs\n"
    assert "==> Concretized 2 specs" in made.err
    assert versions(tiny) == FIRST
    stackyard("lock", "--check", "--verify")

    leaking = stackyard("lock", "--spack", SPACK, "--keep-config").out.splitlines()
    assert leaking[:2] == [
        "stacks/tiny/spack.lock: changed",
        "  ~ tiny-base: version 1.1 -> 1.0",
    ]
    head, _, names = leaking[2].partition(": ")
    assert head == "  # only by hash, because of tiny-base"
    assert sorted(names.split(", ")) == [name for name in FIRST if "base" not in name]
    assert leaking[3:] == ["  = 0 unchanged"]

    manifest = load((tiny.root / "stacks/tiny/spack.yaml").read_bytes())
    manifest["spack"]["specs"] = ["tiny-app", "tiny-data@1.1"]
    manifest["spack"]["packages"]["tiny-lib"] = {"variants": "+extra"}
    tiny.write("stacks/tiny/spack.yaml", manifest)
    stackyard("lock", "--check", code=3)
    told = json.loads(stackyard("lock", "--spack", SPACK, "--json").out)
    assert told["diff"]["added"] == told["diff"]["removed"] == []
    assert {one["name"]: one["changes"] for one in told["diff"]["changed"]} == {
        "tiny-base": {"version": ["1.0", "1.1"]},
        "tiny-lib": {"variant extra": [False, True]},
    }
    assert {one["name"]: one["because"] for one in told["diff"]["rehashed"]} == {
        "tiny-data": ["tiny-base"],
        "tiny-tool": ["tiny-lib"],
        "tiny-app": ["tiny-base", "tiny-lib"],
    }
    assert told["diff"]["roots"] == {"added": ["tiny-data@1.1"], "removed": ["tiny-data"]}
    stackyard("lock", "--check", "--verify")
    assert told["pins"]["spack"]["commit"] == commit_of(SPACK)


def test_a_stack_that_cannot_be_locked(tiny: Project, stackyard: Stackyard) -> None:
    manifest = load((tiny.root / "stacks/tiny/spack.yaml").read_bytes())
    manifest["spack"]["specs"] = ["tiny-app@9"]
    tiny.write("stacks/tiny/spack.yaml", manifest)
    answer = stackyard("lock", "--spack", SPACK, code=5)
    assert "error: spack concretize failed: " in answer.err
    assert not (tiny.root / "stacks/tiny/spack.lock").exists()
    assert not (tiny.root / "stacks/tiny/pins.yaml").exists()


def test_the_pinned_spack_locks(
    tiny: Project, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cloned as it is pinned, its packages too; in CI before the pipeline is generated."""
    spack, packages = commit_of(SPACK), commit_of(PACKAGES_AT_HAND)
    monkeypatch.setenv("SPACK_REPO", Path(SPACK).as_uri())
    monkeypatch.setenv("SPACK_CHECKOUT_VERSION", spack)
    monkeypatch.setenv("SPACK_PACKAGES_REPO", Path(PACKAGES_AT_HAND).as_uri())
    monkeypatch.setenv("SPACK_PACKAGES_CHECKOUT_VERSION", packages)
    monkeypatch.setenv("CI", "true")
    manifest = load((tiny.root / "stacks/tiny/spack.yaml").read_bytes())
    manifest["spack"] |= {
        "mirrors": {"buildcache-destination": {"url": "s3://example/x", "signed": False}},
        "ci": {"pipeline-gen": [{"any-job": {"tags": ["spack"], "image": "x"}}]},
    }
    tiny.write("stacks/tiny/spack.yaml", manifest)
    answer = stackyard("generate", "--stack", "tiny", "--no-prune")
    assert "making it with the pinned Spack" in answer.err
    assert versions(tiny) == FIRST
    pins = parse_pins((tiny.root / "stacks/tiny/pins.yaml").read_bytes(), "x").as_dict()
    assert pins == {
        "spack": {"repo": Path(SPACK).as_uri(), "commit": spack},
        "packages": {"repo": Path(PACKAGES_AT_HAND).as_uri(), "commit": packages},
    }
    assert len([job for job in load(tiny.child.read_bytes()) if job.startswith("tiny-")]) == 5
    stackyard("lock", "--check", "--verify")


# -- in jobs --------------------------------------------------------------------------------


def job(shell: str, project: Path, script: str, **env: str) -> str:
    kept = {key: os.environ[key] for key in ("PATH", "HOME")}
    done = subprocess.run(
        [shell, "-eu", "-c", clone_lines() + script],
        env={
            **kept,
            **({"SPACK_PYTHON": PYTHON} if PYTHON else {}),
            "CI_PROJECT_DIR": str(project),
            "SPACK_DISABLE_LOCAL_CONFIG": "1",
            "SPACK_USER_CACHE_PATH": str(project / "user"),
            **env,
        },
        cwd=project, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_a_job_gets_the_pinned_spack(shell: str, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell}")
    commit = commit_of(SPACK)
    env = {"SPACK_REPO": Path(SPACK).as_uri(), "SPACK_CHECKOUT_VERSION": commit}
    script = 'spack --version\ntype spack | head -n 1\nprintf "%s\\n" "$SPACK_ROOT"\n'
    first = job(shell, tmp_path, script, **env).splitlines()
    assert commit in first[0]
    assert "function" in first[1]
    assert first[2] == str(tmp_path / ".spack")
    assert job(shell, tmp_path, script, **env).splitlines() == first


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_a_job_gets_the_pinned_packages(shell: str, tmp_path: Path) -> None:
    """Spack takes them from there, fetches nothing, and a pin in the manifest changes nothing."""
    if not shutil.which(shell):
        pytest.skip(f"no {shell}")
    packages = commit_of(PACKAGES_AT_HAND)
    env = {
        "SPACK_REPO": Path(SPACK).as_uri(),
        "SPACK_CHECKOUT_VERSION": commit_of(SPACK),
        "SPACK_PACKAGES_REPO": Path(PACKAGES_AT_HAND).as_uri(),
        "SPACK_PACKAGES_CHECKOUT_VERSION": packages,
    }
    manifest: dict[str, Any] = {
        "specs": [],
        "repos": {"builtin": {"git": "http://127.0.0.1:1/nowhere", "commit": packages}},
    }
    (tmp_path / "spack.yaml").write_text(json.dumps({"spack": manifest}))
    script = 'spack location --repo builtin\nspack -e "$PWD" location --repo builtin\n'
    said = job(shell, tmp_path, script, **env).splitlines()
    assert said == [str(tmp_path / ".spack" / PACKAGES / "repos" / "spack_repo" / "builtin")] * 2
    assert not (tmp_path / "user" / "package_repos").exists() or not list(
        (tmp_path / "user" / "package_repos").glob("*/.git")
    )
