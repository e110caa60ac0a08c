"""What a sweep ends with: everything measured on the same samples, the table, the champion."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rayfill.config.run import RunConfig
from rayfill.evaluation.comparison import against_baselines, between_systems
from rayfill.evaluation.evaluate import EvaluateOptions, evaluate_systems
from rayfill.evaluation.evaluate_all import evaluate_bundles, lpips_if_available, samples_parquet
from rayfill.evaluation.leaderboard import Entry, Leaderboard, psnr_and_ssim
from rayfill.evaluation.measure import Measured, evaluate, protocol
from rayfill.evaluation.systems import open_systems
from rayfill.runs.bundle import load_bundle
from rayfill.runs.folder import Outcome, RunFolder
from rayfill.runs.record import attach_tracker
from rayfill.runs.run_page import record_result, test_scores
from rayfill.runs.sweep_folder import SAMPLES, TABLE_DATA, TABLE_TEXT
from rayfill.sweeps.page import record_sweep
from rayfill.sweeps.stages import SweepRun
from rayfill.sweeps.trials import earlier_job
from rayfill_data.prepared.reader import PreparedDataset, SplitArrays

if TYPE_CHECKING:
    from rayfill.config.sections import EvalConfig
    from rayfill.metrics import LpipsMetric
    from rayfill.runs.registry import RegisteredModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Others:
    """Systems that are measured beside a sweep's own, before it starts."""

    kinds: Mapping[str, str]
    """What each is: ``baseline``, ``model`` or ``pictures``."""
    measured: Mapping[str, Measured]
    lpips: LpipsMetric | None
    why_no_lpips: str
    test: SplitArrays
    """The split that all systems are measured on, loaded once."""


def measure_others(names: Sequence[str], *, dataset: PreparedDataset, config: EvalConfig) -> Others:
    """Measure classical baselines, earlier models and finished pictures on the test split.

    Before anything is trained, so that a table does not fail for a missing picture in the end.

    Args:
        names: What :func:`rayfill.evaluation.systems.open_systems` takes.
        dataset: With a test split.
        config: Says how LPIPS is measured.

    Raises:
        ConfigError: a name that is no system.
        DatasetError: finished pictures that do not fit the split.
    """
    lpips, why_not = lpips_if_available(config)
    test = dataset.load("test")
    systems = open_systems(names)
    measured: dict[str, Measured] = {}
    if systems:
        found = evaluate_systems(
            systems,
            dataset=dataset,
            options=EvaluateOptions(num_workers=1),
            lpips=lpips,
            progress=lambda done, total: None,
        )
        row = {sample: index for index, sample in enumerate(found.sample_id)}
        order = [row[sample] for sample in test.sample_id]
        measured = {
            name: Measured(
                table=one.table, values={key: some[order] for key, some in one.values.items()}
            )
            for name, one in found.measured.items()
        }
    return Others(
        kinds={system.name: system.kind for system in systems},
        measured=measured,
        lpips=lpips,
        why_no_lpips=why_not,
        test=test,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepResults:
    """A trained sweep, its systems measured when they are first asked for."""

    run: SweepRun
    outcomes: Mapping[str, Outcome]
    winner: RunConfig | None
    others: Others
    notes: Sequence[str]
    """What planning and training have to say."""

    @functools.cached_property
    def runs(self) -> list[RunConfig]:
        """The runs that got as far as a validation, the winner last."""
        return self.run.runs(self.winner)

    @functools.cached_property
    def best(self) -> RunConfig:
        """The run that is best on the validation split."""
        return max(self.runs, key=self._champion_score)

    @functools.cached_property
    def bundles(self) -> dict[str, str]:
        """Where the model bundles of all networks in the table lie, by name."""
        own = {run.name: self.run.job(run).folder.bundle for run in self.runs}
        beside = {name: RunFolder(folder).bundle for name, folder in self.run.sweep.beside.items()}
        return own | beside

    @functools.cached_property
    def measured(self) -> dict[str, Measured]:
        """Every system's metrics on the test split, also per sample."""
        networks = evaluate_bundles(self.bundles, arrays=self.others.test, lpips=self.others.lpips)
        return networks | dict(self.others.measured)

    @functools.cached_property
    def leaderboard(self) -> Leaderboard:
        """The table of everything that was measured."""
        config = self.run.trials[0]
        failed = [
            f"{n} failed: {o.reason}" for n, o in self.outcomes.items() if o.status == "failed"
        ]
        network = config.eval.lpips_network if self.others.lpips else None
        why_not = self.others.why_no_lpips
        return Leaderboard(
            title=f"{self.run.name}: held-out test split",
            entries=self._entries(),
            rank_by=self.champion_metric,
            protocol=protocol(self.run.dataset, split="test", lpips_network=network),
            report=self.run.sweep.report,
            columns=self.run.sweep.columns,
            notes=[
                *self._compared(),
                *self.run.sweep.notes,
                *self.notes,
                *failed,
                *([why_not] if why_not else []),
            ],
        )

    @property
    def champion_metric(self) -> str:
        """What all runs are ranked by in the end, and the champion is chosen by.

        It is the trials' own metric, unless the winner is trained on for another task.
        """
        sweep = self.run.sweep
        own = self.run.trials[0].eval.select_metric
        later = sweep.winner_changes.get("eval.select_metric", own)
        return str(later) if sweep.winner.epochs else own

    def publish(self) -> RegisteredModel | None:
        """Keep the table and every sample's values; register the best model on validation."""
        from rayfill.sweeps.champion import register_champion

        run, board = self.run, self.leaderboard
        folder = run.source.plan.folder
        tables = {
            TABLE_TEXT: board.markdown(),
            TABLE_DATA: json.dumps(board.to_dict(), indent=1),
        }
        for name, text in tables.items():
            folder.write(name, text.encode())
            run.parent.text(text, name)
        folder.write(SAMPLES, samples_parquet(self.measured, arrays=self.others.test))
        best = self.best
        table = self.measured[best.name].table
        for trained in self.runs:
            self._record(trained)
        record_sweep(
            run.parent,
            name=run.name,
            config=run.trials[0],
            space=run.sweep.space,
            board=board,
        )
        # Folded up, as MLflow first shows it, the sweep stands for its best run.
        run.parent.metrics(test_scores(table), step=0)
        return register_champion(
            best,
            job=run.job(best),
            table=table,
            val_metric=self.champion_metric,
            val_score=self._champion_score(best),
            protocol=board.protocol,
            console=run.console,
        )

    def report(self) -> None:
        """Write and record the report that shows everything at a glance."""
        from rayfill.evaluation.report.sweep import report_sweep

        run = self.run
        report_sweep(
            self.leaderboard,
            jobs=[
                *(run.job(trained) for trained in self.runs),
                *(earlier_job(name, folder=RunFolder(f)) for name, f in run.sweep.beside.items()),
            ],
            measured=self.measured,
            arrays=self.others.test,
            outcomes=self.outcomes,
            parent=run.parent,
            console=run.console,
        )

    def _entries(self) -> list[Entry]:
        run = self.run
        trained = [
            Entry(
                name=one.name,
                kind="winner" if one is self.winner else "trial",
                table=self.measured[one.name].table,
                epochs=run.epochs_done(one),
                val_score=self._champion_score(one),
            )
            for one in self.runs
        ]
        earlier = [
            Entry(
                name=name,
                kind="earlier",
                table=self.measured[name].table,
                epochs=str(len(RunFolder(folder).history())),
                val_score=max(
                    RunFolder(folder).scores(run.trials[0].eval.select_metric).values(),
                    default=math.nan,
                ),
            )
            for name, folder in run.sweep.beside.items()
        ]
        others = [
            Entry(name=name, kind=kind, table=self.measured[name].table)
            for name, kind in self.others.kinds.items()
        ]
        return [*trained, *earlier, *others]

    def _record(self, trained: RunConfig) -> None:
        """Add what a run scored to its page in MLflow."""
        job = self.run.job(trained, kind="winner" if trained is self.winner else "trial")
        table = self.measured[trained.name].table
        tracker = attach_tracker(job)
        tracker.metrics(test_scores(table), step=len(job.folder.history()))
        record_result(tracker, job=job, table=table, epochs=self.run.epochs_done(trained))
        tracker.close()

    def _champion_score(self, trained: RunConfig) -> float:
        """Return a run's validation score of the metric that all runs are ranked by."""
        if trained.eval.select_metric == self.champion_metric:
            return self.run.score(trained)
        if trained.name not in self._measured_on_val:
            model = load_bundle(self.bundles[trained.name]).model
            table = evaluate(model, arrays=self._val).table
            self._measured_on_val[trained.name] = table.total[self.champion_metric].mean
        return self._measured_on_val[trained.name]

    @functools.cached_property
    def _val(self) -> SplitArrays:
        """The validation split, loaded once for all runs."""
        return self.run.dataset.load("val")

    @functools.cached_property
    def _measured_on_val(self) -> dict[str, float]:
        """Validation scores of runs that were validated by another metric, by name."""
        return {}

    def _compared(self) -> list[str]:
        metrics = psnr_and_ssim(self.champion_metric)
        compares = self.run.sweep.compare_trials
        trials = [run for run in self.runs if run is not self.winner and compares]
        return [
            *between_systems(
                trials,
                measured=self.measured,
                metrics=metrics,
                hole_ratio=self.others.test.hole_ratio,
            ),
            *against_baselines(
                self.best.name,
                baselines=list(self.others.kinds),
                measured=self.measured,
                metrics=metrics,
            ),
        ]
