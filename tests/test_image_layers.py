"""``image.layers``: exactly the lock's binaries, verified, in folders that become layers."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mirrors
import pytest
from conftest import DATA, Project, Stackyard
from locks import EXTERNAL, document, node
from signing import Signer, needs_gpg
from test_padding import packed, padded

from benchmarks.indexing import write_binary
from stackyard.binary import parse_binary
from stackyard.document import parse_yaml
from stackyard.edges.mirrors.destination import EPOCH_S
from stackyard.edges.mirrors.indexing import check_index, read_index, update_index
from stackyard.edges.stores.folder import FileStore
from stackyard.layers import MOST_LAYERS
from stackyard.lock import parse_lock

SIGNED = DATA / "mirrors" / "v3-signed"
TINY = (DATA / "tiny.spack.lock").read_bytes()
NAMES = [*(f"{number:02}" for number in range(MOST_LAYERS)), "last"]

Lay = Callable[..., str]


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """The tiny stack's seven binaries, without signatures."""
    return Path(shutil.copytree(DATA / "mirrors" / "v3-unsigned", tmp_path / "mirror"))


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "layers"


@pytest.fixture
def lay(stackyard: Stackyard, project: Project, mirror: Path, to: Path) -> Lay:
    """Runs ``image.layers`` in a project whose stack has an image; what it said."""
    project.write("invoke.yaml", {"stackyard": {"image": {"base": "debian:12"}}})
    project.stack(TINY, name="tiny")

    def run(*flags: str, source: object = mirror, unsigned: bool = True, code: int = 0) -> str:
        more = ["--unsigned"] if unsigned else []
        argv = ["image.layers", "--to", str(to), "--from", str(source), *more, *flags]
        answer = stackyard(*argv, code=code)
        assert answer.out == ""
        return answer.err

    return run


def merged(to: Path) -> dict[str, bytes]:
    """The files of all layers; none lies in two of them."""
    found: dict[str, bytes] = {}
    for name in NAMES:
        for path in sorted((to / name).rglob("*")):
            if path.is_file():
                place = path.relative_to(to / name).as_posix()
                assert place not in found
                found[place] = path.read_bytes()
    return found


def lower(to: Path) -> list[str]:
    """Names of the packages in each layer that has some."""
    return [
        "+".join(sorted(path.parent.name for path in (to / name).rglob("*.spec.manifest.json")))
        for name in NAMES
        if any((to / name).rglob("*.spec.manifest.json"))
    ]


def test_all_that_an_image_holds(lay: Lay, mirror: Path, to: Path, tmp_path: Path) -> None:
    assert "7 binaries, " in lay("--created", "2026-11-21T15:00:00+01:00")
    assert sorted(path.name for path in to.iterdir()) == [".mirror", *NAMES]
    files = merged(to)
    theirs = {path.relative_to(mirror).as_posix(): path.read_bytes() for path in _files(mirror)}
    binaries = {
        name: data
        for name, data in theirs.items()
        if "/index/" not in name and not data.startswith(b'{"database"')
    }
    ours = {name[len("mirror/") :]: data for name, data in files.items() if "mirror/" in name}
    assert binaries.items() <= ours.items()
    # And beside those nothing but the index.
    assert sorted(name.partition("/")[0] for name in ours.keys() - binaries.keys()) == [
        "blobs",
        "v3",
    ]
    assert sorted(name for name in files if not name.startswith("mirror/")) == [
        "etc/spack/concretizer.yaml",
        "etc/spack/config.yaml",
        "etc/spack/mirrors.yaml",
        "etc/spack/packages.yaml",
        *sorted(name for name in files if name.startswith("tutorial/")),
        "usr/share/stack/sbom.spdx.json",
        "usr/share/stack/spack.lock",
        "usr/share/stack/spack.yaml",
    ]
    assert files["usr/share/stack/spack.lock"] == TINY
    sbom = json.loads(files["usr/share/stack/sbom.spdx.json"])
    assert sbom["creationInfo"]["created"] == "2026-11-21T14:00:00Z"
    whole = tmp_path / "whole"
    for name, data in ours.items():
        (whole / name).parent.mkdir(parents=True, exist_ok=True)
        (whole / name).write_bytes(data)
    assert not check_index(FileStore(whole)).stale


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_changes_least_lies_below(lay: Lay, to: Path) -> None:
    lay()
    assert lower(to) == [
        "tiny-base",
        "tiny-data+tiny-data",
        "tiny-lib+tiny-lib",
        "tiny-tool",
        "tiny-app",
    ]
    lay("--most", "2")
    assert len(lower(to)) == 2
    assert not _files(to / "39")


def test_no_file_is_there_twice(lay: Lay, to: Path) -> None:
    """What lies in a layer is another name of what was fetched; time and mode are always the same."""
    before = os.umask(0o077)
    try:
        lay()
    finally:
        os.umask(before)
    for name in NAMES:
        for path in (to / name, *(to / name).rglob("*")):
            status = path.stat()
            assert status.st_mtime == EPOCH_S
            if path.is_dir():
                assert stat.S_IMODE(status.st_mode) == 0o755
            elif "mirror" in path.parts and path.name != "public.key":
                assert status.st_nlink == 2
                assert stat.S_IMODE(status.st_mode) == 0o644


def test_a_disk_without_hard_links(lay: Lay, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay()
    expected = merged(to)
    shutil.rmtree(to)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    lay()
    assert merged(to) == expected
    assert not [path for path in (to / ".mirror").rglob("*.json") if path.is_file()]
    lay()  # all of it has to come once more
    assert merged(to) == expected


def test_a_second_run_gives_the_same(lay: Lay, to: Path) -> None:
    lay()
    first = merged(to)
    (to / "00" / "left").write_text("over")
    (to / ".mirror" / "v3" / "manifests" / "spec" / "old").mkdir()
    (to / ".mirror" / "v3" / "manifests" / "spec" / "old" / "x.spec.manifest.json").write_text("{}")
    lay()
    assert merged(to) == first


def test_exactly_the_closure_of_a_large_mirror(
    stackyard: Stackyard, project: Project, to: Path, tmp_path: Path
) -> None:
    """Of a mirror that holds ten times as much not one file more."""
    needs: dict[str, list[str]] = {"base": [], "lib": ["base"], "tool": [], "app": ["lib", "tool"]}
    needs |= {f"more{number}": ["base"] for number in range(40)}
    nodes = mirrors.specs(needs)
    mirrors.push(tmp_path / "mirror", nodes, *needs)
    update_index(FileStore(tmp_path / "mirror"))
    wanted = [nodes[name] for name in ("base", "lib", "tool", "app")]
    made = document(wanted, roots=["app"])
    made["roots"] = [{"hash": nodes["app"]["hash"], "spec": "app"}]
    project.stack(made)
    argv = ["image.layers", "--to", str(to), "--from", str(tmp_path / "mirror"), "--unsigned"]
    stackyard(*argv)
    expected = mirrors.files(nodes, "base", "lib", "tool", "app").keys()
    ours = {name[len("mirror/") :] for name in merged(to) if name.startswith("mirror/")}
    index = {name for name in ours if name.startswith("v3/manifests/index/")}
    rest = ours - expected - index - {"v3/layout.json"}
    assert expected <= ours
    assert len(rest) == 1  # the index itself
    view = read_index(FileStore(to / ".mirror"))
    assert view
    assert {one for one, _, there in view.nodes() if there} == {node["hash"] for node in wanted}
    assert len(list(tmp_path.glob("mirror/**/*.spec.manifest.json"))) == 44


def test_a_smaller_lock_leaves_nothing_behind(lay: Lay, project: Project, to: Path) -> None:
    lay()
    lock = json.loads(TINY)
    lock["roots"] = [one for one in lock["roots"] if one["spec"].startswith("tiny-data")]
    project.stack(lock, name="tiny")
    lay()
    assert lower(to) == ["tiny-base", "tiny-data"]
    view = read_index(FileStore(to / ".mirror"))
    assert view
    assert sum(there for _, _, there in view.nodes()) == 2


@pytest.mark.parametrize("what", ["tarball", "spec", "manifest"])
def test_a_tampered_binary_stops_it(lay: Lay, mirror: Path, to: Path, what: str) -> None:
    manifest = next(mirror.rglob("tiny-tool*.spec.manifest.json"))
    binary = parse_binary(manifest.read_bytes(), "", "", "")
    assert binary.spec
    keys = {"tarball": binary.tarball.key, "spec": binary.spec.key}
    victim = mirror / keys[what] if what in keys else manifest
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(bytes(data))
    lay(code=6)
    assert not (to / "last").exists()
    assert not (to / "00").exists()


def test_a_missing_binary_stops_it(lay: Lay, mirror: Path, to: Path) -> None:
    next(mirror.rglob("tiny-tool*.spec.manifest.json")).unlink()
    assert "1 of 7 binaries are missing:\n  tiny-tool@1.1/r5szqo2" in lay(code=6)
    assert not (to / "last").exists()


@needs_gpg
def test_keys_come_along(lay: Lay, project: Project, to: Path) -> None:
    keys = next((SIGNED / "v3" / "manifests" / "key").glob("B68A*"))
    record = json.loads(keys.read_bytes())["data"][0]["checksum"]
    public = (SIGNED / "blobs" / "sha256" / record[:2] / record).read_bytes()
    project.write("stacks/tiny/keys/builder.pub", public)
    with closing(Signer()) as signer:  # whom we trust, too, and who has signed nothing of this
        signer.key("other")
        project.write("stacks/tiny/keys/other.pub", signer.public("other"))
    lay(source=SIGNED, unsigned=False)
    files = merged(to)
    assert files["mirror/public.key"].count(b"BEGIN PGP PUBLIC KEY BLOCK") == 1
    held = sorted(name for name in files if name.endswith(".key.manifest.json"))
    assert [Path(name).name for name in held] == [keys.name]
    assert "mirror/v3/manifests/key/keys.manifest.json" in files
    assert (to / "last" / "mirror" / "public.key").is_file()
    mirror = parse_yaml(files["etc/spack/mirrors.yaml"], "mirrors.yaml")["mirrors"]["tiny"]
    assert mirror["signed"] is True


@needs_gpg
def test_a_signature_of_nobody_we_trust_stops_it(lay: Lay, to: Path) -> None:
    assert "there are no keys to check them with" in lay(source=SIGNED, unsigned=False, code=6)
    assert not (to / "last").exists()


def test_the_stack_says_how_paths_are_padded(lay: Lay, project: Project, to: Path) -> None:
    project.stack(TINY, name="tiny", config={"install_tree": {"padded_length": 96}})
    lay()
    config = parse_yaml(merged(to)["etc/spack/config.yaml"], "config.yaml")["config"]
    assert config["install_tree"] == {"padded_length": 96}


def _config(to: Path) -> object:
    return parse_yaml(merged(to)["etc/spack/config.yaml"], "config.yaml")["config"]


@pytest.mark.parametrize(
    ("lengths", "expected"), [((128, 128), 128), ((0, 0), 0), ((128, 0), 0), ((96, 128), 0)]
)
def test_else_the_binaries_say_it(  # noqa: PLR0917
    stackyard: Stackyard,
    project: Project,
    to: Path,
    tmp_path: Path,
    lengths: tuple[int, int],
    expected: int,
) -> None:
    """Whoever built them may have told Spack elsewhere than in the manifest."""
    nodes = mirrors.specs({"one": [], "two": []})
    for node_, length in zip(nodes.values(), lengths, strict=True):
        root = padded("/home/x", length) if length else "/home/x"
        tarball = packed(f"{root}/linux-zen2/{node_['name']}-1.0-{node_['hash']}")
        write_binary(tmp_path / "mirror", (node_,), tarball=tarball)
    lock = document(list(nodes.values()))
    lock["roots"] = [{"hash": one["hash"], "spec": name} for name, one in nodes.items()]
    project.stack(lock)
    argv = ["image.layers", "--to", str(to), "--from", str(tmp_path / "mirror"), "--unsigned"]
    said = stackyard(*argv).err
    tree = {"install_tree": {"padded_length": expected}} if expected else {}
    assert _config(to) == {"suppress_gpg_warnings": True, **tree}
    told = "binaries are padded in several ways: "
    assert (told in said) == (lengths[0] != lengths[1])


def test_a_mirror_of_layout_2(stackyard: Stackyard, project: Project, to: Path) -> None:
    """The image's mirror is of the layout that the binaries have, and whole."""
    source = DATA / "mirrors" / "v2-unsigned"
    stack_of_layout_2(project)
    argv = ["image.layers", "--to", str(to), "--from", str(source), "--unsigned"]
    assert "5 binaries, " in stackyard(*argv).err
    files = {name.removeprefix("mirror/"): data for name, data in merged(to).items()}
    ours = {name: data for name, data in files.items() if name.startswith("build_cache/")}
    assert not {name for name in files if name.startswith(("v3/", "blobs/"))}
    theirs = {path.relative_to(source).as_posix(): path.read_bytes() for path in _files(source)}
    named = {name for name in theirs if name.endswith((".spack", ".spec.json"))}
    assert ours.keys() - named == {"build_cache/index.json", "build_cache/index.json.hash"}
    assert {name: theirs[name] for name in named} == {name: ours[name] for name in named}
    assert [len(list((to / f"{number:02}").rglob("*.spack"))) for number in range(6)] == [
        *[1] * 5,
        0,
    ]
    stackyard("mirror.verify", "--url", str(to / ".mirror"), "--unsigned")


def stack_of_layout_2(project: Project) -> None:
    """Of the lock of Spack 0.23, what the mirror of layout 2 has: all but GCC's libraries."""
    lock = json.loads((DATA / "v2.spack.lock").read_bytes())
    lock["concrete_specs"] = {
        key: one for key, one in lock["concrete_specs"].items() if one["name"] != "gcc-runtime"
    }
    for one in lock["concrete_specs"].values():
        if edges := one.get("dependencies"):
            one["dependencies"] = [edge for edge in edges if edge["name"] != "gcc-runtime"]
    project.stack(lock)


def test_the_tests_of_the_project_win(lay: Lay, project: Project, to: Path) -> None:
    project.write("docker/test/own-test.sh", "#!/bin/bash\ntrue\n")
    lay()
    path = to / "last" / "tutorial" / ".test" / "own-test.sh"
    assert [one.name for one in path.parent.iterdir()] == ["own-test.sh"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


MIXED = [
    node("x"),
    node("gcc", arch={"platform": "linux", "platform_os": "d", "target": "aarch64"}, **EXTERNAL),
    node("z", ["gcc"], arch={"platform": "linux", "platform_os": "d", "target": "aarch64"}),
]


@pytest.mark.parametrize(
    ("flags", "code", "problem"),
    [
        (("--most", "41"), 2, "'41' is no number of layers"),
        (("--most", "0"), 2, "hint: 1 to 40"),
        (("--platform", "linux/riscv64"), 2, "no roots for riscv64, only for amd64"),
        (("--created", "yesterday"), 2, "'yesterday' is no time"),
        (("--stack", "nobody"), 2, "nobody"),
    ],
)
def test_what_is_refused(lay: Lay, flags: tuple[str, ...], code: int, problem: str) -> None:
    assert problem in lay(*flags, code=code)


def test_each_platform_has_its_own_binaries(
    stackyard: Stackyard, project: Project, to: Path, tmp_path: Path
) -> None:
    nodes = [dict(one) for one in MIXED]
    project.stack(document(nodes))
    (tmp_path / "empty").mkdir()
    for platform, name in (("linux/arm64/v8", "z"), ("amd64", "x")):
        argv = ["--to", str(to), "--from", str(tmp_path / "empty"), "--platform", platform]
        said = stackyard("image.layers", *argv, "--unsigned", code=6).err
        assert f"1 of 1 binaries are missing:\n  {name}@1.0" in said
    argv = ["--to", str(to), "--platform", "linux/amd64,linux/arm64", "--unsigned"]
    assert "layers are of one platform" in stackyard("image.layers", *argv, code=2).err


def test_a_folder_has_to_be_named(stackyard: Stackyard, project: Project) -> None:
    project.stack(TINY)
    assert "hint: add --to DIR" in stackyard("image.layers", code=2).err
    assert parse_lock(TINY, "").roots
