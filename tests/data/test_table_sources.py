"""CIFAR-10 and Parquet files."""

from __future__ import annotations

import collections
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayfill_data.codec import encode_png
from rayfill_data.contract import SPLITS
from rayfill_data.errors import ConfigError, DatasetError, ImageError
from rayfill_data.sources import Cifar10Options, ParquetOptions, cifar10, parquet

DATA = Path(__file__).parents[3] / "shared/data"


def pictures(count: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def write(path: Path, images: np.ndarray, *, struct: bool = True, **columns: Any) -> None:
    encoded: list[Any] = [encode_png(image) for image in images]
    if struct:
        encoded = [{"bytes": data, "path": None} for data in encoded]
    pq.write_table(pa.table({"image": encoded} | columns), path, row_group_size=7)


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Write strings and bytes alike as Python 2 did, which wrote the official archive."""

    def save_string(self, text: Any) -> None:
        data = text if isinstance(text, bytes) else text.encode()
        self.write(b"T" + len(data).to_bytes(4, "little") + data)
        self.memoize(text)

    dispatch = pickle._Pickler.dispatch | {bytes: save_string, str: save_string}  # type: ignore[attr-defined]


def python2_pickle(table: Any) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(table)
    return stream.getvalue()


def write_batches(folder: Path, rows: int = 6) -> np.ndarray:
    """Write the archive's files; return all pictures in their order."""
    folder.mkdir()
    images = pictures(6 * rows)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for number, name in enumerate(names):
        part = images[number * rows : (number + 1) * rows]
        data = np.ascontiguousarray(part.transpose(0, 3, 1, 2).reshape(rows, 3072))
        table = {b"data": data, b"labels": [0] * rows, b"batch_label": b"x"}
        data = python2_pickle(table) if number % 2 else pickle.dumps(table, protocol=2)
        (folder / name).write_bytes(data)
    return images


def tar_of(folder: Path) -> Path:
    path = folder.parent / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname="cifar-10-batches-py")
    return path


def splits_of(tasks: Any) -> dict[str, int]:
    found = collections.defaultdict(set)
    for task in tasks:
        found[task.source_id].add(task.split)
    assert all(len(splits) == 1 for splits in found.values())
    return dict(collections.Counter(task.split for task in tasks))


def test_cifar_as_folder_and_archive(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    images = write_batches(folder)
    for root in (folder, tmp_path, tar_of(folder)):
        options = Cifar10Options(root=str(root), val=5)
        tasks = cifar10.plan(options, 0).tasks
        assert splits_of(tasks) == {"train": 25, "val": 5, "test": 6}
        for index in (0, 13, 35):
            sample = cifar10.render(tasks[index], options, 0)
            np.testing.assert_array_equal(sample.image, images[index])
            assert (sample.hole_mask is None) == (tasks[index].split == "train")


def test_cifar_batches_that_are_missing_or_damaged_are_all_listed(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    write_batches(folder)
    (folder / "data_batch_2").unlink()
    (folder / "data_batch_3").write_bytes(b"\x80\x02}")
    (folder / "data_batch_4").write_bytes(pickle.dumps({b"data": np.zeros((2, 9), np.uint8)}, 2))
    (folder / "data_batch_5").write_bytes(b"\x80\x02cposix\nsystem\nq\x00U\x04trueq\x01\x85q\x02R.")
    with pytest.raises(DatasetError) as error:
        cifar10.plan(Cifar10Options(root=str(folder)), 0)
    text = str(error.value)
    assert "data_batch_2 is missing" in text
    for number in (3, 5):
        assert f"data_batch_{number}: It is damaged" in text
    assert "data_batch_4: It holds no 32x32 RGB pictures" in text


def test_a_pickle_that_would_run_code_runs_none(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    folder = tmp_path / "cifar-10-batches-py"
    write_batches(folder)
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": Bomb()}, protocol=2))
    with pytest.raises(DatasetError, match="test_batch: It is damaged"):
        cifar10.plan(Cifar10Options(root=str(folder)), 0)
    assert not (tmp_path / "exploded").exists()


def test_cifar_as_parquet_with_a_split_column_or_split_files(tmp_path: Path) -> None:
    images = pictures(30)
    write(tmp_path / "all.parquet", images, split=["train"] * 20 + ["test"] * 10)
    (tmp_path / "hub").mkdir()
    write(tmp_path / "hub/train-00000-of-00001.parquet", images[:20], struct=False)
    write(tmp_path / "hub/test-00000-of-00001.parquet", images[20:], struct=False)
    for root in ("all.parquet", "hub"):
        options = Cifar10Options(root=str(tmp_path / root), val=4)
        tasks = cifar10.plan(options, 0).tasks
        assert splits_of(tasks) == {"train": 16, "val": 4, "test": 10}
        for task in tasks[::6]:
            sample = cifar10.render(task, options, 0)
            assert (sample.image == images).all(axis=(1, 2, 3)).any()


def test_training_pictures_that_are_test_pictures_are_left_out(tmp_path: Path) -> None:
    images = pictures(30)
    images[3] = images[25]
    images[5] = images[6]
    write(tmp_path / "all.parquet", images, split=["train"] * 20 + ["test"] * 10)
    plan = cifar10.plan(Cifar10Options(root=str(tmp_path / "all.parquet"), val=9), 0)
    assert sum(splits_of(plan.tasks).values()) == 29
    assert plan.notes == ("1 training pictures are test pictures too; they were left out.",)


def test_cifar_of_another_layout(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no Parquet files"):
        cifar10.plan(Cifar10Options(root=str(tmp_path)), 0)
    write(tmp_path / "all.parquet", pictures(12), split=["train"] * 11 + ["dev"])
    with pytest.raises(DatasetError, match="must be train or test"):
        cifar10.plan(Cifar10Options(root=str(tmp_path / "all.parquet")), 0)
    write(tmp_path / "few.parquet", pictures(12), split=["train"] * 12)
    with pytest.raises(DatasetError, match=r"(?s)no test pictures.*--val takes 5000"):
        cifar10.plan(Cifar10Options(root=str(tmp_path / "few.parquet")), 0)
    with pytest.raises(ConfigError, match="needs pictures with names"):
        Cifar10Options(root="x", masks="paired", mask_folder="y")


def test_parquet_splits_by_photo(tmp_path: Path) -> None:
    people = [f"person {index // 3}" for index in range(30)]
    write(tmp_path / "faces.parquet", pictures(30), person=people)
    root = str(tmp_path / "faces.parquet")
    options = ParquetOptions(root=root, size=32, photo_column="person", masks="lines_thin")
    tasks = parquet.plan(options, 0).tasks
    assert set(splits_of(tasks)) == set(SPLITS)
    assert {task.source_id for task in tasks} == set(people)
    sample = parquet.render(tasks[17], options, 0)
    np.testing.assert_array_equal(sample.image, pictures(30)[17])


def test_parquet_with_splits_of_its_own(tmp_path: Path) -> None:
    said = ["train"] * 20 + ["validation"] * 5 + ["test"] * 5
    write(tmp_path / "a.parquet", pictures(30), split=said)
    options = ParquetOptions(root=str(tmp_path), size=32, split_column="split")
    assert splits_of(parquet.plan(options, 0).tasks) == {"train": 20, "val": 5, "test": 5}
    images = pictures(30)
    images[29] = images[0]
    write(tmp_path / "a.parquet", images, split=[*said[:-2], "other", "test"])
    fresh = ParquetOptions(root=str(tmp_path) + "/", size=32, split_column="split")
    with pytest.raises(DatasetError, match=r"(?s)says other; allowed.*1 photos are in two splits"):
        parquet.plan(fresh, 0)


def test_parquet_columns_that_cannot_be_used_are_all_listed(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pictures(3), struct=False)
    pq.write_table(pa.table({"image": [1, 2]}), tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 no")
    options = ParquetOptions(root=str(tmp_path), photo_column="person")
    with pytest.raises(DatasetError) as error:
        parquet.plan(options, 0)
    text = str(error.value)
    assert "a.parquet has no column 'person'; it has image." in text
    assert "b.parquet: column 'image' is int64" in text
    assert "c.parquet is no Parquet file" in text


def test_rows_without_a_picture_are_rejected(tmp_path: Path) -> None:
    data = [None, b"text", *(encode_png(image) for image in pictures(8))]
    pq.write_table(pa.table({"image": pa.array(data, pa.binary())}), tmp_path / "a.parquet")
    options = ParquetOptions(root=str(tmp_path / "a.parquet"), size=32)
    tasks = parquet.plan(options, 0).tasks
    with pytest.raises(ImageError, match="holds no picture"):
        parquet.render(tasks[0], options, 0)
    with pytest.raises(ImageError, match="no known picture format"):
        parquet.render(tasks[1], options, 0)


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason="no real data beside the project")
def test_real_cifar() -> None:
    options = Cifar10Options(root=str(DATA / "cifar10/cifar10_full.parquet"))
    tasks = cifar10.plan(options, 0).tasks
    counts = splits_of(tasks)
    assert counts["test"] == 10000
    assert 49990 <= counts["train"] + counts["val"] <= 50000
    assert 5000 <= counts["val"] <= 5010
    for task in tasks[::4000]:
        assert cifar10.render(task, options, 0).image.shape == (32, 32, 3)
