"""Whether one system is better than another on the same samples, and by how much."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rayfill_data.errors import RayfillError

#: Resamples that are weighed at a time, so that 10,000 samples fit in memory.
_CHUNK = 250


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """Mean of ``first - second`` with a bootstrap confidence interval."""

    mean: float
    low: float
    high: float
    confidence: float
    num_seeds: int
    num_samples: int
    """Samples on which both are finite in every seed."""

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    def __neg__(self) -> Interval:
        """Return that of ``second - first``."""
        return dataclasses.replace(self, mean=-self.mean, low=-self.high, high=-self.low)

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return how much better ``first`` is than ``second`` on the same samples.

    The interval is the percentile bootstrap of the mean difference. Samples are drawn again with
    replacement, and so are training seeds where there are several, because a network trained anew
    is another system: an interval over samples alone would be too narrow.

    Args:
        first: (N,) values per sample, or (S, N) of S training seeds.
        second: the same of the other system, the same samples and seeds in the same order.
        confidence: share of intervals that hold the true difference, in (0, 1).
        resamples: bootstrap draws.
        seed: of the draws.

    Raises:
        RayfillError: shapes that differ, or no sample on which all values are finite.
    """
    one, other = np.atleast_2d(np.asarray(first, float)), np.atleast_2d(np.asarray(second, float))
    if one.shape != other.shape:
        raise RayfillError(
            f"Two systems were measured on {one.shape} and {other.shape} seeds and samples: "
            "measure both on the same split with the same seeds."
        )
    finite = (np.isfinite(one) & np.isfinite(other)).all(axis=0)
    differences = one[:, finite] - other[:, finite]  # (S, N)
    num_seeds, num_samples = differences.shape
    if not num_samples:
        raise RayfillError("There is no sample on which both systems have a finite value.")
    draws = _resampled_means(differences, resamples=resamples, rng=np.random.default_rng(seed))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Interval(
        mean=float(differences.mean()),
        low=float(low),
        high=float(high),
        confidence=confidence,
        num_seeds=num_seeds,
        num_samples=num_samples,
    )


def _resampled_means(
    differences: NDArray[np.float64], *, resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    num_seeds, num_samples = differences.shape
    means = []
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        # How often each sample and seed is drawn: the same as drawing indices, but a product.
        samples = rng.multinomial(num_samples, np.full(num_samples, 1 / num_samples), size=count)
        seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=count)
        per_seed = samples @ differences.T / num_samples  # (count, S)
        means.append((per_seed * seeds).sum(axis=1) / num_seeds)
    return np.concatenate(means)
