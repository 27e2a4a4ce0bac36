"""Spec strings: the grammar, and matching against tables that real Spack 1.1.0 wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from stackyard.errors import SpecError
from stackyard.lock import Lock, parse_lock
from stackyard.spec import Matcher, constrain, format_variants, implies, parse_pattern

DATA = Path(__file__).parent / "data"
STACKS = DATA.parent.parent / "stacks"
PATHS = {
    "small": STACKS / "small" / "spack.lock",
    "tutorial": STACKS / "tutorial" / "spack.lock",
    "small-spack-0.23": DATA / "small-spack-0.23.lock",
}


def _table(name: str) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((DATA / "match-table" / name).read_text("utf-8"))
    return table


TRUTH = _table("spack-1.1.json")
ALGEBRA = _table("algebra-1.1.json")
ROWS: list[str] = ALGEBRA["rows"]
LOCKS = {name: parse_lock(path.read_bytes(), name) for name, path in PATHS.items()}
MATCHERS = {name: Matcher(lock) for name, lock in LOCKS.items()}


def _matching(name: str, text: str) -> set[str]:
    pattern, matcher = parse_pattern(text), MATCHERS[name]
    specs = LOCKS[name].specs.values()
    return {spec.hash[:5] for spec in specs if matcher.matches(spec, pattern)}


@pytest.mark.parametrize("name", LOCKS)
def test_matches_like_spack(name: str) -> None:
    wrong = {
        text: answer
        for text, answer in TRUTH["plain"][name].items()
        if answer is not None and _matching(name, text) != set(answer.split())
    }
    assert wrong == {}
    assert len(TRUTH["plain"][name]) > 400


REFUSED = sorted(text for text, answer in TRUTH["plain"]["small"].items() if answer is None)


@pytest.mark.parametrize("text", REFUSED)
def test_refuses_what_spack_refuses(text: str) -> None:
    with pytest.raises(SpecError) as raised:
        parse_pattern(text, "here")
    assert raised.value.code == 2
    assert str(raised.value).startswith("here: ")


@pytest.mark.parametrize("name", LOCKS)
@pytest.mark.parametrize("text", TRUTH["virtual"]["tutorial"])
def test_a_virtual_is_right_or_unsettled(name: str, text: str) -> None:
    """Where the recipes decide, the lock may leave it open, but never answers otherwise."""
    pattern, answer = parse_pattern(text), TRUTH["virtual"][name][text].split()
    for spec in LOCKS[name].specs.values():
        try:
            found = MATCHERS[name].matches(spec, pattern)
        except SpecError:
            continue
        assert found is (spec.hash[:5] in answer), spec.name


def _one(name: str, package: str) -> Any:
    return next(spec for spec in LOCKS[name].specs.values() if spec.name == package)


@pytest.mark.parametrize(
    ("package", "text"),
    [
        pytest.param("openmpi", "mpi", id="name"),
        pytest.param("openmpi", "mpi+nosuch", id="other-constraints-do-not-count"),
        pytest.param("openmpi", "mpi %nosuch", id="dependencies-do-not-count"),
        pytest.param("hdf5", "^mpi", id="below"),
        pytest.param("hdf5", "%c", id="direct"),
        pytest.param("netlib-scalapack", "%mpi+nosuch", id="direct-with-variant"),
    ],
)
def test_a_virtual_that_an_edge_carries(package: str, text: str) -> None:
    specs = [spec for spec in LOCKS["tutorial"].specs.values() if spec.name == package]
    assert any(MATCHERS["tutorial"].matches(spec, parse_pattern(text)) for spec in specs)


@pytest.mark.parametrize(
    ("package", "text"),
    [
        pytest.param("cmake", "mpi", id="no-edge-shows-it"),
        pytest.param("openmpi", "mpi@3:", id="version"),
        pytest.param("trilinos", "^mpi@3:", id="version-below"),
        pytest.param("trilinos", "%c@1", id="version-direct"),
    ],
)
def test_what_only_a_recipe_can_tell_is_an_error(package: str, text: str) -> None:
    with pytest.raises(SpecError, match="cannot tell") as raised:
        MATCHERS["tutorial"].matches(_one("tutorial", package), parse_pattern(text))
    assert "name the packages instead" in raised.value.hint
    assert any(name in raised.value.hint for name in ("mpich, openmpi", "gcc, llvm"))


@pytest.mark.parametrize("text", ["mpi/zzz", "nosuch", "nosuch@1", "%nosuch", "^nosuch@3", "awk/1"])
def test_false_needs_no_recipe(text: str) -> None:
    assert _matching("tutorial", text) == set()


def _oracle() -> list[tuple[str, str]]:
    manifest = yaml.safe_load((DATA / "match-table" / "spack.yaml").read_text("utf-8"))["spack"]
    items = [
        item
        for entry in manifest["ci"]["pipeline-gen"]
        for item in entry.get("submapping", ())
        if item["build-job"].get("variables")
    ]
    pairs = {
        (key, text.removesuffix(":") if "@" not in text else text)
        for item in items
        for text in item["match"]
        for key in item["build-job"]["variables"]
    }
    return sorted(pairs)


ORACLE_JOBS = {
    job["variables"]["SPACK_JOB_SPEC_DAG_HASH"]: job["variables"]
    for job in yaml.safe_load((DATA / "match-table" / "pipeline.yml").read_text("utf-8")).values()
    if isinstance(job, dict) and "SPACK_JOB_SPEC_DAG_HASH" in job.get("variables", {})
}


@pytest.mark.parametrize(
    ("key", "text"), [pytest.param(*p, id=f"{p[0]}-{p[1]}") for p in _oracle()]
)
def test_submappings_of_a_real_pipeline(key: str, text: str) -> None:
    assert len(ORACLE_JOBS) > 15
    for dag_hash, variables in ORACLE_JOBS.items():
        spec = LOCKS["small"].specs[dag_hash]
        found = MATCHERS["small"].matches(spec, parse_pattern(text))
        assert found is (key in variables), spec.name


@pytest.mark.parametrize("name", LOCKS)
def test_variants_print_like_spack(name: str) -> None:
    for spec in LOCKS[name].specs.values():
        printed = format_variants(spec.parameters, spec.node.get("patches", ()))
        assert printed == TRUTH["variants"][name][spec.hash[:5]], spec.name


@pytest.mark.parametrize(
    ("parameters", "patches", "expected"),
    [
        pytest.param({}, (), "", id="nothing"),
        pytest.param({"b": False, "a": True, "cflags": ["-g"]}, (), "+a~b", id="switches-first"),
        pytest.param({"a": "True", "b": "false"}, (), "+a~b", id="switches-as-text"),
        pytest.param({"x": [], "y": ["b", "a"]}, (), "x:='*' y:=a,b", id="lists"),
        pytest.param({"x": "a b", "y": "it's"}, (), "x='a b' y=\"it's\"", id="quotes"),
        pytest.param({}, ("b" * 64, "a" * 64), "patches:=aaaaaaa,bbbbbbb", id="patches"),
        pytest.param({"x": "[c]"}, (), "x=[c]", id="brackets"),
    ],
)
def test_format_variants(
    parameters: dict[str, Any], patches: tuple[str, ...], expected: str
) -> None:
    assert format_variants(parameters, patches) == expected


UNPRINTED = {"%[virtuals=c]"}  # Spack prints %*c=, which nobody can parse


@pytest.mark.parametrize("text", ALGEBRA["text"])
def test_prints_like_spack(text: str) -> None:
    """But for namespaces, which Spack leaves out, and what it prints so that it is lost."""
    pattern = parse_pattern(text)
    assert parse_pattern(str(pattern)) == pattern
    if text not in UNPRINTED and "." not in text.partition("@")[0]:
        assert str(pattern) == " ".join(ALGEBRA["text"][text].split())


def test_every_accepted_string_survives_printing() -> None:
    for text, answer in TRUTH["plain"]["small"].items():
        if answer is not None:
            pattern = parse_pattern(text)
            assert parse_pattern(str(pattern)) == pattern, text


@pytest.mark.parametrize("text", ROWS)
def test_implies_like_spack(text: str) -> None:
    answers = zip(ROWS, ALGEBRA["satisfies"][text], strict=True)
    wrong = [
        other
        for other, answer in answers
        if answer != "x"
        and implies(parse_pattern(text), parse_pattern(other)) is not (answer == "1")
    ]
    assert wrong == []


def _unprintable(text: str | None) -> bool:
    """Spack glues a hash to a value (``k=v/abc``), and loses a range of targets."""
    return text is not None and (("=" in text and "/" in text) or text.endswith("target="))


@pytest.mark.parametrize("text", [row for row in ROWS if "." not in row.partition("@")[0]])
def test_constrain_like_spack(text: str) -> None:
    for other, expected in zip(ROWS, ALGEBRA["constrain"][text], strict=True):
        if "." in other.partition("@")[0] or _unprintable(expected):
            continue
        if {text, other} == {"%%gcc", "%[when=+mpi] gcc"}:
            continue  # Spack fails with a TypeError of its own
        try:
            found = str(constrain(parse_pattern(text), parse_pattern(other)))
        except SpecError:
            assert expected is None, other
        else:
            assert expected is not None, other
            assert parse_pattern(found) == parse_pattern(expected), other


@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param("hdf5+mpi^openmpi", "hdf5 +mpi ^openmpi", id="spaces"),
        pytest.param("hdf5+mpi~hl", "hdf5~hl+mpi", id="order-of-variants"),
        pytest.param("a ^b ^c", "a ^c ^b", id="order-of-dependencies"),
        pytest.param("a %gcc ^b", "a ^b ^c %d", id="not-the-same"),
        pytest.param("k=b,a", "k=a,b,a", id="order-of-values"),
        pytest.param("+foo", "foo=true", id="true"),
        pytest.param("%clang", "%llvm", id="alias"),
        pytest.param("%c=gcc", "%[virtuals=c] gcc", id="virtuals"),
        pytest.param("%c,cxx=gcc", "%cxx,c=gcc", id="order-of-virtuals"),
        pytest.param(
            "arch=linux-debian12-zen2", "target=zen2 os=debian12 platform=linux", id="arch"
        ),
        pytest.param("@1.2:1.4", "@1-2:1.4", id="separators"),
        pytest.param("@:", "*", id="anything"),
        pytest.param("a -b", "a~b", id="minus"),
        pytest.param("k='v'", 'k="v"', id="quotes"),
    ],
)
def test_equality_is_of_meaning(a: str, b: str, request: pytest.FixtureRequest) -> None:
    same = "not-the-same" not in request.node.name
    assert (parse_pattern(a) == parse_pattern(b)) is same
    assert (len({parse_pattern(a), parse_pattern(b)}) == 1) is same


@pytest.mark.parametrize("text", ["*", "@:", "", "  ", "* @:"])
def test_is_any(text: str) -> None:
    assert parse_pattern(text).is_any
    assert parse_pattern(text).only_name is None


@pytest.mark.parametrize(
    ("text", "name"),
    [("hdf5", "hdf5"), ("hdf5@:", "hdf5"), ("hdf5@1", None), ("builtin.hdf5", None), ("+a", None)],
)
def test_only_name(text: str, name: str | None) -> None:
    assert parse_pattern(text).only_name == name
    assert not parse_pattern(text).is_any


def test_without_direct() -> None:
    assert parse_pattern("a %gcc@12 ^b").without_direct() == parse_pattern("a ^b")


@pytest.mark.parametrize(
    ("text", "words", "column"),
    [
        pytest.param("hdf5 &", "unexpected characters", 5, id="character"),
        pytest.param("hdf5 zlib", "two specs", 5, id="two"),
        pytest.param("a/b.json", "file name", 0, id="file"),
        pytest.param("./b.yaml", "file name", 0, id="file-dot"),
        pytest.param("a@1@2", "two versions", 3, id="versions"),
        pytest.param("a+b~b", "stands twice", 3, id="variant"),
        pytest.param("a target=fe", "another thing on every machine", 2, id="host"),
        pytest.param("a %[foo=1] b", "none of deptypes", 4, id="attribute"),
        pytest.param("a %[virtuals=c b", "expected before ]", 15, id="unclosed"),
        pytest.param("a %", "missing after %", 2, id="dangling"),
        pytest.param("%[when='+a+a'] b", "stands twice", 2, id="inside-when"),
    ],
)
def test_errors_show_the_place(text: str, words: str, column: int) -> None:
    with pytest.raises(SpecError, match=words) as raised:
        parse_pattern(text, "stack.yaml: key")
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("stack.yaml: key: ")
    assert lines[2].index("^") - 2 == column
    assert "Spec syntax" in lines[3]


LONG = 10_000
HOSTILE = {
    "letters": "a" * LONG,
    "dots": "a." * (LONG // 2),
    "slashes": "a/" * (LONG // 2),
    "hashes": "/a" * (LONG // 2),
    "files": "-/" * 4000 + "x.json",
    "variants": "+a" * (LONG // 2),
    "many-variants": "".join(f"+b{i}" for i in range(1500)),
    "versions": "@" + "1," * 4999,
    "many-versions": "@" + ",".join(f"={i}.{j}" for i in range(40) for j in range(40)),
    "digits": "@" + "1" * 9000,
    "colons": "@" + "1:" * 4999,
    "range-end": "@1:" + "a." * 4900 + " =",
    "quotes": "k=" + "'" * 9998,
    "escaped": "k='" + "\\'" * 4990,
    "equals": "k=" + "=" * 9990,
    "dependencies": "^a" * (LONG // 2),
    "many-dependencies": "".join(f"^a{i}" for i in range(1500)),
    "nameless": "^+a" * 1000,
    "percents": "%" * LONG,
    "brackets": "%[" * (LONG // 2),
    "nested": "%[when=" * 1000,
    "nested-quotes": "%[when='" * 1000,
    "commas": "%" + "a," * 4990,
    "stars": "*" * 100,
    "git": "@git." + "a/" * 4000 + "=",
    "blanks": " " * LONG,
    "zero": "\0",
    "too-long": "a" * (LONG + 1),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_strings_end_quickly(text: str) -> None:
    """The test of time is the run of the whole file; here: parsed, or refused in our words."""
    try:
        pattern = parse_pattern(text)
    except SpecError:
        return
    assert parse_pattern(str(pattern)) == pattern


def test_an_error_does_not_repeat_a_long_string() -> None:
    with pytest.raises(SpecError) as raised:
        parse_pattern("+a" * 5000)
    assert len(str(raised.value)) < 400


def test_an_unknown_target_in_a_range_is_an_error(small_lock: Lock) -> None:
    spec = next(iter(small_lock.specs.values()))
    with pytest.raises(SpecError, match="archspec"):
        Matcher(small_lock).matches(spec, parse_pattern("target=nosuch:"))


def test_archspec_is_imported_only_for_ranges() -> None:
    script = (
        "import sys, stackyard.spec as s, stackyard.lock as l\n"
        f"lock = l.parse_lock(open({str(PATHS['small'])!r}, 'rb').read(), 'x')\n"
        "m = s.Matcher(lock)\n"
        "for text in ('target=x86_64_v3', 'target=zen2,x86_64', 'hdf5', '%gcc@12'):\n"
        "    [m.matches(one, s.parse_pattern(text)) for one in lock.specs.values()]\n"
        "print('archspec' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
