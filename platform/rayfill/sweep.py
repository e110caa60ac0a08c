"""A sweep from end to end: data, trials, the winner trained longer, the table, the champion."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from rayfill import paths
from rayfill.cluster import Capacity, place, ray_cluster
from rayfill.config import RunConfig, flatten, to_dict
from rayfill.data_location import check_data, ensure_data
from rayfill.evaluate_all import (
    TABLE_BASELINES,
    evaluate_baselines,
    evaluate_bundles,
    lpips_if_available,
    samples_parquet,
)
from rayfill.evaluation import Measured, protocol
from rayfill.folders import write_file
from rayfill.leaderboard import Entry, Leaderboard
from rayfill.sweep_plan import Outcome, leave_out_untrainable, open_plan, plan_trials
from rayfill.sweep_progress import SweepProgress, train_watched
from rayfill.training.driver import (
    TrainingJob,
    attach_tracker,
    make_job,
    resolve_paths,
)
from rayfill.training.history import read_history
from rayfill.training.loop import best_bundle
from rayfill.tuning import SweepOptions, concurrent_trials, run_trials
from rayfill_data.errors import ConfigError, RayfillError
from rayfill_data.reader import PreparedDataset, SplitArrays

if TYPE_CHECKING:
    from rayfill.metrics import LpipsMetric
    from rayfill.registry import RegisteredModel
    from rayfill.tracking import Tracker


@dataclasses.dataclass(frozen=True, kw_only=True)
class WinnerOptions:
    """How the best trial is trained on, by all workers together."""

    epochs: int = 12
    """Further epochs, starting from the trial's best weights; 0 keeps the trial as it is."""
    num_workers: int | None = None
    """Data-parallel workers; None is one per GPU, or per core without GPUs."""
    learning_rate: float = 2e-3
    """Peak learning rate of the further training."""

    def problems(self) -> Iterator[str]:
        """Yield one sentence for every value that cannot be used."""
        if self.epochs < 0:
            yield f"winner.epochs is {self.epochs}: it must be 0 or more."
        if self.num_workers is not None and self.num_workers < 1:
            yield f"winner.num_workers is {self.num_workers}: it must be at least 1."
        if not self.learning_rate > 0:
            yield f"winner.learning_rate is {self.learning_rate}: it must be above 0."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """What to vary, around which base, and what to do with the best."""

    base: RunConfig
    space: Mapping[str, Sequence[Any]]
    options: SweepOptions = SweepOptions()
    winner: WinnerOptions = WinnerOptions()
    baselines: Sequence[str] = TABLE_BASELINES
    """Classical baselines that stand in the table."""
    resume: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What a sweep ended with."""

    name: str
    leaderboard: Leaderboard
    outcomes: Mapping[str, Outcome]
    trials: Sequence[RunConfig]
    """The runs, planned and placed, by the names that the leaderboard shows."""
    measured: Mapping[str, Measured]
    """Every system's test metrics, also per sample."""
    model: RegisteredModel | None
    seconds: float


def run_sweep(sweep: Sweep, *, console: Console) -> SweepResult:
    """Run a sweep, print its leaderboard and register its winner as champion.

    Raises:
        ConfigError: settings that cannot be used, all at once, before anything is started.
        RayfillError: a sweep in which no trial succeeded.
    """
    began = time.monotonic()
    base = resolve_paths(sweep.base)
    planned, notes = leave_out_untrainable(_plan(sweep, base))
    check_data(base)
    for note in notes:
        console.print(f"Note: {note}", highlight=False, markup=False, soft_wrap=True)
    nested = base.scaling.num_workers > 1
    with ray_cluster(dashboard=nested) as capacity:
        uri = ensure_data(base, console=console)
        trials = [place(trial, capacity=capacity, data_uri=uri) for trial in planned]
        dataset = PreparedDataset.open(uri)
        name, trials = open_plan(base.name, trials, storage=str(base.storage), resume=sweep.resume)
        with _parent_run(name, sweep=sweep, base=trials[0], dataset=dataset) as parent:
            run = _Run(
                name=name,
                sweep=sweep,
                capacity=capacity,
                parent=parent,
                console=console,
                dataset=dataset,
                trials=trials,
            )
            outcomes = run.trials_side_by_side()
            winner = run.train_winner(run.best_trial(outcomes))
            measured = run.measure(winner=winner)
            board = run.leaderboard(outcomes, winner=winner, measured=measured, notes=notes)
            board.show(console)
            model = run.publish(board, winner=winner)
            run.keep_samples(measured)
    seconds = time.monotonic() - began
    _say_where(base, name=name, model=model, seconds=seconds, console=console)
    return SweepResult(
        name=name,
        leaderboard=board,
        outcomes=outcomes,
        trials=trials,
        measured=measured,
        model=model,
        seconds=seconds,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """A sweep under way: everything its stages share."""

    name: str
    sweep: Sweep
    capacity: Capacity
    parent: Tracker
    console: Console
    dataset: PreparedDataset
    trials: Sequence[RunConfig]

    def trials_side_by_side(self) -> dict[str, Outcome]:
        concurrent = concurrent_trials(self.trials[0], capacity=self.capacity)
        concurrent = min(concurrent, self.sweep.options.max_concurrent or concurrent)
        with SweepProgress(self.trials, concurrent=concurrent, console=self.console) as progress:
            return run_trials(
                self.trials,
                group=self.name,
                options=self.sweep.options,
                capacity=self.capacity,
                parent=self._parent_reference(),
                progress=progress,
            )

    def best_trial(self, outcomes: Mapping[str, Outcome]) -> RunConfig:
        scored = [trial for trial in self.trials if math.isfinite(self._score(self._job(trial)))]
        if not scored:
            reasons = {outcome.reason for outcome in outcomes.values() if outcome.reason}
            raise RayfillError(
                f"None of the {len(self.trials)} trials of {self.name!r} got as far as a "
                f"validation: {'; '.join(sorted(reasons)) or 'no reason given'}."
            )
        return max(scored, key=lambda trial: self._score(self._job(trial)))

    def train_winner(self, best: RunConfig) -> RunConfig | None:
        """Train the best trial on with all workers; return the longer run, if there is one."""
        options = self.sweep.winner
        if not options.epochs:
            return None
        longer = self._winner_config(best)
        workers = longer.scaling.num_workers
        self.console.print(
            f"Winner: {best.name}. Training it on for {options.epochs} epochs with {workers} "
            f"worker{'s' if workers > 1 else ''} of Ray Train.",
            highlight=False,
        )
        train_watched(self._job(longer), capacity=self.capacity, console=self.console)
        return longer

    def measure(self, *, winner: RunConfig | None) -> dict[str, Measured]:
        """Measure trials that were validated, the winner and the baselines on the test split."""
        lpips, _ = self.lpips
        bundles = {run.name: best_bundle(self._job(run).run_dir) for run in self._runs(winner)}
        return {
            **evaluate_bundles(bundles, arrays=self.test, lpips=lpips),
            **evaluate_baselines(self.sweep.baselines, arrays=self.test, lpips=lpips),
        }

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
                val_score=self._score(self._job(run)),
            )
            for run in self._runs(winner)
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
            rank_by=config.eval.select_metric,
            protocol=protocol(self.dataset, split="test", lpips_network=network),
            notes=[*notes, *failed, *([why_not] if why_not else [])],
        )

    def keep_samples(self, measured: Mapping[str, Measured]) -> None:
        """Write every system's values of every test sample, for paired comparisons."""
        content = samples_parquet(measured, arrays=self.test)
        write_file(f"{self.trials[0].storage}/{self.name}/samples.parquet", content)

    @functools.cached_property
    def test(self) -> SplitArrays:
        """The test split, loaded once for all systems."""
        return self.dataset.load("test")

    @functools.cached_property
    def lpips(self) -> tuple[LpipsMetric | None, str]:
        """LPIPS, or None and why it is not measured."""
        return lpips_if_available(self.trials[0].eval)

    def _runs(self, winner: RunConfig | None) -> list[RunConfig]:
        """Return the runs that got as far as a validation."""
        runs = [*self.trials, *([winner] if winner else [])]
        return [run for run in runs if math.isfinite(self._score(self._job(run)))]

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
        runs = [run for run in (*self.trials, winner) if run is not None and run.name in tables]
        for run in runs:
            tracker = attach_tracker(self._job(run))
            scores = {f"test/{k}": score.mean for k, score in tables[run.name].total.items()}
            tracker.metrics(scores, step=len(read_history(self._job(run).run_dir)))
            tracker.close()
        best = max(runs, key=lambda run: self._score(self._job(run)))
        return register_champion(
            best,
            job=self._job(best),
            table=tables[best.name],
            val_score=self._score(self._job(best)),
            protocol=board.protocol,
            console=self.console,
        )

    def _winner_config(self, best: RunConfig) -> RunConfig:
        options, scaling = self.sweep.winner, best.scaling
        room = self.capacity.gpus if scaling.use_gpu else self.capacity.cpus
        share = scaling.gpus_per_worker if scaling.use_gpu else scaling.cpus_per_worker
        workers = options.num_workers or max(1, int(room / share))
        while best.train.batch_size % workers:
            workers -= 1
        return dataclasses.replace(
            best,
            name=f"winner-{best.name}",
            scaling=dataclasses.replace(scaling, num_workers=workers),
            train=dataclasses.replace(
                best.train,
                epochs=options.epochs,
                learning_rate=options.learning_rate,
                init_from=best_bundle(self._job(best).run_dir),
            ),
        )

    def _job(self, config: RunConfig) -> TrainingJob:
        return make_job(config, group=self.name, parent=self._parent_reference())

    def _parent_reference(self) -> str:
        return self.parent.run_id or str(self.parent.folder)

    def _score(self, job: TrainingJob) -> float:
        key = f"val/{job.config.eval.select_metric}"
        scores = [entry[key] for entry in read_history(job.run_dir) if key in entry]
        return max((score for score in scores if math.isfinite(score)), default=math.nan)

    def _epochs(self, config: RunConfig) -> str:
        return f"{len(read_history(self._job(config).run_dir))}/{config.train.epochs}"


def _plan(sweep: Sweep, base: RunConfig) -> list[RunConfig]:
    """Return the planned trials, or raise every problem of every part at once."""
    problems = [*sweep.options.problems(), *sweep.winner.problems(), *base.problems()]
    planned: list[RunConfig] = []
    try:
        planned = plan_trials(base, sweep.space)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return planned


@contextlib.contextmanager
def _parent_run(
    name: str, *, sweep: Sweep, base: RunConfig, dataset: PreparedDataset
) -> Iterator[Tracker]:
    """Open the MLflow run that the trials' runs lie under."""
    from rayfill.provenance import provenance_tags
    from rayfill.tracking import Tracker

    folder = Path(paths.home(), "tracking", name, "sweep")
    tracker = Tracker(folder, tracking_uri=str(base.tracking.uri))
    shared = flatten(to_dict(base))
    varied = {key: ", ".join(str(v) for v in values) for key, values in sweep.space.items()}
    tracker.start(
        name,
        experiment=base.tracking.experiment,
        params={key: value for key, value in shared.items() if key not in varied and key != "name"}
        | {f"space.{key}": value for key, value in varied.items()},
        tags=provenance_tags(dataset_hash=dataset.content_hash, seed=base.train.seed)
        | {"mlflow.note.content": f"Sweep over {', '.join(sweep.space)}. See leaderboard.md."},
    )
    # The database is made here, once, before any worker opens it.
    tracker.flush()
    status = "KILLED"
    try:
        yield tracker
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        tracker.finish(status)


def _say_where(
    config: RunConfig,
    *,
    name: str,
    model: RegisteredModel | None,
    seconds: float,
    console: Console,
) -> None:
    console.print(f"Runs and checkpoints: {config.storage}/{name}", highlight=False, soft_wrap=True)
    console.print(f"MLflow: {config.tracking.uri}", highlight=False, soft_wrap=True)
    if model:
        console.print(
            f"Model {model.name} version {model.version}; serve the champion with `make serve`.",
            highlight=False,
        )
    console.print(f"Done in {seconds:.0f} s.", highlight=False)
