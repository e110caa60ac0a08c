"""Where a background is cropped and an object stands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rayfill_data.sources.coco.files import Cut
from rayfill_data.sources.coco.objects import Box, CocoPhoto
from rayfill_data.sources.files import refuse

#: A photo's shorter side is cut into this many cells to look for squares that show nothing.
_CELLS = 60

#: Fewest objects a category's habits can be read from.
_FEWEST = 12

#: Rows of feet kept of a category.
_FEET = 32


class WindowOptions(Protocol):
    """What bounds the square taken from a background."""

    @property
    def size(self) -> int:
        """Side of a sample in pixels; no square is smaller."""

    @property
    def window(self) -> float:
        """Smallest side, as a share of the photo's shorter side."""


@dataclass(frozen=True)
class Window:
    """A square of a photo, in its pixels."""

    top: int
    left: int
    side: int


@dataclass(frozen=True, kw_only=True)
class Context:
    """How objects of a category stand in photos; lengths are shares of the photo's height."""

    feet: tuple[float, ...]
    """Quantiles of the row of the lowest pixel."""
    intercept: float
    slope: float
    spread: float
    """``log height = intercept + slope * foot + spread * N(0, 1)``."""

    def typical_log_height(self, foot: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the logarithm of the usual height of an object with its feet there."""
        return self.intercept + self.slope * foot


def largest_window(photo: CocoPhoto, busy: Sequence[Box], options: WindowOptions) -> int:
    """Return the side in pixels of the largest square that touches no box, or 0.

    Squares below `size` pixels, or below the share `window` of the shorter side, do not count.
    """
    grid = _Grid(photo, busy)
    least = grid.least(options)
    most = min(grid.rows, grid.columns)
    if least > most or not grid.free(least).any():
        return 0
    while least < most:  # A square that is free holds free ones of every smaller side.
        middle = (least + most + 1) // 2
        if grid.free(middle).any():
            least = middle
        else:
            most = middle - 1
    return least * grid.cell


def random_window(
    photo: CocoPhoto, busy: Sequence[Box], options: WindowOptions, *, rng: np.random.Generator
) -> Window:
    """Draw a square that touches no box: its side evenly, then its place evenly.

    The photo must have one, see :func:`largest_window`.
    """
    grid = _Grid(photo, busy)
    most = largest_window(photo, busy, options) // grid.cell
    cells = int(rng.integers(grid.least(options), most, endpoint=True))
    places = np.argwhere(grid.free(cells))
    top, left = places[int(rng.integers(len(places)))]
    return Window(int(top) * grid.cell, int(left) * grid.cell, cells * grid.cell)


def fit_context(cuts: Sequence[Cut], categories: Sequence[str]) -> dict[str, Context]:
    """Fit where objects of each category stand and how high they are there.

    Heights are log-linear in the row of the feet (least squares): on level ground, seen from eye
    level, what stands lower is nearer and larger.

    Raises:
        DatasetError: fewer than 12 objects of a category.
    """
    found, problems = {}, []
    for category in categories:
        mine = [cut for cut in cuts if cut.thing.category == category]
        if len(mine) < _FEWEST:
            problems.append(
                f"{len(mine)} training objects of {category!r} can be used; placement 'context' "
                f"needs {_FEWEST} to learn from. Use placement 'random'."
            )
            continue
        foot = np.array([cut.thing.box[3] / cut.photo.height for cut in mine])
        height = np.log([cut.thing.height / cut.photo.height for cut in mine])
        # Feet that are all on one row say nothing about a slope.
        slope = float(np.cov(foot, height)[0, 1] / max(float(foot.var(ddof=1)), 1e-6))
        intercept = float(height.mean() - slope * foot.mean())
        found[category] = Context(
            feet=tuple(np.quantile(foot, (np.arange(_FEET) + 0.5) / _FEET).tolist()),
            intercept=intercept,
            slope=slope,
            spread=float(np.std(height - intercept - slope * foot)),
        )
    refuse("The context", problems)
    return found


def context_from(raw: Mapping[str, Any]) -> Context:
    """Return the fit that `dataclasses.asdict` was given, after a trip through JSON."""
    return Context(**{**raw, "feet": tuple(raw["feet"])})


def draw_foot(
    context: Context,
    photo_height: int,
    window: Window,
    *,
    rng: np.random.Generator,
    height_px: float | None = None,
) -> tuple[float, float]:
    """Draw the row of an object's feet and its height, both in the photo's pixels.

    Args:
        context: of its category.
        photo_height: of the background photo.
        window: the part of it that is shown.
        rng: the only source of chance.
        height_px: a height that is given already: the row is drawn from those where objects are
            that high; None draws the height after the row.
    """
    feet = np.array(context.feet)
    rows = feet * photo_height
    shown = (rows > window.top) & (rows <= window.top + window.side)
    if not shown.any():
        # Nothing of the category ever stood there: take the lower half of what is shown.
        rows = window.top + window.side * np.linspace(0.5, 1.0, len(feet))
        feet, shown = rows / photo_height, np.ones(len(feet), np.bool_)
    usual = context.typical_log_height(feet)
    weight = shown.astype(np.float64)
    if height_px is not None:
        away = (math.log(height_px / photo_height) - usual) / max(context.spread, 1e-3)
        away = np.abs(away)
        weight *= np.exp(-0.5 * (away**2 - float(away[shown].min()) ** 2))
    place = int(rng.choice(len(feet), p=weight / weight.sum()))
    if height_px is None:
        draw = usual[place] + context.spread * float(rng.normal())
        height_px = photo_height * math.exp(min(draw, 1.0))
    return float(rows[place]), height_px


class _Grid:
    """A photo in square cells, and which of them a box touches."""

    def __init__(self, photo: CocoPhoto, busy: Sequence[Box]) -> None:
        self.cell = max(1, min(photo.height, photo.width) // _CELLS)
        self.rows, self.columns = photo.height // self.cell, photo.width // self.cell
        taken = np.zeros((self.rows, self.columns), np.int32)
        for left, top, right, bottom in busy:
            cell = self.cell
            taken[top // cell : -(-bottom // cell), left // cell : -(-right // cell)] = 1
        self._sums = np.pad(taken.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))

    def least(self, options: WindowOptions) -> int:
        """Return the fewest cells of a square's side."""
        shorter = min(self.rows, self.columns) * self.cell
        return -(-max(options.size, math.ceil(options.window * shorter)) // self.cell)

    def free(self, cells: int) -> npt.NDArray[np.bool_]:
        """Tell for every place whether the square of so many cells there is free."""
        sums = self._sums
        inside = sums[cells:, cells:] - sums[:-cells, cells:] - sums[cells:, :-cells]
        free: npt.NDArray[np.bool_] = inside + sums[:-cells, :-cells] == 0
        return free
