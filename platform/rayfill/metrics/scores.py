"""Means and deviations of values that samples have, right under several workers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics import Metric

from rayfill.metrics.aggregate import Score, score_of


class SampleScores(Metric):
    """A :class:`rayfill.metrics.Score` for each of several values that a sample may have.

    State is sums and counts in float64, added up over ranks, so shards may be uneven. A NaN is not
    hidden: it makes the mean NaN.
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    sums: Tensor
    squares: Tensor
    counts: Tensor

    def __init__(self, names: Iterable[str]) -> None:
        """Start empty.

        Args:
            names: of the values.
        """
        super().__init__()
        self.metric_names = tuple(names)
        for state in ("sums", "squares", "counts"):
            zeros = torch.zeros(len(self.metric_names), dtype=torch.float64)
            self.add_state(state, default=zeros, dist_reduce_fx="sum")

    def add(self, values: Tensor, *, counted: Tensor) -> None:
        """Add samples.

        Args:
            values: (names, B).
            counted: (names, B) bool; samples without a value do not count.
        """
        kept = torch.where(counted, values.double(), 0.0)
        # Not in place: a state made under inference mode could not be changed outside it.
        self.sums = self.sums + kept.sum(dim=1)
        self.squares = self.squares + kept.square().sum(dim=1)
        self.counts = self.counts + counted.sum(dim=1)

    def compute(self) -> dict[str, Score]:
        """Return the scores of all samples added so far, on all ranks, by name."""
        rows = torch.stack([self.sums, self.squares, self.counts]).T.tolist()
        return {
            name: score_of(total, squares, count, 0)
            for name, (total, squares, count) in zip(self.metric_names, rows, strict=True)
        }
