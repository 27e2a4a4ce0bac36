"""Look at everything that a run needs, and say in plain words what is missing.

Values of variables are never shown, only whether they are there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from stackyard.edges import console
from stackyard.errors import StackyardError
from stackyard.flow.steps import Project, Work, open_project

__all__ = ["Finding", "doctor", "examine"]


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
    for name in names:
        findings.extend(_stack_findings(project, name, offline=offline))
    findings.extend(_parent_findings(project))
    return tuple(findings)


def _tried(check: str, step: Callable[[], Any]) -> tuple[Any, list[Finding]]:
    """The step's result, or the finding that its error makes."""
    try:
        return step(), []
    except StackyardError as error:
        message = f"{error.where}: {error.message}" if error.where else error.message
        return None, [Finding(check=check, text=message, hint=error.hint, code=error.code)]


def _stack_findings(project: Project, name: str, *, offline: bool) -> Iterator[Finding]:
    from stackyard.flow.planning import stack_warnings
    from stackyard.flow.steps import Request, load_work

    work, troubles = _tried(
        f"{name}: stack and lock", lambda: load_work(project, Request(stack=name))
    )
    if work is None:
        yield from troubles
        return
    yield Finding(
        check=f"{name}: stack and lock", text=f"{len(work.lock.specs)} specs answer the manifest"
    )
    warnings, troubles = _tried(f"{name}: ci section", lambda: stack_warnings(work))
    yield from troubles
    for warning in warnings or ():
        yield Finding(check=f"{name}: ci section", text=warning, advice=True)
    yield from _mirror_findings(work, name, offline=offline)
    yield from _variable_findings(work, name)


def _mirror_findings(work: Work, name: str, *, offline: bool) -> Iterator[Finding]:
    from stackyard.flow.steps import Request, mirror_places

    if "buildcache-destination" not in work.stack.mirrors:
        yield Finding(
            check=f"{name}: mirrors",
            text="there is no mirror buildcache-destination",
            hint="the build jobs push to it: add it with its url",
            code=2,
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


def _variable_findings(work: Work, name: str) -> Iterator[Finding]:
    """Variables that the stack's jobs read in CI; which are set here is told, never their values."""
    from stackyard.edges.stores.store import public_url

    needed: dict[str, str] = {}
    for mirror in work.stack.mirrors.values():
        for connection in (mirror.fetch, mirror.push):
            for variable in (
                connection.id_variable,
                connection.secret_variable,
                connection.access_token_variable,
            ):
                if variable:
                    needed[variable] = f"credentials of the mirror {mirror.name}"
        if mirror.push_url.startswith("s3://") and not mirror.push.id_variable:
            for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                needed.setdefault(
                    variable, f"pushing to {public_url(mirror.push_url)}, unless roles do it"
                )
    destination = work.stack.mirrors.get("buildcache-destination")
    if destination is not None and destination.signed:
        needed["SPACK_SIGNING_KEY"] = "signing binaries"
    if work.stack.cdash.get("build-group"):
        needed["SPACK_CDASH_AUTH_TOKEN"] = "creating the build group on CDash"  # noqa: S105
    env = work.project.env
    for variable, purpose in needed.items():
        there = variable in env and bool(env[variable])
        yield Finding(
            check=f"{name}: variable {variable}",
            text=f"{'set' if there else 'not set here'} ({purpose})",
            hint="" if there else "define it in the CI system: protected and masked",
            advice=not there,
        )


def _parent_findings(project: Project) -> Iterator[Finding]:
    from stackyard.flow.generate import parent_is_fresh

    fresh, troubles = _tried(".gitlab-ci.yml", lambda: parent_is_fresh(project))
    yield from troubles
    if fresh:
        yield Finding(check=".gitlab-ci.yml", text="is what the stacks and settings ask for")
    elif not troubles:
        yield Finding(
            check=".gitlab-ci.yml",
            text="is missing or not up to date",
            advice=True,
            hint="run: invoke generate",
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
