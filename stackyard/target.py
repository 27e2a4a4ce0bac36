"""Order of microarchitectures: what ``target=`` means when it is not one plain name.

Follows ``ArchSpec`` in Spack 1.1's ``spec.py``. A value is a comma-separated list of names and
ranges (``x86_64_v3:``, ``:zen2``). The order comes from archspec, which is imported only when a
range is compared.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from stackyard.errors import SpecError

__all__ = ["common_target", "target_satisfies"]


@lru_cache(maxsize=4096)
def target_satisfies(target: str, wanted: str) -> bool:
    """Whether a concrete target is one of the names or in one of the ranges of ``wanted``.

    Raises SpecError where the end of a range is no microarchitecture that archspec knows.
    """
    if wanted in ("*", target):
        return True
    return any(_in_part(target, part) for part in wanted.split(","))


@lru_cache(maxsize=4096)
def common_target(a: str, b: str) -> str:
    """The targets that satisfy both values, in the same notation; empty if none does.

    Raises SpecError as ``target_satisfies`` does.
    """
    if "*" in (a, b):
        return b if a == "*" else a
    parts = [_meet(x, y) for x in a.split(",") for y in b.split(",")]
    return ",".join(dict.fromkeys(part for part in parts if part))


def _in_part(target: str, part: str) -> bool:
    low, colon, high = part.partition(":")
    if not colon:
        return target == part
    _refuse_unknown(low, high)
    return (not low or _at_most(low, target)) and (not high or _at_most(target, high))


def _meet(a: str, b: str) -> str:
    if ":" not in a:
        return a if _in_part(a, b) else ""
    if ":" not in b:
        return b if _in_part(b, a) else ""
    (a_low, _, a_high), (b_low, _, b_high) = a.partition(":"), b.partition(":")
    _refuse_unknown(a_low, a_high, b_low, b_high)
    low = _stronger(a_low, b_low, upper=False)
    high = _stronger(a_high, b_high, upper=True)
    if low is None or high is None or (low and high and not _at_most(low, high)):
        return ""
    return low if low and low == high else f"{low}:{high}"


def _stronger(a: str, b: str, *, upper: bool) -> str | None:
    """The end that excludes more; None if the two cannot be compared."""
    if not a or not b:
        return a or b
    if _at_most(a, b):
        return a if upper else b
    if _at_most(b, a):
        return b if upper else a
    return None


def _at_most(a: str, b: str) -> bool:
    """Whether ``a`` is ``b`` or one of its ancestors."""
    return bool(_microarchitecture(a) <= _microarchitecture(b))


def _refuse_unknown(*ends: str) -> None:
    for name in filter(None, ends):
        if name not in _archspec().TARGETS:
            raise SpecError(
                f"target {name[:80]!r} is not a microarchitecture that archspec knows",
                hint="a range of targets needs known names: target=x86_64_v3:",
            )


def _microarchitecture(name: str) -> Any:
    cpu = _archspec()
    return cpu.TARGETS.get(name) or cpu.generic_microarchitecture(name)


def _archspec() -> Any:
    import archspec.cpu

    return archspec.cpu
