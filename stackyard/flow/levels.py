"""The builds of ``build``, level by level, and what has come of them at any time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from stackyard.building import (
    Outcome,
    Result,
    borrowed,
    build_levels,
    failed_need,
    log_name,
    telling_lines,
)
from stackyard.edges import console
from stackyard.edges.interrupts import held, stoppable
from stackyard.edges.programs import Ended, Program
from stackyard.edges.settings import Environment
from stackyard.edges.spack import install_command, installed, mirror_entry, without_secrets
from stackyard.errors import StackyardError
from stackyard.fetch import DEVELOP
from stackyard.flow.borrowing import bring
from stackyard.flow.delivery import Delivery
from stackyard.plan import Action

if TYPE_CHECKING:
    from pathlib import Path

    from stackyard.binary import Binary
    from stackyard.edges.stores.store import WritableStore
    from stackyard.flow.ground import Ground
    from stackyard.lock import Spec

__all__ = ["Levels"]

#: A package is built here, and what it needs never: that is there, or comes from the mirror.
_BUILD = ("--use-buildcache", "package:never,dependencies:only", "--verbose")
_OVERWRITE = ("--overwrite", "--yes-to-all")
#: Mirrors that sources may come from: others want credentials, and no build gets any.
_OPEN = ("file://", "http://", "https://")
_STOPPED = "stopped before it was pushed"
_PASSED_OVER = "Spack passed it over: may it be redistributed?"
_AGAIN = "run this again: it goes on where it stopped"
_FIRST = {
    Action.BUILD: Result.OPEN,
    Action.REUSE: Result.REUSED,
    Action.UNAFFECTED: Result.REUSED,
    Action.EXTERNAL: Result.EXTERNAL,
}


class Levels:
    """One build under way; ``outcomes`` are by DAG hash."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._specs = ground.plan.lock.specs
        self._levels = build_levels(ground.plan)
        self._total = len(ground.plan.graph.needs)
        self._there: set[str] = set()  # in the install tree
        self._failed: dict[str, str] = {}  # as ``failed_need`` wants it
        self._unpushed: list[str] = []
        self._trouble: StackyardError | None = None
        self._begun = False
        self._done = 0
        decisions = ground.plan.decisions
        self.outcomes = {key: Outcome(_FIRST[one.action]) for key, one in decisions.items()}
        self._why_kept = _STOPPED if ground.options.push else ""

    def run(self, target: WritableStore | None) -> StackyardError | None:
        """Do it all; gives what went wrong beside packages that failed, once building has begun.

        Without a target nothing is pushed.
        Raises ConfigError, ToolError and StoreError for what is wrong before that.
        """
        mirrors = {
            name: {
                **mirror_entry(one.fetch, one.fetch_url, signed=one.signed)[0],
                "source": one.source and one.fetch_url.startswith(_OPEN),
                "binary": False,
            }
            for name, one in self._ground.work.stack.mirrors.items()
        }
        with self._ground.environment(mirrors, alone=False) as environment:
            try:
                with stoppable():
                    delivery = Delivery(self._ground, target, environment) if target else None
                    self._prepare(delivery, environment)
                    self._begun = True
                    self._climb(delivery, environment)
            except KeyboardInterrupt:
                stopped = StackyardError("stopped", hint=_AGAIN)
                if not self._begun:
                    raise stopped from None
                return stopped
            except StackyardError as error:
                if not self._begun:
                    raise
                return error
        return self._trouble or self._late()

    def _late(self) -> StackyardError | None:
        """What to say if the time was over before all was built."""
        rest = sum(one.result is Result.OPEN for one in self.outcomes.values())
        if not rest or not self._ground.is_over:
            return None
        text = f"the time is over, and {rest} of {self._total} packages are not built yet"
        return StackyardError(text, where="--stop-after", hint=_AGAIN)

    def _prepare(self, delivery: Delivery | None, environment: Path) -> None:
        ground = self._ground
        ground.watch.say(
            f"{ground.spack.program} looks at its tree; its first run reads all recipes: minutes"
        )
        if delivery:
            delivery.prepare(ground.plan.builds)
        self._there.update(installed(ground.spack, environment))
        todo = [key for level in self._levels for key in level if self._is_todo(key)]
        before = self._total - len(todo)
        ground.watch.say(
            f"{self._total} to build in {len(self._levels)} levels"
            + (f", {before} of them are built already" if before else "")
            + f"; tree: {ground.options.tree}; logs: {ground.options.logs}"
        )
        wanted = [key for key in borrowed(ground.plan, todo) if key not in self._there]
        brought = bring(ground, wanted)
        for key in wanted:
            size = brought.sizes_bytes.get(key)
            self.outcomes[key] = Outcome(Result.REUSED, size_bytes=size)
            self._there.add(key)
        for key, log in brought.logs.items():
            self._there.discard(key)
            why = "its binary could not be installed"
            self._fail(key, Outcome(Result.FAILED, why=why, log=str(log)), ())

    def _is_todo(self, key: str) -> bool:
        return self._ground.options.rebuild or key not in self._there

    def _climb(self, delivery: Delivery | None, environment: Path) -> None:
        if self._failed and self._ground.options.fail_fast:
            return
        for number, level in enumerate(self._levels, 1):
            self._ground.watch.say(f"level {number} of {len(self._levels)}")
            todo = [key for key in level if self._is_open(key)]
            go_on = self._install(todo, environment, f"level {number} of {len(self._levels)}")
            if delivery:
                self._deliver(delivery)
            if not go_on:
                return

    def _is_open(self, key: str) -> bool:
        """Whether it is to be built now; tells what becomes of it if it is not."""
        if not self._is_todo(key):
            self.outcomes[key] = Outcome(Result.KEPT, why=self._why_kept)
            self._unpushed.append(key)
            self._tell(key, "is built already")
            return False
        need = failed_need(self._specs[key], self._failed)
        if need:
            self._failed[key] = need
            why = f"needs {self._ground.name(need)}"
            self.outcomes[key] = Outcome(Result.SKIPPED, why=why)
            self._tell(key, f"skipped: {why}")
        return not need

    def _install(self, todo: Sequence[str], environment: Path, head: str) -> bool:
        """Build what nothing in the level waits for; whether to go on after that."""
        ground, options = self._ground, self._ground.options
        spack = without_secrets(ground.spack, Environment.snapshot().secrets())
        jobs = ("--jobs", str(options.jobs)) if options.jobs else ()

        def program(key: str) -> Program:
            again = _OVERWRITE if key in self._there else ()
            argv = install_command(spack, environment, [key], *_BUILD, *jobs, *again)
            log = options.logs / log_name(self._specs[key])
            return Program(key, argv, log, spack.variables)

        programs = {key: program(key) for key in todo}
        wanted = list(programs.values())
        with ground.running(wanted, at_once=options.at_once, head=head, timed=True) as events:
            for event in events:
                if not isinstance(event, Ended):
                    if not ground.watch.live:
                        ground.watch.say(f"  {ground.name(event.key)}: building")
                elif not self._ended(event, str(programs[event.key].log)) and options.fail_fast:
                    return False
        return not ground.is_over

    def _ended(self, event: Ended, log: str) -> bool:
        """Whether it was built."""
        key, seconds = event.key, event.seconds
        if event.code == 0:
            self._there.add(key)
            self._unpushed.append(key)
            self.outcomes[key] = Outcome(Result.KEPT, seconds, why=self._why_kept, log=log)
            self._tell(key, f"built, {seconds:.0f} s")
            return True
        said = telling_lines(event.lines)
        why = f"exit code {event.code}" if event.code > 0 else f"signal {-event.code}"
        self._fail(key, Outcome(Result.FAILED, seconds, why=why, log=log), said)
        return False

    def _fail(self, key: str, outcome: Outcome, said: Sequence[str]) -> None:
        self._failed[key] = key
        self.outcomes[key] = outcome
        lines = "".join(f"\n    {line}" for line in said)
        self._tell(key, f"FAILED, {outcome.why}; log: {outcome.log}{lines}")

    def _deliver(self, delivery: Delivery) -> None:
        """Push what is not pushed yet; what goes wrong then does not stop the building."""
        for key in self._unpushed:
            if self._specs[key].develop:
                self.outcomes[key] = self.outcomes[key]._replace(why=DEVELOP)
        specs = [self._specs[key] for key in self._unpushed if not self._specs[key].develop]
        if not specs:
            return
        # What is on the mirror has to be known as such, also if somebody stops us meanwhile.
        with held(self._wait):
            try:
                arrived, failure = delivery.push(specs, self._there)
            except StackyardError as error:
                arrived, failure = {}, error
            self._settle(specs, arrived, failure)
        if failure:
            console.warn(f"{failure}\n  what was not pushed is tried again after the next level")

    @staticmethod
    def _wait() -> None:
        console.note("this stops when what is being pushed is on the mirror")

    def _settle(
        self,
        specs: Sequence[Spec],
        arrived: Mapping[str, Binary],
        failure: StackyardError | None,
    ) -> None:
        """Note what has come of a push."""
        self._trouble = failure
        self._unpushed = []
        for one in specs:
            old = self.outcomes[one.hash]
            if one.hash in arrived:
                size = arrived[one.hash].tarball.size_bytes
                result = Result.PUSHED if old.seconds is None else Result.BUILT
                self.outcomes[one.hash] = old._replace(result=result, size_bytes=size, why="")
            elif failure:
                said = failure.message.rpartition("push failed:")[2].strip()
                why = f"push failed: {said.splitlines()[0]}"
                self.outcomes[one.hash] = old._replace(why=why)
                self._unpushed.append(one.hash)
            else:
                self.outcomes[one.hash] = old._replace(why=_PASSED_OVER)

    def _tell(self, key: str, text: str) -> None:
        """What has come of a package."""
        count = ""
        if key in self._ground.plan.graph.needs:
            self._done += 1
            count = f"[{self._done}/{self._total}] "
        self._ground.watch.say(f"  {count}{self._ground.name(key)}: {text}")
