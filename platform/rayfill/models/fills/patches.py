"""Pictures as patches to be compared: a pyramid of planes, and a few numbers for every patch."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

#: Patches reach so far from their centre: 5x5 pixels.
RADIUS_PX = 2
SIDE_PX = 2 * RADIUS_PX + 1

#: How much a gradient counts against a difference of colours in [0, 1].
_TEXTURE_WEIGHT = 3.0

#: No side of the coarsest level is shorter.
_SHORTEST_SIDE_PX = 24

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Level:
    """A picture at one scale."""

    planes: Tensor
    """(C, h, w) float32, 0 in the hole: RGB in [0, 1]; of a pyramid, also how strong gradients
    along x and y are around."""
    hole: Tensor
    """(h, w) bool."""


def pyramid(image: Tensor, hole: Tensor) -> list[Level]:
    """Return a picture at full size and halved until its hole is about as thin as a patch.

    Args:
        image: (3, H, W) float32 in [0, 1], 0 in the hole.
        hole: (H, W) bool.
    """
    count = _number_of_levels(hole)
    texture = _texture(image, hole, side=max(3, 2 ** (count - 1) + 1))
    levels = [Level(torch.cat([image, texture.masked_fill_(hole, 0.0)]), hole)]
    for _ in range(count - 1):
        levels.append(halved(levels[-1]))
    return levels


def halved(level: Level) -> Level:
    """Return a level at half its size; an odd last row or column is left out.

    A pixel is the mean of the known among the 2x2 below it, and hole where fewer than two of them
    are known.
    """
    known = F.avg_pool2d((~level.hole)[None, None].float(), 2, divisor_override=1)[0]
    sums = F.avg_pool2d(level.planes[None], 2, divisor_override=1)[0]
    hole = known[0] < 1.5
    return Level((sums / known.clamp_min(1)).masked_fill(hole, 0.0), hole)


def depth_in_hole(hole: Tensor) -> Tensor:
    """Return how many steps along rows and columns lie between a pixel and what is known, (h, w).

    0 outside the hole; what lies beyond the frame is taken for known.
    """
    padded = np.pad(hole.cpu().numpy().astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L1, cv2.DIST_MASK_3)[1:-1, 1:-1]
    return torch.from_numpy(np.ascontiguousarray(depth)).to(hole.device)


def near(flags: Tensor, radius_px: int) -> Tensor:
    """Return where a square of that radius around a pixel holds a flagged one, (h, w) bool."""
    side = 2 * radius_px + 1
    grown = F.max_pool2d(flags[None].float(), side, stride=1, padding=radius_px)
    return grown[0] > 0.5


def blurred(image: Tensor, *, sigma_px: float) -> Tensor:
    """Return (C, H, W) under a Gaussian window; beyond the frame it is mirrored."""
    planes = image.permute(1, 2, 0).cpu().numpy()
    smooth = cv2.GaussianBlur(planes, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT_101)
    return torch.from_numpy(smooth.reshape(planes.shape)).permute(2, 0, 1).to(image.device)


@functools.cache
def patch_filters() -> Tensor:
    """Return what patches are compared by: (24, 5, 5, 5) orthonormal filters, most telling first.

    The lowest frequencies of the discrete cosine transform of a 5x5 patch: 12 of brightness, 3 each
    of two differences of colours, 3 each of the two gradients. They keep nearly all of what natural
    patches differ by, need no decomposition, and are the same for every picture.
    """
    grid = np.arange(SIDE_PX) + 0.5
    waves = np.stack([np.cos(math.pi / SIDE_PX * k * grid) for k in range(SIDE_PX)])
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    order = sorted(np.ndindex(SIDE_PX, SIDE_PX), key=lambda k: (k[0] ** 2 + k[1] ** 2, k))
    mixes: list[tuple[NDArray[np.float64], int]] = [
        (np.array([1, 1, 1, 0, 0]) / math.sqrt(3), 12),
        (np.array([1, 0, -1, 0, 0]) / math.sqrt(2), 3),
        (np.array([1, -2, 1, 0, 0]) / math.sqrt(6), 3),
        (np.array([0.0, 0, 0, 1, 0]), 3),
        (np.array([0.0, 0, 0, 0, 1]), 3),
    ]
    ranked = sorted((k, mix) for mix, (_, count) in enumerate(mixes) for k in range(count))
    filters = [
        np.einsum("c,y,x->cyx", mixes[mix][0], waves[order[k][0]], waves[order[k][1]])
        for k, mix in ranked
    ]
    return torch.from_numpy(np.stack(filters).astype(np.float32))


def descriptors(planes: Tensor) -> Tensor:
    """Return a row for the patch around every pixel, (h * w, 24); beyond the frame are zeros."""
    answers = F.conv2d(planes[None], patch_filters().to(planes), padding=RADIUS_PX)
    return answers[0].flatten(1).T.contiguous()


def _number_of_levels(hole: Tensor) -> int:
    padded = np.pad(hole.cpu().numpy().astype(np.uint8), 1)
    thickest_px = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_5).max()
    shorter, count = min(hole.shape), 1
    while thickest_px > 2 ** (count - 1) * SIDE_PX / 2 and shorter >= _SHORTEST_SIDE_PX << count:
        count += 1
    return count


def _texture(image: Tensor, hole: Tensor, *, side: int) -> Tensor:
    """Return the weighted mean of |gradient| over known pixels of a square, along x and y."""
    gray = torch.einsum("c,chw->hw", torch.tensor(_LUMA).to(image), image)
    along_x = F.pad(gray.diff(dim=1), (0, 1)).abs()
    along_y = F.pad(gray.diff(dim=0), (0, 0, 0, 1)).abs()
    known = (~near(hole, 1)).to(image)  # a gradient reaches one pixel further
    sums = np.stack([(along_x * known).cpu().numpy(), (along_y * known).cpu().numpy()], axis=-1)
    means = cv2.blur(sums, (side, side))
    share = cv2.blur(known.cpu().numpy(), (side, side))[..., None]
    strength = torch.from_numpy(means / (share + 1e-6)).permute(2, 0, 1)
    return _TEXTURE_WEIGHT * strength.to(image)
