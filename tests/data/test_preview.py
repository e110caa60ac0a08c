from __future__ import annotations

from typing import Any

import numpy as np

from rayfill_data.prepared.preview import _coloured, _rows, _sheet_rows, contact_sheet
from rayfill_data.prepared.reader import PreparedDataset

HEADING = 2 * 6 + 20  # pixels


def test_a_sheet_shows_samples_of_every_split(make_dataset: Any) -> None:
    dataset = PreparedDataset.open(str(make_dataset(train=300, val=7, test=2)))
    sheet = contact_sheet(dataset, per_split=4)
    # 16-pixel samples, twelve times enlarged: marked image, image, target; three splits.
    assert sheet.shape == (6 + 3 * (HEADING + 3 * (192 + 6)), 6 + 4 * (192 + 6), 3)
    assert sheet.dtype == np.uint8
    np.testing.assert_array_equal(sheet, contact_sheet(dataset, per_split=4))


def test_samples_that_come_in_turns_all_have_a_chance(make_dataset: Any) -> None:
    dataset = PreparedDataset.open(str(make_dataset(train=144)))
    names = list(dataset.load("train").sample_id)
    shown = [names.index(row["sample_id"]) for row in _rows(dataset, "train", 24)]
    assert [place // 6 for place in shown] == list(range(24))
    for period in (2, 3, 6):
        assert len({place % period for place in shown}) == period


def test_the_hole_is_marked_and_the_target_is_not(make_dataset: Any) -> None:
    dataset = PreparedDataset.open(str(make_dataset(val=1)))
    arrays = dataset.load("val")
    sheet = contact_sheet(dataset, per_split=1)
    top = 6 + HEADING + 3 * (192 + 6) + HEADING  # below the training split and a heading
    marked, image, target = (
        sheet[top + row * 198 : top + row * 198 + 192 : 12, 6 : 6 + 192 : 12] for row in range(3)
    )
    np.testing.assert_array_equal(image, arrays.image[0])
    np.testing.assert_array_equal(target, arrays.target[0])
    hole = arrays.hole_mask[0] > 0
    assert (marked != arrays.image[0]).any(axis=2)[hole].mean() > 0.95
    far = ~hole & (marked != 255).all(axis=2)
    np.testing.assert_array_equal(marked[far], arrays.image[0][far])


def test_labels_have_colours_of_their_own() -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colours = _coloured(labels).reshape(-1, 3)
    assert colours[0].tolist() == [0, 0, 0]
    assert colours[255].tolist() == [255, 255, 255]
    assert len({tuple(colour) for colour in colours[:134]}) == 134


def test_a_set_of_pictures_alone_has_two_rows(make_dataset: Any, make_rows: Any) -> None:
    dataset = PreparedDataset.open(str(make_dataset()))
    rows = [row | {"target": None, "labels": row["hole_mask"]} for row in make_rows(2)]
    plain = _sheet_rows(dataset, "val", [row | {"labels": None} for row in rows])
    assert [len(row.tiles) for row in plain] == [2, 2]
    assert [row.heading for row in plain] == ["val: 7", ""]
    assert len(_sheet_rows(dataset, "val", rows)) == 3
