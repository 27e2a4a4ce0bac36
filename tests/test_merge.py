"""Merging and removing, compared with the answers of Spack 1.1 itself."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from stackyard.merge import (
    key_name,
    loaded,
    loaded_values,
    merge_config,
    merge_yaml,
    remove_yaml,
)

#: ``attributes``: Spack's answer where the source went through ``_process_dict_keyname_overrides``;
#: ``files``: Spack's answer for the two as configuration files, directives still on the keys.
CASES = json.loads((Path(__file__).parent / "data/merge/cases.json").read_text())
MERGES = [case for case in CASES if "files" in case]


def as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # compares types and the order of keys too


def name_of(case: dict[str, Any]) -> str:
    return f"{case['kind']} {as_text(case['dest'])} {as_text(case['source'])}"[:120]


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_job_attributes_as_spack(case: dict[str, Any]) -> None:
    function = merge_yaml if case["kind"] == "merge" else remove_yaml
    dest, source = loaded(case["dest"]), loaded_values(case["source"])
    before = copy.deepcopy((dest, source))
    assert as_text(function(dest, source)) == as_text(case["attributes"])
    assert (dest, source) == before


@pytest.mark.parametrize("case", MERGES, ids=name_of)
def test_files_as_spack(case: dict[str, Any]) -> None:
    dest, source = case["dest"], case["source"]
    before = copy.deepcopy((dest, source))
    assert as_text(merge_config(dest, source)) == as_text(case["files"])
    assert (dest, source) == before


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 150


NAMES = [
    ("tags:", "tags"),
    ("tags::", "tags:"),
    ("tags+", "tags+"),
    ("a@1:", "a@1:"),
    (":", ""),
    ("", ""),
    (1, 1),
]


@pytest.mark.parametrize(("key", "name"), NAMES, ids=[repr(row[0]) for row in NAMES])
def test_key_name(key: Any, name: Any) -> None:
    assert key_name(key) == name


def test_loaded_takes_colons_everywhere() -> None:
    assert loaded({"a:": ["b:", {"c:": "d@:"}], 1: None}) == {"a": ["b", {"c": "d@:"}], 1: None}
    assert loaded_values({"a:": ["b:", {"c:": "d@:"}]}) == {"a:": ["b", {"c:": "d@:"}]}


def test_long_lists_merge_in_linear_time() -> None:
    low, high = ([f"x{i}" for i in range(start, start + 40_000)] for start in (0, 20_000))
    assert len(merge_yaml(low, high)) == 60_000
    assert len(merge_config(low, high)) == 60_000
