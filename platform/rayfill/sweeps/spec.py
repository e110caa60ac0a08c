"""What a sweep is asked to do: what to vary, how to choose, and what becomes of the best."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rayfill.config.run import RunConfig
from rayfill.runs.references import TABLE_BASELINES
from rayfill.sweeps.space import Space, Variant
from rayfill_data.checks import Count, NotNegative, Positive, Related, Whole, problems

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher

    from rayfill.evaluation.leaderboard import ReportRow


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepOptions(Related):
    """How a sweep is run; what it varies is the experiment's own."""

    search: Literal["grid", "random", "optuna"] = "grid"
    """grid: every combination of listed values; random: points of the space; optuna: each point
    where the results so far promise most (TPE)."""
    trials: Count | None = None
    """Trials of random and optuna, or members of a population."""
    warm_from: str | None = None
    """optuna: another sweep, on the same dataset and metric, whose trials it knows beforehand."""
    scheduler: Literal["asha", "none", "pbt"] = "asha"
    """asha stops the weaker half of the trials early; none runs all to the end; pbt trains a
    population whose worst members take over from the best, at varied hyperparameters."""
    grace_epochs: Count = 1
    """Epochs every trial gets before it may be stopped early."""
    generation_epochs: Count = 1
    """pbt: epochs between takeovers."""
    max_concurrent: Count | None = None
    """Trials at a time; None is as many as the cluster holds."""
    max_hours: Positive | None = None
    """Hours after which no trial is begun and running ones end with their epoch. Limits are those
    of one call; what they leave out goes on with a resume."""
    max_trials: Count | None = None
    """Trials to begin in this call."""
    max_cost: Positive | None = None
    """Cost after which nothing is begun, as max_hours; it needs a price."""
    cost_per_cpu_hour: NotNegative = 0.0
    """Price of a CPU core for an hour, in any currency."""
    cost_per_gpu_hour: NotNegative = 0.0
    """Price of a GPU for an hour, in the same."""

    def relations(self) -> Iterator[str]:
        """Yield which parts of a search and of its budget do not go together."""
        if self.max_cost is not None and not (self.cost_per_cpu_hour or self.cost_per_gpu_hour):
            yield (
                "sweep.max_cost needs a price: give sweep.cost_per_cpu_hour or "
                "sweep.cost_per_gpu_hour."
            )
        if self.search == "grid" and self.trials is not None:
            yield "sweep.trials is for sweep.search random or optuna; a grid has its own number."
        if self.search != "grid" and self.trials is None:
            yield f"sweep.search {self.search} needs sweep.trials: how many to try."
        if self.warm_from is not None and self.search != "optuna":
            yield f"sweep.warm_from needs sweep.search optuna, got {self.search}."
        if self.scheduler == "pbt" and self.search == "optuna":
            yield (
                "sweep.scheduler pbt chooses hyperparameters itself: let it begin from "
                "sweep.search grid or random."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WinnerOptions:
    """How the best trial is trained on, by all workers together."""

    epochs: Whole = 12
    """Further epochs, starting from the trial's best weights; 0 keeps the trial as it is."""
    num_workers: Count | None = None
    """Data-parallel workers; None is one per GPU, or per core without GPUs."""
    learning_rate: Positive = 2e-3
    """Peak learning rate of the further training."""


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
        yield from problems(self.options, name="sweep")
        yield from problems(self.winner, name="winner")
        if self.searcher is not None and self.runs:
            yield "Sweep.searcher chooses runs, and Sweep.runs gives them: leave one out."
