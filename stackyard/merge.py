"""Merge and unmerge configuration the way Spack does, without changing what is given.

Follows Spack 1.1: ``merge_yaml`` in ``schema/__init__.py``, ``remove_yaml`` and
``_process_dict_keyname_overrides`` in ``config.py``, ``construct_yaml_str`` in
``util/spack_yaml.py``. A *directive* is the end of a key: ``:`` replaces, ``+`` puts the source's
text or items first, ``-`` puts them last. Two rules decide what counts:

- Spack's YAML loader takes one final ``:`` off any text without ``@``, keys and values alike, and
  knows only this directive. That is all when files are merged: ``merge_config``.
- Job attributes are looked at again, in mappings but not through lists: there all three
  directives hold, with or without ``@``: ``merge_yaml`` and ``remove_yaml``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = [
    "key_name",
    "literal",
    "loaded",
    "loaded_values",
    "merge_config",
    "merge_yaml",
    "overrides",
    "remove_yaml",
]


class _Overriding(str):
    """A key that was written with ``::``. In a result it still replaces, where that is a source."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{super().__repr__()}:"


class _Directive(NamedTuple):
    name: Any
    override: bool = False
    prepend: bool = False
    append: bool = False


class _Literal(str):
    """A key that says nothing but its name."""

    __slots__ = ()


def literal(value: Any) -> Any:
    """The value with keys that ``merge_yaml`` takes as they are, whatever their ends."""
    if isinstance(value, Mapping):
        return {_Literal(key): literal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [literal(item) for item in value]
    return value


def _load(text: Any) -> tuple[Any, bool]:
    """The text as Spack's loader gives it, and whether it lost a colon."""
    if isinstance(text, _Literal):
        return text, False
    if isinstance(text, str) and text.endswith(":") and "@" not in text:
        return text[:-1], True
    return text, False


def key_name(key: Any) -> Any:
    """The key as Spack's loader names it: ``tags:`` is ``tags``, ``tags+`` stays ``tags+``."""
    return _load(key)[0]


def loaded(value: Any) -> Any:
    """The value as Spack's loader gives it: final colons gone from keys and values at all depths."""
    if isinstance(value, str):
        return _load(value)[0]
    if isinstance(value, Mapping):
        return {_load(key)[0]: loaded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [loaded(item) for item in value]
    return value


def loaded_values(value: Any) -> Any:
    """As ``loaded``, but keys keep their directives, for a later ``merge_yaml``."""
    if isinstance(value, str):
        return _load(value)[0]
    if isinstance(value, Mapping):
        return {key: loaded_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [loaded_values(item) for item in value]
    return value


def overrides(mapping: Mapping[Any, Any], name: str) -> bool:
    """Whether the key ``name`` of a merged mapping was written with ``::``."""
    return any(key == name and isinstance(key, _Overriding) for key in mapping)


def _directive(key: Any) -> _Directive:
    if isinstance(key, _Overriding | _Literal):
        return _Directive(key, override=isinstance(key, _Overriding))
    name, override = _load(key)
    if isinstance(name, str):
        if name.endswith("+"):
            return _Directive(name[:-1], prepend=True)
        if name.endswith("-"):
            return _Directive(name[:-1], append=True)
        if override or name.endswith(":"):
            return _Directive(_Overriding(name.removesuffix(":")), override=True)
    return _Directive(name)


def _entries(source: Mapping[Any, Any]) -> dict[Any, tuple[_Directive, Any]]:
    """Name → directive and value.

    Of two keys with one name, the first gives directive and place, the last the value.
    """
    entries: dict[Any, tuple[_Directive, Any]] = {}
    for key, value in source.items():
        directive = _directive(key)
        first = entries.get(directive.name)
        entries[directive.name] = (first[0] if first else directive, value)
    return entries


def _named(value: Any) -> Any:
    """The value with the directives of its mappings taken off; those inside lists keep ``+``, ``-``."""
    if isinstance(value, Mapping):
        return {name: _named(item) for name, (_, item) in _entries(value).items()}
    return _listed(value)


def _listed(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_listed(item) for item in value]
    if isinstance(value, Mapping):
        return {_load(key)[0]: _listed(item) for key, item in value.items()}
    return value


def _without(items: list[Any], unwanted: list[Any], read: Callable[[Any], Any]) -> list[Any]:
    """The items that, once read, equal none of the unwanted.

    They compare as in Python, so that 1 is 1.0 and true. Texts go through a set: lists get long.
    """
    texts = {item for item in unwanted if isinstance(item, str)}
    others = [item for item in unwanted if not isinstance(item, str)]

    def is_wanted(item: Any) -> bool:
        return item not in texts if isinstance(item, str) else item not in others

    return [item for item in items if is_wanted(read(item))]


def _as_is(value: Any) -> Any:
    return value


def merge_yaml(dest: Any, source: Any) -> Any:
    """``source`` merged into ``dest`` as Spack merges job attributes; ``source`` wins.

    ``source`` has raw keys, ``dest`` plain ones (``{}``, or an earlier result). In the result,
    keys and items of ``source`` come first. Null in ``source`` gives null.
    """
    return _merge(dest, source, _Directive(None))


def _merge(dest: Any, source: Any, how: _Directive) -> Any:
    if isinstance(dest, list) and isinstance(source, list | tuple):
        items = _listed(source)
        rest = _without(dest, items, _as_is)
        return rest + items if how.append else items + rest
    if isinstance(dest, Mapping) and isinstance(source, Mapping):
        result: dict[Any, Any] = {}
        for name, (directive, value) in _entries(source).items():
            if name in dest and not directive.override:
                result[name] = _merge(dest[name], value, directive)
            else:
                result[name] = _named(value)
        result.update((name, value) for name, value in dest.items() if name not in result)
        return result
    if isinstance(dest, str) and isinstance(source, str):
        if how.prepend:
            return source + dest
        if how.append:
            return dest + source
    return _named(source)


def remove_yaml(dest: Any, source: Any) -> Any:
    """``dest`` without what ``source`` lists; only lists lose items, and ``key::`` drops a key.

    Keys are as for ``merge_yaml``. Keys that both have move to the end, in the source's order.
    """
    if isinstance(dest, list) and isinstance(source, list | tuple):
        return _without(dest, _listed(source), _as_is)
    if isinstance(dest, Mapping) and isinstance(source, Mapping):
        entries = _entries(source)
        result = {name: value for name, value in dest.items() if name not in entries}
        for name, (directive, value) in entries.items():
            if name in dest and not directive.override:
                result[name] = remove_yaml(dest[name], value)
        return result
    return dest


def merge_config(dest: Any, source: Any) -> Any:
    """``source`` merged into ``dest`` as Spack merges configuration files; ``source`` wins.

    Both have raw keys, and so has the result: a directive stays on its key, as Spack keeps it on
    the merged section. Texts that Spack's loader makes equal are equal here.
    """
    if isinstance(dest, list) and isinstance(source, list | tuple):
        return [*source, *_without(dest, loaded(source), loaded)]
    if isinstance(dest, Mapping) and isinstance(source, Mapping):
        old = {key_name(key): value for key, value in dest.items()}
        result: dict[Any, Any] = {}
        for key, value in source.items():
            name, override = _load(key)
            merge = name in old and not override
            result[key] = merge_config(old[name], value) if merge else value
        taken = {key_name(key) for key in source}
        result.update((key, value) for key, value in dest.items() if key_name(key) not in taken)
        return result
    return source
