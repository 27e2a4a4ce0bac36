"""Which binaries share a layer of an image, so that an update makes people pull little.

The model: all packages are updated equally often, and an update of one changes its binaries and
those of all that depend on it, since a DAG hash covers everything below. A layer is pulled again if
one of its binaries has changed. What a layer costs is therefore its bytes, times the number of
packages whose update touches it.

Only names and rough sizes decide, never hashes: the next release has the same layers, but for what
was updated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from stackyard.lock import Lock

__all__ = ["DEFAULT_LAYERS", "MOST_IN_IMAGE", "MOST_LAYERS", "plan_layers"]

#: Folders that the Dockerfile copies, each into a layer of its own: 00 to 39.
MOST_LAYERS = 40
DEFAULT_LAYERS = 40
#: In a whole image, with those of its base: every engine takes so many.
MOST_IN_IMAGE = 100

#: All pairs of so many are looked at; of more only neighbours, until there are so few.
_PAIRED = 600


class _Group(NamedTuple):
    """Binaries that share a layer. Bits of ``names`` are the packages whose update touches it."""

    names: int
    weight: int
    hashes: tuple[str, ...]

    @property
    def cost(self) -> int:
        return self.weight * self.names.bit_count()


#: A group, and the names that it would add to those of the layers below.
_Added = tuple[int, _Group]


def plan_layers(
    lock: Lock, sizes: Mapping[str, int], most: int = DEFAULT_LAYERS
) -> tuple[tuple[str, ...], ...]:
    """DAG hashes per layer, at most so many layers; the bottom one first, which changes least.

    ``sizes`` are the bytes of each binary that the image holds, by DAG hash. Within a layer hashes
    are in the order of the lock, dependencies first.
    """
    groups = _few(_units(lock, sizes), max(most, 1))
    place = {key: number for number, key in enumerate(lock.order)}
    return tuple(tuple(sorted(group.hashes, key=place.__getitem__)) for group in _ordered(groups))


def _units(lock: Lock, sizes: Mapping[str, int]) -> list[_Group]:
    """Binaries that the same updates touch: nothing is ever gained by parting them."""
    names = sorted({spec.name for spec in lock.specs.values() if not spec.external})
    bits = {name: 1 << number for number, name in enumerate(names)}
    touched: dict[str, int] = {}
    for key in lock.order:
        spec = lock.specs[key]
        mask = bits.get(spec.name, 0)  # an external is updated with the base image
        for child in spec.children:
            mask |= touched[child]
        touched[key] = mask
    units: dict[int, list[str]] = {}
    for key in lock.order:
        if key in sizes:
            units.setdefault(touched[key], []).append(key)
    return [
        _Group(mask, _rough(sum(sizes[key] for key in keys)), tuple(keys))
        for mask, keys in sorted(units.items(), key=lambda unit: (unit[0].bit_count(), unit[0]))
    ]


def _rough(size_bytes: int) -> int:
    """The next power of two: a binary that grows a little must not move others about."""
    return 1 << max(size_bytes - 1, 0).bit_length()


def _few(groups: Sequence[_Group], most: int) -> list[_Group]:
    if len(groups) > max(_PAIRED, most):
        groups = _merged(groups, max(_PAIRED, most), neighbours=True)
    return _merged(groups, most, neighbours=False)


def _merged(groups: Sequence[_Group], most: int, *, neighbours: bool) -> list[_Group]:
    """Join the pair that adds the least cost, again and again, until there are few enough."""
    alive = dict(enumerate(groups))
    following = {number: number + 1 for number in alive}  # used for neighbours only
    heap = [
        (_added(one, other), i, j)
        for i, one in alive.items()
        for j, other in _partners(groups, i, neighbours=neighbours)
    ]
    heapify(heap)
    while len(alive) > most:
        added, i, j = heappop(heap)
        if i not in alive or j not in alive or _added(alive[i], alive[j]) != added:
            continue
        alive[i] = _joined(alive[i], alive.pop(j))
        if not neighbours:
            changed: Iterable[tuple[int, int]] = ((min(i, k), max(i, k)) for k in alive if k != i)
        else:
            following[i] = following.pop(j)
            changed = _beside(alive, following, i)
        for one, other in changed:
            heappush(heap, (_added(alive[one], alive[other]), one, other))
    return [alive[number] for number in sorted(alive)]


def _partners(
    groups: Sequence[_Group], i: int, *, neighbours: bool
) -> Iterable[tuple[int, _Group]]:
    end = i + 2 if neighbours else len(groups)
    return ((j, groups[j]) for j in range(i + 1, min(end, len(groups))))


def _beside(
    alive: Mapping[int, _Group], following: Mapping[int, int], i: int
) -> Iterable[tuple[int, int]]:
    """The pairs of ``i`` with those on both sides of it."""
    if following[i] in alive:
        yield i, following[i]
    before = next((k for k in range(i - 1, -1, -1) if k in alive), None)
    if before is not None:
        yield before, i


def _joined(one: _Group, other: _Group) -> _Group:
    return _Group(one.names | other.names, one.weight + other.weight, one.hashes + other.hashes)


def _added(one: _Group, other: _Group) -> int:
    both = (one.weight + other.weight) * (one.names | other.names).bit_count()
    return both - one.cost - other.cost


def _ordered(groups: Iterable[_Group]) -> list[_Group]:
    """What changes least at the bottom.

    Docker's older store knows a layer by all below it too, and pulls everything above one that has
    changed. So the next layers are those that add the fewest reasons for a change to all above, for
    their bytes, together with what adds no more reasons than they do.
    """
    left = list(groups)
    seen = 0
    ordered: list[_Group] = []
    while left:
        added = [(group.names & ~seen, group) for group in left]
        bundles = [(names, _within(added, names)) for names, _ in added]
        _, together = min(bundles, key=lambda one: _price(*one))
        following = min(together, key=lambda one: (one[0].bit_count(), -one[1].weight))[1]
        left.remove(following)
        seen |= following.names
        ordered.append(following)
    return ordered


def _within(added: Iterable[_Added], names: int) -> list[_Added]:
    """The groups that add no other names than these."""
    return [one for one in added if not one[0] & ~names]


def _price(names: int, together: Sequence[_Added]) -> float:
    return names.bit_count() / sum(group.weight for _, group in together)
