"""All that a pipeline depends on beside plan and attributes."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path

from stackyard import __version__
from stackyard.edges.settings import Environment
from stackyard.errors import LockError, StackError
from stackyard.flow.pull_requests import has_own_mirror
from stackyard.flow.steps import Project, Request, Work, prunes_unaffected, prunes_up_to_date
from stackyard.jobs import Extras, make_extras
from stackyard.pins import Pin, clone_variables, wanted_packages, wanted_spack
from stackyard.pipeline import Context, PipelineType

__all__ = ["make_context", "own_requirement", "project_folder"]


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
        extras=_extras(work),
        index_requirement=_index_requirement(work),
    )


def _index_requirement(work: Work) -> str:
    """What the reindex job may have to install, where it is we who make the index."""
    if work.settings.index != "stackyard":
        return ""
    return work.settings.generate.requirement or own_requirement(work.project)


def own_requirement(project: Project) -> str:
    """What to install: the version that runs, in a clone of stackyard the clone itself."""
    own = (project.root / "stackyard" / "__init__.py").is_file()
    return "." if own else f"stackyard=={__version__}"


def _extras(work: Work) -> Extras:
    """What settings ask of the jobs beside what Spack asks of them."""
    jobs, own_mirror = work.settings.jobs, has_own_mirror(work)
    clone, variables = "", {}
    if jobs.clone:
        from stackyard.prelude import clone_lines  # only this feature needs it

        clone, variables = clone_lines(), _pin_variables(work)
    return make_extras(
        jobs,
        clone=clone,
        variables=variables,
        role=work.settings.pull_requests.role if own_mirror else "",
        unsigned=own_mirror,
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
    """``SPACK_VERSION`` and ``SPACK_CHECKOUT_VERSION``: from environment, settings, pins, the lock."""
    env, lock = work.project.env, work.lock
    checkout = _wanted_spack(work).version
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


def _wanted_spack(work: Work) -> Pin:
    """The Spack that made the lock, or that somebody put in its place by its commit.

    A name such as ``develop`` is for making locks: the jobs that build one use what made it.
    """
    env = {k: v for k, v in work.project.env.items() if k != "SPACK_REF"}
    source, lock = work.settings.spack._replace(ref=""), work.lock
    pin = wanted_spack(env, source, work.pins, lock.spack_commit, lock.spack_version)
    known = env.get("SPACK_CHECKOUT_VERSION") or source.checkout_version or lock.spack_version
    return pin if pin.commit or known or lock.spack_commit else Pin(pin.repo)


def _pin_variables(work: Work) -> dict[str, str]:
    """What the lines that clone are told."""
    env, source = work.project.env, work.settings.spack
    packages = wanted_packages(env, source, work.pins, work.stack.repos)
    return clone_variables(_wanted_spack(work), packages)
