"""A batch on the training device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from rayfill.models.segmentation.base import IGNORED
from rayfill_data.prepared.batches import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorBatch:
    """A batch on the training device; the contract of :class:`.Batch`."""

    image: Tensor  # (B, 3, H, W), [0, 1]
    target: Tensor  # (B, 3, H, W), [0, 1]
    hole_mask: Tensor  # (B, 1, H, W), 0 or 1
    sample_id: tuple[str, ...]
    labels: Tensor | None = None  # (B, H, W) int64, of the image
    target_labels: Tensor | None = None  # (B, H, W) int64, of the target
    signed_distance: Tensor | None = None  # (B, 1, H, W), [-1, 1], of hole_mask

    @property
    def object_mask(self) -> Tensor:
        """The holes that hold an object, ``(B, 1, H, W)``; others are empty.

        A hole drawn at random over a photo has nothing in it that a segmenter could find.
        """
        if self.labels is None:
            return self.hole_mask
        named = (self.labels != 0) & (self.labels != IGNORED)  # label 0 is "nothing"
        inside = (named[:, None] * self.hole_mask).flatten(1).any(dim=1)
        return self.hole_mask * inside.view(-1, 1, 1, 1)


def to_device(batch: Batch, *, device: torch.device) -> TensorBatch:
    """Return a numpy batch as tensors on ``device``."""

    def move(array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.as_tensor(array)
        if device.type == "cuda":
            return tensor.pin_memory().to(device, non_blocking=True)
        return tensor

    return TensorBatch(
        image=move(batch.image),
        target=move(batch.target),
        hole_mask=move(batch.hole_mask),
        sample_id=batch.sample_id,
        labels=_optional(move, batch.labels),
        target_labels=_optional(move, batch.target_labels),
        signed_distance=_optional(move, batch.signed_distance),
    )


def _optional(
    move: Callable[[NDArray[Any]], torch.Tensor], array: NDArray[Any] | None
) -> torch.Tensor | None:
    return None if array is None else move(array)
