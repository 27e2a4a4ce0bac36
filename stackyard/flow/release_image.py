"""After the tag: wait until the registry shows the image that was made of just this commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from stackyard.edges import console
from stackyard.errors import (
    DeniedError,
    NotFoundError,
    StackyardError,
    StoreError,
    UnreachableError,
)
from stackyard.release import image_problem

if TYPE_CHECKING:
    from stackyard.edges.stores.oci import OciStore
    from stackyard.image_names import ImageName

__all__ = ["Patience", "Published", "Target", "follow_images"]

#: A line comes at least so often, even if nothing has changed.
_HEARTBEAT_S = 600.0

Sleep = Callable[[float], None]
Clock = Callable[[], float]


class Patience(NamedTuple):
    """How often a registry is asked, and for how long."""

    every_s: float = 30.0
    timeout_s: float = 2 * 3600.0


class Target(NamedTuple):
    """The image that a stack's release is to become; ``lock_digest`` is ``sha256:...``."""

    stack: str
    repository: ImageName
    tag: str
    commit: str
    lock_digest: str

    @property
    def shown(self) -> str:
        return f"{self.repository.written}:{self.tag}"


class Published(NamedTuple):
    """An image that the registry shows; ``problem`` says why it is not the right one."""

    target: Target
    digest: str
    problem: str = ""


class _Seen(NamedTuple):
    """What a registry said the last time."""

    text: str
    kind: type[StoreError]
    image: Published | None = None


_ABSENT = _Seen("not there yet", NotFoundError)


def follow_images(
    targets: Sequence[Target],
    patience: Patience,
    *,
    sleep: Sleep = time.sleep,
    clock: Clock = time.monotonic,
    found: Callable[[Published], None] = lambda _: None,
) -> None:
    """Wait for all of them; ``found`` is told of each.

    Raises NotFoundError, DeniedError or UnreachableError, as the registry last said, for what is
    not there in time, and StackyardError for a Ctrl-C. Nothing is undone.
    """
    from stackyard.edges.stores.oci import OciStore
    from stackyard.edges.stores.store import ANONYMOUS

    begin = told = clock()
    seen: dict[str, _Seen] = {}
    pending = list(targets)
    try:
        while True:
            for target in tuple(pending):
                with closing(OciStore(target.repository.url, ANONYMOUS, sleep=sleep)) as store:
                    now = _look(store, target, seen.get(target.shown))
                last = seen.get(target.shown)
                if last is None or last.text != now.text or clock() - told >= _HEARTBEAT_S:
                    console.note(f"[{_span(clock() - begin)}] {target.shown}: {now.text}")
                    told = clock()
                seen[target.shown] = now
                if now.image and not now.image.problem:
                    found(now.image)
                    pending.remove(target)
            left = begin + patience.timeout_s - clock()
            if not pending:
                return
            if left <= 0:
                raise _late(pending, seen, patience)
            sleep(min(patience.every_s, left))
    except KeyboardInterrupt:
        raise StackyardError(
            "no longer followed; the tag is pushed, and what builds the image goes on",
            where=", ".join(target.shown for target in pending),
            hint="the same command at this commit goes on waiting",
        ) from None


def _look(store: OciStore, target: Target, last: _Seen | None) -> _Seen:
    """What the registry shows now. An image that is known by its digest is not read again."""
    from stackyard.edges.images.shown import read_image
    from stackyard.oci import manifest_key

    try:
        digest = store.digest_of(manifest_key(target.tag))
        if last and last.image and last.image.digest == digest:
            return last
        image = read_image(store, digest)
    except NotFoundError:
        return _ABSENT
    except StoreError as error:
        return _Seen(f"{_words(error)}: {error.message}", type(error))
    problem = image_problem(image.labels, target.commit, target.lock_digest)
    text = f"another image has the tag: {problem}" if problem else f"there, {digest}"
    return _Seen(text, NotFoundError, Published(target, digest, problem))


def _words(error: StoreError) -> str:
    if isinstance(error, DeniedError):
        # Docker Hub and GitHub say so of repositories that are not there yet, too.
        return "the registry does not show it"
    return "nobody knows" if isinstance(error, UnreachableError) else "it cannot be read"


def _late(pending: Sequence[Target], seen: dict[str, _Seen], patience: Patience) -> StoreError:
    lasts = [seen[target.shown] for target in pending]
    lines = "".join(
        f"\n  {target.shown}: {last.text}" for target, last in zip(pending, lasts, strict=True)
    )
    kind = lasts[0].kind
    login = "is a login missing (docker login)? " if kind is DeniedError else ""
    return kind(
        f"the tag is pushed, and after {_span(patience.timeout_s)} the image is not there:{lines}",
        where="release",
        hint=f"{login}look at what builds it; then the same command at this commit goes on waiting",
    )


def _span(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
