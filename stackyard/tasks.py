"""Every task: its name, its help, one call into ``flow``. The only module that knows Invoke.

Every argument has a default: Invoke takes one without for a positional, which swallows ``--help``.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from stackyard.errors import StackyardError, StaleError

if TYPE_CHECKING:
    from types import ModuleType

_STACK = "name of a folder below stacks/ (default: the only one there)"
_PRUNING = {
    "no_prune": "build everything, ask no mirror",
    "check_index_only": "believe the mirrors' indices; no direct look-ups for what they lack",
    "prune_unaffected": "build only what the change since --since reaches",
    "since": "git revision that a change is measured from (default HEAD^)",
    "packages": "checkout of the package repository, to see which recipes its last commit changed",
    "lock": "another file than the stack's spack.lock",
    "mirror": "look for binaries at this URL instead of the stack's mirrors (repeatable)",
}


def _told(**options: Any) -> Callable[[Callable[..., None]], Any]:
    """A task whose own errors end it with a message and the documented exit code."""

    def decorate(function: Callable[..., None]) -> Any:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            collecting = gc.isenabled()
            # A task builds large trees without cycles and ends: looking for garbage in them again
            # and again would take most of the time with a large lock.
            gc.disable()
            try:
                function(*args, **kwargs)
            except StackyardError as error:
                if isinstance(error, StaleError) and error.diff:
                    sys.stdout.write(error.diff)
                from stackyard.edges.console import printable

                raise Exit(printable(f"error: {error}"), code=error.code) from None
            except BrokenPipeError:
                # The reader has seen enough (`| head`); what is still buffered goes nowhere.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise Exit(code=0) from None
            finally:
                if collecting:
                    gc.enable()

        # No short flags: Invoke would deal out letters by chance, -h among them.
        return task(run, auto_shortflags=False, **options)

    return decorate


def _flow() -> ModuleType:
    """The steps, imported only when a task runs: ``invoke --list`` stays instant."""
    from stackyard import flow

    return flow


def _request(arguments: Mapping[str, Any]) -> Any:
    """What was asked for, from the arguments of a task that plans."""
    given = {**arguments, "mirrors": tuple(arguments["mirror"] or ())}
    made = _flow().Request
    return made(**{name: given[name] for name in made._fields})


@_told(
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
    _flow().generate(
        request,
        output=output,
        artifacts_root=artifacts_root,
        check=check,
        forward=tuple(forward_variable or ()),
    )


@_told(
    iterable=["mirror"],
    help={
        **_PRUNING,
        "stack": _STACK,
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
    _flow().plan(request, as_json=json, html=html)


@_told(
    iterable=["mirror"],
    help={
        **_PRUNING,
        "stack": _STACK,
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
    _flow().graph(request, output=output)


@_told(
    name="lock",
    help={
        "stack": _STACK,
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
    _flow().lock(stack=stack, lock=lock, check=check, verify=verify, as_json=json)


@_told(
    help={
        "stack": "look at this stack only (default: all)",
        "offline": "do not try the mirrors",
        "json": "print the findings as JSON",
    }
)
def doctor(_: Context, stack: str = "", offline: bool = False, json: bool = False) -> None:
    """Tell what is missing: settings, stacks, locks, variables, mirrors."""
    _flow().doctor(stack=stack, offline=offline, as_json=json)


@_told(help={"long": "the full counts of races and random inputs", "only": "pytest's -k"})
def test(_: Context, long: bool = False, only: str = "") -> None:
    """Run the tests of Stackyard itself (in a clone)."""
    _flow().test(long=long, only=only)


@_told()
def lint(_: Context) -> None:
    """Check Stackyard's own code with ruff and mypy (in a clone)."""
    _flow().lint()


@_told(name="format")
def format_(_: Context) -> None:
    """Format Stackyard's own code (in a clone)."""
    _flow().format_code()


@_told(
    help={
        "spack": "folder of a Spack checkout to measure against",
        "json": "print the figures as JSON",
        "only": "run benchmarks whose name contains this",
    }
)
def bench(_: Context, spack: str = "", json: bool = False, only: str = "") -> None:
    """Measure Stackyard against its floor and against Spack (in a clone)."""
    _flow().bench(spack=spack, as_json=json, only=only)
