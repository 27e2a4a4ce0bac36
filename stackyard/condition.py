"""The ``when:`` of definitions and includes: Python expressions, of which a safe part is evaluated.

Spack hands the text to ``eval`` (``eval_conditional`` in ``spec.py``) with ``target``, ``os``,
``platform``, ``arch``, ``architecture``, ``arch_str``, ``hostname``, ``re`` and ``env``. Here the
text is parsed, and only what the tables below name is computed; the rest is an error that names
the expression. Facts about the host are asked for one at a time, when an expression uses them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from stackyard.errors import StackError

if TYPE_CHECKING:
    import ast

__all__ = ["FACTS", "Facts", "evaluate"]

#: Name of a fact → how to find it out. ``target``, ``os``, ``platform`` and ``hostname``.
Facts = Mapping[str, Callable[[], str]]

FACTS = ("target", "os", "platform", "hostname")

MAX_TEXT = 2000
MAX_NODES = 300
MAX_PATTERN = 200
MAX_SUBJECT = 1000

_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "Eq": operator.eq,
    "NotEq": operator.ne,
    "Lt": operator.lt,
    "LtE": operator.le,
    "Gt": operator.gt,
    "GtE": operator.ge,
    "In": lambda a, b: a in b,
    "NotIn": lambda a, b: a not in b,
    "Is": operator.is_,
    "IsNot": operator.is_not,
}
_SEARCHES = ("search", "match", "fullmatch")
_TEXT_METHODS: Mapping[str, Callable[..., Any]] = {
    "startswith": str.startswith,
    "endswith": str.endswith,
}


class _Refused(Exception):  # noqa: N818 - it never leaves this module
    pass


class _Arch:
    """What ``arch`` and ``architecture`` stand for: only ``satisfies`` can be asked of it."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def __str__(self) -> str:
        return " ".join(f"{name}={self._facts[name]()}" for name in ("platform", "os", "target"))

    def satisfies(self, text: str) -> bool:
        """Whether ``platform=``, ``os=``, ``target=`` and ``arch=`` of ``text`` all hold."""
        return all(self._holds(part) for part in text.split())

    def _holds(self, part: str) -> bool:
        name, equals, value = part.partition("=")
        value = value.removeprefix("=")
        if not equals or not value:
            raise _Refused(f"satisfies({part!r}) asks for more than platform, os, target or arch")
        if name in {"arch", "architecture"}:
            pieces = value.split("-", 2)
            names = ("platform", "os", "target") if len(pieces) == 3 else ("target",)
            values = pieces if len(pieces) == 3 else [value]
            return all(
                wanted in {"None", "*"} or self._holds(f"{fact}={wanted}")
                for fact, wanted in zip(names, values, strict=True)
            )
        if name in {"os", "operating_system"}:
            return value in {"*", self._facts["os"]()}
        if name == "platform":
            return value in {"*", self._facts["platform"]()}
        if name == "target":
            return _target_in(self._facts["target"](), value)
        raise _Refused(f"satisfies({part!r}) asks for more than platform, os, target or arch")


def _target_in(name: str, wanted: str) -> bool:
    """Whether a microarchitecture is one of names and ranges such as ``x86_64:,:zen2``."""
    for item in wanted.split(","):
        low, colon, high = item.partition(":")
        if not colon:
            if item in {"*", name}:
                return True
        elif _between(name, low, high):
            return True
    return False


def _between(name: str, low: str, high: str) -> bool:
    import archspec.cpu  # reads a table of all processors

    targets = archspec.cpu.TARGETS
    for text in filter(None, (name, low, high)):
        if text not in targets:
            raise _Refused(f"{text!r} is no target that archspec knows")
    host = targets[name]
    return (not low or targets[low] <= host) and (not high or host <= targets[high])


class _Evaluator:
    def __init__(self, facts: Facts, env: Mapping[str, str]) -> None:
        self._facts = facts
        self._env = env

    def value(self, node: ast.expr) -> Any:
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise _Refused(f"{type(node).__name__} is not allowed")
        return method(node)

    def _constant(self, node: ast.Constant) -> Any:
        if node.value is None or isinstance(node.value, str | bool | int | float):
            return node.value
        raise _Refused(f"{node.value!r} is not allowed")

    def _tuple(self, node: ast.Tuple | ast.List) -> Any:
        return tuple(self.value(item) for item in node.elts)

    def _list(self, node: ast.List) -> Any:
        return [self.value(item) for item in node.elts]

    def _name(self, node: ast.Name) -> Any:
        if node.id in FACTS:
            return self._facts[node.id]()
        if node.id in {"arch", "architecture"}:
            return _Arch(self._facts)
        if node.id == "arch_str":
            return str(_Arch(self._facts))
        if node.id == "env":
            return self._env
        raise _Refused(f"unknown name {node.id!r}")

    def _boolop(self, node: ast.BoolOp) -> Any:
        stops_at = type(node.op).__name__ == "Or"
        result: Any = None
        for part in node.values:
            result = self.value(part)
            if bool(result) is stops_at:
                break
        return result

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        value = self.value(node.operand)
        if type(node.op).__name__ == "Not":
            return not value
        if type(node.op).__name__ == "USub" and isinstance(value, int | float):
            return -value
        raise _Refused(f"{type(node.op).__name__} is not allowed")

    def _compare(self, node: ast.Compare) -> Any:
        left = self.value(node.left)
        result: Any = True
        for op, item in zip(node.ops, node.comparators, strict=True):
            right = self.value(item)
            if isinstance(left, _Arch) or isinstance(right, _Arch):
                raise _Refused("arch is no text: compare arch_str, or use arch.satisfies")
            result = _COMPARE[type(op).__name__](left, right)
            if not result:
                break
            left = right
        return result

    def _subscript(self, node: ast.Subscript) -> Any:
        if self._is_name(node.value, "env"):
            name = self.value(node.slice)
            if isinstance(name, str) and name in self._env:
                return self._env[name]
            raise _Refused(f"the variable {name!r} is not set; env.get({name!r}, '') would do")
        raise _Refused("only env can be indexed")

    def _call(self, node: ast.Call) -> Any:
        function = node.func
        if type(function).__name__ != "Attribute" or node.keywords:
            raise _Refused("this call is not allowed")
        name: str = function.attr  # type: ignore[attr-defined]
        owner: ast.expr = function.value  # type: ignore[attr-defined]
        arguments = [self.value(argument) for argument in node.args]
        if self._is_name(owner, "re"):
            return self._search(name, arguments)
        return self._method(self.value(owner), name, arguments)

    def _method(self, owner: Any, name: str, arguments: list[Any]) -> Any:
        if owner is self._env and name == "get" and len(arguments) in {1, 2}:
            variable, default = (*arguments, None)[:2]
            return self._env.get(variable, default)
        if isinstance(owner, _Arch) and name == "satisfies" and len(arguments) == 1:
            return owner.satisfies(str(arguments[0]))
        if isinstance(owner, str) and name in _TEXT_METHODS and len(arguments) == 1:
            return _TEXT_METHODS[name](owner, arguments[0])
        raise _Refused(f"calling {name!r} is not allowed here")

    def _search(self, name: str, arguments: list[Any]) -> Any:
        import re  # kept beside its only use

        texts = all(isinstance(argument, str) for argument in arguments)
        if name not in _SEARCHES or len(arguments) != 2 or not texts:
            raise _Refused(f"re.{name} takes a pattern and a text; known: {', '.join(_SEARCHES)}")
        pattern, subject = arguments
        if len(pattern) > MAX_PATTERN or len(subject) > MAX_SUBJECT:
            raise _Refused("the pattern or its subject is too long")
        if re.search(r"\([^()]*[*+}][^()]*\)\s*[*+{]", pattern):
            raise _Refused("a repeated group with a repetition inside may take forever")
        try:
            return getattr(re, name)(pattern, subject) or None
        except re.error as error:
            raise _Refused(f"bad pattern: {error}") from None

    @staticmethod
    def _is_name(node: ast.expr, name: str) -> bool:
        return type(node).__name__ == "Name" and node.id == name  # type: ignore[attr-defined]


def evaluate(text: str, facts: Facts, env: Mapping[str, str], where: str = "") -> bool:
    """Whether the condition holds; empty text always does.

    Raises StackError at ``where`` for what is no expression, is not allowed, or cannot be computed.
    """
    import ast  # most stacks have no condition

    def fail(reason: object) -> StackError:
        shown = text if len(text) <= 200 else f"{text[:200]}…"
        return StackError(f"cannot evaluate {shown!r}: {reason}", where=where)

    if not text:
        return True
    if len(text) > MAX_TEXT:
        raise fail(f"longer than {MAX_TEXT} characters")
    try:
        tree = ast.parse(text.strip(" \t"), mode="eval")
        if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
            raise fail("too long")
        return bool(_Evaluator(facts, env).value(tree.body))
    except SyntaxError as error:
        raise fail(error.msg) from None
    except (_Refused, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise fail(error) from None
