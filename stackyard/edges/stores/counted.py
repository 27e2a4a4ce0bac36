"""A store that counts what is asked of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from stackyard.edges.stores.store import MANIFEST_BYTES, Listed, Versioned, WritableStore

__all__ = ["Counted"]

_PAGE = 1000  # keys that one request of a listing gives


class Counted:
    """Another store, and the number of requests to it; a listing is one for each 1,000 keys."""

    def __init__(self, store: WritableStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self.requests = 0

    def _asked(self) -> WritableStore:
        with self._lock:
            self.requests += 1
        return self._store

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def atomic(self) -> bool:
        return self._store.atomic

    def read(self, key: str, *, max_bytes: int = MANIFEST_BYTES) -> bytes:
        return self._asked().read(key, max_bytes=max_bytes)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return self._asked().read_range(key, start, length)

    def stream(self, key: str, start: int = 0) -> AbstractContextManager[Iterator[bytes]]:
        return self._asked().stream(key, start)

    def exists(self, key: str) -> bool:
        return self._asked().exists(key)

    def list(self, prefix: str = "") -> Iterator[Listed]:
        for number, listed in enumerate(self._asked().list(prefix), 1):
            if number % _PAGE == 0:
                self._asked()
            yield listed

    def write(self, key: str, data: bytes) -> None:
        self._asked().write(key, data)

    def upload(self, key: str, path: Path) -> None:
        self._asked().upload(key, path)

    def read_version(self, key: str, *, max_bytes: int = MANIFEST_BYTES) -> Versioned:
        return self._asked().read_version(key, max_bytes=max_bytes)

    def create(self, key: str, data: bytes) -> str:
        return self._asked().create(key, data)

    def replace(self, key: str, data: bytes, version: str) -> str:
        return self._asked().replace(key, data, version)

    def delete(self, key: str) -> None:
        self._asked().delete(key)

    def close(self) -> None:
        self._store.close()
