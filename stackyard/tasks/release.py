"""The task that makes a release of proven binaries."""

from __future__ import annotations

from invoke.context import Context

from stackyard.tasks.told import flow, told


@told(
    name="release",
    iterable=["stack", "skip"],
    help={
        "tag": "name of the release, and tag of its image: sc26 becomes rev-sc26 in git",
        "stack": "only this one of release.stacks (repeatable; default: all of them)",
        "skip": "do not ask this gate; the tag says so (repeatable): clean, branch, generated, "
        "pipeline, image, lock, binaries, signatures, index or key",
        "dry_run": "ask the gates and show the notes; tag nothing, exit 1 if a gate is shut",
        "mirror": "where the binaries have to be: URL or name (default: REMOTE_BUILDCACHE_URL, then "
        "the stack's mirror)",
        "keys": "file or folder with the public keys to trust (default: the stack's keys/, then "
        "settings)",
        "wait": "minutes to wait for the image, 0 for not at all (default release.wait_minutes)",
        "json": "print gates, notes and images as JSON",
    },
)
def release(  # noqa: PLR0913
    _: Context,
    tag: str = "",
    stack: list[str] | None = None,
    skip: list[str] | None = None,
    dry_run: bool = False,
    mirror: str = "",
    keys: str = "",
    wait: str = "",
    json: bool = False,
) -> None:
    """Prove that a release is complete, tag it, and wait for its image."""
    flow("release").release(
        tag=tag,
        stacks=tuple(stack or ()),
        skips=tuple(skip or ()),
        dry_run=dry_run,
        mirror=mirror,
        keys=keys,
        wait=wait,
        as_json=json,
    )
