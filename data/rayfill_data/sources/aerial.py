"""Aerial photos, or any photos with classes: every class in every split alike (report P4)."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import PurePosixPath

from rayfill_data.contract import SPLITS
from rayfill_data.sources.files import inputs_hash, list_pictures, refuse, same_bytes, some
from rayfill_data.sources.holes import MaskOptions, with_mask_files
from rayfill_data.sources.pictures import render_picture
from rayfill_data.sources.spec import Sample, SourcePlan, SourceSpec, Task
from rayfill_data.sources.splits import SplitOptions, unit_hash

#: Field_b017 is number b017 of class Field; Field017 and Field-17 are of it too.
_PREFIX = re.compile(r"^(.*?[^\W\d_])[-_ ]*(?:[-_ ][A-Za-z]*)?\d+$")


@dataclass(frozen=True, kw_only=True)
class AerialOptions(MaskOptions, SplitOptions):
    """Photos of classes; each class gives the same shares to validation and test."""

    root: str
    """Folder or URI with one subfolder per class, or with files named by class and number."""


def plan(options: AerialOptions, seed: int) -> SourcePlan:
    """Sort the photos into classes and split every class by a stable hash of its photos' names.

    Raises:
        DatasetError: no photos, photos without a class, classes too small for three splits, or one
            photo in two classes; all of it listed at once.
    """
    photos = list_pictures(options.root)
    classes, unknown = _classes(list(photos))
    problems = []
    if not photos:
        problems.append("It holds no pictures.")
    if unknown:
        problems.append(
            f"{len(unknown)} photos of no class: {some(unknown)}. Give every class a folder, or "
            "name files by class and number, such as Field_017.jpg."
        )
    members: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    same = same_bytes(options.root, photos)
    for name, label in classes.items():
        members[label][same[name]].append(name)
    small = [
        f"{label} ({len(found)})" for label, found in members.items() if len(found) < len(SPLITS)
    ]
    if small:
        problems.append(
            f"{len(small)} classes with fewer than {len(SPLITS)} different photos, one per split: "
            f"{some(small)}."
        )
    if double := [name for name, first in same.items() if classes.get(name) != classes.get(first)]:
        pairs = [f"{name} = {same[name]}" for name in double]
        problems.append(f"{len(double)} photos in two classes: {some(pairs)}. Keep one of each.")
    refuse(options.root, problems)
    found = SourcePlan(
        tasks=tuple(_tasks(members, options)),
        inputs_hash=inputs_hash(photos),
        size=options.size,
        max_rejected=options.max_rejected,
    )
    return with_mask_files(found, options, seed)


def render(task: Task, options: AerialOptions, seed: int) -> Sample:
    """Decode, scale and crop one photo, and give it its hole.

    Raises:
        ImageError: bytes that are no usable picture, or one smaller than the wanted size.
        OSError: a file that vanished or may not be read.
    """
    return render_picture(options.root, task, options, size=options.size, seed=seed)


AERIAL = SourceSpec(
    options_type=AerialOptions,
    plan=plan,
    render=render,
    summary="aerial or other photos in classes, every class in every split (report P4)",
    needs=(
        "Any set of aerial scenes, such as RSSCN7 or AID. --root holds one folder per class "
        "(Field/017.jpg) or files named by class and number (Field_017.jpg); each class needs at "
        "least 3 different photos. Copies of a photo share its split."
    ),
)


def _classes(names: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return photo -> class, by its folder or by prefix, and the photos without one."""
    classes, unknown = {}, []
    for name in names:
        path = PurePosixPath(name)
        match = _PREFIX.match(path.stem)
        if len(path.parts) > 1:
            classes[name] = path.parts[-2]
        elif match:
            classes[name] = match.group(1)
        else:
            unknown.append(name)
    return classes, unknown


def _tasks(members: dict[str, dict[str, list[str]]], options: AerialOptions) -> list[Task]:
    """Take the first of every class's photos, by hash, for test, the next for validation."""
    tasks = []
    for _, sources in sorted(members.items()):
        ordered = sorted(sources, key=lambda source: (unit_hash(source), source))
        test = min(max(1, round(len(ordered) * options.test_share)), len(ordered) - 2)
        val = min(max(1, round(len(ordered) * options.val_share)), len(ordered) - test - 1)
        for place, source in enumerate(ordered):
            split = "test" if place < test else "val" if place < test + val else "train"
            tasks += [
                Task(
                    sample_id=name,
                    split=split,
                    source_id=source,
                    path=name,
                    hole_kind="irregular",
                )
                for name in sources[source]
            ]
    return sorted(tasks, key=lambda task: task.sample_id)
