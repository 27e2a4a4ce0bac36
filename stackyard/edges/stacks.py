"""Read the stacks of a project from disk: manifests, what they include, and ``stack.yaml``.

Includes follow Spack 1.1 (``config.py``, ``util/path.py``), as far as they lie on this disk. What
would have to be fetched is an error: a pipeline must not depend on what a URL says today.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stackyard.condition import Facts, evaluate
from stackyard.edges.files import read_bytes
from stackyard.errors import StackError
from stackyard.settings import check_settings
from stackyard.shape import join, near
from stackyard.stack import (
    SECTIONS,
    Include,
    Scope,
    Stack,
    concrete_manifest,
    is_url,
    make_stack,
    parse_config,
    parse_manifest,
)

__all__ = ["concrete_manifest", "list_stacks", "load_overrides", "load_stack"]

MANIFEST = "spack.yaml"
LIMIT_BYTES = 20 * 1024 * 1024

#: How deep includes may lie in each other (as in Spack), and how many there may be in all.
MAX_DEPTH = 100
MAX_SCOPES = 1000

#: What Spack puts in for ``$name`` in a path, and only an installed Spack knows.
_ONLY_SPACK = frozenset(
    {
        "spack",
        "user_cache_path",
        "spack_instance_id",
        "spack_short_version",
        "target_family",
        "date",
    }
)
_VARIABLE = re.compile(r"\$\w+\b|\$\{\w+\}")
_LEFT_OVER = re.compile(r"\$(?:\w+|\{[^}]*\})")


def list_stacks(root: str | Path) -> tuple[str, ...]:
    """Names of the folders in ``stacks/`` that hold a ``spack.yaml``, sorted."""
    try:
        entries = list((Path(root) / "stacks").iterdir())
    except OSError:
        return ()
    return tuple(sorted(entry.name for entry in entries if (entry / MANIFEST).is_file()))


def load_stack(
    root: str | Path,
    name: str,
    env: Mapping[str, str],
    facts: Facts,
    *,
    known_fixes: Iterable[str] | None = None,
) -> Stack:
    """The stack of this name, or the one at a path: a folder, or the ``spack.yaml`` in it.

    ``facts`` are functions for ``platform``, ``os``, ``target`` and ``hostname`` (see
    ``stackyard.edges.host``), asked only where a condition or a path needs them.

    Raises StackError naming file and dotted key; for an unknown name, with the nearest one.
    """
    root = Path(root).absolute()
    folder = _folder(root, name)
    manifest_file = folder / MANIFEST
    reader = _Reader(root, folder, env, facts)
    data = reader.read(manifest_file)
    manifest = parse_manifest(data, reader.shown(manifest_file), str(folder))
    included = reader.included(manifest)
    overrides = _overrides(folder / "stack.yaml", reader, known_fixes)
    return make_stack(
        name=folder.name,
        text=data.decode().removeprefix("\ufeff"),
        manifest=manifest,
        included=included,
        resolve=reader.resolve_mirror,
        includes=reader.movable(manifest),
        overrides=overrides,
        files=reader.files,
        warnings=reader.warnings,
    )


def load_overrides(
    root: str | Path, env: Mapping[str, str], facts: Facts, *, known_fixes: Iterable[str] | None
) -> Mapping[str, Mapping[str, Any]]:
    """What ``stack.yaml`` of each stack says, by name; {} without one. Raises StackError."""
    root = Path(root).absolute()
    folders = {name: root / "stacks" / name for name in list_stacks(root)}
    return {
        name: _overrides(folder / "stack.yaml", _Reader(root, folder, env, facts), known_fixes)
        for name, folder in folders.items()
    }


def _folder(root: Path, name: str) -> Path:
    if "/" in name or name in {".", "..", MANIFEST}:
        path = Path(posixpath.normpath(root / name))
        folder = path.parent if path.name == MANIFEST and not path.is_dir() else path
        if not (folder / MANIFEST).is_file():
            raise StackError(f"there is no {MANIFEST}", where=name)
        return folder
    names = list_stacks(root)
    if name not in names:
        hint = near(name, names) or "stacks are folders in stacks/ that hold a spack.yaml"
        raise StackError(f"unknown stack {name!r}", hint=hint)
    return root / "stacks" / name


def _overrides(path: Path, reader: _Reader, known_fixes: Iterable[str] | None) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    from stackyard.document import parse_yaml  # loaded by then

    where = reader.shown(path)
    data = parse_yaml(reader.read(path), where, allow_empty=True)
    checked = check_settings(data, where, known_fixes=known_fixes, error=StackError)
    if "prune" in checked:  # what it keeps would be lost on the way, and then on the mirror
        raise StackError(
            "what a mirror keeps is one rule for all stacks",
            where=f"{where}: prune",
            hint="write it into invoke.yaml, below stackyard:",
        )
    return checked


@dataclass(slots=True)
class _Node:
    """A scope and the scopes that it includes, in the order of its entries."""

    name: str
    scope: Scope
    children: list[_Node] = field(default_factory=list)

    def ascending(self) -> Iterator[_Node]:
        """The lowest precedence first: later includes, earlier ones, the scope itself."""
        for child in reversed(self.children):
            yield from child.ascending()
        yield self


@dataclass(slots=True)
class _Reader:
    """Reads files for one stack, and remembers which."""

    root: Path
    folder: Path
    env: Mapping[str, str]
    facts: Facts
    files: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    scopes: int = 0
    _parsed: dict[Path, Scope] = field(default_factory=dict)

    def shown(self, path: Path) -> str:
        """The path as people know it: seen from the project where it lies inside."""
        try:
            return path.relative_to(self.root).as_posix()
        except ValueError:
            return path.as_posix()

    def read(self, path: Path) -> bytes:
        shown = self.shown(path)
        if path.exists() and not path.is_file():
            raise StackError("is not a file", where=shown)
        if path.as_posix() not in self.files:
            self.files.append(path.as_posix())
        try:
            return read_bytes(path, StackError, limit_bytes=LIMIT_BYTES)
        except StackError as error:
            raise StackError(error.message, where=shown) from error.__cause__

    # -- includes ---------------------------------------------------------------------------

    def included(self, manifest: Scope) -> tuple[Scope, ...]:
        """All scopes that the manifest includes, directly or not, the highest precedence first."""
        if not manifest.includes:
            return ()
        tree = _Node("env", manifest)
        self._follow(tree, (self.folder / MANIFEST,))
        order: dict[str, _Node] = {}
        for node in tree.ascending():
            order.pop(node.name, None)  # a name that comes again is heard at its later place
            order[node.name] = node
        nodes = _not_overridden(list(order.values()))
        return tuple(node.scope for node in reversed(nodes) if node is not tree)

    def _follow(self, node: _Node, trail: tuple[Path, ...]) -> None:
        place = join(node.scope.prefix, "include")
        for index, entry in enumerate(node.scope.includes):
            where = f"{node.scope.where}: {join(place, index)}"
            for path in self._paths(entry, node.scope, where):
                self._add(node, entry, path, where, trail)

    def _add(
        self, node: _Node, entry: Any, path: Path, where: str, trail: tuple[Path, ...]
    ) -> None:
        name = entry.get("name") if isinstance(entry, Mapping) else None
        name = name or f"{node.name}:{path}"
        if any(child.name == name for child in node.children):
            self.warnings.append(f"{where}: included twice; only the first counts")
            return
        real = Path(os.path.realpath(path))
        if real in trail:
            raise StackError(f"the circle of includes closes at {self.shown(path)}", where=where)
        self.scopes += 1
        if len(trail) > MAX_DEPTH or self.scopes > MAX_SCOPES:
            limit = f"{MAX_DEPTH} deep" if len(trail) > MAX_DEPTH else f"{MAX_SCOPES} in all"
            raise StackError(f"too many includes: more than {limit}", where=where)
        child = _Node(name, self._scope(path))
        node.children.append(child)
        self._follow(child, (*trail, real))

    def _paths(self, entry: Any, scope: Scope, where: str) -> Iterator[Path]:
        """The file or folder of an entry; nothing where a condition fails or it is optional."""
        entry = {"path": entry} if isinstance(entry, str) else entry
        if not evaluate(entry.get("when", ""), self.facts, self.env, f"{where}.when"):
            return
        if "git" in entry:
            raise StackError(
                f"include from git is not read: {entry['git']}",
                where=where,
                hint="vendor the files into this repository and include them by path",
            )
        variable = entry.get("path_override_env_var", "")
        text = self.env[variable] if variable and variable in self.env else entry["path"]
        path = self.resolve(text, scope.folder, where)
        if Path(path).exists():
            if posixpath.isabs(text) or text.startswith(("~", "file:")):
                self.warnings.append(f"{where}: jobs on other machines may lack {text}")
            yield Path(path)
        elif not entry.get("optional", False):
            raise StackError(f"there is no file or folder {text}", where=where)

    def _scope(self, path: Path) -> Scope:
        if path not in self._parsed:
            if path.is_dir():
                self._parsed[path] = self._folder_scope(path)
            else:
                self._parsed[path] = parse_config(
                    self.read(path), self.shown(path), str(path.parent)
                )
        return self._parsed[path]

    def _folder_scope(self, folder: Path) -> Scope:
        """A folder of ``<section>.yaml`` files as one scope."""
        parts = [
            parse_config(self.read(path), self.shown(path), str(folder), section)
            for section in SECTIONS
            if (path := folder / f"{section}.yaml").is_file()
        ]
        return Scope(
            where=self.shown(folder),
            folder=str(folder),
            sections={key: value for part in parts for key, value in part.sections.items()},
            warnings=tuple(text for part in parts for text in part.warnings),
        )

    # -- paths ------------------------------------------------------------------------------

    def resolve(self, text: str, folder: str, where: str, *, inside: bool = False) -> str:
        """An absolute path of this disk for what the author of a file in ``folder`` wrote."""
        path = self.expand(text, where, inside=inside)
        if is_url(path):
            if not path.startswith("file:"):
                raise StackError(
                    f"include from a URL is not read: {text}",
                    where=where,
                    hint="vendor the file into this repository and include it by path",
                )
            from urllib.parse import unquote, urlparse  # hardly ever needed

            path = unquote(urlparse(path).path)
        return posixpath.normpath(posixpath.join(folder, path))

    def resolve_mirror(self, text: str, folder: str) -> str:
        where = f"{self.shown(self.folder / MANIFEST)}: mirrors"
        return self.resolve(text, folder, where, inside=True)

    def expand(self, text: str, where: str, *, inside: bool = False) -> str:
        """Put in Spack's variables, then the environment's, then home.

        Inside an environment (mirrors), ``$env`` is the stack's folder. Spack reads includes
        before it knows the environment, so there ``$env`` is an error.
        """

        def value(match: re.Match[str]) -> str:
            name = match[0].strip("${}").lower()
            if name == "env" and not inside:
                raise StackError(
                    f"Spack does not know $env yet when it reads includes: {text}",
                    where=where,
                    hint="paths are relative to the file that includes them; leave $env/ away",
                )
            if name in _ONLY_SPACK:
                raise StackError(f"only Spack itself knows {match[0]} in {text}", where=where)
            known = self._variables().get(name)
            return known() if known else match[0]

        if "$" in text:
            text = _VARIABLE.sub(value, text)
            text = _LEFT_OVER.sub(lambda match: self._environment(match[0], text, where), text)
        return posixpath.expanduser(text) if text.startswith("~") else text

    def _environment(self, variable: str, text: str, where: str) -> str:
        name = variable.strip("${}")
        if name not in self.env:
            raise StackError(f"the variable {variable} in {text} is not set", where=where)
        return self.env[name]

    def _variables(self) -> Mapping[str, Callable[[], str]]:
        facts = self.facts

        def triple() -> str:
            return "-".join(facts[name]() for name in ("platform", "os", "target"))

        return {
            "env": lambda: str(self.folder),
            "user": _user,
            "tempdir": _tempdir,
            "architecture": triple,
            "arch": triple,
            "platform": facts["platform"],
            "operating_system": facts["os"],
            "os": facts["os"],
            "target": facts["target"],
        }

    def movable(self, manifest: Scope) -> tuple[Include, ...]:
        """The manifest's own entries, those with a relative path marked to be rewritten."""
        raw = manifest.section("include") or ()
        return tuple(
            Include(raw=entry, path=self._relative(clean))
            for entry, clean in zip(raw, manifest.includes, strict=True)
        )

    def _relative(self, entry: Any) -> str:
        text = entry if isinstance(entry, str) else entry.get("path", "")
        try:
            path = self.expand(text, "", inside=True)
        except StackError:  # in an entry whose condition fails, or it would have failed before
            return ""
        return "" if not path or is_url(path) or posixpath.isabs(path) else path


def _not_overridden(nodes: Sequence[_Node]) -> Sequence[_Node]:
    """Without the scopes below the highest ``include::``, but for those that it includes."""
    overriding = [i for i, node in enumerate(nodes) if node.scope.drops_lower_scopes]
    if not overriding:
        return nodes
    last = overriding[-1]
    keep = {node.name for node in nodes[last].ascending()}
    return [node for index, node in enumerate(nodes) if index >= last or node.name in keep]


def _user() -> str:
    import pwd  # not on every platform

    return pwd.getpwuid(os.geteuid()).pw_name


def _tempdir() -> str:
    import tempfile  # hardly ever needed

    return tempfile.gettempdir()
