"""Objects of one label told apart: true ones out of label maps, seen ones onto the photo."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

#: Connected regions with fewer pixels are seams between labels, not objects.
MIN_INSTANCE_PX = 16
#: How sure a detection, or its absence, can be: log odds of 4.6.
_EVIDENCE_MARGIN = 0.01


def label_instances(labels: Tensor, *, things: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the 8-connected regions of one label map as objects.

    What a map of labels can tell: objects of one label that touch are one, an object cut in two by
    another is two. Regions below 16 pixels are left out.

    Args:
        labels: (H, W) int64.
        things: the labels whose regions are objects.

    Returns:
        (N, H, W) bool and (N,) int64, on the device of ``labels``, in the order of ``things``.
    """
    values = labels.cpu().numpy()
    masks, indices = [], []
    for thing in things:
        here = (values == thing).astype(np.uint8)
        count, regions, stats, _ = cv2.connectedComponentsWithStats(here, connectivity=8)
        for region in range(1, count):
            if stats[region, cv2.CC_STAT_AREA] >= MIN_INSTANCE_PX:
                masks.append(regions == region)
                indices.append(thing)
    stacked = np.stack(masks) if masks else np.zeros((0, *values.shape), bool)
    return torch.from_numpy(stacked).to(labels.device), labels.new_tensor(indices)


def detection_target(masks: Tensor, classes: Tensor, *, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return one photo's objects as torchvision's Mask R-CNN wants them.

    Args:
        masks: (N, H, W) bool.
        classes: (N,) int64, the detector's own classes.
        size: height and width that the detector sees the photo at; objects that vanish at it are
            left out.
    """
    if masks.shape[1:] != size and len(masks):
        masks = F.interpolate(masks[:, None].float(), size=size, mode="nearest-exact")[:, 0] > 0
    kept = masks.flatten(1).any(dim=1)
    masks, classes = masks[kept], classes[kept]
    boxes = torch.zeros((len(masks), 4), device=masks.device)
    for axis, (low, high) in enumerate([(0, 2), (1, 3)]):
        # Pixels of the box's left (upper) edge and of the one behind its right (lower) edge.
        occupied = masks.any(dim=1 + axis)  # (N, W), (N, H)
        places = torch.arange(occupied.shape[1], device=masks.device)
        boxes[:, low] = torch.where(occupied, places, occupied.shape[1]).amin(dim=1)
        boxes[:, high] = torch.where(occupied, places + 1, 0).amax(dim=1)
    return {"boxes": boxes, "labels": classes, "masks": masks.to(torch.uint8)}


def paste_masks(masks: Tensor, boxes: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Return masks of boxes as masks of the photo, bilinearly, 0 outside the boxes.

    Differentiable in the masks and, unlike torchvision's own, in the boxes, which it does not round
    to whole pixels.

    Args:
        masks: (N, 28, 28) in [0, 1].
        boxes: (N, 4), x and y of the upper left and lower right corner, in pixels.
        size: the photo's height and width.

    Returns:
        (N, H, W) float32.
    """
    height, width = size
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    across = 2 * (x - low[..., 0]) / (high - low)[..., 0] - 1  # (N, W), -1 to 1 over the box
    down = 2 * (y - low[..., 1]) / (high - low)[..., 1] - 1  # (N, H)
    grid = torch.stack(
        [
            across[:, None].expand(-1, height, -1),
            down[:, :, None].expand(-1, -1, width),
        ],
        dim=-1,
    )
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]


def evidence(masks: Tensor, labels: Tensor, scores: Tensor, *, label: int) -> Tensor:
    """Return the log odds, per pixel, that the objects seen lend to ``label``, (H, W).

    ``log(e / (1 - e))`` with ``e = 0.01 + 0.98 * max(score * mask)`` over the objects of that
    label: from -4.6 where none is seen to 4.6, never flat, so that a gradient always passes.

    Args:
        masks: (N, H, W) in [0, 1].
        labels: (N,) int64.
        scores: (N,) in [0, 1].
        label: whose objects count.
    """
    of_label = labels == label
    weighted = masks[of_label] * scores[of_label, None, None]
    nothing = masks.new_zeros((1, *masks.shape[1:]))
    likely = torch.cat([weighted, nothing]).amax(dim=0)
    return torch.logit(_EVIDENCE_MARGIN + (1 - 2 * _EVIDENCE_MARGIN) * likely)
