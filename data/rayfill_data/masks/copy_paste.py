"""Pairs with a true background: a cut-out of one photo pasted on another.

Judging removal against a photo that still holds the object says nothing; here the picture without
the object is known pixel by pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from rayfill_data.codec import UInt8Array

_Floats = npt.NDArray[np.float64]

#: Outlines are drawn this much larger and averaged down, which gives them soft edges.
_SUPERSAMPLING = 4

#: Places tried for a crop or an object until one has this contrast: the standard deviation of its
#: green samples, of 255. Below it lies empty sky.
_TRIES = 8
_MIN_CONTRAST = 16.0


@dataclass(frozen=True)
class Cutout:
    """A textured object of some outline."""

    rgb: UInt8Array
    """(S, S, 3) uint8."""
    alpha: UInt8Array
    """(S, S) uint8 opacity, 0 outside the object, between 0 and 255 along its edge."""


@dataclass(frozen=True)
class Pair:
    """A picture with an object, the same picture without it, and where they may differ."""

    image: UInt8Array
    """(H, W, 3) uint8."""
    target: UInt8Array
    """(H, W, 3) uint8, the background bit for bit."""
    hole_mask: UInt8Array
    """(H, W) uint8, 255 = the object."""


def random_window(
    photo_rgb: UInt8Array, *, rng: np.random.Generator, size_px: int, zoom: float = math.inf
) -> UInt8Array:
    """Return a square of the photo at a random place and scale, resized to (size_px, size_px, 3).

    The square's side is log-uniform between `size_px` and `size_px * zoom` or the photo's shorter
    side, so a picture is only ever scaled down (up only where the photo itself is too small). The
    first of a few places that shows something is taken, else the one that shows most.

    Args:
        photo_rgb: (H, W, 3) uint8.
        rng: the only source of chance.
        size_px: side of the result.
        zoom: largest reduction.
    """
    height, width = photo_rgb.shape[:2]
    largest = min(height, width)
    smallest = min(size_px, largest)
    largest = max(smallest, min(largest, size_px * zoom))
    side = round(smallest * (largest / smallest) ** float(rng.random()))
    best, most = None, -1.0
    for _ in range(_TRIES):
        top = int(rng.integers(0, height - side, endpoint=True))
        left = int(rng.integers(0, width - side, endpoint=True))
        window = photo_rgb[top : top + side, left : left + side]
        contrast = float(window[::2, ::2, 1].std())
        if contrast > most:
            best, most = window, contrast
        if contrast >= _MIN_CONTRAST:
            break
    assert best is not None
    return resize(best, height=size_px, width=size_px)


def resize(picture: UInt8Array, *, height: int, width: int) -> UInt8Array:
    """Resize (H, W, 3) uint8, averaging areas when shrinking so that nothing aliases."""
    if picture.shape[:2] == (height, width):
        return np.ascontiguousarray(picture)
    shrinking = height <= picture.shape[0] and width <= picture.shape[1]
    method = cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (width, height), interpolation=method), np.uint8)


def random_cutout(photo_rgb: UInt8Array, *, rng: np.random.Generator, size_px: int) -> Cutout:
    """Cut an object of random outline out of a photo.

    Args:
        photo_rgb: (H, W, 3) uint8, what the object is made of.
        rng: the only source of chance.
        size_px: the object's longer side, at least 4.
    """
    texture = random_window(photo_rgb, rng=rng, size_px=size_px, zoom=4.0)
    draw = (_blob, _ellipses, _polygon)[int(rng.choice(3, p=[0.45, 0.35, 0.2]))]
    outlines = draw(rng)
    everything = np.concatenate(outlines)
    low, high = everything.min(axis=0), everything.max(axis=0)
    scale = (size_px * _SUPERSAMPLING - 1) / float((high - low).max())
    margin = ((high - low).max() - (high - low)) / 2
    canvas = np.zeros((size_px * _SUPERSAMPLING,) * 2, np.uint8)
    for outline in outlines:
        points = np.rint((outline - low + margin) * scale).astype(np.int32)
        cv2.fillPoly(canvas, [points], 255)
    alpha = cv2.resize(canvas, (size_px, size_px), interpolation=cv2.INTER_AREA)
    return Cutout(rgb=texture, alpha=np.asarray(alpha, np.uint8))


def paste(background: UInt8Array, cutout: Cutout, *, rng: np.random.Generator) -> Pair:
    """Lay a cut-out on a background at a random place, at most a sixth of it over the edge.

    ``image = (alpha * object + (255 - alpha) * background) / 255`` rounded, hole where alpha > 0.

    Args:
        background: (H, W, 3) uint8, at least as large as the cut-out's visible part.
        cutout: the object.
        rng: the only source of chance.
    """
    height, width = cutout.alpha.shape
    top = _place(background.shape[0], height, rng)
    left = _place(background.shape[1], width, rng)
    image = background.copy()
    opacity = blend(image, cutout, top=top, left=left)
    hole_mask = np.where(opacity > 0, np.uint8(255), np.uint8(0))
    return Pair(image=image, target=background.copy(), hole_mask=hole_mask)


def feathered(
    rgb: UInt8Array, mask: UInt8Array, *, scale: float, feather_px: float
) -> Cutout | None:
    """Scale an object of a photo and soften its rim, inwards; None where nothing of it is left.

    Colours are averaged over the object alone, so that nothing of the photo around it comes along.
    Opacity is the share of a pixel that the object covers, times a ramp that rises from the outline
    over about `feather_px`.

    Args:
        rgb: (H, W, 3) uint8, the object's box in its photo.
        mask: (H, W) uint8, 1 = object.
        scale: at most 1.
        feather_px: width of the ramp in pixels of the result, 0 for none.
    """
    height, width = (max(1, round(scale * side)) for side in mask.shape)
    inside = mask.astype(np.float32)
    cover = cv2.resize(inside, (width, height), interpolation=cv2.INTER_AREA)
    colour = cv2.resize(rgb * inside[..., None], (width, height), interpolation=cv2.INTER_AREA)
    alpha = cover
    if feather_px:
        rim = math.ceil(2 * feather_px)
        padded = np.pad(cover, rim)
        soft = cv2.GaussianBlur(padded, (0, 0), feather_px / 2)[rim:-rim, rim:-rim]
        alpha = cover * np.clip(2 * soft - 0.5, 0.0, 1.0)
    levels = np.rint(255 * alpha).astype(np.uint8)
    rows, columns = np.flatnonzero(levels.any(axis=1)), np.flatnonzero(levels.any(axis=0))
    if not len(rows):
        return None
    seen = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    pure = colour[seen] / np.maximum(cover[seen], 1e-6)[..., None]
    return Cutout(rgb=np.rint(np.clip(pure, 0, 255)).astype(np.uint8), alpha=levels[seen])


def blend(image: UInt8Array, cutout: Cutout, *, top: int, left: int) -> UInt8Array:
    """Lay a cut-out on a picture in place; return its opacity in the picture, (H, W) uint8.

    ``image = (alpha * object + (255 - alpha) * image) / 255`` rounded. What reaches over the
    picture's edge is left out.
    """
    height, width = cutout.alpha.shape
    first_row, first_column = max(0, -top), max(0, -left)
    last_row = min(height, image.shape[0] - top)
    last_column = min(width, image.shape[1] - left)
    part = np.s_[first_row:last_row, first_column:last_column]
    place = np.s_[top + first_row : top + last_row, left + first_column : left + last_column]
    shade = cutout.alpha[part].astype(np.uint16)[..., None]
    mixed = shade * cutout.rgb[part] + (255 - shade) * image[place]
    image[place] = ((mixed + 127) // 255).astype(np.uint8)
    opacity = np.zeros(image.shape[:2], np.uint8)
    opacity[place] = cutout.alpha[part]
    return opacity


def _place(room: int, side: int, rng: np.random.Generator) -> int:
    """Draw where an object of `side` starts, at most a sixth of it outside."""
    overhang = side // 6
    return int(rng.integers(-overhang, max(-overhang, room - side + overhang), endpoint=True))


def _blob(rng: np.random.Generator) -> list[_Floats]:
    """Return a smooth closed curve: a circle with a few random harmonics, squeezed and turned."""
    angle = np.linspace(0.0, 2 * math.pi, 120, endpoint=False)
    radius = np.ones_like(angle)
    for order in range(2, 8):
        size, phase = rng.normal(0.0, 0.42 / order), rng.uniform(0.0, 2 * math.pi)
        radius += size * np.cos(order * angle + phase)
    return [_turned(radius.clip(0.25), angle, rng)]


def _polygon(rng: np.random.Generator) -> list[_Floats]:
    """Return a polygon of four to eight corners around a centre."""
    count = int(rng.integers(4, 9))
    angle = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * math.pi / count
    return [_turned(rng.uniform(0.6, 1.0, count), angle, rng)]


def _ellipses(rng: np.random.Generator) -> list[_Floats]:
    """Return two to four overlapping ellipses, strung along an axis like a body and its parts."""
    angle = np.linspace(0.0, 2 * math.pi, 60, endpoint=False)
    outlines, centre = [], np.zeros(2)
    heading = rng.uniform(0.0, 2 * math.pi)
    for _ in range(int(rng.integers(2, 5))):
        size = rng.uniform(0.5, 1.0)
        outlines.append(size * _turned(np.ones_like(angle), angle, rng) + centre)
        heading += rng.normal(0.0, 0.7)
        centre = centre + 0.75 * size * np.array([math.cos(heading), math.sin(heading)])
    return outlines


def _turned(radius: _Floats, angle: _Floats, rng: np.random.Generator) -> _Floats:
    """Return polar points squeezed along one axis and turned, (N, 2)."""
    aspect, turn = rng.uniform(0.5, 1.0), rng.uniform(0.0, 2 * math.pi)
    x, y = radius * np.cos(angle), aspect * radius * np.sin(angle)
    cosine, sine = math.cos(turn), math.sin(turn)
    return np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=1)
