"""The object in a box of a photo, by GrabCut on a small crop, with its rim at full size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rayfill.inference.clicks import Click
from rayfill.inference.grabcut import Flags, UInt8, cut

#: Left, top, right and bottom in pixels of the photo.
Box = tuple[float, float, float, float]
Floats = NDArray[np.float32]

#: Known background shown around a box: this share of its longer side, and at least so much.
_MARGIN, _LEAST_MARGIN_PX = 0.1, 8
#: Where the object is first thought to be: an ellipse of this share of the box.
_FIRST_GUESS = 0.8
#: How far, in levels of colour, the box's rim lies from its middle, and for how many rounds of
#: GrabCut: first the place speaks beside the colours, then colours alone.
_STAGES = ((25.0, 3), (0.0, 2))
_QUICK_STAGES = ((25.0, 2), (0.0, 1))
_STAGES_AFTER_A_START = ((25.0, 1),)
#: A stage that leaves less of the box than this share has lost the object, and is not believed.
_LEAST_SHARE = 0.25
#: Parts smaller than this share of the largest are specks.
_SPECK = 0.2
#: Holes up to this share of the object are filled.
_PINHOLE = 0.02
#: Radius around a click that is sure, as a share of the shorter side of the box.
_CLICK_RADIUS = 0.06

#: Scribbles: from here on the object, and up to here not.
_SURE, _NEVER = 192, 63
#: Half the window, in pixels of the view, in which the rim follows the photo's edges; and the
#: variance of colours, in [0, 1] squared, below which there is no edge to follow.
_RIM_PX, _RIM_SMOOTHNESS = 2, 1e-3


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What is surely the object's or surely not, in pixels of the photo."""

    clicks: Sequence[Click] = ()
    scribbles: UInt8 | None = None

    @property
    def positive(self) -> list[tuple[float, float]]:
        """Return points of the object: clicks, and the ends of what is scribbled."""
        points = [(x, y) for x, y, wanted in self.clicks if wanted]
        if self.scribbles is not None:
            lines, columns = (self.scribbles >= _SURE).nonzero()
            for order in (lines, columns) if len(lines) else ():
                for index in (int(order.argmin()), int(order.argmax())):
                    points.append((float(columns[index]), float(lines[index])))
        return points


@dataclass(frozen=True, kw_only=True)
class View:
    """The part of a photo around a box, scaled down."""

    left: int
    top: int
    right: int
    bottom: int
    pixels: UInt8
    """(h, w, 3)"""
    reach: Floats
    """(h, w) 0 in the middle of the box, 1 on the ellipse in it and everywhere farther out."""
    inside: Flags
    """(h, w) what the box covers."""

    @property
    def scale(self) -> tuple[float, float]:
        """Return pixels here for each of the photo, along x and y."""
        height, width = self.inside.shape
        return width / (self.right - self.left), height / (self.bottom - self.top)

    def show(self, mask: Flags, size: Sequence[int]) -> Flags:
        """Return the part of a mask of the whole photo, of any scale, that this view shows.

        ``size`` is the height and width of the photo.
        """
        height, width = self.inside.shape
        across, down = mask.shape[1] / size[1], mask.shape[0] / size[0]
        columns = (self.left + (np.arange(width) + 0.5) / self.scale[0]) * across
        lines = (self.top + (np.arange(height) + 0.5) / self.scale[1]) * down
        last_line, last_column = mask.shape[0] - 1, mask.shape[1] - 1
        grid = np.meshgrid(
            np.minimum(columns.astype(int), last_column), np.minimum(lines.astype(int), last_line)
        )
        shown: Flags = mask[grid[1], grid[0]]
        return shown


def view_of(image: UInt8, box: Box, *, side_px: int) -> View:
    """Return the surroundings of a box at most ``side_px`` wide and high."""
    height, width = image.shape[:2]
    left, top, right, bottom = box
    margin = max(_LEAST_MARGIN_PX, _MARGIN * max(right - left, bottom - top))
    x0, y0 = max(0, math.floor(left - margin)), max(0, math.floor(top - margin))
    x1, y1 = min(width, math.ceil(right + margin)), min(height, math.ceil(bottom + margin))
    scale = min(1.0, side_px / max(x1 - x0, y1 - y0))
    size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    pixels = cv2.resize(image[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA)
    columns = x0 + (np.arange(size[0]) + 0.5) * (x1 - x0) / size[0]
    lines = y0 + (np.arange(size[1]) + 0.5) * (y1 - y0) / size[1]
    across = _from_middle(columns, left, right, end=width)
    down = _from_middle(lines, top, bottom, end=height)
    covered = np.outer((lines > top) & (lines < bottom), (columns > left) & (columns < right))
    return View(
        left=x0,
        top=y0,
        right=x1,
        bottom=y1,
        pixels=np.asarray(pixels, np.uint8),
        reach=np.minimum(np.hypot(down[:, None], across[None]), 1).astype(np.float32),
        inside=covered,
    )


def _from_middle(places: NDArray[np.float64], low: float, high: float, *, end: int) -> Floats:
    """Return the distance of places along an axis from a span's middle; 1 is its end.

    An object that reaches the edge of the photo goes on beyond it: such a span is twice as long.
    """
    length = high - low
    low, high = (low - length * (low < 1), high + length * (high > end - 1))
    distance = np.abs(places - (low + high) / 2) / ((high - low) / 2)
    return distance.astype(np.float32)


def cut_view(view: View, marks: Marks, *, start: Flags | None = None, quick: bool = False) -> Flags:
    """Return what is the object's in a view, cleaned.

    ``start``, (h, w) bool, is a guess to begin with that is better than an ellipse in the box: one
    round is then enough. ``quick`` does with three rounds instead of five.
    """
    labels = np.where(view.inside, np.uint8(cv2.GC_PR_FGD), np.uint8(cv2.GC_BGD))
    if view.inside.all():  # nothing is surely not the object: its ellipse still leaves corners
        labels[0] = cv2.GC_BGD
    _paint(labels, view, marks)
    sure, maybe = labels == cv2.GC_FGD, labels == cv2.GC_PR_FGD
    first = view.reach <= _FIRST_GUESS if start is None else start
    found = first & maybe | sure
    stages = _QUICK_STAGES if quick else _STAGES
    for weight, rounds in stages if start is None else _STAGES_AFTER_A_START:
        after = cut(_features(view, weight), labels, start=found, rounds=rounds)
        if after.sum() > _LEAST_SHARE * maybe.sum():
            found = after
    return _clean(found, sure)


def _features(view: View, weight: float) -> UInt8:
    """Return principal colours, and in the least of them also how far out a pixel lies.

    OpenCV takes three channels of whole levels. The Gaussians of GrabCut then know how colours and
    places go together, which colours alone cannot tell where background shows through.
    """
    colours = view.pixels.reshape(-1, 3).astype(np.float64)
    centred = colours - colours.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    turned = (centred @ axes[:, ::-1]).reshape(view.pixels.shape)
    turned[..., 2] += weight * (view.reach - 0.5)
    return np.asarray(np.rint(turned + 128).clip(0, 255), np.uint8)


def _paint(labels: UInt8, view: View, marks: Marks) -> None:
    """Write down in place what is sure."""
    across, down = view.scale
    if marks.scribbles is not None:
        drawn = marks.scribbles[view.top : view.bottom, view.left : view.right]
        size = labels.shape[::-1]
        for wanted, flags in ((0, drawn <= _NEVER), (1, drawn >= _SURE)):
            share = cv2.resize(flags.astype(np.float32), size, interpolation=cv2.INTER_AREA)
            labels[share > 0] = cv2.GC_FGD if wanted else cv2.GC_BGD
    lines, columns = view.inside.any(axis=1).sum(), view.inside.any(axis=0).sum()
    radius = max(1, round(_CLICK_RADIUS * int(min(lines, columns))))
    for x, y, wanted in marks.clicks:
        place = int((x - view.left) * across), int((y - view.top) * down)
        cv2.circle(labels, place, radius, cv2.GC_FGD if wanted else cv2.GC_BGD, -1)


def _clean(found: Flags, sure: Flags) -> Flags:
    """Return the parts that are marked, or else all but specks, without pinholes."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(found.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if not len(areas):
        return found
    kept = np.unique(parts[sure & found])
    if not len(kept):
        kept = 1 + np.flatnonzero(areas >= _SPECK * areas.max())
    whole = np.isin(parts, kept)
    _, gaps, stats, _ = cv2.connectedComponentsWithStats((~whole).astype(np.uint8), connectivity=4)
    pinholes = 1 + np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] <= _PINHOLE * whole.sum())
    return whole | np.isin(gaps, pinholes)


def along_edges(found: Flags, view: View, crop: UInt8) -> Flags:
    """Return what was found at the size of the photo, its rim where the photo has its edges.

    Near the rim the mask is, in every small window, the linear function of colour that fits it best
    (He and Sun, "Fast guided filter", 2015, with colour as its guide): fitted in the view, applied
    to the full pixels.
    """
    height, width = crop.shape[:2]
    if found.shape == (height, width):
        return found

    slopes, level = _fit(view.pixels / 255.0, found.astype(np.float64))
    near = cv2.blur(found.astype(np.float32), (2 * _RIM_PX + 1,) * 2)
    soft = _enlarged(level, width=width, height=height)
    for channel in range(3):
        part = _enlarged(slopes[..., channel], width=width, height=height)
        soft += part * (crop[..., channel] / np.float32(255))
    share = _enlarged(near, width=width, height=height)
    # A window that is all one side has nothing to fit: the colours there say nothing.
    result: Flags = np.where((share > 0.02) & (share < 0.98), soft > 0.5, share > 0.5)
    return result


def _fit(
    guide: NDArray[np.float64], target: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return slopes (h, w, 3) and levels (h, w) of a guided filter: ``slopes . colour + level``."""

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(cv2.blur(values, (2 * _RIM_PX + 1,) * 2), np.float64)

    colour, share = mean(guide), mean(target)
    products = (guide[..., :, None] * guide[..., None, :]).reshape(*target.shape, 9)
    spread = mean(products).reshape(*target.shape, 3, 3)
    spread -= colour[..., :, None] * colour[..., None, :]
    spread += _RIM_SMOOTHNESS * np.eye(3)
    weighed = np.asarray(guide * target[..., None], np.float64)
    together = mean(weighed) - colour * share[..., None]
    slopes = np.asarray(np.linalg.solve(spread, together[..., None])[..., 0], np.float64)
    level = np.asarray(share - (slopes * colour).sum(axis=-1), np.float64)
    return mean(slopes), mean(level)


def _enlarged(values: NDArray[np.float64] | Floats, *, width: int, height: int) -> Floats:
    large = cv2.resize(values.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large, np.float32)
