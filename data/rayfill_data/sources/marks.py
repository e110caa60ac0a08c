"""Captions, date stamps, stickers and scratches drawn over the bundled photographs.

They are objects that a joint model can find by itself on photographs it never saw, and whose
shadows and blur reach beyond a tight mask. The picture without the mark is known pixel by pixel.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from PIL import Image

from rayfill_data.checks import Bounds, Share
from rayfill_data.codec import UInt8Array
from rayfill_data.masks.hole import sample_rng
from rayfill_data.masks.marks import TYPEFACES, draw_mark
from rayfill_data.masks.typeface import typeface_file
from rayfill_data.sources.bundled import MAX_SIZE, BundledOptions, bundled_crop, bundled_plan
from rayfill_data.sources.holes import drawn_hole
from rayfill_data.sources.pictures import pasted, without_object
from rayfill_data.sources.spec import Sample, SourcePlan, SourceSpec, Task

MARK_LABELS = ("nothing", "mark")

#: Least and greatest JPEG quality.
_QUALITY = (65, 92)


@dataclass(frozen=True, kw_only=True)
class MarksOptions(BundledOptions):
    """Marks drawn over crops of the bundled photographs."""

    size: Annotated[int, Bounds(ge=32, le=MAX_SIZE)] = 64
    """Side of a crop in pixels."""

    marked_share: Share = 0.85
    """Share of samples with a mark; the others get the holes that masks names."""

    jpeg_share: Share = 0.5
    """Share of samples that went through JPEG, of quality 65 to 92, image and target alike."""


def plan(options: MarksOptions, seed: int) -> SourcePlan:
    """Draw a photograph for every crop, as `photos` does, and decide which ones are marked."""
    found = bundled_plan(options, seed, object_share=options.marked_share, labels=MARK_LABELS)
    digest = hashlib.sha256(found.inputs_hash.encode())
    for name in TYPEFACES:
        digest.update(hashlib.sha256(typeface_file(name).read_bytes()).digest())
    return dataclasses.replace(found, inputs_hash=digest.hexdigest())


def render(task: Task, options: MarksOptions, seed: int) -> Sample:
    """Crop the photograph at a random place and scale, and draw a mark or give it another hole."""
    rng = sample_rng(seed, 0, task.sample_id)
    crop = bundled_crop(task, options, rng=rng)
    quality = int(rng.integers(*_QUALITY, endpoint=True))
    quality = quality if rng.random() < options.jpeg_share else 0
    if task.hole_kind == "object":
        pair = draw_mark(crop, rng=rng)
        return pasted(
            dataclasses.replace(
                pair, image=_stored(pair.image, quality), target=_stored(pair.target, quality)
            )
        )
    mask = drawn_hole(task, options, *crop.shape[:2], rng=rng)
    return without_object(Sample(image=_stored(crop, quality), target=None, hole_mask=mask))


MARKS = SourceSpec(
    options_type=MarksOptions,
    plan=plan,
    render=render,
    locations=("mask_folder",),
    summary="captions, date stamps, stickers and scratches over the bundled photographs",
)


def _stored(picture: UInt8Array, quality: int) -> UInt8Array:
    """Return a picture as JPEG of this quality gives it back; quality 0 leaves it as it is."""
    if not quality:
        return picture
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"), np.uint8)
