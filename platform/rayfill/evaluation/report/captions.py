"""Text on contact sheets, in the typeface that the plots use."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rayfill_data.codec import UInt8Array

_SIZE_PX = 12
_LINE_PX = 15
_INK, _MUTED, _PAPER = (27, 27, 27), (110, 110, 110), (255, 255, 255)


def caption(text: str, *, width: int, lines: int = 1, muted: bool = False) -> UInt8Array:
    """Return text on white, (lines * 15, width, 3), broken where it must be, the rest cut off."""
    picture = Image.new("RGB", (width, lines * _LINE_PX), _PAPER)
    pen = ImageDraw.Draw(picture)
    parts = broken(text, width=width, most=lines)
    top = (lines - len(parts)) * _LINE_PX  # what stands above a picture stands close to it
    for number, part in enumerate(parts):
        place = (0, top + number * _LINE_PX)
        pen.text(place, part, fill=_MUTED if muted else _INK, font=_font())
    return np.asarray(picture, np.uint8)


def broken(text: str, *, width: int, most: int) -> list[str]:
    """Return text in lines no wider than ``width`` pixels; what does not fit ends in an ellipsis.

    Names have no spaces to break at, so lines end at any character, behind a ``-`` or ``_`` where
    one is near the end.
    """
    font, rest = _font(), " ".join(text.split())
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


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    import matplotlib as mpl

    return ImageFont.truetype(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), _SIZE_PX)
