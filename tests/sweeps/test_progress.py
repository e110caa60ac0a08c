"""Progress on a terminal and in a log."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from rayfill.config.run import RunConfig, replace
from rayfill.runs.folder import Outcome
from rayfill.sweeps import progress as sweep_progress
from rayfill.sweeps.progress import SweepProgress


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sweep_progress, "time", clock)
    return clock


def trials(*epochs: int) -> list[RunConfig]:
    return [
        replace(RunConfig(), {"name": f"0{number}", "train.epochs": count})
        for number, count in enumerate(epochs, start=1)
    ]


def log_console() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, width=100), stream


def epoch(number: int, score: float = 20.0) -> dict[str, float]:
    return {"epoch": number, "train/loss": 0.25, "val/hole_psnr": score}


def test_a_log_gets_a_line_per_event_and_few_per_epoch(clock: Clock) -> None:
    console, stream = log_console()
    with SweepProgress(trials(4, 4), concurrent=2, console=console) as progress:
        progress.started("01")
        for number in range(1, 5):
            clock.now += 2.0
            progress.reported("01", epoch(number, 20.0 + number))
        progress.ended("01", Outcome(status="finished", epoch=4))
    lines = stream.getvalue().splitlines()
    assert lines == [
        "01 started",
        "01 epoch 3/4 hole_psnr 23.000 (left about 10 s)",
        "01 finished after epoch 4",
    ]
    assert "\x1b" not in stream.getvalue()


def test_a_failure_is_printed_as_it_is(clock: Clock) -> None:
    console, stream = log_console()
    with SweepProgress(trials(4), concurrent=1, console=console) as progress:
        progress.ended("01", Outcome(status="failed", epoch=2, reason="[/mnt/x] is [full]"))
    assert stream.getvalue() == "01 failed after epoch 2: [/mnt/x] is [full]\n"


def test_a_long_line_of_a_log_stays_one_line(clock: Clock) -> None:
    console, stream = log_console()
    with SweepProgress(trials(4), concurrent=1, console=console) as progress:
        progress.ended("01", Outcome(status="failed", epoch=2, reason="why " * 60))
    assert len(stream.getvalue().splitlines()) == 1


def test_an_epoch_that_was_not_validated_is_shown_without_a_score(clock: Clock) -> None:
    console, stream = log_console()
    with SweepProgress(trials(4), concurrent=1, console=console) as progress:
        clock.now += 10
        progress.reported("01", epoch(1, 21.5))
        clock.now += 10
        progress.reported("01", {"epoch": 2, "train/loss": 0.1})
        assert cells(progress)[0] == ["01", "waiting", "2/4", "0.1000", "21.500", "21.500"]
    assert "01 epoch 2/4 (left about 20 s)" in stream.getvalue()


def test_the_time_left_follows_the_pace_and_forgets_ended_trials(clock: Clock) -> None:
    console, _ = log_console()
    with SweepProgress(trials(4, 4, 4), concurrent=1, console=console) as progress:
        assert progress.remaining_s() == float("inf")
        clock.now += 8
        progress.reported("01", epoch(2))
        assert progress.remaining_s() == pytest.approx(8 / 2 * 10)
        progress.ended("01", Outcome(status="stopped", epoch=2))
        assert progress.remaining_s() == pytest.approx(8 / 2 * 8)
        for name in ("02", "03"):
            progress.ended(name, Outcome(status="finished", epoch=4))
        assert progress.remaining_s() == 0


def test_the_table_keeps_the_best_score_and_hides_what_is_no_number(clock: Clock) -> None:
    console, _ = log_console()
    progress = SweepProgress(trials(4, 2), concurrent=1, console=console)
    progress.started("01")
    for number, score in enumerate((20.0, 22.0, float("nan"), 21.0), start=1):
        progress.reported("01", epoch(number, score))
        if number == 3:
            assert cells(progress)[0][-2:] == ["", "22.000"]
    assert cells(progress) == [
        ["01", "running", "4/4", "0.2500", "21.000", "22.000"],
        ["02", "waiting", "0/2", "", "", ""],
    ]


def test_a_name_is_shown_as_it_is(
    clock: Clock, console_rows: Callable[[Callable[[Console], object]], list[list[str]]]
) -> None:
    name = "a|b [red]x[/red]"
    trial = replace(RunConfig(), {"name": name, "train.epochs": 1})
    progress = SweepProgress([trial], concurrent=1, console=log_console()[0])
    assert console_rows(lambda console: console.print(progress.table()))[0][0] == name


def test_a_terminal_gets_one_live_table(clock: Clock) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=True)
    with SweepProgress(trials(4), concurrent=1, console=console) as progress:
        progress.started("01")
        progress.reported("01", epoch(4, 24.0))
        progress.ended("01", Outcome(status="finished", epoch=4))
    text = stream.getvalue()
    last = text[text.rindex("1 trials, 1 at a time") :]
    assert "finished" in last
    assert "24.000" in last
    assert "01 started" not in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is given back


def test_a_terminal_is_given_back_after_an_error(clock: Clock) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=True)
    with pytest.raises(KeyboardInterrupt), SweepProgress(trials(4), concurrent=1, console=console):
        raise KeyboardInterrupt
    assert stream.getvalue().count("\x1b[?25h") == 1


def cells(progress: SweepProgress) -> list[list[str]]:
    """Return the table's rows as text."""
    return progress.table().cells()
