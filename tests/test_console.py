from __future__ import annotations

import pytest

from stackyard.edges.console import bar, note, printable, warn


def test_secrets_and_control_codes_do_not_show(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITLAB_TOKEN", "glpat-12345")
    monkeypatch.setenv("PUBLIC", "public-12345")
    note("with glpat-12345 and public-12345")
    warn("a\x1b[31mred\nline")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "with *** and public-12345\nwarning: a\\x1b[31mred\nline\n"


def test_plain_text_stays() -> None:
    assert printable("päckage: “a”\n  b") == "päckage: “a”\n  b"


def test_no_bar_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    bar("looking up", 3, 10)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("stackyard.edges.console._drawn", 0.0)
    bar("looking up", 3, 10)
    bar("looking up", 4, 10)  # too soon after the last to be drawn
    bar("looking up", 10, 10)
    assert capsys.readouterr().err == (f"\r\x1b[Klooking up [{'#' * 9}{'.' * 21}] 3/10\r\x1b[K")
