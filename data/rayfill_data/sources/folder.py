"""A folder of the user's own pictures, whatever is in it."""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from rayfill_data.checks import Bounds
from rayfill_data.codec import UInt8Array
from rayfill_data.contract import SPLITS
from rayfill_data.errors import DatasetError, ImageError
from rayfill_data.masks.copy_paste import Cutout, paste, random_cutout, random_window
from rayfill_data.masks.hole import sample_rng
from rayfill_data.sources.files import SUFFIXES, Listed, list_pictures, read_file, same_bytes
from rayfill_data.sources.holes import MaskOptions, with_mask_files
from rayfill_data.sources.pictures import (
    PASTED_LABELS,
    centre,
    decode_at_least,
    pasted,
    render_picture,
    with_drawn_hole,
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

    crops_per_photo: Annotated[int, Bounds(ge=1, le=1000)] = 1
    """Samples made of every photo. The first shows its centre as large as it can be; the others are
    squares at random places, their side log-uniform between `size` pixels, which is full
    resolution, and the photo's shorter side, scaled down to `size`."""

    also: ClassVar[tuple[str, ...]] = tuple(_OBJECT_SHARE)

    def relations(self) -> Iterator[str]:
        """Yield the sentence for crops that may not show the hole they come with."""
        yield from super().relations()
        if self.masks == "paired" and self.crops_per_photo != 1:
            yield (
                f"crops_per_photo is {self.crops_per_photo!r} with masks 'paired': a crop may show "
                "nothing of its photo's hole. Leave it at 1, or choose other masks."
            )


def plan(options: FolderOptions, seed: int) -> SourcePlan:
    """List the pictures and split them by a stable hash of their relative path.

    Files with the same bytes are one source, so that no copy or crop lies in another split.

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
        tasks=_tasks(files, sources, options, seed),
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
    if options.masks == "paired":
        return render_picture(options.root, task, options, size=options.size, seed=seed)
    crop = _crop(task, options, seed)
    if task.hole_kind != "object":
        sample = with_drawn_hole(crop, task, options, seed=seed)
        return without_object(sample) if options.masks in _OBJECT_SHARE else sample
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
        "subfolders included. The split is by picture; its copies and crops share one."
    ),
)


def _tasks(
    files: Mapping[str, Listed], sources: Mapping[str, str], options: FolderOptions, seed: int
) -> tuple[Task, ...]:
    """Make a file's tasks, one after the other: split by its source, kinds of hole by turns."""
    splits = split_sources(sorted(set(sources.values())), options)
    members: dict[str, list[str]] = defaultdict(list)
    for source in sorted(splits):
        members[splits[source]].append(source)
    share = _OBJECT_SHARE.get(options.masks, 0.0)
    tasks = []
    for index, (name, source) in enumerate(sorted(sources.items())):
        for crop in range(options.crops_per_photo):
            # Turns move on with the photo too: no crop gets the same kind of every photo.
            kind: HoleKind = "object" if is_object(index + crop, share) else "irregular"
            # No file listed has such an ending, so that no other sample has the name.
            sample_id = f"{name}-{crop:03d}" if crop else name
            split = splits[source]
            drawn = _donors(sample_id, name, members[split], seed) if kind == "object" else ()
            tasks.append(
                Task(
                    sample_id=sample_id,
                    split=split,
                    source_id=source,
                    path=name,
                    hole_kind=kind,
                    donors=drawn,
                    annotation=f"{files[name].size} {files[name].mtime_ns}",
                )
            )
    return tuple(tasks)


def _donors(sample_id: str, name: str, members: list[str], seed: int) -> tuple[str, ...]:
    """Draw other pictures of the split, and the picture itself for when none of them is usable."""
    rng = sample_rng(seed, 0, f"{sample_id}: donors")
    drawn = [members[int(rng.integers(len(members)))] for _ in range(_DONORS)]
    return (*(donor for donor in drawn if donor != name), name)


def _crop(task: Task, options: FolderOptions, seed: int) -> UInt8Array:
    """Cut a sample out of its photo: the first at its centre, all others at random."""
    if options.crops_per_photo == 1:
        return centre(_decode(options.root, task.path, options.size), options.size)
    photo = _whole(task.path, root=options.root, size=options.size, stamp=task.annotation)
    if task.sample_id == task.path:
        return centre(photo, options.size)
    rng = sample_rng(seed, 0, f"{task.sample_id}: window")
    return random_window(photo, rng=rng, size_px=options.size)


@functools.lru_cache(maxsize=1)
def _whole(name: str, *, root: str, size: int, stamp: str) -> UInt8Array:
    """Decode every pixel of a photo, once for its crops; `stamp` tells it from a changed file."""
    return decode_at_least(read_file(root, name), size, whole=True)


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
