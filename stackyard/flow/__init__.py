"""The table of contents: one function for each task, each a list of steps.

Steps that several tasks share are in ``stackyard.flow.steps``. What decides is in the core, what
touches the world in ``stackyard.edges``; here the two are joined.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stackyard import __version__
from stackyard.edges import console
from stackyard.edges.files import read_bytes
from stackyard.errors import ConfigError, StackError, StackyardError, StaleError
from stackyard.flow.context import make_context, project_folder
from stackyard.flow.steps import (
    Project,
    Request,
    Work,
    load_work,
    naming,
    open_project,
    plan_work,
)

if TYPE_CHECKING:
    from stackyard.pipeline import Context, Pipeline
    from stackyard.plan import Plan
    from stackyard.settings import Limits

__all__ = [
    "Request",
    "bench",
    "doctor",
    "format_code",
    "generate",
    "graph",
    "lint",
    "lock",
    "plan",
    "test",
]


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
    if request.stack:
        child = _make_child(project, request, output, artifacts_root, forward)
        files = child.files
    elif output:
        raise ConfigError(
            "the parent pipeline has its place: .gitlab-ci.yml",
            where="--output",
            hint="name a stack as well: --stack NAME",
        )
    else:
        files = _parent_files(project)
    if check:
        _compare(project, files)
        return
    if child:
        _cdash_group(child.work)
        _summary(child.plan, child.pipeline)
    _write(project, files)


class _Child(NamedTuple):
    """A child pipeline, and the files that it and its jobs are made of."""

    work: Work
    plan: Plan
    pipeline: Pipeline
    files: Mapping[Path, bytes]


def _make_child(
    project: Project,
    request: Request,
    output: str,
    artifacts_root: str,
    forward: Sequence[str],
) -> _Child:
    from stackyard.attributes import make_attributes
    from stackyard.pipeline import make_pipeline

    work = load_work(project, request)
    _check_ci(work)
    with naming(work.stack):
        plan = plan_work(work, request)
        context = make_context(work, request, artifacts_root=artifacts_root, forward=forward)
        attributes = make_attributes(
            work.stack.ci, plan.builds, work.lock, fix=work.fix, dynamic=_dynamic(work)
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
    return _Child(work, plan, pipeline, files)


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
    if work.settings.index != "spack":
        raise ConfigError(
            "this version knows only Spack's own index job",
            where="index",
            hint="write index: spack",
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
    return _encoded(render("gitlab/child.yml.j2", _templates(work.project), values), work)


def _encoded(text: str, work: Work) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        line = text[: error.start].count("\n")
        raise ConfigError(
            f"{text.splitlines()[line].strip()!a} holds half of a character, which no file can hold",
            where=f"{work.lock.where}, or the environment",
        ) from None


def _templates(project: Project) -> Any:
    """The project's own templates win over those of the package."""
    from stackyard.edges.templates import load_template

    return lambda name: load_template(name, project.root)


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


def _cdash_group(work: Work) -> None:
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


def _parent_files(project: Project) -> dict[Path, bytes]:
    from stackyard.edges.stacks import list_stacks
    from stackyard.flow.steps import read_stack
    from stackyard.parent import ParentStack, parent_values
    from stackyard.render import render
    from stackyard.settings import make_settings

    settings = make_settings(project.settings)
    stacks = []
    for name in list_stacks(project.root):
        stack, _ = read_stack(project, name)
        own = f"stacks/{name}/"
        files = [project.shown(file) for file in stack.files]
        others = [f for f in files if not f.startswith(own) and not Path(f).is_absolute()]
        stacks.append(ParentStack(name=name, files=(f"{own}**/*", *others)))
    if not stacks:
        raise ConfigError(
            "there is no stack yet", where="stacks/", hint="put a spack.yaml into stacks/NAME/"
        )
    wanted = settings.generate
    values = parent_values(
        stacks,
        image=wanted.image or "python:3.12",
        tags=wanted.tags,
        requirement=wanted.requirement or _requirement(project),
        strategy=wanted.strategy,
        interruptible=wanted.interruptible,
        variables=wanted.variables,
        before_script=wanted.before_script,
    )
    text = render("gitlab/parent.yml.j2", _templates(project), values)
    return {project.root / ".gitlab-ci.yml": text.encode()}


def parent_is_fresh(project: Project) -> bool:
    """Whether the committed ``.gitlab-ci.yml`` is what would be rendered now."""
    return all(
        path.is_file() and read_bytes(path) == data for path, data in _parent_files(project).items()
    )


def _requirement(project: Project) -> str:
    """What to install: the version that runs, in a clone of stackyard the clone itself."""
    own = (project.root / "stackyard" / "__init__.py").is_file()
    return "." if own else f"stackyard=={__version__}"


def _write(project: Project, files: Mapping[Path, bytes]) -> None:
    from stackyard.edges.files import write_files

    changed = write_files(files)
    for path in files:
        state = "wrote" if path.resolve() in changed else "unchanged"
        console.note(f"{state} {project.shown(path)}")


def _compare(project: Project, files: Mapping[Path, bytes]) -> None:
    import difflib

    stale: list[str] = []
    lines: list[str] = []
    for path, data in files.items():
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


def plan(request: Request, *, as_json: bool = False, html: str = "") -> None:
    """Print what would be built and why."""
    from stackyard.report import plan_json, plan_table

    work = load_work(open_project(), request)
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


def graph(request: Request, *, output: str) -> None:
    """Draw the plan."""
    from stackyard.graph import graph_svg

    suffix = Path(output).suffix
    if suffix not in (".svg", ".html"):
        raise ConfigError(f"{output!r} names neither .svg nor .html", where="--output")
    work = load_work(open_project(), request)
    made = _planned(work, request)
    text = graph_svg(made, work.stack.name) if suffix == ".svg" else _graph_html(work, made)
    _save(output, text)


def _graph_html(work: Work, made: Plan) -> str:
    from stackyard.graph import graph_html

    return graph_html(made, work.stack.name, _templates(work.project))


def _save(path: str, text: str) -> None:
    from stackyard.edges.files import write_files

    write_files({Path(path): text.encode()})
    console.note(f"wrote {path}")


def lock(
    *,
    stack: str = "",
    lock: str = "",
    check: bool = False,
    verify: bool = False,
    as_json: bool = False,
) -> None:
    """Check a lock against its manifest, and its hashes against themselves."""
    if not check and not verify:
        raise ConfigError(
            "this version checks locks, it does not make them",
            where="lock",
            hint="add --check or --verify; make one with spack concretize",
        )
    work = load_work(open_project(), Request(stack=stack, lock=lock))
    result: dict[str, Any] = {"stack": work.stack.name, "lock": work.lock.where}
    if check:
        result["roots"] = sum(root.hash in work.roots for root in work.lock.roots)
        console.note(f"{work.lock.where} answers {work.stack.where}: {result['roots']} roots")
    if verify:
        result |= _verify(work)
    if as_json:
        console.out(json.dumps(result, indent=2))


def _verify(work: Work) -> dict[str, Any]:
    from stackyard.errors import LockError
    from stackyard.hashes import Verdict, verify_hashes

    verdicts = verify_hashes(work.lock)
    counts = {kind.value: sum(v is kind for v in verdicts.values()) for kind in Verdict}
    wrong = [key for key, verdict in verdicts.items() if verdict is Verdict.FALSE]
    if wrong:
        names = ", ".join(f"{work.lock.specs[key].name}/{key[:7]}" for key in wrong[:10])
        raise LockError(
            f"{len(wrong)} of {len(verdicts)} hashes are not those of their nodes: {names}",
            where=f"{work.lock.where}: concrete_specs",
            hint="the file was edited: restore it, or concretize again",
        )
    unknown = f", {counts['unknown']} cannot be recomputed" if counts["unknown"] else ""
    console.note(f"{counts['true']} of {len(verdicts)} hashes are true{unknown}")
    return {"hashes": counts}


def doctor(*, stack: str = "", offline: bool = False, as_json: bool = False) -> None:
    """Look at everything that a run needs, and say what is missing."""
    from stackyard.flow.examination import examine

    findings = examine(open_project(), stack=stack, offline=offline)
    if as_json:
        console.out(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        for finding in findings:
            console.out(finding.line())
    worst = max((finding.code for finding in findings), default=0)
    if worst:
        failed = sum(finding.code > 0 for finding in findings)
        error = StackyardError(f"{failed} of {len(findings)} checks failed")
        error.code = worst
        raise error


def test(*, long: bool = False, only: str = "") -> None:
    """Run the test suite of the clone."""
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "--numprocesses=auto",
        *(["--long"] if long else []),
        *(["-k", only] if only else []),
    ]
    _must_follow(argv)


def lint() -> None:
    """Run the linters over the clone."""
    for argv in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        _must_follow([sys.executable, "-m", *argv])


def format_code() -> None:
    """Format the clone."""
    for argv in (["ruff", "check", "--fix", "--quiet", "."], ["ruff", "format", "."]):
        _must_follow([sys.executable, "-m", *argv])


def bench(*, spack: str = "", as_json: bool = False, only: str = "") -> None:
    """Run the benchmarks of the clone."""
    argv = [
        sys.executable,
        "-m",
        "benchmarks",
        *(["--spack", spack] if spack else []),
        *(["--json"] if as_json else []),
        *(["--only", only] if only else []),
    ]
    _must_follow(argv)


def _must_follow(argv: Sequence[str]) -> None:
    from stackyard.edges.process import follow
    from stackyard.errors import ToolError

    root = open_project().root
    if not (root / "stackyard" / "flow" / "__init__.py").is_file():
        raise ConfigError(
            "this task works on Stackyard's own code, in a clone of it", where=str(root)
        )
    if code := follow(argv, cwd=str(root)):
        raise ToolError(f"{' '.join(argv[2:])} ended with {code}")
