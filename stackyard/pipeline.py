"""Lay a plan out as the jobs of a GitLab child pipeline, inside GitLab's limits.

What the jobs say is what ``spack ci generate`` of Spack 1.1 makes them say (``ci/gitlab.py``), so
that ``spack ci rebuild`` runs in them unchanged. How they are written is ours: needs without what
another need implies, common attributes in hidden jobs, and nothing that GitLab would refuse.
"""

from __future__ import annotations

import enum
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

from stackyard.attributes import (
    MARKS,
    RESERVED_TAGS,
    TOOLCHAIN_VARIABLES,
    Attributes,
    Group,
    fill,
    package_variables,
    spec_variables,
    toolchain_values,
    unpack_script,
)
from stackyard.errors import LimitError, StackError
from stackyard.jobs import NOTHING, Extras
from stackyard.lock import Lock, Spec
from stackyard.merge import merge_yaml, overrides
from stackyard.plan import Plan
from stackyard.settings import Limits

__all__ = [
    "BuildJob",
    "Context",
    "Pipeline",
    "PipelineType",
    "ServiceJob",
    "check_size",
    "copy_manifest",
    "job_name",
    "make_pipeline",
]

Tree = Mapping[str, Any]

#: The conditions under which GitLab tries a build job again, as Spack lists them.
RETRY_WHEN = (
    "unknown_failure",
    "script_failure",
    "api_failure",
    "stuck_or_timeout_failure",
    "runner_system_failure",
    "runner_unsupported",
    "stale_schedule",
    "archived_failure",
    "unmet_prerequisites",
    "scheduler_failure",
    "data_integrity_failure",
)
_SERVICE_RETRY = {
    "max": 2,
    "when": ["runner_system_failure", "stuck_or_timeout_failure", "script_failure"],
}
_SPECS_URL = "v3/manifests/spec"
_KEYS_URL = "v3/manifests/key"


class PipelineType(enum.Enum):
    """The values are what ``spack ci rebuild`` compares ``SPACK_PIPELINE_TYPE`` with."""

    COPY_ONLY = "spack_copy_only"
    PROTECTED_BRANCH = "spack_protected_branch"
    PULL_REQUEST = "spack_pull_request"

    @classmethod
    def parse(cls, text: str) -> PipelineType | None:
        """Take either form of the name; anything else is no type, as in Spack."""
        return next((kind for kind in cls if text in (kind.value, kind.name)), None)


class Context(NamedTuple):
    """All that a pipeline depends on beside plan and attributes.

    Folders are relative to the project's root, as the jobs see them; ``given_root`` is the text
    that ``artifacts_root`` was given as. ``index_requirement`` is what the reindex job installs
    where there is no ``stackyard``; empty, where Spack makes the index.
    """

    spack_version: str
    spack_checkout: str
    push_url: str
    fetch_url: str
    artifacts_root: str = "jobs_scratch_dir"
    given_root: str = ""
    generate_job: str = "job-does-not-exist"
    generate_pipeline: str = "pipeline-does-not-exist"
    source_url: str = ""
    type: PipelineType | None = None
    stack_name: str | None = None
    require_signing: bool = False
    prune_up_to_date: bool = True
    prune_unaffected: bool = False
    rebuild_index: bool = True
    build_group: str = ""
    build_stamp: str = ""
    forward: Mapping[str, str] = MappingProxyType({})
    phases: tuple[frozenset[str], ...] = ()
    artifacts_buildcache: bool = False
    temporary_storage: str = ""
    limits: Limits = Limits()
    fix: frozenset[str] = frozenset()
    extras: Extras = NOTHING
    index_requirement: str = ""

    @property
    def concrete_environment(self) -> str:
        return f"{self.artifacts_root}/concrete_environment"

    @property
    def local_mirror(self) -> str:
        return f"{self.artifacts_root}/mirror"

    @property
    def temporary_mirror(self) -> str:
        return f"{self.temporary_storage.rstrip('/')}/{self.generate_pipeline}"


class BuildJob(NamedTuple):
    """One spec's job. ``extends`` are hidden jobs, ``needs`` are names of jobs."""

    name: str
    hash: str
    stage: str
    extends: tuple[str, ...]
    needs: tuple[str, ...]
    variables: Mapping[str, Any]
    image: str  # the hidden job that has an image of its own, or empty


class ServiceJob(NamedTuple):
    name: str
    attributes: Tree


class Pipeline(NamedTuple):
    """``hidden`` are hidden jobs by name; ``needs_artifacts`` and ``cross_need`` hold for all.

    ``shared`` are long texts that stand in several of its lists, with a name for each.
    """

    stages: tuple[str, ...]
    variables: Mapping[str, str]
    hidden: Mapping[str, Tree]
    builds: tuple[BuildJob, ...]
    services: tuple[ServiceJob, ...]
    cross_need: tuple[str, str]
    needs_artifacts: bool = False
    shared: Mapping[str, str] = MappingProxyType({})

    @property
    def size(self) -> int:
        """How many jobs GitLab will count."""
        return len(self.builds) + len(self.services)


def job_name(spec: Spec, build_group: str = "") -> str:
    """The full name of a spec's job; GitLab's limit on names is not applied yet."""
    name = f"{spec.name}@{spec.version} /{spec.hash}"
    return f"{name} {build_group}" if build_group else name


def make_pipeline(plan: Plan, attributes: Attributes, context: Context) -> Pipeline:
    """Raises LimitError where a limit cannot be kept, StackError where a job lacks its script."""
    copying = context.type is PipelineType.COPY_ONLY
    layout = _Layout(plan, attributes, context) if not copying and plan.graph.needs else None
    services = list(_services(attributes, context, building=layout is not None))
    stages = list(dict.fromkeys(job.attributes.get("stage", "") for job in services))
    if layout is None and not copying:
        noop = {**attributes.services["noop"], "retry": 0, "allow_failure": True}
        return Pipeline((), {}, {}, (), (ServiceJob("no-specs-to-rebuild", noop),), _cross(context))
    pipeline = Pipeline(
        stages=(*(layout.stages if layout else ()), *stages),
        variables=_variables(context),
        hidden=layout.hidden if layout else {},
        builds=tuple(layout.jobs) if layout else (),
        services=(*(layout.joins if layout else ()), *services),
        cross_need=_cross(context),
        needs_artifacts=context.artifacts_buildcache,
        shared={context.extras.clone: "stackyard-clone"} if context.extras.clone else {},
    )
    _check_count(pipeline, context.limits)
    return pipeline


def _cross(context: Context) -> tuple[str, str]:
    return context.generate_job, context.generate_pipeline


class _Layout:
    """The build jobs of one plan, laid out step by step."""

    def __init__(self, plan: Plan, attributes: Attributes, context: Context) -> None:
        self._context = context
        self._noop = attributes.services["noop"]
        self._specs = plan.lock.specs
        graph = plan.graph
        needs = graph.all_needs if context.artifacts_buildcache else graph.needs
        self.levels = dict(graph.levels)
        self.names = _names(plan.builds, context)
        self.joins: list[ServiceJob] = []
        self._toolchains: dict[tuple[str, str, str], str] = {}
        needs = self._phase_barriers(needs)
        job_needs = {key: self._within_limit(key, needs[key]) for key in needs}
        top = max(self.levels.values())
        self.stages = [f"stage-{level}" for level in range(top + 1)]
        self.hidden: dict[str, Tree] = {}
        self.jobs: list[BuildJob] = []
        self._write(attributes.groups, job_needs, plan)

    def _phase_barriers(
        self, needs: Mapping[str, tuple[str, ...]]
    ) -> Mapping[str, tuple[str, ...]]:
        """Let each bootstrap phase start when the one before has ended.

        The last jobs of a phase lead into a join job; the first ones of the next wait for it.
        """
        phases = _phases(self._context.phases, needs)
        if len(phases) < 2:
            return needs
        result = dict(needs)
        for number, (before, phase) in enumerate(pairwise(phases), start=1):
            needed = {need for key in before for need in result[key]}
            ends = tuple(key for key in before if key not in needed)
            barrier = self._join(f"bootstrap phase {number}", ends)
            floor = self.levels[barrier] + 1
            inside = frozenset(phase)
            for key in phase:
                own = tuple(need for need in result[key] if need in inside)
                if self._context.artifacts_buildcache:
                    result[key] = tuple(dict.fromkeys((*result[key], barrier)))
                else:
                    result[key] = own or (barrier,)
                self.levels[key] = max([floor, *(self.levels[need] + 1 for need in own)])
        return result

    def _within_limit(self, key: str, needs: tuple[str, ...]) -> tuple[str, ...]:
        """At most as many needs as GitLab allows, by join jobs in between.

        The need on the generate job counts too, to be on the safe side.
        """
        limit = self._context.limits.needs
        room = limit - 1
        if not limit or len(needs) <= room:
            return needs
        if self._context.artifacts_buildcache or room < 2:
            raise LimitError(
                f"{self.names[key]} needs {len(needs) + 1} jobs, GitLab allows {limit} "
                "(needs per job)",
                where="limits.needs",
                hint="raise ci_needs_size_limit on the server and limits.needs in the settings"
                + (
                    "; or switch enable-artifacts-buildcache off, so that needs can be joined"
                    if self._context.artifacts_buildcache
                    else ""
                ),
            )
        return self._join_down(self.names[key], needs, room)

    def _join_down(self, name: str, needs: Sequence[str], room: int) -> tuple[str, ...]:
        ordered = sorted(needs, key=lambda key: (self.levels[key], self.names[key]))
        while len(ordered) > room:
            chunks = [ordered[i : i + room] for i in range(0, len(ordered), room)]
            ordered = [
                chunk[0] if len(chunk) == 1 else self._add_join(name, tuple(chunk))
                for chunk in chunks
            ]
        return tuple(ordered)

    def _join(self, name: str, needs: tuple[str, ...]) -> str:
        """One job that waits for all of ``needs``: the only one of them, or a job of its own."""
        if len(needs) == 1:
            return needs[0]
        room = self._context.limits.needs - 1 if self._context.limits.needs else len(needs)
        if room < 2 and len(needs) > room:
            raise LimitError(
                f"{name} joins {len(needs)} jobs (needs per job)",
                where="limits.needs",
                hint="allow at least 3",
            )
        return self._add_join(name, self._join_down(name, needs, room))

    def _add_join(self, name: str, needs: tuple[str, ...]) -> str:
        number = len(self.joins) + 1
        key = f"join-{number}"
        title = self._shorten(f"{key} for {name}")
        self.levels[key] = max(self.levels[need] for need in needs)
        self.names[key] = title
        # Where it runs, not what it does: a before_script may need the checkout, which it lacks.
        attributes = {
            **{key: self._noop[key] for key in ("image", "tags") if key in self._noop},
            "script": [f'echo "{len(needs)} jobs joined"'],
            "stage": f"stage-{self.levels[key]}",
            "needs": [{"job": self.names[need], "artifacts": False} for need in needs],
            "variables": {
                **(self._noop.get("variables") or {}),
                "STACKYARD_JOIN": str(number),
                "GIT_STRATEGY": "none",
            },
            "interruptible": True,
        }
        self.joins.append(ServiceJob(title, attributes))
        return key

    def _shorten(self, name: str) -> str:
        limit = self._context.limits.name
        return name[:limit] if limit else name

    def _write(
        self, groups: Iterable[Group], needs: Mapping[str, tuple[str, ...]], plan: Plan
    ) -> None:
        """Fill ``jobs`` and ``hidden``, in the plan's order."""
        groups = list(groups)
        variables_of = [group.variables() for group in groups]
        conditions = _retry_conditions(groups)
        bases = [
            _build_attributes(group, shared, conditions, self._context)
            for group, (shared, _) in zip(groups, variables_of, strict=True)
        ]
        self.hidden.update(_hoist(bases))
        made: dict[str, BuildJob] = {}
        for number, (group, (_, marked)) in enumerate(zip(groups, variables_of, strict=True), 1):
            self._write_group(f".build-{number}", group, marked, needs, plan, made)
        self.jobs = [made[key] for key in needs]

    def _write_group(  # noqa: PLR0913, PLR0917 - one loop body, given a name
        self,
        hidden: str,
        group: Group,
        marked: Mapping[str, Any],
        needs: Mapping[str, tuple[str, ...]],
        plan: Plan,
        made: dict[str, BuildJob],
    ) -> None:
        names, levels, lock = self.names, self.levels, plan.lock
        image = next((h for h in (hidden, ".build") if self.hidden.get(h, {}).get("image")), "")
        untouched = marked == MARKS
        for key in group.members:
            spec = self._specs[key]
            if untouched:
                extends: tuple[str, ...] = (self._toolchain(spec, lock), hidden)
                variables = _literal(package_variables(spec))
            else:
                extends = (hidden,)
                own = _literal(spec_variables(spec, lock))
                variables = {name: fill(value, own) for name, value in marked.items()}
            if self._context.build_group:
                variables["SPACK_CDASH_BUILD_NAME"] = _cdash_name(spec, plan, self._context)
            made[key] = BuildJob(
                names[key],
                key,
                f"stage-{levels[key]}",
                extends,
                tuple([names[need] for need in needs[key]]),
                variables,
                image,
            )

    def _toolchain(self, spec: Spec, lock: Lock) -> str:
        """The hidden job for what specs of one compiler and architecture share."""
        values = toolchain_values(spec, lock)
        if values not in self._toolchains:
            name = f".toolchain-{len(self._toolchains) + 1}"
            self._toolchains[values] = name
            own = dict(zip(TOOLCHAIN_VARIABLES, values, strict=True))
            self.hidden[name] = {"variables": _literal(own)}
        return self._toolchains[values]


#: Those of ``SPEC_VARIABLES`` that a lock may hold any text for.
_FREE_TEXT = tuple(
    f"SPACK_JOB_SPEC_{name}" for name in ("COMPILER_NAME", "COMPILER_VERSION", "VARIANTS")
)


def _literal(own: dict[str, str]) -> dict[str, str]:
    """Double each ``$``: GitLab would put a variable's value where a lock's text has its name."""
    for name in _FREE_TEXT:
        if "$" in own.get(name, ""):
            own[name] = own[name].replace("$", "$$")
    return own


def _hoist(bases: Sequence[dict[str, Any]]) -> dict[str, Tree]:
    """Hidden jobs for the groups; what all of them share goes into ``.build``, which they extend."""
    if len(bases) == 1:
        return {".build-1": bases[0]}
    common = _common(bases)
    common["variables"] = _common([base["variables"] for base in bases])
    hidden: dict[str, Tree] = {".build": common}
    for number, base in enumerate(bases, start=1):
        own = {k: v for k, v in base.items() if k not in common}
        variables = {k: v for k, v in base["variables"].items() if k not in common["variables"]}
        if variables:
            own["variables"] = variables
        hidden[f".build-{number}"] = {"extends": ".build", **own}
    return hidden


def _common(trees: Sequence[Tree]) -> dict[str, Any]:
    """The entries that all have with equal values; mappings count as a whole."""
    first, *rest = trees
    return {
        key: value
        for key, value in first.items()
        if all(key in tree and _same(tree[key], value) for tree in rest)
    }


def _same(a: Any, b: Any) -> bool:
    """Equal, and of one type at every depth: 1 and true are different things in YAML."""
    return a is b or repr(a) == repr(b)


def _phases(phases: Sequence[frozenset[str]], needs: Mapping[str, object]) -> list[tuple[str, ...]]:
    """The jobs of each phase, the rest last; a job belongs to the first phase that names it."""
    left = dict.fromkeys(needs)
    result = []
    for phase in phases:
        members = tuple(key for key in left if key in phase)
        if members:
            result.append(members)
        for key in members:
            del left[key]
    return [*result, tuple(left)] if left else result


#: YAML readers take no longer key without a question mark before it.
_LONGEST_KEY = 1000


def _names(specs: Sequence[Spec], context: Context) -> dict[str, str]:
    """Job names within the limit. Two that were cut to one text would be one job for GitLab.

    So a cut name that another job has too keeps its hash and loses more of its front.
    """
    limit = context.limits.name or _LONGEST_KEY
    names = {spec.hash: job_name(spec, context.build_group) for spec in specs}
    if max(map(len, names.values())) <= limit:
        return names
    cut: dict[str, list[str]] = {}
    for key, name in names.items():
        cut.setdefault(name[:limit], []).append(key)
    for name, keys in cut.items():
        for key in keys:
            tail = f" /{key}"
            names[key] = name if len(keys) == 1 else name[: max(0, limit - len(tail))] + tail
    if limit < 34:
        raise LimitError(
            f"a job name of {limit} characters cannot hold a DAG hash",
            where="limits.name",
            hint="allow at least 34",
        )
    return names


def _retry_conditions(groups: Iterable[Group]) -> list[str]:
    """When jobs are tried again: Spack adds what any of them says to the one list of them all."""
    conditions = list(RETRY_WHEN)
    for group in groups:
        retry = group.attributes.get("retry")
        retry = retry if isinstance(retry, Mapping) else {}
        own = retry.get("when")
        if isinstance(own, list) and not overrides(retry, "when"):
            conditions = merge_yaml(conditions, own)
    return conditions


def _build_attributes(
    group: Group, shared: Tree, conditions: Sequence[str], context: Context
) -> dict[str, Any]:
    """The final attributes of a group, its marked variables left out."""
    attributes = dict(group.attributes)
    if attributes.get("variables") is None:
        raise StackError(
            "the ci section takes their variables from build jobs, and with them what to build",
            where="spack.ci.pipeline-gen",
            hint="a build-job-remove with variables:: ?",
        )
    if not attributes.get("script"):
        raise StackError(
            "the ci section leaves build jobs without a script",
            where="spack.ci.pipeline-gen",
            hint="a *-job-remove with script:: ?",
        )
    script = _build_script(attributes["script"], context)
    attributes["script"] = context.extras.folded("stackyard_build", "Build", script)
    for key in ("before_script", "after_script"):
        if key in attributes:
            attributes[key] = unpack_script(attributes[key])
    attributes = context.extras.around(attributes)
    if context.type is not None:
        tags = [tag for tag in attributes.get("tags") or () if tag not in RESERVED_TAGS]
        if context.extras.reserved_tags:
            tags += _TYPE_TAGS.get(context.type, [])
        attributes["tags"] = tags
        if not tags and not context.extras.reserved_tags:
            del attributes["tags"]
    attributes["artifacts"] = merge_yaml(attributes.get("artifacts") or {}, _artifacts(context))
    attributes["retry"] = merge_yaml(
        {"max": 2, "when": list(conditions)}, attributes.get("retry", {})
    )
    attributes["interruptible"] = True
    attributes.pop("needs", None)
    attributes.pop("stage", None)
    variables = {**shared, "SPACK_SPEC_NEEDS_REBUILD": "True"}
    if context.build_group:
        variables["SPACK_CDASH_BUILD_STAMP"] = context.build_stamp
    attributes["variables"] = variables
    return attributes


_TYPE_TAGS = {
    PipelineType.PROTECTED_BRANCH: ["protected"],
    PipelineType.PULL_REQUEST: ["public"],
}


def _artifacts(context: Context) -> dict[str, Any]:
    folders = ["logs", "reproduction", "tests", "user_data"]
    if context.artifacts_buildcache:
        folders.append("mirror")
    artifacts: dict[str, Any] = {
        "when": "always",
        "paths": [f"{context.artifacts_root}/{name}" for name in folders],
    }
    if "failed-environment" in context.fix:
        artifacts["exclude"] = [f"{context.artifacts_root}/logs/spack-build-env.txt*"]
    if context.extras.junit:
        results = f"{context.artifacts_root}/tests/ci-test-results.xml"
        artifacts["reports"] = {"junit": [results]}
    return artifacts


def _build_script(script: Any, context: Context) -> list[str]:
    lines = [
        line.replace("{env_dir}", context.concrete_environment) for line in unpack_script(script)
    ]
    if context.artifacts_buildcache:
        lines.append(_push("${CI_PROJECT_DIR}/${SPACK_LOCAL_MIRROR_DIR}"))
    if context.temporary_storage:
        lines.append(_push("${SPACK_TEMPORARY_MIRROR_URL}"))
    return lines


def _push(mirror: str) -> str:
    """A line that hands the binary on, if there is one to hand on.

    ``spack ci rebuild`` does not install what some mirror has already, and that is no failure.
    """
    spec = '"/${SPACK_JOB_SPEC_DAG_HASH}"'
    return (
        f"if spack location --install-dir {spec} > /dev/null 2>&1; "
        f'then spack buildcache push --unsigned --only package "{mirror}" {spec}; fi'
    )


def _cdash_name(spec: Spec, plan: Plan, context: Context) -> str:
    """Spack 1.1 prints the compiler's hash behind its version, and ``none`` without a sigil."""
    arch = f"{spec.platform}-{spec.os}-{spec.target}"
    compiler = "none"
    if spec.format < 5 and spec.legacy_compiler:
        compiler = "%{}@={}".format(*spec.legacy_compiler).replace("$", "$$")
    elif key := spec.compiler:
        node = plan.lock.specs[key]
        compiler = f"%{node.name}@{node.version}"
        if "cdash-build-name" not in context.fix:
            compiler += f"/{key}"
    if "cdash-build-name" in context.fix:
        compiler = "" if compiler == "none" else compiler.replace("@=", "@")
    return (
        f"{spec.name}@{spec.version}{compiler} hash={spec.hash} arch={arch} ({context.build_group})"
    )


def _variables(context: Context) -> dict[str, str]:
    root = context.artifacts_root
    everything = not context.prune_up_to_date and not context.prune_unaffected
    variables = {
        "SPACK_ARTIFACTS_ROOT": context.given_root or root,
        "SPACK_CONCRETE_ENV_DIR": context.concrete_environment,
        "SPACK_VERSION": context.spack_version,
        "SPACK_CHECKOUT_VERSION": context.spack_checkout,
        "SPACK_JOB_LOG_DIR": f"{root}/logs",
        "SPACK_JOB_REPRO_DIR": f"{root}/reproduction",
        "SPACK_JOB_TEST_DIR": f"{root}/tests",
        "SPACK_PIPELINE_TYPE": context.type.value if context.type else "None",
        "SPACK_CI_STACK_NAME": "None" if context.stack_name is None else context.stack_name,
        "SPACK_REBUILD_CHECK_UP_TO_DATE": str(context.prune_up_to_date),
        "SPACK_REBUILD_EVERYTHING": str(everything),
        "SPACK_REQUIRE_SIGNING": str(context.require_signing),
        **context.extras.variables,
        **context.forward,
    }
    if context.artifacts_buildcache:
        variables["SPACK_LOCAL_MIRROR_DIR"] = context.local_mirror
    if context.temporary_storage:
        variables["SPACK_TEMPORARY_MIRROR_URL"] = context.temporary_mirror
    if context.stack_name:
        variables["SPACK_CI_STACK_NAME"] = context.stack_name
    return {name: value.replace("\\", "/") for name, value in variables.items()}


def _services(attributes: Attributes, context: Context, *, building: bool) -> Iterator[ServiceJob]:
    """The jobs around the builds; none where there is nothing to do."""
    copying = context.type is PipelineType.COPY_ONLY
    if copying:
        yield _copy_job(attributes.services["copy"], context)
    if not building and not copying:
        return
    signing = attributes.services["signing"]
    if "script" in signing and context.type is PipelineType.PROTECTED_BRANCH:
        yield _signing_job(signing, context)
    if context.rebuild_index:
        yield _reindex_job(attributes.services["reindex"], context)
    if context.temporary_storage and building:
        yield _cleanup_job(attributes.services["cleanup"], context)


def _copy_job(base: Tree, context: Context) -> ServiceJob:
    destination = context.push_url if "copy-destination" in context.fix else context.fetch_url
    if not context.source_url:
        raise StackError(
            "a copy-only pipeline needs a mirror named buildcache-source",
            where="spack.mirrors",
            hint="add it beside buildcache-destination",
        )
    job = {
        **context.extras.around(base),
        "stage": "copy",
        "needs": [{"job": context.generate_job, "pipeline": context.generate_pipeline}],
        "variables": {
            **(base.get("variables") or {}),
            "SPACK_COPY_ONLY_DESTINATION": destination,
            "SPACK_BUILDCACHE_RELATIVE_KEYS_URL": _KEYS_URL,
            "SPACK_BUILDCACHE_SOURCE": context.source_url,
        },
        "dependencies": [],
    }
    return ServiceJob("copy", job)


def _signing_job(base: Tree, context: Context) -> ServiceJob:
    job = {
        **context.extras.around(base),
        "script": unpack_script(base["script"]),
        "stage": "stage-sign-pkgs",
        "when": "always",
        "retry": {"max": 2, "when": ["always"]},
        "interruptible": True,
        "variables": {
            **(base.get("variables") or {}),
            "SPACK_BUILDCACHE_DESTINATION": context.push_url,
            "SPACK_BUILDCACHE_RELATIVE_SPECS_URL": _SPECS_URL,
            "SPACK_BUILDCACHE_RELATIVE_KEYS_URL": _KEYS_URL,
        },
        "dependencies": [],
    }
    return ServiceJob("sign-pkgs", job)


def _reindex_job(base: Tree, context: Context) -> ServiceJob:
    url, install = context.push_url, []
    if requirement := context.index_requirement:
        url = shlex.quote(url)
        install = [
            (
                "command -v stackyard > /dev/null || "
                f"python3 -m pip install --quiet {shlex.quote(requirement)}"
            )
        ]
    script = [line.replace("{index_target_mirror}", url) for line in unpack_script(base["script"])]
    job = _last_job(context.extras.around(base), [*install, *script], "stage-rebuild-index")
    return ServiceJob("rebuild-index", job)


def _cleanup_job(base: Tree, context: Context) -> ServiceJob:
    """Remove the temporary mirror. Spack 1.1's own line lacks the option that names the URL."""
    script = [
        line.replace(
            "mirror destroy {mirror_prefix}", "mirror destroy --mirror-url {mirror_prefix}"
        )
        .replace("{mirror_prefix}/$CI_PIPELINE_ID", '"${SPACK_TEMPORARY_MIRROR_URL}"')
        .replace("{mirror_prefix}", context.temporary_storage)
        for line in unpack_script(base["script"])
    ]
    job = _last_job(context.extras.around(base), script, "stage-cleanup")
    return ServiceJob("cleanup", job)


def _last_job(base: Tree, script: list[str], stage: str) -> dict[str, Any]:
    return {
        **base,
        "stage": stage,
        "script": script,
        "when": "always",
        "retry": _SERVICE_RETRY,
        "interruptible": True,
        "dependencies": [],
    }


def _check_count(pipeline: Pipeline, limits: Limits) -> None:
    if limits.jobs and pipeline.size > limits.jobs:
        raise LimitError(
            f"the pipeline has {pipeline.size} jobs, the limit is {limits.jobs} "
            "(jobs per pipeline)",
            where="limits.jobs",
            hint="let pruning reuse what the mirror has, split the stack, or raise the limit "
            "on the server and in the settings",
        )


def check_size(name: str, size: int, limits: Limits) -> None:
    """Refuse an artifact (bytes) that GitLab would not include."""
    if limits.artifact_bytes and size > limits.artifact_bytes:
        raise LimitError(
            f"{name} has {size:,} bytes, GitLab includes at most {limits.artifact_bytes:,} "
            "(artifact size)",
            where="limits.artifact_bytes",
            hint="raise max_artifacts_content_include_size on the server and "
            "limits.artifact_bytes in the settings, or split the stack",
        )


def copy_manifest(specs: Iterable[Spec], source: str, destination: str) -> dict[str, Any]:
    """What ``SPACK_COPY_BUILDCACHE`` asks for: each spec's manifest, there and here."""
    from stackyard.mirror import spec_manifest_key  # only this feature needs it

    return {
        spec.hash: {
            "src": f"{source.rstrip('/')}/{spec_manifest_key(spec)}",
            "dest": f"{destination.rstrip('/')}/{spec_manifest_key(spec)}",
        }
        for spec in specs
    }
