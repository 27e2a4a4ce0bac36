"""What a package's recipe says of it, read as text: nothing of a recipe is ever run."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from stackyard.url import split_url

__all__ = ["NOTHING", "About", "parse_about", "recipe_folder"]

_LONGEST = 600
_URL = re.compile(r"https?://[!-~]{1,500}")
#: Where packages of R have their pages, by the attribute that names them there.
_ARCHIVES = {
    "cran": "https://cloud.r-project.org/package=",
    "bioc": "https://bioconductor.org/packages/",
}


class About(NamedTuple):
    """``summary`` is the first paragraph of the docstring, on one line."""

    summary: str = ""
    homepage: str = ""  # http(s), or empty
    licenses: tuple[str, ...] = ()


NOTHING = About()


def recipe_folder(name: str) -> str:
    """The folder of a package's recipe in a repository of Spack 1.x: a name that Python can import."""
    module = name.replace("-", "_")
    return f"_{module}" if module[:1].isdigit() else module


def parse_about(source: bytes, name: str) -> About:
    """Docstring, homepage and licences of the package's class; nothing where it cannot be parsed.

    Only literals count: an expression would have to be run.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strange escapes in somebody's recipe
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return NOTHING
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    if not classes:
        return NOTHING
    recipe = next((one for one in classes if _plain(one.name) == _plain(name)), classes[-1])
    licenses = dict.fromkeys(text for text in _calls(recipe, "license") if text and len(text) < 200)
    return About(_summary(ast.get_docstring(recipe) or ""), _homepage(recipe), tuple(licenses))


def _summary(docstring: str) -> str:
    first = " ".join(docstring.strip().split("\n\n")[0].split())
    return first if len(first) <= _LONGEST else f"{first[: _LONGEST - 1].rstrip()}…"


def _plain(name: str) -> str:
    """``PyNumpy`` and ``py-numpy`` are one; beside it a recipe may have classes of its builders."""
    return re.sub(r"[-_]", "", name).lower()


def _homepage(recipe: ast.ClassDef) -> str:
    texts = dict(_literals(recipe))
    pages = [texts.get("homepage", "")]
    pages += [f"{place}{texts[name]}" for name, place in _ARCHIVES.items() if texts.get(name)]
    for page in pages:
        if _URL.fullmatch(page) and split_url(page).netloc:
            return urlsplit(page).geturl()
    return ""


def _literals(recipe: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Attributes that are texts."""
    for node in recipe.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for one in node.targets:
                if isinstance(one, ast.Name) and isinstance(node.value.value, str):
                    yield one.id, node.value.value


def _calls(recipe: ast.ClassDef, name: str) -> Iterator[str]:
    """First arguments of the calls of a directive."""
    for node in recipe.body:
        call = node.value if isinstance(node, ast.Expr) else None
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id == name
            and call.args
            and isinstance(call.args[0], ast.Constant)
            and isinstance(call.args[0].value, str)
        ):
            yield call.args[0].value
