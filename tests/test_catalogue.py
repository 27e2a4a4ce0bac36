"""A catalogue as values: names, days, figures, documents, pages. Nothing here reads a mirror."""

from __future__ import annotations

import json
import re
from datetime import date, datetime, timezone
from typing import Any
from xml.etree import ElementTree as ET

import locks
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from site_data import HOSTILE, MARCH, Page, is_valid

from stackyard.binary import Binary, Blob
from stackyard.catalogue import (
    Catalogue,
    Dressing,
    Edge,
    Entry,
    State,
    dump_state,
    make_entry,
    parse_state,
    sidecar_path,
    site_files,
)
from stackyard.catalogue.about import NOTHING, About, parse_about, recipe_folder
from stackyard.catalogue.figures import count_all
from stackyard.catalogue.names import (
    crumb,
    day_number,
    day_text,
    plural,
    shard_of,
    slug,
    time_text,
    version_order,
)
from stackyard.catalogue.plots import Bar, Point, bars, curve
from stackyard.catalogue.schema import SCHEMA
from stackyard.errors import CorruptError
from stackyard.lock import parse_node

DRESSING = Dressing("A stack", "https://cache.example.org/stack", "stack")
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"


def key(number: int) -> str:
    """A DAG hash."""
    digits = ""
    for _ in range(32):
        number, digit = divmod(number, 32)
        digits = _LETTERS[digit] + digits
    return digits


def load(name: str) -> str | None:
    path = ROOT / "templates" / name
    return path.read_text(encoding="utf-8") if path.is_file() else None


def entry(number: int, name: str = "zlib", **fields: Any) -> Entry:
    return Entry(
        hash=key(number),
        name=name,
        version="1.3",
        namespace="builtin",
        platform="linux",
        os="debian12",
        target="x86_64_v3",
        compiler="gcc@12.2.0",
        variants={"build_system": "autotools", "shared": True},
        edges=(),
        layout="3",
        key=f"v3/manifests/spec/{name}/{name}-1.3-{key(number)}.spec.manifest.json",
        stamp="s1",
        size_bytes=1000,
        checksum="0" * 64,
        signed=True,
        added_s=MARCH,
    )._replace(**fields)


def edge(one: Entry, *types: str) -> Edge:
    return Edge(one.name, one.version, one.hash, types or ("build", "link"))


def catalogue(*entries: Entry, dressing: Dressing = DRESSING) -> Catalogue:
    return Catalogue({one.hash: one for one in entries}, dressing)


def files(*entries: Entry, dressing: Dressing = DRESSING) -> dict[str, bytes]:
    return dict(site_files(catalogue(*entries, dressing=dressing), load))


def document(found: dict[str, bytes], name: str) -> Any:
    return json.loads(found[f"api/v1/{name}.json"])


# ---- names ----------------------------------------------------------------------------------------


@given(st.integers(0, 253_402_300_799))
def test_days_are_those_of_the_calendar(seconds: int) -> None:
    when = datetime.fromtimestamp(seconds, tz=timezone.utc)
    assert day_text(day_number(seconds)) == when.date().isoformat()
    assert time_text(seconds) == when.strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")


def test_months_of_old_catalogues() -> None:
    assert crumb(int(datetime(2021, 11, 30, tzinfo=timezone.utc).timestamp())) == "21.11"
    assert crumb(None) == "undated"
    assert date.fromisoformat(day_text(0)) == date(1970, 1, 1)


@pytest.mark.parametrize("name", ["zlib", "r-abc", "_7zip", "py_x", "3proxy"])
def test_plain_names_are_files(name: str) -> None:
    assert slug(name) == name


@given(st.text(min_size=1))
def test_any_name_becomes_a_legal_file(name: str) -> None:
    file = slug(name)
    assert re.fullmatch(r"[a-z0-9_-]{1,100}(\.[0-9a-f]{12})?", file)
    assert file.lower().partition(".")[0] not in {"con", "nul", "aux", "prn"} or "." in file


@pytest.mark.parametrize("name", ["con", "NUL", "com1", "Zlib", "../../x", "index", "a" * 300, "é"])
def test_unusual_names_cannot_be_taken_for_others(name: str) -> None:
    file = slug(name)
    assert "." in file
    assert file != slug(name.lower() + "-")
    assert slug(name) == file
    assert len({slug(name), slug(name.lower()), slug(name + "x")}) >= 2


def test_shards_hold_every_name_once() -> None:
    assert {shard_of(f"package-{number}", 16) for number in range(400)} == set("0123456789abcdef")
    assert shard_of("zlib", 1) == "0"
    assert shard_of("zlib", 16) == shard_of("zlib", 16)


def test_versions_are_ordered_as_spack_does() -> None:
    given_ = [
        "1.9",
        "1.10",
        "main",
        "1.10-rc1",
        "1.10",
        "git.0123456789abcdef0123456789abcdef01234567=1",
    ]
    order = version_order(given_)
    assert order[:2] == ["main", "1.10"]
    assert order.index("1.10") < order.index("1.9")
    assert len(order) == len(set(given_))
    assert version_order(reversed(given_)) == order


def test_plural() -> None:
    assert plural(1, "binary", "binaries") == "1 binary"
    assert plural(20_000, "file") == "20,000 files"


# ---- entries --------------------------------------------------------------------------------------


def made(**fields: Any) -> Entry:
    """The entry of a binary whose spec depends on something that nobody knows more of."""
    node = locks.node("app", ["lib"], **fields)
    blob = Blob("blobs/x", 10, "0" * 64)
    binary = Binary(node["hash"], 3, "key", b"", signed=True, tarball=blob, spec=blob)
    spec = parse_node(node, 5)
    return make_entry(binary, spec, {}, where="there", stamp="", added_s=None)


def test_an_entry_tells_what_its_spec_says() -> None:
    flags = {"cflags": ["-O3"], "ldflags": [], "shared": True, "build_system": "cmake"}
    one = made(parameters=flags)
    assert one.variants == {"build_system": "cmake", "cflags": ["-O3"], "shared": True}
    assert one.edges == (Edge("lib", "", locks.key("lib"), ("build", "link")),)
    assert (one.variant_text, one.system, one.compiler) == (
        "+shared build_system=cmake", "linux-debian12", ""
    )  # fmt: skip


def edges_to(name: str, *types: Any) -> list[dict[str, Any]]:
    parameters = {"deptypes": list(types), "virtuals": []}
    return [{"name": name, "hash": key(1), "parameters": parameters}]


@pytest.mark.parametrize(
    "fields",
    [
        {"dependencies": edges_to("../../evil", "link")},
        {"dependencies": edges_to("<script>", "link")},
        {"dependencies": edges_to("lib", "<b>")},
        {"dependencies": edges_to("lib", 3)},
        {"parameters": {"x": float("nan")}},
        {"parameters": {"x": ["a", float("inf")]}},
    ],
)
def test_what_spack_never_writes_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(CorruptError) as raised:
        made(**fields)
    assert raised.value.where == "there"


def test_two_edges_to_one_spec_become_one() -> None:
    twice = [*edges_to("lib", "link"), *edges_to("lib", "build", "link")]
    assert made(dependencies=twice).edges == (Edge("lib", "", key(1), ("build", "link")),)


# ---- recipes --------------------------------------------------------------------------------------

RECIPE = '''
from spack.package import *

class Other:
    """Not this."""

class Zlib(MakefilePackage, Package):
    """A free, general-purpose,
    lossless library.

    And more of it.
    """

    homepage = "https://zlib.net"
    license("Zlib")
    license("MIT", when="@2:")
    license(made_up())
    version("1.3", sha256="00")
'''


def test_a_recipe_is_read_and_not_run() -> None:
    about = parse_about(RECIPE.encode(), "zlib")
    assert about == About(
        "A free, general-purpose, lossless library.", "https://zlib.net", ("Zlib", "MIT")
    )


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"\0",
        b"\xff\xfe",
        b"class X(",
        b"x = 1",
        b"(" * 100_000,
        b"class X:\n    homepage = 'javascript:alert(1)'",
        b"class X:\n    homepage = open('/etc/passwd').read()",
        b"class X:\n    homepage = 'https://['",
        b"class X:\n    homepage = 'https://a\\nb'",
        b"class X:\n    homepage = 'https:///nowhere'",
        b"class X:\n    license(exit(1))",
        b"class X:\n    cran = 'a b'",
        b"class X:\n    cran = 3",
    ],
)  # fmt: skip
def test_what_is_no_recipe_says_nothing(source: bytes) -> None:
    assert parse_about(source, "x") == NOTHING


@pytest.mark.parametrize(
    ("name", "kind"),
    [("zlib-ng", "ZlibNg"), ("7zip", "_7zip"), ("r-abc", "RAbc"), ("py-x", "Unlike")],
)
def test_the_class_of_a_package_counts_and_not_its_builders(name: str, kind: str) -> None:
    source = f'class {kind}(Package):\n    """Ours."""\n    homepage = "https://x.example"\n'
    if kind == "Unlike":
        source = f"class Before:\n    pass\n\n{source}"
    else:
        source += '\nclass CMakeBuilder(CMakeBuilder):\n    """Theirs."""\n'
    assert parse_about(source.encode(), name) == About("Ours.", "https://x.example")


@pytest.mark.parametrize(
    ("line", "page"),
    [
        ("cran = 'randomForest'", "https://cloud.r-project.org/package=randomForest"),
        ("bioc = 'limma'", "https://bioconductor.org/packages/limma"),
        ("cran = 'a'\n    homepage = 'https://a.example'", "https://a.example"),
    ],
)
def test_packages_of_r_have_their_archive_s_page(line: str, page: str) -> None:
    assert parse_about(f"class RX:\n    {line}".encode(), "r-x").homepage == page


def test_a_long_docstring_is_cut() -> None:
    about = parse_about(b'class X:\n    """' + b"word " * 1000 + b'"""', "x")
    assert len(about.summary) <= 600
    assert about.summary.endswith("…")


@pytest.mark.parametrize(
    ("name", "folder"), [("hdf5", "hdf5"), ("py-numpy", "py_numpy"), ("7zip", "_7zip")]
)
def test_folders_of_recipes(name: str, folder: str) -> None:
    assert recipe_folder(name) == folder


# ---- the state ------------------------------------------------------------------------------------


def many() -> dict[str, Entry]:
    base = entry(1)
    user = entry(2, "hdf5", edges=(edge(base), Edge("glibc", "", key(99), ("link",))))
    odd = entry(3, "con", added_s=None, size_bytes=None, signed=False, variants={"x": ["1", "2"]})
    return {one.hash: one for one in (base, user, odd)}


def test_the_state_comes_back() -> None:
    state = State("s3://bucket/x", many(), ("A" * 40,))
    assert parse_state(dump_state(state), "state.json") == state


def test_the_state_keeps_to_the_schema_beside_it() -> None:
    assert is_valid(json.loads(dump_state(State("u", many()))))


def test_the_state_depends_on_nothing_but_the_entries() -> None:
    entries = many()
    turned = dict(reversed(list(entries.items())))
    assert dump_state(State("u", entries)) == dump_state(State("u", turned))


def _changed(**parts: Any) -> bytes:
    found = json.loads(dump_state(State("u", many())))
    return json.dumps({**found, **parts}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        _changed(version=2),
        _changed(url=None),
        _changed(keys=["../../evil"]),
        _changed(nodes=[["../../etc/passwd", "1", key(1)]] * 9),
        _changed(nodes=[["a", "<b>", key(1)]] * 9),
        _changed(nodes=[["a", "1", "hash"]] * 9),
        _changed(nodes=[]),
        _changed(places=[["a", "b", "c"]]),
        _changed(places=[["a", "../..", "c", "d", "e"]]),
        _changed(variants=[{"x": {"y": 1}}] * 9),
        _changed(entries=[[1]]),
        _changed(entries=[[0, 0, 0, [], "9", "k", "s", 1, "0" * 64, True, 1]]),
        _changed(entries=[[0, 0, 0, [], "3", "k", "s", 1, "zz", True, 1]]),
        _changed(entries=[[0, 0, 0, [], "3", "k", "s", "1", "0" * 64, True, 1]]),
        _changed(entries={"a": 1}),
    ],
)  # fmt: skip
def test_a_state_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptError) as raised:
        parse_state(data, "DIR/api/v1/state.json")
    assert raised.value.where == "DIR/api/v1/state.json"


# ---- figures and plots ----------------------------------------------------------------------------


def test_figures() -> None:
    day = 86_400
    found = count_all(
        [
            entry(1, size_bytes=5_000),
            entry(2, size_bytes=2_000_000, added_s=MARCH + day, signed=False),
            entry(3, "hdf5", size_bytes=3_000_000, added_s=MARCH + day, target="zen4"),
            entry(4, "hdf5", size_bytes=None, added_s=None, compiler=""),
        ]
    )
    assert (found.binaries, found.size_bytes, found.signed) == (4, 5_005_000, 3)
    assert (found.unsized, found.undated) == (1, 1)
    assert [tuple(one) for one in found.growth] == [
        (MARCH // day, 1, 5_000),
        (MARCH // day + 1, 3, 5_005_000),
    ]
    assert [one[:2] for one in found.sizes] == [
        ("below 10 kB", 1),
        ("10 to 100 kB", 0),
        ("100 kB to 1 MB", 0),
        ("1 to 10 MB", 2),
    ]
    assert [one.label for one in found.packages] == ["hdf5", "zlib"]
    assert [one[:2] for one in found.targets] == [("x86_64_v3", 3), ("zen4", 1)]
    assert [one[:2] for one in found.compilers] == [("gcc@12.2.0", 3), ("none", 1)]


@pytest.mark.parametrize("values", [[0], [1], [3, 7], [1, 10**13], list(range(1, 500))])
def test_a_curve_stays_in_its_frame(values: list[int]) -> None:
    picture = curve([Point(20_000 + n, v) for n, v in enumerate(values)], HOSTILE, str)
    root = ET.fromstring(picture)  # noqa: S314 - our own
    assert root.attrib["aria-label"] == HOSTILE
    line = next(one.attrib["d"] for one in root if one.attrib.get("class") == "line")
    heights = [
        float(one)
        for one in re.findall(r"V([-0-9.]+)|M[0-9.]+ ([-0-9.]+)", line)
        for one in one
        if one
    ]
    assert all(0 <= one <= 210 for one in heights)
    rows = [one.text for one in root if one.attrib.get("class") == "tick"]
    assert float(str(rows[0])) == 0
    assert max(values) <= max(
        float(str(text)) for text in rows if re.fullmatch("[0-9.]+", str(text))
    )


def test_bars_are_as_long_as_their_values() -> None:
    rows = [
        Bar("much", 100, "100"),
        Bar("half", 50, "50"),
        Bar(HOSTILE, 0, "0"),
        Bar("a" * 60, 1, "1"),
    ]
    root = ET.fromstring(bars(rows, "Bars"))  # noqa: S314 - our own
    space = "{http://www.w3.org/2000/svg}"
    widths = [float(one.attrib["width"]) for one in root.iter(f"{space}rect")]
    assert widths[1] == pytest.approx(widths[0] / 2, abs=0.1)
    assert widths[2] == 0
    assert [one.text for one in root.iter(f"{space}title")][2] == f"{HOSTILE}: 0"
    assert all(len(str(one.text)) <= 22 for one in root.iter(f"{space}text"))


# ---- documents ------------------------------------------------------------------------------------


def test_documents_keep_to_their_schema() -> None:
    found = files(*many().values())
    kinds = set()
    for path, data in found.items():
        if path.startswith("api/v1/") and path != "api/v1/schema.json":
            value = json.loads(data)
            assert is_valid(value), path
            kinds.add(value["kind"])
            folder = path.rpartition("/")[0]
            assert (
                f"{folder}/{value['schema']}".replace("packages/../", "").replace("hashes/../", "")
                == "api/v1/schema.json"
            )
    assert kinds == {"index", "package", "hashes", "new", "statistics"}
    assert json.loads(found["api/v1/schema.json"]) == SCHEMA
    wrong = {**document(found, "index"), "totals": {}}
    assert not is_valid(wrong)


def test_dependencies_are_linked_both_ways() -> None:
    found = files(*many().values())
    (hdf5,) = document(found, "packages/hdf5")["binaries"]
    assert hdf5["dependencies"] == [
        {
            "name": "zlib",
            "version": "1.3",
            "hash": key(1),
            "types": ["build", "link"],
            "binary": True,
        },
        {"name": "glibc", "version": "", "hash": key(99), "types": ["link"], "binary": False},
    ]
    zlib = document(found, "packages/zlib")
    assert zlib["binaries"][0]["dependents"] == [{"name": "hdf5", "version": "1.3", "hash": key(2)}]
    assert (zlib["dependencies"], zlib["dependents"]) == ([], ["hdf5"])
    assert "hdf5.html" in Page(found["packages/zlib.html"].decode()).links
    links = Page(found["packages/hdf5.html"].decode()).links
    assert "zlib.html" in links
    assert "glibc.html" not in links


def test_hashes_lead_to_packages() -> None:
    found = files(*many().values())
    assert document(found, f"hashes/{key(1)[0]}")["packages"] == {
        key(1): "zlib", key(2): "hdf5", key(3): "con"
    }  # fmt: skip
    assert document(found, "hashes/7")["packages"] == {}


def test_what_is_new_comes_first() -> None:
    found = files(*(entry(n, added_s=MARCH + n) for n in range(1, 4)), entry(9, added_s=None))
    assert [one["hash"] for one in document(found, "new")["binaries"]] == [key(3), key(2), key(1)]
    page = Page(found["new.html"].decode())
    assert f"packages/zlib.html#{key(3)}" in page.links
    assert "3 binaries" in page.text


def test_a_day_of_many_says_how_many() -> None:
    page = Page(files(*(entry(n) for n in range(500)))["new.html"].decode())
    assert "500 binaries, 200 of them here" in page.text
    assert "200 binaries" in page.text
    assert sum(link.startswith("packages/") for link in page.links) == 1


def test_equals_are_news_of_one_line() -> None:
    found = files(entry(1), entry(2), entry(3, target="zen4"), entry(4, "hdf5"))
    page = Page(found["new.html"].decode())
    assert f"packages/hdf5.html#{key(4)}" in page.links
    assert len([one for one in page.links if one.startswith("packages/zlib")]) == 2
    assert "2 binaries" in page.text
    assert f"/{key(4)[:7]}" in page.text


ATOM = "{http://www.w3.org/2005/Atom}"


def feed(found: dict[str, bytes]) -> ET.Element:
    return ET.fromstring(found["feed.xml"])  # noqa: S314 - our own


def test_a_feed_tells_what_is_new() -> None:
    base = "https://site.example/x/"
    entries = [entry(n, f"p{n % 9}", added_s=MARCH + n) for n in range(300)]
    found = feed(files(*entries, dressing=DRESSING._replace(base=base, title=HOSTILE)))
    assert found.findtext(f"{ATOM}title") == HOSTILE
    assert found.findtext(f"{ATOM}updated") == "2024-03-01T00:04:59Z"
    told = found.findall(f"{ATOM}entry")
    assert len(told) == 200
    assert told[0].findtext(f"{ATOM}title") == "p2 1.3"
    assert told[0].find(f"{ATOM}link").attrib["href"] == f"{base}packages/p2.html#{key(299)}"  # type: ignore[union-attr]
    names = {str(one.findtext(f"{ATOM}id")) for one in told}
    assert len(names) == 200
    assert all(re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", name) for name in names)
    assert {one.attrib["href"] for one in found.findall(f"{ATOM}link")} == {
        f"{base}feed.xml", f"{base}new.html"
    }  # fmt: skip


def test_a_feed_without_news_and_without_an_address() -> None:
    found = feed(files(entry(1, added_s=None)))
    assert found.findall(f"{ATOM}entry") == []
    assert [one.attrib["href"] for one in found.findall(f"{ATOM}link")] == ["new.html"]
    before = feed(files(entry(1))).find(f"{ATOM}entry/{ATOM}id")
    after = feed(files(entry(1, added_s=MARCH + 9), entry(2))).findall(f"{ATOM}entry/{ATOM}id")
    assert before is not None
    assert before.text in [one.text for one in after]


def test_old_clients_find_their_endpoints() -> None:
    dressing = DRESSING._replace(base="https://site.example/x/", keys=("A" * 40,))
    newer = entry(2, "hdf5", added_s=MARCH + 40 * 86_400)
    found = files(entry(1), newer, entry(3, added_s=None), dressing=dressing)
    for folder in ("manifest/", "manifest/dates/"):
        assert found[f"{folder}index.html"] == found[f"{folder}index.json"]
    manifest = json.loads(found["manifest/index.html"])
    assert manifest["keys"] == [f"https://site.example/x/keys/{'A' * 40}.pub"]
    first = manifest["packages"][0]
    stem = f"linux-debian12-x86_64_v3-gcc-12.2.0-hdf5-1.3-{key(2)}"
    assert first == {
        "name": f"{stem}.spack",
        "spec": f"https://site.example/x/_cache/24.04/build_cache/{stem}.spec.json",
        "url": f"https://cache.example.org/stack/blobs/sha256/00/{'0' * 64}",
        "html_url": f"https://site.example/x/packages/hdf5.html#{key(2)}",
    }
    dates = json.loads(found["manifest/dates/index.html"])
    assert dates["dates"] == ["24.04/build_cache", "24.03/build_cache", "undated/build_cache"]
    assert dates["url_prefix"] == "https://site.example/x/_cache/"
    assert all(
        "//" not in one["html_url"][8:] and ":" not in one["spec"][8:]
        for one in manifest["packages"]
    )


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"layout": "oci", "key": "manifests/zlib-1.3-x.spack"}, "ghcr.io/o/n:zlib-1.3-x.spack"),
        (
            {"layout": "2"},
            (
                "oci://ghcr.io/o/n/build_cache/linux-debian12-x86_64_v3/gcc-12.2.0/zlib-1.3/"
                f"linux-debian12-x86_64_v3-gcc-12.2.0-zlib-1.3-{key(1)}.spack"
            ),
        ),
    ],
)
def test_where_tarballs_are(fields: dict[str, str], url: str) -> None:
    found = files(entry(1, **fields), dressing=DRESSING._replace(url="oci://ghcr.io/o/n"))
    assert json.loads(found["manifest/index.json"])["packages"][0]["url"] == url


def test_paths_are_legal_everywhere() -> None:
    long = entry(1, "x" * 120, version="git." + "0" * 40 + "=" + "1" * 90, compiler="a:b@c/d")
    strange = entry(2, "Con", os="mac:os")
    found = [*files(long, strange), sidecar_path(long), sidecar_path(strange)]
    for path in found:
        for part in path.split("/"):
            assert re.fullmatch(r"[A-Za-z0-9_.+-]{1,250}", part), path
    assert len({path.lower() for path in found}) == len(found)


# ---- pages ----------------------------------------------------------------------------------------


def test_nothing_depends_on_the_order_of_entries() -> None:
    entries = list(many().values())
    assert files(*entries) == files(*reversed(entries))


def test_every_link_leads_somewhere() -> None:
    found = files(*many().values(), *(entry(100 + n, f"package-{n}") for n in range(200)))
    for path, data in found.items():
        if not path.endswith(".html") or path.startswith("manifest/"):
            continue
        page = Page(data.decode())
        folder = path.rpartition("/")[0]
        assert len(set(page.ids)) == len(page.ids), path
        for link in page.links:
            target, _, anchor = link.partition("#")
            if link.startswith("data:"):
                continue
            assert not target.startswith(("http", "/")), link
            whole = re.sub(r"[^/]+/\.\./", "", f"{folder}/{target}".lstrip("/")) if target else path
            assert whole in found, (path, link)
            if anchor:
                assert anchor in Page(found[whole].decode()).ids, (path, link)


def test_pages_bring_no_script_or_style_of_their_own() -> None:
    for path, data in files(*many().values()).items():
        if path.endswith(".html") and not path.startswith("manifest/"):
            page = Page(data.decode())
            assert "style" not in page.tags + page.attributes
            assert not any(name.startswith("on") for name in page.attributes)
            assert page.tags.count("script") == 1
            assert b"default-src 'none'" in data


def test_hostile_texts_stay_text() -> None:
    about = {"zlib": About(HOSTILE, "https://x.example/\"'><script>", (HOSTILE,))}
    bad = entry(
        1,
        namespace=HOSTILE,
        compiler=f"gcc@{HOSTILE}",
        variants={"v": HOSTILE, HOSTILE: True, "cflags": [HOSTILE], "half": "\ud800 \x00"},
    )
    dressing = Dressing(HOSTILE, f"https://x.example/{HOSTILE}", "name", "", (), about)
    found = files(bad, dressing=dressing)
    for path, data in found.items():
        text = data.decode()
        if path.endswith(".html"):
            assert "<img" not in text, path
            assert "<script>" not in text, path
    page = Page(found["packages/zlib.html"].decode())
    assert HOSTILE in page.text
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert document(found, "packages/zlib")["description"] == HOSTILE


def test_commands_can_be_pasted() -> None:
    url = "https://x.example/a;rm -rf $HOME"
    found = files(entry(1, signed=False), dressing=DRESSING._replace(url=url))
    text = Page(found["index.html"].decode()).text
    assert f"spack mirror add --unsigned stack '{url}'" in text
    assert "buildcache keys" not in text
    signed = Page(files(entry(1))["packages/zlib.html"].decode()).text
    assert "spack mirror add stack https://cache.example.org/stack" in signed
    assert "spack buildcache keys --install --trust" in signed
    assert f"spack install --cache-only zlib/{key(1)[:10]}" in signed


def test_a_registry_s_signatures_are_none_to_spack() -> None:
    url = "oci://ghcr.io/o/n"
    images = [entry(n, layout="oci", signed=n > 0) for n in range(2)]
    found = files(*images, dressing=DRESSING._replace(url=url))
    text = Page(found["index.html"].decode()).text
    assert f"spack mirror add --unsigned stack {url}" in text
    assert "buildcache keys" not in text
    assert "1 of the 2 binaries carry signatures that Spack does not look at" in text
    assert f"stackyard mirror.verify --url {url} --keys FILE" in text
    assert "--unsigned stack" in Page(found["packages/zlib.html"].decode()).text


def test_a_mirror_s_keys_sign_nothing_by_being_there() -> None:
    found = files(entry(1, signed=False), dressing=DRESSING._replace(keys=("A" * 40,)))
    text = Page(found["index.html"].decode()).text
    assert "spack mirror add --unsigned stack" in text
    assert "carry no signature" in text
    assert "taken only from" not in Page(found["packages/zlib.html"].decode()).text


def test_what_lacks_a_signature_is_said() -> None:
    found = files(entry(1), entry(2, "hdf5", signed=False))
    text = Page(found["index.html"].decode()).text
    assert "spack mirror add stack" in text
    assert "Without a signature: 1 of 2 binaries" in text
    said = "taken only from a mirror that was added with --unsigned"
    assert said in Page(found["packages/hdf5.html"].decode()).text
    assert said not in Page(found["packages/zlib.html"].decode()).text


def test_the_first_page_says_for_which_machines() -> None:
    one_kind = Page(files(entry(1))["index.html"].decode())
    assert "linux-debian12" in one_kind.text
    assert "x86_64_v3" in one_kind.text
    assert not any(link.startswith("?") for link in one_kind.links)
    several = [entry(n, target=f"t{n:02d}&x") for n in range(12)]
    page = Page(files(*several)["index.html"].decode())
    assert next(link for link in page.links if link.startswith("?")) == "?target=t00%26x"
    assert "and 4 more" in page.text


def test_the_search_knows_each_kind_of_binary_by_itself() -> None:
    found = files(
        entry(1, version="2.0", target="zen4"),
        entry(2, version="1.0", target="zen4", size_bytes=None, added_s=None),
        entry(3, version="1.0", size_bytes=5, added_s=MARCH + 86_400),
        entry(4, version="1.0", os="rhel9", compiler="", size_bytes=None, added_s=None),
        entry(5, "Con"),
        dressing=DRESSING._replace(about={"zlib": About("Packs.")}),
    )
    data = json.loads(found["data/0.json"])
    (con, zlib) = data["packages"]
    assert con[:4] == ["Con", slug("Con"), ["1.3"], ""]
    assert zlib[:4] == ["zlib", "", ["2.0", "1.0"], "Packs."]
    rows = [zlib[4][n : n + 7] for n in range(0, len(zlib[4]), 7)]
    told = [
        (data["systems"][a], data["compilers"][b], data["targets"][c], *rest)
        for a, b, c, *rest in rows
    ]
    day = MARCH // 86_400
    assert told == [
        ("linux-debian12", "gcc@12.2.0", "x86_64_v3", 1, 1, 5, day + 1),
        ("linux-debian12", "gcc@12.2.0", "zen4", 2, 0, 1000, day),
        ("linux-rhel9", "", "x86_64_v3", 1, 1, None, None),
    ]


def test_a_row_says_in_what_its_binary_differs() -> None:
    found = files(
        entry(1, variants={"pic": True, "shared": True, "opt": "a"}),
        entry(2, variants={"pic": True, "shared": False, "opt": "a", "cflags": ["-O3", "-g"]}),
    )
    text = Page(found["packages/zlib.html"].decode()).text
    assert "+shared" in text
    assert '~shared cflags="-O3 -g"' in text
    assert "+pic" not in text
    assert "opt=a" not in text


def test_the_first_view_is_small_for_many_packages() -> None:
    about = {
        f"package-{n}": About("A sentence of the usual length that says what it does. " * 4)
        for n in range(6000)
    }
    entries = [entry(n, f"package-{n}", added_s=MARCH + n) for n in range(6000)]
    found = files(*entries, dressing=DRESSING._replace(about=about))
    first = ("index.html", "assets/site.css", "assets/site.js")
    assert sum(len(found[path]) for path in first) < 200_000
    shards = [path for path in found if path.startswith("data/")]
    assert len(shards) == 16
    names = [row[0] for path in shards for row in json.loads(found[path])["packages"]]
    assert sorted(names) == sorted(about)
    letters = [path for path in found if path.startswith("letters/")]
    listed = [link for path in letters for link in Page(found[path].decode()).links]
    assert {f"../packages/{name}.html" for name in names} <= set(listed)


def test_an_empty_mirror_has_a_site() -> None:
    found = files()
    assert document(found, "index")["packages"] == []
    assert b"does not tell" in found["new.html"]
    assert json.loads(found["manifest/dates/index.json"])["dates"] == []


def test_a_new_binary_changes_few_files() -> None:
    base = [entry(n, f"package-{n % 300}", added_s=MARCH) for n in range(1200)]
    before = files(*base)
    new = entry(5000, "package-7", edges=(edge(base[3]),), added_s=MARCH + 100)
    after = files(*base, new)
    changed = {path for path, data in after.items() if before.get(path) != data}
    assert before.keys() == after.keys()
    assert {one for one in changed if one.startswith("packages/")} == {
        "packages/package-7.html",
        "packages/package-3.html",
    }
    assert len(changed) < 20
