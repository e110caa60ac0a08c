from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from rayfill_data.errors import ConfigError
from rayfill_data.masks.hole import dilate, erode, hole_ratio, irregular_mask, sample_rng


def edt_dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    """The definition, by scipy: every pixel within the radius of a hole."""
    return np.where(ndimage.distance_transform_edt(mask == 0) <= radius, 255, 0)


@pytest.mark.parametrize("radius", [1, 2, 3, 5, 10, 19, 20, 21, 25, 33, 50])
def test_dilate_equals_scipy_in_every_pixel(radius: int) -> None:
    rng = np.random.default_rng(radius)
    for height, width in [(97, 128), (128, 61)]:
        mask = irregular_mask(height, width, rng=rng, ratio_range=(0.01, 0.1))
        mask[rng.integers(height), rng.integers(width)] = 255
        np.testing.assert_array_equal(dilate(mask, radius_px=radius), edt_dilated(mask, radius))


@pytest.mark.parametrize("radius", [1, 4, 20, 22])
def test_erode_equals_scipy_in_every_pixel(radius: int) -> None:
    mask = irregular_mask(90, 70, rng=np.random.default_rng(radius), ratio_range=(0.6, 0.8))
    expected = np.where(ndimage.distance_transform_edt(mask) > radius, 255, 0)
    np.testing.assert_array_equal(erode(mask, radius_px=radius), expected)


def test_radius_zero_and_negative() -> None:
    mask = irregular_mask(40, 40, rng=np.random.default_rng(0))
    same = dilate(mask, radius_px=0)
    np.testing.assert_array_equal(same, mask)
    assert same is not mask
    np.testing.assert_array_equal(dilate(mask, radius_px=-2), erode(mask, radius_px=2))
    np.testing.assert_array_equal(erode(mask, radius_px=-2), dilate(mask, radius_px=2))


@pytest.mark.parametrize("radius", [1, 30, 500])
def test_constant_masks_stay_constant(radius: int) -> None:
    empty, full = np.zeros((20, 30), np.uint8), np.full((20, 30), 255, np.uint8)
    for change in (dilate, erode):
        np.testing.assert_array_equal(change(empty, radius_px=radius), empty)
        np.testing.assert_array_equal(change(full, radius_px=radius), full)


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (17, 31), (178, 178)])
@pytest.mark.parametrize("ratio_range", [(0.05, 0.4), (0.02, 0.03), (0.5, 0.9), (0.25, 0.25)])
def test_irregular_ratio_lies_in_its_range(
    size: tuple[int, int], ratio_range: tuple[float, float]
) -> None:
    for seed in range(25):
        rng = np.random.default_rng(seed)
        mask = irregular_mask(*size, rng=rng, ratio_range=ratio_range)
        assert mask.shape == size
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 255}
        pixel = 1 / mask.size
        assert ratio_range[0] - 1e-9 <= hole_ratio(mask) <= ratio_range[1] + pixel


def test_irregular_ratios_fill_their_range_evenly() -> None:
    rng = np.random.default_rng(0)
    ratios = [hole_ratio(irregular_mask(64, 64, rng=rng)) for _ in range(600)]
    counts, _ = np.histogram(ratios, bins=5, range=(0.05, 0.4))
    assert counts.min() > 80


def test_irregular_holes_are_strokes_not_dust() -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        mask = irregular_mask(128, 128, rng=rng)
        _, pieces = ndimage.label(mask)
        assert pieces <= 12


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (1, 50), (50, 1), (2, 2), (3, 500)])
def test_irregular_on_tiny_pictures(size: tuple[int, int]) -> None:
    for ratio_range in [(0.05, 0.4), (0.9, 0.95), (1e-6, 1e-5)]:
        mask = irregular_mask(*size, rng=np.random.default_rng(0), ratio_range=ratio_range)
        assert mask.any()
        assert mask.size == 1 or not mask.all()


@pytest.mark.parametrize("ratio_range", [(0.0, 0.4), (0.4, 0.05), (0.5, 1.0), (-0.1, 0.2)])
def test_irregular_refuses_a_range_that_is_none(ratio_range: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="least and the greatest, both in \\(0, 1\\)"):
        irregular_mask(8, 8, rng=np.random.default_rng(0), ratio_range=ratio_range)


def test_sample_rng_is_the_same_in_every_process() -> None:
    code = (
        "from rayfill_data.masks.hole import sample_rng\n"
        "print(sample_rng(7, 3, 'a/ä').integers(2**62))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(there.stdout) == sample_rng(7, 3, "a/ä").integers(2**62)


def test_sample_rng_depends_on_all_of_its_key() -> None:
    keys = [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"), (0, 0, "0/a"), (0, 0, "")]
    assert len({int(sample_rng(*key).integers(2**62)) for key in keys}) == len(keys)


def test_hole_ratio_counts_pixels() -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[:2] = 255
    assert hole_ratio(mask) == 0.2
