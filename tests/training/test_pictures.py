"""The sheets that MLflow shows of validation samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rayfill.models.batch import TensorBatch
from rayfill.training.pictures import picture_sheets
from rayfill_data.codec import to_uint8


def samples(height: int, width: int) -> tuple[TensorBatch, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, target, prediction = torch.rand(3, 2, 3, height, width, generator=generator)
    hole = torch.zeros(2, 1, height, width)
    hole[0, :, 2:5, 3:7] = 1
    hole[1] = 1
    return TensorBatch(image=image, target=target, hole_mask=hole, sample_id=("a", "b")), prediction


@pytest.mark.parametrize(("height", "width", "factor"), [(20, 32, 8), (256, 200, 1), (300, 520, 1)])
def test_a_sheet_holds_the_four_pictures_pixel_for_pixel(
    height: int, width: int, factor: int
) -> None:
    batch, prediction = samples(height, width)
    sheets = picture_sheets(batch, prediction)
    assert len(sheets) == 2
    wide, high = width * factor, height * factor
    title = 22  # an 18-pixel line
    assert sheets[0].shape == (6 + 2 * (title + high + 6), 6 + 2 * (wide + 6), 3)
    composite = batch.hole_mask * prediction + (1 - batch.hole_mask) * batch.image
    white = batch.hole_mask + (1 - batch.hole_mask) * batch.image
    places = {(0, 0): white, (0, 1): composite, (1, 0): batch.target, (1, 1): prediction}
    for index, sheet in enumerate(sheets):
        for (row, column), expected in places.items():
            y, x = 6 + title + row * (title + high + 6), 6 + column * (wide + 6)
            part = sheet[y : y + high : factor, x : x + wide : factor]
            assert np.array_equal(part, to_uint8(expected.numpy())[index])
            assert (sheet[y - title : y, x : x + wide] < 128).any()  # something is written there
