"""The ``stackyard`` command: the same tasks as ``invoke`` has in a clone."""

from __future__ import annotations

from invoke.collection import Collection
from invoke.program import Program

from stackyard import __version__, tasks

__all__ = ["main"]


def main() -> None:
    """Run the tasks that the command line names; ends the process with the documented code."""
    program = Program(
        name="Stackyard",
        binary="stackyard",
        binary_names=["stackyard"],
        namespace=Collection.from_module(tasks),
        version=__version__,
    )
    program.run()
