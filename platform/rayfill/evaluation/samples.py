"""The samples of a split as systems are measured on them: by size, in shards, in order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayfill_data.errors import DatasetError
from rayfill_data.prepared.reader import PreparedDataset, SplitArrays
from rayfill_data.sources.files import some

#: A batch where nobody says how many samples: 32 of 256x256 pixels, 8 of 512x512.
_BATCH_SAMPLES = 32
_BATCH_PIXELS = _BATCH_SAMPLES * 256 * 256

#: Shards of a split for each core: enough that no core waits long for the last one.
_SHARDS_PER_CORE = 4


def load_samples(dataset: PreparedDataset, *, split: str) -> Sequence[SplitArrays]:
    """Return the samples of a split by size, all with a frozen hole.

    Raises:
        DatasetError: no samples, or some without a hole.
    """
    parts = dataset.load_by_size(split)
    if not sum(map(len, parts)):
        raise DatasetError(
            f"{dataset.uri}: split {split!r} holds no samples. Name another --split, or prepare "
            "pictures for testing with `rayfill prepare test_set`."
        )
    unfrozen = [
        sample
        for part in parts
        for sample, frozen in zip(part.sample_id, part.has_mask, strict=True)
        if not frozen
    ]
    if unfrozen:
        raise DatasetError(
            f"{dataset.uri}: {len(unfrozen)} samples of split {split!r} have no hole mask "
            f"({some(unfrozen)}), and every system needs the same holes. Measure on val or test."
        )
    return parts


def without(parts: Sequence[SplitArrays], missing: set[str]) -> list[SplitArrays]:
    """Return the parts without some samples, and no empty ones."""
    if not missing:
        return list(parts)
    kept = [
        part.take([row for row, sample in enumerate(part.sample_id) if sample not in missing])
        for part in parts
    ]
    return [part for part in kept if len(part)]


def batch_size(parts: Sequence[SplitArrays]) -> int:
    """Return how many samples are measured at a time where nobody says."""
    largest = max(part.hole_mask[0].size for part in parts)
    return int(max(1, min(_BATCH_SAMPLES, _BATCH_PIXELS // largest)))


def shards(part: SplitArrays, *, batch_size: int) -> list[SplitArrays]:
    """Cut a part into shards of whole batches."""
    batches = -(-len(part) // batch_size)
    wanted = _SHARDS_PER_CORE * (os.cpu_count() or 1)
    step = -(-batches // wanted) * batch_size
    return [
        part.take(range(start, min(start + step, len(part)))) for start in range(0, len(part), step)
    ]


class Samples(NamedTuple):
    """What is known of all samples, in the split's order whatever their sizes."""

    sample_id: tuple[str, ...]
    source_id: tuple[str, ...]
    """The photograph of each."""
    hole_ratio: NDArray[np.float32]
    """(N,) share of hole pixels of each."""
    order: NDArray[np.intp]
    """(N,) which one it is of the parts one after the other."""


def in_order(parts: Sequence[SplitArrays]) -> Samples:
    """Return the samples of all parts in the split's order."""
    names = np.concatenate([part.sample_id for part in parts])
    order = np.argsort(names, kind="stable")
    return Samples(
        sample_id=tuple(names[order].tolist()),
        source_id=tuple(np.concatenate([part.source_id for part in parts])[order].tolist()),
        hole_ratio=np.concatenate([part.hole_ratio for part in parts])[order],
        order=order,
    )
