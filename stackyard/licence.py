"""The licence of a package, as far as its binary tells: Spack packs the recipe along.

A spec does not know its licence, the recipe's ``license()`` does. Recipes are strangers' code: one is
searched for a line of the usual form and never run.
"""

from __future__ import annotations

import io
import re
import tarfile
import zlib

__all__ = ["HEAD_BYTES", "licence_in", "packed_recipe"]

#: So much of a tarball mostly holds the recipe; before it comes the log of the build.
HEAD_BYTES = 2**20

_UNPACKED_BYTES = 2**24
_RECIPE_BYTES = 2**20
_MEMBERS = 20_000

_DIRECTIVE = re.compile(r"^[ \t]+license\(", re.MULTILINE)
_PLAIN = re.compile(
    r"""^[ \t]+license\(\s*(?P<quote>["'])(?P<text>[A-Za-z0-9.+() -]{1,200})(?P=quote)"""
    r"""\s*(?:,\s*checked_by\s*=\s*(?:"[^"\n]*"|'[^'\n]*'|\[[^\]]*\]|\([^)]*\))\s*)?,?\s*\)""",
    re.MULTILINE,
)


def packed_recipe(tar_head: bytes, name: str) -> str:
    """The recipe of a package in the first bytes of its tarball, as stored (gzip); else empty.

    As ``dump_packages`` in ``installer.py`` of Spack 1.1 lays it there, beside those of all that
    the package depends on. Folders are named as Python names modules since Spack 1.0.
    """
    module = name.replace("-", "_")
    folders = {name, module, f"_{module}"}
    try:
        text = zlib.decompressobj(wbits=31).decompress(tar_head, _UNPACKED_BYTES)
        with tarfile.open(fileobj=io.BytesIO(text), mode="r:") as tar:
            for _, member in zip(range(_MEMBERS), tar, strict=False):
                parts = member.name.split("/")
                if parts[-1] != "package.py" or ".spack" not in parts or not member.isreg():
                    continue
                if parts[-3:-2] == ["packages"] and parts[-2] in folders:
                    file = tar.extractfile(member)
                    data = file.read(_RECIPE_BYTES) if file else b""
                    return data.decode("utf-8", "replace") if len(data) == member.size else ""
    except (zlib.error, tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError):
        pass
    return ""


def licence_in(recipe: str) -> str:
    """The SPDX expression of a recipe with one ``license()`` that holds always; empty for others.

    Where there are several, or one with a condition, versions and variants decide.
    """
    if len(_DIRECTIVE.findall(recipe)) != 1:
        return ""
    match = _PLAIN.search(recipe)
    return match["text"].strip() if match else ""
