"""The JSON that a site gives to programs: its own API, what its search reads, and autamus' endpoints.

``schema.py`` describes the API. Everything is paired by DAG hash, and nothing tells when it was
made: the same binaries give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from stackyard.catalogue.content import Catalogue, Package
from stackyard.catalogue.entries import Edge, Entry
from stackyard.catalogue.names import crumb, day_number, day_text, shard_of, slug, time_text
from stackyard.catalogue.sidecar import CACHE, sidecar_path, tarball_place

__all__ = ["API", "NEWEST", "api_files", "autamus_files", "search_files", "shards_of"]

API = "api/v1/"
NEWEST = 200
_VERSION = 1
#: So many packages are searched in one file; more in 16, so that a change is a change of few.
_ONE_FILE = 400
_SHARDS = 16
#: Kinds of documents that have a folder of their own.
_BELOW = ("package", "hashes")
_BASE_32 = "abcdefghijklmnopqrstuvwxyz234567"


def dumped(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _document(kind: str, **content: object) -> bytes:
    schema = f"{'../' if kind in _BELOW else ''}schema.json"
    return dumped({"version": _VERSION, "kind": kind, "schema": schema, **content})


def _when(seconds: int | None) -> str | None:
    return None if seconds is None else time_text(seconds)


def api_files(catalogue: Catalogue) -> Iterator[tuple[str, bytes]]:
    """Path and content of each document, those of packages first."""
    for package in catalogue.packages:
        yield f"{API}packages/{slug(package.name)}.json", _package(catalogue, package)
    yield from _hashes(catalogue.entries.values())
    yield f"{API}statistics.json", _statistics(catalogue)
    yield f"{API}new.json", _document("new", binaries=[_short(e) for e in _newest(catalogue)])
    yield f"{API}index.json", _index(catalogue)


def _newest(catalogue: Catalogue) -> Sequence[Entry]:
    return catalogue.newest[:NEWEST]


def _short(one: Entry) -> dict[str, Any]:
    return {
        "hash": one.hash,
        "name": one.name,
        "version": one.version,
        "target": one.target,
        "size_bytes": one.size_bytes,
        "added": _when(one.added_s),
    }


def _index(catalogue: Catalogue) -> bytes:
    dressing, figures = catalogue.dressing, catalogue.figures
    return _document(
        "index",
        title=dressing.title,
        mirror={"url": dressing.url, "layouts": catalogue.layouts, "keys": dressing.keys},
        totals={
            "packages": len(catalogue.packages),
            "binaries": figures.binaries,
            "size_bytes": figures.size_bytes,
            "signed": figures.signed,
        },
        packages=[
            {
                "name": package.name,
                "document": f"packages/{slug(package.name)}.json",
                "page": f"../../packages/{slug(package.name)}.html",
                "description": package.about.summary,
                "versions": package.versions,
                "binaries": len(package.entries),
                "size_bytes": package.size_bytes,
                "added": _when(package.added_s),
            }
            for package in catalogue.packages
        ],
    )


def _package(catalogue: Catalogue, package: Package) -> bytes:
    about = package.about
    return _document(
        "package",
        name=package.name,
        description=about.summary,
        homepage=about.homepage,
        licenses=about.licenses,
        versions=package.versions,
        dependencies=package.needs,
        dependents=package.needed_by,
        binaries=[_binary(catalogue, one) for one in package.entries],
    )


def _binary(catalogue: Catalogue, one: Entry) -> dict[str, Any]:
    users = (catalogue.entries[key] for key in catalogue.users.get(one.hash, ()))
    return {
        "hash": one.hash,
        "version": one.version,
        "namespace": one.namespace,
        "platform": one.platform,
        "os": one.os,
        "target": one.target,
        "compiler": one.compiler,
        "variants": one.variants,
        "size_bytes": one.size_bytes,
        "sha256": one.checksum,
        "signed": one.signed,
        "layout": one.layout,
        "manifest": one.key,
        "added": _when(one.added_s),
        "spec": f"../../../{sidecar_path(one)}",
        "dependencies": [
            {
                **dict(zip(Edge._fields[:3], edge[:3], strict=True)),
                "types": edge.types,
                "binary": edge.hash in catalogue.entries,
            }
            for edge in one.edges
        ],
        "dependents": [
            {"name": user.name, "version": user.version, "hash": user.hash}
            for user in sorted(users, key=lambda user: (user.name, user.version, user.hash))
        ],
    }


def _hashes(entries: Iterable[Entry]) -> Iterator[tuple[str, bytes]]:
    """Which package a hash is of, in a file for each first letter of a hash."""
    found: dict[str, dict[str, str]] = {letter: {} for letter in _BASE_32}
    for one in entries:
        found[one.hash[0]][one.hash] = one.name
    for letter, names in found.items():
        yield (
            f"{API}hashes/{letter}.json",
            _document("hashes", packages=dict(sorted(names.items()))),
        )


def _statistics(catalogue: Catalogue) -> bytes:
    figures = catalogue.figures
    shares = {
        kind: [one._asdict() for one in getattr(figures, kind)]
        for kind in ("sizes", "packages", "systems", "targets", "compilers")
    }
    return _document(
        "statistics",
        binaries=figures.binaries,
        size_bytes=figures.size_bytes,
        signed=figures.signed,
        unsized=figures.unsized,
        undated=figures.undated,
        growth=[{**one._asdict(), "day": day_text(one.day)} for one in figures.growth],
        **shares,
    )


def shards_of(catalogue: Catalogue) -> int:
    """How many files the search reads."""
    return 1 if len(catalogue.packages) <= _ONE_FILE else _SHARDS


def search_files(catalogue: Catalogue) -> Iterator[tuple[str, bytes]]:
    """What the page of all packages searches; it is no part of the API.

    ``{systems, compilers, targets, packages: [[name, file, versions, description, [system,
    compiler, target, binaries, version, bytes, day, ...]], ...]}``: seven numbers for each kind of
    binary. The first three and the version, the newest of the kind, are places in the lists; bytes
    and day (since the epoch) are null where nobody knows; file is empty if it is the name.
    """
    count = shards_of(catalogue)
    groups: dict[str, list[Package]] = {f"{number:x}": [] for number in range(count)}
    for package in catalogue.packages:
        groups[shard_of(package.name, count)].append(package)
    for number, packages in groups.items():
        yield f"data/{number}.json", dumped(_shard(packages))


def _shard(packages: Sequence[Package]) -> Mapping[str, Any]:
    tables: tuple[dict[str, int], ...] = ({}, {}, {})
    rows = []
    for package in packages:
        numbers: list[int | None] = []
        for kind, entries in _kinds(package):
            part = package._replace(entries=entries)
            numbers += [
                *(
                    table.setdefault(text, len(table))
                    for table, text in zip(tables, kind, strict=True)
                ),
                len(entries),
                package.versions.index(entries[0].version),
                part.size_bytes,
                None if part.added_s is None else day_number(part.added_s),
            ]
        file = "" if slug(package.name) == package.name else slug(package.name)
        rows.append([package.name, file, package.versions, package.about.summary, numbers])
    systems, compilers, targets = map(list, tables)
    return {"systems": systems, "compilers": compilers, "targets": targets, "packages": rows}


def _kinds(package: Package) -> Sequence[tuple[tuple[str, str, str], tuple[Entry, ...]]]:
    """Its binaries by what people filter by, each time the newest version first."""
    found: dict[tuple[str, str, str], list[Entry]] = {}
    for one in package.entries:
        found.setdefault((one.system, one.compiler, one.target), []).append(one)
    return [(kind, tuple(entries)) for kind, entries in sorted(found.items())]


def autamus_files(catalogue: Catalogue) -> Iterator[tuple[str, bytes]]:
    """``/manifest/`` and ``/manifest/dates/`` as autamus' catalogue has them.

    Its clients ask for the folder, and read JSON whatever it is called; so it is what a server
    shows for a folder. Nothing in it could be HTML.
    """
    base = catalogue.dressing.base
    keys = [f"{base}keys/{key}.pub" for key in catalogue.dressing.keys]
    order = sorted(catalogue.entries.values(), key=lambda one: (one.name, one.version, one.hash))
    manifest = {
        "keys": keys,
        "packages": [
            {
                "name": sidecar_path(one).rpartition("/")[2].removesuffix(".spec.json") + ".spack",
                "spec": f"{base}{sidecar_path(one)}",
                "url": tarball_place(one, catalogue.dressing.url),
                "html_url": f"{base}packages/{slug(one.name)}.html#{one.hash}",
            }
            for one in order
        ],
    }
    months = {crumb(one.added_s) for one in order}
    newest_first = sorted(months - {"undated"}, reverse=True) + sorted(months & {"undated"})
    dates = {
        "keys": keys,
        "branch": "",
        "subfolder": "",
        "url_prefix": f"{base}{CACHE}",
        "dates": [f"{month}/build_cache" for month in newest_first],
    }
    for folder, document in (("manifest/", manifest), ("manifest/dates/", dates)):
        data = _harmless(document)
        yield f"{folder}index.json", data
        yield f"{folder}index.html", data


def _harmless(value: object) -> bytes:
    """JSON that no browser takes for anything but text, even if it is told that it is HTML."""
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode() + b"\n"
