"""``--prune-unaffected``: in real git repositories, build what a change reaches and no more."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import CI_SECTION, Project, Stackyard
from locks import document, key, node, text
from pipelines import jobs_of, load

Git = Callable[..., str]

#: app waits for lib and tool, lib for base; other for tool.
NEEDS = {
    "app": ["lib", "tool"],
    "lib": ["base"],
    "base": [],
    "tool": [],
    "other": ["tool"],
}
HASHES = {name: "abcdefgh"[number] * 32 for number, name in enumerate(NEEDS)}


def lock(**versions: str) -> dict[str, Any]:
    """The lock with some packages at another version: they and their dependents get new hashes."""
    changed = set(versions)
    while more := {name for name, needs in NEEDS.items() if changed & set(needs)} - changed:
        changed |= more
    hashes = {name: HASHES[name][:-1] + "2" if name in changed else HASHES[name] for name in NEEDS}
    nodes = [
        node(
            name,
            version=versions.get(name, "1.0"),
            hash=hashes[name],
            dependencies=[
                {
                    "name": need,
                    "hash": hashes[need],
                    "parameters": {"deptypes": ["build", "link"], "virtuals": []},
                }
                for need in needs
            ],
        )
        for name, needs in NEEDS.items()
    ]
    made = document(nodes)
    made["roots"] = [{"hash": hashes[name], "spec": name} for name in ("app", "other")]
    return made


@pytest.fixture
def git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Git:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")

    def run(*arguments: str, folder: Path | None = None) -> str:
        argv = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return run


@pytest.fixture
def repository(project: Project, git: Git) -> Project:
    """A project with two commits, the second of which changes a file of no concern."""
    project.write("invoke.yaml", "stackyard: {}\n")
    project.write(".gitignore", "jobs_scratch_dir\n")
    project.stack(lock())
    git("init", "--quiet")
    commit(git)
    project.write("README.md", "hello\n")
    commit(git)
    return project


def commit(git: Git, folder: Path | None = None) -> None:
    git("add", "--all", folder=folder)
    git("commit", "--quiet", "--message", "change", folder=folder)


def built(stackyard: Stackyard, *flags: str) -> set[str]:
    """Names of the specs that would be built."""
    answer = stackyard("plan", "--json", "--no-prune", "--prune-unaffected", *flags)
    specs = json.loads(answer.out)["specs"]
    assert {spec["decision"] for spec in specs} <= {"build", "unaffected"}
    return {spec["name"] for spec in specs if spec["decision"] == "build"}


def test_nothing_changed(stackyard: Stackyard, repository: Project) -> None:
    assert built(stackyard) == set()
    stackyard("generate", "--stack", "demo", "--no-prune", "--prune-unaffected")
    assert list(jobs_of(load(repository.child.read_bytes()))) == ["no-specs-to-rebuild"]


CHANGES = [
    ("a leaf", {"base": "2.0"}, {"base", "lib", "app", "tool"}),
    ("a root", {"other": "2.0"}, {"other", "tool"}),
    ("in the middle", {"lib": "2.0"}, {"lib", "base", "app", "tool"}),
    ("shared", {"tool": "2.0"}, {"tool", "app", "other", "lib", "base"}),
    ("two", {"base": "2.0", "other": "2.0"}, set(NEEDS)),
]


@pytest.mark.parametrize(
    ("versions", "expected"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES]
)
@pytest.mark.parametrize("committed", [True, False])
def test_changed_packages(
    stackyard: Stackyard,
    repository: Project,
    git: Git,
    versions: dict[str, str],
    expected: set[str],
    *,
    committed: bool,
) -> None:
    """The package, its dependents, and what those depend on; committed or not."""
    repository.write("stacks/demo/spack.lock", lock(**versions))
    if committed:
        commit(git)
    assert built(stackyard, *([] if committed else ["--since", "HEAD"])) == expected


def test_pipeline_of_a_change(stackyard: Stackyard, repository: Project, git: Git) -> None:
    repository.write("stacks/demo/spack.lock", lock(other="2.0"))
    commit(git)
    answer = stackyard("generate", "--stack", "demo", "--no-prune", "--prune-unaffected")
    made = load(repository.child.read_bytes())
    names = [
        job["variables"].get("SPACK_JOB_SPEC_PKG_NAME")
        for job in jobs_of(made).values()
        if "variables" in job
    ]
    assert sorted(filter(None, names)) == ["other", "tool"]
    assert made["variables"]["SPACK_REBUILD_EVERYTHING"] == "False"
    assert "1 specs changed since HEAD^, 2 are affected\n" in answer.err


def test_since_further_back(stackyard: Stackyard, repository: Project, git: Git) -> None:
    repository.write("stacks/demo/spack.lock", lock(other="2.0"))
    commit(git)
    git("tag", "middle")
    repository.write("stacks/demo/spack.lock", lock(other="2.0", base="2.0"))
    commit(git)
    assert built(stackyard) == {"base", "lib", "app", "tool"}
    assert built(stackyard, "--since", "middle") == {"base", "lib", "app", "tool"}
    assert built(stackyard, "--since", "middle^") == set(NEEDS)
    assert built(stackyard, "--since", git("rev-parse", "HEAD")) == set()


def changed_manifest(**sections: Any) -> dict[str, Any]:
    manifest = {
        "specs": ["app", "other"],
        "mirrors": {
            "buildcache-destination": {"url": "s3://example-binaries/demo", "signed": False}
        },
        "ci": CI_SECTION,
    }
    return {"spack": manifest | sections}


SECTIONS = [
    ("ci", {"ci": {**CI_SECTION, "rebuild-index": False}}, True),
    ("mirrors", {"mirrors": {"buildcache-destination": {"url": "s3://other"}}}, True),
    ("config", {"config": {"build_jobs": 4}}, True),
    ("specs", {"specs": ["app"]}, False),
    ("definitions", {"definitions": [{"x": ["app"]}]}, False),
    ("packages", {"packages": {"all": {"require": ["target=x86_64_v3"]}}}, False),
    ("nothing", {}, False),
]


@pytest.mark.parametrize(
    ("sections", "everything"), [c[1:] for c in SECTIONS], ids=[c[0] for c in SECTIONS]
)
def test_changed_manifests(
    stackyard: Stackyard,
    repository: Project,
    git: Git,
    sections: dict[str, Any],
    *,
    everything: bool,
) -> None:
    """What the lock shows counts by the lock; a change of how jobs run concerns all of them."""
    repository.write("stacks/demo/spack.yaml", json.dumps(changed_manifest(**sections), indent=1))
    commit(git)
    assert built(stackyard) == (set(NEEDS) if everything else set())


def test_changed_include(stackyard: Stackyard, repository: Project, git: Git) -> None:
    ci = {"ci": CI_SECTION}
    repository.write("shared/ci.yaml", ci)
    manifest = changed_manifest(include=["../../shared/ci.yaml"])
    del manifest["spack"]["ci"]
    repository.write("stacks/demo/spack.yaml", manifest)
    commit(git)
    assert built(stackyard) == set(NEEDS)
    repository.write("README.md", "more\n")
    commit(git)
    assert built(stackyard) == set()
    repository.write("shared/ci.yaml", {"ci": {**CI_SECTION, "rebuild-index": False}})
    commit(git)
    assert built(stackyard) == set(NEEDS)


@pytest.mark.parametrize(
    "name",
    ["invoke.yaml", "stacks/demo/stack.yaml", ".gitlab-ci.yml", "templates/gitlab/child.yml.j2"],
)
def test_files_that_concern_all_jobs(
    stackyard: Stackyard, repository: Project, git: Git, name: str
) -> None:
    repository.write(name, "# changed\n")
    commit(git)
    assert built(stackyard) == set(NEEDS)


def test_another_stack_is_no_concern(stackyard: Stackyard, repository: Project, git: Git) -> None:
    repository.stack(lock(base="3.0"), name="second", settings={"limits": {"jobs": 9}})
    commit(git)
    assert built(stackyard, "--stack", "demo") == set()
    assert built(stackyard, "--stack", "second") == set(NEEDS)


def test_project_below_the_top_of_a_repository(
    stackyard: Stackyard, project: Project, git: Git, monkeypatch: pytest.MonkeyPatch
) -> None:
    git("init", "--quiet")
    inner = project.root / "inner"
    inner.mkdir()
    below = Project(inner)
    below.write("invoke.yaml", "")
    below.stack(lock())
    commit(git)
    monkeypatch.chdir(inner)
    below.write("stacks/demo/spack.lock", lock(other="2.0"))
    commit(git)
    assert built(stackyard) == {"other", "tool"}
    below.write(".gitlab-ci.yml", "# changed\n")
    commit(git)
    assert built(stackyard) == set(NEEDS)


@pytest.mark.parametrize("broken", [b"{", b"", text(lock())[:-30]])
def test_broken_lock_before(
    stackyard: Stackyard, repository: Project, git: Git, broken: bytes
) -> None:
    """A change that mends a lock is measured from nothing."""
    repository.write("stacks/demo/spack.lock", broken)
    commit(git)
    repository.write("stacks/demo/spack.lock", lock())
    commit(git)
    assert built(stackyard) == set(NEEDS)


def test_broken_manifest_before(stackyard: Stackyard, repository: Project, git: Git) -> None:
    repository.write("stacks/demo/spack.yaml", "spack: [\n")
    commit(git)
    repository.write("stacks/demo/spack.yaml", changed_manifest())
    commit(git)
    assert built(stackyard) == set(NEEDS)


def refused(stackyard: Stackyard, *flags: str) -> str:
    answer = stackyard(
        "generate", "--stack", "demo", "--prune-unaffected", "--no-prune", *flags, code=2
    )
    assert answer.out == ""
    assert not Path("jobs_scratch_dir").exists()
    return answer.err


@pytest.mark.parametrize("revision", ["nowhere", "HEAD~9", "--output=x", "", "HEAD:README.md"])
def test_unknown_revision(stackyard: Stackyard, repository: Project, revision: str) -> None:
    if not revision:  # the default
        assert built(stackyard, "--since", "HEAD^") == built(stackyard, "--since=")
        return
    said = refused(stackyard, f"--since={revision}")
    assert said.startswith(f"error: --since: git knows no revision {revision!r}\n")


def test_shallow_clone(
    stackyard: Stackyard,
    repository: Project,
    git: Git,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    git("clone", "--quiet", "--depth", "1", repository.root.as_uri(), str(tmp_path / "shallow"))
    monkeypatch.chdir(tmp_path / "shallow")
    said = refused(stackyard)
    assert said == (
        "error: --since: git knows no revision 'HEAD^'\n  hint: in a shallow clone fetch more "
        "history first (GitLab: GIT_DEPTH), or name another revision\n"
    )


def test_no_repository(stackyard: Stackyard, project: Project, git: Git) -> None:
    folder = project.stack(lock())
    assert refused(stackyard) == (
        f"error: --since: {folder} is in no git repository\n"
        "  hint: changes are measured in git; leave --prune-unaffected away\n"
    )


def test_first_commit(stackyard: Stackyard, project: Project, git: Git) -> None:
    git("init", "--quiet")
    project.stack(lock())
    commit(git)
    assert "git knows no revision 'HEAD^'" in refused(stackyard)


def test_changed_recipes(
    stackyard: Stackyard, repository: Project, git: Git, tmp_path: Path
) -> None:
    """The last commit of a packages checkout, in Spack's old layout and the new one."""
    checkout = tmp_path / "packages"
    folder = checkout / "repos/spack_repo/builtin/packages"
    for name in ("base", "other", "elsewhere"):
        (folder / name).mkdir(parents=True)
        (folder / name / "package.py").write_text("# one\n")
    git("init", "--quiet", str(checkout))
    commit(git, checkout)
    (folder / "other" / "fix.patch").write_text("x\n")
    (folder / "elsewhere" / "package.py").write_text("# two\n")
    commit(git, checkout)
    assert built(stackyard, "--packages", str(checkout)) == {"other", "tool"}
    (folder / "base" / "package.py").write_text("# two\n")
    commit(git, checkout)
    assert built(stackyard, "--packages", str(checkout)) == {"base", "lib", "app", "tool"}
    (checkout / "README.md").write_text("x")
    commit(git, checkout)
    assert built(stackyard, "--packages", str(checkout)) == set()
    said = refused(stackyard, "--packages", str(tmp_path / "nowhere"))
    assert "nowhere is in no git repository" in said


def test_recipes_whose_name_python_cannot_spell(
    stackyard: Stackyard, project: Project, git: Git, tmp_path: Path
) -> None:
    """``py-numpy`` lies in ``py_numpy``, and ``7zip`` in ``_7zip``."""
    made = document(
        [node("py-numpy", hash="p" * 32), node("7zip", hash="z" * 32), node("plain", hash="q" * 32)]
    )
    made["roots"] = [
        {"hash": h, "spec": n}
        for n, h in (("py-numpy", "p" * 32), ("7zip", "z" * 32), ("plain", "q" * 32))
    ]
    project.stack(made, specs=[])
    project.stack(made)
    git("init", "--quiet")
    commit(git)
    project.write("README.md", "x")
    commit(git)
    checkout = tmp_path / "packages"
    for name in ("py_numpy", "_7zip"):
        (checkout / "packages" / name).mkdir(parents=True)
    git("init", "--quiet", str(checkout))
    (checkout / "a").touch()
    commit(git, checkout)
    for name in ("py_numpy", "_7zip"):
        (checkout / "packages" / name / "package.py").touch()
    commit(git, checkout)
    assert built(stackyard, "--packages", str(checkout)) == {"py-numpy", "7zip"}


def test_variables_win(
    stackyard: Stackyard, repository: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACK_PRUNE_UNTOUCHED", "false")
    plan = json.loads(stackyard("plan", "--json", "--no-prune", "--prune-unaffected").out)
    assert plan["totals"]["build"] == 5
    monkeypatch.setenv("SPACK_PRUNE_UNTOUCHED", "true")
    plan = json.loads(stackyard("plan", "--json", "--no-prune").out)
    assert (plan["totals"]["build"], plan["totals"]["unaffected"]) == (0, 5)


DEPTHS = [
    ("-1", set()),
    ("0", {"base"}),
    ("1", {"base", "lib"}),
    ("2", {"base", "lib", "app", "tool"}),
    ("9", {"base", "lib", "app", "tool"}),
    ("", {"base", "lib", "app", "tool"}),
]


@pytest.mark.parametrize(("depth", "expected"), DEPTHS)
def test_dependent_depth(
    stackyard: Stackyard,
    repository: Project,
    git: Git,
    monkeypatch: pytest.MonkeyPatch,
    *,
    depth: str,
    expected: set[str],
) -> None:
    repository.write("stacks/demo/spack.lock", lock(base="2.0"))
    commit(git)
    monkeypatch.setenv("SPACK_PRUNE_UNTOUCHED_DEPENDENT_DEPTH", depth)
    assert built(stackyard) == expected


def test_depth_that_is_no_number(
    stackyard: Stackyard, repository: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACK_PRUNE_UNTOUCHED_DEPENDENT_DEPTH", "deep")
    assert refused(stackyard) == (
        "error: $SPACK_PRUNE_UNTOUCHED_DEPENDENT_DEPTH: must be a whole number\n"
    )


def test_names_are_those_of_hashes() -> None:
    assert lock()["concrete_specs"].keys() == set(HASHES.values())
    assert lock(base="2.0")["concrete_specs"].keys() & set(HASHES.values()) == {
        HASHES["tool"],
        HASHES["other"],
    }
    assert key("lib") not in HASHES.values()
