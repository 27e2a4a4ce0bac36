"""Read a ``spack.lock`` into one checked, immutable DAG of concrete specs.

Follows Spack 1.1 (``environment/environment.py``, ``spec.py``, ``schema/spec.py``): lockfile
versions 4, 5 and 6, which hold specfile versions 3, 4 and 5. Nodes of ``include_concrete`` are
merged before any edge is resolved, because Spack stores a node that two environments share once.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from stackyard.errors import LockError

__all__ = ["Dependency", "Lock", "Root", "Spec", "parse_lock", "parse_node"]

Node = Mapping[str, Any]

#: Lockfile version → version of the node format it holds (``READER_CLS`` in Spack).
SPECFILE_OF_LOCKFILE = {4: 3, 5: 4, 6: 5}

#: What may become a path, a YAML scalar or a shell word later on. Spack's own rules:
#: ``IDENTIFIER`` in ``spec_parser.py``, ``VALID_VERSION`` in ``version_types.py`` and git refs.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_VERSION = re.compile(r"[A-Za-z0-9_.-][A-Za-z0-9_.=/-]*")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_HASH = re.compile(r"[a-z2-7]{32}")
_ARCH = re.compile(r"[A-Za-z0-9_.+:-]+")

LANGUAGES = ("c", "cxx", "fortran")


class Root(NamedTuple):
    """A spec that the manifest asked for: the text it was asked with, and its answer."""

    hash: str
    spec: str


class Dependency(NamedTuple):
    """One edge of the DAG. ``deptypes`` of build, link, run, test; ``virtuals`` it provides."""

    name: str
    hash: str
    deptypes: tuple[str, ...]
    virtuals: tuple[str, ...]


class Spec(NamedTuple):
    """One concrete spec. ``node`` is its JSON in the lock, in Spack's key order; never change it.

    ``children`` are the DAG hashes of its direct dependencies of every type, without repeats.
    """

    hash: str
    name: str
    version: str
    children: tuple[str, ...]
    node: Node
    format: int  # specfile version that wrote the node: 3, 4 or 5

    @property
    def external(self) -> bool:
        """Whether the package was found on the system, so that nobody builds it."""
        external = self.node.get("external")
        return bool(external and (external.get("path") or external.get("module")))

    @property
    def namespace(self) -> str:
        return str(self.node.get("namespace") or "")

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Variants (bool, str or list of str) and the six compiler flag lists."""
        parameters: Mapping[str, Any] = self.node.get("parameters", {})
        return parameters

    @property
    def platform(self) -> str:
        return str(self.node["arch"]["platform"])

    @property
    def os(self) -> str:
        return str(self.node["arch"]["platform_os"])

    @property
    def target(self) -> str:
        target = self.node["arch"]["target"]
        return target if isinstance(target, str) else str(target["name"])

    @property
    def dependencies(self) -> tuple[Dependency, ...]:
        return tuple(_dependency(entry) for entry in self.node.get("dependencies", ()))

    @property
    def compiler(self) -> str:
        """DAG hash of the dependency that gives C, else C++, else Fortran; empty without one."""
        found: dict[str, str] = {}
        for entry in self.node.get("dependencies", ()):
            for virtual in entry["parameters"]["virtuals"] if "parameters" in entry else ():
                if virtual in LANGUAGES:
                    found.setdefault(virtual, entry["hash"])
        return next((found[language] for language in LANGUAGES if language in found), "")

    @property
    def build_spec(self) -> str:
        """DAG hash of the spec that this one was spliced from; empty if it was not spliced."""
        entry = self.node.get("build_spec")
        return str(entry["hash"]) if entry else ""

    @property
    def develop(self) -> bool:
        """Whether it is built from somebody's working folder, so that no cache may hold it."""
        return bool(self.parameters.get("dev_path"))

    @property
    def legacy_compiler(self) -> tuple[str, str] | None:
        """``(name, version)`` where the compiler is an attribute (specfile 4 and older)."""
        if entry := self.node.get("compiler"):
            return str(entry["name"]), str(entry["version"])
        if text := self.node.get("annotations", {}).get("compiler"):
            name, _, version = str(text).partition("@")
            return name, version.removeprefix("=")
        return None


class Lock(NamedTuple):
    """A checked DAG: every edge ends at a node, and there is no cycle.

    ``specs`` is keyed by DAG hash. ``order`` holds the same hashes, dependencies first; it is the
    same for the same lock, whatever the order of its keys. ``included`` are the roots that came
    with ``include_concrete``: Spack builds none of those.
    """

    where: str
    version: int
    spack_version: str
    spack_commit: str
    roots: tuple[Root, ...]
    included: tuple[Root, ...]
    specs: Mapping[str, Spec]
    order: tuple[str, ...]

    def closure(self, hashes: Iterable[str]) -> frozenset[str]:
        """The given specs and all that they reach over edges of every type."""
        found = set(hashes)
        pending = list(found)
        while pending:
            for child in self.specs[pending.pop()].children:
                if child not in found:
                    found.add(child)
                    pending.append(child)
        return frozenset(found)


def parse_lock(data: bytes, where: str) -> Lock:
    """Parse and check the bytes of a ``spack.lock``; ``where`` names it in errors.

    Raises LockError: not JSON, cut off, unknown version, duplicate key, a node of the wrong shape
    or with a name that cannot be a package's, a hash that no node has, a cycle.
    """
    document = _load(data, where)
    version, specfile = _versions(document, where)
    nodes, roots, included, keys = _collect(document, where)
    specs = {}
    shared: dict[object, Any] = {}
    for key, node in nodes.items():
        try:
            specs[key] = _spec(key, node, specfile, shared)
            keys += _count_node_keys(node)
        except LockError as error:
            raise LockError(error.message, where=f"{where}: concrete_specs.{key}") from None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise LockError(
                f"the node has not the shape of a spec ({type(error).__name__}: {error})",
                where=f"{where}: concrete_specs.{key}",
                hint="make the lock anew with Spack",
            ) from None
    keys += _count_keys({k: v for k, v in document.items() if k not in _COUNTED})
    _refuse_duplicate_keys(data, keys, where)
    _refuse_dangling(specs, (*roots, *included), where)
    spack_version, spack_commit = _spack(document, where)
    return Lock(
        where=where,
        version=version,
        spack_version=spack_version,
        spack_commit=spack_commit,
        roots=roots,
        included=included,
        specs=specs,
        order=_order(specs, where),
    )


_RESTORE = "restore it from git, or concretize again"
#: What git leaves in place of a lock.
_NO_LOCK = {
    b"version https://git-lfs.github.com/": "this is a pointer of git LFS; run: git lfs pull",
    b"\n<<<<<<< ": "a merge left both sides in it; concretize again: invoke lock",
}


def _load(data: bytes, where: str) -> dict[str, Any]:
    if not data.strip():
        raise LockError("the file is empty", where=where, hint="run: spack concretize")
    try:
        document = json.loads(data)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) - 1 or "Unterminated" in error.msg
        what = "the file is cut off" if cut else "the file is not JSON"
        raise LockError(
            f"{what} (line {error.lineno}, column {error.colno}: {error.msg})",
            where=where,
            hint=next((hint for sign, hint in _NO_LOCK.items() if sign in data), _RESTORE),
        ) from None
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise LockError(f"the file is not JSON ({error})", where=where) from None
    if not isinstance(document, dict) or not isinstance(document.get("concrete_specs"), dict):
        raise LockError("no spack.lock: the key concrete_specs is missing", where=where)
    return document


def _versions(document: dict[str, Any], where: str) -> tuple[int, int]:
    meta = document.get("_meta")
    version = meta.get("lockfile-version") if isinstance(meta, dict) else None
    if type(version) is not int or version not in SPECFILE_OF_LOCKFILE:
        known = ", ".join(map(str, SPECFILE_OF_LOCKFILE))
        raise LockError(
            f"lockfile version {version!r} is not one of {known}",
            where=f"{where}: _meta.lockfile-version",
            hint="a newer Spack wrote it: update stackyard; an older one: concretize again",
        )
    return version, SPECFILE_OF_LOCKFILE[version]


def _spack(document: dict[str, Any], where: str) -> tuple[str, str]:
    """Version and commit of the Spack that made the lock; empty where it does not say.

    Both end up in ``git checkout`` lines of jobs.
    """
    spack = document.get("spack") or {}
    if not isinstance(spack, dict):
        raise LockError("must be a mapping", where=f"{where}: spack")
    try:
        return (
            _checked(spack["version"], _VERSION, "version") if spack.get("version") else "",
            _checked(spack["commit"], _COMMIT, "commit") if spack.get("commit") else "",
        )
    except LockError as error:
        raise LockError(error.message, where=f"{where}: spack") from None


#: Top-level keys whose JSON keys ``_collect`` and the loop over the nodes count themselves.
_COUNTED = frozenset({"concrete_specs", "include_concrete", "roots"})


def _collect(
    document: dict[str, Any], where: str
) -> tuple[dict[str, Any], tuple[Root, ...], tuple[Root, ...], int]:
    """All nodes, the roots, the included roots, and how many JSON keys were passed over."""
    nodes: dict[str, Any] = dict(document["concrete_specs"])
    roots = _roots(document, where)
    included: list[Root] = []
    keys = len(document) - len(document.keys() - _COUNTED) + len(nodes) + 2 * len(roots)
    blocks = [("include_concrete", document.get("include_concrete") or {})]
    while blocks:
        path, environments = blocks.pop()
        if not isinstance(environments, dict):
            raise LockError("not a mapping of environments", where=f"{where}: {path}")
        keys += len(environments)
        for name, block in environments.items():
            here = f"{path}.{name}"
            if not isinstance(block, dict) or not isinstance(block.get("concrete_specs"), dict):
                raise LockError("the key concrete_specs is missing", where=f"{where}: {here}")
            block_roots = _roots(block, f"{where}: {here}")
            included.extend(block_roots)
            keys += len(block) + len(block["concrete_specs"]) + 2 * len(block_roots)
            nodes.update(
                (key, node) for key, node in block["concrete_specs"].items() if key not in nodes
            )
            keys += sum(
                _count_keys(node)
                for key, node in block["concrete_specs"].items()
                if nodes[key] is not node
            )
            if "include_concrete" in block:
                blocks.append((f"{here}.include_concrete", block["include_concrete"]))
    return nodes, roots, tuple(included), keys


def _roots(block: dict[str, Any], where: str) -> tuple[Root, ...]:
    entries = block.get("roots", [])
    try:
        return tuple(
            Root(_checked(entry["hash"], _HASH, "hash"), str(entry["spec"])) for entry in entries
        )
    except LockError as error:
        raise LockError(error.message, where=f"{where}: roots") from None
    except (KeyError, TypeError) as error:
        raise LockError(f"a root needs hash and spec ({error})", where=f"{where}: roots") from None


def parse_node(node: Mapping[str, Any], specfile: int) -> Spec:
    """One node out of an index or a binary's metadata; ``specfile`` is its format, 3 to 5.

    Raises LockError, without a place, if it has not the shape of a concrete spec.
    """
    if specfile not in SPECFILE_OF_LOCKFILE.values():
        raise LockError(f"specfile version {specfile!r:.20} is not known")
    try:
        spec = _spec(node["hash"], dict(node), specfile, {})
        hashes = all(map(_HASH.fullmatch, spec.children))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise LockError(
            f"the node has not the shape of a spec ({type(error).__name__}: {error})"
        ) from None
    if not hashes:
        raise LockError("what it depends on is no DAG hash")
    return spec


def _spec(key: str, node: dict[str, Any], specfile: int, shared: dict[object, Any]) -> Spec:
    if not _HASH.fullmatch(key):
        _checked(key, _HASH, "hash")
    if node.get("hash", key) != key:
        raise LockError(f"the node says that its hash is {node['hash']!r}")
    if node.get("concrete") is False:
        raise LockError("the node is not concrete")
    arch = node["arch"]
    target = arch["target"]
    parts = (
        arch["platform"],
        arch["platform_os"],
        target if isinstance(target, str) else target["name"],
    )
    if parts not in shared:  # a lock has few architectures: each is looked at once
        shared[parts] = tuple(_checked(part, _ARCH, "architecture") for part in parts)
    _check_shape(node)
    annotations = node.get("annotations")
    if annotations is None and specfile >= 5 and "compiler" in node:
        raise LockError("a compiler attribute in a node of specfile version 5")
    children = [_edge(entry, shared) for entry in node.get("dependencies", ())]
    if len(set(children)) != len(children):
        children = list(dict.fromkeys(children))
    return Spec(
        key,
        _checked(node["name"], _NAME, "package name"),
        _checked(node["version"], _VERSION, "version"),
        tuple(children),
        node,
        annotations["original_specfile_version"] if annotations else specfile,
    )


def _check_shape(node: dict[str, Any]) -> None:
    """What a node may have beside name, version, arch and dependencies, of the right types."""
    for name, (fits, what) in _SHAPES.items():
        if name in node and not fits(node[name]):
            raise LockError(f"{name} must be {what}")


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_parameters(value: Any) -> bool:
    return isinstance(value, dict) and all(
        one.__class__ in _SCALARS
        or (one.__class__ is list and all(item.__class__ in _SCALARS for item in one))
        for one in value.values()
    )


def _is_external(value: Any) -> bool:
    return not value or (
        isinstance(value, dict)
        and isinstance(value.get("path") or "", str)
        and _is_texts(value.get("module") or [])
    )


def _is_annotations(value: Any) -> bool:
    version = value.get("original_specfile_version") if isinstance(value, dict) else None
    return type(version) is int and 1 <= version <= max(SPECFILE_OF_LOCKFILE.values())


_SCALARS = frozenset({str, bool, int, float})

#: The other keys of a node: a test that their values pass if they are there, and its words.
_SHAPES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "parameters": (_is_parameters, "a mapping of texts, switches and lists of them"),
    "patches": (_is_texts, "a list of texts"),
    "namespace": (lambda value: value is None or isinstance(value, str), "a text"),
    "external": (_is_external, "a mapping with a text as path and a list of texts as module"),
    "annotations": (_is_annotations, "a mapping with a specfile version from 1 to 5"),
    "compiler": (
        lambda value: isinstance(value, dict) and {"name", "version"} <= value.keys(),
        "a mapping with name and version",
    ),
    "build_spec": (
        lambda value: isinstance(value, dict) and isinstance(value.get("hash"), str),
        "a mapping with a hash",
    ),
}


def _edge(entry: dict[str, Any], shared: dict[object, Any]) -> str:
    """The hash an edge leads to. Equal parameters of edges become one: a lock has few kinds."""
    if entry["name"].__class__ is not str:
        raise LockError("the name of a dependency must be a text")
    if "parameters" in entry:
        parameters = entry["parameters"]
        kind = (*parameters["deptypes"], None, *parameters["virtuals"], len(parameters))
        same = shared.setdefault(kind, parameters)
        if same == parameters:
            entry["parameters"] = same
    elif not _is_texts(entry.get("type", [])):
        raise LockError("the types of a dependency must be a list of texts")
    key: str = entry["hash"]
    return key


def _checked(text: Any, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text):
        shown = repr(text) if len(repr(text)) < 80 else repr(text)[:77] + "..."
        raise LockError(f"{shown} cannot be a {what}")
    return text


def _dependency(entry: Mapping[str, Any]) -> Dependency:
    parameters = entry.get("parameters")
    if parameters is None:  # specfile version 3 and older
        return Dependency(entry["name"], entry["hash"], tuple(entry.get("type", ())), ())
    return Dependency(
        entry["name"], entry["hash"], tuple(parameters["deptypes"]), tuple(parameters["virtuals"])
    )


def _count_keys(value: Any) -> int:
    """How many keys all mappings in a JSON value have together."""
    total = 0
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            total += len(value)
            pending.extend(item for item in value.values() if isinstance(item, (dict, list)))
        elif isinstance(value, list):
            pending.extend(item for item in value if isinstance(item, (dict, list)))
    return total


def _count_node_keys(node: dict[str, Any]) -> int:
    """The same for a node, fast: what no node of Spack's has may be missed.

    Too small a count only costs a second look, see ``_refuse_duplicate_keys``.
    """
    total = len(node)
    for key, value in node.items():
        if key == "dependencies":
            for entry in value:
                total += len(entry) + len(entry.get("parameters", ()))
        elif key in _DEEP:
            total += _count_keys(value)
        elif isinstance(value, dict):
            total += len(value)
    return total


#: Keys of a node with mappings in mappings.
_DEEP = frozenset({"arch", "external"})


def _refuse_duplicate_keys(data: bytes, keys: int, where: str) -> None:
    """JSON keeps the last of two equal keys in silence; a lock with such a pair is refused.

    Parsing again with a hook costs as much as all the rest, so it is done only where the text has
    another number of ``":`` than the parsed value has keys. Spack writes no space before a colon.
    """
    spaced = any(mark in data for mark in (b'" ', b'"\t', b'"\n', b'"\r'))
    if data.count(b'":') == keys and not (spaced and re.search(rb'"\s+:', data)):
        return

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise LockError(
                f"the key {twice!r} stands twice in one mapping",
                where=where,
                hint="a merge of two locks? concretize again",
            )
        return value

    json.loads(data, object_pairs_hook=unique)


def _refuse_dangling(specs: Mapping[str, Spec], roots: Iterable[Root], where: str) -> None:
    for root in roots:
        if root.hash not in specs:
            raise LockError(
                f"the root {root.spec!r} has the hash {root.hash}, which no node has",
                where=f"{where}: roots",
            )
    for spec in specs.values():
        for child in spec.children:
            if child not in specs:
                raise LockError(
                    f"{spec.name} depends on the hash {child!r}, which no node has",
                    where=f"{where}: concrete_specs.{spec.hash}.dependencies",
                    hint="the file is damaged, or an included environment is missing from it",
                )
        if spec.build_spec and spec.build_spec not in specs:
            raise LockError(
                f"{spec.name} is spliced from {spec.build_spec!r}, which no node has",
                where=f"{where}: concrete_specs.{spec.hash}.build_spec",
            )


def _order(specs: Mapping[str, Spec], where: str) -> tuple[str, ...]:
    """Dependencies before dependents, levels by longest path, each level sorted by hash."""
    waiting = {key: len(spec.children) for key, spec in specs.items()}
    parents: dict[str, list[str]] = {key: [] for key in specs}
    for key, spec in specs.items():
        for child in spec.children:
            parents[child].append(key)
    ready = deque(sorted(key for key, count in waiting.items() if not count))
    order: list[str] = []
    while ready:
        level, ready = ready, deque()
        order.extend(level)
        freed = []
        for key in level:
            for parent in parents[key]:
                waiting[parent] -= 1
                if not waiting[parent]:
                    freed.append(parent)
        ready = deque(sorted(freed))
    if len(order) < len(specs):
        _raise_cycle(specs, {key for key, count in waiting.items() if count}, where)
    return tuple(order)


def _raise_cycle(specs: Mapping[str, Spec], stuck: set[str], where: str) -> None:
    key = min(stuck)
    path: list[str] = []
    while key not in path:
        path.append(key)
        key = next(child for child in specs[key].children if child in stuck)
    names = " -> ".join(specs[k].name for k in [*path[path.index(key) :], key])
    raise LockError(
        f"the dependencies run in a circle: {names}",
        where=f"{where}: concrete_specs",
        hint="Spack never writes this: restore the file from git",
    )
