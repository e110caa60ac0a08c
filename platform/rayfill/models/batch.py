"""A batch on the training device."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from rayfill.models.segmentation.base import IGNORED


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorBatch:
    """A batch on the training device; the tensor contract of ``rayfill_data.batches.Batch``."""

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
