"""Fixtures for all tests, and a guard: the network ends at this machine."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from stackyard.lock import Lock, parse_lock

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(__file__).resolve().parent / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the full counts of races and faults")
    parser.addoption("--update-golden", action="store_true", help="write golden files anew")


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
