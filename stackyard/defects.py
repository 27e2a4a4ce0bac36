"""Oddities of Spack's pipeline generator: which touch a stack, and their names under ``fix:``.

By default a pipeline equals what Spack 1.1 generates, oddities included, so that moving to or from
``spack ci generate`` changes nothing. ``plan`` and ``doctor`` warn of each oddity that touches the
stack. docs/spack-defects.md says the same at length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["FIXES", "Defect", "touched_defects"]

Tree = Mapping[str, Any]


class Defect(NamedTuple):
    """``places`` yields where the ``ci`` section meets the defect, as dotted keys."""

    name: str
    what: str
    places: Callable[[Tree], Iterator[str]]


def touched_defects(ci: Tree, fix: frozenset[str]) -> tuple[str, ...]:
    """A line for each defect that touches the section and is not mended."""
    lines = []
    for defect in _DEFECTS:
        places = [] if defect.name in fix else list(dict.fromkeys(defect.places(ci)))
        if places:
            more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            lines.append(f"{places[0]}{more}: {defect.what} (mend it with fix: [{defect.name}])")
    return tuple(lines)


def _entries(ci: Tree) -> Iterator[tuple[str, Tree]]:
    for number, entry in enumerate(ci.get("pipeline-gen") or ()):
        yield f"ci.pipeline-gen[{number}]", entry


def _jobs(ci: Tree, *kinds: str) -> Iterator[tuple[str, Tree]]:
    """Job sections of the given kinds, and those of submapping items for ``build-job``."""
    for where, entry in _entries(ci):
        for key, value in _mappings(entry):
            if key in kinds:
                yield f"{where}.{key}", value
        for number, item in enumerate(entry.get("submapping") or ()):
            for key, value in _mappings(item):
                if key in kinds:
                    yield f"{where}.submapping[{number}].{key}", value


def _mappings(entry: Tree) -> Iterator[tuple[str, Tree]]:
    for key, value in entry.items():
        if isinstance(value, Mapping):
            yield str(key).removesuffix(":"), value


def _has(job: Tree, name: str) -> bool:
    return any(str(key).rstrip(":+-") == name for key in job)


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{where}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, f"{where}[{number}]")


def _trailing_colon(ci: Tree) -> Iterator[str]:
    for where, entry in _entries(ci):
        for place, text in _texts(entry, where):
            if text.endswith(":") and "@" not in text:
                yield place


def _seen_elsewhere(_: Tree) -> Iterator[str]:
    """Whether it touches a stack takes more than its section to tell."""
    return iter(())


def _own_script(kind: str) -> Callable[[Tree], Iterator[str]]:
    def places(ci: Tree) -> Iterator[str]:
        return (where for where, job in _jobs(ci, kind) if _has(job, "script"))

    return places


def _signing_tags(ci: Tree) -> Iterator[str]:
    return (where for where, job in _jobs(ci, "signing-job") if _has(job, "tags"))


def _remove_scalar(ci: Tree) -> Iterator[str]:
    kinds = [
        f"{job}-job-remove"
        for job in ("any", "build", "cleanup", "copy", "noop", "reindex", "signing")
    ]
    for where, job in _jobs(ci, *kinds):
        for place, _ in _scalars(job, where):
            yield place


def _scalars(value: Tree, where: str) -> Iterator[tuple[str, object]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _scalars(item, f"{where}.{key}")
        elif not isinstance(item, list) and not str(key).endswith(":"):
            yield f"{where}.{key}", item


def _arch_wildcard(ci: Tree) -> Iterator[str]:
    for where, entry in _entries(ci):
        for number, item in enumerate(entry.get("submapping") or ()):
            for place, text in _texts(item.get("match"), f"{where}.submapping[{number}].match"):
                if "platform=*" in text or "os=*" in text:
                    yield place


def _dynamic_headers(ci: Tree) -> Iterator[str]:
    for where, entry in _entries(ci):
        header = (entry.get("dynamic-mapping") or {}).get("header") or {}
        for place, text in _texts(header, f"{where}.dynamic-mapping.header"):
            if "$" in text:
                yield place


def _cdash(ci: Tree) -> Iterator[str]:
    if ci.get("cdash", {}).get("build-group"):
        yield "cdash.build-group"


_DEFECTS = (
    Defect(
        "trailing-colon",
        "Spack drops the colon at the end of a text without @, so target=x86_64: is no range",
        _trailing_colon,
    ),
    Defect(
        "first-match",
        "with match_behavior first the lowest matching item wins, not the topmost",
        _seen_elsewhere,  # stackyard.attributes.match_warnings has the lock
    ),
    Defect(
        "any-script",
        "a script in any-job also becomes the script of signing, no-op and copy jobs",
        _own_script("any-job"),
    ),
    Defect("reindex-script", "Spack replaces this script by its own", _own_script("reindex-job")),
    Defect(
        "cleanup-script",
        "Spack replaces this script by its own, which lacks --mirror-url",
        _own_script("cleanup-job"),
    ),
    Defect(
        "signing-tags",
        "the tags aws, protected and notary are put before these, whatever they are",
        _signing_tags,
    ),
    Defect(
        "remove-scalar",
        "a text or number is removed only if its key ends with ::, else it stays",
        _remove_scalar,
    ),
    Defect(
        "arch-wildcard",
        "platform=* and os=* end the test of the architecture: what follows is not looked at",
        _arch_wildcard,
    ),
    Defect(
        "dynamic-headers",
        "environment variables in headers of a dynamic mapping are not expanded",
        _dynamic_headers,
    ),
    Defect(
        "cdash-build-name",
        "build names on CDash carry the compiler's hash, or the word none without a compiler",
        _cdash,
    ),
    Defect(
        "copy-destination",
        "a copy-only pipeline copies to the mirror's fetch URL",
        _seen_elsewhere,  # stackyard.flow.planning has the mirrors
    ),
    Defect(
        "failed-environment",
        "the artifacts of a package that fails hold all variables of its job, secrets among them",
        _seen_elsewhere,
    ),
)

#: Every name that ``fix:`` takes.
FIXES = tuple(defect.name for defect in _DEFECTS)
