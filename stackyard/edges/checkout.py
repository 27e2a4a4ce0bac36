"""One commit of a git repository: fetched once and without its history, kept, checked out anywhere.

The cache holds a bare repository for each address, and in it one ref for each commit. So a new
commit costs what it does not share with those that are there, and an old one nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from stackyard.edges import console
from stackyard.edges.process import Output, run
from stackyard.edges.settings import Environment, conceal
from stackyard.errors import (
    ConfigError,
    CorruptError,
    DeniedError,
    NotFoundError,
    StackyardError,
    ToolError,
    UnreachableError,
)
from stackyard.pins import Pin, public_repo
from stackyard.prelude import FOLDER
from stackyard.shape import near

__all__ = ["Git", "Kept", "cache_folder", "head_of", "resolve"]

Tell = Callable[[str], None]

#: For the answers, which we read; and nobody is there to type a password.
_ALWAYS = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
#: Git sets these for its hooks, and they would turn all that we do to that repository.
_NEVER = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_DIR",
        "GIT_INDEX_FILE",
        "GIT_NAMESPACE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_WORK_TREE",
        "SPACK_SIGNING_KEY",
    }
)
_OPTIONS = {
    "advice.detachedHead": "false",
    "core.hooksPath": os.devnull,
    "gc.auto": "0",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
    "maintenance.auto": "false",
}
#: Hands git the address with name and password, which then is in no list of processes.
_HELPER = '!f() { printf "url=%s\\n" "$STACKYARD_GIT_URL"; }; f'
_PASSWORD = re.compile(r"https?://[^/?#]*?:?([^:/?#@]+)@")

#: A refusal to hand out a commit that no branch or tag is at; such servers may still have it.
_REFUSED = re.compile(
    r"not our ref|unadvertised object|want [0-9a-f]+ not valid|dumb http transport"
    r"|does not support (?:shallow|--depth)"
)
#: In version 2 of git's protocol a server says this only of what it does not have.
_ABSENT = "not our ref"
_VERSION_2 = re.compile(r"packet:.*< version 2")
#: What git says, the error that it is, and how people may go on; the first that fits.
_FAILURES: Sequence[tuple[re.Pattern[str], type[StackyardError], str, str]] = (
    (
        re.compile(
            r"Authentication failed|could not read (?:User|Pass)|Permission denied|Access denied"
            r"|error: 40[13]|HTTP 40[13]|terminal prompts disabled|publickey"
        ),
        DeniedError,
        "we may not read it",
        "for a private one give a token (https://user:token@host/...) or a credential helper of git",
    ),
    (
        re.compile(
            r"not appear to be a git repo|(?i:repository) [^\n]*not found|does not exist"
            r"|not a git repo|error: 404|HTTP 404|No such file or directory"
        ),
        NotFoundError,
        "there is no git repository",
        "is the address right?",
    ),
    (
        re.compile(
            r"[Cc]ould not resolve|[Cc]ouldn't resolve|[Cc]ould not connect|[Ff]ailed to connect"
            r"|Connection (?:refused|reset|closed|timed out)|timed out|Network is unreachable"
            r"|unable to access|hung up|early EOF|RPC failed|Operation too slow|unexpected disconn"
            r"|error: 5\d\d|HTTP 5\d\d|No route to host|[Ee]mpty reply|invalid index-pack"
            r"|bad line length|expected packfile|protocol error"
        ),
        UnreachableError,
        "it cannot be reached",
        "is there a network, a proxy? What was fetched before is found without one",
    ),
)
_TRIES = 3
_PAUSE_S = 2.0
_ALL = "+refs/{0}/*:refs/whole/{0}/*"
#: Where no repository is: in one that belongs to somebody else git refuses everything.
_NOWHERE = Path("/")


class Git(NamedTuple):
    """How git is run: with which variables, and who is told of what takes long."""

    env: Mapping[str, str]
    tell: Tell = console.note
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def of(cls, env: Environment) -> Git:
        return cls({name: value for name, value in env.items() if name not in _NEVER} | _ALWAYS)

    def __repr__(self) -> str:
        """Without the variables."""
        return "Git()"

    def run(self, folder: Path, *arguments: str, repo: str = "") -> Output:
        """``repo`` is the address that it will speak with, where that may have a password."""
        argv = ["git", "-C", str(folder)]
        for name, value in _OPTIONS.items():
            argv += ["-c", f"{name}={value}"]
        env = self.env
        if repo != public_repo(repo):
            argv += ["-c", "credential.helper=", "-c", f"credential.helper={_HELPER}"]
            env = {**env, "STACKYARD_GIT_URL": repo}
        return run([*argv, *arguments], env=env)

    def talk(self, folder: Path, *arguments: str, repo: str) -> Output:
        """Speak with a server; what may be a hiccup of the network is tried again."""
        _hide_password(repo)
        output = self.run(folder, *arguments, repo=repo)
        for count in range(1, _TRIES):
            if not output.code or _kind(output.stderr)[0] is not UnreachableError:
                break
            pause = _PAUSE_S * 2**count
            self.tell(f"{public_repo(repo)}: {_last(output.stderr)}; once more in {pause:g} s")
            self.sleep(pause)
            output = self.run(folder, *arguments, repo=repo)
        return output


def cache_folder(env: Mapping[str, str]) -> Path:
    """Where this user keeps what can be fetched again."""
    if own := env.get("STACKYARD_CACHE"):
        return Path(own).absolute()
    base = env.get("XDG_CACHE_HOME") or Path(env.get("HOME") or "~").expanduser() / ".cache"
    return Path(base) / "stackyard"


# -- names ----------------------------------------------------------------------------------


def resolve(pin: Pin, git: Git, where: str) -> Pin:
    """The pin with the commit that its name means on the server at this moment.

    Raises ConfigError naming ``where`` for a name that the server does not have, or has twice with
    two meanings; StoreError where it cannot be asked.
    """
    if pin.commit:
        return pin
    output = git.talk(_NOWHERE, "ls-remote", "--", public_repo(pin.repo), repo=pin.repo)
    if output.code:
        raise _failure(pin.repo, output.stderr)
    refs = {}
    for line in output.stdout.decode(errors="replace").splitlines():
        commit, _, name = line.partition("\t")
        refs[name] = commit
    commit = _commit_of(pin, refs, where)
    return pin._replace(commit=commit)


def _commit_of(pin: Pin, refs: Mapping[str, str], where: str) -> str:
    names = [pin.ref] if pin.ref == "HEAD" or pin.ref.startswith("refs/") else _full(pin.ref)
    # An annotated tag is an object of its own; what it stands for is listed as "name^{}".
    found = {name: refs.get(f"{name}^{{}}", refs[name]) for name in names if name in refs}
    if len(set(found.values())) > 1:
        raise ConfigError(
            f"{pin.ref} is a branch and a tag of {public_repo(pin.repo)}, at two commits",
            where=where,
            hint=f"write which: {' or '.join(found)}",
        )
    if found:
        return next(iter(found.values()))
    hint = "write a commit in full, 40 digits" if re.fullmatch(r"[0-9a-f]{7,39}", pin.ref) else ""
    known = {name.split("/", 2)[2] for name in refs if name.count("/") > 1 and "^" not in name}
    raise ConfigError(
        f"{public_repo(pin.repo)} has no branch and no tag {pin.ref!r}",
        where=where,
        hint=hint or near(pin.ref, sorted(known)) or "git ls-remote lists them",
    )


def _full(name: str) -> list[str]:
    return [f"refs/tags/{name}", f"refs/heads/{name}"]


# -- the cache ------------------------------------------------------------------------------


class Kept(NamedTuple):
    """The repositories in a cache folder."""

    folder: Path
    git: Git

    def fetch(self, pin: Pin) -> Path:
        """The bare repository that holds the pin's commit; asks the server only if it must.

        Raises ConfigError for a commit that the server does not have, StoreError if it cannot be
        asked, ToolError if git fails in another way.
        """
        bare = self._place(pin)
        bare.parent.mkdir(parents=True, exist_ok=True)
        with _locked(bare.with_suffix(".lock"), self.git.tell):
            if not self._holds(bare, pin.commit):
                self._bring_or_begin_anew(bare, pin)
        return bare

    def read(self, pin: Pin, path: str) -> bytes | None:
        """A file of the commit, which is fetched if need be; None where it is not there."""
        output = self.git.run(self.fetch(pin), "cat-file", "blob", f"{pin.commit}:{path}")
        return None if output.code else output.stdout

    def check_out(self, pin: Pin, to: Path) -> bool:
        """Put the commit's files into a folder; whether anything was to be done.

        The folder may hold an earlier commit. Raises ConfigError for a folder with anything else,
        or with changes in its files, before anything in it is touched.
        """
        _refuse_strangers(to, pin)
        if not to.is_dir():
            self.fetch(pin)  # which may fail: then no folder is left behind
        ours = to / FOLDER
        try:
            ours.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(f"cannot write there: {reason}", where=str(to)) from None
        with _locked(ours / "lock", self.git.tell):
            work = _Tree(to, self.git)
            if work.is_at(pin.commit):
                return False
            bare = self.fetch(pin)
            try:
                work.move(pin, bare)
            except CorruptError as error:
                self.git.tell(f"the cache is damaged, fetching anew: {error.message}")
                self._drop(bare)
                work.move(pin, self.fetch(pin))
            return True

    def _place(self, pin: Pin) -> Path:
        address = public_repo(pin.repo)
        name = re.sub(r"[^\w.-]+", "-", address.rstrip("/").removesuffix(".git"))[-60:].strip("-.")
        digest = hashlib.sha256(address.encode()).hexdigest()[:16]
        return self.folder / "git" / f"{name}-{digest}.git"

    def _holds(self, bare: Path, commit: str) -> bool:
        """The ref is written last, when everything is there."""
        if not (bare / "HEAD").is_file():
            return False
        names = self.git.run(bare, "rev-parse", "--verify", "--quiet", f"{_ref(commit)}^{{commit}}")
        return names.stdout.decode().strip() == commit

    def _prepare(self, bare: Path) -> None:
        if (bare / "HEAD").is_file():
            for left in ("shallow.lock", "packed-refs.lock", "config.lock", "HEAD.lock"):
                (bare / left).unlink(missing_ok=True)  # of somebody who was killed
            return
        shutil.rmtree(bare, ignore_errors=True)
        arguments = ("init", "--quiet", "--bare", "--template=", "--", str(bare))
        _must(self.git.run(bare.parent, *arguments), "init")

    def _drop(self, bare: Path) -> None:
        with _locked(bare.with_suffix(".lock"), self.git.tell):
            shutil.rmtree(bare, ignore_errors=True)

    def _bring_or_begin_anew(self, bare: Path, pin: Pin) -> None:
        """What git cannot explain may be a repository on this disk that is damaged."""
        known = (bare / "HEAD").is_file()
        self._prepare(bare)
        try:
            self._bring(bare, pin)
        except ToolError as error:
            if not known:
                raise
            self.git.tell(f"the cache may be damaged, fetching anew: {error.message}")
            shutil.rmtree(bare)
            self._prepare(bare)
            self._bring(bare, pin)

    def _bring(self, bare: Path, pin: Pin) -> None:
        address, before = public_repo(pin.repo), _bytes(bare)
        named = f" ({pin.ref})" if pin.ref else ""
        self.git.tell(f"fetching {pin.commit[:12]}{named} of {address}")
        if not self._try_one(bare, pin) and not self._try_name(bare, pin):
            self.git.tell(f"{address} hands out no single commits: fetching all branches and tags")
            self._fetch_all(bare, pin)
        commit = self._settle(bare, pin)
        self.git.tell(f"fetched {commit[:12]}, {(_bytes(bare) - before) / 1e6:.1f} MB")

    def _try_one(self, bare: Path, pin: Pin) -> bool:
        """Fetch the commit alone; False if this server does not do that."""
        output = self._fetch(bare, pin, "--depth=1", pin.commit)
        if output.code and not _REFUSED.search(output.stderr):
            raise _failure(pin.repo, output.stderr)
        if output.code and _ABSENT in output.stderr and self._is_modern(pin):
            raise _absent(pin)
        return not output.code

    def _is_modern(self, pin: Pin) -> bool:
        """Whether the server speaks version 2 of the protocol."""
        git = self.git._replace(env={**self.git.env, "GIT_TRACE_PACKET": "1"})
        output = git.talk(_NOWHERE, "ls-remote", "--", public_repo(pin.repo), "HEAD", repo=pin.repo)
        return _VERSION_2.search(output.stderr) is not None

    def _try_name(self, bare: Path, pin: Pin) -> bool:
        """Fetch the end of the branch or tag that the commit was found by: often it still is."""
        if not pin.ref:
            return False
        if self._fetch(bare, pin, "--depth=1", pin.ref).code:
            return False
        got = self.git.run(bare, "rev-parse", "--verify", "--quiet", "FETCH_HEAD^{commit}")
        return got.stdout.decode().strip() == pin.commit

    def _fetch_all(self, bare: Path, pin: Pin) -> None:
        whole = ["--unshallow"] if (bare / "shallow").is_file() else []
        output = self._fetch(bare, pin, *whole, _ALL.format("heads"), _ALL.format("tags"))
        if output.code:
            raise _failure(pin.repo, output.stderr)

    def _fetch(self, bare: Path, pin: Pin, *what: str) -> Output:
        options = [one for one in what if one.startswith("-")]
        names = [one for one in what if not one.startswith("-")]
        fixed = ("fetch", "--quiet", "--force", "--no-tags", "--no-recurse-submodules")
        address = public_repo(pin.repo)
        return self.git.talk(bare, *fixed, *options, "--", address, *names, repo=pin.repo)

    def _settle(self, bare: Path, pin: Pin) -> str:
        """Verify that the commit came, and remember it."""
        output = self.git.run(bare, "rev-parse", "--verify", "--quiet", f"{pin.commit}^{{commit}}")
        commit = output.stdout.decode().strip()
        if commit != pin.commit:
            raise _absent(pin)
        _must(self.git.run(bare, "update-ref", _ref(commit), commit), "update-ref")
        return commit


def _absent(pin: Pin) -> ConfigError:
    return ConfigError(
        f"there is no commit {pin.commit}",
        where=public_repo(pin.repo),
        hint="is it pushed, and is this the right repository?",
    )


def _ref(commit: str) -> str:
    return f"refs/pins/{commit}"


def _bytes(bare: Path) -> int:
    return sum(path.stat().st_size for path in (bare / "objects").rglob("*") if path.is_file())


# -- the folder -----------------------------------------------------------------------------


class _Tree(NamedTuple):
    """A folder that is, or becomes, a checkout."""

    folder: Path
    git: Git

    @property
    def begun(self) -> Path:
        """There as long as a checkout is not complete: what differs then is of our own making."""
        return self.folder / ".git" / "stackyard-begun"

    def is_at(self, commit: str) -> bool:
        """Whether the commit is checked out, and no file of it differs."""
        if not (self.folder / ".git").exists() or self.begun.exists():
            return False
        if head_of(self.folder, self.git) != commit:
            return False
        self.refuse_changes()
        return True

    def refuse_changes(self) -> None:
        output = self._run("status", "--porcelain", "--untracked-files=no")
        _must(output, "status")
        changed = output.stdout.decode(errors="replace").splitlines()
        if changed:
            names = ", ".join(line[3:] for line in changed[:3])
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise ConfigError(
                f"files were changed there: {names}{more}",
                where=str(self.folder),
                hint="take another folder, or put them back: git checkout -- .",
            )

    def move(self, pin: Pin, bare: Path) -> None:
        """Check the commit out of a bare repository. Raises CorruptError if that is damaged."""
        new = not (self.folder / ".git").exists() or self.begun.exists()
        if not new:
            self.refuse_changes()
        self._begin()
        with _locked(bare.with_suffix(".lock"), self.git.tell, shared=True):
            name = f"+{_ref(pin.commit)}:{_ref(pin.commit)}"
            arguments = ("fetch", "--quiet", "--no-tags", "--depth=1", "--", str(bare), name)
            output = self._run("-c", "protocol.file.allow=always", *arguments)
        if output.code:
            raise CorruptError(_last(output.stderr), where=str(bare))
        force = ["--force"] if new else []
        output = self._run("checkout", "--quiet", "--detach", *force, pin.commit)
        if output.code and not new and "would be overwritten" in output.stderr:
            self.begun.unlink()
            raise ConfigError(
                f"files there are in the way: {_last(output.stderr)}",
                where=str(self.folder),
                hint="take another folder",
            )
        if output.code:
            raise CorruptError(_last(output.stderr), where=str(bare))
        self._end(pin)

    def _begin(self) -> None:
        for left in ("index.lock", "shallow.lock", "HEAD.lock", "config.lock"):
            (self.folder / ".git" / left).unlink(missing_ok=True)
        _must(self._run("init", "--quiet", "--template=", "--", "."), "init")
        self.begun.touch()

    def _end(self, pin: Pin) -> None:
        _must(self._run("config", "remote.origin.url", public_repo(pin.repo)), "config")
        exclude = self.folder / ".git" / "info" / "exclude"
        exclude.parent.mkdir(exist_ok=True)
        said = exclude.read_text() if exclude.is_file() else ""
        lines = (f"/{FOLDER}/", "/etc/spack/repos.yaml")
        wanted = [line for line in lines if line not in said.splitlines()]
        if wanted:
            exclude.write_text("\n".join([*said.splitlines(), *wanted, ""]))
        if head_of(self.folder, self.git) != pin.commit:
            raise ToolError(f"{self.folder} is not at {pin.commit}, though git says nothing")
        self.begun.unlink(missing_ok=True)

    def _run(self, *arguments: str) -> Output:
        own = ("-c", f"safe.directory={self.folder.absolute()}")
        return self.git.run(self.folder, *own, *arguments)


def head_of(folder: Path, git: Git) -> str:
    """The commit that is checked out in a folder; empty if that is no checkout of its own."""
    if not (folder / ".git").exists():
        return ""
    own = ("-c", f"safe.directory={folder.absolute()}")
    output = git.run(folder, *own, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    return "" if output.code else output.stdout.decode().strip()


def _refuse_strangers(to: Path, pin: Pin) -> None:
    """Only a new folder, an empty one, or a checkout that we made is ours to change."""
    if to.is_symlink() and not to.exists():
        raise ConfigError("it is a link to nothing", where=str(to), hint="take another folder")
    if to.exists() and not to.is_dir():
        raise ConfigError("it is a file", where=str(to), hint="take another name")
    if not to.is_dir() or (to / FOLDER).is_dir() or not any(to.iterdir()):
        return
    what = "a git repository" if (to / ".git").exists() else "a folder with other files"
    raise ConfigError(
        f"{what} that stackyard did not make; {public_repo(pin.repo)} does not go there",
        where=str(to),
        hint="name a folder that does not exist yet",
    )


# -- what all of them need ------------------------------------------------------------------


@contextmanager
def _locked(path: Path, tell: Tell, *, shared: bool = False) -> Iterator[None]:
    """Wait until nobody else works there; ends with the process, however that ends."""
    with path.open("ab") as file:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"waiting for another process that works in {path.parent}")
            fcntl.flock(file, kind)
        yield


def _hide_password(repo: str) -> None:
    if match := _PASSWORD.match(repo):
        conceal(match[1])


def _kind(said: str) -> tuple[type[StackyardError], str, str]:
    for pattern, error, message, hint in _FAILURES:
        if pattern.search(said):
            return error, message, hint
    return ToolError, "git failed", ""


def _failure(repo: str, said: str) -> StackyardError:
    error, message, hint = _kind(said)
    return error(f"{message}: {_last(said)}", where=public_repo(repo), hint=hint)


def _must(output: Output, what: str) -> None:
    if output.code:
        raise ToolError(f"git {what} failed: {_last(output.stderr)}")


def _last(said: str) -> str:
    """The line in which git says why; the rest is advice."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "error:", "remote:", "ssh:"))]
    return (telling or lines or ["it said nothing"])[0]
