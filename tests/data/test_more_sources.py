"""Triplets, DEFACTO, CelebA and aerial photos, on small made-up folders of their layouts."""

from __future__ import annotations

import collections
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rayfill_data.contract import SPLITS
from rayfill_data.errors import ConfigError, DatasetError, ImageError
from rayfill_data.sources import (
    AerialOptions,
    CelebaOptions,
    DefactoOptions,
    TripletsOptions,
    aerial,
    celeba,
    defacto,
    triplets,
)
from rayfill_data.sources.triplets import merged

DATA = Path(__file__).parents[3] / "shared/data"
SIZE = 32


def save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def object_pair(picture: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A mask, and the picture with something else in it."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    top, left = np.random.default_rng(seed).integers(0, 20, 2)
    mask[top : top + 9, left : left + 7] = 255
    return mask, np.where(mask[..., None] > 0, 255 - picture, picture)


def check_splits(tasks: Any) -> None:
    found = collections.defaultdict(set)
    for task in tasks:
        found[task.source_id].add(task.split)
    assert all(len(splits) == 1 for splits in found.values())
    assert set().union(*found.values()) == set(SPLITS)
    assert len({task.sample_id for task in tasks}) == len(tasks)


# --- triplets


@pytest.fixture
def three(tmp_path: Path, make_picture: Any) -> Path:
    for index in range(14):
        target = make_picture(40, 50, seed=index)
        mask, image = object_pair(target, index)
        save(tmp_path / f"input/{index % 2}/s{index:02d}.png", image)
        save(tmp_path / f"mask/{index % 2}/s{index:02d}.png", mask)
        save(tmp_path / f"target/{index % 2}/s{index:02d}.bmp", target)
    return tmp_path


def triplet_options(root: Path, **more: Any) -> TripletsOptions:
    folders = {role: str(root / role) for role in ("input", "mask", "target")}
    return TripletsOptions(**folders, size=SIZE, **more)


def test_triplets_pair_whatever_their_endings(three: Path) -> None:
    options = triplet_options(three)
    plan = triplets.plan(options, 0)
    assert len(plan.tasks) == 14
    check_splits(plan.tasks)
    for task in plan.tasks:
        sample = triplets.render(task, options, 0)
        assert sample.target is not None
        assert sample.hole_mask is not None
        changed = (sample.image != sample.target).any(axis=2)
        assert changed.any()
        assert not changed[sample.hole_mask == 0].any()


def test_triplets_list_everything_that_does_not_pair(three: Path) -> None:
    (three / "mask/0/s02.png").unlink()
    (three / "input/1/s03.png").unlink()
    (three / "target/1/s05.bmp").rename(three / "target/1/x05.bmp")
    shutil.copy(three / "mask/0/s04.png", three / "mask/0/s04.bmp")
    with pytest.raises(DatasetError) as error:
        triplets.plan(triplet_options(three), 0)
    text = str(error.value)
    assert "2 samples without mask: 0/s02, 1/x05" in text
    assert "2 samples without input: 1/s03, 1/x05" in text
    assert "1 samples without target: 1/s05" in text
    assert "0/s04.bmp = 0/s04.png" in text


def test_triplets_list_every_missing_folder(three: Path) -> None:
    shutil.rmtree(three / "mask")
    shutil.rmtree(three / "target")
    with pytest.raises(DatasetError, match=r"(?s)--mask .*--target "):
        triplets.plan(triplet_options(three), 0)


def test_triplets_of_one_photo_share_a_split(three: Path) -> None:
    pattern = r"s0?(\d)"
    tasks = triplets.plan(triplet_options(three, photo_pattern=pattern), 0).tasks
    check_splits(tasks)
    assert {task.source_id for task in tasks} == {
        re.search(pattern, f"s{index:02d}").group(1)  # type: ignore[union-attr]
        for index in range(14)
    }
    with pytest.raises(DatasetError, match=r"14 names that photo_pattern does not match"):
        triplets.plan(triplet_options(three, photo_pattern="y(.)"), 0)


def test_the_same_target_is_the_same_photo(three: Path) -> None:
    for index in (4, 8, 12):
        shutil.copy(three / "target/0/s00.bmp", three / f"target/0/s{index:02d}.bmp")
    tasks = triplets.plan(triplet_options(three), 0).tasks
    check_splits(tasks)
    group = {task.source_id for task in tasks if task.path[-6:-4] in ("00", "04", "08", "12")}
    assert group == {"0/s00"}


def test_merging_follows_chains() -> None:
    photos = {key: key for key in "abcdef"}
    same = merged(photos, {"a": "1", "b": "2", "c": "2", "d": "3", "e": "3", "f": "4"})
    again = merged(same, {"a": "x", "b": "x", "c": "y", "d": "y", "e": "z", "f": "w"})
    assert again == {"a": "a", "b": "a", "c": "a", "d": "a", "e": "a", "f": "f"}


def test_triplets_that_do_not_fit_are_rejected(three: Path) -> None:
    options = triplet_options(three)
    tasks = {task.sample_id: task for task in triplets.plan(options, 0).tasks}
    save(three / "mask/0/s00.png", np.full((20, 25), 255, np.uint8))
    save(three / "mask/0/s02.png", np.zeros((40, 50), np.uint8))
    save(three / "target/0/s04.bmp", np.zeros((41, 50, 3), np.uint8))
    for name, expected in (
        ("0/s00", "25x20 pixels"),
        ("0/s02", "no hole"),
        ("0/s04", "target is 50x41 pixels"),
    ):
        with pytest.raises(ImageError, match=expected):
            triplets.render(tasks[name], options, 0)
    half = np.zeros((20, 25), np.uint8)
    half[5:9, 5:9] = 255
    save(three / "mask/0/s00.png", half)
    sample = triplets.render(tasks["0/s00"], triplet_options(three, scale_masks=True), 0)
    assert sample.hole_mask is not None


def test_a_limit_takes_whole_photos(three: Path) -> None:
    options = triplet_options(three, photo_pattern=r"s(\d)", max_samples=4)
    with pytest.raises(DatasetError, match="Samples of 2 photos"):
        triplets.plan(options, 0)
    limited = triplets.plan(triplet_options(three, max_samples=6), 0).tasks
    assert len(limited) == 6
    check_splits(limited)


def test_triplet_options_report_every_problem() -> None:
    with pytest.raises(ConfigError) as error:
        TripletsOptions(
            input="a", mask="b", target="c", size=1, max_samples=1, photo_pattern="x", val_share=0
        )
    assert len(error.value.problems) == 4
    with pytest.raises(ConfigError, match="no regular expression"):
        TripletsOptions(input="a", mask="b", target="c", photo_pattern="(")


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason="no real data beside the project")
@pytest.mark.parametrize("name", ["places2_512_object", "ffhq_256_freeform"])
def test_real_triplets(name: str) -> None:
    root = DATA / "inpaint_triples" / name
    options = TripletsOptions(
        input=str(root / "image"), mask=str(root / "mask"), target=str(root / "result")
    )
    plan = triplets.plan(options, 0)
    check_splits(plan.tasks)
    for task in plan.tasks[:4]:
        sample = triplets.render(task, options, 0)
        assert sample.target is not None
        assert (sample.image != sample.target).any()


# --- defacto


@pytest.fixture
def removals(tmp_path: Path, make_picture: Any) -> Path:
    root = tmp_path / "defacto"
    for photo in range(6):
        with_object = make_picture(40, 50, seed=photo)
        save(tmp_path / f"coco/train/COCO_train2014_{photo:012d}.png", with_object)
        for number in range(2):
            mask, without = object_pair(with_object, 10 * photo + number)
            name = f"{number}_{photo:012d}"
            save(root / f"inpainting_img/img/{name}.tif", without)
            save(root / f"inpainting_annotations/inpaint_mask/{name}.tif", mask)
            save(root / f"inpainting_annotations/probe_mask/{name}.jpg", mask)
    return root


def test_defacto_keeps_removals_from_one_photo_together(removals: Path) -> None:
    options = DefactoOptions(root=str(removals), coco=str(removals.parent / "coco"), size=SIZE)
    tasks = defacto.plan(options, 0).tasks
    assert len(tasks) == 12
    assert {task.source_id for task in tasks} == {f"{photo:012d}" for photo in range(6)}
    check_splits(tasks)
    for task in tasks:
        sample = defacto.render(task, options, 0)
        assert sample.target is not None
        assert sample.hole_mask is not None
        changed = (sample.image != sample.target).any(axis=2)
        assert changed.any()
        assert not changed[sample.hole_mask == 0].any()


@pytest.mark.parametrize("mask", ["inpaint_mask", "probe_mask"])
def test_defacto_without_coco(removals: Path, mask: Any) -> None:
    options = DefactoOptions(root=str(removals), size=SIZE, mask=mask)
    plan = defacto.plan(options, 0)
    sample = defacto.render(plan.tasks[0], options, 0)
    assert sample.target is None
    assert sample.hole_mask is not None
    assert any("JPEG" in note for note in plan.notes) == (mask == "probe_mask")


def test_a_half_unpacked_defacto(removals: Path) -> None:
    for photo in range(3):
        (removals / f"inpainting_annotations/inpaint_mask/0_{photo:012d}.tif").unlink()
    save(removals / "inpainting_img/img/holiday.tif", np.zeros((40, 40, 3), np.uint8))
    (removals.parent / f"coco/train/COCO_train2014_{5:012d}.png").unlink()
    with pytest.raises(DatasetError) as error:
        defacto.plan(DefactoOptions(root=str(removals), coco=str(removals.parent / "coco")), 0)
    text = str(error.value)
    assert "4 samples without mask" in text
    assert "1 pictures that are not named like 3_000000000260: holiday" in text
    assert "1 photos that --coco does not hold: 000000000005" in text
    shutil.rmtree(removals / "inpainting_img")
    with pytest.raises(DatasetError, match=r"(?s)inpainting_img/img is missing.*--coco nowhere"):
        defacto.plan(DefactoOptions(root=str(removals), coco="nowhere"), 0)


# --- celeba


@pytest.fixture
def faces(tmp_path: Path, make_picture: Any) -> Path:
    lines = []
    for index in range(1, 11):
        save(tmp_path / f"img_align_celeba/{index:06d}.jpg", make_picture(54, 44, seed=index))
        lines.append(f"{index:06d}.jpg {0 if index < 7 else 1 if index < 9 else 2}\n")
    (tmp_path / "list_eval_partition.txt").write_text("".join(lines))
    return tmp_path


def test_celeba_follows_the_official_split(faces: Path) -> None:
    options = CelebaOptions(root=str(faces), size=SIZE)
    tasks = celeba.plan(options, 0).tasks
    assert collections.Counter(task.split for task in tasks) == {"train": 6, "val": 2, "test": 2}
    for task in tasks:
        assert task.split == ("train" if int(task.sample_id) < 7 else task.split)
        sample = celeba.render(task, options, 0)
        assert (sample.hole_mask is None) == (task.split == "train")
    limited = celeba.plan(CelebaOptions(root=str(faces), size=SIZE, max_train=2), 0).tasks
    assert collections.Counter(task.split for task in limited)["train"] == 2


def test_celeba_from_the_csv_and_a_nested_folder(faces: Path) -> None:
    text = (faces / "list_eval_partition.txt").read_text().replace(" ", ",")
    (faces / "list_eval_partition.txt").unlink()
    (faces / "list_eval_partition.csv").write_text("image_id,partition\n" + text)
    (faces / "img_align_celeba").rename(faces / "inner")
    (faces / "img_align_celeba").mkdir()
    (faces / "inner").rename(faces / "img_align_celeba/img_align_celeba")
    options = CelebaOptions(root=str(faces), size=SIZE)
    plan = celeba.plan(options, 0)
    assert len(plan.tasks) == 10
    assert celeba.render(plan.tasks[0], options, 0).image.shape == (SIZE, SIZE, 3)


def test_a_wrong_split_file_and_a_half_unpacked_folder_are_listed(faces: Path) -> None:
    (faces / "img_align_celeba/000003.jpg").unlink()
    (faces / "img_align_celeba/000010.jpg").rename(faces / "img_align_celeba/000099.jpg")
    path = faces / "list_eval_partition.txt"
    path.write_text(path.read_text().replace("000007.jpg 1", "000007.jpg 3") + "000001.jpg 0\n")
    with pytest.raises(DatasetError) as error:
        celeba.plan(CelebaOptions(root=str(faces)), 0)
    text = str(error.value)
    assert "1 lines of list_eval_partition.txt are not a face and 0, 1 or 2 (line 7)" in text
    assert "1 faces are listed twice in list_eval_partition.txt: 000001.jpg" in text
    assert "2 faces of list_eval_partition.txt are not in img_align_celeba: 000003.jpg" in text
    assert "2 faces of img_align_celeba are not listed: 000007.jpg, 000099.jpg" in text


def test_celeba_missing_altogether(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"(?s)img_align_celeba is missing.*split is missing"):
        celeba.plan(CelebaOptions(root=str(tmp_path)), 0)


# --- aerial


@pytest.fixture
def classes(tmp_path: Path, make_picture: Any) -> Path:
    for number, label in enumerate(("Field", "River_Lake", "Forest")):
        for index in range(10):
            picture = make_picture(40, 40, seed=100 * number + index)
            save(tmp_path / f"prefixed/{label}_b{index:03d}.png", picture)
            save(tmp_path / f"folders/train/{label}/{index}.png", picture)
    return tmp_path


@pytest.mark.parametrize("layout", ["prefixed", "folders"])
def test_every_class_is_in_every_split_alike(classes: Path, layout: str) -> None:
    options = AerialOptions(root=str(classes / layout), size=SIZE, test_share=0.2, masks="boxes")
    tasks = aerial.plan(options, 0).tasks
    check_splits(tasks)
    counts = collections.Counter(
        (re.search(r"Field|River_Lake|Forest", task.path).group(), task.split)  # type: ignore[union-attr]
        for task in tasks
    )
    for label in ("Field", "River_Lake", "Forest"):
        assert [counts[label, split] for split in SPLITS] == [7, 1, 2]
    assert aerial.render(tasks[0], options, 0).image.shape == (SIZE, SIZE, 3)


def test_problems_of_classes_are_all_listed(classes: Path) -> None:
    root = classes / "prefixed"
    shutil.copy(root / "Field_b001.png", root / "Forest_b077.png")
    shutil.copy(root / "Field_b002.png", root / "Sea_b001.png")
    save(root / "holiday.png", np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(DatasetError) as error:
        aerial.plan(AerialOptions(root=str(root)), 0)
    text = str(error.value)
    assert "1 photos of no class: holiday.png" in text
    assert "1 classes with fewer than 3 different photos, one per split: Sea (1)" in text
    assert "2 photos in two classes: Forest_b077.png = Field_b001.png, Sea_b001.png" in text
    (classes / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no pictures"):
        aerial.plan(AerialOptions(root=str(classes / "empty")), 0)


def test_sources_are_read_by_uri_too(classes: Path) -> None:
    here = AerialOptions(root=str(classes / "prefixed"), size=SIZE)
    there = AerialOptions(root=(classes / "prefixed").as_uri(), size=SIZE)
    plan = aerial.plan(there, 0)
    assert plan == aerial.plan(here, 0)
    np.testing.assert_array_equal(
        aerial.render(plan.tasks[3], there, 0).image, aerial.render(plan.tasks[3], here, 0).image
    )


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason="no real data beside the project")
def test_real_aerial_photos() -> None:
    options = AerialOptions(root=str(DATA / "aerial"))
    tasks = aerial.plan(options, 0).tasks
    counts = collections.Counter((task.path.split("_")[0], task.split) for task in tasks)
    assert len(tasks) == 350
    assert set(counts.values()) == {40, 5}
