"""Parent and child pipelines, run whole by gitlab-ci-local with the real Spack."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_cdash import FakeCDash, fake_cdash
from real_pipeline import KEPT, Pipelines, Run
from real_spack import PYTHON, RealSpack, needs_spack
from services import S3Server
from signing import needs_gpg
from tests_data import DATA

pytestmark = [needs_spack, needs_gpg]

APP, TOOL = "tiny-app@1.1", "tiny-tool@1.1"
LIB, OLD_LIB = "tiny-lib@1.1", "tiny-lib@1.0"
ALL = {APP, TOOL, LIB, OLD_LIB, "tiny-data@1.1", "tiny-base@1.1"}
PARENT = {"nothing to do", "generate-tiny", "build-tiny"}


GROUP = "Pull requests"
#: Recognisable, and in no job of this pipeline of any use.
SECRETS = {
    name: f"fake-{name.lower().replace('_', '-')}-4711"
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "GITHUB_TOKEN",
        "GITLAB_TOKEN",
        "GITLAB_TRIGGER_TOKEN",
        "SPACK_CDASH_AUTH_TOKEN",
        "SPACK_SIGNING_KEY",
    )
}
TOKEN = SECRETS["SPACK_CDASH_AUTH_TOKEN"]


@pytest.fixture
def cdash() -> Iterator[FakeCDash]:
    with fake_cdash(TOKEN, GROUP) as service:
        yield service
    assert service.breaches == []


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def leaks(folder: Path) -> list[str]:
    """Files, unpacked where they are packed, that hold a secret; logs of runs are among them."""
    found = []
    for name, data in tree(folder).items():
        plain = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        found += [f"{name}: {key}" for key, value in SECRETS.items() if value.encode() in plain]
    return found


def all_green(run: Run, pipelines: Pipelines) -> None:
    """Every job of parent and child passed; there is at least one of each."""
    assert run.code == 0, run.out
    assert pipelines.jobs
    children = {f"[build-tiny] -> {name}" for name in pipelines.jobs}
    assert run.ended == dict.fromkeys(children | PARENT, "PASS"), run.out


def test_from_a_lock_to_its_users(
    pipelines: Pipelines, fresh_spack: Callable[[], RealSpack], tmp_path: Path
) -> None:
    """On a protected branch: built, signed and indexed; then nothing; then only what changed."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    signing = {"script": ['echo "signed" > "$LEDGER"'], "variables": {"LEDGER": f"{tmp_path}/l"}}
    pipelines.lay_out(
        {"url": mirror.as_uri(), "signed": True}, pipeline_gen=[{"signing-job": signing}]
    )
    name = pipelines.stackyard("keys.create", "--name", "Tiny").strip()
    secret = pipelines.stackyard("keys.export", "--stack", "tiny", "--secret-to", "-").strip()
    pipelines.env["SPACK_SIGNING_KEY"] = secret
    protected = {"CI_COMMIT_REF_PROTECTED": "true"}

    pipelines.settings(spack=pipelines.sources())
    pipelines.take_lock()
    pipelines.commit("a stack")
    run = pipelines.run(**protected)
    all_green(run, pipelines)
    assert pipelines.built() == ALL
    assert {"sign-pkgs", "rebuild-index"} < set(pipelines.jobs)
    assert (tmp_path / "l").read_text() == "signed\n"
    assert secret not in run.out
    pipelines.stackyard("mirror.verify", "--url", str(mirror))
    pipelines.stackyard("mirror.index", "--url", str(mirror), "--check")
    assert f"{name}  Tiny" in pipelines.stackyard("keys.trust", "--url", str(mirror))

    again = pipelines.run(**protected)
    all_green(again, pipelines)
    assert set(pipelines.jobs) == {"no-specs-to-rebuild"}

    recipe = pipelines.root / "packages/spack_repo/tiny/packages/tiny_lib/package.py"
    recipe.write_text(recipe.read_text().replace("echo tiny-lib", "echo tiny-lib, mended:"))
    shown = pipelines.lock()
    assert "tiny-lib" in shown
    pipelines.commit("a change")
    changed = pipelines.run(**protected)
    all_green(changed, pipelines)
    assert pipelines.built() == {LIB, OLD_LIB, TOOL, APP}

    user = fresh_spack()
    theirs = user.folder / "project"
    shutil.copytree(pipelines.root, theirs, ignore=shutil.ignore_patterns(".git*", "jobs_*"))
    stack = str(theirs / "stacks/tiny")
    user("-e", stack, "buildcache", "keys", "--install", "--trust")
    assert name in user("gpg", "list", "--trusted")
    assert user.install(stack) == len(pipelines.locked()["concrete_specs"])


def test_all_that_settings_ask_for(pipelines: Pipelines, ceph: S3Server, tmp_path: Path) -> None:
    """A bucket, our index, a clone of Spack in each job, sections, test results; one is broken."""
    if subprocess.run([PYTHON or "python3", "-c", "import boto3"], check=False).returncode:
        pytest.skip("the Python that runs Spack (SPACK_PYTHON) has no boto3")
    url = ceph.bucket()
    pipelines.env |= {
        **ceph.variables,
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "STACKYARD_SPACK_DIR": str(KEPT / "spack"),  # as in our image
    }
    pipelines.lay_out(
        {"url": url, "signed": False},
        own_spack=True,
        section={"temporary-storage-url-prefix": f"{url}/temporary"},
    )
    pipelines.settings(
        index="stackyard",
        jobs={"clone": True, "sections": True, "junit": True},
        spack=pipelines.sources(),
    )
    recipe = pipelines.root / "packages/spack_repo/tiny/packages/tiny_data/package.py"
    good = recipe.read_text()
    recipe.write_text(
        good.replace("        mkdirp(prefix.bin)", "        raise InstallError('no')")
    )
    pipelines.take_lock()
    pipelines.commit("a stack")

    run = pipelines.run()
    how = {name.removeprefix("[build-tiny] -> "): state for name, state in run.ended.items()}
    failed = sorted(name for name, state in how.items() if state == "FAIL")
    built = {name.partition(" ")[0] for name, state in how.items() if state == "PASS"}
    assert {name.partition(" ")[0] for name in failed} == {"tiny-data@1.1"}, run.out
    assert built >= {"tiny-base@1.1", LIB, OLD_LIB, TOOL}
    assert APP not in built  # it waits for what failed
    for mark in ("stackyard_clone_started", "stackyard_build took"):
        assert mark in run.out  # sections, as gitlab-ci-local shows them

    # gitlab-ci-local does not go on to later stages, and a trigger hides a child's failure from it.
    child = ("--file", "jobs_scratch_dir/tiny/pipeline.yml")
    assert pipelines.run(*child, failed[0]).code == 1
    assert pipelines.run(*child, "rebuild-index").ended == {"rebuild-index": "PASS"}
    listed = json.loads(pipelines.stackyard("mirror.list", "--url", url, "--json"))
    assert len(listed["binaries"]) == 4
    pipelines.stackyard("mirror.index", "--url", url, "--check")

    recipe.write_text(good)
    mended = pipelines.run()
    all_green(mended, pipelines)
    assert pipelines.built() == {"tiny-data@1.1", APP}
    assert (pipelines.root / "jobs_scratch_dir/tiny/tests/ci-test-results.xml").is_file()
    pipelines.stackyard("mirror.index", "--url", url, "--check")


def test_pull_request(pipelines: Pipelines, cdash: FakeCDash, tmp_path: Path) -> None:
    """It reads what was released, writes to its own mirror unsigned, and that goes in the end.

    What becomes of its packages is on CDash.
    """
    release = tmp_path / "release"
    shutil.copytree(DATA / "mirrors/v3-unsigned", release)
    (tmp_path / "pulls").mkdir()
    for name in ("tiny-app", "tiny-tool"):
        (gone,) = release.glob(f"v3/manifests/spec/{name}/*")
        gone.unlink()
    shutil.rmtree(release / "v3/manifests/index")
    before = tree(release)
    about = {"url": cdash.url, "project": "Tiny Stacks", "site": "Here", "build-group": GROUP}
    pipelines.lay_out({"url": release.as_uri(), "signed": False}, sections={"cdash": about})
    pipelines.settings(index="stackyard", pull_requests={"mirror": (tmp_path / "pulls").as_uri()})
    pipelines.env |= SECRETS
    pipelines.take_lock()
    pipelines.commit("a stack")
    pull = {"CI_PIPELINE_SOURCE": "merge_request_event", "CI_MERGE_REQUEST_IID": "7"}
    own = tmp_path / "pulls" / "mr-7"

    run = pipelines.run(**pull)
    assert run.code == 0, run.out
    assert pipelines.built() == {TOOL, APP}
    assert set(run.ended.values()) == {"PASS"}
    assert tree(release) == before
    assert "spack-0/run-0.log" in tree(tmp_path)
    assert leaks(tmp_path) == []
    made, *reports = cdash.asked
    assert made.method == "POST"
    builds = {report.parameters["build"] for report in reports}
    assert len(builds) == 2
    assert all(build.endswith(f" ({GROUP})") for build in builds)
    listed = json.loads(pipelines.stackyard("mirror.list", "--url", str(own), "--json"))
    assert len(listed["binaries"]) == 2

    assert set(pipelines.run(**pull).ended.values()) == {"PASS"}
    assert set(pipelines.jobs) == {"no-specs-to-rebuild"}

    stopped = pipelines.run("cleanup-tiny", **pull)
    assert stopped.ended == {"cleanup-tiny": "PASS"}, stopped.out
    assert tree(own) == {}
    assert tree(release) == before


def test_copy_only(pipelines: Pipelines, tmp_path: Path) -> None:
    """Nothing is built: what another mirror has of the stack comes over, and into the index."""
    source, target = DATA / "mirrors/v3-unsigned", tmp_path / "target"
    target.mkdir()
    script = [
        'spack env activate --without-view "$SPACK_CONCRETE_ENV_DIR"',
        'spack buildcache sync "$SPACK_BUILDCACHE_SOURCE" "$SPACK_COPY_ONLY_DESTINATION"',
    ]
    pipelines.lay_out(
        {},
        pipeline_gen=[{"copy-job": {"script": script}}],
        sections={
            "mirrors": {
                "buildcache-source": {"url": source.as_uri(), "signed": False},
                "buildcache-destination": {"url": target.as_uri(), "signed": False},
            }
        },
    )
    pipelines.take_lock()
    pipelines.commit("a stack")
    run = pipelines.run(SPACK_PIPELINE_TYPE="spack_copy_only")
    all_green(run, pipelines)
    assert set(pipelines.jobs) == {"copy", "rebuild-index"}
    pipelines.stackyard("mirror.verify", "--url", str(target), "--unsigned")
    pipelines.stackyard("mirror.index", "--url", str(target), "--check")
    listed = json.loads(pipelines.stackyard("mirror.list", "--url", str(target), "--json"))
    assert len(listed["binaries"]) == 7
