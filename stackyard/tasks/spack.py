"""Tasks for the Spack that does the work: ``spack.*``."""

from __future__ import annotations

from invoke.context import Context

from stackyard.tasks.told import flow, told


@told(
    help={
        "to": "folder of the checkout (default .spack)",
        "stack": "the pins of this stack (default: what all stacks agree on)",
        "json": "print folder and pins as JSON",
    }
)
def clone(_: Context, to: str = "", stack: str = "", json: bool = False) -> None:
    """Bring the pinned Spack and its packages, at their exact commits, by the fewest bytes."""
    flow("clone").clone(to=to, stack=stack, as_json=json)
