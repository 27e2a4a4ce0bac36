"""Which Spack and which packages: who is asked first, and what may stand in a pin."""

from __future__ import annotations

from typing import Any

import pytest

from stackyard.errors import ConfigError
from stackyard.pins import (
    PACKAGES_REPO,
    SPACK_REF,
    SPACK_REPO,
    Pin,
    Pins,
    check_pin,
    clone_variables,
    default_packages,
    dump_pins,
    is_commit,
    parse_pins,
    pin_troubles,
    public_repo,
    wanted_packages,
    wanted_spack,
)
from stackyard.settings import SpackSource

ONE, TWO, THREE, FOUR = (digit * 40 for digit in "1234")
FORK = "https://example.com/fork.git"
NONE = SpackSource()
PINS = Pins(Pin(SPACK_REPO, "v1.1.0", ONE), Pin(PACKAGES_REPO, "releases/v2025.11", TWO))
BARE = PINS._replace(packages=None)


# -- Spack ----------------------------------------------------------------------------------


SPACK: dict[str, tuple[dict[str, str], SpackSource, Pins | None, tuple[str, str], Pin]] = {
    "nothing is said: the newest release": ({}, NONE, None, ("", ""), Pin(SPACK_REPO, SPACK_REF)),
    "what made the lock": ({}, NONE, None, (THREE, "1.0.0"), Pin(SPACK_REPO, "", THREE)),
    "a release made the lock": ({}, NONE, None, ("", "1.0.0"), Pin(SPACK_REPO, "v1.0.0")),
    "the lock says a part": ({}, NONE, None, ("abcdef0", "1.0"), Pin(SPACK_REPO, "abcdef0")),
    "the pins, before the lock": ({}, NONE, PINS, (THREE, "1.0.0"), PINS.spack),
    "a name in the settings": ({}, SpackSource(ref="main"), None, (THREE, ""), Pin(SPACK_REPO, "main")),
    "the pins are of that name": ({}, SpackSource(ref="v1.1.0"), PINS, ("", ""), PINS.spack),
    "the pins are of another name": (
        {}, SpackSource(ref="v1.2.0"), PINS, (ONE, ""), Pin(SPACK_REPO, "v1.2.0"),
    ),
    "the environment's name": (
        {"SPACK_REF": "a"}, SpackSource(ref="b"), None, ("", ""), Pin(SPACK_REPO, "a"),
    ),
    "an empty variable says nothing": (
        {"SPACK_REF": "", "SPACK_REPO": "", "SPACK_CHECKOUT_VERSION": ""},
        SpackSource(ref="b"), None, ("", ""), Pin(SPACK_REPO, "b"),
    ),
    "a commit in the settings": (
        {"SPACK_REF": "a"}, SpackSource(checkout_version=TWO), PINS, (ONE, ""),
        Pin(SPACK_REPO, "", TWO),
    ),
    "a commit in the environment": (
        {"SPACK_CHECKOUT_VERSION": THREE}, SpackSource(checkout_version=TWO), PINS, (ONE, ""),
        Pin(SPACK_REPO, "", THREE),
    ),
    "a commit for a name": (
        {"SPACK_REF": THREE}, NONE, PINS, (ONE, ""), Pin(SPACK_REPO, "", THREE),
    ),
    "that of the pins keeps its name": (
        {"SPACK_CHECKOUT_VERSION": ONE}, NONE, PINS, ("", ""), PINS.spack,
    ),
    "a part of that of the pins": (
        {"SPACK_CHECKOUT_VERSION": ONE[:9]}, NONE, PINS, ("", ""), PINS.spack,
    ),
    "a version that is a tag": (
        {"SPACK_CHECKOUT_VERSION": "v1.1.0"}, SpackSource(ref="b"), None, ("", ""),
        Pin(SPACK_REPO, "v1.1.0"),
    ),
    "the pinned commit out of another repository": (
        {"SPACK_REPO": FORK}, SpackSource(ref="v1.1.0"), PINS, (THREE, ""),
        Pin(FORK, "v1.1.0", ONE),
    ),
    "the settings' repository": (
        {}, SpackSource(repo=FORK), None, ("", ""), Pin(FORK, SPACK_REF),
    ),
    "the pins' repository for another name": (
        {}, SpackSource(ref="b"), Pins(Pin(FORK, "a", ONE)), ("", ""), Pin(FORK, "b"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SPACK)
def test_wanted_spack(case: str) -> None:
    env, source, pins, made, wanted = SPACK[case]
    assert wanted_spack(env, source, pins, *made) == wanted


def test_a_password_is_used_and_not_kept() -> None:
    secret = "https://me:token@github.com/spack/spack.git"
    pin = wanted_spack({"SPACK_REPO": secret}, NONE, PINS)
    assert pin == PINS.spack._replace(repo=secret)
    assert dump_pins(Pins(pin, PINS.packages)) == dump_pins(PINS)


# -- packages -------------------------------------------------------------------------------

PACKAGES: dict[str, tuple[dict[str, str], SpackSource, Pins | None, Any, Pin | None]] = {
    "nothing is said": ({}, NONE, None, {}, Pin()),
    "the pins": ({}, NONE, PINS, {}, PINS.packages),
    "another repository only": (
        {}, NONE, PINS, {"mine": {"git": FORK, "commit": ONE}}, PINS.packages,
    ),
    "a path": ({}, NONE, PINS, {"builtin": "$env/packages"}, None),
    "a list of paths": ({}, NONE, PINS, ["$env/packages"], PINS.packages),
    "a commit in the manifest": (
        {"SPACK_PACKAGES_CHECKOUT_VERSION": THREE}, NONE, PINS,
        {"builtin": {"git": FORK, "commit": ONE}}, Pin(FORK, "", ONE),
    ),
    "a tag in the manifest": (
        {}, NONE, PINS, {"builtin": {"tag": "v2025.11.0", "branch": "x"}}, Pin("", "v2025.11.0"),
    ),
    "a branch in the manifest, which the pins are of": (
        {}, NONE, PINS, {"builtin": {"git": PACKAGES_REPO, "branch": "releases/v2025.11"}},
        PINS.packages,
    ),
    "a place in the manifest says nothing of what is there": (
        {}, NONE, PINS, {"builtin": {"destination": "/x"}}, PINS.packages,
    ),
    "the environment": (
        {"SPACK_PACKAGES_CHECKOUT_VERSION": THREE, "SPACK_PACKAGES_REPO": FORK},
        SpackSource(packages_repo="x", packages_ref="y"), PINS, {}, Pin(FORK, "", THREE),
    ),
    "the settings": (
        {}, SpackSource(packages_repo=FORK, packages_ref="y"), PINS, {}, Pin(FORK, "y"),
    ),
    "a commit in the settings": (
        {}, SpackSource(packages_ref=THREE), PINS, {}, Pin("", "", THREE),
    ),
    "a name in the environment": (
        {"SPACK_PACKAGES_CHECKOUT_VERSION": "develop"}, SpackSource(packages_ref="y"), None, {},
        Pin("", "develop"),
    ),
    "pins without packages": ({}, NONE, BARE, {}, Pin()),
}  # fmt: skip


@pytest.mark.parametrize("case", PACKAGES)
def test_wanted_packages(case: str) -> None:
    env, source, pins, repos, wanted = PACKAGES[case]
    assert wanted_packages(env, source, pins, repos) == wanted


@pytest.mark.parametrize(
    ("text", "pin"),
    [
        ("repos:\n  builtin:\n    git: https://x/y\n    branch: z\n", Pin("https://x/y", "z")),
        ("repos:\n  builtin:\n    git: https://x/y\n", Pin("https://x/y", "HEAD")),
        (f"repos: {{builtin: {{git: 'https://x/y', commit: '{ONE}', tag: z}}}}", Pin("https://x/y", "", ONE)),
        ("repos:\n- $spack/var/spack/repos/builtin\n", None),
        ("repos: {builtin: $spack/packages}", None),
        ("", None),
    ],
)  # fmt: skip
def test_what_spacks_own_defaults_name(text: str, pin: Pin | None) -> None:
    assert default_packages(text, "x") == pin


# -- the file -------------------------------------------------------------------------------


def test_the_file() -> None:
    assert dump_pins(PINS).decode() == (
        "# Written by `invoke lock`: what made the lock beside it.\n"
        "spack:\n"
        f"  repo: {SPACK_REPO}\n"
        "  ref: v1.1.0\n"
        f"  commit: '{ONE}'\n"
        "packages:\n"
        f"  repo: {PACKAGES_REPO}\n"
        "  ref: releases/v2025.11\n"
        f"  commit: '{TWO}'\n"
    )


@pytest.mark.parametrize(
    "pins",
    [
        PINS,
        BARE,
        Pins(Pin("git@example.com:a/b.git", "", "12e4" * 10)),
        Pins(Pin("/srv/git/spack", "a_b.c/d+e@f", "0" * 64)),
        Pins(Pin("file:///srv/git", "", "12345e" + "0" * 34)),
    ],
)
def test_what_is_written_is_read(pins: Pins) -> None:
    assert parse_pins(dump_pins(pins), "x") == pins


BAD = {
    "not a mapping": ("- a\n", "pins.yaml: must be a mapping"),
    "empty": ("", "pins.yaml"),
    "no Spack": (f"packages: {{repo: /x, commit: '{ONE}'}}", "pins.yaml: spack"),
    "no commit": ("spack: {repo: /x}", "pins.yaml: spack.commit"),
    "an unknown key": ("spack: {repo: /x, commit: x, tga: y}", "pins.yaml: spack.tga"),
    "a number": (f"spack: {{repo: /x, commit: {ONE}}}", "pins.yaml: spack.commit"),
    "half a commit": ("spack: {repo: /x, commit: abcdef0}", "pins.yaml: spack: 'abcdef0' is not"),
    "an option": (f"spack: {{repo: -x, commit: '{ONE}'}}", "pins.yaml: spack: '-x' is no address"),
    "a program": (f"spack: {{repo: 'ext::sh -c x', commit: '{ONE}'}}", "pins.yaml: spack"),
    "a quote": (f"spack: {{repo: \"https://x/'y\", commit: '{ONE}'}}", "pins.yaml: spack"),
    "a name that is an option": (
        f"spack: {{repo: /x, ref: --upload-pack=x, commit: '{ONE}'}}", "pins.yaml: spack: '--upload",
    ),
    "two dots": (f"spack: {{repo: /x, ref: a..b, commit: '{ONE}'}}", "pins.yaml: spack: 'a..b'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_pins(case: str) -> None:
    text, start = BAD[case]
    with pytest.raises(ConfigError) as error:
        parse_pins(text.encode(), "pins.yaml")
    assert str(error.value).startswith(start)


@pytest.mark.parametrize(
    "repo",
    ["", "spack", "ext::x", "-x", "https://x y", "https://x`y`", "https://x$(y)", "a\n/b", "../x"],
)
def test_what_is_no_repository(repo: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a git repository"):
        check_pin(Pin(repo, "", ONE), "x")


def test_no_error_has_a_password() -> None:
    with pytest.raises(ConfigError) as error:
        check_pin(Pin("https://me:token@x/y z", "", ONE), "x")
    assert "token" not in str(error.value)


@pytest.mark.parametrize(
    ("repo", "public"),
    [
        ("https://me:token@host/x@y", "https://host/x@y"),
        ("https://token@host:8443/x", "https://host:8443/x"),
        ("https://a@b:c@host/x", "https://host/x"),
        ("https://host/x@y", "https://host/x@y"),
        ("ssh://git@host/x", "ssh://git@host/x"),
        ("git@host:x", "git@host:x"),
    ],
)
def test_public_repo(repo: str, public: str) -> None:
    assert public_repo(repo) == public


@pytest.mark.parametrize(("text", "whole"), [(ONE, True), ("0" * 64, True), (ONE[1:], False), ("v1", False), (ONE[1:] + "A", False)])  # fmt: skip
def test_is_commit(text: str, *, whole: bool) -> None:
    assert is_commit(text) is whole


def test_variables_for_the_jobs() -> None:
    assert clone_variables(*PINS) == {
        "SPACK_REPO": SPACK_REPO,
        "SPACK_CHECKOUT_VERSION": ONE,
        "SPACK_PACKAGES_REPO": PACKAGES_REPO,
        "SPACK_PACKAGES_CHECKOUT_VERSION": TWO,
    }
    few = {"SPACK_REPO": "https://host/x", "SPACK_CHECKOUT_VERSION": "v1"}
    assert clone_variables(Pin("https://me:token@host/x", "v1"), Pin()) == few
    assert clone_variables(Pin("https://host/x", "v1"), None) == few
    assert clone_variables(Pin("https://host/x", "v1"), Pin("", "", TWO)) == {
        **few,
        "SPACK_PACKAGES_REPO": PACKAGES_REPO,
        "SPACK_PACKAGES_CHECKOUT_VERSION": TWO,
    }


# -- do they fit ----------------------------------------------------------------------------

TROUBLES: dict[str, tuple[Pins, dict[str, str], SpackSource, Any, str, list[str]]] = {
    "none": (PINS, {}, NONE, {}, ONE, []),
    "the lock does not say": (PINS, {}, NONE, {}, "", []),
    "the lock says a part": (PINS, {}, NONE, {}, ONE[:8], []),
    "all say the same": (
        PINS,
        {"SPACK_CHECKOUT_VERSION": ONE, "SPACK_PACKAGES_CHECKOUT_VERSION": TWO},
        SpackSource(repo=SPACK_REPO, ref="v1.1.0", packages_repo=PACKAGES_REPO),
        {"builtin": {"commit": TWO}}, ONE, [],
    ),
    "another Spack made the lock": (
        PINS, {}, NONE, {}, THREE,
        ["the lock was made by Spack 333333333333, the pin is 111111111111"],
    ),
    "the settings moved on": (
        PINS, {}, SpackSource(ref="v1.2.0"), {}, ONE,
        ["Spack: asked for v1.2.0, pinned 111111111111"],
    ),
    "another commit, another repository": (
        PINS, {"SPACK_CHECKOUT_VERSION": THREE, "SPACK_REPO": FORK}, NONE, {}, ONE,
        [f"Spack: asked for {THREE} of {FORK}, pinned 111111111111"],
    ),
    "the manifest pins other packages": (
        PINS, {}, NONE, {"builtin": {"git": FORK, "commit": THREE}}, ONE,
        [f"the packages: asked for {THREE} of {FORK}, pinned 222222222222"],
    ),
    "the manifest has them at a path": (
        PINS, {}, NONE, {"builtin": "/x"}, ONE,
        ["the packages are pinned, and the manifest has them at a path"],
    ),
    "no pin of them": (
        BARE, {}, NONE, {"builtin": {"branch": "b"}}, ONE,
        ["the packages are asked for at b, and have no pin"],
    ),
    "no pin of them, and nobody asks": (BARE, {}, NONE, {}, ONE, []),
    "all at once": (
        PINS, {}, SpackSource(ref="b", packages_ref="c"), {}, THREE,
        ["the lock was made by Spack 333333333333, the pin is 111111111111",
         "Spack: asked for b, pinned 111111111111",
         "the packages: asked for c, pinned 222222222222"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TROUBLES)
def test_troubles(case: str) -> None:
    pins, env, source, repos, commit, wanted = TROUBLES[case]
    assert list(pin_troubles(pins, env, source, repos, commit)) == wanted


def test_no_trouble_has_a_password() -> None:
    env = {"SPACK_REPO": "https://me:token@x/y", "SPACK_PACKAGES_REPO": "https://me:token@x/z"}
    text = "".join(pin_troubles(PINS, env, SpackSource(ref="b", packages_ref="c"), {}, ONE))
    assert text.count("https://x/") == 2
    assert "token" not in text
