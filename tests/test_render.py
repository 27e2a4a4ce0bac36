"""What goes into a CI file comes out of every YAML reader as it went in."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stackyard.render import block, quote, render

Reader = Callable[[str], Any]


def _yaml_1_2(text: str) -> Any:
    """The value as a reader of YAML 1.2 sees it."""
    ruamel = pytest.importorskip("ruamel.yaml", reason="ruamel.yaml is not installed")
    return ruamel.YAML(typ="safe", pure=True).load(io.StringIO(text))


def _libyaml(text: str) -> Any:
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506


READERS: dict[str, Reader] = {
    "yaml 1.1": lambda text: yaml.load(text, Loader=yaml.SafeLoader),
    "yaml 1.1, libyaml": _libyaml,
    "yaml 1.2": _yaml_1_2,
}
readers = pytest.mark.parametrize("read", READERS.values(), ids=READERS)

LOOKS = (
    "yes no on off y n true null ~ << = 0x1F 1e3 010 0o7 1_000 12:30 .inf .nan # &a *a !!str ? %"
)
WORDS = st.sampled_from(
    [
        *LOOKS.split(),
        "2026-11-21",
        "- a",
        "a: b",
        *"\x85\u2028\ufeff\x7f\x00\U0001f600'\"\\\t",
        "a\n b\n",
    ]
)
TEXTS = st.one_of(st.text(max_size=40), WORDS, st.lists(WORDS, max_size=4).map("".join))
FLOATS = st.floats(allow_nan=False)
SCALARS = st.one_of(TEXTS, st.none(), st.booleans(), st.integers(), FLOATS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equal in value and in type, all the way down: 1, 1.0 and true differ here."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b))


@readers
@given(value=VALUES)
@example(value=[1e16, 1e-7, 5e-324, 1.5e300, -0.0, math.inf, -math.inf])
@example(value="".join(map(chr, [*range(0xD800), *range(0xE000, 0x10000), 0x10FFFF])))
@settings(max_examples=80, deadline=None)
def test_quote(read: Reader, value: Any) -> None:
    assert same(read(quote(value)), value)
    assert same(read(f"key: {quote(value)}  # comment\n"), {"key": value})
    assert "\n" not in quote(value)


@readers
@given(value=VALUES, indent=st.integers(0, 6))
@settings(max_examples=80, deadline=None)
def test_block(read: Reader, value: Any, indent: int) -> None:
    pad = " " * indent
    text = f"{pad}key:{block(value, indent + 2)}\n{pad}next: 1\n"
    assert same(read(text), {"key": value, "next": 1})


@given(value=VALUES)
@settings(deadline=None)
def test_quote_is_json(value: Any) -> None:
    """Where JSON has a way to say it."""
    text = quote(value)
    if not re.search(r"\.inf\b", text):
        assert same(json.loads(text), value)


def test_not_a_number() -> None:
    assert [math.isnan(read(quote(math.nan))) for read in READERS.values()] == [True] * 3


KEYS = [
    ("plain", "plain"),
    ("SPACK_JOB_1", "SPACK_JOB_1"),
    ("yes", '"yes"'),
    ("N", '"N"'),
    ("null", '"null"'),
    ("a-b", '"a-b"'),
    ("1a", '"1a"'),
    ("<<", '"<<"'),
    ("", '""'),
    ("a\n", '"a\\n"'),
    (1, '"1"'),
    (True, '"true"'),
    (1.5, '"1.5"'),
    (None, '"null"'),
]


@pytest.mark.parametrize(("key", "text"), KEYS)
def test_keys(key: object, text: str) -> None:
    assert block({key: 1}) == f"\n{text}: 1"


def test_layout() -> None:
    value = {
        "image": {"name": "x", "entrypoint": [""]},
        "script": ["a", "b" * 70],
        "rules": [{"if": "$A", "when": "always"}, {"when": "never"}],
        "nested": [["a"], []],
        "empty": {},
        "none": None,
    }
    assert f"job:{block(value, 2)}" == (
        "job:\n"
        "  image:\n"
        '    name: "x"\n'
        '    entrypoint: [""]\n'
        "  script:\n"
        '    - "a"\n'
        f'    - "{"b" * 70}"\n'
        "  rules:\n"
        '    - if: "$A"\n'
        '      when: "always"\n'
        '    - when: "never"\n'
        "  nested:\n"
        '    - ["a"]\n'
        "    - []\n"
        "  empty: {}\n"
        "  none: null"
    )


def test_an_anchor_stands_for_a_long_text() -> None:
    text = "a\nb: *c" * 20
    value = {"before_script": [text, "b", [text]], "script": [text + "!"], "more": {"x": text}}
    whole = f"anchor: &long {quote(text)}\njob:{block(value, 2, {text: 'long'})}\n"
    for read in READERS.values():
        assert same(read(whole), {"anchor": text, "job": value})
    assert whole.count("*long") == 3


TEMPLATES = {
    "x": "{{ a | json }} {{ b | key }}:{{ c | block(2) }}\n",
    "outer": "{% include 'x' %}\n",
    "gap": "{{ missing }}",
}


def test_render() -> None:
    values = {"a": "{{ a }}", "b": "on", "c": ["<&>"]}
    assert render("x", TEMPLATES.get, values) == '"{{ a }}" "on": ["<&>"]\n'
    assert render("outer", TEMPLATES.get, values) == '"{{ a }}" "on": ["<&>"]\n'


def test_gaps_are_errors() -> None:
    jinja2 = pytest.importorskip("jinja2")
    with pytest.raises(jinja2.UndefinedError, match="'missing' is undefined"):
        render("gap", TEMPLATES.get, {})
    with pytest.raises(jinja2.TemplateNotFound, match="nowhere"):
        render("nowhere", TEMPLATES.get, {})
