"""``invoke doctor`` on the project on GitLab, and on what jobs are asked to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Project, Stackyard
from fake_service import Fault, Handler, RefusedError, Service
from locks import document
from serving import serving

CHAIN = document({"app": ["lib"], "lib": []})
TOKEN = "glpat-0123456789abcdef"
SPACK = CHAIN["spack"]["commit"]
VALUE = "a-value-that-nobody-may-see"


class GitLab(Service):
    """A project as GitLab's API documents it; ``hidden`` are paths that the token may not see."""

    def __init__(self) -> None:
        super().__init__(Answers)
        self.project: dict[str, Any] = {
            "id": 7,
            "path_with_namespace": "group/project",
            "default_branch": "main",
            "builds_access_level": "enabled",
            "auto_devops_enabled": False,
            "build_timeout": 86400,
            "ci_config_path": "",
            "build_git_strategy": "clone",
            "ci_pipeline_variables_minimum_override_role": "no_one_allowed",
        }
        self.variables: list[dict[str, Any]] = []
        self.branches: list[dict[str, Any]] = [{"id": 1, "name": "main"}]
        self.tags: list[dict[str, Any]] = [{"name": "rev-*", "create_access_levels": []}]
        self.runners: list[dict[str, Any]] = [self.runner()]
        self.hidden: set[str] = set()

    @staticmethod
    def runner(*tags: str, number: int = 1, **more: Any) -> dict[str, Any]:
        shown = {"id": number, "paused": False, "online": True, "status": "online"}
        about = {"run_untagged": True, "access_level": "not_protected"}
        return {**shown, **about, "tag_list": list(tags), **more}

    def variable(self, key: str, *, protected: bool = True, masked: bool = True) -> None:
        about = {"variable_type": "env_var", "environment_scope": "*", "value": VALUE}
        self.variables.append({**about, "key": key, "protected": protected, "masked": masked})


class Answers(Handler):
    server: GitLab

    def route(self) -> None:
        if self.asked.method != "GET":
            raise RefusedError(405, {}, "a doctor only looks")
        if self.asked.headers.get("PRIVATE-TOKEN") != TOKEN:
            raise RefusedError(401, {"message": "401 Unauthorized"}, "without the token")
        project = "/api/v4/projects/group%2Fproject"
        path = self.asked.path
        if path in self.server.hidden:
            raise RefusedError(403, {"message": "403 Forbidden"})
        number = re.fullmatch("/api/v4/runners/([0-9]+)", path)
        server = self.server
        if path == project:
            self.json(200, server.project)
        elif path == f"{project}/variables":
            self.json(200, server.variables)
        elif path == f"{project}/protected_branches":
            self.json(200, server.branches)
        elif path == f"{project}/protected_tags":
            self.json(200, server.tags)
        elif path == f"{project}/runners" and self.asked.parameters.get("status") == "online":
            hidden = ("tag_list", "run_untagged", "access_level")
            shown = [{k: v for k, v in one.items() if k not in hidden} for one in server.runners]
            self.json(200, shown)
        elif number:
            self.json(200, next(one for one in server.runners if one["id"] == int(number[1])))
        else:
            raise RefusedError(404, {"message": "404 Not found"}, "no such path")


@pytest.fixture
def gitlab(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitLab]:
    server = GitLab()
    with serving(server):
        settings = {"gitlab": {"url": server.url, "project": "group/project"}}
        project.write("invoke.yaml", {"stackyard": settings})
        mirror = project.root / "mirror"
        mirror.mkdir()
        project.stack(CHAIN, mirror=mirror.as_uri(), ci={"pipeline-gen": []})
        monkeypatch.setenv("GITLAB_TOKEN", TOKEN)
        yield server
    assert server.breaches == []


def said(stackyard: Stackyard, code: int = 0) -> dict[str, str]:
    """The findings about GitLab: state and text by check."""
    answer = stackyard("doctor", "--json", code=code)
    assert VALUE not in answer.out + answer.err
    assert TOKEN not in answer.out + answer.err
    found = json.loads(answer.out)
    return {
        one["check"].removeprefix("GitLab: "): f"{one['state']}: {one['text']}"
        for one in found
        if one["check"].startswith("GitLab")
    }


def settings(project: Project, **more: Any) -> None:
    path = project.root / "invoke.yaml"
    written = json.loads(path.read_text())["stackyard"]
    project.write("invoke.yaml", {"stackyard": {**written, **more}})


def test_all_is_well(stackyard: Stackyard, gitlab: GitLab) -> None:
    gitlab.runners = [gitlab.runner("public"), gitlab.runner("protected", number=2)]
    assert said(stackyard) == {
        "project": "ok: group/project can be read",
        "protected branches": "ok: main",
        "protected tags": "ok: rev-*",
        "runners": "ok: 2 online, for all kinds of jobs",
    }


def test_nothing_is_asked_without_token_or_project(
    stackyard: Stackyard, gitlab: GitLab, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    stackyard("doctor", "--offline")
    monkeypatch.delenv("GITLAB_TOKEN")
    assert said(stackyard) == {"project": "advice: was not looked at"}
    monkeypatch.setenv("GITLAB_TOKEN", TOKEN)
    project.write("invoke.yaml", {"stackyard": {}})
    assert said(stackyard) == {}
    assert gitlab.asked == []


def test_settings_that_stand_in_the_way(stackyard: Stackyard, gitlab: GitLab) -> None:
    gitlab.project |= {
        "auto_devops_enabled": True,
        "build_timeout": 3600,
        "ci_config_path": "ci/x.yml",
        "build_git_strategy": "fetch",
        "ci_pipeline_variables_minimum_override_role": "developer",
    }
    gitlab.tags = [{"name": "v*"}]
    gitlab.branches = []
    gitlab.runners = [gitlab.runner("public", "protected")]
    found = said(stackyard)
    assert found["Auto DevOps"] == "advice: is on"
    assert found["timeout"] == "advice: jobs end after 60 minutes"
    assert found["CI/CD configuration file"].startswith("advice: is ci/x.yml")
    assert found["protected branches"].startswith("advice: there is none: nothing is signed")
    assert found["protected tags"] == "advice: none is rev-*: anybody who may push makes a release"
    assert found["Git strategy"].startswith("advice: is git fetch")
    assert found["pipeline variables"].startswith("advice: every developer may set them")


@pytest.mark.parametrize("name", ["*", "pr-*", "p*-1"])
def test_a_protection_that_holds_for_pull_requests(
    stackyard: Stackyard, gitlab: GitLab, name: str
) -> None:
    """Their branches would get the signing key."""
    gitlab.runners = [gitlab.runner("public", "protected")]
    gitlab.branches.append({"id": 2, "name": name})
    text = said(stackyard, 2)["protected branches"]
    assert text.startswith(f"failed: {name} holds for branches of pull requests too")
    gitlab.branches[1]["name"] = "release/*"
    assert said(stackyard)["protected branches"] == "ok: main, release/*"


def test_a_protected_runner_takes_no_pull_requests(stackyard: Stackyard, gitlab: GitLab) -> None:
    gitlab.runners = [gitlab.runner("public", "protected", access_level="ref_protected")]
    assert said(stackyard, 2)["runners"] == "failed: none that is online takes jobs with public"
    gitlab.runners = [
        gitlab.runner("protected", access_level="ref_protected"),
        gitlab.runner("public", number=2),
    ]
    assert said(stackyard)["runners"] == "ok: 2 online, for all kinds of jobs"


def test_each_stack_may_say_more_of_a_variable(
    stackyard: Stackyard, gitlab: GitLab, project: Project
) -> None:
    """Which is read last does not count."""
    gitlab.runners = [gitlab.runner("public", "protected")]
    pair = {"id_variable": "ID", "secret_variable": "SECRET"}
    url = (project.root / "mirror").as_uri()
    entry = {"url": url, "signed": False, "access_pair": pair}
    pulls = {"pull_requests": {"mirror": "s3://example-pulls"}}
    for name, own in (("a", {}), ("b", pulls), ("c", {})):
        project.stack(
            CHAIN,
            name=name,
            mirrors={"buildcache-destination": entry},
            ci={"pipeline-gen": []},
            settings=own,
        )
    gitlab.variable("ID", protected=False)
    gitlab.variable("SECRET")
    found = said(stackyard, 2)
    assert found["variable ID"].startswith("failed: is not protected, so every branch has it")
    assert found["variable SECRET"].startswith("ok")


def test_switched_off(stackyard: Stackyard, gitlab: GitLab) -> None:
    gitlab.project["builds_access_level"] = "disabled"
    assert said(stackyard, 2) == {"project": "failed: CI/CD is switched off in group/project"}


def test_runners(stackyard: Stackyard, gitlab: GitLab, project: Project) -> None:
    gitlab.runners = []
    assert said(stackyard, 2)["runners"] == "failed: none is online"
    gitlab.runners = [gitlab.runner("public"), {**gitlab.runner("protected"), "paused": True}]
    assert said(stackyard, 2)["runners"] == (
        "failed: none that is online takes jobs with protected"
    )
    settings(project, jobs={"reserved_tags": False})
    assert said(stackyard)["runners"] == "ok: 1 online, for all kinds of jobs"
    gitlab.runners = [gitlab.runner("public", run_untagged=False)]
    assert said(stackyard, 2)["runners"] == (
        "failed: none that is online takes jobs with no tags at all"
    )


def test_tags_of_submappings_count(stackyard: Stackyard, gitlab: GitLab, project: Project) -> None:
    rule = {"match": ["app"], "build-job": {"tags": ["huge"]}}
    ci = {"pipeline-gen": [{"submapping": [rule]}]}
    project.stack(CHAIN, mirror=(project.root / "mirror").as_uri(), ci=ci)
    settings(project, jobs={"reserved_tags": False})
    assert said(stackyard, 2)["runners"] == "failed: none that is online takes jobs with huge"


def test_variables(stackyard: Stackyard, gitlab: GitLab, project: Project) -> None:
    pair = {"id_variable": "RELEASE_ID", "secret_variable": "RELEASE_SECRET"}
    url = (project.root / "mirror").as_uri()
    entry = {"url": url, "signed": True, "access_pair": pair}
    own = {"id_variable": "PULL_ID", "secret_variable": "PULL_SECRET"}
    pulls = {"mirror": {"url": f"{url}/../pulls", "access_pair": own}}
    project.stack(CHAIN, mirrors={"buildcache-destination": entry}, ci={"pipeline-gen": []})
    settings(project, status={}, jobs={"reserved_tags": False}, pull_requests=pulls)
    gitlab.variable("SPACK_SIGNING_KEY", protected=False)
    gitlab.variable("RELEASE_ID")
    gitlab.variable("RELEASE_SECRET", masked=False)
    gitlab.variable("GITHUB_TOKEN")
    gitlab.variable("PULL_ID", protected=False)
    found = said(stackyard, 2)
    states = {
        check.removeprefix("variable "): text.partition(" (")[0]
        for check, text in found.items()
        if check.startswith("variable ")
    }
    assert states == {
        "SPACK_SIGNING_KEY": "failed: is not protected, so every branch has it",
        "RELEASE_ID": "ok: is there",
        "RELEASE_SECRET": "advice: is not masked in logs",
        "GITHUB_TOKEN": "advice: is protected, and jobs of pull requests need it",
        "PULL_ID": "ok: is there",
        "PULL_SECRET": "advice: is not in the project",
    }


def test_a_variable_may_be_there_more_than_once(
    stackyard: Stackyard, gitlab: GitLab, project: Project
) -> None:
    """In scopes of environments: one that is open to all is a leak; one of them will do for all."""
    url = (project.root / "mirror").as_uri()
    mirrors = {"buildcache-destination": {"url": url, "signed": True}}
    project.stack(CHAIN, mirrors=mirrors, ci={"pipeline-gen": []})
    settings(project, status={}, jobs={"reserved_tags": False})
    for protected in (True, False):
        gitlab.variable("SPACK_SIGNING_KEY", protected=protected)
        gitlab.variable("GITHUB_TOKEN", protected=protected)
    found = said(stackyard, 2)
    assert found["variable SPACK_SIGNING_KEY"].startswith("failed: is not protected")
    assert found["variable GITHUB_TOKEN"].startswith("ok: is there")


def test_what_the_token_may_not_see_is_said(stackyard: Stackyard, gitlab: GitLab) -> None:
    base = "/api/v4/projects/group%2Fproject"
    gitlab.hidden = {
        *(f"{base}/{name}" for name in ("variables", "protected_branches", "protected_tags")),
        "/api/v4/runners/1",
    }
    found = said(stackyard)
    assert found["variables"].startswith("advice: cannot be seen")
    assert found["protected branches"].startswith("advice: cannot be seen")
    assert found["protected tags"].startswith("advice: cannot be seen")
    assert found["runners"] == "advice: the tags of runner 1 cannot be seen"
    gitlab.hidden = {f"{base}/runners"}
    assert said(stackyard)["runners"].startswith("advice: cannot be seen")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_no_project(stackyard: Stackyard, gitlab: GitLab, status: int) -> None:
    gitlab.fail(Fault(status=status, body=b"{}"))
    (text,) = said(stackyard, 6).values()
    assert text.startswith("failed: ")


def test_an_answer_that_is_none(stackyard: Stackyard, gitlab: GitLab) -> None:
    gitlab.fail(Fault(status=200, body=b"[]"))
    assert said(stackyard, 6) == {"project": "failed: its answer is no project"}


# -- what jobs are asked to do --------------------------------------------------------------


def about(stackyard: Stackyard, check: str) -> list[str]:
    found = json.loads(stackyard("doctor", "--offline", "--json").out)
    return [f"{one['state']}: {one['text']}" for one in found if one["check"] == f"demo: {check}"]


def test_pull_requests(stackyard: Stackyard, project: Project) -> None:
    project.stack(CHAIN)
    (text,) = about(stackyard, "pull requests")
    assert text == "advice: what they build goes to the mirror that releases go to"
    project.stack(CHAIN, settings={"pull_requests": {"mirror": "s3://example-pulls"}})
    assert about(stackyard, "pull requests") == ["ok: write below s3://example-pulls"]
    project.stack(CHAIN, settings={"pull_requests": {"mirror": "s3://example-binaries"}})
    answer = stackyard("doctor", "--offline", code=2)
    assert "failed  demo: pull requests: pull_requests.mirror: the mirror" in answer.out


def test_results_of_tests(stackyard: Stackyard, project: Project) -> None:
    junit = {"jobs": {"junit": True}}
    project.stack(CHAIN, settings=junit)
    assert about(stackyard, "jobs") == []
    cdash = {"build-group": "g", "url": "https://x", "project": "p", "site": "s"}
    project.stack(CHAIN, settings=junit, cdash=cdash)
    assert "to CDash, and then GitLab gets none" in about(stackyard, "jobs")[0]
    for line, told in (("spack ci rebuild", 1), ("spack ci rebuild -t", 0)):
        ci = {"pipeline-gen": [{"build-job": {"script:": [["cd x", line]]}}]}
        project.stack(CHAIN, settings=junit, ci=ci)
        assert len(about(stackyard, "jobs")) == told


def test_a_clone_without_pins(stackyard: Stackyard, project: Project) -> None:
    project.stack(CHAIN, settings={"jobs": {"clone": True}})
    (text,) = about(stackyard, "jobs")
    assert text == "advice: they clone Spack, and nothing pins its packages"
    pin = {"repo": "https://example.org/spack.git", "commit": SPACK}
    project.write("stacks/demo/pins.yaml", {"spack": pin})
    assert about(stackyard, "jobs") == []


def test_with_a_role_no_keys_are_needed(stackyard: Stackyard, project: Project) -> None:
    project.stack(CHAIN)
    assert len(about(stackyard, "variable AWS_ACCESS_KEY_ID")) == 1
    project.stack(CHAIN, settings={"jobs": {"aws": {"role": ROLE}}})
    assert about(stackyard, "variable AWS_ACCESS_KEY_ID") == []


ROLE = "arn:aws:iam::123456789012:role/release"
#: Settings of the jobs' role, of pull requests, and what is told.
ROLES: list[tuple[dict[str, Any], dict[str, str], list[str]]] = [
    ({"role": ROLE}, {}, []),
    ({"role": ROLE.replace("aws", "aws-us-gov")}, {}, []),
    ({"role": ROLE}, {"mirror": "s3://example-pulls"}, ["pull requests take the role of releases"]),
    (
        {"role": ROLE},
        {"mirror": "s3://example-pulls", "role": ROLE},
        ["pull requests take the role of releases"],
    ),
    ({"role": ROLE}, {"mirror": "s3://example-pulls", "role": f"{ROLE}/pulls"}, []),
    (
        {},
        {"mirror": "s3://example-pulls", "role": ROLE},
        ["pull_requests.role is not taken: only jobs.aws makes jobs take roles"],
    ),
]


@pytest.mark.parametrize(("aws", "pulls", "told"), ROLES)
def test_roles(
    stackyard: Stackyard,
    project: Project,
    aws: dict[str, Any],
    pulls: dict[str, str],
    told: list[str],
) -> None:
    jobs = {"jobs": {"aws": aws}} if aws else {}
    project.stack(CHAIN, settings={**jobs, "pull_requests": pulls})
    assert about(stackyard, "jobs") == [f"advice: {text}" for text in told]


@pytest.mark.parametrize("role", ["release", "arn:aws:iam::12:role/x", f"{ROLE} "])
def test_what_is_no_role(stackyard: Stackyard, project: Project, role: str) -> None:
    project.stack(CHAIN, settings={"jobs": {"aws": {"role": role}}})
    answer = stackyard("doctor", "--offline", code=2)
    assert "failed  demo: jobs: jobs.aws.role is no role of AWS\n" in answer.out


def test_a_token_under_another_name(
    stackyard: Stackyard, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.stack(CHAIN)
    monkeypatch.setenv("CDASH_AUTH_TOKEN", VALUE)
    assert about(stackyard, "variable CDASH_AUTH_TOKEN") == ["advice: Spack's jobs do not read it"]


def test_a_key_that_gitlab_does_not_take(
    stackyard: Stackyard, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.stack(CHAIN)
    monkeypatch.setenv("SPACK_SIGNING_KEY", "x" * 10_001)
    answer = stackyard("doctor", "--offline", code=2)
    assert "GitLab takes 10,000 characters, and it has more" in answer.out
