"""What the pages say holds: links lead somewhere, examples are read, keys and tasks exist."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from pipelines import load

from stackyard import tasks
from stackyard.document import dump_yaml
from stackyard.settings import check_settings
from stackyard.stack import parse_manifest

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub and GitLab make them."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def blocks(page: str, language: str) -> Iterator[str]:
    """Code of one language, free of the indentation that a list gives it."""
    for indent, name, code in _FENCE.findall(text_of(page)):
        if name == language:
            yield "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True))


@pytest.mark.parametrize("page", NAMES)
def test_links(page: str) -> None:
    for link in _LINK.findall(text_of(page)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = Path(os.path.normpath((ROOT / page).parent / path)) if path else ROOT / page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def examples() -> list[tuple[str, dict[str, Any]]]:
    """Blocks of YAML that begin as our files and Spack's do."""
    return [
        (page, load(code))
        for page in NAMES
        for code in blocks(page, "yaml")
        if re.search(r"^(spack|stackyard):", code, re.MULTILINE)
    ]


def test_examples_are_read() -> None:
    """A manifest in an example may leave out what the page is not about."""
    count = 0
    for page, document in examples():
        if "stackyard" in document:
            check_settings(document["stackyard"], page)
            count += 1
        else:
            parse_manifest(dump_yaml(document), page)
            count += 1
    assert count > 10


@pytest.mark.parametrize("page", NAMES)
def test_tasks_exist(page: str) -> None:
    if page == "CHANGELOG.md":
        return
    named = set(
        re.findall(r"\b(?:invoke|stackyard) ([a-z]+(?:\.[a-z]+)?)(?=[ `\n;)])", text_of(page))
    )
    code = "\n".join(blocks(page, "sh"))
    called = set(re.findall(r"^(?:invoke|stackyard) ([a-z.]+)", code, re.MULTILINE))
    assert called <= set(tasks.namespace.task_names)
    dotted = {name for name in named if "." in name}
    assert dotted <= set(tasks.namespace.task_names)
