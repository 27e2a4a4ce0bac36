"""``stackyard init``: a project that works, out of an empty folder or somebody's manifest."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import yaml
from building_spack import TINY, BuildingSpack
from conftest import ROOT, Answer, Project, Stackyard
from git_server import Repository
from mirror_server import mirror_server
from test_cache_runs import ALL, Cache, good, is_indexed

from stackyard import __version__
from stackyard.edges.own_origin import own_origin

STARTER = ROOT / "templates" / "init" / "starter"
MANIFEST = "spack:\n  # what we teach\n  specs: [zlib]\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the current one, outside of any project."""
    path = tmp_path / "new"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


def files(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts)
    return sorted(path.relative_to(folder).as_posix() for path in found)


def remote(folder: Path, url: str) -> None:
    for words in (["init", "--quiet", "--initial-branch=trunk"], ["remote", "add", "origin", url]):
        subprocess.run(["git", *words], cwd=folder, check=True)


def manifest(folder: Path, name: str = "starter") -> dict[str, object]:
    text = (folder / "stacks" / name / "spack.yaml").read_text()
    return dict(yaml.safe_load(text)["spack"])


def test_an_empty_folder(folder: Path, stackyard: Stackyard) -> None:
    said = stackyard("init")
    assert said.out == ""
    assert files(folder) == [
        ".dockerignore",
        ".gitignore",
        ".gitlab-ci.yml",
        "README.md",
        "docker/builder/Dockerfile",
        "invoke.yaml",
        "stacks/starter/pins.yaml",
        "stacks/starter/spack.lock",
        "stacks/starter/spack.yaml",
    ]
    for name in files(folder):
        assert f"wrote {name}\n" in said.err
    assert manifest(folder)["mirrors"] == {
        "buildcache-destination": {"url": (folder / "mirror").as_uri(), "signed": False}
    }
    assert "23 specs: 21 build" in stackyard("plan", "--no-prune").out
    stackyard("generate", "--check")
    stackyard("lock", "--check", "--verify")
    stackyard("generate", "--stack", "starter", "--no-prune")
    assert "problem" not in stackyard("doctor", "--offline").out


def test_what_the_readme_says_to_do_at_first(folder: Path, stackyard: Stackyard) -> None:
    """Each command of the first block; a fresh virtual environment has integration/test_wheel.py."""
    stackyard("init")
    _, *commands = (
        (folder / "README.md").read_text().split("```sh\n")[1].split("```")[0].splitlines()
    )
    assert len(commands) == 2
    for command in commands:
        program, *words = command.split()
        assert program == ".venv/bin/stackyard"
        stackyard(*words)


def test_the_readme_makes_the_image_that_the_lock_is_for(
    folder: Path, stackyard: Stackyard
) -> None:
    stackyard("init")
    pins = yaml.safe_load((STARTER / "pins.yaml").read_text())
    text = (folder / "README.md").read_text()
    for part in (
        "BASE=docker.io/library/ubuntu:24.04 ",
        f"SPACK_CHECKOUT_VERSION={pins['spack']['commit']} ",
        f"SPACK_PACKAGES_CHECKOUT_VERSION={pins['packages']['commit']} ",
    ):
        assert f"--build-arg {part}" in text


def test_a_repository_on_github(folder: Path, stackyard: Stackyard) -> None:
    remote(folder, "git@github.com:Our-Group/Stack.git")
    (folder / "README.md").write_text("ours\n")
    (folder / "src.c").write_text("int x;\n")
    (folder / ".gitignore").write_text("*.o\n/.venv/\n")
    said = stackyard("init")
    assert (folder / "README.md").read_text() == "ours\n"
    guide = (folder / "STACKYARD.md").read_text()
    assert guide.startswith("# Stack\n")
    assert "docker push" not in guide, "GitHub's jobs need no image"
    assert "STACKYARD.md says how to go on" in said.err
    assert "kept .gitignore, which was there; add to it: /.stackyard/ " in said.err
    assert (folder / ".gitignore").read_text() == "*.o\n/.venv/\n"
    entry = manifest(folder)["mirrors"]
    assert entry == {
        "buildcache-destination": {
            "url": "oci://ghcr.io/our-group/stack/binaries",
            "signed": False,
            "access_pair": {"id_variable": "GITHUB_ACTOR", "secret_variable": "GITHUB_TOKEN"},
        }
    }
    workflow = yaml.safe_load((folder / ".github/workflows/stackyard-build.yml").read_text())
    assert workflow[True]["push"] == {"branches": ["trunk"]}
    stackyard("generate", "--check")
    drawn = stackyard("draw")
    (job,) = json.loads(drawn.out)["include"]
    assert (job["runner"], job["target"]) == ("ubuntu-24.04", "x86_64_v3")
    assert "locked for" not in drawn.err, "the lock is for the machine that builds it"
    told = stackyard("doctor", "--offline").out
    assert "pull requests" not in told, "GitHub's push nothing"
    assert "CI system" not in told
    assert told.count("GitHub gives it to the workflows") == 2


def test_after_a_push_the_binaries_are_in_the_registry(
    folder: Path,
    tmp_path: Path,
    registry: str,
    stackyard: Stackyard,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GitHub's part is played by a runner of the tests, Spack's by a stand-in."""
    url = f"oci+http://{registry}/new/{secrets.token_hex(4)}"
    remote(folder, "https://github.com/our/stack")
    stackyard("init", "--from", str(locked(tmp_path)), "--mirror", url)
    spack = BuildingSpack(tmp_path / "spack")
    made = cast("Project", SimpleNamespace(root=folder))
    cache = Cache(tmp_path, made, spack, url)
    cache.do("build", "push")
    good(cache.jobs)
    assert cache.held() == ALL
    assert is_indexed(cache, stackyard)


def locked(folder: Path, system: str = "ubuntu24.04", *, pins: bool = True) -> Path:
    """The tiny stack, as somebody has it who has locked it."""
    place = folder / "theirs" / "tiny"
    place.mkdir(parents=True)
    text = TINY.read_text().replace('"debian12"', json.dumps(system))
    roots = [root["spec"] for root in json.loads(text)["roots"]]
    (place / "spack.yaml").write_text(f"spack:\n  specs: {json.dumps(roots)}\n")
    (place / "spack.lock").write_text(text)
    if pins:
        (place / "pins.yaml").write_bytes((STARTER / "pins.yaml").read_bytes())
    return place


def test_a_lock_for_machines_that_github_does_not_have(
    folder: Path, tmp_path: Path, stackyard: Stackyard
) -> None:
    remote(folder, "https://github.com/our/stack")
    said = stackyard("init", "--from", str(locked(tmp_path, "debian12", pins=False)))
    assert "the lock is for debian12, x86_64_v3, which GitHub's machines are not" in said.err
    assert "pins.yaml did not come along" in said.err
    assert "its lock is for another system" in (folder / "README.md").read_text()


def test_the_branch_that_github_builds(folder: Path, stackyard: Stackyard) -> None:
    """The remote's default, whatever happens to be checked out."""
    remote(folder, "https://github.com/our/stack")
    (folder / ".git/refs/remotes/origin").mkdir(parents=True)
    (folder / ".git/refs/remotes/origin/HEAD").write_text("ref: refs/remotes/origin/v1/dev\n")
    stackyard("init")
    settings = yaml.safe_load((folder / "invoke.yaml").read_text())["stackyard"]
    assert settings["github"]["branches"] == ["v1/dev"]


def test_an_older_system_of_githubs(folder: Path, tmp_path: Path, stackyard: Stackyard) -> None:
    remote(folder, "https://github.com/our/stack")
    said = stackyard("init", "--from", str(locked(tmp_path, "ubuntu22.04")))
    assert "lock" not in said.err.replace("spack.lock", "")
    (system,) = yaml.safe_load((folder / "invoke.yaml").read_text())["stackyard"]["github"][
        "systems"
    ]
    assert system == {
        "name": "ubuntu22.04",
        "runner": "ubuntu-22.04",
        "target": "x86_64_v3",
        "base_image": "docker.io/library/ubuntu:22.04",
    }
    assert (folder / "stacks/tiny/pins.yaml").is_file()


def test_below_the_top_of_a_repository(folder: Path, stackyard: Stackyard) -> None:
    remote(folder, "https://github.com/our/stack")
    (folder / "inner").mkdir()
    os.chdir(folder / "inner")
    assert (
        f"GitHub reads its files only at the top of the repository: {folder}"
        in stackyard("init").err
    )


def test_an_image(folder: Path, stackyard: Stackyard) -> None:
    """All that Docker Hub wants in the repository, and GitHub's workflow for it."""
    remote(folder, "https://github.com/our/stack")
    said = stackyard("init", "--image", "docker.io/our/stack")
    for name in ("Dockerfile", "hooks/build", "hooks/push", "hooks/rule.sh"):
        assert (folder / "docker" / name).read_bytes() == (ROOT / "docker" / name).read_bytes()
    assert (folder / ".dockerignore").read_bytes() == (ROOT / ".dockerignore").read_bytes()
    for name, runs in (("build", True), ("push", True), ("rule.sh", False)):
        assert os.access(folder / "docker/hooks" / name, os.X_OK) is runs
    assert "BASE=docker.io/library/ubuntu:24.04\n" in (folder / "docker/args").read_text()
    assert (folder / ".github/workflows/stackyard-image.yml").is_file()
    assert "which is not there" not in said.err
    stackyard("generate", "--check")
    readme = (folder / "README.md").read_text()
    assert "`DOCKERHUB_USERNAME` and `DOCKERHUB_TOKEN`, of an account that may push" in readme
    assert "--image" in stackyard_in(folder.parent / "other", stackyard, "--image", "a b").err
    for name in ("docker.io/a/b:tag", f"docker.io/a/b@sha256:{'a' * 64}"):
        answer = stackyard_in(folder.parent / name[-3:], stackyard, "--image", name)
        assert (
            "--image: a repository has no tag and no digest\n  hint: docker.io/a/b\n" in answer.err
        )


def test_an_image_in_githubs_own_registry(folder: Path, stackyard: Stackyard) -> None:
    remote(folder, "https://github.com/our/stack")
    stackyard("init", "--image", "ghcr.io/our/stack")
    readme = (folder / "README.md").read_text()
    assert "`rev-NAME` makes `ghcr.io/our/stack:NAME`" in readme
    assert "secrets of the repository" not in readme
    assert "are signed" not in readme


def test_a_bucket_is_signed(folder: Path, stackyard: Stackyard) -> None:
    """And the README says what that takes."""
    remote(folder, "https://github.com/our/stack")
    stackyard("init", "--mirror", "s3://bucket/stack")
    readme = (folder / "README.md").read_text()
    assert "`AWS_ACCESS_KEY_ID` and" in readme
    assert "**stackyard-signing**" in readme
    lines = [line for line in readme.splitlines() if "/stackyard keys." in line]
    assert [line.split()[1] for line in lines] == ["keys.create", "keys.export"]


@pytest.mark.parametrize("words", [(), ("--mirror", "../here")])
def test_github_writes_to_no_folder(
    folder: Path, stackyard: Stackyard, words: tuple[str, ...]
) -> None:
    """Whose registry is not known by its name, as that of GitHub Enterprise."""
    remote(folder, "git@github.example.com:our/stack.git")
    said = stackyard("init", *words, code=2).err
    assert said.startswith("error: --mirror: GitHub's machines cannot write to a folder")
    assert "--mirror oci://HOST/OWNER/NAME" in said
    assert files(folder) == []


def stackyard_in(folder: Path, stackyard: Stackyard, *words: str, code: int = 2) -> Answer:
    """``init`` in another folder, which it leaves as it was."""
    folder.mkdir()
    os.chdir(folder)
    answer = stackyard("init", *words, code=code)
    assert files(folder) == []
    return answer


def test_no_image_for_a_system_that_has_none(
    folder: Path, tmp_path: Path, stackyard: Stackyard
) -> None:
    source = locked(tmp_path, "rocky9")
    said = stackyard("init", "--from", str(source), "--image", "docker.io/a/b", code=2)
    assert "rocky9" in said.err
    assert files(folder) == []


def test_a_repository_on_gitlab(folder: Path, stackyard: Stackyard) -> None:
    remote(folder, "https://gitlab.uni.edu/hpc/stack.git")
    stackyard("init", "--mirror", "s3://bucket/stack")
    settings = yaml.safe_load((folder / "invoke.yaml").read_text())["stackyard"]
    assert settings["gitlab"] == {"url": "https://gitlab.uni.edu", "project": "hpc/stack"}
    assert manifest(folder)["mirrors"] == {"buildcache-destination": {"url": "s3://bucket/stack"}}
    stackyard("generate", "--check")
    told = stackyard("doctor", "--offline").out
    assert "what they build goes to the mirror that releases go to" in told
    assert "GitHub gives it" not in told


@pytest.mark.parametrize("kind", ["file", "folder", "web"])
def test_somebodys_manifest(folder: Path, tmp_path: Path, stackyard: Stackyard, kind: str) -> None:
    source = tmp_path / "theirs" / "teaching"
    source.mkdir(parents=True)
    (source / "spack.yaml").write_text(MANIFEST)
    if kind == "web":
        with mirror_server(tmp_path / "theirs") as served:
            said = stackyard("init", "--from", f"{served.url}/teaching/spack.yaml")
    else:
        said = stackyard("init", "--from", str(source / "spack.yaml" if kind == "file" else source))
    text = (folder / "stacks" / "teaching" / "spack.yaml").read_text()
    assert text.startswith(MANIFEST)
    assert not (folder / "stacks" / "teaching" / "spack.lock").exists()
    assert "stackyard lock --stack teaching" in (folder / "README.md").read_text()
    assert "stackyard plan" not in (folder / "README.md").read_text(), "there is no lock to plan by"
    assert "added to the manifest: ci" in said.err
    stackyard("generate", "--check")


def test_somebodys_lock_comes_along(folder: Path, stackyard: Stackyard) -> None:
    small = ROOT / "stacks" / "small"
    said = stackyard("init", "--from", str(small), "--name", "mine")
    lock = folder / "stacks" / "mine" / "spack.lock"
    assert lock.read_bytes() == (small / "spack.lock").read_bytes()
    assert (folder / "stacks/mine/spack.yaml").read_bytes() == (small / "spack.yaml").read_bytes()
    assert "added" not in said.err
    stackyard("lock", "--check")


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("spack:\n  specs: [zlib\n", 2, "spack.yaml"),
        ("spack: {specs: [zlib]}\n", 2, "nothing can be added"),
        ("spack:\n  specs: [zlib]\n  include: [common.yaml]\n", 2, "common.yaml"),
        ("spack:\n  specs: [zlib]\n  repos: [./ours]\n", 2, "bring along: ./ours"),
        ("spack:\n  specs: [zlib]\n  gitlab-ci: {}\n", 2, "pipeline-gen"),
        ("a: !!python/object/apply:os.abort []\n", 2, "unknown tag"),
        ("spack:\n  specs: [zlib]\n  mirrrors: {}\n", 2, "mirrrors"),
    ],
)
def test_unusable_manifests(  # noqa: PLR0917
    folder: Path, tmp_path: Path, stackyard: Stackyard, text: str, code: int, said: str
) -> None:
    (tmp_path / "spack.yaml").write_text(text)
    assert said in stackyard("init", "--from", str(tmp_path), code=code).err
    assert files(folder) == []


def test_what_is_beside_the_manifest_is_read_too(
    folder: Path, tmp_path: Path, stackyard: Stackyard
) -> None:
    source = locked(tmp_path)
    (source / "spack.lock").write_text("garbage")
    said = stackyard("init", "--from", str(source), code=2)
    assert f"{source}/spack.lock" in said.err
    (source / "spack.lock").write_bytes(TINY.read_bytes())
    (source / "pins.yaml").write_text("spack: {commit: nonsense}\n")
    assert "pins.yaml" in stackyard("init", "--from", str(source), code=2).err
    (source / "spack.yaml").write_bytes(b"spack:\n  specs: [zlib]  # caf\xe9\n")
    assert "not UTF-8" in stackyard("init", "--from", str(source), code=2).err
    assert files(folder) == []


def test_nothing_there(folder: Path, stackyard: Stackyard) -> None:
    assert "no such file" in stackyard("init", "--from", str(folder / "none"), code=2).err
    with mirror_server(folder) as served:
        said = stackyard("init", "--from", served.url, code=6).err
    assert "spack.yaml" in said
    assert "hint: --from takes" in said
    assert "clone it" in stackyard("init", "--from", "git@git.example.com:a/b", code=2).err
    assert "--name" in stackyard("init", "--name", "../up", code=2).err
    assert files(folder) == []


@pytest.mark.parametrize(
    ("mirror", "said"),
    [
        ("https://x.org/m", "cannot be pushed"),
        ("nonsense://x", "cannot be pushed"),
        ("s3://me:recognisable@bucket/x", "password"),
        ("oci://ghcr.io", "without a name"),
    ],
)
def test_mirrors_that_will_not_do(
    folder: Path, stackyard: Stackyard, mirror: str, said: str
) -> None:
    err = stackyard("init", "--mirror", mirror, code=2).err
    assert "--mirror" in err
    assert said in err
    assert "recognisable" not in err
    assert files(folder) == []


def test_a_folder_as_the_mirror(folder: Path, stackyard: Stackyard) -> None:
    stackyard("init", "--mirror", "../shared")
    entry = {"url": (folder.parent / "shared").as_uri(), "signed": False}
    assert manifest(folder)["mirrors"] == {"buildcache-destination": entry}


def test_inside_a_project(folder: Path, stackyard: Stackyard) -> None:
    stackyard("init")
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    assert "a project already" in stackyard("init", code=2).err
    os.chdir(folder / "stacks")
    assert "a project already" in stackyard("init", code=2).err
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before


def test_a_repository_that_uses_invoke(folder: Path, stackyard: Stackyard) -> None:
    (folder / "invoke.yaml").write_text("run: {echo: true}\n")
    said = stackyard("init")
    assert "kept invoke.yaml, which was there; add to it:\n# Settings of Stackyard" in said.err
    assert (folder / "invoke.yaml").read_text() == "run: {echo: true}\n"
    stackyard("generate", "--check")


def test_somebodys_pipeline_stays(folder: Path, stackyard: Stackyard) -> None:
    (folder / ".gitlab-ci.yml").write_text("build: {script: make}\n")
    assert "`stackyard generate` puts ours in its place" in stackyard("init").err
    assert (folder / ".gitlab-ci.yml").read_text() == "build: {script: make}\n"
    assert "was not ours, and is now" in stackyard("generate").err
    assert "was not ours" not in stackyard("generate").err


@pytest.mark.parametrize("name", [".dockerignore", "README.md", ".gitlab-ci.yml"])
def test_a_link_to_nowhere_stays(
    folder: Path, tmp_path: Path, stackyard: Stackyard, name: str
) -> None:
    """What somebody's repository may have in it is not written through."""
    (folder / name).symlink_to(tmp_path / "elsewhere")
    said = stackyard("init", code=1)
    assert name in said.err
    assert not (tmp_path / "elsewhere").exists()
    assert files(folder) == []


def test_what_fails_last_leaves_nothing(
    folder: Path, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackyard.flow.generate.parent_files", _refuse)
    assert "no space" in stackyard("init", code=1).err
    assert files(folder) == []


def _refuse(_: object) -> dict[Path, bytes]:
    from stackyard.errors import StackyardError

    raise StackyardError("no space left on device")


# -- how others install the same --------------------------------------------------------------

VERSION = f"stackyard=={__version__}"


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        (None, VERSION),
        ("nonsense", VERSION),
        ([], VERSION),
        (
            {"url": "https://me:x@h.org/s.git", "vcs_info": {"vcs": "git", "commit_id": "ab12"}},
            "stackyard @ git+https://h.org/s.git@ab12",
        ),
        ({"url": "https://h.org/s.whl", "archive_info": {}}, "stackyard @ https://h.org/s.whl"),
        ({"url": "http://h.org/s.whl", "archive_info": {}}, VERSION),
    ],
)
def test_how_it_was_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: object, requirement: str
) -> None:
    installed(tmp_path, monkeypatch, origin)
    assert own_origin() == (requirement, "")


def test_installed_from_a_file(
    folder: Path, tmp_path: Path, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have no such file, and init says so."""
    place = tmp_path / "a b.whl"
    installed(tmp_path, monkeypatch, {"url": place.as_uri(), "archive_info": {}})
    assert own_origin() == (VERSION, str(place))
    assert f"from {place}, and jobs will install {VERSION}" in stackyard("init").err


def test_installed_from_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream, clone = Repository(tmp_path / "upstream"), tmp_path / "clone"
    commit = upstream.commit({"x": "1"})
    subprocess.run(["git", "clone", "--quiet", upstream.url, clone], check=True)
    installed(tmp_path, monkeypatch, {"url": clone.as_uri(), "dir_info": {"editable": True}})
    assert own_origin() == (VERSION, str(clone)), (
        "a remote that is a folder is no remote for others"
    )
    move = ["git", "-C", str(clone), "remote", "set-url", "origin"]
    for url in ("git@github.com:o/stackyard.git", "https://me:x@github.com/o/stackyard"):
        subprocess.run([*move, url], check=True)
        requirement = f"stackyard @ git+https://github.com/o/stackyard@{commit}"
        assert own_origin() == (requirement, "")
    (clone / "inner").mkdir()
    installed(tmp_path / "2", monkeypatch, {"url": (clone / "inner").as_uri(), "dir_info": {}})
    assert own_origin() == (VERSION, str(clone / "inner")), "pip would install the top"
    installed(tmp_path / "3", monkeypatch, {"url": clone.as_uri(), "dir_info": {"editable": True}})
    subprocess.run(
        ["git", *NOBODY, "-C", str(clone), "commit", "--quiet", "--allow-empty", "--message=x"],
        check=True,
    )
    assert own_origin() == (VERSION, str(clone)), "a commit that nobody else has"


NOBODY = ("-c", "user.name=x", "-c", "user.email=x@example.org")


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, origin: object) -> None:
    """As pip leaves it: with ``direct_url.json``, if it did not come from an index."""
    place = folder / "site" / f"stackyard-{__version__}.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: stackyard\nVersion: {__version__}\n"
    )
    if origin is not None:
        text = origin if isinstance(origin, str) else json.dumps(origin)
        (place / "direct_url.json").write_text(text)
    monkeypatch.syspath_prepend(str(place.parent))
