from __future__ import annotations

import gc
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackyard.errors import CorruptError, StackyardError, StoreError
from stackyard.lock import Lock, Spec, parse_lock
from stackyard.mirror import (
    SPEC_TYPE,
    TARBALL_TYPE,
    blob_key,
    compiler_of,
    parse_index,
    parse_manifest,
    parse_v2_spec,
    polite,
    signed_text,
    spec_manifest_key,
    v2_spec_key,
    v2_tarball_key,
)

DATA = Path(__file__).parent / "data"
MIRRORS = DATA / "mirrors"
TUTORIAL = Path(__file__).parents[1] / "stacks" / "tutorial" / "spack.lock"

HASH = "a" * 32
RECORD = {
    "contentLength": 7,
    "mediaType": TARBALL_TYPE,
    "compression": "gzip",
    "checksumAlgorithm": "sha256",
    "checksum": "0" * 64,
}


def lock(path: Path) -> Lock:
    return parse_lock(path.read_bytes(), str(path))


def real_manifests(mirror: str) -> list[Path]:
    return sorted((MIRRORS / mirror / "v3").rglob("*.spec.manifest.json"))


def spec(node: dict[str, Any], version: str = "1.0", *, children: tuple[str, ...] = ()) -> Spec:
    arch = {"platform": "linux", "platform_os": "debian12", "target": "x86_64_v3"}
    return Spec(HASH, "a", version, children, {"arch": arch, **node}, 5)


# --- paths ---


@pytest.mark.parametrize("mirror", ["v3-signed", "v3-unsigned"])
def test_paths_are_those_of_a_real_v3_mirror(mirror: str) -> None:
    keys = {spec_manifest_key(spec) for spec in lock(DATA / "tiny.spack.lock").specs.values()}
    real = {str(path.relative_to(MIRRORS / mirror)) for path in real_manifests(mirror)}
    assert keys == real
    for path in real_manifests(mirror):
        for record in parse_manifest(path.read_bytes(), "w").records:
            assert (MIRRORS / mirror / blob_key(record)).stat().st_size == record.size_bytes


@pytest.mark.parametrize(("mirror", "signed"), [("v2-signed", True), ("v2-unsigned", False)])
def test_paths_are_those_of_a_real_v2_mirror(mirror: str, *, signed: bool) -> None:
    there = 0
    specs = lock(DATA / "v2.spack.lock").specs
    for spec in specs.values():
        compiler = compiler_of(spec, specs)
        assert compiler == ("gcc", "12.2.0")
        file = MIRRORS / mirror / v2_spec_key(spec, compiler, signed=signed)
        tarball = MIRRORS / mirror / v2_tarball_key(spec, compiler)
        assert file.exists() == tarball.exists()
        there += file.exists()
        if file.exists():
            assert parse_v2_spec(file.read_bytes(), "w") == (spec.hash, signed)
    assert there == 5


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("git.abc/def=1.2", "git.abc_def_1.2"),
        ("a+b_c-1.0", "a+b_c-1.0"),
        ("x:y@z é", "x_y_z__"),
        ("../..", ".._.."),
    ],
)
def test_polite(text: str, name: str) -> None:
    assert polite(text) == name


def test_version_is_sanitised_in_the_path() -> None:
    key = spec_manifest_key(spec({}, "git.x/y=1.0"))
    assert key == f"v3/manifests/spec/a/a-git.x_y_1.0-{HASH}.spec.manifest.json"


def edge(dag_hash: str, *virtuals: str) -> dict[str, Any]:
    parameters = {"deptypes": ["build"], "virtuals": list(virtuals)}
    return {"name": "x", "hash": dag_hash, "parameters": parameters}


def test_compiler_is_that_of_c_then_cxx_then_fortran() -> None:
    gcc, llvm, fc = (Spec(n * 32, f"cc-{n}", "9", (), {}, 5) for n in "bcd")
    specs = {node.hash: node for node in (gcc, llvm, fc)}
    three = [edge("d" * 32, "fortran"), edge("c" * 32, "cxx"), edge("b" * 32, "c", "libc")]
    assert compiler_of(spec({"dependencies": three}), specs) == ("cc-b", "9")
    assert compiler_of(spec({"dependencies": three[:2]}), specs) == ("cc-c", "9")
    assert compiler_of(spec({"dependencies": three[:1]}), specs) == ("cc-d", "9")
    assert compiler_of(spec({"dependencies": three}), {}) is None
    assert compiler_of(spec({"dependencies": [edge("b" * 32, "mpi")]}), {}) == ("none", "none")
    old = spec({"annotations": {"original_specfile_version": 4, "compiler": "gcc@=12.2.0"}})
    assert compiler_of(old, {}) == ("gcc", "12.2.0")


def test_a_compiler_free_node_has_none_twice() -> None:
    key = v2_spec_key(spec({}), ("none", "none"), signed=True)
    assert key == f"build_cache/linux-debian12-x86_64_v3-none-none-a-1.0-{HASH}.spec.json.sig"


def test_compilers_of_a_real_lock_are_all_known() -> None:
    specs = lock(TUTORIAL).specs
    compilers = [compiler_of(spec, specs) for spec in specs.values()]
    assert None not in compilers
    assert compilers.count(("none", "none")) == 36  # as Spack 1.1 names them


# --- the index ---


def index(version: object = "8", **installs: object) -> bytes:
    return json.dumps({"database": {"version": version, "installs": installs}}).encode()


def test_real_indices() -> None:
    v2 = parse_index((MIRRORS / "v2-signed/build_cache/index.json").read_bytes(), "w")
    assert (v2.version, len(v2.hashes), len(v2.binaries)) == (7, 7, 5)
    (blob,) = (MIRRORS / "half-tutorial/blobs").rglob("3ca62b*")
    half = parse_index(blob.read_bytes(), "w")
    assert half.version == 8
    assert len(half.binaries) == 115
    assert half.binaries < lock(TUTORIAL).specs.keys()


def test_only_true_counts_as_a_binary() -> None:
    records = {
        "a" * 32: {"in_buildcache": True},
        "b" * 32: {"in_buildcache": False},
        "c" * 32: {},
        "../../etc/passwd": {"in_buildcache": True},
    }
    parsed = parse_index(index("8", **records), "w")
    assert parsed.binaries == {"a" * 32}
    assert parsed.hashes == {"a" * 32, "b" * 32, "c" * 32}


@pytest.mark.parametrize("version", ["6", "7", "8", 8])
def test_known_index_versions(version: object) -> None:
    assert parse_index(index(version), "w").version == int(str(version))


@pytest.mark.parametrize("version", ["5", "9", "0.9.3", None, 10])
def test_other_index_versions_are_refused(version: object) -> None:
    with pytest.raises(StoreError, match="this stackyard reads 6, 7 and 8") as caught:
        parse_index(index(version), "https://host/index")
    assert caught.value.where == "https://host/index"
    assert caught.value.code == 6


def test_what_follows_the_index_is_ignored() -> None:
    assert parse_index(b"\n" + index("8") + b'{"more": 1} garbage', "w").version == 8


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (index("8", x={"in_buildcache": True})[:-20], "cut off"),
        (b'{"database": {"version": "8", "inst', "cut off"),
        (b"<html>sign in</html>", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"null", "shape"),
        (b"{}", "shape"),
        (b'{"database": []}', "shape"),
        (b'{"database": {"version": "8"}}', "shape"),
        (b'{"database": {"version": "8", "installs": []}}', "shape"),
        (index("8", x=None), "shape"),
    ],
)
def test_damaged_indices_are_corrupt(data: bytes, text: str) -> None:
    with pytest.raises(CorruptError, match=text) as caught:
        parse_index(data, "https://host/index")
    assert caught.value.where == "https://host/index"


@given(st.binary() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["database", "version", "installs", "data", "spec"]) | st.text(), inner),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_nonsense_never_ends_in_a_traceback(data: bytes) -> None:
    for parse in (parse_index, parse_manifest, parse_v2_spec):
        with pytest.raises(StackyardError):
            parse(data, "w")


def test_an_index_of_many_entries() -> None:
    (blob,) = (MIRRORS / "half-tutorial/blobs").rglob("3ca62b*")
    document = json.loads(blob.read_bytes())
    nodes = list(document["database"]["installs"].values())
    letters = random.Random(1)  # noqa: S311 - names for a test
    document["database"]["installs"] = {
        "".join(letters.choices("abcdefghijklmnopqrstuvwxyz234567", k=32)): nodes[i % len(nodes)]
        for i in range(3000)
    }
    data = json.dumps(document).encode()
    assert len(parse_index(data, "w").hashes) == 3000
    assert gc.isenabled()


# --- manifests ---


def manifest(*records: object, version: object = 3) -> bytes:
    return json.dumps({"version": version, "data": records}).encode()


@pytest.mark.parametrize(("mirror", "signed"), [("v3-signed", True), ("v3-unsigned", False)])
def test_real_manifests(mirror: str, *, signed: bool) -> None:
    for path in real_manifests(mirror):
        parsed = parse_manifest(path.read_bytes(), "w")
        assert parsed.signed is signed
        assert [record.media_type for record in parsed.records] == [TARBALL_TYPE, SPEC_TYPE]
        assert parsed.record(SPEC_TYPE) is parsed.records[1]
        assert parsed.index_record is None


def test_first_record_of_a_type_counts() -> None:
    parsed = parse_manifest(manifest(RECORD, {**RECORD, "contentLength": 8, "more": 1}), "w")
    first = parsed.record(TARBALL_TYPE)
    assert first is not None
    assert first.size_bytes == 7
    assert parsed.record(SPEC_TYPE) is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"contentLength": -1}, "contentLength"),
        ({"contentLength": True}, "contentLength"),
        ({"contentLength": 1.5}, "contentLength"),
        ({"contentLength": 10**30}, "contentLength"),
        ({"contentLength": None}, "contentLength"),
        ({"mediaType": "../x"}, "mediaType"),
        ({"mediaType": ["a"]}, "mediaType"),
        ({"compression": "g zip"}, "compression"),
        ({"checksumAlgorithm": "md5"}, "checksumAlgorithm"),
        ({"checksumAlgorithm": "../../x"}, "checksumAlgorithm"),
        ({"checksum": "../../../../etc/passwd"}, "checksum"),
        ({"checksum": "0" * 63}, "checksum"),
        ({"checksum": "0" * 64 + "\n"}, "checksum"),
        ({"checksum": "A" * 64}, "checksum"),
        ({"checksum": 7}, "checksum"),
    ],
)
def test_hostile_records_are_refused(change: dict[str, object], text: str) -> None:
    with pytest.raises(CorruptError, match=text) as caught:
        parse_manifest(manifest(RECORD, {**RECORD, **change}), "https://host/m")
    assert caught.value.where == "https://host/m: data[1]"


@pytest.mark.parametrize("key", sorted(RECORD))
def test_records_need_all_their_keys(key: str) -> None:
    with pytest.raises(CorruptError, match=key):
        parse_manifest(manifest({k: v for k, v in RECORD.items() if k != key}), "w")


@pytest.mark.parametrize("version", [2, 4, "3", True, 3.0, None, [3]])
def test_other_manifest_versions_are_refused(version: object) -> None:
    with pytest.raises(CorruptError, match="version"):
        parse_manifest(manifest(RECORD, version=version), "w")


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"version": 3, "data": {}}', manifest(RECORD)[:-9], manifest(1)]
)
def test_damaged_manifests_are_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptError):
        parse_manifest(data, "w")


# --- clearsigned text ---

SIGNED = """\
-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA512

- -dash
text
-----BEGIN PGP SIGNATURE-----
Comment: a-b

aGVsbG8=
-----END PGP SIGNATURE-----
"""


def test_signed_text_is_unescaped() -> None:
    assert signed_text(SIGNED.encode(), "w") == (b"-dash\ntext\n", True)
    windows = SIGNED.replace("\n", "\r\n").encode()
    assert signed_text(windows, "w") == (b"-dash\r\ntext\r\n", True)


@pytest.mark.parametrize(
    "text",
    [
        SIGNED[: SIGNED.index("-----END")],
        SIGNED[:60],
        SIGNED + SIGNED,
        SIGNED + "{}",
        SIGNED.replace("text", "text\n" + SIGNED[SIGNED.index("-----BEGIN PGP SIGNATURE") :]),
    ],
    ids=["cut in the signature", "cut in the text", "two", "something behind", "two signatures"],
)
def test_only_one_whole_signed_message_is_taken(text: str) -> None:
    with pytest.raises(CorruptError, match="signed message"):
        signed_text(text.encode(), "w")


@pytest.mark.parametrize(
    "data",
    [
        b'{"spec": {"nodes": []}}',
        b'{"spec": {"nodes": [{"hash": "../x"}]}, "binary_cache_checksum": {"hash": "0"}}',
        b'{"spec": {"nodes": [{"hash": "%s"}]}}' % HASH.encode(),
    ],
)
def test_damaged_v2_metadata_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptError):
        parse_v2_spec(data, "w")
