"""What ``doctor`` sees of the project on GitLab: settings, variables, runners, protected branches.

Only what GITLAB_TOKEN may read. Values of variables are neither asked for nor kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from stackyard.errors import StackyardError, StoreError

if TYPE_CHECKING:
    from stackyard.edges.gitlab import GitLab
    from stackyard.flow.examination import Finding
    from stackyard.flow.steps import Project

__all__ = ["Need", "gitlab_findings"]

_WHERE = "Settings, CI/CD, Variables"
#: Below an hour GitLab ends what many packages need to build.
_SHORT_S = 2 * 3600
#: Runners that are asked one by one for their tags.
_MOST_RUNNERS = 100


class Need(NamedTuple):
    """A variable that jobs read.

    ``protected``: True where only protected branches may have it, False where pull requests need
    it, None where either will do.
    """

    name: str
    purpose: str
    protected: bool | None = None


class _Runner(NamedTuple):
    """``protected``: it runs jobs of protected branches and tags only."""

    tags: frozenset[str]
    untagged: bool
    protected: bool

    def takes(self, tags: frozenset[str]) -> bool:
        if self.protected and "public" in tags:
            return False
        return tags <= self.tags if tags else self.untagged


def gitlab_findings(
    project: Project, needs: Sequence[Need], tags: Iterable[frozenset[str]]
) -> Iterator[Finding]:
    """``tags`` are sets of runner tags that some job asks for; nothing without a project."""
    from stackyard.edges.gitlab import GitLab, project_path
    from stackyard.settings import make_settings

    place = make_settings(project.settings).gitlab
    token = project.env.get("GITLAB_TOKEN", "")
    if not place.project:
        return
    if not token:
        yield _finding(
            "project",
            "was not looked at",
            "set GITLAB_TOKEN to a token of a maintainer, with the scope read_api",
        )
        return
    gitlab = GitLab(place.url, token)
    path = project_path(str(place.project))
    found, problem = _asked(gitlab, path)
    if problem:
        yield problem
        return
    about = list(_project_findings(found))
    yield from about
    if any(one.code for one in about):
        return
    yield from _branch_findings(gitlab, path, str(found.get("default_branch") or ""))
    yield from _tag_findings(gitlab, path, make_settings(project.settings).release.prefix)
    yield from _variable_findings(gitlab, path, needs)
    yield from _runner_findings(gitlab, path, sorted(set(tags), key=sorted))


def _finding(
    check: str, text: str, hint: str = "", *, code: int = 0, good: bool = False
) -> Finding:
    from stackyard.flow.examination import Finding

    return Finding(
        check=f"GitLab: {check}", text=text, hint=hint, code=code, advice=not (good or code)
    )


def _asked(gitlab: GitLab, path: str) -> tuple[Mapping[str, Any], Finding | None]:
    try:
        found = gitlab.get(path)
    except StackyardError as error:
        return {}, _finding("project", str(error.message), error.hint, code=error.code)
    if not isinstance(found, Mapping):
        return {}, _finding("project", "its answer is no project", code=6)
    return found, None


def _listed(gitlab: GitLab, path: str, what: str, **query: str) -> tuple[list[Any], Finding | None]:
    """All of a list, or the finding that it may not be seen."""
    try:
        return list(gitlab.pages(path, **query)), None
    except StoreError as error:
        return [], _finding(
            what,
            f"cannot be seen: {error.message}",
            "a token of a maintainer, with the scope read_api, may see it",
        )


def _project_findings(found: Mapping[str, Any]) -> Iterator[Finding]:
    name = str(found.get("path_with_namespace") or "")
    if found.get("builds_access_level") == "disabled":
        yield _finding(
            "project",
            f"CI/CD is switched off in {name}",
            "Settings, General, Visibility: CI/CD",
            code=2,
        )
        return
    yield _finding("project", f"{name} can be read", good=True)
    config = found.get("ci_config_path") or ".gitlab-ci.yml"
    if config != ".gitlab-ci.yml":
        yield _finding(
            "CI/CD configuration file",
            f"is {config}, and `invoke generate` writes .gitlab-ci.yml",
            "Settings, CI/CD, General pipelines: leave it empty",
        )
    if found.get("auto_devops_enabled"):
        yield _finding("Auto DevOps", "is on", "Settings, CI/CD, Auto DevOps: off")
    timeout = found.get("build_timeout")
    if isinstance(timeout, int) and timeout < _SHORT_S:
        yield _finding(
            "timeout",
            f"jobs end after {timeout // 60} minutes",
            "Settings, CI/CD, General pipelines: as long as your largest package takes, and more",
        )
    if found.get("build_git_strategy") == "fetch":
        yield _finding(
            "Git strategy",
            "is git fetch, so that jobs find what earlier ones left behind",
            "Settings, CI/CD, General pipelines: git clone",
        )
    if found.get("ci_pipeline_variables_minimum_override_role") == "developer":
        yield _finding(
            "pipeline variables",
            "every developer may set them, SPACK_PIPELINE_TYPE too",
            f"{_WHERE}: Minimum role to use pipeline variables",
        )


def _branch_findings(gitlab: GitLab, path: str, default: str) -> Iterator[Finding]:
    branches, problem = _listed(gitlab, f"{path}/protected_branches", "protected branches")
    if problem:
        yield problem
        return
    names = _names(branches)
    # A pull request on GitHub is such a branch here, and nobody may sign what strangers wrote.
    wide = [name for name in names if fnmatchcase("pr-1", name)]
    if wide:
        yield _finding(
            "protected branches",
            f"{wide[0]} holds for branches of pull requests too, such as pr-1: they would be signed",
            "Settings, Repository, Protected branches: name those that release",
            code=2,
        )
    elif not names:
        yield _finding(
            "protected branches",
            f"there is none: nothing is signed, and {default or 'all'} writes as a pull request",
            "Settings, Repository, Protected branches",
        )
    else:
        yield _finding("protected branches", ", ".join(sorted(names)), good=True)


def _tag_findings(gitlab: GitLab, path: str, prefix: str) -> Iterator[Finding]:
    tags, problem = _listed(gitlab, f"{path}/protected_tags", "protected tags")
    if problem:
        yield problem
        return
    if not any(fnmatchcase(f"{prefix}x", name) for name in _names(tags)):
        yield _finding(
            "protected tags",
            f"none is {prefix}*: anybody who may push makes a release",
            "Settings, Repository, Protected tags",
        )
    else:
        yield _finding("protected tags", f"{prefix}*", good=True)


def _names(listed: Iterable[Any]) -> list[str]:
    return [str(one.get("name")) for one in listed if isinstance(one, Mapping)]


def _variable_findings(gitlab: GitLab, path: str, needs: Sequence[Need]) -> Iterator[Finding]:
    listed, problem = _listed(gitlab, f"{path}/variables", "variables")
    if problem:
        yield problem
        return
    there: dict[str, list[Mapping[str, Any]]] = {}
    for variable in listed:
        if isinstance(variable, Mapping):
            there.setdefault(str(variable.get("key")), []).append(variable)
    for need in needs:
        yield _variable_finding(need, there.get(need.name, []))


def _variable_finding(need: Need, found: Sequence[Mapping[str, Any]]) -> Finding:
    check = f"variable {need.name}"
    if not found:
        return _finding(
            check, f"is not in the project ({need.purpose})", f"{_WHERE}; or in its group"
        )
    if need.protected and not all(one.get("protected") for one in found):
        return _finding(
            check,
            f"is not protected, so every branch has it ({need.purpose})",
            f"{_WHERE}: Protect variable",
            code=2,
        )
    if need.protected is False and all(one.get("protected") for one in found):
        return _finding(
            check,
            f"is protected, and jobs of pull requests need it ({need.purpose})",
            f"{_WHERE}: no Protect variable; it must be able to do no more than that",
        )
    if not all(one.get("masked") for one in found):
        return _finding(check, f"is not masked in logs ({need.purpose})", f"{_WHERE}: Masked")
    return _finding(check, f"is there ({need.purpose})", good=True)


def _runner_findings(
    gitlab: GitLab, path: str, wanted: Sequence[frozenset[str]]
) -> Iterator[Finding]:
    listed, problem = _listed(gitlab, f"{path}/runners", "runners", status="online")
    if problem:
        yield problem
        return
    runners = []
    for one in listed[:_MOST_RUNNERS]:
        number = one.get("id") if isinstance(one, Mapping) else None
        if not isinstance(number, int) or one.get("paused"):
            continue
        try:
            runners.append(_runner(gitlab.get(f"/runners/{number}")))
        except StoreError:
            # Of runners that are not the project's own, tags are told to administrators only.
            yield _finding("runners", f"the tags of runner {number} cannot be seen")
            return
    if not runners:
        yield _finding(
            "runners", "none is online", "Settings, CI/CD, Runners: register one", code=2
        )
        return
    lacking = [tags for tags in wanted if not any(runner.takes(tags) for runner in runners)]
    for tags in lacking:
        shown = ", ".join(sorted(tags)) or "no tags at all"
        yield _finding(
            "runners",
            f"none that is online takes jobs with {shown}",
            "register one with these tags, or change tags in the ci section; the tags public and "
            "protected are Spack's: jobs.reserved_tags: false does without",
            code=2,
        )
    if not lacking:
        yield _finding("runners", f"{len(runners)} online, for all kinds of jobs", good=True)


def _runner(answer: Any) -> _Runner:
    data = answer if isinstance(answer, Mapping) else {}
    return _Runner(
        frozenset(map(str, data.get("tag_list") or ())),
        bool(data.get("run_untagged")),
        data.get("access_level") == "ref_protected",
    )
