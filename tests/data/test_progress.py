from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from rayfill_data import progress
from rayfill_data.progress import show_progress


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_line_now_and_then_where_nobody_watches(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with show_progress("prepare photos") as report:
        for done in range(0, 101):
            clock.now = done * 0.5
            report(done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "prepare photos: 20 of 100, about 40 s left"
    assert len(lines) == 5


def test_a_short_task_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("prepare photos") as report:
        report(0, 10)
        report(10, 10)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal: Any = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with show_progress("prepare photos") as report:
        report(3, 12)
        report(12, 12)
    assert "12/12" in terminal.getvalue()
    assert "prepare photos" in terminal.getvalue()
