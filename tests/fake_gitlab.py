"""A GitLab in this process that takes each request at the word of GitLab's API documentation.

What a request does that the documentation does not know is noted in ``breaches``, and refused;
``fake_gitlab`` fails at its end if there was any.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlencode

from fake_service import Handler, RefusedError, Service, running

#: Of pipelines and jobs (doc/api/pipelines.md, doc/api/jobs.md).
STATUSES = (
    "created",
    "waiting_for_resource",
    "preparing",
    "pending",
    "running",
    "success",
    "failed",
    "canceling",
    "canceled",
    "skipped",
    "manual",
    "scheduled",
)
_VARIABLE = re.compile(r"[A-Za-z0-9_]+")


@dataclass
class Job:
    """A job. ``artifacts``: its archive; None if it has none."""

    id: int
    name: str
    status: str = "created"
    stage: str = "test"
    allow_failure: bool = False
    failure_reason: str = ""
    artifacts: bytes | None = None
    commit: str = ""


@dataclass
class Bridge:
    """A trigger job, and the pipeline that it started, if it did."""

    id: int
    name: str
    status: str = "created"
    downstream: Pipeline | None = None
    allow_failure: bool = False
    stage: str = "build"


#: Of pipelines whose commit a test does not care for.
SHA = "50f0acb76a40e34a4ff304f7347dcc6587da8a14"


@dataclass
class Pipeline:
    id: int
    project: Project
    ref: str = "main"
    sha: str = SHA
    status: str = "created"
    source: str = "api"
    jobs: list[Job] = field(default_factory=list)
    bridges: list[Bridge] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass
class Project:
    """``members``: the access tokens that see it; everybody does a public one."""

    id: int
    path: str
    refs: set[str] = field(default_factory=lambda: {"main"})
    members: set[str] = field(default_factory=set)
    public: bool = False
    trigger_tokens: set[str] = field(default_factory=set)
    pipelines: dict[int, Pipeline] = field(default_factory=dict)
    #: What creating a pipeline is refused with, if anything.
    refusal: str = ""
    takes_variables: bool = True


class FakeGitLab(Service):
    """``tick`` runs before each look at a pipeline."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.projects: list[Project] = []
        self.tokens: dict[str, set[str]] = {}  # scopes of personal access tokens
        self.job_tokens: set[str] = set()
        self.tick: Callable[[Pipeline], None] = lambda _: None
        self.made: Callable[[Pipeline], None] = lambda _: None  # for each new pipeline
        self.storage = ""  # where artifacts are sent for: the URL of another server
        self.page = 100  # the most that one page has

    def project(self, path: str = "group/project", **more: Any) -> Project:
        self.projects.append(Project(id=len(self.projects) + 1, path=path, **more))
        return self.projects[-1]

    def pipeline(self, project: Project, **more: Any) -> Pipeline:
        number = 100 + sum(len(one.pipelines) for one in self.projects)
        made = Pipeline(id=number, project=project, **more)
        project.pipelines[number] = made
        return made

    def paths(self, method: str = "") -> list[str]:
        """Paths of the requests so far, below the API."""
        found = [asked for asked in self.asked if not method or asked.method == method]
        return [asked.path.removeprefix("/api/v4") for asked in found]


@contextmanager
def fake_gitlab() -> Iterator[FakeGitLab]:
    server = FakeGitLab()
    with running(server):
        yield server


def _refused(status: int, message: Any, breach: str = "") -> RefusedError:
    return RefusedError(status, {"message": message}, breach)


class _Handler(Handler):
    server: FakeGitLab

    # -- who asks -----------------------------------------------------------------------------

    def scopes(self) -> set[str]:
        """What the token may do; nothing without one. 401 for one that is none."""
        token = self.headers.get("PRIVATE-TOKEN")
        if token is None:
            job = self.headers.get("JOB-TOKEN")
            if job is not None and job not in self.server.job_tokens:
                raise _refused(401, "401 Unauthorized")
            return {"job"} if job else set()
        if token not in self.server.tokens:
            raise _refused(401, "401 Unauthorized")
        return self.server.tokens[token]

    def need(self, scope: str) -> None:
        scopes = self.scopes()
        if self.headers.get("PRIVATE-TOKEN") and not scopes & {"api", scope}:
            raise RefusedError(
                403,
                {
                    "error": "insufficient_scope",
                    "error_description": "The request requires higher privileges than provided by "
                    "the access token.",
                    "scope": scope,
                },
            )

    def find(self, name: str) -> Project:
        """The project, if it is there. GitLab says the same of one that the token may not see."""
        wanted = unquote(name)
        for project in self.server.projects:
            if wanted in (str(project.id), project.path):
                return project
        raise _refused(404, "404 Project Not Found")

    def seen(self, name: str, *, job_token: bool = False) -> Project:
        self.need("read_api")
        project = self.find(name)
        allowed = project.public or self.headers.get("PRIVATE-TOKEN") in project.members
        allowed = allowed or (job_token and "job" in self.scopes())
        if not allowed:
            raise _refused(404, "404 Project Not Found")
        return project

    # -- routes -------------------------------------------------------------------------------

    def route(self) -> None:
        path = self.asked.path
        if path.startswith("/storage/"):
            if "PRIVATE-TOKEN" in self.headers or "JOB-TOKEN" in self.headers:
                raise _refused(400, "", "a token came to the object storage")
            self.artifacts_of(int(path.rpartition("/")[2]))
            return
        routes: list[tuple[str, str, Callable[..., None]]] = [
            ("POST", r"/projects/([^/]+)/trigger/pipeline", self.trigger),
            ("POST", r"/projects/([^/]+)/pipeline", self.create),
            ("GET", r"/projects/([^/]+)/pipelines", self.pipelines),
            ("GET", r"/projects/([^/]+)/pipelines/(\d+)", self.one_pipeline),
            ("GET", r"/projects/([^/]+)/pipelines/(\d+)/jobs", self.jobs),
            ("GET", r"/projects/([^/]+)/pipelines/(\d+)/bridges", self.bridges),
            ("GET", r"/projects/([^/]+)/jobs/(\d+)", self.job),
            ("GET", r"/projects/([^/]+)/jobs/(\d+)/artifacts", self.artifacts),
        ]
        page = re.fullmatch(r"/(.+)/-/jobs/(\d+)/artifacts/download", path)
        if page and self.command == "GET":  # what a browser, and Spack, download
            self.artifacts(*page.groups())
            return
        for method, pattern, handle in routes:
            match = re.fullmatch(f"/api/v4{pattern}", path)
            if match and method == self.command:
                handle(*match.groups())
                return
        raise _refused(404, "404 Not Found", "no such path and method in the documentation")

    def parameters(self, *known: str) -> dict[str, str]:
        given = self.asked.parameters
        if unknown := set(given) - {*known, "page", "per_page"}:
            raise RefusedError(400, {"error": "unknown"}, f"parameters {sorted(unknown)}")
        if int(given.get("per_page", 20)) > 100:
            raise RefusedError(400, {"error": "per_page"}, "more than 100 per page")
        return given

    def body(self, *known: str) -> dict[str, Any]:
        if self.headers.get("Content-Type") != "application/json":
            raise RefusedError(400, {"error": "body"}, "the body's type is not JSON")
        if self.asked.query:
            raise RefusedError(400, {"error": "query"}, "values in the URL, where logs show them")
        data = json.loads(self.asked.body)
        if not isinstance(data, dict) or set(data) - set(known):
            raise RefusedError(400, {"error": "unknown"}, f"fields {sorted(data)}")
        return data

    # -- creating -----------------------------------------------------------------------------

    def trigger(self, name: str) -> None:
        self.need("api")  # an access token that comes along has to be good for it
        data = self.body("token", "ref", "variables", "inputs")
        for key in ("token", "ref"):
            if not isinstance(data.get(key), str) or not data[key]:
                raise RefusedError(400, {"error": f"{key} is missing"}, f"no {key}")
        variables = data.get("variables", {})
        if not all(isinstance(value, str) for value in variables.values()):
            raise _refused(400, "variables needs to be a map of key-valued strings", "not text")
        project = self.find(name)
        if data["token"] not in project.trigger_tokens:
            raise _refused(404, "404 Not Found")
        self.start(project, data["ref"], variables, data.get("inputs", {}), "trigger")

    def create(self, name: str) -> None:
        if not self.scopes():
            raise _refused(401, "401 Unauthorized")
        self.need("api")
        project = self.seen(name)
        data = self.body("ref", "variables", "inputs")
        if not isinstance(data.get("ref"), str):
            raise RefusedError(400, {"error": "ref is missing"}, "no ref")
        variables: dict[str, str] = {}
        for entry in data.get("variables", []):
            if set(entry) - {"key", "value", "variable_type"}:
                raise RefusedError(400, {"error": "variables"}, f"variables {entry}")
            variables[entry["key"]] = entry["value"]
        self.start(project, data["ref"], variables, data.get("inputs", {}), "api")

    def start(
        self,
        project: Project,
        ref: str,
        variables: dict[str, str],
        inputs: dict[str, Any],
        source: str,
    ) -> None:
        if any(not _VARIABLE.fullmatch(key) or len(variables[key]) > 10_000 for key in variables):
            raise _refused(400, {"base": ["Variables key is invalid"]}, "name of a variable")
        problem = project.refusal
        if ref not in project.refs:
            problem = "Reference not found"
        elif variables and not project.takes_variables:
            problem = "Insufficient permissions to set pipeline variables"
        if problem:
            raise _refused(400, {"base": [problem]})
        pipeline = self.server.pipeline(
            project, ref=ref, source=source, variables=variables, inputs=inputs
        )
        self.server.made(pipeline)
        self.json(201, self.shown(pipeline))

    # -- looking ------------------------------------------------------------------------------

    def shown(self, pipeline: Pipeline) -> dict[str, Any]:
        assert pipeline.status in STATUSES
        return {
            "id": pipeline.id,
            "iid": pipeline.id - 99,
            "project_id": pipeline.project.id,
            "sha": pipeline.sha,
            "ref": pipeline.ref,
            "status": pipeline.status,
            "source": pipeline.source,
            "created_at": "2026-11-21T01:05:07.200Z",
            "updated_at": "2026-11-21T01:05:50.185Z",
            "web_url": f"{self.server.url}/{pipeline.project.path}/-/pipelines/{pipeline.id}",
        }

    def held(self, name: str, number: str, *, job_token: bool = False) -> Pipeline:
        project = self.seen(name, job_token=job_token)
        pipeline = project.pipelines.get(int(number))
        if pipeline is None:
            raise _refused(404, "404 Not found")
        return pipeline

    def pipelines(self, name: str) -> None:
        """The newest first; those that others started are not in the list."""
        given = self.parameters("sha", "ref", "status", "source")
        project = self.seen(name)
        found = sorted(project.pipelines.values(), key=lambda one: -one.id)
        rows = [self.shown(one) for one in found if one.source != "parent_pipeline"]
        self.list([row for row in rows if all(row[key] == given.get(key, row[key]) for key in row)])

    def one_pipeline(self, name: str, number: str) -> None:
        self.parameters()
        pipeline = self.held(name, number)
        self.server.tick(pipeline)
        self.json(200, self.shown(pipeline))

    def jobs(self, name: str, number: str) -> None:
        given = self.parameters("scope[]", "include_retried")
        pipeline = self.held(name, number, job_token=True)
        scope = given.get("scope[]")
        found = [job for job in pipeline.jobs if scope in (None, job.status)]
        self.list([self.shown_job(pipeline, job) for job in sorted(found, key=lambda j: -j.id)])

    def bridges(self, name: str, number: str) -> None:
        self.parameters("scope[]")
        pipeline = self.held(name, number)
        rows = []
        for bridge in pipeline.bridges:
            assert bridge.status in STATUSES
            row = self.shown_job(
                pipeline,
                Job(bridge.id, bridge.name, bridge.status, bridge.stage, bridge.allow_failure),
            )
            down = bridge.downstream
            rows.append({**row, "downstream_pipeline": self.shown(down) if down else None})
        self.list(rows)

    def shown_job(self, pipeline: Pipeline, job: Job) -> dict[str, Any]:
        assert job.status in STATUSES
        row: dict[str, Any] = {
            "id": job.id,
            "name": job.name,
            "stage": job.stage,
            "status": job.status,
            "ref": pipeline.ref,
            "allow_failure": job.allow_failure,
            "web_url": f"{self.server.url}/{pipeline.project.path}/-/jobs/{job.id}",
            "pipeline": self.shown(pipeline),
            "artifacts": [],
        }
        if job.commit:
            row["commit"] = {"id": job.commit, "short_id": job.commit[:8]}
        if job.artifacts is not None:
            row["artifacts_file"] = {"filename": "artifacts.zip", "size": len(job.artifacts)}
        if job.status == "failed":
            row["failure_reason"] = job.failure_reason or "script_failure"
        return row

    def list(self, rows: list[Any]) -> None:
        given = self.asked.parameters
        size = min(int(given.get("per_page", 20)), self.server.page)
        page = int(given.get("page", 1))
        headers = {"X_Page": str(page), "X_Per_Page": str(size)}
        if page * size < len(rows):
            query = urlencode({**given, "page": page + 1, "per_page": size})
            # A proxy in front of GitLab: the link names a host that only it knows.
            headers["Link"] = f'<http://gitlab.internal{self.asked.path}?{query}>; rel="next"'
            headers["X_Next_Page"] = str(page + 1)
        self.json(200, rows[(page - 1) * size : page * size], **headers)

    def find_job(self, project: Project, number: int) -> tuple[Pipeline, Job]:
        for pipeline in project.pipelines.values():
            for job in pipeline.jobs:
                if job.id == number:
                    return pipeline, job
        raise _refused(404, "404 Not found")

    def job(self, name: str, number: str) -> None:
        self.parameters()
        pipeline, job = self.find_job(self.seen(name, job_token=True), int(number))
        self.json(200, self.shown_job(pipeline, job))

    def artifacts(self, name: str, number: str) -> None:
        self.parameters()
        _, job = self.find_job(self.seen(name, job_token=True), int(number))
        if job.artifacts is None:
            raise _refused(404, "404 Not Found")
        if self.server.storage:
            self.answer(302, b"", {"Location": f"{self.server.storage}/storage/{job.id}"})
            return
        self.artifacts_of(job.id)

    def artifacts_of(self, number: int) -> None:
        for project in self.server.projects:
            for pipeline in project.pipelines.values():
                for job in pipeline.jobs:
                    if job.id == number and job.artifacts is not None:
                        self.answer(200, job.artifacts, {"Content-Type": "application/zip"})
                        return
        raise _refused(404, "404 Not Found")
