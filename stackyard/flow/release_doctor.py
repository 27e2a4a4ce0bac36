"""What ``doctor`` sees of a release: what its gates would miss before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stackyard.errors import ConfigError, StackyardError
from stackyard.settings import make_settings

if TYPE_CHECKING:
    from stackyard.flow.examination import Finding
    from stackyard.flow.steps import Project, Work

__all__ = ["release_findings"]


def release_findings(project: Project, seen: Sequence[Work], *, offline: bool) -> Iterator[Finding]:
    """About the remote, and about images and keys of the stacks; nothing outside of git."""
    from stackyard.edges import git

    try:
        repository = git.top(project.root)
    except StackyardError:
        return
    yield from _stack_findings(project)
    yield from _git_findings(project, repository, offline=offline)
    repositories: dict[str, str] = {}
    for work in seen:
        yield from _image_findings(work, repositories)
        yield from _key_findings(work)
    settings = make_settings(project.settings)
    env = project.env
    if settings.gitlab.project and not (env.get("GITLAB_TOKEN") or env.get("GITLAB_PRIVATE_TOKEN")):
        yield _finding(
            "asks GitLab without a token whether the pipeline succeeded",
            "set GITLAB_TOKEN (scope read_api), unless everybody may see the project",
        )


def _finding(text: str, hint: str = "", *, stack: str = "", code: int = 0) -> Finding:
    from stackyard.flow.examination import Finding

    check = f"{stack}: release" if stack else "release"
    return Finding(check=check, text=text, hint=hint, code=code, advice=bool(hint) and not code)


def _stack_findings(project: Project) -> Iterator[Finding]:
    from stackyard.edges.stacks import list_stacks
    from stackyard.shape import near

    known = list_stacks(project.root)
    for name in make_settings(project.settings).release.stacks:
        if name not in known:
            hint = near(name, known) or "put a spack.yaml into stacks/NAME/"
            yield _finding(f"release.stacks names {name!r}, which is no stack", hint, code=2)


def _git_findings(project: Project, repository: Path, *, offline: bool) -> Iterator[Finding]:
    from stackyard.edges import git_release
    from stackyard.release import check_prefix

    wanted = make_settings(project.settings).release
    try:
        check_prefix(wanted.prefix)
        git_release.committer(repository)
        if offline:
            return
        remote = git_release.ask_remote(repository, wanted.remote, wanted.prefix)
    except StackyardError as error:
        yield _finding(error.message, error.hint or "see docs/release.md")
        return
    branch = wanted.branch or remote.default
    if branch not in remote.branches:
        yield _finding(
            f"{wanted.remote} has no branch {branch!r}",
            "push it, or name another: release.branch",
        )
        return
    yield _finding(f"comes from {branch} of {wanted.remote}; so far there: {len(remote.tags)}")


def _image_findings(work: Work, repositories: dict[str, str]) -> Iterator[Finding]:
    """``repositories`` of images, by their URL, have the stack that each belongs to."""
    from stackyard.flow.release_gates import image_target
    from stackyard.image_names import parse_image_name

    name, image = work.stack.name, work.settings.image
    if not image.base:
        return
    try:
        if not parse_image_name(image.base, f"{name}: image.base").digest:
            yield _finding(
                f"image.base {image.base} has no digest", "run: invoke image.pin", stack=name
            )
        if not image.repository:
            yield _finding(
                "nobody can see whether the image was published",
                "name where it goes: image.repository",
                stack=name,
            )
            return
        target = image_target(work.settings, name)
    except ConfigError as error:
        yield _finding(error.message, error.hint, stack=name, code=error.code)
        return
    other = repositories.setdefault(target.url, name)
    if other != name:
        yield _finding(
            f"its image goes where that of {other} goes: {target.written}",
            "give each an image.repository of its own",
            stack=name,
        )


def _key_findings(work: Work) -> Iterator[Finding]:
    from stackyard.flow.trust import find_keys

    name = work.stack.name
    destination = work.stack.mirrors.get("buildcache-destination")
    if destination is None or not destination.signed:
        return
    try:
        found = find_keys(work.project, name, work.settings, "")
    except StackyardError as error:
        yield _finding(error.message, error.hint, stack=name, code=error.code)
        return
    if not found.keys:
        yield _finding(
            "there are no public keys to check signatures with",
            f"put them into stacks/{name}/keys/ (keys.export, keys.trust), or name them: trust.keys",
            stack=name,
        )
