"""The JSON schema of the API, version 1. A site carries it as ``api/v1/schema.json``.

Whoever reads the API must expect keys that are not named here: new ones may come, none will go or
change its meaning while the version is 1.
"""

from __future__ import annotations

from typing import Any

__all__ = ["SCHEMA"]

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_BYTES = {
    "type": ["integer", "null"],
    "minimum": 0,
    "description": "null: the mirror does not tell",
}
_NAME = {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_-]*$"}
_HASH = {"type": "string", "pattern": "^[a-z2-7]{32}$", "description": "the DAG hash"}
_TIME = {
    "type": ["string", "null"],
    "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$",
    "description": "UTC; null: nobody knows",
}
_DAY = {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}
_PATH = {"type": "string", "description": "relative to the document that it stands in"}
_VALUE = {"type": ["string", "boolean", "number"]}


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _record(**properties: Any) -> dict[str, Any]:
    """All of them have to be there."""
    return {"type": "object", "properties": properties, "required": sorted(properties)}


def _kind(name: str, /, **properties: Any) -> dict[str, Any]:
    head = {"version": {"const": 1}, "kind": {"const": name}, "schema": _TEXT}
    return _record(**head, **properties)


_SHARES = _list(_record(label=_TEXT, binaries=_COUNT, size_bytes=_COUNT))
_BINARY = _record(
    hash=_HASH,
    version=_TEXT,
    namespace=_TEXT,
    platform=_TEXT,
    os=_TEXT,
    target=_TEXT,
    compiler={**_TEXT, "description": "name@version; empty: none, or nobody knows"},
    variants={
        "type": "object",
        "additionalProperties": {"anyOf": [_VALUE, _list(_VALUE)]},
        "description": "with compiler flags only where there are some",
    },
    size_bytes=_BYTES,
    sha256={"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "of the tarball"},
    signed={"type": "boolean", "description": "its manifest has a signature; nobody verified it"},
    layout={"enum": ["2", "3", "oci"]},
    manifest={**_TEXT, "description": "relative to the mirror's URL"},
    added=_TIME,
    spec={**_PATH, "description": "its metadata as autamus' catalogue published it"},
    dependencies=_list(
        _record(
            name=_NAME,
            version={**_TEXT, "description": "empty: nobody knows"},
            hash=_HASH,
            types=_list(_TEXT),
            binary={"type": "boolean", "description": "whether it is on the mirror"},
        )
    ),
    dependents=_list(_record(name=_NAME, version=_TEXT, hash=_HASH)),
)

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "What a mirror of Spack's binaries holds, version 1",
    "oneOf": [
        {"$ref": f"#/$defs/{kind}"}
        for kind in ("index", "package", "hashes", "new", "statistics", "state")
    ],
    "$defs": {
        "index": _kind(
            "index",
            title=_TEXT,
            mirror=_record(
                url=_TEXT, layouts=_list({"enum": ["2", "3", "oci"]}), keys=_list(_TEXT)
            ),
            totals=_record(packages=_COUNT, binaries=_COUNT, size_bytes=_COUNT, signed=_COUNT),
            packages=_list(
                _record(
                    name=_NAME,
                    document=_PATH,
                    page=_PATH,
                    description=_TEXT,
                    versions=_list(_TEXT),
                    binaries=_COUNT,
                    size_bytes=_BYTES,
                    added=_TIME,
                )
            ),
        ),
        "package": _kind(
            "package",
            name=_NAME,
            description=_TEXT,
            homepage=_TEXT,
            licenses=_list(_TEXT),
            versions={**_list(_TEXT), "description": "the newest first"},
            dependencies=_list(_NAME),
            dependents=_list(_NAME),
            binaries=_list(_BINARY),
        ),
        "hashes": _kind(
            "hashes",
            packages={
                "type": "object",
                "propertyNames": _HASH,
                "additionalProperties": _NAME,
                "description": "DAG hash to package, for hashes of one first letter",
            },
        ),
        "new": _kind(
            "new",
            binaries=_list(
                _record(
                    hash=_HASH,
                    name=_NAME,
                    version=_TEXT,
                    target=_TEXT,
                    size_bytes=_BYTES,
                    added=_TIME,
                )
            ),
        ),
        "statistics": _kind(
            "statistics",
            binaries=_COUNT,
            size_bytes=_COUNT,
            signed=_COUNT,
            unsized=_COUNT,
            undated=_COUNT,
            growth=_list(_record(day=_DAY, binaries=_COUNT, size_bytes=_COUNT)),
            sizes=_SHARES,
            packages=_SHARES,
            systems=_SHARES,
            targets=_SHARES,
            compilers=_SHARES,
        ),
        "state": {
            **_kind("state", url=_TEXT),
            "description": "what the next run starts from; its other keys are nobody else's",
        },
    },
}
