"""Contact sheets: captioned pictures in rows and columns, the same wherever pictures are shown."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from rayfill_data.codec import UInt8Array
from rayfill_data.masks.hole import dilate
from rayfill_data.masks.typeface import typeface

GAP_PX = 6
_TEXT_PX = 12
_MOST_LINES = 3
_INK, _MUTED, _PAPER, _WHITE = (27, 27, 27), (110, 110, 110), (255, 255, 255), 255


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture of a sheet, and what stands above and below it."""

    picture: UInt8Array
    """(H, W, 3) RGB."""
    title: str = ""
    value: str = ""


#: Leaves a place empty.
NOTHING = Tile(picture=np.zeros((0, 0, 3), np.uint8))


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """Pictures beside each other."""

    tiles: Sequence[Tile]
    heading: str = ""
    """Stands above them all."""


def draw_sheet(rows: Sequence[SheetRow], *, text_px: int = _TEXT_PX) -> UInt8Array:
    """Return rows below each other as one picture (H, W, 3); columns are as wide as their widest.

    Args:
        rows: pictures as large as they shall be shown.
        text_px: size of all text.
    """
    columns = itertools.zip_longest(*(row.tiles for row in rows), fillvalue=NOTHING)
    widths = [max(tile.picture.shape[1] for tile in column) for column in columns]
    drawn = []
    for row in rows:
        body = _body(row.tiles, widths=widths, text_px=text_px)
        if row.heading:
            drawn.append(np.full((2 * GAP_PX, body.shape[1], 3), _WHITE, np.uint8))
            drawn.append(caption(row.heading, width=body.shape[1], muted=True, text_px=text_px))
        drawn.append(body)
    return np.pad(np.concatenate(drawn), ((GAP_PX, 0), (GAP_PX, 0), (0, 0)), constant_values=_WHITE)


def _body(tiles: Sequence[Tile], *, widths: Sequence[int], text_px: int) -> UInt8Array:
    filled = [*tiles, *[NOTHING] * (len(widths) - len(tiles))]
    cells = list(zip(filled, widths, strict=True))
    height = max(len(tile.picture) for tile, _ in cells)
    titles = [broken(tile.title, width=w, most=_MOST_LINES, text_px=text_px) for tile, w in cells]
    values = any(tile.value for tile, _ in cells)
    drawn = []
    for tile, width in cells:
        parts = [
            caption(tile.title, width=width, lines=max(map(len, titles)), text_px=text_px),
            _padded(tile.picture, height=height, width=width),
            caption(tile.value, width=width, lines=int(values), text_px=text_px),
        ]
        cell = np.concatenate(parts)
        drawn.append(_padded(cell, height=len(cell) + GAP_PX, width=width + GAP_PX))
    return np.concatenate(drawn, axis=1)


def fitted(picture: UInt8Array, *, side_px: int) -> UInt8Array:
    """Return a picture of at most ``side_px`` a side, a small one a whole number of times larger.

    So the pixels of small pictures stay visible.
    """
    height, width = picture.shape[:2]
    longest = max(height, width)
    if longest <= side_px:
        times = side_px // longest
        return picture.repeat(times, axis=0).repeat(times, axis=1)
    size = (round(width * side_px / longest), round(height * side_px / longest))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def mark_hole(
    image: UInt8Array, hole: UInt8Array, *, colour: tuple[int, int, int], opacity: float
) -> UInt8Array:
    """Tint the hole, so that what lies in it can still be seen, and draw its outline in white.

    Args:
        image: (H, W, 3) uint8 RGB.
        hole: (H, W) uint8, above 0 in the hole.
        colour: RGB of the tint.
        opacity: Of the tint, in [0, 1].
    """
    inside = hole > 0
    marked = image.astype(np.float32)
    marked[inside] = (1 - opacity) * marked[inside] + opacity * np.array(colour, np.float32)
    outline = (dilate(hole, radius_px=1) > 0) & ~inside
    marked[outline] = _WHITE
    return np.rint(marked).astype(np.uint8)


def caption(
    text: str, *, width: int, lines: int = 1, muted: bool = False, text_px: int = _TEXT_PX
) -> UInt8Array:
    """Return text on white, broken where it must be, the rest cut off.

    Its height is ``lines`` times 5/4 of ``text_px``.
    """
    line_px = text_px * 5 // 4
    picture = Image.new("RGB", (width, lines * line_px), _PAPER)
    pen = ImageDraw.Draw(picture)
    parts = broken(text, width=width, most=lines, text_px=text_px)
    top = (lines - len(parts)) * line_px  # what stands above a picture stands close to it
    for number, part in enumerate(parts):
        place = (0, top + number * line_px)
        pen.text(
            place,
            part,
            fill=_MUTED if muted else _INK,
            font=typeface("DejaVuSans", size_px=text_px),
        )
    return np.asarray(picture, np.uint8)


def broken(text: str, *, width: int, most: int, text_px: int = _TEXT_PX) -> list[str]:
    """Return text in lines no wider than ``width`` pixels; what does not fit ends in an ellipsis.

    Names have no spaces to break at, so lines end at any character, behind a ``-`` or ``_`` where
    one is near the end.
    """
    font, rest = typeface("DejaVuSans", size_px=text_px), " ".join(text.split())
    parts: list[str] = []
    while rest:
        fits = len(rest)
        while fits > 1 and font.getlength(rest[:fits]) > width:
            fits -= 1
        if fits == len(rest):
            return [*parts, rest]
        if len(parts) == most - 1:
            return [*parts, rest[: fits - 1] + "…"]
        breaks = [place + 1 for place in range(fits) if rest[place] in "-_ "]
        cut = breaks[-1] if breaks and breaks[-1] > fits // 2 else fits
        parts.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return parts


def _padded(picture: UInt8Array, *, height: int, width: int) -> UInt8Array:
    missing = ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0))
    return np.pad(picture, missing, constant_values=_WHITE)
