"""A real GnuPG with keys of all kinds, for tests; and the proof that nothing of it is left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stackyard.edges import settings

GPG = shutil.which("gpg2") or shutil.which("gpg")
needs_gpg = pytest.mark.skipif(not GPG, reason="GnuPG is not installed: package gnupg")

LONG_AGO = "20200101T000000"


class Signer:
    """A home with keys, made by gpg alone; names are user ids."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="sg-", dir="/tmp"))

    def __call__(self, *arguments: str, feed: bytes = b"", at: str = "") -> bytes:
        faked = ["--faked-system-time", at] if at else []
        done = subprocess.run(
            [
                *(str(GPG), "--no-options", "--batch", "--no-tty", "--homedir", str(self.home)),
                *("--trust-model", "always", "--pinentry-mode", "loopback", "--passphrase", ""),
                *(*faked, *arguments),
            ],
            input=feed,
            capture_output=True,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def key(self, name: str, *, expires: str = "never", at: str = "", usage: str = "sign") -> str:
        """Make a key, which takes no time with this algorithm; its fingerprint."""
        self("--quick-gen-key", name, "ed25519", usage, expires, at=at)
        return self.fingerprint(name)

    def fingerprint(self, name: str) -> str:
        listing = self("--with-colons", "--list-keys", f"={name}").decode()
        return next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr"))

    def sign(self, name: str, text: bytes, *options: str, at: str = "") -> bytes:
        return self(*options, "-u", f"={name}", "--clearsign", feed=text, at=at)

    def public(self, *names: str) -> bytes:
        return self("--armor", "--export", *(f"={name}" for name in names))

    def revoke(self, name: str) -> None:
        certificate = self.home / "openpgp-revocs.d" / f"{self.fingerprint(name)}.rev"
        self("--import", feed=certificate.read_bytes().replace(b"\n:-----", b"\n-----"))

    def close(self) -> None:
        for action in (("--kill", "all"), ("--remove-socketdir",)):
            subprocess.run(["gpgconf", "--homedir", str(self.home), *action], check=True)
        shutil.rmtree(self.home, ignore_errors=True)


@contextmanager
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short folder for all temporary files; at the end it is empty and no agent lives in it.

    Secrets that are to be masked are forgotten too.
    """
    folder = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(settings, "_concealed", set())
    try:
        yield folder
        assert list(folder.iterdir()) == []
        deadline = time.monotonic() + 5
        while (agents := _processes(str(folder))) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert agents == []
    finally:
        shutil.rmtree(folder)


def _processes(text: str) -> list[str]:
    """Command lines, of processes that live, with this text in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


def trusted_keys(signer: Signer, folder: Path) -> Path:
    """A folder of public keys, one of which has expired and one of which was revoked since."""
    folder.mkdir()
    for name in ("good", "expired"):
        (folder / f"{name}.pub").write_bytes(signer.public(name))
    certificate = signer.home / "openpgp-revocs.d" / f"{signer.fingerprint('revoked')}.rev"
    revocation = certificate.read_bytes().replace(b"\n:-----", b"\n-----")
    (folder / "revoked.pub").write_bytes(signer.public("revoked") + revocation)
    return folder
