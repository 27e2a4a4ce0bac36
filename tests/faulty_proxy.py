"""A proxy before a web server that goes wrong where it is told to: on 127.0.0.1, for plain HTTP.

It asks the real server, and then cuts, delays, shortens or changes what comes, or answers an error
of its own. Requests with a body pass too, so that it can stand before S3 and registries.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

Kind = Literal["cut", "reset", "delay", "shorten", "corrupt", "answer", "lose"]
KINDS: tuple[Kind, ...] = ("cut", "reset", "delay", "shorten", "corrupt", "answer")


class Fault(NamedTuple):
    """What goes wrong with one answer.

    ``cut`` and ``reset`` end the connection within the body; ``shorten`` gives a shorter body as if
    it were all; ``corrupt`` changes one byte; ``answer`` is ``status`` instead of what was asked.
    ``lose`` passes the request on and hangs up without a word of the answer.
    ``share``, from 0 to 1, is the place in the body.
    """

    kind: Kind
    share: float = 0.5
    status: int = 503
    retry_after: str = ""
    delay_s: float = 0.01


#: Called with method, path and the number of the request, from 0.
Choose = Callable[[str, str, int], Fault | None]


def at_random(
    seed: int, rate: float, kinds: Sequence[Kind] = KINDS, path: Callable[[str], bool] | None = None
) -> Choose:
    """Faults for a share of the requests, the same ones for the same seed and order."""
    draw = random.Random(seed)  # noqa: S311 - the same faults each time
    lock = threading.Lock()

    def choose(_: str, asked: str, __: int) -> Fault | None:
        with lock:
            hit, kind, share = draw.random() < rate, draw.choice(kinds), draw.random()
            status, wait = draw.choice((429, 500, 503)), draw.choice(("", "0", "1"))
        if not hit or (path and not path(asked)):
            return None
        return Fault(kind, share, status, wait, draw.random() * 0.05)

    return choose


class FaultyProxy(ThreadingHTTPServer):
    """Stands before ``upstream``, an http URL of which only the host and port count."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str, choose: Choose) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname or "", parts.port or 80)
        self.choose = choose
        self.requests: list[tuple[str, str, Fault | None]] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            fault = self.choose(method, path, len(self.requests))
            self.requests.append((method, path, fault))
            return fault

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up; that is no news here."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault(self.command, self.path)
        if fault and fault.kind == "answer":
            wait = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            self._reply(fault.status, wait, b"not now", len(b"not now"))
            return
        if fault and fault.kind == "delay":
            time.sleep(fault.delay_s)
        answer = self._ask(body)
        if fault and fault.kind == "lose":
            self._hang_up(hard=True)
        else:
            self._spoilt(*answer, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _pass  # noqa: N815

    def _ask(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        connection = http.client.HTTPConnection(*self.server.upstream, timeout=30)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def _spoilt(
        self, status: int, headers: Mapping[str, str], body: bytes, fault: Fault | None
    ) -> None:
        claim = len(body)
        if self.command == "HEAD":
            claim = int(headers.get("Content-Length", 0))
        at = int(len(body) * fault.share) if fault else 0
        if fault and fault.kind == "corrupt" and body:
            at = min(at, len(body) - 1)
            body = body[:at] + bytes([body[at] ^ 0x55]) + body[at + 1 :]
        if fault and fault.kind == "shorten" and self.command != "HEAD":
            body = body[:at]
            claim = len(body)
        if fault and fault.kind in ("cut", "reset"):
            body = body[:at]
        self._reply(status, headers, body, claim)
        if fault and fault.kind in ("cut", "reset"):
            self.wfile.flush()
            self._hang_up(hard=fault.kind == "reset")

    def _reply(self, status: int, headers: Mapping[str, str], body: bytes, claim: int) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(claim))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _hang_up(self, *, hard: bool) -> None:
        self.close_connection = True
        if hard:  # the other side is told of a broken connection and not of its end
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


@contextmanager
def faulty_proxy(upstream: str, choose: Choose) -> Iterator[FaultyProxy]:
    """The proxy, answering while the block runs."""
    server = FaultyProxy(upstream, choose)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
