"""How this stackyard came onto the machine, as pip remembers it."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from stackyard import __version__

__all__ = ["OwnOrigin", "own_origin"]


class OwnOrigin(NamedTuple):
    """What pip is to be told to install the same; ``local`` is where it is from if only we have it."""

    requirement: str
    local: str = ""


def own_origin() -> OwnOrigin:
    """The commit of a repository, an archive's URL, or the version.

    A clone that it was installed from is the commit that is checked out, if a remote has that too.
    Any other folder or file is on this machine only; the version is the best guess then. Source: the
    specification of ``direct_url.json`` (PEP 610).
    """
    version = f"stackyard=={__version__}"
    try:
        text = distribution("stackyard").read_text("direct_url.json")
        origin: dict[str, Any] = json.loads(text) if text else {}
        url = str(origin.get("url", ""))
    except (PackageNotFoundError, ValueError, AttributeError):
        return OwnOrigin(version)
    from stackyard.pins import public_repo

    if url.startswith("file:"):
        folder = Path(unquote(urlsplit(url).path))
        found = _commit_of(folder) if "dir_info" in origin else ""
        return OwnOrigin(f"stackyard @ {found}") if found else OwnOrigin(version, str(folder))
    if not url.startswith(("https://", "ssh://")):
        return OwnOrigin(version)
    source = origin.get("vcs_info")
    if not isinstance(source, dict):
        return OwnOrigin(f"stackyard @ {public_repo(url)}")
    if not source.get("vcs") or not source.get("commit_id"):
        return OwnOrigin(version)
    return OwnOrigin(f"stackyard @ {source['vcs']}+{public_repo(url)}@{source['commit_id']}")


def _commit_of(folder: Path) -> str:
    """A clone as pip installs it from its remote; empty where others could not."""
    from stackyard.edges.git import head, is_published, remotes, top
    from stackyard.errors import StackyardError
    from stackyard.pins import public_repo
    from stackyard.skeleton import parse_home

    try:
        if top(folder).resolve() != folder.resolve():
            return ""
        remote, commit = next(iter(remotes(folder)), ""), head(folder)
        if not is_published(folder, commit):
            return ""
    except StackyardError:
        return ""
    home = parse_home(remote)
    if remote.startswith("https://"):
        return f"git+{public_repo(remote)}@{commit}"
    return f"git+https://{home.host}/{home.path}@{commit}" if home.path else ""
