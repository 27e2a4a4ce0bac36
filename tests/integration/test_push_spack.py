"""From an install tree onto a mirror, from there onto another one, and from that installed again."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_spack import RealSpack, needs_spack

pytestmark = needs_spack


def test_unsigned(
    builder: RealSpack,
    fresh_spack: Callable[[], RealSpack],
    stackyard: Callable[..., Any],
    project: Any,
    tmp_path: Path,
) -> None:
    before = project.files()
    staging, release = tmp_path / "staging", tmp_path / "release"
    arguments = ("push", "--stack", "tiny", "--to", str(staging), "--unsigned")
    assert "0 of 7 already there, 7 pushed" in stackyard(*arguments).err
    assert "7 of 7 already there, 0 pushed" in stackyard(*arguments).err
    assert project.files() == before
    stackyard("mirror.copy", "--url", str(staging), "--to", str(release), "--unsigned")

    user = fresh_spack()
    environment = user.tiny(f"file://{release}", signed=False)
    listed = user("-e", environment, "buildcache", "list", "--allarch", "--long")
    assert listed.count("tiny-") == 7
    user("-e", environment, "buildcache", "check", "--mirror-url", f"file://{release}")
    assert user.install(environment) == 7


@pytest.mark.parametrize("key_of", ["CI", "Spack"])
def test_signed(  # noqa: PLR0917
    builder: RealSpack,
    fresh_spack: Callable[[], RealSpack],
    stackyard: Callable[..., Any],
    project: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key_of: str,
) -> None:
    public = project.root / "stacks" / "tiny" / "keys" / "ci.pub"
    public.parent.mkdir()
    builder("gpg", "create", "CI", "ci@example.org")
    builder("gpg", "export", str(public))
    if key_of == "CI":
        value = _signing_key(builder)
        monkeypatch.setenv("SPACK_SIGNING_KEY", value)
        monkeypatch.setenv("SPACK_GNUPGHOME", str(tmp_path / "not-this-one"))
    staging, release = tmp_path / "staging", tmp_path / "release"
    answer = stackyard("push", "--stack", "tiny", "--to", str(staging))
    assert "0 of 7 already there, 7 pushed" in answer.err
    assert not (tmp_path / "not-this-one").exists()
    answer = stackyard("mirror.copy", "--url", str(staging), "--to", str(release))
    assert "0 of 7 already there, 7 sent" in answer.err

    user = fresh_spack()
    environment = user.tiny(f"file://{release}")
    user("-e", environment, "install", "--cache-only", "--only-concrete", code=1)
    user("-e", environment, "buildcache", "keys", "--install", "--trust")
    assert user.install(environment) == 7


def _signing_key(spack: RealSpack) -> str:
    done = subprocess.run(
        ["gpg", "--homedir", str(spack.home), "--batch", "--armor", "--export-secret-keys"],
        check=True,
        capture_output=True,
    )
    return base64.b64encode(done.stdout).decode()


def test_into_a_registry_and_out_of_it(
    builder: RealSpack,
    fresh_spack: Callable[[], RealSpack],
    stackyard: Callable[..., Any],
    registry: str,
    tmp_path: Path,
) -> None:
    """What Spack pushed and what we pushed, side by side; then installed from a folder again."""
    spacks, ours = (f"oci+http://{registry}/{name}/tiny" for name in ("spacks", "ours"))
    arguments = ("push", "--stack", "tiny", "--to", spacks)
    assert "0 of 7 already there, 7 pushed" in stackyard(*arguments).err
    assert "7 of 7 already there, 0 pushed" in stackyard(*arguments).err
    folder = str(tmp_path / "folder")
    stackyard("mirror.copy", "--url", spacks, "--to", folder, "--unsigned")
    stackyard("mirror.copy", "--url", folder, "--to", ours, "--unsigned")
    again = ("mirror.copy", "--url", spacks, "--to", ours, "--unsigned")
    assert "7 of 7 already there, 0 sent" in stackyard(*again).err

    user = fresh_spack()
    assert user.install(user.tiny(f"file://{folder}", signed=False)) == 7
