"""Talk to a CDash server."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from stackyard.edges.rest import Rest
from stackyard.errors import CorruptError

__all__ = ["build_stamp", "create_build_group"]

_TIMEOUT_S = 20.0
_HINTS: Mapping[int, str] = {
    401: "the token is not valid there, or has run out: is SPACK_CDASH_AUTH_TOKEN one of this server?",
    403: "the token's user must be an administrator of the project",
    404: "are url and project right in the stack's cdash section?",
    422: "is build-group right in the stack's cdash section?",
}


def build_stamp(build_group: str) -> str:
    """Names one nightly run: local time and group (``reporters/cdash.py`` in Spack 1.1)."""
    return time.strftime(f"%Y%m%d-%H%M-{build_group.replace('%', '%%')}")


class _CDash(Rest):
    name = "CDash"
    example = "https://cdash.example.com"

    def hint(self, status: int, words: str) -> str:
        del words
        return _HINTS.get(status, "")


def create_build_group(
    cdash: Mapping[str, Any],
    token: str,
    *,
    timeout_s: float = _TIMEOUT_S,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Make sure that the project has the group. Raises StoreError if CDash does not say so."""
    server = _CDash(
        str(cdash.get("url") or ""),
        headers={"Authorization": f"Bearer {token.strip()}"},
        secrets=(token.strip(),),
        timeout_s=timeout_s,
        sleep=sleep,
    )
    wanted = {
        "newbuildgroup": cdash["build-group"],
        "project": cdash.get("project"),
        "type": "Daily",
    }
    path = "/api/v1/buildgroup.php"
    try:
        # A group that is there already is found, not made again.
        answer = server.post(path, wanted, repeatable=True)
    finally:
        server.close()
    if not isinstance(answer, dict) or not answer.get("id"):
        raise CorruptError("CDash's answer names no build group", where=f"{server.root}{path}")
