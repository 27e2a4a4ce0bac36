"""Connections to web servers: kept alive, shared by threads, through a proxy where one is set.

On the standard library: a small read through urllib3 costs twice the time of the processor
(``docs/decisions/0003-data-plane.md``).
"""

from __future__ import annotations

import http.client
import ssl
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from stackyard.edges.stores.store import PIECE_BYTES, public_url
from stackyard.errors import StoreError, UnreachableError

__all__ = [
    "Body",
    "Lines",
    "Origin",
    "Sent",
    "basic",
    "body",
    "fault",
    "origin",
    "parts_of",
    "pieces",
    "without",
]

_BLOCK = 2**18


class Origin(NamedTuple):
    scheme: str
    host: str
    port: int


class Body(Protocol):
    """What is sent piece by piece, and again from its beginning."""

    def read(self, size: int = -1, /) -> bytes: ...

    def rewind(self) -> None: ...


@dataclass(slots=True)
class _Line:
    """One connection. ``prefix`` stands before the path where a proxy wants the whole URL."""

    connection: http.client.HTTPConnection
    prefix: str
    headers: Mapping[str, str]
    used: bool = False


class Sent(NamedTuple):
    """A request that was sent, and the beginning of its answer.

    ``again``: it was sent twice, because the server had hung up on the first connection.
    """

    response: http.client.HTTPResponse
    origin: Origin
    line: _Line
    again: bool


class Lines:
    """All connections of a store. Every ``Sent`` is to be given back with ``done``."""

    def __init__(self, timeout_s: float, authorities: str | None = None) -> None:
        self.timeout_s = timeout_s
        self.closed = False
        self._authorities = authorities
        self._proxies = urllib.request.getproxies()
        self._tls: ssl.SSLContext | None = None
        self._idle: dict[Origin, list[_Line]] = {}
        self._lock = Lock()

    def send(  # noqa: PLR0913 - a request has these parts
        self,
        to: Origin,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Body | None = None,
        *,
        patience: int = 1,
    ) -> Sent:
        """Send a request and wait for the head of its answer, up to ``patience`` time-outs.

        Raises OSError and HTTPException. A connection that the server closed while it lay idle is
        no error: the request is sent by another.
        """
        again = False
        while True:
            line = self._take(to)
            try:
                response = self._exchange(line, method, target, headers, body, patience)
            except (ConnectionError, http.client.BadStatusLine):
                line.connection.close()
                if not line.used:
                    raise
                again = True
            except BaseException:
                line.connection.close()
                raise
            else:
                return Sent(response, to, line, again)

    def done(self, sent: Sent, *, whole: bool = True) -> None:
        """Keep the connection, if its answer was read to the end and it stays open."""
        response, line = sent.response, sent.line
        reusable = whole and response.isclosed() and not response.will_close
        response.close()
        line.used = True
        with self._lock:
            if reusable and not self.closed:
                self._idle.setdefault(sent.origin, []).append(line)
                return
        line.connection.close()

    def close(self) -> None:
        with self._lock:
            self.closed = True
            lines = [line for idle in self._idle.values() for line in idle]
            self._idle.clear()
        for line in lines:
            line.connection.close()

    def _exchange(  # noqa: PLR0913, PLR0917 - see ``send``
        self,
        line: _Line,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Body | None,
        patience: int,
    ) -> http.client.HTTPResponse:
        connection = line.connection
        if connection.sock is None:
            connection.connect()
        connection.sock.settimeout(self.timeout_s * patience)
        if body is not None and not isinstance(body, bytes):
            body.rewind()
        sent: bytes | None = body  # type: ignore[assignment]  # it reads, which is all that is used
        try:
            connection.request(method, line.prefix + target, sent, {**line.headers, **headers})
        except BrokenPipeError as broken:  # a server that says no before it has heard all
            try:
                return connection.getresponse()
            except (OSError, http.client.HTTPException):
                raise broken from None
        response = connection.getresponse()
        if patience != 1 and connection.sock is not None:
            connection.sock.settimeout(self.timeout_s)
        return response

    def _take(self, to: Origin) -> _Line:
        with self._lock:
            idle = self._idle.get(to)
            if idle:
                return idle.pop()
        proxy = self._proxies.get(to.scheme)
        if proxy and not urllib.request.proxy_bypass(f"{to.host}:{to.port}"):
            return self._proxied(to, proxy)
        return _Line(self._connection(to, to), "", {})

    def _proxied(self, to: Origin, proxy: str) -> _Line:
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        parts = parts_of(proxy, public_url(proxy))
        if parts.scheme != "http" or not parts.hostname:
            raise StoreError(
                "only proxies that speak http are supported",
                where=public_url(proxy),
                hint=f"look at the variable {to.scheme}_proxy",
            )
        secret = basic(parts)
        headers = {"Proxy-Authorization": secret} if secret else {}
        connection = self._connection(to, origin(parts, public_url(proxy)))
        host = f"[{to.host}]" if ":" in to.host else to.host
        if to.scheme == "http":
            return _Line(connection, f"http://{host}:{to.port}", headers)
        connection.set_tunnel(to.host, to.port, headers)
        return _Line(connection, "", {})

    def _connection(self, to: Origin, place: Origin) -> http.client.HTTPConnection:
        if to.scheme == "http":
            return http.client.HTTPConnection(
                place.host, place.port, timeout=self.timeout_s, blocksize=_BLOCK
            )
        with self._lock:
            self._tls = self._tls or ssl.create_default_context(cafile=self._authorities)
        return http.client.HTTPSConnection(
            place.host, place.port, timeout=self.timeout_s, context=self._tls, blocksize=_BLOCK
        )


def pieces(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body of an answer. IncompleteRead where it ends before its Content-Length.

    Content-Encoding is left alone: we ask for none, and a checksum is one of stored bytes.
    """
    missing = response.length
    while piece := response.read(PIECE_BYTES):
        if missing is not None:
            missing -= len(piece)
        yield piece
    if missing:
        raise http.client.IncompleteRead(b"", missing)


def body(response: http.client.HTTPResponse, limit: int) -> bytes:
    """The body, or its first ``limit + 1`` bytes where it is larger."""
    length = response.length
    got, size = [], 0
    while size <= limit and (piece := response.read(min(PIECE_BYTES, limit + 1 - size))):
        got.append(piece)
        size += len(piece)
    if size <= limit and length is not None and size < length:
        raise http.client.IncompleteRead(b"", length - size)
    return got[0] if len(got) == 1 else b"".join(got)


def without(pieces: Iterator[bytes], skip: int) -> Iterator[bytes]:
    """The pieces without their first bytes."""
    for piece in pieces:
        if skip < len(piece):
            yield piece[skip:] if skip else piece
        skip = max(0, skip - len(piece))


def parts_of(url: str, where: str) -> SplitResult:
    """The URL in parts. Raises UnreachableError naming ``where`` if it cannot be one."""
    try:
        return urlsplit(url)
    except ValueError:  # whose message may show the password
        raise UnreachableError("not an http(s) URL with a host", where=where) from None


def origin(parts: SplitResult, where: str) -> Origin:
    """Where an http(s) URL leads. Raises UnreachableError for any other."""
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise UnreachableError("not an http(s) URL with a host", where=where)
    return Origin(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80))


def basic(parts: SplitResult) -> str:
    """The header for user and password in a URL; empty where there are none."""
    if not parts.username and not parts.password:
        return ""
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return f"Basic {b64encode(pair.encode()).decode()}"


def fault(error: Exception, timeout_s: float) -> str:
    """What went wrong on the way, in plain words."""
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(error, http.client.IncompleteRead):
        return f"the answer is cut off ({error.expected or 'some'} bytes are missing)"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError):
        return f"no connection: {error.strerror or error}"
    return f"the answer is not HTTP ({type(error).__name__})"
