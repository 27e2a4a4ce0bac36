"""``mirror.prune``: what stays and why, what goes, and that nothing else does."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import locks
import mirrors
import pytest
from conftest import DATA, Project, Stackyard
from fake_registry import FakeRegistry, fake_registry
from mirror_server import mirror_server
from registry_data import fill
from services import S3Server

from stackyard.binary import Metadata, dump_manifest, dump_spec_blob
from stackyard.edges.mirrors.indexing import read_index, update_index
from stackyard.edges.mirrors.pruning import carry_out, stock
from stackyard.edges.stores.folder import FileStore
from stackyard.edges.stores.store import MANIFEST_BYTES, Listed
from stackyard.errors import CorruptError, StoreError, UnreachableError
from stackyard.lock import parse_node
from stackyard.mirror import INDEX_MANIFEST, INDEX_TYPE, SPEC_TYPE, TARBALL_TYPE, Record, blob_key
from stackyard.prune import (
    Choice,
    Holding,
    Keeper,
    Loose,
    Policy,
    PrunePlan,
    Sweep,
    decide,
    prune_text,
    sort_loose,
)

DAY_S = 86400.0
NOW_S = 1_700_000_000.0

#: old shares its tarball with app; tool is needed to build app, and not to run it.
NEEDS = {
    "base": [],
    "tool": [],
    "lib": ["base"],
    "app": ["lib", "tool"],
    "other": ["tool"],
    "old": ["base"],
}


NODES = mirrors.specs(NEEDS)


def lock_of(*roots: str, nodes: mirrors.Nodes = NODES) -> dict[str, Any]:
    """The lock of these roots, with all that they reach."""
    reached = {one["name"]: one for root in roots for one in mirrors.closure(nodes, root)}
    document = locks.document(list(reached.values()))
    document["roots"] = [{"hash": nodes[name]["hash"], "spec": name} for name in roots]
    return document


def put(store: FileStore, nodes: mirrors.Nodes, name: str, tarball: bytes) -> str:
    """A binary of layout 3, blobs first; gives the key of its manifest."""
    data = dump_spec_blob(Metadata(mirrors.closure(nodes, name), 5))
    records = []
    for media_type, blob in ((TARBALL_TYPE, tarball), (SPEC_TYPE, data)):
        record = Record(
            media_type=media_type,
            size_bytes=len(blob),
            compression="gzip",
            checksum=hashlib.sha256(blob).hexdigest(),
        )
        store.write(blob_key(record), blob)
        records.append(record)
    key = mirrors.manifest_key(nodes[name])
    store.write(key, dump_manifest(records))
    return key


def packed(text: str) -> bytes:
    return gzip.compress(text.encode() * 100, mtime=0)


def age(folder: Path, days: float) -> None:
    """Make all files as old as that."""
    then = time.time() - days * DAY_S
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def fill_folder(folder: Path, nodes: mirrors.Nodes = NODES, *, days: float = 30) -> Path:
    with closing(FileStore(folder)) as store:
        for name in nodes:
            put(store, nodes, name, packed("app" if name == "old" else name))
        update_index(store)
    age(folder, days)
    return folder


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Six binaries, indexed, a month old."""
    return fill_folder(tmp_path / "mirror")


def names_on(folder: Path) -> set[str]:
    """Packages of the manifests; the index names the same, and every blob of theirs is there."""
    manifests = sorted(folder.glob("v3/manifests/spec/*/*"))
    for path in manifests:
        for record in json.loads(path.read_bytes())["data"]:
            data = blob_at(folder, record["checksum"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == record["checksum"]
    with closing(FileStore(folder)) as store:
        view = read_index(store)
    assert view
    named = {dag_hash for dag_hash, _, present in view.nodes() if present}
    assert named == {path.name[-51:-19] for path in manifests}
    return {path.parent.name for path in manifests}


def blob_at(folder: Path, checksum: str) -> Path:
    return folder / "blobs" / "sha256" / checksum[:2] / checksum


def blobs_on(folder: Path) -> set[str]:
    return {path.name for path in (folder / "blobs").rglob("*") if path.is_file()}


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def plan_of(stackyard: Stackyard, folder: str | Path, *flags: str) -> dict[str, Any]:
    answer = stackyard("mirror.prune", "--url", str(folder), "--json", *flags)
    document: dict[str, Any] = json.loads(answer.out)
    return document


def kept(plan: Mapping[str, Any]) -> dict[str, str]:
    """Package → why it stays."""
    return {one["binary"].partition("@")[0]: one["reason"] for one in plan["kept"]}


# --- what is decided ---


def holding(name: str, *, days: float | None = 30, told: bool = True) -> Holding:
    node = NODES[name]
    edges = [dict(edge) for edge in node.get("dependencies", ())]
    for edge in edges:
        built = edge["name"] == "tool"
        edge["parameters"] = {"deptypes": ["build"] if built else ["link", "run"], "virtuals": []}
    spec = parse_node({**node, "dependencies": edges}, 5)
    return Holding(
        hash=spec.hash,
        layout=3,
        key=mirrors.manifest_key(node),
        label=f"{name}@1.0/{spec.hash[:7]}",
        spec=spec if told else None,
        blobs=(),
        modified_s=0.0 if days is None else NOW_S - days * DAY_S,
    )


def policy(
    *keepers: Keeper, pins: tuple[str, ...] = (), keep_days: float = 0, grace_hours: float = 24
) -> Policy:
    return Policy(keepers, pins, keep_days, grace_hours, NOW_S)


def hashes(*names: str) -> frozenset[str]:
    return frozenset(NODES[name]["hash"] for name in names)


def reasons(choices: Iterable[Choice]) -> dict[str, str]:
    return {choice.holding.label.partition("@")[0]: choice.reason for choice in choices}


def test_lock_keeps_all_that_it_holds() -> None:
    keeper = Keeper("stack demo", hashes("app", "lib", "base", "tool"))
    stay, go = decide(map(holding, NEEDS), policy(keeper), {})
    assert reasons(stay) == dict.fromkeys(["app", "base", "lib", "tool"], "stack demo")
    assert reasons(go) == dict.fromkeys(["old", "other"], "the lock does not reach it")


def test_pin_keeps_what_it_needs_to_run() -> None:
    pinned = {NODES["app"]["hash"]: "app@1"}
    stay, go = decide(map(holding, NEEDS), policy(pins=("app@1",)), pinned)
    label = holding("app").label
    assert reasons(stay) == {
        "app": "pinned: app@1",
        "lib": f"needed by {label}",
        "base": f"needed by {holding('lib').label}",
    }
    assert set(reasons(go)) == {"old", "other", "tool"}


AGES: dict[str, tuple[float | None, str]] = {
    "young": (2, "2.0 days old"),
    "just": (6.99, "7.0 days old"),
    "old": (7, ""),
    "not told": (None, "the place does not tell its age"),
    "of tomorrow": (-1, "-1.0 days old"),
}


@pytest.mark.parametrize(("days", "reason"), AGES.values(), ids=AGES)
def test_age(days: float | None, reason: str) -> None:
    stay, go = decide([holding("tool", days=days)], policy(keep_days=7), {})
    assert [choice.reason for choice in stay] == [reason] * bool(reason)
    assert [choice.reason for choice in go] == ["7 days old"] * (not reason)


def test_young_binary_keeps_what_it_needs() -> None:
    held = [holding("app", days=1), *(holding(name) for name in NEEDS if name != "app")]
    stay, _ = decide(held, policy(keep_days=7), {})
    assert set(reasons(stay)) == {"app", "lib", "base"}


def test_pin_that_nobody_can_try_keeps() -> None:
    stay, go = decide([holding("old", told=False), holding("tool")], policy(pins=("x",)), {})
    assert "cannot be read" in reasons(stay)["old"]
    assert set(reasons(go)) == {"tool"}


def test_reason_of_what_goes_names_all_that_was_asked() -> None:
    asked = policy(Keeper("a", hashes("app")), Keeper("b", hashes("lib")), pins=("x",), keep_days=7)
    _, go = decide([holding("old", days=40.4)], asked, {})
    assert go[0].reason == "none of 2 locks reaches it, no pin holds for it, 40 days old"


def test_same_hash_in_two_layouts_has_one_fate() -> None:
    both = [holding("old"), holding("old")._replace(layout=2, key="build_cache/x.spec.json")]
    stay, go = decide(both, policy(Keeper("a", hashes("old"))), {})
    assert (len(stay), len(go)) == (2, 0)


def test_grace() -> None:
    loose = [
        Loose("old", 10, NOW_S - 25 * 3600),
        Loose("young", 20, NOW_S - 23 * 3600),
        Loose("of unknown age", 30, 0.0),
    ]
    found = sort_loose(loose, policy())
    assert [one.key for one in found.old] == ["old"]
    assert [one.key for one in found.young] == ["young", "of unknown age"]
    assert len(sort_loose(loose, policy(grace_hours=0)).old) == 3


def test_totals() -> None:
    young = Sweep((), (Loose("x", 2_000_000, 0.0),))
    text = prune_text(PrunePlan((), (), young), policy())
    assert text.splitlines() == [
        "0 of 0 binaries go, 0 stay",
        "1 blobs, 2.0 MB, are younger than 24 h and stay for now",
    ]
    assert "registry" in prune_text(PrunePlan((), (), None), policy())


# --- what is done ---


def test_only_shows_without_yes(stackyard: Stackyard, project: Project, mirror: Path) -> None:
    project.stack(lock_of("app"))
    before = tree(mirror)
    answer = stackyard("mirror.prune", "--url", str(mirror), "--stack", "demo")
    assert tree(mirror) == before
    lines = answer.out.splitlines()
    assert lines[0].split() == ["BINARY", "SIZE", "WHY", "IT", "GOES"]
    assert [line.split("@")[0] for line in lines[1:3]] == ["old", "other"]
    assert "2 of 6 binaries go" in answer.out
    assert "they stay for: stack demo (4)\n" in answer.out
    assert "--yes" in answer.err


def test_deletes_just_what_it_showed(stackyard: Stackyard, project: Project, mirror: Path) -> None:
    project.stack(lock_of("app"))
    flags = ("--stack", "demo")
    shown = plan_of(stackyard, mirror, *flags)
    shared = hashlib.sha256(packed("app")).hexdigest()
    assert shown["done"] is False
    assert shown["totals"]["gone"] == 2
    before = tree(mirror)
    done = plan_of(stackyard, mirror, *flags, "--yes")
    assert done["gone"] == shown["gone"]
    assert names_on(mirror) == {"app", "lib", "base", "tool"}
    assert blob_at(mirror, shared).exists()
    gone = {one["key"] for one in shown["gone"]} | {one["key"] for one in shown["blobs"]["gone"]}
    after = tree(mirror)
    index = {key for key in before if blob_at(mirror, key[-64:]) in indices(before, mirror)}
    assert before.keys() - after.keys() <= gone | index
    assert gone.isdisjoint(after)
    assert all(after[key] == before[key] for key in before.keys() & after.keys() - {INDEX_MANIFEST})
    assert shown["totals"]["freed_bytes"] == sum(
        len(before[key]) for key in before if key.startswith("blobs/") and key in gone
    )
    again = plan_of(stackyard, mirror, *flags, "--yes")
    assert again["totals"]["gone"] == 0
    stackyard("mirror.verify", "--url", str(mirror), "--unsigned")


def indices(files: Mapping[str, bytes], folder: Path) -> set[Path]:
    records = json.loads(files[INDEX_MANIFEST])["data"]
    return {blob_at(folder, record["checksum"]) for record in records}


def test_blobs_have_their_grace(stackyard: Stackyard, project: Project, tmp_path: Path) -> None:
    mirror = fill_folder(tmp_path / "young", days=0.5)
    project.stack(lock_of("app"))
    flags = ("--url", str(mirror), "--stack", "demo", "--yes")
    before = blobs_on(mirror)
    answer = stackyard("mirror.prune", *flags)
    assert "younger than 24 h" in answer.out
    assert names_on(mirror) == {"app", "lib", "base", "tool"}
    assert before <= blobs_on(mirror)
    stackyard("mirror.prune", *flags, "--grace-hours", "11")
    assert len(before - blobs_on(mirror)) == 3  # specs of old and other, tarball of other


def test_old_index_stays_for_who_is_reading_it(
    stackyard: Stackyard, project: Project, mirror: Path
) -> None:
    """Its blob is a month old, and the manifest that named it was replaced a second ago."""
    project.stack(lock_of("app"))
    old = indices(tree(mirror), mirror)
    stackyard("mirror.prune", "--url", str(mirror), "--stack", "demo", "--yes")
    assert all(path.exists() for path in old)
    flags = ("--url", str(mirror), "--stack", "demo", "--yes", "--grace-hours", "0")
    stackyard("mirror.prune", *flags)
    assert not any(path.exists() for path in old)


def test_pins_and_age(stackyard: Stackyard, mirror: Path) -> None:
    plan = plan_of(stackyard, mirror, "--keep", "lib@1:", "--keep", "other")
    assert set(kept(plan)) == {"lib", "base", "other", "tool"}
    assert kept(plan)["other"] == "pinned: other"
    manifest = next(mirror.glob("v3/manifests/spec/old/*"))
    os.utime(manifest)
    assert set(kept(plan_of(stackyard, mirror, "--keep-days", "7"))) == {"old", "base"}


def test_pin_by_metadata_where_the_index_lacks_it(stackyard: Stackyard, mirror: Path) -> None:
    (mirror / INDEX_MANIFEST).unlink()
    plan = plan_of(stackyard, mirror, "--keep", "%lib")
    assert set(kept(plan)) == {"app", "lib", "base", "tool"}


@pytest.mark.parametrize("part", ["name", "hash", "parameters"])
def test_index_with_half_an_edge_is_not_believed(
    stackyard: Stackyard, mirror: Path, part: str
) -> None:
    """Nobody signs the index: what the metadata say counts then."""
    document = json.loads(mirrors.published(mirror))
    app = document["database"]["installs"][NODES["app"]["hash"]]
    app["spec"]["dependencies"][0][part] = None
    record = Record(
        media_type=INDEX_TYPE,
        size_bytes=len(data := json.dumps(document).encode()),
        compression="none",
        checksum=hashlib.sha256(data).hexdigest(),
    )
    with closing(FileStore(mirror)) as store:
        store.write(blob_key(record), data)
        store.write(INDEX_MANIFEST, dump_manifest([record]))
    assert set(kept(plan_of(stackyard, mirror, "--keep", "app"))) == {"app", "lib", "base", "tool"}


def test_pin_that_holds_for_nothing_is_told(stackyard: Stackyard, mirror: Path) -> None:
    flags = ("--keep", "hdf5", "--keep", "tool")
    answer = stackyard("mirror.prune", "--url", str(mirror), *flags)
    assert "'hdf5' holds for nothing" in answer.err


def test_reasons_are_summed_up(stackyard: Stackyard, mirror: Path) -> None:
    os.utime(next(mirror.glob("v3/manifests/spec/old/*")))
    flags = ("--keep", "app", "--keep-days", "7")
    answer = stackyard("mirror.prune", "--url", str(mirror), *flags)
    reasons_ = "needed by those (3), pinned: app (1), younger than 7 days (1)"
    assert f"they stay for: {reasons_}\n" in answer.out


def test_settings_keep_too(stackyard: Stackyard, project: Project, mirror: Path) -> None:
    project.stack(lock_of("app"))
    settings = {"stacks": ["demo"], "keep": ["other"], "keep_days": 3, "grace_hours": 5}
    project.write("invoke.yaml", {"stackyard": {"prune": settings}})
    plan = plan_of(stackyard, mirror, "--keep", "old")
    assert set(kept(plan)) == set(NEEDS)
    assert plan["policy"] == {
        "locks": ["stack demo"],
        "pins": ["other", "old"],
        "keep_days": 3,
        "grace_hours": 5,
    }
    assert plan_of(stackyard, mirror, "--keep-days", "0.5")["policy"]["keep_days"] == 0.5


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "nothing is named": ((), "nothing is said to be kept"),
    "days that are none": (("--keep-days", "soon"), "no number of days"),
    "negative hours": (("--keep", "app", "--grace-hours", "-1"), "no number of hours"),
    "endless days": (("--keep-days", "inf"), "no number of days"),
    "a bad pin": (("--keep", "app@"), "--keep"),
    "an empty pin": (("--keep", ""), "empty spec"),
    "an unknown stack": (("--stack", "dmeo"), "there is no stack 'dmeo'"),
    "a stack that is a path": (("--stack", "../demo"), "there is no stack"),
    "a stack without lock": (("--stack", "bare"), "not locked"),
    "a broken lock": (("--stack", "broken"), "cut off"),
    "a lock of something else": (("--stack", "elsewhere"), "nothing of the mirror would be kept"),
    "a pin for nothing": (("--keep", "hdf5"), "nothing of the mirror would be kept"),
    "all is old": (("--keep-days", "7"), "nothing of the mirror would be kept"),
    "a ref outside of git": (("--ref", "main"), "in no git repository"),
}


@pytest.mark.parametrize(("flags", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(  # noqa: PLR0917 - fixtures
    stackyard: Stackyard,
    project: Project,
    mirror: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: Sequence[str],
    message: str,
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(project.root.parent))
    project.stack(lock_of("app"))
    project.write("stacks/bare/spack.yaml", {"spack": {"specs": []}})
    project.stack(lock_of("app"), name="broken")
    project.write("stacks/broken/spack.lock", json.dumps(lock_of("app"))[:-20])
    project.stack(lock_of("x", nodes=mirrors.specs({"x": []})), name="elsewhere")
    before = tree(mirror)
    answer = stackyard("mirror.prune", "--url", str(mirror), "--yes", *flags, code=2)
    assert message in answer.err
    assert tree(mirror) == before


def test_locks_need_a_project(
    stackyard: Stackyard, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = stackyard("mirror.prune", "--url", str(mirror), "--stack", "demo", code=2)
    assert "there is none here" in answer.err


def test_no_mirror(stackyard: Stackyard, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    stackyard("mirror.prune", "--url", str(tmp_path / "empty"), "--keep", "x", code=6)
    with mirror_server(tmp_path) as server:
        answer = stackyard("mirror.prune", "--url", server.url, "--keep", "x", code=6)
    assert "can only be read" in answer.err


def test_manifest_that_is_none_stops_all_deleting(stackyard: Stackyard, mirror: Path) -> None:
    """Nobody knows which blobs it would name."""
    next(mirror.glob("v3/manifests/spec/old/*")).write_text("{")
    before = tree(mirror)
    answer = stackyard("mirror.prune", "--url", str(mirror), "--keep", "app")
    assert "nothing can be deleted" in answer.err
    answer = stackyard("mirror.prune", "--url", str(mirror), "--keep", "app", "--yes", code=6)
    assert "mirror.verify --repair" in answer.err
    assert tree(mirror) == before


def test_view_of_spack_is_told_of(stackyard: Stackyard, mirror: Path) -> None:
    view = mirror / "v3" / "manifests" / "index" / "mine" / "index.manifest.json"
    view.parent.mkdir()
    shutil.copy(mirror / INDEX_MANIFEST, view)
    answer = stackyard("mirror.prune", "--url", str(mirror), "--keep", "app", "--yes")
    assert "index/mine/index.manifest.json is a view" in answer.err


# --- git ---


Git = Callable[..., str]


@pytest.fixture
def git(project: Project, monkeypatch: pytest.MonkeyPatch) -> Git:
    """Git in the project, whose main branch has the lock of app, and which began with old's."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")

    def run(*arguments: str, folder: Path = project.root) -> str:
        user = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        argv = ["git", *user, *arguments]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    run("init", "--quiet", "--initial-branch", "main")
    project.stack(lock_of("old"))
    run("add", "--all")
    run("commit", "--quiet", "--message", "1")
    run("tag", "--annotate", "rev-1", "--message", "first")
    project.stack(lock_of("app"))
    run("commit", "--quiet", "--all", "--message", "2")
    run("tag", "rev-2")
    run("branch", "feature/x")
    return run


REFS: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "branch": (("main",), {"app", "lib", "base", "tool"}),
    "annotated tag": (("rev-1",), {"old", "base"}),
    "pattern": (("rev-*",), {"app", "lib", "base", "tool", "old"}),
    "branch with a slash": (("feature/*",), {"app", "lib", "base", "tool"}),
    "revision": (("HEAD~1",), {"old", "base"}),
    "two": (("rev-1", "main"), {"app", "lib", "base", "tool", "old"}),
}


@pytest.mark.usefixtures("git")
@pytest.mark.parametrize(("refs", "names"), REFS.values(), ids=REFS)
def test_refs(stackyard: Stackyard, mirror: Path, refs: Sequence[str], names: set[str]) -> None:
    flags = [part for ref in refs for part in ("--ref", ref)]
    assert set(kept(plan_of(stackyard, mirror, *flags))) == names


def test_reason_names_ref_and_stack(stackyard: Stackyard, git: Git, mirror: Path) -> None:
    plan = plan_of(stackyard, mirror, "--ref", "rev-1")
    assert kept(plan)["old"] == "rev-1: stacks/demo"


def test_all_stacks_of_a_ref_count(
    stackyard: Stackyard, project: Project, git: Git, mirror: Path
) -> None:
    project.stack(lock_of("other"), name="second")
    git("add", "--all")
    git("commit", "--quiet", "--message", "3")
    project.stack(lock_of("tool"), name="second")  # lies here, and is not in the ref
    plan = plan_of(stackyard, mirror, "--ref", "main")
    assert set(kept(plan)) == {"app", "lib", "base", "tool", "other"}
    assert plan["policy"]["locks"] == ["main: stacks/demo", "main: stacks/second"]


def test_branches_of_remotes_count(  # noqa: PLR0917 - fixtures
    stackyard: Stackyard,
    project: Project,
    git: Git,
    mirror: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job of a CI system has no branch of its own, and what it has may be shallow."""
    clone = tmp_path / "clone"
    git("clone", "--quiet", "--depth", "1", f"file://{project.root}", str(clone))
    git("checkout", "--quiet", "--detach", folder=clone)
    git("branch", "--delete", "--force", "main", folder=clone)
    monkeypatch.chdir(clone)
    answer = stackyard("mirror.prune", "--url", str(mirror), "--ref", "main", "--json")
    assert set(kept(json.loads(answer.out))) == {"app", "lib", "base", "tool"}
    assert "shallow" in answer.err
    answer = stackyard("mirror.prune", "--url", str(mirror), "--ref", "v-*", code=2)
    assert "git fetch --tags" in answer.err


def test_project_below_the_repository(
    stackyard: Stackyard, project: Project, git: Git, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = project.root / "deep" / "er"
    shutil.copytree(project.root / "stacks", below / "stacks")
    git("rm", "--quiet", "-r", "stacks")
    git("add", "--all")
    git("commit", "--quiet", "--message", "moved")
    monkeypatch.chdir(below)
    plan = plan_of(stackyard, mirror, "--ref", "main")
    assert plan["policy"]["locks"] == ["main: deep/er/stacks/demo"]


def test_ref_without_lock_is_not_nothing_to_keep(
    stackyard: Stackyard, project: Project, git: Git, mirror: Path
) -> None:
    git("rm", "--quiet", "--cached", "stacks/demo/spack.lock")
    git("commit", "--quiet", "--message", "unlocked")
    answer = stackyard("mirror.prune", "--url", str(mirror), "--ref", "main", "--yes", code=2)
    assert "main has no lock" in answer.err
    project.write("stacks/demo/spack.lock", "{")
    git("add", "--all")
    git("commit", "--quiet", "--message", "broken")
    answer = stackyard("mirror.prune", "--url", str(mirror), "--ref", "main", "--yes", code=2)
    assert "main:stacks/demo/spack.lock" in answer.err
    answer = stackyard("mirror.prune", "--url", str(mirror), "--ref", "nosuch", "--yes", code=2)
    assert "git knows no revision 'nosuch'" in answer.err
    assert names_on(mirror) == set(NEEDS)


# --- other layouts and places ---


def test_layout_2(stackyard: Stackyard, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / "mirrors" / "v2-signed", tmp_path / "v2"))
    age(folder, 30)
    before = tree(folder)
    flags = ("--keep", "tiny-tool", "--yes")
    plan = plan_of(stackyard, folder, *flags)
    assert set(kept(plan)) == {"tiny-tool", "tiny-lib", "tiny-base"}
    assert plan["totals"]["freed_bytes"] == sum(
        len(data)
        for key, data in before.items()
        if key.endswith(".spack") and ("tiny-app-" in key or "tiny-data-" in key)
    )
    stackyard("mirror.verify", "--url", str(folder), "--unsigned")
    left = {path.name.split("-")[6] for path in folder.rglob("*.spec.json.sig")}
    assert left == {"tool", "lib", "base"}
    assert len(list(folder.rglob("*.spack"))) == 3
    after = tree(folder)
    lists = {"build_cache/index.json", "build_cache/index.json.hash"}
    assert all(after[key] == before[key] for key in after.keys() - lists)
    assert set(kept(plan_of(stackyard, folder, *flags))) == {"tiny-tool", "tiny-lib", "tiny-base"}


def test_registry(stackyard: Stackyard) -> None:
    with fake_registry() as server:
        repository = server.repository("tiny")
        fill(repository)
        url = server.mirror("tiny")
        shown = plan_of(stackyard, url, "--keep", "tiny-tool")
        assert set(kept(shown)) == {"tiny-tool", "tiny-lib", "tiny-base"}
        assert "blobs" not in shown
        assert len(repository.tags) > 7
        stackyard("mirror.prune", "--url", url, "--keep", "tiny-tool", "--yes")
        names = {tag.rsplit("-", 2)[0] for tag in repository.tags if tag != "index.spack"}
        assert names == {"tiny-tool", "tiny-lib", "tiny-base"}
        stackyard("mirror.verify", "--url", url, "--unsigned")


def test_registry_that_does_not_delete(stackyard: Stackyard) -> None:
    with fake_registry() as server:
        fill(server.repository("tiny"))
        server.deletes = False
        answer = refused_by(stackyard, server)
        assert "does not delete" in answer
        assert "rules for how long images are kept" in answer


def refused_by(stackyard: Stackyard, server: FakeRegistry) -> str:
    url = server.mirror("tiny")
    return stackyard("mirror.prune", "--url", url, "--keep", "tiny-tool", "--yes", code=6).err


def test_s3(
    stackyard: Stackyard, moto: S3Server, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Young there, whatever it was in the folder."""
    for name, value in moto.variables.items():
        monkeypatch.setenv(name, value)
    url = f"{moto.bucket()}/mirror"
    with closing(moto.store(url)) as store:
        for key, data in tree(mirror).items():
            store.write(key, data)
    assert plan_of(stackyard, url, "--keep-days", "1")["totals"]["gone"] == 0
    young = plan_of(stackyard, url, "--keep", "app", "--yes")
    assert set(kept(young)) == {"app", "lib", "base", "tool"}
    assert young["blobs"]["gone"] == []
    last = plan_of(stackyard, url, "--keep", "app", "--yes", "--grace-hours", "0")
    assert len(last["blobs"]["gone"]) >= 3
    stackyard("mirror.verify", "--url", url, "--unsigned")
    answer = stackyard("mirror.list", "--url", url, "--json")
    assert {one["name"] for one in json.loads(answer.out)["binaries"]} == set(kept(young))


# --- others at work ---


class Meddled(FileStore):
    """A folder in which somebody else does something before each file is deleted."""

    def __init__(self, root: Path, meddle: Callable[[str], None]) -> None:
        super().__init__(root)
        self._meddle = meddle

    def delete(self, key: str) -> None:
        self._meddle(key)
        super().delete(key)


def pruned(store: FileStore, *keep: str) -> None:
    """Carry out a plan that keeps these and no more, without any grace."""
    found = stock(store, 3, whole=True, bar=lambda *_: None)
    asked = Policy((Keeper("x", hashes(*keep)),), (), 0, 0, time.time())
    _, gone = decide(found.holdings, asked, {})
    holdings = [choice.holding for choice in gone]
    carry_out(store, found, holdings, asked, told=lambda _: None, bar=lambda *_: None)


def test_blob_that_is_named_meanwhile_stays(mirror: Path) -> None:
    """A push finds a blob of what is going to go, and does not send it again."""
    added: list[str] = []

    def push(key: str) -> None:
        if not added and key.startswith("v3/manifests/spec/"):
            with closing(FileStore(mirror)) as other:
                added.append(put(other, mirrors.specs({"fresh": []}), "fresh", packed("other")))

    with closing(Meddled(mirror, push)) as store:
        pruned(store, "app", "lib", "base", "tool")
    assert added
    assert blob_at(mirror, hashlib.sha256(packed("other")).hexdigest()).exists()
    manifest = json.loads((mirror / added[0]).read_bytes())
    assert all(blob_at(mirror, record["checksum"]).exists() for record in manifest["data"])


@pytest.mark.parametrize("again", [False, True])
def test_blob_that_is_named_while_it_is_deleted_is_told(mirror: Path, *, again: bool) -> None:
    """A push saw it there, and named it; unless the push looks again itself and brings it back."""
    blob = blob_at(mirror, hashlib.sha256(packed("other")).hexdigest())
    pushed: list[str] = []

    def push(key: str) -> None:
        if key.endswith(blob.name):
            with closing(FileStore(mirror)) as other:
                pushed.append(put(other, mirrors.specs({"fresh": []}), "fresh", packed("other")))

    class Pushed(Meddled):
        def list(self, prefix: str = "") -> Iterator[Listed]:
            if pushed and again:
                blob.parent.mkdir(parents=True, exist_ok=True)
                blob.write_bytes(packed("other"))
            return super().list(prefix)

    with closing(Pushed(mirror, push)) as store:
        if again:
            pruned(store, "app", "lib", "base", "tool")
        else:
            with pytest.raises(CorruptError, match=f"1 blobs while .* blobs/.*/{blob.name}"):
                pruned(store, "app", "lib", "base", "tool")
    assert blob.exists() == again


def test_listing_with_gaps_is_not_believed(mirror: Path) -> None:
    """The blobs of what it leaves out would belong to nobody."""

    class Forgetful(FileStore):
        def list(self, prefix: str = "") -> Iterator[Listed]:
            return (one for one in super().list(prefix) if "/spec/lib/" not in one.key)

    before = tree(mirror)
    with (
        closing(Forgetful(mirror)) as store,
        pytest.raises(StoreError, match=r"lacks .*/spec/lib/"),
    ):
        pruned(store, "app", "lib", "base", "tool")
    assert tree(mirror) == before
    (path,) = mirror.glob("v3/manifests/spec/lib/*")
    path.unlink()  # it is named, and it is really gone
    with closing(Forgetful(mirror)) as store:
        pruned(store, "app", "base", "tool")
    assert {path.parent.name for path in mirror.glob("v3/manifests/spec/*/*")} == {
        "app",
        "base",
        "tool",
    }


def test_metadata_that_nobody_could_get_are_no_answer(mirror: Path) -> None:
    """What a young binary needs to run is not known then, so nothing may go."""

    class Failing(FileStore):
        def read(self, key: str, *, max_bytes: int = MANIFEST_BYTES) -> bytes:
            if key.startswith("blobs/"):
                raise UnreachableError("the disk is on fire", where=key)
            return super().read(key, max_bytes=max_bytes)

    (mirror / INDEX_MANIFEST).unlink()
    with closing(Failing(mirror)) as store:
        found = stock(store, 3, whole=True, bar=lambda *_: None)
    assert len(found.problems) == len(NODES)


def test_what_is_pushed_anew_since_the_plan_stays(mirror: Path) -> None:
    found_index = mirrors.published(mirror)
    with closing(FileStore(mirror)) as store:
        found = stock(store, 3, whole=True, bar=lambda *_: None)
        asked = Policy((Keeper("x", hashes("app", "lib", "base", "tool")),), (), 0, 0, time.time())
        _, gone = decide(found.holdings, asked, {})
        holdings = [choice.holding for choice in gone]
        put(store, NODES, "other", packed("built anew"))
        said: list[str] = []
        carry_out(store, found, holdings, asked, told=said.append, bar=lambda *_: None)
    assert names_on(mirror) == {"app", "lib", "base", "tool", "other"}
    assert mirrors.published(mirror) != found_index
    assert said == ["1 of them stay: somebody pushed them anew", "removed 1 manifests"]


@pytest.mark.parametrize("named", [False, True])
def test_index_that_is_about_to_be_published_does_not_bring_them_back(
    mirror: Path, *, named: bool
) -> None:
    """Somebody has read the manifests before they go, and publishes after that."""

    class Slow(FileStore):
        def replace(self, key: str, data: bytes, version: str) -> str:
            if not begun:
                begun.append(key)
                with closing(FileStore(mirror)) as other:
                    pruned(
                        other, "app", "lib", "base", "tool", *(() if named else ("old", "other"))
                    )
            return super().replace(key, data, version)

    begun: list[str] = []
    with closing(FileStore(mirror)) as store:
        for name in ("fresh", "late"):
            put(store, mirrors.specs({name: []}), name, packed(name))
    with closing(Slow(mirror)) as store:
        update_index(store)
    assert begun
    assert names_on(mirror) == {"app", "lib", "base", "tool"} | (
        set() if named else {"old", "other"}
    )


def test_index_made_meanwhile_does_not_bring_them_back(mirror: Path) -> None:
    """Somebody indexes the mirror while the manifests still lie there."""
    indexed: list[bool] = []

    def index(key: str) -> None:
        if not indexed and key.startswith("v3/manifests/spec/"):
            indexed.append(True)
            with closing(FileStore(mirror)) as other:
                update_index(other, full=True)

    with closing(Meddled(mirror, index)) as store:
        pruned(store, "app", "lib", "base", "tool")
    assert indexed
    assert names_on(mirror) == {"app", "lib", "base", "tool"}


def test_manifest_that_changes_into_none_stops_the_sweep(mirror: Path) -> None:
    """From then on nobody knows what is named."""
    path = next(mirror.glob("v3/manifests/spec/app/*"))

    def garble(_: str) -> None:
        path.write_text("{}")

    with closing(Meddled(mirror, garble)) as store, pytest.raises(Exception, match="no list"):
        pruned(store, "app", "lib", "base", "tool")
    assert blob_at(mirror, hashlib.sha256(packed("other")).hexdigest()).exists()


# --- kills ---


KILLED = 160
COMMAND = [sys.executable, "-c", "from stackyard.main import main; main()"]


def seen_whole(folder: Path) -> None:
    """Nothing is named that is not there."""
    there = set()
    for path in folder.glob("v3/manifests/spec/*/*"):
        there.add(path.name[-51:-19])
        for record in json.loads(path.read_bytes())["data"]:
            assert blob_at(folder, record["checksum"]).stat().st_size == record["contentLength"]
    text = json.loads(mirrors.published(folder))
    installs = text["database"]["installs"]
    assert {key for key, one in installs.items() if one["in_buildcache"]} <= there


def comparable(folder: Path) -> dict[str, bytes]:
    """All files, with the text of the index in the place of its manifest and its blobs."""
    files = tree(folder)
    for path in indices(files, folder):
        del files[path.relative_to(folder).as_posix()]
    return {**files, INDEX_MANIFEST: mirrors.published(folder)}


def test_kill_at_any_moment_and_run_again(tmp_path: Path, long: bool) -> None:  # noqa: FBT001
    """End state as if nobody had disturbed it; and nothing is ever named that is gone."""
    many = {f"p{number}": ["p0"] if number else [] for number in range(KILLED)}
    whole = fill_folder(tmp_path / "whole", mirrors.specs(many))
    keep = [part for number in range(0, KILLED, 9) for part in ("--keep", f"p{number}")]

    def argv(folder: Path) -> list[str]:
        url = ("--url", str(folder))
        return [*COMMAND, "mirror.prune", *url, *keep, "--grace-hours", "0", "--yes"]

    calm = Path(shutil.copytree(whole, tmp_path / "calm"))
    _, longest_s = killed_while_deleting(argv(calm), 60)
    expected = comparable(calm)
    assert len(list(calm.glob("v3/manifests/spec/*/*"))) == len(keep) // 2

    seed = random.randrange(10**9)  # noqa: S311 - chance, not secrecy
    draw = random.Random(seed)  # noqa: S311
    wanted, in_time = 100 if long else 5, 0
    for number in range(4 * wanted):
        folder = Path(shutil.copytree(whole, tmp_path / "killed", copy_function=os.link))
        killed, _ = killed_while_deleting(argv(folder), draw.random() * longest_s * 0.8)
        in_time += killed
        seen_whole(folder)
        subprocess.run(argv(folder), check=True, capture_output=True, cwd=tmp_path)
        assert comparable(folder) == expected, f"seed {seed}, round {number}"
        shutil.rmtree(folder)
        if in_time == wanted:
            break
    print(f"{in_time} kills in {number + 1} runs")  # noqa: T201 - shown with -s
    assert in_time >= wanted / 5


def killed_while_deleting(argv: list[str], after_s: float) -> tuple[bool, float]:
    """Run until the plan is shown, and kill so much later.

    Whether the kill came in time, and how long it ran after the plan.
    """
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as run:
        assert run.stdout
        for line in run.stdout:
            if "binaries go" in line:
                break
        begun = time.monotonic()
        try:
            run.wait(after_s)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
    return run.returncode == -signal.SIGKILL, time.monotonic() - begun
