"""What Ray Tune adds to trials that do next to nothing."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from harness import Case, Theme
from rich.console import Console

from rayfill.config.run import (
    DataConfig,
    ModelConfig,
    RunConfig,
    ScalingConfig,
    TrackingConfig,
    TrainConfig,
)
from rayfill.runs.job import make_job
from rayfill.sweeps.budget import Budget
from rayfill.sweeps.plan import Plan
from rayfill.sweeps.progress import SweepProgress
from rayfill.sweeps.spec import SweepOptions
from rayfill.sweeps.trials import PlannedTrials
from rayfill.sweeps.tune import run_trials
from rayfill.training.cluster import Capacity, ray_cluster
from rayfill.training.launch import train_here
from rayfill.training.loop import Runtime, run_training
from rayfill_data.prepared.pipeline import prepare
from rayfill_data.prepared.reader import PreparedDataset
from rayfill_data.sources.photos import PhotosOptions

_TRIALS = 4


def cases(folder: Path) -> Iterator[Case]:
    os.environ["RAYFILL_HOME"] = str(folder)
    uri = str(folder / "photos")
    tiny = PhotosOptions(size=32, train=16, val=4, test=4)
    with ray_cluster() as capacity:
        prepare("photos", out=uri, options=tiny, progress=lambda *_: None)
        yield Case(
            title=f"{_TRIALS} empty trials",
            ways={
                "plain calls, nothing recorded": _fresh(
                    folder, "plain", lambda trials, group: _bare(trials, group=group)
                ),
                "plain calls, recorded in MLflow": _fresh(
                    folder, "recorded", lambda trials, group: _recorded(trials, group=group)
                ),
                "Rayfill sweep": _fresh(
                    folder,
                    "swept",
                    lambda trials, group: _swept(trials, group=group, capacity=capacity),
                ),
            },
            units=_TRIALS,
            unit="trial",
            rounds=4,
            notes=(
                "A sweep starts its worker processes afresh, and each imports torch and MLflow; "
                "plain calls run one after another in a process that has them. The cluster was "
                "started before.",
            ),
        )


def _fresh(
    folder: Path, way: str, run: Callable[[list[RunConfig], str], None]
) -> Callable[[], object]:
    """Return a function that runs new trials, in folders of their own, at every call."""
    number = iter(range(10**6))

    def once() -> None:
        group = f"{way}-{next(number)}"
        run([_trial(index, folder=folder) for index in range(_TRIALS)], group)

    return once


def _trial(index: int, *, folder: Path) -> RunConfig:
    """Return a trial of two steps of a network of a few weights."""
    return RunConfig(
        name=f"trial-{index}",
        storage=str(folder / "runs"),
        data=DataConfig(uri=str(folder / "photos")),
        model=ModelConfig(name="unet", width=1, depth=1, hole_fill="zero"),
        train=TrainConfig(epochs=1, batch_size=8, seed=index),
        scaling=ScalingConfig(use_gpu=False),
        tracking=TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db", pictures=0),
    )


def _bare(trials: list[RunConfig], *, group: str) -> None:
    for trial in trials:
        run_training(
            trial,
            dataset=PreparedDataset.open(trial.data.uri),
            runtime=Runtime(
                run_dir=make_job(trial, group=group).run_dir, device=torch.device("cpu")
            ),
        )


def _recorded(trials: list[RunConfig], *, group: str) -> None:
    for trial in trials:
        train_here(make_job(trial, group=group))


def _swept(trials: list[RunConfig], *, group: str, capacity: Capacity) -> None:
    silent = SweepProgress(trials, concurrent=2, console=Console(file=io.StringIO()))
    options = SweepOptions(scheduler="none")
    plan = Plan(name=group, storage=str(trials[0].storage), trials=trials)
    outcomes = run_trials(
        PlannedTrials(plan),
        options=options,
        budget=Budget(options),
        capacity=capacity,
        parent="",
        progress=silent,
    )
    failed = {name: outcome for name, outcome in outcomes.items() if outcome.status != "finished"}
    assert not failed, failed


THEME = Theme(
    title="Trials of a sweep against plain calls",
    about="Each trial trains a network of a few weights for two steps, validates it, and writes a "
    "checkpoint and its best model: what is left is overhead.",
    libraries=("ray", "torch", "mlflow"),
    cases=cases,
)
