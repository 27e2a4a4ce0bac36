"""``spack.clone`` and ``lock``, with a small thing in place of Spack and real repositories of git."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import ROOT, Answer, Project, Stackyard
from fake_spack import spack_files
from git_server import GitServer, Repository, serve_git
from locks import document, key, node

from stackyard.edges.concretizing import concretize
from stackyard.flow import locking
from stackyard.pins import dump_pins, parse_pins
from stackyard.prelude import PACKAGES


class Site(NamedTuple):
    """A project with the stack ``demo``, and servers with Spack and its packages."""

    project: Project
    spack: Repository
    packages: Repository
    server: GitServer
    first: str
    last: str
    recipes: str
    run: Stackyard

    @property
    def stack(self) -> Path:
        return self.project.root / "stacks" / "demo"

    def answers(self, lock: dict[str, Any]) -> None:
        """What the solver will find."""
        self.project.write("stacks/demo/answer.lock", lock)

    @property
    def pins(self) -> dict[str, dict[str, str]]:
        return parse_pins((self.stack / "pins.yaml").read_bytes(), "pins.yaml").as_dict()

    @property
    def made(self) -> dict[str, Any]:
        made: dict[str, Any] = json.loads((self.stack / "spack.lock").read_bytes())
        return made


LOCK = document({"app": ["lib"], "lib": ["base"], "base": []})


@pytest.fixture
def site(
    project: Project, tmp_path: Path, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("STACKYARD_CACHE", str(tmp_path / "cache"))
    served = tmp_path / "served"
    served.mkdir()
    packages = Repository(served / "packages")
    recipes = packages.commit({"repos/recipe": "1\n", "spack-repo-index.yaml": ""})
    packages("branch", "releases/v1")
    spack = Repository(served / "spack")
    with serve_git(served) as server:
        first = spack.commit(spack_files(server.url("packages"), "releases/v1"))
        spack("tag", "releases/latest")
        last = spack.commit({"lib/text": "new\n"})
        project.write("invoke.yaml", "stackyard: {}\n")
        project.stack(LOCK)
        (project.root / "stacks/demo/spack.lock").unlink()
        monkeypatch.setenv("SPACK_REPO", server.url("spack"))
        site = Site(project, spack, packages, server, first, last, recipes, stackyard)
        site.answers(LOCK)
        yield site


# -- spack.clone ----------------------------------------------------------------------------


def test_clone(site: Site, tmp_path: Path) -> None:
    """The newest release, and the packages that it names."""
    to = tmp_path / "spack"
    answer = site.run("spack.clone", "--to", str(to))
    assert answer.out == ""
    assert answer.err.splitlines()[-3:] == [
        f"spack {site.first} (releases/latest)",
        f"packages {site.recipes} (releases/v1)",
        f"ready: . {to}/share/spack/setup-env.sh",
    ]
    head = subprocess.check_output([f"{to}/bin/spack", "--version"], text=True)
    assert head == f"1.1.0 ({site.first})\n"
    assert (to / PACKAGES / "repos" / "recipe").is_file()
    assert f"commit: '{site.recipes}'" in (to / "etc" / "spack" / "repos.yaml").read_text()
    assert subprocess.check_output(["git", "-C", str(to), "status", "--porcelain"]) == b""


def test_clone_again_costs_nothing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACK_CHECKOUT_VERSION", site.last)
    monkeypatch.setenv("SPACK_PACKAGES_CHECKOUT_VERSION", site.recipes)
    to = str(tmp_path / "spack")
    first = json.loads(site.run("spack.clone", "--to", to, "--json").out)
    assert first == {
        "folder": to,
        "changed": True,
        "spack": {"repo": site.server.url("spack"), "commit": site.last},
        "packages": {"repo": site.server.url("packages"), "commit": site.recipes},
    }
    asked = list(site.server.asked)
    again = json.loads(site.run("spack.clone", "--to", to, "--json").out)
    assert again == {**first, "changed": False}
    assert json.loads(site.run("spack.clone", "--to", f"{to}2", "--json").out)["changed"] is True
    assert site.server.asked == asked
    assert site.run("spack.clone", "--to", to).err.splitlines()[-1].startswith("unchanged: ")


def test_clone_at_once(site: Site, tmp_path: Path) -> None:
    """Several callers, one folder: each ends well, and everything comes once."""
    argv = [sys.executable, "-c", "from stackyard.main import main; main()", "spack.clone"]
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SPACK_CHECKOUT_VERSION": site.first,
        "SPACK_PACKAGES_CHECKOUT_VERSION": site.recipes,
    }
    callers = [
        subprocess.Popen([*argv, "--to", str(tmp_path / name)], env=env, cwd=site.project.root,
                         stderr=subprocess.PIPE, text=True)
        for name in "aab"
    ]  # fmt: skip
    ended = [(caller.communicate()[1], caller.returncode) for caller in callers]
    assert [one for one in ended if one[1]] == []
    assert site.server.fetches == 2
    for name in "ab":
        done = subprocess.check_output([f"{tmp_path / name}/bin/spack", "--version"], text=True)
        assert done == f"1.1.0 ({site.first})\n"


def test_clone_for_a_stack(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its pins, or with what the manifest pins; stacks that differ must be named."""
    newer = site.packages.commit({"repos/recipe": "2\n"})
    site.project.stack(
        LOCK, name="other", repos={"builtin": {"git": site.server.url("packages"), "commit": newer}}
    )
    monkeypatch.setenv("SPACK_CHECKOUT_VERSION", site.first)
    answer = site.run("spack.clone", "--to", str(tmp_path / "a"), code=2)
    assert answer.err.startswith("error: --stack: the stacks differ in the Spack or the packages")
    pins = {}
    for name in ("demo", "other"):
        to = str(tmp_path / name)
        out = site.run("spack.clone", "--stack", name, "--to", to, "--json").out
        pins[name] = json.loads(out)["packages"]["commit"]
    assert pins == {"demo": site.recipes, "other": newer}


def test_a_spack_with_its_packages_inside(site: Site, tmp_path: Path) -> None:
    """As all before 1.0; a pin of packages from before is forgotten."""
    to = tmp_path / "spack"
    site.run("spack.clone", "--to", str(to))
    old = site.spack.commit(
        {"etc/spack/defaults/base/repos.yaml": "repos: [$spack/var/spack/repos/builtin]\n"}
    )
    site.project.write("invoke.yaml", f"stackyard: {{spack: {{checkout_version: {old}}}}}\n")
    out = site.run("spack.clone", "--to", str(to), "--json").out
    assert "packages" not in json.loads(out)
    assert not (to / "etc" / "spack" / "repos.yaml").exists()


FAULTS: dict[str, tuple[dict[str, str], int, str]] = {
    "an unknown name": (
        {"SPACK_REF": "releases/lates"},
        2, "SPACK_REF: http://SERVER/spack has no branch and no tag 'releases/lates'",
    ),
    "an unknown commit": (
        {"SPACK_CHECKOUT_VERSION": "1" * 40}, 2, f"http://SERVER/spack: there is no commit {'1' * 40}",
    ),
    "no repository": (
        {"SPACK_REPO": "http://SERVER/nothing"}, 6, "http://SERVER/nothing: there is no git repository",
    ),
    "no address": (
        {"SPACK_REPO": "spack"}, 2, "Spack (SPACK_REPO, SPACK_REF): 'spack' is no address",
    ),
    "an option": (
        {"SPACK_REF": "--upload-pack=x"}, 2, "Spack (SPACK_REPO, SPACK_REF): '--upload-pack=x' cannot",
    ),
    "unknown packages": (
        {"SPACK_PACKAGES_CHECKOUT_VERSION": "v0"}, 2,
        "packages (SPACK_PACKAGES_REPO, repos: in the manifest): http://SERVER/packages has no",
    ),
    "no network": (
        {"SPACK_REPO": "http://127.0.0.1:1/spack"}, 6, "http://127.0.0.1:1/spack: it cannot be",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_clone_that_fails(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr("stackyard.edges.checkout._PAUSE_S", 0)
    env, code, start = FAULTS[case]
    host = f"127.0.0.1:{site.server.server_port}"
    for name, value in env.items():
        monkeypatch.setenv(name, value.replace("SERVER", host))
    to = tmp_path / "spack"
    answer = site.run("spack.clone", "--to", str(to), code=code)
    error = answer.err[answer.err.index("error: ") :]
    assert error.startswith(f"error: {start.replace('SERVER', host)}")
    assert "\n  hint: " in error or case == "an option"
    assert not to.exists()


def test_the_password_is_nowhere(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.server.login = "me:t0psecret"
    monkeypatch.setenv("SPACK_REPO", site.server.url("spack", site.server.login))
    monkeypatch.setenv("SPACK_PACKAGES_REPO", site.server.url("packages", site.server.login))
    answer = site.run("spack.clone", "--to", str(tmp_path / "spack"), "--json")
    locked = site.run("lock")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if b"t0psecret" in path.read_bytes()] == []
    assert "t0psecret" not in "".join((*answer[1:], *locked[1:]))
    monkeypatch.setenv("SPACK_REPO", site.server.url("spack", "me:wr0ngword"))
    monkeypatch.setenv("SPACK_REF", "main")
    refused = site.run("spack.clone", "--to", str(tmp_path / "other"), code=6)
    assert "wr0ngword" not in refused.err
    assert "we may not read it" in refused.err


# -- lock -----------------------------------------------------------------------------------


def test_a_first_lock(site: Site) -> None:
    answer = site.run("lock")
    assert answer.out == "stacks/demo/spack.lock: new, 3 specs\n"
    assert site.made["concrete_specs"] == LOCK["concrete_specs"]
    assert site.made["spack"]["commit"] == site.first
    assert site.pins == {
        "spack": {
            "repo": site.server.url("spack"), "ref": "releases/latest", "commit": site.first,
        },
        "packages": {
            "repo": site.server.url("packages"), "ref": "releases/v1", "commit": site.recipes,
        },
    }  # fmt: skip
    assert sorted(path.name for path in site.stack.iterdir()) == [
        "answer.lock", "pins.yaml", "spack.lock", "spack.yaml",
    ]  # fmt: skip
    assert site.run("lock", "--check").err == (
        "stacks/demo/spack.lock answers stacks/demo/spack.yaml: 1 roots\n"
    )
    assert json.loads(site.run("lock", "--check", "--json").out) == {
        "stack": "demo", "lock": "stacks/demo/spack.lock", "roots": 1, "pins": site.pins,
    }  # fmt: skip
    found = f"ok      demo: pins: spack {site.first[:12]}, packages {site.recipes[:12]}"
    assert found in site.run("doctor", "--offline").out.splitlines()


def test_what_changed(site: Site) -> None:
    site.run("lock")
    assert site.run("lock").out == "stacks/demo/spack.lock: the same specs as before\n"
    before = (site.stack / "spack.lock").stat().st_mtime_ns
    site.run("lock")
    assert (site.stack / "spack.lock").stat().st_mtime_ns == before
    nodes = LOCK["concrete_specs"]
    hashes = {name: key(name)[:-1] + "2" for name in ("app", "lib", "base")}
    changed = [
        node(name, hash=hashes[name], version="2.0" if name == "base" else "1.0", dependencies=[
            {**entry, "hash": hashes[entry["name"]]} for entry in nodes[key(name)]["dependencies"]
        ])
        for name in hashes
    ]  # fmt: skip
    lock = document(changed)
    lock["roots"] = [{"hash": hashes["app"], "spec": "app"}]
    site.answers(lock)
    wanted = [
        "stacks/demo/spack.lock: changed",
        "  ~ base: version 1.0 -> 2.0",
        "  # only by hash, because of base: lib@1.0, app@1.0",
        "  = 0 unchanged",
    ]
    old = (site.stack / "spack.lock").read_bytes()
    assert site.run("lock").out.splitlines() == wanted
    (site.stack / "spack.lock").write_bytes(old)
    told = json.loads(site.run("lock", "--json").out)
    assert told["diff"]["changed"][0]["changes"] == {"version": ["1.0", "2.0"]}
    assert [one["because"] for one in told["diff"]["rehashed"]] == [["base"], ["base"]]
    assert (told["stack"], told["lock"], told["specs"]) == ("demo", "stacks/demo/spack.lock", 3)
    assert told["pins"] == site.pins


def test_the_pins_hold(site: Site) -> None:
    """Names are asked for once; then the commits count, until somebody asks anew."""
    site.run("lock")
    pinned = site.pins
    site.spack("tag", "--force", "releases/latest", site.last)
    newer = site.packages.commit({"repos/recipe": "2\n"})
    site.packages("branch", "--force", "releases/v1")
    asked = list(site.server.asked)
    site.run("lock")
    assert (site.pins, site.server.asked) == (pinned, asked)
    site.run("lock", "--update")
    assert [pin["commit"] for pin in site.pins.values()] == [site.last, newer]


def test_another_name_is_asked_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.run("lock")
    monkeypatch.setenv("SPACK_REF", "main")
    stale = site.run("lock", "--check", code=3)
    assert stale.err == (
        f"error: stacks/demo/pins.yaml: Spack: asked for main, pinned {site.first[:12]}\n"
        "  hint: run: invoke lock --stack demo\n"
    )
    site.run("lock")
    assert site.pins["spack"]["commit"] == site.last
    assert site.pins["spack"]["ref"] == "main"
    site.run("lock", "--check")


def test_the_manifests_own_packages(site: Site) -> None:
    newer = site.packages.commit({"repos/recipe": "2\n"})
    site.run("lock")
    repos = {"builtin": {"git": site.server.url("packages"), "commit": newer}}
    manifest = json.loads((site.stack / "spack.yaml").read_bytes())
    manifest["spack"]["repos"] = repos
    site.project.write("stacks/demo/spack.yaml", manifest)
    assert "the packages: asked for" in site.run("lock", "--check", code=3).err
    site.run("lock")
    assert site.pins["packages"] == {"repo": site.server.url("packages"), "commit": newer}
    site.run("lock", "--check")


def test_the_lock_is_of_another_spack(site: Site) -> None:
    site.run("lock")
    made = site.made
    made["spack"]["commit"] = site.last
    site.project.write("stacks/demo/spack.lock", made)
    error = site.run("lock", "--check", code=3).err
    told = site.run("doctor", "--offline", code=3).out
    assert "failed  demo: pins: stacks/demo/pins.yaml: the lock was made by" in told
    assert f"the lock was made by Spack {site.last[:12]}, the pin is {site.first[:12]}" in error


def test_another_spack_than_the_pinned_one_runs(site: Site) -> None:
    """Behind a wrapper, say: what it made is not written."""
    site.project.write("stacks/demo/script", "commit = '5' * 40")
    error = failed(site, 2)
    assert f"Spack says that it is at {'5' * 40}, and it was put at {site.first}" in error


def test_a_clean_configuration(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine gets in; what Spack finds out about it is forgotten."""
    site.project.write(
        "stacks/demo/script",
        "(Path(scope) / 'packages.yaml').write_text('found: compilers')\nprint('SCOPE', scope)\n",
    )
    monkeypatch.setenv("SPACK_ENV", "/somewhere")
    monkeypatch.setenv("SPACK_USER_CONFIG_PATH", "/home/me/.spack")
    monkeypatch.setenv("SPACK_SYSTEM_CONFIG_PATH", "/etc/spack")
    monkeypatch.setenv("SPACK_PYTHON", sys.executable)
    monkeypatch.setenv("SPACK_SIGNING_KEY", "a secret key")
    answer = site.run("lock")
    seen = re.search(r"Concretizing with \[(.*)\]", answer.err)
    assert seen
    names = set(re.findall(r"\w+", seen[1]))
    assert {"SPACK_DISABLE_LOCAL_CONFIG", "SPACK_USER_CACHE_PATH", "SPACK_PYTHON"} <= names
    assert not names & {
        "SPACK_ENV", "SPACK_USER_CONFIG_PATH", "SPACK_SYSTEM_CONFIG_PATH", "SPACK_SIGNING_KEY",
    }  # fmt: skip
    scope = re.search(r"SCOPE (\S+)", answer.err)
    assert scope
    assert f'"install_tree": {{"root": "{scope[1]}/tree"}}' in answer.err
    assert f'"misc_cache": "{scope[1]}/cache"' in answer.err
    assert not Path(scope[1]).exists()


def test_what_spack_found_out_about_its_packages(site: Site) -> None:
    """Is there the next time, with its time; not so what it found out about others."""
    script = (
        "cache = Path(json.loads((Path(scope) / 'config.yaml').read_text())['config']['misc_cache'])"
        "\nprint('THERE', [(str(path.relative_to(cache)), path.stat().st_mtime_ns)"
        " for path in sorted(cache.rglob('*.json'))])\n"
        "for name in ('builtin', 'mine'):\n"
        "    path = cache / 'tags' / (name + '-specfile_v5-index.json')\n"
        "    path.parent.mkdir(parents=True, exist_ok=True); path.write_text('{}')\n"
        "    os.utime(path, ns=(1, 10**18))\n"
    )
    site.project.write("stacks/demo/script", f"{script}sys.exit(1)\n")
    assert "THERE []" in site.run("lock", code=5).err
    kept = "THERE [('tags/builtin-specfile_v5-index.json', 1000000000000000000)]"
    site.project.write("stacks/demo/script", script)
    assert kept in site.run("lock").err  # Spack found no solution, and yet this is remembered
    site.packages.commit({"repos/recipe": "2\n"})
    site.packages("branch", "--force", "releases/v1")
    assert "THERE []" in site.run("lock", "--update").err


def test_keep_config(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACK_USER_CONFIG_PATH", "/home/me/.spack")
    answer = site.run("lock", "--keep-config")
    assert "'SPACK_USER_CONFIG_PATH'" in answer.err
    assert "SPACK_DISABLE_LOCAL_CONFIG" not in answer.err
    assert "==> Scope: None" in answer.err


def test_paths_in_the_manifest(site: Site) -> None:
    """Spack runs in a copy, and relative paths lead to the same files from there."""
    site.project.write("common/packages.yaml", "packages: {}\n")
    site.project.write("stacks/other/text", "of the neighbour")
    site.project.write("stacks/demo/own/text", "own")
    site.project.write(
        "stacks/demo/script",
        "for name in ('../../common/packages.yaml', '../other/text', 'own/text', '../../invoke.yaml'):"
        "\n    print('READ', name, (environment / name).read_text())\n"
        "print('PLACE', environment, sorted(path.name for path in environment.iterdir()))\n"
        "print('ABOVE', sorted(path.name for path in (environment / '../..').iterdir()))\n",
    )
    site.project.write(".git/HEAD", "")
    site.run("lock")  # now there are a lock and pins, which the copy has not
    said = site.run("lock").err
    assert re.findall(r"READ (\S+)", said) == [
        "../../common/packages.yaml", "../other/text", "own/text", "../../invoke.yaml",
    ]  # fmt: skip
    place = re.search(r"PLACE (\S+) (.*)", said)
    assert place
    assert place[2] == "['answer.lock', 'own', 'script', 'spack.yaml']"
    assert not Path(place[1]).exists()
    assert "ABOVE ['common', 'invoke.yaml', 'stacks']" in said


def failed(site: Site, code: int, *arguments: str) -> str:
    """The error of a run that must leave lock and pins as they are."""
    before = site.project.files()
    answer = site.run("lock", *arguments, code=code)
    assert answer.out == ""
    assert site.project.files() == before
    return answer.err[answer.err.index("error: ") :]


@pytest.mark.parametrize("locked", [False, True])
def test_whole_or_not_at_all(site: Site, *, locked: bool) -> None:
    if locked:
        site.run("lock")
    script = site.project.write
    script("stacks/demo/script", "print('==> Error: no solution'); sys.exit(1)")
    assert failed(site, 5) == (
        "error: spack concretize failed: ==> Error: no solution\n"
        "  hint: what Spack said stands above; nothing was written\n"
    )
    script("stacks/demo/script", "os.kill(os.getpid(), 9)")
    assert failed(site, 5).startswith("error: spack concretize failed: ==> Concretizing with")
    script("stacks/demo/script", "sys.exit(0)")
    assert failed(site, 2).splitlines()[0].endswith(": Spack made no lock")
    script("stacks/demo/script", "(environment / 'spack.lock').write_text('{'); sys.exit(0)")
    assert "stacks/demo/spack.lock: the file is cut off" in failed(site, 2)
    script("stacks/demo/script", "")
    site.answers(document({"other": []}))
    assert "the lock has no root for what stacks/demo/spack.yaml asks: app" in failed(site, 3)
    lock = document({"app": []})
    lock["concrete_specs"][key("app")]["parameters"]["dev_path"] = "HERE"
    site.answers(lock)
    script(
        "stacks/demo/script",
        "path = environment / 'answer.lock'; text = path.read_text()\n"
        "path.unlink(); path.write_text(text.replace('HERE', str(environment) + '/src'))\n",
    )
    assert "the lock would name a path of this run" in failed(site, 2)


def test_an_old_lock_that_nobody_can_read(site: Site) -> None:
    site.project.write("stacks/demo/spack.lock", "<<<<<<< HEAD\n")
    answer = site.run("lock")
    assert answer.out == "stacks/demo/spack.lock: new, 3 specs\n"
    assert "warning: stacks/demo/spack.lock: the file is not JSON" in answer.err


def test_spack_at_hand(site: Site, tmp_path: Path) -> None:
    """Its own commit is what gets pinned; nobody asks a server."""
    to = tmp_path / "mine"
    subprocess.run(["git", "clone", "--quiet", site.spack.folder, to], check=True)
    answer = site.run("lock", "--spack", str(to))
    assert answer.out == "stacks/demo/spack.lock: new, 3 specs\n"
    assert site.pins == {"spack": {"repo": site.server.url("spack"), "commit": site.last}}
    assert "the packages of this Spack are no git checkout: they get no pin" in answer.err
    assert site.server.asked == []
    again = site.run("lock", "--spack", str(to))
    assert "pinned was" not in again.err
    subprocess.run(["git", "-C", to, "checkout", "--quiet", site.first], check=True)
    moved = site.run("lock", "--spack", str(to))
    assert f"{to} is at {site.first[:12]}; pinned was {site.last[:12]}" in moved.err
    assert site.pins["spack"]["commit"] == site.first


def test_packages_at_hand(site: Site, tmp_path: Path) -> None:
    to = tmp_path / "mine"
    site.run("spack.clone", "--to", str(to))
    site.run("lock", "--spack", str(to))
    assert site.pins["packages"]["commit"] == site.recipes
    site.run("lock", "--check")


def test_spack_at_hand_without_git(site: Site, tmp_path: Path) -> None:
    """A release as an archive: its lock says no commit, and there is nothing to pin."""
    to = tmp_path / "mine"
    subprocess.run(["git", "clone", "--quiet", site.spack.folder, to], check=True)
    (to / ".git").rename(tmp_path / "away")
    answer = site.run("lock", "--spack", str(to))
    assert "is no git checkout: pins.yaml is not written" in answer.err
    assert not (site.stack / "pins.yaml").exists()
    assert site.made["spack"]["version"] == "1.1.0"


def test_no_spack_there(site: Site, tmp_path: Path) -> None:
    assert failed(site, 2, "--spack", str(tmp_path)).startswith(
        f"error: --spack: an executable bin/spack is not in it: {tmp_path}\n"
    )


def test_options_that_do_not_go_together(site: Site) -> None:
    site.run("lock")
    for flag in (["--update"], ["--keep-config"], ["--spack", "x"]):
        error = failed(site, 2, "--check", *flag)
        assert "say how a lock is made" in error
    assert "a new lock lies beside its manifest" in failed(site, 2, "--lock", "x")


def test_a_heartbeat(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent solver: lines that keep a CI system from ending the job."""
    site.project.write(
        "stacks/demo/script",
        "import time\n"
        "while not os.path.exists(__file__ + '.heard'): time.sleep(0.02)\n"
        "print('==> Heard')\n",
    )
    heard: list[float] = []

    def beat(seconds: float) -> None:
        heard.append(seconds)
        folder = next((Path(os.environ["STACKYARD_CACHE"]) / "spack").iterdir())
        (folder / "bin" / "spack.heard").touch()

    monkeypatch.setattr(locking, "_beat", beat)
    monkeypatch.setattr(
        locking, "concretize", lambda *a, **k: concretize(*a, **{**k, "beat_s": 0.05})
    )
    assert "==> Heard" in site.run("lock").err
    assert heard
    assert heard == sorted(heard)


def test_what_a_heartbeat_says(capsys: pytest.CaptureFixture[str]) -> None:
    locking._beat(185.0)
    assert capsys.readouterr().err == "still concretizing, 3 min so far\n"


def test_output_comes_as_it_is_said(site: Site) -> None:
    """Line by line, not at the end: the script waits until its first line was read."""
    site.project.write(
        "stacks/demo/script",
        "import time\nprint('==> FIRST')\n"
        "while not os.path.exists(__file__ + '.seen'): time.sleep(0.02)\n",
    )
    code = "from stackyard.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "lock"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=site.project.root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr
        assert any("==> FIRST" in line for line in process.stderr)
        folder = next((Path(os.environ["STACKYARD_CACHE"]) / "spack").iterdir())
        (folder / "bin" / "spack.seen").touch()
        process.stderr.read()
    assert process.returncode == 0


# -- in CI ----------------------------------------------------------------------------------


def generated(site: Site, *arguments: str, code: int = 0) -> Answer:
    return site.run("generate", "--stack", "demo", "--no-prune", *arguments, code=code)


def test_outside_of_ci_a_lock_is_asked_for(site: Site) -> None:
    answer = generated(site, code=2)
    assert answer.err == (
        "error: stacks/demo/spack.lock: the stack is not locked\n"
        "  hint: run: invoke lock --stack demo\n"
    )


def test_in_ci_it_is_locked_first(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    answer = generated(site)
    assert "stacks/demo/spack.lock is not committed: making it with the pinned Spack" in answer.err
    assert "==> Concretizing with" in answer.err
    beside = site.project.root / "jobs_scratch_dir" / "concrete_environment" / "spack.lock"
    assert json.loads(beside.read_bytes()) == site.made
    assert site.made["concrete_specs"] == LOCK["concrete_specs"]
    assert site.first in site.project.child.read_text()
    asked = list(site.server.asked)
    again = generated(site)
    assert "not committed" not in again.err
    assert site.server.asked == asked


@pytest.mark.parametrize("ci", ["", "false", "0"])
def test_what_is_no_ci(site: Site, monkeypatch: pytest.MonkeyPatch, ci: str) -> None:
    monkeypatch.setenv("CI", ci)
    assert "the stack is not locked" in generated(site, code=2).err


def test_in_ci_a_check_makes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    before = site.project.files()
    assert "the stack is not locked" in generated(site, "--check", code=2).err
    other = generated(site, "--lock", "elsewhere.lock", code=2)
    assert "elsewhere.lock: the stack is not locked" in other.err
    assert site.project.files() == before


def test_the_pins_are_what_the_jobs_get(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock may say less than its pins; the environment still wins."""
    site.run("lock")
    made = site.made
    del made["spack"]["commit"]
    site.project.write("stacks/demo/spack.lock", made)
    pins = parse_pins((site.stack / "pins.yaml").read_bytes(), "x")
    pins = pins._replace(spack=pins.spack._replace(commit="5" * 40))
    (site.stack / "pins.yaml").write_bytes(dump_pins(pins))
    generated(site)
    assert f'"SPACK_CHECKOUT_VERSION": "{"5" * 40}"' in _variables(site)
    monkeypatch.setenv("SPACK_CHECKOUT_VERSION", site.last)
    generated(site)
    assert f'"SPACK_CHECKOUT_VERSION": "{site.last}"' in _variables(site)


def _variables(site: Site) -> str:
    import yaml

    return json.dumps(yaml.safe_load(site.project.child.read_text())["variables"])


def test_jobs_that_clone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.run("lock")
    site.project.write("stacks/demo/stack.yaml", "jobs: {clone: true}\n")
    monkeypatch.delenv("SPACK_REPO")
    generated(site)
    told = json.loads(_variables(site))
    assert told["SPACK_REPO"] == site.server.url("spack")
    assert told["SPACK_CHECKOUT_VERSION"] == site.first
    assert told["SPACK_PACKAGES_REPO"] == site.server.url("packages")
    assert told["SPACK_PACKAGES_CHECKOUT_VERSION"] == site.recipes
