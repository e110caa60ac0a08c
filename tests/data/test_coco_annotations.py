"""COCO's annotations: what is good decodes as pycocotools does it, what is not never gets there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rayfill_data.errors import DatasetError
from rayfill_data.sources.coco.objects import from_json, full_mask, object_mask, to_json
from rayfill_data.sources.coco.outlines import read_polygons, read_runs
from rayfill_data.sources.coco.read import CocoSet, read_instances, read_panoptic, too_many_rejected
from rayfill_data.sources.coco.runs import OutlineError, uncompressed

REAL = Path(__file__).parents[3] / "shared/data/coco_person"
HEIGHT, WIDTH = 90, 120

# pycocotools 2.0.11 decodes with a numpy call of old; Rayfill itself does not use it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")


def read(raw: Any, **photos: Any) -> CocoSet:
    names = photos.get("photos", {image["file_name"] for image in raw["images"]})
    return read_instances(json.dumps(raw).encode(), where="x.json", photos=names)


def reference(outline: Any, height: int, width: int) -> np.ndarray:
    """The whole frame by pycocotools alone."""
    if isinstance(outline, list):
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outline, height, width)))
    if isinstance(outline["counts"], list):
        return coco_mask.decode(coco_mask.frPyObjects(outline, height, width))
    return coco_mask.decode(outline)


def with_outline(raw: dict[str, Any], outline: Any, **more: Any) -> dict[str, Any]:
    raw["annotations"][0] |= {"segmentation": outline, **more}
    return raw


def random_outline(rng: np.random.Generator) -> list[list[float]]:
    """One to three polygons, some across the picture's edge, half of them on a coarse grid."""
    outlines = []
    for _ in range(int(rng.integers(1, 4))):
        points = rng.uniform([-30, -30], [WIDTH + 30, HEIGHT + 30], (int(rng.integers(3, 20)), 2))
        outlines.append(np.round(points, int(rng.integers(0, 3))).ravel().tolist())
    return outlines


def test_polygons_equal_pycocotools_in_every_pixel(make_coco: Any) -> None:
    made = make_coco(3)
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(400):
        outline = random_outline(rng)
        found = read(with_outline(made.raw, outline))
        expected = reference(outline, HEIGHT, WIDTH)
        photo = from_json(to_json(found.photos[0]))
        things = [thing for thing in photo.objects if thing.annotation_id == 0]
        if not things:
            assert not expected.any()
            continue
        mask = full_mask(things[0], photo, None)
        np.testing.assert_array_equal(mask, expected)
        compared += bool(mask.any())
    assert compared > 300


@pytest.mark.parametrize("compressed", [True, False])
def test_run_lengths_equal_pycocotools(make_coco: Any, compressed: bool) -> None:
    made = make_coco(3)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        mask = np.asfortranarray(rng.random((HEIGHT, WIDTH)) < rng.uniform(0.001, 0.999), np.uint8)
        if seed % 2:
            mask[:, : int(rng.integers(WIDTH))] = 0
        encoded = coco_mask.encode(mask)
        counts = encoded["counts"].decode()
        runs = uncompressed(counts.encode()).tolist()
        outline = {"size": [HEIGHT, WIDTH], "counts": counts if compressed else runs}
        found = read(with_outline(made.raw, outline, iscrowd=1))
        photo, thing = found.photos[0], found.photos[0].objects[0]
        np.testing.assert_array_equal(full_mask(thing, photo, None), mask)
        assert object_mask(thing, photo, None).shape == (thing.height, thing.width)
        left, top, wide, high = (int(side) for side in coco_mask.toBbox(encoded))
        assert thing.box == (left, top, left + wide, top + high)
        assert thing.area_px == mask.sum()
        assert found.crowds == 1
        assert thing.crowd


BAD_OUTLINES = [
    ([[0, 0, 10, 0, 10, float("nan")]], "finite"),
    ([[0, 0, 10, 0, 10, float("inf")]], "finite"),
    ([[0, 0, 10, 0, 10]], "5 coordinates, an odd number"),
    ([[0, 0, 10, 10]], "2 points"),
    ([[0, 0, 10, 0, 1e9, 1e9]], "far outside"),
    ([[0, 0, 10, 0, 10, -(10**400)]], "finite"),
    ([[0, 0, 10, 0, 10, True]], "finite"),
    ([[0, 0, 10, 0, 10, "7"]], "finite"),
    ([["garbage"]], "finite"),
    ([None], "finite"),
    ([], "no outline"),
    ([[130, 5, 140, 5, 140, 20]], "covers no pixel"),
    ([[5.75, 5, 5.95, 5, 5.95, 20]], "covers no pixel"),
    (None, "neither polygons nor run lengths"),
    ("polygon", "neither polygons nor run lengths"),
    ({"counts": "abc"}, "are for size None"),
    ({"size": [90, 121], "counts": "abc"}, r"are for size \[90, 121\]"),
    ({"size": "90x120", "counts": [10800]}, "are for size '90x120'"),
    ({"size": [90, 120], "counts": "garbage, no run lengths at all"}, "garbage"),
    ({"size": [90, 120], "counts": "ooooooooooooooooo0"}, "garbage"),
    ({"size": [90, 120], "counts": "\u00e9\u4f60"}, "fill|garbage"),
    ({"size": [90, 120], "counts": "o"}, "garbage"),
    ({"size": [90, 120], "counts": ""}, "do not fill"),
    ({"size": [90, 120], "counts": []}, "do not fill"),
    ({"size": [90, 120], "counts": [5, 5]}, "do not fill"),
    ({"size": [90, 120], "counts": [10900, -100]}, "do not fill"),
    ({"size": [90, 120], "counts": [10**30]}, "do not fill"),
    ({"size": [90, 120], "counts": [5.0, 10795.0]}, "neither a string nor"),
    ({"size": [90, 120], "counts": {"a": 1}}, "neither a string nor"),
    ({"size": [90, 120], "counts": [10800]}, "mark no pixel"),
    ({"size": [90, 120], "counts": [10800, 0]}, "mark no pixel"),
]


@pytest.mark.parametrize(("outline", "why"), BAD_OUTLINES)
def test_a_bad_outline_costs_its_annotation_alone(make_coco: Any, outline: Any, why: str) -> None:
    made = make_coco(3)
    found = read(with_outline(made.raw, outline))
    ((what, reason),) = found.rejected
    assert what == "x.json: annotation 0"
    assert re.search(why, reason)
    assert sum(len(photo.objects) for photo in found.photos) == 5
    assert found.entries == 9


BAD_ENTRIES = [
    ("annotations", {"id": 1}, "id is used twice"),
    ("annotations", {"id": "seven"}, "id is 'seven', not a whole number"),
    ("annotations", {"image_id": 7}, "image 7 is not in the file"),
    ("annotations", {"image_id": None}, "image_id is None"),
    ("annotations", {"category_id": 99}, "category 99 is not in the file"),
    ("annotations", {"iscrowd": 3}, "iscrowd is 3"),
    ("images", {"id": 101}, "used twice"),
    ("images", {"file_name": "00001.png"}, "used twice"),
    ("images", {"file_name": "../../secret.png"}, "not in the folder"),
    ("images", {"file_name": None}, "file_name is None"),
    ("images", {"height": 0}, "size is 120x0"),
    ("images", {"width": 10**9}, "size is"),
    ("images", {"height": 1.5}, "height is 1.5"),
]


@pytest.mark.parametrize(("key", "change", "why"), BAD_ENTRIES)
def test_a_bad_entry_is_left_out_and_listed(
    make_coco: Any, key: str, change: dict[str, Any], why: str
) -> None:
    made = make_coco(3)
    names = {image["file_name"] for image in made.raw["images"]}
    # The last entry, so that one used twice is the second.
    place = -1 if change in ({"id": 1}, {"id": 101}, {"file_name": "00001.png"}) else 0
    made.raw[key][place] |= change
    found = read(made.raw, photos=names)
    assert any(why in reason for _, reason in found.rejected)
    kept = sum(len(photo.objects) for photo in found.photos)
    assert kept == (5 if key == "annotations" else 4)
    assert len(found.rejected) == (1 if key == "annotations" else 3)


def test_photos_that_are_not_there_are_listed(make_coco: Any) -> None:
    made = make_coco(4)
    found = read(made.raw, photos={"00000.png", "00002.png"})
    assert [photo.name for photo in found.photos] == ["00000.png", "00002.png"]
    reasons = [reason for _, reason in found.rejected]
    assert sum("is not in the folder of photos" in reason for reason in reasons) == 2
    assert sum("was left out" in reason for reason in reasons) == 4
    assert too_many_rejected(found, 0.5) == []
    (problem,) = too_many_rejected(found, 0.49)
    assert "6 of 12 entries cannot be used, 5 are allowed" in problem
    assert "--max-rejected" in problem


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1, 2]", "JSON but no table"),
        (b"{}", "images is not a list of entries; annotations is not.*; categories is not"),
        (b'{"images": [], "annotations": [1], "categories": [1]}', "images is not a list"),
    ],
)
def test_files_that_are_not_coco(data: bytes, why: str) -> None:
    with pytest.raises(DatasetError, match=why):
        read_instances(data, where="x.json", photos=())


@pytest.mark.parametrize(
    ("categories", "why"),
    [
        ([7], "no whole number as id"),
        ([{"id": 1}], "category 1 has no name"),
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "ids are used twice"),
        ([{"id": 1, "name": "a"}, {"id": 2, "name": "a"}], "names are used twice"),
    ],
)
def test_tables_of_categories_that_mean_nothing(make_coco: Any, categories: Any, why: str) -> None:
    made = make_coco(3)
    made.raw["categories"] = categories
    with pytest.raises(DatasetError, match=why):
        read(made.raw)


def test_the_wrong_kind_of_file_is_told(make_coco: Any, make_panoptic: Any) -> None:
    made, panoptic = make_coco(3), make_panoptic(3, name="panoptic")
    with pytest.raises(DatasetError, match="give --panoptic-masks"):
        read(panoptic.raw)
    with pytest.raises(DatasetError, match="leave --panoptic-masks out"):
        read_panoptic(json.dumps(made.raw).encode(), where="x", photos=(), pictures=())


def test_panoptic_segments_are_the_colours_of_the_png(make_panoptic: Any) -> None:
    made = make_panoptic(3)
    names = {image["file_name"] for image in made.raw["images"]}
    found = read_panoptic(
        json.dumps(made.raw).encode(), where="p.json", photos=names, pictures=names
    )
    assert found.rejected == ()
    for photo in found.photos:
        rgb = made.picture(photo.panoptic_name)
        for thing in photo.objects:
            colour = [thing.segment % 256, thing.segment // 256 % 256, thing.segment // 65536]
            expected = (rgb == colour).all(axis=2)
            np.testing.assert_array_equal(full_mask(thing, photo, rgb), expected)
            assert expected.any()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"id": 0}, "no colour"),
        ({"id": 2**24}, "no colour"),
        ({"id": "x"}, "not a whole number"),
        ({"category_id": 5}, "category 5 is not in the file"),
        ({"bbox": [0, 0, 200, 10]}, "does not lie in"),
        ({"bbox": [0, 0, float("nan"), 10]}, "not four finite numbers"),
        ({"bbox": None}, "not four finite numbers"),
        ({"area": -5}, "area is -5"),
    ],
)
def test_bad_segments_are_left_out(make_panoptic: Any, change: dict[str, Any], why: str) -> None:
    made = make_panoptic(3)
    made.raw["annotations"][1]["segments_info"][0] |= change
    names = {image["file_name"] for image in made.raw["images"]}
    found = read_panoptic(json.dumps(made.raw).encode(), where="p", photos=names, pictures=names)
    ((what, reason),) = found.rejected
    assert "annotation of image 101, segment" in what
    assert why in reason


def test_panoptic_annotations_that_do_not_fit(make_panoptic: Any) -> None:
    made = make_panoptic(5)
    annotations = made.raw["annotations"]
    annotations[0]["file_name"] = "gone.png"
    annotations[1]["segments_info"] = "none"
    annotations.append(dict(annotations[2]))
    annotations.pop(3)
    names = {image["file_name"] for image in made.raw["images"]}
    found = read_panoptic(json.dumps(made.raw).encode(), where="p", photos=names, pictures=names)
    reasons = " ".join(reason for _, reason in found.rejected)
    for why in ("'gone.png' is not in", "no list of", "two annotations", "no panoptic annotation"):
        assert why in reasons
    assert [photo.name for photo in found.photos] == ["00002.png", "00004.png"]


def test_seeded_garbage_is_never_a_crash(make_coco: Any) -> None:
    """Fault 32: whatever passes validation decodes in this very process, to 0 and 1 only."""
    made = make_coco(3)
    passed = 0
    for seed in range(1500):
        rng = np.random.default_rng([32, seed])
        raw = with_outline(made.raw, garbage(rng), iscrowd=int(rng.integers(2)))
        found = read(raw)
        for thing in found.photos[0].objects:
            mask = full_mask(thing, found.photos[0], None)
            assert mask.shape == (HEIGHT, WIDTH)
            assert mask.max(initial=0) <= 1
            passed += thing.annotation_id == 0
        assert len(found.rejected) <= 1
    assert 150 < passed < 1350


def garbage(rng: np.random.Generator) -> Any:
    """Outlines between nearly good and nonsense."""
    numbers = rng.choice([-1e9, -50, -3.5, 0, 0.1, 17, 44.9, 89, 120, 170, 1e300], (24,))
    numbers = np.where(rng.random(24) < 0.7, rng.uniform(-20, 130, 24), numbers)
    draw = int(rng.integers(5))
    if draw == 0:
        return [numbers[: int(rng.integers(25))].tolist() for _ in range(int(rng.integers(4)))]
    if draw == 1:
        length = int(rng.integers(1, 60))
        text = bytes(rng.integers(48, 112, length, dtype=np.uint8)).decode()
        return {"size": [HEIGHT, WIDTH], "counts": text}
    mask = np.asfortranarray(rng.random((HEIGHT, WIDTH)) < 0.5, np.uint8)
    counts = coco_mask.encode(mask)["counts"]
    if draw == 2:
        spoiled = bytearray(counts)
        for _ in range(int(rng.integers(3))):
            spoiled[int(rng.integers(len(spoiled)))] = int(rng.integers(32, 127))
        return {"size": [HEIGHT, WIDTH], "counts": spoiled.decode()}
    if draw == 3:
        return {"size": [HEIGHT, WIDTH], "counts": counts.decode()[: int(rng.integers(9)) - 4]}
    runs = rng.integers(0, 500, 40)
    runs[-1] += (HEIGHT * WIDTH - runs.sum()) * int(rng.integers(2))
    return {"size": [HEIGHT, WIDTH], "counts": runs.tolist()}


def test_outlines_say_their_area_and_box() -> None:
    square = [[10.0, 20.0, 30.0, 20.0, 30.0, 50.0, 10.0, 50.0]]
    _, box, area = read_polygons(square, height=HEIGHT, width=WIDTH)
    assert (box, area) == ((10, 20, 30, 50), 600.0)
    with pytest.raises(OutlineError):
        read_runs({}, height=HEIGHT, width=WIDTH)


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no COCO photos beside the project")
def test_real_annotations_equal_pycocotools_in_every_pixel() -> None:
    data = (REAL / "instances.json").read_bytes()
    names = {path.name for path in (REAL / "images").iterdir()}
    found = read_instances(data, where="instances.json", photos=names)
    assert found.rejected == ()
    assert (len(found.photos), found.crowds) == (215, 24)
    raw = {entry["id"]: entry["segmentation"] for entry in json.loads(data)["annotations"]}
    compared = 0
    for photo in found.photos:
        for thing in photo.objects:
            expected = reference(raw[thing.annotation_id], photo.height, photo.width)
            np.testing.assert_array_equal(full_mask(thing, photo, None), expected)
            compared += 1
    assert compared == 2205
