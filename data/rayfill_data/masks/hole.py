"""Hole masks: brush strokes drawn at random, exact growing and shrinking, reproducible chance.

Masks are (H, W) uint8, exactly 0 or 255, 255 = hole.
"""

from __future__ import annotations

import hashlib
import math
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt

from rayfill_data.checks import Bounds, check_value
from rayfill_data.codec import UInt8Array

#: Smallest and largest share of a picture that a hole covers.
RatioRange = Annotated[tuple[float, float], Bounds(gt=0, lt=1)]

_Floats = npt.NDArray[np.float64]

#: Up to this radius a disc kernel is faster than a distance transform (256-512 px masks).
_DISC_MAX_RADIUS_PX = 20

_MAX_STROKES = 24


def sample_rng(run_seed: int, epoch: int, sample_id: str) -> np.random.Generator:
    """Return the generator of one sample in one epoch of one run: the same everywhere, always."""
    key = f"{run_seed}/{epoch}/{sample_id}".encode()
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest()))


def hole_ratio(mask: UInt8Array) -> float:
    """Return the share of hole pixels, in [0, 1]."""
    return int(np.count_nonzero(mask)) / mask.size


def area_bounds(area_px: int, ratio_range: RatioRange) -> tuple[int, int]:
    """Return the fewest and most hole pixels of a ratio range: at least one, never all of them.

    Raises:
        ConfigError: a range that is none.
    """
    check_value("ratio_range", ratio_range, RatioRange)
    fewest = min(max(1, math.ceil(ratio_range[0] * area_px)), max(1, area_px - 1))
    return fewest, max(fewest, math.floor(ratio_range[1] * area_px))


def irregular_mask(
    height: int,
    width: int,
    *,
    rng: np.random.Generator,
    ratio_range: RatioRange = (0.05, 0.4),
) -> UInt8Array:
    """Draw brush strokes until a share of the picture drawn uniformly from `ratio_range` is hole.

    The ratio lies in the range exactly, as far as whole pixels allow it: at least one pixel is hole
    and, in a picture of more than one, at least one is not.

    Args:
        height: pixels.
        width: pixels.
        rng: the only source of chance.
        ratio_range: smallest and largest share of hole, 0 < low <= high < 1.

    Raises:
        ConfigError: a range that is none.
    """
    area = height * width
    fewest, most = area_bounds(area, ratio_range)
    wanted = int(rng.integers(fewest, most, endpoint=True))
    mask = np.zeros((height, width), np.uint8)
    holes = 0
    for _ in range(_MAX_STROKES):
        if holes >= max(fewest, wanted - area // 100):
            break
        _draw_stroke(mask, area_px=wanted - holes, rng=rng)
        holes = cv2.countNonZero(mask)
    return mask if fewest <= holes <= most else with_exact_area(mask, wanted)


def dilate(mask: UInt8Array, *, radius_px: int) -> UInt8Array:
    """Return the pixels whose distance to a hole pixel is at most `radius_px` (an exact disc).

    ``out(p) = 255 where min over holes q of |p - q|_2 <= radius_px``. Radius 0 is the identity, a
    negative one erodes, an empty mask stays empty.
    """
    if radius_px < 0:
        return erode(mask, radius_px=-radius_px)
    if radius_px == 0 or not mask.any():
        return mask.copy()
    if radius_px <= _DISC_MAX_RADIUS_PX:
        return np.asarray(cv2.dilate(mask, _disc(radius_px)), np.uint8)
    distance = cv2.distanceTransform(255 - mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Distances are roots of whole numbers in float32; the next one above the radius is about
    # 1 / (2 * radius) away, so half of that decides every pixel exactly.
    reached = distance <= radius_px + 0.25 / radius_px
    return np.where(reached, np.uint8(255), np.uint8(0))


def erode(mask: UInt8Array, *, radius_px: int) -> UInt8Array:
    """Return the hole pixels farther than `radius_px` from every valid pixel; inverts `dilate`.

    The outside of the picture counts as neither: a mask of holes only stays so. Radius 0 is the
    identity, a negative one dilates.
    """
    if radius_px < 0:
        return dilate(mask, radius_px=-radius_px)
    return np.asarray(255 - dilate(255 - mask, radius_px=radius_px), np.uint8)


def _disc(radius_px: int) -> UInt8Array:
    """Return x^2 + y^2 <= r^2; OpenCV's MORPH_ELLIPSE is not a disc (16 % of the ring at r=2)."""
    offsets = np.arange(-radius_px, radius_px + 1)
    return (offsets[:, None] ** 2 + offsets**2 <= radius_px**2).astype(np.uint8)


def _draw_stroke(mask: UInt8Array, *, area_px: int, rng: np.random.Generator) -> None:
    """Draw one brush stroke of roughly `area_px` in place: a smooth walk kept inside the frame."""
    height, width = mask.shape
    side = min(height, width)
    # A disc of the brush alone must not exceed the area still wanted.
    widest = max(1.0, min(0.18 * side, 1.1 * math.sqrt(area_px)))
    thickness = max(1, round(widest * float(rng.uniform(0.35, 1.0))))
    # The round ends alone cover a disc.
    length = max(0.0, area_px / thickness - thickness * math.pi / 4)
    length = min(length, 2.0 * max(height, width))
    count = int(rng.integers(6, 14))
    turns = rng.normal(0.0, 0.55, count)
    # A brush also doubles back now and then.
    turns[rng.random(count) < 0.12] += math.pi / 2
    heading = rng.uniform(0.0, 2 * math.pi) + np.cumsum(turns)
    steps = length / count * rng.uniform(0.5, 1.5, count)
    walk = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1) * steps[:, None], axis=0)
    points = rng.uniform(0.0, [width, height]) + np.vstack([np.zeros((1, 2)), walk])
    vertices = np.rint(_fold(points, np.array([width - 1.0, height - 1.0]))).astype(np.int32)
    cv2.polylines(mask, [vertices], isClosed=False, color=255, thickness=thickness)


def _fold(points: _Floats, limits: _Floats) -> _Floats:
    """Mirror coordinates at 0 and at their limits, as often as needed."""
    period = np.maximum(2 * limits, 1.0)
    folded: _Floats = np.maximum(limits - np.abs(points % period - limits), 0.0)
    return folded


def with_exact_area(mask: UInt8Array, area_px: int) -> UInt8Array:
    """Grow or shrink the holes along their outline until exactly `area_px` pixels are hole.

    A mask of nothing, or of holes only, is changed in place to give the outline a place.
    """
    # A distance needs something to be measured from.
    if not mask.any():
        mask[mask.shape[0] // 2, mask.shape[1] // 2] = 255
    elif mask.all():
        mask[0, 0] = 0
    outside = cv2.distanceTransform(255 - mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    order = np.argsort((outside - inside).ravel(), kind="stable")
    exact = np.zeros(mask.size, np.uint8)
    exact[order[:area_px]] = 255
    return exact.reshape(mask.shape)
