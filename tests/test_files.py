"""Files: whole or not at all, and errors without a traceback."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from stackyard.edges.files import read_bytes, write_files
from stackyard.errors import StackError, StackyardError


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bytes(path) == b"12345"
    assert read_bytes(path, limit_bytes=5) == b"12345"


@pytest.mark.parametrize("name", ["missing", ".", "a/b", "a\0b"])
def test_read_fails(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(StackError, match="cannot read it"):
        read_bytes(tmp_path / name, StackError)


def test_read_too_large(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    with pytest.raises(StackyardError, match="larger than 4 bytes"):
        read_bytes(tmp_path / "a", limit_bytes=4)


def test_write_makes_folders_and_says_what_changed(tmp_path: Path) -> None:
    files: dict[str | Path, bytes] = {tmp_path / "a/b/c": b"1", str(tmp_path / "d"): b"2"}
    assert write_files(files) == (tmp_path / "a/b/c", tmp_path / "d")
    assert content(tmp_path) == {"a/b/c": b"1", "d": b"2"}
    before = (tmp_path / "d").stat()
    assert write_files({**files, tmp_path / "a/b/c": b"3"}) == (tmp_path / "a/b/c",)
    assert (tmp_path / "d").stat().st_ino == before.st_ino


def test_write_keeps_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "run.sh"
    path.write_bytes(b"old")
    path.chmod(0o750)
    write_files({path: b"new"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert path.read_bytes() == b"new"


def test_write_follows_links(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    write_files({tmp_path / "link": b"new"})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


UNWRITABLE = ["folder", "file/below", "a\0b", "x" * 300]


@pytest.mark.parametrize("name", UNWRITABLE, ids=["folder", "below a file", "nul", "long"])
def test_write_fails_and_changes_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"f")
    before = content(tmp_path)
    with pytest.raises(StackyardError, match="cannot write it"):
        write_files({tmp_path / "first": b"1", tmp_path / "file": b"2", tmp_path / name: b"3"})
    assert content(tmp_path) == before


def test_disk_full_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"old")
    real = Path.open

    class Full(io.BytesIO):
        def write(self, data: Any) -> int:  # noqa: ARG002
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def fileno(self) -> int:
            return self.descriptor

        descriptor = -1

    def open_(self: Path, mode: str = "r", **options: Any) -> Any:
        file: Any = real(self, mode, **options)
        if mode == "xb" and ".b." in self.name:
            full = Full()
            full.descriptor = file.fileno()
            file.close()
            return full
        return file

    monkeypatch.setattr(Path, "open", open_)
    with pytest.raises(StackyardError, match="no space left on device"):
        write_files({tmp_path / "a": b"new", tmp_path / "b": b"x"})
    monkeypatch.undo()
    assert content(tmp_path) == {"a": b"old"}


def test_failing_rename_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, target: Path) -> Path:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StackyardError, match="read-only file system"):
        write_files({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert content(tmp_path) == {}


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_files({pipe: b"through", tmp_path / "file": b"beside"})
    reader.join(timeout=10)
    assert got == [b"through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert (tmp_path / "file").read_bytes() == b"beside"
