"""Mirrors and sites for tests: a small one with dates, and folders as mappings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import mirrors
import pytest

from stackyard.catalogue.schema import SCHEMA

#: 2024-03-01 00:00 UTC
MARCH = 1_709_251_200
DAY = 86_400

NEEDS: Mapping[str, Sequence[str]] = {
    "gcc": [],
    "zlib": ["gcc"],
    "con": ["zlib"],
    "hdf5": ["zlib", "gcc"],
    "app": ["hdf5", "con"],
}
NODES = mirrors.specs(NEEDS, external=["gcc"])
BINARIES = ("zlib", "con", "hdf5", "app")

#: Tries to be markup and script, wherever it is shown.
HOSTILE = "<img src=x onerror=\"document.title='owned'\"></script><script>alert(1)</script> ]]> '\""


def fill(folder: Path, nodes: mirrors.Nodes = NODES, names: Sequence[str] = BINARIES) -> Path:
    """A mirror of layout 3 without an index; a binary each day from March 2024 on."""
    for number, name in enumerate(names):
        for path in mirrors.push(folder, nodes, name):
            stamp(path, MARCH + number * DAY)
    return folder


def stamp(path: Path, seconds: int) -> None:
    os.utime(path, (seconds, seconds))


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a site but its lock, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".stackyard" not in path.parts
    }


def shown(folder: Path) -> dict[str, bytes]:
    """The same without the state, which knows of inodes."""
    return {path: data for path, data in contents(folder).items() if path != "api/v1/state.json"}


def is_valid(document: Any) -> bool:
    """Whether a document of the API keeps to its schema."""
    jsonschema = pytest.importorskip("jsonschema", reason="check-jsonschema is not installed")
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(document))


class Page(HTMLParser):
    """The tags, links, ids and text of a page; ``scripts`` are those with content of their own."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.attributes: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.append(name)
            if name in ("href", "src") and value:
                self.links.append(value)
            if name == "id" and value:
                self.ids.append(value)

    def handle_data(self, data: str) -> None:
        self.text += data
