"""Lay the files of an image out in folders, a folder to a layer, without a second copy of any."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from stackyard.edges.mirrors.destination import EPOCH_S
from stackyard.edges.stores.folder import unwritable
from stackyard.image import MIRROR, File

__all__ = ["write_tree"]


def write_tree(root: Path, files: Iterable[File], mirror: Path) -> int:
    """Make the folder hold just these files; what is in the mirror gets a second name there.

    Files and folders have one time, and modes that depend on no umask. Gives the number of bytes.
    Raises StoreError for a folder that cannot be written to.
    """
    try:
        if root.is_symlink():
            root.unlink()
        if root.exists():
            shutil.rmtree(root)
        # Docker without BuildKit fails at the COPY that follows one which copies nothing at all.
        (root / MIRROR).mkdir(parents=True)
        size_bytes = sum(_place(root / file.path, file, mirror) for file in files)
        for folder, _, _ in os.walk(root, topdown=False):
            Path(folder).chmod(0o755)
            os.utime(folder, (EPOCH_S, EPOCH_S))
    except OSError as error:
        raise unwritable(error, str(error.filename or root)) from None
    return size_bytes


def _place(path: Path, file: File, mirror: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(file.content, bytes):
        path.write_bytes(file.content)
        path.chmod(file.mode)
        os.utime(path, (EPOCH_S, EPOCH_S))
        return len(file.content)
    assert file.content  # noqa: S101 - whoever wants a user's folders makes them by other means
    source = mirror / file.content
    linked = False
    with suppress(OSError):  # a file system without hard links
        os.link(source, path)
        linked = True
    if not linked:
        source.rename(path)
    return path.stat().st_size
