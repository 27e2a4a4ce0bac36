"""A container engine of our own for tests: Podman's service, a registry, and base images.

Nothing of the engine that a developer may have is touched: images, containers and configuration lie
in a folder of the tests. The base is made from Debian's own packages, which takes a minute; it is
kept in ``.services/``.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from oci_backends import docker_registry

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".services"
#: Of the base; the wheels for the build inside of it are for this one.
DEBIAN, PYTHON = "bookworm", "3.11"
_PACKAGES = "ca-certificates,gnupg,python3,python3-venv"

#: Works where cgroups are mixed and limits may not be raised, as in a container; and elsewhere.
CONF = """\
[containers]
default_ulimits = ["nofile=20000:20000","nproc=32768:32768"]
netns = "host"
cgroupns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class Engine(NamedTuple):
    """The service's address, a registry that it knows, and images that are there.

    ``base`` has GnuPG and Python; ``fetcher`` also wheels of stackyard and all that it needs.
    """

    folder: Path
    host: str
    base: str = "localhost/base:1"
    fetcher: str = "localhost/fetcher:1"

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/podman.sock"

    @property
    def variables(self) -> Mapping[str, str]:
        """What Podman's program needs to see the same images."""
        return {
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self.folder / "registries.conf"),
        }

    def podman(self, *arguments: str, code: int = 0, feed: str = "") -> str:
        done = subprocess.run(
            ["podman", *arguments],
            env={**os.environ, **self.variables},
            input=feed,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == code, done.stderr
        return done.stdout


def lacking() -> str:
    """Why there can be no engine; empty if there can."""
    programs = [name for name in ("podman", "runc", "docker-registry") if not shutil.which(name)]
    if programs:
        return f"no container engine for tests: {', '.join(programs)} not installed"
    if not _base().exists() and not (shutil.which("debootstrap") and _as_root() is not None):
        return "no base image for containers: debootstrap as root makes one"
    return ""


def _as_root() -> Sequence[str] | None:
    """What to put before a command for root; None if we cannot be."""
    if os.getuid() == 0:
        return []
    if shutil.which("sudo") and not subprocess.run(["sudo", "-n", "true"], check=False).returncode:
        return ["sudo", "-n"]
    return None


@contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """The engine while the block runs, or a skipped test."""
    if reason := lacking():
        pytest.skip(reason)
    folder.mkdir(parents=True)
    with docker_registry(folder / "registry") as host:
        made = Engine(folder, host)
        _configure(made)
        with _service(made):
            _make_images(made)
            yield made
            made.podman("rm", "--all", "--force")


def _configure(made: Engine) -> None:
    folder = made.folder
    (folder / "containers.conf").write_text(CONF)
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
    )
    (folder / "registries.conf").write_text(
        f'[[registry]]\nlocation = "{made.host}"\ninsecure = true\n'
    )


@contextmanager
def _service(made: Engine) -> Iterator[None]:
    argv = ["podman", "system", "service", "--time=0", made.url]
    with (made.folder / "log").open("wb") as log:
        process = subprocess.Popen(
            argv,
            env={**os.environ, **made.variables},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        for _ in range(200):
            assert process.poll() is None, (made.folder / "log").read_text()
            if (made.folder / "podman.sock").exists():
                break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)
        # What overlay has mounted keeps its folder from being removed.
        for mount in (
            made.folder / "graph" / "overlay",
            made.folder / "graph" / "overlay-containers",
        ):
            subprocess.run(["umount", str(mount)], capture_output=True, check=False)


def _make_images(made: Engine) -> None:
    """Skips where this machine cannot run a container at all."""
    made.podman("import", str(_make_base()), made.base)
    probe = subprocess.run(
        ["podman", "run", "--rm", "--network", "none", made.base, "true"],
        env={**os.environ, **made.variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if probe.returncode:
        pytest.skip(f"podman runs no container here: {probe.stderr.strip().splitlines()[-1]}")
    text = f"FROM {made.base}\nCOPY . /wheels\nENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels\n"
    dockerfile = made.folder / "fetcher"
    dockerfile.write_text(text)
    made.podman("build", "--file", str(dockerfile), "--tag", made.fetcher, str(_make_wheels(made)))


def _base() -> Path:
    return KEPT / f"base-{DEBIAN}.tar"


def _make_base() -> Path:
    """The tar archive of a small Debian."""
    target = _base()
    if target.exists():
        return target
    KEPT.mkdir(exist_ok=True)
    root = KEPT / f"base-{DEBIAN}-{secrets.token_hex(4)}"
    part = root.with_suffix(".part")
    first = _as_root() or []
    argv = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", DEBIAN, str(root)]
    made = subprocess.run([*first, *argv], capture_output=True, text=True, check=False)
    if made.returncode:
        subprocess.run([*first, "rm", "-rf", str(root)], check=True)
        pytest.skip(f"debootstrap made no base image: {(made.stderr or made.stdout)[-300:]!r}")
    useless = ("./var/cache/apt/archives/*.deb", "./var/lib/apt/lists/*", "./usr/share/doc/*")
    pack = ["tar", "-C", str(root), *(f"--exclude={text}" for text in useless), "-cf", str(part)]
    subprocess.run([*first, *pack, "."], check=True)
    subprocess.run([*first, "rm", "-rf", str(root)], check=True)
    part.rename(target)
    return target


def _make_wheels(made: Engine) -> Path:
    """A folder with stackyard as it stands here, and with all that it needs."""
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()[:16]
    needed = KEPT / f"wheels-{digest}"
    if not needed.exists():
        part = KEPT / f"wheels-{digest}-{secrets.token_hex(4)}"
        only = ["--only-binary=:all:", "--python-version", PYTHON]
        _pip("download", "--dest", str(part), *only, str(ROOT), "hatchling>=1.25")
        part.rename(needed)
    wheels = made.folder / "wheels"
    shutil.copytree(needed, wheels)
    _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT))
    return wheels


def _pip(*arguments: str) -> None:
    argv = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=600)
    lost = ("No matching distribution", "Connection", "Could not fetch", "No module named pip")
    if done.returncode and any(text in done.stderr for text in lost):
        pytest.skip(f"pip reaches no index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
