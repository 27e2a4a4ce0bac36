"""A whole pipeline whose every credential is known to the test: none of them shows anywhere."""

from __future__ import annotations

import gzip
import io
import json
import secrets
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from fake_cdash import PROJECT, FakeCDash, fake_cdash
from fake_github import FakeGitHub, Token, fake_github
from fake_gitlab import Bridge, FakeGitLab, Job, fake_gitlab
from git_server import GitServer, serve_git
from real_pipeline import Pipelines, commit_of
from real_spack import PYTHON, SPACK, needs_spack
from services import S3Server
from signing import needs_gpg
from watching_processes import watched_processes

from stackyard.edges.settings import SECRETS

needs_boto3 = pytest.mark.skipif(
    bool(SPACK)
    and subprocess.run([PYTHON or "python3", "-c", "import boto3"], check=False).returncode != 0,
    reason="the Python that runs Spack (SPACK_PYTHON) has no boto3",
)
pytestmark = [needs_spack, needs_gpg, needs_boto3]

GITHUB, GROUP = "owner/name", "Secrets"
#: Variables that a mirror names, beside those that everybody knows.
OWN = ("MIRROR_ID", "MIRROR_SECRET")


def leaf(data: bytes) -> Iterator[bytes]:
    """What is in a file, unpacked as often as it is packed."""
    yield data
    if data[:2] == b"\x1f\x8b":
        yield from leaf(gzip.decompress(data))
    elif data[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                if file := archive.extractfile(member):
                    yield from leaf(file.read())


class Credentials:
    """A value for each variable, which is nowhere else on this machine."""

    def __init__(self, signing_key: str, repository: str) -> None:
        self.marks = {name: f"leak{secrets.token_hex(12)}" for name in (*SECRETS, *OWN)}
        self.marks["SPACK_REPO"] = f"leak{secrets.token_hex(12)}"
        self.variables = {
            **self.marks,
            "CI_REPOSITORY_URL": f"https://x:{self.marks['CI_REPOSITORY_URL']}@example.com/a.git",
            "SPACK_REPO": repository.replace("//", f"//me:{self.marks['SPACK_REPO']}@"),
            "SPACK_SIGNING_KEY": signing_key,
        }
        self.marks["SPACK_SIGNING_KEY"] = signing_key[200:260]

    def __getitem__(self, name: str) -> str:
        return self.marks[name]

    def shown_in(self, data: bytes) -> list[str]:
        """The variables whose values are in it."""
        parts = list(leaf(data))
        return [
            name
            for name, mark in self.marks.items()
            if any(mark.encode() in part for part in parts)
        ]

    def leaks(self, found: Mapping[str, bytes]) -> list[str]:
        return [f"{where}: {name}" for where, data in found.items() for name in self.shown_in(data)]


class Around:
    """The servers around a pipeline."""

    def __init__(
        self, github: FakeGitHub, gitlab: FakeGitLab, cdash: FakeCDash, git: GitServer
    ) -> None:
        self.github = github
        self.gitlab = gitlab
        self.cdash = cdash
        self.git = git


@pytest.fixture
def around() -> Iterator[Around]:
    with (
        fake_github() as github,
        fake_gitlab() as gitlab,
        fake_cdash("", GROUP) as cdash,
        serve_git(Path(SPACK).parent) as git,
    ):
        yield Around(github, gitlab, cdash, git)


def on_disk(folder: Path) -> dict[str, bytes]:
    """All files below, but for what only the machine of the runner sees of a build."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not path.is_symlink()
        and "stage" not in path.parts
        and not (path.name.startswith("spack-build-env.txt") and "artifacts" not in path.parts)
    }


def in_bucket(server: S3Server, url: str) -> dict[str, bytes]:
    store = server.store(url)
    try:
        return {entry.key: store.read(entry.key) for entry in store.list("")}
    finally:
        store.close()


@pytest.fixture
def known(pipelines: Pipelines, around: Around, moto: S3Server, tmp_path: Path) -> Credentials:
    """A stack with one package that fails, for which each credential is of use; these are set."""
    mirror = {
        "url": moto.bucket(),
        "signed": True,
        "endpoint_url": moto.url,
        "access_pair": {"id_variable": OWN[0], "secret_variable": OWN[1]},
    }
    signing = {"signing-job": {"script": ["echo signed"]}}
    cdash = {"url": around.cdash.url, "project": PROJECT, "site": "Here", "build-group": GROUP}
    pipelines.lay_out(mirror, own_spack=True, pipeline_gen=[signing], sections={"cdash": cdash})
    pipelines.settings(
        fix=["failed-environment"],
        index="stackyard",
        jobs={"clone": True, "sections": True},
        spack={"checkout_version": commit_of(SPACK)},
        status={"repository": GITHUB},
    )
    pipelines.stackyard("keys.create", "--name", "Tiny")
    key = pipelines.stackyard("keys.export", "--stack", "tiny", "--secret-to", "-").strip()
    made = Credentials(key, around.git.url(Path(SPACK).name))
    around.git.login = f"me:{made['SPACK_REPO']}"
    around.cdash.token = made["SPACK_CDASH_AUTH_TOKEN"]
    around.github.tokens[made["GITHUB_TOKEN"]] = Token()
    around.gitlab.tokens[made["GITLAB_TOKEN"]] = {"read_api"}
    break_package(pipelines)
    pipelines.take_lock()
    pipelines.commit("a stack")
    around.github.repository(GITHUB, commit_of(str(pipelines.root)))
    # As GitLab's variables of a project: they win over those in a pipeline's file.
    own = pipelines.homes / ".gitlab-ci-local"
    own.mkdir()
    (own / "variables.yml").write_text(json.dumps({"global": made.variables}))
    pipelines.env |= {
        **made.variables,
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "GITHUB_API_URL": around.github.api,
        "STACKYARD_SPACK_DIR": str(tmp_path / "clone"),
    }
    return made


def break_package(pipelines: Pipelines, *, mend: bool = False) -> None:
    recipe = pipelines.root / "packages/spack_repo/tiny/packages/tiny_data/package.py"
    words = ["        mkdirp(prefix.bin)", "        raise InstallError('no')"]
    old, new = words[::-1] if mend else words
    assert old in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(old, new))


def tell_github(pipelines: Pipelines, around: Around, token: str) -> None:
    """gitlab-ci-local has no API for a status job to count jobs with: so here is one."""
    project = around.gitlab.project(members={token})
    parent, child = around.gitlab.pipeline(project), around.gitlab.pipeline(project)
    parent.bridges = [Bridge(2, "build-tiny", status="failed", downstream=child)]
    child.jobs = [Job(3, f"tiny-data@1.1 /{'a' * 32}", "failed")]
    pipelines.stackyard(
        *("status", "--state", "failure", "--stack", "tiny"),
        CI_API_V4_URL=f"{around.gitlab.url}/api/v4",
        CI_COMMIT_SHA=commit_of(str(pipelines.root)),
        CI_PIPELINE_ID=str(parent.id),
        CI_PROJECT_ID=str(project.id),
    )


def test_no_secret_shows(
    pipelines: Pipelines, around: Around, known: Credentials, moto: S3Server, tmp_path: Path
) -> None:
    """A package fails, then it is mended: signed, pushed to a bucket, and told to GitHub."""
    protected = {"CI_COMMIT_REF_PROTECTED": "true"}
    environment = pipelines.root / "jobs_scratch_dir/tiny/logs/spack-build-env.txt.gz"
    with watched_processes() as seen:
        broken = pipelines.run(**protected)
        failed = sorted(name for name, how in broken.ended.items() if how == "FAIL")
        pipelines.run("--file", "jobs_scratch_dir/tiny/pipeline.yml", failed[0])
        hidden = environment.read_bytes()
        tell_github(pipelines, around, known["GITLAB_TOKEN"])
        break_package(pipelines, mend=True)
        shutil.rmtree(pipelines.root / "jobs_scratch_dir")  # a runner begins with `git clean`
        mended = pipelines.run(**protected)
        error = ("mirror.list", "--url", "s3://there-is-none")
        wrong = pipelines.stackyard(*error, code=6, S3_ENDPOINT_URL=moto.url)

    # That nothing is found means something only if all of it took place.
    assert {name.partition(" /")[0] for name in failed} == {"tiny-data@1.1"}, broken.out
    assert set(mended.ended.values()) == {"PASS"}, mended.out
    assert {"sign-pkgs", "rebuild-index"} < set(pipelines.jobs)
    assert around.git.fetches == 1  # with the password; then it is there
    assert {"POST", "PUT"} == set(around.cdash.methods())
    assert around.cdash.breaches == around.github.breaches == around.gitlab.breaches == []
    (statuses,) = around.github.repositories[GITHUB].statuses.values()
    told = [(row["state"], row["description"]) for row in statuses]
    assert any(text.endswith("1 failed: tiny-data") for _, text in told)
    assert told[-1][0] == "success"
    for words in (b"ci\0rebuild", b"gpg", b"credential.helper=!f()"):
        assert any(words in line for line in seen)
    reports = {f"report {n}": asked.body for n, asked in enumerate(around.cdash.asked)}
    pushed = in_bucket(moto, bucket_of(pipelines))
    assert sum("/manifests/spec/" in name for name in pushed) == 7
    found = on_disk(tmp_path)
    for part in ("artifacts/tiny-data", "output/tiny-data", "tiny/pipeline.yml", "run-2.log"):
        assert any(part in name for name in found), part
    # What Spack would put into the artifacts of a package that fails (docs/spack-defects.md).
    assert {"MIRROR_SECRET", "SPACK_SIGNING_KEY", "GITHUB_TOKEN"} < set(known.shown_in(hidden))

    assert known.leaks({line.decode(errors="replace"): line for line in seen}) == []
    assert known.leaks(pushed) == []
    assert known.leaks(reports) == []
    assert known.leaks(found) == []
    assert known.leaks({"an error": wrong.encode()}) == []


def bucket_of(pipelines: Pipelines) -> str:
    manifest = json.loads((pipelines.root / "stacks/tiny/spack.yaml").read_text())
    url: str = manifest["spack"]["mirrors"]["buildcache-destination"]["url"]
    return url
