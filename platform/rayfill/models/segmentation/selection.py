"""From label logits to the mask of one object: by its true mask, or by clicks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayfill.models.segmentation.base import Segments, soft_mask
from rayfill_data.errors import ConfigError, RayfillError

Flags = NDArray[np.bool_]
Numbers = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class SelectedMask:
    """The masks of the objects chosen in a batch."""

    soft: Tensor
    """(B, 1, H, W) in [0, 1], differentiable; where nothing was found, all of the label's."""

    hard: Tensor
    """(B, 1, H, W) exactly 0 or 1: where ``soft`` exceeds the threshold; empty if nothing found."""

    found: Tensor
    """(B,) bool: whether anything was."""


def select_by_overlap(
    logits: Tensor,
    *,
    label: int,
    truth: Tensor,
    segments: Sequence[Segments] | None = None,
    threshold: float = 0.5,
) -> SelectedMask:
    """Choose, per photo, the object of ``label`` that shares most pixels with ``truth``.

    Objects are ``segments`` where the segmenter tells them apart, else the 8-connected regions of
    the pixels likelier than ``threshold`` to bear the label. The soft mask is the label's
    probability on all pixels nearer to the chosen object than to any other, 0 elsewhere: it may
    grow outward and shrink, and never takes a second object along. Where no object touches
    ``truth``, nothing is found. The choice itself has no gradient and is made on the CPU.

    Args:
        logits: (B, K, H, W).
        label: 1 to K - 1.
        truth: (B, 1, H, W), exactly 0 or 1, the mask to be met.
        segments: what the segmenter saw, per photo.
        threshold: probability above which a pixel counts as seen, in (0, 1).

    Raises:
        ConfigError: ``threshold`` out of range.
        RayfillError: ``truth`` of another size.

    Source: report P2, joint training.
    """
    _check_threshold(threshold)
    if truth.shape != (logits.shape[0], 1, *logits.shape[2:]):
        raise RayfillError(
            f"truth has shape {tuple(truth.shape)}; these logits need "
            f"{(logits.shape[0], 1, *logits.shape[2:])}. Give one mask for every photo."
        )
    soft = soft_mask(logits, label=label)
    seen = _flags(soft[:, 0] > threshold)
    wanted = _flags(truth[:, 0] > 0.5)
    regions, found = [], []
    for row in range(len(soft)):
        maps = _object_maps(seen[row], segments[row] if segments else None, label, threshold)
        overlaps = np.bincount(maps[:, wanted[row]].ravel(), minlength=1)
        overlaps[0] = 0
        best = int(np.argmax(overlaps))
        found.append(bool(overlaps[best] > 0))
        others = seen[row] | _union((maps > 0) & (maps != best))
        nearest = _nearest(_union(maps == best), others=others) if found[-1] else None
        regions.append(np.ones_like(seen[row]) if nearest is None else nearest)
    soft = soft * _region(np.stack(regions), like=soft)
    return _selected(soft, found=torch.tensor(found, device=soft.device), threshold=threshold)


def select_label(logits: Tensor, *, label: int, threshold: float = 0.5) -> SelectedMask:
    """Choose everything that bears a label, be it one region or many.

    Args:
        logits: (B, K, H, W).
        label: 1 to K - 1.
        threshold: probability above which a pixel counts as seen, in (0, 1).

    Raises:
        ConfigError: ``threshold`` out of range.
    """
    _check_threshold(threshold)
    soft = soft_mask(logits, label=label)
    found = (soft.detach() > threshold).flatten(1).any(dim=1)
    return _selected(soft, found=found, threshold=threshold)


def select_by_clicks(
    logits: Tensor,
    *,
    clicks: Sequence[Sequence[float]],
    segments: Segments | None = None,
    tolerance_px: float = 8.0,
    threshold: float = 0.5,
) -> SelectedMask:
    """Choose the objects under positive clicks, of any label, less those under negative ones.

    Objects and soft masks as in :func:`select_by_overlap`. A click where no object is takes the
    nearest within ``tolerance_px``; farther from all, it chooses none, and if no other does,
    nothing is found.

    Args:
        logits: (1, K, H, W) of one photo.
        clicks: x, y and 1 (this) or 0 (not this), in pixels from the upper left corner.
        segments: what the segmenter saw in the photo.
        tolerance_px: how far from an object a click may miss it.
        threshold: probability above which a pixel counts as seen, in (0, 1).

    Raises:
        ConfigError: ``threshold`` out of range.
        RayfillError: logits of several photos, no positive click, one outside the photo, or one
            that is not three numbers ending in 0 or 1.
    """
    _check_threshold(threshold)
    if logits.ndim != 4 or len(logits) != 1:
        raise RayfillError(
            f"logits have shape {tuple(logits.shape)}; clicks select in (1, K, H, W). "
            "Give one photo at a time."
        )
    height, width = logits.shape[-2:]
    _check_clicks(clicks, height=height, width=width)
    probability = torch.softmax(logits, dim=1)
    maps, label_of = _all_objects(probability[0], segments, threshold)
    hit = {1: set[int](), 0: set[int]()}
    for x, y, wanted in clicks:
        hit[int(wanted)] |= _under(maps, x=x, y=y, tolerance_px=tolerance_px)
    chosen = hit[1] - hit[0]
    found = torch.tensor([bool(chosen)])
    if not chosen:
        return _selected(1 - probability[:, :1], found=found, threshold=threshold)
    others = _union((maps > 0) & ~np.isin(maps, list(chosen)))
    masks = []
    for label in sorted({label_of[number] for number in chosen}):
        mine = _union(np.isin(maps, [n for n in chosen if label_of[n] == label]))
        region = _region(_nearest(mine, others=others)[None], like=probability)
        masks.append(probability[:, label : label + 1] * region)
    return _selected(torch.stack(masks).amax(dim=0), found=found, threshold=threshold)


def straight_through(soft: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Return ``soft > threshold`` as 0 and 1, with the gradient of ``soft`` itself.

    The hole that the inpainters see is then the one that is filled, and what they say of it reaches
    the segmenter as if the hole were the soft mask.

    Args:
        soft: any shape, in [0, 1].
        threshold: in (0, 1).

    Raises:
        ConfigError: ``threshold`` out of range.

    Source: Bengio et al. 2013 (arXiv:1308.3432). Report P2 leaves open how its soft mask masks.
    """
    _check_threshold(threshold)
    hard = (soft > threshold).to(soft.dtype)
    # In this order: the difference is exactly 0, so the sum is exactly 0 or 1.
    return hard + (soft - soft.detach())


def _selected(soft: Tensor, *, found: Tensor, threshold: float) -> SelectedMask:
    found = found.to(soft.device)
    hard = (soft.detach() > threshold) & found.view(-1, 1, 1, 1)
    return SelectedMask(soft=soft, hard=hard.to(soft.dtype), found=found)


def _all_objects(
    probability: Tensor, segments: Segments | None, threshold: float
) -> tuple[Numbers, list[int]]:
    """Return the objects of all labels, numbered through, and the label of every number."""
    label_of, layers = [0], []
    for label in range(1, len(probability)):
        seen = _flags(probability[label] > threshold)
        maps = _object_maps(seen, segments, label, threshold)
        count = int(maps.max(initial=0))
        maps[maps > 0] += len(label_of) - 1
        label_of += [label] * count
        layers.append(maps)
    return np.concatenate(layers), label_of


def _object_maps(seen: Flags, segments: Segments | None, label: int, threshold: float) -> Numbers:
    """Return the objects of one label in one photo: (L, H, W) of their numbers from 1, 0 is none.

    A map for each segment, since they may overlap, or one for all regions: there may be thousands.
    """
    if segments is None:
        _, regions = cv2.connectedComponents(seen.astype(np.uint8), connectivity=8)
        return np.asarray(regions, np.int32)[None]
    masks = _flags(segments.masks[segments.labels == label] > threshold)
    masks = masks[masks.any(axis=(1, 2))]
    numbers: Numbers = np.arange(1, 1 + len(masks), dtype=np.int32)
    return masks * numbers[:, None, None]


def _nearest(chosen: Flags, *, others: Flags) -> Flags:
    """Return the pixels nearer to ``chosen`` than to the rest of ``others``, or as near."""
    others = others & ~chosen
    if not others.any():
        return np.ones_like(chosen)
    return np.asarray(_distance(chosen) <= _distance(others), np.bool_)


def _distance(mask: Flags) -> NDArray[np.int64]:
    """Return the squared distance of every pixel to the nearest one of ``mask``, not empty."""
    away = (~mask).astype(np.uint8)
    distance = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # OpenCV's last bits differ from call to call, which would decide ties; squares are integers.
    return np.asarray(np.rint(np.square(distance, dtype=np.float64)), np.int64)


def _under(maps: Numbers, *, x: float, y: float, tolerance_px: float) -> set[int]:
    """Return the objects that contain the pixel at (x, y), else the nearest one in reach."""
    column, line = math.floor(x), math.floor(y)
    within = {int(number) for number in maps[:, line, column]} - {0}
    if within:
        return within
    reach = math.floor(tolerance_px)
    top, left = max(line - reach, 0), max(column - reach, 0)
    near = maps[:, top : line + reach + 1, left : column + reach + 1]
    _, lines, columns = near.nonzero()
    if not len(lines):
        return set()
    distances = np.hypot(lines + top - line, columns + left - column)
    nearest = distances.min()
    return {int(near[near > 0][distances == nearest].min())} if nearest <= tolerance_px else set()


def _union(masks: Flags) -> Flags:
    """Return (H, W) of where any of (L, H, W) is."""
    return np.asarray(masks.any(axis=0), np.bool_)


def _flags(mask: Tensor) -> Flags:
    flags: Flags = mask.detach().cpu().numpy()
    return flags


def _region(flags: Flags, *, like: Tensor) -> Tensor:
    """Return (B, H, W) flags as (B, 1, H, W) factors of 0 and 1."""
    return torch.from_numpy(flags)[:, None].to(like)


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold < 1:
        raise ConfigError(
            [f"threshold is {threshold!r}; allowed: a number between 0 and 1. 0.5 is usual."]
        )


def _check_clicks(clicks: Sequence[Sequence[float]], *, height: int, width: int) -> None:
    how = "Give each click as [x, y, 1 or 0]: 1 marks what is to be chosen, 0 what is not."
    for click in clicks:
        if len(click) != 3 or click[2] not in (0, 1):
            raise RayfillError(f"click {list(click)} is not one. {how}")
        if not (0 <= click[0] < width and 0 <= click[1] < height):
            raise RayfillError(
                f"click {list(click)} lies outside the photo of {width}x{height} pixels. {how}"
            )
    if not any(click[2] == 1 for click in clicks):
        raise RayfillError(f"none of {len(clicks)} clicks is a positive one. {how}")
