"""Several crops of every photo of a folder: which squares, by whose chance, in which split."""

from __future__ import annotations

import collections
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rayfill_data.errors import ConfigError, DatasetError, ImageError
from rayfill_data.masks.copy_paste import paste, random_cutout
from rayfill_data.masks.hole import irregular_mask, sample_rng
from rayfill_data.prepared import pipeline
from rayfill_data.sources import FolderOptions, folder

SIZE = 16


def quiet(done: int, total: int) -> None:
    """Progress nobody sees."""


def noise(height: int, width: int, *, seed: int) -> np.ndarray:
    """A picture that differs from itself at every other place and scale."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def averaged(square: np.ndarray) -> np.ndarray:
    """Average (S, S, 3) over SIZE x SIZE equal areas: a pixel counts by its share in each."""
    step = len(square) / SIZE
    edges = np.arange(SIZE + 1)[:, None] * step
    pixels = np.arange(len(square))
    shared = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    weights = shared.clip(0) / step
    return np.einsum("ia,jb,abc->ijc", weights, weights, square, optimize=True)


def centre_of(photo: np.ndarray) -> np.ndarray:
    side = min(photo.shape[:2])
    top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
    return photo[top : top + side, left : left + side]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    for index in range(9):
        Image.fromarray(noise(40, 50 + index, seed=index)).save(root / f"p{index}.png")
    return root


def options_of(root: Path, **more: Any) -> FolderOptions:
    return FolderOptions(root=str(root), **{"size": SIZE, "crops_per_photo": 4} | more)


def samples(root: Path, *, seed: int = 0, **more: Any) -> dict[str, tuple[Any, Any]]:
    options = options_of(root, **more)
    tasks = folder.plan(options, seed).tasks
    return {task.sample_id: (task, folder.render(task, options, seed)) for task in tasks}


def images(root: Path, **more: Any) -> dict[str, np.ndarray]:
    return {name: sample.image for name, (_, sample) in samples(root, **more).items()}


# --- which squares


def test_crops_are_squares_of_the_photo_averaged_and_the_first_is_its_centre(photos: Path) -> None:
    options = options_of(photos, crops_per_photo=6)
    tasks = [task for task in folder.plan(options, 0).tasks if task.path == "p0.png"]
    photo = np.asarray(Image.open(photos / "p0.png")).astype(float)
    first, *others = [folder.render(task, options, 0).image for task in tasks]
    assert np.abs(first - averaged(centre_of(photo))).max() < 0.51
    height, width = photo.shape[:2]
    windows = {
        (side, top, left): averaged(photo[top : top + side, left : left + side])
        for side in range(SIZE, height + 1)
        for top in range(height - side + 1)
        for left in range(width - side + 1)
    }
    found = set()
    for crop in others:
        fits = [at for at, seen in windows.items() if np.abs(crop - seen).max() < 0.51]
        assert len(fits) == 1
        found |= set(fits)
    assert len(found) == 5


def test_sides_are_log_uniform_from_full_resolution_to_the_whole_photo(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(250, dtype=np.uint8)[None, :, None], (128, 250, 3)).copy()
    for index in range(3):
        ramp[0, 0] = index
        Image.fromarray(ramp).save(tmp_path / f"{index}.png")
    options = options_of(tmp_path, crops_per_photo=301)
    crops = [task for task in folder.plan(options, 0).tasks if task.path == "0.png"][1:]
    last_row = [folder.render(task, options, 0).image[-1, :, 0].astype(float) for task in crops]
    sides = np.sort([(row[-1] - row[0]) * SIZE / (SIZE - 1) for row in last_row])
    assert sides[0] == SIZE
    assert sides[-1] == pytest.approx(128, abs=2)
    drawn = np.log(sides / SIZE) / np.log(128 / SIZE)
    assert np.abs(drawn - (np.arange(300) + 0.5) / 300).max() < 1.36 / np.sqrt(300)


def test_a_crop_depends_on_seed_photo_and_number_alone(photos: Path) -> None:
    before = images(photos)
    assert len({image.tobytes() for image in before.values()}) == len(before) == 36
    np.random.seed(1)
    more = images(photos, crops_per_photo=6)
    (photos / "p0.png").unlink()
    fewer = images(photos)
    for name, image in before.items():
        np.testing.assert_array_equal(image, more[name])
        np.testing.assert_array_equal(image, fewer.get(name, image))
    other = images(photos, seed=1)
    same = [name for name, image in other.items() if np.array_equal(image, before[name])]
    assert same == [f"p{index}.png" for index in range(1, 9)]


def test_one_crop_is_the_photo_as_ever(photos: Path) -> None:
    for name, (task, sample) in samples(photos, crops_per_photo=1, masks="both").items():
        photo = np.asarray(Image.open(photos / name))
        target = sample.image if sample.target is None else sample.target
        assert np.abs(target - averaged(centre_of(photo))).max() < 0.51
        rng = sample_rng(0, 0, name)
        if task.hole_kind == "object":
            side = round(SIZE * rng.uniform(0.25, 0.75))
            donor = np.asarray(Image.open(photos / task.donors[0]))
            pair = paste(target, random_cutout(donor, rng=rng, size_px=side), rng=rng)
            np.testing.assert_array_equal(sample.image, pair.image)
            np.testing.assert_array_equal(sample.hole_mask, pair.hole_mask)
        elif task.split != "train":
            np.testing.assert_array_equal(sample.hole_mask, irregular_mask(SIZE, SIZE, rng=rng))
    assert FolderOptions(root="x").crops_per_photo == 1
    made, ever = images(photos, crops_per_photo=1), images(photos, crops_per_photo=2)
    assert {name: image.tobytes() for name, image in made.items()}.items() <= {
        name: image.tobytes() for name, image in ever.items()
    }.items()


def test_a_photo_no_larger_than_a_sample_and_one_that_is_smaller(photos: Path) -> None:
    Image.fromarray(noise(SIZE, SIZE, seed=50)).save(photos / "equal.png")
    Image.fromarray(noise(SIZE - 1, 40, seed=51)).save(photos / "small.png")
    options = options_of(photos)
    for task in folder.plan(options, 0).tasks:
        if task.path == "equal.png":
            image = folder.render(task, options, 0).image
            np.testing.assert_array_equal(image, noise(SIZE, SIZE, seed=50))
        elif task.path == "small.png":
            with pytest.raises(ImageError, match="It is 40x15 pixels, smaller than size 16"):
                folder.render(task, options, 0)


# --- holes and splits


@pytest.mark.parametrize(("masks", "share"), [("irregular", 0), ("both", 0.5), ("objects", 1)])
@pytest.mark.parametrize("crops", [2, 3])
def test_every_crop_number_has_its_share_of_objects(
    photos: Path, masks: str, share: float, crops: int
) -> None:
    found = samples(photos, masks=masks, crops_per_photo=crops)
    kinds = collections.defaultdict(list)
    for task, sample in found.values():
        kinds[task.sample_id.removeprefix(task.path)].append(task.hole_kind == "object")
        assert task.path not in task.donors[:-1]
        if task.hole_kind == "object":
            np.testing.assert_array_equal(sample.labels == 1, sample.hole_mask == 255)
    assert len(kinds) == crops
    for one in kinds.values():
        assert abs(sum(one) - share * 9) <= 0.5


def test_masks_of_a_folder_are_drawn_for_every_crop(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for index in range(1, 13):
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[:1, :index] = 255
        Image.fromarray(mask).save(tmp_path / f"masks/{index}.png")
    found = samples(photos, masks="files", mask_folder=str(tmp_path / "masks"))
    for task, sample in found.values():
        assert np.count_nonzero(sample.hole_mask) == int(task.mask_path.removesuffix(".png"))
    drawn = collections.Counter(task.mask_path for task, _ in found.values())
    assert len(drawn) > 8


def test_crops_and_copies_of_a_photo_share_its_split(photos: Path) -> None:
    shutil.copy(photos / "p3.png", photos / "copy.png")
    tasks = folder.plan(options_of(photos), 0).tasks
    alone = folder.plan(options_of(photos, crops_per_photo=1), 0).tasks
    assert len({task.sample_id for task in tasks}) == len(tasks) == 40
    assert {(task.path, task.split) for task in tasks} == {(one.path, one.split) for one in alone}
    assert len({task.split for task in tasks if task.path in ("p3.png", "copy.png")}) == 1
    splits = collections.defaultdict(set)
    for task in tasks:
        splits[task.source_id].add(task.split)
    assert len(splits) == 9
    assert all(len(own) == 1 for own in splits.values())


@pytest.mark.parametrize("crops", [0, -1, 1001, 1.5])
def test_a_number_of_crops_that_is_none(crops: Any) -> None:
    with pytest.raises(ConfigError, match=r"crops_per_photo is .*\[1, 1000\]"):
        FolderOptions(root="x", crops_per_photo=crops)


def test_crops_do_not_go_with_paired_masks() -> None:
    with pytest.raises(ConfigError, match="crops_per_photo is 2 with masks 'paired'"):
        FolderOptions(root="x", masks="paired", mask_folder="y", crops_per_photo=2)
    FolderOptions(root="x", masks="paired", mask_folder="y")


def test_crops_of_one_photo_are_no_dataset(tmp_path: Path) -> None:
    Image.fromarray(noise(40, 40, seed=0)).save(tmp_path / "only.png")
    with pytest.raises(DatasetError, match="holds 1 different picture"):
        folder.plan(options_of(tmp_path), 0)


# --- the work


def test_a_photo_is_read_once_for_its_crops(photos: Path, monkeypatch: Any) -> None:
    reads: list[str] = []

    def counted(root: str, name: str) -> bytes:
        reads.append(name)
        return (Path(root) / name).read_bytes()

    monkeypatch.setattr(folder, "read_file", counted)
    images(photos)
    assert reads == [f"p{index}.png" for index in range(9)]


def test_a_photo_that_was_replaced_is_decoded_again(photos: Path) -> None:
    for seed in (98, 99):
        Image.fromarray(photo := noise(40, 40, seed=seed)).save(photos / "p8.png")
        options = options_of(photos)
        first = next(task for task in folder.plan(options, 0).tasks if task.path == "p8.png")
        image = folder.render(first, options, 0).image
        assert np.abs(image - averaged(photo.astype(float))).max() < 0.51


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [
        row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def test_one_worker_and_two_make_the_same_rows(
    photos: Path, tmp_path: Path, monkeypatch: Any, ray_local: None
) -> None:
    made = []
    for blocks in (1, 7):  # One task for all, or several at a time that end within a photo.
        monkeypatch.setattr(pipeline, "_MIN_BLOCKS", blocks)
        out = tmp_path / f"in {blocks}"
        options = options_of(photos, masks="both")
        made.append(pipeline.prepare("folder", out=str(out), options=options, progress=quiet))
    assert made[0].content_hash == made[1].content_hash
    rows = rows_of(tmp_path / "in 1")
    assert rows == rows_of(tmp_path / "in 7")
    assert len(rows) == 36
    assert sum(made[0].photo_counts.values()) == 9
    assert made[0].counts == {split: 4 * count for split, count in made[0].photo_counts.items()}


def test_a_photo_without_crops_is_listed_once(
    photos: Path, tmp_path: Path, ray_local: None
) -> None:
    (photos / "text.png").write_text("no picture")
    Image.fromarray(noise(8, 8, seed=0)).save(photos / "tiny.png")
    out = tmp_path / "dataset"
    options = options_of(photos, max_rejected=0.1)
    with pytest.raises(
        DatasetError, match=r"8 of 44 samples .* 4 may be lost: text[^|]*\| tiny[^|]*$"
    ):
        pipeline.prepare("folder", out=str(out), options=options, progress=quiet)
    options = options_of(photos, max_rejected=2 / 11, val_share=0.3, test_share=0.3)
    manifest = pipeline.prepare("folder", out=str(out), options=options, progress=quiet)
    assert manifest.rejected == 2
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == ["text.png", "tiny.png"]
    assert sum(manifest.counts.values()) == 36
