from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rayfill_data.errors import ConfigError, DatasetError, ImageError
from rayfill_data.masks.hole import hole_ratio
from rayfill_data.masks.shapes import MASKS
from rayfill_data.sources import FolderOptions, PhotosOptions, folder, photos
from rayfill_data.sources.pictures import crop_to_hole, fit_frame

SIZE = 32


@pytest.fixture
def pictures(tmp_path: Path, make_picture: Any) -> Path:
    root = tmp_path / "pictures"
    root.mkdir()
    for index in range(12):
        Image.fromarray(make_picture(40, 60, seed=index)).save(root / f"p{index:02d}.png")
    return root


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """One mask per picture, a 6x10 hole at a place of its own."""
    root = tmp_path / "masks"
    root.mkdir()
    for index in range(12):
        mask = np.zeros((40, 60), np.uint8)
        mask[index : index + 6, 4 * index : 4 * index + 10] = 255
        Image.fromarray(mask).save(root / f"p{index:02d}.png")
    return root


def samples(root: Path, **options: Any) -> list[tuple[Any, Any]]:
    chosen = FolderOptions(root=str(root), size=SIZE, **options)
    plan = folder.plan(chosen, 0)
    return [(task, folder.render(task, chosen, 0)) for task in plan.tasks]


@pytest.mark.parametrize("name", MASKS)
def test_a_folder_with_any_generator(pictures: Path, name: str) -> None:
    for task, sample in samples(pictures, masks=name):
        assert (sample.hole_mask is None) == (task.split == "train")
        if sample.hole_mask is not None and name == "square":
            rows, columns = np.nonzero(sample.hole_mask)
            assert (np.ptp(rows) + 1) * (np.ptp(columns) + 1) == len(rows)


def test_the_generator_is_named_in_the_options_and_irregular_names_its_ratio() -> None:
    assert FolderOptions(root="x").mask_ratio == (0.05, 0.4)
    assert FolderOptions(root="x", masks="both").mask_ratio == (0.05, 0.4)
    assert FolderOptions(root="x", masks="lines_thin").mask_ratio is None
    assert PhotosOptions().mask_ratio == (0.05, 0.4)
    assert PhotosOptions(masks="square").mask_ratio is None


def test_bundled_photographs_with_another_generator() -> None:
    options = PhotosOptions(size=SIZE, train=2, val=2, test=2, object_share=0, masks="square")
    for task in photos.plan(options, 0).tasks:
        mask = photos.render(task, options, 0).hole_mask
        assert (mask is None) == (task.split == "train")
        assert mask is None or hole_ratio(mask) <= 0.25


def test_masks_of_a_folder_are_frozen_moved_and_whole(pictures: Path, masks: Path) -> None:
    found = samples(pictures, masks="files", mask_folder=str(masks))
    places = set()
    for _, sample in found:
        assert sample.hole_mask is not None
        rows, columns = np.nonzero(sample.hole_mask)
        # 40x60 scaled to 32x32: a 6x10 hole covers 5-6 rows and 5-7 columns, wherever it is moved.
        assert 5 <= np.ptp(rows) + 1 <= 6
        assert 5 <= np.ptp(columns) + 1 <= 7
        places.add((rows[0], columns[0]))
    assert len(places) > 8
    again = samples(pictures, masks="files", mask_folder=str(masks))
    for (_, sample), (_, same) in zip(found, again, strict=True):
        np.testing.assert_array_equal(sample.hole_mask, same.hole_mask)


def test_paired_masks_follow_their_photo(pictures: Path, masks: Path) -> None:
    for task, sample in samples(pictures, masks="paired", mask_folder=str(masks)):
        assert task.mask_path == task.path
        index = int(task.path[1:3])
        left = min(max(4 * index + 5 - 20, 0), 20)
        photo = np.asarray(Image.open(pictures / task.path))[:, left : left + 40]
        hole = np.asarray(Image.open(masks / task.path))[:, left : left + 40] > 0
        assert hole.any()
        assert sample.hole_mask is not None
        # Every scaled pixel that the hole touches is hole, and no other.
        edges = np.arange(SIZE + 1) * 40 / SIZE
        for row in range(SIZE):
            for column in range(SIZE):
                part = hole[
                    int(edges[row]) : int(np.ceil(edges[row + 1])),
                    int(edges[column]) : int(np.ceil(edges[column + 1])),
                ]
                assert (sample.hole_mask[row, column] == 255) == bool(part.any())
        assert abs(sample.image.mean() - photo.mean()) < 1


def test_photos_without_masks_and_masks_without_photos_are_all_listed(
    pictures: Path, masks: Path
) -> None:
    (masks / "p03.png").rename(masks / "q03.png")
    (masks / "p05.png").unlink()
    with pytest.raises(DatasetError) as error:
        samples(pictures, masks="paired", mask_folder=str(masks))
    assert "2 photos without a mask: p03.png, p05.png" in str(error.value)
    assert "1 masks without a photo: q03.png" in str(error.value)


def test_a_mask_of_another_size_is_rejected_with_both_sizes(pictures: Path, masks: Path) -> None:
    Image.new("L", (30, 20), 255).save(masks / "p04.png")
    options = FolderOptions(root=str(pictures), size=SIZE, masks="paired", mask_folder=str(masks))
    (task,) = [task for task in folder.plan(options, 0).tasks if task.path == "p04.png"]
    with pytest.raises(ImageError, match=r"p04\.png.*30x20.*60x40"):
        folder.render(task, options, 0)


def test_inverted_and_jpeg_masks_are_said(pictures: Path, masks: Path) -> None:
    for path in list(masks.iterdir()):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(
            path.with_suffix(".jpg"), quality=60
        )
        path.unlink()
    options = FolderOptions(root=str(pictures), size=SIZE, masks="files", mask_folder=str(masks))
    notes = folder.plan(options, 0).notes
    assert "may be inverted" in notes[0]
    assert "JPEG" in notes[1]


def test_changed_masks_change_the_inputs_hash(pictures: Path, masks: Path) -> None:
    options = FolderOptions(root=str(pictures), size=SIZE, masks="files", mask_folder=str(masks))
    before = folder.plan(options, 0).inputs_hash
    assert before == folder.plan(options, 0).inputs_hash
    Image.new("L", (9, 9), 255).save(masks / "p04.png")
    assert folder.plan(options, 0).inputs_hash != before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"masks": "files"}, "mask_folder None"),
        ({"masks": "square", "mask_folder": "x"}, "mask_folder 'x'"),
        ({"masks": "files", "mask_folder": "x", "mask_ratio": (0.1, 0.2)}, "taken as found"),
        ({"masks": "sqare"}, "Did you mean 'square'"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        FolderOptions(root="x", **options)


def test_empty_and_missing_mask_folders(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, expected in (("empty", "holds no masks"), ("nowhere", "is not a folder")):
        with pytest.raises(DatasetError, match=expected):
            samples(pictures, masks="files", mask_folder=str(tmp_path / name))


def test_the_crop_shows_the_hole() -> None:
    image = np.arange(40 * 100 * 3, dtype=np.uint32).reshape(40, 100, 3).astype(np.uint8)
    for left in (0, 30, 90):
        mask = np.zeros((40, 100), np.uint8)
        mask[10:20, left : left + 10] = 255
        sample = crop_to_hole(image, image, mask, size=40)
        assert sample.hole_mask is not None
        assert np.count_nonzero(sample.hole_mask) == 100
    with pytest.raises(ImageError, match="no hole"):
        crop_to_hole(image, None, np.zeros((40, 100), np.uint8), size=40)
    with pytest.raises(ImageError, match="everything"):
        crop_to_hole(image, None, np.full((40, 100), 255, np.uint8), size=40)


def test_masks_of_the_same_frame_are_scaled_and_others_refused() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:10, 5:10] = 255
    assert np.count_nonzero(fit_frame(mask, 40, 60)) == 100
    assert fit_frame(mask, 41, 60).shape == (41, 60)
    with pytest.raises(ImageError, match="not the same frame"):
        fit_frame(mask, 60, 40)
