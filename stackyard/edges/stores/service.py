"""Ask a service over HTTP: with who we are, and again where it is busy.

Each try is signed anew, and who asks learns how often it was sent, because a conditional write that
is repeated may meet what its own first try wrote.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from stackyard.bucket import Fault, parse_fault
from stackyard.edges.settings import Environment
from stackyard.edges.stores.lines import Lines, Origin, Sent, body, fault, origin, parts_of, pieces
from stackyard.edges.stores.store import PIECE_BYTES, public_url
from stackyard.edges.stores.web import retry_after
from stackyard.errors import CorruptError, StoreError, UnreachableError
from stackyard.sigv4 import quoted_path, quoted_query

__all__ = ["UNREACHABLE", "Identity", "Part", "Reply", "Request", "Service", "origin_of"]

UNREACHABLE = "try again, or fix the mirror's URL"

_TRIES = 4
_BUSY = frozenset({429, 500, 502, 503, 504})
#: Said with a status that alone would be final: what was sent came too slowly, two conditional
#: writes met, or a copy failed after its answer had begun with 200.
_AGAIN = frozenset({"RequestTimeout", "ConditionalRequestConflict", "SlowDown", "InternalError"})
_LONGEST_WAIT_S = 60.0
#: Of an answer that nobody wants so much is read, to keep the connection.
_DRAIN = 2**16


class Part:
    """Bytes of a file, read when they are sent, and again if they are sent again."""

    def __init__(self, number: int, start: int, size: int) -> None:
        self._number = number
        self._start = start
        self._size = size
        self._at = 0

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1) -> bytes:
        left = self._size - self._at
        data = os.pread(self._number, left if size < 0 else min(size, left), self._start + self._at)
        self._at += len(data)
        return data

    def rewind(self) -> None:
        self._at = 0

    def sha256(self) -> str:
        """Of the whole part, which then stands at its beginning."""
        digest = hashlib.sha256()
        self.rewind()
        while data := self.read(PIECE_BYTES):
            digest.update(data)
        self.rewind()
        return digest.hexdigest()


class Request(NamedTuple):
    """What is asked. ``path`` is quoted, below the service's own.

    Of a good answer up to ``max_bytes`` are read, more is CorruptError; with ``unread`` its body is
    left to the caller. ``patience`` is how many time-outs may pass before it begins.
    """

    method: str
    path: str
    query: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    body: bytes | Part = b""
    max_bytes: int = _DRAIN
    unread: bool = False
    patience: int = 1


class Reply(NamedTuple):
    """The last answer. ``tries``: how often it was asked for; ``unread``: a body on its way."""

    status: int
    headers: Message
    body: bytes
    unread: Sent | None = None
    tries: int = 1

    @property
    def fault(self) -> Fault:
        return parse_fault(self.body)

    @property
    def good(self) -> bool:
        """Whether it says yes: copies and completed uploads may fail with status 200."""
        return 200 <= self.status < 300 and not self.fault.code


class Identity:
    """Where a service is, and who asks: what differs from service to service."""

    def address(self) -> tuple[str, str]:
        """Scheme and host with port; and the quoted path there, without a slash at its end."""
        raise NotImplementedError

    def signed(
        self, request: Request, path: str, query: str, headers: dict[str, str]
    ) -> dict[str, str]:
        """The headers with what proves who asks."""
        raise NotImplementedError

    def learnt(self, reply: Reply) -> bool:
        """Whether an answer told something that makes another try worth while at once."""
        del reply
        return False


class Service:
    """A service, asked by many threads at once."""

    def __init__(
        self,
        identity: Identity,
        env: Environment,
        *,
        timeout_s: float,
        sleep: Callable[[float], None],
    ) -> None:
        self._identity = identity
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._lines = Lines(timeout_s, _authorities(env))

    def ask(self, request: Request, where: str) -> Reply:
        """One answer that is final, after up to four tries.

        Raises UnreachableError, naming ``where``, if there is none, and CorruptError if it is too
        large.
        """
        problem, sent = "", 0
        for attempt in range(_TRIES):
            wait = 0.5 * 2**attempt
            try:
                reply = self._once(request, where)
                while self._identity.learnt(reply):
                    reply = self._once(request, where)
            except (OSError, http.client.HTTPException) as error:
                problem, sent = fault(error, self._timeout_s), sent + 1
                if isinstance(error, ssl.SSLCertVerificationError):
                    break
            else:
                sent += reply.tries
                if reply.status not in _BUSY and reply.fault.code not in _AGAIN:
                    return reply._replace(tries=sent)
                problem = f"the service answers {reply.status} {reply.fault.code}".rstrip()
                wait = max(wait, retry_after(reply.headers))
            if self._lines.closed:  # nobody waits for the answer any more
                break
            if attempt < _TRIES - 1:
                self._sleep(min(wait, _LONGEST_WAIT_S))
        else:
            # The URL names a bucket, and not where it was looked for.
            problem += f" ({_TRIES} tries at {self._identity.address()[0]})"
        raise UnreachableError(problem, where=where, hint=UNREACHABLE)

    def pieces(self, unread: Sent, where: str) -> Iterator[bytes]:
        """A body that was left unread. What breaks off raises UnreachableError."""
        try:
            yield from pieces(unread.response)
        except (OSError, http.client.HTTPException) as error:
            problem = fault(error, self._timeout_s)
            raise UnreachableError(problem, where=where, hint=UNREACHABLE) from None

    def done(self, unread: Sent) -> None:
        """Nobody wants more of a body that was left unread."""
        self._lines.done(unread)

    def close(self) -> None:
        self._lines.close()

    def _once(self, request: Request, where: str) -> Reply:
        place, root = self._identity.address()
        path = f"{root}{request.path}" or "/"
        query = quoted_query(request.query)
        headers = {
            "Host": place.partition("://")[2],
            "User-Agent": "stackyard",
            "Accept-Encoding": "identity",
            **request.headers,
        }
        if request.method in ("PUT", "POST"):
            headers["Content-Length"] = str(len(request.body))
            headers["Content-Type"] = "application/octet-stream"
        sent = self._lines.send(
            _origin(place, where),
            request.method,
            f"{path}{'?' if query else ''}{query}",
            self._identity.signed(request, path, query, headers),
            request.body or None,
            patience=request.patience,
        )
        status, given, tries = sent.response.status, sent.response.headers, 1 + sent.again
        if request.unread and status in (200, 206):
            return Reply(status, given, b"", sent, tries)
        try:
            return Reply(status, given, _body(request, sent.response, where), None, tries)
        finally:
            self._lines.done(sent)


@lru_cache(maxsize=64)
def _origin(place: str, where: str) -> Origin:
    return origin(parts_of(place, where), where)


def _authorities(env: Environment) -> str | None:
    """The file of authorities to trust; None: those of this machine."""
    named = env.get("AWS_CA_BUNDLE") or env.get("REQUESTS_CA_BUNDLE")
    system = ssl.get_default_verify_paths()
    if named or system.cafile or system.capath:
        return named or None
    import certifi  # which requests brings along

    return certifi.where()


def _body(request: Request, response: http.client.HTTPResponse, where: str) -> bytes:
    """The body; of one that says no, which nobody can want whole, the beginning."""
    given = response.status in (200, 206)
    limit = request.max_bytes if given else _DRAIN
    large = given and request.method != "HEAD" and (response.length or 0) > limit
    data = b"" if large else body(response, limit)
    if large or (given and len(data) > limit):
        raise CorruptError(f"the file is larger than {limit} bytes", where=where)
    return data


def origin_of(endpoint: str, what: str) -> tuple[str, str]:
    """Scheme with host and port, and the quoted path, of a service's URL.

    Without a scheme it is https, as for Spack (``_parse_s3_endpoint_url`` in ``util/s3.py``).
    Raises StoreError naming ``what`` gave the URL.
    """
    url = endpoint if "://" in endpoint else f"https://{endpoint}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise StoreError(
            f"{what} is not the http(s) URL of a service",
            where=public_url(url),
            hint="for example https://minio.example.com:9000",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = {"http": 80, "https": 443}[parts.scheme]
    place = host if port in (None, default) else f"{host}:{port}"
    return f"{parts.scheme}://{place}", quoted_path(parts.path.rstrip("/"))
