"""What to remove, found without learning: from a rectangle, clicks or scribbles, by GrabCut."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rayfill.inference.clicks import Click, click_outside
from rayfill.inference.cutout import Box, Marks, along_edges, cut_view, view_of
from rayfill.inference.grabcut import Flags, UInt8
from rayfill.inference.guesses import guess
from rayfill_data.errors import RayfillError

#: Longest side of what GrabCut works on; at 160 px its smoothing swallows thin objects, and at 320
#: the masks of people were no better and took half as long again.
_SIDE_PX = 256


def select(
    image: UInt8,
    *,
    box: Box | None = None,
    clicks: Sequence[Click] = (),
    scribbles: UInt8 | None = None,
) -> UInt8:
    """Return the mask of one object: the same bits every time, whatever else OpenCV was asked.

    GrabCut on a crop of at most 256 px, with an ellipse in the box as its first guess; specks are
    dropped and pinholes filled; the rim then follows the photo's edges at full size. Without a box,
    several are tried around what is marked. Median IoU on people of COCO photos:
    ``benchmarks/results/selection_*.md``.

    Args:
        image: (H, W, 3) uint8 RGB of any size.
        box: left, top, right, bottom in pixels of ``image``; what is outside is surely not meant.
        clicks: x, y and 1 (the object) or 0 (not the object), in pixels of ``image``.
        scribbles: (H, W) uint8, from 192 the object, to 63 not the object, between them open.

    Returns:
        (H, W) uint8, 255 = object; all 0 where nothing can be the object.

    Raises:
        RayfillError: no box and nothing marked as the object, or what lies outside the photo.
    """
    height, width = image.shape[:2]
    problem = (box is not None and box_problem(box, height=height, width=width)) or click_outside(
        clicks, height=height, width=width
    )
    if problem:
        raise RayfillError(problem)
    if scribbles is not None and scribbles.shape != (height, width):
        raise RayfillError(
            f"The scribbles are {scribbles.shape[1]}x{scribbles.shape[0]} pixels, the photo "
            f"{width}x{height}: make them the same size."
        )
    marks = Marks(clicks=clicks, scribbles=scribbles)
    if box is None and not marks.positive:
        raise RayfillError("Nothing says what is meant: give a box, or a click on the object.")
    if box is not None:
        return _cut_out(image, box, marks)
    around, start = guess(image, marks)
    return _cut_out(image, around, marks, start=start)


def box_problem(box: Box, *, height: int, width: int) -> str | None:
    """Return a sentence of numbers about a box that is none or outside a photo, or None."""
    left, top, right, bottom = box
    shown = "[" + ", ".join(f"{value:g}" for value in box) + "]"
    if not (0 <= left <= width and 0 <= right <= width and 0 <= top <= height >= bottom >= 0):
        return (
            f"Box {shown} lies outside the photo of {width}x{height} pixels: it is left, top, "
            f"right, bottom, with x from 0 to {width} and y from 0 to {height}."
        )
    if right - left < 1 or bottom - top < 1:
        return (
            f"Box {shown} is empty: it is left, top, right, bottom, right at least 1 above left "
            "and bottom at least 1 above top."
        )
    return None


def _cut_out(image: UInt8, box: Box, marks: Marks, *, start: Flags | None = None) -> UInt8:
    """Return the mask at full size of the object in a box."""
    view = view_of(image, box, side_px=_SIDE_PX)
    found = cut_view(view, marks, start=None if start is None else view.show(start, image.shape))
    mask = np.zeros(image.shape[:2], np.uint8)
    crop = image[view.top : view.bottom, view.left : view.right]
    part = mask[view.top : view.bottom, view.left : view.right]
    part[along_edges(found, view, crop)] = 255
    left, top, right, bottom = box
    covered = slice(math.floor(top), math.ceil(bottom)), slice(math.floor(left), math.ceil(right))
    result = np.zeros_like(mask)
    result[covered] = mask[covered]
    return result
