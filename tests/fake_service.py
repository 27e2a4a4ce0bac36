"""A web service in this process that can be told to fail: what the fake servers have in common."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

from serving import serving


@dataclass(frozen=True)
class Asked:
    """A request that came in."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def parameters(self) -> dict[str, str]:
        return dict(parse_qsl(self.query, keep_blank_values=True))


@dataclass(frozen=True)
class Fault:
    """An answer in place of the right one.

    ``status``: that one. ``cut``: the right one, broken off after so many bytes of its body.
    ``lost``: what was asked is done, and no answer comes. ``held``: no answer, and nothing is done,
    before this is set. ``delay_s``: all that only then.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    lost: bool = False
    held: threading.Event | None = None
    delay_s: float = 0.0


class RefusedError(Exception):
    """An answer that is an error; with ``breach`` one that no good client meets."""

    def __init__(
        self, status: int, body: Mapping[str, Any], breach: str = "", **headers: str
    ) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.breach = breach
        self.headers = headers


class Service(ThreadingHTTPServer):
    """``fault`` is asked about each request before it is answered."""

    daemon_threads = True

    def __init__(self, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.asked: list[Asked] = []
        self.breaches: list[str] = []
        self.fault: Callable[[Asked], Fault | None] = lambda _: None
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def methods(self) -> list[str]:
        """Of the requests so far."""
        return [asked.method for asked in self.asked]

    def fail(self, *faults: Fault | None, method: str = "") -> None:
        """Meet the next requests with these, one after the other; then all is well."""
        rest = list(faults)

        def take(asked: Asked) -> Fault | None:
            return rest.pop(0) if rest and asked.method == (method or asked.method) else None

        self.fault = take

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up in these tests; nobody needs to read of it."""


class Handler(BaseHTTPRequestHandler):
    server: Service
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def route(self) -> None:
        """Answer ``self.asked``, or raise RefusedError."""
        raise NotImplementedError

    def _any(self) -> None:
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked = Asked(self.command, path, query, dict(self.headers.items()), body)
        with self.server.lock:
            self.server.asked.append(self.asked)
            self.fault = self.server.fault(self.asked) or Fault()
        time.sleep(self.fault.delay_s)
        if self.fault.held is not None:
            self.fault.held.wait(30)
            self.close_connection = True
            return
        if self.fault.status:
            self.answer(self.fault.status, self.fault.body, self.fault.headers)
            return
        with self.server.lock:
            try:
                self.route()
            except RefusedError as refused:
                if refused.breach:
                    self.server.breaches.append(f"{self.command} {self.path}: {refused.breach}")
                self.json(refused.status, refused.body, **refused.headers)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _any  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        if self.fault.lost:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: self.fault.cut])
        if self.fault.cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def json(self, status: int, value: Any, **headers: str) -> None:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        body = json.dumps(value).encode()
        self.answer(status, body, {"Content-Type": "application/json", **named})


@contextmanager
def running(server: Service) -> Iterator[None]:
    """Let the server answer while the block runs; a breach fails it in the end."""
    with serving(server):
        yield
    assert server.breaches == []
