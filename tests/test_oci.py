"""Images in a registry: names, manifests and configurations, and what strangers may put there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests_data import DATA

from stackyard.binary import Metadata, parse_binary, parse_metadata
from stackyard.challenge import parse_challenges
from stackyard.errors import CorruptError, StoreError
from stackyard.lock import Spec
from stackyard.oci import (
    INDEX_TAG,
    Image,
    Layer,
    Reference,
    describe,
    descriptor,
    digest_in,
    digest_key,
    go_architecture,
    image_config,
    image_manifest,
    index_manifest,
    is_tag,
    last_layer,
    layout_3_entry,
    media_type_of,
    parse_image,
    parse_oci_binary,
    parse_reference,
    runtime_order,
    spec_tag,
    tag_hash,
)

TINY = DATA / "oci-tiny"  # pushed by Spack 1.1
TAGS = sorted(path.name for path in (TINY / "manifests").iterdir() if path.name != INDEX_TAG)
HASH = "bhmtboekq6cnmrlnzsu34oqpuxxmb4dy"
SUM = "0123456789abcdef" * 4


def blob(checksum: str) -> bytes:
    return (TINY / digest_key(checksum)).read_bytes()


def image_of(tag: str) -> tuple[bytes, Image, bytes]:
    """Manifest as stored and parsed, and configuration of one of Spack's images."""
    data = (TINY / "manifests" / tag).read_bytes()
    image = parse_image(data, tag)
    return data, image, blob(image.config.checksum)


def tagged(name: str) -> str:
    return next(tag for tag in TAGS if tag.startswith(f"{name}-"))


def node(name: str, dag_hash: str, *edges: tuple[str, str, str]) -> dict[str, Any]:
    return {
        "name": name,
        "version": "1.0",
        "arch": {"platform": "linux", "platform_os": "debian12", "target": "x86_64_v3"},
        "namespace": "tiny",
        "parameters": {},
        "package_hash": "a",
        "dependencies": [
            {"name": n, "hash": h, "parameters": {"deptypes": types.split(","), "virtuals": []}}
            for n, h, types in edges
        ],
        "hash": dag_hash,
    }


# --- names ---


@pytest.mark.parametrize(
    ("url", "registry", "name"),
    [
        ("oci://ghcr.io/Owner/Name", "https://ghcr.io", "owner/name"),
        ("oci://ghcr.io/owner/name/", "https://ghcr.io", "owner/name"),
        ("oci://ghcr.io/owner/name:tag", "https://ghcr.io", "owner/name"),
        ("OCI://registry.gitlab.com/a/b/c.d", "https://registry.gitlab.com", "a/b/c.d"),
        ("oci+http://localhost/name", "http://localhost", "name"),
        ("oci+http://127.0.0.1:5000/a", "http://127.0.0.1:5000", "a"),
        ("oci+http://[::1]:5000/a/b", "http://[::1]:5000", "a/b"),
        (
            "oci://1234.dkr.ecr.eu-west-1.amazonaws.com/cache",
            "https://1234.dkr.ecr.eu-west-1.amazonaws.com",
            "cache",
        ),
        ("oci://ubuntu", "https://index.docker.io", "library/ubuntu"),
        ("oci://user/repo", "https://index.docker.io", "user/repo"),
        ("oci://my-org/repo/more", "https://index.docker.io", "my-org/repo/more"),
        ("oci://index.docker.io/user/repo", "https://index.docker.io", "user/repo"),
        # Not pretty, and what Spack makes of it: an underscore is in no host.
        ("oci://my_org/repo", "https://index.docker.io", "library/my_org/repo"),
        ("oci://Host/repo", "https://Host", "repo"),
    ],
)
def test_reads_urls_as_spack_does(url: str, registry: str, name: str) -> None:
    reference = parse_reference(url)
    assert (reference.registry, reference.name) == (registry, name)
    assert reference.endpoint == f"{registry}/v2/{name}"
    assert parse_reference(reference.url) == reference


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("oci://", "not the URL"),
        ("oci:///name", "not the URL"),
        ("https://ghcr.io/a/b", "not the URL"),
        ("oci://ghcr.io/a//b", "not the URL"),
        ("oci://ghcr.io/../b", "not the URL"),
        ("oci://ghcr.io/a b", "not the URL"),
        ("oci://ghcr.io/a?x=1", "not the URL"),
        ("oci://ghcr.io/" + "a" * 300, "not the URL"),
        ("oci://user:geheim@ghcr.io/a", "neither a user nor a digest"),
        ("oci://user:geheim@ghcr.io/a?x=1", "neither a user nor a digest"),
        ("oci://user:ge/heim@ghcr.io/a", "neither a user nor a digest"),
        (f"oci://ghcr.io/a@sha256:{SUM}", "neither a user nor a digest"),
        ("oci://1234.dkr.ecr.eu-west-1.amazonaws.com", "a host without a name"),
        ("oci+http://localhost:5000", "a host without a name"),
        ("oci://localhost", "a host without a name"),
        ("oci://docker.io/user/repo", "another name"),
    ],
)
def test_refuses_other_urls(url: str, problem: str) -> None:
    with pytest.raises(StoreError, match=problem) as raised:
        parse_reference(url)
    assert "geheim" not in str(raised.value)
    assert "x=1" not in str(raised.value)


def test_tags_are_spacks() -> None:
    for tag in TAGS:
        _, _, config = image_of(tag)
        spec = parse_metadata(config, tag).spec(tag)
        assert spec_tag(spec) == tag
        assert tag_hash(tag) == spec.hash


@pytest.mark.parametrize(
    ("name", "version", "tag"),
    [
        ("zlib", "1.3.1", f"zlib-1.3.1-{HASH}.spack"),
        ("a", "git.abc/def=1.2", f"a-git.abc_def_1.2-{HASH}.spack"),
        ("_odd", "1+b", f"_odd-1_b-{HASH}.spack"),
        ("n" * 84, "1.0", "n" * 84 + f"-1.0-{HASH}.spack"),
        ("n" * 90, "1.0", "n" * 85 + f"-1.0-{HASH}.spack"),
        ("m" * 64 + "n" * 99, "1.0", "m" * 64 + "n" * 21 + f"-1.0-{HASH}.spack"),
    ],
)
def test_odd_names_make_tags_all_the_same(name: str, version: str, tag: str) -> None:
    spec = Spec(HASH, name, version, (), {}, 5)
    assert spec_tag(spec) == tag
    assert is_tag(tag)
    assert tag_hash(tag) == HASH


@pytest.mark.parametrize("tag", ["", "index.spack", "latest", f"zlib-{HASH}", "a-b.spack"])
def test_other_tags_are_no_specs(tag: str) -> None:
    assert tag_hash(tag) == ""


@pytest.mark.parametrize("tag", ["", ".a", "-a", "a/b", "a b", "ä", "a\n", "..", "a" * 129])
def test_some_texts_are_no_tags(tag: str) -> None:
    assert not is_tag(tag)


def test_keys_and_digests() -> None:
    assert digest_in(digest_key(SUM)) == f"sha256:{SUM}"
    assert digest_in(f"manifests/sha256:{SUM}") == f"sha256:{SUM}"
    for key in ("manifests/a", f"blobs/sha256/ff/{SUM}", f"sha256:{SUM}", "", "v3/layout.json"):
        assert digest_in(key) == ""


# --- Spack's images ---


@pytest.mark.parametrize("tag", TAGS)
def test_reads_spacks_images(tag: str) -> None:
    data, image, config = image_of(tag)
    binary = parse_oci_binary(data, f"manifests/{tag}", tag_hash(tag), tag)
    assert (binary.layout, binary.signed) == ("oci", False)
    assert binary.tarball == image.layers[-1].blob
    assert binary.spec == image.config.blob
    assert len(blob(binary.tarball.checksum)) == binary.tarball.size_bytes
    assert parse_metadata(config, tag).hash == binary.hash
    assert {key.rpartition("/")[2] for key, _, _ in image.blobs} >= {binary.tarball.checksum}


@pytest.mark.parametrize("tag", TAGS)
def test_writes_what_spack_wrote(tag: str) -> None:
    """The same layers and metadata give Spack's bytes, but for what only recipes know."""
    data, image, config = image_of(tag)
    given = json.loads(config)
    metadata = parse_metadata(config, tag)
    sums = [text.removeprefix("sha256:") for text in given["rootfs"]["diff_ids"]]
    layers = [
        Layer(layer.checksum, diff, layer.size_bytes)
        for layer, diff in zip(image.layers, sums, strict=True)
    ]
    made = json.loads(image_config(metadata, layers, timestamp=given["archive_timestamp"]))
    assert made["config"]["Env"] == ["PATH=/bin:/usr/bin"]
    made["config"]["Env"] = given["config"]["Env"]
    assert json.dumps(made) == json.dumps(given)
    notes = {"org.opencontainers.image.description": describe(metadata.spec(tag))}
    assert image_manifest(config, layers, notes) == data
    assert last_layer(image, config, tag) == layers[-1]


@pytest.mark.parametrize("tag", TAGS)
def test_layers_are_what_it_takes_to_run(tag: str) -> None:
    """Spack orders them in its own way; dependencies come first in both."""
    _, image, config = image_of(tag)
    order = [spec.hash for spec in runtime_order(parse_metadata(config, tag), tag)]
    owners = {image_of(other)[1].layers[-1].checksum: tag_hash(other) for other in TAGS}
    layers = [owners[layer.checksum] for layer in image.layers]
    assert sorted(order) == sorted(layers)
    assert order[-1] == layers[-1] == tag_hash(tag)


def test_writes_spacks_index() -> None:
    data = (TINY / "manifests" / INDEX_TAG).read_bytes()
    index = parse_image(data, INDEX_TAG).layers[0]
    made = descriptor(blob(index.checksum), "anything/else")
    assert index_manifest(b"{}", made) == data
    more = descriptor(b"x", "application/x")
    assert parse_image(index_manifest(b"{}", made, [more]), "x").layers == (index, more)


def test_labels() -> None:
    _, image, config = image_of(TAGS[0])
    layer = last_layer(image, config, "x")
    made = json.loads(
        image_config(
            parse_metadata(config, "x"),
            [layer],
            timestamp="2026-01-01T00:00:00+00:00",
            labels={"a": "b"},
        )
    )
    assert made["config"] == {"Env": ["PATH=/bin:/usr/bin"], "Labels": {"a": "b"}}
    assert made["archive_timestamp"] == "2026-01-01T00:00:00+00:00"


def test_becomes_a_binary_of_layout_3() -> None:
    for tag in TAGS:
        data, _, config = image_of(tag)
        binary = parse_oci_binary(data, f"manifests/{tag}", tag_hash(tag), tag)
        entry = layout_3_entry(binary, parse_metadata(config, tag), tag)
        there = DATA / "mirrors" / "v3-unsigned" / entry.key
        assert there.is_file()  # the same specs, in the same place
        again = parse_binary(entry.manifest, entry.key, binary.hash, tag)
        assert again.tarball == binary.tarball
        assert again.spec == entry.spec
        assert len(entry.spec_data) == entry.spec.size_bytes
        assert parse_metadata(entry.spec_data, tag) == parse_metadata(config, tag)


@pytest.mark.parametrize(
    ("target", "architecture"),
    [
        ("x86_64_v3", "amd64"),
        ("zen4", "amd64"),
        ("neoverse_v1", "arm64"),
        ("power9le", "ppc64le"),
        ("riscv64", "riscv64"),
        ("novel", "novel"),
    ],
)
def test_architectures_have_gos_names(target: str, architecture: str) -> None:
    arch = {"platform": "linux", "platform_os": "debian12", "target": target}
    assert go_architecture(Spec(HASH, "a", "1", (), {"arch": arch}, 5)) == architecture


# --- order ---

A, B, C, D = (letter * 32 for letter in "abcd")


def test_only_link_and_run_make_layers_and_externals_none() -> None:
    external = node("glibc", D)
    external["external"] = {"path": "/usr", "module": None, "extra_attributes": {}}
    nodes = [
        node("app", A, ("lib", B, "link"), ("tool", C, "build"), ("glibc", D, "link,run")),
        node("lib", B, ("glibc", D, "link")),
        node("tool", C),
        external,
    ]
    assert [spec.name for spec in runtime_order(Metadata(nodes, 5), "x")] == ["lib", "app"]


@pytest.mark.parametrize(
    ("nodes", "problem"),
    [
        ([node("a", A, ("b", B, "link")), node("b", B, ("a", A, "run"))], "circle"),
        ([node("a", A, ("b", B, "link"))], "lacks the node"),
        ([{**node("a", A), "name": "../x"}], "name"),
        ([node("a", A), {"name": "b"}], "hash"),
    ],
)
def test_refuses_metadata_that_is_no_dag(nodes: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(CorruptError, match=problem):
        runtime_order(Metadata(nodes, 5), "x")


def test_a_deep_dag_is_no_trouble() -> None:
    letters = "abcdefghijklmnop"
    names = [f"{i:04x}".translate(str.maketrans("0123456789abcdef", letters)) for i in range(5000)]
    hashes = [f"{name:a>32}" for name in names]
    nodes = [
        node(f"p{i}", key, *([(f"p{i + 1}", hashes[i + 1], "link")] if i < 4999 else []))
        for i, key in enumerate(hashes)
    ]
    assert [spec.hash for spec in runtime_order(Metadata(nodes, 5), "x")] == hashes[::-1]


# --- what strangers may have put there ---

LAYER = {"mediaType": "application/x", "digest": f"sha256:{SUM}", "size": 3}
GOOD: dict[str, Any] = {"schemaVersion": 2, "config": LAYER, "layers": [LAYER]}
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


def changed(**parts: Any) -> bytes:
    return json.dumps({**GOOD, **parts}).encode()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "empty"),
        (b"{", "cut off"),
        (b"[]", "no mapping"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (changed(layers=[]), "no layers"),
        (changed(layers=None), "no layers"),
        (changed(layers={}), "no layers"),
        (changed(layers=["x"]), r"layers\[0\]: the descriptor is no mapping"),
        (changed(config=None), "config: the descriptor"),
        (changed(schemaVersion=1), "not the manifest of an image"),
        (changed(mediaType="application/x"), "not the manifest of an image"),
        (changed(mediaType=["x"]), "mediaType is none"),
        (changed(mediaType=OCI_INDEX), "a choice of images"),
        (json.dumps({"schemaVersion": 2, "manifests": []}).encode(), "a choice of images"),
        (changed(layers=[{**LAYER, "digest": f"md5:{SUM}"}]), "digest"),
        (changed(layers=[{**LAYER, "digest": f"sha256:{SUM[:-1]}"}]), "digest"),
        (changed(layers=[{**LAYER, "digest": f"sha256:{SUM.upper()}"}]), "digest"),
        (changed(layers=[{**LAYER, "digest": "sha256:../../etc/passwd"}]), "digest"),
        (changed(layers=[{**LAYER, "digest": 5}]), "digest"),
        (changed(layers=[{**LAYER, "size": -1}]), "size"),
        (changed(layers=[{**LAYER, "size": True}]), "size"),
        (changed(layers=[{**LAYER, "size": 2**70}]), "size"),
        (changed(layers=[{**LAYER, "mediaType": "a\nb"}]), "mediaType"),
    ],
)
def test_refuses_manifests_of_another_shape(data: bytes, problem: str) -> None:
    with pytest.raises(CorruptError, match=problem) as raised:
        parse_oci_binary(data, "manifests/x", HASH, "oci://h/n/manifests/x")
    assert raised.value.where.startswith("oci://h/n/manifests/x")


def test_the_media_type_may_be_left_out() -> None:
    assert parse_image(changed(), "x").media_type.startswith("application/vnd.oci.image.manifest")
    assert media_type_of(b'{"manifests": []}', "x") == OCI_INDEX
    docker = "application/vnd.docker.distribution.manifest.v2+json"
    assert parse_image(changed(mediaType=docker), "x").media_type == docker


@pytest.mark.parametrize(
    "config",
    [
        b"no",
        b"[]",
        b"{}",
        b'{"rootfs": {"diff_ids": []}}',
        b'{"rootfs": {"diff_ids": {}}}',
        b'{"rootfs": {"diff_ids": [5]}}',
        b'{"rootfs": {"diff_ids": ["sha512:00"]}}',
        b'{"rootfs": null}',
    ],
)
def test_refuses_configurations_that_do_not_tell(config: bytes) -> None:
    with pytest.raises(CorruptError, match="configuration"):
        last_layer(parse_image(changed(), "x"), config, "x")


@pytest.mark.parametrize("config", [b"\x00\x01", b"[]", b'{"architecture": "amd64"}'])
def test_a_configuration_without_a_spec_is_none_of_ours(config: bytes) -> None:
    with pytest.raises(CorruptError, match="metadata"):
        parse_metadata(config, "x")


# --- challenges ---


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("Basic", [("basic", {})]),
        ('Basic realm="a b"', [("basic", {"realm": "a b"})]),
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io"',
            [
                (
                    "bearer",
                    {"realm": "https://auth.docker.io/token", "service": "registry.docker.io"},
                )
            ],
        ),
        (
            'bearer REALM="https://h/t" , Scope="repository:a/b:pull,push"',
            [("bearer", {"realm": "https://h/t", "scope": "repository:a/b:pull,push"})],
        ),
        ("BEARER realm=https://h/t", [("bearer", {"realm": "https://h/t"})]),
        (
            'Basic realm="x", Bearer realm="https://h/t",error="invalid_token"',
            [
                ("basic", {"realm": "x"}),
                ("bearer", {"realm": "https://h/t", "error": "invalid_token"}),
            ],
        ),
        ("Negotiate, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        (r'Basic realm="a \"b\" \\"', [("basic", {"realm": r'a "b" \ '.rstrip()})]),
        ('Basic realm="unfinished', [("basic", {"realm": '"unfinished'})]),
        ('realm="x"', []),
        ("\x00\x01;;;", []),
    ],
)
def test_reads_challenges_of_any_style(header: str, expected: list[tuple[str, Any]]) -> None:
    found = parse_challenges(header)
    assert [(challenge.scheme, dict(challenge.parameters)) for challenge in found] == expected


def test_an_endless_challenge_takes_no_time() -> None:
    assert len(parse_challenges('a="' + '\\"' * 10**6)) <= 1
    assert len(parse_challenges("a " * 10**6)) < 10**5


def test_a_reference_tells_of_docker_hub() -> None:
    assert parse_reference("oci://a/b").is_docker_hub
    assert not Reference("https", "ghcr.io", "a/b").is_docker_hub
