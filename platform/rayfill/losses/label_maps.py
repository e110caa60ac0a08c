"""Losses of networks that say what each pixel shows."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
