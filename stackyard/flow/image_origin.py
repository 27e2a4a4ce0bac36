"""What an image's labels say of where it comes from."""

from __future__ import annotations

from stackyard.edges.git_head import read_origin
from stackyard.flow.contents import lock_digest
from stackyard.flow.steps import Work
from stackyard.image import Origin, make_labels
from stackyard.image_build import web_url
from stackyard.image_names import parse_image_name

__all__ = ["image_labels", "image_origin"]


def image_origin(work: Work, version: str) -> Origin:
    """Repository, commit and its time; outside of git nothing but the version is known."""
    found = read_origin(work.project.root)
    return Origin(web_url(found.remote), found.commit, found.time, version)


def image_labels(work: Work, base: str, version: str) -> dict[str, str]:
    """The labels of a stack's image that is built on this base. Raises ConfigError for a base that
    cannot be one.
    """
    name = parse_image_name(base, "image.base")
    return dict(
        make_labels(
            stack=work.stack.name,
            origin=image_origin(work, version),
            spack_commit=work.lock.spack_commit,
            lock_digest=lock_digest(work),
            licenses=work.settings.image.licenses,
            base_name=f"{name.written}{f':{name.tag}' if name.tag else ''}",
            base_digest=name.digest,
        )
    )
