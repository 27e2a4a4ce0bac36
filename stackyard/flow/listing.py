"""``mirror.list``: what a mirror holds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from stackyard.edges import console
from stackyard.errors import CorruptError, NotFoundError, SpecError, StoreError

if TYPE_CHECKING:
    from stackyard.binary import Binary
    from stackyard.edges.stores.store import Store
    from stackyard.listing import Held
    from stackyard.lock import Spec
    from stackyard.mirror import Layout
    from stackyard.pattern import Pattern

__all__ = ["list_mirror", "spec_patterns"]


class _Found(NamedTuple):
    """The specs that a mirror tells of, and which of them it has binaries of, by hash.

    ``problems`` are of manifests and specs that cannot be read, by key.
    """

    specs: dict[str, Spec]
    layouts: dict[str, Layout]
    binaries: dict[str, Binary]
    problems: dict[str, StoreError]


def list_mirror(
    *, url: str = "", match: Sequence[str] = (), sizes: bool = False, as_json: bool = False
) -> None:
    """Print what a mirror holds: as its index says, or as its manifests say."""
    from stackyard.flow.places import find_project, named_place
    from stackyard.listing import list_json, list_table

    patterns = spec_patterns(match, "--match")
    place = named_place(find_project(), url, flag="--url")
    with closing(place.open()) as store:
        found = _found(store, sizes=sizes)
        held = _held(found, patterns, store.url)
        url = store.url
    if as_json:
        console.out(list_json(held, url))
    elif held:
        console.out(list_table(held))
    verb = (" matches" if len(held) == 1 else " match") if patterns else ""
    console.note(f"{len(held)} {'binary' if len(held) == 1 else 'binaries'}{verb}: {url}")
    _refuse_gaps(found, url)


def _refuse_gaps(found: _Found, url: str) -> None:
    """What cannot be read may be what was looked for."""
    if not found.problems:
        return
    key, error = next(iter(found.problems.items()))
    raise CorruptError(
        f"{len(found.problems)} binaries cannot be read and are not in the list, such as {key}: "
        f"{error.message}",
        where=url,
        hint="look closer with: stackyard mirror.verify",
    )


def spec_patterns(texts: Sequence[str], flag: str) -> tuple[Pattern, ...]:
    """Spec strings of a command line. Raises SpecError naming the argument."""
    from stackyard.spec import parse_pattern

    for text in texts:
        if not text.strip():
            raise SpecError("an empty spec", where=flag, hint="is a variable not set?")
    return tuple(parse_pattern(text, flag) for text in texts)


def _held(found: _Found, patterns: Sequence[Pattern], url: str) -> tuple[Held, ...]:
    from stackyard.listing import Held, compiler_text, matching, spec_graph

    chosen = set(found.layouts)
    if patterns:
        chosen &= matching(spec_graph(found.specs.values(), url), patterns)

    def held(key: str) -> Held:
        spec, binary = found.specs[key], found.binaries.get(key)
        return Held(
            spec=spec,
            layout=found.layouts[key],
            compiler=compiler_text(spec, found.specs),
            signed=binary.signed if binary else None,
            size_bytes=binary.tarball.size_bytes if binary else None,
        )

    everything = [held(key) for key in chosen]
    return tuple(
        sorted(everything, key=lambda one: (one.spec.name, one.spec.version, one.spec.hash))
    )


def _found(store: Store, *, sizes: bool) -> _Found:
    """What all layouts of a mirror hold together; a newer layout counts before an older."""
    from stackyard.edges.mirrors.contents import held_layouts, indexed_specs

    found = _Found({}, {}, {}, {})
    layouts = held_layouts(store)
    if not layouts:
        raise NotFoundError(
            "there is no mirror", where=store.url, hint="is the URL right? an empty one has nothing"
        )
    for layout in layouts:
        indexed = indexed_specs(store, layout)
        if indexed is None or sizes:
            _add_binaries(found, store, layout)
        for spec, in_buildcache in indexed or ():
            found.specs.setdefault(spec.hash, spec)
            if in_buildcache and not sizes:
                found.layouts.setdefault(spec.hash, layout)
    missing = found.layouts.keys() - found.specs.keys()
    if missing:
        _add_specs(found, store, [found.binaries[key] for key in missing])
    return found


def _add_binaries(found: _Found, store: Store, layout: Layout) -> None:
    from stackyard.edges.mirrors.contents import read_manifests, sized, tarball_sizes

    console.note("reading the manifests")
    manifests = read_manifests(
        store, layout, tick=lambda done, total: console.bar("manifests", done, total)
    )
    found.problems.update(manifests.problems)
    sizes = tarball_sizes(store, layout)
    for binary in manifests.binaries:
        found.layouts.setdefault(binary.hash, layout)
        found.binaries.setdefault(binary.hash, sized(binary, sizes))


def _add_specs(found: _Found, store: Store, binaries: Sequence[Binary]) -> None:
    """The specs of binaries that no index names, and of what they depend on."""
    from stackyard.edges.mirrors.contents import Tolerance, read_specs
    from stackyard.edges.parallel import parallel_map

    tolerance = Tolerance()

    def read(binary: Binary) -> tuple[Spec, ...] | StoreError:
        try:
            specs = read_specs(store, binary)
        except StoreError as error:
            return tolerance.note(error)
        if specs[0].hash != binary.hash:
            return CorruptError(f"it is the binary of another spec, {specs[0].hash}")
        return specs

    answers = parallel_map(
        read, binaries, workers=32, tick=lambda done, total: console.bar("specs", done, total)
    )
    for binary, answer in zip(binaries, answers, strict=True):
        if isinstance(answer, StoreError):
            found.problems[binary.key] = answer
            del found.layouts[binary.hash]
            continue
        for spec in answer:
            found.specs.setdefault(spec.hash, spec)
