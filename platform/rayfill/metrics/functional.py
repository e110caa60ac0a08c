"""Image metrics per sample, each (B, 3, H, W) x (B, 3, H, W) -> (B,), in float64.

Computed in float64 throughout: a GPU's reduced-precision matrix products and the cancellation in
SSIM's variances then cost nothing, and the result is scikit-image's to about 1e-12.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rayfill_data.errors import RayfillError

_SSIM_SIGMA = 1.5
_SSIM_RADIUS = 5  # of an 11-pixel window: 3.5 sigma
_SSIM_K1, _SSIM_K2 = 0.01, 0.03


def psnr(prediction: Tensor, target: Tensor, *, data_range: float) -> Tensor:
    """Return ``10 log10(data_range^2 / mse)`` per sample, in dB; infinite for equal pictures.

    Args:
        prediction: (B, 3, H, W).
        target: (B, 3, H, W).
        data_range: largest minus smallest possible value.
    """
    error = (prediction.double() - target.double()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(data_range**2 / error)


def hole_psnr(
    prediction: Tensor, target: Tensor, hole_mask: Tensor, *, data_range: float
) -> Tensor:
    """Return the PSNR over the pixels of the hole per sample, in dB; NaN where there is no hole.

    Args:
        prediction: (B, 3, H, W).
        target: (B, 3, H, W).
        hole_mask: (B, 1, H, W), exactly 0 or 1, 1 = hole.
        data_range: largest minus smallest possible value.
    """
    squared = (prediction.double() - target.double()).square()
    return 10 * torch.log10(data_range**2 / hole_mean(squared, hole_mask))


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Return ``mean(|prediction - target|)`` per sample, over all pixels and channels."""
    return (prediction.double() - target.double()).abs().mean(dim=(1, 2, 3))


def ssim(prediction: Tensor, target: Tensor, *, data_range: float) -> Tensor:
    """Return the structural similarity per sample, the mean over channels.

    The mean over :func:`ssim_map` without its outermost 5 pixels, which is
    ``skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, channel_axis=...)``.

    Args:
        prediction: (B, 3, H, W), both sides at least 11.
        target: (B, 3, H, W).
        data_range: largest minus smallest possible value.

    Raises:
        RayfillError: pictures smaller than the window.

    Source: Wang et al. 2004, doi:10.1109/TIP.2003.819861.
    """
    return inner_mean(ssim_map(prediction, target, data_range=data_range))


def hole_ssim(
    prediction: Tensor, target: Tensor, hole_mask: Tensor, *, data_range: float
) -> Tensor:
    """Return the mean of :func:`ssim_map` over the hole per sample; NaN where there is no hole.

    Windows at the hole's edge reach into its surroundings. Arguments as :func:`hole_psnr`.
    """
    return hole_mean(ssim_map(prediction, target, data_range=data_range), hole_mask)


def ssim_map(prediction: Tensor, target: Tensor, *, data_range: float) -> Tensor:
    """Return the structural similarity around every pixel, (B, 3, H, W) float64.

    Gaussian window of 11 pixels, sigma 1.5, population covariance; beyond the edge the picture
    continues mirrored, the edge pixel repeated, as in scikit-image's ``full=True``.

    Args:
        prediction: (B, 3, H, W).
        target: (B, 3, H, W).
        data_range: largest minus smallest possible value.
    """
    rows = _window_matrix(prediction.shape[-2], device=prediction.device)
    columns = _window_matrix(prediction.shape[-1], device=prediction.device).T
    # On a CPU one sample at a time stays in the cache, which is twice as fast.
    chunk = 1 if prediction.device.type == "cpu" else max(1, len(prediction))
    maps = [
        _similarity(a.double(), b.double(), rows=rows, columns=columns, data_range=data_range)
        for a, b in zip(torch.split(prediction, chunk), torch.split(target, chunk), strict=True)
    ]
    return torch.cat(maps)


def inner_mean(values: Tensor) -> Tensor:
    """Return the mean per sample of (B, C, H, W) without the 5 pixels along every edge.

    Raises:
        RayfillError: pictures smaller than the SSIM window.
    """
    r = _SSIM_RADIUS
    if min(values.shape[-2:]) <= 2 * r:
        raise RayfillError(
            f"SSIM of pictures of {values.shape[-1]}x{values.shape[-2]} pixels; both sides must be "
            f"at least {2 * r + 1}. Use larger pictures."
        )
    return values[..., r:-r, r:-r].mean(dim=(1, 2, 3))


def hole_mean(values: Tensor, hole_mask: Tensor) -> Tensor:
    """Return the mean per sample of (B, C, H, W) over the hole; NaN where there is none."""
    hole = hole_mask > 0.5
    total = torch.where(hole, values, 0.0).sum(dim=(1, 2, 3))
    return total / (values.shape[1] * hole.sum(dim=(1, 2, 3)))


def _similarity(
    a: Tensor, b: Tensor, *, rows: Tensor, columns: Tensor, data_range: float
) -> Tensor:
    """SSIM map from four blurs: of a + b, a - b and their squares, instead of five."""
    c1, c2 = (_SSIM_K1 * data_range) ** 2, (_SSIM_K2 * data_range) ** 2
    total, difference = a + b, a - b
    mean_sum, mean_diff, square_sum, square_diff = (
        rows @ x @ columns for x in (total, difference, total.square(), difference.square())
    )
    squared_mean_sum, squared_mean_diff = mean_sum.square(), mean_diff.square()
    # ab = ((a+b)^2 - (a-b)^2) / 4 and a^2 + b^2 = ((a+b)^2 + (a-b)^2) / 2, for means as for blurs.
    mean_product = (squared_mean_sum - squared_mean_diff) / 4
    mean_squares = (squared_mean_sum + squared_mean_diff) / 2
    covariance = (square_sum - square_diff) / 4 - mean_product
    variances = (square_sum + square_diff) / 2 - mean_squares
    similarity = (2 * mean_product + c1) * (2 * covariance + c2)
    return similarity / ((mean_squares + c1) * (variances + c2))


def _window_matrix(size: int, *, device: torch.device) -> Tensor:
    """Return the (size, size) float64 matrix that blurs a column, mirrored edges included."""
    offsets = np.arange(-_SSIM_RADIUS, _SSIM_RADIUS + 1)
    weights = np.exp(-0.5 * (offsets / _SSIM_SIGMA) ** 2)
    weights /= weights.sum()
    target = np.arange(size)[:, None]
    source = (target + offsets) % (2 * size)
    source = np.where(source >= size, 2 * size - 1 - source, source)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.broadcast_to(target, source.shape), source), weights)
    return torch.from_numpy(matrix).to(device)
