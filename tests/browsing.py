"""A real browser for tests, headless; a plugin (see conftest)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Playwright's, with the Chromium that STACKYARD_BROWSER names, or that of this machine."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    named = os.environ.get("STACKYARD_BROWSER") or "chromium"
    program = next(filter(None, map(shutil.which, (named, "chromium-browser"))), None)
    if program is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as session:
        running = session.chromium.launch(executable_path=program, args=list(_ARGUMENTS))
        yield running
        running.close()
