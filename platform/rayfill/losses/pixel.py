"""Losses that compare pixel with pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Mean squared error below which log_mse_loss stops rewarding: 50 dB.
_LOG_MSE_FLOOR = 1e-5


def mse_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Return ``mean((prediction - target)^2)`` over all pixels, known ones included.

    Args:
        prediction: (B, 3, H, W).
        target: (B, 3, H, W) in [0, 1].
    """
    return F.mse_loss(prediction, target)


def l1_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Return ``mean(|prediction - target|)`` over all pixels; arguments as :func:`mse_loss`."""
    return F.l1_loss(prediction, target)


def hole_valid_l1_loss(
    prediction: Tensor,
    target: Tensor,
    hole_mask: Tensor,
    *,
    hole_weight: float = 6.0,
    valid_weight: float = 1.0,
) -> Tensor:
    """Return ``mean((hole_weight * H + valid_weight * (1 - H)) * |prediction - target|)``.

    The mean runs over all pixels, so a small hole weighs little, as published.

    Args:
        prediction: (B, 3, H, W).
        target: (B, 3, H, W) in [0, 1].
        hole_mask: (B, 1, H, W), exactly 0 or 1, 1 = hole.
        hole_weight: weight of the hole's pixels.
        valid_weight: weight of the known pixels.

    Source: Liu et al. 2018 (arXiv:1804.07723), L_hole and L_valid with weights 6 and 1.
    """
    weight = torch.where(hole_mask > 0.5, hole_weight, valid_weight)
    return (weight * (prediction - target).abs()).mean()


def hole_l1_loss(prediction: Tensor, target: Tensor, hole_mask: Tensor) -> Tensor:
    """Return ``mean(H * |prediction - target|)`` over all pixels, those of the hole and others.

    Arguments as :func:`hole_valid_l1_loss`.

    Source: Liu et al. 2018 (arXiv:1804.07723), L_hole.
    """
    return torch.where(hole_mask > 0.5, (prediction - target).abs(), 0.0).mean()


def valid_l1_loss(prediction: Tensor, target: Tensor, hole_mask: Tensor) -> Tensor:
    """Return ``mean((1 - H) * |prediction - target|)`` over all pixels.

    Arguments as :func:`hole_valid_l1_loss`.

    Source: Liu et al. 2018 (arXiv:1804.07723), L_valid.
    """
    return torch.where(hole_mask > 0.5, 0.0, (prediction - target).abs()).mean()


def log_mse_loss(prediction: Tensor, target: Tensor, hole_mask: Tensor) -> Tensor:
    """Return the mean over samples of ``log(mse in the hole + 1e-5)``, i.e. -0.23 x PSNR in it.

    Every sample counts alike, smooth or textured, small hole or large; known pixels do not count.
    Samples without a hole are left out; a batch of only such gives 0.

    Args:
        prediction: (B, 3, H, W).
        target: (B, 3, H, W) in [0, 1].
        hole_mask: (B, 1, H, W), exactly 0 or 1, 1 = hole.
    """
    hole = hole_mask > 0.5
    error = torch.where(hole, prediction - target, 0.0).square().sum(dim=(1, 2, 3))
    values = prediction.shape[1] * hole.sum(dim=(1, 2, 3))
    logs = torch.log(error / values.clamp_min(1) + _LOG_MSE_FLOOR)
    counted = values > 0
    return torch.where(counted, logs, 0.0).sum() / counted.sum().clamp_min(1)
