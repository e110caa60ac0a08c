from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rayfill_data.codec import decode_png
from rayfill_data.contract import ROW_SCHEMA, SCHEMA_VERSION, Manifest
from rayfill_data.errors import DatasetError
from rayfill_data.prepared.reader import PreparedDataset


def edit_manifest(out: Path, **changes: Any) -> None:
    path = out / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(path: Path, *, keep: int | None = None, **columns: Any) -> None:
    rows = pq.read_table(path).to_pylist()[:keep]
    table = __import__("pyarrow").Table.from_pylist(
        [row | columns for row in rows], schema=ROW_SCHEMA
    )
    pq.write_table(table, path)


def test_load_returns_what_was_written(make_dataset: Any, make_rows: Any) -> None:
    dataset = PreparedDataset.open(str(make_dataset()))
    assert (dataset.height, dataset.width) == (16, 16)
    assert dataset.counts == {"train": 30, "val": 7, "test": 5}
    arrays = dataset.load("train")
    assert len(arrays) == 30
    for index, row in enumerate(make_rows(30, split="train")):
        assert arrays.sample_id[index] == row["sample_id"]
        np.testing.assert_array_equal(arrays.image[index], decode_png(row["image"]))
        target = row["target"] or row["image"]
        np.testing.assert_array_equal(arrays.target[index], decode_png(target))
        assert arrays.has_mask[index] == (row["hole_mask"] is not None)
        if row["hole_mask"]:
            np.testing.assert_array_equal(arrays.hole_mask[index], decode_png(row["hole_mask"]))
            assert arrays.hole_ratio[index] == np.float32(row["hole_ratio"])
        else:
            assert not arrays.hole_mask[index].any()
            assert np.isnan(arrays.hole_ratio[index])


def test_order_and_hash_do_not_depend_on_sharding(
    make_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = PreparedDataset.open(str(make_dataset("one")))
    monkeypatch.setattr("rayfill_data.prepared.writer.SHARD_ROWS", 4)
    monkeypatch.setattr("rayfill_data.prepared.writer.ROW_GROUP_ROWS", 3)
    many = PreparedDataset.open(str(make_dataset("many")))
    assert len(many.manifest.shards["train"]) == 8
    assert len(one.manifest.shards["train"]) == 1
    assert one.content_hash == many.content_hash
    for split in ("train", "val", "test"):
        first, second = one.load(split), many.load(split)
        assert first.sample_id == second.sample_id
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.hole_mask, second.hole_mask)


def test_uri_reads_like_a_path(make_dataset: Any) -> None:
    out = make_dataset()
    assert PreparedDataset.open(f"file://{out}").load("val").sample_id == (
        PreparedDataset.open(str(out)).load("val").sample_id
    )


def test_estimate_is_what_load_holds(make_dataset: Any) -> None:
    dataset = PreparedDataset.open(str(make_dataset()))
    arrays = dataset.load("train")
    held = arrays.image.nbytes + arrays.target.nbytes + arrays.hole_mask.nbytes
    assert dataset.estimate_bytes("train") == held


def test_nothing_there(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DatasetError, match="rayfill prepare"):
            PreparedDataset.open(str(place))
    file = tmp_path / "file.txt"
    file.write_text("")
    with pytest.raises(DatasetError):
        PreparedDataset.open(str(file))
    with pytest.raises(DatasetError, match="URI"):
        PreparedDataset.open("nonsense://bucket/folder")


def test_another_schema_version(make_dataset: Any) -> None:
    out = make_dataset()
    edit_manifest(out, schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(DatasetError, match=r"schema version 2.*reads version 1.*--overwrite"):
        PreparedDataset.open(str(out))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unheard_of": 1}, "unknown keys unheard_of"),
        ({"counts": {"train": 1}}, "counts"),
        ({"counts": [1, 2, 3]}, "table"),
        ({"seed": "zero"}, "whole number"),
        ({"shards": {"train": "a", "val": "b", "test": "c"}}, "lists of names"),
    ],
)
def test_odd_manifests(make_dataset: Any, changes: dict[str, Any], message: str) -> None:
    out = make_dataset()
    edit_manifest(out, **changes)
    with pytest.raises(DatasetError, match=message):
        PreparedDataset.open(str(out))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "{}"])
def test_manifests_that_are_none(make_dataset: Any, text: str) -> None:
    out = make_dataset()
    (out / "manifest.json").write_text(text)
    with pytest.raises(DatasetError, match="--overwrite"):
        PreparedDataset.open(str(out))


def test_manifest_lacking_a_key(make_dataset: Any) -> None:
    out = make_dataset()
    raw = json.loads((out / "manifest.json").read_text())
    del raw["content_hash"]
    with pytest.raises(DatasetError, match="lacks content_hash"):
        Manifest.from_json(json.dumps(raw), where="here")


def test_manifest_round_trip(make_dataset: Any) -> None:
    manifest = PreparedDataset.open(str(make_dataset())).manifest
    assert Manifest.from_json(manifest.to_json(), where="here") == manifest
    assert dataclasses.asdict(manifest)["photo_counts"] == {"train": 10, "val": 3, "test": 2}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_truncated_shard(make_dataset: Any, share: float) -> None:
    out = make_dataset()
    path = out / "train-00000.parquet"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    dataset = PreparedDataset.open(str(out))
    with pytest.raises(DatasetError, match="truncated or damaged"):
        dataset.load("train")
    assert len(dataset.load("val")) == 7


def test_flipped_byte_in_a_shard(make_dataset: Any) -> None:
    out = make_dataset()
    path = out / "val-00000.parquet"
    data = bytearray(path.read_bytes())
    position = data.index(b"IDAT") + 60
    data[position] ^= 0x01
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="damaged"):
        PreparedDataset.open(str(out)).load("val")


def test_missing_shard(make_dataset: Any) -> None:
    out = make_dataset()
    (out / "test-00000.parquet").unlink()
    with pytest.raises(DatasetError, match=r"test-00000\.parquet is missing"):
        PreparedDataset.open(str(out)).load("test")


def test_counts_unlike_the_manifest(make_dataset: Any) -> None:
    out = make_dataset()
    rewrite(out / "val-00000.parquet", keep=3)
    with pytest.raises(DatasetError, match=r"holds 3 rows, the manifest says 7"):
        PreparedDataset.open(str(out)).load("val")


def test_rows_of_another_size(make_dataset: Any) -> None:
    out = make_dataset()
    edit_manifest(out, height=32, width=32)
    with pytest.raises(DatasetError, match="val-00000"):
        PreparedDataset.open(str(out)).load("val")


def test_damaged_picture_in_a_row(make_dataset: Any) -> None:
    out = make_dataset()
    rewrite(out / "val-00000.parquet", image=b"no picture")
    with pytest.raises(DatasetError, match=r"sample val-00000 cannot be used"):
        PreparedDataset.open(str(out)).load("val")


def test_other_columns(make_dataset: Any) -> None:
    out = make_dataset()
    table = pq.read_table(out / "val-00000.parquet").drop_columns(["hole_ratio"])
    pq.write_table(table, out / "val-00000.parquet")
    with pytest.raises(DatasetError, match="columns"):
        PreparedDataset.open(str(out)).load("val")


def test_unknown_split(make_dataset: Any) -> None:
    with pytest.raises(DatasetError, match=r"'tset'.*'test'"):
        PreparedDataset.open(str(make_dataset())).load("tset")
