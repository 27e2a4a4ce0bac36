"""Shapes of data from somebody's YAML, as tables, and one way to say what does not fit.

A shape is a small frozen value (a named tuple, which costs least to import); tables of shapes say what a file may hold. ``check`` raises the
report's error class naming file and dotted key (``stacks/x/spack.yaml: spack.ci.target``), or adds
a warning to the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from stackyard.errors import ConfigError

__all__ = [
    "ANYTHING",
    "FLAG",
    "NULL",
    "NUMBER",
    "TEXT",
    "TEXTS",
    "WHOLE",
    "Choice",
    "Either",
    "Kind",
    "List",
    "Map",
    "Report",
    "Shape",
    "Variant",
    "join",
    "near",
    "type_name",
]


def near(word: object, known: Iterable[str], *, few: int = 12) -> str:
    """A hint naming the known word nearest to ``word``, or all of them if they are few."""
    import difflib  # only needed to say what is wrong

    names = list(known)
    if found := difflib.get_close_matches(str(word), names, n=1, cutoff=0.6):
        return f"did you mean {found[0]!r}?"
    return f"known: {', '.join(names)}" if 0 < len(names) <= few else ""


def join(key: str, step: object) -> str:
    """The dotted key one step further: ``join("a", "b")`` is ``a.b``, ``join("a", 1)`` ``a[1]``."""
    if isinstance(step, int):
        return f"{key}[{step}]"
    return f"{key}.{step}" if key else str(step)


_TYPE_NAMES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "null"),
    (bool, "true or false"),
    (str, "text"),
    (int, "a whole number"),
    (float, "a number"),
    ((list, tuple), "a list"),
    (Mapping, "a mapping"),
)


def type_name(value: Any) -> str:
    return next((name for kind, name in _TYPE_NAMES if isinstance(value, kind)), "something else")


class Report:
    """Which file is checked, the error it raises, and the warnings that came up."""

    def __init__(self, where: str, error: type[ConfigError] = ConfigError) -> None:
        self.where = where
        self.error = error
        self.warnings: list[str] = []

    def fail(self, key: str, message: str, hint: str = "") -> ConfigError:
        place = f"{self.where}: {key}" if self.where and key else self.where or key
        return self.error(message, where=place, hint=hint)

    def wrong(self, key: str, expected: str, value: Any) -> ConfigError:
        shown = ""
        if isinstance(value, bool):
            shown = f" ({str(value).lower()})"
        elif isinstance(value, str | int | float):
            shown = f" ({value if len(str(value)) <= 40 else str(value)[:40] + '…'!r})"
        return self.fail(key, f"must be {expected}, is {type_name(value)}{shown}")

    def warn(self, key: str, message: str) -> None:
        self.warnings.append(
            f"{self.where}: {key}: {message}" if self.where else f"{key}: {message}"
        )


class Shape(Protocol):
    """``says`` completes "must be …"; ``fits`` looks at the outermost layer only."""

    @property
    def says(self) -> str: ...
    def fits(self, value: Any) -> bool: ...
    def check(self, value: Any, key: str, report: Report) -> None: ...


class Kind(NamedTuple):
    """A value of some Python types; ``bool`` is no number here."""

    says: str
    types: tuple[type, ...]
    minimum: int | None = None
    maximum: int | None = None

    def fits(self, value: Any) -> bool:
        if isinstance(value, bool) and bool not in self.types and object not in self.types:
            return False
        return isinstance(value, self.types)

    def check(self, value: Any, key: str, report: Report) -> None:
        if not self.fits(value):
            raise report.wrong(key, self.says, value)
        if self.minimum is not None and value < self.minimum:
            raise report.fail(key, f"must be {self.minimum} or more, is {value}")
        if self.maximum is not None and value > self.maximum:
            raise report.fail(key, f"must be {self.maximum} or less, is {value}")


ANYTHING = Kind("anything", (object,))
TEXT = Kind("text", (str,))
FLAG = Kind("true or false", (bool,))
NUMBER = Kind("a number", (int, float))
WHOLE = Kind("a whole number", (int,), minimum=0)
NULL = Kind("null", (type(None),))


class Choice(NamedTuple):
    """Text that is one of a few words."""

    words: tuple[str, ...]

    @property
    def says(self) -> str:
        return f"one of {', '.join(self.words)}"

    def fits(self, value: Any) -> bool:
        return isinstance(value, str)

    def check(self, value: Any, key: str, report: Report) -> None:
        if not isinstance(value, str):
            raise report.wrong(key, self.says, value)
        if value not in self.words:
            raise report.fail(key, f"must be {self.says}, is {value!r}", near(value, self.words))


class List(NamedTuple):
    item: Shape

    @property
    def says(self) -> str:
        return "a list"

    def fits(self, value: Any) -> bool:
        return isinstance(value, list | tuple)

    def check(self, value: Any, key: str, report: Report) -> None:
        if not self.fits(value):
            raise report.wrong(key, self.says, value)
        for index, item in enumerate(value):
            self.item.check(item, join(key, index), report)


TEXTS = List(TEXT)


_NOTHING: Mapping[str, Any] = {}


def _same(key: str) -> str:
    return key


class Map(NamedTuple):
    """A mapping with text keys.

    ``keys`` are the known ones, ``others`` the shape of all further ones: None forbids them.
    ``removed`` are keys with their own hint. ``name`` takes what is no part of the name off a key.
    """

    keys: Mapping[str, Shape] = _NOTHING
    required: tuple[str, ...] = ()
    others: Shape | None = None
    warn_others: str = ""
    removed: Mapping[str, str] = _NOTHING
    name: Callable[[str], str] = _same

    @property
    def says(self) -> str:
        return "a mapping"

    def fits(self, value: Any) -> bool:
        return isinstance(value, Mapping)

    def check(self, value: Any, key: str, report: Report) -> None:
        if not isinstance(value, Mapping):
            raise report.wrong(key, self.says, value)
        names = set()
        for raw, item in value.items():
            if not isinstance(raw, str):
                raise report.fail(key, f"the key {raw!r} must be text", "quote it")
            names.add(name := self.name(raw))
            self._item(name, item, join(key, name), report)
        for name in self.required:
            if name not in names:
                raise report.fail(join(key, name), "is missing")

    def _item(self, name: str, item: Any, key: str, report: Report) -> None:
        shape = self.keys.get(name, self.others)
        if name in self.removed:
            raise report.fail(key, "is not read", self.removed[name])
        if shape is None:
            raise report.fail(key, "unknown key", near(name, self.keys))
        if self.warn_others and name not in self.keys:
            report.warn(key, f"{self.warn_others}; {near(name, self.keys)}".rstrip("; "))
        shape.check(item, key, report)


class Either(NamedTuple):
    """One of several shapes, told apart by their outermost type."""

    shapes: tuple[Shape, ...]

    @property
    def says(self) -> str:
        return " or ".join(dict.fromkeys(shape.says for shape in self.shapes))

    def fits(self, value: Any) -> bool:
        return any(shape.fits(value) for shape in self.shapes)

    def check(self, value: Any, key: str, report: Report) -> None:
        for shape in self.shapes:
            if shape.fits(value):
                shape.check(value, key, report)
                return
        raise report.wrong(key, self.says, value)


class Variant(NamedTuple):
    """A mapping whose shape follows from a key that it has: exactly one of ``kinds`` must match."""

    kinds: Mapping[str, Map]
    name: Callable[[str], str] = _same

    @property
    def says(self) -> str:
        return "a mapping"

    def fits(self, value: Any) -> bool:
        return isinstance(value, Mapping)

    def check(self, value: Any, key: str, report: Report) -> None:
        if not isinstance(value, Mapping):
            raise report.wrong(key, self.says, value)
        names = [self.name(raw) if isinstance(raw, str) else "" for raw in value]
        found = [name for name in names if name in self.kinds]
        shapes = list({id(self.kinds[name]): self.kinds[name] for name in found}.values())
        if not shapes:
            hint = near(names[0], self.kinds) if names else ""
            raise report.fail(key, f"must have one of {', '.join(self.kinds)}", hint)
        if len(shapes) > 1:
            raise report.fail(key, f"must not mix {' and '.join(found)}", "make two entries of it")
        shapes[0].check(value, key, report)
