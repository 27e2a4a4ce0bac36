"""Look at everything that a run needs, and say in plain words what is missing.

Values of variables are never shown, only whether they are there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from stackyard.edges import console
from stackyard.errors import StackyardError
from stackyard.flow.steps import Project, Work, open_project

if TYPE_CHECKING:
    from stackyard.flow.gitlab_doctor import Need
    from stackyard.settings import System
    from stackyard.stack import Mirror

__all__ = ["Finding", "doctor", "examine"]

#: Characters of a variable's value that GitLab takes.
_LONGEST_VARIABLE = 10_000
#: Variables that GitHub's workflows have without anybody's doing.
_OF_GITHUB = frozenset({"GITHUB_ACTOR", "GITHUB_TOKEN"})


class Finding(NamedTuple):
    """One check: ``code`` is 0 for good news and for advice, else the exit code of the trouble."""

    check: str
    text: str
    hint: str = ""
    advice: bool = False
    code: int = 0

    @property
    def state(self) -> str:
        if self.code:
            return "failed"
        return "advice" if self.advice else "ok"

    def line(self) -> str:
        tail = f"\n          {self.hint}" if self.hint and self.state != "ok" else ""
        return f"{self.state:<7} {self.check}: {self.text}{tail}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "state": self.state,
            "text": self.text,
            "hint": self.hint,
            "code": self.code,
        }


def examine(project: Project, *, stack: str = "", offline: bool = False) -> tuple[Finding, ...]:
    """All findings about the project's settings and each of its stacks (or one)."""
    from stackyard.edges.stacks import list_stacks

    findings = [Finding(check="settings", text=f"{len(project.settings)} keys in invoke.yaml")]
    names = [stack] if stack else list(list_stacks(project.root))
    if not names:
        findings.append(
            Finding(
                check="stacks",
                text="there is none",
                code=2,
                hint="put a spack.yaml into stacks/NAME/",
            )
        )
    seen: list[Work] = []
    for name in names:
        findings.extend(_stack_findings(project, name, offline=offline, seen=seen))
    findings.extend(_rendered_findings(project))
    findings.extend(_program_findings(project.env, seen))
    findings.extend(_release_findings(project, seen, offline=offline))
    if not offline:
        findings.extend(_gitlab_findings(project, seen))
        findings.extend(_github_findings(project))
    return tuple(findings)


def _gitlab_findings(project: Project, seen: Sequence[Work]) -> Iterator[Finding]:
    from stackyard.flow.gitlab_doctor import gitlab_findings
    from stackyard.flow.job_doctor import job_tags

    needs: dict[str, Need] = {}
    for need in (need for work in seen for need in _needs(work)):
        # One stack may say more of a variable than the others.
        if need.name not in needs or need.protected is not None:
            needs[need.name] = need
    tags = {tags for work in seen for tags in job_tags(work)}
    found, troubles = _tried(
        "GitLab", lambda: list(gitlab_findings(project, [*needs.values()], tags))
    )
    yield from troubles
    yield from found or ()


def _release_findings(project: Project, seen: Sequence[Work], *, offline: bool) -> list[Finding]:
    from stackyard.flow.release_doctor import release_findings

    found, troubles = _tried(
        "release", lambda: list(release_findings(project, seen, offline=offline))
    )
    return [*troubles, *(found or ())]


def _github_findings(project: Project) -> Iterator[Finding]:
    from stackyard.flow.github_doctor import github_findings

    if "status" not in project.settings:
        return
    found, troubles = _tried("GitHub: repository", lambda: list(github_findings(project)))
    yield from troubles
    yield from found or ()


def _tried(check: str, step: Callable[[], Any]) -> tuple[Any, list[Finding]]:
    """The step's result, or the finding that its error makes."""
    try:
        return step(), []
    except StackyardError as error:
        message = f"{error.where}: {error.message}" if error.where else error.message
        return None, [Finding(check=check, text=message, hint=error.hint, code=error.code)]


def _stack_findings(
    project: Project, name: str, *, offline: bool, seen: list[Work]
) -> Iterator[Finding]:
    """All about one stack; what could be read of it is added to ``seen``."""
    from stackyard.flow.job_doctor import job_findings
    from stackyard.flow.planning import secret_warnings, stack_warnings
    from stackyard.flow.steps import Request, load_work

    work, troubles = _tried(
        f"{name}: stack and lock", lambda: load_work(project, Request(stack=name))
    )
    if work is None:
        yield from troubles
        return
    seen.append(work)
    yield Finding(
        check=f"{name}: stack and lock", text=f"{len(work.lock.specs)} specs answer the manifest"
    )
    yield from _pin_findings(work, name)
    yield from _system_findings(work, name)
    warnings, troubles = _tried(
        f"{name}: ci section", lambda: (*stack_warnings(work), *secret_warnings(work))
    )
    yield from troubles
    for warning in warnings or ():
        yield Finding(check=f"{name}: ci section", text=warning, advice=True)
    yield from _mirror_findings(work, name, offline=offline)
    yield from _pull_request_findings(work, name)
    yield from job_findings(work, name)
    yield from _variable_findings(work, name)


def _pin_findings(work: Work, name: str) -> Iterator[Finding]:
    from stackyard.flow.locks import check_pins

    pins, troubles = _tried(f"{name}: pins", lambda: check_pins(work))
    yield from troubles
    if pins:
        text = ", ".join(f"{key} {pin['commit'][:12]}" for key, pin in pins.items())
        yield Finding(check=f"{name}: pins", text=text)


def _system_findings(work: Work, name: str) -> Iterator[Finding]:
    """Whether GitHub's machines are what the lock is for, where they build it."""
    github = work.settings.github
    if not {"build", "draw"}.intersection(github.workflows):
        return
    from stackyard.flow.draw import built_specs, check_lock, system_stacks

    specs = built_specs(work)

    def is_built_on(system: System) -> bool:
        if name not in system_stacks(work.project, system):
            return False
        check_lock(system, work.stack, work.lock, specs)
        return True

    for system in github.systems:
        check = f"{name}: system {system.name}"
        built, troubles = _tried(check, partial(is_built_on, system))
        yield from troubles
        if built:
            yield Finding(check=check, text=f"{system.runner} builds what is locked")


def _mirror_findings(work: Work, name: str, *, offline: bool) -> Iterator[Finding]:
    from stackyard.flow.steps import Request, mirror_places

    if "buildcache-destination" not in work.stack.mirrors:
        by_github = _is_built_by_github(work)
        yield Finding(
            check=f"{name}: mirrors",
            text="there is no mirror buildcache-destination",
            hint="only jobs of GitLab push to it, and GitHub builds this stack"
            if by_github
            else "the build jobs push to it: add it with its url",
            code=0 if by_github else 2,
            advice=by_github,
        )
    if offline:
        return
    from stackyard.edges.mirrors.inventory import take_inventories

    for place in mirror_places(work, Request()):
        check = f"{name}: mirror {place.name}"
        inventories, troubles = _tried(
            check,
            lambda place=place: take_inventories(  # type: ignore[misc]
                [place], list(work.lock.specs.values()), index_only=True, progress=lambda _: None
            ),
        )
        yield from troubles
        if inventories:
            yield Finding(
                check=check,
                text=f"can be read, its index names "
                f"{len(inventories[0].found)} of the lock's specs",
            )
            for warning in inventories[0].warnings:
                yield Finding(check=check, text=warning, advice=True)


def _pull_request_findings(work: Work, name: str) -> Iterator[Finding]:
    """Whether what a pull request builds stays apart from what is released."""
    check = f"{name}: pull requests"
    if "buildcache-destination" not in work.stack.mirrors:
        return
    settings = work.settings.pull_requests
    if not settings.mirror:
        if _is_built_by_github(work):  # whose pull requests push nothing
            return
        yield Finding(
            check=check,
            text="what they build goes to the mirror that releases go to",
            hint="give them mirrors of their own: pull_requests.mirror, see docs/pipelines.md",
            advice=True,
        )
        return
    from stackyard.pull_requests import check_prefix

    _, troubles = _tried(check, lambda: check_prefix(settings, work.stack))
    yield from troubles
    if not troubles:
        from stackyard.edges.stores.store import public_url

        yield Finding(check=check, text=f"write below {public_url(settings.prefix)}")


def _is_built_by_github(work: Work) -> bool:
    """Whether GitHub's workflows build the stack, and GitLab does not."""
    return "build" in work.settings.github.workflows and not work.settings.gitlab.project


def _needs(work: Work) -> Iterator[Need]:
    """Variables that the stack's jobs read in CI."""
    from stackyard.flow.gitlab_doctor import Need
    from stackyard.stack import make_mirror

    settings = work.settings
    apart = bool(settings.pull_requests.mirror)
    for mirror in work.stack.mirrors.values():
        yield from _mirror_needs(mirror, work, protected=True if apart else None)
    if isinstance(settings.pull_requests.mirror, Mapping):
        own = make_mirror("of pull requests", settings.pull_requests.mirror)
        yield from _mirror_needs(own, work, protected=False)
    destination = work.stack.mirrors.get("buildcache-destination")
    if destination is not None and destination.signed:
        yield Need("SPACK_SIGNING_KEY", "signing binaries", protected=True)
    if work.stack.cdash.get("build-group"):
        yield Need("SPACK_CDASH_AUTH_TOKEN", "creating the build group on CDash")
    if "status" in work.project.settings:
        yield Need("GITHUB_TOKEN", "posting commit statuses", protected=False)


def _mirror_needs(mirror: Mirror, work: Work, *, protected: bool | None) -> Iterator[Need]:
    from stackyard.edges.stores.store import public_url
    from stackyard.flow.gitlab_doctor import Need

    for connection in (mirror.fetch, mirror.push):
        for variable in (
            connection.id_variable,
            connection.secret_variable,
            connection.access_token_variable,
        ):
            if variable:
                yield Need(variable, f"credentials of the mirror {mirror.name}", protected)
    push = mirror.push
    if push.url.startswith("s3://") and not push.id_variable and not work.settings.jobs.aws:
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            purpose = f"pushing to {public_url(push.url)}, unless roles do it"
            # A pull request needs them, too, if it has no others.
            yield Need(variable, purpose)


def _variable_findings(work: Work, name: str) -> Iterator[Finding]:
    """Which variables are set here is told, never their values."""
    env = work.project.env
    needs: dict[str, Need] = {}
    for need in _needs(work):
        needs.setdefault(need.name, need)
    for variable, need in needs.items():
        there = variable in env and bool(env[variable])
        kind = "masked" if need.protected is False else "protected and masked"
        hint = f"define it in the CI system: {kind}"
        if variable in _OF_GITHUB and _is_built_by_github(work):
            hint = "GitHub gives it to the workflows; set it to push from this machine"
        yield Finding(
            check=f"{name}: variable {variable}",
            text=f"{'set' if there else 'not set here'} ({need.purpose})",
            hint="" if there else hint,
            advice=not there,
        )
    if env.get("CDASH_AUTH_TOKEN") and not env.get("SPACK_CDASH_AUTH_TOKEN"):
        yield Finding(
            check=f"{name}: variable CDASH_AUTH_TOKEN",
            text="Spack's jobs do not read it",
            hint="name it SPACK_CDASH_AUTH_TOKEN",
            advice=True,
        )
    if len(env.get("SPACK_SIGNING_KEY", "")) > _LONGEST_VARIABLE:
        yield Finding(
            check=f"{name}: variable SPACK_SIGNING_KEY",
            text=f"GitLab takes {_LONGEST_VARIABLE:,} characters, and it has more",
            hint="export one key and not a whole keyring: invoke keys.export",
            code=2,
        )


def _rendered_findings(project: Project) -> Iterator[Finding]:
    """Whether the files that ``generate`` renders are what they would be now."""
    from stackyard.flow.generate import is_fresh, parent_files
    from stackyard.flow.image_stacks import argument_files
    from stackyard.flow.workflows import leftover_workflows, workflow_files

    makers = (
        (".gitlab-ci.yml", parent_files),
        (".github/workflows", workflow_files),
        ("docker/args", argument_files),
    )
    for check, make in makers:
        files, troubles = _tried(check, lambda make=make: make(project))  # type: ignore[misc]
        yield from troubles
        for path, data in (files or {}).items():
            fresh, troubles = _tried(
                project.shown(path),
                lambda path=path, data=data: is_fresh(path, data),  # type: ignore[misc]
            )
            yield from troubles
            if not troubles:
                good, bad = (
                    "is what the stacks and settings ask for",
                    "is missing or not up to date",
                )
                yield Finding(
                    check=project.shown(path),
                    text=good if fresh else bad,
                    advice=not fresh,
                    hint="" if fresh else "run: invoke generate, and commit it",
                )
    # Settings that cannot be read were told above.
    leftover, _ = _tried(".github/workflows", lambda: leftover_workflows(project))
    for path in leftover or ():
        yield Finding(
            check=project.shown(path),
            text="is here, and the settings no longer ask for it",
            hint="run: invoke generate, and commit that",
            advice=True,
        )


def _program_findings(env: Mapping[str, str], seen: Sequence[Work]) -> Iterator[Finding]:
    """Programs that tasks start, by what needs them."""
    from shutil import which

    from stackyard.edges.containers import find_engine

    search = env.get("PATH")
    if not which("git", path=search):
        yield Finding(check="programs", text="there is no git", hint="install it", code=5)
    signed = any(mirror.signed for work in seen for mirror in work.stack.mirrors.values())
    if signed and not (which("gpg2", path=search) or which("gpg", path=search)):
        yield Finding(
            check="programs",
            text="there is no gpg, and a mirror is signed",
            hint="install GnuPG 2: signatures are verified, and keys made, by it",
            advice=True,
        )
    engine, troubles = _tried("programs", lambda: find_engine(env))
    if engine:
        yield Finding(check="programs", text=f"containers: {engine.name} ({engine.why})")
    for trouble in troubles:  # most tasks need none
        yield trouble._replace(
            code=0, advice=True, text=f"{trouble.text}: invoke reproduce wants one"
        )


def doctor(*, stack: str = "", offline: bool = False, as_json: bool = False) -> None:
    """Look at everything that a run needs, and say what is missing."""
    findings = examine(open_project(), stack=stack, offline=offline)
    if as_json:
        console.out(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        for finding in findings:
            console.out(finding.line())
    worst = max((finding.code for finding in findings), default=0)
    if worst:
        failed = sum(finding.code > 0 for finding in findings)
        error = StackyardError(f"{failed} of {len(findings)} checks failed")
        error.code = worst
        raise error
