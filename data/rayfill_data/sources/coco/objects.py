"""Annotated objects of a photo and their masks.

Everything here has been validated by :mod:`.read`: pycocotools never meets bytes
from outside, which it may answer with uninitialised memory or a crash.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rayfill_data.codec import UInt8Array
from rayfill_data.sources.coco.runs import Runs, painted, uncompressed

#: left, top, right, bottom in pixels, the last two exclusive.
Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class CocoObject:
    """One annotation; its outline is polygons, run lengths or a colour of the panoptic picture."""

    annotation_id: int
    category: str
    box: Box
    """Holds the object, inside the picture."""
    area_px: float
    """By the outline, not by what the file says; overlapping polygons count twice."""
    crowd: bool = False
    polygons: tuple[tuple[float, ...], ...] = ()
    """x, y, x, y, ... in pixels."""
    counts: tuple[int, ...] = ()
    """Lengths of runs down the columns, beginning with pixels outside the object."""
    segment: int = 0
    """R + 256 G + 256^2 B in the panoptic picture; 0 without one."""

    @property
    def height(self) -> int:
        """Rows of the box."""
        return self.box[3] - self.box[1]

    @property
    def width(self) -> int:
        """Columns of the box."""
        return self.box[2] - self.box[0]


@dataclass(frozen=True, kw_only=True)
class CocoPhoto:
    """A photo and what is annotated in it."""

    name: str
    """Its file below the folder of photos."""
    height: int
    width: int
    objects: tuple[CocoObject, ...]
    panoptic_name: str = ""
    """Its file below the folder of panoptic pictures."""

    def keeping(self, objects: Iterable[CocoObject]) -> CocoPhoto:
        """Return the photo with these objects only."""
        return CocoPhoto(
            name=self.name,
            height=self.height,
            width=self.width,
            objects=tuple(objects),
            panoptic_name=self.panoptic_name,
        )


@dataclass(frozen=True, kw_only=True)
class CocoSet:
    """What an annotation file holds that can be used, and what cannot."""

    photos: tuple[CocoPhoto, ...]
    """Sorted by name."""
    categories: tuple[str, ...]
    """In the order of their ids."""
    rejected: tuple[tuple[str, str], ...]
    """(what, why) of every entry left out."""
    entries: int
    """Photos and annotations in the file."""
    crowds: int
    """Regions of many objects; they are never cut out."""


def object_mask(thing: CocoObject, photo: CocoPhoto, panoptic: UInt8Array | None) -> UInt8Array:
    """Decode one object inside its box: (height, width) of the box, exactly 0 or 1.

    Args:
        thing: the object.
        photo: the photo it lies in.
        panoptic: the photo's panoptic picture, (H, W, 3) uint8; for objects named by a colour.
    """
    left, top, right, bottom = thing.box
    if thing.segment:
        assert panoptic is not None
        marked = segment_ids(panoptic[top:bottom, left:right]) == thing.segment
        return np.asarray(marked, np.uint8)
    runs = thing.counts or _polygon_runs(thing, photo)
    columns = painted(runs, height=photo.height, left=left, right=right)
    return np.ascontiguousarray(columns[top:bottom])


def segment_ids(panoptic: UInt8Array) -> npt.NDArray[np.uint32]:
    """Return R + 256 G + 256^2 B of every pixel of (H, W, 3) uint8."""
    wide = panoptic.astype(np.uint32)
    ids: npt.NDArray[np.uint32] = wide[..., 0] + (wide[..., 1] << 8) + (wide[..., 2] << 16)
    return ids


def full_mask(thing: CocoObject, photo: CocoPhoto, panoptic: UInt8Array | None) -> UInt8Array:
    """Decode one object in its photo's frame: (H, W), exactly 0 or 1."""
    mask = np.zeros((photo.height, photo.width), np.uint8)
    left, top, right, bottom = thing.box
    mask[top:bottom, left:right] = object_mask(thing, photo, panoptic)
    return mask


def to_json(photo: CocoPhoto) -> str:
    """Return a photo as JSON, to travel to a worker."""
    return json.dumps(asdict(photo), separators=(",", ":"))


def from_json(text: str) -> CocoPhoto:
    """Return what :func:`to_json` was given."""
    return photo_from(json.loads(text))


def photo_from(raw: Mapping[str, Any]) -> CocoPhoto:
    """Return the photo that `dataclasses.asdict` was given, after a trip through JSON."""
    objects = tuple(_object_from(thing) for thing in raw["objects"])
    return CocoPhoto(**{**raw, "objects": objects})


def _object_from(raw: Mapping[str, Any]) -> CocoObject:
    box = raw["box"]
    return CocoObject(
        **{
            **raw,
            "box": (box[0], box[1], box[2], box[3]),
            "polygons": tuple(map(tuple, raw["polygons"])),
            "counts": tuple(raw["counts"]),
        }
    )


def _polygon_runs(thing: CocoObject, photo: CocoPhoto) -> Runs:
    """Return the run lengths of polygons, as pycocotools rounds them in the photo's frame.

    Only the box is painted of them, which takes a fifth to a third of the time of a whole frame.
    Moving the polygons to the box first would be as fast, but pycocotools' sums then round
    otherwise: one pixel of one in 2,000 masks.
    """
    from pycocotools import mask as coco_mask

    outlines = [list(polygon) for polygon in thing.polygons]
    pieces = coco_mask.frPyObjects(outlines, photo.height, photo.width)
    merged = coco_mask.merge(pieces) if len(pieces) > 1 else pieces[0]
    return uncompressed(merged["counts"])
