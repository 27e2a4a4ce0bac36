"""A Google Cloud Storage of our own making: the XML API as far as a mirror uses it.

No real one is to be had for tests. What it does is taken from Google's reference of the XML API:
bearer tokens, generations and ``x-goog-if-generation-match``, listings with continuation tokens,
uploads in parts, error documents. What that reference leaves open, it does as S3 does.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

DATE = "2026-11-21T08:00:00.123Z"


class Stored(NamedTuple):
    data: bytes
    generation: int

    @property
    def tag(self) -> str:
        return f'"{hashlib.md5(self.data, usedforsecurity=False).hexdigest()}"'


class FakeGcs(ThreadingHTTPServer):
    """``buckets`` by name. Whoever has no token that was given out may do nothing, but read where
    a bucket is ``public``.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.buckets: dict[str, dict[str, Stored]] = {}
        self.public: set[str] = set()
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.tokens: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.lifetime_s = 3600
        self.lock = threading.Lock()
        self._generation = 1_700_000_000_000_000

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def bucket(self) -> str:
        """The URL of a new, empty bucket."""
        name = f"test-{secrets.token_hex(6)}"
        self.buckets[name] = {}
        return f"gs://{name}"

    def put(self, bucket: str, key: str, data: bytes) -> Stored:
        self._generation += 1
        self.buckets[bucket][key] = Stored(data, self._generation)
        return self.buckets[bucket][key]

    def account(self, folder: Path) -> Path:
        """The file of a service account, as GOOGLE_APPLICATION_CREDENTIALS names it."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path = folder / "account.json"
        path.write_text(
            json.dumps(
                {
                    "type": "service_account",
                    "project_id": "example",
                    "private_key_id": "1",
                    "private_key": key.decode(),
                    "client_email": "ci@example.iam.gserviceaccount.com",
                    "client_id": "1",
                    "token_uri": f"{self.url}/token",
                }
            )
        )
        return path


class _Handler(BaseHTTPRequestHandler):
    server: FakeGcs
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        _, bucket, *rest = unquote(parts.path).split("/", 2)
        self.bucket, self.key = bucket, rest[0] if rest else ""
        self.server.asked.append((self.command, self.path))
        if parts.path == "/token":
            self._give_token()
        elif not self._may():
            self._fault(403 if self._token() is None else 401, "AccessDenied")
        elif self.bucket not in self.server.buckets:
            self._fault(404, "NoSuchBucket")
        else:
            with self.server.lock:
                getattr(self, f"_{self.command.lower()}")()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

    def _give_token(self) -> None:
        token = secrets.token_hex(16)
        self.server.tokens.add(token)
        answer = {"access_token": token, "expires_in": self.server.lifetime_s}
        self._reply(
            200,
            json.dumps({**answer, "token_type": "Bearer"}).encode(),
            {"Content-Type": "application/json"},
        )

    def _token(self) -> str | None:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if kind == "Bearer" else None

    def _may(self) -> bool:
        if self._token() in self.server.tokens:
            return True
        reading = self.command in ("GET", "HEAD") and bool(self.key)
        return self._token() is None and reading and self.bucket in self.server.public

    def _get(self) -> None:
        if not self.key:
            self._list()
            return
        stored = self.server.buckets[self.bucket].get(self.key)
        if stored is None:
            self._fault(404, "NoSuchKey")
            return
        known = {"ETag": stored.tag, "x-goog-generation": str(stored.generation)}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not match:
            self._reply(200, stored.data, known)
            return
        size, start = len(stored.data), int(match[1])
        end = min(int(match[2] or size), size - 1)
        if start >= size:
            self._fault(416, "InvalidRange")
            return
        span = {"Content-Range": f"bytes {start}-{end}/{size}"}
        self._reply(206, stored.data[start : end + 1], {**known, **span})

    _head = _get

    def _list(self) -> None:
        objects = self.server.buckets[self.bucket]
        after = self.query.get("continuation-token", "")
        keys = sorted(
            k for k in objects if k.startswith(self.query.get("prefix", "")) and k > after
        )
        page = keys[: int(self.query.get("max-keys", "1000"))]
        quoted = self.query.get("encoding-type") == "url"
        lines = [
            '<?xml version="1.0" encoding="UTF-8"?>',
            '<ListBucketResult xmlns="http://doc.s3.amazonaws.com/2006-03-01">',
            "<EncodingType>url</EncodingType>" if quoted else "",
            f"<IsTruncated>{str(len(page) < len(keys)).lower()}</IsTruncated>",
        ]
        if len(page) < len(keys):
            lines.append(f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>")
        for key in page:
            stored = objects[key]
            lines.append(
                f"<Contents><Key>{quote(key) if quoted else escape(key)}</Key>"
                f"<Generation>{stored.generation}</Generation><ETag>{escape(stored.tag)}</ETag>"
                f"<LastModified>{DATE}</LastModified><Size>{len(stored.data)}</Size></Contents>"
            )
        self._reply(200, "\n".join([*lines, "</ListBucketResult>"]).encode())

    def _put(self) -> None:
        if "uploadId" in self.query:
            parts = self.server.uploads[self.query["uploadId"]]
            parts[int(self.query["partNumber"])] = self.body
            tag = hashlib.md5(self.body, usedforsecurity=False).hexdigest()
            self._reply(200, b"", {"ETag": f'"{tag}"'})
            return
        wanted = self.headers.get("x-goog-if-generation-match")
        if wanted is not None and not wanted.isdecimal():
            self._fault(400, "InvalidArgument")
            return
        stored = self.server.buckets[self.bucket].get(self.key)
        if wanted is not None and int(wanted) != (stored.generation if stored else 0):
            self._fault(412, "PreconditionFailed")
            return
        self._written(self.body)

    def _written(self, data: bytes, body: bytes = b"") -> None:
        stored = self.server.put(self.bucket, self.key, data)
        known = {"ETag": stored.tag, "x-goog-generation": str(stored.generation)}
        self._reply(200, body, known)

    def _post(self) -> None:
        if "uploads" in self.query:
            name = secrets.token_hex(8)
            self.server.uploads[name] = {}
            root = "InitiateMultipartUploadResult"
            self._reply(200, f"<{root}><UploadId>{name}</UploadId></{root}>".encode())
            return
        parts = self.server.uploads.pop(self.query["uploadId"])
        order = [int(number) for number in re.findall(rb"<PartNumber>(\d+)<", self.body)]
        assert order == sorted(parts)
        body = b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>"
        self._written(b"".join(parts[number] for number in order), body)

    def _delete(self) -> None:
        if "uploadId" in self.query:
            self.server.uploads.pop(self.query["uploadId"], None)
            self._reply(204, b"", {})
        elif self.server.buckets[self.bucket].pop(self.key, None) is None:
            self._fault(404, "NoSuchKey")
        else:
            self._reply(204, b"", {})

    def _fault(self, status: int, code: str) -> None:
        text = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code></Error>"
        self._reply(status, text.encode())

    def _reply(self, status: int, body: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # clients hang up
            self.close_connection = True


@contextmanager
def fake_gcs() -> Iterator[FakeGcs]:
    """The server, answering while the block runs."""
    server = FakeGcs()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
