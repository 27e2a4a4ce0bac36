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


def parse_about(source: bytes) -> About:
    """Docstring, homepage and licences of the recipe's class; nothing where it cannot be parsed.

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
    recipe = classes[-1]  # those before it help it
    licenses = dict.fromkeys(text for text in _calls(recipe, "license") if text and len(text) < 200)
    return About(_summary(ast.get_docstring(recipe) or ""), _homepage(recipe), tuple(licenses))


def _summary(docstring: str) -> str:
    first = " ".join(docstring.strip().split("\n\n")[0].split())
    return first if len(first) <= _LONGEST else f"{first[: _LONGEST - 1].rstrip()}…"


def _homepage(recipe: ast.ClassDef) -> str:
    for node in recipe.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            named = any(isinstance(one, ast.Name) and one.id == "homepage" for one in node.targets)
            text = node.value.value
            if named and isinstance(text, str) and _URL.fullmatch(text) and split_url(text).netloc:
                return urlsplit(text).geturl()
    return ""


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
