"""Read a stack's ``spack.yaml``: check its shape, merge what it includes, look at its mirrors.

Follows Spack 1.1: ``schema/*.py`` for the shapes, ``config.py`` for scopes and their order,
``mirrors/mirror.py`` for mirrors. Two forms of data occur. *Raw* is what the file says, with
directives such as ``tags::`` still on the keys. *Loaded* is what Spack's loader makes of it (see
``stackyard.merge``). A stack's merged sections are loaded, but for the entries of
``ci: pipeline-gen``, which are merged once more for each job and stay raw.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from stackyard.document import dump_yaml, parse_yaml
from stackyard.errors import StackError
from stackyard.merge import key_name, loaded, merge_config
from stackyard.shape import (
    ANYTHING,
    FLAG,
    NULL,
    NUMBER,
    TEXT,
    TEXTS,
    WHOLE,
    Choice,
    Either,
    Kind,
    List,
    Map,
    Report,
    Shape,
    Variant,
    join,
    near,
)

__all__ = [
    "JOBS",
    "SECTIONS",
    "Connection",
    "Include",
    "Mirror",
    "Scope",
    "Stack",
    "check_attributes",
    "concrete_manifest",
    "is_url",
    "make_mirror",
    "make_stack",
    "merge_scopes",
    "parse_config",
    "parse_manifest",
]

#: The jobs that ``pipeline-gen`` can speak of.
JOBS = ("any", "build", "cleanup", "copy", "noop", "reindex", "signing")

#: Schemes of mirrors; any other text is a path.
_MIRROR_SCHEMES = ("file", "http", "https", "sftp", "ftp", "s3", "gs", "oci", "oci+http")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def _attribute_name(key: str) -> str:
    """The key of a job attribute without its directive."""
    name: str = key_name(key)
    return name[:-1] if name.endswith((":", "+", "-")) else name


def _map(keys: Mapping[str, Shape], required: tuple[str, ...] = ()) -> Map:
    return Map(keys, required, name=key_name)


_OPTIONAL_TEXT = Either((TEXT, NULL))
_SCRIPT = List(Either((TEXT, TEXTS)))
_ATTRIBUTES = Map(
    {
        "image": Either(
            (TEXT, Map({"name": TEXT, "entrypoint": TEXTS}, others=ANYTHING, name=_attribute_name))
        ),
        "tags": TEXTS,
        "variables": Map(others=Either((TEXT, NUMBER)), name=_attribute_name),
        "before_script": _SCRIPT,
        "script": _SCRIPT,
        "after_script": _SCRIPT,
    },
    others=ANYTHING,
    name=_attribute_name,
)
_SUBMAPPING = _map(
    {
        "match_behavior": Choice(("first", "merge")),
        "submapping": List(
            _map(
                {"match": TEXTS, "build-job": _ATTRIBUTES, "build-job-remove": _ATTRIBUTES},
                ("match",),
            )
        ),
    },
    ("submapping",),
)
_DYNAMIC = _map(
    {
        "dynamic-mapping": Map(
            {
                "name": TEXT,
                "endpoint": TEXT,
                "timeout": WHOLE,
                "verify_ssl": FLAG,
                "header": Map(others=TEXT, name=key_name),
                "allow": TEXTS,
                "require": TEXTS,
                "ignore": TEXTS,
            },
            ("endpoint",),
            others=ANYTHING,
            name=key_name,
        )
    }
)


def check_attributes(attributes: Any, where: str) -> None:
    """Raise StackError if this is not what the attributes of a job may look like."""
    _ATTRIBUTES.check(attributes, "", Report(where, StackError))


def _job_kinds() -> dict[str, Map]:
    kinds: dict[str, Map] = {}
    for job in JOBS:
        shape = _map({f"{job}-job": _ATTRIBUTES, f"{job}-job-remove": _ATTRIBUTES})
        kinds.update(dict.fromkeys(shape.keys, shape))
    return kinds


#: ``schema/ci.py``, and three keys of Spack 0.20 to 0.22 that Stackyard still serves.
_CI = Map(
    {
        "pipeline-gen": List(
            Variant(
                {"submapping": _SUBMAPPING, "dynamic-mapping": _DYNAMIC, **_job_kinds()}, key_name
            )
        ),
        "rebuild-index": FLAG,
        "broken-specs-url": TEXT,
        "broken-tests-packages": TEXTS,
        "target": TEXT,
        "bootstrap": List(
            Either(
                (
                    TEXT,
                    Map(
                        {"name": TEXT, "compiler-agnostic": FLAG}, required=("name",), name=key_name
                    ),
                )
            )
        ),
        "enable-artifacts-buildcache": FLAG,
        "temporary-storage-url-prefix": TEXT,
    },
    others=ANYTHING,
    warn_others="Spack ignores this key",
    name=key_name,
)

_PAIR = _map({"id": TEXT, "id_variable": TEXT, "secret_variable": TEXT}, ("secret_variable",))
_CONNECTION: Mapping[str, Shape] = {
    "url": TEXT,
    "access_pair": Either((_PAIR, List(TEXT))),
    "access_token_variable": _OPTIONAL_TEXT,
    "profile": _OPTIONAL_TEXT,
    "endpoint_url": _OPTIONAL_TEXT,
    "view": TEXT,
}
_NO_TOKEN = {
    "access_token": "put the token into an environment variable and name it: access_token_variable"
}
_DIRECTION = Either((TEXT, Map(_CONNECTION, removed=_NO_TOKEN, name=key_name)))
_MIRROR = Map(
    {
        "source": FLAG,
        "binary": FLAG,
        "signed": FLAG,
        "autopush": FLAG,
        "fetch": _DIRECTION,
        "push": _DIRECTION,
        **_CONNECTION,
    },
    removed={**_NO_TOKEN, "pull": "Spack's schema names it, but only 'fetch' works"},
    name=key_name,
)

_SPEC_LIST = List(
    Either((TEXT, NULL, _map({"matrix": List(TEXTS), "exclude": TEXTS}, ("matrix",))))
)

#: ``schema/include.py``.
_INCLUDE = Either(
    (
        TEXT,
        Variant(
            {
                "path": _map(
                    {
                        "path": TEXT,
                        "when": TEXT,
                        "name": TEXT,
                        "path_override_env_var": TEXT,
                        "sha256": TEXT,
                        "optional": FLAG,
                        "prefer_modify": FLAG,
                    }
                ),
                "git": _map(
                    {
                        "git": TEXT,
                        "branch": TEXT,
                        "commit": TEXT,
                        "tag": TEXT,
                        "paths": TEXTS,
                        "when": TEXT,
                        "name": TEXT,
                        "optional": FLAG,
                    },
                    ("paths",),
                ),
            },
            key_name,
        ),
    )
)

_MAPPING = Kind("a mapping", (Mapping,))

#: The sections that any configuration file may have (``schema/merged.py``).
SECTIONS: Mapping[str, Shape] = {
    "bootstrap": _MAPPING,
    "cdash": _map(
        {"build-group": TEXT, "url": TEXT, "project": TEXT, "site": TEXT}, ("build-group",)
    ),
    "compilers": List(ANYTHING),
    "concretizer": _MAPPING,
    "config": _MAPPING,
    "container": _MAPPING,
    "ci": _CI,
    "definitions": List(Map({"when": TEXT}, others=_SPEC_LIST, name=key_name)),
    "develop": Map(others=_map({"spec": TEXT, "path": TEXT}, ("spec",)), name=key_name),
    "env_vars": _MAPPING,
    "include": List(_INCLUDE),
    "mirrors": Map(others=Either((TEXT, _MIRROR)), name=key_name),
    "modules": _MAPPING,
    "packages": _MAPPING,
    "repos": Either((_MAPPING, List(ANYTHING))),
    "toolchains": _MAPPING,
    "upstreams": _MAPPING,
    "view": ANYTHING,
}
_REMOVED = {
    "gitlab-ci": "it is the section of Spack before 0.20: write 'ci' with 'pipeline-gen' instead",
    "env": "it was renamed: write 'include'",
}
_CONFIG_FILE = Map(SECTIONS, removed=_REMOVED, name=key_name)
_MANIFEST = Map(
    {**SECTIONS, "specs": _SPEC_LIST, "include_concrete": TEXTS}, removed=_REMOVED, name=key_name
)

#: Turns a path of a file's author into an absolute one: text, folder of the file.
Resolve = Callable[[str, str], str]


class Scope(NamedTuple):
    """One source of configuration: raw ``sections``, and the ``folder`` of its relative paths."""

    where: str
    folder: str
    sections: Mapping[str, Any]
    prefix: str = ""
    warnings: tuple[str, ...] = ()

    def section(self, name: str) -> Any:
        """The raw section, or None."""
        value = self.sections.get(name)
        return value if value is not None else self.sections.get(f"{name}:")

    @property
    def includes(self) -> list[Any]:
        """Its include entries, loaded: texts, or mappings with ``path`` or ``git``."""
        return list(loaded(self.section("include") or ()))

    @property
    def drops_lower_scopes(self) -> bool:
        """Whether it says ``include::``, which hides what came before it, but for its includes."""
        return "include:" in self.sections


class Include(NamedTuple):
    """An include entry of the manifest. ``path`` is relative to the stack's folder, else empty."""

    raw: Any
    path: str = ""


class Connection(NamedTuple):
    """How to reach a mirror in one direction. Variables are names, not values."""

    url: str
    id: str = ""
    id_variable: str = ""
    secret: str = ""  # only from the removed form [id, secret]
    secret_variable: str = ""
    access_token_variable: str = ""
    profile: str = ""
    endpoint_url: str = ""
    view: str = ""

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Connection(url={self.url!r})"


class Mirror(NamedTuple):
    """A named mirror, with what Spack takes where the file says nothing."""

    name: str
    fetch: Connection
    push: Connection
    binary: bool = True
    source: bool = True
    signed: bool = True
    autopush: bool = False

    @property
    def fetch_url(self) -> str:
        return self.fetch.url

    @property
    def push_url(self) -> str:
        return self.push.url


class Stack(NamedTuple):
    """A stack's manifest with its includes merged in.

    ``manifest`` is the raw mapping below ``spack:``, ``config`` the merged sections by name,
    ``overrides`` the mapping of ``stack.yaml`` (see ``stackyard.settings``), ``files`` every file
    that was read. Never change what the mappings hold.
    """

    name: str
    folder: str
    where: str
    text: str
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    mirrors: Mapping[str, Mirror]
    includes: tuple[Include, ...] = ()
    overrides: Mapping[str, Any] = MappingProxyType({})
    files: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def _mapping(self, name: str) -> Mapping[str, Any]:
        value: Mapping[str, Any] = self.config.get(name) or {}
        return value

    @property
    def ci(self) -> Mapping[str, Any]:
        """The ``ci`` section; entries of ``pipeline-gen`` are raw, the rest is loaded."""
        return self._mapping("ci")

    @property
    def has_ci(self) -> bool:
        return self.config.get("ci") is not None

    @property
    def cdash(self) -> Mapping[str, Any]:
        return self._mapping("cdash")

    @property
    def definitions(self) -> Sequence[Mapping[str, Any]]:
        return list(self.config.get("definitions") or ())

    @property
    def packages(self) -> Mapping[str, Any]:
        return self._mapping("packages")

    @property
    def concretizer(self) -> Mapping[str, Any]:
        return self._mapping("concretizer")

    @property
    def develop(self) -> Mapping[str, Any]:
        return self._mapping("develop")

    @property
    def repos(self) -> Any:
        """Mapping of name → path or git source (Spack 1.0 and later), or a list of paths."""
        return self.config.get("repos") or {}

    @property
    def specs(self) -> Sequence[Any]:
        """Entries of ``specs``: texts, ``{matrix, exclude}``; null entries are dropped."""
        return [entry for entry in self.config.get("specs") or () if entry is not None]

    @property
    def include_concrete(self) -> Sequence[str]:
        return list(self.config.get("include_concrete") or ())

    @property
    def bootstrap(self) -> Sequence[Any]:
        """Entries of ``ci: bootstrap``, the phases before the specs: texts or mappings."""
        return list(self.ci.get("bootstrap") or ())


def _check_twins(value: Any, key: str, report: Report) -> None:
    """Refuse ``a:`` beside ``a::``: for Spack's loader they are the same key twice."""
    if isinstance(value, Mapping):
        seen = set()
        for raw, item in value.items():
            name = key_name(raw)
            if name in seen:
                raise report.fail(join(key, str(name)), "duplicate key, once with '::'")
            seen.add(name)
            if isinstance(item, Mapping | list):
                _check_twins(item, join(key, str(name)), report)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, Mapping | list):
                _check_twins(item, join(key, index), report)


def _check(shape: Map, data: Mapping[str, Any], prefix: str, report: Report) -> None:
    shape.check(data, prefix, report)
    _check_twins(data, prefix, report)
    scope = Scope(where=report.where, folder="", sections=data)
    _check_definitions(scope.section("definitions"), join(prefix, "definitions"), report)
    _check_mirrors(scope.section("mirrors"), join(prefix, "mirrors"), report)
    for index, entry in enumerate(scope.includes):
        if isinstance(entry, Mapping) and "git" in entry:
            _check_git(entry, join(join(prefix, "include"), index), report)


def _check_git(entry: Mapping[str, Any], key: str, report: Report) -> None:
    if not any(entry.get(name) for name in ("branch", "commit", "tag")):
        raise report.fail(key, "must have one of branch, commit, tag")
    if not entry["paths"]:
        raise report.fail(join(key, "paths"), "must not be empty")


def _check_definitions(definitions: Any, key: str, report: Report) -> None:
    for index, entry in enumerate(definitions or ()):
        names = [name for name in entry if key_name(name) != "when"]
        if len(names) != 1:
            message = f"must define one name, has {', '.join(names) or 'none'}"
            raise report.fail(join(key, index), message)


def _check_mirrors(mirrors: Any, key: str, report: Report) -> None:
    for raw, entry in (mirrors or {}).items():
        place = join(key, key_name(raw))
        if isinstance(entry, str):
            _warn_of_variables(entry, place, report)
            continue
        mirror = loaded(entry)
        if not ({"url", "fetch"} & set(mirror)):
            raise report.fail(place, "must have 'url' or 'fetch'")
        for part, connection in (
            (place, mirror),
            (join(place, "fetch"), mirror.get("fetch")),
            (join(place, "push"), mirror.get("push")),
        ):
            _check_connection(connection, part, report)


def _check_connection(connection: Any, key: str, report: Report) -> None:
    if isinstance(connection, str):
        _warn_of_variables(connection, key, report)
        return
    if connection is None:
        return
    _warn_of_variables(connection.get("url", ""), join(key, "url"), report)
    pair, key = connection.get("access_pair"), join(key, "access_pair")
    if isinstance(pair, list):
        if len(pair) != 2:
            raise report.fail(key, f"must be [id, secret], has {len(pair)} items")
        report.warn(key, "[id, secret] puts a secret into a file, and Spack 1.1 refuses it")
    elif pair is not None and ("id" in pair) is ("id_variable" in pair):
        raise report.fail(key, "must have exactly one of 'id' and 'id_variable'")


def _warn_of_variables(url: str, key: str, report: Report) -> None:
    if "$" in url and is_url(url, _MIRROR_SCHEMES):
        report.warn(key, "Spack expands variables in paths, not in URLs: this '$' stays as it is")


def parse_manifest(text: str | bytes, where: str, folder: str = "") -> Scope:
    """The checked, raw content of a ``spack.yaml``: what stands below ``spack:``.

    Raises StackError naming file and line, or file and dotted key.
    """
    data = parse_yaml(text, where)
    report = Report(where, StackError)
    if not isinstance(data, Mapping):
        raise report.wrong("", "a mapping with the key 'spack'", data)
    for raw in data:
        if raw != "spack":
            hint = near(raw, ["spack", *_MANIFEST.keys])
            if raw in _MANIFEST.keys or raw in _REMOVED:
                hint = "put it below 'spack:'"
            raise report.fail(str(raw), "the only key at the top is 'spack'", hint)
    if "spack" not in data:
        raise report.fail("spack", "is missing")
    _check(_MANIFEST, data["spack"], "spack", report)
    return Scope(
        where=where,
        folder=folder,
        sections=data["spack"],
        prefix="spack",
        warnings=tuple(report.warnings),
    )


def parse_config(text: str | bytes, where: str, folder: str = "", section: str = "") -> Scope:
    """The checked, raw content of an included file; in a folder, the file of one ``section``.

    An empty file is an empty scope. Raises StackError naming file and line or dotted key.
    """
    data = parse_yaml(text, where, allow_empty=True)
    report = Report(where, StackError)
    if data is not None:
        shape = _CONFIG_FILE
        if section:
            shape = Map({section: SECTIONS[section]}, name=key_name)
        elif isinstance(data, Mapping) and "spack" in data:
            hint = "an included file holds sections such as 'ci' at its top"
            raise report.fail("spack", "an environment cannot be included", hint)
        _check(shape, data, "", report)
    return Scope(where=where, folder=folder, sections=data or {}, warnings=tuple(report.warnings))


def merge_scopes(own: Mapping[str, Any], included: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Raw sections as Spack merges them: ``own`` beats ``included``, earlier beats later.

    ``specs`` and ``include_concrete`` are the manifest's own; nobody can include them.
    """
    merged: Any = {}
    for sections in (*reversed(included), own):
        merged = merge_config(merged, sections)
    result: dict[str, Any] = merged
    return result


def make_stack(  # noqa: PLR0913 - one for each part, all by name
    *,
    name: str,
    text: str,
    manifest: Scope,
    included: Sequence[Scope] = (),
    resolve: Resolve,
    includes: Sequence[Include] = (),
    overrides: Mapping[str, Any] | None = None,
    files: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Stack:
    """Join a manifest and what it includes (highest precedence first) to a stack.

    ``resolve`` makes the paths of mirrors absolute. Raises StackError for a mirror that has no URL.
    """
    scopes = (manifest, *included)
    merged = merge_scopes(manifest.sections, [scope.sections for scope in included])
    config = {key_name(raw): _loaded_section(key_name(raw), value) for raw, value in merged.items()}
    located = [_locate(scope, resolve) for scope in scopes]
    mirrors = loaded(merge_scopes({}, located)).get("mirrors") or {}
    place = f"{manifest.where}: {join(manifest.prefix, 'mirrors')}"
    return Stack(
        name=name,
        folder=manifest.folder,
        where=manifest.where,
        text=text,
        manifest=manifest.sections,
        config=config,
        mirrors={key: make_mirror(key, data, f"{place}.{key}") for key, data in mirrors.items()},
        includes=tuple(includes),
        overrides=overrides or {},
        files=tuple(files),
        warnings=(*(text for scope in scopes for text in scope.warnings), *warnings),
    )


def _loaded_section(name: str, value: Any) -> Any:
    if name != "ci" or not isinstance(value, Mapping):
        return loaded(value)
    return {
        key_name(raw): item if key_name(raw) == "pipeline-gen" else loaded(item)
        for raw, item in value.items()
    }


def _locate(scope: Scope, resolve: Resolve) -> dict[str, Any]:
    """The scope's raw mirrors, with paths as ``file://`` URLs, seen from the scope's folder."""

    def locate(value: Any) -> Any:
        if isinstance(value, str):
            text: str = loaded(value)
            if is_url(text, _MIRROR_SCHEMES):
                return text
            return _file_url(resolve(text, scope.folder))
        return {
            raw: locate(item) if key_name(raw) in {"url", "fetch", "push"} else item
            for raw, item in value.items()
        }

    return {
        key: {raw: locate(value) for raw, value in mirrors.items()}
        for key, mirrors in scope.sections.items()
        if key_name(key) == "mirrors"
    }


def is_url(text: str, schemes: Sequence[str] | None = None) -> bool:
    """Whether the text has a scheme (one of ``schemes``, if given)."""
    match = _SCHEME.match(text)
    return match is not None and (schemes is None or match[1].lower() in schemes)


def _file_url(path: str) -> str:
    from urllib.parse import quote  # few stacks have mirrors on disk

    return f"file://{quote(path)}"


def make_mirror(name: str, data: Any, where: str = "") -> Mirror:
    """A mirror from its loaded entry: text, or a mapping of the shape in ``schema/mirrors.py``.

    URLs are taken as they are. Raises StackError where a direction has no URL.
    """
    if isinstance(data, str):
        return Mirror(name=name, fetch=Connection(url=data), push=Connection(url=data))
    flags = {key: data[key] for key in ("binary", "source", "signed", "autopush") if key in data}
    return Mirror(
        name=name,
        fetch=_connection(data, "fetch", where),
        push=_connection(data, "push", where),
        **flags,
    )


def _connection(data: Mapping[str, Any], direction: str, where: str) -> Connection:
    """What the direction says, and for what it does not say, the mirror itself."""
    own = data.get(direction, {})
    values = {**data, **({"url": own} if isinstance(own, str) else own)}
    if not values.get("url"):
        raise StackError(f"no URL to {direction}", where=where, hint="give it a 'url'")
    pair = values.get("access_pair") or {}
    if isinstance(pair, list):
        pair = {"id": pair[0], "secret": pair[1]}
    names = ("url", "access_token_variable", "profile", "endpoint_url", "view")
    return Connection(**{key: values[key] for key in names if values.get(key)}, **pair)


def concrete_manifest(stack: Stack, relative_prefix: str) -> str:
    """Text of ``spack.yaml`` for the concrete environment, which lies in another folder.

    ``relative_prefix`` leads from that folder to the stack's. As Spack's generator does, only
    relative includes are rewritten (absolute paths, URLs and git stay, and so do paths in other
    sections); a manifest without any keeps its exact text.
    """
    if not any(include.path for include in stack.includes):
        return stack.text
    entries = [_moved(include, relative_prefix) for include in stack.includes]
    spack = {
        raw: entries if key_name(raw) == "include" else value
        for raw, value in stack.manifest.items()
    }
    return dump_yaml({"spack": spack})


def _moved(include: Include, prefix: str) -> Any:
    if not include.path:
        return include.raw
    path = posixpath.normpath(posixpath.join(prefix, include.path))
    if isinstance(include.raw, str):
        return path
    return {raw: path if key_name(raw) == "path" else item for raw, item in include.raw.items()}
