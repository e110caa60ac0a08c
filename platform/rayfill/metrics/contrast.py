"""Sharpness of what was filled: a blur has less fine contrast than the truth, or than the rest."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Contrast that counts as none: of a level of 255, which nobody sees.
_FLAT = 1 / 255
#: Pixels as far as this from the hole are its surroundings.
RING_PX = 16

_Floats = NDArray[np.float32]
_Flags = NDArray[np.bool_]


def sharpness(composite: Tensor, target: Tensor, hole_mask: Tensor) -> Tensor:
    """Return how sharp what was filled is next to the truth: 1 as sharp, 0.1 a blur, 2 noise.

    ``median |L composite| / median |L target|`` over the hole, L the Laplacian (of 5 points) of
    grey (BT.601), without the hole's outermost pixels, whose Laplacian has known neighbours, where
    it has others. Medians below a level of 255 count as one, so that a flat fill of a flat truth
    has 1. NaN where there is no hole.

    Args:
        composite: (B, 3, H, W) in [0, 1], on any device.
        target: (B, 3, H, W) in [0, 1].
        hole_mask: (B, 1, H, W), exactly 0 or 1, 1 = hole.

    Returns:
        (B,) float64, on the CPU.
    """
    rows = zip(_contrasts(composite), _contrasts(target), _flags(hole_mask), strict=True)
    return _ratios([(filled, true, hole, hole) for filled, true, hole in rows])


def sharpness_beside_surroundings(composite: Tensor, hole_mask: Tensor) -> Tensor:
    """Return how sharp what was filled is next to what surrounds it, where there is no truth.

    As :func:`sharpness`, but the denominator is the median over the known pixels within 16 px of
    the hole, without those that touch it. What belongs there may be smoother or rougher than what
    is around it: 1 is right of many samples on average, not of each. NaN where there is no hole, or
    nothing around it.

    Args:
        composite: (B, 3, H, W) in [0, 1], on any device.
        hole_mask: (B, 1, H, W), exactly 0 or 1, 1 = hole.

    Returns:
        (B,) float64, on the CPU.
    """
    rows = zip(_contrasts(composite), _flags(hole_mask), strict=True)
    return _ratios([(picture, picture, hole, _ring(hole)) for picture, hole in rows])


def _ratios(rows: list[tuple[_Floats, _Floats, _Flags, _Flags]]) -> Tensor:
    ratios = [
        _median(filled, _inner(hole)) / _median(other, _inner(where))
        for filled, other, hole, where in rows
    ]
    return torch.tensor(ratios, dtype=torch.float64)


def _median(contrast: _Floats, where: _Flags) -> float:
    if not where.any():
        return float("nan")
    # Not max(): a NaN must stay one.
    return float(np.maximum(np.median(contrast[where]), _FLAT))


def _ring(hole: _Flags) -> _Flags:
    """Return the known pixels near the hole; none where there is no hole."""
    if not hole.any():
        return np.zeros_like(hole)
    away_px = cv2.distanceTransform((~hole).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    ring: _Flags = ~hole & (away_px <= RING_PX)
    return ring


def _inner(area: _Flags) -> _Flags:
    """Return the pixels whose neighbours belong to the area too, or all where there are none."""
    # The picture's frame takes nothing away: beyond it, the picture goes on mirrored.
    inner: _Flags = cv2.erode(area.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return inner if inner.any() else area


def _contrasts(pictures: Tensor) -> list[_Floats]:
    """Return |Laplacian of grey| of every picture, (H, W)."""
    planes = pictures.detach().to("cpu", torch.float32).permute(0, 2, 3, 1).contiguous().numpy()
    greys = [cv2.cvtColor(plane, cv2.COLOR_RGB2GRAY) for plane in planes]
    return [np.abs(cv2.Laplacian(grey, cv2.CV_32F, ksize=1)) for grey in greys]


def _flags(hole_mask: Tensor) -> _Flags:
    flags: _Flags = (hole_mask[:, 0] > 0.5).cpu().numpy()
    return flags
