"""Images: what they weigh, what an update makes people pull, and both ways of building one.

The lock is the tutorial's, and hashes are true. How large its binaries are nobody knows before they
are built, so sizes are drawn: their logarithms are spread like a bell, as those of real binaries
are, most of them small and few huge. What an update pulls is a mean over several draws; the rest is
one draw, and one run.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.indexing import true_hash, write_binary
from stackyard.layers import plan_layers
from stackyard.lock import Lock, parse_lock

__all__ = ["Pulled", "Released", "measure_dump", "measure_engines", "measure_pulls"]

ROOT = Path(__file__).resolve().parent.parent
#: Others than those that the order of layers was chosen with, 0 to 3.
_DRAWS = range(10, 16)
#: Of all packages every fourth is updated.
_STEP = 4
#: Of binaries that are built anew: they are never quite as large as before.
_WIGGLE = 0.05
_RELEASES = 10
_UPDATES = 5


def tutorial_lock() -> Lock:
    path = ROOT / "stacks" / "tutorial" / "spack.lock"
    return parse_lock(path.read_bytes(), "tutorial")


def drawn_sizes(lock: Lock, seed: int, median_bytes: float = 5e5) -> dict[str, int]:
    """Bytes of each binary, by DAG hash; those of one package are alike."""
    return {
        key: int(median_bytes * math.exp(_dice(seed, lock.specs[key].name).gauss(0, 2))) + 1000
        for key in lock.order
        if not lock.specs[key].external
    }


def _dice(*seed: object) -> random.Random:
    return random.Random(" ".join(map(str, seed)))  # noqa: S311 - nothing is kept secret by it


def _touched(lock: Lock) -> Mapping[str, frozenset[str]]:
    """The packages whose update changes a binary."""
    found: dict[str, frozenset[str]] = {}
    for key in lock.order:
        spec = lock.specs[key]
        own = frozenset() if spec.external else frozenset({spec.name})
        found[key] = own.union(*(found[child] for child in spec.children))
    return found


# --- what an update makes people pull ---


class Pulled(NamedTuple):
    """Shares of the binaries' bytes, means over updates of single packages.

    ``above`` is for engines that pull all above a layer that has changed, ``alone`` for a layer to
    each binary.
    """

    layers: int
    changed: float
    above: float
    alone: float


def measure_pulls(numbers: Iterable[int]) -> Iterator[Pulled]:
    """For so many layers. After each update layers are planned anew, with slightly other sizes."""
    lock = tutorial_lock()
    touched = _touched(lock)
    draws = [drawn_sizes(lock, seed) for seed in _DRAWS]
    names = sorted({lock.specs[key].name for key in draws[0]})[::_STEP]
    for most in numbers:
        planned = [(sizes, plan_layers(lock, sizes, most)) for sizes in draws]
        shares = [
            _shares(lock, touched, name, sizes, before)
            for sizes, before in planned
            for name in names
        ]
        yield Pulled(most, *(statistics.mean(column) for column in zip(*shares, strict=True)))


def _shares(
    lock: Lock,
    touched: Mapping[str, frozenset[str]],
    name: str,
    sizes: dict[str, int],
    before: Sequence[Sequence[str]],
) -> tuple[float, float, float]:
    new = {key for key in sizes if name in touched[key]}
    after = {
        key: int(size * math.exp(_dice(name, key).gauss(0, _WIGGLE))) if key in new else size
        for key, size in sizes.items()
    }
    old = [frozenset(layer) for layer in before]
    layers = [frozenset(layer) for layer in plan_layers(lock, after, len(before))]
    stayed = [layer in old and not layer & new for layer in layers]
    same = next(
        (i for i, (layer, stay) in enumerate(zip(layers, stayed, strict=True))
         if not stay or old[i : i + 1] != [layer]),
        len(layers),
    )  # fmt: skip
    total = sum(after.values())
    changed = sum(after[key] for layer, stay in zip(layers, stayed, strict=True)
                  if not stay for key in layer)  # fmt: skip
    above = sum(after[key] for layer in layers[same:] for key in layer)
    return changed / total, above / total, sum(after[key] for key in new) / total


# --- what an image weighs ---


def updated(nodes: Mapping[str, dict[str, Any]], names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """All nodes after an update of some packages, by their old hashes; dependencies come first."""
    wanted = set(names)
    made: dict[str, dict[str, Any]] = {}
    for key, old in nodes.items():
        node = json.loads(json.dumps(old))
        changed = node["name"] in wanted and not node.get("external")
        if changed:
            node["version"] += ".1"
        for edge in node.get("dependencies", ()):
            changed = changed or made[edge["hash"]]["hash"] != edge["hash"]
            edge["hash"] = made[edge["hash"]]["hash"]
        if changed:
            del node["hash"]
            node["hash"] = true_hash(node)
        made[key] = node
    return made


class Stack:
    """A project with one stack, and the mirror that each of its releases is pushed to."""

    def __init__(self, root: Path, image: Mapping[str, Any], median_bytes: float) -> None:
        self.root, self.mirror = root, root / "mirror"
        self._lock = tutorial_lock()
        self._median = median_bytes
        self.nodes = {key: dict(self._lock.specs[key].node) for key in self._lock.order}
        stack = root / "project" / "stacks" / "tutorial"
        stack.mkdir(parents=True)
        manifest = {
            "specs": [root.spec for root in self._lock.roots],
            "mirrors": {"buildcache-destination": {"url": str(self.mirror), "signed": False}},
        }
        (stack / "spack.yaml").write_text(json.dumps({"spack": manifest}))
        settings = {"stackyard": {"image": dict(image)}}
        (root / "project" / "invoke.yaml").write_text(json.dumps(settings))
        self.release(())

    def release(self, names: Sequence[str]) -> None:
        """Update packages, lock, and push all binaries that the mirror lacks."""
        old = list(self.nodes)
        made = updated(self.nodes, names)
        roots = [
            {"hash": made[self._now(root.hash, old)]["hash"], "spec": root.spec}
            for root in self._lock.roots
        ]
        self.nodes = {node["hash"]: node for node in made.values()}
        document = {
            "_meta": {"file-type": "spack-lockfile", "lockfile-version": 6, "specfile-version": 5},
            "spack": {"version": "1.1.0", "type": "git", "commit": self._lock.spack_commit},
            "roots": roots,
            "concrete_specs": self.nodes,
        }
        data = json.dumps(document).encode()
        (self.root / "project" / "stacks" / "tutorial" / "spack.lock").write_bytes(data)
        lock = parse_lock(data, "lock")
        for key in lock.order:
            spec = lock.specs[key]
            if not spec.external:
                others = sorted(lock.closure([key]) - {key})
                nodes = (self.nodes[key], *(self.nodes[other] for other in others))
                write_binary(self.mirror, nodes, tarball=self._tarball(spec.name, key))

    def _now(self, key: str, old: Sequence[str]) -> str:
        """The present key of a node that the first lock had: they keep their places."""
        return old[self._lock.order.index(key)]

    def _tarball(self, name: str, key: str) -> bytes:
        """As large as the package is, and as hard to pack as what is packed already."""
        size = int(self._median * math.exp(_dice(0, name).gauss(0, 2))) + 1000
        return _dice(key).randbytes(int(size * math.exp(_dice(key, 1).gauss(0, _WIGGLE))))


def measure_dump(run: Callable[[Sequence[str], Path], None]) -> tuple[int, int, int]:
    """Bytes of the image's layers, of the lock's binaries, and of the whole mirror.

    Ten releases were pushed to that, each with updates of a few packages.
    """
    with tempfile.TemporaryDirectory() as name:
        stack = Stack(Path(name), {"base": "none"}, 2e4)
        names = sorted({str(node["name"]) for node in stack.nodes.values()})
        for number in range(1, _RELEASES):
            stack.release(_dice("release", number).sample(names, _UPDATES))
        layers = Path(name) / "layers"
        run(
            ["stackyard", "image.layers", "--to", str(layers), "--unsigned"], stack.root / "project"
        )
        image = sum(_bytes_of(folder) for folder in layers.iterdir() if folder.name != ".mirror")
        binaries = sum(
            _bytes_of(folder)
            for folder in layers.iterdir()
            if folder.name not in (".mirror", "last")
        )
        return image, binaries, _bytes_of(stack.mirror)


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# --- both ways of building ---


class Released(NamedTuple):
    """Seconds for build and push, and bytes of the layers that the registry lacked."""

    seconds: float
    pushed_bytes: int

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.pushed_bytes / 1e6:.1f} MB"


def measure_engines(
    registry: str, base: str, fetch_base: str, requirement: str
) -> Mapping[str, tuple[Released, Released]]:
    """First and second release, by the way of building. The second updates one package.

    ``registry`` is ``host:port``; ``base`` and ``fetch_base`` are images, the latter one that
    ``pip install REQUIREMENT`` works in without a network.
    """
    with tempfile.TemporaryDirectory() as name:
        unique = hashlib.sha256(name.encode()).hexdigest()[:8]
        stack = Stack(Path(name), {"base": base}, 1.5e5)
        project = stack.root / "project"
        with _served(stack.mirror) as url:
            common = ["--unsigned", "--from", url]
            ways: Mapping[str, Callable[[str, str], list[list[str]]]] = {
                "engine": lambda to, tag: [
                    ["image.build", *common, "--tag", f"{to}:{tag}", "--network", "host",
                     "--build-arg", f"FETCH_BASE={fetch_base}",
                     "--build-arg", f"STACKYARD={requirement}"],
                    ["image.push", "--image", f"{to}:{tag}", "--tag", f"{to}:{tag}"],
                ],
                "no engine": lambda to, tag: [
                    ["image.build", *common, "--tag", f"{to}:{tag}", "--no-engine", "--push"]
                ],
            }  # fmt: skip
            times: dict[str, list[float]] = {way: [] for way in ways}
            for tag in ("one", "two"):
                if tag == "two":
                    stack.release(["hdf5"])
                for way, commands in ways.items():
                    to = f"{registry}/bench-{unique}-{way.replace(' ', '-')}"
                    begun = time.monotonic()
                    for argv in commands(to, tag):
                        _stackyard(argv, project)
                    times[way].append(time.monotonic() - begun)
        result = {}
        for way, seconds in times.items():
            to = f"{registry}/bench-{unique}-{way.replace(' ', '-')}"
            first, second = _layers(to, "one"), _layers(to, "two")
            known = _layers(base.rpartition(":")[0], base.rpartition(":")[2])
            result[way] = (
                Released(seconds[0], _lacking(first, known)),
                Released(seconds[1], _lacking(second, first)),
            )
        return result


def _lacking(layers: Mapping[str, int], known: Mapping[str, int]) -> int:
    return sum(size for digest, size in layers.items() if digest not in known)


def _layers(repository: str, tag: str) -> Mapping[str, int]:
    """Bytes of an image's layers, by digest."""
    from stackyard.edges.stores.oci import OciStore
    from stackyard.edges.stores.store import ANONYMOUS
    from stackyard.oci import manifest_key, parse_image

    with closing(OciStore(f"oci+http://{repository}", ANONYMOUS)) as store:
        image = parse_image(store.read(manifest_key(tag)), tag)
    return {layer.digest: layer.size_bytes for layer in image.layers}


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """The mirror on a web server of this machine, as builds see one."""
    sys.path.append(str(ROOT / "tests"))
    from mirror_server import mirror_server

    with mirror_server(folder) as server:
        yield server.url


def _stackyard(argv: Sequence[str], project: Path) -> None:
    program = Path(sys.executable).parent / "stackyard"
    done = subprocess.run(
        [str(program) if program.is_file() else str(shutil.which("stackyard")), *argv],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        message = f"{' '.join(argv)} ended with {done.returncode}:\n{done.stderr[-3000:]}"
        raise SystemExit(message)
