"""What a build sees of a project: a tar archive, without what ``.dockerignore`` keeps out."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from stackyard.errors import ConfigError

__all__ = ["write_context"]


def write_context(
    file: IO[bytes], root: Path, patterns: Sequence[str], name: str, dockerfile: str
) -> None:
    """Write the archive, in which the Dockerfile is called ``name``.

    ``patterns`` are lines of a ``.dockerignore``. Nobody's name and no time gets in, so that the
    engine's cache holds on any machine. Raises ConfigError for a file that cannot be read.
    """
    from docker.utils.build import exclude_paths

    with tarfile.open(fileobj=file, mode="w") as archive:
        for path in sorted(exclude_paths(str(root), list(patterns), dockerfile=name)):
            _add(archive, root, path)
        _add_bytes(archive, name, dockerfile.encode())


def _add(archive: tarfile.TarFile, root: Path, path: str) -> None:
    full = root / path
    try:
        if full.is_socket():
            return
        entry = archive.gettarinfo(str(full), arcname=path)
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = 0
        # Where the clone was made with another umask the same files have other rights.
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        if entry.isreg():
            with full.open("rb") as data:
                archive.addfile(entry, data)
        elif entry.isdir() or entry.issym():
            archive.addfile(entry)
        elif entry.islnk():
            _add_bytes(archive, path, full.read_bytes(), entry.mode)
    except OSError as error:
        raise ConfigError(
            f"cannot read it for the build: {os.strerror(error.errno or 0)}", where=path
        ) from None


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))
