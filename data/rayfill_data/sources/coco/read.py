"""Read COCO's instances and panoptic annotations; what cannot be used is left out and listed.

A file that is not COCO's is an error. An entry of it that cannot be used (an outline of garbage,
an id used twice, a photo that is not there) is dropped alone, counted, and named with its reason.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from rayfill_data.errors import DatasetError
from rayfill_data.sources.coco.objects import CocoObject, CocoPhoto, CocoSet
from rayfill_data.sources.coco.outlines import read_box, read_polygons, read_runs, shown
from rayfill_data.sources.coco.runs import OutlineError

#: The key of what a file lists beside images and categories, and what names the file's kind.
_LISTS = ("images", "annotations", "categories")

#: Pixels a photo may have: as many as any photograph from disk.
_MAX_PIXELS = 80 * 10**6


def read_instances(data: bytes, *, where: str, photos: Collection[str]) -> CocoSet:
    """Read an instances JSON, such as instances_train2017.json.

    Args:
        data: the file.
        where: its name, for messages.
        photos: the photos on disk, by name below their folder.

    Raises:
        DatasetError: not COCO instances; everything that is wrong with the file is listed.
    """
    reading = _Reading(_load(data, where, panoptic=False), where, photos)
    found: dict[int, list[CocoObject]] = defaultdict(list)
    known: set[int] = set()
    for index, raw in enumerate(reading.raw["annotations"]):
        name = f"annotation {_named(raw, 'id', index)}"
        try:
            thing, image_id = reading.instance(raw, known)
        except OutlineError as error:
            reading.reject(name, str(error))
            continue
        found[image_id].append(thing)
    return reading.result(found)


def read_panoptic(
    data: bytes, *, where: str, photos: Collection[str], pictures: Collection[str]
) -> CocoSet:
    """Read a panoptic JSON, such as panoptic_val2017.json; its segments are colours of a PNG.

    Args:
        data: the file.
        where: its name, for messages.
        photos: the photos on disk, by name below their folder.
        pictures: the panoptic PNGs on disk, by name below theirs.

    Raises:
        DatasetError: not COCO panoptic; everything that is wrong with the file is listed.
    """
    reading = _Reading(_load(data, where, panoptic=True), where, photos)
    found: dict[int, list[CocoObject]] = {}
    for index, raw in enumerate(reading.raw["annotations"]):
        name = f"annotation of image {_named(raw, 'image_id', index)}"
        try:
            image_id, picture, segments = reading.panoptic(raw, found, pictures)
        except OutlineError as error:
            reading.reject(name, str(error))
            continue
        reading.photos[image_id] = replace(reading.photos[image_id], panoptic_name=picture)
        found[image_id] = list(reading.segments(segments, image_id, name))
    for image_id in [key for key in reading.photos if key not in found]:
        photo = reading.photos.pop(image_id)
        reading.reject(f"image {image_id} ({photo.name})", "it has no panoptic annotation.")
    return reading.result(found)


def too_many_rejected(found: CocoSet, max_rejected: float) -> list[str]:
    """Return the sentence for more unusable entries than a share of them all, or nothing."""
    allowed = int(max_rejected * found.entries)
    if len(found.rejected) <= allowed:
        return []
    examples = " | ".join(f"{what}: {why}" for what, why in found.rejected[:3])
    return [
        f"{len(found.rejected)} of {found.entries} entries cannot be used, {allowed} are allowed: "
        f"{examples} Repair them, or raise --max-rejected (a share; 1 allows all) to go on without "
        "them and have them listed in rejected.jsonl."
    ]


@dataclass
class _Reading:
    """What has been read of a file so far."""

    raw: dict[str, Any]
    where: str
    on_disk: Collection[str]
    categories: dict[int, str] = field(init=False)
    photos: dict[int, CocoPhoto] = field(init=False)
    absent: set[int] = field(default_factory=set)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    entries: int = 0
    crowds: int = 0

    def __post_init__(self) -> None:
        self.categories = dict(
            sorted((category["id"], category["name"]) for category in self.raw["categories"])
        )
        self.entries = len(self.raw["images"]) + len(self.raw["annotations"])
        self.photos = {}
        names: set[str] = set()
        for index, raw in enumerate(self.raw["images"]):
            try:
                image_id, photo = self.photo(raw, names)
            except OutlineError as error:
                if isinstance(raw, dict) and type(raw.get("id")) is int:
                    self.absent.add(raw["id"])
                self.reject(f"image {_named(raw, 'id', index)}", str(error))
                continue
            names.add(photo.name)
            self.photos[image_id] = photo
        self.absent -= self.photos.keys()

    def reject(self, what: str, why: str) -> None:
        self.rejected.append((f"{self.where}: {what}", why))

    def photo(self, raw: Any, names: Collection[str]) -> tuple[int, CocoPhoto]:
        """Return the id and the photo of one entry of `images`."""
        image_id = _whole(raw, "id")
        name, height, width = raw.get("file_name"), _whole(raw, "height"), _whole(raw, "width")
        if not isinstance(name, str):
            raise OutlineError(f"its file_name is {shown(name)}, not a text.")
        if min(height, width) < 1 or height * width > _MAX_PIXELS:
            raise OutlineError(f"its size is {width}x{height}.")
        if image_id in self.photos or name in names:
            raise OutlineError(f"its id or file_name {name} is used twice; the first is taken.")
        if name not in self.on_disk:
            raise OutlineError(f"the file {name} is not in the folder of photos.")
        return image_id, CocoPhoto(name=name, height=height, width=width, objects=())

    def image_of(self, raw: Any) -> int:
        """Return the image id of an annotation whose photo can be used."""
        image_id = _whole(raw, "image_id")
        if image_id not in self.photos:
            why = "was left out" if image_id in self.absent else "is not in the file"
            raise OutlineError(f"its image {image_id} {why}.")
        return image_id

    def instance(self, raw: Any, known: set[int]) -> tuple[CocoObject, int]:
        """Return the object of one entry of `annotations`, and its image's id."""
        annotation_id = _whole(raw, "id")
        if annotation_id in known:
            raise OutlineError("its id is used twice; the first is taken.")
        known.add(annotation_id)
        image_id = self.image_of(raw)
        category, crowd = self._kind(raw)
        photo = self.photos[image_id]
        outline = raw.get("segmentation")
        if isinstance(outline, list):
            polygons, box, area = read_polygons(outline, height=photo.height, width=photo.width)
            counts: tuple[int, ...] = ()
        elif isinstance(outline, dict):
            counts, box, area = read_runs(outline, height=photo.height, width=photo.width)
            polygons = ()
        else:
            raise OutlineError("its segmentation is neither polygons nor run lengths.")
        self.crowds += crowd
        thing = CocoObject(
            annotation_id=annotation_id,
            category=category,
            box=box,
            area_px=area,
            crowd=crowd,
            polygons=polygons,
            counts=counts,
        )
        return thing, image_id

    def panoptic(
        self, raw: Any, done: Collection[int], pictures: Collection[str]
    ) -> tuple[int, str, list[Any]]:
        """Return the image's id, the PNG and the raw segments of one entry of `annotations`."""
        image_id = self.image_of(raw)
        picture, segments = raw.get("file_name"), raw.get("segments_info")
        if image_id in done:
            raise OutlineError("its image has two annotations; the first is taken.")
        if not isinstance(picture, str) or picture not in pictures:
            raise OutlineError(
                f"its picture {shown(picture)} is not in the folder of panoptic masks."
            )
        if not isinstance(segments, list):
            raise OutlineError("it has no list of segments_info.")
        return image_id, picture, segments

    def segments(self, raw: list[Any], image_id: int, name: str) -> Iterator[CocoObject]:
        """Yield the objects of one panoptic annotation; reject the others."""
        self.entries += len(raw)
        known: set[int] = set()
        photo = self.photos[image_id]
        for index, segment in enumerate(raw):
            try:
                number = _whole(segment, "id")
                if not 0 < number < 2**24 or number in known:
                    raise OutlineError("its id is no colour, or used twice.")
                known.add(number)
                category, crowd = self._kind(segment)
                box = read_box(segment.get("bbox"), height=photo.height, width=photo.width)
                area = _whole(segment, "area")
                if not 0 < area <= photo.height * photo.width:
                    raise OutlineError(f"its area is {area}.")
            except OutlineError as error:
                self.reject(f"{name}, segment {_named(segment, 'id', index)}", str(error))
                continue
            self.crowds += crowd
            yield CocoObject(
                annotation_id=number,
                category=category,
                box=box,
                area_px=float(area),
                crowd=crowd,
                segment=number,
            )

    def _kind(self, raw: dict[str, Any]) -> tuple[str, bool]:
        """Return an entry's category, and whether it is a crowd."""
        category = self.categories.get(_whole(raw, "category_id"))
        if category is None:
            raise OutlineError(f"its category {raw['category_id']} is not in the file.")
        crowd = raw.get("iscrowd", 0)
        if type(crowd) not in (int, bool) or crowd not in (0, 1):
            raise OutlineError(f"its iscrowd is {shown(crowd)}, neither 0 nor 1.")
        return category, bool(crowd)

    def result(self, found: dict[int, list[CocoObject]]) -> CocoSet:
        """Return everything read."""
        photos = [photo.keeping(found.get(image_id, ())) for image_id, photo in self.photos.items()]
        return CocoSet(
            photos=tuple(sorted(photos, key=lambda photo: photo.name)),
            categories=tuple(self.categories.values()),
            rejected=tuple(self.rejected),
            entries=self.entries,
            crowds=self.crowds,
        )


def _load(data: bytes, where: str, *, panoptic: bool) -> dict[str, Any]:
    """Parse the JSON and insist on what makes it COCO's."""
    kind = "panoptic" if panoptic else "instances"
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where} is not valid JSON; give COCO's {kind} JSON.") from error
    if not isinstance(raw, dict):
        raise DatasetError(f"{where} is JSON but no table; give COCO's {kind} JSON.")
    problems = [
        f"{key} is not a list of entries"
        for key in _LISTS
        if not isinstance(raw.get(key), list) or not raw[key]
    ]
    if not problems:
        problems = _category_problems(raw["categories"])
        first = raw["annotations"][0]
        has_segments = isinstance(first, dict) and "segments_info" in first
        if has_segments and not panoptic:
            problems.append("it is a panoptic file; give --panoptic-masks, the folder of its PNGs")
        if panoptic and not has_segments:
            problems.append("it is no panoptic file; leave --panoptic-masks out")
    if problems:
        raise DatasetError(f"{where} is not COCO's {kind} JSON: {'; '.join(problems)}.")
    return raw


def _category_problems(categories: list[Any]) -> list[str]:
    """Return what makes the table of categories unusable: without it no id means anything."""
    ids, names = [], []
    for category in categories:
        if not isinstance(category, dict) or type(category.get("id")) is not int:
            return [f"a category has no whole number as id ({shown(category)})"]
        name = category.get("name")
        if not isinstance(name, str) or not name:
            return [f"category {category['id']} has no name"]
        ids.append(category["id"])
        names.append(name)
    problems = []
    if len(set(ids)) < len(ids):
        problems.append("category ids are used twice")
    if len(set(names)) < len(names):
        problems.append("category names are used twice")
    return problems


def _whole(raw: Any, key: str) -> int:
    """Return a whole number of an entry."""
    value = raw.get(key) if isinstance(raw, dict) else None
    if type(value) is not int:
        raise OutlineError(f"its {key} is {shown(value)}, not a whole number.")
    return value


def _named(raw: Any, key: str, index: int) -> str:
    """Name an entry by its id, or by its place where it has none."""
    value = raw.get(key) if isinstance(raw, dict) else None
    return str(value) if type(value) is int else f"number {index}"
