"""The licence of a package, from the recipe that its tarball carries along."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from conftest import DATA
from fake_registry import fake_registry
from test_oci import image_of, tagged

from stackyard.binary import parse_metadata
from stackyard.edges.mirrors.images import push_binary
from stackyard.edges.stores.oci import OciStore
from stackyard.edges.stores.store import Access
from stackyard.licence import HEAD_BYTES, licence_in, packed_recipe

RECIPE = 'class Zlib(Package):\n    """Text."""\n\n    {}\n\n    version("1.3")\n'
LINES: dict[str, tuple[str, str]] = {
    "plain": ('license("Zlib")', "Zlib"),
    "single quotes": ("license('Zlib')", "Zlib"),
    "an expression": ('license("Apache-2.0 OR (MIT AND BSD-3-Clause)")', "Apache-2.0 OR (MIT AND BSD-3-Clause)"),
    "or later": ('license("GPL-2.0-or-later WITH x+")', "GPL-2.0-or-later WITH x+"),
    "checked": ('license("MIT", checked_by="somebody")', "MIT"),
    "checked by several": ('license("MIT", checked_by=["a", "b"])', "MIT"),
    "in lines": ('license(\n        "MIT",\n        checked_by="somebody",\n    )', "MIT"),
    "conditional": ('license("MIT", when="@2:")', ""),
    "checked and conditional": ('license("MIT", checked_by="a", when="@2:")', ""),
    "several": ('license("MIT", when="@2:")\n    license("Zlib")', ""),
    "computed": ("license(NAME)", ""),
    "none": ("", ""),
    "a comment": ('# license("MIT")', ""),
    "markup": ('license("<b>")', ""),
    "not closed": ('license("MIT', ""),
    "endless": (f'license("{"a" * 10_000}")', ""),
}  # fmt: skip


@pytest.mark.parametrize(("line", "licence"), LINES.values(), ids=LINES)
def test_licences(line: str, licence: str) -> None:
    assert licence_in(RECIPE.format(line)) == licence


def tarball(*names: str, text: str = "the recipe", link: bool = False) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            if link:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            data = b"" if link else text.encode()
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


FOLDER = "opt/tree/linux-zen2/a-1-x/.spack/repos"
PLACES: dict[str, tuple[str, str, str]] = {
    "of Spack 1": (f"{FOLDER}/spack_repo/builtin/packages/py_a/package.py", "py-a", "the recipe"),
    "of Spack 0.23": (f"{FOLDER}/builtin/packages/py-a/package.py", "py-a", "the recipe"),
    "a digit": (f"{FOLDER}/spack_repo/builtin/packages/_7zip/package.py", "7zip", "the recipe"),
    "of another package": (f"{FOLDER}/builtin/packages/gcc/package.py", "py-a", ""),
    "of the package itself": ("opt/a/lib/packages/py_a/package.py", "py-a", ""),
    "elsewhere": (f"{FOLDER}/py_a/package.py", "py-a", ""),
}


@pytest.mark.parametrize(("path", "name", "text"), PLACES.values(), ids=PLACES)
def test_where_recipes_lie(path: str, name: str, text: str) -> None:
    assert packed_recipe(tarball("opt/x", path), name) == text


def test_what_is_no_tarball() -> None:
    path = PLACES["of Spack 1"][0]
    whole = tarball(path, text="x" * 5000)
    assert packed_recipe(whole, "py-a") == "x" * 5000
    for data in (b"", b"x", whole[:40], gzip.compress(b"x" * 600), tarball(path, link=True)):
        assert packed_recipe(data, "py-a") == ""
    # A recipe that is cut off tells less than it seems to.
    noise = "".join(chr(33 + i * i % 90) for i in range(5000))
    cut = tarball(path, text=noise)
    assert packed_recipe(cut[: len(cut) // 2], "py-a") == ""


def test_in_what_spack_packed() -> None:
    found = set()
    for path in (DATA / "oci-tiny" / "blobs").rglob("*"):
        if path.is_file() and path.read_bytes()[:2] == b"\x1f\x8b":
            head = path.read_bytes()[:HEAD_BYTES]
            for name in ("tiny-app", "tiny-tool", "tiny-lib", "tiny-base", "tiny-data"):
                found |= {name} if "class" in packed_recipe(head, name) else set()
    assert found == {"tiny-app", "tiny-tool", "tiny-lib", "tiny-base", "tiny-data"}


def test_it_stands_on_the_image(tmp_path: Path) -> None:
    _, _, config = image_of(tagged("tiny-app"))
    metadata = parse_metadata(config, "x")
    path = tmp_path / "app.tar.gz"
    recipe = RECIPE.format('license("Zlib", checked_by="me")')
    path.write_bytes(tarball(f"{FOLDER}/spack_repo/tiny/packages/tiny_app/package.py", text=recipe))
    with fake_registry() as server:
        store = OciStore(server.mirror("org/tiny"), Access())
        push_binary(store, metadata, path, dependencies={})
        store.close()
        ((_, manifest),) = server.repository("org/tiny").manifests.values()
    assert json.loads(manifest)["annotations"]["org.opencontainers.image.licenses"] == "Zlib"
