"""What images say of themselves: annotations that stay text, and statements that are signed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from test_oci import HASH, SUM, TAGS, image_of, node, tagged

from stackyard.binary import Binary, Metadata, parse_metadata
from stackyard.errors import CorruptError
from stackyard.oci import (
    CONFIG_TYPE,
    LAYER_TYPE,
    MANIFEST_TYPE,
    SIGNATURE,
    parse_image,
    parse_oci_binary,
    tag_hash,
)
from stackyard.oci_notes import (
    dressed,
    image_notes,
    pushed_tarballs,
    signature_in,
    signed_manifest,
    statement,
    statement_problem,
)

OCI, OWN = "org.opencontainers.image.", "dev.stackyard."
GCC = "c" * 32


def metadata(**changes: Any) -> Metadata:
    """An HDF5 that gcc made, with whatever a case changes in its node."""
    own = {**node("hdf5", HASH, ("gcc", GCC, "build")), "version": "1.14.6"}
    own["parameters"] = {"shared": True, "api": "v114", "cflags": []}
    own["dependencies"][0]["parameters"]["virtuals"] = ["c"]
    return Metadata([{**own, **changes}, {**node("gcc", GCC), "version": "14.2.0"}], 5)


def test_all_that_an_image_says() -> None:
    notes = image_notes(
        metadata(),
        size_bytes=4711,
        source="https://github.com/owner/name",
        licenses="BSD-3-Clause",
        created="2026-01-01T00:00:00Z",
    )
    text = "hdf5@=1.14.6+shared api=v114 platform=linux os=debian12 target=x86_64_v3"
    assert notes == {
        f"{OCI}title": "hdf5 1.14.6",
        f"{OCI}description": text,
        f"{OCI}version": "1.14.6",
        f"{OCI}licenses": "BSD-3-Clause",
        f"{OCI}created": "2026-01-01T00:00:00Z",
        f"{OCI}source": "https://github.com/owner/name",
        f"{OWN}name": "hdf5",
        f"{OWN}spec": text,
        f"{OWN}hash": HASH,
        f"{OWN}variants": "+shared api=v114",
        f"{OWN}compiler": "gcc@14.2.0",
        f"{OWN}platform": "linux",
        f"{OWN}os": "debian12",
        f"{OWN}target": "x86_64_v3",
        f"{OWN}size": "4711",
    }


def test_what_nobody_knows_is_left_out() -> None:
    plain = Metadata([{**node("data", HASH)}], 5)
    notes = image_notes(plain, size_bytes=0)
    absent = {"licenses", "created", "source", "variants", "compiler"}
    assert not {name.rpartition(".")[2] for name in notes} & absent
    assert notes[f"{OWN}size"] == "0"


def test_old_nodes_name_their_compiler() -> None:
    own = {**node("zlib", HASH), "compiler": {"name": "gcc", "version": "12.2.0"}}
    assert image_notes(Metadata([own], 4), size_bytes=1)[f"{OWN}compiler"] == "gcc@12.2.0"


HOSTILE: dict[str, tuple[dict[str, Any], str, str]] = {
    "markup": (
        {"parameters": {"a": "<script>alert(1)</script>"}},
        f"{OWN}variants",
        "<script>alert(1)</script>",
    ),
    "a template": ({"parameters": {"a": "{{ 7*7 }}"}}, f"{OWN}variants", "{{ 7*7 }}"),
    "lines": ({"parameters": {"a": "x\n## y\r\0"}}, f"{OWN}variants", "x\ufffd## y\ufffd\ufffd"),
    "direction": ({"parameters": {"a": "\u202egpj.exe"}}, f"{OWN}variants", "\ufffdgpj.exe"),
    "half a character": ({"parameters": {"a": "\ud800"}}, f"{OWN}variants", "\ufffd"),
    "a long version": ({"version": "1" * 10_000}, f"{OCI}version", "1" * 254 + "…"),
    "a long description": ({"parameters": {"a": "b" * 10_000}}, f"{OCI}description", "bbb…"),
    "an endless variant": ({"parameters": {"a": "b" * 10**6}}, f"{OWN}variants", "bbb…"),
}


@pytest.mark.parametrize(("changes", "name", "text"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_values_stay_text(changes: dict[str, Any], name: str, text: str) -> None:
    notes = image_notes(metadata(**changes), size_bytes=1)
    assert text in notes[name]
    assert all(value.isprintable() for value in notes.values())
    assert all(len(value) <= 4096 for value in notes.values())
    assert len(notes[f"{OCI}description"]) <= 512
    assert len(notes[f"{OCI}version"]) <= 255
    assert notes.keys() <= image_notes(metadata(), size_bytes=1).keys()


@pytest.mark.parametrize(
    "source", ["javascript:alert(1)", "https://a b", 'https://a/"x', "https://a\n", "owner/name"]
)
def test_a_source_that_is_no_url(source: str) -> None:
    assert f"{OCI}source" not in image_notes(metadata(), size_bytes=1, source=source)


# --- images that Spack made ---


@pytest.mark.parametrize("tag", TAGS)
def test_spacks_images_are_dressed(tag: str) -> None:
    data, image, config = image_of(tag)
    found = parse_metadata(config, tag)
    notes = image_notes(found, size_bytes=1)
    manifest, new = dressed(data, config, notes, tag)
    made = parse_image(manifest, tag)
    assert made.layers == image.layers
    assert made.config.checksum == hashlib.sha256(new).hexdigest()
    assert json.loads(manifest)["annotations"] == {**json.loads(data)["annotations"], **notes}
    labels = json.loads(new)["config"].pop("Labels")
    assert labels == notes
    # Nothing else has changed, and nothing has moved: the hashes of nodes depend on their order.
    again = json.loads(new)
    del again["config"]["Labels"]
    assert json.dumps(again) == json.dumps(json.loads(config))
    assert dressed(manifest, new, notes, tag) == (manifest, new)


def docker(kind: str = "application/vnd.docker.image.rootfs.diff.tar.gzip") -> bytes:
    part = {"digest": f"sha256:{SUM}", "size": 3}
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {**part, "mediaType": "application/vnd.docker.container.image.v1+json"},
            "layers": [{**part, "mediaType": kind}],
        }
    ).encode()


def test_an_image_above_one_of_dockers_becomes_one_of_ocis() -> None:
    config = b'{"config": {"Env": ["A=b"], "Labels": {"of": "base"}}, "spec": {}}'
    manifest, new = dressed(docker(), config, {"a": "b"}, "x")
    image = parse_image(manifest, "x")
    assert image.media_type == MANIFEST_TYPE
    assert image.config.media_type == CONFIG_TYPE
    assert [layer.media_type for layer in image.layers] == [LAYER_TYPE]
    assert json.loads(new)["config"] == {"Env": ["A=b"], "Labels": {"of": "base", "a": "b"}}


def test_a_base_of_a_strange_kind_is_refused() -> None:
    with pytest.raises(CorruptError, match="no layers of this kind") as raised:
        dressed(docker("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), b"{}", {}, "x")
    assert "base image" in raised.value.hint


@pytest.mark.parametrize("config", [b"[]", b"{", b"5"])
def test_a_configuration_that_is_none(config: bytes) -> None:
    with pytest.raises(CorruptError, match="configuration"):
        dressed(docker(), config, {}, "x")


def test_what_spack_says_to_have_pushed() -> None:
    lines = [
        "==> Checking for existing specs in the buildcache",
        f"==> [1/2] Pushed tiny-app@1.1/{HASH[:7]}: sha256:{SUM} (0.01s, 0.40 MB/s)",
        f"==> Pushed \x1b[0;94mzlib\x1b[0m@1.3\x1b[0;90m/{GCC[:7]}\x1b[0m: sha256:{SUM} (1.00s, 1 MB/s)",
        f"==> [1/2] Tagged tiny-app@1.1/{HASH[:7]} as ghcr.io/a/b:x",
        f"==> Failed to push x@1/{HASH[:7]}: sha256:{SUM}",
    ]
    assert pushed_tarballs(lines) == {(HASH[:7], SUM), (GCC[:7], SUM)}


# --- signatures ---


def binary() -> Binary:
    data, _, _ = image_of(tagged("tiny-app"))
    tag = tagged("tiny-app")
    return parse_oci_binary(data, f"manifests/{tag}", tag_hash(tag), tag)


def test_a_signature_is_an_annotation_beside_others() -> None:
    ours = binary()
    assert signature_in(ours.manifest) is None
    made = signed_manifest(ours.manifest, b"signed\n")
    assert signature_in(made) == b"signed\n"
    before, after = json.loads(ours.manifest), json.loads(made)
    assert after["annotations"].pop(SIGNATURE) == "signed\n"
    assert after == before
    again = parse_oci_binary(made, ours.key, ours.hash, "x")
    assert again == ours._replace(manifest=made, signed=True)


def test_a_new_configuration_ends_a_signature() -> None:
    data, _, config = image_of(tagged("tiny-app"))
    manifest, _ = dressed(signed_manifest(data, b"signed\n"), config, {"a": "b"}, "x")
    assert signature_in(manifest) is None


SHAPES: dict[str, tuple[Any, bool, bytes | None]] = {
    "none": (None, False, None),
    "a list": ([SIGNATURE], False, None),
    "text": (SIGNATURE, False, None),
    "others": ({"a": "b"}, False, None),
    "a number": ({SIGNATURE: 5}, True, b""),
    "nothing": ({SIGNATURE: None}, True, b""),
    "empty": ({SIGNATURE: ""}, True, b""),
    "half a character": ({SIGNATURE: "\ud800"}, True, b"?"),
}


@pytest.mark.parametrize(("notes", "signed", "message"), SHAPES.values(), ids=SHAPES)
def test_annotations_of_any_shape(notes: Any, signed: bool, message: bytes | None) -> None:  # noqa: FBT001
    document = json.loads(binary().manifest)
    data = json.dumps({**document, "annotations": notes}).encode()
    assert parse_oci_binary(data, "k", HASH, "x").signed == signed
    assert signature_in(data) == message


def told(**changes: Any) -> bytes:
    ours = binary()
    assert ours.spec
    document = json.loads(statement(ours.hash, ours.tarball.checksum, ours.spec.checksum))
    document.update(changes)
    return json.dumps({k: v for k, v in document.items() if v is not None}).encode()


STATEMENTS: dict[str, tuple[bytes, str]] = {
    "right": (told(), ""),
    "another spec": (told(hash="z" * 32), "that of another spec, 'zzz"),
    "another tarball": (told(tarball=f"sha256:{SUM}"), "that of another tarball, 'sha256:0123"),
    "another configuration": (told(spec=f"sha256:{SUM}"), "that of another configuration"),
    "no text": (told(hash=5), "that of another spec"),
    "another kind of checksum": (told(tarball=f"sha512:{SUM}"), "that of another tarball"),
    "a newer version": (told(version=2), "of a newer version: update"),
    "a version that is none": (told(version=True), "of a newer version: update"),
    "something more": (told(more=1), "no statement about an image"),
    "something less": (told(spec=None), "no statement about an image"),
    "a manifest of layout 3": (b'{"version": 3, "data": []}', "no statement about an image"),
    "a list": (b"[1]", "no statement about an image"),
    "no JSON": (b"<html>", "the statement is not JSON"),
    "nothing": (b"\n", "the statement is empty"),
}


@pytest.mark.parametrize(("text", "problem"), STATEMENTS.values(), ids=STATEMENTS)
def test_statements(text: bytes, problem: str) -> None:
    found = statement_problem(text, binary())
    assert problem in found if problem else found == ""
