from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayfill_data.errors import DatasetError
from rayfill_data.prepared.batches import AugmentOptions, Batch, training_batches
from rayfill_data.prepared.reader import PreparedDataset
from rayfill_data.prepared.stream import stream_batches, training_dataset

AUGMENT = AugmentOptions(color_jitter=0.3, expand_px=1)


@pytest.fixture
def out(make_dataset: Any, monkeypatch: pytest.MonkeyPatch, ray_local: None) -> Path:
    monkeypatch.setattr("rayfill_data.prepared.writer.ROW_GROUP_ROWS", 5)
    monkeypatch.setattr("rayfill_data.prepared.writer.SHARD_ROWS", 10)
    return make_dataset()


def streamed(stream: Any, **options: Any) -> list[Batch]:
    settings = {"batch_size": 4, "seed": 1, "epoch": 0, "augment": AUGMENT} | options
    return list(stream_batches(stream, **settings))


def by_sample(batches: list[Batch]) -> dict[str, tuple[bytes, ...]]:
    found = {}
    for batch in batches:
        for index, name in enumerate(batch.sample_id):
            assert name not in found
            parts = (batch.image[index], batch.target[index], batch.hole_mask[index])
            found[name] = tuple(part.tobytes() for part in parts)
    return found


def test_a_stream_gives_the_samples_that_memory_gives(out: Path) -> None:
    stream = training_dataset(str(out), split="train")
    batches = streamed(stream)
    assert [len(batch.sample_id) for batch in batches] == [4] * 7 + [2]
    arrays = PreparedDataset.open(str(out)).load("train")
    expected = training_batches(arrays, batch_size=3, seed=1, epoch=0, augment=AUGMENT)
    assert by_sample(batches) == by_sample(list(expected))
    batch = batches[0]
    assert batch.image.shape == (4, 3, 16, 16)
    assert batch.hole_mask.shape == (4, 1, 16, 16)
    assert batch.image.dtype == np.float32
    later = streamed(stream, epoch=1)
    assert set(by_sample(later)) == set(by_sample(batches))
    assert [b.sample_id for b in later] != [b.sample_id for b in batches]


def test_two_workers_share_a_stream(out: Path) -> None:
    import ray

    @ray.remote(num_cpus=0.5)
    def consume(shard: Any) -> list[str]:
        return [name for batch in streamed(shard) for name in batch.sample_id]

    shards = training_dataset(str(out), split="train").streaming_split(2, equal=True)
    one, two = ray.get([consume.remote(shard) for shard in shards])
    assert len(one) == len(two) == 15
    assert len(set(one + two)) == 30


def test_streams_of_nothing(out: Path, make_dataset: Any) -> None:
    with pytest.raises(DatasetError, match="unknown|Unknown"):
        training_dataset(str(out), split="tain")
    empty = make_dataset("empty", train=0)
    with pytest.raises(DatasetError, match="nothing to stream"):
        training_dataset(str(empty), split="train")
    path = out / "train-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match="truncated"):
        training_dataset(str(out), split="train")


def test_damage_found_while_streaming_names_the_shard(out: Path) -> None:
    stream = training_dataset(str(out), split="train")
    path = out / "train-00002.parquet"
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 60] ^= 0x01
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"train-00002\.parquet is truncated or damaged"):
        streamed(stream)
