"""A folder of the user's own pictures, whatever is in it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from rayfill_data.codec import UInt8Array
from rayfill_data.contract import SPLITS
from rayfill_data.errors import DatasetError, ImageError
from rayfill_data.masks.copy_paste import Cutout, paste, random_cutout
from rayfill_data.masks.hole import sample_rng
from rayfill_data.sources.files import SUFFIXES, list_pictures, read_file, same_bytes
from rayfill_data.sources.holes import MaskOptions, with_mask_files
from rayfill_data.sources.pictures import (
    PASTED_LABELS,
    centre,
    decode_at_least,
    pasted,
    render_picture,
    without_object,
)
from rayfill_data.sources.spec import HoleKind, Sample, SourcePlan, SourceSpec, Task, is_object
from rayfill_data.sources.splits import SplitOptions, split_sources

_DONORS = 2

#: Values of `masks` with pasted objects, and the share of samples that have one.
_OBJECT_SHARE = {"objects": 1.0, "both": 0.5}


@dataclass(frozen=True, kw_only=True)
class FolderOptions(MaskOptions, SplitOptions):
    """Every picture below a folder, its shorter side scaled to `size` and its centre cropped."""

    root: str
    """Folder or URI with the pictures; subfolders are searched too."""

    masks: str = "irregular"
    """Holes drawn afresh in training: irregular, lines_thin, lines_thick, strokes, boxes, square,
    lama_thin, lama_medium or lama_thick. Objects cut out of other pictures of the same split:
    objects, or both for half of each and irregular. From mask_folder: files (any of them, flipped
    and shifted) or paired (the one with the photo's name)."""

    also: ClassVar[tuple[str, ...]] = tuple(_OBJECT_SHARE)


def plan(options: FolderOptions, seed: int) -> SourcePlan:
    """List the pictures and split them by a stable hash of their relative path.

    Files with the same bytes are one source, so that copies never lie in two splits.

    Raises:
        DatasetError: no folder, no pictures in it, or fewer than three different ones.
    """
    files = list_pictures(options.root)
    if not files:
        raise DatasetError(
            f"{options.root} holds no pictures; file names must end in one of "
            f"{', '.join(SUFFIXES)}."
        )
    sources = same_bytes(options.root, files)
    distinct = len(set(sources.values()))
    if distinct < len(SPLITS):
        raise DatasetError(
            f"{options.root} holds {distinct} different picture(s); at least {len(SPLITS)} "
            "are needed, one each for train, val and test. Add pictures."
        )
    # A file is taken for unchanged while its size and time are: hashing every byte of a large
    # folder would cost as much as preparing it.
    stamps = (f"{name}\0{file.size}\0{file.mtime_ns}\n" for name, file in files.items())
    digest = hashlib.sha256("".join(sorted(stamps)).encode("utf-8", "surrogateescape"))
    found = SourcePlan(
        tasks=_tasks(sources, options, seed),
        inputs_hash=digest.hexdigest(),
        size=options.size,
        max_rejected=options.max_rejected,
        labels=PASTED_LABELS if options.masks in _OBJECT_SHARE else (),
    )
    return with_mask_files(found, options, seed)


def render(task: Task, options: FolderOptions, seed: int) -> Sample:
    """Decode, scale and crop one picture, and give it its hole.

    Raises:
        ImageError: bytes that are no usable picture, or one smaller than the wanted size.
        OSError: a file that vanished or may not be read.
    """
    if task.hole_kind != "object":
        sample = render_picture(options.root, task, options, size=options.size, seed=seed)
        return without_object(sample) if options.masks in _OBJECT_SHARE else sample
    crop = centre(_decode(options.root, task.path, options.size), options.size)
    rng = sample_rng(seed, 0, task.sample_id)
    side = round(options.size * float(rng.uniform(0.25, 0.75)))

    def cut(photo: UInt8Array) -> Cutout:
        return random_cutout(photo, rng=rng, size_px=side)

    return pasted(paste(crop, _first_usable(task, options, cut), rng=rng))


FOLDER = SourceSpec(
    options_type=FolderOptions,
    plan=plan,
    render=render,
    summary="a folder of your own pictures",
    needs=(
        "--root is any folder, or s3:// or gs:// URI, of JPEG, PNG, WebP, BMP or TIFF pictures, "
        "subfolders included. The split is by picture; copies of a picture share one."
    ),
)


def _tasks(sources: dict[str, str], options: FolderOptions, seed: int) -> tuple[Task, ...]:
    """Make one task per file: its split by its source, its kind of hole by its turn."""
    splits = split_sources(sorted(set(sources.values())), options)
    members: dict[str, list[str]] = defaultdict(list)
    for source in sorted(splits):
        members[splits[source]].append(source)
    share = _OBJECT_SHARE.get(options.masks, 0.0)
    tasks = []
    for index, (name, source) in enumerate(sorted(sources.items())):
        kind: HoleKind = "object" if is_object(index, share) else "irregular"
        split = splits[source]
        donors = _donors(name, members[split], seed) if kind == "object" else ()
        tasks.append(
            Task(
                sample_id=name,
                split=split,
                source_id=source,
                path=name,
                hole_kind=kind,
                donors=donors,
            )
        )
    return tuple(tasks)


def _donors(name: str, members: list[str], seed: int) -> tuple[str, ...]:
    """Draw other pictures of the split, and the picture itself for when none of them is usable."""
    rng = sample_rng(seed, 0, f"{name}: donors")
    drawn = [members[int(rng.integers(len(members)))] for _ in range(_DONORS)]
    return (*(donor for donor in drawn if donor != name), name)


def _first_usable(
    task: Task, options: FolderOptions, cut: Callable[[UInt8Array], Cutout]
) -> Cutout:
    """Cut an object out of the first donor that can be decoded; the last donor is the photo."""
    for donor in task.donors[:-1]:
        try:
            return cut(_decode(options.root, donor, options.size))
        except (ImageError, OSError):
            continue  # It is listed as rejected under its own name.
    return cut(_decode(options.root, task.donors[-1], options.size))


def _decode(root: str, name: str, size: int) -> UInt8Array:
    return decode_at_least(read_file(root, name), size)
