"""A mirror in a registry of container images, as a store.

A key under ``manifests/`` is a tag or a digest, one under ``blobs/`` a digest; a registry has
nothing else. Manifests and blobs are written only whole, and blobs only as what their digest says.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import IO, Any
from urllib.parse import urlencode, urlsplit

from requests.utils import parse_header_links

from stackyard.edges.settings import Environment
from stackyard.edges.stores.github_packages import Packages
from stackyard.edges.stores.lines import without
from stackyard.edges.stores.registry import TRIES, Answer, Registry
from stackyard.edges.stores.store import (
    INDEX_BYTES,
    MANIFEST_BYTES,
    Access,
    Listed,
    Versioned,
    check_key,
)
from stackyard.edges.stores.uploads import Habits, Upload
from stackyard.errors import (
    ConflictError,
    CorruptError,
    NotFoundError,
    StoreError,
    UnreachableError,
)
from stackyard.mirror import parse_json
from stackyard.oci import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MANIFESTS,
    Reference,
    digest_in,
    is_tag,
    manifest_key,
    media_type_of,
    parse_reference,
)

__all__ = ["OciStore"]

_LARGEST_PAGE = 64 * 2**20
_PAGE = 1000
_PAGES = 100_000

_ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
_GITHUB = "ghcr.io"
_NO_DELETE = (
    "docker-registry needs storage.delete.enabled; others delete in their web pages, or by rules "
    "for how long images are kept"
)


class OciStore:
    """One repository of a registry.

    Two writers of one tag can pass each other unseen: ``create`` and ``replace`` look, write, and
    look again. A version is a digest. A listing tells names only, and of blobs not even those.
    """

    atomic = False

    def __init__(
        self,
        url: str,
        access: Access,
        *,
        timeout_s: float = 20.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.reference: Reference = parse_reference(url)
        self._registry = Registry(self.reference, access, timeout_s=timeout_s, sleep=sleep)
        self._sleep = sleep
        self._habits = Habits()
        self._packages: Packages | None = None
        self._lock = Lock()

    @property
    def url(self) -> str:
        return self.reference.url

    def close(self) -> None:
        self._registry.close()

    # --- reading ---

    def read(self, key: str, *, max_bytes: int = MANIFEST_BYTES) -> bytes:
        """As the protocol says; bytes that are not those of the digest are CorruptError.

        What arrives wrong is asked for once more, in case it went wrong on the way.
        """
        place = self._place(key)
        problem = None
        for _ in range(2):
            answer = self._ask("GET", place, key, max_bytes=max_bytes)
            if answer.status != 200:
                raise self._registry.refused(answer, self._where(key))
            problem = _mismatch(answer, key)
            if not problem:
                return answer.body
        raise CorruptError(problem or "", where=self._where(key))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        if length <= 0:
            return b""
        if key.startswith(MANIFESTS):
            return self.read(key)[start : start + length]
        answer = self._ask(
            "GET",
            self._place(key),
            key,
            headers={"Range": f"bytes={start}-{start + length - 1}"},
            max_bytes=start + length,
            cut=True,
        )
        if answer.status == 416:  # the blob ends before
            return b""
        if answer.status == 200:  # a registry that knows no ranges
            return answer.body[start : start + length]
        if answer.status != 206:
            raise self._registry.refused(answer, self._where(key))
        self._check_range(answer, key, start)
        return answer.body[:length]

    @contextmanager
    def stream(self, key: str, start: int = 0) -> Iterator[Iterator[bytes]]:
        """As the protocol says. Whoever asks for a beginning only cannot have it checked."""
        if key.startswith(MANIFESTS):
            yield iter((self.read(key)[start:],))
            return
        headers = {"Range": f"bytes={start}-"} if start else {}
        where = self._where(key)
        with self._registry.opened(
            self._place(key), where=where, scopes=self._registry.scopes("pull"), headers=headers
        ) as (answer, pieces):
            if answer.status == 416 and start:
                yield iter(())
                return
            if answer.status not in (200, 206):
                raise self._registry.refused(answer, where)
            if answer.status == 206:
                self._check_range(answer, key, start)
            yield without(pieces, start if answer.status == 200 else 0)

    def _check_range(self, answer: Answer, key: str, start: int) -> None:
        given = answer.headers.get("Content-Range", "")
        if not given.startswith(f"bytes {start}-"):
            raise CorruptError(f"another range came: {given[:60]!r}", where=self._where(key))

    def exists(self, key: str) -> bool:
        try:
            place = self._place(key)
        except NotFoundError:
            return False
        answer = self._ask("HEAD", place, key)
        if answer.status == 405:
            answer = self._ask("GET", place, key, max_bytes=1, cut=True)
        if answer.status in (404, 410):
            return False
        # Storage that we are sent to may allow GET and nothing else; then the blob is there.
        if answer.status != 200 and answer.at_home:
            raise self._registry.refused(answer, self._where(key))
        return True

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """The tags that begin with what follows ``manifests/``. Raises StoreError for blobs."""
        check_key(prefix, prefix=True)
        if "blobs/".startswith(prefix[:6]):
            raise StoreError(
                "a registry can list its tags, and not its blobs",
                where=self.url,
                hint=f"list {MANIFESTS}",
            )
        if not MANIFESTS.startswith(prefix[: len(MANIFESTS)]):
            return
        for tag in self._tags():
            if (key := manifest_key(tag)).startswith(prefix):
                yield Listed(key, 0, 0.0, "")

    def _tags(self) -> Iterator[str]:
        where = f"{self.url}/{MANIFESTS}"
        first = f"{self.reference.endpoint}/tags/list"
        answer = self._page(f"{first}?n={_PAGE}")
        if answer.status == 400:  # it wants smaller pages, and knows best how small
            answer = self._page(first)
        if answer.status in (404, 410):  # nothing was ever written
            return
        seen: set[str] = set()
        while answer.status == 200:
            yield from _tag_names(answer.body, where)
            url = self._next_page(answer)
            if not url:
                return
            if url in seen or len(seen) >= _PAGES:
                raise CorruptError("the list of tags goes round in a circle", where=where)
            seen.add(url)
            answer = self._page(url)
        raise self._registry.refused(answer, where)

    def _page(self, url: str) -> Answer:
        return self._ask("GET", url, MANIFESTS, max_bytes=_LARGEST_PAGE)

    def _next_page(self, answer: Answer) -> str:
        """Where the list goes on; empty at its end."""
        links = parse_header_links(answer.headers.get("Link", ""))
        following = next((link["url"] for link in links if link.get("rel") == "next"), "")
        if not following:
            return ""
        # Behind a proxy a registry may know neither its own name nor its path.
        return f"{self.reference.endpoint}/tags/list?{urlsplit(following).query}"

    # --- writing ---

    def write(self, key: str, data: bytes) -> None:
        if key.startswith(MANIFESTS):
            self._put_manifest(key, data)
        else:
            self._put_blob(key, len(data), lambda: io.BytesIO(data))

    def upload(self, key: str, path: Path) -> None:
        if key.startswith(MANIFESTS):
            self._put_manifest(key, path.read_bytes())
        else:
            self._put_blob(key, path.stat().st_size, lambda: path.open("rb"))

    def send(self, key: str, size: int, opened: Callable[[], IO[bytes]]) -> None:
        """Write a blob of so many bytes, if it is not there; ``opened`` gives them, for each try."""
        self._put_blob(key, size, opened)

    def read_version(self, key: str, *, max_bytes: int = MANIFEST_BYTES) -> Versioned:
        data = self.read(key, max_bytes=max_bytes)
        return Versioned(data, _digest(data))

    def create(self, key: str, data: bytes) -> str:
        if self.exists(key):
            raise ConflictError("it is there already", where=self._where(key))
        return self._write_seen(key, data)

    def replace(self, key: str, data: bytes, version: str) -> str:
        try:
            same = self.read_version(key, max_bytes=INDEX_BYTES).version == version
        except NotFoundError:
            same = False
        if not same:
            raise ConflictError("it was changed in the meantime", where=self._where(key))
        return self._write_seen(key, data)

    def _write_seen(self, key: str, data: bytes) -> str:
        self.write(key, data)
        version = _digest(data)
        if self.read_version(key, max_bytes=max(len(data), MANIFEST_BYTES)).version != version:
            raise ConflictError("somebody else wrote it at the same time", where=self._where(key))
        return version

    def delete(self, key: str) -> None:
        """Delete a manifest with all tags that it has, or a blob; what is not there stays so.

        Raises StoreError where the registry has no delete, as most have none for blobs.
        """
        where = self._where(key)
        try:
            digest = digest_in(key) or self.digest_of(key)
        except NotFoundError:
            return
        if self._packages is None:
            kind = "manifests" if key.startswith(MANIFESTS) else "blobs"
            answer = self._ask("DELETE", f"{self.reference.endpoint}/{kind}/{digest}", key)
            if answer.status in (200, 202, 204, 404, 410):
                return
            if answer.status != 405 and answer.code != "UNSUPPORTED":
                raise self._registry.refused(answer, where)
        if self.reference.domain != _GITHUB or not key.startswith(MANIFESTS):
            raise StoreError("the registry does not delete this", where=where, hint=_NO_DELETE)
        self._github(where).delete(digest)

    def digest_of(self, key: str) -> str:
        """The digest behind a tag, without its bytes where the registry tells. As ``read`` raises."""
        answer = self._ask("HEAD", self._place(key), key)
        given = answer.headers.get("Docker-Content-Digest", "")
        if answer.status == 200 and digest_in(manifest_key(given)):
            return given
        return _digest(self.read(key))

    def _github(self, where: str) -> Packages:
        with self._lock:
            if self._packages is None:
                env = Environment.snapshot()
                token = self._registry.login().password or env.get("GITHUB_TOKEN", "")
                if not token:
                    raise StoreError(
                        "GitHub deletes images only by its own API",
                        where=where,
                        hint="set GITHUB_TOKEN (packages: write)",
                    )
                api = env.get("GITHUB_API_URL", "")
                self._packages = Packages(
                    self.reference, self._registry.ask_elsewhere, token=token, api=api
                )
            return self._packages

    def mount_from(self, repository: str, digest: str) -> bool:
        """Take a blob over from another repository of this registry; False if that cannot be.

        Nothing is sent over the network then, and the caller has to.
        """
        registry = self._registry
        scopes = (f"repository:{repository}:pull", *registry.scopes("pull", "push"))
        query = urlencode({"mount": digest, "from": repository})
        where = f"{self.url}/{digest}"
        url = f"{self.reference.endpoint}/blobs/uploads/?{query}"
        answer = registry.ask("POST", url, where=where, scopes=scopes)
        if answer.status == 202 and answer.headers.get("Location"):  # it waits for the bytes now
            place = registry.place(answer, where)
            registry.ask("DELETE", place, where=where, scopes=registry.scopes("pull", "push"))
        return answer.status == 201

    def _put_manifest(self, key: str, data: bytes) -> None:
        where = self._where(key)
        kind = media_type_of(data, where)
        answer = self._ask(
            "PUT", self._place(key), key, headers={"Content-Type": kind}, body=lambda: data
        )
        if answer.status not in (200, 201, 202):
            raise self._registry.refused(answer, where)
        given = answer.headers.get("Docker-Content-Digest", "")
        if given.startswith("sha256:") and given != _digest(data):
            raise CorruptError("the registry stored other bytes than were sent", where=where)

    def _put_blob(self, key: str, size: int, opened: Callable[[], IO[bytes]]) -> None:
        """Send a blob, if it is not there. Raises CorruptError for bytes of another digest."""
        where = self._where(key)
        digest = digest_in(key)
        if not digest:
            raise StoreError("a registry holds manifests/ and blobs/sha256/", where=where)
        problem: StoreError | None = None
        for attempt in range(TRIES):
            if problem:
                self._sleep(0.5 * 2**attempt)
            if self.exists(key):
                return
            try:
                with opened() as file:
                    Upload(self._registry, self._habits, digest, size, file, where).run()
            except UnreachableError as error:  # where it broke off nobody knows: begin anew
                problem = error
            else:
                return
        assert problem  # noqa: S101 - or it would have returned
        raise problem

    # --- what all of them need ---

    def _where(self, key: str) -> str:
        return f"{self.url}/{key}"

    def _place(self, key: str) -> str:
        """The URL of a key. Raises NotFoundError for one that no registry can have."""
        check_key(key)
        digest = digest_in(key)
        if key.startswith(MANIFESTS):
            reference = digest or key[len(MANIFESTS) :]
            if digest or is_tag(reference):
                return f"{self.reference.endpoint}/manifests/{reference}"
        elif digest:
            return f"{self.reference.endpoint}/blobs/{digest}"
        raise NotFoundError("no registry can have such a key", where=self._where(key))

    def _ask(self, method: str, url: str, key: str, **more: Any) -> Answer:
        actions = {"PUT": ("pull", "push"), "DELETE": ("pull", "delete")}.get(method, ("pull",))
        headers = dict(more.pop("headers", None) or {})
        if key.startswith(MANIFESTS) and method in ("GET", "HEAD"):
            headers["Accept"] = _ACCEPT
        return self._registry.ask(
            method,
            url,
            where=self._where(key),
            scopes=self._registry.scopes(*actions),
            headers=headers,
            **more,
        )


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _mismatch(answer: Answer, key: str) -> str:
    """What is wrong with the bytes of a key; empty if nothing is, or nobody can tell."""
    wanted = digest_in(key) or answer.headers.get("Docker-Content-Digest", "")
    if not wanted.startswith("sha256:") or _digest(answer.body) == wanted:
        return ""
    return "other bytes came than their digest says"


def _tag_names(body: bytes, where: str) -> list[str]:
    """Shape: ``{"name", "tags": [tag, ...] or null}``."""
    document = parse_json(body, where, "list of tags")
    tags = document.get("tags") if isinstance(document, dict) else 0
    if tags is None:
        return []
    if not isinstance(tags, list):
        raise CorruptError("the list of tags is none", where=where)
    for tag in tags:
        if not isinstance(tag, str) or not is_tag(tag):
            raise CorruptError(f"a tag cannot be {str(tag)[:80]!r}", where=where)
    return tags
