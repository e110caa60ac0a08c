"""Losses that place the outline of a soft mask: on the object's boundary, or just outside it."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from rayfill_data.checks import Bounds, check_value
from rayfill_data.errors import RayfillError
from rayfill_data.masks import distance

#: How far a mask shall grow, as a share of the largest distance in the picture.
Alpha = Annotated[float, Bounds(ge=0, lt=1)]

_LIMITS = (torch.amin, torch.amax)


def signed_distance_px(hole_mask: Tensor) -> Tensor:
    """Return how far, in pixels, every pixel lies from the outline: negative inside.

    :func:`.signed_distance_px` of a batch: between pixel centres, less one
    half, so that the outline's neighbours are at -0.5 and +0.5; plus (minus) the image's diagonal
    everywhere in a mask without hole (of hole alone).

    Computed on the CPU by OpenCV's exact transform, outside autograd; a mask on a GPU makes the
    way there and back. Masks that do not change from epoch to epoch have theirs cached by the data
    stage.

    Args:
        hole_mask: (B, 1, H, W), exactly 0 or 1, 1 = inside.

    Returns:
        (B, 1, H, W) float32, on the device of ``hole_mask``.

    Raises:
        RayfillError: another shape.
    """
    if hole_mask.ndim != 4 or hole_mask.shape[1] != 1 or hole_mask.numel() == 0:
        raise RayfillError(
            f"hole_mask has shape {tuple(hole_mask.shape)}; a signed distance takes (B, 1, H, W), "
            "none of them 0. Give one mask channel for every image."
        )
    inside = (hole_mask.detach() > 0.5).to("cpu", torch.uint8).numpy()
    distances = np.stack([distance.signed_distance_px(mask) for mask in inside[:, 0]])
    return torch.from_numpy(distances)[:, None].to(hole_mask.device)


def signed_distance(hole_mask: Tensor) -> Tensor:
    """Return :func:`signed_distance_px`, each side over its own largest distance in each image.

    ``phi`` of the boundary losses, in [-1, 1]: :func:`rayfill_data.masks.distance.signed_distance`
    of a batch; +1 everywhere where there is no hole, -1 everywhere where all is hole. Arguments,
    shape and errors as :func:`signed_distance_px`.

    Source: Kervadec et al. 2019 (arXiv:1812.07032); scaled as there is said.
    """
    distance_px = signed_distance_px(hole_mask)
    deepest, farthest = (limit(distance_px, dim=(2, 3), keepdim=True) for limit in _LIMITS)
    return distance_px / torch.where(distance_px < 0, -deepest, farthest)


def alpha_px(hole_mask: Tensor, *, alpha: float) -> Tensor:
    """Return how many pixels outward ``alpha`` moves the outline of each mask, (B,) float32.

    ``alpha`` times the largest distance from the object in the image, so it depends on the photo's
    size and on where the object stands: 0.03 is 5 to 10 pixels in photos of 256.

    Args:
        hole_mask: (B, 1, H, W), exactly 0 or 1, 1 = object.
        alpha: in [0, 1).

    Raises:
        ConfigError: ``alpha`` out of range.
    """
    check_value("alpha", alpha, Alpha)
    return alpha * signed_distance_px(hole_mask).clamp_min(0).amax(dim=(1, 2, 3))


def boundary_loss(probability: Tensor, signed_distance: Tensor) -> Tensor:
    """Return ``mean(phi * m)`` over all pixels: least where the mask is the object, no more.

    Args:
        probability: (B, 1, H, W) in [0, 1], the soft mask ``m``.
        signed_distance: (B, 1, H, W), ``phi`` of the true object, see :func:`signed_distance`.

    Raises:
        RayfillError: the two differ in shape.

    Source: report P2, equation 8, after Kervadec et al. 2019 (arXiv:1812.07032). The integral is
    taken as the mean over the photo's area, see :func:`mask_expansion_loss`.
    """
    _check_shapes(probability, signed_distance)
    return (signed_distance * probability).mean()


def mask_expansion_loss(probability: Tensor, signed_distance: Tensor, *, alpha: float) -> Tensor:
    """Return ``mean((phi - alpha) * m)`` over all pixels: the mask grows out to ``phi = alpha``.

    Linear in ``m``: alone, it is least where ``m`` is 1 where ``phi < alpha`` and 0 elsewhere, the
    object grown by :func:`alpha_px` pixels all around.

    The report writes an integral. Taken as a mean, its weight of 1000 makes sense: beside a cross
    entropy, a mean too, that calls the pixels around the object background, the mask at
    ``m = 1/2`` ends where ``1000 (alpha - phi) = 2``, at ``phi = alpha - 0.002``, less than half a
    pixel short in photos of 256; with weight 1 cross entropy would win everywhere. Taken as a sum,
    1000 would be the mean's 65 million there, and no other loss would count beside it.

    Args:
        probability: (B, 1, H, W) in [0, 1], the soft mask ``m``.
        signed_distance: (B, 1, H, W), ``phi`` of the true object, see :func:`signed_distance`.
        alpha: in [0, 1); 0 is :func:`boundary_loss`, the report's best is 0.03.

    Raises:
        ConfigError: ``alpha`` out of range.
        RayfillError: the two differ in shape.

    Source: report P2, equation 9.
    """
    check_value("alpha", alpha, Alpha)
    _check_shapes(probability, signed_distance)
    return ((signed_distance - alpha) * probability).mean()


def _check_shapes(probability: Tensor, signed_distance: Tensor) -> None:
    if probability.shape != signed_distance.shape:
        raise RayfillError(
            f"the soft mask has shape {tuple(probability.shape)}, its signed distance "
            f"{tuple(signed_distance.shape)}; both must be (B, 1, H, W). "
            "Take the distance of a true mask of the same size."
        )
