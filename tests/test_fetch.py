"""``fetch``: what is wanted, what is planned, and what lies in the folder afterwards."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import DATA, Project, Stackyard
from fake_registry import fake_registry
from locks import EXTERNAL, document, key, lock, node
from mirror_server import MirrorServer, Reply, mirror_server
from registry_data import fill

from stackyard.binary import Binary, Blob, Metadata, parse_binary, parse_metadata
from stackyard.edges.mirrors.destination import EPOCH_S, Destination, open_destination
from stackyard.edges.mirrors.indexing import check_index, read_index
from stackyard.edges.mirrors.layouts import find_binaries, layouts_of
from stackyard.edges.stores.folder import FileStore
from stackyard.edges.stores.store import ForbiddenError
from stackyard.edges.stores.web import HttpStore
from stackyard.errors import ConfigError, CorruptError, StoreError
from stackyard.fetch import (
    DEVELOP,
    Missing,
    check_metadata,
    dependency_types,
    make_plan,
    size_text,
    wanted_specs,
)
from stackyard.lock import parse_lock
from stackyard.mirror import INDEX_MANIFEST, LAYOUT_MARKER

MIRRORS = DATA / "mirrors"
TINY = DATA / "tiny.spack.lock"
V2 = DATA / "v2.spack.lock"
needs_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")

# What is wanted, and the plan.


def names(wanted: Any) -> list[str]:
    return sorted(spec.name for spec in wanted.specs)


CHAIN = lock(
    [
        node("os", **EXTERNAL),
        node("tool", ["os"]),
        node("deep", ["os"]),
        node(
            "lib",
            dependencies=[
                {"name": n, "hash": key(n), "parameters": {"deptypes": types, "virtuals": []}}
                for n, types in (("tool", ["build"]), ("deep", ["link", "run"]))
            ],
        ),
        node("app", ["lib"]),
        node("mine", ["lib"], parameters={"dev_path": "/home/me/mine"}),
    ],
    roots=["app", "mine"],
)
ROOTS = [root.hash for root in CHAIN.roots]


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (("build", "link", "run", "test"), ["app", "deep", "lib", "tool"]),
        (("link", "run"), ["app", "deep", "lib"]),
        (("run",), ["app"]),
        ((), ["app"]),
    ],
)
def test_what_is_wanted(types: tuple[str, ...], expected: list[str]) -> None:
    wanted = wanted_specs(CHAIN, ROOTS, types)
    assert names(wanted) == expected
    assert [(one.spec.name, one.reason) for one in wanted.develop] == [("mine", DEVELOP)]
    assert wanted.total == len(expected) + 1


def test_types_of_dependencies() -> None:
    assert dependency_types("link, run", "--only") == {"link", "run"}
    with pytest.raises(ConfigError, match="'lnk' is no type of dependency") as caught:
        dependency_types("run,lnk", "--only")
    assert caught.value.where == "--only"


def binary(name: str, *, tarball: str = "", size: int | None = 10) -> Binary:
    def blob(text: str, size: int | None) -> Blob:
        digest = hashlib.sha256(text.encode()).hexdigest()
        return Blob(f"blobs/sha256/{digest[:2]}/{digest}", size, digest)

    tar = blob(tarball or f"tarball of {name}", size)
    return Binary(key(name), 3, f"m/{name}", b"{}", False, tar, blob(f"spec of {name}", 5))


def test_a_plan() -> None:
    a, b, c, d = (
        binary("a"),
        binary("b", tarball="shared"),
        binary("c", tarball="shared"),
        binary("d", size=300),
    )
    right = {a.key, *(blob.key for blob in a.blobs), b.blobs[1].key, d.key}
    missing = Missing(CHAIN.specs[key("app")], "")
    plan = make_plan("file:///m", [a, b, c, d], [missing], right)
    assert plan.here == (a,)
    assert [(one.tarball, one.here, one.binaries) for one in plan.deliveries] == [
        (d.tarball, False, (d,)),
        (b.tarball, False, (b, c)),
    ]
    assert plan.size_bytes == 300 + 5 + 10 + 5
    assert plan.new == (d, b, c)
    assert str(plan) == "3 of 5 to fetch, 320 bytes, 1 already here, 1 missing: file:///m"
    assert make_plan("", [binary("a", size=None)], [], ()).size_bytes is None


def test_a_tarball_that_is_here_is_not_brought() -> None:
    a = binary("a")
    plan = make_plan("", [a], [], {a.tarball.key})
    assert [one.here for one in plan.deliveries] == [True]
    assert plan.size_bytes == 5


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (1_400_000_000, "1.4 GB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_sizes(size: float, text: str) -> None:
    assert size_text(size) == text


def tiny_metadata(mirror: str = "v3-unsigned") -> tuple[Metadata, Binary]:
    lock = parse_lock(TINY.read_bytes(), "tiny")
    spec = next(spec for spec in lock.specs.values() if spec.name == "tiny-app")
    nodes = [spec.node, *(lock.specs[child].node for child in spec.children)]
    return Metadata(nodes, 5), binary("x")._replace(hash=spec.hash)


def test_metadata_of_the_spec_itself() -> None:
    metadata, right = tiny_metadata()
    check_metadata(metadata, right, "here")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"hash": key("other")}, "it is the binary of another spec, tiny-app@1.1/otherot"),
        ({"version": "1.2"}, "the spec is not what its hash says"),
        ({"name": "../../x"}, "cannot be a package name"),
        ({"arch": None}, "the node has not the shape"),
    ],
)
def test_metadata_of_something_else(change: Mapping[str, Any], problem: str) -> None:
    metadata, right = tiny_metadata()
    changed = metadata._replace(nodes=[{**metadata.nodes[0], **change}, *metadata.nodes[1:]])
    with pytest.raises(CorruptError, match=problem) as caught:
        check_metadata(changed, right, "here")
    assert caught.value.where == "here"


# The command.


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A copy of the unsigned mirror of the tiny stack, with seven binaries."""
    return Path(shutil.copytree(MIRRORS / "v3-unsigned", tmp_path / "mirror"))


@pytest.fixture
def served(mirror: Path) -> Iterator[MirrorServer]:
    with mirror_server(mirror) as server:
        yield server


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "into"


Fetch = Callable[..., str]


@pytest.fixture
def fetch(stackyard: Stackyard, into: Path, hurried: None) -> Fetch:
    """Runs ``stackyard fetch`` with the tiny lock; what it said."""

    def run(
        source: object = "", *flags: str, lock: Path = TINY, to: object = into, code: int = 0
    ) -> str:
        named = ["--from", str(source)] if source else []
        answer = stackyard("fetch", "--lock", str(lock), "--to", str(to), *named, *flags, code=code)
        assert answer.out == ""
        return answer.err

    return run


def of_app(folder: Path) -> tuple[Path, Path, Path]:
    """Manifest, tarball and spec blob of one binary in a folder."""
    manifest = next(folder.rglob("tiny-app*.spec.manifest.json"))
    found = parse_binary(manifest.read_bytes(), "", "", "")
    assert found.spec
    return manifest, folder / found.tarball.key, folder / found.spec.key


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def shape(folder: Path) -> list[tuple[str, int, int]]:
    """Name, mode and time of all there is, the folder itself included."""
    return [
        (
            str(path.relative_to(folder)),
            stat.S_IMODE(path.stat().st_mode),
            int(path.stat().st_mtime),
        )
        for path in (folder, *sorted(folder.rglob("*")))
    ]


def indexed(folder: Path) -> set[str]:
    """The binaries that the folder's index names; it says what is there."""
    assert not check_index(FileStore(folder)).stale
    view = read_index(FileStore(folder))
    assert view
    return {dag_hash for dag_hash, _, present in view.nodes() if present}


def built(path: Path) -> set[str]:
    return {
        spec.hash for spec in parse_lock(path.read_bytes(), "").specs.values() if not spec.external
    }


def test_the_folder_is_a_mirror(fetch: Fetch, mirror: Path, into: Path) -> None:
    said = fetch(mirror, "--unsigned")
    assert said.splitlines()[-1].startswith("0 of 7 already here, 7 fetched, 27.9 kB in ")
    theirs, ours = tree(mirror), tree(into)
    index = {name for name in theirs if theirs[name].startswith(b'{"database"')} | {INDEX_MANIFEST}
    assert {name: data for name, data in ours.items() if name in theirs.keys() - index} == {
        name: data for name, data in theirs.items() if name not in index
    }
    assert ours.keys() - theirs.keys() == {
        name for name in ours if ours[name][:11] == b'{"database"'
    }
    assert indexed(into) == built(TINY)


def test_modes_and_times_are_always_the_same(fetch: Fetch, mirror: Path, tmp_path: Path) -> None:
    tars = []
    for number, mask in enumerate((0o022, 0o077, 0o002)):
        folder = tmp_path / str(number)
        old = os.umask(mask)
        try:
            fetch(mirror, "--unsigned", to=folder)
        finally:
            os.umask(old)
        assert {mode for _, mode, _ in shape(folder)} == {0o755, 0o644}
        assert {time for _, _, time in shape(folder)} == {EPOCH_S}
        tars.append(tar_of(folder))
    assert tars[0] == tars[1] == tars[2]


def tar_of(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(folder, arcname=".")
    return buffer.getvalue()


def test_a_folder_that_was_there_keeps_its_mode(fetch: Fetch, mirror: Path, into: Path) -> None:
    into.mkdir(mode=0o700)
    (into / "README").write_text("mine")
    (into / "README").chmod(0o600)
    fetch(mirror, "--unsigned")
    assert stat.S_IMODE(into.stat().st_mode) == 0o700
    assert stat.S_IMODE((into / "README").stat().st_mode) == 0o600
    assert (into / "README").stat().st_mtime > EPOCH_S


def test_nothing_is_fetched_twice(fetch: Fetch, served: MirrorServer, into: Path) -> None:
    fetch(served.url, "--unsigned")
    blobs = [path for _, path in served.requests if "/blobs/" in path]
    assert len(blobs) == len(set(blobs)) == 14
    before = {path: path.stat().st_ctime_ns for path in into.rglob("*.spec.manifest.json")}
    served.requests.clear()
    assert "7 of 7 already here, 0 fetched, 0 bytes in " in fetch(served.url, "--unsigned")
    assert [path for _, path in served.requests if "/blobs/" in path] == []
    assert {path: path.stat().st_ctime_ns for path in before} == before


def test_a_broken_transfer_is_continued(fetch: Fetch, served: MirrorServer, into: Path) -> None:
    """By range, from what lies there unfinished; a damaged beginning is noticed."""
    _, tarball, _ = of_app(served.root)
    work = into / ".stackyard"
    work.mkdir(parents=True)
    (work / f"{tarball.name}.part").write_bytes(tarball.read_bytes()[:1000])
    (work / f"{'0' * 64}.part").write_bytes(b"of another lock")
    fetch(served.url, "--unsigned")
    ranges = [
        headers["Range"]
        for (_, path), headers in zip(served.requests, served.headers, strict=True)
        if "Range" in headers and path.endswith(tarball.name)
    ]
    assert ranges == ["bytes=1000-"]
    assert not work.exists()
    assert indexed(into) == built(TINY)


def test_what_is_wrong_here_is_replaced(fetch: Fetch, mirror: Path, into: Path) -> None:
    fetch(mirror, "--unsigned")
    fresh = tree(into)
    manifest, tarball, spec = of_app(into)
    tarball.write_bytes(b"x" * tarball.stat().st_size)
    spec.unlink()
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    said = fetch(mirror, "--unsigned")
    assert "warning: 2 files here are not those of the mirror and are replaced: " in said
    assert tarball.name in said
    assert manifest.name in said
    assert "6 of 7 already here, 1 fetched" in said
    assert tree(into) == fresh


def test_a_damaged_binary_is_none_even_if_the_mirror_fails(
    fetch: Fetch, mirror: Path, into: Path
) -> None:
    fetch(mirror, "--unsigned")
    manifest, tarball, _ = of_app(into)
    tarball.write_bytes(b"damaged")
    (mirror / tarball.relative_to(into)).unlink()
    assert "the mirror has the manifest without it" in fetch(mirror, "--unsigned", code=6)
    assert not manifest.exists()


def test_other_binaries_stay(fetch: Fetch, mirror: Path, into: Path) -> None:
    fetch(mirror, "--unsigned", "--roots-only")
    roots = indexed(into)
    assert len(roots) == 3
    fetch(mirror, "--unsigned", "--only", "link,run")
    more = indexed(into)
    assert roots < more
    fetch(mirror, "--unsigned", "--roots-only")
    assert indexed(into) == more
    blobs = [data for name, data in tree(into).items() if data.startswith(b'{"database"')]
    assert len(blobs) == 1


def test_what_was_here_and_is_wrong_is_not_in_the_index(
    fetch: Fetch, mirror: Path, into: Path
) -> None:
    fetch(mirror, "--unsigned")
    tool = next(into.rglob("tiny-tool*.spec.manifest.json"))
    tool.write_bytes(of_app(into)[0].read_bytes())
    said = fetch(mirror, "--unsigned", "--roots-only")
    assert f"warning: file://{tool}: not in the index: it is the binary of another spec" in said
    view = read_index(FileStore(into))
    assert view
    named = {dag_hash for dag_hash, _, present in view.nodes() if present}
    assert built(TINY) - named == {spec_name(tool).rpartition("-")[2]}


def test_layout_2_stays_layout_2(fetch: Fetch, into: Path) -> None:
    source = MIRRORS / "v2-unsigned"
    said = fetch(source, "--unsigned", lock=V2, code=6)
    assert "1 of 6 binaries are missing:\n  gcc-runtime@12.2.0/bwhvedy\n" in said
    assert not into.exists()
    said = fetch(source, "--unsigned", "--allow-missing", lock=V2)
    assert "warning: " in said
    assert "0 of 6 already here, 5 fetched, 1 missing, " in said
    theirs, ours = tree(source), tree(into)
    assert theirs.keys() == ours.keys()
    named = {"build_cache/index.json", "build_cache/index.json.hash"}
    assert {n: d for n, d in ours.items() if n not in named} == {
        n: d for n, d in theirs.items() if n not in named
    }
    data = ours["build_cache/index.json"]
    assert json.loads(data) == json.loads(theirs["build_cache/index.json"])
    assert ours["build_cache/index.json.hash"] == hashlib.sha256(data).hexdigest().encode()
    assert "5 of 6 already here, 0 fetched" in fetch(
        source, "--unsigned", "--allow-missing", lock=V2
    )


def test_layout_2_with_another_tarball(fetch: Fetch, tmp_path: Path, into: Path) -> None:
    """It lies where the old one was, so both manifests of the old one have to go first."""
    fetch(MIRRORS / "v2-unsigned", "--unsigned", "--allow-missing", lock=V2)
    tarball = next(into.rglob("*tiny-app*.spack"))
    signed = next(into.rglob("*tiny-app*.spec.json"))
    signed.with_name(signed.name + ".sig").write_bytes(signed.read_bytes())
    tarball.write_bytes(b"another")
    said = fetch(MIRRORS / "v2-unsigned", "--unsigned", "--allow-missing", lock=V2)
    assert "4 of 6 already here, 1 fetched" in said
    assert not signed.with_name(signed.name + ".sig").exists()
    assert (
        tarball.read_bytes() == (MIRRORS / "v2-unsigned" / tarball.relative_to(into)).read_bytes()
    )


def test_layout_2_names_no_tarball_that_lies_there_no_more(
    fetch: Fetch, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is killed between tarball and manifest leaves no old manifest beside a new tarball."""
    fetch(MIRRORS / "v2-unsigned", "--unsigned", "--allow-missing", lock=V2)
    manifest = next(into.rglob("*tiny-app*.spec.json"))
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    next(into.rglob("*tiny-app*.spack")).write_bytes(b"another")

    def ended(self: Destination, binary: Binary) -> None:
        raise StoreError("here it ends")

    with monkeypatch.context() as patch:
        patch.setattr(Destination, "show", ended)
        fetch(MIRRORS / "v2-unsigned", "--unsigned", "--allow-missing", lock=V2, code=6)
    assert not manifest.exists()
    fetch(MIRRORS / "v2-unsigned", "--unsigned", "--allow-missing", lock=V2)
    theirs = MIRRORS / "v2-unsigned" / manifest.relative_to(into)
    assert manifest.read_bytes() == theirs.read_bytes()


def test_what_names_a_file_comes_after_it(
    fetch: Fetch, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blobs, then the manifest; the index once all of them are there."""
    moved: list[str] = []
    adopt, write = FileStore.adopt, FileStore.write

    def adopted(store: FileStore, key: str, path: Path) -> None:
        adopt(store, key, path)
        moved.append(key)

    def written(store: FileStore, key: str, data: bytes) -> None:
        write(store, key, data)
        moved.append(key)

    monkeypatch.setattr(FileStore, "adopt", adopted)
    monkeypatch.setattr(FileStore, "write", written)
    fetch(mirror, "--unsigned")
    manifests = [name for name in moved if name.endswith(".spec.manifest.json")]
    assert len(manifests) == 7
    for name in manifests:
        for blob in parse_binary((mirror / name).read_bytes(), name, "", "").blobs:
            assert moved.index(blob.key) < moved.index(name)
        assert moved.index(name) < moved.index(INDEX_MANIFEST)
    assert moved[-1] == INDEX_MANIFEST


def test_all_that_is_missing_is_named(fetch: Fetch, mirror: Path, into: Path) -> None:
    for path in mirror.rglob("tiny-data*.spec.manifest.json"):
        path.unlink()
    said = fetch(mirror, "--unsigned", code=6)
    assert "2 of 7 binaries are missing:\n  tiny-data@1.1/" in said
    assert said.count("\n  tiny-data@1.1/") == 2
    assert "--allow-missing" in said
    assert not into.exists()
    said = fetch(mirror, "--unsigned", "--allow-missing")
    assert "0 of 7 already here, 5 fetched, 2 missing, " in said
    assert len(indexed(into)) == 5


def test_where_nothing_is_there_the_mirror_may_be_another(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = fetch(tmp_path / "empty", code=6)
    assert "7 of 7 binaries are missing" in said
    assert "is it the right mirror, and the right lock?" in said


def test_where_403_means_missing(fetch: Fetch, served: MirrorServer, into: Path) -> None:
    """S3 says so of what is not there, where not everybody may list the bucket."""
    served.missing = 403
    assert "7 fetched" in fetch(served.url, "--unsigned")
    shutil.rmtree(into)
    for path in served.root.rglob("tiny-data*.spec.manifest.json"):
        path.unlink()
    assert "2 of 7 binaries are missing" in fetch(served.url, "--unsigned", code=6)
    assert "5 fetched, 2 missing" in fetch(served.url, "--unsigned", "--allow-missing")


def test_where_403_means_denied(fetch: Fetch, served: MirrorServer, into: Path) -> None:
    """What is not there is 404 elsewhere on the same mirror, or nothing of it can be read."""
    manifest, _, _ = of_app(served.root)
    path = f"/{manifest.relative_to(served.root)}"
    for denied in (path, "/build_cache/index.json"):
        served.script = {denied: [Reply(403)]}
        if denied != path:
            served.script["/v3/layout.json"] = [Reply(404)]
        said = fetch(served.url, "--unsigned", "--allow-missing", code=6)
        assert f"{denied}: the server denies it (403)" in said
    served.script, served.missing = {}, 403
    shutil.rmtree(served.root / "v3")
    assert "the server denies it (403)" in fetch(served.url, "--unsigned", code=6)
    assert not into.exists()
    store, specs = HttpStore(served.url), parse_lock(TINY.read_bytes(), "").specs
    with pytest.raises(ForbiddenError):
        layouts_of(store)
    with pytest.raises(ForbiddenError):
        find_binaries(store, list(specs.values()), specs=specs, layouts=(3,))
    store.close()


# Where from, and what.


def test_the_source(  # noqa: PLR0917
    fetch: Fetch,
    stackyard: Stackyard,
    project: Project,
    mirror: Path,
    into: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sources(*flags: str) -> str:
        shutil.rmtree(into, ignore_errors=True)
        said = stackyard("fetch", "--stack", "demo", "--to", str(into), *flags).err
        return said.splitlines()[0].removeprefix("looking for 7 binaries on ")

    project.stack(TINY.read_bytes(), mirror=f"file://{mirror}")
    assert sources() == f"file://{mirror}"
    other = f"file://{MIRRORS}/v3-unsigned"
    mirrors = {
        "source": {"url": "https://example.com", "binary": False},
        "first": {"url": other, "signed": False},
        "second": {"url": f"file://{mirror}", "signed": False},
    }
    project.stack(TINY.read_bytes(), mirrors=mirrors)
    assert sources() == other
    assert sources("--from", "second") == f"file://{mirror}"
    monkeypatch.setenv("REMOTE_BUILDCACHE_URL", f"file://{mirror}")
    assert sources() == f"file://{mirror}"
    assert sources("--from", other) == other


def test_a_lock_alone(fetch: Fetch, mirror: Path, into: Path, tmp_path: Path) -> None:
    """No project is needed where the lock and the mirror are named."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        fetch(f"file://{mirror}", "--unsigned", to="relative")
    assert indexed(tmp_path / "relative") == built(TINY)


@pytest.mark.parametrize(
    ("flags", "where", "problem"),
    [
        (["--from", "/m"], "--to", "no folder is named"),
        (["--to", "s3://bucket/x", "--from", "/m"], "--to", "a folder of this machine"),
        (["--to", "x"], "--from", "no mirror to fetch from"),
        (["--to", "x", "--from", "/m", "--only", "lnk"], "--only", "'lnk' is no type"),
        (["--to", "x", "--from", "/m", "--only", "run", "--roots-only"], "--only", "have no depen"),
    ],
)
def test_what_makes_no_sense(
    stackyard: Stackyard, tmp_path: Path, flags: list[str], where: str, problem: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        said = stackyard("fetch", "--lock", str(TINY), *flags, code=2).err
    assert f"error: {where}: " in said
    assert problem in said
    assert list(tmp_path.iterdir()) == []


def test_nobody_fetches_into_the_source(
    fetch: Fetch, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    before = tree(mirror)
    (tmp_path / "link").symlink_to(mirror)
    for to in (tmp_path / "link", "~/mirror"):
        assert "into itself" in fetch(mirror, "--unsigned", to=to, code=2)
    assert tree(mirror) == before


def test_nothing_but_externals(fetch: Fetch, project: Project, mirror: Path, into: Path) -> None:
    path = project.write("only.lock", document([node("os", **EXTERNAL)]))
    said = fetch(mirror, "--unsigned", lock=path)
    assert "0 of 0 already here, 0 fetched" in said
    assert indexed(into) == set()
    assert (into / LAYOUT_MARKER).is_file()


def test_develop_specs_are_on_no_mirror(fetch: Fetch, project: Project, mirror: Path) -> None:
    mine = node("mine", parameters={"dev_path": "/home/me"})
    path = project.write("dev.lock", document([mine]))
    said = fetch(mirror, lock=path, code=6)
    assert f"1 of 1 binaries are missing:\n  mine@1.0/minemin: {DEVELOP}\n" in said


# Other layouts.


def test_a_registry_becomes_layout_3(fetch: Fetch, into: Path) -> None:
    with fake_registry() as registry:
        fill(registry.repository("org/tiny"))
        said = fetch(registry.mirror("org/tiny"))
        assert "0 of 7 already here, 7 fetched" in said
        pulled = [asked.path for asked in registry.asked if "/blobs/" in asked.path]
        assert len(pulled) == len(set(pulled)) == 14
        fresh = tree(into)
        assert "7 of 7 already here, 0 fetched" in fetch(registry.mirror("org/tiny"))
    assert tree(into) == fresh
    assert indexed(into) == built(TINY)
    manifest, _, spec = of_app(into)
    assert b"PGP" not in manifest.read_bytes()
    assert parse_metadata(spec.read_bytes(), "").hash in spec_name(manifest)


def test_an_image_of_another_spec(fetch: Fetch, into: Path) -> None:
    """It spoils nothing that was fetched before, not even of the spec that it pretends to be."""
    with fake_registry() as registry:
        repository = registry.repository("org/tiny")
        fill(repository)
        fetch(registry.mirror("org/tiny"))
        fresh = tree(into)
        app, tool = (
            next(tag for tag in repository.tags if tag.startswith(name))
            for name in ("tiny-app", "tiny-tool")
        )
        repository.tags[app] = repository.tags[tool]
        said = fetch(registry.mirror("org/tiny"), code=6)
    assert "1 binary is refused:\n  tiny-app@1.1/" in said
    assert "it is the binary of another spec, tiny-tool@1.1/" in said
    assert {name: data for name, data in tree(into).items() if ".stackyard/" not in name} == fresh


def spec_name(manifest: Path) -> str:
    return manifest.name.removesuffix(".spec.manifest.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../../../x"),
        ("name", "/etc/x"),
        ("name", "x\0"),
        ("version", "1.0/../../../../x"),
        ("version", "9" * 300),
        ("arch", {"platform": "../../..", "platform_os": "x", "target": "x"}),
        ("arch", {"platform": "linux", "platform_os": "x\n", "target": "x"}),
        ("compiler", {"name": "../..", "version": "/"}),
        ("compiler", {"name": ["gcc"], "version": None}),
    ],
)
def test_hostile_names(fetch: Fetch, tmp_path: Path, into: Path, field: str, value: object) -> None:
    """Layout 2 makes paths of what metadata say."""
    mirror = Path(shutil.copytree(MIRRORS / "v2-unsigned", tmp_path / "v2"))
    metadata = next(mirror.rglob("*tiny-app*.spec.json"))
    document = json.loads(metadata.read_bytes())
    document["spec"]["nodes"][0][field] = value
    metadata.write_text(json.dumps(document))
    fetch(mirror, "--unsigned", "--allow-missing", lock=V2, code=6)
    assert not into.exists() or not [key for key in tree(into) if "tiny-app" in key]


def test_a_name_that_no_file_can_have(fetch: Fetch, project: Project, mirror: Path) -> None:
    path = project.write("long.lock", document([node("a" * 300)]))
    assert "cannot be the path of a file" in fetch(mirror, "--unsigned", lock=path, code=6)


def test_passwords_are_not_said(fetch: Fetch, into: Path) -> None:
    said = fetch("http://me:very-secret@127.0.0.1:9/m", "--unsigned", code=6)
    assert "http://127.0.0.1:9/m" in said
    assert "very-secret" not in said
    assert not into.exists()


# Targets that cannot be.


def test_a_file_where_the_folder_should_be(fetch: Fetch, mirror: Path, into: Path) -> None:
    into.write_bytes(b"mine")
    for to in (into, into / "below"):
        assert "a file stands where a folder should be" in fetch(
            mirror, "--unsigned", to=to, code=6
        )
    assert into.read_bytes() == b"mine"


@needs_user
def test_a_folder_that_we_may_not_write(fetch: Fetch, mirror: Path, into: Path) -> None:
    into.mkdir(mode=0o555)
    assert "we may not write it" in fetch(mirror, "--unsigned", code=6)
    assert "we may not write it" in fetch(mirror, "--unsigned", to=into / "below", code=6)
    assert list(into.iterdir()) == []


@pytest.mark.parametrize("to", ["/sys/kernel", "/sys/stackyard/mirror"])
def test_a_file_system_that_nobody_may_write(fetch: Fetch, mirror: Path, to: str) -> None:
    assert "we may not write it" in fetch(mirror, "--unsigned", to=to, code=6)


@pytest.mark.parametrize("link", ["v3", "blobs", "blobs/sha256", "build_cache", ".stackyard"])
def test_links_that_lead_outside(
    fetch: Fetch, mirror: Path, into: Path, tmp_path: Path, link: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o711)
    (outside / "fetch.lock").write_bytes(b"mine")
    (into / link).parent.mkdir(parents=True)
    (into / link).symlink_to(outside)
    assert "symbolic link" in fetch(mirror, "--unsigned", code=6)
    assert tree(outside) == {"fetch.lock": b"mine"}
    assert stat.S_IMODE(outside.stat().st_mode) == 0o711


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_link_in_place_of_a_file(
    fetch: Fetch, mirror: Path, into: Path, tmp_path: Path, number: int
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    fetch(mirror, "--unsigned")
    file = of_app(into)[number]
    file.unlink()
    file.symlink_to(outside)
    assert "symbolic link" in fetch(mirror, "--unsigned", code=6)
    assert outside.read_bytes() == b"mine"


def test_a_link_in_place_of_what_is_unfinished(
    fetch: Fetch, mirror: Path, into: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    manifest, _, spec = of_app(mirror)
    dag_hash = spec_name(manifest).rpartition("-")[2]
    for name in (f"{dag_hash}.manifest.part", f"{spec.name}.part", "fetch.lock"):
        for target in (outside, tmp_path / "nothing"):
            (into / ".stackyard").mkdir(parents=True)
            (into / ".stackyard" / name).symlink_to(target)
            said = fetch(mirror, "--unsigned", code=6)
            assert "it cannot be written: Too many levels of symbolic links" in said
            shutil.rmtree(into)
    assert outside.read_bytes() == b"mine"
    assert not (tmp_path / "nothing").exists()


COMMAND = [sys.executable, "-c", "from stackyard.main import main; main()"]


def test_a_full_disk(mirror: Path, into: Path) -> None:
    """A limit for the size of files stands in for it: nothing half written is to be seen."""
    argv = [*COMMAND, "fetch", "--unsigned", "--lock", str(TINY), "--from", str(mirror), "--to"]
    done = subprocess.run(
        [*argv, str(into)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500)),
    )
    assert done.returncode == 6, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    for name, data in tree(into).items():
        if not name.startswith(".stackyard/"):
            assert data == (mirror / name).read_bytes()
    subprocess.run([*argv, str(into)], check=True, capture_output=True)
    assert indexed(into) == built(TINY)


def test_a_disk_with_too_little_room(
    fetch: Fetch, mirror: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = os.statvfs_result((4096, 4096, 100, 2, 2, 100, 10, 10, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    said = fetch(mirror, "--unsigned", code=6)
    assert "27.9 kB are to come, and the disk has room for 8.2 kB" in said
    assert not into.exists()


# Two at once.


def test_three_at_once(served: MirrorServer, into: Path) -> None:
    """One brings it, the others find all there."""
    served.latency_s = 0.05
    argv = [*COMMAND, "fetch", "--unsigned", "--lock", str(TINY), "--from", served.url, "--to"]
    runs = [
        subprocess.Popen([*argv, str(into)], stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    assert min(text.splitlines()[-1].partition(", 27.9 kB")[0] for text in said) == (
        "0 of 7 already here, 7 fetched"
    )
    assert sum("7 of 7 already here, 0 fetched" in text for text in said) == 2
    assert len([path for _, path in served.requests if "/blobs/" in path]) == 14
    assert not (into / ".stackyard").exists()
    assert {time for _, _, time in shape(into)} == {EPOCH_S}
    assert indexed(into) == built(TINY)


def test_the_second_says_that_it_waits(mirror: Path, into: Path) -> None:
    argv = [*COMMAND, "fetch", "--unsigned", "--lock", str(TINY), "--from", str(mirror), "--to"]
    with open_destination(str(into)):
        run = subprocess.Popen([*argv, str(into)], stderr=subprocess.PIPE, text=True)
        assert run.stderr
        lines = [run.stderr.readline() for _ in range(2)]
        assert lines[1] == "waiting for another fetch into the same folder\n"
        assert not (into / "v3").exists()
    assert "7 fetched" in run.communicate()[1]


def test_a_folder_that_vanishes_is_locked_again(tmp_path: Path) -> None:
    """Who has it removes it, and who waited locks the one that is there now."""
    for _ in range(3):
        with open_destination(str(tmp_path / "x")) as destination:
            assert (destination.store.root / ".stackyard" / "fetch.lock").is_file()
        assert not (tmp_path / "x").exists()


def test_nobody_works_on_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), open_destination(str(tmp_path / "x")) as destination:
        raise KeyError
    with pytest.raises(Exception, match="the fetch was given up"), destination.working():
        pass
