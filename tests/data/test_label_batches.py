"""Label maps and signed distances, from rows to batches; holes drawn over the target."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rayfill_data.codec import encode_png
from rayfill_data.contract import OPTIONAL_COLUMNS, SPLITS
from rayfill_data.errors import DatasetError
from rayfill_data.masks.distance import signed_distance
from rayfill_data.prepared.batches import (
    AugmentOptions,
    Batch,
    evaluation_batches,
    training_batches,
)
from rayfill_data.prepared.reader import PreparedDataset, SplitArrays
from rayfill_data.prepared.stream import stream_batches, training_dataset
from rayfill_data.prepared.writer import row_digest

LABELS = ("nothing", "person", "dog")


def label_map(index: int) -> np.ndarray:
    levels = np.random.default_rng(index).integers(0, 4, (16, 16), dtype=np.uint8)
    return np.where(levels == 3, np.uint8(255), levels)


@pytest.fixture
def labelled(tmp_path: Path, make_rows: Any, write_rows: Any) -> Path:
    """A dataset with labels; every third sample's target shows what its image shows."""
    out = tmp_path / "labelled"
    rows = []
    for split in SPLITS:
        for index, row in enumerate(make_rows(12, split=split)):
            row["labels"] = encode_png(label_map(index))
            row["target_labels"] = encode_png(label_map(100 + index)) if index % 3 else None
            rows.append(row)
    write_rows(str(out), rows, labels=LABELS)
    return out


def epoch_of(arrays: SplitArrays, epoch: int = 0, **augment: Any) -> list[Batch]:
    options = AugmentOptions(**augment)
    return list(training_batches(arrays, batch_size=4, seed=1, epoch=epoch, augment=options))


def test_labels_are_read_as_they_were_written(labelled: Path) -> None:
    dataset = PreparedDataset.open(str(labelled))
    assert dataset.manifest.labels == LABELS
    arrays = dataset.load("train")
    assert arrays.labels is not None
    assert arrays.target_labels is not None
    for index in range(12):
        np.testing.assert_array_equal(arrays.labels[index], label_map(index))
        behind = label_map(100 + index) if index % 3 else label_map(index)
        np.testing.assert_array_equal(arrays.target_labels[index], behind)
    assert dataset.estimate_bytes("train") == 12 * 16 * 16 * 9


def test_label_batches_are_flipped_with_their_pictures(labelled: Path) -> None:
    arrays = PreparedDataset.open(str(labelled)).load("train")
    assert arrays.labels is not None
    assert arrays.target_labels is not None
    flipped = 0
    for batch in epoch_of(arrays, expand_px=2):
        assert batch.labels is not None
        assert batch.target_labels is not None
        assert batch.labels.dtype == batch.target_labels.dtype == np.int64
        for place, name in enumerate(batch.sample_id):
            index = arrays.sample_id.index(name)
            stored = arrays.image[index] / np.float32(255)
            same = np.array_equal(batch.image[place].transpose(1, 2, 0), stored)
            turn = slice(None, None, 1 if same else -1)
            np.testing.assert_array_equal(batch.labels[place], arrays.labels[index][:, turn])
            behind = arrays.target_labels[index][:, turn]
            np.testing.assert_array_equal(batch.target_labels[place], behind)
            flipped += not same
    assert 0 < flipped < 12


def test_evaluation_gives_labels_and_distances(labelled: Path) -> None:
    arrays = PreparedDataset.open(str(labelled)).load("val")
    assert arrays.labels is not None
    for batch in evaluation_batches(arrays, batch_size=5, signed_distance=True):
        assert batch.labels is not None
        assert batch.signed_distance is not None
        for place, name in enumerate(batch.sample_id):
            index = arrays.sample_id.index(name)
            np.testing.assert_array_equal(batch.labels[place], arrays.labels[index])
            expected = signed_distance(arrays.hole_mask[index])
            np.testing.assert_array_equal(batch.signed_distance[place, 0], expected)
    plain = next(evaluation_batches(arrays, batch_size=5))
    assert plain.signed_distance is None


@pytest.mark.parametrize("expand_px", [0, 2])
@pytest.mark.parametrize("redraw", [False, True])
def test_distances_belong_to_the_holes_of_their_batch(
    labelled: Path, expand_px: int, redraw: bool
) -> None:
    arrays = PreparedDataset.open(str(labelled)).load("train")
    assert not arrays.has_mask.all()
    for epoch in range(2):
        for batch in epoch_of(
            arrays, epoch, signed_distance=True, expand_px=expand_px, redraw=redraw
        ):
            assert batch.signed_distance is not None
            assert batch.signed_distance.shape == batch.hole_mask.shape
            assert batch.signed_distance.dtype == np.float32
            for hole, distance in zip(batch.hole_mask, batch.signed_distance, strict=True):
                expected = signed_distance((hole[0] * 255).astype(np.uint8))
                np.testing.assert_allclose(distance[0], expected, atol=1e-6)
    assert all(batch.signed_distance is None for batch in epoch_of(arrays))


def test_redrawn_holes_lie_over_the_target(labelled: Path) -> None:
    arrays = PreparedDataset.open(str(labelled)).load("train")
    stored = {
        name: mask.tobytes()
        for name, mask in zip(arrays.sample_id, arrays.hole_mask > 0, strict=True)
    }
    epochs = [epoch_of(arrays, epoch, redraw=True, flip=False) for epoch in range(2)]
    holes: list[dict[str, bytes]] = []
    for batches in epochs:
        holes.append({})
        for batch in batches:
            np.testing.assert_array_equal(batch.image, batch.target)
            assert batch.labels is not None
            np.testing.assert_array_equal(batch.labels, batch.target_labels)
            for name, hole in zip(batch.sample_id, batch.hole_mask, strict=True):
                holes[-1][name] = (hole[0] > 0).tobytes()
                index = arrays.sample_id.index(name)
                truth = batch.target[batch.sample_id.index(name)].transpose(1, 2, 0)
                np.testing.assert_array_equal(truth, arrays.target[index] / np.float32(255))
    assert all(holes[0][name] != holes[1][name] for name in holes[0])
    assert all(holes[0][name] != stored[name] for name in holes[0])


def test_drawn_holes_do_not_depend_on_redraw(labelled: Path) -> None:
    """A row whose hole is drawn anyway gets the same one."""
    arrays = PreparedDataset.open(str(labelled)).load("train")
    fresh = {name for name, has in zip(arrays.sample_id, arrays.has_mask, strict=True) if not has}
    pairs = zip(epoch_of(arrays), epoch_of(arrays, redraw=True), strict=True)
    for kept, redrawn in pairs:
        for index, name in enumerate(kept.sample_id):
            same = np.array_equal(kept.hole_mask[index], redrawn.hole_mask[index])
            assert same == (name in fresh)


def test_a_stream_gives_labels_and_distances_too(labelled: Path, ray_local: None) -> None:
    options = AugmentOptions(signed_distance=True, color_jitter=0.2)
    stream = training_dataset(str(labelled), split="train")
    arrays = PreparedDataset.open(str(labelled)).load("train")
    expected = {
        name: (batch.labels[place], batch.target_labels[place], batch.signed_distance[place])
        for batch in training_batches(arrays, batch_size=4, seed=1, epoch=0, augment=options)
        for place, name in enumerate(batch.sample_id)
        if batch.labels is not None
        and batch.target_labels is not None
        and batch.signed_distance is not None
    }
    seen = 0
    for batch in stream_batches(stream, batch_size=5, seed=1, epoch=0, augment=options):
        assert batch.labels is not None
        assert batch.target_labels is not None
        assert batch.signed_distance is not None
        for place, name in enumerate(batch.sample_id):
            found = batch.labels[place], batch.target_labels[place], batch.signed_distance[place]
            for part, wanted in zip(found, expected[name], strict=True):
                np.testing.assert_array_equal(part, wanted)
            seen += 1
    assert seen == len(expected) == 12


def drop_label_columns(out: Path) -> None:
    """Make a dataset as it was written before there were labels."""
    for shard in out.glob("*.parquet"):
        table = pq.read_table(shard)
        pq.write_table(table.drop_columns(list(OPTIONAL_COLUMNS)), shard)
    path = out / "manifest.json"
    raw = json.loads(path.read_text())
    raw.pop("labels")
    path.write_text(json.dumps(raw))


def test_older_datasets_are_read_as_without_labels(make_dataset: Any, ray_local: None) -> None:
    out = make_dataset()
    before = PreparedDataset.open(str(out)).load("train")
    drop_label_columns(out)
    dataset = PreparedDataset.open(str(out))
    assert dataset.manifest.labels == ()
    arrays = dataset.load("train")
    assert arrays.labels is None
    np.testing.assert_array_equal(arrays.image, before.image)
    stream = training_dataset(str(out), split="train")
    batch = next(stream_batches(stream, batch_size=5, seed=1, epoch=0, augment=AugmentOptions()))
    assert batch.labels is None
    assert batch.target_labels is None


def test_rows_without_labels_keep_the_hash_they_had(make_rows: Any) -> None:
    row = make_rows(1)[0]
    assert row_digest(row) == row_digest(row | dict.fromkeys(OPTIONAL_COLUMNS))
    shown, behind = row | {"labels": b"x"}, row | {"target_labels": b"x"}
    assert len({row_digest(row), row_digest(shown), row_digest(behind)}) == 3


def test_label_maps_that_do_not_fit_the_manifest(labelled: Path) -> None:
    path = labelled / "manifest.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"labels": ["nothing", "person"]}))
    with pytest.raises(DatasetError, match="label map holds 2, the manifest has 2 labels"):
        PreparedDataset.open(str(labelled)).load("val")
    path.write_text(json.dumps(raw | {"labels": "person"}))
    with pytest.raises(DatasetError, match="labels that are not a list of names"):
        PreparedDataset.open(str(labelled))


def test_a_row_without_its_labels(make_dataset: Any) -> None:
    out = make_dataset()
    path = out / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": list(LABELS)}))
    with pytest.raises(DatasetError, match="no label map"):
        PreparedDataset.open(str(out)).load("val")


def test_distances_are_made_once(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = PreparedDataset.open(str(labelled)).load("train")
    arrays = dataclasses.replace(arrays, has_mask=np.ones(12, np.bool_))
    first = arrays.signed_distance
    monkeypatch.setattr("rayfill_data.prepared.reader.signed_distance", None)
    monkeypatch.setattr("rayfill_data.prepared.batches.signed_distance", None)
    assert arrays.signed_distance is first
    assert len(epoch_of(arrays, signed_distance=True)) == 3
