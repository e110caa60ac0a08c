"""From a photograph of any size and a mask to the photograph with the hole filled."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import Annotated, overload

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from rayfill.inference.pictures import Mask, Picture, open_mask, open_picture
from rayfill.models import push_pull_fill
from rayfill.runs.bundle import load_bundle
from rayfill_data.checks import Bounds, Whole, check_value
from rayfill_data.codec import to_nchw, to_uint8
from rayfill_data.errors import ImageError, RayfillError
from rayfill_data.masks.hole import dilate

UInt8 = NDArray[np.uint8]
Flags = NDArray[np.bool_]

#: Known pixels shown to the model around a hole: half the hole's longer side, and at least this.
_MIN_CONTEXT_PX = 32
#: A tile with that context on both sides must still have a core worth a call.
_MIN_MAX_SIDE_PX = 3 * _MIN_CONTEXT_PX
#: Crops are widened to whole multiples of this where the photograph allows, so that the model pads
#: nothing and the convolution library meets few different shapes.
_ALIGN_PX = 32
_MASK_THRESHOLD = 128


@dataclass(frozen=True)
class _Box:
    """Rows [top, bottom) and columns [left, right) of a picture."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def index(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)


class Inpainter:
    """A model ready for photographs: any size in, the same size out, untouched outside the hole.

    Only the surroundings of each hole reach the model, at the photograph's own resolution. A region
    larger than ``max_side`` is filled in tiles, those with most known pixels first, so that each
    continues what the ones before it filled in. Holds no state between calls; several threads may
    share one.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: str = "cpu",
        name: str = "",
        run_id: str = "",
        max_side: int = 512,
    ) -> None:
        """Take over a model.

        Args:
            model: ``forward(image, hole_mask) -> prediction``, a network or a baseline; it is moved
                to the device and put into eval mode.
            device: where to run it.
            name: what it is called; only kept.
            run_id: the run that trained it; only kept.
            max_side: longest side, in pixels, that the model is given at once; bounds memory.

        Raises:
            ConfigError: ``max_side`` below 96.
        """
        check_value("max_side", max_side, Annotated[int, Bounds(ge=_MIN_MAX_SIDE_PX)])
        self.model = model.to(device).to(memory_format=torch.channels_last).eval()
        self.device = torch.device(device)
        self.name = name
        self.run_id = run_id
        self.max_side = max_side

    @classmethod
    def from_bundle(cls, uri: str | os.PathLike[str], *, device: str = "cpu") -> Inpainter:
        """Return the inpainter of a saved model; its run id is the bundle's ``extra["run_id"]``.

        Args:
            uri: a model bundle, a local path or a URI.
            device: where to run it.

        Raises:
            RayfillError: a bundle that cannot be used.
        """
        bundle = load_bundle(uri)
        run_id = str(bundle.extra.get("run_id", ""))
        return cls(bundle.model, device=device, name=bundle.name, run_id=run_id)

    @overload
    def __call__(
        self, picture: UInt8, mask: Mask, *, expand_px: int = 0, feather_px: int = 0
    ) -> UInt8: ...

    @overload
    def __call__(
        self,
        picture: str | os.PathLike[str] | Image.Image,
        mask: Mask,
        *,
        expand_px: int = 0,
        feather_px: int = 0,
    ) -> Image.Image: ...

    def __call__(
        self, picture: Picture, mask: Mask, *, expand_px: int = 0, feather_px: int = 0
    ) -> Image.Image | UInt8:
        """Return the photo without what the mask covers, in the form it came in.

        Args:
            picture: a Pillow image or an (H, W, 3) uint8 RGB array, which give their like back; or
                a file, which gives a Pillow image. Alpha and colour profile are kept.
            mask: of the photo's size: a file or Pillow image, bright where to fill, or an array.
            expand_px: as for :meth:`inpaint`.
            feather_px: as for :meth:`inpaint`.

        Raises:
            ImageError: a file that is no photo, or a mask of another size.
        """
        opened = open_picture(picture)
        hole = open_mask(mask, size=opened.rgb.shape[:2])
        filled = self.inpaint(opened.rgb, hole, expand_px=expand_px, feather_px=feather_px)
        return opened.like(filled)

    def inpaint(
        self, image: UInt8, hole_mask: UInt8, *, expand_px: int = 0, feather_px: int = 0
    ) -> UInt8:
        """Return ``image`` with the hole filled; every other pixel is the input's, bit for bit.

        Args:
            image: (H, W, 3) uint8 RGB of any size.
            hole_mask: (H, W) uint8, 128 and more = to fill.
            expand_px: the hole is first grown by a disc of this radius (shrunk if negative).
            feather_px: width of the band inside the hole's edge over which the fill fades from a
                smooth continuation of the surroundings to the model's own; hides a visible seam.
                What was under the hole never shines through.

        Raises:
            ImageError: shapes or types other than above, or mask and image of different sizes.
            ConfigError: a negative ``feather_px``.
            RayfillError: the model answered with values that are not finite.
        """
        _check_pictures(image, hole_mask)
        check_value("feather_px", feather_px, Whole)
        binary = np.where(hole_mask >= _MASK_THRESHOLD, np.uint8(255), np.uint8(0))
        hole = dilate(binary, radius_px=expand_px) > 0
        result, remaining = image.copy(), hole.copy()
        for region in _regions(hole):
            tiles = _tiles(region, max_side=self.max_side, height=len(hole), width=len(hole[0]))
            while tiles:
                core, window = min(tiles, key=lambda tile: remaining[tile[1].index].mean())
                tiles.remove((core, window))
                if remaining[core.index].any():
                    filled = self._fill(result, hole, remaining, window, feather_px)
                    _paste(result, remaining, filled, core=core, window=window)
        return result

    def _fill(
        self, image: UInt8, hole: Flags, remaining: Flags, window: _Box, feather_px: int
    ) -> UInt8:
        """Return the model's (h, w, 3) uint8 picture of one window."""
        # What other windows have filled already counts as known here.
        pixels = torch.from_numpy(to_nchw(image[window.index][None])).to(self.device)
        mask = torch.from_numpy(remaining[window.index][None, None].astype(np.float32))
        mask = mask.to(self.device)
        with torch.inference_mode():
            prediction = self.model(pixels, mask).float()
            if not torch.isfinite(prediction[(mask > 0.5).expand_as(prediction)]).all():
                raise RayfillError(
                    f"Model {self.name or type(self.model).__name__!r} answered with values that "
                    "are not finite. Use another version of it."
                )
            if feather_px:
                alpha = torch.from_numpy(_fade(hole[window.index], feather_px)).to(self.device)
                prediction = torch.lerp(push_pull_fill(pixels, mask), prediction, alpha)
        filled: UInt8 = to_uint8(prediction.cpu().numpy())[0]
        return filled


def _paste(image: UInt8, remaining: Flags, filled: UInt8, *, core: _Box, window: _Box) -> None:
    """Take over, in place, the pixels of ``core`` that remain to be filled."""
    rows, columns = core.index
    inner = filled[
        core.top - window.top : core.bottom - window.top,
        core.left - window.left : core.right - window.left,
    ]
    todo = remaining[rows, columns]
    image[rows, columns][todo] = inner[todo]
    todo[...] = False


def _check_pictures(image: UInt8, hole_mask: UInt8) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ImageError(
            f"image is {image.dtype} of shape {image.shape}; allowed: uint8 (H, W, 3), RGB. "
            "Decode it with rayfill_data.codec.decode_photo.",
            code="malformed",
        )
    if hole_mask.dtype != np.uint8 or hole_mask.ndim != 2:
        raise ImageError(
            f"hole_mask is {hole_mask.dtype} of shape {hole_mask.shape}; allowed: uint8 (H, W). "
            "Decode it with rayfill_data.codec.decode_mask.",
            code="malformed",
        )
    if hole_mask.shape != image.shape[:2]:
        raise ImageError(
            f"hole_mask is {hole_mask.shape[1]}x{hole_mask.shape[0]} pixels, image is "
            f"{image.shape[1]}x{image.shape[0]}. Give a mask of the image's own size.",
            code="size_mismatch",
        )


def _regions(hole: Flags) -> list[_Box]:
    """Return boxes that together cover the hole; parts nearer than the context share one."""
    reach = _MIN_CONTEXT_PX // 2
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    joined = cv2.dilate(hole.astype(np.uint8), kernel)
    _, _, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    height, width = hole.shape
    boxes = []
    for left, top, box_width, box_height, _ in stats[1:].tolist():  # the first is the background
        right, bottom = left + box_width, top + box_height
        boxes.append(
            _Box(
                # A grown part that was cut off at the frame may keep its margin there.
                top=top + reach if top > 0 else 0,
                bottom=bottom - reach if bottom < height else height,
                left=left + reach if left > 0 else 0,
                right=right - reach if right < width else width,
            )
        )
    return boxes


def _tiles(region: _Box, *, max_side: int, height: int, width: int) -> list[tuple[_Box, _Box]]:
    """Split a region into cores, each with the window (core and context) that the model sees."""
    context = max(_MIN_CONTEXT_PX, max(region.bottom - region.top, region.right - region.left) // 2)
    rows = _spans(region.top, region.bottom, size=height, context=context, max_side=max_side)
    columns = _spans(region.left, region.right, size=width, context=context, max_side=max_side)
    return [
        (_Box(*row[0], *column[0]), _Box(*row[1], *column[1])) for row in rows for column in columns
    ]


def _spans(
    start: int, stop: int, *, size: int, context: int, max_side: int
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Split [start, stop) along one side into (core, window) pairs, windows within [0, size)."""
    # One stretch where core and the least context fit, or where the whole side does.
    longest = max_side if size <= max_side else max_side - 2 * _MIN_CONTEXT_PX
    edges = np.linspace(start, stop, 1 + -(-(stop - start) // longest)).round().astype(int).tolist()
    spans = []
    for low, high in itertools.pairwise(edges):
        wanted = high - low + 2 * context
        length = min(-(-wanted // _ALIGN_PX) * _ALIGN_PX, max_side, size)
        # Centred on the core, then moved inside the picture.
        first = min(max((low + high - length) // 2, 0), size - length)
        spans.append(((low, high), (first, first + length)))
    return spans


def _fade(hole: Flags, feather_px: int) -> NDArray[np.float32]:
    """Return the model's share per pixel: from 0 outside the hole to 1 beyond ``feather_px``."""
    distance = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    share = np.minimum(distance / (feather_px + 1), 1.0)
    return np.asarray(share, np.float32)
