"""What a sweep ends with: everything measured on the same samples, the table, the champion."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rayfill.config.ranking import best_of, needs_lpips, worth
from rayfill.config.run import RunConfig
from rayfill.evaluation.differences import against_baselines, between_systems
from rayfill.evaluation.evaluate import evaluate, lpips_if_available
from rayfill.evaluation.leaderboard import FINISH, Entry, Leaderboard, protocol, psnr_and_ssim
from rayfill.evaluation.result import Evaluation, samples_parquet
from rayfill.evaluation.samples import load_samples
from rayfill.evaluation.systems import System, trained
from rayfill.metrics.aggregate import Measured
from rayfill.runs.folder import Outcome, RunFolder
from rayfill.runs.record import attach_tracker
from rayfill.runs.run_page import record_result, test_scores
from rayfill.runs.sweep_folder import SAMPLES, TABLE_DATA, TABLE_TEXT
from rayfill.sweeps.champion import (
    FinishChoice,
    choose_finish,
    note_finish,
    register_champion,
)
from rayfill.sweeps.page import record_sweep
from rayfill.sweeps.stages import SweepRun
from rayfill.sweeps.trials import earlier_job
from rayfill_data.errors import RayfillError
from rayfill_data.prepared.reader import PreparedDataset

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


def measure_others(names: Sequence[str], *, dataset: PreparedDataset, config: EvalConfig) -> Others:
    """Measure classical baselines, earlier models and finished pictures on the test split.

    Before anything is trained, so that a table does not fail for a missing picture in the end.

    Args:
        names: What :func:`rayfill.evaluation.systems.open_systems` takes.
        dataset: With a test split.
        config: Says how LPIPS is measured.

    Raises:
        ConfigError: a name that is no system.
        DatasetError: a split that cannot be measured on, or finished pictures that do not fit it.
    """
    lpips, why_not = lpips_if_available(config)
    if not names:
        load_samples(dataset, split="test")
        return Others(kinds={}, measured={}, lpips=lpips, why_no_lpips=why_not)
    found = evaluate(names, data=dataset, lpips=lpips)
    return Others(
        kinds={name: facts["kind"] for name, facts in found.sources.items()},
        measured=found.measured,
        lpips=lpips,
        why_no_lpips=why_not,
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
        """The runs that got as far as a validation and can be measured, the winner last."""
        found = [run for run in self.run.runs(self.winner) if run.name not in self.refused]
        if not found:
            raise RayfillError("\n".join(self.refused.values()))
        return found

    @functools.cached_property
    def best(self) -> RunConfig:
        """The run that is best on the validation split."""
        metric = self.champion_metric
        return max(self.runs, key=lambda run: worth(self._champion_score(run), metric=metric))

    @functools.cached_property
    def finish(self) -> FinishChoice:
        """Whether patches are laid over the best run's answers where it is used."""
        best = self.best.name
        return choose_finish(best, bundle=self._bundles[best], dataset=self.run.dataset)

    @functools.cached_property
    def bundles(self) -> dict[str, str]:
        """Where the model bundles of all networks in the table lie, by name."""
        return {name: uri for name, uri in self._bundles.items() if name not in self.refused}

    @functools.cached_property
    def refused(self) -> dict[str, str]:
        """Why networks were trained for the table and do not stand in it, by name."""
        on_val = self._on_val.refused if self._on_val else {}
        return {**self._on_test.refused, **on_val}

    @functools.cached_property
    def measured(self) -> dict[str, Measured]:
        """Every system's metrics on the test split, also per sample."""
        networks = self._on_test.measured
        alone = {name: networks[name] for name in self.bundles}
        return alone | dict(self._with_patches) | dict(self.others.measured)

    @functools.cached_property
    def _with_patches(self) -> Mapping[str, Measured]:
        """The best run as it is used, where patches are laid over its answers; else nothing."""
        if self.finish.finish == "none":
            return {}
        (best,) = trained({self.best.name: self._bundles[self.best.name]})
        return self._evaluate([best.patched()], split="test", lpips=self.others.lpips).measured

    @functools.cached_property
    def _bundles(self) -> dict[str, str]:
        own = {run.name: self.run.job(run).folder for run in self.run.runs(self.winner)}
        beside = {name: RunFolder(folder) for name, folder in self.run.sweep.beside.items()}
        return {name: folder.bundle for name, folder in (own | beside).items()}

    @functools.cached_property
    def _on_test(self) -> Evaluation:
        return self._evaluate(trained(self._bundles), split="test", lpips=self.others.lpips)

    @functools.cached_property
    def _on_val(self) -> Evaluation | None:
        """What runs score on the validation split that were validated by another metric."""
        runs = self.run.runs(self.winner)
        metric = self.champion_metric
        names = [run.name for run in runs if run.eval.select_metric != metric]
        lpips = self.others.lpips if needs_lpips(metric) else None
        systems = trained({name: self._bundles[name] for name in names})
        return self._evaluate(systems, split="val", lpips=lpips) if names else None

    def _evaluate(
        self, systems: Sequence[System], *, split: str, lpips: LpipsMetric | None
    ) -> Evaluation:
        data = self.run.dataset
        return evaluate(systems, data=data, split=split, lpips=lpips, allow_broken=True)

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
                str(self.finish),
                *self._compared(),
                *self.run.sweep.notes,
                *self.notes,
                *failed,
                *self.refused.values(),
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
        run, board = self.run, self.leaderboard
        folder = run.source.plan.folder
        tables = {
            TABLE_TEXT: board.markdown(),
            TABLE_DATA: json.dumps(board.to_dict(), indent=1),
        }
        for name, text in tables.items():
            folder.write(name, text.encode())
            run.parent.text(text, name)
        tested = self._on_test
        samples = samples_parquet(
            self.measured, sample_id=tested.sample_id, hole_ratio=tested.hole_ratio
        )
        folder.write(SAMPLES, samples)
        best = self.best
        table = self.measured[best.name].table
        for one in self.runs:
            self._record(one)
        record_sweep(
            run.parent,
            name=run.name,
            config=run.trials[0],
            space=run.sweep.space,
            board=board,
        )
        # Folded up, as MLflow first shows it, the sweep stands for its best run.
        run.parent.metrics(test_scores(table), step=0)
        note_finish(self.finish, bundle=self._bundles[best.name])
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
                *(earlier_job(name, folder=folder) for name, folder in self._beside.items()),
            ],
            measured=self.measured,
            arrays=run.dataset.load("test"),
            outcomes={
                name: dataclasses.replace(outcome, reason=self.refused.get(name, outcome.reason))
                for name, outcome in self.outcomes.items()
            },
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
        patched = [
            Entry(name=name, kind=FINISH, table=found.table, epochs=run.epochs_done(self.best))
            for name, found in self._with_patches.items()
        ]
        metric = run.trials[0].eval.select_metric
        earlier = [
            Entry(
                name=name,
                kind="earlier",
                table=self.measured[name].table,
                epochs=str(len(folder.history())),
                val_score=best_of(folder.scores(metric).values(), metric=metric),
            )
            for name, folder in self._beside.items()
        ]
        others = [
            Entry(name=name, kind=kind, table=self.measured[name].table)
            for name, kind in self.others.kinds.items()
        ]
        return [*trained, *patched, *earlier, *others]

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
        assert self._on_val is not None
        return self._on_val.measured[trained.name].table.total[self.champion_metric].mean

    @functools.cached_property
    def _beside(self) -> dict[str, RunFolder]:
        """Where earlier runs lie that stand in the table."""
        known = self.run.sweep.beside.items()
        return {name: RunFolder(folder) for name, folder in known if name in self.measured}

    def _compared(self) -> list[str]:
        metrics = psnr_and_ssim(self.champion_metric)
        compares = self.run.sweep.compare_trials
        trials = [run for run in self.runs if run is not self.winner and compares]
        return [
            *between_systems(
                trials,
                measured=self.measured,
                metrics=metrics,
                hole_ratio=self._on_test.hole_ratio,
            ),
            *against_baselines(
                self.best.name,
                baselines=list(self.others.kinds),
                measured=self.measured,
                metrics=metrics,
            ),
        ]
