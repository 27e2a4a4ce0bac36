"""``invoke doctor``: what is missing, in plain words, with the exit code of the worst."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import DATA, Project, Stackyard
from locks import document, key, node

from stackyard.flow.examination import Finding

CHAIN = document({"app": ["lib"], "lib": []})
SECRET = "hunter2-hunter2"


def findings(stackyard: Stackyard, *flags: str, code: int = 0) -> dict[str, dict[str, Any]]:
    """What the doctor found, by the name of the check; each check has its own."""
    listed = json.loads(stackyard("doctor", "--json", *flags, code=code).out)
    return {f"{entry['check']}: {entry['text']}": entry for entry in listed}


def states(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: entry["state"] for name, entry in found.items()}


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Git and an engine that is podman, whatever this machine has."""
    place_programs(monkeypatch, tmp_path, "git", "podman")


def place_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *names: str) -> None:
    """Make these the only programs of the task's PATH; git is the real one."""
    folder = tmp_path / "-".join(("bin", *names))
    for name in names:
        program = folder / name
        if not program.is_symlink():
            folder.mkdir(exist_ok=True)
            program.symlink_to(shutil.which(name) or "/bin/true")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("DOCKER_HOST", raising=False)


@pytest.fixture
def demo(project: Project) -> Project:
    project.write("invoke.yaml", "stackyard: {fix: [failed-environment]}\n")
    project.stack(CHAIN)
    return project


def test_all_is_well(stackyard: Stackyard, demo: Project) -> None:
    stackyard("generate")
    before = demo.files()
    assert states(findings(stackyard, "--offline")) == {
        "settings: 1 keys in invoke.yaml": "ok",
        "demo: stack and lock: 2 specs answer the manifest": "ok",
        "demo: pull requests: what they build goes to the mirror that releases go to": "advice",
        "demo: variable AWS_ACCESS_KEY_ID: not set here "
        "(pushing to s3://example-binaries/demo, unless roles do it)": "advice",
        "demo: variable AWS_SECRET_ACCESS_KEY: not set here "
        "(pushing to s3://example-binaries/demo, unless roles do it)": "advice",
        ".gitlab-ci.yml: is what the stacks and settings ask for": "ok",
        "programs: containers: podman (there is no docker)": "ok",
    }
    assert demo.files() == before


def test_lines(stackyard: Stackyard, demo: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRET)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert stackyard("doctor", "--offline").out == (
        "ok      settings: 1 keys in invoke.yaml\n"
        "ok      demo: stack and lock: 2 specs answer the manifest\n"
        "advice  demo: pull requests: what they build goes to the mirror that releases go to\n"
        "          give them mirrors of their own: pull_requests.mirror, see docs/pipelines.md\n"
        "ok      demo: variable AWS_ACCESS_KEY_ID: set (pushing to s3://example-binaries/demo, "
        "unless roles do it)\n"
        "ok      demo: variable AWS_SECRET_ACCESS_KEY: set (pushing to s3://example-binaries/demo, "
        "unless roles do it)\n"
        "advice  .gitlab-ci.yml: is missing or not up to date\n"
        "          run: invoke generate, and commit it\n"
        "ok      programs: containers: podman (there is no docker)\n"
    )


def test_values_are_never_shown(
    stackyard: Stackyard, demo: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.stack(
        CHAIN,
        mirrors={
            "buildcache-destination": {
                "url": "s3://example-binaries/demo",
                "signed": True,
                "access_pair": {"id_variable": "MY_ID", "secret_variable": "MY_SECRET"},
            }
        },
        cdash={"build-group": "g", "url": "https://cdash.invalid", "project": "p", "site": "s"},
    )
    names = ["MY_ID", "MY_SECRET", "SPACK_SIGNING_KEY", "SPACK_CDASH_AUTH_TOKEN"]
    missing = findings(stackyard, "--offline")
    for name in names:
        monkeypatch.setenv(name, SECRET)
    there = findings(stackyard, "--offline")
    for name in names:
        start = f"demo: variable {name}: "
        assert [e["state"] for k, e in missing.items() if k.startswith(start)] == ["advice"]
        assert [e["state"] for k, e in there.items() if k.startswith(start)] == ["ok"]
    for flags in ([], ["--json"]):
        answer = stackyard("doctor", "--offline", *flags)
        assert SECRET not in answer.out + answer.err


def test_empty_variables_do_not_count(
    stackyard: Stackyard, demo: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "")
    lines = stackyard("doctor", "--offline").out.splitlines()
    start = "advice  demo: variable AWS_ACCESS_KEY_ID: not set here"
    assert len([line for line in lines if line.startswith(start)]) == 1


def test_no_stack(stackyard: Stackyard, project: Project) -> None:
    answer = stackyard("doctor", code=2)
    assert answer.out.splitlines()[1:3] == [
        "failed  stacks: there is none",
        "          put a spack.yaml into stacks/NAME/",
    ]
    assert answer.err.startswith("error: ")


def test_broken_stack_beside_a_good_one(stackyard: Stackyard, demo: Project) -> None:
    """One broken stack does not hide what is to say of the other."""
    demo.stack(CHAIN, name="broken")
    demo.write("stacks/broken/spack.lock", "{")
    answer = stackyard("doctor", "--offline", code=2)
    lines = answer.out.splitlines()
    assert "ok      demo: stack and lock: 2 specs answer the manifest" in lines
    bad = [line for line in lines if line.startswith("failed  ")]
    assert [line.split(": ")[:3] for line in bad] == [
        ["failed  broken", "stack and lock", "stacks/broken/spack.lock"]
    ]
    assert answer.err == f"error: 1 of {len([ln for ln in lines if ln[0] != ' '])} checks failed\n"
    assert stackyard("doctor", "--offline", "--stack", "demo").err == ""


def test_exit_code_of_the_worst(stackyard: Stackyard, demo: Project, tmp_path: Path) -> None:
    missing = (tmp_path / "nowhere").as_uri()
    demo.stack(CHAIN, mirror=missing)
    found = findings(stackyard, code=6)
    failed = [entry for entry in found.values() if entry["state"] == "failed"]
    assert [(entry["check"], entry["code"]) for entry in failed] == [
        ("demo: mirror buildcache-destination", 6)
    ]
    demo.stack(CHAIN, name="other", specs=["elsewhere"])
    codes = [entry["code"] for entry in findings(stackyard, code=6).values() if entry["code"]]
    assert sorted(codes) == [3, 6]
    assert (
        findings(stackyard, "--offline", code=3).keys()
        < found.keys() | findings(stackyard, "--offline", code=3).keys()
    )


def test_mirror_that_can_be_read(stackyard: Stackyard, project: Project) -> None:
    data = (DATA / "tiny.spack.lock").read_bytes()
    project.stack(data, mirror=(DATA / "mirrors/v3-unsigned").as_uri())
    found = findings(stackyard)
    name = "demo: mirror buildcache-destination: can be read, its index names 7 of the lock's specs"
    assert found[name]["state"] == "ok"


def test_no_destination(stackyard: Stackyard, demo: Project) -> None:
    demo.stack(CHAIN, mirrors={"other": {"url": "s3://example-binaries/x", "signed": False}})
    found = findings(stackyard, "--offline", code=2)
    entry = found["demo: mirrors: there is no mirror buildcache-destination"]
    assert (entry["state"], entry["code"]) == ("failed", 2)
    assert entry["hint"] == "the build jobs push to it: add it with its url"


GITHUB = {
    "workflows": ["build"],
    "mirror": "oci://ghcr.io/example/cache",
    "systems": [
        {"name": "bookworm", "runner": "debian-12", "target": "x86_64_v3"},
        {"name": "noble", "runner": "ubuntu-24.04", "target": "x86_64_v3"},
        {"name": "other", "runner": "ubuntu-24.04", "target": "x86_64_v3", "stacks": ["more"]},
    ],
}


def test_what_github_builds(stackyard: Stackyard, demo: Project) -> None:
    """It needs no mirror for GitLab's jobs, and the lock has to be for its machines."""
    demo.stack(CHAIN, mirrors={})
    demo.stack(CHAIN, name="more", mirrors={})
    demo.write("invoke.yaml", {"stackyard": {"github": GITHUB}})
    found = findings(stackyard, "--offline", "--stack", "demo", code=2)
    entry = found["demo: mirrors: there is no mirror buildcache-destination"]
    assert (entry["state"], entry["code"]) == ("advice", 0)
    assert found["demo: system bookworm: debian-12 builds what is locked"]["state"] == "ok"
    assert [entry["check"] for entry in found.values() if entry["code"]] == ["demo: system noble"]
    said = "locked for debian12, and noble is ubuntu-24.04"
    assert found[f"demo: system noble: stacks/demo/spack.lock: {said}"]["code"] == 2
    demo.write("invoke.yaml", {"stackyard": {"github": {**GITHUB, "workflows": ["site"]}}})
    found = findings(stackyard, "--offline", "--stack", "demo", code=2)
    assert not [entry for entry in found.values() if "system" in entry["check"]]


def test_oddities_are_advice(stackyard: Stackyard, demo: Project) -> None:
    ci = {
        "pipeline-gen": [
            {
                "match_behavior": "first",
                "submapping": [
                    {"match": ["app"], "build-job": {"tags": ["a"]}},
                    {"match": ["@:"], "build-job": {"tags": ["b"]}},
                    {"match": ["nowhere"], "build-job": {"tags": ["c"]}},
                ],
            }
        ]
    }
    demo.stack(CHAIN, ci=ci)
    found = findings(stackyard, "--offline")
    odd = [entry["text"] for entry in found.values() if entry["check"] == "demo: ci section"]
    assert any("match string 'nowhere' holds for no spec" in text for text in odd)
    assert any("takes app (mend it with fix: [first-match])" in text for text in odd)
    assert {entry["state"] for entry in found.values()} == {"ok", "advice"}


def test_stale_parent_is_advice(stackyard: Stackyard, demo: Project) -> None:
    stackyard("generate")
    demo.write(".gitlab-ci.yml", "stages: []\n")
    found = findings(stackyard, "--offline")
    assert found[".gitlab-ci.yml: is missing or not up to date"] == {
        "check": ".gitlab-ci.yml",
        "state": "advice",
        "text": "is missing or not up to date",
        "hint": "run: invoke generate, and commit it",
        "code": 0,
    }


WORKFLOW = ".github/workflows/stackyard-gitlab.yml"


def test_a_workflow_is_looked_at_too(stackyard: Stackyard, demo: Project) -> None:
    """Where settings ask for one; the parent pipeline may be right all the same."""
    demo.write(
        "invoke.yaml",
        {"stackyard": {"github": {"workflows": ["gitlab"]}, "gitlab": {"project": "g/p"}}},
    )
    stackyard("generate")
    found = findings(stackyard, "--offline")
    assert found[f"{WORKFLOW}: is what the stacks and settings ask for"]["state"] == "ok"
    demo.write(WORKFLOW, "name: other\n")
    found = findings(stackyard, "--offline")
    assert found[f"{WORKFLOW}: is missing or not up to date"]["state"] == "advice"
    assert found[".gitlab-ci.yml: is what the stacks and settings ask for"]["state"] == "ok"
    demo.write("invoke.yaml", {"stackyard": {}})
    demo.write(WORKFLOW, "name: stackyard\n")
    found = findings(stackyard, "--offline")
    entry = found[f"{WORKFLOW}: is here, and the settings no longer ask for it"]
    assert (entry["state"], entry["hint"]) == ("advice", "run: invoke generate, and commit that")
    demo.write("invoke.yaml", {"stackyard": {"github": {"workflows": ["gitlab"]}}})
    (failed,) = [e for e in findings(stackyard, "--offline", code=2).values() if e["code"]]
    assert failed["check"] == ".github/workflows"
    assert "the workflow needs the path of the project on GitLab" in failed["text"]


@pytest.mark.parametrize(
    ("names", "code", "expected"),
    [
        (("git",), 0, ["advice: there is no container engine: invoke reproduce wants one"]),
        (
            ("podman",),
            5,
            ["failed: there is no git", "ok: containers: podman (there is no docker)"],
        ),
        (
            ("git", "podman"),
            0,
            [
                "advice: there is no gpg, and a mirror is signed",
                "ok: containers: podman (there is no docker)",
            ],
        ),
        (("git", "podman", "gpg"), 0, ["ok: containers: podman (there is no docker)"]),
        (("git", "podman", "gpg2"), 0, ["ok: containers: podman (there is no docker)"]),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_programs(  # noqa: PLR0917
    stackyard: Stackyard,
    demo: Project,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    names: tuple[str, ...],
    code: int,
    expected: list[str],
) -> None:
    signed = names[:2] == ("git", "podman")
    mirrors = {"buildcache-destination": {"url": "s3://example-binaries/x", "signed": signed}}
    demo.stack(CHAIN, mirrors=mirrors)
    place_programs(monkeypatch, tmp_path, *names)
    found = findings(stackyard, "--offline", code=code).values()
    told = [f"{one['state']}: {one['text']}" for one in found if one["check"] == "programs"]
    assert told == expected


def test_unknown_stack(stackyard: Stackyard, demo: Project) -> None:
    found = findings(stackyard, "--offline", "--stack", "dmeo", code=2)
    assert found["dmeo: stack and lock: unknown stack 'dmeo'"]["hint"] == "did you mean 'demo'?"


def test_bad_ci_section(stackyard: Stackyard, demo: Project) -> None:
    ci = {"pipeline-gen": [{"submapping": [{"match": ["@@:["]}]}]}
    demo.stack(CHAIN, ci=ci)
    found = findings(stackyard, "--offline", code=2)
    failed = [entry["check"] for entry in found.values() if entry["state"] == "failed"]
    assert failed == ["demo: ci section"]


def test_finding() -> None:
    assert Finding("a", "b", hint="c").line() == "ok      a: b"
    assert Finding("a", "b", hint="c", advice=True).line() == "advice  a: b\n          c"
    assert Finding("a", "b", hint="c", code=2).line() == "failed  a: b\n          c"
    assert Finding("a", "b", code=2, advice=True).state == "failed"


def test_no_terminal_codes(stackyard: Stackyard, demo: Project) -> None:
    """Text of a lock that the doctor quotes must not act on the terminal."""
    lock = document([node("app")])
    lock["roots"] = [{"hash": key("app"), "spec": "app"}, {"hash": key("app"), "spec": "\x1b[2J"}]
    demo.stack(lock, specs=["app"])
    answer = stackyard("doctor", "--offline")
    for text in (answer.out, answer.err):
        assert [c for c in text if not c.isprintable() and c != "\n"] == []
    assert r"no longer asks for: '\x1b[2J'" in answer.err
