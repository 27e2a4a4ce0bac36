"""Tasks about binaries at rest: fetch, push, and all that begins with ``mirror.``."""

from __future__ import annotations

from invoke.context import Context

from stackyard.tasks.told import STACK, flow, told

_URL = "the mirror: a URL, a folder, or the name of a mirror in a stack"
_KEYS = "file or folder with the public keys to trust (default: the stack's keys/, then settings)"
_ALL_KEYS = (
    "file or folder with the public keys to trust (default: keys/ of all stacks, then settings)"
)
_UNSIGNED = "do not check signatures (checksums are checked all the same)"


@told(
    help={
        "stack": STACK,
        "to": "folder to fetch into; it becomes a mirror that Spack can use offline",
        "from_": "mirror to fetch from (default REMOTE_BUILDCACHE_URL, then the stack's mirror)",
        "keys": _KEYS,
        "unsigned": _UNSIGNED,
        "allow_missing": "fetch what is there, and only warn of what is not",
        "roots_only": "only the binaries of the stack's roots",
        "only": "follow only these dependency types from the roots, such as link,run (default: all)",
        "lock": "another file than the stack's spack.lock",
    }
)
def fetch(  # noqa: PLR0913
    _: Context,
    stack: str = "",
    to: str = "",
    from_: str = "",
    keys: str = "",
    unsigned: bool = False,
    allow_missing: bool = False,
    roots_only: bool = False,
    only: str = "",
    lock: str = "",
) -> None:
    """Fetch exactly the lock's binaries, verified, into a folder."""
    flow("fetch").fetch(
        stack=stack,
        lock=lock,
        to=to,
        source=from_,
        keys=keys,
        unsigned=unsigned,
        allow_missing=allow_missing,
        roots_only=roots_only,
        only=only,
    )


@told(
    help={
        "stack": STACK,
        "to": _URL,
        "from_": "mirror to copy from (default: what Spack has installed, see --spack)",
        "spack": "checkout of the Spack that installed the stack (default SPACK_ROOT, then the path)",
        "keys": _KEYS,
        "unsigned": "do not check signatures, and do not sign",
        "force": "also where the binaries do not fit those on the mirror, or differ from them",
        "no_index": "leave the mirror's index as it is",
        "base_image": "image that those of a registry begin with (what Spack has installed)",
        "lock": "another file than the stack's spack.lock",
    }
)
def push(  # noqa: PLR0913
    _: Context,
    stack: str = "",
    to: str = "",
    from_: str = "",
    spack: str = "",
    keys: str = "",
    unsigned: bool = False,
    force: bool = False,
    no_index: bool = False,
    base_image: str = "",
    lock: str = "",
) -> None:
    """Put the binaries of a stack onto a mirror: what is not there yet, and into its index."""
    flow("push").push(
        stack=stack,
        lock=lock,
        to=to,
        source=from_,
        spack=spack,
        keys=keys,
        unsigned=unsigned,
        force=force,
        index=not no_index,
        base_image=base_image,
    )


@told(
    help={
        "url": "mirror to copy from",
        "to": "mirror to copy to",
        "stack": "copy what this stack's lock reaches (default: everything)",
        "keys": _KEYS,
        "unsigned": _UNSIGNED,
        "force": "also where the binaries do not fit those on the mirror, or differ from them",
        "no_index": "leave the index of --to as it is",
        "lock": "another file than the stack's spack.lock",
    }
)
def copy(  # noqa: PLR0913
    _: Context,
    url: str = "",
    to: str = "",
    stack: str = "",
    keys: str = "",
    unsigned: bool = False,
    force: bool = False,
    no_index: bool = False,
    lock: str = "",
) -> None:
    """Copy binaries from a mirror to another, verified: promote a staging mirror."""
    flow("push").copy(
        source=url,
        to=to,
        stack=stack,
        lock=lock,
        keys=keys,
        unsigned=unsigned,
        force=force,
        index=not no_index,
    )


@told(
    help={
        "url": _URL,
        "full": "read everything anew, whatever the old index says",
        "check": "write nothing; exit 3 if index and contents differ",
        "json": "print the result as JSON",
    }
)
def index(
    _: Context, url: str = "", full: bool = False, check: bool = False, json: bool = False
) -> None:
    """Bring a mirror's index up to date: at the cost of what changed."""
    flow("index").index(url=url, full=full, check=check, as_json=json)


@told(
    help={
        "url": _URL,
        "keys": _ALL_KEYS,
        "unsigned": _UNSIGNED,
        "repair": "remove what is surely broken; make a stale index and list of keys anew",
        "json": "print the findings as JSON",
    }
)
def verify(
    _: Context,
    url: str = "",
    keys: str = "",
    unsigned: bool = False,
    repair: bool = False,
    json: bool = False,
) -> None:
    """Check every manifest, blob, checksum and signature of a mirror, and look for orphans."""
    flow("verify").verify(url=url, keys=keys, unsigned=unsigned, repair=repair, as_json=json)


@told(
    name="list",
    iterable=["match"],
    help={
        "url": _URL,
        "match": "only binaries that this spec string holds for (repeatable)",
        "sizes": "read every manifest, for the sizes of the tarballs and who is signed",
        "json": "print the list as JSON",
    },
)
def list_(
    _: Context,
    url: str = "",
    match: list[str] | None = None,
    sizes: bool = False,
    json: bool = False,
) -> None:
    """List what a mirror holds: as its index says, which is fast, or its manifests."""
    flow("listing").list_mirror(url=url, match=tuple(match or ()), sizes=sizes, as_json=json)


@told(
    iterable=["stack", "ref", "keep"],
    help={
        "url": _URL,
        "stack": "keep what the lock of this stack reaches, as it lies here (repeatable)",
        "ref": "keep what the locks of this git branch, tag or pattern reach (repeatable)",
        "keep": "keep what this spec string holds for (repeatable)",
        "keep_days": "keep what is younger than so many days (default: none for its age)",
        "grace_hours": "leave blobs alone that no manifest names and that are younger (default 24)",
        "yes": "delete; without it only show what would go",
        "json": "print the plan as JSON",
    },
)
def prune(  # noqa: PLR0913
    _: Context,
    url: str = "",
    stack: list[str] | None = None,
    ref: list[str] | None = None,
    keep: list[str] | None = None,
    keep_days: str = "",
    grace_hours: str = "",
    yes: bool = False,
    json: bool = False,
) -> None:
    """Show, and with --yes delete, what no lock, pin or age keeps on a mirror."""
    flow("prune").prune(
        url=url,
        stacks=tuple(stack or ()),
        refs=tuple(ref or ()),
        pins=tuple(keep or ()),
        keep_days=keep_days,
        grace_hours=grace_hours,
        yes=yes,
        as_json=json,
    )


@told(
    help={
        "url": "the mirror of a pull request (default: that of the job that this runs in)",
        "stack": STACK,
        "yes": "delete; without it only show what would go",
        "json": "print the result as JSON",
    }
)
def empty(
    _: Context, url: str = "", stack: str = "", yes: bool = False, json: bool = False
) -> None:
    """Show, and with --yes delete, all that lies on a pull request's own mirror."""
    flow("emptying").empty(url=url, stack=stack, yes=yes, as_json=json)


@told(
    name="doctor",
    help={
        "url": _URL,
        "keys": _ALL_KEYS,
        "read_only": "do not try to write",
        "json": "print the findings as JSON",
    },
)
def mirror_doctor(
    _: Context, url: str = "", keys: str = "", read_only: bool = False, json: bool = False
) -> None:
    """Prove what a mirror can do for us: read, write, delete, clock, keys, index, padding."""
    flow("mirror_doctor").examine(url=url, keys=keys, read_only=read_only, as_json=json)
