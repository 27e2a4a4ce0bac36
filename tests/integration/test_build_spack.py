"""``build`` with the real Spack: a stack onto a signed mirror, and from there into a fresh Spack."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from building_spack import Command
from conftest import Project, Stackyard
from real_spack import INDICES, PYTHON, SPACK, RealSpack, needs_spack
from services import S3Server
from signing import Signer, _processes, needs_gpg
from tests_data import DATA

from stackyard.trust import dump_signing_value

pytestmark = [needs_spack, needs_gpg]

NAMES = ["tiny-app", "tiny-base", *["tiny-data"] * 2, *["tiny-lib"] * 2, "tiny-tool"]
OWNER = "CI <ci@example.org>"


@pytest.fixture
def tiny(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The tiny stack with its key, and the variables of somebody who builds it."""
    folder = project.root / "stacks" / "tiny"
    shutil.copytree(DATA / "tiny", folder)
    shutil.copy(DATA / "tiny.spack.lock", folder / "spack.lock")
    if packages := os.environ.get("STACKYARD_PACKAGES"):
        text = (folder / "spack.yaml").read_text()
        builtin = f"  repos:\n    builtin: {packages}/repos/spack_repo/builtin\n"
        (folder / "spack.yaml").write_text(text.replace("  repos:\n", builtin))
    monkeypatch.setenv("STACKYARD_CACHE", str(tmp_path / "cache"))
    # What Spack finds out about its packages takes it a minute; and a keyring of nobody.
    monkeypatch.setenv("SPACK_USER_CACHE_PATH", f"{INDICES}-user")
    monkeypatch.setenv("SPACK_GNUPGHOME", str(tmp_path / "empty"))
    monkeypatch.setenv("SPACK_PYTHON", PYTHON or sys.executable)
    signer = Signer()
    signer.key(OWNER)
    value = dump_signing_value(signer("--armor", "--export-secret-keys"))
    monkeypatch.setenv("SPACK_SIGNING_KEY", value)
    project.write("stacks/tiny/keys/ci.pub", signer.public(OWNER))
    signer.close()
    return project


def built(answer: Any) -> dict[str, list[str]]:
    """Names by what came of them."""
    found: dict[str, list[str]] = {}
    for one in json.loads(answer.out)["specs"]:
        found.setdefault(one["result"], []).append(one["name"])
    return {result: sorted(names) for result, names in found.items()}


def spoil(project: Project, name: str, line: str = "raise InstallError('on purpose')") -> None:
    """Let the recipe of a package fail; the hash in the lock stays what it is."""
    path = f"stacks/tiny/repo/spack_repo/tiny/packages/{name}/package.py"
    text = (project.root / path).read_text()
    start = "    def install(self, spec, prefix):\n"
    project.write(path, text.replace(start, f"{start}        {line}\n"))


def mend(project: Project, name: str) -> None:
    path = f"repo/spack_repo/tiny/packages/{name}/package.py"
    project.write(f"stacks/tiny/{path}", (DATA / "tiny" / path).read_bytes())


def test_onto_a_folder(
    tiny: Project,
    stackyard: Stackyard,
    fresh_spack: Callable[[], RealSpack],
    tmp_path: Path,
) -> None:
    """A failure, then on from there, then in another tree: reused, signed, and installed again."""
    before = {k: v for k, v in tiny.files().items() if "tiny_lib" not in k}
    mirror = tmp_path / "mirror"
    arguments = ("build", "--mirror", str(mirror), "--spack", SPACK, "--json")
    spoil(tiny, "tiny_lib")
    answer = stackyard(*arguments, "--concurrent-packages", "2", code=1)
    assert built(answer) == {
        "built": ["tiny-base", "tiny-data", "tiny-data"],
        "failed": ["tiny-lib", "tiny-lib"],
        "skipped": ["tiny-app", "tiny-tool"],
    }
    assert "on purpose" in answer.err
    failed = [one for one in json.loads(answer.out)["specs"] if one["result"] == "failed"]
    assert all("on purpose" in Path(one["log"]).read_text() for one in failed)
    stackyard("mirror.verify", "--url", str(mirror), "--keys", "stacks/tiny/keys")

    mend(tiny, "tiny_lib")
    answer = stackyard(*arguments)
    assert built(answer) == {
        "built": ["tiny-app", "tiny-lib", "tiny-lib", "tiny-tool"],
        "reused": ["tiny-base", "tiny-data", "tiny-data"],
    }
    assert "reused binaries to install" not in answer.err  # they are in the tree
    stackyard("mirror.verify", "--url", str(mirror), "--keys", "stacks/tiny/keys")
    stackyard("mirror.index", "--url", str(mirror), "--check")
    assert {k: v for k, v in tiny.files().items() if "tiny_lib" not in k} == before

    # Somebody else's machine, to whom one package is missing.
    for path in (mirror / "v3/manifests/spec/tiny-app").iterdir():
        path.unlink()
    stackyard("mirror.index", "--url", str(mirror))
    answer = stackyard(*arguments, "--tree", str(tmp_path / "other-tree"))
    assert built(answer) == {"built": ["tiny-app"], "reused": NAMES[1:]}
    assert "4 reused binaries to install" in answer.err

    user = fresh_spack()
    environment = user.tiny(mirror.as_uri())
    user("-e", environment, "install", "--cache-only", "--only-concrete", code=1)
    user("-e", environment, "buildcache", "keys", "--install", "--trust")
    assert user.install(environment) == 7


def test_what_signed_it_is_checked_by_spack_too(
    tiny: Project, stackyard: Stackyard, tmp_path: Path
) -> None:
    """A tree of its own gets what is reused only with the stack's keys."""
    mirror = tmp_path / "mirror"
    arguments = ("build", "--mirror", str(mirror), "--spack", SPACK, "--json")
    stackyard(*arguments, "--only", "tiny-base")
    (tiny.root / "stacks/tiny/keys/ci.pub").rename(tmp_path / "ci.pub")
    other = (*arguments, "--only", "tiny-lib@1.0", "--tree", str(tmp_path / "other"))
    answer = stackyard(*other, code=6)
    assert "there are no keys to check them with" in answer.err
    answer = stackyard(*other, "--keys", str(tmp_path / "ci.pub"))
    assert built(answer) == {"built": ["tiny-lib"], "reused": ["tiny-base"]}


def test_stopped(
    tiny: Project, stackyard: Stackyard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Spack builds: it and all that it started end, and leave nothing that looks installed."""
    mirror, begun = tmp_path / "mirror", tmp_path / "begun"
    arguments = ("build", "--mirror", str(mirror), "--spack", SPACK, "--only", "tiny-lib@1.0")
    spoil(tiny, "tiny_lib", f"open({str(begun)!r}, 'w').close(); import time; time.sleep(600)")
    temporary = tmp_path / "temporary"  # Spack's environment is in it, and so in its command line
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    command = Command(tiny.root, *arguments, "--json")
    command.until(begun)
    assert _processes(str(temporary)) != []
    command.signal(signal.SIGINT)
    answer = command.end()
    assert answer.code == 1
    assert "error: stopped" in answer.err
    assert built(answer) == {"built": ["tiny-base"], "open": ["tiny-lib"]}
    assert _processes(str(temporary)) == []
    assert list(temporary.glob("stackyard-*")) == []
    stackyard("mirror.verify", "--url", str(mirror), "--keys", "stacks/tiny/keys")

    mend(tiny, "tiny_lib")
    answer = stackyard(*arguments, "--json")
    assert built(answer) == {"built": ["tiny-lib"], "reused": ["tiny-base"]}


def test_everything_anew(tiny: Project, stackyard: Stackyard, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    arguments = ("build", "--mirror", str(mirror), "--spack", SPACK, "--only", "tiny-lib@1.0")
    stackyard(*arguments)
    spoil(tiny, "tiny_base", "touch(join_path(prefix, 'another-file'))")
    answer = stackyard(*arguments, "--no-prune", "--json")
    assert built(answer) == {"built": ["tiny-base", "tiny-lib"]}
    stackyard("mirror.verify", "--url", str(mirror), "--keys", "stacks/tiny/keys")
    trees = (tmp_path / "cache" / "build").glob("*/tree/*/tiny-base-*/another-file")
    assert len(list(trees)) == 1


def test_onto_s3(  # noqa: PLR0917
    tiny: Project,
    stackyard: Stackyard,
    fresh_spack: Callable[[], RealSpack],
    moto: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """With a padded tree, in two runs, the second of which takes from the bucket what it needs."""
    url = f"{moto.bucket()}/tiny"
    pair = "{id_variable: MY_ID, secret_variable: MY_SECRET}"
    text = (tiny.root / "stacks/tiny/spack.yaml").read_text()
    text += (
        "  config: {install_tree: {padded_length: 200}}\n  mirrors:\n    buildcache-destination:\n"
    )
    text += f"      url: {url}\n      endpoint_url: {moto.url}\n      access_pair: {pair}\n"
    tiny.write("stacks/tiny/spack.yaml", text)
    monkeypatch.setenv("SPACK_PYTHON", sys.executable)  # which has boto3
    monkeypatch.setenv("MY_ID", moto.id)
    monkeypatch.setenv("MY_SECRET", "test-secret-word")
    arguments = ("build", "--spack", SPACK, "--json")
    answer = stackyard(*arguments, "--only", "tiny-tool")
    assert built(answer) == {"built": ["tiny-base", "tiny-lib", "tiny-tool"]}
    answer = stackyard(*arguments, "--tree", str(tmp_path / "another-tree"))
    assert built(answer) == {
        "built": ["tiny-app", "tiny-data", "tiny-data", "tiny-lib"],
        "reused": ["tiny-base", "tiny-lib", "tiny-tool"],
    }
    assert list((tmp_path / "another-tree").rglob("__spack_path_placeholder__*"))
    written = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [path for path in written if b"test-secret-word" in path.read_bytes()] == []
    stackyard("mirror.verify", "--url", "buildcache-destination")

    user = fresh_spack()
    environment = user.tiny()
    with (Path(environment) / "spack.yaml").open("a") as manifest:
        manifest.write(
            f"  mirrors:\n    m:\n      url: {url}\n      endpoint_url: {moto.url}\n"
            f"      access_pair: {pair}\n"
        )
    keys = {"MY_ID": moto.id, "MY_SECRET": "test-secret-word", "SPACK_PYTHON": sys.executable}
    user.env.update(keys)
    user("-e", environment, "buildcache", "keys", "--install", "--trust")
    assert user.install(environment) == 7


def test_into_a_registry(
    tiny: Project,
    stackyard: Stackyard,
    fresh_spack: Callable[[], RealSpack],
    registry: str,
    tmp_path: Path,
) -> None:
    """Nothing is signed there; images have their dependencies in them all the same."""
    (tiny.root / "stacks/tiny/keys/ci.pub").unlink()
    url = f"oci+http://{registry}/built/tiny"
    arguments = ("build", "--mirror", url, "--unsigned", "--spack", SPACK, "--json")
    stackyard(*arguments, "--only", "tiny-tool")
    answer = stackyard(*arguments, "--tree", str(tmp_path / "another-tree"))
    assert built(answer) == {
        "built": ["tiny-app", "tiny-data", "tiny-data", "tiny-lib"],
        "reused": ["tiny-base", "tiny-lib", "tiny-tool"],
    }
    user = fresh_spack()
    assert user.install(user.tiny(url, signed=False)) == 7
