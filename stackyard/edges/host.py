"""Facts about this machine, named as Spack names them; each is found out when it is asked for.

Follows Spack 1.1: ``platforms/``, ``operating_systems/`` (with the rules of its ``distro``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

__all__ = ["host_facts", "os_name"]

#: Identifiers of ``/etc/os-release`` that Spack knows by another name.
_SYNONYMS = {"ol": "oracle", "opensuse-leap": "opensuse"}

_MACOS = {
    "11": "bigsur",
    "12": "monterey",
    "13": "ventura",
    "14": "sonoma",
    "15": "sequoia",
    "26": "tahoe",
}


def os_name(os_release: str) -> str:
    """Spack's name of a Linux from the text of ``/etc/os-release``: ``debian12``, ``ubuntu24.04``.

    A rolling release without a version is its bare name.
    """
    fields = {
        key.strip(): value.strip().strip("\"'")
        for key, equals, value in (line.partition("=") for line in os_release.splitlines())
        if equals
    }
    name = fields.get("ID", "").lower().replace(" ", "_")
    name = _SYNONYMS.get(name, name) or "unknown"
    version = re.split(r"[^\w-]", fields.get("VERSION_ID", ""))
    if "opensuse-tumbleweed" in name:
        return f"opensusetumbleweed{_glibc() or version[0]}"
    text = ".".join(version[:2]) if "ubuntu" in name else version[0]
    return f"{name}{text}".replace("-", "_")


def _glibc() -> str:
    import platform  # facts are seldom asked for

    kind, version = platform.libc_ver()
    return version if kind == "glibc" else ""


def _platform() -> str:
    import platform  # facts are seldom asked for

    return platform.system().lower()


def _hostname() -> str:
    import socket  # facts are seldom asked for

    return socket.gethostname()


def _os() -> str:
    import platform  # facts are seldom asked for

    if platform.system() == "Darwin":
        return _MACOS.get(platform.mac_ver()[0].partition(".")[0], "macos")
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            return os_name(Path(path).read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
    return "unknown"


def _target() -> str:
    import archspec.cpu  # reads a table of all processors

    return str(archspec.cpu.host().name)


def host_facts() -> Mapping[str, Callable[[], str]]:
    """``platform``, ``os``, ``target`` and ``hostname`` of this machine, as functions."""
    return {
        "platform": cache(_platform),
        "os": cache(_os),
        "target": cache(_target),
        "hostname": cache(_hostname),
    }
