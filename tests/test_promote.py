"""What a copy decides to send, and why: tables, without any mirror."""

from __future__ import annotations

import pytest
from locks import node

from benchmarks.indexing import true_hash
from stackyard.binary import Binary, Blob, Metadata
from stackyard.errors import CorruptError
from stackyard.mirror import Layout
from stackyard.oci import digest_key
from stackyard.padding import Root
from stackyard.promote import (
    Relation,
    blobs_of,
    check_place,
    compare,
    contains,
    make_plan,
    padding_problem,
)


def blob(letter: str, size_bytes: int = 10) -> Blob:
    return Blob(digest_key(letter * 64), size_bytes, letter * 64)


def binary(
    dag_hash: str = "h",
    tarball: str = "a",
    spec: str = "b",
    *,
    signed: bool = False,
    manifest: bytes = b"",
    layout: Layout = 3,
) -> Binary:
    text = manifest or f"{tarball}{spec}{signed}".encode()
    return Binary(dag_hash, layout, f"key-{dag_hash}", text, signed, blob(tarball), blob(spec))


def image(tarball: str = "a", *, signed: bool = False, manifest: bytes = b"") -> Binary:
    return binary(tarball=tarball, signed=signed, manifest=manifest, layout="oci")


RELATIONS: dict[str, tuple[Binary, Binary, Relation]] = {
    "same bytes": (binary(), binary(), "same"),
    "same bytes, signed": (binary(signed=True), binary(signed=True), "same"),
    "the same in other words": (binary(manifest=b"1"), binary(manifest=b"2"), "same"),
    "upgrade": (binary(signed=True), binary(), "newly signed"),
    "downgrade": (binary(), binary(signed=True), "unsigned"),
    "signed anew": (
        binary(signed=True, manifest=b"1"),
        binary(signed=True, manifest=b"2"),
        "signed otherwise",
    ),
    "built anew": (binary(tarball="c"), binary(), "other"),
    "built anew and signed": (binary(tarball="c", signed=True), binary(), "other"),
    "other metadata": (binary(spec="c"), binary(), "metadata"),
    "into a registry": (binary(), binary(spec="c", layout="oci"), "same"),
    "into a registry, built anew": (binary(), binary(tarball="c", layout="oci"), "other"),
    "out of a registry": (binary(layout="oci"), binary(spec="c", signed=True), "same"),
    "between registries": (
        binary(layout="oci", spec="c", manifest=b"1"),
        binary(layout="oci", manifest=b"2"),
        "same",
    ),
    "between registries, upgrade": (image(signed=True), image(), "newly signed"),
    "between registries, downgrade": (image(), image(signed=True), "unsigned"),
    "between registries, signed anew": (
        image(signed=True, manifest=b"1"),
        image(signed=True, manifest=b"2"),
        "signed otherwise",
    ),
    "between registries, built anew": (image(tarball="c", signed=True), image(), "other"),
    "signed, into a registry": (binary(signed=True), image(), "same"),
    "into a registry that is signed": (binary(), image(signed=True), "same"),
    "signed, out of a registry": (image(signed=True), binary(), "same"),
}


@pytest.mark.parametrize(("new", "old", "relation"), RELATIONS.values(), ids=RELATIONS)
def test_how_two_binaries_of_a_hash_differ(new: Binary, old: Binary, relation: Relation) -> None:
    assert compare(new, old) == relation


#: With a key in hand, which signs what nobody has signed.
SIGNING: dict[str, tuple[Binary, Binary, Relation]] = {
    "into a registry": (binary(), image(), "newly signed"),
    "signed, into a registry": (binary(signed=True), image(), "newly signed"),
    "into a registry that is signed": (binary(), image(signed=True), "same"),
    "built anew": (binary(tarball="c"), image(signed=True), "other"),
    "between registries": (image(manifest=b"1"), image(manifest=b"2"), "newly signed"),
    "between registries, same bytes": (image(), image(), "newly signed"),
    "between registries, signed already": (image(), image(signed=True), "same"),
    "between registries, signed by others": (
        image(signed=True, manifest=b"1"),
        image(signed=True, manifest=b"2"),
        "signed otherwise",
    ),
    "between registries, the very same": (image(signed=True), image(signed=True), "same"),
}


@pytest.mark.parametrize(("new", "old", "relation"), SIGNING.values(), ids=SIGNING)
def test_how_they_differ_to_who_signs(new: Binary, old: Binary, relation: Relation) -> None:
    assert compare(new, old, signing=True) == relation


def part(letter: str) -> str:
    return f'{{"mediaType":"x/y","digest":"sha256:{letter * 64}","size":10}}'


#: The manifest of an image.
IMAGE = (
    f'{{"schemaVersion":2,"config":{part("b")},"layers":[{",".join(map(part, "acd"))}]}}'
).encode()


def keys(*letters: str) -> frozenset[str]:
    return frozenset(blob(letter).key for letter in letters)


@pytest.mark.parametrize(
    ("old", "stored", "reason", "manifest"),
    [
        (None, "", "not there yet", True),
        (binary(), "", "there without a signature", True),
        (binary(signed=True), "ab", "", False),
        (binary(signed=True), "a", "there, but not all of its blobs", False),
    ],
)
def test_what_is_sent_and_why(
    old: Binary | None, stored: str, reason: str, *, manifest: bool
) -> None:
    there = {"h": old} if old else {}
    plan = make_plan([binary(signed=True)], there=there, stored=keys(*stored), force=False)
    assert [(one.reason, one.manifest) for one in plan.items] == [(reason, manifest)] * bool(reason)
    assert plan.here == (frozenset() if reason else {"h"})
    assert plan.conflicts == ()


OTHER_BLOBS = "there, but not all of its blobs, and it is made of others"
CONFLICTS = [
    (binary("one", "c"), binary("one"), "another binary of the same hash is there"),
    (
        binary("two"),
        binary("two", signed=True),
        "the same binary is there with a signature, and this one has none",
    ),
    (
        binary("three", signed=True, manifest=b"1"),
        binary("three", signed=True, manifest=b"2"),
        "the same binary is there, signed otherwise",
    ),
    (
        binary("four", spec="c"),
        binary("four"),
        "the same tarball is there, with other metadata",
    ),
]


def test_all_conflicts_are_told_at_once_and_sent_if_forced() -> None:
    binaries = [new for new, _, _ in CONFLICTS] + [binary("five")]
    there = {old.hash: old for _, old, _ in CONFLICTS}
    plan = make_plan(binaries, there=there, stored=(), force=False)
    assert [(one.binary, one.reason) for one in plan.conflicts] == [
        (new, reason) for new, _, reason in CONFLICTS
    ]
    assert [item.binary.hash for item in plan.items] == ["five"]
    forced = make_plan(binaries, there=there, stored=(), force=True)
    assert forced.conflicts == ()
    assert [item.old for item in forced.items] == [
        *(old.manifest for _, old, _ in CONFLICTS),
        None,
    ]


def test_what_cannot_be_completed_is_a_conflict() -> None:
    """An image of the same tarball has other blobs than a binary of layout 3."""
    old = binary(spec="c", signed=True)
    for stored, reasons in (("ac", []), ("a", [OTHER_BLOBS])):
        new = binary(layout="oci", manifest=IMAGE)
        plan = make_plan([new], there={"h": old}, stored=keys(*stored), force=False)
        assert [one.reason for one in plan.conflicts] == reasons


def test_a_blob_is_sent_once_and_the_largest_first() -> None:
    small = binary("one", "a", "b")._replace(spec=blob("b", 5))
    large = binary("two", "a", "c")._replace(spec=blob("c", 500))
    plan = make_plan([small, large], there={}, stored=(), force=False, here=["zero"])
    loaded = plan.with_blobs([small, large], stored=keys("b"))
    assert [one.checksum[0] for one in loaded.blobs] == ["c", "a"]
    assert loaded.kept == keys("b")
    assert loaded.size_bytes == 510
    assert str(loaded) == "2 of 3 to send, 510 bytes (2 not there yet), 1 already there"


def test_an_image_has_more_blobs_than_tarball_and_metadata() -> None:
    image = binary(layout="oci", tarball="d", manifest=IMAGE)
    assert {one.checksum[0] for one in blobs_of(image)} == set("abcd")
    assert {one.checksum[0] for one in blobs_of(binary())} == set("ab")


@pytest.mark.parametrize(
    ("outer", "inner", "answer"),
    [
        ("s3://b/x", "s3://b/x/", True),
        ("s3://b/x", "s3://b/x/y", True),
        ("s3://b/x", "s3://b/xy", False),
        ("s3://b/x/y", "s3://b/x", False),
        ("/srv/m", "/srv/m", True),
        ("/srv/m", "/srv/m2", False),
        ("oci://h/a", "oci://h/a", True),
        ("oci://h/a", "oci://h/a/b", False),
        ("oci+http://h/a", "oci+http://h/a/b", False),
    ],
)
def test_a_mirror_within_another(outer: str, inner: str, *, answer: bool) -> None:
    assert contains(outer, inner) is answer


def metadata(name: str) -> tuple[str, Metadata]:
    made = node(name)
    del made["hash"], made["dependencies"]
    made["hash"] = true_hash(made)
    return made["hash"], Metadata([made], 5)


@pytest.mark.parametrize("layout", [3, "oci"])
def test_a_binary_lies_where_it_is_looked_for(layout: Layout) -> None:
    dag_hash, found = metadata("zlib")
    key = {
        3: f"v3/manifests/spec/zlib/zlib-1.0-{dag_hash}.spec.manifest.json",
        "oci": f"manifests/zlib-1.0-{dag_hash}.spack",
    }[layout]
    right = binary(dag_hash, layout=layout)._replace(key=key)
    check_place(found, right, "here")
    with pytest.raises(CorruptError, match="nobody looks for it at") as caught:
        check_place(found, right._replace(key=key.replace("zlib-1.0", "zlib-2.0")), "here")
    assert caught.value.where == "here"
    with pytest.raises(CorruptError, match=r"the binary of another spec, bzip2@1\.0"):
        check_place(metadata("bzip2")[1], right, "here")


def by_hash(roots: list[Root | None]) -> dict[str, Root | None]:
    return {str(number): root for number, root in enumerate(roots)}


PLAIN = Root("/opt/spack", padded=False)
OTHER = Root("/home/me/tree", padded=False)
PADDED = Root("/opt/" + "p" * 123, padded=True)
LONGER = Root("/opt/" + "p" * 251, padded=True)


@pytest.mark.parametrize(
    ("ours", "theirs", "problem"),
    [
        ([PADDED], [], ""),
        ([PADDED, PADDED], [PADDED], ""),
        ([PLAIN], [OTHER], ""),
        ([None], [PADDED], ""),
        ([PADDED], [None], ""),
        ([PADDED], [PADDED, PLAIN], ""),  # it is mixed already, and this makes it no worse
        (
            [PLAIN],
            [PADDED],
            (
                "the binaries were installed with no padding (/opt/spack, 10 characters), "
                "those on the mirror with a padded_length of 128"
            ),
        ),
        (
            [LONGER],
            [PADDED],
            (
                "the binaries were installed with a padded_length of 256, "
                "those on the mirror with a padded_length of 128"
            ),
        ),
        (
            [LONGER, PADDED, None],
            [],
            "the binaries do not fit each other: a padded_length of 128 and a padded_length of 256",
        ),
    ],
)
def test_padding_must_be_the_same(
    ours: list[Root | None], theirs: list[Root | None], problem: str
) -> None:
    assert padding_problem(by_hash(ours), by_hash(theirs)) == problem
