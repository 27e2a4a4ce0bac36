"""All that a pipeline depends on beside plan and attributes."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path

from stackyard.edges.settings import Environment
from stackyard.errors import LockError, StackError
from stackyard.flow.steps import Project, Request, Work, prunes_unaffected, prunes_up_to_date
from stackyard.pipeline import Context, PipelineType

__all__ = ["make_context", "project_folder"]


def make_context(
    work: Work, request: Request, *, artifacts_root: str, forward: Sequence[str]
) -> Context:
    """All that the pipeline depends on beside plan and attributes, from stack and environment."""
    env, stack, settings = work.project.env, work.stack, work.settings
    target = stack.mirrors.get("buildcache-destination")
    if target is None:
        raise StackError(
            "there is no mirror named buildcache-destination",
            where=f"{stack.where}: spack.mirrors",
            hint="the build jobs push to it: add it with its url",
        )
    source = stack.mirrors.get("buildcache-source")
    version, checkout = _spack_pin(work)
    group = str(stack.cdash.get("build-group") or "")
    legacy = settings.pipeline
    return Context(
        artifacts_root=_relative_root(artifacts_root, work.project),
        given_root=_given_root(artifacts_root, work.project),
        generate_job=env.ci_job_name or "job-does-not-exist",
        generate_pipeline=env.ci_pipeline_id or "pipeline-does-not-exist",
        spack_version=version,
        spack_checkout=checkout,
        push_url=target.push_url,
        fetch_url=target.fetch_url,
        source_url=source.fetch_url if source else "",
        type=PipelineType.parse(env.pipeline_type),
        stack_name=env.ci_stack_name,
        require_signing=(env.require_signing or "").lower() == "true",
        prune_up_to_date=prunes_up_to_date(work, request),
        prune_unaffected=prunes_unaffected(work, request),
        rebuild_index=stack.ci.get("rebuild-index") is not False,
        build_group=group,
        build_stamp=_build_stamp(env, group),
        forward={name: env[name] for name in forward if name in env},
        phases=work.phases,
        artifacts_buildcache=bool(
            stack.ci.get("enable-artifacts-buildcache") or legacy.enable_artifacts_buildcache
        ),
        temporary_storage=str(
            stack.ci.get("temporary-storage-url-prefix") or legacy.temporary_storage_url_prefix
        ),
        limits=settings.limits,
        fix=settings.fix,
    )


def _build_stamp(env: Environment, group: str) -> str:
    if not group:
        return ""
    if env.cdash_build_stamp:
        return env.cdash_build_stamp
    from stackyard.edges.cdash import build_stamp

    return build_stamp(group)


def project_folder(project: Project) -> Path:
    """The folder that the jobs call CI_PROJECT_DIR."""
    return Path(project.env.ci_project_dir or project.root)


def _relative_root(root: str, project: Project) -> str:
    folder = str(project_folder(project))
    absolute = posixpath.normpath(posixpath.join(folder, root or "jobs_scratch_dir"))
    return posixpath.relpath(absolute, folder)


def _given_root(root: str, project: Project) -> str:
    """What ``SPACK_ARTIFACTS_ROOT`` says: the text as it was given, but for a path in the project."""
    folder = str(project_folder(project))
    return posixpath.relpath(root, folder) if root.startswith(folder) else root


def _spack_pin(work: Work) -> tuple[str, str]:
    """``SPACK_VERSION`` and ``SPACK_CHECKOUT_VERSION``: from environment, settings, or the lock."""
    env, lock = work.project.env, work.lock
    pinned = env.spack_checkout_version or work.settings.spack.checkout_version
    checkout = pinned or lock.spack_commit or (lock.spack_version and f"v{lock.spack_version}")
    if not checkout:
        raise LockError(
            "the lock does not say which Spack made it",
            where=f"{lock.where}: spack",
            hint="set spack: checkout_version in the settings, or "
            "SPACK_CHECKOUT_VERSION in the environment",
        )
    if version := env.get("SPACK_VERSION"):
        return version, checkout
    if checkout.startswith("v") and checkout[1:2].isdigit():
        return checkout[1:], checkout
    return f"{lock.spack_version} ({checkout})".strip(), checkout
