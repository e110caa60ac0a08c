"""Sentences under a table: which systems are compared, and that the numbers are theirs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from rayfill.config.run import RunConfig
from rayfill.evaluation.differences import (
    against_baselines,
    between_systems,
    differences_from,
)
from rayfill.metrics import BUCKETS, MetricTable, Score
from rayfill.metrics.aggregate import Measured
from rayfill.sweeps.plan import plan_trials

METRICS = ("psnr", "ssim")
RATIO = np.linspace(0.05, 0.24, 50)  # 14 samples below 10 %, 26 below 20 %
PHOTOGRAPHS = tuple(f"p{sample % 25}" for sample in range(50))
SPACE = {"model.name": ("unet", "attention_unet"), "train.seed": (0, 1, 2)}


def measured(offset: float) -> Measured:
    values = np.linspace(20, 30, 50) + offset
    score = Score(mean=float(values.mean()), std=1.0, n=50, n_infinite=0)
    dice = Score(mean=0.5 + offset / 100, std=math.nan, n=50, n_infinite=0)
    return Measured(
        table=MetricTable(total={"psnr": score, "ssim": score, "dice": dice}, buckets={}),
        values={"psnr": values, "ssim": values / 100},
        source_id=PHOTOGRAPHS,
    )


def test_trials_of_several_seeds_count_as_one_system() -> None:
    trials = plan_trials(RunConfig(), SPACE)
    offsets = {trial.name: trial.train.seed * 0.01 for trial in trials}
    for trial in trials:
        offsets[trial.name] += 0.5 * (trial.model.name == "attention_unet")
    found = between_systems(
        trials,
        measured={name: measured(o) for name, o in offsets.items()},
        metrics=METRICS,
        hole_ratio=RATIO,
    )
    assert found[0] == (
        "unet over 3 seeds: psnr 25.0100 ±0.0082, ssim 25.0100 ±0.0082, dice 0.5001 ±0.0001"
    )
    assert found[1].startswith("attention_unet over 3 seeds: psnr 25.5100")
    assert found[2] == (
        "attention_unet - unet: psnr +0.500 [+0.500, +0.500] dB (25 photographs); "
        "ssim +0.005 [+0.005, +0.005] (25 photographs)"
    )
    assert found[3] == (
        "attention_unet - unet, by hole ratio: psnr [0,10) +0.500 [+0.500, +0.500] "
        "(13 photographs); [10,20) +0.500 [+0.500, +0.500] (25 photographs); "
        "[20,30) +0.500 [+0.500, +0.500] (11 photographs)"
    )
    assert len(found) == 4


def test_single_trials_are_compared_with_the_first() -> None:
    space = {"loss.terms": ("l1", "mse", "log_mse")}
    trials = plan_trials(RunConfig(), space)
    names = [trial.name for trial in trials]
    values = dict(zip(names, (measured(0), measured(0), measured(1)), strict=True))
    same, _, better, _ = between_systems(
        trials, measured=values, metrics=("psnr",), hole_ratio=RATIO
    )
    assert same == "mse - l1: psnr +0.000 [+0.000, +0.000] dB (25 photographs, not significant)"
    assert better == "log_mse - l1: psnr +1.000 [+1.000, +1.000] dB (25 photographs)"


def test_a_hole_at_an_edge_is_in_the_bucket_of_the_table() -> None:
    trials = plan_trials(RunConfig(), {"loss.terms": ("l1", "mse")})
    values = {trial.name: measured(0) for trial in trials}
    for tenth in range(1, 10):
        ratio = np.full(50, np.float32(tenth / 10), float)  # as kept: 0.7 is a little less
        said = between_systems(trials, measured=values, metrics=("psnr",), hole_ratio=ratio)[1]
        assert f": psnr {BUCKETS[tenth]} " in said


def test_a_trial_that_was_not_measured_is_left_out() -> None:
    trials = plan_trials(RunConfig(), {"train.epochs": (1, 2)})
    known = {trials[0].name: measured(0)}
    assert between_systems(trials, measured=known, metrics=METRICS, hole_ratio=RATIO) == []


def test_a_gain_in_large_holes_alone_shows_where_it_is() -> None:
    trials = plan_trials(RunConfig(), {"loss.terms": ("l1", "mse")})
    rng = np.random.default_rng(0)
    first = measured(0)
    gain = np.where(RATIO >= 0.2, 1.0, 0.0) + rng.normal(0, 0.1, 50)
    second = dataclasses.replace(first, values={"psnr": first.values["psnr"] + gain})
    values = dict(zip((trial.name for trial in trials), (first, second), strict=True))
    found = between_systems(trials, measured=values, metrics=("psnr",), hole_ratio=RATIO)[1]
    small, _, large = found.split(": psnr ")[1].split("; ")
    assert small.endswith(" photographs, not significant)")
    mean = gain[RATIO >= 0.2].mean()
    assert large.startswith(f"[20,30) {mean:+.3f} [")
    assert large.endswith(" photographs)")


def test_a_few_photographs_tell_nothing_and_unknown_ones_are_not_made_up() -> None:
    few, unknown = (
        {
            name: dataclasses.replace(measured(offset), source_id=source_id)
            for name, offset in (("best", 2), ("telea", 0))
        }
        for source_id in (("one", "two") * 25, None)
    )
    said = [
        against_baselines("best", baselines=("telea",), measured=systems, metrics=("psnr",))
        for systems in (few, unknown)
    ]
    assert said == [
        ["best - telea: psnr +2.000 [+2.000, +2.000] dB (2 photographs are too few to tell)"],
        ["best - telea: psnr +2.000 [+2.000, +2.000] dB (50 samples)"],
    ]
    verdicts = {found.system: found.verdict() for found in differences_from("telea", measured=few)}
    assert verdicts["best"] == "2 photographs are too few to tell"


def test_verdicts_are_corrected_for_the_number_of_systems_compared() -> None:
    rng = np.random.default_rng(3)
    values = measured(0).values["psnr"]
    gains = {f"other{number}": rng.normal(0, 1, 50) for number in range(6)}
    lucky = rng.normal(0, 1, 50)
    gains["lucky"] = (lucky - lucky.mean()) / lucky.std() + 0.33  # p of about 0.02 by itself
    crowd = {
        name: dataclasses.replace(
            measured(0),
            values={"psnr": values + gain},
            source_id=tuple(f"p{sample}" for sample in range(50)),
        )
        for name, gain in {"base": 0, **gains}.items()
    }
    pair = {name: crowd[name] for name in ("base", "lucky")}
    found = [
        next(d for d in differences_from("base", measured=systems) if d.system == "lucky")
        for systems in (pair, crowd)
    ]
    assert [d.verdict() for d in found] == ["better", "no difference found"]
    alone, among = (d.interval for d in found)
    assert alone is not None
    assert among is not None
    assert (alone.low, alone.high) == (among.low, among.high)
    assert among.p_value > alone.p_value


def test_every_baseline_is_compared_with_the_best() -> None:
    systems = {"best": measured(2), "telea": measured(0), "mean": measured(-3)}
    found = against_baselines(
        "best", baselines=("telea", "mean"), measured=systems, metrics=("psnr",)
    )
    assert found == [
        "best - telea: psnr +2.000 [+2.000, +2.000] dB (25 photographs)",
        "best - mean: psnr +5.000 [+5.000, +5.000] dB (25 photographs)",
    ]
