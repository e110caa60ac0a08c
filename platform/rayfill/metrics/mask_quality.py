"""How well a mask covers what it should."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayfill.metrics.scores import SampleScores
from rayfill_data.masks.distance import signed_distance_px


def mask_growth_px(mask: Tensor, truth: Tensor) -> Tensor:
    """Return how many pixels the outline of each mask lies outside the true one, on average.

    ``mean(phi_truth - phi_mask)`` of the signed distances in pixels, over the pixels on either side
    of either outline: a mask dilated by d pixels has d, an eroded one -d, a shifted one about 0;
    a part that is missed or added counts by how far it reaches. NaN where a mask has no outline.

    Args:
        mask: (B, 1, H, W), exactly 0 or 1.
        truth: (B, 1, H, W), exactly 0 or 1.

    Returns:
        (B,) float64, on the CPU.
    """
    masks, truths = _flags(mask), _flags(truth)
    rows = zip(masks, truths, strict=True)
    return torch.tensor([_growth_px(*row) for row in rows], dtype=torch.float64)


class MaskQuality(SampleScores):
    """Overlap of object masks with the true objects, and by how much they are too large.

    ``update(mask, truth)`` adds samples; ``compute()`` gives a Score each for ``iou``;
    ``uncovered``, the share of the object's pixels outside the mask (what ruins a removal);
    ``extra``, the share of the mask's pixels outside the object (what removal does not need);
    ``growth_px``, see :func:`mask_growth_px`; and ``found``, the share of objects with a mask.
    Empty masks have neither ``extra`` nor growth, photos without object neither ``uncovered``,
    growth nor ``found``, photos without both have no score at all.
    """

    def __init__(self) -> None:
        super().__init__(["iou", "uncovered", "extra", "growth_px", "found"])

    def update(self, mask: Tensor, truth: Tensor) -> None:
        """Add samples.

        Args:
            mask: (B, 1, H, W), exactly 0 or 1, the mask under test.
            truth: (B, 1, H, W), exactly 0 or 1, the object.
        """
        masked, true = mask > 0.5, truth > 0.5
        both = (masked & true).sum(dim=(1, 2, 3)).double()
        either = (masked | true).sum(dim=(1, 2, 3))
        mask_px, true_px = masked.sum(dim=(1, 2, 3)), true.sum(dim=(1, 2, 3))
        growth = mask_growth_px(mask, truth).to(both.device)
        has_outline = ~growth.isnan()
        values = [
            both / either.clamp_min(1),
            1 - both / true_px.clamp_min(1),
            1 - both / mask_px.clamp_min(1),
            growth,
            (mask_px > 0).double(),
        ]
        counted = [either > 0, true_px > 0, mask_px > 0, has_outline, true_px > 0]
        self.add(torch.stack(values), counted=torch.stack(counted))


def _growth_px(mask: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    if not all(part.any() and not part.all() for part in (mask, truth)):
        return float("nan")
    of_mask, of_truth = signed_distance_px(mask), signed_distance_px(truth)
    # Next to an outline, half a pixel away.
    outline = np.minimum(np.abs(of_mask), np.abs(of_truth)) < 0.75
    return float((of_truth - of_mask)[outline].mean(dtype=np.float64))


def _flags(mask: Tensor) -> NDArray[np.uint8]:
    flags: NDArray[np.uint8] = (mask[:, 0] > 0.5).to("cpu", torch.uint8).numpy()
    return flags
