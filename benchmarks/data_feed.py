"""An epoch of augmented training batches against a PyTorch ``DataLoader`` doing the same work."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from harness import Case, Theme
from torch.utils.data import DataLoader, Dataset

from rayfill.training.cluster import ray_cluster
from rayfill_data.codec import decode_png
from rayfill_data.prepared.batches import AugmentOptions, Batch, augmented_batch, training_batches
from rayfill_data.prepared.pipeline import prepare
from rayfill_data.prepared.reader import PreparedDataset, SplitArrays
from rayfill_data.prepared.stream import stream_batches, training_dataset
from rayfill_data.sources.photos import PhotosOptions

_BATCH = 16
_AUGMENT = AugmentOptions(flip=True, color_jitter=0.1)
_WORKERS = 2


class InMemory(Dataset[dict[str, Any]]):
    """A split held in memory, one augmented sample at a time."""

    def __init__(self, arrays: SplitArrays) -> None:
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, index: int) -> dict[str, Any]:
        arrays = self._arrays
        return _augmented(
            arrays.image[index],
            arrays.target[index],
            arrays.hole_mask[index] if arrays.has_mask[index] else None,
            name=arrays.sample_id[index],
        )


class Decoding(Dataset[dict[str, Any]]):
    """A split's encoded rows, decoded and augmented one sample at a time."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._rows[index]
        image = decode_png(row["image"])
        return _augmented(
            image,
            image if row["target"] is None else decode_png(row["target"]),
            None if row["hole_mask"] is None else decode_png(row["hole_mask"]),
            name=row["sample_id"],
        )


def cases(folder: Path) -> Iterator[Case]:
    uri = str(folder / "photos")
    with ray_cluster():
        prepare("photos", out=uri, options=PhotosOptions(val=8, test=8), progress=lambda *_: None)
        logging.getLogger("ray.data").setLevel(logging.WARNING)  # which importing it had undone
        dataset = PreparedDataset.open(uri)
        arrays = dataset.load("train")
        in_memory, decoding = InMemory(arrays), Decoding(_rows(dataset))
        stream = training_dataset(uri, split="train")
        stream.context.enable_progress_bars = False
        ways: Mapping[str, Callable[[int], Iterator[Any]]] = {
            "Rayfill, from memory": lambda epoch: training_batches(
                arrays, batch_size=_BATCH, seed=0, epoch=epoch, augment=_AUGMENT
            ),
            "Rayfill, streamed by Ray Data": lambda epoch: stream_batches(
                stream, batch_size=_BATCH, seed=0, epoch=epoch, augment=_AUGMENT
            ),
        }
        epochs = {name: _epoch(batches, len(arrays)) for name, batches in ways.items()}
        yield Case(
            title="From memory: order, augment, batch",
            ways={
                "DataLoader": _loader_epoch(in_memory, workers=0),
                f"DataLoader, {_WORKERS} workers": _loader_epoch(in_memory, workers=_WORKERS),
                "Rayfill, from memory": epochs["Rayfill, from memory"],
            },
            units=len(arrays),
            unit="sample",
            rounds=10,
        )
        yield Case(
            title="From storage: decode, order, augment, batch",
            ways={
                "DataLoader": _loader_epoch(decoding, workers=0),
                f"DataLoader, {_WORKERS} workers": _loader_epoch(decoding, workers=_WORKERS),
                **epochs,
            },
            units=len(arrays),
            unit="sample",
            rounds=5,
            notes=(
                "The DataLoader holds the encoded rows in memory; Ray Data reads them from the "
                "Parquet files; Rayfill from memory has decoded them before.",
            ),
        )


def _augmented(image: Any, target: Any, mask: Any, *, name: str) -> dict[str, Any]:
    batch = augmented_batch(
        image[None],
        target[None],
        [mask],
        sample_id=(name,),
        seed=0,
        epoch=0,
        augment=_AUGMENT,
    )
    return {
        "image": batch.image[0],
        "target": batch.target[0],
        "hole_mask": batch.hole_mask[0],
        "sample_id": name,
    }


def _loader_epoch(samples: Dataset[dict[str, Any]], *, workers: int) -> Callable[[], object]:
    loader = DataLoader(
        samples,
        batch_size=_BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_one_thread,
    )

    def epoch() -> int:
        return sum(len(batch["sample_id"]) for batch in loader)

    return epoch


def _epoch(batches: Callable[[int], Iterator[Batch]], count: int) -> Callable[[], object]:
    """Return a function that takes one epoch's batches as tensors; each call is the next epoch."""
    number = iter(range(10**6))

    def epoch() -> None:
        seen = 0
        for batch in batches(next(number)):
            tensors = [torch.as_tensor(value) for value in dataclasses.astuple(batch)[:3]]
            seen += len(tensors[0])
        assert seen >= count, f"{seen} of {count} samples"

    return epoch


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def _rows(dataset: PreparedDataset) -> list[dict[str, Any]]:
    system, paths = dataset.shard_paths("train")
    tables = []
    for path in paths:
        with system.open_input_file(path) as stream:
            tables.append(pq.read_table(stream))
    rows: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist()
    return [rows[index] for index in np.argsort([row["sample_id"] for row in rows])]


THEME = Theme(
    title="Training batches against a PyTorch DataLoader",
    about="One epoch of the bundled photographs (960 crops of 64 px, batches of 16), with the same "
    "mirroring, colour jitter and freshly drawn holes, and nothing done with the batches.",
    libraries=("torch", "ray", "numpy", "opencv-python", "pyarrow"),
    cases=cases,
)
