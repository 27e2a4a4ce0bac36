"""GitHub's REST API, on github.com or a server of one's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stackyard.edges.rest import Rest
from stackyard.errors import ConfigError
from stackyard.url import split_url

__all__ = ["GitHub", "api_url"]

_PUBLIC = "api.github.com"
_API = "/api/v3"
#: GitHub Enterprise Cloud with data in a region of one's choice.
_CLOUD = ".ghe.com"
#: The oldest one there is, which all servers in use know (GitHub's docs, "API versions").
_VERSION = "2022-11-28"
#: What GitHub asks for where its answer names no time (its "Best practices for using the REST API").
_PAUSE_S = 60.0
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_MOVED = "the repository has another name by now: say it in status.repository, or by --repository"
_HINTS: Mapping[int, str] = {
    **dict.fromkeys((301, 302, 307, 308), _MOVED),
    401: "the token is not valid here, or has run out: is GITHUB_TOKEN one of this server?",
    403: "the token may not do this: for statuses it needs the permission statuses: write "
    "(a classic one the scope repo:status)",
    404: "GitHub says the same of what does not exist and of what the token may not see: check the "
    "repository's name, and the token",
    422: "the commit must be on GitHub already; a status takes 140 characters, and a commit 1000 "
    "statuses of one context",
}


class GitHub(Rest):
    """A GitHub server. ``url`` is its API's: ``GITHUB_API_URL``, or what ``api_url`` makes of it.

    Raises StoreError for what can be no URL or no token, ConfigError where the token would travel
    unsealed.
    """

    name = "GitHub"
    example = "https://github.com"

    def __init__(
        self,
        url: str,
        token: str = "",
        *,
        timeout_s: float = 30,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": _VERSION}
        token = token.strip()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        super().__init__(
            url,
            headers=headers,
            secrets=(token,),
            timeout_s=timeout_s,
            sleep=sleep,
            clock=clock,
        )
        self._anonymous = not token
        parts = split_url(self.root)
        if token and parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            raise ConfigError("the token would travel unsealed", where=self.root, hint="use https")

    def statuses(self, repository: str, commit: str) -> Iterator[Any]:
        """The statuses of a commit, as GitHub has them: the last one first, of all contexts."""
        return self.pages(f"/repos/{repository}/commits/{commit}/statuses")

    def post_status(self, repository: str, commit: str, status: Mapping[str, str]) -> Any:
        """Post one: ``state``, ``context``, and if they are there description and target_url."""
        return self.post(f"/repos/{repository}/statuses/{commit}", dict(status))

    def pause(self, status: int, words: str) -> float:
        return _PAUSE_S if status in (403, 429) and "rate limit" in words.lower() else 0.0

    def hint(self, status: int, words: str) -> str:
        del words
        if self._anonymous and status in (401, 403, 404):
            return "GitHub was asked without a token: set GITHUB_TOKEN"
        return _HINTS.get(status, "")


def api_url(url: str) -> str:
    """The API of the server that people see: on github.com a host of its own, elsewhere a path.

    The URL of an API stays as it is.
    """
    text = url.rstrip("/")
    parts = split_url(text)
    host = (parts.hostname or "").removeprefix("www.")
    if host == "github.com":
        return f"https://{_PUBLIC}"
    if host == _PUBLIC:
        return text
    if host.endswith(_CLOUD):
        return f"https://api.{host.removeprefix('api.')}"
    return text if text.endswith(_API) else f"{text}{_API}"
