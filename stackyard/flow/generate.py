"""``generate``: the parent pipeline of all stacks, or the child pipeline of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stackyard.edges import console
from stackyard.edges.files import read_bytes, remove_file
from stackyard.errors import ConfigError, StaleError
from stackyard.flow.child import create_cdash_group, make_child
from stackyard.flow.context import own_requirement
from stackyard.flow.image_stacks import argument_files
from stackyard.flow.steps import Project, Request, open_project, project_templates
from stackyard.flow.workflows import is_ours, leftover_workflows, workflow_files

if TYPE_CHECKING:
    from stackyard.pipeline import Pipeline
    from stackyard.plan import Plan

__all__ = ["generate", "is_fresh", "parent_files", "project_files"]

_PARENT = ".gitlab-ci.yml"


def generate(
    request: Request,
    *,
    output: str = "",
    artifacts_root: str = "",
    check: bool = False,
    forward: Sequence[str] = (),
) -> None:
    """Write the parent pipeline, or with a stack its child pipeline; ``check`` only compares."""
    project = open_project()
    child = None
    old: tuple[Path, ...] = ()
    if request.stack:
        if not check and not request.lock and project.env.in_ci:
            from stackyard.flow.locking import make_missing_lock  # most stacks have one

            make_missing_lock(project, request.stack)
        child = make_child(project, request, output, artifacts_root, forward)
        files = child.files
    elif output:
        raise ConfigError(
            "the parent pipeline has its place: .gitlab-ci.yml",
            where="--output",
            hint="name a stack as well: --stack NAME",
        )
    else:
        files = project_files(project)
        old = leftover_workflows(project)
    if check:
        _compare(project, files, old)
        return
    if child:
        create_cdash_group(child.work)
        _summary(child.plan, child.pipeline)
    _write(project, files)
    for path in old:
        remove_file(path)
        console.note(f"removed {project.shown(path)}: the settings no longer ask for it")


def _summary(plan: Plan, pipeline: Pipeline) -> None:
    from stackyard.plan import Action

    counts = ", ".join(
        f"{plan.count(action)} {word}"
        for action, word in (
            (Action.BUILD, "to build"),
            (Action.REUSE, "reused"),
            (Action.EXTERNAL, "external"),
            (Action.UNAFFECTED, "unaffected"),
        )
        if plan.count(action)
    )
    console.note(
        f"{counts or 'no specs'}; {pipeline.size} jobs, longest chain {len(plan.graph.chain())}"
    )


def project_files(project: Project) -> dict[Path, bytes]:
    """All files that the project commits and that are rendered, by path. Raises ConfigError."""
    return parent_files(project) | workflow_files(project) | argument_files(project)


def parent_files(project: Project) -> dict[Path, bytes]:
    """The parent pipeline, by its path. Raises ConfigError."""
    from stackyard.edges.stacks import list_stacks
    from stackyard.flow.steps import read_stack
    from stackyard.parent import ParentStack, parent_values
    from stackyard.render import render
    from stackyard.settings import make_settings

    settings = make_settings(project.settings)
    stacks = []
    for name in list_stacks(project.root):
        stack, own_settings = read_stack(project, name)
        own = f"stacks/{name}/"
        files = [project.shown(file) for file in stack.files]
        others = [f for f in files if not f.startswith(own) and not Path(f).is_absolute()]
        pulls = own_settings.pull_requests
        if pulls.mirror:
            from stackyard.pull_requests import check_prefix

            check_prefix(pulls, stack)
        stacks.append(
            ParentStack(
                name=name,
                files=(f"{own}**/*", *others),
                keep=pulls.keep if pulls.mirror else "",
            )
        )
    if not stacks:
        raise ConfigError(
            "there is no stack yet", where="stacks/", hint="put a spack.yaml into stacks/NAME/"
        )
    wanted, aws = settings.generate, settings.jobs.aws
    tokens: dict[str, Any] = {}
    login: tuple[str, ...] = ()
    logout: tuple[str, ...] = ()
    if aws:
        from stackyard.jobs import AWS_TOKEN, aws_after, aws_lines

        role = settings.pull_requests.role or aws.role
        login, logout = aws_lines(aws, {"": aws.role, "spack_pull_request": role}), aws_after()
        tokens = {AWS_TOKEN: {"aud": aws.audience}}
    values = parent_values(
        stacks,
        image=wanted.image or "python:3.12",
        tags=wanted.tags,
        requirement=wanted.requirement or own_requirement(project),
        strategy=wanted.strategy,
        interruptible=wanted.interruptible,
        variables=wanted.variables,
        before_script=wanted.before_script,
        id_tokens=tokens,
        login=login,
        logout=logout,
        status="status" in project.settings,
    )
    text = render("gitlab/parent.yml.j2", project_templates(project), values)
    return {project.root / _PARENT: text.encode()}


def is_fresh(path: Path, data: bytes) -> bool:
    """Whether a rendered file is what would be rendered now."""
    return path.is_file() and read_bytes(path) == data


def _write(project: Project, files: Mapping[Path, bytes]) -> None:
    from stackyard.edges.files import write_files

    parent = project.root / _PARENT
    foreign = parent in files and parent.is_file() and not is_ours(parent)
    changed = write_files(files)
    if foreign:
        console.warn(
            f"{_PARENT} was not ours, and is now; git has what it was, if it was committed"
        )
    for path in files:
        state = "wrote" if path.resolve() in changed else "unchanged"
        console.note(f"{state} {project.shown(path)}")


def _compare(project: Project, files: Mapping[Path, bytes], leftover: Sequence[Path]) -> None:
    import difflib

    stale: list[str] = []
    lines: list[str] = []
    for path, data in {**files, **dict.fromkeys(leftover, b"")}.items():
        old = read_bytes(path) if path.is_file() else b""
        if old != data:
            stale.append(project.shown(path))
            lines += difflib.unified_diff(
                old.decode(errors="replace").splitlines(keepends=True),
                data.decode(errors="replace").splitlines(keepends=True),
                f"{project.shown(path)} (as it is)",
                f"{project.shown(path)} (as it should be)",
            )
    if stale:
        raise StaleError(
            f"not up to date: {', '.join(stale)}",
            hint="run: invoke generate",
            diff="".join(line if line.endswith("\n") else f"{line}\n" for line in lines),
        )
    console.note(f"up to date: {', '.join(project.shown(path) for path in files)}")
