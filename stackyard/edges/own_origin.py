"""How this stackyard came onto the machine, as pip remembers it."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution

from stackyard import __version__

__all__ = ["own_origin"]


def own_origin() -> str:
    """What pip is to be told to install the same: the commit of a repository, or the version.

    A folder or a file that it was installed from is on this machine only, so then it is the
    version too. Source: the specification of ``direct_url.json`` (PEP 610).
    """
    version = f"stackyard=={__version__}"
    try:
        text = distribution("stackyard").read_text("direct_url.json")
        origin = json.loads(text) if text else {}
        url, source = str(origin["url"]), origin["vcs_info"]
        commit, vcs = str(source["commit_id"]), str(source["vcs"])
    except (PackageNotFoundError, ValueError, KeyError, TypeError):
        return version
    from stackyard.pins import public_repo

    if not url.startswith(("https://", "ssh://")):
        return version
    return f"stackyard @ {vcs}+{public_repo(url)}@{commit}"
