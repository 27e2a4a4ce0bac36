"""Ask GnuPG: keyrings that verify, homes that sign.

Every home is reached by a short path: GnuPG puts sockets into it, and the path of a socket cannot be
longer than about 100 bytes. No configuration of this machine's users counts, nothing is asked of
key servers, and no secret is ever an argument.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from stackyard.edges.parallel import parallel_map
from stackyard.edges.process import Output, run
from stackyard.edges.settings import Environment, conceal
from stackyard.errors import ConfigError, CorruptError, StackyardError, ToolError
from stackyard.mirror import signed_text
from stackyard.trust import (
    Key,
    UserId,
    Verdict,
    dump_signing_value,
    has_secret,
    judge,
    key_parameters,
    message_problem,
    parse_fingerprint,
    parse_keys,
    parse_signing_value,
    parse_statuses,
    same_text,
)

__all__ = [
    "Home",
    "Keyring",
    "Signer",
    "create_key",
    "export_public",
    "export_secret",
    "import_signing_key",
    "open_home",
    "open_keyring",
    "open_signer",
    "secret_keys",
    "sign",
    "signing_value",
    "write_private",
]

_INSTALL = "install GnuPG 2: the package gnupg, gnupg2 or gpg of your system, or gnupg of Spack"
_VERSION = re.compile(r"^gpg \(GnuPG[^)]*\) (\d+)\.(\d+)", re.MULTILINE)
_BATCH = 256  # messages that one process gets at most; starting it costs as much as ten
_LONGEST_HOME = 70  # characters; GnuPG adds the names of its sockets
_LIST = ("--with-colons", "--fixed-list-mode", "--with-fingerprint", "--with-fingerprint")
#: What GnuPG needs of the environment; its agent would keep all that it is given.
_NEEDED = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")


class _Program(NamedTuple):
    path: str
    version: tuple[int, int]


@cache
def _program(search: str) -> _Program:
    found = [path for name in ("gpg2", "gpg") if (path := shutil.which(name, path=search))]
    versions = []
    for path in found:
        match = _VERSION.search(run([path, "--version"], env=_environment()).stdout.decode())
        version = (int(match[1]), int(match[2])) if match else (0, 0)
        if version >= (2, 0):
            return _Program(path, version)
        versions.append(f"{path} is of version {version[0]}.{version[1]}")
    raise ToolError(
        f"GnuPG 2 is needed for signatures, and {'; '.join(versions) or 'is not installed'}",
        hint=_INSTALL,
    )


def _environment() -> dict[str, str]:
    env = Environment.snapshot()
    return {**{name: env[name] for name in _NEEDED if name in env}, "LC_ALL": "C"}


class Home:
    """A folder with keys, as GnuPG sees it: by a short path. ``open_home`` makes one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.program = _program(Environment.snapshot().get("PATH", os.defpath))
        self._agent = False

    def run(
        self, *arguments: str, feed: bytes = b"", folder: Path | None = None, secret: bool = False
    ) -> Output:
        """Run gpg, whatever it ends with; ``secret``: it needs the agent, which has the secrets."""
        argv = [self.program.path, *self._options(secret=secret), *arguments]
        return run(argv, cwd=str(folder or self.path), env=_environment(), feed=feed)

    def need(self, what: str, *arguments: str, feed: bytes = b"", secret: bool = False) -> bytes:
        """What gpg wrote. Raises ToolError saying ``what`` failed, and why."""
        done = self.run(*arguments, feed=feed, secret=secret)
        if done.code:
            raise ToolError(f"{what} failed: {_reason(done)}")
        return done.stdout

    def close(self) -> None:
        """Stop the agent, if one could have been started, and remove its folder for sockets."""
        if self.program.version < (2, 1):
            return
        gpgconf = shutil.which("gpgconf", path=str(Path(self.program.path).parent)) or "gpgconf"
        for action in (("--kill", "all"), ("--remove-socketdir",))[not self._agent :]:
            with suppress(ToolError):
                run([gpgconf, "--homedir", str(self.path), *action], env=_environment())

    def _options(self, *, secret: bool) -> Iterator[str]:
        yield from ("--no-options", "--no-tty", "--no-permission-warning", "--no-greeting")
        yield from ("--homedir", str(self.path), "--trust-model", "always")
        yield from ("--no-auto-key-locate", "--keyserver-options", "no-auto-key-retrieve")
        if self.program.version < (2, 1):
            return
        yield "--disable-dirmngr"
        # Newer versions may be set up to keep public keys in a daemon of their own.
        if secret or self.program.version > (2, 2):
            self._agent = True
            yield from ("--pinentry-mode", "error")
        else:
            yield "--no-autostart"


def _reason(done: Output) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return "; ".join(lines[-3:]) or f"exit code {done.code}"


@contextmanager
def open_home(folder: Path | None = None) -> Iterator[Home]:
    """A home in a folder, made with mode 0700 where it is not there; or a new one for the moment.

    Raises ToolError without GnuPG 2, StackyardError for a folder that cannot be made.
    """
    short = Path(tempfile.mkdtemp(prefix="sy-", dir=_short_folder()))
    path = short / "g"
    try:
        if folder is None:
            path.mkdir(mode=0o700)
        else:
            _make_private(folder)
            path.symlink_to(folder.absolute(), target_is_directory=True)
        home = Home(path)
        try:
            yield home
        finally:
            home.close()
    finally:
        _remove(short)


def _short_folder() -> str | None:
    candidates = (tempfile.gettempdir(), Environment.snapshot().get("XDG_RUNTIME_DIR", ""), "/tmp")  # noqa: S108 - mkdtemp makes a private folder in it
    for folder in candidates:
        if folder and len(folder) <= _LONGEST_HOME and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return None


def _make_private(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StackyardError(
            f"cannot make the folder: {(error.strerror or str(error)).lower()}", where=str(folder)
        ) from None


def _remove(folder: Path) -> None:
    """Remove a folder, although an agent that ends may be removing its sockets there as well."""
    for _ in range(5):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return


class Keyring:
    """Public keys that messages can be verified with; ``open_keyring`` makes one."""

    def __init__(self, home: Home, keys: Sequence[Key], allowed: Collection[str]) -> None:
        self._home = home
        self._allowed = frozenset(allowed)
        self.keys = {key.fingerprint: key for key in keys}

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """User ids by the fingerprints of primary keys."""
        return {name: key.user_id for name, key in self.keys.items()}

    def export(self, fingerprint: str) -> bytes:
        """A public key, armored, without signatures by others. Raises ToolError."""
        return export_public(self._home, fingerprint)

    def verify(self, messages: Sequence[tuple[str, bytes]]) -> list[Verdict]:
        """A verdict for each message (where it is from, and its bytes), in their order.

        Raises ToolError if GnuPG does not do its work: then nothing is known.
        """
        problems = [message_problem(data) for _, data in messages]
        asked = [number for number, problem in enumerate(problems) if not problem]
        cores = os.cpu_count() or 2
        size = min(_BATCH, max(_BATCH // 8, -(-len(asked) // cores)))
        batches = [asked[start : start + size] for start in range(0, len(asked), size)]
        answers = parallel_map(
            lambda numbers: self._verify([messages[number][1] for number in numbers]),
            batches,
            workers=cores,
        )
        verdicts = [Verdict(None, "", problem) for problem in problems]
        for numbers, batch in zip(batches, answers, strict=True):
            for number, verdict in zip(numbers, batch, strict=True):
                verdicts[number] = verdict
        return verdicts

    def _verify(self, messages: Sequence[bytes]) -> list[Verdict]:
        with tempfile.TemporaryDirectory(prefix="m-", dir=self._home.path) as name:
            folder = Path(name)
            for number, data in enumerate(messages):
                (folder / f"{number}.asc").write_bytes(data)
            said = self._ask(folder, len(messages))
            return [
                self._verdict(data, said[f"{number}.asc"], folder / str(number))
                for number, data in enumerate(messages)
            ]

    def _ask(self, folder: Path, count: int) -> dict[str, tuple[bool, tuple[str, ...]]]:
        """GnuPG's status lines by name of file, and whether it came to that file's end.

        In its batch mode it would end at the first signature that does not hold. Should it end
        early all the same, it is asked again for the rest.
        """
        said: dict[str, tuple[bool, tuple[str, ...]]] = {}
        rest = [f"{number}.asc" for number in range(count)]
        while rest:
            done = self._home.run(
                "--yes", "--status-fd", "1", "--decrypt-files", *rest, folder=folder
            )
            found = {name: (whole, lines) for name, whole, lines in parse_statuses(done.stdout)}
            if rest[0] not in found:
                raise ToolError(f"gpg verified nothing: {_reason(done)}")
            said.update(found)
            rest = [name for name in rest if name not in said]
        return said

    def _verdict(self, data: bytes, said: tuple[bool, tuple[str, ...]], path: Path) -> Verdict:
        """What the signature covers is what GnuPG wrote, and nothing that we cut out ourselves."""
        whole, lines = said
        signer, problem = judge(lines, self.keys, self._allowed)
        if problem:
            return Verdict(None, signer, problem)
        if not whole or not path.is_file():
            return Verdict(None, signer, "GnuPG stopped while it looked at it")
        text = path.read_bytes()
        try:
            seeming = signed_text(data, "")[0]
        except CorruptError as error:  # nobody looked at it before
            return Verdict(None, signer, error.message)
        if not same_text(text, seeming):
            return Verdict(None, signer, "the signature covers another text than it seems to")
        return Verdict(text, signer, "")


@contextmanager
def open_keyring(
    keys: Sequence[tuple[str, bytes]], allowed: Collection[str] = ()
) -> Iterator[Keyring]:
    """A keyring of key files (where each is from, and its bytes, armored or not).

    ``allowed`` are fingerprints of the only keys that count; all do if it is empty. It is gone
    when the block ends. Raises ConfigError for a file without a key or with a secret one, and
    ToolError without GnuPG 2.
    """
    names = [parse_fingerprint(name, "trust.fingerprints") for name in allowed]
    for where, data in keys:
        if has_secret(data):
            raise _secret_error(where)
    with open_home() as home:
        for where, data in keys:
            _import_public(home, where, data)
        listing = home.need("listing the keys", *_LIST, "--list-keys") if keys else b""
        yield Keyring(home, parse_keys(listing), names)


def _secret_error(where: str) -> ConfigError:
    return ConfigError(
        "a secret key is in it, and everybody who reads the file can sign with that",
        where=where,
        hint="put the public key there (gpg --armor --export), and revoke the secret one if the "
        "file was ever shared",
    )


def _import_public(home: Home, where: str, data: bytes) -> None:
    done = home.run("--batch", "--status-fd", "1", "--import", feed=data)
    counts = _import_counts(done.stdout)
    if counts[9]:
        raise _secret_error(where)
    if not counts[2] and not counts[4]:
        hint = f"give a file that keys.export or gpg --export wrote (GnuPG: {_reason(done)})"
        raise ConfigError("no public key is in it", where=where, hint=hint)


def _import_counts(output: bytes) -> list[int]:
    """The numbers of IMPORT_RES: [0] keys, [2] imported, [4] unchanged, [9] secret ones read."""
    for line in output.decode("utf-8", "replace").split("\n"):
        if line.startswith("[GNUPG:] IMPORT_RES "):
            return [int(word) for word in line.split()[2:]] + [0] * 10
    return [0] * 10


def create_key(home: Home, user: UserId, expires: str = "") -> Key:
    """Make a key that can only sign, without passphrase. Raises ConfigError, ToolError.

    ConfigError too if a key of that name is there already: Spack does not know which to take.
    """
    parameters = key_parameters(user, expires)
    before = secret_keys(home)
    for key in before:
        if _name(key.user_id) == user.name.strip():
            raise ConfigError(
                f"a key of that name is there already: {key.fingerprint}",
                where="--name",
                hint="use that one (keys.export), or choose another name or --home",
            )
    home.need("making the key", "--batch", "--gen-key", feed=parameters, secret=True)
    old = {key.fingerprint for key in before}
    (made,) = [key for key in secret_keys(home) if key.fingerprint not in old]
    return made


def _name(user_id: str) -> str:
    return re.split(r" [(<]", user_id)[0]


def secret_keys(home: Home) -> tuple[Key, ...]:
    """The keys of a home whose secret part is there. Raises ToolError."""
    listing = home.need("listing the keys", *_LIST, "--list-secret-keys", secret=True)
    return parse_keys(listing)


def export_public(home: Home, fingerprint: str) -> bytes:
    """A public key, armored, without signatures by others. Raises ToolError."""
    return home.need(
        f"exporting the key {fingerprint}",
        *("--batch", "--armor", "--export-options", "export-minimal", "--export", fingerprint),
    )


def export_secret(home: Home, fingerprint: str) -> bytes:
    """A secret key, armored. Raises ToolError, for a key with a passphrase too."""
    done = home.run(
        *("--batch", "--armor", "--export-options", "export-minimal"),
        *("--export-secret-keys", fingerprint),
        secret=True,
    )
    if done.code or b"PRIVATE KEY BLOCK" not in done.stdout:
        raise ToolError(
            f"exporting the secret key {fingerprint} failed: {_reason(done)}",
            hint="a CI job can use no key with a passphrase: make one with keys.create",
        )
    return done.stdout


def signing_value(home: Home, fingerprint: str) -> str:
    """The value of ``SPACK_SIGNING_KEY`` for a key of a home, proven to import and to sign.

    From now on it is masked in all output. Raises ToolError.
    """
    value = dump_signing_value(export_secret(home, fingerprint))
    conceal(value)
    public = export_public(home, fingerprint)
    text = b"a text to sign\n"
    with open_home() as empty, open_keyring([(fingerprint, public)]) as keyring:
        imported = import_signing_key(empty.path, value)
        (verdict,) = keyring.verify([("", sign(empty, imported, text))])
    if verdict.problem or verdict.signer != fingerprint:
        raise ToolError(f"the exported key {fingerprint} does not sign: {verdict.problem}")
    return value


def import_signing_key(folder: Path, value: str, where: str = "$SPACK_SIGNING_KEY") -> str:
    """Put the key of a ``SPACK_SIGNING_KEY`` into the home in a folder; gives its fingerprint.

    The value is masked in all output from now on. Raises ConfigError naming ``where`` if it is no
    such value or holds several keys, among which Spack could not choose; ToolError.
    """
    conceal(value)
    armored = parse_signing_value(value, where)
    with open_home(folder) as home:
        done = home.run("--batch", "--status-fd", "1", "--import", feed=armored, secret=True)
        found = re.findall(r"^\[GNUPG:\] IMPORT_OK \d+ (\w+)$", done.stdout.decode(), re.MULTILINE)
        held = {key.fingerprint for key in secret_keys(home)}
    if len(set(found)) != 1 or not held.issuperset(found):
        raise ConfigError(f"GnuPG cannot import it: {_reason(done)}", where=where)
    return str(found[0])


def sign(home: Home, fingerprint: str, text: bytes) -> bytes:
    """The text, clearsigned as Spack does it. Raises ToolError."""
    return home.need(
        f"signing with the key {fingerprint}",
        *("--batch", "--clearsign", "--armor", "--local-user", fingerprint),
        feed=text,
        secret=True,
    )


class Signer(NamedTuple):
    """A key that signs: its fingerprint, and a function from a text to the clearsigned one.

    The function may be called by many threads at once; it raises ToolError.
    """

    fingerprint: str
    sign: Callable[[bytes], bytes]


@contextmanager
def open_signer(value: str) -> Iterator[Signer]:
    """The key of a ``SPACK_SIGNING_KEY``, until the block ends. As ``import_signing_key`` raises."""
    with open_home() as home:
        fingerprint = import_signing_key(home.path, value)
        secret_keys(home)  # what stops the agent at the end must know that there is one
        yield Signer(fingerprint, lambda text: sign(home, fingerprint, text))


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all. Raises StackyardError."""
    temporary = path.with_name(f".{path.name[:200]}.{os.urandom(6).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(data)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StackyardError(f"cannot write it: {reason}", where=str(path)) from None
