"""Paired differences: against scipy, a plain loop, and what the statistics promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from rayfill.metrics.significance import MIN_PHOTOGRAPHS, Interval, holm, paired_difference
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
    with pytest.raises(RayfillError, match="photographs of 2 samples and values of 3"):
        paired_difference(np.zeros(3), np.zeros(3), source_id=["a", "b"])


def by_plain_loop(
    differences: NDArray[np.float64], source_id: list[str], *, resamples: int, seed: int
) -> tuple[NDArray[np.float64], float]:
    """Return quantiles and p-value of the cluster bootstrap as a book would write it."""
    rng = np.random.default_rng(seed)
    photographs = sorted(set(source_id))
    samples = {p: [i for i, own in enumerate(source_id) if own == p] for p in photographs}
    num_seeds = len(differences)
    draws = []
    for _ in range(resamples):
        drawn = rng.integers(len(photographs), size=len(photographs))
        columns = [sample for number in drawn for sample in samples[photographs[number]]]
        seeds = rng.integers(num_seeds, size=num_seeds)
        draws.append(differences[seeds][:, columns].mean())
    values = np.array(draws)
    beyond = min((values <= 0).mean(), (values >= 0).mean())
    return np.percentile(values, [2.5, 97.5]), min(1.0, 2 * float(beyond))


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_photographs_are_drawn_as_in_a_plain_loop(num_seeds: int) -> None:
    rng = np.random.default_rng(6)
    source_id = [f"p{number}" for number in rng.permutation(np.repeat(range(20), range(1, 21)))]
    common = {name: rng.normal(0.5, 1) for name in sorted(set(source_id))}
    differences = np.array([common[name] for name in source_id]) + rng.normal(
        0, 0.3, (num_seeds, len(source_id))
    )
    found = paired_difference(
        differences, np.zeros_like(differences), source_id=source_id, resamples=20_000
    )
    (low, high), p_value = by_plain_loop(differences, source_id, resamples=20_000, seed=7)
    assert (found.num_samples, found.num_photographs) == (210, 20)
    assert found.mean == pytest.approx(differences.mean())
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)
    assert found.p_value == pytest.approx(p_value, abs=0.02)


def test_samples_of_photographs_of_their_own_are_drawn_as_samples() -> None:
    rng = np.random.default_rng(8)
    first, second = rng.normal(25, 4, (2, 300)), rng.normal(24.9, 4, (2, 300))
    names = [f"p{number}" for number in rng.permutation(300)]
    known, unknown = (
        paired_difference(first, second, source_id=names),
        paired_difference(first, second),
    )
    assert (known.low, known.high, known.p_value) == (unknown.low, unknown.high, unknown.p_value)
    assert (known.counted, unknown.counted) == ("300 photographs", "300 samples")


def test_photographs_without_a_value_do_not_count() -> None:
    found = paired_difference([1.0, np.nan, 2.0], [0.0, 0.0, 0.0], source_id=["a", "b", "a"])
    assert (found.num_samples, found.num_photographs) == (2, 1)
    assert found.too_few == "1 photograph is too few to tell"


def test_intervals_over_photographs_cover_and_over_samples_do_not() -> None:
    rng = np.random.default_rng(9)
    source_id = [str(number) for number in np.repeat(range(30), 6)]
    covered = {"photographs": 0, "samples": 0}
    for _ in range(200):
        common = np.repeat(rng.normal(0, 1, 30), 6)  # what all crops of a photograph share
        differences = 0.3 + common + rng.normal(0, 1, 180)
        for over, known in (("photographs", source_id), ("samples", None)):
            found = paired_difference(differences, np.zeros(180), source_id=known, resamples=400)
            covered[over] += found.low < 0.3 < found.high
    assert covered["photographs"] >= 180
    assert covered["samples"] < 160


def test_nothing_is_significant_over_a_few_photographs() -> None:
    for count in (MIN_PHOTOGRAPHS - 1, MIN_PHOTOGRAPHS):
        source_id = [f"p{sample % count}" for sample in range(100)]
        found = paired_difference(np.ones(100), np.zeros(100), source_id=source_id)
        assert (found.low, found.high, found.p_value) == (1, 1, 1 / 2000)
        assert found.significant == (count == MIN_PHOTOGRAPHS)
        assert found.too_few == ("" if found.significant else "7 photographs are too few to tell")


def interval(p_value: float) -> Interval:
    return Interval(
        mean=1, low=0.5, high=1.5, confidence=0.95, p_value=p_value, num_seeds=1,
        num_samples=100, num_photographs=50,
    )  # fmt: skip


def test_holm_steps_down_as_its_definition_says() -> None:
    # Holm 1979: reject the smallest while p_(k) <= 0.05 / (m - k + 1), and none after the first
    # that is not. 0.01 <= 0.05/4 and 0.0125 <= 0.05/3, but 0.03 > 0.05/2, so 0.04 <= 0.05 is not
    # reached.
    found = holm([interval(0.04), interval(0.01), None, interval(0.03), interval(0.0125)])
    values = [one.p_value if one else math.nan for one in found]
    assert values == pytest.approx([0.06, 0.04, math.nan, 0.06, 0.04], nan_ok=True)
    assert [one.significant if one else None for one in found] == [False, True, None, False, True]
    (alone,) = holm([interval(0.04)])
    assert alone == interval(0.04)
    assert [one and one.p_value for one in holm([interval(0.6), interval(0.9)])] == [1.0, 1.0]


def test_systems_that_do_not_differ_are_rarely_told_apart_however_many() -> None:
    rng = np.random.default_rng(10)
    wrong = {"each alone": 0, "corrected": 0}
    for _ in range(60):
        alone = [
            paired_difference(rng.normal(0, 1, 40), np.zeros(40), resamples=500) for _ in range(8)
        ]
        wrong["each alone"] += any(one.significant for one in alone)
        wrong["corrected"] += any(one and one.significant for one in holm(alone))
    assert wrong["each alone"] > 10
    assert wrong["corrected"] <= 6
