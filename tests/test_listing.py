"""``mirror.list``: from the index, from manifests, and by spec string."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import DATA, Stackyard
from fake_registry import fake_registry
from locks import node
from mirror_server import mirror_server
from registry_data import fill

from stackyard.edges.mirrors.indexing import update_index
from stackyard.edges.stores.folder import FileStore
from stackyard.errors import SpecError
from stackyard.listing import Sharing, compiler_text, matching, spec_graph
from stackyard.lock import Lock, Spec, parse_lock, parse_node
from stackyard.mirror import INDEX_MANIFEST
from stackyard.spec import parse_pattern

MIRRORS = DATA / "mirrors"
TINY = {"tiny-app", "tiny-base", "tiny-data", "tiny-lib", "tiny-tool"}


def copied(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(MIRRORS / name, folder / name))


def listed(stackyard: Stackyard, url: str | Path, *flags: str) -> list[dict[str, Any]]:
    answer = stackyard("mirror.list", "--url", str(url), "--json", *flags)
    document = json.loads(answer.out)
    assert document["version"] == 1
    binaries: list[dict[str, Any]] = document["binaries"]
    return binaries


def names(binaries: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{one['name']}@{one['version']}" for one in binaries]


@pytest.mark.parametrize("name", ["v3-signed", "v3-unsigned", "v2-signed", "v2-unsigned"])
def test_real_mirrors_are_listed_whole(stackyard: Stackyard, name: str) -> None:
    found = listed(stackyard, MIRRORS / name)
    lock = DATA / ("tiny.spack.lock" if name.startswith("v3") else "v2.spack.lock")
    known = parse_lock(lock.read_bytes(), lock.name).specs
    assert {one["hash"] for one in found} <= known.keys()
    assert {one["name"] for one in found} == TINY
    assert len(found) == (7 if name.startswith("v3") else 5)
    assert {one["size_bytes"] for one in found} == {None}


@pytest.mark.parametrize("name", ["v3-signed", "v2-unsigned"])
def test_manifests_tell_the_same_and_more(stackyard: Stackyard, name: str, tmp_path: Path) -> None:
    """The same from a mirror that has lost its index; with what only manifests know."""
    folder = copied(name, tmp_path)
    quick, slow = listed(stackyard, folder), listed(stackyard, folder, "--sizes")
    for index in (INDEX_MANIFEST, "build_cache/index.json"):
        (folder / index).unlink(missing_ok=True)
    assert listed(stackyard, folder) == slow
    unknown = {"size_bytes": None, "signed": None}
    assert [{**one, **unknown} for one in slow] == quick
    assert {one["signed"] for one in slow} == {name.endswith("-signed")}
    for one in slow:
        assert 3000 < one["size_bytes"] < 8000


def test_table(stackyard: Stackyard) -> None:
    answer = stackyard("mirror.list", "--url", str(MIRRORS / "v2-unsigned"))
    head, *lines = answer.out.splitlines()
    assert head.split() == ["PACKAGE", "VERSION", "HASH", "TARGET", "COMPILER"]
    assert lines[0].split() == ["tiny-app", "1.1", "jnafzbg", "x86_64_v3", "gcc@12.2.0"]
    assert len(lines) == 5
    assert answer.err == f"5 binaries: file://{MIRRORS}/v2-unsigned\n"
    sized = stackyard("mirror.list", "--url", str(MIRRORS / "v2-unsigned"), "--sizes").out
    assert sized.splitlines()[1].split() == [*lines[0].split(), "7.3", "kB", "no"]


MATCHES: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "name": (("tiny-lib",), ["tiny-lib@1.0", "tiny-lib@1.1"]),
    "version": (("tiny-lib@1.1:",), ["tiny-lib@1.1"]),
    "any name": (("@:1.0",), ["tiny-lib@1.0"]),
    "hash": (("/pi3q4vq",), ["tiny-data@1.1"]),
    "target": (("tiny-base target=x86_64:",), ["tiny-base@1.1"]),
    "another target": (("target=aarch64:",), []),
    "below": (("^tiny-lib",), ["tiny-app@1.1", "tiny-tool@1.1"]),
    "direct": (("%tiny-tool",), ["tiny-app@1.1"]),
    "variant": (("tiny-data+extra",), ["tiny-data@1.1"]),
    "two": (("tiny-app", "tiny-base"), ["tiny-app@1.1", "tiny-base@1.1"]),
    "nothing": (("hdf5",), []),
}


@pytest.mark.parametrize(("patterns", "expected"), MATCHES.values(), ids=MATCHES)
def test_match(stackyard: Stackyard, patterns: tuple[str, ...], expected: list[str]) -> None:
    flags = [part for text in patterns for part in ("--match", text)]
    assert names(listed(stackyard, MIRRORS / "v3-unsigned", *flags)) == expected


def test_how_many(stackyard: Stackyard) -> None:
    flags = ("mirror.list", "--url", str(MIRRORS / "v3-unsigned"))
    assert stackyard(*flags).err.startswith("7 binaries: file://")
    assert stackyard(*flags, "--match", "tiny-app").err.startswith("1 binary matches: file://")
    assert stackyard(*flags, "--match", "tiny-data").err.startswith("2 binaries match: file://")


@pytest.mark.parametrize("pattern", ["", " ", "tiny-lib@", "a b"])
def test_bad_spec_is_refused_by_its_argument(stackyard: Stackyard, pattern: str) -> None:
    url = str(MIRRORS / "v3-unsigned")
    answer = stackyard("mirror.list", "--url", url, "--match", pattern, code=2)
    assert "--match" in answer.err


def test_both_layouts_in_one_folder(stackyard: Stackyard, tmp_path: Path) -> None:
    folder = copied("v3-unsigned", tmp_path)
    shutil.copytree(MIRRORS / "v2-unsigned", folder, dirs_exist_ok=True)
    found = listed(stackyard, folder)
    assert sorted(one["layout"] for one in found) == [2] * 5 + [3] * 7


def test_web_server_needs_an_index(stackyard: Stackyard, tmp_path: Path) -> None:
    folder = copied("v3-unsigned", tmp_path)
    with mirror_server(folder) as server:
        assert len(listed(stackyard, server.url)) == 7
        assert len(server.requests) < 8
        assert {one["signed"] for one in listed(stackyard, server.url, "--sizes")} == {False}
        (folder / INDEX_MANIFEST).unlink()
        answer = stackyard("mirror.list", "--url", server.url, code=6)
    assert "no index" in answer.err
    assert "mirror.index" in answer.err


def test_registry(stackyard: Stackyard) -> None:
    """Spack's own images, pushed without an index that anybody could find."""
    with fake_registry() as server:
        fill(server.repository("tiny"))
        url = server.mirror("tiny")
        found = listed(stackyard, url)
        assert {one["name"] for one in found} == TINY
        assert {one["layout"] for one in found} == {"oci"}
        sized = listed(stackyard, url, "--sizes", "--match", "tiny-app")
    assert names(sized) == ["tiny-app@1.1"]
    assert 3000 < sized[0]["size_bytes"] < 8000


def test_what_cannot_be_read_is_told_after_the_rest(stackyard: Stackyard, tmp_path: Path) -> None:
    folder = copied("v3-unsigned", tmp_path)
    (folder / INDEX_MANIFEST).unlink()
    manifests = sorted(folder.glob("v3/manifests/spec/*/*"))
    manifests[0].write_text("{}")
    answer = stackyard("mirror.list", "--url", str(folder), code=6)
    assert len(answer.out.splitlines()) == 7
    assert "1 binaries cannot be read" in answer.err
    assert manifests[0].name in answer.err


def test_binary_of_another_spec_is_told_after_the_rest(
    stackyard: Stackyard, tmp_path: Path
) -> None:
    """A manifest whose name says another hash than the spec that it names."""
    folder = copied("v3-unsigned", tmp_path)
    manifest = next(folder.glob("v3/manifests/spec/*/*"))
    other = manifest.with_name(f"x-1-{'a' * 32}.spec.manifest.json")
    other.write_bytes(manifest.read_bytes())
    answer = stackyard("mirror.list", "--url", str(folder), "--sizes", code=6)
    assert "a" * 7 not in answer.out
    assert f"{other.name}: it is the binary of another spec" in answer.err


@pytest.mark.parametrize("make", [True, False], ids=["empty", "not there"])
def test_no_mirror(stackyard: Stackyard, tmp_path: Path, make: bool) -> None:  # noqa: FBT001
    if make:
        (tmp_path / "m").mkdir()
    answer = stackyard("mirror.list", "--url", str(tmp_path / "m"), code=6)
    assert answer.out == ""


def test_corrupt_index_is_no_empty_one(stackyard: Stackyard, tmp_path: Path) -> None:
    folder = copied("v2-unsigned", tmp_path)
    (folder / "build_cache" / "index.json").write_text('{"database": {"version": "7"}}')
    answer = stackyard("mirror.list", "--url", str(folder), code=6)
    assert "checksum" in answer.err


def test_index_of_our_own_is_listed(stackyard: Stackyard, tmp_path: Path) -> None:
    folder = copied("v3-unsigned", tmp_path)
    before = listed(stackyard, folder)
    store = FileStore(folder)
    update_index(store, full=True)
    store.close()
    assert listed(stackyard, folder) == before


def spec(name: str, needs: Sequence[str] = (), **fields: Any) -> Spec:
    return parse_node(node(name, needs, **fields), 5)


def test_graph_leaves_out_what_the_mirror_does_not_tell() -> None:
    graph = spec_graph([spec("app", ["lib", "gone"]), spec("lib")], "there")
    assert graph.specs[spec("app").hash].children == (spec("lib").hash,)
    assert graph.order.index(spec("lib").hash) < graph.order.index(spec("app").hash)
    assert matching(graph, [parse_pattern("^lib")]) == {spec("app").hash}


def test_circle_in_a_forged_index_ends() -> None:
    graph = spec_graph([spec("a", ["b"]), spec("b", ["a"]), spec("c", ["c"])], "there")
    assert sorted(graph.order) == sorted(graph.specs)
    found = matching(graph, [parse_pattern("^b"), parse_pattern("%c"), parse_pattern("x++y")])
    assert found == {spec("a").hash, spec("b").hash, spec("c").hash}


def test_virtual_that_nobody_can_settle() -> None:
    edge = {"name": "zlib", "hash": spec("zlib").hash}
    edges = [{**edge, "parameters": {"deptypes": ["link"], "virtuals": ["zlib-api"]}}]
    graph = spec_graph([spec("app", dependencies=edges), spec("zlib"), spec("other")], "there")
    with pytest.raises(SpecError, match="provides zlib-api"):
        matching(graph, [parse_pattern("zlib-api")])
    assert matching(graph, [parse_pattern("^zlib-api")]) == {spec("app").hash}


COMPILERS = {
    "none": ({}, ""),
    "of old": (
        {"annotations": {"original_specfile_version": 4, "compiler": "gcc@=12.2"}},
        "gcc@12.2",
    ),
    "a dependency": (
        {
            "dependencies": [
                {
                    "name": "gcc",
                    "hash": "g" * 32,
                    "parameters": {"deptypes": ["build"], "virtuals": ["c"]},
                }
            ]
        },
        "gcc@13.1",
    ),
}


@pytest.mark.parametrize(("fields", "expected"), COMPILERS.values(), ids=COMPILERS)
def test_compiler(fields: dict[str, Any], expected: str) -> None:
    gcc = spec("gcc", version="13.1", hash="g" * 32)
    made = spec("app", **fields)
    assert compiler_text(made, {gcc.hash: gcc}) == expected


def test_sharing_changes_nothing(tutorial_lock: Lock) -> None:
    sharing = Sharing()
    for made in tutorial_lock.specs.values():
        shared = sharing.share(made)
        assert shared == made
        assert json.dumps(shared.node) == json.dumps(made.node)
