"""``image.push``: a built image into a registry, by all its tags, and its digest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from stackyard.edges import console
from stackyard.errors import ConfigError, CorruptError
from stackyard.flow.contents import lock_digest
from stackyard.flow.image import open_image_work
from stackyard.image_build import local_repository, tagged_names
from stackyard.image_names import parse_image_name

if TYPE_CHECKING:
    from stackyard.edges.settings import Environment

__all__ = ["push"]

_LOCK_LABEL = "dev.stackyard.lock-digest"


def push(  # noqa: PLR0913 - what the task takes
    *,
    stack: str,
    tags: Sequence[str],
    image: str,
    repository: str,
    engine: str,
    as_json: bool,
) -> None:
    """Push by every tag; all of them are to mean the same digest.

    Raises ConfigError where nothing says where to, NotFoundError for an image that nobody built,
    and StoreError for a registry that does not take it. It can be run again, and goes on then.
    """
    from stackyard.edges.engine import open_engine

    work = open_image_work(stack)
    target = repository or work.settings.image.repository
    if not target and not (tags and all("/" in tag for tag in tags)):
        raise ConfigError(
            "nothing says where the image goes",
            where="image.repository",
            hint="set it (docker.io/owner/name), or give --repository",
        )
    names = tagged_names(target, tags)
    own = local_repository(work.settings.image.repository, work.stack.name)
    source = tagged_names(own, [image], where="--image")[0] if image else ""
    with open_engine(work.project.env, engine) as opened:
        console.note(f"{opened.title} at {opened.socket.url} ({opened.socket.why})")
        built = source or tagged_names(own, tags[:1])[0]
        told = opened.inspect(built)
        labels = (told.get("Config") or {}).get("Labels") or {}
        if labels.get(_LOCK_LABEL, "") != lock_digest(work):
            console.warn(f"{built} was not made of the lock that stands here")
        opened.tag(built, [name for name in names if name != built])
        found: dict[str, str] = {}
        for name in names:
            console.note(f"pushing {name}")
            pushed = opened.push(name, _login(name, work.project.env))
            found[name] = pushed.digest or _digest(name)
            if pushed.summary:
                console.note(f"  {pushed.summary}")
    _tell(found, as_json=as_json)


def _login(name: str, env: Environment) -> Mapping[str, str] | None:
    """Who we are to the registry; None leaves it to the engine's own files."""
    from stackyard.edges.stores.logins import find_login
    from stackyard.edges.stores.store import ANONYMOUS
    from stackyard.oci import parse_reference

    login = find_login(parse_reference(parse_image_name(name).url), ANONYMOUS, env)
    for remark in login.remarks:
        console.warn(remark)
    if not login.password:
        return None
    return {"username": login.user, "password": login.password}


def _digest(name: str) -> str:
    """What the registry says, for an engine that does not tell."""
    from stackyard.edges.stores.oci import OciStore
    from stackyard.edges.stores.store import ANONYMOUS
    from stackyard.oci import manifest_key

    image = parse_image_name(name)
    with closing(OciStore(image.url, ANONYMOUS)) as store:
        return store.digest_of(manifest_key(image.tag))


def _tell(found: Mapping[str, str], *, as_json: bool) -> None:
    if as_json:
        console.out(json.dumps([{"image": k, "digest": v} for k, v in found.items()], indent=2))
    else:
        for name, digest in found.items():
            console.note(f"{name} is {digest}")
        written = {parse_image_name(name).written for name in found}
        for one in sorted(written):
            digests = {d for name, d in found.items() if parse_image_name(name).written == one}
            for digest in sorted(digests):
                console.out(f"{one}@{digest}")
    if len(set(found.values())) > 1:
        raise CorruptError(
            f"its tags do not mean the same: {', '.join(sorted(set(found.values())))}",
            where=next(iter(found)),
            hint="did somebody else push? push again",
        )
