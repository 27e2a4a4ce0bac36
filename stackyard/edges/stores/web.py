"""A mirror on a web server, read only.

On the standard library, for what ``requests`` costs to import and to use, and because that follows
redirects from https to http. Connections are in ``lines``.
"""

from __future__ import annotations

import email.utils
import http.client
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from stackyard.edges.stores.lines import (
    Lines,
    Origin,
    Sent,
    basic,
    body,
    fault,
    origin,
    parts_of,
    pieces,
    without,
)
from stackyard.edges.stores.store import (
    MANIFEST_BYTES,
    ForbiddenError,
    Listed,
    check_key,
    public_url,
)
from stackyard.errors import CorruptError, DeniedError, NotFoundError, StoreError, UnreachableError

__all__ = ["HttpStore", "retry_after"]

TRIES = 4
_REDIRECTS = 5
_REDIRECTED = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({429, 500, 502, 503, 504})
_LONGEST_WAIT_S = 60.0
_QUOTED = "/%:@!$&'()*+,;=~"  # in a path that was quoted already
_DRAIN = 2**16

_FORBIDDEN = (
    "give user and password in the URL, or make it readable; S3 answers 403 for a missing file "
    "too, unless everybody may list the bucket (s3:ListBucket)"
)
_UNREACHABLE = "try again, or fix the mirror's URL"


class _Request(NamedTuple):
    """What is asked. ``cut``: of a body over ``max_bytes`` give the beginning; else refuse it.

    ``unread``: leave the body of a good answer to the caller.
    """

    method: str
    target: SplitResult
    headers: Mapping[str, str]
    max_bytes: int
    cut: bool
    unread: bool


class _Answer(NamedTuple):
    status: int
    headers: Message
    body: bytes
    unread: Sent | None = None


class HttpStore:
    """Files below an http(s) URL. User and password in the URL are sent as Basic authorization.

    A request that meets a broken connection, a time-out, 429 or 5xx is made up to four times.
    """

    def __init__(
        self, url: str, *, timeout_s: float = 20.0, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.url = public_url(url).rstrip("/")
        self._base = parts_of(url, self.url)
        self._home = origin(self._base, self.url)
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._authorization = basic(self._base)
        self._lines = Lines(timeout_s)

    def read(self, key: str, *, max_bytes: int = MANIFEST_BYTES) -> bytes:
        answer = self._ask("GET", key, max_bytes=max_bytes)
        if answer.status == 200:
            return answer.body
        raise self._refused(answer, key)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        if length <= 0:
            return b""
        wanted = {"Range": f"bytes={start}-{start + length - 1}"}
        answer = self._ask("GET", key, wanted, max_bytes=start + length, cut=True)
        if answer.status == 206:
            self._check_range(answer, key, start)
            return answer.body[:length]
        if answer.status == 200:  # a server that knows no ranges
            return answer.body[start : start + length]
        if answer.status == 416:  # the file ends before
            return b""
        raise self._refused(answer, key)

    @contextmanager
    def stream(self, key: str, start: int = 0) -> Iterator[Iterator[bytes]]:
        wanted = {"Range": f"bytes={start}-"} if start else {}
        answer = self._ask("GET", key, wanted, max_bytes=0, unread=True)
        if answer.status == 416 and start:  # the file ends before
            yield iter(())
            return
        if not answer.unread:
            raise self._refused(answer, key)
        try:
            if answer.status == 206:
                self._check_range(answer, key, start)
            skip = start if answer.status == 200 else 0  # a server that knows no ranges
            yield without(self._pieces(answer.unread.response, key), skip)
        finally:
            self._lines.done(answer.unread)

    def _pieces(self, response: http.client.HTTPResponse, key: str) -> Iterator[bytes]:
        try:
            yield from pieces(response)
        except (OSError, http.client.HTTPException) as error:
            problem = fault(error, self._timeout_s)
            raise UnreachableError(problem, where=self._where(key)) from None

    def _check_range(self, answer: _Answer, key: str, start: int) -> None:
        given = answer.headers.get("Content-Range", "")
        if not given.startswith(f"bytes {start}-"):
            raise CorruptError(f"another range came: {given[:60]!r}", where=self._where(key))

    def exists(self, key: str) -> bool:
        answer = self._ask("HEAD", key, max_bytes=0)
        if answer.status == 200:
            return True
        if answer.status in (404, 410):
            return False
        if answer.status not in (405, 501):
            raise self._refused(answer, key)
        try:
            self.read_range(key, 0, 1)
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[Listed]:
        check_key(prefix, prefix=True)
        raise StoreError(
            "a mirror behind http(s) cannot be listed: web servers have no common way to do it",
            where=self.url,
            hint="use the folder or the bucket itself",
        )

    def close(self) -> None:
        self._lines.close()

    def _where(self, key: str) -> str:
        return f"{self.url}/{key}"

    def _refused(self, answer: _Answer, key: str) -> StoreError:
        where = self._where(key)
        if answer.status in (404, 410):
            return NotFoundError("the server has no such file", where=where)
        if answer.status == 403:
            return ForbiddenError("the server denies it (403)", where=where, hint=_FORBIDDEN)
        if answer.status in (401, 407):
            return DeniedError(
                f"the server wants a user and a password ({answer.status})",
                where=where,
                hint="give them in the URL: https://user:password@host/",
            )
        return UnreachableError(
            f"the server answers {answer.status}", where=where, hint=_UNREACHABLE
        )

    def _ask(  # noqa: PLR0913 - passed by name
        self,
        method: str,
        key: str,
        headers: Mapping[str, str] | None = None,
        *,
        max_bytes: int,
        cut: bool = False,
        unread: bool = False,
    ) -> _Answer:
        """The last answer after redirects; the body is cut, or refused, after ``max_bytes``."""
        check_key(key)
        path = f"{quote(self._base.path.rstrip('/'), safe=_QUOTED)}/{quote(key)}"
        target = self._base._replace(path=path, fragment="")
        for _ in range(_REDIRECTS + 1):
            request = _Request(method, target, headers or {}, max_bytes, cut, unread)
            answer = self._insist(request, key)
            if answer.status not in _REDIRECTED:
                return answer
            target = self._follow(target, answer, key)
        raise UnreachableError(
            f"the server redirects more than {_REDIRECTS} times", where=self._where(key)
        )

    def _follow(self, target: SplitResult, answer: _Answer, key: str) -> SplitResult:
        place = answer.headers.get("Location", "")
        try:
            new = urlsplit(urljoin(target.geturl(), place))
            leads: Origin | None = origin(new, self._where(key))
        except (ValueError, UnreachableError):
            leads = None
        if leads is None or (target.scheme == "https" and leads.scheme != "https"):
            raise UnreachableError(
                f"the server redirects to {public_url(place)[:200]!r}, which is not followed",
                where=self._where(key),
                hint="only http and https are, and never from https to http",
            )
        return new._replace(path=quote(new.path, safe=_QUOTED), fragment="")

    def _insist(self, request: _Request, key: str) -> _Answer:
        """One answer that is final, after up to four tries."""
        problem = ""
        for attempt in range(TRIES):
            wait = 0.5 * 2**attempt
            try:
                answer = self._once(request, key)
            except (OSError, http.client.HTTPException) as error:
                problem = fault(error, self._timeout_s)
                if isinstance(error, ssl.SSLCertVerificationError):
                    break
            else:
                if answer.status not in _BUSY:
                    return answer
                problem = f"the server answers {answer.status}"
                wait = max(wait, retry_after(answer.headers))
            if self._lines.closed:  # nobody waits for the answer any more
                break
            if attempt < TRIES - 1:
                self._sleep(min(wait, _LONGEST_WAIT_S))
        else:
            problem += f" ({TRIES} tries)"
        raise UnreachableError(problem, where=self._where(key), hint=_UNREACHABLE)

    def _once(self, request: _Request, key: str) -> _Answer:
        target = request.target
        headers = {"User-Agent": "stackyard", **request.headers}
        if self._authorization and self._at_home(target):
            headers["Authorization"] = self._authorization
        path = f"{target.path or '/'}{'?' + target.query if target.query else ''}"
        to = origin(target, self._where(key))
        sent = self._lines.send(to, request.method, path, headers)
        status, given = sent.response.status, sent.response.headers
        if request.unread and status in (200, 206):
            return _Answer(status, given, b"", sent)
        try:
            return _Answer(status, given, self._body(sent.response, request, key))
        finally:
            self._lines.done(sent)

    def _body(self, response: http.client.HTTPResponse, request: _Request, key: str) -> bytes:
        given = response.status in (200, 206)
        limit = request.max_bytes if given else _DRAIN
        length = response.length
        if given and not request.cut and length is not None and length > limit:
            raise self._too_large(limit, key)
        data = body(response, limit)
        if len(data) > limit and given and not request.cut:
            raise self._too_large(limit, key)
        return data[:limit]

    def _too_large(self, limit: int, key: str) -> CorruptError:
        return CorruptError(f"the file is larger than {limit} bytes", where=self._where(key))

    def _at_home(self, target: SplitResult) -> bool:
        """Whether the password may go there: same place, or the same host with TLS added."""
        scheme, host, port = origin(target, self.url)
        return (scheme, host, port) == self._home or (
            (self._home.scheme, self._home.host) == ("http", host)
            and (scheme, port) == ("https", 443)
        )


def retry_after(headers: Message) -> float:
    """Seconds that the server asks us to wait, given as a number or a date; 0 if it does not."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
