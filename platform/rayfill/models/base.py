"""What every inpainting model is: a stateless ``forward(image, hole_mask) -> prediction``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rayfill_data.errors import RayfillError


class InpaintingModel(nn.Module):
    """A network that fills holes, at any image size, keeping no state between calls.

    ``forward(image, hole_mask)`` takes ``image`` (B, 3, H, W) float32 RGB in [0, 1] and
    ``hole_mask`` (B, 1, H, W) float32, exactly 0 or 1, 1 = to fill, and returns ``prediction``
    (B, 3, H, W) float32. It never reads ``image`` under the hole. In eval mode the prediction is
    clamped to [0, 1]; in training mode it is not, so that gradients still flow where it overshoots.

    Attributes:
        stride: the model pads sizes up to a multiple of this; crops that already are one cost no
            padding.
        any_size: whether the model sees whole holes however large they are, so that no photograph
            need be scaled down for it.
        context_px: fewest known pixels that it is shown around a hole.
    """

    stride: int = 1
    any_size: bool = False
    context_px: int = 32

    def forward(self, image: Tensor, hole_mask: Tensor) -> Tensor:
        """Return the prediction (B, 3, H, W) for every pixel, known ones included."""
        raise NotImplementedError


def check_inputs(image: Tensor, hole_mask: Tensor) -> None:
    """Refuse an image and mask whose shapes do not fit each other.

    Values are not read: on a GPU that would wait for the device at every step.

    Raises:
        RayfillError: image is not (B, 3, H, W), or hole_mask not (B, 1, H, W) of the same size.
    """
    if image.ndim != 4 or image.shape[1] != 3 or image.numel() == 0:
        raise RayfillError(
            f"image has shape {tuple(image.shape)}; a model takes (B, 3, H, W), none of them 0. "
            "Stack RGB images along a first axis."
        )
    expected = (image.shape[0], 1, *image.shape[2:])
    if hole_mask.shape != expected:
        raise RayfillError(
            f"hole_mask has shape {tuple(hole_mask.shape)}; this image needs {expected}. "
            "Give one mask channel of the image's own size for every image."
        )


def composite(prediction: Tensor, image: Tensor, hole_mask: Tensor) -> Tensor:
    """Return ``hole_mask * prediction + (1 - hole_mask) * image``, known pixels bit for bit.

    Selects instead of multiplying, so that a NaN under the hole of ``image`` cannot leak out.

    Args:
        prediction: (B, 3, H, W).
        image: (B, 3, H, W).
        hole_mask: (B, 1, H, W), exactly 0 or 1, 1 = take the prediction.
    """
    return torch.where(hole_mask > 0.5, prediction, image)
