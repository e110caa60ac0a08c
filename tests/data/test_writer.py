"""Writing datasets: object stores, played by a file system that is not the local one; kills."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from rayfill_data.errors import DatasetError
from rayfill_data.prepared.reader import PreparedDataset
from rayfill_data.prepared.writer import check_replaceable, open_writer, row_digest


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    system = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr("rayfill_data.storage.resolve", lambda uri: (system, uri.split("://")[1]))
    return tmp_path


def interrupted(uri: str, rows: list[dict[str, Any]]) -> None:
    with open_writer(uri) as writer:
        for row in rows:
            writer.add(row)
        writer.close()
        raise KeyboardInterrupt


def test_a_dataset_in_a_bucket(bucket: Path, make_rows: Any, write_rows: Any) -> None:
    write_rows("s3://bucket/dataset", make_rows(6))
    dataset = PreparedDataset.open("s3://bucket/dataset")
    assert len(dataset.load("val")) == 6
    assert (bucket / "bucket" / "dataset" / "manifest.json").exists()


def test_an_interrupted_upload_does_not_look_finished(
    bucket: Path, make_rows: Any, write_rows: Any
) -> None:
    uri = "s3://bucket/dataset"
    with pytest.raises(KeyboardInterrupt):
        interrupted(uri, make_rows(6))
    with pytest.raises(DatasetError, match="no finished dataset"):
        PreparedDataset.open(uri)
    write_rows(uri, make_rows(4))
    assert len(PreparedDataset.open(uri).load("val")) == 4
    with pytest.raises(KeyboardInterrupt):
        interrupted(uri, make_rows(6))
    with pytest.raises(DatasetError, match="no finished dataset"):
        PreparedDataset.open(uri)


def test_no_shard_of_an_older_dataset_stays(
    bucket: Path, make_rows: Any, write_rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayfill_data.prepared.writer.SHARD_ROWS", 2)
    write_rows("s3://bucket/dataset", make_rows(9))
    write_rows("s3://bucket/dataset", make_rows(3))
    shards = sorted(path.name for path in (bucket / "bucket" / "dataset").glob("*.parquet"))
    assert shards == ["val-00000.parquet", "val-00001.parquet"]


def test_replaceable_places(bucket: Path, make_rows: Any, write_rows: Any) -> None:
    check_replaceable("s3://bucket/new", overwrite=False)
    write_rows("s3://bucket/dataset", make_rows(2))
    check_replaceable("s3://bucket/dataset", overwrite=True)
    with pytest.raises(DatasetError, match="--overwrite"):
        check_replaceable("s3://bucket/dataset", overwrite=False)
    (bucket / "bucket" / "dataset" / "mine.txt").write_text("")
    with pytest.raises(DatasetError, match=r"mine\.txt"):
        check_replaceable("s3://bucket/dataset", overwrite=True)


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(
    tmp_path: Path, make_rows: Any, write_rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    out = tmp_path / "dataset"
    with pytest.raises(DatasetError, match=r"dataset cannot be written \(No space left"):
        write_rows(str(out), make_rows(3))
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_caller_stays_itself(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError), open_writer(str(tmp_path / "dataset")):
        raise ConnectionError("no cluster")
    assert list(tmp_path.iterdir()) == []


#: Writes the rows and the manifest of the dataset beside it.
OVERWRITING = {
    "imports": """
import pyarrow.parquet as pq
from rayfill_data.prepared.reader import read_manifest
from rayfill_data.prepared.writer import open_writer
""",
    "act": """
        with open_writer(f"{folder}/dataset") as writer:
            for row in pq.read_table(f"{folder}/new/val-00000.parquet").to_pylist():
                writer.add(row)
            writer.close()
            writer.write_manifest(read_manifest(f"{folder}/new"))
""",
}


@pytest.mark.process
def test_killed_anywhere_while_overwriting_the_old_dataset_or_the_new_one_is_there(
    tmp_path: Path, make_rows: Any, write_rows: Any, killed_at_every_step: Any
) -> None:
    before = tmp_path / "before"
    write_rows(str(before / "dataset"), make_rows(5))
    write_rows(str(before / "new"), make_rows(3))
    left = killed_at_every_step(**OVERWRITING, before=before, after=tmp_path / "once")
    hidden = [folder for folder in left if not (folder / "dataset").exists()]
    assert hidden, "no kill fell between the renames"
    # Killed once more, from where the name is gone.
    left += killed_at_every_step(**OVERWRITING, before=hidden[0], after=tmp_path / "twice")
    found = []
    for folder in left:
        out = str(folder / "dataset")
        found.append(len(PreparedDataset.open(out).load("val")))
        with pytest.raises(DatasetError, match="--overwrite"):
            check_replaceable(out, overwrite=False)
        with pytest.raises(KeyboardInterrupt):
            interrupted(out, make_rows(2))
        assert len(PreparedDataset.open(out).load("val")) == found[-1]
        write_rows(out, make_rows(4))
        assert len(PreparedDataset.open(out).load("val")) == 4
        assert sorted(path.name for path in folder.iterdir()) == ["dataset", "new"]
    assert found[0] == 5
    assert found[-1] == 3
    assert set(found) == {3, 5}


def test_of_a_dataset_that_is_a_link_only_the_link_is_replaced(
    tmp_path: Path, make_rows: Any, write_rows: Any
) -> None:
    write_rows(str(tmp_path / "elsewhere"), make_rows(5))
    (tmp_path / "dataset").symlink_to(tmp_path / "elsewhere")
    write_rows(str(tmp_path / "dataset"), make_rows(3))
    assert len(PreparedDataset.open(str(tmp_path / "dataset")).load("val")) == 3
    assert len(PreparedDataset.open(str(tmp_path / "elsewhere")).load("val")) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "elsewhere"]


def test_digest_sees_every_column(make_rows: Any, write_rows: Any) -> None:
    row = make_rows(1)[0]
    others = [
        row | {"sample_id": "x"},
        row | {"target": None},
        row | {"hole_mask": b""},
        row | {"hole_mask": None},
        row | {"hole_ratio": 0.25},
        row | {"height": 17},
        row | {"width": 17},
    ]
    digests = {row_digest(entry) for entry in [row, *others]}
    assert len(digests) == len(others) + 1
    assert row_digest(dict(row)) == row_digest(row)
