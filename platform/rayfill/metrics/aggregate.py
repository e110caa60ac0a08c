"""Metrics over a whole split, per hole ratio and in total, right under several workers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from rayfill.metrics.coherence import removal_coherence
from rayfill.metrics.contrast import sharpness, sharpness_beside_surroundings
from rayfill.metrics.functional import hole_mean, hole_psnr, inner_mean, l1, psnr, ssim_map
from rayfill.metrics.lpips import LpipsMetric

#: Hole ratio in percent; a sample at an edge counts in the upper bucket, 100 % in the last.
BUCKETS = (*(f"[{low},{low + 10})" for low in range(0, 90, 10)), "[90,100]")
_EDGES = (torch.arange(1, len(BUCKETS), dtype=torch.float64) / len(BUCKETS)).float()

_DATA_RANGE = 1.0

#: Metrics of how a hole looks: where there is truth, and where there is none.
APPEARANCE = ("coherence", "sharpness")
WITHOUT_TRUTH = ("coherence", "ring_sharpness")

#: Metrics of all pixels of a bucket together, which have no value per sample and so no deviation.
POOLED = ("dice", "dice_ceiling")


def bucket_of(hole_ratio: Tensor | NDArray[np.floating]) -> Tensor:
    """Return the index into :data:`BUCKETS` of every hole, (N,) int64.

    Ratios and edges are both compared in float32, in which ratios are kept: rounding keeps order,
    so an area at an edge is in the upper bucket, and one below it in the lower, to 1.6 megapixels.

    Args:
        hole_ratio: (N,) share of hole pixels, in [0, 1].
    """
    ratio = hole_ratio if isinstance(hole_ratio, Tensor) else torch.tensor(hole_ratio)
    return torch.bucketize(ratio.float(), _EDGES.to(ratio.device), right=True)


def may_lack(metric: str) -> bool:
    """Tell whether a metric has no value, NaN, of samples without a hole to look into."""
    return metric.startswith("hole_") or metric in {*APPEARANCE, *WITHOUT_TRUTH}


class Score(NamedTuple):
    """One metric over the samples of one bucket."""

    mean: float
    """Over the finite values, or over all pixels where pooled; NaN if there are none."""

    std: float
    """Population standard deviation of the finite values; NaN if there are none, or if pooled."""

    n: int
    """Number of finite values."""

    n_infinite: int
    """Number of infinite values (PSNR of equal pictures), which the mean leaves out."""


class MetricTable(NamedTuple):
    """Every metric, in total and per hole ratio."""

    total: dict[str, Score]
    """Score by metric name, over all samples."""

    buckets: dict[str, dict[str, Score]]
    """Bucket of :data:`BUCKETS` -> score by metric name; empty buckets have ``n`` = 0."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; NaN becomes None."""
        return {
            "total": _plain(self.total),
            "buckets": {bucket: _plain(scores) for bucket, scores in self.buckets.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MetricTable:
        """Return the table that :meth:`to_dict` described."""
        buckets = {bucket: _scores_of(scores) for bucket, scores in values["buckets"].items()}
        return cls(total=_scores_of(values["total"]), buckets=buckets)


def _plain(scores: dict[str, Score]) -> dict[str, dict[str, float | int | None]]:
    return {
        name: {
            field: None if math.isnan(value) else value for field, value in score._asdict().items()
        }
        for name, score in scores.items()
    }


def _scores_of(plain: Mapping[str, Mapping[str, float | int | None]]) -> dict[str, Score]:
    return {
        name: Score(**{k: math.nan if v is None else v for k, v in fields.items()})  # type: ignore[arg-type]
        for name, fields in plain.items()
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """A system's metrics over a split, and what they were of every sample."""

    table: MetricTable
    values: dict[str, NDArray[np.float64]]
    """(N,) by metric, in the split's order; NaN where a sample has none (no hole)."""
    source_id: tuple[str, ...] | None = None
    """The photograph of each sample, in the same order; None where that was not written down."""


class InpaintingMetrics(Metric):
    """PSNR, SSIM and L1 of composites, whole and in the hole, Dice, and what else is asked for.

    ``update(composite, target, hole_mask)`` adds samples; ``compute()`` gives a
    :class:`MetricTable`. State is sums and counts in float64, added up over ranks, so shards may be
    uneven. Samples without a hole count in the whole-picture metrics only; a NaN is not hidden: it
    makes the mean NaN.

    ``dice`` is ``2 sum(y y') / sum(y + y')`` of the intensities of target y and composite y',
    summed over all pixels of the samples, as report P5 defines it. Brightness rules it: what a
    perfect composite scores is not 1 but ``dice_ceiling``.

    ``coherence`` is :func:`rayfill.metrics.removal_coherence`, ``sharpness`` is
    :func:`rayfill.metrics.sharpness`; of samples without truth there is only the former and
    ``ring_sharpness``, :func:`rayfill.metrics.sharpness_beside_surroundings`. A sample counts in
    them where they are defined of it.
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    sums: Tensor
    squares: Tensor
    counts: Tensor
    infinite: Tensor
    products: Tensor
    rows: list[Tensor]

    def __init__(
        self,
        *,
        lpips: LpipsMetric | None = None,
        appearance: bool = False,
        truth: bool = True,
        keep_values: bool = False,
    ) -> None:
        """Start empty.

        Args:
            lpips: also measure this distance, under the name ``lpips``.
            appearance: also measure ``coherence`` and ``sharpness``, some 20 ms for each picture of
                256x256 pixels, on the CPU.
            truth: targets are what holes should show; False: nothing is compared with them, and
                ``coherence`` and ``ring_sharpness`` are all that is measured.
            keep_values: keep every sample's row for :meth:`sample_values` and :meth:`add`.
        """
        super().__init__()
        self.lpips = lpips
        self.truth = truth
        self.keep_values = keep_values
        names = ["psnr", "ssim", "hole_psnr", "hole_ssim", "l1"]
        names += ["lpips"] if lpips else []
        names += APPEARANCE if appearance else []
        self.metric_names = tuple(names) if truth else WITHOUT_TRUTH
        shape = (len(self.metric_names), len(BUCKETS))
        for state in ("sums", "squares", "counts", "infinite"):
            zeros = torch.zeros(shape, dtype=torch.float64)
            self.add_state(state, default=zeros, dist_reduce_fx="sum")
        # sum(y y'), sum(y y), sum(y'), sum(y), and the number of samples
        products = torch.zeros((5, len(BUCKETS)), dtype=torch.float64)
        self.add_state("products", default=products, dist_reduce_fx="sum")
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, composite: Tensor, target: Tensor, hole_mask: Tensor) -> None:
        """Add samples.

        Args:
            composite: (B, 3, H, W) in [0, 1]: the prediction in the hole, the input elsewhere.
            target: (B, 3, H, W) in [0, 1].
            hole_mask: (B, 1, H, W), exactly 0 or 1, 1 = hole.

        Raises:
            RayfillError: pictures smaller than the SSIM window of 11 pixels.
        """
        values = self._values(composite, target, hole_mask)  # (metrics, B)
        hole_px = (hole_mask > 0.5).sum(dim=(1, 2, 3))
        ratio = (hole_px / hole_mask[0].numel()).double()
        self.add(torch.cat([values, ratio[None], _products(composite, target)]).T)

    def add(self, rows: Tensor) -> None:
        """Add samples by their rows, one by one: sums are the same to the bit in any batches.

        Args:
            rows: (B, metrics + 6) float64: values, share of hole, and what Dice is made of.
        """
        count = len(self.metric_names)
        values, ratio, products = rows.T[:count], rows.T[count], rows.T[count + 1 :]
        bucket = bucket_of(ratio)
        counted = torch.ones_like(values, dtype=torch.bool)
        for row, name in enumerate(self.metric_names):
            if name.startswith("hole_"):
                counted[row] = ratio > 0
            elif may_lack(name):
                # A picture that is not finite has sums that are not, and counts.
                counted[row] = ~(values[row].isnan() & products.isfinite().all(dim=0))
        if self.keep_values:
            self.rows.append(rows)
        infinite = counted & values.isposinf()
        finite = counted & ~infinite
        kept = torch.where(finite, values, 0.0)
        # Not in place: a state made under inference mode could not be changed outside it.
        self.sums = self.sums.index_add(1, bucket, kept)
        self.squares = self.squares.index_add(1, bucket, kept.square())
        self.counts = self.counts.index_add(1, bucket, finite.double())
        self.infinite = self.infinite.index_add(1, bucket, infinite.double())
        self.products = self.products.index_add(1, bucket, products)

    def sample_values(self) -> dict[str, NDArray[np.float64]]:
        """Return (N,) values by metric in the order samples were added, NaN where none is defined.

        Dice is pooled over pixels and has no value per sample. Needs ``keep_values``.
        """
        if not self.rows:
            return {name: np.empty(0) for name in self.metric_names}
        columns = torch.cat(self.rows).cpu().numpy().T
        return dict(zip(self.metric_names, columns, strict=False))

    def _values(self, composite: Tensor, target: Tensor, hole_mask: Tensor) -> Tensor:
        values = self._appearance(composite, target, hole_mask)
        if not self.truth:
            return torch.stack([values[name] for name in self.metric_names])
        similarity = ssim_map(composite, target, data_range=_DATA_RANGE)
        values |= {
            "psnr": psnr(composite, target, data_range=_DATA_RANGE),
            "ssim": inner_mean(similarity),
            "hole_psnr": hole_psnr(composite, target, hole_mask, data_range=_DATA_RANGE),
            "hole_ssim": hole_mean(similarity, hole_mask),
            "l1": l1(composite, target),
        }
        if self.lpips is not None:
            values["lpips"] = self.lpips(composite, target).double()
        return torch.stack([values[name] for name in self.metric_names])

    def _appearance(
        self, composite: Tensor, target: Tensor, hole_mask: Tensor
    ) -> dict[str, Tensor]:
        if "coherence" not in self.metric_names:
            return {}
        values = {"coherence": removal_coherence(composite, hole_mask)}
        if self.truth:
            values["sharpness"] = sharpness(composite, target, hole_mask)
        else:
            values["ring_sharpness"] = sharpness_beside_surroundings(composite, hole_mask)
        return {name: value.to(composite.device) for name, value in values.items()}

    def compute(self) -> MetricTable:
        """Return the scores of all samples added so far, on all ranks."""
        state = torch.stack([self.sums, self.squares, self.counts, self.infinite]).cpu()
        products = self.products.cpu()
        return MetricTable(
            total=self._scores(state.sum(dim=2), products.sum(dim=1)),
            buckets={
                bucket: self._scores(state[:, :, index], products[:, index])
                for index, bucket in enumerate(BUCKETS)
            },
        )

    def _scores(self, state: Tensor, products: Tensor) -> dict[str, Score]:
        """Turn (4, metrics) sums, squares and two counts, and (5,) products, into scores."""
        rows = zip(self.metric_names, state.T.tolist(), strict=True)
        scores = {name: score_of(*values) for name, values in rows}
        return scores | _dice_scores(*products.tolist()) if self.truth else scores


def score_of(total: float, squares: float, count: float, infinite: float) -> Score:
    """Return the score of finite values by their sum, their squares' sum and their number."""
    if not count:
        return Score(mean=math.nan, std=math.nan, n=0, n_infinite=int(infinite))
    mean = total / count
    variance = squares / count - mean * mean
    # Rounding may leave a variance just below 0; a NaN must stay one.
    std = 0.0 if variance < 0 else math.sqrt(variance)
    return Score(mean=mean, std=std, n=int(count), n_infinite=int(infinite))


def _products(composite: Tensor, target: Tensor) -> Tensor:
    """Return what Dice is made of per sample, (5, B) float64."""
    terms = [composite * target, target.square(), composite, target]
    sums = [term.sum(dim=(1, 2, 3), dtype=torch.float64) for term in terms]
    return torch.stack([*sums, torch.ones_like(sums[0])])


def _dice_scores(
    overlap: float, perfect: float, composite: float, target: float, count: float
) -> dict[str, Score]:
    # Black pictures, or no samples, have no Dice.
    dice = 2 * overlap / (composite + target) if composite + target else math.nan
    ceiling = perfect / target if target else math.nan
    return {
        name: Score(mean=mean, std=math.nan, n=int(count), n_infinite=0)
        for name, mean in zip(POOLED, (dice, ceiling), strict=True)
    }
