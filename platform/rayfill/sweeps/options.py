"""How a sweep is run: its search, its scheduler, its budget. Light enough for ``--help``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """How a sweep is run; what it varies is the experiment's own."""

    search: Literal["grid", "random", "optuna"] = "grid"
    """grid: every combination of listed values; random: points of the space; optuna: each point
    where the results so far promise most (TPE)."""
    trials: int | None = None
    """Trials of random and optuna, or members of a population."""
    warm_from: str | None = None
    """optuna: another sweep, on the same dataset and metric, whose trials it knows beforehand."""
    scheduler: Literal["asha", "none", "pbt"] = "asha"
    """asha stops the weaker half of the trials early; none runs all to the end; pbt trains a
    population whose worst members take over from the best, at varied hyperparameters."""
    grace_epochs: int = 1
    """Epochs every trial gets before it may be stopped early."""
    generation_epochs: int = 1
    """pbt: epochs between takeovers."""
    max_concurrent: int | None = None
    """Trials at a time; None is as many as the cluster holds."""
    max_hours: float | None = None
    """Hours after which no trial is begun and running ones end with their epoch. Limits are those
    of one call; what they leave out goes on with a resume."""
    max_trials: int | None = None
    """Trials to begin in this call."""
    max_cost: float | None = None
    """Cost after which nothing is begun, as max_hours; it needs a price."""
    cost_per_cpu_hour: float = 0.0
    """Price of a CPU core for an hour, in any currency."""
    cost_per_gpu_hour: float = 0.0
    """Price of a GPU for an hour, in the same."""

    def problems(self) -> Iterator[str]:
        """Yield one sentence for every value that cannot be used."""
        for name in ("grace_epochs", "generation_epochs"):
            if getattr(self, name) < 1:
                yield f"sweep.{name} is {getattr(self, name)}: it must be at least 1."
        for name in ("trials", "max_concurrent", "max_trials"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield f"sweep.{name} is {value}: it must be at least 1."
        for name in ("max_hours", "max_cost"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                yield f"sweep.{name} is {value}: it must be above 0."
        for name in ("cost_per_cpu_hour", "cost_per_gpu_hour"):
            if not getattr(self, name) >= 0:
                yield f"sweep.{name} is {getattr(self, name)}: it must be 0 or more."
        if self.max_cost is not None and not (self.cost_per_cpu_hour or self.cost_per_gpu_hour):
            yield (
                "sweep.max_cost needs a price: give sweep.cost_per_cpu_hour or "
                "sweep.cost_per_gpu_hour."
            )
        yield from self._search_problems()

    def _search_problems(self) -> Iterator[str]:
        """Yield which parts of a search do not go together."""
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
