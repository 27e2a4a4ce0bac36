"""Draw a plan as SVG: a document of its own, readable on light and dark ground."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from math import sqrt
from typing import Any, NamedTuple

from stackyard.graph.layout import HEIGHT, RATIO, Edge, Layout, lay_out
from stackyard.graph.rows import plan_values
from stackyard.plan import Action, Plan

__all__ = ["LABELS", "graph_svg", "picture", "text"]

#: What each decision is called in legends.
LABELS = {
    Action.BUILD: "build",
    Action.REUSE: "reuse from a mirror",
    Action.EXTERNAL: "external",
    Action.UNAFFECTED: "unaffected",
}

#: What XML 1.0 cannot hold, escaped or not.
_ILLEGAL = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

MARGIN = 28
GUTTER = 84  # left of the stages, for their names
CHIP = 26  # height of a spec without job
CHIP_GAP = 8
WIDE = 20_000  # of bands beyond both sides, where the picture can be moved
LONGEST = 26  # characters of a label; the whole name is in the tooltip
HEAD = 84  # title and legend
LABEL_PX = 7.25  # a character of 12 px in a monospaced font, which are much alike in width
SMALL_PX = 6.1

STYLE = """
:root{--sy-paper:#fbfaf8;--sy-band:#f4f2ee;--sy-ink:#1f2733;--sy-soft:#5b6472;--sy-edge:#8a94a3;
--sy-chain:#b84a06;--sy-chain-fill:#fdeee2;--sy-chain-ink:#6f2d05;
--sy-build:#2c62ad;--sy-build-fill:#e6effc;--sy-build-ink:#173b70;
--sy-reuse:#5b8f69;--sy-reuse-fill:#eff7f0;--sy-reuse-ink:#2f5a3b;
--sy-external:#99804b;--sy-external-fill:#faf5e9;--sy-external-ink:#66532a;
--sy-unaffected:#8b8f99;--sy-unaffected-fill:#f3f3f5;--sy-unaffected-ink:#4b505a}
@media (prefers-color-scheme:dark){:root{--sy-paper:#14181f;--sy-band:#191e26;--sy-ink:#e7eaf0;
--sy-soft:#a0a9b8;--sy-edge:#66718a;--sy-chain:#f2924a;--sy-chain-fill:#3a2414;--sy-chain-ink:#ffd3b0;
--sy-build:#6ea3ef;--sy-build-fill:#1b2c47;--sy-build-ink:#d3e4ff;
--sy-reuse:#4f7659;--sy-reuse-fill:#171f1b;--sy-reuse-ink:#9dbfa5;
--sy-external:#9c8550;--sy-external-fill:#272214;--sy-external-ink:#d8c593;
--sy-unaffected:#6c727e;--sy-unaffected-fill:#1f232b;--sy-unaffected-ink:#abb1bd}}
.sy-graph text{font-family:ui-monospace,"SF Mono",SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
font-size:12px;fill:var(--sy-ink)}
.sy-graph .sy-title,.sy-graph .sy-note,.sy-graph .sy-stage{font-family:system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue","Liberation Sans",Arial,sans-serif}
.sy-graph .sy-title{font-size:20px;font-weight:600}
.sy-graph .sy-note{font-size:13px;fill:var(--sy-soft)}
.sy-graph .sy-stage{font-size:12px;fill:var(--sy-soft)}
.sy-paper{fill:var(--sy-paper)}.sy-band{fill:var(--sy-band)}
.sy-e{fill:none;stroke:var(--sy-edge);stroke-width:1.2;stroke-opacity:.75}
.sy-e.sy-chain{stroke:var(--sy-chain);stroke-width:2.6;stroke-opacity:1}
.sy-box{stroke-width:1.3}
.sy-n .sy-v{font-size:10px;opacity:.85}
.sy-root text:first-of-type{font-weight:700}
.sy-glyph{fill:none;stroke-width:1.6;stroke-linecap:round;stroke-linejoin:round}
.sy-unaffected .sy-box{stroke-dasharray:3 3}
"""
STYLE += "".join(
    f".sy-{name} .sy-box{{fill:var(--sy-{name}-fill);stroke:var(--sy-{name})}}"
    f".sy-{name} .sy-glyph{{stroke:var(--sy-{name})}}"
    f".sy-n.sy-{name} text{{fill:var(--sy-{name}-ink)}}\n"
    for name in (*(action.value for action in Action), "chain")
)
STYLE += ".sy-n.sy-chain .sy-box{stroke-width:2.2}\n.sy-build .sy-dot{fill:var(--sy-build)}"
STYLE += ".sy-chain .sy-dot{fill:var(--sy-chain);stroke:var(--sy-chain)}\n"

#: A mark for each decision, about 8 px around its middle.
_GLYPHS = {
    "build": '<circle class="sy-glyph sy-dot" r="3.2"/>',
    "reuse": '<path class="sy-glyph" d="M-4 0l3 3 5-6"/>',
    "external": '<path class="sy-glyph" d="M0-4.2 4.2 0 0 4.2-4.2 0z"/>',
    "unaffected": '<path class="sy-glyph" d="M-4-2h8m-8 4h8"/>',
}


class _Chips(NamedTuple):
    """The specs without a job: name of the group, and where each one stands."""

    label: str
    y: float
    places: Mapping[str, tuple[float, float, float]]  # hash → x, y, width
    bottom: float


def graph_svg(plan: Plan, title: str) -> str:
    """The plan as a picture: a standalone SVG document."""
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + picture(plan_values(plan), plan, title)


def picture(values: Mapping[str, Any], plan: Plan, title: str, *, framed: bool = True) -> str:
    """The ``svg`` element; not ``framed`` leaves title and legend to the page around it."""
    specs: Sequence[Mapping[str, Any]] = values["specs"]
    head = HEAD if framed else 0
    layout = lay_out(plan.graph, {key: _box_width(row) for key, row in _jobs(specs).items()})
    legend = _legend(values) if framed else ()
    least = max(560.0 if framed else 240.0, sum(width for _, width in legend))
    room = max(layout.width + GUTTER, least, _chips_room(specs))
    chips = _chips(specs, room, head + MARGIN)
    top = chips[-1].bottom + 30 if chips else head + MARGIN
    width, height = room + 2 * MARGIN, top + layout.height + MARGIN
    index = {row["hash"]: number for number, row in enumerate(specs)}
    drawing = _Drawing(layout, index, MARGIN + GUTTER + (room - GUTTER - layout.width) / 2, top)
    parts = [
        (
            '<svg xmlns="http://www.w3.org/2000/svg" class="sy-graph" role="img" '
            f'aria-label="{text(title)}" viewBox="0 0 {_n(width)} {_n(height)}" '
            f'width="{_n(width)}" height="{_n(height)}">'
        ),
        f"<title>{text(title)}</title>" if framed else "",
        f"<style>{STYLE}</style>",
        f'<rect class="sy-paper" width="{_n(width)}" height="{_n(height)}"/>',
        *(_head(title, values, legend) if framed else ()),
        *(drawing.bands(0, width) if framed else drawing.bands(-WIDE, width + 2 * WIDE)),
        *drawing.edges(values["chain"]),
        *_draw_chips(chips, specs, index),
        *(_job(row, index, drawing) for row in specs if row["level"] is not None),
        '<g class="sy-extra"></g>' if not framed else "",
        "</svg>\n",
    ]
    return "\n".join(part for part in parts if part)


def text(value: object) -> str:
    """Any text, safe in XML and HTML, in content and between quotes."""
    return escape(_ILLEGAL.sub("\ufffd", str(value)))


def _n(value: float) -> str:
    """A coordinate: one decimal at most."""
    return f"{value:.1f}".removesuffix(".0")


def _short(label: str) -> str:
    return label if len(label) <= LONGEST else label[: LONGEST - 1] + "…"


def _jobs(specs: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {row["hash"]: row for row in specs if row["level"] is not None}


def _box_width(row: Mapping[str, Any]) -> float:
    name, version = len(_short(row["name"])), len(_short(row["version"]))
    bold = 1.02 if row["root"] else 1
    return round(max(name * LABEL_PX * bold, version * SMALL_PX, 30) + 34)


def _head(
    title: str, values: Mapping[str, Any], legend: Iterable[tuple[str, float]]
) -> Iterable[str]:
    yield f'<text class="sy-title" x="{MARGIN}" y="38">{text(title)}</text>'
    x = float(MARGIN)
    for part, width in legend:
        yield f'<g transform="translate({_n(x)},66)">{part}</g>'
        x += width
    if not values["specs"]:
        yield f'<text class="sy-note" x="{MARGIN}" y="{HEAD + 20}">The plan is empty.</text>'


def _legend(values: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    """Entries of the legend, each with its width."""
    entries = []
    for action, label in LABELS.items():
        if count := values["totals"][action.value]:
            entries.append((action.value, f"{count} {label}"))
    if values["chain"]:
        entries.append(("build sy-chain", f"longest chain: {len(values['chain'])} jobs"))
    drawn = []
    for kind, label in entries:
        shape = kind.split()[0]
        body = (
            f'<g class="sy-n sy-{kind}" transform="translate(0,-13)">'
            f"{_shape(shape, 26, 18)}{_glyph(shape, 13, 9)}</g>"
            f'<text class="sy-note" x="34" y="0">{label}</text>'
        )
        drawn.append((body, 34 + len(label) * 7.4 + 22))
    return tuple(drawn)


def _shape(action: str, width: float, height: float) -> str:
    w, h = _n(width), _n(height)
    if action == "external":  # cut corners
        d = f"M7 0H{_n(width - 7)}L{w} 7V{_n(height - 7)}L{_n(width - 7)} {h}H7L0 {_n(height - 7)}V7z"
        return f'<path class="sy-box" d="{d}"/>'
    radius = {"build": 6.0, "reuse": height / 2}.get(action, 0.0)
    return f'<rect class="sy-box" width="{w}" height="{h}" rx="{_n(radius)}"/>'


def _glyph(action: str, x: float, y: float) -> str:
    return f'<g transform="translate({_n(x)},{_n(y)})">{_GLYPHS[action]}</g>'


class _Drawing:
    """A layout moved to its place in the picture."""

    def __init__(self, layout: Layout, index: Mapping[str, int], left: float, top: float) -> None:
        self._layout, self._index, self._left, self._top = layout, index, left, top

    def at(self, key: str) -> tuple[float, float, float]:
        box = self._layout.boxes[key]
        return box.x + self._left, box.y + self._top, box.width

    def bands(self, x: float, width: float) -> Iterable[str]:
        for number, (first, last) in enumerate(self._layout.stages):
            y, height = self._top + first - 12, last - first + 24
            if number % 2 == 0:
                yield f'<rect class="sy-band" x="{_n(x)}" y="{_n(y)}" '
                yield f'width="{_n(width)}" height="{_n(height)}"/>'
            middle = self._top + first + HEIGHT / 2 + 4
            yield f'<text class="sy-stage" x="{MARGIN}" y="{_n(middle)}">stage {number}</text>'

    def edges(self, chain: Sequence[str]) -> Iterable[str]:
        """The longest chain last, over all others."""
        links = set(pairwise(chain))
        yield '<g class="sy-edges">'
        for strong in (False, True):
            for edge in self._layout.edges:
                if ((edge.need, edge.job) in links) is strong:
                    yield self._edge(edge, " sy-chain" if strong else "")
        yield "</g>"

    def _edge(self, edge: Edge, mark: str) -> str:
        points = [(x + self._left, y + self._top) for x, y in edge.points]
        (x, y), *rest = points
        d = [f"M{_n(x)} {_n(y)}"]
        for number, (to_x, to_y) in enumerate(rest):
            if abs(to_x - x) < 1:
                d.append(f"L{_n(to_x)} {_n(to_y)}")
            else:
                middle = _n((y + to_y) / 2)
                d.append(f"C{_n(x)} {middle} {_n(to_x)} {middle} {_n(to_x)} {_n(to_y)}")
            x, y = to_x, to_y
            if number < len(rest) - 1:
                y += HEIGHT
                d.append(f"V{_n(y)}")
        ends = f"{self._index[edge.need]} {self._index[edge.job]}"
        return f'<path class="sy-e{mark}" data-e="{ends}" d="{"".join(d)}"/>'


def _job(row: Mapping[str, Any], index: Mapping[str, int], drawing: _Drawing) -> str:
    x, y, width = drawing.at(row["hash"])
    return (
        f"{_open(row, index, x, y)}{_shape(row['action'], width, HEIGHT)}"
        f"{_glyph(row['action'], 13, HEIGHT / 2)}"
        f'<text x="24" y="16">{text(_short(row["name"]))}</text>'
        f'<text class="sy-v" x="24" y="28.5">{text(_short(row["version"]))}</text></g>'
    )


def _open(row: Mapping[str, Any], index: Mapping[str, int], x: float, y: float) -> str:
    """Start of a node: its group and its tooltip."""
    marks = (" sy-chain" if row["on_chain"] else "") + (" sy-root" if row["root"] else "")
    label = LABELS[Action(row["action"])]
    title = f"{row['name']}@{row['version']} /{row['hash']}\n{label}: {row['reason']}"
    if row["on_chain"]:
        title += "\non the longest chain"
    return (
        f'<g class="sy-n sy-{row["action"]}{marks}" data-i="{index[row["hash"]]}" '
        f'transform="translate({_n(x)},{_n(y)})"><title>{text(title)}</title>'
    )


def _chips(specs: Sequence[Mapping[str, Any]], room: float, top: float) -> tuple[_Chips, ...]:
    """Place the specs without a job above all stages, line by line, grouped by decision."""
    groups = []
    for action, label in LABELS.items():
        rows = [row for row in specs if row["action"] == action.value and row["level"] is None]
        if not rows:
            continue
        rows.sort(key=lambda row: (row["name"], row["version"], row["hash"]))
        places = {}
        x, y = 0.0, top + 18
        for row in rows:
            width = _chip_width(row)
            if x and x + width > room:
                x, y = 0.0, y + CHIP + CHIP_GAP
            places[row["hash"]] = (x + MARGIN, y, width)
            x += width + CHIP_GAP
        groups.append(_Chips(f"{label}: {len(rows)} without a job", top + 6, places, y + CHIP))
        top = y + CHIP + 20
    return tuple(groups)


def _chips_room(specs: Iterable[Mapping[str, Any]]) -> float:
    """How wide the specs without a job stand in good proportion."""
    total = sum(_chip_width(row) + CHIP_GAP for row in specs if row["level"] is None)
    return round(sqrt(total * (CHIP + CHIP_GAP) * RATIO))


def _chip_width(row: Mapping[str, Any]) -> float:
    name, version = len(_short(row["name"])), len(_short(row["version"]))
    return round((name * LABEL_PX) * (1.02 if row["root"] else 1) + version * SMALL_PX + 45)


def _draw_chips(
    groups: Iterable[_Chips], specs: Sequence[Mapping[str, Any]], index: Mapping[str, int]
) -> Iterable[str]:
    for group in groups:
        yield f'<text class="sy-stage" x="{MARGIN}" y="{_n(group.y)}">{group.label}</text>'
        for key, (x, y, width) in group.places.items():
            row = specs[index[key]]
            yield (
                f"{_open(row, index, x, y)}{_shape(row['action'], width, CHIP)}"
                f"{_glyph(row['action'], 14, CHIP / 2)}"
                f'<text x="25" y="17">{text(_short(row["name"]))}</text>'
                f'<text class="sy-v" text-anchor="end" x="{_n(width - 11)}" y="17">'
                f"{text(_short(row['version']))}</text></g>"
            )
