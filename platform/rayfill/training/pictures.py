"""What a validation sample looks like in MLflow: four captioned pictures in a square."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rayfill.models.batch import TensorBatch
from rayfill_data.codec import UInt8Array, to_uint8
from rayfill_data.sheet import SheetRow, Tile, draw_sheet, fitted

#: MLflow frames a picture in a square and cuts the bottom off in a small tile: what is looked at
#: first stands above.
_TITLES = ("input", "result", "original", "network alone")
_TEXT_PX = 18
#: Small pictures are enlarged to at most this side.
_SIDE_PX = 256


def picture_sheets(batch: TensorBatch, prediction: torch.Tensor) -> list[UInt8Array]:
    """Return for each sample a sheet: input and result above, original and prediction below.

    The hole is white in the input; the result is the composite, the prediction inside the hole.

    Args:
        batch: N samples.
        prediction: (N, 3, H, W) RGB in [0, 1].

    Returns:
        N pictures of 8-bit RGB.
    """
    hole = batch.hole_mask > 0
    marked = torch.where(hole, torch.ones_like(batch.image), batch.image)
    composite = torch.where(hole, prediction, batch.image)
    parts = [to_uint8(part.cpu().numpy()) for part in (marked, composite, batch.target, prediction)]
    return [_sheet(sample) for sample in zip(*parts, strict=True)]


def _sheet(pictures: Sequence[UInt8Array]) -> UInt8Array:
    side_px = max(_SIDE_PX, *pictures[0].shape[:2])  # large ones keep every pixel
    tiles = [
        Tile(title=title, picture=fitted(picture, side_px=side_px))
        for title, picture in zip(_TITLES, pictures, strict=True)
    ]
    return draw_sheet([SheetRow(tiles=tiles[:2]), SheetRow(tiles=tiles[2:])], text_px=_TEXT_PX)
