"""One commit of a repository: from servers of several kinds, into a cache, into a folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT
from git_server import GitServer, Repository, serve_git

from stackyard.edges.checkout import Git, Kept, cache_folder, head_of, resolve
from stackyard.edges.settings import Environment
from stackyard.errors import (
    ConfigError,
    DeniedError,
    NotFoundError,
    StackyardError,
    ToolError,
    UnreachableError,
)
from stackyard.pins import Pin

#: A file that every commit of the repository shares, and that no compression makes small.
BIG = os.urandom(300_000)


class Place(NamedTuple):
    """A repository behind a server, its commits, and an empty cache; no name leads to ``hidden``."""

    repository: Repository
    server: GitServer
    first: str
    second: str
    hidden: str
    last: str
    kept: Kept
    told: list[str]
    slept: list[float]

    def pin(self, commit: str = "", ref: str = "") -> Pin:
        return Pin(self.server.url("one"), ref, commit)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Branches ``main`` and ``feature/x``, an annotated and a plain tag."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    one = Repository(tmp_path / "served" / "one")
    first = one.commit({"big": BIG, "text": "1\n", "gone": "x"})
    one("tag", "--annotate", "--message=x", "v1.0")
    (one.folder / "gone").unlink()
    second = one.commit({"text": "2\n"})
    one("branch", "feature/x")
    one("tag", "plain")
    hidden = one.commit({"text": "hidden\n"})
    last = one.commit({"text": "3\n"})
    told: list[str] = []
    slept: list[float] = []
    git = Git.of(Environment.snapshot())._replace(tell=told.append, sleep=slept.append)
    with serve_git(tmp_path / "served") as server:
        kept = Kept(tmp_path / "cache", git)
        yield Place(one, server, first, second, hidden, last, kept, told, slept)


def files(folder: Path) -> dict[str, bytes]:
    """What a checkout shows, without what is hidden."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


# -- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("ref", "commit"),
    [
        ("main", "last"),
        ("HEAD", "last"),
        ("feature/x", "second"),
        ("refs/heads/feature/x", "second"),
        ("v1.0", "first"),
        ("refs/tags/v1.0", "first"),
        ("plain", "second"),
    ],
)
def test_a_name_becomes_a_commit(place: Place, ref: str, commit: str, *, old: bool) -> None:
    place.server.old = old
    found = resolve(place.pin(ref=ref), place.kept.git, "x")
    assert found == place.pin(getattr(place, commit), ref)
    assert place.server.fetches == 0


def test_a_commit_needs_no_server() -> None:
    pin = Pin("http://127.0.0.1:1/x", "", "1" * 40)
    assert resolve(pin, Git({}), "x") == pin


@pytest.mark.parametrize(
    ("ref", "hint"),
    [
        ("mian", "did you mean 'main'?"),
        ("v1", "did you mean 'v1.0'?"),
        ("abcdef0", "write a commit in full, 40 digits"),
    ],
)
def test_a_name_that_nobody_knows(place: Place, ref: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(place.pin(ref=ref), place.kept.git, "$SPACK_REF")
    assert str(error.value) == (
        f"$SPACK_REF: {place.server.url('one')} has no branch and no tag {ref!r}\n  hint: {hint}"
    )


def test_a_name_with_two_meanings(place: Place) -> None:
    place.repository("tag", "feature/x", place.first)
    with pytest.raises(ConfigError, match="is a branch and a tag") as error:
        resolve(place.pin(ref="feature/x"), place.kept.git, "x")
    assert error.value.hint == "write which: refs/tags/feature/x or refs/heads/feature/x"
    full = resolve(place.pin(ref="refs/heads/feature/x"), place.kept.git, "x")
    assert full.commit == place.second


# -- fetching -------------------------------------------------------------------------------


def test_one_commit_and_nothing_else(place: Place, tmp_path: Path) -> None:
    to = tmp_path / "new" / "folder"
    assert place.kept.check_out(place.pin(place.second), to) is True
    assert files(to) == {"big": BIG, "text": b"2\n"}
    assert head_of(to, place.kept.git) == place.second
    git = ["git", "-C", str(to)]
    count = subprocess.check_output([*git, "rev-list", "--count", "HEAD"], text=True)
    assert count == "1\n"
    assert subprocess.check_output([*git, "status", "--porcelain", "--ignored"]) == b"!! .pinned/\n"
    assert place.server.fetches == 1


def test_nothing_is_asked_twice(place: Place, tmp_path: Path) -> None:
    pin = place.pin(place.second)
    place.kept.check_out(pin, tmp_path / "a")
    before = list(place.server.asked)
    assert place.kept.check_out(pin, tmp_path / "a") is False
    assert place.kept.check_out(pin, tmp_path / "b") is True
    assert place.server.asked == before
    assert files(tmp_path / "b") == files(tmp_path / "a")


def test_another_commit_costs_the_difference(place: Place, tmp_path: Path) -> None:
    for name in ("a", "b"):
        place.kept.check_out(place.pin(place.first), tmp_path / name)
    whole = place.server.sent
    assert whole > len(BIG) / 2
    place.kept.check_out(place.pin(place.last), tmp_path / "a")
    assert place.server.sent - whole < 2_000
    assert files(tmp_path / "a") == {"big": BIG, "text": b"3\n"}
    assert files(tmp_path / "b")["text"] == b"1\n"
    assert place.kept.check_out(place.pin(place.first), tmp_path / "a") is True
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_file_of_a_commit(place: Place) -> None:
    assert place.kept.read(place.pin(place.second), "text") == b"2\n"
    assert place.kept.read(place.pin(place.second), "gone") is None


def test_a_file_url(place: Place, tmp_path: Path) -> None:
    pin = Pin(place.repository.url, "", place.second)
    assert place.kept.check_out(pin, tmp_path / "to") is True
    assert files(tmp_path / "to")["text"] == b"2\n"


def test_a_server_that_refuses_commits(place: Place, tmp_path: Path) -> None:
    place.server.old = True
    place.kept.check_out(place.pin(place.first), tmp_path / "to")
    place.kept.check_out(place.pin(place.hidden), tmp_path / "to")
    assert files(tmp_path / "to")["text"] == b"hidden\n"
    assert [line for line in place.told if "all branches and tags" in line] != []
    place.kept.check_out(place.pin(place.first), tmp_path / "to")
    assert files(tmp_path / "to")["text"] == b"1\n"


def test_a_server_that_refuses_commits_gives_names(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name that the commit was found by is asked for, which is almost as little."""
    place.server.old = True
    monkeypatch.setattr(Kept, "_try_one", lambda *_: False)
    place.kept.check_out(place.pin(place.first, "v1.0"), tmp_path / "to")
    assert files(tmp_path / "to")["text"] == b"1\n"
    assert [line for line in place.told if "all branches" in line] == []


def test_a_name_that_moved_on(place: Place, tmp_path: Path) -> None:
    """What the name means now is not what was pinned."""
    place.server.old = True
    place.kept.check_out(place.pin(place.hidden, "main"), tmp_path / "to")
    assert files(tmp_path / "to")["text"] == b"hidden\n"


@pytest.mark.parametrize("old", [False, True])
def test_a_commit_that_is_not_there(place: Place, tmp_path: Path, *, old: bool) -> None:
    place.server.old = old
    with pytest.raises(ConfigError, match=f"there is no commit {'1' * 40}"):
        place.kept.check_out(place.pin("1" * 40), tmp_path / "to")
    assert not (tmp_path / "to").exists()
    # A server of today knows for sure, and nobody fetches everything to see it.
    assert [line for line in place.told if "all branches" in line] == [
        f"{place.server.url('one')} hands out no single commits: fetching all branches and tags"
    ] * old


# -- faults ---------------------------------------------------------------------------------


def raised(place: Place, pin: Pin) -> StackyardError:
    with pytest.raises(StackyardError) as error:
        place.kept.fetch(pin)
    assert not list((place.kept.folder / "git").glob("*/refs/pins/*"))
    return error.value


def test_no_network(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/one"
        error = raised(place, Pin(url, "", place.first))
        with pytest.raises(UnreachableError):
            resolve(Pin(url, "main"), place.kept.git, "x")
    assert isinstance(error, UnreachableError)
    assert (error.where, error.code) == (url, 6)
    assert place.slept == [4.0, 8.0] * 2
    assert "found without one" in error.hint


def test_a_hiccup(place: Place) -> None:
    place.server.failing = 2
    place.kept.fetch(place.pin(place.first))
    assert place.slept == [4.0, 8.0]


def test_no_such_repository(place: Place, tmp_path: Path) -> None:
    for url in (place.server.url("two"), (tmp_path / "nowhere").as_uri(), str(tmp_path)):
        error = raised(place, Pin(url, "", place.first))
        assert isinstance(error, NotFoundError)
        assert error.where == url
    assert place.slept == []


def test_credentials(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.server.login = "me:p4ssw0rd"
    assert isinstance(raised(place, place.pin(place.first)), DeniedError)
    wrong = Pin(place.server.url("one", "me:wr0ngword"), "", place.first)
    assert isinstance(raised(place, wrong), DeniedError)
    trace = tmp_path / "trace"
    git = place.kept.git
    kept = place.kept._replace(git=git._replace(env={**git.env, "GIT_TRACE": str(trace)}))
    kept.check_out(Pin(place.server.url("one", "me:p4ssw0rd"), "", place.first), tmp_path / "to")
    # Git writes there all that it runs: no argument, no file and no message has the password.
    assert "git-remote-http" in trace.read_text()
    assert "p4ssw0rd" not in trace.read_text() + "".join(place.told) + repr(git)
    for folder in (tmp_path / "to" / ".git", place.kept.folder):
        texts = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
        assert [text for text in texts if b"p4ssw0rd" in text] == []
    assert place.slept == []


def test_an_escaped_password(place: Place) -> None:
    place.server.login = "me:p@ss/word"
    place.kept.fetch(Pin(place.server.url("one", "me:p%40ss%2Fword"), "", place.first))


def test_no_git(place: Place, tmp_path: Path) -> None:
    kept = place.kept._replace(git=Git({"PATH": str(tmp_path)}))
    with pytest.raises(ToolError) as error:
        kept.fetch(place.pin(place.first))
    assert error.value.hint == "install git"


def test_a_hook_of_another_repository(place: Place, tmp_path: Path) -> None:
    """Git gives hooks variables that would turn all we do to the repository of the hook."""
    other = Repository(tmp_path / "other")
    other.commit({"file": "x"})
    before = other("log", "--oneline", "--all")
    hook = Environment({**os.environ, "GIT_DIR": f"{other.folder}/.git", "GIT_INDEX_FILE": "index"})
    kept = place.kept._replace(git=Git.of(hook)._replace(tell=place.told.append))
    kept.check_out(place.pin(place.second), tmp_path / "to")
    assert files(tmp_path / "to")["text"] == b"2\n"
    assert other("log", "--oneline", "--all") == before
    assert other("status", "--porcelain") == ""


# -- folders --------------------------------------------------------------------------------


def test_changed_files_stay(place: Place, tmp_path: Path) -> None:
    to = tmp_path / "to"
    place.kept.check_out(place.pin(place.first), to)
    (to / "text").write_text("mine\n")
    for commit in (place.first, place.second):
        with pytest.raises(ConfigError, match="files were changed there: text") as error:
            place.kept.check_out(place.pin(commit), to)
        assert error.value.where == str(to)
    assert (to / "text").read_text() == "mine\n"
    assert head_of(to, place.kept.git) == place.first


def test_other_files_stay(place: Place, tmp_path: Path) -> None:
    """Packages that Spack installed, its configuration."""
    to = tmp_path / "to"
    place.kept.check_out(place.pin(place.second), to)
    (to / "opt").write_text("installed\n")
    assert place.kept.check_out(place.pin(place.second), to) is False
    place.kept.check_out(place.pin(place.last), to)
    assert (to / "opt").read_text() == "installed\n"
    (to / "gone").write_text("mine\n")
    with pytest.raises(ConfigError, match="in the way"):
        place.kept.check_out(place.pin(place.first), to)
    assert (to / "gone").read_text() == "mine\n"
    assert place.kept.check_out(place.pin(place.last), to) is False


def test_strangers(place: Place, tmp_path: Path) -> None:
    """A folder that we did not make is never touched."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    Repository(tmp_path / "mine").commit({"file": "x"})
    (tmp_path / "link").symlink_to("nowhere")
    for name, what in {
        "file": "it is a file",
        "full": "a folder with other files",
        "mine": "a git repository",
        "link": "a link to nothing",
    }.items():
        before = sorted(str(path) for path in tmp_path.rglob("*") if "cache" not in path.parts)
        with pytest.raises(ConfigError, match=what):
            place.kept.check_out(place.pin(place.first), tmp_path / name)
        assert before == sorted(
            str(path) for path in tmp_path.rglob("*") if "cache" not in path.parts
        )
    assert place.server.asked == []


def test_an_empty_folder_and_a_link_to_one(place: Place, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    place.kept.check_out(place.pin(place.first), tmp_path / "link")
    assert files(tmp_path / "empty")["text"] == b"1\n"


def test_a_folder_that_cannot_be_written(place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot write there"):
        place.kept.check_out(place.pin(place.first), tmp_path / "file" / "below")


def test_who_was_killed(place: Place, tmp_path: Path) -> None:
    """In the middle of a checkout: the next one ends it, whatever was left."""
    to = tmp_path / "to"
    place.kept.check_out(place.pin(place.first), to)
    (to / ".git" / "stackyard-begun").touch()
    (to / ".git" / "index.lock").touch()
    (to / "text").write_text("half")
    (to / "big").unlink()
    for commit, text in ((place.second, b"2\n"), (place.second, b"2\n")):
        place.kept.check_out(place.pin(commit), to)
        assert files(to) == {"big": BIG, "text": text}
    assert not (to / ".git" / "stackyard-begun").exists()


def test_who_was_killed_before_git_began(place: Place, tmp_path: Path) -> None:
    (tmp_path / "to" / ".pinned").mkdir(parents=True)
    place.kept.check_out(place.pin(place.first), tmp_path / "to")
    assert files(tmp_path / "to")["text"] == b"1\n"


def test_a_damaged_cache(place: Place, tmp_path: Path) -> None:
    bare = place.kept.fetch(place.pin(place.first))
    for path in (bare / "objects").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    place.kept.check_out(place.pin(place.first), tmp_path / "to")
    assert files(tmp_path / "to")["text"] == b"1\n"
    assert head_of(tmp_path / "to", place.kept.git) == place.first


def test_a_cache_that_lost_its_objects(place: Place, tmp_path: Path) -> None:
    bare = place.kept.fetch(place.pin(place.first))
    shutil.rmtree(bare / "objects")
    (bare / "objects").mkdir()
    place.kept.check_out(place.pin(place.first), tmp_path / "to")
    assert files(tmp_path / "to")["text"] == b"1\n"


def test_left_locks_of_git(place: Place) -> None:
    bare = place.kept.fetch(place.pin(place.first))
    for name in ("shallow.lock", "packed-refs.lock", "config.lock"):
        (bare / name).touch()
    place.kept.fetch(place.pin(place.second))
    assert place.kept.read(place.pin(place.second), "text") == b"2\n"


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder({"STACKYARD_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert cache_folder({"XDG_CACHE_HOME": "/b", "HOME": "/c"}) == Path("/b/stackyard")
    assert cache_folder({"HOME": "/c"}) == Path("/c/.cache/stackyard")


# -- several at once ------------------------------------------------------------------------

_CALL = """
import sys
from pathlib import Path
from stackyard.edges.checkout import Git, Kept
from stackyard.edges.settings import Environment
from stackyard.pins import Pin
url, commit, cache, to = sys.argv[1:]
Kept(Path(cache), Git.of(Environment.snapshot())).check_out(Pin(url, "", commit), Path(to))
"""


def call(place: Place, commit: str, to: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _CALL, place.server.url("one"), commit,
         str(place.kept.folder), str(to)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def test_many_at_once(place: Place, tmp_path: Path) -> None:
    """Two folders, two commits, one cache: each commit comes once, and every folder is right."""
    wanted = {"a": place.second, "b": place.second, "c": place.last}
    callers = [call(place, wanted[name], tmp_path / name) for name in "aabbcc"]
    ended = [(caller.communicate()[1], caller.returncode) for caller in callers]
    assert [one for one in ended if one[1]] == []
    for name, commit in wanted.items():
        assert head_of(tmp_path / name, place.kept.git) == commit
        assert place.kept.check_out(place.pin(commit), tmp_path / name) is False
    # Six callers; and who comes second may need two rounds to tell what is there already.
    assert place.server.fetches in {2, 3}


def test_a_waiting_one_is_let_in_when_the_other_is_killed(place: Place, tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/one"
        stuck = subprocess.Popen(
            [sys.executable, "-c", _CALL, url, place.first, str(place.kept.folder),
             str(tmp_path / "to")],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        connection, _ = silent.accept()  # now it holds the locks
        connection.close()
        stuck.send_signal(signal.SIGKILL)
        stuck.wait()
    place.kept.check_out(place.pin(place.first), tmp_path / "to")
    assert files(tmp_path / "to")["text"] == b"1\n"
