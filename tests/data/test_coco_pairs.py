"""The source `coco_pairs`: pasted objects, their true background, their labels."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rayfill_data.errors import ConfigError, DatasetError, ImageError
from rayfill_data.masks.hole import hole_ratio
from rayfill_data.prepared.pipeline import prepare
from rayfill_data.prepared.reader import PreparedDataset
from rayfill_data.sources import CocoPairsOptions
from rayfill_data.sources.coco import pairs as coco_pairs
from rayfill_data.sources.coco.files import Cut
from rayfill_data.sources.coco.objects import CocoObject, CocoPhoto, from_json
from rayfill_data.sources.coco.places import (
    Context,
    Window,
    draw_foot,
    fit_context,
    largest_window,
    random_window,
)

REAL = Path(__file__).parents[3] / "shared/data/coco_person"


def options_of(made: Any, **more: Any) -> CocoPairsOptions:
    settings = {
        "size": 24,
        "min_object_px": 16,
        "val_share": 0.3,
        "test_share": 0.3,
        "window": 0.3,
        "object_size": (0.02, 0.25),
    }
    return CocoPairsOptions(**(settings | made.options() | more))


def rendered(options: CocoPairsOptions, seed: int = 0) -> list[tuple[Any, Any]]:
    tasks = coco_pairs.plan(options, seed).tasks
    return [(task, coco_pairs.render(task, options, seed)) for task in tasks]


def photo_labels(made: Any, name: str) -> set[str]:
    annotation = {image["file_name"]: image["id"] for image in made.raw["images"]}[name]
    kinds = {1: "person", 18: "dog"}
    return {
        kinds[thing["category_id"]]
        for thing in made.raw["annotations"]
        if thing["image_id"] == annotation
    }


@pytest.mark.parametrize("kind", ["instances", "panoptic"])
@pytest.mark.parametrize("more", [{}, {"placement": "context"}, {"pastes": (2, 3)}])
def test_the_hole_is_what_changed_and_the_rest_is_the_background(
    make_coco: Any, make_panoptic: Any, kind: str, more: dict[str, Any]
) -> None:
    made = make_coco(40) if kind == "instances" else make_panoptic(40)
    options = options_of(made, categories=("dog",), feather_px=2.0, **more)
    samples = rendered(options)
    splits = {task.path: task.split for task, _ in samples}
    for task, sample in samples:
        for donor in map(from_json, task.donors):
            assert donor.name != task.path
            assert splits[donor.name] == task.split
            assert donor.objects[0].category == "dog"
        changed = (sample.image != sample.target).any(axis=2)
        hole = sample.hole_mask > 0
        assert hole[changed].all()
        # Only inside an object may a pixel of the hole agree with the background by chance.
        assert (sample.labels[hole & ~changed] == 1).all()
        assert changed.sum() > 0.9 * hole.sum()
        assert set(np.unique(sample.hole_mask)) == {0, 255}
        assert not sample.target_labels.any()
        assert set(np.unique(sample.labels)) == {0, 1}
        assert not sample.labels[~hole].any()
        again = coco_pairs.render(task, options, 0)
        np.testing.assert_array_equal(again.image, sample.image)
        np.testing.assert_array_equal(again.hole_mask, sample.hole_mask)


def test_the_target_is_a_square_of_the_photo(make_coco: Any, make_picture: Any) -> None:
    """Bit for bit: photos of one colour each stay that colour all over."""
    made = make_coco(30)
    for index in range(30):
        flat = np.full((90, 120, 3), (8 * index, 255 - 8 * index, 7), np.uint8)
        Image.fromarray(flat).save(made.images / f"{index:05d}.png")
    for task, sample in rendered(options_of(made, feather_px=1.0)):
        index = int(task.path[:5])
        assert (sample.target == (8 * index, 255 - 8 * index, 7)).all()
        donors = {int(from_json(donor).name[:5]) for donor in task.donors}
        solid = sample.labels == 1
        # An object brings its own colour along, up to its rim, and nothing around it.
        inner = {tuple(colour) for colour in sample.image[solid]}
        assert any((8 * donor, 255 - 8 * donor, 7) in inner for donor in donors)
        blue = sample.image[..., 2]
        assert (blue == 7).all()


def test_without_means_that_no_square_shows_the_category(make_coco: Any) -> None:
    made = make_coco(40)
    for task, sample in rendered(options_of(made)):
        assert "person" in photo_labels(made, task.path)
        assert not sample.target_labels.any()
    shown = 0
    for _, sample in rendered(options_of(made, backgrounds="any", repeats=2)):
        shown += bool(sample.target_labels.any())
        outside = sample.hole_mask == 0
        np.testing.assert_array_equal(sample.labels[outside], sample.target_labels[outside])
    assert shown > 30


def test_labels_name_every_pasted_category(make_coco: Any) -> None:
    made = make_coco(40)
    for thing in made.raw["annotations"][:20]:
        thing["iscrowd"] = 1
    options = options_of(
        made.save(), categories=("dog", "person"), backgrounds="any", repeats=3, max_rejected=1.0
    )
    assert coco_pairs.plan(options, 0).labels == ("nothing", "dog", "person")
    seen: Counter[int] = Counter()
    for _, sample in rendered(options):
        seen.update(np.unique(sample.labels).tolist())
    assert set(seen) == {0, 1, 2, 255}
    assert min(seen[1], seen[2]) > 20


def test_panoptic_labels_name_every_pixel(make_panoptic: Any) -> None:
    made = make_panoptic(40)
    options = options_of(made, backgrounds="any", label_set="panoptic", window=0.9)
    assert coco_pairs.plan(options, 0).labels == ("nothing", "person", "dog", "cup")
    seen: Counter[int] = Counter()
    for _, sample in rendered(options):
        seen.update(np.unique(sample.target_labels).tolist())
        assert (sample.labels == 1).any()
    # All that is no object is a cup; the corner nobody marked is to be ignored.
    assert set(seen) == {1, 2, 3, 255}


def test_balanced_holes_fill_their_buckets_evenly(make_coco: Any) -> None:
    made = make_coco(60)
    options = options_of(made, balance_ratios=True, repeats=4, object_size=(0.03, 0.5))
    found: dict[str, Counter[int]] = {}
    for task, sample in rendered(options):
        ratio = hole_ratio(sample.hole_mask)
        assert 0.03 <= ratio < 0.4
        found.setdefault(task.split, Counter())[int(10 * ratio)] += 1
    for counts in found.values():
        assert set(counts) == {0, 1, 2, 3}
        assert max(counts.values()) - min(counts.values()) <= 1


def test_objects_are_as_large_as_asked_for(make_coco: Any) -> None:
    made = make_coco(40)
    for _, sample in rendered(options_of(made, object_size=(0.1, 0.15), feather_px=0.0)):
        # Rounding of a small picture's sides costs a little.
        assert 0.08 < hole_ratio(sample.hole_mask) < 0.19


def test_repeats_differ_and_share_their_photo(make_coco: Any) -> None:
    made = make_coco(30)
    samples = rendered(options_of(made, repeats=3))
    ids = [task.sample_id for task, _ in samples]
    assert len(ids) == len(set(ids))
    first = [sample for task, sample in samples if task.path == samples[0][0].path]
    assert len(first) == 3
    assert len({sample.image.tobytes() for sample in first}) == 3


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"size": 80}, r"objects that can cover 2% of a picture of 80|no background photo is left"),
        ({"object_size": (0.7, 0.8)}, "objects that can cover 70% of a picture of 24 pixels"),
        ({"window": 1.0}, r"no background photo is left for train.*--backgrounds any"),
        ({"categories": ("cup",)}, r"No usable object of 'cup'.*(dog 40|person 40)"),
    ],
)
def test_sets_that_cannot_be_pasted(make_coco: Any, more: dict[str, Any], why: str) -> None:
    with pytest.raises(DatasetError, match=why):
        coco_pairs.plan(options_of(make_coco(40), **more), 0)


def test_options_report_every_problem() -> None:
    with pytest.raises(ConfigError) as error:
        CocoPairsOptions(
            images="x", annotations="y", balance_ratios=True, label_set="panoptic",
            object_size=(0.2, 0.3),
        )  # fmt: skip
    assert len(error.value.problems) == 2


def test_broken_donors_cost_their_receiver_only_if_all_are(make_coco: Any) -> None:
    made = make_coco(30)
    options = options_of(made)
    task = coco_pairs.plan(options, 0).tasks[0]
    names = sorted({from_json(donor).name for donor in task.donors})
    assert len(names) > 1
    for name in names[1:]:
        (made.images / name).write_bytes(b"broken")
    assert coco_pairs.render(task, options, 0).hole_mask is not None
    (made.images / names[0]).unlink()
    with pytest.raises(ImageError, match="could be made to cover"):
        coco_pairs.render(task, options, 0)


def test_prepared_pairs_have_labels(tmp_path: Path, make_coco: Any, ray_local: None) -> None:
    options = options_of(make_coco(30))
    out = str(tmp_path / "out")
    manifest = prepare("coco_pairs", out=out, options=options, progress=lambda done, total: None)
    assert manifest.labels == ("nothing", "person")
    raw = json.loads((tmp_path / "out/manifest.json").read_text())
    assert raw["options"]["feather_px"] == 1.0
    arrays = PreparedDataset.open(out).load("train")
    assert arrays.labels is not None
    assert arrays.target_labels is not None
    assert (arrays.labels == 1).any(axis=(1, 2)).all()
    assert not arrays.target_labels.any()
    again = prepare("coco_pairs", out=out, options=options, progress=lambda done, total: None)
    assert again == manifest


# --- where things are placed


def random_boxes(rng: np.random.Generator, count: int) -> list[tuple[int, int, int, int]]:
    boxes = []
    for _ in range(count):
        left, top = (int(value) for value in rng.integers(0, [110, 80]))
        width, height = (int(value) for value in rng.integers(3, 40, 2))
        boxes.append((left, top, min(left + width, 120), min(top + height, 90)))
    return boxes


def test_windows_are_free_and_as_large_as_said(make_coco: Any) -> None:
    options = options_of(make_coco(3), size=16, window=0.2)
    photo = CocoPhoto(name="x", height=90, width=120, objects=())
    found = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        boxes = random_boxes(rng, seed % 6)
        taken = np.zeros((90, 120), np.bool_)
        for left, top, right, bottom in boxes:
            taken[top:bottom, left:right] = True
        largest = largest_window(photo, boxes, options)
        assert largest == brute_largest(taken, least=18)
        if not largest:
            continue
        found += 1
        for _ in range(10):
            window = random_window(photo, boxes, options, rng=rng)
            assert 18 <= window.side <= largest
            seen = taken[
                window.top : window.top + window.side, window.left : window.left + window.side
            ]
            assert seen.shape == (window.side, window.side)
            assert not seen.any()
    assert found > 40


def brute_largest(taken: np.ndarray, *, least: int) -> int:
    """The largest free square, by trying them all (photos of 90 pixels have cells of one)."""
    height, width = taken.shape
    for side in range(min(height, width), least - 1, -1):
        for top in range(height - side + 1):
            for left in range(width - side + 1):
                if not taken[top : top + side, left : left + side].any():
                    return side
    return 0


def standing(foot: float, height: float) -> Cut:
    """An object of a photo of 1000 rows."""
    box = (100, round(1000 * (foot - height)), 200, round(1000 * foot))
    thing = CocoObject(annotation_id=1, category="person", box=box, area_px=1.0)
    return Cut(CocoPhoto(name="x", height=1000, width=1000, objects=(thing,)), thing)


def test_the_context_is_learned_from_where_objects_stand() -> None:
    rng = np.random.default_rng(0)
    feet = rng.uniform(0.5, 0.95, 400)
    heights = np.exp(-3.0 + 2.0 * feet + 0.1 * rng.normal(size=400))
    fit = fit_context([standing(f, h) for f, h in zip(feet, heights, strict=True)], ["person"])
    context = fit["person"]
    assert context.slope == pytest.approx(2.0, abs=0.15)
    assert context.intercept == pytest.approx(-3.0, abs=0.1)
    assert context.spread == pytest.approx(0.1, abs=0.02)
    np.testing.assert_allclose(
        context.feet, np.quantile(feet, (np.arange(32) + 0.5) / 32), atol=1e-3
    )
    with pytest.raises(DatasetError, match="11 training objects of 'person'.*needs 12"):
        fit_context([standing(0.5, 0.1)] * 11, ["person"])


CONTEXT = Context(
    feet=tuple(np.linspace(0.4, 0.9, 32)), intercept=math.log(0.1), slope=0.0, spread=0.0
)


def test_feet_are_drawn_from_rows_that_are_shown() -> None:
    rng = np.random.default_rng(0)
    window = Window(top=500, left=0, side=200)
    drawn = [draw_foot(CONTEXT, 1000, window, rng=rng) for _ in range(200)]
    rows, heights = zip(*drawn, strict=True)
    assert 500 < min(rows) < 530
    assert 670 < max(rows) <= 700
    assert all(height == pytest.approx(100) for height in heights)
    sky = [draw_foot(CONTEXT, 1000, Window(0, 0, 200), rng=rng)[0] for _ in range(50)]
    assert 100 <= min(sky) < max(sky) <= 200


def test_a_given_height_decides_where_the_feet_are() -> None:
    sloped = Context(feet=CONTEXT.feet, intercept=-3.0, slope=2.0, spread=0.02)
    rng = np.random.default_rng(0)
    window = Window(top=300, left=0, side=700)
    for foot in (0.45, 0.6, 0.85):
        height = 1000 * math.exp(-3.0 + 2.0 * foot)
        rows = [draw_foot(sloped, 1000, window, rng=rng, height_px=height)[0] for _ in range(30)]
        assert np.mean(rows) == pytest.approx(1000 * foot, abs=15)


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no COCO photos beside the project")
def test_real_pairs_are_balanced_and_exact() -> None:
    options = CocoPairsOptions(
        images=str(REAL / "images"),
        annotations=str(REAL / "instances.json"),
        size=128,
        balance_ratios=True,
    )
    counts: Counter[int] = Counter()
    plan = coco_pairs.plan(options, 0)
    assert len(plan.tasks) > 130
    for task in plan.tasks:
        sample = coco_pairs.render(task, options, 0)
        changed = (sample.image != sample.target).any(axis=2)
        assert sample.hole_mask is not None
        assert (sample.hole_mask[changed] == 255).all()
        counts[int(10 * hole_ratio(sample.hole_mask))] += 1
    assert set(counts) == {0, 1, 2, 3}
    assert max(counts.values()) - min(counts.values()) <= 3
