"""Hostile and broken input, end to end: exact text, clean errors, nothing half-written."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CI_SECTION, DATA, Answer, Project, Stackyard
from locks import document, key, node, text
from mirror_server import Reply, mirror_server
from pipelines import jobs_of, load, local_needs

from stackyard.flow.generate import generate
from stackyard.flow.steps import Request
from stackyard.spec import format_variants

CHAIN = document({"app": ["lib"], "lib": []})

#: Text that YAML, GitLab, a shell, a template engine or a terminal may take for something else.
HOSTILE = {
    "quotes": 'it\'s "quoted" `back`',
    "newlines": "one\ntwo\r\nthree\n",
    "github": "${{ secrets.TOKEN }}",
    "gitlab variable": "$CI_JOB_TOKEN ${CI_JOB_TOKEN} $$HOME %PATH%",
    "gitlab input": "$[[ inputs.x ]]",
    "jinja": "{{ 7 * 7 }}{% raw %}{# c #}",
    "marks": "{env_dir} {index_target_mirror} SPACK_JOB_SPEC_PKG_NAME",
    "path": "../../../etc/passwd",
    "unicode": "größe 测试 \U0001f600 \u202e\u2028\u2029\u0085\ufeff\u200b",
    "control": "\x01\x07\x1b[31m\x7f\x80\x9f\t",
    "dash": "- item",
    "colon": "key: value",
    "comment": "text # comment",
    "hash first": "#comment",
    "anchor": "&a value",
    "alias": "*a",
    "tag": "!!python/object/apply:os.system [id]",
    "reference": "!reference [.x, script]",
    "merge": "<<",
    "null": "~",
    "hex": "0x1F",
    "float": "1e3",
    "yes": "yes",
    "octal": "010",
    "time": "12:30:45",
    "date": "2026-11-21",
    "flow": "[a, {b: c}]",
    "percent": "%YAML 1.1",
    "document": "---\nscript: [id]\n...",
    "backslash": "\\n \\x41 \\",
    "spaces": "  both ends  ",
    "shell": "; rm -rf / & $(id) `id` | > < * ?",
    "long": "x" * 300,
    "very long": "word " * 4000,
    "empty": "",
}


def ended(project: Project) -> None:
    """No temporary file is left, and each pipeline that is there is whole."""
    for name in project.files():
        assert not re.search(r"/\.[^/]*\.[0-9a-f]{12}$", f"/{name}"), name
    if project.child.exists():
        assert jobs_of(load(project.child.read_bytes()))


def expand(value: str) -> str:
    """What GitLab makes of a variable's value where no variable is defined: ``$$`` is a dollar."""
    return re.sub(r"\$\$|\$\{?\w+\}?|%\w+%", lambda m: "$" if m[0] == "$$" else f"<{m[0]}>", value)


def failed(stackyard: Stackyard, project: Project, code: int, *arguments: str) -> str:
    """What a run says that must fail with the code and change nothing."""
    before = project.files()
    arguments = arguments or ("generate", "--stack", "demo", "--no-prune")
    answer: Answer = stackyard(*arguments, code=code)
    assert answer.out == ""
    assert project.files() == before
    ended(project)
    return answer.err[answer.err.index("error: ") :]


# -- text out of a lock ---------------------------------------------------------------------


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_variants_arrive_as_they_are(stackyard: Stackyard, project: Project, value: str) -> None:
    parameters: dict[str, Any] = {
        "build_system": "generic",
        "odd": value,
        "list": [value, "b"],
        "cflags": [value],
    }
    lock = document([node("app", ["lib"], parameters=parameters), node("lib")])
    project.stack(lock)
    stackyard("generate", "--stack", "demo", "--no-prune")
    jobs = jobs_of(load(project.child.read_bytes()))
    names = [f"lib@1.0 /{key('lib')}", f"app@1.0 /{key('app')}"]
    assert list(jobs) == [*names, "rebuild-index"]
    assert local_needs(jobs[names[1]]) == {names[0]}
    variables = jobs[names[1]]["variables"]
    expected = format_variants(parameters)
    assert variables["SPACK_JOB_SPEC_VARIANTS"].replace("$$", "$") == expected
    assert expand(variables["SPACK_JOB_SPEC_VARIANTS"]) == re.sub(
        r"%\w+%", lambda m: f"<{m[0]}>", expected
    )
    copied = project.root / "jobs_scratch_dir/concrete_environment/spack.lock"
    assert copied.read_bytes() == (project.root / "stacks/demo/spack.lock").read_bytes()
    plan = json.loads(stackyard("plan", "--no-prune", "--json").out)
    assert [spec["name"] for spec in plan["specs"]] == ["lib", "app"]
    ended(project)


def test_dollars_of_the_user_stay(stackyard: Stackyard, project: Project) -> None:
    parameters = {"build_system": "generic", "odd": "$CI_JOB_TOKEN"}
    variables = {"OWN": "$HOME/x", "SPACK_JOB_SPEC_COMPILER_NAME": "$MINE"}
    ci = {
        **CI_SECTION,
        "pipeline-gen": [{"build-job": {"variables": variables, "script:": ['echo "$HOME" $$']}}],
    }
    project.stack(document([node("app", parameters=parameters)]), ci=ci)
    stackyard("generate", "--stack", "demo", "--no-prune")
    job = next(iter(jobs_of(load(project.child.read_bytes())).values()))
    assert job["variables"]["OWN"] == "$HOME/x"
    assert job["variables"]["SPACK_JOB_SPEC_COMPILER_NAME"] == "$MINE"
    assert (
        job["variables"]["SPACK_JOB_SPEC_VARIANTS"] == "build_system=generic odd='$$CI_JOB_TOKEN'"
    )
    assert job["script"] == ['echo "$HOME" $$']


def test_dollars_in_an_old_compiler(stackyard: Stackyard, project: Project) -> None:
    """Locks of Spack 0.23 and older name the compiler freely."""
    odd = node("app", compiler={"name": "g$CC", "version": "1 ${X}"})
    del odd["annotations"]
    lock = document([odd])
    lock["_meta"] = {"file-type": "spack-lockfile", "lockfile-version": 5, "specfile-version": 4}
    cdash = {"build-group": "g", "url": "https://cdash.invalid", "project": "p", "site": "s"}
    project.stack(lock, cdash=cdash)
    stackyard("generate", "--stack", "demo", "--no-prune")
    variables = next(iter(jobs_of(load(project.child.read_bytes())).values()))["variables"]
    assert variables["SPACK_JOB_SPEC_COMPILER_NAME"] == "g$$CC"
    assert variables["SPACK_JOB_SPEC_COMPILER_VERSION"] == "1 $${X}"
    assert variables["SPACK_CDASH_BUILD_NAME"].startswith("app@1.0%g$$CC@=1 $${X} hash=")


IMPOSSIBLE = [
    ("name", {"name": "../app"}),
    ("name", {"name": "a b"}),
    ("name", {"name": "a\n"}),
    ("name", {"name": ""}),
    ("name", {"name": "$CI"}),
    ("name", {"name": ".hidden"}),
    ("version", {"version": "1.0\n"}),
    ("version", {"version": "1 0"}),
    ("version", {"version": "$(id)"}),
    ("target", {"arch": {"platform": "linux", "platform_os": "x", "target": "a b"}}),
    ("os", {"arch": {"platform": "linux", "platform_os": "$X", "target": "x"}}),
    ("dependencies", {"dependencies": [{"name": "x"}]}),
    ("dependencies", {"dependencies": "x"}),
    ("edge", {"dependencies": [{"name": "lib", "hash": "l" * 32, "parameters": []}]}),
    ("annotations", {"annotations": ["x"]}),
]

SHAPES = [
    ("parameters", {"parameters": ["a"]}),
    ("external", {"external": "yes"}),
    ("compiler", {"compiler": "gcc", "annotations": {"original_specfile_version": 4}}),
]


@pytest.mark.parametrize(
    "fields",
    [
        *(pytest.param(fields, id=name) for name, fields in IMPOSSIBLE),
        *(pytest.param(fields, id=name) for name, fields in SHAPES),
    ],
)
def test_impossible_nodes(stackyard: Stackyard, project: Project, fields: dict[str, Any]) -> None:
    one = node("app") | fields
    one["hash"] = key("app")
    roots = [{"hash": key("app"), "spec": "app"}]
    project.stack({**document([]), "roots": roots, "concrete_specs": {key("app"): one}})
    for task in (("generate", "--stack", "demo", "--no-prune"), ("plan", "--no-prune")):
        said = failed(stackyard, project, 2, *task)
        assert said.startswith("error: stacks/demo/spack.lock: ")


@pytest.mark.parametrize("odd", ["\ud800", ["a", "\udfff"]])
def test_half_a_character(stackyard: Stackyard, project: Project, odd: object) -> None:
    """JSON can name one half of a surrogate pair; UTF-8, and so a pipeline, cannot."""
    parameters = {"build_system": "generic", "odd": odd}
    project.stack(document([node("app", parameters=parameters)]))
    said = failed(stackyard, project, 2)
    assert said.startswith("error: stacks/demo/spack.lock, or the environment: ")
    assert "SPACK_JOB_SPEC_VARIANTS" in said


BROKEN_LOCKS: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "null": b"null",
    "list": b"[]",
    "not JSON": b"spack:\n  specs: []\n",
    "cut off": text(CHAIN)[:-40],
    "deep": b"[" * 100_000,
    "deep in a node": text(CHAIN).replace(b'"generic"', b"[" * 5000 + b"]" * 5000, 1),
    "huge number": text(CHAIN).replace(b'"generic"', b"9" * 5000, 1),
    "not UTF-8": text(CHAIN).replace(b"generic", b"\xff\xfe", 1),
    "unknown version": text(CHAIN).replace(b'"lockfile-version":6', b'"lockfile-version":99'),
    "no roots": text({**CHAIN, "roots": [{"hash": "z" * 32, "spec": "app"}]}),
    "root that is no mapping": text({**CHAIN, "roots": ["app"]}),
    "roots that are no list": text({**CHAIN, "roots": 5}),
    "spack that is no mapping": text({**CHAIN, "spack": "1.1"}),
    "node that is no mapping": text({**CHAIN, "concrete_specs": {key("app"): 1}}),
}


@pytest.mark.parametrize(
    "data",
    [pytest.param(data, id=name) for name, data in BROKEN_LOCKS.items()],
)
def test_broken_locks(stackyard: Stackyard, project: Project, data: bytes) -> None:
    project.stack(CHAIN)
    project.write("stacks/demo/spack.lock", data)
    said = failed(stackyard, project, 2)
    assert said.startswith("error: stacks/demo/spack.lock")


def test_lock_that_is_missing_or_no_file(stackyard: Stackyard, project: Project) -> None:
    folder = project.stack(CHAIN)
    (folder / "spack.lock").unlink()
    assert failed(stackyard, project, 2).splitlines()[0] == (
        "error: stacks/demo/spack.lock: the stack is not locked"
    )
    (folder / "spack.lock").mkdir()
    assert failed(stackyard, project, 2).startswith("error: stacks/demo/spack.lock: ")


# -- manifests ------------------------------------------------------------------------------

BOMB = "spack:\n  a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  {after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefghi", "bcdefghij", strict=True)
)
MANIFESTS: dict[str, tuple[str | bytes, str]] = {
    "bomb": (BOMB, "more than 1000000 values, aliases counted in full"),
    "tab": ("spack:\n\tspecs: []\n", "not YAML"),
    "empty": ("", "the file is empty"),
    "comment": ("# nothing\n", "the file is empty"),
    "twice": ("spack:\n  specs: []\n  specs: []\n", "duplicate key 'specs'"),
    "two documents": ("spack: {}\n---\nspack: {}\n", "a second document"),
    "python": ("spack: !!python/object/apply:os.system [id]\n", "unknown tag"),
    "list": ("- spack\n", ""),
    "text": ("spack: text\n", ""),
    "null": ("spack:\n", ""),
    "deep": ("spack: " + "[" * 500 + "]" * 500, "nested deeper"),
    "not UTF-8": (b"spack:\n  specs: [\xff]\n", "not UTF-8"),
    "NUL": (b"spack:\n  specs: [\0]\n", "U+0000"),
    "endless alias": ("spack: &a [*a]\n", "inside its own anchor"),
    "specs no list": ("spack: {specs: 5}\n", ""),
    "ci no mapping": ("spack: {specs: [], ci: [a]}\n", ""),
    "script a number": ("spack: {ci: {pipeline-gen: [{build-job: {script: 5}}]}}\n", ""),
    "unknown entry": ("spack: {ci: {pipeline-gen: [{other-job: {}}]}}\n", ""),
    "mirrors a list": ("spack: {mirrors: [a]}\n", ""),
    "mirror without url": ("spack: {mirrors: {m: {}}}\n", ""),
    "match no spec": ("spack: {ci: {pipeline-gen: [{submapping: [{match: ['@@:[']}]}]}}\n", ""),
}


@pytest.mark.parametrize(("content", "message"), MANIFESTS.values(), ids=MANIFESTS)
def test_broken_manifests(
    stackyard: Stackyard, project: Project, content: str | bytes, message: str
) -> None:
    project.stack(CHAIN)
    project.write("stacks/demo/spack.yaml", content)
    said = failed(stackyard, project, 2)
    assert re.match(r"error: (stacks/demo/spack\.yaml|match: )", said), said
    assert message in said


@pytest.mark.parametrize("content", ["- a\n", "limit: {}\n", "limits: {needs: -1}\n", "\tx: 1\n"])
def test_broken_stack_yaml(stackyard: Stackyard, project: Project, content: str) -> None:
    project.stack(CHAIN)
    project.write("stacks/demo/stack.yaml", content)
    assert failed(stackyard, project, 2).startswith("error: stacks/demo/stack.yaml")


ODD_NAMES = ["a b", "a\nb", "it's", 'a"b', "a;b", "$HOME", "-rf", "größe", "a:b", "#a", "a'b\nc: d"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_of_stacks(stackyard: Stackyard, project: Project, name: str) -> None:
    project.stack(CHAIN, name=name)
    for task in (["generate"], ["generate", "--stack", name, "--no-prune"], ["plan", "--no-prune"]):
        said = failed(stackyard, project, 2, *task)
        assert said.startswith("error: "), said
        assert repr(name) in said
    report = stackyard("doctor", "--offline", code=2)
    assert repr(name) in report.out


@pytest.mark.parametrize("name", ["..", ".", "../demo", "/", "", "a/../../x", "\0"])
def test_paths_instead_of_names(stackyard: Stackyard, project: Project, name: str) -> None:
    project.write("invoke.yaml", "")
    arguments = ("plan", "--no-prune", f"--stack={name}")
    assert failed(stackyard, project, 2, *arguments).startswith("error: ")


# -- mirrors --------------------------------------------------------------------------------


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A copy of a real mirror of layout v3, to be damaged."""
    shutil.copytree(DATA / "mirrors/v3-unsigned", tmp_path / "mirror")
    return tmp_path / "mirror"


def the_index(mirror: Path) -> Path:
    """The index itself, a blob that its manifest names."""
    manifest = json.loads((mirror / "v3/manifests/index/index.manifest.json").read_bytes())
    digest: str = manifest["data"][0]["checksum"]
    return mirror / "blobs" / "sha256" / digest[:2] / digest


@pytest.fixture
def tiny(project: Project) -> Project:
    data = (DATA / "tiny.spack.lock").read_bytes()
    project.stack(data)
    return project


def test_the_undamaged_mirror(stackyard: Stackyard, tiny: Project, mirror: Path) -> None:
    plan = json.loads(stackyard("plan", "--json", "--mirror", mirror.as_uri()).out)
    assert (plan["totals"]["build"], plan["totals"]["reuse"]) == (0, 7)


def test_unreadable_folder(stackyard: Stackyard, tiny: Project, mirror: Path) -> None:
    shutil.rmtree(mirror)
    mirror.write_bytes(b"a file where a folder should be")
    said = failed(stackyard, tiny, 6, "plan", "--mirror", mirror.as_uri())
    assert mirror.as_uri() in said


DAMAGE = {
    "cut off": lambda data: data[: len(data) // 2],
    "wrong checksum": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "empty": lambda _: b"",
    "other text": lambda _: b"<html>please log in</html>",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("what", ["index", "manifest"])
def test_damaged_index(
    stackyard: Stackyard, tiny: Project, mirror: Path, what: str, damage: Any
) -> None:
    path = mirror / "v3/manifests/index/index.manifest.json"
    if what == "index":
        path = the_index(mirror)
    elif damage is DAMAGE["wrong checksum"]:
        manifest = json.loads(path.read_bytes())
        manifest["data"][0]["checksum"] = "0" * 64
        path.write_text(json.dumps(manifest))
        damage = bytes
    path.write_bytes(damage(path.read_bytes()))
    for task in (["plan"], ["generate", "--stack", "demo"]):
        said = failed(stackyard, tiny, 6, *task, "--mirror", mirror.as_uri(), "--check-index-only")
        assert mirror.as_uri() in said


def test_index_with_unknown_hashes(stackyard: Stackyard, tiny: Project, mirror: Path) -> None:
    """What the lock does not know is none of its business."""
    lock = document([node("app", ["lib"]), node("lib")])
    tiny.stack(lock)
    arguments = ("plan", "--json", "--mirror", mirror.as_uri(), "--check-index-only")
    plan = json.loads(stackyard(*arguments).out)
    assert (plan["totals"]["build"], plan["totals"]["reuse"]) == (2, 0)


FAULTS = {
    "denied": (Reply(403, b"no"), "/blobs"),
    "error": (Reply(500, b"oops"), "/blobs"),
    "cut off": (Reply(200, b'{"da', claim=10_000), "/v3"),
    "a login page": (Reply(200, b"<html>"), "/v3"),
    "redirect in a circle": (
        Reply(302, headers={"Location": "/v3/manifests/index/index.manifest.json"}),
        "/v3",
    ),
}


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(("reply", "where"), FAULTS.values(), ids=FAULTS)
def test_faulty_server(
    stackyard: Stackyard, tiny: Project, mirror: Path, reply: Reply, where: str
) -> None:
    paths = {
        "/v3": "/v3/manifests/index/index.manifest.json",
        "/blobs": f"/{the_index(mirror).relative_to(mirror).as_posix()}",
    }
    with mirror_server(mirror) as server:
        server.script[paths[where]] = [reply]
        said = failed(stackyard, tiny, 6, "plan", "--mirror", server.url, "--check-index-only")
        assert server.url in said
        assert len(server.requests) >= 1


def test_mirror_addresses(stackyard: Stackyard, tiny: Project) -> None:
    for url in (
        "gopher://x/y",
        "http://",
        "http://[::1",
        "file://",
        "http://127.0.0.1:99999/",
        "x",
    ):
        said = stackyard("plan", "--mirror", url, code=None)
        assert said.code in (2, 6), url
        assert said.out == ""


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_secrets_in_an_address(
    stackyard: Stackyard, tiny: Project, mirror: Path, scheme: str
) -> None:
    """Name, password and query of an address are for the server alone."""
    with mirror_server(mirror) as server:
        address = server.url.removeprefix("http://")
        url = f"{scheme}://user:hunter2@{address}"
        for flags in ([], ["--json"]):
            answer = stackyard("plan", *flags, "--mirror", url, code=None)
            assert answer.code == (0 if scheme == "http" else 6)
            assert address in answer.out + answer.err
            assert "hunter2" not in answer.out + answer.err
        assert bool(server.requests) == (scheme == "http")
    answer = stackyard("plan", "--mirror", f"{url}?token=hunter2", code=6)
    assert "hunter2" not in answer.out + answer.err


# -- output ---------------------------------------------------------------------------------


def test_output_is_a_directory(stackyard: Stackyard, project: Project) -> None:
    project.stack(CHAIN)
    (project.root / "there").mkdir()
    said = failed(
        stackyard, project, 1, "generate", "--stack", "demo", "--no-prune", "--output", "there"
    )
    assert said == "error: there: cannot write it: it is a directory\n"
    assert list((project.root / "there").iterdir()) == []


def test_output_below_a_file(stackyard: Stackyard, project: Project) -> None:
    project.stack(CHAIN)
    project.write("file", "x")
    said = failed(
        stackyard,
        project,
        1,
        "generate",
        "--stack",
        "demo",
        "--no-prune",
        "--output",
        "file/pipeline.yml",
    )
    assert said.startswith("error: file/pipeline.yml: cannot write it: ")


def test_output_with_a_nul(stackyard: Stackyard, project: Project) -> None:
    project.stack(CHAIN)
    failed(stackyard, project, 1, "generate", "--stack", "demo", "--no-prune", "--output", "a\0b")
    said = failed(stackyard, project, 2, "plan", "--no-prune", "--lock", "a\0b")
    assert said.startswith("error: a\\x00b: the stack is not locked\n")


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[Path, str], None]]:
    """Lay a small file system over a folder, with these options, until the test ends."""
    program, mounted = shutil.which("mount"), []

    def lay(folder: Path, options: str) -> None:
        if os.geteuid() != 0 or not program:
            pytest.skip("only root can mount a file system")
        argv = [program, "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(argv, capture_output=True, check=False).returncode:
            pytest.skip("this machine mounts no tmpfs")
        mounted.append(folder)

    yield lay
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_read_only_output(
    stackyard: Stackyard, project: Project, mount: Callable[[Path, str], None]
) -> None:
    project.stack(CHAIN)
    folder = project.root / "jobs_scratch_dir"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):  # root may write there all the same
        mount(folder, "ro,size=64k")
    said = failed(stackyard, project, 1)
    assert re.search(r"cannot write it: (permission denied|read-only file system)\n$", said)


def test_full_disk(
    stackyard: Stackyard, project: Project, tmp_path: Path, mount: Callable[[Path, str], None]
) -> None:
    full_disk = tmp_path / "disk"
    full_disk.mkdir()
    mount(full_disk, "size=64k")
    project.stack(document({"app": ["lib"], "lib": []}))
    root = str(full_disk / "out")
    arguments = ("generate", "--stack", "demo", "--no-prune", "--artifacts-root", root)
    stackyard(*arguments)
    before = {p: p.read_bytes() for p in full_disk.rglob("*") if p.is_file()}
    assert len(before) == 3
    project.stack(document({f"package-{c}{d}": [] for c in "abcdefgh" for d in "abcdefgh"}))
    said = failed(stackyard, project, 1, *arguments)
    assert said.endswith("cannot write it: no space left on device\n")
    assert {p: p.read_bytes() for p in full_disk.rglob("*") if p.is_file()} == before


def _generate_often(root: str, stack: str, rounds: int) -> None:
    os.chdir(root)
    for _ in range(rounds):
        generate(Request(stack=stack, no_prune=True), output="pipeline.yml", artifacts_root=stack)


def test_two_writers(stackyard: Stackyard, project: Project, *, long: bool) -> None:
    """Two runs write to one place: at every moment it holds one of their files, whole."""
    rounds = 200 if long else 20
    names = [f"package-{a}{b}" for a in "abcdefgh" for b in "abcdefgh"]
    project.stack(document({name: [] for name in names}), name="first")
    project.stack(document({name: [] for name in names[::2]}), name="second")
    path = project.root / "pipeline.yml"
    expected = set()
    for stack in ("first", "second"):
        flags = ["--no-prune", "--output", path.name, "--artifacts-root", stack]
        stackyard("generate", "--stack", stack, *flags)
        expected.add(path.read_bytes())
    assert len(expected) == 2
    process = multiprocessing.get_context("spawn").Process
    writers = [
        process(target=_generate_often, args=(str(project.root), stack, rounds))
        for stack in ("first", "second")
    ]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(path.read_bytes())
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen == expected
    assert path.read_bytes() in expected
    ended(project)
    assert sorted(entry.name for entry in project.root.iterdir()) == [
        "first",
        "pipeline.yml",
        "second",
        "stacks",
    ]
