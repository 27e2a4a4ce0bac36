"""The mirror that a pull request has: its name, the stack that goes with it, and its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, Stackyard
from fake_registry import FakeRegistry, fake_registry
from locks import document
from pipelines import jobs_of, load
from services import S3Server

from stackyard.edges.stores.folder import FileStore
from stackyard.edges.stores.oci import OciStore
from stackyard.edges.stores.store import Access, WritableStore
from stackyard.errors import ConfigError
from stackyard.oci import INDEX_TAG, INDEX_TYPES, manifest_key
from stackyard.pull_requests import NAME, RELEASE, mirror_name

CHAIN = document({"app": ["lib"], "lib": []})
PULLS = "s3://example-pulls/all"
RELEASED = "s3://example-binaries/demo"

# -- its name -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"CI_MERGE_REQUEST_IID": "7", "CI_COMMIT_REF_SLUG": "x"}, "mr-7"),
        ({"CI_EXTERNAL_PULL_REQUEST_IID": "7", "CI_COMMIT_REF_SLUG": "x"}, "pr-7"),
        ({"CI_COMMIT_REF_SLUG": "7"}, "ref-7"),
        ({"CI_MERGE_REQUEST_IID": "", "CI_COMMIT_REF_SLUG": "a-b-1"}, "ref-a-b-1"),
        ({"CI_COMMIT_REF_SLUG": "x" * 63}, f"ref-{'x' * 63}"),
    ],
)
def test_names(variables: dict[str, str], name: str) -> None:
    assert mirror_name(variables) == name
    assert NAME.fullmatch(name)


@pytest.mark.parametrize("value", ["..", "7/../..", "7 ", "-7", "x", "7\n", "1" * 13])
def test_numbers_that_are_none(value: str) -> None:
    with pytest.raises(ConfigError, match="CI_MERGE_REQUEST_IID"):
        mirror_name({"CI_MERGE_REQUEST_IID": value, "CI_COMMIT_REF_SLUG": "x"})


@pytest.mark.parametrize("value", ["..", "a/b", "A", "-a", "a-", "a b", "a\n", "x" * 64, "$(id)"])
def test_slugs_that_are_none(value: str) -> None:
    with pytest.raises(ConfigError, match="CI_COMMIT_REF_SLUG"):
        mirror_name({"CI_COMMIT_REF_SLUG": value})


def test_no_pull_request() -> None:
    with pytest.raises(ConfigError, match="which pull request"):
        mirror_name({})


# -- the stack ------------------------------------------------------------------------------


@pytest.fixture
def pull(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACK_PIPELINE_TYPE", "spack_pull_request")
    monkeypatch.setenv("CI_MERGE_REQUEST_IID", "7")


class Made:
    """The child pipeline of a stack and the manifest that its jobs use."""

    def __init__(self, project: Project, stackyard: Stackyard, **stack: Any) -> None:
        settings = {"pull_requests": {"mirror": PULLS}, **stack.pop("settings", {})}
        project.stack(CHAIN, settings=settings, **stack)
        stackyard("generate", "--stack", "demo", "--no-prune")
        self.jobs = jobs_of(load(project.child.read_bytes()))
        path = project.root / "jobs_scratch_dir/concrete_environment/spack.yaml"
        self.spack = load(path.read_bytes())["spack"]

    @property
    def mirrors(self) -> dict[str, Any]:
        mirrors: dict[str, Any] = self.spack["mirrors"]
        return mirrors

    @property
    def target(self) -> str:
        return str(self.jobs["rebuild-index"]["script"][-1].split()[-1])


@pytest.mark.usefixtures("pull")
def test_it_writes_to_its_own_mirror(project: Project, stackyard: Stackyard) -> None:
    made = Made(project, stackyard)
    assert made.mirrors == {
        "buildcache-destination:": {"url": f"{PULLS}/mr-7", "signed": False},
        RELEASE: {"url": RELEASED, "signed": False},
    }
    assert made.target == f"{PULLS}/mr-7"
    for job in made.jobs.values():
        assert job["before_script"][0] == "unset SPACK_SIGNING_KEY"


@pytest.mark.parametrize("kind", ["", "spack_protected_branch", "spack_copy_only"])
def test_other_pipelines_do_not(
    kind: str, project: Project, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACK_PIPELINE_TYPE", kind)
    monkeypatch.setenv("CI_MERGE_REQUEST_IID", "7")
    source = {"buildcache-source": {"url": "s3://source"}} if "copy" in kind else {}
    mirrors = {"buildcache-destination": {"url": RELEASED}, **source}
    made = Made(project, stackyard, mirrors=mirrors)
    assert made.mirrors == mirrors
    assert made.target == RELEASED
    assert not any("before_script" in job for job in made.jobs.values())


@pytest.mark.usefixtures("pull")
def test_it_only_reads_from_others(project: Project, stackyard: Stackyard) -> None:
    """Also where what is included says how to push there, or to push of itself."""
    project.write(
        "shared/mirrors.yaml",
        {
            "mirrors": {
                "buildcache-destination": {"push": {"url": "s3://w", "profile": "p"}, "url": "x"},
                "eager": {"url": "https://eager.example.com", "autopush": True},
            }
        },
    )
    made = Made(
        project,
        stackyard,
        include=["../../shared/mirrors.yaml"],
        mirrors={
            "buildcache-destination": {"fetch": {"url": "https://r.example.com"}, "signed": True},
            "plain": "https://plain.example.com",
        },
    )
    assert made.mirrors["buildcache-destination:"] == {
        "url": f"{PULLS}/mr-7",
        "signed": False,
        "profile": "p",
    }
    released = made.mirrors[RELEASE]
    assert released["fetch"] == {"url": "https://r.example.com"}
    assert released["signed"] is True
    assert "push" not in released
    assert made.mirrors["eager:"] == {"url": "https://eager.example.com"}
    assert made.mirrors["plain"] == "https://plain.example.com"
    assert made.spack["include"] == ["../../shared/mirrors.yaml"]


@pytest.mark.usefixtures("pull")
def test_own_credentials(project: Project, stackyard: Stackyard) -> None:
    """Those of the release are protected, and a pull request has none of them."""
    pair = {"id_variable": "PULL_ID", "secret_variable": "PULL_SECRET"}
    entry = {"url": f"{PULLS}/", "access_pair": pair, "endpoint_url": "https://s3.example.com"}
    released = {"id_variable": "ID", "secret_variable": "SECRET"}
    made = Made(
        project,
        stackyard,
        settings={"pull_requests": {"mirror": entry}},
        mirrors={"buildcache-destination": {"url": RELEASED, "access_pair": released}},
    )
    own = made.mirrors["buildcache-destination:"]
    assert own == {**entry, "url": f"{PULLS}/mr-7", "signed": False}


@pytest.mark.usefixtures("pull")
def test_credentials_as_for_releases(project: Project, stackyard: Stackyard) -> None:
    pair = {"id_variable": "ID", "secret_variable": "SECRET"}
    entry = {"url": RELEASED, "access_pair": pair, "endpoint_url": "https://s3.example.com"}
    made = Made(project, stackyard, mirrors={"buildcache-destination": entry})
    own = made.mirrors["buildcache-destination:"]
    assert own == {**entry, "url": f"{PULLS}/mr-7", "signed": False}


@pytest.mark.usefixtures("pull")
@pytest.mark.parametrize(
    ("prefix", "why"),
    [
        ("pulls", "no URL that can be pushed to"),
        ("https://example.com/pulls", "no URL that can be pushed to"),
        ("s3:x", "no URL that can be pushed to"),
        (RELEASED, "the mirror buildcache-destination lies there"),
        ("s3://example-binaries", "the mirror buildcache-destination lies there"),
    ],
)
def test_places_that_cannot_be(
    prefix: str, why: str, project: Project, stackyard: Stackyard
) -> None:
    project.stack(CHAIN, settings={"pull_requests": {"mirror": prefix}})
    for arguments in (["generate", "--stack", "demo", "--no-prune"], ["generate"]):
        answer = stackyard(*arguments, code=2)
        assert f"pull_requests.mirror: {why}" in answer.err.replace(f"{prefix!r} is ", "")


@pytest.mark.usefixtures("pull")
def test_a_folder_that_the_first_push_makes(project: Project, stackyard: Stackyard) -> None:
    """Nothing is there yet, and that is certain; a folder that nobody made is another matter."""
    pulls, released = project.root / "pulls", project.root / "released"
    settings = {"pull_requests": {"mirror": pulls.as_uri()}}
    project.stack(CHAIN, settings=settings, mirror=released.as_uri())
    released.mkdir()
    assert "mr-7: the folder does not exist" in stackyard(
        "plan", "--stack", "demo", code=6
    ).err.replace("mirror buildcache-destination: ", "")
    pulls.mkdir()
    planned = json.loads(stackyard("plan", "--stack", "demo", "--json").out)
    assert {spec["decision"] for spec in planned["specs"]} == {"build"}


# -- its end --------------------------------------------------------------------------------


def fill(store: WritableStore) -> set[str]:
    """What a mirror has, and a file that is none of it; the keys."""
    keys = {
        "v3/layout.json",
        "v3/manifests/index/index.manifest.json",
        "v3/manifests/spec/app/app-1.0-x.spec.manifest.json",
        "blobs/sha256/ab/abcd",
        "build_cache/index.json",
    }
    for key in keys:
        store.write(key, key.encode())
    store.write("notes.txt", b"mine")
    return keys


def keys_of(store: WritableStore) -> set[str]:
    return {listed.key for listed in store.list()}


@pytest.fixture
def emptied(project: Project, stackyard: Stackyard) -> Callable[[WritableStore, str], None]:
    """Empties what was filled, step by step, and looks that nothing else goes."""

    def check(store: WritableStore, url: str) -> None:
        keys = fill(store)
        shown = stackyard("mirror.empty", "--url", url)
        assert "would remove 5 files" in shown.err
        assert "notes.txt" in shown.err
        assert keys_of(store) == keys | {"notes.txt"}
        answer = json.loads(stackyard("mirror.empty", "--url", f"{url}/", "--yes", "--json").out)
        assert answer["files"] == 5
        assert answer["done"] is True
        assert answer["left"] == ["notes.txt"]
        assert keys_of(store) == {"notes.txt"}
        assert "removed 0 files" in stackyard("mirror.empty", "--url", url, "--yes").err

    return check


def test_a_folder(
    project: Project, emptied: Callable[[WritableStore, str], None], tmp_path: Path
) -> None:
    pulls = tmp_path / "pulls"
    project.stack(CHAIN, settings={"pull_requests": {"mirror": pulls.as_uri()}})
    emptied(FileStore(pulls / "mr-7"), f"{pulls.as_uri()}/mr-7")


def test_a_bucket(
    project: Project,
    emptied: Callable[[WritableStore, str], None],
    moto: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the credentials that the settings name, and beside the mirror of another."""
    pair = {"id_variable": "PULL_ID", "secret_variable": "PULL_SECRET"}
    monkeypatch.setenv("PULL_ID", moto.id)
    monkeypatch.setenv("PULL_SECRET", moto.secret)
    bucket = moto.bucket()
    entry = {"url": f"{bucket}/pulls", "access_pair": pair, "endpoint_url": moto.url}
    project.stack(CHAIN, settings={"pull_requests": {"mirror": entry}})
    other = moto.store(f"{bucket}/pulls/mr-70")
    kept = fill(other) | {"notes.txt"}
    store = moto.store(f"{bucket}/pulls/mr-7")
    emptied(store, f"{bucket}/pulls/mr-7")
    assert keys_of(other) == kept
    store.close()
    other.close()


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        yield server


def test_a_registry(project: Project, stackyard: Stackyard, fake: FakeRegistry) -> None:
    prefix = f"oci+http://127.0.0.1:{fake.server_port}/pulls"
    project.stack(CHAIN, settings={"pull_requests": {"mirror": prefix}})
    store = OciStore(f"{prefix}/mr-7", Access(), sleep=lambda _: None)
    for tag in ("app-1.0-x.spack", INDEX_TAG):
        text = {"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": []}
        store.write(manifest_key(tag), json.dumps({**text, "annotations": {"t": tag}}).encode())
    assert len(list(store.list(manifest_key("")))) == 2
    stackyard("mirror.empty", "--url", f"{prefix}/mr-7", "--yes")
    assert list(store.list(manifest_key(""))) == []
    store.close()


def test_the_mirror_of_this_job(
    project: Project, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pulls = tmp_path / "pulls"
    project.stack(CHAIN, settings={"pull_requests": {"mirror": pulls.as_uri()}})
    fill(FileStore(pulls / "ref-mine"))
    fill(FileStore(pulls / "ref-other"))
    monkeypatch.setenv("CI_COMMIT_REF_SLUG", "mine")
    stackyard("mirror.empty", "--stack", "demo", "--yes")
    assert keys_of(FileStore(pulls / "ref-mine")) == {"notes.txt"}
    assert len(keys_of(FileStore(pulls / "ref-other"))) == 6


def test_the_index_of_a_pull_request_with_its_credentials(
    project: Project, stackyard: Stackyard, moto: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``mirror.index --url``, as the reindex job says it."""
    pair = {"id_variable": "PULL_ID", "secret_variable": "PULL_SECRET"}
    monkeypatch.setenv("PULL_ID", moto.id)
    monkeypatch.setenv("PULL_SECRET", moto.secret)
    entry = {"url": f"{moto.bucket()}/p", "access_pair": pair, "endpoint_url": moto.url}
    project.stack(CHAIN, settings={"pull_requests": {"mirror": entry}})
    stackyard("mirror.index", "--url", f"{entry['url']}/mr-7")
    assert moto.store(f"{entry['url']}/mr-7").exists("v3/layout.json")


OTHERS = [
    "s3://example-binaries/demo",
    "s3://example-pulls/all",
    "s3://example-pulls/all/..",
    "s3://example-pulls/all/main",
    "s3://example-pulls/all/mr-7/v3",
    "s3://example-pulls/mr-7",
    "s3://elsewhere/mr-7",
    "s3://example-pulls/all/mr-7?x",
]


@pytest.mark.parametrize("url", OTHERS)
def test_no_other_mirror_is_emptied(url: str, project: Project, stackyard: Stackyard) -> None:
    project.stack(CHAIN, settings={"pull_requests": {"mirror": PULLS}})
    answer = stackyard("mirror.empty", "--url", url, "--yes", code=2)
    assert "is not the mirror of a pull request" in answer.err


def test_not_where_any_stack_has_its_own(project: Project, stackyard: Stackyard) -> None:
    """The settings of one stack may be right for it and wrong for another."""
    project.stack(CHAIN, settings={"pull_requests": {"mirror": PULLS}})
    project.stack(CHAIN, name="other", mirror=f"{PULLS}/mr-7")
    answer = stackyard("mirror.empty", "--url", f"{PULLS}/mr-7", "--yes", code=2)
    assert "the mirror buildcache-destination lies there" in answer.err


def test_stacks_without_mirrors_of_their_own(
    project: Project, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.stack(CHAIN)
    monkeypatch.setenv("CI_MERGE_REQUEST_IID", "7")
    answer = stackyard("mirror.empty", "--yes", code=2)
    assert "pull requests have no mirror of their own" in answer.err


def test_a_prefix_that_cannot_be(project: Project, stackyard: Stackyard) -> None:
    project.stack(CHAIN, settings={"pull_requests": {"mirror": "https://x.example.com"}})
    answer = stackyard("mirror.empty", "--url", "https://x.example.com/mr-7", "--yes", code=2)
    assert "no URL that can be pushed to" in answer.err
