"""The stages of a sweep under way: trials, the winner trained longer, the table, the champion."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from rayfill.config.ranking import best_of, worth
from rayfill.config.run import RunConfig, replace
from rayfill.runs.folder import Outcome
from rayfill.runs.job import TrainingJob, make_job
from rayfill.runs.sweep_folder import WINNER
from rayfill.sweeps.budget import Budget
from rayfill.sweeps.plan import leaves
from rayfill.sweeps.progress import SweepProgress, train_watched
from rayfill.sweeps.starts import with_start
from rayfill.sweeps.trials import PlannedTrials
from rayfill.sweeps.tune import run_trials
from rayfill.training.cluster import Capacity, concurrent_trials
from rayfill_data.errors import RayfillError
from rayfill_data.prepared.reader import PreparedDataset

if TYPE_CHECKING:
    from rayfill.runs.provenance import RunKind
    from rayfill.runs.tracking import Tracker
    from rayfill.sweeps.spec import Sweep


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepRun:
    """A sweep under way: everything its stages share."""

    source: PlannedTrials
    sweep: Sweep
    budget: Budget
    capacity: Capacity
    parent: Tracker
    console: Console
    dataset: PreparedDataset
    phased: str | None = None
    """Bundle of the last phase, which trials start from."""

    @property
    def name(self) -> str:
        """The sweep's own name."""
        return self.source.plan.name

    @property
    def trials(self) -> list[RunConfig]:
        """The trials planned so far, as they are trained."""
        return [self.prepared(trial) for trial in self.source.plan.trials]

    def prepared(self, trial: RunConfig) -> RunConfig:
        """Return a planned trial with the location of what it starts from."""
        if self.phased and not trial.train.continue_from:
            return replace(trial, {"train.init_from": self.phased})
        return with_start(trial, self.source.plan.started_from)

    def train_phases(self, phases: Sequence[RunConfig]) -> str | None:
        """Train the runs before the trials, each from the one before; return the last's bundle."""
        init_from = None
        for number, phase in enumerate(phases, start=1):
            run = self._on_all_workers(phase, num_workers=None)
            if init_from:
                run = replace(run, {"train.init_from": init_from})
            self.console.print(f"Phase {number} of {len(phases)}: {phase.name}", highlight=False)
            job = self.job(run, kind="phase")
            with self.budget.counting(run):
                train_watched(job, capacity=self.capacity, console=self.console)
            init_from = self.job(run).folder.bundle
        return init_from

    def starting_from(self, bundle: str | None) -> SweepRun:
        """Return the same with trials that start from a bundle, if there is one."""
        return dataclasses.replace(self, phased=bundle)

    def trials_side_by_side(self) -> dict[str, Outcome]:
        """Run every trial that has not ended yet; return how each ended."""
        concurrent = concurrent_trials(self.source.sample, capacity=self.capacity)
        concurrent = min(concurrent, self.sweep.options.max_concurrent or concurrent)
        with SweepProgress(self.trials, concurrent=concurrent, console=self.console) as progress:
            return run_trials(
                self.source,
                options=self.sweep.options,
                scheduler=self.sweep.scheduler,
                budget=self.budget,
                capacity=self.capacity,
                parent=self._parent_reference(),
                progress=progress,
                prepare=self.prepared,
            )

    def left_out(self, outcomes: Mapping[str, Outcome]) -> list[str]:
        """Return what was not trained for the budget, and how a population's best came about."""
        cut = {name: o for name, o in outcomes.items() if o.status == "unfinished"}
        notes = []
        if cut or (self.source.missing() and self.budget.full()):
            more = self.source.missing()
            named = ", ".join(f"{name} after epoch {o.epoch}" for name, o in cut.items())
            notes.append(
                f"{self.budget.full()}: {len(cut)} trials did not end ({named or 'none'}) and "
                f"{more} were not chosen yet; --resume goes on with them."
            )
        elif self.source.missing():
            notes.append(
                f"{self.source.missing()} trials fewer than asked for: nothing else was left."
            )
        return [*notes, *self.source.notes(self.runs(None), worth=self.worth)]

    def best_trial(self, outcomes: Mapping[str, Outcome]) -> RunConfig:
        """Return the trial with the best validation score.

        Raises:
            RayfillError: none was validated.
        """
        scored = self.runs(None)
        if not scored:
            reasons = {outcome.reason for outcome in outcomes.values() if outcome.reason}
            metric = " or ".join(sorted({trial.eval.select_metric for trial in self.trials}))
            undefined = (
                f"{metric} is not a number at any validation. A segmenter that finds nothing yet "
                "has no removal to measure: train it for more epochs, or on more photos"
            )
            raise RayfillError(
                f"None of the {len(self.trials)} trials of {self.name!r} has a score: "
                f"{'; '.join(sorted(reasons)) or undefined}."
            )
        return max(scored, key=self.worth)

    def train_winner(self, best: RunConfig, *, outcomes: Mapping[str, Outcome]) -> RunConfig | None:
        """Train the best trial on with all workers; return the longer run, if there is one.

        While the budget leaves trials out, there is no winner yet.
        """
        options = self.sweep.winner
        unfinished = any(outcome.status == "unfinished" for outcome in outcomes.values())
        if not options.epochs or unfinished or self.budget.spent():
            return None
        longer = self._winner_config(best)
        workers = longer.scaling.num_workers
        self.console.print(
            f"Winner: {best.name}. Training it on for {options.epochs} epochs with {workers} "
            f"worker{'s' if workers > 1 else ''} of Ray Train.",
            highlight=False,
        )
        job = self.job(longer, kind="winner")
        with self.budget.counting(longer):
            train_watched(job, capacity=self.capacity, console=self.console)
        return longer

    def runs(self, winner: RunConfig | None) -> list[RunConfig]:
        """Return the runs that got as far as a validation."""
        # A run that another went on with is part of that one.
        last = [self.prepared(trial) for trial in leaves(self.source.plan)]
        runs = [*last, *([winner] if winner else [])]
        return [run for run in runs if math.isfinite(self.score(run))]

    def _winner_config(self, best: RunConfig) -> RunConfig:
        options = self.sweep.winner
        changes = {
            "name": f"{WINNER}{best.name}",
            "train.epochs": options.epochs,
            "train.learning_rate": options.learning_rate,
            "train.init_from": self.job(best).folder.bundle,
            "train.continue_from": None,
            "train.schedule_epochs": None,
        }
        longer = replace(best, changes | dict(self.sweep.winner_changes))
        return self._on_all_workers(longer, num_workers=options.num_workers)

    def _on_all_workers(self, run: RunConfig, *, num_workers: int | None) -> RunConfig:
        """Return a run with so many workers, or as many as the cluster holds."""
        scaling = run.scaling
        room = self.capacity.gpus if scaling.use_gpu else self.capacity.cpus
        share = scaling.gpus_per_worker if scaling.use_gpu else scaling.cpus_per_worker
        workers = num_workers or max(1, int(room / share))
        while run.train.batch_size % workers:
            workers -= 1
        return replace(run, {"scaling.num_workers": workers})

    def job(self, config: RunConfig, *, kind: RunKind = "trial") -> TrainingJob:
        """Return the job of one of the sweep's runs."""
        return make_job(config, group=self.name, parent=self._parent_reference(), kind=kind)

    def _parent_reference(self) -> str:
        return self.parent.run_id or str(self.parent.folder)

    def score(self, run: RunConfig) -> float:
        """Return a run's best validation score of its own metric, NaN before the first."""
        metric = run.eval.select_metric
        return best_of(self.job(run).folder.scores(metric).values(), metric=metric)

    def worth(self, run: RunConfig) -> float:
        """Return what is larger the better a run's score is, -inf before the first."""
        return worth(self.score(run), metric=run.eval.select_metric)

    def epochs_done(self, config: RunConfig) -> str:
        """Return how many of its epochs a run has done, such as ``3/4``."""
        return f"{len(self.job(config).folder.history())}/{config.train.epochs}"
