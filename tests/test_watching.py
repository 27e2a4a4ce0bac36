"""What people see of long work, on a terminal and elsewhere."""

from __future__ import annotations

import pytest

from stackyard.edges.watching import Shown, Watch


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_heartbeat_where_there_is_no_terminal(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    doing = [Shown("hdf5@1.14/abcdefg", 3725.0, "[ 45%] Building CXX"), Shown("zlib", 5.0, "")]
    with Watch(live=False, heartbeat_s=60, clock=clock) as watch:
        watch.say("begun")
        for _ in range(59):
            clock.now += 1
            watch.show(doing, "level 1 of 2")
        assert capsys.readouterr().err == "begun\n"
        clock.now += 1
        watch.show(doing, "level 1 of 2")
        assert capsys.readouterr().err == (
            "  still hdf5@1.14/abcdefg, 1 h 02 min: [ 45%] Building CXX\n  still zlib, 5 s\n"
        )
        clock.now += 50
        watch.say("ended")  # was heard, so no heartbeat is needed for another while
        clock.now += 50
        watch.show(doing)
        watch.show([])
    assert capsys.readouterr().err == "ended\n"


def test_a_table_on_a_terminal(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    with Watch(live=True, clock=clock) as watch:
        watch.show([Shown("zlib", 61.0, "a long line that does not fit")], "level 1")
        watch.show([Shown("zlib", 61.1, "too soon")], "level 1")
        assert capsys.readouterr().err == "level 1\n  zlib, 1 min 01 s: a long li\n"
        watch.say("built")
        assert capsys.readouterr().err == "\x1b[2F\x1b[Jbuilt\n"
        clock.now += 1
        watch.show([Shown("xz", 1.0, "one\ntwo \x1b[2J")])
        assert capsys.readouterr().err == "  xz, 1 s: one two \\x1b[2J\n"
    assert capsys.readouterr().err == "\x1b[1F\x1b[J"


def test_no_table_for_pipes_and_dumb_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Watch().live
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    assert not Watch().live
    monkeypatch.setenv("TERM", "xterm")
    assert Watch().live
