"""The ``stackyard`` command: the same tasks as ``invoke`` has in a clone."""

from __future__ import annotations

from invoke.config import Config
from invoke.exceptions import Exit
from invoke.program import Program

from stackyard import __version__, tasks

__all__ = ["check_config", "main"]


def main() -> None:
    """Run the tasks that the command line names; ends the process with the documented code."""
    program = Program(
        name="Stackyard",
        binary="stackyard",
        binary_names=["stackyard"],
        namespace=tasks.namespace,
        version=__version__,
    )
    program.run()


def check_config(folder: str) -> None:
    """Raise Exit for an ``invoke.yaml`` that ``invoke`` cannot read, which it does next itself.

    It knows no answer but a traceback to any mistake in the file.
    """
    try:
        config = Config(lazy=True)
        config.set_project_location(folder)
        config.load_project()
    except Exception as error:  # noqa: BLE001 - whatever it is, the file caused it
        raise _explained(folder, error) from None


def _explained(folder: str, problem: Exception) -> Exit:
    """Our own parser says where the mistake is; else what Invoke says has to do."""
    from stackyard.edges.settings import SETTINGS_FILE, read_settings
    from stackyard.errors import ConfigError

    text = " ".join(str(problem).split())
    error = ConfigError(f"Invoke cannot read it: {text}", where=SETTINGS_FILE)
    try:
        read_settings(folder)
    except ConfigError as found:
        error = found
    return Exit(f"error: {error}", code=error.code)
