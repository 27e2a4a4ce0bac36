"""``reproduce``: take a build job to this machine, and run it again in a container."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stackyard.edges import console
from stackyard.edges.files import read_bytes, write_files
from stackyard.edges.settings import Environment
from stackyard.errors import ConfigError, CorruptError, NotFoundError, StackyardError, ToolError
from stackyard.flow.places import find_project
from stackyard.pins import is_commit
from stackyard.reproduce import (
    Details,
    Found,
    Job,
    locate,
    mirror_needs,
    packages_pin,
    parse_details,
    parse_job_url,
    project_paths,
    read_job,
    spack_pin,
)
from stackyard.rerun import Container, container_words, engine_script, install_text, job_script
from stackyard.url import split_url

if TYPE_CHECKING:
    from stackyard.edges.gitlab import GitLab
    from stackyard.flow.steps import Project
    from stackyard.pins import Pin
    from stackyard.settings import Settings

__all__ = ["Wishes", "reproduce"]

#: Of an archive, of the files that tell of the job, and of pipelines.
_ARCHIVE_BYTES = 2 * 2**30
_TEXT_BYTES = 64 * 2**20
_MOST_YAML = 50


class Wishes(NamedTuple):
    """How the container is started: what the task was asked for. Empty: as the job says."""

    image: str = ""
    engine: str = ""
    options: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    keys: str = ""
    before_script: bool = False
    run: bool = False


class _Artifacts(NamedTuple):
    """Where the archive came from; ``commit`` is the project's, and may be unknown."""

    where: str
    commit: str = ""


class _Read(NamedTuple):
    """What the artifacts say, and the pins."""

    found: Found
    details: Details
    job: Job
    manifest: Any
    spack: Pin
    packages: Pin | None


def reproduce(  # noqa: PLR0913 - what the task takes
    *,
    url: str = "",
    artifacts: str = "",
    to: str = "",
    commit: str = "",
    run: bool = False,
    shell: bool = False,
    image: str = "",
    engine: str = "",
    options: Sequence[str] = (),
    variables: Sequence[str] = (),
    mounts: Sequence[str] = (),
    keys: str = "",
    before_script: bool = False,
    as_json: bool = False,
) -> None:
    """Lay a job out in a new folder, print the container command, and with ``run`` run it.

    Raises StackyardError or one of its kinds; ToolError if what ran failed.
    """
    if bool(url) == bool(artifacts):
        raise ConfigError("give --url JOB_URL or --artifacts ZIP", where="--url")
    wishes = Wishes(
        image,
        engine,
        tuple(options),
        tuple(variables),
        tuple(mounts),
        keys,
        before_script,
        run or shell,
    )
    folder = _folder(to, url, artifacts)
    temporary = folder.with_name(f".{folder.name[:200]}.{os.urandom(6).hex()}")
    try:
        temporary.mkdir(parents=True)
        # The container sees the folder, and may write into this one and the project only.
        (temporary / "cache").mkdir()
        container = _lay_out(temporary, folder, url, artifacts, commit, wishes, as_json=as_json)
        if folder.exists():
            folder.rmdir()
        temporary.replace(folder)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StackyardError(f"cannot write it: {reason}", where=str(folder)) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if run or shell:
        _run(folder, container, shell=shell)


def _folder(to: str, url: str, artifacts: str) -> Path:
    last = split_url(url).path.rstrip("/").rpartition("/jobs/")[2].partition("/")[0]
    name = to or f"reproduce-{last if url else Path(artifacts).stem}"
    folder = Path(name).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            "it is there already, and not empty", where=name, hint="name another folder: --to"
        )
    if ":" in str(folder):
        raise ConfigError(
            "a folder whose path has a colon cannot be mounted", where=str(folder), hint="--to"
        )
    return folder


# -- the folder -----------------------------------------------------------------------------


def _lay_out(  # noqa: PLR0913, PLR0917 - one step of the task
    temporary: Path,
    folder: Path,
    url: str,
    artifacts: str,
    commit: str,
    wishes: Wishes,
    *,
    as_json: bool,
) -> Container | None:
    from stackyard.edges.unzip import unpack
    from stackyard.settings import make_settings

    project = find_project()
    settings = make_settings(project.settings if project else {})
    archive = temporary / "artifacts.zip"
    if url:
        source = _download(url, settings, archive)
        names = unpack(archive, temporary / "project")
        archive.unlink()
    else:
        source = _Artifacts(artifacts)
        if not Path(artifacts).is_file():
            raise ConfigError("there is no such file", where=artifacts)
        names = unpack(Path(artifacts), temporary / "project")
    laid = temporary / "project"
    read = _read(laid, names, source.where)
    _restore_environment(laid, read)
    _add_project(laid, commit or source.commit, project, named=bool(commit))
    read = read._replace(packages=packages_pin(read.job.variables, _pinned_packages(laid, read)))
    if read.packages is None:
        console.warn("nobody says which packages the job had: Spack takes those it likes")
    _warn_of_needs(laid, read, wishes)
    _write_scripts(temporary, laid, read, project, settings, wishes)
    container = _container(folder, read, wishes)
    if container:
        scripts = {
            temporary / f"{name}.sh": engine_script(
                container_words(container, shell=name == "shell")
            ).encode()
            for name in ("run", "shell")
        }
        for path in write_files(scripts):
            path.chmod(0o755)
    _tell(folder, read, container, as_json=as_json)
    return container


def _download(url: str, settings: Settings, archive: Path) -> _Artifacts:
    from stackyard.edges.gitlab import GitLab, project_path
    from stackyard.trigger import parse_job, server_url

    job = parse_job_url(url, server_url(settings.gitlab.url))
    gitlab = GitLab(job.server, _token(job.server, settings))
    path = f"{project_path(job.project)}/jobs/{job.id}"
    row = gitlab.get(path)
    seen = parse_job(row, url)
    reason = f" ({seen.reason})" if seen.reason else ""
    console.note(f"job {job.id}: {seen.name}, {seen.status}{reason}")
    _fetch(gitlab, f"{path}/artifacts", archive)
    commit = row.get("commit")
    found = commit.get("id") if isinstance(commit, dict) else None
    # The server may be anybody's, and this is a word of git commands.
    return _Artifacts(url, found if isinstance(found, str) and is_commit(found) else "")


def _token(server: str, settings: Settings) -> str:
    """The token, for the server of the settings only: the URL may be somebody's trap."""
    from stackyard.trigger import server_url

    env = Environment.snapshot()
    token = env.get("GITLAB_PRIVATE_TOKEN", "") or env.get("GITLAB_TOKEN", "")
    ours = {server_url(settings.gitlab.url), env.get("CI_SERVER_URL", "").rstrip("/")}
    if server in ours:
        return token
    if token:
        console.warn(f"your token is not sent to {server}: gitlab.url names another server")
    return ""


def _fetch(gitlab: GitLab, path: str, archive: Path) -> None:
    try:
        gitlab.download(path, archive, _ARCHIVE_BYTES)
    except NotFoundError as error:
        raise NotFoundError(
            "the job has no artifacts",
            where=error.where,
            hint="they may have expired; retry the job on GitLab, and come again before they do",
        ) from None


def _read(laid: Path, names: Sequence[str], where: str) -> _Read:
    from stackyard.document import parse_yaml
    from stackyard.merge import key_name

    found = locate(names, where)
    details = parse_details(_text(laid, found.details), found.details)
    files = ((path, _text(laid, path)) for path in found.pipelines[:_MOST_YAML])
    job = read_job(files, details.job, where)
    info = _text(laid, found.info).decode(errors="replace") if found.info else ""
    document = parse_yaml(_text(laid, found.manifest), found.manifest, error=ConfigError)
    manifest = document.get("spack") if isinstance(document, dict) else None
    if not isinstance(manifest, dict):
        raise CorruptError("it is no manifest: there is no mapping spack", where=found.manifest)
    plain = {key_name(key): value for key, value in manifest.items()}
    spack = spack_pin(info, job.variables, console.warn)
    return _Read(found, details, job, plain, spack, None)


def _text(laid: Path, name: str) -> bytes:
    return read_bytes(laid / name, CorruptError, limit_bytes=_TEXT_BYTES)


def _restore_environment(laid: Path, read: _Read) -> None:
    """Put manifest and lock where the job had them: only copies of them are in its artifacts."""
    target = laid / read.job.environment
    copies = {
        target / "spack.yaml": _text(laid, read.found.manifest),
        target / "spack.lock": _text(laid, read.found.lock),
    }
    write_files(copies)


def _add_project(laid: Path, commit: str, project: Project | None, *, named: bool) -> None:
    """The project's own files, which the stack may include, from the clone around us."""
    from stackyard.edges.git import top
    from stackyard.edges.git_export import export_commit, has_commit
    from stackyard.edges.git_push import commit_of

    try:
        repository = top(project.root if project else Path.cwd())
    except (ConfigError, ToolError):
        if named:
            raise
        return
    if named:
        commit = commit_of(repository, commit)
    elif not commit:
        commit = commit_of(repository, "HEAD")
        console.note(f"files of the project: as of HEAD, {commit[:12]}; --commit names another")
    elif not has_commit(repository, commit):
        console.warn(
            f"this clone lacks the job's commit {commit[:12]}: files of the project that the stack "
            f"includes are missing (git fetch origin {commit}, and again)"
        )
        return
    export_commit(repository, commit, laid, Environment.snapshot())


def _pinned_packages(laid: Path, read: _Read) -> Pin | None:
    from stackyard.pins import parse_pins

    where = f"stacks/{read.job.stack}/pins.yaml"
    if not read.job.stack or not (laid / where).is_file():
        return None
    return parse_pins(read_bytes(laid / where, ConfigError), where).packages


def _warn_of_needs(laid: Path, read: _Read, wishes: Wishes) -> None:
    environment = Path(read.job.environment)
    for path in project_paths(read.manifest):
        if not (laid / environment / path).exists():
            console.warn(f"the stack includes {path}, which is not there")
    needs = mirror_needs(read.manifest)
    env = Environment.snapshot()
    # To be copied into a shell, and the names are somebody else's.
    flags = [f"--mount {shlex.quote(path)}" for path in needs.folders if path not in wishes.mounts]
    flags += [f"--env {n}" for n in needs.variables if n in env and n not in wishes.variables]
    if flags:
        console.note(f"what the mirrors may want from this machine: {' '.join(flags)}")


# -- the scripts ----------------------------------------------------------------------------


def _write_scripts(  # noqa: PLR0913, PLR0917 - one step of the task
    temporary: Path,
    laid: Path,
    read: _Read,
    project: Project | None,
    settings: Settings,
    wishes: Wishes,
) -> None:
    original = ""
    if read.found.install:
        original = _text(laid, read.found.install).decode(errors="replace")
    elif not read.job.hash:
        raise CorruptError("there is no install.sh, and no hash of what to install")
    script = job_script(read.job, read.spack, read.packages, before_script=wishes.before_script)
    files = {
        temporary / "reproduce.sh": script.encode(),
        temporary / "install.sh": install_text(
            original, read.job, read.details.project_dir
        ).encode(),
    }
    for path in write_files(files):
        path.chmod(0o755)
    if "--no-check-signature" not in original and original:
        _write_keys(temporary, read, project, settings, wishes.keys)


def _write_keys(
    temporary: Path, read: _Read, project: Project | None, settings: Settings, option: str
) -> None:
    """The keys that the build verifies dependencies with; never those that a mirror brings."""
    from stackyard.flow.trust import find_keys

    keys = find_keys(project, read.job.stack or None, settings, option).keys
    if not keys:
        console.warn(
            "the job verified signatures, and there are no keys here: name them by --keys, or "
            "what is signed is refused"
        )
        return
    write_files(
        {temporary / "keys" / f"{number}.pub": data for number, (_, data) in enumerate(keys)}
    )


def _container(folder: Path, read: _Read, wishes: Wishes) -> Container | None:
    image = wishes.image or read.job.image
    if not image:
        return None
    if "$" in image or image.startswith("-"):
        raise ConfigError(
            f"{image!r} is not the whole name of an image",
            where="--image" if wishes.image else "image of the job",
            hint="GitLab knows what its variables hold; say it here: --image NAME",
        )
    for path in wishes.mounts:
        if not path.startswith("/") or ":" in path:
            raise ConfigError(f"{path!r} must be an absolute path without a colon", where="--mount")
    return Container(
        engine=_engine(wishes),
        image=image,
        folder=str(folder),
        project_dir=read.details.project_dir,
        entrypoint=read.job.entrypoint and not wishes.image,
        folders=wishes.mounts,
        variables=wishes.variables,
        options=wishes.options,
    )


def _engine(wishes: Wishes) -> Sequence[str]:
    """The engine's words. Who only wants to see the command need not have one."""
    from stackyard.edges.containers import find_engine

    try:
        return find_engine(Environment.snapshot(), wishes.engine).words
    except ToolError as error:
        if wishes.engine or wishes.run:
            raise
        console.warn(f"{error.message}; the command is for docker")
        return ("docker",)


def _tell(folder: Path, read: _Read, container: Container | None, *, as_json: bool) -> None:
    job = read.job
    words = container_words(container) if container else ["sh", f"{folder}/reproduce.sh"]
    if as_json:
        _print_json(folder, read, container, words)
        return
    console.note(f"{job.name}")
    console.note(f"  Spack     {read.spack.version} of {read.spack.repo}")
    if read.packages:
        console.note(f"  packages  {read.packages.version} of {read.packages.repo}")
    console.note(f"  image     {container.image if container else 'none'}")
    console.note(f"  folder    {folder}")
    _warn_of_machine(job.variables.get("SPACK_JOB_SPEC_ARCH", ""))
    if container:
        console.note(f"look around: {folder}/shell.sh; build: {folder}/run.sh, which is")
    else:
        tags = f" (tags: {', '.join(job.tags)})" if job.tags else ""
        console.note(f"the job ran without a container{tags}; on a machine like its runner's run")
    console.out(shlex.join(words))


def _warn_of_machine(arch: str) -> None:
    import archspec.cpu

    target = archspec.cpu.TARGETS.get(arch.rpartition("-")[2])
    host = archspec.cpu.host()
    if target is not None and not host >= target:
        console.warn(f"the job was for {target.name}, and this machine is {host.name}")


def _print_json(
    folder: Path, read: _Read, container: Container | None, words: Sequence[str]
) -> None:
    import json

    data = {
        "job": read.job.name,
        "package": read.job.package,
        "hash": read.job.hash,
        "image": container.image if container else None,
        "tags": list(read.job.tags),
        "spack": read.spack._asdict(),
        "packages": read.packages._asdict() if read.packages else None,
        "project_dir": read.details.project_dir,
        "directory": str(folder),
        "command": list(words),
    }
    console.out(json.dumps(data, indent=2))


# -- running --------------------------------------------------------------------------------


def _run(folder: Path, container: Container | None, *, shell: bool) -> None:
    from stackyard.edges.process import follow

    if container is None:
        raise ConfigError(
            "the job had no image",
            where="--run",
            hint=f"name one: --image IMAGE; or run {folder}/reproduce.sh on a machine like the "
            "job's runner",
        )
    code = follow(container_words(container, shell=shell))
    if code and not shell:
        raise ToolError(
            f"the container ended with {code}",
            where=container.engine[0],
            hint=f"look around: {folder}/shell.sh",
        )
    if not shell:
        console.note("it went well here")
