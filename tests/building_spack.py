"""A stand-in for Spack that "installs" and "pushes" as a test wants it, and remembers every call.

What it installs is a name in a folder; what it pushes it copies from a mirror of the test data.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from conftest import DATA, ROOT, Answer

TINY = DATA / "tiny.spack.lock"
NODES = json.loads(TINY.read_bytes())["concrete_specs"]

PROGRAM = r"""#!{python}
import json, os, pathlib, re, shutil, signal, subprocess, sys, time

folder = pathlib.Path(__file__).resolve().parent.parent
setup = json.loads((folder / "setup.json").read_text())
words = sys.argv[1:]
hashes = [word[1:] for word in words if word[:1] == "/" and len(word) == 33]
call = {{"words": words, "env": dict(os.environ)}}
if "-e" in words:
    environment = pathlib.Path(words[words.index("-e") + 1])
    call["manifest"] = (environment / "spack.yaml").read_text()
    if root := re.search(r"root: *(\S+)", call["manifest"]):
        installed = folder / "installed" / root[1].replace("/", "-")
        installed.mkdir(parents=True, exist_ok=True)
    call["beside"] = sorted(path.name for path in environment.iterdir())
    if (environment / "spack.lock").exists():
        call["lock"] = (environment / "spack.lock").read_text()
if home := os.environ.get("SPACK_GNUPGHOME"):
    keys = subprocess.run(
        ["gpg", "--homedir", home, "--with-colons", "--list-keys"], capture_output=True, text=True
    )
    call["keys"] = [line.split(":")[9] for line in keys.stdout.splitlines() if line[:3] == "fpr"]
with (folder / "calls").open("ab", buffering=0) as log:  # whole lines, whoever else writes
    log.write(json.dumps(call).encode() + b"\n")


def wait(name):
    try:
        (folder / name).touch()
        while not (folder / "go").exists():
            time.sleep(0.01)
    except KeyboardInterrupt:
        (folder / (name + " interrupted")).touch()
        sys.exit(130)


def install():
    for dag_hash in hashes:
        does = setup["does"].get(dag_hash, {{}})
        for line in does.get("says", ["==> Installing " + dag_hash]):
            print(line, flush=True)
        if does.get("starts a child"):
            script = "import time; time.sleep(600)"
            subprocess.Popen([sys.executable, "-c", script, str(folder)])
        if does.get("is deaf"):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if does.get("waits"):
            wait("installing")
        if "only" in words and dag_hash in setup["lacks"]:
            print("==> Error: No binary found when cache-only was specified", flush=True)
            sys.exit(1)
        if code := does.get("code", 0):
            sys.exit(code)
        (installed / dag_hash).touch()


def push():
    scope = pathlib.Path(words[words.index("-C") + 1]) / "mirrors.yaml"
    url = json.loads(scope.read_text())["mirrors:"]["stackyard-target"]["url"]
    target, source = pathlib.Path(url.removeprefix("file://")), pathlib.Path(setup["source"])
    print("pushing with", *os.environ.values(), flush=True)
    if url.startswith("oci"):
        return send(url, source)
    if setup["push waits"]:
        wait("pushing")
    for name in ["*-" + one + ".spec" for one in hashes] + ["*.key"] * ("--key" in words):
        if name[2:-5] in setup["passed over"]:
            continue
        (manifest,) = source.rglob(name + ".manifest.json")
        names = [path for path in source.rglob("blobs/*/*/*") if path.name in manifest.read_text()]
        for path in [*names, manifest]:
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    for line in setup["push errors"]:
        print(line, flush=True)
    sys.exit(bool(setup["push errors"]))


def send(url, source):
    sys.path.insert(0, {tests!r})
    from building_spack import send_images

    for line in send_images(url, source, hashes):
        print(line, flush=True)


if words == ["--version"]:
    print(setup["version"])
elif "install" in words:
    install()
elif "find" in words:
    for path in installed.iterdir():
        print(path.name, setup["root"] + "/linux-x86_64_v3/some-1.0-" + path.name)
elif "python" in words and words[-1].startswith("import boto3"):
    sys.exit(setup["python lacks"])
elif "python" in words:
    print("tree: " + setup["root"])
elif "gpg" in words:
    print(setup["secret keys"])
elif "push" in words:
    push()
elif "concretize" in words:
    shutil.copyfile(setup["lock"], environment / "spack.lock")
else:
    sys.exit("the stand-in does not know this")
"""


class BuildingSpack:
    """A checkout whose ``bin/spack`` is the stand-in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        program = folder / "bin" / "spack"
        program.write_text(PROGRAM.format(python=sys.executable, tests=str(Path(__file__).parent)))
        program.chmod(0o755)
        self._setup: dict[str, Any] = {
            "version": "1.1.0 (2e907202bcc8209a6a62243aab50c179b524cc3b)",
            "root": "/opt/tree",
            "lock": str(TINY),
            "source": str(DATA / "mirrors" / "v3-unsigned"),
            "does": {},
            "lacks": [],
            "passed over": [],
            "push errors": [],
            "push waits": False,
            "secret keys": "",
            "python lacks": "",
        }
        self.set()

    def set(self, **changes: Any) -> None:
        self._setup.update({name.replace("_", " "): value for name, value in changes.items()})
        (self.folder / "setup.json").write_text(json.dumps(self._setup))

    def does(self, name: str, **what: Any) -> None:
        """What happens when a package is installed; its name is as in ``key``."""
        does = {word.replace("_", " "): value for word, value in what.items()}
        self.set(does={**self._setup["does"], key(name): does})

    def calls(self, word: str) -> list[dict[str, Any]]:
        """The calls with this word among their arguments."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(json.loads, lines) if word in call["words"]]

    def forget(self) -> None:
        """All calls so far."""
        (self.folder / "calls").unlink(missing_ok=True)

    def built(self) -> list[list[str]]:
        """Names of what each call built, in the order of the calls."""
        return [names(call) for call in self.calls("install") if "only" not in call["words"]]

    def borrowed(self) -> list[list[str]]:
        """The same of what was installed from the mirror."""
        return [names(call) for call in self.calls("install") if "only" in call["words"]]

    def pushed(self) -> list[list[str]]:
        return [names(call) for call in self.calls("push")]


def key(name: str) -> str:
    """The hash of ``name`` in the tiny lock; where two have the name, ``name@version`` or ``+extra``."""
    bare, _, version = name.removesuffix("+extra").partition("@")
    (found,) = (
        one
        for one, node in NODES.items()
        if node["name"] == f"tiny-{bare}"
        and version in ("", node["version"])
        and (bare != "data" or node["parameters"]["extra"] is name.endswith("+extra"))
    )
    return str(found)


#: All of the tiny lock, by level.
LEVELS = (("base",), ("data", "data+extra", "lib@1.1", "lib@1.0"), ("tool",), ("app",))
KEYS = {key(name): name for level in LEVELS for name in level}


def names(call: dict[str, Any]) -> list[str]:
    words = call["words"]
    return sorted(KEYS[word[1:]] for word in words if word[:1] == "/" and len(word) == 33)


def send_images(url: str, source: Path, hashes: Iterable[str]) -> list[str]:
    """Put binaries of a mirror in a folder into a registry, where they are not there yet.

    Gives what Spack says of each.
    """
    from stackyard.binary import parse_metadata
    from stackyard.edges.mirrors.images import push_binary
    from stackyard.edges.stores.store import open_store, writable
    from stackyard.errors import ConflictError
    from stackyard.mirror import parse_manifest
    from stackyard.oci import digest_key

    store = writable(open_store(url))
    said = []
    for one in hashes:
        (path,) = source.rglob(f"*-{one}.spec.manifest.json")
        tarball, spec = parse_manifest(path.read_bytes(), path.name).records
        metadata = parse_metadata((source / digest_key(spec.checksum)).read_bytes(), path.name)
        with suppress(ConflictError):
            push_binary(store, metadata, source / digest_key(tarball.checksum), dependencies={})
            said.append(f"Pushed x/{one[:7]}: sha256:{tarball.checksum} (0.1s, 1.00 MB/s)")
    store.close()
    return said


_COMMAND = "import sys; from stackyard.main import main; sys.argv[0] = 'stackyard'; main()"
_PATIENCE_S = 300


class Command:
    """``stackyard`` with these arguments in a process and a session of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def until(self, path: Path) -> None:
        """Wait until somebody makes this file."""
        deadline = time.monotonic() + _PATIENCE_S
        while not path.exists():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def told(self, text: str) -> None:
        """Wait for a line on stderr with this text."""
        assert self.process.stderr is not None
        assert any(text in line for line in self.process.stderr), text

    def signal(self, number: signal.Signals) -> None:
        """As a terminal sends it: to all that are in its foreground."""
        os.killpg(self.process.pid, number)

    def end(self) -> Answer:
        out, err = self.process.communicate(timeout=_PATIENCE_S)
        return Answer(self.process.returncode, out, err)
