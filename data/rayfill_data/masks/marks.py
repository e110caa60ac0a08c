"""Marks that people put on photos: captions, date stamps, stickers and scratches.

What they leave around them matters as much as they do: shadows, glow, blur. A hole as tight as the
mark leaves a rim that shows. Words are captions, names and dates, never copyright notices or the
watermarks of picture agencies: Rayfill is no tool to strip ownership.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from rayfill_data.codec import UInt8Array
from rayfill_data.masks.copy_paste import Pair
from rayfill_data.masks.hole import dilate, erode, hole_ratio
from rayfill_data.masks.typeface import typeface

_Floats = npt.NDArray[np.float32]

#: Share of each kind among marks.
MARK_SHARES = {"caption": 0.40, "date_stamp": 0.15, "sticker": 0.30, "scratch": 0.15}

#: Mean difference of levels, of 255, between a mark's colour and what it covers.
MIN_CONTRAST = 90.0

#: Nothing farther than this from a mark's hole changes, but by JPEG: 2 px of fainter coverage, a
#: shadow's shift of up to 2 px along both axes, and 2.8 standard deviations of its blur (1.6 px)
#: and the mark's own (0.9 px) together, beyond which a change rounds to nothing. Glow reaches less.
REACH_PX = 10

#: What a mark covers only in part is drawn as far as this from its hole.
_FADING_PX = 2

#: The faces of captions; stickers and date stamps have one each.
TYPEFACES = (
    "DejaVuSans-Bold",
    "DejaVuSerif-Bold",
    "DejaVuSansMono-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSans",
)
_STAMP_FACE, _STICKER_FACE = "DejaVuSansMono-Bold", "DejaVuSans-Bold"

_WORDS = (
    "Summer", "Winter", "Holiday", "Birthday", "Family", "Garden", "Market", "Beach", "Lake",
    "Zoo", "Hike", "Hello", "Rome", "Oslo", "Paris", "Lima", "Ann", "Max", "Aunt Mia", "No. 7",
    "2019", "May 2004", "day 3", "our house",
)  # fmt: skip
_SHOUTS = ("NEW", "SALE", "-30%", "HI!", "WOW", "LOVE", "1st", "No. 7")

#: Colours of the digits that cameras burn in.
_STAMP_INKS = np.array([(255, 140, 30), (255, 200, 40), (255, 90, 40), (250, 250, 240)], np.float32)

#: Marks are drawn this much larger and averaged down, which gives them soft edges.
_SUPERSAMPLING = 4

#: The side of crops, in pixels, for which sizes are given; they grow with its square root.
_BASE_SIDE_PX = 64

#: Holes of text are closed by this: nobody wants the gaps between letters one by one.
_CLOSED_PX = 5


@dataclass(frozen=True)
class _Layer:
    """A mark before it lies on its picture."""

    coverage: _Floats
    """(H, W) in [0, 1], the share of each pixel that the mark covers."""
    rgb: _Floats
    """(H, W, 3) or (3,), in [0, 255]."""
    opacity: float


def draw_mark(background_rgb: UInt8Array, *, rng: np.random.Generator, kind: str = "") -> Pair:
    """Draw one mark on a picture; its hole is where the mark covers more than half of a pixel.

    ``image = background + blurred(mark over its shadow over background - background)``

    The hole is at least ``0.01 * 64 / side`` of the picture and at most 0.4; of text it is closed
    by 5 px. Outside of it `image` and `target` differ up to :data:`REACH_PX` away.

    Args:
        background_rgb: (S, S, 3) uint8, S at least 32.
        rng: the only source of chance.
        kind: one of :data:`MARK_SHARES`; empty for any, in these shares.
    """
    side = background_rgb.shape[0]
    kind = kind or str(rng.choice(list(MARK_SHARES), p=list(MARK_SHARES.values())))
    share = 0.0
    while not 0.01 * _BASE_SIDE_PX / side <= share <= 0.4:
        layer = _DRAW[kind](background_rgb, rng)
        hole_mask = np.where(layer.coverage > 0.5, np.uint8(255), np.uint8(0))
        if kind in ("caption", "date_stamp"):
            hole_mask = _closed(hole_mask)
        share = hole_ratio(hole_mask)
    # A letter's tip at the picture's edge may cover no pixel by half: no hole would remove it.
    near = dilate(hole_mask, radius_px=_FADING_PX) > 0
    layer = dataclasses.replace(layer, coverage=layer.coverage * near)
    background = background_rgb.astype(np.float32)
    surroundings = _relief if kind == "scratch" else _shadow_or_glow
    marked = surroundings(background, layer, rng)
    weight = (layer.opacity * layer.coverage)[..., None]
    change = marked + weight * (layer.rgb - marked) - background
    change = _blurred(change, float(rng.uniform(0.35, 0.9)))
    image = np.rint(np.clip(background + change, 0, 255)).astype(np.uint8)
    return Pair(image=image, target=background_rgb.copy(), hole_mask=hole_mask)


# --- kinds


def _caption(background_rgb: UInt8Array, rng: np.random.Generator) -> _Layer:
    """Write one or two lines of one or two words, two in five of them at a slant."""
    side = background_rgb.shape[0]
    lines = [
        " ".join(rng.choice(_WORDS, int(rng.integers(1, 3)), replace=False))
        for _ in range(int(rng.integers(1, 3)))
    ]
    face = TYPEFACES[int(rng.integers(len(TYPEFACES)))]
    size_px = rng.uniform(11, 24) * _scale(side)
    angle_deg = rng.uniform(-25, 25) if rng.random() < 0.4 else 0.0
    text = _written("\n".join(lines), face, size_px=size_px, angle_deg=angle_deg)
    coverage = _placed(text, side, rng)
    ink = _contrasting(background_rgb[coverage > 0.5], _inks(rng))
    return _Layer(coverage, ink, float(rng.uniform(0.88, 1.0)))


def _date_stamp(background_rgb: UInt8Array, rng: np.random.Generator) -> _Layer:
    """Write a date or a time of day in the colours of a camera's digits."""
    side = background_rgb.shape[0]
    year, month, day, hour, minute = rng.integers([70, 1, 1, 0, 0], [100, 13, 29, 24, 60])
    forms = (
        f"'{year} {month} {day}",
        f"{day}.{month}.{year}",
        f"{month}/{day}/{year}",
        f"{hour:02d}:{minute:02d}",
    )
    text = _written(
        forms[int(rng.integers(len(forms)))],
        _STAMP_FACE,
        size_px=rng.uniform(10, 15) * _scale(side),
    )
    coverage = _placed(text, side, rng)
    ink = _contrasting(background_rgb[coverage > 0.5], rng.permutation(_STAMP_INKS))
    return _Layer(coverage, ink, float(rng.uniform(0.88, 1.0)))


def _sticker(background_rgb: UInt8Array, rng: np.random.Generator) -> _Layer:
    """Draw an ellipse, box, star or badge with a rim and, two times in three, a word on it."""
    side = background_rgb.shape[0]
    width_px = rng.uniform(0.22, 0.5) * _BASE_SIDE_PX * _scale(side)
    parts = _sticker_parts(round(width_px * _SUPERSAMPLING), rng)
    outer, inner, word = np.moveaxis(_placed(parts, side, rng, overhang=0.15), 2, 0)
    fill = _contrasting(background_rgb[outer > 0.5], _inks(rng))
    rim = np.full(3, 250.0) if rng.random() < 0.6 else rng.uniform(0, 255, 3)
    ink = np.full(3, 255.0 if fill.mean() < 127 else 20.0)
    # Shares of what is covered, so that nothing of the picture mixes in along the edge.
    whole = np.maximum(outer, 1e-3)[..., None]
    inside, letters = inner[..., None] / whole, np.minimum(word, inner)[..., None] / whole
    rgb = (rim + inside * (fill - rim) + letters * (ink - fill)).astype(np.float32)
    return _Layer(outer, rgb, float(rng.uniform(0.9, 1.0)))


def _scratch(background_rgb: UInt8Array, rng: np.random.Generator) -> _Layer:
    """Draw a thin line that wanders, upright more often than not, and light rather than dark."""
    side = background_rgb.shape[0]
    length = side * _SUPERSAMPLING
    upright = rng.random() < 0.7
    heading = rng.normal(math.pi / 2, 0.5) if upright else rng.uniform(0, math.pi)
    count = int(rng.integers(4, 14))
    headings = heading + np.cumsum(rng.normal(0, 0.18, count))
    steps = rng.uniform(3, 8, count) * _scale(side) * _SUPERSAMPLING
    walk = np.cumsum(
        steps[:, None] * np.stack([np.cos(headings), np.sin(headings)], axis=1), axis=0
    )
    points = rng.uniform(0, length, 2) + np.vstack([np.zeros((1, 2)), walk])
    thickness = round(rng.uniform(1.8, 3.6) * _scale(side) * _SUPERSAMPLING)
    canvas = np.zeros((length, length), np.uint8)
    cv2.polylines(canvas, [np.rint(points).astype(np.int32)], False, 255, thickness, cv2.LINE_AA)
    coverage = _averaged(canvas, side)
    gray = rng.uniform(215, 255) if rng.random() < 0.75 else rng.uniform(0, 40)
    ink = _contrasting(background_rgb[coverage > 0.5], np.full((1, 3), gray, np.float32))
    return _Layer(coverage, ink, float(rng.uniform(0.7, 1.0)))


_DRAW: dict[str, Callable[[UInt8Array, np.random.Generator], _Layer]] = {
    "caption": _caption,
    "date_stamp": _date_stamp,
    "sticker": _sticker,
    "scratch": _scratch,
}


# --- their parts


def _scale(side: int) -> float:
    """Return how much larger marks are on a picture of this side than on one of 64 pixels."""
    return math.sqrt(side / _BASE_SIDE_PX)


def _written(text: str, face: str, *, size_px: float, angle_deg: float = 0.0) -> UInt8Array:
    """Return a canvas, (4 h, 4 w) uint8, just large enough for the text, 255 = ink."""
    font = typeface(face, size_px=round(size_px * _SUPERSAMPLING))
    spacing = 2 * _SUPERSAMPLING
    measure = ImageDraw.Draw(Image.new("L", (1, 1)))
    left, top, right, bottom = measure.multiline_textbbox((0, 0), text, font, spacing=spacing)
    canvas = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)))
    pen = ImageDraw.Draw(canvas)
    pen.multiline_text((-left, -top), text, fill=255, font=font, spacing=spacing)
    return np.asarray(canvas.rotate(angle_deg, Image.Resampling.BILINEAR, expand=True), np.uint8)


def _sticker_parts(width: int, rng: np.random.Generator) -> UInt8Array:
    """Draw a sticker's whole, the part inside its rim, and its word: (H, W, 3) uint8."""
    outline = _OUTLINES[int(rng.integers(len(_OUTLINES)))]() * (1.0, rng.uniform(0.55, 1.0))
    rim = rng.uniform(0.78, 0.92)
    parts = [Image.new("L", (width, width)) for _ in range(3)]
    for part, scale in zip(parts, (1.0, rim), strict=False):
        corners = width / 2 * (1 + scale * outline)
        ImageDraw.Draw(part).polygon([(x, y) for x, y in corners.tolist()], fill=255)
    if rng.random() < 2 / 3:
        font = typeface(_STICKER_FACE, size_px=round(0.3 * width))
        word, middle = str(rng.choice(_SHOUTS)), (width / 2, width / 2)
        ImageDraw.Draw(parts[2]).text(middle, word, fill=255, font=font, anchor="mm")
    turned = Image.merge("RGB", parts).rotate(
        rng.uniform(-30, 30), Image.Resampling.BILINEAR, expand=True
    )
    return np.asarray(turned, np.uint8)


def _round(corners: int, *, inner_radius: float = 1.0) -> npt.NDArray[np.float64]:
    """Return a polygon in the unit circle, every other corner nearer to its centre: (N, 2)."""
    angle = np.arange(corners) * 2 * math.pi / corners - math.pi / 2
    radius = np.where(np.arange(corners) % 2, inner_radius, 1.0)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


#: An ellipse, a box, a star and a badge; all of them within [-1, 1].
_OUTLINES: Sequence[Callable[[], npt.NDArray[np.float64]]] = (
    lambda: _round(48),
    lambda: np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]),
    lambda: _round(10, inner_radius=0.55),
    lambda: _round(24, inner_radius=0.85),
)


def _placed(
    canvas: UInt8Array, side: int, rng: np.random.Generator, *, overhang: float = 0.0
) -> _Floats:
    """Put a canvas somewhere on a picture and average it down: (S, S) or (S, S, 3) in [0, 1].

    What is larger than the picture reaches over its edges; `overhang` is the share of the canvas
    that may lie outside otherwise.
    """
    length = side * _SUPERSAMPLING
    whole = np.zeros((length, length, *canvas.shape[2:]), np.uint8)
    here, there = [], []
    for extent in canvas.shape[:2]:
        over, room = round(overhang * extent), length - extent
        start = int(rng.integers(min(0, room) - over, max(0, room) + over, endpoint=True))
        here.append(slice(max(0, start), min(length, start + extent)))
        there.append(slice(max(0, -start), min(extent, length - start)))
    whole[tuple(here)] = canvas[tuple(there)]
    return _averaged(whole, side)


def _averaged(canvas: UInt8Array, side: int) -> _Floats:
    """Average (4 S, 4 S, ...) uint8 down to (S, S, ...) in [0, 1]."""
    small = cv2.resize(canvas.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(small / 255, np.float32)


def _inks(rng: np.random.Generator) -> _Floats:
    """Return ten colours to choose from, (10, 3): about half nearly white or black, half any."""
    extremes = np.where(rng.random(10) < 0.5, rng.uniform(225, 255, 10), rng.uniform(0, 40, 10))
    plain = (rng.random(10) < 0.5)[:, None]
    return np.where(plain, extremes[:, None], rng.uniform(0, 255, (10, 3))).astype(np.float32)


def _contrasting(covered_rgb: UInt8Array, inks: _Floats) -> _Floats:
    """Return the first ink at least :data:`MIN_CONTRAST` from what it covers, else black or white.

    The distance is the mean over channels of the absolute difference to the mean colour covered, of
    (N, 3) uint8; that of black or of white is always at least 127. Inks are (K, 3).
    """
    mean = covered_rgb.mean(axis=0) if len(covered_rgb) else np.zeros(3)
    far = inks[np.abs(inks - mean).mean(axis=1) > MIN_CONTRAST]
    return np.asarray(far[0] if len(far) else np.full(3, 255.0 * (mean.mean() < 127.5)), np.float32)


def _closed(mask: UInt8Array) -> UInt8Array:
    """Close a mask by a disc, as if the picture went on without holes beyond its edges."""
    rim = _CLOSED_PX + 1
    wide = dilate(np.pad(mask, rim), radius_px=_CLOSED_PX)
    return erode(wide, radius_px=_CLOSED_PX)[rim:-rim, rim:-rim].copy()


# --- what they leave around them


def _shadow_or_glow(background: _Floats, layer: _Layer, rng: np.random.Generator) -> _Floats:
    """Return the picture under a mark: half of them cast a shadow, three in ten glow all around."""
    chance = rng.random()
    if chance < 0.5:
        return _shadowed(background, layer, rng)
    return _glowing(background, layer, rng) if chance < 0.8 else background


def _shadowed(background: _Floats, layer: _Layer, rng: np.random.Generator) -> _Floats:
    """Darken the picture to the lower right of a mark, or to its upper right."""
    right = rng.uniform(0.8, 2.0)
    down = right if rng.random() < 2 / 3 else -right
    shift = np.array([[1, 0, right], [0, 1, down]], np.float32)
    moved = cv2.warpAffine(layer.coverage, shift, layer.coverage.shape[::-1])
    shade = rng.uniform(0.35, 0.75) * _blurred(moved, rng.uniform(0.7, 1.6))
    return np.asarray(background * (1 - shade[..., None]), np.float32)


def _glowing(background: _Floats, layer: _Layer, rng: np.random.Generator) -> _Floats:
    """Surround a light mark with black and a dark one with white."""
    halo = np.minimum(1.6 * _blurred(layer.coverage, rng.uniform(0.9, 1.8)), 1)
    halo = rng.uniform(0.5, 0.9) * halo[..., None]
    light = np.mean(np.broadcast_to(layer.rgb, background.shape)[layer.coverage > 0.5]) > 110
    return np.asarray(background * (1 - halo) + (0.0 if light else 255.0) * halo, np.float32)


def _relief(background: _Floats, layer: _Layer, rng: np.random.Generator) -> _Floats:
    """Darken the picture on both sides of three scratches in ten."""
    if rng.random() >= 0.3:
        return background
    shade = rng.uniform(0.2, 0.5) * _blurred(layer.coverage, 1.2)
    return np.asarray(background * (1 - shade[..., None]), np.float32)


def _blurred(values: _Floats, sigma_px: float) -> _Floats:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma_px), np.float32)
