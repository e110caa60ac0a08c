"""Sentences under a table: which systems are compared, and that the numbers are theirs."""

from __future__ import annotations

import math

import numpy as np

from rayfill.comparison import against_baselines, between_systems
from rayfill.config import RunConfig
from rayfill.evaluation import Measured
from rayfill.metrics import MetricTable, Score
from rayfill.sweep_plan import plan_trials

METRICS = ("psnr", "ssim")
SPACE = {"model.name": ("unet", "attention_unet"), "train.seed": (0, 1, 2)}


def measured(offset: float) -> Measured:
    values = np.linspace(20, 30, 50) + offset
    score = Score(mean=float(values.mean()), std=1.0, n=50, n_infinite=0)
    dice = Score(mean=0.5 + offset / 100, std=math.nan, n=50, n_infinite=0)
    return Measured(
        table=MetricTable(total={"psnr": score, "ssim": score, "dice": dice}, buckets={}),
        values={"psnr": values, "ssim": values / 100},
    )


def test_trials_of_several_seeds_count_as_one_system() -> None:
    trials = plan_trials(RunConfig(), SPACE)
    offsets = {trial.name: trial.train.seed * 0.01 for trial in trials}
    for trial in trials:
        offsets[trial.name] += 0.5 * (trial.model.name == "attention_unet")
    found = between_systems(
        trials, measured={name: measured(o) for name, o in offsets.items()}, metrics=METRICS
    )
    assert found[0] == (
        "unet over 3 seeds: psnr 25.0100 ±0.0082, ssim 25.0100 ±0.0082, dice 0.5001 ±0.0001"
    )
    assert found[1].startswith("attention_unet over 3 seeds: psnr 25.5100")
    assert found[2] == (
        "attention_unet - unet: psnr +0.500 [+0.500, +0.500] dB; ssim +0.005 [+0.005, +0.005]"
    )
    assert len(found) == 3


def test_single_trials_are_compared_with_the_first() -> None:
    space = {"loss.terms": ("l1", "mse", "log_mse")}
    trials = plan_trials(RunConfig(), space)
    names = [trial.name for trial in trials]
    values = dict(zip(names, (measured(0), measured(0), measured(1)), strict=True))
    same, better = between_systems(trials, measured=values, metrics=("psnr",))
    assert same == "mse - l1: psnr +0.000 [+0.000, +0.000] dB (not significant)"
    assert better == "log_mse - l1: psnr +1.000 [+1.000, +1.000] dB"


def test_a_trial_that_was_not_measured_is_left_out() -> None:
    trials = plan_trials(RunConfig(), {"train.epochs": (1, 2)})
    assert between_systems(trials, measured={trials[0].name: measured(0)}, metrics=METRICS) == []


def test_every_baseline_is_compared_with_the_best() -> None:
    systems = {"best": measured(2), "telea": measured(0), "mean": measured(-3)}
    found = against_baselines(
        "best", baselines=("telea", "mean"), measured=systems, metrics=("psnr",)
    )
    assert found == [
        "best - telea: psnr +2.000 [+2.000, +2.000] dB",
        "best - mean: psnr +5.000 [+5.000, +5.000] dB",
    ]
