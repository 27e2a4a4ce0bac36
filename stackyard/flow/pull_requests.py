"""Pull requests: the stack as their jobs have it, with a mirror of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackyard.pipeline import PipelineType

if TYPE_CHECKING:
    from stackyard.flow.steps import Work

__all__ = ["has_own_mirror", "in_pull_request"]


def has_own_mirror(work: Work) -> bool:
    """Whether this is a job of a pull request, and settings give it a mirror of its own."""
    kind = PipelineType.parse(work.project.env.pipeline_type)
    return kind is PipelineType.PULL_REQUEST and bool(work.settings.pull_requests.mirror)


def in_pull_request(work: Work) -> Work:
    """The work on the mirrors that a pull request has, if this is one and has any.

    Raises ConfigError where nothing tells which pull request it is.
    """
    if not has_own_mirror(work) or "buildcache-destination" not in work.stack.mirrors:
        return work
    from stackyard.pull_requests import mirror_name, with_own_mirror

    settings = work.settings.pull_requests
    stack = with_own_mirror(work.stack, settings, mirror_name(work.project.env))
    own = stack.mirrors["buildcache-destination"]
    if _is_to_come(settings.prefix, own.fetch_url):
        # What is no mirror yet has no binaries; and what cannot be read is another matter.
        new = {own.name: own._replace(binary=False)}
        stack = stack._replace(mirrors={**stack.mirrors, **new})
    return work._replace(stack=stack)


def _is_to_come(prefix: str, url: str) -> bool:
    """Whether a mirror is a folder that the first push will make. Buckets have no folders."""
    from stackyard.edges.stores.folder import FileStore
    from stackyard.edges.stores.store import open_store

    if not prefix.startswith("file:"):
        return False
    above, own = open_store(prefix), open_store(url)
    return (
        isinstance(above, FileStore)
        and isinstance(own, FileStore)
        and above.is_there
        and not own.is_there
    )
