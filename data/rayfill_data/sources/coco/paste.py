"""Make one pair: crop the background, scale and paste the objects, and paint the label maps."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from rayfill_data.codec import UInt8Array
from rayfill_data.contract import IGNORE_LABEL
from rayfill_data.errors import ImageError
from rayfill_data.masks.copy_paste import Cutout, blend, feathered, resize
from rayfill_data.masks.hole import hole_ratio, sample_rng
from rayfill_data.sources.coco.files import (
    Cut,
    cut_mask,
    read_panoptic_picture,
    read_photo,
)
from rayfill_data.sources.coco.objects import (
    Box,
    CocoPhoto,
    from_json,
    full_mask,
    photo_from,
    segment_ids,
)
from rayfill_data.sources.coco.places import (
    Context,
    Window,
    context_from,
    draw_foot,
    random_window,
)
from rayfill_data.sources.spec import Sample, Task

if TYPE_CHECKING:
    from rayfill_data.sources.coco.pairs_options import CocoPairsOptions

#: Opacity from which a pixel shows the object rather than the background.
_HALF = 128

#: Scales tried for a set of objects before the next set.
_TRIES = 4

#: Balanced holes aim at the inner part of their bucket.
_MARGIN = 0.1

#: The most an object standing on its row may reach over the upper edge, as a share of its height.
_OVERHANG = 1 / 6


@dataclass(frozen=True)
class _Piece:
    """A cut-out in its own photo's resolution."""

    rgb: UInt8Array
    mask: UInt8Array
    category: str

    @property
    def area(self) -> int:
        return int(np.count_nonzero(self.mask))


@dataclass(frozen=True)
class _Scene:
    """What a task's annotation says."""

    photo: CocoPhoto
    count: int
    low: float
    high: float
    labels: dict[str, int]
    context: dict[str, Context]

    @classmethod
    def of(cls, task: Task) -> _Scene:
        raw: dict[str, Any] = json.loads(task.annotation)
        return cls(
            photo=photo_from(raw["photo"]),
            count=raw["count"],
            low=raw["range"][0],
            high=raw["range"][1],
            labels=raw["labels"],
            context={kind: context_from(fit) for kind, fit in raw["context"].items()},
        )


def busy(photo: CocoPhoto, options: CocoPairsOptions) -> list[Box]:
    """Return the boxes that a background must not show."""
    if options.backgrounds == "any":
        return []
    return [thing.box for thing in photo.objects if thing.category in options.categories]


def render(task: Task, options: CocoPairsOptions, seed: int) -> Sample:
    """Paste a task's objects on its background.

    Raises:
        ImageError: a photo that cannot be used, or objects that cannot be made to cover what they
            should.
        OSError: a file that vanished or may not be read.
    """
    scene = _Scene.of(task)
    rng = sample_rng(seed, 0, task.sample_id)
    window = random_window(scene.photo, busy(scene.photo, options), options, rng=rng)
    square = np.s_[window.top : window.top + window.side, window.left : window.left + window.side]
    size = options.size
    target = resize(read_photo(scene.photo, options)[square], height=size, width=size)
    behind = _background_labels(scene, options)[square]
    behind = cv2.resize(behind, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    for first in range(0, len(task.donors), scene.count):
        pieces = _pieces(task.donors[first : first + scene.count], options, rng=rng)
        if pieces is None:
            continue
        pasting = _Pasting(scene, window, options, target, np.asarray(behind, np.uint8))
        if (sample := pasting.fitted(pieces, rng=rng)) is not None:
            return sample
    raise ImageError(
        f"none of its {len(task.donors)} objects could be made to cover {scene.low:.0%} to "
        f"{scene.high:.0%} of the picture.",
        code="size_mismatch",
    )


class _Pasting:
    """Pastes objects on one background until they cover what they should."""

    def __init__(
        self,
        scene: _Scene,
        window: Window,
        options: CocoPairsOptions,
        target: UInt8Array,
        behind: UInt8Array,
    ) -> None:
        self.scene, self.window, self.options = scene, window, options
        self.target, self.behind = target, behind

    def fitted(self, pieces: Sequence[_Piece], *, rng: np.random.Generator) -> Sample | None:
        """Paste the pieces at a scale at which the hole is as large as it should be."""
        share = self._draw_share(pieces, rng)
        if share is None:
            return None
        factor = 1.0
        for _ in range(_TRIES):
            sample = self._paste(pieces, share * factor, rng=rng)
            if sample is None:
                return None
            assert sample.hole_mask is not None
            ratio = hole_ratio(sample.hole_mask)
            if not self.options.balance_ratios and 0 < ratio < 1:
                return sample
            if self.scene.low <= ratio < self.scene.high:
                return sample
            factor *= share * len(pieces) / max(ratio, 1e-3)
        return None

    def _draw_share(self, pieces: Sequence[_Piece], rng: np.random.Generator) -> float | None:
        """Draw the share of the picture that one object covers; None where none can."""
        low, high = self.scene.low, self.scene.high
        if self.options.balance_ratios:
            margin = _MARGIN * (high - low)
            low, high = (low + margin) / len(pieces), (high - margin) / len(pieces)
        size = self.options.size
        most = min(piece.area / max(*piece.mask.shape, size) ** 2 for piece in pieces)
        if most < low:
            return None
        return float(rng.uniform(low, min(high, most)))

    def _paste(
        self, pieces: Sequence[_Piece], share: float, *, rng: np.random.Generator
    ) -> Sample | None:
        """Paste the pieces, each covering a share of the picture, and find what changed."""
        image, labels = self.target.copy(), self.behind.copy()
        solid = np.zeros(labels.shape, np.bool_)
        for piece in pieces:
            scale = math.sqrt(share * self.options.size**2 / piece.area)
            foot = None
            if context := self.scene.context.get(piece.category):
                scale, foot = self._standing(context, piece, scale, rng)
            scale = min(scale, 1.0, self.options.size / max(piece.mask.shape))
            cutout = feathered(
                piece.rgb, piece.mask, scale=scale, feather_px=self.options.feather_px
            )
            if cutout is None:
                return None
            top, left = self._place(cutout, foot, rng)
            covered = blend(image, cutout, top=top, left=left) >= _HALF
            labels[covered] = self.scene.labels[piece.category]
            solid |= covered
        # Where colours happen to agree inside an object, its pixels belong to the hole too.
        hole = solid | (image != self.target).any(axis=2)
        return Sample(
            image=image,
            target=self.target.copy(),
            hole_mask=np.where(hole, np.uint8(255), np.uint8(0)),
            labels=labels,
            target_labels=self.behind,
        )

    def _standing(
        self, context: Context, piece: _Piece, scale: float, rng: np.random.Generator
    ) -> tuple[float, float]:
        """Return the scale of an object that stands somewhere, and the row of its feet."""
        zoom = self.options.size / self.window.side
        rows = piece.mask.shape[0]
        given = scale * rows / zoom if self.options.balance_ratios else None
        foot, height = draw_foot(
            context, self.scene.photo.height, self.window, rng=rng, height_px=given
        )
        if given is None:
            area = piece.area / self.options.size**2
            scale = height * zoom / rows
            low, high = math.sqrt(self.scene.low / area), math.sqrt(self.scene.high / area)
            scale = min(max(scale, low), high)
        return scale, (foot - self.window.top) * zoom

    def _place(
        self, cutout: Cutout, foot: float | None, rng: np.random.Generator
    ) -> tuple[int, int]:
        """Draw where the upper left corner of an object lies; it stays inside the picture."""
        size = self.options.size
        height, width = cutout.alpha.shape
        left = int(rng.integers(size - width, endpoint=True))
        if foot is None:
            return int(rng.integers(size - height, endpoint=True)), left
        lowest = math.ceil(height * (1 - _OVERHANG))
        return min(max(round(foot), lowest), size) - height, left


def _pieces(
    donors: Sequence[str], options: CocoPairsOptions, *, rng: np.random.Generator
) -> list[_Piece] | None:
    """Cut objects out of their photos; None where one of them cannot be read."""
    pieces = []
    for donor in donors:
        photo = from_json(donor)
        (thing,) = photo.objects
        left, top, right, bottom = thing.box
        try:
            mask = cut_mask(Cut(photo, thing), options)
            rgb = read_photo(photo, options)[top:bottom, left:right]
        except (ImageError, OSError):
            return None  # It is listed as rejected under its own name.
        if options.flip and rng.random() < 0.5:
            mask, rgb = mask[:, ::-1], rgb[:, ::-1]
        pieces.append(_Piece(rgb, mask, thing.category))
    return pieces


def _background_labels(scene: _Scene, options: CocoPairsOptions) -> UInt8Array:
    """Paint what the background shows: (H, W) uint8, smaller objects over larger ones."""
    photo = scene.photo
    panoptic = None
    if any(thing.segment for thing in photo.objects) or options.label_set == "panoptic":
        panoptic = read_panoptic_picture(photo, options)
    levels = np.zeros((photo.height, photo.width), np.uint8)
    if panoptic is not None and options.label_set == "panoptic":
        # Colours that no segment has are nobody's knowledge.
        levels[:] = IGNORE_LABEL
        ids = segment_ids(panoptic)
        for thing in photo.objects:
            if not thing.crowd:
                levels[ids == thing.segment] = scene.labels[thing.category]
        return levels
    for thing in sorted(photo.objects, key=lambda thing: -thing.area_px):
        value = IGNORE_LABEL if thing.crowd else scene.labels[thing.category]
        levels[full_mask(thing, photo, panoptic) > 0] = value
    return levels
