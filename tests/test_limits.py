"""What a CI system can hold: pipelines stay inside, or are refused with the limit's name."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Mapping
from typing import Any

import pytest
from conftest import CI_SECTION, Project, Stackyard
from locks import EXTERNAL, document, key, node, text
from pipelines import (
    Job,
    closures,
    is_join,
    jobs_of,
    load,
    local_needs,
    stage_faults,
)

from benchmarks.synthetic import make_lock
from stackyard.lock import Lock, parse_lock
from stackyard.pipeline import job_name

WIDE = 300


def generate(
    stackyard: Stackyard, project: Project, *flags: str, code: int = 0
) -> tuple[dict[str, Any], str]:
    """The child pipeline of the stack demo, and what was said."""
    answer = stackyard("generate", "--stack", "demo", "--no-prune", *flags, code=code)
    assert answer.out == ""
    return (load(project.child.read_bytes()) if not code else {}), answer.err


def refused(stackyard: Stackyard, project: Project, code: int = 4) -> str:
    """The error of a run that must write nothing."""
    before = project.files()
    _, said = generate(stackyard, project, code=code)
    assert project.files() == before
    return said[said.index("error: ") :]


def builds_of(jobs: Mapping[str, Job]) -> dict[str, Job]:
    """The jobs that build, by DAG hash."""
    return {hash_of(job): job for job in jobs.values() if hash_of(job)}


def closure_faults(jobs: Mapping[str, Job], lock: Lock) -> list[str]:
    """Where a job waits for other specs than the lock's DAG says, externals left out."""
    names = {h: n for n, job in jobs.items() for h in [hash_of(job)] if h}
    waits = closures(jobs)
    below: dict[str, frozenset[str]] = {}
    for k in lock.order:
        children = lock.specs[k].children
        below[k] = frozenset(children).union(*(below[child] for child in children))
    expected = {k for k, spec in lock.specs.items() if not spec.external}
    faults = sorted(expected ^ set(names))
    for k in expected & set(names):
        if waits[names[k]] != {names[h] for h in below[k] & expected}:
            faults.append(names[k])
    return faults


def hash_of(job: Job) -> str:
    return str(job.get("variables", {}).get("SPACK_JOB_SPEC_DAG_HASH", ""))


def most_needs(jobs: Mapping[str, Job]) -> int:
    """The most entries that one job's needs have, the one on the generate job counted."""
    return max(len(job.get("needs", ())) for job in jobs.values())


def wide(project: Project, count: int = 40, **settings: Any) -> Lock:
    """A stack with one spec that directly needs all others."""
    leaves = [f"leaf-{'abcdefghij'[i // 10]}{'abcdefghij'[i % 10]}" for i in range(count)]
    lock = document({"top": leaves, **{leaf: [] for leaf in leaves}})
    project.stack(lock, settings={"limits": settings})
    return parse_lock(text(lock), "spack.lock")


# -- needs per job --------------------------------------------------------------------------


def test_two_thousand_specs(stackyard: Stackyard, project: Project) -> None:
    data = make_lock(2000, wide=WIDE)
    ci = {
        "pipeline-gen": [
            {"any-job": {"image": "builder:1"}},
            {"build-job": {"tags": ["builds"]}},
            {"noop-job": {"tags": ["small"], "variables": {"KEPT": "yes"}}},
        ]
    }
    project.stack(data, ci=ci)
    lock = parse_lock(data, "spack.lock")
    assert max(len(spec.children) for spec in lock.specs.values()) == WIDE + 1
    made, _ = generate(stackyard, project)
    jobs = jobs_of(made)
    assert len(builds_of(jobs)) == 1999
    assert most_needs(jobs) <= 50
    assert stage_faults(made, jobs) == []
    assert closure_faults(jobs, lock) == []
    joins = [job for job in jobs.values() if is_join(job)]
    assert len(joins) == 7  # 300 leaves in groups of 49; the widest spec waits for the groups
    numbers = [job["variables"].pop("STACKYARD_JOIN") for job in joins]
    assert numbers == [str(number) for number in range(1, 8)]
    for job in joins:
        assert job["variables"] == {"KEPT": "yes", "GIT_STRATEGY": "none"}
        assert job["tags"] == ["small"]
        assert job["image"] == "builder:1"
        assert job["script"] == [f'echo "{len(job["needs"])} jobs joined"']
        assert {need["artifacts"] for need in job["needs"]} == {False}
        assert job["interruptible"] is True


@pytest.mark.parametrize("limit", [3, 4, 8, 41, 42])
def test_joins_of_joins(stackyard: Stackyard, project: Project, limit: int) -> None:
    lock = wide(project, needs=limit)
    made, _ = generate(stackyard, project)
    jobs = jobs_of(made)
    assert most_needs(jobs) <= limit
    assert stage_faults(made, jobs) == []
    assert closure_faults(jobs, lock) == []
    deep = [
        job
        for job in jobs.values()
        if is_join(job) and any(is_join(jobs[need]) for need in local_needs(job))
    ]
    assert bool(deep) == (limit < 8)
    assert any(map(is_join, jobs.values())) == (limit < 41)


def test_no_limit(stackyard: Stackyard, project: Project) -> None:
    lock = wide(project, needs=0)
    jobs = jobs_of(generate(stackyard, project)[0])
    assert [name for name, job in jobs.items() if is_join(job)] == []
    assert most_needs(jobs) == 41
    assert closure_faults(jobs, lock) == []


@pytest.mark.parametrize("limit", [1, 2])
def test_impossible_needs(stackyard: Stackyard, project: Project, limit: int) -> None:
    wide(project, needs=limit)
    assert refused(stackyard, project) == (
        f"error: limits.needs: top@1.0 /{key('top')} needs 41 jobs, GitLab allows {limit} "
        "(needs per job)\n"
        "  hint: raise ci_needs_size_limit on the server and limits.needs in the settings\n"
    )


def test_chain_within_two_needs(stackyard: Stackyard, project: Project) -> None:
    lock = document({"app": ["lib"], "lib": ["base"], "base": []})
    project.stack(lock, settings={"limits": {"needs": 2}})
    assert most_needs(jobs_of(generate(stackyard, project)[0])) == 2


def test_reduced_needs_count(stackyard: Stackyard, project: Project) -> None:
    """What another need implies is left out before anything is joined."""
    names = [f"p{letter}" for letter in "abcdefghijkl"]
    lock = document({name: names[:i] for i, name in enumerate(names)})
    project.stack(lock, settings={"limits": {"needs": 2}})
    jobs = jobs_of(generate(stackyard, project)[0])
    assert most_needs(jobs) == 2
    assert closure_faults(jobs, parse_lock(text(lock), "spack.lock")) == []


# -- jobs, size, names ----------------------------------------------------------------------


def test_jobs_per_pipeline(stackyard: Stackyard, project: Project) -> None:
    wide(project, jobs=42)  # 41 specs and the index job
    assert len(jobs_of(generate(stackyard, project)[0])) == 42
    wide(project, jobs=41)
    assert refused(stackyard, project).splitlines()[0] == (
        "error: limits.jobs: the pipeline has 42 jobs, the limit is 41 (jobs per pipeline)"
    )


def test_joins_count_as_jobs(stackyard: Stackyard, project: Project) -> None:
    wide(project, jobs=42, needs=40)
    assert "has 43 jobs" in refused(stackyard, project)


def test_size_of_the_pipeline(stackyard: Stackyard, project: Project) -> None:
    wide(project)
    generate(stackyard, project)
    size = project.child.stat().st_size
    wide(project, artifact_bytes=size)
    assert len(jobs_of(generate(stackyard, project)[0])) == 42
    wide(project, artifact_bytes=size - 1)
    assert refused(stackyard, project).splitlines()[0] == (
        f"error: limits.artifact_bytes: the pipeline has {size:,} bytes, GitLab includes at most "
        f"{size - 1:,} (artifact size)"
    )
    wide(project, artifact_bytes=0)
    assert len(jobs_of(generate(stackyard, project)[0])) == 42


def test_size_of_the_archive(stackyard: Stackyard, project: Project) -> None:
    """A lock that no compression makes small counts, since it lies in the same archive."""
    noise = base64.b64encode(random.Random(7).randbytes(200_000)).decode()  # noqa: S311
    lock = document(
        [
            node(
                "app",
                parameters={"build_system": "generic"},
                annotations={"original_specfile_version": 5, "noise": noise},
            )
        ]
    )
    project.stack(text(lock), settings={"limits": {"artifact_bytes": 150_000}})
    said = refused(stackyard, project)
    assert said.startswith("error: limits.artifact_bytes: the archive of the generate job has ")
    assert "GitLab includes at most 150,000 (artifact size)\n" in said
    project.stack(text(lock), settings={"limits": {"artifact_bytes": 300_000}})
    assert len(builds_of(jobs_of(generate(stackyard, project)[0]))) == 1


def test_compressible_lock_fits(stackyard: Stackyard, project: Project) -> None:
    lock = document(
        [node("app", annotations={"original_specfile_version": 5, "noise": "a" * 200_000})]
    )
    project.stack(text(lock), settings={"limits": {"artifact_bytes": 100_000}})
    assert len(builds_of(jobs_of(generate(stackyard, project)[0]))) == 1


def test_names_that_were_cut_stay_apart(stackyard: Stackyard, project: Project) -> None:
    """Spack cuts at 255 characters; two jobs of one name would be one job for GitLab."""
    long = "x" * 300
    nodes = [
        node(long, hash="a" * 31 + "b"),
        node(long, hash="a" * 31 + "c"),
        node(
            "short",
            dependencies=[
                {
                    "name": long,
                    "hash": "a" * 31 + letter,
                    "parameters": {"deptypes": ["link"], "virtuals": []},
                }
                for letter in "bc"
            ],
        ),
    ]
    lock = document(nodes, roots=["short"])
    project.stack(lock)
    made, _ = generate(stackyard, project)
    jobs = jobs_of(made)
    built = {name: job for name, job in jobs.items() if hash_of(job)}
    assert sorted(map(hash_of, built.values())) == sorted(
        [*("a" * 31 + c for c in "bc"), key("short")]
    )
    assert sorted(map(len, built)) == [len(f"short@1.0 /{key('short')}"), 255, 255]
    assert [name for name in built if name.endswith(f" /{hash_of(built[name])}")] == list(built)
    top = next(job for job in built.values() if hash_of(job) == key("short"))
    assert local_needs(top) == {name for name in built if name.startswith("xxx")}
    assert stage_faults(made, jobs) == []


def test_cut_as_spack_cuts(stackyard: Stackyard, project: Project) -> None:
    """A cut name that stays unique is Spack's own, to the letter."""
    lock = document([node("y" * 230)])
    project.stack(lock)
    jobs = jobs_of(generate(stackyard, project)[0])
    spec = next(iter(parse_lock(text(lock), "").specs.values()))
    assert [name for name in jobs if hash_of(jobs[name])] == [job_name(spec)[:255]]


@pytest.mark.parametrize(("limit", "fits"), [(34, True), (33, False), (60, True), (0, True)])
def test_short_limits_of_names(
    stackyard: Stackyard, project: Project, limit: int, *, fits: bool
) -> None:
    lock = wide(project, count=20, name=limit)
    if not fits:
        assert refused(stackyard, project).splitlines()[0] == (
            "error: limits.name: a job name of 33 characters cannot hold a DAG hash"
        )
        return
    jobs = jobs_of(generate(stackyard, project)[0])
    assert set(builds_of(jobs)) == set(lock.specs)
    assert max(map(len, builds_of(jobs))) <= (limit or 255)
    assert closure_faults(jobs, lock) == []


def test_joins_with_cut_names(stackyard: Stackyard, project: Project) -> None:
    """Joins of one long-named job must not be cut to one name either."""
    leaves = [f"leaf-{letter}" for letter in "abcdefghijklmnopqrst"]
    top = "t" * 250
    lock = document({top: leaves, **{leaf: [] for leaf in leaves}})
    project.stack(lock, settings={"limits": {"needs": 4, "name": 40}})
    made, _ = generate(stackyard, project)
    jobs = jobs_of(made)
    assert max(map(len, jobs)) <= 40
    assert closure_faults(jobs, parse_lock(text(lock), "spack.lock")) == []
    numbers = [int(job["variables"]["STACKYARD_JOIN"]) for job in jobs.values() if is_join(job)]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


# -- features that Spack no longer has ------------------------------------------------------


def test_artifacts_buildcache(stackyard: Stackyard, project: Project) -> None:
    lock = document({"app": ["lib", "base"], "lib": ["base"], "base": []})
    project.stack(lock, ci={**CI_SECTION, "enable-artifacts-buildcache": True})
    made, _ = generate(stackyard, project)
    jobs = builds_of(jobs_of(made))
    needs = {
        need["job"]: need["artifacts"] for need in jobs[key("app")]["needs"] if "artifacts" in need
    }
    assert needs == {f"{name}@1.0 /{key(name)}": True for name in ("lib", "base")}
    assert made["variables"]["SPACK_LOCAL_MIRROR_DIR"] == "jobs_scratch_dir/mirror"
    for job in jobs.values():
        assert "jobs_scratch_dir/mirror" in job["artifacts"]["paths"]
    manifest = load(
        (project.root / "jobs_scratch_dir/concrete_environment/spack.yaml").read_bytes()
    )
    assert manifest["spack"]["mirrors"]["stackyard-artifacts"] == {
        "url": "$CI_PROJECT_DIR/jobs_scratch_dir/mirror",
        "signed": False,
    }


def test_artifacts_buildcache_cannot_be_joined(stackyard: Stackyard, project: Project) -> None:
    leaves = [f"leaf-{letter}" for letter in "abcdefgh"]
    lock = document({"top": leaves, **{leaf: [] for leaf in leaves}})
    project.stack(
        lock,
        ci={**CI_SECTION, "enable-artifacts-buildcache": True},
        settings={"limits": {"needs": 8}},
    )
    said = refused(stackyard, project)
    assert said.splitlines()[0] == (
        f"error: limits.needs: top@1.0 /{key('top')} needs 9 jobs, GitLab allows 8 (needs per job)"
    )
    assert "switch enable-artifacts-buildcache off" in said


BOOTSTRAP = document(
    [
        node("tool-base"),
        node("tool", ["tool-base"]),
        node("gcc", ["tool"]),
        node("other-base"),
        node("llvm", ["other-base"]),
        node("leaf-free"),
        node("app", ["leaf-free", "gcc"]),
        node("app-two", ["leaf-free"]),
    ],
    roots=["app", "app-two", "llvm"],
)


def phased(project: Project, bootstrap: list[Any], definitions: list[Any], **settings: Any) -> None:
    project.stack(
        BOOTSTRAP,
        ci={**CI_SECTION, "bootstrap": bootstrap},
        definitions=definitions,
        settings=settings,
    )


def test_bootstrap_phases(stackyard: Stackyard, project: Project) -> None:
    phased(project, ["first", "second"], [{"first": ["gcc"]}, {"second": ["llvm", "gcc"]}])
    made, _ = generate(stackyard, project)
    jobs = jobs_of(made)
    assert stage_faults(made, jobs) == []
    phases = [{"gcc", "tool", "tool-base"}, {"llvm", "other-base"}, {"app", "app-two", "leaf-free"}]
    assert phase_faults(made, jobs, phases) == []
    # Each of the two ends in one job, which the next phase can wait for.
    assert sum(map(is_join, jobs.values())) == 0


def phase_faults(
    made: Mapping[str, Any], jobs: Mapping[str, Job], phases: list[set[str]]
) -> list[str]:
    """Pairs of jobs where the later phase's does not wait for the earlier phase's."""
    order = {stage: number for number, stage in enumerate(made["stages"])}
    named = {
        job["variables"]["SPACK_JOB_SPEC_PKG_NAME"]: name
        for name, job in jobs.items()
        if hash_of(job)
    }
    assert set(named) == set().union(*phases)
    waits = closures(jobs)
    faults = []
    for number, phase in enumerate(phases):
        for before in set().union(*phases[:number]):
            for name in phase:
                if named[before] not in waits[named[name]]:
                    faults.append(f"{name} does not wait for {before}")
                if order[jobs[named[name]]["stage"]] <= order[jobs[named[before]]["stage"]]:
                    faults.append(f"{name} is in no later stage than {before}")
    return faults


def test_bootstrap_with_many_needs(stackyard: Stackyard, project: Project) -> None:
    """Barriers keep the limit too."""
    leaves = [f"leaf-{letter}" for letter in "abcdefghij"]
    lock = document({"app": [], **{leaf: [] for leaf in leaves}})
    project.stack(
        lock,
        ci={**CI_SECTION, "bootstrap": ["leaves"]},
        definitions=[{"leaves": leaves}],
        settings={"limits": {"needs": 4}},
    )
    made, _ = generate(stackyard, project)
    jobs = jobs_of(made)
    assert most_needs(jobs) <= 4
    assert stage_faults(made, jobs) == []
    assert phase_faults(made, jobs, [set(leaves), {"app"}]) == []


@pytest.mark.parametrize("buildcache", [False, True])
def test_bootstrap_with_artifacts(
    stackyard: Stackyard, project: Project, *, buildcache: bool
) -> None:
    phased(
        project,
        ["first"],
        [{"first": ["gcc"]}],
        pipeline={"enable-artifacts-buildcache": buildcache},
    )
    made, _ = generate(stackyard, project)
    jobs = jobs_of(made)
    assert stage_faults(made, jobs) == []
    rest = {"llvm", "other-base", "app", "app-two", "leaf-free"}
    assert phase_faults(made, jobs, [{"gcc", "tool", "tool-base"}, rest]) == []
    app = next(job for job in jobs.values() if hash_of(job) == key("app"))
    assert (f"gcc@1.0 /{key('gcc')}" in local_needs(app)) == buildcache


def test_bootstrap_by_settings(stackyard: Stackyard, project: Project) -> None:
    """What stood in Spack's ci section once may stand in ours."""
    definitions = [{"first": ["gcc"]}]
    phased(project, ["first"], definitions)
    expected, _ = generate(stackyard, project)
    project.stack(
        BOOTSTRAP, definitions=definitions, settings={"pipeline": {"bootstrap": ["first"]}}
    )
    assert generate(stackyard, project)[0] == expected


def test_bootstrap_unknown_definition(stackyard: Stackyard, project: Project) -> None:
    phased(project, ["frist"], [{"first": ["gcc"]}])
    assert refused(stackyard, project, 2).splitlines()[0] == (
        "error: stacks/demo/spack.yaml: spack.ci.bootstrap: there is no definition named 'frist'"
    )


def test_bootstrap_of_nothing(stackyard: Stackyard, project: Project) -> None:
    phased(project, ["first"], [{"first": ["gcc@7"]}])
    assert refused(stackyard, project, 2).splitlines()[0] == (
        "error: stacks/demo/spack.yaml: spack.ci.bootstrap: "
        "the phase 'first' matches no spec of the lock"
    )


def test_bootstrap_compiler_agnostic(stackyard: Stackyard, project: Project) -> None:
    """Spack once built a phase for all compilers: what follows ``%`` is not compared then."""
    compiler = node("gcc", **EXTERNAL)
    edge = {
        "name": "gcc",
        "hash": key("gcc"),
        "parameters": {"deptypes": ["build"], "virtuals": ["c"]},
    }
    lock = document(
        [compiler, node("tool", dependencies=[edge]), node("app", dependencies=[edge])],
        roots=["tool", "app"],
    )
    for agnostic in (False, True):
        project.stack(
            lock,
            ci={**CI_SECTION, "bootstrap": [{"name": "first", "compiler-agnostic": agnostic}]},
            definitions=[{"first": ["tool%clang"]}],
        )
        if not agnostic:
            assert "matches no spec" in refused(stackyard, project, 2)
            continue
        made, _ = generate(stackyard, project)
        assert phase_faults(made, jobs_of(made), [{"tool"}, {"app"}]) == []


def test_temporary_storage(
    stackyard: Stackyard, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_PIPELINE_ID", "4711")
    monkeypatch.setenv("CI_JOB_NAME", "generate-demo")
    lock = document({"app": ["lib"], "lib": []})
    project.stack(lock, ci={**CI_SECTION, "temporary-storage-url-prefix": "s3://example-tmp/runs/"})
    made, _ = generate(stackyard, project)
    assert made["stages"][-1] == "stage-cleanup"
    jobs = jobs_of(made)
    cleanup = jobs["cleanup"]
    assert [name for name, job in jobs.items() if job["stage"] == "stage-cleanup"] == ["cleanup"]
    assert (cleanup["when"], cleanup["dependencies"]) == ("always", [])
    assert cleanup["script"] == [
        'spack -d mirror destroy --mirror-url "${SPACK_TEMPORARY_MIRROR_URL}"'
    ]
    url = "s3://example-tmp/runs/4711"
    assert made["variables"]["SPACK_TEMPORARY_MIRROR_URL"] == url
    path = project.root / "jobs_scratch_dir/concrete_environment/spack.yaml"
    mirrors = load(path.read_bytes())["spack"]["mirrors"]
    assert mirrors["stackyard-temporary"] == {"url": url, "signed": False}
    assert mirrors["buildcache-destination"] == {
        "url": "s3://example-binaries/demo",
        "signed": False,
    }
    for job in builds_of(jobs).values():
        assert '"${SPACK_TEMPORARY_MIRROR_URL}"' in job["script"][-1]


def test_no_builds_no_cleanup(stackyard: Stackyard, project: Project) -> None:
    lock = document([node("app", **EXTERNAL)])
    project.stack(lock, ci={**CI_SECTION, "temporary-storage-url-prefix": "s3://example-tmp"})
    jobs = jobs_of(generate(stackyard, project)[0])
    assert list(jobs) == ["no-specs-to-rebuild"]
    assert json.dumps(jobs["no-specs-to-rebuild"]["script"]) == json.dumps(
        ['echo "All specs already up to date, nothing to rebuild."']
    )
