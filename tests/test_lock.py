from __future__ import annotations

import json
from typing import Any

import pytest
from locks import document, key, lock, node, text
from tests_data import DATA, REAL_LOCKS, STACKS

from stackyard.errors import LockError
from stackyard.hashes import Verdict, verify_hashes
from stackyard.lock import Lock, parse_lock, parse_node


def test_reads_the_tutorial(tutorial_lock: Lock) -> None:
    assert len(tutorial_lock.specs) == 234
    assert len(tutorial_lock.roots) == 29
    assert tutorial_lock.spack_version == "1.1.0"
    externals = sorted(s.name for s in tutorial_lock.specs.values() if s.external)
    assert externals == ["gcc", "glibc", "llvm"]


@pytest.mark.parametrize("path", REAL_LOCKS, ids=lambda path: path.parent.name + "/" + path.name)
def test_order_puts_dependencies_first(path: Any) -> None:
    made = parse_lock(path.read_bytes(), path.name)
    place = {k: number for number, k in enumerate(made.order)}
    assert set(place) == set(made.specs)
    assert all(place[c] < place[k] for k, spec in made.specs.items() for c in spec.children)


def test_order_does_not_depend_on_the_order_of_keys(small_lock: Lock) -> None:
    shuffled = json.loads((STACKS / "small" / "spack.lock").read_bytes())
    shuffled["concrete_specs"] = dict(reversed(shuffled["concrete_specs"].items()))
    assert parse_lock(text(shuffled), "x").order == small_lock.order


def test_reads_compilers_as_attributes() -> None:
    made = parse_lock((DATA / "small-spack-0.23.lock").read_bytes(), "x")
    assert made.version == 5
    spec = next(s for s in made.specs.values() if s.name == "sqlite")
    assert spec.format == 4
    assert spec.legacy_compiler == ("gcc", "12.2.0")


def test_reads_specfile_3() -> None:
    old = document({"app": ["lib"], "lib": []})
    old["_meta"]["lockfile-version"] = 4
    for one in old["concrete_specs"].values():
        del one["annotations"]
        one["compiler"] = {"name": "gcc", "version": "9.4.0"}
        one["dependencies"] = [
            {"name": d["name"], "hash": d["hash"], "type": ["build", "link"]}
            for d in one["dependencies"]
        ]
    made = parse_lock(text(old), "x")
    app = made.specs[key("app")]
    assert app.format == 3
    assert app.dependencies[0].deptypes == ("build", "link")
    assert app.dependencies[0].virtuals == ()


def test_merges_included_environments() -> None:
    whole = document({"app": ["lib"], "lib": ["base"], "base": []})
    nodes = whole["concrete_specs"]
    inner = {
        "roots": [{"hash": key("base"), "spec": "base"}],
        "concrete_specs": {key("base"): nodes.pop(key("base"))},
    }
    outer = {
        "roots": [{"hash": key("lib"), "spec": "lib"}],
        "concrete_specs": {key("lib"): nodes.pop(key("lib"))},
        "include_concrete": {"/inner": inner},
    }
    whole["include_concrete"] = {"/outer": outer}
    made = parse_lock(text(whole), "x")
    assert [made.specs[k].name for k in made.order] == ["base", "lib", "app"]
    assert [root.spec for root in made.roots] == ["app"]
    assert sorted(root.spec for root in made.included) == ["base", "lib"]


def test_knows_develop_specs_and_splices() -> None:
    made = lock(
        [
            node("app", parameters={"dev_path": "/src/app"}),
            node("lib", build_spec={"name": "old", "hash": key("old")}),
            node("old"),
        ]
    )
    assert made.specs[key("app")].develop
    assert not made.specs[key("lib")].develop
    assert made.specs[key("lib")].build_spec == key("old")


def test_survives_10_000_levels() -> None:
    names = ["".join(chr(97 + int(d)) for d in f"{n:05}") + "q" * 27 for n in range(10_000)]
    nodes = []
    for number, name in enumerate(names):
        one = node(name, [names[number - 1]] if number else [])
        one["hash"] = name
        for edge in one["dependencies"]:
            edge["hash"] = edge["name"]
        nodes.append(one)
    whole = document(nodes)
    whole["roots"] = [{"hash": names[-1], "spec": "top"}]
    assert parse_lock(text(whole), "x").order == tuple(names)


def _broken(**changes: Any) -> bytes:
    whole = document({"app": ["lib"], "lib": []})
    one = whole["concrete_specs"][key("app")]
    for name, value in changes.items():
        if value is None:
            one.pop(name)
        else:
            one[name] = value
    return text(whole)


GOOD = text(document({"app": ["lib"], "lib": []}))
CASES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "blank": (b" \n", "empty"),
    "not JSON": (b"spack: {}", "not JSON"),
    "cut off": (GOOD[: len(GOOD) // 2], "cut off"),
    "cut off in a text": (GOOD[: GOOD.index(b'"version"') + 4], "cut off"),
    "binary": (b"\xff\xfe\x00", "not JSON"),
    "deep": (b"[" * 100_000, "not JSON"),
    "a list": (b"[]", "concrete_specs is missing"),
    "no specs": (b'{"_meta":{"lockfile-version":6}}', "concrete_specs is missing"),
    "no version": (b'{"concrete_specs":{}}', "lockfile version None"),
    "version 3": (GOOD.replace(b'version":6', b'version":3'), "lockfile version 3"),
    "version 7": (GOOD.replace(b'version":6', b'version":7'), "lockfile version 7"),
    "version of text": (GOOD.replace(b'version":6', b'version":"6"'), "lockfile version '6'"),
    "no such root": (GOOD.replace(b'"roots":[{"hash":"app', b'"roots":[{"hash":"bpp'), "root"),
    "root without a hash": (GOOD.replace(b'"roots":[{"hash"', b'"roots":[{"hush"'), "root"),
    "dangling": (_broken(dependencies=[
        {"name": "z", "hash": key("z"), "parameters": {"deptypes": [], "virtuals": []}}]),
        "no node has"),
    "splice of nothing": (_broken(build_spec={"name": "z", "hash": key("z")}), "spliced"),
    "no name": (_broken(name=None), "shape"),
    "no version in a node": (_broken(version=None), "shape"),
    "no arch": (_broken(arch=None), "shape"),
    "a number for a name": (_broken(name=7), "package name"),
    "dependencies are no list": (_broken(dependencies={"lib": {}}), "shape"),
    "abstract": (_broken(concrete=False), "not concrete"),
    "another hash": (_broken(hash=key("other")), "says that its hash is"),
    "a path for a hash": (GOOD.replace(key("app").encode(), b"../../../../../../../etc/passwd/"),
                          "hash"),
    "compiler in version 5": (_broken(annotations=None, compiler={"name": "a", "version": "1"}),
                              "compiler attribute"),
    "key twice": (GOOD.replace(b'"namespace"', b'"name":"app","namespace"', 1), "twice"),
    "node twice": (GOOD.replace(b'"concrete_specs":{',
                                b'"concrete_specs":{"' + key("app").encode() + b'":{},'), "twice"),
    "top key twice": (b'{"roots":[],' + GOOD[1:], "twice"),
}  # fmt: skip

HOSTILE = {
    "quote": 'a"b', "newline": "a\nb", "inputs": "${{ x }}", "variable": "$CI_JOB_TOKEN",
    "path": "../../etc", "absolute": "/etc/passwd", "unicode": "päckage", "space": "a b",
    "colon": "a: b", "nul": "a\0b", "empty": "", "shell": "a;rm -rf ~", "dash first": "-rf",
}  # fmt: skip
CASES |= {f"hostile name: {k}": (_broken(name=v), "package name") for k, v in HOSTILE.items()}
CASES |= {
    f"hostile version: {k}": (_broken(version=v), "version")
    for k, v in HOSTILE.items()
    if k not in ("path", "dash first")
}
CASES |= {
    f"hostile target: {k}": (
        _broken(arch={"platform": "linux", "platform_os": "debian12", "target": v}),
        "architecture",
    )
    for k, v in HOSTILE.items()
    if k != "dash first"
}


@pytest.mark.parametrize("case", CASES)
def test_refuses(case: str) -> None:
    data, message = CASES[case]
    with pytest.raises(LockError, match=message) as caught:
        parse_lock(data, "stacks/x/spack.lock")
    assert caught.value.where.startswith("stacks/x/spack.lock")
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b"{\n<<<<<<< HEAD\n" + GOOD + b"\n=======\n" + GOOD, "a merge left both sides"),
        (GOOD + b"}", "restore it from git"),
    ],
    ids=["git LFS", "merge", "neither"],
)
def test_hints_at_what_git_left(data: bytes, hint: str) -> None:
    with pytest.raises(LockError, match=r"not JSON|cut off") as caught:
        parse_lock(data, "x")
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "edge",
    [
        {"hash": "a" * 32},
        {"name": 1, "hash": "a" * 32},
        {"name": "b"},
        {"name": "b", "hash": 1},
        {"name": "b", "hash": "../a"},
        {"name": "b", "hash": "a" * 32, "parameters": None},
        {"name": "b", "hash": "a" * 32, "parameters": {"deptypes": ["link"]}},
        {"name": "b", "hash": "a" * 32, "parameters": {"deptypes": [[]], "virtuals": []}},
        {"name": "b", "hash": "a" * 32, "type": 1},
    ],
    ids=str,
)
def test_a_node_alone_has_whole_edges(edge: dict[str, Any]) -> None:
    """Nobody has compared an index with anything when its nodes are looked at."""
    with pytest.raises(LockError):
        parse_node({**node("app"), "dependencies": [edge]}, 5)


def test_names_a_cycle() -> None:
    with pytest.raises(LockError, match=r"circle: (b -> c -> b|c -> b -> c)"):
        lock({"app": ["b"], "b": ["c"], "c": ["b"]}, roots=["app"])


def test_a_colon_in_a_text_is_no_duplicate_key() -> None:
    made = lock([node("app", parameters={"note": 'x":y"', "other": '":'})])
    assert made.specs[key("app")].parameters["other"] == '":'


def test_long_names_are_fine() -> None:
    one = node("a" * 300)
    one["hash"] = "a" * 32
    assert len(next(iter(lock([one]).specs.values())).name) == 300


@pytest.mark.parametrize("path", REAL_LOCKS, ids=lambda path: path.parent.name + "/" + path.name)
def test_hashes_of_real_locks_are_true(path: Any) -> None:
    made = parse_lock(path.read_bytes(), path.name)
    assert set(verify_hashes(made).values()) == {Verdict.TRUE}


def test_an_edited_node_has_a_false_hash(small_lock: Lock) -> None:
    whole = json.loads((STACKS / "small" / "spack.lock").read_bytes())
    edited = next(k for k, n in whole["concrete_specs"].items() if n["name"] == "zlib")
    whole["concrete_specs"][edited]["version"] = "9.9"
    verdicts = verify_hashes(parse_lock(text(whole), "x"))
    assert [k for k, verdict in verdicts.items() if verdict is not Verdict.TRUE] == [edited]
    assert verdicts[edited] is Verdict.FALSE


def test_a_node_of_an_older_spack_is_not_judged() -> None:
    made = lock([node("app", annotations={"original_specfile_version": 4, "compiler": "gcc@=9"})])
    assert verify_hashes(made)[key("app")] is Verdict.UNKNOWN
    assert made.specs[key("app")].legacy_compiler == ("gcc", "9")
