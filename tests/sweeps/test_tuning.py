"""What trials ask the cluster for, and how many fit side by side."""

from __future__ import annotations

from typing import Any

import pytest

from rayfill.config.run import RunConfig, replace
from rayfill.sweeps.spec import Sweep, SweepOptions, WinnerOptions
from rayfill.sweeps.tune import trial_resources
from rayfill.training.cluster import Capacity, concurrent_trials


@pytest.mark.parametrize(
    ("changes", "asked", "side_by_side"),
    [
        ({}, {"CPU": 1.0}, 16),
        ({"scaling.cpus_per_worker": 4.0}, {"CPU": 4.0}, 4),
        ({"scaling.use_gpu": True}, {"CPU": 1.0, "GPU": 1.0}, 2),
        ({"scaling.use_gpu": True, "scaling.gpus_per_worker": 0.25}, {"CPU": 1.0, "GPU": 0.25}, 8),
        # A trial of several workers is a launcher that must fit beside them.
        ({"scaling.num_workers": 2}, {"CPU": 0.01}, 8),
        ({"scaling.num_workers": 2, "scaling.use_gpu": True}, {"CPU": 0.01}, 1),
    ],
)
def test_packing_on_sixteen_cores_and_two_gpus(
    changes: dict[str, Any], asked: dict[str, float], side_by_side: int
) -> None:
    config = replace(RunConfig(), {"scaling.use_gpu": False} | changes)
    assert trial_resources(config) == asked
    capacity = Capacity(cpus=16, gpus=2, can_grow=False)
    assert concurrent_trials(config, capacity=capacity) == side_by_side


def test_options_that_cannot_be_used_are_named() -> None:
    options = SweepOptions(grace_epochs=0, max_concurrent=0)
    winner = WinnerOptions(epochs=-1, num_workers=0, learning_rate=0.0)
    problems = Sweep(base=RunConfig(), options=options, winner=winner).problems()
    assert [problem.split(" ")[0] for problem in problems] == [
        "sweep.grace_epochs", "sweep.max_concurrent",
        "winner.epochs", "winner.num_workers", "winner.learning_rate",
    ]  # fmt: skip
