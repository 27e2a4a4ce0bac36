"""What this suite takes for granted about Spack: the tiny stack installs from its own mirrors."""

from __future__ import annotations

from collections.abc import Callable

from real_spack import RealSpack, needs_spack
from tests_data import DATA

pytestmark = needs_spack


def test_installs_from_its_own_mirror(fresh_spack: Callable[[], RealSpack]) -> None:
    spack = fresh_spack()
    environment = spack.tiny(f"file://{DATA}/mirrors/v3-unsigned", signed=False)
    listed = spack("-e", environment, "buildcache", "list", "--allarch", "--long")
    assert listed.count("tiny-") == 7
    assert spack.install(environment) == 7
