"""Make small base images for tests: a few files in an OCI layout, or as docker save wrote them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

PASSWD = "root:x:0:0:root:/root:/bin/sh\n"
#: A system in two layers; the second hides a file of the first.
SYSTEM: tuple[Mapping[str, str], ...] = (
    {
        "etc/passwd": PASSWD,
        "etc/group": "root:x:0:\n",
        "etc/skel/.profile": "old",
        "etc/skel/.gone": "old",
        "usr/share/doc/readme": "hello",
    },
    {"./etc/skel/.wh..gone": "", "./etc/skel/.profile": "new", "opt/tool": "tool"},
)


def layer_tar(files: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def config(layers: Sequence[bytes], architecture: str = "amd64") -> bytes:
    document = {
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/bin", "BASE=yes"],
            "Labels": {"vendor": "us"},
            "User": "root",
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        "history": [{"created_by": "base"}] * len(layers),
    }
    return json.dumps(document).encode()


def blobs(
    architecture: str = "amd64", system: Sequence[Mapping[str, str]] = SYSTEM
) -> tuple[bytes, list[bytes]]:
    """The manifest of a base, and the blobs that it names."""
    tars = [layer_tar(files) for files in system]
    packed = [gzip.compress(tar, mtime=0) for tar in tars]
    settings = config(tars, architecture)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _entry(settings, CONFIG),
        "layers": [_entry(one, LAYER) for one in packed],
    }
    return json.dumps(manifest).encode(), [settings, *packed]


def _entry(data: bytes, kind: str) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest(data), "size": len(data)}


def layout(
    folder: Path,
    architectures: Sequence[str] = ("amd64",),
    system: Sequence[Mapping[str, str]] = SYSTEM,
) -> Path:
    """An OCI layout with an image for each kind of processors."""
    (folder / "blobs" / "sha256").mkdir(parents=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entries = []
    for architecture in architectures:
        manifest, others = blobs(architecture, system)
        for data in (manifest, *others):
            (folder / "blobs" / "sha256" / digest(data)[7:]).write_bytes(data)
        platform = {"architecture": architecture, "os": "linux"}
        entries.append({**_entry(manifest, MANIFEST), "platform": platform})
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def archive(path: Path, folder: Path) -> Path:
    """The same in one file."""
    with tarfile.open(path, "w") as tar:
        for one in sorted(folder.rglob("*")):
            tar.add(one, one.relative_to(folder).as_posix(), recursive=False)
    return path


def docker_archive(path: Path) -> Path:
    """As docker save wrote it for ten years: plain layers, the second one a link to the first."""
    tar_one = layer_tar(SYSTEM[0])
    settings = config([tar_one, tar_one])
    manifest = [
        {"Config": "abc.json", "RepoTags": ["x:1"], "Layers": ["one/layer.tar", "two/layer.tar"]}
    ]
    with tarfile.open(path, "w") as tar:
        for name, data in (
            ("abc.json", settings),
            ("one/layer.tar", tar_one),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("two/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../one/layer.tar"
        tar.addfile(link)
    return path
