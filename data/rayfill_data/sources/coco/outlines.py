"""The outline of one annotation: validated number by number, its box and its area."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from rayfill_data.sources.coco.objects import Box
from rayfill_data.sources.coco.runs import OutlineError, Runs, uncompressed

_LONGEST_RUN = 2**40


def read_polygons(
    raw: list[Any], *, height: int, width: int
) -> tuple[tuple[tuple[float, ...], ...], Box, float]:
    """Return validated polygons, the box that holds them, and their area in pixels.

    Raises:
        OutlineError: no polygon, an odd number of coordinates, fewer than three points, something
            that is no finite number, or points far outside the picture.
    """
    if not raw:
        raise OutlineError("it has no outline.")
    polygons = [_polygon(polygon, height=height, width=width) for polygon in raw]
    points = np.concatenate(polygons)
    low, high = points.min(axis=0), points.max(axis=0)
    # A pixel belongs to it if its centre does, give or take the fifth pycocotools rounds to.
    left, top = (max(0, math.ceil(value - 0.7)) for value in low)
    right = min(width, math.floor(high[0] - 0.3) + 1)
    bottom = min(height, math.floor(high[1] - 0.3) + 1)
    if left >= right or top >= bottom:
        raise OutlineError(f"its polygon covers no pixel of the {width}x{height} picture.")
    area = sum(_area(polygon) for polygon in polygons)
    return (
        tuple(tuple(polygon.ravel().tolist()) for polygon in polygons),
        (
            left,
            top,
            right,
            bottom,
        ),
        area,
    )


def read_runs(
    raw: dict[str, Any], *, height: int, width: int
) -> tuple[tuple[int, ...], Box, float]:
    """Return validated run lengths, the box of what they mark, and its area in pixels.

    Raises:
        OutlineError: another size than the picture's, runs that are no run lengths or do not fill
            the picture, or that mark nothing.
    """
    if raw.get("size") != [height, width]:
        raise OutlineError(
            f"its run lengths are for size {shown(raw.get('size'))}, the picture is "
            f"[{height}, {width}]."
        )
    runs = _runs(raw.get("counts"))
    area = height * width
    if not len(runs) or runs.min() < 0 or int(runs.sum()) != area:
        raise OutlineError(f"its run lengths do not fill a picture of {area} pixels.")
    ends = np.cumsum(runs)
    first, last = ends[0:-1:2], ends[1::2]
    filled = last > first
    first, last = first[filled], last[filled] - 1
    if not len(first):
        raise OutlineError("its run lengths mark no pixel.")
    marked = float((last + 1 - first).sum())
    return tuple(runs.tolist()), _runs_box(first, last, height), marked


def read_box(raw: Any, *, height: int, width: int) -> Box:
    """Return COCO's [x, y, width, height] as a box of whole pixels inside the picture.

    Raises:
        OutlineError: not four finite numbers, or a box that is empty or reaches out of the picture.
    """
    if not isinstance(raw, list) or len(raw) != 4 or not all(map(_finite, raw)):
        raise OutlineError(f"its bbox is {shown(raw)}, not four finite numbers.")
    x, y, wide, high = raw
    inside = x >= 0 and y >= 0 and wide > 0 and high > 0 and x + wide <= width
    if not inside or y + high > height:
        raise OutlineError(f"its bbox {shown(raw)} does not lie in the {width}x{height} picture.")
    return math.floor(x), math.floor(y), math.ceil(x + wide), math.ceil(y + high)


def shown(value: Any) -> str:
    """Return something short for a message, whatever it is."""
    text = repr(value) if isinstance(value, str | int | float | list | None) else "an object"
    return text if len(text) <= 40 else f"{text[:37]}..."


def _runs(counts: Any) -> Runs:
    """Return compressed or plain run lengths as numbers."""
    if isinstance(counts, str):
        return uncompressed(counts.encode("ascii", "replace"))
    if isinstance(counts, list) and all(type(run) is int for run in counts):
        # What does not fit is too long for any picture.
        return np.asarray([max(-1, min(run, _LONGEST_RUN)) for run in counts], np.int64)
    raise OutlineError("its run lengths are neither a string nor a list of whole numbers.")


def _polygon(raw: Any, *, height: int, width: int) -> npt.NDArray[np.float64]:
    """Return one polygon as (N, 2) x, y."""
    if not isinstance(raw, list) or not all(map(_finite, raw)):
        raise OutlineError("its polygon is not a list of finite numbers.")
    if len(raw) % 2:
        raise OutlineError(f"its polygon has {len(raw)} coordinates, an odd number.")
    if len(raw) < 6:
        raise OutlineError(f"its polygon has {len(raw) // 2} points; at least 3 are needed.")
    points = np.asarray(raw, np.float64).reshape(-1, 2)
    # Outlines may slip over the edge; a whole picture away they are something else.
    size = np.array([width, height])
    if (points < -size).any() or (points > 2 * size).any():
        raise OutlineError(
            f"its polygon reaches from {points.min():g} to {points.max():g}, far outside the "
            f"{width}x{height} picture."
        )
    return points


def _finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number too large for a float
        return False


def _area(points: npt.NDArray[np.float64]) -> float:
    """Return the area of a polygon (shoelace formula)."""
    x, y = points.T
    along = np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:])
    return abs(float(along + x[-1] * y[0] - y[-1] * x[0])) / 2


def _runs_box(first: npt.NDArray[np.int64], last: npt.NDArray[np.int64], height: int) -> Box:
    """Return the box of runs down the columns, given each one's first and last pixel."""
    columns = first // height, last // height
    across = bool((columns[0] != columns[1]).any())
    top = 0 if across else int((first % height).min())
    bottom = height if across else int((last % height).max()) + 1
    return int(columns[0].min()), top, int(columns[1].max()) + 1, bottom
