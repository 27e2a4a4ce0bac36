"""The matrix of a workflow: whole stacks, chosen packages, and packages drawn at random."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import Answer, Project, Stackyard
from locks import EXTERNAL, document, key, node
from test_cache_workflows import ARM, COMMIT, GOLDEN, PACKAGES, SETTINGS, SYSTEMS, changed

from stackyard.draw import Lot, check_limit, draw, github_name, matrix_json
from stackyard.errors import ConfigError, LimitError
from stackyard.pins import Pin
from stackyard.settings import System

SPACK = Pin("https://github.com/spack/spack.git", "", COMMIT)
RECIPES = Pin("https://github.com/spack/spack-packages.git", "", PACKAGES)
NOBLE = System("noble", "ubuntu-24.04")


def lots(count: int) -> list[Lot]:
    return [
        Lot(NOBLE, "hep", SPACK, RECIPES, f"p{n}@1", key(f"p{n}") + str(n)) for n in range(count)
    ]


def names(drawn: tuple[Lot, ...]) -> list[str]:
    return [lot.name for lot in drawn]


# -- drawing ----------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same() -> None:
    many = lots(100)
    first = draw(many, 7, "4711")
    assert len(first) == len(set(names(first))) == 7
    assert draw(many, 7, "4711") == first
    assert draw(many, 7, "4712") != first
    assert draw(many[::-1], 7, "4711") == first[::-1]  # in the order that they had


def test_a_seed_means_the_same_everywhere() -> None:
    """Written down: with another Python, or tomorrow, it must still be this."""
    assert names(draw(lots(100), 3, "4711")) == ["p2@1", "p3@1", "p37@1"]


def test_what_comes_or_goes_changes_nothing_for_others() -> None:
    many = lots(100)
    drawn = draw(many, 10, "s")
    left = [lot for lot in many if lot in drawn or lot.name != "p50@1"]
    assert draw(left, 10, "s") == drawn
    without = [lot for lot in many if lot != drawn[0]]
    assert set(drawn[1:]) < set(draw(without, 10, "s"))


def test_all_get_their_turn() -> None:
    many = lots(20)
    seen = {lot.name for seed in range(60) for lot in draw(many, 3, str(seed))}
    assert len(seen) == 20


def test_fewer_than_asked() -> None:
    assert len(draw(lots(3), 10, "s")) == 3
    assert draw([], 10, "s") == ()


def test_the_limit() -> None:
    check_limit(256, "x")
    with pytest.raises(LimitError, match="jobs of one matrix: 257, and GitHub makes at most 256"):
        check_limit(257, "x")


@pytest.mark.parametrize(
    ("repo", "name"),
    [
        ("https://github.com/spack/spack.git", "spack/spack"),
        ("https://github.com/spack/spack", "spack/spack"),
        ("https://github.com/my-fork/spack.x/", "my-fork/spack.x"),
        ("git@github.com:spack/spack.git", "spack/spack"),
        ("ssh://git@github.com/spack/spack.git", "spack/spack"),
    ],
)
def test_names_on_github(repo: str, name: str) -> None:
    assert github_name(Pin(repo), "x") == name


@pytest.mark.parametrize(
    "repo",
    [
        "https://gitlab.com/spack/spack.git",
        "https://github.com.example.org/a/b",
        "https://github.com/a",
        "https://github.com/a/b/c",
        "/srv/spack",
    ],
)
def test_names_elsewhere(repo: str) -> None:
    with pytest.raises(ConfigError, match="is not on GitHub"):
        github_name(Pin(repo), "spack.repo")


def test_an_entry() -> None:
    system = System("arm", "ubuntu-24.04-arm", "neoverse_n1", "ubuntu:24.04", ("hep",))
    lot = Lot(system, "hep", SPACK, RECIPES, "zlib@1.3/abcdefg", "abcdefg")
    text = matrix_json([lot])
    assert "\n" not in text
    assert json.loads(text) == {
        "include": [
            {
                "title": "arm: hep: zlib@1.3/abcdefg",
                "system": "arm",
                "runner": "ubuntu-24.04-arm",
                "target": "neoverse_n1",
                "base_image": "ubuntu:24.04",
                "stack": "hep",
                "only": "/abcdefg",
                "spack_repository": "spack/spack",
                "spack_ref": COMMIT,
                "packages_repository": "spack/spack-packages",
                "packages_ref": PACKAGES,
            }
        ]
    }


# -- the task ---------------------------------------------------------------------------------


@pytest.fixture
def demo(project: Project) -> Project:
    new = {"platform": "linux", "platform_os": "ubuntu24.04", "target": "x86_64_v3"}
    nodes = [node("app", ["lib", "gcc"]), node("lib", ["base"]), node("base")]
    for one in nodes:
        one["arch"] = new
    old = {"platform": "linux", "platform_os": "ubuntu22.04", "target": "x86_64"}
    nodes.append(node("gcc", **EXTERNAL))
    nodes[1]["parameters"]["mpi"] = True
    project.stack(document(nodes), name="hep")
    tools = [node("tool", ["base"], arch=old), node("base", arch=old)]
    project.stack(document(tools), name="tools")
    project.stack(document([node("robot", arch=ARM)]), name="arm")
    project.write("invoke.yaml", {"stackyard": SETTINGS})
    return project


def entries(answer: Answer) -> list[dict[str, str]]:
    made = json.loads(answer.out)
    assert set(made) == {"include"}
    assert answer.out.count("\n") == 1
    found: list[dict[str, str]] = made["include"]
    return found


def titles(answer: Answer) -> list[str]:
    return [entry["title"] for entry in entries(answer)]


def single(system: str, stack: str, name: str) -> str:
    return f"{system}: {stack}: {name}@1.0/{key(name)[:7]}"


def test_whole_stacks(demo: Project, stackyard: Stackyard, request: pytest.FixtureRequest) -> None:
    """Two operating systems, and two architectures."""
    answer = stackyard("draw")
    assert titles(answer) == ["noble: hep", "jammy: tools", "noble-arm: arm"]
    assert not answer.err
    made = json.dumps(entries(answer), indent=2) + "\n"
    golden = GOLDEN / "matrix.json"
    if request.config.getoption("--update-golden"):
        golden.write_text(made)
    assert made == golden.read_text()
    first = entries(answer)[0]
    assert (first["spack_ref"], first["packages_ref"]) == (COMMIT, PACKAGES)
    assert (first["only"], first["base_image"]) == ("", "ubuntu:24.04")
    assert [e["runner"] for e in entries(answer)][::2] == ["ubuntu-24.04", "ubuntu-24.04-arm"]


def test_systems_without_stacks_build_all(demo: Project, stackyard: Stackyard) -> None:
    demo.write("invoke.yaml", changed(systems=[{"name": "a", "runner": "b"}]))
    assert titles(stackyard("draw")) == ["a: arm", "a: hep", "a: tools"]


def test_some_only(demo: Project, stackyard: Stackyard) -> None:
    assert titles(stackyard("draw", "--system", "jammy")) == ["jammy: tools"]
    assert titles(stackyard("draw", "--stack", "arm", "--stack", "tools")) == [
        "jammy: tools",
        "noble-arm: arm",
    ]


def test_a_spec(demo: Project, stackyard: Stackyard) -> None:
    """On each system whose stacks have it; in the order of building."""
    answer = stackyard("draw", "--only", "base")
    assert titles(answer) == [
        single("noble", "hep", "base"),
        single("jammy", "tools", "base"),
    ]
    assert {entry["only"] for entry in entries(answer)} == {"/" + key("base")}
    two = stackyard("draw", "--system", "noble", "--only", "lib+mpi", "--only", "app")
    assert titles(two) == [single("noble", "hep", "lib"), single("noble", "hep", "app")]


def test_a_spec_out_of_a_variable(
    demo: Project, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SPECS", " lib+mpi ; tool;")
    assert titles(stackyard("draw", "--only-variable", "MY_SPECS")) == [
        single("noble", "hep", "lib"),
        single("jammy", "tools", "tool"),
    ]
    monkeypatch.setenv("MY_SPECS", "")
    assert len(titles(stackyard("draw", "--only-variable", "MY_SPECS"))) == 3
    monkeypatch.delenv("MY_SPECS")
    assert len(titles(stackyard("draw", "--only-variable", "MY_SPECS"))) == 3


@pytest.mark.parametrize(
    "text",
    ["$(touch here)", "`touch here`", "lib && touch here", "lib | touch here", "'", "<x>"],
)
def test_what_is_no_spec(
    demo: Project, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("MY_SPECS", text)
    answer = stackyard("draw", "--only-variable", "MY_SPECS", code=2)
    assert answer.out == ""
    assert answer.err.startswith("error: --only: ")


def test_at_random(demo: Project, stackyard: Stackyard) -> None:
    answer = stackyard("draw", "--count", "4", "--seed", "x")
    assert len(titles(answer)) == len(set(titles(answer))) == 4
    assert "--seed x: 4 of 6 packages\n" in answer.err
    assert stackyard("draw", "--count", "4", "--seed", "x").out == answer.out
    assert not [title for title in titles(answer) if "gcc" in title]  # nobody builds an external


def test_the_seed_is_told(demo: Project, stackyard: Stackyard) -> None:
    first = stackyard("draw", "--count", "4")
    seed = first.err.split("--seed ")[1].partition(":")[0]
    assert len(seed) == 16
    assert stackyard("draw", "--count", "4", "--seed", seed).out == first.out


def test_at_random_from_a_list(demo: Project, stackyard: Stackyard) -> None:
    answer = stackyard("draw", "--count", "2", "--only", "base", "--only", "robot")
    assert "2 of 3 packages" in answer.err
    demo.write("invoke.yaml", changed(draw={"packages": ["base"]}))
    assert "2 of 2 packages" in stackyard("draw", "--count", "9").err
    assert len(titles(stackyard("draw"))) == 3  # the list is for drawing


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--count", "0"], 2, "--count: '0' is no number of at least 1"),
        (["--count=-1"], 2, "--count: '-1' is no number of at least 1"),
        (["--count", "$(x)"], 2, "--count: '$(x)' is no number of at least 1"),
        (["--count", "257"], 4, "--count: jobs of one matrix: 257, and GitHub makes at most 256"),
        (["--only", "hop"], 2, "--only: 'hop' holds for no spec of the stacks"),
        (["--only", "gcc"], 2, "--only: 'gcc' holds for no spec of the stacks"),
        (["--only", ""], 2, "--only: an empty spec"),
        (["--system", "nobel"], 2, "--system: there is no system 'nobel'"),
        (["--stack", "hop"], 2, "--stack: there is nothing to build"),
    ],
)
def test_what_cannot_be(
    demo: Project, stackyard: Stackyard, arguments: list[str], code: int, said: str
) -> None:
    answer = stackyard("draw", *arguments, code=code)
    assert answer.out == ""
    assert f"error: {said}" in answer.err


def test_more_than_a_matrix_takes(project: Project, stackyard: Stackyard) -> None:
    letters = "abcdefghijklmnopq"
    project.stack(document({f"p{a}{b}": [] for a in letters for b in letters}), name="many")
    project.write("invoke.yaml", changed(systems=[{"name": "a", "runner": "b"}]))
    answer = stackyard("draw", "--only", "@1.0", code=4)
    assert "github.systems: jobs of one matrix: 289" in answer.err
    assert len(titles(stackyard("draw", "--count", "256"))) == 256


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"systems": []}, "invoke.yaml: stackyard.github.systems: no system is named"),
        (
            {"systems": [{**SYSTEMS[0], "stacks": ["hop"]}]},
            "invoke.yaml: stackyard.github.systems (noble): there is no stack 'hop'",
        ),
        (
            {"systems": [{**SYSTEMS[0], "target": "x86_64_v2"}]},
            "basebas is locked for x86_64_v3, and noble builds for x86_64_v2",
        ),
        (
            {"systems": [{**SYSTEMS[0], "target": "aarch64"}]},
            "basebas is locked for x86_64_v3, and noble builds for aarch64",
        ),
        (
            {"systems": [{**SYSTEMS[0], "runner": "ubuntu-22.04"}]},
            "stacks/hep/spack.lock: locked for ubuntu24.04, and noble is ubuntu-22.04",
        ),
        (
            {"systems": [{**SYSTEMS[0], "stacks": ["tools", "arm"], "runner": "ubuntu-22.04-arm"}]},
            "stacks/arm/spack.lock: locked for ubuntu24.04, and noble is ubuntu-22.04-arm",
        ),
    ],
)
def test_settings_that_will_not_do(
    demo: Project, stackyard: Stackyard, settings: dict[str, Any], said: str
) -> None:
    demo.write("invoke.yaml", changed(**settings))
    err = stackyard("draw", code=2).err
    assert "error: " in err
    assert said in err


def test_a_spack_that_the_action_does_not_know(demo: Project, stackyard: Stackyard) -> None:
    old = document({"tool": []})
    old["spack"]["version"] = "0.23.1"
    demo.stack(old, name="tools")
    assert "Spack 0.23.1 made it" in stackyard("draw", code=2).err
    spack = {**SETTINGS["spack"], "repo": "https://gitlab.com/spack/spack.git"}
    demo.write("invoke.yaml", {"stackyard": {**SETTINGS, "spack": spack}})
    said = stackyard("draw", "--stack", "hep", code=2).err
    assert "gitlab.com/spack/spack.git is not on GitHub" in said


@pytest.mark.parametrize("seed", ["a\n::error::b", "a\rb", "s" * 101])
def test_a_seed_that_is_none(demo: Project, stackyard: Stackyard, seed: str) -> None:
    """It is shown in the log of a job, where a line of its own could be a command."""
    answer = stackyard("draw", "--count", "1", "--seed", seed, code=2)
    assert answer.err.startswith("error: --seed: a seed is one line of printable characters")


def test_a_stack_without_a_lock(demo: Project, stackyard: Stackyard) -> None:
    """It is built as a whole, and locked by the job; its packages nobody knows."""
    (demo.root / "stacks/tools/spack.lock").unlink()
    spack = {**SETTINGS["spack"], "checkout_version": COMMIT}
    demo.write("invoke.yaml", {"stackyard": {**SETTINGS, "spack": spack}})
    assert "jammy: tools" in titles(stackyard("draw"))
    answer = stackyard("draw", "--count", "1", code=2)
    assert answer.err.startswith("error: stacks/tools/spack.lock: the stack is not locked")
    bare = [{"name": "noble", "runner": "ubuntu-24.04"}]
    github = {**SETTINGS["github"], "systems": bare}
    demo.write("invoke.yaml", {"stackyard": {**SETTINGS, "spack": spack, "github": github}})
    answer = stackyard("draw", code=2)
    assert "error: stacks/tools/spack.yaml: noble has no target: the processor" in answer.err
    assert titles(stackyard("draw", "--stack", "hep")) == ["noble: hep"]
