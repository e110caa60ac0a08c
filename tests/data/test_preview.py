from __future__ import annotations

from typing import Any

import numpy as np

from rayfill_data.preview import contact_sheet
from rayfill_data.reader import PreparedDataset


def test_a_sheet_shows_samples_of_every_split(make_dataset: Any) -> None:
    dataset = PreparedDataset.open(str(make_dataset(train=300, val=7, test=2)))
    sheet = contact_sheet(dataset, per_split=4)
    # 16-pixel samples, twelve times enlarged, image above target, three splits.
    assert sheet.shape == (3 * (28 + 2 * (192 + 6)), 4 * (192 + 6), 3)
    assert sheet.dtype == np.uint8
    np.testing.assert_array_equal(sheet, contact_sheet(dataset, per_split=4))


def test_the_hole_is_marked_and_the_target_is_not(make_dataset: Any) -> None:
    dataset = PreparedDataset.open(str(make_dataset(val=1)))
    arrays = dataset.load("val")
    sheet = contact_sheet(dataset, per_split=1)
    top = 28 + 2 * (192 + 6)  # below the training strip
    marked = sheet[top + 28 : top + 28 + 192 : 12, 6 : 6 + 192 : 12]
    target = sheet[top + 28 + 198 : top + 28 + 198 + 192 : 12, 6 : 6 + 192 : 12]
    np.testing.assert_array_equal(target, arrays.target[0])
    hole = arrays.hole_mask[0] > 0
    assert (marked != arrays.image[0]).any(axis=2)[hole].mean() > 0.95
    far = ~hole & (marked != 255).all(axis=2)
    np.testing.assert_array_equal(marked[far], arrays.image[0][far])
