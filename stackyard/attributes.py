"""Merge the ``ci:`` section of a stack into the attributes of each job.

Follows Spack 1.1 (``SpackCIConfig.generate_ir`` in ``ci/common.py``): built-in overrides, the user's
``pipeline-gen`` and built-in defaults make one list, which is applied from its last entry to its
first, each newly applied value winning. So earlier entries win, and so does the lowest matching
item of a submapping.

Jobs that the same entries apply to share one merge: a stack of 20,000 specs has a handful of
groups. What differs inside a group are seven variables; they stand in for themselves as marks
while the group is merged, so that an entry may override, extend or drop them like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from stackyard.errors import SpecError, StackError
from stackyard.lock import Lock, Spec
from stackyard.merge import literal, loaded_values, merge_yaml, remove_yaml
from stackyard.spec import Matcher, Pattern, format_variants, parse_pattern

__all__ = [
    "MARKS",
    "RESERVED_TAGS",
    "SPEC_VARIABLES",
    "TOOLCHAIN_VARIABLES",
    "Attributes",
    "Group",
    "make_attributes",
    "match_warnings",
    "spec_variables",
    "unpack_script",
]

Tree = Mapping[str, Any]

#: Tags that only Spack's own pipelines may carry.
RESERVED_TAGS = ("public", "protected", "notary")

#: What every build job tells ``spack ci rebuild`` about its spec.
SPEC_VARIABLES = tuple(
    f"SPACK_JOB_SPEC_{name}"
    for name in (
        "DAG_HASH",
        "PKG_NAME",
        "PKG_VERSION",
        "COMPILER_NAME",
        "COMPILER_VERSION",
        "ARCH",
        "VARIANTS",
    )
)

#: Those that specs of one compiler and architecture share.
TOOLCHAIN_VARIABLES = (
    "SPACK_JOB_SPEC_COMPILER_NAME",
    "SPACK_JOB_SPEC_COMPILER_VERSION",
    "SPACK_JOB_SPEC_ARCH",
)

#: Marks for all seven while a group is merged. Nothing that is merged has a NUL in it: YAML cannot,
#: and an answer of a dynamic mapping with one is refused.
MARKS = {name: f"\0{name}\0" for name in SPEC_VARIABLES}

_SERVICE_JOBS = ("copy", "cleanup", "noop", "reindex", "signing")
_JOBS = ("any", "build", *_SERVICE_JOBS)

_BUILD = ("cd {env_dir}", "spack env activate --without-view .")
_DEFAULTS: tuple[Tree, ...] = (
    {"noop-job": {"script": ['echo "All specs already up to date, nothing to rebuild."']}},
)
_REINDEX: Tree = {
    "reindex-job": {"script:": ["spack buildcache update-index --keys {index_target_mirror}"]}
}
_OWN_REINDEX = "stackyard mirror.index --url {index_target_mirror}"
_CLEANUP: Tree = {
    "cleanup-job": {"script:": ["spack -d mirror destroy {mirror_prefix}/$CI_PIPELINE_ID"]}
}
_SIGNING: Tree = {"signing-job": {"tags": ["aws", "protected", "notary"]}}
_RESERVED: Tree = {"any-job-remove": {"tags": list(RESERVED_TAGS)}}


class DynamicMapping(Protocol):
    """Asks the service of a ``dynamic-mapping``: one answer (or None) for each query."""

    def __call__(self, mapping: Tree, queries: Sequence[str]) -> Sequence[Tree | None]: ...


class Group(NamedTuple):
    """Build jobs with equal attributes, but for the marks of ``SPEC_VARIABLES``."""

    attributes: Tree
    members: tuple[str, ...]  # DAG hashes

    def variables(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Its variables: those that all members share, and those that hold marks."""
        shared: dict[str, Any] = {}
        marked: dict[str, Any] = {}
        for name, value in (self.attributes.get("variables") or {}).items():
            (marked if isinstance(value, str) and "\0" in value else shared)[name] = value
        return shared, marked


class Attributes(NamedTuple):
    """``services`` maps copy, cleanup, noop, reindex and signing to their attributes."""

    groups: tuple[Group, ...]
    services: Mapping[str, Tree]


def make_attributes(  # noqa: PLR0913 - what is optional is passed by name
    ci: Tree,
    specs: Sequence[Spec],
    lock: Lock,
    *,
    fix: frozenset[str] = frozenset(),
    dynamic: DynamicMapping | None = None,
    own_index: bool = False,
    tests: bool = False,
    reserved_tags: bool = True,
) -> Attributes:
    """Apply the whole ``ci`` section (validated, includes merged) to the jobs of ``specs``.

    ``fix`` names defects of Spack that are to be mended (see ``stackyard.defects``). ``dynamic``
    answers dynamic mappings; without it they are left out. ``own_index`` gives the reindex job our
    script in place of Spack's; ``tests`` makes the default build script run packages' tests;
    without ``reserved_tags`` the signing job asks for no more runner tags than it is given.

    Raises SpecError for a match string that cannot be parsed or settled, StackError where an entry
    leaves a job without what it needs.
    """
    marks = dict(MARKS)
    groups = [Group({"variables": marks}, tuple(spec.hash for spec in specs))] if specs else []
    services: dict[str, Any] = {name: {} for name in _SERVICE_JOBS}
    matcher = Matcher(lock)
    places = [
        f"spack.ci.pipeline-gen[{number}].submapping"
        for number, entry in enumerate(ci.get("pipeline-gen") or ())
        if "submapping" in _plain_keys(entry)
    ]
    entries = _entries(ci, fix, own_index=own_index, tests=tests)
    if not reserved_tags:
        entries = [entry for entry in entries if entry is not _SIGNING]
    for section in reversed(entries):
        if "submapping" in section:
            rules = _Rules(section, lock, matcher, fix, places.pop())
            groups = [part for group in groups for part in rules.split(group)]
        elif "dynamic-mapping" in section:
            if dynamic is not None:
                groups = _ask(groups, section["dynamic-mapping"], lock, dynamic)
        else:
            groups, services = _apply(section, groups, services, fix)
    return Attributes(tuple(groups), services)


def _entries(ci: Tree, fix: frozenset[str], *, own_index: bool, tests: bool) -> list[Tree]:
    user: list[Tree] = [_plain_keys(entry) for entry in ci.get("pipeline-gen") or ()]
    if "trailing-colon" not in fix:
        user = [loaded_values(entry) for entry in user]
    if "any-script" in fix:
        user = [part for entry in user for part in _without_service_scripts(entry)]
    reindex = {"reindex-job": {"script:": [_OWN_REINDEX]}} if own_index else _REINDEX
    overrides, defaults = [reindex, _CLEANUP, _SIGNING, _RESERVED], list(_DEFAULTS)
    rebuild = "spack ci rebuild --tests" if tests else "spack ci rebuild"
    defaults.append({"build-job": {"script": [*_BUILD, rebuild]}})
    if "reindex-script" in fix:
        overrides.remove(reindex)
        defaults.append({"reindex-job": {"script": reindex["reindex-job"]["script:"]}})
    if "cleanup-script" in fix:
        overrides.remove(_CLEANUP)
        defaults.append(
            {
                "cleanup-job": {
                    "script": [
                        "spack -d mirror destroy --mirror-url {mirror_prefix}/$CI_PIPELINE_ID"
                    ]
                }
            }
        )
    if "signing-tags" in fix and any(
        "tags" in _plain_keys(entry.get("signing-job") or {}) for entry in user
    ):
        overrides.remove(_SIGNING)
    return [*overrides, *user, *defaults]


def _plain_keys(entry: Tree) -> dict[str, Any]:
    """The entry with its own keys free of ``::``, which says nothing at this level."""
    return {str(key).removesuffix(":"): value for key, value in entry.items()}


def _without_service_scripts(entry: Tree) -> list[Tree]:
    """Split an ``any-job`` with a script, so that the script reaches the build jobs only."""
    job = entry.get("any-job") or {}
    scripts = {k: v for k, v in job.items() if k.rstrip(":+-") == "script"}
    if not scripts:
        return [entry]
    rest = {k: v for k, v in job.items() if k not in scripts}
    return [{"build-job": scripts}, {**entry, "any-job": rest}]


def _apply(
    section: Tree, groups: list[Group], services: dict[str, Any], fix: frozenset[str]
) -> tuple[list[Group], dict[str, Any]]:
    name = next((n for n in _JOBS if f"{n}-job" in section or f"{n}-job-remove" in section), None)
    if name is None:
        raise StackError(
            f"an entry of pipeline-gen says nothing that a job could take: {', '.join(section)}",
            where="spack.ci.pipeline-gen",
        )

    def change(attributes: Any) -> Any:
        return _change(attributes, section, name, fix)

    if name in ("any", "build"):
        groups = [Group(change(group.attributes), group.members) for group in groups]
    if name == "any":
        services = {job: change(attributes) for job, attributes in services.items()}
    elif name != "build":
        services = {**services, name: change(services[name])}
    return groups, services


def _change(attributes: Any, section: Tree, name: str, fix: frozenset[str]) -> Any:
    """Removal before addition, as Spack orders them inside one entry. Null changes nothing."""
    if (gone := section.get(f"{name}-job-remove")) is not None:
        attributes = remove_yaml(attributes, _removable(gone) if "remove-scalar" in fix else gone)
    if (more := section.get(f"{name}-job")) is not None:
        attributes = merge_yaml(attributes, more)
    return attributes


def _removable(gone: Tree) -> Tree:
    """Mark every scalar to be removed with ``::``, without which Spack leaves it where it is."""
    marked: dict[str, Any] = {}
    for key, value in gone.items():
        if isinstance(value, Mapping):
            marked[key] = _removable(value)
        else:
            scalar = not isinstance(value, list) and not key.endswith(":")
            marked[f"{key}:" if scalar else key] = value
    return marked


class _Rules:
    """One ``submapping``: which of its items apply to a spec, and what they do to a group."""

    def __init__(
        self, section: Tree, lock: Lock, matcher: Matcher, fix: frozenset[str], where: str
    ) -> None:
        self._where = where
        self._lock = lock
        self._matcher = matcher
        self._fix = fix
        self._first = section.get("match_behavior", "first") == "first"
        self._items = [_plain_keys(item) for item in section["submapping"]]
        order = range(len(self._items))
        topmost = self._first and "first-match" in fix
        self._order = tuple(order) if topmost else tuple(reversed(order))
        self._tests = [
            self._test(item["match"], f"{where}[{index}].match")
            for index, item in enumerate(self._items)
        ]

    def _test(self, texts: Sequence[str], where: str) -> tuple[frozenset[str], tuple[Pattern, ...]]:
        patterns = _patterns(texts, self._fix, where)
        names = {spec.name for spec in self._lock.specs.values()}
        plain = {p.only_name for p in patterns if p.only_name in names}
        return frozenset(n for n in plain if n), tuple(
            pattern for pattern in patterns if pattern.only_name not in plain
        )

    def _matching(self, spec: Spec) -> tuple[int, ...]:
        """Indices of the items that apply, in the order in which they do."""
        found = []
        for index in self._order:
            names, patterns = self._tests[index]
            if spec.name in names or _any_matches(
                self._matcher, spec, patterns, f"{self._where}[{index}].match"
            ):
                found.append(index)
                if self._first:
                    break
        return tuple(found)

    def split(self, group: Group) -> list[Group]:
        members: dict[tuple[int, ...], list[str]] = {}
        for key in group.members:
            members.setdefault(self._matching(self._lock.specs[key]), []).append(key)
        parts = []
        for indices, keys in members.items():
            attributes = group.attributes
            for index in indices:
                attributes = _change(attributes, self._items[index], "build", self._fix)
            parts.append(Group(attributes, tuple(keys)))
        return parts


def _any_matches(matcher: Matcher, spec: Spec, patterns: Sequence[Pattern], where: str) -> bool:
    try:
        return any(matcher.matches(spec, pattern) for pattern in patterns)
    except SpecError as error:
        raise SpecError(error.message, where=where, hint=error.hint) from None


def _ask(groups: list[Group], mapping: Tree, lock: Lock, dynamic: DynamicMapping) -> list[Group]:
    """Ask the service about every job; the answer is merged over the job's attributes."""
    jobs = [(group, key) for group in groups for key in group.members]
    queries = [_query(group, lock.specs[key], lock) for group, key in jobs]
    answers = dynamic(mapping, queries)
    merged: list[Group] = []
    for (group, key), answer in zip(jobs, answers, strict=True):
        attributes = merge_yaml(group.attributes, literal(answer)) if answer else group.attributes
        merged.append(Group(attributes, (key,)))
    return _regroup(merged)


def _regroup(groups: list[Group]) -> list[Group]:
    """Join groups of equal attributes again."""
    members: dict[str, list[str]] = {}
    attributes: dict[str, Tree] = {}
    for group in groups:
        text = repr(group.attributes)
        members.setdefault(text, []).extend(group.members)
        attributes.setdefault(text, group.attributes)
    return [Group(attributes[text], tuple(keys)) for text, keys in members.items()]


def _query(group: Group, spec: Spec, lock: Lock) -> str:
    """The query string that Spack's resource service is asked with (spack-gantry's API)."""
    shared, marked = group.variables()
    own = spec_variables(spec, lock)
    job = {**shared, **{name: fill(value, own) for name, value in marked.items()}}
    get = {name: job.get(name, "") for name in SPEC_VARIABLES}
    text = (
        "{SPACK_JOB_SPEC_PKG_NAME}@{SPACK_JOB_SPEC_PKG_VERSION} {SPACK_JOB_SPEC_VARIANTS}"
        " arch={SPACK_JOB_SPEC_ARCH}"
        "%{SPACK_JOB_SPEC_COMPILER_NAME}@{SPACK_JOB_SPEC_COMPILER_VERSION}"
    ).format_map(get)
    return f"spec={quote(text)}"


def fill(value: str, own: Mapping[str, str]) -> str:
    """Put a spec's own values where their marks stand."""
    return re.sub("\0([A-Z_]+)\0", lambda mark: own[mark.group(1)], value)


def spec_variables(spec: Spec, lock: Lock) -> dict[str, str]:
    """The values of ``SPEC_VARIABLES`` for one spec, formatted as Spack formats them."""
    return {
        **package_variables(spec),
        **dict(zip(TOOLCHAIN_VARIABLES, toolchain_values(spec, lock), strict=True)),
    }


def package_variables(spec: Spec) -> dict[str, str]:
    """Those of the seven that are a spec's own."""
    node = spec.node
    return {
        "SPACK_JOB_SPEC_DAG_HASH": spec.hash,
        "SPACK_JOB_SPEC_PKG_NAME": spec.name,
        "SPACK_JOB_SPEC_PKG_VERSION": spec.version,
        "SPACK_JOB_SPEC_VARIANTS": format_variants(spec.parameters, node.get("patches") or ()),
    }


def toolchain_values(spec: Spec, lock: Lock) -> tuple[str, str, str]:
    """The values of ``TOOLCHAIN_VARIABLES``, which many specs share."""
    return (*compiler_of(spec, lock), f"{spec.platform}-{spec.os}-{spec.target}")


def compiler_of(spec: Spec, lock: Lock) -> tuple[str, str]:
    """Name and version of the compiler: the first of C, C++ and Fortran; ``none`` without one."""
    if spec.format < 5:
        return spec.legacy_compiler or ("none", "none")
    if key := spec.compiler:
        compiler = lock.specs[key]
        return compiler.name, compiler.version
    return "none", "none"


def _patterns(texts: Sequence[str], fix: frozenset[str], where: str) -> list[Pattern]:
    patterns = [parse_pattern(text, where) for text in texts]
    if "arch-wildcard" in fix:
        return [pattern.without_wildcards() for pattern in patterns]
    return patterns


def unpack_script(script: Any) -> list[str]:
    """Flatten a script of strings and lists of strings by one level, as Spack does."""
    lines: list[str] = []
    for line in script or ():
        lines.extend(line) if isinstance(line, list) else lines.append(line)
    return lines


def match_warnings(ci: Tree, lock: Lock, *, fix: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """What is odd about the match strings of a section, in the order of the file.

    Strings that hold for no spec, or for none that gets a job; and with ``match_behavior: first``
    items that a lower one takes specs away from. Raises SpecError as ``make_attributes`` does.
    """
    matcher = Matcher(lock)
    warnings: list[str] = []
    for number, raw in enumerate(ci.get("pipeline-gen") or ()):
        entry = _plain_keys(raw)
        if "submapping" in entry:
            entry = entry if "trailing-colon" in fix else loaded_values(entry)
            where = f"ci.pipeline-gen[{number}].submapping"
            items = [_plain_keys(item) for item in entry["submapping"]]
            held = [
                _held_by(item["match"], lock, matcher, f"{where}[{i}]", warnings, fix)
                for i, item in enumerate(items)
            ]
            if entry.get("match_behavior", "first") == "first" and "first-match" not in fix:
                warnings.extend(_contested(held, lock, where))
    return tuple(dict.fromkeys(warnings))


def _held_by(  # noqa: PLR0913, PLR0917 - one loop body, given a name
    texts: Sequence[str],
    lock: Lock,
    matcher: Matcher,
    where: str,
    warnings: list[str],
    fix: frozenset[str],
) -> frozenset[str]:
    """Hashes of the specs with jobs that an item holds for; adds what is odd to ``warnings``."""
    held: set[str] = set()
    place = f"spack.{where}.match"
    for text, pattern in zip(texts, _patterns(texts, fix, place), strict=True):
        found = [
            spec for spec in lock.specs.values() if _any_matches(matcher, spec, (pattern,), place)
        ]
        jobs = {spec.hash for spec in found if not spec.external}
        if not found:
            warnings.append(f"{where}: match string {text!r} holds for no spec")
        elif not jobs:
            warnings.append(
                f"{where}: match string {text!r} holds for externals only, which get no job"
            )
        held |= jobs
    return frozenset(held)


def _contested(held: Sequence[frozenset[str]], lock: Lock, where: str) -> Iterator[str]:
    for index, specs in enumerate(held):
        below = frozenset().union(*held[index + 1 :])
        if lost := specs & below:
            names = sorted({lock.specs[key].name for key in lost})
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            yield (
                f"{where}[{index}]: with match_behavior first the lowest matching item wins, so "
                f"a later one takes {shown} (mend it with fix: [first-match])"
            )
