"""``plan`` and ``graph``: what would be built and why, in words and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stackyard.edges import console
from stackyard.errors import ConfigError
from stackyard.flow.pull_requests import in_pull_request
from stackyard.flow.steps import (
    Request,
    Work,
    load_work,
    naming,
    open_project,
    plan_work,
    project_templates,
)

if TYPE_CHECKING:
    from stackyard.plan import Plan

__all__ = ["graph", "plan", "secret_warnings", "stack_warnings"]


def plan(request: Request, *, as_json: bool = False, html: str = "") -> None:
    """Print what would be built and why."""
    from stackyard.report import plan_json, plan_table

    work = in_pull_request(load_work(open_project(), request))
    warnings = stack_warnings(work)
    for warning in warnings:
        console.warn(warning)
    made = _planned(work, request)
    made = made._replace(warnings=(*made.warnings, *warnings))
    if html:
        _save(html, _graph_html(work, made))
    console.out(plan_json(made, work.stack.name) if as_json else plan_table(made))


def _planned(work: Work, request: Request) -> Plan:
    """The plan; with mirrors named by ``--mirror`` they are asked even if nothing is pruned."""
    with naming(work.stack):
        made = plan_work(work, request, reading=bool(request.mirrors) or None)
    for warning in made.warnings:
        console.warn(warning)
    return made


def stack_warnings(work: Work) -> tuple[str, ...]:
    """Oddities of Spack that touch the stack, and match strings that hold for nothing."""
    from stackyard.attributes import match_warnings
    from stackyard.defects import touched_defects

    ci = {**work.stack.ci, "cdash": work.stack.cdash}
    with naming(work.stack):
        matches = match_warnings(work.stack.ci, work.lock, fix=work.fix)
    return tuple(
        f"{work.stack.where}: {text}"
        for text in (
            *touched_defects(ci, work.fix),
            *matches,
            *_copy_warnings(work),
        )
    )


def _copy_warnings(work: Work) -> tuple[str, ...]:
    from stackyard.pipeline import PipelineType

    copying = PipelineType.parse(work.project.env.pipeline_type) is PipelineType.COPY_ONLY
    target = work.stack.mirrors.get("buildcache-destination")
    if not copying or target is None or target.fetch_url == target.push_url:
        return ()
    if "copy-destination" in work.fix:
        return ()
    text = "a copy-only pipeline copies to the fetch URL (mend it with fix: [copy-destination])"
    return (f"mirrors.buildcache-destination: {text}",)


def secret_warnings(work: Work) -> tuple[str, ...]:
    """For those who set a project up: it concerns every stack whose jobs have secrets.

    Only a folder that nobody signs for is written without any.
    """
    target = work.stack.mirrors.get("buildcache-destination")
    if "failed-environment" in work.fix or target is None:
        return ()
    if "://" not in target.push_url.removeprefix("file://") and not target.signed:
        return ()
    text = (
        "if a package fails, Spack puts all variables of its job into the artifacts, secrets too "
        "(mend it with fix: [failed-environment])"
    )
    return (f"{work.stack.where}: ci: {text}",)


def graph(request: Request, *, output: str) -> None:
    """Draw the plan."""
    from stackyard.graph import graph_svg

    suffix = Path(output).suffix
    if suffix not in (".svg", ".html"):
        raise ConfigError(f"{output!r} names neither .svg nor .html", where="--output")
    work = in_pull_request(load_work(open_project(), request))
    made = _planned(work, request)
    text = graph_svg(made, work.stack.name) if suffix == ".svg" else _graph_html(work, made)
    _save(output, text)


def _graph_html(work: Work, made: Plan) -> str:
    from stackyard.graph import graph_html

    return graph_html(made, work.stack.name, project_templates(work.project))


def _save(path: str, text: str) -> None:
    from stackyard.edges.files import write_files

    write_files({Path(path): text.encode()})
    console.note(f"wrote {path}")
