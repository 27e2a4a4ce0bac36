"""Delete images from GitHub's registry, which has no delete of its own: by its packages API."""

from __future__ import annotations

import json
from threading import Lock
from typing import Any
from urllib.parse import quote, urlsplit

from stackyard.edges.stores.tokens import Exchange, is_loopback
from stackyard.errors import CorruptError, DeniedError, NotFoundError, StoreError, UnreachableError
from stackyard.oci import Reference

__all__ = ["Packages"]

_API = "https://api.github.com"
_OWNERS = ("orgs", "users")
_PAGE = 100
_PAGES = 1000
_NEEDS = "it needs GITHUB_TOKEN with packages: write (delete:packages for a personal token)"


class Packages:
    """The versions of one container package; they are listed once, and again for a new digest."""

    def __init__(self, reference: Reference, ask: Exchange, *, token: str, api: str = "") -> None:
        self._url = reference.url
        self._owner, _, self._name = reference.name.partition("/")
        self._ask = ask
        self._token = token
        self._api = (api or _API).rstrip("/")
        self._place = ""
        self._versions: dict[str, int] = {}
        self._lock = Lock()
        host = urlsplit(self._api)
        if host.scheme != "https" and not is_loopback(host.hostname or ""):
            raise StoreError("only https is safe for a token", where=self._api)

    def delete(self, digest: str) -> None:
        """Delete the image with this digest and all its tags; what is not there stays so.

        Raises DeniedError, UnreachableError, and StoreError where GitHub refuses: for the last
        tagged image of a package, which goes only with the package itself.
        """
        with self._lock:
            if digest not in self._versions:
                self._versions = self._list()
            number = self._versions.pop(digest, None)
        if number is None:
            return
        status, body = self._request("DELETE", f"{self._place}/versions/{number}")
        if status not in (204, 404):
            raise self._refused(status, body)

    def _list(self) -> dict[str, int]:
        """Digest → number of every version."""
        self._place = self._place or self._find()
        found: dict[str, int] = {}
        for page in range(1, _PAGES):
            query = f"per_page={_PAGE}&page={page}"
            status, body = self._request("GET", f"{self._place}/versions?{query}")
            if status != 200:
                raise self._refused(status, body)
            versions = _versions(body, self._url)
            found |= versions
            if len(versions) < _PAGE:
                break
        return found

    def _find(self) -> str:
        """The package's place: GitHub keeps those of users and of organisations apart."""
        status, body = 0, b""
        for kind in _OWNERS:
            name = quote(self._name, safe="")
            place = f"{self._api}/{kind}/{quote(self._owner)}/packages/container/{name}"
            status, body = self._request("GET", place)
            if status == 200:
                return place
            if status != 404:
                break
        raise self._refused(status, body)

    def _request(self, method: str, url: str) -> tuple[int, bytes]:
        headers = {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {self._token}",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        return self._ask(method, url, headers=headers)

    def _refused(self, status: int, body: bytes) -> StoreError:
        try:
            said = str(json.loads(body)["message"])[:200]
        except (ValueError, KeyError, TypeError, RecursionError):
            said = "no reason given"
        kind = {401: DeniedError, 403: DeniedError, 404: NotFoundError}.get(
            status, UnreachableError if status >= 500 else StoreError
        )
        return kind(f"GitHub answers {status}: {said}", where=self._url, hint=_NEEDS)


def _versions(body: bytes, where: str) -> dict[str, int]:
    """Shape: ``[{"id": int, "name": "sha256:..."}, ...]``."""
    try:
        entries: Any = json.loads(body)
        return {str(entry["name"]): int(entry["id"]) for entry in entries}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CorruptError("GitHub's list of versions is none", where=where) from None
