"""Binaries of layout 3 into a registry: each becomes an image, what it depends on before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from stackyard.binary import Metadata, parse_metadata
from stackyard.edges.mirrors.copying import Cargo
from stackyard.edges.mirrors.spool import Spool
from stackyard.edges.mirrors.transfer import download
from stackyard.edges.parallel import Tick, parallel_map
from stackyard.edges.stores.oci import find_layer, push_binary
from stackyard.edges.stores.store import Store, WritableStore
from stackyard.errors import ConflictError, CorruptError, NotFoundError, StoreError
from stackyard.oci import Layer, runtime_order

__all__ = ["push_images"]

_WORKERS = 8


def push_images(  # noqa: PLR0913 - passed by name
    source: Store,
    target: WritableStore,
    cargo: Sequence[Cargo],
    *,
    spool: Spool,
    on_bytes: Callable[[int], None],
    tick: Tick,
) -> None:
    """Send each tarball and make its image, as soon as those of all its dependencies are there.

    Raises CorruptError that names all tarballs that are not what their manifests say: they, and
    what depends on them, have no image then.
    """
    layers: dict[str, Layer] = {}

    def push(one: Cargo) -> StoreError | None:
        blob = one.binary.tarball
        try:
            with spool.room(blob.size_bytes or 0) as path:
                download(source, blob, path, on_bytes=on_bytes)
                layers[one.binary.hash] = push_binary(
                    target,
                    _metadata(one),
                    path,
                    dependencies=layers,
                    overwrite=one.item.old is not None,
                )
        except ConflictError as error:  # somebody else was faster
            there = find_layer(target, _metadata(one).spec(one.binary.key))
            if there is None or there.checksum != blob.checksum:
                raise error from None
            layers[one.binary.hash] = there
        except NotFoundError as error:
            return NotFoundError("the mirror has the manifest without it", where=error.where)
        except CorruptError as error:
            return error
        return None

    done = 0
    for level in _levels(cargo):
        before = done
        answers = parallel_map(
            push,
            level,
            workers=_WORKERS,
            tick=lambda part, _: tick(before + part, len(cargo)),  # noqa: B023 - called within
        )
        done += len(level)
        if wrong := [answer for answer in answers if answer]:
            lines = "\n".join(f"  {error.where}: {error.message}" for error in wrong)
            raise CorruptError(
                f"{len(wrong)} tarballs are not what their manifests say:\n{lines}",
                where=source.url,
                hint="build and push these again",
            )


def _metadata(cargo: Cargo) -> Metadata:
    return parse_metadata(cargo.spec.read_bytes(), cargo.binary.key)


def _levels(cargo: Sequence[Cargo]) -> list[list[Cargo]]:
    """Groups in which nothing needs anything of its own group, or of a later one."""
    depth: dict[str, int] = {}
    needs: Mapping[str, Sequence[str]] = {
        one.binary.hash: [spec.hash for spec in runtime_order(_metadata(one), one.binary.key)]
        for one in cargo
    }
    # Whoever is reached by another one reaches less: dependencies come first.
    for one in sorted(cargo, key=lambda one: len(needs[one.binary.hash])):
        own = one.binary.hash
        below = (depth[key] for key in needs[own] if key != own and key in depth)
        depth[own] = max(below, default=-1) + 1
    groups: dict[int, list[Cargo]] = {}
    for one in cargo:
        groups.setdefault(depth[one.binary.hash], []).append(one)
    return [groups[level] for level in sorted(groups)]
