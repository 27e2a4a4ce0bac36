"""Keys of ours in a real Spack: its CI imports and signs with them, its users find them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from real_spack import RealSpack, needs_spack
from signing import needs_gpg
from tests_data import DATA

from stackyard.edges.stores.store import open_store
from stackyard.flow.trust import check_signatures, find_keys
from stackyard.settings import Settings

pytestmark = [needs_spack, needs_gpg]

#: What ``spack ci rebuild`` does with the variable (``cmd/ci.py`` of Spack 1.1).
IMPORT = "import os, spack.ci; spack.ci.import_signing_key(os.environ['SPACK_SIGNING_KEY'])"


def test_a_key_from_nothing_to_its_users(
    project: Any,
    stackyard: Callable[..., Any],
    fresh_spack: Callable[[], RealSpack],
    tmp_path: Path,
) -> None:
    project.write("stacks/tiny/spack.yaml", {"spack": {"specs": []}})
    name = stackyard("keys.create", "--name", "Tiny", "--expires", "1y").out.strip()
    value = stackyard("keys.export", "--stack", "tiny", "--secret-to", "-").out.strip()

    # The pipeline imports the key, builds, signs and pushes, and lists no key.
    builder = fresh_spack()
    builder("python", "-c", IMPORT, SPACK_SIGNING_KEY=value)
    assert name in builder("gpg", "list", "--signing")
    environment = builder.tiny(f"file://{DATA}/mirrors/v3-unsigned", signed=False)
    assert builder.install(environment) == 7
    target = tmp_path / "mirror"
    builder("-e", environment, "buildcache", "push", f"file://{target}")
    assert f"{name}  Tiny" in (shown := stackyard("keys.trust", "--url", str(target)).out)
    assert "Spack does not find it" in shown

    # We verify all that it pushed, by the key beside the stack.
    from stackyard.edges.mirrors.contents import read_manifests

    store = open_store(str(target))
    pushed = read_manifests(store, 3).binaries
    store.close()
    keys = find_keys(None, None, Settings(), str(project.root / "stacks" / "tiny" / "keys"))
    checked = check_signatures(pushed, str(target), keys, signed_mirror=True)
    assert (len(checked.signers), checked.problems) == (7, {})
    assert set(checked.signers.values()) == {name}

    # A user finds no key before it is published, and installs with it afterwards.
    user = fresh_spack()
    theirs = user.tiny(f"file://{target}")
    find = ("-e", theirs, "buildcache", "keys", "--install", "--trust")
    user(*find)
    assert name not in user("gpg", "list", "--trusted")
    stackyard("keys.publish", "--url", str(target), "--stack", "tiny")
    user(*find)
    assert name in user("gpg", "list", "--trusted")
    user("-e", theirs, "buildcache", "update-index", f"file://{target}")
    assert user.install(theirs) == 7


def test_a_key_on_a_new_mirror(
    project: Any,
    stackyard: Callable[..., Any],
    fresh_spack: Callable[[], RealSpack],
    tmp_path: Path,
) -> None:
    """Published before anything else lies there; and a key of Spack's, as we export it."""
    (tmp_path / "mirror").mkdir()
    maker = fresh_spack()
    maker("gpg", "create", "Made by Spack", "spack@example.org")
    stackyard("keys.export", "--home", str(maker.home), "--public-to", "spack.pub")
    stackyard("keys.publish", "--url", str(tmp_path / "mirror"), "--keys", "spack.pub")
    user = fresh_spack()
    theirs = user.tiny(f"file://{tmp_path}/mirror")
    user("-e", theirs, "buildcache", "keys", "--install", "--trust")
    assert "Made by Spack" in user("gpg", "list", "--trusted")
