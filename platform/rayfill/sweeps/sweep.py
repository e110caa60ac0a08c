"""A sweep from end to end: data, trials, the winner trained longer, the table, the champion."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from rayfill.config.run import RunConfig
from rayfill.evaluation.leaderboard import Leaderboard
from rayfill.metrics.aggregate import Measured
from rayfill.runs import places
from rayfill.runs.datasets import ensure_data
from rayfill.runs.folder import Outcome, RunFolder
from rayfill.runs.run_page import (
    compared_params,
    record_inputs,
)
from rayfill.sweeps.budget import Budget, budget_words, estimate
from rayfill.sweeps.draft import make_source
from rayfill.sweeps.page import record_sweep
from rayfill.sweeps.prepared import prepare
from rayfill.sweeps.results import Others, SweepResults, measure_others
from rayfill.sweeps.space import Space, describe_space
from rayfill.sweeps.spec import Sweep
from rayfill.sweeps.stages import SweepRun
from rayfill.training.cluster import place, ray_cluster
from rayfill_data.errors import redact_uri
from rayfill_data.prepared.reader import PreparedDataset

if TYPE_CHECKING:
    from rayfill.runs.registry import RegisteredModel
    from rayfill.runs.tracking import Tracker


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


def sweep(
    base: RunConfig, space: Space, *, console: Console | None = None, **more: Any
) -> SweepResult:
    """Train every run of a space side by side, and return the table and the best model.

    Args:
        base: What all runs share; its name is the sweep's.
        space: Values, variants or ranges by dotted config key, such as
            ``{"train.epochs": (25, 50)}``.
        console: Where progress and table are shown; None is standard output.
        **more: Further fields of :class:`rayfill.sweeps.spec.Sweep`.

    Raises:
        ConfigError: settings that cannot be used, all at once, before anything is started.
        RayfillError: a sweep in which no trial succeeded.
    """
    asked = Sweep(base=base, space=space, **more)
    return run_sweep(asked, console=console or Console())


def run_sweep(sweep: Sweep, *, console: Console) -> SweepResult:
    """Run a sweep, print its leaderboard and register its winner as champion.

    Raises:
        ConfigError: settings that cannot be used, all at once, before anything is started.
        RayfillError: a sweep in which no trial succeeded.
    """
    began = time.monotonic()
    budget = Budget(sweep.options)
    say = functools.partial(_print, console=console)
    prepared = prepare(sweep)
    for note in prepared.draft.notes:
        say(f"Note: {note}")
    with ray_cluster(dashboard=prepared.base.scaling.num_workers > 1) as capacity:
        uri = ensure_data(prepared.base, console=console)
        prepared = prepared.placed(functools.partial(place, capacity=capacity, data_uri=uri))
        base, dataset = prepared.base, PreparedDataset.open(uri)
        runs = prepared.examples
        expected, words = estimate(runs, dataset=dataset, capacity=capacity)
        limits = budget_words(expected, options=sweep.options, trials=runs, capacity=capacity)
        say(f"{words} {limits}".strip())
        others = measure_others([*sweep.baselines, *sweep.also], dataset=dataset, config=base.eval)
        plan, notes = prepared.open_plan(dataset)
        source = make_source(
            plan,
            prepared.draft,
            base=base,
            options=sweep.options,
            searcher=sweep.searcher,
            say=say,
        )
        with _parent_run(plan.name, sweep=sweep, base=source.sample, dataset=dataset) as parent:
            run = SweepRun(
                source=source,
                sweep=sweep,
                budget=budget,
                capacity=capacity,
                parent=parent,
                console=console,
                dataset=dataset,
            )
            results = _train(run, phases=prepared.phases, others=others, notes=notes)
            results.leaderboard.show(console)
            model = results.publish()
            results.report()
    if used := budget.words():
        say(used)
    result = _result(results, model=model, seconds=time.monotonic() - began)
    _say_where(base, result=result, console=console)
    return result


def _result(results: SweepResults, *, model: RegisteredModel | None, seconds: float) -> SweepResult:
    return SweepResult(
        name=results.run.name,
        leaderboard=results.leaderboard,
        outcomes=results.outcomes,
        trials=results.run.trials,
        measured=results.measured,
        bundles=results.bundles,
        model=model,
        seconds=seconds,
    )


def _train(
    run: SweepRun, *, phases: Sequence[RunConfig], others: Others, notes: Sequence[str]
) -> SweepResults:
    """Train everything that is planned."""
    run = run.starting_from(run.train_phases(phases))
    outcomes = run.trials_side_by_side()
    notes = [*notes, *run.left_out(outcomes)]
    winner = run.train_winner(run.best_trial(outcomes), outcomes=outcomes)
    return SweepResults(run=run, outcomes=outcomes, winner=winner, others=others, notes=notes)


@contextlib.contextmanager
def _parent_run(
    name: str, *, sweep: Sweep, base: RunConfig, dataset: PreparedDataset
) -> Iterator[Tracker]:
    """Open the MLflow run that the trials' runs lie under."""
    from rayfill.runs.provenance import provenance_tags, run_tags
    from rayfill.runs.tracking import Tracker

    folder = Path(places.home(), "tracking", name, "sweep")
    tracker = Tracker(folder, tracking_uri=str(base.tracking.uri))
    varied, own = describe_space(sweep.space), RunFolder(f"{base.storage}/{name}")
    new = tracker.start(
        name,
        experiment=base.tracking.experiment,
        params={f"space.{key}": value for key, value in varied.items()}
        | compared_params(base, without=base.tracking.params),
        tags=run_tags(base, kind="sweep", sweep=name, folder=own)
        | provenance_tags(dataset_hash=dataset.content_hash, seed=base.train.seed),
    )
    if new:
        record_inputs(tracker, config=base, dataset=dataset)
        record_sweep(tracker, name=name, config=base, space=sweep.space)
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


def _print(line: str, *, console: Console) -> None:
    console.print(redact_uri(line), highlight=False, markup=False, soft_wrap=True)


def _say_where(config: RunConfig, *, result: SweepResult, console: Console) -> None:
    _print(f"Runs and checkpoints: {config.storage}/{result.name}", console=console)
    _print(f"MLflow: {config.tracking.uri}", console=console)
    if model := result.model:
        _print(
            f"Model {model.name} version {model.version}; serve the champion with "
            f"`rayfill serve --models {model.name}@champion`.",
            console=console,
        )
    _print(f"Done in {result.seconds:.0f} s.", console=console)
