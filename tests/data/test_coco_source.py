"""The source `coco`: photos with drawn holes, or with holes shaped like other photos' objects."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rayfill_data.contract import SPLITS
from rayfill_data.errors import ConfigError, DatasetError, ImageError
from rayfill_data.masks.hole import hole_ratio
from rayfill_data.prepared.pipeline import prepare
from rayfill_data.prepared.reader import PreparedDataset
from rayfill_data.sources import CocoPhotosOptions
from rayfill_data.sources.coco import photos as coco
from rayfill_data.sources.coco.objects import from_json, full_mask

REAL = Path(__file__).parents[3] / "shared/data/coco_person"


def options_of(made: Any, **more: Any) -> CocoPhotosOptions:
    settings = {"size": 32, "min_object_px": 16, "val_share": 0.3, "test_share": 0.3}
    return CocoPhotosOptions(**(settings | made.options() | more))


def check_splits(tasks: Any) -> None:
    found = defaultdict(set)
    for task in tasks:
        found[task.source_id].add(task.split)
    assert all(len(splits) == 1 for splits in found.values())
    assert set().union(*found.values()) == set(SPLITS)


def test_photos_with_drawn_holes(make_coco: Any) -> None:
    options = options_of(make_coco())
    tasks = coco.plan(options, 0).tasks
    check_splits(tasks)
    assert len(tasks) == 14
    for task in tasks:
        sample = coco.render(task, options, 0)
        assert sample.image.shape == (32, 32, 3)
        assert sample.target is None
        assert (sample.hole_mask is None) == (task.split == "train")


@pytest.mark.parametrize("kind", ["instances", "panoptic"])
def test_holes_have_the_shape_of_objects_of_other_photos(
    make_coco: Any, make_panoptic: Any, kind: str
) -> None:
    made = make_coco(16) if kind == "instances" else make_panoptic(16)
    options = options_of(made, masks="objects", categories=("dog",), mask_ratio=(0.1, 0.3))
    plan = coco.plan(options, 0)
    check_splits(plan.tasks)
    photos = {task.path: task for task in plan.tasks}
    likeness = []
    for task in plan.tasks:
        donors = [from_json(donor) for donor in task.donors]
        for donor in donors:
            assert donor.name != task.path
            assert photos[donor.name].split == task.split
            assert [thing.category for thing in donor.objects] == ["dog"]
        sample = coco.render(task, options, 0)
        hole = sample.hole_mask
        assert hole is not None
        assert set(np.unique(hole)) == {0, 255}
        assert 0.1 <= hole_ratio(hole) <= 0.3
        again = coco.render(task, options, 0)
        np.testing.assert_array_equal(hole, again.hole_mask)
        likeness.append(max(overlap(hole, donor, made) for donor in donors))
    assert np.median(likeness) > 0.9
    assert min(likeness) > 0.7


def overlap(hole: np.ndarray, donor: Any, made: Any) -> float:
    """Intersection over union of a hole and a donor's object, both filling the same box."""
    panoptic = made.picture(donor.panoptic_name) if donor.panoptic_name else None
    mask = full_mask(donor.objects[0], donor, panoptic)
    shapes = []
    for picture in (hole, mask, mask[:, ::-1]):
        rows, columns = np.flatnonzero(picture.any(axis=1)), np.flatnonzero(picture.any(axis=0))
        cropped = (picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] > 0) * 255
        shapes.append(cv2.resize(cropped.astype(np.uint8), (48, 48)) > 127)
    return max(float((shapes[0] & other).sum() / (shapes[0] | other).sum()) for other in shapes[1:])


def test_copies_of_a_photo_share_its_split_and_never_lend_to_it(make_coco: Any) -> None:
    made = make_coco(24)
    for index in range(12):
        copied = (made.images / f"{index:05d}.png").read_bytes()
        (made.images / f"{12 + index:05d}.png").write_bytes(copied)
    plan = coco.plan(options_of(made, masks="objects"), 0)
    check_splits(plan.tasks)
    sources = {task.path: task.source_id for task in plan.tasks}
    assert len(set(sources.values())) == 12
    for task in plan.tasks:
        assert all(sources[from_json(donor).name] != task.source_id for donor in task.donors)


def test_objects_that_are_not_used(make_coco: Any) -> None:
    made = make_coco(64)
    spoiled = set()
    for index, thing in enumerate(made.raw["annotations"]):
        outline = np.array(thing["segmentation"][0]).reshape(-1, 2)
        kind = index % 8
        if kind == 0:  # small
            outline = (outline - 28) / 4 + 28
        elif kind == 2:  # cut off by the edge
            outline[:, 0] -= outline[:, 0].min()
        elif kind == 4:
            thing["iscrowd"] = 1
        if kind in (0, 2, 4):
            spoiled.add(thing["id"])
        thing["segmentation"] = [outline.round(2).ravel().tolist()]
    options = options_of(made.save(), masks="objects")
    plan = coco.plan(options, 0)
    used = {
        thing.annotation_id
        for task in plan.tasks
        for donor in task.donors
        for thing in from_json(donor).objects
    }
    assert used
    assert not used & spoiled


@pytest.mark.parametrize(
    ("categories", "why"),
    [
        (
            ("persn",),
            r"Unknown category 'persn'. Did you mean 'person'\? Allowed: cup, dog, person",
        ),
        (("cup",), r"No usable object of 'cup': 0 are annotated.*Usable ones: .*dog 14"),
    ],
)
def test_categories_without_objects(make_coco: Any, categories: Any, why: str) -> None:
    with pytest.raises(DatasetError, match=why):
        coco.plan(options_of(make_coco(), masks="objects", categories=categories), 0)


def test_everything_missing_is_listed_at_once(tmp_path: Path, make_coco: Any) -> None:
    made = make_coco()
    options = options_of(
        made, images=str(tmp_path / "no"), annotations=str(tmp_path), panoptic_masks="nowhere"
    )
    with pytest.raises(DatasetError) as error:
        coco.plan(options, 0)
    for flag in ("--images", "--annotations", "--panoptic-masks"):
        assert flag in str(error.value)


def test_too_few_photos_and_too_many_rejected(make_coco: Any) -> None:
    made = make_coco(8)
    for index in range(6):
        (made.images / f"{index:05d}.png").unlink()
    with pytest.raises(DatasetError) as error:
        coco.plan(options_of(made), 0)
    assert "18 of 24 entries cannot be used, 0 are allowed" in str(error.value)
    assert "2 different photos; at least 3" in str(error.value)


def test_options_report_every_problem() -> None:
    with pytest.raises(ConfigError) as error:
        CocoPhotosOptions(
            images="x", annotations="y", size=1, categories=(), min_object_px=1, masks="some"
        )
    assert len(error.value.problems) == 4


def test_a_photo_of_another_size_is_rejected(make_coco: Any, make_picture: Any) -> None:
    options = options_of(make_coco(), size=100)
    with pytest.raises(ImageError, match="smaller than size 100"):
        coco.render(coco.plan(options, 0).tasks[0], options, 0)


def test_broken_panoptic_pictures_of_all_donors(make_panoptic: Any) -> None:
    made = make_panoptic()
    options = options_of(made, masks="objects")
    task = coco.plan(options, 0).tasks[0]
    names = sorted({from_json(donor).panoptic_name for donor in task.donors})
    for name in names[1:]:
        (made.masks / name).write_bytes(b"broken")
    assert coco.render(task, options, 0).hole_mask is not None
    (made.masks / names[0]).unlink()
    with pytest.raises(ImageError, match="none of its donors can be read"):
        coco.render(task, options, 0)


def test_prepare_lists_what_it_left_out(tmp_path: Path, make_coco: Any, ray_local: None) -> None:
    made = make_coco()
    made.raw["annotations"][3]["segmentation"] = [[1, 2, 3]]
    out = str(tmp_path / "out")
    options = options_of(made.save(), masks="objects", max_rejected=0.05)
    manifest = prepare("coco", out=out, options=options, progress=lambda done, total: None)
    assert manifest.rejected == 1
    line = json.loads((tmp_path / "out/rejected.jsonl").read_text())
    assert line["path"] == "instances.json: annotation 3"
    assert "odd number" in line["reason"]
    arrays = PreparedDataset.open(out).load("train")
    assert arrays.has_mask.all()
    assert arrays.labels is None


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no COCO photos beside the project")
def test_real_objects_lend_their_shape() -> None:
    options = CocoPhotosOptions(
        images=str(REAL / "images"),
        annotations=str(REAL / "instances.json"),
        size=128,
        masks="objects",
    )
    tasks = coco.plan(options, 0).tasks
    assert len(tasks) == 215
    ratios = []
    for task in tasks[::6]:
        hole = coco.render(task, options, 0).hole_mask
        assert hole is not None
        ratios.append(hole_ratio(hole))
    assert min(ratios) >= 0.05
    assert max(ratios) <= 0.4
    assert 0.15 < np.mean(ratios) < 0.3
