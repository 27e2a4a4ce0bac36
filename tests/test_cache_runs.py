"""What the workflows for a cache do: every job is run, as GitHub runs it, against a real registry.

Spack and its action are stand-ins here; the real Spack is in integration/.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from building_spack import KEYS, TINY, BuildingSpack, key, send_images
from conftest import DATA, Project, Stackyard
from fake_spack import spack_files
from git_server import Repository
from github_runner import Job, Runner, nothing, value_of
from oci_backends import docker_registry
from signing import Signer, needs_gpg
from test_cache_workflows import COMMIT, PACKAGES

from stackyard.cache_workflows import PADDING
from stackyard.edges.stores.store import open_store, writable
from stackyard.oci import MANIFESTS, SIGNATURE
from stackyard.workflows import target

SYSTEMS: list[dict[str, Any]] = [
    {
        "name": "bookworm",
        "runner": "debian-12",
        "target": "x86_64_v3",
        "base_image": "ubuntu:24.04",
    },
    {"name": "large", "runner": "debian-12-large", "target": "x86_64_v3"},
]
ALL = sorted(KEYS.values())
TOKEN = "ghs-recognisable"
WORD = "a-word-to-keep"
BCRYPT = "$2b$05$abcdefghijklmnopqrstuuJFb8q08FRATJR.Izxqd8zktzSg/B7uy"  # of WORD


class Cache(Runner):
    """A project with the tiny stack whose cache is in a registry on this machine."""

    def __init__(self, folder: Path, project: Project, spack: BuildingSpack, url: str) -> None:
        super().__init__(folder / "runs", project.root, {})
        self.url, self.spack, self.site = url, spack, folder / "published"
        self.actions["spack/setup-spack"] = self._set_up_spack
        self.actions["actions/upload-pages-artifact"] = self._hand_over
        self.actions["actions/deploy-pages"] = nothing

    def _set_up_spack(self, job: Job, inputs: Mapping[str, str]) -> None:
        """As the real one: Spack where it was asked for, and a token that is left behind."""
        path = job.workspace / inputs["spack_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(self.spack.folder)
        (job.temp / "git-credentials-1234.config").write_text("recognisable")
        (job.temp / "env").write_text("SPACK_DISABLE_LOCAL_CONFIG=1\n")

    def _hand_over(self, job: Job, inputs: Mapping[str, str]) -> None:
        (job.workspace / inputs["path"]).rename(self.site)

    def do(self, name: str, event: str, **inputs: Any) -> None:
        self.run(self.project / target(name), event, inputs)

    def fill(self, names: Sequence[str]) -> None:
        """Put these into the registry; its index does not know them."""
        hashes = [one for one, name in KEYS.items() if name in names]
        send_images(self.url, DATA / "mirrors" / "v3-unsigned", hashes)

    def held(self) -> list[str]:
        """Names of the binaries in the registry."""
        store = open_store(self.url)
        tags = [one.key.removeprefix(MANIFESTS) for one in store.list(MANIFESTS)]
        store.close()
        return sorted(KEYS[tag.removesuffix(".spack")[-32:]] for tag in tags if "tiny-" in tag)


@pytest.fixture
def spack(tmp_path: Path) -> BuildingSpack:
    return BuildingSpack(tmp_path / "spack")


@pytest.fixture
def cache(  # noqa: PLR0917 - fixtures
    project: Project,
    spack: BuildingSpack,
    registry: str,
    stackyard: Stackyard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Cache:
    monkeypatch.setenv("GITHUB_ACTOR", "somebody")  # for what a test asks the mirror itself
    monkeypatch.setenv("GITHUB_TOKEN", "something")
    url = f"oci+http://{registry}/cache/{secrets.token_hex(4)}"
    pair = {"id_variable": "GITHUB_ACTOR", "secret_variable": "GITHUB_TOKEN"}
    mirror = {"url": url, "signed": False, "access_pair": pair}
    project.stack(TINY.read_bytes(), name="tiny", mirrors={"ours": mirror})
    settings: dict[str, Any] = {
        "github": {
            "workflows": ["build", "draw", "index", "prune", "share", "site"],
            "mirror": "ours",
            "systems": SYSTEMS,
            "free_disk": True,
            "draw": {"count": 3},
        },
        "spack": {"packages_ref": PACKAGES},
        "prune": {"keep": ["tiny-base"]},
        "generate": {"requirement": "stackyard==1.2"},
    }
    project.write("invoke.yaml", {"stackyard": settings})
    stackyard("generate")
    return Cache(tmp_path, project, spack, url)


def good(jobs: Sequence[Job]) -> None:
    for job in jobs:
        assert not job.failed, job.said()


def is_indexed(cache: Cache, stackyard: Stackyard) -> bool:
    return stackyard("mirror.index", "--url", cache.url, "--check", code=None).code == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b == 'x'", True),
        ("a.b != 'x' && a.n", False),
        ("!a.c", True),
        ("a.c.d.e", None),
        ("a.c == ''", True),
        ("a.b == 'y' || (a.n == 4 && 'it''s')", "it's"),
        ("inputs.count || '5'", "5"),
        ("join('p', a.b)", "px"),
        ("!cancelled() && needs.my-job.result != 'skipped'", True),
    ],
)
def test_expressions(text: str, value: object) -> None:
    """The runner itself reads what GitHub's expressions say."""
    contexts = {
        "a": {"b": "x", "n": 4},
        "inputs": {},
        "needs": {"my-job": {"result": "failure"}},
        "join": lambda one, two: one + two,
        "cancelled": lambda: False,
    }
    assert value_of(text, contexts) == value


# -- build ------------------------------------------------------------------------------------


def test_a_push(cache: Cache, stackyard: Stackyard) -> None:
    cache.do("build", "push")
    good(cache.jobs)
    assert cache.results == {
        "choose": "success",
        "try": "skipped",
        "build": "success",
        "index": "success",
    }
    assert cache.held() == ALL
    assert is_indexed(cache, stackyard)
    bookworm, large = cache.named("build")
    assert [(job.name, job.runs_on) for job in (bookworm, large)] == [
        ("bookworm: tiny", "debian-12"),
        ("large: tiny", "debian-12-large"),
    ]
    pushes = cache.spack.calls("push")
    assert len(pushes) == 4  # one for each level
    for call in pushes:
        words = call["words"]
        assert words[words.index("--base-image") + 1] == "ubuntu:24.04"
    is_set_up(cache, bookworm)
    saw_no_token(cache)
    cache.do("build", "push")
    good(cache.jobs)
    for job in cache.named("build"):
        assert "nothing to build: the mirror has it all" in job.step("Build").out


def is_set_up(cache: Cache, job: Job) -> None:
    """Spack at its pins, with target and padding, without the token of its checkouts."""
    assert [name for name, _ in job.uses] == ["actions/checkout", "spack/setup-spack"]
    assert job.uses[1][1] == {
        "spack_repository": "spack/spack",
        "spack_ref": json.loads(TINY.read_bytes())["spack"]["commit"],
        "spack_path": ".stackyard/spack",
        "packages_repository": "spack/spack-packages",
        "packages_ref": PACKAGES,
        "packages_path": ".stackyard/packages",
        "buildcache": "false",
        "color": "false",
    }
    assert not list(job.temp.glob("git-credentials-*"))
    etc = cache.spack.folder / "etc" / "spack"
    assert (etc / "config.yaml").read_text() == (
        f"config:\n  install_tree:\n    root: ~/spack-tree\n    padded_length: {PADDING}\n"
    )
    assert (etc / "packages.yaml").read_text() == (
        'packages:\n  all:\n    require: ["target=x86_64_v3"]\n'
    )
    assert (job.temp / "installed").read_text() == "-m pip install --quiet stackyard==1.2\n"
    assert "-rf /usr/share/dotnet\n" in (job.temp / "sudo").read_text()


def saw_no_token(cache: Cache) -> None:
    """Only the step that pushes gets it, no build does, and no log has it."""
    for job in cache.named("build"):
        given = {step.name for step in job.steps if TOKEN in step.env.values()}
        assert given == {"Build, and push as it goes"}
    installs = cache.spack.calls("install")
    assert installs
    assert TOKEN not in json.dumps(installs)
    for job in cache.jobs:
        assert TOKEN not in job.said()


def test_what_was_built_is_kept(cache: Cache, stackyard: Stackyard) -> None:
    """One package fails: the job does, the rest is there, and the index knows it."""
    cache.spack.does("lib@1.1", code=1)
    cache.do("build", "push")
    assert cache.results["build"] == "failure"
    assert cache.results["index"] == "success"
    assert cache.held() == ["base", "data", "data+extra", "lib@1.0"]
    assert is_indexed(cache, stackyard)
    bookworm = cache.named("build")[0]
    assert bookworm.uses[-1][0] == "actions/upload-artifact"
    logs = Path(bookworm.uses[-1][1]["path"])
    assert logs.is_relative_to(bookworm.temp)
    assert [path for path in logs.iterdir() if path.name.startswith("tiny-lib-1.1-")]


@pytest.mark.parametrize("code", [0, 1])
def test_a_pull_request_builds_and_pushes_nothing(
    cache: Cache, stackyard: Stackyard, code: int
) -> None:
    cache.fill([name for name in ALL if name != "app"])
    stackyard("mirror.index", "--url", cache.url)
    cache.spack.does("app", code=code)
    cache.do("build", "pull_request")
    assert cache.results == {
        "choose": "success",
        "try": "failure" if code else "success",
        "build": "skipped",
        "index": "skipped",
    }
    bookworm, large = cache.named("try")
    assert bookworm.permissions == {"contents": "read"}
    for job in cache.jobs:
        for step in job.steps:
            assert TOKEN not in json.dumps(step.env)
    assert cache.spack.built() == [["app"], ["app"]]
    assert cache.spack.calls("push") == []
    assert ("1 failed" if code else "1 unpushed") in large.step("Build").out
    assert "app" not in cache.held()


def test_by_hand(cache: Cache, stackyard: Stackyard) -> None:
    """One spec, and what it needs, on each system that has it."""
    cache.do("build", "workflow_dispatch", spec="tiny-lib@1.0")
    good(cache.jobs)
    assert [job.name.rpartition("/")[0] for job in cache.named("build")] == [
        "bookworm: tiny: tiny-lib@1.0",
        "large: tiny: tiny-lib@1.0",
    ]
    (only,) = {job.step("Build").env["ONLY"] for job in cache.named("build")}
    assert only == "/" + key("lib@1.0")
    assert cache.held() == ["base", "lib@1.0"]
    assert is_indexed(cache, stackyard)


@pytest.mark.parametrize("typed", ["$(touch found)", "x'; touch found; '", "a`touch found`", "hop"])
def test_what_is_typed_is_no_program(cache: Cache, typed: str) -> None:
    cache.do("build", "workflow_dispatch", spec=typed)
    assert cache.results == {
        "choose": "failure",
        "try": "skipped",
        "build": "skipped",
        "index": "skipped",
    }
    (job,) = cache.jobs
    assert "error: --only: " in job.step("Choose").out
    assert not list(job.workspace.parent.rglob("found"))


def test_a_stack_without_a_lock_is_locked_first(cache: Cache, project: Project) -> None:
    """The lock is asked of the Spack that was set up."""
    lock = project.root / "stacks/tiny/spack.lock"
    settings = json.loads((project.root / "invoke.yaml").read_text())
    settings["stackyard"]["spack"]["checkout_version"] = COMMIT
    project.write("invoke.yaml", settings)
    lock.unlink()
    cache.do("build", "push")
    good(cache.jobs)
    assert len(cache.spack.calls("concretize")) == 2
    assert cache.held() == ALL
    cache.spack.forget()
    settings["stackyard"]["github"]["systems"] = [{**SYSTEMS[0], "target": "x86_64_v2"}]
    project.write("invoke.yaml", settings)
    cache.do("build", "push")
    assert cache.results["build"] == "failure"
    said = cache.named("build")[0].step("Lock").out
    assert "is locked for x86_64_v3, and bookworm builds for x86_64_v2" in said
    assert cache.spack.calls("install") == []


# -- signatures -------------------------------------------------------------------------------


@pytest.fixture
def sealed(cache: Cache, project: Project, stackyard: Stackyard) -> Iterator[Cache]:
    """The same cache, signed: the key is a secret of the repository, its public part in the stack."""
    signer = Signer()
    signer.key("CI")
    value = base64.b64encode(signer("--armor", "--export-secret-keys")).decode()
    project.write("stacks/tiny/keys/ci.pub", signer.public("CI"))
    signer.close()
    pair = {"id_variable": "GITHUB_ACTOR", "secret_variable": "GITHUB_TOKEN"}
    mirror = {"url": cache.url, "signed": True, "access_pair": pair}
    project.stack(TINY.read_bytes(), name="tiny", mirrors={"ours": mirror})
    stackyard("generate")
    cache.secrets["SPACK_SIGNING_KEY"] = value
    yield cache
    for job in cache.jobs:  # whatever it did
        assert value not in job.said()
        for step in job.steps:
            assert (value in step.env.values()) is step.name.startswith("Build, and push"), step
    for call in cache.spack.calls(""):
        assert value not in json.dumps(call)
        assert "--key" not in call["words"]


def signed(cache: Cache) -> list[bool]:
    """Of each binary in the registry, whether its image has a signature."""
    store = open_store(cache.url)
    found = [
        SIGNATURE in json.loads(store.read(one.key)).get("annotations", {})
        for one in store.list(MANIFESTS)
        if "tiny-" in one.key
    ]
    store.close()
    return found


@needs_gpg
def test_a_push_to_a_signed_cache(sealed: Cache, stackyard: Stackyard) -> None:
    """What was signed is checked by the next run, which builds the rest; and by a pull request."""
    sealed.spack.does("app", code=1)
    sealed.do("build", "push")
    assert sealed.results["build"] == "failure"
    assert sealed.results["index"] == "success"
    assert signed(sealed) == [True] * 6
    sealed.spack.does("app")
    sealed.spack.forget()
    sealed.do("build", "pull_request")
    good(sealed.jobs)
    assert sealed.spack.built() == [["app"]] * 2
    assert len(sealed.spack.borrowed()[0]) > 1
    sealed.do("build", "push")
    good(sealed.jobs)
    assert signed(sealed) == [True] * 7
    assert "(7 signed)" in stackyard("mirror.verify", "--url", sealed.url).err
    sealed.do("build", "push")
    good(sealed.jobs)


@needs_gpg
def test_an_unsigned_binary_in_a_signed_cache(sealed: Cache, stackyard: Stackyard) -> None:
    """Somebody else pushed it, and it is not built with."""
    sealed.fill(["base"])
    stackyard("mirror.index", "--url", sealed.url)
    sealed.do("build", "push")
    assert sealed.results["build"] == "failure"
    assert "its image is not signed" in sealed.named("build")[0].step("Build").out
    assert sealed.spack.calls("install") == []


@needs_gpg
@pytest.mark.parametrize("name", ["build", "draw"])
def test_a_branch_that_is_not_protected_signs_nothing(sealed: Cache, name: str) -> None:
    """It says so, and neither builds nor pushes; a pull request of it is built."""
    sealed.protected = False
    sealed.do(name, "workflow_dispatch")
    assert sealed.results["choose"] == "failure"
    assert {sealed.results[one] for one in ("build", "index")} == {"skipped"}
    assert "::error::The cache is signed, and refs/heads/main is not" in sealed.jobs[0].said()
    if name == "build":
        sealed.do("build", "pull_request")
        good(sealed.jobs)
        assert sealed.results["try"] == "success"
    assert sealed.held() == []


@needs_gpg
def test_a_signed_cache_without_the_secret(sealed: Cache) -> None:
    """It is told before anything is built."""
    secret = sealed.secrets.pop("SPACK_SIGNING_KEY")
    sealed.do("build", "push")
    assert sealed.results["build"] == "failure"
    (bookworm, _) = sealed.named("build")
    assert "::error::The cache is signed. That needs" in bookworm.step("Is there a key").out
    assert [step.name for step in bookworm.steps] == ["Is there a key to sign with?"]
    assert sealed.spack.calls("install") == []
    sealed.secrets["SPACK_SIGNING_KEY"] = secret


# -- draw, index, prune, site -----------------------------------------------------------------


def test_a_draw(cache: Cache, stackyard: Stackyard) -> None:
    cache.do("draw", "workflow_dispatch", count="2", seed="s", packages="tiny-data; tiny-tool")
    good(cache.jobs)
    said = cache.named("choose")[0].step("Choose").out
    assert "--seed s: 2 of 6 packages" in said
    first = [job.name for job in cache.named("build")]
    assert len(first) == 2
    assert all("tiny-data" in name or "tiny-tool" in name for name in first)
    assert "base" in cache.held()
    assert is_indexed(cache, stackyard)
    cache.do("draw", "workflow_dispatch", count="2", seed="s", packages="tiny-data; tiny-tool")
    assert [job.name for job in cache.named("build")] == first


def test_a_draw_by_itself(cache: Cache, project: Project) -> None:
    """The seed is the run's number: run again, it draws the same."""
    path = project.root / target("draw")
    path.write_text(path.read_text().replace("on:\n", 'on:\n  schedule: [{cron: "1 2 * * *"}]\n'))
    cache.run(path, "schedule")
    good(cache.jobs)
    assert "--seed 4711: 3 of 14 packages" in cache.named("choose")[0].step("Choose").out
    assert len(cache.named("build")) == 3


@pytest.mark.parametrize("force", [False, True])
def test_index(cache: Cache, stackyard: Stackyard, *, force: bool) -> None:
    cache.fill(ALL)
    assert not is_indexed(cache, stackyard)
    cache.do("index", "workflow_dispatch", force=force)
    good(cache.jobs)
    assert is_indexed(cache, stackyard)


def test_prune(cache: Cache, stackyard: Stackyard) -> None:
    """It lists, and deletes only where the box is ticked."""
    cache.fill(ALL)
    stackyard("mirror.index", "--url", cache.url)
    cache.do("prune", "workflow_dispatch", delete=False)
    good(cache.jobs)
    assert cache.results == {"list": "success", "delete": "skipped"}
    assert "nothing was deleted" in cache.jobs[0].step("List").out
    assert cache.held() == ALL
    cache.do("prune", "workflow_dispatch", delete=True)
    good(cache.jobs)
    assert cache.results == {"list": "skipped", "delete": "success"}
    assert cache.held() == ["base"]
    assert is_indexed(cache, stackyard)


def test_another_repository_makes_the_index_of_a_registry_with_a_password(
    cache: Cache,
    project: Project,
    stackyard: Stackyard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No file there says what opens it: the workflow that it copied does."""
    with docker_registry(tmp_path / "registry", users=f"me:{BCRYPT}") as host:
        url = f"oci+http://{host}/cache"
        pair = {"id_variable": "MY_ID", "secret_variable": "MY_SECRET"}
        mirror = {"url": url, "signed": False, "access_pair": pair}
        project.stack(TINY.read_bytes(), name="tiny", mirrors={"ours": mirror})
        stackyard("generate")
        workflow = yaml.safe_load((project.root / target("share")).read_bytes())
        index = workflow["jobs"]["index"]
        del index["needs"], index["if"]
        other = tmp_path / "other"
        other.mkdir()
        path = other / "index.yml"
        path.write_text(yaml.safe_dump({**workflow, "jobs": {"index": index}}))
        for name, value in {"REGISTRY": host, "USER": "me", "TOKEN": WORD}.items():
            monkeypatch.setenv(f"STACKYARD_OCI_{name}", value)
        cache.url = url
        cache.fill(["base"])
        for name in ("REGISTRY", "USER", "TOKEN"):
            monkeypatch.delenv(f"STACKYARD_OCI_{name}")
        runner = Runner(tmp_path / "others", other, {})
        runner.run(path, "push")
        assert runner.results == {"index": "failure"}
        runner.secrets.update(MY_ID="me", MY_SECRET=WORD)
        runner.run(path, "push")
        good(runner.jobs)
        assert WORD not in runner.jobs[0].said()


_GH = """#!/bin/sh
printf '%s\\n' "$*" >> {log}
case "$1 $2" in
  "run list") {listed} ;;
  "run download") while [ "$1" != "--dir" ]; do shift; done; mkdir -p "$2"; cp {tar} "$2/artifact.tar" ;;
esac
"""


def _pinned_recipes(folder: Path) -> Mapping[str, str]:
    """Repositories of a Spack and of a recipe; the variables that pin them."""
    recipe = 'class TinyBase:\n    """Tiny, and nothing else."""\n'
    packages = Repository(folder / "git" / "packages")
    path = "repos/spack_repo/builtin/packages/tiny_base/package.py"
    commit = packages.commit({path: recipe, "spack-repo-index.yaml": ""})
    spack = Repository(folder / "git" / "spack")
    return {
        "SPACK_REPO": spack.url,
        "SPACK_CHECKOUT_VERSION": spack.commit(spack_files(packages.url)),
        "SPACK_PACKAGES_REPO": packages.url,
        "SPACK_PACKAGES_CHECKOUT_VERSION": commit,
    }


def test_site(cache: Cache, stackyard: Stackyard, tmp_path: Path) -> None:
    """The catalogue is made of the last one, if there is one, and says what recipes say."""
    import tarfile

    cache.env.update(_pinned_recipes(tmp_path))
    cache.fill(ALL)
    stackyard("mirror.index", "--url", cache.url)
    log, packed = tmp_path / "gh.log", tmp_path / "artifact.tar"
    cache.program("gh", _GH.format(log=log, tar=packed, listed="exit 1"))
    cache.do("site", "workflow_dispatch")
    good(cache.jobs)
    assert "::notice::There is no earlier catalogue" in cache.jobs[0].step("Bring").out
    assert "Tiny, and nothing else." in (cache.site / "index.html").read_text()
    with tarfile.open(packed, "w") as tar:
        for path in cache.site.iterdir():
            tar.add(path, path.name)
    cache.site.rename(tmp_path / "first")
    cache.program("gh", _GH.format(log=log, tar=packed, listed="echo 12"))
    cache.do("site", "workflow_dispatch")
    good(cache.jobs)
    assert "notice" not in cache.jobs[0].step("Bring").out
    assert "run download 12 --repo octocat/cache --name github-pages" in log.read_text()
    assert (cache.site / "index.html").is_file()
    make, publish = cache.jobs
    assert "7 binaries, 0 read, 0 files written" in make.step("Make").out
    manifest = (cache.site / "manifest" / "index.html").read_text()
    assert "https://octocat.github.io/cache/" in manifest
    assert [name for name, _ in publish.uses] == ["actions/deploy-pages"]
    assert make.uses[-1] == (
        "actions/upload-pages-artifact",
        {"path": "site", "retention-days": "30"},
    )


def test_what_cannot_be_read_does_not_hide_the_rest(cache: Cache, tmp_path: Path) -> None:
    """The job fails, and the catalogue is published all the same; without one nothing is."""
    cache.env.update(_pinned_recipes(tmp_path))
    cache.program("gh", _GH.format(log=tmp_path / "gh.log", tar="none", listed="exit 1"))
    cache.fill(ALL)
    store = writable(open_store(cache.url))
    one = next(one.key for one in store.list(MANIFESTS) if "tiny-" in one.key)
    store.write(f"{MANIFESTS}tiny-other-1.0-{'a' * 32}.spack", store.read(one))
    store.close()
    cache.do("site", "workflow_dispatch")
    assert cache.results == {"make": "failure", "publish": "success"}
    assert "tiny-other" in cache.named("make")[0].step("Make").out
    assert "Tiny, and nothing else." in (cache.site / "index.html").read_text()
    cache.env["SPACK_PACKAGES_CHECKOUT_VERSION"] = "c" * 40  # which nobody has
    cache.do("site", "workflow_dispatch")
    assert cache.results == {"make": "failure", "publish": "skipped"}


def test_the_catalogue_follows_no_pull_request() -> None:
    """A fork's branch may be called main as well."""
    from github_runner import load
    from test_cache_workflows import GOLDEN

    condition = load(GOLDEN / "site.yml")["jobs"]["make"]["if"]
    for event, wanted in (("push", True), ("schedule", True), ("pull_request", False)):
        github = {"event_name": "workflow_run", "event": {"workflow_run": {"event": event}}}
        assert value_of(condition, {"github": github}) is wanted
    assert value_of(condition, {"github": {"event_name": "schedule"}}) is True
