"""DEFACTO's inpainting set: objects removed from MS-COCO photos (report P1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from rayfill_data.checks import Share
from rayfill_data.sources.files import (
    Listed,
    inputs_hash,
    is_folder,
    list_pictures,
    read_file,
    refuse,
    some,
)
from rayfill_data.sources.holes import mask_notes, read_mask
from rayfill_data.sources.pictures import crop_to_hole, decode_at_least, fit_frame
from rayfill_data.sources.spec import Sample, SourcePlan, SourceSpec, Task
from rayfill_data.sources.splits import SplitOptions
from rayfill_data.sources.triplets import (
    SomeSamples,
    paired,
    photos_of,
    read_target,
    split_tasks,
    too_few,
)

_IMAGES = "inpainting_img/img"
_MASKS = "inpainting_annotations"

#: 3_000000000260: the third removal from COCO photo 260.
_NAME = r"^\d+_(\d{12})$"

#: COCO's own files: 000000000260.jpg since 2017, COCO_train2014_000000000260.jpg before.
_COCO_NAME = re.compile(r"(?:^|_)(\d{12})$")


@dataclass(frozen=True, kw_only=True)
class DefactoOptions(SplitOptions):
    """Image and target are the photo with and without the object, the hole its mask."""

    root: str
    """Folder or URI with inpainting_img and inpainting_annotations."""

    coco: str | None = None
    """Folder or URI of the MS-COCO photos, searched with its subfolders: what a model sees then
    still holds the object. None: it sees the picture without it, which makes no difference inside
    the hole, because models never look there."""

    mask: Literal["inpaint_mask", "probe_mask"] = "inpaint_mask"
    """The region given to the inpainter, or the pixels that differ in the end."""

    max_samples: SomeSamples | None = None
    """Take about this many samples, whole photos at a time (report P1: 12000); None takes all."""

    max_rejected: Share = 0.05
    """Share of the samples that may be unusable: some of the published masks are empty."""


def plan(options: DefactoOptions, seed: int) -> SourcePlan:
    """Pair pictures, masks and COCO photos, and split them by COCO photo.

    Raises:
        DatasetError: folders missing, half unpacked, or of another layout; all of it at once.
    """
    folders = {"picture": _IMAGES, "mask": f"{_MASKS}/{options.mask}"}
    where = {role: f"{options.root.rstrip('/')}/{name}" for role, name in folders.items()}
    problems = [
        f"{uri} is missing; unpack both published archives into {options.root}."
        for uri in where.values()
        if not is_folder(uri)
    ]
    if options.coco is not None and not is_folder(options.coco):
        problems.append(f"--coco {options.coco} is not a folder; give the one with COCO's photos.")
    refuse(options.root, problems)
    listings = {role: list_pictures(uri) for role, uri in where.items()}
    problems, stems = paired(listings)
    photos, unknown = photos_of(stems["picture"], _NAME)
    if unknown:
        problems.append(
            f"{len(unknown)} pictures that are not named like 3_000000000260: {some(unknown)}."
        )
    coco = {} if options.coco is None else _coco_photos(list_pictures(options.coco))
    if coco and (absent := set(photos.values()) - coco.keys()):
        problems.append(f"{len(absent)} photos that --coco does not hold: {some(absent)}.")
    elif options.coco is not None and not coco:
        problems.append(f"--coco {options.coco} holds no COCO photos such as 000000000260.jpg.")
    refuse(options.root, [*problems, *too_few(photos)])
    targets = stems["picture"]
    inputs = {key: coco[photos[key]] for key in photos} if coco else targets
    tasks = split_tasks(
        photos,
        options,
        options.max_samples,
        {"input": inputs, "mask": stems["mask"], "target": targets},
    )
    return SourcePlan(
        tasks=tasks,
        inputs_hash=inputs_hash(*listings.values(), extra=sorted(inputs.values())),
        size=options.size,
        max_rejected=options.max_rejected,
        notes=mask_notes(where["mask"], [task.mask_path for task in tasks]),
    )


def render(task: Task, options: DefactoOptions, seed: int) -> Sample:
    """Read, check and crop one sample; masks of another resolution, as some are, are scaled.

    Raises:
        ImageError: a file that is no usable picture, or files that do not fit together.
        OSError: a file that vanished or may not be read.
    """
    root = options.root.rstrip("/")
    images = f"{root}/{_IMAGES}" if options.coco is None else options.coco
    image = decode_at_least(read_file(images, task.path), options.size, whole=True)
    target = None
    if options.coco is not None:
        target = read_target(f"{root}/{_IMAGES}", task.target_path, image)
    mask, _ = read_mask(f"{root}/{_MASKS}/{options.mask}", task.mask_path)
    return crop_to_hole(image, target, fit_frame(mask, *image.shape[:2]), size=options.size)


DEFACTO = SourceSpec(
    options_type=DefactoOptions,
    plan=plan,
    render=render,
    locations=("root", "coco"),
    summary="DEFACTO's inpainting set: objects removed from MS-COCO photos (report P1)",
    needs=(
        "Get the inpainting archives from https://defactodataset.github.io and unpack them into "
        "one folder, so that --root holds inpainting_img/img/0_000000000260.tif, "
        "inpainting_annotations/inpaint_mask/0_000000000260.tif and "
        "inpainting_annotations/probe_mask/0_000000000260.jpg. For the pictures with the object, "
        "get MS-COCO's photos from https://cocodataset.org and name their folder with --coco. "
        "Splits never share a COCO photo."
    ),
)


def _coco_photos(files: dict[str, Listed]) -> dict[str, str]:
    """Map COCO's photo numbers to file names."""
    found = {}
    for name in files:
        if match := _COCO_NAME.search(PurePosixPath(name).stem):
            found[match.group(1)] = name
    return found
