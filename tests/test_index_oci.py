"""The index of a registry: behind a tag, with the state as a second layer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oci_backends import OciBackend, fake_backend, real_backend
from tests_data import DATA

from stackyard.binary import Metadata, parse_metadata
from stackyard.edges.mirrors.indexing import (
    IndexReport,
    add_to_index,
    check_index,
    read_index,
    remove_from_index,
    update_index,
)
from stackyard.edges.mirrors.layouts import list_manifests, read_binary
from stackyard.edges.stores.oci import OciStore
from stackyard.lock import parse_lock
from stackyard.oci import INDEX_TAG, MANIFESTS, digest_key, manifest_key, parse_image

TINY = DATA / "oci-tiny"
LOCK = parse_lock((DATA / "tiny.spack.lock").read_bytes(), "tiny")


@pytest.fixture(params=["fake", "real"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OciBackend]:
    made = real_backend(tmp_path) if request.param == "real" else fake_backend()
    with made as backend:
        yield backend


@pytest.fixture
def store(backend: OciBackend) -> Iterator[OciStore]:
    """Spack's images of the tiny stack, and its index."""
    store = backend.store()
    for path in (TINY / "blobs").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            store.write(digest_key(hashlib.sha256(data).hexdigest()), data)
    for path in (TINY / "manifests").iterdir():
        store.write(manifest_key(path.name), path.read_bytes())
    yield store
    store.close()


def update(store: OciStore, **options: Any) -> IndexReport:
    return update_index(store, sleep=lambda _: None, **options)


def index(store: OciStore) -> dict[str, Any]:
    image = parse_image(store.read(manifest_key(INDEX_TAG)), "index")
    assert image.layers[0].media_type == "application/vnd.oci.image.layer.v1.tar+gzip"
    found: dict[str, Any] = json.loads(store.read(image.layers[0].blob.key, max_bytes=10**7))
    return found


def metadata(store: OciStore) -> dict[str, Metadata]:
    found = {}
    for dag_hash, listed in list_manifests(store, "oci"):
        binary = read_binary(store, "oci", listed.key, dag_hash)
        assert binary.spec
        found[dag_hash] = parse_metadata(store.read(binary.spec.key), "config")
    return found


def test_as_spack_makes_it(store: OciStore) -> None:
    """Anew, and over the one that Spack wrote."""
    spacks = index(store)
    over = update(store)
    assert (over.named, over.stale, over.problems) == (7, False, {})
    assert index(store) == spacks
    store.delete(manifest_key(INDEX_TAG))
    assert len(update(store).added) == 7
    assert index(store) == spacks
    image = parse_image(store.read(manifest_key(INDEX_TAG)), "index")
    assert image.layers[1].media_type == "application/vnd.stackyard.index-state.v1+json"
    assert store.read(image.config.blob.key) == b"{}"


def test_known_tags_are_not_read(store: OciStore) -> None:
    update(store)
    again = update(store)
    assert (again.written, again.requests) == (False, 3)
    assert update(store, full=True).requests > 14
    assert not check_index(store).stale


def test_added_and_removed(store: OciStore) -> None:
    everything = metadata(store)
    spacks = index(store)
    update(store)
    one = next(key for key, spec in LOCK.specs.items() if spec.name == "tiny-app")
    assert remove_from_index(store, [one], sleep=lambda _: None).gone
    assert one not in index(store)["database"]["installs"]
    report = add_to_index(store, [everything[one]], sleep=lambda _: None)
    assert report.named == 7
    assert index(store) == spacks
    before = store.read(manifest_key(INDEX_TAG))
    add_to_index(store, [everything[one]], sleep=lambda _: None)
    assert store.read(manifest_key(INDEX_TAG)) != before  # who was about to remove it must see it
    assert not check_index(store).stale
    view = read_index(store)
    assert view
    assert sum(there for _, _, there in view.nodes()) == 7


def test_a_tag_that_vanished_and_one_that_is_wrong(store: OciStore) -> None:
    update(store)
    tags = {key: listed.key for key, listed in list_manifests(store, "oci")}
    app, tool = (
        next(key for key, spec in LOCK.specs.items() if spec.name == name)
        for name in ("tiny-app", "tiny-tool")
    )
    store.write(tags[tool], store.read(tags[app]))
    report = update(store, full=True)
    assert list(report.problems) == [tags[tool]]
    assert f"another spec, {app}" in report.problems[tags[tool]]
    # A registry deletes all tags of a manifest, the wrong one too.
    store.delete(tags[app])
    names = {listed.key for listed in store.list(MANIFESTS)}
    report = update(store)
    assert report.named == len(names - {manifest_key(INDEX_TAG)})
    assert not check_index(store).stale


def test_what_another_writer_wrote_over(store: OciStore, backend: OciBackend) -> None:
    """A registry takes every manifest; the second look tells that ours is gone."""
    everything = metadata(store)
    update(store)
    app, tool = (
        next(key for key, spec in LOCK.specs.items() if spec.name == name)
        for name in ("tiny-app", "tiny-tool")
    )
    remove_from_index(store, [app, tool], sleep=lambda _: None)
    before = store.read(manifest_key(INDEX_TAG))
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1:  # somebody who looked before we wrote
            other = backend.store()
            other.write(manifest_key(INDEX_TAG), before)
            add_to_index(other, [everything[tool]], sleep=lambda _: None)
            other.close()

    add_to_index(store, [everything[app]], sleep=sleep)
    installs = index(store)["database"]["installs"]
    assert installs[app]["in_buildcache"]
    assert installs[tool]["in_buildcache"]
    assert waits[0] == 1.0
    assert len(waits) == 3
