"""The table of hole generators: lines, free-form strokes, boxes, squares, LaMa's presets.

Every generator gives a (H, W) uint8 mask, exactly 0 or 255, 255 = hole; at least one pixel is hole
and, in a picture of more than one, at least one is not. Given a ratio range, shapes are added until
it is reached; a mask that then overshoots is drawn again, and only if that keeps failing its
outline is moved until the range is met.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from rayfill_data.codec import UInt8Array
from rayfill_data.errors import ConfigError, unknown_name
from rayfill_data.masks.hole import RatioRange, area_bounds, irregular_mask, with_exact_area

_Draw = Callable[[UInt8Array, np.random.Generator], None]

#: The shorter side, in pixels, for which papers give brush widths and lengths; and for which report
#: P3 gives the thickness of its lines.
_PAPER_SIDE_PX = 256
_P3_SIDE_PX = 178

#: Masks tried for a ratio range, and shapes added to each, before its outline is moved.
_TRIES = 8
_ADDITIONS = 64

#: What the ratio range is where none is given: `irregular` has always had one, the others have the
#: distribution of the paper they come from.
IRREGULAR_RATIO: RatioRange = (0.05, 0.4)

#: Above this share of hole LaMa draws a mask again.
_LAMA_MOST = 0.7


class MaskGenerator(Protocol):
    """Draws one hole mask."""

    def __call__(
        self,
        height: int,
        width: int,
        *,
        rng: np.random.Generator,
        ratio_range: RatioRange | None = None,
    ) -> UInt8Array:
        """Return (height, width) uint8 in {0, 255}; `rng` is the only source of chance."""


@dataclass(frozen=True)
class _Chains:
    """Brush strokes of straight segments; (least, most) of everything, sizes for 256 pixels."""

    strokes: tuple[int, int]
    segments: tuple[int, int]
    length_px: tuple[float, float]
    width_px: tuple[float, float]


@dataclass(frozen=True)
class _Boxes:
    """Upright boxes; (least, most) of everything, sizes and margin for 256 pixels."""

    count: tuple[int, int]
    side_px: tuple[float, float]
    margin_px: float
    chance: float
    """Of there being boxes at all."""


def lines_mask(
    height: int,
    width: int,
    *,
    rng: np.random.Generator,
    ratio_range: RatioRange | None = None,
    thickness_px: tuple[int, int],
    count: tuple[int, int] = (6, 8),
) -> UInt8Array:
    """Draw straight lines between random points; report P3 draws about 7.

    Args:
        height: pixels.
        width: pixels.
        rng: the only source of chance.
        ratio_range: smallest and largest share of hole; None leaves it to the lines.
        thickness_px: thinnest and thickest line: 1-3 in P3's first phase, 7-12 in its second.
        count: fewest and most lines.

    Raises:
        ConfigError: a range that is none.
    """

    def draw(mask: UInt8Array, rng: np.random.Generator) -> None:
        for _ in range(_whole(rng, count)):
            ends = rng.integers(0, [width, height], (2, 2))
            cv2.line(mask, ends[0].tolist(), ends[1].tolist(), 255, _whole(rng, thickness_px))

    return _within(height, width, rng=rng, ratio_range=ratio_range, draw=draw)


def strokes_mask(
    height: int,
    width: int,
    *,
    rng: np.random.Generator,
    ratio_range: RatioRange | None = None,
) -> UInt8Array:
    """Draw free-form brush strokes as people do: 1-3 long walks that turn back and forth.

    After Yu et al. 2019, "Free-form image inpainting with gated convolution", algorithm 1, with its
    published settings: 4-12 vertices, turns of 2/5 pi +- 2/15 pi, brush 12-40 pixels at 256, steps
    drawn normally around an eighth of the diagonal.
    """
    scale = min(height, width) / _PAPER_SIDE_PX
    radius = math.hypot(height, width) / 8

    def draw(mask: UInt8Array, rng: np.random.Generator) -> None:
        for _ in range(_whole(rng, (1, 3))):
            count = _whole(rng, (4, 12))
            turn = math.pi * (2 / 5 + rng.uniform(-2 / 15, 2 / 15))
            heading = rng.uniform(0, turn, count)
            heading[::2] = 2 * math.pi - heading[::2]
            # Without a direction of their own all strokes would run to the right.
            heading += rng.uniform(0, 2 * math.pi)
            steps = np.clip(rng.normal(radius, radius / 2, count), 0, 2 * radius)
            _stroke(mask, heading, steps, width_px=scale * rng.uniform(12, 40), rng=rng)

    return _within(height, width, rng=rng, ratio_range=ratio_range, draw=draw)


def boxes_mask(
    height: int,
    width: int,
    *,
    rng: np.random.Generator,
    ratio_range: RatioRange | None = None,
) -> UInt8Array:
    """Draw 1-4 upright boxes, each side an eighth to a half of the picture's."""

    def draw(mask: UInt8Array, rng: np.random.Generator) -> None:
        for _ in range(_whole(rng, (1, 4))):
            high = _whole(rng, (max(1, height // 8), max(1, height // 2)))
            wide = _whole(rng, (max(1, width // 8), max(1, width // 2)))
            _box(mask, high, wide, margin_px=0, rng=rng)

    return _within(height, width, rng=rng, ratio_range=ratio_range, draw=draw)


def square_mask(
    height: int,
    width: int,
    *,
    rng: np.random.Generator,
    ratio_range: RatioRange | None = None,
) -> UInt8Array:
    """Draw one square of random size at a random place, as report P5 does.

    Its side is drawn evenly from an eighth to a half of the shorter side (4-16 pixels on CIFAR-10),
    or from the sides whose area lies in `ratio_range`; where no whole side does, the nearest square
    is grown or shrunk along its outline.
    """
    shorter = min(height, width)
    least, most = max(1, shorter // 8), max(1, shorter // 2)
    if ratio_range is not None:
        fewest_px, most_px = area_bounds(height * width, ratio_range)
        least = min(shorter, math.isqrt(fewest_px - 1) + 1)
        most = min(shorter, max(least, math.isqrt(most_px)))

    def draw(mask: UInt8Array, rng: np.random.Generator) -> None:
        side = _whole(rng, (least, most))
        if not mask.any():
            _box(mask, side, side, margin_px=0, rng=rng)

    return _within(height, width, rng=rng, ratio_range=ratio_range, draw=draw)


def _lama(chains: _Chains, boxes: _Boxes | None = None) -> MaskGenerator:
    """Return the generator of one LaMa preset; the paper draws again above 70 % hole."""

    def generate(
        height: int,
        width: int,
        *,
        rng: np.random.Generator,
        ratio_range: RatioRange | None = None,
    ) -> UInt8Array:
        scale = min(height, width) / _PAPER_SIDE_PX

        def draw(mask: UInt8Array, rng: np.random.Generator) -> None:
            _draw_chains(mask, chains, scale=scale, rng=rng)
            if boxes is not None and rng.random() < boxes.chance:
                _draw_boxes(mask, boxes, scale=scale, rng=rng)

        wanted = ratio_range or (1e-9, _LAMA_MOST)
        return _within(height, width, rng=rng, ratio_range=wanted, draw=draw)

    return generate


def _draw_chains(
    mask: UInt8Array, chains: _Chains, *, scale: float, rng: np.random.Generator
) -> None:
    """Draw strokes whose consecutive segments bend to opposite sides, by up to 4 rad."""
    for _ in range(_whole(rng, chains.strokes)):
        count = _whole(rng, chains.segments)
        heading = rng.uniform(0.01, 4, count)
        heading[::2] = 2 * math.pi - heading[::2]
        steps = scale * rng.uniform(*chains.length_px, count)
        _stroke(mask, heading, steps, width_px=scale * rng.uniform(*chains.width_px), rng=rng)


def _draw_boxes(mask: UInt8Array, boxes: _Boxes, *, scale: float, rng: np.random.Generator) -> None:
    for _ in range(_whole(rng, boxes.count)):
        high, wide = np.maximum(1, np.rint(scale * rng.uniform(*boxes.side_px, 2))).astype(int)
        _box(mask, int(high), int(wide), margin_px=round(scale * boxes.margin_px), rng=rng)


def _irregular(
    height: int,
    width: int,
    *,
    rng: np.random.Generator,
    ratio_range: RatioRange | None = None,
) -> UInt8Array:
    return irregular_mask(height, width, rng=rng, ratio_range=ratio_range or IRREGULAR_RATIO)


def _lines(thickness_px: tuple[int, int]) -> MaskGenerator:
    """Return lines of a thickness meant for P3's 178 pixels, scaled with the shorter side."""

    def generate(
        height: int,
        width: int,
        *,
        rng: np.random.Generator,
        ratio_range: RatioRange | None = None,
    ) -> UInt8Array:
        scale = min(height, width) / _P3_SIDE_PX
        least, most = (max(1, round(scale * thickness)) for thickness in thickness_px)
        return lines_mask(
            height, width, rng=rng, ratio_range=ratio_range, thickness_px=(least, most)
        )

    return generate


#: Every generator by name. LaMa's settings are those of Suvorov et al. 2022, "Resolution-robust
#: large mask inpainting with Fourier convolutions", for 256 pixels, scaled with the shorter side.
MASKS: dict[str, MaskGenerator] = {
    "irregular": _irregular,
    "lines_thin": _lines((1, 3)),
    "lines_thick": _lines((7, 12)),
    "strokes": strokes_mask,
    "boxes": boxes_mask,
    "square": square_mask,
    "lama_thin": _lama(_Chains((4, 50), (1, 5), (10, 50), (5, 15))),
    "lama_medium": _lama(
        _Chains((4, 5), (1, 5), (10, 110), (5, 55)), _Boxes((1, 5), (10, 50), 0, 0.3)
    ),
    "lama_thick": _lama(
        _Chains((1, 5), (1, 5), (10, 210), (5, 105)), _Boxes((1, 4), (30, 150), 10, 0.3)
    ),
}


def draw_mask(
    name: str,
    height: int,
    width: int,
    *,
    rng: np.random.Generator,
    ratio_range: RatioRange | None = None,
) -> UInt8Array:
    """Draw one mask with the generator of that name.

    Raises:
        ConfigError: an unknown name, or a ratio range that is none.
    """
    if name not in MASKS:
        raise ConfigError([unknown_name("mask generator", name, MASKS)])
    return MASKS[name](height, width, rng=rng, ratio_range=ratio_range)


def _within(
    height: int,
    width: int,
    *,
    rng: np.random.Generator,
    ratio_range: RatioRange | None,
    draw: _Draw,
) -> UInt8Array:
    """Draw until the share of hole lies in the range, as the module says."""
    area = height * width
    fewest, most = 1, max(1, area - 1)
    if ratio_range is not None:
        fewest, most = area_bounds(area, ratio_range)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(_TRIES):
        mask[:] = 0
        for _ in range(_ADDITIONS):
            draw(mask, rng)
            holes = cv2.countNonZero(mask)
            if holes >= fewest:
                break
        if fewest <= holes <= most:
            return mask
    return with_exact_area(mask, int(rng.integers(fewest, most, endpoint=True)))


def _stroke(
    mask: UInt8Array,
    heading: npt.NDArray[np.float64],
    steps: npt.NDArray[np.float64],
    *,
    width_px: float,
    rng: np.random.Generator,
) -> None:
    """Draw one brush stroke in place: from a random point, kept inside the frame."""
    height, width = mask.shape
    points = np.empty((len(steps) + 1, 2))
    points[0] = rng.uniform(0, [width, height])
    limits = np.array([width - 1.0, height - 1.0])
    moves = np.stack([np.cos(heading), np.sin(heading)], axis=1) * steps[:, None]
    for index, move in enumerate(moves):
        points[index + 1] = np.clip(points[index] + move, 0, limits)
    vertices = np.rint(points).astype(np.int32)
    cv2.polylines(mask, [vertices], isClosed=False, color=255, thickness=max(1, round(width_px)))


def _box(
    mask: UInt8Array, high: int, wide: int, *, margin_px: int, rng: np.random.Generator
) -> None:
    """Fill one box in place, `margin_px` away from the border where there is room."""
    height, width = mask.shape
    high, wide = min(high, height), min(wide, width)
    top = _whole(rng, _room(height, high, margin_px))
    left = _whole(rng, _room(width, wide, margin_px))
    mask[top : top + high, left : left + wide] = 255


def _room(outer: int, inner: int, margin_px: int) -> tuple[int, int]:
    margin = min(margin_px, (outer - inner) // 2)
    return margin, outer - inner - margin


def _whole(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    """Draw a whole number, both bounds included."""
    return int(rng.integers(bounds[0], bounds[1], endpoint=True))
