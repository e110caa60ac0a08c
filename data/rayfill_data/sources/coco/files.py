"""What both COCO sources share: their files, their split by photo, the objects worth cutting."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np

from rayfill_data.checks import Bounds
from rayfill_data.codec import UInt8Array, decode_photo
from rayfill_data.contract import SPLITS
from rayfill_data.errors import DatasetError, ImageError, unknown_name
from rayfill_data.sources.coco.objects import CocoObject, CocoPhoto, CocoSet, object_mask
from rayfill_data.sources.coco.read import read_instances, read_panoptic, too_many_rejected
from rayfill_data.sources.files import (
    Listed,
    inputs_hash,
    is_file,
    is_folder,
    list_file,
    list_pictures,
    read_file,
    refuse,
    same_bytes,
)
from rayfill_data.sources.holes import MAX_FILE_PIXELS
from rayfill_data.sources.pictures import decode_at_least
from rayfill_data.sources.splits import SplitOptions, split_sources

#: An outline this near the edge of its photo is cut off by it.
_EDGE_PX = 2

#: Objects drawn for a sample, in case that some of them do not fit.
DONORS = 6

#: Categories named in a message.
_NAMED = 12

NEEDS = (
    "Get '2017 Train images' or '2017 Val images' and '2017 Train/Val annotations' (or '2017 "
    "Panoptic Train/Val annotations') from https://cocodataset.org/#download. --images is the "
    "unpacked folder train2017 or val2017, --annotations the file instances_train2017.json or "
    "instances_val2017.json that goes with it; or --annotations panoptic_val2017.json with "
    "--panoptic-masks, the folder panoptic_val2017 of its PNGs. Any set in COCO's format will do. "
    "The split is by photo, copies of a photo share one; give val2017 and train2017 separately. "
    "Photos of the file that are not in --images count as rejected: for a part of COCO give "
    "--max-rejected 1."
)


@dataclass(frozen=True, kw_only=True)
class CocoOptions(SplitOptions):
    """Photos and annotations in COCO's format."""

    images: str
    """Folder or URI of the photos."""

    annotations: str
    """File or URI of the annotations: COCO's instances JSON, or panoptic with panoptic_masks."""

    panoptic_masks: str | None = None
    """Folder or URI of the PNGs that a panoptic JSON names."""

    categories: tuple[str, ...] = ("person",)
    """Names of the categories whose objects are used."""

    min_object_px: Annotated[int, Bounds(ge=8)] = 32
    """Objects with fewer rows or columns in their own photo are not used."""

    def relations(self) -> Iterator[str]:
        """Yield what is wrong with shares and categories."""
        yield from super().relations()
        if not self.categories or len(set(self.categories)) < len(self.categories):
            yield f"categories is {self.categories}; name each category once."


class Cut(NamedTuple):
    """An object and the photo it can be cut out of."""

    photo: CocoPhoto
    thing: CocoObject


@dataclass(frozen=True, kw_only=True)
class CocoFiles:
    """What was read, split by photo."""

    coco: CocoSet
    splits: dict[str, str]
    """Photo -> split."""
    sources: dict[str, str]
    """Photo -> the first photo with the same bytes."""
    inputs_hash: str

    def photos_of(self, split: str) -> list[CocoPhoto]:
        """Return the photos of a split, by name."""
        return [photo for photo in self.coco.photos if self.splits[photo.name] == split]


def load(options: CocoOptions) -> CocoFiles:
    """Read the annotations, hold them against the folders, and split the photos.

    Raises:
        DatasetError: files missing, not COCO's, too much of them unusable, unknown categories, or
            too few photos; all of it listed at once as far as it can be known.
    """
    problems = []
    if not is_folder(options.images):
        problems.append(f"--images {options.images} is not a folder; give the folder of photos.")
    if not is_file(options.annotations):
        problems.append(f"--annotations {options.annotations} is not a file; give COCO's JSON.")
    if options.panoptic_masks is not None and not is_folder(options.panoptic_masks):
        problems.append(f"--panoptic-masks {options.panoptic_masks} is not a folder of PNGs.")
    refuse("COCO", problems)
    photos = list_pictures(options.images)
    pictures = list_pictures(options.panoptic_masks) if options.panoptic_masks else {}
    coco = _read(options, photos, pictures)
    problems = [
        unknown_name("category", name, coco.categories)
        for name in options.categories
        if name not in coco.categories
    ]
    problems += too_many_rejected(coco, options.max_rejected)
    used = {photo.name: photos[photo.name] for photo in coco.photos}
    sources = same_bytes(options.images, used)
    distinct = sorted(set(sources.values()))
    if len(distinct) < len(SPLITS):
        problems.append(
            f"{len(distinct)} different photos; at least {len(SPLITS)} are needed, one per split."
        )
    refuse(options.annotations, problems)
    splits = split_sources(distinct, options)
    return CocoFiles(
        coco=coco,
        splits={name: splits[source] for name, source in sources.items()},
        sources=sources,
        inputs_hash=inputs_hash(used, list_file(options.annotations), pictures),
    )


def cuts_by_split(files: CocoFiles, options: CocoOptions) -> dict[str, list[Cut]]:
    """Return every split's objects of the categories that are whole and large enough.

    Raises:
        DatasetError: a category without any, or a split without objects of two photos.
    """
    found: dict[str, list[Cut]] = {split: [] for split in SPLITS}
    for photo in files.coco.photos:
        found[files.splits[photo.name]] += [
            Cut(photo, thing) for thing in photo.objects if usable(thing, photo, options)
        ]
    cuts = {
        split: [cut for cut in group if cut.thing.category in options.categories]
        for split, group in found.items()
    }
    everywhere = Counter(cut.thing.category for group in found.values() for cut in group)
    problems = [
        _none_of(category, files.coco, everywhere, options)
        for category in options.categories
        if not everywhere[category]
    ]
    if not problems:
        for split, group in cuts.items():
            if len({files.sources[cut.photo.name] for cut in group}) < 2:
                problems.append(
                    f"Split {split} has {len(group)} usable objects of "
                    f"{', '.join(options.categories)}, and needs some of two photos. Add photos or "
                    "categories, lower --min-object-px or raise the split's share."
                )
    refuse(options.annotations, problems)
    return cuts


def usable(thing: CocoObject, photo: CocoPhoto, options: CocoOptions) -> bool:
    """Tell whether an object can be cut out: no crowd, large enough, not cut off by the edge."""
    left, top, right, bottom = thing.box
    return (
        not thing.crowd
        and min(thing.width, thing.height) >= options.min_object_px
        and min(left, top) >= _EDGE_PX
        and right <= photo.width - _EDGE_PX
        and bottom <= photo.height - _EDGE_PX
    )


def draw_donors(
    cuts: Sequence[Cut], source: str, files: CocoFiles, *, rng: np.random.Generator, count: int
) -> Iterator[Cut]:
    """Draw objects of other photos than one; every object has the same chance."""
    others = sum(files.sources[cut.photo.name] != source for cut in cuts)
    assert others, "cuts_by_split leaves no split with objects of one photo only"
    while count:
        cut = cuts[int(rng.integers(len(cuts)))]
        if files.sources[cut.photo.name] != source:
            count -= 1
            yield cut


def cut_mask(cut: Cut, options: CocoOptions) -> UInt8Array:
    """Decode an object's mask in its box, exactly 0 or 1.

    Raises:
        ImageError: a panoptic picture that cannot be used, or an object without a pixel.
        OSError: a panoptic picture that vanished.
    """
    panoptic = read_panoptic_picture(cut.photo, options) if cut.thing.segment else None
    mask = object_mask(cut.thing, cut.photo, panoptic)
    if not mask.any():
        raise ImageError(
            f"object {cut.thing.annotation_id} of {cut.photo.name} marks no pixel.",
            code="malformed",
        )
    return mask


def read_photo(photo: CocoPhoto, options: CocoOptions) -> UInt8Array:
    """Read a whole photo, which must have the size its annotation says.

    Raises:
        ImageError: no usable picture, or one of another size.
        OSError: a file that vanished or may not be read.
    """
    rgb = decode_at_least(read_file(options.images, photo.name), 1, whole=True)
    _check_size(photo, rgb, photo.name)
    return rgb


def read_panoptic_picture(photo: CocoPhoto, options: CocoOptions) -> UInt8Array:
    """Read a photo's panoptic picture, (H, W, 3) uint8.

    Raises:
        ImageError: no usable PNG, or one of another size.
        OSError: a file that vanished or may not be read.
    """
    assert options.panoptic_masks is not None
    data = read_file(options.panoptic_masks, photo.panoptic_name)
    rgb = decode_photo(data, max_pixels=MAX_FILE_PIXELS, formats=("PNG",)).rgb
    _check_size(photo, rgb, photo.panoptic_name)
    return rgb


def tally(names: Iterable[str]) -> str:
    """Return "person 12, car 3" for the most frequent names."""
    counted = Counter(names).most_common()
    more = f" and {len(counted) - _NAMED} more" if len(counted) > _NAMED else ""
    return ", ".join(f"{name} {count}" for name, count in counted[:_NAMED]) + more


def _read(options: CocoOptions, photos: dict[str, Listed], pictures: dict[str, Listed]) -> CocoSet:
    (where,) = list_file(options.annotations)
    try:
        data = read_file(options.annotations)
    except OSError as error:
        raise DatasetError(f"{options.annotations} cannot be read; check it.") from error
    if options.panoptic_masks is None:
        return read_instances(data, where=where, photos=photos)
    return read_panoptic(data, where=where, photos=photos, pictures=pictures)


def _none_of(category: str, coco: CocoSet, everywhere: Counter[str], options: CocoOptions) -> str:
    """Say that a category has no usable object, and which ones have."""
    annotated: dict[str, int] = defaultdict(int)
    for photo in coco.photos:
        for thing in photo.objects:
            annotated[thing.category] += 1
    return (
        f"No usable object of {category!r}: {annotated[category]} are annotated, all of them "
        f"crowds, cut off by the photo's edge, or below {options.min_object_px} pixels "
        f"(--min-object-px). Usable ones: {tally(everywhere.elements()) or 'none'}."
    )


def _check_size(photo: CocoPhoto, rgb: UInt8Array, name: str) -> None:
    if rgb.shape[:2] != (photo.height, photo.width):
        raise ImageError(
            f"{name} is {rgb.shape[1]}x{rgb.shape[0]} pixels (width x height), its annotation says "
            f"{photo.width}x{photo.height}.",
            code="size_mismatch",
        )
