"""The page of a plan in a real browser: it finds, explains, fits, and asks for nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stackyard.graph import graph_html
from stackyard.lock import parse_lock
from stackyard.plan import Action, Decision, Plan, make_graph, make_plan

HERE = Path(__file__).parent
TOP = HERE.parent.parent
HOSTILE = "<img src=x onerror=\"document.title='owned'\"></script><script>alert(1)</script> ]]> '\""

Open = Callable[..., Any]


def load(name: str) -> str | None:
    path = TOP / "templates" / name
    return path.read_text(encoding="utf-8") if path.is_file() else None


def make_small_plan() -> Plan:
    """The small stack with its first specs reused, one of them for a hostile reason."""
    path = TOP / "stacks" / "small" / "spack.lock"
    lock = parse_lock(path.read_bytes(), str(path))
    plan = make_plan(lock, [root.hash for root in lock.roots])
    decisions = dict(plan.decisions)
    for key, spec in lock.specs.items():
        if spec.name in ("compiler-wrapper", "gcc-runtime"):
            decisions[key] = Decision(key, Action.REUSE, "on cache.example (index)")
        if spec.name == "zlib":
            decisions[key] = Decision(key, Action.BUILD, HOSTILE)
    kept = {key for key, decision in decisions.items() if decision.action is Action.BUILD}
    graph = make_graph({key: lock.specs[key].children for key in decisions}, kept)
    return Plan(lock, plan.roots, decisions, graph)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "plan.html"
    path.write_text(graph_html(make_small_plan(), f"Plan {HOSTILE}", load), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Open]:
    """Open the page; when the test ends, no error and no request but the page itself was seen."""
    errors: list[str] = []
    requests: list[str] = []
    contexts = []

    def open_page(width: int = 1280, height: int = 900, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        settle(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    assert {url for url in requests if not url.startswith("data:")} == {address}


def settle(page: Any) -> None:
    """Wait until the drawing stands still: for as many frames as nothing else takes."""
    page.evaluate(
        """() => new Promise((done) => {
          const drawing = document.querySelector("#stage svg");
          let before = "";
          let still = 0;
          (function look() {
            const now = drawing.getAttribute("viewBox");
            still = now === before ? still + 1 : 0;
            before = now;
            if (still < 4) requestAnimationFrame(look);
            else done();
          })();
        })"""
    )


def node(page: Any, name: str) -> Any:
    return (
        page.locator(".sy-n[data-i]").filter(has=page.locator("title", has_text=f"{name}@")).first
    )


def look_at(page: Any, name: str) -> None:
    page.locator("#zoom-fit").click()
    settle(page)
    node(page, name).hover()


def visible_names(page: Any) -> list[str]:
    names: list[str] = page.locator("#rows tr:visible td.name").all_inner_texts()
    return names


def test_search_finds_and_escape_clears(open_page: Open) -> None:
    page = open_page()
    every = len(visible_names(page))
    page.keyboard.press("/")
    page.keyboard.type("READ")
    assert visible_names(page) == ["readline"]
    assert page.locator("#found").inner_text() == f"1 of {every} specs"
    assert page.locator(".sy-n.hit").count() == 1
    assert page.locator("td.name mark").inner_text() == "read"
    page.keyboard.press("Enter")
    assert page.locator("#panel h2").inner_text().startswith("readline")
    page.keyboard.press("Escape")
    assert len(visible_names(page)) == every
    assert page.locator("#search").input_value() == ""
    assert page.locator(".sy-n.self").count() == 0


def test_search_by_hash_and_by_reason(open_page: Open) -> None:
    page = open_page()
    key = page.evaluate("JSON.parse(document.getElementById('plan').textContent).specs[3].hash")
    page.locator("#search").fill(f"/{key[:9]}")
    assert len(visible_names(page)) == 1
    page.locator("#search").fill("cache.example")
    assert sorted(visible_names(page)) == ["compiler-wrapper", "gcc-runtime"]
    page.locator("#search").fill("no such thing")
    assert visible_names(page) == []
    page.locator("#clear").click()
    assert len(visible_names(page)) > 20


def test_filters_add_up(open_page: Open) -> None:
    page = open_page()
    page.locator(".filter[data-action=reuse]").click()
    assert sorted(visible_names(page)) == ["compiler-wrapper", "gcc-runtime"]
    page.locator(".filter[data-action=external]").click()
    assert len(visible_names(page)) == 4
    page.locator(".filter[data-action=chain]").click()
    assert visible_names(page) == []


def test_hover_shows_reason_needs_and_dependents(open_page: Open) -> None:
    page = open_page()
    look_at(page, "curl")
    panel = page.locator("#panel").inner_text()
    assert "on no mirror" in panel
    assert "Waits for (2)" in panel
    assert "openssl@" in panel
    assert "cmake@" in panel
    assert page.locator(".sy-n.sy-build.near").count() == 3
    look_at(page, "gcc-runtime")
    assert "on cache.example (index)" in page.locator("#panel").inner_text()
    assert page.locator(".sy-e.loose").count() > 0
    page.mouse.move(5, 5)
    assert "Longest chain" in page.locator("#panel").inner_text()


def test_a_click_keeps_and_links_lead_on(open_page: Open) -> None:
    page = open_page()
    page.locator("#zoom-fit").click()
    settle(page)
    node(page, "curl").click()
    page.mouse.move(5, 5)
    assert page.locator("#panel h2").inner_text().startswith("curl")
    page.locator("#panel a", has_text="openssl@").first.click()
    assert page.locator("#panel h2").inner_text().startswith("openssl")
    key = page.locator("#panel .hash code").inner_text()
    assert page.url.endswith(f"#{key}")
    page.locator("#panel .hash button").click()
    page.get_by_text("Copied").wait_for()


def test_keyboard_walks_the_graph(open_page: Open) -> None:
    page = open_page()
    page.locator(".sy-n[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    first = page.locator("#panel h2").inner_text()
    page.keyboard.press("ArrowDown")
    second = page.locator("#panel h2").inner_text()
    assert first != second
    page.keyboard.press("ArrowUp")
    assert page.locator("#panel h2").inner_text() == first
    page.keyboard.press("Enter")
    assert page.locator(".sy-n.self").count() == 1
    width = "document.querySelector('#stage svg').viewBox.baseVal.width"
    before = page.evaluate(width)
    page.keyboard.press("+")
    page.wait_for_function(f"{width} < {before}")
    assert page.locator(".sy-n[tabindex='0']").count() == 1


def test_every_control_has_a_name_and_is_reached_by_tab(open_page: Open) -> None:
    page = open_page()
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"search", "zoom-in", "zoom-out", "zoom-fit"} <= reached
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button')].filter(b => b.checkVisibility() &&"
        " !b.textContent.trim() && !b.ariaLabel).length"
    )
    assert unnamed == 0


def test_wheel_zooms_and_drag_moves(open_page: Open) -> None:
    page = open_page()
    box = "(({x, y, width}) => [x, y, width])(document.querySelector('#stage svg').viewBox.baseVal)"
    start = page.evaluate(box)
    page.mouse.move(300, 500)
    page.mouse.wheel(0, -300)
    page.wait_for_function(f"{box}[2] < {start[2]}")
    settle(page)
    zoomed = page.evaluate(box)
    page.mouse.down()
    page.mouse.move(380, 560, steps=4)
    page.mouse.up()
    settle(page)
    assert page.evaluate(box)[0] < zoomed[0]
    assert page.evaluate(box)[1] < zoomed[1]


def test_the_table_sorts(open_page: Open) -> None:
    page = open_page()
    header = page.locator("#columns button", has_text="Package")
    header.click()
    names = visible_names(page)
    assert names == sorted(names)
    header.click()
    assert visible_names(page) == sorted(names, reverse=True)
    assert header.locator("..").get_attribute("aria-sort") == "descending"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_no_sideways_scroll(open_page: Open, scheme: str) -> None:
    page = open_page(360, 740, color_scheme=scheme, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#search").fill("curl")
    page.keyboard.press("Enter")
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_reduced_motion_jumps(open_page: Open) -> None:
    page = open_page(900, 500, reduced_motion="reduce")
    page.locator("#search").fill("hdf5")
    page.keyboard.press("Enter")
    settle(page)
    frame = page.locator("#stage").bounding_box()
    shown = node(page, "hdf5").bounding_box()
    assert frame["y"] < shown["y"] < frame["y"] + frame["height"]


def test_hostile_text_stays_text(open_page: Open) -> None:
    page = open_page()
    assert page.title() == f"Plan {HOSTILE}"
    assert page.locator("h1").inner_text() == f"Plan {HOSTILE}"
    look_at(page, "zlib")
    assert HOSTILE in page.locator("#panel").inner_text()
    assert HOSTILE in page.locator("#rows").inner_text()
    page.locator("#search").fill("onerror")
    assert visible_names(page) == ["zlib"]
    assert page.locator("td.reason mark").inner_text() == "onerror"
    assert page.locator("img").count() == 0
