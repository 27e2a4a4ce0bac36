from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mirror_server import MirrorServer, Reply, mirror_server
from services import S3Server

from stackyard.edges.mirrors.inventory import broken_specs, take_inventories
from stackyard.edges.stores.access import Place
from stackyard.errors import CorruptError, DeniedError, StoreError, UnreachableError
from stackyard.lock import Lock, Spec, parse_lock
from stackyard.mirror import (
    INDEX_MANIFEST,
    LAYOUT_MARKER,
    V2_INDEX,
    V2_INDEX_HASH,
    Found,
    Inventory,
    spec_manifest_key,
)

DATA = Path(__file__).parent / "data"
MIRRORS = DATA / "mirrors"
LOCKS = {
    "v2-signed": DATA / "v2.spack.lock",
    "v2-unsigned": DATA / "v2.spack.lock",
    "v3-signed": DATA / "tiny.spack.lock",
    "v3-unsigned": DATA / "tiny.spack.lock",
    "half-tutorial": Path(__file__).parents[1] / "stacks" / "tutorial" / "spack.lock",
}
#: Binaries on the mirror, and specs of the lock that are not external.
COUNTS = {
    "v2-signed": (5, 6),
    "v2-unsigned": (5, 6),
    "v3-signed": (7, 7),
    "v3-unsigned": (7, 7),
    "half-tutorial": (115, 231),
}
INDEX = Path("v3/manifests/index/index.manifest.json")


def lock_of(mirror: str) -> Lock:
    return parse_lock(LOCKS[mirror].read_bytes(), mirror)


def wanted_of(mirror: str) -> list[Spec]:
    return [spec for spec in lock_of(mirror).specs.values() if not spec.external]


def take(*mirrors: Place, wanted: list[Spec], index_only: bool = False) -> tuple[Inventory, ...]:
    return take_inventories(
        mirrors, wanted, index_only=index_only, progress=lambda _: None, sleep=lambda _: None
    )


def fake(number: int) -> Spec:
    letters = "".join("abcdefghij"[int(digit)] for digit in f"{number:032d}")
    arch = {"platform": "linux", "platform_os": "debian12", "target": "x86_64"}
    return Spec(letters, f"p{number}", "1.0", (), {"arch": arch}, 5)


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[str], Path]:
    def copy(mirror: str) -> Path:
        return Path(shutil.copytree(MIRRORS / mirror, tmp_path / mirror))

    return copy


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MirrorServer]:
    (tmp_path / "www").mkdir()
    with mirror_server(tmp_path / "www") as server:
        yield server


@pytest.fixture(params=["file", "http"])
def publish(request: pytest.FixtureRequest, server: MirrorServer) -> Callable[[Path], str]:
    """Makes a folder a mirror, and gives its URL."""

    def publish(folder: Path) -> str:
        server.root = folder
        return str(folder) if request.param == "file" else server.url

    return publish


# --- the five real mirrors ---


@pytest.mark.parametrize("index_only", [True, False])
@pytest.mark.parametrize("mirror", COUNTS)
def test_real_mirror_by_its_index(
    mirror: str, publish: Callable[[Path], str], server: MirrorServer, *, index_only: bool
) -> None:
    wanted = wanted_of(mirror)
    there, asked = COUNTS[mirror]
    url = publish(MIRRORS / mirror)
    (inventory,) = take(Place("m", url, signed=True), wanted=wanted, index_only=index_only)
    assert len(wanted) == asked
    assert len(inventory.found) == there
    layout = 2 if mirror.startswith("v2") else 3
    assert set(inventory.found.values()) == {Found(layout=layout, via="index", signed=None)}  # type: ignore[arg-type]
    assert inventory.warnings == ()
    assert inventory.mirror == "m"
    forms = 2 if layout == 2 else 1
    limit = 3 if index_only else 5 + forms * (asked - there)
    assert len(server.requests) <= limit
    assert max(Counter(server.requests).values(), default=1) == 1


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("signed", [True, False, None])
@pytest.mark.parametrize("mirror", ["v2-signed", "v2-unsigned", "v3-signed", "v3-unsigned"])
def test_real_mirror_without_index(  # noqa: PLR0917
    mirror: str,
    signed: bool | None,  # noqa: FBT001
    marked: bool,  # noqa: FBT001
    copy: Callable[[str], Path],
    publish: Callable[[Path], str],
    server: MirrorServer,
) -> None:
    folder = copy(mirror)
    for key in (V2_INDEX, INDEX_MANIFEST, *([] if marked else [LAYOUT_MARKER])):
        (folder / key).unlink(missing_ok=True)
    wanted = wanted_of(mirror)
    place = Place("m", publish(folder), signed=signed)
    (inventory,) = take(place, wanted=wanted)
    has = mirror.endswith("-signed")
    if has or signed is not True:
        assert len(inventory.found) == COUNTS[mirror][0]
        assert {found.via for found in inventory.found.values()} == {"direct"}
        assert {found.signed for found in inventory.found.values()} == {has}
        assert inventory.warnings == ()
    else:
        assert inventory.found == {}
        (warning,) = inventory.warnings
        assert f"{COUNTS[mirror][0]} of its binaries (such as " in warning
        assert "signed: false" in warning
    if mirror.startswith("v3") and marked and server.requests:
        assert len(server.requests) == 4 + len(wanted)
    assert take(place, wanted=wanted, index_only=True)[0].found == {}


def test_index_only_without_index_warns(server: MirrorServer) -> None:
    (inventory,) = take(Place("pr", server.url), wanted=[fake(1)], index_only=True)
    assert inventory.found == {}
    assert "pr has no index" in inventory.warnings[0]
    assert len(server.requests) == 2


def test_empty_mirror_is_empty(publish: Callable[[Path], str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (inventory,) = take(Place("m", publish(tmp_path / "empty")), wanted=[fake(1)])
    assert inventory.found == {}
    assert len(inventory.warnings) == 1
    assert "it is taken for a new, empty one" in inventory.warnings[0]


def test_index_wins_over_nothing_and_layout_3_over_2(copy: Callable[[str], Path]) -> None:
    folder = copy("v3-signed")
    old = copy("v2-signed")
    database = json.loads((old / V2_INDEX).read_bytes())
    (spec, *_) = wanted_of("v3-signed")
    database["database"]["installs"] = {spec.hash: {"in_buildcache": True}}
    (folder / "build_cache").mkdir()
    (folder / V2_INDEX).write_text(json.dumps(database))
    (inventory,) = take(Place("m", str(folder)), wanted=wanted_of("v3-signed"))
    assert {found.layout for found in inventory.found.values()} == {3}


# --- several mirrors ---


def test_what_one_index_names_is_looked_up_nowhere(
    server: MirrorServer, copy: Callable[[str], Path]
) -> None:
    server.root = copy("v3-unsigned")
    (server.root / INDEX).unlink()
    wanted = wanted_of("v3-signed")
    mirrors = (Place("bare", server.url), Place("full", str(MIRRORS / "v3-signed")))
    bare, full = take(*mirrors, wanted=wanted)
    assert bare.found == {}
    assert len(full.found) == len(wanted)
    assert len(server.requests) == 4


def test_what_was_found_directly_is_not_looked_up_again(
    server: MirrorServer, copy: Callable[[str], Path]
) -> None:
    server.root = copy("v3-unsigned")
    (server.root / INDEX).unlink()
    wanted = wanted_of("v3-signed")
    first, second = take(Place("a", server.url), Place("b", server.url), wanted=wanted)
    assert len(first.found) == len(wanted)
    assert second.found == {}
    assert len(server.requests) == 8 + len(wanted)


def test_both_indices_list_what_both_have() -> None:
    urls = [str(MIRRORS / name) for name in ("v3-signed", "v3-unsigned")]
    wanted = wanted_of("v3-signed")
    inventories = take(*(Place(url, url) for url in urls), wanted=wanted)
    assert [len(inventory.found) for inventory in inventories] == [7, 7]


# --- speed ---


def test_868_missing_specs_take_one_request_each(server: MirrorServer) -> None:
    (server.root / "v3").mkdir()
    (server.root / LAYOUT_MARKER).write_text('{"signing": "gpg"}')
    server.latency_s = 0.02
    start = time.perf_counter()
    (inventory,) = take(Place("m", server.url), wanted=[fake(n) for n in range(868)])
    assert time.perf_counter() - start < 2
    assert inventory.found == {}
    assert len(server.requests) == 868 + 4
    assert server.connections <= 35


def test_index_only_takes_three_requests(server: MirrorServer) -> None:
    server.root = MIRRORS / "half-tutorial"
    take(Place("m", server.url), wanted=wanted_of("half-tutorial"), index_only=True)
    assert len(server.requests) == 3


# --- mirrors that are not what they should be ---


def test_missing_folder_stops_the_run(tmp_path: Path) -> None:
    for index_only in (True, False):
        with pytest.raises(UnreachableError, match="mirror m: the folder does not exist") as caught:
            take(Place("m", str(tmp_path / "no")), wanted=[fake(1)], index_only=index_only)
        assert caught.value.code == 6
        assert caught.value.hint == (
            "create the folder, or fix the mirror's URL; or plan without mirrors: --no-prune"
        )


def blob_of(folder: Path) -> Path:
    checksum = str(json.loads((folder / INDEX).read_bytes())["data"][0]["checksum"])
    return folder / "blobs" / "sha256" / checksum[:2] / checksum


def test_truncated_index_is_corrupt(
    copy: Callable[[str], Path], publish: Callable[[Path], str]
) -> None:
    folder = copy("v3-signed")
    blob = blob_of(folder)
    blob.write_bytes(blob.read_bytes()[:-100])
    url = publish(folder)
    with pytest.raises(CorruptError, match="4434 bytes, and 4534 by its manifest") as caught:
        take(Place("m", url), wanted=[fake(1)])
    assert blob.name in caught.value.where
    assert url in caught.value.where


def test_changed_index_is_corrupt(
    copy: Callable[[str], Path], publish: Callable[[Path], str]
) -> None:
    folder = copy("v3-signed")
    blob = blob_of(folder)
    blob.write_bytes(blob.read_bytes().replace(b"true", b"fals", 1))
    with pytest.raises(CorruptError, match="another checksum"):
        take(Place("m", publish(folder)), wanted=[fake(1)])


def test_missing_index_blob_is_corrupt(
    copy: Callable[[str], Path], publish: Callable[[Path], str]
) -> None:
    folder = copy("v3-signed")
    blob_of(folder).unlink()
    with pytest.raises(CorruptError, match="which is not there"):
        take(Place("m", publish(folder)), wanted=[fake(1)])


def test_index_with_garbage_behind_it_stands_or_falls_by_its_checksum(
    copy: Callable[[str], Path],
) -> None:
    folder = copy("v3-signed")
    data = blob_of(folder).read_bytes() + b" garbage"
    manifest = json.loads((folder / INDEX).read_bytes())
    checksum = hashlib.sha256(data).hexdigest()
    manifest["data"][0].update(checksum=checksum, contentLength=len(data))
    (folder / INDEX).write_text(json.dumps(manifest))
    blob = blob_of(folder)
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(data)
    (inventory,) = take(Place("m", str(folder)), wanted=wanted_of("v3-signed"))
    assert len(inventory.found) == 7


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b'{"version": 3, "data": []}', b'{"version": 3', b'{"version": 4}']
)
def test_damaged_index_manifest_is_corrupt(
    copy: Callable[[str], Path], publish: Callable[[Path], str], data: bytes
) -> None:
    folder = copy("v3-signed")
    (folder / INDEX).write_bytes(data)
    with pytest.raises(CorruptError) as caught:
        take(Place("m", publish(folder)), wanted=[fake(1)], index_only=True)
    assert INDEX_MANIFEST in caught.value.where


def test_truncated_v2_index_is_corrupt(
    copy: Callable[[str], Path], publish: Callable[[Path], str]
) -> None:
    folder = copy("v2-signed")
    data = (folder / V2_INDEX).read_bytes()
    (folder / V2_INDEX).write_bytes(data[:-100])
    url = publish(folder)
    with pytest.raises(CorruptError, match=r"index\.json\.hash"):
        take(Place("m", url), wanted=[fake(1)])
    (folder / V2_INDEX_HASH).unlink()
    with pytest.raises(CorruptError, match="cut off"):
        take(Place("m", url), wanted=[fake(1)])
    (folder / V2_INDEX_HASH).write_text("no hash")
    (folder / V2_INDEX).write_bytes(data)
    assert len(take(Place("m", url), wanted=wanted_of("v2-signed"))[0].found) == 5


def test_v2_index_that_was_just_being_written_is_read_again(server: MirrorServer) -> None:
    server.root = MIRRORS / "v2-signed"
    old = Reply(200, (server.root / V2_INDEX).read_bytes() + b" ")
    server.script[f"/{V2_INDEX}"] = [old, None]
    (inventory,) = take(Place("m", server.url), wanted=wanted_of("v2-signed"), index_only=True)
    assert len(inventory.found) == 5


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda text: text[: len(text) // 2], "cut off"),
        (lambda text: text.replace(b"install.v2.tar", b"install.v9.tar"), "no tarball"),
        (lambda text: text.replace(b"spec.v5", b"spec.v9"), "no spec"),
        (lambda _: b"<html>sign in</html>", "not JSON"),
    ],
)
def test_damaged_manifest_is_corrupt_and_not_missing(
    copy: Callable[[str], Path],
    publish: Callable[[Path], str],
    change: Callable[[bytes], bytes],
    text: str,
) -> None:
    folder = copy("v3-unsigned")
    (folder / INDEX).unlink()
    wanted = wanted_of("v3-unsigned")
    path = folder / spec_manifest_key(wanted[3])
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CorruptError, match=text) as caught:
        take(Place("m", publish(folder)), wanted=wanted)
    assert path.name in caught.value.where


def test_v2_metadata_of_another_spec_is_corrupt(copy: Callable[[str], Path]) -> None:
    folder = copy("v2-unsigned")
    (folder / V2_INDEX).unlink()
    one, other, *_ = sorted((folder / "build_cache").glob("*.spec.json"))
    shutil.copy(one, other)
    with pytest.raises(CorruptError, match="another spec"):
        take(Place("m", str(folder)), wanted=wanted_of("v2-unsigned"))


# --- answers of servers ---


def test_all_403_is_denied(server: MirrorServer) -> None:
    server.missing = 403
    for index_only in (True, False):
        with pytest.raises(DeniedError, match=r"mirror m: .*403") as caught:
            take(Place("m", server.url), wanted=[fake(1)], index_only=index_only)
        assert "s3:ListBucket" in caught.value.hint


def test_bucket_without_permission_to_list_is_read(server: MirrorServer) -> None:
    server.missing = 403
    server.root = MIRRORS / "half-tutorial"
    (inventory,) = take(Place("m", server.url), wanted=wanted_of("half-tutorial"))
    assert len(inventory.found) == 115


def test_bucket_with_both_layouts_and_no_permission_to_list_is_read(
    server: MirrorServer, copy: Callable[[str], Path]
) -> None:
    server.missing = 403
    server.root = copy("v3-signed")
    shutil.copytree(MIRRORS / "v2-signed" / "build_cache", server.root / "build_cache")
    (inventory,) = take(Place("m", server.url), wanted=[*wanted_of("v3-signed"), fake(1)])
    assert len(inventory.found) == 7


@pytest.mark.parametrize("status", [401, 403])
def test_denied_where_missing_is_404_stops_the_run(server: MirrorServer, status: int) -> None:
    server.root = MIRRORS / "half-tutorial"
    wanted = wanted_of("half-tutorial")
    gone = next(s for s in wanted if not (server.root / spec_manifest_key(s)).exists())
    server.script[f"/{INDEX_MANIFEST}"] = [Reply(404)]
    server.script[f"/{spec_manifest_key(gone)}"] = [Reply(status)]
    with pytest.raises(DeniedError):
        take(Place("m", server.url), wanted=[gone])
    server.script[f"/{V2_INDEX}"] = [Reply(status)]
    with pytest.raises(DeniedError):
        take(Place("m", server.url), wanted=[gone], index_only=True)


def test_server_that_breaks_down_stops_the_run(server: MirrorServer) -> None:
    server.root = MIRRORS / "half-tutorial"
    wanted = wanted_of("half-tutorial")
    gone = wanted[-1]
    server.script[f"/{INDEX_MANIFEST}"] = [Reply(404)]
    server.script[f"/{spec_manifest_key(gone)}"] = [Reply(503)]
    with pytest.raises(UnreachableError, match="mirror m: the server answers 503"):
        take(Place("m", server.url), wanted=wanted)


def test_a_place_where_no_mirror_can_be(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="mirror far: no mirror can be at sftp:// URLs"):
        take(Place("here", str(tmp_path)), Place("far", "sftp://host/x"), wanted=[])


# --- what people see ---


def test_progress_has_counts_and_seconds(server: MirrorServer) -> None:
    lines: list[str] = []
    ticks = itertools.count(step=0.25)
    take_inventories(
        [Place("main", str(MIRRORS / "half-tutorial"), signed=True)],
        wanted_of("half-tutorial"),
        index_only=False,
        progress=lines.append,
        clock=lambda: next(ticks),
    )
    url = f"file://{MIRRORS}/half-tutorial"
    assert lines == [
        f"mirror main: reading {url}",
        "mirror main: index names 115 of 231, 0 of 116 found directly, 0.5 s",
    ]


def test_url_of_an_inventory_has_no_password(server: MirrorServer) -> None:
    url = server.url.replace("http://", "http://me:secret@")
    lines: list[str] = []
    (inventory,) = take_inventories([Place("m", url)], [], index_only=True, progress=lines.append)
    assert inventory.url == server.url
    assert "secret" not in str((inventory, lines))


def test_unknown_compilers_are_told_of() -> None:
    parameters = {"deptypes": ["build"], "virtuals": ["c"]}
    edge = {"name": "gcc", "hash": "b" * 32, "parameters": parameters}
    spec = fake(1)
    spec = Spec(spec.hash, "a", "1", ("b" * 32,), {**spec.node, "dependencies": [edge]}, 5)
    place = Place("m", str(MIRRORS / "v2-signed"))
    (inventory,) = take(place, wanted=[spec])
    assert "1 specs were not looked up" in inventory.warnings[0]
    gcc = Spec("b" * 32, "gcc", "12", (), {}, 5)
    (inventory,) = take_inventories(
        [place], [spec], index_only=False, progress=lambda _: None, specs={gcc.hash: gcc}
    )
    assert inventory.warnings == ()


# --- working in parallel ---


def test_ctrl_c_does_not_wait_for_silent_servers(server: MirrorServer) -> None:
    (server.root / "v3").mkdir()
    (server.root / LAYOUT_MARKER).write_text("{}")
    blocked, answered = threading.Event(), threading.Event()
    original = server.reply

    def silent(path: str, span: str | None) -> Reply:
        if "/spec/" in path:
            blocked.set()
            answered.wait(60)
        return original(path, span)

    server.reply = silent  # type: ignore[method-assign]
    code = (
        "from test_inventory import *\n"
        f"take(Place('m', {server.url!r}), wanted=[fake(n) for n in range(9)])"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        stderr=subprocess.PIPE,
    )
    try:
        assert blocked.wait(30)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=50)
    finally:
        answered.set()
    assert b"KeyboardInterrupt" in stderr


# --- broken specs ---


def test_broken_specs(tmp_path: Path) -> None:
    one, two, three = (fake(n).hash for n in range(3))
    folder = tmp_path / "broken"
    (folder / three).mkdir(parents=True)  # Spack counts files only
    (folder / one).write_text("broken-spec: {}")
    (folder / "unknown").write_text("")
    lines: list[str] = []
    for url in (str(folder), f"file://{folder}/"):
        assert broken_specs(url, [one, two, three], progress=lines.append) == {one}
    assert broken_specs(str(tmp_path / "none"), [one], progress=lines.append) == frozenset()
    assert lines == []


def test_broken_specs_over_http_are_ignored_as_spack_does() -> None:
    lines: list[str] = []
    assert broken_specs("https://host/broken", [], progress=lines.append) == frozenset()
    assert "ignored" in lines[0]


def test_broken_specs_in_a_bucket(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (fake(n).hash for n in range(2))
    url = moto.bucket()
    store = moto.store(url)
    store.write(f"broken/{one}", b"broken-spec: {}")
    store.close()
    for name, value in moto.variables.items():
        monkeypatch.setenv(name, value)
    assert broken_specs(f"{url}/broken", [one, two], progress=print) == {one}
    with pytest.raises(StoreError) as caught:
        broken_specs("s3://no-such-bucket/broken", [], progress=print)
    assert caught.value.code == 6
