"""Kills and faults: whatever happens, nothing corrupt is seen, and the next run ends right.

A few rounds as a rule, the full counts with ``--long``; the seeds are printed.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import DATA, Stackyard
from fake_registry import fake_registry
from faulty_proxy import at_random, faulty_proxy
from mirror_server import MirrorServer, mirror_server
from registry_data import fill
from services import S3Server

from benchmarks.fetching import Shape, make_mirror
from stackyard.binary import parse_binary, parse_metadata
from stackyard.edges.mirrors import transfer
from stackyard.edges.stores import registry as registries
from stackyard.edges.stores import service

COMMAND = [sys.executable, "-c", "from stackyard.main import main; main()"]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety binaries, some of whose tarballs need several reads; its lock lies beside it."""
    folder = tmp_path_factory.mktemp("faults") / "mirror"
    folder.with_suffix(".lock").write_bytes(make_mirror(folder, Shape(90, 2000, 700_000)))
    return folder


@pytest.fixture
def served(mirror: Path) -> Iterator[MirrorServer]:
    with mirror_server(mirror) as server:
        server.latency_s = 0.03
        yield server


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def complete(folder: Path) -> int:
    """How many binaries are seen; all that they name is there and right."""
    manifests = list(folder.rglob("*.spec.manifest.json"))
    for path in manifests:
        binary = parse_binary(path.read_bytes(), "", "", str(path))
        for blob in binary.blobs:
            data = (folder / blob.key).read_bytes()
            assert hashlib.sha256(data).hexdigest() == blob.checksum
        assert binary.spec
        metadata = parse_metadata((folder / binary.spec.key).read_bytes(), str(path))
        assert metadata.hash in path.name
    return len(manifests)


def fetching(mirror: Path, source: str, into: Path) -> list[str]:
    lock = str(mirror.with_suffix(".lock"))
    return [*COMMAND, "fetch", "--unsigned", "--lock", lock, "--from", source, "--to", str(into)]


def kill_at_random(
    argv: list[str], draw: random.Random, longest_s: float, check: Callable[[], None]
) -> bool:
    """Run, kill after a while, look; whether the kill came in time."""
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as run:
        time.sleep(draw.random() * longest_s)
        run.send_signal(signal.SIGKILL)
    check()
    return run.returncode == -signal.SIGKILL


def test_a_killed_fetch_leaves_nothing_half(
    served: MirrorServer, mirror: Path, tmp_path: Path, *, long: bool
) -> None:
    seed = random.randrange(10**6)  # noqa: S311
    print(f"seed {seed}")  # noqa: T201 - shown where it fails
    draw = random.Random(seed)  # noqa: S311
    began = time.monotonic()
    subprocess.run(
        fetching(mirror, served.url, tmp_path / "fresh"), check=True, capture_output=True
    )
    longest_s = time.monotonic() - began
    fresh = tree(tmp_path / "fresh")

    into, killed, seen = tmp_path / "into", 0, set()
    for _ in range(100 if long else 5):
        argv = fetching(mirror, served.url, into)
        killed += kill_at_random(argv, draw, longest_s, lambda: seen.add(complete(into)))
        if len(list(into.rglob("*.spec.manifest.json"))) == 90:
            subprocess.run(argv, check=True, capture_output=True)
            assert tree(into) == fresh
            shutil.rmtree(into)
    assert killed
    subprocess.run(fetching(mirror, served.url, into), check=True, capture_output=True)
    assert tree(into) == fresh
    print(f"{killed} kills; complete binaries seen after them: {sorted(seen)}")  # noqa: T201


@pytest.fixture
def hurry(hurried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (registries, service, transfer):
        monkeypatch.setattr(module, "_LONGEST_WAIT_S", 0.01)


@pytest.fixture
def in_a_bucket(moto: S3Server, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The mirror in a bucket: URLs of the service and of the mirror."""
    url = moto.bucket()
    store = moto.store(url)
    for path in mirror.rglob("*"):
        if path.is_file():
            store.upload(path.relative_to(mirror).as_posix(), path)
    store.close()
    for name, value in moto.variables.items():
        monkeypatch.setenv(name, value)
    return moto.url, url


def test_a_bucket_through_faults(  # noqa: PLR0917
    stackyard: Stackyard,
    in_a_bucket: tuple[str, str],
    mirror: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hurry: None,
    *,
    long: bool,
) -> None:
    service_url, url = in_a_bucket
    lock = str(mirror.with_suffix(".lock"))
    argv = ("fetch", "--unsigned", "--lock", lock, "--from")
    stackyard(*argv, str(mirror), "--to", str(tmp_path / "fresh"))
    for number in range(20 if long else 2):
        seed = random.randrange(10**6)  # noqa: S311
        print(f"seed {seed}")  # noqa: T201 - shown where it fails
        into = tmp_path / f"into-{number}"
        with faulty_proxy(service_url, at_random(seed, 0.05)) as proxy:
            monkeypatch.setenv("S3_ENDPOINT_URL", proxy.url)
            answer = stackyard(*argv, url, "--to", str(into), code=None)
        assert answer.code in (0, 6), answer.err
        if into.exists():
            complete(into)
        monkeypatch.setenv("S3_ENDPOINT_URL", service_url)
        stackyard(*argv, url, "--to", str(into))
        assert tree(into) == tree(tmp_path / "fresh")


def test_a_registry_through_faults(
    stackyard: Stackyard, tmp_path: Path, hurry: None, *, long: bool
) -> None:
    argv = ("fetch", "--unsigned", "--lock", str(DATA / "tiny.spack.lock"), "--from")
    ended = []
    with fake_registry() as registry:
        fill(registry.repository("org/tiny"))
        right = registry.mirror("org/tiny")
        stackyard(*argv, right, "--to", str(tmp_path / "fresh"))
        for number in range(40 if long else 4):
            seed = random.randrange(10**6)  # noqa: S311
            rate = (0.03, 0.1, 0.3)[number % 3]
            print(f"seed {seed} rate {rate}")  # noqa: T201 - shown where it fails
            into = tmp_path / f"into-{number}"
            with faulty_proxy(registry.url, at_random(seed, rate)) as proxy:
                spoilt = right.replace(registry.host, proxy.url.removeprefix("http://"))
                answer = stackyard(*argv, spoilt, "--to", str(into), code=None)
            assert answer.code in (0, 6), answer.err
            if into.exists():
                complete(into)
            ended.append(answer.code)
            if answer.code:
                stackyard(*argv, right, "--to", str(into))
            assert tree(into) == tree(tmp_path / "fresh")
    print(f"ended with {ended}")  # noqa: T201


def test_a_fetch_through_faults_ends_right_or_refused(
    stackyard: Stackyard, mirror: Path, tmp_path: Path, hurry: None, *, long: bool
) -> None:
    lock = str(mirror.with_suffix(".lock"))
    stackyard(
        "fetch", "--unsigned", "--lock", lock, "--from", str(mirror), "--to", f"{tmp_path}/fresh"
    )
    fresh = tree(tmp_path / "fresh")
    ended = []
    with mirror_server(mirror) as server:
        for number in range(40 if long else 4):
            seed = random.randrange(10**6)  # noqa: S311
            rate = (0.03, 0.1, 0.3)[number % 3]
            # A manifest that arrives changed is as final as one that somebody changed.
            path = (lambda path: "/blobs/" in path) if number % 2 else None
            print(f"seed {seed} rate {rate}")  # noqa: T201 - shown where it fails
            into = tmp_path / f"into-{number // 4}"
            argv = ("fetch", "--unsigned", "--lock", lock, "--to", str(into), "--from")
            with faulty_proxy(server.url, at_random(seed, rate, path=path)) as proxy:
                answer = stackyard(*argv, proxy.url, code=None)
            assert answer.code in (0, 6), answer.err
            complete(into)
            ended.append(answer.code)
            if answer.code == 0 or number % 4 == 3:
                if answer.code:
                    stackyard(*argv, server.url)
                assert tree(into) == fresh
    print(f"ended with {ended}")  # noqa: T201
