"""``invoke release``: what each gate says, and what it takes to shut it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator

import pytest
from conftest import ROOT, Answer, Project, Stackyard
from fake_gitlab import FakeGitLab, fake_gitlab
from releases import BASE, IDENTITY, Ground, git, key_manifest, sha256
from signing import needs_gpg

from stackyard.release import GATES, parse_message

TOKEN = "glpat-never-to-be-seen"


def states(answer: Answer) -> dict[str, str]:
    """By the gate's name, with the stack's before it."""
    return {
        f"{gate['stack']}: {gate['name']}" if gate["stack"] else gate["name"]: gate["state"]
        for gate in json.loads(answer.out)["gates"]
    }


class Shut:
    """A gate that is shut, and the only one."""

    def __init__(self, answer: Answer) -> None:
        data = json.loads(answer.out)
        assert data["state"] == "blocked"
        self.answer = answer
        (gate,) = [gate for gate in data["gates"] if gate["state"] == "failed"]
        self.name, self.reason = gate["name"], gate["reason"]
        self.hint, self.missing = gate["hint"], gate["missing"]
        assert "nothing was tagged" in answer.err


@pytest.fixture
def shut(stackyard: Stackyard, ground: Ground) -> Callable[..., Shut]:
    """What the dry run finds; the release itself finds it too, and tags nothing."""

    def ask(*arguments: str, tag: str = "sc26") -> Shut:
        before, here = ground.tags(), git(ground.root, "tag")
        found = Shut(stackyard("release", "--tag", tag, "--dry-run", "--json", *arguments, code=1))
        again = Shut(stackyard("release", "--tag", tag, "--json", *arguments, code=1))
        assert again.reason == found.reason
        assert (ground.tags(), git(ground.root, "tag")) == (before, here)
        return found

    return ask


# -- the way through ------------------------------------------------------------------------


def test_a_dry_run_says_what_is_open_and_tags_nothing(stackyard: Stackyard, ground: Ground) -> None:
    answer = stackyard("release", "--tag", "sc26", "--dry-run")
    assert "passed         tiny: binaries: all 7 are on " in answer.out
    assert "not configured pipeline: settings name no gitlab.project" in answer.out
    assert "Release sc26\n\ntiny: 7 specs, the first release\n  + root tiny-app\n" in answer.out
    assert "all gates are open; nothing was tagged" in answer.err
    ground.nothing_tagged()
    assert git(ground.root, "status", "--porcelain") == ""
    told = json.loads(stackyard("release", "--tag", "sc26", "--dry-run", "--json").out)
    assert (told["state"], told["tag"], told["commit"]) == ("ready", "rev-sc26", ground.commit)
    assert [gate["state"] for gate in told["gates"]].count("passed") == 6
    assert told["notes"].startswith("Release sc26\n")


def test_a_release_pushes_its_tag_and_nothing_else(stackyard: Stackyard, ground: Ground) -> None:
    """Whatever git is told to push along."""
    git(ground.root, "config", "push.followTags", "true")
    git(ground.root, "config", "push.recurseSubmodules", "only")
    git(ground.root, "tag", "--annotate", "--message=x", "mine")
    answer = stackyard("release", "--tag", "sc26")
    assert "pushed rev-sc26 to origin" in answer.err
    assert ground.tags() == ["rev-sc26"]
    assert git(ground.root, "rev-parse", "rev-sc26") == git(ground.origin, "rev-parse", "rev-sc26")
    head = git(ground.origin, "cat-file", "tag", "rev-sc26").splitlines()
    assert head[0] == f"object {ground.commit}"
    assert head[3].startswith("tagger Rel Ease <rel@example.org> ")
    record = parse_message(ground.message("rev-sc26"))
    assert record
    assert record.locks == {"tiny": ground.lock_digest}
    assert (record.previous, record.skipped) == ("", ())


def test_the_next_release_tells_what_changed(stackyard: Stackyard, ground: Ground) -> None:
    stackyard("release", "--tag", "sc25")
    lock = json.loads((ground.root / "stacks/tiny/spack.lock").read_text())
    lock["roots"] = [root for root in lock["roots"] if root["spec"] != "tiny-data+extra"]
    ground.project.write("stacks/tiny/spack.lock", lock)
    manifest = (ground.root / "stacks/tiny/spack.yaml").read_text()
    ground.project.write("stacks/tiny/spack.yaml", manifest.replace("  - tiny-data+extra\n", ""))
    ground.publish()
    told = json.loads(stackyard("release", "--tag", "sc26", "--json").out)
    assert (told["state"], told["previous"]) == ("released", "rev-sc25")
    again = json.loads(stackyard("release", "--tag", "sc26", "--json").out)
    assert (again["previous"], again["notes"]) == ("rev-sc25", told["notes"])
    message = ground.message("rev-sc26")
    assert "changed since rev-sc25\n" in message
    assert "\n  - root tiny-data+extra\n" in message
    assert "\nPrevious-Release: rev-sc25\n" in message


def test_the_last_release_is_the_nearest_below(stackyard: Stackyard, ground: Ground) -> None:
    """Not one of another line, nor one that only the remote knows a commit of."""
    stackyard("release", "--tag", "a1")
    git(ground.root, "switch", "--quiet", "--create", "side")
    git(ground.root, "commit", "--quiet", "--allow-empty", "--message=side")
    git(ground.root, "tag", "rev-z9")
    git(ground.root, "push", "--quiet", "origin", "rev-z9")
    git(ground.root, "switch", "--quiet", "main")
    ground.publish()
    git(ground.root, "tag", "--delete", "rev-a1")  # the remote's count
    told = json.loads(stackyard("release", "--tag", "a2", "--dry-run", "--json").out)
    assert told["previous"] == "rev-a1"


def test_each_stack_is_compared_with_its_own_last_release(
    stackyard: Stackyard, ground: Ground
) -> None:
    """Releases of single stacks lie between."""
    ground.stack("other")
    ground.publish()
    stackyard("release", "--tag", "a1")
    lock = json.loads((ground.root / "stacks/other/spack.lock").read_text())
    del lock["roots"][0]
    ground.project.write("stacks/other/spack.lock", lock)
    ground.publish()
    stackyard("release", "--tag", "a2", "--stack", "tiny")
    ground.stack("newest")
    ground.publish()
    skip = [part for gate in ("lock", "binaries") for part in ("--skip", gate)]
    told = json.loads(stackyard("release", "--tag", "a3", "--dry-run", "--json", *skip).out)
    lines = told["notes"].splitlines()
    assert "tiny: 7 specs, the same since rev-a2" in lines
    assert "other: 7 specs, changed since rev-a1" in lines
    assert "newest: 7 specs, not in rev-a2" in lines
    assert told["previous"] == "rev-a2"
    alone = stackyard("release", "--tag", "a3", "--dry-run", "--json", "--stack", "other", *skip)
    assert json.loads(alone.out)["previous"] == "rev-a1"


def test_tags_of_others_are_fetched_at_once(stackyard: Stackyard, ground: Ground) -> None:
    """A clone that never fetched tags, and a stack that none of them has."""
    for name in ("a1", "a2", "a3"):
        stackyard("release", "--tag", name)
    ground.stack("newest")
    ground.publish()
    clone = ground.folder / "clone"
    git(ground.folder, "clone", "--quiet", "--no-tags", ground.origin.as_uri(), str(clone))
    log = ground.folder / "asked"
    script = ground.folder / "serve"
    script.write_text(f"#!/bin/sh\necho x >> '{log}'\nexec git-upload-pack \"$@\"\n")
    script.chmod(0o755)
    git(clone, "config", "remote.origin.uploadpack", str(script))
    git(clone, "config", "protocol.version", "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(clone)
        told = json.loads(stackyard("release", "--tag", "a4", "--dry-run", "--json").out)
    assert told["previous"] == "rev-a3"
    assert log.read_text() == "x\nx\n"  # what it has, and the tags
    assert git(clone, "tag") == ""


def test_the_lock_of_the_last_release_cannot_be_read(stackyard: Stackyard, ground: Ground) -> None:
    lock = ground.root / "stacks/tiny/spack.lock"
    whole = lock.read_text()
    lock.write_text("{}")
    ground.publish()
    git(ground.root, "tag", "rev-old")
    git(ground.root, "push", "--quiet", "origin", "rev-old")
    lock.write_text(whole)
    ground.publish()
    answer = stackyard("release", "--tag", "new", "--dry-run")
    assert "the lock of the last release cannot be compared with: rev-old:stacks/" in answer.err
    assert "tiny: 7 specs, and nothing to compare with in rev-old\n" in answer.out


def test_a_clone_without_history(
    stackyard: Stackyard, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not know the last release, and does not call this one the first."""
    clone = ground.folder / "shallow"
    argv = ("clone", "--quiet", "--depth=1", ground.origin.as_uri(), str(clone))
    git(ground.folder, *argv)
    monkeypatch.chdir(clone)
    assert states(stackyard("release", "--tag", "a0", "--dry-run", "--json"))["tag"] == "passed"
    monkeypatch.chdir(ground.root)
    stackyard("release", "--tag", "a1")
    ground.publish()
    git(clone, "fetch", "--quiet", "--depth=1")
    git(clone, "reset", "--quiet", "--hard", "origin/main")
    monkeypatch.chdir(clone)
    answer = stackyard("release", "--tag", "a2", code=1)
    assert "this clone is shallow, so that nobody knows what changed" in answer.out
    assert "GIT_DEPTH: 0" in answer.out
    assert ground.tags() == ["rev-a1"]
    git(clone, "fetch", "--quiet", "--unshallow")
    assert '"previous": "rev-a1"' in stackyard("release", "--tag", "a2", "--json").out


def test_several_stacks(stackyard: Stackyard, ground: Ground) -> None:
    ground.stack("other", ground.folder / "nowhere")
    ground.publish()
    answer = stackyard("release", "--tag", "sc26", "--dry-run", "--json", code=1)
    found = states(answer)
    assert found["tiny: binaries"] == "passed"
    assert found["other: lock"] == "passed"
    assert [found[f"other: {gate}"] for gate in ("binaries", "index")] == ["failed", "failed"]
    stackyard("release", "--tag", "sc26", "--stack", "tiny")
    record = parse_message(ground.message("rev-sc26"))
    assert record
    assert list(record.locks) == ["tiny"]
    ground.set(release={"stacks": ["tiny"]})
    stackyard("release", "--tag", "sc27")
    answer = stackyard("release", "--tag", "sc28", "--stack", "other", code=2)
    assert "not one of release.stacks" in answer.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--tag: what is it called?"),
        (["--tag", "x", "--stack", "tyni"], "unknown stack 'tyni'"),
        (["--tag", "x", "--skip", "indx"], "did you mean 'index'?"),
        (["--tag", "x", "--skip", "tag"], "the gate tag cannot be skipped"),
        (["--tag", "x", "--wait", "soon"], "'soon' are no minutes"),
    ],
)
def test_wrong_arguments(
    stackyard: Stackyard, ground: Ground, arguments: list[str], words: str
) -> None:
    assert words in stackyard("release", *arguments, code=2).err


def test_settings_that_name_no_stack(stackyard: Stackyard, ground: Ground) -> None:
    ground.set(release={"stacks": ["tinny"]})
    answer = stackyard("release", "--tag", "x", code=2)
    assert "invoke.yaml: stackyard.release.stacks: unknown stack 'tinny'" in answer.err


def test_settings_that_name_no_good_prefix(stackyard: Stackyard, ground: Ground) -> None:
    """Told before anything is read, and by a dry run too."""
    ground.set(release={"prefix": "rev*"})
    answer = stackyard("release", "--tag", "x", "--dry-run", code=2)
    assert "stackyard.release.prefix: no tag of git can begin with 'rev*'" in answer.err
    assert answer.out == ""


def test_outside_of_git(stackyard: Stackyard, project: Project) -> None:
    project.write("stacks/a/spack.yaml", {"spack": {"specs": []}})
    assert "is in no git repository" in stackyard("release", "--tag", "x", code=2).err


# -- gates that are shut --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["new", "changed", "staged"])
def test_gate_clean(ground: Ground, shut: Callable[..., Shut], kind: str) -> None:
    if kind == "new":
        ground.project.write("notes.txt", "x")
    else:
        ground.project.write("invoke.yaml", "stackyard: {}\n# x\n")
    if kind == "staged":
        git(ground.root, "add", "--all")
        git(ground.root, "restore", "--worktree", "--source=HEAD", ".")
    found = shut()
    assert (found.name, found.reason) == ("clean", "changed or new: 1 path")
    assert found.missing == ["notes.txt" if kind == "new" else "invoke.yaml"]


def test_gate_branch_not_pushed(ground: Ground, shut: Callable[..., Shut]) -> None:
    git(ground.root, "commit", "--quiet", "--allow-empty", "--message=x")
    found = shut()
    assert (found.name, found.reason) == ("branch", "origin lacks 1 commit of main")
    assert "git push origin main" in found.hint


def test_gate_branch_behind_and_apart(ground: Ground, shut: Callable[..., Shut]) -> None:
    other = ground.folder / "other"
    git(ground.folder, "clone", "--quiet", str(ground.origin), str(other))
    git(other, "commit", "--quiet", "--allow-empty", "--message=theirs")
    git(other, "push", "--quiet", "origin", "main")
    assert shut().reason == "origin has commits on main that are not here"
    git(ground.root, "fetch", "--quiet")
    assert shut().reason == "origin is 1 commit further on main"
    git(ground.root, "commit", "--quiet", "--allow-empty", "--message=ours")
    assert shut().reason == "main here and on origin went apart, by 1 and 1 commits"


def test_gate_branch_another_one(
    stackyard: Stackyard, ground: Ground, shut: Callable[..., Shut]
) -> None:
    git(ground.root, "switch", "--quiet", "--create", "work")
    found = shut()
    assert found.reason == "work is checked out, and releases come from main"
    git(ground.root, "switch", "--quiet", "--detach", "main")  # as CI systems do
    assert states(stackyard("release", "--tag", "x", "--dry-run", "--json"))["branch"] == "passed"
    ground.settings = {"release": {"branch": "stable"}}
    git(ground.root, "switch", "--quiet", "main")
    ground.publish()
    assert shut().reason == "origin has no branch stable"


def test_gate_branch_of_a_remote_without_branches(
    stackyard: Stackyard, ground: Ground, shut: Callable[..., Shut]
) -> None:
    git(ground.folder, "init", "--quiet", "--bare", "--initial-branch=main", "empty.git")
    git(ground.root, "remote", "set-url", "origin", str(ground.folder / "empty.git"))
    assert shut().reason == "origin does not say what its default branch is"


def test_a_branch_with_a_path_and_a_project_in_a_folder(
    stackyard: Stackyard, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project need not be the whole repository."""
    below = ground.root / "deep" / "er"
    below.mkdir(parents=True)
    for name in ("stacks", "invoke.yaml"):
        shutil.move(ground.root / name, below / name)
    (below / "invoke.yaml").write_text("stackyard: {release: {branch: releases/2026}}\n")
    git(ground.root, "switch", "--quiet", "--create", "releases/2026")
    git(ground.root, "add", "--all")
    git(ground.root, "commit", "--quiet", "--message=x")
    git(ground.root, "push", "--quiet", "origin", "releases/2026")
    monkeypatch.chdir(below)
    stackyard("release", "--tag", "sc26")
    told = json.loads(stackyard("release", "--tag", "sc27", "--dry-run", "--json").out)
    assert (told["previous"], told["state"]) == ("rev-sc26", "ready")
    assert "the same since rev-sc26" in told["notes"]


def test_a_remote_that_git_does_not_know(stackyard: Stackyard, ground: Ground) -> None:
    ground.set(release={"remote": "upstream"})
    answer = stackyard("release", "--tag", "x", "--dry-run", "--json", code=1)
    assert "git knows no remote 'upstream'" in answer.out
    assert "name another in invoke.yaml (origin)" in answer.out
    found = states(answer)
    assert (found["branch"], found["tag"]) == ("failed", "failed")


def test_a_remote_that_does_not_answer(stackyard: Stackyard, ground: Ground) -> None:
    ground.origin.rename(ground.folder / "away")
    answer = stackyard("release", "--tag", "x", "--json", code=1)
    found = states(answer)
    assert (found["branch"], found["tag"]) == ("failed", "failed")
    assert "the remote does not answer" in answer.out
    assert json.loads(answer.out)["notes"] == ""  # nobody knows what the last release was


def test_a_remote_is_asked_once(stackyard: Stackyard, ground: Ground) -> None:
    """One that is far away takes minutes to say nothing."""
    log = ground.folder / "asked"
    script = ground.folder / "serve"
    script.write_text(f"#!/bin/sh\necho x >> '{log}'\nexit 1\n")
    script.chmod(0o755)
    git(ground.root, "config", "remote.origin.uploadpack", str(script))
    found = states(stackyard("release", "--tag", "x", "--json", code=1))
    assert (found["branch"], found["tag"]) == ("failed", "failed")
    assert log.read_text() == "x\n"


def test_a_remote_that_is_several_places(ground: Ground, stackyard: Stackyard) -> None:
    """One of them could take the tag, and another not."""
    for place in (ground.origin, ground.folder / "other.git"):
        git(ground.root, "remote", "set-url", "--add", "--push", "origin", str(place))
    answer = stackyard("release", "--tag", "sc26", code=1)
    assert "git pushes to 2 places as origin" in answer.out
    ground.nothing_tagged()


def test_gate_tag_names(ground: Ground, shut: Callable[..., Shut]) -> None:
    assert "comes by itself" in shut(tag="rev-sc26").reason
    assert "cannot be the tag of an image" in shut(tag="a b").reason
    assert "image of the branch" in shut(tag="latest").reason


def test_gate_tag_taken(stackyard: Stackyard, ground: Ground, shut: Callable[..., Shut]) -> None:
    stackyard("release", "--tag", "sc26")
    told = json.loads(stackyard("release", "--tag", "sc26", "--dry-run", "--json").out)
    assert (told["state"], told["previous"]) == ("ready", "")  # asked anew, and not its own past
    assert "already, at this commit, made by a release" in str(told["gates"])
    old = ground.commit
    ground.publish()
    found = shut()
    assert (found.name, found.reason) == ("tag", f"origin has rev-sc26 already, at {old[:12]}")


@pytest.mark.parametrize("kind", [[], ["--annotate", "--message=by hand"]])
def test_gate_tag_made_by_hand(ground: Ground, shut: Callable[..., Shut], kind: list[str]) -> None:
    """At this commit, but no gate was ever asked."""
    git(ground.root, "tag", *kind, "rev-sc26")
    assert shut().reason == "this clone has a tag rev-sc26 that origin has not"
    git(ground.root, "push", "--quiet", "origin", "rev-sc26")
    reason = "origin has rev-sc26 already, at this commit, and no release made it"
    assert shut().reason == reason
    git(ground.root, "tag", "--delete", "rev-sc26")
    assert shut().reason == reason


def test_gate_tag_of_other_stacks(
    ground: Ground, stackyard: Stackyard, shut: Callable[..., Shut]
) -> None:
    """What a release of one stack proved says nothing of the others."""
    ground.stack("other")
    ground.publish()
    stackyard("release", "--tag", "sc26", "--stack", "tiny")
    found = shut()
    assert found.reason.endswith("at this commit, made by a release without other")
    assert "this one is of --stack tiny" in found.hint
    again = stackyard("release", "--tag", "sc26", "--stack", "tiny")
    assert "origin has rev-sc26 already, at this commit" in again.err


def test_gate_tag_of_a_branch(ground: Ground, shut: Callable[..., Shut]) -> None:
    git(ground.root, "push", "--quiet", "origin", "main:rev-sc26")
    assert shut().reason.startswith("origin has a branch rev-sc26")


def test_gate_tag_nobody_to_make_it(
    ground: Ground, shut: Callable[..., Shut], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in IDENTITY if name.endswith(("_NAME", "_EMAIL"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "user.useConfigOnly")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "true")
    assert shut().reason == "git does not know who makes the tag"


CI = "  ci: {target: gitlab, pipeline-gen: [{any-job: {tags: [a], image: b}}]}\n"


def test_gate_generated(stackyard: Stackyard, ground: Ground, shut: Callable[..., Shut]) -> None:
    manifest = (ground.root / "stacks/tiny/spack.yaml").read_text()
    ground.project.write("stacks/tiny/spack.yaml", manifest + CI)
    ground.publish()
    found = shut()
    assert (found.name, found.missing) == ("generated", [".gitlab-ci.yml"])
    stackyard("generate")
    ground.publish()
    assert (
        states(stackyard("release", "--tag", "x", "--dry-run", "--json"))["generated"] == "passed"
    )
    old = ".github/workflows/stackyard-build.yml"  # which the settings do not ask for
    ground.project.write(old, "# stackyard\n")
    ground.publish()
    found = shut()
    assert (found.name, found.missing) == ("generated", [old])


@pytest.fixture
def gitlab(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGitLab]:
    with fake_gitlab() as server:
        server.tokens[TOKEN] = {"read_api"}
        server.project(members={TOKEN})
        monkeypatch.setenv("GITLAB_TOKEN", TOKEN)
        ground.set(gitlab={"url": server.url, "project": "group/project"})
        yield server
        assert server.breaches == []


def test_gate_pipeline(
    stackyard: Stackyard,
    ground: Ground,
    gitlab: FakeGitLab,
    shut: Callable[..., Shut],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = gitlab.projects[0]
    gitlab.pipeline(there, sha="0" * 40, status="success")
    assert shut().reason == f"GitLab ran none for {ground.commit[:12]}"
    first = gitlab.pipeline(there, sha=ground.commit, status="running")
    assert shut().reason == f"pipeline {first.id} of main is running"
    first.status = "success"
    gitlab.pipeline(there, sha=ground.commit, ref="pr-1", status="failed")
    told = json.loads(stackyard("release", "--tag", "x", "--dry-run", "--json").out)
    (gate,) = [one for one in told["gates"] if one["name"] == "pipeline"]
    assert (gate["state"], gate["reason"]) == ("passed", f"pipeline {first.id} of main succeeded")
    last = gitlab.pipeline(there, sha=ground.commit, status="failed")
    found = shut()
    assert found.reason == f"pipeline {last.id} of main failed"
    assert f"/pipelines/{last.id}" in found.hint
    assert TOKEN not in found.answer.out + found.answer.err
    monkeypatch.setenv("CI_PIPELINE_ID", str(last.id))  # the release is a job of it
    assert states(stackyard("release", "--tag", "x", "--dry-run", "--json"))["pipeline"] == "passed"


def test_gate_pipeline_unknown(
    ground: Ground, gitlab: FakeGitLab, shut: Callable[..., Shut], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITLAB_TOKEN")
    found = shut()
    assert found.name == "pipeline"
    assert "set GITLAB_TOKEN" in found.hint


def test_gate_image(stackyard: Stackyard, ground: Ground, shut: Callable[..., Shut]) -> None:
    def wanted(**image: str) -> None:
        ground.set(image=image)
        stackyard("generate")
        ground.publish()

    wanted(base="debian:12")
    found = shut()
    assert (found.name, found.hint) == ("image", "run: invoke image.pin, and commit it")
    wanted(base=BASE)
    told = json.loads(stackyard("release", "--tag", "x", "--dry-run", "--json").out)
    (gate,) = [one for one in told["gates"] if one["name"] == "image"]
    assert gate["state"] == "passed"
    wanted(base=BASE, repository="example.com/a:1")
    assert "neither tag nor digest" in shut().reason


def test_gate_image_of_two_stacks(
    stackyard: Stackyard, ground: Ground, shut: Callable[..., Shut]
) -> None:
    ground.stack("zweiter")
    ground.set(image={"base": BASE, "repository": "example.com/a"})
    stackyard("generate")
    ground.publish()
    assert shut().reason == "example.com/a:sc26 would be the image of tiny as well"


def test_gate_lock(stackyard: Stackyard, ground: Ground, shut: Callable[..., Shut]) -> None:
    manifest = (ground.root / "stacks/tiny/spack.yaml").read_text()
    asks = manifest.replace("  - tiny-app\n", "  - tiny-app\n  - tiny-new\n")
    ground.project.write("stacks/tiny/spack.yaml", asks)
    ground.publish()
    answer = stackyard("release", "--tag", "x", "--dry-run", "--json", code=1)
    found = states(answer)
    assert found["tiny: lock"] == "failed"
    assert "tiny-new" in answer.out
    assert found["tiny: binaries"] == "failed"  # of which roots, nobody knows
    told = stackyard("release", "--tag", "x", "--skip", "lock", "--json", "--dry-run")
    assert states(told)["tiny: lock"] == "skipped"
    assert states(told)["tiny: binaries"] == "passed"


def test_gate_lock_not_committed(ground: Ground, shut: Callable[..., Shut]) -> None:
    """Git passes it over, so that the tree is clean."""
    git(ground.root, "rm", "--quiet", "--cached", "stacks/tiny/spack.lock")
    ground.project.write(".gitignore", "spack.lock\n")
    ground.publish()
    found = shut()
    assert (found.name, found.reason) == ("lock", "stacks/tiny/spack.lock is not in the commit")


def test_gate_lock_changed(ground: Ground, stackyard: Stackyard, shut: Callable[..., Shut]) -> None:
    path = ground.root / "stacks/tiny/spack.lock"
    path.write_bytes(path.read_bytes() + b"\n")
    found = shut("--skip", "clean")
    assert found.reason == "stacks/tiny/spack.lock is not as it was committed"


def test_gate_lock_of_another_spack(ground: Ground, shut: Callable[..., Shut]) -> None:
    pin = {"repo": "https://example.org/spack", "ref": "v1", "commit": "d" * 40}
    ground.project.write("stacks/tiny/pins.yaml", {"spack": pin})
    ground.publish()
    found = shut()
    assert found.name == "lock"
    assert found.reason.startswith("stacks/tiny/pins.yaml: the lock was made by Spack ")
    assert found.hint == "run: invoke lock --stack tiny"


@pytest.mark.parametrize("there", [True, False])
def test_gate_lock_is_a_link(ground: Ground, shut: Callable[..., Shut], *, there: bool) -> None:
    """Git keeps where it points, so that the digest would be another one than the image's."""
    lock = ground.root / "stacks/tiny/spack.lock"
    target = (ground.root if there else ground.folder) / "locked.json"
    lock.rename(target)
    lock.symlink_to(target)
    ground.publish()
    assert shut().reason.startswith("stacks/tiny/spack.lock is a link")


def test_gate_binaries_missing(ground: Ground, shut: Callable[..., Shut]) -> None:
    for name in ("tiny-app", "tiny-lib"):
        shutil.rmtree(ground.mirror / "v3/manifests/spec" / name)
    found = shut()
    assert found.name == "binaries"
    assert found.reason.startswith("3 of 7 missing on file://")
    assert "tiny: 3 of 7 are missing; reading " in found.answer.err  # before the reading
    assert sorted(name.partition("/")[0] for name in found.missing) == [
        "tiny-app@1.1",
        "tiny-lib@1.0",
        "tiny-lib@1.1",
    ]
    assert all(name.endswith(": missing") for name in found.missing)


def test_gate_binaries_of_a_working_copy(ground: Ground, shut: Callable[..., Shut]) -> None:
    """Nobody can have the binary of what was built from somebody's own files."""
    lock = json.loads((ground.root / "stacks/tiny/spack.lock").read_text())
    (node,) = [one for one in lock["concrete_specs"].values() if one["name"] == "tiny-app"]
    node["parameters"]["dev_path"] = "/home/somebody/tiny"
    ground.project.write("stacks/tiny/spack.lock", lock)
    ground.publish()
    found = shut()
    assert found.name == "binaries"
    assert found.reason.startswith("1 of ")
    assert found.missing[0].startswith("tiny-app@1.1/")


@needs_gpg
def test_gates_of_an_empty_mirror(stackyard: Stackyard, signed: Ground) -> None:
    """Nothing is wrong with nothing, and it proves nothing."""
    shutil.rmtree(signed.mirror / "v3/manifests/spec")
    answer = stackyard("release", "--tag", "x", "--json", "--skip", "binaries", code=1)
    found = states(answer)
    assert (found["tiny: signatures"], found["tiny: index"]) == ("failed", "failed")


@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_gate_binaries_broken(ground: Ground, shut: Callable[..., Shut], how: str) -> None:
    record = json.loads(ground.manifest("tiny-app").read_text())["data"]
    checksum = record[0]["checksum"]
    blob = ground.mirror / "blobs/sha256" / checksum[:2] / checksum
    data = blob.read_bytes()
    blob.unlink()
    if how != "gone":
        blob.write_bytes(data[:-1] + (b"" if how == "cut" else b"x"))
    found = shut()
    assert found.name == "binaries"
    assert found.reason.startswith("1 fault on ")
    assert found.missing[0].startswith("tiny-app@1.1/")


@pytest.mark.usefixtures("hurried")
def test_gate_binaries_of_a_mirror_that_is_not_there(stackyard: Stackyard, ground: Ground) -> None:
    answer = stackyard(
        "release", "--tag", "x", "--mirror", "http://127.0.0.1:9/m", "--json", "--dry-run", code=1
    )
    gates = json.loads(answer.out)["gates"]
    reasons = {gate["name"]: gate["reason"] for gate in gates if gate["stack"]}
    assert "127.0.0.1:9" in reasons["binaries"]
    assert reasons["index"] == reasons["key"] == "nobody knows, see above"


@needs_gpg
def test_gate_signatures(stackyard: Stackyard, signed: Ground, shut: Callable[..., Shut]) -> None:
    answer = stackyard("release", "--tag", "x", "--dry-run", "--json")
    found = states(answer)
    assert (found["tiny: signatures"], found["tiny: key"]) == ("passed", "passed")
    path = signed.manifest("tiny-app")
    whole = path.read_text()
    path.write_text(
        whole.replace("2.2", "2.3", 1) if "2.2" in whole else whole.replace("\n=", "\n=A", 1)
    )
    bad = shut()
    assert (bad.name, bad.reason) == ("signatures", "1 of 7 do not hold")
    assert bad.missing[0].startswith("tiny-app@1.1/")


@needs_gpg
def test_gate_signatures_without_keys(stackyard: Stackyard, signed: Ground) -> None:
    shutil.rmtree(signed.root / "stacks/tiny/keys")
    signed.publish()
    answer = stackyard("release", "--tag", "x", "--json", code=1)
    found = states(answer)
    assert (found["tiny: signatures"], found["tiny: key"]) == ("failed", "failed")
    assert "stacks/NAME/keys/" in answer.out
    assert "--unsigned" not in answer.out


@needs_gpg
def test_gate_signatures_nothing_is_signed(ground: Ground, shut: Callable[..., Shut]) -> None:
    """The mirror's entry says nothing of that, or that it should be."""
    ground.signed = True
    ground.stack("tiny")
    ground.publish()
    found = shut("--skip", "key")
    assert (found.name, found.reason) == ("signatures", "7 of 7 do not hold")


@pytest.mark.parametrize("how", ["lacks", "none", "broken"])
def test_gate_index(ground: Ground, shut: Callable[..., Shut], how: str) -> None:
    manifest = ground.mirror / "v3/manifests/index/index.manifest.json"
    document = json.loads(manifest.read_text())
    if how == "none":
        manifest.unlink()
        assert shut().reason == "the mirror has none"
        return
    checksum = document["data"][0]["checksum"]
    blob = ground.mirror / "blobs/sha256" / checksum[:2] / checksum
    index = json.loads(blob.read_bytes())
    for entry in index["database"]["installs"].values():
        if entry["spec"]["name"] == "tiny-app":
            entry["in_buildcache"] = False
    data = json.dumps(index).encode() if how == "lacks" else b"{}"
    document["data"][0] |= {"checksum": sha256(data)[7:], "contentLength": len(data)}
    new = ground.mirror / "blobs/sha256" / sha256(data)[7:9] / sha256(data)[7:]
    new.parent.mkdir(exist_ok=True)
    new.write_bytes(data)
    manifest.write_text(json.dumps(document))
    found = shut()
    assert found.name == "index"
    if how == "lacks":
        assert found.reason == "it lacks 1 that are there"
        assert found.missing[0].startswith("tiny-app@1.1/")


@needs_gpg
@pytest.mark.parametrize("how", ["gone", "unlisted", "another"])
def test_gate_key(signed: Ground, shut: Callable[..., Shut], how: str) -> None:
    manifest = key_manifest(signed)
    keys = signed.mirror / "v3/manifests/key"
    if how == "gone":
        shutil.rmtree(keys)
    elif how == "unlisted":
        next(path for path in keys.iterdir() if path != manifest).unlink()
    else:
        data = b"no key\n"
        document = json.loads(manifest.read_text())
        document["data"][0] |= {"checksum": sha256(data)[7:], "contentLength": len(data)}
        blob = signed.mirror / "blobs/sha256" / sha256(data)[7:9] / sha256(data)[7:]
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(data)
        manifest.write_text(json.dumps(document))
    found = shut()
    assert found.name == "key"
    words = {"gone": "not there", "unlisted": "list of keys", "another": "another key"}
    assert words[how] in found.missing[0]
    assert "invoke keys.publish --stack tiny" in found.hint


@needs_gpg
def test_gate_key_where_nobody_looks_at_signatures(
    signed: Ground, shut: Callable[..., Shut]
) -> None:
    shutil.rmtree(signed.mirror / "v3/manifests/key")
    assert shut("--skip", "signatures").reason == "the mirror has no public key"


@needs_gpg
def test_gate_key_of_the_image(
    stackyard: Stackyard, signed: Ground, shut: Callable[..., Shut]
) -> None:
    """Whoever builds the image has what is committed, and nothing else."""
    keys = signed.folder / "keys"
    shutil.move(signed.root / "stacks/tiny/keys", keys)
    signed.publish()
    stackyard("release", "--tag", "x", "--dry-run", "--keys", str(keys))
    signed.set(image={"base": BASE})
    stackyard("generate")
    signed.publish()
    found = shut("--keys", str(keys))
    assert found.name == "key"
    assert "the image is built with the keys of the repository" in found.reason


def test_what_is_skipped_is_loud_and_recorded(stackyard: Stackyard, ground: Ground) -> None:
    shutil.rmtree(ground.mirror / "v3/manifests/spec/tiny-app")
    (ground.mirror / "v3/manifests/index/index.manifest.json").unlink()
    answer = stackyard("release", "--tag", "sc26", "--skip", "binaries", "--skip", "index")
    assert "warning: THE GATE binaries IS SKIPPED" in answer.err
    assert "SKIPPED        tiny: index: nobody looked, because of --skip" in answer.out
    assert "NOT PROVEN: the gates binaries, index were skipped." in ground.message("rev-sc26")
    record = parse_message(ground.message("rev-sc26"))
    assert record
    assert record.skipped == ("binaries", "index")


def test_all_gates_of_the_mirror_skipped(stackyard: Stackyard, ground: Ground) -> None:
    """Then the mirror is not even asked."""
    shutil.rmtree(ground.mirror)
    skips = [
        part for gate in ("binaries", "signatures", "index", "key") for part in ("--skip", gate)
    ]
    stackyard("release", "--tag", "sc26", *skips)
    assert ground.tags() == ["rev-sc26"]


def test_all_gates_of_a_stack_skipped(stackyard: Stackyard, ground: Ground) -> None:
    """The tag tells all the same what it is of, and what nobody looked at."""
    of_stack = ("lock", "binaries", "signatures", "index", "key")
    stackyard("release", "--tag", "sc26", *(p for gate in of_stack for p in ("--skip", gate)))
    record = parse_message(ground.message("rev-sc26"))
    assert record
    assert record.skipped == tuple(sorted(of_stack))
    assert record.locks == {"tiny": ground.lock_digest}
    again = stackyard("release", "--tag", "sc26")
    assert "rev-sc26 was made without the gates binaries, index, key" in again.err


def test_what_cannot_be_told_of_is_not_tagged(stackyard: Stackyard, ground: Ground) -> None:
    """However many gates are skipped: there would be nothing in the message."""
    ground.project.write("stacks/tiny/spack.lock", "{}")
    ground.publish()
    of_stack = ("lock", "binaries", "signatures", "index", "key")
    skips = [part for gate in of_stack for part in ("--skip", gate)]
    answer = stackyard("release", "--tag", "sc26", *skips, code=2)
    assert "stacks/tiny/spack.lock" in answer.err
    ground.nothing_tagged()


def test_the_page_explains_all_gates() -> None:
    """In the order in which they are asked."""
    page = (ROOT / "docs" / "release.md").read_text()
    assert re.findall(r"^\| `([a-z]+)` \|", page, re.MULTILINE) == [*GATES]
