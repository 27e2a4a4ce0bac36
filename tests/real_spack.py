"""The real Spack that STACKYARD_SPACK names, in a configuration of its own, and a tiny stack.

The stack has five packages without code: Spack installs them in seconds and without a network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from tests_data import DATA

SPACK = os.environ.get("STACKYARD_SPACK", "")
PYTHON = os.environ.get("SPACK_PYTHON", "")  # taken before a test's environment is cleaned
#: What Spack finds out about all its packages takes it a minute: once for all tests, and kept.
INDICES = Path(tempfile.gettempdir()) / f"stackyard-spack-indices-{os.getuid()}"
needs_spack = pytest.mark.skipif(
    not SPACK,
    reason="set STACKYARD_SPACK to a checkout of Spack 1.1: git clone https://github.com/spack/spack",
)


class RealSpack:
    """One install tree, one keyring, and no configuration of this machine's users."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Path(tempfile.mkdtemp(prefix="sp-"))  # agent sockets want a short path
        self.home.chmod(0o700)
        self.tree = folder / "tree"
        config = folder / "config"
        config.mkdir(parents=True)
        (config / "config.yaml").write_text(
            f"config:\n  install_tree: {{root: {self.tree}}}\n  source_cache: {folder}/sources\n"
            f"  misc_cache: {INDICES}\n  build_stage: [{folder}/stage]\n"
        )
        if packages := os.environ.get("STACKYARD_PACKAGES"):
            repository = f"{packages}/repos/spack_repo/builtin"
            (config / "repos.yaml").write_text(f"repos:\n  builtin: {repository}\n")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CI_", "SPACK_"))}
        self.env = {
            **kept,
            "SPACK_USER_CONFIG_PATH": str(config),
            "SPACK_USER_CACHE_PATH": str(folder / "cache"),
            "SPACK_SYSTEM_CONFIG_PATH": str(folder / "system"),
            "SPACK_GNUPGHOME": str(self.home),
            **({"SPACK_PYTHON": PYTHON} if PYTHON else {}),
        }

    def __call__(self, *arguments: str, code: int | None = 0, **env: str) -> str:
        """What ``spack ARGUMENTS`` said on both its outputs; ``code`` is what it must end with."""
        done = subprocess.run(
            [f"{SPACK}/bin/spack", *arguments],
            env={**self.env, **env},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )
        assert code is None or done.returncode == code, done.stdout
        return done.stdout

    def tiny(self, mirror: str = "", *, signed: bool = True) -> str:
        """A new environment with the tiny stack and its lock, and perhaps a mirror; its folder."""
        folder = self.folder / f"tiny-{len(list(self.folder.glob('tiny-*')))}"
        shutil.copytree(DATA / "tiny", folder)
        shutil.copy(DATA / "tiny.spack.lock", folder / "spack.lock")
        if mirror:
            with (folder / "spack.yaml").open("a") as manifest:
                flag = str(signed).lower()
                manifest.write(f"  mirrors:\n    m: {{url: '{mirror}', signed: {flag}}}\n")
        return str(folder)

    def install(self, environment: str, *options: str) -> int:
        """Install what is locked from mirrors alone; the number of packages that are there then."""
        self("-e", environment, "install", "--cache-only", "--only-concrete", *options)
        found = json.loads(self("find", "--json"))
        return len(found)

    def close(self) -> None:
        """Stop the keyring's agent and remove the keyring."""
        kill = ["gpgconf", "--homedir", str(self.home), "--kill", "all"]
        subprocess.run(kill, check=False, capture_output=True)
        shutil.rmtree(self.home, ignore_errors=True)
