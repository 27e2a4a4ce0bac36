"""``build`` through the real command line, with a stand-in for Spack; the real one is in integration/."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from building_spack import LEVELS, NODES, TINY, BuildingSpack, Command, key
from conftest import DATA, Answer, Project, Stackyard
from services import S3Server
from signing import Signer, _processes, needs_gpg
from test_copy import named
from test_faults import complete

from stackyard.document import parse_yaml
from stackyard.edges import gpg
from stackyard.edges.files import claimed
from stackyard.padding import PLACEHOLDER

UNSIGNED, SIGNED = DATA / "mirrors" / "v3-unsigned", DATA / "mirrors" / "v3-signed"
FAILED = [["base"], ["data"], ["data+extra"], ["lib@1.0"], ["lib@1.1"]]


@pytest.fixture
def spack(tmp_path: Path) -> BuildingSpack:
    return BuildingSpack(tmp_path / "spack")


@pytest.fixture
def tiny(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("STACKYARD_CACHE", str(tmp_path / "cache"))
    project.stack(TINY.read_bytes(), name="tiny")
    return project


Build = Callable[..., Answer]


@pytest.fixture
def build(tiny: Project, spack: BuildingSpack, stackyard: Stackyard, tmp_path: Path) -> Build:
    def run(*arguments: str, code: int = 0, signed: bool = False) -> Answer:
        flags = () if signed else ("--unsigned",)
        fixed = ("--mirror", str(tmp_path / "mirror"), "--spack", str(spack.folder))
        return stackyard("build", *fixed, *flags, *arguments, code=code)

    return run


def results(answer: Answer) -> dict[str, str]:
    """Name and version of what is in the JSON, and what came of it."""
    found = {}
    for one in json.loads(answer.out)["specs"]:
        why = f": {one['why']}" if one["why"] else ""
        found[next(n for n in sum(LEVELS, ()) if key(n) == one["hash"])] = one["result"] + why
    return found


def log(tmp_path: Path, name: str) -> Path:
    node = NODES[key(name)]
    file = f"{node['name']}-{node['version']}-{node['hash'][:7]}.txt"
    (path,) = (tmp_path / "cache" / "build").glob(f"*/logs/{file}")
    return path


# -- building -------------------------------------------------------------------------------


def test_level_by_level(build: Build, spack: BuildingSpack, tiny: Project, tmp_path: Path) -> None:
    before = tiny.files()
    mirror = tmp_path / "mirror"
    answer = build("--json")
    assert [sorted(n for (n,) in spack.built())] == [sorted(sum(LEVELS, ()))]
    assert spack.built()[0] == ["base"]
    assert spack.built()[-2:] == [["tool"], ["app"]]
    assert spack.pushed() == [sorted(level) for level in LEVELS]
    assert spack.borrowed() == []
    assert set(results(answer).values()) == {"built"}
    assert complete(mirror) == 7
    assert named(mirror) == set(NODES)
    assert "level 2 of 4" in answer.err
    assert "[1/7] tiny-base@1.1/5gkdzpi: built" in answer.err
    assert tiny.files() == before

    spack.forget()
    answer = build("--json")
    assert spack.calls("install") == spack.calls("push") == []
    assert set(results(answer).values()) == {"reused"}
    assert "nothing to build" in answer.err


@pytest.mark.parametrize("here", ["debian12", "fedora42"])
def test_another_system_than_the_locks(
    build: Build, monkeypatch: pytest.MonkeyPatch, here: str
) -> None:
    monkeypatch.setattr("stackyard.edges.host.host_facts", lambda: {"os": lambda: here})
    warned = "locked for debian12, and this machine is fedora42" in build("--no-push").err
    assert warned is (here != "debian12")


def test_the_table_is_what_is_printed(build: Build) -> None:
    answer = build()
    head = "PACKAGE VERSION HASH DECISION SECONDS SIZE RESULT"
    assert " ".join(answer.out.splitlines()[0].split()) == head
    assert answer.out.splitlines()[-1].startswith("7 specs: 7 built; ")
    assert answer.out.count("  build  ") == 7


def test_what_spack_is_told(build: Build, spack: BuildingSpack, tiny: Project) -> None:
    tiny.stack(
        TINY.read_bytes(),
        name="tiny",
        config={"install_tree": {"root": "/opt/x", "padded_length": 99}, "concurrent_packages": 2},
        view=True,
        mirrors={
            "buildcache-destination": {"url": "s3://example-binaries/demo", "signed": False},
            "sources": "https://example.org/sources",
        },
    )
    tiny.write("stacks/tiny/repo/repo.yaml", "repo: {}")
    build("--jobs", "3", "--tree", "the-tree", "--logs", "the-logs")
    call = spack.calls("install")[0]
    at = call["words"].index("install")
    assert call["words"][at + 1 :] == [
        "--only-concrete",
        "--use-buildcache",
        "package:never,dependencies:only",
        "--verbose",
        "--jobs",
        "3",
        f"/{key('base')}",
    ]
    assert call["beside"] == ["repo", "spack.lock", "spack.yaml"]
    assert call["lock"].encode() == TINY.read_bytes()
    manifest = parse_yaml(call["manifest"], "manifest")["spack"]
    assert manifest["view"] is False
    assert manifest["config"] == {
        "install_tree": {"root": str(tiny.root / "the-tree"), "padded_length": 99},
        "concurrent_packages": 2,
    }
    # Sources may come from the stack's mirrors, and binaries only as the plan says.
    assert manifest["mirrors"] == {
        "buildcache-destination": {
            "url": "s3://example-binaries/demo",
            "signed": False,
            "source": False,
            "binary": False,
        },
        "sources": {
            "url": "https://example.org/sources",
            "signed": True,
            "source": True,
            "binary": False,
        },
    }
    assert not Path(call["words"][call["words"].index("-e") + 1]).exists()
    assert len(list((tiny.root / "the-logs").glob("tiny-*.txt"))) == 7


def test_the_log_of_a_package(build: Build, spack: BuildingSpack, tmp_path: Path) -> None:
    spack.does("base", says=["==> tiny-base: Executing phase: 'install'", "done"])
    build()
    assert log(tmp_path, "base").read_text() == (
        "==> tiny-base: Executing phase: 'install'\ndone\n"
    )


def test_a_clean_configuration(
    build: Build, spack: BuildingSpack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SPACK_USER_CONFIG_PATH", "SPACK_SYSTEM_CONFIG_PATH", "SPACK_ENV"):
        monkeypatch.setenv(name, "/somewhere")
    build("--only", "tiny-base")
    for call in (*spack.calls("install"), *spack.calls("push"), *spack.calls("find")):
        assert call["env"]["SPACK_DISABLE_LOCAL_CONFIG"] == "1"
        assert call["env"]["SPACK_USER_CACHE_PATH"] == str(tmp_path / "cache" / "user")
        assert not {"SPACK_USER_CONFIG_PATH", "SPACK_ENV"} & set(call["env"])
    spack.forget()
    build("--keep-config", "--no-prune", "--only", "tiny-base")
    (call,) = spack.calls("install")
    assert call["env"]["SPACK_USER_CONFIG_PATH"] == "/somewhere"
    assert "SPACK_DISABLE_LOCAL_CONFIG" not in call["env"]


@pytest.mark.parametrize(
    ("flags", "config", "expected"),
    [((), {}, 1), (("--concurrent-packages", "4"), {}, 4), ((), {"concurrent_packages": 3}, 3)],
    ids=["alone", "asked for", "by the stack"],
)
def test_packages_at_once(  # noqa: PLR0917
    build: Build,
    spack: BuildingSpack,
    tiny: Project,
    flags: tuple[str, ...],
    config: dict[str, Any],
    expected: int,
) -> None:
    """None of a level's packages ends before so many have begun."""
    tiny.stack(TINY.read_bytes(), name="tiny", config=config)
    answer = build(*flags)
    told = [line.strip() for line in answer.err.splitlines() if " tiny-" in line]
    level = told[told.index("tiny-data@1.1/ov7d5o3: building") :]
    first_end = next(i for i, line in enumerate(level) if "built" in line)
    assert first_end == expected


# -- failures -------------------------------------------------------------------------------


def test_a_failure_stops_only_what_needs_it(
    build: Build, spack: BuildingSpack, tmp_path: Path
) -> None:
    says = [
        "checking for things",
        "==> Error: ProcessError: Command exited with status 2",
        "  >> 5 x",
    ]
    spack.does("lib@1.1", code=3, says=says)
    answer = build("--json", code=1)
    assert sorted(spack.built()) == FAILED
    assert results(answer) == {
        "base": "built",
        "data": "built",
        "data+extra": "built",
        "lib@1.0": "built",
        "lib@1.1": "failed: exit code 3",
        "tool": "skipped: needs tiny-lib@1.1/xiyd5fs",
        "app": "skipped: needs tiny-lib@1.1/xiyd5fs",
    }
    path = log(tmp_path, "lib@1.1")
    assert path.read_text().splitlines() == says
    assert f"FAILED, exit code 3; log: {path}\n    ==> Error: ProcessError" in answer.err
    error = answer.err[answer.err.index("error: ") :]
    assert error.startswith("error: 1 of 7 packages failed (7 specs: 4 built, 1 failed, 2 skipped")
    assert f"\n  tiny-lib@1.1/xiyd5fs: {path}\n  hint: " in error
    assert named(tmp_path / "mirror") == {key(n) for n in ("base", *LEVELS[1])} - {key("lib@1.1")}

    # Mended, it goes on: what is on the mirror is in the tree as well, and not even looked at.
    spack.does("lib@1.1")
    spack.forget()
    answer = build("--json")
    assert spack.built() == [["lib@1.1"], ["tool"], ["app"]]
    assert spack.borrowed() == []
    assert [results(answer)[n] for n in ("base", "lib@1.1", "app")] == ["reused", "built", "built"]
    assert named(tmp_path / "mirror") == set(NODES)


def test_fail_fast(build: Build, spack: BuildingSpack, tmp_path: Path) -> None:
    spack.does("data+extra", code=1)
    assert "one or the other" in build("--fail-fast", "--keep-going", code=2).err
    answer = build("--json", "--fail-fast", code=1)
    found = results(answer)
    assert found["base"] == "built"
    assert found["data+extra"] == "failed: exit code 1"
    assert found["tool"] == found["app"] == "open"
    assert ["tool"] not in spack.built()
    assert named(tmp_path / "mirror") == {key(n) for n, one in found.items() if one == "built"}


def test_the_time_is_over(
    build: Build, spack: BuildingSpack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being built then is stopped, and what was built is pushed; the next run goes on."""
    waiting = spack.folder / "installing"
    clock = SimpleNamespace(monotonic=lambda: 61.0 if waiting.exists() else 0.5)
    monkeypatch.setattr("stackyard.flow.ground.time", clock)
    assert build("--stop-after", "soon", code=2).err.startswith("error: --stop-after: 'soon'")
    spack.does("lib@1.1", waits=True)
    answer = build("--json", "--stop-after", "1", code=1)
    found = results(answer)
    assert "--stop-after: the time is over, and" in answer.err
    assert found["base"] == "built"
    assert found["lib@1.1"] == found["tool"] == found["app"] == "open"
    assert not {"tool", "app"} & {name for names in spack.built() for name in names}
    assert (spack.folder / "installing interrupted").exists()
    assert named(tmp_path / "mirror") == {key(n) for n, one in found.items() if one == "built"}
    waiting.unlink()
    spack.does("lib@1.1")
    build("--stop-after", "1")
    assert named(tmp_path / "mirror") == set(NODES)


def test_a_signal_ends_a_package(build: Build, spack: BuildingSpack) -> None:
    """As the kernel does it to one that takes all the memory."""
    program = spack.folder / "bin" / "spack"
    hook = (
        f"if 'install' in words and hashes == ['{key('data')}']:\n    os.kill(os.getpid(), 9)\n\n"
    )
    program.write_text(program.read_text().replace("def wait(", f"{hook}\ndef wait("))
    answer = build("--json", code=1)
    assert results(answer)["data"] == "failed: signal 9"
    assert results(answer)["lib@1.0"] == "built"


def test_a_push_that_fails_is_made_up_for(
    build: Build, spack: BuildingSpack, tmp_path: Path
) -> None:
    spack.set(push_errors=["==> Error: the disk is full"], passed_over=list(NODES))
    answer = build("--json", code=5)
    assert set(results(answer).values()) == {"kept: push failed: ==> Error: the disk is full"}
    assert answer.err.count("warning: spack buildcache push failed") == 4
    assert "error: spack buildcache push failed" in answer.err
    assert len(spack.built()) == 7
    assert spack.pushed()[-1] == sorted(sum(LEVELS, ()))  # each level tried again what was left
    assert named(tmp_path / "mirror") == set()

    spack.set(push_errors=[], passed_over=[])
    spack.forget()
    answer = build("--json")
    assert spack.built() == []
    assert set(results(answer).values()) == {"pushed"}
    assert named(tmp_path / "mirror") == set(NODES)


def test_what_spack_passes_over(build: Build, spack: BuildingSpack) -> None:
    spack.set(passed_over=[key("data")])
    answer = build("--json")
    assert results(answer)["data"] == "kept: Spack passed it over: may it be redistributed?"
    assert results(answer)["app"] == "built"


def test_a_spec_from_somebodys_folder_is_not_pushed(
    build: Build, spack: BuildingSpack, tiny: Project
) -> None:
    lock = json.loads(TINY.read_bytes())
    lock["concrete_specs"][key("data+extra")]["parameters"]["dev_path"] = "/home/me/data"
    tiny.stack(lock, name="tiny")
    answer = build("--json")
    assert results(answer)["data+extra"].startswith("kept: ")
    assert ["data+extra"] in spack.built()
    assert not any("data+extra" in names for names in spack.pushed())


# -- what is reused -------------------------------------------------------------------------


@contextmanager
def half(tmp_path: Path, source: Path, *there: str) -> Iterator[None]:
    """The mirror has these binaries of the test data, and no index."""
    import shutil

    for name in there:
        (manifest,) = source.rglob(f"*-{key(name)}.spec.manifest.json")
        blobs = [p for p in source.rglob("blobs/*/*/*") if p.name in manifest.read_text()]
        for path in (manifest, *blobs):
            copy = tmp_path / "mirror" / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    yield


def test_what_a_build_needs_comes_from_the_mirror(
    build: Build, spack: BuildingSpack, tmp_path: Path
) -> None:
    with half(tmp_path, UNSIGNED, "base", "data", "data+extra"):
        answer = build("--json", "--only", "tiny-tool", "--only", "tiny-data+extra")
    assert spack.borrowed() == [["base"]]
    assert spack.built() == [["lib@1.1"], ["tool"]]
    found = results(answer)
    assert (found["base"], found["data+extra"], found["tool"]) == ("reused", "reused", "built")
    assert "app" not in found
    (borrowing, first, _) = spack.calls("install")
    manifest = parse_yaml(borrowing["manifest"], "manifest")["spack"]
    url = (tmp_path / "mirror").as_uri()
    assert manifest["mirrors:"] == {"stackyard-source": {"url": url, "signed": False}}
    assert "SPACK_GNUPGHOME" not in borrowing["env"]
    assert url not in first["manifest"]
    sizes = {one["hash"]: one["size_bytes"] for one in json.loads(answer.out)["specs"]}
    assert sizes[key("base")] > 0
    assert sizes[key("data+extra")] is None  # nobody needed it


def test_what_cannot_be_brought(build: Build, spack: BuildingSpack, tmp_path: Path) -> None:
    """One binary that Spack does not take harms only what needs it."""
    spack.set(lacks=[key("data")])
    with half(tmp_path, UNSIGNED, "base", "data", "lib@1.1"):
        answer = build("--json", code=1)
    assert spack.borrowed()[0] == ["base", "data", "lib@1.1"]
    assert spack.borrowed()[1:] in ([["data"], ["lib@1.1"]], [["lib@1.1"], ["data"]], [["data"]])
    found = results(answer)
    assert found["data"] == "failed: its binary could not be installed"
    assert found["app"] == "skipped: needs tiny-data@1.1/ov7d5o3"
    assert found["tool"] == found["lib@1.0"] == "built"
    assert "No binary found" in log(tmp_path, "data").read_text()


@needs_gpg
def test_signatures_are_checked_with_the_stacks_keys(
    build: Build, spack: BuildingSpack, tiny: Project, tmp_path: Path
) -> None:
    spack.set(source=str(SIGNED), secret_keys="sec   rsa4096")
    public = next(SIGNED.rglob("*.key.manifest.json")).name.partition(".")[0]
    with half(tmp_path, SIGNED, "base", "lib@1.1"):
        answer = build("--json", signed=True, code=6)
        assert "there are no keys to check them with" in answer.err
        assert answer.out == ""
        assert spack.calls("install") == []

        signer = Signer()
        signer.key("Somebody <else@example.org>")
        other = signer.public("Somebody <else@example.org>")
        signer.close()
        tiny.write("stacks/tiny/keys/other.pub", other)
        answer = build("--json", signed=True, code=6)
        assert "2 binaries are refused, so nothing is built with them:" in answer.err
        assert spack.calls("install") == []

        tiny.write("stacks/tiny/keys/right.pub", signing_key())
        answer = build("--json", signed=True)
    assert results(answer)["base"] == "reused"
    assert results(answer)["app"] == "built"
    call = next(call for call in spack.calls("install") if "only" in call["words"])
    assert call["keys"] == [public]  # not that of somebody else
    manifest = parse_yaml(call["manifest"], "manifest")["spack"]
    assert manifest["mirrors:"]["stackyard-source"]["signed"] is True
    assert not Path(call["env"]["SPACK_GNUPGHOME"]).exists()


def signing_key() -> bytes:
    """The public key of the signed test mirror."""
    from stackyard.edges.mirrors.keys import published_keys
    from stackyard.edges.stores.folder import FileStore

    (found,) = published_keys(FileStore(SIGNED))
    return found.data


# -- anew, and in part ----------------------------------------------------------------------


def test_everything_anew(build: Build, spack: BuildingSpack, tmp_path: Path) -> None:
    build()
    spack.forget()
    answer = build("--json", "--no-prune")
    assert len(spack.built()) == 7
    assert set(results(answer).values()) == {"built"}
    for call in spack.calls("install"):
        assert call["words"][-3:-1] == ["--overwrite", "--yes-to-all"]
    assert spack.pushed() == [sorted(level) for level in LEVELS]
    assert all("--force" in call["words"] for call in spack.calls("push"))
    assert complete(tmp_path / "mirror") == 7


def test_only(build: Build, spack: BuildingSpack) -> None:
    answer = build("--json", "--only", "tiny-tool")
    assert spack.built() == [["base"], ["lib@1.1"], ["tool"]]
    assert set(results(answer)) == {"base", "lib@1.1", "tool"}
    answer = build("--only", "tiny-tol", code=2)
    assert "--only: 'tiny-tol' holds for no spec" in answer.err
    assert "tiny-tool" in answer.err


def test_nothing_is_pushed(
    build: Build, spack: BuildingSpack, tiny: Project, tmp_path: Path
) -> None:
    """As for a pull request. Built it is, and a later run can push it."""
    spack.does("app", code=1)
    answer = build("--no-push", "--json", code=1)
    assert results(answer) == {
        **dict.fromkeys(sum(LEVELS[:-1], ()), "kept"),
        "app": "failed: exit code 1",
    }
    spack.does("app", code=0)
    answer = build("--no-push", "--json")
    assert set(results(answer).values()) == {"kept"}
    assert spack.calls("push") == []
    assert not (tmp_path / "mirror").exists()
    assert set(results(build("--json")).values()) == {"pushed"}
    assert complete(tmp_path / "mirror") == 7


def test_what_is_not_pushed_needs_no_right_to_push(
    tiny: Project, spack: BuildingSpack, stackyard: Stackyard
) -> None:
    pair = {"id_variable": "MY_ID", "secret_variable": "MY_SECRET"}
    mirror = {"url": UNSIGNED.as_uri(), "signed": True, "access_pair": pair}
    tiny.stack(TINY.read_bytes(), name="tiny", mirrors={"buildcache-destination": mirror})
    arguments = ("build", "--spack", str(spack.folder), "--only", "tiny-base", "--json")
    assert "the variable MY_ID is not set" in stackyard(*arguments, code=2).err
    answer = stackyard(*arguments, "--no-push")
    assert results(answer) == {"base": "reused"}


def test_the_index_is_left(build: Build, stackyard: Stackyard, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    assert set(results(build("--no-index", "--json")).values()) == {"built"}
    assert named(mirror) == set()
    stackyard("mirror.index", "--url", str(mirror))
    assert named(mirror) == set(NODES)


# -- before anything is built ---------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--jobs", "--concurrent-packages"])
@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "99999"])
def test_numbers(build: Build, spack: BuildingSpack, flag: str, value: str) -> None:
    answer = build(f"{flag}={value}", code=2)
    assert f"{flag}: {value!r} is no number" in answer.err
    assert spack.calls("install") == []


def test_a_base_image_has_the_name_of_one(build: Build, spack: BuildingSpack) -> None:
    assert "'-x' is not the name of an image" in build("--base-image=-x", code=2).err
    assert spack.calls("--version") == []


def test_no_mirror(tiny: Project, stackyard: Stackyard) -> None:
    tiny.write(
        "stacks/tiny/spack.yaml", "spack: {specs: [tiny-app, tiny-data+extra, tiny-lib@1.0]}"
    )
    answer = stackyard("build", code=2)
    assert "--mirror: no mirror is named" in answer.err


def test_no_key_to_sign_with(build: Build, spack: BuildingSpack, tmp_path: Path) -> None:
    answer = build(signed=True, code=2)
    assert "$SPACK_SIGNING_KEY: the mirror wants signed binaries" in answer.err
    assert "--unsigned" in answer.err
    assert spack.calls("install") == []
    assert not (tmp_path / "mirror").exists()


def test_a_path_is_that_of_the_stacks_mirror(
    spack: BuildingSpack, tiny: Project, stackyard: Stackyard
) -> None:
    """It brings what its entry says: here that nothing is signed."""
    tiny.stack(TINY.read_bytes(), name="tiny", mirror="../../m")
    for name in ("m", str(tiny.root / "m"), "buildcache-destination"):
        stackyard("build", "--mirror", name, "--no-prune", "--spack", str(spack.folder))
    stackyard("build", "--no-prune", "--spack", str(spack.folder))
    assert named(tiny.root / "m") == set(NODES)
    assert all("--unsigned" in call["words"] for call in spack.calls("push"))
    assert len(spack.calls("push")) == 16


@needs_gpg
def test_the_key_signs_each_push_and_no_build_sees_it(
    build: Build,
    spack: BuildingSpack,
    tiny: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signer = Signer()
    fingerprint = signer.key("CI <ci@example.org>")
    value = base64.b64encode(signer("--armor", "--export-secret-keys")).decode()
    tiny.write("stacks/tiny/keys/right.pub", signing_key())
    tiny.write("stacks/tiny/keys/ci.pub", signer.public("CI <ci@example.org>"))
    signer.close()
    monkeypatch.setenv("SPACK_SIGNING_KEY", value)
    spack.set(source=str(SIGNED))
    answer = build(signed=True)
    assert "warning" not in answer.err
    assert len(spack.calls("push")) == 4
    for call in spack.calls("push"):
        assert call["words"][call["words"].index("--key") + 1] == fingerprint
        assert not Path(call["env"]["SPACK_GNUPGHOME"]).exists()
    for call in (*spack.calls("install"), *spack.calls("push")):
        assert value not in json.dumps(call)
    assert named(tmp_path / "mirror") == set(NODES)

    (tiny.root / "stacks/tiny/keys/ci.pub").unlink()
    answer = build("--no-prune", signed=True)
    assert f"the key that signs, {fingerprint}, is not among those" in answer.err
    monkeypatch.setenv("SPACK_SIGNING_KEY", "nonsense")
    spack.forget()
    assert "$SPACK_SIGNING_KEY" in build("--no-prune", signed=True, code=2).err
    assert spack.calls("install") == []


def test_other_padding_than_on_the_mirror(
    build: Build, spack: BuildingSpack, tmp_path: Path
) -> None:
    spack.set(root=f"/opt/{PLACEHOLDER}/{PLACEHOLDER}/tree")
    with half(tmp_path, UNSIGNED, "base"):
        answer = build(code=6)
    assert "padded_length" in answer.err
    assert "--force" not in answer.err
    assert spack.calls("install") == []


def test_a_mirror_that_only_reads(
    build: Build, spack: BuildingSpack, tiny: Project, stackyard: Stackyard
) -> None:
    fixed = ("--unsigned", "--no-prune", "--spack", str(spack.folder))
    answer = stackyard("build", "--mirror", "https://127.0.0.1:1/m", *fixed, code=6)
    assert "https://127.0.0.1:1/m: a mirror behind http(s) can only be read" in answer.err
    assert spack.calls("install") == []


def test_what_spack_lacks_is_known_before(
    spack: BuildingSpack,
    tiny: Project,
    stackyard: Stackyard,
    moto: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in moto.variables.items():
        monkeypatch.setenv(name, value)
    spack.set(python_lacks="ModuleNotFoundError: No module named 'boto3'")
    arguments = ("build", "--mirror", moto.bucket(), "--unsigned", "--spack", str(spack.folder))
    answer = stackyard(*arguments, code=5)
    assert "No module named 'boto3'\n  hint: install boto3 into the Python that runs" in answer.err
    assert spack.calls("install") == []


def test_an_old_spack(build: Build, spack: BuildingSpack) -> None:
    spack.set(version="0.23.1")
    assert "build with Spack 1.0 or newer" in build(code=2).err


def test_one_at_a_time(build: Build, spack: BuildingSpack, tmp_path: Path) -> None:
    build("--only", "tiny-base")
    (folder,) = (tmp_path / "cache" / "build").iterdir()
    with claimed(folder, "a test"):
        answer = build(code=1)
    assert "another build of the stack is going on there" in answer.err
    build()


def test_each_mirror_has_its_own_tree(
    build: Build, spack: BuildingSpack, stackyard: Stackyard, tmp_path: Path
) -> None:
    """What came from a mirror that nobody signs never gets onto one that is signed."""
    build("--only", "tiny-base")
    other = ("--mirror", str(tmp_path / "other"), "--unsigned", "--spack", str(spack.folder))
    stackyard("build", "--only", "tiny-base", *other)
    spack.set(secret_keys="sec", source=str(SIGNED))
    build("--no-prune", "--only", "tiny-base", signed=True)
    trees = {
        parse_yaml(call["manifest"], "m")["spack"]["config"]["install_tree"]["root"]
        for call in spack.calls("install")
    }
    assert len(trees) == 3


# -- secrets --------------------------------------------------------------------------------


def test_no_secret_gets_to_a_build_or_into_a_log(
    build: Build,
    spack: BuildingSpack,
    tiny: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stand-in prints all its variables while it pushes."""
    secrets = {"AWS_SECRET_ACCESS_KEY": "aws-secret-word", "GITLAB_TOKEN": "glpat-secret-word"}
    pair = {"id_variable": "MY_ID", "secret_variable": "MY_SECRET"}
    entry = {"url": str(tmp_path / "mirror"), "signed": False, "access_pair": pair}
    tiny.stack(TINY.read_bytes(), name="tiny", mirrors={"target": entry})
    for name, value in (secrets | {"MY_ID": "me", "MY_SECRET": "own-secret-word"}).items():
        monkeypatch.setenv(name, value)
    spack.does("base", says=["the word is glpat-secret-word, and own-secret-word"])
    answer = build()
    for call in spack.calls("install"):
        assert "secret-word" not in json.dumps(call)
        assert call["env"]["MY_ID"] == "me"
    pushing = spack.calls("push")[0]
    assert pushing["env"]["MY_SECRET"] == "own-secret-word"
    assert not any("secret-word" in word for word in pushing["words"])
    assert "secret-word" not in answer.out + answer.err
    written = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(written) > 8
    assert [path for path in written if b"secret-word" in path.read_bytes()] == []
    assert log(tmp_path, "base").read_text() == "the word is ***, and ***\n"


# -- Ctrl-C ---------------------------------------------------------------------------------


def started(spack: BuildingSpack, project: Project, mirror: Path) -> Command:
    fixed = ("--mirror", str(mirror), "--unsigned", "--spack", str(spack.folder), "--json")
    return Command(project.root, "build", *fixed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_while_it_builds(
    tiny: Project,
    spack: BuildingSpack,
    build: Build,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    """Nothing runs on, nothing is half there, and the next run goes on."""
    mirror = tmp_path / "mirror"
    spack.does("lib@1.1", waits=True, starts_a_child=True)
    command = started(spack, tiny, mirror)
    command.until(spack.folder / "installing")
    command.signal(number)
    answer = command.end()
    assert answer.code == 1
    assert "error: stopped\n  hint: run this again" in answer.err
    assert "Traceback" not in answer.err
    assert (spack.folder / "installing interrupted").exists()
    assert _processes(str(spack.folder)) == []
    found = results(answer)
    assert (found["base"], found["lib@1.1"], found["app"]) == ("built", "open", "open")
    assert found["data"] == "kept: stopped before it was pushed"
    assert named(mirror) == {key("base")}
    assert complete(mirror) == 1

    spack.does("lib@1.1")
    spack.forget()
    answer = build("--json")
    assert spack.built()[-3:] == [["lib@1.1"], ["tool"], ["app"]] or ["lib@1.0"] in spack.built()
    assert ["data"] not in spack.built()
    assert results(answer)["data"] == "pushed"
    assert named(mirror) == set(NODES)


def test_stopped_while_it_pushes(tiny: Project, spack: BuildingSpack, tmp_path: Path) -> None:
    """The push comes to its end first, index and all."""
    mirror = tmp_path / "mirror"
    spack.set(push_waits=True)
    command = started(spack, tiny, mirror)
    command.until(spack.folder / "pushing")
    command.signal(signal.SIGINT)
    command.told("this stops when what is being pushed is on the mirror")
    (spack.folder / "go").touch()
    answer = command.end()
    assert answer.code == 1
    assert not (spack.folder / "pushing interrupted").exists()
    assert "error: stopped" in answer.err
    assert named(mirror) == {key("base")}
    assert complete(mirror) == 1
    assert results(answer)["base"] == "built"
    assert results(answer)["data"] == "open"


def test_who_does_not_hear_is_killed(tiny: Project, spack: BuildingSpack, tmp_path: Path) -> None:
    """Two Ctrl-C in a row: the second one ends the patience."""
    spack.does("base", waits=True, is_deaf=True)
    command = started(spack, tiny, tmp_path / "mirror")
    command.until(spack.folder / "installing")
    command.signal(signal.SIGINT)
    command.told("Ctrl-C once more kills it")
    command.signal(signal.SIGINT)
    answer = command.end()
    assert answer.code == 1
    assert "error: stopped" in answer.err
    assert _processes(str(spack.folder)) == []
    assert named(tmp_path / "mirror") == set()


def test_no_keyring_is_left(
    build: Build, spack: BuildingSpack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    real = gpg.Home.__init__

    def remember(self: gpg.Home, path: Path) -> None:
        opened.append(path)
        real(self, path)

    monkeypatch.setattr(gpg.Home, "__init__", remember)
    spack.set(source=str(SIGNED), secret_keys="sec")
    (tmp_path / "project/stacks/tiny/keys").mkdir()
    (tmp_path / "project/stacks/tiny/keys/right.pub").write_bytes(signing_key())
    with half(tmp_path, SIGNED, "base"):
        build(signed=True)
    assert opened
    assert not any(path.exists() for path in opened)
