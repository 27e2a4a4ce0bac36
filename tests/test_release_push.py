"""``invoke release``: pushes that go wrong, two at once, and the image that is waited for."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import base_images
import pytest
from conftest import ROOT, Stackyard
from fake_registry import FakeRegistry, Fault
from git_server import serve_git
from releases import DIGEST, Ground, Hub, git, imaged
from signing import Signer, needs_gpg

from stackyard.edges import git_release
from stackyard.edges.stores.oci import OciStore
from stackyard.edges.stores.store import ANONYMOUS
from stackyard.errors import NotFoundError, StackyardError, UnreachableError
from stackyard.flow.release_image import Patience, Published, Target, follow_images
from stackyard.oci import descriptor as described
from stackyard.oci import manifest_key
from stackyard.release import LOCK_LABEL, REVISION_LABEL

# -- pushes that go wrong -------------------------------------------------------------------


def hook(repository: Path, name: str, text: str) -> Path:
    path = repository / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_remote_that_refuses(stackyard: Stackyard, ground: Ground) -> None:
    """Nothing is half done, and once it takes tags the same command ends well."""
    words = "only on Mondays, says http://me:never-shown@example.org/"
    refusing = hook(ground.origin, "pre-receive", f"echo '{words}' >&2; exit 1")
    answer = stackyard("release", "--tag", "sc26", code=5)
    assert "origin did not take rev-sc26, and nothing is tagged" in answer.err
    assert "only on Mondays, says http://example.org/" in answer.err
    assert "a hook of the server says why" in answer.err
    ground.nothing_tagged()
    refusing.unlink()
    stackyard("release", "--tag", "sc26")
    assert ground.tags() == ["rev-sc26"]


def test_a_release_that_was_killed_while_it_tagged(stackyard: Stackyard, ground: Ground) -> None:
    stackyard("release", "--tag", "sc26")
    git(ground.origin, "tag", "--delete", "rev-sc26")
    assert git(ground.root, "tag") == "rev-sc26"
    answer = stackyard("release", "--tag", "sc26")
    assert "pushed rev-sc26" in answer.err
    assert ground.tags() == ["rev-sc26"]
    assert git(ground.root, "rev-parse", "rev-sc26") == git(ground.origin, "rev-parse", "rev-sc26")


def test_what_a_killed_release_left_of_another_commit(stackyard: Stackyard, ground: Ground) -> None:
    """Somebody may want it: it is not taken away."""
    stackyard("release", "--tag", "sc26")
    git(ground.origin, "tag", "--delete", "rev-sc26")
    old = git(ground.root, "rev-parse", "rev-sc26")
    ground.publish()
    answer = stackyard("release", "--tag", "sc26", code=1)
    assert "this clone has a tag rev-sc26 that origin has not" in answer.out
    assert git(ground.root, "rev-parse", "rev-sc26") == old


def over_http(ground: Ground, url: str) -> None:
    git(ground.origin, "config", "http.receivepack", "true")
    git(ground.root, "remote", "set-url", "origin", url)


def test_an_answer_that_is_lost_after_the_push(stackyard: Stackyard, ground: Ground) -> None:
    """The remote is asked, and has it."""
    with serve_git(ground.folder) as server:
        over_http(ground, server.url("origin.git"))
        server.losing = 1
        answer = stackyard("release", "--tag", "sc26")
    assert "and origin has rev-sc26 all the same" in answer.err
    assert ground.tags() == ["rev-sc26"]
    assert git(ground.root, "tag") == "rev-sc26"


def test_a_connection_that_is_lost_after_the_push(stackyard: Stackyard, ground: Ground) -> None:
    """Nobody can be asked then; the same command finds the tag, and goes on."""
    with serve_git(ground.folder) as server:
        over_http(ground, server.url("origin.git"))
        server.losing, server.gone = 1, True
        answer = stackyard("release", "--tag", "sc26", code=5)
        assert "whether origin has it nobody knows" in answer.err
        assert "run the same command again" in answer.err
        assert git(ground.root, "tag") == ""
        server.failing = 0
        again = json.loads(stackyard("release", "--tag", "sc26", "--json").out)
    assert (again["state"], again["gates"]) == ("released", [])
    assert ground.tags() == ["rev-sc26"]
    assert git(ground.root, "tag") == "rev-sc26"  # for git show


def test_another_tag_of_this_clone_is_left_alone(stackyard: Stackyard, ground: Ground) -> None:
    stackyard("release", "--tag", "sc26")
    assert "this clone has another" not in stackyard("release", "--tag", "sc26").err
    git(ground.root, "tag", "--force", "rev-sc26", "HEAD")
    again = stackyard("release", "--tag", "sc26")
    assert "this clone has another rev-sc26" in again.err
    assert git(ground.root, "cat-file", "-t", "rev-sc26") == "commit"


def test_a_tag_is_remembered_whatever_the_hash_function(ground: Ground) -> None:
    for kind in ("sha1", "sha256"):
        there = ground.folder / kind
        git(ground.folder, "init", "--quiet", f"--object-format={kind}", str(there))
        git(there, "commit", "--quiet", "--allow-empty", "--message=x")
        commit = git(there, "rev-parse", "HEAD")
        made = git_release.make_tag(there, "a", commit, "x\n")
        assert git(there, "tag") == ""
        assert git_release.remember_tag(there, "a", made)
        assert not git_release.remember_tag(there, "a", commit)
        assert git(there, "rev-parse", "refs/tags/a") == made


@needs_gpg
def test_a_tag_is_signed_where_git_signs_tags(
    stackyard: Stackyard, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = Signer()
    try:
        monkeypatch.setenv("GNUPGHOME", str(signer.home))
        key = signer.key("Rel Ease <rel@example.org>")
        for name, value in (("tag.gpgSign", "true"), ("user.signingKey", key)):
            git(ground.root, "config", name, value)
        stackyard("release", "--tag", "sc26")
        git(ground.root, "verify-tag", "rev-sc26")
        again = stackyard("release", "--tag", "sc26")
        assert "origin has rev-sc26 already, at this commit" in again.err
        monkeypatch.setenv("GNUPGHOME", str(ground.folder))  # without the key
        ground.publish()
        answer = stackyard("release", "--tag", "sc27", code=5)
        assert "git tag failed" in answer.err
        assert ground.tags() == ["rev-sc26"]
        assert git(ground.root, "tag") == "rev-sc26"
    finally:
        signer.close()


def test_no_password_of_a_remote_is_shown(stackyard: Stackyard, ground: Ground) -> None:
    git(ground.root, "remote", "set-url", "origin", "http://me:never-shown@127.0.0.1:9/x.git")
    answer = stackyard("release", "--tag", "sc26", code=1)
    assert "the remote does not answer" in answer.out
    assert "never-shown" not in answer.out + answer.err


def test_what_is_fetched_elsewhere_than_pushed(stackyard: Stackyard, ground: Ground) -> None:
    """The place that gets the tag is the one that counts."""
    git(ground.folder, "clone", "--quiet", "--bare", str(ground.origin), "other.git")
    git(ground.root, "remote", "set-url", "--push", "origin", str(ground.folder / "other.git"))
    stackyard("release", "--tag", "sc26")
    assert ground.tags() == []
    assert git(ground.folder / "other.git", "tag") == "rev-sc26"
    git(ground.folder / "other.git", "tag", "rev-sc27", "main")
    answer = stackyard("release", "--tag", "sc27", code=1)
    assert "rev-sc27 already, at this commit, and no release made it" in answer.out


PROGRAM = [sys.executable, "-c", "from stackyard.main import main; main()"]


def test_a_release_that_is_ended_while_it_pushes(stackyard: Stackyard, ground: Ground) -> None:
    """By a CI system, or by Ctrl-C; git's hook is the moment."""
    ending = hook(ground.root / ".git", "pre-push", "kill -TERM $(ps -o ppid= -p $PPID); sleep 20")
    with (ground.folder / "stderr").open("w+") as stderr:  # the hook keeps it open
        done = subprocess.run(
            [*PROGRAM, "release", "--tag", "sc26"],
            cwd=ground.root,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            check=False,
        )
        stderr.seek(0)
        words = stderr.read()
    assert done.returncode == 1, words
    assert "stopped while rev-sc26 was pushed: origin has it, or not" in words
    assert "run the same command again" in words
    ground.nothing_tagged()
    ending.unlink()
    stackyard("release", "--tag", "sc26")
    assert ground.tags() == ["rev-sc26"]


def test_a_release_that_is_ended_while_it_asks(ground: Ground) -> None:
    """What it found so far is told."""
    script = ground.folder / "serve"
    script.write_text("#!/bin/sh\nkill -TERM $RELEASE\nsleep 20\n")
    script.chmod(0o755)
    git(ground.root, "config", "remote.origin.uploadpack", str(script))
    run = f"RELEASE=$$; export RELEASE; exec {shlex.join(PROGRAM)} release --tag sc26 --json"
    with (ground.folder / "stderr").open("w+") as stderr:  # the script keeps it open
        done = subprocess.run(
            ["sh", "-c", run],
            cwd=ground.root,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            check=False,
        )
    assert done.returncode == 1
    assert json.loads(done.stdout)["state"] == "open"
    ground.nothing_tagged()


def second_clone(ground: Ground) -> Path:
    clone = ground.folder / "second"
    git(ground.folder, "clone", "--quiet", str(ground.origin), str(clone))
    return clone


@pytest.mark.parametrize("same", [True, False])
def test_two_releases_at_once(ground: Ground, *, same: bool) -> None:
    """Both have found the name free, and push at the same moment: one of them wins."""
    clones = [ground.root, second_clone(ground)]
    if not same:  # somebody pushes to the branch between the two
        ground.publish()
        git(clones[1], "fetch", "--quiet")
    meeting = ground.folder / "meeting"
    meeting.mkdir()
    for number, clone in enumerate(clones):
        here, there = meeting / str(number), meeting / str(1 - number)
        wait = f"n=0; while [ ! -e '{there}' ] && [ $n -lt 600 ]; do sleep 0.05; n=$((n+1)); done"
        hook(clone / ".git", "pre-push", f"touch '{here}'\n{wait}")
    skip = [] if same else ["--skip", "branch"]
    argv = [*PROGRAM, "release", "--tag", "sc26", *skip]
    same_second = {"GIT_COMMITTER_DATE": "1800000000 +0000"}  # and yet not the same tag
    env = {**os.environ, "PYTHONPATH": str(ROOT), **same_second}
    runs = [
        subprocess.Popen(
            argv, cwd=clone, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for clone in clones
    ]
    ends = [(run.communicate(timeout=120), run.returncode) for run in runs]
    assert sorted(code for _, code in ends) == [0, 1], ends
    winner, loser = (next(i for i, (_, code) in enumerate(ends) if code == n) for n in (0, 1))
    words = ends[loser][0][1]
    assert "somebody else made rev-sc26 at the same time" in words
    assert ("at the same commit" in words) == same
    assert ground.tags() == ["rev-sc26"]
    key = git(ground.origin, "rev-parse", "rev-sc26")
    assert git(clones[winner], "rev-parse", "rev-sc26") == key
    assert git(clones[loser], "tag") == ""
    again = subprocess.run(
        argv, cwd=clones[loser], env=env, capture_output=True, text=True, check=False
    )
    assert again.returncode == (0 if same else 1), again.stderr
    assert git(ground.origin, "rev-parse", "rev-sc26") == key


# -- the image ------------------------------------------------------------------------------


def test_a_release_ends_when_the_registry_shows_it(
    stackyard: Stackyard, ground: Ground, registry: str
) -> None:
    """Debian's registry."""
    there = imaged(ground, stackyard, registry)
    digest = there.hub.push("sc26", there.labels)
    told = json.loads(stackyard("release", "--tag", "sc26", "--json").out)
    assert told["state"] == "released"
    shown = f"{registry}/owner/stack:sc26"
    assert told["images"] == [{"stack": "tiny", "image": shown, "digest": digest}]


def push_base(host: str) -> str:
    """A small base in a registry: its name, with the digest."""
    manifest, blobs = base_images.blobs()
    store = OciStore(f"oci+http://{host}/base", ANONYMOUS, sleep=lambda _: None)
    for data in blobs:
        store.write(described(data, "").blob.key, data)
    store.write(manifest_key("1"), manifest)
    store.close()
    return f"{host}/base:1@{base_images.digest(manifest)}"


@needs_gpg
def test_from_a_signed_mirror_to_an_image_that_is_built_of_the_tag(
    stackyard: Stackyard, signed: Ground, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The builder is the remote itself: it sees the tag, and clones it."""
    monkeypatch.setenv("STACKYARD_CACHE", str(signed.folder / "cache"))
    repository = f"{registry}/{signed.folder.name.replace('_', '-')}/image"
    signed.set(image={"base": push_base(registry), "repository": repository})
    stackyard("generate")
    signed.publish()
    clone = signed.folder / "builder"
    build = shlex.join([*PROGRAM, "image.build", "--no-engine", "--push", "--tag", "sc26"])
    hook(
        signed.origin,
        "post-receive",
        f"unset GIT_DIR; export PYTHONPATH='{ROOT}'\n"
        f"git clone --quiet --branch rev-sc26 . '{clone}' && cd '{clone}' && {build}",
    )
    told = json.loads(stackyard("release", "--tag", "sc26", "--wait", "0.001", "--json").out)
    assert told["state"] == "released"
    others = {gate["name"]: gate["state"] for gate in told["gates"] if gate["state"] != "passed"}
    assert others == {"pipeline": "not configured"}
    (image,) = told["images"]
    assert image["image"] == f"{repository}:sc26"
    assert git(clone, "rev-parse", "HEAD") == signed.commit


def test_an_image_for_several_platforms(
    stackyard: Stackyard, ground: Ground, fake: FakeRegistry
) -> None:
    there = imaged(ground, stackyard, fake.host)
    digest = there.hub.push("sc26", there.labels, there.labels, {})
    answer = stackyard("release", "--tag", "sc26")
    assert f"{fake.host}/owner/stack:sc26: there, {digest}" in answer.err


def test_a_registry_that_never_shows_it(
    stackyard: Stackyard, ground: Ground, fake: FakeRegistry
) -> None:
    """The tag stays, and the same command goes on waiting: no gate is asked again."""
    there = imaged(ground, stackyard, fake.host)
    answer = stackyard("release", "--tag", "sc26", "--wait", "0.001", "--json", code=6)
    assert json.loads(answer.out)["state"] == "tagged"
    assert "the tag is pushed, and after 0 min the image is not there" in answer.err
    assert f"{fake.host}/owner/stack:sc26: not there yet" in answer.err
    assert "the same command at this commit goes on waiting" in answer.err
    tag = git(ground.origin, "rev-parse", "rev-sc26")
    there.hub.push("sc26", there.labels)
    shutil.rmtree(ground.mirror)
    again = stackyard("release", "--tag", "sc26")
    assert "origin has rev-sc26 already, at this commit" in again.err
    assert git(ground.origin, "rev-parse", "rev-sc26") == tag


@pytest.mark.parametrize("what", ["commit", "lock", "nothing"])
def test_another_image_has_the_tag(
    stackyard: Stackyard, ground: Ground, fake: FakeRegistry, what: str
) -> None:
    there = imaged(ground, stackyard, fake.host)
    wrong = {
        "commit": {**there.labels, REVISION_LABEL: "e" * 40},
        "lock": {**there.labels, LOCK_LABEL: "sha256:0"},
        "nothing": {},
    }[what]
    there.hub.push("sc26", wrong)
    answer = stackyard("release", "--tag", "sc26", "--wait", "0.001", code=6)
    words = "it has no org." if what == "nothing" else f"it is of another {what}"
    assert f"another image has the tag: {words}" in answer.err


def test_a_registry_that_denies(stackyard: Stackyard, ground: Ground, fake: FakeRegistry) -> None:
    imaged(ground, stackyard, fake.host)
    fake.fault = lambda _: Fault(401)
    answer = stackyard("release", "--tag", "sc26", "--wait", "0.001", code=6)
    assert "is a login missing (docker login)?" in answer.err
    assert ground.tags() == ["rev-sc26"]


def test_nobody_waits(stackyard: Stackyard, ground: Ground, fake: FakeRegistry) -> None:
    there = imaged(ground, stackyard, fake.host)
    answer = stackyard("release", "--tag", "sc26", "--wait", "0")
    assert f"nobody waits for {there.hub.host}/owner/stack:sc26" in answer.err
    assert fake.asked == []


def target(hub: Hub, tag: str = "sc26") -> Target:
    return Target("tiny", hub.name, tag, "c" * 40, DIGEST)


RIGHT = {REVISION_LABEL: "c" * 40, LOCK_LABEL: DIGEST}


def test_an_image_that_comes_while_we_wait(
    fake: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    """First an old one has the tag, which is read once; the clock is ours."""
    hub, now, found = Hub(fake.host), [0.0], list[Published]()
    hub.push("sc26", {})

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] == 1500:
            hub.push("sc26", RIGHT)

    patience = Patience(every_s=30, timeout_s=3600)
    follow_images([target(hub)], patience, sleep=sleep, clock=lambda: now[0], found=found.append)
    assert [one.target.shown for one in found] == [f"{fake.host}/owner/stack:sc26"]
    lines = capsys.readouterr().err.splitlines()
    times = [line.partition("]")[0] for line in lines]
    assert times == ["[0 min", "[10 min", "[20 min", "[25 min"]  # a sign of life now and then
    assert fake.methods("/manifests/").count("GET") == 2


def test_ctrl_c_while_we_wait(fake: FakeRegistry) -> None:
    def sleep(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(StackyardError, match="no longer followed; the tag is pushed") as caught:
        follow_images([target(Hub(fake.host))], Patience(), sleep=sleep)
    assert caught.value.code == 1
    assert "goes on waiting" in caught.value.hint


def test_of_two_images_one_comes(fake: FakeRegistry) -> None:
    hub, found = Hub(fake.host), list[Published]()
    hub.push("a", RIGHT)
    with pytest.raises(NotFoundError, match="stack:b: not there yet") as caught:
        follow_images(
            [target(hub, "a"), target(hub, "b")], Patience(timeout_s=0), found=found.append
        )
    assert [one.target.tag for one in found] == ["a"]
    assert "stack:a" not in str(caught.value)


def test_a_registry_that_is_away_for_a_while(fake: FakeRegistry) -> None:
    hub, rounds, found = Hub(fake.host), [0], list[Published]()
    hub.push("sc26", RIGHT)
    fake.fault = lambda _: Fault(404) if rounds[0] else Fault(403)

    def sleep(_: float) -> None:
        rounds[0] += 1
        if rounds[0] == 2:
            fake.fault = lambda _: None

    follow_images([target(hub)], Patience(), sleep=sleep, found=found.append)
    assert (rounds[0], len(found)) == (2, 1)


def test_a_registry_that_does_not_answer(fake: FakeRegistry) -> None:
    fake.fault = lambda _: Fault(500)
    with pytest.raises(UnreachableError, match="nobody knows"):
        follow_images([target(Hub(fake.host))], Patience(timeout_s=0), sleep=lambda _: None)
