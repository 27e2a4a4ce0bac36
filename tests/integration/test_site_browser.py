"""The catalogue in a real browser: it finds, links, fits, and asks for nothing from elsewhere."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mirrors import published
from site_data import HOSTILE, MARCH, NODES, Page, fill, stamp

from benchmarks.indexing import binary_files, fill_mirror
from stackyard.catalogue import Catalogue, Dressing, Edge, Entry, site_files
from stackyard.catalogue.about import About
from stackyard.catalogue.names import slug
from stackyard.flow.catalogue import site

TOP = Path(__file__).resolve().parent.parent.parent
REAL = ["v2-signed", "v2-unsigned", "v3-signed", "v3-unsigned"]

Open = Callable[..., Any]


def load(name: str) -> str | None:
    path = TOP / "templates" / name
    return path.read_text(encoding="utf-8") if path.is_file() else None


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nobody reads it."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sites below paths of their own: made up ones, real ones, ``large``, ``hostile``."""
    top = tmp_path_factory.mktemp("sites")
    fill(top / "mirrors" / "small")
    fill_mirror(top / "mirrors" / "tutorial", 400, signed=True)
    for number, path in enumerate(sorted((top / "mirrors/tutorial").rglob("*.manifest.json"))):
        stamp(path, MARCH + number * 40_000)
    real = TOP / "tests" / "data" / "mirrors"
    _fill_half(top / "mirrors" / "half-tutorial", real / "half-tutorial")
    mirrors = [top / "mirrors" / name for name in ("small", "tutorial", "half-tutorial")]
    for mirror in (*mirrors, *(real / name for name in REAL)):
        site(url=str(mirror), to=str(top / "deep" / "path" / mirror.name))
    _write(top / "deep" / "path" / "large", _large())
    _write(top / "deep" / "path" / "hostile", _hostile())
    return top / "deep" / "path"


def _fill_half(folder: Path, real: Path) -> None:
    """The binaries of which only the index came along: half of those of Spack's tutorial."""
    installs = json.loads(published(real))["database"]["installs"]
    for held in installs.values():
        if not held["in_buildcache"]:
            continue
        reached = [held["spec"]]
        for node in reached:
            edges = node.get("dependencies", ())
            found = (installs[edge["hash"]]["spec"] for edge in edges)
            reached += [one for one in found if one not in reached]
        for key, data in binary_files(tuple(reached)).items():
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _write(folder: Path, catalogue: Catalogue) -> None:
    for name, data in site_files(catalogue, load):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _hash(number: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    return "".join(letters[number >> 5 * place & 31] for place in range(31, -1, -1))


def _entry(number: int, name: str, **fields: Any) -> Entry:
    return Entry(
        hash=_hash(number * 7_919 + 5_000_000),
        name=name,
        version=f"1.{number % 7}",
        namespace="builtin",
        platform="linux",
        os=("debian12", "rhel9")[number % 2],
        target=("x86_64_v3", "zen4", "neoverse_v2")[number % 3],
        compiler=("gcc@12.2.0", "llvm@18.1.0", "")[number % 3],
        variants={"build_system": "cmake", "shared": number % 2 == 0},
        edges=(),
        layout="3",
        key=f"v3/manifests/spec/{name}/{number}",
        stamp="",
        size_bytes=10 ** (number % 8) * 17,
        checksum="0" * 64,
        signed=number % 2 == 0,
        added_s=MARCH + number * 3_000,
    )._replace(**fields)


def _large() -> Catalogue:
    """20,000 binaries of 2,000 packages; each depends on one of the package before."""
    entries: list[Entry] = []
    for number in range(20_000):
        before = entries[number - 1 : number] if number else []
        edges = tuple(Edge(one.name, one.version, one.hash, ("link",)) for one in before)
        entries.append(_entry(number, f"package-{number % 2000}", edges=edges))
    about = {f"package-{number}": About("Solves equations of its kind.") for number in range(2000)}
    dressing = Dressing("A large mirror", "s3://bucket/large", "large", about=about)
    return Catalogue({one.hash: one for one in entries}, dressing)


def _numbered(package: int) -> list[Entry]:
    """All of a package of the large mirror."""
    return [_entry(number, f"package-{package}") for number in range(package, 20_000, 2000)]


def _hostile() -> Catalogue:
    one = _entry(1, "con", namespace=HOSTILE, compiler=HOSTILE, variants={HOSTILE: HOSTILE})
    other = _entry(2, "Con", edges=(Edge(one.name, HOSTILE, one.hash, ("link",)),))
    about = {"con": About(HOSTILE, "https://x.example/'\"><b>", (HOSTILE,))}
    dressing = Dressing(HOSTILE, f"https://x.example/{HOSTILE}", "x", about=about)
    third = _entry(14, "con")
    return Catalogue({found.hash: found for found in (one, other, third)}, dressing)


@pytest.fixture(scope="module")
def address(places: Path) -> Iterator[str]:
    """A plain web server above the sites, so that they lie below a path."""
    handler = functools.partial(_Quiet, directory=str(places.parent.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/deep/path"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Open]:
    """Open a page; when the test ends, no error was seen and no other host was asked."""
    errors: list[str] = []
    requests: list[str] = []
    contexts = []

    def open_page(path: str, width: int = 1280, height: int = 900, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        page.on(
            "response", lambda answer: errors.append(answer.url) if answer.status > 399 else None
        )
        page.goto(f"{address}/{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    outside = {url for url in requests if not url.startswith((f"{address}/", "data:"))}
    assert outside == set()


def names(page: Any) -> list[str]:
    found: list[str] = page.locator("#packages tbody tr:visible th a").all_inner_texts()
    return found


def search(page: Any, text: str, found: str) -> None:
    page.locator("#search").fill(text)
    page.locator("#found", has_text=re.compile(f"^{found}")).wait_for()


def test_search_finds_names_and_descriptions(open_page: Open) -> None:
    page = open_page("large/index.html")
    assert len(names(page)) == 150
    page.keyboard.press("/")
    page.keyboard.type("PACKAGE-1999")
    page.locator("#found", has_text="1 package").wait_for()
    assert names(page) == ["package-1999"]
    assert page.locator("#packages mark").inner_text() == "package-1999"
    assert page.url.endswith("?q=package-1999")
    search(page, "equations", "2,000 packages")
    assert len(names(page)) == 150
    page.locator("#more").click()
    page.locator("#rest", has_text="450 of 2,000").wait_for()
    search(page, "no such thing", "0 packages")
    assert page.locator("#none").is_visible()
    page.keyboard.press("Escape")
    page.locator("#none").wait_for(state="hidden")
    assert len(names(page)) == 150
    assert "?" not in page.url


def test_search_finds_a_hash(open_page: Open) -> None:
    page = open_page("large/index.html")
    key = _entry(17, "package-17").hash
    search(page, f"/{key[:30]}", "[0-9]+ binar")
    link = page.locator("#packages tbody a").first
    assert key in link.get_attribute("href")
    link.click()
    assert page.locator("tr.open").get_attribute("id") == key


def test_filters_hold_for_one_binary(open_page: Open) -> None:
    page = open_page("large/index.html")
    page.locator("#target").select_option("zen4")
    page.locator("#found", has_text="2,000 packages").wait_for()
    page.locator("#compiler").select_option("llvm@18.1.0")
    page.locator("#found", has_text="2,000 packages").wait_for()
    page.locator("#compiler").select_option("gcc@12.2.0")
    page.locator("#found", has_text=re.compile("^0 packages")).wait_for()
    page.locator("#clear").click()
    page.locator("#system").select_option("linux-rhel9")
    page.locator("#found", has_text="1,000 packages").wait_for()
    assert page.url.endswith("?system=linux-rhel9")
    page.reload()
    page.locator("#found", has_text="1,000 packages").wait_for()
    assert page.locator("#system").input_value() == "linux-rhel9"


def test_a_filter_counts_and_goes_along(open_page: Open) -> None:
    """A row tells of the binaries that fit, and its page begins with them."""
    page = open_page("large/index.html")
    page.locator(".kinds a", has_text="zen4").click()
    page.locator("#found", has_text="2,000 packages").wait_for()
    assert page.locator("#target").input_value() == "zen4"
    search(page, "package-5", "[0-9]+ packages")
    row = page.locator("#packages tbody tr").first
    entries = [one for one in _numbered(5) if one.target == "zen4"]
    assert row.locator("td[data-label]").inner_text() == str(len(entries))
    assert row.locator(".version").inner_text() == max(one.version for one in entries)
    row.locator("a").click()
    page.locator("#found", has_text=f"{len(entries)} of 10 binaries").wait_for()
    rows = page.locator("#rows tbody tr:visible")
    assert rows.count() == len(entries)
    assert page.url.endswith("package-5.html?target=zen4")
    page.locator("#target").select_option("x86_64_v3")
    fit = [one for one in _numbered(5) if one.target == "x86_64_v3"]
    page.locator("#found", has_text=f"{len(fit)} of 10").wait_for()
    page.locator("#clear").click()
    assert rows.count() == 10
    assert "?" not in page.url


def test_a_filter_is_offered_for_few_binaries_only_if_asked(open_page: Open) -> None:
    page = open_page("hostile/index.html?target=zen4")
    page.locator("#found", has_text="1 package").wait_for()
    page.locator("#packages tbody a").click()
    page.locator("#found", has_text="1 of 2 binaries").wait_for()
    assert page.locator("#rows tbody tr:visible").count() == 1
    page = open_page(f"hostile/packages/{slug('con')}.html")
    assert page.locator("#rows tbody tr:visible").count() == 2
    assert page.locator("#tools").is_hidden()


def test_the_list_is_put_in_another_order(open_page: Open) -> None:
    page = open_page("tutorial/index.html")
    by_name = names(page)
    assert by_name == sorted(by_name)
    page.locator("#order").select_option("many")
    page.locator("#found", has_text="packages").wait_for()
    counts = [int(one) for one in page.locator("#packages td[data-label]").all_inner_texts()]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]
    page.locator("#order").select_option("new")
    page.wait_for_url("**?order=new")
    page.locator("#packages tbody tr").first.wait_for()
    days = page.locator("#packages td.date").all_inner_texts()
    assert days == sorted(days, reverse=True)


def test_the_first_view_is_small(browser: Any, address: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    sizes: list[int] = []
    page.on("response", lambda answer: sizes.append(len(answer.body())))
    page.goto(f"{address}/large/index.html", wait_until="networkidle")
    context.close()
    assert len(sizes) == 3
    assert sum(sizes) < 200_000


def test_details_link_both_ways(open_page: Open) -> None:
    page = open_page("small/packages/hdf5.html")
    key = NODES["hdf5"]["hash"]
    assert page.locator("#binaries").is_visible()
    page.locator(f"[id='{key}'] a.hash").click()
    detail = page.locator("tr.detail")
    detail.get_by_text("build_system").wait_for()
    assert page.url.endswith(f"#{key}")
    assert detail.locator("a", has_text="zlib@1.0").count() == 1
    assert "not on this mirror" in detail.locator("li", has_text="gcc@").inner_text()
    detail.locator("a", has_text="app@1.0").click()
    page.locator("tr.detail a", has_text="hdf5@1.0").wait_for()
    assert page.locator("h1").inner_text() == "app"
    page.locator("tr.detail a", has_text="con@1.0").click()
    page.locator("tr.detail").get_by_text("app@1.0").wait_for()
    assert "/packages/con." in page.url


def test_a_binary_opens_by_keyboard_and_closes(open_page: Open) -> None:
    page = open_page("small/packages/zlib.html")
    handle = page.locator("a.hash").first
    handle.focus()
    page.keyboard.press("Enter")
    page.locator("tr.detail h3").first.wait_for()
    assert handle.get_attribute("aria-expanded") == "true"
    page.keyboard.press("Enter")
    assert page.locator("tr.detail").count() == 0
    assert handle.get_attribute("aria-expanded") == "false"
    page.locator("#rows td.date").first.click()  # anywhere in the row
    page.locator("tr.detail h3").first.wait_for()
    assert handle.get_attribute("aria-expanded") == "true"


def test_a_package_s_binaries_are_sifted(open_page: Open) -> None:
    page = open_page("large/packages/package-5.html")
    rows = page.locator("#rows tbody tr:visible")
    assert rows.count() == 10
    page.locator("#filter").fill("zen4 rhel9")
    page.locator("#found", has_text="of 10 binaries").wait_for()
    assert 0 < rows.count() < 10
    assert all("zen4" in text for text in rows.all_inner_texts())
    page.keyboard.press("Escape")
    page.locator("#found").wait_for(state="hidden")
    assert rows.count() == 10


def test_commands_are_copied(open_page: Open) -> None:
    page = open_page("small/index.html", permissions=["clipboard-read", "clipboard-write"])
    page.locator(".copy").first.click()
    page.get_by_text("Copied").wait_for()
    text = page.evaluate("navigator.clipboard.readText()")
    assert text.startswith("spack mirror add --unsigned small file:///")


def test_without_scripts_the_list_is_there(open_page: Open) -> None:
    page = open_page("tutorial/index.html", java_script_enabled=False)
    listed = names(page)
    assert len(listed) > 100
    assert page.locator("#search").is_hidden()
    page.locator("#packages a").first.click()
    assert page.locator("#rows tbody tr").count() > 0
    page.goto(page.url.replace("/packages/", "/letters/").rpartition("/")[0] + "/z.html")
    assert "zlib-ng" in names(page)


def test_hostile_texts_stay_text(open_page: Open) -> None:
    page = open_page("hostile/index.html")
    assert page.title() == HOSTILE
    assert page.locator("h1").inner_text() == HOSTILE
    search(page, "onerror", "1 package")
    assert page.locator("#packages .about").inner_text() == HOSTILE
    page.locator("#packages a").first.click()
    assert page.locator("h1").inner_text() == "con"
    page.locator("a.hash").first.click()
    page.locator("tr.detail h3").first.wait_for()
    assert page.locator("tr.detail dd").get_by_text(HOSTILE, exact=True).count() >= 1
    page.locator("tr.detail a", has_text="Con@").click()
    page.locator("tr.detail").get_by_text(HOSTILE).first.wait_for()
    assert page.locator("img").count() == 0
    assert page.title().startswith("Con · ")


PAGES = ["index.html", "new.html", "statistics.html", "api.html", "packages/zlib-ng.html"]


def axe() -> str:
    """The text of axe-core, from the folder that STACKYARD_AXE names."""
    folder = os.environ.get("STACKYARD_AXE", "")
    if not folder:
        pytest.skip("STACKYARD_AXE does not name a folder with axe-core")
    return (Path(folder) / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing_serious(open_page: Open, path: str, width: int, scheme: str) -> None:
    source = axe()
    page = open_page(f"tutorial/{path}", width, color_scheme=scheme, bypass_csp=True)
    if path.startswith("packages/"):
        page.locator("a.hash").first.click()
        page.locator("tr.detail h3").first.wait_for()
    if path == "index.html":
        search(page, "lib", "[0-9]+ packages")
    page.evaluate(source)
    found = page.evaluate("axe.run().then(found => found.violations)")
    shown = [(one["impact"], one["id"], one["nodes"][0]["html"][:200]) for one in found]
    assert shown == []


@pytest.mark.parametrize("path", [*PAGES, "letters/p.html"])
def test_a_phone_has_no_sideways_scroll(open_page: Open, path: str) -> None:
    page = open_page(f"tutorial/{path}", 360, 740, has_touch=True, is_mobile=True)
    if path.startswith("packages/"):
        page.locator("a.hash").first.click()
        page.locator("tr.detail h3").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    small = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => e.checkVisibility() && e.childNodes"
        ".length && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) &&"
        " !e.closest('svg') && parseFloat(getComputedStyle(e).fontSize) < 11).length"
    )
    assert small == 0


@pytest.mark.parametrize("name", ["small", "half-tutorial", *REAL])
def test_every_page_of_a_site_opens(name: str, open_page: Open, places: Path) -> None:
    """From the list to each package, and on along its links; then the pages beside the list."""
    page = open_page(f"{name}/index.html")
    titles = names(page)
    assert len(titles) == len(list((places / name / "packages").glob("*.html"))) > 0
    for title in titles:
        page.locator("#packages").get_by_role("link", name=title, exact=True).click()
        assert page.locator("h1").inner_text() == title
        page.locator("a.hash").first.click()
        page.locator("tr.detail dl").first.wait_for()
        for link in page.locator("tr.detail .edges a").all():
            anchor = link.get_attribute("href").partition("#")
            path = places / name / "packages" / anchor[0]
            assert anchor[2] in Page(path.read_text(encoding="utf-8")).ids
        page.locator(".crumbs a").click()
    for title, heading in (("New", "What is new"), ("Statistics", "Statistics"), ("API", "For")):
        page.locator(".bar nav a", has_text=title).click()
        assert page.locator("h1").inner_text().startswith(heading)


def test_a_search_that_was_sent_is_in_view_on_a_phone(open_page: Open) -> None:
    page = open_page("tutorial/index.html?q=openmpi", 360, 740)
    page.locator("#found", has_text="package").wait_for()
    page.wait_for_function("scrollY > 0")
    top = page.locator("#search").bounding_box()["y"]
    assert 0 <= top < 740
