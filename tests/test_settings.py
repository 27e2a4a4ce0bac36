"""Settings: the defaults, what wins, and errors that name file, key and the nearest known word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stackyard.edges.settings import Environment, find_root, read_settings
from stackyard.errors import ConfigError
from stackyard.settings import Bootstrap, Settings, check_settings, make_settings

FIXES = ("first-match", "trailing-colon")


def test_defaults() -> None:
    settings = make_settings({})
    assert settings == Settings()
    assert (settings.limits.needs, settings.limits.artifact_bytes) == (50, 5242880)
    assert (settings.limits.jobs, settings.limits.name) == (0, 255)
    assert (settings.generate.strategy, settings.generate.interruptible) == ("depend", True)
    assert settings.release.prefix == "rev-"
    assert settings.spack.repo == ""
    assert settings.index == "spack"


def test_stack_wins_key_by_key() -> None:
    project = {
        "limits": {"needs": 10, "jobs": 5},
        "fix": ["first-match"],
        "generate": {"variables": {"A": 1, "B": True}, "tags": ["a"]},
    }
    stack = {
        "limits": {"needs": 0},
        "fix": ["trailing-colon"],
        "generate": {"variables": {"A": "2"}, "tags": ["b"], "before_script": ["x"]},
        "pipeline": {
            "bootstrap": ["gcc", {"name": "llvm", "compiler-agnostic": True}],
            "enable-artifacts-buildcache": True,
        },
    }
    settings = make_settings(project, stack)
    assert (settings.limits.needs, settings.limits.jobs) == (0, 5)
    assert settings.fix == {"trailing-colon"}
    assert settings.generate.variables == {"A": "2", "B": "true"}
    assert settings.generate.tags == ("b",)
    assert settings.generate.before_script == ("x",)
    assert settings.pipeline.enable_artifacts_buildcache
    assert settings.pipeline.bootstrap == (
        Bootstrap(name="gcc"),
        Bootstrap(name="llvm", compiler_agnostic=True),
    )


WRONG: list[tuple[str, Any, str]] = [
    ("not a mapping", [], "stackyard: must be a mapping, is a list"),
    ("unknown key", {"limit": {}}, "stackyard.limit: unknown key\n  hint: did you mean 'limits'?"),
    ("unknown nested", {"limits": {"need": 1}}, "stackyard.limits.need: unknown key\n  hint: did you mean 'needs'?"),
    ("far off", {"limits": {"zzz": 1}}, "known: needs, artifact_bytes, jobs, name"),
    ("text for number", {"limits": {"needs": "50"}}, "stackyard.limits.needs: must be a whole number, is text"),
    ("bool for number", {"limits": {"needs": True}}, "must be a whole number, is true or false (true)"),
    ("negative", {"limits": {"jobs": -1}}, "stackyard.limits.jobs: must be 0 or more, is -1"),
    ("float", {"limits": {"jobs": 1.5}}, "must be a whole number, is a number (1.5)"),
    ("null section", {"limits": None}, "stackyard.limits: must be a mapping, is null"),
    ("choice", {"index": "spak"}, "must be one of spack, stackyard, is 'spak'\n  hint: did you mean 'spack'?"),
    ("choice type", {"generate": {"strategy": 1}}, "stackyard.generate.strategy: must be one of depend, mirror"),
    ("list item", {"generate": {"tags": ["a", 1]}}, "stackyard.generate.tags[1]: must be text"),
    ("variables", {"generate": {"variables": {"A": []}}}, "stackyard.generate.variables.A: must be text or a number or true or false"),
    ("key type", {"generate": {"variables": {1: "x"}}}, "the key 1 must be text"),
    ("fix", {"fix": ["first-mach"]}, "stackyard.fix[0]: unknown fix 'first-mach'\n  hint: did you mean 'first-match'?"),
    ("fix type", {"fix": "first-match"}, "stackyard.fix: must be a list"),
    ("bootstrap", {"pipeline": {"bootstrap": [{}]}}, "stackyard.pipeline.bootstrap[0].name: is missing"),
    ("bootstrap type", {"pipeline": {"bootstrap": [1]}}, "must be text or a mapping, is a whole number (1)"),
    ("flag", {"generate": {"interruptible": "yes"}}, "must be true or false, is text ('yes')"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "part"), [r[1:] for r in WRONG], ids=[r[0] for r in WRONG])
def test_wrong(data: Any, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_settings(data, "invoke.yaml", known_fixes=FIXES, key="stackyard")
    assert str(caught.value).startswith("invoke.yaml: stackyard")
    assert part in str(caught.value)


def test_root_is_the_nearest_folder_with_settings(tmp_path: Path) -> None:
    inner = tmp_path / "a/b"
    (tmp_path / "a/stacks").mkdir(parents=True)
    inner.mkdir()
    assert find_root(inner) == tmp_path / "a"
    (tmp_path / "invoke.yaml").write_text("")
    assert find_root(inner) == tmp_path
    (inner / "invoke.yaml").write_text("")
    assert find_root(inner) == inner


def test_no_root(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no invoke\.yaml"):
        find_root(tmp_path)


READ: list[tuple[str, str, Any]] = [
    ("empty", "", {}),
    ("other keys", "run: {echo: true}\n", {}),
    ("null", "stackyard:\n", {}),
    ("some", "stackyard: {index: stackyard}\n", {"index": "stackyard"}),
]


@pytest.mark.parametrize(("text", "data"), [r[1:] for r in READ], ids=[r[0] for r in READ])
def test_read(tmp_path: Path, text: str, data: Any) -> None:
    assert read_settings(tmp_path) == {}
    (tmp_path / "invoke.yaml").write_text(text)
    assert read_settings(tmp_path) == data


READ_WRONG = [
    ("misspelt", "stackyrd: {}\n", "invoke.yaml: stackyrd: unknown key\n  hint: did you mean 'stackyard'?"),
    ("list", "- a\n", "invoke.yaml: must be a mapping"),
    ("syntax", "a: [\n", "invoke.yaml:2:1: not YAML"),
    ("key", "stackyard: {indx: spack}\n", "invoke.yaml: stackyard.indx: unknown key"),
    ("duplicate", "stackyard: {}\nstackyard: {}\n", "invoke.yaml:2:1: duplicate key 'stackyard'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "part"), [r[1:] for r in READ_WRONG], ids=[r[0] for r in READ_WRONG]
)
def test_read_wrong(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "invoke.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_settings(tmp_path, known_fixes=FIXES)
    assert part in str(caught.value)
    assert caught.value.code == 2


def test_environment_hides_secrets() -> None:
    env = Environment(
        {"SPACK_SIGNING_KEY": "private-key", "GITLAB_TOKEN": "token-2", "A": "public"}
    )
    assert "private-key" not in f"{env!r}{env}"
    assert env.secrets() == ("private-key", "token-2")
    assert env["A"] == env.get("A") == "public"
    assert env.get("B") is None
    assert sorted(env) == ["A", "GITLAB_TOKEN", "SPACK_SIGNING_KEY"]


def test_environment_types() -> None:
    env = Environment(
        {
            "SPACK_PRUNE_UP_TO_DATE": "True",
            "SPACK_PRUNE_UNTOUCHED": "1",
            "SPACK_PRUNE_UNTOUCHED_DEPENDENT_DEPTH": "2",
            "CDASH_AUTH_TOKEN": "old",
        }
    )
    assert env.prune_up_to_date is True
    assert env.prune_untouched is False
    assert Environment({}).prune_untouched is None
    assert env.prune_untouched_dependent_depth == 2
    assert env.cdash_token == "old"
    assert env.ci_stack_name is None
    assert env.ci_job_name == ""
    with pytest.raises(ConfigError, match="whole number"):
        _ = Environment(
            {"SPACK_PRUNE_UNTOUCHED_DEPENDENT_DEPTH": "x"}
        ).prune_untouched_dependent_depth


def test_snapshot_does_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKYARD_TEST", "1")
    env = Environment.snapshot()
    monkeypatch.setenv("STACKYARD_TEST", "2")
    assert env["STACKYARD_TEST"] == "1"
