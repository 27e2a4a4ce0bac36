"""Tasks that read a stack and plan: generate, plan, graph, lock, doctor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from invoke.context import Context

from stackyard.tasks.told import STACK, flow, told

_PRUNING = {
    "no_prune": "build everything, ask no mirror",
    "check_index_only": "believe the mirrors' indices; no direct look-ups for what they lack",
    "prune_unaffected": "build only what the change since --since reaches",
    "since": "git revision that a change is measured from (default HEAD^)",
    "packages": "checkout of the package repository, to see which recipes its last commit changed",
    "lock": "another file than the stack's spack.lock",
    "mirror": "look for binaries at this URL instead of the stack's mirrors (repeatable)",
}


def _request(arguments: Mapping[str, Any]) -> Any:
    """What was asked for, from the arguments of a task that plans."""
    given = {**arguments, "mirrors": tuple(arguments["mirror"] or ())}
    made = flow("steps").Request
    return made(**{name: given[name] for name in made._fields})


@told(
    iterable=["mirror", "forward_variable"],
    help={
        **_PRUNING,
        "stack": "render this stack's child pipeline (default: the parent pipeline of all)",
        "output": "file of the child pipeline (default: pipeline.yml in --artifacts-root)",
        "artifacts_root": "folder for what the jobs need (default jobs_scratch_dir)",
        "forward_variable": "pass this variable of the environment on to all jobs (repeatable)",
        "check": "write nothing; exit 3 with the difference if a file is not up to date",
    },
)
def generate(  # noqa: PLR0913
    _: Context,
    stack: str = "",
    output: str = "",
    artifacts_root: str = "",
    check: bool = False,
    no_prune: bool = False,
    check_index_only: bool = False,
    prune_unaffected: bool = False,
    since: str = "",
    packages: str = "",
    lock: str = "",
    mirror: list[str] | None = None,
    forward_variable: list[str] | None = None,
) -> None:
    """Render .gitlab-ci.yml for all stacks, or with --stack the pipeline of its packages."""
    request = _request(locals())
    flow("generate").generate(
        request,
        output=output,
        artifacts_root=artifacts_root,
        check=check,
        forward=tuple(forward_variable or ()),
    )


@told(
    iterable=["mirror"],
    help={
        **_PRUNING,
        "stack": STACK,
        "json": "print the plan as JSON",
        "html": "also write the plan as one HTML file",
    },
)
def plan(  # noqa: PLR0913
    _: Context,
    stack: str = "",
    json: bool = False,
    html: str = "",
    no_prune: bool = False,
    check_index_only: bool = False,
    prune_unaffected: bool = False,
    since: str = "",
    packages: str = "",
    lock: str = "",
    mirror: list[str] | None = None,
) -> None:
    """Show what would be built, what is reused from where, and why."""
    request = _request(locals())
    flow("planning").plan(request, as_json=json, html=html)


@told(
    iterable=["mirror"],
    help={
        **_PRUNING,
        "stack": STACK,
        "output": "file to write: .svg or .html (default graph.html)",
    },
)
def graph(  # noqa: PLR0913
    _: Context,
    stack: str = "",
    output: str = "graph.html",
    no_prune: bool = False,
    check_index_only: bool = False,
    prune_unaffected: bool = False,
    since: str = "",
    packages: str = "",
    lock: str = "",
    mirror: list[str] | None = None,
) -> None:
    """Draw the plan as a picture, a level of the DAG beside the other."""
    request = _request(locals())
    flow("planning").graph(request, output=output)


@told(
    name="lock",
    help={
        "stack": STACK,
        "check": "exit 3 if spack.lock does not answer spack.yaml",
        "verify": "recompute every DAG hash",
        "lock": "another file than the stack's spack.lock",
        "json": "print the result as JSON",
    },
)
def lock_(
    _: Context,
    stack: str = "",
    check: bool = False,
    verify: bool = False,
    lock: str = "",
    json: bool = False,
) -> None:
    """Check that a lock answers its manifest (--check) and that its hashes are true (--verify)."""
    flow("locks").lock(stack=stack, lock=lock, check=check, verify=verify, as_json=json)


@told(
    help={
        "stack": "look at this stack only (default: all)",
        "offline": "do not try the mirrors",
        "json": "print the findings as JSON",
    }
)
def doctor(_: Context, stack: str = "", offline: bool = False, json: bool = False) -> None:
    """Tell what is missing: settings, stacks, locks, variables, mirrors."""
    flow("examination").doctor(stack=stack, offline=offline, as_json=json)
