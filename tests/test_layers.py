"""Which binaries share a layer: few layers, stable ones, and little to pull after an update."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from locks import EXTERNAL, document, key, lock, node, text

from stackyard.layers import DEFAULT_LAYERS, MOST_LAYERS, plan_layers
from stackyard.lock import Lock, parse_lock

Layers = tuple[tuple[str, ...], ...]


def dice(seed: object) -> random.Random:
    """The same throws for the same seed, wherever the tests run."""
    return random.Random(str(seed))  # noqa: S311 - nothing is kept secret by it


def touched(made: Lock) -> dict[str, frozenset[str]]:
    """Names of the packages whose update changes a binary, the plain way."""
    found: dict[str, frozenset[str]] = {}
    for one in made.order:
        spec = made.specs[one]
        below = (found[child] for child in spec.children)
        own = frozenset() if spec.external else frozenset({spec.name})
        found[one] = own.union(*below)
    return found


def cost(layers: Sequence[Sequence[str]], made: Lock, sizes: Mapping[str, int]) -> int:
    """What all updates together make people pull."""
    names = touched(made)
    return sum(
        sum(sizes[one] for one in layer) * len(frozenset().union(*(names[one] for one in layer)))
        for layer in layers
        if layer
    )


def drawn(made: Lock, seed: int = 0) -> dict[str, int]:
    """Sizes as those of real binaries are spread: most are small, few are huge."""
    return {
        one: int(5e5 * math.exp(dice(f"{seed} {made.specs[one].name}").gauss(0, 2))) + 1
        for one in made.order
        if not made.specs[one].external
    }


def even(made: Lock, size: int = 100) -> dict[str, int]:
    return dict.fromkeys((one for one in made.order if not made.specs[one].external), size)


def named(layers: Layers, made: Lock) -> list[str]:
    return ["+".join(made.specs[one].name for one in layer) for layer in layers]


CHAIN = lock({"app": ["lib"], "lib": ["base"], "base": []})
FORK = lock({"one": ["base"], "two": ["base"], "base": []})
SHARED = lock(
    [
        node("base"),
        node("lib", ["base"]),
        node("lib", ["base"], hash=key("libx")),
        node("gcc", **EXTERNAL),
    ],
    roots=["lib", "libx"],
)


@pytest.mark.parametrize(
    ("made", "sizes", "most", "expected"),
    [
        pytest.param(CHAIN, {}, 3, ["base", "lib", "app"], id="what changes least lies below"),
        pytest.param(CHAIN, {}, 40, ["base", "lib", "app"], id="no more layers than binaries"),
        pytest.param(CHAIN, {}, 1, ["base+lib+app"], id="one for all"),
        pytest.param(CHAIN, {"app": 9000}, 2, ["base+lib", "app"], id="what is large stays alone"),
        pytest.param(CHAIN, {"base": 9000}, 2, ["base", "lib+app"], id="the same, below"),
        pytest.param(FORK, {"base": 9000}, 2, ["base", "one+two"], id="small ones together"),
        pytest.param(SHARED, {}, 40, ["base", "lib+lib"], id="the same updates touch both"),
        pytest.param(CHAIN, {}, 0, ["base+lib+app"], id="at least one"),
    ],
)
def test_what_shares_a_layer(
    made: Lock, sizes: Mapping[str, int], most: int, expected: list[str]
) -> None:
    given = even(made) | {key(name): size for name, size in sizes.items()}
    assert named(plan_layers(made, given, most), made) == expected


def test_nothing_has_no_layers() -> None:
    assert plan_layers(lock([node("gcc", **EXTERNAL)]), {}, 5) == ()
    assert DEFAULT_LAYERS <= MOST_LAYERS


def test_only_what_has_a_size_is_laid_out() -> None:
    assert named(plan_layers(CHAIN, {key("lib"): 1}, 5), CHAIN) == ["lib"]


@pytest.mark.parametrize("most", [1, 2, 7, 40, 300])
def test_each_binary_lies_in_one_layer(tutorial_lock: Lock, most: int) -> None:
    sizes = drawn(tutorial_lock)
    layers = plan_layers(tutorial_lock, sizes, most)
    assert sorted(itertools.chain(*layers)) == sorted(sizes)
    assert 1 <= len(layers) <= most
    place = {one: number for number, one in enumerate(tutorial_lock.order)}
    assert all(list(layer) == sorted(layer, key=place.__getitem__) for layer in layers)


def partitions(items: Sequence[str]) -> Iterator[list[list[str]]]:
    if not items:
        yield []
        return
    first, *rest = items
    for smaller in partitions(rest):
        yield [[first], *smaller]
        for number, part in enumerate(smaller):
            yield [*smaller[:number], [first, *part], *smaller[number + 1 :]]


@pytest.mark.parametrize("seed", range(12))
def test_near_the_best_of_all_ways(seed: int) -> None:
    """Against every way to lay seven packages out, with sizes that need no rounding."""
    dices = dice(seed)
    names = "abcdefg"
    made = lock(
        {name: [n for n in names[:i] if dices.random() < 0.4] for i, name in enumerate(names)},
        roots=list(names),
    )
    sizes = {key(name): 2 ** dices.randrange(12) for name in names}
    best = min(
        cost(way, made, sizes) for way in partitions([key(n) for n in names]) if len(way) <= 3
    )
    assert cost(plan_layers(made, sizes, 3), made, sizes) <= 1.1 * best


def renamed(made: Lock, name: str) -> tuple[Lock, dict[str, str]]:
    """The lock after an update of one package: other hashes for it and all that depend on it."""
    names = touched(made)
    new = {
        one: "".join(dice(one).choices("abcdefghijklmnopqrstuvwxyz234567", k=32))
        if name in names[one]
        else one
        for one in made.order
    }
    nodes: list[dict[str, Any]] = []
    for one in made.order:
        spec = dict(made.specs[one].node)
        spec["hash"] = new[one]
        spec["dependencies"] = [
            {**edge, "hash": new[edge["hash"]]} for edge in spec.get("dependencies", ())
        ]
        nodes.append(spec)
    whole = document(nodes, roots=["x"])
    whole["roots"] = [{"hash": new[root.hash], "spec": root.spec} for root in made.roots]
    return parse_lock(text(whole), "spack.lock"), new


@pytest.mark.parametrize("name", ["zlib-ng", "hdf5", "gmake"])
def test_an_update_moves_nothing(tutorial_lock: Lock, name: str) -> None:
    sizes = drawn(tutorial_lock)
    before = plan_layers(tutorial_lock, sizes, 40)
    after, new = renamed(tutorial_lock, name)
    assert any(new[one] != one for one in new)
    again = plan_layers(after, {new[one]: size for one, size in sizes.items()}, 40)
    assert [frozenset(new[one] for one in layer) for layer in before] == [*map(frozenset, again)]


def test_the_order_of_keys_does_not_matter(small_lock: Lock) -> None:
    sizes = drawn(small_lock)
    turned = small_lock._replace(specs=dict([*small_lock.specs.items()][::-1]))
    back = dict([*sizes.items()][::-1])
    assert plan_layers(turned, back, 5) == plan_layers(small_lock, sizes, 5)


def test_a_layer_for_what_changes_saves_most_of_the_bytes(tutorial_lock: Lock) -> None:
    """Near what a layer for each package would cost, which no engine allows."""
    sizes = drawn(tutorial_lock)
    alone = cost([[one] for one in sizes], tutorial_lock, sizes)
    one_layer = cost([list(sizes)], tutorial_lock, sizes)
    ours = cost(plan_layers(tutorial_lock, sizes, DEFAULT_LAYERS), tutorial_lock, sizes)
    assert ours < 1.1 * alone
    assert ours < 0.25 * one_layer


def test_what_lies_below_is_touched_less(tutorial_lock: Lock) -> None:
    """Engines that pull all above a changed layer pull less than in the order of the lock."""
    sizes = drawn(tutorial_lock)
    layers = plan_layers(tutorial_lock, sizes, 40)
    names = touched(tutorial_lock)

    def pulled(order: Sequence[Sequence[str]]) -> int:
        seen: frozenset[str] = frozenset()
        total = 0
        for layer in order:
            seen = seen.union(*(names[one] for one in layer))
            total += len(seen) * sum(sizes[one] for one in layer)
        return total

    assert pulled(layers) < pulled(
        sorted(layers, key=lambda layer: tutorial_lock.order.index(layer[0]))
    )
    assert pulled(layers) < pulled(layers[::-1])


def test_a_large_stack() -> None:
    """More kinds of binaries than pairs are looked at of."""
    dices = dice(7)
    names = [f"p{number}" for number in range(900)]
    hashes = {
        name: "".join(dices.choices("abcdefghijklmnopqrstuvwxyz234567", k=32)) for name in names
    }
    nodes = []
    for number, name in enumerate(names):
        one = node(name, hash=hashes[name])
        below = sorted({dices.randrange(number) for _ in range(3)}) if number else []
        one["dependencies"] = [
            {
                "name": names[other],
                "hash": hashes[names[other]],
                "parameters": {"deptypes": ["link"], "virtuals": []},
            }
            for other in below
        ]
        nodes.append(one)
    whole = document(nodes, roots=["x"])
    whole["roots"] = [{"hash": hashes["p899"], "spec": "p899"}]
    made = parse_lock(text(whole), "spack.lock")
    sizes = drawn(made)
    layers = plan_layers(made, sizes, 40)
    assert len(layers) == 40
    assert sorted(itertools.chain(*layers)) == sorted(sizes)
    in_order = [made.order[number : number + 23] for number in range(0, 900, 23)]
    assert cost(layers, made, sizes) < cost(in_order, made, sizes)
