"""``init``: a working project in an empty folder, or in a repository that has none yet."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stackyard.defects import FIXES
from stackyard.edges import console
from stackyard.edges.files import read_bytes, write_files
from stackyard.edges.settings import SETTINGS_FILE, Environment, find_root, read_settings
from stackyard.errors import ConfigError, NotFoundError
from stackyard.flow.steps import PINS, STACK_NAME, Project, read_stack

if TYPE_CHECKING:
    from stackyard.skeleton import Home

__all__ = ["init"]

_MANIFEST_BYTES = 2**20
_LOCK_BYTES = 2**28
_LOCK = "spack.lock"
_STARTER = "starter"

Files = dict[str, bytes]


class _Source(NamedTuple):
    """What the stack begins as; without a lock ``lock`` is empty."""

    manifest: str
    where: str
    name: str
    lock: bytes = b""
    pins: bytes = b""


def init(*, source: str = "", name: str = "", mirror: str = "") -> None:
    """Write a project's files into the current folder, beside whatever is there.

    ``source`` is somebody's manifest: a file, a folder, or a URL; else it is a small stack of our
    own with its lock. Nothing is written if anything is wrong. Raises ConfigError where there is a
    project, StackError for a manifest that cannot be used, StoreError for a URL that cannot be read.
    """
    from stackyard.edges.git import remotes
    from stackyard.edges.own_origin import own_origin
    from stackyard.skeleton import parse_home

    root = Path.cwd()
    _refuse_projects(root)
    home = parse_home(next(iter(remotes(root)), ""))
    begun = _read(source) if source else _starter()
    stack, target = _checked_name(name, begun.name), mirror or _mirror(home, root)
    facts = _Facts(root, home, stack, target, own_origin())
    files = _stack_files(begun, facts) | _project_files(facts)
    kept = {path: read_bytes(root / path) for path in files if (root / path).exists()}
    with tempfile.TemporaryDirectory(prefix="stackyard-init-") as folder:
        draft = Path(folder).resolve()
        write_files({draft / path: data for path, data in {**files, **kept}.items()})
        rendered = _rendered(draft, facts.name)
    files |= rendered
    files["README.md"] = _readme(facts, bool(begun.lock), sorted(rendered))
    new = {root / path: data for path, data in files.items() if not (root / path).exists()}
    write_files(new)
    for path in sorted(files):
        if root / path in new:
            console.note(f"wrote {path}")
        elif read_bytes(root / path) != files[path]:
            console.warn(f"kept {path}, which was there; ours would be another")
    console.note(f"a project with the stack {facts.name}; README.md says how to go on")


class _Facts(NamedTuple):
    """What could be found out, or was said."""

    root: Path
    home: Home
    name: str
    mirror: str
    requirement: str

    @property
    def builder(self) -> str:
        """The image that jobs build in, where it will be."""
        return f"{self.home.registry() or 'registry.example.com'}/builder:1"


def _refuse_projects(root: Path) -> None:
    try:
        found = find_root(root)
    except ConfigError:
        return
    if found == root and not (root / "stacks").is_dir():
        return  # Invoke is used for something else here
    raise ConfigError(
        "here is a project already",
        where=str(found),
        hint="put another spack.yaml into its stacks/NAME/, then run: stackyard generate",
    )


def _checked_name(name: str, found: str) -> str:
    if not name and not STACK_NAME.fullmatch(found):
        return _STARTER
    name = name or found
    if not STACK_NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:100]!r} cannot be a stack's name",
            where="--name",
            hint="letters, digits, dot, dash and underscore: it names jobs and paths",
        )
    return name


def _mirror(home: Home, root: Path) -> str:
    registry = home.registry()
    return f"oci://{registry}/binaries" if registry else (root / "mirror").as_uri()


# -- what the stack begins as -----------------------------------------------------------------


def _starter() -> _Source:
    """A small stack, with a lock that Spack made of it."""
    from stackyard.edges.templates import load_template

    texts = [
        load_template(f"init/starter/{name}", Path.cwd()) or ""
        for name in ("spack.yaml", _LOCK, PINS)
    ]
    return _Source(texts[0], "spack.yaml", _STARTER, texts[1].encode(), texts[2].encode())


def _read(source: str) -> _Source:
    if "://" in source:
        return _read_url(source)
    from stackyard.edges.stacks import MANIFEST
    from stackyard.errors import StackError

    path = Path(source).absolute()
    path = path / MANIFEST if path.is_dir() else path
    text = read_bytes(path, StackError, limit_bytes=_MANIFEST_BYTES).decode(errors="replace")
    lock = path.with_name(_LOCK)
    data = read_bytes(lock, limit_bytes=_LOCK_BYTES) if lock.is_file() else b""
    return _Source(text, str(path), path.parent.name, data)


def _read_url(source: str) -> _Source:
    from contextlib import closing

    from stackyard.edges.stacks import MANIFEST
    from stackyard.edges.stores.store import open_store
    from stackyard.skeleton import raw_url

    url = raw_url(source).rstrip("/")
    folder, _, last = url.rpartition("/")
    if not last.endswith((".yaml", ".yml")):
        folder, last = url, MANIFEST
    with closing(open_store(folder)) as store:
        text = store.read(last, max_bytes=_MANIFEST_BYTES).decode(errors="replace")
        try:
            lock = store.read(_LOCK, max_bytes=_LOCK_BYTES)
        except NotFoundError:
            lock = b""
        return _Source(text, f"{store.url}/{last}", folder.rpartition("/")[2], lock)


# -- files ------------------------------------------------------------------------------------


def _stack_files(begun: _Source, facts: _Facts) -> Files:
    from stackyard.document import parse_yaml
    from stackyard.errors import StackError
    from stackyard.skeleton import with_sections

    parse_yaml(begun.manifest, begun.where, error=StackError)  # says what is wrong, and where
    parts = {
        part: _render(f"init/{part}.yml.j2", {"mirror": facts.mirror, "builder": facts.builder})
        for part in ("mirror", "ci")
    }
    text, added = with_sections(begun.manifest, begun.where, parts["mirror"], parts["ci"])
    for section in added:
        console.note(f"added to the manifest: {section}")
    folder = f"stacks/{facts.name}"
    files = {f"{folder}/spack.yaml": text.encode()}
    if begun.lock:
        files[f"{folder}/{_LOCK}"] = begun.lock
    if begun.pins:
        files[f"{folder}/{PINS}"] = begun.pins
    return files


def _project_files(facts: _Facts) -> Files:
    from stackyard.edges.templates import docker_file

    values = {"home": facts.home, "requirement": facts.requirement}
    return {
        SETTINGS_FILE: _render("init/invoke.yaml.j2", values).encode(),
        ".gitignore": _render("init/gitignore.j2", {}).encode(),
        "docker/builder/Dockerfile": read_bytes(docker_file("builder/Dockerfile", facts.root)),
    }


def _rendered(draft: Path, name: str) -> Files:
    """What ``generate`` makes of the draft, and the draft read as any project is."""
    from stackyard.flow.generate import project_files

    project = Project(draft, Environment.snapshot(), read_settings(draft, known_fixes=FIXES))
    read_stack(project, name)
    return {str(path.relative_to(draft)): data for path, data in project_files(project).items()}


def _readme(facts: _Facts, locked: bool, rendered: list[str]) -> bytes:  # noqa: FBT001
    values = {
        "title": facts.home.path.rpartition("/")[2] or facts.root.name or facts.name,
        "name": facts.name,
        "locked": locked,
        "mirror": facts.mirror,
        "builder": facts.builder,
        "rendered": rendered,
        "quoted_requirement": shlex.quote(facts.requirement),
    }
    return _render("init/README.md.j2", values).encode()


def _render(name: str, values: Mapping[str, Any]) -> str:
    from stackyard.edges.templates import load_template
    from stackyard.render import render

    return render(name, lambda part: load_template(part, Path.cwd()), values)
