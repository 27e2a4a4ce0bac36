"""What a remote tells of a project's home, and what a manifest gets that lacks what CI needs."""

from __future__ import annotations

import pytest
import yaml
from conftest import ROOT
from locks import lock, node

from stackyard.errors import ConfigError, StackError
from stackyard.lock import parse_lock
from stackyard.skeleton import (
    Ground,
    Home,
    Published,
    lock_ground,
    outside_paths,
    parse_home,
    parse_published,
    with_sections,
)

MIRROR = 'buildcache-destination:\n  url: "s3://b/x"\n'
CI = "ci:\n  target: gitlab\n"


@pytest.mark.parametrize(
    ("url", "home"),
    [
        ("https://github.com/Owner/Name.git", Home("github", "github.com", "Owner/Name")),
        ("git@github.com:owner/name", Home("github", "github.com", "owner/name")),
        ("ssh://git@gitlab.com/a/b/c.git", Home("gitlab", "gitlab.com", "a/b/c")),
        ("https://me:secret@gitlab.uni.edu/a/b", Home("gitlab", "gitlab.uni.edu", "a/b")),
        ("git@git.example.com:a/b.git", Home("", "git.example.com", "a/b")),
        ("https://notgithub.com/a/b", Home("", "notgithub.com", "a/b")),
        ("https://owner.github.io/a/b", Home("", "owner.github.io", "a/b")),
        ("/srv/git/name.git", Home()),
        ("file:///srv/git/name.git", Home()),
        ("https://github.com/only", Home()),
        ("https://github.com/a/$(touch x)", Home()),
        ("", Home()),
    ],
)
def test_home(url: str, home: Home) -> None:
    assert parse_home(url) == home


def test_registries() -> None:
    assert Home("github", "github.com", "Owner/Name").registry() == "ghcr.io/owner/name"
    assert Home("gitlab", "gitlab.com", "a/B/c").registry() == "registry.gitlab.com/a/b/c"
    assert Home("gitlab", "gitlab.uni.edu", "a/b").registry() == ""


RAW = "https://raw.githubusercontent.com/o/n"


@pytest.mark.parametrize(
    ("source", "folder", "name"),
    [
        ("https://github.com/o/n", f"{RAW}/HEAD", "n"),
        ("git@github.com:o/n.git", f"{RAW}/HEAD", "n"),
        ("ssh://git@github.com/o/n.git", f"{RAW}/HEAD", "n"),
        ("https://github.com/o/n/tree/dev/stacks/hep/", f"{RAW}/dev/stacks/hep", "hep"),
        ("https://github.com/o/n/blob/main/spack.yaml?plain=1", f"{RAW}/main", "n"),
        ("https://github.com/o/n/blob/main/stacks/hep/spack.yaml", f"{RAW}/main/stacks/hep", "hep"),
        (f"{RAW}/main/spack.yaml", f"{RAW}/main", "n"),
        (f"{RAW}/refs/heads/main/spack.yaml", f"{RAW}/refs/heads/main", "n"),
        (f"{RAW}/main/hep/spack.yaml", f"{RAW}/main/hep", "hep"),
        ("https://github.uni.edu/o/n", "https://github.uni.edu/o/n/raw/HEAD", "n"),
        ("https://gitlab.com/g/s/p", "https://gitlab.com/g/s/p/-/raw/HEAD", "p"),
        (
            "https://gitlab.com/g/s/p/-/blob/main/x/spack.yaml?ref_type=heads",
            "https://gitlab.com/g/s/p/-/raw/main/x",
            "x",
        ),
        ("https://o.github.io/cache/hep", "https://o.github.io/cache/hep", "hep"),
        ("https://example.org/a/hep/spack.yaml", "https://example.org/a/hep", "hep"),
        ("s3://bucket/hep/", "s3://bucket/hep", "hep"),
    ],
)
def test_manifests_on_servers(source: str, folder: str, name: str) -> None:
    assert parse_published(source) == Published(folder, "spack.yaml", name)


@pytest.mark.parametrize(
    "source", ["git@git.example.com:a/b", "https://x.org/a.git", "http://", "@"]
)
def test_what_only_git_can_read(source: str) -> None:
    with pytest.raises(ConfigError, match="no URL") as caught:
        parse_published(source)
    assert "clone it" in caught.value.hint


def ground(*places: tuple[str, str]) -> Ground:
    nodes = [
        node(name, arch={"platform": "linux", "platform_os": os, "target": target})
        for name, (os, target) in zip("ab", places, strict=False)
    ]
    return lock_ground(lock(nodes))


@pytest.mark.parametrize(
    ("places", "runner", "image"),
    [
        ([("ubuntu24.04", "x86_64_v3")], "ubuntu-24.04", "docker.io/library/ubuntu:24.04"),
        ([("ubuntu22.04", "x86_64")], "ubuntu-22.04", "docker.io/library/ubuntu:22.04"),
        ([("ubuntu24.04", "neoverse_n1")], "ubuntu-24.04-arm", "docker.io/library/ubuntu:24.04"),
        ([("ubuntu24.04", "x86_64_v4")], "", "docker.io/library/ubuntu:24.04"),
        ([("ubuntu24.04", "unheard-of")], "", "docker.io/library/ubuntu:24.04"),
        ([("debian12", "x86_64_v3")], "", "docker.io/library/debian:12"),
        ([("rocky9", "x86_64_v3")], "", ""),
        ([("debian12", "x86_64"), ("ubuntu24.04", "x86_64")], "", ""),
    ],
)
def test_what_a_lock_is_for(places: list[tuple[str, str]], runner: str, image: str) -> None:
    found = ground(*places)
    assert (found.runner(), found.base_image()) == (runner, image)


def test_the_processor_that_runs_all_of_a_lock() -> None:
    system = "ubuntu24.04"
    assert ground((system, "x86_64"), (system, "x86_64_v3")) == Ground(system, "x86_64_v3")
    assert ground((system, "x86_64_v3"), (system, "neoverse_n1")) == Ground(system, "")


def test_the_starter_is_for_what_init_takes_for_granted() -> None:
    path = ROOT / "templates/init/starter/spack.lock"
    assert lock_ground(parse_lock(path.read_bytes(), str(path))) == Ground()


def test_what_a_manifest_names_beside_it() -> None:
    spack = {
        "include": [
            "common.yaml",
            {"path": "../up/x.yaml"},
            "/etc/x",
            "https://x.org/y",
            "$spack/z",
        ],
        "repos:": {
            "ours": "./repo",
            "mine": "$env/repo",
            "builtin": {"git": "https://x.org/r.git"},
        },
    }
    assert outside_paths({"spack": spack}) == (
        "common.yaml",
        "../up/x.yaml",
        "./repo",
        "$env/repo",
    )
    assert outside_paths({"spack": {"specs": ["a"], "include": "x", "repos": None}}) == ()
    assert outside_paths({"spack": ["include"]}) == ()


@pytest.mark.parametrize(
    ("text", "added"),
    [
        ("spack:\n  specs: [zlib]\n", ("mirrors", "ci")),
        ("spack:\n    specs:\n    - zlib  # no newline at its end", ("mirrors", "ci")),
        ("# mine\nspack:\n  specs:\n  - zlib\n\n# the end\n", ("mirrors", "ci")),
        (
            "spack:\n  specs: [zlib]\n  mirrors:  # ours\n    other: https://x.org/m\n  view: false\n",
            ("ci", "mirrors.buildcache-destination"),
        ),
        ("spack:\n  ci: {target: gitlab}\n  specs: [zlib]\n", ("mirrors",)),
        ("spack:\n  ci::\n    target: gitlab\n  specs: [zlib]\n", ("mirrors",)),
        ("x: &x [a]\nspack:\n  specs: *x\n", ("mirrors", "ci")),
        ("spack:\n  specs: [zlib]\n  # - tcl\n# other\nnext: 1\n", ("mirrors", "ci")),
        (f"spack:\n  mirrors:\n    {MIRROR.replace(chr(10), chr(10) + '    ')}\n", ("ci",)),
    ],
)
def test_sections(text: str, added: tuple[str, ...]) -> None:
    made, told = with_sections(text, "spack.yaml", MIRROR, CI)
    before, after = yaml.safe_load(text)["spack"], yaml.safe_load(made)["spack"]
    assert told == added
    assert after["mirrors"]["buildcache-destination"] == {"url": "s3://b/x"}
    assert {key.strip(":"): value for key, value in after.items()}["ci"] == {"target": "gitlab"}
    for key, value in before.items():
        kept = {name: after[key][name] for name in value} if key == "mirrors" else after[key]
        assert kept == value
    lines = iter(made.splitlines())
    written = [line for line in text.splitlines() if line.strip()]
    assert all(line in lines for line in written), "every line is there, in its order"


@pytest.mark.parametrize(
    "text",
    [
        "spack: {specs: [zlib]}\n",
        "spack:\n",
        "other: 1\n",
        "- 1\n",
        "spack:\n  mirrors: {}\n",
        "spack:\n  mirrors: {a: https://x.org}\n",
    ],
)
def test_nothing_can_be_added(text: str) -> None:
    with pytest.raises(StackError) as caught:
        with_sections(text, "there/spack.yaml", MIRROR, CI)
    assert caught.value.where.startswith("there/spack.yaml")
    assert caught.value.hint


def test_comments_stay_where_they_belong() -> None:
    text = "spack:\n  specs: [zlib]\n  # - tcl\n\n# other\nnext: 1\n"
    made, _ = with_sections(text, "spack.yaml", MIRROR, CI)
    assert made.startswith("spack:\n  specs: [zlib]\n  # - tcl\n  mirrors:\n")
    assert made.endswith("    target: gitlab\n\n# other\nnext: 1\n")
