"""Tasks for those who work on Stackyard itself, in a clone of it."""

from __future__ import annotations

from invoke.context import Context

from stackyard.tasks.told import flow, told


@told(help={"long": "the full counts of races and random inputs", "only": "pytest's -k"})
def test(_: Context, long: bool = False, only: str = "") -> None:
    """Run the tests of Stackyard itself (in a clone)."""
    flow("own").test(long=long, only=only)


@told()
def lint(_: Context) -> None:
    """Check Stackyard's own code with ruff and mypy (in a clone)."""
    flow("own").lint()


@told(name="format")
def format_(_: Context) -> None:
    """Format Stackyard's own code (in a clone)."""
    flow("own").format_code()


@told(
    help={
        "spack": "folder of a Spack checkout to measure against",
        "repository": "clone of a git repository to measure spack.clone with (several: a,b)",
        "json": "print the figures as JSON",
        "only": "run benchmarks whose name contains this",
    }
)
def bench(
    _: Context, spack: str = "", repository: str = "", json: bool = False, only: str = ""
) -> None:
    """Measure Stackyard against its floor and against Spack (in a clone)."""
    flow("own").bench(spack=spack, repository=repository, as_json=json, only=only)
