"""Show people and programs what a mirror holds: pages, a JSON API, figures and plots.

Everything here is text made from entries, and entries are what manifests and specs say. A site is a
mapping of paths to bytes; nobody but ``flow`` writes it anywhere.
"""

from __future__ import annotations

from stackyard.catalogue.content import Catalogue, Dressing
from stackyard.catalogue.entries import Edge, Entry, make_entry
from stackyard.catalogue.files import site_files
from stackyard.catalogue.sidecar import sidecar, sidecar_path
from stackyard.catalogue.state import State, dump_state, parse_state

__all__ = [
    "Catalogue",
    "Dressing",
    "Edge",
    "Entry",
    "State",
    "dump_state",
    "make_entry",
    "parse_state",
    "sidecar",
    "sidecar_path",
    "site_files",
]
