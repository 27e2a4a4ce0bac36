"""A small Ceph cluster in memory with an S3 gateway: one of each daemon, on 127.0.0.1.

Debian's packages: ceph-mon ceph-mgr ceph-osd radosgw ceph-common uuid-runtime.
"""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

PROGRAMS = ("ceph-mon", "ceph-mgr", "ceph-osd", "radosgw", "ceph", "ceph-authtool", "monmaptool")
ID, SECRET = "test", "testtest"
_BYTES = 2 * 2**30
_PATIENCE_S = 120


def missing() -> list[str]:
    """Programs that are not installed."""
    return [name for name in PROGRAMS if not shutil.which(name)]


@contextmanager
def cluster(folder: Path, ports: tuple[int, int, int]) -> Iterator[str]:
    """Start it, give the gateway's URL, stop it. ``ports``: the monitor's two, the gateway's."""
    daemons = _Daemons(folder, ports)
    try:
        daemons.start()
        yield f"http://127.0.0.1:{ports[2]}"
    finally:
        daemons.stop()


class _Daemons:
    def __init__(self, folder: Path, ports: tuple[int, int, int]) -> None:
        self._folder = folder
        self._ports = ports
        self._config = folder / "ceph.conf"
        self._running: list[subprocess.Popen[bytes]] = []
        self._log = folder / "log"

    def start(self) -> None:
        self._folder.mkdir(parents=True)
        for name in ("mon", "mgr", "osd", "rgw", "run"):
            (self._folder / name).mkdir()
        fsid = str(uuid.uuid4())
        self._config.write_text(self._settings(fsid))
        self._make_keys()
        map_, keyring = self._folder / "monmap", self._folder / "keyring"
        place = f"[v2:127.0.0.1:{self._ports[0]},v1:127.0.0.1:{self._ports[1]}]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", place, str(map_))
        self._ceph(
            "ceph-mon", "--mkfs", "-i", "a", "--monmap", str(map_), "--keyring", str(keyring)
        )
        self._daemon("ceph-mon", "-i", "a")
        disk = str(uuid.uuid4())
        self._ceph("ceph", "--connect-timeout", "60", "osd", "new", disk, "0")
        self._ceph("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        self._daemon("ceph-osd", "-i", "0")
        self._daemon("ceph-mgr", "-i", "x")
        self._wait_for_disk()
        self._daemon("radosgw", "-n", "client.rgw")
        self._wait_for_gateway()
        user = ("--uid=test", "--display-name=test", f"--access-key={ID}", f"--secret-key={SECRET}")
        self._ceph("radosgw-admin", "user", "create", *user)

    def stop(self) -> None:
        for process in reversed(self._running):  # a disk that misses its monitor stays for ever
            process.kill()
            process.wait()

    def _settings(self, fsid: str) -> str:
        folder, (second, first, gateway) = self._folder, self._ports
        sections: Mapping[str, Mapping[str, object]] = {
            "global": {
                "fsid": fsid,
                "mon host": f"[v2:127.0.0.1:{second},v1:127.0.0.1:{first}]",
                "mon initial members": "a",
                "public addr": "127.0.0.1",
                "cluster addr": "127.0.0.1",
                "ms bind ipv6": "false",
                "run dir": folder / "run",
                "admin socket": folder / "run/$name.asok",
                "pid file": folder / "run/$name.pid",
                "log file": folder / "$name.log",
                "keyring": folder / "keyring",
                # One disk, so one copy of everything.
                "osd pool default size": 1,
                "osd pool default min size": 1,
                "osd crush chooseleaf type": 0,
                "mon allow pool size one": "true",
                "osd pool default pg num": 4,
                "osd pool default pgp num": 4,
                "osd pool default pg autoscale mode": "off",
                "mon max pg per osd": 1000,
                "osd objectstore": "memstore",
                "memstore device bytes": _BYTES,
                "mon data avail warn": 1,
                "mon data avail crit": 1,
            },
            "mon.a": {"mon data": folder / "mon"},
            "mgr.x": {"mgr data": folder / "mgr", "mgr initial modules": ""},
            "osd.0": {"osd data": folder / "osd"},
            "client.rgw": {
                "rgw frontends": f"beast endpoint=127.0.0.1:{gateway} tcp_nodelay=1",
                "rgw data": folder / "rgw",
                "rgw dns name": "localhost",
            },
        }
        lines = []
        for section, settings in sections.items():
            lines += [f"[{section}]", *(f"{key} = {value}" for key, value in settings.items())]
        return "\n".join(lines) + "\n"

    def _make_keys(self) -> None:
        keyring = str(self._folder / "keyring")
        rights = {
            "mon.": {"mon": "allow *"},
            "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
            "mgr.x": {"mon": "allow profile mgr", "osd": "allow *"},
            "osd.0": {"mon": "allow profile osd", "osd": "allow *", "mgr": "allow profile osd"},
            "client.rgw": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
        }
        for number, (name, allowed) in enumerate(rights.items()):
            caps = [text for pair in allowed.items() for text in ("--cap", *pair)]
            new = [] if number else ["--create-keyring"]
            self._run("ceph-authtool", keyring, *new, "--gen-key", "-n", name, *caps)

    def _run(self, *argv: str) -> str:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def _ceph(self, program: str, *argv: str) -> str:
        return self._run(program, "-c", str(self._config), *argv)

    def _daemon(self, program: str, *argv: str) -> None:
        """In the foreground, and gone when whoever started it is."""
        alone = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with self._log.open("ab") as log:
            self._running.append(
                subprocess.Popen(
                    [*alone, program, "-c", str(self._config), "-f", *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )

    def _wait_for_disk(self) -> None:
        end = time.monotonic() + _PATIENCE_S
        while " 1 up" not in self._ceph("ceph", "--connect-timeout", "60", "osd", "stat"):
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.2)

    def _wait_for_gateway(self) -> None:
        end = time.monotonic() + _PATIENCE_S
        while True:
            assert self._running[-1].poll() is None, self._log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self._ports[2]}/", timeout=10).close()
            except URLError:
                assert time.monotonic() < end, self._log.read_text()
                time.sleep(0.2)
            else:
                return
