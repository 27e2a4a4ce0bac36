from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_spack import SPACK, RealSpack


@pytest.fixture
def fresh_spack(tmp_path: Path) -> Iterator[Callable[[], RealSpack]]:
    """Makes a Spack with an empty install tree and keyring, as often as it is called."""
    made: list[RealSpack] = []

    def make() -> RealSpack:
        made.append(RealSpack(tmp_path / f"spack-{len(made)}"))
        return made[-1]

    if not SPACK:
        pytest.skip("set STACKYARD_SPACK to a checkout of Spack 1.1")
    yield make
    for spack in made:
        spack.close()
