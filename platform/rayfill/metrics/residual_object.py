"""Whether what was removed is still seen: a measure of removal that needs no true background."""

from __future__ import annotations

import torch
from torch import Tensor

from rayfill.metrics.scores import SampleScores
from rayfill.models.segmentation import Segmenter, soft_mask


class ResidualObjectScore(SampleScores):
    """Share of each hole's pixels that a segmenter takes for ``label`` after removal, 0 to 1.

    ``update(composite, hole_mask)`` adds samples; ``compute()`` gives
    ``{"residual_object": Score}``, less is better. Samples without a hole are not counted. The
    score is as good as its segmenter: give one that the model under test was not trained with, and
    the score of the photos before removal beside it.

    Source: our own, after what report P2 shows in pictures.
    """

    def __init__(
        self, segmenter: Segmenter, *, label: str, threshold: float = 0.5, source: str = ""
    ) -> None:
        """Take over a segmenter, which stays in eval mode from here on.

        Args:
            segmenter: says what a picture shows; a copy of one that is still being trained.
            label: name of the removed category among its labels.
            threshold: probability above which a pixel counts as seen.
            source: where the segmenter is from, for the table.

        Raises:
            ConfigError: a label that the segmenter does not know.
        """
        super().__init__(["residual_object"])
        self.label = segmenter.index(label)
        self.label_name = label
        self.threshold = threshold
        self.source = source
        self.segmenter = segmenter.eval()

    def train(self, mode: bool = True) -> ResidualObjectScore:
        """Stay in eval mode, whatever the module around it is told."""
        super().train(mode=False)
        return self

    def update(self, composite: Tensor, hole_mask: Tensor) -> None:
        """Add samples.

        Args:
            composite: (B, 3, H, W) in [0, 1], after removal.
            hole_mask: (B, 1, H, W), exactly 0 or 1, 1 = where something was removed.
        """
        with torch.no_grad():
            probability = soft_mask(self.segmenter.segment(composite), label=self.label)
        hole = hole_mask > 0.5
        hole_px = hole.sum(dim=(1, 2, 3))
        seen_px = ((probability > self.threshold) & hole).sum(dim=(1, 2, 3))
        usable = probability.isfinite().all(dim=(1, 2, 3))
        share = torch.where(usable, seen_px / hole_px.clamp_min(1), torch.nan)
        self.add(share[None], counted=(hole_px > 0)[None])
