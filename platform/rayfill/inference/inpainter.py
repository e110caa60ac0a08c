"""From a photograph of any size and a mask to the photograph with the hole filled."""

from __future__ import annotations

import dataclasses
import os
from typing import Annotated, overload

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from rayfill.config.sections import Finish, Variant
from rayfill.inference.baselines import ExemplarInpainting
from rayfill.inference.pictures import Mask, Picture, open_mask, open_picture
from rayfill.inference.windows import Box, Flags, regions, window
from rayfill.models import (
    VARIANTS,
    ExemplarOptions,
    InpaintingModel,
    composite,
    guided_fill,
    push_pull_fill,
)
from rayfill.runs.bundle import load_bundle
from rayfill_data.checks import Bounds, Whole, check_value
from rayfill_data.codec import to_nchw, to_uint8
from rayfill_data.errors import ImageError, RayfillError
from rayfill_data.masks.hole import dilate

UInt8 = NDArray[np.uint8]

#: Longest side, in pixels, that a model is shown where nothing is known of its training.
DEFAULT_MAX_SIDE = 512

#: Smaller than this, a model sees too little of a photograph.
_MIN_MAX_SIDE_PX = 96
_MASK_THRESHOLD = 128


class Inpainter:
    """A model ready for photographs: any size in, the same size out, untouched outside the hole.

    Only the surroundings of each hole reach the model, all of them at once: where they are larger
    than ``max_side`` they are shown scaled down, and the answer is a guide, from which the *finish*
    makes the full size. Holds no state between calls; several threads may share one.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: str = "cpu",
        name: str = "",
        run_id: str = "",
        max_side: int = DEFAULT_MAX_SIDE,
        finish: Finish = "auto",
    ) -> None:
        """Take over a model.

        Args:
            model: ``forward(image, hole_mask) -> prediction``, a network or a baseline; it is moved
                to the device and put into eval mode.
            device: where to run it.
            name: what it is called; only kept.
            run_id: the run that trained it; only kept.
            max_side: longest side, in pixels, that the model is shown, unless its ``any_size`` says
                that it does with any.
            finish: ``exemplar``: patches of the photograph, guided by the answer
                (:func:`rayfill.models.fills.exemplar.guided_fill`); ``none``: the answer itself,
                scaled up; ``auto``: patches where it would be scaled up.

        Raises:
            ConfigError: ``max_side`` below 96, or another ``finish``.
        """
        check_value("max_side", max_side, Annotated[int, Bounds(ge=_MIN_MAX_SIDE_PX)])
        check_value("finish", finish, Finish)
        self.model = model.to(device).to(memory_format=torch.channels_last).eval()
        self.device = torch.device(device)
        self.name = name
        self.run_id = run_id
        self.max_side = max_side
        self.finish = finish

    @classmethod
    def from_bundle(
        cls, uri: str | os.PathLike[str], *, device: str = "cpu", finish: Finish = "auto"
    ) -> Inpainter:
        """Return the inpainter of a saved model; its run id is the bundle's ``extra["run_id"]``.

        A model is shown pictures up to twice as large as those it was trained on, where its bundle
        notes them (``extra["trained_side"]``); ``auto`` is what its bundle says was better on
        validation (``extra["finish"]``).

        Args:
            uri: a model bundle, a local path or a URI.
            device: where to run it.
            finish: as for the class.

        Raises:
            RayfillError: a bundle that cannot be used.
        """
        bundle = load_bundle(uri)
        run_id = str(bundle.extra.get("run_id", ""))
        side = int(bundle.extra.get("trained_side", DEFAULT_MAX_SIDE // 2))
        measured_better = bundle.extra.get("finish") == "exemplar"
        return cls(
            bundle.model,
            device=device,
            name=bundle.name,
            run_id=run_id,
            max_side=max(_MIN_MAX_SIDE_PX, 2 * side),
            finish="exemplar" if finish == "auto" and measured_better else finish,
        )

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

    @property
    def variants(self) -> int:
        """Return how many different fills of a hole it has to offer."""
        finished = self.finish == "exemplar" or isinstance(self.model, ExemplarInpainting)
        return len(VARIANTS) if finished else 1

    def inpaint(
        self,
        image: UInt8,
        hole_mask: UInt8,
        *,
        expand_px: int = 0,
        feather_px: int = 0,
        variant: int = 0,
        time_limit_s: float | None = None,
    ) -> UInt8:
        """Return ``image`` with the hole filled; every other pixel is the input's, bit for bit.

        Args:
            image: (H, W, 3) uint8 RGB of any size.
            hole_mask: (H, W) uint8, 128 and more = to fill.
            expand_px: the hole is first grown by a disc of this radius (shrunk if negative).
            feather_px: width of the band inside the hole's edge over which the fill fades from a
                smooth continuation of the surroundings to the model's own; hides a visible seam.
                What was under the hole never shines through.
            variant: another try, 0 to 3, where patches are searched for; the best guess is 0.
            time_limit_s: after this no more patches are searched for in one part of the hole.

        Raises:
            ImageError: shapes or types other than above, or mask and image of different sizes.
            ConfigError: a negative ``feather_px``, or another ``variant``.
            RayfillError: the model answered with values that are not finite.
        """
        _check_pictures(image, hole_mask)
        check_value("feather_px", feather_px, Whole)
        check_value("variant", variant, Variant)
        patching = dataclasses.replace(VARIANTS[variant], time_limit_s=time_limit_s)
        binary = np.where(hole_mask >= _MASK_THRESHOLD, np.uint8(255), np.uint8(0))
        hole = dilate(binary, radius_px=expand_px) > 0
        result, remaining = image.copy(), hole.copy()
        context_px = getattr(self.model, "context_px", InpaintingModel.context_px)
        for region in regions(hole):
            shown = window(region, size=hole.shape, context_px=context_px)
            filled = self._fill(result, remaining, shown, patching)
            if feather_px:
                filled = _faded(filled, result, remaining, shown, feather_px=feather_px)
            todo = remaining[region.index]
            result[region.index][todo] = filled[region.within(shown)][todo]
            todo[...] = False  # what one region was filled with is known to the next
        return result

    def _fill(self, image: UInt8, hole: Flags, shown: Box, patching: ExemplarOptions) -> UInt8:
        """Return the (h, w, 3) uint8 picture of one window."""
        pixels = torch.from_numpy(to_nchw(image[shown.index][None])).to(self.device)
        mask = torch.from_numpy(hole[shown.index][None, None].astype(np.float32)).to(self.device)
        with torch.inference_mode():
            if isinstance(self.model, ExemplarInpainting):
                prediction = guided_fill(pixels, mask, guide=None, options=patching)
            else:
                prediction = self._predict(pixels, mask, patching)
        filled: UInt8 = to_uint8(prediction.cpu().numpy())[0]
        return filled

    def _predict(self, pixels: Tensor, mask: Tensor, patching: ExemplarOptions) -> Tensor:
        """Return the model's answer at a window's size, finished.

        Raises:
            RayfillError: values that are not finite.
        """
        small, small_mask = self._shown(pixels, mask)
        prediction: Tensor = self.model(small, small_mask).float()
        if not torch.isfinite(prediction[(small_mask > 0.5).expand_as(prediction)]).all():
            raise RayfillError(
                f"Model {self.name or type(self.model).__name__!r} answered with values that "
                "are not finite. Use another version of it."
            )
        scaled = small.shape != pixels.shape
        if self.finish == "exemplar" or (self.finish == "auto" and scaled):
            guide = composite(prediction, small, small_mask).clamp(0, 1)
            return guided_fill(pixels, mask, guide=guide, options=patching)
        if scaled:
            prediction = F.interpolate(prediction, pixels.shape[-2:], mode="bilinear")
        return prediction

    def _shown(self, pixels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return a window and its mask at the size that the model is shown."""
        height, width = pixels.shape[-2:]
        scale = self.max_side / max(height, width)
        if scale >= 1 or getattr(self.model, "any_size", InpaintingModel.any_size):
            return pixels, mask
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        known = F.interpolate(1 - mask, size, mode="area")
        colours = F.interpolate(pixels * (1 - mask), size, mode="area")
        # Means of what is known; a pixel that is mostly hole is hole.
        return colours / known.clamp_min(1e-6), (known < 0.5).float()


def _faded(filled: UInt8, image: UInt8, hole: Flags, shown: Box, *, feather_px: int) -> UInt8:
    """Return a filled window that comes in over a smooth continuation of the surroundings."""
    pixels = torch.from_numpy(to_nchw(image[shown.index][None]))
    mask = torch.from_numpy(hole[shown.index][None, None].astype(np.float32))
    smooth, answer = push_pull_fill(pixels, mask), torch.from_numpy(to_nchw(filled[None]))
    share = torch.from_numpy(_fade(hole[shown.index], feather_px))
    faded: UInt8 = to_uint8(torch.lerp(smooth, answer, share).numpy())[0]
    return faded


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


def _fade(hole: Flags, feather_px: int) -> NDArray[np.float32]:
    """Return the model's share per pixel: from 0 outside the hole to 1 beyond ``feather_px``."""
    distance = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    share = np.minimum(distance / (feather_px + 1), 1.0)
    return np.asarray(share, np.float32)
