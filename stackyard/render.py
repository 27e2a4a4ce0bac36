"""Turn values into the text of CI files with Jinja templates.

Templates only arrange. Every scalar goes through the ``json`` filter, so that nothing from a lock
or a manifest can become YAML structure; nested values go through ``block``.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

__all__ = ["block", "quote", "render"]

#: Text that is the same between double quotes in JSON and YAML, escapes or not.
_PLAIN = re.compile(r"[ !#-\[\]-~]*")
#: What JSON may leave as it is and YAML must not see: what is not printable (YAML 1.2, 5.1), and
#: what YAML 1.1 takes for the end of a line.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")

_NONE: Mapping[str, str] = MappingProxyType({})


def quote(value: object) -> str:
    """A scalar, or a value in flow style, as JSON that YAML 1.1 and 1.2 read alike."""
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return f'"{value}"'
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_quoted_key(k)}: {quote(item)}' for k, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(quote, value))}]"
    if isinstance(value, float):
        return _float(value)
    return _UNPRINTABLE.sub(_escape, json.dumps(value, ensure_ascii=False))


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found.group()):04x}"


def _quoted_key(key: object) -> str:
    return quote(key if isinstance(key, str) else json.dumps(key))


def _float(value: float) -> str:
    """YAML 1.1 wants a point in every number that is not whole, and other words for infinity."""
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    mantissa, exponent, power = repr(value).partition("e")
    return f"{mantissa}{'' if '.' in mantissa else '.0'}{exponent}{power}"


def block(value: object, indent: int = 0, anchors: Mapping[str, str] = _NONE) -> str:
    """A nested value in block style, to stand behind a key and its colon.

    Short lists of scalars stay on one line. For texts in ``anchors`` the alias stands there, by the
    name that they have in it.
    """
    pad = "\n" + " " * indent
    if isinstance(value, Mapping) and value:
        return "".join(
            f"{pad}{_key(key)}:{block(item, indent + 2, anchors)}" for key, item in value.items()
        )
    if isinstance(value, (list, tuple)) and value:
        flow = quote(value)
        if len(flow) <= 60 and not any(isinstance(item, (Mapping, list)) for item in value):
            return f" {flow}"
        return "".join(f"{pad}-{_item(item, indent + 2, anchors)}" for item in value)
    if isinstance(value, str) and value in anchors:
        return f" *{anchors[value]}"
    return f" {quote(value)}"


def _item(item: object, indent: int, anchors: Mapping[str, str]) -> str:
    """An entry of a list: a mapping's first key stands behind the dash."""
    if isinstance(item, Mapping) and item:
        return " " + block(item, indent, anchors).lstrip()
    return block(item, indent, anchors)


_SIMPLE_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_YAML_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


@functools.lru_cache(maxsize=1024, typed=True)
def _key(key: object) -> str:
    """A key of a mapping: bare where no YAML reader could take it for anything but text."""
    if isinstance(key, str) and _SIMPLE_KEY.fullmatch(key) and key.lower() not in _YAML_WORDS:
        return key
    return _quoted_key(key)


def render(name: str, load: Callable[[str], str | None], values: Mapping[str, Any]) -> str:
    """Render the template ``name`` with ``values``; ``load`` gives a template's text by name.

    A template that fails is a defect of ours, or of the project's own template, and raises
    Jinja's error as it is.
    """
    return _environment(load).get_template(name).render(values)


def _environment(load: Callable[[str], str | None]) -> jinja2.Environment:
    import jinja2  # 60 ms that only rendering tasks pay

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - YAML, not HTML: see the module's docstring
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
    environment.filters["json"] = quote
    environment.filters["block"] = block
    environment.filters["key"] = _key
    return environment
