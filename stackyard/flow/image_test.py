"""``image.test``: start an image without a network, and prove what is in it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stackyard.edges import console
from stackyard.edges.files import read_bytes
from stackyard.edges.process import run
from stackyard.edges.stores.access import Place
from stackyard.errors import ConfigError, CorruptError, StaleError, ToolError
from stackyard.fetch import size_text, wanted_specs
from stackyard.flow.contents import Part, choose_parts, lock_digest
from stackyard.flow.fetch import source_place
from stackyard.flow.image import open_image_work
from stackyard.flow.places import Locked
from stackyard.image import MIRROR, PUBLIC_KEY, SHARE, TESTS, USER
from stackyard.image_build import layer_count, local_repository, tagged_names
from stackyard.layers import MOST_IN_IMAGE
from stackyard.mirror import Layout

if TYPE_CHECKING:
    from stackyard.edges.engine import Engine
    from stackyard.flow.steps import Work

__all__ = ["test"]

_SCRIPT = f"/{TESTS}/tutorial-test.sh"
_SPACK = "/opt/spack"
_PACKAGES = "/opt/packages"
_LOCK_LABEL = "dev.stackyard.lock-digest"
#: What a mirror has at its top.
_FOLDERS: Mapping[Layout, frozenset[str]] = {
    2: frozenset({"build_cache"}),
    3: frozenset({"blobs", "v3"}),
}

#: Bash alone, because an image may have nothing else; every file must be readable by the user.
_STARTS = r"""
shopt -s globstar nullglob dotglob
problems=0 user=
while IFS=: read -r name _ number _; do
  [ "$number" != "$EUID" ] || user=$name
done </etc/passwd
[ "$user" = "$1" ] || { echo "the user is ${user:-number $EUID}, and not $1"; problems=1; }
shift
for place in "$@"; do
  for file in "$place"/**; do
    [ -r "$file" ] || { echo "cannot be read: $file"; problems=1; }
  done
done
for route in /sys/class/net/*; do
  case $route in */lo) ;; *) echo "there is a network: ${route##*/}"; problems=1 ;; esac
done
exit $problems
"""


class _Repository(NamedTuple):
    """A package repository: a folder, where the container sees that, and the way from there."""

    folder: Path
    inside: str
    path: str


class _Mounts(NamedTuple):
    """What the container is shown: a checkout of Spack, and package repositories."""

    spack: Path
    repositories: tuple[_Repository, ...]


def test(  # noqa: PLR0913 - what the task takes
    *,
    stack: str,
    image: str,
    engine: str,
    spack: str,
    packages: Sequence[str],
    keys: str,
    unsigned: bool,
) -> None:
    """Prove an image: its lock, its mirror, its user; with a Spack, the tutorial's commands.

    Raises StaleError for an image of another lock, CorruptError for a mirror that is not exactly
    what the lock reaches, ToolError for what does not run in it, ConfigError
    for more than 100 layers.
    """
    from stackyard.edges.engine import open_engine

    work = open_image_work(stack)
    repository = local_repository(work.settings.image.repository, work.stack.name)
    (name,) = tagged_names(repository, [image] if image else [], where="--image")
    mounts = _mounts(work, spack, packages)
    with open_engine(work.project.env, engine) as opened:
        console.note(f"{opened.title} at {opened.socket.url} ({opened.socket.why})")
        told = opened.inspect(name)
        _few_layers(name, layer_count(told))
        _same_lock(work, name, (told.get("Config") or {}).get("Labels") or {})
        (part,) = choose_parts(work, f"linux/{told.get('Architecture', '')}")
        _check_mirror(work, part, opened, name, keys, unsigned=unsigned)
        _check_start(opened, name)
        if mounts is None:
            console.warn("the roots were not installed: name a checkout of Spack, --spack DIR")
            return
        _run_script(opened, name, mounts)
    console.note(f"{name} is proven")


def _few_layers(name: str, count: int) -> None:
    if count > MOST_IN_IMAGE:
        raise ConfigError(
            f"the image has {count} layers, and may have {MOST_IN_IMAGE}",
            where=name,
            hint="take another base, or squash it into one layer",
        )


def _same_lock(work: Work, name: str, labels: Mapping[str, str]) -> None:
    digest = labels.get(_LOCK_LABEL, "")
    if digest != lock_digest(work):
        raise StaleError(
            f"the image is of another lock: {digest or 'it has no label that says which'}",
            where=name,
            hint="build it anew: invoke image.build",
        )


# -- the mirror ---------------------------------------------------------------------------------


def _check_mirror(  # noqa: PLR0913
    work: Work, part: Part, engine: Engine, name: str, keys: str, *, unsigned: bool
) -> None:
    """Take the mirror out of the image, and look at every file of it."""
    from stackyard.edges.stores.folder import FileStore
    from stackyard.edges.untar import extract
    from stackyard.flow.trust import Keys, find_keys
    from stackyard.flow.verify import Ward, examine_mirror
    from stackyard.verify import KINDS

    wanted = {spec.hash for spec in wanted_specs(work.lock, part.roots).specs}
    trusted: Keys | None = find_keys(work.project, work.stack.name, work.settings, keys)
    with tempfile.TemporaryDirectory(prefix="stackyard-image-") as folder:
        root = Path(folder)
        with engine.container(name, ["true"]) as container:
            size_bytes = extract(container.archive(f"/{MIRROR}"), root)
            extract(container.archive(f"/{SHARE}/spack.lock"), root)
        # A build that verified signatures left the keys there.
        bare = not (root / PUBLIC_KEY).exists()
        if unsigned or (bare and _is_unsigned(work)):
            trusted = None
        place = Place("", (root / MIRROR).as_uri())
        (result, *others) = examine_mirror(Ward(place, FileStore(root / MIRROR), trusted))
        held = {binary.hash for binary in result.manifests.binaries}
        problems = [
            *(f"{KINDS[one.kind][0]}: {one.line(result.names)}" for one in result.faults),
            *(f"a second mirror, of layout {other.layout}" for other in others),
            *(f"not of the lock: {result.names[key]}" for key in sorted(held - wanted)),
            *(
                f"not there: {work.lock.specs[key].name} /{key[:7]}"
                for key in sorted(wanted - held)
            ),
            *(f"not of a mirror: {name}" for name in _strangers(root / MIRROR, result.layout)),
        ]
        if read_bytes(root / "spack.lock") != work.lock_bytes:
            problems.append(f"/{SHARE}/spack.lock is another lock than its label says")
    if problems:
        raise CorruptError(
            f"{len(problems)} things are wrong in the image:\n  " + "\n  ".join(problems[:20]),
            where=name,
            hint="build it anew: invoke image.build --no-cache",
        )
    signed = f"{result.tally.signed} signed" if trusted else "signatures not looked at"
    console.note(
        f"/{MIRROR} is whole: {len(held)} binaries, those of the lock and no more, {signed}, "
        f"{size_text(size_bytes)}"
    )


def _is_unsigned(work: Work) -> bool:
    """Whether the mirror that binaries come from says that it has no signatures."""
    everything = Locked(work.project, work.stack, work.settings, work.lock, work.roots)
    try:
        return source_place(everything, "").signed is False
    except ConfigError:  # it was named when the image was built
        return False


def _strangers(mirror: Path, layout: Layout) -> Iterator[str]:
    known = {*_FOLDERS[layout], Path(PUBLIC_KEY).name}
    return (path.name for path in sorted(mirror.iterdir()) if path.name not in known)


# -- what runs in it ----------------------------------------------------------------------------


def _check_start(engine: Engine, name: str) -> None:
    """The image starts as its user, who can read all that is for users, without a network."""
    places = (f"/{MIRROR}", "/etc/spack", f"/{SHARE}", f"/{TESTS}")
    command = ["bash", "-c", _STARTS, "bash", USER.name, *places]
    with engine.container(name, command) as container:
        code = container.run(console.note)
    if code:
        raise ToolError(
            f"the image does not start as it should: {code}",
            where=name,
            hint="its output stands above; build it anew: invoke image.build --no-cache",
        )
    console.note(f"it starts without a network as {USER.name}, who can read everything")


def _mounts(work: Work, spack: str, packages: Sequence[str]) -> _Mounts | None:
    """What to show to the container; None without a Spack. Raises ConfigError for what is none."""
    checkout = spack or work.project.env.get("SPACK_ROOT", "")
    if not checkout:
        if packages:
            raise ConfigError(
                "they are for a Spack", where="--packages", hint="name it too: --spack DIR"
            )
        return None
    root = Path(checkout).expanduser().absolute()
    if not (root / "bin" / "spack").is_file():
        flag = "--spack" if spack else "$SPACK_ROOT"
        raise ConfigError("there is no bin/spack", where=f"{flag} {checkout}")
    found = packages or [_known_packages(root)]
    repositories = [one for number, text in enumerate(found) for one in _repositories(text, number)]
    return _Mounts(root, tuple(repositories))


def _known_packages(root: Path) -> str:
    """Where this Spack has its packages: without a network it cannot bring them in there."""
    done = run([str(root / "bin" / "spack"), "location", "--repo", "builtin"])
    folder = done.stdout.decode(errors="replace").strip()
    if done.code or not Path(folder, "repo.yaml").is_file():
        raise ConfigError(
            "this Spack does not say where its packages are",
            where=f"--spack {root}",
            hint="name a clone of them: --packages DIR",
        )
    return folder


def _repositories(text: str, number: int) -> Iterator[_Repository]:
    """The repositories of a clone of spack-packages, or the one at the path."""
    folder = Path(text).expanduser().absolute()
    inside = f"{_PACKAGES}/{number}"
    if (folder / "repo.yaml").is_file():
        # Those of today are Python packages below a folder of this name, which has to be seen too.
        if folder.parent.name == "spack_repo":
            yield _Repository(folder.parent.parent, inside, f"spack_repo/{folder.name}")
        else:
            yield _Repository(folder, inside, "")
        return
    found = sorted(folder.glob("repos/spack_repo/*/repo.yaml"))
    if not found:
        raise ConfigError(
            "there are no packages of Spack",
            where=f"--packages {text}",
            hint="name a clone of spack-packages, or a folder with a repo.yaml",
        )
    for file in found:
        yield _Repository(folder / "repos", inside, f"spack_repo/{file.parent.name}")


def _run_script(engine: Engine, name: str, mounts: _Mounts) -> None:
    """The tutorial's test script, with Spack where it looks for it."""
    shown = {one.inside: str(one.folder) for one in mounts.repositories}
    places = ":".join(f"{one.inside}/{one.path}".rstrip("/") for one in mounts.repositories)
    with engine.container(
        name,
        [_SCRIPT],
        mounts={_SPACK: str(mounts.spack), **shown},
        variables={"SPACK_ROOT": _SPACK, "TUTORIAL_REPOS": places},
    ) as container:
        last = ""

        def tell(line: str) -> None:
            nonlocal last
            if line.startswith("error: "):
                last = line.removeprefix("error: ")
            console.note(line)

        code = container.run(tell)
    if code:
        raise ToolError(
            f"the test of the tutorial ended with {code}" + (f": {last}" if last else ""),
            where=name,
            hint=f"its output stands above; docs/images.md tells how to run {_SCRIPT} by hand",
        )
