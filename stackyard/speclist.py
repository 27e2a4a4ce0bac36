"""Expand ``specs`` and ``definitions`` of a manifest, and hold the result against a lock's roots.

Follows Spack 1.1 (``environment/list.py``; "Spec lists" and "Spec matrices" in its manual).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple, TypeAlias

from stackyard.errors import SpecError, StackError
from stackyard.lock import Root
from stackyard.spec import Pattern, constrain, implies, parse_pattern

__all__ = ["MAX_COMBINATIONS", "Entry", "expand", "surplus", "unanswered"]

MAX_COMBINATIONS = 100_000
MAX_DEPTH = 20

_MATRIX_KEYS = {"matrix", "exclude"}


class Entry(NamedTuple):
    """One spec that a manifest asks for: its text, and what the text means."""

    text: str
    pattern: Pattern

    def __str__(self) -> str:
        return self.text


@dataclass(slots=True, eq=False)
class _Matrix:
    """A matrix with its references resolved.

    One that stands in a definition is shared by all its references, as in Spack; so a reference
    with a sigil gives the sigil to every use of that matrix, those before it included.
    """

    rows: list[list[_Item]]
    exclude: list[Pattern]
    where: str
    sigil: str = ""
    size: int = 0  # combinations before anything is excluded
    depth: int = 1
    found: list[list[Pattern]] | None = None

    def __post_init__(self) -> None:
        self.size = math.prod(sum(map(_size, row)) for row in self.rows)
        inner = [item.depth for row in self.rows for item in row if isinstance(item, _Matrix)]
        self.depth = 1 + max(inner, default=0)


class _Text(NamedTuple):
    text: str
    where: str


_Item: TypeAlias = _Text | _Matrix


def expand(
    definitions: Sequence[Any],
    specs: Sequence[Any],
    evaluate: Callable[[str], bool],
    where: str = "",
) -> tuple[Entry, ...]:
    """The specs that a manifest asks for, in its order, matrices multiplied out.

    ``definitions`` and ``specs`` are the values of these keys in ``spack.yaml``; ``evaluate``
    answers the text of a ``when``; ``where`` names the file in errors.

    Raises StackError, which names the dotted key, for a shape that Spack refuses, an undefined
    reference, and more than 100,000 combinations; SpecError for a spec that cannot be parsed, and
    for a combination that contradicts itself.
    """
    expander = _Expander(evaluate, f"{where}: " if where else "")
    expander.define(definitions)
    items = expander.items(specs, "spack.specs")
    total = sum(map(_size, items))
    if total > MAX_COMBINATIONS:
        raise StackError(
            f"the specs are {total} combinations, more than {MAX_COMBINATIONS}",
            where=f"{expander.prefix}spack.specs",
        )
    return tuple(entry for item in items for entry in _entries(item))


def unanswered(roots: Iterable[Root], entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The manifest's specs for which the lock has no root: same text, or same meaning."""
    roots = tuple(roots)
    texts = {root.spec for root in roots}
    open_ = [e for e in entries if not texts & {e.text, str(e.pattern)}]
    if not open_:
        return ()
    meant = set(filter(None, map(_meaning, roots)))
    return tuple(entry for entry in open_ if _as_printed(entry.pattern) not in meant)


def surplus(roots: Iterable[Root], entries: Iterable[Entry]) -> tuple[Root, ...]:
    """The lock's roots for which no spec of the manifest asks."""
    entries = tuple(entries)
    texts = {text for entry in entries for text in (entry.text, str(entry.pattern))}
    open_ = [root for root in roots if root.spec not in texts]
    meant = {_as_printed(entry.pattern) for entry in entries} if open_ else set()
    return tuple(root for root in open_ if _meaning(root) not in meant)


def _meaning(root: Root) -> Pattern | None:
    """None if the text of a root cannot be parsed, so that no manifest can have asked for it."""
    try:
        return _as_printed(parse_pattern(root.spec))
    except SpecError:
        return None


def _as_printed(pattern: Pattern) -> Pattern:
    """Without the namespaces of named nodes, which Spack does not print."""
    edges = tuple(replace(edge, node=_as_printed(edge.node)) for edge in pattern.edges)
    kept = None if pattern.name else pattern.namespace
    return replace(pattern, namespace=kept, edges=edges)


class _Expander:
    """Definitions in their order; each may refer to those before it."""

    def __init__(self, evaluate: Callable[[str], bool], prefix: str) -> None:
        self._evaluate = evaluate
        self._defined: dict[str, list[_Item]] = {}
        self.prefix = prefix

    def _error(self, message: str, key: str) -> StackError:
        return StackError(message, where=f"{self.prefix}{key}")

    def define(self, definitions: Sequence[Any]) -> None:
        """Definitions of one name are joined where the name stands first, as Spack does it."""
        groups: dict[str, list[tuple[str, list[Any]]]] = {}
        for index, entry in enumerate(self._list(definitions, "spack.definitions")):
            key = f"spack.definitions[{index}]"
            name, values = self._definition(entry, key)
            parts = groups.setdefault(name, [])
            if "when" not in entry or self._holds(entry["when"], key):
                parts.append((f"{key}.{name}", values))
        for name, parts in groups.items():
            self._defined[name] = [
                item for key, values in parts for item in self.items(values, key)
            ]

    def _definition(self, entry: Any, key: str) -> tuple[str, list[Any]]:
        names = [name for name in entry if name != "when"] if isinstance(entry, Mapping) else []
        if len(names) != 1:
            raise self._error(f"a definition has one name, here are {len(names)}", key)
        return str(names[0]), self._list(entry[names[0]], f"{key}.{names[0]}")

    def _holds(self, when: Any, key: str) -> bool:
        if not isinstance(when, str):
            raise self._error("when is not a text", f"{key}.when")
        return self._evaluate(when)

    def _list(self, value: Any, key: str) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise self._error("not a list", key)
        return list(value)

    def items(self, values: Sequence[Any], key: str) -> list[_Item]:
        """Strings and matrices, with every reference replaced by what it stands for."""
        found: list[_Item] = []
        for index, value in enumerate(self._list(values, key)):
            here = f"{key}[{index}]"
            if isinstance(value, str) and value.startswith("$"):
                found += self._reference(value[1:], here)
            elif isinstance(value, str):
                found.append(_Text(value, f"{self.prefix}{here}"))
            elif isinstance(value, Mapping):
                found.append(self._matrix(value, here))
            else:
                raise self._error(f"{value!r} is neither a spec nor a matrix", here)
            if len(found) > MAX_COMBINATIONS:
                raise self._error(f"more than {MAX_COMBINATIONS} specs", here)
        return found

    def _reference(self, name: str, key: str) -> list[_Item]:
        sigil = name[0] if name[:1] in ("^", "%") else ""
        name = name.removeprefix(sigil)
        if name not in self._defined:
            known = ", ".join(self._defined) or "none"
            raise StackError(
                f"${name} is not defined here",
                where=f"{self.prefix}{key}",
                hint=f"a definition must stand before its use; these do: {known}",
            )
        if not sigil:
            return self._defined[name]
        return [_with_sigil(item, sigil) for item in self._defined[name]]

    def _matrix(self, value: Mapping[Any, Any], key: str) -> _Matrix:
        if extra := sorted(map(str, value.keys() - _MATRIX_KEYS)):
            raise self._error("a matrix has no such key", f"{key}.{extra[0]}")
        if "matrix" not in value:
            raise self._error("the key matrix is missing", key)
        if key.count(".matrix[") >= MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} matrices inside each other", key)
        rows = self._list(value["matrix"], f"{key}.matrix")
        if not rows:
            raise self._error("a matrix without rows", f"{key}.matrix")
        matrix = _Matrix(
            [self.items(row, f"{key}.matrix[{index}]") for index, row in enumerate(rows)],
            [
                self._excluded(text, f"{key}.exclude[{index}]")
                for index, text in enumerate(self._list(value.get("exclude", []), f"{key}.exclude"))
            ],
            f"{self.prefix}{key}",
        )
        if matrix.size > MAX_COMBINATIONS:
            what = f"{matrix.size} combinations, more than {MAX_COMBINATIONS}"
            raise self._error(what, f"{key}.matrix")
        if matrix.depth > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} matrices inside each other", key)
        return matrix

    def _excluded(self, text: Any, key: str) -> Pattern:
        if not isinstance(text, str):
            raise self._error(f"{text!r} is not a spec", key)
        return parse_pattern(text, f"{self.prefix}{key}")


def _with_sigil(item: _Item, sigil: str) -> _Item:
    if isinstance(item, _Matrix):
        item.sigil = sigil
        return item
    return _Text(sigil + item.text, item.where)


def _size(item: _Item) -> int:
    return item.size if isinstance(item, _Matrix) else 1


def _entries(item: _Item) -> Iterator[Entry]:
    if isinstance(item, _Text):
        yield Entry(item.text, parse_pattern(item.text, item.where))
        return
    for parts in _combinations(item):
        pattern = _merged(parts, item.where)
        yield Entry(str(pattern), pattern)


def _combinations(matrix: _Matrix) -> list[list[Pattern]]:
    """The constraints of each combination that no ``exclude`` removes; worked out once."""
    if matrix.found is None:
        rows = [
            [pattern for item in row for pattern in _choices(item, matrix.where)]
            for row in matrix.rows
        ]
        matrix.found = [
            _signed(combination, matrix)
            for combination in product(*rows)
            if not _is_excluded(combination, matrix)
        ]
    return matrix.found


def _is_excluded(combination: tuple[Pattern, ...], matrix: _Matrix) -> bool:
    whole = _merged(combination, matrix.where)
    return any(implies(whole, pattern) for pattern in matrix.exclude)


def _signed(combination: tuple[Pattern, ...], matrix: _Matrix) -> list[Pattern]:
    """The sigil of a reference goes before the first constraint."""
    if not matrix.sigil:
        return list(combination)
    first = parse_pattern(matrix.sigil + str(combination[0]), matrix.where)
    return [first, *combination[1:]]


def _choices(item: _Item, where: str) -> Iterator[Pattern]:
    """What one item of a row can be. A matrix in a row counts as the texts of its combinations."""
    if isinstance(item, _Text):
        yield parse_pattern(item.text, item.where)
        return
    for parts in _combinations(item):
        yield parse_pattern(" ".join(map(str, parts)), where)


def _merged(parts: Sequence[Pattern], where: str) -> Pattern:
    merged = parts[0]
    for part in parts[1:]:
        try:
            merged = constrain(merged, part)
        except SpecError as error:
            texts = " ".join(map(str, parts))[:200]
            raise SpecError(
                f"the combination {texts!r} contradicts itself: {error.message}",
                where=where,
                hint="exclude does not help here: Spack merges before it excludes",
            ) from None
    return merged
