"""Read GitLab pipelines as GitLab does, and tell in what two of them differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

Job = dict[str, Any]

#: Top-level keys of a pipeline that are no jobs.
GLOBAL = {"stages", "variables", "workflow", "default", "include", "spec"}


def load(text: str | bytes) -> dict[str, Any]:
    document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    assert isinstance(document, dict)
    return document


def jobs_of(document: Mapping[str, Any]) -> dict[str, Job]:
    """The jobs by name, with what they extend merged in and scripts made flat."""
    names = [n for n in document if n not in GLOBAL and not n.startswith(".")]
    jobs = {name: _extended(document, name) for name in names}
    for job in jobs.values():
        for key in ("script", "before_script", "after_script"):
            if key in job:
                job[key] = list(_flat(job[key]))
    return jobs


def _extended(document: Mapping[str, Any], name: str) -> Job:
    job = dict(document[name])
    parents = job.pop("extends", [])
    merged: Job = {}
    for parent in [parents] if isinstance(parents, str) else parents:
        merged = _merge(merged, _extended(document, parent))
    whole: Job = _merge(merged, job)
    return whole


def _merge(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {k: _merge(below[k], v) if k in below else v for k, v in above.items()}
    return above


def _flat(script: Any) -> Iterator[str]:
    for line in script:
        if isinstance(line, list):
            yield from _flat(line)
        else:
            yield line


def local_needs(job: Job) -> set[str]:
    return {need["job"] for need in job.get("needs", []) if "pipeline" not in need}


def is_join(job: Job) -> bool:
    return "STACKYARD_JOIN" in job.get("variables", {})


def closures(jobs: Mapping[str, Job]) -> dict[str, frozenset[str]]:
    """All jobs that each waits for, join jobs looked through."""
    memo: dict[str, frozenset[str]] = {}
    for start in jobs:
        pending = [start]
        while pending:
            name = pending[-1]
            missing = [need for need in local_needs(jobs[name]) if need not in memo]
            if missing:
                pending.extend(missing)
                continue
            pending.pop()
            below: set[str] = set()
            for need in local_needs(jobs[name]):
                below |= memo[need]
                if not is_join(jobs[need]):
                    below.add(need)
            memo[name] = frozenset(below)
    return memo


def plain(job: Job) -> Job:
    """The job without its needs and stage, and with what has no order sorted."""
    job = {key: value for key, value in job.items() if key not in ("needs", "stage")}
    job["variables"] = {key: str(value) for key, value in job.get("variables", {}).items()}
    job["tags"] = sorted(job.get("tags") or [])
    if "paths" in job.get("artifacts", {}):
        job["artifacts"] = job["artifacts"] | {"paths": sorted(job["artifacts"]["paths"])}
    if isinstance(job.get("retry"), dict) and isinstance(job["retry"].get("when"), list):
        job["retry"] = job["retry"] | {"when": sorted(job["retry"]["when"])}
    return job


def differences(ours: Mapping[str, Any], spacks: Mapping[str, Any]) -> list[str]:
    """In what our pipeline differs from Spack's; needs count by their transitive closure."""
    mine, theirs = jobs_of(ours), jobs_of(spacks)
    named = {name for name, job in mine.items() if not is_join(job)}
    found = [f"only ours: {name}" for name in sorted(named - set(theirs))]
    found += [f"missing: {name}" for name in sorted(set(theirs) - named)]
    my_closure, their_closure = closures(mine), closures(theirs)
    for name in sorted(named & set(theirs)):
        a, b = plain(mine[name]), plain(theirs[name])
        found += [
            f"{name}: {key}: {a.get(key)!r} != {b.get(key)!r}"
            for key in sorted(a.keys() | b.keys())
            if a.get(key) != b.get(key)
        ]
        if my_closure[name] != their_closure[name]:
            found.append(f"{name}: needs: {my_closure[name] ^ their_closure[name]}")
        cross = [
            [n for n in job.get("needs", []) if "pipeline" in n]
            for job in (mine[name], theirs[name])
        ]
        if cross[0] != cross[1]:
            found.append(f"{name}: needs of other pipelines: {cross}")
    for key, value in spacks.get("variables", {}).items():
        mended = {value, PIPELINE_TYPES.get(str(value), value)}
        if ours.get("variables", {}).get(key) not in mended:
            found.append(f"variable {key}: {ours.get('variables', {}).get(key)!r} != {value!r}")
    return found + stage_faults(ours, mine)


#: What Spack 1.x writes for a pipeline type, and what its ``ci rebuild`` understands.
PIPELINE_TYPES = {
    "PROTECTED_BRANCH": "spack_protected_branch",
    "PULL_REQUEST": "spack_pull_request",
    "COPY_ONLY": "spack_copy_only",
}


def stage_faults(document: Mapping[str, Any], jobs: Mapping[str, Job]) -> list[str]:
    """Needs that GitLab would refuse: of no job, or of a job in a later stage."""
    order = {stage: number for number, stage in enumerate(document.get("stages", []))}
    faults = []
    for name, job in jobs.items():
        for need in local_needs(job):
            if need not in jobs:
                faults.append(f"{name} needs {need}, which is no job")
            elif order[jobs[need]["stage"]] > order[job["stage"]]:
                faults.append(f"{name} needs {need} of a later stage")
    return faults
