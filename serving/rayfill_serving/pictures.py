"""Results as files: PNG without loss, JPEG and WebP for the web."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rayfill_data.codec import encode_png

PictureFormat = Literal["png", "jpeg", "webp"]
MEDIA_TYPES: dict[PictureFormat, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
}
#: High enough that a second compression of a JPEG photo is not seen next to the original.
_QUALITY = 95


def encode_picture(
    rgb: NDArray[np.uint8], *, form: PictureFormat, icc_profile: bytes | None = None
) -> bytes:
    """Return ``rgb`` as a file.

    Args:
        rgb: (H, W, 3) uint8.
        form: ``png`` keeps every bit; ``jpeg`` and ``webp`` are compressed with quality 95.
        icc_profile: Colour profile of the photo, carried over.
    """
    if form == "png":
        return encode_png(rgb, icc_profile=icc_profile)
    extra = {"icc_profile": icc_profile} if icc_profile else {}
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, form.upper(), quality=_QUALITY, **extra)
    return buffer.getvalue()
