"""Cross entropy of label maps, which may leave pixels open."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rayfill.segmentation.base import IGNORED


def label_cross_entropy(logits: Tensor, labels: Tensor, *, balance: float = 0.0) -> Tensor:
    """Return ``sum(w[y] * -log softmax(logits)[y]) / sum(w[y])`` over labelled pixels.

    ``w[k] = (share of label k among the batch's labelled pixels) ** -balance``: with 0 every pixel
    counts alike, with 1 every label does, however few pixels it has. A batch without labelled
    pixels gives 0.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) int64 in 0 to K - 1, or 255 where not labelled.
        balance: 0 to 1.
    """
    logits = logits.float()
    counted = labels != IGNORED
    known = torch.where(counted, labels, 0)
    weight = counted.float()
    if balance:
        shares = torch.zeros(logits.shape[1], device=logits.device)
        shares.index_add_(0, known.flatten(), weight.flatten())
        shares = shares / weight.sum().clamp_min(1)
        # Labels that the batch lacks are never looked up.
        weight = weight * shares.clamp_min(torch.finfo(shares.dtype).tiny).pow(-balance)[known]
    values = F.cross_entropy(logits, known, reduction="none")
    total = weight.sum()
    return (weight * values).sum() / torch.where(total > 0, total, 1.0)
