"""What is in an image, as a bill of materials: SPDX 2.3 in JSON, made from the lock.

A lock does not tell licences, so they are ``NOASSERTION``. Package URLs are of the type ``spack``,
with namespace and DAG hash. The same lock gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from stackyard import __version__
from stackyard.lock import Dependency, Lock, Spec

__all__ = ["make_sbom", "package_url"]

_UNKNOWN = "NOASSERTION"
_DOCUMENT = "SPDXRef-DOCUMENT"


def make_sbom(
    lock: Lock, roots: Iterable[str], *, stack: str, lock_digest: str, created: str
) -> bytes:
    """The document about all that the roots reach.

    ``lock_digest`` is ``sha256:`` and the checksum of the lock's bytes, which makes the document's
    name in the world; ``created`` is a time in UTC (``2026-11-21T14:00:00Z``).
    """
    roots = tuple(roots)
    reached = lock.closure(roots)
    specs = [lock.specs[key] for key in lock.order if key in reached]
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": stack,
        "documentNamespace": _namespace(stack, lock_digest, roots),
        "creationInfo": {"created": created, "creators": [f"Tool: stackyard-{__version__}"]},
        "packages": [_package(spec) for spec in specs],
        "relationships": [
            *(_relation(_DOCUMENT, "DESCRIBES", _id(lock.specs[key])) for key in roots),
            *(relation for spec in specs for relation in _relations(spec, lock.specs)),
        ],
    }
    return f"{json.dumps(document, indent=1, ensure_ascii=False)}\n".encode()


def _namespace(stack: str, lock_digest: str, roots: Iterable[str]) -> str:
    """A name that no other document has; the standard wants a URI, and none that leads anywhere."""
    import uuid  # takes a while to import

    unique = uuid.uuid5(uuid.NAMESPACE_URL, "\n".join((stack, lock_digest, *sorted(roots))))
    return f"https://spdx.org/spdxdocs/{quote(stack, safe='')}-{unique}"


def package_url(spec: Spec) -> str:
    """``pkg:spack/builtin/zlib@1.3?daghash=...``, by the type's definition in the purl registry."""
    namespace = f"{quote(spec.namespace, safe='.')}/" if spec.namespace else ""
    version = quote(spec.version, safe=".")
    return f"pkg:spack/{namespace}{quote(spec.name, safe='')}@{version}?daghash={spec.hash}"


def _id(spec: Spec) -> str:
    """Letters, digits, dots and dashes are all that may stand in one."""
    return f"SPDXRef-{spec.name.replace('_', '-')}-{spec.hash}"


def _package(spec: Spec) -> Mapping[str, Any]:
    found = {"comment": "found on the system, not built"} if spec.external else {}
    return {
        "SPDXID": _id(spec),
        "name": spec.name,
        "versionInfo": spec.version,
        "downloadLocation": _UNKNOWN,
        "filesAnalyzed": False,
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": _UNKNOWN,
        "copyrightText": _UNKNOWN,
        **found,
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": package_url(spec),
            }
        ],
    }


def _relations(spec: Spec, specs: Mapping[str, Spec]) -> Iterator[Mapping[str, str]]:
    for dependency in sorted(spec.dependencies, key=lambda one: (one.name, one.hash)):
        other = _id(specs[dependency.hash])
        for kind, forward in _kinds(dependency):
            pair = (_id(spec), other) if forward else (other, _id(spec))
            yield _relation(pair[0], kind, pair[1])


def _kinds(dependency: Dependency) -> Iterator[tuple[str, bool]]:
    """What an edge means in SPDX's words, and whether it is said of the one that depends."""
    types = set(dependency.deptypes)
    if types & {"link", "run"}:
        yield "DEPENDS_ON", True
    if "build" in types:
        yield "BUILD_DEPENDENCY_OF", False
    if "test" in types:
        yield "TEST_DEPENDENCY_OF", False


def _relation(element: str, kind: str, related: str) -> Mapping[str, str]:
    return {
        "spdxElementId": element,
        "relationshipType": kind,
        "relatedSpdxElement": related,
    }
