"""YAML: scalars as Spack reads them, hostile files refused with a place, and a dump that comes back."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stackyard.document import MAX_DEPTH, dump_yaml, parse_yaml
from stackyard.errors import ConfigError, StackError

#: Plain scalar, its type for Spack 1.1's own loader, its value (floats as their repr).
SCALARS = json.loads((Path(__file__).parent / "data/document/scalars.json").read_text())


def kind_of(value: Any) -> tuple[str, Any]:
    if isinstance(value, float):
        return "float", repr(value)
    names = {type(None): "null", bool: "bool", int: "int", str: "str"}
    return names[type(value)], value


@pytest.mark.parametrize(("text", "kind", "value"), SCALARS, ids=[row[0] for row in SCALARS])
def test_plain_scalar_is_what_spack_reads(text: str, kind: str, value: Any) -> None:
    if kind == "error":
        with pytest.raises(StackError):
            parse_yaml(f"k: {text}\n")
    elif kind == "date":
        assert parse_yaml(f"k: {text}\n") == {"k": text}
    else:
        assert kind_of(parse_yaml(f"k: {text}\n")["k"]) == (kind, value)


VALUES: list[tuple[str, str | bytes, Any]] = [
    ("override key", "script:: [a]", {"script:": ["a"]}),
    ("override key in flow", "{tags:: [x], b: 1}", {"tags:": ["x"], "b": 1}),
    ("prepend key", "script+: a\nscript-: b", {"script+": "a", "script-": "b"}),
    ("value with a colon", "k: 'target=x86_64:'", {"k": "target=x86_64:"}),
    ("quoted words", '["yes", \'1\', "null"]', ["yes", "1", "null"]),
    ("block text", "k: |\n  a\n  b\n", {"k": "a\nb\n"}),
    (
        "explicit tags",
        "[!!str 1, !!int '2', !!float 3, ! '4', !!bool 'true']",
        ["1", 2, 3.0, "4", True],
    ),
    ("null value", "k:", {"k": None}),
    ("null document", "--- ~", None),
    ("equals sign", "[=, a=b]", ["=", "a=b"]),
    ("alias", "a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
    ("scalar alias", "a: &x 1\nb: *x", {"a": 1, "b": 1}),
    (
        "merge",
        "a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}",
        {"a": {"p": 1, "q": 2}, "b": {"q": 3, "p": 1}},
    ),
    ("merge two", "b: {<<: [{p: 1}, {p: 2, q: 3}]}", {"b": {"p": 1, "q": 3}}),
    ("merge sign as value", "a: <<", {"a": "<<"}),
    ("merge sign quoted", "'<<': 1", {"<<": 1}),
    ("byte order mark", b"\xef\xbb\xbfa: 1", {"a": 1}),
    ("utf-8", "k: é😀".encode(), {"k": "é😀"}),
    ("version 1.2", "%YAML 1.2\n---\na: yes", {"a": "yes"}),
    ("url in flow", "[http://x/y, a:b]", ["http://x/y", "a:b"]),
]


@pytest.mark.parametrize(("text", "value"), [row[1:] for row in VALUES], ids=[r[0] for r in VALUES])
def test_value(text: str | bytes, value: Any) -> None:
    assert json.dumps(parse_yaml(text)) == json.dumps(value)


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
DEEP_ALIASES = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} {'[' * 9}*a{i - 1}{']' * 9}\n" for i in range(1, 20)
)
REFUSED: list[tuple[str, str | bytes, str]] = [
    ("tab", "a:\n\t- b", "YAML knows no tabs"),
    ("duplicate key", "a: 1\nb: 2\na: 3", "f:3:1: duplicate key 'a'"),
    ("duplicate nested", "x:\n  - {a: 1, a: 2}", "f:2:12: duplicate key 'a'"),
    ("duplicate by value", "1: a\n1.0: b", "f:2:1: duplicate key"),
    ("two merges", "{<<: {a: 1}, <<: {b: 1}}", "duplicate key '<<'"),
    ("merge of text", "{<<: a}", "<< needs"),
    ("two documents", "a: 1\n---\nb: 1", "f:2:1: a second document"),
    ("python object", "!!python/object/apply:os.system ['x']", "f:1:1: unknown tag"),
    ("python name", "a: !!python/name:os.system x", "f:1:4: unknown tag"),
    ("own tag", "a: !mine {b: 1}", "unknown tag '!mine'"),
    ("binary", "a: !!binary aGk=", "unknown tag"),
    ("tag that does not fit", "a: !!int x", "cannot read 'x'"),
    ("empty", "", "f: the file is empty"),
    ("comment only", "# nothing\n", "f: the file is empty"),
    ("not utf-8", b"a: 1\nb: \xff", "f:2:4: not UTF-8"),
    ("utf-16", "a: 1".encode("utf-16"), "f:1:1: not UTF-8"),
    ("nul", "a: 1\nb: \0", "f:2:4: character U+0000"),
    ("surrogate", "a: \ud800", "f:1:4: character U+D800"),
    ("control character", "a: \x07", "characters are not allowed"),
    ("recursion", "a: &a [*a]", "inside its own anchor"),
    ("recursion of the root", "&a {b: *a}", "inside its own anchor"),
    ("no anchor", "a: *b", "no anchor"),
    ("unclosed", "a: [1", "not YAML"),
    ("unclosed quote", "a: 'x", "not YAML"),
    ("two colons", "a: b: c", "f:1:5: not YAML"),
    ("yaml 1.1", "%YAML 1.1\n---\na: yes", "only YAML 1.2"),
    ("list as key", "? [a]\n: b", "a key must be"),
    ("deep", "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested deeper"),
    ("deep by aliases", DEEP_ALIASES, "nested deeper"),
    ("alias bomb", BOMB, "aliases counted"),
    ("huge number", f"a: {'9' * 5000}", "cannot read '999"),
]


@pytest.mark.parametrize(("text", "part"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_refused(text: str | bytes, part: str) -> None:
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f", error=ConfigError)
    assert part in str(caught.value)
    assert type(caught.value) is ConfigError
    assert caught.value.code == 2
    assert time.process_time() - start < 5


def test_deepest_allowed_nesting() -> None:
    assert parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)


def test_empty_may_be_allowed() -> None:
    assert parse_yaml("# nothing\n", allow_empty=True) is None


HOSTILE = [
    *(row[0] for row in SCALARS), "", " ", " a", "a ", "a\n", "\n", "\na", " a\nb", "a\n\nb", "a \nb", "a\tb\nc",
    "- a", "? a", "# a", "a # b", "a: b", "{a", "[a", "]", "*a", "&a", "!a", "%a", "@a", "`a", "|", ">", "'", '"',
    "a'b\"c", "\\n", "&& echo $X", "\x85", "\u2028", "\ufeff", "\x00", "\x7f", "é", "😀", "\xa0", "---", "...",
    "a" * 500, "word " * 100, "\r", "a\r\nb", "script:", "<<", "=", "\ttab", "a\n  b\n c\n\n\n", "a\n---\nb",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=[f"{i}" for i in range(len(HOSTILE))])
def test_dump_comes_back(text: str) -> None:
    value = {"k": [text, {text: text}], text: None}
    dumped = dump_yaml(value)
    assert parse_yaml(dumped) == value
    assert yaml.safe_load(dumped) == value  # a reader of YAML 1.1


def test_dump_is_block_style_in_order_without_aliases() -> None:
    shared = [1]
    value = {"b": shared, "a": shared, "c": (), "d": {"e": True, "f": None, "g": 1e30}}
    expected = "b:\n- 1\na:\n- 1\nc: []\nd:\n  e: true\n  f: null\n  g: 1.0e+30\n"
    assert dump_yaml(value) == expected
    assert dump_yaml("x") == "x\n"


def test_dump_keeps_lines_readable() -> None:
    assert dump_yaml({"s": "a\nb: c\n"}) == "s: |\n  a\n  b: c\n"
    assert dump_yaml({"s": "word " * 50 + "end"}).count("\n") == 1


def test_dump_refuses_other_types() -> None:
    with pytest.raises(TypeError, match="set"):
        dump_yaml({"a": {1}})


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(trees)
def test_any_tree_comes_back(value: Any) -> None:
    assert parse_yaml(dump_yaml(value)) == value


@given(st.text() | st.binary())
def test_any_text_parses_or_is_refused(text: str | bytes) -> None:
    with contextlib.suppress(StackError):
        parse_yaml(text, "f")
