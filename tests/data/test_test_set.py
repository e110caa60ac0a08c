"""Test sets as they are: every pixel as given, sizes that differ, nothing to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rayfill.config.run import DataConfig, RunConfig
from rayfill.runs.datasets import check_data
from rayfill_data.errors import ConfigError, DatasetError
from rayfill_data.prepared.pipeline import prepare
from rayfill_data.prepared.preview import contact_sheet
from rayfill_data.prepared.reader import PreparedDataset
from rayfill_data.sources import TestSetOptions

SIZES = {"b/2": (40, 30), "a": (20, 50), "c": (40, 30), "d": (40, 31)}


def picture(name: str, *, other: bool = False) -> np.ndarray:
    rng = np.random.default_rng([len(name), ord(name[-1]), other])
    return rng.integers(0, 256, (*SIZES[name], 3), dtype=np.uint8)


def mask(name: str) -> np.ndarray:
    hole = np.zeros(SIZES[name], np.uint8)
    hole[5:12, 7:25] = 255
    return hole


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in SIZES:
        for role, pixels in (
            ("input", picture(name)),
            ("mask", mask(name)),
            ("target", picture(name, other=True)),
        ):
            path = tmp_path / role / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path


def options(folder: Path, *roles: str, **changes: float) -> TestSetOptions:
    folders = {role: str(folder / role) for role in ("input", "mask", *roles)}
    return TestSetOptions(**folders, **changes)  # type: ignore[arg-type]


def test_every_pixel_and_every_size_is_as_given(ray_local: None, folder: Path) -> None:
    out = str(folder / "set")
    manifest = prepare("test_set", out=out, options=options(folder, "target"))
    assert manifest.counts == {"train": 0, "val": 0, "test": 4}
    assert (manifest.height, manifest.width) == (0, 0)
    dataset = PreparedDataset.open(out)
    parts = dataset.load_by_size("test")
    assert [part.image.shape[1:3] for part in parts] == [(20, 50), (40, 30), (40, 31)]
    assert [part.sample_id for part in parts] == [("a",), ("b/2", "c"), ("d",)]
    for part in parts:
        for index, name in enumerate(part.sample_id):
            assert np.array_equal(part.image[index], picture(name))
            assert np.array_equal(part.target[index], picture(name, other=True))
            assert np.array_equal(part.hole_mask[index], mask(name))
    assert contact_sheet(dataset).shape[2] == 3
    with pytest.raises(DatasetError, match="rayfill evaluate"):
        dataset.load("test")
    with pytest.raises(ConfigError, match="no samples in train and val"):
        check_data(RunConfig(data=DataConfig(uri=out)))


def test_a_set_may_say_that_it_has_no_truth(ray_local: None, folder: Path) -> None:
    out = str(folder / "set")
    prepare("test_set", out=out, options=options(folder, truth=False))
    assert not PreparedDataset.open(out).has_truth
    prepare("test_set", out=out, options=options(folder), overwrite=True)
    assert PreparedDataset.open(out).has_truth
    with pytest.raises(ConfigError, match="--target is given with --no-truth"):
        options(folder, "target", truth=False)


def test_pictures_of_one_size_are_an_ordinary_dataset(ray_local: None, folder: Path) -> None:
    for name in ("a", "d"):
        for role in ("input", "mask"):
            (folder / role / f"{name}.png").unlink()
    out = str(folder / "set")
    prepare("test_set", out=out, options=options(folder))
    dataset = PreparedDataset.open(out)
    assert (dataset.height, dataset.width) == (40, 30)
    (part,) = dataset.load_by_size("test")
    arrays = dataset.load("test")
    assert part.sample_id == arrays.sample_id == ("b/2", "c")
    assert np.array_equal(arrays.target, arrays.image)


def test_one_bad_file_fails_the_set_unless_allowed(ray_local: None, folder: Path) -> None:
    Image.fromarray(mask("a")[:-1]).save(folder / "mask" / "c.png")
    with pytest.raises(DatasetError, match=r"c\.png.*50x19"):
        prepare("test_set", out=str(folder / "set"), options=options(folder))
    manifest = prepare(
        "test_set", out=str(folder / "set"), options=options(folder, max_rejected=0.3)
    )
    assert (manifest.counts["test"], manifest.rejected) == (3, 1)


def test_files_without_partners_are_listed_at_once(folder: Path, ray_local: None) -> None:
    (folder / "mask" / "a.png").unlink()
    (folder / "target" / "d.png").unlink()
    with pytest.raises(DatasetError) as caught:
        prepare("test_set", out=str(folder / "set"), options=options(folder, "target"))
    assert "1 samples without mask: a." in str(caught.value)
    assert "1 samples without target: d." in str(caught.value)
    with pytest.raises(DatasetError, match="is not a folder"):
        prepare("test_set", out=str(folder / "set"), options=options(folder / "none"))
