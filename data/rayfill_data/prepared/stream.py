"""Training batches out of a prepared dataset that is larger than memory, through Ray Data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayfill_data.codec import UInt8Array, decode_png
from rayfill_data.contract import OPTIONAL_COLUMNS
from rayfill_data.errors import DatasetError, ImageError
from rayfill_data.masks.hole import sample_rng
from rayfill_data.prepared.batches import AugmentOptions, Batch, Extras, augmented_batch
from rayfill_data.prepared.reader import PreparedDataset
from rayfill_data.storage import locate

if TYPE_CHECKING:
    from ray.data import DataIterator, Dataset

#: What one reading task asks for, so that trainers holding whole CPUs never starve the stream.
_READ_CPUS = 0.25

#: Rows shuffled among each other on top of the order of the row groups.
_SHUFFLE_ROWS = 1000

_DECODED_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string()),
        pa.field("image", pa.binary()),
        pa.field("target", pa.binary()),
        pa.field("hole_mask", pa.binary()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("labels", pa.binary()),
        pa.field("target_labels", pa.binary()),
        # An error travels as a row: Ray would wrap an exception beyond recognition.
        pa.field("problem", pa.string()),
    ]
)


_STORED_COLUMNS = _DECODED_SCHEMA.names[:-1]

_ADVICE = "Prepare the dataset again with --overwrite."


def training_dataset(uri: str, *, split: str) -> Dataset:
    """Return a lazy Ray dataset of decoded rows, one block per Parquet row group.

    Pictures are binary columns of raw uint8 samples, row by row: `image` and `target` RGB,
    `hole_mask` and labels one byte per pixel; `target` null where it equals the image, `hole_mask`
    where it is to be drawn, labels where there are none. For :func:`stream_batches`, also after
    `streaming_split` or through Ray Train.

    Raises:
        DatasetError: no finished dataset, an unknown split, or a missing or truncated shard.
    """
    import ray.data

    dataset = PreparedDataset.open(uri)
    system, paths = dataset.shard_paths(split)
    groups = []
    for path in paths:
        try:
            with system.open_input_file(path) as stream:
                count = pq.ParquetFile(stream).num_row_groups
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(
                f"The shard {path} is missing, truncated or damaged. {_ADVICE}"
            ) from error
        name = path.rpartition("/")[2]
        groups += [{"uri": uri, "name": name, "group": group} for group in range(count)]
    if not groups:
        raise DatasetError(f"{uri}: split {split!r} is empty; there is nothing to stream.")
    order = sample_rng(0, 0, dataset.content_hash).permutation(len(groups))
    shuffled = [groups[index] for index in order]
    return ray.data.from_items(shuffled, override_num_blocks=len(groups)).map_batches(
        _decode_groups, batch_size=None, batch_format="pyarrow", num_cpus=_READ_CPUS
    )


def stream_batches(
    stream: Dataset | DataIterator,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    augment: AugmentOptions,
) -> Iterator[Batch]:
    """Yield one epoch of shuffled, augmented batches; the last one may be smaller.

    A sample is augmented exactly as :func:`.training_batches` does it; only the
    order differs, which here is that of arrival shuffled within a buffer.

    Args:
        stream: what :func:`training_dataset` returns, or this worker's shard of it.
        batch_size: samples per batch.
        seed: of the run.
        epoch: counted from 0.
        augment: what happens to a sample.

    Raises:
        DatasetError: a shard that turns out damaged.
    """
    shuffle_seed = int(sample_rng(seed, epoch, "order of the stream").integers(2**31))
    for table in stream.iter_batches(
        batch_size=batch_size,
        batch_format="pyarrow",
        local_shuffle_buffer_size=_SHUFFLE_ROWS,
        local_shuffle_seed=shuffle_seed,
    ):
        rows = table.to_pylist()
        for row in rows:
            if row["problem"] is not None:
                raise DatasetError(row["problem"])
        images = [_pixels(row["image"], row, 3) for row in rows]
        targets = [
            image if row["target"] is None else _pixels(row["target"], row, 3)
            for image, row in zip(images, rows, strict=True)
        ]
        yield augmented_batch(
            np.stack(images),
            np.stack(targets),
            [None if row["hole_mask"] is None else _plane(row["hole_mask"], row) for row in rows],
            sample_id=tuple(row["sample_id"] for row in rows),
            seed=seed,
            epoch=epoch,
            augment=augment,
            extras=_extras(rows),
        )


def _decode_groups(groups: pa.Table) -> pa.Table:
    """Read and decode row groups; runs in a Ray task."""
    rows: list[dict[str, Any]] = []
    for group in groups.to_pylist():
        system, root = locate(group["uri"])
        path = f"{root}/{group['name']}"
        try:
            with system.open_input_file(path) as stream:
                file = pq.ParquetFile(stream, page_checksum_verification=True)
                # Datasets made before there were labels lack their columns.
                stored = [name for name in _STORED_COLUMNS if name in file.schema_arrow.names]
                table = file.read_row_group(group["group"], columns=stored)
            rows += [_decoded(row) for row in table.to_pylist()]
        except (OSError, pa.ArrowException, ImageError):
            rows = [{"problem": f"The shard {path} is truncated or damaged. {_ADVICE}"}]
            break
    return pa.Table.from_pylist(rows, schema=_DECODED_SCHEMA)


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its PNGs replaced by their samples."""
    pictures = {
        key: decode_png(row[key]).tobytes()
        for key in ("image", "target", "hole_mask", *OPTIONAL_COLUMNS)
        if row.get(key) is not None
    }
    return row | pictures


def _pixels(samples: bytes, row: dict[str, Any], channels: int) -> UInt8Array:
    return np.frombuffer(samples, np.uint8).reshape(row["height"], row["width"], channels)


def _plane(samples: bytes, row: dict[str, Any]) -> UInt8Array:
    return _pixels(samples, row, 1)[..., 0]


def _extras(rows: Sequence[dict[str, Any]]) -> Extras:
    """Return the label maps of rows that have them."""
    if any(row["labels"] is None for row in rows):
        return Extras()
    shown = [_plane(row["labels"], row) for row in rows]
    behind = [
        image if row["target_labels"] is None else _plane(row["target_labels"], row)
        for image, row in zip(shown, rows, strict=True)
    ]
    return Extras(labels=np.stack(shown), target_labels=np.stack(behind))
