"""What a base's system says of its users: a few files, looked up in its layers from the top."""

from __future__ import annotations

import base64
import hashlib
import json
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from stackyard.accounts import FILES, SKELETON
from stackyard.edges.files import write_files
from stackyard.edges.images.base import Base
from stackyard.edges.images.supply import Supply
from stackyard.errors import CorruptError, StackyardError
from stackyard.image import File

__all__ = ["read_system"]

_LARGEST = 2**20
_OPAQUE = ".wh..wh..opq"
_WHITEOUT = ".wh."


def read_system(base: Base, cache: Path) -> Mapping[str, File]:
    """Files by path: those of users and groups, and what new homes begin with.

    They are remembered in ``cache``: a base has many bytes, and they say the same each time.
    Raises CorruptError for a layer that cannot be read.
    """
    chain = hashlib.sha256("\n".join(base.config.diff_ids).encode()).hexdigest()
    path = cache / "systems" / f"{chain}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        return _parse(path.read_bytes())
    found: dict[str, File] = {}
    hidden: set[str] = set()
    for supply in reversed(base.supplies):
        files, gone = _look(supply)
        for name, file in files.items():
            if name not in found and not _is_hidden(name, hidden):
                found[name] = file
        hidden |= gone
    with suppress(StackyardError):  # the next run looks again
        write_files({path: _dump(found)})
    return found


def _is_hidden(name: str, hidden: set[str]) -> bool:
    parts = name.split("/")
    return any("/".join(parts[:end]) in hidden for end in range(1, len(parts) + 1))


def _look(supply: Supply) -> tuple[dict[str, File], set[str]]:
    """What a layer holds of that, and what it hides of the layers below."""
    files: dict[str, File] = {}
    gone: set[str] = set()
    try:
        with supply.opened() as raw, tarfile.open(fileobj=raw, mode="r|*") as tar:
            for member in tar:
                name = member.name.removeprefix("./").strip("/")
                folder, _, last = name.rpartition("/")
                if last == _OPAQUE:
                    gone.add(folder)
                elif last.startswith(_WHITEOUT):
                    gone.add(f"{folder}/{last[len(_WHITEOUT) :]}".strip("/"))
                elif name in FILES or name.startswith(SKELETON):
                    file = _file(tar, member, name)
                    files |= {name: file} if file else {}
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CorruptError(
            f"the layer cannot be read: {error}",
            where=supply.descriptor.digest,
            hint="layers are read if they are plain or packed with gzip, as nearly all are",
        ) from None
    return files, gone


def _file(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> File | None:
    owner = (member.uid, member.gid)
    if member.isdir():
        return File(name, None, member.mode, owner)
    content = tar.extractfile(member) if member.isreg() and member.size <= _LARGEST else None
    return File(name, content.read(), member.mode, owner) if content else None


def _dump(files: Mapping[str, File]) -> bytes:
    rows = [
        [
            file.path,
            base64.b64encode(file.content).decode() if isinstance(file.content, bytes) else None,
            file.mode,
            list(file.owner),
        ]
        for file in files.values()
    ]
    return json.dumps(rows).encode()


def _parse(data: bytes) -> Mapping[str, File]:
    files = (
        File(str(path), None if text is None else base64.b64decode(text), int(mode), (uid, gid))
        for path, text, mode, (uid, gid) in json.loads(data)
    )
    return {file.path: file for file in files}
