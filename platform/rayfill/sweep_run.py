"""The stages of a sweep under way: trials, the winner trained longer, the table, the champion."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from rayfill.budget import Budget
from rayfill.bundle import load_bundle
from rayfill.cluster import Capacity
from rayfill.comparison import against_baselines, between_systems
from rayfill.config import RunConfig, replace
from rayfill.evaluate_all import (
    evaluate_baselines,
    evaluate_bundles,
    lpips_if_available,
    samples_parquet,
)
from rayfill.evaluation import Measured, evaluate, protocol
from rayfill.folders import write_file
from rayfill.leaderboard import Entry, Leaderboard, psnr_and_ssim
from rayfill.run_page import record_result, record_sweep, test_scores
from rayfill.sweep_plan import Outcome
from rayfill.sweep_progress import SweepProgress, train_watched
from rayfill.training.driver import TrainingJob, attach_tracker, make_job
from rayfill.training.history import read_history
from rayfill.training.lineage import leaves
from rayfill.training.loop import best_bundle
from rayfill.trial_source import PlannedTrials, earlier_job, scores_of
from rayfill.tuning import concurrent_trials, run_trials
from rayfill.warm_start import with_start
from rayfill_data.errors import RayfillError
from rayfill_data.reader import PreparedDataset, SplitArrays

if TYPE_CHECKING:
    from rayfill.metrics import LpipsMetric
    from rayfill.provenance import RunKind
    from rayfill.registry import RegisteredModel
    from rayfill.sweep import Sweep
    from rayfill.tracking import Tracker


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
            job = self._job(run, kind="phase")
            with self.budget.counting(run):
                train_watched(job, capacity=self.capacity, console=self.console)
            init_from = best_bundle(self._job(run).run_dir)
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
        return [*notes, *self.source.notes(self._runs(None), score=self._own_score)]

    def best_trial(self, outcomes: Mapping[str, Outcome]) -> RunConfig:
        """Return the trial with the best validation score.

        Raises:
            RayfillError: none was validated.
        """
        scored = self._runs(None)
        if not scored:
            reasons = {outcome.reason for outcome in outcomes.values() if outcome.reason}
            raise RayfillError(
                f"None of the {len(self.trials)} trials of {self.name!r} got as far as a "
                f"validation: {'; '.join(sorted(reasons)) or 'no reason given'}."
            )
        return max(scored, key=lambda run: self._score(self._job(run)))

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
        job = self._job(longer, kind="winner")
        with self.budget.counting(longer):
            train_watched(job, capacity=self.capacity, console=self.console)
        return longer

    def measure(self, *, winner: RunConfig | None) -> dict[str, Measured]:
        """Measure trials that were validated, the winner and the baselines on the test split."""
        lpips, _ = self.lpips
        return {
            **evaluate_bundles(self.bundles(winner), arrays=self.test, lpips=lpips),
            **evaluate_baselines(self.sweep.baselines, arrays=self.test, lpips=lpips),
        }

    def bundles(self, winner: RunConfig | None) -> dict[str, str]:
        """Return where the model bundles of all runs that were validated lie, by name."""
        own = {run.name: best_bundle(self._job(run).run_dir) for run in self._runs(winner)}
        beside = {name: best_bundle(folder) for name, folder in self.sweep.beside.items()}
        return own | beside

    def leaderboard(
        self,
        outcomes: Mapping[str, Outcome],
        *,
        winner: RunConfig | None,
        measured: Mapping[str, Measured],
        notes: Sequence[str],
    ) -> Leaderboard:
        """Return the table of everything that was measured."""
        config = self.trials[0]
        entries = [
            Entry(
                name=run.name,
                kind="winner" if run is winner else "trial",
                table=measured[run.name].table,
                epochs=self._epochs(run),
                val_score=self._champion_score(run),
            )
            for run in self._runs(winner)
        ]
        entries += [
            Entry(
                name=name,
                kind="earlier",
                table=measured[name].table,
                epochs=str(len(read_history(folder))),
                val_score=max(scores_of(config, run_dir=folder).values(), default=math.nan),
            )
            for name, folder in self.sweep.beside.items()
        ]
        entries += [
            Entry(name=name, kind="baseline", table=measured[name].table)
            for name in self.sweep.baselines
        ]
        failed = [f"{n} failed: {o.reason}" for n, o in outcomes.items() if o.status == "failed"]
        lpips, why_not = self.lpips
        network = config.eval.lpips_network if lpips else None
        return Leaderboard(
            title=f"{self.name}: held-out test split",
            entries=entries,
            rank_by=self.champion_metric,
            protocol=protocol(self.dataset, split="test", lpips_network=network),
            report=self.sweep.report,
            columns=self.sweep.columns,
            notes=[
                *self._compared(winner, measured),
                *self.sweep.notes,
                *notes,
                *failed,
                *([why_not] if why_not else []),
            ],
        )

    def keep_samples(self, measured: Mapping[str, Measured]) -> None:
        """Write every system's values of every test sample, for paired comparisons."""
        content = samples_parquet(measured, arrays=self.test)
        write_file(f"{self.trials[0].storage}/{self.name}/samples.parquet", content)

    def report(
        self,
        board: Leaderboard,
        *,
        winner: RunConfig | None,
        measured: Mapping[str, Measured],
        outcomes: Mapping[str, Outcome],
    ) -> None:
        """Write and record the report that shows everything at a glance."""
        from rayfill.report.sweep import report_sweep

        report_sweep(
            board,
            jobs=[
                *(self._job(run) for run in self._runs(winner)),
                *(earlier_job(name, folder=f) for name, f in self.sweep.beside.items()),
            ],
            measured=measured,
            arrays=self.test,
            outcomes=outcomes,
            parent=self.parent,
            console=self.console,
        )

    @functools.cached_property
    def test(self) -> SplitArrays:
        """The test split, loaded once for all systems."""
        return self.dataset.load("test")

    @functools.cached_property
    def lpips(self) -> tuple[LpipsMetric | None, str]:
        """LPIPS, or None and why it is not measured."""
        return lpips_if_available(self.trials[0].eval)

    @property
    def champion_metric(self) -> str:
        """What all runs are ranked by in the end, and the champion is chosen by.

        It is the trials' own metric, unless the winner is trained on for another task.
        """
        own = self.trials[0].eval.select_metric
        later = self.sweep.winner_changes.get("eval.select_metric", own)
        return str(later) if self.sweep.winner.epochs else own

    def _best(self, runs: Sequence[RunConfig]) -> RunConfig:
        """Return the run that is best on the validation split."""
        return max(runs, key=self._champion_score)

    def _champion_score(self, run: RunConfig) -> float:
        """Return a run's validation score of the metric that all runs are ranked by."""
        if run.eval.select_metric == self.champion_metric:
            return self._score(self._job(run))
        if run.name not in self._measured_on_val:
            model = load_bundle(best_bundle(self._job(run).run_dir)).model
            table = evaluate(model, arrays=self.dataset.load("val")).table
            self._measured_on_val[run.name] = table.total[self.champion_metric].mean
        return self._measured_on_val[run.name]

    @functools.cached_property
    def _measured_on_val(self) -> dict[str, float]:
        """Validation scores of runs that were validated by another metric, by name."""
        return {}

    def _compared(self, winner: RunConfig | None, measured: Mapping[str, Measured]) -> list[str]:
        runs = self._runs(winner)
        best = self._best(runs)
        metrics = psnr_and_ssim(self.champion_metric)
        trials = [run for run in runs if run is not winner and self.sweep.compare_trials]
        return [
            *between_systems(
                trials, measured=measured, metrics=metrics, hole_ratio=self.test.hole_ratio
            ),
            *against_baselines(
                best.name, baselines=self.sweep.baselines, measured=measured, metrics=metrics
            ),
        ]

    def _runs(self, winner: RunConfig | None) -> list[RunConfig]:
        """Return the runs that got as far as a validation."""
        trials = self.trials
        folders = {trial.name: self.source.plan.run_dir(trial) for trial in trials}
        # A run that another went on with is part of that one.
        runs = [*leaves(trials, folders=folders), *([winner] if winner else [])]
        return [run for run in runs if math.isfinite(self._own_score(run))]

    def _own_score(self, run: RunConfig) -> float:
        return self._score(self._job(run))

    def publish(self, board: Leaderboard, *, winner: RunConfig | None) -> RegisteredModel | None:
        """Record the leaderboard and register the model that is best on the validation split."""
        from rayfill.champion import register_champion

        root = f"{self.trials[0].storage}/{self.name}"
        text, data = board.markdown(), json.dumps(board.to_dict(), indent=1)
        write_file(f"{root}/leaderboard.md", text.encode())
        write_file(f"{root}/leaderboard.json", data.encode())
        self.parent.text(text, "leaderboard.md")
        self.parent.text(data, "leaderboard.json")
        tables = {entry.name: entry.table for entry in board.entries}
        runs = self._runs(winner)
        for run in runs:
            job = self._job(run, kind="winner" if run is winner else "trial")
            tracker = attach_tracker(job)
            tracker.metrics(test_scores(tables[run.name]), step=len(read_history(job.run_dir)))
            record_result(tracker, job=job, table=tables[run.name], epochs=self._epochs(run))
            tracker.close()
        best = self._best(runs)
        record_sweep(
            self.parent,
            name=self.name,
            config=self.trials[0],
            space=self.sweep.space,
            board=board,
        )
        # Folded up, as MLflow first shows it, the sweep stands for its best run.
        self.parent.metrics(test_scores(tables[best.name]), step=0)
        return register_champion(
            best,
            job=self._job(best),
            table=tables[best.name],
            val_metric=self.champion_metric,
            val_score=self._champion_score(best),
            protocol=board.protocol,
            console=self.console,
        )

    def _winner_config(self, best: RunConfig) -> RunConfig:
        options = self.sweep.winner
        changes = {
            "name": f"winner-{best.name}",
            "train.epochs": options.epochs,
            "train.learning_rate": options.learning_rate,
            "train.init_from": best_bundle(self._job(best).run_dir),
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

    def _job(self, config: RunConfig, *, kind: RunKind = "trial") -> TrainingJob:
        return make_job(config, group=self.name, parent=self._parent_reference(), kind=kind)

    def _parent_reference(self) -> str:
        return self.parent.run_id or str(self.parent.folder)

    def _score(self, job: TrainingJob) -> float:
        key = f"val/{job.config.eval.select_metric}"
        scores = [entry[key] for entry in read_history(job.run_dir) if key in entry]
        return max((score for score in scores if math.isfinite(score)), default=math.nan)

    def _epochs(self, config: RunConfig) -> str:
        return f"{len(read_history(self._job(config).run_dir))}/{config.train.epochs}"
