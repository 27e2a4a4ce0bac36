"""A GitHub in this process that takes each request at the word of GitHub's REST documentation.

It knows repositories and commit statuses. What a request does that the documentation does not know is noted in
``breaches``, and ``fake_github`` fails at its end if there was any.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from fake_service import Handler, RefusedError, Service, running

STATES = ("error", "failure", "pending", "success")
LONGEST_DESCRIPTION = 140
MOST_STATUSES = 1000  # of one context on one commit

_DOCS = "https://docs.github.com/rest"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_VERSIONS = ("2022-11-28", "2026-03-10")


@dataclass
class Repository:
    """``commits`` are those that GitHub has; ``statuses`` the newest last."""

    name: str
    commits: set[str] = field(default_factory=set)
    private: bool = False
    statuses: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    moved_to: str = ""
    archived: bool = False


@dataclass
class Token:
    """``statuses``: ``write``, ``read``, or nothing; ``app``: a workflow's own ``GITHUB_TOKEN``."""

    statuses: str = "write"
    app: bool = False
    sees_private: bool = True


class FakeGitHub(Service):
    """``root`` is where the API begins: nothing on github.com, ``/api/v3`` elsewhere."""

    def __init__(self, root: str = "") -> None:
        super().__init__(_Handler)
        self.root = root
        self.repositories: dict[str, Repository] = {}
        self.tokens: dict[str, Token] = {}

    @property
    def api(self) -> str:
        return f"{self.url}{self.root}"

    def repository(self, name: str, *commits: str, private: bool = False) -> Repository:
        made = Repository(name, set(commits), private)
        self.repositories[name.lower()] = made
        return made

    def posted(self, name: str, commit: str) -> list[dict[str, Any]]:
        """The statuses of a commit, the oldest first, with what was sent alone."""
        keys = ("state", "context", "description", "target_url")
        rows = self.repositories[name.lower()].statuses.get(commit, [])
        return [{key: row[key] for key in keys if row[key] is not None} for row in rows]


@contextmanager
def fake_github(root: str = "") -> Iterator[FakeGitHub]:
    server = FakeGitHub(root)
    with running(server):
        yield server


def _refused(status: int, message: str, breach: str = "", errors: Any = None) -> RefusedError:
    body: dict[str, Any] = {"message": message, "documentation_url": _DOCS, "status": str(status)}
    return RefusedError(status, body | ({"errors": errors} if errors else {}), breach)


def _invalid(field_: str, message: str, breach: str = "") -> RefusedError:
    errors = [{"resource": "Status", "code": "custom", "field": field_, "message": message}]
    return _refused(422, "Validation Failed", breach, errors)


class _Handler(Handler):
    server: FakeGitHub

    def route(self) -> None:
        if not self.asked.path.startswith(f"{self.server.root}/"):
            raise _refused(404, "Not Found", "outside of the API")
        self.check_headers()
        path = self.asked.path.removeprefix(self.server.root)
        routes: tuple[tuple[str, str, Callable[..., None]], ...] = (
            ("GET", r"/repos/([^/]+/[^/]+)", self.show),
            ("GET", r"/repos/([^/]+/[^/]+)/commits/([^/]+)/statuses", self.list),
            ("POST", r"/repos/([^/]+/[^/]+)/statuses/([^/]+)", self.create),
        )
        for method, pattern, handle in routes:
            match = re.fullmatch(pattern, path)
            if match and method == self.command:
                handle(self.find(match.group(1)), *match.groups()[1:])
                return
        raise _refused(404, "Not Found", "no such path and method in the documentation")

    def check_headers(self) -> None:
        if not self.headers.get("User-Agent"):
            raise _refused(403, "Request forbidden by administrative rules.", "no User-Agent")
        if self.headers.get("Accept") != "application/vnd.github+json":
            self.server.breaches.append(f"Accept: {self.headers.get('Accept')}")
        if self.headers.get("X-GitHub-Api-Version") not in _VERSIONS:
            raise _refused(400, "Invalid API version", "X-GitHub-Api-Version")

    def token(self) -> Token | None:
        header = self.headers.get("Authorization")
        if header is None:
            return None
        word, _, value = header.partition(" ")
        if word != "Bearer":
            self.server.breaches.append(f"Authorization: {word}")
        if value not in self.server.tokens:
            raise _refused(401, "Bad credentials")
        return self.server.tokens[value]

    def find(self, name: str) -> Repository:
        token = self.token()
        found = self.server.repositories.get(name.lower())
        if found is None or (found.private and not (token and token.sees_private)):
            raise _refused(404, "Not Found")
        if found.moved_to:
            place = f"{self.server.api}{self.asked.path.removeprefix(self.server.root)}"
            place = place.replace(name, found.moved_to)
            query = f"?{self.asked.query}" if self.asked.query else ""
            status = 301 if self.command == "GET" else 307
            body = {"message": "Moved Permanently", "url": place, "documentation_url": _DOCS}
            raise RefusedError(status, body, Location=place + query)
        return found

    def show(self, repository: Repository) -> None:
        row = {"name": repository.name.partition("/")[2], "full_name": repository.name}
        self.json(200, {"id": 1, **row, "archived": repository.archived})

    def list(self, repository: Repository, ref: str) -> None:
        self.known(repository, ref)
        given = self.asked.parameters
        if set(given) - {"page", "per_page"}:
            self.server.breaches.append(f"parameters {sorted(given)}")
        size, page = min(int(given.get("per_page", 30)), 100), int(given.get("page", 1))
        rows = repository.statuses.get(ref, [])[::-1]
        headers = {}
        if page * size < len(rows):
            query = urlencode({**given, "page": page + 1})
            place = f"{self.server.url}{self.asked.path}?{query}"
            headers["Link"] = f'<{place}>; rel="next", <{place}>; rel="last"'
        self.json(200, rows[(page - 1) * size : page * size], **headers)

    def known(self, repository: Repository, ref: str) -> None:
        if not _COMMIT.fullmatch(ref):
            self.server.breaches.append(f"{ref} is no whole commit id")
        if ref not in repository.commits:
            raise _refused(422, f"No commit found for SHA: {ref}")

    def create(self, repository: Repository, sha: str) -> None:
        token = self.token()
        if token is None:
            raise _refused(401, "Requires authentication")
        if token.statuses != "write":
            kind = "integration" if token.app else "personal access token"
            raise _refused(403, f"Resource not accessible by {kind}")
        self.known(repository, sha)
        data = self.checked()
        rows = repository.statuses.setdefault(sha, [])
        context = data.get("context", "default")
        same = [row for row in rows if row["context"].lower() == context.lower()]
        if len(same) >= MOST_STATUSES:
            raise _invalid(
                "base", "This SHA and context has reached the maximum number of statuses."
            )
        row = {
            "id": len(rows) + 1,
            "state": data["state"],
            "description": data.get("description"),
            "target_url": data.get("target_url"),
            "context": context,
            "creator": {"login": "octocat"},
        }
        rows.append(row)
        self.json(201, row)

    def checked(self) -> dict[str, Any]:
        if not (self.headers.get("Content-Type") or "").startswith("application/json"):
            self.server.breaches.append("the body's type is not JSON")
        if self.asked.query:
            self.server.breaches.append("values in the URL")
        try:
            data = json.loads(self.asked.body)
        except ValueError:
            raise _refused(400, "Problems parsing JSON", "the body is not JSON") from None
        known = {"state", "target_url", "description", "context"}
        if not isinstance(data, dict) or set(data) - known:
            raise _refused(422, "Invalid request.", f"fields of {data}")
        if not all(isinstance(value, str) for value in data.values()):
            raise _refused(422, "Invalid request.", f"not text: {data}")
        if data.get("state") not in STATES:
            raise _invalid("state", "state is not included in the list", f"state {data}")
        if len(data.get("description", "")) > LONGEST_DESCRIPTION:
            problem = "description is too long (maximum is 140 characters)"
            raise _invalid("description", problem, "a long description")
        if not re.fullmatch(r"https?://\S+|", data.get("target_url", "")):
            raise _invalid("target_url", "target_url must use http(s) scheme", "target_url")
        return data
