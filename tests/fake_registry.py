"""A registry in this process, with the habits and faults that Debian's docker-registry lacks."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, parse_qsl, urlencode

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Repository:
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # by digest
    tags: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)

    def put(self, tag: str, data: bytes, kind: str = MANIFEST) -> None:
        """A manifest, in whatever state the test wants it."""
        self.tags[tag] = digest_of(data)
        self.manifests[digest_of(data)] = kind, data


@dataclass(frozen=True)
class Asked:
    """A request that came in."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]

    @property
    def authorization(self) -> str:
        return self.headers.get("Authorization", "")


@dataclass(frozen=True)
class Fault:
    """An answer in place of the right one. ``cut``: the right one, broken off after so many bytes.

    ``after``: what was sent is taken, and only then the connection breaks.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    after: bool = False
    delay_s: float = 0.0


class FakeRegistry(ThreadingHTTPServer):
    """``fault`` is asked first about each request. The attributes below are its habits."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.asked: list[Asked] = []
        self.fault: Callable[[Asked], Fault | None] = lambda _: None
        # What it gives and takes.
        self.page = 1000
        self.largest_page = 0  # it answers 400 for ?n= beyond that
        self.links = "relative"  # or absolute, strange
        self.whole = True  # takes a blob at one go
        self.largest_part = 2**40
        self.least_part = 0
        self.mounts = True
        self.deletes = True
        self.ranges = True
        self.head = True
        self.location = ""  # what stands before the path of an upload: another name for itself
        self.storage: FakeRegistry | None = None  # where blobs are sent for
        # Who may come in.
        self.auth = ""  # bearer, basic, token (a fixed bearer token)
        self.users: dict[str, str] = {}
        self.identity = ""  # the identity token that the token service changes for others
        self.fixed_token = ""
        self.anonymous = ""  # what everybody may do: pull
        self.challenge: str | None = None  # in place of the right one
        self.realm = ""
        self.token_key = "token"
        self.term_s = 300.0
        self.token_fault: Fault | None = None
        self.tokens: dict[str, tuple[str, float]] = {}
        self.lock = threading.RLock()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def mirror(self, name: str) -> str:
        return f"oci+http://{self.host}/{name}"

    def repository(self, name: str) -> Repository:
        return self.repositories.setdefault(name, Repository())

    def methods(self, part: str = "") -> list[str]:
        """Methods of the requests so far whose path has this part."""
        return [asked.method for asked in self.asked if part in asked.path]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up in these tests; nobody needs to read of it."""


class _Handler(BaseHTTPRequestHandler):
    server: FakeRegistry
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def _any(self) -> None:
        path, _, query = self.path.partition("?")
        self.asked = Asked(self.command, path, query, dict(self.headers.items()))
        self.cut: int | None = None
        self.body = b""
        length = int(self.headers.get("Content-Length", 0))
        with self.server.lock:
            self.server.asked.append(self.asked)
            fault = self.server.fault(self.asked)
        if fault and not fault.status and fault.cut is None and not fault.after:
            time.sleep(fault.delay_s)
            fault = None
        if fault and not fault.status and not fault.after and length:
            self.rfile.read(min(fault.cut or 0, length))  # breaks off while it is sent
            self.close_connection = True
            return
        self.body = self.rfile.read(length)
        if fault:
            time.sleep(fault.delay_s)
            if fault.status:
                self.answer(fault.status, fault.body, **fault.headers)
                return
            self.cut = fault.cut or 0
        with self.server.lock:
            self.route()

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""

    def answer(self, status: int, body: bytes = b"", /, **headers: str) -> None:
        if self.cut is not None and not body:
            self.close_connection = True
            return
        self.send_response(status)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        names.setdefault("Content-Length", str(len(body)))
        for name, value in names.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if self.cut is None else body[: self.cut])
        if self.cut is not None:
            self.close_connection = True

    def error(self, status: int, code: str, **headers: str) -> None:
        body = {"errors": [{"code": code, "message": code.lower().replace("_", " ")}]}
        self.answer(status, json.dumps(body).encode(), **headers)

    def route(self) -> None:
        path = self.asked.path
        if path == "/token":
            self.token()
        elif match := re.fullmatch(r"/storage/(.+)/(sha256:[0-9a-f]+)", path):
            self.blob(self.server.repository(match[1]), match[2])
        elif match := re.fullmatch(r"/v2/(.+)/(manifests|blobs|tags)/(.+)", path):
            if self.allowed(match[1]):
                self.registry(match[1], match[2], match[3])
        else:
            self.error(404, "NAME_UNKNOWN")

    def registry(self, name: str, kind: str, rest: str) -> None:
        if kind != "blobs" and name not in self.server.repositories and self.command != "PUT":
            self.error(404, "NAME_UNKNOWN")
            return
        repository = self.server.repository(name)
        if kind == "tags":
            self.tags(repository, name)
        elif kind == "manifests":
            self.manifest(repository, rest)
        elif rest.startswith("uploads/"):
            self.upload(repository, name, rest.removeprefix("uploads/"))
        elif self.server.storage and self.command == "GET":
            self.answer(307, Location=f"{self.server.storage.url}/storage/{name}/{rest}")
        else:
            self.blob(repository, rest)

    # --- who may come in ---

    def allowed(self, name: str) -> bool:
        action = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}.get(self.command, "push")
        wanted = [f"repository:{name}:{action}"]
        if origin := parse_qs(self.asked.query).get("from"):
            wanted.append(f"repository:{origin[0]}:pull")
        if not self.server.auth or self.entitled(wanted):
            return True
        given = self.server.challenge
        if given is None and self.server.auth == "bearer":
            realm = self.server.realm or f"{self.server.url}/token"
            given = f'Bearer realm="{realm}",service="fake",scope="{" ".join(wanted)}"'
        elif given is None:
            given = 'Basic realm="fake"'
        self.error(401, "UNAUTHORIZED", WWW_Authenticate=given)
        return False

    def entitled(self, wanted: list[str]) -> bool:
        server, given = self.server, self.asked.authorization
        if server.auth == "basic":
            return given in map(_basic, server.users.items())
        if server.auth == "token":
            return given == f"Bearer {server.fixed_token}"
        scopes, until = server.tokens.get(given.removeprefix("Bearer "), ("", 0.0))
        return time.monotonic() < until and all(_granted(scopes, scope) for scope in wanted)

    def token(self) -> None:
        server = self.server
        if fault := server.token_fault:
            self.answer(fault.status, fault.body, **fault.headers)
            return
        values = parse_qsl(self.body.decode() if self.command == "POST" else self.asked.query)
        known = self.asked.authorization in map(_basic, server.users.items())
        if self.command == "POST":
            form = dict(values)
            known = (form["grant_type"], form["refresh_token"]) == (
                "refresh_token",
                server.identity,
            )
        if (self.asked.authorization or self.command == "POST") and not known:
            self.error(401, "UNAUTHORIZED")
            return
        scopes = " ".join(value for key, value in values if key == "scope")
        if not known:
            scopes = " ".join(_reduced(scope, server.anonymous) for scope in scopes.split())
        token = secrets.token_urlsafe(16)
        server.tokens[token] = scopes, time.monotonic() + server.term_s
        answer = {server.token_key: token, "expires_in": server.term_s}
        self.answer(200, json.dumps(answer).encode())

    # --- what it holds ---

    def tags(self, repository: Repository, name: str) -> None:
        query = dict(parse_qsl(self.asked.query))
        if self.server.largest_page and int(query.get("n", 0)) > self.server.largest_page:
            self.error(400, "PAGINATION_NUMBER_INVALID")
            return
        names = sorted(tag for tag in repository.tags if tag > query.get("last", ""))
        shown = names[: self.server.page]
        headers: dict[str, str] = {}
        if len(shown) < len(names):
            more = urlencode({"last": shown[-1], "n": self.server.page})
            before = {"relative": "", "absolute": self.server.url, "strange": "http://elsewhere"}
            place = f"{before[self.server.links]}/v2/{name}/tags/list?{more}"
            headers["Link"] = f'<{place}>; rel="next"'
        body = {"name": name, "tags": shown or None}
        self.answer(200, json.dumps(body).encode(), **headers)

    def manifest(self, repository: Repository, reference: str) -> None:
        digest = repository.tags.get(reference, reference)
        if self.command == "PUT":
            digest = digest_of(self.body)
            if reference.startswith("sha256:") and reference != digest:
                self.error(400, "DIGEST_INVALID")
                return
            if any(layer not in repository.blobs for layer in _layers(self.body)):
                self.error(400, "MANIFEST_BLOB_UNKNOWN")
                return
            repository.manifests[digest] = self.headers["Content-Type"], self.body
            if reference != digest:
                repository.tags[reference] = digest
            self.answer(201, Docker_Content_Digest=digest)
        elif self.command == "DELETE":
            self.delete_manifest(repository, reference)
        elif self.command == "HEAD" and not self.server.head:
            self.error(405, "UNSUPPORTED")
        elif digest not in repository.manifests:
            self.error(404, "MANIFEST_UNKNOWN")
        else:
            kind, data = repository.manifests[digest]
            self.answer(200, data, Content_Type=kind, Docker_Content_Digest=digest)

    def delete_manifest(self, repository: Repository, reference: str) -> None:
        if not self.server.deletes or not reference.startswith("sha256:"):
            self.error(405, "UNSUPPORTED")
            return
        status = 202 if repository.manifests.pop(reference, None) else 404
        repository.tags = {t: d for t, d in repository.tags.items() if d != reference}
        self.answer(status)

    def blob(self, repository: Repository, digest: str) -> None:
        data = repository.blobs.get(digest)
        if self.command == "DELETE":
            if not self.server.deletes:
                self.error(405, "UNSUPPORTED")
                return
            repository.blobs.pop(digest, None)
            self.answer(404 if data is None else 202)
        elif data is None:
            self.error(404, "BLOB_UNKNOWN")
        elif self.command == "HEAD":
            self.answer(200, Content_Length=str(len(data)))
        else:
            self.give(data)

    def give(self, data: bytes) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not match or not self.server.ranges:
            self.answer(200, data)
            return
        start = int(match[1])
        if start >= len(data):
            self.answer(416, b"no", Content_Length=str(len(data)))  # as docker-registry does
            self.close_connection = True
            return
        end = min(int(match[2] or len(data)), len(data) - 1)
        given = f"bytes {start}-{end}/{len(data)}"
        self.answer(206, data[start : end + 1], Content_Range=given)

    # --- what is sent to it ---

    def upload(self, repository: Repository, name: str, number: str) -> None:
        query = dict(parse_qsl(self.asked.query))
        if self.command == "POST":
            self.begin(repository, name, query)
        elif number not in repository.uploads:
            self.error(404, "BLOB_UPLOAD_UNKNOWN")
        elif self.command == "PATCH":
            self.part(repository, name, number)
        elif self.command == "PUT":
            self.finish_upload(repository, number, query["digest"])
        elif self.command == "DELETE":
            del repository.uploads[number]
            self.answer(204)
        else:
            self.progress(204, repository, name, number)

    def begin(self, repository: Repository, name: str, query: Mapping[str, str]) -> None:
        origin = self.server.repositories.get(query.get("from", ""), Repository())
        if (digest := query.get("mount", "")) in origin.blobs and self.server.mounts:
            repository.blobs[digest] = origin.blobs[digest]
            self.answer(201, Docker_Content_Digest=digest)
            return
        number = secrets.token_hex(8)
        repository.uploads[number] = bytearray()
        self.progress(202, repository, name, number)

    def progress(self, status: int, repository: Repository, name: str, number: str) -> None:
        place = f"{self.server.location}/v2/{name}/blobs/uploads/{number}?state=a%2Bb"
        size = len(repository.uploads[number])
        headers = {"Location": place, "Range": f"0-{max(size - 1, 0)}"}
        if self.server.least_part:
            headers["OCI-Chunk-Min-Length"] = str(self.server.least_part)
        self.answer(status, **headers)

    def part(self, repository: Repository, name: str, number: str) -> None:
        have = repository.uploads[number]
        start = self.headers["Content-Range"].partition("-")[0]
        if len(self.body) > self.server.largest_part:
            self.error(413, "SIZE_INVALID")
        elif int(start) != len(have):
            self.progress(416, repository, name, number)
        else:
            have += self.body
            self.progress(202, repository, name, number)

    def finish_upload(self, repository: Repository, number: str, digest: str) -> None:
        if self.body and not self.server.whole:
            self.error(405, "UNSUPPORTED")
            return
        data = bytes(repository.uploads.pop(number)) + self.body
        if digest_of(data) != digest:
            self.error(400, "DIGEST_INVALID")
            return
        repository.blobs[digest] = data
        self.answer(201, Docker_Content_Digest=digest)


def _layers(data: bytes) -> list[str]:
    document = json.loads(data)
    parts = [*document.get("layers", ()), *filter(None, [document.get("config")])]
    return [part["digest"] for part in parts]


def _basic(pair: tuple[str, str]) -> str:
    return f"Basic {b64encode(':'.join(pair).encode()).decode()}"


def _granted(scopes: str, wanted: str) -> bool:
    thing, _, action = wanted.rpartition(":")
    return any(
        scope.startswith(f"{thing}:") and action in scope.rpartition(":")[2].split(",")
        for scope in scopes.split()
    )


def _reduced(scope: str, allowed: str) -> str:
    thing, _, actions = scope.rpartition(":")
    return f"{thing}:{','.join(a for a in actions.split(',') if a in allowed.split(','))}"


@contextmanager
def fake_registry() -> Iterator[FakeRegistry]:
    server = FakeRegistry()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
