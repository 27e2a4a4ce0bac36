"""What is left of a mirror after ``mirror.prune``, in the eyes of the real Spack."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_spack import RealSpack, needs_spack
from tests_data import DATA

pytestmark = needs_spack

KEPT = {"tiny-base", "tiny-lib", "tiny-tool"}


@pytest.mark.parametrize("repaired", [False, True], ids=["pruned", "repaired"])
def test_spack_sees_and_installs_just_what_is_kept(
    stackyard: Callable[..., Any],
    fresh_spack: Callable[[], RealSpack],
    tmp_path: Path,
    repaired: bool,  # noqa: FBT001
) -> None:
    mirror = Path(shutil.copytree(DATA / "mirrors" / "v3-unsigned", tmp_path / "mirror"))
    if repaired:
        for name in ("tiny-app", "tiny-data"):
            for path in (mirror / "v3" / "manifests" / "spec" / name).iterdir():
                path.write_text("{}")
        old = next((mirror / "v3" / "manifests" / "spec" / "tiny-lib").glob("*-1.0-*"))
        old.write_text("{}")
        stackyard("mirror.verify", "--url", str(mirror), "--unsigned", "--repair")
    else:
        flags = ("--keep", "tiny-tool", "--grace-hours", "0", "--yes")
        stackyard("mirror.prune", "--url", str(mirror), *flags)
    spack = fresh_spack()
    environment = spack.tiny(f"file://{mirror}", signed=False)
    listed = spack("-e", environment, "buildcache", "list", "--allarch", "--long")
    found = {line.split()[1].partition("@")[0] for line in listed.splitlines() if "@" in line}
    assert found == KEPT
    spack("-e", environment, "install", "--cache-only", "--only-concrete", "tiny-tool")
    assert {path.name.rsplit("-", 2)[0] for path in spack.tree.glob("*/tiny-*")} == KEPT
    spack("-e", environment, "install", "--cache-only", "--only-concrete", "tiny-app", code=1)


def test_layout_2(
    stackyard: Callable[..., Any], fresh_spack: Callable[[], RealSpack], tmp_path: Path
) -> None:
    mirror = Path(shutil.copytree(DATA / "mirrors" / "v2-unsigned", tmp_path / "mirror"))
    stackyard("mirror.prune", "--url", str(mirror), "--keep", "tiny-tool", "--yes")
    spack = fresh_spack()
    environment = spack.tiny(f"file://{mirror}", signed=False)
    listed = spack("-e", environment, "buildcache", "list", "--allarch", "--long")
    found = {line.split()[1].partition("@")[0] for line in listed.splitlines() if "@1" in line}
    assert found == KEPT
