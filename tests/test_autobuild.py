"""image.autobuild: what Docker Hub's builder does, with a docker that only remembers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Answer, Project, Stackyard
from hub import Builder, Call, commit, git, with_hooks

from stackyard.autobuild import (
    HOOKS,
    Step,
    Variables,
    arguments_text,
    branch_tag,
    hub_name,
    plan_steps,
    relative_path,
    split_tags,
)
from stackyard.errors import ConfigError
from stackyard.image_names import parse_image_name

REPOSITORY = "index.docker.io/owner/name"
DOCKERFILE = "docker/Dockerfile"
SETTINGS: dict[str, Any] = {"image": {"base": "debian:12", "repository": "docker.io/owner/name"}}

#: A hook that asks docker whether it is its turn.
_HOOK = '#!/bin/bash\ndocker hook-{name} "$SOURCE_BRANCH" "$PWD"\n'


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    """Its docker is the one that this process finds."""
    builder = Builder(tmp_path)
    for name, value in builder.env.items():
        monkeypatch.setenv(name, value)
    for name in ("STACK", "REMOTE_BUILDCACHE_URL", "DOCKER_FAILS"):
        monkeypatch.delenv(name, raising=False)
    return builder


@pytest.fixture
def demo(project: Project, stackyard: Stackyard) -> Project:
    with_hooks(project)
    project.write("invoke.yaml", {"stackyard": SETTINGS})
    stackyard("generate")
    commit(project)
    return project


def hook(demo: Project, name: str, script: str = _HOOK, *, mode: int = 0o755) -> Path:
    path = demo.write(f"docker/hooks/{name}", script.replace("{name}", name))
    path.chmod(mode)
    return path


def only_hooks(demo: Project, *names: str) -> None:
    """These, instead of ours."""
    shutil.rmtree(demo.root / "docker/hooks")
    for name in names:
        hook(demo, name)
    commit(demo)


def does(calls: list[Call]) -> list[str]:
    """What docker was asked for, in order."""
    return [
        " ".join(call.arguments[: 1 if call.arguments[0] != "compose" else None]) for call in calls
    ]


# -- with our hooks -----------------------------------------------------------------------------


def test_our_hooks(demo: Project, builder: Builder, stackyard: Stackyard) -> None:
    answer = stackyard("image.autobuild")
    build, push = builder.calls()
    assert build.variables == (
        "main",
        git(demo.root, "rev-parse", "HEAD"),
        "first\n\nmore of it",
        REPOSITORY,
        "Dockerfile",
        "latest",
        f"{REPOSITORY}:latest",
        "demo",
    )
    assert push.variables == build.variables
    assert (build.folder, push.folder) == (str(demo.root / "docker"), str(demo.root / "docker"))
    assert build.values("--tag") == [f"{REPOSITORY}:latest"]
    assert build.build_arguments["BASE"] == "debian:12"
    assert push.arguments == ("push", f"{REPOSITORY}:latest")
    assert answer.out == ""
    assert answer.err.splitlines() == [
        "REMOTE_BUILDCACHE_URL is not set: binaries come from the stack's own mirror",
        "SOURCE_BRANCH=main",
        f"SOURCE_COMMIT={git(demo.root, 'rev-parse', 'HEAD')}",
        "COMMIT_MSG=first",
        f"DOCKER_REPO={REPOSITORY}",
        "DOCKERFILE_PATH=Dockerfile",
        "DOCKER_TAG=latest",
        f"IMAGE_NAME={REPOSITORY}:latest",
        "-- build: hooks/build",
        f"Stack demo, as {REPOSITORY}:latest",
        *(line for line in answer.err.splitlines() if line.startswith("+ docker build ")),
        "docker says build",
        "-- push: hooks/push",
        f"+ docker push {REPOSITORY}:latest",
        "docker says push",
        f"built {REPOSITORY}:latest, and pushed",
    ]
    assert git(demo.root, "status", "--porcelain") == ""


def test_a_release(demo: Project, builder: Builder, stackyard: Stackyard) -> None:
    """A clone of a tag, as Docker Hub and GitHub make it."""
    git(demo.root, "tag", "rev-sc26")
    git(demo.root, "tag", "other")
    git(demo.root, "checkout", "--quiet", "rev-sc26")
    stackyard("image.autobuild", "--context", "/docker/")
    build, push = builder.calls()
    assert build.variables[:1] == ("rev-sc26",)
    assert build.variables[4:7] == ("Dockerfile", "sc26", f"{REPOSITORY}:sc26")
    assert build.values("--tag") == [f"{REPOSITORY}:sc26"]
    assert build.arguments[-1] == str(demo.root)
    assert push.arguments == ("push", f"{REPOSITORY}:sc26")


def test_everything_given(demo: Project, builder: Builder, stackyard: Stackyard) -> None:
    """Every variable is what the argument says, and the environment's values do not count."""
    given = {
        "source-branch": "rev-x",
        "source-commit": "1" * 40,
        "commit-msg": "a\nb",
        "docker-repo": "ghcr.io/o/n",
        "dockerfile-path": "/docker/Dockerfile",
        "docker-tag": "one, two",
        "image-name": "ghcr.io/o/n:one",
    }
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    stackyard("image.autobuild", *words, "--context", "/", "--stack", "demo", "--no-push")
    (build,) = builder.calls()
    assert build.variables == (*given.values(), "demo")
    assert build.values("--tag") == [f"ghcr.io/o/n:{tag}" for tag in ("one", "two", "x")]


def test_no_push(demo: Project, builder: Builder, stackyard: Stackyard) -> None:
    for name in ("pre_push", "post_push", "pre_test"):
        hook(demo, name)
    answer = stackyard("image.autobuild", "--no-push")
    assert does(builder.calls()) == ["build", "hook-pre_test"]
    assert answer.err.endswith(f"built {REPOSITORY}:latest; nothing is pushed\n")


@pytest.mark.parametrize("image", [{"repository": "ghcr.io/owner/name"}, {"repository": "o/n"}])
def test_the_repository(
    demo: Project, builder: Builder, stackyard: Stackyard, image: dict[str, Any]
) -> None:
    demo.write("invoke.yaml", {"stackyard": {"image": {**SETTINGS["image"], **image}}})
    stackyard("image.autobuild", "--no-push")
    (build,) = builder.calls()
    expected = {"o/n": "index.docker.io/o/n"}.get(image["repository"], image["repository"])
    assert build.variables[3] == expected


@pytest.mark.parametrize("repository", ["docker.io/o/n", "o/n", "index.docker.io/o/n"])
def test_docker_hub_by_each_of_its_names(
    demo: Project, builder: Builder, stackyard: Stackyard, repository: str
) -> None:
    stackyard("image.autobuild", "--no-push", "--docker-repo", repository)
    (build,) = builder.calls()
    assert build.variables[3] == "index.docker.io/o/n"
    assert build.values("--tag") == ["index.docker.io/o/n:latest"]


def test_hooks_of_somebody_who_knows_no_settings(
    demo: Project, builder: Builder, stackyard: Stackyard
) -> None:
    demo.write("invoke.yaml", {"stackyard": {}})
    (demo.root / "docker/args").unlink()
    commit(demo)
    words = ("--docker-repo", "ghcr.io/o/n", "--stack", "demo", "--no-push")
    stackyard("image.autobuild", *words)
    (build,) = builder.calls()
    assert build.variables[7] == "demo"
    assert "BASE" not in build.build_arguments


def test_one_of_two_stacks(
    demo: Project, builder: Builder, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.stack((demo.root / "stacks/demo/spack.lock").read_bytes(), name="other")
    own = {"image": {"base": "debian:13", "repository": "ghcr.io/o/other"}}
    demo.write("stacks/other/stack.yaml", own)
    stackyard("generate")
    commit(demo)
    assert error(stackyard("image.autobuild", code=2)) == (
        "error: --stack: which stack? these have an image: demo, other\n  hint: name one\n"
    )
    monkeypatch.setenv("STACK", "other")
    stackyard("image.autobuild", "--no-push")
    assert builder.calls()[0].build_arguments["BASE"] == "debian:13"
    monkeypatch.setenv("STACK", "demo")
    stackyard("image.autobuild", "--stack", "other", "--no-push")
    (build,) = builder.calls()
    assert (build.variables[3], build.variables[7]) == ("ghcr.io/o/other", "other")
    assert build.build_arguments["BASE"] == "debian:13"
    answer = stackyard("image.autobuild", "--stack", "nobody", code=2)
    assert "the stack 'nobody' has no image" in answer.err


# -- the order, and Docker Hub's own steps ------------------------------------------------------


def test_all_hooks(demo: Project, builder: Builder, stackyard: Stackyard) -> None:
    only_hooks(demo, *HOOKS)
    stackyard("image.autobuild")
    calls = builder.calls()
    assert does(calls) == [f"hook-{name}" for name in HOOKS]
    assert {call.folder for call in calls} == {str(demo.root / "docker")}
    assert {call.arguments[1:] for call in calls} == {("main", str(demo.root / "docker"))}


def test_no_hooks(demo: Project, builder: Builder, stackyard: Stackyard) -> None:
    """Docker Hub's own build and push, of each tag, and of the rule's context."""
    only_hooks(demo)
    stackyard("image.autobuild", "--docker-tag", "a", "--no-push")
    assert builder.calls()[0].folder == str(demo.root)  # nobody else asks for another
    stackyard("image.autobuild", "--docker-tag", "a,b", "--context", "docker")
    build, *pushes = builder.calls()
    names = [f"{REPOSITORY}:a", f"{REPOSITORY}:b"]
    tags = [word for name in names for word in ("--tag", name)]
    dockerfile, context = str(demo.root / "docker/Dockerfile"), str(demo.root / "docker")
    assert build.arguments == ("build", "--file", dockerfile, *tags, context)
    assert [call.arguments for call in pushes] == [("push", name) for name in names]
    assert build.folder == context


@pytest.mark.parametrize(
    "rule",
    [
        (),
        ("--context", "/docker/"),
        ("--context", "/docker/", "--dockerfile-path", "docker/Dockerfile"),
        ("--dockerfile-path", "/docker/Dockerfile"),
        ("--dockerfile-path", "docker"),
    ],
)
def test_the_original_rule(
    demo: Project, builder: Builder, stackyard: Stackyard, rule: tuple[str, ...]
) -> None:
    """Its Dockerfile counts from the top, its context is /docker/, its hook is not executable.

    That hook builds the folder it runs in, so it must find the Dockerfile from there.
    """
    only_hooks(demo)
    script = "#!/bin/bash\ndocker build --build-arg A=$A -f $DOCKERFILE_PATH -t $IMAGE_NAME .\n"
    path = hook(demo, "build", script, mode=0o644)
    answer = stackyard("image.autobuild", *rule, "--no-push")
    (build,) = builder.calls()
    assert build.folder == str(demo.root / "docker")
    (file,) = build.values("-f")
    assert Path(build.folder, file) == demo.root / DOCKERFILE
    assert build.values("-t") == [f"{REPOSITORY}:latest"]
    assert "warning: hooks/build is not executable" in answer.err
    assert path.stat().st_mode & 0o777 == 0o755


def test_a_hook_that_counts_from_the_top(
    demo: Project, builder: Builder, stackyard: Stackyard
) -> None:
    only_hooks(demo)
    hook(demo, "build", "#!/bin/bash\ncd ..\ndocker build -f $DOCKERFILE_PATH .\n")
    stackyard("image.autobuild", "--context", "/", "--no-push")
    (demo.root / "stacks/demo/stack.yaml").write_text("image: {context: /}\n")
    stackyard("image.autobuild", "--no-push")
    by_flag, by_setting = builder.calls()
    for build in (by_flag, by_setting):
        assert (build.folder, build.values("-f")) == (str(demo.root), [DOCKERFILE])
    (demo.root / "stacks/demo/stack.yaml").write_text("image: {context: nowhere}\n")
    answer = stackyard("image.autobuild", "--no-push", code=2)
    assert "image.context nowhere: there is no such folder" in answer.err


def test_a_script_without_a_first_line(
    demo: Project, builder: Builder, stackyard: Stackyard
) -> None:
    only_hooks(demo)
    hook(demo, "build", "docker plain\n")
    stackyard("image.autobuild", "--no-push")
    assert does(builder.calls()) == ["plain"]


@pytest.mark.parametrize("failing", HOOKS)
def test_a_hook_fails(demo: Project, builder: Builder, stackyard: Stackyard, failing: str) -> None:
    only_hooks(demo, *HOOKS)
    hook(demo, failing, _HOOK + "echo because\nexit 9\n")
    answer = stackyard("image.autobuild", code=5)
    assert does(builder.calls()) == [f"hook-{name}" for name in HOOKS[: HOOKS.index(failing) + 1]]
    last = answer.err[answer.err.index("because\n") :]
    assert last == (
        "because\n"
        f"error: docker/hooks/{failing}: ended with exit code 9\n"
        "  hint: what it said is above; nothing after it was done\n"
    )


def test_a_hook_that_is_killed(demo: Project, builder: Builder, stackyard: Stackyard) -> None:
    hook(demo, "build", "#!/bin/bash\nkill -9 $$\n")
    answer = stackyard("image.autobuild", code=5)
    assert "docker/hooks/build: was ended by signal 9" in answer.err
    assert builder.calls() == []


@pytest.mark.parametrize("failing", ["build", "push"])
def test_docker_fails(
    demo: Project,
    builder: Builder,
    stackyard: Stackyard,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
) -> None:
    monkeypatch.setenv("DOCKER_FAILS", failing)
    answer = stackyard("image.autobuild", code=5)
    assert f"docker/hooks/{failing}: ended with exit code 7" in answer.err
    only_hooks(demo)
    answer = stackyard("image.autobuild", code=5)
    assert f"docker {failing}: ended with exit code 7" in answer.err


def test_files_with_tests(demo: Project, builder: Builder, stackyard: Stackyard) -> None:
    """Beside the Dockerfile, one after the other, and tidied up after each."""
    hook(demo, "pre_test")
    hook(demo, "post_test")
    for name in ("docker-compose.test.yml", "b-test.yml", "docker-compose.yml"):
        demo.write(f"docker/{name}", "services: {sut: {build: .}}\n")
    stackyard("image.autobuild", "--no-push")
    calls = builder.calls()
    words = [call.arguments for call in calls]
    assert [word[0] for word in words] == [
        "build",
        "hook-pre_test",
        *["compose"] * 6,
        "hook-post_test",
    ]
    assert [word[2] for word in words[2:8]] == ["b-test.yml"] * 3 + ["docker-compose.test.yml"] * 3
    assert [word[5] for word in words[2:8]] == ["build", "run", "down"] * 2
    assert words[3][-1] == words[6][-1] == "sut"
    assert len({word[4] for word in words[2:8]}) == 2  # each is a project of its own
    assert {call.folder for call in calls} == {str(demo.root / "docker")}


def test_a_test_fails(
    demo: Project, builder: Builder, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is pushed, and what it needed is taken away."""
    demo.write("docker/docker-compose.test.yml", "services: {sut: {build: .}}\n")
    monkeypatch.setenv("DOCKER_FAILS", "sut")
    answer = stackyard("image.autobuild", code=5)
    assert "docker/docker-compose.test.yml: ended with exit code 7" in answer.err
    assert [call.arguments[0] for call in builder.calls()] == ["build"] + ["compose"] * 3


# -- what it says -------------------------------------------------------------------------------


def error(answer: Answer) -> str:
    return answer.err[answer.err.index("error: ") :]


def test_what_cannot_be_known(demo: Project, builder: Builder, stackyard: Stackyard) -> None:
    git(demo.root, "checkout", "--quiet", "-b", "topic")
    assert error(stackyard("image.autobuild", code=2)) == (
        "error: --docker-tag: no rule is for 'topic': it is no release (rev-NAME), nor the default "
        "branch\n  hint: say which tag the image gets\n"
    )
    git(demo.root, "checkout", "--quiet", "--detach")
    assert "--source-branch: a commit is checked out" in stackyard("image.autobuild", code=2).err
    git(demo.root, "checkout", "--quiet", "main")
    demo.write("invoke.yaml", {"stackyard": {"image": {"base": "debian:12"}}})
    assert "image.repository: nothing says where" in stackyard("image.autobuild", code=2).err
    wrong = {**SETTINGS["image"], "repository": "o/n:tag"}
    demo.write("invoke.yaml", {"stackyard": {"image": wrong}})
    assert "no tag and no digest" in stackyard("image.autobuild", code=2).err
    assert builder.calls() == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--docker-repo", "o/n:tag"], "--docker-repo: a repository has no tag"),
        (["--docker-repo", "$(x)"], "--docker-repo: '$(x)' is not"),
        (["--docker-tag", "a b"], "DOCKER_TAG: 'a b' cannot be a tag"),
        (["--docker-tag", " , "], "--docker-tag: it names no tag"),
        (["--context", "../x"], "--context: it leads out of the folder"),
        (
            ["--context", "/stacks"],
            "docker/Dockerfile: it lies outside of the build context stacks",
        ),
        (["--context", "nowhere"], "--context nowhere: there is no such folder"),
        (["--dockerfile-path", "../Dockerfile"], "--dockerfile-path: it leads out"),
        (["--dockerfile-path", "x/Dockerfile"], "x/Dockerfile: there is no such file"),
    ],
)
def test_what_will_not_do(
    demo: Project, builder: Builder, stackyard: Stackyard, words: list[str], said: str
) -> None:
    assert error(stackyard("image.autobuild", *words, code=2)).startswith(f"error: {said}")
    assert builder.calls() == []


@pytest.mark.parametrize(
    ("setting", "remote", "branch", "default"),
    [
        ("", "", "main", True),
        ("", "", "master", True),
        ("", "", "develop", False),
        ("", "develop", "develop", True),
        ("", "develop", "main", False),
        ("stable", "develop", "stable", True),
        ("stable", "develop", "develop", False),
    ],
)
def test_the_default_branch(  # noqa: PLR0917
    demo: Project,
    builder: Builder,
    stackyard: Stackyard,
    setting: str,
    remote: str,
    branch: str,
    default: bool,  # noqa: FBT001
) -> None:
    """As settings say, else the remote, else by its usual names."""
    if setting:
        release = {"release": {"branch": setting}}
        demo.write("invoke.yaml", {"stackyard": SETTINGS | release})
    if remote:
        git(demo.root, "symbolic-ref", "refs/remotes/origin/HEAD", f"refs/remotes/origin/{remote}")
    words = ("--no-push", "--source-branch", branch)
    answer = stackyard("image.autobuild", *words, code=0 if default else 2)
    assert ("no rule is for" in answer.err) is not default
    assert bool(builder.calls()) is default


def test_a_commit_of_two_releases(demo: Project, builder: Builder, stackyard: Stackyard) -> None:
    for name in ("rev-a", "rev-b"):
        git(demo.root, "tag", name)
    git(demo.root, "checkout", "--quiet", "--detach")
    said = error(stackyard("image.autobuild", code=2))
    assert "a commit is checked out, and no branch; its tags: ['rev-a', 'rev-b']" in said
    assert builder.calls() == []


def test_a_project_without_our_files(demo: Project, builder: Builder, stackyard: Stackyard) -> None:
    """The hint is a command that brings what lacks, and leaves what is there."""

    def copies() -> str:
        hint = error(stackyard("image.autobuild", code=2)).splitlines()[1]
        assert hint.startswith("  hint: take ours, and commit it: ")
        return hint.partition("commit it: ")[2]

    shutil.rmtree(demo.root / "docker")
    ours = f"{ROOT}/docker"
    assert copies() == (
        f"mkdir docker; cp -r {ours}/Dockerfile {ours}/hooks {ours}/test docker/; "
        f"cp {ROOT}/.dockerignore .dockerignore"
    )
    own = demo.write("docker/test/tutorial-test.sh", "own")
    env = {"PATH": os.defpath}
    subprocess.run(["bash", "-ec", copies()], cwd=demo.root, env=env, check=True)
    assert own.read_text() == "own"
    stackyard("generate")
    stackyard("image.autobuild", "--no-push")
    assert does(builder.calls()) == ["build"]


def test_outside_of_git(demo: Project, builder: Builder, stackyard: Stackyard) -> None:
    shutil.rmtree(demo.root / ".git")
    assert "is in no git repository" in error(stackyard("image.autobuild", code=2))


def test_a_clone_of_somebody_else(
    demo: Project, builder: Builder, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container into which a CI system has put it."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    said = error(stackyard("image.autobuild", code=2))
    assert "belongs to another user, and git does not look into it\n" in said
    assert f"git config --global --add safe.directory {demo.root}\n" in said


def test_without_docker(demo: Project, builder: Builder, stackyard: Stackyard) -> None:
    (builder.programs / "docker").unlink()
    assert error(stackyard("image.autobuild", code=5)).startswith("error: there is no docker")


def test_warns_of_what_docker_hub_would_not_have(
    demo: Project, builder: Builder, stackyard: Stackyard
) -> None:
    git(demo.root, "tag", "rev-old")
    commit(demo, "second")
    demo.write("docker/args", "[demo]\nBASE=old\n")
    answer = stackyard("image.autobuild", "--source-branch", "rev-old", "--no-push")
    warnings = [line for line in answer.err.splitlines() if line.startswith("warning: ")]
    assert [line[:40] for line in warnings] == [
        "warning: docker/args is not what settings"[:40],
        "warning: rev-old is the commit "[:40] + git(demo.root, "rev-parse", "rev-old")[:9],
        "warning: 1 files are not as they are com"[:40],
    ]
    (build,) = builder.calls()
    assert build.build_arguments["BASE"] == "old"  # the hooks go by it all the same


def test_secrets_are_masked(
    demo: Project, builder: Builder, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "recognisable")
    hook(demo, "pre_build", '#!/bin/bash\necho "key ${AWS_SECRET_ACCESS_KEY}"\n')
    answer = stackyard("image.autobuild", "--no-push")
    assert "key ***\n" in answer.err
    assert "recognisable" not in answer.err


# -- the generated file -------------------------------------------------------------------------


def test_generate_writes_and_checks_it(demo: Project, stackyard: Stackyard) -> None:
    text = (demo.root / "docker/args").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines[:3] == ["RELEASE_PREFIX=rev-", "", "[demo]"]
    assert lines[3:5] == ["BASE=debian:12", "BASE_NAME=debian:12"]
    assert lines[5].startswith("STACKYARD=stackyard==")
    assert len(lines) == 6
    assert "docker/args" in stackyard("generate", "--check").err
    image = {**SETTINGS["image"], "tools": ["gcc"]}
    demo.write("invoke.yaml", {"stackyard": {"image": image, "release": {"prefix": "v"}}})
    answer = stackyard("generate", "--check", code=3)
    assert answer.err.startswith("error: not up to date: docker/args\n")
    assert [line for line in answer.out.splitlines()[2:] if line[0] in "+-"] == [
        "-RELEASE_PREFIX=rev-",
        "+RELEASE_PREFIX=v",
        "+TOOLS=gcc",
    ]


def test_what_is_left_over_says_nothing(demo: Project, stackyard: Stackyard) -> None:
    demo.write("invoke.yaml", {"stackyard": {}})
    stackyard("generate", "--check", code=3)
    stackyard("generate")
    assert "[demo]" not in (demo.root / "docker/args").read_text()
    (demo.root / "docker/args").unlink()
    stackyard("generate")
    assert not (demo.root / "docker/args").exists()


def test_a_base_that_is_none(demo: Project, stackyard: Stackyard) -> None:
    demo.write("invoke.yaml", {"stackyard": {"image": {"base": "Debian 12"}}})
    assert "image.base of the stack demo" in error(stackyard("generate", code=2))
    demo.write("invoke.yaml", {"stackyard": {"image": {"base": "debian", "licenses": "a\nb"}}})
    assert "LICENSES has a line break" in error(stackyard("generate", code=2))


# -- the core -----------------------------------------------------------------------------------


def test_steps() -> None:
    assert plan_steps((), push=True) == (
        Step("build", hook=False),
        Step("test", hook=False),
        Step("push", hook=False),
    )
    assert plan_steps((), push=False) == (Step("build", hook=False), Step("test", hook=False))
    assert plan_steps({"push", "post_push", "rule.sh"}, push=True) == (
        Step("build", hook=False),
        Step("test", hook=False),
        Step("push", hook=True),
        Step("post_push", hook=True),
    )
    assert [step.name for step in plan_steps(HOOKS, push=True)] == list(HOOKS)
    assert [step.name for step in plan_steps(HOOKS, push=False)] == list(HOOKS[:-3])


def test_names() -> None:
    assert split_tags(" a ,b,,a") == ("a", "b")
    assert branch_tag("rev-sc26", "rev-", is_default=False) == "sc26"
    assert branch_tag("rev-", "rev-", is_default=True) == "latest"
    assert branch_tag("main", "", is_default=True) == "latest"
    assert relative_path("/docker/", "x") == relative_path("./docker", "x") == "docker"
    assert relative_path("/", "x") == "."
    assert hub_name(parse_image_name("localhost:5000/n"), "x") == "localhost:5000/n"
    values = Variables("b", "c", "m", "r", "d", "t, u", "r:t")
    assert values.images == ("r:t", "r:u")
    assert list(values.environment) == [
        *("SOURCE_BRANCH", "SOURCE_COMMIT", "COMMIT_MSG", "DOCKER_REPO"),
        *("DOCKERFILE_PATH", "DOCKER_TAG", "IMAGE_NAME"),
    ]


def test_arguments_are_lines() -> None:
    text = arguments_text("v", {"b": {"A": "1", "B": ""}, "a": {"A": "x = y"}})
    assert text.splitlines()[2:] == ["RELEASE_PREFIX=v", "", "[a]", "A=x = y", "", "[b]", "A=1"]
    for value in ("a\nb", "a\rb", "a\x00b"):
        with pytest.raises(ConfigError, match="line break"):
            arguments_text("v", {"a": {"A": value}})
