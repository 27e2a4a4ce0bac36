"""Many writers at once, and writers that are killed: nothing is lost, nothing is half written."""

from __future__ import annotations

import json
import random
import shutil
import time
from contextlib import closing
from pathlib import Path

import index_writer
import mirrors
import pytest
from services import S3Server

from stackyard.edges.mirrors.indexing import add_to_index, check_index, update_index
from stackyard.edges.mirrors.published import form_of, read_blob
from stackyard.edges.stores.store import Store
from stackyard.index import parse_state

WRITERS = 8


@pytest.mark.parametrize("first", ["empty", "indexed"])
def test_eight_writers_on_a_disk(tmp_path: Path, first: str, *, long: bool) -> None:
    nodes = index_writer.graph(range(WRITERS))
    others = mirrors.specs({f"old{number}": () for number in range(200)})
    for number in range(10 if long else 1):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        if first == "indexed":
            mirrors.push(folder, others, *others)
            assert index_writer.run(folder, "update") == 0
        race(str(folder))
        everyone = [name for writer in range(WRITERS) for name in index_writer.names(writer)]
        old = others if first == "indexed" else {}
        assert mirrors.published(folder) == mirrors.oracle({**nodes, **old}, [*everyone, *old])
        shutil.rmtree(folder)


@pytest.mark.parametrize("service", ["moto", "ceph"])
def test_eight_writers_on_s3(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, service: str, *, long: bool
) -> None:
    server: S3Server = request.getfixturevalue(service)
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    bucket = server.bucket()
    nodes = index_writer.graph(range(WRITERS))
    everyone = [name for writer in range(WRITERS) for name in index_writer.names(writer)]
    for number in range(10 if long else 1):
        url = f"{bucket}/race-{number}"
        if not long:  # 1,600 files are a lot for a service that runs beside the tests
            with closing(server.store(url)) as store:
                update_index(store)
        race(url, "add" if long else "tell")
        with closing(server.store(url)) as store:
            assert store.atomic
            assert _published(store) == mirrors.oracle(nodes, everyone)


def test_s3_that_ignores_conditions(rclone: S3Server) -> None:
    """It is noticed and said; and one writer at a time does no harm."""
    nodes = index_writer.graph([0])
    names = index_writer.names(0)[:10]
    said: list[str] = []
    with closing(rclone.store(rclone.bucket())) as store:
        for some in (names[:5], names[5:]):
            for key, data in mirrors.files(nodes, *some).items():
                store.write(key, data)
            add_to_index(store, mirrors.metadata(nodes, some), progress=said.append)
        assert _published(store) == mirrors.oracle(nodes, names)
        assert not check_index(store).stale
    assert any("cannot write on condition" in line for line in said)


def _published(store: Store) -> bytes:
    """The index, checked, with a state that fits it."""
    form = form_of(store)
    index, state = form.parse(store.read(form.key), store.url)
    assert state
    told = parse_state(read_blob(store, state), store.url)
    assert told.checksum == index.checksum
    return read_blob(store, index)


def race(url: str, work: str = "add") -> None:
    """All writers at once; each must say that it is done."""
    writers = [index_writer.start(url, work, str(number)) for number in range(WRITERS)]
    for writer in writers:
        index_writer.go(writer)
    assert [index_writer.finish(writer) for writer in writers] == [0] * WRITERS


@pytest.mark.parametrize("work", ["update", "add"])
def test_killed(tmp_path: Path, work: str, *, long: bool) -> None:
    """At no moment does the manifest name what is not there, and the next run makes it good."""
    nodes = index_writer.graph([0])
    old = mirrors.specs({f"old{number}": () for number in range(100)})
    first = tmp_path / "first"
    mirrors.push(first, old, *old)
    assert index_writer.run(first, "update") == 0
    if work == "update":
        mirrors.push(first, nodes, *index_writer.names(0))
    duration = _undisturbed(first, tmp_path / "whole", work)
    wanted = mirrors.published(tmp_path / "whole")
    assert wanted == mirrors.oracle({**nodes, **old}, [*index_writer.names(0), *old])
    draw = random.Random(7)  # noqa: S311 - the same moments each time
    seen = set()
    for number in range(100 if long else 5):
        folder = tmp_path / f"{number}"
        shutil.copytree(first, folder)
        process = index_writer.start(str(folder), work)
        index_writer.go(process)
        time.sleep(draw.uniform(0, duration))
        index_writer.finish(process, kill=True)
        seen.add(mirrors.published(folder))
        assert index_writer.run(folder, work) == 0
        assert mirrors.published(folder) == wanted
        if (folder / ".stackyard").exists():  # nothing was left to write, and who writes clears up
            mirrors.push(folder, mirrors.specs({"late": ()}), "late")
            assert index_writer.run(folder, "update") == 0
        assert not (folder / ".stackyard").exists()
        shutil.rmtree(folder)
    for one in seen:
        assert set(json.loads(one)["database"]["installs"]) >= {n["hash"] for n in old.values()}


def _undisturbed(first: Path, folder: Path, work: str) -> float:
    """How long a whole run takes."""
    shutil.copytree(first, folder)
    process = index_writer.start(str(folder), work)
    start = time.perf_counter()
    index_writer.go(process)
    assert index_writer.finish(process) == 0
    return time.perf_counter() - start
