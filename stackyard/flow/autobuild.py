"""``image.autobuild``: the hooks in ``docker/hooks``, run here as Docker Hub's builder runs them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from stackyard.autobuild import (
    HOOKS,
    Step,
    Variables,
    branch_tag,
    compose_commands,
    hub_name,
    plan_steps,
    relative_path,
    split_tags,
)
from stackyard.edges import console
from stackyard.edges.files import make_executable
from stackyard.edges.git_head import Head, commit_of_ref, read_head
from stackyard.edges.process import relay
from stackyard.errors import ConfigError, ToolError
from stackyard.flow.image_stacks import (
    DOCKERFILE,
    argument_files,
    choose_image_stack,
    copying_hint,
    image_stacks,
)
from stackyard.flow.steps import Project, open_project
from stackyard.settings import Settings, make_settings

__all__ = ["autobuild"]

#: Where no setting and no remote says which branch is the default one.
_DEFAULT_BRANCHES = ("main", "master")
_BEAT_S = 60.0


class Build(NamedTuple):
    """What is built: ``context`` is the rule's, ``folder`` is where hooks run."""

    context: Path
    dockerfile: Path
    variables: Variables
    env: Mapping[str, str]

    @property
    def folder(self) -> Path:
        return self.dockerfile.parent


def autobuild(*, stack: str = "", context: str = "", push: bool = True, **asked: str) -> None:
    """Run the hooks, and Docker Hub's own steps where none replaces them.

    ``asked`` are all fields of ``Variables``; an empty one comes from git and settings. Raises
    ConfigError where that does not tell it, ToolError if a hook fails or there is no docker.
    """
    project = open_project()
    build = _build(project, Variables(**asked), stack, context)
    if not shutil.which("docker", path=build.env.get("PATH")):
        raise ToolError(
            "there is no docker, and hooks need it", hint="install it, or podman-docker"
        )
    _warn(project, build)
    for name, value in build.variables.environment.items():
        console.note(f"{name}={value.splitlines()[0] if value else ''}")
    hooks = _hooks(build.folder)
    for step in plan_steps(hooks, push=push):
        _run_hook(build, step.name) if step.hook else _run_own(build, step)
    images = ", ".join(build.variables.images)
    console.note(f"built {images}" + (", and pushed" if push else "; nothing is pushed"))


# -- the variables ------------------------------------------------------------------------------


def _build(project: Project, asked: Variables, stack: str, context: str) -> Build:
    head = read_head(project.root)
    stacks = image_stacks(project)
    named = stack or project.env.get("STACK", "")
    settings = make_settings(project.settings)
    if stacks:  # without any, it is for the hooks to say what they build
        named = choose_image_stack(stacks, named)
        settings = stacks[named]
    flag = "--context" if context else "image.context"
    wanted = context or settings.image.context
    folder = _context(project, head, wanted, flag, asked.dockerfile_path)
    path, dockerfile = _dockerfile(project, head, folder, asked.dockerfile_path)
    branch = asked.source_branch or _branch(head, settings.release.prefix)
    tags = asked.docker_tag or branch_tag(
        branch,
        settings.release.prefix,
        is_default=branch == _default_branch(settings, head, branch),
    )
    repository = _repository(settings, asked.docker_repo)
    names = split_tags(tags)
    if not names:
        raise ConfigError("it names no tag", where="--docker-tag")
    variables = Variables(
        source_branch=branch,
        source_commit=asked.source_commit or head.commit,
        commit_msg=asked.commit_msg or head.message,
        docker_repo=repository,
        dockerfile_path=path,
        docker_tag=tags,
        image_name=asked.image_name or f"{repository}:{names[0]}",
    )
    env = {**project.env, **variables.environment, **({"STACK": named} if named else {})}
    return Build(folder, dockerfile, variables, env)


def _branch(head: Head, prefix: str) -> str:
    """The branch that is checked out; for a commit, the release whose tag it has."""
    releases = [tag for tag in head.tags if prefix and tag.startswith(prefix)]
    if head.branch or len(releases) == 1:
        return head.branch or releases[0]
    raise ConfigError(
        "a commit is checked out, and no branch" + (f"; its tags: {releases}" if releases else ""),
        where="--source-branch",
        hint="say which branch or tag is built",
    )


def _default_branch(settings: Settings, head: Head, branch: str) -> str:
    known = settings.release.branch or head.default
    return known or (branch if branch in _DEFAULT_BRANCHES else "")


def _repository(settings: Settings, asked: str) -> str:
    from stackyard.image_names import parse_image_name

    where = "--docker-repo" if asked else "image.repository"
    text = asked or settings.image.repository
    if not text:
        raise ConfigError(
            "nothing says where the image goes",
            where=where,
            hint="set it in invoke.yaml (docker.io/owner/name), or give --docker-repo",
        )
    return hub_name(parse_image_name(text, where), where)


def _context(project: Project, head: Head, asked: str, flag: str, dockerfile: str) -> Path:
    """The rule's build context; without one, the folder that serves most hooks.

    They run beside the Dockerfile, and many of them say ``docker build --file $DOCKERFILE_PATH .``,
    which is right where that folder is the context as well.
    """
    if asked:
        folder = head.top / relative_path(asked, flag)
        if not folder.is_dir():
            raise ConfigError("there is no such folder in the repository", where=f"{flag} {asked}")
        return folder
    own = project.root / DOCKERFILE
    if dockerfile:
        own = head.top / relative_path(dockerfile, "--dockerfile-path")
    folder = own if own.is_dir() else own.parent
    return folder if (folder / "hooks" / "build").is_file() else head.top


def _dockerfile(project: Project, head: Head, context: Path, asked: str) -> tuple[str, Path]:
    """``DOCKERFILE_PATH``, and the file itself. Raises ConfigError if it is not there."""
    own = project.root / DOCKERFILE
    path = asked or os.path.relpath(own.resolve(), context.resolve())
    if not asked and path.startswith("../"):
        raise ConfigError(
            f"it lies outside of the build context {context.relative_to(head.top)}",
            where=os.path.relpath(own, head.top),
            hint="another context, or another Dockerfile: --context, --dockerfile-path",
        )
    plain = relative_path(path, "--dockerfile-path")
    # Some rules name it from the top; hooks are told it from the context all the same.
    for top, candidate in ((context, context / plain), (head.top, head.top / plain)):
        for file in (candidate, candidate / "Dockerfile"):
            if file.is_file():
                counted = path if top == context else os.path.relpath(file, context)
                return counted, file
    raise ConfigError(
        "there is no such file in the repository, from which Docker Hub would build",
        where=path,
        hint="" if own.is_file() else copying_hint(project),
    )


def _warn(project: Project, build: Build) -> None:
    """Of what Docker Hub would do differently: it has what is committed, and nothing else."""
    from stackyard.edges.files import read_bytes
    from stackyard.edges.git_release import unclean

    for path, data in argument_files(project).items():
        if not path.is_file() or read_bytes(path) != data:
            console.warn(
                f"{project.shown(path)} is not what settings ask for, and hooks go by it: "
                "run invoke generate"
            )
    branch, commit = build.variables.source_branch, build.variables.source_commit
    if (other := commit_of_ref(project.root, branch)) and other != commit:
        console.warn(f"{branch} is the commit {other[:12]}, and {commit[:12]} is checked out")
    if changed := unclean(project.root):
        console.warn(
            f"{len(changed)} files are not as they are committed; Docker Hub would build the commit"
        )
    if not build.env.get("REMOTE_BUILDCACHE_URL"):
        console.note("REMOTE_BUILDCACHE_URL is not set: binaries come from the stack's own mirror")


# -- the steps ----------------------------------------------------------------------------------


def _hooks(folder: Path) -> tuple[str, ...]:
    """Names of the hooks that are there, all of them executable from now on, as on Docker Hub."""
    found = tuple(name for name in HOOKS if (folder / "hooks" / name).is_file())
    for name in found:
        path = folder / "hooks" / name
        if not os.access(path, os.X_OK):
            console.warn(f"hooks/{name} is not executable; Docker Hub makes it so, and so do we")
            make_executable(path)
    return found


def _run_hook(build: Build, name: str) -> None:
    """In the Dockerfile's folder, whatever the context is."""
    file = f"hooks/{name}"
    with (build.folder / file).open("rb") as script:
        plain = script.read(2) != b"#!"
    console.note(f"-- {name}: {file}")
    _run(build, ["bash", file] if plain else [file], build.folder, _shown(build, file))


def _shown(build: Build, file: str) -> str:
    return f"{build.folder.name}/{file}"


def _run_own(build: Build, step: Step) -> None:
    """What Docker Hub does where no hook replaces it."""
    if step.name == "test":
        _run_tests(build)
        return
    console.note(f"-- {step.name}: no hook, as Docker Hub does it")
    images = build.variables.images
    if step.name == "push":
        for image in images:
            _run(build, ["docker", "push", image], build.context, "docker push")
        return
    tags = [word for image in images for word in ("--tag", image)]
    argv = ["docker", "build", "--file", str(build.dockerfile), *tags, str(build.context)]
    _run(build, argv, build.context, "docker build")


def _run_tests(build: Build) -> None:
    """The service ``sut`` of each file for tests that lies beside the Dockerfile."""
    ends = (".test.yml", "-test.yml")
    files = sorted(path.name for path in build.folder.iterdir() if path.name.endswith(ends))
    for file in files:
        console.note(f"-- test: {file}")
        project = f"stackyard-{PurePosixPath(file).name.partition('.')[0].lower()}"
        prepare, test, tidy = compose_commands(file, project)
        try:
            _run(build, prepare, build.folder, _shown(build, file))
            _run(build, test, build.folder, _shown(build, file))
        finally:
            relay(tidy, tell=console.note, env=build.env, cwd=build.folder)


def _run(build: Build, argv: Sequence[str], folder: Path, what: str) -> None:
    """Show what it says; raises ToolError if it fails."""
    if argv[0] == "docker":
        console.note(f"+ {' '.join(argv)}")
    code, _ = relay(
        argv,
        tell=console.note,
        env=build.env,
        cwd=folder,
        beat=lambda seconds: console.note(f"still {what}, {seconds / 60:.0f} min"),
        beat_s=_BEAT_S,
    )
    if code:
        ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise ToolError(ended, where=what, hint="what it said is above; nothing after it was done")
