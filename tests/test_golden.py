"""Whole child pipelines, as people read them: tests/golden/child/, updated by --update-golden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Project, Stackyard
from locks import EXTERNAL, document, node
from pipelines import closures, jobs_of, load, stage_faults

GOLDEN = Path(__file__).parent / "golden" / "child"

DIAMOND = {"app": ["left", "right"], "left": ["base"], "right": ["base"], "base": []}
FAN: dict[str, list[str]] = {"app": ["a", "b", "c", "d", "e"]} | {name: [] for name in "abcde"}

#: name → lock, more of the manifest, settings of the stack, flags
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], list[str]]] = {
    "one": (document({"app": []}), {}, {}, []),
    "diamond": (document(DIAMOND), {}, {}, []),
    "external": (
        document([node("app", ["gcc"]), node("gcc", ["libc"], **EXTERNAL), node("libc")]),
        {}, {}, [],
    ),
    "nothing": (document([node("app", **EXTERNAL)]), {}, {}, []),
    "joined": (document(FAN), {}, {"limits": {"needs": 3}}, []),
    "phases": (
        document(DIAMOND),
        {
            "specs": ["$rest"],
            "definitions": [{"tools": ["left"]}, {"rest": ["app"]}],
            "ci": {
                "bootstrap": ["tools"],
                "pipeline-gen": [{"any-job": {"tags": ["spack"], "image": "builder:1"}}],
            },
        },
        {}, [],
    ),
    "groups": (
        document(DIAMOND),
        {
            "ci": {
                "pipeline-gen": [
                    {
                        "match_behavior": "merge",
                        "submapping": [
                            {"match": ["app"], "build-job": {"tags": ["large"]}},
                            {"match": ["@1:"], "build-job": {"variables": {"JOBS": "2"}}},
                        ],
                    },
                    {"any-job": {"image": {"name": "builder:1", "entrypoint": [""]}}},
                ]
            },
            "cdash": {"build-group": "Nightly", "url": "https://cdash.example.org"},
        },
        {}, [],
    ),
    "settings": (
        document({"app": ["lib"], "lib": []}),
        {},
        {
            "index": "stackyard",
            "generate": {"requirement": "stackyard==VERSION"},
            "jobs": {
                "sections": True, "junit": True,
                "aws": {"role": "arn:aws:iam::1:role/builder", "region": "eu-west-1"},
            },
        },
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_child(
    case: str,
    project: Project,
    stackyard: Stackyard,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    lock, manifest, settings, flags = CASES[case]
    monkeypatch.setenv("CI_JOB_NAME", "generate-demo")
    monkeypatch.setenv("CI_PIPELINE_ID", "7")
    monkeypatch.setenv("SPACK_CDASH_BUILD_STAMP", "20261121-0000-Nightly")
    project.stack(lock, settings=settings, **manifest)
    stackyard("generate", "--stack", "demo", "--no-prune", *flags)
    text = project.child.read_text(encoding="utf-8")
    golden = GOLDEN / f"{case}.yml"
    if request.config.getoption("--update-golden"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("case", CASES)
def test_golden_files_are_sound(case: str) -> None:
    """Every need is a job, none of a later stage; every spec with a job waits for what it needs."""
    pipeline = load((GOLDEN / f"{case}.yml").read_text(encoding="utf-8"))
    jobs = jobs_of(pipeline)
    assert stage_faults(pipeline, jobs) == []
    waits = {name.partition("@")[0]: found for name, found in closures(jobs).items()}
    for spec in CASES[case][0]["concrete_specs"].values():
        if spec["name"] in waits:
            below = {entry["name"] for entry in spec["dependencies"]} & waits.keys()
            assert below <= {name.partition("@")[0] for name in waits[spec["name"]]}
