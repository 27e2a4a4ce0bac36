"""The picture and the page of a plan: complete, in its places, and only ever text."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

from stackyard.graph import graph_html, graph_svg, plan_values
from stackyard.graph.layout import BOX_GAP, HEIGHT, lay_out
from stackyard.lock import Lock, parse_lock
from stackyard.plan import Action, Decision, Plan, make_graph, make_plan

HERE = Path(__file__).parent
TEMPLATES = HERE.parent / "templates"
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\"quotes\" and 'more'",
    "]]> & &amp; <!-- -->",
    "{{ 7 * 7 }} {% raw %} {# no #}",
    "bell \x07, lone \ud800, line \u2028 separator",
)


def load(name: str) -> str | None:
    path = TEMPLATES / name
    return path.read_text(encoding="utf-8") if path.is_file() else None


def hash_of(number: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    return (letters[number // 32 % 32] + letters[number % 32]) * 16


def lock_of(graph: dict[int, tuple[int, ...]]) -> Lock:
    """A lock with a spec ``p<number>`` for each key, and edges to the numbers it names."""
    nodes = {
        hash_of(number): {
            "name": f"p{number}",
            "version": f"1.{number}",
            "arch": {"platform": "linux", "platform_os": "debian12", "target": "x86_64_v3"},
            "hash": hash_of(number),
            "dependencies": [
                {
                    "name": f"p{child}",
                    "hash": hash_of(child),
                    "parameters": {"deptypes": ["build", "link"], "virtuals": []},
                }
                for child in children
            ],
        }
        for number, children in graph.items()
    }
    document = {
        "_meta": {"file-type": "spack-lockfile", "lockfile-version": 6, "specfile-version": 5},
        "roots": [{"hash": hash_of(max(graph)), "spec": f"p{max(graph)}"}] if graph else [],
        "concrete_specs": nodes,
    }
    return parse_lock(json.dumps(document).encode(), "spack.lock")


def plan_of(lock: Lock, decided: dict[str, Decision] | None = None) -> Plan:
    """All specs built but those that ``decided`` says otherwise of."""
    decisions = {key: Decision(key, Action.BUILD, "on no mirror") for key in lock.order}
    decisions.update(decided or {})
    kept = {key for key, decision in decisions.items() if decision.action is Action.BUILD}
    graph = make_graph({key: lock.specs[key].children for key in lock.order}, kept)
    return Plan(lock, tuple(root.hash for root in lock.roots), decisions, graph)


def stack_plan(name: str) -> Plan:
    path = HERE.parent / "stacks" / name / "spack.lock"
    lock = parse_lock(path.read_bytes(), str(path))
    return make_plan(lock, [root.hash for root in lock.roots])


def mixed_plan() -> Plan:
    """A diamond with a tail: 0 external, 1 reused, 2 unaffected, 3 to 7 built."""
    lock = lock_of({0: (), 1: (0,), 2: (0,), 3: (1,), 4: (2, 3), 5: (3,), 6: (4, 5), 7: (6, 3, 0)})
    actions = {0: Action.EXTERNAL, 1: Action.REUSE, 2: Action.UNAFFECTED}
    return plan_of(
        lock,
        {hash_of(n): Decision(hash_of(n), action, f"why {n}") for n, action in actions.items()},
    )


def hostile_plan() -> Plan:
    lock = lock_of({number: (number - 1,) if number else () for number in range(len(HOSTILE))})
    return plan_of(
        lock,
        {
            hash_of(n): Decision(hash_of(n), Action.REUSE if n % 2 else Action.BUILD, reason)
            for n, reason in enumerate(HOSTILE)
        },
    )


def nodes_of(svg: str) -> dict[str, ET.Element]:
    """The drawn specs by hash."""
    root = ET.fromstring(svg.encode("utf-8"))  # noqa: S314 - our own text
    found = {}
    for group in root.iter(f"{SVG}g"):
        if "data-i" in group.attrib:
            key = re.search(r"/([a-z2-7]{32})", tooltip(group))
            assert key
            found[key.group(1)] = group
    return found


def tooltip(group: ET.Element) -> str:
    return group.findtext(f"{SVG}title") or ""


def place(group: ET.Element) -> tuple[float, float]:
    x, y = re.findall(r"-?[\d.]+", group.attrib["transform"])
    return float(x), float(y)


def embedded(html: str) -> dict[str, object]:
    script = re.search(r'<script type="application/json" id="plan">(.*?)</script>', html, re.DOTALL)
    assert script
    value: dict[str, object] = json.loads(script.group(1))
    return value


def test_values_of_a_mixed_plan() -> None:
    values = plan_values(mixed_plan())
    assert values["totals"] == {"build": 5, "reuse": 1, "external": 1, "unaffected": 1}
    assert values["stages"] == 4
    assert values["chain"] == [hash_of(n) for n in (3, 4, 6, 7)]
    rows = {row["name"]: row for row in values["specs"]}
    assert [rows[f"p{n}"]["level"] for n in range(8)] == [None, None, None, 0, 1, 1, 2, 3]
    assert rows["p4"] == {
        "hash": hash_of(4),
        "name": "p4",
        "version": "1.4",
        "arch": "linux-debian12-x86_64_v3",
        "compiler": "",
        "action": "build",
        "reason": "on no mirror",
        "level": 1,
        "needs": [hash_of(3)],
        "depends": [hash_of(2), hash_of(3)],
        "on_chain": True,
        "root": False,
    }
    assert rows["p7"]["root"]
    assert rows["p1"]["needs"] == []
    assert json.loads(json.dumps(values)) == values


def test_values_know_the_compiler() -> None:
    compilers = {row["compiler"] for row in plan_values(stack_plan("small"))["specs"]}
    assert compilers == {"", "gcc@12.2.0"}


@pytest.mark.parametrize("name", ["small", "tutorial"])
def test_every_spec_is_drawn(name: str) -> None:
    plan = stack_plan(name)
    svg = graph_svg(plan, name)
    nodes = nodes_of(svg)
    assert nodes.keys() == plan.decisions.keys()
    for key, group in nodes.items():
        spec, decision = plan.lock.specs[key], plan.decisions[key]
        assert tooltip(group).startswith(f"{spec.name}@{spec.version} /{key}\n")
        assert decision.reason in tooltip(group)
        assert f"sy-{decision.action.value}" in group.attrib["class"].split()
    assert svg.count('data-e="') == sum(map(len, plan.graph.needs.values()))
    assert graph_svg(stack_plan(name), name) == svg


def test_levels_go_down_the_page() -> None:
    plan = stack_plan("tutorial")
    nodes = nodes_of(graph_svg(plan, "tutorial"))
    heights: dict[int, set[float]] = {}
    for key, level in plan.graph.levels.items():
        heights.setdefault(level, set()).add(place(nodes[key])[1])
    for level in range(1, len(heights)):
        assert min(heights[level]) > max(heights[level - 1]) + HEIGHT
    skipped = [place(nodes[key])[1] for key in nodes.keys() - plan.graph.levels.keys()]
    assert max(skipped) < min(heights[0])


@pytest.mark.parametrize("name", ["small", "tutorial"])
def test_boxes_do_not_overlap(name: str) -> None:
    graph = stack_plan(name).graph
    layout = lay_out(graph, dict.fromkeys(graph.needs, 90.0))
    rows: dict[float, list[float]] = {}
    for box in layout.boxes.values():
        assert 0 <= box.x <= layout.width - box.width
        rows.setdefault(box.y, []).append(box.x)
    for row in rows.values():
        row.sort()
        assert all(b - a >= 90 + BOX_GAP - 0.2 for a, b in pairwise(row))


def test_edges_end_at_their_boxes() -> None:
    graph = stack_plan("small").graph
    layout = lay_out(graph, dict.fromkeys(graph.needs, 90.0))
    assert {(e.need, e.job) for e in layout.edges} == {
        (need, job) for job, needs in graph.needs.items() for need in needs
    }
    for edge in layout.edges:
        need, job = layout.boxes[edge.need], layout.boxes[edge.job]
        assert edge.points[0][1] == need.y + HEIGHT
        assert need.x < edge.points[0][0] < need.x + need.width
        assert edge.points[-1][1] == job.y
        assert job.x < edge.points[-1][0] < job.x + job.width
        heights = [y for _, y in edge.points]
        assert heights == sorted(heights)


def test_a_wide_graph_is_wrapped_and_a_huge_one_has_no_lanes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock = lock_of({0: (), **dict.fromkeys(range(1, 200), (0,)), 200: tuple(range(1, 200))})
    graph = plan_of(lock).graph
    widths = dict.fromkeys(graph.needs, 100.0)
    layout = lay_out(graph, widths)
    assert layout.width < 100 * 199 / 3
    assert len(layout.stages) == 3
    assert any(len(edge.points) > 2 for edge in layout.edges)
    monkeypatch.setattr("stackyard.graph.layout.MAX_LANES", 0)
    assert all(len(edge.points) == 2 for edge in lay_out(graph, widths).edges)


def test_the_longest_chain_is_marked() -> None:
    plan = mixed_plan()
    svg = graph_svg(plan, "mixed")
    chain = {k for k, g in nodes_of(svg).items() if "sy-chain" in g.attrib["class"].split()}
    assert chain == set(plan.graph.chain())
    assert svg.count('class="sy-e sy-chain"') == len(chain) - 1
    assert "longest chain: 4 jobs" in svg


def test_a_plan_without_jobs_and_an_empty_one() -> None:
    lock = lock_of({0: (), 1: (0,)})
    decided = {hash_of(n): Decision(hash_of(n), Action.REUSE, "on m (index)") for n in (0, 1)}
    reused = plan_of(lock, decided)
    assert len(nodes_of(graph_svg(reused, "reused"))) == 2
    assert "Nothing to build." in graph_html(reused, "reused", load)
    empty = plan_of(lock_of({}))
    assert nodes_of(graph_svg(empty, "empty")) == {}
    assert "The plan is empty." in graph_svg(empty, "empty")
    assert embedded(graph_html(empty, "empty", load)) == {"chain": [], "specs": []}


def test_hostile_text_stays_text_in_the_picture() -> None:
    svg = graph_svg(hostile_plan(), HOSTILE[0])
    nodes = nodes_of(svg)
    for number, reason in enumerate(HOSTILE):
        shown = re.sub("[\x07\ud800]", "\ufffd", reason)
        assert tooltip(nodes[hash_of(number)]).splitlines()[1].endswith(shown.splitlines()[0])
    root = ET.fromstring(svg.encode("utf-8"))  # noqa: S314 - our own text
    assert root.attrib["aria-label"] == root.findtext(f"{SVG}title") == HOSTILE[0]
    assert not list(root.iter(f"{SVG}script"))


def test_hostile_text_stays_text_in_the_page() -> None:
    plan = hostile_plan()
    plan = Plan(plan.lock, plan.roots, plan.decisions, plan.graph, (HOSTILE[1],))
    html = graph_html(plan, HOSTILE[0], load)
    html.encode("utf-8")
    assert html.count("<script") == 2
    assert html.count("</script") == 2
    assert "<img" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    rows = embedded(html)["specs"]
    assert isinstance(rows, list)
    assert {row["name"]: row["reason"] for row in rows} == {
        f"p{number}": reason for number, reason in enumerate(HOSTILE)
    }


def test_the_page_is_self_contained_and_deterministic() -> None:
    html = graph_html(stack_plan("small"), "small", load)
    assert "default-src 'none'" in html
    addresses = set(re.findall(r"""(?:https?:)?//[\w.-]+\.\w+[^\s"'<]*""", html))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|innerHTML|outerHTML|insertAdjacentHTML|eval\(", html)
    assert html == graph_html(stack_plan("small"), "small", load)


def test_the_page_counts() -> None:
    html = graph_html(mixed_plan(), "mixed", load)
    assert "5 jobs in 4 stages; 8 specs in all." in html
    rows = embedded(html)["specs"]
    assert isinstance(rows, list)
    by_name = {row["name"]: row for row in rows}
    assert [rows[n]["name"] for n in by_name["p6"]["needs"]] == ["p4", "p5"]
