"""A live table of a sweep's trials, or a line now and then where there is no terminal."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.live import Live

from rayfill.config.ranking import best_of
from rayfill.config.run import RunConfig
from rayfill.runs.folder import Outcome
from rayfill.runs.job import TrainingJob
from rayfill.runs.table import Column, Table
from rayfill.training.launch import train_on_ray

if TYPE_CHECKING:
    from rayfill.training.cluster import Capacity
    from rayfill.training.loop import TrainingSummary

_LINE_EVERY_S = 5.0


@dataclasses.dataclass
class _Row:
    epochs: int
    begun: int = 0  # epochs that another run had done
    epoch: int = 0
    status: str = "waiting"
    loss: float = float("nan")
    score: float = float("nan")
    best: float = float("nan")


class SweepProgress:
    """Shows state, epoch, loss and score of every trial and the time that is left."""

    def __init__(self, trials: Sequence[RunConfig], *, concurrent: int, console: Console) -> None:
        self._rows = {trial.name: _Row(epochs=trial.train.epochs) for trial in trials}
        self._metric = trials[0].eval.select_metric if trials else ""
        self._concurrent = concurrent
        self._more = 0
        self._console = console
        self._began = time.monotonic()
        self._last_line = 0.0
        self._live = (
            Live(self.table(), console=console, refresh_per_second=2)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.update(self.table())
            self._live.stop()

    def planned(self, trial: RunConfig, *, begun: int, more: int) -> None:
        """Note the next trial, epochs that were done elsewhere, and how many trials will follow."""
        self._more = more
        self._metric = trial.eval.select_metric
        row = self._rows.setdefault(trial.name, _Row(epochs=trial.train.epochs))
        row.begun = row.epoch = begun

    def started(self, name: str) -> None:
        """Note that a trial runs."""
        self._rows[name].status = "running"
        self._show(f"{name} started")

    def reported(self, name: str, result: Mapping[str, Any]) -> None:
        """Note an epoch's metrics."""
        row = self._rows[name]
        row.epoch = max(int(result["epoch"]), row.begun)
        row.loss = result.get("train/loss", row.loss)
        score = result.get(f"val/{self._metric}")  # not every epoch is validated
        if score is not None:
            row.score = score
            row.best = best_of((row.best, score), metric=self._metric)
        measured = "" if score is None else f" {self._metric} {score:.3f}"
        self._show(
            f"{name} epoch {row.epoch}/{row.epochs}{measured} "
            f"(left about {_duration(self.remaining_s())})",
            often=True,
        )

    def ended(self, name: str, outcome: Outcome) -> None:
        """Note how a trial ended."""
        row = self._rows[name]
        row.status, row.epoch = outcome.status, outcome.epoch
        reason = f": {outcome.reason}" if outcome.reason else ""
        self._show(f"{name} {outcome.status} after epoch {outcome.epoch}{reason}")

    def remaining_s(self) -> float:
        """Return the seconds left at the pace so far; infinite before the first epoch."""
        rows = self._rows.values()
        done = sum(row.epoch - row.begun for row in rows)
        ended = ("finished", "stopped", "failed", "unfinished")
        left = sum(row.epochs - row.epoch for row in rows if row.status not in ended)
        if rows:  # those to come are taken to be as long as those that are known
            left += self._more * sum(row.epochs - row.begun for row in rows) // len(rows)
        return (time.monotonic() - self._began) * left / done if done else float("inf")

    def table(self) -> Table:
        """Return the state of every trial."""
        left = _duration(self.remaining_s())
        count = str(len(self._rows)) + (f" of {len(self._rows) + self._more}" * bool(self._more))
        return Table(
            title=f"{count} trials, {self._concurrent} at a time, {left} left",
            columns=[
                *("trial", "state"),
                Column("epoch", right=True),
                Column("train loss", right=True, format=".4f"),
                *(Column(t, right=True, format=".3f") for t in (f"val {self._metric}", "best")),
            ],
            rows=[
                [name, row.status, f"{row.epoch}/{row.epochs}", row.loss, row.score, row.best]
                for name, row in self._rows.items()
            ],
        )

    def _show(self, line: str, *, often: bool = False) -> None:
        if self._live:
            self._live.update(self.table())
            return
        now = time.monotonic()
        if not often or now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def train_watched(job: TrainingJob, *, capacity: Capacity, console: Console) -> TrainingSummary:
    """Train one run on the workers of Ray Train, showing how far it is."""
    name = job.config.name
    with SweepProgress([job.config], concurrent=1, console=console) as progress:
        progress.started(name)
        summary = train_on_ray(
            job, capacity=capacity, on_epoch=lambda entry: progress.reported(name, entry)
        )
        progress.ended(name, Outcome(status="finished", epoch=summary.epochs))
    return summary


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
