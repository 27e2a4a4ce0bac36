"""``push`` from an install tree, with a stand-in for Spack; the real one is asked in integration/.

The stand-in has "installed" what a mirror holds, and "pushes" by copying from there. It writes down
how it was called.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import locks
import pytest
from conftest import DATA, Project, Stackyard
from fake_registry import fake_registry
from signing import Signer, needs_gpg
from test_copy import named, put, tarball
from test_faults import complete

from stackyard.edges import spack as spack_edge
from stackyard.edges.mirrors.keys import published_keys
from stackyard.edges.stores.folder import FileStore
from stackyard.padding import PLACEHOLDER
from stackyard.stack import Connection

TINY = DATA / "tiny.spack.lock"
UNSIGNED = DATA / "mirrors" / "v3-unsigned"
SIGNED = DATA / "mirrors" / "v3-signed"
HASHES = tuple(json.loads(TINY.read_bytes())["concrete_specs"])

PROGRAM = r"""#!{python}
import json, os, pathlib, shutil, sys
folder = pathlib.Path(__file__).resolve().parent.parent
setup = json.loads((folder / "setup.json").read_text())
words = sys.argv[1:]
call = {{"words": words, "env": dict(os.environ)}}
if "-C" in words:
    call["scope"] = (pathlib.Path(words[words.index("-C") + 1]) / "mirrors.yaml").read_text()
if "-e" in words:
    environment = pathlib.Path(words[words.index("-e") + 1])
    call["environment"] = sorted(path.name for path in environment.iterdir())
    (environment / ".spack-env").mkdir(exist_ok=True)
    (environment / ".spack-env" / "transaction_lock").touch()
with (folder / "calls").open("a") as log:
    print(json.dumps(call), file=log)
if words == ["--version"]:
    print(setup["version"])
elif "find" in words:
    print("==> something that is no spec")
    for dag_hash in setup["installed"]:
        print(dag_hash, setup["root"] + "/linux-x86_64_v3/some-1.0-" + dag_hash)
else:
    url = json.loads(call["scope"])["mirrors:"]["stackyard-target"]["url"]
    target, source = pathlib.Path(url.removeprefix("file://")), pathlib.Path(setup["source"])
    hashes = [word[1:] for word in words if word[:1] == "/" and len(word) == 33]
    keys = ["*.key"] if "--key" in words else []
    for name in ["*-" + one + ".spec" for one in hashes] + keys:
        if name[2:-5] in setup["passed over"] or not url.startswith("file:"):
            continue
        (manifest,) = source.rglob(name + ".manifest.json")
        names = [manifest] + [
            path for path in source.rglob("blobs/*/*/*") if path.name in manifest.read_text()
        ]
        for path in names:
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        print("==> Pushed", name)
    for line in setup["errors"]:
        print(line, file=sys.stderr)
    sys.exit(bool(setup["errors"]))
"""


class FakeSpack:
    """A checkout whose ``bin/spack`` is ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        program = folder / "bin" / "spack"
        program.write_text(PROGRAM.format(python=sys.executable))
        program.chmod(0o755)
        self._setup: dict[str, Any] = {
            "version": "1.1.0 (2e907202bcc8209a6a62243aab50c179b524cc3b)",
            "installed": list(HASHES),
            "root": "/opt/tree",
            "source": str(UNSIGNED),
            "passed over": [],
            "errors": [],
        }
        self.set()

    def set(self, **changes: Any) -> None:
        self._setup.update({name.replace("_", " "): value for name, value in changes.items()})
        (self.folder / "setup.json").write_text(json.dumps(self._setup))

    def calls(self, word: str) -> list[dict[str, Any]]:
        """The calls with this word among their arguments."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [call for call in map(json.loads, lines) if word in call["words"]]

    def pushed(self) -> list[str]:
        words = [word for call in self.calls("push") for word in call["words"]]
        return [word[1:] for word in words if word[:1] == "/" and len(word) == 33]


@pytest.fixture
def spack(tmp_path: Path) -> FakeSpack:
    return FakeSpack(tmp_path / "spack")


@pytest.fixture
def tiny(project: Project) -> Project:
    project.stack(TINY.read_bytes(), name="tiny")
    return project


def test_only_what_is_not_there_is_pushed(
    tiny: Project, spack: FakeSpack, stackyard: Stackyard, tmp_path: Path
) -> None:
    before = tiny.files()
    target = tmp_path / "mirror"
    spack.set(installed=HASHES[:3])
    arguments = ("push", "--to", str(target), "--unsigned", "--spack", str(spack.folder))
    answer = stackyard(*arguments)
    assert "4 of 7 specs cannot be pushed" in answer.err
    assert answer.err.count(": not installed") == 4
    assert "0 of 3 already there, 3 pushed" in answer.err
    assert sorted(spack.pushed()) == sorted(HASHES[:3])
    assert named(target) == set(HASHES[:3])

    spack.set(installed=HASHES)
    answer = stackyard(*arguments)
    assert "==> Pushed" in answer.err
    assert "3 of 7 already there, 4 pushed" in answer.err
    assert answer.out == ""
    assert sorted(spack.pushed()) == sorted(HASHES)
    assert complete(target) == 7
    assert named(target) == set(HASHES)

    answer = stackyard(*arguments)
    assert "7 of 7 already there, 0 pushed" in answer.err
    assert len(spack.pushed()) == 7
    assert tiny.files() == before
    (call, _) = spack.calls("push")
    assert "--only=package" in call["words"]
    assert "--unsigned" in call["words"]
    assert "--force" not in call["words"]
    assert json.loads(call["scope"]) == {
        "mirrors:": {"stackyard-target": {"url": f"file://{target}", "signed": False}}
    }


def test_a_lock_from_elsewhere_gets_an_environment_of_its_own(
    tiny: Project, spack: FakeSpack, stackyard: Stackyard, tmp_path: Path
) -> None:
    (tmp_path / "other.lock").write_bytes(TINY.read_bytes())
    tiny.write("stacks/tiny/repo/repo.yaml", "repo: {}")
    before = tiny.files()
    arguments = ("push", "--to", "m", "--unsigned", "--spack", str(spack.folder))
    stackyard(*arguments, "--lock", str(tmp_path / "other.lock"))
    (call,) = spack.calls("push")
    folder = Path(call["words"][call["words"].index("-e") + 1])
    assert call["environment"] == [".spack-env", "repo", "spack.lock", "spack.yaml"]
    assert not folder.exists()
    assert {k: v for k, v in tiny.files().items() if not k.startswith("m/")} == before
    stackyard(*arguments, "--force")
    call = spack.calls("push")[-1]
    assert call["words"][call["words"].index("-e") + 1] == str(tiny.root / "stacks/tiny")
    assert "--force" in call["words"]
    assert not (tiny.root / "stacks/tiny/.spack-env").exists()


@needs_gpg
def test_the_key_of_ci_signs_and_goes_no_further(
    tiny: Project,
    spack: FakeSpack,
    stackyard: Stackyard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signer = Signer()
    fingerprint = signer.key("CI <ci@example.org>")
    value = base64.b64encode(signer("--armor", "--export-secret-keys")).decode()
    signer.close()
    monkeypatch.setenv("SPACK_SIGNING_KEY", value)
    spack.set(source=str(SIGNED))
    target = tmp_path / "mirror"
    answer = stackyard("push", "--to", str(target), "--spack", str(spack.folder))
    (call,) = spack.calls("push")
    words = call["words"]
    assert words[words.index("--key") + 1] == fingerprint
    assert value not in json.dumps(call)
    assert value not in answer.err
    home = call["env"]["SPACK_GNUPGHOME"]
    assert len(home) < 60
    assert not Path(home).exists()
    # Spack lists its key only when it writes the index.
    (key,) = published_keys(FileStore(target))
    assert key.listed

    for flag, value in (("--spack", str(spack.folder)), ("--base-image", "debian:12")):
        answer = stackyard("push", "--to", "new", "--from", str(target), flag, value, code=2)
        assert answer.err.startswith(f"error: {flag}: binaries of a mirror are taken as they are")
    answer = stackyard("push", "--to", "new", "--base-image", "-x", code=2)
    assert answer.err.startswith("error: --base-image: '-x' is not the name of an image")

    monkeypatch.setenv("SPACK_SIGNING_KEY", "nonsense")
    answer = stackyard("push", "--to", "new", "--spack", str(spack.folder), code=2)
    assert "$SPACK_SIGNING_KEY" in answer.err
    assert len(spack.calls("push")) == 1


@pytest.mark.parametrize(
    ("mirror", "flags"),
    [
        ({}, ()),
        ({"signed": True}, ()),
        ({"signed": False}, ()),
        ({"signed": True}, ("--unsigned",)),
    ],
)
def test_who_says_whether_spack_signs(
    project: Project,
    spack: FakeSpack,
    stackyard: Stackyard,
    mirror: dict[str, Any],
    flags: tuple[str, ...],
) -> None:
    expected = "--signed" if mirror.get("signed", True) and not flags else "--unsigned"
    target = project.root / "mirror"
    mirrors = {"target": {"url": str(target), **mirror}}
    project.stack(TINY.read_bytes(), mirrors=mirrors)
    stackyard("push", "--to", "target", "--spack", str(spack.folder), *flags)
    (call,) = spack.calls("push")
    assert {"--signed", "--unsigned", "--key"} & set(call["words"]) == {expected}
    entry = json.loads(call["scope"])["mirrors:"]["stackyard-target"]
    assert entry == {"url": target.as_uri(), "signed": expected == "--signed"}


def test_credentials_are_passed_by_name(
    project: Project, spack: FakeSpack, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_registry() as server:
        url = server.mirror("team/one")
        pair = {"id_variable": "MY_ID", "secret_variable": "MY_SECRET"}
        project.stack(TINY.read_bytes(), mirrors={"target": {"url": url, "access_pair": pair}})
        arguments = ("push", "--to", "target", "--spack", str(spack.folder))
        answer = stackyard(*arguments, code=2)
        assert "the variable MY_ID is not set" in answer.err
        monkeypatch.setenv("MY_ID", "somebody")
        monkeypatch.setenv("MY_SECRET", "a-word-to-keep")
        spack.set(errors=["==> Error: 401 for somebody with a-word-to-keep"])
        answer = stackyard(*arguments, code=5)
    (call,) = spack.calls("push")
    entry = json.loads(call["scope"])["mirrors:"]["stackyard-target"]
    assert entry == {"url": url, "signed": False, "access_pair": pair}
    assert call["env"]["MY_SECRET"] == "a-word-to-keep"
    assert not any("a-word-to-keep" in word for word in call["words"])
    assert "a-word-to-keep" not in answer.err
    assert "401 for somebody with ***" in answer.err
    # Images name those of their dependencies that Spack is told of: all of them, at one go.
    assert sorted(spack.pushed()) == sorted(HASHES)
    assert "--unsigned" in call["words"]


def test_spack_gets_the_login_that_we_have(
    tiny: Project,
    spack: FakeSpack,
    stackyard: Stackyard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Spack 1.1 knows of no login with docker."""
    arguments = ("push", "--spack", str(spack.folder), "--to")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    spack.set(errors=["==> Error: me has a-word-to-keep"])
    with fake_registry() as server:
        server.users = {"me": "a-word-to-keep"}
        auth = base64.b64encode(b"me:a-word-to-keep").decode()
        config = {"auths": {server.host: {"auth": auth}}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        answer = stackyard(*arguments, server.mirror("team/one"), code=5)
    (call,) = spack.calls("push")
    entry = json.loads(call["scope"])["mirrors:"]["stackyard-target"]
    assert entry["access_pair"] == {"id": "me", "secret_variable": "STACKYARD_TARGET_SECRET"}
    assert call["env"]["STACKYARD_TARGET_SECRET"] == "a-word-to-keep"
    assert "me has ***" in answer.err


@pytest.mark.parametrize("kind", ["variable", "file"])
def test_spack_gets_our_token_by_a_variable(  # noqa: PLR0917
    tiny: Project,
    spack: FakeSpack,
    stackyard: Stackyard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """From a laptop, or from a cluster: nothing that Spack reads holds the token."""
    token = "ghp_a-word-to-keep"
    path = tmp_path / "token"
    path.write_text(f"{token}\n")
    path.chmod(0o600)
    settings = {"variable": ("", token), "file": ("_FILE", str(path))}
    name, value = settings[kind]
    monkeypatch.setenv(f"STACKYARD_OCI_TOKEN{name}", value)
    spack.set(errors=[f"==> Error: 401 with {token}"])
    with fake_registry() as server:
        server.users = {"me": token}
        server.auth = "basic"
        monkeypatch.setenv("STACKYARD_OCI_REGISTRY", server.host)
        monkeypatch.setenv("STACKYARD_OCI_USER", "me")
        answer = stackyard(
            "push", "--spack", str(spack.folder), "--to", server.mirror("team/one"), code=5
        )
    (call,) = spack.calls("push")
    entry = json.loads(call["scope"])["mirrors:"]["stackyard-target"]
    assert entry["access_pair"] == {"id": "me", "secret_variable": "STACKYARD_TARGET_SECRET"}
    assert call["env"]["STACKYARD_TARGET_SECRET"] == token
    assert token not in call["scope"] + json.dumps(call["words"]) + answer.err + answer.out
    assert "401 with ***" in answer.err


def test_a_secret_that_stands_in_the_file_goes_by_a_variable(
    tiny: Project, spack: FakeSpack, stackyard: Stackyard
) -> None:
    connection = Connection("s3://b", id="me", secret="a-word-to-keep", profile="p")
    with spack_edge.target_scope(connection, "s3://b", signed=True) as (scope, extra):
        text = (scope / "mirrors.yaml").read_text()
    assert "a-word-to-keep" not in text
    entry = json.loads(text)["mirrors:"]["stackyard-target"]
    assert entry["access_pair"] == {"id": "me", "secret_variable": "STACKYARD_TARGET_SECRET"}
    assert entry["profile"] == "p"
    assert extra == {"STACKYARD_TARGET_SECRET": "a-word-to-keep"}
    assert not scope.exists()


def test_many_specs_go_in_several_calls(
    tiny: Project, spack: FakeSpack, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spack_edge, "_CHUNK", 3)
    stackyard("push", "--to", "m", "--unsigned", "--spack", str(spack.folder))
    assert len(spack.calls("push")) == 3
    assert sorted(spack.pushed()) == sorted(HASHES)
    assert complete(tiny.root / "m") == 7


def test_what_was_pushed_before_a_failure_counts(
    tiny: Project, spack: FakeSpack, stackyard: Stackyard
) -> None:
    said = ["==> Warning: no index", "==> Error: the disk is full", "    by 4 kB"]
    spack.set(passed_over=list(HASHES[:2]), errors=said)
    answer = stackyard("push", "--to", "m", "--unsigned", "--spack", str(spack.folder), code=5)
    end = answer.err[answer.err.index("error: ") :]
    assert end.startswith(
        "error: spack buildcache push failed: ==> Error: the disk is full\n  by 4 kB"
    )
    assert "Warning" not in end
    assert named(tiny.root / "m") == set(HASHES[2:])


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("==> Error: No module named 'boto3'", "install boto3 into the Python that runs Spack"),
        (
            "==> Error: No module named 'google', google-cloud-storage python module is missing.",
            "install google-cloud-storage into the Python that runs Spack",
        ),
        ("==> Error: No default key available for signing.", "set SPACK_SIGNING_KEY (keys.create"),
        ("==> Error: Multiple keys available for signing", "set SPACK_SIGNING_KEY (keys.create"),
    ],
)
def test_what_to_do_about_it(
    tiny: Project, spack: FakeSpack, stackyard: Stackyard, said: str, hint: str
) -> None:
    spack.set(passed_over=list(HASHES), errors=[said])
    answer = stackyard("push", "--to", "m", "--spack", str(spack.folder), code=5)
    assert f"{said}\n  hint: {hint}" in answer.err
    assert not (tiny.root / "m").exists()


def test_what_spack_passes_over_is_told(
    tiny: Project, spack: FakeSpack, stackyard: Stackyard
) -> None:
    spack.set(passed_over=[HASHES[0]])
    answer = stackyard("push", "--to", "m", "--unsigned", "--spack", str(spack.folder))
    assert "1 specs are not on the mirror" in answer.err
    assert "Spack passed it over: may it be redistributed?" in answer.err
    assert "0 of 7 already there, 6 pushed" in answer.err


def test_externals_and_develop_specs_stay_out(
    project: Project, spack: FakeSpack, stackyard: Stackyard
) -> None:
    nodes = [
        locks.node("app", ["mine", "os"]),
        locks.node("mine", parameters={"dev_path": "/home/me"}),
        locks.node("os", **locks.EXTERNAL),
    ]
    project.stack(locks.document(nodes))
    spack.set(installed=[locks.key(name) for name in ("mine", "os")])
    answer = stackyard("push", "--to", "m", "--unsigned", "--spack", str(spack.folder), code=5)
    assert "1 externals stay out" in answer.err
    assert "mine@1.0/minemin: built from a working folder (dev_path)" in answer.err
    assert "app@1.0/appappa: not installed" in answer.err
    assert "nothing of the stack is installed" in answer.err
    assert spack.calls("push") == []
    assert not (project.root / "m").exists()


def test_other_padding_is_refused(
    tiny: Project, spack: FakeSpack, stackyard: Stackyard, tmp_path: Path
) -> None:
    padded = f"/opt/tree/{PLACEHOLDER}/{PLACEHOLDER}"
    spack.set(root=padded)
    node = locks.node("zlib")
    target = tmp_path / "mirror"
    put(target, node, tarball("/opt/tree", node))
    arguments = ("push", "--to", str(target), "--unsigned", "--spack", str(spack.folder))
    answer = stackyard(*arguments, code=6)
    assert f"the binaries were installed with a padded_length of {len(padded)}" in answer.err
    assert "no padding (/opt/tree, 9 characters)" in answer.err
    assert spack.calls("push") == []
    spack.set(root="/elsewhere")
    stackyard(*arguments)
    assert complete(target) == 8


def test_which_spack(
    tiny: Project,
    spack: FakeSpack,
    stackyard: Stackyard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push = ("push", "--to", "m", "--unsigned")
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = stackyard(*push, code=5)
    assert "Spack is not here\n  hint: name its checkout: --spack DIR" in answer.err
    answer = stackyard(*push, "--spack", str(tmp_path), code=2)
    assert "--spack: an executable bin/spack is not in it" in answer.err
    monkeypatch.setenv("SPACK_ROOT", str(tmp_path))
    assert "$SPACK_ROOT: " in stackyard(*push, code=2).err
    monkeypatch.setenv("SPACK_ROOT", str(spack.folder))
    stackyard(*push)
    monkeypatch.delenv("SPACK_ROOT")
    monkeypatch.setenv("PATH", str(spack.folder / "bin"))
    assert "7 of 7 already there" in stackyard(*push).err
    for version, code, told in (
        ("0.23.1", 2, "Spack 0.23 writes layout 2"),
        ("nonsense", 5, "--version failed"),
    ):
        spack.set(version=version)
        assert told in stackyard(*push, code=code).err
