"""GitLab's REST API, version 4."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import quote

from stackyard.edges.rest import Rest
from stackyard.errors import ConfigError

__all__ = ["GitLab", "project_path"]

_API = "/api/v4"
_WHO = {
    401: "the token is not valid here, or has run out: make one in GitLab's settings, under "
    "Access tokens, with the scope {scope}",
    403: "the token may not do this: it needs the scope {scope}, and its user a role in the project",
    404: "GitLab says the same of what does not exist and of what the token may not see: check the "
    "project's path, and the token",
}


class GitLab(Rest):
    """A GitLab server. ``url`` is the server's, or its API's (``CI_API_V4_URL``).

    ``token`` is a personal, group or project access token; ``job_token`` is ``CI_JOB_TOKEN``, which
    may only do little, and is used where there is no other. ``secrets`` are others that are sent.
    """

    name = "GitLab"

    def __init__(  # noqa: PLR0913 - passed by name
        self,
        url: str,
        token: str = "",
        *,
        job_token: str = "",
        secrets: tuple[str, ...] = (),
        timeout_s: float = 30,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        root = url.rstrip("/")
        token, job_token = _checked(token), _checked(job_token)
        headers = {"PRIVATE-TOKEN": token} if token else {}
        if job_token and not token:
            headers = {"JOB-TOKEN": job_token}
        super().__init__(
            root if root.endswith(_API) else f"{root}{_API}",
            headers=headers,
            secrets=(token, job_token, *secrets),
            timeout_s=timeout_s,
            sleep=sleep,
            clock=clock,
        )
        self._anonymous = not headers

    def hint(self, status: int, words: str) -> str:
        if self._anonymous and status in (401, 403, 404):
            return "GitLab was asked without a token: set GITLAB_TOKEN"
        scope = "api" if "insufficient_scope" in words else "read_api (api, to change something)"
        return _WHO.get(status, "").format(scope=scope)


def _checked(token: str) -> str:
    """A token without the line break that a file leaves at its end."""
    token = token.strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigError(
            "what is given as GitLab's token cannot be one",
            hint="look at the variable: is there a line break, a space or a quote too many?",
        )
    return token


def project_path(project: str) -> str:
    """The beginning of a project's paths, from its number or from its name with its groups."""
    return f"/projects/{quote(project.strip('/'), safe='')}"
