"""One stack's child pipeline, and the files that its jobs need."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stackyard import __version__
from stackyard.edges import console
from stackyard.errors import ConfigError, StackError
from stackyard.flow.context import make_context, project_folder
from stackyard.flow.pull_requests import in_pull_request
from stackyard.flow.steps import (
    Project,
    Request,
    Work,
    load_work,
    naming,
    plan_work,
    project_templates,
)

if TYPE_CHECKING:
    from stackyard.pipeline import Context, Pipeline
    from stackyard.plan import Plan
    from stackyard.settings import Limits

__all__ = ["Child", "create_cdash_group", "make_child"]


class Child(NamedTuple):
    """A child pipeline, and the files that it and its jobs are made of."""

    work: Work
    plan: Plan
    pipeline: Pipeline
    files: Mapping[Path, bytes]


def make_child(
    project: Project,
    request: Request,
    output: str,
    artifacts_root: str,
    forward: Sequence[str],
) -> Child:
    """Plan the stack and lay its pipeline out; nothing is written yet."""
    from stackyard.attributes import make_attributes
    from stackyard.pipeline import make_pipeline

    work = in_pull_request(load_work(project, request))
    _check_ci(work)
    with naming(work.stack):
        plan = plan_work(work, request)
        context = make_context(work, request, artifacts_root=artifacts_root, forward=forward)
        attributes = make_attributes(
            work.stack.ci,
            plan.builds,
            work.lock,
            fix=work.fix,
            dynamic=_dynamic(work),
            own_index=work.settings.index == "stackyard",
            tests=work.settings.jobs.junit,
            reserved_tags=work.settings.jobs.reserved_tags,
        )
        for warning in plan.warnings:
            console.warn(warning)
        pipeline = make_pipeline(plan, attributes, context)
    text = _render_child(work, plan, pipeline)
    root = project_folder(project) / context.artifacts_root
    target = Path(output) if output else root / "pipeline.yml"
    _keep_apart(target, root)
    files = {
        target: text,
        root / "concrete_environment" / "spack.yaml": _concrete_manifest(work, context, root),
        root / "concrete_environment" / "spack.lock": work.lock_bytes,
    }
    if project.env.copy_buildcache:
        files[_copy_path(root, context)] = _copy_manifest(work, plan, context)
    _check_artifact(files, target, context.limits)
    return Child(work, plan, pipeline, files)


def _keep_apart(target: Path, root: Path) -> None:
    """The pipeline may not take the place of another file that its jobs need."""
    for folder in ("concrete_environment", "specs_to_copy"):
        if target.parent.absolute() == (root / folder).absolute():
            raise ConfigError(
                f"{target} lies among the files that the jobs need",
                where="--output",
                hint="choose another place",
            )


def _check_ci(work: Work) -> None:
    if not work.stack.has_ci:
        raise StackError(
            "the stack has no ci section",
            where=f"{work.stack.where}: spack.ci",
            hint="it says which runners and images build the packages",
        )
    target = work.stack.ci.get("target", "gitlab")
    if target != "gitlab":
        raise StackError(
            f"no generator for {target!r}",
            where=f"{work.stack.where}: spack.ci.target",
            hint="the only one is gitlab",
        )


def _dynamic(work: Work) -> Any:
    entries = work.stack.ci.get("pipeline-gen") or ()
    if not any(str(key).startswith("dynamic-mapping") for entry in entries for key in entry):
        return None
    from stackyard.edges.dynamic import DynamicService

    env = work.project.env
    expand = None
    if "dynamic-headers" in work.fix:

        def expand(text: str) -> str:
            return _expand(text, env)

    return DynamicService(skip=env.skip_dynamic_mapping, warn=console.warn, expand=expand)


def _expand(text: str, env: Mapping[str, str]) -> str:
    import re

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda m: env.get(m[1] or m[2], m[0]), text)


def _render_child(work: Work, plan: Plan, pipeline: Pipeline) -> bytes:
    from stackyard.render import quote, render

    from_what = f"stack {work.stack.name}, {len(plan.graph.needs)} of {len(plan.decisions)} specs"
    job, number = pipeline.cross_need
    values = {
        "title": f"Child pipeline of the {from_what}",
        "version": __version__,
        "pipeline": pipeline,
        "cross_need": f"{{job: {quote(job)}, pipeline: {quote(number)}}}",
        "artifacts": "true" if pipeline.needs_artifacts else "false",
    }
    return _encoded(render("gitlab/child.yml.j2", project_templates(work.project), values), work)


def _encoded(text: str, work: Work) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        line = text[: error.start].count("\n")
        raise ConfigError(
            f"{text.splitlines()[line].strip()!a} holds half of a character, which no file can hold",
            where=f"{work.lock.where}, or the environment",
        ) from None


def _concrete_manifest(work: Work, context: Context, root: Path) -> bytes:
    """The manifest for the jobs, its includes found from the new folder."""
    from stackyard.document import dump_yaml, parse_yaml
    from stackyard.stack import concrete_manifest

    folder = root / "concrete_environment"
    text = concrete_manifest(work.stack, os.path.relpath(work.folder, folder))
    extra = {}
    if context.artifacts_buildcache:
        extra["stackyard-artifacts"] = f"$CI_PROJECT_DIR/{context.local_mirror}"
    if context.temporary_storage:
        extra["stackyard-temporary"] = context.temporary_mirror
    if extra:
        document = parse_yaml(text, work.stack.where)
        mirrors = document["spack"].setdefault("mirrors", {})
        mirrors.update({name: {"url": url, "signed": False} for name, url in extra.items()})
        text = dump_yaml(document)
    return text.encode()


def _copy_path(root: Path, context: Context) -> Path:
    return root / "specs_to_copy" / f"copy_{context.stack_name or 'rebuilt'}_specs.json"


def _copy_manifest(work: Work, plan: Plan, context: Context) -> bytes:
    from stackyard.pipeline import PipelineType, copy_manifest

    specs, lock = plan.builds, work.lock
    if context.type is PipelineType.COPY_ONLY:
        reached = lock.closure((*work.roots, *(root.hash for root in lock.included)))
        whole = (lock.specs[key] for key in lock.order if key in reached)
        specs = tuple(spec for spec in whole if not spec.external)
    manifest = copy_manifest(specs, context.fetch_url, work.project.env.copy_buildcache)
    return json.dumps(manifest).encode()


#: GitLab counts allocated objects, not bytes: roughly this many for each byte of a file.
_OBJECT_BYTES = 5
_YAML_OBJECT_LIMIT = 2 * 1024 * 1024


def _check_artifact(files: Mapping[Path, bytes], target: Path, limits: Limits) -> None:
    """The pipeline as GitLab extracts it, and the archive that holds it, against one limit."""
    from stackyard.pipeline import check_size

    size = len(files[target])
    check_size("the pipeline", size, limits)
    if limits.artifact_bytes and sum(map(len, files.values())) > limits.artifact_bytes:
        import zlib  # a zip holds the same streams

        packed = sum(len(zlib.compress(data)) + 200 for data in files.values())
        check_size("the archive of the generate job", packed, limits)
    if size * _OBJECT_BYTES > _YAML_OBJECT_LIMIT:
        console.warn(
            f"the pipeline has {size:,} bytes; GitLab's max_yaml_size_bytes, 2 MB of objects by "
            "default, may be too small for it"
        )


def create_cdash_group(work: Work) -> None:
    """Create the build group that the jobs report to, where the stack has one."""
    cdash, env = work.stack.cdash, work.project.env
    if not cdash.get("build-group"):
        return
    if not env.cdash_token:
        console.warn("no SPACK_CDASH_AUTH_TOKEN: the build group is not created on CDash")
        return
    from stackyard.edges.cdash import create_build_group
    from stackyard.errors import StoreError

    try:
        create_build_group(cdash, env.cdash_token)
    except StoreError as error:
        console.warn(f"CDash: {error}")
