"""Any value in any place of a lock: an error of ours, or a lock that all tasks can work with."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests_data import STACKS

from stackyard.attributes import make_attributes, match_warnings
from stackyard.errors import StackyardError
from stackyard.graph import graph_svg
from stackyard.hashes import verify_hashes
from stackyard.lock import Lock, parse_lock
from stackyard.pipeline import Context, make_pipeline
from stackyard.plan import make_plan
from stackyard.report import plan_json, plan_table

WHOLE = json.loads((STACKS / "small" / "spack.lock").read_bytes())

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value inside a JSON value."""
    if not isinstance(value, (dict, list)):
        return [path]
    steps = value.items() if isinstance(value, dict) else enumerate(value)
    inner = [place for step, one in steps for place in places(one, (*path, step))]
    return [path, *inner] if path else inner


PLACES = places({k: WHOLE[k] for k in ("_meta", "spack", "roots")}) + [
    ("concrete_specs", *place)
    for key in list(WHOLE["concrete_specs"])[:4]
    for place in places({key: WHOLE["concrete_specs"][key]})
]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    step, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[step] = replaced(value[step], tuple(rest), new)
    return copy


def work_with(lock: Lock) -> None:
    """What plan, generate, graph and lock --verify do with a lock."""
    plan = make_plan(lock, [root.hash for root in lock.roots])
    ci = {"pipeline-gen": [{"submapping": [{"match": ["%gcc@12", "+shared", "^zlib"]}]}]}
    attributes = make_attributes(ci, plan.builds, lock)
    context = Context(
        spack_version="1", spack_checkout="1", push_url="s3://a", fetch_url="s3://a",
        build_group="group",
    )  # fmt: skip
    assert make_pipeline(plan, attributes, context).size > 0
    match_warnings(ci, lock)
    plan_json(plan, "x")
    plan_table(plan)
    graph_svg(plan, "x")
    verify_hashes(lock)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(PLACES), VALUES)
def test_any_value_anywhere(path: tuple[Any, ...], new: Any) -> None:
    data = json.dumps(replaced(WHOLE, path, new)).encode()
    try:
        lock = parse_lock(data, "spack.lock")
        work_with(lock)
    except StackyardError as error:
        assert error.code == 2  # noqa: PT017 - any other error fails the test as it is
