"""What a remote tells of a project's home, and what a manifest gets that lacks what CI needs."""

from __future__ import annotations

import pytest
import yaml

from stackyard.errors import StackError
from stackyard.skeleton import Home, parse_home, raw_url, with_sections

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


def test_pages_of_github() -> None:
    raw = "https://raw.githubusercontent.com/o/n/main/stacks/x/spack.yaml"
    assert raw_url("https://github.com/o/n/blob/main/stacks/x/spack.yaml") == raw
    assert raw_url(raw) == raw
    assert raw_url("stacks/x") == "stacks/x"


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
