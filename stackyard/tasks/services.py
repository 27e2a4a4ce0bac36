"""Tasks that speak to the servers around a pipeline, GitHub and GitLab."""

from __future__ import annotations

from invoke.context import Context

from stackyard.tasks.told import flow, told


@told(
    help={
        "state": "error, failure, pending or success; or GitLab's word, such as failed",
        "stack": "the stack that it is about (default SPACK_CI_STACK_NAME, or the whole pipeline)",
        "description": "what it says, cut to 140 characters (default: how many jobs ended how)",
        "context": "its name (default GITHUB_STATUS_CONTEXT or status.context, with the stack)",
        "sha": "the commit (default: that of the CI system, a pull request's head; or HEAD)",
        "url": "the page that it leads to (default: the pipeline's)",
        "repository": "owner/name on GitHub (default: of the CI system, settings, or remote)",
        "dry_run": "show it, post nothing",
        "json": "print what was posted as JSON",
    }
)
def status(  # noqa: PLR0913
    _: Context,
    state: str = "",
    stack: str = "",
    description: str = "",
    context: str = "",
    sha: str = "",
    url: str = "",
    repository: str = "",
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Tell a commit on GitHub how the pipeline of a stack goes."""
    flow("status").status(
        state=state,
        stack=stack,
        description=description,
        context=context,
        sha=sha,
        url=url,
        repository=repository,
        dry_run=dry_run,
        as_json=json,
    )


@told(
    iterable=["variable", "input"],
    help={
        "ref": "branch or tag on GitLab (default: of GitHub's job, pr-N for a pull request; or the "
        "branch here)",
        "project": "path or number of the project there (default: gitlab.project)",
        "url": "the GitLab server (default: gitlab.url)",
        "variable": "NAME=VALUE for the pipeline (repeatable)",
        "input": "NAME=TEXT or NAME:=JSON, where .gitlab-ci.yml has spec: inputs (repeatable)",
        "push": "first make the ref on GitLab what is checked out here",
        "commit": "with --push: another revision than HEAD",
        "remote": "with --push: another address of the repository, as git@gitlab.com:group/name",
        "force": "with --push: replace what the ref holds there",
        "follow": "wait for the end, tell how it goes, and exit 1 if it does not go well",
        "every": "with --follow: seconds between two looks",
        "timeout": "with --follow: minutes to wait at most",
        "json": "print the pipeline as JSON, at the end",
    },
)
def trigger(  # noqa: PLR0913
    _: Context,
    ref: str = "",
    project: str = "",
    url: str = "",
    variable: list[str] | None = None,
    input: list[str] | None = None,  # noqa: A002 - the flag's name
    push: bool = False,
    commit: str = "",
    remote: str = "",
    force: bool = False,
    follow: bool = False,
    every: int = 20,
    timeout: int = 1440,
    json: bool = False,
) -> None:
    """Start the GitLab pipeline from elsewhere."""
    flow("trigger").trigger(
        ref=ref,
        project=project,
        url=url,
        variables=tuple(variable or ()),
        inputs=tuple(input or ()),
        push=push,
        commit=commit,
        remote=remote,
        force=force,
        follow=follow,
        every_s=every,
        timeout_minutes=timeout,
        as_json=json,
    )


@told(
    iterable=["option", "env", "mount"],
    help={
        "url": "the job's page on GitLab; GITLAB_PRIVATE_TOKEN or GITLAB_TOKEN for private projects",
        "artifacts": "its archive of artifacts, in place of --url",
        "to": "new folder for all of it (default reproduce-JOB)",
        "commit": "revision of this repository whose files the job had (default: of the job, or HEAD)",
        "run": "run the container, and end as the build ends",
        "shell": "run the container with a shell in place of the build",
        "image": "another image than the job's",
        "engine": "docker, podman or a path (default: DOCKER_HOST, Docker's socket, podman)",
        "option": "hand this on to the engine's run, as --option=--network=host (repeatable)",
        "env": "hand this variable on into the container (repeatable)",
        "mount": "show this folder to the container, to read (repeatable)",
        "keys": "file or folder with the public keys to trust (default: as for fetch)",
        "before_script": "run the job's before_script too",
        "json": "print what was found as JSON",
    },
)
def reproduce(  # noqa: PLR0913
    _: Context,
    url: str = "",
    artifacts: str = "",
    to: str = "",
    commit: str = "",
    run: bool = False,
    shell: bool = False,
    image: str = "",
    engine: str = "",
    option: list[str] | None = None,
    env: list[str] | None = None,
    mount: list[str] | None = None,
    keys: str = "",
    before_script: bool = False,
    json: bool = False,
) -> None:
    """Take a build job to this machine: its artifacts, its Spack, and its container."""
    flow("reproduce").reproduce(
        url=url,
        artifacts=artifacts,
        to=to,
        commit=commit,
        run=run,
        shell=shell,
        image=image,
        engine=engine,
        options=tuple(option or ()),
        variables=tuple(env or ()),
        mounts=tuple(mount or ()),
        keys=keys,
        before_script=before_script,
        as_json=json,
    )
