"""From the bytes of one picture to a sample: decode, scale, crop, and give it its hole."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from rayfill_data.codec import FILE_FORMATS, UInt8Array, decode_photo
from rayfill_data.errors import ImageError
from rayfill_data.masks.copy_paste import Pair, resize
from rayfill_data.masks.hole import sample_rng
from rayfill_data.sources.files import read_file
from rayfill_data.sources.holes import (
    MAX_FILE_PIXELS,
    MaskOptions,
    check_hole,
    drawn_hole,
    read_mask,
    resize_mask,
)
from rayfill_data.sources.spec import Sample, Task

#: Sides of a mask may differ by this much from the photo's, scaled, and still mean the same frame.
_FRAME_TOLERANCE_PX = 2


def decode_at_least(data: bytes, size: int, *, whole: bool = False) -> UInt8Array:
    """Decode a picture and refuse one whose shorter side is below `size`.

    Args:
        data: encoded picture.
        size: shortest side allowed.
        whole: decode every pixel; otherwise a large JPEG may come at 1/2, 1/4 or 1/8.

    Raises:
        ImageError: bytes that are no usable picture, or one that is too small.
    """
    photo = decode_photo(
        data,
        max_pixels=MAX_FILE_PIXELS,
        formats=FILE_FORMATS,
        min_side=None if whole else size,
    )
    height, width = photo.rgb.shape[:2]
    if min(height, width) < size:
        raise ImageError(
            f"It is {width}x{height} pixels, smaller than size {size}; choose a smaller size.",
            code="size_mismatch",
        )
    return photo.rgb


def centre(photo: UInt8Array, size: int) -> UInt8Array:
    """Scale the shorter side to `size` and crop the centre of the longer one."""
    height, width = photo.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(photo[top : top + side, left : left + side], height=size, width=size)


#: What the label maps hold of pictures with pasted objects: those, and everything else.
PASTED_LABELS = ("nothing", "object")


def pasted(pair: Pair) -> Sample:
    """Return a picture with an object laid over it as a sample; the object is label 1."""
    return Sample(
        image=pair.image,
        target=pair.target,
        hole_mask=pair.hole_mask,
        labels=(pair.hole_mask > 0).astype(np.uint8),
        target_labels=np.zeros_like(pair.hole_mask),
    )


def without_object(sample: Sample) -> Sample:
    """Return a sample with the label map of a picture over which nothing was laid."""
    return dataclasses.replace(sample, labels=np.zeros(sample.image.shape[:2], np.uint8))


def render_picture(root: str, task: Task, options: MaskOptions, *, size: int, seed: int) -> Sample:
    """Make a sample of one picture file: centre crop and drawn, random or paired hole.

    Raises:
        ImageError: a picture or mask that cannot be used.
        OSError: a file that vanished or may not be read.
    """
    if options.masks == "paired":
        assert options.mask_folder is not None
        photo = decode_at_least(read_file(root, task.path), size, whole=True)
        mask, _ = read_mask(options.mask_folder, task.mask_path, size=photo.shape[:2])
        return crop_to_hole(photo, None, mask, size=size)
    photo = centre(decode_at_least(read_file(root, task.path), size), size)
    return with_drawn_hole(photo, task, options, seed=seed)


def with_drawn_hole(photo: UInt8Array, task: Task, options: MaskOptions, *, seed: int) -> Sample:
    """Give a finished picture its hole; `image` and target are the same."""
    rng = sample_rng(seed, 0, task.sample_id)
    mask = drawn_hole(task, options, *photo.shape[:2], rng=rng)
    return Sample(image=photo, target=None, hole_mask=mask)


def crop_to_hole(
    image: UInt8Array, target: UInt8Array | None, mask: UInt8Array, *, size: int
) -> Sample:
    """Crop the square that shows most of the hole's extent, and scale it to `size`.

    Args:
        image: (H, W, 3) uint8.
        target: (H, W, 3) uint8, or None where it is the image.
        mask: (H, W) uint8 in {0, 255}.
        size: side of the sample in pixels.

    Raises:
        ImageError: a crop without a hole, or of holes only.
    """
    check_hole(mask)
    side = min(mask.shape)
    top = _start(np.flatnonzero(mask.any(axis=1)), side, mask.shape[0])
    left = _start(np.flatnonzero(mask.any(axis=0)), side, mask.shape[1])
    window = np.s_[top : top + side, left : left + side]
    hole = resize_mask(mask[window], height=size, width=size)
    check_hole(hole)
    return Sample(
        image=resize(image[window], height=size, width=size),
        target=None if target is None else resize(target[window], height=size, width=size),
        hole_mask=hole,
    )


def fit_frame(mask: UInt8Array, height: int, width: int) -> UInt8Array:
    """Scale a mask of the same frame but another resolution to a photo's size.

    Raises:
        ImageError: another frame, that is, other proportions.
    """
    ratio = max(height / mask.shape[0], width / mask.shape[1])
    off = max(abs(mask.shape[0] * ratio - height), abs(mask.shape[1] * ratio - width))
    if off > _FRAME_TOLERANCE_PX * max(1.0, ratio):
        raise ImageError(
            f"its mask is {mask.shape[1]}x{mask.shape[0]} pixels (width x height), the image "
            f"{width}x{height}: not the same frame.",
            code="size_mismatch",
        )
    if ratio <= 1:
        return resize_mask(mask, height=height, width=width)
    return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)


def _start(hole: np.ndarray[tuple[int], np.dtype[np.intp]], side: int, length: int) -> int:
    """Return where a window of `side` begins so that its middle is the hole's, as far as it can."""
    middle = (int(hole[0]) + int(hole[-1]) + 1) // 2
    return min(max(middle - side // 2, 0), length - side)
