"""Whether one system is better than another on the same samples, and by how much."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rayfill_data.errors import RayfillError

#: Of fewer photographs an interval is shown and nothing concluded: it would be far too narrow.
MIN_PHOTOGRAPHS = 8

#: Resamples that are weighed at a time, so that 10,000 photographs fit in memory.
_CHUNK = 250


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """Mean of ``first - second`` with a bootstrap confidence interval."""

    mean: float
    low: float
    high: float
    confidence: float
    p_value: float
    """Two-sided, of no difference; see :func:`paired_difference` and :func:`holm`."""
    num_seeds: int
    num_samples: int
    """Samples on which both are finite in every seed."""
    num_photographs: int | None
    """Photographs of these samples; None where they are not known."""

    @property
    def significant(self) -> bool:
        """Whether it leaves out 0, by its p-value too, and photographs are enough to tell."""
        outside = self.low > 0 or self.high < 0
        return outside and self.p_value <= 1 - self.confidence and not self.too_few

    @property
    def num_drawn(self) -> int:
        """Number of photographs, or of samples where photographs are not known."""
        return self.num_samples if self.num_photographs is None else self.num_photographs

    @property
    def counted(self) -> str:
        """The same in words: ``12 photographs``."""
        what = "sample" if self.num_photographs is None else "photograph"
        return f"{self.num_drawn} {what}{'' if self.num_drawn == 1 else 's'}"

    @property
    def too_few(self) -> str:
        """That photographs are too few to tell anything, or nothing where they are enough."""
        if self.num_drawn >= MIN_PHOTOGRAPHS:
            return ""
        return f"{self.counted} {'is' if self.num_drawn == 1 else 'are'} too few to tell"

    def __neg__(self) -> Interval:
        """Return that of ``second - first``."""
        return dataclasses.replace(self, mean=-self.mean, low=-self.high, high=-self.low)

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    *,
    source_id: Sequence[str] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return how much better ``first`` is than ``second`` on the same samples.

    The interval is the percentile bootstrap of the mean difference. Photographs are drawn again
    with replacement, each with all its samples, because crops of one photograph are alike: drawn
    one by one they would give an interval that is too narrow. So are training seeds where there
    are several, because a network trained anew is another system. The mean of a draw is the sum of
    its differences over their number; the p-value is ``min(1, max(1, 2 min(#{mean <= 0},
    #{mean >= 0})) / resamples)``, so at least ``1 / resamples``. Source: Davison and Hinkley,
    Bootstrap Methods and their Application (1997), section 3.8.

    Args:
        first: (N,) values per sample, or (S, N) of S training seeds.
        second: the same of the other system, the same samples and seeds in the same order.
        source_id: (N,) the photograph of each sample; None: not known, and drawn are samples.
        confidence: share of intervals that hold the true difference, in (0, 1).
        resamples: bootstrap draws.
        seed: of the draws.

    Raises:
        RayfillError: shapes that differ, or no sample on which all values are finite.
    """
    differences, photograph = _common(first, second, source_id=source_id)
    num_seeds, num_samples = differences.shape
    draws = _resampled_means(
        differences, photograph=photograph, resamples=resamples, rng=np.random.default_rng(seed)
    )
    tail = 50 * (1 - confidence)
    low, high = np.percentile(draws, [tail, 100 - tail])
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return Interval(
        mean=float(differences.mean()),
        low=float(low),
        high=float(high),
        confidence=confidence,
        p_value=min(1.0, max(1, 2 * beyond) / resamples),
        num_seeds=num_seeds,
        num_samples=num_samples,
        num_photographs=None if source_id is None else int(photograph.max()) + 1,
    )


def holm(found: Sequence[Interval | None]) -> list[Interval | None]:
    """Return the same with p-values corrected for there being several comparisons.

    The k-th smallest of m becomes ``max_{i <= k} min(1, (m - i + 1) p_i)``: compared with 0.05, at
    most one family in twenty has a false finding. Intervals stay as they are, each for itself.
    Source: Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6
    (1979).

    Args:
        found: how several systems differ from one in one metric; None of no common finite value.
    """
    ranked = sorted((one.p_value, index) for index, one in enumerate(found) if one)
    corrected, largest = dict[int, float](), 0.0
    for rank, (p_value, index) in enumerate(ranked):
        largest = max(largest, min(1.0, (len(ranked) - rank) * p_value))
        corrected[index] = largest
    return [
        one and dataclasses.replace(one, p_value=corrected[index])
        for index, one in enumerate(found)
    ]


def _common(
    first: ArrayLike, second: ArrayLike, *, source_id: Sequence[str] | None
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the (S, N) differences of samples with all values, and their (N,) photographs."""
    one, other = np.atleast_2d(np.asarray(first, float)), np.atleast_2d(np.asarray(second, float))
    if one.shape != other.shape:
        raise RayfillError(
            f"Two systems were measured on {one.shape} and {other.shape} seeds and samples: "
            "measure both on the same split with the same seeds."
        )
    if source_id is not None and len(source_id) != one.shape[1]:
        raise RayfillError(
            f"There are photographs of {len(source_id)} samples and values of {one.shape[1]}: give "
            "the photograph of each sample."
        )
    finite = (np.isfinite(one) & np.isfinite(other)).all(axis=0)
    differences = one[:, finite] - other[:, finite]  # (S, N)
    if not finite.any():
        raise RayfillError("There is no sample on which both systems have a finite value.")
    if source_id is None:
        return differences, np.arange(differences.shape[1])
    return differences, _numbered(np.asarray(source_id)[finite])


def _numbered(source_id: NDArray[np.str_]) -> NDArray[np.intp]:
    """Return the number of each sample's photograph, in the order in which they first come."""
    _, first, number = np.unique(source_id, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number]


def _resampled_means(
    differences: NDArray[np.float64],
    *,
    photograph: NDArray[np.intp],
    resamples: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return (resamples,) mean differences of photographs and seeds drawn with replacement."""
    sums = np.stack([np.bincount(photograph, weights=row) for row in differences])  # (S, P)
    counts = np.bincount(photograph)
    num_seeds, num_photographs = sums.shape
    means = []
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        # How often each photograph and seed is drawn: as drawing indices, but a product.
        drawn = rng.multinomial(
            num_photographs, np.full(num_photographs, 1 / num_photographs), size=count
        )
        seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=count)
        per_seed = drawn @ sums.T / (drawn @ counts)[:, None]  # (count, S)
        means.append((per_seed * seeds).sum(axis=1) / num_seeds)
    return np.concatenate(means)
