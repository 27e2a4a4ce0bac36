"""Find the binaries of specs on a mirror, whatever its layout.

What a mirror holds is found by name, as Spack finds it (``get_mirrors_for_spec`` in
``binary_distribution.py`` of Spack 1.1), or by listing it. Everything here reads; what is read is
checked for its shape and not yet for its truth.

403 is the difficult answer. An S3 bucket that does not let us list it says so of what is not there,
and then never says 404. So 403 means "not there" where something else was readable, and nothing
was 404; else it means what it says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from stackyard.binary import Binary, parse_binary, parse_v2_binary
from stackyard.edges.parallel import Tick, parallel_map
from stackyard.edges.stores.store import ForbiddenError, Listed, Store
from stackyard.errors import NotFoundError
from stackyard.lock import Spec
from stackyard.mirror import (
    INDEX_MANIFEST,
    LAYOUT_MARKER,
    NOWHERE,
    SPEC_MANIFESTS,
    V2_INDEX,
    V2_SPECS,
    Layout,
    compiler_of,
    manifest_hash,
    spec_manifest_key,
    v2_spec_key,
)
from stackyard.oci import MANIFESTS, manifest_key, parse_oci_binary, spec_tag, tag_hash

__all__ = [
    "Search",
    "find_binaries",
    "layouts_of",
    "list_manifests",
    "manifest_keys",
    "read_binary",
]


_EVIDENCE: tuple[tuple[Layout, str], ...] = (
    (3, LAYOUT_MARKER),
    (3, INDEX_MANIFEST),
    (2, V2_INDEX),
)


class Search(NamedTuple):
    """``binaries`` by DAG hash; ``missing`` are the hashes of those that are certainly not there."""

    binaries: Mapping[str, Binary]
    missing: tuple[str, ...]


def layouts_of(store: Store) -> tuple[Layout, ...]:
    """The layouts that a mirror evidently has, the newest first; none for an empty one."""
    if store.url.startswith(("oci://", "oci+http://")):
        return ("oci",)
    found: list[Layout] = []
    denials: list[ForbiddenError] = []
    absent = False
    for layout, key in _EVIDENCE:
        if layout in found:
            continue
        try:
            there = store.exists(key)
        except ForbiddenError as error:
            denials.append(error)
            continue
        absent |= not there
        found += [layout] if there else []
    if denials and (absent or not found):
        raise denials[0]
    return tuple(found)


def _hides_what_is_missing(store: Store) -> bool:
    """Whether 403 means "not there": something is readable, and what is nowhere is 403 too."""
    if not layouts_of(store):
        return False
    try:
        store.exists(NOWHERE)
    except ForbiddenError:
        return True
    return False


def manifest_keys(spec: Spec, layout: Layout, specs: Mapping[str, Spec]) -> tuple[str, ...]:
    """Where a layout may have a spec's manifest, the likeliest place first.

    ``specs`` are all nodes of the lock: layout 2 has the compiler's name in its paths.
    """
    if layout == "oci":
        return (manifest_key(spec_tag(spec)),)
    if layout == 3:
        return (spec_manifest_key(spec),)
    compiler = compiler_of(spec, specs)
    if compiler is None:
        return ()
    return tuple(v2_spec_key(spec, compiler, signed=signed) for signed in (True, False))


def read_binary(store: Store, layout: Layout, key: str, dag_hash: str) -> Binary:
    """Read one manifest. Raises NotFoundError, and CorruptError for another shape."""
    data = store.read(key)
    parse = {2: parse_v2_binary, 3: parse_binary, "oci": parse_oci_binary}[layout]
    return parse(data, key, dag_hash, f"{store.url}/{key}")


def list_manifests(store: Store, layout: Layout) -> Iterator[tuple[str, Listed]]:
    """DAG hash and listing of every manifest; the hash is what its name says."""
    folder = {2: V2_SPECS, 3: SPEC_MANIFESTS, "oci": MANIFESTS}[layout]
    hash_in = tag_hash if layout == "oci" else manifest_hash
    for listed in store.list(folder):
        if dag_hash := hash_in(listed.key):
            yield dag_hash, listed


def find_binaries(  # noqa: PLR0913 - passed by name
    store: Store,
    wanted: Sequence[Spec],
    *,
    specs: Mapping[str, Spec],
    layouts: Sequence[Layout] = (),
    workers: int = 32,
    tick: Tick = lambda done, total: None,  # noqa: ARG005
) -> Search:
    """Look each spec up by its names, in the given layouts or in those that the mirror has.

    Raises StoreError for a mirror that does not answer, and CorruptError for a manifest of another
    shape: what cannot be read is not missing.
    """
    order = tuple(layouts) or layouts_of(store) or (3, 2)

    def look_up(spec: Spec) -> Binary | ForbiddenError | None:
        denied = None
        for layout in order:
            for key in manifest_keys(spec, layout, specs):
                try:
                    return read_binary(store, layout, key, spec.hash)
                except NotFoundError:
                    continue
                except ForbiddenError as error:
                    denied = denied or error
        return denied

    answers = parallel_map(look_up, wanted, workers=workers, tick=tick)
    denials = [answer for answer in answers if isinstance(answer, ForbiddenError)]
    if denials and not _hides_what_is_missing(store):
        raise denials[0]
    pairs = list(zip(wanted, answers, strict=True))
    return Search(
        binaries={spec.hash: found for spec, found in pairs if isinstance(found, Binary)},
        missing=tuple(spec.hash for spec, found in pairs if not isinstance(found, Binary)),
    )
