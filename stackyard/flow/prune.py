"""``mirror.prune``: delete what no lock, pin or age keeps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from stackyard.edges import console
from stackyard.edges.stores.store import WritableStore, writable
from stackyard.errors import ConfigError, CorruptError, NotFoundError, SpecError
from stackyard.flow.listing import spec_patterns
from stackyard.settings import Prune, make_settings

if TYPE_CHECKING:
    from stackyard.edges.mirrors.pruning import Stock
    from stackyard.flow.steps import Project
    from stackyard.prune import Policy, PrunePlan

__all__ = ["prune"]


def prune(  # noqa: PLR0913 - the task's arguments
    *,
    url: str = "",
    stacks: Sequence[str] = (),
    refs: Sequence[str] = (),
    pins: Sequence[str] = (),
    keep_days: str = "",
    grace_hours: str = "",
    yes: bool = False,
    as_json: bool = False,
) -> None:
    """Show what goes and why; with ``yes`` delete it.

    Raises ConfigError where nothing is said to be kept or nothing would be.
    """
    from stackyard.flow.keeping import find_keepers
    from stackyard.flow.places import find_project, named_place
    from stackyard.prune import Policy, prune_json, prune_text

    project = find_project()
    place = named_place(project, url, flag="--url", push=True)
    asked = Prune(refs=tuple(refs), stacks=tuple(stacks), keep=tuple(pins))
    wanted = _wanted(project, asked, keep_days, grace_hours)
    spec_patterns(wanted.keep, "--keep")
    policy = Policy(
        keepers=find_keepers(project, wanted.stacks, wanted.refs),
        pins=wanted.keep,
        keep_days=wanted.keep_days,
        grace_hours=wanted.grace_hours,
        now_s=time.time(),
    )
    with closing(place.open()) as opened:
        store = writable(opened)
        stocks = _take_stock(store, policy)
        plan = _plan(store, stocks, policy)
        _refuse_emptying(plan, store.url)
        if not as_json:
            console.out(console.printable(prune_text(plan, policy)))
        _refuse_unknown(stocks, store.url, yes=yes)
        if yes:
            _carry_out(store, stocks, plan, policy)
    if as_json:
        console.out(prune_json(plan, policy, url=store.url, done=yes))
    if not yes and plan.gone:
        console.note("nothing was deleted: that needs --yes")


def _wanted(project: Project | None, asked: Prune, keep_days: str, grace_hours: str) -> Prune:
    """What arguments and settings ask to keep together."""
    ours = make_settings(project.settings).prune if project else Prune()
    wanted = Prune(
        refs=(*ours.refs, *asked.refs),
        stacks=(*ours.stacks, *asked.stacks),
        keep=(*ours.keep, *asked.keep),
        keep_days=_number(keep_days, ours.keep_days, "--keep-days"),
        grace_hours=_number(grace_hours, ours.grace_hours, "--grace-hours"),
    )
    if not (wanted.refs or wanted.stacks or wanted.keep or wanted.keep_days):
        raise ConfigError(
            "nothing is said to be kept",
            where="mirror.prune",
            hint="name it: --stack, --ref, --keep or --keep-days, or prune: in the settings",
        )
    return wanted


def _number(text: str, default: float, flag: str) -> float:
    if not text.strip():
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ConfigError(f"{text!r} is no number of {flag.rpartition('-')[2]}", where=flag)
    return number


def _take_stock(store: WritableStore, policy: Policy) -> tuple[Stock, ...]:
    from stackyard.edges.mirrors.contents import held_layouts
    from stackyard.edges.mirrors.pruning import stock

    layouts = held_layouts(store)
    if not layouts:
        raise NotFoundError("there is no mirror", where=store.url, hint="is the URL right?")
    whole = bool(policy.pins or policy.keep_days)
    return tuple(stock(store, layout, whole=whole, bar=console.bar) for layout in layouts)


def _plan(store: WritableStore, stocks: Sequence[Stock], policy: Policy) -> PrunePlan:
    from stackyard.edges.mirrors.pruning import loose_blobs
    from stackyard.prune import PrunePlan, decide, sort_loose

    holdings = [holding for stock in stocks for holding in stock.holdings]
    kept, gone = decide(holdings, policy, _pinned(stocks, policy, store.url))
    if any(stock.layout == "oci" for stock in stocks):
        return PrunePlan(kept, gone, None)
    stay = {blob.key for choice in kept for blob in choice.holding.blobs}
    loose = [
        one
        for stock in stocks
        for one in loose_blobs(store, stock.layout, stock.files, stay | stock.others.named)
    ]
    return PrunePlan(kept, gone, sort_loose(loose, policy))


def _pinned(stocks: Sequence[Stock], policy: Policy, url: str) -> Mapping[str, str]:
    """The pin that holds for each pinned binary, by DAG hash."""
    from stackyard.listing import matching, spec_graph

    if not policy.pins:
        return {}
    graph = spec_graph((spec for stock in stocks for spec in stock.specs.values()), url)
    pinned: dict[str, str] = {}
    for text in policy.pins:
        try:
            found = matching(graph, spec_patterns((text,), "--keep"))
        except SpecError as error:
            raise SpecError(error.message, where="--keep", hint=error.hint) from None
        if not found:
            console.warn(f"--keep {text!r} holds for nothing here")
        for dag_hash in found:
            pinned.setdefault(dag_hash, text)
    return pinned


def _refuse_emptying(plan: PrunePlan, url: str) -> None:
    """Nobody wants that; a wrong URL or a wrong lock looks just like it."""
    if plan.gone and not plan.kept:
        raise ConfigError(
            f"nothing of the mirror would be kept: all {len(plan.gone)} binaries would go",
            where=url,
            hint="is it the right mirror, and are these the right locks? "
            "to give a mirror up, delete it by hand",
        )


def _refuse_unknown(stocks: Sequence[Stock], url: str, *, yes: bool) -> None:
    """A manifest that cannot be read may name any blob."""
    problems = {key: error for stock in stocks for key, error in stock.problems.items()}
    if not problems:
        return
    key, error = next(iter(problems.items()))
    text = f"{len(problems)} manifests cannot be read, such as {key}: {error.message}"
    if not yes:
        console.warn(f"{text}; nothing can be deleted until that is mended")
        return
    raise CorruptError(
        f"{text}; nothing was deleted, because they may name what would go",
        where=url,
        hint="mend it first: stackyard mirror.verify --repair",
    )


def _carry_out(
    store: WritableStore, stocks: Sequence[Stock], plan: PrunePlan, policy: Policy
) -> None:
    from stackyard.edges.mirrors.pruning import carry_out

    count = 0
    for stock in stocks:
        gone = [one.holding for one in plan.gone if one.holding.layout == stock.layout]
        count += carry_out(store, stock, gone, policy, told=console.note, bar=console.bar)
    if count:
        console.note(f"removed {count} blobs")
    views = [
        key
        for stock in stocks
        for key in (other.key for other in stock.others.manifests)
        if key.startswith("v3/manifests/index/") and key.count("/") > 3
    ]
    for key in views if plan.gone else ():
        console.warn(f"{key} is a view that Spack made: make it anew, it may name what is gone")
