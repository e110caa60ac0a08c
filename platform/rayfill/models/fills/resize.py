"""Pictures at other sizes, with the same bits for any number of threads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def enlarged(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (..., C, H, W) interpolated bilinearly from (..., C, h, w), none of them larger.

    What ``torch.nn.functional.interpolate`` gives to rounding (``align_corners=False``), which on a
    CPU rounds otherwise for one thread than for several (torch 2.9 to 2.11): enough to make a
    search for the most similar patch end elsewhere.
    """
    return _along(_along(x, size[0], dim=-2), size[1], dim=-1)


def _along(x: Tensor, length: int, *, dim: int) -> Tensor:
    have = x.shape[dim]
    if length == have:
        return x
    if length == 2 * have:
        first, last = x.narrow(dim, 0, 1), x.narrow(dim, have - 1, 1)
        before = torch.cat([first, x.narrow(dim, 0, have - 1)], dim)
        after = torch.cat([x.narrow(dim, 1, have - 1), last], dim)
        near = x * 0.75
        pair = torch.stack([near + before * 0.25, near + after * 0.25], dim=x.ndim + dim + 1)
        return pair.flatten(x.ndim + dim, x.ndim + dim + 1)
    at = (torch.arange(length, device=x.device, dtype=torch.float64) + 0.5) * have / length - 0.5
    at = at.clamp(0, have - 1)
    below = at.floor().long()
    share = (at - below).to(x.dtype)
    share = share[:, None] if dim == -2 else share
    lower, upper = x.index_select(dim, below), x.index_select(dim, (below + 1).clamp_max(have - 1))
    return lower * (1 - share) + upper * share


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (C, h, w) at another size: means of what a pixel covers, or smooth between pixels."""
    smaller = (min(size[0], x.shape[-2]), min(size[1], x.shape[-1]))
    if smaller != tuple(x.shape[-2:]):
        x = F.interpolate(x[None], smaller, mode="area")[0]
    return enlarged(x, size)
