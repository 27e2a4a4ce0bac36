"""YAML in and out, with the scalars of YAML 1.2 as Spack reads them.

Spack's loader (``util/spack_yaml.py``) follows YAML 1.2, where ``yes``, ``on`` and ``12:30`` are
text, while PyYAML follows 1.1. So PyYAML only parses here: values are built from its events, in one
pass and without recursion, which also bounds what a hostile file can ask for.

Texts come through raw: the key of ``script:: []`` is ``script:``, and nothing strips it here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stackyard.errors import ConfigError, StackError

__all__ = ["MAX_DEPTH", "MAX_NODES", "dump_yaml", "parse_yaml"]

#: An alias counts as often as it is used, so that ten lines cannot become ten million values.
MAX_NODES = 1_000_000
MAX_DEPTH = 100

_WORDS: Mapping[str, Any] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}

#: ``010`` is ten and ``0o10`` is eight; ``0b`` and ``0x`` take a sign and underscores too.
_INT = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0o[0-7_]+|[0-9_]+)")
_FLOAT = re.compile(
    r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)"
    r"|[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_BASES = {"0b": 2, "0o": 8, "0x": 16}
_NUMBER_START = frozenset("-+.0123456789")

_TAG = "tag:yaml.org,2002:"


class _Merge:
    """Stands for the plain key ``<<``."""


def _integer(text: str) -> int:
    digits = text.replace("_", "").lower()
    sign = -1 if digits.startswith("-") else 1
    digits = digits.lstrip("+-")
    return sign * int(digits, _BASES.get(digits[:2], 10))


def _float(text: str) -> float:
    digits = text.replace("_", "").lower()
    return float(digits.replace(".inf", "inf").replace(".nan", "nan"))


def _resolve(text: str) -> Any:
    """Value of a plain scalar: text, bool, int, float or None. Timestamps stay text."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in _NUMBER_START:
        if _INT.fullmatch(text):
            return _integer(text)
        if _FLOAT.fullmatch(text):
            return _float(text)
    return text


def _is_plain_text(text: str) -> bool:
    try:
        return isinstance(_resolve(text), str)
    except ValueError:
        return False


def _exactly(kind: type) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        value = _resolve(text)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ValueError(text)
        return value

    return convert


def _as_float(text: str) -> float:
    value = _resolve(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(text)  # noqa: TRY004 - the caller knows one kind of failure
    return float(value)


#: What an explicit tag makes of a scalar; ``!`` alone means text.
_TAGGED: Mapping[str, Callable[[str], Any]] = {
    "!": str,
    f"{_TAG}str": str,
    f"{_TAG}bool": _exactly(bool),
    f"{_TAG}int": _exactly(int),
    f"{_TAG}float": _as_float,
    f"{_TAG}null": _exactly(type(None)),
}
_COLLECTION_TAGS = {
    "SequenceStartEvent": {None, "!", f"{_TAG}seq"},
    "MappingStartEvent": {None, "!", f"{_TAG}map"},
}


@dataclass(slots=True)
class _Node:
    """A collection being built, with what an alias to it would cost."""

    value: Any
    event: Any
    nodes: int = 1
    height: int = 1
    key: Any = None
    has_key: bool = False
    merges: list[dict[Any, Any]] | None = None


@dataclass(slots=True)
class _Builder:
    """Turns PyYAML's events into one value, or raises ``error`` with file, line and column."""

    where: str
    error: type[ConfigError]
    stack: list[_Node] = field(default_factory=list)
    anchors: dict[str, _Node | None] = field(default_factory=dict)
    root: Any = None
    documents: int = 0

    def fail(self, message: str, mark: Any, hint: str = "") -> ConfigError:
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        return self.error(message, where=f"{self.where}{place}", hint=hint)

    def feed(self, event: Any) -> None:
        kind = type(event).__name__
        if kind == "ScalarEvent":
            self.scalar(event)
        elif kind in _COLLECTION_TAGS:
            self.start(event, kind)
        elif kind in {"SequenceEndEvent", "MappingEndEvent"}:
            self.end(event)
        elif kind == "AliasEvent":
            self.alias(event)
        elif kind == "DocumentStartEvent":
            self.document(event)

    def document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            raise self.fail("a second document starts here; only one is allowed", event.start_mark)
        if event.version is not None and tuple(event.version) != (1, 2):
            hint = "remove the %YAML line"
            raise self.fail("only YAML 1.2 is read the way Spack reads it", event.start_mark, hint)

    def start(self, event: Any, kind: str) -> None:
        if event.tag not in _COLLECTION_TAGS[kind]:
            raise self.fail(f"unknown tag {event.tag!r}", event.start_mark)
        if len(self.stack) >= MAX_DEPTH:
            raise self.fail(f"nested deeper than {MAX_DEPTH} levels", event.start_mark)
        if event.anchor:
            self.anchors[event.anchor] = None
        self.stack.append(_Node([] if kind == "SequenceStartEvent" else {}, event))

    def end(self, event: Any) -> None:
        node = self.stack.pop()
        for mapping in node.merges or ():
            for key, value in mapping.items():
                node.value.setdefault(key, value)
        if node.event.anchor:
            self.anchors[node.event.anchor] = node
        self.add(node, event.start_mark)

    def scalar(self, event: Any) -> None:
        text: str = event.value
        value: Any = text
        if event.implicit[0] and not event.style:
            if text == "<<" and self.stack and isinstance(self.stack[-1].value, dict):
                value = text if self.stack[-1].has_key else _Merge
            else:
                value = self.convert(_resolve, event)
        elif not any(event.implicit):
            if event.tag not in _TAGGED:
                raise self.fail(f"unknown tag {event.tag!r}", event.start_mark)
            value = self.convert(_TAGGED[event.tag], event)
        node = _Node(value, event)
        if event.anchor:
            self.anchors[event.anchor] = node
        self.add(node, event.start_mark)

    def convert(self, function: Callable[[str], Any], event: Any) -> Any:
        try:
            return function(event.value)
        except ValueError:
            text = event.value if len(event.value) <= 40 else f"{event.value[:40]}…"
            raise self.fail(
                f"cannot read {text!r} as a value of its type", event.start_mark, "quote the text"
            ) from None

    def alias(self, event: Any) -> None:
        if event.anchor not in self.anchors:
            raise self.fail(f"alias *{event.anchor} has no anchor before it", event.start_mark)
        node = self.anchors[event.anchor]
        if node is None:
            raise self.fail(f"alias *{event.anchor} lies inside its own anchor", event.start_mark)
        if len(self.stack) + node.height > MAX_DEPTH + 1:
            raise self.fail(f"nested deeper than {MAX_DEPTH} levels", event.start_mark)
        self.add(node, event.start_mark)

    def add(self, node: _Node, mark: Any) -> None:
        """Put a finished node into the collection that is open, or make it the root."""
        if not self.stack:
            self.root = node.value
            return
        parent = self.stack[-1]
        parent.nodes += node.nodes
        parent.height = max(parent.height, node.height + 1)
        if parent.nodes > MAX_NODES:
            raise self.fail(f"more than {MAX_NODES} values, aliases counted in full", mark)
        if isinstance(parent.value, list):
            parent.value.append(node.value)
        elif not parent.has_key:
            self.add_key(parent, node.value, mark)
        else:
            parent.has_key = False
            if parent.key is _Merge:
                self.add_merge(parent, node.value, mark)
            else:
                parent.value[parent.key] = node.value

    def add_key(self, parent: _Node, key: Any, mark: Any) -> None:
        if isinstance(key, list | dict):
            raise self.fail("a key must be a single text, not a list or mapping", mark)
        if key in parent.value or (key is _Merge and parent.merges is not None):
            raise self.fail(f"duplicate key {'<<' if key is _Merge else key!r}", mark)
        parent.key, parent.has_key = key, True

    def add_merge(self, parent: _Node, value: Any, mark: Any) -> None:
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, dict) for source in sources):
            raise self.fail("<< needs a mapping or a list of mappings", mark)
        parent.merges = list(sources)


_SURROGATE = re.compile(r"[\ud800-\udfff]")


def _text(source: str | bytes, builder: _Builder) -> str:
    """The source as text, or an error at the place of the first byte that is none."""
    if isinstance(source, bytes):
        try:
            text = source.decode()
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode()
            raise _at(builder, before, "not UTF-8") from None
    else:
        text = source
    source = text.removeprefix("\ufeff")
    for index in (source.find("\0"), *(m.start() for m in _SURROGATE.finditer(source))):
        if index >= 0:
            raise _at(
                builder, source[:index], f"character U+{ord(source[index]):04X} is not allowed"
            )
    return source


def _at(builder: _Builder, before: str, message: str) -> ConfigError:
    line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    return builder.error(message, where=f"{builder.where}:{line}:{column}")


def _has_tab(source: str, mark: Any) -> bool:
    """Whether the line of the mark is indented by a tab."""
    line = source.splitlines()[mark.line : mark.line + 1] if mark else []
    return bool(line) and "\t" in line[0][: len(line[0]) - len(line[0].lstrip())]


def parse_yaml(
    text: str | bytes,
    where: str = "",
    *,
    error: type[ConfigError] = StackError,
    allow_empty: bool = False,
) -> Any:
    """Value of the one YAML document in ``text``: dict, list, str, int, float, bool or None.

    Keys and values are raw and keep their order; values under ``<<`` follow the mapping's own.
    A file without a document is an error, or None where ``allow_empty``.
    Raises ``error`` naming ``where:line:column`` for what is no YAML or more than one document,
    duplicate or compound keys, unknown tags, text that is not UTF-8, too many or too deep values.
    """
    import yaml  # not needed by every command

    builder = _Builder(where, error)
    source = _text(text, builder)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        parser = loader(source)
        try:
            while (event := parser.get_event()) is not None:
                builder.feed(event)
        finally:
            parser.dispose()
    except yaml.MarkedYAMLError as problem:
        message = " ".join(str(part) for part in (problem.problem, problem.context) if part)
        mark = problem.problem_mark or problem.context_mark
        hint = "indent by spaces, YAML knows no tabs" if _has_tab(source, mark) else ""
        raise builder.fail(f"not YAML: {message}", mark, hint) from None
    except yaml.reader.ReaderError as problem:
        position = problem.position if isinstance(problem.position, int) else 0
        raise _at(builder, source[:position], f"not YAML: {problem.reason}") from None
    except yaml.YAMLError as problem:
        raise builder.fail(f"not YAML: {problem}", None) from None
    if not builder.documents and not allow_empty:
        raise builder.error("the file is empty", where=where)
    return builder.root


#: Text that may stand as a literal block: printable lines without spaces that a reader may lose.
_BLOCK = re.compile(r"[!-~][ -~]*(?<! )(?:\n+[ -~]*(?<! ))*\n?")

_dumper_class: Any = None


def _dumper() -> Any:
    """PyYAML's dumper, quoting also what YAML 1.2 would not read back as text."""
    global _dumper_class  # noqa: PLW0603 - made once, because importing yaml is not free
    if _dumper_class is not None:
        return _dumper_class
    import yaml  # not needed by every command

    base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

    class Dumper(base):  # type: ignore[misc]
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
            return True

    def represent_text(dumper: Any, text: str) -> Any:
        style = None
        if "\n" in text:
            style = "|" if _BLOCK.fullmatch(text) else '"'
        elif not text.isprintable():
            style = '"'
        elif not _is_plain_text(text):
            style = "'"
        return dumper.represent_scalar(f"{_TAG}str", text, style)

    Dumper.add_representer(str, represent_text)
    _dumper_class = Dumper
    return Dumper


def _plain(value: Any) -> Any:
    """The same value of exact builtin types, so that no subclass chooses its own tag."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TypeError(f"cannot write {type(value).__name__} as YAML")


def dump_yaml(value: Any) -> str:
    """Block-style YAML text of dicts, lists and scalars, in their order, without aliases.

    The same value gives the same text, and both YAML 1.1 and 1.2 readers get the same value back.
    Raises TypeError for other types, and ValueError for text that UTF-8 cannot hold.
    """
    import yaml  # not needed by every command

    text: str = yaml.dump(
        _plain(value),
        Dumper=_dumper(),
        default_flow_style=False,
        allow_unicode=True,
        sort_keys=False,
        width=2**30,
        indent=2,
    )
    return text.removesuffix("...\n") if text.endswith("\n...\n") else text
