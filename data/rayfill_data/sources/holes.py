"""The holes of a sample: drawn by a generator, or taken from a folder of masks.

Every source that draws masks has the same three options. A generator draws validation and test
holes once, here, and training holes afresh every epoch; masks out of a folder are frozen in all
three splits, because a training machine need not see that folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

import cv2
import numpy as np

from rayfill_data.checks import Checked
from rayfill_data.codec import FILE_FORMATS, UInt8Array, decode_mask
from rayfill_data.errors import DatasetError, ImageError, unknown_name
from rayfill_data.masks.hole import RatioRange, sample_rng
from rayfill_data.masks.shapes import IRREGULAR_RATIO, MASKS, draw_mask
from rayfill_data.sources.files import Listed, list_pictures, read_file, refuse, some
from rayfill_data.sources.spec import SourcePlan, Task

#: Photographs and masks from disk may be larger than uploads.
MAX_FILE_PIXELS = 80 * 10**6

#: What `masks` may be beside a name of the table: any mask of a folder, or the one of the photo.
FROM_FOLDER = ("files", "paired")

#: Masks looked at for signs of inversion or lossy storage, before the work starts.
_LOOKED_AT = 24


@dataclass(frozen=True, kw_only=True)
class MaskOptions(Checked):
    """Where the holes of samples come from."""

    masks: str = "irregular"
    """Holes drawn afresh in training: irregular, lines_thin, lines_thick, strokes, boxes, square,
    lama_thin, lama_medium or lama_thick. From mask_folder: files (any of them, flipped and
    shifted) or paired (the one with the photo's name)."""

    mask_ratio: RatioRange | None = None
    """Smallest and largest share of a picture that a drawn hole covers; None: as the generator
    likes, which for irregular is 0.05 to 0.4."""

    mask_folder: str | None = None
    """Folder or URI of masks, 255 = hole."""

    also: ClassVar[tuple[str, ...]] = ()
    """What else `masks` may be in a source."""

    named: ClassVar[bool] = True
    """Whether pictures of the source have names, which paired masks go by."""

    def __post_init__(self) -> None:
        if self.mask_ratio is None and self.masks in ("irregular", *self.also):
            # Written into the options, so that the manifest says what was drawn.
            object.__setattr__(self, "mask_ratio", IRREGULAR_RATIO)
        super().__post_init__()

    def relations(self) -> Iterator[str]:
        """Yield what is wrong with where the holes come from."""
        yield from super().relations()
        if self.masks not in (known := (*MASKS, *FROM_FOLDER, *self.also)):
            yield unknown_name("masks", self.masks, known)
        if self.masks == "paired" and not self.named:
            yield "masks 'paired' needs pictures with names; this source's have none. Use files."
        if (self.masks in FROM_FOLDER) != (self.mask_folder is not None):
            yield (
                f"masks is {self.masks!r} and mask_folder {self.mask_folder!r}; a folder goes with "
                f"masks {' or '.join(FROM_FOLDER)}, and only with these."
            )
        if self.mask_ratio is not None and self.masks in FROM_FOLDER:
            yield "mask_ratio is for drawn holes; masks of a folder are taken as found."


def drawn_hole(
    task: Task, options: MaskOptions, height: int, width: int, *, rng: np.random.Generator
) -> UInt8Array | None:
    """Return a sample's frozen hole, or None for one that training draws afresh.

    Raises:
        ImageError: a mask file that cannot be used.
        OSError: a mask file that vanished.
    """
    if options.masks == "files":
        return _random_file(task, options, height, width, rng=rng)
    if task.split == "train":
        return None
    name = options.masks if options.masks in MASKS else "irregular"
    return draw_mask(name, height, width, rng=rng, ratio_range=options.mask_ratio)


def with_mask_files(plan: SourcePlan, options: MaskOptions, seed: int) -> SourcePlan:
    """Give every sample without an object its mask file, where the options name a folder.

    Raises:
        DatasetError: no folder, no masks in it, or photos and masks that do not pair, all listed.
    """
    if options.masks not in FROM_FOLDER:
        return plan
    folder = options.mask_folder
    assert folder is not None
    files = list_pictures(folder)
    if not files:
        raise DatasetError(f"{folder} holds no masks; put PNG masks there, 255 = hole.")
    paths = _paired(plan, files, folder) if options.masks == "paired" else _drawn(plan, files, seed)
    tasks = tuple(
        dataclasses.replace(task, mask_path=path)
        for task, path in zip(plan.tasks, paths, strict=True)
    )
    stamps = "".join(f"{name}:{file.size}:{file.mtime_ns};" for name, file in files.items())
    return dataclasses.replace(
        plan,
        tasks=tasks,
        inputs_hash=f"{plan.inputs_hash}-{sample_rng(0, 0, stamps).integers(2**62):x}",
        notes=(*plan.notes, *mask_notes(folder, sorted(set(paths)))),
    )


def mask_notes(folder: str, names: Sequence[str]) -> tuple[str, ...]:
    """Look at some masks and return one sentence for what is odd about many of them."""
    looked_at = [names[index * len(names) // _LOOKED_AT] for index in range(_LOOKED_AT)]
    inverted, soft = [], []
    for name in (chosen := sorted(set(looked_at))):
        try:
            notes = " ".join(read_mask(folder, name)[1])
        except (ImageError, OSError):
            continue  # It will be listed as rejected.
        if "inverted" in notes or "everything" in notes:
            inverted.append(name)
        if "neither 0 nor 255" in notes or "0 and 1" in notes:
            soft.append(name)
    said = []
    if 2 * len(inverted) > len(chosen):
        said.append(
            f"{folder}: {len(inverted)} of {len(chosen)} masks looked at may be inverted "
            f"({some(inverted)}); 255 must mean hole."
        )
    if 2 * len(soft) > len(chosen):
        said.append(
            f"{folder}: {len(soft)} of {len(chosen)} masks looked at are not purely 0 and 255 "
            f"({some(soft)}), as JPEG leaves them; pixels of 128 and more are taken as hole."
        )
    return tuple(said)


def read_mask(
    folder: str, name: str, *, size: tuple[int, int] | None = None
) -> tuple[UInt8Array, tuple[str, ...]]:
    """Read a mask file: (H, W) uint8 in {0, 255}, and what is odd about it.

    Raises:
        ImageError: not a usable mask, or of another (height, width) than `size`.
        OSError: a file that vanished or may not be read.
    """
    data = read_file(folder, name)
    try:
        reading = decode_mask(data, size=size, max_pixels=MAX_FILE_PIXELS, formats=FILE_FORMATS)
    except ImageError as error:
        raise ImageError(f"its mask {name}: {error}", code=error.code) from error
    return reading.mask, reading.notes


def resize_mask(mask: UInt8Array, *, height: int, width: int) -> UInt8Array:
    """Scale a mask so that a pixel is hole if any part of it was."""
    scaled = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.where(scaled > 0, np.uint8(255), np.uint8(0))


def check_hole(mask: UInt8Array) -> None:
    """Raise ImageError for a mask that leaves nothing to fill, or nothing to fill it from."""
    if not mask.any():
        raise ImageError("its mask marks no hole in the sample.", code="malformed")
    if mask.all():
        raise ImageError("its mask marks everything as hole.", code="malformed")


def _random_file(
    task: Task, options: MaskOptions, height: int, width: int, *, rng: np.random.Generator
) -> UInt8Array:
    """Scale a task's mask to the sample, flip it and move its hole to where it still fits."""
    assert options.mask_folder is not None
    mask, _ = read_mask(options.mask_folder, task.mask_path)
    mask = resize_mask(mask, height=height, width=width)
    check_hole(mask)
    turn = rng.random(2) < 0.5
    mask = mask[:: -1 if turn[0] else 1, :: -1 if turn[1] else 1]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    hole = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    top = int(rng.integers(height - hole.shape[0], endpoint=True))
    left = int(rng.integers(width - hole.shape[1], endpoint=True))
    moved = np.zeros((height, width), np.uint8)
    moved[top : top + hole.shape[0], left : left + hole.shape[1]] = hole
    return moved


def _drawn(plan: SourcePlan, files: dict[str, Listed], seed: int) -> list[str]:
    """Draw a mask for every task; which one depends on the task's name alone."""
    names = sorted(files)
    return [
        names[int(sample_rng(seed, 0, f"{task.sample_id}: mask").integers(len(names)))]
        for task in plan.tasks
    ]


def _paired(plan: SourcePlan, files: dict[str, Listed], folder: str) -> list[str]:
    """Find the mask of every photo by its relative path without ending."""
    by_stem = {stem(name): name for name in files}
    wanted = {stem(task.path) for task in plan.tasks}
    problems = []
    if lonely := [task.path for task in plan.tasks if stem(task.path) not in by_stem]:
        problems.append(f"{len(lonely)} photos without a mask: {some(lonely)}.")
    if lonely := [name for name in files if stem(name) not in wanted]:
        problems.append(f"{len(lonely)} masks without a photo: {some(lonely)}.")
    refuse(folder, problems)
    return [by_stem[stem(task.path)] for task in plan.tasks]


def stem(name: str) -> str:
    """Return a relative path without its ending: what pairs files of different folders."""
    return str(PurePosixPath(name).with_suffix(""))
