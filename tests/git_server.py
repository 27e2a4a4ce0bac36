"""Git repositories for tests, on disk and behind a small HTTP server with git's own back end."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["GitServer", "Repository", "serve_git"]


class Repository:
    """A repository with files that a test commits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self("init", "--quiet", "--initial-branch=main")

    def __call__(self, *arguments: str) -> str:
        """What ``git ARGUMENTS`` said, in this repository, by nobody in particular."""
        plain = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        named = {
            f"GIT_{who}_{what}": value
            for who in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "x"), ("EMAIL", "x@example.org"))
        }
        done = subprocess.run(
            ["git", "-C", str(self.folder), *arguments],
            env={**plain, **named, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, files: Mapping[str, str | bytes]) -> str:
        """A commit with these files changed; its name. A text that begins with #! can be run."""
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            if path.read_bytes().startswith(b"#!"):
                path.chmod(0o755)
        self("add", "--all", "--force")
        self("commit", "--quiet", "--allow-empty", "--message=x")
        return self("rev-parse", "HEAD")

    @property
    def url(self) -> str:
        return self.folder.as_uri()


class GitServer(ThreadingHTTPServer):
    """Serves the repositories in a folder, as well or as badly as the test says.

    ``old``: as a server did before version 2 of the protocol, which hands out no single commits.
    ``login``: ``user:password`` that it wants. ``failing``: so many requests get a 503.
    ``losing``: after so many pushes, which are taken, the connection breaks without an answer;
    ``gone``: and from then on all requests get a 503.
    ``asked`` are the requests, ``given`` what they had as Authorization, ``sent`` the bytes that went
    out.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.old = False
        self.login = ""
        self.failing = 0
        self.losing = 0
        self.gone = False
        self.asked: list[str] = []
        self.given: list[str] = []
        self.sent = 0

    def url(self, name: str, login: str = "") -> str:
        who = f"{login}@" if login else ""
        return f"http://{who}127.0.0.1:{self.server_port}/{name}"

    @property
    def fetches(self) -> int:
        """How often objects were asked for; in version 2 names are asked for alike."""
        return sum("want " in one for one in self.asked)


class _Handler(BaseHTTPRequestHandler):
    server: GitServer

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.send_error(411)
            return
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        server = self.server
        server.asked.append(f"{self.command} {self.path} {body.decode(errors='replace')}")
        server.given.append(self.headers.get("Authorization", ""))
        if server.failing:
            server.failing -= 1
            self.send_error(503)
            return
        if server.login:
            right = base64.b64encode(server.login.encode()).decode()
            if self.headers.get("Authorization") != f"Basic {right}":
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        path, _, query = self.path.partition("?")
        env = {
            "PATH": os.environ["PATH"],
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_PROJECT_ROOT": str(server.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }
        if not server.old:
            env["GIT_PROTOCOL"] = self.headers.get("Git-Protocol", "")
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=env, capture_output=True, check=False
        )
        if server.losing and self.command == "POST" and path.endswith("/git-receive-pack"):
            server.losing -= 1
            server.failing = 10**6 if server.gone else 0
            self.close_connection = True
            return
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        self._send(head.decode(), content)

    def _send(self, head: str, content: bytes) -> None:
        fields = dict(line.split(": ", 1) for line in head.splitlines())
        self.send_response(int(fields.pop("Status", "200 OK").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.server.sent += len(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serve_git(folder: Path) -> Iterator[GitServer]:
    with GitServer(folder) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
