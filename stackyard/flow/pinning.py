"""``image.pin``: the digests of base images, looked up and written behind their names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from stackyard.document import parse_yaml
from stackyard.edges import console
from stackyard.edges.files import read_bytes, write_files
from stackyard.edges.stacks import list_stacks
from stackyard.errors import ConfigError, StaleError, StoreError
from stackyard.flow.steps import Project, open_project
from stackyard.image_names import (
    ImageName,
    Place,
    dockerfile_images,
    parse_image_name,
    settings_images,
    with_images,
)

__all__ = ["pin"]


class _Found(NamedTuple):
    """An image that some file names, and the digest that its tag has now."""

    path: Path
    place: Place
    name: ImageName
    digest: str

    @property
    def pinned(self) -> str:
        return self.name.pinned(self.digest)


def pin(*, check: bool = False, as_json: bool = False) -> None:
    """Write today's digests into settings and Dockerfiles; with ``check`` only compare.

    Raises StoreError for an image that cannot be looked up; nothing is written then.
    """
    project = open_project()
    texts = {path: read_bytes(path).decode() for path in _files(project)}
    known: dict[tuple[str, str], str] = {}
    found = [
        _Found(path, place, name, _digest(name, place.where, known))
        for path, text in texts.items()
        for place in _places(project, path, text)
        if (name := _name(place))
    ]
    stale = [one for one in found if one.pinned != one.place.text]
    if as_json:
        document = [
            {"where": one.place.where, "was": one.place.text, "is": one.pinned} for one in found
        ]
        console.out(json.dumps(document, indent=2))
    if not check:
        changed = {
            path: with_images(
                text, [(one.place, one.pinned) for one in stale if one.path == path]
            ).encode()
            for path, text in texts.items()
        }
        write_files({path: data for path, data in changed.items() if data != texts[path].encode()})
        if stale:
            console.note("files that are rendered from settings follow by: invoke generate")
    for one in stale:
        console.note(f"{one.place.where}: {one.pinned}")
    if check and stale:
        raise StaleError(
            f"{len(stale)} images are not pinned to what their tags mean now",
            hint="run: invoke image.pin",
        )
    if not stale:
        console.note(f"{len(found)} images, all pinned" if found else "no image is named")


def _files(project: Project) -> Iterator[Path]:
    candidates = [
        project.root / "invoke.yaml",
        *(project.root / "stacks" / name / "stack.yaml" for name in list_stacks(project.root)),
        *sorted((project.root / "docker").rglob("Dockerfile")),
    ]
    return (path for path in candidates if path.is_file())


def _places(project: Project, path: Path, text: str) -> tuple[Place, ...]:
    where = project.shown(path)
    if path.name == "Dockerfile":
        return dockerfile_images(text, where)
    parse_yaml(text, where, error=ConfigError, allow_empty=True)  # says what is wrong, and where
    prefix = ("stackyard",) if path.name == "invoke.yaml" else ()
    return settings_images(text, where, prefix)


def _name(place: Place) -> ImageName | None:
    """The image; None for one that only a CI job knows, or that has a digest and no tag."""
    if "$" in place.text:
        console.warn(f"{place.where}: {place.text} is not looked up: it has a variable in it")
        return None
    try:
        name = parse_image_name(place.text, place.where)
    except ConfigError:
        console.warn(f"{place.where}: {place.text} is not the name of an image")
        raise
    if name.domain == "localhost":
        console.warn(f"{place.where}: {place.text} is an image of this machine, and has no digest")
        return None
    return None if name.digest and not name.tag else name


def _digest(name: ImageName, where: str, known: dict[tuple[str, str], str]) -> str:
    """The digest of what the tag names now: of a choice of platforms, if it is one."""
    from stackyard.edges.stores.oci import OciStore
    from stackyard.edges.stores.store import ANONYMOUS
    from stackyard.oci import manifest_key

    tag = name.tag or "latest"
    key = (name.url, tag)
    if key not in known:
        try:
            with closing(OciStore(name.url, ANONYMOUS)) as store:
                data = store.read(manifest_key(tag))
        except StoreError as error:
            raise type(error)(
                f"{name.written}:{tag} cannot be looked up: {error.where}: {error.message}",
                where=where,
                hint="is it the name of an image, and can its registry be reached from here?",
            ) from None
        known[key] = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return known[key]
