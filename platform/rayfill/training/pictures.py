"""What a validation sample looks like in MLflow: four captioned pictures in a square."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rayfill.models.batch import TensorBatch
from rayfill_data.codec import to_uint8

#: MLflow frames a picture in a square and cuts the bottom off in a small tile: what is looked at
#: first stands above.
_CAPTIONS = ("input", "result", "original", "network alone")
_GAP, _CAPTION, _FONT = 8, 26, 18
#: Small pictures are enlarged to about this side, by a whole number and without smoothing.
_SIDE = 256


def picture_sheets(batch: TensorBatch, prediction: torch.Tensor) -> list[NDArray[np.uint8]]:
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
    return [_sheet(list(sample)) for sample in zip(*parts, strict=True)]


def _sheet(parts: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    height, width = parts[0].shape[:2]
    factor = max(1, round(_SIDE / max(height, width)))
    size = width * factor, height * factor
    across, down = size[0] + _GAP, size[1] + _CAPTION
    sheet = Image.new("RGB", (2 * across - _GAP, 2 * down), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    for number, (part, caption) in enumerate(zip(parts, _CAPTIONS, strict=True)):
        x, y = number % 2 * across, number // 2 * down
        draw.text((x + 2, y + 2), caption, fill="black", font=font)
        picture = Image.fromarray(part).resize(size, Image.Resampling.NEAREST)
        sheet.paste(picture, (x, y + _CAPTION))
    return np.asarray(sheet)
