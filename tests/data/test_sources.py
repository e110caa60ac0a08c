from __future__ import annotations

import collections
import os
import shutil
import tracemalloc
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from rayfill_data.contract import SPLITS
from rayfill_data.errors import ConfigError, DatasetError, ImageError
from rayfill_data.masks.hole import hole_ratio
from rayfill_data.sources import SOURCES, FolderOptions, PhotosOptions, bundled, folder, photos
from rayfill_data.sources.files import list_pictures, same_bytes
from rayfill_data.sources.spec import is_object

SCENES = Path(__file__).parents[3] / "shared/data/scenes"


@pytest.fixture
def pictures(tmp_path: Path, make_picture: Any) -> Path:
    root = tmp_path / "pictures"
    (root / "deep" / "er").mkdir(parents=True)
    for index in range(20):
        place = root if index % 2 else root / "deep" / "er"
        Image.fromarray(make_picture(40, 50 + index, seed=index)).save(place / f"p{index:02d}.png")
    return root


def test_every_source_is_complete() -> None:
    for spec in SOURCES.values():
        assert spec.summary
        assert spec.options_type.__doc__


# --- photos


def test_photos_splits_never_share_a_photograph() -> None:
    plan = photos.plan(PhotosOptions(), 0)
    found = collections.defaultdict(set)
    for task in plan.tasks:
        found[task.split].add(task.source_id)
        sources = {photo.path: photo.source_id for photo in bundled.BUNDLED[task.split]}
        assert all(sources[donor] != task.source_id for donor in task.donors)
    assert set(found) == set(SPLITS)
    assert all(len(sources) >= 2 for sources in found.values())
    assert not found["train"] & found["val"]
    assert not found["train"] & found["test"]
    assert not found["val"] & found["test"]
    everywhere = [photo for group in bundled.BUNDLED.values() for photo in group]
    splits = {photo.source_id: split for split, group in bundled.BUNDLED.items() for photo in group}
    assert all(photo in bundled.BUNDLED[splits[photo.source_id]] for photo in everywhere)


def test_photos_plan_is_stable_and_grows_at_its_end() -> None:
    few = photos.plan(PhotosOptions(train=10, val=2, test=2), 3)
    many = photos.plan(PhotosOptions(train=50, val=2, test=2), 3)
    assert few == photos.plan(PhotosOptions(train=10, val=2, test=2), 3)
    assert few.tasks[:10] == many.tasks[:10]
    assert few.tasks != photos.plan(PhotosOptions(train=10, val=2, test=2), 4).tasks
    assert len({task.sample_id for task in many.tasks}) == 54


@pytest.mark.parametrize("size", [16, 64, 256])
def test_photos_render_what_the_contract_says(size: int) -> None:
    options = PhotosOptions(size=size, train=8, val=4, test=4)
    for task in photos.plan(options, 0).tasks:
        sample = photos.render(task, options, 0)
        again = photos.render(task, options, 0)
        np.testing.assert_array_equal(sample.image, again.image)
        assert sample.image.shape == (size, size, 3)
        assert sample.image.std() > 1
        if task.hole_kind == "object":
            assert sample.target is not None
            assert sample.hole_mask is not None
            changed = (sample.image != sample.target).any(axis=2)
            assert not changed[sample.hole_mask == 0].any()
            assert 0.01 < hole_ratio(sample.hole_mask) < 0.6
        else:
            assert sample.target is None
            assert (sample.hole_mask is None) == (task.split == "train")
            if sample.hole_mask is not None:
                assert 0.05 <= hole_ratio(sample.hole_mask) <= 0.4 + 1 / size**2


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_object_share_is_kept(share: float) -> None:
    assert sum(is_object(index, share) for index in range(40)) == 40 * share


def test_missing_bundled_photograph_says_what_to_install() -> None:
    with pytest.raises(DatasetError, match="Install no_such_library again"):
        bundled.read_bundled(bundled.Bundled("no_such_library", "x.png", "x", 1))


# --- folder


def plan_of(root: Path, **options: Any) -> Any:
    return folder.plan(FolderOptions(root=str(root), size=32, **options), 0)


def test_folder_finds_pictures_and_nothing_else(pictures: Path) -> None:
    (pictures / "notes.txt").write_text("no picture")
    (pictures / "Thumbs.db").write_bytes(b"\0")
    (pictures / "._p01.png").write_bytes(b"a resource fork")
    shutil.copy(pictures / "p01.png", pictures / "UPPER.PNG")
    tasks = plan_of(pictures).tasks
    assert len(tasks) == 21
    assert {task.path for task in tasks} >= {"UPPER.PNG", "deep/er/p00.png"}


def test_folder_split_is_stable_and_whole(pictures: Path, make_picture: Any) -> None:
    before = {task.path: task.split for task in plan_of(pictures).tasks}
    assert set(before.values()) == set(SPLITS)
    for index in range(200):
        picture = make_picture(8, 8, seed=1000 + index)
        Image.fromarray(picture).save(pictures / f"extra{index}.png")
    after = {task.path: task.split for task in plan_of(pictures).tasks}
    counts = collections.Counter(after.values())
    assert 8 <= counts["val"] <= 40
    assert 8 <= counts["test"] <= 40
    moved = sum(after[path] != split for path, split in before.items())
    assert moved <= 2


def test_links_to_folders_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    """With two circles the paths double at every turn: a walk into them does not end."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"1")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "up").symlink_to("..")
    (tmp_path / "masks").symlink_to("a")
    (tmp_path / "itself.png").symlink_to("itself.png")
    assert list(list_pictures(str(tmp_path))) == [
        *("a/1.png", "b/1.png", "itself.png", "masks/1.png")
    ]


def test_pictures_whose_names_are_not_utf8_are_taken(tmp_path: Path, make_picture: Any) -> None:
    names = (b"a.png", b"b\xff.png", b"c\xe4\xf6.png", "\u00e4.png".encode())
    for index, name in enumerate(names):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            Image.fromarray(make_picture(40, 40, seed=index)).save(file, "PNG")
    options = FolderOptions(root=str(tmp_path), size=40)
    tasks = folder.plan(options, 0).tasks
    assert [task.path for task in tasks] == ["a.png", r"b\xff.png", r"c\xe4\xf6.png", "\u00e4.png"]
    for index, task in enumerate(tasks):
        image = folder.render(task, options, 0).image
        assert np.array_equal(image, make_picture(40, 40, seed=index))
        assert pa.Table.from_pylist([asdict(task)])["sample_id"][0].as_py() == task.path


def test_large_files_are_hashed_in_pieces(tmp_path: Path) -> None:
    size = 64 * 2**20
    for name in ("a.png", "b.png"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    listed = list_pictures(str(tmp_path))
    tracemalloc.start()
    try:
        same = same_bytes(str(tmp_path), listed)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert same == {"a.png": "a.png", "b.png": "a.png"}
    assert peak < size / 16


def test_copies_of_a_picture_share_its_split(pictures: Path) -> None:
    for index in range(1, 20, 2):
        shutil.copy(pictures / f"p{index:02d}.png", pictures / f"copy of {index}.png")
    tasks = {task.path: task for task in plan_of(pictures).tasks}
    for index in range(1, 20, 2):
        original, copy = tasks[f"p{index:02d}.png"], tasks[f"copy of {index}.png"]
        assert original.source_id == copy.source_id
        assert original.split == copy.split


@pytest.mark.parametrize("count", [3, 4, 5])
def test_smallest_folders_have_every_split(tmp_path: Path, make_picture: Any, count: int) -> None:
    for index in range(count):
        Image.fromarray(make_picture(40, 40, seed=index)).save(tmp_path / f"{index}.png")
    assert {task.split for task in plan_of(tmp_path).tasks} == set(SPLITS)


def test_folders_that_hold_too_little(tmp_path: Path, make_picture: Any) -> None:
    with pytest.raises(DatasetError, match="holds no pictures"):
        plan_of(tmp_path)
    Image.fromarray(make_picture(40, 40)).save(tmp_path / "only.png")
    with pytest.raises(DatasetError, match=r"holds 1 different picture.*at least 3"):
        plan_of(tmp_path)
    for index in range(3):
        shutil.copy(tmp_path / "only.png", tmp_path / f"copy{index}.png")
    with pytest.raises(DatasetError, match=r"holds 1 different picture"):
        plan_of(tmp_path)
    with pytest.raises(DatasetError, match="is not a folder"):
        plan_of(tmp_path / "only.png")


def test_changed_inputs_change_the_inputs_hash(pictures: Path) -> None:
    before = plan_of(pictures).inputs_hash
    assert plan_of(pictures).inputs_hash == before
    os.utime(pictures / "p01.png", (1, 1))
    assert plan_of(pictures).inputs_hash != before


def test_folder_scales_and_crops_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((64, 192, 3), np.uint8)
    wide[:, 64:128] = (10, 200, 30)
    for name in "abc":
        wide[0, 0] = ord(name)
        Image.fromarray(wide).save(tmp_path / f"{name}.png")
    options = FolderOptions(root=str(tmp_path), size=32)
    for task in folder.plan(options, 0).tasks:
        sample = folder.render(task, options, 0)
        assert (sample.image == (10, 200, 30)).all()
        assert sample.image.shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("masks", "kinds"),
    [("irregular", {"irregular"}), ("objects", {"object"}), ("both", {"irregular", "object"})],
)
def test_folder_hole_kinds(pictures: Path, masks: Any, kinds: set[str]) -> None:
    options = FolderOptions(root=str(pictures), size=32, masks=masks)
    plan = folder.plan(options, 0)
    splits = {task.path: task.split for task in plan.tasks}
    assert {task.hole_kind for task in plan.tasks} == kinds
    assert plan.labels == (("nothing", "object") if "object" in kinds else ())
    for task in plan.tasks:
        assert all(splits[donor] == task.split for donor in task.donors)
        sample = folder.render(task, options, 0)
        assert (sample.labels is not None) == bool(plan.labels)
        if task.hole_kind == "object":
            np.testing.assert_array_equal(sample.labels == 1, sample.hole_mask == 255)
            assert not sample.target_labels.any()
            assert sample.hole_mask is not None
            changed = (sample.image != sample.target).any(axis=2)
            assert not changed[sample.hole_mask == 0].any()
        else:
            assert sample.labels is None or not sample.labels.any()
            assert (sample.hole_mask is None) == (task.split == "train")


def test_a_broken_donor_does_not_cost_its_receiver(pictures: Path) -> None:
    options = FolderOptions(root=str(pictures), size=32, masks="objects")
    task = next(task for task in folder.plan(options, 0).tasks if len(task.donors) > 1)
    for donor in task.donors[:-1]:
        (pictures / donor).write_bytes(b"broken")
    assert folder.render(task, options, 0).hole_mask is not None


def test_small_and_vanished_pictures_are_errors(pictures: Path) -> None:
    options = FolderOptions(root=str(pictures), size=64)
    task = folder.plan(options, 0).tasks[0]
    with pytest.raises(ImageError, match="smaller than size 64"):
        folder.render(task, options, 0)
    (pictures / task.path).unlink()
    with pytest.raises(FileNotFoundError):
        folder.render(task, options, 0)


@pytest.mark.realdata
@pytest.mark.skipif(not SCENES.is_dir(), reason="no photographs beside the project")
def test_real_photographs_are_all_usable() -> None:
    options = FolderOptions(root=str(SCENES), size=256, masks="both")
    tasks = folder.plan(options, 0).tasks
    shares = collections.Counter(task.split for task in tasks)
    assert len(tasks) == 200
    assert min(shares.values()) >= 10
    for task in tasks[::8]:
        assert folder.render(task, options, 0).image.std() > 5


def test_folder_options_report_every_problem() -> None:
    with pytest.raises(ConfigError) as error:
        FolderOptions(root="x", size=1, masks="some", val_share=0.5, test_share=0.5)
    assert len(error.value.problems) == 3
