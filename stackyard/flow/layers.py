"""``image.layers``: all files of an image in folders, a folder to a layer, for a Dockerfile."""

from __future__ import annotations

from pathlib import Path

from stackyard.edges import console
from stackyard.edges.images.trees import write_tree
from stackyard.errors import ConfigError
from stackyard.fetch import size_text
from stackyard.flow.contents import choose_parts, fetch_contents, load_image_work
from stackyard.flow.fetch import Checking
from stackyard.layers import MOST_LAYERS

__all__ = ["layers"]

#: Beside the layers, because files are moved by name alone.
_MIRROR = ".mirror"
_LAST = "last"


def layers(  # noqa: PLR0913 - passed by name
    *,
    stack: str,
    to: str,
    source: str,
    keys: str,
    unsigned: bool,
    platform: str,
    most: str,
    created: str,
) -> None:
    """Fetch the lock's binaries, verified, and lay out ``00`` to ``39`` and ``last``.

    All folders are always there; those that the stack does not need are empty. Raises as ``fetch``
    does, and nothing is laid out then.
    """
    if not to:
        raise ConfigError("no folder is named", where="--to", hint="add --to DIR")
    folder = Path(to).absolute()
    work = load_image_work(stack)
    part, *others = choose_parts(work, platform)
    if others:
        raise ConfigError("layers are of one platform", where="--platform", hint="name one")
    fill = fetch_contents(
        work,
        part,
        folder / _MIRROR,
        source,
        Checking(keys, unsigned=unsigned),
        most=_most(most, work.settings.image.layers),
        created=created,
    )
    laid = fill.contents.layers
    sizes = [
        write_tree(folder / f"{number:02}", laid[number] if number < len(laid) else (), fill.mirror)
        for number in range(MOST_LAYERS)
    ]
    sizes.append(write_tree(folder / _LAST, fill.contents.last, fill.mirror))
    console.note(
        f"{len(fill.fetched.binaries)} binaries, {size_text(sum(sizes))}, "
        f"in {len(laid)} layers and the last one: {to}"
    )


def _most(text: str, otherwise: int) -> int:
    if not text:
        return otherwise
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_LAYERS):
        raise ConfigError(
            f"{text!r} is no number of layers", where="--most", hint=f"1 to {MOST_LAYERS}"
        )
    return int(text)
