"""Names of container images, where they stand in files, and their digests written behind them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from stackyard.errors import ConfigError

__all__ = [
    "ImageName",
    "Place",
    "check_repository",
    "dockerfile_images",
    "parse_image_name",
    "settings_images",
    "with_images",
]

#: Docker Hub, as its registry calls itself.
_HUB = "index.docker.io"
_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_NAME = re.compile(
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?")

#: Keys of settings that name an image; an empty one stands for each entry of a list.
_KEYS = (
    ("generate", "image"),
    ("image", "base"),
    ("image", "fetch_base"),
    ("github", "systems", "", "base_image"),
)

#: ``ARG BASE=NAME`` or ``ARG FETCH_BASE=NAME``, and ``FROM NAME`` where it is a name and not a stage or a variable.
_LINE = re.compile(
    r"^(?:ARG[ \t]+(?:FETCH_)?BASE=|FROM[ \t]+(?:--platform=\S+[ \t]+)?)['\"]?([^\s'\"]+)",
    re.MULTILINE,
)
_STAGE = re.compile(r"^FROM[ \t].*[ \t]AS[ \t]+(\S+)", re.MULTILINE | re.IGNORECASE)


class ImageName(NamedTuple):
    """What follows the name as written is in ``tag`` and ``digest``, empty where nothing does."""

    written: str  # without tag and digest
    domain: str
    repository: str
    tag: str
    digest: str

    @property
    def url(self) -> str:
        """The repository, as our stores take it. On this machine there is no TLS, as for Docker."""
        here = self.domain.partition(":")[0] in ("localhost", "127.0.0.1")
        return f"{'oci+http' if here else 'oci'}://{self.domain}/{self.repository}"

    def pinned(self, digest: str) -> str:
        """The name as it was written, its tag for people, and the digest, which is what counts."""
        return f"{self.written}{f':{self.tag}' if self.tag else ''}@{digest}"


class Place(NamedTuple):
    """An image's name in a text: where it begins and ends, and what its place is called."""

    text: str
    start: int
    end: int
    where: str


def parse_image_name(text: str, where: str = "") -> ImageName:
    """As Docker reads it: without a host it is on Docker Hub. Raises ConfigError."""
    name, _, digest = text.partition("@")
    head, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    written = f"{head}{slash}{last}"
    domain, separator, repository = written.partition("/")
    if not separator or not (re.search("[.:]", domain) or domain == "localhost"):
        domain, repository = _HUB, written if separator else f"library/{written}"
    if domain in _HUB_NAMES:
        domain = _HUB
        repository = repository if "/" in repository else f"library/{repository}"
    good = (
        _DOMAIN.fullmatch(domain)
        and _NAME.fullmatch(repository)
        and (not tag or _TAG.fullmatch(tag))
        and (not digest or _DIGEST.fullmatch(digest))
        and text == f"{written}{f':{tag}' if tag else ''}{f'@{digest}' if digest else ''}"
    )
    if not good:
        raise ConfigError(
            f"{text[:100]!r} is not the name of an image",
            where=where,
            hint="such as debian:12, ghcr.io/owner/name:1.0, or one with @sha256:... behind it",
        )
    return ImageName(written, domain, repository, tag, digest)


def check_repository(name: ImageName, where: str) -> None:
    """Raises ConfigError for a name that has a tag or a digest."""
    if name.tag or name.digest:
        raise ConfigError("a repository has no tag and no digest", where=where, hint=name.written)


def settings_images(text: str, where: str, prefix: Sequence[str] = ()) -> tuple[Place, ...]:
    """The images that a file of settings names; ``prefix`` are the keys above the settings.

    The text is one that was read as settings before.
    """
    import yaml  # only this needs to know where things stand

    document: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    places: dict[int, Place] = {}  # an alias has no place of its own
    for keys in _KEYS:
        for node, name in _below(document, (*prefix, *keys)):
            if not (isinstance(node, yaml.ScalarNode) and node.value):
                continue
            end = node.end_mark.index - (1 if node.style in ("'", '"') else 0)
            start = end - len(node.value)  # an anchor may stand before it
            if text[start:end] == node.value:
                places.setdefault(start, Place(node.value, start, end, f"{where}: {name}"))
    return tuple(places.values())


def _below(node: Any, keys: Sequence[str], name: str = "") -> Iterator[tuple[Any, str]]:
    """The nodes that keys lead to, and how those places are called."""
    if not keys:
        yield node, name
        return
    key, *rest = keys
    inner = node.value if isinstance(getattr(node, "value", None), list) else ()
    if key:
        found = [pair[1] for pair in inner if isinstance(pair, tuple) and pair[0].value == key]
        for one in found[:1]:
            yield from _below(one, rest, f"{name}.{key}" if name else key)
        return
    for number, one in enumerate(inner):
        if not isinstance(one, tuple):
            yield from _below(one, rest, f"{name}[{number}]")


def dockerfile_images(text: str, where: str) -> tuple[Place, ...]:
    """The images that a Dockerfile begins with; stages, variables and ``scratch`` are none."""
    stages = {name.lower() for name in _STAGE.findall(text)}
    return tuple(
        Place(
            name,
            found.start(1),
            found.end(1),
            f"{where}:{text.count(chr(10), 0, found.start()) + 1}",
        )
        for found in _LINE.finditer(text)
        if "$" not in (name := found[1]) and name.lower() not in stages and name != "scratch"
    )


def with_images(text: str, changes: Iterable[tuple[Place, str]]) -> str:
    """The text with other names in these places, and every other character as it was."""
    parts, last = [], 0
    for place, name in sorted(changes, key=lambda change: change[0].start):
        parts += [text[last : place.start], name]
        last = place.end
    return "".join([*parts, text[last:]])
