"""COCO's photos with any drawn hole, or with holes of the shape of annotated objects (P2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from rayfill_data.codec import UInt8Array
from rayfill_data.errors import ImageError
from rayfill_data.masks.hole import area_bounds, hole_ratio, sample_rng, with_exact_area
from rayfill_data.sources.coco.files import (
    DONORS,
    NEEDS,
    CocoFiles,
    CocoOptions,
    Cut,
    cut_mask,
    cuts_by_split,
    draw_donors,
    load,
)
from rayfill_data.sources.coco.objects import from_json, to_json
from rayfill_data.sources.files import read_file, some
from rayfill_data.sources.holes import MaskOptions, with_mask_files
from rayfill_data.sources.pictures import centre, decode_at_least, render_picture
from rayfill_data.sources.spec import Sample, SourcePlan, SourceSpec, Task

_OBJECTS = "objects"


@dataclass(frozen=True, kw_only=True)
class CocoPhotosOptions(MaskOptions, CocoOptions):
    """COCO's photos, their shorter side scaled to `size` and their centre cropped."""

    masks: str = "irregular"
    """Holes drawn afresh in training: irregular, lines_thin, lines_thick, strokes, boxes, square,
    lama_thin, lama_medium or lama_thick. The shapes of objects of other photos of the same split,
    frozen: objects. From mask_folder: files (any of them, flipped and shifted) or paired (the one
    with the photo's name)."""

    also: ClassVar[tuple[str, ...]] = (_OBJECTS,)


def plan(options: CocoPhotosOptions, seed: int) -> SourcePlan:
    """Read the annotations, split by photo, and draw the objects that lend their shape.

    Raises:
        DatasetError: files that are missing or not COCO's, categories without a usable object, or
            too few photos; all of it listed at once.
    """
    files = load(options)
    cuts = cuts_by_split(files, options) if options.masks == _OBJECTS else {}
    found = SourcePlan(
        tasks=tuple(_task(name, files, cuts, seed) for name in files.splits),
        inputs_hash=files.inputs_hash,
        size=options.size,
        max_rejected=options.max_rejected,
        rejected=files.coco.rejected,
    )
    return with_mask_files(found, options, seed)


def render(task: Task, options: CocoPhotosOptions, seed: int) -> Sample:
    """Decode, scale and crop one photo, and give it its hole.

    Raises:
        ImageError: bytes that are no usable picture, or one smaller than the wanted size.
        OSError: a file that vanished or may not be read.
    """
    if task.hole_kind != "object":
        return render_picture(options.images, task, options, size=options.size, seed=seed)
    picture = decode_at_least(read_file(options.images, task.path), options.size)
    rng = sample_rng(seed, 0, task.sample_id)
    hole = object_hole(task, options, rng=rng)
    return Sample(image=centre(picture, options.size), target=None, hole_mask=hole)


def object_hole(task: Task, options: CocoPhotosOptions, *, rng: np.random.Generator) -> UInt8Array:
    """Draw a hole of the shape of one of the task's donors: flipped, scaled and placed at random.

    The share of hole is drawn evenly from `mask_ratio`; the first donor that fits the frame at that
    size is taken. Where none does, the last one is made as large as it fits, and its outline moved
    until the share lies in the range.

    Raises:
        ImageError: no donor can be read.
    """
    assert options.mask_ratio is not None
    size = options.size
    wanted = float(rng.uniform(*options.mask_ratio)) * size * size
    for mask in _shapes(task, options):
        if rng.random() < 0.5:
            mask = mask[:, ::-1]
        scale = (wanted / int(mask.sum())) ** 0.5
        if scale * max(mask.shape) <= size:
            break
    scale = min(scale, size / max(mask.shape))
    shape = _scaled(mask, scale, size)
    hole = np.zeros((size, size), np.uint8)
    top = int(rng.integers(size - shape.shape[0], endpoint=True))
    left = int(rng.integers(size - shape.shape[1], endpoint=True))
    hole[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
    fewest, most = area_bounds(size * size, options.mask_ratio)
    area = round(hole_ratio(hole) * size * size)
    return hole if fewest <= area <= most else with_exact_area(hole, min(max(area, fewest), most))


COCO = SourceSpec(
    options_type=CocoPhotosOptions,
    plan=plan,
    render=render,
    summary="COCO's photos; holes drawn, or shaped like its objects (report P2)",
    needs=NEEDS,
    locations=("images", "annotations", "panoptic_masks", "mask_folder"),
)


def _task(name: str, files: CocoFiles, cuts: dict[str, list[Cut]], seed: int) -> Task:
    """Make one photo's task; with objects, draw those that may lend it their shape."""
    split, source = files.splits[name], files.sources[name]
    if not cuts:
        return Task(sample_id=name, split=split, source_id=source, path=name, hole_kind="irregular")
    rng = sample_rng(seed, 0, f"{name}: donors")
    drawn = draw_donors(cuts[split], source, files, rng=rng, count=DONORS)
    return Task(
        sample_id=name,
        split=split,
        source_id=source,
        path=name,
        hole_kind="object",
        donors=tuple(to_json(cut.photo.keeping([cut.thing])) for cut in drawn),
    )


def _shapes(task: Task, options: CocoPhotosOptions) -> Iterator[UInt8Array]:
    """Yield the outlines of the donors that can be read, cropped to what they mark."""
    unread = []
    for donor in task.donors:
        photo = from_json(donor)
        try:
            mask = cut_mask(Cut(photo, photo.objects[0]), options)
        except (ImageError, OSError):
            unread.append(photo.name)  # It is listed as rejected under its own name.
            continue
        yield _tight(mask)
    if len(unread) == len(task.donors):
        raise ImageError(f"none of its donors can be read: {some(unread)}.", code="malformed")


def _tight(mask: UInt8Array) -> UInt8Array:
    """Crop a mask to the rows and columns it marks."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _scaled(mask: UInt8Array, scale: float, size: int) -> UInt8Array:
    """Scale a mask of 0 and 1 to one of 0 and 255 that fits the frame."""
    height, width = (min(size, max(1, round(scale * side))) for side in mask.shape)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    soft = cv2.resize(mask * np.float32(255), (width, height), interpolation=method)
    return np.where(soft >= 127.5, np.uint8(255), np.uint8(0))
