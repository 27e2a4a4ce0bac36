"""All files of a site but those that are written once for each binary."""

from __future__ import annotations

import json
from collections.abc import Iterator

from stackyard.catalogue.content import Catalogue
from stackyard.catalogue.documents import API, api_files, autamus_files, search_files
from stackyard.catalogue.names import slug
from stackyard.catalogue.pages import Load, assets, letter_of, page_files
from stackyard.catalogue.schema import SCHEMA
from stackyard.catalogue.sidecar import sidecar_path
from stackyard.catalogue.state import State

__all__ = ["STATE", "TOP", "own_paths", "site_files"]

STATE = f"{API}state.json"

#: Files and folders of a site beside each other; somebody else's of such a name is in the way.
TOP = (
    "_cache",
    "api",
    "api.html",
    "assets",
    "data",
    "feed.xml",
    "index.html",
    "keys",
    "letters",
    "manifest",
    "new.html",
    "packages",
    "statistics.html",
)


def site_files(catalogue: Catalogue, load: Load) -> Iterator[tuple[str, bytes]]:
    """Path and content of each file; ``load`` gives a template's text by name.

    The same entries and the same dressing give the same bytes. The page that leads to the others
    comes last.
    """
    yield ".nojekyll", b""  # GitHub would leave out what begins with a low line
    yield from assets(load)
    yield f"{API}schema.json", json.dumps(SCHEMA, indent=1).encode() + b"\n"
    yield from api_files(catalogue)
    yield from search_files(catalogue)
    yield from autamus_files(catalogue)
    yield from page_files(catalogue, load)


def own_paths(state: State) -> frozenset[str]:
    """Files of a site that need not be there when it shows something else."""
    names = {one.name for one in state.entries.values()}
    return frozenset(
        (
            *(f"packages/{slug(name)}.html" for name in names),
            *(f"{API}packages/{slug(name)}.json" for name in names),
            *(f"letters/{letter_of(name)}.html" for name in names),
            *(f"data/{number:x}.json" for number in range(16) if names),
            *(f"keys/{key}.pub" for key in state.keys),
            *map(sidecar_path, state.entries.values()),
        )
    )
