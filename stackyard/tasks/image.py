"""Tasks about container images: all that begins with ``image.``."""

from __future__ import annotations

from invoke.context import Context

from stackyard.tasks.told import flow, told


@told(
    help={
        "check": "write nothing; exit 3 if an image has no digest, or its tag means another now",
        "json": "print what was found as JSON",
    }
)
def pin(_: Context, check: bool = False, json: bool = False) -> None:
    """Look up the digests of base images, and write them into settings and Dockerfiles."""
    flow("pinning").pin(check=check, as_json=json)
