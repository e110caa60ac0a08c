from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from rayfill_data.masks.distance import signed_distance, signed_distance_px
from rayfill_data.masks.hole import irregular_mask


def oracle_px(mask: np.ndarray) -> np.ndarray:
    hole = mask > 0
    outside, inside = distance_transform_edt(~hole), distance_transform_edt(hole)
    return np.where(hole, 0.5 - inside, outside - 0.5)


@pytest.mark.parametrize("shape", [(64, 64), (33, 97), (256, 256)])
def test_distance_equals_scipy(shape: tuple[int, int]) -> None:
    for seed in range(20):
        mask = irregular_mask(*shape, rng=np.random.default_rng(seed))
        found, expected = signed_distance_px(mask), oracle_px(mask)
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < 1e-4
        unit = signed_distance(mask)
        assert (unit.min(), unit.max()) == (-1, 1)
        hole = mask > 0
        for side in (hole, ~hole):
            share = expected[side] / np.abs(expected[side]).max()
            assert np.abs(unit[side] - share).max() < 1e-5


def test_the_outline_lies_halfway_between_pixels() -> None:
    mask = np.zeros((1, 6), np.uint8)
    mask[0, 2:4] = 255
    np.testing.assert_array_equal(signed_distance_px(mask), [[1.5, 0.5, -0.5, -0.5, 0.5, 1.5]])
    np.testing.assert_array_equal(signed_distance_px(255 - mask), -signed_distance_px(mask))


@pytest.mark.parametrize(("value", "sign"), [(0, 1), (255, -1)])
def test_constant_masks_are_defined(value: int, sign: int) -> None:
    mask = np.full((30, 40), value, np.uint8)
    np.testing.assert_array_equal(signed_distance(mask), np.full((30, 40), sign, np.float32))
    np.testing.assert_array_equal(signed_distance_px(mask), np.full((30, 40), 50.0 * sign))
