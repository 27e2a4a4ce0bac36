"""The gates of a release: each asks git, a mirror or GitLab, and gives its answer as a value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stackyard.edges import git, git_release
from stackyard.edges.git_release import Remote, Tag
from stackyard.edges.stacks import list_stacks
from stackyard.errors import ConfigError, StackyardError, StaleError
from stackyard.flow.release_mirror import OF_MIRROR, StackMirror
from stackyard.flow.steps import Project, Request, Work, load_work, read_stack, work_of
from stackyard.image_names import ImageName, parse_image_name
from stackyard.release import (
    Gate,
    Record,
    counted,
    judge_pipeline,
    newest_pipeline,
    parse_message,
    parse_pipelines,
    tag_problem,
)
from stackyard.settings import Settings

if TYPE_CHECKING:
    from stackyard.edges.stores.access import Place

__all__ = ["Aim", "Gates", "image_target"]

_WORKERS = 16
_SHOWN = 20


class Aim(NamedTuple):
    """What is to be released: a name, the commit, and of which stacks.

    ``tag`` is the name with its prefix; ``repository`` is the root of git's. ``mirror`` and
    ``keys`` are what the arguments say, ``skips`` the gates that are not asked.
    """

    project: Project
    settings: Settings
    repository: Path
    name: str
    commit: str
    stacks: tuple[str, ...]
    skips: frozenset[str] = frozenset()
    mirror: str = ""
    keys: str = ""

    @property
    def tag(self) -> str:
        return f"{self.settings.release.prefix}{self.name}"


class Gates:
    """Asks all of them, one after the other."""

    def __init__(self, aim: Aim) -> None:
        self.aim = aim
        self._works: dict[str, Work] = {}
        self._repositories: dict[str, str] = {}  # of images, with the stack that has each

    def ask(self) -> Iterator[Gate]:
        """Every gate's answer; an error of ours is one, too."""
        steps: tuple[tuple[str, Callable[[], Gate]], ...] = (
            ("clean", self._clean),
            ("branch", self._branch),
            ("tag", self._tag),
            ("generated", self._generated),
            ("pipeline", self._pipeline),
        )
        for name, step in steps:
            yield self._asked(name, step)
        for stack in self.aim.stacks:
            yield self._asked("image", lambda stack=stack: self._image(stack), stack)  # type: ignore[misc]
            yield self._asked("lock", lambda stack=stack: self._lock(stack), stack)  # type: ignore[misc]
            yield from self._mirror(stack)

    def _asked(self, name: str, step: Callable[[], Gate], stack: str = "") -> Gate:
        if name in self.aim.skips:
            return Gate(name, "skipped", "nobody looked, because of --skip", stack=stack)
        try:
            return step()._replace(stack=stack)
        except StackyardError as error:
            return _refused(name, error, stack)

    @property
    def remote(self) -> Remote:
        """What the remote has. Raises StackyardError."""
        if isinstance(self._answer, StackyardError):
            raise self._answer
        return self._answer

    @cached_property
    def _answer(self) -> Remote | StackyardError:
        """Asked once: one that does not answer takes minutes to say so."""
        wanted = self.aim.settings.release
        try:
            return git_release.ask_remote(self.aim.repository, wanted.remote, wanted.prefix)
        except StackyardError as error:
            return error

    # -- of the project -----------------------------------------------------------------------

    def _clean(self) -> Gate:
        paths = git_release.unclean(self.aim.repository)
        if not paths:
            return Gate("clean", "passed", "the working tree is as it was committed")
        return Gate(
            "clean",
            "failed",
            f"changed or new: {counted(len(paths), 'path')}",
            "commit them, or let .gitignore name what is only for this machine",
            missing=_few(paths),
        )

    def _branch(self) -> Gate:
        aim, name = self.aim, self.aim.settings.release.remote
        branch = aim.settings.release.branch or self.remote.default
        there = self.remote.branches.get(branch)
        if not branch:
            return Gate(
                "branch",
                "failed",
                f"{name} does not say what its default branch is",
                "name it in invoke.yaml: release: {branch: main}",
            )
        if there is None:
            return Gate("branch", "failed", f"{name} has no branch {branch}", "push it first")
        here = git.current_branch(aim.project.root)
        if here not in ("", branch):  # CI systems check a commit out, and no branch
            return Gate(
                "branch",
                "failed",
                f"{here} is checked out, and releases come from {branch}",
                f"git switch {branch}",
            )
        if there == aim.commit:
            return Gate("branch", "passed", f"{aim.commit[:12]} is {branch} on {name}")
        return self._apart(branch, there)

    def _apart(self, branch: str, there: str) -> Gate:
        name = self.aim.settings.release.remote
        counts = git_release.distance(self.aim.repository, self.aim.commit, there)
        if counts is None:
            reason, hint = f"{name} has commits on {branch} that are not here", "git pull"
        elif not counts[1]:
            reason = f"{name} lacks {counted(counts[0], 'commit')} of {branch}"
            hint = f"push them, and wait for their pipeline: git push {name} {branch}"
        elif not counts[0]:
            further = counted(counts[1], "commit")
            reason, hint = f"{name} is {further} further on {branch}", "git pull"
        else:
            reason = (
                f"{branch} here and on {name} went apart, by {counts[0]} and {counts[1]} commits"
            )
            hint = "bring them together first"
        return Gate("branch", "failed", reason, hint)

    def _tag(self) -> Gate:
        aim, name = self.aim, self.aim.settings.release.remote
        if problem := tag_problem(aim.name, aim.settings.release.prefix):
            return Gate("tag", "failed", problem, "choose another: --tag NAME")
        if there := self.remote.tags.get(aim.tag):
            return self._taken(there)
        if aim.tag in self.remote.branches:
            text = f"{name} has a branch {aim.tag}, and git could not tell which of them is meant"
            return Gate("tag", "failed", text, "choose another: --tag NAME")
        if git_release.local_tag(aim.repository, aim.tag) and not self.is_leftover():
            return Gate(
                "tag",
                "failed",
                f"this clone has a tag {aim.tag} that {name} has not",
                f"if nobody needs it: git tag -d {aim.tag}",
            )
        _ = self.lasts
        who = git_release.committer(aim.repository)
        return Gate("tag", "passed", f"{aim.tag} is free, and {who} can make it")

    def _taken(self, there: Tag) -> Gate:
        aim, record = self.aim, self.released()
        reason = f"{aim.settings.release.remote} has {aim.tag} already, at "
        hint = "choose another name: what was published stays as it is"
        if there.commit != aim.commit:
            reason += there.commit[:12]
            hint += ". To wait for the image of that release, check its commit out first"
        elif record is None:
            reason += "this commit, and no release made it"
        elif others := [stack for stack in aim.stacks if stack not in record.locks]:
            reason += f"this commit, made by a release without {', '.join(others)}"
            hint += f"; this one is of --stack {' --stack '.join(record.locks)}"
        else:
            return Gate("tag", "passed", f"{reason}this commit, made by a release")
        return Gate("tag", "failed", reason, hint)

    def released(self) -> Record | None:
        """What the release wrote that made the remote's tag, if there is one at this commit."""
        aim = self.aim
        there = self.remote.tags.get(aim.tag)
        if there is None or there.commit != aim.commit:
            return None
        self._fetch({aim.tag: there})
        return self._record(there)

    def _fetch(self, tags: Mapping[str, Tag]) -> None:
        git_release.fetch_tags(self.aim.repository, self.aim.settings.release.remote, tags)

    def _record(self, tag: Tag) -> Record | None:
        return parse_message(git_release.message_of(self.aim.repository, tag))

    @cached_property
    def lasts(self) -> Mapping[str, str]:
        """The tag of each stack's last release, the latest one first; empty if there was none.

        That is the latest tag which the commit comes from: one of a release of this stack, or one
        that somebody made by hand. Raises ConfigError where the clone has too little history.
        """
        aim = self.aim
        tags = {name: tag for name, tag in self.remote.tags.items() if name != aim.tag}
        found: dict[str, str] = {}
        below = self._below(tags)
        self._fetch({name: tags[name] for name in below})
        for name in below:
            record = self._record(tags[name])
            for stack in aim.stacks:
                if record is None or stack in record.locks:
                    found.setdefault(stack, name)
            if len(found) == len(aim.stacks):
                return found
        if tags and git.is_shallow(aim.repository):
            raise ConfigError(
                "this clone is shallow, so that nobody knows what changed since the last release",
                where=aim.settings.release.remote,
                hint="git fetch --unshallow; in CI fetch all of it (GitLab: GIT_DEPTH: 0, "
                "actions/checkout: fetch-depth: 0)",
            )
        return found | {stack: "" for stack in aim.stacks if stack not in found}

    def _below(self, tags: Mapping[str, Tag]) -> Sequence[str]:
        """Tags of the commits that ours comes from, the latest first."""
        commits = {tag.commit for tag in tags.values()}
        order = git_release.below(self.aim.repository, self.aim.commit, commits) if tags else ()
        place = {commit: number for number, commit in enumerate(order)}
        names = sorted(tags, key=lambda name: (len(name), name), reverse=True)
        here = [name for name in names if tags[name].commit in place]
        return sorted(here, key=lambda name: place[tags[name].commit])

    def is_leftover(self) -> bool:
        """Whether the tag of this clone was made by a release of this commit that was killed."""
        aim = self.aim
        here = git_release.local_tag(aim.repository, aim.tag)
        if here is None or here.commit != aim.commit:
            return False
        return self._record(here) is not None

    def _generated(self) -> Gate:
        from stackyard.flow.generate import is_fresh, project_files
        from stackyard.flow.workflows import leftover_workflows

        project = self.aim.project
        files, parent = project_files(project), project.root / ".gitlab-ci.yml"
        stacks = (read_stack(project, name)[0] for name in list_stacks(project.root))
        if not parent.is_file() and not any(stack.has_ci for stack in stacks):
            files = {path: data for path, data in files.items() if path != parent}
        leftover = leftover_workflows(project)
        if not files and not leftover:
            return Gate("generated", "not configured", "no stack has a ci section")
        wrong = [path for path, data in files.items() if not is_fresh(path, data)]
        stale = [project.shown(path) for path in (*wrong, *leftover)]
        if stale:
            return Gate(
                "generated",
                "failed",
                "files are not what stacks and settings ask for",
                "run: invoke generate, and commit them",
                missing=tuple(stale),
            )
        shown = ", ".join(project.shown(path) for path in files)
        return Gate("generated", "passed", f"up to date: {shown}")

    def _pipeline(self) -> Gate:
        from stackyard.edges.gitlab import GitLab, project_path
        from stackyard.trigger import server_url

        aim, place = self.aim, self.aim.settings.gitlab
        if not place.project:
            return Gate("pipeline", "not configured", "settings name no gitlab.project")
        env = aim.project.env
        token = env.get("GITLAB_TOKEN", "") or env.get("GITLAB_PRIVATE_TOKEN", "")
        gitlab = GitLab(server_url(place.url), token)
        path = f"{project_path(str(place.project))}/pipelines"
        found = parse_pipelines(gitlab.pages(path, sha=aim.commit), aim.commit, path)
        branch = aim.settings.release.branch or self.remote.default
        newest = newest_pipeline(found, branch, env.get("CI_PIPELINE_ID", ""))
        return judge_pipeline(newest, aim.commit)

    # -- of a stack ---------------------------------------------------------------------------

    def _image(self, name: str) -> Gate:
        stack, settings = read_stack(self.aim.project, name)
        if not settings.image.base:
            return Gate("image", "not configured", "settings name no image.base")
        base = parse_image_name(settings.image.base, f"{stack.folder}: image.base")
        if not base.digest:
            return Gate(
                "image",
                "failed",
                f"{settings.image.base} has no digest, so nobody knows what it will be",
                "run: invoke image.pin, and commit it",
            )
        if not settings.image.repository:
            return Gate(
                "image", "passed", f"begins with {base.digest[:19]}; no image.repository to look at"
            )
        target = image_target(settings, name)
        other = self._repositories.setdefault(target.url, name)
        if other != name:
            return Gate(
                "image",
                "failed",
                f"{target.written}:{self.aim.name} would be the image of {other} as well",
                "give each stack an image.repository of its own, or release one: --stack NAME",
            )
        shown = f"{target.written}:{self.aim.name}"
        return Gate("image", "passed", f"{shown} begins with {base.digest[:19]}")

    def _lock(self, name: str) -> Gate:
        from stackyard.flow.locks import check_pins

        work = self.work(name)
        shown = self.aim.project.shown(work.lock_path)
        aim = self.aim
        if work.lock_path.is_symlink():
            text = f"{shown} is a link: the commit says where it points, and not what it is"
            return Gate("lock", "failed", text, "put the file itself there, and commit it")
        if git.file_at(aim.repository, aim.commit, work.lock_path) is None:
            return Gate(
                "lock", "failed", f"{shown} is not in the commit", f"git add --force {shown}"
            )
        place = work.lock_path.resolve().relative_to(aim.repository.resolve()).as_posix()
        if place in git.changed_files(aim.repository, aim.commit):
            return Gate("lock", "failed", f"{shown} is not as it was committed", "commit it first")
        check_pins(work)
        count = f"{len(work.lock.specs)} specs answer {work.stack.where}"
        return Gate("lock", "passed", count)

    def work(self, name: str) -> Work:
        """The stack with its lock; where nobody asks whether they fit, with all roots of the lock."""
        if name not in self._works:
            try:
                self._works[name] = load_work(self.aim.project, Request(stack=name))
            except StaleError:
                if "lock" not in self.aim.skips:
                    raise
                self._works[name] = _unfit_work(self.aim.project, name)
        return self._works[name]

    def _mirror(self, name: str) -> Iterator[Gate]:
        wanted = [gate for gate in OF_MIRROR if gate not in self.aim.skips]
        if not wanted:
            yield from (self._asked(gate, _never, name) for gate in OF_MIRROR)
            return
        try:
            work = self.work(name)
            place = self._place(work)
            store = place.open()
        except StackyardError as error:
            yield from self._unknown(name, error)
            return
        with closing(store):
            try:
                mirror = StackMirror(work, place, store, self.aim.keys, self.aim.skips)
            except StackyardError as error:
                yield from self._unknown(name, error)
                return
            for gate, step in mirror.steps().items():
                yield self._asked(gate, step, name)

    def _unknown(self, name: str, error: StackyardError) -> Iterator[Gate]:
        """Nobody can say anything of the mirror: told whole once."""
        told = False
        for gate in OF_MIRROR:
            answer = self._asked(gate, lambda: _raised(error), name)
            if told and not answer.open:
                answer = answer._replace(reason="nobody knows, see above", hint="")
            told = told or not answer.open
            yield answer

    def _place(self, work: Work) -> Place:
        from stackyard.flow.fetch import source_place
        from stackyard.flow.places import Locked

        asked = Locked(work.project, work.stack, work.settings, work.lock, work.roots)
        return source_place(asked, self.aim.mirror)


def image_target(settings: Settings, stack: str) -> ImageName:
    """Where the stack's image is pushed to. Raises ConfigError for what is no repository."""
    where = f"{stack}: image.repository"
    found = parse_image_name(settings.image.repository, where)
    if found.tag or found.digest:
        raise ConfigError(
            "the repository must have neither tag nor digest",
            where=where,
            hint=f"write {found.written}",
        )
    return found


def _unfit_work(project: Project, name: str) -> Work:
    stack, settings = read_stack(project, name)
    path = project.root / stack.folder / "spack.lock"
    return work_of(
        project,
        stack,
        settings,
        path,
        lambda lock: tuple(dict.fromkeys(root.hash for root in lock.roots)),
    )


def _refused(name: str, error: StackyardError, stack: str) -> Gate:
    reason = f"{error.where}: {error.message}" if error.where else error.message
    return Gate(name, "failed", reason, error.hint, stack=stack)


def _raised(error: StackyardError) -> Gate:
    raise error


def _never() -> Gate:
    raise AssertionError


def _few(names: Sequence[str]) -> tuple[str, ...]:
    more = (f"and {len(names) - _SHOWN} more",) if len(names) > _SHOWN else ()
    return (*names[:_SHOWN], *more)
