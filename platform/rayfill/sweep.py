"""A sweep from end to end: data, trials, the winner trained longer, the table, the champion."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from rayfill import paths
from rayfill.cluster import place, ray_cluster
from rayfill.config import RunConfig, flatten, replace, to_dict
from rayfill.data_location import check_data, ensure_data
from rayfill.estimate import estimate
from rayfill.evaluate_all import TABLE_BASELINES
from rayfill.evaluation import Measured
from rayfill.leaderboard import Leaderboard, ReportRow
from rayfill.sweep_plan import Outcome, Variant, leave_out_untrainable, open_plan, plan_trials
from rayfill.sweep_run import SweepRun
from rayfill.training.driver import resolve_paths
from rayfill.tuning import SweepOptions
from rayfill_data.errors import ConfigError
from rayfill_data.reader import PreparedDataset

if TYPE_CHECKING:
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
    phases: Sequence[Variant] = ()
    """Runs trained before the trials, one after the other with all workers, each from the weights
    of the one before it; the trials start from the last."""
    options: SweepOptions = SweepOptions()
    winner: WinnerOptions = WinnerOptions()
    winner_changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Dotted config keys that the winner's further training changes."""
    baselines: Sequence[str] = TABLE_BASELINES
    """Classical baselines that stand in the table."""
    compare_trials: bool = False
    """Say how each trial differs from the first, with an interval."""
    report: Sequence[ReportRow] = ()
    """Numbers of a report, shown below ours and never ranked."""
    columns: Sequence[str] = ()
    """Metrics to show instead of the usual ones."""
    notes: Sequence[str] = ()
    """What a reader of the table must know, a sentence each."""
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
    bundles: Mapping[str, str]
    """Where the model bundle of every run lies, the winner's included."""
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
        phases = [place(run, capacity=capacity, data_uri=uri) for run in _phases(sweep, base)]
        _, expected = estimate([*phases, *trials], dataset=dataset, capacity=capacity)
        console.print(expected, highlight=False, soft_wrap=True)
        name, trials = open_plan(base.name, trials, storage=str(base.storage), resume=sweep.resume)
        with _parent_run(name, sweep=sweep, base=trials[0], dataset=dataset) as parent:
            run = SweepRun(
                name=name,
                sweep=sweep,
                capacity=capacity,
                parent=parent,
                console=console,
                dataset=dataset,
                trials=trials,
            )
            run = run.starting_from(run.train_phases(phases))
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
        bundles=run.bundles(winner),
        model=model,
        seconds=seconds,
    )


def _phases(sweep: Sweep, base: RunConfig) -> list[RunConfig]:
    """Return the runs before the trials, or raise every problem of every one at once."""
    runs = [
        replace(base, {**phase.changes, "name": f"phase{number}-{phase.name}"})
        for number, phase in enumerate(sweep.phases, start=1)
    ]
    problems = dict.fromkeys(problem for run in runs for problem in run.problems())
    if problems:
        raise ConfigError(problems)
    return runs


def _plan(sweep: Sweep, base: RunConfig) -> list[RunConfig]:
    """Return the planned trials, or raise every problem of every part at once."""
    problems = [*sweep.options.problems(), *sweep.winner.problems(), *base.problems()]
    planned: list[RunConfig] = []
    try:
        _phases(sweep, base)
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
    from rayfill.provenance import provenance_tags, run_tags
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
        | run_tags(base, kind="sweep", sweep=name, run_dir=f"{base.storage}/{name}")
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
            f"Model {model.name} version {model.version}; serve the champion with "
            f"`rayfill serve --models {model.name}`.",
            highlight=False,
        )
    console.print(f"Done in {seconds:.0f} s.", highlight=False)
