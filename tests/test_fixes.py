"""Each oddity of Spack: what it does by default, what its fix does, and that it is warned of."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Project, Stackyard
from locks import document, key, lock, node
from tests_data import ROOT

from stackyard.attributes import Attributes, make_attributes, match_warnings
from stackyard.defects import FIXES, touched_defects
from stackyard.pipeline import Context, PipelineType, make_pipeline
from stackyard.plan import make_plan

LOCK = lock([
    node("app", ["lib", "gcc"]),
    node("lib", ["gcc"]),
    node("gcc", external={"path": "/usr", "module": None, "extra_attributes": {}}),
])  # fmt: skip
BUILT = [LOCK.specs[key(name)] for name in ("app", "lib")]


def attributes(*entries: Any, fix: str = "") -> Attributes:
    ci = {"pipeline-gen": list(entries)}
    return make_attributes(ci, BUILT, LOCK, fix=frozenset({fix} if fix else ()))


def tags_of(made: Attributes) -> dict[str, list[str]]:
    return {
        LOCK.specs[member].name: group.attributes.get("tags", [])
        for group in made.groups
        for member in group.members
    }


def warned(*entries: Any, fix: str = "") -> list[str]:
    ci = {"pipeline-gen": list(entries)}
    fixes = frozenset({fix} if fix else ())
    lines = (*touched_defects(ci, fixes), *match_warnings(ci, LOCK, fix=fixes))
    return [line for line in lines if "fix: [" in line]


def mapping(*items: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {
        "submapping": [{"match": [match], "build-job": {"tags": [tag]}} for match, tag in items],
        **more,
    }


COLON = mapping(("target=x86_64:", "found"))


def test_trailing_colon() -> None:
    assert tags_of(attributes(COLON)) == {"app": [], "lib": []}
    assert tags_of(attributes(COLON, fix="trailing-colon")) == {"app": ["found"], "lib": ["found"]}
    assert warned(COLON) == [
        (
            "ci.pipeline-gen[0].submapping[0].match[0]: Spack drops the colon at the end of a text "
            "without @, so target=x86_64: is no range (mend it with fix: [trailing-colon])"
        )
    ]
    assert warned(COLON, fix="trailing-colon") == []


CATCH_ALL = mapping(("app", "special"), ("@:", "rest"))


def test_first_match() -> None:
    assert tags_of(attributes(CATCH_ALL)) == {"app": ["rest"], "lib": ["rest"]}
    assert tags_of(attributes(CATCH_ALL, fix="first-match")) == {
        "app": ["special"],
        "lib": ["rest"],
    }
    assert warned(CATCH_ALL) == [
        (
            "ci.pipeline-gen[0].submapping[0]: with match_behavior first the lowest matching item "
            "wins, so a later one takes app (mend it with fix: [first-match])"
        )
    ]
    assert warned(CATCH_ALL, fix="first-match") == []


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(mapping(("app", "a"), ("lib", "b")), id="no spec twice"),
        pytest.param(mapping(("app", "a"), ("@:", "b"), match_behavior="merge"), id="merge"),
    ],
)
def test_first_match_warns_only_where_it_matters(entry: Any) -> None:
    assert warned(entry) == []


ANY_SCRIPT = {"any-job": {"script": ["mine"], "tags": ["t"]}}


def test_any_script() -> None:
    odd = attributes(ANY_SCRIPT).services
    assert odd["signing"]["script"] == ["mine"]
    assert odd["noop"]["script"][0] == "mine"
    mended = attributes(ANY_SCRIPT, fix="any-script")
    assert "script" not in mended.services["signing"]
    assert "mine" not in mended.services["noop"]["script"]
    assert mended.services["noop"]["tags"] == ["t"]
    assert mended.groups[0].attributes["script"][0] == "mine"
    assert mended.groups[0].attributes["tags"] == ["t"]
    assert len(warned(ANY_SCRIPT)) == 1


@pytest.mark.parametrize("kind", ["reindex", "cleanup"])
def test_own_scripts(kind: str) -> None:
    entry = {f"{kind}-job": {"script:": ["mine"]}}
    assert "mine" not in attributes(entry).services[kind]["script"]
    mended = attributes(entry, fix=f"{kind}-script").services[kind]["script"]
    assert mended == ["mine"]
    assert f"fix: [{kind}-script]" in warned(entry)[0]


def test_the_mended_default_of_cleanup_names_its_url() -> None:
    script = attributes(fix="cleanup-script").services["cleanup"]["script"]
    assert script == ["spack -d mirror destroy --mirror-url {mirror_prefix}/$CI_PIPELINE_ID"]


SIGNING = {"signing-job": {"tags": ["mine"]}}


def test_signing_tags() -> None:
    assert attributes(SIGNING).services["signing"]["tags"] == ["aws", "protected", "notary", "mine"]
    assert attributes(SIGNING, fix="signing-tags").services["signing"]["tags"] == ["mine"]
    assert attributes(fix="signing-tags").services["signing"]["tags"] == [
        "aws", "protected", "notary"]  # fmt: skip
    assert "fix: [signing-tags]" in warned(SIGNING)[0]


REMOVE = {"build-job-remove": {"image": "x", "variables": {"A": ""}, "tags": ["t"]}}
BELOW = {"build-job": {"image": "x", "variables": {"A": "1", "B": "2"}, "tags": ["t", "u"]}}


def test_remove_scalar() -> None:
    odd = attributes(REMOVE, BELOW).groups[0]
    assert odd.attributes["image"] == "x"
    assert odd.variables()[0] == {"A": "1", "B": "2"}
    assert odd.attributes["tags"] == ["u"]
    mended = attributes(REMOVE, BELOW, fix="remove-scalar").groups[0]
    assert "image" not in mended.attributes
    assert mended.variables()[0] == {"B": "2"}
    assert mended.attributes["tags"] == ["u"]
    assert "and 1 more" in warned(REMOVE)[0]


WILDCARD = mapping(("platform=* os=debian11", "found"))


def test_arch_wildcard() -> None:
    assert tags_of(attributes(WILDCARD)) == {"app": ["found"], "lib": ["found"]}
    assert tags_of(attributes(WILDCARD, fix="arch-wildcard")) == {"app": [], "lib": []}
    assert "fix: [arch-wildcard]" in warned(WILDCARD)[0]


def _names(group: str, fix: str = "") -> list[str]:
    plan = make_plan(LOCK, [root.hash for root in LOCK.roots])
    context = Context(
        spack_version="1", spack_checkout="1", push_url="s3://a", fetch_url="s3://a",
        build_group=group, build_stamp="now", fix=frozenset({fix} if fix else ()),
    )  # fmt: skip
    pipeline = make_pipeline(plan, attributes(), context)
    return [str(job.variables["SPACK_CDASH_BUILD_NAME"]) for job in pipeline.builds]


def test_cdash_build_name() -> None:
    assert _names("G")[0] == (f"lib@1.0none hash={key('lib')} arch=linux-debian12-x86_64_v3 (G)")
    assert _names("G", "cdash-build-name")[0] == (
        f"lib@1.0 hash={key('lib')} arch=linux-debian12-x86_64_v3 (G)"
    )


def test_copy_destination() -> None:
    plan = make_plan(LOCK, [root.hash for root in LOCK.roots])
    for fix, expected in (("", "https://read"), ("copy-destination", "s3://write")):
        context = Context(
            spack_version="1", spack_checkout="1", push_url="s3://write", fetch_url="https://read",
            source_url="s3://from", type=PipelineType.COPY_ONLY, fix=frozenset({fix}),
        )  # fmt: skip
        job = make_pipeline(plan, attributes(), context).services[0]
        assert job.attributes["variables"]["SPACK_COPY_ONLY_DESTINATION"] == expected


def test_failed_environment() -> None:
    plan = make_plan(LOCK, [root.hash for root in LOCK.roots])
    own = {"build-job": {"artifacts": {"exclude": ["mine"]}}}
    for fix, expected in (("", None), ("failed-environment", "r/logs/spack-build-env.txt*")):
        context = Context(
            spack_version="1", spack_checkout="1", push_url="s3://a", fetch_url="s3://a",
            artifacts_root="r", fix=frozenset({fix}),
        )  # fmt: skip
        job = make_pipeline(plan, attributes(), context).hidden[".build-1"]
        assert job["artifacts"].get("exclude") == (expected and [expected])
        job = make_pipeline(plan, attributes(own), context).hidden[".build-1"]
        assert "mine" in job["artifacts"]["exclude"]


@pytest.mark.parametrize(
    ("mirror", "warned_of"),
    [
        ({"url": "s3://example/a", "signed": False}, True),
        ({"url": "file:///srv/a", "signed": True}, True),
        ({"url": "file:///srv/a", "signed": False}, False),
    ],
)
def test_jobs_with_secrets_are_warned_of(
    project: Project, stackyard: Stackyard, mirror: dict[str, Any], *, warned_of: bool
) -> None:
    lock = document({"app": ["lib"], "lib": []})
    project.stack(lock, mirrors={"buildcache-destination": mirror})
    said = stackyard("doctor", "--offline", code=None).out
    assert ("fix: [failed-environment]" in said) == warned_of
    project.write("invoke.yaml", {"stackyard": {"fix": ["failed-environment"]}})
    assert "failed-environment" not in stackyard("doctor", "--offline", code=None).out


def test_dynamic_headers_are_warned_of() -> None:
    entry = {"dynamic-mapping": {"endpoint": "https://x", "header": {"Token": "$TOKEN"}}}
    assert "fix: [dynamic-headers]" in warned(entry)[0]
    assert warned({"dynamic-mapping": {"endpoint": "https://x", "header": {"A": "b"}}}) == []


def test_every_fix_is_documented_and_tested() -> None:
    page = (ROOT / "docs" / "spack-defects.md").read_text()
    assert [name for name in FIXES if f"| `{name}` |" not in page] == []
    tests = {name.removeprefix("test_").replace("_", "-") for name in globals()}
    tests |= {"reindex-script", "cleanup-script", "dynamic-headers"}
    assert [name for name in FIXES if name not in tests] == []
