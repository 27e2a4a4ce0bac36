"""What a catalogue tells people and programs to do works with the real Spack."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
from conftest import Stackyard
from real_spack import RealSpack, needs_spack
from tests_data import DATA

pytestmark = needs_spack

_LOAD = """
import json, sys
from spack.spec import Spec
for path in sys.argv[1:]:
    with open(path) as file:
        spec = Spec.from_dict(json.load(file))
    print("loaded", spec.name, spec.dag_hash())
"""


def commands(page: Path) -> list[list[str]]:
    """The arguments of the commands that a page shows, without ``spack``."""
    shown = re.findall(r'data-copy="([^"]*)"', page.read_text(encoding="utf-8"))
    lines = [shlex.split(unescape(text)) for text in shown]
    assert all(line[0] == "spack" for line in lines)
    return [line[1:] for line in lines]


@pytest.mark.parametrize("name", ["v3-signed", "v3-unsigned"])
def test_the_commands_of_a_page_install_the_binary(
    name: str, stackyard: Stackyard, fresh_spack: Callable[[], RealSpack], tmp_path: Path
) -> None:
    mirror = Path(shutil.copytree(DATA / "mirrors" / name, tmp_path / "a mirror; of ours"))
    site = tmp_path / "site"
    stackyard("site", "--url", str(mirror), "--to", str(site), "--public", mirror.as_uri())
    spack = fresh_spack()
    spack("repo", "add", str(DATA / "tiny" / "repo" / "spack_repo" / "tiny"))
    *setup, newest, one = commands(site / "packages" / "tiny-app.html")
    assert len(setup) == (2 if name == "v3-signed" else 1)
    for line in setup:
        spack(*line)
    spack(*one)
    found = {spec["name"]: spec["hash"] for spec in json.loads(spack("find", "--json"))}
    package = json.loads((site / "api/v1/packages/tiny-app.json").read_bytes())
    assert found["tiny-app"] == package["binaries"][0]["hash"]
    assert newest[:2] == ["install", "--cache-only"]


def test_spack_loads_the_metadata_for_old_clients(
    stackyard: Stackyard, fresh_spack: Callable[[], RealSpack], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    stackyard("site", "--url", str(DATA / "mirrors" / "v3-signed"), "--to", str(site))
    stackyard("site", "--url", str(DATA / "mirrors" / "v2-signed"), "--to", str(tmp_path / "old"))
    script = tmp_path / "load.py"
    script.write_text(_LOAD)
    paths = [*site.rglob("*.spec.json"), *(tmp_path / "old").rglob("*.spec.json")]
    said = fresh_spack()("python", str(script), *map(str, paths))
    loaded = set(re.findall(r"^loaded (\S+) (\S+)$", said, re.MULTILINE))
    assert len(loaded) == 12
    for path in paths:
        assert any(f"-{name}-" in path.name and key in path.name for name, key in loaded)
