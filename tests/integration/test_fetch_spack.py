"""A fetched folder is a mirror that the real Spack uses as it stands, offline."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_spack import RealSpack, needs_spack
from tests_data import DATA

pytestmark = needs_spack

MIRRORS = DATA / "mirrors"

#: The lock's gcc-runtime is on no mirror, so what Spack installs has to be named.
_INSTALL = """
import spack.binary_distribution
import spack.environment
for spec in spack.environment.active_environment().all_specs_generator():
    if not spec.external and spec.name != "gcc-runtime":
        spack.binary_distribution.install_root_node(spec, unsigned=None, allow_missing=True)
"""


@pytest.fixture
def fetched(stackyard: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """Fetches one of the real mirrors; the folder with it."""

    def fetch(mirror: str, *flags: str, lock: str = "tiny.spack.lock") -> Path:
        into = tmp_path / "fetched"
        place = ("--from", str(MIRRORS / mirror), "--to", str(into))
        stackyard("fetch", "--lock", str(DATA / lock), *place, *flags)
        return into

    return fetch


@pytest.fixture
def keys(tmp_path: Path) -> str:
    """The key that the real mirrors were signed with."""
    folder = tmp_path / "keys"
    folder.mkdir()
    (source,) = (MIRRORS / "v2-signed" / "build_cache" / "_pgp").glob("*.pub")
    shutil.copy(source, folder)
    return str(folder)


def test_signed(
    fetched: Callable[..., Path], keys: str, fresh_spack: Callable[[], RealSpack]
) -> None:
    into = fetched("v3-signed", "--keys", keys)
    spack = fresh_spack()
    environment = spack.tiny(f"file://{into}")
    listed = spack("-e", environment, "buildcache", "list", "--allarch", "--long")
    assert listed.count("tiny-") == 7
    # Without the key Spack takes nothing, so what follows proves something.
    spack("-e", environment, "install", "--cache-only", "--only-concrete", code=1)
    spack("-e", environment, "buildcache", "keys", "--install", "--trust")
    assert spack.install(environment) == 7


def test_unsigned(fetched: Callable[..., Path], fresh_spack: Callable[[], RealSpack]) -> None:
    into = fetched("v3-unsigned", "--unsigned")
    spack = fresh_spack()
    environment = spack.tiny(f"file://{into}", signed=False)
    listed = spack("-e", environment, "buildcache", "list", "--allarch", "--long")
    assert listed.count("tiny-") == 7
    assert spack.install(environment) == 7


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_layout_2(
    fetched: Callable[..., Path],
    keys: str,
    fresh_spack: Callable[[], RealSpack],
    *,
    signed: bool,
) -> None:
    flags = ("--keys", keys) if signed else ("--unsigned",)
    mirror = "v2-signed" if signed else "v2-unsigned"
    into = fetched(mirror, "--allow-missing", *flags, lock="v2.spack.lock")
    spack = fresh_spack()
    environment = spack.tiny(f"file://{into}", signed=signed)
    shutil.copy(DATA / "v2.spack.lock", Path(environment) / "spack.lock")
    listed = spack("-e", environment, "buildcache", "list", "--allarch", "--long")
    assert listed.count("tiny-") == 5
    script = spack.folder / "install.py"
    script.write_text(_INSTALL)
    if signed:
        assert "No public key" in spack("-e", environment, "python", str(script), code=None)
        assert list(spack.tree.rglob("tiny-*/.spack/spec.json")) == []
        spack("-e", environment, "buildcache", "keys", "--install", "--trust")
    spack("-e", environment, "python", str(script))
    assert len(list(spack.tree.rglob("tiny-*/.spack/spec.json"))) == 5
