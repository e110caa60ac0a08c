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

from rayfill.config.run import RunConfig, replace
from rayfill.evaluation.evaluate_all import TABLE_BASELINES
from rayfill.evaluation.leaderboard import Leaderboard, ReportRow
from rayfill.evaluation.measure import Measured
from rayfill.runs import places
from rayfill.runs.data_location import check_data, ensure_data
from rayfill.runs.folder import Outcome, RunFolder
from rayfill.runs.places import resolve_paths
from rayfill.runs.run_page import (
    compared_params,
    comparing,
    differing_keys,
    record_inputs,
)
from rayfill.sweeps.budget import Budget
from rayfill.sweeps.draft import (
    Draft,
    draft_runs,
    draft_search,
    make_source,
    read_earlier,
    tell_earlier,
)
from rayfill.sweeps.estimate import budget_words, estimate
from rayfill.sweeps.options import SweepOptions
from rayfill.sweeps.page import record_sweep
from rayfill.sweeps.plan import Plan, open_plan, plan_to_resume
from rayfill.sweeps.results import Others, SweepResults, measure_others
from rayfill.sweeps.space import Space, Variant, describe_space, varied_keys
from rayfill.sweeps.stages import SweepRun
from rayfill.sweeps.starts import find_starts, with_start
from rayfill.sweeps.tune import scheduler_problems
from rayfill.training.cluster import place, ray_cluster
from rayfill_data.errors import ConfigError
from rayfill_data.reader import PreparedDataset
from rayfill_data.redaction import redact_uri

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher

    from rayfill.runs.registry import RegisteredModel
    from rayfill.runs.tracking import Tracker


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
    space: Space = dataclasses.field(default_factory=dict)
    """What is varied: listed values, variants, or ranges that random and optuna draw from."""
    runs: Sequence[RunConfig] = ()
    """Runs to train instead of those of a space."""
    beside: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Folders of runs that were trained before, to stand in the table, by name."""
    phases: Sequence[Variant] = ()
    """Runs trained before the trials, one after the other with all workers, each from the weights
    of the one before it; the trials start from the last."""
    options: SweepOptions = SweepOptions()
    winner: WinnerOptions = WinnerOptions()
    winner_changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Dotted config keys that the winner's further training changes."""
    baselines: Sequence[str] = TABLE_BASELINES
    """Classical baselines that stand in the table."""
    also: Sequence[str] = ()
    """Further systems in the table: whatever `rayfill evaluate` measures."""
    compare_trials: bool = False
    """Say how each trial differs from the first, with an interval."""
    report: Sequence[ReportRow] = ()
    """Numbers of a report, shown below ours and never ranked."""
    columns: Sequence[str] = ()
    """Metrics to show instead of the usual ones."""
    notes: Sequence[str] = ()
    """What a reader of the table must know, a sentence each."""
    scheduler: TrialScheduler | None = None
    """A scheduler of Ray Tune's, without metric and mode, in place of the one that options name: it
    stops trials early."""
    searcher: Searcher | None = None
    """A searcher of Ray Tune's in place of `options.search`: it suggests `options.trials` points of
    the space, one value for each of its keys (of a variant, its name)."""
    resume: bool = False

    def __post_init__(self) -> None:
        if self.searcher is not None:  # one point at a time, as Optuna is asked
            options = dataclasses.replace(self.options, search="optuna")
            object.__setattr__(self, "options", options)

    def problems(self) -> Iterator[str]:
        """Yield one sentence for every part that cannot be used."""
        yield from self.options.problems()
        yield from self.winner.problems()
        if self.searcher is not None and self.runs:
            yield "Sweep.searcher chooses runs, and Sweep.runs gives them: leave one out."
        if self.scheduler is not None:
            yield from scheduler_problems(self.scheduler, options=self.options)


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
    budget = Budget(sweep.options)
    base = comparing(resolve_paths(sweep.base), varied_keys(sweep.space))
    draft = _draft(sweep, base)
    check_data(base)
    found = _find_starts(sweep, base, draft=draft)
    for note in draft.notes:
        _print(f"Note: {note}", console=console)
    nested = base.scaling.num_workers > 1
    with ray_cluster(dashboard=nested) as capacity:
        uri = ensure_data(base, console=console)
        settled = functools.partial(place, capacity=capacity, data_uri=uri)
        base = settled(base)
        draft = draft.changed(settled)
        dataset = PreparedDataset.open(uri)
        phases = [with_start(settled(run), found) for run in _phases(sweep, base)]
        planned = [*phases, *draft.examples]
        expected, words = estimate(planned, dataset=dataset, capacity=capacity)
        limits = budget_words(expected, options=sweep.options, trials=planned, capacity=capacity)
        _print(f"{words} {limits}".strip(), console=console)
        others = measure_others([*sweep.baselines, *sweep.also], dataset=dataset, config=base.eval)
        plan, notes = _open(sweep, base, draft=draft, dataset=dataset, found=found)
        source = make_source(
            plan,
            draft,
            base=base,
            options=sweep.options,
            searcher=sweep.searcher,
            say=functools.partial(_print, console=console),
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
            results = _train(run, phases=phases, others=others, notes=[*draft.notes, *notes])
            results.leaderboard.show(console)
            model = results.publish()
            results.report()
    seconds = time.monotonic() - began
    if used := budget.words():
        _print(used, console=console)
    _say_where(base, name=plan.name, model=model, seconds=seconds, console=console)
    return SweepResult(
        name=plan.name,
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


def _draft(sweep: Sweep, base: RunConfig) -> Draft:
    """Return what is planned, or raise every problem of every part at once."""
    problems = [*sweep.problems(), *base.problems()]
    draft = None
    try:
        _phases(sweep, base)
        if sweep.runs:
            differing = differing_keys(sweep.runs)
            draft = draft_runs([comparing(resolve_paths(run), differing) for run in sweep.runs])
        else:
            draft = draft_search(base, sweep.space, options=sweep.options, searcher=sweep.searcher)
    except ConfigError as error:
        problems += error.problems
    if problems or draft is None:
        raise ConfigError(dict.fromkeys(problems))
    if sweep.options.warm_from:
        read_earlier(sweep.options.warm_from, storage=str(base.storage))
    return draft


def _find_starts(sweep: Sweep, base: RunConfig, *, draft: Draft) -> dict[str, str]:
    """Return where the weights lie that phases and trials start from."""
    known: Mapping[str, str] = {}
    if sweep.resume:
        known = plan_to_resume(base.name, storage=str(base.storage)).started_from
    # Where there are phases, trials start from the last one.
    return find_starts(_phases(sweep, base)[:1] or draft.examples, known=known)


def _open(
    sweep: Sweep,
    base: RunConfig,
    *,
    draft: Draft,
    dataset: PreparedDataset,
    found: Mapping[str, str],
) -> tuple[Plan, list[str]]:
    """Write the plan down, or read back the one to resume; return it and what to note."""
    plan = Plan(
        name=base.name,
        storage=str(base.storage),
        trials=list(draft.trials),
        search=draft.search,
        started_from=dict(found),
    )
    if not sweep.options.warm_from:
        return open_plan(plan, resume=sweep.resume), []
    told, note = tell_earlier(
        sweep.options.warm_from, space=draft.space, base=base, dataset_hash=dataset.content_hash
    )
    return open_plan(dataclasses.replace(plan, told=told), resume=sweep.resume), [note]


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


def _say_where(
    config: RunConfig,
    *,
    name: str,
    model: RegisteredModel | None,
    seconds: float,
    console: Console,
) -> None:
    _print(f"Runs and checkpoints: {config.storage}/{name}", console=console)
    _print(f"MLflow: {config.tracking.uri}", console=console)
    if model:
        console.print(
            f"Model {model.name} version {model.version}; serve the champion with "
            f"`rayfill serve --models {model.name}`.",
            highlight=False,
        )
    console.print(f"Done in {seconds:.0f} s.", highlight=False)
