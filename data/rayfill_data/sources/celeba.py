"""CelebA's aligned faces with the official split (report P3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from rayfill_data.checks import Bounds, Count
from rayfill_data.contract import SPLITS
from rayfill_data.sources.files import (
    Listed,
    inputs_hash,
    is_file,
    is_folder,
    list_files,
    list_pictures,
    read_file,
    refuse,
    some,
)
from rayfill_data.sources.holes import MaskOptions, with_mask_files
from rayfill_data.sources.pictures import render_picture
from rayfill_data.sources.spec import Sample, SourcePlan, SourceSpec, Task
from rayfill_data.sources.splits import SizeOptions, unit_hash

_IMAGES = "img_align_celeba"
_LISTS = ("list_eval_partition.csv", "list_eval_partition.txt")
_SPLIT_OF = dict(zip(("0", "1", "2"), SPLITS, strict=True))


@dataclass(frozen=True, kw_only=True)
class CelebaOptions(MaskOptions, SizeOptions):
    """Aligned faces, centre-cropped and scaled to `size`, split as their authors did."""

    root: str
    """Folder or URI with img_align_celeba and list_eval_partition.csv or .txt."""

    size: Annotated[int, Bounds(ge=16, le=178)] = 178
    """Side of a sample in pixels."""

    masks: str = "lines_thick"
    """As for any source; report P3 drew lines_thin in its first phase, then lines_thick."""

    max_train: Count | None = None
    """Take this many training faces (report P3's first phase: 50000); None takes all."""


def plan(options: CelebaOptions, seed: int) -> SourcePlan:
    """Hold the official list against the folder.

    Raises:
        DatasetError: folder or list missing, a list that is another, or the two disagree; all of it
            listed at once.
    """
    root = options.root.rstrip("/")
    # Some archives unpack into a folder of the same name inside the folder.
    nested = f"{root}/{_IMAGES}/{_IMAGES}"
    folder = nested if is_folder(nested) else f"{root}/{_IMAGES}"
    lists = [name for name in _LISTS if is_file(f"{root}/{name}")]
    problems = []
    if not is_folder(folder):
        problems.append(f"The folder {_IMAGES} is missing; unpack img_align_celeba.zip there.")
    if not lists:
        problems.append(f"The official split is missing: {' or '.join(_LISTS)}.")
    refuse(options.root, problems)
    faces = list_pictures(folder)
    splits, problems = _parse(read_file(root, lists[0]).decode("utf-8", "replace"), lists[0])
    if absent := splits.keys() - faces.keys():
        problems.append(f"{len(absent)} faces of {lists[0]} are not in {_IMAGES}: {some(absent)}.")
    if unlisted := faces.keys() - splits.keys():
        problems.append(f"{len(unlisted)} faces of {_IMAGES} are not listed: {some(unlisted)}.")
    problems += [
        f"{lists[0]} names no {split} faces." for split in SPLITS if split not in splits.values()
    ]
    refuse(options.root, problems)
    found = SourcePlan(
        tasks=tuple(_tasks(splits, folder[len(root) + 1 :], options.max_train)),
        inputs_hash=inputs_hash(faces, _only(list_files(root), lists[0])),
        size=options.size,
        max_rejected=options.max_rejected,
    )
    return with_mask_files(found, options, seed)


def render(task: Task, options: CelebaOptions, seed: int) -> Sample:
    """Decode, scale and crop one face, and give it its hole.

    Raises:
        ImageError: bytes that are no usable picture, or one smaller than the wanted size.
        OSError: a file that vanished or may not be read.
    """
    return render_picture(options.root.rstrip("/"), task, options, size=options.size, seed=seed)


CELEBA = SourceSpec(
    options_type=CelebaOptions,
    plan=plan,
    render=render,
    summary="CelebA's aligned faces with the official split (report P3)",
    needs=(
        "Get 'Align&Cropped Images' and the evaluation partition from "
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (for research only). --root must hold "
        "img_align_celeba/000001.jpg ... 202599.jpg and list_eval_partition.txt (lines "
        "'000001.jpg 0') or list_eval_partition.csv (header 'image_id,partition'); 0 is training, "
        "1 validation, 2 test."
    ),
)


def _parse(text: str, name: str) -> tuple[dict[str, str], list[str]]:
    """Return face -> split, and what is wrong with the list."""
    splits: dict[str, str] = {}
    wrong, doubled = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.replace(",", " ").split()
        if not parts or (number == 1 and parts == ["image_id", "partition"]):
            continue
        if len(parts) != 2 or parts[1] not in _SPLIT_OF:
            wrong.append(number)
        elif parts[0] in splits:
            doubled.append(parts[0])
        else:
            splits[parts[0]] = _SPLIT_OF[parts[1]]
    problems = []
    if wrong:
        shown = ", ".join(map(str, wrong[:5]))
        problems.append(
            f"{len(wrong)} lines of {name} are not a face and 0, 1 or 2 (line {shown}); is it "
            "CelebA's own list?"
        )
    if doubled:
        problems.append(f"{len(doubled)} faces are listed twice in {name}: {some(doubled)}.")
    return splits, problems


def _tasks(splits: dict[str, str], folder: str, max_train: int | None) -> Iterator[Task]:
    """Make one task per face; a limited training split is drawn by a stable hash."""
    train = sorted((name for name in splits if splits[name] == "train"), key=unit_hash)
    left_out = set(train[max_train:]) if max_train is not None else set()
    for name, split in sorted(splits.items()):
        if name not in left_out:
            yield Task(
                sample_id=name.rpartition(".")[0],
                split=split,
                source_id=name,
                path=f"{folder}/{name}",
                hole_kind="irregular",
            )


def _only(files: dict[str, Listed], name: str) -> dict[str, Listed]:
    return {name: files[name]}
