"""Programs side by side, with real processes: what is told, what is logged, and that all end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from signing import _processes

from stackyard.edges.interrupts import held, stoppable
from stackyard.edges.programs import Beat, Ended, Program, Started, masking, run_side_by_side
from stackyard.errors import StackyardError, ToolError

QUICK = ((signal.SIGINT, 0.2), (signal.SIGTERM, 0.2), (signal.SIGKILL, 5.0))


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Program]:
    def make(key: str, code: str, **variables: str) -> Program:
        env: Mapping[str, str] = {**os.environ, **variables}
        argv = [sys.executable, "-u", "-c", code, str(tmp_path)]
        return Program(key, argv, tmp_path / f"{key}.txt", env)

    return make


def run(*programs: Program, at_once: int = 1, secrets: tuple[str, ...] = ()) -> list[object]:
    events = run_side_by_side(programs, at_once=at_once, mask=masking(secrets), beat_s=0.05)
    with closing(events):
        return [event for event in events if not isinstance(event, Beat)]


def test_what_is_told_and_logged(program: Callable[..., Program], tmp_path: Path) -> None:
    code = "import sys; print('one'); print('two', file=sys.stderr); print('three'); sys.exit(4)"
    started, ended = run(program("a", code))
    assert started == Started("a")
    assert isinstance(ended, Ended)
    assert (ended.key, ended.code, ended.lines) == ("a", 4, ("one", "two", "three"))
    assert 0 < ended.seconds < 60
    assert (tmp_path / "a.txt").read_text() == "one\ntwo\nthree\n"


def test_the_end_without_a_newline(program: Callable[..., Program], tmp_path: Path) -> None:
    _, ended = run(program("a", "print('10 %\\r50 %\\r100 %', end='')"))
    assert isinstance(ended, Ended)
    assert ended.lines == ("100 %",)
    assert (tmp_path / "a.txt").read_bytes() == b"10 %\r50 %\r100 %"


def test_much_is_said(program: Callable[..., Program], tmp_path: Path) -> None:
    """More than a pipe holds, in many lines and in one."""
    _, ended = run(
        program("a", "print('x' * 99 + '\\n', end='') or [print(n) for n in range(99999)]")
    )
    assert isinstance(ended, Ended)
    assert ended.lines[-1] == "99998"
    assert len(ended.lines) == 200
    assert (tmp_path / "a.txt").read_text().count("\n") == 100_000
    run(program("b", "print('y' * 1_000_000)"))
    assert (tmp_path / "b.txt").read_text() == "y" * 1_000_000 + "\n"


def test_secrets_are_hidden_however_they_come(
    program: Callable[..., Program], tmp_path: Path
) -> None:
    code = (
        "import os, sys, time\n"
        "for piece in ('a to', 'ken-123 here\\n', 'and line', '-one\\nline-two\\n'):\n"
        "    os.write(1, piece.encode()); time.sleep(0.1)\n"
    )
    _, ended = run(program("a", code), secrets=("token-123", "line-one\nline-two"))
    assert isinstance(ended, Ended)
    assert ended.lines == ("a *** here", "and ***", "***")
    assert (tmp_path / "a.txt").read_text() == "a *** here\nand ***\n***\n"


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_no_more_than_so_many_at_once(program: Callable[..., Program], at_once: int) -> None:
    programs = [program(f"p{n}", "import time; time.sleep(0.2)") for n in range(4)]
    running, most = 0, 0
    for event in run(*programs, at_once=at_once):
        running += 1 if isinstance(event, Started) else -1
        most = max(most, running)
    assert (running, most) == (0, min(at_once, 4))


def test_beats_tell_what_runs(program: Callable[..., Program]) -> None:
    one = program("a", "import time; print('compiling'); time.sleep(0.5)")
    events = run_side_by_side([one], at_once=1, mask=masking(()), beat_s=0.05)
    with closing(events):
        beats = [event for event in events if isinstance(event, Beat) and event.running]
    assert {run.key for beat in beats for run in beat.running} == {"a"}
    assert beats[-1].running[0].line == "compiling"
    seconds = [beat.running[0].seconds for beat in beats]
    assert seconds == sorted(seconds)


def test_a_child_that_lives_on_holds_nobody_up(
    program: Callable[..., Program], tmp_path: Path
) -> None:
    """It has the pipe as well; a program is at its end when it ends itself."""
    code = (
        "import subprocess, sys\n"
        "sleeper = [sys.executable, '-c', 'import time; time.sleep(600)', sys.argv[1]]\n"
        "print(subprocess.Popen(sleeper).pid)"
    )
    _, ended = run(program("a", code))
    assert isinstance(ended, Ended)
    assert ended.code == 0
    os.kill(int(ended.lines[0]), signal.SIGKILL)  # which fails if it is not there any more


@pytest.mark.parametrize(
    "deaf", ["", "signal.SIGINT", "signal.SIGINT signal.SIGTERM"], ids=["polite", "int", "deaf"]
)
def test_who_leaves_stops_them(program: Callable[..., Program], tmp_path: Path, deaf: str) -> None:
    """Whatever they ignore, and what they started too."""
    ignore = "".join(f"signal.signal({name}, signal.SIG_IGN)\n" for name in deaf.split())
    code = (
        f"import signal, subprocess, sys, time\n{ignore}"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', sys.argv[1]])\n"
        "print('ready')\ntime.sleep(600)"
    )
    events = run_side_by_side(
        [program("a", code)], at_once=1, mask=masking(()), beat_s=0.05, asking=QUICK
    )
    with closing(events):
        for event in events:
            if isinstance(event, Beat) and any(one.line == "ready" for one in event.running):
                break
    deadline = time.monotonic() + 10
    while _processes(str(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _processes(str(tmp_path)) == []
    assert (tmp_path / "a.txt").read_text().startswith("ready\n")


def test_what_cannot_be_run(program: Callable[..., Program], tmp_path: Path) -> None:
    one = program("a", "")._replace(argv=[str(tmp_path / "no-such-program")])
    with pytest.raises(ToolError, match="no-such-program: No such file"):
        run(one)
    (tmp_path / "file").touch()
    with pytest.raises(StackyardError, match="cannot write it") as error:
        run(program("b", "")._replace(log=tmp_path / "file" / "b.txt"))
    assert error.value.where == str(tmp_path / "file" / "b.txt")


# -- signals --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_stop_or_wait(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    told: list[str] = []

    def wait() -> None:
        with held(lambda: told.append("asked")):
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
            told.append("done")

    def stop() -> None:
        with stoppable():
            os.kill(os.getpid(), number)
            told.append("it went on")

    with pytest.raises(KeyboardInterrupt):
        wait()
    with pytest.raises(KeyboardInterrupt):
        stop()
    assert told == ["asked", "asked", "done"]
    assert signal.getsignal(number) is before


def test_a_failure_does_not_hide_that_somebody_stopped_us() -> None:
    def fail() -> None:
        with held(lambda: None):
            os.kill(os.getpid(), signal.SIGINT)
            raise StackyardError("the mirror is gone")

    with pytest.raises(KeyboardInterrupt):
        fail()


def test_nohup_stays_in_force() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
