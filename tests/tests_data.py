"""Where the tests' real data lies."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"
ROOT = Path(__file__).resolve().parent.parent
STACKS = ROOT / "stacks"

REAL_LOCKS = (
    STACKS / "small" / "spack.lock",
    STACKS / "tutorial" / "spack.lock",
    DATA / "small-spack-0.23.lock",
    DATA / "tiny.spack.lock",
    DATA / "v2.spack.lock",
)
