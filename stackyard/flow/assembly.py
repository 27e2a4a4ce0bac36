"""``image.build --no-engine``: an image put together here, and sent where it is wanted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stackyard.accounts import add_user
from stackyard.edges import console
from stackyard.edges.checkout import cache_folder
from stackyard.edges.images.base import Base, is_path, open_base
from stackyard.edges.images.sending import Sent, push_image, write_archive, write_layout
from stackyard.edges.images.sums import Sums
from stackyard.edges.images.supply import Supply, at_hand
from stackyard.edges.images.system import read_system
from stackyard.edges.images.tape import open_tape
from stackyard.edges.parallel import parallel_map
from stackyard.errors import ConfigError
from stackyard.fetch import size_text
from stackyard.flow.contents import Fill, Part, choose_parts, fetch_contents, lock_digest, time_of
from stackyard.flow.fetch import Checking
from stackyard.flow.image_origin import image_origin
from stackyard.flow.steps import Work
from stackyard.image import USER, File, architectures, make_labels
from stackyard.image_names import ImageName, parse_image_name
from stackyard.layers import MOST_IN_IMAGE
from stackyard.oci import Descriptor, descriptor, media_type_of
from stackyard.oci_image import (
    LAYOUT_FILE,
    PACKED_TYPE,
    TAR_TYPE,
    Above,
    Made,
    docker_manifest,
    layout_files,
    make_image,
    make_index,
)
from stackyard.packing import Piece, pack

if TYPE_CHECKING:
    from stackyard.flow.image import Wishes

__all__ = ["assemble"]

#: Where the binaries are kept for the next time, in the project.
_KEPT = ".stackyard/layers"
_AT_ONCE = 4
#: Layers of ours that hold no binaries: the user's and the last one.
_OTHERS = 2


class _Image(NamedTuple):
    """What was put together for one platform: the image, and all blobs that it needs."""

    made: Made
    supplies: tuple[Supply, ...]


def assemble(  # noqa: PLR0913 - what the task takes
    work: Work,
    names: Sequence[str],
    source: str,
    checking: Checking,
    *,
    base: str,
    wishes: Wishes,
) -> None:
    """Fetch, pack, put together, send.

    Raises ConfigError for what cannot be done without an engine; StoreError for a mirror or a
    registry that does not give, or does not take, what it should.
    """
    begun = time.monotonic()
    _refuse(work, base, wishes)
    targets = [_target(name) for name in names] if wishes.push else []
    version = names[0].rpartition(":")[2]
    created = time_of(work, image_origin(work, version).created)
    text, cache = base or work.settings.image.base, cache_folder(work.project.env) / "images"
    images: list[_Image] = []
    labels: Mapping[str, str] = {}
    wanted = wishes.platform or ",".join(architectures(work.lock, work.roots))
    for part in choose_parts(work, wanted):
        found = open_base(text, part.architecture, cache)
        labels = _labels(work, text, found, version)
        fill = fetch_contents(
            work,
            part,
            _folder(work, part),
            source,
            checking,
            most=min(work.settings.image.layers, _room(text, len(found.layers))),
            created=created,
        )
        images.append(_image(found, fill, labels, created, cache))
    manifests = [one.made.manifest for one in images]
    if len(images) > 1:
        manifests.append(make_index([one.made for one in images], labels))
    if wishes.output:
        _write(Path(wishes.output), images, manifests, names)
    for url, tags in _by_repository(targets).items():
        _tell(_push(url, images, manifests, tags), url)
    top = descriptor(manifests[-1], "")
    console.note(f"{top.digest}, put together in {time.monotonic() - begun:.1f} s")
    for name in names:
        console.out(f"{name}@{top.digest}")


def _room(base: str, count: int) -> int:
    """How many layers binaries may have above a base. Raises ConfigError if there is none left."""
    room = MOST_IN_IMAGE - _OTHERS - count
    if room < 1:
        raise ConfigError(
            f"the base has {count} layers, and an image may have {MOST_IN_IMAGE}",
            where=f"image.base {base}",
            hint="take another base, or squash it into one layer",
        )
    return room


def _refuse(work: Work, base: str, wishes: Wishes) -> None:
    if not (wishes.output or wishes.push):
        raise ConfigError(
            "without an engine there is nothing that keeps the image",
            where="--no-engine",
            hint="add --output FILE.tar (or a folder), or --push",
        )
    output = Path(wishes.output)
    if (
        wishes.output
        and output.is_dir()
        and any(output.iterdir())
        and not (output / LAYOUT_FILE).exists()
    ):
        raise ConfigError(
            "the folder holds something, and no image",
            where=f"--output {wishes.output}",
            hint="name an empty or a new one, or a file that ends with .tar",
        )
    if work.settings.image.tools and not base:
        raise ConfigError(
            "tools cannot be installed without a container engine",
            where="image.tools",
            hint="name a base that has them, --base NAME; docs/images.md says how to make one",
        )
    for flag, value in (("--network", wishes.network), ("--pull", wishes.pull)):
        if value:
            raise ConfigError("it is for engines", where=flag, hint="leave it away")


def _target(name: str) -> ImageName:
    """Where a name sends the image. Raises ConfigError if that is no registry."""
    target = parse_image_name(name, "--tag")
    if target.domain == "localhost":
        raise ConfigError(
            f"{name} names no registry",
            where="image.repository",
            hint="set it, such as ghcr.io/owner/name; or give whole names: --tag REGISTRY/NAME:TAG",
        )
    return target


def _folder(work: Work, part: Part) -> Path:
    from stackyard.edges.files import write_files

    kept = work.project.root / _KEPT
    if not (kept / ".gitignore").exists():
        write_files({kept / ".gitignore": b"*\n"})
    return kept / work.stack.name / part.architecture


def _labels(work: Work, text: str, base: Base, version: str) -> Mapping[str, str]:
    return make_labels(
        stack=work.stack.name,
        origin=image_origin(work, version),
        spack_commit=work.lock.spack_commit,
        lock_digest=lock_digest(work),
        licenses=work.settings.image.licenses,
        base_name=base.name if not is_path(text) else "",
        base_digest=base.digest,
    )


# --- layers ---


def _image(base: Base, fill: Fill, labels: Mapping[str, str], created: str, cache: Path) -> _Image:
    sizes = {
        file.content: (fill.mirror / file.content).stat().st_size
        for files in (*fill.contents.layers, fill.contents.last)
        for file in files
        if isinstance(file.content, str)
    }
    parts: list[tuple[Sequence[File], str]] = [
        (add_user(read_system(base, cache), USER), f"user {USER.name}"),
        *((files, _comment(number, files)) for number, files in enumerate(fill.contents.layers)),
    ]
    tapes = [(pack(files, sizes), comment) for files, comment in parts if files]
    console.note(f"packing {len(tapes) + 1} layers")
    sums = Sums(fill.mirror.with_suffix(".sums.json"))
    supplies = parallel_map(
        lambda one: _supply(one[0], fill.mirror, sums),
        tapes,
        workers=_AT_ONCE,
        tick=lambda done, total: console.bar("layers", done, total),
    )
    sums.keep()
    last, diff_id = _packed(pack(fill.contents.last, sizes), fill.mirror)
    above = [
        *(
            Above(supply.descriptor, supply.descriptor.digest, comment)
            for supply, (_, comment) in zip(supplies, tapes, strict=True)
        ),
        Above(last.descriptor, diff_id, "index, keys, configuration"),
    ]
    made = make_image(base.config, base.layers, above, labels=labels, created=created)
    config = at_hand(made.config, made.config_descriptor)
    return _Image(made, (*base.supplies, *supplies, last, config))


def _packed(pieces: tuple[Piece, ...], mirror: Path) -> tuple[Supply, str]:
    """A layer of text, which everybody pulls after each release; and the digest of what it was."""
    import zlib

    with open_tape(pieces, mirror) as tape:
        data = tape.read()
    packer = zlib.compressobj(level=6, wbits=31)  # gzip with time 0 and no name
    packed = packer.compress(data) + packer.flush()
    return at_hand(packed, descriptor(packed, PACKED_TYPE)), descriptor(data, TAR_TYPE).digest


def _comment(number: int, files: Sequence[File]) -> str:
    count = sum(file.path.endswith((".spec.manifest.json", ".spack")) for file in files)
    return f"layer {number:02}: {count} binaries"


def _supply(pieces: tuple[Piece, ...], mirror: Path, sums: Sums) -> Supply:
    return Supply(sums.describe(pieces, mirror), lambda: open_tape(pieces, mirror))


# --- where it goes ---


def _write(
    path: Path, images: Sequence[_Image], manifests: Sequence[bytes], names: Sequence[str]
) -> None:
    top = _described(manifests[-1])
    one = images[0].made if len(images) == 1 else None
    files = dict(layout_files(top, one.platform if one else None, names))
    supplies = [
        *(supply for image in images for supply in image.supplies),
        *(at_hand(data, _described(data)) for data in manifests),
    ]
    if path.suffix == ".tar":
        if one:
            files["manifest.json"] = docker_manifest(one, names)
        write_archive(path, supplies, files)
    else:
        write_layout(path, supplies, files)
    console.note(f"written to {path}")


def _described(manifest: bytes) -> Descriptor:
    return descriptor(manifest, media_type_of(manifest, "manifest"))


def _by_repository(targets: Sequence[ImageName]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for target in targets:
        found.setdefault(target.url, []).append(target.tag or "latest")
    return found


def _push(
    url: str, images: Sequence[_Image], manifests: Sequence[bytes], tags: Sequence[str]
) -> Sent:
    from stackyard.edges.stores.oci import OciStore
    from stackyard.edges.stores.store import ANONYMOUS

    with closing(OciStore(url, ANONYMOUS)) as store:
        supplies = [supply for image in images for supply in image.supplies]
        return push_image(store, supplies, manifests, tags)


def _tell(sent: Sent, url: str) -> None:
    console.note(
        f"{url}: {sent.there} blobs were there, {sent.mounted} came from another repository, "
        f"{sent.sent} sent ({size_text(sent.size_bytes)})"
    )
