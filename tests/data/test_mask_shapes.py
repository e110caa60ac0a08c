from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from rayfill_data.errors import ConfigError
from rayfill_data.masks.hole import hole_ratio, irregular_mask, sample_rng
from rayfill_data.masks.shapes import MASKS, draw_mask, lines_mask
from rayfill_data.prepared.batches import AugmentOptions, prepared_masks, training_batches


def drawn(name: str, size: tuple[int, int], seed: int, **options: object) -> np.ndarray:
    return draw_mask(name, *size, rng=np.random.default_rng(seed), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("size", [(64, 64), (178, 178), (32, 32), (40, 97), (97, 40)])
def test_every_generator_gives_a_hole_and_leaves_something(
    name: str, size: tuple[int, int]
) -> None:
    for seed in range(20):
        mask = drawn(name, size, seed)
        assert mask.shape == size
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 255}
        np.testing.assert_array_equal(mask, drawn(name, size, seed))
    assert len({drawn(name, size, seed).tobytes() for seed in range(20)}) > 15


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("ratio_range", [(0.1, 0.2), (0.02, 0.03), (0.5, 0.8), (0.3, 0.3)])
def test_every_generator_honours_a_ratio_range(name: str, ratio_range: tuple[float, float]) -> None:
    for seed in range(12):
        mask = drawn(name, (64, 48), seed, ratio_range=ratio_range)
        low, high = ratio_range
        assert math.ceil(low * mask.size) <= np.count_nonzero(mask)
        assert np.count_nonzero(mask) <= max(
            math.floor(high * mask.size), math.ceil(low * mask.size)
        )


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (1, 60), (60, 1), (3, 3)])
def test_every_generator_on_tiny_pictures(name: str, size: tuple[int, int]) -> None:
    for ratio_range in (None, (0.05, 0.4)):
        mask = drawn(name, size, 0, ratio_range=ratio_range)
        assert mask.any()
        assert mask.size == 1 or not mask.all()


@pytest.mark.parametrize("name", MASKS)
def test_every_generator_refuses_a_range_that_is_none(name: str) -> None:
    with pytest.raises(ConfigError, match="least and the greatest, both in \\(0, 1\\)"):
        drawn(name, (8, 8), 0, ratio_range=(0.4, 0.1))


def test_an_unknown_generator_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'lines_thin'"):
        drawn("lines_tin", (8, 8), 0)


def test_irregular_is_the_generator_it_always_was() -> None:
    expected = irregular_mask(50, 60, rng=np.random.default_rng(3))
    np.testing.assert_array_equal(drawn("irregular", (50, 60), 3), expected)


def test_a_square_is_one_square_between_an_eighth_and_a_half() -> None:
    sides = set()
    for seed in range(400):
        rows, columns = np.nonzero(drawn("square", (32, 32), seed))
        high, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert high == wide
        assert len(rows) == high * wide
        sides.add(int(high))
    assert sides == set(range(4, 17))


def test_squares_stay_square_within_a_range() -> None:
    for seed in range(50):
        rows, columns = np.nonzero(drawn("square", (64, 64), seed, ratio_range=(0.05, 0.4)))
        assert (np.ptp(rows) + 1) * (np.ptp(columns) + 1) == len(rows)
        assert np.ptp(rows) == np.ptp(columns)


def test_lines_are_straight_and_as_thick_as_asked() -> None:
    for seed in range(30):
        mask = lines_mask(
            178, 178, rng=np.random.default_rng(seed), thickness_px=(7, 12), count=(1, 1)
        )
        rows, columns = np.nonzero(mask)
        spread = np.linalg.svd(np.stack([rows, columns]).T - [rows.mean(), columns.mean()])[1]
        # The standard deviation across a stripe is its width / sqrt(12); round ends make it less.
        assert spread[1] / math.sqrt(len(rows)) < 14 / math.sqrt(12)
        inner = 2 * ndimage.distance_transform_edt(np.pad(mask, 1)).max()
        assert 5 <= inner <= 15


def test_the_second_phase_of_lines_hides_more_than_the_first() -> None:
    thin = [hole_ratio(drawn("lines_thin", (178, 178), seed)) for seed in range(60)]
    thick = [hole_ratio(drawn("lines_thick", (178, 178), seed)) for seed in range(60)]
    assert np.mean(thin) < 0.09
    assert 0.12 < np.mean(thick) < 0.35
    assert max(np.median(thin), 0.02) < np.min(thick)


def test_lines_hide_as_much_of_a_small_picture_as_of_the_report_s_178_pixels() -> None:
    small = [hole_ratio(drawn("lines_thick", (64, 64), seed)) for seed in range(60)]
    report = [hole_ratio(drawn("lines_thick", (178, 178), seed)) for seed in range(60)]
    assert abs(np.mean(small) - np.mean(report)) < 0.05


def test_lama_presets_are_thin_medium_and_thick() -> None:
    widths = []
    for name in ("lama_thin", "lama_medium", "lama_thick"):
        masks = [drawn(name, (256, 256), seed) for seed in range(40)]
        assert max(hole_ratio(mask) for mask in masks) <= 0.7
        inner = [ndimage.distance_transform_edt(np.pad(mask, 1)).max() for mask in masks]
        widths.append(np.median(inner))
    assert widths[0] < 0.7 * widths[1]
    assert widths[1] < 0.8 * widths[2]


def test_strokes_run_in_every_direction() -> None:
    total = np.zeros((64, 64))
    for seed in range(400):
        total += drawn("strokes", (64, 64), seed) > 0
    halves = [total[:, :32], total[:, 32:], total[:32], total[32:]]
    sums = np.array([half.sum() for half in halves])
    assert sums.min() > 0.85 * sums.max()


@pytest.mark.parametrize("name", ["lama_thin", "lama_medium", "lama_thick", "strokes"])
def test_brushes_scale_with_the_picture(name: str) -> None:
    small = np.mean([hole_ratio(drawn(name, (128, 128), seed)) for seed in range(40)])
    large = np.mean([hole_ratio(drawn(name, (512, 512), seed)) for seed in range(40)])
    assert 0.75 < small / large < 1.33


def test_training_draws_with_the_generator_of_the_dataset(make_dataset: object) -> None:
    from rayfill_data.prepared.reader import PreparedDataset

    arrays = PreparedDataset.open(str(make_dataset())).load("train")  # type: ignore[operator]
    augment = AugmentOptions(flip=False, masks="square")
    seen = 0
    for batch in training_batches(arrays, batch_size=5, seed=1, epoch=2, augment=augment):
        for name, mask in zip(batch.sample_id, batch.hole_mask, strict=True):
            if arrays.has_mask[arrays.sample_id.index(name)]:
                continue
            rng = sample_rng(1, 2, name)
            rng.random()
            rng.uniform(-1, 1, 3)
            expected = draw_mask("square", 16, 16, rng=rng)
            np.testing.assert_array_equal(mask[0] * 255, expected)
            seen += 1
    assert seen >= 10


def test_what_a_manifest_says_about_its_masks() -> None:
    assert prepared_masks({}) == ("irregular", None)
    assert prepared_masks({"mask_ratio": [0.1, 0.3]}) == ("irregular", (0.1, 0.3))
    assert prepared_masks({"masks": "square", "mask_ratio": None}) == ("square", None)
    assert prepared_masks({"masks": "both", "mask_ratio": [0.1, 0.3]}) == ("irregular", (0.1, 0.3))


def test_unknown_generators_are_refused_in_training() -> None:
    with pytest.raises(ConfigError, match="sqare"):
        AugmentOptions(masks="sqare")
