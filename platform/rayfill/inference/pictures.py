"""Photos and masks as people have them: files, Pillow's images, arrays."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from rayfill_data.codec import decode_mask, decode_photo
from rayfill_data.contract import MASK_THRESHOLD
from rayfill_data.errors import ImageError

UInt8 = NDArray[np.uint8]
Picture: TypeAlias = "str | os.PathLike[str] | Image.Image | UInt8"
Mask: TypeAlias = "Picture | NDArray[np.bool_]"

#: One's own photos may be larger than what a server takes from strangers.
MAX_PIXELS = 80 * 10**6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """A photo as an array, and what gives a result the form it came in."""

    rgb: UInt8
    """(H, W, 3) uint8 RGB, upright."""
    image: Image.Image | None = None
    """None where it came as an array."""

    def like(self, rgb: UInt8) -> Image.Image | UInt8:
        """Return a result of the photo's size in its form; alpha and colour profile are kept."""
        if self.image is None:
            return rgb
        made = Image.fromarray(rgb)
        if self.image.mode == "L":  # equal channels give back every known grey exactly
            made = made.convert("L")
        elif self.image.mode == "RGBA":
            made.putalpha(self.image.getchannel("A"))
        if profile := self.image.info.get("icc_profile"):
            made.info["icc_profile"] = profile
        return made


def open_picture(picture: Picture) -> Opened:
    """Return a photo.

    Args:
        picture: A file, a Pillow image (whose EXIF orientation is applied), or (H, W, 3) uint8 RGB.

    Raises:
        ImageError: something else, or a file that is no photo.
    """
    if isinstance(picture, np.ndarray):
        return Opened(rgb=picture)
    if isinstance(picture, Image.Image):
        upright = ImageOps.exif_transpose(picture)
        return Opened(rgb=np.asarray(upright.convert("RGB")), image=upright)
    photo = decode_photo(_read(picture), max_pixels=MAX_PIXELS)
    image = Image.fromarray(photo.rgb)
    if photo.icc_profile:
        image.info["icc_profile"] = photo.icc_profile
    return Opened(rgb=photo.rgb, image=image)


def open_mask(mask: Mask, *, size: tuple[int, int]) -> UInt8:
    """Return a hole mask (H, W) uint8, 255 = to fill.

    Args:
        mask: A file or a Pillow image, bright (128 and more) where to fill; or an (H, W) array of
            uint8, alike, or of bool.
        size: Height and width of the photo.

    Raises:
        ImageError: something else, or of another size.
    """
    if isinstance(mask, np.ndarray):
        flags = mask if mask.dtype == np.bool_ else mask >= MASK_THRESHOLD
        return flags.astype(np.uint8) * np.uint8(255)
    if isinstance(mask, Image.Image):
        return open_mask(np.asarray(ImageOps.exif_transpose(mask).convert("L")), size=size)
    return decode_mask(_read(mask), size=size, max_pixels=MAX_PIXELS).mask


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ImageError(
            f"{path} cannot be read: {error.strerror}. Name a file.", code="not_an_image"
        ) from error
