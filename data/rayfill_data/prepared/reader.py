"""Open a prepared dataset and decode a split into memory. Needs neither Ray nor torch."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from rayfill_data.codec import Float32Array, UInt8Array, decode_png
from rayfill_data.contract import (
    IGNORE_LABEL,
    OPTIONAL_COLUMNS,
    ROW_SCHEMA,
    SPLITS,
    Manifest,
)
from rayfill_data.errors import DatasetError, ImageError, unknown_name
from rayfill_data.masks.distance import signed_distance
from rayfill_data.storage import MANIFEST, locate


@dataclass(frozen=True)
class SplitArrays:
    """One split in memory, sorted by sample id so that sharding never changes its order."""

    image: UInt8Array
    """(N, H, W, 3) uint8 RGB, the object or the untouched photo inside the hole."""
    target: UInt8Array
    """(N, H, W, 3) uint8 RGB, the true picture everywhere."""
    hole_mask: UInt8Array
    """(N, H, W) uint8, 255 = hole; 0 everywhere where `has_mask` is False."""
    has_mask: npt.NDArray[np.bool_]
    """(N,) False where a fresh mask is to be drawn every epoch."""
    sample_id: tuple[str, ...]
    source_id: tuple[str, ...]
    """The photograph that each sample was made of; several samples may be of one."""
    hole_ratio: Float32Array
    """(N,) share of hole pixels in [0, 1], NaN where `has_mask` is False."""
    labels: UInt8Array | None = None
    """(N, H, W) uint8, what the image shows: indices into the manifest's labels, 255 to be ignored;
    None for a dataset without labels."""
    target_labels: UInt8Array | None = None
    """(N, H, W) uint8, what the target shows; None for a dataset without labels."""

    @functools.cached_property
    def signed_distance(self) -> Float32Array:
        """(N, H, W) float32, :func:`.signed_distance` of every hole mask.

        Made when first asked for (2 ms a sample of 256 pixels), and kept.
        """
        found = np.empty(self.hole_mask.shape, np.float32)
        for index, mask in enumerate(self.hole_mask):
            found[index] = signed_distance(mask)
        return found

    def __len__(self) -> int:
        return len(self.sample_id)

    def take(self, rows: Sequence[int] | range) -> SplitArrays:
        """Return some samples, in that order; of a range, views that copy nothing."""
        index = slice(rows.start, rows.stop, rows.step) if isinstance(rows, range) else list(rows)
        return SplitArrays(
            image=self.image[index],
            target=self.target[index],
            hole_mask=self.hole_mask[index],
            has_mask=self.has_mask[index],
            sample_id=tuple(self.sample_id[row] for row in rows),
            source_id=tuple(self.source_id[row] for row in rows),
            hole_ratio=self.hole_ratio[index],
            labels=None if self.labels is None else self.labels[index],
            target_labels=None if self.target_labels is None else self.target_labels[index],
        )


def read_manifest(uri: str) -> Manifest | None:
    """Return the manifest at a location, or None where there is none.

    Raises:
        DatasetError: a manifest that cannot be read, or of another schema version.
    """
    try:
        system, root = locate(uri)
        with system.open_input_stream(f"{root}/{MANIFEST}") as stream:
            text = stream.read().decode("utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DatasetError(
            f"{uri}: {MANIFEST} cannot be read; check the location and your access to it."
        ) from error
    return Manifest.from_json(text, where=uri)


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared dataset whose manifest has been read; pictures are read by :meth:`load`."""

    uri: str
    manifest: Manifest

    @classmethod
    def open(cls, uri: str) -> PreparedDataset:
        """Open the dataset at a local path or URI.

        Raises:
            DatasetError: nothing there, not a finished dataset, or another schema version.
        """
        manifest = read_manifest(uri)
        if manifest is None:
            raise DatasetError(
                f"{uri} holds no finished dataset ({MANIFEST} is missing). Make one with "
                "`rayfill prepare`, or correct the path."
            )
        return cls(uri=uri, manifest=manifest)

    @property
    def content_hash(self) -> str:
        """The hash over all rows, which experiments log."""
        return self.manifest.content_hash

    @property
    def height(self) -> int:
        """Rows of pixels of every sample; 0 where samples have several sizes."""
        return self.manifest.height

    @property
    def width(self) -> int:
        """Columns of pixels of every sample; 0 where samples have several sizes."""
        return self.manifest.width

    @property
    def counts(self) -> Mapping[str, int]:
        """Samples per split."""
        return self.manifest.counts

    @property
    def has_truth(self) -> bool:
        """Whether targets are what holes should show: a test set may say that they are not."""
        return bool(self.manifest.options.get("truth", True))

    def estimate_bytes(self, split: str) -> int:
        """Return the bytes :meth:`load` will hold: pictures, masks and labels of every sample."""
        self._check_split(split)
        return self.counts[split] * self.height * self.width * (9 if self.manifest.labels else 7)

    def load(self, split: str) -> SplitArrays:
        """Decode a whole split into memory.

        Raises:
            DatasetError: an unknown split, a missing, truncated or damaged shard, samples of
                several sizes, rows of another size than the manifest says, or another number of
                them.
        """
        rows = self._read(split)
        if not self.height:
            raise DatasetError(
                f"{self.uri}: its samples have several sizes, as they were given, so it can be "
                "measured on with `rayfill evaluate` and nothing else. Prepare the pictures with "
                "another source to have one size."
            )
        return self._decode(rows, height=self.height, width=self.width)

    def load_by_size(self, split: str) -> tuple[SplitArrays, ...]:
        """Decode a whole split into memory, its samples grouped by size.

        Returns:
            one part for each size, smaller heights first, each sorted by sample id; where the
            manifest names a size, just what :meth:`load` returns.

        Raises:
            DatasetError: as :meth:`load`, but for samples of several sizes.
        """
        if self.height:
            return (self.load(split),)
        rows = self._read(split)
        sizes = np.stack([rows["height"].to_numpy(), rows["width"].to_numpy()], axis=1)
        return tuple(
            self._decode(
                rows.filter(pa.array((sizes == size).all(axis=1))), height=size[0], width=size[1]
            )
            for size in sorted(set(map(tuple, sizes.tolist())))
        )

    def _decode(self, rows: pa.Table, *, height: int, width: int) -> SplitArrays:
        """Decode rows whose pictures all have one size."""
        count, labelled = len(rows), bool(self.manifest.labels)
        size = (height, width)
        image = np.empty((count, height, width, 3), np.uint8)
        target = np.empty_like(image)
        hole_mask = np.zeros(image.shape[:3], np.uint8)
        has_mask = np.zeros(count, np.bool_)
        labels = np.empty((2, *image.shape[:3]), np.uint8) if labelled else None
        for index, row in enumerate(_rows(rows)):
            try:
                image[index] = _picture(row["image"], size=(*size, 3))
                target[index] = (
                    image[index]
                    if row["target"] is None
                    else _picture(row["target"], size=(*size, 3))
                )
                if row["hole_mask"] is not None:
                    hole_mask[index] = _picture(row["hole_mask"], size=size)
                    has_mask[index] = True
                if labels is not None:
                    labels[:, index] = self._labels(row, size=size)
            except ImageError as error:
                raise DatasetError(
                    f"{self.uri}: sample {row['sample_id']} cannot be used: {error} Prepare the "
                    "dataset again with --overwrite."
                ) from error
        ratio = np.where(has_mask, (hole_mask > 0).mean(axis=(1, 2), dtype=np.float64), np.nan)
        return SplitArrays(
            image=image,
            target=target,
            hole_mask=hole_mask,
            has_mask=has_mask,
            sample_id=tuple(rows["sample_id"].to_pylist()),
            source_id=tuple(rows["source_id"].to_pylist()),
            hole_ratio=ratio.astype(np.float32),
            labels=None if labels is None else labels[0],
            target_labels=None if labels is None else labels[1],
        )

    def shard_paths(self, split: str) -> tuple[fs.FileSystem, list[str]]:
        """Return the file system and the shards of a split, in order."""
        self._check_split(split)
        system, root = locate(self.uri)
        return system, [f"{root}/{name}" for name in self.manifest.shards[split]]

    def _check_split(self, split: str) -> None:
        if split not in SPLITS:
            raise DatasetError(unknown_name("split", split, SPLITS))

    def _read(self, split: str) -> pa.Table:
        """Read every shard of a split, hold it against the manifest and sort it by sample id."""
        system, paths = self.shard_paths(split)
        tables = [_read_shard(system, path) for path in paths]
        table = pa.concat_tables(tables) if tables else ROW_SCHEMA.empty_table()
        if len(table) != self.counts[split]:
            raise DatasetError(
                f"{self.uri}: split {split!r} holds {len(table)} rows, the manifest says "
                f"{self.counts[split]}. Prepare the dataset again with --overwrite."
            )
        order = np.argsort(np.asarray(table["sample_id"].to_pylist(), dtype=np.str_), kind="stable")
        return table.take(order)

    def _labels(self, row: Mapping[str, Any], *, size: tuple[int, int]) -> UInt8Array:
        """Decode the label maps of the image and of the target, (2, H, W)."""
        if row["labels"] is None:
            raise ImageError("It has no label map.", code="malformed")
        names = [name for name in OPTIONAL_COLUMNS if row[name] is not None]
        maps = [_picture(row[name], size=size) for name in names]
        for levels in maps:
            named = levels[levels != IGNORE_LABEL]
            if named.size and int(named.max()) >= len(self.manifest.labels):
                raise ImageError(
                    f"Its label map holds {int(named.max())}, the manifest has "
                    f"{len(self.manifest.labels)} labels.",
                    code="malformed",
                )
        return np.stack([maps[0], maps[-1]])


def _picture(png: bytes, *, size: tuple[int, ...]) -> UInt8Array:
    """Decode one picture and insist on its shape."""
    picture = decode_png(png)
    if picture.shape != size:
        raise ImageError(
            f"It has shape {picture.shape} where the manifest says {size}.", code="size_mismatch"
        )
    return picture


def _read_shard(system: fs.FileSystem, path: str) -> pa.Table:
    """Read one shard with its page checksums verified."""
    advice = "Prepare the dataset again with --overwrite."
    try:
        with system.open_input_file(path) as stream:
            table = pq.read_table(stream, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise DatasetError(f"The shard {path} is missing. {advice}") from error
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"The shard {path} is truncated or damaged. {advice}") from error
    for name in OPTIONAL_COLUMNS:
        if name not in table.schema.names:  # It was made before there were labels.
            table = table.append_column(
                ROW_SCHEMA.field(name), pa.nulls(len(table), ROW_SCHEMA.field(name).type)
            )
    if table.schema.names != ROW_SCHEMA.names or table.schema.types != ROW_SCHEMA.types:
        raise DatasetError(
            f"The shard {path} has the columns {table.schema.names}, not {ROW_SCHEMA.names}. "
            f"{advice}"
        )
    return table


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
