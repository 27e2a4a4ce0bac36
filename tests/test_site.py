"""``invoke site``: what a run reads and writes, what a stopped one leaves, and on which mirrors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mirrors
import pytest
from conftest import DATA, ROOT, Stackyard
from fake_registry import fake_registry
from mirror_server import Reply, mirror_server
from registry_data import fill as fill_registry
from services import S3Server
from site_data import (
    BINARIES,
    DAY,
    HOSTILE,
    MARCH,
    NODES,
    Page,
    contents,
    fill,
    is_valid,
    shown,
    stamp,
)

from benchmarks.indexing import fill_mirror
from stackyard.edges import files as edge_files
from stackyard.edges.files import claimed
from stackyard.edges.mirrors.indexing import update_index
from stackyard.edges.stores.folder import FileStore
from stackyard.errors import UnreachableError
from stackyard.oci_notes import signed_manifest

GOLDEN = ROOT / "tests" / "golden" / "site"
REAL = DATA / "mirrors"


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return fill(tmp_path / "mirror")


@pytest.fixture
def run(stackyard: Stackyard, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Make a site in ``tmp_path / "site"``; gives what the task reports."""

    def run(url: object, *flags: str, to: str = "site", code: int = 0) -> dict[str, Any]:
        answer = stackyard(
            "site", "--url", str(url), "--to", str(tmp_path / to), "--json", *flags, code=code
        )
        report: dict[str, Any] = json.loads(answer.out)
        return report

    return run


Run = Callable[..., dict[str, Any]]


def package(folder: Path, name: str) -> Any:
    return json.loads((folder / "api" / "v1" / "packages" / f"{name}.json").read_bytes())


# ---- what is written ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["index.html", "packages/hdf5.html", "api/v1/packages/hdf5.json", "statistics.html"]
)
def test_golden(path: str, mirror: Path, run: Run, tmp_path: Path, request: Any) -> None:
    run(mirror, "--public", "https://cache.example.org/stack", "--title", "A stack")
    data = (tmp_path / "site" / path).read_bytes()
    golden = GOLDEN / path.replace("/", "-")
    if request.config.getoption("--update-golden"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_bytes(data)
    assert data == golden.read_bytes()


@pytest.mark.parametrize("name", ["v3-signed", "v3-unsigned", "v2-signed", "v2-unsigned"])
def test_real_mirrors(name: str, run: Run, tmp_path: Path) -> None:
    report = run(REAL / name)
    site = tmp_path / "site"
    index = json.loads((site / "api/v1/index.json").read_bytes())
    assert report["binaries"] == index["totals"]["binaries"] == len(list(site.rglob("*.spec.json")))
    assert index["totals"]["signed"] == (report["binaries"] if name.endswith("-signed") else 0)
    assert index["totals"]["size_bytes"] > 0
    for path in (site / "api" / "v1").rglob("*.json"):
        if path.name != "schema.json":
            assert is_valid(json.loads(path.read_bytes())), path
    for one in index["packages"]:
        folder = site / "api" / "v1"
        assert (folder / one["page"]).resolve().is_file()
        for binary in json.loads((folder / one["document"]).read_bytes())["binaries"]:
            sidecar = json.loads((folder / "packages" / binary["spec"]).resolve().read_bytes())
            first = sidecar["spec"]["nodes"][0]
            assert (first["hash"], first["name"]) == (binary["hash"], one["name"])
            assert sidecar["binary_cache_checksum"]["hash"] == binary["sha256"]
            assert binary["size_bytes"] > 0
            assert binary["added"] is not None


def test_metadata_for_old_clients_is_closed(run: Run, tmp_path: Path) -> None:
    """Every edge of every node leads to a node of the same file, as Spack wants it."""
    fill_mirror(tmp_path / "mirror", 231)  # all of the tutorial's stack
    run(tmp_path / "mirror")
    paths = list((tmp_path / "site" / "_cache").rglob("*.spec.json"))
    assert len(paths) == 231
    for path in paths:
        nodes = json.loads(path.read_bytes())["spec"]["nodes"]
        there = {node["hash"] for node in nodes}
        edges = [edge for node in nodes for edge in node.get("dependencies", ())]
        assert {edge["hash"] for edge in edges} <= there
        assert all(edge["type"] for edge in edges)


def test_an_old_client_finds_a_spec(run: Run, mirror: Path, tmp_path: Path) -> None:
    """As autamus' fork of Spack does: the dates, then the file name below each of them."""
    site = tmp_path / "site"
    run(mirror)
    node = NODES["hdf5"]
    name = f"linux-debian12-x86_64_v3-none-none-hdf5-1.0-{node['hash']}.spec.json"
    with mirror_server(site) as server:
        dates = json.loads((site / "manifest/dates/index.html").read_bytes())
        found = [
            site / f"{dates['url_prefix']}{folder}/{name}"
            for folder in dates["dates"]
            if (site / f"{dates['url_prefix']}{folder}/{name}").is_file()
        ]
        assert server.url
    assert len(found) == 1
    spec = json.loads(found[0].read_bytes())["spec"]
    assert [one["name"] for one in spec["nodes"]] == ["hdf5", "gcc", "zlib"]


def test_keys_lie_in_the_site(run: Run, tmp_path: Path) -> None:
    run(REAL / "v3-signed")
    site = tmp_path / "site"
    (key,) = (site / "keys").iterdir()
    assert key.read_bytes().startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----")
    assert key.stem in Page((site / "index.html").read_text()).text
    assert json.loads((site / "manifest/index.json").read_bytes())["keys"] == [f"keys/{key.name}"]


def test_recipes_tell_of_packages(mirror: Path, run: Run, tmp_path: Path) -> None:
    recipes = tmp_path / "recipes"
    for name in ("zlib", "hdf5"):
        folder = recipes / "repos" / "spack_repo" / "builtin" / "packages" / name
        folder.mkdir(parents=True)
        source = f"class X:\n    {HOSTILE!r}\n    homepage = 'https://{name}.example'\n"
        (folder / "package.py").write_text(source)
    run(mirror, "--packages", str(recipes))
    assert package(tmp_path / "site", "zlib")["description"] == HOSTILE
    page = Page((tmp_path / "site" / "packages" / "zlib.html").read_text())
    assert "https://zlib.example" in page.links
    assert page.tags.count("script") == 1


def test_a_folder_without_recipes_is_refused(
    mirror: Path, stackyard: Stackyard, tmp_path: Path
) -> None:
    answer = stackyard(
        "site", "--url", str(mirror), "--to", str(tmp_path / "s"), "--packages", str(tmp_path / "no"),
        code=2,
    )  # fmt: skip
    assert "no recipes are there" in answer.err


def test_recipes_come_from_one_place(mirror: Path, stackyard: Stackyard, tmp_path: Path) -> None:
    argv = ["site", "--url", str(mirror), "--to", str(tmp_path / "s")]
    answer = stackyard(*argv, "--packages", str(tmp_path), "--stack", "demo", code=2)
    assert "--packages, --stack: recipes come from one place" in answer.err
    assert not (tmp_path / "s").exists()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--to", ""], "no folder is named"),
        (["--to", "s", "--base", "javascript:alert(1)"], "--base"),
    ],
)
def test_arguments_are_checked(  # noqa: PLR0917
    flags: list[str], said: str, mirror: Path, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert said in stackyard("site", "--url", str(mirror), *flags, code=2).err


def test_what_is_no_mirror_is_said_so(stackyard: Stackyard, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    answer = stackyard(
        "site", "--url", str(tmp_path / "empty"), "--to", str(tmp_path / "site"), code=6
    )
    assert "there is no mirror" in answer.err


# ---- what changes ---------------------------------------------------------------------------------


def test_a_second_run_changes_nothing(mirror: Path, run: Run, tmp_path: Path) -> None:
    run(mirror)
    before = contents(tmp_path / "site")
    report = run(mirror)
    assert (report["read"], report["written"], report["removed"]) == (0, 0, 0)
    assert contents(tmp_path / "site") == before


def test_ten_new_binaries_cost_ten(run: Run, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    fill_mirror(mirror, 300)
    for path in mirror.rglob("*.spec.manifest.json"):
        stamp(path, MARCH)
    first = run(mirror)
    assert (first["read"], first["binaries"]) == (300, 300)
    idle = run(mirror)
    fill_mirror(mirror, 310, start=300)
    second = run(mirror)
    assert (second["read"], second["binaries"]) == (10, 310)
    assert second["requests"] - idle["requests"] == 20  # a manifest and a spec each
    # its metadata, its package and those that it depends on; and what tells of all
    assert second["written"] < 10 * (1 + 2 * 7) + 30
    assert run(mirror, to="fresh")["binaries"] == 310
    assert shown(tmp_path / "site") == shown(tmp_path / "fresh")


def test_what_is_gone_goes(mirror: Path, run: Run, tmp_path: Path) -> None:
    run(mirror)
    shutil.rmtree(mirror / "v3/manifests/spec/app")
    report = run(mirror)
    assert (report["gone"], report["read"]) == (1, 0)
    assert report["removed"] == 3  # page, document, metadata
    run(mirror, to="fresh")
    assert contents(tmp_path / "site") == contents(tmp_path / "fresh")
    assert package(tmp_path / "site", "hdf5")["dependents"] == []


def test_what_was_pushed_again_is_read_again(mirror: Path, run: Run, tmp_path: Path) -> None:
    run(mirror)
    (path,) = (mirror / "v3/manifests/spec/zlib").iterdir()
    stamp(path, MARCH + 90 * DAY)
    report = run(mirror)
    assert report["read"] == 1
    assert package(tmp_path / "site", "zlib")["binaries"][0]["added"] == "2024-05-30T00:00:00Z"
    run(mirror, to="fresh")
    assert shown(tmp_path / "site") == shown(tmp_path / "fresh")


def test_another_mirror_takes_the_place_of_the_first(
    mirror: Path, run: Run, tmp_path: Path
) -> None:
    run(REAL / "v3-signed")
    run(mirror)
    run(mirror, to="fresh")
    assert contents(tmp_path / "site") == contents(tmp_path / "fresh")


def test_full_reads_everything(mirror: Path, run: Run) -> None:
    run(mirror)
    report = run(mirror, "--full")
    assert (report["read"], report["written"]) == (len(BINARIES), 0)


def test_with_and_without_an_index_the_site_is_the_same(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    fill_mirror(mirror, 150)
    for path in mirror.rglob("*.spec.manifest.json"):
        stamp(path, MARCH)
    update_index(FileStore(str(mirror)))
    one_by_one = run(mirror)
    monkeypatch.setattr("stackyard.edges.mirrors.cataloguing._MANY", 1)
    at_once = run(mirror, to="indexed")
    assert at_once["requests"] < one_by_one["requests"] - 100
    assert contents(tmp_path / "site") == contents(tmp_path / "indexed")


# ---- what is in the way, and what stops ------------------------------------------------------------


def test_files_of_others_stay(mirror: Path, run: Run, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "CNAME").write_text("cache.example.org")
    run(mirror)
    (site / "packages" / "notes.txt").write_text("mine")
    shutil.rmtree(mirror / "v3/manifests/spec/app")
    run(mirror)
    assert (site / "CNAME").read_text() == "cache.example.org"
    assert (site / "packages" / "notes.txt").read_text() == "mine"


def test_the_site_of_somebody_else_is_not_written_over(
    mirror: Path, stackyard: Stackyard, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("mine")
    answer = stackyard("site", "--url", str(mirror), "--to", str(site), code=2)
    assert "there is something else: index.html" in answer.err
    assert (site / "index.html").read_text() == "mine"


@pytest.mark.parametrize("damage", ["{", "", '{"version":99}'])
def test_a_damaged_state_is_made_anew(damage: str, mirror: Path, run: Run, tmp_path: Path) -> None:
    run(mirror)
    before = contents(tmp_path / "site")
    (tmp_path / "site/api/v1/state.json").write_text(damage)
    assert run(mirror)["read"] == len(BINARIES)
    assert contents(tmp_path / "site") == before


@pytest.mark.parametrize(
    "path",
    ["index.html", "packages/zlib.html", "api/v1/packages/zlib.json", "assets/site.js", "_cache"],
)
def test_what_was_lost_comes_back(path: str, mirror: Path, run: Run, tmp_path: Path) -> None:
    run(mirror)
    site = tmp_path / "site"
    before = contents(site)
    if (site / path).is_dir():
        shutil.rmtree(site / path)
    else:
        (site / path).write_text("broken")
    run(mirror)
    assert contents(site) == before


def test_two_runs_at_once_are_refused(mirror: Path, stackyard: Stackyard, tmp_path: Path) -> None:
    with claimed(tmp_path / "site" / ".stackyard", "a test"):
        answer = stackyard("site", "--url", str(mirror), "--to", str(tmp_path / "site"), code=1)
    assert "another run of site is going on" in answer.err


@pytest.mark.parametrize("number", [0, 1, 3, 10])
def test_a_full_disk_leaves_the_old_site_whole(  # noqa: PLR0917
    number: int, mirror: Path, run: Run, stackyard: Stackyard, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    site = tmp_path / "site"
    fill(mirror, names=["zlib", "con"])
    shutil.rmtree(mirror / "v3/manifests/spec/app")
    run(mirror)
    before = contents(site)
    fill(mirror)
    real = edge_files._write_beside
    calls = iter(range(10**6))

    def filling(target: Path, data: bytes) -> Path:
        if next(calls) >= number:
            raise OSError(28, "No space left on device")
        return real(target, data)

    with monkeypatch.context() as patch:
        patch.setattr(edge_files, "_write_beside", filling)
        answer = stackyard("site", "--url", str(mirror), "--to", str(site), code=1)
    assert "no space left on device" in answer.err
    assert contents(site).items() >= before.items()
    run(mirror)
    run(mirror, to="fresh")
    assert contents(site) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("number", [0, 1, 2, 5, 20, 45])
@pytest.mark.parametrize("when", ["first", "later"])
def test_a_stopped_run_is_healed_by_the_next(  # noqa: PLR0917
    number: int, when: str, mirror: Path, run: Run, stackyard: Stackyard, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Stopped between any two files that take their places."""
    site = tmp_path / "site"
    if when == "later":
        shutil.move(mirror / "v3/manifests/spec/app", tmp_path / "app")
        run(mirror)
        shutil.move(tmp_path / "app", mirror / "v3/manifests/spec/app")
        shutil.rmtree(mirror / "v3/manifests/spec/con")
    real = Path.replace
    calls = iter(range(10**6))

    def stopping(self: Path, target: Any) -> Path:
        if next(calls) >= number:
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stopping)
        stackyard("site", "--url", str(mirror), "--to", str(site), code=None)
    if site.exists():
        (site / ".index.html.0123456789ab").write_text("half")
    run(mirror)
    run(mirror, to="fresh")
    assert contents(site) == contents(tmp_path / "fresh")


# ---- mirrors of other kinds -----------------------------------------------------------------------


def test_a_web_server_tells_by_its_index(
    mirror: Path, run: Run, stackyard: Stackyard, tmp_path: Path
) -> None:
    with mirror_server(mirror) as server:
        answer = stackyard("site", "--url", server.url, "--to", str(tmp_path / "site"), code=6)
        assert "there is no mirror" in answer.err
        update_index(FileStore(str(mirror)))
        first = run(server.url)
        assert first["binaries"] == len(BINARIES)
        assert {one["added"] for one in package(tmp_path / "site", "zlib")["binaries"]} == {None}
        assert "does not tell" in (tmp_path / "site" / "new.html").read_text()
        server.requests.clear()
        assert run(server.url)["written"] == 0
        idle = len(server.requests)
        more = mirrors.specs({"late": []})
        mirrors.push(mirror, more, "late")
        update_index(FileStore(str(mirror)))
        server.requests.clear()
        second = run(server.url)
        assert second["read"] == 1
        assert len(server.requests) == idle + 1  # its manifest; the index has the rest
        late = package(tmp_path / "site", "late")["binaries"][0]["added"]
        assert late is not None
        before = contents(tmp_path / "site")
        assert run(server.url, "--full")["written"] == 0
        shutil.rmtree(tmp_path / "site" / "_cache")
        run(server.url)
    assert contents(tmp_path / "site") == before


def test_a_bucket(
    mirror: Path, run: Run, tmp_path: Path, moto: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto.variables.items():
        monkeypatch.setenv(name, value)
    url = moto.bucket()
    store = moto.store(url)
    for path in sorted(mirror.rglob("*.*")) + sorted((mirror / "blobs").rglob("*")):
        if path.is_file():
            store.write(path.relative_to(mirror).as_posix(), path.read_bytes())
    assert run(url)["read"] == len(BINARIES)
    before = contents(tmp_path / "site")
    assert run(url)["written"] == 0
    key = next((mirror / "v3/manifests/spec/zlib").iterdir()).relative_to(mirror).as_posix()
    store.delete(key)
    assert run(url)["gone"] == 1
    store.write(key, (mirror / key).read_bytes())
    store.close()
    assert run(url)["read"] == 1
    assert contents(tmp_path / "site").keys() == before.keys()
    assert package(tmp_path / "site", "zlib")["binaries"][0]["added"].startswith("20")


def test_a_registry(run: Run, tmp_path: Path) -> None:
    with fake_registry() as server:
        fill_registry(server.repository("tiny"))
        url = server.mirror("tiny")
        first = run(url)
        before = contents(tmp_path / "site")
        second = run(url)
    assert first["binaries"] == 7
    assert (second["read"], second["written"]) == (0, 0)
    assert second["requests"] < 5
    assert contents(tmp_path / "site") == before
    binary = package(tmp_path / "site", "tiny-app")["binaries"][0]
    assert (binary["layout"], binary["signed"]) == ("oci", False)
    assert binary["added"].startswith("20")
    manifest = json.loads((tmp_path / "site/manifest/index.json").read_bytes())
    assert all(":" in one["url"].rpartition("/")[2] for one in manifest["packages"])


def test_a_registry_tells_which_images_are_signed(run: Run, tmp_path: Path) -> None:
    with fake_registry() as server:
        repository = server.repository("tiny")
        fill_registry(repository)
        tag = next(tag for tag in repository.tags if tag.startswith("tiny-app-"))
        manifest = repository.manifests[repository.tags[tag]][1]
        repository.put(tag, signed_manifest(manifest, b"a signature"))
        run(server.mirror("tiny"))
    site = tmp_path / "site"
    assert json.loads((site / "api/v1/index.json").read_bytes())["totals"]["signed"] == 1
    assert package(site, "tiny-app")["binaries"][0]["signed"] is True
    assert "mirror add --unsigned tiny" in Page((site / "index.html").read_text()).text


def test_two_layouts_on_one_mirror(run: Run, tmp_path: Path) -> None:
    both = Path(shutil.copytree(REAL / "v3-signed", tmp_path / "both"))
    shutil.copytree(REAL / "v2-signed", both, dirs_exist_ok=True)
    assert run(both)["binaries"] == 12
    index = json.loads((tmp_path / "site/api/v1/index.json").read_bytes())
    assert index["mirror"]["layouts"] == ["3", "2"]


def test_what_cannot_be_read_is_said_and_left_out(mirror: Path, run: Run, tmp_path: Path) -> None:
    (path,) = (mirror / "v3/manifests/spec/hdf5").iterdir()
    path.write_bytes(b"{")
    report = run(mirror, code=6)
    assert report["binaries"] == len(BINARIES) - 1
    assert list(report["problems"]) == [path.relative_to(mirror).as_posix()]
    assert not (tmp_path / "site/packages/hdf5.html").exists()
    assert (tmp_path / "site/index.html").exists()
    fill(mirror)
    assert run(mirror)["binaries"] == len(BINARIES)


def test_what_nobody_gives_is_not_taken_for_gone(mirror: Path, run: Run, tmp_path: Path) -> None:
    """What was known is shown until the mirror answers again."""
    update_index(FileStore(str(mirror)))
    with mirror_server(mirror) as server:
        run(server.url)
        before = contents(tmp_path / "site")
        (path,) = (mirror / "v3/manifests/spec/hdf5").iterdir()
        key = path.relative_to(mirror).as_posix()
        server.script[f"/{key}"] = [Reply(403, b"no")]
        assert list(run(server.url, "--full", code=6)["problems"]) == [key]
        assert contents(tmp_path / "site") == before
        run(server.url, to="first", code=6)
        assert not (tmp_path / "first/packages/hdf5.html").exists()
        server.script[f"/{key}"] = [Reply(200, b"{")]
        run(server.url, "--full", code=6)
    assert not (tmp_path / "site/packages/hdf5.html").exists()


@pytest.mark.parametrize("what", ["gone", "list", "read"])
def test_a_mirror_that_does_not_answer_leaves_the_site(  # noqa: PLR0917
    what: str, mirror: Path, stackyard: Stackyard, run: Run, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    site = tmp_path / "site"
    run(mirror)
    before = contents(site)
    fill_mirror(mirror, 30)

    def silent(*_: Any, **__: Any) -> Any:
        raise UnreachableError("no answer", where="there")

    if what == "gone":
        shutil.rmtree(mirror)
    else:
        monkeypatch.setattr(FileStore, what, silent)
    stackyard("site", "--url", str(mirror), "--to", str(site), code=6)
    assert contents(site) == before


def test_the_binary_of_another_spec_is_not_shown(mirror: Path, run: Run) -> None:
    (zlib,) = (mirror / "v3/manifests/spec/zlib").iterdir()
    (con,) = (mirror / "v3/manifests/spec/con").iterdir()
    con.write_bytes(zlib.read_bytes())
    report = run(mirror, code=6)
    assert "another spec" in next(iter(report["problems"].values()))


def test_secrets_of_a_url_stay_out_of_the_site(mirror: Path, run: Run, tmp_path: Path) -> None:
    update_index(FileStore(str(mirror)))
    with mirror_server(mirror) as server:
        run(
            server.url.replace("http://", "http://me:s3cr3t@"),
            "--public",
            "https://u:pw@x.example/m?t=k",
        )
    for path, data in contents(tmp_path / "site").items():
        assert b"s3cr3t" not in data, path
        assert b"u:pw" not in data, path
        assert b"t=k" not in data, path
