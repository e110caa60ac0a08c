"""Pictures and masks as they are, all of them for testing: what finished systems are measured on.

Nothing is scaled, cropped or split, so the outputs of any outside system, made from the same files,
fit the samples pixel for pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rayfill_data.checks import Checked, Share
from rayfill_data.sources.files import inputs_hash, read_file
from rayfill_data.sources.holes import check_hole, mask_notes, read_mask
from rayfill_data.sources.pictures import decode_at_least
from rayfill_data.sources.spec import Sample, SourcePlan, SourceSpec, Task
from rayfill_data.sources.triplets import list_paired, read_target


@dataclass(frozen=True, kw_only=True)
class TestSetOptions(Checked):
    """Picture and mask of a sample are files of the same relative name in two folders."""

    __test__ = False  # pytest takes a class of this name for a test

    input: str
    """Folder or URI of the pictures that systems are given."""

    mask: str
    """Folder or URI of the masks of what is to be filled, 255 = hole."""

    target: str | None = None
    """Folder or URI of the true pictures; None: the pictures themselves."""

    truth: bool = True
    """Whether these are what the holes should show. Not for photos that still have in them what is
    to be removed: systems are then measured by what needs no truth."""

    max_rejected: Share = 0.0
    """Share of the pictures that may be unusable before preparation fails."""

    def relations(self) -> Iterator[str]:
        """Yield what does not go together."""
        if self.target is not None and not self.truth:
            yield "--target is given with --no-truth; true pictures are the truth: leave out one."


def plan(options: TestSetOptions, seed: int) -> SourcePlan:  # noqa: ARG001
    """Pair the files of the folders.

    Raises:
        DatasetError: folders that are missing or empty, files without their partners; all of it
            listed at once.
    """
    named = {"input": options.input, "mask": options.mask, "target": options.target}
    folders = {role: uri for role, uri in named.items() if uri is not None}
    listings, stems = list_paired("The test set", folders)
    tasks = tuple(
        Task(
            sample_id=key,
            split="test",
            source_id=key,
            path=name,
            hole_kind="given",
            mask_path=stems["mask"][key],
            target_path=stems.get("target", {}).get(key, ""),
        )
        for key, name in sorted(stems["input"].items())
    )
    return SourcePlan(
        tasks=tasks,
        inputs_hash=inputs_hash(*listings.values()),
        size=None,
        max_rejected=options.max_rejected,
        notes=mask_notes(options.mask, [task.mask_path for task in tasks]),
    )


def render(task: Task, options: TestSetOptions, seed: int) -> Sample:  # noqa: ARG001
    """Read and check one sample; every pixel stays as it is.

    Raises:
        ImageError: a file that is no usable picture, or some that do not fit together.
        OSError: a file that vanished or may not be read.
    """
    image = decode_at_least(read_file(options.input, task.path), 1, whole=True)
    target = None
    if options.target is not None:
        target = read_target(options.target, task.target_path, image)
    mask, _ = read_mask(options.mask, task.mask_path, size=image.shape[:2])
    check_hole(mask)
    return Sample(image=image, target=target, hole_mask=mask)


TEST_SET = SourceSpec(
    options_type=TestSetOptions,
    plan=plan,
    render=render,
    locations=("input", "mask", "target"),
    summary="pictures and masks as they are, all for testing: what `rayfill evaluate` measures on",
    needs=(
        "--input and --mask are folders (or s3://, gs:// URIs) holding files of the same relative "
        "name, endings aside: input/a/7.jpg, mask/a/7.png; in masks 255 = hole. --target is a "
        "third such folder where inputs still show what is to be removed; --no-truth says that "
        "nobody has such pictures. Sizes may differ from sample to sample; nothing is scaled, "
        "cropped or split, so nothing can be trained on it."
    ),
)
