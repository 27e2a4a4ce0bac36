"""``reproduce``: artifacts that come from anywhere, and the scripts that are made of them."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import stat
import struct
import subprocess
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, Stackyard
from fake_gitlab import FakeGitLab, Job, fake_gitlab
from fake_service import Fault

from stackyard.edges import unzip
from stackyard.edges.containers import Engine, find_engine
from stackyard.edges.git_export import export_commit, has_commit
from stackyard.edges.unzip import Limits, unpack
from stackyard.errors import ConfigError, CorruptError, StackyardError, ToolError
from stackyard.pins import PACKAGES_REPO, SPACK_REPO, Pin
from stackyard.reproduce import (
    Details,
    Found,
    JobUrl,
    Needs,
    locate,
    mirror_needs,
    packages_pin,
    parse_details,
    parse_job_url,
    project_paths,
    read_job,
    spack_pin,
)
from stackyard.reproduce import Job as JobRead
from stackyard.rerun import Container, container_words, install_text, job_script

TOKEN = "glpat-never-to-be-seen"
COMMIT = "c" * 40
HASH = "abcdefghijklmnopqrstuvwxyz234567"
NAME = f"zlib@1.3 /{HASH}"
SHELLS = [shell for shell in ("dash", "bash", "sh") if shutil.which(shell)]


# -- URLs -----------------------------------------------------------------------------------


URLS = [
    ("https://gitlab.com/g/p/-/jobs/7", JobUrl("https://gitlab.com", "g/p", 7)),
    ("https://gitlab.com/g/s/p.x/-/jobs/7/", JobUrl("https://gitlab.com", "g/s/p.x", 7)),
    ("https://gitlab.com/g/p/-/jobs/7/artifacts/download", JobUrl("https://gitlab.com", "g/p", 7)),
    ("https://gitlab.com/g/p/-/jobs/7#L12", JobUrl("https://gitlab.com", "g/p", 7)),
    ("http://x:8080/g/p/builds/7?a=b", JobUrl("http://x:8080", "g/p", 7)),
    ("https://x/api/v4/projects/12/jobs/7/artifacts", JobUrl("https://x", "12", 7)),
    ("https://x/api/v4/projects/g%2Fp/jobs/7", JobUrl("https://x", "g/p", 7)),
    ("https://own.org/lab/g/p/-/jobs/7", JobUrl("https://own.org/lab", "g/p", 7)),
    ("https://own.org/lab/api/v4/projects/1/jobs/7", JobUrl("https://own.org/lab", "1", 7)),
    ("https://own.org/label/g/-/jobs/7", JobUrl("https://own.org", "label/g", 7)),
]


@pytest.mark.parametrize(("url", "expected"), URLS)
def test_job_urls(url: str, expected: JobUrl) -> None:
    assert parse_job_url(url, "https://own.org/lab") == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "g/p/-/jobs/7",
        "ftp://gitlab.com/g/p/-/jobs/7",
        "https://gitlab.com/g/p/-/pipelines/7",
        "https://gitlab.com/g/p/-/jobs/x",
        "https://gitlab.com/g/-/jobs/7",
        "https://gitlab.com/g/../p/-/jobs/7 ",
        "https://gitlab.com/g/p%2F..%2Fx?/-/jobs/7",
        "https://[/g/p/-/jobs/7",
        "https://gitlab.com:port/g/p/-/jobs/7",
        "https://me:secret@gitlab.com/g/p/-/jobs/7?private_token=secret",
    ],
)
def test_what_is_no_job(url: str) -> None:
    with pytest.raises(ConfigError, match="is not the URL of a job on GitLab") as caught:
        parse_job_url(url, "https://gitlab.com")
    assert "secret" not in str(caught.value)


# -- what the artifacts say -----------------------------------------------------------------


R = "jobs_scratch_dir/reproduction"
FILES = [f"{R}/{n}" for n in ("repro.json", "spack.lock", "spack.yaml", "pipeline.yml")]


def test_locate() -> None:
    more = [
        *FILES,
        f"{R}/install.sh",
        f"{R}/spack_info.txt",
        "a/other.yaml",
        "z.yml",
        "x/spack.lock",
    ]
    assert locate(more, "x") == Found(
        FILES[0],
        FILES[1],
        FILES[2],
        (f"{R}/pipeline.yml", "z.yml", "a/other.yaml"),
        f"{R}/install.sh",
        f"{R}/spack_info.txt",
    )
    assert locate(FILES, "x").install == locate(FILES, "x").info == ""
    elsewhere = ["a/repro.json", "b/spack.lock", "b/spack.yaml"]
    assert locate(elsewhere, "x") == Found("a/repro.json", "b/spack.lock", "b/spack.yaml", ())


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([], "there is no repro.json"),
        (["a/repro.json", "b/repro.json"], "there is 2 files repro.json"),
        (["repro.json"], "no spack.lock with a spack.yaml"),
        (["repro.json", "spack.lock", "a/spack.yaml"], "no spack.lock with a spack.yaml"),
    ],
)
def test_what_is_missing(files: list[str], says: str) -> None:
    with pytest.raises(CorruptError, match=says):
        locate(files, "x.zip")


def details(**more: object) -> bytes:
    good = {"job_name": NAME, "job_spec_json": "zlib.json", "ci_project_dir": "/builds/g/p"}
    return json.dumps({**good, **more}).encode()


def test_details() -> None:
    assert parse_details(details(), "x") == Details(NAME, "zlib.json", "/builds/g/p")
    assert parse_details(details(ci_project_dir="/builds/g/p/"), "x").project_dir == "/builds/g/p"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        details(job_name=None),
        details(ci_project_dir="builds/g"),
        details(ci_project_dir="/builds/../etc"),
        details(ci_project_dir="/builds/a:b"),
        details(ci_project_dir="/builds/a\nb"),
        details(ci_project_dir="/"),
        details(ci_project_dir=""),
    ],
)
def test_bad_details(data: bytes) -> None:
    with pytest.raises(CorruptError, match=r"^repro\.json: "):
        parse_details(data, "repro.json")


PIPELINE = {
    "stages": ["stage-0"],
    "variables": {
        "SPACK_CONCRETE_ENV_DIR": "jobs_scratch_dir/concrete_environment",
        "SPACK_CHECKOUT_VERSION": COMMIT,
        "REGISTRY": "registry.example.com/$GROUP",
        "GROUP": "g",
    },
    ".base": {"image": "old:1", "variables": {"A": "base", "B": "base"}, "tags": ["x"]},
    ".build": {
        "extends": ".base",
        "image": {"name": "$REGISTRY/builder:${TAG}", "entrypoint": [""]},
        "variables": {"B": True, "TAG": 2},
        "before_script": ["one", ["two", ["three"]]],
    },
    NAME: {
        "extends": [".build"],
        "stage": "stage-0",
        "variables": {
            "SPACK_JOB_SPEC_DAG_HASH": HASH,
            "SPACK_JOB_SPEC_PKG_NAME": "zlib",
            "C": {"value": "c", "description": "x"},
        },
    },
}


def pipeline(**more: Any) -> bytes:
    return json.dumps({**PIPELINE, **more}).encode()


def test_the_job() -> None:
    job = read_job([("a.yml", b"- 1"), ("b.yml", b"\t"), ("p.yml", pipeline())], NAME, "x")
    assert job.image == "registry.example.com/g/builder:2"
    assert job.entrypoint
    assert job.tags == ("x",)
    assert job.before_script == ("one", "two", "three")
    assert (job.hash, job.package, job.stack) == (HASH, "zlib", "")
    assert job.environment == "jobs_scratch_dir/concrete_environment"
    assert {name: job.variables[name] for name in ("A", "B", "C", "TAG", "GROUP")} == {
        "A": "base",
        "B": "true",
        "C": "c",
        "TAG": "2",
        "GROUP": "g",
    }


def test_a_job_of_defaults() -> None:
    default = {"image": "builder:1", "before_script": ["x"]}
    job = read_job([("p.yml", pipeline(default=default, **{NAME: {"script": []}}))], NAME, "x")
    assert (job.image, job.entrypoint, job.before_script) == ("builder:1", False, ("x",))
    job = read_job([("p.yml", pipeline(**{NAME: {"script": []}}))], NAME, "x")
    assert (job.image, job.tags) == ("", ())


@pytest.mark.parametrize(
    ("name", "stack"),
    [("tutorial", "tutorial"), ("None", ""), ("../x", ""), ("a/b", ""), ("..", ""), ("", "")],
)
def test_the_stack(name: str, stack: str) -> None:
    assert JobRead("x", "y", {"SPACK_CI_STACK_NAME": name}).stack == stack


BAD_JOBS: list[tuple[str, bytes, str]] = [
    ("another name", pipeline(**{NAME: None, "zlib@1.3 /x": {}}), "cannot be read"),
    ("a text", pipeline(**{NAME: "x"}), "cannot be read"),
    ("a circle", pipeline(**{NAME: {"extends": NAME}}), "cannot be read"),
    ("a number for a parent", pipeline(**{NAME: {"extends": 5}}), "cannot be read"),
    ("nobody's parent", pipeline(**{NAME: {"extends": ".x"}}), "cannot be read"),
    ("no environment", pipeline(variables={}), "is '', which is no folder"),
    ("one outside", pipeline(variables={"SPACK_CONCRETE_ENV_DIR": "../x"}), "no folder of the"),
    ("one from the root", pipeline(variables={"SPACK_CONCRETE_ENV_DIR": "/x"}), "no folder of"),
    ("a variable", pipeline(**{NAME: {"variables": {"A-B": "x"}}}), "'A-B' cannot be a variable"),
    ("a NUL", pipeline(**{NAME: {"variables": {"A": "\0"}}}), "'A' cannot be a variable"),
    ("an option", pipeline(**{NAME: {"image": "--privileged"}}), "cannot be the name of an image"),
    ("two words", pipeline(**{NAME: {"image": "a b"}}), "cannot be the name of an image"),
]


@pytest.mark.parametrize(("data", "says"), [b[1:] for b in BAD_JOBS], ids=[b[0] for b in BAD_JOBS])
def test_bad_jobs(data: bytes, says: str) -> None:
    with pytest.raises(CorruptError, match=says):
        read_job([("p.yml", data)], NAME, "x")


def test_what_is_short_stays_short() -> None:
    """A few lines that name each other over and over keep nobody busy, and fill no memory."""
    ladder = {f".{n}": {"extends": [f".{n - 1}"] * 50} for n in range(1, 11)}
    bottom = {".0": {"image": "builder:1"}}
    data = pipeline(**ladder, **bottom, **{NAME: {"extends": ".10"}})
    assert read_job([("p.yml", data)], NAME, "x").image == "builder:1"
    variables = {f"V{n}": f"${{V{n - 1}}}" * 50 for n in range(1, 12)}
    own = {"image": "$V11", "variables": {**variables, "V0": "x"}}
    with pytest.raises(CorruptError, match="cannot be the name of an image"):
        read_job([("p.yml", pipeline(**{NAME: own}))], NAME, "x")


def test_no_such_job() -> None:
    with pytest.raises(CorruptError, match=r"no job 'zlib@1\.3 /x'") as caught:
        read_job([("p.yml", pipeline())], "zlib@1.3 /x", "x")
    assert NAME in caught.value.hint
    with pytest.raises(CorruptError, match="pipeline's file is not among the artifacts"):
        read_job([("p.yml", b"a: 1")], NAME, "x")


PINNED = {"SPACK_CHECKOUT_VERSION": COMMIT}
SPACKS = [
    (
        f"\ncommit {'d' * 40}\nAuthor: x\n\n    Merge a into b\n",
        {},
        Pin(SPACK_REPO, "", "d" * 40),
        0,
    ),
    (f"commit {'d' * 40}", PINNED, Pin(SPACK_REPO, "", "d" * 40), 1),
    (f"commit {COMMIT}", {**PINNED, "SPACK_REPO": "/srv/spack"}, Pin("/srv/spack", "", COMMIT), 0),
    ("", PINNED, Pin(SPACK_REPO, "", COMMIT), 0),
    ("", {"SPACK_CHECKOUT_VERSION": "v1.1.0"}, Pin(SPACK_REPO, "v1.1.0"), 0),
    ("no git repo, use spack 1.1.0\n", {}, Pin(SPACK_REPO, "v1.1.0"), 0),
]


@pytest.mark.parametrize(("info", "variables", "pin", "warnings"), SPACKS)
def test_which_spack(info: str, variables: dict[str, str], pin: Pin, warnings: int) -> None:
    warned: list[str] = []
    assert spack_pin(info, variables, warned.append) == pin
    assert len(warned) == warnings


@pytest.mark.parametrize("variables", [{}, {"SPACK_CHECKOUT_VERSION": "None"}])
def test_no_spack(variables: dict[str, str]) -> None:
    with pytest.raises(CorruptError, match="do not say which Spack"):
        spack_pin("whatever", variables, pytest.fail)


@pytest.mark.parametrize(
    "variables",
    [
        {"SPACK_CHECKOUT_VERSION": "--upload-pack=x"},
        {"SPACK_CHECKOUT_VERSION": "$(id)"},
        {**PINNED, "SPACK_REPO": "ext::sh -c id"},
        {**PINNED, "SPACK_REPO": "-x"},
    ],
)
def test_a_spack_that_nobody_fetches(variables: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        spack_pin("", variables, pytest.fail)


def test_which_packages() -> None:
    pinned = Pin("/srv/packages", "", COMMIT)
    assert packages_pin({}, pinned) == pinned
    assert packages_pin({"SPACK_PACKAGES_CHECKOUT_VERSION": "None"}, None) is None
    told = {"SPACK_PACKAGES_CHECKOUT_VERSION": "d" * 40}
    assert packages_pin(told, pinned) == Pin(PACKAGES_REPO, "", "d" * 40)
    told = {"SPACK_PACKAGES_CHECKOUT_VERSION": "v1", "SPACK_PACKAGES_REPO": "/srv/x"}
    assert packages_pin(told, None) == Pin("/srv/x", "v1")
    with pytest.raises(ConfigError):
        packages_pin({"SPACK_PACKAGES_CHECKOUT_VERSION": "-x"}, None)


def test_what_the_mirrors_need() -> None:
    mirrors: dict[str, Any] = {
        "a": "file:///srv/mirror/",
        "b": {"url": "s3://bucket/x", "access_pair": {"id_variable": "MY_ID"}},
        "c": {"push": {"url": "file:///srv/a%20b", "access_token_variable": "MY_TOKEN"}},
        "d": {"fetch": "file:///srv/../etc", "access_pair": {"secret_variable": "$(id)"}},
        "e": None,
    }
    found = mirror_needs({"mirrors": mirrors})
    assert found.folders == ("/srv/mirror", "/srv/a b")
    assert [name for name in found.variables if name.startswith("MY_")] == ["MY_ID", "MY_TOKEN"]
    assert "AWS_SECRET_ACCESS_KEY" in found.variables
    assert mirror_needs({}) == mirror_needs(None) == mirror_needs({"mirrors": []}) == Needs()


def test_paths_in_the_project() -> None:
    include: list[Any] = [
        "../x.yaml",
        {"path": "y", "when": "True"},
        "/abs",
        "$spack/x",
        "~/x",
        "https://x/y",
    ]
    include += [{"git": "x", "path": "z"}, None]
    assert project_paths({"include": include}) == ("../x.yaml", "y")
    assert project_paths({}) == project_paths({"include": "x"}) == project_paths(None) == ()


# -- scripts --------------------------------------------------------------------------------


def job(**variables: str) -> JobRead:
    own = {"SPACK_JOB_SPEC_DAG_HASH": HASH, "SPACK_JOB_SPEC_PKG_NAME": "zlib"}
    return JobRead(NAME, "env dir/x", {**own, **variables})


ODD = [
    ("plain", "plain"),
    ('it\'s "a" `id` \\ b\nc', 'it\'s "a" `id` \\ b\nc'),
    ("$(id) $$HOME ${X}-$X-$Y", "$(id) $HOME 7-7-"),
    ("$5 $-x `id` $", "$5 $-x `id` $"),
    ('\\$X "$X"', '\\7 "7"'),
    ("ümlaut \u2028 $X", "ümlaut \u2028 7"),
]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("value", "expected"), ODD)
def test_values_of_variables(shell: str, value: str, expected: str, tmp_path: Path) -> None:
    """As GitLab fills them, and never a command."""
    text = job_script(job(V=value, X="7"), Pin("/srv/x", "", COMMIT), None, before_script=False)
    head = text[: text.index("stackyard_say()")]
    script = tmp_path / "x.sh"
    script.write_text(head + '\nprintf "%s" "$V"\n')
    (tmp_path / "project").mkdir()
    done = subprocess.run([shell, str(script)], check=True, capture_output=True, env=_clean())
    assert done.stdout.decode() == expected
    assert done.stderr == b""


def _clean() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}


def test_the_pins_win() -> None:
    """What the job ran with, whatever its variables say."""
    given = {"SPACK_CHECKOUT_VERSION": "main", "SPACK_PACKAGES_REPO": "x", "CI_PROJECT_DIR": "y"}
    text = job_script(job(**given), Pin("/srv/x", "", COMMIT), None, before_script=False)
    exported = [line for line in text.splitlines() if line.startswith("export ")]
    assert f"export SPACK_CHECKOUT_VERSION={COMMIT}" in exported
    assert "export SPACK_PACKAGES_REPO=''" in exported
    names = [line.split()[1].partition("=")[0] for line in exported]
    assert len(names) == len(set(names))


def test_before_script() -> None:
    made = job()._replace(before_script=("export A=1", "two\nlines\rmore"))
    pin = Pin("/srv/x", "", COMMIT)
    quiet = job_script(made, pin, None, before_script=False)
    assert "\n# export A=1\n# two\n# lines\n# more\n" in quiet
    assert "\nexport A=1\ntwo\nlines" in job_script(made, pin, None, before_script=True)


@pytest.mark.parametrize("name", ["x\nrm -rf /", "x\rrm", "x\u2028y"])
def test_names_stay_in_their_comment(name: str) -> None:
    text = job_script(job()._replace(name=name), Pin("/x", "", COMMIT), None, before_script=False)
    assert text.splitlines()[1].startswith("# The job x ")
    assert text.splitlines()[2].startswith("# Made by")


def test_install_text() -> None:
    original = (
        '"spack" "-e" "/builds/g/p/jobs_scratch_dir/env" "bootstrap" "now"\n'
        '"spack" "install" "/abc" "--x=/builds/g/p/y"\n'
    )
    assert install_text(original, job(), "/builds/g/p") == (
        '"spack" "-e" "$CI_PROJECT_DIR/jobs_scratch_dir/env" "bootstrap" "now"\n'
        '"spack" "install" "/abc" "--x=/builds/g/p/y"\n'
    )
    made = install_text("", job(), "/builds/g/p")
    assert f"--only=package /{HASH}\n" in made
    assert made.startswith("#!/bin/sh\nset -e\n")


def test_the_command() -> None:
    box = Container(
        ("podman",),
        "builder:1",
        "/home/me/a b",
        "/builds/g/p",
        folders=("/srv/m",),
        variables=("A",),
        options=("--network=host",),
    )
    words = container_words(box)
    assert words == [
        *("podman", "run", "--rm"),
        *("-v", "/home/me/a b:/reproduce:ro,Z"),
        *("-v", "/home/me/a b/cache:/reproduce/cache:Z"),
        *("-v", "/home/me/a b/project:/builds/g/p:Z"),
        *("-v", "/srv/m:/srv/m:ro"),
        *("-e", "A", "--network=host", "builder:1"),
        *("/bin/sh", "/reproduce/reproduce.sh", "/builds/g/p"),
    ]
    other = container_words(box._replace(entrypoint=True), shell=True)  # noqa: S604
    assert other[3] == "-it"
    assert other[-6:] == [
        *("--entrypoint", "/bin/sh", "builder:1"),
        *("/reproduce/reproduce.sh", "/builds/g/p", "shell"),
    ]


# -- unpacking ------------------------------------------------------------------------------


def packed(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return data.getvalue()


def entry(name: str, mode: int = 0o644 | stat.S_IFREG, system: int = 3) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.filename = name  # as it is: the constructor makes it tame
    info.external_attr = mode << 16
    info.create_system = system
    return info


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A folder below which all has to happen."""
    path = tmp_path / "box"
    path.mkdir()
    (tmp_path / "secret").write_text("untouched")
    return path


def unpacked(box: Path, data: bytes, limits: Limits | None = None) -> tuple[str, ...]:
    (box / "a.zip").write_bytes(data)
    return unpack(box / "a.zip", box / "out", limits or Limits())


def test_unpack(box: Path) -> None:
    data = packed(
        (entry("a/", 0o755 | stat.S_IFDIR), b""),
        (entry("a/b.txt", 0o600 | stat.S_IFREG), b"b" * 10_000),
        (entry("a/run.sh", 0o6755 | stat.S_IFREG), b"#!"),
        (entry("c/d/ü", 0o4777 | stat.S_IFREG), b""),
        (entry("dos", 0o755, system=0), b"x"),
        (entry("empty/", 0o000 | stat.S_IFDIR), b""),
    )
    assert unpacked(box, data) == ("a/b.txt", "a/run.sh", "c/d/ü", "dos")
    out = box / "out"
    modes = {p.relative_to(out).as_posix(): p.stat().st_mode for p in sorted(out.rglob("*"))}
    assert modes == {
        "a": 0o755 | stat.S_IFDIR,
        "a/b.txt": 0o644 | stat.S_IFREG,
        "a/run.sh": 0o755 | stat.S_IFREG,
        "c": 0o755 | stat.S_IFDIR,
        "c/d": 0o755 | stat.S_IFDIR,
        "c/d/ü": 0o755 | stat.S_IFREG,
        "dos": 0o644 | stat.S_IFREG,
        "empty": 0o755 | stat.S_IFDIR,
    }
    assert (out / "a/b.txt").read_bytes() == b"b" * 10_000
    assert sorted(path.name for path in box.iterdir()) == ["a.zip", "out"]


HOSTILE: list[tuple[str, list[zipfile.ZipInfo], str]] = [
    ("up", [entry("../secret")], "it leads elsewhere"),
    ("up, deep", [entry("a/../../secret")], "it leads elsewhere"),
    ("here", [entry("./a")], "it leads elsewhere"),
    ("nothing between", [entry("a//b")], "it leads elsewhere"),
    ("from the root", [entry("/etc/passwd")], "it is no relative path"),
    ("two slashes", [entry("//server/share")], "it is no relative path"),
    ("a drive", [entry("C:/x")], "it is no relative path"),
    ("backslashes", [entry("..\\secret")], "strange characters"),
    ("a NUL", [entry("a\0b")], "strange characters"),
    ("a line break", [entry("a\nb")], "strange characters"),
    ("an escape", [entry("a\x1b[2J")], "strange characters"),
    ("right to left", [entry("a\u202eb")], "strange characters"),
    ("no name", [entry("")], "it leads elsewhere"),
    ("only a slash", [entry("/")], "it is no relative path"),
    ("a link", [entry("a", 0o777 | stat.S_IFLNK)], "a link or a device"),
    ("a fifo", [entry("a", 0o644 | stat.S_IFIFO)], "a link or a device"),
    ("a device", [entry("a", 0o644 | stat.S_IFBLK)], "a link or a device"),
    ("a socket", [entry("a", 0o644 | stat.S_IFSOCK)], "a link or a device"),
    ("a file like a folder", [entry("a/", 0o644 | stat.S_IFREG)], "the name of a folder"),
    ("a folder like a file", [entry("a", 0o755 | stat.S_IFDIR)], "the name of a file"),
    ("twice", [entry("a"), entry("a")], "it is there twice"),
    ("file and folder", [entry("a"), entry("a/", 0o755 | stat.S_IFDIR)], "it is there twice"),
    ("below a file", [entry("a"), entry("a/b")], "'a' is a file"),
    ("a long name", [entry("a" * 256)], "its name is too long"),
    ("a long path", [entry("/".join(["a" * 200] * 30))], "its name is too long"),
]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("entries", "says"), [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE])
def test_hostile_archives(box: Path, entries: list[zipfile.ZipInfo], says: str) -> None:
    data = packed(("good", b"x"), *((info, b"/etc/passwd") for info in entries))
    with pytest.raises(CorruptError, match="nothing was unpacked") as caught:
        unpacked(box, data)
    assert says in str(caught.value)
    assert [path.name for path in box.iterdir()] == ["a.zip"]
    assert (box.parent / "secret").read_text() == "untouched"


def test_encrypted(box: Path) -> None:
    data = bytearray(packed(("a", b"x")))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(CorruptError, match="it is encrypted"):
        unpacked(box, bytes(data))


def test_bombs(box: Path) -> None:
    many = packed(*((f"{number}", b"") for number in range(100)))
    with pytest.raises(CorruptError, match="more than 99 files"):
        unpacked(box, many, Limits(files=99))
    large = packed(("a", bytes(10**6)), ("b", bytes(10**6)))
    assert len(large) < 10_000
    with pytest.raises(CorruptError, match="or 1,500,000 bytes"):
        unpacked(box, large, Limits(total_bytes=1_500_000))
    assert [path.name for path in box.iterdir()] == ["a.zip"]


def test_a_bomb_that_lies(box: Path) -> None:
    """It says 10 bytes, in both places, and has a million."""
    data = bytearray(packed(("a", bytes(10**6))))
    size = struct.pack("<L", 10**6)
    for _ in range(2):
        at = data.index(size)
        data[at : at + 4] = struct.pack("<L", 10)
    with pytest.raises(CorruptError):
        unpacked(box, bytes(data), Limits(total_bytes=100_000))
    assert [path.name for path in box.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("method", [97, 12345])
def test_methods_that_nobody_knows(box: Path, method: int) -> None:
    data = bytearray(packed(("a", b"x")))
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = data.index(mark) + offset
        data[at : at + 2] = struct.pack("<H", method)
    with pytest.raises(CorruptError, match="packed in a way that is not GitLab's"):
        unpacked(box, bytes(data))


def test_damaged_archives(box: Path) -> None:
    good = packed(("a", os.urandom(1000)), ("b/c", b"x" * 1000))
    assert unpacked(box, good) == ("a", "b/c")
    shutil.rmtree(box / "out")
    broken = [b"", b"PK", good[:-30], good[:500], b"<html>", good[:100] + b"?" * 50 + good[150:]]
    for data in broken:
        with pytest.raises(CorruptError, match="not a zip file that can be read"):
            unpacked(box, data)
        assert [path.name for path in box.iterdir()] == ["a.zip"]


def test_any_byte_may_be_wrong(box: Path) -> None:
    """Whatever it is, it is our error or a right result: no traceback, and nothing left behind."""
    good = packed((entry("a/b", 0o755 | stat.S_IFREG), b"hello " * 50), ("c", b"x"))
    for at in range(len(good)):
        data = bytearray(good)
        data[at] ^= 0xFF
        try:
            names = unpacked(box, bytes(data))
        except CorruptError:
            pass
        else:
            for name in names:
                assert (box / "out" / name).resolve().is_relative_to(box / "out")
            shutil.rmtree(box / "out")
        assert [path.name for path in box.iterdir()] == ["a.zip"]


def test_places_that_will_not_do(box: Path) -> None:
    data = packed(("a", b"x"))
    (box / "out").mkdir()
    assert unpacked(box, data) == ("a",)
    with pytest.raises(StackyardError, match="it is there already, and not empty"):
        unpacked(box, data)
    with pytest.raises(StackyardError, match="cannot unpack it"):
        unpack(box / "none.zip", box / "x")
    (box / "file").write_text("")
    with pytest.raises(StackyardError, match="cannot unpack it"):
        unpack(box / "a.zip", box / "file" / "x")


def test_a_full_disk(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unzip, "_write", full)
    with pytest.raises(StackyardError, match="no space left on device"):
        unpacked(box, packed(("a", b"x")))
    assert [path.name for path in box.iterdir()] == ["a.zip"]


# -- engines --------------------------------------------------------------------------------


ENGINES: list[tuple[str, str, dict[str, str], bool, tuple[str, ...]]] = [
    ("docker podman", "", {}, True, ("docker",)),
    ("docker podman", "", {}, False, ("podman",)),
    ("podman", "", {}, True, ("podman",)),
    ("docker podman", "podman", {}, True, ("podman",)),
    ("/opt/x/nerdctl", "/opt/x/nerdctl", {}, True, ("/opt/x/nerdctl",)),
    ("docker podman", "", {"DOCKER_HOST": "unix:///x"}, False, ("docker",)),
    (
        "podman",
        "",
        {"DOCKER_HOST": "unix:///x"},
        False,
        ("podman", "--remote", "--url", "unix:///x"),
    ),
]


@pytest.mark.parametrize(("programs", "wanted", "env", "up", "words"), ENGINES)
def test_engines(  # noqa: PLR0917
    programs: str,
    wanted: str,
    env: dict[str, str],
    up: bool,  # noqa: FBT001
    words: tuple[str, ...],
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server:
        if up:
            server.bind(path)
        found = find_engine(env, wanted, which=_which(programs), socket=path)
    assert found.words == words
    assert found.why
    assert found.name == Path(words[0]).name


def _which(programs: str) -> Callable[[str], str | None]:
    return lambda name: f"/usr/bin/{name}" if name in programs.split() else None


@pytest.mark.parametrize(
    ("programs", "wanted", "env", "says"),
    [
        ("", "", {}, "there is no container engine"),
        ("docker", "", {}, "docker is here, and cannot be used: no socket at /nonexistent/socket"),
        ("docker", "podman", {}, "there is no program 'podman'"),
        ("", "", {"DOCKER_HOST": "x"}, "there is no docker and no podman"),
    ],
)
def test_no_engine(programs: str, wanted: str, env: dict[str, str], says: str) -> None:
    with pytest.raises(ToolError, match=says):
        find_engine(env, wanted, which=_which(programs), socket="/nonexistent/socket")


def test_an_engine_is_words() -> None:
    assert Engine(("/usr/bin/podman", "--x"), "").name == "podman"


# -- the whole task -------------------------------------------------------------------------


def git(*arguments: str, cwd: Path) -> str:
    argv = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
    return subprocess.run(argv, cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def spack_repo(tmp_path: Path) -> Path:
    """A repository like Spack's, whose ``spack`` says what it is asked, and fails on demand."""
    root = tmp_path / "spack.git"
    (root / "share/spack").mkdir(parents=True)
    (root / "bin").mkdir()
    (root / "share/spack/setup-env.sh").write_text('PATH="$SPACK_ROOT/bin:$PATH"; export PATH\n')
    program = root / "bin" / "spack"
    program.write_text(
        '#!/bin/sh\nprintf "spack|%s\\n" "$*"\n'
        'case "$*" in *only=package*) echo "in $PWD as $SPACK_JOB_SPEC_PKG_NAME"; exit ${CODE:-0};; esac\n'
    )
    program.chmod(0o755)
    git("init", "--quiet", cwd=root)
    git("add", "--all", cwd=root)
    git("commit", "--quiet", "--message", "spack", cwd=root)
    git("config", "uploadpack.allowAnySHA1InWant", "true", cwd=root)
    return root


class Archive:
    """A job's artifacts, as ``spack ci rebuild`` leaves them; ``None`` leaves a file away."""

    def __init__(self, spack_repo: Path) -> None:
        self.commit = git("rev-parse", "HEAD", cwd=spack_repo)
        variables = {
            **PIPELINE["variables"],  # type: ignore[dict-item]
            "SPACK_CHECKOUT_VERSION": self.commit,
            "SPACK_REPO": spack_repo.as_uri(),
            "SPACK_CI_STACK_NAME": "demo",
        }
        words = '"spack" "install" "--no-check-signature"'
        self.files: dict[str, bytes | None] = {
            "repro.json": details(),
            "spack.lock": b'{"a": "lock"}',
            "spack.yaml": b"spack:\n  specs: [zlib]\n",
            "pipeline.yml": pipeline(variables=variables),
            "spack_info.txt": f"\ncommit {self.commit}\nAuthor: x\n".encode(),
            "install.sh": (
                '#!/bin/sh\nset -e\n"spack" "-e" "/builds/g/p/jobs_scratch_dir/concrete_environment" '
                f'"bootstrap" "now"\n{words} "--only=dependencies" "/{HASH}"\n'
                f'{words} "--only=package" "/{HASH}"\n'
            ).encode(),
            "zlib.json": b"{}",
        }

    def pipeline(self, **more: Any) -> None:
        document = json.loads(self.files["pipeline.yml"] or b"")
        self.files["pipeline.yml"] = json.dumps({**document, **more}).encode()

    @property
    def data(self) -> bytes:
        rows = [(f"{R}/{name}", data) for name, data in self.files.items() if data is not None]
        return packed((entry(f"{R}/", 0o755 | stat.S_IFDIR), b""), *rows)


@pytest.fixture
def archive(spack_repo: Path) -> Archive:
    return Archive(spack_repo)


ENGINE = """\
#!/bin/sh
# Runs the scripts as a container would, without one.
printf '%s\\n' "$@" > {folder}/said
while [ $# -gt 0 ]; do
  case $1 in *:/reproduce:ro,Z) folder=${{1%:/reproduce:ro,Z}} ;; esac
  last=$1; shift
done
case $last in shell) exit 0 ;; esac
exec sh "$folder/reproduce.sh"
"""


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    folder = tmp_path / "engine"
    folder.mkdir()
    program = folder / "podman"
    program.write_text(ENGINE.format(folder=folder))
    program.chmod(0o755)
    return program


@pytest.fixture
def here(project: Project) -> Project:
    """A project in git, with a file that the stack includes."""
    project.write("invoke.yaml", "stackyard: {}\n")
    project.write("stacks/demo/packages.yaml", "packages: {}\n")
    git("init", "--quiet", cwd=project.root)
    git("add", "--all", cwd=project.root)
    git("commit", "--quiet", "--message", "first", cwd=project.root)
    return project


Reproduce = Callable[..., tuple[str, str]]


@pytest.fixture
def reproduce(stackyard: Stackyard, archive: Archive, engine: Path, tmp_path: Path) -> Reproduce:
    """Run the task on the archive; what it said."""

    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        zipped = tmp_path / "artifacts.zip"
        zipped.write_bytes(archive.data)
        named = () if "--engine" in arguments else ("--engine", str(engine))
        answer = stackyard("reproduce", "--artifacts", str(zipped), *named, *arguments, code=code)
        return answer.out, answer.err

    return run


def test_lays_it_out(here: Project, reproduce: Reproduce, archive: Archive, engine: Path) -> None:
    before = here.files()
    out, err = reproduce()
    folder = here.root / "reproduce-artifacts"
    made = {name: data for name, data in here.files().items() if name not in before}
    inside = {name.removeprefix("reproduce-artifacts/") for name in made}
    env = "project/jobs_scratch_dir/concrete_environment"
    assert inside == {
        *("install.sh", "reproduce.sh", "run.sh", "shell.sh"),
        *(f"project/{R}/{name}" for name in archive.files),
        *(f"{env}/spack.yaml", f"{env}/spack.lock"),
        *("project/invoke.yaml", "project/stacks/demo/packages.yaml"),
    }
    assert (folder / env / "spack.lock").read_bytes() == b'{"a": "lock"}'
    assert out == (
        f"{engine} run --rm -v {folder}:/reproduce:ro,Z -v {folder}/cache:/reproduce/cache:Z "
        f"-v {folder}/project:/builds/g/p:Z --entrypoint /bin/sh registry.example.com/g/builder:2 /reproduce/reproduce.sh "
        "/builds/g/p\n"
    )
    assert (folder / "run.sh").read_text() == f"#!/bin/sh\nexec {out}"
    assert " -it " in (folder / "shell.sh").read_text()
    for name in ("run", "shell", "install", "reproduce"):
        assert (folder / f"{name}.sh").stat().st_mode & 0o111
    assert f"  Spack     {archive.commit} of file://" in err
    assert "  image     registry.example.com/g/builder:2\n" in err
    assert (
        f"files of the project: as of HEAD, {git('rev-parse', 'HEAD', cwd=here.root)[:12]}" in err
    )
    assert "nobody says which packages the job had" in err
    assert git("status", "--porcelain", cwd=here.root) == "?? reproduce-artifacts/"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_scripts_run(here: Project, reproduce: Reproduce, shell: str) -> None:
    """Where the job's folder is not there, they run beside the project."""
    reproduce("--to", "again")
    script = here.root / "again" / "reproduce.sh"
    done = subprocess.run([shell, str(script)], check=True, capture_output=True, text=True)
    place = f"{here.root}/again/project"
    assert done.stdout.splitlines() == [
        f"spack|env activate --without-view {place}/jobs_scratch_dir/concrete_environment",
        f"spack|-e {place}/jobs_scratch_dir/concrete_environment bootstrap now",
        f"spack|install --no-check-signature --only=dependencies /{HASH}",
        f"spack|install --no-check-signature --only=package /{HASH}",
        f"in {place} as zlib",
    ]


def test_run(here: Project, reproduce: Reproduce, engine: Path) -> None:
    _, err = reproduce("--run", "--to", "again", "--env", "CODE", "--option=--network=host")
    assert err.endswith("it went well here\n")
    said = (engine.parent / "said").read_text().splitlines()
    assert said[:2] == ["run", "--rm"]
    assert said[said.index("-e") + 1] == "CODE"
    assert "--network=host" in said


def test_run_fails(
    here: Project, reproduce: Reproduce, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODE", "3")
    _, err = reproduce("--run", "--to", "again", code=5)
    assert err.splitlines()[-2:] == [
        f"error: {engine}: the container ended with 3",
        f"  hint: look around: {here.root}/again/shell.sh",
    ]
    assert (here.root / "again" / "install.sh").exists()


def test_the_command_without_an_engine(
    here: Project, stackyard: Stackyard, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.write("a.zip", archive.data)
    bare = here.root / "bin"
    bare.mkdir()
    (bare / "git").symlink_to(shutil.which("git") or "")
    monkeypatch.setenv("PATH", str(bare))
    answer = stackyard("reproduce", "--artifacts", "a.zip")
    assert answer.out.startswith("docker run --rm ")
    assert "there is no container engine; the command is for docker" in answer.err
    answer = stackyard("reproduce", "--artifacts", "a.zip", "--to", "again", "--run", code=5)
    assert "hint: install podman or docker" in answer.err


def test_a_shell(here: Project, reproduce: Reproduce, engine: Path) -> None:
    reproduce("--shell", "--to", "again")
    assert (engine.parent / "said").read_text().endswith("/builds/g/p\nshell\n")


def test_as_json(here: Project, reproduce: Reproduce, archive: Archive, engine: Path) -> None:
    archive.pipeline(
        variables={
            **json.loads(archive.files["pipeline.yml"] or b"")["variables"],
            "SPACK_PACKAGES_CHECKOUT_VERSION": "d" * 40,
        }
    )
    out, _ = reproduce("--json", "--image", "other:1", "--mount", "/srv/m")
    told = json.loads(out)
    assert told["command"][0] == str(engine)
    assert told["command"][-4:] == ["other:1", "/bin/sh", "/reproduce/reproduce.sh", "/builds/g/p"]
    assert "/srv/m:/srv/m:ro" in told["command"]
    del told["command"]
    assert told == {
        "job": NAME,
        "package": "zlib",
        "hash": HASH,
        "image": "other:1",
        "tags": ["x"],
        "spack": {"repo": archive_repo(archive), "ref": "", "commit": archive.commit},
        "packages": {"repo": PACKAGES_REPO, "ref": "", "commit": "d" * 40},
        "project_dir": "/builds/g/p",
        "directory": str(here.root / "reproduce-artifacts"),
    }


def archive_repo(archive: Archive) -> str:
    document = json.loads(archive.files["pipeline.yml"] or b"")
    repo: str = document["variables"]["SPACK_REPO"]
    return repo


def test_pins_beside_the_lock(here: Project, reproduce: Reproduce) -> None:
    pins = {name: {"repo": "/srv/x", "commit": COMMIT} for name in ("spack", "packages")}
    here.write("stacks/demo/pins.yaml", pins)
    git("add", "--all", cwd=here.root)
    git("commit", "--quiet", "--message", "pins", cwd=here.root)
    out, err = reproduce("--json")
    assert json.loads(out)["packages"]["commit"] == COMMIT
    assert "nobody says which packages" not in err


def test_a_job_without_an_image(here: Project, reproduce: Reproduce, archive: Archive) -> None:
    archive.pipeline(**{".build": {"extends": ".base"}, ".base": {"tags": ["shell", "big"]}})
    out, err = reproduce("--to", "again")
    assert out == f"sh {here.root}/again/reproduce.sh\n"
    assert "the job ran without a container (tags: shell, big)" in err
    assert not (here.root / "again" / "run.sh").exists()
    _, err = reproduce("--to", "more", "--run", code=2)
    assert "error: --run: the job had no image\n" in err
    out, _ = reproduce("--to", "third", "--run", "--image", "builder:1")
    assert " builder:1 /bin/sh /reproduce/reproduce.sh /builds/g/p\n" in out


def test_an_image_that_only_gitlab_knows(
    here: Project, reproduce: Reproduce, archive: Archive
) -> None:
    archive.pipeline(**{".build": {"image": "$CI_REGISTRY_IMAGE/builder"}})
    _, err = reproduce(code=2)
    assert "is not the whole name of an image" in err
    assert "--image NAME" in err
    assert not (here.root / "reproduce-artifacts").exists()


def test_no_install_script(here: Project, reproduce: Reproduce, archive: Archive) -> None:
    """The job ended before it built, or found the package on a mirror."""
    archive.files["install.sh"] = None
    reproduce("--run", "--to", "again")
    assert f"--only=package /{HASH}" in (here.root / "again/install.sh").read_text()


def test_keys(here: Project, reproduce: Reproduce, archive: Archive) -> None:
    """They come from the project or from whoever asks, where the job looked at signatures."""
    text = archive.files["install.sh"] or b""
    archive.files["install.sh"] = text.replace(b'"--no-check-signature"', b'"--color"')
    _, err = reproduce("--to", "a")
    assert "the job verified signatures, and there are no keys here" in err
    key = here.write("keys/one.pub", "a public key")
    reproduce("--to", "b", "--keys", str(key))
    assert (here.root / "b/keys/0.pub").read_text() == "a public key"
    here.write("stacks/demo/keys/two.pub", "another")
    reproduce("--to", "c")
    script = here.root / "c" / "reproduce.sh"
    done = subprocess.run(["sh", str(script)], check=True, capture_output=True, text=True)
    assert f"spack|gpg trust {here.root}/c/keys/0.pub\n" in done.stdout


def test_what_is_handed_on_is_named(
    here: Project, reproduce: Reproduce, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive may be anybody's: it gets no folder and no variable by itself."""
    monkeypatch.setenv("MY_KEY", "a secret of mine")
    archive.files["spack.yaml"] = json.dumps(
        {
            "spack": {
                "mirrors": {
                    "m": {"url": "file:///srv/m", "access_pair": {"secret_variable": "MY_KEY"}}
                },
                "include": ["../../stacks/demo/packages.yaml", "../gone.yaml"],
            }
        }
    ).encode()
    out, err = reproduce("--to", "a")
    assert "MY_KEY" not in out
    assert "-v /srv" not in out
    assert "what the mirrors may want from this machine: --mount /srv/m --env MY_KEY\n" in err
    assert "warning: the stack includes ../gone.yaml, which is not there\n" in err
    assert "packages.yaml" not in err
    out, err = reproduce("--to", "b", "--mount", "/srv/m", "--env", "MY_KEY")
    assert " -v /srv/m:/srv/m:ro -e MY_KEY " in out
    assert "may want" not in err
    assert "a secret of mine" not in str(here.files())


def test_what_is_named_can_be_copied(here: Project, reproduce: Reproduce, archive: Archive) -> None:
    """Into a shell, that is, which must run nothing of it."""
    mirrors = {"m": "file:///srv/$(touch%20x)", "n": "file://[/srv"}
    archive.files["spack.yaml"] = json.dumps({"spack": {"mirrors": mirrors}}).encode()
    _, err = reproduce()
    assert "from this machine: --mount '/srv/$(touch x)'\n" in err


def test_files_of_another_commit(here: Project, reproduce: Reproduce) -> None:
    here.write("stacks/demo/packages.yaml", "packages: {new: {}}\n")
    git("commit", "--quiet", "--all", "--message", "second", cwd=here.root)
    reproduce("--to", "a", "--commit", "HEAD^")
    kept = here.root / "a/project/stacks/demo/packages.yaml"
    assert kept.read_text() == "packages: {}\n"
    _, err = reproduce("--to", "b", "--commit", "nowhere", code=2)
    assert "git knows no revision 'nowhere'" in err
    assert not (here.root / "b").exists()


def test_outside_of_a_project(
    tmp_path: Path, reproduce: Reproduce, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    monkeypatch.chdir(folder)
    reproduce("--run")
    assert (folder / "reproduce-artifacts/project" / R / "repro.json").exists()


def test_the_job_wins_over_the_project(
    here: Project, reproduce: Reproduce, archive: Archive
) -> None:
    """A file that is in both is the job's; a link of the project does not lead its files away."""
    (here.root / "jobs_scratch_dir").symlink_to("/tmp")
    git("add", "--all", cwd=here.root)
    git("commit", "--quiet", "--message", "a link", cwd=here.root)
    reproduce("--to", "a")
    assert (here.root / "a/project" / R / "repro.json").read_bytes() == archive.files["repro.json"]
    assert not (here.root / "a/project/jobs_scratch_dir").is_symlink()


WRONG: list[tuple[str, Mapping[str, bytes | None], int, str]] = [
    ("no details", {"repro.json": None}, 6, "there is no repro.json"),
    ("no lock", {"spack.lock": None}, 6, "no spack.lock with a spack.yaml"),
    ("no pipeline", {"pipeline.yml": None}, 6, "pipeline's file is not among the artifacts"),
    ("another job", {"repro.json": details(job_name="x")}, 6, "the pipeline has no job 'x'"),
    ("no manifest", {"spack.yaml": b"a: 1"}, 6, "it is no manifest"),
    ("bad YAML", {"spack.yaml": b"spack: ["}, 2, "not YAML"),
    ("no Spack", {"spack_info.txt": None, "pipeline.yml": pipeline(
        variables={"SPACK_CONCRETE_ENV_DIR": "x"})}, 6, "which Spack the job ran with"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "code", "says"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_wrong_artifacts(  # noqa: PLR0917
    here: Project,
    reproduce: Reproduce,
    archive: Archive,
    files: Mapping[str, bytes | None],
    code: int,
    says: str,
) -> None:
    before = here.files()
    archive.files |= files
    out, err = reproduce(code=code)
    assert (out, says in err) == ("", True), err
    assert here.files() == before


def test_wrong_arguments(here: Project, stackyard: Stackyard, reproduce: Reproduce) -> None:
    assert "give --url JOB_URL or --artifacts ZIP" in stackyard("reproduce", code=2).err
    both = ["--url", "https://x/g/p/-/jobs/1", "--artifacts", "x.zip"]
    assert "give --url" in stackyard("reproduce", *both, code=2).err
    gone = stackyard("reproduce", "--artifacts", "gone.zip", code=2).err
    assert gone == "error: gone.zip: there is no such file\n"
    here.write("full/x", "")
    assert "it is there already, and not empty" in reproduce("--to", "full", code=2)[1]
    assert "has a colon cannot be mounted" in reproduce("--to", "a:b", code=2)[1]
    assert "must be an absolute path" in reproduce("--mount", "here", code=2)[1]
    assert "not the whole name of an image" in reproduce("--image=--privileged", code=2)[1]
    assert "no program 'gone'" in reproduce("--engine", "gone", code=5)[1]
    assert not (here.root / "reproduce-artifacts").exists()


# -- from GitLab ----------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[FakeGitLab]:
    with fake_gitlab() as made:
        made.tokens[TOKEN] = {"read_api"}
        made.project(members={TOKEN})
        yield made


@pytest.fixture
def online(
    here: Project, server: FakeGitLab, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The URL of a job that failed; settings and token are right."""
    monkeypatch.setenv("GITLAB_PRIVATE_TOKEN", TOKEN)
    here.write("invoke.yaml", {"stackyard": {"gitlab": {"url": server.url}}})
    made = server.pipeline(server.projects[0])
    made.jobs = [Job(7, NAME, "failed", artifacts=archive.data)]
    return f"{server.url}/group/project/-/jobs/7"


def test_by_url(
    here: Project, server: FakeGitLab, stackyard: Stackyard, online: str, engine: Path
) -> None:
    answer = stackyard("reproduce", "--url", online, "--engine", str(engine))
    assert answer.err.startswith(f"job 7: {NAME}, failed (script_failure)\n")
    base = "/projects/group%2Fproject/jobs/7"
    assert server.paths() == [base, f"{base}/artifacts"]
    assert {asked.headers["PRIVATE-TOKEN"] for asked in server.asked} == {TOKEN}
    names = {path.name for path in (here.root / "reproduce-7").iterdir()}
    assert names == {"project", "cache", "install.sh", "reproduce.sh", "run.sh", "shell.sh"}
    assert TOKEN not in str(here.files()) + answer.out + answer.err


def test_the_jobs_own_commit(
    here: Project, server: FakeGitLab, stackyard: Stackyard, online: str, engine: Path
) -> None:
    server.projects[0].pipelines[100].jobs[0].commit = git("rev-parse", "HEAD", cwd=here.root)
    here.write("stacks/demo/packages.yaml", "packages: {new: {}}\n")
    git("commit", "--quiet", "--all", "--message", "second", cwd=here.root)
    stackyard("reproduce", "--url", online, "--engine", str(engine))
    kept = here.root / "reproduce-7/project/stacks/demo/packages.yaml"
    assert kept.read_text() == "packages: {}\n"
    server.projects[0].pipelines[100].jobs[0].commit = "e" * 40
    answer = stackyard("reproduce", "--url", online, "--engine", str(engine), "--to", "b")
    assert "this clone lacks the job's commit eeeeeeeeeeee" in answer.err
    assert not (here.root / "b/project/stacks").exists()


def test_a_commit_that_is_none(
    here: Project, server: FakeGitLab, stackyard: Stackyard, online: str, engine: Path
) -> None:
    """A server may say anything there; it is neither a branch of ours nor an option of git."""
    server.projects[0].pipelines[100].jobs[0].commit = "HEAD^{/secret} $(date)"
    answer = stackyard("reproduce", "--url", online, "--engine", str(engine))
    assert "files of the project: as of HEAD" in answer.err
    assert "date" not in answer.err


def test_a_token_goes_to_its_own_server_only(
    here: Project, server: FakeGitLab, stackyard: Stackyard, online: str, engine: Path
) -> None:
    """Somebody may send a link to a server that collects tokens."""
    here.write("invoke.yaml", "stackyard: {}\n")
    answer = stackyard("reproduce", "--url", online, "--engine", str(engine), code=6)
    assert "your token is not sent to http://127.0.0.1" in answer.err
    assert "GitLab was asked without a token" in answer.err
    assert TOKEN not in str(server.asked)
    server.projects[0].public = True
    stackyard("reproduce", "--url", online, "--engine", str(engine))
    assert TOKEN not in str(server.asked)


def test_no_artifacts(here: Project, server: FakeGitLab, stackyard: Stackyard, online: str) -> None:
    server.projects[0].pipelines[100].jobs[0].artifacts = None
    answer = stackyard("reproduce", "--url", online, code=6)
    assert "the job has no artifacts" in answer.err
    assert "they may have expired" in answer.err
    assert not (here.root / "reproduce-7").exists()


@pytest.mark.parametrize("status", [401, 403, 404, 422, 429, 500, 503])
@pytest.mark.parametrize("part", ["jobs/7", "artifacts"])
def test_refusals(  # noqa: PLR0917
    here: Project,
    server: FakeGitLab,
    stackyard: Stackyard,
    online: str,
    status: int,
    part: str,
) -> None:
    headers = {"Retry-After": "9999"}
    server.fault = lambda asked: Fault(status, headers) if asked.path.endswith(part) else None
    answer = stackyard("reproduce", "--url", online, code=6)
    assert answer.out == ""
    assert str(status) in answer.err or "no artifacts" in answer.err
    assert not (here.root / "reproduce-7").exists()
    assert TOKEN not in answer.err


def test_an_archive_that_breaks_off(
    here: Project, server: FakeGitLab, stackyard: Stackyard, online: str, engine: Path
) -> None:
    left = [Fault(cut=100)]
    server.fault = lambda asked: left.pop() if left and asked.path.endswith("artifacts") else None
    stackyard("reproduce", "--url", online, "--engine", str(engine))
    assert server.paths()[1:] == ["/projects/group%2Fproject/jobs/7/artifacts"] * 2


# -- the files of a commit ------------------------------------------------------------------


def test_export(here: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = git("rev-parse", "HEAD", cwd=here.root)
    here.write("stacks/demo/packages.yaml", "changed\n")
    here.write("staged", "")
    git("add", "staged", cwd=here.root)
    before = git("status", "--porcelain", cwd=here.root)
    to = tmp_path / "to"
    to.mkdir()
    (to / "invoke.yaml").write_text("mine")
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    export_commit(here.root, commit, to, dict(os.environ))
    monkeypatch.delenv("GIT_DIR")
    assert (to / "invoke.yaml").read_text() == "mine"
    assert (to / "stacks/demo/packages.yaml").read_text() == "packages: {}\n"
    assert git("status", "--porcelain", cwd=here.root) == before
    assert has_commit(here.root, commit)
    assert not has_commit(here.root, "e" * 40)
    with pytest.raises(ToolError, match="git read-tree failed"):
        export_commit(here.root, "e" * 40, to, dict(os.environ))
