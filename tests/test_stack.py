"""The shape of ``spack.yaml``, and what a stack is made of."""

from __future__ import annotations

from typing import Any

import pytest

from stackyard.document import dump_yaml
from stackyard.errors import StackError
from stackyard.stack import (
    Connection,
    Include,
    Mirror,
    Stack,
    concrete_manifest,
    make_mirror,
    make_stack,
    merge_scopes,
    parse_config,
    parse_manifest,
)

WHERE = "stacks/x/spack.yaml"


def resolve(text: str, folder: str) -> str:
    return f"{folder}/{text}"


def stack_of(text: str, **options: Any) -> Stack:
    manifest = parse_manifest(text, WHERE, "/p/stacks/x")
    return make_stack(name="x", text=text, manifest=manifest, resolve=resolve, **options)


def ci(*entries: Any, **keys: Any) -> dict[str, Any]:
    return {"ci": {"pipeline-gen": list(entries), **keys}}


GOOD: list[tuple[str, dict[str, Any]]] = [
    ("only specs", {"specs": ["zlib", None, {"matrix": [["a"], ["b"]], "exclude": ["a"]}]}),
    ("empty", {}),
    ("every job", ci(*({f"{job}-job": {"tags": ["a"]}, f"{job}-job-remove": {"image": "x"}} for job in ("any", "build", "cleanup", "copy", "noop", "reindex", "signing")))),
    ("submapping", ci({"match_behavior": "merge", "submapping": [{"match": ["a"], "build-job": {}, "build-job-remove": {}}]})),
    ("submapping without items", ci({"submapping": []})),
    ("dynamic", ci({"dynamic-mapping": {"endpoint": "https://x", "timeout": 1, "verify_ssl": False, "header": {"A": "b"}, "allow": ["a"], "more": 1}})),
    ("attributes", ci({"any-job": {"image": {"name": "x", "entrypoint": [""], "docker": {}}, "variables": {"A": 1, "B": 1.5, "C": "x"}, "script": ["a", ["b"]], "rules": [{"if": "x"}], "timeout": None}})),
    ("directives", ci({"any-job:": {"tags:": ["a"], "script+": ["b"], "variables-": {"A:": 1}, "image": {"name+": "x"}}})),
    ("override of the section", {"ci:": {"pipeline-gen:": [], "target": "gitlab"}}),
    ("removed keys", {"ci": {"bootstrap": ["a", {"name": "b", "compiler-agnostic": True}], "enable-artifacts-buildcache": True, "temporary-storage-url-prefix": "s3://x"}}),
    ("mirrors", {"mirrors": {"a": "s3://x", "b": {"fetch": "s3://x", "push": {"url": "s3://y", "profile": None}}, "c": {"url": "x", "access_pair": {"id_variable": "A", "secret_variable": "B"}}}}),
    ("includes", {"include": ["a", {"path": "b", "when": "True", "optional": True, "sha256": "0", "name": "n", "path_override_env_var": "V", "prefer_modify": True}, {"git": "https://x", "paths": ["a"], "tag": "v1"}]}),
    ("other sections", {"view": False, "concretizer": {"unify": True}, "packages": {"all": {}}, "config": {}, "repos": ["x"], "toolchains": {}, "modules": {}, "env_vars": {}, "container": {}, "upstreams": {}, "compilers": [], "bootstrap": {}, "include_concrete": ["../y"]}),
    ("develop", {"develop": {"zlib": {"spec": "zlib@1", "path": "../zlib"}}}),
    ("cdash", {"cdash": {"build-group": "g", "url": "https://x", "project": "p", "site": "s"}}),
]  # fmt: skip


@pytest.mark.parametrize("spack", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_good(spack: dict[str, Any]) -> None:
    assert parse_manifest(dump_yaml({"spack": spack}), WHERE).sections == spack


BAD: list[tuple[str, Any, str]] = [
    ("null", None, "spack: must be a mapping, is null"),
    ("unknown section", {"mirors": {}}, "spack.mirors: unknown key\n  hint: did you mean 'mirrors'?"),
    ("old ci", {"gitlab-ci": {}}, "spack.gitlab-ci: is not read\n  hint: it is the section of Spack before 0.20"),
    ("ci null", {"ci": None}, "spack.ci: must be a mapping, is null"),
    ("pipeline-gen", {"ci": {"pipeline-gen": {}}}, "spack.ci.pipeline-gen: must be a list, is a mapping"),
    ("rebuild-index", {"ci": {"rebuild-index": "no"}}, "spack.ci.rebuild-index: must be true or false, is text ('no')"),
    ("empty entry", ci({}), "spack.ci.pipeline-gen[0]: must have one of submapping"),
    ("unknown entry", ci({"any-jobs": {}}), "spack.ci.pipeline-gen[0]: must have one of submapping, dynamic-mapping, any-job"),
    ("near entry", ci({"bild-job": {}}), "did you mean 'build-job'?"),
    ("behaviour alone", ci({"match_behavior": "first"}), "spack.ci.pipeline-gen[0]: must have one of"),
    ("two jobs", ci({"any-job": {}}, {"any-job": {}, "build-job-remove": {}}), "spack.ci.pipeline-gen[1]: must not mix any-job and build-job-remove"),
    ("job and submapping", ci({"submapping": [], "build-job": {}}), "must not mix submapping and build-job"),
    ("job with more", ci({"any-job": {}, "match": []}), "spack.ci.pipeline-gen[0].match: unknown key"),
    ("match missing", ci({"submapping": [{"build-job": {}}]}), "spack.ci.pipeline-gen[0].submapping[0].match: is missing"),
    ("match text", ci({"any-job": {}}, {"any-job": {}}, {"submapping": [{"match": "x"}]}), "spack.ci.pipeline-gen[2].submapping[0].match: must be a list, is text ('x')"),
    ("match item", ci({"submapping": [{"match": [1.1]}]}), "submapping[0].match[0]: must be text, is a number (1.1)"),
    ("other job mapped", ci({"submapping": [{"match": [], "any-job": {}}]}), "submapping[0].any-job: unknown key"),
    ("behaviour", ci({"submapping": [], "match_behavior": "last"}), "match_behavior: must be one of first, merge, is 'last'"),
    ("job null", ci({"any-job": None}), "pipeline-gen[0].any-job: must be a mapping, is null"),
    ("image", ci({"any-job": {"image": ["x"]}}), "any-job.image: must be text or a mapping, is a list"),
    ("image name", ci({"any-job": {"image": {"name": 1}}}), "any-job.image.name: must be text"),
    ("entrypoint", ci({"any-job": {"image": {"entrypoint": "x"}}}), "any-job.image.entrypoint: must be a list"),
    ("tags", ci({"any-job": {"tags": "a"}}), "any-job.tags: must be a list"),
    ("override tags", ci({"any-job": {"tags:": "a"}}), "any-job.tags: must be a list"),
    ("variable", ci({"any-job": {"variables": {"A": True}}}), "any-job.variables.A: must be text or a number, is true or false (true)"),
    ("variable null", ci({"any-job": {"variables": {"A": None}}}), "any-job.variables.A: must be text or a number, is null"),
    ("script", ci({"any-job": {"script": "x"}}), "any-job.script: must be a list"),
    ("script depth", ci({"any-job": {"before_script": [["a", ["b"]]]}}), "any-job.before_script[0][1]: must be text, is a list"),
    ("endpoint", ci({"dynamic-mapping": {"name": "x"}}), "dynamic-mapping.endpoint: is missing"),
    ("timeout", ci({"dynamic-mapping": {"endpoint": "x", "timeout": -1}}), "dynamic-mapping.timeout: must be 0 or more"),
    ("bootstrap", {"ci": {"bootstrap": [{"compiler-agnostic": True}]}}, "spack.ci.bootstrap[0].name: is missing"),
    ("twins", {"mirrors": {"a": "x", "a:": "y"}}, "spack.mirrors.a: duplicate key, once with '::'"),
    ("cdash", {"cdash": {"url": "x"}}, "spack.cdash.build-group: is missing"),
    ("cdash key", {"cdash": {"build-group": "x", "sites": "y"}}, "spack.cdash.sites: unknown key\n  hint: did you mean 'site'?"),
    ("mirror pull", {"mirrors": {"a": {"pull": "x"}}}, "spack.mirrors.a.pull: is not read\n  hint: Spack's schema names it, but only 'fetch' works"),
    ("mirror without url", {"mirrors": {"a": {"push": "x"}}}, "spack.mirrors.a: must have 'url' or 'fetch'"),
    ("mirror token", {"mirrors": {"a": {"url": "x", "access_token": "t"}}}, "access_token_variable"),
    ("mirror pair", {"mirrors": {"a": {"url": "x", "access_pair": {"secret_variable": "S"}}}}, "spack.mirrors.a.access_pair: must have exactly one of 'id' and 'id_variable'"),
    ("mirror both ids", {"mirrors": {"a": {"url": "x", "access_pair": {"id": "a", "id_variable": "b", "secret_variable": "S"}}}}, "exactly one of"),
    ("mirror secret", {"mirrors": {"a": {"url": "x", "push": {"access_pair": {"id": "a"}}}}}, "spack.mirrors.a.push.access_pair.secret_variable: is missing"),
    ("mirror pair of three", {"mirrors": {"a": {"url": "x", "access_pair": ["a", "b", "c"]}}}, "must be [id, secret], has 3 items"),
    ("mirror flag", {"mirrors": {"a": {"url": "x", "signed": "no"}}}, "spack.mirrors.a.signed: must be true or false"),
    ("mirror type", {"mirrors": {"a": 1}}, "spack.mirrors.a: must be text or a mapping"),
    ("mirror name", {"mirrors": {1: "x"}}, "spack.mirrors: the key 1 must be text"),
    ("include", {"include": "a"}, "spack.include: must be a list"),
    ("include key", {"include": [{"path": "a", "whn": "b"}]}, "spack.include[0].whn: unknown key\n  hint: did you mean 'when'?"),
    ("include mixed", {"include": [{"path": "a", "git": "b"}]}, "spack.include[0]: must not mix path and git"),
    ("include none", {"include": [{"when": "a"}]}, "spack.include[0]: must have one of path, git"),
    ("include git", {"include": [{"git": "x", "paths": ["a"]}]}, "spack.include[0]: must have one of branch, commit, tag"),
    ("include git paths", {"include": [{"git": "x", "paths": [], "tag": "a"}]}, "spack.include[0].paths: must not be empty"),
    ("specs", {"specs": "zlib"}, "spack.specs: must be a list"),
    ("specs item", {"specs": [1.1]}, "spack.specs[0]: must be text or null or a mapping, is a number (1.1)"),
    ("matrix missing", {"specs": [{"exclude": []}]}, "spack.specs[0].matrix: is missing"),
    ("matrix key", {"specs": [{"matrix": [], "excludes": []}]}, "spack.specs[0].excludes: unknown key"),
    ("matrix row", {"specs": [{"matrix": ["a"]}]}, "spack.specs[0].matrix[0]: must be a list"),
    ("definitions", {"definitions": {"a": []}}, "spack.definitions: must be a list"),
    ("definition names", {"definitions": [{"a": [], "b": []}]}, "spack.definitions[0]: must define one name, has a, b"),
    ("definition none", {"definitions": [{"when": "True"}]}, "spack.definitions[0]: must define one name, has none"),
    ("definition when", {"definitions": [{"a": [], "when": True}]}, "spack.definitions[0].when: must be text"),
    ("develop", {"develop": {"a": {"path": "x"}}}, "spack.develop.a.spec: is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("spack", "part"), [r[1:] for r in BAD], ids=[r[0] for r in BAD])
def test_bad(spack: Any, part: str) -> None:
    with pytest.raises(StackError) as caught:
        parse_manifest(dump_yaml({"spack": spack}), WHERE)
    assert str(caught.value).startswith(f"{WHERE}: spack")
    assert part in str(caught.value)


TOP = [
    ("list", "- a", "must be a mapping with the key 'spack', is a list"),
    ("text", "a", "must be a mapping with the key 'spack', is text"),
    ("empty", "", "the file is empty"),
    ("no spack", "{}", "spack: is missing"),
    ("two keys", "spack: {}\nspak: {}", "spak: the only key at the top is 'spack'\n  hint: did you mean 'spack'?"),
    ("section at top", "specs: []", "specs: the only key at the top is 'spack'\n  hint: put it below 'spack:'"),
    ("syntax", "spack: [", "spack.yaml:2:1: not YAML"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "part"), [row[1:] for row in TOP], ids=[row[0] for row in TOP])
def test_top(text: str, part: str) -> None:
    with pytest.raises(StackError) as caught:
        parse_manifest(text, WHERE)
    assert part in str(caught.value)


CONFIG = [
    ("environment", "spack: {}", "", "spack: an environment cannot be included"),
    ("specs", "specs: []", "", "specs: unknown key"),
    ("other section", "ci: {}", "mirrors", "ci: unknown key"),
    ("list", "[]", "", "must be a mapping, is a list"),
    ("nested", "ci: {pipeline-gen: [{}]}", "", "f: ci.pipeline-gen[0]: must have one of"),
]


@pytest.mark.parametrize(
    ("text", "section", "part"), [row[1:] for row in CONFIG], ids=[row[0] for row in CONFIG]
)
def test_config_file_refused(text: str, section: str, part: str) -> None:
    with pytest.raises(StackError) as caught:
        parse_config(text, "f", section=section)
    assert part in str(caught.value)


def test_empty_config_file_is_an_empty_scope() -> None:
    assert parse_config("# nothing", "f").sections == {}


WARNED = [
    ("unknown key of ci", {"ci": {"pipelinegen": []}}, "spack.ci.pipelinegen: Spack ignores this key"),
    ("plain secret", {"mirrors": {"a": {"url": "s3://x", "access_pair": ["i", "s"]}}}, "spack.mirrors.a.access_pair: [id, secret] puts"),
    ("variable in url", {"mirrors": {"a": {"url": "s3://$X"}}}, "spack.mirrors.a.url: Spack expands variables in paths"),
    ("variable in text url", {"mirrors": {"a": {"url": "x", "push": "s3://$X"}}}, "spack.mirrors.a.push: Spack expands"),
]  # fmt: skip


@pytest.mark.parametrize(("spack", "part"), [r[1:] for r in WARNED], ids=[r[0] for r in WARNED])
def test_warned(spack: Any, part: str) -> None:
    (warning,) = stack_of(dump_yaml({"spack": spack})).warnings
    assert warning.startswith(f"{WHERE}: ")
    assert part in warning


def test_stack_loads_all_but_the_entries() -> None:
    stack = stack_of(
        dump_yaml(
            {
                "spack": {
                    "specs": ["zlib target=x86_64:", "bzip2 @: target=x86_64:", None],
                    "ci:": {
                        "target:": "gitlab",
                        "pipeline-gen:": [{"submapping": [{"match": ["target=x86_64:"]}]}],
                    },
                    "packages": {"all:": {"require": ["target=x86_64:"]}},
                }
            }
        )
    )
    assert stack.specs == ["zlib target=x86_64", "bzip2 @: target=x86_64:"]
    assert stack.ci == {
        "target": "gitlab",
        "pipeline-gen": [{"submapping": [{"match": ["target=x86_64:"]}]}],
    }
    assert stack.packages == {"all": {"require": ["target=x86_64"]}}
    assert stack.has_ci
    assert not stack_of("spack: {specs: []}").has_ci
    assert (stack.cdash, stack.definitions, stack.bootstrap) == ({}, [], [])


def test_merge_scopes_own_wins_then_earlier() -> None:
    merged = merge_scopes(
        {"ci": {"a": [1]}}, [{"ci": {"a": [2], "b": 2}}, {"ci": {"a": [3], "b": 3, "c": 3}}]
    )
    assert merged == {"ci": {"a": [1, 2, 3], "b": 2, "c": 3}}


MIRRORS: list[tuple[str, Any, Mirror]] = [
    ("text", "s3://x", Mirror(name="m", fetch=Connection(url="s3://x"), push=Connection(url="s3://x"))),
    ("flags", {"url": "s3://x", "binary": False, "source": False, "signed": False, "autopush": True},
     Mirror(name="m", fetch=Connection(url="s3://x"), push=Connection(url="s3://x"), binary=False, source=False, signed=False, autopush=True)),
    ("directions", {"url": "s3://x", "profile": "p", "fetch": "https://f", "push": {"profile": "q", "endpoint_url": "https://e"}},
     Mirror(name="m", fetch=Connection(url="https://f", profile="p"), push=Connection(url="s3://x", profile="q", endpoint_url="https://e"))),
    ("null overrides", {"url": "s3://x", "profile": "p", "push": {"profile": None}},
     Mirror(name="m", fetch=Connection(url="s3://x", profile="p"), push=Connection(url="s3://x"))),
    ("pair", {"url": "oci://x", "access_pair": {"id_variable": "U", "secret_variable": "S"}, "fetch": {"access_token_variable": "T"}},
     Mirror(name="m", fetch=Connection(url="oci://x", id_variable="U", secret_variable="S", access_token_variable="T"), push=Connection(url="oci://x", id_variable="U", secret_variable="S"))),
    ("old pair", {"url": "oci://x", "access_pair": ["me", "hidden"]},
     Mirror(name="m", fetch=Connection(url="oci://x", id="me", secret="hidden"), push=Connection(url="oci://x", id="me", secret="hidden"))),
]  # fmt: skip


@pytest.mark.parametrize(("data", "mirror"), [r[1:] for r in MIRRORS], ids=[r[0] for r in MIRRORS])
def test_mirror(data: Any, mirror: Mirror) -> None:
    made = make_mirror("m", data)
    assert made == mirror
    assert "hidden" not in repr(made)


def test_mirror_needs_a_url_to_push() -> None:
    with pytest.raises(StackError, match="no URL to push"):
        stack_of("spack: {mirrors: {a: {fetch: s3://x}}}")


PATHS = [
    ("relative", "cache", "file:///p/stacks/x/cache"),
    ("needs quoting", "a b#c", "file:///p/stacks/x/a%20b%23c"),
    ("file url", "file:///a", "file:///a"),
    ("oci", "oci+http://r/x", "oci+http://r/x"),
    ("no scheme of a mirror", "git:x", "file:///p/stacks/x/git%3Ax"),
]


@pytest.mark.parametrize(("text", "url"), [row[1:] for row in PATHS], ids=[row[0] for row in PATHS])
def test_mirror_paths_become_urls(text: str, url: str) -> None:
    stack = stack_of(
        dump_yaml({"spack": {"mirrors": {"a": {"fetch": {"url": text}, "url": text}}}})
    )
    assert stack.mirrors["a"].fetch_url == stack.mirrors["a"].push_url == url


def test_mirror_paths_are_seen_from_the_file_that_has_them() -> None:
    included = parse_config("mirrors: {a: cache, b: s3://b}", "f", "/elsewhere")
    stack = stack_of("spack: {mirrors: {b: cache}}", included=[included])
    assert {name: mirror.fetch_url for name, mirror in stack.mirrors.items()} == {
        "b": "file:///p/stacks/x/cache",
        "a": "file:///elsewhere/cache",
    }
    only = stack_of("spack: {'mirrors:': {b: cache}}", included=[included])
    assert list(only.mirrors) == ["b"]


def test_concrete_manifest_keeps_the_text_without_relative_includes() -> None:
    text = "spack:  # a comment\n  include: [/abs/x.yaml]\n"
    stack = stack_of(text, includes=[Include(raw="/abs/x.yaml")])
    assert concrete_manifest(stack, "../../stacks/x") == text


def test_concrete_manifest_moves_relative_includes() -> None:
    git = {"git": "https://x", "paths": ["a"], "tag": "v1"}
    text = dump_yaml(
        {
            "spack": {
                "include": ["a.yaml", {"path": "../b", "when": "True"}, git, "/abs"],
                "specs": [],
            }
        }
    )
    includes = [
        Include(raw="a.yaml", path="a.yaml"),
        Include(raw={"path": "../b", "when": "True"}, path="../b"),
        Include(raw=git),
        Include(raw="/abs"),
    ]
    moved = concrete_manifest(stack_of(text, includes=includes), "../../stacks/x")
    assert moved == dump_yaml(
        {
            "spack": {
                "include": [
                    "../../stacks/x/a.yaml",
                    {"path": "../../stacks/b", "when": "True"},
                    git,
                    "/abs",
                ],
                "specs": [],
            }
        }
    )
