"""Read a spec string into a ``Pattern``: the whole grammar of Spack 1.1 (``spec_parser.py``).

Attributes after a name belong to that name: in ``hdf5 %gcc@12 ~mpi`` the variant is gcc's.
``%`` is a direct dependency of the root or of the last ``^``, and ``^`` always one of the root.
Toolchains, which Spack reads from its configuration, are names like others here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from stackyard.errors import SpecError
from stackyard.pattern import (
    ALIASES,
    DEPTYPES,
    FLAGS,
    Edge,
    Flag,
    Pattern,
    Variant,
    add_edge,
    constrain,
    edge_key,
)
from stackyard.version import ANY, parse_versions

__all__ = ["MAX_LENGTH", "parse_pattern"]

MAX_LENGTH = 10_000
_MAX_NESTED_WHEN = 8
_MAX_EDGES = 200

_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"\w[\w-]*", re.ASCII)
_DOTTED = re.compile(r"\w[\w-]*(?:\.\w[\w-]*)*", re.ASCII)
_KEY = re.compile(r"(\w[\w.-]*)(:?)(==?)", re.ASCII)
_VARIANT = re.compile(r"\s*(\w[\w.-]*)", re.ASCII)
_VALUE = re.compile(r"[\w+*.,:=%^~/\\-]+", re.ASCII)
_ASSIGNED = re.compile(r"\s*(\w[\w-]*(?:,\w[\w-]*)*)=(?=\w)", re.ASCII)
_HASH = re.compile(r"\w+", re.ASCII)
_FILE = re.compile(r"(?:\.|[\w-]*/)[\w./-]*\.(?:json|yaml)", re.ASCII)

_VERSION = re.compile(r"=?\w[\w.-]*\b", re.ASCII)
_RANGE_END = re.compile(r"=?\w[\w.-]*\b(?!\s*=)", re.ASCII)
_GIT = re.compile(r"(?:git\.\w[\w./-]*|[0-9A-Fa-f]{40})(?:==?\w[\w.-]*\b)?", re.ASCII)
_COMMA = re.compile(r"\s*,\s*")

#: Names that Spack accepts for a variant and that cannot be propagated (``variant.py``).
_NO_VARIANT = frozenset(
    {"arch", "architecture", "namespace", "operating_system", "os", "platform", "target"}
)
_RESERVED = _NO_VARIANT | {"branch", "commit", "dev_path", "patches", "ref", "tag"}
_ARCH = {"platform": "platform", "os": "os", "operating_system": "os", "target": "target"}
#: Values that Spack replaces by what the machine is on which it runs (``platforms``).
_OF_HOST = frozenset({"fe", "be", "frontend", "backend", "default_os", "default_target"})


def parse_pattern(text: str, where: str = "") -> Pattern:
    """The abstract spec that a text means; ``where`` names the place of the text in errors.

    Raises SpecError, which shows the text and marks the place: a syntax error, a file name, two
    specs, a contradiction, a text of more than 10,000 characters.
    """
    return _parse(text, where, 0)


def _parse(text: str, where: str, depth: int) -> Pattern:
    if len(text) > MAX_LENGTH:
        raise SpecError(f"a spec of {len(text)} characters, more than {MAX_LENGTH}", where=where)
    if depth > _MAX_NESTED_WHEN:
        raise SpecError("conditions inside conditions, too deep", where=where)
    return _Parser(text, where, depth).spec()


@dataclass(slots=True)
class _Link:
    """An edge while it is read; ``node`` is a Pattern once two edges were merged."""

    node: _Node | Pattern
    direct: bool
    deptypes: tuple[str, ...] = ()
    virtuals: tuple[str, ...] = ()
    when: Pattern | None = None
    preferred: bool = False

    def frozen(self) -> Edge:
        node = self.node if isinstance(self.node, Pattern) else self.node.frozen()
        virtuals = tuple(sorted({*self.virtuals}))
        return Edge(node, self.direct, self.deptypes, virtuals, self.when, self.preferred)


@dataclass(slots=True)
class _Node:
    """A spec while it is read."""

    name: str = ""
    namespace: str | None = None
    versions: str = ""
    variants: dict[str, Variant] = field(default_factory=dict)
    flags: dict[str, list[Flag]] = field(default_factory=dict)
    arch: dict[str, str] = field(default_factory=dict)
    hash: str = ""
    links: list[_Link] = field(default_factory=list)

    def frozen(self) -> Pattern:
        return Pattern(
            name=self.name,
            namespace=self.namespace,
            versions=parse_versions(self.versions) if self.versions else ANY,
            variants=tuple(self.variants[name] for name in sorted(self.variants)),
            flags=tuple((name, tuple(self.flags[name])) for name in sorted(self.flags)),
            hash=self.hash,
            edges=tuple(sorted((link.frozen() for link in self.links), key=edge_key)),
            platform=self.arch.get("platform", ""),
            os=self.arch.get("os", ""),
            target=self.arch.get("target", ""),
        )


class _Parser:
    """Recursive descent over one text; ``at`` is the next character to read."""

    def __init__(self, text: str, where: str, depth: int) -> None:
        self.text, self.where, self.depth = text, where, depth
        self.at = 0
        self.begin = 0  # of the token that errors point at

    def spec(self) -> Pattern:
        try:
            root = self._node(_Node())
            current = root
            while self._peek() in ("%", "^"):
                link = self._link()
                target = current if link.direct else root
                if not link.direct and isinstance(link.node, _Node):
                    current = link.node
                self._attach(target, link)
            if self.at < len(self.text):
                raise self._error(self._why_not())
            return root.frozen()
        except SpecError as error:
            if error.hint:
                raise
            raise self._error(error.message) from None

    def _error(self, message: str) -> SpecError:
        start = max(0, self.begin - 60)
        shown = self.text[start : self.begin + 60].replace("\n", " ").replace("\t", " ")
        width = max(1, min(self.at, start + len(shown)) - self.begin)
        mark = " " * (self.begin - start) + "^" * width
        return SpecError(
            f"{message}\n  {shown}\n  {mark}",
            where=self.where,
            hint='the grammar is in Spack\'s manual, chapter "Spec syntax"',
        )

    def _why_not(self) -> str:
        self.begin = self.at
        if self._file() or self.text[self.at] == ".":
            return "a file name: a spec must be written out here"
        if _WORD.match(self.text, self.at) or self.text[self.at] in "/*":
            return "two specs where one is expected"
        return "unexpected characters in a spec"

    def _file(self) -> bool:
        return bool(_FILE.match(self.text, self.at))

    def _peek(self) -> str:
        if space := _SPACE.match(self.text, self.at):
            self.at = space.end()
        return self.text[self.at : self.at + 1]

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        if found := pattern.match(self.text, self.at):
            self.begin, self.at = self.at, found.end()
        return found

    def _node(self, node: _Node) -> _Node:
        self._name(node)
        return self._rest(node)

    def _rest(self, node: _Node) -> _Node:
        while step := self._step():
            step(node)
        return node

    def _name(self, node: _Node) -> None:
        first = self._peek()
        if first == "*":
            self.begin, self.at = self.at, self.at + 1
        elif first in ("%", "^") or not _WORD.match(self.text, self.at) or self._is_pair():
            return
        elif self._file():
            raise self._error(self._why_not())
        else:
            self._dotted(node)

    def _dotted(self, node: _Node) -> None:
        if name := self._take(_DOTTED):
            namespace, _, node.name = name[0].rpartition(".")
            node.namespace = namespace or None

    def _is_pair(self) -> bool:
        key = _KEY.match(self.text, self.at)
        if not key:
            return False
        return any(self._value_end(end) > end for end in (key.end(), key.end(2) + 1))

    def _value_end(self, start: int) -> int:
        """Where the value that begins at ``start`` ends; ``start`` itself if none begins there."""
        if self.text[start : start + 1] not in ("'", '"'):
            found = _VALUE.match(self.text, start)
            return found.end() if found else start
        sign, end, at = self.text[start], start, start
        while (at := self.text.find(sign, at + 1)) > 0:
            end = at + 1
            if self.text[at - 1] != "\\":
                break
        return end

    def _step(self) -> Callable[[_Node], None] | None:
        sign = self._peek()
        if sign == "@":
            return self._versions
        if sign and sign in "+~-":
            return self._boolean
        if sign == "/":
            if self._file():
                raise self._error(self._why_not())
            return self._hash if _HASH.match(self.text, self.at + 1) else None
        return self._pair if sign and self._is_pair() else None

    def _hash(self, node: _Node) -> None:
        self.begin = self.at
        if node.hash:
            raise self._error("two hashes in one spec")
        self.at += 1
        found = _HASH.match(self.text, self.at)
        node.hash = found[0] if found else ""
        self.at += len(node.hash)

    def _versions(self, node: _Node) -> None:
        self.begin = self.at
        self.at += 1
        if found := _GIT.match(self.text, self.at):
            self.at = found.end()
        else:
            self._peek()
            self._version_item()
            while comma := _COMMA.match(self.text, self.at):
                self.at = comma.end()
                self._version_item()
        if node.versions:
            raise self._error("two versions in one spec")
        node.versions = re.sub(r"\s", "", self.text[self.begin + 1 : self.at])
        parse_versions(node.versions)

    def _version_item(self) -> None:
        start = self.at
        for pattern in (_VERSION, None, _RANGE_END):
            if pattern is None:
                if self.text[self.at : self.at + 1] != ":":
                    break
                self.at += 1
            elif found := pattern.match(self.text, self.at):
                self.at = found.end()
        if self.at == start:
            self.at = min(self.at + 1, len(self.text))
            raise self._error("a version is missing")

    def _boolean(self, node: _Node) -> None:
        self.begin = self.at
        sign = self.text[self.at]
        twice = self.text[self.at + 1 : self.at + 2] == sign
        name = _VARIANT.match(self.text, self.at + 1 + twice)
        self.at = name.end() if name else self.at + 1
        if not name:
            raise self._error("the name of a variant is missing")
        if name[1] in (_RESERVED if twice else _NO_VARIANT):
            raise self._error(f"{name[1]} is not a variant that can be on or off")
        if name[1] in FLAGS:
            raise self._error(f"{name[1]} needs flags")
        self._variant(node, Variant(name[1], (sign == "+",), exact=True, propagate=twice))

    def _pair(self, node: _Node) -> None:
        name, exact, propagate, value = self._key_value()
        if propagate and name in _RESERVED:
            raise self._error(f"{name} cannot be propagated")
        if name in ("arch", "architecture"):
            self._triple(node, value)
        elif name in _ARCH:
            self._arch(node, {_ARCH[name]: value})
        elif name == "namespace":
            node.namespace = value
        elif name in FLAGS:
            found = [Flag(text, propagate) for text in _split_flags(value)]
            if found:
                node.flags.setdefault(name, []).extend(found)
        else:
            self._variant(node, _variant_of(name, value, exact=exact, propagate=propagate))

    def _key_value(self) -> tuple[str, bool, bool, str]:
        """Name, whether ``:=``, whether ``==``, value without its quotes."""
        key = self._take(_KEY)
        if key is None:
            raise self._error("a key is missing")
        end = self._value_end(self.at)
        if end == self.at:  # k== has the value "="
            self.at = key.end(2) + 1
            end = self._value_end(self.at)
        propagate = self.at == key.end() and key[3] == "=="
        value, self.at = self.text[self.at : end], end
        return key[1], bool(key[2]), propagate, _unquoted(value)

    def _variant(self, node: _Node, variant: Variant) -> None:
        if variant.name in node.variants:
            raise self._error(f"the variant {variant.name} stands twice in one spec")
        if len(variant.values) > 1 and "*" in variant.values:
            raise self._error("* cannot stand beside other values")
        node.variants[variant.name] = variant

    def _triple(self, node: _Node, value: str) -> None:
        parts = value.split("-")
        if len(parts) != 3:
            if node.arch:
                raise self._error("two architectures in one spec")
            self._arch(node, {"target": value})
        else:
            self._arch(node, dict(zip(("platform", "os", "target"), parts, strict=True)))

    def _arch(self, node: _Node, values: dict[str, str]) -> None:
        for key, value in values.items():
            if node.arch.get(key):
                raise self._error(f"the {key} stands twice in one spec")
            if value in _OF_HOST:
                raise self._error(f"{key}={value} is another thing on every machine")
            node.arch[key] = "" if value == "None" else value

    def _link(self) -> _Link:
        self.begin = self.at
        sign = self.text[self.at]
        preferred = self.text.startswith("%%", self.at)
        self.at += 1 + preferred
        link = _Link(_Node(), direct=sign == "%", preferred=preferred)
        if self.text[self.at : self.at + 1] == "[":
            self.at += 1
            self._attributes(link)
        elif link.direct and not self._peek():
            raise self._error("a name or an attribute is missing after %")
        node = _Node()
        if assigned := _ASSIGNED.match(self.text, self.at):
            self.at = assigned.end()
            link.virtuals += tuple(assigned[1].split(","))
            self._dotted(node)
            self._rest(node)
        else:
            self._node(node)
        if link.direct:
            node.name = ALIASES.get(node.name, node.name)
        link.node = node
        return link

    def _attributes(self, link: _Link) -> None:
        while self._peek() != "]":
            self.begin = self.at
            if not self._is_pair():
                self.at = min(self.at + 1, len(self.text))
                raise self._error("deptypes=, virtuals= or when= expected before ]")
            key = self._take(_KEY)
            end = self._value_end(self.at)
            value, self.at = self.text[self.at : end].strip("'\" "), end
            if key is None or key[3] != "=":
                raise self._error("an edge attribute is written with one =")
            self._attribute(link, key[1], value)
        self.at += 1

    def _attribute(self, link: _Link, key: str, value: str) -> None:
        if key == "virtuals":
            link.virtuals = tuple(value.split(","))
        elif key == "when":
            when = _parse(value.partition(",")[0], self.where, self.depth + 1)
            link.when = None if when.is_any else when
        elif key == "deptypes":
            types = set(value.split(","))
            if not types <= {*DEPTYPES}:
                raise self._error(f"deptypes are of {', '.join(DEPTYPES)}")
            link.deptypes = tuple(name for name in DEPTYPES if name in types)
        else:
            raise self._error(f"{key} is none of deptypes, virtuals, when")

    def _attach(self, parent: _Node, new: _Link) -> None:
        """Add an edge; a second one to the same package and of the same types is merged."""
        name = new.node.name
        rivals = [
            link
            for link in parent.links
            if (not name or link.node.name == name) and link.when == new.when
        ]
        for link in rivals:
            if name and link.deptypes == new.deptypes:
                link.node = constrain(link.frozen().node, new.frozen().node)
                link.virtuals += new.virtuals
                return
        if len(parent.links) >= _MAX_EDGES:
            raise self._error(f"more than {_MAX_EDGES} dependencies in one spec")
        add_edge(tuple(link.frozen() for link in rivals), new.frozen())
        parent.links.append(new)


def _variant_of(name: str, value: str, *, exact: bool, propagate: bool) -> Variant:
    if value.upper() in ("TRUE", "FALSE"):
        return Variant(name, (value.upper() == "TRUE",), exact=True, propagate=propagate)
    if value == "*":
        return Variant(name, (), exact=False, propagate=propagate)
    return Variant(name, tuple(sorted({*value.split(",")})), exact, propagate)


def _unquoted(value: str) -> str:
    sign = value[:1]
    if sign not in ("'", '"') or len(value) < 2 or value[-1] != sign or "\n" in value:
        return value
    return value[1:-1].replace(f"\\{sign}", sign)


def _split_flags(value: str) -> list[str]:
    """Flags with their values: a word that does not begin with ``-`` belongs to the one before."""
    flags: list[str] = []
    for word in value.split():
        if flags and not word.startswith("-"):
            flags[-1] += f" {word}"
        else:
            flags.append(word)
    return flags
