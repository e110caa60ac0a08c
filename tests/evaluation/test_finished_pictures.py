"""Pictures of other systems: which sample a file is of, and everything that may be wrong."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rayfill.evaluation.finished_pictures import check_finished, match, read_finished
from rayfill.models.batch import TensorBatch
from rayfill_data.errors import DatasetError


def picture(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(folder: Path, name: str, pixels: np.ndarray) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("file", "sample"),
    [
        ("a/7.png", "a/7"),  # a test set's, by its name
        ("7.webp", "7"),
        ("photo.png", "photo.jpg"),  # IOPaint: photo.jpg -> photo.png
        ("photo.jpg", "photo.jpg"),  # a folder's sample is called as its file
        ("photo_mask.png", "photo"),  # LaMa, one mask for each picture
        ("photo_mask001.png", "photo.jpg"),  # LaMa, as its own masks are named
        ("sub/photo_crop000_mask000_inpainted.jpg", "sub/photo_crop000"),  # LaMa's evaluation
        ("my_mask_photo_mask.png", "my_mask_photo"),  # the last "_mask" counts
        ("face_mask.png", "face_mask"),  # a sample of that very name comes first
    ],
)
def test_a_file_belongs_to_the_sample_it_is_named_after(file: str, sample: str) -> None:
    assert match([file], samples=[sample, "other"]) == ({sample: file}, {}, [])


def test_names_that_tell_nothing_are_extra() -> None:
    files = ["b/7.png", "7_out.png", "mask_7.png", "x.png"]
    assert match(files, samples=["7", "a/7"]) == ({}, {}, files)


def test_several_files_of_a_sample_are_told() -> None:
    found, doubled, extra = match(
        ["1.png", "1_mask000.png", "1_mask001.png", "2.png"], samples=["1", "2"]
    )
    assert found == {"2": "2.png"}
    assert doubled == {"1": ["1.png", "1_mask000.png", "1_mask001.png"]}
    assert not extra


def test_samples_that_differ_in_the_ending_need_whole_names() -> None:
    samples = ["x.jpg", "x.png"]
    found, doubled, extra = match(["x.png", "x.webp", "x.jpg"], samples=samples)
    assert found == {"x.png": "x.png", "x.jpg": "x.jpg"}
    assert (doubled, extra) == ({}, ["x.webp"])  # it may be of either


def test_pictures_come_with_their_samples_whatever_the_order(tmp_path: Path) -> None:
    for name in "abc":
        save(tmp_path, f"{name}.png", picture(12, 14, seed=ord(name)))
    finished = read_finished(str(tmp_path), sizes=dict.fromkeys("abc", (12, 14)))
    assert (finished.missing, finished.problems, finished.extra) == ((), (), ())
    mask = torch.zeros(2, 1, 12, 14)
    blank = torch.zeros(2, 3, 12, 14)
    batch = TensorBatch(image=blank, target=blank, hole_mask=mask, sample_id=("c", "a"))
    levels = finished.only(["a", "c"]).fill(batch, mask).mul(255).round().byte()
    for row, name in zip(levels, "ca", strict=True):
        assert np.array_equal(row.permute(1, 2, 0).numpy(), picture(12, 14, seed=ord(name)))


@pytest.fixture
def bad(tmp_path: Path) -> tuple[Path, dict[str, tuple[int, int]]]:
    """A folder with one of everything that may be wrong, and the sizes of its samples."""
    names = ["good", "missing", "small", "turned", "twice", "cut", "text"]
    for name in ("good", "twice"):
        save(tmp_path, f"{name}.png", picture(12, 14))
    save(tmp_path, "twice_mask.png", picture(12, 14))
    save(tmp_path, "small.png", picture(6, 7))
    save(tmp_path, "turned.png", picture(14, 12))
    save(tmp_path, "stranger.png", picture(12, 14))
    stream = io.BytesIO()
    Image.fromarray(picture(12, 14)).save(stream, "PNG")
    (tmp_path / "cut.png").write_bytes(stream.getvalue()[:200])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "notes.txt").write_text("not looked at")
    return tmp_path, dict.fromkeys(names, (12, 14))


def test_everything_that_is_wrong_is_found_at_once(
    bad: tuple[Path, dict[str, tuple[int, int]]],
) -> None:
    folder, sizes = bad
    finished = read_finished(str(folder), sizes=sizes)
    assert set(finished.pictures) == {"good"}
    assert set(finished.missing) == {"missing", "small", "turned", "twice", "cut", "text"}
    assert finished.extra == ("stranger.png",)
    with pytest.raises(DatasetError) as caught:
        check_finished({"lama": finished}, allow_missing=False)
    for said in (
        "lama: 1 samples have no picture: missing.",
        "1 samples have several pictures: twice (twice.png and twice_mask.png).",
        "4 pictures cannot be used: cut.png (",
        "small.png (7x6 pixels, its sample has 14x12)",
        "text.png (",
        "turned.png (12x14 pixels, its sample has 14x12)",
        "1 files belong to no sample and are not looked at: stranger.png.",
        "--allow-missing",
    ):
        assert said in str(caught.value)


def test_samples_that_any_system_lacks_may_be_left_out(
    bad: tuple[Path, dict[str, tuple[int, int]]], tmp_path: Path
) -> None:
    folder, sizes = bad
    whole = tmp_path / "whole"
    for name in sizes:
        if name != "good":
            save(whole, f"{name}.png", picture(12, 14))
    one = read_finished(str(folder), sizes=sizes)
    other = read_finished(str(whole), sizes=sizes)
    missing, notes = check_finished({"one": one, "other": other}, allow_missing=True)
    assert missing == set(sizes)
    assert any(note.startswith("other: 1 samples have no picture: good") for note in notes)


def test_extra_files_alone_are_a_note(tmp_path: Path) -> None:
    save(tmp_path, "a.png", picture(12, 14))
    save(tmp_path, "sheet.png", picture(12, 14))
    finished = read_finished(str(tmp_path), sizes={"a": (12, 14)})
    missing, notes = check_finished({"x": finished}, allow_missing=False)
    assert not missing
    assert notes == ["x: 1 files belong to no sample and are not looked at: sheet.png."]
