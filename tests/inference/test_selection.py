"""Selecting without learning: against known objects, the same bits always, and people in photos."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from rayfill.inference.grabcut import cut
from rayfill.inference.selection import box_problem, select
from rayfill_data.codec import decode_photo
from rayfill_data.errors import RayfillError
from rayfill_data.sources.coco.objects import full_mask
from rayfill_data.sources.coco.read import read_instances

REAL = Path(__file__).parents[3] / "shared/data/coco_person"
UInt8 = NDArray[np.uint8]
Flags = NDArray[np.bool_]


def scene(height: int = 180, width: int = 240, *, seed: int = 0) -> tuple[UInt8, Flags]:
    """Return a striped thing of two colours with a gap, on a background that changes; and where."""
    rng = np.random.default_rng(seed)
    lines, columns = np.mgrid[:height, :width]
    ground = np.stack([90 + 60 * lines / height, 130 + 40 * columns / width, 0 * lines + 80], -1)
    truth = np.zeros((height, width), np.uint8)
    middle = (int(width * rng.uniform(0.4, 0.6)), int(height * rng.uniform(0.45, 0.55)))
    cv2.ellipse(
        truth, middle, (width // 9, height // 3), float(rng.uniform(-20, 20)), 0, 360, 1, -1
    )
    cv2.circle(truth, (middle[0], middle[1] - height // 4), height // 9, 1, -1)
    stripes = np.where(lines[..., None] // 12 % 2 == 0, (200, 40, 60), (60, 30, 150))
    photo = np.where(truth[..., None] > 0, stripes, ground) + rng.normal(0, 8, (height, width, 3))
    return photo.clip(0, 255).astype(np.uint8), truth > 0


def box_of(truth: Flags, loose: float = 0.05) -> tuple[float, float, float, float]:
    columns, lines = (np.flatnonzero(truth.any(axis=axis)) for axis in (0, 1))
    spans = []
    for places, end in zip((columns, lines), truth.shape[::-1], strict=True):
        slack = loose * len(range(places[0], places[-1] + 1))
        spans.append((max(0.0, places[0] - slack), min(float(end), places[-1] + 1 + slack)))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


def click_of(truth: Flags) -> tuple[float, float, int]:
    depth = cv2.distanceTransform(np.pad(truth.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    line, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return column + 0.5, line + 0.5, 1


def iou(mask: UInt8, truth: Flags) -> float:
    return float(((mask > 0) & truth).sum() / ((mask > 0) | truth).sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [1, 4])
def test_a_known_object_is_found_from_a_box_and_from_a_click(seed: int, scale: int) -> None:
    photo, truth = scene(seed=seed)
    photo = np.kron(photo, np.ones((scale, scale, 1), np.uint8))
    truth = np.kron(truth, np.ones((scale, scale), bool))
    by_box = select(photo, box=box_of(truth))
    assert by_box.dtype == np.uint8
    assert set(np.unique(by_box)) == {0, 255}
    assert iou(by_box, truth) > 0.95
    assert iou(select(photo, clicks=[click_of(truth)]), truth) > 0.8


def test_nothing_outside_the_box_is_selected() -> None:
    photo, truth = scene()
    left, top, right, bottom = box_of(truth, loose=-0.2)
    mask = select(photo, box=(left, top, right, bottom))
    mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = 0
    assert not mask.any()


def test_the_full_size_rim_follows_the_photo_and_not_the_small_one() -> None:
    photo = np.full((1200, 1600, 3), (40, 90, 60), np.uint8)
    truth = np.zeros((1200, 1600), np.uint8)
    cv2.ellipse(truth, (800, 600), (300, 420), 30, 0, 360, 1, -1)
    photo[truth > 0] = (190, 140, 90)
    mask = select(photo, box=box_of(truth > 0))
    assert iou(mask, truth > 0) > 0.995


def test_marks_have_the_last_word() -> None:
    photo = np.full((120, 160, 3), 120, np.uint8)
    photo[30:90, 20:60] = photo[30:90, 100:140] = (200, 60, 60)
    whole = (10.0, 20.0, 150.0, 100.0)
    left, right = (40.0, 60.0), (120.0, 60.0)
    mask = select(photo, box=whole, clicks=[(*left, 1), (*right, 0)])
    assert mask[60, 40] == 255
    assert mask[60, 120] == 0
    drawn = np.full((120, 160), 128, np.uint8)
    drawn[55:65, 35:45], drawn[25:95, 95:145] = 255, 0
    assert not (select(photo, box=whole, scribbles=drawn) > 0)[25:95, 95:145].any()
    truth = np.zeros((120, 160), bool)
    truth[30:90, 20:60] = True
    assert iou(select(photo, box=whole, scribbles=drawn), truth) > 0.9
    assert not select(photo, box=whole, scribbles=np.zeros((120, 160), np.uint8)).any()


def test_the_same_bits_whatever_else_opencv_was_asked() -> None:
    photo, truth = scene()
    box, click = box_of(truth), click_of(truth)
    first = select(photo, box=box), select(photo, clicks=[click])
    for seed in (0, 1, 12345):
        cv2.setRNGSeed(seed)
        cv2.randu(np.empty((9, 9), np.uint8), 0, 255)
        cv2.kmeans(
            np.random.default_rng(seed).random((50, 2), np.float32), 3, None,
            (cv2.TERM_CRITERIA_MAX_ITER, 3, 0), 2, cv2.KMEANS_RANDOM_CENTERS,
        )  # fmt: skip
        np.testing.assert_array_equal(select(photo, box=box), first[0])
        np.testing.assert_array_equal(select(photo, clicks=[click]), first[1])
    found: list[UInt8] = []
    threads = [
        threading.Thread(target=lambda: found.append(select(photo, box=box))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for mask in found:
        np.testing.assert_array_equal(mask, first[0])


def test_opencvs_generator_is_left_as_it_was() -> None:
    photo, truth = scene()

    def drawn() -> UInt8:
        return np.asarray(cv2.randu(np.empty((5, 5), np.uint8), 0, 255))

    cv2.setRNGSeed(7)
    expected = drawn()
    cv2.setRNGSeed(7)
    select(photo, box=box_of(truth), clicks=[click_of(truth)])
    np.testing.assert_array_equal(drawn(), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 2), (3, 3), (17, 900), (64, 64)])
@pytest.mark.parametrize("content", ["flat", "noise"])
def test_every_size_gives_a_mask_of_its_own(size: tuple[int, int], content: str) -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    if content == "flat":
        photo[:] = 77
    height, width = size
    for marks in (
        {"box": (0.0, 0.0, float(width), float(height))},
        {"box": (0.0, 0.0, 1.0, 1.0)},
        {"clicks": [(width - 0.001, height - 0.001, 1), (0.0, 0.0, 0)]},
        {"scribbles": np.full(size, 255, np.uint8)},
    ):
        mask = select(photo, **marks)  # type: ignore[arg-type]
        assert mask.shape == size
        assert mask.dtype == np.uint8


def test_a_guess_with_too_few_pixels_on_a_side_stays_as_it_is() -> None:
    photo, _ = scene(20, 20)
    labels = np.full((20, 20), cv2.GC_PR_FGD, np.uint8)
    for start in (np.zeros((20, 20), bool), np.ones((20, 20), bool)):
        np.testing.assert_array_equal(cut(photo, labels, start=start, rounds=2), start)


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ({}, "Nothing says what is meant: give a box, or a click on the object."),
        ({"clicks": [(5, 5, 0)]}, "Nothing says what is meant"),
        ({"scribbles": np.zeros((30, 40), np.uint8)}, "Nothing says what is meant"),
        (
            {"scribbles": np.zeros((40, 30), np.uint8)},
            "scribbles are 30x40 pixels, the photo 40x30",
        ),
        ({"clicks": [(40, 5, 1)]}, "Click [40, 5] lies outside the photo of 40x30"),
        ({"clicks": [(float("nan"), 5, 1)]}, "Click [nan, 5] lies outside"),
        ({"box": (0, 0, 41, 5)}, "Box [0, 0, 41, 5] lies outside the photo of 40x30"),
        ({"box": (0, -1, 4, 5)}, "Box [0, -1, 4, 5] lies outside"),
        ({"box": (0, 0, float("nan"), 5)}, "Box [0, 0, nan, 5] lies outside"),
        ({"box": (0, 0, float("inf"), 5)}, "Box [0, 0, inf, 5] lies outside"),
        ({"box": (9, 9, 9, 20)}, "Box [9, 9, 9, 20] is empty"),
        ({"box": (9, 9, 3, 20)}, "Box [9, 9, 3, 20] is empty"),
    ],
)
def test_what_says_nothing_or_lies_outside_is_refused(marks: Any, expected: str) -> None:
    with pytest.raises(RayfillError) as refused:
        select(np.zeros((30, 40, 3), np.uint8), **marks)
    assert expected in str(refused.value)
    if "box" in marks:
        assert box_problem(marks["box"], height=30, width=40) == str(refused.value)


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no COCO photos beside the project")
def test_people_in_photos_are_found_better_than_by_plain_grabcut() -> None:
    """Ten of the people that nothing was tuned on; all of them: benchmarks/selection.py."""
    names = {path.name for path in (REAL / "images").iterdir()}
    text = (REAL / "instances.json").read_bytes()
    found = read_instances(text, where="instances.json", photos=names).photos
    by_name = sorted(found, key=lambda photo: photo.name)
    boxes, clicks, plain = [], [], []
    people = []
    for photo in by_name:
        able = [
            thing
            for thing in photo.objects
            if thing.category == "person" and thing.area_px > 0.01 * photo.height * photo.width
        ]
        if able:
            people.append((photo, max(able, key=lambda thing: thing.area_px)))
    for photo, person in people[1::2][:10]:
        data = (REAL / "images" / photo.name).read_bytes()
        image = decode_photo(data, max_pixels=10**7).rgb
        truth = full_mask(person, photo, None) > 0
        boxes.append(iou(select(image, box=box_of(truth)), truth))
        clicks.append(iou(select(image, clicks=[click_of(truth)]), truth))
        plain.append(iou(plain_grabcut(image, box_of(truth)), truth))
    assert len(boxes) == 10
    assert np.mean(boxes) > np.mean(plain)
    assert np.median(boxes) > 0.6
    assert np.median(clicks) > 0.4


def plain_grabcut(image: UInt8, box: tuple[float, float, float, float]) -> UInt8:
    left, top, right, bottom = (round(edge) for edge in box)
    labels = np.zeros(image.shape[:2], np.uint8)
    labels[top:bottom, left:right] = cv2.GC_PR_FGD
    labels[0] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(image, labels, None, *models, 5, cv2.GC_INIT_WITH_MASK)
    return np.where(labels % 2 == 1, np.uint8(255), np.uint8(0))
