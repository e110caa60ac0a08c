"""Cross entropy of label maps in which one label covers most pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rayfill.models.segmentation.base import IGNORED


def balanced_cross_entropy(logits: Tensor, labels: Tensor, *, balance: float) -> Tensor:
    """Return ``sum(w[y] * -log softmax(logits)[y]) / sum(w[y])`` over labelled pixels.

    ``w[k] = (share of label k among the batch's labelled pixels) ** -balance``: with 0 every pixel
    counts alike, :func:`label_cross_entropy`; with 1 every label does,
    however few pixels it has. A batch without labelled pixels gives 0.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) int64 in 0 to K - 1, or 255 where not labelled.
        balance: 0 to 1.
    """
    logits = logits.float()
    counted = labels != IGNORED
    known = torch.where(counted, labels, 0)
    shares = torch.zeros(logits.shape[1], device=logits.device)
    shares.index_add_(0, known.flatten(), counted.flatten().float())
    shares = shares / counted.sum().clamp_min(1)
    # Labels that the batch lacks are never looked up; a weight of infinity must not arise all the
    # same.
    per_label = torch.where(shares > 0, shares, 1.0).pow(-balance)
    weight = per_label[known] * counted
    total = weight.sum()
    values = F.cross_entropy(logits, known, reduction="none")
    return (weight * values).sum() / torch.where(total > 0, total, 1.0)


def label_cross_entropy(logits: Tensor, labels: Tensor, *, ignore: int = 255) -> Tensor:
    """Return the mean over labelled pixels of ``-log softmax(logits)[label]``, 0 without any.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) int64, 0 to K - 1, or ``ignore``.
        ignore: marks pixels that do not count, such as those known already.

    Source: report P2, equation 4.
    """
    total = F.cross_entropy(logits, labels, ignore_index=ignore, reduction="sum")
    return total / (labels != ignore).sum().clamp_min(1)
