"""The text of an index: the same binaries give the same bytes, by whatever steps they came."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import mirrors
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.indexing import true_hash
from stackyard.binary import Metadata, dump_spec_blob, gunzip, parse_metadata
from stackyard.errors import CorruptError, StoreError
from stackyard.index import (
    EMPTY,
    Entry,
    Gathered,
    HoleError,
    IndexView,
    Rows,
    State,
    Table,
    change,
    dump_state,
    parse_state,
    scan,
)
from stackyard.nodes import first_node, is_whole, make_node, other_nodes

DIAMOND = mirrors.specs(
    {"glibc": (), "gcc": ("glibc",), "zlib": ("gcc", "glibc"), "png": ("zlib", "gcc"),
     "tiff": ("zlib", "png"), "app": ("png", "tiff")},
    external=("glibc", "gcc"),
)  # fmt: skip


def gathered(nodes: mirrors.Nodes, names: Sequence[str]) -> Gathered:
    return Gathered(mirrors.metadata(nodes, names), lambda spec: spec.name, "mirror")


def added(table: Table, nodes: mirrors.Nodes, *names: str) -> Table:
    some = gathered(nodes, names)
    return change(table, some.added(), find=some.find)


@st.composite
def histories(draw: st.DrawFn) -> tuple[mirrors.Nodes, list[tuple[set[str], set[str]]]]:
    """A graph of specs, and steps: what comes and what goes."""
    count = draw(st.integers(1, 9))
    names = [chr(ord("a") + number) * 2 for number in range(count)]
    needs = {
        name: draw(st.sets(st.sampled_from(names[:number]), max_size=4)) if number else set()
        for number, name in enumerate(names)
    }
    nodes = mirrors.specs({name: tuple(others) for name, others in needs.items()})
    some = st.sets(st.sampled_from(names))
    return nodes, draw(st.lists(st.tuples(some, some), max_size=6))


@settings(max_examples=80, deadline=None)
@given(histories())
def test_history_leaves_no_trace(
    history: tuple[mirrors.Nodes, list[tuple[set[str], set[str]]]],
) -> None:
    nodes, steps = history
    table = EMPTY
    present: set[str] = set()
    for come, go in steps:
        some = gathered(nodes, sorted(come))
        table = change(table, some.added(), {nodes[name]["hash"] for name in go}, some.find)
        present = (present - go) | come
        assert table.data == mirrors.oracle(nodes, present)
        assert table.fits
        assert list(table.hashes) == list(json.loads(table.data)["database"]["installs"])
    assert table.data == gathered(nodes, sorted(present)).table(3).data


def test_only_touched_records_are_looked_at() -> None:
    nodes = mirrors.specs({name * 2: () for name in "abcdefghij"})
    table = added(EMPTY, nodes, *nodes)
    # Whoever parsed the others would stumble.
    broken = table._replace(
        data=table.data.replace(b'"dd","version":"1.0"', b'"dd","version":"1.0}')
    )
    gone = nodes["cc"]["hash"]
    left = change(broken, {}, [gone])
    assert gone not in left.hashes
    length = dict(zip(table.hashes, table.lengths, strict=True))[gone]
    assert len(left.data) == len(table.data) - length - 1


def test_records() -> None:
    table = added(EMPTY, DIAMOND, "app", "zlib")
    installs = json.loads(table.data)["database"]["installs"]
    told = {
        record["spec"]["name"]: (record["ref_count"], record["in_buildcache"])
        for record in installs.values()
    }
    assert told == {
        "app": (0, True), "tiff": (1, False), "png": (2, False), "zlib": (2, True),
        "gcc": (2, False), "glibc": (2, False),
    }  # fmt: skip
    rows = Rows(table)
    for name, node in DIAMOND.items():
        found = rows.node(node["hash"])
        assert found is not None, name
        assert json.loads(found.text) == node
        assert set(found.children) == {e["hash"] for e in node.get("dependencies", ())}
    assert rows.node("a" * 32) is None


def test_a_hole_is_told() -> None:
    app, _ = make_node(DIAMOND["app"], 5, "mirror")
    with pytest.raises(HoleError, match="of which there is no node") as caught:
        change(EMPTY, {app.hash: app})
    assert caught.value.hash in {DIAMOND["png"]["hash"], DIAMOND["tiff"]["hash"]}


def test_lengths_that_are_not_those_of_the_text() -> None:
    table = added(EMPTY, DIAMOND, "app")
    lengths = list(table.lengths)
    lengths[0], lengths[1] = lengths[1] + 1, lengths[0] - 1
    wrong = Table(table.data, table.hashes, lengths)
    assert wrong.fits  # the sum is right
    with pytest.raises(CorruptError, match="not what its state says"):
        change(wrong, {}, list(table.hashes))
    assert not Table(table.data, table.hashes, lengths[1:]).fits
    assert not Table(table.data[:-1], table.hashes, table.lengths).fits


class TestNodes:
    def blob(self, *nodes: dict[str, Any], form: int = 5) -> bytes:
        return gunzip(dump_spec_blob(Metadata(nodes, form)), 2**20, "blob")

    @pytest.mark.parametrize("name", list(DIAMOND))
    def test_first(self, name: str) -> None:
        node, spec = first_node(self.blob(*mirrors.closure(DIAMOND, name)), "blob")
        assert json.loads(node.text) == DIAMOND[name]
        assert (spec.name, spec.hash) == (name, DIAMOND[name]["hash"])

    def test_first_of_another_writer(self) -> None:
        """Spaces, another order of keys, and a node longer than what is looked at first."""
        long = mirrors.specs({"long": ()})["long"]
        long["parameters"]["cflags"] = ["-DX=" + "x" * 40_000]
        del long["hash"]
        long["hash"] = true_hash(long)
        document = {"nodes": [long], "_meta": {"version": 5}}
        text = json.dumps({"buildcache_layout_version": 2, "spec": document}, indent=1).encode()
        for blob in (text, self.blob(long)):
            assert json.loads(first_node(blob, "blob")[0].text) == long

    def test_external_without_its_namespace_in_the_hash(self) -> None:
        node = {k: v for k, v in DIAMOND["glibc"].items() if k not in ("namespace", "hash")}
        other = {**DIAMOND["glibc"], "hash": true_hash(node)}
        assert json.loads(first_node(self.blob(other), "blob")[0].text) == other

    @pytest.mark.parametrize(
        ("change_of", "message"),
        [
            ({"version": "6.6.6"}, "not what its hash"),
            ({"name": "../../etc"}, "package name"),
            ({"parameters": ["x"]}, "parameters must be"),
            ({"dependencies": [{"name": "zlib"}]}, "shape"),
            ({"hash": "short"}, "cannot be a hash"),
        ],
    )
    def test_refused(self, change_of: dict[str, Any], message: str) -> None:
        with pytest.raises(CorruptError, match=message) as caught:
            first_node(self.blob({**DIAMOND["app"], **change_of}), "the blob")
        assert caught.value.where == "the blob"

    @pytest.mark.parametrize(
        "blob", [b"", b"{", b"\xff", b'{"spec":{"_meta":{"version":5},"nodes":[', b"[" * 100_000]
    )
    def test_no_blob(self, blob: bytes) -> None:
        with pytest.raises(CorruptError):
            first_node(blob, "blob")

    def test_whole(self) -> None:
        known: set[int] = set()
        for name in ("zlib", "png", "app", "zlib"):
            assert is_whole(self.blob(*mirrors.closure(DIAMOND, name)), known)
        assert len(known) == 6  # each node once, whatever its place
        assert not is_whole(b"{}", known)
        assert not is_whole(json.dumps(json.loads(self.blob(DIAMOND["app"]))).encode(), known)
        assert not is_whole(self.blob(DIAMOND["app"]).replace(b'"hash":"q', b'"}hash":"q'), known)

    @given(data=st.data())
    def test_what_is_whole_can_be_parsed(self, data: st.DataObject) -> None:
        """Whatever of it was seen before, and however pieces of sound ones are put together."""
        sound = [self.blob(*mirrors.closure(DIAMOND, name)) for name in ("zlib", "png", "app")]
        known: set[int] = set()
        for blob in sound:
            assert is_whole(blob, known)
        cuts = st.integers(0, len(sound[2]))
        start, end = sorted((data.draw(cuts), data.draw(cuts)))
        other = data.draw(st.sampled_from(sound))
        first, last = sorted((data.draw(cuts), data.draw(cuts)))
        middle = data.draw(st.sampled_from([b"", b"}", b'"},{"name":', other[first:last]]))
        blob = sound[2][:start] + middle + sound[2][end:]
        if is_whole(blob, known):
            assert parse_metadata(blob, "blob").nodes

    def test_others(self) -> None:
        blob = self.blob(*mirrors.closure(DIAMOND, "app"))
        zlib, gcc, png = (DIAMOND[name]["hash"] for name in ("zlib", "gcc", "png"))
        found = other_nodes(blob, [png], {zlib}.__contains__, "blob")
        assert set(found) == {png, gcc, DIAMOND["glibc"]["hash"]}
        with pytest.raises(CorruptError, match=f"lacks the node of its dependency {zlib}"):
            other_nodes(self.blob(DIAMOND["app"]), [zlib], lambda _: False, "blob")

    def test_older_nodes_are_renewed(self) -> None:
        """As Spack 1.1 writes them into an index after ``buildcache migrate``."""
        old = {k: v for k, v in DIAMOND["zlib"].items() if k not in ("annotations", "hash")}
        old["compiler"] = {"name": "gcc", "version": "12.2.0"}
        old["hash"] = true_hash(old)
        node, _ = make_node(old, 4, "mirror")
        new = json.loads(node.text)
        assert new["annotations"] == {"original_specfile_version": 4, "compiler": "gcc@=12.2.0"}
        assert list(new)[-2:] == ["annotations", "hash"]
        assert "compiler" not in new
        assert {**new, "compiler": old["compiler"]}.items() >= old.items()

    def test_oldest_nodes(self) -> None:
        needs = [{"name": "zlib", "hash": DIAMOND["zlib"]["hash"], "type": ["build", "link"]}]
        old = {k: v for k, v in DIAMOND["png"].items() if k not in ("annotations", "hash")}
        old["dependencies"] = needs
        old["hash"] = true_hash(old)
        edge = {**needs[0], "parameters": {"deptypes": ["build", "link"], "virtuals": []}}
        del edge["type"]
        for wanted in (4, 5):
            node, spec = make_node(old, 3, "mirror", wanted)
            assert json.loads(node.text)["dependencies"] == [edge]
            assert node.children == spec.children == (DIAMOND["zlib"]["hash"],)

    def test_layout_2_keeps_old_versions(self) -> None:
        old = {k: v for k, v in DIAMOND["glibc"].items() if k not in ("annotations", "hash")}
        old["hash"] = true_hash(old)
        some = Gathered([Metadata([old], 4)], lambda spec: spec.name, "mirror")
        assert json.loads(some.table(2).data)["database"]["version"] == "7"
        assert some.table(2).data.count(b"annotations") == 0
        assert json.loads(some.table(3).data)["database"]["version"] == "8"
        view = IndexView(some.table(2).data, "mirror")
        assert view.specfile == 4
        assert [(node, there) for _, node, there in view.nodes()] == [(old, True)]


class TestView:
    table = added(EMPTY, DIAMOND, "app", "png")

    @pytest.mark.parametrize("rest", [b"", b"\n", b" trailing {"])
    @pytest.mark.parametrize("indent", [None, 1])
    def test_nodes(self, indent: int | None, rest: bytes) -> None:
        text = json.dumps(json.loads(self.table.data), indent=indent).encode() + rest
        found = {node["name"]: (key, there) for key, node, there in IndexView(text, "i").nodes()}
        assert found == {n: (d["hash"], n in ("app", "png")) for n, d in DIAMOND.items()}

    def test_other_order(self) -> None:
        database = json.loads(self.table.data)["database"]
        turned = dict(reversed(database.items()))
        assert list(turned) == ["installs", "version"]
        text = json.dumps({"database": turned}).encode()
        assert len(list(IndexView(text, "i").nodes())) == len(DIAMOND)

    def test_empty(self) -> None:
        assert list(IndexView(EMPTY.data, "i").nodes()) == []

    @pytest.mark.parametrize("cut", [0, 1, 20, 41, 60, 500, -1, -2, -3])
    def test_cut_off(self, cut: int) -> None:
        text = self.table.data[:cut]
        if cut in (-1, -2):  # the records are whole, and nothing but brackets follows
            assert len(list(IndexView(text, "i").nodes())) == len(DIAMOND)
            return
        with pytest.raises(CorruptError):
            list(IndexView(text, "i").nodes())

    @pytest.mark.parametrize(
        "text",
        [
            b"[]",
            b"{}",
            b'{"database":[]}',
            b'{"database":{"version":"8","installs":[]}}',
            b'{"database":{"version":"8","installs":{"x":{"spec":{}}}}}',
            b'{"database":{"version":"8","installs":{"%b":[]}}}' % (b"a" * 32),
            b'{"database":{"version":"8","installs":{"%b":{"spec":3}}}}' % (b"a" * 32),
            b"\xff\xfe",
        ],
    )
    def test_other_shapes(self, text: bytes) -> None:
        with pytest.raises(CorruptError):
            list(IndexView(text, "i").nodes())

    def test_newer_version(self) -> None:
        text = self.table.data.replace(b'"version":"8"', b'"version":"9"')
        with pytest.raises(StoreError, match=r"version '9'.*reads 6, 7, 8"):
            IndexView(text, "i")

    def test_scanned(self) -> None:
        """Another order of records, wrong counts, a record that nothing needs: all put right."""
        document = json.loads(added(EMPTY, DIAMOND, "app", "png").data)
        installs = document["database"]["installs"]
        extra = mirrors.specs({"extra": ()})["extra"]
        installs[extra["hash"]] = {"spec": extra, "ref_count": 7, "in_buildcache": False}
        for record in installs.values():
            record["ref_count"] = 99
        document["database"]["installs"] = dict(reversed(installs.items()))
        table, entries = scan(json.dumps(document).encode(), "i", lambda spec: f"at/{spec.name}")
        assert table == self.table
        assert entries == {
            DIAMOND[name]["hash"]: Entry(f"at/{name}", "") for name in ("app", "png")
        }

    def test_scan_refuses_what_is_no_index(self) -> None:
        document = json.loads(self.table.data)
        document["database"]["installs"][DIAMOND["app"]["hash"]]["spec"]["version"] = "6.6.6"
        with pytest.raises(CorruptError, match="not what its hash"):
            scan(json.dumps(document).encode(), "i", lambda spec: spec.name)


class TestState:
    table = added(EMPTY, DIAMOND, "app", "png")
    state = State(
        serial=3,
        checksum="a" * 64,
        hashes=table.hashes,
        lengths=table.lengths,
        entries={DIAMOND["app"]["hash"]: Entry("v3/app", "1-2")},
        superseded=(("b" * 64, 1700000000),),
    )

    def test_and_back(self) -> None:
        assert parse_state(dump_state(self.state), "state") == self.state

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("version", 2),
            ("version", None),
            ("serial", "x"),
            ("serial", float("inf")),
            ("records", [["a" * 32, 0, "", ""]]),
            ("records", [["a" * 32, 1.5, "", ""]]),
            ("records", [["a" * 32, True, "", ""]]),
            ("records", [["b" * 32, 9, "", ""], ["a" * 32, 9, "", ""]]),
            ("records", [["a" * 32, 9, "", ""], ["a" * 32, 9, "", ""]]),
            ("records", [["a" * 32, 9, 5, ""]]),
            ("records", [["a" * 32, 9, "k", None]]),
            ("records", [[3, 9, "k", ""]]),
            ("records", [["a" * 32]]),
            ("records", 7),
            ("superseded", [["../../x", 1]]),
            ("superseded", ["x"]),
            ("superseded", [["a" * 64, float("inf")]]),
        ],
    )
    def test_refused(self, key: str, value: Any) -> None:
        document = json.loads(dump_state(self.state))
        document[key] = value
        with pytest.raises(CorruptError):
            parse_state(json.dumps(document).encode(), "state")

    @pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000])
    def test_no_state(self, text: bytes) -> None:
        with pytest.raises(CorruptError):
            parse_state(text, "state")


def test_gathered_refuses_wrong_metadata() -> None:
    wrong = Metadata([{**DIAMOND["zlib"], "version": "6.6.6"}], 5)
    with pytest.raises(CorruptError, match="not what its hash") as caught:
        Gathered([wrong], lambda spec: spec.name, "the mirror")
    assert caught.value.where == "the mirror"


def test_gathered_keeps_no_trees() -> None:
    """However many binaries come with the same dependency, its node is kept once, as text."""
    some = gathered(DIAMOND, ["app"] * 50 + ["tiff"] * 50)
    assert len(some._others) == len(DIAMOND) - 1
    assert all(isinstance(text, bytes) for text, _ in some._others.values())
    assert all(isinstance(node.text, bytes) for node, _ in some._own.values())


def test_offsets() -> None:
    table = added(EMPTY, DIAMOND, "app")
    starts = list(accumulate((n + 1 for n in table.lengths), initial=table.data.index(b'"') + 38))
    for start, length, dag_hash in zip(starts, table.lengths, table.hashes, strict=False):
        record = table.data[start : start + length]
        assert record.startswith(b'"%b":{' % dag_hash.encode())
        assert json.loads(b"{" + record + b"}")
