"""Fixtures for all tests, and a guard: the network ends at this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from real_spack import SPACK, RealSpack

from stackyard import main
from stackyard.edges import settings
from stackyard.edges.stores import service, web
from stackyard.lock import Lock, parse_lock

if TYPE_CHECKING:
    from real_pipeline import Pipelines

#: Servers, and projects, that tests may ask for.
pytest_plugins = ["browsing", "releases", "services"]

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(__file__).resolve().parent / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the full counts of races and faults")
    parser.addoption("--update-golden", action="store_true", help="write golden files anew")


def pytest_configure() -> None:
    """A shell starts what runs in its background deaf to Ctrl-C; what tests start must hear it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """One more than there are processors: tests wait for programs and servers a quarter of the time."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist reads it
    return (os.cpu_count() or 1) + 1


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long"))


@pytest.fixture(autouse=True)
def _only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches out is a mistake, and would fail on a machine without a network."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "local"
        if host not in ("127.0.0.1", "::1", "localhost", "local"):
            message = f"a test tried to reach {host}"
            raise AssertionError(message)
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def small_lock() -> Lock:
    path = ROOT / "stacks" / "small" / "spack.lock"
    return parse_lock(path.read_bytes(), "small/spack.lock")


@pytest.fixture(scope="session")
def tutorial_lock() -> Lock:
    path = ROOT / "stacks" / "tutorial" / "spack.lock"
    return parse_lock(path.read_bytes(), "tutorial/spack.lock")


#: Variables that say what a run does; a test sets those that it is about.
_TELLING = re.compile(
    r"SPACK_.*|CI|CI_.*|GITLAB.*|GITHUB.*|AWS_.*|S3_.*|GOOGLE_.*|STORAGE_.*|CDASH_.*|INVOKE_.*|MY_.*"
)
#: Nobody's keys for buckets: no files of the user, no service of a cloud's machines.
_NOBODY = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "CLOUDSDK_CONFIG": os.devnull,
    "NO_GCE_CHECK": "true",
}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that runs the tests may be a CI job itself."""
    for name in filter(_TELLING.fullmatch, list(os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.setattr(settings, "_concealed", set())  # one run knows nothing of another's secrets
    for name, value in _NOBODY.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long waits before what failed is tried again."""
    for module in (service, web):
        monkeypatch.setattr(module, "_LONGEST_WAIT_S", 0.01)


@pytest.fixture
def fresh_spack(tmp_path: Path) -> Iterator[Callable[[], RealSpack]]:
    """Makes a Spack with an empty install tree and keyring, as often as it is called."""
    made: list[RealSpack] = []

    def make() -> RealSpack:
        made.append(RealSpack(tmp_path / f"spack-{len(made)}"))
        return made[-1]

    yield make
    for spack in made:
        spack.close()


@pytest.fixture
def builder(
    fresh_spack: Callable[[], RealSpack], project: Project, monkeypatch: pytest.MonkeyPatch
) -> RealSpack:
    """A Spack that has built the tiny stack of the project, and that our commands find."""
    folder = project.root / "stacks" / "tiny"
    shutil.copytree(DATA / "tiny", folder)
    shutil.copy(DATA / "tiny.spack.lock", folder / "spack.lock")
    spack = fresh_spack()
    for name, value in spack.env.items():
        if name.startswith("SPACK_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("SPACK_ROOT", SPACK)
    spack("-e", str(folder), "install", "--no-cache", "--only-concrete")
    shutil.rmtree(folder / ".spack-env")
    return spack


@pytest.fixture
def pipelines(fresh_spack: Callable[[], RealSpack], tmp_path: Path) -> Iterator[Pipelines]:
    """A project whose pipelines run with the real Spack."""
    from real_pipeline import Pipelines

    root = tmp_path / "project"
    root.mkdir()
    made = Pipelines(root, fresh_spack())
    yield made
    made.close()


class Answer(NamedTuple):
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str


Stackyard = Callable[..., Answer]


@pytest.fixture
def stackyard(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Stackyard:
    """Run the real ``stackyard`` command in this process; an exception that gets out is a failure."""

    def run(*arguments: str, code: int | None = 0) -> Answer:
        monkeypatch.setattr(sys, "argv", ["stackyard", *arguments])
        capsys.readouterr()
        try:
            main.main()
            ended = 0
        except SystemExit as end:
            ended = end.code if isinstance(end.code, int) else int(end.code is not None)
        answer = Answer(ended, *capsys.readouterr())
        assert "Traceback" not in answer.err
        assert code is None or ended == code, answer.err
        return answer

    return run


CI_SECTION = {
    "target": "gitlab",
    "pipeline-gen": [{"any-job": {"tags": ["spack"], "image": "builder:1"}}],
}


class Project:
    """A folder with stacks, made by a test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "stacks").mkdir()

    def write(self, name: str, content: str | bytes | dict[str, Any]) -> Path:
        """A file; mappings as JSON, which is YAML as well."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            content = json.dumps(content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def stack(
        self,
        lock: bytes | dict[str, Any],
        *,
        name: str = "demo",
        specs: Sequence[Any] | None = None,
        ci: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        mirror: str = "s3://example-binaries/demo",
        **sections: Any,
    ) -> Path:
        """A stack whose manifest asks for the lock's roots, if nothing else is said."""
        document = json.loads(lock) if isinstance(lock, bytes) else lock
        roots = [root["spec"] for root in document["roots"]]
        manifest = {
            "specs": roots if specs is None else list(specs),
            "mirrors": {"buildcache-destination": {"url": mirror, "signed": False}},
            "ci": CI_SECTION if ci is None else ci,
            **sections,
        }
        folder = self.root / "stacks" / name
        self.write(f"stacks/{name}/spack.yaml", {"spack": manifest})
        self.write(f"stacks/{name}/spack.lock", lock)
        if settings:
            self.write(f"stacks/{name}/stack.yaml", settings)
        return folder

    def files(self) -> dict[str, bytes]:
        """All files and their contents, by their path in the project."""
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and ".git" not in path.parts
        }

    @property
    def child(self) -> Path:
        return self.root / "jobs_scratch_dir" / "pipeline.yml"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty project, which is the current folder."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    return Project(root)
