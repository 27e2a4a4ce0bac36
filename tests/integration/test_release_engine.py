"""The whole way with a real engine: a signed mirror, an image, a registry, and the release of it."""

from __future__ import annotations

import json

import pytest
from conftest import Stackyard
from containers import Engine
from mirror_server import mirror_server
from releases import Ground, git
from signing import needs_gpg

pytestmark = needs_gpg


def test_from_a_signed_mirror_to_a_release(
    stackyard: Stackyard, signed: Ground, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    base = f"{engine.host}/release/base:1"
    engine.podman("push", engine.base, base, "--digestfile", str(signed.folder / "digest"))
    digest = (signed.folder / "digest").read_text().strip()
    repository = f"{engine.host}/release/image"
    image = {"base": f"{base}@{digest}", "repository": repository}
    signed.set(image=image, generate={"requirement": "stackyard"})
    stackyard("generate")
    signed.publish()
    with mirror_server(signed.mirror) as server:  # which the build reaches
        more = ["--build-arg", f"FETCH_BASE={engine.fetcher}", "--network", "host"]
        stackyard("image.build", "--tag", "sc26", "--from", server.url, *more)
    stackyard("image.test", "--image", "sc26")
    pushed = stackyard("image.push", "--tag", "sc26").out.strip()
    told = json.loads(stackyard("release", "--tag", "sc26", "--wait", "1", "--json").out)
    assert told["state"] == "released"
    (found,) = told["images"]
    assert pushed == f"{repository}@{found['digest']}"
    assert signed.tags() == ["rev-sc26"]

    # The next one has another commit, and the image of the old one is not its own.
    signed.publish()
    stackyard("image.push", "--image", f"{repository}:sc26", "--tag", "sc27")
    answer = stackyard("release", "--tag", "sc27", "--wait", "0.001", code=6)
    assert "another image has the tag: it is of another commit" in answer.err
    old = git(signed.root, "rev-parse", "HEAD^")
    assert old in answer.err
