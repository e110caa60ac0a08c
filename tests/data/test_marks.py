from __future__ import annotations

import collections
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from rayfill_data.contract import SPLITS
from rayfill_data.errors import ConfigError, DatasetError
from rayfill_data.masks import marks as drawn
from rayfill_data.masks.copy_paste import Pair, random_window
from rayfill_data.masks.hole import hole_ratio, sample_rng
from rayfill_data.masks.typeface import typeface_file
from rayfill_data.prepared.pipeline import prepare
from rayfill_data.prepared.reader import PreparedDataset
from rayfill_data.sources import MarksOptions, PhotosOptions, marks, photos
from rayfill_data.sources.bundled import bundled_photo
from rayfill_data.sources.spec import Sample

KINDS = tuple(drawn.MARK_SHARES)
FEW = MarksOptions(train=24, val=8, test=8)


def changes(pair: Pair | Sample) -> Any:
    """Largest difference of levels at each pixel."""
    assert pair.target is not None
    return np.abs(pair.image.astype(int) - pair.target).max(axis=2)


def distance_from(hole_mask: Any) -> Any:
    return cv2.distanceTransform(255 - hole_mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def as_jpeg(picture: Any, quality: int) -> Any:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


# --- one mark


@pytest.mark.parametrize("kind", KINDS)
def test_marks_of_all_sizes_hold_to_their_bounds(kind: str, make_picture: Any) -> None:
    for side in (32, 33, 47, 64, 96, 128, 191, 256):
        background = make_picture(side, side, seed=side)
        before = background.copy()
        for seed in range(6):
            pair = drawn.draw_mark(background, rng=np.random.default_rng(seed), kind=kind)
            again = drawn.draw_mark(background, rng=np.random.default_rng(seed), kind=kind)
            np.testing.assert_array_equal(pair.image, again.image)
            np.testing.assert_array_equal(pair.hole_mask, again.hole_mask)
            np.testing.assert_array_equal(pair.target, before)
            np.testing.assert_array_equal(background, before)
            assert pair.image.shape == (side, side, 3)
            assert pair.image.dtype == pair.hole_mask.dtype == np.uint8
            assert set(np.unique(pair.hole_mask)) == {0, 255}
            assert 0.64 / side <= hole_ratio(pair.hole_mask) <= 0.4


@pytest.mark.parametrize("kind", KINDS)
def test_what_changed_lies_in_the_hole_or_near_it(kind: str, make_picture: Any) -> None:
    inside = whole = rims = 0
    for seed in range(150):
        pair = drawn.draw_mark(
            make_picture(64, 64, seed=seed), rng=np.random.default_rng(seed), kind=kind
        )
        change = changes(pair)
        hole = pair.hole_mask > 0
        assert not change[distance_from(pair.hole_mask) > drawn.REACH_PX].any()
        inside += int((change[hole] ** 2).sum())
        whole += int((change**2).sum())
        rims += bool((change[~hole] > 8).any())
    assert inside > 0.85 * whole
    # A tight hole leaves something to see: that is what these marks are for.
    assert rims > 100


@pytest.mark.parametrize("level", [0, 60, 90, 127, 128, 165, 200, 255])
@pytest.mark.parametrize("kind", KINDS)
def test_marks_stand_out_from_any_gray(kind: str, level: int) -> None:
    background = np.full((64, 64, 3), level, np.uint8)
    for seed in range(20):
        pair = drawn.draw_mark(background, rng=np.random.default_rng(seed), kind=kind)
        change = np.abs(pair.image.astype(int) - level).mean(axis=2)
        # 90 levels, an opacity of at least 0.7, and the blur of lines of 1.8 px.
        assert change[pair.hole_mask > 0].max() > 35


def test_inks_are_far_from_what_they_cover() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        covered = rng.integers(0, 256, (1, 3), dtype=np.uint8)
        inks = rng.uniform(0, 255, (3, 3)).astype(np.float32)
        gaps = np.abs(inks - covered[0]).mean(axis=1)
        ink = drawn._contrasting(covered, inks)
        assert np.abs(ink - covered[0]).mean() > drawn.MIN_CONTRAST
        if (gaps > drawn.MIN_CONTRAST).any():
            np.testing.assert_array_equal(ink, inks[np.argmax(gaps > drawn.MIN_CONTRAST)])
        else:
            assert ink.tolist() in ([0.0] * 3, [255.0] * 3)


@pytest.mark.parametrize("kind", ["caption", "date_stamp"])
def test_holes_of_text_are_closed(kind: str, make_picture: Any) -> None:
    offsets = np.arange(-5, 6)
    disc = offsets[:, None] ** 2 + offsets**2 <= 25
    for seed in range(40):
        mask = drawn.draw_mark(
            make_picture(64, 64), rng=np.random.default_rng(seed), kind=kind
        ).hole_mask
        closed = ndimage.binary_closing(np.pad(mask > 0, 12), disc)[12:-12, 12:-12]
        np.testing.assert_array_equal(mask > 0, closed)


def test_kinds_have_their_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    coverage = np.zeros((32, 32), np.float32)
    coverage[8:16, 8:24] = 1
    layer = drawn._Layer(coverage, np.full(3, 255, np.float32), 1.0)
    seen: collections.Counter[str] = collections.Counter()
    for kind in KINDS:

        def count(_: Any, __: Any, kind: str = kind) -> Any:
            seen[kind] += 1
            return layer

        monkeypatch.setitem(drawn._DRAW, kind, count)
    background, rng, draws = np.zeros((32, 32, 3), np.uint8), np.random.default_rng(0), 4000
    for _ in range(draws):
        drawn.draw_mark(background, rng=rng)
    assert sum(drawn.MARK_SHARES.values()) == pytest.approx(1)
    for kind, share in drawn.MARK_SHARES.items():
        # Four standard deviations of a binomial.
        assert abs(seen[kind] / draws - share) < 4 * (share * (1 - share) / draws) ** 0.5


def test_a_missing_typeface_says_what_to_install() -> None:
    with pytest.raises(DatasetError, match="Install matplotlib again"):
        typeface_file("NoSuchFace")


# --- the source


def test_marks_share_the_split_by_photograph() -> None:
    plan = marks.plan(MarksOptions(), 0)
    of_photos = photos.plan(PhotosOptions(), 0)
    assert [(task.sample_id, task.path) for task in plan.tasks] == [
        (task.sample_id, task.path) for task in of_photos.tasks
    ]
    assert plan.labels == ("nothing", "mark")
    # The typefaces are inputs too.
    assert plan.inputs_hash != of_photos.inputs_hash
    for split in SPLITS:
        chosen = [task.hole_kind == "object" for task in plan.tasks if task.split == split]
        assert sum(chosen) == int(0.85 * len(chosen))


def test_samples_depend_on_seed_and_name_alone() -> None:
    tasks = marks.plan(FEW, 3).tasks
    many = MarksOptions(train=40, val=8, test=8)
    assert marks.plan(many, 3).tasks[:24] == tasks[:24]
    for task in tasks:
        sample, again = marks.render(task, FEW, 3), marks.render(task, many, 3)
        np.testing.assert_array_equal(sample.image, again.image)
        assert (marks.render(task, FEW, 4).image != sample.image).any()


@pytest.mark.parametrize("size", [32, 64, 100, 256])
def test_without_jpeg_the_target_is_the_crop(size: int) -> None:
    options = MarksOptions(size=size, train=12, val=6, test=6, jpeg_share=0.0)
    for task in marks.plan(options, 0).tasks:
        sample = marks.render(task, options, 0)
        rng = sample_rng(0, 0, task.sample_id)
        crop = random_window(bundled_photo(task.path), rng=rng, size_px=size)
        assert sample.labels is not None
        if task.hole_kind != "object":
            assert sample.target is None
            np.testing.assert_array_equal(sample.image, crop)
            assert (sample.hole_mask is None) == (task.split == "train")
            assert not sample.labels.any()
            continue
        assert sample.hole_mask is not None
        assert sample.target_labels is not None
        np.testing.assert_array_equal(sample.target, crop)
        np.testing.assert_array_equal(sample.labels, sample.hole_mask > 0)
        assert not sample.target_labels.any()
        assert changes(sample).max() > 30
        assert not changes(sample)[distance_from(sample.hole_mask) > drawn.REACH_PX].any()


def test_jpeg_reaches_the_blocks_of_what_changed_and_one_pixel_more() -> None:
    raw = MarksOptions(train=30, val=1, test=1, jpeg_share=0.0)
    stored = MarksOptions(train=30, val=1, test=1, jpeg_share=1.0)
    for task in marks.plan(raw, 0).tasks:
        before, after = marks.render(task, raw, 0), marks.render(task, stored, 0)
        clean = before.image if before.target is None else before.target
        # Image and target alike, in one quality between 65 and 92.
        assert any(
            np.array_equal(after.image, as_jpeg(before.image, quality))
            and np.array_equal(
                after.image if after.target is None else after.target, as_jpeg(clean, quality)
            )
            for quality in range(65, 93)
        )
        if before.target is None:
            assert after.target is None
            continue
        np.testing.assert_array_equal(before.hole_mask, after.hole_mask)
        changed = (changes(before) > 0).reshape(4, 16, 4, 16).any(axis=(1, 3))
        # Colour is stored at half the resolution, in blocks of 16 px, and interpolated between.
        blocks = ndimage.binary_dilation(np.kron(changed, np.ones((16, 16))), np.ones((3, 3)))
        assert not changes(after)[~blocks].any()


def test_half_of_the_crops_went_through_jpeg_marked_or_not() -> None:
    options = MarksOptions(train=300, val=1, test=1, marked_share=0.5)
    raw = MarksOptions(train=300, val=1, test=1, marked_share=0.5, jpeg_share=0.0)
    through: dict[str, list[bool]] = collections.defaultdict(list)
    for task in marks.plan(options, 0).tasks[:300]:
        image = marks.render(task, options, 0).image
        through[task.hole_kind].append(bool((image != marks.render(task, raw, 0).image).any()))
    assert {kind: len(each) for kind, each in through.items()} == {"object": 150, "irregular": 150}
    assert all(0.35 < np.mean(each) < 0.65 for each in through.values())


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="size is 16"):
        MarksOptions(size=16)
    with pytest.raises(ConfigError, match="marked_share is 1.5"):
        MarksOptions(marked_share=1.5)


def test_a_prepared_dataset_holds_them(tmp_path: Path, ray_local: None) -> None:
    options = MarksOptions(size=32, train=20, val=5, test=5)
    hashes = {
        prepare(
            "marks", out=str(tmp_path / name), options=options, progress=lambda *_: None
        ).content_hash
        for name in ("once", "twice")
    }
    assert len(hashes) == 1
    dataset = PreparedDataset.open(str(tmp_path / "once"))
    assert dataset.counts == {"train": 20, "val": 5, "test": 5}
    assert dataset.manifest.labels == ("nothing", "mark")
    assert dataset.load("train").has_mask.sum() == 17
    for split in ("val", "test"):
        assert dataset.load(split).has_mask.all()
