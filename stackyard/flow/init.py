"""``init``: a working project in an empty folder, or in a repository that has none yet."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stackyard.defects import FIXES
from stackyard.edges import console
from stackyard.edges.files import make_executable, read_bytes, write_files
from stackyard.edges.settings import SETTINGS_FILE, Environment, find_root, read_settings
from stackyard.errors import ConfigError, StoreError
from stackyard.flow.beginning import STARTER, Beginning, read_beginning
from stackyard.flow.steps import PINS, STACK_NAME, Project, read_pins, read_stack

if TYPE_CHECKING:
    from stackyard.pins import Pins
    from stackyard.skeleton import Ground, Home

__all__ = ["init"]

#: Places that binaries can be pushed to.
_WRITABLE = ("file", "s3", "gs", "oci", "oci+http")
_HOOKS = "docker/hooks/"
_IGNORE = ".gitignore"
_README = "README.md"
#: Where the README goes if there is one.
_GUIDE = "STACKYARD.md"

Files = dict[str, bytes]


def init(*, source: str = "", name: str = "", mirror: str = "", image: str = "") -> None:
    """Write a project's files into the current folder, beside whatever is there.

    ``source`` is somebody's manifest: a file, a folder, or a URL; else it is a small stack of our
    own with its lock. With ``image``, a repository in a registry, there is all that a container
    image is made with. Nothing is written if anything is wrong. Raises ConfigError where there is a
    project, StackError for a manifest that cannot be used, StoreError for a URL that cannot be read.
    """
    from stackyard.edges.own_origin import own_origin

    root = Path.cwd()
    _refuse_projects(root)
    begun = read_beginning(source)
    origin = own_origin()
    facts = _facts(root, begun, origin.requirement, name=name, mirror=mirror, image=image)
    files = _stack_files(begun, facts) | _project_files(facts)
    with tempfile.TemporaryDirectory(prefix="stackyard-init-") as folder:
        draft = Path(folder).resolve()
        write_files({draft / path: data for path, data in {**files, **_there(root, files)}.items()})
        pins, rendered = _rendered(draft, facts.name)
    files |= rendered
    files[facts.guide] = _readme(facts, pins, sorted(rendered))
    kept = _there(root, files)
    write_files({root / path: data for path, data in files.items() if path not in kept})
    for path in sorted(files):
        if path not in kept:
            if path.startswith(_HOOKS) and not path.endswith(".sh"):  # which is only read
                make_executable(root / path)
            console.note(f"wrote {path}")
        elif kept[path] != files[path]:
            _tell_of_kept(path, kept[path], files[path])
    _warn(facts, begun, origin.local)
    console.note(f"a project with the stack {facts.name}; {facts.guide} says how to go on")


def _there(root: Path, files: Files) -> Files:
    """Those of the files that are there, as they are. A link to nowhere cannot be read, and is there."""
    return {path: read_bytes(root / path) for path in files if os.path.lexists(root / path)}


# -- what is known ----------------------------------------------------------------------------


class _Facts(NamedTuple):
    """What could be found out, or was said. ``ground`` is None where there is no lock."""

    root: Path
    home: Home
    branch: str
    name: str
    mirror: str
    image: str
    requirement: str
    ground: Ground | None
    guide: str

    @property
    def builder(self) -> str:
        """The image that jobs build in, where it will be."""
        return f"{self.home.registry() or 'registry.example.com'}/builder:1"

    @property
    def fits(self) -> bool:
        """Whether the lock is for machines that the service has; no lock is for none."""
        return self.home.service != "github" or self.ground is None or bool(self.ground.runner())

    @property
    def machine(self) -> Ground:
        """What is built on: what the lock is for, if that fits; else the usual."""
        from stackyard.skeleton import Ground

        return self.ground if self.ground and self.fits else Ground()


def _facts(  # noqa: PLR0913
    root: Path, begun: Beginning, requirement: str, *, name: str, mirror: str, image: str
) -> _Facts:
    from stackyard.edges.git import current_branch, default_branch, remotes
    from stackyard.skeleton import lock_ground, parse_home

    home = parse_home(next(iter(remotes(root)), ""))
    branch = default_branch(root) or current_branch(root)
    place = _checked_mirror(mirror, root) if mirror else _mirror(home, root)
    if home.service == "github" and place.startswith("file:"):
        raise ConfigError(
            "GitHub's machines cannot write to a folder of this one",
            where="--mirror",
            hint="say where binaries go: --mirror oci://HOST/OWNER/NAME, or s3://BUCKET/PATH",
        )
    return _Facts(
        root=root,
        home=home,
        branch=branch if re.fullmatch(r"[\w./-]+", branch) else "main",
        name=_checked_name(name, begun.name),
        mirror=place,
        image=_checked_image(image),
        requirement=requirement,
        ground=lock_ground(begun.lock) if begun.lock else None,
        guide=_GUIDE
        if any(one.is_file() for one in root.glob("[Rr][Ee][Aa][Dd][Mm][Ee]*"))
        else _README,
    )


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
        return STARTER
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


def _checked_mirror(text: str, root: Path) -> str:
    """The URL that is meant. Raises ConfigError where nothing can be pushed to."""
    from stackyard.url import split_url

    if "://" not in text:
        return (root / text).resolve().as_uri()
    parts = split_url(text)
    if parts.scheme not in _WRITABLE:
        raise ConfigError(
            "binaries cannot be pushed there",
            where="--mirror",
            hint="a folder, or a URL that begins with s3://, gs:// or oci://",
        )
    if "@" in parts.netloc:
        raise ConfigError(
            "it has a user or a password in it, and everybody who sees the stack would",
            where="--mirror",
            hint="leave them away, and name variables in the mirror's access_pair",
        )
    if parts.scheme.startswith("oci"):
        from stackyard.oci import parse_reference

        try:
            parse_reference(text)
        except StoreError as error:
            raise ConfigError(error.message, where="--mirror", hint=error.hint) from None
    return text


def _checked_image(text: str) -> str:
    from stackyard.image_names import check_repository, parse_image_name

    if text:
        check_repository(parse_image_name(text, "--image"), "--image")
    return text


# -- what people are told ---------------------------------------------------------------------


def _tell_of_kept(path: str, theirs: bytes, ours: bytes) -> None:
    if path == _IGNORE:
        lines = set(theirs.decode(errors="replace").split())
        if missing := [line for line in ours.decode().split() if line not in lines]:
            console.warn(f"kept {path}, which was there; add to it: {' '.join(missing)}")
        return
    hint = "ours would be another"
    if path == ".gitlab-ci.yml":
        hint = "`stackyard generate` puts ours in its place"
    elif path == SETTINGS_FILE:
        hint = f"add to it:\n{ours.decode().rstrip()}"
    console.warn(f"kept {path}, which was there; {hint}")


def _warn(facts: _Facts, begun: Beginning, local: str) -> None:
    """What init cannot do itself, and what would end in a red run."""
    from stackyard.edges.git import top

    if local:
        console.warn(
            f"this stackyard is from {local}, and jobs will install {facts.requirement}: if pip does "
            f"not find that, say in {SETTINGS_FILE} what to install instead (generate.requirement)"
        )
    if begun.lock and PINS not in begun.beside:
        console.warn(
            f"nobody knows which packages the lock was made with: {PINS} did not come along; "
            f"lock anew, or write their commit into stacks/{facts.name}/{PINS}"
        )
    if not facts.home.service:
        return
    if facts.ground and not facts.fits:
        made_for = (
            f"{facts.ground.os or 'several systems'}, {facts.ground.target or 'several processors'}"
        )
        console.warn(f"the lock is for {made_for}, which GitHub's machines are not: lock it anew")
    above = top(facts.root)
    if above.resolve() != facts.root.resolve():
        name = "GitHub" if facts.home.service == "github" else "GitLab"
        console.warn(f"{name} reads its files only at the top of the repository: {above}")


# -- files ------------------------------------------------------------------------------------


def _stack_files(begun: Beginning, facts: _Facts) -> Files:
    from stackyard.skeleton import with_sections

    parts = {
        part: _render(f"init/{part}.yml.j2", {"mirror": facts.mirror, "builder": facts.builder})
        for part in ("mirror", "ci")
    }
    text, added = with_sections(begun.manifest, begun.where, parts["mirror"], parts["ci"])
    for section in added:
        console.note(f"added to the manifest: {section}")
    folder = f"stacks/{facts.name}"
    files = {f"{folder}/{name}": data for name, data in begun.beside.items()}
    return {**files, f"{folder}/spack.yaml": text.encode()}


def _project_files(facts: _Facts) -> Files:
    from stackyard.edges.templates import docker_file, docker_folder, ignore_file

    ground = facts.machine
    values = {
        "home": facts.home,
        "branch": facts.branch,
        "requirement": facts.requirement,
        "image": facts.image,
        "base": ground.base_image(),
        "ground": ground,
    }
    files = {
        SETTINGS_FILE: _render("init/invoke.yaml.j2", values).encode(),
        _IGNORE: _render("init/gitignore.j2", {}).encode(),
        ".dockerignore": read_bytes(ignore_file(facts.root)),
        "docker/builder/Dockerfile": read_bytes(docker_file("builder/Dockerfile", facts.root)),
    }
    if facts.image:
        if not ground.base_image():
            raise ConfigError(
                f"no image is known to begin with for {ground.os or 'several systems'}",
                where="--image",
                hint=f"leave it away, and set image.base in {SETTINGS_FILE} afterwards",
            )
        files["docker/Dockerfile"] = read_bytes(docker_file("Dockerfile", facts.root))
        hooks = docker_folder("hooks", facts.root)
        for hook in sorted(hooks.iterdir()) if hooks else ():
            files[f"{_HOOKS}{hook.name}"] = read_bytes(hook)
    return files


def _rendered(draft: Path, name: str) -> tuple[Pins | None, Files]:
    """What ``generate`` makes of the draft, and the draft read as any project is."""
    from stackyard.flow.generate import project_files

    project = Project(draft, Environment.snapshot(), read_settings(draft, known_fixes=FIXES))
    stack, _ = read_stack(project, name)
    pins = read_pins(project, stack)
    made = project_files(project)
    return pins, {str(path.relative_to(draft)): data for path, data in made.items()}


def _readme(facts: _Facts, pins: Pins | None, rendered: list[str]) -> bytes:
    from stackyard.image_workflow import image_secrets

    title = facts.home.path.rpartition("/")[2] or re.sub(r"[^\w .+-]", "-", facts.root.name)
    title = title or facts.name
    values = {
        "title": title,
        "quoted_title": shlex.quote(title),
        "name": facts.name,
        "home": facts.home,
        "branch": facts.branch,
        "locked": facts.ground is not None,
        "fits": facts.fits,
        "ground": facts.machine,
        "mirror": facts.mirror,
        "image": facts.image,
        "image_secrets": image_secrets(facts.image) if facts.image else (),
        "builder": facts.builder,
        "pins": pins,
        "rendered": rendered,
        "quoted_requirement": shlex.quote(facts.requirement),
    }
    return _render("init/README.md.j2", values).encode()


def _render(name: str, values: Mapping[str, Any]) -> str:
    from stackyard.edges.templates import load_template
    from stackyard.render import render

    return render(name, lambda part: load_template(part, Path.cwd()), values)
