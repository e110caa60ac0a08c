"""A contact sheet of a prepared dataset: a few samples of every split at one glance."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from rayfill_data.batches import prepared_masks
from rayfill_data.codec import UInt8Array, decode_png
from rayfill_data.contract import IGNORE_LABEL, SPLITS
from rayfill_data.mask_shapes import draw_mask
from rayfill_data.masks import dilate, sample_rng
from rayfill_data.reader import PreparedDataset

#: The longest side of a picture on the sheet, in pixels; smaller ones are enlarged to whole times.
_TILE_PX = 192
_GAP_PX = 6
_TITLE_PX = 28
_HOLE_COLOUR = (230, 30, 60)
_HOLE_OPACITY = 0.55
_WHITE = 255


def contact_sheet(dataset: PreparedDataset, *, per_split: int = 6) -> UInt8Array:
    """Lay out samples of every split, each a column: what a model sees and what is known of it.

    From the top: the image with its hole marked, the image itself where some target differs from
    it, the target, and the label map, one colour per label and white for what is to be ignored.

    The samples are spread evenly over each split. A hole that training draws afresh is shown as the
    dataset's generator draws it in epoch 0 of seed 0.

    Args:
        dataset: an opened prepared dataset.
        per_split: most samples of a split.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: a damaged sample.
    """
    strips = [
        _strip(dataset, split, _rows(dataset, split, per_split))
        for split in SPLITS
        if dataset.counts[split]
    ]
    width = max(strip.shape[1] for strip in strips)
    padded = [
        np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0)), constant_values=_WHITE)
        for strip in strips
    ]
    return np.concatenate(padded)


def _strip(dataset: PreparedDataset, split: str, rows: list[dict[str, Any]]) -> UInt8Array:
    """Return one split's samples beside each other below its title."""
    paired = any(row["target"] is not None for row in rows)
    tiles = []
    for row in rows:
        image = decode_png(row["image"])
        target = image if row["target"] is None else decode_png(row["target"])
        hole = _hole(dataset, row)
        marked = mark_hole(image, hole, colour=_HOLE_COLOUR, opacity=_HOLE_OPACITY)
        pictures = [marked, *[image] * paired, target]
        if row.get("labels") is not None:
            pictures.append(_coloured(decode_png(row["labels"])))
        tiles.append(np.concatenate([_framed(picture) for picture in pictures]))
    tallest = max(len(tile) for tile in tiles)
    tiles = [
        np.pad(tile, ((0, tallest - len(tile)), (0, 0), (0, 0)), constant_values=_WHITE)
        for tile in tiles
    ]
    body = np.concatenate(tiles, axis=1)
    title = np.full((_TITLE_PX, body.shape[1], 3), _WHITE, np.uint8)
    text = f"{split}: {dataset.counts[split]}"
    cv2.putText(
        title, text, (_GAP_PX, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA
    )
    return np.concatenate([title, body])


def _rows(dataset: PreparedDataset, split: str, count: int) -> list[dict[str, Any]]:
    """Read rows spread over a split, and no more row groups than they lie in."""
    total = dataset.counts[split]
    wanted = sorted({index * total // min(count, total) for index in range(min(count, total))})
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


def mark_hole(
    image: UInt8Array, hole: UInt8Array, *, colour: tuple[int, int, int], opacity: float
) -> UInt8Array:
    """Tint the hole, so that what lies in it can still be seen, and draw its outline in white.

    Args:
        image: (H, W, 3) uint8 RGB.
        hole: (H, W) uint8, above 0 in the hole.
        colour: RGB of the tint.
        opacity: Of the tint, in [0, 1].
    """
    inside = hole > 0
    marked = image.astype(np.float32)
    marked[inside] = (1 - opacity) * marked[inside] + opacity * np.array(colour, np.float32)
    outline = (dilate(hole, radius_px=1) > 0) & ~inside
    marked[outline] = _WHITE
    return np.rint(marked).astype(np.uint8)


def _coloured(labels: UInt8Array) -> UInt8Array:
    """Give every label a colour of its own: black for nothing, hues that lie far apart, white."""
    value = np.arange(256)
    hues = np.stack([value * 67 % 180, np.full(256, 200), 255 - value % 3 * 50], axis=1)
    palette = cv2.cvtColor(hues.astype(np.uint8)[None], cv2.COLOR_HSV2RGB)[0]
    palette[0], palette[IGNORE_LABEL] = 0, _WHITE
    return np.asarray(palette[labels], np.uint8)


def _framed(picture: UInt8Array) -> UInt8Array:
    """Scale to the tile, small pictures by a whole number so that pixels stay visible."""
    height, width = picture.shape[:2]
    longest = max(height, width)
    if longest <= _TILE_PX:
        times = _TILE_PX // longest
        scaled = picture.repeat(times, axis=0).repeat(times, axis=1)
    else:
        size = (round(width * _TILE_PX / longest), round(height * _TILE_PX / longest))
        scaled = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    margin = ((0, _GAP_PX), (_GAP_PX, 0), (0, 0))
    return np.pad(scaled, margin, constant_values=_WHITE)
