"""What changed between two locks, told as people think of it: specs by name, not by hash.

A spec that only got another hash, because something below it changed, is told with what changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from stackyard.lock import Lock, Spec

__all__ = ["Change", "LockDiff", "diff_locks", "shown_diff"]

_MANY = 8
#: Keys of a node that ``_traits`` looks at under other names, and those that say nothing.
_KNOWN = frozenset(
    {
        *("name", "hash", "version", "arch", "namespace", "parameters", "dependencies"),
        *("external", "package_hash", "build_spec", "annotations", "compiler", "concrete"),
    }
)


class Change(NamedTuple):
    """A spec that both locks have, with two hashes.

    ``fields`` is what it is itself: ``version``, ``compiler``, ``target``, ``recipe`` and others,
    and ``variant NAME``, each before and after. Without any, ``causes`` are the names of the
    specs below it that changed.
    """

    old: Spec
    new: Spec
    fields: Mapping[str, tuple[Any, Any]]
    causes: tuple[str, ...] = ()


class LockDiff(NamedTuple):
    """From an old lock to a new one; all in the order of the new lock, dependencies first."""

    added: tuple[Spec, ...]
    removed: tuple[Spec, ...]
    changed: tuple[Change, ...]
    rehashed: tuple[Change, ...]
    same: int
    asked: tuple[str, ...]
    dropped: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.rehashed) or bool(
            self.asked or self.dropped
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "added": [_named(spec) for spec in self.added],
            "removed": [_named(spec) for spec in self.removed],
            "changed": [
                {
                    "name": one.new.name,
                    "hash": [one.old.hash, one.new.hash],
                    "changes": {key: list(pair) for key, pair in one.fields.items()},
                }
                for one in self.changed
            ],
            "rehashed": [
                {
                    "name": one.new.name,
                    "version": one.new.version,
                    "hash": [one.old.hash, one.new.hash],
                    "because": list(one.causes),
                }
                for one in self.rehashed
            ],
            "unchanged": self.same,
            "roots": {"added": list(self.asked), "removed": list(self.dropped)},
        }


def _named(spec: Spec) -> dict[str, str]:
    return {"name": spec.name, "version": spec.version, "hash": spec.hash}


def diff_locks(old: Lock, new: Lock) -> LockDiff:
    """The difference. Specs of one name are paired by how much they are alike."""
    gone = [old.specs[key] for key in old.order if key not in new.specs]
    come = [new.specs[key] for key in new.order if key not in old.specs]
    pairs = _pair(old, new, gone, come)
    before = {old_spec.hash for old_spec in pairs.values()}
    changed, rehashed = [], []
    causes: dict[str, tuple[str, ...]] = {}
    for spec in come:
        was = pairs.get(spec.hash)
        if was is None:
            continue
        fields = _differences(_traits(old, was), _traits(new, spec))
        if not fields:
            causes[spec.hash] = _causes(was, spec, new, causes)
        if causes.get(spec.hash):
            rehashed.append(Change(was, spec, {}, causes[spec.hash]))
        else:
            changed.append(Change(was, spec, fields))
    first, second = ([root.spec for root in lock.roots] for lock in (old, new))
    return LockDiff(
        added=tuple(spec for spec in come if spec.hash not in pairs),
        removed=tuple(spec for spec in gone if spec.hash not in before),
        changed=tuple(changed),
        rehashed=tuple(rehashed),
        same=len(new.specs) - len(come),
        asked=tuple(text for text in dict.fromkeys(second) if text not in first),
        dropped=tuple(text for text in dict.fromkeys(first) if text not in second),
    )


def _causes(
    was: Spec, spec: Spec, lock: Lock, known: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """What made the hash another one; ``known`` are the causes of all specs below."""
    kept = set(was.children)
    found = dict.fromkeys(
        name
        for key in spec.children
        if key not in kept
        for name in known.get(key) or (lock.specs[key].name,)
    )
    return tuple(sorted(found))


# -- pairs ----------------------------------------------------------------------------------


def _pair(old: Lock, new: Lock, gone: Sequence[Spec], come: Sequence[Spec]) -> Mapping[str, Spec]:
    """For hashes of the new lock the spec of the old one that each took the place of."""
    by_name: dict[str, list[Spec]] = {}
    for spec in gone:
        by_name.setdefault(spec.name, []).append(spec)
    wanted: dict[str, list[Spec]] = {}
    for spec in come:
        wanted.setdefault(spec.name, []).append(spec)
    pairs: dict[str, Spec] = {}
    for name, news in wanted.items():
        olds = by_name.get(name, [])
        if len(olds) == len(news) == 1:
            pairs[news[0].hash] = olds[0]
        elif olds:
            pairs.update(_best(old, new, olds, news))
    return pairs


def _best(
    old: Lock, new: Lock, olds: Sequence[Spec], news: Sequence[Spec]
) -> Iterator[tuple[str, Spec]]:
    """The most alike first, until one side has none left."""
    left = [(spec, _traits(old, spec), _texts(old, spec)) for spec in olds]
    right = [(spec, _traits(new, spec), _texts(new, spec)) for spec in news]
    scores = sorted(
        (-_likeness(a, b, asked & wanted), i, j)
        for i, (_, a, asked) in enumerate(left)
        for j, (_, b, wanted) in enumerate(right)
    )
    free, open_ = set(range(len(olds))), set(range(len(news)))
    for _, i, j in scores:
        if i in free and j in open_:
            free.remove(i)
            open_.remove(j)
            yield news[j].hash, olds[i]


def _texts(lock: Lock, spec: Spec) -> frozenset[str]:
    return frozenset(root.spec for root in lock.roots if root.hash == spec.hash)


def _likeness(a: Mapping[str, Any], b: Mapping[str, Any], asked: frozenset[str]) -> int:
    """Who asked for it tells most, then its version, then each thing that is the same."""
    same = sum(bool(a[key] == b.get(key)) for key in a)
    return 1000 * bool(asked) + 100 * bool(a["version"] == b["version"]) + same


# -- what a spec is itself ------------------------------------------------------------------


def _traits(lock: Lock, spec: Spec) -> dict[str, Any]:
    """All that the node says of itself, flat; its dependencies by name, not by hash."""
    node = spec.node
    made: dict[str, Any] = {
        "version": spec.version,
        **{f"variant {name}": value for name, value in spec.parameters.items()},
        "compiler": _compiler(lock, spec),
        "target": spec.target,
        "os": spec.os,
        "platform": spec.platform,
        "namespace": spec.namespace,
        "external": _external(node.get("external")),
        "recipe": node.get("package_hash"),
        "spliced from": spec.build_spec or None,
        "format": spec.format,
        "dependencies": sorted(
            " ".join((one.name, *one.deptypes, *one.virtuals)) for one in spec.dependencies
        ),
    }
    made.update((key, value) for key, value in node.items() if key not in _KNOWN)
    return made


def _compiler(lock: Lock, spec: Spec) -> str | None:
    if key := spec.compiler:
        return f"{lock.specs[key].name}@{lock.specs[key].version}"
    return "@".join(spec.legacy_compiler) if spec.legacy_compiler else None


def _external(value: Any) -> Any:
    return (value.get("path") or value.get("module")) if value else None


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = dict.fromkeys((*a, *b))
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}


# -- for people -----------------------------------------------------------------------------


def shown_diff(diff: LockDiff) -> tuple[str, ...]:
    """Lines of text, the first sign of each as in a diff; hashes only where names are not enough."""
    lines = [f"+ {spec.name}@{spec.version}" for spec in diff.added]
    lines += [f"- {spec.name}@{spec.version}" for spec in diff.removed]
    for one in diff.changed:
        whole = "; ".join(_shown(key, *pair) for key, pair in one.fields.items())
        version = "" if "version" in one.fields else f"@{one.new.version}"
        lines.append(f"~ {one.new.name}{version}: {whole or 'only its hash'}")
    groups: dict[tuple[str, ...], list[str]] = {}
    for one in diff.rehashed:
        groups.setdefault(one.causes, []).append(f"{one.new.name}@{one.new.version}")
    for causes, names in groups.items():
        lines.append(f"# only by hash, because of {_few(causes)}: {_few(names)}")
    lines += [f"+ root {text}" for text in diff.asked]
    lines += [f"- root {text}" for text in diff.dropped]
    return (*lines, f"= {diff.same} unchanged")


def _few(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _MANY} more" if len(every) > _MANY else ""
    return ", ".join(every[:_MANY]) + more


def _shown(key: str, old: Any, new: Any) -> str:
    if key.startswith("variant "):
        name = key.removeprefix("variant ")
        return f"{_variant(name, old)} -> {_variant(name, new)}"
    if key == "dependencies":
        return _needs(old, new)
    if key == "recipe":
        return "its recipe"
    return f"{key} {_value(old)} -> {_value(new)}"


def _variant(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"{'+' if value else '~'}{name}"
    return f"no {name}" if value is None else f"{name}={_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None or value == "" else str(value)


def _needs(old: Sequence[str], new: Sequence[str]) -> str:
    before, after = ({text.split(" ", 1)[0] for text in side} for side in (old, new))
    parts = [f"needs {name}" for name in sorted(after - before)]
    parts += [f"no longer needs {name}" for name in sorted(before - after)]
    return ", ".join(parts) or "needs the same in another way"
