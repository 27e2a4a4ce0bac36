"""A mirror in a bucket: what S3 and Google's XML API have in common.

Why not with somebody else's client: ``docs/decisions/0003-data-plane.md``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from email.message import Message
from pathlib import Path

from stackyard.bucket import dump_parts, parse_page, parse_upload_id
from stackyard.edges.parallel import parallel_map
from stackyard.edges.settings import Environment
from stackyard.edges.stores.folder import WORK_FOLDER
from stackyard.edges.stores.lines import without
from stackyard.edges.stores.service import UNREACHABLE, Identity, Part, Reply, Request, Service
from stackyard.edges.stores.store import (
    MANIFEST_BYTES,
    ForbiddenError,
    Listed,
    Versioned,
    check_key,
    public_url,
)
from stackyard.errors import (
    ConflictError,
    CorruptError,
    DeniedError,
    NotFoundError,
    StoreError,
    UnreachableError,
)
from stackyard.sigv4 import quoted_path

__all__ = ["PATIENCE", "Bucket", "Party", "split_url"]

#: A service puts together, or copies, a large file before it answers.
PATIENCE = 15  # times the time-out

_PAGE_BYTES = 2**26
#: Larger files are sent in parts: 5 MiB to 5 GiB each, 10,000 at most.
_LARGEST_WHOLE = 32 * 2**20
_PART_BYTES = 16 * 2**20
_PARTS = 10_000
_PARTS_AT_ONCE = 4


class Party(Identity):
    """Who asks for a bucket, and how its service speaks of versions."""

    def condition(self, version: str | None) -> dict[str, str]:
        """The header that lets a write through only over this version; None: over nothing."""
        raise NotImplementedError

    def version(self, headers: Message) -> str:
        """The version that an answer tells of; empty where it tells none."""
        raise NotImplementedError

    def who(self) -> str:
        """A hint about who we are, for a denied request."""
        raise NotImplementedError


class Bucket:
    """Keys below a prefix of a bucket."""

    def __init__(
        self,
        url: str,
        party: Party,
        env: Environment,
        *,
        timeout_s: float,
        sleep: Callable[[float], None],
    ) -> None:
        self.url = public_url(url).rstrip("/")
        self.bucket, self._prefix = split_url(url)
        self._party = party
        self._service = Service(party, env, timeout_s=timeout_s, sleep=sleep)
        self._seen = False  # an answer proved that the bucket is there

    @property
    def atomic(self) -> bool:
        return True

    # --- reading ---

    def read(self, key: str, *, max_bytes: int = MANIFEST_BYTES) -> bytes:
        return self._get(key, max_bytes).body

    def read_version(self, key: str, *, max_bytes: int = MANIFEST_BYTES) -> Versioned:
        reply = self._get(key, max_bytes)
        return Versioned(reply.body, self._named(reply, reply.body))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        check_key(key)
        if length <= 0:
            return b""
        pieces, size = [], 0
        with self._opened(key, start, start + length - 1) as opened:
            for piece in opened:
                pieces.append(piece)
                size += len(piece)
                if size >= length:  # a server that knows no ranges
                    break
        return b"".join(pieces)[:length]

    @contextmanager
    def stream(self, key: str, start: int = 0) -> Iterator[Iterator[bytes]]:
        with self._opened(key, start, None) as pieces:
            yield pieces

    def exists(self, key: str) -> bool:
        reply = self.ask("HEAD", key)
        if reply.status == 200:
            return True
        if reply.status == 404 and self._seen:
            return False
        # An answer to HEAD has no body that says what is meant: the key, the bucket, or who we are.
        try:
            with self._opened(key, 0, 0):
                return True
        except NotFoundError:
            return False

    def list(self, prefix: str = "") -> Iterator[Listed]:
        check_key(prefix, prefix=True)
        begin = f"{self._prefix}{prefix}"
        query = {"list-type": "2", "encoding-type": "url", "prefix": begin, "max-keys": "1000"}
        seen: set[str] = set()
        while True:
            reply = self.ask("GET", None, query=query, max_bytes=_PAGE_BYTES)
            if not reply.good:
                raise self.refused(reply, None)
            page = parse_page(reply.body, self.url)
            for found in page.items:
                key = found.key[len(self._prefix) :]
                if found.key.startswith(begin) and _is_key(key):
                    yield Listed(key, found.size_bytes, found.modified_s, found.stamp)
            if not page.token:
                return
            if page.token in seen:
                raise CorruptError("the listing goes round in a circle", where=self.url)
            seen.add(page.token)
            query = {**query, "continuation-token": page.token}

    # --- writing ---

    def write(self, key: str, data: bytes) -> None:
        self._put(key, data)

    def upload(self, key: str, path: Path) -> None:
        check_key(key)
        with path.open("rb") as file:
            number = file.fileno()
            size = os.fstat(number).st_size
            if size <= _LARGEST_WHOLE:
                self._put(key, Part(number, 0, size))
                return

            def send(start: int, length: int) -> Request:
                return Request("PUT", self._path(key), body=Part(number, start, length))

            self._put_parts(key, size, send, _PART_BYTES)

    def create(self, key: str, data: bytes) -> str:
        check_key(key)
        if not self.atomic:
            return self._create_looking(key, data)
        return self._put_if(key, data, None, "it is there already")

    def replace(self, key: str, data: bytes, version: str) -> str:
        check_key(key)
        if not self.atomic:
            return self._replace_looking(key, data, version)
        return self._put_if(key, data, version, "it was changed in the meantime")

    def delete(self, key: str) -> None:
        reply = self.ask("DELETE", key)
        if not reply.good:
            problem = self.refused(reply, key)
            if not isinstance(problem, NotFoundError):
                raise problem

    def close(self) -> None:
        self._service.close()

    # --- conditions ---

    def _put_if(self, key: str, data: bytes, version: str | None, why: str) -> str:
        reply = self.ask("PUT", key, headers=self._party.condition(version), body=data)
        if reply.good:
            return self._named(reply, data)
        # Amazon says 404 of a key that is to be replaced and is not there.
        if reply.status not in (404, 409, 412) or reply.fault.code == "NoSuchBucket":
            raise self.refused(reply, key)
        if reply.tries > 1:
            with suppress(NotFoundError, CorruptError):
                found = self.read_version(key, max_bytes=len(data))
                if found.data == data:  # our own first try, whose answer was lost
                    return found.version
        raise ConflictError(why, where=self._where(key))

    def _create_looking(self, key: str, data: bytes) -> str:
        if self.exists(key):
            raise ConflictError("it is there already", where=self._where(key))
        return self._write_looking(key, data)

    def _replace_looking(self, key: str, data: bytes, version: str) -> str:
        found = ""
        with suppress(NotFoundError):
            found = self.read_version(key).version
        if found != version:
            raise ConflictError("it was changed in the meantime", where=self._where(key))
        return self._write_looking(key, data)

    def _write_looking(self, key: str, data: bytes) -> str:
        self._put(key, data)
        with suppress(NotFoundError, CorruptError):
            now = self.read_version(key, max_bytes=len(data))
            if now.data == data:
                return now.version
        raise ConflictError("somebody else wrote it just now", where=self._where(key))

    def _named(self, reply: Reply, data: bytes) -> str:
        """The version of these bytes: their own checksum where the service names none."""
        return self._party.version(reply.headers) or f"sha256:{hashlib.sha256(data).hexdigest()}"

    # --- large files ---

    def _put_parts(
        self, key: str, size: int, send: Callable[[int, int], Request], part: int
    ) -> None:
        """Make a file of parts that ``send(start, length)`` describes. It appears whole or not."""
        begun = self.ask("POST", key, query={"uploads": ""})
        if not begun.good:
            raise self.refused(begun, key)
        upload = {"uploadId": parse_upload_id(begun.body, self._where(key))}
        part = max(part, -(-size // _PARTS))

        def put(number: int) -> str:
            start = number * part
            request = send(start, min(part, size - start))
            query = {**upload, "partNumber": str(number + 1)}
            reply = self._service.ask(request._replace(query=query), self._where(key))
            if not reply.good:
                raise self.refused(reply, key)
            return self._part_tag(request, reply, key)

        try:
            tags = parallel_map(put, range(-(-size // part)), workers=_PARTS_AT_ONCE)
            self._complete(key, upload, dump_parts(tags), size)
        except BaseException:
            with suppress(StoreError):
                self.ask("DELETE", key, query=upload)
            raise

    def _part_tag(self, request: Request, reply: Reply, key: str) -> str:
        if "x-amz-copy-source" not in request.headers:
            return reply.headers.get("ETag", "")
        tag = _copied_tag(reply.body)
        if not tag:  # rclone takes the request for a part without bytes
            raise StoreError("the service does not copy in parts", where=self._where(key))
        return tag

    def _complete(self, key: str, upload: Mapping[str, str], parts: bytes, size: int) -> None:
        reply = self.ask("POST", key, query=upload, body=parts, patience=PATIENCE)
        if reply.good:
            return
        # It may be unknown by now because the first try completed it, and its answer was lost.
        if reply.tries > 1 and reply.fault.code == "NoSuchUpload":
            found = self.ask("HEAD", key)
            if found.status == 200 and found.headers.get("Content-Length") == str(size):
                return
        raise self.refused(reply, key)

    # --- asking ---

    def ask(self, method: str, key: str | None, **asked: object) -> Reply:
        """One answer about a key, or about the bucket itself; ``asked`` are fields of Request."""
        if key is not None:
            check_key(key)
        request = Request(method, self._path(key), **asked)  # type: ignore[arg-type]
        reply = self._service.ask(request, self._where(key))
        if reply.status in (200, 206) or reply.fault.code == "NoSuchKey":
            self._seen = True
        return reply

    def _path(self, key: str | None) -> str:
        return "" if key is None else f"/{quoted_path(self._prefix + key)}"

    def _where(self, key: str | None) -> str:
        return self.url if key is None else f"{self.url}/{key}"

    def _get(self, key: str, max_bytes: int) -> Reply:
        reply = self.ask("GET", key, max_bytes=max_bytes)
        if reply.status != 200:
            raise self.refused(reply, key)
        return reply

    def _put(self, key: str, body: bytes | Part) -> None:
        reply = self.ask("PUT", key, body=body)
        if not reply.good:
            raise self.refused(reply, key)

    @contextmanager
    def _opened(self, key: str, start: int, last: int | None) -> Iterator[Iterator[bytes]]:
        """The bytes from ``start`` to ``last``, and no further if the server knows ranges."""
        end = "" if last is None else str(last)
        wanted = {"Range": f"bytes={start}-{end}"} if start or end else {}
        reply = self.ask("GET", key, headers=wanted, unread=True)
        if reply.status == 416:  # the file ends before
            yield iter(())
            return
        if reply.unread is None:
            raise self.refused(reply, key)
        try:
            skip = start
            # rclone gives a range with status 200.
            if given := reply.headers.get("Content-Range", ""):
                if not given.startswith(f"bytes {start}-"):
                    where = self._where(key)
                    raise CorruptError(f"another range came: {given[:60]!r}", where=where)
                skip = 0
            yield without(self._service.pieces(reply.unread, self._where(key)), skip)
        finally:
            self._service.done(reply.unread)

    # --- saying what is wrong ---

    def refused(self, reply: Reply, key: str | None) -> StoreError:
        """What an answer that is not good means."""
        where, code, status = self._where(key), reply.fault.code, reply.status
        said = f"({code or status})"
        if code == "NoSuchBucket" or (status == 404 and key is None):
            text, hint = f"there is no bucket {self.bucket} {said}", _ELSEWHERE
            return UnreachableError(text, where=where, hint=hint)
        if status == 404:
            return NotFoundError(f"the bucket has no such file {said}", where=where)
        if code in _DENIALS:
            message, hint = _DENIALS[code]
            return DeniedError(f"{message} {said}", where=where, hint=hint)
        if status in (401, 403):
            kind = ForbiddenError if status == 403 else DeniedError
            return kind(f"the service denies it {said}", where=where, hint=self._party.who())
        text, hint = f"the service answers {status} {code}".rstrip(), UNREACHABLE
        if status == 301 or code in ("AuthorizationHeaderMalformed", "PermanentRedirect"):
            text, hint = f"the bucket is in another region {said}", _REGION
        return UnreachableError(text, where=where, hint=hint)


_REGION = "set AWS_REGION to the bucket's region"
_ELSEWHERE = (
    "fix the mirror's URL, make the bucket, or, if it is at another service than AWS, set "
    "endpoint_url or S3_ENDPOINT_URL"
)
_KEY = "look at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile, or access_pair"
_EXPIRED = ("the session token has expired", "log in again, or get a new token")
_CLOCK = ("the clock of this machine is wrong", "set the clock (NTP)")
_DENIALS = {
    "InvalidAccessKeyId": ("the service does not know this access key", _KEY),
    "SignatureDoesNotMatch": ("the secret is not that of the access key", _KEY),
    "InvalidToken": ("the service does not take this session token", _KEY),
    "ExpiredToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "InvalidObjectState": ("it is in an archive", "restore it from its storage class first"),
}


def split_url(url: str) -> tuple[str, str]:
    """Bucket, and the prefix of all keys, which is empty or ends with a slash.

    Raises StoreError for a name that no bucket has.
    """
    bucket, _, path = public_url(url).partition("://")[2].partition("/")
    named = all(c.isascii() and (c.isalnum() or c in "._-") for c in bucket)
    if not named or not bucket.strip("."):
        raise StoreError(
            "the URL names no bucket", where=public_url(url), hint="for example s3://bucket/path"
        )
    path = path.strip("/")
    check_key(path, prefix=True)
    return bucket, f"{path}/" if path else ""


def _is_key(key: str) -> bool:
    """Whether a mirror may have it: no folder marks (``a/``), no ``a//b``, nothing unfinished."""
    try:
        check_key(key)
    except StoreError:
        return False
    return not key.startswith(f"{WORK_FOLDER}/")


def _copied_tag(body: bytes) -> str:
    """The ETag of a part that was copied, which comes in the body."""
    text = body.decode(errors="replace")
    return text.partition("<ETag>")[2].partition("</ETag>")[0].replace("&quot;", '"')
