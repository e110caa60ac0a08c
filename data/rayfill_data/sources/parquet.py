"""Parquet files with one encoded picture per row."""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from rayfill_data.contract import SPLITS
from rayfill_data.errors import DatasetError, ImageError
from rayfill_data.sources.files import (
    Listed,
    inputs_hash,
    is_file,
    list_file,
    list_files,
    open_file,
    refuse,
    some,
)
from rayfill_data.sources.holes import MaskOptions, with_mask_files
from rayfill_data.sources.pictures import centre, decode_at_least, with_drawn_hole
from rayfill_data.sources.spec import Sample, SourcePlan, SourceSpec, Task
from rayfill_data.sources.splits import SplitOptions, split_sources

#: Other names that split columns use.
_SPLIT_NAMES = {"validation": "val", "valid": "val", "dev": "val"} | {name: name for name in SPLITS}


@dataclass(frozen=True, kw_only=True)
class ParquetOptions(MaskOptions, SplitOptions):
    """Every row's picture, its shorter side scaled to `size` and its centre cropped."""

    root: str
    """Parquet file, or folder of them; a path or URI."""

    image_column: str = "image"
    """Column with the encoded pictures: binary, or a struct with a binary field `bytes`."""

    split_column: str | None = None
    """Column that says train, val (or validation) or test; None splits by photo."""

    photo_column: str | None = None
    """Column that names the photo, person or place; rows that share one share a split. None: rows
    with the same bytes do."""

    named: ClassVar[bool] = False


@dataclass(frozen=True)
class Row:
    """One row, without its picture."""

    path: str
    """`file#number` below the root; `#number` where the root is the file."""
    digest: str
    """Hash of the encoded picture."""
    values: dict[str, Any]
    """The other columns that were asked for."""


def plan(options: ParquetOptions, seed: int) -> SourcePlan:
    """Read every row but keep no picture, and split by photo or as a column says.

    Raises:
        DatasetError: no Parquet file, columns missing or of another type, unknown splits, or photos
            in two splits; all of it listed at once.
    """
    files = parquet_files(options.root)
    columns = [name for name in (options.split_column, options.photo_column) if name is not None]
    refuse(options.root, column_problems(options.root, files, options.image_column, columns))
    rows = list(read_rows(options.root, files, options.image_column, columns))
    photos = [str(row.values.get(options.photo_column or "", row.digest)) for row in rows]
    distinct = sorted(set(photos))
    problems: list[str] = []
    if options.split_column is not None:
        splits, problems = _named_splits(rows, photos, options.split_column)
    elif len(distinct) < len(SPLITS):
        problems = [f"Rows of {len(distinct)} photos; at least {len(SPLITS)} are needed."]
    refuse(options.root, problems)
    if options.split_column is None:
        splits = split_sources(distinct, options)
    tasks = tuple(
        Task(
            sample_id=row.path.lstrip("#"),
            split=splits[photo],
            source_id=photo,
            path=row.path,
            hole_kind="irregular",
        )
        for row, photo in zip(rows, photos, strict=True)
    )
    found = SourcePlan(
        tasks=tasks,
        inputs_hash=inputs_hash(files),
        size=options.size,
        max_rejected=options.max_rejected,
    )
    return with_mask_files(found, options, seed)


def render(task: Task, options: ParquetOptions, seed: int) -> Sample:
    """Decode, scale and crop one row's picture, and give it its hole.

    Raises:
        ImageError: bytes that are no usable picture, or one smaller than the wanted size.
        OSError: a file that vanished or may not be read.
    """
    data = row_bytes(options.root, task.path, options.image_column)
    photo = centre(decode_at_least(data, options.size), options.size)
    return with_drawn_hole(photo, task, options, seed=seed)


PARQUET = SourceSpec(
    options_type=ParquetOptions,
    plan=plan,
    render=render,
    summary="Parquet files with one encoded picture per row",
    needs=(
        "--root is a Parquet file or a folder of them, as data hubs offer them: a column of "
        "encoded pictures (binary, or a struct with `bytes`), perhaps one with the split and one "
        "that names the photo or person."
    ),
)


def parquet_files(root: str) -> dict[str, Listed]:
    """Return the Parquet files of a location; one file has the name ''.

    Raises:
        DatasetError: there are none.
    """
    if is_file(root):
        (listed,) = list_file(root).values()
        return {"": listed}
    found = {name: file for name, file in list_files(root).items() if name.endswith(".parquet")}
    if not found:
        raise DatasetError(f"{root} holds no Parquet files (*.parquet).")
    return found


def column_problems(
    root: str, files: dict[str, Listed], image_column: str, columns: list[str]
) -> list[str]:
    """Return one sentence for every file or column that cannot be used."""
    problems = []
    for name in files:
        shown = name or root
        try:
            schema = _opened(root, name).schema_arrow
        except (OSError, pa.ArrowException):
            problems.append(f"{shown} is no Parquet file, or is damaged or incomplete.")
            continue
        known = ", ".join(schema.names)
        problems += [
            f"{shown} has no column {column!r}; it has {known}."
            for column in (image_column, *columns)
            if column not in schema.names
        ]
        if image_column in schema.names and not _is_binary(schema.field(image_column).type):
            problems.append(
                f"{shown}: column {image_column!r} is {schema.field(image_column).type}; encoded "
                "pictures are binary, or a struct with a binary field 'bytes'."
            )
    return problems


def read_rows(
    root: str, files: dict[str, Listed], image_column: str, columns: list[str]
) -> Iterator[Row]:
    """Yield every row with the hash of its picture instead of the picture."""
    for name in files:
        number = 0
        for group in range(_opened(root, name).num_row_groups):
            table = _opened(root, name).read_row_group(group, columns=[image_column, *columns])
            others = table.select(columns).to_pylist() if columns else [{}] * len(table)
            for data, values in zip(_encoded(table[image_column]), others, strict=True):
                digest = hashlib.blake2b(data or b"", digest_size=10).hexdigest()
                yield Row(f"{name}#{number:06d}", digest, values)
                number += 1


def row_bytes(root: str, path: str, image_column: str) -> bytes:
    """Read the picture of one row, and with it its row group, which is kept for the next rows.

    Raises:
        ImageError: a row without a picture.
        OSError: a file that vanished or may not be read.
    """
    name, _, number = path.rpartition("#")
    row = int(number)
    metadata = _opened(root, name).metadata
    for group in range(metadata.num_row_groups):
        count = metadata.row_group(group).num_rows
        if row < count:
            data = _group(root, name, group, image_column)[row]
            if data is None:
                raise ImageError("The row holds no picture.", code="not_an_image")
            return data
        row -= count
    raise ImageError("The row is no longer there.", code="not_an_image")


@functools.lru_cache(maxsize=8)
def _opened(root: str, name: str) -> pq.ParquetFile:
    return pq.ParquetFile(open_file(f"{root.rstrip('/')}/{name}" if name else root))


@functools.lru_cache(maxsize=2)
def _group(root: str, name: str, group: int, image_column: str) -> list[bytes | None]:
    table = _opened(root, name).read_row_group(group, columns=[image_column])
    return _encoded(table[image_column])


def _encoded(column: pa.ChunkedArray) -> list[bytes | None]:
    """Return the encoded pictures of a column."""
    values: list[Any] = column.to_pylist()
    return [value["bytes"] if isinstance(value, dict) else value for value in values]


def _is_binary(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _named_splits(
    rows: list[Row], photos: list[str], column: str
) -> tuple[dict[str, str], list[str]]:
    """Return photo -> split as a column says, and what is wrong with it."""
    found: dict[str, set[str]] = defaultdict(set)
    unknown = set()
    for row, photo in zip(rows, photos, strict=True):
        said = str(row.values[column])
        if (split := _SPLIT_NAMES.get(said.lower())) is None:
            unknown.add(said)
        else:
            found[photo].add(split)
    problems = []
    if unknown:
        problems.append(f"Column {column!r} says {some(unknown)}; allowed: train, val, test.")
    if both := [photo for photo, splits in found.items() if len(splits) > 1]:
        problems.append(f"{len(both)} photos are in two splits: {some(both)}.")
    present = set().union(*found.values()) if found else set()
    problems += [
        f"Column {column!r} has no {split} rows." for split in SPLITS if split not in present
    ]
    return {photo: min(splits) for photo, splits in found.items()}, problems
