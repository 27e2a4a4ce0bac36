"""A real web server on 127.0.0.1 that serves a folder and, where told to, misbehaves."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Reply:
    """One answer. ``claim`` is a Content-Length that may be a lie."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    claim: int | None = None


class MirrorServer(ThreadingHTTPServer):
    """``script[path]`` are the replies to come for a path; the last stays; None serves the file.

    ``missing`` is the status of what is not there (S3 without permission to list: 403).
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.script: dict[str, list[Reply | None]] = {}
        self.missing = 404
        self.latency_s = 0.0
        self.ranges = True
        self.requests: list[tuple[str, str]] = []
        self.headers: list[Mapping[str, str]] = []
        self.connections = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def reply(self, path: str, span: str | None) -> Reply:
        replies = self.script.get(path)
        if replies:
            scripted = replies.pop(0) if len(replies) > 1 else replies[0]
            if scripted is not None:
                return scripted
        file = self.root / unquote(urlsplit(path).path).lstrip("/")
        if not file.is_file():
            return Reply(self.missing, b"missing")
        data = file.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", span or "")
        if not match or not self.ranges:
            return Reply(200, data)
        start, end = int(match[1]), int(match[2] or len(data))
        if start >= len(data):
            return Reply(416)
        given = {"Content-Range": f"bytes {start}-{min(end, len(data) - 1)}/{len(data)}"}
        return Reply(206, data[start : end + 1], given)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up in these tests; nobody needs to read of it."""


class _Handler(BaseHTTPRequestHandler):
    server: MirrorServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave in one packet
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path))
        self.server.headers.append(dict(self.headers.items()))
        reply = self.server.reply(self.path, self.headers.get("Range"))
        if pause := reply.delay_s + self.server.latency_s:
            time.sleep(pause)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        length = len(reply.body) if reply.claim is None else reply.claim
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)
            self.close_connection = self.close_connection or length != len(reply.body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


@contextmanager
def mirror_server(root: Path) -> Iterator[MirrorServer]:
    server = MirrorServer(root)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
