"""Install trees, read out of the heads of tarballs: real ones, and some of our own making."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from conftest import DATA

from stackyard.edges.mirrors.layouts import list_manifests, read_binary
from stackyard.edges.mirrors.padding import root_of, sample_roots
from stackyard.edges.stores.folder import FileStore
from stackyard.errors import NotFoundError
from stackyard.mirror import Layout
from stackyard.padding import HEAD_BYTES, PLACEHOLDER, Root, install_root

HASH = "xiyd5fsmsnpihl36y7svftels4hbp6zj"
PACKAGE = f"linux-x86_64_v3/tiny-lib-1.1-{HASH}"


def packed(prefix: str, files: Sequence[str] = (".spack/spec.json",)) -> bytes:
    """A tarball as Spack makes it: the parents of the prefix, the prefix, what is in it."""
    parts = prefix.strip("/").split("/")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i in range(len(parts)):
            folder = tarfile.TarInfo("/".join(parts[: i + 1]))
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
        for name in files:
            file = tarfile.TarInfo("/".join((*parts, name)))
            file.size = 100_000
            tar.addfile(file, io.BytesIO(bytes(100_000)))
    return gzip.compress(buffer.getvalue(), mtime=0)


def padded(root: str, length: int) -> str:
    """What ``add_padding`` of Spack 1.1 gives (``util/path.py``)."""
    missing = length - len(root) - 1
    path = (f"{root}/" + f"{PLACEHOLDER}/" * (missing // 27) + PLACEHOLDER[: missing % 27])[:length]
    return path[:-1] + "_" if path.endswith("/") else path


CASES = {
    "plain": (f"/home/spack/store/{PACKAGE}", Root("/home/spack/store", padded=False)),
    "arch of Spack 0.23": (
        f"/opt/tree/linux-debian12-x86_64_v3/gcc-12.2.0/tiny-lib-1.1-{HASH}",
        Root("/opt/tree", padded=False),
    ),
    "projection without arch": (
        f"/opt/tree/tiny-lib/{HASH}",
        Root("/opt/tree/tiny-lib", padded=False),
    ),
    "short hash": (f"/o/tiny-lib-{HASH[:7]}", Root("/o", padded=False)),
    "hash first": (f"/o/{HASH[:8]}_tiny-lib/1.1", Root("/o", padded=False)),
    "the root itself": (f"/{PACKAGE}", Root("/", padded=False)),
    "the placeholder alone": (
        f"/o/{PLACEHOLDER}/{PACKAGE}",
        Root(f"/o/{PLACEHOLDER}", padded=True),
    ),
    "less than one placeholder": (
        f"/o/__spack_path_p/{PACKAGE}",
        Root("/o/__spack_path_p", padded=True),
    ),
    "a folder that only begins like one": (f"/o/__sp/{PACKAGE}", Root("/o/__sp", padded=False)),
}


@pytest.mark.parametrize(("prefix", "root"), CASES.values(), ids=CASES)
def test_root_is_read_from_the_names(prefix: str, root: Root) -> None:
    assert install_root(packed(prefix), HASH) == root


@pytest.mark.parametrize("length", [*range(64, 120), 128, 256, 512, 1024, 3000])
def test_padding_of_every_length_is_told_exactly(length: int) -> None:
    root = padded("/home/spack/store", length)
    assert len(root) == length
    found = install_root(packed(f"{root}/{PACKAGE}"), HASH)
    assert found == Root(root, padded=True)
    assert found.padding == found.path_length == length


def test_padding_of_an_unpadded_root_is_none() -> None:
    assert Root("/opt", padded=False).padding == 0


def test_head_of_a_large_tarball_is_enough() -> None:
    root = padded("/o", 3500)
    noise = Random(0).randbytes(100_000).hex()  # noqa: S311 - no secret
    data = packed(
        f"{root}/{PACKAGE}", [".spack/a", *(f"share/{noise[i : i + 60]}" for i in range(900))]
    )
    assert len(data) > HEAD_BYTES
    assert install_root(data[:HEAD_BYTES], HASH) == Root(root, padded=True)


NONSENSE = {
    "nothing": b"",
    "no gzip": b"hello" * 100,
    "cut gzip": packed(f"/o/{PACKAGE}")[:12],
    "no tar": gzip.compress(b"hello" * 1000),
    "an empty tar": gzip.compress(bytes(10240)),
    "another hash": packed(f"/o/{PACKAGE.replace(HASH, 'a' * 32)}"),
    "a bomb": gzip.compress(bytes(50_000_000)),
}


@pytest.mark.parametrize("data", NONSENSE.values(), ids=NONSENSE)
def test_what_does_not_tell_gives_none(data: bytes) -> None:
    assert install_root(data, HASH) is None


def test_a_forged_hash_that_looks_like_padding() -> None:
    """The folder of the package is no padding, whatever it is named."""
    forged = "placeholder".ljust(32, "a")
    assert install_root(packed(f"/opt/{PLACEHOLDER}"), forged) == Root("/opt", padded=False)


def test_damaged_heads_never_raise() -> None:
    random = Random(7)  # noqa: S311 - no secret
    text = bytearray(zlib.decompress(packed(f"{padded('/o', 80)}/{PACKAGE}"), wbits=31)[:6000])
    answers = []
    for _ in range(1500):
        changed = text.copy()
        for _ in range(random.randint(1, 8)):
            changed[random.randrange(len(changed))] = random.randrange(256)
        # Checksums of headers made right again, so that the damage is met and not passed over.
        for start in range(0, len(changed) - 512, 512):
            header = changed[start : start + 512]
            if header[257:262] != b"ustar":
                continue
            header[148:156] = b" " * 8
            changed[start + 148 : start + 156] = b"%06o\0 " % sum(header)
        answers.append(install_root(gzip.compress(changed, 1), HASH))
    assert any(answers)


REAL: dict[str, tuple[Layout, str]] = {
    "v3-unsigned": (3, "/home/spack/store"),
    "v3-signed": (3, "/home/spack/store"),
    "v2-unsigned": (2, "/home/spack/store023"),
    "v2-signed": (2, "/home/spack/store023"),
}


@pytest.mark.parametrize("name", REAL)
def test_real_mirrors_have_one_root(name: str) -> None:
    layout, root = REAL[name]
    roots = sample_roots(FileStore(DATA / "mirrors" / name), layout, 100)
    assert len(roots) == (7 if layout == 3 else 5)
    assert set(roots.values()) == {Root(root, padded=False)}


def test_sample_is_as_large_as_asked_for_and_always_the_same() -> None:
    store = FileStore(DATA / "mirrors" / "v3-unsigned")
    few = sample_roots(store, 3, 3)
    assert len(few) == 3
    assert few == sample_roots(store, 3, 3)
    assert sample_roots(store, 3, 0) == {}


def test_tarball_that_is_gone_is_an_error_of_one_binary(tmp_path: Path) -> None:
    real = FileStore(DATA / "mirrors" / "v3-unsigned")
    dag_hash, listed = next(list_manifests(real, 3))
    copy = FileStore(tmp_path)
    copy.write(listed.key, real.read(listed.key))
    binary = read_binary(copy, 3, listed.key, dag_hash)
    with pytest.raises(NotFoundError):
        root_of(copy, binary)
    assert sample_roots(copy, 3, 5) == {}
