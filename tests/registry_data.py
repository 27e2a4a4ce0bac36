"""Spack's own images of the tiny stack, put into a registry that tests run."""

from __future__ import annotations

from fake_registry import Repository, digest_of
from tests_data import DATA


def fill(repository: Repository) -> None:
    """All blobs and tags of ``tests/data/oci-tiny``."""
    for path in (DATA / "oci-tiny" / "blobs").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            repository.blobs[digest_of(data)] = data
    for path in (DATA / "oci-tiny" / "manifests").iterdir():
        repository.put(path.name, path.read_bytes())
