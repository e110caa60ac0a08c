"""Paired differences: against scipy's bootstrap and against what the statistic promises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rayfill.metrics.significance import paired_difference
from rayfill_data.errors import RayfillError


def test_the_interval_is_that_of_scipy_s_bootstrap() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(25, 4, 400), rng.normal(24.8, 4, 400)
    ours = paired_difference(first, second, resamples=8000)
    oracle = stats.bootstrap(
        (first - second,), np.mean, method="percentile", n_resamples=8000, rng=rng
    ).confidence_interval
    assert ours.mean == pytest.approx((first - second).mean())
    assert ours.low == pytest.approx(oracle.low, abs=0.03)
    assert ours.high == pytest.approx(oracle.high, abs=0.03)


def test_a_system_does_not_differ_from_itself() -> None:
    values = np.random.default_rng(2).normal(25, 4, 50)
    same = paired_difference(values, values)
    assert (same.mean, same.low, same.high, same.significant) == (0, 0, 0, False)


def test_pairing_finds_a_small_difference_that_the_spread_of_samples_hides() -> None:
    rng = np.random.default_rng(3)
    samples = rng.normal(25, 6, 200)
    better = samples + rng.normal(0.1, 0.2, 200)
    found = paired_difference(better, samples)
    assert found.significant
    assert found.low < 0.1 < found.high


def test_about_one_in_twenty_intervals_misses_the_true_difference() -> None:
    rng = np.random.default_rng(4)
    draws = [paired_difference(rng.normal(0, 1, 60), np.zeros(60), seed=i) for i in range(300)]
    assert 0.02 < np.mean([draw.significant for draw in draws]) < 0.10


def test_seeds_that_disagree_widen_the_interval() -> None:
    rng = np.random.default_rng(5)
    second = rng.normal(25, 4, (3, 500))
    noise = rng.normal(0, 0.1, (3, 500))
    agreeing = paired_difference(second + 0.3 + noise, second)
    disagreeing = paired_difference(second + np.array([[1.3], [-0.7], [0.3]]) + noise, second)
    assert agreeing.significant
    assert not disagreeing.significant
    assert (agreeing.num_seeds, agreeing.num_samples) == (3, 500)


def test_samples_without_a_value_are_left_out_of_both() -> None:
    first = np.array([1.0, np.nan, 3.0, np.inf, np.inf])
    found = paired_difference(first, np.array([0.0, 0.0, 2.0, 5.0, np.inf]))
    assert found.num_samples == 2
    assert found.mean == 1.0
    assert str(found) == "+1.000 [+1.000, +1.000]"


def test_other_samples_are_refused() -> None:
    with pytest.raises(RayfillError, match="same split"):
        paired_difference(np.zeros(3), np.zeros(4))
    with pytest.raises(RayfillError, match="no sample"):
        paired_difference([np.nan], [1.0])
