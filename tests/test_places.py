"""What ``--url`` means, and what opens a mirror."""

from __future__ import annotations

import pytest
from conftest import Project
from locks import document

from stackyard.edges.console import printable
from stackyard.edges.settings import Environment
from stackyard.edges.stores.access import access_to
from stackyard.errors import ConfigError
from stackyard.flow.places import find_project, named_place
from stackyard.flow.steps import open_project
from stackyard.stack import Connection

PAIR = {"id_variable": "MY_ID", "secret_variable": "MY_SECRET"}


@pytest.fixture
def demo(project: Project) -> Project:
    project.stack(
        document({"app": []}),
        mirrors={
            "release": {
                "signed": False,
                "fetch": {"url": "https://read.example.com/r"},
                "push": {"url": "s3://write/r", "access_pair": PAIR, "endpoint_url": "http://e"},
            },
            "plain": "/srv/mirror",
        },
    )
    return project


def test_a_mirror_by_name_and_by_url(demo: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_ID", "id-of-mine")
    monkeypatch.setenv("MY_SECRET", "very-secret-word")
    project = open_project()
    reading = named_place(project, "release", flag="--url")
    assert (reading.url, reading.signed) == ("https://read.example.com/r", False)
    assert named_place(project, "https://read.example.com/r/", flag="--url") == reading
    writing = named_place(project, "s3://write/r", flag="--to", push=True)
    assert writing.access.secret == "very-secret-word"
    assert writing.access.endpoint_url == "http://e"
    assert "very-secret-word" not in repr(writing)
    assert printable("say very-secret-word") == "say ***"
    other = named_place(project, "s3://elsewhere", flag="--url")
    assert (other.name, other.url, other.signed) == ("", "s3://elsewhere", None)


def test_the_place_that_is_pushed_to_can_be_read(
    demo: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its URL alone: the name means the place to read from."""
    place = named_place(open_project(), "s3://write/r/", flag="--url")
    assert (place.url, place.signed) == ("s3://write/r", False)
    assert (place.access.endpoint_url, place.access.secret) == ("http://e", "")
    monkeypatch.setenv("MY_ID", "id-of-mine")
    monkeypatch.setenv("MY_SECRET", "very-secret-word")
    place = named_place(open_project(), "s3://write/r", flag="--url")
    assert (place.access.id, place.access.secret) == ("id-of-mine", "very-secret-word")
    assert named_place(open_project(), "release", flag="--url").url == "https://read.example.com/r"


def test_each_direction_has_its_own_credentials(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_ID", "id-of-mine")
    monkeypatch.setenv("MY_SECRET", "very-secret-word")
    url = "s3://both/r"
    mirror = {"fetch": {"url": url}, "push": {"url": url, "access_pair": PAIR}}
    project.stack(document({"app": []}), mirrors={"m": mirror})
    assert named_place(open_project(), url, flag="--url").access.secret == ""
    assert named_place(open_project(), url, flag="--to", push=True).access.secret


def test_writing_wants_its_variables(demo: Project) -> None:
    with pytest.raises(ConfigError, match="the variable MY_ID is not set") as caught:
        named_place(open_project(), "release", flag="--to", push=True)
    assert caught.value.where == (
        "stacks/demo/spack.yaml: spack.mirrors.release.access_pair.id_variable"
    )


def test_no_mirror_named(project: Project) -> None:
    with pytest.raises(ConfigError, match="no mirror is named") as caught:
        named_place(None, " ", flag="--url")
    assert caught.value.where == "--url"


def test_a_mirror_outside_of_any_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_project()
    (project.root / "stacks").rmdir()
    assert find_project() is None
    project.write("invoke.yaml", "stackyard: {nonsense: 1}\n")
    with pytest.raises(ConfigError, match="unknown key"):
        find_project()


@pytest.mark.parametrize(
    ("variables", "pair"),
    [
        ({}, ("", "")),
        ({"MY_ID": "a"}, ("", "")),  # half a pair would be refused by the server: read without
        ({"MY_ID": "a", "MY_SECRET": "b"}, ("a", "b")),
    ],
)
def test_reading_goes_on_without(variables: dict[str, str], pair: tuple[str, str]) -> None:
    connection = Connection("s3://x", id_variable="MY_ID", secret_variable="MY_SECRET")
    access = access_to(connection, Environment(variables), "here", push=False)
    assert (access.id, access.secret) == pair


def test_a_name_of_several_mirrors_is_that_of_the_stack(project: Project) -> None:
    for name in ("one", "two"):
        mirrors = {"release": {"url": f"s3://{name}/r", "signed": name == "one"}}
        project.stack(document({"app": []}), name=name, mirrors=mirrors)
    opened = open_project()
    found = named_place(opened, "release", flag="--to", push=True, stack="two")
    assert (found.url, found.signed) == ("s3://two/r", False)
    assert named_place(opened, "s3://one/r", flag="--to", stack="two").signed is True
    with pytest.raises(
        ConfigError, match=r"several mirrors are named release: .*one.*two"
    ) as caught:
        named_place(opened, "release", flag="--to")
    assert caught.value.where == "--to"
