"""What all parts of a ``build`` share: what is asked for, and how programs are run and watched."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stackyard.building import building_manifest
from stackyard.edges.concretizing import copied_environment
from stackyard.edges.programs import Beat, Ended, Program, Started, masking, run_side_by_side
from stackyard.edges.settings import Environment
from stackyard.edges.spack import Spack
from stackyard.edges.watching import Shown, Watch
from stackyard.fetch import spec_name

if TYPE_CHECKING:
    from stackyard.edges.stores.access import Place
    from stackyard.flow.steps import Work
    from stackyard.plan import Plan
    from stackyard.stack import Connection

__all__ = ["Goal", "Ground", "Options", "end_after"]


class Goal(NamedTuple):
    """The mirror: as the user named it, where to push to, and how to read from it."""

    text: str
    place: Place
    source: Place
    connection: Connection


class Options(NamedTuple):
    """How to build. ``jobs`` 0: as Spack likes; ``rebuild``: also what is there already.

    ``push`` and ``enter``: whether anything goes to the mirror, and whether into its index.
    ``end``: when building stops, as ``end_after`` tells; 0 for never.
    """

    tree: Path
    logs: Path
    jobs: int
    at_once: int
    rebuild: bool
    fail_fast: bool
    unsigned: bool
    keys: str
    push: bool = True
    enter: bool = True
    base_image: str = ""
    end: float = 0.0


def end_after(minutes: int) -> float:
    """The time in so many minutes, for ``Options.end``; 0 for 0."""
    return time.monotonic() + 60 * minutes if minutes else 0.0


class Ground(NamedTuple):
    """One build: the plan and its stack, the mirror, Spack, and who watches."""

    work: Work
    plan: Plan
    goal: Goal
    options: Options
    spack: Spack
    watch: Watch

    def name(self, key: str) -> str:
        """A spec by its hash, as people know it; anything else as it is."""
        return spec_name(self.plan.lock.specs[key]) if key in self.plan.lock.specs else key

    @property
    def is_over(self) -> bool:
        """Whether the time for building is."""
        return bool(self.options.end) and time.monotonic() >= self.options.end

    @contextmanager
    def environment(
        self, mirrors: Mapping[str, Mapping[str, object]], *, alone: bool
    ) -> Iterator[Path]:
        """A folder with the stack's lock, that installs into our tree; see ``building_manifest``."""
        work = self.work
        manifest = building_manifest(
            work.stack.text,
            work.stack.where,
            tree=str(self.options.tree),
            mirrors=mirrors,
            alone=alone,
        )
        with copied_environment(work.project.root, work.folder) as folder:
            (folder / "spack.yaml").write_text(manifest)
            (folder / "spack.lock").write_bytes(work.lock_bytes)
            yield folder

    @contextmanager
    def running(
        self,
        programs: Sequence[Program],
        *,
        at_once: int = 1,
        head: str = "",
        timed: bool = False,
    ) -> Iterator[Iterator[Started | Ended]]:
        """What happens while they run, but for the beats, which are shown; none runs on after it.

        ``timed``: until the time for building is over, whatever still runs then.
        """
        mask = masking(Environment.snapshot().secrets())
        events = run_side_by_side(programs, at_once=at_once, mask=mask, stopping=self._stopping)
        with closing(events):
            yield self._told(events, head, timed=timed)
        self.watch.wipe()

    def _stopping(self) -> None:
        self.watch.say("stopping what runs; Ctrl-C once more kills it")

    def _told(
        self, events: Iterator[Started | Ended | Beat], head: str, *, timed: bool
    ) -> Iterator[Started | Ended]:
        for event in events:
            if isinstance(event, Beat):
                shown = [Shown(self.name(one.key), one.seconds, one.line) for one in event.running]
                self.watch.show(shown, head)
                if timed and self.is_over:
                    return
            else:
                self.watch.wipe()
                yield event

    def run(self, name: str, argv: Sequence[str], log: str, env: Mapping[str, str]) -> Ended:
        """Run one program to its end; ``name`` is what it is shown as."""
        with self.running([Program(name, argv, self.options.logs / log, env)]) as events:
            return next(event for event in events if isinstance(event, Ended))
