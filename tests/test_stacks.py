"""Stacks on disk: includes as Spack resolves them, and the errors of those that cannot be."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stackyard.document import parse_yaml
from stackyard.edges.host import host_facts, os_name
from stackyard.edges.stacks import concrete_manifest, list_stacks, load_stack
from stackyard.errors import ConfigError, StackError
from stackyard.merge import key_name, loaded
from stackyard.stack import Stack

HOST = {"platform": "linux", "os": "debian12", "target": "zen2", "hostname": "here"}
FACTS: dict[str, Callable[[], str]] = {name: (lambda v=v: v) for name, v in HOST.items()}  # type: ignore[misc]

#: Environments with includes; ``answer-*.yaml`` is what ``spack -e . config get`` of 1.1 printed.
CASES = sorted((Path(__file__).parent / "data/includes").iterdir())


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def load(root: Path, name: str = "x", **env: str) -> Stack:
    return load_stack(root, name, env, FACTS)


@pytest.mark.parametrize("section", ["ci", "mirrors", "definitions"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_includes_as_spack(case: Path, section: str) -> None:
    stack = load_stack(case, ".", {}, FACTS)
    answer: Any = parse_yaml((case / f"answer-{section}.yaml").read_bytes())[section]
    if section == "ci":
        expected: Any = {key_name(key): value for key, value in answer.items()}
    else:
        expected = loaded(answer)
    if section == "mirrors":
        expected.pop("spack-public", None)  # of Spack's own defaults
    assert json.dumps(stack.config.get(section) or None) == json.dumps(expected or None)


def test_list_stacks(tmp_path: Path) -> None:
    assert list_stacks(tmp_path) == ()
    write(tmp_path, {"stacks/b/spack.yaml": "", "stacks/a/spack.yaml": "", "stacks/c/other": ""})
    assert list_stacks(tmp_path) == ("a", "b")


def test_load_by_name_and_path(tmp_path: Path) -> None:
    text = "spack:\n  specs: [zlib]  # a comment\n"
    write(tmp_path, {"stacks/x/spack.yaml": text, "stacks/x/stack.yaml": "limits: {needs: 0}\n"})
    for name in ("x", "stacks/x", "stacks/x/spack.yaml", str(tmp_path / "stacks/x"), "./stacks/x/"):
        stack = load(tmp_path, name)
        assert (stack.name, stack.text, stack.where) == ("x", text, "stacks/x/spack.yaml")
        assert stack.overrides == {"limits": {"needs": 0}}
        assert [Path(file).name for file in stack.files] == ["spack.yaml", "stack.yaml"]
        assert concrete_manifest(stack, "..") == text


def test_unknown_names(tmp_path: Path) -> None:
    write(tmp_path, {"stacks/tutorial/spack.yaml": "spack: {}"})
    with pytest.raises(StackError, match="did you mean 'tutorial'"):
        load(tmp_path, "tutorail")
    with pytest.raises(StackError, match=r"a/b: there is no spack\.yaml"):
        load(tmp_path, "a/b")
    with pytest.raises(StackError, match="unknown stack"):
        load(tmp_path, "")


def test_wrong_stack_yaml(tmp_path: Path) -> None:
    write(tmp_path, {"stacks/x/spack.yaml": "spack: {}", "stacks/x/stack.yaml": "limit: {}\n"})
    with pytest.raises(StackError, match=r"^stacks/x/stack\.yaml: limit: unknown key"):
        load(tmp_path)
    write(tmp_path, {"stacks/x/stack.yaml": "fix: [nosuch]\n"})
    with pytest.raises(ConfigError, match=r"^stacks/x/stack\.yaml: fix\[0\]: unknown fix"):
        load_stack(tmp_path, "x", {}, FACTS, known_fixes=["first-match"])
    write(tmp_path, {"stacks/x/stack.yaml": "prune: {keep: [hdf5]}\n"})
    with pytest.raises(StackError, match=r"stack\.yaml: prune: .*for all stacks") as caught:
        load(tmp_path)
    assert "invoke.yaml" in caught.value.hint


FOUND: list[tuple[str, str, dict[str, str]]] = [
    ("relative", "- inc.yaml", {}),
    ("upwards", "- ../../stacks/x/./inc.yaml", {}),
    ("when", "- {path: inc.yaml, when: 'platform == \"linux\"'}", {}),
    ("variable of the environment", "- ${DIR}/inc.yaml", {"DIR": "."}),
    ("fact", "- $platform-$os-${TARGET}.yaml", {}),
    ("arch", "- $arch.yaml", {}),
    ("override variable", "- {path: nosuch.yaml, path_override_env_var: V}", {"V": "inc.yaml"}),
    ("override variable not set", "- {path: inc.yaml, path_override_env_var: V}", {}),
    ("optional", "- {path: inc.yaml, optional: true}", {}),
    ("sha256 is not needed", "- {path: inc.yaml, sha256: '0'}", {}),
]


@pytest.mark.parametrize(("entry", "env"), [r[1:] for r in FOUND], ids=[r[0] for r in FOUND])
def test_include_found(tmp_path: Path, entry: str, env: dict[str, str]) -> None:
    config = "mirrors: {a: s3://a}\n"
    names = ("inc.yaml", "linux-debian12-zen2.yaml")
    write(tmp_path, {f"stacks/x/{name}": config for name in names})
    write(tmp_path, {"stacks/x/spack.yaml": f"spack:\n  include:\n  {entry}\n"})
    stack = load(tmp_path, **env)
    assert list(stack.mirrors) == ["a"]
    assert stack.warnings == ()


SKIPPED = [
    ("optional", "- {path: nosuch.yaml, optional: true}"),
    ("condition", "- {path: nosuch.yaml, when: 'platform == \"darwin\"'}"),
    ("condition of git", "- {git: https://x/y, paths: [a], tag: v1, when: 'False'}"),
    ("condition of a variable", "- {path: $spack/x, when: 'False'}"),
    ("empty file", "- empty.yaml"),
    ("empty folder", "- folder"),
]


@pytest.mark.parametrize("entry", [row[1] for row in SKIPPED], ids=[row[0] for row in SKIPPED])
def test_include_skipped(tmp_path: Path, entry: str) -> None:
    write(tmp_path, {"stacks/x/empty.yaml": "# nothing\n", "stacks/x/folder/README": "x"})
    write(tmp_path, {"stacks/x/spack.yaml": f"spack:\n  include:\n  {entry}\n"})
    assert load(tmp_path).config.get("mirrors") is None


WRONG = [
    ("missing", "- nosuch.yaml", "spack.include[0]: there is no file or folder nosuch.yaml"),
    ("second", "- empty.yaml\n  - nosuch.yaml", "spack.include[1]: there is no file"),
    ("url", "- https://x/y.yaml", "include from a URL is not read: https://x/y.yaml"),
    ("git", "- {git: https://x/y, paths: [a], branch: main}", "include from git is not read"),
    ("spack", "- $spack/x.yaml", "only Spack itself knows $spack"),
    ("env", "- $env/x.yaml", "Spack does not know $env yet"),
    ("variable", "- ${NO_SUCH}/x.yaml", "the variable ${NO_SUCH} in ${NO_SUCH}/x.yaml is not set"),
    ("condition", "- {path: a, when: 'open(1)'}", "spack.include[0].when: cannot evaluate"),
    ("circle", "- one.yaml", "stacks/x/two.yaml: include[0]: the circle of includes closes at stacks/x/one.yaml"),
    ("itself", "- spack.yaml", "the circle of includes closes at stacks/x/spack.yaml"),
    ("device", "- /dev/null", "/dev/null: is not a file"),
    ("wrong content", "- wrong.yaml", "stacks/x/wrong.yaml: mirors: unknown key"),
    ("wrong folder", "- folder", "stacks/x/folder/mirrors.yaml: ci: unknown key"),
    ("wrong syntax", "- syntax.yaml", "stacks/x/syntax.yaml:2:1: not YAML"),
    ("too many", "- many.yaml", "too many includes"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "part"), [r[1:] for r in WRONG], ids=[r[0] for r in WRONG])
def test_include_wrong(tmp_path: Path, entry: str, part: str) -> None:
    files = {
        "empty.yaml": "",
        "one.yaml": "include: [two.yaml]",
        "two.yaml": "include: [one.yaml]",
        "wrong.yaml": "mirors: {}",
        "folder/mirrors.yaml": "ci: {}",
        "syntax.yaml": "a: [\n",
        "many.yaml": "include: [{path: d0, name: a}, {path: d0, name: b}]",
        "spack.yaml": f"spack:\n  include:\n  {entry}\n",
    }
    for i in range(12):
        names = ", ".join(f"{{path: ../d{i + 1}, name: '{i}{n}'}}" for n in "abc")
        files[f"d{i}/include.yaml"] = f"include: [{names}]"
    write(tmp_path / "stacks/x", files)
    (tmp_path / "stacks/x/d12").mkdir()
    with pytest.raises(StackError) as caught:
        load(tmp_path)
    assert part in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_include_twice_counts_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "stacks/x/spack.yaml": "spack: {include: [a.yaml, ./a.yaml]}",
            "stacks/x/a.yaml": "ci: {}",
        },
    )
    assert load(tmp_path).warnings == (
        "stacks/x/spack.yaml: spack.include[1]: included twice; only the first counts",
    )


def test_absolute_include_warns(tmp_path: Path) -> None:
    write(tmp_path, {"out/a.yaml": "mirrors: {a: rel}"})
    write(tmp_path, {"p/stacks/x/spack.yaml": f"spack: {{include: [{tmp_path}/out/a.yaml]}}"})
    stack = load(tmp_path / "p")
    (warning,) = stack.warnings
    assert "jobs on other machines may lack" in warning
    assert stack.mirrors["a"].fetch_url == f"file://{tmp_path}/out/rel"


def test_links_and_files_outside_are_allowed(tmp_path: Path) -> None:
    write(tmp_path, {"out/a.yaml": "ci: {rebuild-index: false}", "p/stacks/x/spack.yaml": ""})
    (tmp_path / "p/stacks/x/link.yaml").symlink_to(tmp_path / "out/a.yaml")
    for entry in ("link.yaml", "../../../out/a.yaml"):
        write(tmp_path, {"p/stacks/x/spack.yaml": f"spack: {{include: [{entry}]}}"})
        assert load(tmp_path / "p").ci == {"rebuild-index": False}


def test_variables_in_mirror_paths(tmp_path: Path) -> None:
    text = "spack: {mirrors: {a: $env/cache, b: ~/cache, c: $V/x, d: s3://x/$V}}"
    write(tmp_path, {"stacks/x/spack.yaml": text})
    urls = {name: mirror.fetch_url for name, mirror in load(tmp_path, V="/v").mirrors.items()}
    assert urls["a"] == f"file://{tmp_path}/stacks/x/cache"
    assert urls["b"].startswith("file:///")
    assert "~" not in urls["b"]
    assert (urls["c"], urls["d"]) == ("file:///v/x", "s3://x/$V")


def test_concrete_manifest_rewrites_as_spack(tmp_path: Path) -> None:
    text = (
        "spack:\n  include:\n  - a.yaml\n  - {path: ../../common/$platform, when: 'True'}\n"
        "  - {path: $spack/x, when: 'False'}\n  mirrors:\n    m: ./here\n"
    )
    write(tmp_path, {"stacks/x/spack.yaml": text, "stacks/x/a.yaml": "", "common/linux/x": ""})
    moved = concrete_manifest(load(tmp_path), "../../stacks/x")
    assert parse_yaml(moved)["spack"] == {
        "include": [
            "../../stacks/x/a.yaml",
            {"path": "../../common/linux", "when": "True"},
            {"path": "$spack/x", "when": "False"},
        ],
        "mirrors": {"m": "./here"},
    }


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"stacks/x/spack.yaml": "spack: {}"})
    monkeypatch.setattr("stackyard.edges.stacks.LIMIT_BYTES", 5)
    with pytest.raises(StackError, match=r"stacks/x/spack\.yaml: larger than 5 bytes"):
        load(tmp_path)


def test_facts_are_not_asked_for_nothing(tmp_path: Path) -> None:
    def never() -> str:
        raise AssertionError

    write(tmp_path, {"stacks/x/spack.yaml": "spack: {include: [a.yaml]}", "stacks/x/a.yaml": ""})
    assert load_stack(tmp_path, "x", {}, dict.fromkeys(HOST, never)).name == "x"


def test_reading_is_fast(tmp_path: Path) -> None:
    entries = "".join(
        f"    - submapping:\n      - match: ['p{i}']\n        build-job: {{tags: [a, b]}}\n"
        for i in range(40)
    )
    text = f"spack:\n  specs: [zlib]\n  ci:\n    pipeline-gen:\n{entries}"
    write(tmp_path, {"stacks/x/spack.yaml": text})
    load(tmp_path)
    start = time.process_time()
    for _ in range(5):
        load(tmp_path)
    assert (time.process_time() - start) / 5 < 0.05


OS_RELEASE = [
    ("debian", 'ID=debian\nVERSION_ID="12"\n', "debian12"),
    ("ubuntu", 'ID=ubuntu\nVERSION_ID="24.04"\n', "ubuntu24.04"),
    ("alma", 'ID="almalinux"\nVERSION_ID="9.4"\n', "almalinux9"),
    ("oracle", 'ID="ol"\nVERSION_ID="8.10"\n', "oracle8"),
    ("leap", 'ID="opensuse-leap"\nVERSION_ID="15.6"\n', "opensuse15"),
    ("arch", "NAME=Arch\nID=arch\n", "arch"),
    ("nothing", "", "unknown"),
]


@pytest.mark.parametrize(
    ("text", "name"), [r[1:] for r in OS_RELEASE], ids=[r[0] for r in OS_RELEASE]
)
def test_os_name(text: str, name: str) -> None:
    assert os_name(text) == name


def test_host_facts() -> None:
    facts = host_facts()
    assert all(facts[name]() for name in HOST)
