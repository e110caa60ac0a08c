"""Losses that compare neighbourhoods: structural similarity, and smoothness of the filled hole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rayfill.metrics.functional import SSIM_K1, SSIM_K2, SSIM_RADIUS, window_matrix
from rayfill_data.errors import RayfillError

#: Pictures lie in [0, 1]: the sum of two is 1 on average, near which float32 would lose digits.
_CENTRE = 1.0


def ssim_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Return ``1 - SSIM``, the mean over samples, channels and all pixels 5 away from every edge.

    The value of :func:`rayfill.metrics.ssim` with data range 1, with a gradient: four blurs, each
    two products with banded matrices that leave the edges out.

    Args:
        prediction: (B, 3, H, W), both sides at least 11.
        target: (B, 3, H, W) in [0, 1].

    Raises:
        RayfillError: pictures smaller than the window.

    Source: Wang et al. 2004, doi:10.1109/TIP.2003.819861.
    """
    height, width = prediction.shape[-2:]
    if min(height, width) <= 2 * SSIM_RADIUS:
        raise RayfillError(
            f"SSIM loss on pictures of {width}x{height} pixels; both sides must be at least "
            f"{2 * SSIM_RADIUS + 1}. Train on larger pictures, or leave the term ssim out."
        )
    inner = slice(SSIM_RADIUS, -SSIM_RADIUS)
    rows = window_matrix(height, device=prediction.device)[inner].to(prediction.dtype)
    columns = window_matrix(width, device=prediction.device)[inner].to(prediction.dtype).T

    def blur(planes: Tensor) -> Tensor:
        return rows @ planes @ columns

    # 4 ab = s^2 - d^2 and 2 (a^2 + b^2) = s^2 + d^2, for means, their products and (co)variances.
    total, difference = prediction + target - _CENTRE, prediction - target
    mean_sum, mean_difference = blur(total), blur(difference)
    variance_sum = blur(total.square()) - mean_sum.square()
    variance_difference = blur(difference.square()) - mean_difference.square()
    square_sum, square_difference = (mean_sum + _CENTRE).square(), mean_difference.square()
    c1, c2 = 2 * SSIM_K1**2, 2 * SSIM_K2**2
    luminance = (square_sum - square_difference + c1) / (square_sum + square_difference + c1)
    contrast = (variance_sum - variance_difference + c2) / (variance_sum + variance_difference + c2)
    return 1 - (luminance * contrast).mean()


def tv_loss(composite: Tensor, hole_mask: Tensor) -> Tensor:
    """Return ``sum(|x[i, j+1] - x[i, j]| + |x[i+1, j] - x[i, j]|) / N`` around the hole.

    Summed over pairs whose two pixels both lie in the hole or touch it (also by a corner); ``N``
    counts all values of the batch, so a small hole weighs little, as published.

    Args:
        composite: (B, 3, H, W), the composite.
        hole_mask: (B, 1, H, W), exactly 0 or 1, 1 = hole.

    Source: Liu et al. 2018 (arXiv:1804.07723), L_tv.
    """
    region = F.max_pool2d(hole_mask, 3, stride=1, padding=1) > 0.5
    across = torch.where(region[..., 1:] & region[..., :-1], composite.diff(dim=-1).abs(), 0.0)
    down = torch.where(region[..., 1:, :] & region[..., :-1, :], composite.diff(dim=-2).abs(), 0.0)
    return (across.sum() + down.sum()) / composite.numel()
