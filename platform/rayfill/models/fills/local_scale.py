"""Brightness and contrast around every pixel, from known pixels only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rayfill.models.fills.fill import push_pull_fill

#: Side of the cells that statistics are gathered in, in pixels.
_CELL_PX = 4

#: Cells, each way, that are looked at together.
_MEAN_CELLS = 7
_CONTRAST_CELLS = 3

#: One 8-bit level: the contrast of a flat region, where no noise should be invented.
_LEAST_CONTRAST = 1 / 255


def local_scale(image: Tensor, hole_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean colour and the contrast around every pixel.

    Over the known pixels of cells of 4x4 pixels: ``mean = E[x]`` per channel over 7x7 cells, and
    ``contrast = sqrt(mean over channels of (E[x^2] - E[x]^2)) + 1/255`` over 3x3 cells. Cells
    without a known pixel near are filled from their surroundings; between cells, both are
    interpolated.

    A residual network that sees ``(x - mean) / contrast`` and whose answer is multiplied by the
    contrast does not care how bright or how strong a pattern is. On few photographs this decides
    between learning and overfitting: flat regions, where a picture's PSNR is high and easily
    spoiled, get no more change than their surroundings vary.

    Args:
        image: (B, 3, H, W); what is under the hole is not read.
        hole_mask: (B, 1, H, W), exactly 0 or 1, 1 = hole.

    Returns:
        mean (B, 3, H, W) and contrast (B, 1, H, W), the latter at least 1/255.
    """
    size = image.shape[-2:]
    hole = hole_mask > 0.5
    colour = image.masked_fill(hole, 0.0)
    sums = torch.cat([colour, colour.square(), (~hole).to(image.dtype)], dim=1)
    # Means over cells of different numbers of pixels (at the border) are off in the same way for
    # all seven channels, and only their quotients are used.
    sums = F.avg_pool2d(sums, _CELL_PX, ceil_mode=True)
    wide, _, unknown = _moments(sums, cells=_MEAN_CELLS)
    colours = push_pull_fill(wide, unknown)
    _, variance, unknown = _moments(sums, cells=_CONTRAST_CELLS)
    variance = push_pull_fill(variance.expand(-1, 3, -1, -1), unknown)[:, :1]
    stretched = F.interpolate(
        torch.cat([colours, variance.sqrt() + _LEAST_CONTRAST], dim=1),
        scale_factor=float(_CELL_PX),
        mode="bilinear",
        align_corners=False,
    )[..., : size[0], : size[1]]
    return stretched[:, :3], stretched[:, 3:]


def _moments(sums: Tensor, *, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (B, 3), variance (B, 1) and where nothing is known (B, 1), around every cell.

    Args:
        sums: (B, 7, h, w): sums of x, of x^2, and of known pixels in every cell, up to one factor.
        cells: odd number of cells, each way, to look at together.
    """
    sums = F.avg_pool2d(sums, cells, stride=1, padding=cells // 2)
    weight = sums[:, 6:]
    moments = sums[:, :6] / weight.clamp_min(1e-6)
    mean, square = moments[:, :3], moments[:, 3:]
    variance = (square - mean.square()).clamp_min(0.0).mean(dim=1, keepdim=True)
    return mean, variance, (weight < 1e-6).to(sums.dtype)
