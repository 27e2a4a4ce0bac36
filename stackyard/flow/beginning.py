"""What the stack of a new project begins as: somebody's manifest with its lock, or our own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stackyard.edges.files import read_bytes
from stackyard.edges.stacks import MANIFEST
from stackyard.errors import ConfigError, NotFoundError, StackError, StoreError
from stackyard.flow.steps import PINS

if TYPE_CHECKING:
    from stackyard.lock import Lock

__all__ = ["LOCK", "STARTER", "Beginning", "read_beginning"]

LOCK = "spack.lock"
STARTER = "starter"

_MANIFEST_BYTES = 2**20
_LOCK_BYTES = 2**28


class Beginning(NamedTuple):
    """``beside`` are the files that came along, by name; ``lock`` is the parsed one of them."""

    manifest: str
    where: str
    name: str
    beside: dict[str, bytes]
    lock: Lock | None


def read_beginning(source: str) -> Beginning:
    """Read what ``--from`` names: a file, a folder, a URL; the starter if it is empty.

    Raises ConfigError for what cannot be read that way, StackError and LockError for what is wrong
    in it, StoreError for a URL that gives nothing.
    """
    if not source:
        return _starter()
    path = Path(source).expanduser().absolute()
    if path.exists() or ("://" not in source and "@" not in source):
        return _from_disk(path / MANIFEST if path.is_dir() else path)
    return _from_url(source)


def _starter() -> Beginning:
    """A small stack, with a lock that Spack made of it."""
    from stackyard.edges.templates import load_template

    texts = {
        name: (load_template(f"init/{STARTER}/{name}", Path.cwd()) or "").encode()
        for name in (MANIFEST, LOCK, PINS)
    }
    return _checked(texts.pop(MANIFEST), MANIFEST, STARTER, texts.__getitem__)


def _from_disk(path: Path) -> Beginning:
    def beside(name: str) -> bytes:
        other = path.with_name(name)
        if not other.is_file():
            raise NotFoundError("no such file", where=str(other))
        return read_bytes(other, limit_bytes=_LOCK_BYTES)

    data = read_bytes(path, StackError, limit_bytes=_MANIFEST_BYTES)
    return _checked(data, str(path), path.parent.name, beside)


def _from_url(source: str) -> Beginning:
    from stackyard.edges.stores.store import open_store
    from stackyard.skeleton import parse_published

    place = parse_published(source, MANIFEST)
    try:
        with closing(open_store(place.folder)) as store:
            data = store.read(place.file, max_bytes=_MANIFEST_BYTES)

            def beside(name: str) -> bytes:
                return store.read(name, max_bytes=_LOCK_BYTES)

            return _checked(data, f"{store.url}/{place.file}", place.name, beside)
    except StoreError as error:
        error.hint = "--from takes a file, a folder, or the URL of a spack.yaml or of its folder"
        raise


def _checked(data: bytes, where: str, name: str, beside: Callable[[str], bytes]) -> Beginning:
    """The manifest with what lies ``beside`` it; that raises NotFoundError for what does not."""
    from stackyard.document import parse_yaml
    from stackyard.skeleton import outside_paths

    try:
        text = data.decode()
    except UnicodeDecodeError as problem:
        raise StackError(f"not UTF-8: {problem.reason}", where=where) from None
    document = parse_yaml(text, where, error=StackError)
    if outside := outside_paths(document if isinstance(document, dict) else {}):
        raise ConfigError(
            f"it needs what init does not bring along: {', '.join(outside)[:300]}",
            where=where,
            hint="make stacks/NAME/ yourself, with the manifest and these beside it; then run: "
            "stackyard generate",
        )
    files: dict[str, bytes] = {}
    for other in (LOCK, PINS):
        try:
            files[other] = beside(other)
        except NotFoundError:
            continue
    lock = None
    if LOCK in files:
        from stackyard.lock import parse_lock

        lock = parse_lock(files[LOCK], f"{where.rpartition('/')[0]}/{LOCK}")
    else:
        files.pop(PINS, None)
    return Beginning(text, where, name, files, lock)
