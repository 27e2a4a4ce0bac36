"""Direct look-ups on a web server with latency: all at once, against one after another."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.synthetic import make_lock
from stackyard.edges.mirrors.inventory import take_inventories
from stackyard.edges.stores.access import Place
from stackyard.lock import parse_lock

__all__ = ["measure_lookups"]

SPECS = 868
LATENCY_S = 0.02


class _Handler(BaseHTTPRequestHandler):
    """Has nothing but the mark of a mirror in layout 3."""

    protocol_version = "HTTP/1.1"
    requests = 0

    def do_GET(self) -> None:
        type(self).requests += 1
        time.sleep(LATENCY_S)
        there = self.path.endswith("layout.json")
        body = b'{"signing": "gpg"}' if there else b""
        self.send_response(200 if there else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def measure_lookups() -> tuple[float, float, int]:
    """Seconds at once, seconds one after another, and the requests of one of the two."""
    lock = parse_lock(make_lock(SPECS + 1), "synthetic")
    wanted = [spec for spec in lock.specs.values() if not spec.external]
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = Place("bench", f"http://127.0.0.1:{server.server_port}", None)

    def measure(workers: int) -> float:
        start = time.perf_counter()
        take_inventories(
            [place], wanted, index_only=False, progress=lambda _: None, workers=workers
        )
        return time.perf_counter() - start

    try:
        parallel = measure(32)
        requests = _Handler.requests
        return parallel, measure(1), requests
    finally:
        server.shutdown()
