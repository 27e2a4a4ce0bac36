"""What an image holds, how it is packed, who its user is, and the bill of materials: pure values."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from locks import EXTERNAL, key, lock, node

from stackyard.accounts import add_user
from stackyard.binary import Binary, Blob
from stackyard.document import parse_yaml
from stackyard.edges.images.tape import Tape, open_tape, sum_of
from stackyard.errors import CorruptError
from stackyard.image import (
    LABELS,
    USER,
    File,
    Origin,
    architectures,
    make_contents,
    make_labels,
    roots_of,
    spack_files,
    system_targets,
)
from stackyard.lock import Lock
from stackyard.packing import TIME_S, pack
from stackyard.sbom import make_sbom, package_url

ARM = {"platform": "linux", "platform_os": "debian12", "target": "neoverse_v1"}

# Contents.


def binary(name: str, tarball: str = "") -> Binary:
    def blob(text: str) -> Blob:
        digest = hashlib.sha256(text.encode()).hexdigest()
        return Blob(f"blobs/{digest[:4]}", 5, digest)

    return Binary(key(name), 3, f"v3/{name}", b"{}", False, blob(tarball or name), blob(f"s{name}"))


def test_what_lies_in_which_layer() -> None:
    """What two share lies in the lower layer alone."""
    one, two, three = binary("one"), binary("two", tarball="shared"), binary("three", "shared")
    assert one.spec
    assert two.spec
    assert three.spec
    keys = [k for one in (one, two, three) for k in (one.key, *(blob.key for blob in one.blobs))]
    contents = make_contents(
        [three, two, one],
        [[one.hash, two.hash], [three.hash]],
        [*keys, "v3/layout.json", "v3/index"],
        {"etc/spack/config.yaml": b"{}"},
        {"tutorial/.test/run.sh": b"#!/bin/bash"},
    )
    assert [[file.path for file in layer] for layer in contents.layers] == [
        sorted(
            f"mirror/{k}"
            for k in (
                "v3/one",
                one.tarball.key,
                one.spec.key,
                "v3/two",
                two.tarball.key,
                two.spec.key,
            )
        ),
        sorted(f"mirror/{k}" for k in ("v3/three", three.spec.key)),
    ]
    assert [(file.path, file.content, file.mode) for file in contents.last] == [
        ("etc/spack/config.yaml", b"{}", 0o644),
        ("mirror/v3/index", "v3/index", 0o644),
        ("mirror/v3/layout.json", "v3/layout.json", 0o644),
        ("tutorial/.test/run.sh", b"#!/bin/bash", 0o755),
    ]


def test_configuration_of_spack() -> None:
    files = spack_files("sc26", signed=True, targets=["zen2", "x86_64"], padded_length=128)
    assert {path: parse_yaml(data, path) for path, data in files.items()} == {
        "etc/spack/mirrors.yaml": {
            "mirrors": {
                "sc26": {"url": "file:///mirror", "binary": True, "source": False, "signed": True}
            }
        },
        "etc/spack/packages.yaml": {"packages": {"all": {"target": ["zen2", "x86_64"]}}},
        "etc/spack/config.yaml": {
            "config": {"suppress_gpg_warnings": True, "install_tree": {"padded_length": 128}}
        },
        "etc/spack/concretizer.yaml": {"concretizer": {"reuse": True}},
    }
    plain = spack_files("s", signed=False, targets=[])
    assert "etc/spack/packages.yaml" not in plain
    assert b"padded" not in plain["etc/spack/config.yaml"]
    assert b"signed: false" in plain["etc/spack/mirrors.yaml"]


def test_labels() -> None:
    labels = make_labels(
        stack="sc26",
        origin=Origin("https://example.com/r", "abc", "2026-11-21T14:00:00Z", "sc26"),
        spack_commit="def",
        lock_digest="sha256:00",
        licenses="MIT",
        base_name="debian:12",
        base_digest="sha256:11",
    )
    assert tuple(labels) == LABELS
    assert labels["org.opencontainers.image.title"] == labels["dev.stackyard.stack"] == "sc26"
    assert labels["org.opencontainers.image.revision"] == "abc"
    assert labels["dev.stackyard.lock-digest"] == "sha256:00"
    few = make_labels(stack="s", origin=Origin(), spack_commit="", lock_digest="sha256:00")
    assert sorted(few) == [
        "dev.stackyard.lock-digest",
        "dev.stackyard.stack",
        "org.opencontainers.image.title",
    ]


MIXED = lock(
    [
        node("x", arch={"platform": "linux", "platform_os": "debian12", "target": "zen2"}),
        node("y", ["x"]),
        node("gcc", arch=ARM, **EXTERNAL),
        node("z", ["gcc"], arch=ARM),
    ]
)


def test_processors_and_targets() -> None:
    roots = [root.hash for root in MIXED.roots]
    assert architectures(MIXED, roots) == ("amd64", "arm64")
    assert roots_of(MIXED, roots, "arm64") == (key("z"),)
    assert roots_of(MIXED, roots, "amd64") == (key("y"),)
    assert system_targets(MIXED.specs.values()) == ("neoverse_v1", "x86_64_v3", "zen2")
    assert system_targets([]) == ()


# Packing.


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "one").write_bytes(b"1" * 700)
    (tmp_path / "blobs" / "two").write_bytes(b"2" * 512)
    (tmp_path / "empty").write_bytes(b"")
    return tmp_path


FILES = (
    File("mirror/blobs/two", "blobs/two"),
    File("mirror/blobs/one", "blobs/one"),
    File("mirror/empty", "empty"),
    File(f"mirror/{'long-' * 40}/{'name-' * 30}", b"deep"),
    File("etc/spack/config.yaml", b"config: {}\n"),
    File("home/spack", None, 0o755, (1000, 1000)),
    File("home/spack/.bashrc", b"x", 0o600, (1000, 1000)),
)
SIZES = {"blobs/one": 700, "blobs/two": 512, "empty": 0}


def packed(mirror: Path, files: tuple[File, ...] = FILES) -> bytes:
    with open_tape(pack(files, SIZES), mirror) as tape:
        return tape.read()


def test_an_archive(mirror: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(mirror))) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [
            "etc/spack",
            "etc/spack/config.yaml",
            "home/spack",
            "home/spack/.bashrc",
            "mirror",
            "mirror/blobs",
            "mirror/blobs/one",
            "mirror/blobs/two",
            "mirror/empty",
            f"mirror/{'long-' * 40}",
            f"mirror/{'long-' * 40}/{'name-' * 30}",
        ]
        assert {member.mtime for member in members} == {TIME_S}
        assert {(m.uid, m.gid) for m in members if not m.name.startswith("home")} == {(0, 0)}
        assert {(m.uid, m.gid) for m in members if m.name.startswith("home")} == {(1000, 1000)}
        assert {m.mode for m in members if m.isdir()} == {0o755}
        assert {m.uname for m in members} == {""}
        assert _read(tar, "mirror/blobs/one") == b"1" * 700
        assert _read(tar, "mirror/blobs/two") == b"2" * 512
        assert _read(tar, "mirror/empty") == b""
        assert _read(tar, FILES[3].path) == b"deep"


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file
    return file.read()


def test_the_same_files_give_the_same_bytes(mirror: Path) -> None:
    assert packed(mirror, FILES[::-1]) == packed(mirror)


def test_an_archive_is_read_from_anywhere(mirror: Path) -> None:
    whole = packed(mirror)
    with Tape(pack(FILES, SIZES), mirror) as tape:
        assert tape.seek(0, io.SEEK_END) == len(whole) == tape.size_bytes
        assert tape.read(5) == b""
        for start in (0, 1, 511, 512, 1024, 2000, len(whole) - 3):
            tape.seek(start)
            assert tape.tell() == start
            pieces = b""
            while piece := tape.read(97):
                pieces += piece
            assert pieces == whole[start:]
    with open_tape(pack(FILES, SIZES), mirror) as file:
        assert sum_of(file) == (hashlib.sha256(whole).hexdigest(), len(whole))


def test_a_file_that_shrank_is_noticed(mirror: Path) -> None:
    (mirror / "blobs" / "one").write_bytes(b"1")
    with pytest.raises(CorruptError, match="shorter than it was"):
        packed(mirror)


# The user.

PASSWD = b"root:x:0:0:root:/root:/bin/bash\n"
UBUNTU = b"ubuntu:x:1000:1000:Ubuntu:/home/ubuntu:/bin/bash\n"


def system(**contents: bytes) -> dict[str, File]:
    return {
        f"etc/{name}": File(f"etc/{name}", data, 0o640 if "shadow" in name else 0o644, (0, 42))
        for name, data in contents.items()
    }


def test_a_user_is_added() -> None:
    base = system(passwd=PASSWD, group=b"root:x:0:\n", shadow=b"root:*:1::::::\n")
    base["etc/skel/.bashrc"] = File("etc/skel/.bashrc", b"alias", 0o644)
    files = {file.path: file for file in add_user(base, USER)}
    assert files["etc/passwd"].content == PASSWD + b"spack:x:1000:1000::/home/spack:/bin/bash\n"
    assert files["etc/group"].content == b"root:x:0:\nspack:x:1000:\n"
    assert files["etc/shadow"] == File(
        "etc/shadow", b"root:*:1::::::\nspack:!::0:99999:7:::\n", 0o640, (0, 42)
    )
    assert "etc/gshadow" not in files
    assert files["home/spack"] == File("home/spack", None, 0o755, (1000, 1000))
    assert files["home/spack/.bashrc"] == File("home/spack/.bashrc", b"alias", 0o644, (1000, 1000))


def test_another_user_with_the_number_goes() -> None:
    group = b"root:x:0:\nadm:x:4:syslog,ubuntu\nsudo:x:27:ubuntu\nubuntu:x:1000:\n"
    base = system(passwd=PASSWD + UBUNTU, group=group, gshadow=b"adm:*::syslog,ubuntu\n")
    files = {file.path: file.content for file in add_user(base, USER)}
    assert files["etc/passwd"] == PASSWD + b"spack:x:1000:1000::/home/spack:/bin/bash\n"
    assert files["etc/group"] == b"root:x:0:\nadm:x:4:syslog\nsudo:x:27:\nspack:x:1000:\n"
    assert files["etc/gshadow"] == b"adm:*::syslog\nspack:!::\n"
    assert files["home/.wh.ubuntu"] == b""


def test_a_user_who_is_there_stays() -> None:
    base = system(passwd=PASSWD + b"spack:x:1000:1000::/home/spack:/bin/sh\n")
    assert add_user(base, USER) == ()


def test_a_base_without_users() -> None:
    files = {file.path: file.content for file in add_user({}, USER)}
    assert files["etc/passwd"] == b"spack:x:1000:1000::/home/spack:/bin/bash\n"
    assert set(files) == {"etc/passwd", "etc/group", "home/spack"}


# The bill of materials.


def bill(made: Lock, **more: str) -> Mapping[str, object]:
    roots = [root.hash for root in made.roots]
    given = {"stack": "demo", "lock_digest": "sha256:00", "created": "2026-11-21T14:00:00Z"} | more
    text = make_sbom(made, roots, **given)
    assert text == make_sbom(made, roots, **given)
    document: Mapping[str, object] = json.loads(text)
    return document


BILLED = lock(
    [
        node("gcc", **EXTERNAL),
        node("cmake", ["gcc"]),
        node(
            "my_lib",
            version="git.main=1.0",
            dependencies=[
                {"name": n, "hash": key(n), "parameters": {"deptypes": types, "virtuals": []}}
                for n, types in (("cmake", ["build", "test"]), ("gcc", ["build", "link"]))
            ],
        ),
        node("unused"),
    ],
    roots=["my_lib"],
)


def test_a_bill_of_materials() -> None:
    document = bill(BILLED)
    assert document["spdxVersion"] == "SPDX-2.3"
    packages = document["packages"]
    assert isinstance(packages, list)
    assert [one["name"] for one in packages] == ["gcc", "cmake", "my_lib"]
    assert [one["versionInfo"] for one in packages] == ["1.0", "1.0", "git.main=1.0"]
    assert packages[2]["SPDXID"] == f"SPDXRef-my-lib-{key('my_lib')}"
    assert packages[2]["externalRefs"][0]["referenceLocator"] == (
        f"pkg:spack/builtin/my_lib@git.main%3D1.0?daghash={key('my_lib')}"
    )
    assert "comment" in packages[0]
    assert "comment" not in packages[1]
    relations = document["relationships"]
    assert isinstance(relations, list)
    short = {
        f"SPDXRef-{name.replace('_', '-')}-{key(name)}": name for name in ("gcc", "cmake", "my_lib")
    }
    assert [
        (
            short.get(one["spdxElementId"], one["spdxElementId"]),
            one["relationshipType"],
            short[one["relatedSpdxElement"]],
        )
        for one in relations
    ] == [
        ("SPDXRef-DOCUMENT", "DESCRIBES", "my_lib"),
        ("cmake", "DEPENDS_ON", "gcc"),
        ("gcc", "BUILD_DEPENDENCY_OF", "cmake"),
        ("cmake", "BUILD_DEPENDENCY_OF", "my_lib"),
        ("cmake", "TEST_DEPENDENCY_OF", "my_lib"),
        ("my_lib", "DEPENDS_ON", "gcc"),
        ("gcc", "BUILD_DEPENDENCY_OF", "my_lib"),
    ]


def test_each_document_has_its_own_name() -> None:
    names = {
        str(bill(BILLED)["documentNamespace"]),
        str(bill(BILLED, lock_digest="sha256:01")["documentNamespace"]),
        str(bill(BILLED, stack="other")["documentNamespace"]),
    }
    assert len(names) == 3
    assert all(name.startswith("https://spdx.org/spdxdocs/") for name in names)


def test_all_of_a_real_lock_is_in_it(tutorial_lock: Lock) -> None:
    document = bill(tutorial_lock)
    packages, relations = document["packages"], document["relationships"]
    assert isinstance(packages, list)
    assert isinstance(relations, list)
    ids = [one["SPDXID"] for one in packages]
    assert len(ids) == len(set(ids)) == len(tutorial_lock.specs)
    known = {*ids, "SPDXRef-DOCUMENT"}
    assert {one["spdxElementId"] for one in relations} <= known
    assert {one["relatedSpdxElement"] for one in relations} <= known
    assert len({package_url(spec) for spec in tutorial_lock.specs.values()}) == len(ids)
