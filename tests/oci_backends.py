"""Registries as back-ends of the contract suite: Debian's own, and the fake one."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from fake_registry import fake_registry

from stackyard.edges.stores.oci import OciStore
from stackyard.edges.stores.store import Access
from stackyard.oci import INDEX_TYPES, manifest_key

PROGRAM = shutil.which("docker-registry") or ""


class OciBackend(NamedTuple):
    """One empty repository of a registry."""

    url: str

    def store(self) -> OciStore:
        return OciStore(self.url, Access(), timeout_s=10, sleep=lambda _: None)

    def key(self, name: str) -> str:
        """A tag: everything that cannot be in one is written as ``_``."""
        return manifest_key(re.sub(r"[^A-Za-z0-9_.-]|^[.-]", "_", name))

    def content(self, text: str) -> bytes:
        """A choice of no images, whose annotation is the text."""
        document = {
            "schemaVersion": 2,
            "mediaType": INDEX_TYPES[0],
            "manifests": [],
            "annotations": {"text": text},
        }
        return json.dumps(document).encode()


@contextmanager
def docker_registry(
    folder: Path, *, tls: tuple[Path, Path] | None = None, users: str = ""
) -> Iterator[str]:
    """Debian's docker-registry on this machine, or a skipped test; gives ``host:port``.

    ``tls`` are the files of a certificate and its key; ``users`` has lines of ``name:bcrypt``, and
    only they may come in.
    """
    if not PROGRAM:
        pytest.skip("docker-registry is not installed: apt-get install docker-registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    http: dict[str, object] = {"addr": host}
    if tls:
        http["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    config: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "data")},
            "delete": {"enabled": True},
        },
        "http": http,
    }
    folder.mkdir(parents=True, exist_ok=True)
    if users:
        (folder / "users").write_text(f"{users}\n")
        config["auth"] = {"htpasswd": {"realm": "x", "path": str(folder / "users")}}
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        argv = [PROGRAM, "serve", str(folder / "config.yml")]
        process = subprocess.Popen(argv, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]})
    try:
        _wait_for(host, process, folder / "log")
        yield host
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _wait_for(host: str, process: subprocess.Popen[bytes], log: Path) -> None:
    address, _, port = host.partition(":")
    for _ in range(200):
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection((address, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"docker-registry does not answer: {log.read_text()}")


@contextmanager
def real_backend(folder: Path) -> Iterator[OciBackend]:
    with docker_registry(folder) as host:
        yield OciBackend(f"oci+http://{host}/{_name()}")


@contextmanager
def fake_backend() -> Iterator[OciBackend]:
    with fake_registry() as server:
        server.page = 3  # so that every list has pages
        yield OciBackend(server.mirror(_name()))


def _name() -> str:
    return f"test/{secrets.token_hex(4)}"
