"""What a sweep may use, and what an estimate says of it."""

from __future__ import annotations

from typing import Any

import pytest

from rayfill.config.run import RunConfig, replace
from rayfill.sweeps.budget import Budget, budget_words, hourly_cost
from rayfill.sweeps.spec import SweepOptions
from rayfill.training.cluster import Capacity
from rayfill_data.checks import problems

CORES = replace(RunConfig(), {"scaling.use_gpu": False, "scaling.cpus_per_worker": 2.0})
GPU = replace(
    RunConfig(),
    {"scaling.use_gpu": True, "scaling.gpus_per_worker": 0.5, "scaling.num_workers": 2},
)
PRICES: dict[str, Any] = {"cost_per_cpu_hour": 0.05, "cost_per_gpu_hour": 2.0}


class Clock:
    hours = 100.0

    def __call__(self) -> float:
        return self.hours * 3600


def test_an_hour_costs_what_all_workers_hold() -> None:
    options = SweepOptions(**PRICES)
    assert hourly_cost(CORES, options) == pytest.approx(2 * 0.05)
    assert hourly_cost(GPU, options) == pytest.approx(2 * (0.05 + 0.5 * 2.0))
    assert hourly_cost(GPU, SweepOptions()) == 0.0


def test_cost_is_counted_while_runs_hold_their_resources() -> None:
    clock = Clock()
    budget = Budget(SweepOptions(**PRICES, max_cost=1.0), clock=clock)
    budget.begin(CORES)
    clock.hours += 3
    budget.begin(replace(GPU, {"name": "gpu"}))
    assert budget.cost == pytest.approx(0.3)
    budget.end(CORES.name)
    budget.end("a trial that ended before and was only reported again")
    clock.hours += 0.25
    assert budget.cost == pytest.approx(0.3 + 0.25 * 2.1)
    assert not budget.spent()
    clock.hours += 0.15
    assert budget.spent() == "sweep.max_cost 1 is used up"
    budget.end("gpu")
    clock.hours += 5
    assert budget.cost == pytest.approx(0.3 + 0.4 * 2.1)
    assert budget.words() == "Used: 8.40 h, cost 1.14."


def test_hours_are_those_of_the_call_and_trials_those_begun() -> None:
    clock = Clock()
    budget = Budget(SweepOptions(max_hours=2.0, max_trials=2), clock=clock)
    budget.begin(CORES)
    assert not budget.full()
    with budget.counting(replace(CORES, {"name": "winner"})):
        assert not budget.full()  # no trial
    budget.begin(replace(CORES, {"name": "second"}))
    assert budget.full() == "sweep.max_trials 2 have been begun"
    assert not budget.spent()  # those that run may go on
    clock.hours += 2
    assert budget.spent() == "sweep.max_hours 2 is used up"


def test_the_estimate_says_what_the_budget_pays_for() -> None:
    capacity = Capacity(cpus=4, gpus=0, can_grow=False)
    options = SweepOptions(**PRICES, max_hours=5.0, max_cost=4.0, max_trials=3)
    # Two trials of two cores side by side for ten hours.
    words = budget_words(36000, options=options, trials=[CORES] * 6, capacity=capacity)
    assert words == (
        "Cost: about 2.00. sweep.max_hours 5 pays for 50% of it. sweep.max_cost 4 pays for 100% of "
        "it. sweep.max_trials 3 pays for 50% of it."
    )
    assert not budget_words(60, options=SweepOptions(), trials=[CORES], capacity=capacity)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"trials": 3}, "sweep.trials is for sweep.search random or optuna"),
        ({"search": "optuna"}, "sweep.search optuna needs sweep.trials"),
        ({"search": "random", "trials": 2, "warm_from": "x"}, "needs sweep.search optuna"),
        ({"search": "optuna", "trials": 2, "scheduler": "pbt"}, "chooses hyperparameters itself"),
        ({"max_cost": 1.0}, "sweep.max_cost needs a price"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], why: str) -> None:
    assert why in " ".join(problems(SweepOptions(**options)))
