"""Against the real Spack, where STACKYARD_SPACK names a checkout of it (1.1 or newer).

STACKYARD_PACKAGES may name a checkout of the package repository; a complete lock needs none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from pipelines import differences, load
from tests_data import DATA, STACKS

from stackyard.flow.generate import generate
from stackyard.flow.steps import Request

SPACK = os.environ.get("STACKYARD_SPACK", "")
pytestmark = pytest.mark.skipif(
    not SPACK,
    reason="set STACKYARD_SPACK to a checkout of Spack 1.1: git clone https://github.com/spack/spack",
)

CASES = sorted(path.name for path in (DATA / "oracle").iterdir())


@pytest.fixture(scope="module")
def spack_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which no configuration of this machine's users reaches Spack."""
    tmp_path = tmp_path_factory.mktemp("spack")
    config = tmp_path / "config"
    config.mkdir()
    if packages := os.environ.get("STACKYARD_PACKAGES"):
        repository = f"{packages}/repos/spack_repo/builtin"
        (config / "repos.yaml").write_text(f"repos:\n  builtin: {repository}\n")
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(("CI_", "SPACK_"))},
        "SPACK_USER_CONFIG_PATH": str(config),
        "SPACK_USER_CACHE_PATH": str(tmp_path / "cache"),
        "SPACK_SYSTEM_CONFIG_PATH": str(tmp_path / "system"),
        **({"SPACK_PYTHON": python} if (python := os.environ.get("SPACK_PYTHON")) else {}),
    }


@pytest.mark.parametrize("case", [c for c in CASES if c.startswith("small")])
def test_generates_what_this_spack_generates(
    case: str, tmp_path: Path, spack_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    stack = project / "stacks" / case
    stack.mkdir(parents=True)
    (project / "invoke.yaml").write_text("stackyard: {}\n")
    shutil.copy(DATA / "oracle" / case / "spack.yaml", stack)
    shutil.copy(STACKS / "small" / "spack.lock", stack)
    fixed = {
        "CI_JOB_NAME": "generate",
        "CI_PIPELINE_ID": "7",
        "SPACK_CDASH_BUILD_STAMP": "20261121-0000-x",
    }
    theirs = tmp_path / "theirs.yml"
    subprocess.run(
        [f"{SPACK}/bin/spack", "-e", str(stack), "ci", "generate", "--no-prune-dag",
         "--output-file", str(theirs)],
        env={**spack_env, **fixed, "CI_PROJECT_DIR": str(project)},
        cwd=project, check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    monkeypatch.chdir(project)
    for name in os.environ:
        if name.startswith(("CI_", "SPACK_")):
            monkeypatch.delenv(name)
    for name, value in fixed.items():
        monkeypatch.setenv(name, value)
    generate(Request(stack=case, no_prune=True))
    ours = (project / "jobs_scratch_dir" / "pipeline.yml").read_text()
    assert differences(load(ours), load(theirs.read_text())) == []
