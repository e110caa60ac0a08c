"""A contact sheet of a prepared dataset: a few samples of every split at one glance."""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from rayfill_data.codec import UInt8Array, decode_png
from rayfill_data.contract import IGNORE_LABEL, SPLITS
from rayfill_data.masks.hole import sample_rng
from rayfill_data.masks.shapes import draw_mask
from rayfill_data.prepared.batches import prepared_masks
from rayfill_data.prepared.reader import PreparedDataset
from rayfill_data.sheet import NOTHING, SheetRow, Tile, draw_sheet, fitted, mark_hole

#: The longest side of a picture on the sheet.
_TILE_PX = 192
_TEXT_PX = 16
_HOLE_COLOUR = (230, 30, 60)
_HOLE_OPACITY = 0.55
_WHITE = 255


def contact_sheet(dataset: PreparedDataset, *, per_split: int = 6) -> UInt8Array:
    """Lay out samples of every split, each a column: what a model sees and what is known of it.

    From the top: the image with its hole marked, the image itself where some target differs from
    it, the target, and the label map, one colour per label and white for what is to be ignored.

    Each split is cut into as many parts as it shows samples, and one drawn of each. A hole that
    training draws afresh is shown as the dataset's generator draws it in epoch 0 of seed 0.

    Args:
        dataset: an opened prepared dataset.
        per_split: most samples of a split.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: a damaged sample.
    """
    rows = {split: _rows(dataset, split, per_split) for split in SPLITS if dataset.counts[split]}
    sheet_rows = [row for split in rows for row in _sheet_rows(dataset, split, rows[split])]
    return draw_sheet(sheet_rows, text_px=_TEXT_PX)


def _sheet_rows(dataset: PreparedDataset, split: str, rows: list[dict[str, Any]]) -> list[SheetRow]:
    """Return one split's samples, each a column, below its title."""
    paired = any(row["target"] is not None for row in rows)
    columns = []
    for row in rows:
        image = decode_png(row["image"])
        target = image if row["target"] is None else decode_png(row["target"])
        hole = _hole(dataset, row)
        marked = mark_hole(image, hole, colour=_HOLE_COLOUR, opacity=_HOLE_OPACITY)
        pictures = [marked, *[image] * paired, target]
        if row.get("labels") is not None:
            pictures.append(_coloured(decode_png(row["labels"])))
        columns.append([Tile(picture=fitted(picture, side_px=_TILE_PX)) for picture in pictures])
    tiles = list(itertools.zip_longest(*columns, fillvalue=NOTHING))
    title = f"{split}: {dataset.counts[split]}"
    return [SheetRow(heading=title, tiles=tiles[0]), *(SheetRow(tiles=own) for own in tiles[1:])]


def _rows(dataset: PreparedDataset, split: str, count: int) -> list[dict[str, Any]]:
    """Read rows spread over a split, and no more row groups than they lie in."""
    total = dataset.counts[split]
    bounds = [index * total // min(count, total) for index in range(min(count, total) + 1)]
    # Drawn, since every n-th sample may be the same crop, or repeat, of its photo.
    rng = sample_rng(0, 0, f"{split}: preview")
    wanted = [int(rng.integers(low, high)) for low, high in itertools.pairwise(bounds)]
    system, paths = dataset.shard_paths(split)
    rows: list[dict[str, Any]] = []
    start = 0
    for path in paths:
        with system.open_input_file(path) as stream:
            file = pq.ParquetFile(stream)
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                if chosen := [index - start for index in wanted if start <= index < end]:
                    rows += file.read_row_group(group).take(chosen).to_pylist()
                start = end
    return rows


def _hole(dataset: PreparedDataset, row: dict[str, Any]) -> UInt8Array:
    if row["hole_mask"] is not None:
        return decode_png(row["hole_mask"])
    name, ratio_range = prepared_masks(dataset.manifest.options)
    rng = sample_rng(0, 0, row["sample_id"])
    return draw_mask(name, dataset.height, dataset.width, rng=rng, ratio_range=ratio_range)


def _coloured(labels: UInt8Array) -> UInt8Array:
    """Give every label a colour of its own: black for nothing, hues that lie far apart, white."""
    value = np.arange(256)
    hues = np.stack([value * 67 % 180, np.full(256, 200), 255 - value % 3 * 50], axis=1)
    palette = cv2.cvtColor(hues.astype(np.uint8)[None], cv2.COLOR_HSV2RGB)[0]
    palette[0], palette[IGNORE_LABEL] = 0, _WHITE
    return np.asarray(palette[labels], np.uint8)
