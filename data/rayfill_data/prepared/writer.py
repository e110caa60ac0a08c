"""A dataset written row by row to Parquet shards, its manifest last."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from rayfill_data.contract import (
    OPTIONAL_COLUMNS,
    REJECTED_NAME,
    ROW_GROUP_ROWS,
    ROW_SCHEMA,
    SPLITS,
    Manifest,
)
from rayfill_data.errors import DatasetError
from rayfill_data.storage import MANIFEST, list_entries, locate, replacing, write_into

#: Few files, but none so large that a reader must hold gigabytes.
SHARD_ROWS = 5000

_OUR_FILES = re.compile(
    rf"({'|'.join(SPLITS)})-\d{{5}}\.parquet|{re.escape(MANIFEST)}|{re.escape(REJECTED_NAME)}"
)

Row = Mapping[str, Any]


class DatasetWriter:
    """Write rows to shards, and count and hash them on the way."""

    def __init__(self, system: fs.FileSystem, root: str, *, out: str) -> None:
        self.rejected = 0
        self.counts = dict.fromkeys(SPLITS, 0)
        self._photos: dict[str, set[str]] = {split: set() for split in SPLITS}
        self._shards: dict[str, list[str]] = {split: [] for split in SPLITS}
        self._system, self._root, self._out = system, root, out
        self._pending: dict[str, list[Row]] = {split: [] for split in SPLITS}
        self._open: dict[str, pq.ParquetWriter] = {}
        self._digests: list[tuple[str, bytes]] = []
        self._rejections: list[str] = []

    def add(self, row: Row) -> None:
        """Take one row of ROW_SCHEMA.

        Raises:
            DatasetError: what was written so far could not be stored.
        """
        split = row["split"]
        if self.counts[split] % SHARD_ROWS == 0:
            self._start_shard(split)
        self.counts[split] += 1
        self._photos[split].add(row["source_id"])
        self._digests.append((row["sample_id"], row_digest(row)))
        self._pending[split].append(row)
        if len(self._pending[split]) == ROW_GROUP_ROWS:
            self._flush(split)

    def reject(self, path: str, split: str, reason: str) -> None:
        """Take note of a file that could not be used."""
        self.rejected += 1
        line = {"path": path, "split": split, "reason": reason}
        self._rejections.append(json.dumps(line, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Finish every shard; the dataset is not finished before :meth:`write_manifest`."""
        for split in list(self._open):
            self._finish_shard(split)
        lines = "".join(self._rejections).encode("utf-8", "backslashreplace")
        self._write(REJECTED_NAME, lines)

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says about the rows written."""
        whole = hashlib.sha256()
        for _, digest in sorted(self._digests):
            whole.update(digest)
        return {
            "counts": dict(self.counts),
            "photo_counts": {split: len(photos) for split, photos in self._photos.items()},
            "rejected": self.rejected,
            "shards": {split: tuple(names) for split, names in self._shards.items()},
            "content_hash": whole.hexdigest(),
        }

    def write_manifest(self, manifest: Manifest) -> None:
        """Write the manifest: from now on the dataset is finished."""
        self._write(MANIFEST, manifest.to_json().encode())

    def _start_shard(self, split: str) -> None:
        self._finish_shard(split)
        name = f"{split}-{len(self._shards[split]):05d}.parquet"
        self._shards[split].append(name)
        with _or_unwritable(self._out):
            self._open[split] = pq.ParquetWriter(
                f"{self._root}/{name}",
                ROW_SCHEMA,
                filesystem=self._system,
                compression="none",  # PNG does not compress again.
                use_dictionary=["split", "source_id"],
                write_statistics=["sample_id"],  # Not of pictures: Parquet would store some twice.
                write_page_checksum=True,
            )

    def _finish_shard(self, split: str) -> None:
        if split in self._open:
            self._flush(split)
            with _or_unwritable(self._out):
                self._open.pop(split).close()

    def _flush(self, split: str) -> None:
        rows, self._pending[split] = self._pending[split], []
        if not rows:
            return
        with _or_unwritable(self._out):
            self._open[split].write_table(pa.Table.from_pylist(rows, schema=ROW_SCHEMA))

    def _write(self, name: str, data: bytes) -> None:
        with _or_unwritable(self._out):
            write_into(self._system, f"{self._root}/{name}", data)


def row_digest(row: Row) -> bytes:
    """Hash one row: every column in the schema's order, tagged and with its length.

    Absent labels leave no trace: rows without them have the hash they had before there were any.
    """
    digest = hashlib.blake2b(digest_size=20)
    for field in ROW_SCHEMA:
        value = row.get(field.name) if field.name in OPTIONAL_COLUMNS else row[field.name]
        if value is None and field.name in OPTIONAL_COLUMNS:
            continue
        if value is None:
            digest.update(b"-")
            continue
        if isinstance(value, str):
            value = value.encode("utf-8", "surrogateescape")
        elif isinstance(value, float):
            value = struct.pack("<f", value)
        elif isinstance(value, int):
            value = struct.pack("<q", value)
        if field.name in OPTIONAL_COLUMNS:
            digest.update(field.name.encode())
        digest.update(b"+" + struct.pack("<q", len(value)))
        digest.update(value)
    return digest.digest()


def check_replaceable(out: str, *, overwrite: bool) -> None:
    """Refuse to write over anything but an empty place or, if wanted, an older dataset.

    Raises:
        DatasetError: other files are there, or a dataset without `overwrite`.
    """
    with _or_unwritable(out):
        system, root = locate(out)
        kind = system.get_file_info(root).type
        if kind == fs.FileType.NotFound:
            return
        if kind == fs.FileType.File:
            raise DatasetError(f"{out} is a file; choose a new folder.")
        names = sorted(list_entries(system, root))
    if foreign := [name for name in names if not _OUR_FILES.fullmatch(name)]:
        raise DatasetError(
            f"{out} holds files that are no dataset ({', '.join(foreign[:3])}); choose an empty or "
            "new folder."
        )
    if names and not overwrite:
        raise DatasetError(f"{out} holds another dataset; use --overwrite to replace it.")


@contextmanager
def open_writer(out: str) -> Iterator[DatasetWriter]:
    """Yield a writer whose dataset appears at `out` when the block ends without an error.

    Raises:
        DatasetError: `out` cannot be written, or another process is writing it.
    """
    with ExitStack() as stack:
        with _or_unwritable(out):
            system, root = stack.enter_context(replacing(out, alone=True))
            for name in filter(_OUR_FILES.fullmatch, list_entries(system, root)):
                system.delete_file(f"{root}/{name}")
        writer = DatasetWriter(system, root, out=out)
        writer.close()  # An empty list of rejects proves that the place can be written.
        yield writer
        with _or_unwritable(out):
            stack.close()


@contextmanager
def _or_unwritable(out: str) -> Iterator[None]:
    """Turn any failure of the disk or store into one error that names the dataset."""
    try:
        yield
    except BlockingIOError as error:
        raise DatasetError(
            f"Another process is preparing {out}; wait for it or choose another --out."
        ) from error
    except OSError as error:
        why = f" ({error.strerror})" if error.strerror else ""
        raise DatasetError(
            f"{out} cannot be written{why}; check the path, its access and the free space."
        ) from error
