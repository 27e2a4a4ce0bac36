"""Speak to a registry of container images: HTTP with its tokens, redirects and busy hours.

On ``requests``, whose connections are shared by all threads that use one registry. Redirects are
followed here and not by it, so that nothing of ours goes to another host than the registry's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, NamedTuple, TypeVar
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

import requests
import urllib3.exceptions

from stackyard.edges.session import FAILURES, Authorization, failure, open_session
from stackyard.edges.settings import Environment
from stackyard.edges.stores.logins import Login, find_login
from stackyard.edges.stores.store import PIECE_BYTES, Access, public_url
from stackyard.edges.stores.tokens import Scopes, Tokens
from stackyard.edges.stores.web import retry_after
from stackyard.errors import CorruptError, DeniedError, NotFoundError, StoreError, UnreachableError
from stackyard.oci import Reference

__all__ = ["TRIES", "Answer", "Part", "Registry"]

TRIES = 5
_REDIRECTS = 5
_REDIRECTED = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({429, 500, 502, 503, 504})
#: Answered before anything was taken, so that the same may be sent again.
_NOT_TAKEN = frozenset({429, 503})
_LONGEST_WAIT_S = 60.0
#: Of an answer that nobody wants so much is read, to keep the connection.
_DRAIN = 2**16
_LARGEST_ELSEWHERE = 8 * 2**20
#: A registry checks and stores a large blob before it answers the last request.
_PATIENCE = 30  # times the time-out

_UNREACHABLE = "try again, or fix the mirror's URL"
_LOGIN = (
    "name variables with user and password in the mirror's entry (access_pair), or run "
    "docker login {domain}"
)
_HABITS = {
    "ghcr.io": "in GitHub's jobs set GITHUB_ACTOR and GITHUB_TOKEN (packages: read or write); "
    "ghcr.io says the same of an image that does not exist",
    ".amazonaws.com": "Amazon's passwords live for 12 hours: aws ecr get-login-password",
    ".azurecr.io": "az acr login puts an identity token into Docker's file",
}

_Result = TypeVar("_Result")


class Part:
    """A stretch of a file as the body of a request."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        file.seek(start)
        self._file = file
        self._left = length
        self._length = length

    def __len__(self) -> int:
        return self._length

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(piece)
        return piece


class Answer(NamedTuple):
    """``url`` is where it came from; ``at_home`` whether that was the registry itself."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    at_home: bool

    @property
    def code(self) -> str:
        """The registry's own word for what is wrong: ``NAME_UNKNOWN``; empty if it has none."""
        return self._problem("code")

    @property
    def message(self) -> str:
        return self._problem("message")

    def _problem(self, key: str) -> str:
        try:
            value = json.loads(self.body)["errors"][0][key]
        except (ValueError, RecursionError, KeyError, IndexError, TypeError):
            return ""
        return value[:200] if isinstance(value, str) else ""


class _Asked(NamedTuple):
    """A request. ``body`` makes its content anew for each try.

    ``careful``: what broke off is not sent again, as part of it may have been taken. ``header``
    is what to be authorized by; None: whatever the registry wants.
    """

    method: str
    url: str
    scopes: Scopes
    headers: Mapping[str, str]
    body: Callable[[], bytes | Part] | None
    careful: bool
    header: str | None = None


class Registry:
    """The registry of one repository. Many threads may ask at once.

    What meets a broken connection, a time-out, 429 or 5xx is asked up to five times.
    """

    def __init__(
        self,
        reference: Reference,
        access: Access,
        *,
        timeout_s: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.reference = reference
        self._home = urlsplit(reference.registry)
        self._access = access
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._login: Login | None = None
        self._tokens = Tokens(reference, self.login, self.ask_elsewhere)
        self._closed = False
        self._session = open_session()

    def login(self) -> Login:
        """Who we are here; looked up when somebody asks for the first time."""
        if self._login is None:
            self._login = find_login(self.reference, self._access, Environment.snapshot())
        return self._login

    def close(self) -> None:
        self._closed = True
        self._session.close()

    def scopes(self, *actions: str) -> Scopes:
        """What a token for these actions (pull, push, delete) is asked with."""
        return (f"repository:{self.reference.name}:{','.join(actions)}",)

    def ask(  # noqa: PLR0913 - passed by name
        self,
        method: str,
        url: str,
        *,
        where: str,
        scopes: Scopes,
        headers: Mapping[str, str] | None = None,
        body: Callable[[], bytes | Part] | None = None,
        max_bytes: int = _DRAIN,
        cut: bool = False,
        careful: bool = False,
    ) -> Answer:
        """The last answer after redirects and tries, whatever its status below 500 but 429.

        A body of a good answer over ``max_bytes`` is cut, or refused with CorruptError; of others
        only the beginning is read. Raises UnreachableError and, from a token service, others.
        """
        asked = _Asked(method, url, scopes, headers or {}, body, careful)

        def finish(response: requests.Response) -> Answer:
            with response:
                data = self._body(response, max_bytes, where, cut=cut)
            return self._answer(response, data)

        return self._insist(asked, where, finish)

    @contextmanager
    def opened(
        self, url: str, *, where: str, scopes: Scopes, headers: Mapping[str, str]
    ) -> Iterator[tuple[Answer, Iterator[bytes]]]:
        """A GET whose good answer (200, 206) is read piece by piece, as its bytes are stored.

        What breaks off raises UnreachableError from the iterator.
        """

        def finish(response: requests.Response) -> tuple[requests.Response, Answer]:
            good = response.status_code in (200, 206)
            return response, self._answer(response, b"" if good else _drained(response))

        asked = _Asked("GET", url, scopes, headers, None, careful=False)
        response, answer = self._insist(asked, where, finish)
        with response:
            yield answer, self._pieces(response, where)

    def place(self, answer: Answer, where: str) -> str:
        """Where an answer sends us to go on. Raises UnreachableError if we should not go there.

        A registry behind a proxy that ends TLS often calls itself http: that is put right.
        """
        given = answer.headers.get("Location", "")
        try:
            parts = urlsplit(urljoin(answer.url, given))
            if (parts.scheme, parts.hostname) == ("http", self._home.hostname):
                netloc = self._home.netloc if parts.port in (None, 80) else parts.netloc
                parts = parts._replace(scheme=self._home.scheme, netloc=netloc)
            good = parts.scheme == "https" or (parts.scheme, self._home.scheme) == ("http", "http")
        except ValueError:
            good = False
        if not (given and good and parts.hostname):
            raise UnreachableError(
                f"the registry sends us to {public_url(given)[:200]!r}, where we do not go",
                where=where,
                hint="only http and https are followed, and never from https to http",
            )
        return parts._replace(fragment="").geturl()

    def refused(self, answer: Answer, where: str) -> StoreError:
        """What to tell people about an answer that is not the wanted one."""
        if answer.status not in (401, 403):
            kind, text, hint = _refusal(answer)
            return kind(text, where=where, hint=hint)
        login = self.login()
        if login:
            text = f"the registry refuses what {login.source} says ({_said(answer)})"
            hint = "it may have run out, or lack the rights for this repository"
        elif answer.status == 403:
            text, hint = f"the registry denies it ({_said(answer)})", ""
        else:
            text = f"the registry wants to know who we are ({_said(answer)})"
            hint = _LOGIN.format(domain=self.reference.domain)
        return DeniedError(text, where=where, hint=self._hint(hint))

    def _hint(self, first: str) -> str:
        domain = self.reference.domain
        habits = [text for ending, text in _HABITS.items() if domain.endswith(ending)]
        return "; ".join(filter(None, (first, *habits, *self.login().remarks)))

    def _insist(
        self, asked: _Asked, where: str, finish: Callable[[requests.Response], _Result]
    ) -> _Result:
        """One answer that is final, after a few tries."""
        problem = ""
        for attempt in range(TRIES):
            wait = 0.5 * 2**attempt
            try:
                response = self._once(asked, where)
                if response.status_code not in _BUSY:
                    return finish(response)
                problem = (
                    f"the registry answers {_said(self._answer(response, _drained(response)))}"
                )
                again = not asked.careful or response.status_code in _NOT_TAKEN
                wait = max(wait, retry_after(response.headers))  # type: ignore[arg-type]
            except FAILURES as error:
                problem, again = failure(error, self._timeout_s)
                again = again and not asked.careful
            if self._closed or not again:
                break
            if attempt < TRIES - 1:
                self._sleep(min(wait, _LONGEST_WAIT_S))
        else:
            problem += f" ({TRIES} tries)"
        raise UnreachableError(problem, where=where, hint=_UNREACHABLE)

    def _once(self, asked: _Asked, where: str) -> requests.Response:
        if asked.header is not None:
            return self._request(asked, asked.url, asked.header)
        url = asked.url
        for _ in range(_REDIRECTS + 1):
            response = self._authorized(asked, url)
            reading = asked.method in ("GET", "HEAD")
            if response.status_code not in _REDIRECTED or not reading:
                return response
            url = self.place(self._answer(response, _drained(response)), where)
        raise UnreachableError(f"the registry redirects more than {_REDIRECTS} times", where=where)

    def _authorized(self, asked: _Asked, url: str) -> requests.Response:
        """One answer; where the registry wants to know who we are, the one after telling it."""
        if not self._is_home(url):
            return self._request(asked, url, "")
        header = self._tokens.header(asked.scopes)
        response = self._request(asked, url, header)
        for _ in range(2):  # what we have may be a bearer token, or good for getting one
            if response.status_code != 401:
                break
            challenge = response.headers.get("WWW-Authenticate", "")
            try:
                header = self._tokens.renew(asked.scopes, challenge, header)
            except BaseException:
                response.close()
                raise
            if not header:
                break
            _drained(response)
            response = self._request(asked, url, header)
        return response

    def _request(self, asked: _Asked, url: str, header: str) -> requests.Response:
        patience = _PATIENCE if asked.method in ("PUT", "PATCH") else 1
        return self._session.request(
            asked.method,
            url,
            headers=asked.headers,
            data=asked.body() if asked.body else None,  # a Part will do
            auth=Authorization(header),
            timeout=(self._timeout_s, self._timeout_s * patience),
            allow_redirects=False,
            stream=True,
        )

    def ask_elsewhere(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        form: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Ask a service that goes with the registry: with its own authorization and no redirects.

        Gives status and body, up to 8 MiB. Raises UnreachableError.
        """
        sent = dict(headers)
        authorization = sent.pop("Authorization", "")
        body = None
        if form is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
            data = urlencode(form).encode()
            body = lambda: data  # noqa: E731
        asked = _Asked(method, url, (), sent, body, careful=False, header=authorization)

        def finish(response: requests.Response) -> tuple[int, bytes]:
            return response.status_code, _drained(response, _LARGEST_ELSEWHERE)

        return self._insist(asked, public_url(url), finish)

    def _is_home(self, url: str) -> bool:
        return _origin(urlsplit(url)) == _origin(self._home)

    def _answer(self, response: requests.Response, body: bytes) -> Answer:
        home = self._is_home(response.url)
        return Answer(response.status_code, response.headers, body, response.url, home)

    def _body(self, response: requests.Response, max_bytes: int, where: str, *, cut: bool) -> bytes:
        if response.status_code not in (200, 206):
            return _drained(response)
        if response.request.method == "HEAD":
            return b""
        length = response.headers.get("Content-Length", "")
        size = int(length) if length.isascii() and length.isdigit() and not cut else 0
        pieces: list[bytes] = []
        if size <= max_bytes:
            size = 0
            while size <= max_bytes and (piece := _read(response, max_bytes + 1 - size)):
                pieces.append(piece)
                size += len(piece)
        if size > max_bytes and not cut:
            raise CorruptError(f"there are more than {max_bytes} bytes", where=where)
        return b"".join(pieces)[:max_bytes]

    def _pieces(self, response: requests.Response, where: str) -> Iterator[bytes]:
        try:
            while piece := _read(response, PIECE_BYTES):
                yield piece
        except FAILURES as error:
            problem, _ = failure(error, self._timeout_s)
            raise UnreachableError(problem, where=where) from None


def _drained(response: requests.Response, left: int = _DRAIN) -> bytes:
    """The beginning of a body; the connection is free for others afterwards.

    An answer that says no may break off: docker-registry sends the length of the blob with 416.
    """
    pieces = []
    with response:
        try:
            while left and (piece := _read(response, left)):
                pieces.append(piece)
                left -= len(piece)
        except urllib3.exceptions.ProtocolError:
            if response.ok:
                raise
    return b"".join(pieces)


def _read(response: requests.Response, size: int) -> bytes:
    """Up to so many bytes as they were sent: a checksum is one of stored bytes."""
    piece: bytes = response.raw.read(min(PIECE_BYTES, size), decode_content=False)
    return piece


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, parts.hostname or "", port


def _said(answer: Answer) -> str:
    words = answer.message or answer.code
    return f"{answer.status}: {words}" if words else f"{answer.status}"


def _refusal(answer: Answer) -> tuple[type[StoreError], str, str]:
    said = _said(answer)
    if answer.status in (404, 410):
        what = "repository" if answer.code == "NAME_UNKNOWN" else "thing"
        return NotFoundError, f"the registry has no such {what}", ""
    if answer.code == "DIGEST_INVALID":
        return CorruptError, "other bytes arrived than their digest says", ""
    if answer.code == "MANIFEST_BLOB_UNKNOWN":
        return StoreError, "the registry lacks a blob that the manifest names", ""
    if answer.status == 413:
        return StoreError, f"too large for the registry ({said})", ""
    if 400 <= answer.status < 500:
        return StoreError, f"the registry refuses it ({said})", ""
    return UnreachableError, f"the registry answers {said}", _UNREACHABLE
