"""Talk to a CDash server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from stackyard.edges.api import ask_json
from stackyard.errors import CorruptError

__all__ = ["build_stamp", "create_build_group"]

_TIMEOUT_S = 45.0


def build_stamp(build_group: str) -> str:
    """Names one nightly run: local time and group (``reporters/cdash.py`` in Spack 1.1)."""
    return time.strftime(f"%Y%m%d-%H%M-{build_group.replace('%', '%%')}")


def create_build_group(cdash: Mapping[str, Any], token: str) -> None:
    """Make sure that the project has the group. Raises StoreError if CDash does not say so."""
    url = f"{str(cdash.get('url') or '').rstrip('/')}/api/v1/buildgroup.php"
    answer = ask_json(
        url,
        headers={"Authorization": f"Bearer {token}"},
        body={
            "newbuildgroup": cdash["build-group"],
            "project": cdash.get("project"),
            "type": "Daily",
        },
        timeout_s=_TIMEOUT_S,
    )
    if not isinstance(answer, dict) or not answer.get("id"):
        raise CorruptError("CDash's answer names no build group", where=url)
