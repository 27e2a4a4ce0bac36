"""A mirror in a registry of container images, as a store; and Spack's images and index in it.

A key under ``manifests/`` is a tag or a digest, one under ``blobs/`` a digest; a registry has
nothing else. Manifests and blobs are written only whole, and blobs only as what their digest says.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import IO, Any
from urllib.parse import urlencode, urlsplit

from requests.utils import parse_header_links

from stackyard.binary import SPEC_BYTES, Blob, Metadata
from stackyard.edges.mirrors.transfer import download
from stackyard.edges.settings import Environment
from stackyard.edges.stores.github_packages import Packages
from stackyard.edges.stores.registry import TRIES, Answer, Part, Registry
from stackyard.edges.stores.store import (
    INDEX_BYTES,
    MANIFEST_BYTES,
    PIECE_BYTES,
    Access,
    Listed,
    Store,
    Versioned,
    WritableStore,
    check_key,
)
from stackyard.errors import (
    ConflictError,
    CorruptError,
    NotFoundError,
    StoreError,
    UnreachableError,
)
from stackyard.lock import Spec
from stackyard.mirror import parse_json
from stackyard.oci import (
    INDEX_TAG,
    INDEX_TYPES,
    MANIFEST_TYPES,
    MANIFESTS,
    Layer,
    Reference,
    describe,
    descriptor,
    digest_in,
    digest_key,
    image_config,
    image_manifest,
    is_tag,
    last_layer,
    manifest_key,
    media_type_of,
    parse_image,
    parse_reference,
    runtime_order,
    spec_tag,
)

__all__ = [
    "OciStore",
    "find_layer",
    "push_binary",
    "read_index_blob",
]

#: Up to here a blob is sent at one go, which all registries take and most are quickest with.
WHOLE_BYTES = 2**30
#: One request of an upload in several; some registries refuse more, none wants more.
PART_BYTES = 16 * 2**20
_LEAST_PART_BYTES = 2**20
_LARGEST_PART_BYTES = 2**30
_LARGEST_PAGE = 64 * 2**20
_PAGE = 1000
_PAGES = 100_000

_ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
_OCTETS = "application/octet-stream"
_GITHUB = "ghcr.io"
_SOURCE = "org.opencontainers.image.source"
#: Answers of a registry that wants a blob in parts.
_NOT_WHOLE = frozenset({405, 411, 413, 501})
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
        self._habits = _Habits()
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
            yield _behind(pieces, start if answer.status == 200 else 0)

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
            digest = digest_in(key) or self._digest_of(key)
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

    def _digest_of(self, key: str) -> str:
        """The digest behind a tag: registries that follow the first specification delete by it."""
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

    def can_copy_from(self, other: Store) -> bool:
        """Whether the other store is a repository of the same registry."""
        mine = self.reference._replace(name="")
        return isinstance(other, OciStore) and other.reference._replace(name="") == mine

    def copy_from(self, other: Store, key: str, target_key: str) -> None:
        """Take a blob over, inside the registry if it does that, else through this machine.

        Raises CorruptError for other bytes than the digest says, and what both stores raise.
        """
        digest = digest_in(target_key)
        if self.exists(target_key):
            return
        if isinstance(other, OciStore) and self.mount_from(other.reference.name, digest):
            return
        with TemporaryDirectory(prefix="stackyard-") as folder:
            path = Path(folder, "blob")
            download(other, Blob(key, None, digest.removeprefix("sha256:")), path)
            self.upload(target_key, path)

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
                    _Upload(self._registry, self._habits, digest, size, file, where).run()
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


@dataclass(slots=True)
class _Habits:
    """What we have learnt about a registry."""

    in_parts: bool = False  # it refused a blob at one go


class _Upload:
    """One blob on its way into a repository."""

    def __init__(  # noqa: PLR0913, PLR0917 - made in one place
        self,
        registry: Registry,
        habits: _Habits,
        digest: str,
        size: int,
        file: IO[bytes],
        where: str,
    ) -> None:
        self._registry = registry
        self._habits = habits
        self._scopes = registry.scopes("pull", "push")
        self._digest = digest
        self._size = size
        self._file = file
        self._where = where
        self._least = _LEAST_PART_BYTES
        self._broken = False  # a part broke off, and nobody knows whether it was taken twice

    def run(self) -> None:
        """Raises UnreachableError if it may go better from the beginning, else what is wrong."""
        place = self._begin()
        if self._size <= WHOLE_BYTES and not self._habits.in_parts:
            answer = self._send("PUT", self._finished(place), 0, self._size)
            if answer.status in (200, 201, 204):
                return
            if answer.status not in _NOT_WHOLE and answer.code != "UNSUPPORTED":
                raise self._refused(answer)
            self._habits.in_parts = True
            place = self._begin()
        self._send_parts(place)

    def _begin(self) -> str:
        url = f"{self._registry.reference.endpoint}/blobs/uploads/"
        answer = self._registry.ask("POST", url, where=self._where, scopes=self._scopes)
        if answer.status != 202:
            raise self._refused(answer)
        least = answer.headers.get("OCI-Chunk-Min-Length", "")
        if least.isascii() and least.isdigit():
            self._least = min(max(int(least), _LEAST_PART_BYTES), _LARGEST_PART_BYTES)
        return self._registry.place(answer, self._where)

    def _send_parts(self, place: str) -> None:
        start, length, failures = 0, max(PART_BYTES, self._least), 0
        while start < self._size:
            end = min(start + length, self._size)
            try:
                answer = self._send("PATCH", place, start, end - start)
            except UnreachableError:
                end = start
                self._broken = True
                failures += 1
                if failures >= TRIES:
                    raise
                answer = self._registry.ask("GET", place, where=self._where, scopes=self._scopes)
            if answer.status == 413 and length > self._least:
                length = max(length // 4, self._least)
                continue
            if answer.status not in (201, 202, 204, 416):
                raise self._refused(answer)
            reached = self._reached(answer, end if answer.status in (201, 202) else start)
            failures = 0 if reached > start else failures + 1
            if failures >= TRIES:
                raise UnreachableError("the registry takes no more of it", where=self._where)
            start = reached
            if answer.headers.get("Location"):
                place = self._registry.place(answer, self._where)
        answer = self._send("PUT", self._finished(place), self._size, 0)
        if answer.status not in (200, 201, 204):
            raise self._refused(answer)

    def _reached(self, answer: Answer, otherwise: int) -> int:
        """How much the registry has now, as it says: ``Range: 0-1023``."""
        match = re.fullmatch(r"(?:bytes[= ])?0-(\d{1,18})", answer.headers.get("Range", "").strip())
        if not match:
            return otherwise
        # Of an upload that nothing was written to, some say 0-0.
        reached = int(match[1]) + 1 if match[1] != "0" else 0
        if reached > self._size:
            raise UnreachableError("the registry has more of it than there is", where=self._where)
        return reached

    def _send(self, method: str, place: str, start: int, length: int) -> Answer:
        headers = {"Content-Type": _OCTETS}
        if method == "PATCH":
            headers["Content-Range"] = f"{start}-{start + length - 1}"
        return self._registry.ask(
            method,
            place,
            where=self._where,
            scopes=self._scopes,
            headers=headers,
            body=(lambda: Part(self._file, start, length)) if length else (lambda: b""),
            careful=True,
        )

    def _finished(self, place: str) -> str:
        parts = urlsplit(place)
        query = "&".join(filter(None, (parts.query, urlencode({"digest": self._digest}))))
        return parts._replace(query=query).geturl()

    def _refused(self, answer: Answer) -> StoreError:
        error = self._registry.refused(answer, self._where)
        if isinstance(error, NotFoundError) or answer.status == 416:
            return UnreachableError("the registry has lost the upload", where=self._where)
        if isinstance(error, CorruptError) and self._broken:
            return UnreachableError("the registry took a part twice", where=self._where)
        return error


def _behind(pieces: Iterator[bytes], skip: int) -> Iterator[bytes]:
    """The pieces without so many bytes at their beginning."""
    for piece in pieces:
        if skip < len(piece):
            yield piece[skip:]
        skip = max(0, skip - len(piece))


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


def read_index_blob(store: Store) -> bytes | None:
    """The JSON of the index, checked; None without an index. As ``OCIIndexFetcher`` of Spack 1.1.

    Raises CorruptError for one that is cut off, missing or of another digest.
    """
    key = manifest_key(INDEX_TAG)
    try:
        manifest = store.read(key)
    except NotFoundError:
        return None
    index = parse_image(manifest, f"{store.url}/{key}").layers[0]
    where = f"{store.url}/{index.blob.key}"
    if index.size_bytes > INDEX_BYTES:
        raise CorruptError(f"the index has more than {INDEX_BYTES} bytes", where=where)
    try:
        data = store.read(index.blob.key, max_bytes=index.size_bytes)
    except NotFoundError:
        raise CorruptError("the index names it, and it is not there", where=where) from None
    if len(data) != index.size_bytes or _digest(data) != index.digest:
        raise CorruptError("other bytes came than the index's manifest says", where=where)
    return data


def find_layer(store: Store, spec: Spec) -> Layer | None:
    """The layer of a spec's image, for the images of what depends on it; None without an image."""
    key = manifest_key(spec_tag(spec))
    try:
        image = parse_image(store.read(key), f"{store.url}/{key}")
        config = store.read(image.config.blob.key, max_bytes=SPEC_BYTES)
    except NotFoundError:
        return None
    return last_layer(image, config, f"{store.url}/{image.config.blob.key}")


def push_binary(  # noqa: PLR0913 - passed by name
    store: WritableStore,
    metadata: Metadata,
    tarball: Path,
    *,
    dependencies: Mapping[str, Layer],
    overwrite: bool = False,
    annotations: Mapping[str, str] | None = None,
    timestamp: str = "",
) -> Layer:
    """Make an image of a tarball on this disk, whose bytes the caller has verified.

    ``dependencies`` are the layers that are known to be there, by DAG hash; for others the
    registry is asked, and one that it has not is left out of the image, as Spack does it: Spack
    reads the last layer only. Blobs are sent first, the manifest last. Gives the package's layer,
    for the images to come.

    Raises ConflictError for a tag that is there (unless ``overwrite``), CorruptError for a tarball
    that is not gzip or metadata that is none, and what the store raises.
    """
    where = f"{store.url}: {tarball.name}"
    order = runtime_order(metadata, where)
    if not order or order[-1].hash != metadata.hash:
        raise StoreError("an external has no binary", where=where)
    spec = order[-1]
    key = manifest_key(spec_tag(spec))
    if not overwrite and store.exists(key):
        raise ConflictError("it is there already", where=f"{store.url}/{key}")
    own = _measure(tarball)
    store.upload(digest_key(own.checksum), tarball)
    found = (dependencies.get(one.hash) or find_layer(store, one) for one in order[:-1])
    layers = [*filter(None, found), own]
    source = _source(Environment.snapshot())
    config = image_config(
        metadata,
        layers,
        timestamp=timestamp or datetime.now().astimezone().isoformat(),
        labels={_SOURCE: source} if source else None,
    )
    store.write(descriptor(config, "").blob.key, config)
    notes = {
        "org.opencontainers.image.description": describe(spec),
        "org.opencontainers.image.version": spec.version,
        **({_SOURCE: source} if source else {}),
        **(annotations or {}),
    }
    manifest = image_manifest(config, layers, notes)
    if overwrite:
        store.write(key, manifest)
    else:
        store.create(key, manifest)
    return own


def _source(env: Mapping[str, str]) -> str:
    """The project whose job this is: GitHub links packages with it, and shows it."""
    if project := env.get("CI_PROJECT_URL"):
        return project
    server, name = env.get("GITHUB_SERVER_URL"), env.get("GITHUB_REPOSITORY")
    return f"{server}/{name}" if server and name else ""


def _measure(tarball: Path) -> Layer:
    """Size and both checksums of a packed tar file, in one pass."""
    unpacked = hashlib.sha256()
    with tarball.open("rb") as file:
        reader = _Hashing(file)
        try:
            with gzip.GzipFile(fileobj=reader) as packed:  # type: ignore[call-overload]
                while piece := packed.read(PIECE_BYTES):
                    unpacked.update(piece)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise CorruptError(f"it cannot be unpacked: {error}", where=str(tarball)) from None
        if not reader.size_bytes:
            raise CorruptError("it cannot be unpacked: it is empty", where=str(tarball))
        return Layer(reader.sum.hexdigest(), unpacked.hexdigest(), reader.size_bytes)


class _Hashing:
    """A file that hashes what is read of it, from beginning to end."""

    def __init__(self, file: IO[bytes]) -> None:
        self.sum = hashlib.sha256()
        self.size_bytes = 0
        self._file = file

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self.sum.update(piece)
        self.size_bytes += len(piece)
        return piece
