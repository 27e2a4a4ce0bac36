"""A mirror on a web server, read only.

On the standard library: ``requests`` would do the same with 92 ms of import instead of 31 (and
``urllib3`` with 67), would be one more thing to install, and follows redirects from https to http.
Connections are kept alive and shared by all threads that use one store.
"""

from __future__ import annotations

import email.utils
import http.client
import ssl
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from threading import Lock
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from stackyard.edges.store import (
    MANIFEST_BYTES,
    PIECE_BYTES,
    ForbiddenError,
    Listed,
    check_key,
    public_url,
)
from stackyard.errors import CorruptError, DeniedError, NotFoundError, StoreError, UnreachableError

__all__ = ["HttpStore"]

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
_UNREACHABLE = "try again, fix the mirror's URL, or plan without mirrors: --no-prune"


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int


@dataclass(slots=True)
class _Line:
    """One connection. ``prefix`` stands before the path where a proxy wants the whole URL."""

    connection: http.client.HTTPConnection
    prefix: str
    headers: Mapping[str, str]
    used: bool = False


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


class _Unread(NamedTuple):
    """A body on its way, and the connection that it comes by."""

    response: http.client.HTTPResponse
    origin: _Origin
    line: _Line


class _Answer(NamedTuple):
    status: int
    headers: Message
    body: bytes
    unread: _Unread | None = None


class HttpStore:
    """Files below an http(s) URL. User and password in the URL are sent as Basic authorization.

    A request that meets a broken connection, a time-out, 429 or 5xx is made up to four times.
    """

    def __init__(
        self, url: str, *, timeout_s: float = 20.0, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.url = public_url(url).rstrip("/")
        self._base = _split(url, self.url)
        self._home = _origin(self._base, self.url)
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._authorization = _basic(self._base)
        self._proxies = urllib.request.getproxies()
        self._tls: ssl.SSLContext | None = None
        self._idle: dict[_Origin, list[_Line]] = {}
        self._lock = Lock()
        self._closed = False

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
        skip = start if answer.status == 200 else 0  # a server that knows no ranges
        pieces = _Pieces(answer.unread.response, skip, self._where(key), self._timeout_s)
        try:
            if answer.status == 206:
                self._check_range(answer, key, start)
            yield iter(pieces)
        finally:
            _, origin, line = answer.unread
            self._put_back(origin, line, reusable=pieces.complete)

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
        with self._lock:
            self._closed = True
            lines = [line for idle in self._idle.values() for line in idle]
            self._idle.clear()
        for line in lines:
            line.connection.close()

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
            origin = _origin(new, self._where(key))
        except (ValueError, UnreachableError):
            origin = None
        if origin is None or (target.scheme == "https" and origin.scheme != "https"):
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
            except ssl.SSLCertVerificationError as error:
                problem = f"its certificate is not trusted: {error.verify_message}"
                break
            except (OSError, http.client.HTTPException) as error:
                problem = _problem(error, self._timeout_s)
            else:
                if answer.status not in _BUSY:
                    return answer
                problem = f"the server answers {answer.status}"
                wait = max(wait, _retry_after(answer.headers))
            if self._closed:  # nobody waits for the answer any more
                break
            if attempt < TRIES - 1:
                self._sleep(min(wait, _LONGEST_WAIT_S))
        else:
            problem += f" ({TRIES} tries)"
        raise UnreachableError(problem, where=self._where(key), hint=_UNREACHABLE)

    def _once(self, request: _Request, key: str) -> _Answer:
        origin = _origin(request.target, self._where(key))
        while True:
            line = self._line(origin)
            try:
                response = self._send(line, request)
                if request.unread and response.status in (200, 206):
                    rest = _Unread(response, origin, line)
                    return _Answer(response.status, response.headers, b"", rest)
                body, reusable = self._body(response, request, key)
            except (ConnectionError, http.client.BadStatusLine):
                line.connection.close()
                if not line.used:
                    raise
                continue  # the server had hung up while the connection lay idle
            except BaseException:
                line.connection.close()
                raise
            self._put_back(origin, line, reusable=reusable)
            return _Answer(response.status, response.headers, body)

    def _send(self, line: _Line, request: _Request) -> http.client.HTTPResponse:
        target = request.target
        headers = {"User-Agent": "stackyard", **line.headers, **request.headers}
        if self._authorization and self._at_home(target):
            headers["Authorization"] = self._authorization
        path = f"{target.path or '/'}{'?' + target.query if target.query else ''}"
        line.connection.request(request.method, line.prefix + path, headers=headers)
        return line.connection.getresponse()

    def _body(
        self, response: http.client.HTTPResponse, request: _Request, key: str
    ) -> tuple[bytes, bool]:
        """The body, and whether it was read to its end; checked against Content-Length.

        Content-Encoding is left alone: we ask for none, and a checksum is one of stored bytes.
        """
        given = response.status in (200, 206)
        limit = request.max_bytes if given else _DRAIN
        length = response.length
        if given and not request.cut and length is not None and length > limit:
            raise self._too_large(limit, key)
        pieces, size = [], 0
        while size <= limit and (piece := response.read(min(PIECE_BYTES, limit + 1 - size))):
            pieces.append(piece)
            size += len(piece)
        if size > limit:
            if given and not request.cut:
                raise self._too_large(limit, key)
            response.close()
            return b"".join(pieces)[:limit], False
        if length is not None and size < length:
            raise http.client.IncompleteRead(b"", length - size)
        return b"".join(pieces), not response.will_close

    def _too_large(self, limit: int, key: str) -> CorruptError:
        return CorruptError(f"the file is larger than {limit} bytes", where=self._where(key))

    def _at_home(self, target: SplitResult) -> bool:
        """Whether the password may go there: same place, or the same host with TLS added."""
        scheme, host, port = _origin(target, self.url)
        return (scheme, host, port) == self._home or (
            (self._home.scheme, self._home.host) == ("http", host)
            and (scheme, port) == ("https", 443)
        )

    def _line(self, origin: _Origin) -> _Line:
        with self._lock:
            idle = self._idle.get(origin)
            if idle:
                return idle.pop()
        proxy = self._proxies.get(origin.scheme)
        if proxy and not urllib.request.proxy_bypass(f"{origin.host}:{origin.port}"):
            return self._proxied(origin, proxy)
        return _Line(self._connection(origin, origin), "", {})

    def _proxied(self, origin: _Origin, proxy: str) -> _Line:
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        parts = _split(proxy, public_url(proxy))
        if parts.scheme != "http" or not parts.hostname:
            raise StoreError(
                "only proxies that speak http are supported",
                where=public_url(proxy),
                hint=f"look at the variable {origin.scheme}_proxy",
            )
        secret = _basic(parts)
        headers = {"Proxy-Authorization": secret} if secret else {}
        connection = self._connection(origin, _origin(parts, public_url(proxy)))
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        if origin.scheme == "http":
            return _Line(connection, f"http://{host}:{origin.port}", headers)
        connection.set_tunnel(origin.host, origin.port, headers)
        return _Line(connection, "", {})

    def _connection(self, origin: _Origin, place: _Origin) -> http.client.HTTPConnection:
        if origin.scheme == "http":
            return http.client.HTTPConnection(place.host, place.port, timeout=self._timeout_s)
        with self._lock:
            self._tls = self._tls or ssl.create_default_context()
        return http.client.HTTPSConnection(
            place.host, place.port, timeout=self._timeout_s, context=self._tls
        )

    def _put_back(self, origin: _Origin, line: _Line, *, reusable: bool) -> None:
        line.used = True
        with self._lock:
            if reusable and not self._closed:
                self._idle.setdefault(origin, []).append(line)
                return
        line.connection.close()


class _Pieces:
    """The pieces of a body; ``complete`` once it was read to its end on a line that stays open."""

    def __init__(
        self, response: http.client.HTTPResponse, skip: int, where: str, timeout_s: float
    ) -> None:
        self.complete = False
        self._response = response
        self._skip = skip
        self._where = where
        self._timeout_s = timeout_s

    def __iter__(self) -> Iterator[bytes]:
        response, skip = self._response, self._skip
        missing = response.length
        try:
            while piece := response.read(PIECE_BYTES):
                if missing is not None:
                    missing -= len(piece)
                if skip < len(piece):
                    yield piece[skip:]
                skip = max(0, skip - len(piece))
            if missing:
                raise http.client.IncompleteRead(b"", missing)
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(_problem(error, self._timeout_s), where=self._where) from None
        self.complete = not response.will_close


def _split(url: str, where: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # whose message may show the password
        raise UnreachableError("not an http(s) URL with a host", where=where) from None


def _origin(parts: SplitResult, where: str) -> _Origin:
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise UnreachableError("not an http(s) URL with a host", where=where)
    return _Origin(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80))


def _basic(parts: SplitResult) -> str:
    if not parts.username and not parts.password:
        return ""
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return f"Basic {b64encode(pair.encode()).decode()}"


def _problem(error: Exception, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(error, http.client.IncompleteRead):
        return f"the answer is cut off ({error.expected or 'some'} bytes are missing)"
    if isinstance(error, OSError) and error.strerror:
        return f"no connection: {error.strerror}"
    if isinstance(error, OSError):
        return f"no connection: {error}"
    return f"the answer is not HTTP ({type(error).__name__})"


def _retry_after(headers: Message) -> float:
    """Seconds that the server asks us to wait, given as a number or a date; 0 if it does not."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
