"""What all tasks have in common: how errors end them, and how they reach the steps."""

from __future__ import annotations

import functools
import gc
import importlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from invoke.exceptions import Exit
from invoke.tasks import task

from stackyard.errors import StackyardError, StaleError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["STACK", "flow", "told"]

STACK = "name of a folder below stacks/ (default: the only one there)"


def told(**options: Any) -> Callable[[Callable[..., None]], Any]:
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
            except KeyboardInterrupt:
                raise Exit("error: stopped", code=1) from None
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


def flow(module: str) -> ModuleType:
    """A module of steps, imported only when a task runs: ``invoke --list`` stays instant."""
    return importlib.import_module(f"stackyard.flow.{module}")
