"""Removal coherence: does a filled hole look like what surrounds it? Needs no truth, no weights.

Who does not know where the hole is finds it by what changes there: a blur, a texture from
elsewhere, another colour, a seam. So the hole is compared with its surroundings, window by window,
by how the features of their pixels are distributed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from rayfill.metrics.picture_features import texture_and_colour

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
#: In [0, 1], or uint8 of up to 255.
Planes = Floats | NDArray[np.uint8]

#: ``features(picture) -> map`` of one picture, (H, W, 3) in [0, 1] -> (h, w, C), any h and w.
PictureFeatures = Callable[[Floats], Floats]

#: Parts of a hole that lie nearer than this are looked at in one crop.
NEAR_PX = 16
#: Parts in more groups than this are joined to fewer, so that time is bounded.
MAX_GROUPS = 8
#: A crop's side is the extent of its parts times this, and so many pixels more.
CONTEXT, MARGIN_PX = 5 / 3, 16
#: A crop is no smaller, where the picture has so much.
MIN_SIDE_PX = 64
#: A larger crop is reduced to this side before anything is looked at.
MAX_SIDE_PX = 512
#: Points along a crop's side at which features are compared, and along a window's.
TOKENS, WINDOW = 64, 8
#: Points of the surroundings that stand for all of them, at most and at least.
MAX_REFERENCES, MIN_REFERENCES = 400, 6
#: Least square of the kernel's bandwidth: in flat surroundings, a level of 255 is no difference.
MIN_BANDWIDTH_SQUARED = 0.05


def removal_coherence(
    composite: Tensor, hole_mask: Tensor, *, features: PictureFeatures = texture_and_colour
) -> Tensor:
    """Return how unlike its surroundings every hole looks: 0 if not at all, 1.4 at most.

    Parts of a hole that lie near each other are looked at in a square crop, two thirds wider than
    they are (:data:`CONTEXT`). Of every window, an eighth of the crop's side wide, the distance
    of hole and surroundings is ``MMD = |E k(h, .) - E k(s, .)|``, with the kernel
    ``k(a, b) = exp(-|a - b|^2 / 2 v)`` of the features at 64 x 64 points, v half the median squared
    distance in the surroundings; of windows within the hole, that from all surroundings. It is the
    mean over windows, weighted by the points of hole in them, and over groups of parts, weighted
    by their pixels. What lies outside the crops does not count, and of a batch each sample counts
    for itself. NaN where there is no hole, or fewer than 6 points of surroundings in every crop.

    A true picture has some .4, a blur .7 and more. It says nothing of whether what is seen makes
    sense: a wall of the right texture where a window must be is coherent.

    Args:
        composite: (B, 3, H, W) in [0, 1], or uint8, 255 = 1, on any device: what was filled, in its
            surroundings.
        hole_mask: (B, 1, H, W), exactly 0 or 1, 1 = hole.
        features: what pixels look like, such as
            :class:`rayfill.metrics.picture_features.SqueezeNetFeatures`; values of different
            features are not comparable.

    Returns:
        (B,) float64, on the CPU.

    Source: removal coherence of PROVE (arXiv:2605.14534), of other features, with other windows.
    """
    kept = torch.uint8 if composite.dtype == torch.uint8 else torch.float32
    pictures = composite.detach().to("cpu", kept).numpy()
    holes = (hole_mask[:, 0] > 0.5).cpu().numpy()
    rows = zip(pictures, holes, strict=True)
    return torch.tensor([_of_sample(*row, features=features) for row in rows], dtype=torch.float64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Crop:
    """A group of parts and what surrounds it."""

    planes: Planes
    """(3, h, w), as given."""
    own: Flags
    """(h, w), the parts of this group."""
    known: Flags
    """(h, w), what belongs to no hole."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Points:
    """What a crop looks like at a grid of points."""

    features: Floats
    """(y, x, C)."""
    own: Flags
    """(y, x), where there is some of the group's parts."""
    known: Flags
    """(y, x), where there is no hole at all."""


def _of_sample(planes: Planes, hole: Flags, *, features: PictureFeatures) -> float:
    values, weights = [], []
    for crop in _crops(planes, hole):
        value = _of_points(_points(crop, features=features))
        if value is not None:
            values.append(value)
            weights.append(np.count_nonzero(crop.own))
    return float(np.average(values, weights=weights)) if values else float("nan")


def _crops(planes: Planes, hole: Flags) -> Iterator[_Crop]:
    """Yield a square crop around each group of parts that lie near each other."""
    height, width = hole.shape
    if not hole.any():
        return
    away_px = cv2.distanceTransform((~hole).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_3)
    reach_px, count = NEAR_PX / 2, MAX_GROUPS + 2
    while count > MAX_GROUPS + 1:
        near = (away_px <= reach_px).astype(np.uint8)
        count, labels, boxes, _ = cv2.connectedComponentsWithStats(near)
        reach_px *= 2
    for label in range(1, count):
        left, top, box_width, box_height = boxes[label][:4].tolist()
        box = np.s_[top : top + box_height, left : left + box_width]
        parts = (labels[box] == label) & hole[box]
        ends = [np.flatnonzero(parts.any(axis=axis))[[0, -1]] for axis in (1, 0)]
        first, last = np.transpose(ends)
        side = max(MIN_SIDE_PX, int((last - first).max() * CONTEXT) + MARGIN_PX)
        size = np.minimum(side, (height, width))
        centre = (first + last + 1) // 2 + (top, left)
        start = np.clip(centre - size // 2, 0, (height, width) - size)
        window = tuple(slice(a, a + s) for a, s in zip(start.tolist(), size.tolist(), strict=True))
        within = hole[window]
        yield _Crop(
            planes=planes[:, *window],
            own=within & (labels[window] == label),
            known=~within,
        )


def _points(crop: _Crop, *, features: PictureFeatures) -> _Points:
    """Return a crop at :data:`TOKENS` points along its longer side, or at all its pixels."""
    longer = max(crop.own.shape)
    looked_at = _scaled(crop.own.shape, min(1.0, MAX_SIDE_PX / longer))
    # A plane of a crop at a time: of a large photo in uint8, all planes as floats are much.
    picture = np.dstack([_averaged(_levels(plane), looked_at) for plane in crop.planes])
    size = _scaled(crop.own.shape, min(1.0, TOKENS / longer))
    return _Points(
        features=_averaged(features(picture), size),
        # Any hole in a point's share of the picture makes it one of hole.
        own=_averaged(crop.own.astype(np.float32), size) > 0,
        known=_averaged(crop.known.astype(np.float32), size) > 1 - 1e-4,
    )


def _of_points(points: _Points) -> float | None:
    """Return the mean distance of windows; None where there is nothing to compare with."""
    known = points.features[points.known]
    if len(known) < MIN_REFERENCES or not points.own.any():
        return None
    chosen = np.linspace(0, len(known) - 1, min(len(known), MAX_REFERENCES)).astype(int)
    # Near 0, float32 loses least of squared distances.
    centre = known.mean(axis=0)
    references = known[chosen] - centre
    apart = _squared_distances(references, references)
    bandwidth = max(float(np.median(apart)) / 2, MIN_BANDWIDTH_SQUARED)

    def kernel(squared: Floats) -> Floats:
        similar: Floats = np.exp(squared * np.float32(-0.5 / bandwidth))
        return similar

    own, around = _windows(points.own), _windows(points.known)  # (N, T)
    looked_at = own.any(axis=1)
    own, around = own[looked_at], around[looked_at]
    values = _windows(points.features)[looked_at] - centre  # (N, T, C)
    inside = own / own.sum(axis=1, keepdims=True)
    outside = around / np.maximum(around.sum(axis=1, keepdims=True), 1)
    # In windows without surroundings, outside is 0 and this |E k(h, .)|^2 alone.
    signed = (inside - outside).astype(np.float32)[..., None]
    similar = kernel(_squared_distances(values, values))
    squared = (signed * (similar @ signed)).sum(axis=(1, 2), dtype=np.float64)
    alone = ~around.any(axis=1)
    if alone.any():
        to_all = kernel(_squared_distances(values[alone], references)).mean(axis=2)
        squared[alone] += kernel(apart).mean(dtype=np.float64)
        squared[alone] -= 2 * (to_all * inside[alone]).sum(axis=1, dtype=np.float64)
    # Rounding may leave a square just below 0; a NaN must stay one.
    distance = np.sqrt(np.maximum(squared, 0))
    return float(np.average(distance, weights=own.sum(axis=1)))


def _windows(points: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return half overlapping windows of (y, x, ...), (N, T, ...), the last ones at the end."""
    sizes = [min(WINDOW, side) for side in points.shape[:2]]
    starts = [
        sorted({*range(0, side - size + 1, WINDOW // 2), side - size})
        for side, size in zip(points.shape[:2], sizes, strict=True)
    ]
    views = sliding_window_view(points, sizes, axis=(0, 1))[np.ix_(*starts)]  # (y, x, ..., h, w)
    last = np.moveaxis(views, (-2, -1), (2, 3))
    return last.reshape(len(starts[0]) * len(starts[1]), sizes[0] * sizes[1], *last.shape[4:])


def _squared_distances(first: Floats, second: Floats) -> Floats:
    """Return (..., N, M) of (..., N, C) and (..., M, C)."""
    ones, others = (first**2).sum(axis=-1), (second**2).sum(axis=-1)
    product = first @ np.swapaxes(second, -1, -2)
    squared: Floats = np.maximum(ones[..., :, None] + others[..., None, :] - 2 * product, 0)
    return squared


def _scaled(shape: tuple[int, ...], scale: float) -> tuple[int, int]:
    height, width = (max(1, round(side * scale)) for side in shape[:2])
    return height, width


def _levels(plane: Planes) -> Floats:
    if plane.dtype == np.uint8:
        return plane.astype(np.float32) / np.float32(255)
    return np.asarray(plane, np.float32)


def _averaged(planes: Floats, size: tuple[int, int]) -> Floats:
    """Return (H, W) or (H, W, C) at another size, each point the mean of its share."""
    if planes.shape[:2] == size:
        return planes
    stacked = planes.reshape(*planes.shape[:2], -1)
    # OpenCV averages no more than four channels at a time.
    parts = [
        cv2.resize(stacked[..., start : start + 4], size[::-1], interpolation=cv2.INTER_AREA)
        for start in range(0, stacked.shape[2], 4)
    ]
    return np.dstack(parts).reshape(*size, *planes.shape[2:])
