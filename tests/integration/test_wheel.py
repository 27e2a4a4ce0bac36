"""The wheel, installed into an environment of its own, gives the same bytes as the clone."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from conftest import ROOT, Project, Stackyard

from stackyard import __version__

FOLDER = "stacks/tutorial"


def run(argv: Sequence[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run away from the clone: its code must not be found."""
    return subprocess.run(
        list(map(str, argv)),
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def pip(python: Path | str, *arguments: str | Path, cwd: Path) -> None:
    """Skip where pip cannot fetch what it needs; a build that fails is a failure."""
    quiet = ["--disable-pip-version-check", "--quiet", "--retries", "1", "--timeout", "20"]
    done = run([python, "-m", "pip", *arguments, *quiet], cwd)
    lost = ("No matching distribution", "Connection", "Could not fetch", "No module named pip")
    if done.returncode and any(text in done.stderr for text in lost):
        pytest.skip(f"pip reaches no index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the clone."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("docker", "stackyard", "templates"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".dockerignore", "pyproject.toml", "hatch_build.py", "README.md"):
        shutil.copy(ROOT / name, source)
    for path in ROOT.glob("LICENSE-*"):
        shutil.copy(path, source)
    pip(sys.executable, "wheel", source, "--no-deps", "--wheel-dir", folder, cwd=folder)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The ``stackyard`` command in a fresh virtual environment."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    pip(python, "install", wheel, cwd=folder)
    yield folder / "venv" / "bin" / "stackyard"
    shutil.rmtree(folder)


@pytest.fixture
def elsewhere(project: Project) -> Project:
    """A project outside of the clone, with the stack of the tutorial."""
    project.write("invoke.yaml", (ROOT / "invoke.yaml").read_bytes())
    shutil.copytree(ROOT / FOLDER, project.root / FOLDER)
    return project


def test_contents(wheel: Path) -> None:
    assert wheel.name == f"stackyard-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for file in (*(ROOT / "templates").rglob("*"), *(ROOT / "docker").rglob("*")):
            if file.is_file():
                name = f"stackyard/data/{file.relative_to(ROOT).as_posix()}"
                assert archive.read(name) == file.read_bytes()
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "stackyard").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"stackyard", f"stackyard-{__version__}.dist-info"}


def test_lists_its_tasks(program: Path, elsewhere: Project, stackyard: Stackyard) -> None:
    done = run([program, "--list"], elsewhere.root)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == stackyard("--list").out.split()
    assert run([program, "--version"], elsewhere.root).stdout == f"Stackyard {__version__}\n"


def test_same_bytes_as_the_clone(
    program: Path, elsewhere: Project, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = elsewhere.root / "stacks" / "tutorial"
    before = elsewhere.files()
    commands = [
        (elsewhere.root, ["generate"]),
        (inner, ["generate", "--stack", "tutorial", "--no-prune"]),
        (inner, ["plan", "--no-prune", "--html", "plan.html"]),
    ]
    for folder, arguments in commands:
        done = run([program, *arguments], folder)
        assert done.returncode == 0, done.stderr
    theirs = {name: data for name, data in elsewhere.files().items() if name not in before}
    assert sorted(theirs) == [
        ".gitlab-ci.yml",
        "jobs_scratch_dir/concrete_environment/spack.lock",
        "jobs_scratch_dir/concrete_environment/spack.yaml",
        "jobs_scratch_dir/pipeline.yml",
        "stacks/tutorial/plan.html",
    ]
    for name in theirs:
        (elsewhere.root / name).unlink()
    for folder, arguments in commands:
        monkeypatch.chdir(folder)
        stackyard(*arguments)
    ours = {name: data for name, data in elsewhere.files().items() if name not in before}
    assert sorted(ours) == sorted(theirs)
    for name, data in ours.items():
        assert theirs[name] == data, name


def test_bad_settings(program: Path, elsewhere: Project) -> None:
    elsewhere.write("invoke.yaml", "stackyard: [\n")
    done = run([program, "plan"], elsewhere.root)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: invoke.yaml:2:1: not YAML")


def test_a_new_project(program: Path, wheel: Path, tmp_path: Path) -> None:
    """``init`` in an empty folder; then what its README says, in a fresh virtual environment."""
    project = tmp_path / "new"
    project.mkdir()
    done = run([program, "init"], project)
    assert done.returncode == 0, done.stderr
    readme = (project / "README.md").read_text()
    commands = readme.partition("```sh\n")[2].partition("```")[0]
    assert "pip install" in commands
    script = f"export PIP_FIND_LINKS={shlex.quote(str(wheel.parent))}\nset -e\n{commands}"
    done = run(["bash", "-c", script], project)
    lost = ("No matching distribution", "Could not fetch", "No module named")
    if done.returncode and any(text in done.stderr for text in lost):
        pytest.skip(f"pip reaches no index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert "23 specs: 21 build" in done.stdout
    assert "unchanged .gitlab-ci.yml" in done.stderr
