"""Where each job stands in the picture: stages from top to bottom, few crossings, short edges.

Sugiyama's method, kept near linear. An edge that passes over stages runs in a lane, and all such
edges out of one job share it until each turns off to where it ends. Sweeps go down and up: each
vertex of a row wishes for the mean of its neighbours in the row before, the row is sorted by these
wishes, and an isotonic regression grants them as nearly as the widths allow. The arrangement with
the shortest edges stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, sqrt
from typing import NamedTuple

from stackyard.plan import Graph

__all__ = ["Box", "Edge", "Layout", "lay_out"]

HEIGHT = 36  # of a box
ROW_GAP = 22  # between the rows of one stage
STAGE_GAP = 46
BOX_GAP = 14
LANE = 9
MAX_LANES = 20_000  # beyond it edges run straight, so that time and size stay in bounds
RATIO = 1.7  # of width to height that rows are wrapped for
SWEEPS = 16
#: Weights that keep the longest chain straight; tried against length and width of real stacks.
CHAIN_PULL = 200.0
CHAIN_WEIGHT = 30.0
PORT = 9  # between edges that end at one box


class Box(NamedTuple):
    x: float  # of its left side
    y: float
    width: float


class Edge(NamedTuple):
    need: str
    job: str
    points: tuple[tuple[float, float], ...]  # x and y: out of one box, along lanes, into another


@dataclass(frozen=True, slots=True)
class Layout:
    """``stages`` holds top and bottom of each stage, first to last."""

    width: float
    height: float
    boxes: Mapping[str, Box]
    edges: tuple[Edge, ...]
    stages: tuple[tuple[float, float], ...]


def lay_out(graph: Graph, widths: Mapping[str, float]) -> Layout:
    """Lay out all jobs of ``graph``, whose boxes are as wide as ``widths`` says."""
    if not graph.needs:
        return Layout(0, 0, {}, (), ())
    net = _Net(graph, widths)
    net.sweep([list(stage) for stage in net.stages()], rounds=4)
    rows, stage_of_row = net.wrap()
    net.add_lanes(rows)
    net.sweep(rows, rounds=SWEEPS)
    return _finish(net, graph, rows, stage_of_row)


class _Net:
    """Vertices (jobs first, lanes behind them) with positions, widths and neighbours."""

    def __init__(self, graph: Graph, widths: Mapping[str, float]) -> None:
        self.keys = list(graph.needs)
        index = {key: i for i, key in enumerate(self.keys)}
        self.levels = [graph.levels[key] for key in self.keys]
        self.needs = [[index[need] for need in graph.needs[key]] for key in self.keys]
        self.chain = {index[key] for key in graph.chain()}
        self.widths = [widths[key] + BOX_GAP for key in self.keys]
        self.x = [0.0] * len(self.keys)
        self.pull = [CHAIN_PULL if i in self.chain else 1.0 for i in range(len(self.keys))]
        self.above: list[list[tuple[int, float]]] = [[] for _ in self.keys]
        self.below: list[list[tuple[int, float]]] = [[] for _ in self.keys]
        self.before: dict[tuple[int, int], int] = {}  # (need, job) → the vertex it comes from
        for job, needs in enumerate(self.needs):
            for need in needs:
                self._join(need, job)

    def _join(self, up: int, down: int) -> None:
        jobs = (up < len(self.keys)) + (down < len(self.keys))
        weight = (4.0, 1.5, 1.0)[jobs]
        if up in self.chain and down in self.chain:
            weight = CHAIN_WEIGHT
        self.above[down].append((up, weight))
        self.below[up].append((down, weight))

    def stages(self) -> list[list[int]]:
        stages: list[list[int]] = [[] for _ in range(1 + max(self.levels))]
        for vertex, level in enumerate(self.levels):
            stages[level].append(vertex)
        return stages

    def sweep(self, rows: list[list[int]], *, rounds: int) -> None:
        """Improve ``x`` and the order of each row; ends with the best of all rounds."""
        best, best_x = float("inf"), self.x
        for number in range(rounds):
            if number >= rounds - 2:
                sides: tuple[list[list[tuple[int, float]]], ...] = (self.above, self.below)
            else:
                sides = (self.above,) if number % 2 == 0 else (self.below,)
            for row in rows if number % 2 == 0 else reversed(rows):
                self._place(row, sides)
            if (length := self._length()) < best:
                best, best_x = length, self.x.copy()
        self.x = best_x
        for row in rows:
            row.sort(key=lambda vertex: (self.x[vertex], vertex))

    def _length(self) -> float:
        x = self.x
        return sum(
            weight * abs(x[up] - x[down])
            for down, ups in enumerate(self.above)
            for up, weight in ups
        )

    def _place(self, row: list[int], sides: Sequence[list[list[tuple[int, float]]]]) -> None:
        x = self.x
        wishes = {}
        for vertex in row:
            total = weights = 0.0
            for side in sides:
                for other, weight in side[vertex]:
                    total += weight * x[other]
                    weights += weight
            wishes[vertex] = total / weights if weights else x[vertex]
        row.sort(key=lambda vertex: (wishes[vertex], vertex))
        self._grant(row, wishes)

    def _grant(self, row: Sequence[int], wishes: Mapping[int, float]) -> None:
        """Place a row in its order, without overlap, as near to its wishes as can be.

        Less the room that the ones before it take, positions need only not fall: pool adjacent
        violators finds the least squares in one pass.
        """
        offsets = []
        offset = 0.0
        blocks: list[tuple[float, float, int]] = []  # mean, weight, members
        for vertex in row:
            half = self.widths[vertex] / 2
            offset += half
            offsets.append(offset)
            mean, weight, count = wishes[vertex] - offset, self.pull[vertex], 1
            offset += half
            while blocks and blocks[-1][0] > mean:
                last, heavy, many = blocks.pop()
                mean = (mean * weight + last * heavy) / (weight + heavy)
                weight += heavy
                count += many
            blocks.append((mean, weight, count))
        at = 0
        for mean, _, count in blocks:
            for index in range(at, at + count):
                self.x[row[index]] = mean + offsets[index]
            at += count

    def wrap(self) -> tuple[list[list[int]], list[int]]:
        """Split stages that are too wide for the picture; also the stage of each row."""
        total = sum(self.widths)
        most = max(900.0, sqrt(total * (HEIGHT + STAGE_GAP) * RATIO))
        rows: list[list[int]] = []
        stage_of_row = []
        for level, stage in enumerate(self.stages()):
            stage.sort(key=lambda vertex: (self.x[vertex], vertex))
            count = ceil(sum(self.widths[vertex] for vertex in stage) / most)
            rows += [stage[start::count] for start in range(count)]
            stage_of_row += [level] * count
        return rows, stage_of_row

    def add_lanes(self, rows: list[list[int]]) -> None:
        """Break each edge that passes over rows into steps from row to row."""
        row_of = {vertex: number for number, row in enumerate(rows) for vertex in row}
        last: dict[int, int] = {}  # need → the last row that its lanes reach
        for job, needs in enumerate(self.needs):
            for need in needs:
                last[need] = max(last.get(need, 0), row_of[job] - 1)
        lanes = sum(max(0, end - row_of[need]) for need, end in last.items())
        if lanes > MAX_LANES:
            return
        self.above = [[] for _ in self.keys]
        self.below = [[] for _ in self.keys]
        at: dict[tuple[int, int], int] = {}  # (need, row) → its lane there
        chain = sorted(self.chain, key=self.levels.__getitem__)
        straight = {need: row_of[job] - 1 for need, job in pairwise(chain)}
        for need, end in sorted(last.items()):
            at[need, row_of[need]] = need
            for number in range(row_of[need] + 1, end + 1):
                on_chain = number <= straight.get(need, -1)
                at[need, number] = self._lane(at[need, number - 1], self.x[need], on_chain=on_chain)
                rows[number].append(at[need, number])
        for job, needs in enumerate(self.needs):
            for need in needs:
                self.before[need, job] = at[need, row_of[job] - 1]
                self._join(at[need, row_of[job] - 1], job)

    def _lane(self, up: int, x: float, *, on_chain: bool) -> int:
        lane = len(self.x)
        self.x.append(x)
        self.widths.append(LANE)
        self.pull.append(CHAIN_PULL if on_chain else 1.0)
        if on_chain:
            self.chain.add(lane)
        self.above.append([])
        self.below.append([])
        self._join(up, lane)
        return lane

    def way(self, need: int, job: int) -> list[int]:
        """The vertices that the edge runs over, from need to job."""
        way = [job]
        step = self.before.get((need, job), need)
        while step != need:
            way.append(step)
            step = self.above[step][0][0]
        return [need, *reversed(way)]


def _finish(
    net: _Net, graph: Graph, rows: Sequence[Sequence[int]], stage_of_row: Sequence[int]
) -> Layout:
    left = min(net.x[v] - net.widths[v] / 2 for row in rows for v in row)
    right = max(net.x[v] + net.widths[v] / 2 for row in rows for v in row)
    tops = [0.0]
    for above, here in pairwise(stage_of_row):
        tops.append(tops[-1] + HEIGHT + (ROW_GAP if above == here else STAGE_GAP))
    x = [round(value - left, 1) for value in net.x]
    top = {vertex: tops[number] for number, row in enumerate(rows) for vertex in row}
    boxes = {}
    for vertex, key in enumerate(net.keys):
        width = net.widths[vertex] - BOX_GAP
        boxes[key] = Box(round(x[vertex] - width / 2, 1), top[vertex], width)
    edges = []
    for job, needs in enumerate(net.needs):
        ways = sorted((net.way(need, job) for need in needs), key=lambda way: (x[way[-2]], way))
        step = min(PORT, (boxes[net.keys[job]].width - 16) / len(ways)) if ways else 0
        for number, way in enumerate(ways):
            end = round(x[job] + step * (number - (len(ways) - 1) / 2), 1)
            lanes = [(x[v], top[v]) for v in way[1:-1]]
            points = ((x[way[0]], top[way[0]] + HEIGHT), *lanes, (end, top[job]))
            edges.append(Edge(net.keys[way[0]], net.keys[job], points))
    levels = range(1 + max(graph.levels.values()))
    stages = [[tops[r] for r, s in enumerate(stage_of_row) if s == level] for level in levels]
    return Layout(
        round(right - left, 1),
        tops[-1] + HEIGHT,
        boxes,
        tuple(edges),
        tuple((stage[0], stage[-1] + HEIGHT) for stage in stages),
    )
