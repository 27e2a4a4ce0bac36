"""Fetching from S3: ours, which verifies all, against ``s5cmd`` and ``aws s3 sync``, in one run."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import b32encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from stackyard.binary import Metadata, dump_manifest
from stackyard.edges.mirrors.indexing import write_index
from stackyard.edges.stores.folder import FileStore
from stackyard.mirror import LAYOUT_JSON, LAYOUT_MARKER, SPEC_TYPE, TARBALL_TYPE, Record, blob_key

__all__ = ["Shape", "Taken", "make_mirror", "measure_fetches", "median", "timed"]

ROOT = Path(__file__).resolve().parent.parent
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testtest", "AWS_REGION": "us-east-1"}


_NOTHING = gzip.compress(b"", mtime=0)


class Shape(NamedTuple):
    """A mirror: so many binaries, with spec blobs and tarballs of so many bytes."""

    binaries: int
    spec_bytes: int
    tarball_bytes: int


SHAPES = {
    "1,000 blobs of 4 KiB": Shape(500, 4096, 4096),
    "64 blobs of 16 MiB": Shape(64, 4096, 16 * 2**20),
}


class Taken(NamedTuple):
    """Medians of several runs: seconds, seconds of CPU, and how busy the machine was, 0 to 1."""

    wall_s: float
    cpu_s: float
    busy: float

    def __str__(self) -> str:
        return f"{self.wall_s:.2f} s ({self.cpu_s:.2f} of CPU, machine {self.busy:.0%} busy)"


def measure_fetches(runs: int, endpoint: str = "") -> Mapping[str, Mapping[str, Taken]]:
    """What each tool takes for a whole mirror, out of a bucket into an empty folder, in turns.

    By the name of the shape, then by tool; one that is not there has no entry. Without the URL of
    an S3 service one is started, if Ceph is installed; else there is nothing to measure.
    """
    with ExitStack() as stack:
        endpoint = endpoint or stack.enter_context(_ceph())
        if not endpoint:
            return {}
        return {name: _measure(endpoint, shape, runs) for name, shape in SHAPES.items()}


@contextmanager
def _ceph() -> Iterator[str]:
    """The service that the tests use too; an empty URL where it is not installed."""
    sys.path.append(str(ROOT / "tests"))
    import ceph

    if lacking := ceph.missing():
        print(f"fetch: left out, Ceph is not installed: {', '.join(lacking)}", file=sys.stderr)
        yield ""
        return
    with (
        tempfile.TemporaryDirectory() as name,
        ceph.cluster(Path(name) / "ceph", _ports()) as url,
    ):
        yield url


def _ports() -> tuple[int, int, int]:
    with socket.socket() as a, socket.socket() as b, socket.socket() as c:
        for probe in (a, b, c):
            probe.bind(("127.0.0.1", 0))
        first, second, third = (int(probe.getsockname()[1]) for probe in (a, b, c))
        return first, second, third


def _measure(endpoint: str, shape: Shape, runs: int) -> Mapping[str, Taken]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lock = folder / "spack.lock"
        lock.write_bytes(make_mirror(folder / "mirror", shape))
        with _bucket(endpoint, folder / "mirror") as url:
            tools = _tools(endpoint, url, lock)
            env = {**KEYS, "S3_ENDPOINT_URL": endpoint}
            taken: dict[str, list[Taken]] = {tool: [] for tool in tools}
            for number in range(runs):
                for tool, argv in tools.items():
                    to = folder / f"{tool}-{number}"
                    taken[tool].append(timed([*argv, str(to)], folder, env))
                    if shape.tarball_bytes > 2**20:
                        # Many small files stay: ext4 slows down whoever writes where some were
                        # just removed.
                        shutil.rmtree(to)
    return {tool: median(rows) for tool, rows in taken.items()}


def _tools(endpoint: str, url: str, lock: Path) -> dict[str, list[str]]:
    """What to run, without the folder at its end."""
    beside = Path(sys.executable).parent
    s5cmd = shutil.which("s5cmd", path=f"{beside}:{os.environ.get('PATH', '')}")
    # Version managers put a shim before it, which takes a second of its own.
    aws = shutil.which("/usr/bin/aws") or shutil.which("aws")
    ours = [str(beside / "stackyard"), "fetch", "--unsigned", "--lock", str(lock), "--from", url]
    found = {"stackyard": [*ours, "--to"]}
    if s5cmd:
        found["s5cmd"] = [s5cmd, "--endpoint-url", endpoint, "--log", "error", "cp", f"{url}/*"]
    if aws:
        found["aws"] = [aws, "--endpoint-url", endpoint, "s3", "sync", "--quiet", url]
    return found


@contextmanager
def _bucket(endpoint: str, mirror: Path) -> Iterator[str]:
    """A bucket with the mirror in it."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )
    bucket = f"bench-{os.urandom(4).hex()}"
    client.create_bucket(Bucket=bucket)
    keys = [path.relative_to(mirror).as_posix() for path in mirror.rglob("*") if path.is_file()]
    try:
        for key in keys:
            client.upload_file(str(mirror / key), bucket, f"m/{key}")
        yield f"s3://{bucket}/m"
    finally:
        for key in keys:
            client.delete_object(Bucket=bucket, Key=f"m/{key}")
        client.delete_bucket(Bucket=bucket)
        client.close()


def median(rows: Sequence[Taken]) -> Taken:
    """Of each column by itself."""
    return Taken(*(statistics.median(column) for column in zip(*rows, strict=True)))


def timed(argv: Sequence[str], folder: Path, env: Mapping[str, str]) -> Taken:
    """What a program takes, run once in a folder and with these variables too."""
    os.sync()  # nobody pays for what the one before left to be written
    busy, began = _ticks(), time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            argv, cwd=folder, env={**os.environ, **env}, stdout=said, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - began
        if process.returncode:
            said.seek(0)
            message = f"{argv[0]} ended with {process.returncode}:\n{said.read().decode()}"
            raise SystemExit(message)
    worked, idle = (after - before for after, before in zip(_ticks(), busy, strict=True))
    return Taken(wall_s, usage.ru_utime + usage.ru_stime, worked / (worked + idle))


def _ticks() -> tuple[int, int]:
    """Ticks that all processors worked, and were idle or waiting for a disk, since they began."""
    columns = [int(text) for text in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    idle = columns[3] + columns[4]
    return sum(columns) - idle, idle


def make_mirror(folder: Path, shape: Shape) -> bytes:
    """An unsigned mirror of layout 3 that nobody finds anything wrong with; gives its lock."""
    draw = random.Random(1)  # noqa: S311 - the same mirror each time
    store = FileStore(folder)
    nodes = [_node(number) for number in range(shape.binaries)]
    for node in nodes:
        # Nobody unpacks what comes behind an empty tarball.
        tarball = _NOTHING + draw.randbytes(shape.tarball_bytes - len(_NOTHING))
        records = [
            _blob(store, TARBALL_TYPE, tarball),
            _blob(store, SPEC_TYPE, _spec_blob(node, shape.spec_bytes, draw)),
        ]
        name = f"{node['name']}-{node['version']}-{node['hash']}.spec.manifest.json"
        store.write(f"v3/manifests/spec/{node['name']}/{name}", dump_manifest(records))
    write_index(store, [Metadata([node], 5) for node in nodes])
    store.write(LAYOUT_MARKER, LAYOUT_JSON)
    store.close()
    return _lock(nodes)


def _node(number: int) -> dict[str, Any]:
    node = {
        "name": f"package-{number}",
        "version": "1.0",
        "arch": {"platform": "linux", "platform_os": "debian12", "target": "x86_64_v3"},
        "namespace": "builtin",
        "parameters": {"build_system": "generic"},
        "annotations": {"original_specfile_version": 5},
    }
    text = json.dumps(node, separators=(",", ":"))
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).digest()
    return {**node, "hash": b32encode(digest).decode().lower()}


def _spec_blob(node: dict[str, Any], size_bytes: int, draw: random.Random) -> bytes:
    """A spec blob, filled up with noise to about that size."""
    document = {"spec": {"_meta": {"version": 5}, "nodes": [node]}, "buildcache_layout_version": 2}
    bare = len(gzip.compress(json.dumps(document).encode()))
    document["noise"] = draw.randbytes(max(0, (size_bytes - bare) * 7 // 8)).hex()
    return gzip.compress(json.dumps(document).encode(), mtime=0)


def _blob(store: FileStore, media_type: str, data: bytes) -> Record:
    record = Record(
        media_type=media_type,
        size_bytes=len(data),
        compression="gzip",
        checksum=hashlib.sha256(data).hexdigest(),
    )
    store.write(blob_key(record), data)
    return record


def _lock(nodes: Sequence[dict[str, Any]]) -> bytes:
    document = {
        "_meta": {"file-type": "spack-lockfile", "lockfile-version": 6, "specfile-version": 5},
        "spack": {"version": "1.1.0", "type": "git"},
        "roots": [{"hash": node["hash"], "spec": node["name"]} for node in nodes],
        "concrete_specs": {node["hash"]: node for node in nodes},
    }
    return json.dumps(document, separators=(",", ":")).encode()
