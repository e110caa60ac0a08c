"""Paired folders: the picture with an object, the mask of the object, the picture without it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from rayfill_data.checks import Bounds
from rayfill_data.codec import UInt8Array
from rayfill_data.contract import SPLITS
from rayfill_data.errors import ImageError
from rayfill_data.sources.files import (
    Listed,
    inputs_hash,
    is_folder,
    list_pictures,
    read_file,
    refuse,
    same_bytes,
    some,
)
from rayfill_data.sources.holes import mask_notes, read_mask, stem
from rayfill_data.sources.pictures import crop_to_hole, decode_at_least, fit_frame
from rayfill_data.sources.spec import Sample, SourcePlan, SourceSpec, Task
from rayfill_data.sources.splits import SplitOptions, split_sources, unit_hash

#: A limit that leaves a sample for every split.
SomeSamples = Annotated[int, Bounds(ge=len(SPLITS))]


@dataclass(frozen=True, kw_only=True)
class TripletsOptions(SplitOptions):
    """Input, mask and target of a sample are files of the same relative name in three folders."""

    input: str
    """Folder or URI of the pictures a model sees, the object still in them."""

    mask: str
    """Folder or URI of the masks of what is to be removed, 255 = hole."""

    target: str
    """Folder or URI of the true pictures."""

    photo_pattern: str | None = None
    """Regular expression whose first group, found in a sample's name, names the photo it comes
    from; samples of one photo share a split. None: every sample is its own photo."""

    scale_masks: bool = False
    """Scale masks of another resolution to their picture instead of rejecting them."""

    max_samples: SomeSamples | None = None
    """Take about this many samples, whole photos at a time; None takes all."""

    def relations(self) -> Iterator[str]:
        """Yield what is wrong with shares, and with the pattern that is to name photos."""
        yield from super().relations()
        pattern = self.photo_pattern
        try:
            groups = 1 if pattern is None else re.compile(pattern).groups
        except re.error as error:
            yield f"photo_pattern {pattern!r} is no regular expression ({error}); correct it."
        else:
            if groups < 1:
                yield f"photo_pattern {pattern!r} has no group; put what names the photo in (...)."


def plan(options: TripletsOptions, seed: int) -> SourcePlan:
    """Pair the files of the three folders and split them by photo.

    Raises:
        DatasetError: folders that are missing, files without their partners, names that the pattern
            does not know, fewer than three photos; all of it listed at once.
    """
    folders = {"input": options.input, "mask": options.mask, "target": options.target}
    listings, stems = list_paired("The triplets", folders)
    problems = []
    photos, unknown = photos_of(stems["input"], options.photo_pattern)
    if unknown:
        problems.append(f"{len(unknown)} names that photo_pattern does not match: {some(unknown)}.")
    if options.photo_pattern is None:
        for role in ("input", "target"):
            same = same_bytes(folders[role], listings[role])
            photos = merged(photos, {key: same[name] for key, name in stems[role].items()})
    problems += too_few(photos)
    refuse("The triplets", problems)
    tasks = split_tasks(photos, options, options.max_samples, stems)
    return SourcePlan(
        tasks=tasks,
        inputs_hash=inputs_hash(*listings.values()),
        size=options.size,
        max_rejected=options.max_rejected,
        notes=mask_notes(options.mask, [task.mask_path for task in tasks]),
    )


def render(task: Task, options: TripletsOptions, seed: int) -> Sample:
    """Read, check and crop one triplet.

    Raises:
        ImageError: a file that is no usable picture, or three that do not fit together.
        OSError: a file that vanished or may not be read.
    """
    image = decode_at_least(read_file(options.input, task.path), options.size, whole=True)
    target = read_target(options.target, task.target_path, image)
    height, width = image.shape[:2]
    mask, _ = read_mask(
        options.mask, task.mask_path, size=None if options.scale_masks else (height, width)
    )
    return crop_to_hole(image, target, fit_frame(mask, height, width), size=options.size)


TRIPLETS = SourceSpec(
    options_type=TripletsOptions,
    plan=plan,
    render=render,
    locations=("input", "mask", "target"),
    summary="paired folders: input with an object, mask, target without it",
    needs=(
        "--input, --mask and --target are folders (or s3://, gs:// URIs) holding files of the same "
        "relative name, endings aside: input/a/7.jpg, mask/a/7.png, target/a/7.jpg. The three of a "
        "sample have one size in pixels; in masks 255 = hole. Samples made from one photo share a "
        "split if --photo-pattern says how names tell the photo, for example '_([0-9]+)$'; "
        "otherwise inputs or targets that are byte for byte the same do."
    ),
)


def list_paired(
    what: str, folders: Mapping[str, str]
) -> tuple[dict[str, dict[str, Listed]], dict[str, dict[str, str]]]:
    """Return the files of every folder by role, and their names by what they have in common.

    Args:
        what: The dataset, as errors call it.
        folders: Folder or URI by role.

    Raises:
        DatasetError: folders that are missing or empty, files without their partners, all listed.
    """
    refuse(
        what,
        (
            f"--{role} {uri} is not a folder; give the folder with the {role} pictures."
            for role, uri in folders.items()
            if not is_folder(uri)
        ),
    )
    listings = {role: list_pictures(uri) for role, uri in folders.items()}
    problems, stems = paired(listings)
    refuse(what, problems)
    return listings, stems


def paired(
    listings: Mapping[str, Mapping[str, Listed]],
) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Index every folder by stem; return what does not pair, and role -> stem -> name."""
    problems = []
    stems: dict[str, dict[str, str]] = {}
    for role, files in listings.items():
        by_stem: dict[str, list[str]] = defaultdict(list)
        for name in files:
            by_stem[stem(name)].append(name)
        if doubled := [" = ".join(names) for names in by_stem.values() if len(names) > 1]:
            problems.append(
                f"{len(doubled)} {role} names that differ in ending only: {some(doubled)}."
            )
        if not files:
            problems.append(f"The {role} folder holds no pictures.")
        stems[role] = {key: names[0] for key, names in by_stem.items()}
    everything = set().union(*stems.values())
    for role, known in stems.items():
        if known and (missing := everything - known.keys()):
            problems.append(f"{len(missing)} samples without {role}: {some(missing)}.")
    return problems, stems


def photos_of(inputs: Mapping[str, str], pattern: str | None) -> tuple[dict[str, str], list[str]]:
    """Map every stem to the photo it comes from; return also the names the pattern does not fit."""
    if pattern is None:
        return {key: key for key in inputs}, []
    found = {key: re.search(pattern, key) for key in inputs}
    return (
        {key: match.group(1) or key for key, match in found.items() if match},
        [key for key, match in found.items() if not match],
    )


def merged(photos: Mapping[str, str], same: Mapping[str, str]) -> dict[str, str]:
    """Make one photo of all whose samples share a value of `same`."""
    parent: dict[str, str] = {}

    def root(photo: str) -> str:
        while (above := parent.setdefault(photo, photo)) != photo:
            photo = above
        return photo

    first: dict[str, str] = {}
    for key in sorted(photos):
        one, other = root(photos[key]), root(first.setdefault(same[key], photos[key]))
        parent[max(one, other)] = min(one, other)
    return {key: root(photo) for key, photo in photos.items()}


def too_few(photos: Mapping[str, str]) -> list[str]:
    """Return the sentence for fewer photos than there are splits."""
    distinct = len(set(photos.values()))
    if distinct >= len(SPLITS):
        return []
    return [f"Samples of {distinct} photos; at least {len(SPLITS)} are needed, one per split."]


def split_tasks(
    photos: Mapping[str, str],
    options: SplitOptions,
    max_samples: int | None,
    stems: Mapping[str, Mapping[str, str]],
) -> tuple[Task, ...]:
    """Split by photo and make one task per sample, in the order of names."""
    counts: dict[str, int] = defaultdict(int)
    for photo in photos.values():
        counts[photo] += 1
    kept: list[str] = []
    total = 0
    # Another hash than the split's, or the first photos would all be of one split.
    for photo in sorted(counts, key=lambda photo: (unit_hash(f"chosen {photo}"), photo)):
        if max_samples is not None and total >= max_samples and len(kept) >= len(SPLITS):
            break
        kept.append(photo)
        total += counts[photo]
    splits = split_sources(sorted(kept), options)
    return tuple(
        Task(
            sample_id=key,
            split=splits[photo],
            source_id=photo,
            path=stems["input"][key],
            hole_kind="given",
            mask_path=stems["mask"][key],
            target_path=stems["target"].get(key, ""),
        )
        for key, photo in sorted(photos.items())
        if photo in splits
    )


def read_target(folder: str, name: str, image: UInt8Array) -> UInt8Array:
    """Read a true picture and insist on the input's size.

    Raises:
        ImageError: no usable picture, or one of another size.
        OSError: a file that vanished or may not be read.
    """
    try:
        target = decode_at_least(read_file(folder, name), 1, whole=True)
    except ImageError as error:
        raise ImageError(f"its target {name}: {error}", code=error.code) from error
    if target.shape != image.shape:
        raise ImageError(
            f"its target is {target.shape[1]}x{target.shape[0]} pixels (width x height), the input "
            f"{image.shape[1]}x{image.shape[0]}.",
            code="size_mismatch",
        )
    return target
